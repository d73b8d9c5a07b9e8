"""Problems found in a release, and what to do with them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Problem:
    """A fault in a release, and its consequence for the row."""

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
    """A release that cannot be read. The message is one line, also where a library's error is part of it."""

    def __init__(self, message: str):
        super().__init__(re.sub(r"\s*[\r\n]+\s*", " ", message))


#: First bytes of a file -> its compression.
_COMPRESSIONS = {
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"(\xb5/\xfd": "zstandard",
    b"7z\xbc\xaf": "7z",
}


#: Members of a workbook at the beginning of its file.
_OF_BOOKS = (b"[Content_Types].xml", b"docProps/", b"_rels/.rels", b"xl/", b"mimetypeapplication/vnd.oasis")


def is_utf16(start: bytes) -> bool:
    """Whether a file that begins with `start` seems to be text in UTF-16 without its mark: letters and NUL in turn."""
    halves = start[:200:2], start[1:200:2]
    return len(start) > 7 and any(
        nul.count(0) > 0.8 * len(nul) and all(byte in b"\t\r\n" or byte > 31 for byte in other)
        for nul, other in (halves, halves[::-1])
    )


def other_format(start: bytes, *, zips: bool = False) -> str | None:
    """What a file is that begins with `start`, and what to do; None for text and gzip, and with `zips` for a zip."""
    if start.startswith(b"PAR1"):
        return "is Parquet. Save it as CSV"
    if start.startswith(b"\xd0\xcf\x11\xe0") or start.startswith(b"PK\x03\x04") and any(x in start for x in _OF_BOOKS):
        return "is a workbook. Save its sheet as CSV"
    if start.startswith(b"PK\x03\x04") and b"/VERSION" in start[:120]:
        return "is an artifact of QIIME 2. Export what it holds by qiime tools export"
    if start.startswith(b"\x89HDF") or b"Biological Observation Matrix" in start[:300]:
        return "is BIOM or HDF5. Export it as a table by biom convert --to-tsv"
    for magic, name in _COMPRESSIONS.items():
        if start.startswith(magic) and not (zips and name == "zip"):
            return f"is compressed with {name}. Decompress it, or use gzip"
    return None


def not_utf8(path: Path, where: str, data: bytes) -> ReleaseError:
    """The error for bytes that are not UTF-8."""
    return ReleaseError(
        f"{path.name}, {where}: {data.decode('latin-1')[:60]!r} is not UTF-8. Save the file as UTF-8, or give its "
        f"encoding, such as --encoding latin-1 (in Python encoding='latin-1'; before load_bioscan5m, build it with "
        f"its encoding)."
    )


def stop(problem: Problem, command: str = "build") -> None:
    """Raises the problem as a ReleaseError, with advice on --keep-going of `command`."""
    raise ReleaseError(
        f"{problem}. Correct it, or leave it out (bioscan-hf {command} --keep-going, in Python keep_going=True)."
    )


def refuse(problem: Problem) -> None:
    """Raises the problem as a ReleaseError, where nothing is left out."""
    raise ReleaseError(f"{problem}. Correct the file.")
