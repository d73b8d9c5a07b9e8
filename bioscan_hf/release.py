"""A published BIOSCAN-5M release (metadata CSV, photo folders or zips), read row by row and written as Parquet shards.

The CSV streams, zips are never unpacked, and JPEG bytes pass through untouched. `build` works shard by shard: each is
written under a temporary name, renamed when whole and entered in a manifest, so a killed build goes on where it stood.

Layout of a release: https://arxiv.org/abs/2406.12723. Imports hub (the card), results and taxonomy.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from datasets import Features, Image, Value
from PIL import Image as PILImage
from PIL import UnidentifiedImageError

from .hub import dataset_card
from .results import file_hash, write_json, write_text
from .taxonomy import COLUMNS, IMAGE_PACKAGES, LABEL_COLUMNS, SPLITS, LabelMaps, check_config, image_path

METADATA_CSV = "BIOSCAN_5M_Insect_Dataset_metadata.csv"
LABELS_FILE = "labels.json"
MANIFEST_FILE = "manifest.json"
PROBLEMS_FILE = "problems.csv"

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

#: Rows of one Parquet shard, about 500 MB at the published sizes of the photos.
ROWS_PER_SHARD = {"dna": 1_000_000, "cropped_256": 25_000, "original_256": 25_000, "cropped": 25_000}
ROWS_PER_SHARD["original_full"] = 12_000
ROWS_PER_GROUP = {"dna": 50_000}
PHOTO_ROWS_PER_GROUP = 1_000


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


# ---- Parquet -------------------------------------------------------------------------------------------------------


class ParquetShard:
    """One Parquet file, invisible under its name until it is whole."""

    def __init__(self, path: Path, config: str, schema: pa.Schema):
        self.path, self.rows = path, 0
        self._part = path.with_name(path.name + ".part")
        path.parent.mkdir(parents=True, exist_ok=True)
        compression = {name: "zstd" for name in schema.names if name != "image"}
        if config != "dna":  # JPEGs do not get smaller
            compression |= {"image.bytes": "none", "image.path": "zstd"}
        self._writer = pq.ParquetWriter(
            self._part,
            schema,
            compression=compression,
            write_page_index=True,
            use_content_defined_chunking=True,
        )

    def write(self, table: pa.Table) -> None:
        self._writer.write_table(table, row_group_size=max(len(table), 1))
        self.rows += len(table)

    def close(self) -> dict[str, Any]:
        """Makes the file visible; returns its entry for the manifest."""
        self._writer.close()
        entry = {"rows": self.rows, "bytes": self._part.stat().st_size, "sha256": file_hash(self._part)}
        os.replace(self._part, self.path)
        return entry


def shard_names(config: str, counts: dict[str, int], rows_per_shard: int) -> dict[str, list[str]]:
    """Split -> names of its Parquet files, relative to the dataset's folder."""
    names = {}
    for split, count in counts.items():
        n = -(-count // rows_per_shard)
        names[split] = [f"{config}/{split}-{i:05d}-of-{n:05d}.parquet" for i in range(n)]
    return names


@dataclass
class Manifest:
    """The state of a build, kept in the output folder: what it is made of, and which shards are whole."""

    path: Path
    about: dict[str, Any]
    shards: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    complete: bool = False

    def save(self) -> None:
        problems = [vars(problem) for problem in self.problems]
        write_json(self.path, {**self.about, "complete": self.complete, "shards": self.shards, "problems": problems})

    def fingerprint(self, config: str) -> str:
        """Twelve hexadecimal digits that differ where the content of a config differs."""
        digests = [f"{name}:{shard['sha256']}" for name, shard in sorted(self.shards.items())]
        own = "\n".join(line for line in digests if line.startswith(f"{config}/"))
        return hashlib.sha256(own.encode()).hexdigest()[:12]

    def holds(self, name: str) -> bool:
        """Whether a shard is whole: entered here, and a file of the size that was entered."""
        file = self.path.parent / name
        return name in self.shards and file.is_file() and file.stat().st_size == self.shards[name]["bytes"]


def build(
    source: str | Path,
    output: str | Path,
    configs: Sequence[str] | None = None,
    *,
    workers: int = 1,
    keep_going: bool = False,
    force: bool = False,
    unassigned: bool = False,
    rows_per_shard: dict[str, int] | None = None,
    progress: Callable[[str, int], None] = lambda text, rows: None,
) -> Manifest:
    """Writes a release as sharded Parquet that `datasets.load_dataset(output, config, split=...)` reads by name.

    Started again after an interruption, it completes the same output. Shards are in CSV order within a split.

    Args:
        source: Folder of a release, or a metadata CSV.
        output: New folder, or one that an earlier, interrupted build has made from the same source.
        configs: "dna" is always written; by default with every image package that the source holds.
        workers: Processes that read photos.
        keep_going: Report problems in `problems.csv` and go on, where the default stops at the first.
        force: Replace what an earlier build has written to `output`, and allow other files beside it.
        unassigned: Accept rows without a split; they go to a split called "unassigned".
        rows_per_shard: Config -> rows, instead of `ROWS_PER_SHARD`.
        progress: Called with what is done and the number of rows.

    Raises:
        FileExistsError: if `output` holds something else.
        FileNotFoundError: if the source holds no metadata, or none of the photos asked for.
        ReleaseError: at the first problem, unless `keep_going`.
    """
    path, output = find_metadata(source), Path(output)
    wanted = ["dna", *(packages(photo_root(source)) if configs is None else [c for c in configs if c != "dna"])]
    for config in wanted:
        check_config(config)
    for config in wanted[1:]:
        Photos(photo_root(source), config).close()  # fails early

    sizes = {**ROWS_PER_SHARD, **(rows_per_shard or {})}
    stat = path.stat()
    about = {
        "source": {"name": path.name, "bytes": stat.st_size, "modified": stat.st_mtime_ns},
        "configs": wanted,
        "rows_per_shard": {config: sizes[config] for config in wanted},
        "keep_going": keep_going,
        "unassigned": unassigned,
    }
    manifest = _open_manifest(output, about, force)
    if manifest.complete and all(map(manifest.holds, manifest.shards)):
        return manifest
    manifest.complete, manifest.problems = False, []

    def report(problem: Problem) -> None:
        if not keep_going:
            stop(problem)
        if problem not in manifest.problems:
            manifest.problems.append(problem)

    checked = scan(path, report, unassigned=unassigned)
    output.mkdir(parents=True, exist_ok=True)
    manifest.save()
    checked.labels.save(output / LABELS_FILE)
    _write_metadata(path, checked, manifest, sizes["dna"], report, progress)
    for config in wanted[1:]:
        _write_photos(photo_root(source), config, checked, manifest, sizes, workers, report, progress)
    if manifest.problems:
        write_problems(output / PROBLEMS_FILE, manifest.problems)
    card = dataset_card(path.name, wanted, checked.counts, {c: manifest.fingerprint(c) for c in wanted})
    write_text(output / "README.md", card)
    manifest.complete = True
    manifest.save()
    return manifest


def _open_manifest(output: Path, about: dict[str, Any], force: bool) -> Manifest:
    """The manifest of an interrupted build of the same thing, or a new one; refuses a folder with anything else."""
    path = output / MANIFEST_FILE
    manifest = Manifest(path, about)
    if not output.exists() or not any(output.iterdir()):
        return manifest
    old = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    if old is None and not force:
        raise FileExistsError(
            f"{str(output)!r} holds something else ({next(output.iterdir()).name!r}, ...). "
            f"Give a new folder, or force=True (--force) to write into this one."
        )
    if old is None:
        return manifest
    if {key: old.get(key) for key in about} == about:
        for part in output.glob("*/*.part"):
            part.unlink()
        manifest.shards, manifest.complete = old["shards"], old["complete"]
        manifest.problems = [Problem(**problem) for problem in old["problems"]]
        return manifest
    different = [key for key in about if old.get(key) != about[key]]
    if not force:
        raise FileExistsError(
            f"{str(output)!r} holds a build with another {' and '.join(different)}. "
            f"Give a new folder, or force=True (--force) to replace that build."
        )
    for name in (*old["shards"], PROBLEMS_FILE):
        (output / name).unlink(missing_ok=True)
    return manifest


def _write_metadata(
    path: Path,
    checked: Scan,
    manifest: Manifest,
    rows_per_shard: int,
    report: Callable[[Problem], None],
    progress: Callable[[str, int], None],
) -> None:
    """Writes the shards of the config `dna` that are missing, in one pass over the CSV."""
    names = shard_names("dna", checked.counts, rows_per_shard)
    if all(manifest.holds(name) for split in names.values() for name in split):
        return
    schema = features("dna", checked.extra_columns).arrow_schema
    waiting: dict[str, list[pa.Table]] = {split: [] for split in names}
    done = dict.fromkeys(names, 0)  # rows of a split that have left the queue
    open_shards: dict[str, ParquetShard] = {}

    def flush(split: str, last: bool) -> None:
        table = pa.concat_tables(waiting[split])
        group = min(ROWS_PER_GROUP["dna"], rows_per_shard)
        while len(table) >= group or (last and len(table)):
            index, within = divmod(done[split], rows_per_shard)
            rows = table.slice(0, min(group, rows_per_shard - within))
            name = names[split][index]
            if not manifest.holds(name):
                if split not in open_shards:
                    open_shards[split] = ParquetShard(manifest.path.parent / name, "dna", schema)
                open_shards[split].write(rows)
            done[split] += len(rows)
            table = table.slice(len(rows))
            if split in open_shards and (done[split] % rows_per_shard == 0 or done[split] == checked.counts[split]):
                manifest.shards[name] = open_shards.pop(split).close()
                manifest.save()
        waiting[split] = [table]

    for _, table in read_typed(path, checked, report):
        keys = pc.fill_null(table["split"], UNASSIGNED)
        for split in names:
            part = table.filter(pc.equal(keys, split)).cast(schema)
            if len(part):
                waiting[split].append(part)
                if sum(map(len, waiting[split])) >= ROWS_PER_GROUP["dna"]:
                    flush(split, last=False)
        progress("dna", len(table))
    for split in names:
        flush(split, last=True)


def _write_photos(
    root: Path,
    config: str,
    checked: Scan,
    manifest: Manifest,
    sizes: dict[str, int],
    workers: int,
    report: Callable[[Problem], None],
    progress: Callable[[str, int], None],
) -> None:
    """Writes the shards of an image config that are missing; each takes its rows from the `dna` shards."""
    output = manifest.path.parent
    metadata = shard_names("dna", checked.counts, sizes["dna"])
    tasks = []
    for split, names in shard_names(config, checked.counts, sizes[config]).items():
        for i, name in enumerate(names):
            first = i * sizes[config]
            rows = (first, min(first + sizes[config], checked.counts[split]))
            if not manifest.holds(name):
                files = [str(output / file) for file in metadata[split]]
                tasks.append((str(root), config, split, files, sizes["dna"], rows, str(output / name), name))

    def finish(result: tuple[str, dict[str, Any], list[Problem]]) -> None:
        name, entry, problems = result
        for problem in problems:
            report(problem)
        manifest.shards[name] = entry
        manifest.save()
        progress(config, entry["rows"])

    if workers <= 1:
        for task in tasks:
            finish(write_photo_shard(*task, stop_at_problem=not manifest.about["keep_going"]))
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = [
            pool.submit(write_photo_shard, *task, stop_at_problem=not manifest.about["keep_going"]) for task in tasks
        ]
        try:
            for future in futures:
                finish(future.result())
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def write_photo_shard(
    root: str,
    config: str,
    split: str,
    metadata_files: list[str],
    metadata_rows_per_shard: int,
    rows: tuple[int, int],
    path: str,
    name: str,
    *,
    stop_at_problem: bool,
) -> tuple[str, dict[str, Any], list[Problem]]:
    """Writes one shard: rows [first, end) of a split with their photos. Returns name, manifest entry and problems."""
    problems: list[Problem] = []
    photos = Photos(root, config)
    first_file, last_file = rows[0] // metadata_rows_per_shard, (rows[1] - 1) // metadata_rows_per_shard
    parts = [pq.read_table(file) for file in metadata_files[first_file : last_file + 1]]
    table = pa.concat_tables(parts).slice(rows[0] - first_file * metadata_rows_per_shard, rows[1] - rows[0])
    extra = [column for column in table.column_names if column not in COLUMNS]
    schema = features(config, extra).arrow_schema
    shard = ParquetShard(Path(path), config, schema)
    for start in range(0, len(table), PHOTO_ROWS_PER_GROUP):
        group = table.slice(start, PHOTO_ROWS_PER_GROUP)
        images: list[dict[str, Any]] = []
        kept: list[bool] = []
        for processid in group["processid"].to_pylist():
            try:
                images.append({"bytes": photos.read(processid, split), "path": f"{processid}.jpg"})
                kept.append(True)
            except ReleaseError as error:
                problem = Problem(Path(path).name, None, processid, str(error), f"left out of {config}")
                if stop_at_problem:
                    stop(problem)
                problems.append(problem)
                kept.append(False)
        group = group.filter(pa.array(kept))
        column = pa.array(images, type=schema.field("image").type)
        shard.write(group.add_column(0, "image", column).select(schema.names).cast(schema))
    photos.close()
    return name, shard.close(), problems


def write_problems(path: Path, problems: Iterable[Problem]) -> None:
    """Writes problems as CSV, one a line."""
    part = path.with_name(path.name + ".part")
    with open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["file", "row", "processid", "what", "consequence"])
        writer.writeheader()
        writer.writerows(vars(problem) for problem in problems)
    os.replace(part, path)
