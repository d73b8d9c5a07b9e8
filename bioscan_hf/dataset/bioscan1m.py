"""BIOSCAN-1M as a `datasets.Dataset` with the columns of BIOSCAN-5M.

A column that it does not have is null; other columns (tribe, image_file, the partitions, ...) follow.
Source: https://arxiv.org/abs/2307.10455; the partition "clibd": https://arxiv.org/abs/2405.17537; label cleaning,
names of splits and their aliases as in https://github.com/bioscan-ml/dataset.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import pyarrow as pa
import pyarrow.compute as pc

from ..labels import LabelMaps
from ..release.columns import features
from ..release.photos import check_jpeg, read_file
from ..release.problems import ReleaseError
from ..release.tables import csv_columns
from ..release.zips import LARGEST_PHOTO, UNREADABLE
from ..schema import COLUMNS, IMAGE_PACKAGES, MAX_NUCLEOTIDES, NOT_CLASSIFIED, RANKS, check_config
from .blocks import (
    CLIBD_ALIASES,
    PHOTO_ROWS,
    BlockSource,
    Values,
    add_photos,
    check_splits,
    find_file,
    in_splits,
    load,
    read_ids,
    read_tables,
    to_columns,
)

TSV = "BIOSCAN_Insect_Dataset_metadata.tsv"

#: Partitions of BIOSCAN-1M: six columns of its metadata, and "clibd", a folder of files.
PARTITIONS = (
    *(f"{size}_{kind}" for kind in ("diptera_family", "insect_order") for size in ("large", "medium", "small")),
    "clibd",
)

SPLITS = ("train", "validation", "test", "no_split")

CLIBD_FOLDER = "CLIBD_partitioning"
CLIBD_SPLITS = (
    "no_split",
    "train_seen",
    "seen_keys",
    "single_species",
    "val_seen",
    "val_unseen",
    "val_unseen_keys",
    "test_seen",
    "test_unseen",
    "test_unseen_keys",
)
CLIBD_METASPLITS = {
    "all_keys": ("seen_keys", "val_unseen_keys", "test_unseen_keys"),
    "no_split_and_seen_train": ("no_split", "train_seen"),
}

#: Column of the TSV -> column of BIOSCAN-5M.
NAMES = {"name": "taxon", "uri": "dna_bin", "nucraw": "dna_barcode", "chunk_number": "chunk"}

#: Genus -> its tribe, where the metadata name it for some specimens only.
TRIBES = {"Asteia": "Asteiini", "Nemorilla": "Winthemiini", "Philaenus": "Philaenini"}


def load_bioscan1m(
    source: str | Path,
    config: str = "dna",
    split: str | None = None,
    *,
    partition: str = "large_diptera_family",
    clibd_partitioning: str | Path | None = None,
    streaming: bool = False,
    ranks: Sequence[str] | None = None,
    max_nucleotides: int | None = MAX_NUCLEOTIDES,
    unique_barcodes: bool = False,
) -> Any:
    """Loads BIOSCAN-1M as a `Dataset`, or as an `IterableDataset` if streamed.

    Without `split`, the result is a dict of datasets. Labels are cleaned as `bioscan-dataset` does: "not_classified"
    is null, three tribes are completed, a missing genus is the first word of the species, and a missing tribe or
    subfamily above a known genus becomes "unassigned" and the name of the next known rank.

    Args:
        source: The published TSV, or the folder that holds it, images/ and their zips (or bioscan1m/ with them).
        config: "dna" (no photos), or an image package.
        split: train, validation (or val), test, no_split or "all" of a `partition`; for "clibd" its ten splits,
            "all_keys", "no_split_and_seen_train", or names of BIOSCAN-5M. "a+b" joins splits, each in its own order.
        partition: One of `PARTITIONS`.
        clibd_partitioning: Folder with the files SPLIT.txt of the partition "clibd"; by default CLIBD_partitioning
            beside the TSV. A split has the order of its file, or of the TSV if it is streamed.
        ranks: Ranks, "tribe" or "dna_bin", whose label ids are added as `<rank>_index`: those of the whole TSV.
        streaming, max_nucleotides, unique_barcodes: As in `load_bioscan5m`.

    Raises:
        ValueError: for an unknown config, partition, split or rank; the message lists the alternatives.
        FileNotFoundError: if the TSV, photos or partition files are not there.
        ReleaseError: for a damaged file, a missing photo, or specimens without a CLIBD split.
    """
    found = _source(source, config, partition, clibd_partitioning)
    fine = () if partition == "clibd" else ("subfamily", "tribe", "genus", "species")
    fine = (*fine, "family") if partition.endswith("insect_order") else fine
    if too_fine := [rank for rank in ranks or () if rank in fine]:
        warnings.warn(
            f"The partition {partition!r} was not made for {', '.join(too_fine)}: test has taxa that train has not.",
            stacklevel=2,
        )
    return load(found, split, streaming, ranks, max_nucleotides, unique_barcodes)


def bioscan1m_label_maps(source: str | Path) -> LabelMaps:
    """The label ids of BIOSCAN-1M: cleaned ranks, "tribe" and "dna_bin" of all rows."""
    return _source(source, "dna", PARTITIONS[0], None).scan()[0]


def _source(source: str | Path, config: str, partition: str, clibd_partitioning: str | Path | None) -> BlockSource:
    check_config(config)
    if partition not in PARTITIONS:
        raise ValueError(f"Unknown partition {partition!r}. BIOSCAN-1M has {', '.join(PARTITIONS)}.")
    path = find_file(source, (TSV, f"bioscan1m/{TSV}", f"bioscan/{TSV}"))
    extra = [name for name in csv_columns(path) if name not in COLUMNS and name not in NAMES]
    clibd = None
    if partition == "clibd":
        clibd = path.parent / CLIBD_FOLDER if clibd_partitioning is None else Path(clibd_partitioning)
        if not clibd.is_dir():
            raise FileNotFoundError(
                f"No partition files of CLIBD at {str(clibd)!r}: unpack CLIBD_partitioning.zip "
                f"(https://huggingface.co/datasets/bioscan-ml/clibd) there, or give its folder as clibd_partitioning."
            )
    splits = CLIBD_SPLITS if clibd else SPLITS
    return BlockSource(
        f"BIOSCAN-1M ({partition})",
        _read,
        {"path": str(path), "partition": partition, "clibd": str(clibd) if clibd else None, "config": config},
        features(config, extra),
        splits,
        (path, *(clibd / f"{split}.txt" for split in splits)) if clibd else (path,),
        labels=(*RANKS, "tribe", "dna_bin"),
        metasplits={"all": splits, **(CLIBD_METASPLITS if clibd else {})},
        aliases=CLIBD_ALIASES if clibd else {"val": ("validation",)},
        order=clibd,
    )


def _read(path: str, partition: str, clibd: str | None, config: str, splits: Sequence[str]) -> Iterator[pa.Table]:
    required = ["processid", "sampleid", *NAMES, *RANKS, "tribe", "image_file"]
    split_of_id = None if clibd is None else _clibd_splits(Path(clibd))
    with ExitStack() as stack:
        photos = None if config == "dna" else _Photos(Path(path).parent, config, stack)
        for table in read_tables(path, required if clibd else [*required, partition], NAMES):
            if split_of_id is not None:
                table = table.append_column("split", split_of_id.of(table["sampleid"]))
            else:
                check_splits(table[partition], SPLITS, partition, path)
                table = table.append_column("split", table[partition])
            table = to_columns(in_splits(_clean(table), splits))
            if photos is None:
                yield table
            else:
                for start in range(0, len(table), PHOTO_ROWS):
                    rows = table.slice(start, PHOTO_ROWS)
                    files = zip(rows["chunk"].to_pylist(), rows["image_file"].to_pylist(), strict=True)
                    yield add_photos(rows, [photos.read(chunk, file) for chunk, file in files])


def _clean(table: pa.Table) -> pa.Table:
    """Labels as `bioscan-dataset` cleans them; the rules are in `load_bioscan1m`."""
    columns = dict(zip(table.column_names, table.columns, strict=True))
    for name in (*RANKS, "tribe", "dna_bin", "taxon", *({"subspecies"} & set(columns))):
        missing = pc.fill_null(pc.equal(columns[name], NOT_CLASSIFIED), True)
        columns[name] = pc.if_else(missing, pa.scalar(None, pa.string()), columns[name])
    for genus, tribe in TRIBES.items():
        here = pc.fill_null(pc.equal(columns["genus"], genus), False)
        columns["tribe"] = pc.if_else(here, tribe, columns["tribe"])
    first_word = pc.replace_substring_regex(columns["species"], r"(?s) .*", "")
    columns["genus"] = pc.coalesce(columns["genus"], first_word)
    parent = pc.coalesce(columns["subfamily"], columns["family"])
    unassigned = pc.and_(pc.is_null(columns["tribe"]), pc.is_valid(columns["genus"]))
    placeholder = pc.binary_join_element_wise("unassigned", parent, " ")
    columns["tribe"] = pc.if_else(unassigned, placeholder, columns["tribe"])
    unassigned = pc.and_(pc.is_null(columns["subfamily"]), pc.is_valid(columns["tribe"]))
    placeholder = pc.binary_join_element_wise("unassigned", columns["family"], " ")
    columns["subfamily"] = pc.if_else(unassigned, placeholder, columns["subfamily"])
    return pa.table(columns)


def _clibd_splits(folder: Path) -> Values:
    """The CLIBD split of each sampleid."""
    ids = {split: read_ids(folder / f"{split}.txt") for split in CLIBD_SPLITS}
    names = [pa.array([split] * len(some), pa.string()) for split, some in ids.items()]
    return Values(pa.chunked_array(list(ids.values())), pa.chunked_array(names), folder)


class _Photos:
    """Photos of BIOSCAN-1M: images/PACKAGE/part<chunk>/<image_file>, in folders or as members of PACKAGE*.zip."""

    def __init__(self, root: Path, package: str, stack: ExitStack):
        roots = [root / "bioscan1m", root / "bioscan", root, root.parent]
        self.folder = next((f for f in (r / "images" / package for r in roots) if f.is_dir()), None)
        names = "|".join(sorted(IMAGE_PACKAGES, key=len, reverse=True))
        self.members: dict[str, tuple[ZipFile, str]] = {}
        self.places = [str(self.folder)] if self.folder is not None else []
        for path in sorted(path for r in roots for path in r.glob("*.zip")):
            match = re.fullmatch(rf"(BIOSCAN_1M_)?({names})([._-].*)?\.zip", path.name)
            if match is None or match[2] != package:
                continue
            try:
                opened = stack.enter_context(ZipFile(path))
            except UNREADABLE as error:
                raise ReleaseError(f"{path} is not a readable zip ({error}): download it again.") from error
            self.places.append(str(path))
            self.members.update(("/".join(n.split("/")[-2:]), (opened, n)) for n in opened.namelist())
        if not self.places:
            raise FileNotFoundError(
                f"No photos of {package!r} by {str(root)!r}: neither images/{package}/ nor {package}.zip."
            )

    def read(self, chunk: str, file_name: str) -> bytes:
        """JPEG bytes of part<chunk>/<image_file>.

        Raises:
            ReleaseError: if the photo is missing or damaged, has more than `LARGEST_PHOTO` bytes, or its name leads to
                another folder.
        """
        name = f"part{chunk}/{file_name}"
        if not re.fullmatch(r"part\w+/[^./\\\0][^/\\\0]*", name):
            raise ReleaseError(f"{name!r} is not the name of a photo: chunk_number and image_file must be plain names")
        if self.folder is not None and (self.folder / name).is_file():
            data = read_file(self.folder / name, LARGEST_PHOTO)
        elif name in self.members:
            file, member = self.members[name]
            try:
                with file.open(member) as stream:
                    data = stream.read(LARGEST_PHOTO + 1)
                if len(data) > LARGEST_PHOTO:
                    raise BadZipFile(f"it unpacks to more than a photo, {LARGEST_PHOTO:,} bytes")
            except UNREADABLE as error:
                raise ReleaseError(f"{file.filename}:{member} cannot be read ({error})") from error
        else:
            raise ReleaseError(f"no photo {name} in {', '.join(self.places)}")
        check_jpeg(data, name)
        return data
