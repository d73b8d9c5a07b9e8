"""Fine-tuning: it learns, steps do not depend on processes, and a killed run resumes exactly.

The runs are tiny: 101 barcodes of up to 60 nucleotides, of 8 species in 4 genera, and a model of one layer.
"""

import csv
import json
import random
import shutil

import numpy as np
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
    losses,
    results_of,
    same_steps,
    same_weights,
    weights,
    write_csv,
)
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, set_seed

from bioscan_hf.models.configuration_barcodebert import BarcodeBertConfig
from bioscan_hf.models.modeling_barcodebert import BarcodeBertForMaskedLM, BarcodeBertModel
from bioscan_hf.models.tokenization_kmer import KmerTokenizer
from bioscan_hf.trainers import finetune_barcodebert as program
from bioscan_hf.training import finetuning
from bioscan_hf.training.arguments import BarcodeTrainingArguments
from bioscan_hf.training.finetuning import FinetuningOptions
from bioscan_hf.training.inputs import load_tokenizer
from bioscan_hf.training.taxa import TaxonCollator

RANKS = ["order", "family", "genus", "species"]
TRAINING = RUN | {"save_strategy": "no", "eval_strategy": "no"}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """8 species of 4 genera, families and 2 orders: 64 rows in train, 8 in val, 16 in test.

    Besides, in train 4 rows without a species and 1 without a name; in test 4 of a species that train has not, and 4
    without one.
    """
    draw = random.Random(0)

    def descend(barcode, rate):
        return "".join(draw.choice("ACGT") if draw.random() < rate else letter for letter in barcode)

    rows = []

    def add(number, split, barcode, **changed):
        genus = number // 2
        names = {
            "order": f"O{genus // 2}",
            "family": f"F{genus}",
            "genus": f"G{genus}",
            "species": f"G{genus} s{number}",
        }
        barcode = descend(barcode, 0.02)[: draw.randint(48, 60)]
        rows.append({"processid": f"P{len(rows)}", "dna_barcode": barcode, "split": split} | names | changed)

    genera = ["".join(draw.choices("ACGT", k=60)) for _ in range(4)]
    for species in range(8):
        ancestor = descend(genera[species // 2], 0.3)
        for split, count in (("train", 8), ("val", 1), ("test", 2)):
            for _ in range(count):
                add(species, split, ancestor)
        if species < 4:
            add(species, "train", ancestor, species="")
            add(species, "test", ancestor, species=f"new {species % 2}")
            add(species, "test", ancestor, species="")
    add(0, "train", genera[0], **dict.fromkeys(RANKS, ""))
    return write_csv(tmp_path_factory.mktemp("data") / "metadata.csv", rows)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A folder as pretraining leaves it, with random weights."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("pretrained")
    BarcodeBertForMaskedLM(BarcodeBertConfig(**TINY)).save_pretrained(folder)
    KmerTokenizer(k=3, max_nucleotides=60).save_pretrained(folder)
    return folder


def given(source, model, folder, **options):
    return TRAINING | {"source": str(source), "model": str(model), "output_dir": str(folder)} | options


def arguments(source, model, folder, **options):
    """What `program.main` takes. `options` belong to either of its two arguments."""
    return divide((FinetuningOptions, BarcodeTrainingArguments), given(source, model, folder, **options))


def flags(source, model, folder, **options):
    return as_flags(given(source, model, folder, **options))


def metadata(source, split):
    with open(source, newline="") as file:
        return [row for row in csv.DictReader(file) if row["split"] == split]


def test_a_run_learns_and_reports_its_accuracy(source, pretrained, tmp_path):
    """The results agree with the predictions file and with the saved model.

    Of the 24 test rows 20 have a species, and of these 16 one of train: the coverage is 0.8.
    """
    folder = tmp_path / "run"
    options = {"ranks": ["species", "genus", "order", "family"], "max_steps": 80, "learning_rate": 1e-2}
    results = program.main(*arguments(source, pretrained, folder, test_splits=["test"], **options))
    assert json.loads((folder / "results.json").read_text()) == results
    assert (results["task"], results["steps"]) == ("barcodebert/finetune", 80)
    assert results["splits"] == {"train": 69, "val": 8, "test": 24}
    assert (results["training_rows_without_a_label"], results["classes_of_several_parents"]) == (1, 0)
    assert results["model"]["classes"] == {"order": 2, "family": 4, "genus": 4, "species": 8}
    species = results["metrics"]["independent"]["test"]["species"]
    assert (species["support"], species["classes"], species["coverage"]) == (20, 10, 0.8)
    assert 0.4 < species["micro_accuracy"] <= 0.8
    low, high = species["micro_accuracy_interval"]
    assert low < species["micro_accuracy"] < high and high - low > 0.2, "ten species, two of them with 4 specimens"
    assert results["metrics"]["independent"]["test"]["genus"]["micro_accuracy"] > 0.9
    assert results["metrics"]["independent"]["val"]["species"]["cross_entropy_nats"] < 1.5 < np.log(8)
    assert results["loss_curve"][-1][1] < 0.5 < results["loss_curve"][0][1]

    test = metadata(source, "test")
    predicted = pq.read_table(folder / "predictions.parquet").to_pylist()
    assert len(predicted) == 4 * len(test) and {row["split"] for row in predicted} == {"test"}
    answers = {(row["processid"], row["rank"]): row for row in predicted}
    for name, kind in (("name", "independent"), ("consistent_name", "consistent")):
        hits = [answers[row["processid"], "species"][name] == row["species"] for row in test if row["species"]]
        assert results["metrics"][kind]["test"]["species"]["micro_accuracy"] == pytest.approx(np.mean(hits))
    for row in test:
        species, genus = (answers[row["processid"], rank]["consistent_name"] for rank in ("species", "genus"))
        assert species.split()[0] == genus

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert list(model.config.taxa) == RANKS and model.config.taxa["genus"] == ["G0", "G1", "G2", "G3"]
    assert model.config.parents["species"] == [0, 0, 1, 1, 2, 2, 3, 3]
    batch = AutoTokenizer.from_pretrained(folder)([row["dna_barcode"] for row in test], return_tensors="pt")
    with torch.no_grad():
        taxa = model.predict_taxa(model(**batch).logits)
    for rank, (ids, probabilities) in taxa.items():
        for row, i, probability in zip(test, ids, probabilities, strict=True):
            answer = answers[row["processid"], rank]
            assert answer["consistent_name"] == model.config.taxa[rank][i]
            assert answer["consistent_probability"] == pytest.approx(probability.item(), abs=1e-5)
    accuracy = results["metrics"]["independent"]["test"]["species"]["micro_accuracy"]
    assert f"| test | species | 20 | 80.0 | {100 * accuracy:.1f} |" in (folder / "README.md").read_text()
    assert not list(folder.rglob("*.part"))


def test_one_rank_has_the_published_shape(source, pretrained, tmp_path):
    """`id2label` names the classes, the labels are one column, and there are no consistent predictions."""
    results = program.main(*arguments(source, pretrained, tmp_path / "run", test_splits=["test", "val"]))
    assert results["training_rows_without_a_label"] == 5
    assert results["metrics"]["consistent"] == {} and set(results["metrics"]["independent"]) == {"val", "test"}
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run")
    assert model.config.taxa is None and model.config.id2label[7] == "G3 s7"
    assert model.config.label2id["G3 s7"] == 7 and model.taxon_classifier.out_features == 8
    table = pq.read_table(tmp_path / "run/predictions.parquet")
    assert table.num_rows == 24 + 8 and table["name"].to_pylist() == table["consistent_name"].to_pylist()


def test_validation_and_test_can_be_left_out(source, pretrained, tmp_path):
    options = {"validation_split": "none", "test_splits": ["none"], "max_steps": 1, "eval_strategy": "epoch"}
    results = program.main(*arguments(source, pretrained, tmp_path / "run", **options))
    assert results["metrics"]["independent"] == {} and results["splits"] == {"train": 69}
    assert not (tmp_path / "run/predictions.parquet").exists() and (tmp_path / "run/README.md").exists()


def test_the_published_preset_takes_the_published_steps(reference, tmp_path):
    """The learning rates that the published program printed after each of 8 steps, 4 an epoch, over 70 barcodes.

    The Trainer logs the rate of each step, so that the first is the start, a 25th of the peak 1e-4 * 16 / 64.
    What else is published: the mean over all positions, no clipping, and a last batch that is not full left out, but
    no row of the other splits is.
    """
    data = reference / "barcodebert/tiny_data"
    ranks = {rank: f"{rank}_name" for rank in RANKS} | {"dna_barcode": "nucleotides", "processid": "processid"}
    rows = []
    for split, file in (("train", "supervised_train"), ("val", "supervised_val"), ("test", "supervised_test")):
        table = csv.DictReader(data.text(f"{file}.csv").splitlines())
        rows += [{name: row[key] for name, key in ranks.items()} | {"split": split} for row in table]
    source = write_csv(tmp_path / "metadata.csv", rows)
    torch.manual_seed(0)
    BarcodeBertModel(BarcodeBertConfig(**TINY | {"k": 4, "max_nucleotides": 660})).save_pretrained(tmp_path / "base")
    KmerTokenizer(k=4).save_pretrained(tmp_path / "base")
    given = {"source": source, "model": tmp_path / "base", "output_dir": tmp_path / "run", "logging_steps": 1}
    given |= {"preset": "published", "num_train_epochs": 2, "use_cpu": True, "disable_tqdm": True}
    given |= {"save_strategy": "no"}
    options, training_args = program.parse(as_flags(given))
    results = program.main(options, training_args)
    lines = reference.json("barcodebert/downstream.json")["finetune_cli"]["train_lines"][:8]
    expected = [float(line.split("LR: [")[1].rstrip("]")) for line in lines]
    found = [entry["learning_rate"] for entry in history(tmp_path / "run") if "learning_rate" in entry]
    assert found == pytest.approx([1e-6, *expected[:7]], rel=1e-9)
    support = [results["metrics"]["independent"][split]["species"]["support"] for split in ("val", "test")]
    assert support == [20, 30]
    assert (results["options"]["learning_rate"], results["options"]["scaled_learning_rate"]) == (1e-4, 2.5e-5)
    assert results["preset_overrides"] == {"num_train_epochs": 2.0}
    assert results["model"]["pooling"] == "mean" and results["model"]["classes"] == {"species": 10}
    assert training_args.max_grad_norm == 0


#: Options of the loss of several ranks.
WEIGHTED = {"class_weights": "inverse_sqrt", "label_smoothing": [0.02, 0.02, 0.02, 0.1]}


@pytest.mark.slow
@pytest.mark.parametrize("loss", [{}, WEIGHTED], ids=["plain", "weighted"])
def test_steps_are_the_same_for_one_process_two_and_accumulation(source, pretrained, tmp_path, loss):
    """The same losses, gradients, weights and predictions.

    Rows without a species make the parts of a batch hold different numbers of labels at that rank.
    """
    options = SGD | {"ranks": RANKS, "encoder_dropout": False, "max_steps": 4} | loss
    half = {"per_device_train_batch_size": 8}
    one, accumulated, two = (tmp_path / name for name in ("one", "accumulated", "two"))
    program.main(*arguments(source, pretrained, one, **options))
    program.main(*arguments(source, pretrained, accumulated, gradient_accumulation_steps=2, **options, **half))
    launch("finetune_barcodebert", flags(source, pretrained, two, per_device_eval_batch_size=5, **options, **half))
    assert (results_of(two)["processes"], results_of(two)["global_batch_size"]) == (2, 16)
    for other in (accumulated, two):
        same_steps(one, other, 4)
        same_weights(one, other, atol=2e-6)
        tables = [pq.read_table(folder / "predictions.parquet") for folder in (one, other)]
        for column in ("processid", "rank", "name", "consistent_name"):
            assert tables[0][column].to_pylist() == tables[1][column].to_pylist()
        found, expected = (results_of(folder)["metrics"]["independent"]["test"] for folder in (other, one))
        for rank, values in expected.items():
            for name, value in values.items():
                assert found[rank][name] == pytest.approx(value, abs=1e-5), (rank, name)
    assert weights(one)["taxon_classifier.bias"].abs().max() > 1e-2, "the weights hardly moved"


def test_ranks_have_equal_weights(source, pretrained, tmp_path):
    """The loss of a step over all 68 rows is the mean of the ranks' mean cross-entropies.

    4 rows have no species, so that the mean over all labels would be another. Two accumulated batches change nothing.
    """
    options = {"ranks": RANKS, "learning_rate": 0.0, "random_offset": False, "encoder_dropout": False, "max_steps": 1}
    options |= {"per_device_train_batch_size": 34, "gradient_accumulation_steps": 2}
    given, training_args = arguments(source, pretrained, tmp_path / "run", **options)
    program.main(given, training_args)
    config, tokenizer = load_tokenizer(given.model, ["barcodebert"])
    data = finetuning.load_splits(given, RANKS, tokenizer)
    set_seed(training_args.seed)
    model = finetuning.make_model(given, config, data)
    collator = TaxonCollator(tokenizer, RANKS, random_offset=False, cut_padding=True, seed=0)
    batch = collator(list(data.train))
    with torch.no_grad():
        logits = model.rank_logits(model(batch["input_ids"], batch["attention_mask"]).logits)
    sums = [
        torch.nn.functional.cross_entropy(part, label, ignore_index=-100, reduction="sum").item()
        for part, label in zip(logits.values(), batch["labels"].unbind(1), strict=True)
    ]
    counts = (batch["labels"] >= 0).sum(0).tolist()
    assert counts == [68, 68, 68, 64]
    expected = sum(total / count for total, count in zip(sums, counts, strict=True)) / 4
    assert abs(expected - sum(sums) / sum(counts)) > 1e-3, "the two means are equal here: this test proves nothing"
    assert history(tmp_path / "run")[0]["loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("ranks", [["species"], RANKS])
def test_class_weights_and_smoothing_change_the_training_loss_alone(source, pretrained, tmp_path, ranks):
    """The loss of one step over all rows is that of `TaxaLoss`; the validation loss and the saved model are plain."""
    shares = [0.02] * (len(ranks) - 1) + [0.1]
    options = {"ranks": ranks, "class_weights": "inverse_sqrt", "label_smoothing": shares, "learning_rate": 0.0}
    options |= {"random_offset": False, "encoder_dropout": False, "max_steps": 1, "per_device_train_batch_size": 69}
    options |= {"eval_strategy": "steps", "eval_steps": 1}
    given, training_args = arguments(source, pretrained, tmp_path / "run", **options)
    results = program.main(given, training_args)
    assert results["options"]["class_weights"] == "inverse_sqrt" and results["options"]["label_smoothing"] == shares
    card = (tmp_path / "run/README.md").read_text()
    assert "| class_weights | inverse_sqrt |" in card
    assert f"| label_smoothing | {', '.join(map(str, shares))} |" in card
    config, tokenizer = load_tokenizer(given.model, ["barcodebert"])
    data = finetuning.load_splits(given, ranks, tokenizer)
    set_seed(training_args.seed)
    model = finetuning.make_model(given, config, data)
    collator = TaxonCollator(tokenizer, ranks, random_offset=False, cut_padding=True, seed=0)
    batch = collator(list(data.train))
    with torch.no_grad():
        weighted, plain = model.train()(**batch).loss.item(), model.eval()(**batch).loss.item()
    assert abs(weighted - plain) > 1e-5, "the two losses are equal here: this test proves nothing"
    logged = history(tmp_path / "run")
    assert logged[0]["loss"] == pytest.approx(weighted, abs=3e-6)
    with torch.no_grad():
        validation = model(**collator(list(data.splits["val"]))).loss.item()
    assert logged[1]["eval_loss"] == pytest.approx(validation, rel=1e-5)
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "run").training_loss is None


@pytest.mark.slow
def test_a_killed_run_resumes_exactly(source, pretrained, tmp_path):
    """Killed in its 5th step of 8, 3 an epoch, by SIGKILL; dropout and random frames are on, and OneCycle cycles."""
    options = {"max_steps": 8, "per_device_train_batch_size": 24, "save_strategy": "steps", "save_steps": 2}
    options |= {"eval_strategy": "steps", "eval_steps": 2, "learning_rate": 1e-2, "schedule": "onecycle"}
    options |= {"ranks": ["genus", "species"], "class_weights": "inverse_sqrt", "label_smoothing": [0.02, 0.1]}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    kill("finetune_barcodebert", flags(source, pretrained, killed, **options), step=5)
    assert not (killed / "checkpoint-6").exists()
    program.main(*arguments(source, pretrained, whole, **options))
    program.main(*arguments(source, pretrained, killed, resume_from_checkpoint="last", **options))
    assert len(losses(whole)) == 8 and len(set(losses(whole))) == 8
    assert history(killed) == history(whole)
    same_weights(killed, whole)
    predictions = [(folder / "predictions.parquet").read_bytes() for folder in (killed, whole)]
    assert predictions[0] == predictions[1]


def test_an_adapter_is_saved_and_merged(source, pretrained, tmp_path):
    """The encoder's own weights do not change; the merged model and the adapter give the same logits.

    "resumed" resumes an adapter from the checkpoint of step 4.
    """
    peft = pytest.importorskip("peft")
    options = {"lora_rank": 2, "learning_rate": 1e-2, "max_steps": 6, "save_strategy": "steps", "save_steps": 4}
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    results = program.main(*arguments(source, pretrained, whole, **options))
    # 2 projections x 2 matrices x 2 x 32, and the head of 8 classes
    assert results["model"]["trained_parameters"] == 2 * 2 * 2 * 32 + 8 * 33 < results["model"]["parameters"]
    merged = AutoModelForSequenceClassification.from_pretrained(whole).eval()
    base = BarcodeBertModel.from_pretrained(pretrained)
    changed = [
        name for name, value in base.state_dict().items() if not torch.equal(merged.bert.state_dict()[name], value)
    ]
    assert sorted(name.split(".")[-2] for name in changed) == ["query", "value"]

    head = AutoModelForSequenceClassification.from_config(merged.config)
    head.bert.load_state_dict(base.state_dict())
    adapted = peft.PeftModel.from_pretrained(head, whole / "adapter").eval()
    batch = KmerTokenizer.from_pretrained(whole)(
        [row["dna_barcode"] for row in metadata(source, "test")], return_tensors="pt"
    )
    with torch.no_grad():
        torch.testing.assert_close(adapted(**batch).logits, merged(**batch).logits, rtol=0, atol=1e-5)
    described = json.loads((whole / "adapter/adapter_config.json").read_text())
    assert described["base_model_name_or_path"] == pretrained.name  # no folder of this machine is pushed
    assert not (whole / "adapter_config.json").exists() and not (whole / "adapter/README.md").exists()

    shutil.copytree(whole / "checkpoint-4", resumed / "checkpoint-4")
    program.main(*arguments(source, pretrained, resumed, resume_from_checkpoint="last", **options))
    same_weights(resumed, whole)


def test_a_frozen_encoder_does_not_change(source, pretrained, tmp_path):
    """Only the head learns. Dropout is off in it: with the reading frame fixed, a learning rate of zero gives the
    whole training split the same loss each time. With it on, as published, the losses differ."""
    options = {"freeze_encoder": True, "per_device_train_batch_size": 64, "ranks": ["species"]}
    results = program.main(*arguments(source, pretrained, tmp_path / "run", learning_rate=1e-1, **options))
    assert results["model"]["trained_parameters"] == 8 * 33
    base = BarcodeBertModel.from_pretrained(pretrained).state_dict()
    trained = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run")
    assert all(torch.equal(value, base[name]) for name, value in trained.bert.state_dict().items())
    assert trained.config.hidden_dropout_prob == 0.1, "the config of the encoder is not changed"
    for dropout, distinct in ((None, 1), (True, 4)):
        still = {"learning_rate": 0.0, "random_offset": False, "encoder_dropout": dropout}
        program.main(*arguments(source, pretrained, tmp_path / str(dropout), **still, **options))
        found = losses(tmp_path / str(dropout))
        assert len(found) == 4 and len({round(loss, 5) for loss in found}) == distinct


def test_fine_tuning_starts_from_the_encoder_of_a_classifier(source, pretrained, tmp_path):
    """The head of the other classifier is left out, even with the same shape."""
    program.main(*arguments(source, pretrained, tmp_path / "genera", ranks=["genus"], max_steps=1))
    again = program.main(*arguments(source, tmp_path / "genera", tmp_path / "families", ranks=["family"], max_steps=1))
    assert again["model"]["classes"] == {"family": 4}
    options, _ = arguments(source, tmp_path / "genera", tmp_path / "x", ranks=["genus"])
    config, tokenizer = load_tokenizer(options.model, ["barcodebert"])
    data = finetuning.load_splits(options, options.ranks, tokenizer)
    model = finetuning.make_model(options, config, data)
    old = weights(tmp_path / "genera")
    assert torch.equal(model.bert.embeddings.word_embeddings.weight, old["bert.embeddings.word_embeddings.weight"])
    assert not torch.equal(model.taxon_classifier.weight, old["taxon_classifier.weight"])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"ranks": ["tribe"]}, ValueError, r"ranks are \['tribe'\]. Choose one or more of phylum, class"),
        ({"ranks": []}, ValueError, "Choose one or more"),
        ({"ranks": ["genus", "genus"]}, ValueError, "each once"),
        ({"ranks": ["species", "subfamily"]}, ValueError, "no label at the rank 'subfamily'"),
        ({"ranks": ["phylum"]}, ValueError, "the one class 'Arthropoda' at the rank 'phylum'"),
        ({"preset": "publisht"}, ValueError, "Unknown preset 'publisht'. Choose one of default, published"),
        ({"pooling": "max"}, ValueError, "Unknown pooling 'max'"),
        ({"train_split": "training"}, ValueError, "Unknown split 'training'"),
        ({"test_splits": ["test_unseen"]}, ValueError, "No rows of split 'test_unseen'"),
        ({"lora_rank": 2, "freeze_encoder": True}, ValueError, "leave one of them out"),
        ({"lora_rank": -1}, ValueError, "lora_rank is -1"),
        ({"label_smoothing_factor": 0.1}, ValueError, "label_smoothing_factor.*Fine-tuning has --label_smoothing"),
        ({"label_smoothing": [0.1, 0.1]}, ValueError, "Shares of label smoothing: 2, ranks: 1. Give as many"),
        ({"label_smoothing": [0.0]}, ValueError, "--label_smoothing is 0 at each rank, which smooths nothing"),
        ({"label_smoothing": [1.0]}, ValueError, "give 0 or more, less than 1 together"),
        ({"class_weights": "sqrt"}, ValueError, "--class_weights is 'sqrt'. Choose one of none, inverse_sqrt"),
        ({"source": "no/such/folder"}, FileNotFoundError, "nothing at 'no/such/folder'"),
        ({"model": "no/such/folder"}, FileNotFoundError, "'no/such/folder' is neither an existing folder"),
        ({"dataloader_persistent_workers": True}, ValueError, "persistent_workers needs --dataloader_num_workers"),
    ],
)
def test_impossible_options_are_refused_before_writing(source, pretrained, tmp_path, options, error, message):
    rows = [row | {"phylum": "Arthropoda"} for split in ("train", "val", "test") for row in metadata(source, split)]
    path = write_csv(tmp_path / "metadata.csv", rows)
    with pytest.raises(error, match=message):
        program.main(*arguments(**({"source": path, "model": pretrained, "folder": tmp_path / "run"} | options)))
    assert not (tmp_path / "run").exists()


def test_a_folder_without_a_barcode_model_is_refused(source, pretrained, tmp_path):
    """Another type of model, no tokenizer, the tokenizer of another model, and an encoder without its weights."""
    cases = {}
    for name in ("bert", "bare", "other", "empty"):
        shutil.copytree(pretrained, tmp_path / name)
    BertConfig(num_hidden_layers=1).save_pretrained(tmp_path / "bert")
    cases["bert"] = (ValueError, "of type 'bert'. Give a model of type barcodebert")
    (tmp_path / "bare/tokenizer.json").unlink()
    cases["bare"] = (FileNotFoundError, "has no tokenizer.json")
    KmerTokenizer(k=4, max_nucleotides=60).save_pretrained(tmp_path / "other")
    cases["other"] = (ValueError, "has k 4, but its config has 3")
    BarcodeBertConfig(**TINY | {"num_hidden_layers": 2}).save_pretrained(tmp_path / "empty")
    cases["empty"] = (ValueError, "has no weights for encoder.layer.1")
    for name, (error, message) in cases.items():
        with pytest.raises(error, match=message):
            program.main(*arguments(source, tmp_path / name, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_run_of_other_classes_is_not_resumed(source, pretrained, tmp_path):
    options = {"max_steps": 1, "save_strategy": "steps", "save_steps": 1}
    folder = tmp_path / "run"
    program.main(*arguments(source, pretrained, folder, **options))
    fewer = [row for row in metadata(source, "train") if row["species"] != "G3 s7"] + metadata(source, "val")
    path = write_csv(tmp_path / "fewer.csv", [*fewer, *metadata(source, "test")])
    with pytest.raises(ValueError, match="another run: classes was"):
        program.main(*arguments(path, pretrained, folder, resume_from_checkpoint="last", **options))
