"""What is searched: bits and cells against brute force, blocks and threads, memory, and interrupted writing."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
import torch
from made_up_references import evolved, library_of, records

from bioscan_hf.barcodes import complement
from bioscan_hf.identification import library as module
from bioscan_hf.identification import shortlist, stored
from bioscan_hf.identification.letters import (
    NOTHING,
    bit_counts,
    blocks,
    codes_of,
    letters,
    unpacked,
    word_ids,
    words_of,
)
from bioscan_hf.identification.library import ReferenceLibrary
from bioscan_hf.identification.packed import Packed, compared, planes_of
from bioscan_hf.identification.region import LEAST_SCORE, Region
from bioscan_hf.identification.shortlist import Cells, LeftOut, Words, nearest
from bioscan_hf.models import modeling_alignedbarcode as model


@pytest.fixture(scope="module")
def world():
    rows = records(np.random.default_rng(0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ASKED", 100)
        return {"rows": rows, "library": library_of(rows)}


def reads_of(rows):
    """Whole, cut, reversed, with an insertion, empty and foreign reads, and repeats."""
    reads = [row["dna_barcode"] for row in rows]
    changed = [
        *reads[:30],
        *(read[100:400] for read in reads[30:50]),
        *map(complement, reads[50:60]),
        *(f"{read[:300]}A{read[300:]}" for read in reads[60:70]),
        *("", "ACGT" * 100, "N" * 200, reads[0][::-1]),
    ]
    return [*changed, *changed[::3]]


@pytest.mark.parametrize("k", range(4, 9))
@pytest.mark.parametrize("share", [0.0, 0.1])
def test_words_are_those_of_the_model(k, share):
    codes = np.random.default_rng(k).choice(5, (20, 90), p=[(1 - share) / 4] * 4 + [share]).astype(np.uint8)
    assert (word_ids(codes, k) == model.anchor_ids(torch.from_numpy(codes).int(), k).numpy()).all()


def test_places_are_those_of_the_model(world):
    region = world["library"].references.region
    reads = [read for read in reads_of(world["rows"]) if read]
    codes = letters(reads)
    aligned, start, score = region.model.align(codes + model.FIRST_NUCLEOTIDE, (codes < NOTHING).int())
    found = region.place(reads)
    assert (found.aligned == aligned.numpy()).all() and (found.start == start.numpy()).all()
    assert np.allclose(found.score, score.numpy())


@pytest.mark.slow
def test_linear_vectors_are_those_of_the_model(world, monkeypatch, tmp_path):
    from bioscan_hf.identification import region as regions

    monkeypatch.setattr(regions, "MANY", 10)
    monkeypatch.setattr(regions, "WIDTH", 32)
    reads = [row["dna_barcode"] for row in world["rows"]]
    region = Region.of(reads)
    region.model.save_pretrained(tmp_path)
    for one in (region, Region(tmp_path)):
        placed = one.place(reads, vectors=True)
        expected = region.model.embed_aligned(torch.from_numpy(placed.aligned).int())
        assert placed.vectors.shape == (len(reads), 32)
        assert torch.allclose(placed.vectors.float(), expected, atol=0.02)


@pytest.mark.parametrize("positions", [64, 100, 658])
def test_bits_compare_as_letters(positions):
    rng = np.random.default_rng(positions)
    keys, reads = (rng.choice(5, (n, positions)).astype(np.uint8) for n in (30, 7))
    rows = rng.integers(-1, 30, (7, 5))
    packed = Packed(planes_of(keys), positions)
    assert (packed[np.arange(30)] == keys).all() and (packed[rows.clip(0)] == keys[rows.clip(0)]).all()
    both = (keys[rows.clip(0)] != NOTHING) & (reads[:, None] != NOTHING) & (rows >= 0)[:, :, None]
    expected = (both & (keys[rows.clip(0)] == reads[:, None])).sum(2), both.sum(2)
    for way in (packed, keys):
        assert all((a == b).all() for a, b in zip(compared(reads, way, rows), expected, strict=True))


def left_out_of(n, references, rng):
    taxa = np.stack([rng.integers(-1, 5, references), rng.integers(0, 3, references)]).astype(np.int32)
    rows, level = rng.integers(0, references, n), rng.integers(-1, 2, n)
    return LeftOut(rows, level, np.where(level >= 0, taxa[level, rows], -1).astype(np.int64), taxa)


@pytest.mark.parametrize("without", [False, True])
def test_cells_find_what_brute_force_finds(monkeypatch, without):
    """With all cells searched, and with few cells where a query finds too few allowed keys there."""
    rng = np.random.default_rng(5)
    vectors = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(400, 16))).float(), dim=1)
    keys, queries = vectors.to(torch.bfloat16), vectors[:50].to(torch.bfloat16)
    good = rng.random(400) > 0.1
    left_out = left_out_of(50, 400, rng) if without else None
    expected, values = nearest(queries, keys, torch.from_numpy(good), 6, left_out)
    exact = queries.float() @ keys.float().T
    exact[:, ~torch.from_numpy(good)] = -9
    if left_out is not None:
        exact[~torch.from_numpy(left_out.allows(np.arange(400)))] = -9
    best = exact.topk(6, dim=1).values
    assert torch.allclose(torch.from_numpy(values) + 1, best, atol=0.01)
    monkeypatch.setattr(shortlist, "SEARCHED", 10**6)
    found, same = Cells.of(keys, good).nearest(queries, keys, torch.from_numpy(good), 6, left_out)
    assert np.allclose(same, values, atol=1e-6) and (np.sort(found) == np.sort(expected)).mean() > 0.98
    monkeypatch.setattr(shortlist, "SEARCHED", 1)
    assert (Cells.of(keys, good).nearest(queries, keys, torch.from_numpy(good), 6, left_out)[0] >= 0).all()


@pytest.mark.parametrize("without", [False, True])
@pytest.mark.parametrize(("at_once", "few"), [(50, 0), (10_000, 10_000)])
def test_words_in_cells_are_found_as_by_brute_force(world, monkeypatch, without, at_once, few):
    sequences = [row["dna_barcode"] for row in world["rows"]]
    bits = words_of(sequences)
    for read, own in zip(sequences[:5], bits[:5], strict=True):
        there = np.zeros(4096, np.bool_)
        there[word_ids(codes_of([read]))[0]] = True
        assert (unpacked(own[None])[0].bool().numpy() == there).all()
        assert bit_counts(own[None])[0] == there.sum()
    reads = words_of([read[50:300] for read in sequences[:40]])
    left_out = left_out_of(40, len(bits), np.random.default_rng(1)) if without else None
    monkeypatch.setattr(shortlist, "REFERENCES_AT_ONCE", at_once)
    expected, share = Words.of(bits).most_shared(reads, 5, left_out)
    table = unpacked(bits).float().numpy()
    shared = unpacked(reads).float().numpy() @ table.T
    exact = shared / np.minimum(bit_counts(reads)[:, None], bit_counts(bits))
    if left_out is not None:
        exact[~left_out.allows(np.arange(len(bits)))] = -1
    assert np.allclose(share, -np.sort(-exact, axis=1)[:, :5], atol=0.01)
    monkeypatch.setattr(shortlist, "MANY", 10)
    monkeypatch.setattr(shortlist, "WORD_CELLS", 10**6)
    monkeypatch.setattr(shortlist, "FEW_READS", few)
    found, same = Words.of(bits).most_shared(reads, 5, left_out)
    assert np.allclose(same, share, atol=0.01)
    for rows in (found, expected):
        assert np.allclose(np.take_along_axis(exact, rows, 1), share, atol=0.01)


def same(found, expected):
    """Equal tables; numbers to 12 digits, since numpy before 2.3 may add in another order."""
    for name in expected.column_names:
        if pa.types.is_floating(expected[name].type):
            pairs = (np.array(table[name].to_pylist(), float) for table in (found, expected))
            np.testing.assert_allclose(*pairs, rtol=1e-12)
        else:
            assert found[name].equals(expected[name])


def test_names_do_not_depend_on_blocks_threads_and_cells(world, monkeypatch, tmp_path):
    """The table is the same in one block or many, with one thread or two, and from a folder; cells name alike."""
    library, reads = world["library"], reads_of(world["rows"])
    expected = library.identify(reads)
    threads = torch.get_num_threads()
    try:
        for at_once, window, number in ((7, 50, 1), (7, 20, 2), (10_000, 10_000, 2)):
            monkeypatch.setattr(module, "_READS_AT_ONCE", at_once)
            monkeypatch.setattr(module, "_WINDOW", window)
            torch.set_num_threads(number)
            same(library.identify(reads), expected)
            assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(threads)
    for name, value in (("MANY", 50), ("SEARCHED", 50), ("WORD_CELLS", 500)):
        monkeypatch.setattr(shortlist, name, value)
    monkeypatch.setattr("bioscan_hf.identification.similarity.MANY", 50)
    monkeypatch.setattr(module, "ASKED", 100)
    many = library_of(world["rows"])
    assert many.references.cells is not None and many.references.words.order is not None
    names = many.identify(reads)
    assert names["species"].equals(expected["species"]) and names["status"].equals(expected["status"])
    many.save_pretrained(tmp_path / "many")
    assert ReferenceLibrary.from_pretrained(tmp_path / "many").identify(reads).equals(names)


def test_equal_reads_are_compared_once(world, monkeypatch):
    """Of 12 reads with 3 sequences, also in lower case and of several tables, 3 are compared."""
    library, asked = world["library"], []
    reads = [row["dna_barcode"] for row in world["rows"][:3]] * 4
    reads[3:6] = [read.lower() for read in reads[:3]]
    name = library.name
    monkeypatch.setattr(library, "name", lambda reads: asked.append(len(reads)) or name(reads))
    batches = [
        pa.table({"processid": list(map(str, part)), "dna_barcode": [reads[i] for i in part]})
        for part in (range(5), range(5, 12))
    ]
    found = pa.concat_tables(library.identify_batches(batches))
    assert asked == [3] and found["id"].to_pylist() == list(map(str, range(12)))
    rest = found.drop(["id"])
    assert all(rest.slice(start, 3).equals(rest.slice(0, 3)) for start in (3, 6, 9))


def test_an_interrupted_write_leaves_no_library(world, monkeypatch, tmp_path):
    """A folder whose writing stopped is not a library, and has no half files."""
    library, folder = world["library"], tmp_path / "library"
    library.save_pretrained(folder)

    def stop(tensors, path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(stored, "save_file", stop)
    with pytest.raises(KeyboardInterrupt):
        library.save_pretrained(folder)
    assert not stored.is_library(folder)
    assert not [path.name for path in folder.rglob("*") if path.name.endswith(".part")]
    assert not (folder / stored.SEARCH).exists()


def test_blocks_of_reads_are_bounded_and_complete():
    reads = ["A" * length for length in np.random.default_rng(0).integers(0, 3000, 2000)]
    parts = list(blocks(reads))
    assert sorted(np.concatenate(parts).tolist()) == list(range(2000))
    assert all(len(part) == 1 or (len(part) - 1) * (len(reads[part[-1]]) + 64) <= 1 << 20 for part in parts)
    assert not list(blocks([])) and codes_of([]).shape == (0, 6)


PEAK = """
import resource, sys
import pyarrow as pa
from bioscan_hf.identification.library import ReferenceLibrary
library = ReferenceLibrary.from_pretrained(sys.argv[1])
read = library.references.sequences[0]
library.identify([read] * 10)
reads = [read[: i % 600] + "ACGT"[i % 4] + read[i % 600 + 1 :] for i in range(int(sys.argv[2]))]
library.identify(reads)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_hardly_grows_with_the_reads(world, tmp_path):
    """15,000 reads more take less than 60 MB more: their letters, and about 1 kB of what was found for each."""
    world["library"].save_pretrained(tmp_path / "library")
    peaks = []
    for number in (5_000, 20_000):
        command = [sys.executable, "-c", PEAK, str(tmp_path / "library"), str(number)]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    assert peaks[1] - peaks[0] < 60_000


def test_reads_of_a_table_keep_their_ids(world):
    table = pa.table({"processid": ["a", "b"], "dna_barcode": [world["rows"][0]["dna_barcode"], ""]})
    assert world["library"].identify(table)["id"].to_pylist() == ["a", "b"]


def test_a_barcode_inside_a_much_longer_sequence_is_found(world):
    """Also a distant one, whose words alone do not tell; of a sequence without a barcode nothing is told."""
    library, rng = world["library"], np.random.default_rng(3)
    region = library.references.region
    reads = [evolved(library.references.sequences[i], 0.12, rng) for i in range(0, 40, 4)]
    around = ["".join(rng.choice(list("ACGT"), 14_000)) for _ in reads]
    inside = [text[:5_000] + read + text[5_000:] for read, text in zip(reads, around, strict=True)]
    alone, found, nothing = (region.place(some) for some in (reads, inside, around))
    assert (found.start == alone.start - 5_000).all()
    assert (found.aligned == alone.aligned).all()
    assert (found.score >= LEAST_SCORE).all() and (abs(found.score - alone.score) < 0.05).all()
    assert (nothing.score < 0.05).all()
    assert set(library.identify(around)["status"].to_pylist()) == {"not_coi"}
