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


def not_utf8(path: Path, where: str, data: bytes) -> ReleaseError:
    """The error for bytes that are not UTF-8."""
    return ReleaseError(
        f"{path.name}, {where}: {data.decode('latin-1')[:60]!r} is not UTF-8. Save the file as UTF-8, or give its "
        f"encoding, such as --encoding latin-1 (in Python encoding='latin-1'; before load_bioscan5m, build it with "
        f"its encoding)."
    )


def stop(problem: Problem) -> None:
    """Raises the problem as a ReleaseError: the default wherever a release is read."""
    raise ReleaseError(f"{problem}. Correct it, or continue without it (--keep-going, keep_going=True).")


def refuse(problem: Problem) -> None:
    """Raises the problem as a ReleaseError, where nothing is left out."""
    raise ReleaseError(f"{problem}. Correct the file.")
