"""BIOSCAN-5M as a `datasets.Dataset`, from the Hub, a Parquet folder, a release folder or one metadata CSV.

Dataset in, Dataset out: truncated barcodes, label ids, one specimen per barcode. Source: https://arxiv.org/abs/2406.12723.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict, concatenate_datasets, load_dataset

from . import release
from .build import LABELS_FILE, MANIFEST_FILE, build
from .taxonomy import LABEL_COLUMNS, MAX_NUCLEOTIDES, SPLITS, LabelMaps, check_config, resolve_splits


def load_bioscan5m(
    source: str | Path,
    config: str = "dna",
    split: str | None = None,
    *,
    streaming: bool = False,
    ranks: Sequence[str] | None = None,
    max_nucleotides: int | None = MAX_NUCLEOTIDES,
    unique_barcodes: bool = False,
) -> Any:
    """A `Dataset` or, streamed, an `IterableDataset` of BIOSCAN-5M; without `split`, a dict of them.

    The rows and features are the same from every kind of source. A release folder or CSV is built to Parquet once, in
    the cache of `datasets`, unless it is streamed.

    Args:
        source: Hub id ("user/name"), folder of Parquet shards, folder of a release, or a metadata CSV. The rows of a
            CSV without a partition are in "all", and in a split called "unassigned".
        config: "dna" (no photos), or an image package such as "cropped_256".
        split: A split, "seen", "unseen", "all", or several joined by "+"; None gives all of them in a dict.
        streaming: Gives an iterable dataset that reads as it goes.
        ranks: Ranks, or "dna_bin", whose label ids are added as columns `<rank>_index`: int64, -1 where missing, the
            same ids in every split (see `load_label_maps`).
        max_nucleotides: Length to which barcodes are cut; None leaves them whole.
        unique_barcodes: Keeps the first specimen of each barcode, compared after cutting and without trailing N.

    Raises:
        ValueError: unknown config, split or rank, or one that the source does not hold; the alternatives are listed.
        FileNotFoundError: if there is nothing at `source`.
    """
    check_config(config)
    names = None if split is None else resolve_splits(split)
    for rank in ranks or ():
        if rank not in LABEL_COLUMNS:
            raise ValueError(f"Unknown rank {rank!r}. Label ids exist for {', '.join(LABEL_COLUMNS)}.")
    if unique_barcodes and streaming:
        raise ValueError("unique_barcodes compares all barcodes, which a stream cannot: use streaming=False.")
    if max_nucleotides is not None and max_nucleotides < 1:
        raise ValueError(f"max_nucleotides is {max_nucleotides}; give a positive number, or None for whole barcodes.")

    maps = load_label_maps(source).select(ranks) if ranks else LabelMaps({})
    if streaming and source_kind(source) == "release":
        loaded = _stream_release(source, config, maps, max_nucleotides)
    else:
        loaded = {
            name: _prepare(part, maps, max_nucleotides) for name, part in _load(source, config, streaming).items()
        }
    if split is not None and names is not None:
        data = _join(loaded, names, split, source)
        return data.select(first_of_each_barcode(data)) if unique_barcodes else data
    if unique_barcodes:
        loaded = {name: part.select(first_of_each_barcode(part)) for name, part in loaded.items()}
    return IterableDatasetDict(loaded) if streaming else DatasetDict(loaded)


def load_label_maps(source: str | Path) -> LabelMaps:
    """The label ids of a release, from any source that `load_bioscan5m` takes."""
    kind = source_kind(source)
    if kind == "hub":
        from huggingface_hub import hf_hub_download

        return LabelMaps.load(hf_hub_download(str(source), LABELS_FILE, repo_type="dataset"))
    if kind == "release":
        return LabelMaps.load(_built(source, "dna") / LABELS_FILE)
    folder = Path(source)
    if (folder / LABELS_FILE).is_file():
        return LabelMaps.load(folder / LABELS_FILE)
    names: dict[str, set[str]] = {column: set() for column in LABEL_COLUMNS}
    for file in sorted(folder.glob("*/*.parquet")):
        for column, values in zip(LABEL_COLUMNS, pq.read_table(file, columns=list(LABEL_COLUMNS)), strict=True):
            names[column].update(values.unique().drop_null().to_pylist())
    return LabelMaps(names)


def source_kind(source: str | Path) -> str:
    """What `source` is: "parquet" (a folder), "release" (a folder or CSV), or "hub".

    Raises:
        FileNotFoundError: if it is none of them.
    """
    path = Path(source)
    if path.is_dir():
        if any(path.glob("*/*.parquet")):
            return "parquet"
        release.find_metadata(path)
        return "release"
    if path.is_file():
        if not re.search(r"\.csv(\.gz)?$", path.name):
            raise ValueError(f"{str(path)!r} is a file, but no metadata CSV (.csv or .csv.gz).")
        return "release"
    if isinstance(source, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not source.startswith("."):
        return "hub"
    raise FileNotFoundError(
        f"There is nothing at {str(source)!r}. Give a Hub id (user/name), a folder of Parquet shards, the folder of a "
        f"release, or its metadata CSV."
    )


def _stream_release(
    source: str | Path, config: str, maps: LabelMaps, max_nucleotides: int | None
) -> dict[str, IterableDataset]:
    """A stream for each split of a release, read as it goes; nothing is written."""
    checked = release.scan(release.find_metadata(source), unassigned=True)
    features = release.features(config, checked.extra_columns)
    features.update({f"{rank}_index": datasets.Value("int64") for rank in maps.columns})
    about = {"source": str(source), "config": config, "maps": maps, "max_nucleotides": max_nucleotides}
    return {
        name: IterableDataset.from_generator(_rows, features=features, gen_kwargs={**about, "split": name})
        for name in checked.counts
    }


def _rows(
    source: str, config: str, maps: LabelMaps, max_nucleotides: int | None, split: str
) -> Iterator[dict[str, Any]]:
    for row in release.iterate_rows(source, config, (split,)):
        if max_nucleotides is not None and row["dna_barcode"] is not None:
            row["dna_barcode"] = row["dna_barcode"][:max_nucleotides]
        yield {**row, **{f"{rank}_index": maps.encode(rank, [row[rank]])[0] for rank in maps.columns}}


def _load(source: str | Path, config: str, streaming: bool) -> dict[str, Dataset | IterableDataset]:
    kind = source_kind(source)
    folder = _built(source, config) if kind == "release" else Path(source) if kind == "parquet" else None
    if folder is not None:
        manifest = folder / MANIFEST_FILE
        if manifest.is_file() and '"complete": true' not in manifest.read_text(encoding="utf-8"):
            raise ValueError(f"The build in {str(folder)!r} is not complete: run `bioscan-hf build` again to go on.")
        built = sorted(path.name for path in folder.iterdir() if any(path.glob("*.parquet")))
        if config not in built:
            raise ValueError(f"{str(folder)!r} has no config {config!r}; it has {', '.join(built)}.")
    return dict(load_dataset(str(folder or source), config, streaming=streaming))


def _built(source: str | Path, config: str) -> Path:
    """Parquet folder, in the cache of `datasets`, that was built from a release or CSV as it is now."""
    metadata = release.find_metadata(source).resolve()
    stat = metadata.stat()
    key = hashlib.sha256(f"{metadata}:{stat.st_size}:{stat.st_mtime_ns}:{config}".encode()).hexdigest()[:16]
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "bioscan_hf" / f"{config}-{key}"
    build(source, folder, [config], unassigned=True)
    return folder


def _join(
    loaded: Mapping[str, Dataset | IterableDataset], names: Sequence[str], split: str, source: str | Path
) -> Dataset | IterableDataset:
    """The splits `names`, one after the other. Parts of a metasplit may be absent, a split asked for by name not."""
    if release.UNASSIGNED in loaded and names == SPLITS:
        names = (*names, release.UNASSIGNED)
    present = [name for name in names if name in loaded]
    asked = {part.strip() for part in split.split("+")} & set(names)
    if not present or not asked <= set(present):
        absent = ", ".join(sorted(asked - set(present))) or split
        advice = " Partition it first: `bioscan-hf split IN.csv OUT.csv`." if release.UNASSIGNED in loaded else ""
        raise ValueError(f"No rows of split {absent!r} in {str(source)!r}; it holds {', '.join(loaded)}.{advice}")
    parts = [loaded[name] for name in present]
    return parts[0] if len(parts) == 1 else concatenate_datasets(parts)


def _prepare(
    data: Dataset | IterableDataset, maps: LabelMaps, max_nucleotides: int | None
) -> Dataset | IterableDataset:
    """Cuts the barcodes and adds the label ids of every column of `maps`."""
    if isinstance(data, IterableDataset):
        return _prepare_stream(data, maps, max_nucleotides)
    if max_nucleotides is not None:
        names = data.column_names
        place = names.index("dna_barcode")
        cut = data.select_columns("dna_barcode").with_format("arrow")
        cut = cut.map(_cut_barcodes, batched=True, fn_kwargs={"length": max_nucleotides}, desc="cutting barcodes")
        # Side by side, so that no other column is copied (photos are large), in pieces that keep the columns' order.
        pieces = [data.select_columns(names[:place]), cut.with_format(None), data.select_columns(names[place + 1 :])]
        data = concatenate_datasets([piece for piece in pieces if piece.column_names], axis=1)
    for rank in maps.columns:
        data = encode_labels(data, rank, maps)
    return data


def _prepare_stream(data: IterableDataset, maps: LabelMaps, max_nucleotides: int | None) -> IterableDataset:
    features = data.features.copy()
    features.update({f"{rank}_index": datasets.Value("int64") for rank in maps.columns})

    def change(table: pa.Table) -> pa.Table:
        if max_nucleotides is not None:
            table = _cut_barcodes(table, max_nucleotides)
        for rank in maps.columns:
            table = table.append_column(f"{rank}_index", label_ids(table[rank], rank, maps))
        return table

    # As Arrow tables, so that no photo is decoded on the way.
    return data.with_format("arrow").map(change, batched=True, features=features).with_format(None)


def _cut_barcodes(table: pa.Table, length: int) -> pa.Table:
    place = table.column_names.index("dna_barcode")
    return table.set_column(place, "dna_barcode", pc.utf8_slice_codeunits(table["dna_barcode"], 0, length))


def label_ids(names: pa.ChunkedArray, rank: str, maps: LabelMaps) -> pa.ChunkedArray:
    """Label ids (int64, -1 where null) of a column of names.

    Raises:
        KeyError: if a name is not in `maps`.
    """
    ids = pc.index_in(names, value_set=pa.array(maps.names(rank), pa.string()))
    unknown = pc.and_(pc.is_null(ids), pc.is_valid(names))
    if pc.any(unknown).as_py():
        maps.encode(rank, names.filter(unknown).to_pylist())  # raises, naming the first
    return pc.cast(pc.fill_null(ids, -1), pa.int64())


def encode_labels(data: Dataset, rank: str, maps: LabelMaps) -> Dataset:
    """Adds the column `<rank>_index`: int64 label ids, -1 where the label is missing."""
    names = data.select_columns(rank).with_format("arrow")
    ids = names.map(
        lambda table: pa.table({f"{rank}_index": label_ids(table[rank], rank, maps)}),
        batched=True,
        remove_columns=rank,
        features=datasets.Features({f"{rank}_index": datasets.Value("int64")}),
        desc=f"ids of {rank}",
    )
    return concatenate_datasets([data, ids.with_format(None)], axis=1)


def labels_of(source: str | Path, split: str, processids: Sequence[str]) -> dict[str, np.ndarray]:
    """Rank (and "dna_bin") -> label ids (n,) of specimens, in the order of `processids`.

    Raises:
        ValueError: if a specimen is not in that split of the source.
    """
    data = load_bioscan5m(source, "dna", split, ranks=LABEL_COLUMNS, max_nucleotides=None)
    table = data.with_format("arrow")[:]
    places = pc.index_in(pa.array(processids, pa.string()), value_set=table["processid"].combine_chunks())
    if places.null_count:
        first = list(processids)[int(np.flatnonzero(np.isnan(places.to_numpy(zero_copy_only=False)))[0])]
        raise ValueError(
            f"{first!r} and {places.null_count - 1} more are not in the split {split!r} of {str(source)!r}."
        )
    return {rank: table[f"{rank}_index"].take(places).to_numpy() for rank in LABEL_COLUMNS}


def first_of_each_barcode(data: Dataset) -> np.ndarray:
    """Places (m,) of the first row of each barcode, ascending. Trailing N does not count; null and "" are left out."""
    seen: set[bytes] = set()
    first: list[int] = []
    place = 0
    for table in data.select_columns("dna_barcode").with_format("arrow").iter(10_000):
        for barcode in pc.utf8_rtrim(table["dna_barcode"], "N").to_pylist():
            if barcode:
                digest = hashlib.blake2b(barcode.encode(), digest_size=16).digest()
                if digest not in seen:
                    seen.add(digest)
                    first.append(place)
            place += 1
    return np.array(first, dtype=np.int64)


def clean_barcodes(barcodes: Iterable[str]) -> list[str]:
    """Barcodes in the letters A, C, G, T and N: upper case, U as T, IUPAC codes and gaps as N, no white space.

    Trailing N is cut off. The published systems read barcodes as they are; use this for sequences from elsewhere.

    Raises:
        ValueError: naming the first sequence that holds anything else.
    """
    table = str.maketrans("acgtuU" + "nryswkmbdhvRYSWKMBDHV-", "ACGTTT" + 22 * "N")
    cleaned = []
    for number, barcode in enumerate(barcodes, start=1):
        clean = "".join(barcode.split()).translate(table).rstrip("N")
        if wrong := re.search(r"[^ACGTN]", clean):
            raise ValueError(
                f"Sequence {number} ({barcode[:30]!r}...) is no DNA: it holds {wrong[0]!r}. "
                f"Allowed are A, C, G, T, U, the IUPAC codes, N and '-'."
            )
        cleaned.append(clean)
    return cleaned
