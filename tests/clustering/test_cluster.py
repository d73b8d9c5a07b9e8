"""Zero-shot clustering: what it does to embeddings, how it counts clusters, and what it makes of bad input."""

import importlib.util
import json

import numpy as np
import pytest
from sklearn.cluster import AgglomerativeClustering
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_mutual_info_score

from bioscan_hf.clustering.cluster import PRESETS, cluster_runs, summary, zero_shot_cluster
from bioscan_hf.clustering.embeddings import normalized
from bioscan_hf.clustering.methods import shared_neighbours
from bioscan_hf.clustering.ward import in_order_of_first


def installed(*names: str) -> pytest.MarkDecorator:
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


def blobs(rows: int, species: int, dim: int = 8, spread: float = 0.1, seed: int = 0):
    """Points around well separated centres, and the names of these."""
    x, ids = make_blobs(rows, dim, centers=species, cluster_std=spread, random_state=seed)
    return x.astype(np.float32), [f"species {i:03d}" for i in ids]


def same_partition(a, b) -> bool:
    return np.array_equal(in_order_of_first(np.asarray(a)), in_order_of_first(np.asarray(b)))


def test_ward_gives_the_partition_of_scikit_learn_and_its_ami():
    """The clusters of 2,000 overlapping points, and the AMI of names that agree with them in part only."""
    x, names = blobs(2000, 60, dim=20, spread=8.0)
    found = zero_shot_cluster(x, {"species": names}, reducer="none")
    expected = AgglomerativeClustering(n_clusters=60, linkage="ward").fit_predict(x)
    assert same_partition(found.clusters, expected)
    ami = adjusted_mutual_info_score(names, expected)
    assert 0.3 < ami < 0.95
    assert found.metrics["species"]["ami"] == pytest.approx(ami, abs=1e-12)
    assert found.n_clusters == 60
    assert found.chosen == {"by": "rank", "rank": "species", "asked": 60, "oracle": True}


def test_names_that_are_the_clusters_score_one_and_random_names_nothing():
    """Invariant I8: AMI(y, y) = 1, and names drawn at random have an AMI of about 0, at any number of clusters."""
    x, names = blobs(600, 30)
    found = zero_shot_cluster(x, {"species": names}, reducer="none")
    for score in ("ami", "ari", "homogeneity", "completeness", "v_measure", "fowlkes_mallows"):
        assert found.metrics["species"][score] == pytest.approx(1)
    drawn = np.random.default_rng(0).permutation(names).tolist()
    assert abs(zero_shot_cluster(x, {"species": drawn}, reducer="none").metrics["species"]["ami"]) < 0.03


def test_one_clustering_is_scored_at_every_rank_in_the_order_of_the_ranks():
    x, names = blobs(200, 10)
    order = ["Diptera" if name < "species 005" else "Coleoptera" for name in names]
    found = zero_shot_cluster(x, {"dna_bin": names, "species": names, "order": order}, reducer="none")
    assert list(found.metrics) == ["order", "species", "dna_bin"]
    assert found.metrics["order"]["homogeneity"] == pytest.approx(1)
    assert found.metrics["order"]["completeness"] < 0.5  # ten clusters split two orders


def test_clusters_are_numbered_as_they_are_first_met():
    assert in_order_of_first(np.array([5, 5, -1, 2, 9, 2])).tolist() == [0, 0, -1, 1, 2, 1]


@pytest.mark.parametrize(
    ("normalization", "expected"),
    [
        ("none", [[3, 4], [0, 5]]),
        ("l2", [[0.6, 0.8], [0, 1]]),
        ("l2_corrected", [[0.6 * 2**0.5, 0.8 * 2**0.5], [0, 2**0.5]]),
        ("elementwise_zscore", [[1, -1], [-1, 1]]),
        ("average_zscore", [[1.5, -0.5], [-1.5, 0.5]]),
    ],
)
def test_normalizations(normalization, expected):
    """By hand. Both rows have the length 5. The means are 1.5 and 4.5, the deviations 1.5 and 0.5, their mean 1: the
    differences (1.5, -0.5) and (-1.5, 0.5) are divided by (1.5, 0.5) or by 1."""
    x = np.array([[3, 4], [0, 5]], np.float32)
    assert normalized(x, normalization) == pytest.approx(np.array(expected))


def test_a_constant_dimension_has_the_z_score_0():
    x = np.array([[1, 7.3], [2, 7.3], [3, 7.3]], np.float32)
    assert normalized(x, "elementwise_zscore")[:, 1].tolist() == [0, 0, 0]
    assert np.isfinite(normalized(x, "average_zscore")).all()


def test_modalities_are_normalised_apart_and_set_side_by_side():
    """Invariant I8: the width is d1 + d2. A modality on a thousandfold scale hides the other, unless normalised."""
    x, names = blobs(200, 8)
    noise = np.random.default_rng(1).normal(size=(200, 5)) * 1000
    parts, labels = {"dna": x, "image": noise}, {"species": names}
    plain = zero_shot_cluster(parts, labels, reducer="none")
    assert plain.reduced.shape == (200, 13)
    assert plain.metrics["species"]["ami"] < 0.2
    apart = zero_shot_cluster(parts, labels, reducer="none", normalization={"dna": "none", "image": "l2"})
    assert np.array_equal(apart.reduced[:, :8], x)
    assert np.linalg.norm(apart.reduced[:, 8:], axis=1) == pytest.approx(np.ones(200), abs=1e-6)
    assert apart.metrics["species"]["ami"] > 0.9


def test_the_silhouette_finds_the_number_of_clusters_without_names():
    x, names = blobs(150, 6, spread=0.3)
    found = zero_shot_cluster(x, {}, reducer="none", n_clusters=[2, 4, 6, 9, 20])
    assert (found.n_clusters, found.chosen["by"], found.chosen["oracle"]) == (6, "silhouette", False)
    assert set(found.chosen["silhouettes"]) == {2, 4, 6, 9, 20}
    assert found.metrics == {}
    grid = zero_shot_cluster(x, {"species": names}, reducer="none", n_clusters="silhouette")
    assert grid.chosen["tried"][0] == 2 and grid.chosen["tried"][-1] == 75
    assert grid.metrics["species"]["ami"] > 0.85
    graph = zero_shot_cluster(x, {}, reducer="none", clusterer="graph-ward", n_clusters=[3, 6])
    assert graph.n_clusters == 6


def test_equal_specimens_do_not_drive_the_number_of_clusters_up():
    """Four species of 5 barcodes that nearly agree, each of 10 specimens: the silhouette of 20 clusters of equal
    points is 1, the best there is. Of 4 clusters it is less by well under 0.01, so these are taken."""
    centres = np.array([[0, 0], [100, 0], [0, 100], [100, 100]], np.float32)
    barcodes = (centres[:, None] + np.random.default_rng(0).normal(0, 0.1, (4, 5, 2))).reshape(20, 2)
    found = zero_shot_cluster(np.repeat(barcodes, 10, axis=0), {}, reducer="none", n_clusters=[2, 4, 20])
    scores = found.chosen["silhouettes"]
    assert 0.99 < scores[4] < scores[20] == pytest.approx(1)
    assert scores[2] < 0.9
    assert found.n_clusters == 4


def test_a_distance_threshold_cuts_the_tree_where_scikit_learn_does():
    x, _ = blobs(300, 12, spread=2.0)
    for clusterer in ("ward", "graph-ward"):
        found = zero_shot_cluster(x, {}, reducer="none", clusterer=clusterer, n_clusters=None, distance_threshold=12.5)
        expected = AgglomerativeClustering(n_clusters=None, distance_threshold=12.5, linkage="ward").fit_predict(x)
        assert 1 < found.n_clusters < 300
        assert same_partition(found.clusters, expected)
    assert found.chosen == {"by": "distance_threshold", "distance_threshold": 12.5, "oracle": False}


@pytest.mark.parametrize(
    ("clusterer", "options"),
    [
        ("ward", {}),
        ("graph-ward", {"n_neighbors": 10, "exact_up_to": 60}),
        ("hdbscan", {}),
        pytest.param("leiden", {"n_neighbors": 15}, marks=installed("igraph")),
    ],
)
def test_every_clusterer_finds_clear_clusters_and_repeats_itself(clusterer, options):
    """Twelve well separated clusters of 20: what does not find them is wired wrongly."""
    x, names = blobs(240, 12)
    k = None if clusterer in ("hdbscan", "leiden") else "species"
    first, again = (
        zero_shot_cluster(
            x, {"species": names}, reducer="none", clusterer=clusterer, n_clusters=k, clusterer_options=options, seed=3
        )
        for _ in range(2)
    )
    assert first.metrics["species"]["ami"] > 0.95
    assert np.array_equal(first.clusters, again.clusters)
    assert first.options["clusterer_options"].items() >= options.items()
    assert first.chosen["oracle"] == (k is not None)


def test_noise_of_hdbscan_is_counted_and_left_out_of_the_separation():
    """Two tight groups and one far point, which HDBSCAN calls noise: 2 clusters, 1 noise, and a silhouette of the
    other 20 alone."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, 0.1, (10, 2)), rng.normal(50, 0.1, (10, 2)), [[1000, -1000]]])
    found = zero_shot_cluster(x, {}, reducer="none", clusterer="hdbscan", n_clusters=None)
    assert (found.n_clusters, found.separation["noise"], found.clusters[-1]) == (2, 1, -1)
    assert found.separation["silhouette_specimens"] == 20
    assert found.separation["silhouette"] > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("reducer", ["pca", pytest.param("umap", marks=installed("umap"))])
def test_every_reducer_keeps_clear_clusters_and_repeats_itself(reducer):
    """The real libraries, with the published numbers of neighbours and dimensions for UMAP."""
    x, names = blobs(220, 6, dim=60)
    first, again = (zero_shot_cluster(x, {"species": names}, reducer=reducer, seed=1) for _ in range(2))
    assert first.reduced.shape == (220, 50)
    assert np.array_equal(first.reduced, again.reduced)
    assert np.array_equal(first.clusters, again.clusters)
    assert first.metrics["species"]["ami"] > 0.9
    assert list(first.seconds) == ["normalize", "reduce", "cluster", "score"]


class SpyUMAP:
    """Remembers what it was made with, and reduces to the first columns."""

    calls: list[dict] = []

    def __init__(self, **options):
        self.calls.append(options)

    def fit_transform(self, x):
        return x[:, :50]


@pytest.mark.parametrize(
    ("preset", "seed", "expected"),
    [
        ("published", 1, {"n_neighbors": 30, "n_components": 50, "min_dist": 0.0, "metric": "euclidean"}),
        ("caninv", 42, {"n_neighbors": 5, "n_components": 50, "min_dist": 0.1, "metric": "cosine"}),
    ],
)
def test_presets_are_the_published_options(monkeypatch, preset, seed, expected):
    """UMAP gets exactly these (and one thread, which is all that a seed allows), and what follows is Ward."""
    import types

    monkeypatch.setitem(__import__("sys").modules, "umap", types.SimpleNamespace(UMAP=SpyUMAP))
    SpyUMAP.calls.clear()
    x, names = blobs(120, 5, dim=60)
    options = {**PRESETS[preset], "seed": seed}
    assert PRESETS[preset]["seed"] == {"published": 0, "caninv": 42}[preset]
    if preset == "caninv":
        assert options["n_clusters"] == 3479
        with pytest.raises(ValueError, match="120 specimens make 1 to 120 clusters, not 3479"):
            zero_shot_cluster(x, {"species": names}, **options)
        options["n_clusters"] = "species"
    found = zero_shot_cluster(x, {"species": names}, **options)
    assert SpyUMAP.calls == [{**expected, "random_state": seed, "n_jobs": 1}]
    assert found.options["normalization"] == "none"
    assert same_partition(found.clusters, AgglomerativeClustering(5, linkage="ward").fit_predict(x[:, :50]))
    assert json.loads(json.dumps(found.options)) == found.options


def test_weights_of_shared_neighbours_by_hand():
    """Points 0, 1, 2, 10 and 11 on a line, two neighbours each: {0 1 2}, {1 0 2}, {2 1 0}, {10 11 2}, {11 10 2} with
    themselves. 0, 1 and 2 share all three (weight 1), 10 and 11 too; 2 and 10 (or 11) share 2 alone, of 5 points."""
    x = np.array([[0], [1], [2], [10], [11]], np.float32)
    rows, columns, weights = shared_neighbours(x, 2)
    found = {(int(a), int(b)): round(float(w), 6) for a, b, w in zip(rows, columns, weights, strict=True)}
    assert found == {(0, 1): 1, (0, 2): 1, (1, 2): 1, (3, 4): 1, (2, 3): 0.2, (2, 4): 0.2}


@installed("igraph")
def test_runs_and_their_summary():
    """Mean and sample deviation of the AMIs of three seeds of Leiden, which depends on its seed here."""
    x, names = blobs(200, 15, dim=3, spread=5.0)
    labels, steps = {"genus": [None] * 200, "species": names}, []
    free = {"reducer": "none", "clusterer": "leiden", "n_clusters": None}
    runs = cluster_runs(x, labels, seeds=(0, 1, 2), progress=lambda *step: steps.append(step), **free)
    assert steps == [("clustering", 1, 3), ("clustering", 2, 3), ("clustering", 3, 3)]
    amis = [run.metrics["species"]["ami"] for run in runs]
    assert len(set(amis)) > 1
    table = summary(runs)
    assert table["mean"]["species"]["ami"] == pytest.approx(sum(amis) / 3)
    assert table["std"]["species"]["ami"] == pytest.approx(np.std(amis, ddof=1))
    assert table["mean"]["species"]["labelled"] == 200
    assert table["mean"]["genus"]["ami"] is None and table["std"]["genus"]["ami"] is None
    assert summary(runs[:1])["std"]["species"]["ami"] is None
    with pytest.raises(ValueError, match="different numbers"):
        cluster_runs(x, labels, seeds=(1, 1))


def broken(x: np.ndarray, rows: list[int], value: float) -> np.ndarray:
    x = x.copy()
    x[rows, 1] = value
    return x


X, NAMES = blobs(40, 4)


@pytest.mark.parametrize(
    ("embeddings", "options", "message"),
    [
        (broken(X, [3, 7], np.nan), {}, "NaN or infinite values in the rows 3, 7:"),
        (broken(X, [0], np.inf), {}, r"rows 0:"),
        (np.ones((40, 5)), {}, "all 40 specimens are equal"),
        (X[:, 0], {}, "must be a matrix"),
        ({}, {}, "No embeddings"),
        ({"dna": X, "image": X[:39]}, {}, "different numbers of rows.*'image': 39"),
        (X, {"n_clusters": 41}, "1 to 40 clusters, not 41"),
        (X, {"n_clusters": 0}, "1 to 40 clusters, not 0"),
        (X, {"n_clusters": "genus"}, "neither 'silhouette' nor a rank"),
        (X, {"n_clusters": [2, 40]}, "from 2 to 39"),
        (X, {"n_clusters": None}, "needs a number"),
        (X, {"distance_threshold": 1.0}, "replaces the number of clusters"),
        (X, {"n_clusters": None, "distance_threshold": 1.0, "clusterer": "leiden"}, "leave number and distance out"),
        (X, {"clusterer": "hdbscan"}, "finds the number of clusters itself"),
        (X, {"clusterer": "word"}, "Unknown clusterer 'word'"),
        (X, {"reducer": "tsne"}, "Unknown reducer 'tsne'"),
        (X, {"reducer": "umap"}, "needs 52 points or more, but there are 40"),
        (X, {"reducer": "pca"}, "8 components at most, but n_components is 50"),
        (X, {"reducer_options": {"random_state": 1}}, "random_state"),
        (X, {"clusterer_options": {"linkage": "single"}}, "'ward' takes none"),
        (X, {"normalization": "l1"}, "Unknown normalization"),
        (X, {"normalization": {"dna": "l2"}}, "Give one for each"),
        (broken(np.zeros((40, 2)), [1], 1.0), {"normalization": "l2"}, r"zero in the rows 0, 2, .* and 34 more"),
        (X, {"clusterer": "leiden", "n_clusters": None, "clusterer_options": {"n_neighbors": 40}}, "fewer than 40"),
    ],
)
def test_bad_input_is_told(embeddings, options, message):
    with pytest.raises(ValueError, match=message):
        zero_shot_cluster(embeddings, {"species": NAMES}, **{"reducer": "none", **options})


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"species": NAMES[:5]}, "40 specimens, but {'species': 5}"),
        ({"tribe": NAMES}, "Unknown rank 'tribe'"),
        ({"species": list(range(40))}, "is 0 \\(int\\)"),
        ({"species": [None] * 40}, "No specimen has a name"),
    ],
)
def test_bad_labels_are_told(labels, message):
    with pytest.raises(ValueError, match=message):
        zero_shot_cluster(X, labels, reducer="none")


def test_an_empty_name_is_a_missing_one():
    found = [zero_shot_cluster(X, {"species": [no, *NAMES[1:]]}, reducer="none") for no in ("", None)]
    assert found[0].metrics == found[1].metrics


def test_a_number_of_numpy_is_a_number():
    found = zero_shot_cluster(X, {"species": NAMES}, reducer="none", n_clusters=np.int64(3))
    assert found.options["n_clusters"] == found.n_clusters == 3


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "umap", None)
    x, names = blobs(100, 5)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'bioscan_hf\[cluster\]'"):
        zero_shot_cluster(x, {"species": names}, reducer="umap")
    assert zero_shot_cluster(x, {"species": names}).options["reducer"] == "none"  # the default needs nothing more
