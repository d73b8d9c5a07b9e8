"""Exact search against scikit-learn and whole matrices, its tie rule, and its blocks."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from bioscan_hf.search import exact
from bioscan_hf.search.exact import TopK, first_top_k, nearest
from bioscan_hf.search.vectors import unit_vectors


def vectors(rows, seed=0, dim=24):
    return np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("keys_at_once", [50, 1000])
def test_equals_scikit_learn(metric, keys_at_once):
    keys, queries = vectors(300), vectors(70, seed=1)
    rows, similarities = nearest(queries, keys, 7, metric=metric, keys_at_once=keys_at_once)
    distances, expected = NearestNeighbors(metric=metric, algorithm="brute").fit(keys).kneighbors(queries, 7)
    np.testing.assert_array_equal(rows, expected)
    wanted = 1 - distances if metric == "cosine" else 1 / (1 + distances)
    np.testing.assert_allclose(similarities, wanted, atol=1e-5)


def test_dot_is_the_cosine_of_unit_vectors():
    keys, queries = unit_vectors(vectors(300)), unit_vectors(vectors(70, seed=1))
    one, two = nearest(queries, keys, 5), nearest(queries, keys, 5, metric="dot")
    assert np.array_equal(one.rows, two.rows)
    np.testing.assert_allclose(one.similarities, two.similarities, atol=1e-6)


def test_chosen_rows_in_their_order():
    """Rows 9, 4 and 2 are searched: of the equal ones 9 and 2, row 9 comes first, as it is given first."""
    keys = vectors(10)
    keys[9] = keys[2]
    rows, similarities = nearest(keys[2:3], keys, 3, rows=np.array([9, 4, 2]))
    assert rows.tolist() == [[9, 2, 4]] and similarities[0, 0] == similarities[0, 1]


@pytest.mark.parametrize("k", [1, 3, 9])
def test_of_equal_values_the_first_columns(k):
    values = torch.tensor([[1.0, 2, 2, 1, 2, 0, 2, 2, 1], [0.0] * 9, [1.0, 0, 3, 3, 3, 2, 2, 2, 2]])
    found, columns = first_top_k(values, k)
    order = values.sort(dim=1, descending=True, stable=True).indices[:, :k]
    assert torch.equal(columns, order) and torch.equal(found, values.gather(1, order))


def test_excluded_keys_are_no_neighbours():
    """A key of similarity -inf is left out: the row is -1."""
    best = TopK(1, 3, "cpu")
    best.add(slice(0, 1), torch.tensor([[0.5, -torch.inf]]), 0)
    best.add(slice(0, 1), torch.tensor([[-torch.inf, 0.7]]), 2)
    rows, similarities = best.found()
    assert rows.tolist() == [[3, 0, -1]] and similarities[0, 2] == -np.inf


def test_few_queries_at_once(monkeypatch):
    keys, queries = vectors(90), vectors(50, seed=1)
    whole = nearest(queries, keys, 4)
    monkeypatch.setattr(exact, "QUERIES_AT_ONCE", 7)
    assert np.array_equal(nearest(queries, keys, 4, keys_at_once=31).rows, whole.rows)
