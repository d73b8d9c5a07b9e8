"""Runs of any trainer: killed and requeued, finished, published, and refused; here with small pretrainings."""

import json
import random
import shutil
from types import SimpleNamespace

import minihub
import numpy as np
import pytest
import torch
from clibd_runs import arguments
from safetensors.torch import load_file
from training_runs import as_flags, divide, history, losses, results_of, start, weights, write_csv
from transformers import EvalPrediction

from bioscan_hf.files import file_hash
from bioscan_hf.trainers import pretrain_barcodebert as program
from bioscan_hf.trainers import train_clibd as clibd
from bioscan_hf.training import checks, trainer
from bioscan_hf.training.arguments import BarcodeTrainingArguments
from bioscan_hf.training.pretraining import PretrainingOptions

OPTIONS = {"k": 2, "max_nucleotides": 20, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
OPTIONS |= {"num_attention_heads": 1, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "schedule": "onecycle"}
OPTIONS |= {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 1, "eval_strategy": "no"}
OPTIONS |= {"use_cpu": True, "disable_tqdm": True, "logging_steps": 1, "train_split": "train"}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A metadata CSV: 16 barcodes in train, 4 in val."""
    draw = random.Random(0)
    rows = [
        {
            "processid": f"P{i}",
            "dna_barcode": "".join(draw.choices("ACGT", k=20)),
            "split": "val" if i > 15 else "train",
        }
        for i in range(20)
    ]
    return write_csv(tmp_path_factory.mktemp("data") / "metadata.csv", rows)


def run(source, folder, **options):
    """The results of a run."""
    given = OPTIONS | {"source": str(source), "output_dir": str(folder)} | options
    return program.main(*divide((PretrainingOptions, BarcodeTrainingArguments), given))


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(source, folder)
    return folder


# ---- killed, requeued, finished -------------------------------------------------------------------------------------


class Killed(BaseException):
    """Ends a run as a signal would: nothing that handles errors sees it."""


def killed_at(function, times):
    """The function, but its nth call kills the run."""
    calls = []

    def called(*args, **kwargs):
        calls.append(args)
        if len(calls) == times:
            raise Killed
        return function(*args, **kwargs)

    return called


@pytest.mark.slow
def test_a_run_that_is_killed_and_requeued_ends_with_the_same_model(source, whole, tmp_path, monkeypatch):
    """Every start has the same command. With one checkpoint kept, the old one is deleted when the new one is complete.

    Killed before the first checkpoint, in it, before the second is complete, after it, and before the results.
    """
    folder = tmp_path / "run"
    kills = [
        (trainer.BarcodeTrainer, "training_step", 2, []),
        (trainer.BarcodeTrainer, "_save_optimizer_and_scheduler", 1, []),
        (trainer, "write_json", 2, ["checkpoint-2"]),
        (trainer.BarcodeTrainer, "training_step", 3, ["checkpoint-4"]),
        (trainer.BarcodeTrainer, "save_state", 1, ["checkpoint-6"]),
    ]
    for owner, name, times, complete in kills:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(owner, name, killed_at(getattr(owner, name), times))
            run(source, folder, resume_from_checkpoint="last")
        assert [path.parent.name for path in folder.glob(f"checkpoint-*/{program.RUN_FILE}")] == complete
        assert not (folder / "results.json").exists()
    with pytest.raises(FileExistsError, match="not empty .*--resume_from_checkpoint last"):
        run(source, folder)
    results = run(source, folder, resume_from_checkpoint="last")
    assert file_hash(folder / "model.safetensors") == file_hash(whole / "model.safetensors")
    assert results["model"]["sha256"] == results_of(whole)["model"]["sha256"] and results["steps"] == 6
    assert history(folder) == history(whole) and len(set(losses(whole))) == 6
    assert not list(folder.rglob("training_args.bin")), "a pickle with the names of folders"


def test_a_finished_run_is_not_trained_again(source, whole, tmp_path, caplog):
    """The same command again gives the results and changes nothing; other options are refused."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    caplog.set_level("INFO")
    assert run(source, folder, resume_from_checkpoint="last") == results_of(whole)
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert "is finished: 6 steps" in caplog.text
    for changed in ({"max_steps": 9}, {"learning_rate": 1e-3}, {"mask_ratio": 0.2}):
        with pytest.raises(ValueError, match=f"another run: {next(iter(changed))} was .* new run in another"):
            run(source, folder, resume_from_checkpoint="last", **changed)
    shutil.rmtree(folder / "checkpoint-6")
    with pytest.raises(ValueError, match="results of a run with other options, and no checkpoint"):
        run(source, folder, resume_from_checkpoint="last", mask_ratio=0.2)


def test_workers_that_persist_change_nothing_in_a_resumed_run(source, tmp_path):
    """Resumed within a pass of 4 steps, and at its end, with dropout and validations: the same weights in the end.

    Workers that persist are started once, so a resumed run starts them where the whole run does not.
    """
    options = {"dataloader_num_workers": 1, "dataloader_persistent_workers": True, "eval_strategy": "steps"}
    options |= {"eval_steps": 4, "max_steps": 10, "save_total_limit": 9, "dropout": 0.5}
    run(source, tmp_path / "whole", **options)
    for step in (2, 4):
        checkpoint = str(tmp_path / f"whole/checkpoint-{step}")
        run(source, tmp_path / f"from {step}", resume_from_checkpoint=checkpoint, **options)
        assert history(tmp_path / f"from {step}") == history(tmp_path / "whole"), step
        hashes = {file_hash(tmp_path / name / "model.safetensors") for name in ("whole", f"from {step}")}
        assert len(hashes) == 1, step


def test_a_run_with_a_constant_learning_rate_can_be_extended(source, tmp_path):
    """Six steps, and then up to nine, are nine steps."""
    constant = {"schedule": "trainer", "lr_scheduler_type": "constant", "warmup_steps": 0}
    run(source, tmp_path / "whole", max_steps=9, **constant)
    run(source, tmp_path / "grown", **constant)
    assert run(source, tmp_path / "grown", max_steps=9, resume_from_checkpoint="last", **constant)["steps"] == 9
    assert losses(tmp_path / "grown") == losses(tmp_path / "whole")
    names = [file_hash(tmp_path / name / "model.safetensors") for name in ("whole", "grown")]
    assert names[0] == names[1]


def test_evaluation_in_bfloat16_leaves_the_weights_as_trained(source, whole, tmp_path):
    """--bf16_full_eval casts the model; it is saved before."""
    results = run(source, tmp_path / "run", bf16_full_eval=True)
    assert (results["precision"], results["precision_of_evaluation"]) == ("fp32", "bf16")
    assert "precision_of_evaluation" not in results_of(whole)
    for name, value in weights(whole).items():
        assert torch.equal(weights(tmp_path / "run")[name], value), name


def test_a_step_without_a_masked_kmer_costs_nothing(source, tmp_path):
    """Barcodes of two k-mers, of which 5 % are masked: most steps have no label, and none has a loss that is NaN."""
    options = {"mask_ratio": 0.05, "max_nucleotides": 4, "per_device_train_batch_size": 1, "validation_split": "none"}
    run(source, tmp_path / "run", save_strategy="no", max_steps=12, **options)
    assert 0.0 in losses(tmp_path / "run")
    assert all(value.isfinite().all() for value in weights(tmp_path / "run").values())


def test_validation_metrics_of_300000_barcodes_have_all_digits():
    """24 million masked k-mers, of which 95 % are right; each costs 0.1 nats. In float32, 70 % would be right."""
    barcode = np.full((1, 80, 2), [1.0, 0.1], np.float32)
    barcode[:, ::20, 0] = 0
    scores, labels = np.broadcast_to(barcode, (300_000, 80, 2)), np.broadcast_to(np.int64(5), (300_000, 80))
    found = program.summarize_kmers(EvalPrediction(scores, labels), "masked")
    assert found == {"masked_accuracy": 0.95, "masked_loss": pytest.approx(0.1, rel=1e-6)}


def test_the_log_has_samples_per_second(whole):
    logged = json.loads((whole / "trainer_state.json").read_text())["log_history"]
    found = [entry["samples_per_second"] for entry in logged if "loss" in entry and entry["step"] > 1]
    assert len(found) == 5 and min(found) > 0


def test_each_process_has_its_own_dropout(monkeypatch):
    """The order of the rows is drawn before, and is the same in every process; process 0 goes on as alone."""
    drawn = []
    for rank in range(3):
        torch.manual_seed(42)
        trainer.EpochCallback().on_train_begin(SimpleNamespace(seed=42, process_index=rank), None, None)
        drawn.append(torch.rand(1).item())
    torch.manual_seed(42)
    assert len(set(drawn)) == 3 and drawn[0] == torch.rand(1).item()


def test_a_run_that_diverges_is_an_error(source, tmp_path):
    """The Trainer logs other losses in place of NaN, so the results would not show it."""
    options = {"learning_rate": 1e30, "max_steps": 6, "logging_steps": 2, "save_strategy": "steps", "save_steps": 1}
    with pytest.raises(ValueError, match=r"diverged: at step \d, weights are NaN .* --learning_rate \(now 1e\+30\)"):
        run(source, tmp_path / "run", **options)
    for path in tmp_path.rglob("model.safetensors"):  # no later checkpoint either
        assert all(weight.isfinite().all() for weight in load_file(path).values())
    assert not (tmp_path / "run/results.json").exists()


# ---- refused --------------------------------------------------------------------------------------------------------

REFUSED = [
    ({"prediction_loss_only": True}, "--prediction_loss_only is True, which is not supported: a validation without"),
    ({"eval_do_concat_batches": False}, "--eval_do_concat_batches is False, which is not supported"),
    ({"batch_eval_metrics": True}, "--batch_eval_metrics"),
    ({"save_only_model": True}, "--save_only_model is True.* cannot be resumed"),
    ({"auto_find_batch_size": True}, "--auto_find_batch_size .*Find it with --max_steps 2"),
    ({"label_smoothing_factor": 0.1}, "--label_smoothing_factor is 0.1"),
    ({"average_tokens_across_devices": False}, "--average_tokens_across_devices is False"),
    ({"remove_unused_columns": True}, "--remove_unused_columns"),
    ({"label_names": ["species"]}, r"--label_names is \['species'\]"),
    ({"train_sampling_strategy": "group_by_length"}, "--train_sampling_strategy .*--similar_lengths True"),
    ({"fp16": True}, "--fp16 needs a GPU"),
    ({"accelerator_config": {"split_batches": True}}, "--accelerator_config has split_batches"),
    ({"load_best_model_at_end": True, "save_strategy": "no"}, "--load_best_model_at_end .* choose by validation"),
    ({"save_strategy": "best", "eval_strategy": "steps"}, "--save_strategy best needs --metric_for_best_model"),
    (
        {"report_to": "tensorbord"},
        "--report_to is 'tensorbord'. Choose among none, all, .*tensorboard, trackio, wandb",
    ),
    ({"optim": "adamw_bnb_8bit"}, "--optim .*adamw_bnb_8bit.* cannot be used"),
    ({"per_device_train_batch_size": 0}, "--per_device_train_batch_size is 0; give 1 or more"),
    ({"per_device_eval_batch_size": -1}, "--per_device_eval_batch_size is -1; give 1 or more"),
    ({"gradient_accumulation_steps": -2}, "--gradient_accumulation_steps is -2; give 1 or more"),
    ({"num_train_epochs": -1}, "--num_train_epochs is -1; give 0 or more"),
    ({"learning_rate": float("nan")}, "--learning_rate is nan; give 0 or more"),
    ({"weight_decay": float("inf")}, "--weight_decay is inf; give 0 or more"),
    ({"dataloader_num_workers": -1}, "--dataloader_num_workers is -1; give 0 or more"),
    ({"max_steps": 0}, "--max_steps is 0; give 1 or more, or leave it out"),
    ({"save_strategy": "steps", "save_steps": 0}, "--save_steps is 0; give 1 or more, or --save_strategy no"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=[next(iter(options)) for options, _ in REFUSED])
def test_options_that_would_fail_later_are_refused_before_the_data_are_read(tmp_path, options, message):
    with pytest.raises((ValueError, ImportError), match=message):
        run("no/such/source", tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("tracker", ["tensorboard", "trackio", "wandb"])
def test_a_tracker_whose_package_is_missing_is_named(tmp_path, monkeypatch, tracker):
    """The package may be installed here, so transformers is told that none is."""
    monkeypatch.setattr(checks, "get_available_reporting_integrations", list)
    with pytest.raises(ImportError, match=f"--report_to {tracker} needs a package .* pip install {tracker}.$"):
        run("no/such/source", tmp_path / "run", report_to=tracker)
    assert not (tmp_path / "run").exists()


def test_a_tracker_is_told_rate_and_temperature(dataset, model, tmp_path):
    """tensorboard: the loss, the temperature and the rate of each logged step."""
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    clibd.main(*arguments(dataset, model, tmp_path / "run", max_steps=3, report_to="tensorboard"))
    (file,) = (tmp_path / "run").rglob("events.out.tfevents*")
    found = events.EventAccumulator(str(file.parent)).Reload()
    logged = {
        name: {event.step: event.value for event in found.Scalars(f"train/{name}")}
        for name in ("loss", "temperature", "samples_per_second")
    }
    steps = json.loads((tmp_path / "run/trainer_state.json").read_text())["log_history"]
    for name in logged:
        expected = {entry["step"]: entry[name] for entry in steps if name in entry}
        assert logged[name] == pytest.approx(expected) and len(expected) >= 2, name


# ---- the Hub --------------------------------------------------------------------------------------------------------

PUSHES = """
import json, sys
from bioscan_hf.trainers import pretrain_barcodebert as program
from bioscan_hf.trainers import train_clibd as clibd
for flags in json.loads(sys.argv.pop()):
    sys.argv[1:] = flags
    program.main(*program.parse(flags))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("", "tester/new: not logged in. Log in by `hf auth login`, or set HF_TOKEN."),
        ("hf_wrong", "tester/new: the Hub refused the token (401): it is wrong or has expired."),
        (None, "No connection to the Hub at http://127.0.0.1:9 for tester/new"),
    ],
)
def test_a_push_that_the_hub_refuses_is_one_line_before_training(source, tmp_path, token, message):
    """Also without a Hub (None)."""
    given = OPTIONS | {"source": str(source), "output_dir": str(tmp_path / "run"), "push_to_hub": True}
    flags = as_flags(given | {"hub_model_id": "tester/new"})
    with minihub.serve() as hub:
        environment = minihub.environment(hub, tmp_path / "home") | {"HF_TOKEN": token or ""}
        environment |= {"HF_ENDPOINT": "http://127.0.0.1:9"} if token is None else {}
        done = start(["-m", "bioscan_hf.trainers.pretrain_barcodebert", *flags], **environment)
    assert done.returncode == 1 and "Traceback" not in done.stderr and message in done.stderr.splitlines()[-1]
    assert not (tmp_path / "run/results.json").exists()


#: Strategy, how the token is given, and the folders in the repository.
STRATEGIES = {
    "end": ("two parts", {""}),
    "every_save": ("one part", {""}),
    "checkpoint": ("file", {"", "last-checkpoint/"}),
    "all_checkpoints": ("two parts", {"", "checkpoint-2/", "checkpoint-4/", "checkpoint-6/"}),
}


@pytest.mark.slow
def test_every_commit_of_a_push_is_a_usable_model_without_pickles_and_secrets(source, tmp_path):
    """Each strategy: weights, config, code and tokenizer in every commit, the results and the card in the last one."""
    runs = []
    for strategy, (how, _) in STRATEGIES.items():
        given = OPTIONS | {"source": str(source), "output_dir": str(tmp_path / strategy), "push_to_hub": True}
        given |= {"hub_strategy": strategy, "hub_model_id": f"{minihub.USER}/{strategy}", "hub_always_push": True}
        token = {"two parts": ["--hub_token", minihub.TOKEN], "one part": [f"--hub_token={minihub.TOKEN}"]}
        runs.append(as_flags(given) + token.get(how, []))
        if how == "file":
            path = tmp_path / "options.yaml"
            path.write_text(json.dumps(given | {"hub_token": minihub.TOKEN}))  # JSON is YAML
            runs[-1] = [str(path)]
    runs.append([*runs[1], "--resume_from_checkpoint", "last"])  # finished: pushed again
    with minihub.serve() as hub:
        environment = minihub.environment(hub, tmp_path / "home") | {"HF_TOKEN": ""}
        done = start(["-c", PUSHES, json.dumps(runs)], **environment)
        assert done.returncode == 0, done.stderr[-3000:]
        assert minihub.TOKEN not in done.stdout + done.stderr
        for strategy, (_, places) in STRATEGIES.items():
            repo = hub.repos[f"{minihub.USER}/{strategy}"]
            commits = [hub.files(f"{minihub.USER}/{strategy}", commit) for commit in repo.commits]
            written = [files for files in commits if "model.safetensors" in files]
            assert len(written) == {"end": 1, "every_save": 5}.get(strategy, 4), strategy
            for files in written:
                check_pushed(files, str(tmp_path))
            assert {
                name.removesuffix("config.json") for name in written[-1] if name.endswith("/config.json")
            } == places - {""}
            assert "results.json" in written[-1] and b"Training in progress" not in written[-1]["README.md"]
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or path.suffix == ".yaml" or minihub.TOKEN.encode() not in path.read_bytes(), path
    assert not list(tmp_path.glob("*/.push-*"))


def check_pushed(files, folder):
    needed = {"model.safetensors", "config.json", "tokenizer.json", "modeling_barcodebert.py", "README.md"}
    assert needed <= files.keys()
    for name, content in files.items():
        assert not name.endswith((".bin", ".pt", ".pth", ".pkl")) and not content.startswith(b"PK"), name
        assert folder.encode() not in content and minihub.TOKEN.encode() not in content, name
