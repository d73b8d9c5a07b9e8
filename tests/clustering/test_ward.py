"""Ward's tree against scipy's and scikit-learn's, with ties and duplicates; neighbours; Ward's tree along a graph."""

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

from bioscan_hf.clustering import ward
from bioscan_hf.clustering.graph import graph_tree, neighbours
from bioscan_hf.clustering.ward import cut_tree, ward_tree


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
    merge = ward.merge

    def spy(forest, left, right):
        sizes.append(len(forest))
        return merge(forest, left, right)

    monkeypatch.setattr(ward, "merge", spy)
    return sizes


def test_heights_by_hand():
    """Points 0, 1, 5 on a line. 0 and 1 meet at sqrt(2 * 1 * 1 / 2) * 1 = 1; their centroid 0.5 of weight 2 meets 5
    at sqrt(2 * 2 * 1 / 3) * 4.5 = 5.196. If 0 is there 3 times: sqrt(2 * 3 / 4) = 1.225, then from the centroid 0.25
    of weight 4 sqrt(2 * 4 / 5) * 4.75 = 6.008."""
    points = [[0.0], [1.0], [5.0]]
    assert ward_tree(points) == pytest.approx(np.array([[0, 1, 1, 2], [2, 3, 5.196152, 3]]))
    assert ward_tree([[0.0], [0.0], *points])[:, 2] == pytest.approx([0, 0, 1.224745, 6.008328])


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
    assert 0.5 < expected < 0.98
    assert adjusted_mutual_info_score(label, clusters) == pytest.approx(expected, abs=0.02)


def test_graph_tree_joins_what_the_graph_does_not():
    """20 groups far apart, each larger than K: no edge leaves a group, yet the tree joins all, groups last."""
    draw = np.random.default_rng(0)
    group = np.repeat(np.arange(20), 12)
    points = 100.0 * draw.normal(size=(20, 5))[group] + draw.normal(size=(240, 5))
    assert same_partition(cut_tree(graph_tree(points, n_neighbors=3, exact_up_to=10), 20), group)


def test_neighbours_are_exact():
    """Against all distances: in ascending distance, and no point is its own neighbour; far from the origin, too."""
    points, _ = blobs(300, 10)
    distances = cdist(points, points)
    np.fill_diagonal(distances, np.inf)
    for shift in (0.0, 1000.0):
        assert (neighbours(points + shift, 7) == distances.argsort(axis=1)[:, :7]).all()


@pytest.mark.parametrize("approximate", [False, True])
def test_neighbours_of_equal_points(approximate):
    """12 equal points and 30 others: no point is its own neighbour even if the 6 found do not include it."""
    if approximate:
        pytest.importorskip("faiss")
    points = np.vstack([np.ones((12, 4)), np.random.default_rng(0).normal(size=(30, 4))])
    found = neighbours(points, 5, approximate=approximate)
    assert found.shape == (42, 5) and (found != np.arange(42)[:, None]).all()
    assert (np.sort(found, axis=1)[:, 1:] != np.sort(found, axis=1)[:, :-1]).all()
    assert (found[:12] < 12).all()


def test_approximate_neighbours():
    """Nearly all exact ones, though only 16 of 102 lists are searched; and repeatable."""
    pytest.importorskip("faiss")
    points, _ = blobs(4000, 300, size=20)
    found = neighbours(points, 10, approximate=True)
    pairs = zip(neighbours(points, 10), found, strict=True)
    assert np.mean([len(np.intersect1d(*pair)) / 10 for pair in pairs]) > 0.95
    assert (neighbours(points, 10, approximate=True) == found).all()


def test_missing_libraries_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    points, _ = blobs(60, 3)
    with pytest.raises(ModuleNotFoundError, match=r"bioscan_hf\[cluster\]"):
        neighbours(points, 3, approximate=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ward_tree([[1.0], [np.nan], [np.inf]]), "points has NaN or infinite values in the rows 1, 2:"),
        (lambda: ward_tree([1.0, 2.0]), "points must be a matrix"),
        (lambda: ward_tree(np.empty((0, 3))), "points must be a matrix"),
        (lambda: neighbours([[1.0], [2.0]], 2), "2 points have 1 to 1 neighbours"),
        (lambda: graph_tree([[1.0], [2.0]], n_neighbors=0), "1 <= n_neighbors < exact_up_to"),
        (lambda: graph_tree([[1.0], [2.0]], n_neighbors=9, exact_up_to=9), "1 <= n_neighbors < exact_up_to"),
        (lambda: cut_tree(graph_tree([[1.0], [2.0]], n_neighbors=1), 3), "2 points make 1 to 2 clusters"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
