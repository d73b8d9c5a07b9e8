"""Errors of sequencing in barcodes: rates, each kind alone, and equal draws for equal barcodes."""

import random

import pytest

from bioscan_hf.training.dna_noise import DnaNoise, add_noise

draw = random.Random(0)
BARCODES = ["".join(draw.choices("ACGT", k=660)) for _ in range(200)]
CONDITIONS = DnaNoise.conditions()
LETTERS = 200 * 660


def altered(name):
    return add_noise(BARCODES, CONDITIONS[name])


def test_conditions_are_each_kind_and_all():
    assert list(CONDITIONS) == ["substitutions", "unread", "insertions", "deletions", "lost_run", "cut_end", "all"]
    assert CONDITIONS["unread"] == DnaNoise(0, 0.003, 0, 0, 0, 0) and CONDITIONS["all"] == DnaNoise()


def test_substitutions_and_unread_letters_keep_their_places():
    for name, rate in (("substitutions", 0.01), ("unread", 0.003)):
        pairs = [
            (a, b) for one, other in zip(BARCODES, altered(name), strict=True) for a, b in zip(one, other, strict=True)
        ]
        changed = [(a, b) for a, b in pairs if a != b]
        assert len(changed) == pytest.approx(rate * LETTERS, rel=0.15)
        assert {b for _, b in changed} == (set("N") if name == "unread" else set("ACGT"))
        if name == "substitutions":
            assert len(set(changed)) == 12


def test_insertions_and_deletions():
    """One insertion of a nucleotide: the barcode is left when it is taken out again."""
    for name, sign in (("insertions", 1), ("deletions", -1)):
        made = altered(name)
        grown = [len(b) - len(a) for a, b in zip(BARCODES, made, strict=True)]
        assert sum(grown) == pytest.approx(sign * 0.002 * LETTERS, rel=0.15) and max(grown) * min(grown) == 0
        one, other = next((a, b) for a, b in zip(BARCODES, made, strict=True) if len(b) - len(a) == sign)
        long, short = (other, one) if sign == 1 else (one, other)
        assert any(long[:place] + long[place + 1 :] == short for place in range(len(long)))


def test_lost_run_and_cut_end():
    """33 of 660 letters are N in one run; 594 of 660 are left."""
    for one, other in zip(BARCODES, altered("lost_run"), strict=True):
        place = other.index("N")
        assert other == one[:place] + "N" * 33 + one[place + 33 :]
    assert len({other.index("N") for other in altered("lost_run")}) > 100
    assert altered("cut_end") == [barcode[:594] for barcode in BARCODES]


def test_equal_barcodes_seeds_and_missing():
    made = altered("all")
    assert add_noise(BARCODES[5:6], DnaNoise())[0] == made[5], "the draws depend on the batch"
    assert add_noise(BARCODES, DnaNoise(), seed=1) != made
    assert add_noise([None, "", "A"], DnaNoise(deletions=1.0, cut_end=1.0)) == [None, "", "A"]
    assert all(add_noise([barcode], DnaNoise(1, 1, 1, 1, 1, 1))[0] for barcode in ("A", "AC", "N-"))
    with pytest.raises(ValueError, match="cut_end is 2"):
        DnaNoise(cut_end=2)
