"""A collection that visitors filter: DuckDB over the Parquet files of a dataset, a table or a library.

What filters and pictures read is copied once to a table in memory: about 50 bytes a specimen, so that a filter of 5
million takes less than a second of one core. Barcodes and photos stay in the files.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import pyarrow.parquet as pq

from ..dataset.sources import resolve
from ..identification.stored import TABLE, is_library
from ..progress import Progress, silent
from ..schema import IMAGE_PACKAGES, LABEL_COLUMNS

#: Memory that DuckDB uses before it writes to disk, and its most threads.
MEMORY, THREADS = "1GB", 4

#: Photos of an overview, and values that a filter lists.
PHOTOS, MOST_CHOICES = 18, 300

#: Species of a sample for the barcode gap, barcodes of each, and specimens of each among which they are looked for.
GAP_SPECIES, GAP_BARCODES, GAP_SPECIMENS = 40, 4, 12

#: Specimens that are compared with one, to find its nearest ones.
CANDIDATES = 400

#: Columns of names that filters compare. In memory, each name is a number.
CHOSEN = (*LABEL_COLUMNS, "country", "province_state", "split")

TEXTS = (*CHOSEN, "dna_barcode", "sampleid")
NUMBERS = ("coord-lat", "coord-lon", "image_measurement_value")

#: Rank of a filter -> the two ranks of its tree map.
SHOWN: dict[str | None, tuple[str, str]] = {
    None: ("order", "family"),
    "phylum": ("class", "order"),
    "class": ("order", "family"),
    "order": ("family", "genus"),
    "family": ("genus", "species"),
    "subfamily": ("genus", "species"),
    "genus": ("species", "dna_bin"),
    "species": ("species", "dna_bin"),
    "dna_bin": ("species", "dna_bin"),
}

Row = dict[str, Any]


@dataclass(frozen=True)
class Filter:
    """What a visitor chose; None is everything. `smallest` and `largest` are pixels of the specimen in its photo."""

    rank: str | None = None
    name: str | None = None
    country: str | None = None
    province: str | None = None
    split: str | None = None
    smallest: float | None = None
    largest: float | None = None

    def sql(self) -> tuple[str, list[Any]]:
        """The condition, and its values."""
        parts = [
            (f'"{self.rank}" = ?', self.name),
            ("country = ?", self.country),
            ("province_state = ?", self.province),
            ("split = ?", self.split),
            ("image_measurement_value >= ?", self.smallest),
            ("image_measurement_value <= ?", self.largest),
        ]
        found = [(text, value) for text, value in parts if value is not None]
        return " AND ".join(text for text, _ in found) or "true", [value for _, value in found]


@dataclass(frozen=True)
class Overview:
    """Specimens that a filter leaves.

    Attributes:
        rows, species, bins: Numbers of specimens, and of different names and BINs.
        ranks: The two ranks of `taxa`.
        taxa: Name at both ranks, None where unknown, and specimens.
        places: Latitude and longitude, to 0.1 degrees, and specimens.
        countries: Name, None where unknown, and specimens, the most frequent first.
    """

    rows: int
    species: int
    bins: int
    ranks: tuple[str, str]
    taxa: list[tuple[str | None, str | None, int]]
    places: list[tuple[float, float, int]]
    countries: list[tuple[str | None, int]]


class Collection:
    """Specimens of a dataset, a table or a library.

    Args:
        source: Folder of a library, or a source of `load_bioscan5m`.
        progress: Told what is read.

    Raises:
        FileNotFoundError, ValueError: as `dataset.sources.resolve`; for a source without rows.
    """

    def __init__(self, source: str | Path, progress: Progress = silent):
        self.source = str(source)
        self.photo_files: list[Path] = []
        if is_library(source):
            files = [Path(source) / TABLE]
        else:
            found = resolve(source)
            files = found.files("dna")
            self.photo_files = _photo_files(found)
        self.spilled = TemporaryDirectory(prefix="bioscan_hf-app-", ignore_cleanup_errors=True)
        config: dict[str, Any] = {"memory_limit": MEMORY, "threads": min(THREADS, os.cpu_count() or 1)}
        config |= {"autoload_known_extensions": False, "autoinstall_known_extensions": False}  # no network
        config |= {"temp_directory": self.spilled.name, "perfect_ht_threshold": 20}  # groups of names are an array
        self.database = duckdb.connect(config=config)
        try:
            self._prepare(_read(files), progress)
        except duckdb.ConversionException as error:
            said = str(error).splitlines()[0].removeprefix("Conversion Error: ")
            raise ValueError(
                f"{self.source!r} has text for a coordinate or size ({said}). `bioscan-hf stats` names its row."
            ) from error
        self.rows = int(self._rows("SELECT count(*) FROM specimens")[0][0])
        if not self.rows:
            raise ValueError(f"{self.source!r} holds no specimens.")
        self.overview = lru_cache(maxsize=256)(self._overview)
        self.sample = lru_cache(maxsize=256)(self._sample)
        self.choices = lru_cache(maxsize=256)(self._choices)
        self.gap_sample = lru_cache(maxsize=64)(self._gap_sample)

    def _prepare(self, read: str, progress: Progress) -> None:
        """Makes the view `records` of all columns in the files, and the tables `specimens` and `names` in memory."""
        self.columns = {row[0] for row in self._rows(f"DESCRIBE SELECT * FROM {read}")}
        self.database.execute(f"CREATE VIEW records AS SELECT {', '.join(_columns(self.columns))} FROM {read}")
        for done, name in enumerate(CHOSEN):
            progress("reading names", done, len(CHOSEN))
            found = f'SELECT DISTINCT "{name}" FROM records WHERE "{name}" <> \'\' ORDER BY 1'
            self.database.execute(f'CREATE TYPE "{name}" AS ENUM ({found})')
        progress("reading specimens", 0, None)
        copied = [f'TRY_CAST("{name}" AS "{name}") AS "{name}"' for name in CHOSEN]  # an empty name becomes NULL
        copied += [f'TRY_CAST(round(10 * "{name}") AS SMALLINT) AS "{name}"' for name in ("coord-lat", "coord-lon")]
        self.database.execute("SET preserve_insertion_order = false")
        self.database.execute(
            f"CREATE TABLE specimens AS SELECT processid, {', '.join(copied)}, image_measurement_value FROM records"
        )
        names = (
            f"SELECT '{rank}' AS rank, {place} AS place, \"{rank}\"::VARCHAR AS name FROM specimens "
            f'WHERE "{rank}" IS NOT NULL GROUP BY ALL'
            for place, rank in enumerate(LABEL_COLUMNS)
        )
        self.database.execute(f"CREATE TABLE names AS {' UNION ALL '.join(names)}")

    def _rows(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of a query. Each has its own cursor, so that visitors do not get each other's results."""
        with self.database.cursor() as cursor:
            return cursor.execute(sql, list(values)).fetchall()

    def _choices(self, column: str, where: Filter = Filter()) -> list[str]:  # noqa: B008  (frozen)
        """Values of a column with few of them, the most frequent first."""
        sql, values = where.sql()
        query = f"SELECT {column} FROM specimens WHERE {sql} AND {column} IS NOT NULL GROUP BY 1 "
        return [row[0] for row in self._rows(query + f"ORDER BY count(*) DESC, 1 LIMIT {MOST_CHOICES}", values)]

    def named(self, text: str) -> list[tuple[str, str]]:
        """Rank and spelling of a taxon or BIN, whatever the case of its letters; the highest rank first."""
        wanted = " ".join(text.split()).lower()
        query = "SELECT rank, min(name) FROM names WHERE lower(name) = ? GROUP BY rank, place ORDER BY place"
        return [(rank, name) for rank, name in self._rows(query, [wanted])]

    def _overview(self, where: Filter) -> Overview:
        sql, values = where.sql()
        upper, lower = ranks = SHOWN[where.rank if where.name is not None else None]

        def grouped(columns: str) -> list[Any]:
            counted = f"SELECT {columns}, count(*) FROM specimens WHERE {sql} GROUP BY ALL"
            return self._rows(f"{counted} ORDER BY count(*) DESC, {columns}", values)

        taxa = grouped(f'"{upper}", "{lower}"')
        rows = sum(count for *_, count in taxa)
        # Groups are counted by all threads, and DISTINCT by one.
        different = "SELECT count(*) FROM (SELECT {0} FROM specimens WHERE {1} AND {0} IS NOT NULL GROUP BY 1)"
        species, bins = (self._rows(different.format(name, sql), values)[0][0] for name in ("species", "dna_bin"))
        places = grouped('"coord-lat" / 10, "coord-lon" / 10') if "coord-lat" in self.columns else []
        countries = grouped("country") if "country" in self.columns else []
        return Overview(
            rows,
            species,
            bins,
            ranks,
            taxa,
            [place for place in places if None not in place],
            countries,
        )

    def _sample(self, where: Filter) -> list[str]:
        """Processids of a random sample of `PHOTOS` specimens, the same each time."""
        sql, values = where.sql()
        query = f"SELECT arg_min(processid, hash(processid), {PHOTOS}) FROM specimens WHERE {sql}"
        return self._rows(query, values)[0][0] or []

    def record(self, processid: str) -> Row | None:
        """All that is known of a specimen; None if there is none of this id."""
        rows = self._records("processid = ? LIMIT 1", [processid])
        return rows[0] if rows else None

    def labels(self, processids: Sequence[str]) -> dict[str, Row]:
        """Processid -> the names of the specimen at each rank, None where unknown."""
        columns = ", ".join(f'"{rank}"' for rank in LABEL_COLUMNS)
        query = f"SELECT processid, {columns} FROM specimens WHERE list_contains(?, processid)"
        found = self._rows(query, [list(processids)])
        return {processid: dict(zip(LABEL_COLUMNS, names, strict=True)) for processid, *names in found}

    def relatives(self, record: Row) -> tuple[str | None, list[Row]]:
        """Rank, and at most `CANDIDATES` other specimens with a barcode that share the taxon of a record there.

        It is the lowest rank at which there are ten of them, or the one with most.
        """
        best: tuple[str | None, list[Row]] = (None, [])
        for rank in ("genus", "family", "order", "class"):
            if record[rank] is not None:
                condition = f"\"{rank}\" = ? AND processid <> ? AND dna_barcode <> '' LIMIT {CANDIDATES}"
                found = self._records(condition, [record[rank], record["processid"]])
                best = (rank, found) if len(found) > len(best[1]) else best
                if len(found) >= 10:
                    break
        return best

    def _records(self, condition: str, values: Sequence[Any]) -> list[Row]:
        names = ("processid", *TEXTS, *NUMBERS)
        columns = ", ".join(f'"{name}"' for name in names)
        rows = self._rows(f"SELECT {columns} FROM records WHERE {condition}", values)
        return [{name: None if x == "" else x for name, x in zip(names, row, strict=True)} for row in rows]

    def _gap_sample(self, where: Filter) -> list[tuple[str, str]]:
        """Species and barcode of a sample: at most `GAP_SPECIES` species with two specimens or more."""
        sql, values = where.sql()
        drawn = self._rows(
            f"SELECT species, arg_min(processid, hash(processid), {GAP_SPECIMENS}) FROM specimens WHERE {sql} AND "
            f"species IS NOT NULL GROUP BY 1 HAVING count(*) > 1 ORDER BY hash(species::VARCHAR) LIMIT {GAP_SPECIES}",
            values,
        )
        wanted = [processid for _, processids in drawn for processid in processids]
        query = "SELECT processid, dna_barcode FROM records WHERE processid IN (SELECT unnest(?))"
        found = dict(self._rows(f"{query} AND dna_barcode <> ''", [wanted])) if wanted else {}
        return [
            (species, found[processid])
            for species, processids in sorted(drawn)
            for processid in [one for one in processids if one in found][:GAP_BARCODES]
        ]

    def photos(self, processids: Sequence[str]) -> dict[str, bytes]:
        """Processid -> encoded photo, of those that have one."""
        if not self.photo_files or not processids:
            return {}
        wanted = ", ".join("?" * len(processids))
        query = f"SELECT processid, filename, file_row_number FROM {_read(self.photo_files, places=True)} "
        found: dict[str, bytes] = {}
        for processid, file, row in self._rows(query + f"WHERE processid IN ({wanted})", processids):
            photo = _photo(file, row)
            if photo:
                found[processid] = photo
        return found


def _columns(there: set[str]) -> list[str]:
    """SQL of the id, `TEXTS` and `NUMBERS`; NULL for columns that are not there and for numbers that are not one."""
    columns = ["processid::VARCHAR AS processid"]
    for name in TEXTS:
        text = f'"{name}"' if name in there else "NULL"
        columns.append(f'{text}::VARCHAR AS "{name}"')
    for name in NUMBERS:
        number = f'CASE WHEN NOT isnan("{name}"::DOUBLE) THEN "{name}"::DOUBLE END'
        columns.append(f'{number if name in there else "NULL::DOUBLE"} AS "{name}"')
    return columns


def _photo_files(found: Any) -> list[Path]:
    """Files with photos that are on this machine; the smallest photos are preferred."""
    if found.kind != "parquet":
        return []
    for config in IMAGE_PACKAGES:
        try:
            files: list[Path] = found.files(config)
        except ValueError:
            continue
        if "image" in pq.read_schema(files[0]).names:
            return files
    return []


def _read(files: Sequence[Path], places: bool = False) -> str:
    """SQL that reads Parquet files. A name with the letters of a pattern would be one: such are written as classes."""
    names = []
    for file in files:
        text = "".join(f"[{letter}]" if letter in "*?[" else letter for letter in str(file))
        names.append("'" + text.replace("'", "''") + "'")
    more = ", filename = true, file_row_number = true" if places else ""
    return f"read_parquet([{', '.join(names)}], union_by_name = true{more})"


def _photo(file: str, row: int) -> bytes | None:
    """The photo in a row of a file: only its row group is read."""
    with pq.ParquetFile(file) as opened:
        for group in range(opened.metadata.num_row_groups):
            rows = opened.metadata.row_group(group).num_rows
            if row < rows:
                column = opened.read_row_group(group, columns=["image"])["image"]
                photo = column[row].as_py()
                return photo["bytes"] if isinstance(photo, dict) else photo
            row -= rows
    return None
