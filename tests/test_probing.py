"""The kNN probe against scikit-learn and the published protocol's numbers, its ties, its chunks, and the rows that
must not count; the linear probe on data whose answer is known."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

from bioscan_hf.metrics import f1
from bioscan_hf.probing import knn_probe, linear_probe

FIXTURE = Path(__file__).parent / "fixtures" / "knn_probe.npz"


def blobs(n_train=200, n_test=90, dim=16, classes=7, noise=1.0, seed=0):
    """Rows around a centre per class. The ids are neither contiguous nor in order of occurrence."""
    rng = np.random.default_rng(seed)
    centres, names = rng.normal(size=(classes, dim)), rng.permutation(100)[:classes]
    parts = []
    for n in (n_train, n_test):
        codes = rng.integers(classes, size=n)
        parts += [(centres[codes] + noise * rng.normal(size=(n, dim))).astype(np.float32), names[codes]]
    return parts


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("k", [1, 2, 3, 5, 10])
def test_equals_scikit_learn(metric, k):
    """Same neighbours and same vote; k=2 is decided by ties alone."""
    train, train_ids, test, test_ids = blobs(noise=2.0)
    peer = KNeighborsClassifier(k, metric=metric, algorithm="brute").fit(train, train_ids)
    result = knn_probe(train, train_ids, test, test_ids, k=k, metric=metric)
    np.testing.assert_array_equal(result.predictions, peer.predict(test))
    np.testing.assert_array_equal(result.neighbours, peer.kneighbors(test, return_distance=False))
    assert result.micro_accuracy == pytest.approx(peer.score(test, test_ids))
    assert 0.2 < result.micro_accuracy < 0.95, "too easy or too hard to tell a right search from a wrong one"
    assert (result.n_train, result.n_test) == (200, 90)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("k", [1, 4])
def test_chunks_do_not_change_the_result(metric, k):
    """Chunks of 1 to 150 keys, the last of them never full, against all keys at once."""
    data = blobs(n_test=30)
    whole = knn_probe(*data, k=k, metric=metric)
    for size in (1, 7, 64, 150):
        np.testing.assert_array_equal(
            knn_probe(*data, k=k, metric=metric, chunk_size=size).neighbours, whole.neighbours
        )


def test_more_neighbours_than_a_chunk_holds():
    data = blobs(n_train=101, n_test=5)
    whole, chunked = (knn_probe(*data, k=100, chunk_size=size) for size in (101, 1))
    np.testing.assert_array_equal(chunked.neighbours, whole.neighbours)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, 210), st.sampled_from(["cosine", "euclidean"]), st.integers(0, 99))
def test_of_equally_near_rows_the_first_ones_are_taken(k, chunk_size, metric, seed):
    """Every key occurs many times, so the k nearest must be the k first copies of the nearest key, in order."""
    rng = np.random.default_rng(seed)
    distinct = rng.normal(size=(3, 37)).astype(np.float32)
    copies = rng.permutation(np.repeat(np.arange(3), 70))
    result = knn_probe(distinct[copies], copies, distinct, np.arange(3), k=k, metric=metric, chunk_size=chunk_size)
    assert result.neighbours.tolist() == [np.flatnonzero(copies == i)[:k].tolist() for i in range(3)]


@pytest.fixture(scope="module")
def published():
    """Embeddings and taxa of a toy set: 70 train rows and 60 rows of other species of the same 5 genera."""
    with np.load(FIXTURE) as arrays:
        return dict(arrays)


def label_ids(data, rank, rows=slice(None)):
    names, ids = np.unique(np.concatenate([data[f"train_{rank}"], data[f"unseen_{rank}"]]), return_inverse=True)
    return ids[: len(data["train"])], ids[len(data["train"]) :][rows]


@pytest.mark.parametrize(
    ("rank", "k", "metric", "accuracy", "f1_macro"),
    [
        ("genus", 1, "cosine", 60.0, 56.06),
        ("family", 1, "cosine", 60.0, 56.06),
        ("genus", 3, "cosine", 61.67, 55.79),
        ("genus", 1, "euclidean", 60.0, 56.06),
    ],
)
def test_published_protocol(published, rank, k, metric, accuracy, f1_macro):
    """Percentages that BarcodeBERT's own knn_probing program printed for these embeddings, to two decimals."""
    train_ids, ids = label_ids(published, rank)
    result = knn_probe(published["train"], train_ids, published["unseen"], ids, k=k, metric=metric)
    scores = f1(result.predictions, ids)
    assert round(100 * result.micro_accuracy, 2) == round(100 * result.macro_accuracy, 2) == accuracy
    assert round(100 * scores["f1_micro"], 2) == accuracy
    assert round(100 * scores["f1_macro"], 2) == round(100 * scores["f1_weighted"], 2) == f1_macro


@pytest.mark.parametrize(("k", "accuracy"), [(1, 100.0), (3, 98.57)])
def test_published_protocol_on_the_train_set_itself(published, k, accuracy):
    train_ids, _ = label_ids(published, "genus")
    result = knn_probe(published["train"], train_ids, published["train"], train_ids, k=k)
    assert round(100 * result.micro_accuracy, 2) == accuracy


@pytest.mark.parametrize("absent", ["Genus0", "Genus4"])
def test_test_set_that_lacks_a_genus(published, absent):
    """The published program numbers the taxa of each file anew, and prints 0.0 % without Genus0 and 31.67 % for BINs
    of which none occurs in train. With ids that mean the same in both files it is 52.08 %, and 0."""
    rows = published["unseen_genus"] != absent
    train_ids, ids = label_ids(published, "genus", rows)
    result = knn_probe(published["train"], train_ids, published["unseen"][rows], ids)
    assert round(100 * result.micro_accuracy, 2) == 52.08
    train_ids, ids = label_ids(published, "dna_bin")
    assert knn_probe(published["train"], train_ids, published["unseen"], ids).micro_accuracy == 0.0
    per_file = [np.unique(published[f"{part}_dna_bin"], return_inverse=True)[1] for part in ("train", "unseen")]
    wrong = knn_probe(published["train"], per_file[0], published["unseen"], per_file[1])
    assert round(100 * wrong.micro_accuracy, 2) == 31.67


def test_rows_without_a_label():
    """The nearest key of the query (1, 0) has no label, so the next one decides. The second query has no label: it is
    predicted and not counted."""
    keys = np.array([[1, 0], [0.9, 0.1], [0, 1]], dtype=np.float32)
    result = knn_probe(keys, [-1, 4, 2], np.eye(2), [4, -1])
    assert result.predictions.tolist() == [4, 2]
    assert result.neighbours.tolist() == [[1], [2]], "neighbours are rows of what was given, not of what was kept"
    assert (result.n_train, result.n_test, result.micro_accuracy) == (2, 1, 1.0)
    assert knn_probe(keys, [-1, 4, 2], np.eye(2), [-1, -1]).micro_accuracy is None


def test_unknown_test_label_is_wrong():
    """Two queries of class 0, right; one of class 9 that no key has. Micro 2/3, macro (1 + 0) / 2."""
    result = knn_probe(np.eye(2), [0, 1], np.array([[1, 0], [1, 0.1], [0, 1]]), [0, 0, 9])
    assert (result.micro_accuracy, result.macro_accuracy) == (pytest.approx(2 / 3), 0.5)


def test_majority_beats_the_nearest_and_ties_go_to_the_smallest_id():
    """Neighbours of (1, 0) by distance have the labels 8, 5, 5, 8: k=1 -> 8; k=3 -> 5; k=2 and k=4 tie -> 5."""
    keys = np.array([[1, 0.1], [1, 0.2], [1, 0.3], [1, 0.4]])
    predictions = [knn_probe(keys, [8, 5, 5, 8], [[1, 0]], [5], k=k).predictions[0] for k in (1, 2, 3, 4)]
    assert predictions == [8, 5, 5, 5]


def test_cosine_with_zeros_is_zero():
    """A flagged barcode is a row of zeros. As a key it is nearer than a key that points away, and as a query it is
    equally near to all: the first key."""
    keys = np.array([[-1, 0], [0, 0], [-1, -1]], dtype=np.float32)
    result = knn_probe(keys, [0, 1, 2], np.array([[1, 0], [0, 0]], dtype=np.float32), [1, 0])
    assert result.predictions.tolist() == [1, 0]


def test_euclidean_distance_far_from_the_origin():
    """Points 1e-3 apart at a distance of 1e4: squares near 1e8, whose float32 spacing of 8 hides the order."""
    offsets = np.arange(50, dtype=np.float32) / 512
    x = np.stack([np.full(50, 2**13, np.float32) + offsets, np.zeros(50, np.float32)], axis=1)
    result = knn_probe(x, np.arange(50), x, np.arange(50), metric="euclidean")
    assert result.micro_accuracy == 1.0


@pytest.mark.parametrize("probe", [knn_probe, linear_probe])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({0: np.ones((0, 3)), 1: []}, r"train_embeddings must be a matrix .* got \(0, 3\)"),
        ({2: np.ones(3)}, r"test_embeddings must be a matrix .* got \(3,\)"),
        ({1: [0, 1]}, r"train_labels has the shape \(2,\), but train_embeddings has 4 rows"),
        ({1: ["a", "b", "c", "d"]}, r"train_labels must be class ids .* LabelMaps.encode"),
        ({2: np.ones((1, 2)), 3: [0]}, "train_embeddings have 3 dimensions and test_embeddings 2"),
        ({0: [[1, 1, 1], [np.nan, 1, 1], [1, 1, 1], [1, np.inf, 1]]}, "train_embeddings has NaN .* in the rows 1, 3:"),
        ({2: np.full((9, 3), np.inf), 3: [0] * 9}, "test_embeddings has NaN .* rows 0, 1, 2, 3, 4 and 4 more"),
    ],
)
def test_bad_input_is_refused(probe, changes, message):
    arguments = [np.eye(4, 3), [0, 1, 2, 3], np.eye(2, 3), [0, 1]]
    for place, value in changes.items():
        arguments[place] = value
    with pytest.raises(ValueError, match=message):
        probe(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "manhattan"}, "Unknown metric 'manhattan'. The kNN probe has 'cosine' and 'euclidean'"),
        ({"k": 3}, "k=3 neighbours of 2 train rows with a label"),
        ({"k": 0}, "k=0 neighbours"),
        ({"chunk_size": 0}, "chunk_size .* got 0"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        knn_probe(np.eye(3), [0, 1, -1], np.eye(3), [0, 1, 2], **options)


@pytest.mark.parametrize("options", [{}, {"protocol": "upstream", "epochs": 60}])
def test_linear_probe_separates_what_is_separable(options):
    """Far-apart classes: all right. The features differ in scale by 10,000, and ids are not contiguous."""
    train, train_ids, test, test_ids = blobs(noise=0.1)
    scale = np.where(np.arange(train.shape[1]) % 2, 1e-2, 1e2) if not options else 50.0
    train_ids = np.where(np.arange(len(train)) % 9, train_ids, -1)
    result = linear_probe(train * scale, train_ids, test * scale, test_ids, **options)
    assert result.micro_accuracy == result.macro_accuracy == 1.0
    assert result.neighbours is None
    assert result.n_train == (train_ids != -1).sum() < len(train)
    assert set(result.predictions) <= set(train_ids) - {-1}


def test_linear_probe_is_repeatable_and_leaves_the_random_state_alone():
    import torch

    data = blobs()
    state = torch.get_rng_state()
    one, two = (linear_probe(*data, protocol="upstream", epochs=3, seed=1) for _ in range(2))
    np.testing.assert_array_equal(one.predictions, two.predictions)
    assert torch.equal(state, torch.get_rng_state())
    other = linear_probe(*data, protocol="upstream", epochs=3, seed=2)
    assert (one.predictions != other.predictions).any(), "the seed does nothing"


def test_linear_probe_refuses_what_it_cannot_learn():
    with pytest.raises(ValueError, match="two or more classes, and the 2 labelled train rows have 1"):
        linear_probe(np.eye(3), [5, 5, -1], np.eye(3), [5, 5, 5])
    with pytest.raises(ValueError, match="Unknown protocol 'sgd'. The linear probe has 'default' and 'upstream'"):
        linear_probe(np.eye(3), [0, 1, 2], np.eye(3), [0, 1, 2], protocol="sgd")
    with pytest.raises(ValueError, match="one constant"):
        linear_probe(np.ones((2, 3)), [0, 1], np.eye(3), [0, 1, 0], protocol="upstream")
