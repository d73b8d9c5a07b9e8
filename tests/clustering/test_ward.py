"""Ward's tree against scipy's and scikit-learn's, with weights, ties, duplicates; neighbours; the way to a million."""

import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import is_valid_linkage, linkage
from scipy.spatial.distance import cdist
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score

from bioscan_hf.clustering import ward as clustering_linkage
from bioscan_hf.clustering.graph import genie_clusters, knn_graph
from bioscan_hf.clustering.ward import aggregate, cut_tree, graph_clusters, graph_tree, ward_tree


def blobs(points: int, classes: int, size: int = 10, spread: float = 0.5, seed: int = 0) -> tuple:
    """Points (points, size) around normal centres, and their class."""
    draw = np.random.default_rng(seed)
    label = draw.integers(classes, size=points)
    return draw.normal(size=(classes, size))[label] + spread * draw.normal(size=(points, size)), label


def same_partition(one: np.ndarray, other: np.ndarray) -> bool:
    return adjusted_rand_score(one, other) == 1.0


def counted_rounds(monkeypatch) -> list[int]:
    """Sizes of the forest at each round of merges to come."""
    sizes = []
    merge = clustering_linkage._merge

    def spy(forest, left, right):
        sizes.append(len(forest))
        return merge(forest, left, right)

    monkeypatch.setattr(clustering_linkage, "_merge", spy)
    return sizes


def test_heights_by_hand():
    """Points 0, 1, 5 on a line. 0 and 1 meet at sqrt(2 * 1 * 1 / 2) * 1 = 1; their centroid 0.5 of weight 2 meets 5
    at sqrt(2 * 2 * 1 / 3) * 4.5 = 5.196. If 0 stands for 3 points: sqrt(2 * 3 / 4) = 1.225, then from the centroid
    0.25 of weight 4 sqrt(2 * 4 / 5) * 4.75 = 6.008."""
    points = [[0.0], [1.0], [5.0]]
    assert ward_tree(points) == pytest.approx(np.array([[0, 1, 1, 2], [2, 3, 5.196152, 3]]))
    assert ward_tree(points, [3, 1, 1]) == pytest.approx(np.array([[0, 1, 1.224745, 2], [2, 3, 6.008328, 3]]))


@pytest.mark.parametrize("shift", [0.0, 1000.0])
@pytest.mark.parametrize("size", [1, 3, 50])
def test_tree_equals_that_of_scipy(size, shift):
    """Far from the origin, too: distances come from products, which lose the digits that all points share."""
    points = np.random.default_rng(size).normal(size=(400, size)) + shift
    tree, expected = ward_tree(points), linkage(points, "ward")
    assert tree[:, [0, 1, 3]].tolist() == expected[:, [0, 1, 3]].tolist()
    assert tree[:, 2] == pytest.approx(expected[:, 2], rel=1e-6)


@given(st.lists(st.tuples(st.floats(-100, 100), st.floats(-100, 100)), min_size=2, max_size=40))
@settings(max_examples=100, deadline=None)
def test_any_points_give_a_valid_tree(points):
    """Ties, duplicates, zeros of both signs and tiny distances included: a tree that scipy accepts, heights ascending,
    and the within-cluster sum of squares in full (the squared heights of a Ward tree add up to twice that)."""
    points = np.array(points)
    tree = ward_tree(points)
    assert is_valid_linkage(tree) and (np.diff(tree[:, 2]) >= 0).all()
    scatter = ((points - points.mean(axis=0)) ** 2).sum()
    assert (tree[:, 2] ** 2).sum() == pytest.approx(2 * scatter, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("distinct", [2000, 700])
def test_partition_equals_that_of_scikit_learn(distinct):
    """2,000 points, also where many are equal: the order of merges at height 0 is undefined, the partition into at
    most as many clusters as there are distinct points is not."""
    points, label = blobs(distinct, 150)
    rows = np.random.default_rng(1).permutation(np.arange(2000) % distinct)
    points, label = points[rows], label[rows]
    tree = ward_tree(points)
    for clusters in (2, 150, 600):
        expected = AgglomerativeClustering(n_clusters=clusters, linkage="ward").fit_predict(points)
        ours = cut_tree(tree, clusters)
        assert same_partition(ours, expected)
        assert adjusted_mutual_info_score(label, ours) == pytest.approx(adjusted_mutual_info_score(label, expected))
    fitted = AgglomerativeClustering(n_clusters=None, distance_threshold=5.0, linkage="ward").fit(points)
    assert 2 < fitted.n_clusters_ < 600
    assert same_partition(cut_tree(tree, distance_threshold=5.0), fitted.labels_)


def test_weights_equal_repeated_points():
    """A barcode that 5 specimens share, once with weight 5 or 5 times: the same partition, the same heights."""
    points, _ = blobs(300, 40)
    counts = np.random.default_rng(2).integers(1, 9, size=300)
    rows = np.random.default_rng(3).permutation(np.repeat(np.arange(300), counts))
    repeated, once = ward_tree(points[rows]), ward_tree(points, counts)
    assert (repeated[: len(rows) - 300, 2] == 0).all()
    assert repeated[len(rows) - 300 :, 2] == pytest.approx(once[:, 2])
    assert not same_partition(cut_tree(ward_tree(points), 40), cut_tree(once, 40)), "the weights made no difference"
    for clusters in (2, 40, 299):
        assert same_partition(cut_tree(repeated, clusters), cut_tree(once, clusters)[rows])


def test_aggregate():
    """Means by hand: b holds (0, 2) and (2, 2), so (1, 2); a holds (9, 9) alone."""
    centroids, counts, inverse = aggregate([[0, 2], [9, 9], [2, 2]], ["b", "a", "b"])
    assert (centroids.tolist(), counts.tolist(), inverse.tolist()) == ([[9, 9], [1, 2]], [1, 2], [1, 0, 1])
    points = np.random.default_rng(0).normal(size=(50, 7))[np.arange(500) % 50]
    centroids, counts, inverse = aggregate(points, np.array([f"ACGT{i % 50}" for i in range(500)], dtype=object))
    assert (centroids[inverse] == points).all() and (counts == 10).all()
    assert same_partition(cut_tree(ward_tree(centroids, counts), 9)[inverse], cut_tree(ward_tree(points), 9))
    for missing in (["a", None], [1.0, np.nan], np.array(["a", np.nan], dtype=object)):
        with pytest.raises(ValueError, match="without a group"):
            aggregate([[0.0], [1.0]], missing)
    with pytest.raises(ValueError, match="Each of the 2 points has one group"):
        aggregate([[0.0], [1.0]], ["a"])


@pytest.mark.parametrize(
    "points",
    [np.eye(512), np.arange(512.0)[:, None], np.stack(np.meshgrid(*[np.arange(8.0)] * 3), -1).reshape(-1, 3)],
    ids=["simplex", "line", "lattice"],
)
def test_ties_merge_many_at_once(monkeypatch, points):
    """Whole numbers, such as counts of k-mers, tie. If each tied row took the first of its nearest, a round would
    merge one pair and 512 points would take 511 rounds."""
    sizes = counted_rounds(monkeypatch)
    tree = ward_tree(points)
    assert is_valid_linkage(tree)
    assert len(sizes) < 130
    expected = linkage(points, "ward")
    assert tree[:100, 2] == pytest.approx(expected[:100, 2]), "other than nearest pairs were merged first"
    assert tree[:, 2].sum() == pytest.approx(expected[:, 2].sum(), rel=0.05)


def test_few_points():
    assert ward_tree([[1.0, 2.0]]).shape == (0, 4)
    assert cut_tree(ward_tree([[1.0, 2.0]]), 1).tolist() == [0]
    assert ward_tree([[1.0], [1.0]]).tolist() == [[0, 1, 0, 2]]
    equal = ward_tree(np.ones((4, 3)))
    assert is_valid_linkage(equal) and (equal[:, 2] == 0).all()
    assert cut_tree(equal, 3).max() == 2


def test_memory_is_linear():
    """8,000 points: the 32 million distances alone would take 256 MB."""
    points, _ = blobs(8000, 500)
    tracemalloc.start()
    ward_tree(points)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6


def test_cut_tree():
    """Points 0, 1, 5, 7: the pairs meet at 1 and 2, the two centroids 0.5 and 6 at sqrt(2) * 5.5 = 7.78."""
    tree = ward_tree([[5.0], [0.0], [7.0], [1.0]])
    assert tree[:, 2] == pytest.approx([1, 2, 7.778175])
    assert cut_tree(tree, 2).tolist() == [0, 1, 0, 1]
    assert cut_tree(tree, 3).tolist() == [0, 1, 2, 1]
    assert cut_tree(tree, 4).tolist() == [0, 1, 2, 3]
    assert cut_tree(tree, distance_threshold=tree[1, 2]).tolist() == [0, 1, 2, 1], "a merge at the threshold is none"
    assert cut_tree(tree, distance_threshold=2.1).tolist() == [0, 1, 0, 1]
    assert cut_tree(tree, distance_threshold=8).tolist() == [0, 0, 0, 0]
    for clusters in (0, 5):
        with pytest.raises(ValueError, match=f"n_clusters={clusters}: 4 points make 1 to 4 clusters"):
            cut_tree(tree, clusters)
    for both in ({}, {"n_clusters": 2, "distance_threshold": 1.0}):
        with pytest.raises(ValueError, match="give one of them"):
            cut_tree(tree, **both)
    with pytest.raises(ValueError, match="ascending heights"):
        cut_tree(tree[::-1], 2)


def test_graph_tree_is_ward_where_all_are_compared():
    points, _ = blobs(400, 30)
    assert graph_tree(points, exact_up_to=400).tolist() == ward_tree(points).tolist()


@pytest.mark.parametrize("approximate", [False, True])
def test_graph_clusters_are_nearly_those_of_ward(monkeypatch, approximate):
    """Of 3,000 points, 2,700 merges are made over the graph (twice made anew), and species AMI is Ward's within 2
    points; the classes overlap, so that it is not 1."""
    if approximate:
        pytest.importorskip("faiss")
    points, label = blobs(3000, 150, size=20, spread=0.8)
    expected = adjusted_mutual_info_score(label, cut_tree(ward_tree(points), 150))
    sizes = counted_rounds(monkeypatch)
    tree = graph_tree(points, n_neighbors=10, exact_up_to=300, approximate=approximate)
    assert {1500, 750, 375, 300} <= set(sizes), "the graph was not made anew at each half"
    assert is_valid_linkage(tree) and (np.diff(tree[:, 2]) >= 0).all()
    clusters = cut_tree(tree, 150)
    monkeypatch.undo()
    assert (clusters == graph_clusters(points, 150, n_neighbors=10, exact_up_to=300, approximate=approximate)).all()
    assert 0.5 < expected < 0.98
    assert adjusted_mutual_info_score(label, clusters) == pytest.approx(expected, abs=0.02)


def test_graph_tree_joins_what_the_graph_does_not():
    """20 groups far apart, each larger than K: no edge leaves a group, yet the tree joins all, groups last."""
    draw = np.random.default_rng(0)
    group = np.repeat(np.arange(20), 12)
    points = 100.0 * draw.normal(size=(20, 5))[group] + draw.normal(size=(240, 5))
    assert same_partition(graph_clusters(points, 20, n_neighbors=3, exact_up_to=10), group)


def test_graph_tree_takes_weights():
    points, _ = blobs(300, 40)
    counts = np.random.default_rng(2).integers(1, 9, size=300)
    whole = graph_tree(np.repeat(points, counts, axis=0), n_neighbors=5, exact_up_to=100)
    weighted = graph_tree(points, counts, n_neighbors=5, exact_up_to=100)
    assert whole[-299:, 2] == pytest.approx(weighted[:, 2])


def test_neighbors_are_exact():
    """Against all distances; the file of a row is in ascending distance, and no point is its own neighbour."""
    points, _ = blobs(300, 10)
    graph = knn_graph(points, 7)
    distances = cdist(points, points)
    np.fill_diagonal(distances, np.inf)
    assert graph.shape == (300, 300) and (np.diff(graph.indptr) == 7).all()
    assert (graph.indices.reshape(300, 7) == distances.argsort(axis=1)[:, :7]).all()
    assert graph.data.reshape(300, 7) == pytest.approx(np.sort(distances, axis=1)[:, :7])


@pytest.mark.parametrize("approximate", [False, True])
def test_neighbors_of_equal_points(approximate):
    """12 equal points and 30 others: no point is its own neighbour even if the 6 found do not hold it."""
    if approximate:
        pytest.importorskip("faiss")
    points = np.vstack([np.ones((12, 4)), np.random.default_rng(0).normal(size=(30, 4))])
    graph = knn_graph(points, 5, approximate=approximate)
    neighbors = graph.indices.reshape(42, 5)
    assert (neighbors != np.arange(42)[:, None]).all()
    assert (np.sort(neighbors, axis=1)[:, 1:] != np.sort(neighbors, axis=1)[:, :-1]).all()
    assert (graph.data.reshape(42, 5)[:12] == 0).all() and (neighbors[:12] < 12).all()


def test_approximate_neighbors():
    """Nearly all exact ones, at their exact distance, though only 16 of 102 lists are visited; and repeatable."""
    pytest.importorskip("faiss")
    points, _ = blobs(4000, 300, size=20)
    exact, graph = knn_graph(points, 10), knn_graph(points, 10, approximate=True)
    pairs = zip(exact.indices.reshape(-1, 10), graph.indices.reshape(-1, 10), strict=True)
    assert np.mean([len(np.intersect1d(*pair)) / 10 for pair in pairs]) > 0.95
    row, column = graph.nonzero()
    assert graph.data == pytest.approx(np.linalg.norm(points[row] - points[column], axis=1), rel=1e-5)
    assert (knn_graph(points, 10, approximate=True) != graph).nnz == 0


def test_missing_libraries_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setitem(sys.modules, "genieclust", None)
    points, _ = blobs(60, 3)
    with pytest.raises(ModuleNotFoundError, match=r"bioscan_hf\[index\]"):
        knn_graph(points, 3, approximate=True)
    with pytest.raises(ModuleNotFoundError, match=r"bioscan_hf\[cluster\]"):
        genie_clusters(points, 3)


def test_genie():
    pytest.importorskip("genieclust")
    draw = np.random.default_rng(0)
    group = np.repeat(np.arange(8), 30)
    clusters = genie_clusters(100.0 * draw.normal(size=(8, 5))[group] + draw.normal(size=(240, 5)), 8)
    assert clusters.dtype == np.int64 and same_partition(clusters, group)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ward_tree([[1.0], [np.nan], [np.inf]]), "2 of 3 points hold NaN or infinity; the first is row 1"),
        (lambda: ward_tree([1.0, 2.0]), r"matrix \(N, D\) with at least one row"),
        (lambda: ward_tree(np.empty((0, 3))), r"matrix \(N, D\) with at least one row"),
        (lambda: ward_tree([[1.0], [2.0]], [1.0]), "one positive weight"),
        (lambda: ward_tree([[1.0], [2.0]], [1.0, 0.0]), "one positive weight"),
        (lambda: knn_graph([[1.0], [2.0]], 2), "2 points have 1 to 1 neighbours"),
        (lambda: graph_tree([[1.0], [2.0]], n_neighbors=0), "1 <= n_neighbors < exact_up_to"),
        (lambda: graph_tree([[1.0], [2.0]], n_neighbors=9, exact_up_to=9), "1 <= n_neighbors < exact_up_to"),
        (lambda: graph_clusters([[1.0], [2.0]], 3), "2 points make 1 to 2 clusters"),
        (lambda: genie_clusters([[1.0], [2.0]], 3), "2 points make 1 to 2 clusters"),
        (lambda: genie_clusters([[1.0], [2.0]], 1, gini_threshold=0), r"lies in \(0, 1\]"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
