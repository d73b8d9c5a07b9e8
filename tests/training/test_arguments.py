"""What trainers share: the published schedules, options, presets, checkpoints and errors."""

import json
import subprocess
import sys
from dataclasses import dataclass, field

import pytest
import torch
from transformers import TrainerCallback

from bioscan_hf.training.arguments import (
    BarcodeTrainingArguments,
    check_processes,
    read_options,
    scaled_learning_rate,
)
from bioscan_hf.training.checkpoints import clear_output, describe_run, find_checkpoint
from bioscan_hf.training.run import STARTED, run_program
from bioscan_hf.training.trainer import BarcodeTrainer, steps_per_epoch


class Line(torch.nn.Module):
    """A model of one weight and one layer norm."""

    def __init__(self):
        super().__init__()
        self.line = torch.nn.Linear(1, 1, bias=False)
        self.norm = torch.nn.LayerNorm(1)

    def forward(self, x, labels=None):
        return {"loss": self.norm(self.line(x)).mean() + self.line(x).square().mean()}


def trainer(folder, rows=20, **options):
    """A Trainer of `Line` over `rows` numbers."""
    options = {"per_device_train_batch_size": 2, "num_train_epochs": 1, "similar_lengths": False} | options
    args = BarcodeTrainingArguments(
        output_dir=str(folder), use_cpu=True, disable_tqdm=True, eval_strategy="no", save_strategy="no", **options
    )
    return BarcodeTrainer(model=Line(), args=args, train_dataset=[{"x": torch.ones(1)} for _ in range(rows)])


class Recorder(TrainerCallback):
    """Records learning rate and beta1 of each step."""

    def __init__(self):
        self.learning_rates, self.beta1 = [], []

    def on_pre_optimizer_step(self, args, state, control, optimizer, **kwargs):
        self.learning_rates.append(optimizer.param_groups[0]["lr"])
        self.beta1.append(optimizer.param_groups[0]["betas"][0])


def test_onecycle_is_the_published_schedule(reference, tmp_path):
    """35 epochs of 10 steps through the Trainer: learning rate and beta1 of each step equal the published ones."""
    expected = reference.json("barcodebert/onecycle_35x10.json")
    recorder = Recorder()
    own = trainer(tmp_path, schedule="onecycle", learning_rate=expected["max_lr"], num_train_epochs=35)
    own.add_callback(recorder)
    own.train()
    assert len(recorder.learning_rates) == 350
    assert recorder.learning_rates == expected["lr"][:350]
    assert recorder.beta1 == expected["beta1"][:350]
    assert (max(recorder.beta1), min(recorder.beta1)) == (0.95, pytest.approx(0.85, abs=1e-3))


def test_epoch_warmup_is_the_schedule_of_2023(tmp_path):
    """LinearLR from 0.1 over 5 epochs, by epochs: 0.1, 0.28, 0.46, 0.64, 0.82, then 1; 10 steps an epoch."""
    recorder = Recorder()
    own = trainer(tmp_path, schedule="epoch-warmup", learning_rate=1.0, num_train_epochs=7)
    own.add_callback(recorder)
    own.train()
    factors = [0.1, 0.28, 0.46, 0.64, 0.82, 1.0, 1.0]
    assert recorder.learning_rates == pytest.approx([factor for factor in factors for _ in range(10)])


@pytest.mark.parametrize(
    ("rows", "options", "expected"),
    [
        (20, {}, 10),
        (21, {}, 11),
        (21, {"dataloader_drop_last": True}, 10),
        (21, {"gradient_accumulation_steps": 4}, 3),
    ],
)
def test_steps_per_epoch_are_those_of_the_trainer(tmp_path, rows, options, expected):
    """21 rows in batches of 2: 11, the last of one row; 11 batches in fours: 3 steps."""
    own = trainer(tmp_path, rows, **options)
    assert steps_per_epoch(rows, own.args) == expected
    assert own.train().global_step == expected


def test_weight_decay_of_all_parameters(tmp_path):
    names = {"line.weight", "norm.weight", "norm.bias"}
    assert set(trainer(tmp_path, decay_all_parameters=True).get_decay_parameter_names(Line())) == names
    assert set(trainer(tmp_path).get_decay_parameter_names(Line())) == {"line.weight"}


def test_the_learning_rate_is_scaled(tmp_path):
    """1e-4 for 64 rows: a batch of 16 in 2 accumulated steps is half of that."""
    options = {"output_dir": str(tmp_path), "use_cpu": True, "learning_rate": 1e-4, "per_device_train_batch_size": 16}
    options["gradient_accumulation_steps"] = 2
    assert scaled_learning_rate(BarcodeTrainingArguments(**options, scale_learning_rate=True)) == 5e-5
    assert scaled_learning_rate(BarcodeTrainingArguments(**options)) == 1e-4


def test_an_unknown_schedule_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Unknown schedule 'cosine'. Choose one of onecycle, epoch-warmup, trainer"):
        BarcodeTrainingArguments(output_dir=str(tmp_path), schedule="cosine")


@dataclass
class Options:
    source: str = field(metadata={"help": "."})
    preset: str = field(default="none", metadata={"help": "."})
    size: int = field(default=1, metadata={"help": "."})
    flag: bool = field(default=True, metadata={"help": "."})
    force: bool = field(default=False, metadata={"help": "."})


PRESETS = {"big": {"size": 9, "flag": False}}


def test_a_preset_sets_options_that_are_not_given(tmp_path):
    path = tmp_path / "options.yaml"
    path.write_text("source: a\npreset: big\nsize: 3\n")
    cases = {
        ("--source", "a"): (1, True),
        ("--source", "a", "--preset", "big"): (9, False),
        ("--source", "a", "--size", "3", "--preset=big"): (3, False),
        ("--preset", "big", "--source", "a", "--flag", "true"): (9, True),
        ("--preset", "none", "--source", "a"): (1, True),
        (str(path),): (3, False),
    }
    for given, expected in cases.items():
        (options,) = read_options(given, (Options,), PRESETS)
        assert (options.size, options.flag) == expected, given
    with pytest.raises(ValueError, match="Unknown preset 'bigger'. Choose one of big, none"):
        read_options(("--source", "a", "--preset", "bigger"), (Options,), PRESETS)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--source", "a", "--sise", "3"], "Unknown option --sise. Did you mean --size"),
        (["--source", "a", "--sise=3"], "Unknown option --sise. Did you mean --size"),
        (["--source", "a", "b"], "'b' belongs to no option"),
        (["--source", "a", "--size", "many"], "--size: invalid int value: 'many'. --help lists"),
        (["--size", "3"], "Give --source"),
    ],
)
def test_wrong_options_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        read_options(given, (Options,))


def test_an_error_before_training_is_one_line_on_the_main_process(monkeypatch, capsys):
    """An error after the start of training keeps its traceback in every process."""

    def fails(*notes):
        error = ValueError("--k is 0.\nGive 1 or more.")
        for note in notes:
            error.add_note(note)
        raise error

    for rank, expected in (("0", "--k is 0. Give 1 or more.\n"), ("1", "")):
        monkeypatch.setenv("LOCAL_RANK", rank)
        with pytest.raises(SystemExit) as stopped:
            run_program(fails)
        assert stopped.value.code == 1 and capsys.readouterr().err.endswith(expected)
    with pytest.raises(ValueError, match="--k is 0"):
        run_program(lambda: fails(STARTED))


def test_separate_processes_are_refused(tmp_path, monkeypatch):
    """A launch on CPU without ACCELERATE_USE_CPU: each process believes to be the only one."""
    args = BarcodeTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    check_processes(args.world_size)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"2 processes were launched .* sees 1.* ACCELERATE_USE_CPU=yes"):
        check_processes(args.world_size)


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2])
def test_a_launch_that_starts_one_process_of_several_is_told(tmp_path, number):
    """`accelerate launch --cpu` starts one."""
    script = tmp_path / "x.py"
    script.write_text("from bioscan_hf.training.arguments import check_processes\ncheck_processes(1)\n")
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        str(number),
        str(script),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and ("accelerate has started one process" in done.stderr) == (number > 1)


def test_a_run_resumes_from_the_last_complete_checkpoint(tmp_path):
    """It must be of the same run; the source and the preset's name may differ."""
    args = BarcodeTrainingArguments(output_dir=str(tmp_path / "other"), use_cpu=True)
    run = describe_run(Options(source="a"), args)
    expected = {"size": 1, "flag": True, "seed": 42, "global_batch_size": 64, "optim": "adamw_torch_fused"}
    assert expected.items() <= run.items() and {"source", "preset"}.isdisjoint(run)
    assert json.loads(json.dumps(run)) == run
    folder = tmp_path / "run"

    def find(resume, force=False, run=run):
        return find_checkpoint(folder, resume, force, "run.json", run)

    assert find(None) is None and find("last") is None
    for step in (9, 10, 11):
        (folder / f"checkpoint-{step}").mkdir(parents=True)
        if step < 11:  # the last was not completed
            (folder / f"checkpoint-{step}/run.json").write_text(json.dumps(run))
    assert find("last") == find("true") == folder / "checkpoint-10"
    assert find(str(folder / "checkpoint-9")) == folder / "checkpoint-9"
    assert find(None, force=True) is None
    with pytest.raises(FileExistsError, match="not empty .*--resume_from_checkpoint last"):
        find(None)
    with pytest.raises(FileNotFoundError, match="not a complete checkpoint .* --resume_from_checkpoint last"):
        find(str(folder / "checkpoint-11"))
    with pytest.raises(ValueError, match="another run: size was 1 and is 2"):
        find("last", run=run | {"size": 2})
    with pytest.raises(ValueError, match="exclude each other"):
        find("last", force=True)
    for name in ("kept.txt", "results.json"):
        (folder / name).write_text("{}")
    clear_output(folder, "run.json", everything=False)
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-10", "checkpoint-9", "kept.txt"]
    clear_output(folder, "run.json", everything=True)
    assert [path.name for path in folder.iterdir()] == ["kept.txt"]
    assert find("last") is None, "nothing complete is there: the run starts from the beginning"
    (folder / "results.json").write_text("{}")
    with pytest.raises(ValueError, match="results of a run with other options, and no checkpoint"):
        find("last")


@pytest.mark.parametrize(
    ("schedule", "changed", "message"),
    [
        ({"schedule": "onecycle"}, {"num_train_epochs": 40.0}, "cannot be extended or shortened"),
        ({"schedule": "onecycle"}, {"max_steps": 9}, "max_steps was -1 and is 9"),
        ({"lr_scheduler_type": "cosine"}, {"num_train_epochs": 40.0}, "cannot be extended or shortened"),
        ({"lr_scheduler_type": "constant"}, {"num_train_epochs": 40.0}, "cannot be extended"),  # 30 % are warm-up
        ({"lr_scheduler_type": "constant", "warmup_steps": 0}, {"num_train_epochs": 40.0}, None),
        ({"lr_scheduler_type": "constant", "warmup_steps": 0}, {"num_train_epochs": 4.0}, "cannot be extended"),
        ({"schedule": "epoch-warmup"}, {"num_train_epochs": 40.0}, None),
        ({}, {"learning_rate": 1e-3}, "learning_rate was 0.0001 and is 0.001.*Restore these options, or start a new"),
        ({}, {"weight_decay": 0.1, "optim": "sgd"}, "optim was 'adamw_torch_fused' and is 'sgd'; weight_decay was"),
        ({}, {"bf16": True}, "bf16 was False and is True"),
        ({}, {"seed": 1}, "seed was 42 and is 1"),
        ({}, {"per_device_train_batch_size": 32, "gradient_accumulation_steps": 2}, None),
        ({}, {"per_device_train_batch_size": 32}, "global_batch_size was 64 and is 32"),
    ],
    ids=str,
)
def test_a_resumed_run_has_the_same_hyper_parameters(tmp_path, schedule, changed, message):
    """Its results state one set of them. Only a run whose learning rate does not follow from its length may grow."""

    def run(**options):
        return describe_run(Options(source="a"), BarcodeTrainingArguments(str(tmp_path), use_cpu=True, **options))

    folder = tmp_path / "checkpoint-1"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(run(**schedule)))
    again = run(**schedule | changed)
    if message is None:
        assert find_checkpoint(tmp_path, "last", False, "run.json", again) == folder
    else:
        with pytest.raises(ValueError, match=message):
            find_checkpoint(tmp_path, "last", False, "run.json", again)
