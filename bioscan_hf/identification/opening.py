"""Opens libraries of references: folders, ids on the Hub, and files of which a library is made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..progress import Progress, silent
from .library import ReferenceLibrary
from .publish import is_on_hub
from .stored import is_library


def open_library(
    source: str | Path, *, model: str | None = None, revision: str | None = None, **options: Any
) -> ReferenceLibrary:
    """Opens a finished library; arguments and errors as of `ReferenceLibrary.from_pretrained`."""
    return ReferenceLibrary.from_pretrained(source, model=model, revision=revision, **options)


def open_references(
    sources: Sequence[str], *, model: str | None = None, progress: Progress = silent, seed: int = 0, **options: Any
) -> ReferenceLibrary:
    """The library of a folder or of the Hub, or one made of files; arguments as of `ReferenceLibrary.from_files`."""
    if len(sources) == 1 and (is_library(sources[0]) or is_on_hub(sources[0])):
        if given := [name for name in ("format", "ranks", "split") if options.get(name)]:
            raise ValueError(
                f"{sources[0]!r} is a finished library: --{' and --'.join(given)} would do nothing. Leave it out, "
                f"or make another library of the files."
            )
        return open_library(sources[0], model=model)
    return ReferenceLibrary.from_files(sources, model=model, progress=progress, seed=seed, **options)
