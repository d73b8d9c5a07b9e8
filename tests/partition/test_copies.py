"""Copies with other letters: planted ones, the definitions, and barcodes that must not be reported."""

import random

import numpy as np
import pyarrow as pa
import pytest

from bioscan_hf.barcodes import complement
from bioscan_hf.evaluation.leaks import find_leaks
from bioscan_hf.partition.assign import make_splits
from bioscan_hf.partition.copies import find_copies, one_letter_apart
from bioscan_hf.partition.substrings import ANCHOR
from bioscan_hf.partition.unknown import LEAST_KNOWN, agreeing

BASES = {"A": "A", "C": "C", "G": "G", "T": "T", "R": "AG", "Y": "CT", "W": "AT", "B": "CGT", "N": "ACGT"}


def barcodes_of(draw, species, each, length=658):
    """Barcodes of species, of which those of one species differ by 2 to 6 substitutions from their common ancestor."""
    found = []
    for _ in range(species):
        ancestor = draw.choices("ACGT", k=length)
        found += [changed(draw, ancestor, draw.randint(2, 6)) for _ in range(each)]
    return found


def changed(draw, barcode, number):
    """Other bases at so many places."""
    letters = list(barcode)
    for place in draw.sample(range(len(letters)), number):
        letters[place] = draw.choice([base for base in "ACGT" if base != letters[place]])
    return "".join(letters)


def masked(draw, barcode, places, codes="N"):
    """Codes at some places that stand for the base there."""
    letters = list(barcode)
    for place in places:
        letters[place] = draw.choice([code for code in codes if letters[place] in BASES[code]])
    return "".join(letters)


def with_indel(draw, barcode, place):
    """The barcode with one letter deleted, or inserted; neither result equals a part of the barcode or contains it."""
    if draw.random() < 0.5:
        return barcode[:place] + barcode[place + 1 :]
    return barcode[:place] + draw.choice([base for base in "ACGT" if base != barcode[place]]) + barcode[place:]


@pytest.mark.parametrize("seed", range(2))
def test_planted_copies(seed):
    """Every planted copy has its kind, on both strands; siblings with substitutions only are none."""
    draw = random.Random(seed)
    references = barcodes_of(draw, 20, 10)
    queries, kinds = [], []

    def plant(kind, barcode):
        queries.append(barcode if draw.random() < 0.5 or kind == "reversed" else complement(barcode))
        kinds.append(kind)

    for number, barcode in enumerate(references):
        plant("none", changed(draw, barcode, 1))
        plant("none", changed(draw, barcode, 3)[:-7])
        plant("reversed", complement(barcode))
        plant("reversed", complement(barcode)[draw.randint(0, 9) : 640])
        plant("unknown", masked(draw, barcode, draw.sample(range(1, 657), number % 20 + 1)))
        plant("unknown", masked(draw, barcode, [draw.randint(30, 600)], "RYWB"))
        plant("unknown", masked(draw, barcode, draw.sample(range(30, 600), 3))[5:650])
        place = [1, 2, 3, 655, 656][number % 5] if number % 2 else draw.randint(4, 654)
        while (indel := with_indel(draw, barcode, place)) in barcode or barcode in indel:
            place += 1 if place < 400 else -1  # at the ends, a letter less can be a trimmed copy
        plant("indel", indel)
    found = find_copies(queries, references)
    told = np.array(["none", *found._fields])[np.argmax([np.zeros(len(queries)), *found], axis=0)]
    wrong = [(kind, other) for kind, other in zip(kinds, told.tolist(), strict=True) if kind != other]
    assert not wrong, wrong
    assert "400 on the other strand, 600 equal up to unknown letters, 200 with one letter more or less" == found.told()


def test_a_reference_with_unknown_letters_and_one_with_a_letter_more():
    """The same kinds where the reference has the fault; the unknown letter hides the difference of a sibling."""
    draw = random.Random(0)
    first, second, third = barcodes_of(draw, 3, 1)
    references = [masked(draw, first, [100, 300]), second[:200] + second[201:], masked(draw, third, [0, 3, 657])[1:-1]]
    queries = [first, changed(draw, first[:100], 1) + first[100:], second, complement(second), third]
    sibling = first[:100] + ("A" if first[100] != "A" else "C") + first[101:]
    found = find_copies([*queries, sibling], references)
    assert found.unknown.tolist() == [True, False, False, False, True, True]
    assert found.indel.tolist() == [False, False, True, True, False, False]
    assert not found.reversed.any()


def agree(query, reference):
    """The definition of `agreeing`, letter by letter."""
    if not set(query + reference) - set("ACGT"):
        return False
    part, whole = sorted((query, reference), key=len)
    for start in range(len(whole) - len(part) + 1) if len(part) >= ANCHOR else ():
        pairs = list(zip(part, whole[start:], strict=False))
        known = [a in "ACGT" and b in "ACGT" for a, b in pairs]
        blocks = (known[at : at + ANCHOR] for at in range(0, len(part) - ANCHOR + 1, ANCHOR))
        bases = all(set(BASES.get(a, "")) & set(BASES.get(b, "")) for a, b in pairs)
        if bases and sum(known) >= LEAST_KNOWN * len(part) and any(map(all, blocks)):
            return True
    return False


def variants(draw, ancestors, number):
    """Copies of ancestors that are changed, trimmed, masked, short, or all of it."""
    found = []
    for _ in range(number):
        letters = list(changed(draw, draw.choice(ancestors), draw.random() < 0.3))
        letters = letters[draw.choice([0, 0, 0, 5, 17]) : len(letters) - draw.choice([0, 0, 0, 5, 17])]
        for _ in range(draw.choice([0, 1, 3, 8])):
            letters[draw.randrange(len(letters))] = draw.choice("NNNRYWBXÄ")
        found.append("".join(letters[: draw.choice([len(letters)] * 9 + [draw.randint(0, 30)])]))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_unknown_letters_equal_the_definition(seed, monkeypatch):
    """Also in many small parts, of barcodes and of pairs."""
    draw = random.Random(seed)
    if seed > 2:
        for name in ("_ANCHORED", "_LETTERS", "_PAIRS"):
            monkeypatch.setattr(f"bioscan_hf.partition.unknown.{name}", 300 if name != "_PAIRS" else 2)
        monkeypatch.setattr("bioscan_hf.partition.hashes._AT_ONCE", 400)
    expected = 0
    for _ in range(10):
        ancestors = ["".join(draw.choices("ACGT", k=draw.randint(60, 140))) for _ in range(2)]
        queries, references = variants(draw, ancestors, 12), variants(draw, ancestors, 12)
        truth = [any(agree(query, one) for one in references) for query in queries]
        assert agreeing(queries, references).tolist() == truth
        expected += sum(truth)
    assert 15 < expected < 90


@pytest.mark.parametrize("seed", range(3))
def test_one_letter_apart_equals_the_definition(seed, monkeypatch):
    draw = random.Random(seed)
    if seed:
        monkeypatch.setattr("bioscan_hf.partition.hashes._AT_ONCE", 100)
    ancestors = ["".join(draw.choices("ACGT", k=40)) for _ in range(3)]
    sides = []
    for _ in range(2):
        side = [draw.choice(ancestors) for _ in range(60)]
        side = [with_indel(draw, one, draw.randrange(40)) if draw.random() < 0.5 else one for one in side]
        sides.append([changed(draw, one, draw.random() < 0.3) for one in side] + ["", "A", "AC"])
    queries, references = sides

    def less(text):
        return {text[:place] + text[place + 1 :] for place in range(len(text))}

    truth = [any(one in less(query) or query in less(one) for one in references) for query in queries]
    assert one_letter_apart(queries, references).tolist() == truth
    assert 10 < sum(truth) < len(truth) - 5


def test_nothing_to_compare():
    barcode = "".join(random.Random(0).choices("ACGT", k=60))
    for queries, references in ([], [barcode]), ([barcode], []), ([barcode[:23]], [complement(barcode[:23])]):
        assert not np.any(np.stack(find_copies(queries, references)))
    assert not find_copies([barcode], ["N" * 60]).unknown.any(), "no letter is known in both"
    assert not find_copies([barcode], ["N" * 35 + barcode[35:]]).unknown.any(), "less than half is known"


def test_leaks_have_one_kind_each():
    """A copy that equals a reference too is exact; repeated queries have the same kind."""
    draw = random.Random(0)
    first, second = barcodes_of(draw, 2, 1)
    unclear, indel = masked(draw, second, [40]), second[:80] + second[81:]
    queries = [first, complement(first), f"NN{complement(first)}", first[9:], unclear, unclear, indel, ""]
    found = find_leaks([first, second], queries)
    assert found.counts() == {"exact": 1, "substring": 1, "reversed": 2, "unknown": 2, "indel": 1}
    assert found.any.tolist() == [True] * 7 + [False]
    assert find_leaks([first, complement(first)], [complement(first)]).counts()["exact"] == 1


def test_split_tells_copies_and_leaves_them():
    """Half of the barcodes of a species have a copy; the copies of train in test are told, and no row is moved."""
    draw = random.Random(0)
    barcodes = barcodes_of(draw, 1, 90)
    barcodes += [complement(one) for one in barcodes[:30]]
    barcodes += [masked(draw, one, [50, 60]) for one in barcodes[30:60]]
    table = pa.table(
        {
            "processid": [f"P{number:03d}" for number in range(len(barcodes))],
            "genus": ["Aphis"] * len(barcodes),
            "species": ["Aphis bus"] * len(barcodes),
            "dna_barcode": barcodes,
        }
    )
    told, moved = [], []
    split = make_splits(table, tell=told.append)["split"].to_pylist()
    assert make_splits(table, no_overlap=True, tell=moved.append)["split"].to_pylist() == split
    for lines in (told, moved):
        for name in ("test", "val"):
            sides = [[one for one, of in zip(barcodes, split, strict=True) if of == side] for side in (name, "train")]
            (line,) = [one for one in lines if one.startswith(f"Other copies of references in {name}, which stay")]
            reversed_ = sum(complement(one) in sides[1] for one in sides[0])
            unknown = sum(any(agree(one, other) for other in sides[1]) for one in sides[0])
            assert f": {reversed_} on the other strand, {unknown} equal up to unknown letters, 0 with one" in line
            assert reversed_ and unknown
