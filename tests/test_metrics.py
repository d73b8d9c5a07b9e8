"""Accuracy and F1 against hand-made numbers and scikit-learn, and the rows that must not count."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from bioscan_hf.metrics import accuracy, f1, harmonic_mean, taxon_accuracy, top_k_accuracy

ids = st.integers(0, 5)
pairs = st.lists(st.tuples(ids, ids), min_size=1, max_size=40).map(lambda rows: np.array(rows).T)


def test_hand_made_accuracy():
    """Class 0: 3 of 4 right; class 7: 0 of 1 (predicted -1, which is wrong); the last row has no label.
    Micro 3/5; macro (3/4 + 0/1) / 2 = 3/8."""
    result = accuracy([0, 0, 0, 2, -1, 0], [0, 0, 0, 0, 7, -1])
    assert result == {"micro_accuracy": 0.6, "macro_accuracy": 0.375, "support": 5, "classes": 2}
    assert {type(value) for value in result.values()} == {float, int}, "numpy scalars do not fit in JSON"


def test_prediction_of_no_class_is_never_right():
    """A row without a label, predicted as -1, must not count as a hit."""
    assert accuracy([-1, 1], [-1, 0])["micro_accuracy"] == 0.0


def test_nothing_left_is_null():
    """Neither 0 nor NaN: there is no accuracy of no specimens."""
    nothing = {"micro_accuracy": None, "macro_accuracy": None, "support": 0, "classes": 0}
    assert accuracy([], []) == accuracy([1, 2], [-1, -1]) == nothing
    assert top_k_accuracy(np.zeros((2, 3), int), [-1, -1]) == nothing
    assert f1([3], [-1]) == {"f1_micro": None, "f1_macro": None, "f1_weighted": None}


def test_another_id_can_be_the_missing_one():
    assert accuracy([0, 1], [0, -100], ignore=-100)["support"] == 1


def test_hand_made_top_k():
    """Rows 0 and 2 hold their reference, row 1 does not, row 3 has none. Micro 2/3; class 4: 1 of 2, class 5: 1 of 1,
    so macro is 3/4."""
    result = top_k_accuracy([[1, 4], [2, 3], [5, 5], [0, -1]], [4, 4, 5, -1])
    assert result == {"micro_accuracy": pytest.approx(2 / 3), "macro_accuracy": 0.75, "support": 3, "classes": 2}


@given(pairs)
def test_equals_scikit_learn(rows):
    predictions, references = rows
    result, scores = accuracy(predictions, references), f1(predictions, references)
    labels = np.unique(rows)
    assert result["micro_accuracy"] == pytest.approx(accuracy_score(references, predictions))
    # scikit-learn warns where a predicted class never occurs in the references, and of a single class.
    if set(predictions) <= set(references) and len(labels) > 1:
        assert result["macro_accuracy"] == pytest.approx(balanced_accuracy_score(references, predictions))
    for average in ("micro", "macro", "weighted"):
        expected = f1_score(references, predictions, average=average, labels=labels, zero_division=0)
        assert scores[f"f1_{average}"] == pytest.approx(expected)


def test_f1_of_an_abstention():
    """Classes 0 and 1, one specimen each, the second predicted as -1: F1 is 1 and 0. Were -1 a class of its own, macro
    would be 1/3."""
    assert f1([0, -1], [0, 1]) == {"f1_micro": 0.5, "f1_macro": 0.5, "f1_weighted": 0.5}


@given(pairs, st.randoms(use_true_random=False))
def test_order_of_rows_and_names_of_classes_do_not_matter(rows, random):
    order, names = list(range(rows.shape[1])), list(range(100, 106))
    random.shuffle(order)
    random.shuffle(names)
    other = np.array(names)[rows[:, order]]
    assert accuracy(*other) == pytest.approx(accuracy(*rows))
    assert f1(*other) == pytest.approx(f1(*rows))


@given(pairs)
def test_top_1_is_the_accuracy_and_a_second_guess_never_hurts(rows):
    predictions, references = rows
    one = top_k_accuracy(predictions[:, None], references)
    two = top_k_accuracy(np.stack([predictions, np.roll(predictions, 1)], axis=1), references)
    assert one == accuracy(predictions, references)
    assert two["micro_accuracy"] >= one["micro_accuracy"] and two["macro_accuracy"] >= one["macro_accuracy"]


def test_harmonic_mean():
    """2 * 0.5 * 0.25 / 0.75 = 1/3."""
    assert harmonic_mean(0.5, 0.25) == pytest.approx(1 / 3)
    assert harmonic_mean(0.0, 0.9) == harmonic_mean(0.9, 0.0) == harmonic_mean(0.0, 0.0) == 0.0
    assert harmonic_mean(None, 0.9) is None
    with pytest.raises(ValueError, match="got -0.1 and 0.5"):
        harmonic_mean(-0.1, 0.5)


@pytest.mark.parametrize(
    ("function", "predictions", "references", "message"),
    [
        (accuracy, [0, 1], [0], "2 predictions for 1 references"),
        (accuracy, [[0, 1]], [0], r"predictions must have 1 dimension\(s\), got the shape \(1, 2\)"),
        (accuracy, ["Apis"], ["Apis"], "predictions must be class ids .* LabelMaps.encode"),
        (accuracy, [0.0], [0], "predictions must be class ids .* got float64"),
        (top_k_accuracy, [0, 1], [0, 1], r"predictions must have 2 dimension\(s\)"),
        (f1, [0], [0, 1], "1 predictions for 2 references"),
    ],
)
def test_bad_input_is_refused(function, predictions, references, message):
    with pytest.raises(ValueError, match=message):
        function(predictions, references)


def test_evaluate_metric(tmp_path):
    """Whole, row by row and batch by batch it gives what the function gives; a combined metric keeps its name."""
    import evaluate

    predictions, references = [0, 1, 1, 2], [0, 1, 0, -1]
    expected = accuracy(predictions, references)
    metric = taxon_accuracy(cache_dir=str(tmp_path))
    assert metric.compute(predictions=predictions, references=references) == expected
    for prediction, reference in zip(predictions, references, strict=True):
        metric.add(prediction=prediction, reference=reference)
    assert metric.compute() == expected
    metric.add_batch(predictions=predictions[:3], references=references[:3])
    metric.add_batch(predictions=predictions[3:], references=references[3:])
    assert metric.compute() == expected
    assert metric.compute(predictions=[1], references=[1], ignore=1)["micro_accuracy"] is None
    both = evaluate.combine({"genus": metric, "species": taxon_accuracy(cache_dir=str(tmp_path))}, force_prefix=True)
    assert both.compute(predictions=[0], references=[0])["species_micro_accuracy"] == 1.0


def test_import_is_light():
    """Whoever wants an accuracy must not wait for torch, datasets or evaluate."""
    code = "import sys, bioscan_hf.metrics; print(*{'torch', 'datasets', 'evaluate', 'sklearn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
