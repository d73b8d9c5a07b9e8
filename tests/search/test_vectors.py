"""Unit vectors and distinct rows."""

import numpy as np
import pytest

from bioscan_hf.search.vectors import distinct_rows, named_rows, unit_vectors


def test_lengths_do_not_matter_and_precision_is_float32():
    """A key a million times as long is as near; float64 and float16 rows are taken as they are."""
    x = np.random.default_rng(0).normal(size=(50, 8))
    scaled = x * np.geomspace(1e-6, 1e6, 50)[:, None]
    np.testing.assert_allclose(unit_vectors(scaled), unit_vectors(x), atol=1e-7)
    assert unit_vectors(x.astype(np.float16)).dtype == np.float32


def test_unit_vectors_of_zeros():
    """Zeros are an error unless they are allowed; -0 becomes 0, so equal rows have equal bytes."""
    x = [[0.0, 0.0], [3.0, -0.0], [3.0, 4.0]]
    with pytest.raises(ValueError, match="NaN, infinite or zero in the rows 0: "):
        unit_vectors(x)
    unit = unit_vectors(x, zeros=True)
    np.testing.assert_allclose(unit, [[0, 0], [1, 0], [0.6, 0.8]])
    assert not np.signbit(unit).any()
    with pytest.raises(ValueError, match="of the keys are NaN or infinite in the rows 1: "):
        unit_vectors([[0, 0], [np.inf, 1]], "keys", zeros=True)


def test_equal_rows_give_equal_bytes_wherever_they_stand():
    row = np.random.default_rng(0).normal(size=(1, 37)).astype(np.float32)
    unit = unit_vectors(np.repeat(row, 5000, axis=0))
    assert len(np.unique(unit, axis=0)) == 1


def test_distinct_rows_agree_with_numpy():
    x = np.random.default_rng(0).integers(0, 3, (5000, 7)).astype(np.float32)
    group, first = distinct_rows(x)
    assert len(first) == len(np.unique(x, axis=0)) < 5000
    assert np.array_equal(x[first][group], x) and (np.diff(first) > 0).all()
    assert np.array_equal(group[first], np.arange(len(first)))


def test_named_rows():
    assert named_rows([1, 3], ["a", "b", "c", "d"]) == "1 (b), 3 (d)"
    assert named_rows(range(7)) == "0, 1, 2, 3, 4 and 2 more"
