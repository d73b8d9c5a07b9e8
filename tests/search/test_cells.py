"""Centres of cells, by spherical k-means."""

import numpy as np
import pytest

from bioscan_hf.search.cells import cell_centres


def test_every_family_of_vectors_has_a_cell():
    """Vectors around 4 orthogonal directions: each centre is within 0.1 of the mean direction of one family."""
    draw = np.random.default_rng(0)
    families = np.eye(4, 16)[:, None] + 0.02 * draw.normal(size=(4, 50, 16))  # (families, members, D)
    means = families.mean(1) / np.linalg.norm(families.mean(1), axis=1, keepdims=True)
    found = {seed: cell_centres(families.reshape(-1, 16), 4, seed=seed).numpy() for seed in range(20)}
    whole = [centres for centres in found.values() if set((means @ centres.T).argmax(1)) == {0, 1, 2, 3}]
    assert whole and all(np.linalg.norm(centres, axis=1) == pytest.approx(1) for centres in found.values())
    np.testing.assert_allclose(np.sort((means @ whole[0].T).max(1)), 1, atol=1e-5)


def test_equal_keys_leave_cells_empty():
    """All keys are equal, so one cell holds them all and the centres of the others stay."""
    np.testing.assert_allclose(cell_centres(np.ones((5, 3)), 5), np.full((5, 3), 3**-0.5), atol=1e-6)


def test_the_same_seed_gives_the_same_centres():
    keys = np.random.default_rng(2).normal(size=(600, 32))
    assert (cell_centres(keys, 8, seed=3) == cell_centres(keys, 8, seed=3)).all()


def test_the_centre_of_many_keys_is_summed_in_float64():
    """300,000 similar keys in 1 cell: with sums in float32 the centre is wrong by 2e-6."""
    keys = (1 + 0.1 * np.random.default_rng(0).normal(size=(300_000, 4))).astype(np.float32)
    unit = keys / np.linalg.norm(keys.astype(np.float64), axis=1, keepdims=True)
    centre = unit.sum(axis=0, dtype=np.float64)
    np.testing.assert_allclose(cell_centres(keys, 1)[0], centre / np.linalg.norm(centre), atol=1e-7)


@pytest.mark.parametrize(("keys", "cells"), [(np.eye(3), 4), (np.full((2, 2), np.nan), 1), (np.ones(3), 1)])
def test_bad_keys(keys, cells):
    with pytest.raises(ValueError, match="larger sample|NaN or infinite|matrix"):
        cell_centres(keys, cells)
