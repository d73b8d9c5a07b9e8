"""Opens libraries of references in folders or on the Hub, or makes one from files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import is_hub_id
from ..progress import Progress, silent
from .base import Library, files_of, folder_of
from .library import ReferenceLibrary
from .stored import is_library, is_library_of_photos

if TYPE_CHECKING:
    import pyarrow as pa

    from .embeddings import EmbeddingLibrary
    from .joint import JointLibrary


def open_library(source: str | Path, *, model: str | None = None, **options: Any) -> Library:
    """Opens a finished library of sequences or of photos.

    Args:
        source: Folder, or id on the Hub.
        model: The encoder that the library was made with, if it needs one.
        options: revision, token and cache_dir of a library on the Hub.

    Raises:
        FileNotFoundError, ValueError, ConnectionError, PermissionError: as of `ReferenceLibrary.from_pretrained`.
    """
    folder = folder_of(source, **options)
    if is_library_of_photos(folder):
        from .embeddings import EmbeddingLibrary

        return EmbeddingLibrary.from_pretrained(folder, model=model)
    return ReferenceLibrary.from_pretrained(folder, model=model)


def identify(
    reads: Any,
    references: ReferenceLibrary | str | Path | Sequence[str | Path],
    *,
    model: str | None = None,
    **options: Any,
) -> pa.Table:
    """Names reads with a confidence at every rank, see `ReferenceLibrary.identify`.

    Args:
        reads: As of `base.reads_table`.
        references: A library, its folder or Hub id, or files of `read_references`.
        model: The encoder of the library, if it needs one.
        options: Of `ReferenceLibrary.identify`: ids, least, novel_share, progress.

    Raises:
        FileNotFoundError, ValueError: as `open_references` and `ReferenceLibrary.identify`.
    """
    if not isinstance(references, ReferenceLibrary):
        references = open_references(references, model=model)
    return references.identify(reads, **options)


def open_references(
    sources: str | Path | Sequence[str | Path],
    *,
    model: str | None = None,
    progress: Progress = silent,
    seed: int = 0,
    **options: Any,
) -> ReferenceLibrary:
    """The library of sequences in a folder or on the Hub, or one made of files.

    Arguments and errors as of `ReferenceLibrary.from_files`; ValueError for a library of photos.
    """
    files = files_of(sources, finished=True)
    if len(files) == 1 and (is_library(files[0]) or _is_on_hub(files[0])):
        if given := [name for name in ("format", "ranks", "split") if options.get(name)]:
            raise ValueError(
                f"{files[0]!r} is a finished library: --{' and --'.join(given)} would do nothing. Leave it out, "
                f"or make another library of the files."
            )
        library = open_library(files[0], model=model)
        if not isinstance(library, ReferenceLibrary):
            raise ValueError(f"{files[0]!r} is a library of photos: it names photos, not sequences.")
        return library
    return ReferenceLibrary.from_files(files, model=model, progress=progress, seed=seed, **options)


def open_for_specimens(
    sources: Sequence[str],
    *,
    with_reads: bool,
    model: str | None = None,
    config: str | None = None,
    keys: str = "image",
    progress: Progress = silent,
    seed: int = 0,
    **options: Any,
) -> EmbeddingLibrary | JointLibrary:
    """What names specimens by their photos, and by their sequences if they have some.

    Args:
        sources: Finished libraries, of photos or sequences or one of each; and files, of which both are made.
        with_reads: Whether the specimens have sequences.
        model: Encoder of photos.
        config, keys: As of `photo_references.read_vectors`.
        options: Of `read_references`.

    Raises:
        FileNotFoundError, ValueError: as `open_library` and `read_vectors`; for two libraries of one kind, or none of
            photos.
    """
    from .embeddings import EmbeddingLibrary
    from .joint import JointLibrary

    finished = [source for source in sources if is_library(source) or _is_on_hub(source)]
    files = [source for source in sources if source not in finished]
    photos: list[EmbeddingLibrary] = []
    sequences: list[ReferenceLibrary] = []
    for source in finished:
        library = open_library(source, model=model if of_photos(source) else None)
        if isinstance(library, EmbeddingLibrary):
            photos.append(library)
        else:
            assert isinstance(library, ReferenceLibrary)
            sequences.append(library)
    if files and not photos:
        how: dict[str, Any] = {"split": options.get("split"), "encoding": options.get("encoding", "utf-8")}
        photos.append(
            EmbeddingLibrary.from_files(
                files, model=model, config=config, keys=keys, progress=progress, seed=seed, **how
            )
        )
    if files and with_reads and not sequences:
        sequences.append(ReferenceLibrary.from_files(files, progress=progress, seed=seed, **options))
    if len(photos) > 1 or len(sequences) > 1:
        raise ValueError("Give at most one library of photos and one of sequences.")
    if not photos:
        raise ValueError(
            "Photos are named by a library of photos: make one by `bioscan-hf references SOURCE LIBRARY --config "
            "cropped_256 --model MODEL`."
        )
    return JointLibrary(sequences[0], photos[0]) if sequences else photos[0]


def of_photos(source: str) -> bool:
    """Whether a source is a finished library of photos, in a folder or on the Hub."""
    if is_library(source):
        return is_library_of_photos(source)
    return _is_on_hub(source) and is_library_of_photos(folder_of(source))


def _is_on_hub(name: str) -> bool:
    if not is_hub_id(name):
        return False  # without the client of the Hub, which takes longer to import than a folder to open
    from .publish import is_on_hub

    return is_on_hub(name)
