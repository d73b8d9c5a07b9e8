"""Specimens of a simulated release, drawn in blocks: species, split, barcode, place and labels.

A block is drawn from the seed and its number, so it does not depend on the rows that follow. No barcode (trailing N
removed) is in two splits: ten of its sites encode a number that holds the split, and every read keeps these sites.

Shapes: S = species, n = rows of a block.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..schema import COLUMNS, RANKS, SPLITS, chunk
from .photos import HEIGHT, PLANS, WIDTH, Specimen
from .splits import HELDOUT, PLACE, RELEASE_ROWS, UNSEEN, Roles, assign_roles, draw_species
from .taxa import BARCODE_LENGTH, TRAITS, Bases, Floats, Ints, Taxa, codon_position, evolve, grow_taxa

#: Rows drawn at a time.
BLOCK_ROWS = 50_000

#: Largest number of rows with different ids.
MOST_ROWS = 26**3 * 1000

# fmt: off
#: Country, province (or ""), latitude, longitude, and the share of the rows from there.
PLACES = (
    ("Costa Rica", "Guanacaste", 10.85, -85.6, 0.14),
    ("Costa Rica", "Alajuela", 10.5, -84.5, 0.14),
    ("Costa Rica", "Heredia", 10.35, -84.08, 0.14),
    ("Costa Rica", "Puntarenas", 8.9, -83.5, 0.13),
    ("Costa Rica", "Limon", 9.8, -83.1, 0.13),
    ("Canada", "Ontario", 44.5, -79.5, 0.03), ("Canada", "British Columbia", 53.2, -126.1, 0.02),
    ("Canada", "", 49.9, -97.1, 0.02),
    ("United States", "California", 37.5, -121.7, 0.03), ("United States", "Texas", 30.3, -98.2, 0.02),
    ("South Africa", "KwaZulu-Natal", -29.3, 30.2, 0.03), ("South Africa", "Limpopo", -23.9, 29.9, 0.02),
    ("Finland", "", 68.5, 24.9, 0.02), ("Finland", "", 61.8, 25.6, 0.02),
    ("Ecuador", "Pichincha", -0.1, -78.6, 0.03),
    ("Thailand", "Nakhon Ratchasima", 14.5, 101.9, 0.03),
    ("Australia", "Western Australia", -34.5, 117.4, 0.02),
    ("Egypt", "", 30.1, 31.4, 0.02),
    ("Philippines", "Lanao del Norte", 8.1, 124.0, 0.01),
)
# fmt: on

#: Share of the rows without species that are known down to a rank.
KNOWN_IN_PRETRAIN = {
    "phylum": 1.0,
    "class": 0.999,
    "order": 0.997,
    "family": 0.955,
    "subfamily": 0.2,
    "genus": 0.15,
    "species": 0.0,
}

_COMMON = 40  # barcodes per species and split that most specimens share
_RARE = 60_000  # further barcodes per species and split, of a tenth of the specimens
_DIGITS = 10  # sites that encode the number of a barcode, in base 4
_KEPT = slice(271, 387)  # sites that every read keeps
_SHORTEST = 387
_LETTERS = np.frombuffer(b"ACGT", np.uint8)


class World(NamedTuple):
    """What all blocks of a release share.

    Attributes:
        common: (S,) barcodes per split that most specimens share.
        letters: (2 S, length) consensus of each species as ASCII, then that of its second lineage.
        double: (S,) whether a species has two lineages, each with a BIN.
        digits: (10,) sites that encode the number of a barcode.
        names: Rank -> (S,) names; those of unknown subfamilies start with "unassigned ".
        sites: Country, province, latitude and longitude of each site.
    """

    taxa: Taxa
    roles: Roles
    common: Ints
    letters: Bases
    double: NDArray[np.bool_]
    digits: Ints
    names: dict[str, pa.Array]
    sites: pa.Table


class Block(NamedTuple):
    """Rows of a release.

    Attributes:
        table: The 23 published columns.
        boxes: (n, 4) x0, y0, x1, y1 in the original photo.
        species: (n,) true species, whether it is in the table or not.
        angles: (n,) in radians.
    """

    table: pa.Table
    boxes: Ints
    species: Ints
    angles: Floats

    def specimens(self, world: World, seed: int, first: int) -> list[Specimen]:
        """What the photos show; `first` is the number of the first row."""
        orders = np.array(world.taxa.names["order"])[world.taxa.lineage["order"][self.species]].tolist()
        looks = zip(orders, world.taxa.traits[self.species], self.boxes.tolist(), self.angles.tolist(), strict=True)
        return [
            Specimen(order, traits, (x0, y0, x1, y1), angle, (seed, row))
            for row, (order, traits, (x0, y0, x1, y1), angle) in enumerate(looks, start=first)
        ]


def make_world(seed: int, specimens: int | None) -> World:
    """Species, roles, names, consensus barcodes and collecting sites for a release of `specimens` rows.

    None makes the world of a release with the size and the split shares of BIOSCAN-5M.
    """
    rng = np.random.default_rng(seed)
    rows = RELEASE_ROWS if specimens is None else specimens
    taxa = grow_taxa(rng, int(np.clip(rows // 12, 40, 6_000)))
    roles = assign_roles(rng, taxa, specimens)
    count = len(roles.kinds)
    second = evolve(rng, taxa.barcodes, np.full(count, 0.05), taxa.rates)
    barcodes = np.concatenate([taxa.barcodes, second])
    flank = np.broadcast_to(taxa.flank, (2 * count, len(taxa.flank)))

    third = np.arange(BARCODE_LENGTH)[_KEPT]
    third = third[codon_position(BARCODE_LENGTH)[_KEPT] == 2]
    stops = ((barcodes[:, third - 2] == 3) & (barcodes[:, third - 1] == 0)).mean(axis=0)  # TA: two of four are stops
    names = {rank: pa.array(np.array(taxa.names[rank])[taxa.lineage[rank]].tolist()) for rank in RANKS[:-1]}
    names["species"] = pa.array(name_species(rng, taxa, roles.kinds))
    return World(
        taxa,
        roles,
        np.clip(taxa.abundance * rows / 14, 2, _COMMON).astype(np.int64),
        _LETTERS[np.concatenate([barcodes, flank], axis=1)],
        rng.random(count) < 0.05,
        np.sort(third[stops.argsort(kind="stable")[:_DIGITS]]),
        names,
        make_sites(rng, int(np.clip(rows // 10, 60, 1_650))),
    )


def name_species(rng: np.random.Generator, taxa: Taxa, kinds: Ints) -> list[str]:
    """Species names: two Latin words if seen or dark, a placeholder if unseen or held out."""
    genera = taxa.names["genus"]
    names = []
    for i, (genus, kind) in enumerate(zip(taxa.lineage["genus"].tolist(), kinds.tolist(), strict=True)):
        if kind in (UNSEEN, HELDOUT):
            names.append(f"{genera[genus]} " + (f"sp. {i + 1}BIO" if rng.random() < 0.7 else f"Malaise{1000 + i}"))
        else:
            names.append(f"{genera[genus]} {taxa.epithets[i]}")
    return names


def make_sites(rng: np.random.Generator, count: int) -> pa.Table:
    """Country, province and coordinates of about `count` collecting sites."""
    sites = []
    for country, province, latitude, longitude, share in PLACES:
        for north, east in rng.normal(0, 0.12, (max(1, round(count * share)), 2)).tolist():
            at = {"coord-lat": round(latitude + north, 3), "coord-lon": round(longitude + east, 3)}
            sites.append({"country": country, "province_state": province or None, **at})
    return pa.Table.from_pylist(sites)


def read_barcodes(rng: np.random.Generator, world: World, lineage: Ints, number: Ints) -> pa.Array:
    """(n,) reads of barcode `number` (less than 2**20) of each lineage, with the faults of real ones.

    Most have 658 nucleotides; 8 % are short, 1 % go beyond the barcode, 8 % contain N, 3 % are trimmed and 0.5 %
    contain another IUPAC letter. The sites `_KEPT` are never affected.
    """
    n = len(lineage)
    reads = world.letters[lineage]
    mixed = number * 0x9E375 % 2**20  # one-to-one, so that all ten digits vary
    mixed ^= mixed >> 11
    encoded = (mixed[:, None] >> (2 * np.arange(_DIGITS))) & 3
    common = np.searchsorted(_LETTERS, world.letters[0, world.digits])
    reads[:, world.digits] = _LETTERS[(common + encoded) & 3]

    fault = rng.random(n)
    start, length = np.zeros(n, dtype=np.int64), np.full(n, BARCODE_LENGTH)
    short = fault < 0.08
    length[short] = rng.integers(_SHORTEST, 601, short.sum())
    moved = short & (rng.random(n) < 0.3)
    start[moved] = rng.integers(BARCODE_LENGTH - length[moved] + 1)
    beyond = (fault >= 0.08) & (fault < 0.09)
    length[beyond] = rng.integers(BARCODE_LENGTH + 3, reads.shape[1] + 1, beyond.sum())
    trimmed = (fault >= 0.17) & (fault < 0.2)
    start[trimmed] = rng.integers(4, size=trimmed.sum())
    length[trimmed] -= start[trimmed] + rng.integers(1, 9, trimmed.sum())

    unread = np.flatnonzero((fault >= 0.09) & (fault < 0.17))  # N at the start, at the end or between
    run = rng.integers(1, 31, len(unread))
    first = np.choose(
        rng.integers(3, size=len(unread)),
        [np.zeros_like(run), BARCODE_LENGTH - run, rng.integers(_KEPT.stop, BARCODE_LENGTH - 31, len(unread))],
    )
    column = np.arange(reads.shape[1])
    inside = (column >= first[:, None]) & (column < (first + run)[:, None])
    reads[unread] = np.where(inside, ord("N"), reads[unread])
    few = np.flatnonzero((rng.random(n) < 0.005) & (fault >= 0.2))
    letters = np.frombuffer(b"RYSWKM", np.uint8)[rng.integers(6, size=len(few))]
    reads[few, rng.integers(_KEPT.stop, BARCODE_LENGTH, len(few))] = letters
    late = np.flatnonzero(start)
    shifted = np.minimum(start[late, None] + column, reads.shape[1] - 1)
    reads[late] = np.take_along_axis(reads[late], shifted, axis=1)
    return _strings(reads, length)


def _strings(letters: Bases, length: Ints | None = None) -> pa.Array:
    """Strings from the rows of a matrix of ASCII letters (n, width), cut to `length` (n,)."""
    n, width = letters.shape
    length = np.full(n, width) if length is None else length
    offsets = np.concatenate([[0], length.cumsum()]).astype(np.int32)
    flat = letters[np.arange(width, dtype=np.int16) < length[:, None].astype(np.int16)]
    return pa.StringArray.from_buffers(n, pa.py_buffer(offsets), pa.py_buffer(flat))


def _spell(pattern: str, *numbers: Ints) -> pa.Array:
    """(n,) strings: "9" in the pattern stands for a decimal digit, "A" for a letter, "|" starts the next number."""
    columns: list[Any] = []
    for part, number in zip(pattern.split("|"), numbers, strict=True):
        left = number
        own = []
        for letter in reversed(part):
            base, zero = {"9": (10, ord("0")), "A": (26, ord("A"))}.get(letter, (1, ord(letter)))
            own.append(left % base + zero)
            left = left // base
        columns += reversed(own)
    return _strings(np.stack(columns, axis=1).astype(np.uint8))


def _mix(values: NDArray[np.uint64]) -> Floats:
    """Numbers in [0, 1) that look random but are the same for the same `values` (splitmix64)."""
    values = (values + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((values ^ (values >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) / 2**53


def _labels(world: World, species: Ints, depth: Floats) -> dict[str, pa.Array]:
    """Names of the ranks that are known to `depth` (0: all, towards 1: few), and `taxon`, the finest one."""
    names: dict[str, pa.Array] = {}
    for rank in RANKS:
        known = pa.array((depth < KNOWN_IN_PRETRAIN[rank]) | (depth < 0))
        names[rank] = pc.if_else(known, world.names[rank].take(pa.array(species)), None)
    unassigned = pc.fill_null(pc.starts_with(names["subfamily"], "unassigned "), False)
    named = {**names, "subfamily": pc.if_else(unassigned, None, names["subfamily"])}
    names["subfamily"] = pc.if_else(pc.is_valid(names["genus"]), names["subfamily"], named["subfamily"])
    return {**names, "taxon": pc.coalesce(*(named[rank] for rank in reversed(RANKS)))}


def place_boxes(rng: np.random.Generator, size: Floats, spans: Floats, angles: Floats) -> Ints:
    """(n, 4) boxes of specimens at `angles` near the middle of an original photo.

    Args:
        size: (n,) standard deviations from a typical body length.
        spans: (n,) typical width in body lengths.
    """
    length = 240 * np.exp(0.4 * size + rng.normal(0, 0.12, len(size)))
    cos, sin = np.abs(np.cos(angles)), np.abs(np.sin(angles))
    sides = np.stack([cos + sin * spans, sin + cos * spans], axis=1) * length[:, None]
    sides = np.maximum(sides, 0.62 * sides.max(axis=1, keepdims=True))
    sides *= np.minimum(1, 620 / sides.max(axis=1, keepdims=True))
    sides = np.maximum(sides, 48).round()
    frame = np.array([WIDTH, HEIGHT])
    corner = frame / 2 + rng.normal(0, 45, sides.shape) - sides / 2
    corner = np.clip(corner, 2, frame - sides - 2).round()
    return np.concatenate([corner, corner + sides], axis=1).astype(np.int64)


def draw_block(world: World, seed: int, block: int, n: int) -> Block:
    """The `n` rows of block number `block`."""
    rng = np.random.default_rng((seed, block))
    row = block * BLOCK_ROWS + np.arange(n)
    species, split = draw_species(rng, world.taxa, world.roles, n)
    rare = rng.random((4, n))
    nth = (world.common[species] * rng.random(n) ** 2).astype(np.int64)
    nth = np.where(rare[0] < 0.1, rng.integers(_RARE, size=n), nth)
    cluster = world.taxa.barcode_cluster[species]
    number = (2 * nth + (cluster != species)) * len(SPLITS) + split  # sister species share no barcode
    count = len(world.roles.kinds)
    second = count * (world.double[species] & (nth % 2 == 1))
    lineage, cluster = species + second, (cluster + second) * 7919 % 6_760_000
    # The same for all specimens of a barcode; below 0 where everything is known.
    depth = _mix((lineage.astype(np.uint64) << np.uint64(32)) + number.astype(np.uint64))
    names = _labels(world, species, np.where(split == PLACE["pretrain"], depth, -1))

    angles = rng.uniform(0, 2 * np.pi, n)
    spans = np.array([PLANS[order].span for order in world.taxa.names["order"]])
    size = world.taxa.traits[species, TRAITS.index("size")]
    boxes = place_boxes(rng, size, spans[world.taxa.lineage["order"][species]], angles)
    sides = boxes[:, 2:] - boxes[:, :2]
    area = sides.prod(axis=1)
    organism = (area * np.clip(0.28 * np.exp(rng.normal(0, 0.25, n)), 0.1, 0.7)).astype(np.int64)
    inferable = pc.and_(pc.is_valid(names["genus"]), pc.invert(pc.starts_with(names["subfamily"], "unassigned ")))
    inferred = pc.and_(pc.fill_null(inferable, False), pa.array(rare[1] < 0.05))

    processid = _spell("SIMAAA|9999|-29", row // 1000, 1000 + row % 1000, row // 1000 % 4)
    well = row % 95
    folders = [chunk(i, SPLITS[s]) or None for i, s in zip(processid.to_pylist(), split.tolist(), strict=True)]
    sites = world.sites.take(pa.array(rng.integers(len(world.sites), size=n)))
    columns = {
        "processid": processid,
        "sampleid": _spell("SIM999999|-A|99", row // 95, well // 12, well % 12 + 1),
        **names,
        "dna_bin": pc.if_else(
            pa.array(rare[2] > 0.003), _spell("BOLD:AAA|9999", cluster // 10_000, cluster % 10_000), None
        ),
        "dna_barcode": read_barcodes(rng, world, lineage, number),
        **{name: sites[name].combine_chunks() for name in sites.column_names},
        "image_measurement_value": pa.array(organism, mask=rare[3] <= 0.002),
        "area_fraction": pa.array(np.round(area / (WIDTH * HEIGHT), 4)),
        "scale_factor": pa.array(np.round(sides.min(axis=1) / 256, 4)),
        "inferred_ranks": pc.if_else(inferred, 4, 0),
        "split": pa.array(SPLITS).take(pa.array(split)),
        "index_bioscan_1M_insect": pa.array(row // 5, mask=(row % 5 != 0) | (row // 5 >= 1_128_313)),
        "chunk": pa.array(folders, pa.string()),
    }
    return Block(pa.table(columns).select(list(COLUMNS)), boxes, species, angles)
