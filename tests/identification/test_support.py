"""Support of names by positions that are drawn again."""

import numpy as np

from bioscan_hf.identification.names import names_of
from bioscan_hf.identification.packed import Packed
from bioscan_hf.identification.similarity import Matches
from bioscan_hf.identification.support import supports


def supported(reference_codes: np.ndarray, read: np.ndarray, taxa: list[int]) -> tuple[int, float]:
    """The taxon that is nearest to a read, and its support."""
    keys = Packed.of(reference_codes)
    rows = np.arange(len(taxa))[None]
    identity = (reference_codes == read).mean(1)[None].astype(np.float32)
    n = np.zeros(1)
    found = Matches(
        rows=rows,
        identity=identity,
        overlap=np.full(rows.shape, len(read), np.int32),
        cosine=identity,
        turned=n.astype(bool),
        score=n.astype(np.float32),
        reads=[],
        aligned=read[None],
        within=n.astype(np.int32),
        shifted=n.astype(bool),
    )
    codes = {"species": np.array(taxa)}
    names = names_of(found, codes, np.ones(len(taxa), np.int64), ["species"])
    return int(names.codes["species"][0]), float(supports(read[None], keys, rows, codes, names)["species"][0])


def test_a_name_that_rests_on_many_positions_always_wins_and_one_on_a_single_position_seldom():
    rng = np.random.default_rng(0)
    read = rng.integers(0, 4, 640).astype(np.uint8)
    far, near = read.copy(), read.copy()
    far[::8] = (far[::8] + 1) % 4  # different in every block
    near[3] = (near[3] + 1) % 4  # in one
    assert supported(np.stack([read, far]), read, [0, 1]) == (0, 1.0)
    # the block is drawn in 63 % of the samples, and else both are equally near
    name, share = supported(np.stack([read, near]), read, [0, 1])
    assert name == 0 and 0.65 < share < 0.95


def test_candidates_of_one_species_do_not_compete_and_unnamed_ones_do_not_count():
    read = np.random.default_rng(1).integers(0, 4, 640).astype(np.uint8)
    assert supported(np.stack([read, read]), read, [4, 4]) == (4, 1.0)
    assert supported(np.stack([read, read]), read, [4, -1]) == (4, 1.0)
    assert supported(np.stack([read, read]), read, [4, 5])[1] == 0.5


def test_a_short_overlap_does_not_win_by_being_equal():
    read = np.random.default_rng(2).integers(0, 4, 640).astype(np.uint8)
    whole, piece = read.copy(), np.full(640, 4, np.uint8)
    whole[::64] = (whole[::64] + 1) % 4
    piece[:100] = read[:100]
    keys = np.stack([whole, piece])
    rows = np.array([[0, 1]])
    codes = {"species": np.array([0, 1])}
    identity = np.array([[0.98, 1.0]], np.float32)
    found = Matches(
        *(rows, identity, np.array([[640, 100]], np.int32), identity, np.zeros(1, bool), np.zeros(1, np.float32)),
        *([], read[None], np.zeros(1, np.int32), np.zeros(1, bool)),
    )
    names = names_of(found, codes, np.ones(2, np.int64), ["species"])
    names.codes["species"][:] = 0
    assert supports(read[None], Packed.of(keys), rows, codes, names)["species"][0] == 1.0
