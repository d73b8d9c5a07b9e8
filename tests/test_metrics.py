"""Accuracy, F1 and metrics of confidence against numbers by hand and scikit-learn, and rows that do not count."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, brier_score_loss, f1_score

from bioscan_hf.hub.evaluate_metrics import TaxonAccuracy
from bioscan_hf.metrics import (
    accuracy,
    adaptive_calibration_error,
    adjusted_mutual_information,
    brier_score,
    confidence_threshold,
    coverage,
    expected_calibration_error,
    f1,
    harmonic_mean,
    hierarchical_accuracy,
    risk_coverage_curve,
    selective_accuracy,
    top_k_accuracy,
)

ids = st.integers(0, 5)
pairs = st.lists(st.tuples(ids, ids), min_size=1, max_size=40).map(lambda rows: np.array(rows).T)


def test_hand_made_accuracy():
    """Class 0: 3 of 4 right; class 7: 0 of 1 (predicted -1, which is wrong); the last row has no label.
    Micro 3/5; macro (3/4 + 0/1) / 2 = 3/8."""
    result = accuracy([0, 0, 0, 2, -1, 0], [0, 0, 0, 0, 7, -1])
    assert result == {"micro_accuracy": 0.6, "macro_accuracy": 0.375, "support": 5, "classes": 2}
    assert {type(value) for value in result.values()} == {float, int}, "numpy scalars do not fit in JSON"


def test_prediction_of_minus_1_is_never_right():
    """A row without a label, predicted as -1, must not count as a hit."""
    assert accuracy([-1, 1], [-1, 0])["micro_accuracy"] == 0.0


def test_nothing_left_is_null():
    """Without labelled specimens the metrics are None, neither 0 nor NaN."""
    nothing = {"micro_accuracy": None, "macro_accuracy": None, "support": 0, "classes": 0}
    assert accuracy([], []) == accuracy([1, 2], [-1, -1]) == nothing
    assert top_k_accuracy(np.zeros((2, 3), int), [-1, -1]) == nothing
    assert f1([3], [-1]) == {"f1_micro": None, "f1_macro": None, "f1_weighted": None}


@pytest.mark.parametrize("missing", [-1, -100, -1000])
def test_every_negative_label_is_missing(missing):
    """Collators and losses write -100 where tables have -1; both are the same in every metric."""
    predicted, true, sure = [0, 1, 2, 0, 1], [0, 1, missing, missing, 0], [0.9, 0.8, 0.7, 0.6, 0.5]
    for metric in (accuracy, f1, adjusted_mutual_information):
        assert metric(predicted, true) == metric(predicted, [0, 1, -1, -1, 0])
    for metric in (expected_calibration_error, adaptive_calibration_error, brier_score, selective_accuracy):
        assert metric(sure, predicted, true) == metric(sure, predicted, [0, 1, -1, -1, 0])
    assert accuracy(predicted, true)["support"] == 3 and coverage(true, [0]) == pytest.approx(2 / 3)
    assert top_k_accuracy(np.array(predicted)[:, None], true)["support"] == 3
    assert hierarchical_accuracy({"genus": predicted}, {"genus": true})["support"] == 3
    assert accuracy([missing, 1], [0, 1])["micro_accuracy"] == 0.5, "a negative prediction is wrong"
    assert accuracy([0, 1], [0, 7], ignore=7)["support"] == 1, "another id can mean missing too"


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
        (accuracy, [[0, 1]], [0], r"predictions must have the shape \(N,\), got \(1, 2\)"),
        (accuracy, ["Apis"], ["Apis"], "predictions must be class ids .* LabelMaps.encode"),
        (accuracy, [0.0], [0], "predictions must be class ids .* got float64"),
        (top_k_accuracy, [0, 1], [0, 1], r"predictions must have the shape \(N, K\), got \(2,\)"),
        (f1, [0], [0, 1], "1 predictions for 2 references"),
    ],
)
def test_bad_input_raises(function, predictions, references, message):
    with pytest.raises(ValueError, match=message):
        function(predictions, references)


#: Confidence, and whether the answer is right.
ANSWERS = [(0.95, True), (0.95, False), (0.75, True), (0.75, True), (0.5, False)]
answers = st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.25, 1 / 3, 0.5, 0.9, 1.0]), st.booleans()), min_size=1)
CONFIDENCE_METRICS = (expected_calibration_error, adaptive_calibration_error, brier_score, selective_accuracy)


def columns(rows):
    """Confidences, predictions and references: class 1 where the answer is right, else class 0, of predictions 1."""
    return [c for c, _ in rows], [1] * len(rows), [int(right) for _, right in rows]


def test_hand_made_calibration_errors():
    """5 answers in 2 bins of equal width: only 0.5, which is wrong, lies in the lower bin (0, 0.5]: gap 0.5. The other
    four sum to 3.4, and 3 are right: gap 0.4. Together (0.5 + 0.4) / 5 = 0.18.
    In 2 bins of equal mass, the three most confident are 0.95, 0.95, 0.75, of which the first two share one hit: sum
    of confidences 2.65, hits 0.5 + 0.5 + 1; then 0.75 and 0.5 with 1 hit: 1.25. (0.65 + 0.25) / 5 = 0.18. With 5 bins
    of one row each, (0.45 + 0.45 + 0.25 + 0.25 + 0.5) / 5 = 0.38."""
    rows = columns(ANSWERS)
    assert expected_calibration_error(*rows, bins=2) == pytest.approx(0.18)
    assert adaptive_calibration_error(*rows, bins=2) == pytest.approx(0.18)
    assert adaptive_calibration_error(*rows, bins=5) == pytest.approx(0.38)
    assert expected_calibration_error([0.0, 1.0], [0, 1], [1, 1]) == 0.0, "0 belongs to the first bin, 1 to the last"


def test_bins_of_equal_width_hold_their_upper_edge():
    """0.2, right, and 0.1, wrong, share the first of 5 bins: |1 - 0.3| / 2. In bins of their own: (0.8 + 0.1) / 2."""
    assert expected_calibration_error([0.2, 0.1], [1, 1], [1, 0], bins=5) == pytest.approx(0.35)


@given(answers)
def test_brier_score_is_scikit_learns(rows):
    confidences, predictions, references = columns(rows)
    assert brier_score(confidences, predictions, references) == pytest.approx(
        brier_score_loss(references, confidences, labels=[0, 1], pos_label=1)
    )


def test_hand_made_risk_and_coverage():
    """Answered at 0.95: 2 of 5, 1 wrong; at 0.75: 4 of 5, 1 wrong; at 0.5: all, 2 wrong. With shared hits the
    accuracies of the n most confident are 1/2, 1/2, 2/3, 3/4, 3/5, whose mean is 181/300. 90 and 95 % of 5 are 5."""
    thresholds, answered, risk = risk_coverage_curve(*columns(ANSWERS))
    assert thresholds.tolist() == [0.95, 0.75, 0.5] and answered.tolist() == [0.4, 0.8, 1.0]
    np.testing.assert_allclose(risk, [0.5, 0.25, 0.4])
    expected = {
        "aurc": pytest.approx(119 / 300),
        "accuracy_at_90": pytest.approx(0.6),
        "accuracy_at_95": pytest.approx(0.6),
    }
    assert selective_accuracy(*columns(ANSWERS)) == expected
    graded = [(c / 100, c > 7) for c in range(1, 101)]  # the 7 least confident are wrong
    assert selective_accuracy(*columns(graded))["accuracy_at_90"] == 1.0
    assert selective_accuracy(*columns(graded))["accuracy_at_95"] == pytest.approx(93 / 95)


def test_hand_made_threshold():
    """Three of four are right from 0.75 on, one of two from 0.95 on: for 0.7 it is 0.75, for 0.5 it is 0.5, where all
    five are answered and three are right. Nothing reaches 0.8."""
    rows = columns(ANSWERS)
    expected = {"threshold": 0.75, "accuracy": pytest.approx(0.75), "answered": 0.8}
    assert confidence_threshold(*rows, target=0.7) == confidence_threshold(*rows, target=0.75) == expected
    assert confidence_threshold(*rows, target=0.5)["threshold"] == 0.5
    assert confidence_threshold(*rows, target=0.8) == {"threshold": None, "accuracy": None, "answered": 0.0}
    assert confidence_threshold([], [], [])["answered"] is None
    with pytest.raises(ValueError, match="target is 95; give an accuracy above 0 and up to 1"):
        confidence_threshold(*rows, target=95)


@given(answers, st.randoms(use_true_random=False))
def test_confidence_metrics_do_not_depend_on_the_order_nor_on_rows_without_a_label(rows, random):
    other = [*rows]
    random.shuffle(other)
    for metric in CONFIDENCE_METRICS:
        expected = pytest.approx(metric(*columns(rows)))
        assert metric(*columns(other)) == expected
        confidences, predictions, references = columns(other)
        assert metric([*confidences, 0.9], [*predictions, 3], [*references, -1]) == expected
        assert metric([0.9], [3], [-1]) in (None, {"aurc": None, "accuracy_at_90": None, "accuracy_at_95": None})


@given(answers, st.sampled_from([0.3, 0.5, 0.9, 1.0]))
def test_threshold_is_the_smallest_that_reaches_the_target(rows, target):
    """At or above it the accuracy is at least the target; at any smaller confidence of the set it is below."""
    confidences, _, right = (np.array(column) for column in columns(rows))
    found = confidence_threshold(*columns(rows), target=target)
    limit = 2.0 if found["threshold"] is None else found["threshold"]
    if found["threshold"] is not None:
        assert (
            right[confidences >= limit].mean() == pytest.approx(found["accuracy"])
            and found["accuracy"] >= target - 1e-9
        )
    for smaller in confidences[confidences < limit]:
        assert right[confidences >= smaller].mean() < target


def test_coverage():
    """Of three labelled rows, two are of a known class."""
    assert coverage([0, 5, 7, -1], [7, 0, 0]) == pytest.approx(2 / 3)
    assert coverage([-1], [0]) is None and coverage([1], []) == 0.0


def test_hand_made_hierarchical_accuracy():
    """Family, genus, species of six specimens: all right; right down to the genus; wrong family (the genus below is
    right, and does not count towards depth); family right, genus unknown, species right; family right, the rest
    unknown; nothing known. Shares 1, 2/3, 1/3, 1, 1; mean 4/5. Deepest: species, genus, none, species, family."""
    references = {"family": [0, 0, 0, 0, 0, -1], "genus": [1, 1, 1, -1, -1, -1], "species": [2, 2, 2, 2, -1, -1]}
    predictions = {"family": [0, 0, 9, 0, 0, 0], "genus": [1, 1, 1, 7, 1, 1], "species": [2, 9, 9, 2, 2, 2]}
    assert hierarchical_accuracy(predictions, references) == {
        "ranks_right": pytest.approx(0.8),
        "deepest": {"none": 0.2, "family": 0.2, "genus": 0.2, "species": 0.4},
        "support": 5,
    }
    nothing = hierarchical_accuracy({"genus": [1]}, {"genus": [-1]})
    assert nothing == {"ranks_right": None, "deepest": {"none": 0.0, "genus": 0.0}, "support": 0}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: brier_score([1.2], [0], [0]), r"probabilities must lie in \[0, 1\]; row 0 has 1.2"),
        (lambda: brier_score([0.5, np.nan], [0, 0], [0, 0]), "row 1 has nan"),
        (lambda: brier_score([[0.5]], [0], [0]), r"probabilities has the shape \(1, 1\), and there are 1 references"),
        (lambda: expected_calibration_error([1], [0], [0], bins=0), "bins is 0; give a positive number"),
        (lambda: hierarchical_accuracy({"genus": [0]}, {"family": [0]}), "must have the same ranks"),
        (
            lambda: hierarchical_accuracy({"g": [0], "s": [0, 1]}, {"g": [0], "s": [0, 1]}),
            "ranks have .1, 2. specimens",
        ),
    ],
)
def test_bad_confidences_raise(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_means_over_many_rows_are_summed_in_float64():
    """300,000 confidences in float32 give the same numbers as in float64; a sum in float32 would not."""
    generator = np.random.default_rng(0)
    confidences = generator.uniform(0.9, 1, 300_000).astype(np.float32)
    predictions, references = np.ones(300_000, int), (generator.uniform(size=300_000) < confidences).astype(int)
    mean = np.abs(np.add.accumulate(confidences)[-1] / 300_000 - confidences.mean(dtype=np.float64))
    assert mean > 1e-6, "float32 is precise enough to make this test useless"
    for metric in CONFIDENCE_METRICS:
        exact = metric(confidences.astype(np.float64), predictions, references)
        assert metric(confidences, predictions, references) == exact
    gap = abs(float((references - confidences.astype(np.float64)).mean()))
    assert expected_calibration_error(confidences, predictions, references, bins=1) == pytest.approx(gap, abs=1e-12)


def test_evaluate_metric(tmp_path):
    """Computed at once, by row and by batch it equals the function; a combined metric keeps its name."""
    import evaluate

    predictions, references = [0, 1, 1, 2], [0, 1, 0, -1]
    expected = accuracy(predictions, references)
    metric = TaxonAccuracy(cache_dir=str(tmp_path))
    assert metric.compute(predictions=predictions, references=references) == expected
    for prediction, reference in zip(predictions, references, strict=True):
        metric.add(prediction=prediction, reference=reference)
    assert metric.compute() == expected
    metric.add_batch(predictions=predictions[:3], references=references[:3])
    metric.add_batch(predictions=predictions[3:], references=references[3:])
    assert metric.compute() == expected
    assert metric.compute(predictions=[1], references=[1], ignore=1)["micro_accuracy"] is None
    both = evaluate.combine({"genus": metric, "species": TaxonAccuracy(cache_dir=str(tmp_path))}, force_prefix=True)
    assert both.compute(predictions=[0], references=[0])["species_micro_accuracy"] == 1.0


def test_import_is_light():
    """The metrics import neither torch, datasets, evaluate nor scikit-learn."""
    code = "import sys, bioscan_hf.metrics; print(*{'torch', 'datasets', 'evaluate', 'sklearn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
