"""Photos to be named, and their vectors. A photo that cannot be read gets a status and never stops the others.

Shape letters: n = photos, D = embedding size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import nn

from ..barcodes import spelled
from ..dataset.load import load_bioscan5m
from ..encoders.batches import embed_photos, inference, resolve_dtype
from ..labels import Cleaned, taxon_name
from ..models.pixels import photo_pixels
from ..progress import Progress, silent
from ..release.column_names import Rivals, listed, our_columns, spelt
from ..release.rows import cleaning
from ..release.tables import read_strings
from ..schema import LABEL_COLUMNS, MISSING_MARKERS
from .photo_files import PHOTO_NAMES, has_photo_column, is_folder_of_photos, named_photos

_AT_ONCE = 64

#: A network and its processor.
Encoder = tuple[nn.Module, Any]


@dataclass
class Specimens:
    """Specimens to be named.

    Attributes:
        ids: Their names (n,).
        photos: Column of paths, encoded bytes, or structs of `datasets` with both; None without photos.
        reads: Their sequences (n,); None without sequences.
        labels: `LABEL_COLUMNS`, of datasets and of tables with ranks; None elsewhere.
    """

    ids: list[str]
    photos: Any
    reads: pa.ChunkedArray | None = None
    labels: pa.Table | None = None

    def __len__(self) -> int:
        return len(self.ids)


def read_specimens(
    source: str | Path,
    *,
    config: str | None = None,
    split: str | None = None,
    id_column: str | None = None,
    sequence_column: str | None = None,
    encoding: str = "utf-8",
) -> Specimens:
    """Specimens of a folder of photos, a table with a column of photos, or a dataset.

    Args:
        source: Folder of photos, whose names are the ids, see `named_photos`; CSV or TSV with an id, the file of a
            photo (relative to the table) and perhaps a sequence; or a source of `load_bioscan5m`.
        config: Photos of a dataset, such as "cropped_256"; by default the first that it has.
        split: Splits of a dataset; all records by default.
        id_column, sequence_column: Columns of a table, if they have no usual name.

    Raises:
        FileNotFoundError: if there is nothing at `source`.
        ValueError: if it has no photos, or a table has no ids.
    """
    path = Path(source)
    if is_folder_of_photos(path):
        files = named_photos(path)
        return Specimens(list(files), list(files.values()))
    if path.is_file() and has_photo_column(path, encoding):
        return _of_table(path, id_column, sequence_column, encoding)
    return _of_dataset(source, config, split or "all")


def _of_table(path: Path, id_column: str | None, sequence_column: str | None, encoding: str) -> Specimens:
    table = pa.concat_tables(part for _, part in read_strings(path, (), encoding=encoding))
    names = table.column_names
    chosen = {given: name for given, name in ((id_column, "processid"), (sequence_column, "dna_barcode")) if given}
    if lacking := [given for given in chosen if given not in names]:
        raise ValueError(f"{str(path)!r} has no column {lacking[0]!r}; it has {listed(names)}.")
    ours = our_columns(path, names, chosen)
    photo = next((name for usual in PHOTO_NAMES for name in names if spelt(name) == usual), None)
    if photo is None or "processid" not in ours:
        raise ValueError(f"{str(path)!r} needs a column of ids and one of photos ({', '.join(PHOTO_NAMES)}).")
    read = [name for name in ("processid", "dna_barcode", *LABEL_COLUMNS) if name in ours]
    Rivals(path, names, {name: ours[name] for name in read}, list(chosen.values())).check(1, table, cleaning)
    cells = [(cell or "").strip() for cell in table[photo].to_pylist()]
    files = [None if cell.lower() in MISSING_MARKERS else path.parent / cell for cell in cells]
    reads = None if "dna_barcode" not in ours else pa.chunked_array([spelled(table[ours["dna_barcode"]])])
    ids = ["" if one is None else one for one in table[ours["processid"]].to_pylist()]
    return Specimens(ids, files, reads, _labels(table, ours))


def _labels(table: pa.Table, ours: Mapping[str, str]) -> pa.Table | None:
    """`LABEL_COLUMNS` of a table, without markers of missing names; None if it has no rank."""
    there = {rank: Cleaned(taxon_name)(table[ours[rank]]) for rank in LABEL_COLUMNS if rank in ours}
    nothing = pa.nulls(len(table), pa.string())
    return pa.table({rank: there.get(rank, nothing) for rank in LABEL_COLUMNS}) if there else None


def _of_dataset(source: str | Path, config: str | None, split: str) -> Specimens:
    columns = ["processid", "image", "dna_barcode", *LABEL_COLUMNS]
    problem: ValueError | None = None
    for name in (config,) if config else ("cropped_256", "original_256", "cropped", "original_full"):
        try:
            data = load_bioscan5m(source, name, split, columns=columns, max_nucleotides=None)
        except ValueError as error:
            problem = error
            continue
        arrow = data.with_format("arrow")
        texts = arrow.select_columns([column for column in columns if column != "image"])[:]
        photos = arrow.select_columns(["image"])
        return Specimens(texts["processid"].to_pylist(), photos, texts["dna_barcode"], texts.select(LABEL_COLUMNS))
    raise ValueError(f"{str(source)!r} has no photos. {problem}")


def photo_vectors(
    encoder: Encoder, photos: Any, names: Sequence[str], *, progress: Progress = silent
) -> tuple[NDArray[np.float32], list[str]]:
    """Vectors (n, D) of photos, zeros where there is none, and the status of each: ok, no_photo or unreadable.

    Args:
        photos: As of `Specimens`, or a sequence of what `photo_pixels` takes.
        names: What to call each photo in an error (n,).

    Raises:
        ValueError: if the encoder gives NaN.
    """
    model, processor = encoder
    status: list[str] = []
    vectors: list[NDArray[np.float32]] = []
    places: list[int] = []
    with inference(model):
        for start in range(0, len(names), _AT_ONCE):
            called = names[start : start + _AT_ONCE]
            loaded = [loaded_photo(photo) for photo in part_of(photos, start, len(called))]
            good, inputs, told = _decoded(processor, loaded, called)
            status += told
            if good:
                batch = [(called, [b""] * len(good))]
                here = embed_photos(
                    model, lambda photos, names, inputs=inputs: inputs, batch, dtype=resolve_dtype(model, "auto")
                )
                if not np.isfinite(here).all():
                    raise ValueError("The encoder gives NaN or infinite vectors of photos. Check its weights.")
                vectors.append(here)
                places += [start + i for i in good]
            progress("photos", len(status), len(names))
    every = np.zeros((len(names), vectors[0].shape[1] if vectors else 1), np.float32)
    if vectors:
        every[places] = np.concatenate(vectors)
    return every, status


def part_of(photos: Any, start: int, size: int) -> list[Any]:
    """Some photos in a row, of those of `Specimens`."""
    if hasattr(photos, "select_columns"):  # a dataset
        photos = photos.select_columns(["image"]).with_format("arrow")
        return photos[start : start + size]["image"].to_pylist()
    part = photos[start : start + size]
    return part.to_pylist() if isinstance(part, pa.Array | pa.ChunkedArray) else list(part)


def loaded_photo(photo: Any) -> bytes | NDArray[np.uint8] | str:
    """Encoded bytes or pixels of a photo, or its status."""
    if isinstance(photo, Mapping):
        photo = photo["path"] if photo["bytes"] is None else photo["bytes"]
    if photo is None or isinstance(photo, float) or (isinstance(photo, str | bytes) and not photo):
        return "no_photo"  # a float is NaN in a column of pandas
    try:
        if isinstance(photo, str | Path):
            return Path(photo).read_bytes()
        return photo if isinstance(photo, bytes) else photo_pixels(photo)
    except OSError:
        return "no_photo"
    except (ValueError, TypeError):
        return "unreadable"


def _decoded(
    processor: Any, loaded: Sequence[Any], names: Sequence[str]
) -> tuple[list[int], Mapping[str, Any], list[str]]:
    """Places of the photos that can be decoded, the model's inputs of them, and the status of all."""
    status = [one if isinstance(one, str) else "ok" for one in loaded]
    good = [i for i, text in enumerate(status) if text == "ok"]
    try:
        return good, _inputs(processor, loaded, names, good), status
    except ValueError:
        for i in good:
            try:
                processor([loaded[i]], [names[i]])
            except ValueError:
                status[i] = "unreadable"
    good = [i for i in good if status[i] == "ok"]
    return good, _inputs(processor, loaded, names, good), status


def _inputs(processor: Any, loaded: Sequence[Any], names: Sequence[str], good: Sequence[int]) -> Mapping[str, Any]:
    return processor([loaded[i] for i in good], [names[i] for i in good]) if good else {}
