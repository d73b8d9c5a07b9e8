"""The specimens of a simulated release: species, barcode, split and origin of each, and what is known of it.

The splits keep the rules of BIOSCAN-5M (https://arxiv.org/abs/2406.12723): no barcode in two splits (less end Ns);
seen, unseen and held-out species disjoint; val and test species all in train, val_unseen and test_unseen species all
in key_unseen; unseen species in genera that have seen ones; no species in pretrain, one for every other row.

Shapes: S = species, H = haplotypes (distinct barcodes before reading errors), n = specimens, T = traits.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bioscan_hf.schema import RANKS, SPLITS, chunk
from bioscan_hf.simulate.photos import HEIGHT, PLANS, WIDTH
from bioscan_hf.simulate.taxa import BARCODE_LENGTH, TRAITS, Bases, Floats, Ints, Taxa, evolve

Row = dict[str, str | int | float]

#: What a species is to the splits. A dark species has specimens in pretrain alone.
SEEN, UNSEEN, HELDOUT, DARK = range(4)

#: Rows that a species needs before some are kept for testing.
DIVISIBLE = 8

_LARGE = 20_000  # specimens from which on most are unlabelled, as in the release

#: Country, its share of the rows, and its places: province (or ""), latitude, longitude.
COUNTRIES: tuple[tuple[str, float, tuple[tuple[str, float, float], ...]], ...] = (
    (
        "Costa Rica",
        0.68,
        (
            ("Guanacaste", 10.85, -85.6),
            ("Alajuela", 10.5, -84.5),
            ("Heredia", 10.35, -84.08),
            ("Puntarenas", 8.9, -83.5),
            ("Limon", 9.8, -83.1),
        ),
    ),
    ("Canada", 0.07, (("Ontario", 44.5, -79.5), ("British Columbia", 53.2, -126.1), ("", 49.9, -97.1))),
    ("United States", 0.05, (("California", 37.5, -121.7), ("Texas", 30.3, -98.2))),
    ("South Africa", 0.05, (("KwaZulu-Natal", -29.3, 30.2), ("Limpopo", -23.9, 29.9))),
    ("Finland", 0.04, (("", 68.5, 24.9), ("", 61.8, 25.6))),
    ("Ecuador", 0.03, (("Pichincha", -0.1, -78.6),)),
    ("Thailand", 0.03, (("Nakhon Ratchasima", 14.5, 101.9),)),
    ("Australia", 0.02, (("Western Australia", -34.5, 117.4),)),
    ("Egypt", 0.02, (("", 30.1, 31.4),)),
    ("Philippines", 0.01, (("Lanao del Norte", 8.1, 124.0),)),
)

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

_AMBIGUOUS = {"R": "AG", "Y": "CT", "S": "CG", "W": "AT", "K": "GT", "M": "AC"}


class Specimens(NamedTuple):
    """The rows of the metadata, sorted by processid, and beside each what its photo shows.

    Attributes:
        rows: The 23 published columns, "" where missing.
        boxes: (n, 4) x0, y0, x1, y1 in the original photo.
        orders: The true ones, known or not.
        traits: (n, T) standard deviations from the body plan.
        angles: (n,) in radians.
    """

    rows: list[Row]
    boxes: Ints
    orders: list[str]
    traits: Floats
    angles: Floats


def assign_kinds(rng: np.random.Generator, taxa: Taxa, seen_rows: int, unseen_rows: int, heldout_rows: int) -> Ints:
    """(S,) SEEN, UNSEEN, HELDOUT or DARK; not more of a kind than its rows can serve."""
    genus = taxa.lineage["genus"]
    genera = int(genus.max()) + 1
    fate = rng.permutation(genera)
    fate = np.concatenate([[np.bincount(genus).argmax()], fate])  # the largest genus is seen: it has species for all
    fate = fate[np.sort(np.unique(fate, return_index=True)[1])]
    kinds = np.full(len(genus), SEEN)
    kinds[np.isin(genus, fate[-(genera // 5) :])] = DARK
    kinds[np.isin(genus, fate[-(genera // 5) - genera // 7 : -(genera // 5)])] = HELDOUT

    first = np.zeros(len(genus), dtype=bool)
    first[np.unique(genus, return_index=True)[1]] = True
    others = rng.permutation(np.flatnonzero((kinds == SEEN) & ~first))
    unseen = int(np.clip(0.25 * len(others), 1, max(1, unseen_rows // (DIVISIBLE + 1))))
    heldout, dark = round(0.07 * len(others)), round(0.15 * len(others))
    kinds[others[:unseen]] = UNSEEN
    kinds[others[unseen : unseen + heldout]] = HELDOUT
    kinds[others[unseen + heldout : unseen + heldout + dark]] = DARK

    # Where rows are too few for all seen species, the rare go, but none that keeps an unseen one's genus seen.
    needed = first & np.isin(genus, genus[kinds == UNSEEN])
    seen = np.flatnonzero(kinds == SEEN)
    seen = seen[np.lexsort((-taxa.abundance[seen], ~needed[seen]))]
    kinds[seen[max(int(needed.sum()), (seen_rows - DIVISIBLE) // 4) :]] = DARK
    kinds[np.flatnonzero(kinds == HELDOUT)[max(1, heldout_rows // 2) :]] = DARK
    return kinds


def deal_rows(rng: np.random.Generator, taxa: Taxa, specimens: int) -> tuple[Ints, Ints, Ints]:
    """(S,) kind of each species, its rows with a species label, and its rows in pretrain; together `specimens`."""
    labelled = round(specimens * (0.25 if specimens >= _LARGE else 0.4))
    unseen_rows, heldout_rows = max(DIVISIBLE + 1, round(0.21 * labelled)), max(2, round(0.1 * labelled))
    seen_rows = labelled - unseen_rows - heldout_rows
    kinds = assign_kinds(rng, taxa, seen_rows, unseen_rows, heldout_rows)

    rows = np.zeros(len(kinds), dtype=np.int64)
    for kind, total in ((SEEN, seen_rows), (UNSEEN, unseen_rows), (HELDOUT, heldout_rows)):
        members = np.flatnonzero(kinds == kind)
        weights = taxa.abundance[members] ** 0.9
        least = np.full(len(members), DIVISIBLE if kind == UNSEEN else 1)
        if kind == SEEN:
            least[weights.argmax()] = DIVISIBLE
        rows[members] = least + rng.multinomial(total - least.sum(), weights / weights.sum())
    # A placeholder species in a seen genus counts as unseen from DIVISIBLE rows on.
    genus = taxa.lineage["genus"]
    capped = (kinds == HELDOUT) & np.isin(genus, genus[kinds == SEEN])
    rows[capped] = np.minimum(rows[capped], DIVISIBLE - 1)

    weights = taxa.abundance * np.where(kinds == DARK, 3.0, 1.0)
    return kinds, rows, rng.multinomial(specimens - rows.sum(), weights / weights.sum())


def split_haplotypes(kinds: Ints, index: Ints, rows: Ints, pretrain: np.ndarray) -> Ints:
    """(H,) place of each haplotype's split in SPLITS; whole haplotypes, so that no barcode is in two.

    Args:
        kinds: (H,) of its species.
        index: (H,) 0, 1, 2, ... within the species.
        rows: (H,) labelled rows of its species.
    """
    place = {split: i for i, split in enumerate(SPLITS)}
    split = np.full(len(kinds), place["other_heldout"])
    divisible = rows >= DIVISIBLE
    split[kinds == SEEN] = place["train"]
    split[(kinds == SEEN) & divisible & (index % 5 == 1)] = place["test"]
    split[(kinds == SEEN) & divisible & (index % 10 == 2)] = place["val"]
    split[kinds == UNSEEN] = place["key_unseen"]
    split[(kinds == UNSEEN) & (index % 3 == 1)] = place["test_unseen"]
    split[(kinds == UNSEEN) & (index % 6 == 2)] = place["val_unseen"]
    split[pretrain] = place["pretrain"]
    return split


def draw_haplotypes(rng: np.random.Generator, taxa: Taxa, species: Ints, index: Ints) -> tuple[Bases, Ints]:
    """(H, 658) different barcodes, within 0-2 % of their species, and (H,) BINs; a few species have two."""
    count = len(taxa.epithets)
    rates = taxa.rates[:BARCODE_LENGTH]
    double = rng.random(count) < 0.05
    second = evolve(rng, taxa.barcodes, np.full(count, 0.05), rates)
    deep = double[species] & (index % 2 == 1)
    barcodes = np.where(deep[:, None], second[species], taxa.barcodes[species])
    time = (0.005 * rng.gamma(1.2, size=count))[species]
    barcodes = evolve(rng, barcodes, time, rates)
    while True:
        keys = np.ascontiguousarray(barcodes).view(f"V{BARCODE_LENGTH}").ravel()
        repeated = np.setdiff1d(np.arange(len(keys)), np.unique(keys, return_index=True)[1])
        if not len(repeated):
            return barcodes, taxa.barcode_cluster[species] + deep * count
        barcodes[repeated] = evolve(rng, barcodes[repeated], np.full(len(repeated), 0.004), rates)


def read_barcodes(rng: np.random.Generator, taxa: Taxa, haplotypes: Bases, haplotype: Ints, split: Ints) -> list[str]:
    """The sequence of each row as a laboratory returns it: most whole, some short, long, with N or ambiguous letters.

    Args:
        haplotype: (n,) row of `haplotypes`.
        split: (n,) of each row. Where errors would make reads of two splits equal, they are left out.
    """
    clean = [bytes(row).decode() for row in np.frombuffer(b"ACGT", np.uint8)[haplotypes]]
    reads = [clean[i] for i in haplotype.tolist()]
    fault = rng.random(len(reads))
    for i in np.flatnonzero(fault < 0.2).tolist():
        read = clean[haplotype[i]]
        if fault[i] < 0.08:  # short
            length = int(rng.integers(387, 601))
            start = int(rng.integers(len(read) - length + 1)) if rng.random() < 0.3 else 0
            read = read[start : start + length]
        elif fault[i] < 0.09:  # beyond the barcode
            flank = evolve(rng, taxa.flank[None], np.array([0.6]), taxa.rates[BARCODE_LENGTH:], BARCODE_LENGTH)[0]
            read += bytes(np.frombuffer(b"ACGT", np.uint8)[flank[: int(rng.integers(3, len(flank) + 1))]]).decode()
        elif fault[i] < 0.17:  # N at an end or inside
            length = int(rng.integers(1, 31))
            start = (0, len(read) - length, int(rng.integers(1, len(read) - length)))[rng.integers(3)]
            read = read[:start] + "N" * length + read[start + length :]
        else:  # a few nucleotides trimmed
            read = read[int(rng.integers(4)) : len(read) - int(rng.integers(1, 9))]
        reads[i] = read
    for i in np.flatnonzero(rng.random(len(reads)) < 0.005).tolist():
        at = int(rng.integers(len(reads[i])))
        letters = [letter for letter, bases in _AMBIGUOUS.items() if reads[i][at] in bases]
        if letters:
            reads[i] = reads[i][:at] + letters[rng.integers(len(letters))] + reads[i][at + 1 :]

    while True:
        keys = [read.strip("N") for read in reads]
        splits_of: dict[str, set[int]] = {}
        for key, place in zip(keys, split.tolist(), strict=True):
            splits_of.setdefault(key, set()).add(place)
        shared = [i for i, key in enumerate(keys) if len(splits_of[key]) > 1]
        if not shared:
            return reads
        for i in shared:
            reads[i] = clean[haplotype[i]]


def name_species(rng: np.random.Generator, taxa: Taxa, kinds: Ints) -> list[str]:
    """Species of each species: two Latin words if seen, a placeholder if unseen or held out."""
    genera = taxa.names["genus"]
    names = []
    for i, (genus, kind) in enumerate(zip(taxa.lineage["genus"].tolist(), kinds.tolist(), strict=True)):
        if kind in (UNSEEN, HELDOUT):
            names.append(f"{genera[genus]} " + (f"sp. {i + 1}BIO" if rng.random() < 0.7 else f"Malaise{1000 + i}"))
        else:
            names.append(f"{genera[genus]} {taxa.epithets[i]}")
    return names


def label(lineage: dict[str, str], depth: float | None) -> Row:
    """Names of the ranks as far as they are known, and `taxon`, the most specific one.

    Args:
        lineage: Rank -> name, all seven.
        depth: In [0, 1): how far a specimen without species is known, 0 best; None with species.
    """
    known: Row = dict.fromkeys(("taxon", *RANKS), "")
    for rank in RANKS:
        if depth is None or depth < KNOWN_IN_PRETRAIN[rank]:
            known[rank] = lineage[rank]
    if str(known["subfamily"]).startswith("unassigned ") and not known["genus"]:
        known["subfamily"] = ""
    named = [known[rank] for rank in RANKS if known[rank] and not str(known[rank]).startswith("unassigned ")]
    return {**known, "taxon": named[-1]}


def place_rows(rng: np.random.Generator, species: Ints) -> list[Row]:
    """Country, province, coordinates, processid and sampleid of each row; most species keep to two countries."""
    n = len(species)
    sites: list[tuple[int, Row]] = []
    for number, (country, _, places) in enumerate(COUNTRIES):
        for province, latitude, longitude in places:
            for north, east in rng.normal(0, 0.12, (2 + min(500, n // 2000), 2)).tolist():
                at = {"coord-lat": round(latitude + north, 3), "coord-lon": round(longitude + east, 3)}
                sites.append((number, {"country": country, "province_state": province, **at}))
    shares = np.array([share for _, share, _ in COUNTRIES])
    home = 1 + rng.choice(len(shares) - 1, int(species.max()) + 1, p=shares[1:] / shares[1:].sum())
    anywhere = 1 + rng.choice(len(shares) - 1, n, p=shares[1:] / shares[1:].sum())
    abroad = np.where(rng.random(n) < 0.8, home[species], anywhere)
    country_of_row = np.where(rng.random(n) < shares[0], 0, abroad)

    of_country = [[i for i, (number, _) in enumerate(sites) if number == c] for c in range(len(COUNTRIES))]
    pick = rng.random(n)
    taken = [0] * len(sites)
    years = rng.integers(20, 24, len(sites)).tolist()
    rows: list[Row] = []
    for i, c in enumerate(country_of_row.tolist()):
        site = of_country[c][int(pick[i] * len(of_country[c]))]
        taken[site] += 1
        project = f"SIM{chr(65 + site // 676 % 26)}{chr(65 + site // 26 % 26)}{chr(65 + site % 26)}"
        plate, well = divmod(i, 95)
        ids = {
            "processid": f"{project}{taken[site]}-{years[site]}",
            "sampleid": f"SIM{plate:05d}-{'ABCDEFGH'[well // 12]}{well % 12 + 1:02d}",
        }
        rows.append({**ids, **sites[site][1]})
    return rows


def place_boxes(rng: np.random.Generator, size: Floats, spans: Floats, angles: Floats) -> Ints:
    """(n, 4) boxes of specimens that lie at `angles` near the middle of an original photo.

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


def draw_specimens(rng: np.random.Generator, taxa: Taxa, specimens: int) -> Specimens:
    """`specimens` individuals of the species in `taxa`."""
    count = len(taxa.epithets)
    kinds, labelled, unlabelled = deal_rows(rng, taxa, specimens)
    pool_rows = np.concatenate([labelled, unlabelled])  # a species' labelled rows, then each species' rows in pretrain
    typical = (pool_rows / 4 * np.exp(rng.normal(0, 0.3, 2 * count))).round().astype(np.int64)
    distinct = np.clip(typical, np.where(pool_rows >= DIVISIBLE, 4, 1), pool_rows)  # barcodes of each pool
    start = distinct.cumsum() - distinct
    pool = np.repeat(np.arange(2 * count), distinct)  # (H,)
    index = np.arange(len(pool)) - start[pool]
    species = pool % count
    split = split_haplotypes(kinds[species], index, labelled[species], pool >= count)
    barcodes, bins = draw_haplotypes(rng, taxa, species, index)

    row_pool = np.repeat(np.arange(2 * count), pool_rows)  # (n,)
    nth = np.arange(specimens) - (pool_rows.cumsum() - pool_rows)[row_pool]
    skewed = (distinct[row_pool] * rng.random(specimens) ** 2).astype(np.int64)
    haplotype = start[row_pool] + np.where(nth < distinct[row_pool], nth, skewed)
    haplotype = rng.permutation(haplotype)
    reads = read_barcodes(rng, taxa, barcodes, haplotype, split[haplotype])
    species = species[haplotype]

    names = {rank: [taxa.names[rank][i] for i in taxa.lineage[rank][species]] for rank in RANKS[:-1]}
    of_species = name_species(rng, taxa, kinds)
    names["species"] = [of_species[i] for i in species.tolist()]
    depth = rng.random(len(pool))[haplotype]  # specimens of one barcode are known equally well
    numbers = rng.choice(26 * 26 * 10_000, 2 * count, replace=False).tolist()
    uris = [f"BOLD:A{chr(65 + x // 260_000)}{chr(65 + x // 10_000 % 26)}{x % 10_000:04d}" for x in numbers]
    angles = rng.uniform(0, 2 * np.pi, specimens)
    traits = taxa.traits[species]
    spans = np.array([PLANS[order].span for order in names["order"]])
    boxes = place_boxes(rng, traits[:, TRAITS.index("size")], spans, angles)
    sides = boxes[:, 2:] - boxes[:, :2]
    organism = (sides.prod(axis=1) * np.clip(0.28 * np.exp(rng.normal(0, 0.25, specimens)), 0.1, 0.7)).astype(np.int64)
    rare = rng.random((4, specimens))
    in_1m = iter(rng.choice(1_128_313, int((rare[3] < 0.18).sum()), replace=False).tolist())

    rows = []
    for i, where in enumerate(place_rows(rng, species)):
        name = SPLITS[split[haplotype[i]]]
        labels = label({rank: names[rank][i] for rank in RANKS}, depth[i] if name == "pretrain" else None)
        subfamily = str(labels["subfamily"])
        inferable = bool(labels["genus"]) and not subfamily.startswith("unassigned ")
        width, height = sides[i].tolist()
        rows.append(
            {
                **where,
                **labels,
                "dna_bin": uris[bins[haplotype[i]]] if rare[0, i] > 0.003 else "",
                "dna_barcode": reads[i],
                "image_measurement_value": int(organism[i]) if rare[1, i] > 0.002 else "",
                "area_fraction": round(width * height / (WIDTH * HEIGHT), 4),
                "scale_factor": round(min(width, height) / 256, 4),
                "inferred_ranks": 4 if inferable and rare[2, i] < 0.05 else 0,
                "split": name,
                "index_bioscan_1M_insect": next(in_1m) if rare[3, i] < 0.18 else "",
                "chunk": chunk(str(where["processid"]), name),
            }
        )
    by_id = sorted(range(specimens), key=lambda i: str(rows[i]["processid"]))
    orders = [names["order"][i] for i in by_id]
    return Specimens([rows[i] for i in by_id], boxes[by_id], orders, traits[by_id], angles[by_id])
