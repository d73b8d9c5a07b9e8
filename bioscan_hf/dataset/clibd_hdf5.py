"""CLIBD's HDF5 split files as a `datasets.Dataset` with the columns of BIOSCAN-5M.

A column that a file does not have is null; image_file follows. Source: https://arxiv.org/abs/2405.17537 (its files of
BIOSCAN-1M and BIOSCAN-5M alike).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..labels import LabelMaps
from ..release.columns import features
from ..release.photos import check_jpeg
from ..release.problems import ReleaseError
from ..release.tables import csv_columns, read_strings
from ..release.zips import LARGEST_PHOTO
from ..schema import MAX_NUCLEOTIDES, NOT_CLASSIFIED
from .blocks import CLIBD_ALIASES, PHOTO_ROWS, BlockSource, Values, add_photos, load, refuse, to_columns

RANKS = ("order", "family", "genus", "species")

#: Columns that are read.
COLUMNS = ("processid", "sampleid", *RANKS, "dna_bin", "barcode", "image_file")


def load_clibd_hdf5(
    path: str | Path,
    split: str | None = None,
    *,
    images: bool = True,
    bins: str | Path | None = None,
    streaming: bool = False,
    ranks: Sequence[str] | None = None,
    max_nucleotides: int | None = MAX_NUCLEOTIDES,
    unique_barcodes: bool = False,
) -> Any:
    """Loads a CLIBD split file as a `Dataset`, or an `IterableDataset` if streamed.

    Without `split`, the result is a dict of its groups. JPEG bytes are cut to the length in the file and otherwise
    untouched; "not_classified" is null. Token ids and features in a file are not read. Needs h5py: `pip install
    bioscan_hf[hdf5]`.

    Args:
        split: A group of the file, such as "no_split_and_seen_train" or "all_keys", its BIOSCAN-5M name (train, val,
            test, pretrain, key_unseen), or several joined by "+". Groups overlap, so "all" is not allowed.
        images: False leaves the photos out.
        bins: A CSV or TSV with the BIN (uri or dna_bin) of each sampleid or, without that column, processid. Rows are
            joined by that id. For files without `dna_bin`.
        ranks: order, family, genus, species or "dna_bin", whose label ids are added as `<rank>_index`; the ids are
            those of all groups of the file.
        streaming, max_nucleotides, unique_barcodes: As in `load_bioscan5m`.

    Raises:
        ValueError: for an unknown split or rank; the message lists the alternatives.
        FileNotFoundError: if there is no such file.
        ImportError: without h5py.
        ReleaseError: if the file is not a split file of CLIBD, a photo is damaged, or `bins` does not name a specimen.
    """
    return load(_source(path, images, bins), split, streaming, ranks, max_nucleotides, unique_barcodes)


def clibd_label_maps(path: str | Path, bins: str | Path | None = None) -> LabelMaps:
    """The label ids of all groups of a split file of CLIBD. `bins` as in `load_clibd_hdf5`."""
    return _source(path, False, bins).scan()[0]


def _source(path: str | Path, images: bool, bins: str | Path | None) -> BlockSource:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No file {str(path)!r}: give one of CLIBD's HDF5 files.")
    with _opened(path) as file:
        groups = tuple(name for name, group in file.items() if {"barcode", "order"} <= set(group))
    if not groups:
        raise ReleaseError(f"{path} is not a split file of CLIBD: none of its groups holds `barcode` and `order`.")
    config = "cropped" if images else "dna"
    return BlockSource(
        "CLIBD",
        _read,
        {"path": str(path), "bins": None if bins is None else str(bins), "config": config},
        features(config, ("image_file",)),
        groups,
        (path,) if bins is None else (path, Path(bins)),
        labels=(*RANKS, "dna_bin"),
        aliases=CLIBD_ALIASES,
        complete=True,
    )


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    """The open file. What h5py raises for a damaged part is a ReleaseError."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError("HDF5 files need h5py: `pip install bioscan_hf[hdf5]`.") from error
    try:
        with h5py.File(path, "r") as file:
            yield file
    except ReleaseError:
        raise
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, MemoryError) as error:
        raise ReleaseError(f"{path} is not a readable HDF5 file ({error}).") from error


def _read(path: str, bins: str | None, config: str, splits: Sequence[str]) -> Iterator[pa.Table]:
    known = None if bins is None else _bins(Path(bins))
    with _opened(path) as file:
        for split in splits:
            if split not in file:
                continue
            group = file[split]
            step = _rows_at_once(group, path, config)
            for start in range(0, len(group["barcode"]), step):
                rows = slice(start, start + step)
                columns = {name: _texts(group[name][rows]) for name in COLUMNS if name in group}
                columns["dna_barcode"] = columns.pop("barcode")
                columns["split"] = pa.array([split] * len(columns["dna_barcode"]), pa.string())
                if known is not None:
                    key, values = known
                    if key not in columns:
                        raise ReleaseError(f"{path} has no {key}, the id by which {bins} names BINs.")
                    columns["dna_bin"] = values.of(pa.chunked_array([columns[key]]))
                columns.setdefault("image_file", pa.nulls(len(columns["split"]), pa.string()))
                table = to_columns(pa.table(columns))
                yield table if config == "dna" else add_photos(table, _photos(group, rows, path))


def _texts(values: Any) -> pa.Array:
    texts = pa.array([value.decode("utf-8") for value in values], pa.string())
    missing = pc.is_in(texts, pa.array(["", NOT_CLASSIFIED]))
    return pc.if_else(missing, pa.scalar(None, pa.string()), texts)


def _rows_at_once(group: Any, path: str, config: str) -> int:
    """Rows of a group that are read together: their photos have at most `LARGEST_PHOTO` bytes.

    Raises ReleaseError if a value, or a block of the file, has more, or there are more rows than the file can hold.
    """
    if len(group["barcode"]) > 10 * Path(path).stat().st_size:
        raise ReleaseError(f"{path}:{group.name} tells of {len(group['barcode']):,} rows, more than it can hold.")
    names = [name for name in ("barcode", *COLUMNS) if name in group] + ["image"] * (config != "dna")
    widest = 1
    for name in names:
        values = group[name]
        width = int(np.prod(values.shape[1:])) * values.dtype.itemsize
        block = int(np.prod(values.chunks or (1,))) * values.dtype.itemsize
        if max(width, block) > LARGEST_PHOTO:
            raise ReleaseError(
                f"{path}:{group.name}/{name} holds photos or blocks of {max(width, block):,} bytes; at most "
                f"{LARGEST_PHOTO:,} bytes are read."
            )
        widest = max(widest, width)
    return max(1, min(10_000 if config == "dna" else PHOTO_ROWS, LARGEST_PHOTO // widest))


def _photos(group: Any, rows: slice, path: str) -> list[bytes]:
    photos = []
    for i, (data, length) in enumerate(zip(group["image"][rows], group["image_mask"][rows], strict=True)):
        photos.append(data[: int(length)].tobytes())
        check_jpeg(photos[-1], f"{path}:{group.name}/image[{rows.start + i}]")
    return photos


def _bins(path: Path) -> tuple[str, Values]:
    """The id column, and the BIN of each id."""
    names = csv_columns(path)
    key = "sampleid" if "sampleid" in names else "processid"
    column = "dna_bin" if "dna_bin" in names else "uri"
    table = pa.concat_tables(block for _, block in read_strings(path, (key, column), (key, column), refuse))
    missing = pc.fill_null(pc.equal(table[column], NOT_CLASSIFIED), True)
    values = pc.if_else(missing, pa.scalar(None, pa.string()), table[column])
    return key, Values(table[key], values, path)
