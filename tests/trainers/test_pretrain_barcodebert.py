"""Pretraining: it learns, steps do not depend on processes, and a killed run resumes exactly.

The runs are tiny: 96 barcodes of 60 nucleotides with a common ancestor, and a model of one layer.
"""

import json
import math
import random
import shutil

import pyarrow.parquet as pq
import pytest
import torch
from training_runs import (
    RUN,
    SGD,
    TINY,
    as_flags,
    divide,
    history,
    kill,
    launch,
    launch_nodes,
    losses,
    results_of,
    same_state,
    same_steps,
    same_weights,
    weights,
    write_csv,
)
from transformers import AutoTokenizer

from bioscan_hf.dataset.build import build
from bioscan_hf.models.barcode_heads import weighted_loss
from bioscan_hf.models.modeling_barcodebert import BarcodeBertForMaskedLM
from bioscan_hf.models.modeling_barcodemamba import BarcodeMambaForMaskedLM
from bioscan_hf.models.tokenization_kmer import KmerTokenizer
from bioscan_hf.trainers import pretrain_barcodebert as program
from bioscan_hf.training.arguments import BarcodeTrainingArguments
from bioscan_hf.training.presets import PRESETS
from bioscan_hf.training.pretraining import PretrainingOptions, check_options
from bioscan_hf.training.run import begin_run

RESUMED = {"max_steps": 8, "per_device_train_batch_size": 24, "save_strategy": "steps", "save_steps": 2}
RESUMED |= {"eval_strategy": "steps", "eval_steps": 2, "learning_rate": 1e-2, "schedule": "onecycle"}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A metadata CSV: 64 barcodes in pretrain, 32 in val."""
    draw = random.Random(0)
    ancestor = "".join(draw.choices("ACGT", k=60))
    rows = []
    for i in range(96):
        barcode = "".join(draw.choice("ACGT") if draw.random() < 0.1 else letter for letter in ancestor)
        split = "pretrain" if i < 64 else "val"
        rows.append({"processid": f"P{i}", "dna_barcode": barcode, "split": split, "phylum": "Arthropoda"})
    return write_csv(tmp_path_factory.mktemp("data") / "metadata.csv", rows)


def given(source, folder, **options):
    return TINY | RUN | {"source": str(source), "output_dir": str(folder)} | options


def arguments(source, folder, **options):
    """What `program.main` takes. `options` belong to either of its two arguments."""
    return divide((PretrainingOptions, BarcodeTrainingArguments), given(source, folder, **options))


def flags(source, folder, **options):
    return as_flags(given(source, folder, **options))


def test_a_run_learns_and_writes_model_and_results(source, tmp_path):
    """A k-mer of 64 costs ln 64 = 4.16 nats by guessing; the ancestor's one is right in 0.9**3 = 73 % of the cases."""
    folder = tmp_path / "run"
    results = program.main(*arguments(source, folder, max_steps=60, learning_rate=1e-2, save_strategy="no"))
    assert json.loads((folder / "results.json").read_text()) == results
    assert (results["task"], results["processes"], results["steps"]) == ("barcodebert/pretrain", 1, 60)
    assert (results["dataset"], results["splits"]) == (source.name, {"pretrain": 64, "val": 32})
    card = (folder / "README.md").read_text()
    assert f"| validation_masked_loss_nats | {results['metrics']['validation_masked_loss_nats']:.4f} |" in card
    assert [step for step, _ in results["loss_curve"]] == list(range(1, 61))
    assert results["loss_curve"][0][1] == pytest.approx(4.16, abs=0.2)
    assert results["metrics"]["train_loss_nats"] < 3
    assert results["metrics"]["validation_masked_loss_nats"] < 3
    assert results["metrics"]["validation_masked_accuracy"] > 0.3

    model = BarcodeBertForMaskedLM.from_pretrained(folder)
    assert (model.config.k, model.config.pad_token_id, model.config.max_tokens) == (3, 0, 20)
    assert not model.bert.embeddings.word_embeddings.weight[0].any()
    barcode = "ACGTACGTACGA"
    expected = KmerTokenizer(k=3, max_nucleotides=60)(barcode)["input_ids"]
    assert KmerTokenizer.from_pretrained(folder)(barcode)["input_ids"] == expected
    plain = AutoTokenizer.from_pretrained(folder)(barcode, padding="max_length", truncation=True)
    assert plain["input_ids"] == expected


def test_validation_does_not_depend_on_the_batch_size(source, tmp_path):
    """With a learning rate of zero, each epoch ends with the same loss and accuracy, whatever the batch size."""
    found = []
    for size in (32, 5):
        options = {"learning_rate": 0.0, "max_steps": 3, "per_device_train_batch_size": 64}
        folder = tmp_path / str(size)
        program.main(*arguments(source, folder, per_device_eval_batch_size=size, save_strategy="no", **options))
        evaluations = [entry for entry in history(folder) if "eval_masked_loss" in entry]
        assert len(evaluations) >= 3
        found += [(entry["eval_masked_loss"], entry["eval_masked_accuracy"]) for entry in evaluations]
    for loss, accuracy in found:
        assert (loss, accuracy) == (pytest.approx(found[0][0], abs=1e-6), pytest.approx(found[0][1]))


@pytest.mark.slow
@pytest.mark.parametrize("loss", [{}, {"loss_on": "weighted", "masked_loss_weight": 0.7}], ids=["masked", "weighted"])
def test_steps_are_the_same_for_one_process_two_and_accumulation(source, tmp_path, loss):
    """The same losses, gradients and weights; the two processes of "masked" are on two nodes with a common cache.

    The parts of a batch hold different numbers of masked and of visible k-mers, so a mean of their means would differ.
    """
    options = SGD | loss | {"dropout": 0.0, "eval_strategy": "no", "save_strategy": "no"}
    half = {"per_device_train_batch_size": 8}
    one, accumulated, two = (tmp_path / name for name in ("one", "accumulated", "two"))
    program.main(*arguments(source, one, **options))
    program.main(*arguments(source, accumulated, gradient_accumulation_steps=2, **options, **half))
    (launch if loss else launch_nodes)("pretrain_barcodebert", flags(source, two, **options, **half))
    assert (results_of(two)["processes"], results_of(two)["global_batch_size"]) == (2, 16)
    for other in (accumulated, two):
        same_steps(one, other, 4)
        same_weights(one, other, atol=2e-6)
    torch.manual_seed(42)
    start = BarcodeBertForMaskedLM(program.make_config(arguments(source, tmp_path, dropout=0.0)[0])).state_dict()
    moved = weights(one)["classifier.bias"] - start["classifier.bias"]
    assert moved.abs().max() > 1e-2, "the weights hardly moved: this test would prove nothing"


@pytest.mark.slow
def test_a_killed_run_resumes_exactly(source, tmp_path):
    """Killed in its 5th step of 8, 3 an epoch, by SIGKILL; dropout is on, and two workers read the data.

    The resumed run starts at the checkpoint of step 4. A second one starts at that of step 6, the end of an epoch.
    """
    options = RESUMED | {"dataloader_num_workers": 2}
    kill("pretrain_barcodebert", flags(source, tmp_path / "killed", **options), step=5)
    assert not (tmp_path / "killed/checkpoint-6").exists()

    whole = tmp_path / "whole"
    program.main(*arguments(source, whole, **options))
    shutil.copytree(whole / "checkpoint-6", tmp_path / "boundary/checkpoint-6")
    assert len(losses(whole)) == 8 and len(set(losses(whole))) == 8
    for name in ("killed", "boundary"):
        folder = tmp_path / name
        program.main(*arguments(source, folder, resume_from_checkpoint="last", **options))
        assert history(folder) == history(whole)
        same_weights(folder, whole)
        for file in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            same_state(*(torch.load(run / "checkpoint-8" / file, weights_only=False) for run in (folder, whole)))


def test_masks_change_from_epoch_to_epoch(source, tmp_path):
    """With a learning rate of zero and no dropout, the loss of the whole split differs only if its masks do."""
    options = {"learning_rate": 0.0, "dropout": 0.0, "per_device_train_batch_size": 64, "max_steps": 3}
    program.main(*arguments(source, tmp_path / "run", save_strategy="no", eval_strategy="no", **options))
    found = sorted(losses(tmp_path / "run"))
    assert len(found) == 3 and min(found[1] - found[0], found[2] - found[1]) > 1e-5


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mask_ratio": 0.0}, ValueError, "mask_ratio is 0.0"),
        ({"k": 0}, ValueError, "k is 0"),
        ({"hidden_size": 30}, ValueError, "multiple of num_attention_heads"),
        ({"train_split": "training"}, ValueError, "Unknown split 'training'"),
        ({"train_split": "test"}, ValueError, "No rows of split 'test'"),
        ({"source": "no/such/folder"}, FileNotFoundError, "nothing at 'no/such/folder'"),
        ({"resume_from_checkpoint": "checkpoint-9"}, FileNotFoundError, "not a complete checkpoint"),
        ({"resume_from_checkpoint": "last", "force": True}, ValueError, "exclude each other"),
        ({"deduplicate": "all"}, ValueError, "--deduplicate is 'all'. Choose one of none, split, upstream"),
        ({"loss_on": "weighted"}, ValueError, "masked_loss_weight is None and --loss_on is 'weighted'"),
        ({"masked_loss_weight": 0.5}, ValueError, "masked_loss_weight is 0.5 and --loss_on is 'masked'"),
        ({"loss_on": "all"}, ValueError, "--loss_on all predicts padding"),
        ({"objective": "next"}, ValueError, "--objective next needs --backbone mamba"),
        ({"backbone": "lstm"}, ValueError, "--backbone is 'lstm'. Choose one of bert, mamba"),
        ({"backbone": "mamba", "mlm_head": "tied"}, ValueError, "mlm_head is 'tied'"),
        ({"preset": "mine"}, ValueError, "Unknown preset 'mine'. Choose one of main, .*barcodemae-plus, fast, none"),
        (
            {"dataloader_persistent_workers": True},
            ValueError,
            "dataloader_persistent_workers",
        ),
    ],
)
def test_impossible_options_are_refused_before_writing(source, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        program.main(*arguments(**({"source": source, "folder": tmp_path / "run"} | options)))
    assert not (tmp_path / "run").exists()


def test_an_output_folder_in_use_is_not_overwritten(source, tmp_path):
    """A run is not mixed with other files or another run; "last" starts anew where no checkpoint is complete."""
    options = {"max_steps": 1, "save_strategy": "steps", "save_steps": 1, "eval_strategy": "no"}
    folder = tmp_path / "run"
    program.main(*arguments(source, folder, resume_from_checkpoint="last", **options))
    with pytest.raises(FileExistsError, match="not empty .*--resume_from_checkpoint last.*--force"):
        program.main(*arguments(source, folder, **options))
    with pytest.raises(ValueError, match="another run: mask_ratio was 0.5 and is 0.3"):
        program.main(*arguments(source, folder, resume_from_checkpoint="last", mask_ratio=0.3, **options))
    with pytest.raises(ValueError, match="k was 3 and is 4"):
        program.main(*arguments(source, folder, resume_from_checkpoint="last", **options | {"k": 4}))
    (folder / "checkpoint-7").mkdir()
    program.main(*arguments(source, folder, force=True, **options))
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-1"]


def test_sparse_logits_give_the_same_steps(source, tmp_path):
    """The head only at masked positions: the same losses and evaluations; the saved config is as usual."""
    found = []
    for sparse in (True, False):
        folder = tmp_path / str(sparse)
        options = SGD | {"dropout": 0.0, "sparse_loss": sparse, "save_strategy": "no"}
        program.main(*arguments(source, folder, **options))
        assert not BarcodeBertForMaskedLM.from_pretrained(folder).config.sparse_prediction
        found.append([entry.get("loss", entry.get("eval_masked_loss")) for entry in history(folder)])
    assert len(found[0]) > 4 and found[0] == pytest.approx(found[1], rel=1e-5)


def test_presets_name_options_that_exist_and_are_recorded(source, tmp_path):
    """A run lists what it did differently from its preset, and records every value of it."""
    for name, preset in PRESETS.items():
        options, training_args = program.parse(["--source", "a", "--preset", name, "--use_cpu", "--output_dir", "b"])
        check_options(options, training_args)
        about = begin_run("task", program.RUN_FILE, options, training_args, PRESETS).about
        assert {option: about["options"][option] for option in preset} == preset
        assert about["preset_overrides"] == {}
    given = {name: value for name, value in (TINY | RUN).items() if name != "num_hidden_layers"}
    given |= {"source": source, "output_dir": tmp_path / "run", "preset": "main", "num_attention_heads": 4}
    given |= {"train_split": "pretrain", "validation_split": "val", "save_strategy": "no"}
    results = program.main(*program.parse(as_flags(given)))
    assert results["preset_overrides"] == {"train_split": "pretrain", "validation_split": "val"}
    assert 0 < results["metrics"]["validation_masked_loss_nats"] < 5  # of the one batch, which is not full
    used = results["options"]
    assert (used["preset"], used["schedule"], used["loss_on"], used["bf16"]) == ("main", "onecycle", "valid", False)
    assert (used["learning_rate"], used["scaled_learning_rate"]) == (1e-4, 1e-4 * 16 / 64)


def test_the_recipe_of_2023_runs(source, tmp_path):
    """Its loss is of all positions, so that a guess costs ln 67 = 4.20 nats: 64 k-mers and 3 special tokens."""
    given = TINY | RUN | {"source": source, "output_dir": tmp_path / "run", "preset": "workshop2023"}
    given |= {"num_attention_heads": 4, "eval_strategy": "no", "save_strategy": "no", "max_steps": 1}
    results = program.main(*program.parse(as_flags(given)))
    assert results["loss_curve"][0][1] == pytest.approx(4.20, abs=0.2)
    assert set(results["preset_overrides"]) == {"num_hidden_layers", "num_attention_heads"}
    assert BarcodeBertForMaskedLM.from_pretrained(tmp_path / "run").config.vocabulary == "barcodebert-2023"


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["masked", "next"])
def test_a_mamba_learns_with_the_same_trainer(source, tmp_path, objective):
    """The position predicts the ancestor's next or masked k-mer; guessing costs ln 64 = 4.16 nats."""
    options = {"backbone": "mamba", "objective": objective, "head_dim": 16, "state_size": 16, "learning_rate": 1e-2}
    results = program.main(
        *arguments(source, tmp_path / "run", max_steps=20, save_strategy="no", eval_strategy="no", **options)
    )
    assert results["loss_curve"][0][1] == pytest.approx(4.16, abs=0.3)
    assert results["metrics"][f"validation_{objective}_loss_nats"] < 3.8
    model = BarcodeMambaForMaskedLM.from_pretrained(tmp_path / "run")
    assert model.config.objective == objective
    if objective == "next":  # what the program scored is what the model's own loss says
        collator = program.make_collators(arguments(source, tmp_path, **options)[0], 42)[1]
        data = program.load_barcodes(str(source), "val", "split", 60)
        with torch.no_grad():
            loss = model.eval()(**collator([{"dna_barcode": barcode} for barcode in data["dna_barcode"]])).loss
        assert results["metrics"]["validation_next_loss_nats"] == pytest.approx(loss.item(), rel=1e-4)


def test_duplicates_are_dropped_as_the_published_code_does(tmp_path):
    """Over the whole file, first row kept: AAAA is lost to pretrain because the file has it in val before."""
    path = tmp_path / "metadata.csv"
    rows = [("AAAA", "val"), ("CCCC", "pretrain"), ("AAAANN", "pretrain"), ("CCCC", "val"), ("GGGG", "pretrain")]
    rows += [("CCCCN", "pretrain"), ("GGGGTTTT", "pretrain"), ("", "val")]
    given = [{"processid": f"P{i}", "dna_barcode": b, "split": split} for i, (b, split) in enumerate(rows)]
    write_csv(path, given)
    found = {
        (split, how): list(program.load_barcodes(str(path), split, how, 6)["dna_barcode"])
        for split, how in (("pretrain", "upstream"), ("val", "upstream"), ("pretrain", "split"))
    }
    assert found["pretrain", "upstream"] == ["CCCC", "GGGG", "GGGGTT"]
    assert found["val", "upstream"] == ["AAAA"]
    assert found["pretrain", "split"] == ["CCCC", "AAAANN", "GGGG", "GGGGTT"]
    build(path, tmp_path / "built", rows_per_shard={"dna": 2})
    for split in ("pretrain", "val"):
        kept = program.load_barcodes(str(tmp_path / "built"), split, "upstream", 6)
        assert list(kept["dna_barcode"]) == found[split, "upstream"]
    build(path, tmp_path / "part", splits=["pretrain"])
    with pytest.raises(ValueError, match="needs all rows of the metadata file; .*part' lacks some. .*--deduplicate"):
        program.load_barcodes(str(tmp_path / "part"), "pretrain", "upstream", 6)
    (tmp_path / "other/dna").mkdir(parents=True)
    table = pq.read_table(next((tmp_path / "built/dna").glob("*.parquet"))).drop(["metadata_row"])
    pq.write_table(table, tmp_path / "other/dna/pretrain-00000-of-00001.parquet")
    with pytest.raises(ValueError, match="needs the order of the metadata file.*--deduplicate split"):
        program.load_barcodes(str(tmp_path / "other"), "pretrain", "upstream", 6)


def test_the_weighted_loss_by_hand():
    """Two masked k-mers that cost ln 2 and ln 4, one visible that costs ln 2: 0.75 * 1.5 ln 2 + 0.25 * ln 2.

    With counts of twice as many, as when another process holds the other half of a step, it is half of that.
    """
    logits = torch.tensor([[[0.0, 0.0], [math.log(3), 0.0], [0.0, 0.0], [5.0, 1.0]]])
    targets, masked = torch.tensor([[0, 1, 1, -100]]), torch.tensor([[True, True, False, False]])
    expected = (0.75 * 1.5 + 0.25) * math.log(2)
    for counts, share in (([2, 1], 1.0), ([4, 2], 0.5)):
        loss = weighted_loss(logits, targets, masked, 0.75, torch.tensor(counts))
        assert loss.item() == pytest.approx(expected * share)


def test_rows_without_a_barcode_are_counted_and_refused(tmp_path):
    path = tmp_path / "metadata.csv"
    barcodes = ("ACGTACGT", "", "ACGT")
    write_csv(path, [{"processid": f"P{i}", "dna_barcode": b, "split": "pretrain"} for i, b in enumerate(barcodes)])
    with pytest.raises(ValueError, match="1 of 3 rows of the split 'pretrain' have no barcode"):
        program.load_barcodes(str(path), "pretrain", "none", 60)
