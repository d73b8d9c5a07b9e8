"""Nearest keys and their taxa under both tie rules, against plain loops and the published results."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bioscan_hf.search.index import build_index
from bioscan_hf.search.retrieve import retrieve

#: Directions whose products are exact in float32, so that a tie is a tie in every order of summation.
AXES = np.vstack([np.eye(3), -np.eye(3)])


def names_of(index, found, rank="r"):
    return np.array([*index.classes[rank], None], object)[found.predictions[rank]].tolist()


def test_published_ties(reference):
    """Five of seven keys are equal: the published search returns the last kept one first, depending on k."""
    ties = np.load(reference / "clibd/eval_ties.npz")
    expected = reference.json("clibd/eval_meta.json")["duplicate_keys"]
    names = [f"sp{i}" for i in range(7)]
    index = build_index(ties["keys"], {"r": names})
    for k in (1, 2, 3, 5):
        found = retrieve(index, ties["query"], k=k, ties="parity")
        assert found.neighbours.tolist() == [expected[f"max_k={k}"]["indices"]]
        assert names_of(index, found) == [expected[f"max_k={k}"]["species"]]
    same = build_index(np.ones((4, 2)), {})
    order = reference.json("clibd/eval_meta.json")["exact_tie_order"]
    assert retrieve(same, np.ones((1, 2)), k=4, ties="parity").neighbours.tolist() == order


def heap(scores, k):
    """Rows found by the published search, written as a loop over the keys."""
    kept = []
    for row, score in enumerate(scores):
        if len(kept) == k:
            if score <= min(kept)[0]:
                continue
            kept.remove(min(kept))
        kept.append((score, row))
    return [row for _, row in sorted(kept, reverse=True)]


def votes(scores, labels, k):
    """Names of the first k under "vote", written as a loop over groups of equally near keys."""
    order, found = np.argsort(-scores, kind="stable"), []
    while len(found) < k:
        tied = [row for row in order if scores[row] >= scores[order[0]] - 1e-6]
        order = order[len(tied) :]
        counts = Counter(labels[row] for row in tied)
        unnamed = counts.pop(None, 0)
        for name in sorted(counts, key=lambda name: (-counts[name], name)):
            found += [name] * counts[name]
        found += [None] * unnamed
    return found[:k]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_tie_rules_are_those_of_the_plain_loops(data):
    """Both rules equal the plain loops for any equal or equally near keys and any names."""
    rows = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=40))
    labels = data.draw(st.lists(st.sampled_from(["A", "B", "C", None]), min_size=len(rows), max_size=len(rows)))
    asked = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=4))
    k = data.draw(st.integers(1, min(6, len(rows))))
    keys, queries = AXES[rows], AXES[asked]
    scores = queries @ keys.T
    index = build_index(keys, {"r": labels})
    assert retrieve(index, queries, k=k, ties="parity").neighbours.tolist() == [heap(row, k) for row in scores]
    found = retrieve(index, queries, k=k)
    assert names_of(index, found) == [votes(row, labels, k) for row in scores]
    np.testing.assert_array_equal(found.similarities, -np.sort(-scores, axis=1)[:, :k])
    assert np.array_equal(np.take_along_axis(scores, found.neighbours, 1), found.similarities)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_vote_does_not_depend_on_the_order_of_the_keys(seed):
    """Shuffled keys give the same names."""
    generator = np.random.default_rng(seed)
    keys, labels = AXES[generator.integers(0, 6, 60)], generator.choice(["A", "B", "C", "D"], 60)
    shuffled = generator.permutation(60)
    one, two = (build_index(keys[rows], {"r": labels[rows].tolist()}) for rows in (np.arange(60), shuffled))
    assert names_of(one, retrieve(one, AXES)) == names_of(two, retrieve(two, AXES))


def test_vote_counts_all_equal_keys():
    """One barcode with 3 keys of A and then 1,500 of B: "vote" predicts B, "parity" A."""
    keys = np.repeat(np.array([[1.0, 1.0]]), 1503, axis=0)
    index = build_index(keys, {"r": ["A"] * 3 + ["B"] * 1500})
    assert len(index.vectors) == 1
    assert names_of(index, retrieve(index, [[1, 0]], k=1)) == [["B"]]
    assert names_of(index, retrieve(index, [[1, 0]], k=1, ties="parity")) == [["A"]]


def test_vote_counts_all_keys_at_one_distance():
    """2,000 different keys on a circle around the query: the search widens until it includes all of them.

    The last 1,001 are of Z, so the vote is Z only if all keys are counted.
    """
    angles = np.linspace(0, 2 * np.pi, 2000, endpoint=False)
    keys = np.stack([np.cos(angles), np.sin(angles), np.ones(2000)], axis=1)
    index = build_index(keys, {"r": ["A"] * 999 + ["Z"] * 1001})
    assert len(index.vectors) == 2000
    assert names_of(index, retrieve(index, [[0, 0, 1]], k=1)) == [["Z"]]


def test_rounding_does_not_decide():
    """Three embeddings that differ by rounding vote together; the nearest one alone does not decide."""
    keys = np.array([[1, 1e-4], [1, 1.001e-4], [1, 1.002e-4]])
    index = build_index(keys, {"r": ["B", "A", "A"]})
    assert names_of(index, retrieve(index, [[1, 0]], k=1)) == [["A"]]


def test_unknown_tie_rule():
    with pytest.raises(ValueError, match="ties is 'first'; give 'vote' or 'parity'"):
        retrieve(build_index(np.eye(2), {"r": ["A", "B"]}), np.eye(2), k=1, ties="first")
