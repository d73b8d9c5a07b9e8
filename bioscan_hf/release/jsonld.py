"""Tables as JSON: an array or a sequence of objects, one per row."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from .problems import ReleaseError, not_utf8
from .records import LONGEST_RECORD, Bytes

_BLOCK_BYTES = 4 << 20
_RECORDS = 10_000


def plain_keys(keys: Iterable[str]) -> list[str]:
    """Keys that name columns; those with "@" or ":" belong to JSON-LD."""
    return [key for key in keys if "@" not in key and ":" not in key]


def json_tables(path: Path, stream: Bytes, names: list[str], wanted: list[str]) -> Iterator[pa.Table]:
    """Tables of strings of the columns `wanted`.

    Raises ReleaseError for a key that is not in `names`, or a value that is neither a text nor a number.
    """
    schema = pa.schema([(name, pa.string()) for name in wanted])
    known, rows = set(names), []
    for row, record in enumerate(read_records(path, stream), start=1):
        unknown = [key for key in plain_keys(record) if key not in known]
        if unknown:
            raise ReleaseError(f"{path.name}, row {row}: the first object has no key {unknown[0]!r}.")
        for name in wanted:
            value = record.get(name)
            if not isinstance(value, str | None):
                raise ReleaseError(f"{path.name}, row {row}: {name} is {value!r}, not a text or a number.")
            if value and not value.isascii() and _SURROGATE.search(value):
                raise ReleaseError(f"{path.name}, row {row}: {name} is {value!r}, with half of a character.")
        rows.append({name: record.get(name) or None for name in wanted})
        if len(rows) == _RECORDS:
            yield pa.Table.from_pylist(rows, schema)
            rows = []
    if rows:
        yield pa.Table.from_pylist(rows, schema)


def first_keys(path: Path, start: bytes) -> list[str]:
    """Column names: the keys of the first object. `start` is the beginning of the file."""
    decoder = json.JSONDecoder(object_pairs_hook=lambda pairs: pairs, parse_int=str, parse_float=str)
    text = start.decode("utf-8", "replace")
    try:
        pairs = decoder.raw_decode(text, _BETWEEN.match(text).end())[0]  # type: ignore[union-attr]
    except (json.JSONDecodeError, RecursionError) as error:
        if not text.strip(" \n\t\r[]"):
            return []
        raise ReleaseError(f"{path} is not one JSON object per row ({error}).") from None
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):
        raise ReleaseError(f"{path} holds {str(pairs)[:60]!r} where an object was expected.")
    names = plain_keys(key for key, _ in pairs)
    if wrong := [name for name in names if _SURROGATE.search(name)]:
        raise ReleaseError(f"{path} has a key {wrong[0][:80]!r}, with half of a character.")
    return names


_SURROGATE = re.compile("[\ud800-\udfff]")
_BETWEEN = re.compile(r"[\s,\[\]]*")


def read_records(path: Path, stream: Bytes) -> Iterator[dict[str, Any]]:
    """Objects of an array or sequence, one at a time; numbers stay as they are written."""
    decoder = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=lambda name: None)
    decode = codecs.getincrementaldecoder("utf-8")().decode
    waiting, last = "", ""
    array, started = False, False
    place, ended = 0, False
    while True:
        match = _BETWEEN.match(waiting, place)
        place = match.end() if match else place
        try:
            record, place = decoder.raw_decode(waiting, place)
        except RecursionError:
            raise ReleaseError(f"{path} is nested too deeply at {waiting[place : place + 60]!r}.") from None
        except json.JSONDecodeError as error:
            if place < len(waiting) and (ended or len(waiting) - place > LONGEST_RECORD):
                what = "is cut off or damaged" if ended else "is not one object per row"
                raise ReleaseError(f"{path} {what} at {waiting[place : place + 60]!r} ({error.msg}).") from error
            last = waiting[:place].rstrip()[-1:] or last
            if ended:
                break
            more = stream.read(_BLOCK_BYTES)
            try:
                waiting = waiting[place:] + decode(more, final=not more)
            except UnicodeDecodeError as error:
                start = error.object[max(0, error.start - 20) : error.end + 20]
                raise not_utf8(path, "text", start) from None
            place, ended = 0, not more
            if not started and waiting.strip():
                array, started = waiting.lstrip()[0] == "[", True
            continue
        if not isinstance(record, dict):
            raise ReleaseError(f"{path} holds {record!r} where an object was expected.")
        yield record
    if array and last != "]":
        raise ReleaseError(f"{path} cannot be read to its end: its array is not closed. Is it complete?")
