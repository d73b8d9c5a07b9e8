"""BIOSCAN-1M as a `datasets.Dataset` with the columns of BIOSCAN-5M: its TSV, photos, partitions and label cleaning.

A column that it lacks is null; one that BIOSCAN-5M lacks (tribe, image_file, the partitions, ...) follows the others.
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
from ..release.check import UNASSIGNED, ReleaseError, check_jpeg, csv_columns, features, read_strings
from ..schema import COLUMNS, IMAGE_PACKAGES, MAX_NUCLEOTIDES, NOT_CLASSIFIED, RANKS, check_config
from .blocks import (
    CLIBD_ALIASES,
    PHOTO_ROWS,
    Source,
    Values,
    check_splits,
    find_file,
    load,
    lookup,
    read_ids,
    refuse,
    scan,
    to_columns,
    values_by_id,
)

BIOSCAN1M_TSV = "BIOSCAN_Insect_Dataset_metadata.tsv"

#: Partitions of BIOSCAN-1M: columns of its metadata, and that of CLIBD, a folder of files beside it.
PARTITIONS = (
    *(f"{size}_{kind}" for kind in ("diptera_family", "insect_order") for size in ("large", "medium", "small")),
    "clibd",
)

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

#: Columns of BIOSCAN-1M that BIOSCAN-5M has under another name.
BIOSCAN1M_NAMES = {"name": "taxon", "uri": "dna_bin", "nucraw": "dna_barcode", "chunk_number": "chunk"}

#: Tribes that the metadata of BIOSCAN-1M gives to a part of the specimens of a genus alone.
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
    """A `Dataset` or, streamed, an `IterableDataset` of BIOSCAN-1M; without `split`, a dict of them.

    Labels are cleaned as `bioscan-dataset` cleans them: "not_classified" is null, three tribes are completed, a
    missing genus is the first word of the species, and a missing tribe or subfamily above a known genus becomes
    "unassigned" and the name of the next known rank.

    Args:
        source: The published TSV, or the folder that holds it, images/ and their zips (or bioscan1m/ with them).
        config: "dna" (no photos), or an image package.
        split: train, validation (or val), test, no_split or "all" of a `partition`; for "clibd" its ten splits,
            "all_keys", "no_split_and_seen_train", or names of BIOSCAN-5M. "a+b" joins, each part in its own order.
        partition: One of `PARTITIONS`.
        clibd_partitioning: Folder with the files SPLIT.txt of the partition "clibd"; by default CLIBD_partitioning
            beside the TSV. A split has the order of its file (a streamed one that of the TSV).
        ranks: Ranks, "tribe" or "dna_bin", whose label ids are added as `<rank>_index`: those of the whole TSV.
        streaming, max_nucleotides, unique_barcodes: As in `load_bioscan5m`.

    Raises:
        ValueError: unknown config, partition, split or rank; the alternatives are listed.
        FileNotFoundError: no TSV, photos or partition files there.
        ReleaseError: a damaged file, a photo that is missing, or specimens that no CLIBD split holds.
    """
    found = _bioscan1m(source, config, partition, clibd_partitioning)
    fine = () if partition == "clibd" else ("subfamily", "tribe", "genus", "species")
    fine = (*fine, "family") if partition.endswith("insect_order") else fine
    if too_fine := [rank for rank in ranks or () if rank in fine]:
        warnings.warn(
            f"The partition {partition!r} was not made for {', '.join(too_fine)}: test has taxa that train lacks.",
            stacklevel=2,
        )
    return load(found, split, streaming, ranks, max_nucleotides, unique_barcodes)


def bioscan1m_label_maps(source: str | Path) -> LabelMaps:
    """The label ids of BIOSCAN-1M, of the cleaned labels of every row: the ranks, "tribe" and "dna_bin"."""
    return scan(_bioscan1m(source, "dna", "large_diptera_family", None))[0]


def _bioscan1m(source: str | Path, config: str, partition: str, clibd_partitioning: str | Path | None) -> Source:
    check_config(config)
    if partition not in PARTITIONS:
        raise ValueError(f"Unknown partition {partition!r}. BIOSCAN-1M has {', '.join(PARTITIONS)}.")
    path = find_file(source, (BIOSCAN1M_TSV, f"bioscan1m/{BIOSCAN1M_TSV}", f"bioscan/{BIOSCAN1M_TSV}"))
    about: dict[str, Any] = {"path": str(path), "partition": partition, "clibd": None, "config": config}
    extra = [n for n in csv_columns(path) if n not in COLUMNS and n not in BIOSCAN1M_NAMES]
    types = features(config, extra)
    labels = (*RANKS, "tribe", "dna_bin")
    if partition != "clibd":
        splits, aliases = ("train", "validation", "test", "no_split"), {"val": ("validation",)}
        name = f"BIOSCAN-1M ({partition})"
        return Source(name, _read_bioscan1m, about, types, splits, (path,), labels, {"all": splits}, aliases)
    folder = Path(clibd_partitioning) if clibd_partitioning is not None else path.parent / CLIBD_FOLDER
    if not folder.is_dir():
        raise FileNotFoundError(
            f"No partition files of CLIBD at {str(folder)!r}: unpack CLIBD_partitioning.zip "
            f"(https://huggingface.co/datasets/bioscan-ml/clibd) there, or name its folder by clibd_partitioning."
        )
    about["clibd"] = str(folder)
    files = (path, *(folder / f"{split}.txt" for split in CLIBD_SPLITS))
    metasplits = {"all": CLIBD_SPLITS, **CLIBD_METASPLITS}
    name = "BIOSCAN-1M (clibd)"
    return Source(
        name, _read_bioscan1m, about, types, CLIBD_SPLITS, files, labels, metasplits, CLIBD_ALIASES, order=folder
    )


def _read_bioscan1m(
    path: str, partition: str, clibd: str | None, config: str, splits: Sequence[str]
) -> Iterator[pa.Table]:
    required = ("processid", "sampleid", *BIOSCAN1M_NAMES, *RANKS, "tribe", "image_file")
    if clibd is None:
        required = (*required, partition)
    else:
        split_of_id = _clibd_splits(Path(clibd))
    with ExitStack() as stack:
        photos = None if config == "dna" else _Photos1M(Path(path).parent, config, stack)
        for _, table in read_strings(path, required, report=refuse):
            table = _clean_bioscan1m(table)
            if clibd is None:
                check_splits(table, partition, ("train", "validation", "test", "no_split"), Path(path))
                table = table.append_column("split", table[partition])
            else:
                table = table.append_column("split", lookup(table["sampleid"], split_of_id))
            table = table.filter(pc.is_in(pc.fill_null(table["split"], UNASSIGNED), pa.array(splits)))
            table = table.rename_columns([BIOSCAN1M_NAMES.get(name, name) for name in table.column_names])
            table = to_columns(table, [name for name in table.column_names if name not in COLUMNS])
            if photos is None:
                yield table
            else:
                for start in range(0, len(table), PHOTO_ROWS):
                    yield photos.add(table.slice(start, PHOTO_ROWS))


def _clean_bioscan1m(table: pa.Table) -> pa.Table:
    """Labels as `bioscan-dataset` cleans them; the rules are in `load_bioscan1m`."""
    columns = dict(zip(table.column_names, table.columns, strict=True))
    for name in (*RANKS, "tribe", "uri", "name", *({"subspecies"} & set(columns))):
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
    return values_by_id(pa.chunked_array(list(ids.values())), pa.chunked_array(names), folder)


class _Photos1M:
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
            except (BadZipFile, OSError) as error:
                raise ReleaseError(f"{path} is no readable zip ({error}): download it again.") from error
            self.places.append(str(path))
            self.members.update(("/".join(n.split("/")[-2:]), (opened, n)) for n in opened.namelist())
        if not self.places:
            raise FileNotFoundError(
                f"No photos of {package!r} by {str(root)!r}: neither images/{package}/ nor {package}.zip."
            )

    def add(self, table: pa.Table) -> pa.Table:
        names = zip(table["chunk"].to_pylist(), table["image_file"].to_pylist(), strict=True)
        photos = [{"bytes": self.read(f"part{chunk}/{file}"), "path": file} for chunk, file in names]
        image = pa.array(photos, pa.struct({"bytes": pa.binary(), "path": pa.string()}))
        return table.add_column(0, "image", image)

    def read(self, name: str) -> bytes:
        if self.folder is not None and (self.folder / name).is_file():
            data = (self.folder / name).read_bytes()
        elif name in self.members:
            file, member = self.members[name]
            try:
                data = file.read(member)
            except (BadZipFile, OSError, EOFError) as error:
                raise ReleaseError(f"{file.filename}:{member} cannot be read ({error})") from error
        else:
            raise ReleaseError(f"no photo {name} in {', '.join(self.places)}")
        check_jpeg(data, name)
        return data
