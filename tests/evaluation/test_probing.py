"""kNN and linear probe against scikit-learn and the published numbers; ties, chunks, unlabelled rows, errors."""

import csv
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from torch.utils._python_dispatch import TorchDispatchMode

from bioscan_hf.evaluation import linear_fits
from bioscan_hf.evaluation.probing import knn_probe, linear_probe, probe_barcodes, probe_metrics, probe_ranks


def blobs(n_train=200, n_test=90, dim=16, classes=7, noise=1.0, seed=0):
    """Rows around one centre per class. The ids are neither contiguous nor sorted."""
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
    """Same neighbours and same vote; k=2 is decided by ties only."""
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
    """Chunks of 1 to 150 keys, the last one incomplete, against all keys at once."""
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


def test_rows_without_a_label():
    """The nearest key of the query (1, 0) has no label, so the next one decides. The second query has no label: it is
    predicted and not counted."""
    keys = np.array([[1, 0], [0.9, 0.1], [0, 1]], dtype=np.float32)
    result = knn_probe(keys, [-1, 4, 2], np.eye(2), [4, -1])
    assert result.predictions.tolist() == [4, 2]
    assert result.neighbours.tolist() == [[1], [2]], "neighbours are rows of the given set, not of the labelled rows"
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
    """An invalid barcode is a row of zeros. As a key it is nearer than an opposite key; as a query it is equally near
    to all keys, so the first one wins."""
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
def test_bad_input_raises(probe, changes, message):
    arguments = [np.eye(4, 3), [0, 1, 2, 3], np.eye(2, 3), [0, 1]]
    for place, value in changes.items():
        arguments[place] = value
    with pytest.raises(ValueError, match=message):
        probe(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "manhattan"}, "metric is 'manhattan'; give 'cosine' or 'euclidean'"),
        ({"k": 3}, "k is 3; give a positive number of neighbours, at most 2"),
        ({"k": 0}, "k is 0; give a positive number of neighbours"),
        ({"chunk_size": 0}, "chunk_size is 0; give a positive number"),
    ],
)
def test_bad_options_raise(options, message):
    with pytest.raises(ValueError, match=message):
        knn_probe(np.eye(3), [0, 1, -1], np.eye(3), [0, 1, 2], **options)


@pytest.mark.parametrize("options", [{}, {"protocol": "upstream", "epochs": 60}])
def test_linear_probe_on_separable_classes(options):
    """Separate classes: all right. The features differ in scale by 10,000, and ids are not contiguous."""
    train, train_ids, test, test_ids = blobs(noise=0.1)
    scale = np.where(np.arange(train.shape[1]) % 2, 1e-2, 1e2) if not options else 50.0
    train_ids = np.where(np.arange(len(train)) % 9, train_ids, -1)
    result = linear_probe(train * scale, train_ids, test * scale, test_ids, **options)
    assert result.micro_accuracy == result.macro_accuracy == 1.0
    assert result.neighbours is None
    assert result.n_train == (train_ids != -1).sum() < len(train)
    assert set(result.predictions) <= set(train_ids) - {-1}


def test_linear_probe_is_repeatable_and_leaves_the_random_state_alone():
    data = blobs()
    state = torch.get_rng_state()
    one, two = (linear_probe(*data, protocol="upstream", epochs=3, seed=1) for _ in range(2))
    np.testing.assert_array_equal(one.predictions, two.predictions)
    assert torch.equal(state, torch.get_rng_state())
    other = linear_probe(*data, protocol="upstream", epochs=3, seed=2)
    assert (one.predictions != other.predictions).any(), "the seed does nothing"


def test_linear_probe_errors():
    with pytest.raises(ValueError, match="2 or more classes, and the 2 labelled train rows have 1"):
        linear_probe(np.eye(3), [5, 5, -1], np.eye(3), [5, 5, 5])
    with pytest.raises(ValueError, match="protocol is 'sgd'; give 'default' or 'upstream'"):
        linear_probe(np.eye(3), [0, 1, 2], np.eye(3), [0, 1, 2], protocol="sgd")
    with pytest.raises(ValueError, match="All train embeddings are constant"):
        linear_probe(np.ones((2, 3)), [0, 1], np.eye(3), [0, 1, 0], protocol="upstream")


@pytest.fixture(scope="module")
def toy(reference):
    """Embeddings, taxa and printed numbers of the published program's own toy set."""
    folder = reference / "barcodebert"
    data = {"printed": json.loads((folder / "downstream.json").read_text())}
    data["codes"] = json.loads((folder / "knn_label_codes.json").read_text())
    with np.load(folder / "embeddings_tiny_data.npz") as arrays:
        data["train"], data["unseen"] = arrays["supervised_train_X"], arrays["unseen_X"]
    for name, file in (("train", "supervised_train"), ("unseen", "unseen")):
        taxa = list(csv.DictReader(folder.text(f"tiny_data/{file}.csv").splitlines()))
        columns = {key.removesuffix("_name"): [row[key] for row in taxa] for key in taxa[0]}
        data.update({f"{name}_{rank}": np.array(columns[rank]) for rank in ("genus", "family")})
    return data


def label_ids(data, rank, rows=slice(None)):
    names, ids = np.unique(np.concatenate([data[f"train_{rank}"], data[f"unseen_{rank}"]]), return_inverse=True)
    return ids[: len(data["train"])], ids[len(data["train"]) :][rows]


@pytest.mark.parametrize(
    ("entry", "rank", "options"),
    [
        ("knn_genus", "genus", {}),
        ("knn_family", "family", {}),
        ("knn_genus_k3", "genus", {"k": 3}),
        ("knn_genus_euclidean", "genus", {"metric": "euclidean"}),
        ("knn_genus_BIOSCAN5M_dialect(genus_index)", "genus", {}),
    ],
)
def test_every_printed_number_of_the_published_probe(toy, entry, rank, options):
    train_ids, unseen_ids = label_ids(toy, rank)
    for name, rows, ids in (("Train", toy["train"], train_ids), ("Unseen", toy["unseen"], unseen_ids)):
        result = knn_probe(toy["train"], train_ids, rows, ids, **options)
        scores = probe_metrics(result, train_ids, ids)
        ours = {
            "count": scores["n_test"],
            "accuracy": scores["micro_accuracy"],
            "accuracy-balanced": scores["macro_accuracy"],
            "f1-micro": scores["f1_micro"],
            "f1-macro": scores["f1_macro"],
            "f1-support": scores["f1_weighted"],
        }
        printed = toy["printed"][entry]["metrics"][name]
        assert {key: round(x if key == "count" else 100 * x, 2) for key, x in ours.items()} == printed


@pytest.mark.parametrize("absent", ["None", "Genus0", "Genus4"])
def test_right_value_where_a_genus_is_absent(toy, absent):
    """The published program numbers the genera of each file separately, and is wrong without Genus0."""
    rows = toy["unseen_genus"] != absent
    train_ids, ids = label_ids(toy, "genus", rows)
    result = knn_probe(toy["train"], train_ids, toy["unseen"][rows], ids)
    assert round(100 * result.micro_accuracy, 2) == toy["codes"][absent]["right_accuracy_by_name"]


def test_confidence_is_the_share_of_the_vote_times_similarity():
    """Unit vectors at angles of cosine 0.96, 0.8 and 0.6 from the query, of the labels 4, 7 and 7. k=1: 4 with 0.96.
    k=3: 7 with 2/3 x 0.8. A key that points away has no similarity."""
    keys = np.array([[0.96, 0.28], [0.8, 0.6], [0.6, 0.8], [-1, 0]])
    query = np.array([[2.0, 0.0]])
    one, three = (knn_probe(keys, [4, 7, 7, 9], query, [4], k=k) for k in (1, 3))
    assert one.predictions == 4 and one.confidences == pytest.approx(0.96)
    assert three.predictions == 7 and three.confidences == pytest.approx(2 / 3 * 0.8)
    np.testing.assert_allclose(three.similarities, [[0.96, 0.8, 0.6]], rtol=1e-6)
    assert knn_probe(keys[3:], [9], query, [4]).confidences == 0.0
    assert one.classes.tolist() == [4, 7, 9] and one.probabilities is None


def test_euclidean_similarity():
    """Distances 0, 3 and 4: similarities 1, 1/4, 1/5."""
    result = knn_probe([[0.0], [3.0], [4.0]], [1, 2, 3], [[0.0]], [1], k=3, metric="euclidean")
    np.testing.assert_allclose(result.similarities, [[1, 0.25, 0.2]])
    assert result.predictions == 1 and result.confidences == pytest.approx(1 / 3)


def test_temperature_weighs_near_neighbours_more():
    """The labels 4, 7, 7 at cosines 0.96, 0.8 and 0.6. At temperature 0.1 the votes weigh 1, e^-1.6 and e^-3.6, so
    that 4 wins with 1 / (1 + 0.2019 + 0.0273); at temperature 100 all weigh the same and 7 wins."""
    keys = np.array([[0.96, 0.28], [0.8, 0.6], [0.6, 0.8]])
    near, even = (knn_probe(keys, [4, 7, 7], [[1, 0]], [4], k=3, temperature=t) for t in (0.1, 100))
    assert near.predictions == 4 and near.confidences == pytest.approx(
        0.96 / (1 + np.exp(-1.6) + np.exp(-3.6)), rel=1e-5
    )
    assert even.predictions == 7 and even.confidences == pytest.approx(2 / 3 * 0.8, rel=1e-2)
    with pytest.raises(ValueError, match="temperature is 0; give a number above 0"):
        knn_probe(keys, [4, 7, 7], [[1, 0]], [4], temperature=0)


@pytest.mark.parametrize("temperature", [None, 0.07])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_vote_equals_scikit_learns_weighted_vote(metric, temperature):
    """Predictions with weights, and the shares of the vote behind the confidences."""

    def weights(distances):
        similarity = 1 - distances if metric == "cosine" else 1 / (1 + distances)
        return np.exp((similarity - similarity[:, :1]) / temperature)

    train, train_ids, test, test_ids = blobs(noise=2.0, n_test=1100)
    peer = KNeighborsClassifier(
        5, metric=metric, algorithm="brute", weights="uniform" if temperature is None else weights
    ).fit(train.astype(np.float64), train_ids)
    result = knn_probe(train, train_ids, test, test_ids, k=5, metric=metric, temperature=temperature)
    np.testing.assert_array_equal(result.predictions, peer.predict(test.astype(np.float64)))
    agree = train_ids[result.neighbours] == result.predictions[:, None]
    nearest = np.where(agree, result.similarities, -1).max(1).clip(0)
    shares = peer.predict_proba(test.astype(np.float64)).max(1)
    np.testing.assert_allclose(result.confidences, shares * nearest, rtol=1e-3, atol=1e-6)


def test_logistic_regression_is_scikit_learns():
    """Probabilities of overlapping classes against scikit-learn in float64 with a very small tolerance. One feature is
    constant."""
    train, train_ids, test, test_ids = blobs(noise=2.0)
    train[:, 3] = test[:, 3] = 7.3
    scaler = StandardScaler().fit(train.astype(np.float64))
    peer = LogisticRegression(max_iter=5000, tol=1e-8).fit(scaler.transform(train.astype(np.float64)), train_ids)
    expected = peer.predict_proba(scaler.transform(test.astype(np.float64)))
    result = linear_probe(train, train_ids, test, test_ids, probabilities=True)
    np.testing.assert_allclose(result.probabilities, expected, atol=1e-3)
    np.testing.assert_array_equal(result.classes, peer.classes_)
    np.testing.assert_array_equal(result.predictions, peer.predict(scaler.transform(test.astype(np.float64))))
    np.testing.assert_allclose(result.confidences, result.probabilities.max(1))
    assert 0.2 < result.confidences.min() < result.confidences.max() < 1, "too easy to tell fits apart"
    assert linear_probe(train, train_ids, test, test_ids).probabilities is None


class LargestTensor(TorchDispatchMode):
    """Keeps the largest number of elements of a tensor that torch makes."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return made


@pytest.mark.parametrize("protocol", ["default", "upstream"])
def test_blocks_of_rows_bound_memory_and_change_nothing(monkeypatch, protocol):
    """Scores of 25 rows at a time, the last block incomplete, against those of all 300 train and 110 test rows."""
    data = blobs(n_train=300, n_test=110, dim=4, classes=40, noise=0.5)
    how = {"protocol": protocol, "epochs": 2, "probabilities": True}
    whole = linear_probe(*data, **how)
    monkeypatch.setattr(linear_fits, "BLOCK", 1000)
    with LargestTensor() as largest:
        blocks = linear_probe(*data, **how)
    np.testing.assert_allclose(blocks.probabilities, whole.probabilities, atol=1e-5)
    np.testing.assert_array_equal(blocks.predictions, whole.predictions)
    np.testing.assert_allclose(blocks.confidences, whole.probabilities.max(1), atol=1e-5)
    scores = {"default": 1000, "upstream": 300 * 40}[protocol]  # a batch of SGD has up to 1,024 rows
    assert 0 < largest.elements <= max(scores, 300 * 4, 10 * 2 * 5 * 40)


def test_unfinished_fit_warns(monkeypatch):
    monkeypatch.setattr(linear_fits, "MOST_ITERATIONS", 2)
    train, train_ids, test, _ = blobs(noise=2.0)
    codes = np.unique(train_ids, return_inverse=True)[1]
    with pytest.warns(RuntimeWarning, match="has not converged: after [12] iterations"):
        linear_fits.fit_logistic(train, codes, test, torch.device("cpu"))


@pytest.mark.parametrize("probe", [knn_probe, linear_probe])
def test_several_ranks(probe):
    """Each rank equals the probe of that rank alone, with its own missing labels; an error names the rank."""
    train, train_ids, test, test_ids = blobs()
    labels = {"genus": np.where(np.arange(len(train)) % 5, train_ids // 10, -1), "species": train_ids}
    wanted = {"genus": test_ids // 10, "species": np.full(len(test), 999)}
    results = probe_ranks(train, labels, test, wanted, probe=probe)
    assert list(results) == ["genus", "species"]
    for rank in wanted:
        alone = probe(train, labels[rank], test, wanted[rank])
        np.testing.assert_array_equal(results[rank].predictions, alone.predictions)
    assert results["genus"].n_train < results["species"].n_train and results["species"].micro_accuracy == 0
    with pytest.raises(ValueError, match="At the rank 'genus': "):
        probe_ranks(train, {"genus": np.full(len(train), -1)}, test, {"genus": test_ids}, probe=probe)
    with pytest.raises(ValueError, match=r"ranks \['order'\], but train_labels has only"):
        probe_ranks(train, labels, test, {"order": test_ids}, probe=probe)


@pytest.mark.parametrize("options", [{}, {"k": 3, "metric": "euclidean"}, {"probe": linear_probe}])
def test_probe_barcodes(options):
    """Every question has every metric, None without labels. A taxon that is not in train lowers the coverage, which
    bounds the micro accuracy."""
    train, train_ids, test, test_ids = blobs()
    odd = np.where(np.arange(len(test)) % 3, test_ids, 500)
    labels = {
        "train": {rank: train_ids for rank in ("species", "genus", "family", "order")},
        "test": {"species": odd},
        "test_unseen": {"genus": test_ids, "family": np.full(len(test), -1), "order": odd},
    }
    metrics = probe_barcodes({"train": train, "test": test, "test_unseen": test}, labels, **options)
    assert list(metrics) == [
        "species of test",
        "genus of test_unseen",
        "family of test_unseen",
        "order of test_unseen",
    ]
    species, genus, family = (metrics[name] for name in list(metrics)[:3])
    assert species["coverage"] == pytest.approx(2 / 3) and genus["coverage"] == 1.0
    assert species["micro_accuracy"] <= species["coverage"] and species["chance"] > 0
    assert {key for key, value in family.items() if value is not None} == {"n_train", "n_test"}
    assert all(set(row) == set(species) for row in metrics.values())
    assert 0 < species["calibration_error"] < 1 and species["aurc"] > genus["aurc"]
    assert {"f1_micro", "f1_macro", "f1_weighted", "macro_accuracy", "accuracy_at_95"} <= set(species)
    json.dumps(metrics)
    one = probe_barcodes(
        {"train": train, "dev": test},
        {"train": labels["train"], "dev": {"genus": test_ids}},
        questions=[("dev", "genus")],
        **options,
    )
    assert one == {"genus of dev": genus}


def test_misspelt_option():
    with pytest.raises(TypeError, match="metrik"):
        probe_barcodes(
            {"train": np.eye(2), "test": np.eye(2)},
            {"train": {"species": [0, 1]}, "test": {"species": [0, 1]}},
            questions=[("test", "species")],
            metrik="cosine",
        )


def test_bfloat16_finds_the_nearest_among_very_similar_keys():
    """Keys whose cosines differ by 0.002, half of the step of bfloat16 near 1, are ordered correctly.

    Key j is at the angle j * 0.063 of the query, whose cosine is about 1 - (j * 0.063)**2 / 2: 1, 0.998, 0.992, ...
    """
    angles = 0.063 * np.arange(8)
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(64, 2)))[0]
    keys = np.cos(angles)[:, None] * basis[:, 0] + np.sin(angles)[:, None] * basis[:, 1]
    order = rng.permutation(8)
    labels = np.arange(8)
    found = knn_probe(keys[order], labels[order], basis[:, :1].T, [0], k=8, dtype="bfloat16")
    assert labels[order][found.neighbours[0]].tolist() == list(range(8))
    np.testing.assert_allclose(found.similarities[0], np.cos(angles), atol=4e-3)
    exact = knn_probe(keys[order], labels[order], keys, labels)
    assert (knn_probe(keys[order], labels[order], keys, labels, dtype="bfloat16").neighbours == exact.neighbours).all()


@pytest.mark.parametrize("options", [{"dtype": "float16"}, {"dtype": "bfloat16", "metric": "euclidean"}])
def test_unknown_precision(options):
    with pytest.raises(ValueError, match="give 'float32', or with 'cosine' 'bfloat16'"):
        knn_probe(np.eye(2), [0, 1], np.eye(2), [0, 1], **options)
