"""A simulated tree of arthropods: names, abundances, COI barcodes and visible traits.

Barcodes and traits evolve along the same tree (class, order, family, subfamily, genus, species), so that barcodes,
photos and labels agree. Rates and compositions resemble those of COI barcodes of insects; orders and their frequencies
follow BIOSCAN-5M (https://arxiv.org/abs/2406.12723). Names below order are invented.

Shapes: S = species, L = 658 nucleotides, T = traits. Nucleotides are the digits 0-3 of "ACGT".
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bases = NDArray[np.uint8]

BARCODE_LENGTH = 658

#: Nucleotides after the barcode that a long read contains.
FLANK_LENGTH = 62

#: Class, order and its number of specimens in BIOSCAN-5M.
ORDERS = (
    ("Insecta", "Diptera", 3675317),
    ("Insecta", "Hymenoptera", 574049),
    ("Insecta", "Hemiptera", 264540),
    ("Insecta", "Coleoptera", 252145),
    ("Insecta", "Lepidoptera", 181065),
    ("Arachnida", "Araneae", 25020),
    ("Collembola", "Entomobryomorpha", 35982),
    ("Insecta", "Psocodea", 46106),
    ("Insecta", "Thysanoptera", 16088),
    ("Arachnida", "Trombidiformes", 14214),
    ("Insecta", "Trichoptera", 8961),
    ("Collembola", "Symphypleona", 7514),
    ("Insecta", "Neuroptera", 6253),
    ("Insecta", "Blattodea", 5529),
    ("Insecta", "Orthoptera", 5182),
)

#: Inherited traits that a photo shows, in standard deviations from the body plan of the order.
TRAITS = (
    *("red", "green", "lightness", "head", "thorax", "abdomen_length", "abdomen_width", "wing_length", "wing_width"),
    *("wing_tint", "leg_length", "antenna_length", "pattern", "bands", "size", "wing_spot"),
)

_TRAIT_CHANGE = {"family": 0.65, "subfamily": 0.3, "genus": 0.45, "species": 0.45}

# Mean branch length above a taxon of a rank, in substitutions per third codon position.
_BRANCH = {"class": 0.22, "order": 0.16, "family": 0.09, "subfamily": 0.06, "genus": 0.045, "species": 0.13}

# Equilibrium frequencies of A, C, G, T at the first, second and third codon position, and substitution rates relative
# to the third: COI is AT-rich, and its protein is conserved.
_COMPOSITION = np.array([[0.31, 0.16, 0.25, 0.28], [0.16, 0.25, 0.16, 0.43], [0.46, 0.08, 0.03, 0.43]])
_RELATIVE_RATE = (0.3, 0.08, 1.0)
_FREE_SITES = (0.5, 0.25, 1.0)
_TRANSITION_BIAS = 4.0

_A, _G, _T = 0, 2, 3
_COI_START = "AACATTATATTTTATTTTTGG"  # conserved after the usual primer

_ONSETS = ("b", "c", "cr", "d", "dr", "f", "g", "l", "m", "n", "p", "ph", "pl", "r", "s", "t", "th", "tr", "v", "x")
_VOWELS = ("a", "e", "i", "o", "u")
_CODAS = ("c", "d", "l", "m", "n", "r", "s", "t", "x")
_GENUS_ENDINGS = ("a", "us", "ia", "ella", "ops", "odes", "omyia", "is")
_EPITHET_ENDINGS = ("atus", "alis", "ensis", "icornis", "ipes", "ella", "osus", "iventris", "inus", "oides")


class Taxa(NamedTuple):
    """Species of the tree: lineages, traits and barcodes.

    Attributes:
        names: Rank (phylum to genus) -> name of each taxon of that rank.
        lineage: Rank (phylum to genus) -> (S,) the taxon of each species.
        epithets: Second word of each species name, unique in its genus.
        abundance: (S,) expected share of the specimens; the sum is 1.
        traits: (S, T) standard deviations from the body plan.
        barcodes: (S, L) consensus barcode.
        barcode_cluster: (S,) number of the BIN of each species; a few sister species share one.
        rates: (L,) relative substitution rate of each site.
        flank: (FLANK_LENGTH,) nucleotides after the barcode.
    """

    names: dict[str, list[str]]
    lineage: dict[str, Ints]
    epithets: list[str]
    abundance: Floats
    traits: Floats
    barcodes: Bases
    barcode_cluster: Ints
    rates: Floats
    flank: Bases


def codon_position(length: int) -> Ints:
    """0, 1 or 2 for each site of a COI barcode: its first site is the third of a codon."""
    return (np.arange(length) + 2) % 3


def evolve(rng: np.random.Generator, sequences: Bases, time: Floats, rates: Floats) -> Bases:
    """Descendants of `sequences` (n, l) after `time` (n,): HKY substitutions, without stop codons.

    Args:
        time: Expected substitutions per third codon position.
        rates: (l,) relative substitution rates.
    """
    length = sequences.shape[1]
    position = codon_position(length)
    jump = np.repeat(_COMPOSITION[:, None, :], 4, axis=1)  # (codon position, from, to)
    for a in range(4):
        jump[:, a, a ^ 2] *= _TRANSITION_BIAS  # A-G and C-T differ in the second bit
        jump[:, a, a] = 0
    leave = jump.sum(axis=2)
    leave /= (leave * _COMPOSITION).sum(axis=1, keepdims=True)
    towards = (jump / jump.sum(axis=2, keepdims=True)).cumsum(axis=2)

    chance = -np.expm1(-(time[:, None] * rates) * leave[position, sequences])
    row, site = np.nonzero(rng.random(sequences.shape) < chance)
    choice = towards[position[site], sequences[row, site]]  # (changes, 4)
    changed = sequences.copy()
    changed[row, site] = np.minimum((rng.random(len(row))[:, None] > choice).sum(axis=1), 3)

    first = np.flatnonzero(position[: length - 2] == 0)
    stops = _stops(changed[:, first], changed[:, first + 1], changed[:, first + 2])
    row, codon = np.nonzero(stops)
    for offset in range(3):  # selection: such a codon does not change
        changed[row, first[codon] + offset] = sequences[row, first[codon] + offset]
    return changed


def _stops(first: Bases, second: Bases, third: Bases) -> NDArray[np.bool_]:
    """Whether three bases are TAA or TAG, the stop codons of invertebrate mitochondria."""
    return (first == _T) & (second == _A) & ((third == _A) | (third == _G))


def _ancestor(rng: np.random.Generator) -> tuple[Bases, Floats]:
    """Barcode and flank of the common ancestor, and the rate of each barcode site."""
    length = BARCODE_LENGTH + FLANK_LENGTH
    position = codon_position(length)
    draw = rng.random(length)
    chosen = np.minimum((draw[:, None] > _COMPOSITION.cumsum(axis=1)[position]).sum(axis=1), 3).astype(np.uint8)
    first = np.flatnonzero(position[: length - 2] == 0)
    chosen[first[_stops(chosen[first], chosen[first + 1], chosen[first + 2])] + 2] = _T  # TAT is not a stop
    chosen[: len(_COI_START)] = ["ACGT".index(base) for base in _COI_START]

    position = position[:BARCODE_LENGTH]
    free = rng.random(BARCODE_LENGTH) < np.array(_FREE_SITES)[position]
    speed = rng.gamma(4.0, 0.25, BARCODE_LENGTH) * free
    return chosen, speed * (np.array(_RELATIVE_RATE) / _FREE_SITES)[position]


def _branch_out(rng: np.random.Generator, weights: Floats, children: int) -> tuple[Ints, Floats]:
    """Parents of `children` taxa, sorted, and their weights. Each parent has a child; heavy parents have more."""
    extra = rng.choice(len(weights), max(0, children - len(weights)), p=weights / weights.sum())
    parent = np.sort(np.concatenate([np.arange(len(weights)), extra]))
    share = rng.gamma(0.8, size=len(parent)) + 0.02
    return parent, weights[parent] * share / np.bincount(parent, share)[parent]


def _stems(rng: np.random.Generator, count: int) -> list[str]:
    """`count` different stems of two or three invented syllables."""
    stems: dict[str, None] = {}
    while len(stems) < count:
        syllables = [_ONSETS[rng.integers(len(_ONSETS))] + _VOWELS[rng.integers(5)] for _ in range(rng.integers(1, 3))]
        last = _ONSETS[rng.integers(len(_ONSETS))] + _VOWELS[rng.integers(5)] + _CODAS[rng.integers(len(_CODAS))]
        stems["".join([*syllables, last])] = None
    return list(stems)


def _name_taxa(
    rng: np.random.Generator, parents: dict[str, Ints], orders: int
) -> tuple[dict[str, list[str]], list[str]]:
    """Names of every rank, and epithets. Families and subfamilies are named after their first genus."""
    stems = _stems(rng, len(parents["genus"]))
    endings = rng.integers(len(_GENUS_ENDINGS), size=len(stems))
    genera = [(stem + _GENUS_ENDINGS[ending]).capitalize() for stem, ending in zip(stems, endings, strict=True)]
    first_genus = np.unique(parents["genus"], return_index=True)[1]  # of each subfamily
    first_subfamily = np.unique(parents["subfamily"], return_index=True)[1]  # of each family
    families = [stems[first_genus[i]].capitalize() + "idae" for i in first_subfamily]
    unassigned = (rng.random(len(first_genus)) < 0.2) & ~np.isin(np.arange(len(first_genus)), first_subfamily)
    subfamilies = []
    for i, genus in enumerate(first_genus):
        family = families[parents["subfamily"][i]]
        name = f"unassigned {family}"
        subfamilies.append(name if unassigned[i] and name not in subfamilies else stems[genus].capitalize() + "inae")
    pool = _stems(rng, max(40, len(parents["species"]) // 4))
    epithets: list[str] = []
    taken: set[tuple[int, str]] = set()
    for genus in parents["species"].tolist():
        epithet = ""
        while not epithet or (genus, epithet) in taken:
            epithet = pool[rng.integers(len(pool))] + _EPITHET_ENDINGS[rng.integers(len(_EPITHET_ENDINGS))]
        taken.add((genus, epithet))
        epithets.append(epithet)
    names = {
        "phylum": ["Arthropoda"],
        "class": list(dict.fromkeys(name for name, _, _ in ORDERS[:orders])),
        "order": [order for _, order, _ in ORDERS[:orders]],
        "family": families,
        "subfamily": subfamilies,
        "genus": genera,
    }
    return names, epithets


def grow_taxa(rng: np.random.Generator, species: int) -> Taxa:
    """A tree of `species` species, with families and genera in proportion."""
    orders = int(np.clip(species // 8, 6, len(ORDERS)))
    classes = list(dict.fromkeys(name for name, _, _ in ORDERS[:orders]))
    parents = {"order": np.array([classes.index(name) for name, _, _ in ORDERS[:orders]])}
    weights = np.array([count for _, _, count in ORDERS[:orders]]) ** 0.75
    sizes = {"family": species // 8, "subfamily": species // 5, "genus": species // 3, "species": species}
    for rank, size in sizes.items():
        parents[rank], weights = _branch_out(rng, weights, size)
    names, epithets = _name_taxa(rng, parents, orders)

    ancestor, rates = _ancestor(rng)
    traits = np.zeros((orders, len(TRAITS)))
    barcodes = np.repeat(ancestor[None, :BARCODE_LENGTH], len(classes), axis=0)
    barcodes = evolve(rng, barcodes, np.full(len(classes), _BRANCH["class"]), rates)
    pace = np.ones(len(classes))
    for rank in ("order", "family", "subfamily", "genus", "species"):
        parent = parents[rank]
        # Genera differ in age, so species of one genus may be further apart than those of two others.
        time = _BRANCH[rank] * pace[parent] * rng.gamma(4.0, 0.25, len(parent))
        pace = np.exp(rng.normal(-0.1, 0.5, len(parent))) if rank == "genus" else np.ones(len(parent))
        barcodes = evolve(rng, barcodes[parent], time, rates)
        if rank in _TRAIT_CHANGE:
            traits = traits[parent] + rng.normal(0, _TRAIT_CHANGE[rank], (len(parent), len(TRAITS)))

    cluster = np.arange(len(parents["species"]))
    sister = np.flatnonzero((np.diff(parents["species"]) == 0) & (rng.random(len(cluster) - 1) < 0.15)) + 1
    sister = sister[np.diff(sister, prepend=-1) > 1]  # pairs, no chains
    cluster[sister] = sister - 1
    barcodes[sister] = evolve(rng, barcodes[sister - 1], np.full(len(sister), 0.003), rates)

    lineage = {"genus": parents["species"]}
    for rank, child in (("subfamily", "genus"), ("family", "subfamily"), ("order", "family"), ("class", "order")):
        lineage[rank] = parents[child][lineage[child]]
    lineage["phylum"] = np.zeros_like(cluster)
    return Taxa(
        names, lineage, epithets, weights / weights.sum(), traits, barcodes, cluster, rates, ancestor[BARCODE_LENGTH:]
    )
