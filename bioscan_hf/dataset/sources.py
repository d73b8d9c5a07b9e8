"""Opening what holds a release: Parquet on the Hub or in a folder, or the release itself; map-style or streamed.

Columns and taxa are chosen while reading: Parquet skips columns, and row groups whose statistics rule them out.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from datasets import Dataset, IterableDataset, load_dataset, load_dataset_builder
from filelock import FileLock

from ..labels import LabelMaps
from ..release import check as release
from ..schema import LABEL_COLUMNS, SPLITS
from .build import LABELS_FILE, MANIFEST_FILE, build

#: Rank -> names, of which a row must have one.
Taxon = Mapping[str, tuple[str, ...]]

#: Bytes that are fetched behind what is asked for of a file on the Hub. The default, 5 MB, would mostly be photos.
READ_AHEAD = 1 << 16

#: Rows of a record batch of text. Opening a cached dataset touches each batch, and the default, 1,000 rows, is many.
TEXT_ROWS = 50_000

#: The splits to open, of those that are there.
Choose = Callable[[Sequence[str]], Sequence[str]]


def source_kind(source: str | Path) -> str:
    """What `source` is: "parquet" (a folder), "release" (a folder, or a metadata file), or "hub".

    Raises:
        FileNotFoundError: if it is none of them.
        ValueError: if it is a file of another kind.
    """
    path = Path(source)
    if path.is_dir() and any(path.glob("*/*.parquet")):
        return "parquet"
    if path.exists():
        release.find_metadata(path)
        return "release"
    if isinstance(source, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not source.startswith("."):
        return "hub"
    raise FileNotFoundError(
        f"There is nothing at {str(source)!r}. Give a Hub id (user/name), a folder of Parquet shards, the folder of a "
        f"release, or its metadata CSV."
    )


def load_label_maps(source: str | Path) -> LabelMaps:
    """The label ids of a release, from any source that `load_bioscan5m` takes."""
    return label_maps_of(source, "dna")


def label_maps_of(source: str | Path, config: str) -> LabelMaps:
    """The same, from the build of a config where `source` is a release, so that no other has to be built."""
    kind = source_kind(source)
    if kind == "hub":
        from huggingface_hub import hf_hub_download

        return LabelMaps.load(hf_hub_download(str(source), LABELS_FILE, repo_type="dataset"))
    if kind == "release":
        return LabelMaps.load(_built(source, config) / LABELS_FILE)
    folder = Path(source)
    if (folder / LABELS_FILE).is_file():
        return LabelMaps.load(folder / LABELS_FILE)
    names: dict[str, set[str]] = {column: set() for column in LABEL_COLUMNS}
    for file in sorted(folder.glob("*/*.parquet")):
        for column, values in zip(LABEL_COLUMNS, pq.read_table(file, columns=list(LABEL_COLUMNS)), strict=True):
            names[column].update(values.unique().drop_null().to_pylist())
    return LabelMaps(names)


def open_source(
    source: str | Path,
    config: str,
    choose: Choose,
    streaming: bool,
    columns: Sequence[str] | None,
    taxon: Taxon,
) -> dict[str, Dataset | IterableDataset]:
    """The chosen splits of any source, of a release by way of its build.

    Args:
        choose: Takes the splits that the source holds and returns those to open.
        columns: Those to read; None reads all.
    """
    kind = source_kind(source)
    if kind == "hub" and streaming:
        return _stream_hub(str(source), config, choose, columns, taxon)
    if kind == "hub":
        folder, files = _download(str(source), config, choose, columns, taxon)
    else:
        folder = _built(source, config) if kind == "release" else Path(source)
        everything = _shards(folder, config)
        files = {split: everything[split] for split in choose(list(everything))}
    available = pq.read_schema(next(iter(files.values()))[0]).names
    _check_columns(columns, available, config)
    options: dict[str, Any] = {} if columns is None else {"columns": list(columns)}
    if taxon:
        options["filters"] = _filters(taxon)
    # A file of the Hub's cache is named by its content, so that a new revision brings no new copy of old shards.
    paths = {split: [os.path.realpath(file) for file in some] for split, some in files.items()}
    if streaming:
        return dict(load_dataset("parquet", data_files=paths, streaming=True, **options))
    if "image" not in (available if columns is None else columns):
        options["writer_batch_size"] = TEXT_ROWS
    builder = load_dataset_builder("parquet", data_files=paths, **options)
    builder.download_and_prepare()
    return {split: _prepared_split(builder, split) for split in paths}


def _prepared_split(builder: datasets.DatasetBuilder, split: str) -> Dataset:
    if builder.info.splits[split].num_examples:
        return builder.as_dataset(split=split)
    # `as_dataset` refuses a split without rows.
    empty: dict[str, list[Any]] = {name: [] for name in builder.info.features}
    return Dataset.from_dict(empty, features=builder.info.features)


def _filters(taxon: Taxon) -> list[tuple[str, str, list[str]]]:
    return [(rank, "in", list(names)) for rank, names in taxon.items()]


def _check_columns(columns: Sequence[str] | None, available: Sequence[str], config: str) -> None:
    for column in columns or ():
        if column not in available:
            raise ValueError(f"Unknown column {column!r}. The config {config!r} has {', '.join(available)}.")


def _shards(folder: Path, config: str) -> dict[str, list[Path]]:
    """Split -> files of a config in a Parquet folder, both in the order of the build; all of them, or ValueError."""
    manifest = folder / MANIFEST_FILE
    if manifest.is_file() and not json.loads(manifest.read_text(encoding="utf-8"))["complete"]:
        raise ValueError(f"The build in {str(folder)!r} is not complete: run `bioscan-hf build` again to go on.")
    shards: dict[str, list[Path]] = {}
    for file in sorted((folder / config).glob("*.parquet"), key=lambda file: _shard_order(file.name)):
        shards.setdefault(_split_of(file.name), []).append(file)
    if not shards:
        built = sorted(path.name for path in folder.iterdir() if any(path.glob("*.parquet")))
        raise ValueError(f"{str(folder)!r} has no config {config!r}; it has {', '.join(built)}.")
    for split, files in shards.items():
        of = re.search(r"-of-(\d+)\.parquet$", files[0].name)
        if of and len(files) != int(of[1]):
            raise ValueError(
                f"{str(folder)!r} holds {len(files)} of the {int(of[1])} shards of {config}/{split}: "
                f"copy or build the others."
            )
    return shards


def _split_of(file_name: str) -> str:
    return file_name.removesuffix(".parquet").split("-")[0]


def _shard_order(file_name: str) -> tuple[int, str]:
    order = (*SPLITS, release.UNASSIGNED)
    split = _split_of(file_name)
    return (order.index(split) if split in order else len(order), file_name)


def _built(source: str | Path, config: str) -> Path:
    """Parquet folder, in the cache of `datasets`, that was built from a release or CSV as it is now.

    Of several processes that ask for it at once, one builds and the others wait.
    """
    metadata = release.find_metadata(source).resolve()
    read = [metadata, *filter(None, [release.find_boxes(metadata)])]
    stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in read]
    folder = _cache_folder(config, f"{stats}:{config}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        build(source, folder, [config], unassigned=True)
    return folder


def _cache_folder(config: str, content: str) -> Path:
    key = hashlib.sha256(content.encode()).hexdigest()[:16]
    return Path(datasets.config.HF_DATASETS_CACHE) / "bioscan_hf" / f"{config}-{key}"


# ---- the Hub -------------------------------------------------------------------------------------------------------


def _stream_hub(
    repo_id: str, config: str, choose: Choose, columns: Sequence[str] | None, taxon: Taxon
) -> dict[str, IterableDataset]:
    options: dict[str, Any] = {"storage_options": {"hf": {"block_size": READ_AHEAD}}}
    if taxon:
        options["filters"] = _filters(taxon)
    loaded = load_dataset(repo_id, config, streaming=True, **options)
    if columns is not None:
        _check_columns(columns, list(next(iter(loaded.values())).features), config)
        loaded = load_dataset(repo_id, config, streaming=True, columns=list(columns), **options)
    return {split: loaded[split] for split in choose(list(loaded))}


def _download(
    repo_id: str, config: str, choose: Choose, columns: Sequence[str] | None, taxon: Taxon
) -> tuple[Path, dict[str, list[Path]]]:
    """A folder with the chosen splits of a config, and their files; nothing else is downloaded.

    Where photos are not among the columns, the others are read out of the remote files.
    """
    from huggingface_hub import hf_hub_download, snapshot_download

    card = Path(hf_hub_download(repo_id, "README.md", repo_type="dataset")).read_text(encoding="utf-8")
    configs = {entry["config_name"]: entry for entry in yaml.safe_load(card.split("---")[1])["configs"]}
    if config not in configs:
        raise ValueError(f"{repo_id!r} has no config {config!r}; it has {', '.join(configs)}.")
    splits = choose([entry["split"] for entry in configs[config]["data_files"]])
    if config != "dna" and columns is not None and "image" not in columns:
        folder = _read_columns(repo_id, config, splits, columns, taxon)
    else:
        patterns = [f"{config}/{split}-*.parquet" for split in splits]
        folder = Path(snapshot_download(repo_id, repo_type="dataset", allow_patterns=patterns))
    shards = _shards(folder, config)
    return folder, {split: shards[split] for split in splits}


def _read_columns(repo_id: str, config: str, splits: Sequence[str], columns: Sequence[str], taxon: Taxon) -> Path:
    """A folder, in the cache of `datasets`, with some columns and taxa of the chosen splits of a Hub dataset."""
    from huggingface_hub import HfApi, HfFileSystem

    revision = HfApi().dataset_info(repo_id).sha
    files = HfFileSystem(block_size=READ_AHEAD)
    kept = sorted({*columns, *taxon})
    folder = _cache_folder(config, f"{repo_id}@{revision}:{kept}:{dict(taxon)}")
    (folder / config).mkdir(parents=True, exist_ok=True)
    for split in splits:
        for remote in files.glob(f"datasets/{repo_id}@{revision}/{config}/{split}-*.parquet"):
            local = folder / config / Path(remote).name
            if local.is_file():
                continue
            with files.open(remote) as file:
                _check_columns(columns, pq.read_schema(file).names, config)
                table = pq.read_table(file, columns=kept, filters=_filters(taxon) or None)
            part = local.with_name(f"{local.name}.part")
            pq.write_table(table, part)
            os.replace(part, local)
    return folder


# ---- a release, streamed -------------------------------------------------------------------------------------------


def scan_release(source: str | Path) -> release.Scan:
    """Splits, labels and rows to leave out of a release, by one pass over its metadata."""
    return release.scan(release.find_metadata(source), unassigned=True)


def stream_release(
    source: str | Path,
    config: str,
    checked: release.Scan,
    splits: Sequence[str],
    columns: Sequence[str] | None,
    taxon: Taxon,
    change: Callable[[pa.Table], pa.Table],
    added: Sequence[str],
) -> dict[str, IterableDataset]:
    """A stream for each split of a release, read as it goes; nothing is written.

    Args:
        change: Changes the tables, without the photos.
        added: The int64 columns that it adds.
    """
    features = release.features(config, checked.extra_columns)
    _check_columns(columns, list(features), config)
    if columns is not None:
        features = datasets.Features({name: kind for name, kind in features.items() if name in columns})
    about = {"source": str(source), "config": config, "checked": checked, "taxon": dict(taxon), "change": change}
    about["columns"] = tuple(features)
    features.update({name: datasets.Value("int64") for name in added})
    return {
        split: IterableDataset.from_generator(_rows, features=features, gen_kwargs={**about, "split": split})
        for split in splits
    }


def _rows(
    source: str,
    config: str,
    checked: release.Scan,
    taxon: Taxon,
    change: Callable[[pa.Table], pa.Table],
    columns: tuple[str, ...],
    split: str,
) -> Iterator[dict[str, Any]]:
    """Rows of one split, in the order of the CSV. Photos are read for those rows alone that are given out."""
    photos = release.Photos(release.photo_root(source), config) if "image" in columns else None
    if photos is not None:
        photos.check((split,))
    values = [column for column in columns if column != "image"]
    for _, table in release.read_typed(release.find_metadata(source), checked):
        table = table.filter(pc.equal(pc.fill_null(table["split"], release.UNASSIGNED), split))
        for rank, names in taxon.items():
            table = table.filter(pc.is_in(table[rank], pa.array(names, pa.string())))
        rows = change(table.select(values)).to_pylist()
        for processid, row in zip(table["processid"].to_pylist(), rows, strict=True):
            if photos is not None:
                row["image"] = {"bytes": photos.read(processid, split), "path": f"{processid}.jpg"}
            yield row
    if photos is not None:
        photos.close()
