"""Search in cells: exact with all cells, nearly exact with few; of equally near keys the first wins."""

import numpy as np
import pytest

from bioscan_hf.search.cells import make_cells, nearest_in_cells
from bioscan_hf.search.exact import nearest


def families(rng, families=20, members=30, size=32, spread=0.1):
    """Vectors around centres, like the embeddings of species."""
    centres = rng.normal(size=(families, 1, size))
    return (centres + spread * rng.normal(size=(families, members, size))).reshape(-1, size).astype(np.float32)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("k", [1, 5])
def test_all_cells_give_what_the_exact_search_gives(dtype, k):
    """In bfloat16 near ties may be ordered differently."""
    rng = np.random.default_rng(0)
    keys, queries = families(rng), families(rng)[::7]
    exact = nearest(queries, keys, k, dtype=dtype)
    rows, cosines = nearest_in_cells(make_cells(keys, 16, dtype=dtype), queries, k=k, searched=16)
    agreement = (rows == exact.rows).mean()
    assert agreement == 1 if dtype == "float32" else agreement > 0.9
    np.testing.assert_allclose(cosines, exact.similarities, atol=1e-5 if dtype == "float32" else 1e-2)


def test_few_cells_find_almost_all_and_more_cells_no_fewer():
    """A query near a key may lie in another cell: 4 of 24 cells find more than 1 cell, and over 95 %."""
    rng = np.random.default_rng(1)
    keys = families(rng, spread=0.5)
    queries = keys + 0.2 * rng.normal(size=keys.shape).astype(np.float32)
    exact = nearest_in_cells(make_cells(keys, 1), queries, searched=1)[0]
    cells = make_cells(keys, 24)
    recall = [(nearest_in_cells(cells, queries, searched=n)[0] == exact).mean() for n in (1, 4, 24)]
    assert recall[0] <= recall[1] <= recall[2] == 1 and recall[1] > 0.95


def test_the_first_of_equal_keys_wins():
    """Key 3 is key 0 again, and key 1 points the other way."""
    keys = np.array([[1, 0], [-1, 0], [0, 1], [1, 0]], np.float32)
    for cells in (1, 2, 4):
        rows, cosines = nearest_in_cells(make_cells(keys, cells), [[2, 0]], k=2, searched=cells)
        assert rows.tolist() == [[0, 3]] and cosines.tolist() == [[1, 1]]


def test_cells_with_too_few_keys():
    """Four keys in four cells: one cell holds one neighbour, and the others are missing."""
    rows, cosines = nearest_in_cells(make_cells(np.eye(4), 4), np.eye(4)[:1], k=3, searched=1)
    assert rows.tolist() == [[0, -1, -1]] and cosines[0, 0] == 1 and np.isneginf(cosines[0, 1:]).all()


def test_zeros_and_duplicates():
    """All keys are equal, so most cells are empty; a query of zeros has the cosine 0 with each key."""
    rows, cosines = nearest_in_cells(make_cells(np.ones((5, 3)), 5), [[0, 0, 0], [1, 1, 1]], searched=5)
    assert rows[:, 0].tolist() == [0, 0]
    np.testing.assert_allclose(cosines[:, 0], [0, 1], atol=1e-6)


def test_the_same_seed_gives_the_same_cells():
    keys = families(np.random.default_rng(2))
    one, two = make_cells(keys, 8, seed=3), make_cells(keys, 8, seed=3)
    assert one.starts == two.starts and (one.rows == two.rows).all()


def test_the_centre_of_many_keys_is_summed_in_float64():
    """300,000 similar keys in 1 cell: with sums in float32 the centre is wrong by 2e-6."""
    keys = (1 + 0.1 * np.random.default_rng(0).normal(size=(300_000, 4))).astype(np.float32)
    unit = keys / np.linalg.norm(keys.astype(np.float64), axis=1, keepdims=True)
    centre = unit.sum(axis=0, dtype=np.float64)
    np.testing.assert_allclose(make_cells(keys, 1).centres[0], centre / np.linalg.norm(centre), atol=1e-7)


@pytest.mark.parametrize(
    ("keys", "options", "message"),
    [
        (np.eye(3), {"cells": 4}, "1 to 3 cells"),
        (np.eye(3), {"cells": 0}, "1 to 3 cells"),
        (np.eye(3), {"cells": 2, "dtype": "int8"}, "give one of float32, bfloat16"),
        (np.full((2, 2), np.nan), {"cells": 1}, "NaN or infinite"),
        (np.ones(3), {"cells": 1}, "matrix"),
    ],
)
def test_bad_keys(keys, options, message):
    with pytest.raises(ValueError, match=message):
        make_cells(keys, **options)


@pytest.mark.parametrize(
    ("queries", "options", "message"),
    [
        (np.ones((1, 2)), {}, "same encoder"),
        (np.ones((1, 3)), {"k": 4}, "k is 4; give a positive number of neighbours, at most 3"),
        (np.ones((1, 3)), {"searched": 3}, "a number of cells from 1 to 2"),
        (np.full((1, 3), np.inf), {}, "NaN or infinite"),
    ],
)
def test_bad_queries(queries, options, message):
    with pytest.raises(ValueError, match=message):
        nearest_in_cells(make_cells(np.eye(3), 2), queries, **{"searched": 1, **options})
