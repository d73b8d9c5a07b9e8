"""Finds metadata, boxes and photos in the folder of a release.

Layout: https://arxiv.org/abs/2406.12723.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path

from ..schema import IMAGE_PACKAGES
from .catalogue import BOXES_TSV, METADATA_NAME, METADATA_ZIP, SPLIT_GROUPS, ZIP_PARTS, zip_variants

#: Endings of tables.
TABLE_NAME = re.compile(r"\.(csv|tsv|json|jsonl|jsonld)(\.gz)?$", re.IGNORECASE)

_ZIP_NAME = re.compile(rf"BIOSCAN_5M_({'|'.join(IMAGE_PACKAGES)})(?:_(pretrain|train|eval))?(?:\.\d\d)?\.zip")


def is_metadata(name: str) -> bool:
    """Whether a file name is that of a table: .csv, .tsv, .txt, .json, .jsonl or .jsonld, also with .gz, or .zip."""
    return bool(TABLE_NAME.search(name)) or name.lower().endswith((".txt", ".txt.gz", ".zip"))


def find_metadata(source: str | Path) -> Path:
    """Path of the metadata of a release folder; `source` itself if it is a file.

    A CSV is preferred to a TSV, JSON-LD and the published zip, in this order.

    Raises:
        FileNotFoundError: if there are none; the message names the places that were searched.
        ValueError: if `source` is a file of another kind, or a pipe, which could be read only once.
    """
    source = Path(source)
    if source.is_file():
        if not is_metadata(source.name):
            raise ValueError(
                f"{str(source)!r} is not a metadata file: give a .csv, .tsv, .txt, .json, .jsonl or .jsonld (or "
                f"one with .gz), the published {METADATA_ZIP}, or the folder of a release."
            )
        return source
    if source.exists() and not source.is_dir():
        raise ValueError(f"{str(source)!r} is a pipe or a device. Write what it gives to a file, and name the file.")
    places = [
        folder / f"{METADATA_NAME}.{kind}"
        for kind in ("csv", "tsv", "jsonld")
        for folder in (source / f"bioscan5m/metadata/{kind}", source / f"metadata/{kind}", source)
    ]
    places.append(source / METADATA_ZIP)
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(
        f"No metadata in {str(source)!r}: looked for {METADATA_NAME}.csv, .tsv and .jsonld there, in metadata/ and in "
        f"bioscan5m/metadata/, and for {METADATA_ZIP}. Give the folder that holds bioscan5m/, or the file itself."
    )


def photo_root(source: str | Path) -> Path:
    """Folder that holds the zips and bioscan5m/, for the folder of a release or its metadata."""
    path = find_metadata(source)
    if Path(source).is_dir():
        return Path(source)
    if path.parent.name not in ("csv", "tsv", "jsonld") or path.parents[1].name != "metadata":
        return path.parent
    return path.parents[3] if path.parents[2].name == "bioscan5m" else path.parents[2]


def find_boxes(metadata: Path) -> Path | None:
    """The table of boxes in the release of `metadata`, or beside the file; None if there is none."""
    places = (photo_root(metadata) / BOXES_TSV, metadata.parent / BOXES_TSV)
    return next((place for place in places if place.is_file()), None)


def photo_folder(root: Path, package: str, split: str = "") -> Path | None:
    """Folder with the photos of a package (and split), None if there is none."""
    places = (root / "bioscan5m/images" / package / split, root / "images" / package / split)
    return next((place for place in places if place.is_dir()), None)


def photo_zips(root: Path, package: str, splits: Collection[str] | None = None) -> list[Path]:
    """Zips of a package in the folder of a release, by their published names; those that can hold `splits`."""
    groups = None if splits is None else {None, *(_group(split) for split in splits)}
    found = ((path, _ZIP_NAME.fullmatch(path.name)) for path in sorted(root.glob("BIOSCAN_5M_*.zip")))
    return [
        path
        for path, match in found
        if match is not None and match[1] == package and (groups is None or match[2] in groups)
    ]


def _group(split: str) -> str:
    """The group of splits that share zips."""
    return next((group for group, inside in SPLIT_GROUPS.items() if split in inside), "eval")


def packages(root: str | Path) -> list[str]:
    """Image packages with photos in the folder of a release, in the order of `IMAGE_PACKAGES`."""
    root = Path(root)
    return [name for name in IMAGE_PACKAGES if photo_folder(root, name) or photo_zips(root, name)]


def missing_zips(root: str | Path, package: str, splits: Iterable[str]) -> dict[str, list[str]]:
    """Split -> zip files still missing. Complete splits are omitted.

    A split is complete if its folder exists, or the zip of its group (pretrain, train, eval) or all its parts, or the
    zip of the whole package or all its parts.
    """
    root = Path(root)
    missing: dict[str, list[str]] = {}
    for split in splits:
        variants = zip_variants(package, _group(split))
        lacking = [[name for name in names if not (root / name).is_file()] for names in variants]
        if photo_folder(root, package, split) or not all(lacking):
            continue
        begun = [names for names, all_names in zip(lacking, variants, strict=True) if len(names) < len(all_names)]
        missing[split] = begun[0] if begun else lacking[-1] if package in ZIP_PARTS else lacking[0]
    return missing
