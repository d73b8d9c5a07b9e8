"""The metadata of a simulated release of any size, millions of rows in bounded memory: what `metadata_only` writes.

Rows are drawn in blocks, each from the seed and its own number, so that a full block does not depend on how many rows
follow. Within every block, and so in the whole, the rules of the splits of BIOSCAN-5M hold exactly
(https://arxiv.org/abs/2406.12723): val and test species occur in train, val_unseen and test_unseen species in
key_unseen; seen, unseen and held-out species are disjoint; unseen species are in genera that have seen ones; pretrain
has no species and every other row has one; ids are unique and ascending. No barcode, less end Ns, is in two splits:
species and number of a barcode can be read from its first 387 nucleotides, which every read keeps.

Unlike in a release with photos, barcodes of one species differ at ten sites at most, and stop codons may occur.

Shapes: S = species, n = rows of a block.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
from numpy.typing import NDArray

from bioscan_hf.schema import COLUMNS, RANKS, SPLITS, chunk
from bioscan_hf.simulate.photos import HEIGHT, WIDTH
from bioscan_hf.simulate.specimens import (
    COUNTRIES,
    HELDOUT,
    KNOWN_IN_PRETRAIN,
    SEEN,
    UNSEEN,
    name_species,
    place_boxes,
)
from bioscan_hf.simulate.taxa import BARCODE_LENGTH, TRAITS, Bases, Ints, Taxa, codon_position, grow_taxa

#: Rows that are drawn at a time.
BLOCK_ROWS = 50_000

#: Most rows that the ids can tell apart.
MOST_ROWS = 26**3 * 1000

_SPECIES = 6_000
_SITES = 1_650
_SHORTEST = 387
_LONGEST = 720
_DIGITS = 10  # sites of a barcode that spell its number, in base 4
_PLATE = 95
# Rows of each split in the release.
_SPLIT_ROWS = (4_677_756, 289_203, 14_757, 39_373, 36_465, 8_819, 7_887, 76_590)
_PLACE = {split: i for i, split in enumerate(SPLITS)}


class World(NamedTuple):
    """What all blocks share.

    Attributes:
        kinds: (S,) SEEN, UNSEEN or HELDOUT; specimens of each may be in pretrain, unlabelled.
        chances: Kind, or None for all, -> (S,) cumulative share of the rows.
        digits: (10,) sites that spell the number of a barcode.
        letters: (S, 720) consensus and what follows it, as letters.
        names: Rank -> (S,) names; subfamilies whose genus must be known start with "unassigned ".
        sites: Country, province, latitude and longitude of each site.
    """

    taxa: Taxa
    kinds: Ints
    chances: dict[int | None, NDArray[np.float64]]
    digits: Ints
    letters: Bases
    names: dict[str, pa.Array]
    sites: pa.Table


def make_world(seed: int) -> World:
    """Species, their kinds, names and consensus barcodes, and the sites of collection."""
    rng = np.random.default_rng(seed)
    taxa = grow_taxa(rng, _SPECIES)
    genus = taxa.lineage["genus"]
    kinds = np.full(len(genus), SEEN)
    first = np.zeros(len(genus), dtype=bool)
    first[np.unique(genus, return_index=True)[1]] = True
    kinds[~first & (rng.random(len(genus)) < 0.12)] = UNSEEN  # the first species of each genus stays seen
    kinds[rng.permutation(genus.max() + 1)[genus] < genus.max() // 4] = HELDOUT

    third = np.flatnonzero(codon_position(BARCODE_LENGTH)[:_SHORTEST] == 2)
    digits = np.sort(rng.choice(third, _DIGITS, replace=False))
    masked = taxa.barcodes[:, :_SHORTEST].copy()
    masked[:, digits] = 0
    told_apart = np.unique(masked, axis=0, return_index=True)[1]
    weights = np.zeros(len(genus))
    weights[told_apart] = taxa.abundance[told_apart]
    chances: dict[int | None, NDArray[np.float64]] = {None: (weights / weights.sum()).cumsum()}
    for kind in (SEEN, UNSEEN, HELDOUT):
        of_kind = np.where(kinds == kind, weights, 0) ** 0.8
        chances[kind] = (of_kind / of_kind.sum()).cumsum()

    flank = np.broadcast_to(taxa.flank[: _LONGEST - BARCODE_LENGTH], (len(genus), _LONGEST - BARCODE_LENGTH))
    letters = np.frombuffer(b"ACGT", np.uint8)[np.concatenate([taxa.barcodes, flank], axis=1)]
    names = {rank: pa.array(np.array(taxa.names[rank])[taxa.lineage[rank]].tolist()) for rank in RANKS[:-1]}
    names["species"] = pa.array(name_species(rng, taxa, kinds))
    sites = []
    for country, share, places in COUNTRIES:
        for i in range(round(_SITES * share)):
            province, latitude, longitude = places[i % len(places)]
            north, east = rng.normal(0, 0.12, 2).tolist()
            at = {"coord-lat": round(latitude + north, 3), "coord-lon": round(longitude + east, 3)}
            sites.append({"country": country, "province_state": province or None, **at})
    return World(taxa, kinds, chances, digits, letters, names, pa.Table.from_pylist(sites))


def mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Numbers that look random but are the same for the same `values` (splitmix64)."""
    values = (values + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def draw_species(rng: np.random.Generator, world: World, n: int) -> tuple[Ints, Ints]:
    """(n,) species and (n,) place of the split in SPLITS, by the rules of the splits."""
    split = np.searchsorted(np.cumsum(_SPLIT_ROWS) / sum(_SPLIT_ROWS), rng.random(n), side="right")
    split[:1] = _PLACE["train"]
    draw = rng.random(n)
    genus = world.taxa.lineage["genus"]

    def in_splits(*names: str) -> NDArray[np.bool_]:
        return np.isin(split, [_PLACE[name] for name in names])

    def of_kind(kind: int | None, where: NDArray[np.bool_]) -> None:
        species[where] = np.searchsorted(world.chances[kind], draw[where], side="right")

    species = np.zeros(n, dtype=np.int64)
    of_kind(None, in_splits("pretrain"))
    of_kind(SEEN, in_splits("train", "val", "test"))
    of_kind(UNSEEN, in_splits("key_unseen", "val_unseen", "test_unseen"))
    of_kind(HELDOUT, in_splits("other_heldout"))
    split[in_splits("val", "test") & ~np.isin(species, species[in_splits("train")])] = _PLACE["train"]
    unseen = in_splits("key_unseen", "val_unseen", "test_unseen")
    stray = unseen & ~np.isin(genus[species], genus[species[in_splits("train")]])
    of_kind(SEEN, stray)
    split[stray] = _PLACE["train"]
    keyless = in_splits("val_unseen", "test_unseen") & ~np.isin(species, species[in_splits("key_unseen")])
    split[keyless] = _PLACE["key_unseen"]
    return species, split


def read_barcodes(rng: np.random.Generator, world: World, species: Ints, number: Ints) -> pa.Array:
    """(n,) reads of barcode `number` (less than 4**10) of each species: most of 658, some short, long or with N."""
    n = len(species)
    reads = world.letters[species]
    spelled = (number[:, None] >> (2 * np.arange(_DIGITS))) & 3
    own = world.taxa.barcodes[species][:, world.digits]
    reads[:, world.digits] = np.frombuffer(b"ACGT", np.uint8)[(own + spelled) & 3]

    fault = rng.random(n)
    length = np.full(n, BARCODE_LENGTH)
    length = np.where(fault < 0.08, rng.integers(_SHORTEST + 1, 601, n), length)  # short
    length = np.where((fault >= 0.08) & (fault < 0.2), BARCODE_LENGTH - rng.integers(1, 9, n), length)  # trimmed
    length = np.where(fault > 0.99, rng.integers(BARCODE_LENGTH + 1, _LONGEST + 1, n), length)  # beyond the barcode
    column = np.arange(_LONGEST)
    some = np.flatnonzero((fault >= 0.16) & (fault < 0.25))  # N at the end or inside
    start = rng.integers(_SHORTEST, 640, len(some))[:, None]
    run = rng.integers(1, 31, len(some))[:, None]
    reads[some] = np.where((column >= start) & (column < start + run), ord("N"), reads[some])
    few = np.flatnonzero(rng.random(n) < 0.005)
    reads[few, rng.integers(_SHORTEST, 400, len(few))] = np.frombuffer(b"RYSWKM", np.uint8)[
        rng.integers(6, size=len(few))
    ]
    return _strings(reads, length)


def _strings(letters: Bases, length: Ints | None = None) -> pa.Array:
    """Texts from a matrix of ASCII letters (n, width), cut to `length` (n,)."""
    if length is None:
        length = np.full(len(letters), letters.shape[1])
    offsets = np.concatenate([[0], length.cumsum()]).astype(np.int32)
    flat = letters[np.arange(letters.shape[1]) < length[:, None]]
    return pa.StringArray.from_buffers(len(letters), pa.py_buffer(offsets), pa.py_buffer(flat))


def _spell(numbers: Ints, digits: int) -> Bases:
    """(n, digits) decimal digits as letters, with leading zeros."""
    return (numbers[:, None] // 10 ** np.arange(digits - 1, -1, -1) % 10 + ord("0")).astype(np.uint8)


def _text(text: str, n: int) -> Bases:
    return np.broadcast_to(np.frombuffer(text.encode(), np.uint8), (n, len(text)))


def _capitals(numbers: Ints, digits: int) -> Bases:
    return (numbers[:, None] // 26 ** np.arange(digits - 1, -1, -1) % 26 + ord("A")).astype(np.uint8)


def make_ids(row: Ints) -> tuple[pa.Array, pa.Array]:
    """processid (ascending) and sampleid of rows by their number in the whole release."""
    n, project, well = len(row), row // 1000, row % _PLATE
    processid = np.concatenate(
        [
            _text("SIM", n),
            _capitals(project, 3),
            _spell(1000 + row % 1000, 4),
            _text("-2", n),
            _spell(project % 4, 1),
        ],
        axis=1,
    )
    rows_of_plate = (ord("A") + well[:, None] // 12).astype(np.uint8)
    parts = [_text("SIM", n), _spell(row // _PLATE, 6), _text("-", n), rows_of_plate, _spell(well % 12 + 1, 2)]
    return _strings(processid), _strings(np.concatenate(parts, axis=1))


def _label(world: World, species: Ints, pretrain: NDArray[np.bool_], depth: Any) -> dict[str, pa.Array]:
    """Names of the ranks as far as they are known, and `taxon`, the most specific one."""
    names: dict[str, pa.Array] = {}
    known = {rank: ~pretrain | (depth < share) for rank, share in KNOWN_IN_PRETRAIN.items()}
    index = pa.array(species)
    for rank in RANKS:
        names[rank] = pc.if_else(pa.array(known[rank]), world.names[rank].take(index), None)
    unassigned = pc.fill_null(pc.starts_with(names["subfamily"], "unassigned "), False)
    named = {**names, "subfamily": pc.if_else(unassigned, None, names["subfamily"])}
    names["subfamily"] = pc.if_else(pa.array(known["genus"]), names["subfamily"], named["subfamily"])
    return {**names, "taxon": pc.coalesce(*(named[rank] for rank in reversed(RANKS)))}


def draw_block(world: World, seed: int, block: int, n: int) -> tuple[pa.Table, pa.Table]:
    """The `n` rows of a block as metadata (23 columns) and boxes."""
    rng = np.random.default_rng((seed, block))
    row = block * BLOCK_ROWS + np.arange(n)
    species, split = draw_species(rng, world, n)
    # Half of the barcodes are shared by several specimens; the last three bits tell the split.
    nth = np.where(rng.random(n) < 0.4, rng.integers(100_000, size=n), (40 * rng.random(n) ** 2).astype(np.int64))
    number = nth * len(SPLITS) + split
    chance = mix((species.astype(np.uint64) << np.uint64(32)) + number.astype(np.uint64))  # the same for a barcode
    depth = (chance >> np.uint64(11)).astype(np.float64) / 2**53
    cluster = (species * 50 + (chance % np.uint64(50)).astype(np.int64)) * 17 % (26 * 26 * 10_000)
    bins = [_text("BOLD:A", n), _capitals(cluster // 10_000, 2), _spell(cluster % 10_000, 4)]

    names = _label(world, species, split == _PLACE["pretrain"], depth)
    place = mix((row // _PLATE).astype(np.uint64) ^ np.uint64(seed))  # a plate comes from one site
    sites = world.sites.take(pa.array((place % np.uint64(len(world.sites))).astype(np.int64)))
    sizes = world.taxa.traits[species, TRAITS.index("size")]
    boxes = place_boxes(rng, sizes, np.full(n, 0.75), rng.uniform(0, 2 * np.pi, n))
    sides = boxes[:, 2:] - boxes[:, :2]
    area = np.round(sides.prod(axis=1) / (WIDTH * HEIGHT), 4)
    scale = np.round(sides.min(axis=1) / 256, 4)
    organism = (sides.prod(axis=1) * np.clip(0.28 * np.exp(rng.normal(0, 0.25, n)), 0.1, 0.7)).astype(np.int64)
    rare = rng.random((3, n))
    inferred = pc.and_(
        pc.and_(pc.is_valid(names["genus"]), pa.array(rare[2] < 0.05)),
        pc.invert(pc.fill_null(pc.starts_with(names["subfamily"], "unassigned "), False)),
    )
    processid, sampleid = make_ids(row)
    split_names = pa.array(SPLITS).take(pa.array(split))
    folders = [chunk(i, SPLITS[s]) for i, s in zip(processid.to_pylist(), split.tolist(), strict=True)]
    columns = {
        "processid": processid,
        "sampleid": sampleid,
        **names,
        "dna_bin": pc.if_else(pa.array(rare[0] > 0.003), _strings(np.concatenate(bins, axis=1)), None),
        "dna_barcode": read_barcodes(rng, world, species, number),
        **{name: sites[name].combine_chunks() for name in sites.column_names},
        "image_measurement_value": pa.array(organism, mask=rare[1] <= 0.002),
        "area_fraction": pa.array(area),
        "scale_factor": pa.array(scale),
        "inferred_ranks": pc.if_else(inferred, 4, 0),
        "split": split_names,
        "index_bioscan_1M_insect": pa.array(row // 5, mask=(row % 5 != 0) | (row // 5 >= 1_128_313)),
        "chunk": pc.if_else(pc.equal(pa.array(folders), ""), None, pa.array(folders)),
    }
    box_columns: dict[str, Any] = {
        "processid": processid,
        "width_original": pa.array(np.full(n, WIDTH)),
        "height_original": pa.array(np.full(n, HEIGHT)),
        **{name: pa.array(boxes[:, i]) for i, name in enumerate(("x0", "y0", "x1", "y1"))},
        "scale_factor": columns["scale_factor"],
        "area_fraction": columns["area_fraction"],
    }
    return pa.table(columns).select(list(COLUMNS)), pa.table(box_columns)


def write_metadata(
    csv_file: Path, boxes_file: Path, specimens: int, seed: int, progress: Callable[[int], None] = lambda rows: None
) -> None:
    """Writes the metadata as CSV and the boxes as TSV, block by block; at most `MOST_ROWS` specimens.

    Args:
        progress: Called with the rows of each block.
    """
    world = make_world(seed)
    with ExitStack() as stack:
        writers: list[Any] = []
        for block, first in enumerate(range(0, specimens, BLOCK_ROWS)):
            tables = draw_block(world, seed, block, min(BLOCK_ROWS, specimens - first))
            if not writers:
                for path, table, delimiter in zip((csv_file, boxes_file), tables, ",\t", strict=True):
                    with open(path, "wb") as file:  # pyarrow would quote the names
                        file.write(delimiter.join(table.column_names).encode() + b"\n")
                    sink = stack.enter_context(open(path, "ab"))
                    options = pacsv.WriteOptions(include_header=False, delimiter=delimiter, quoting_style="none")
                    writers.append(stack.enter_context(pacsv.CSVWriter(sink, table.schema, write_options=options)))
            for writer, table in zip(writers, tables, strict=True):
                writer.write_table(table)
            progress(len(tables[0]))
