"""A collection that visitors filter: DuckDB over the Parquet files of a dataset, a table or a library."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq

from ..dataset.sources import resolve
from ..identification.stored import TABLE, is_library
from ..schema import IMAGE_PACKAGES, LABEL_COLUMNS

#: Memory that DuckDB uses before it writes to disk, and its most threads.
MEMORY, THREADS = "1GB", 4

#: Photos of an overview, and values that a filter lists.
PHOTOS, MOST_CHOICES = 18, 300

#: Specimens up to which different BINs are counted, and not estimated.
MOST_COUNTED = 1_000_000

#: Species of a sample for the barcode gap, and barcodes of each.
GAP_SPECIES, GAP_BARCODES = 40, 4

#: Specimens that are compared with one, to find its nearest ones.
CANDIDATES = 400

TEXTS = (*LABEL_COLUMNS, "dna_barcode", "country", "province_state", "split", "sampleid")
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
        rows, species, bins: Numbers of specimens, and of different names and BINs; of more than `MOST_COUNTED`
            specimens, the BINs are estimated (within about 5 %).
        ranks: The two ranks of `taxa`.
        taxa: Name at both ranks, None where unknown, and specimens.
        places: Latitude, longitude and specimens.
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

    Raises:
        FileNotFoundError, ValueError: as `dataset.sources.resolve`; for a source without rows.
    """

    def __init__(self, source: str | Path):
        self.source = str(source)
        self.photo_files: list[Path] = []
        if is_library(source):
            files = [Path(source) / TABLE]
        else:
            found = resolve(source)
            files = found.files("dna")
            self.photo_files = _photo_files(found)
        config: dict[str, Any] = {"memory_limit": MEMORY, "threads": min(THREADS, os.cpu_count() or 1)}
        config |= {"autoload_known_extensions": False, "autoinstall_known_extensions": False}  # no network
        self.database = duckdb.connect(config=config)
        read = _read(files)
        self.columns = {row[0] for row in self._rows(f"DESCRIBE SELECT * FROM {read}")}
        columns = ["processid::VARCHAR AS processid"]
        for name in TEXTS:
            letters = f"nullif(\"{name}\"::VARCHAR, '')" if name in self.columns else "NULL::VARCHAR"
            columns.append(f'{letters} AS "{name}"')
        for name in NUMBERS:
            number = f'CASE WHEN NOT isnan("{name}"::DOUBLE) THEN "{name}"::DOUBLE END'
            columns.append(f'{number if name in self.columns else "NULL::DOUBLE"} AS "{name}"')
        self.database.execute(f"CREATE VIEW specimens AS SELECT {', '.join(columns)} FROM {read}")
        names = (
            f"SELECT '{rank}' AS rank, {place} AS place, \"{rank}\" AS name FROM specimens "
            f'WHERE "{rank}" IS NOT NULL GROUP BY ALL'
            for place, rank in enumerate(LABEL_COLUMNS)
        )
        self.database.execute(f"CREATE TABLE names AS {' UNION ALL '.join(names)}")
        self.rows = int(self._rows("SELECT count(*) FROM specimens")[0][0])
        if not self.rows:
            raise ValueError(f"{self.source!r} holds no specimens.")
        self.overview = lru_cache(maxsize=256)(self._overview)
        self.sample = lru_cache(maxsize=256)(self._sample)
        self.choices = lru_cache(maxsize=256)(self._choices)
        self.gap_sample = lru_cache(maxsize=64)(self._gap_sample)

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
            query = f"SELECT {columns}, count(*) FROM specimens WHERE {sql} GROUP BY ALL ORDER BY count(*) DESC"
            return self._rows(query, values)

        taxa = grouped(f'"{upper}", "{lower}"')
        rows = sum(count for *_, count in taxa)
        # Groups are counted by all threads, and DISTINCT by one.
        exact = "SELECT count(*) FROM (SELECT {0} FROM specimens WHERE {1} AND {0} IS NOT NULL GROUP BY 1)"
        about = "SELECT approx_count_distinct({0}) FROM specimens WHERE {1}"
        species = self._rows(exact.format("species", sql), values)[0][0]
        bins = self._rows((exact if rows <= MOST_COUNTED else about).format("dna_bin", sql), values)[0][0]
        places = grouped('round("coord-lat", 1), round("coord-lon", 1)') if "coord-lat" in self.columns else []
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
        rows = self._dicts("processid = ? LIMIT 1", [processid])
        return rows[0] if rows else None

    def records(self, processids: Sequence[str]) -> dict[str, Row]:
        """Processid -> all that is known of the specimen, without its barcode."""
        if not processids:
            return {}
        found = self._dicts(f"processid IN ({', '.join('?' * len(processids))})", processids, barcodes=False)
        return {row["processid"]: row for row in found}

    def relatives(self, record: Row) -> tuple[str | None, list[Row]]:
        """Rank, and at most `CANDIDATES` other specimens with a barcode that share the taxon of a record there.

        It is the lowest rank at which there are ten of them, or the one with most.
        """
        best: tuple[str | None, list[Row]] = (None, [])
        for rank in ("genus", "family", "order", "class"):
            if record[rank] is not None:
                condition = f'"{rank}" = ? AND processid <> ? AND dna_barcode IS NOT NULL LIMIT {CANDIDATES}'
                found = self._dicts(condition, [record[rank], record["processid"]])
                best = (rank, found) if len(found) > len(best[1]) else best
                if len(found) >= 10:
                    break
        return best

    def _dicts(self, condition: str, values: Sequence[Any], barcodes: bool = True) -> list[Row]:
        names = [name for name in ("processid", *TEXTS, *NUMBERS) if barcodes or name != "dna_barcode"]
        columns = ", ".join(f'"{name}"' for name in names)
        rows = self._rows(f"SELECT {columns} FROM specimens WHERE {condition}", values)
        return [dict(zip(names, row, strict=True)) for row in rows]

    def _gap_sample(self, where: Filter) -> list[tuple[str, str]]:
        """Species and barcode of a sample: at most `GAP_SPECIES` species with two barcodes or more."""
        sql, values = where.sql()
        species = self._rows(
            f"SELECT species FROM specimens WHERE {sql} AND species IS NOT NULL GROUP BY 1 HAVING count(*) > 1 "
            f"ORDER BY hash(species) LIMIT {GAP_SPECIES}",
            values,
        )
        if not species:
            return []
        return self._rows(
            f"SELECT species, dna_barcode FROM (SELECT species, dna_barcode, row_number() OVER (PARTITION BY species "
            f"ORDER BY hash(processid)) AS place FROM specimens WHERE {sql} AND dna_barcode IS NOT NULL AND species "
            f"IN ({', '.join('?' * len(species))})) WHERE place <= {GAP_BARCODES} ORDER BY species, place",
            [*values, *(name for (name,) in species)],
        )

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
