"""Which Parquet files hold which config and split, in a folder or in a repository of the Hub.

Three layouts are known: `CONFIG/SPLIT-*.parquet`, which `build` writes, `CONFIG/SPLIT/*.parquet`, to which the Hub
converts datasets, and plain files, `SPLIT*.parquet` or any names, at the top or in one folder such as `data/`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from ..schema import CONFIGS, SPLIT_ALIASES, SPLITS, UNASSIGNED

#: Stands for the split of files whose names do not tell it: their column `split` does.
BY_COLUMN = ""

_KNOWN = (*SPLITS, UNASSIGNED)


def split_order(split: str) -> tuple[int, str]:
    """Sort key of splits: the order of `SPLITS`, others behind them."""
    return (_KNOWN.index(split) if split in _KNOWN else len(_KNOWN), split)


def find_splits(names: Iterable[str], config: str, source: str) -> dict[str, list[str]]:
    """Split -> names of the Parquet files of a config, in the order of a build; `BY_COLUMN` for unnamed splits.

    Plain files stand for every config: a config with photos needs their column `image`. `names` are relative to the
    folder or repository `source`, with "/".

    Raises:
        ValueError: if the config is not there; the message lists the configs that are.
    """
    paths = [PurePosixPath(name) for name in names if name.endswith(".parquet")]
    paths = [path for path in paths if len(path.parts) <= 3 and not any(part.startswith(".") for part in path.parts)]
    folders = {path.parts[0] for path in paths if len(path.parts) > 1}
    if folders & set(CONFIGS):
        found = [(path, path.relative_to(config)) for path in paths if path.parts[0] == config]
        built = sorted(folders & set(CONFIGS))
    else:
        inner = sorted(folders - set(_KNOWN) - set(SPLIT_ALIASES))
        plain = len(inner) <= 1 and not (inner and any(len(path.parts) == 1 for path in paths))
        found = [(path, path.relative_to(inner[0]) if inner else path) for path in paths] if plain else []
        built = inner or ["files outside of any folder"]
    if not found:
        raise ValueError(f"{source!r} has no config {config!r}; it has {', '.join(built)}.")
    splits: dict[str, list[str]] = {}
    places: dict[str, tuple[PurePosixPath, str]] = {}
    for path, inside in sorted(found):
        name = _name_of_split(inside, source)
        split = SPLIT_ALIASES.get(name, name)
        split = split if split in _KNOWN else BY_COLUMN
        place = places.setdefault(split, (path.parent, name))
        if split != BY_COLUMN and place != (path.parent, name):
            raise ValueError(
                f"{source!r} holds {split} twice: {splits[split][0]} and {path}. Move one of them elsewhere."
            )
        splits.setdefault(split, []).append(str(path))
    return {split: splits[split] for split in sorted(splits, key=split_order)}


def _name_of_split(path: PurePosixPath, source: str) -> str:
    """The part of a path inside the folder of a config that can be the name of a split."""
    if len(path.parts) == 1:
        return re.split(r"[-.]", path.name)[0]
    name = path.parts[0]
    if name.startswith("partial-"):
        raise ValueError(
            f"{source!r} holds only a part of {name.removeprefix('partial-')} (in {path.parent}): the Hub "
            f"converts only the beginning of large datasets. Load the repository itself."
        )
    return name


def check_shards(names: Sequence[str], config: str, split: str, source: str) -> None:
    """Raises ValueError unless the shards of a split are complete by their names (-of-N)."""
    counts = {int(found[1]) for name in names if (found := re.search(r"-of-(\d+)\.parquet$", name))}
    if len(counts) > 1:
        several = " and ".join(f"{n:,}" for n in sorted(counts))
        raise ValueError(
            f"{source!r} mixes shards of several builds in {config}/{split} (of {several} shards): keep those of one."
        )
    if counts and len(names) != max(counts):
        raise ValueError(incomplete(source, len(names), max(counts), config, split))


def incomplete(source: str, held: int, needed: int, config: str, split: str) -> str:
    """The message for a split of which shards are missing."""
    return f"{source!r} holds {held} of the {needed} shards of {config}/{split}: copy or build the others."
