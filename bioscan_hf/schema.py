"""Columns, ranks, splits and photo paths of BIOSCAN-5M.

Source of the names, counts and rules: the BIOSCAN-5M release (https://arxiv.org/abs/2406.12723).
"""

from __future__ import annotations

import re
from hashlib import md5

RANKS = ("phylum", "class", "order", "family", "subfamily", "genus", "species")

#: Columns that can be labels: the ranks and the barcode cluster (BIN).
LABEL_COLUMNS = (*RANKS, "dna_bin")

#: Ranks at which CLIBD reports retrieval.
REPORTED_RANKS = ("order", "family", "genus", "species")

#: The 23 columns of the published metadata, in their order.
COLUMNS = (
    "processid",
    "sampleid",
    "taxon",
    *RANKS,
    "dna_bin",
    "dna_barcode",
    "country",
    "province_state",
    "coord-lat",
    "coord-lon",
    "image_measurement_value",
    "area_fraction",
    "scale_factor",
    "inferred_ranks",
    "split",
    "index_bioscan_1M_insect",
    "chunk",
)

#: Columns of the published table of bounding boxes; sizes and corners are in pixels of the original photo.
BOX_TABLE_COLUMNS = (
    "processid",
    "width_original",
    "height_original",
    "x0",
    "y0",
    "x1",
    "y1",
    "scale_factor",
    "area_fraction",
)

SPLITS = ("pretrain", "train", "val", "test", "key_unseen", "val_unseen", "test_unseen", "other_heldout")

METASPLITS: dict[str, tuple[str, ...]] = {
    "seen": ("train", "val", "test"),
    "unseen": ("key_unseen", "val_unseen", "test_unseen"),
    "all": SPLITS,
}

#: Stands for the split of rows that no partition has assigned; never the name of a published split.
UNASSIGNED = "unassigned"

SPLIT_ALIASES = {"validation": "val"}

#: Splits that share one published zip; pretrain and train have their own.
EVAL_SPLITS = ("val", "test", "key_unseen", "val_unseen", "test_unseen", "other_heldout")

IMAGE_PACKAGES = ("cropped_256", "original_256", "cropped", "original_full")

CONFIGS = ("dna", *IMAGE_PACKAGES)

#: Nucleotides of a barcode that the published systems read; the rest is primer or noise.
MAX_NUCLEOTIDES = 660

#: Id of a missing label in arrays. On disk a missing label is null, in a loss it is -100.
MISSING = -1

NOT_CLASSIFIED = "not_classified"

#: Cells that stand for a missing value in any column, in lower case. "n" and "-" are also letters of a barcode.
MISSING_MARKERS = frozenset({"", "na", "n/a", "#n/a", "n.a.", "nan", "none", "null", "-", "--", "?", "n", "nd"})

#: Names that stand for a missing taxon, in lower case.
MISSING_TAXA = (
    MISSING_MARKERS
    | {"unknown", "unidentified", "undetermined", NOT_CLASSIFIED, "not classified", "not identified", "unclassified"}
    | {"unassigned", "missing", "not available", "no match", "incertae sedis", "indet", "indet.", "sp", "sp.", "spp."}
)

#: Processids, splits and packages of which a path is made: ASCII, at most 200 letters.
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{,199}")

#: Column of a build: number of the row among the rows of the metadata, over all splits. Loaded only if asked for.
ROW_COLUMN = "metadata_row"

#: Columns of loaded data: the photo, and label ids. A table cannot have columns of these names.
RESERVED_COLUMNS = frozenset({"image", *(f"{column}_index" for column in LABEL_COLUMNS)})

#: Names of the columns of sequences and ids in other tables, in lower case, and of labels.
SEQUENCE_NAMES = ("dna_barcode", "nucleotides", "nucraw", "nuc", "sequence", "seq", "barcode", "dna", "dna_sequence")
ID_NAMES = (
    *("processid", "process_id", "record_id", "sequence_id", "seq_id", "seqid", "id", "sampleid", "accession"),
    *("asv_id", "asv", "otu_id", "#otu_id", "otu", "feature_id", "sample_id", "specimen_id"),
    *("occurrenceid", "gbifid", "materialsampleid", "catalognumber"),
)
LABEL_NAMES = {**{name: name for name in LABEL_COLUMNS}, **{f"{rank}_name": rank for rank in RANKS}} | {
    "bin_uri": "dna_bin",
    "bin": "dna_bin",
}


def resolve_splits(split: str) -> tuple[str, ...]:
    """Names of splits for "val", "validation", "seen", "unseen", "all" or "a+b", without repeats, in the given order.

    Raises:
        ValueError: if a part is not a split; the message lists the splits.
    """
    names: list[str] = []
    for part in split.split("+"):
        part = part.strip()
        part = SPLIT_ALIASES.get(part, part)
        expanded = METASPLITS.get(part, (part,))
        for name in expanded:
            if name not in SPLITS:
                raise ValueError(
                    f"Unknown split {part!r} in {split!r}. BIOSCAN-5M has {', '.join(SPLITS)}; "
                    f"'seen', 'unseen' and 'all' stand for several of them, and 'a+b' joins two."
                )
            if name not in names:
                names.append(name)
    return tuple(names)


def check_config(config: str) -> None:
    """Raises ValueError unless `config` is one of `CONFIGS`."""
    if config not in CONFIGS:
        raise ValueError(f"Unknown config {config!r}. BIOSCAN-5M has {', '.join(CONFIGS)} ('dna' has no photos).")


def chunk(processid: str, split: str) -> str:
    """Name of the sub-folder of a split that holds the photo of `processid`; "" if the split has none.

    It is the first hexadecimal digits of the md5 of the id: two in pretrain, one in train and other_heldout.
    """
    digits = {"pretrain": 2, "train": 1, "other_heldout": 1}.get(split, 0)
    return md5(processid.encode(), usedforsecurity=False).hexdigest()[:digits] if digits else ""


def check_id(name: str, what: str = "processid") -> None:
    """Raises ValueError unless `name` can be part of a path: letters, digits, ".", "_" and "-", no "." in front."""
    if not ID.fullmatch(name):
        raise ValueError(
            f"The {what} {name[:80]!r} cannot be the name of a file: use letters from A to Z, digits, '.', '_' and "
            f"'-', with a letter or digit first."
        )


def image_path(processid: str, split: str, package: str) -> str:
    """Path of a photo inside the release: bioscan5m/images/PACKAGE/SPLIT/[CHUNK/]PROCESSID.jpg.

    Raises:
        ValueError: if the processid, split or package could lead out of the folder, see `check_id`.
    """
    for name, what in ((processid, "processid"), (split, "split"), (package, "package")):
        check_id(name, what)
    return "/".join(filter(None, ("bioscan5m/images", package, split, chunk(processid, split), f"{processid}.jpg")))
