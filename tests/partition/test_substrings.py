"""Parts of other texts: the definition, borders of texts, and time that grows with letters."""

import random
import time

import numpy as np
import pytest

from bioscan_hf.partition.substrings import ANCHOR, contained


def by_definition(parts, wholes):
    found = [any(one in whole and len(one) < len(whole) for whole in wholes) for one in parts]
    holding = [any(one in whole and len(one) < len(whole) for one in parts) for whole in wholes]
    return found, holding


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_definition(seed):
    """Trimmed copies, copies with a change, repeats, texts with N and others."""
    draw = random.Random(seed)
    wholes = ["".join(draw.choices("ACGTN", [9, 9, 9, 9, 1], k=draw.randint(20, 120))) for _ in range(30)]
    parts = []
    for whole in wholes * 2:
        begin = draw.randint(0, 20)
        part = whole[begin : draw.randint(begin, len(whole))]
        if len(part) >= ANCHOR:
            parts.append(part)
            place = draw.randrange(len(part))
            parts.append(part[:place] + "A" + part[place + 1 :])
    parts += [*parts[:3], wholes[0], "ACGT" * 10, "A" * 30]
    wholes += ["A" * 100, "ACGT" * 20, "", wholes[1]]
    found, holding = contained(parts, wholes)
    assert (found.tolist(), holding.tolist()) == tuple(map(list, by_definition(parts, wholes)))
    assert 10 < found.sum() < len(parts) and 10 < holding.sum() < len(wholes)


def test_a_part_across_the_border_of_two_texts_is_none():
    first, second = "A" * 20 + "C" * 20, "G" * 20 + "T" * 20
    assert not contained([(first + second)[20:60]], [first, second])[0].any()
    assert contained(["C" * 24], ["C" * 25, "C" * 24])[1].tolist() == [True, False]


def test_short_and_missing_texts():
    assert contained(["A" * 23, ""], ["A" * 100])[0].tolist() == [False, False]
    assert [mask.shape for mask in contained([], ["A" * 30])] == [(0,), (1,)]
    assert [mask.shape for mask in contained(["A" * 30], [])] == [(1,), (0,)]
    assert contained(["Ä" * 30], ["É" * 40, "A" * 30])[0].tolist() == [False]


def test_time_grows_with_the_letters():
    """Barcodes of one species, which share most windows: four times as many take less than eight times as long."""
    draw = random.Random(0)
    base = draw.choices("ACGT", k=600)

    def barcodes(n):
        rows = np.array([base] * n)
        for row in rows:
            for place in draw.sample(range(600), 4):
                row[place] = draw.choice("ACGT")
        return ["".join(row) for row in rows]

    seconds = []
    for n in (500, 2000):
        queries, references = barcodes(n), barcodes(n)
        start = time.process_time()
        contained(queries, references)
        seconds.append(time.process_time() - start)
    assert seconds[1] < 8 * seconds[0] + 0.2, seconds
