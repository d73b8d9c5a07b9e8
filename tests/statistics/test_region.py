"""Places of barcodes along a typical one, from shifts and strands that are known."""

import numpy as np
import pytest

from bioscan_hf.statistics.region import placed

COMPLEMENT = str.maketrans("ACGT", "TGCA")


@pytest.mark.parametrize("share_turned", [0.2, 0.8])
def test_places_and_strands_are_found(share_turned):
    """Parts of 300 to 600 letters of copies with one letter in ten changed, of which some are on the other strand."""
    rng = np.random.default_rng(0)
    whole = rng.choice(list("ACGT"), 700)
    texts, starts, turned = [], [], rng.random(60) < share_turned
    for turn in turned:
        copy = np.where(rng.random(700) < 0.1, rng.choice(list("ACGT"), 700), whole)
        start, length = int(rng.integers(0, 101)), int(rng.integers(300, 601))
        text = "".join(copy[start : start + length])
        texts.append(text[::-1].translate(COMPLEMENT) if turn else text)
        starts.append(700 - start - length if share_turned > 0.5 else start)
    found = placed(texts)
    few = turned if share_turned < 0.5 else ~turned
    assert (found.turned == few).all() and few.any()
    assert len(set((found.starts - starts).tolist())) == 1
    own = [one[::-1].translate(COMPLEMENT) if turn else one for one, turn in zip(texts, few, strict=True)]
    assert found.barcodes == own


def test_odd_barcodes_have_a_place():
    """One letter, no known letter, one barcode only, and unrelated ones, of which none is clearly turned."""
    assert placed(["ACGT"]).barcodes == ["ACGT"]
    found = placed(["ACGTTGCAAC", "R", "NNKNN", "A"])
    assert not found.turned.any() and len(found.starts) == 4
    rng = np.random.default_rng(0)
    assert not placed(["".join(rng.choice(list("ACGT"), 600)) for _ in range(50)]).turned.any()


def test_a_genome_among_barcodes_takes_no_longer():
    """Of a sequence of 10 million letters only the beginning is compared; the others have their places."""
    rng = np.random.default_rng(0)
    whole = "".join(rng.choice(list("ACGT"), 700))
    found = placed([whole[:600], whole[50:650], whole * 15_000, whole[20:]])
    assert found.starts[[0, 1, 3]].tolist() == [found.starts[0] + shift for shift in (0, 50, 20)]
