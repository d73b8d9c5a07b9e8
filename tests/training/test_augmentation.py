"""Altered reads: the rates of the alterations, and reproducible draws."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from bioscan_hf.models.tokenization_kmer import KmerTokenizer
from bioscan_hf.training.augmentation import Augmentation, AugmentingCollator, augment, reading_frame
from bioscan_hf.training.collators import PASS, SeededCollator

STRONG = Augmentation(truncation=0.7, substitution=0.1, third_substitution=0.4, unread=0.5)

#: Codons other than stops in the mitochondrial code of invertebrates.
SENSE = [a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT" if a + b + c not in ("TAA", "TAG")]


def barcodes(count, length=658, seed=0):
    return ["".join(row) for row in np.random.default_rng(seed).choice(list("ACGT"), (count, length))]


def genes(count, seed=0):
    """Barcodes of 219 sense codons and a nucleotide, 658, which begin at a codon's first, second or third place."""
    draw = np.random.default_rng(seed)
    whole = ["".join(draw.choice(SENSE, 222)) for _ in range(count)]
    return [gene[i % 3 :][:658] for i, gene in enumerate(whole)], -np.arange(count) % 3


def keys(count, seed=0):
    return np.random.default_rng(seed).integers(0, 2**63, count, dtype=np.uint64)


def letters(texts):
    table = np.full(256, 4, np.uint8)
    table[list(b"ACGT")] = range(4)
    return table[np.array([list(text.encode()) for text in texts], np.uint8)]


def changed(before, after):
    return np.array([list(text) for text in before]) != np.array([list(text) for text in after])


def test_the_default_alters_nothing():
    given = [*barcodes(3), "", "ACGN-acgt"]
    for how in (Augmentation(), Augmentation(largest_cut=0.1)):
        assert augment(given, keys(5), how) == given
    assert augment([], keys(0), STRONG) == []


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("ACGTNRY-acé☃", max_size=40), min_size=1, max_size=6), st.integers(0, 2**32))
def test_reads_are_parts_of_their_barcodes(given, seed):
    """No read is longer than its barcode, a non-empty barcode never becomes empty, and each read is the same alone.

    Without substitutions and N, a read is a part of its barcode, for any latin-1 characters.
    """
    own = keys(len(given), seed)
    reads = augment(given, own, STRONG)
    assert [len(read) > 0 for read in reads] == [len(barcode) > 0 for barcode in given]
    assert all(len(read) <= len(barcode) for read, barcode in zip(reads, given, strict=True))
    assert [augment([barcode], own[i : i + 1], STRONG)[0] for i, barcode in enumerate(given)] == reads
    half = augment(given, own, Augmentation(truncation=1.0, largest_cut=0.5))
    for read, barcode in zip(half, given, strict=True):
        assert read in barcode.replace("☃", "?") and bool(read) == bool(barcode)


def test_a_read_does_not_depend_on_longer_barcodes_of_the_batch():
    given = [row[:length] for row, length in zip(barcodes(4), (658, 300, 20, 1), strict=True)]
    reads = augment(given, keys(4), STRONG)
    for i in range(4):
        assert augment(given[i:], keys(4)[i:], STRONG) == reads[i:]


def test_substitution_rates():
    """0.02 at 2/3 of 658,000 places and 0.3 at a third: standard deviations 0.0002 and 0.001.

    All three other nucleotides stand there equally often: a third each of some 75,000, standard deviation 0.0017.
    """
    given, first = genes(1000)
    reads = augment(given, keys(1000), Augmentation(substitution=0.02, third_substitution=0.3))
    change = changed(given, reads)
    third = (np.arange(658) - first[:, None]) % 3 == 2
    assert change[third].mean() == pytest.approx(0.3, abs=0.006)
    assert change[~third].mean() == pytest.approx(0.02, abs=0.001)
    steps = (letters(reads).astype(int) - letters(given))[change] % 4
    assert np.bincount(steps, minlength=4)[1:] / change.sum() == pytest.approx([1 / 3] * 3, abs=0.008)


def test_the_same_rate_everywhere():
    given = barcodes(300)
    change = changed(given, augment(given, keys(300), Augmentation(substitution=0.1, third_substitution=0.1)))
    assert change.mean() == pytest.approx(0.1, abs=0.004)  # standard deviation 0.0007
    assert all(change[:, place::3].mean() == pytest.approx(0.1, abs=0.006) for place in range(3))


def test_reading_frames_of_genes():
    """Random sense codons have about 7 stops among 219 in both other frames: all of 1,000 frames are found.

    Among 50 codons there are 1.5 stops, so each other frame has none in 0.2 of the reads; it wins if it comes first.
    """
    given, first = genes(1000)
    assert np.array_equal(reading_frame(letters(given)), first)
    short = [gene[:150] for gene in given]
    assert (reading_frame(letters(short)) == first).mean() > 0.75


def test_reading_frames_by_hand():
    """TAATAGC has the stops TAA at 0 and TAG at 3, both in frame 0, so frame 1 is the first without a stop.

    CTAACCC has the stop TAA at 1, so frame 0 is the first without a stop. TGA codes for tryptophan. A codon with N is
    not a stop, and two nucleotides are not a codon.
    """
    cases = {"TAATAGC": 1, "CTAACCC": 0, "TGATGAC": 0, "TANTAAC": 1, "NTAATAA": 0}
    assert {text: int(reading_frame(letters([text]))[0]) for text in cases} == cases
    assert reading_frame(letters(["TA"])).tolist() == [0]


def test_cuts():
    """Half of 4,000 reads are cut at the start and half at the end, independently, by 0.4 u**3 for a uniform u.

    A cut below 1 nucleotide has no effect: u**3 < 1 / (0.4 * 658), so u < 0.156, and a share of 0.5 * 0.844 = 0.422
    is cut; standard deviation 0.0078. The mean cut is 0.5 * 0.4 / 4 = 0.05 of 658, minus rounding; the largest is
    below 0.4.
    """
    given = barcodes(4000)
    reads = augment(given, keys(4000), Augmentation(truncation=0.5, largest_cut=0.4))
    front = np.array([barcode.find(read) for barcode, read in zip(given, reads, strict=True)])
    behind = 658 - front - np.array([len(read) for read in reads])
    for cut in (front, behind):
        assert (cut > 0).mean() == pytest.approx(0.422, abs=0.03)
        assert cut.mean() / 658 == pytest.approx(0.05, abs=0.006)
        assert 0.35 * 658 < cut.max() < 0.4 * 658
    assert abs(np.corrcoef(front > 0, behind > 0)[0, 1]) < 0.06


def test_unread_stretches():
    """A stretch in 30 % of 2,000 reads (standard deviation 0.01), of up to 50 N in one run."""
    given = barcodes(2000)
    reads = augment(given, keys(2000), Augmentation(unread=0.3))
    runs = [read.strip("ACGT") for read in reads]
    assert all(set(run) <= {"N"} for run in runs)
    assert np.mean([bool(run) for run in runs]) == pytest.approx(0.3, abs=0.04)
    lengths = [len(run) for run in runs if run]
    assert max(lengths) == 50 and np.mean(lengths) == pytest.approx(25, abs=3)
    assert all(a == b or b == "N" for x, y in zip(given, reads, strict=True) for a, b in zip(x, y, strict=True))


def test_only_nucleotides_are_substituted():
    given = ["NNRY-acgt" * 50]
    assert augment(given, keys(1), Augmentation(substitution=1.0, third_substitution=1.0)) == given
    (read,) = augment(["ACGT" * 50], keys(1), Augmentation(substitution=1.0, third_substitution=1.0))
    assert changed(["ACGT" * 50], [read]).all() and set(read) <= set("ACGT")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"truncation": 1.1}, "truncation is 1.1. Give a number from 0 to 1"),
        ({"largest_cut": 0.6}, "largest_cut is 0.6. Give a number from 0 to 0.5"),
        ({"substitution": -0.1}, "substitution is -0.1"),
        ({"third_substitution": 2.0}, "third_substitution is 2.0"),
        ({"unread": float("nan")}, "unread is nan"),
    ],
)
def test_impossible_rates_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**options)


# ---- batches --------------------------------------------------------------------------------------------------------


def features(count=6, length=60):
    return [
        {"dna_barcode": barcode, "genus_index": i // 2, "species_index": i}
        for i, barcode in enumerate(barcodes(count, length))
    ]


def collator(k=1, **options):
    given = {"views": 1, "seed": 0} | options
    return AugmentingCollator(KmerTokenizer(k=k, max_nucleotides=60), ["species", "genus"], STRONG, **given)


def rows_of(batch):
    """Each row without its padding."""
    return [row[mask == 1].tolist() for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]


def test_a_batch():
    """Two views of three rows: labels in the order of the ranks, repeated; the width is that of the longest read."""
    batch = collator(views=2)(features(3))
    assert {name: value.dtype for name, value in batch.items()} == dict.fromkeys(batch, torch.int64)
    assert batch["labels"].tolist() == [[0, 0], [1, 0], [2, 1]] * 2
    rows = rows_of(batch)
    assert batch["input_ids"].shape == (6, max(map(len, rows))) and batch["input_ids"].shape[1] <= 60
    assert all(rows[i] != rows[i + 3] for i in range(3)), "the views are alike"
    whole = collator(views=2, cut_padding=False)(features(3))
    assert whole["input_ids"].shape == (6, 60) and rows_of(whole) == rows


def test_draws_depend_only_on_seed_epoch_view_and_barcode():
    """They are the same in another batch, order and pickled copy, and after other draws of torch and numpy."""
    make, given = collator(views=2), features()
    rows = rows_of(make(given))
    np.random.rand()
    torch.rand(1)
    backwards = rows_of(pickle.loads(pickle.dumps(make))(given[::-1]))
    assert backwards[5::-1] == rows[:6] and backwards[:5:-1] == rows[6:]
    assert rows_of(make(given[2:3])) == [rows[2], rows[8]]
    assert rows_of(collator(views=1)(given)) == rows[:6]


def test_seeds_and_epochs_differ():
    given, make = features(), collator()
    first = rows_of(make(given))
    make.set_epoch(1)
    second = rows_of(make(given))
    third = rows_of(collator(seed=1)(given))
    assert all(a != b != c != a for a, b, c in zip(first, second, third, strict=True))
    make.set_epoch(0)
    assert rows_of(make(given)) == first


def test_kmers_too():
    batch = collator(k=4)(features())
    assert batch["input_ids"].shape[0] == 6 and batch["input_ids"].shape[1] <= 15


def test_impossible_batches_are_refused():
    with pytest.raises(ValueError, match="views is 0"):
        collator(views=0)
    with pytest.raises(ValueError, match="Rows without a barcode: 1 of 2."):
        collator()([*features(1), {"dna_barcode": None, "genus_index": 0, "species_index": 0}])


class _Draw(SeededCollator):
    """The first number that each row draws."""

    def __call__(self, rows):
        return [torch.rand((), generator=draw).item() for draw in self.generators(rows)]


def test_workers_that_persist_notice_a_new_epoch():
    """The draws of an epoch are those of workers that start anew; rows of a stream draw for their own pass."""
    rows, collator = [{"processid": f"P{i}"} for i in range(4)], _Draw(seed=1)
    loader = DataLoader(rows, 2, collate_fn=collator, num_workers=1, persistent_workers=True)
    found = []
    for epoch in (0, 1, 0):
        collator.set_epoch(epoch)
        found.append([draw for batch in loader for draw in batch])
        assert found[-1] == collator(rows)
    assert found[0] == found[2] != found[1] and len(set(found[0] + found[1])) == 8
    assert collator([row | {PASS: 1} for row in rows]) == found[1]
    assert pickle.loads(pickle.dumps(collator))(rows) == collator(rows)
