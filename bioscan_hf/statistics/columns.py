"""The columns of a release as numbers, read once and in pieces, for `statistics`.

What stays in memory is 4 bytes per row and column, and 8 bytes per distinct barcode and row; no text of a barcode.
Letters: R = rows, B = distinct barcodes, n = rows of one piece.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..dataset.build import MANIFEST_FILE
from ..dataset.load import source_kind
from ..release.check import ReleaseError, find_metadata, read_strings, to_types
from ..schema import LABEL_COLUMNS

PLACES = ("country", "province_state", "coord-lat", "coord-lon")
SIZES = ("image_measurement_value", "area_fraction", "scale_factor")
BARCODE = "dna_barcode"
COLUMNS_READ = (*LABEL_COLUMNS, BARCODE, *PLACES, *SIZES, "split")

ROWS_PER_BATCH = 50_000

Progress = Callable[[str, int], None]


def silent(text: str, done: int) -> None:
    """Shows no progress."""


@dataclass(frozen=True)
class Specimens:
    """Columns of a release as numbers, in the order of its rows.

    `codes` has for each column (R,) int32, -1 where a value is missing; `values` has what the codes stand for,
    ascending. Barcodes have codes but no values: `first_rows` (B,) tells where each is first.
    """

    source: str | Path
    rows: int
    codes: dict[str, np.ndarray]
    values: dict[str, list[Any]]
    first_rows: np.ndarray
    lengths: np.ndarray  # (R,) int32 letters of the barcode as it stands, -1 where it is missing
    letters: dict[str, int]  # how many barcodes hold an N inside, an N at an end, or a letter other than ACGTN


Source = str | Path | Specimens


def _parquet_files(source: str | Path) -> list[Path]:
    """The shards of the config `dna`, downloaded if they are on the Hub."""
    if source_kind(source) == "hub":
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(str(source), repo_type="dataset", allow_patterns=["dna/*.parquet"]))
    else:
        folder = Path(source)
        manifest = folder / MANIFEST_FILE
        if manifest.is_file() and not json.loads(manifest.read_text(encoding="utf-8"))["complete"]:
            raise ValueError(f"The build in {str(folder)!r} is not complete: run `bioscan-hf build` again to go on.")
    files = sorted((folder / "dna").glob("*.parquet"))
    if not files:
        raise ValueError(f"{str(source)!r} has no config 'dna' (dna/*.parquet), in which all metadata is.")
    return files


def read_columns(source: str | Path, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Some columns of a release, piece by piece, typed as in its Parquet."""
    if source_kind(source) == "release":
        path = find_metadata(source)
        wanted = ["processid", *columns]  # by which a number that cannot be read is reported
        for first, table in read_strings(path, required=wanted, columns=wanted):
            yield to_types(table, first, path.name).select(columns)
        return
    for file in _parquet_files(source):
        try:
            with pq.ParquetFile(file) as parquet:
                names = parquet.schema_arrow.names
                absent = [name for name in columns if name not in names]
                if absent:
                    raise ReleaseError(f"{file} has no column {absent[0]!r} (its columns: {', '.join(names)}).")
                for batch in parquet.iter_batches(ROWS_PER_BATCH, columns=list(columns)):
                    yield pa.Table.from_batches([batch]).select(columns)
        except (pa.ArrowInvalid, OSError) as error:
            raise ReleaseError(f"{file} is no readable Parquet file ({error}): build or download it again.") from error


def read_specimens(
    source: str | Path, columns: Sequence[str] = COLUMNS_READ, progress: Progress = silent
) -> Specimens:
    """Reads columns of a release once, for any number of statistics.

    Rows are counted as they are: of what a build checks, only the numbers are checked here.

    Args:
        source: Whatever `load_bioscan5m` takes. From the Hub, only the config `dna` is downloaded.
        progress: Called with "reading" and the number of rows, after each piece.

    Raises:
        ReleaseError: a missing column, a damaged file, a number that is none, or no rows at all.
    """
    known = {name: _numbering() for name in columns if name != BARCODE}
    parts: dict[str, list[np.ndarray]] = {name: [] for name in columns}
    digests: list[np.ndarray] = []
    letters = dict.fromkeys(("n_inside", "n_at_an_end", "other_letters"), 0)
    rows = 0
    for table in read_columns(source, columns):
        for name in columns:
            column = table[name].combine_chunks()
            if name == BARCODE:
                digest, length = _read_barcodes(column, letters)
                digests.append(digest)
                parts[name].append(length)
            else:
                parts[name].append(_encode(column, known[name]))
        rows += len(table)
        progress("reading", len(table))
    if not rows:
        raise ReleaseError(f"{str(source)!r} holds no rows.")
    codes, values = {}, {}
    for name, ids in known.items():
        values[name] = sorted(value for value in ids if value != "")
        place = np.full(len(values[name]) + 1, -1, dtype=np.int32)  # the last is where the code -1 looks
        place[[ids[value] for value in values[name]]] = np.arange(len(values[name]))
        codes[name] = place[np.concatenate(parts.pop(name))]
    first_rows, lengths = np.empty(0, np.int64), np.empty(0, np.int32)
    if BARCODE in columns:
        lengths = np.concatenate(parts.pop(BARCODE))
        codes[BARCODE], first_rows = _number_barcodes(np.concatenate(digests))
    return Specimens(source, rows, codes, values, first_rows, lengths, letters)


def _numbering() -> dict[Any, int]:
    """Gives each new value the next number, and the empty text -1."""
    numbers: dict[Any, int] = defaultdict(count().__next__)
    numbers[""] = -1
    return numbers


def _encode(column: pa.Array, known: dict[Any, int]) -> np.ndarray:
    """Numbers (n,) of a column's values; -1 for null, "" and NaN."""
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
    encoded = column.dictionary_encode()
    ids = [*map(known.__getitem__, encoded.dictionary.to_pylist()), -1]
    return np.array(ids, dtype=np.int32)[encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)]


def _read_barcodes(column: pa.Array, letters: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Digests (n,) uint64 without the N at the ends, 0 for none, and lengths (n,), -1 for none; adds to `letters`."""
    written = column.cast(pa.large_binary()).to_pylist()
    trimmed = [barcode.strip(b"N") if barcode else b"" for barcode in written]
    digest = np.frombuffer(b"".join([blake2b(barcode, digest_size=8).digest() for barcode in trimmed]), np.uint64)
    lengths = np.array([len(barcode) if barcode else -1 for barcode in written], dtype=np.int32)
    special = pc.fill_null(pc.match_substring_regex(column, "[^ACGT]"), False).to_numpy(zero_copy_only=False)
    for i in np.flatnonzero(special):
        letters["n_at_an_end"] += len(trimmed[i]) < len(written[i])
        letters["n_inside"] += b"N" in trimmed[i]
        letters["other_letters"] += len(trimmed[i].translate(None, b"ACGTN")) > 0
    return np.where([len(barcode) > 0 for barcode in trimmed], digest, 0), lengths


def _number_barcodes(digests: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Barcode ids (R,), -1 for none, in the order of their digests, and the first row of each (B,)."""
    distinct, first, ids = np.unique(digests, return_index=True, return_inverse=True)
    none = int(len(distinct) > 0 and distinct[0] == 0)
    return (ids - none).astype(np.int32), first[none:]


def specimens_of(source: Source, columns: Sequence[str]) -> Specimens:
    """`source` itself if it was read with these columns, else what `read_specimens` makes of it."""
    if not isinstance(source, Specimens):
        return read_specimens(source, columns)
    absent = [name for name in columns if name not in source.codes]
    if absent:
        raise ValueError(f"These specimens were read without {absent[0]!r}: add it to the columns of read_specimens.")
    return source
