"""Answers in the formats of other programs: Darwin Core, Krona and QIIME 2."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa

from .. import __version__
from ..files import writing
from ..schema import RANKS
from .lineages import ANIMALS, BINOMIAL
from .quality import UNNAMED
from .samples import lineages_of, sizes_of
from .tables import write_answers

#: Name of a taxon that is not known, in Darwin Core.
UNPLACED = "incertae sedis"

#: Rank -> letter in front of its names in QIIME 2.
_LETTERS = {"kingdom": "k", "phylum": "p", "class": "c", "order": "o", "family": "f", "genus": "g", "species": "s"}


def darwin_core(answers: pa.Table) -> pa.Table:
    """Occurrences of the Darwin Core standard (https://dwc.tdwg.org/terms/), one row for each read that was compared.

    Names and ranks go down to the rank of the name in the answers; a read without one is "incertae sedis". Reads with
    a status without names, such as "not_coi", are left out. `eventID` has the sample, `organismQuantity` the reads.
    """
    answers = answers.filter(pa.array([status not in UNNAMED for status in answers["status"].to_pylist()], pa.bool_()))
    lineages = [dict(lineage) for lineage in lineages_of(answers)]
    names = [name or UNPLACED for name in answers["name"].to_pylist()]
    columns: dict[str, Sequence[str | int | None]] = {
        "occurrenceID": answers["id"].to_pylist(),
        "basisOfRecord": ["MaterialSample"] * len(answers),
        "occurrenceStatus": ["present"] * len(answers),
    }
    if "sample" in answers.column_names:
        columns["eventID"] = answers["sample"].to_pylist()
    if "size" in answers.column_names:
        columns["organismQuantity"] = answers["size"].to_pylist()
        columns["organismQuantityType"] = ["DNA sequence reads"] * len(answers)
    columns |= {
        "scientificName": names,
        "taxonRank": answers["rank"].to_pylist(),
        "kingdom": [_kingdom(lineage) for lineage in lineages],
    }
    columns |= {rank: [lineage.get(rank) for lineage in lineages] for rank in RANKS[:-1]}
    columns["specificEpithet"] = [_epithet(lineage.get("species")) for lineage in lineages]
    columns["identificationVerificationStatus"] = ["unverified"] * len(answers)
    columns["identificationRemarks"] = [_remark(row) for row in answers.to_pylist()]
    return pa.table({name: pa.array(values) for name, values in columns.items()})


def _kingdom(lineage: dict[str, str]) -> str | None:
    return "Animalia" if lineage.get("phylum") in ANIMALS else None


def _epithet(species: str | None) -> str | None:
    """The second word of a binomial; None for a name such as "Apis sp. 3"."""
    match = BINOMIAL.match(species or "")
    return match[2] if match else None


def _remark(row: dict[str, object]) -> str:
    parts = []
    for what, nearest, alike in (("", "nearest", "identity"), ("photo of ", "photo_nearest", "similarity")):
        place = "nearest" if nearest not in row else nearest  # answers for photos alone have one nearest reference
        if row.get(place) and row.get(alike) is not None:
            parts.append(f"nearest reference {what}{row[place]}, {alike} {row[alike]:.1%}")
    if row["name"]:
        parts.append(f"confidence {row['confidence']:.1%}")
    if row["status"] != "ok":
        parts.append(f"status {row['status']}")
    if row.get("note"):
        parts.append(str(row["note"]))
    return "; ".join([*parts, f"bioscan_hf {__version__}"])


def write_darwin_core(answers: pa.Table, path: str | Path) -> None:
    """Writes `darwin_core` in the format of the ending, see `tables.write_answers`.

    Raises:
        ValueError: for an id that is missing or occurs twice, since an `occurrenceID` is of one occurrence.
    """
    check_unique(answers["id"].to_pylist(), "Darwin Core")
    write_answers(darwin_core(answers), path)


def write_krona(answers: pa.Table, path: str | Path) -> None:
    """Writes text for `ktImportText` of Krona: reads, and the names of the lineage, separated by tabs."""
    reads: Counter[tuple[str, ...]] = Counter()
    for lineage, size in zip(lineages_of(answers), sizes_of(answers), strict=True):
        reads[tuple(" ".join(name.split()) for _, name in lineage) or ("no name",)] += size
    with writing(path) as file:
        for names, number in sorted(reads.items(), key=lambda item: (-item[1], item[0])):
            file.write("\t".join([str(number), *names]) + "\n")


def write_qiime(answers: pa.Table, path: str | Path) -> None:
    """Writes a taxonomy of QIIME 2 (`qiime tools import --type FeatureData[Taxonomy]`): id, lineage, confidence.

    Raises:
        ValueError: for an id that is missing or occurs twice, which QIIME 2 refuses.
    """
    ids = [" ".join(name.split()) for name in answers["id"].to_pylist()]
    check_unique(ids, "QIIME 2")
    confidences = answers["confidence"].to_pylist()
    with writing(path) as file:
        file.write("Feature ID\tTaxon\tConfidence\n")
        for name, lineage, confidence in zip(ids, lineages_of(answers), confidences, strict=True):
            told = "" if confidence is None else f"{confidence:.4f}"
            file.write(f"{name}\t{_taxon(dict(lineage))}\t{told}\n")


def _taxon(lineage: dict[str, str]) -> str:
    """ "k__Animalia; p__Arthropoda; ..." down to the lowest rank with a name; ranks between without one stay empty."""
    if not lineage:
        return "Unassigned"
    names = {**lineage, "kingdom": _kingdom(lineage) or ""}
    last = max(place for place, rank in enumerate(_LETTERS) if names.get(rank) or rank == "kingdom")
    shown = list(_LETTERS.items())[: last + 1]
    return "; ".join(f"{letter}__{' '.join(names.get(rank, '').split())}" for rank, letter in shown)


def check_unique(ids: Sequence[str], program: str) -> None:
    """Raises ValueError if an id is missing or occurs twice, which `program` refuses."""
    repeated = [name for name, number in Counter(ids).items() if number > 1 or not name]
    if repeated:
        raise ValueError(
            f"{len(repeated):,} ids are missing or occur more than once, such as {repeated[0]!r}; {program} needs an "
            f"id of its own for each. Correct them, or leave out this file."
        )


#: Option -> what writes its file.
WRITERS: dict[str, Callable[[pa.Table, str | Path], None]] = {
    "darwincore": write_darwin_core,
    "krona": write_krona,
    "qiime": write_qiime,
}
