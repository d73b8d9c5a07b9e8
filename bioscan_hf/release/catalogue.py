"""The published files of BIOSCAN-5M and Canadian Invertebrates: names, sizes, digests, and which a config needs.

Source: https://zenodo.org/records/11973457, the PyPI package bioscan-dataset 1.3 and, for Canadian Invertebrates, its
repository at 4c176d9.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..schema import EVAL_SPLITS, check_config, resolve_splits

HUB_REPO = "bioscan-ml/BIOSCAN-5M"

#: Commit of the Hub repository that holds these files (bioscan-dataset pins its first seven digits).
REVISION = "eeefb301c2594124090842049cc38a0b0c7b2ecb"

PROJECT = "https://github.com/bioscan-ml/BIOSCAN-5M"
METADATA_NAME = "BIOSCAN_5M_Insect_Dataset_metadata"
METADATA_CSV = f"{METADATA_NAME}.csv"
METADATA_ZIP = f"{METADATA_NAME}_MultiTypes.zip"
BOXES_TSV = "BIOSCAN_5M_Insect_bbox.tsv"

#: Zips that are cut by split: group -> its splits.
SPLIT_GROUPS = {"pretrain": ("pretrain",), "train": ("train",), "eval": EVAL_SPLITS}

#: Number of zips of the packages that are not cut by split.
ZIP_PARTS = {"cropped": 2, "original_full": 5}

#: Number of zips of the group pretrain, where it comes in parts.
_PRETRAIN_PARTS = 2


@dataclass(frozen=True)
class Checksum:
    """Size in bytes and digest of a published file; None where they are not published."""

    size: int | None
    algorithm: str | None = None
    digest: str | None = None


@dataclass(frozen=True)
class PublishedFile:
    """A published file. It is correct if one of `checksums` matches; `about` is its size in words.

    `repo` is its dataset repository on the Hub, and `revision` the commit there that has this version.
    """

    name: str
    checksums: tuple[Checksum, ...] = ()
    about: str = "size not published"
    hosts: tuple[str, ...] = ("hub",)
    repo: str = HUB_REPO
    revision: str = REVISION

    @property
    def size(self) -> str:
        """The published size, in bytes if it is known exactly."""
        sizes = [checksum.size for checksum in self.checksums if checksum.size is not None]
        return f"{sizes[0]:,} bytes" if sizes else self.about


@dataclass(frozen=True)
class Need:
    """Data that a config needs, and the variants in which they are published, each a tuple of files."""

    what: str
    variants: tuple[tuple[PublishedFile, ...], ...]
    splits: tuple[str, ...] = ()


def zip_name(package: str, group: str = "", part: int = 0) -> str:
    """Published name of a zip of photos, such as BIOSCAN_5M_cropped_256_pretrain.01.zip."""
    return f"BIOSCAN_5M_{package}{group and '_' + group}{f'.{part:02}' if part else ''}.zip"


def zip_variants(package: str, group: str) -> tuple[tuple[str, ...], ...]:
    """Sets of zips that hold the photos of a group of splits: each set is enough."""
    parts = _PRETRAIN_PARTS if group == "pretrain" else 0
    variants = [
        (zip_name(package, group),),
        tuple(zip_name(package, group, part) for part in range(1, parts + 1)),
        (zip_name(package),),
        tuple(zip_name(package, part=part) for part in range(1, ZIP_PARTS.get(package, 0) + 1)),
    ]
    return tuple(variant for variant in variants if variant)


def _md5(size: int | None, digest: str) -> tuple[Checksum, ...]:
    return (Checksum(size, "md5", digest),)


# Size and digest as reported by the Hub at REVISION; not compared with the file itself here.
_CROPPED_SHA256 = Checksum(39119785806, "sha256", "609883a5a840d99f7ea3bd56f4c4f7739ee9fbe27e1e07b218c6ddbfee91eb2f")
_BOTH, _ZENODO, _DRIVE = ("hub", "zenodo"), ("zenodo",), ("drive",)
_TRAIN = _md5(2224548648, "3f170db5d95610644883dafc73389049")
_EVAL = _md5(1467020347, "16a997f72a8cd08cbcf7becafe2dda50")
_PART_1 = _md5(17914051002, "0e1cfa86dc7fa4d9c10036990992a2dd")
_PART_2 = _md5(17702405477, "ca3191d307957732e8108121b20a2059")

#: Every published file. Files marked "drive" are on Google Drive only, which also has all others except the two parts
#: of pretrain. The md5 of the metadata, train and eval are those of Zenodo. Only for the metadata does bioscan-dataset
#: say that the Hub has the same bytes, so the sha256 reported by the Hub is accepted as well.
INVENTORY = (
    PublishedFile(METADATA_ZIP, _md5(2065075527, "ac381b69fafdbaedc2f9cfb89e3571f7"), "2.1 GB", _BOTH),
    PublishedFile(BOXES_TSV, hosts=_DRIVE),
    PublishedFile(zip_name("cropped_256", "pretrain"), about="35.4 GB"),
    PublishedFile(zip_name("cropped_256", "pretrain", 1), _PART_1, "17.9 GB", _ZENODO),
    PublishedFile(zip_name("cropped_256", "pretrain", 2), _PART_2, "17.7 GB", _ZENODO),
    PublishedFile(zip_name("cropped_256", "train"), _TRAIN, "2.2 GB", _BOTH),
    PublishedFile(zip_name("cropped_256", "eval"), _EVAL, "1.5 GB", _BOTH),
    PublishedFile(zip_name("cropped_256"), (_CROPPED_SHA256,), "39.1 GB"),
    PublishedFile(zip_name("original_256", "pretrain")),
    PublishedFile(zip_name("original_256", "train"), about="2.1 GB"),
    PublishedFile(zip_name("original_256", "eval"), about="1.5 GB"),
    PublishedFile(zip_name("original_256"), about="37.8 GB"),
    *(PublishedFile(zip_name("cropped", part=i), about="about 40 GB", hosts=_DRIVE) for i in (1, 2)),
    *(PublishedFile(zip_name("original_full", part=i), about="under 40 GB", hosts=_DRIVE) for i in range(1, 6)),
)

#: The one file of Canadian Invertebrates, of all splits.
CANADIAN = PublishedFile(
    "CanInv_metadata.csv",
    _md5(None, "b93517975176a12f3c07f21be8c37fa5"),
    repo="bioscan-ml/CanadianInvertebrates-ML",
    revision="a8cb2b5",
)

DATASETS = ("bioscan-5m", "canadian-invertebrates")

#: md5 of the metadata CSV inside METADATA_ZIP.
CSV_CHECKSUM = Checksum(None, "md5", "603020b433ef566946efba7a08dbb23d")

#: md5 of the first and last photo of each split of cropped_256, and of a third one of pretrain.
SAMPLE_PHOTOS = {
    "pretrain/00/AACTA1040-20.jpg": "053311d26acb22a4726b867e558147ce",
    "pretrain/ff/YGEN686-22.jpg": "053df72d6162d7d7512bc6d5571b52bd",
    "pretrain/fe/YGEN2059-22.jpg": "5e0798d46efb11f6450150d07d185e7d",
    "train/0/AACTA1026-20.jpg": "a0746c803d07cbc7a87d808db763b8dc",
    "train/f/YGEN986-22.jpg": "42f3e0873cd924a0084adb31eb263fd2",
    "val/AACTA161-20.jpg": "43834d843e992b546abbcb0c6d6f0d43",
    "val/YGEN925-22.jpg": "c523319d0201306bd6fe530c362efeef",
    "test/AACTA1436-20.jpg": "dbe6de711585d84d5dd526dd42ce735d",
    "test/YGEN995-22.jpg": "e369efbe1ef0a4259fc8ba42d8cb4b4c",
    "key_unseen/AACTA5263-20.jpg": "856411c5ecfa238ce2dac607a1207784",
    "key_unseen/YGEN2149-22.jpg": "6d804a23ae6582e7d0ce9f296ad4390e",
    "val_unseen/ABOTH8801-22.jpg": "31e04be94df9f470ea79ff1266e36888",
    "val_unseen/YGEN2173-22.jpg": "8f63d89962ed4092bd205274bc24036f",
    "test_unseen/BCMIN4148-23.jpg": "d3542d6cc943256723a1a39a18f845e5",
    "test_unseen/YDBB974-21.jpg": "9cff547b03468b1552fb1647001d202f",
    "other_heldout/0/ABSSI1639-22.jpg": "82506b391cc33aa08b86f4c930c401a1",
    "other_heldout/f/YDBB6502-21.jpg": "0ea33145fcb57997605ea450a979e5d2",
}


def needs(config: str = "dna", split: str = "all", *, boxes: bool = False, dataset: str = "bioscan-5m") -> list[Need]:
    """Data that `config` needs for `split`: metadata, photos, and bounding boxes if `boxes`.

    Args:
        dataset: One of `DATASETS`. Canadian Invertebrates is one table of all splits.

    Raises:
        ValueError: for an unknown dataset, config or split, and a config, split or boxes of Canadian Invertebrates.
    """
    if dataset not in DATASETS:
        raise ValueError(f"Unknown dataset {dataset!r}. Choose one of {', '.join(DATASETS)}.")
    if dataset == "canadian-invertebrates":
        if (config, split, boxes) != ("dna", "all", False):
            raise ValueError(
                "Canadian Invertebrates is one table of all splits, without photos and boxes: leave config, split and "
                "boxes out."
            )
        return [Need("table", ((CANADIAN,),))]
    check_config(config)
    wanted = resolve_splits(split)
    files = {file.name: file for file in INVENTORY}
    found = [Need("metadata", ((files[METADATA_ZIP],),))]
    if boxes:
        found.append(Need("bounding boxes", ((files[BOXES_TSV],),)))
    if config == "dna":
        return found
    groups = {"all": wanted} if config in ZIP_PARTS else SPLIT_GROUPS
    for group, splits in groups.items():
        inside = tuple(name for name in wanted if name in splits)
        variants = [names for names in zip_variants(config, group) if all(name in files for name in names)]
        if inside:
            published = tuple(tuple(files[name] for name in names) for names in variants)
            found.append(Need(f"{config} photos of {group}", published, inside))
    return found
