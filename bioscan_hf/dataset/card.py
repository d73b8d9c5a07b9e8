"""README.md of a dataset folder. The template is `dataset_script/dataset_card.md`.

The tables of splits and the keys `configs` and `size_categories` of the header are generated at each build and upload.
Everything else is the user's: once it is edited, it is kept. A comment at the end of the card holds two hashes: of the
text that was generated, and of the folder's text at the last upload.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import yaml

from .. import __version__
from ..cards import size_category, table
from ..files import write_text
from ..release.catalogue import METADATA_NAME
from ..schema import METASPLITS

CARD_FILE = "README.md"

#: Keys of the header that are generated.
GENERATED_KEYS = ("size_categories", "configs")

#: Rows of each split of BIOSCAN-5M. Source: https://arxiv.org/abs/2406.12723, table 3.
PUBLISHED_ROWS = {
    "pretrain": 4_677_756,
    "train": 289_203,
    "val": 14_757,
    "test": 39_373,
    "key_unseen": 36_465,
    "val_unseen": 8_819,
    "test_unseen": 7_887,
    "other_heldout": 76_590,
}

_BEGIN = "<!-- bioscan_hf: generated from here, edits are lost -->"
_END = "<!-- bioscan_hf: end of the generated part -->"
_SECTION = re.compile(rf"{re.escape(_BEGIN)}.*?{re.escape(_END)}", re.DOTALL)
_MARK = re.compile(r"\s*<!-- bioscan_hf: card ([0-9a-f]{16}) ([0-9a-f]{16}) -->")

_ATTRIBUTION = """\
The data of BIOSCAN-5M are licensed under [CC BY 3.0 Unported](https://creativecommons.org/licenses/by/3.0/).
Users must give credit to:

- copyright holder: CBG Photography Group (2021), Centre for Biodiversity Genomics, CBGImaging@gmail.com
- photographer: CBG Robotic Imager
- specimens: Centre for Biodiversity Genomics, collectionsBIO@gmail.com

Changed here: the files are repackaged as Parquet; values and photos are as released."""

_BIAS = """\
The sampling of BIOSCAN-5M is biased: more than 60 % of it was collected in Costa Rica, and most of it is Diptera.
Most specimens have no species name. Labels follow the barcode clusters and the knowledge at the time of labelling.
A null is not a taxon."""

_UNSTATED = "The licence of these data is the one at the top of this page. `other` means that it is not stated."


def is_bioscan5m(source: str, counts: Mapping[str, int]) -> bool:
    """Whether a build is of BIOSCAN-5M: by the name of its metadata, and the number of rows of each split."""
    return source.startswith(METADATA_NAME) and all(PUBLISHED_ROWS.get(split) == n for split, n in counts.items())


def dataset_card(
    source: str,
    configs: Sequence[str],
    counts: Mapping[str, int],
    fingerprints: Mapping[str, str],
    statistics: Sequence[Mapping[str, Any]] | None = None,
) -> str:
    """README.md of a dataset folder: YAML for `load_dataset` and a description.

    Args:
        source: Name of the file that the dataset was built from.
        fingerprints: Config -> fingerprint of its content. The cache of `load_dataset` identifies a local folder by
            its name and this YAML only; the fingerprint keeps two folders "dataset" apart.
        statistics: `split`, `samples`, `barcodes` and `species` of each split and of the total; without them the table
            of splits has only rows.
    """
    published = is_bioscan5m(source, counts)
    default = next((config for config in configs if config != "dna"), "dna")
    header = {
        "license": "cc-by-3.0" if published else "other",
        "pretty_name": "BIOSCAN-5M" if published else "Specimens with DNA barcodes",
        "task_categories": ["image-classification", "zero-shot-image-classification", "feature-extraction"],
        "tags": ["biology", "biodiversity", "dna", "dna-barcode", "arthropods"],
        "size_categories": [size_category(sum(counts.values()))],
        "configs": [
            {
                "config_name": config,
                "description": f"Build {fingerprints[config]}.",
                **({"default": True} if config == default else {}),
                "data_files": [{"split": split, "path": f"{config}/{split}-*.parquet"} for split in counts],
            }
            for config in configs
        ],
    }
    template = Template(files("bioscan_hf.dataset_script").joinpath("dataset_card.md").read_text(encoding="utf-8"))
    card = template.substitute(
        header=_dump(header),
        title=header["pretty_name"],
        version=__version__,
        source=" ".join(source.split()).replace("`", "'"),
        default=default,
        split=next(iter(counts)),
        splits=f"{_BEGIN}\n{_splits(counts, statistics)}\n{_END}",
        limits=_BIAS if published else "Labels follow the knowledge at the time of labelling. A null is not a taxon.",
        licence=_ATTRIBUTION if published else _UNSTATED,
    )
    digest = _digest(card)
    return _marked(card, digest, digest)


def write_card(folder: Path, generated: str) -> None:
    """Writes the card of a build; in a card that was edited, only the generated parts are replaced."""
    path = folder / CARD_FILE
    old = read_card(path)
    write_text(path, renewed(old, generated) if old is not None and is_edited(old) else generated)


def read_card(path: str | Path) -> str | None:
    """Content of a card; None if there is none. Raises ValueError unless it is UTF-8."""
    if not Path(path).is_file():
        return None
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}). Save it as UTF-8, or delete it.") from None


def merged(
    local: str | None, there: str | None, generated: str, *, force: bool = False, license: str | None = None
) -> str:
    """The card to publish: it keeps what was edited in the folder or on the Hub.

    It is edited if it has other words than those that were generated. A licence (id) counts as an edit, so later
    uploads keep it. Raises ValueError if both cards were edited since the last upload, unless `force` makes the one of
    the folder replace the other; or if a header is not YAML.
    """
    edited = local is not None and is_edited(local)
    mine = local if local is not None and edited else generated
    chosen = mine
    if there is not None and is_edited(there) and _own(there) != _own(mine):
        uploaded = (_MARK.search(there) or [""] * 3)[2]
        if not edited or _digest(mine) == uploaded:
            chosen = there
        elif _digest(there) != uploaded and not force:
            raise ValueError(
                f"{CARD_FILE} was edited here and on the Hub since the last upload. Copy what you want to keep from "
                f"the Hub into {CARD_FILE} of the folder, then give --force (in Python force=True) to publish that."
            )
    if license is not None:
        chosen = _with_key(chosen, "license", _dump({"license": license}))
    return renewed(chosen, generated, uploaded=mine)


def pending(card: str) -> str:
    """The card during an upload: its only config has no files, so nothing can be loaded."""
    name = "upload_not_finished"
    config = [{"config_name": name, "data_files": f"{name}/*.parquet"}]
    notice = "**This dataset is being uploaded. It can be loaded when this page shows its splits here.**"
    return _SECTION.sub(f"{_BEGIN}\n{notice}\n{_END}", _with_key(card, "configs", _dump({"configs": config})))


def renewed(card: str, generated: str, uploaded: str | None = None) -> str:
    """A card with the generated parts of another; the rest stays, letter by letter.

    The hash of `uploaded`, the card of the folder, is noted for the next upload; by default that of `card`. Raises
    ValueError if the header of the card is not YAML.
    """
    new, (header, _) = _split(generated), _split(card)
    try:
        fields = yaml.safe_load(header) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"The header of {CARD_FILE} is not YAML ({' '.join(str(error).split())}).") from None
    if not isinstance(fields, dict):
        raise ValueError(f"The header of {CARD_FILE} is not a list of `name: value` lines.")
    fresh = yaml.safe_load(new[0])
    for key in GENERATED_KEYS:
        card = _with_key(card, key, _dump({key: fresh[key]}))
    section = _SECTION.search(generated)
    if section is not None:
        card = _SECTION.sub(lambda _: section[0], card)
    generated_digest = (_MARK.search(generated) or [""] * 2)[1]
    return _marked(card, generated_digest, _digest(uploaded or card))


def is_edited(card: str) -> bool:
    """Whether a card has other words than those that were generated."""
    mark = _MARK.search(card)
    return mark is None or mark[1] != _digest(card)


def _dump(fields: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(fields), sort_keys=False, allow_unicode=True)


def _split(card: str) -> tuple[str, str]:
    """Header and text of a card."""
    found = re.match(r"\s*---[ \t]*\r?\n(.*?\r?\n)?---[ \t]*(?:\r?\n|$)", card, re.DOTALL)
    return ("", card) if found is None else (found[1] or "", card[found.end() :])


def _with_key(card: str, key: str, lines: str) -> str:
    """The card with a key of its header replaced, or added."""
    header, text = _split(card)
    block = re.compile(rf"^{key}:.*(?:\n(?:[ \t-].*|[ \t]*(?=\n[ \t-])))*\n?", re.MULTILINE)
    header = block.sub(lambda _: lines, header, count=1) if block.search(header) else header + lines
    return f"---\n{header}---\n{text}"


def _own(card: str) -> str:
    """What a card holds besides the generated parts."""
    for key in GENERATED_KEYS:
        card = _with_key(card, key, "")
    return _SECTION.sub(_BEGIN, _MARK.sub("", card)).replace("\r\n", "\n").strip()


def _digest(card: str) -> str:
    return hashlib.sha256(_own(card).encode()).hexdigest()[:16]


def _marked(card: str, generated: str, uploaded: str) -> str:
    return f"{_MARK.sub('', card).rstrip()}\n\n<!-- bioscan_hf: card {generated} {uploaded} -->\n"


def _splits(counts: Mapping[str, int], statistics: Sequence[Mapping[str, Any]] | None) -> str:
    sets = {"pretrain": "unknown", "other_heldout": "held out"}
    sets |= {split: name for name in ("seen", "unseen") for split in METASPLITS[name]}
    columns = ("samples",) if statistics is None else ("samples", "barcodes", "species")
    if statistics is None:
        statistics = [{"split": split, "samples": n} for split, n in counts.items()]
    rows = [(row["split"], *(row[column] for column in columns), sets.get(row["split"], "")) for row in statistics]
    return (
        f"Rows: **{sum(counts.values()):,}** in all. Each barcode is counted once; N at its ends is ignored.\n\n"
        f"{table(('split', *columns, 'species are'), rows)}"
    )
