"""Labels, batches, predictions and metrics of taxa: small cases with known results."""

import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset

from bioscan_hf.models.configuration_barcodebert import BarcodeBertConfig
from bioscan_hf.models.modeling_barcodebert import BarcodeBertForSequenceClassification, BarcodeBertModel
from bioscan_hf.models.tokenization_kmer import KmerTokenizer
from bioscan_hf.training.masking import IGNORED
from bioscan_hf.training.taxa import (
    UNSEEN,
    TaxonCollator,
    add_labels,
    class_parents,
    count_tokens,
    score_logits,
    summarize,
    training_classes,
    write_predictions,
)

SHAPE = {"k": 3, "max_nucleotides": 30, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}


def test_classes_are_the_names_of_the_training_rows_in_order():
    data = Dataset.from_dict({"genus": ["B", None, "A", "B", ""], "species": ["b", "a", None, "c", None]})
    assert training_classes(data, ["genus", "species"]) == {"genus": ["A", "B"], "species": ["a", "b", "c"]}
    with pytest.raises(ValueError, match="the one class 'x' at the rank 'order'"):
        training_classes(Dataset.from_dict({"order": ["x", "x", None]}), ["order"])
    with pytest.raises(ValueError, match="no label at the rank 'order'"):
        training_classes(
            Dataset.from_dict(
                {"order": [None, None]}, features=data.select_columns("genus").rename_column("genus", "order").features
            ),
            ["order"],
        )


def test_a_parent_is_that_of_most_rows():
    """Species s is in A once and in B twice; t once in either, so that the first wins; u has no genus; v is in C."""
    genus = ["A", "B", "B", "B", "A", None, "C", "C"]
    species = ["s", "s", "s", "t", "t", "u", "v", None]
    classes = {"genus": ["A", "B", "C"], "species": ["s", "t", "u", "v"]}
    data = Dataset.from_dict({"genus": genus, "species": species})
    assert class_parents(data, classes) == ({"species": [1, 0, -1, 2]}, 2)
    assert class_parents(data, {"genus": classes["genus"]}) == ({}, 0)


def test_labels_of_missing_names_and_of_taxa_without_a_class():
    """Names without a class are numbered in lexicographic order: "new" before "old"."""
    data = Dataset.from_dict({"species": ["b", None, "old", "a", "", "new", "old"]})
    labelled = add_labels(data, {"species": ["a", "b"]})
    assert labelled["species_label"][:] == [1, IGNORED, UNSEEN - 1, 0, IGNORED, UNSEEN, UNSEEN - 1]
    assert labelled["species"][:] == data["species"][:]


def collator(**options):
    tokenizer = KmerTokenizer(k=3, max_nucleotides=30)
    given = {"ranks": ["species"], "random_offset": True, "cut_padding": True, "seed": 1} | options
    return TaxonCollator(tokenizer, given.pop("ranks"), **given)


def rows(n=40, seed=0):
    draw = np.random.default_rng(seed)
    return [
        {
            "dna_barcode": "".join(draw.choice(list("ACGT"), draw.integers(6, 30))),
            "species_label": i,
            "genus_label": -i,
        }
        for i in range(n)
    ]


def test_frames_follow_from_seed_epoch_and_barcode_alone():
    """The same in any batch; different from epoch to epoch; each of the k frames occurs."""
    features, take = rows(), collator(cut_padding=False)
    whole = take(features)
    parts = [take(features[i : i + 7]) for i in range(0, len(features), 7)]
    assert torch.equal(torch.cat([part["input_ids"] for part in parts]), whole["input_ids"])
    take.set_epoch(1)
    changed = (take(features)["input_ids"] != whole["input_ids"]).any(1)
    assert 0.4 < changed.float().mean() < 0.9  # 2 of 3 are expected
    frames = [
        KmerTokenizer(k=3, max_nucleotides=30).encode_column([f["dna_barcode"] for f in features], offset=i)[0]
        for i in range(3)
    ]
    ids = whole["input_ids"].numpy()
    found = [(ids == frame).all(1) for frame in frames]
    assert np.all(np.any(found, axis=0)) and all(frame.sum() > 5 for frame in found)
    still = collator(random_offset=False, cut_padding=False)(features)
    assert torch.equal(still["input_ids"], torch.from_numpy(frames[0]))


def test_padding_is_cut_where_it_changes_nothing():
    features = rows(5)[:3]
    cut, full = (collator(random_offset=False, cut_padding=cut)(features) for cut in (True, False))
    barcodes = Dataset.from_dict({"dna_barcode": [feature["dna_barcode"] for feature in features]})
    lengths = count_tokens(barcodes, KmerTokenizer(k=3, max_nucleotides=30))
    assert cut["input_ids"].shape == (3, lengths.max()) and full["input_ids"].shape == (3, 10)
    assert cut["attention_mask"].sum(1).tolist() == full["attention_mask"].sum(1).tolist() == lengths.tolist()
    model = BarcodeBertModel(BarcodeBertConfig(**SHAPE)).eval()
    del cut["labels"], full["labels"]
    with torch.no_grad():
        torch.testing.assert_close(model(**cut).pooler_output, model(**full).pooler_output, rtol=0, atol=1e-6)
    short = collator()([{"dna_barcode": "A", "species_label": 0}])
    assert short["input_ids"].shape == (1, 1) and short["attention_mask"].sum() == 0


def test_several_ranks_make_a_column_each():
    batch = collator(ranks=["genus", "species"])(rows(3))
    assert batch["labels"].tolist() == [[0, 0], [-1, 1], [-2, 2]] and batch["labels"].dtype == torch.int64
    assert collator()(rows(3))["labels"].tolist() == [0, 1, 2]


def test_scores_of_known_logits():
    """Genera A, B and species s (of A), t and u (of B). Alone, A leads by 0.6 and t by 0.5.

    Together, A and s have 0.6 * 0.3, B and t 0.4 * 0.5, B and u 0.4 * 0.2: B and t lead, with 0.20 / 0.46.
    """
    config = BarcodeBertConfig(
        **SHAPE, taxa={"genus": ["A", "B"], "species": ["s", "t", "u"]}, parents={"species": [0, 1, 1]}
    )
    model = BarcodeBertForSequenceClassification(config)
    logits = torch.tensor([[0.6, 0.4, 0.3, 0.5, 0.2]]).log()
    scores = score_logits(logits, torch.tensor([[1, UNSEEN]]), model)
    assert scores.shape == (1, 2, 5)
    genus, species = scores[0].tolist()
    assert genus == pytest.approx([0, 0.6, -math.log(0.4), 1, 0.28 / 0.46], abs=1e-6)
    assert species[:2] == pytest.approx([1, 0.5]) and math.isnan(species[2])
    assert species[3:] == pytest.approx([1, 0.20 / 0.46], abs=1e-6)
    one = score_logits(logits[:, 2:], torch.tensor([0]), model)
    assert one[0, 0].tolist() == pytest.approx([1, 0.5, -math.log(0.3), 1, 0.5], abs=1e-6)


def test_the_published_cross_entropy(reference):
    """The published fine-tuned model's loss over a batch is the mean of the scores' nats."""
    data = np.load(reference / "barcodebert/finetune_forward.npz")
    scores = score_logits(torch.from_numpy(data["logits"]), torch.from_numpy(data["labels"]), None)
    assert scores[:, 0, 2].double().mean().item() == pytest.approx(data["loss"].item(), abs=1e-6)
    assert scores[:, 0, 0].tolist() == data["logits"].argmax(1).tolist()


def test_metrics_of_known_predictions():
    """5 specimens, classes 0 and 1: right, wrong, right; one without a label; one whose taxon is not a class.

    Of 4 labelled ones 2 are right, and 3 have a class. Accuracies of the classes: 0 -> 1/2, 1 -> 1, the other -> 0.
    F1 of 0: 2 / (2 + 1); of 1: 2 / (1 + 3); of the other 0. Over the 3 with a class the nats are 1, 3 and 2.
    Confidences are 0.9 for two that are right and wrong, 0.7 and 0.7 for two that are right and wrong: the gaps are
    0.4 and 0.2, each for half of them.
    """
    scores = np.zeros((5, 1, 5), np.float32)
    scores[:, 0, 0] = [0, 1, 1, 0, 1]
    scores[:, 0, 1] = [0.9, 0.9, 0.7, 0.1, 0.7]
    scores[:, 0, 2] = [1, 3, 2, np.nan, np.nan]
    labels = np.array([0, 0, 1, IGNORED, UNSEEN])
    independent, consistent = summarize(scores, labels, {"species": ["a", "b"]})
    assert consistent == {}
    found = independent["species"]
    assert found == {
        "micro_accuracy": 0.5,
        "macro_accuracy": pytest.approx(0.5),
        "support": 4,
        "classes": 3,
        "f1_micro": 0.5,
        "f1_macro": pytest.approx((2 / 3 + 1 / 2 + 0) / 3),
        "f1_weighted": pytest.approx((2 * 2 / 3 + 1 / 2 + 0) / 4),
        "expected_calibration_error": pytest.approx(0.3, abs=1e-6),
        "coverage": 0.75,
        "cross_entropy_nats": 2.0,
    }


def test_metrics_of_several_ranks():
    scores = np.zeros((2, 2, 5), np.float32)
    scores[:, 0, 3], scores[:, 1, 0] = 1, 1  # the consistent answers of the first rank, the independent of the second
    classes = {"genus": ["A", "B"], "species": ["s", "t"]}
    independent, consistent = summarize(scores, np.array([[1, 1], [1, 1]]), classes)
    found = [kind[rank]["micro_accuracy"] for kind in (independent, consistent) for rank in classes]
    assert found == [0, 1, 1, 0]
    assert "cross_entropy_nats" not in consistent["genus"]
    nothing, _ = summarize(scores, np.full((2, 2), IGNORED), classes)
    assert nothing["genus"]["micro_accuracy"] is None and nothing["genus"]["cross_entropy_nats"] is None


def test_the_predictions_file(tmp_path):
    scores = np.array([[[1, 0.5, 0.1, 0, 0.4], [0, 0.25, 0.1, -1, 0.125]]], np.float32)
    path = tmp_path / "predictions.parquet"
    write_predictions(path, {"test": (["P1"], scores)}, {"genus": ["A", "B"], "species": ["s", "t"]})
    common = {"processid": "P1", "split": "test"}
    assert pq.read_table(path).to_pylist() == [
        common
        | {"rank": "genus", "name": "B", "probability": 0.5, "consistent_name": "A"}
        | {"consistent_probability": pytest.approx(0.4)},
        common
        | {"rank": "species", "name": "s", "probability": 0.25, "consistent_name": None}
        | {"consistent_probability": 0.125},
    ]
    assert [file.name for file in tmp_path.iterdir()] == ["predictions.parquet"]
