"""Names of taxa in the headers and taxonomy columns of reference libraries, as ranks.

Each function takes texts and gives a dictionary of `RANKS` for each of them; a rank that the format lacks is absent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import lru_cache

from ..labels import NO_EPITHETS, SMALL, taxon_name, without_author
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
    "Metazoa Animalia Eukaryota Bacteria Fungi Incertae Uncultured Unidentified Environmental".split()
).union(ANIMALS)

#: Names of higher taxa, without the two that are also names of genera.
_NO_GENERA = HIGHER - {"Acanthocephala", "Diplura"}

#: Certainties of mothur behind names, and taxids of Kraken in ids.
_CERTAINTY = re.compile(r"\(\d{1,3}(\.\d+)?\)$")
_DATABASES = re.compile(r"\|?kraken:taxid\|\d+\|?")

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

#: Ranks that may be named and are not kept.
_NOT_KEPT = frozenset(
    " root domain superkingdom kingdom subkingdom supergroup division subdivision superphylum subphylum superclass "
    "subclass infraclass superorder suborder infraorder superfamily tribe subtribe subgenus subspecies strain".split(
        " "
    )
)

#: Names of nothing in reference libraries, besides the markers of missing values: "uncultured Apis", "Apis sp.",
#: "Apis NA" of R, "Ciliophora ord Incertae sedis" of UNITE.
NOTHING = re.compile(
    r"(?i:(unclassified|unassigned|uncultured|unidentified|undetermined|unknown|environmental[ _]samples?|synthetic|"
    r"root)\b.*|cf\. .*|(.*[ _])?incertae[ _]sedis\b.*|"
    r".*[ _](unclassified|unidentified|undetermined|unknown))|\S+ NA|"
    r"\S+( X+)?( (?i:sp|spp|spec|gen|indet|n|nov)\b\.?)+"
)

#: A rank that is filled from another one, such as "order_Insecta" or "Polychaeta_order"; above species also
#: "Hypotrichia_XX" of PR2.
_FILLED = re.compile(
    r"(phylum|class|order|family|subfamily|genus|species)_[A-Z].*|.*_(phylum|class|order|family|genus|species)"
)
NO_HIGHER = re.compile(r"\S+ X+")

_LIVING = r"(?:\S*virus|\S*phage|(?:endo)?symbiont|bacterium)"
BINOMIAL = re.compile(
    rf"([A-Z][{SMALL}-]+) ((?!(?:spp?|{'|'.join(NO_EPITHETS)}|voucher|isolate|strain|clone|mitochondri(?:al|on)|"
    rf"cytochrome|gene|environmental|hybrid|specimen|sample|x|{_LIVING})\b)[{SMALL}][{SMALL}'’-]+)(?![^\W_])"
)
_GENUS = re.compile(rf"[A-Z][{SMALL}-]{{2,}}(?![^\W_])")
_TAXID = re.compile(r"_-?\d+(?=(_[a-z]+)?$)")
_HYBRID = re.compile(rf"([A-Z][{SMALL}-]+) [{SMALL}-]+ [xX×] ([A-Z][{SMALL}]+)?")
_OF_A_HOST = re.compile(rf"\S+ \S+ (?:\S+ )?{_LIVING}\b|\S+ \S*(?:virus|phage)\b")


def without_taxids(lineages: Sequence[Sequence[str]]) -> list[list[str]]:
    """Names of lineages without taxids, such as those of MIDORI2 and COInr: "Apis_7459". Most names must have one."""
    names = [name for lineage in lineages[:1000] for name in lineage if name]
    if 2 * sum(_TAXID.search(name) is not None for name in names) <= len(names):
        return [list(lineage) for lineage in lineages]
    return [[_TAXID.sub("", name) for name in lineage] for lineage in lineages]


def named(lineage: Lineage) -> Lineage:
    """A lineage with names in their one form, without missing ones; an epithet alone gets its genus."""
    found: Lineage = {}
    for rank in (rank for rank in RANKS if rank in lineage):
        text = _form(lineage[rank])
        if text is None or (rank != "species" and _is_too_low(text)):
            continue
        if rank == "species":
            text = f"{found['genus']} {text}" if "genus" in found and text.islower() and " " not in text else text
            text = without_author(text)
        found[rank] = text
    return found


@lru_cache(1 << 16)
def _form(name: str) -> str | None:
    text = taxon_name(name.replace("_", " "))
    return None if text is None or _FILLED.fullmatch(name) or NOTHING.fullmatch(text) else text


@lru_cache(1 << 16)
def _is_too_low(name: str) -> bool:
    """Whether the name of a taxon above a species is that of a species, or is filled by PR2."""
    return (NO_HIGHER.fullmatch(name) or BINOMIAL.fullmatch(name)) is not None


def prefixed(texts: Sequence[str]) -> list[Lineage]:
    """Lineages of QIIME 2 and SINTAX: "k__Animalia; p__Arthropoda" or "k:Animalia,p:Arthropoda"."""
    found, distinct = [], list(dict.fromkeys(texts))
    for text in distinct:
        parts = re.findall(r"(?:^|[;,|]\s*)([a-z]{1,2})(?:__|:)([^;,|]*)", text)
        lineage = {PREFIXES[letter]: name for letter, name in parts if letter in PREFIXES}
        numbers = re.findall(r"(?:^|[;,|]\s*)D_(\d)__([^;,|]*)", text) if "D_" in text else ()
        lineage |= {SILVA[int(number)]: name for number, name in numbers if int(number) in SILVA}
        found.append(lineage)
    names = without_taxids([list(lineage.values()) for lineage in found])
    lineages = (named(dict(zip(lineage, given, strict=True))) for lineage, given in zip(found, names, strict=True))
    of_text = dict(zip(distinct, lineages, strict=True))
    return [of_text[text] for text in texts]


def by_position(texts: Sequence[str], ranks: Sequence[str] | None = None) -> list[Lineage]:
    """Lineages without prefixes: "Animalia;Arthropoda;...;Apis;Apis mellifera".

    Args:
        ranks: Rank of each name, "" for one that is not kept. By default they follow from the place of the families
            (-idae), with phylum, class and order before them, and from the most names in a lineage.

    Raises:
        ValueError: if the number of names has no known meaning.
    """
    parts = [text.strip().rstrip("; ").split(";") for text in texts]
    parts = without_taxids([[_CERTAINTY.sub("", name.strip()).strip('"') for name in names] for names in parts])
    most = max(map(len, parts), default=0)
    order = _checked(ranks) if ranks else _order(parts, most)
    if order is None or most > len(order):
        raise ValueError(
            f"The lineages have up to {most} names, such as {max(texts, key=_depth)[:80]!r}. Name the rank of each, "
            f"the highest first, by --ranks (in Python ranks=), such as kingdom,phylum,class,order,family,genus,"
            f"species. Where ranks differ from record to record, give a table with a column for each rank."
        )
    return [_in_order(order, names) for names in parts]


def _checked(ranks: Sequence[str]) -> tuple[str, ...]:
    """Ranks in lower case. Raises ValueError for a misspelt one, whose names would be lost."""
    order = tuple(rank.strip().lower() for rank in ranks)
    if wrong := [rank for rank in order if rank not in RANKS and rank not in _NOT_KEPT]:
        raise ValueError(
            f"The rank {wrong[0]!r} is unknown. Kept are {', '.join(RANKS)}; leave a place empty for another one."
        )
    return order


def _depth(text: str) -> int:
    return text.count(";")


def _in_order(order: Sequence[str], names: Sequence[str]) -> Lineage:
    """Names by their place. Where a family or phylum is in the place of another rank, no place can be trusted.

    A lineage without the subfamily that others have is one name shorter; a species ends a lineage wherever it is.
    """
    last, below = names[-1].replace("_", " "), order.index("family") if "family" in order else len(order)
    middle = names[order.index("subfamily")] if len(names) == len(order) - 1 and "subfamily" in order else "inae"
    if not middle.endswith(("inae", "oideae")):
        order = [rank for rank in order if rank != "subfamily"]
    if BINOMIAL.fullmatch(last) and "species" in order[len(names) :]:
        return named(dict(zip(order[: below + 1], names[:-1], strict=False)) | from_name(last))
    found = named({rank: name for rank, name in zip(order, names, strict=False) if rank in RANKS})
    moved = [rank for rank, name in found.items() if rank != "family" and _FAMILY.fullmatch(name)]
    if moved and all(found[rank] == found.get("family") for rank in moved):  # repeated where a name is missing
        return {rank: name for rank, name in found.items() if rank not in moved}
    if not moved and (found.get("phylum") in ANIMALS or not ANIMALS & set(found.values())):
        return found
    family = next(filter(_FAMILY.fullmatch, names), "")
    return named({"family": family} | from_name(names[-1].replace("_", " ")))


def _order(parts: Sequence[Sequence[str]], most: int) -> tuple[str, ...] | None:
    """Ranks of lineages of at most so many names; None if they are not known."""
    columns = [
        [names[place] for names in parts if len(names) > place and taxon_name(names[place]) is not None]
        for place in range(most)
    ]
    families = [sum(_FAMILY.fullmatch(name) is not None for name in names) / (len(names) or 1) for names in columns]
    known = [sum(name.lower() in ABOVE for name in names) >= 0.5 * len(names) for names in columns]
    phyla = [bool(names) and sum(name in ANIMALS for name in names) >= 0.5 * len(names) for names in columns]
    place = max(range(most), key=families.__getitem__, default=0)
    above, below = max(place - 3, 0), most - place - 1
    if not most or families[place] < 0.4:
        order = POSITIONS.get(most, ()) if known and known[0] else ()
    elif below >= len(_BELOW) or (above > 1 and not all(known[:above])):
        return None
    else:
        order = ("",) * above + ("phylum", "class", "order")[3 - place + above :] + ("family",) + _BELOW[below]
    ranks = {rank for rank, phylum in zip(order, phyla, strict=False) if phylum}
    wrong = bool(ranks - {"genus"}) and "phylum" not in ranks
    wrong = wrong or any(rank and names and over for rank, names, over in zip(order, columns, known, strict=False))
    return order if order and not wrong else None


def sintax(headers: Sequence[str]) -> list[Lineage]:
    """Headers of SINTAX: "id;tax=k:Animalia,p:Arthropoda,...;"."""
    return prefixed([header.partition("tax=")[2].rstrip("; ") for header in headers])


def qiime(headers: Sequence[str]) -> list[Lineage]:
    """Headers of QIIME 2, GTDB and UNITE: "id k__Animalia;p__Arthropoda", or with "|" behind the id."""
    texts = [re.split(r"[\s|;](?=[kdp]__)", header, maxsplit=1)[-1] for header in headers]
    return prefixed([re.sub(r" \[\w+=.*", "", text) for text in texts])


def midori2(headers: Sequence[str], ranks: Sequence[str] | None = None) -> list[Lineage]:
    """Headers of MIDORI2: "accession###root_1;Eukaryota_2759;Arthropoda_6656;...", each name with its taxid.

    For "###" there may be a blank or a tab.
    """
    lineages = [header.partition("###")[2] or _after_id(header) for header in headers]
    return by_position([lineage.partition(";")[2] for lineage in lineages], ranks)


def after_tab(headers: Sequence[str], ranks: Sequence[str] | None = None) -> list[Lineage]:
    """Headers of RDP: "id<tab>Root;Animalia;Arthropoda;...", or with a blank for the tab."""
    root = re.compile(r"(root(rank)?|cellular[ _]?(root|organisms));", re.I)
    return by_position([root.sub("", _after_id(header), count=1) for header in headers], ranks)


def pr2(headers: Sequence[str], ranks: Sequence[str] | None = None) -> list[Lineage]:
    """Headers of PR2: "id|gene|organelle|strain|Eukaryota|...|Apis|Apis_mellifera"."""
    return by_position([";".join(header.split("|")[4:]) for header in headers], ranks)


def obitools(headers: Sequence[str]) -> list[Lineage]:
    """Headers of OBITools: "id species_name=Apis mellifera; taxid=7460;", or the same as JSON behind the id."""
    found = []
    for header in headers:
        text = _after_id(header)
        try:
            values = json.JSONDecoder().raw_decode(text)[0] if text.startswith("{") else {}
        except ValueError:
            values = {}
        values = values or dict(re.findall(r"(\w+)=([^;]*);", text))
        given = {rank: name for rank in RANKS if (name := taxon_name(str(values.get(f"{rank}_name") or "")))}
        species = BINOMIAL.match(given.get("species") or str(values.get("scientific_name")))
        found.append(named((from_name(species[0]) if species else {}) | given))
    return found


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
    headers = [_DATABASES.sub("", header) for header in headers]
    texts = [re.search(r"\[organism=([^\]]*)\]", header) or _sentence(header) for header in headers]
    return [from_name(text if isinstance(text, str) else text[1]) for text in texts]


def _sentence(header: str) -> str:
    """The text behind the id, which ends at a space, or in MitoFish at "|"."""
    return header.rpartition("|")[2] if re.match(r"\S+\|[A-Z][a-z]+ ", header) else _after_id(header)


def _after_id(header: str) -> str:
    return header.split(None, 1)[-1] if header.split(None, 1)[1:] else ""


def from_name(text: str) -> Lineage:
    """Genus and species of a text that begins with a name; nothing for another text, the genus alone of a hybrid.

    Viruses and symbionts have nothing of their hosts.
    """
    text = text if " " in text else text.replace("_", " ")
    text = re.sub(r"^((UNVERIFIED|PREDICTED|TPA(_\w+)?): |Candidatus )", "", text)
    text = re.sub(rf"^\[?([A-Z][{SMALL}-]+)(\]| \([A-Z][{SMALL}-]*\.?\)) ", r"\1 ", text)  # [Genus], and a subgenus
    if _OF_A_HOST.match(text):
        return {}
    if match := _HYBRID.match(text):
        return named({"genus": match[1]}) if match[2] in (None, match[1]) else {}
    if (match := BINOMIAL.match(text)) and match[1] not in _NO_GENERA:
        return named({"genus": match[1], "species": f"{match[1]} {match[2]}"})
    match = _GENUS.match(text)
    if match is None or match[0] in HIGHER or match[0].endswith(("idae", "inae", "ini", "oidea", "formes")):
        return {}
    return named({"genus": match[0]})


#: Format of a FASTA -> what its headers match, and how they are read. The first that matches most headers is taken.
HEADERS: dict[str, tuple[re.Pattern[str], Callable[..., list[Lineage]]]] = {
    "sintax": (re.compile(r"[^;\s]+[;\s](.*;)?tax=[a-z]:"), sintax),
    "obitools": (re.compile(r"\S+ (\{\"|(.*;)? *(taxid|count|rank|\w+_name)=[^;]*;)"), obitools),
    "midori2": (re.compile(r"\S+?(\s+|###)root_\d+;"), midori2),
    "rdp": (re.compile(r"[^\t]+\t(?![kdp]__)[^;\t]+;|[^;\s]+ +(?![kdp]__)[^;\s]+;[^;]+;"), after_tab),
    "qiime": (re.compile(r"\S+?(\s+|[|;])[kdp]__"), qiime),
    "pr2": (re.compile(r"[^|\s]+(\|[^|,]*){11,}"), pr2),
    "bold5": (re.compile(r"[^|\s]+\|[^|]*\|[^|]*\|[^|,]*(,[^|,]*){7}"), bold5),
    "ncbi": (
        re.compile(
            r"(kraken:taxid\|\d+\|)?([a-z]+\|[^|\s]+\|)*([a-z]+\|)?[A-Z]{1,4}_?\d{5,}(\.\d+)?(\|kraken:taxid\|\d+)?"
            r"\|? \S|([a-z]+\|[^|\s]+\|)+[A-Z][a-z]+ |.*\[organism="
        ),
        sentence,
    ),
    "bold": (re.compile(r"[^|\s]+\|[^|]*\|[^|]*"), bold),
    "dada2": (re.compile(r"[^;]+;[^;]+;[^;]+;"), by_position),
    "names": (re.compile(rf"[^\s|;]+ +{BINOMIAL.pattern}"), sentence),
}

#: Formats of lineages whose ranks follow from their places, or from `ranks`.
POSITIONAL = ("midori2", "rdp", "pr2", "dada2")


def header_format(headers: Sequence[str]) -> str | None:
    """Name of the format of headers, or None if they hold no names."""
    for name, (pattern, _) in HEADERS.items():
        if 2 * sum(pattern.match(header) is not None for header in headers) > len(headers):
            return name
    return None
