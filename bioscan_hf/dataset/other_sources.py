"""Canadian Invertebrates and CLIBD's HDF5 files as a `datasets.Dataset` with the columns of BIOSCAN-5M.

A column that a source lacks is null; one that BIOSCAN-5M lacks (sequence_len, image_file) follows the others.
Sources: Canadian Invertebrates https://arxiv.org/abs/2311.02401 (CanInv_metadata.csv), CLIBD
https://arxiv.org/abs/2405.17537 (its split files, of BIOSCAN-1M and BIOSCAN-5M alike). BIOSCAN-1M: `bioscan1m`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ..labels import LabelMaps
from ..release.check import UNASSIGNED, ReleaseError, check_jpeg, csv_columns, features, read_strings
from ..schema import COLUMNS, MAX_NUCLEOTIDES, METASPLITS, NOT_CLASSIFIED, SPLIT_ALIASES
from .blocks import (
    CLIBD_ALIASES,
    PHOTO_ROWS,
    Source,
    Values,
    check_splits,
    find_file,
    load,
    lookup,
    refuse,
    scan,
    to_columns,
    values_by_id,
)

CANADIAN_INVERTEBRATES_CSV = "CanInv_metadata.csv"
CANADIAN_SPLITS = ("pretrain", "train", "val", "test", "test_unseen")
CANADIAN_NAMES = {"bin_uri": "dna_bin", "nucleotides": "dna_barcode"}

CLIBD_RANKS = ("order", "family", "genus", "species")
CLIBD_COLUMNS = ("processid", "sampleid", *CLIBD_RANKS, "dna_bin", "barcode", "image_file")
CLIBD_NAMES = {"barcode": "dna_barcode"}


def load_canadian_invertebrates(
    source: str | Path,
    config: str = "dna",
    split: str | None = None,
    *,
    streaming: bool = False,
    ranks: Sequence[str] | None = None,
    max_nucleotides: int | None = MAX_NUCLEOTIDES,
    unique_barcodes: bool = False,
) -> Any:
    """A `Dataset` or, streamed, an `IterableDataset` of Canadian Invertebrates; without `split`, a dict of them.

    Args:
        source: CanInv_metadata.csv, or the folder that holds it (or CanadianInvertebrates/ with it).
        config: "dna"; there are no photos.
        split: pretrain, train, val (or validation), test, test_unseen, "seen" (train, val, test), "unseen"
            (test_unseen), "all", or several joined by "+".
        ranks, streaming, max_nucleotides, unique_barcodes: As in `load_bioscan5m`; there is no subfamily.

    Raises:
        ValueError: unknown split or rank, or a config with photos.
        FileNotFoundError: if the CSV is not there.
        ReleaseError: a damaged file.
    """
    if config != "dna":
        raise ValueError(f"Canadian Invertebrates has no config {config!r}: it has no photos. Use config='dna'.")
    return load(_canadian_invertebrates(source), split, streaming, ranks, max_nucleotides, unique_barcodes)


def canadian_invertebrates_label_maps(source: str | Path) -> LabelMaps:
    """The label ids of Canadian Invertebrates, over every row."""
    return scan(_canadian_invertebrates(source))[0]


def _canadian_invertebrates(source: str | Path) -> Source:
    name = CANADIAN_INVERTEBRATES_CSV
    path = find_file(source, (name, f"CanadianInvertebrates/{name}"))
    columns = [CANADIAN_NAMES.get(name, name) for name in csv_columns(path)]
    extra = [name for name in columns if name not in COLUMNS]
    metasplits = {"all": CANADIAN_SPLITS, "seen": METASPLITS["seen"], "unseen": ("test_unseen",)}
    return Source(
        "Canadian Invertebrates",
        _read_canadian_invertebrates,
        {"path": str(path), "config": "dna"},
        features("dna", extra),
        CANADIAN_SPLITS,
        (path,),
        metasplits=metasplits,
        aliases={alias: (name,) for alias, name in SPLIT_ALIASES.items()},
    )


def _read_canadian_invertebrates(path: str, config: str, splits: Sequence[str]) -> Iterator[pa.Table]:
    for _, table in read_strings(path, ("processid", "split"), report=refuse):
        table = table.rename_columns([CANADIAN_NAMES.get(name, name) for name in table.column_names])
        check_splits(table, "split", CANADIAN_SPLITS, Path(path))
        table = table.filter(pc.is_in(pc.fill_null(table["split"], UNASSIGNED), pa.array(splits)))
        yield to_columns(table, [name for name in table.column_names if name not in COLUMNS])


# ---- CLIBD's HDF5 files --------------------------------------------------------------------------------------------


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
    """A `Dataset` or, streamed, an `IterableDataset` of a split file of CLIBD; without `split`, a dict of its groups.

    JPEG bytes are cut to the length the file tells and else untouched; "not_classified" is null. Token ids and
    features that a file may hold are not read. Needs h5py: `pip install bioscan_hf[hdf5]`.

    Args:
        split: A group of the file, such as "no_split_and_seen_train" or "all_keys", the BIOSCAN-5M name of one (train,
            val, test, pretrain, key_unseen), or several joined by "+". Groups overlap, so there is no "all".
        images: False leaves the photos out.
        bins: A CSV or TSV with the BIN (uri or dna_bin) of each sampleid or, without that column, processid: joined to
            the rows by that id, whatever its order. For files without `dna_bin`.
        ranks: order, family, genus, species or "dna_bin", whose label ids are added as `<rank>_index`: those of all
            groups of the file.
        streaming, max_nucleotides, unique_barcodes: As in `load_bioscan5m`.

    Raises:
        ValueError: unknown split or rank; the alternatives are listed.
        FileNotFoundError: no such file.
        ImportError: without h5py.
        ReleaseError: no split file of CLIBD, a damaged photo, or a specimen that `bins` does not know.
    """
    source = _clibd(path, images, bins)
    return load(source, split, streaming, ranks, max_nucleotides, unique_barcodes)


def clibd_label_maps(path: str | Path, bins: str | Path | None = None) -> LabelMaps:
    """The label ids of a split file of CLIBD, over all its groups; `bins` as in `load_clibd_hdf5`."""
    return scan(_clibd(path, False, bins))[0]


def _h5py() -> ModuleType:
    try:
        import h5py
    except ImportError as error:
        raise ImportError("HDF5 files need h5py: `pip install bioscan_hf[hdf5]`.") from error
    return h5py


def _clibd(path: str | Path, images: bool, bins: str | Path | None) -> Source:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No file {str(path)!r}: give one of CLIBD's HDF5 files.")
    with _open_hdf5(path) as file:
        groups = tuple(name for name, group in file.items() if {"barcode", "order"} <= set(group))
    if not groups:
        raise ReleaseError(f"{path} is no split file of CLIBD: none of its groups holds `barcode` and `order`.")
    config = "cropped" if images else "dna"
    about = {"path": str(path), "bins": None if bins is None else str(bins), "config": config}
    files = (path,) if bins is None else (path, Path(bins))
    labels = (*CLIBD_RANKS, "dna_bin")
    types = features(config, ("image_file",))
    return Source("CLIBD", _read_clibd, about, types, groups, files, labels, aliases=CLIBD_ALIASES, complete=True)


def _open_hdf5(path: str | Path) -> Any:
    try:
        return _h5py().File(path, "r")
    except OSError as error:
        raise ReleaseError(f"{path} is no readable HDF5 file ({error}).") from error


def _read_clibd(path: str, bins: str | None, config: str, splits: Sequence[str]) -> Iterator[pa.Table]:
    known = None if bins is None else _bins(Path(bins))
    with _open_hdf5(path) as file:
        for split in splits:
            if split not in file:
                continue
            group = file[split]
            names = {name: CLIBD_NAMES.get(name, name) for name in CLIBD_COLUMNS if name in group}
            step = PHOTO_ROWS if config != "dna" else 10_000
            for start in range(0, len(group["barcode"]), step):
                rows = slice(start, start + step)
                columns = {new: _texts(group[old][rows]) for old, new in names.items()}
                columns["split"] = pa.array([split] * len(columns["dna_barcode"]), pa.string())
                if known is not None:
                    key, values = known
                    if key not in columns:
                        raise ReleaseError(f"{path} has no {key}, the column by which {bins} tells BINs.")
                    columns["dna_bin"] = lookup(pa.chunked_array([columns[key]]), values)
                table = to_columns(pa.table(columns), ("image_file",))
                yield table if config == "dna" else table.add_column(0, "image", _photos(group, rows, path, table))


def _texts(values: Any) -> pa.Array:
    texts = pa.array([value.decode("utf-8") for value in values], pa.string())
    missing = pc.is_in(texts, pa.array(["", NOT_CLASSIFIED]))
    return pc.if_else(missing, pa.scalar(None, pa.string()), texts)


def _photos(group: Any, rows: slice, path: str, table: pa.Table) -> pa.Array:
    padded, lengths = group["image"][rows], group["image_mask"][rows]
    photos = []
    for i, (data, length) in enumerate(zip(padded, lengths, strict=True)):
        jpeg = data[: int(length)].tobytes()
        check_jpeg(jpeg, f"{path}:{group.name}/image[{rows.start + i}]")
        photos.append({"bytes": jpeg, "path": table["image_file"][i].as_py()})
    return pa.array(photos, pa.struct({"bytes": pa.binary(), "path": pa.string()}))


def _bins(path: Path) -> tuple[str, Values]:
    """The id column, and the BIN of each id."""
    names = csv_columns(path)
    key = "sampleid" if "sampleid" in names else "processid"
    column = "dna_bin" if "dna_bin" in names else "uri"
    table = pa.concat_tables(block for _, block in read_strings(path, (key, column), (key, column), refuse))
    missing = pc.fill_null(pc.equal(table[column], NOT_CLASSIFIED), True)
    values = pc.if_else(missing, pa.scalar(None, pa.string()), table[column])
    return key, values_by_id(table[key], values, path)
