"""Contrastive training: it learns, steps do not depend on processes, and a killed run resumes exactly.

The runs are tiny: 104 barcodes of 60 nucleotides and some reads of them, of 8 species in 4 genera.
"""

import json
import random

import pytest
import torch
from huggingface_hub import ModelCard
from training_runs import (
    RUN,
    SGD,
    as_flags,
    divide,
    history,
    kill,
    launch,
    losses,
    results_of,
    same_steps,
    same_weights,
    weights,
    write_csv,
)
from transformers import AutoModel, AutoTokenizer, BertConfig

from bioscan_hf.models.configuration_barcodebert import BarcodeBertConfig
from bioscan_hf.models.modeling_alignedbarcode import AlignedBarcodeModel
from bioscan_hf.models.modeling_barcodebert import BarcodeBertModel
from bioscan_hf.models.tokenization_kmer import KmerTokenizer
from bioscan_hf.simulate.release import simulate_release
from bioscan_hf.trainers import contrast_barcodes as program

TRAINING = RUN | {"per_device_train_batch_size": 32, "save_strategy": "no", "positions": 60, "embedding_size": 8}


@pytest.fixture(scope="module")
def rows():
    """13 barcodes of each species in train (one a short read, one without a species), 2 in val, 2 in val_unseen."""
    draw = random.Random(0)

    def descend(barcode, rate):
        return "".join(draw.choice("ACGT") if draw.random() < rate else letter for letter in barcode)

    found = []
    root = "".join(draw.choices("ACGT", k=60))
    genera = [descend(root, 0.3) for _ in range(4)]
    for species in range(8):
        genus = genera[species // 2]
        ancestor, other = descend(genus, 0.1), descend(genus, 0.1)
        for split, count in (("train", 13), ("val", 2), ("val_unseen", 2)):
            for i in range(count):
                barcode = descend(other if split == "val_unseen" else ancestor, 0.08)
                name = f"G{species // 2} {'new' if split == 'val_unseen' else 's'}{species}"
                found.append(
                    {
                        "processid": f"P{len(found)}",
                        "dna_barcode": barcode[9:51] if i == 1 else barcode,
                        "split": split,
                        "genus": f"G{species // 2}",
                        "species": "" if i == 12 else name,
                        "dna_bin": f"BOLD:AAA{species:04d}",
                    }
                )
    return found


@pytest.fixture(scope="module")
def source(rows, tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("data") / "metadata.csv", rows)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("bert")
    shape = {"k": 3, "max_nucleotides": 60, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    BarcodeBertModel(BarcodeBertConfig(**shape, num_attention_heads=2)).save_pretrained(folder)
    KmerTokenizer(k=3, max_nucleotides=60).save_pretrained(folder)
    return folder


def given(source, folder, **options):
    values = TRAINING | {"source": str(source), "output_dir": str(folder)} | options
    if "model" in values:
        values = {name: value for name, value in values.items() if name not in ("positions", "embedding_size")}
    return values


def arguments(source, folder, **options):
    """What `program.main` takes. `options` belong to either of its two arguments."""
    return divide((program.ContrastOptions, program.ContrastArguments), given(source, folder, **options))


def flags(source, folder, **options):
    return as_flags(given(source, folder, **options))


def test_a_run_learns_and_reports_its_accuracy(source, rows, tmp_path):
    """The loss falls, and nearest neighbours are right as often as before, or all but one of the 16 queries.

    The accuracies in the results are those of the saved folder, loaded by name.
    """
    folder = tmp_path / "run"
    options = {"learning_rate": 3e-2, "truncation": 0.2, "embedding_size": 16}
    before = program.main(*arguments(source, tmp_path / "before", max_steps=-1, **options))
    after = program.main(*arguments(source, folder, max_steps=90, **options))
    assert before["loss_curve"] == [] and before["metrics"]["train_loss_nats"] is None and before["steps"] == 0
    curve = [loss for _, loss in after["loss_curve"]]
    assert after["steps"] == 90 and sum(curve[-9:]) < 0.9 * sum(curve[:9])
    questions = ("species of val", "genus of val_unseen")
    for question in questions:
        assert after["metrics"][question] >= before["metrics"][question] - 1 / 16
        assert after["metrics"][question] > 0.7, "chance is 1/8 and 1/4"
    assert json.loads((folder / "results.json").read_text()) == after
    assert not list(folder.glob("*.bin")), "no pickle beside the finished model"
    assert (after["task"], after["dataset"], after["splits"]) == ("barcodes/contrast", source.name, {"train": 104})
    assert (after["options"]["temperature"], after["options"]["learning_rate"]) == (0.1, 3e-2)
    shape = {"positions": 60, "embedding_size": 16, "output_size": 16, "hidden_size": 0, "k": 1}
    assert shape.items() <= after["model"].items()

    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    assert type(model) is AlignedBarcodeModel and type(tokenizer) is KmerTokenizer
    vectors = {}
    for split in ("train", "val", "val_unseen"):
        barcodes = [row["dna_barcode"] for row in rows if row["split"] == split]
        with torch.no_grad():
            vectors[split] = model(**tokenizer(barcodes, return_tensors="pt")).pooler_output
    for question in questions:
        rank, split = question.split(" of ")
        keys = [row[rank] for row in rows if row["split"] == "train"]
        similarity = vectors[split] @ vectors["train"].T
        similarity[:, [i for i, name in enumerate(keys) if not name]] = -2
        nearest = similarity.argmax(1).tolist()
        asked = [row[rank] for row in rows if row["split"] == split]
        hits = [keys[i] == name for i, name in zip(nearest, asked, strict=True)]
        assert after["metrics"][question] == pytest.approx(sum(hits) / 16)
    assert not list(folder.rglob("*.part"))


def test_the_card_shows_the_results(source, tmp_path):
    results = program.main(*arguments(source, tmp_path / "run", max_steps=2, ranks=["dna_bin"]))
    card = ModelCard((tmp_path / "run/README.md").read_text())
    accuracy = results["metrics"]["species of val"]
    assert f"| species of val | {accuracy:.4f} |" in card.content and "| ranks | dna_bin |" in card.content
    assert "60 positions, 8 learned dimensions" in card.content and "(1, 8)" in card.content
    assert "$" not in card.content.replace("$\\", "")
    found = {(e.metric_name, e.dataset_split): e.metric_value for e in card.data.eval_results}
    assert found[("1-NN species accuracy", "val")] == accuracy and len(found) == 2


def test_without_a_learned_part_nothing_is_trained(source, tmp_path):
    """Whatever the number of barcodes and of steps."""
    options = {"embedding_size": 0, "per_device_train_batch_size": 1000}
    results = program.main(*arguments(source, tmp_path / "run", **options))
    assert results["steps"] == 0 and results["model"]["output_size"] == 240
    assert results["metrics"]["species of val"] > 0.7
    assert AutoModel.from_pretrained(tmp_path / "run").config.profile_weight == 1


def test_all_options_together(source, tmp_path):
    """A hidden layer, the profile beside it, several ranks with weights, and two views; every layer learns."""
    options = {"ranks": ["genus", "species"], "hidden_size": 4, "rank_weights": [1.0, 2.0], "profile_weight": 0.5}
    options |= {"views": 2, "unread": 0.5, "learning_rate": 1e-2}
    results = program.main(*arguments(source, tmp_path / "run", validation_splits=["val"], **options))
    assert set(results["metrics"]) == {"train_loss_nats", "species of val"}
    assert results["steps"] == 4 and results["model"]["output_size"] == 4 * 60 + 8
    found = weights(tmp_path / "run")
    assert all(found[f"output.{name}"].any() for name in ("weight", "bias")), "they begin at zero"


def test_a_simulated_release(tmp_path):
    """The default region fits simulated barcodes of 658 nucleotides."""
    release = simulate_release(tmp_path / "release", specimens=1000, seed=1, metadata_only=True)
    options = {"embedding_size": 0, "positions": 658}
    results = program.main(*arguments(release, tmp_path / "run", **options))
    assert results["model"]["output_size"] == 4 * 658 and results["metrics"]["species of val"] > 0.9


def test_other_encoders_are_fine_tuned(source, bert, tmp_path):
    """A BarcodeBERT learns, and an aligned encoder continues: its region is not fitted again."""
    results = program.main(*arguments(source, tmp_path / "bert", model=str(bert), max_steps=12, learning_rate=3e-3))
    assert results["model"]["model_type"] == "barcodebert" and results["model"]["output_size"] == 16
    curve = [loss for _, loss in results["loss_curve"]]
    assert sum(curve[-3:]) < 0.95 * sum(curve[:3])
    assert type(AutoModel.from_pretrained(tmp_path / "bert")) is BarcodeBertModel
    assert ModelCard((tmp_path / "bert/README.md").read_text()).data.eval_results

    program.main(*arguments(source, tmp_path / "one", max_steps=1))
    folder = str(tmp_path / "one")
    options = {"max_steps": 1, "train_split": "val", "per_device_train_batch_size": 16, "warmup_steps": 0}
    program.main(*arguments(source, tmp_path / "two", model=folder, **options))
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert {name for name in one if not torch.equal(one[name], two[name])} == {"projection.weight"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["aligned", "bert"])
def test_steps_are_the_same_for_one_process_and_two(source, bert, tmp_path, kind):
    """Losses, gradients and weights, of an aligned encoder and of a BarcodeBERT without dropout.

    Some rows have no species, and for some batches one process has no anchor.
    """
    options = SGD | {"max_steps": 3, "ranks": ["genus", "species"]}
    if kind == "bert":
        model = BarcodeBertModel.from_pretrained(bert)
        model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = 0.0
        model.save_pretrained(tmp_path / "still")
        KmerTokenizer.from_pretrained(bert).save_pretrained(tmp_path / "still")
        options |= {"model": str(tmp_path / "still"), "learning_rate": 0.1}
    one, two = tmp_path / "one", tmp_path / "two"
    program.main(*arguments(source, one, **options))
    launch("contrast_barcodes", flags(source, two, **options, per_device_train_batch_size=16))
    assert (results_of(two)["processes"], results_of(two)["global_batch_size"]) == (2, 32)
    same_steps(one, two, 3, rel=1e-4)
    same_weights(one, two, atol=1e-5)
    begin = program.make_model(*start_of(source, options))[0].state_dict()
    assert max((begin[key] - value).abs().max() for key, value in weights(one).items()) > 1e-3, "nothing moved"


def start_of(source, options):
    """What `make_model` takes to make the model that a run begins with."""
    given, _ = arguments(source, "unused", **options)
    return given, program.load_split(given, "train", given.ranks)


@pytest.mark.slow
def test_a_killed_run_resumes_exactly(source, tmp_path):
    """Killed in its 5th step of 8, 3 an epoch, by SIGKILL; dropout and alterations are on."""
    options = {"max_steps": 8, "save_strategy": "steps", "save_steps": 2, "hidden_size": 8, "learning_rate": 1e-2}
    options |= {"substitution": 0.05, "third_substitution": 0.2, "unread": 0.2}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    kill("contrast_barcodes", flags(source, killed, **options), step=5)
    assert not (killed / "checkpoint-6").exists() and not (killed / "results.json").exists()
    program.main(*arguments(source, whole, **options))
    program.main(*arguments(source, killed, resume_from_checkpoint="last", **options))
    assert len(losses(whole)) == 8 and len(set(losses(whole))) == 8
    assert history(killed) == history(whole)
    same_weights(killed, whole)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"ranks": ["tribe"]}, ValueError, r"ranks are \['tribe'\]. Choose one or more of phylum, class"),
        ({"ranks": []}, ValueError, "Choose one or more"),
        ({"ranks": ["genus", "genus"]}, ValueError, "each once"),
        ({"ranks": ["family"]}, ValueError, "No two barcodes of the split 'train' have the same family"),
        ({"rank_weights": [1.0, 2.0]}, ValueError, "one number above 0 for each of the 1 values of --ranks"),
        ({"rank_weights": [-1.0]}, ValueError, "one number above 0"),
        ({"temperature": 0.0}, ValueError, "temperature is 0.0"),
        ({"per_device_train_batch_size": 1, "max_steps": 2}, ValueError, "A batch of 1 row has nothing to compare"),
        ({"views": 0}, ValueError, "views is 0"),
        ({"truncation": 2.0}, ValueError, "truncation is 2.0"),
        ({"largest_cut": 0.7}, ValueError, "largest_cut is 0.7"),
        ({"embedding_size": -1}, ValueError, r"embedding_size \(-1\)"),
        ({"profile_weight": 1.0}, ValueError, "profile_weight 1.0"),
        ({"positions": 61}, ValueError, "0 of the barcodes have exactly 61 nucleotides"),
        (
            {"positions": 700},
            ValueError,
            r"positions \(700\) must be at least anchor_k \(6\) and at most max_nucleotides \(660\)",
        ),
        ({"train_split": "training"}, ValueError, "Unknown split 'training'"),
        ({"train_split": "pretrain"}, ValueError, "No rows of split 'pretrain'"),
        ({"validation_splits": ["test"]}, ValueError, r"validation_splits are \['test'\]. Choose among val, val_un"),
        ({"per_device_train_batch_size": 105}, ValueError, r"has 104 rows, fewer than one batch .*\(105\)"),
        ({"gradient_accumulation_steps": 2}, ValueError, "contrasted within one batch"),
        ({"dataloader_persistent_workers": True}, ValueError, "persistent_workers needs --dataloader_num_workers"),
        ({"source": "no/such/folder"}, FileNotFoundError, "nothing at 'no/such/folder'"),
        ({"model": "no/such/folder"}, FileNotFoundError, "'no/such/folder' is neither an existing folder"),
        ({"model": "no/such/folder", "hidden_size": 3}, ValueError, "hidden_size cannot be chosen for the model"),
    ],
)
def test_impossible_options_are_refused_before_writing(source, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        program.main(*arguments(**({"source": source, "folder": tmp_path / "run"} | options)))
    assert not (tmp_path / "run").exists()


def test_a_source_without_validation_splits_is_refused(rows, tmp_path):
    """They may be left out."""
    alone = write_csv(tmp_path / "alone.csv", [row for row in rows if row["split"] == "train"])
    with pytest.raises(ValueError, match="No rows of split 'val'"):
        program.main(*arguments(alone, tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    results = program.main(*arguments(alone, tmp_path / "run", validation_splits=["none"], max_steps=1))
    assert set(results["metrics"]) == {"train_loss_nats"}


def test_a_folder_without_a_barcode_encoder_is_refused(source, bert, tmp_path):
    BertConfig(num_hidden_layers=1).save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match="model of type 'bert'. Give a model of type alignedbarcode or barcodebert"):
        program.main(*arguments(source, tmp_path / "run", model=str(tmp_path / "bert")))
    BarcodeBertModel.from_pretrained(bert).save_pretrained(tmp_path / "other")
    KmerTokenizer(k=4, max_nucleotides=60).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="has k 4, but its config has 3"):
        program.main(*arguments(source, tmp_path / "run", model=str(tmp_path / "other")))
    assert not (tmp_path / "run").exists()


def test_a_split_without_labels_is_not_validated(rows, tmp_path):
    """Without a known genus in val_unseen, its accuracy is None."""
    nameless = [row | {"genus": ""} if row["split"] == "val_unseen" else row for row in rows]
    results = program.main(*arguments(write_csv(tmp_path / "m.csv", nameless), tmp_path / "run", num_train_epochs=0))
    assert results["metrics"]["genus of val_unseen"] is None and results["metrics"]["species of val"] > 0.5
    assert "| genus of val_unseen | not run |" in (tmp_path / "run/README.md").read_text()
