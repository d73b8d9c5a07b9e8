"""Names of taxa in the headers and taxonomy columns of reference libraries, as ranks.

Each function takes texts and gives a dictionary of `RANKS` for each of them; a rank that the format lacks is absent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from ..labels import taxon_name, without_author
from ..schema import RANKS

Lineage = dict[str, str]

#: Letters in front of the names of QIIME 2 (k__Animalia) and SINTAX (k:Animalia).
PREFIXES = {"p": "phylum", "c": "class", "o": "order", "f": "family", "sf": "subfamily", "g": "genus", "s": "species"}

#: The same of SILVA (D_1__Arthropoda), by their number.
SILVA = dict(enumerate(("phylum", "class", "order", "family", "genus", "species"), 1))

#: Names above a phylum, in lower case.
ABOVE = frozenset(
    "root cellularorganisms eukaryota eukaryote eukarya opisthokonta metazoa eumetazoa animalia animal bilateria "
    "protostomia ecdysozoa bacteria archaea fungi plantae viridiplantae chromista protozoa protista".split()
)

#: Endings of families.
_FAMILY = re.compile(r"[A-Z][a-z-]+(?:idae|aceae)")

#: Phyla of animals; Darwin Core leaves the kingdom of others empty.
ANIMALS = frozenset(
    "Acanthocephala Annelida Arthropoda Brachiopoda Bryozoa Chaetognatha Chordata Cnidaria Ctenophora Cycliophora "
    "Dicyemida Echinodermata Entoprocta Gastrotricha Gnathostomulida Hemichordata Kinorhyncha Loricifera "
    "Micrognathozoa Mollusca Nematoda Nematomorpha Nemertea Onychophora Orthonectida Phoronida Placozoa "
    "Platyhelminthes Porifera Priapulida Rhombozoa Rotifera Sipuncula Tardigrada Xenacoelomorpha".split()
)

#: Taxa above a genus with which sentences of NCBI begin, such as "Insecta sp. 5", besides those with usual endings.
HIGHER = frozenset(
    "Diptera Coleoptera Lepidoptera Hymenoptera Hemiptera Homoptera Heteroptera Orthoptera Neuroptera Trichoptera "
    "Plecoptera Ephemeroptera Thysanoptera Psocoptera Dermaptera Isoptera Mecoptera Megaloptera Raphidioptera "
    "Siphonaptera Strepsiptera Embioptera Zoraptera Phthiraptera "
    "Insecta Hexapoda Collembola Entomobryomorpha Poduromorpha Symphypleona Protura Diplura Odonata Psocodea "
    "Mantodea Blattodea Phasmatodea Thysanura Zygentoma Archaeognatha Arachnida Araneae Acari Acariformes "
    "Parasitiformes Mesostigmata Ixodida Opiliones Pseudoscorpiones Scorpiones Chilopoda Diplopoda Symphyla Pauropoda "
    "Myriapoda Crustacea Malacostraca Decapoda Isopoda Amphipoda Mysida Copepoda Calanoida Cyclopoida Harpacticoida "
    "Ostracoda Branchiopoda Cladocera Cirripedia Pycnogonida Gastropoda Bivalvia Cephalopoda Polyplacophora "
    "Polychaeta Oligochaeta Clitellata Hirudinea Sipuncula Turbellaria Trematoda Cestoda Anthozoa Hydrozoa Scyphozoa "
    "Demospongiae Ascidiacea Echinoidea Ophiuroidea Asteroidea Holothuroidea Actinopterygii Amphibia Aves Mammalia "
    "Metazoa Animalia Eukaryota Bacteria Fungi".split()
).union(ANIMALS)

#: Ranks below a family, by the number of names there.
_BELOW = ((), ("genus",), ("genus", "species"), ("subfamily", "genus", "species"))

#: Ranks of lineages without prefixes and without families, by their number of names, the highest first. "" is a rank
#: that is not kept.
POSITIONS = {
    5: ("", "phylum", "class", "order", "family"),
    6: ("", "phylum", "class", "order", "family", "genus"),
    7: ("", "phylum", "class", "order", "family", "genus", "species"),
    8: ("", "phylum", "class", "order", "family", "subfamily", "genus", "species"),
}

#: Names of nothing in reference libraries, besides the markers of missing values.
NOTHING = re.compile(r"(unclassified|unassigned|uncultured|incertae[ _]sedis|environmental[ _]sample|root)\b.*", re.I)

#: A rank that is filled from another one, such as "order_Insecta".
_FILLED = re.compile(r"(phylum|class|order|family|subfamily|genus|species)_[A-Z]")

BINOMIAL = re.compile(
    r"([A-Z][a-z-]+) ((?!(?:sp|gen|cf|aff|nr|voucher|isolate|strain|clone|mitochondri(?:al|on)|cytochrome|gene|"
    r"environmental|hybrid|specimen|sample|x)\b)[a-z][a-z-]+)"
)
_GENUS = re.compile(r"[A-Z][a-z-]{2,}")
_TAXID = re.compile(r"_\d+$")


def named(lineage: Lineage) -> Lineage:
    """A lineage with names in their one form, without missing ones; an epithet alone gets its genus."""
    found: Lineage = {}
    for rank in RANKS:
        given = lineage.get(rank, "")
        text = taxon_name(given.replace("_", " "))
        if text is None or _FILLED.match(given) or NOTHING.fullmatch(text):
            continue
        if rank == "species":
            text = f"{found['genus']} {text}" if "genus" in found and text.islower() and " " not in text else text
            text = without_author(text)
        found[rank] = text
    return found


def prefixed(texts: Sequence[str]) -> list[Lineage]:
    """Lineages of QIIME 2 and SINTAX: "k__Animalia; p__Arthropoda" or "k:Animalia,p:Arthropoda"."""
    found = []
    for text in texts:
        parts = re.findall(r"(?:^|[;,|]\s*)([a-z]{1,2})(?:__|:)([^;,|]*)", text)
        lineage = {PREFIXES[letter]: name for letter, name in parts if letter in PREFIXES}
        numbers = re.findall(r"(?:^|[;,|]\s*)D_(\d)__([^;,|]*)", text)
        lineage |= {SILVA[int(number)]: name for number, name in numbers if int(number) in SILVA}
        found.append(named(lineage))
    return found


def by_position(texts: Sequence[str], ranks: Sequence[str] | None = None) -> list[Lineage]:
    """Lineages without prefixes: "Animalia;Arthropoda;...;Apis;Apis mellifera".

    Args:
        ranks: Rank of each name, "" for one that is not kept. By default they follow from the place of the families
            (-idae), with phylum, class and order before them, and from the most names in a lineage.

    Raises:
        ValueError: if the number of names has no known meaning.
    """
    parts = [[name.strip() for name in text.strip().rstrip("; ").split(";")] for text in texts]
    most = max(map(len, parts), default=0)
    order = tuple(ranks) if ranks else _order(parts, most)
    if order is None or most > len(order):
        raise ValueError(
            f"The lineages have up to {most} names, such as {texts[0][:80]!r}. Name the rank of each, the highest "
            f"first, such as kingdom,phylum,class,order,family,genus,species (ranks=, --ranks)."
        )
    return [named({rank: name for rank, name in zip(order, names, strict=False) if rank in RANKS}) for names in parts]


def _order(parts: Sequence[Sequence[str]], most: int) -> tuple[str, ...] | None:
    """Ranks of lineages of at most so many names; None if they are not known."""
    columns = [
        [names[place] for names in parts if len(names) > place and taxon_name(names[place]) is not None]
        for place in range(most)
    ]
    families = [sum(_FAMILY.fullmatch(name) is not None for name in names) / (len(names) or 1) for names in columns]
    known = [sum(name.lower() in ABOVE for name in names) >= 0.5 * len(names) for names in columns]
    place = max(range(most), key=families.__getitem__, default=0)
    if not most or families[place] < 0.4:
        return POSITIONS.get(most) if known and known[0] else None
    above, below = max(place - 3, 0), most - place - 1
    if below >= len(_BELOW) or (above > 1 and not all(known[:above])):
        return None
    return ("",) * above + ("phylum", "class", "order")[3 - place + above :] + ("family",) + _BELOW[below]


def sintax(headers: Sequence[str]) -> list[Lineage]:
    """Headers of SINTAX: "id;tax=k:Animalia,p:Arthropoda,...;"."""
    return prefixed([header.partition("tax=")[2].rstrip("; ") for header in headers])


def midori2(headers: Sequence[str]) -> list[Lineage]:
    """Headers of MIDORI2: "accession###root_1;Eukaryota_2759;Arthropoda_6656;...", each name with its taxid.

    For "###" there may be a blank or a tab.
    """
    lineages = [(header.partition("###")[2] or _after_id(header)).split(";")[1:] for header in headers]
    return by_position([";".join(_TAXID.sub("", name) for name in names) for names in lineages])


def after_tab(headers: Sequence[str]) -> list[Lineage]:
    """Headers of RDP: "id<tab>Root;Animalia;Arthropoda;...", or with a blank for the tab."""
    root = re.compile(r"(root(rank)?|cellular[ _]?(root|organisms));", re.I)
    return by_position([root.sub("", _after_id(header), count=1) for header in headers])


def only_names(headers: Sequence[str]) -> list[Lineage]:
    """Headers of DADA2: "Animalia;Arthropoda;...;Apis;Apis mellifera;"."""
    return by_position(headers)


def bold(headers: Sequence[str]) -> list[Lineage]:
    """Headers of BOLD: "processid|species|marker|accession"."""
    found = []
    for header in headers:
        name = (taxon_name(header.split("|")[1]) or "") if header.count("|") else ""
        found.append(from_name(name))
    return found


def bold5(headers: Sequence[str]) -> list[Lineage]:
    """Headers of BOLD 5: "processid|marker|country|kingdom,phylum,...,genus,species,subspecies"."""
    order = ("", "phylum", "class", "order", "family", "subfamily", "", "genus", "species")
    lineages = [header.split("|")[3].split(",") if header.count("|") > 2 else [] for header in headers]
    return [named({rank: name for rank, name in zip(order, names, strict=False) if rank}) for names in lineages]


def sentence(headers: Sequence[str]) -> list[Lineage]:
    """Headers of NCBI: "accession Genus species voucher ... (COI) gene", or with [organism=Genus species]."""
    texts = [re.search(r"\[organism=([^\]]*)\]", header) or _after_id(header) for header in headers]
    return [from_name(text if isinstance(text, str) else text[1]) for text in texts]


def _after_id(header: str) -> str:
    return header.split(None, 1)[-1] if header.split(None, 1)[1:] else ""


def from_name(text: str) -> Lineage:
    """Genus and species of a text that begins with a name; nothing for another text."""
    text = re.sub(r"^(UNVERIFIED|PREDICTED|TPA(_\w+)?): ", "", text)
    if (match := BINOMIAL.match(text)) and match[1] not in HIGHER:
        return named({"genus": match[1], "species": f"{match[1]} {match[2]}"})
    match = _GENUS.match(text)
    if match is None or match[0] in HIGHER or match[0].endswith(("idae", "inae", "oidea", "formes")):
        return {}
    return named({"genus": match[0]})


#: Format of a FASTA -> what its headers match, and how they are read. The first that matches most headers is taken.
HEADERS: dict[str, tuple[re.Pattern[str], Callable[[Sequence[str]], list[Lineage]]]] = {
    "sintax": (re.compile(r"[^;]+;(.*;)?tax=[a-z]:"), sintax),
    "midori2": (re.compile(r"\S+?(\s+|###)root_\d+;"), midori2),
    "rdp": (re.compile(r"[^\t]+\t(?![kdp]__)[^;\t]+;|[^;\s]+ +(?![kdp]__)[^;\s]+;[^;]+;"), after_tab),
    "qiime": (re.compile(r"\S+\s+[kdp]__"), lambda headers: prefixed([h.split(None, 1)[-1] for h in headers])),
    "bold5": (re.compile(r"[^|\s]+\|[^|]*\|[^|]*\|[^|,]*(,[^|,]*){7}"), bold5),
    "ncbi": (re.compile(r"([a-z]+\|[^|\s]+\|)*([a-z]+\|)?[A-Z]{1,4}_?\d{5,}(\.\d+)?\|? \S"), sentence),
    "bold": (re.compile(r"[^|\s]+\|[^|]*\|[^|]*"), bold),
    "dada2": (re.compile(r"[^;]+;[^;]+;[^;]+;"), only_names),
    "names": (re.compile(rf"[^\s|;]+ +{BINOMIAL.pattern}"), sentence),
}


def header_format(headers: Sequence[str]) -> str | None:
    """Name of the format of headers, or None if they hold no names."""
    for name, (pattern, _) in HEADERS.items():
        if 2 * sum(pattern.match(header) is not None for header in headers) > len(headers):
            return name
    return None
