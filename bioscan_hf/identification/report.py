"""A report of answers, as an HTML page.

The page (report.html) is one file that loads nothing and opens from disk. Ids and names reach it as JSON and are shown
as text, so that none can become part of the page.
Shape letter: n = reads.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from .. import __version__
from ..barcodes import spelled
from ..files import safe_json, write_text
from ..schema import RANKS
from .base import Library
from .library import ReferenceLibrary
from .quality import UNNAMED
from .samples import abundance
from .strips import strips

if TYPE_CHECKING:
    from .joint import JointLibrary

#: Nearest references of a read on the page, and most reads with an alignment.
SHOWN, MOST_STRIPS = 5, 10_000

#: Most taxa in the table of samples.
MOST_TAXA = 500


def write_report(
    path: str | Path,
    answers: pa.Table,
    library: Library | JointLibrary,
    reads: Sequence[str | None] | pa.ChunkedArray | None = None,
    *,
    photos: Any = None,
    samples: pa.Table | None = None,
    title: str = "Names of sequences",
    least: float = 0.95,
) -> None:
    """Writes the page.

    Args:
        answers: Of `library.identify(..., neighbours=SHOWN)`, and perhaps with the columns of `samples.with_samples`.
        library: The references.
        reads: The reads (n,), for alignments with their nearest references. They are shown for the first 10,000.
        photos: The photos (n,), as of `photos.Specimens`; the page shows small ones of the first 3,000 or so.
        samples: Answers with a row for each sequence and sample, if not those; see `counts.by_sample`.
        title: Heading of the page.
        least: Confidence that the names in the column `name` have at least.

    Raises:
        ValueError: for other numbers of reads than of answers.
    """
    if reads is not None and len(reads) != len(answers):
        raise ValueError(f"There are {len(answers):,} answers and {len(reads):,} reads.")
    ranks = [rank for rank in RANKS if rank in answers.column_names]
    data: dict[str, Any] = {
        "version": __version__,
        "least": least,
        "ranks": ranks,
        "id": answers["id"].to_pylist(),
        "status": _coded(answers["status"].to_pylist()),
        "unnamed": sorted(UNNAMED),
        "note": _coded(answers["note"].to_pylist()),
        "taxa": [_coded(answers[rank].to_pylist()) for rank in ranks],
        "sure": [_thousandths(answers, f"{rank}_confidence") for rank in ranks],
        "level": [-1 if rank is None else ranks.index(rank) for rank in answers["rank"].to_pylist()],
        "confidence": _thousandths(answers, "confidence"),
        "about": _about(answers, library),
        "samples": _samples(answers if samples is None else samples),
    }
    if photos is not None:
        from .thumbnails import thumbnails  # loads transformers, which takes seconds

        data["photos"] = thumbnails(photos, data["id"])
    for name in ("bin", "second_species", "conflicts", "strand", "sample", "evidence", "nearest", "photo_nearest"):
        if name in answers.column_names:
            data[name] = _coded(answers[name].to_pylist())
    for name in ("species_new", "genus_new", "bin_confidence", "identity", "similarity", "lead"):
        if name in answers.column_names:
            data[name] = _thousandths(answers, name)
    if "size" in answers.column_names:
        data["size"] = answers["size"].to_pylist()
    if "neighbours" in answers.column_names and isinstance(library, Library):
        data |= _neighbours(answers, library, reads)
    page = resources.files(__package__).joinpath("report.html").read_text(encoding="utf-8")
    page = page.replace("$TITLE", html.escape(title).replace("$", "&#36;"))
    write_text(path, page.replace("$DATA", safe_json(data)))


def _coded(values: Sequence[str | None]) -> dict[str, Any]:
    """Distinct values, and the place of each value among them, -1 for none."""
    places: dict[str, int] = {}
    codes = [-1 if value is None or value == "" else places.setdefault(value, len(places)) for value in values]
    return {"names": list(places), "codes": codes}


def _thousandths(answers: pa.Table, column: str) -> list[int | None]:
    """Shares as whole thousandths."""
    return [None if value is None else round(1000 * value) for value in answers[column].to_pylist()]


def _about(answers: pa.Table, library: Library | JointLibrary) -> dict[str, Any]:
    """Facts of the references, and the share of new species."""
    if not isinstance(library, Library):
        about, photos = _about(answers, library.sequences), library.photos
        encoder = f" by the encoder {photos.info['model']}" if photos.info.get("model") else ""
        told = f"{len(library.sequences):,} of the references are sequences; {len(photos):,} are compared with photos"
        return about | {"records": len(library), "notes": [f"{told}{encoder}.", *about["notes"]]}
    metadata = {key.decode(): value.decode() for key, value in (answers.schema.metadata or {}).items()}
    found: dict[str, Any] = {
        "records": len(library),
        "taxa": [[rank, len(library.taxa[rank])] for rank in library.ranks],
        "bins": len(library.taxa["dna_bin"]),
        "formats": list(library.info.get("formats", {}).items()),
        "notes": library.info.get("notes", []),
        "model": library.info.get("model"),
        "asked": list(library.calibration.asked.items()) if library.calibration else None,
    }
    if "novel_share" in metadata:
        ends = metadata["interval"].split(",") if "interval" in metadata else []  # a share that was given has none
        found["novel"] = [float(metadata["novel_share"]), *map(float, ends)]
    return found


def _samples(answers: pa.Table) -> dict[str, Any] | None:
    """The reads of the most frequent taxa in each sample; None if no sample is known."""
    if "sample" not in answers.column_names:
        return None
    table = abundance(answers)
    ranks = [rank for rank in RANKS if rank in answers.column_names]
    samples = table.column_names[2 + len(ranks) :]
    shown = table.slice(0, MOST_TAXA)
    return {
        "names": samples,
        "taxa": [[name, rank] for name, rank in zip(*(shown[c].to_pylist() for c in ("name", "rank")), strict=True)],
        "reads": [list(row) for row in zip(*(shown[name].to_pylist() for name in samples), strict=True)],
        "all": len(table),
        "total": [sum(table[name].to_pylist()) for name in samples],
    }


def _neighbours(
    answers: pa.Table, library: Library, reads: Sequence[str | None] | pa.ChunkedArray | None
) -> dict[str, Any]:
    """The nearest references of each read, what they are, and the alignment with the nearest."""
    near = [[] if found is None else found[:SHOWN] for found in answers["neighbours"].to_pylist()]
    places: dict[int, int] = {}
    cells = [
        [
            part
            for item in found
            for part in (
                places.setdefault(item["row"], len(places)),
                round(10_000 * item["identity"]),
                item["overlap"],
            )
        ]
        for found in near
    ]
    rows = list(places)
    taken = library.records.take(pa.array(rows, pa.int64()))
    names = [taken[rank].to_pylist() for rank in reversed(RANKS)]
    deepest = [next((name for name in column if name), None) for column in zip(*names, strict=True)]
    found: dict[str, Any] = {
        "references": {"id": taken["processid"].to_pylist(), "name": deepest, "records": taken["records"].to_pylist()},
        "near": cells,
    }
    if reads is not None and isinstance(library, ReferenceLibrary):
        found |= _strips(answers, library, reads, near, places)
    return found


def _strips(
    answers: pa.Table,
    library: ReferenceLibrary,
    reads: Sequence[str | None] | pa.ChunkedArray,
    near: list[list[dict[str, Any]]],
    places: dict[int, int],
) -> dict[str, Any]:
    """Alignments of the first reads, and the parts of the references that they need."""
    most = min(len(answers), MOST_STRIPS)
    column = reads.slice(0, most) if isinstance(reads, pa.ChunkedArray) else pa.array(list(reads[:most]), pa.string())
    texts = [read or "" for read in spelled(column).to_pylist()]
    foreign = {*UNNAMED} - {"far"}
    status, strand = answers["status"].to_pylist()[:most], answers["strand"].to_pylist()[:most]
    rows = [-1 if s in foreign or not near[i] else int(near[i][0]["row"]) for i, s in enumerate(status)]
    aligned = strips(library.references, texts, [side == "-" for side in strand], rows)
    parts: dict[int, tuple[int, int]] = {}
    for row, strip in zip(rows, aligned, strict=True):
        if strip is not None:
            first, last = parts.get(row, strip[:2])
            parts[row] = min(first, strip[0]), max(last, strip[1])
    return {
        "strips": [None if strip is None else [strip[0], strip[2]] for strip in aligned],
        "parts": {
            places[row]: [first, library.references.sequences[row][first:last]] for row, (first, last) in parts.items()
        },
    }
