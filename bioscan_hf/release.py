"""A published BIOSCAN-5M release (metadata CSV, photo folders or zips), read row by row.

The CSV streams, zips are never unpacked, and JPEG bytes pass through untouched.
Layout of a release: https://arxiv.org/abs/2406.12723.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
from datasets import Features, Image, Value
from PIL import Image as PILImage
from PIL import UnidentifiedImageError

from .taxonomy import COLUMNS, IMAGE_PACKAGES, LABEL_COLUMNS, SPLITS, LabelMaps, check_config, image_path

METADATA_CSV = "BIOSCAN_5M_Insect_Dataset_metadata.csv"

#: Where rows wait that no partition has put into a split yet; never the name of a published split.
UNASSIGNED = "unassigned"

NUMBERS = {
    "coord-lat": pa.float64(),
    "coord-lon": pa.float64(),
    "image_measurement_value": pa.int64(),
    "area_fraction": pa.float64(),
    "scale_factor": pa.float64(),
    "inferred_ranks": pa.uint8(),
    "index_bioscan_1M_insect": pa.int64(),
}

#: Letters of a barcode: bases, U, IUPAC ambiguity codes and gaps, in either case.
DNA_PATTERN = r"^[ACGTUNRYSWKMBDHVacgtunryswkmbdhv-]+$"


@dataclass(frozen=True)
class Problem:
    """Something in a release that is not as it should be, and what becomes of the row."""

    file: str
    row: int | None
    processid: str | None
    what: str
    consequence: str

    def __str__(self) -> str:
        row = "" if self.row is None else f", row {self.row}"
        name = "" if self.processid is None else f" ({self.processid})"
        return f"{self.file}{row}{name}: {self.what}"


class ReleaseError(ValueError):
    """A release that cannot be read as it stands."""


def stop(problem: Problem) -> None:
    """Handles a problem by raising it: the default wherever a release is read."""
    raise ReleaseError(f"{problem}. Repair it, or go on without it by keep_going (--keep-going), which reports it.")


def features(config: str, extra_columns: Sequence[str] = ()) -> Features:
    """Types of the columns: the 23 published ones, any others of the CSV as strings, and the photo if there is one."""
    check_config(config)
    columns: dict[str, Any] = {"image": Image()} if config != "dna" else {}
    for name in (*COLUMNS, *extra_columns):
        columns[name] = Value(str(NUMBERS[name]).replace("double", "float64") if name in NUMBERS else "string")
    return Features(columns)


# ---- metadata ------------------------------------------------------------------------------------------------------


def find_metadata(source: str | Path) -> Path:
    """The metadata CSV of a release folder, or `source` itself if it is a file.

    Raises:
        FileNotFoundError: naming the places that were tried.
    """
    source = Path(source)
    if source.is_file():
        return source
    places = [folder / METADATA_CSV for folder in (source / "bioscan5m/metadata/csv", source / "metadata/csv", source)]
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(
        f"No metadata in {str(source)!r}: neither a CSV file nor a release folder (tried "
        f"{', '.join(str(place) for place in places)}). Give the folder that holds bioscan5m/, or the CSV itself."
    )


def csv_columns(path: str | Path) -> list[str]:
    """Names in the first line of a CSV file, which may be gzipped."""
    try:
        with pa.input_stream(str(path), compression="detect") as stream:
            first = io.TextIOWrapper(stream, encoding="utf-8-sig").readline()
    except (OSError, UnicodeDecodeError) as error:
        raise ReleaseError(f"{path} is not a readable CSV file ({error}).") from error
    names = next(csv.reader([first]), [])
    if not names:
        raise ReleaseError(f"{path} is empty: its first line should name the columns.")
    return names


def read_strings(
    path: str | Path,
    required: Sequence[str] = COLUMNS,
    columns: Sequence[str] | None = None,
    report: Callable[[Problem], None] = stop,
) -> Iterator[tuple[int, pa.Table]]:
    """Streams a CSV (or .csv.gz) as tables of strings, null where a cell is empty.

    Args:
        required: Columns that must be there.
        columns: Columns to read; all by default.
        report: Called with each line that has too few or too many cells, which is left out if the call returns.

    Yields:
        Number of the table's first row (the first below the header is 1; lines left out do not count), and the table.

    Raises:
        ReleaseError: a missing column, or a file that breaks off.
    """
    path = Path(path)
    names = csv_columns(path)
    missing = [name for name in required if name not in names]
    if missing:
        raise ReleaseError(f"{path} has no column {missing[0]!r} (its columns: {', '.join(names)}).")

    malformed: list[Any] = []

    def skip(row: Any) -> str:
        malformed.append(row)
        return "skip"

    first_row = 1
    try:
        reader = pacsv.open_csv(
            str(path),
            pacsv.ReadOptions(block_size=16 << 20, use_threads=True),
            pacsv.ParseOptions(invalid_row_handler=skip),
            pacsv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                include_columns=list(columns) if columns is not None else None,
                null_values=[""],
                strings_can_be_null=True,
            ),
        )
        for batch in reader:
            if len(batch):
                yield first_row, pa.Table.from_batches([batch])
            first_row += len(batch)
            for row in malformed:
                cut = " (has the file been cut off?)" if row.actual_columns < row.expected_columns else ""
                what = (
                    f"a line with {row.actual_columns} cells instead of {row.expected_columns}{cut}: {row.text[:60]!r}"
                )
                report(Problem(path.name, _row_of_line(path, row.text), None, what, "left out"))
            malformed.clear()
    except (pa.ArrowInvalid, OSError) as error:
        raise ReleaseError(f"{path} cannot be read to its end ({error}). Is it complete?") from error


def _row_of_line(path: Path, text: str) -> int | None:
    """Number of the first row whose line is `text`; a parallel reader does not tell."""
    with pa.input_stream(str(path), compression="detect") as stream, io.TextIOWrapper(stream, "utf-8-sig") as lines:
        return next((number for number, line in enumerate(lines) if line.rstrip("\r\n") == text), None)


def read_table(path: str | Path, required: Sequence[str] = COLUMNS) -> pa.Table:
    """A whole metadata CSV as a table of strings, null where a cell is empty."""
    parts = [table for _, table in read_strings(path, required)]
    if not parts:
        raise ReleaseError(f"{path} holds no rows.")
    return pa.concat_tables(parts)


def write_csv(table: pa.Table, path: str | Path) -> None:
    """Writes a table as CSV (gzipped if the name ends in .gz), whole or not at all."""
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    try:
        compression = "gzip" if path.suffix == ".gz" else None
        with pa.output_stream(str(part), compression=compression) as stream, io.TextIOWrapper(stream, "utf-8") as text:
            writer = csv.writer(text, lineterminator="\n")  # pyarrow's own would quote every string
            writer.writerow(table.column_names)
            for batch in table.to_batches(10_000):
                writer.writerows(zip(*(column.to_pylist() for column in batch.columns), strict=True))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def to_types(table: pa.Table, first_row: int, file: str, report: Callable[[Problem], None] = stop) -> pa.Table:
    """Gives the number columns of a table of strings their types; a cell without a number is reported, then null."""
    for name, kind in NUMBERS.items():
        column = table[name]
        try:
            values = pc.cast(column, pa.float64())
        except pa.ArrowInvalid:
            ok = pc.match_substring_regex(column, r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$")
            for i in np.flatnonzero(~ok.to_numpy(zero_copy_only=False).astype(object).astype(bool)):
                if column[int(i)].is_valid:
                    what = f"{name} is {column[int(i)].as_py()!r}, not a number"
                    report(Problem(file, first_row + int(i), table["processid"][int(i)].as_py(), what, "cell emptied"))
            values = pc.cast(pc.if_else(ok, column, None), pa.float64())
        # Whole numbers may be written as "150502.0".
        table = table.set_column(table.column_names.index(name), name, pc.cast(values, kind))
    return table


@dataclass
class Scan:
    """What one pass over the metadata tells: rows per split, names of taxa, and the rows that must be left out."""

    counts: dict[str, int]
    labels: LabelMaps
    extra_columns: list[str]
    left_out: set[int] = field(default_factory=set)


def scan(path: Path, report: Callable[[Problem], None] = stop, *, unassigned: bool = False) -> Scan:
    """Checks every row of a metadata CSV before anything is written.

    Reported are: an unknown or (unless `unassigned`) empty split, a missing or repeated processid, and a barcode that
    is not DNA. A barcode may be missing, as for a specimen that was photographed but not sequenced.
    """
    counts: Counter[str] = Counter()
    names: dict[str, set[str]] = {column: set() for column in LABEL_COLUMNS}
    left_out: set[int] = set()
    ids: list[np.ndarray] = []
    rows_seen: list[np.ndarray] = []
    for first, table in read_strings(path, report=report):
        splits = pc.fill_null(table["split"], UNASSIGNED)
        known = pc.is_in(splits, pa.array(SPLITS + ((UNASSIGNED,) if unassigned else ())))
        dna = pc.fill_null(pc.match_substring_regex(table["dna_barcode"], DNA_PATTERN), True)
        named = pc.fill_null(pc.match_substring_regex(table["processid"], r"^[!-~]+$"), False)
        good = pc.and_(pc.and_(known, dna), named).to_numpy(zero_copy_only=False)
        for i in np.flatnonzero(~good):
            problem = _describe_bad_row(table, int(i), path.name, first)
            report(problem)
            left_out.add(first + int(i))
        kept = table.filter(pa.array(good))
        for value, count in zip(*_value_counts(splits.filter(pa.array(good))), strict=True):
            counts[value] += count
        for column, known_names in names.items():
            known_names.update(name for name in kept[column].unique().to_pylist() if name)
        ids.append(np.array(kept["processid"].to_pylist(), dtype="S"))
        rows_seen.append(first + np.flatnonzero(good))
    if not sum(counts.values()):
        raise ReleaseError(f"{path} holds no rows.")
    for row, earlier, processid, split in _repeated(ids, rows_seen, path):
        report(Problem(path.name, row, processid, f"repeats the processid of row {earlier}", "left out"))
        left_out.add(row)
        counts[split] -= 1
    ordered = {split: counts[split] for split in (*SPLITS, UNASSIGNED) if counts[split]}
    extra = [name for name in csv_columns(path) if name not in COLUMNS]
    return Scan(ordered, LabelMaps(names), extra, left_out)


def _value_counts(array: pa.ChunkedArray) -> tuple[list[str], list[int]]:
    counted = array.value_counts()
    return counted.field("values").to_pylist(), counted.field("counts").to_pylist()


def _describe_bad_row(table: pa.Table, i: int, file: str, first: int) -> Problem:
    processid, split, barcode = (table[name][i].as_py() for name in ("processid", "split", "dna_barcode"))
    if not processid or not re.fullmatch(r"[!-~]+", processid):
        what = f"processid {processid!r} is no id (printable ASCII, no spaces)"
    elif split is None:
        what = "its split is empty; `bioscan-hf split` partitions a metadata file"
    elif split not in SPLITS:
        what = f"unknown split {split!r} (BIOSCAN-5M has {', '.join(SPLITS)})"
    else:
        letter = next(c for c in barcode if not re.fullmatch(DNA_PATTERN, c))
        what = f"dna_barcode is no DNA: it holds {letter!r}"
    return Problem(file, first + i, processid, what, "left out")


def _repeated(ids: list[np.ndarray], rows: list[np.ndarray], path: Path) -> Iterator[tuple[int, int, str, str]]:
    """Rows whose processid an earlier row has: (row, earlier row, processid, split)."""
    everything, row = np.concatenate(ids), np.concatenate(rows)
    order = np.argsort(everything, kind="stable")
    same = everything[order][1:] == everything[order][:-1]
    if not same.any():
        return
    start = np.concatenate([[True], ~same])  # where a run of equal ids begins
    first_of_run = order[np.flatnonzero(start)[np.cumsum(start) - 1]]
    found = {int(row[order[i]]): int(row[first_of_run[i]]) for i in np.flatnonzero(~start)}
    for first, table in read_strings(path, columns=("processid", "split"), report=lambda problem: None):
        for number in sorted(number for number in found if first <= number < first + len(table)):
            i = number - first
            yield number, found[number], table["processid"][i].as_py(), table["split"][i].as_py() or UNASSIGNED


# ---- photos --------------------------------------------------------------------------------------------------------


class Photos:
    """The photos of one package: in folders under the release's root, or as members of its zips, opened on demand.

    Raises:
        FileNotFoundError: if the release holds no photo of the package, saying which packages it has.
        ReleaseError: if a zip cannot be opened, naming it.
    """

    def __init__(self, root: str | Path, package: str):
        self.root, self.package = Path(root), package
        self.folder = next(
            (f for f in (self.root / "bioscan5m/images" / package, self.root / "images" / package) if f.is_dir()), None
        )
        self.zips = sorted(path for path in self.root.glob("BIOSCAN_5M_*.zip") if _package_of(path) == package)
        if self.folder is None and not self.zips:
            here = packages(self.root)
            raise FileNotFoundError(
                f"No photos of {package!r} in {str(self.root)!r}: neither bioscan5m/images/{package}/ nor "
                f"BIOSCAN_5M_{package}*.zip. It holds {', '.join(here) if here else 'no photos at all'}."
            )
        self._open: dict[Path, ZipFile] = {}
        self._member: dict[str, Path] | None = None

    def read(self, processid: str, split: str) -> bytes:
        """JPEG bytes of one specimen, as they lie in the release.

        Raises:
            ReleaseError: if the photo is missing, cut off, or not a JPEG; the message says which file.
        """
        name = image_path(processid, split, self.package)
        data, where = self._from_folder(name), name
        if data is None:
            data, where = self._from_zip(name)
        check_jpeg(data, where)
        return data

    def _from_folder(self, name: str) -> bytes | None:
        if self.folder is None:
            return None
        path = self.folder / name.split(f"/{self.package}/", 1)[1]
        return path.read_bytes() if path.is_file() else None

    def _from_zip(self, name: str) -> tuple[bytes, str]:
        if self._member is None:
            self._member = {}
            for path in self.zips:
                try:
                    self._open[path] = ZipFile(path)
                except (BadZipFile, OSError) as error:
                    raise ReleaseError(f"{path} is no readable zip ({error}): download it again.") from error
                self._member.update(dict.fromkeys(self._open[path].namelist(), path))
        if name not in self._member:
            places = [path.name for path in self.zips] or [str(self.folder)]
            raise ReleaseError(f"no photo {name} in {', '.join(places)}")
        path = self._member[name]
        try:
            return self._open[path].read(name), f"{path.name}:{name}"
        except (BadZipFile, OSError, EOFError) as error:
            raise ReleaseError(f"{path.name}:{name} cannot be read ({error})") from error

    def close(self) -> None:
        """Closes the zips."""
        for file in self._open.values():
            file.close()
        self._open, self._member = {}, None


def _package_of(zip_path: Path) -> str | None:
    """Image package of a zip by its published name, e.g. BIOSCAN_5M_cropped_256_pretrain.01.zip -> cropped_256."""
    names = sorted(IMAGE_PACKAGES, key=len, reverse=True)
    match = re.fullmatch(rf"BIOSCAN_5M_({'|'.join(names)})(_(pretrain|train|eval))?(\.\d\d)?\.zip", zip_path.name)
    return match[1] if match else None


def packages(root: str | Path) -> list[str]:
    """Image packages of which a release folder holds photos, in the order of `IMAGE_PACKAGES`."""
    root = Path(root)
    zipped = {_package_of(path) for path in root.glob("BIOSCAN_5M_*.zip")}
    places = (root / "bioscan5m/images", root / "images")
    return [name for name in IMAGE_PACKAGES if name in zipped or any((place / name).is_dir() for place in places)]


def check_jpeg(data: bytes, where: str) -> None:
    """Raises ReleaseError unless `data` starts, reads and ends like a JPEG; the pixels are not decoded."""
    if not data.startswith(b"\xff\xd8"):
        raise ReleaseError(f"{where} is no JPEG (it starts with {data[:4]!r})")
    try:
        PILImage.open(io.BytesIO(data), formats=["JPEG"])
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ReleaseError(f"{where} is a damaged JPEG ({error})") from error
    if b"\xff\xd9" not in data[-64:]:
        raise ReleaseError(f"{where} is a damaged JPEG: cut off before its end mark ({len(data)} bytes)")


def photo_root(source: str | Path) -> Path:
    """The folder in which the zips and bioscan5m/ of a release lie, for the release folder or its metadata CSV."""
    path = find_metadata(source)
    if Path(source).is_dir():
        return Path(source)
    return path.parents[3] if path.parent.name == "csv" and path.parents[1].name == "metadata" else path.parent


# ---- rows ----------------------------------------------------------------------------------------------------------


def read_typed(path: Path, checked: Scan, report: Callable[[Problem], None] = stop) -> Iterator[tuple[int, pa.Table]]:
    """Streams the good rows of a scanned metadata CSV with the types of `features("dna")`."""
    schema = pa.schema([(f.name, f.type) for f in features("dna", checked.extra_columns).arrow_schema])
    for first, table in read_strings(path, report=lambda problem: None):
        rows = range(first, first + len(table))
        table = to_types(table, first, path.name, report).select(schema.names).cast(schema)
        if not checked.left_out.isdisjoint(rows):
            table = table.filter(pa.array([row not in checked.left_out for row in rows]))
        yield first, table


def iterate_rows(
    source: str | Path, config: str = "dna", splits: Sequence[str] = SPLITS, report: Callable[[Problem], None] = stop
) -> Iterator[dict[str, Any]]:
    """Rows of a release as dicts, split after split; a photo is `{"bytes": ..., "path": "PROCESSID.jpg"}`.

    Reads the CSV once for each split, so that the rows come in the order of the Parquet shards.
    """
    path = find_metadata(source)
    checked = scan(path, report, unassigned=UNASSIGNED in splits)
    photos = None if config == "dna" else Photos(photo_root(source), config)
    for split in splits:
        for _, table in read_typed(path, checked, report):
            for row in table.filter(pc.equal(pc.fill_null(table["split"], UNASSIGNED), split)).to_pylist():
                if photos is None:
                    yield row
                    continue
                try:
                    data = photos.read(row["processid"], split)
                except ReleaseError as error:
                    report(Problem(path.name, None, row["processid"], str(error), f"left out of {config}"))
                    continue
                yield {"image": {"bytes": data, "path": f"{row['processid']}.jpg"}, **row}
    if photos is not None:
        photos.close()
