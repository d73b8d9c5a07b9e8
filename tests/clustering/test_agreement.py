"""Scores of clusters, with missing names in both ways, by hand-made numbers."""

from math import comb, log

import numpy as np
import pytest
from sklearn.metrics import adjusted_mutual_info_score, silhouette_score

from bioscan_hf.clustering import agreement as clustering_agreement
from bioscan_hf.clustering.agreement import agreement, encoded_labels, separation


def test_missing_names_are_one_class_or_left_out():
    """Clusters A A B B B and names x x y - -.

    Left out: {x x | y} is what the clusters are, so every score is 1. As one class: three classes in two clusters. Of
    the 10 pairs 2 are in one class (x x, - -) and 1 + 3 = 4 in one cluster, 2 of them in both. Rand's index, with an
    expectation of 2 * 4 / 10 = 0.8 pairs and a maximum of (2 + 4) / 2 = 3, is (2 - 0.8) / (3 - 0.8) = 1.2 / 2.2;
    Fowlkes and Mallows' is 2 / sqrt(2 * 4). All of a class is in one cluster: completeness 1. The entropy of the
    classes given the clusters is 3/5 (log 3 - 2/3 log 2), that of the classes log 5 - 4/5 log 2.
    """
    found = agreement(np.array([0, 0, 1, 1, 1]), np.array([0, 0, 1, -1, -1]))
    assert (found["labelled"], found["missing"], found["classes"]) == (3, 2, 2)
    for score in ("ami", "ari", "homogeneity", "completeness", "v_measure", "fowlkes_mallows"):
        assert found[f"{score}_labelled"] == pytest.approx(1)
    assert comb(5, 2) == 10
    assert found["ari"] == pytest.approx(1.2 / 2.2)
    assert found["fowlkes_mallows"] == pytest.approx(2 / 8**0.5)
    assert found["completeness"] == pytest.approx(1)
    homogeneity = 1 - 0.6 * (log(3) - 2 / 3 * log(2)) / (log(5) - 0.8 * log(2))
    assert found["homogeneity"] == pytest.approx(homogeneity)
    assert found["v_measure"] == pytest.approx(2 * homogeneity / (1 + homogeneity))
    assert 0 < found["ami"] < 1
    assert found["ami"] == adjusted_mutual_info_score([0, 0, 1, -1, -1], [0, 0, 1, 1, 1])


def test_adjusted_mutual_information_by_hand():
    """Names x x y y, clusters A A A B. Mutual information and entropies, in nats:

    MI = 2/4 log(4 * 2 / (2 * 3)) + 1/4 log(4 * 1 / (2 * 3)) + 1/4 log(4 * 1 / (2 * 1)) = 0.215762,
    H(names) = log 2, H(clusters) = -(3/4 log 3/4 + 1/4 log 1/4) = 0.562335. The single specimen of B is any of the
    four with equal chance, and the table is the same but for names each time: the expected MI is the MI, so AMI = 0.
    """
    found = agreement(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]))
    assert found["ami"] == pytest.approx(0, abs=1e-9)
    mutual = 0.5 * log(8 / 6) + 0.25 * log(4 / 6) + 0.25 * log(2)
    assert mutual == pytest.approx(0.215762, abs=1e-6)
    assert found["homogeneity"] == pytest.approx(mutual / log(2))
    assert found["completeness"] == pytest.approx(mutual / -(0.75 * log(0.75) + 0.25 * log(0.25)))


def test_a_rank_without_names_has_no_score():
    """None, and not the 1 or 0 that a single class of missing names would get."""
    found = agreement(np.array([0, 0, 1]), np.array([-1, -1, -1]))
    assert (found["labelled"], found["missing"], found["classes"]) == (0, 3, 0)
    scores = {name: value for name, value in found.items() if name not in ("labelled", "missing", "classes")}
    assert len(scores) == 12
    assert set(scores.values()) == {None}


def test_ids_of_names_follow_their_order():
    found = encoded_labels({"genus": ["b", None, "a", "b"]}, 4)
    assert found["genus"].tolist() == [1, -1, 0, 1]


def test_separation_by_hand():
    """Points 0, 2 and 10, 12 on a line, a cluster each pair. To its own cluster a point has 2; to the other 11 (from 0
    and 12) or 9 (from 2 and 10): silhouette (1 - 2/11 + 1 - 2/9) / 2. Calinski and Harabasz: between 4 * 5^2 = 100
    over 1, within 4 * 1 = 4 over 2: 50. Davies and Bouldin: mean distances to the centres 1 + 1, between these 10:
    0.2.
    """
    found = separation(np.array([[0], [2], [10], [12]], np.float32), np.array([0, 0, 1, 1]))
    assert found["silhouette"] == pytest.approx((1 - 2 / 11 + 1 - 2 / 9) / 2)
    assert found["calinski_harabasz"] == pytest.approx(50)
    assert found["davies_bouldin"] == pytest.approx(0.2)
    assert found["silhouette_specimens"] == 4


@pytest.mark.parametrize("clusters", [[0, 0, 0], [0, 1, 2], [-1, -1, -1], [0, 1, -1]])
def test_one_cluster_or_one_for_each_point_has_no_separation(clusters):
    found = separation(np.array([[0.0], [1.0], [5.0]], np.float32), np.array(clusters))
    assert (found["silhouette"], found["calinski_harabasz"], found["davies_bouldin"]) == (None, None, None)


def test_the_silhouette_of_many_is_that_of_a_seeded_sample(monkeypatch):
    monkeypatch.setattr(clustering_agreement, "SILHOUETTE_SAMPLE", 100)
    rng = np.random.default_rng(0)
    x, clusters = rng.normal(size=(300, 3)).astype(np.float32), rng.integers(0, 5, 300)
    found = [separation(x, clusters, seed=seed) for seed in (0, 0, 1)]
    assert found[0] == found[1]
    assert found[0]["silhouette"] != found[2]["silhouette"]
    assert found[0]["silhouette_specimens"] == 100
    monkeypatch.setattr(clustering_agreement, "SILHOUETTE_SAMPLE", 300)
    assert separation(x, clusters)["silhouette"] == pytest.approx(silhouette_score(x, clusters))
