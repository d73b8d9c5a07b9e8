"""Checks and loading of what a trainer starts from: rows, a pretrained model and its tokenizer."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from pathlib import Path
from typing import Any, cast

import pyarrow.compute as pc
from datasets import Dataset
from huggingface_hub import snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from transformers import AutoConfig, PreTrainedConfig
from transformers.utils import cached_file

from ..dataset.load import load_bioscan5m
from ..files import is_missing_path
from ..models import register  # noqa: F401  (our classes for AutoConfig)
from ..models.tokenization_kmer import KmerTokenizer


def check_rows(data: Dataset, source: str, split: str) -> None:
    """Raises ValueError if a split has no rows, or rows without a barcode."""
    if len(data) == 0:
        raise ValueError(f"The split {split!r} of {source!r} has no rows. Choose another split or source.")
    batches = data.select_columns(["dna_barcode"]).with_format("arrow").iter(batch_size=10_000)
    missing = sum(pc.sum(pc.equal(pc.fill_null(batch["dna_barcode"], ""), "")).as_py() for batch in batches)
    if missing:
        raise ValueError(f"{missing} of {len(data)} rows of the split {split!r} have no barcode. Remove them first.")


def check_batch(data: Sized, split: str, smallest: int) -> None:
    """Raises ValueError if a split has fewer rows than one batch over all processes."""
    if len(data) < smallest:
        raise ValueError(
            f"The split {split!r} has {len(data)} rows, fewer than one batch over all processes ({smallest}). Give a "
            f"smaller --per_device_train_batch_size."
        )


def split_revision(name: str) -> tuple[str, str | None]:
    """Hub id and branch, tag or commit of "owner/name@revision"; None without one, and for a path that exists."""
    if Path(name).exists() or "@" not in name:
        return name, None
    name, _, revision = name.rpartition("@")
    return name, revision


def pinned(model: str) -> str:
    """A folder or Hub id; of "owner/name@revision" the folder in the cache, to which it is downloaded.

    Raises FileNotFoundError if it is neither, or the Hub has no such revision.
    """
    name, revision = split_revision(model)
    lacking = is_missing_path(name) if revision is None else name.count("/") != 1
    if not Path(name).is_dir() and (lacking or Path(name).exists()):
        raise FileNotFoundError(
            f"The model {name!r} is neither an existing folder nor a Hub id (owner/name or owner/name@REVISION). Give "
            f"one of them."
        )
    if revision is None:
        return name
    try:
        return str(snapshot_download(name, revision=revision, ignore_patterns=["*.h5", "*.msgpack", "*.onnx", "*.ot"]))
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise FileNotFoundError(f"The Hub has no model {name!r} with a revision {revision!r}.") from None


def load_rows(source: str, split: str, **how: Any) -> Dataset:
    """Rows of a split, by `load_bioscan5m`, of a source that may also be "owner/name@revision".

    Raises ValueError if the split is empty, or if a row has no barcode.
    """
    name, revision = split_revision(source)
    data = cast(Dataset, load_bioscan5m(name, split=split, revision=revision, **how))
    check_rows(data, source, split)
    return data


def load_tokenizer(model: str, types: Sequence[str]) -> tuple[PreTrainedConfig, KmerTokenizer]:
    """Config and tokenizer of a pretrained barcode encoder, a folder or Hub id.

    Raises:
        ValueError: if the model has another type than the allowed ones, or the tokenizer does not fit it.
        FileNotFoundError: if there is no model or no tokenizer.
    """
    model = pinned(model)
    config = AutoConfig.from_pretrained(model)
    if config.model_type not in types:
        raise ValueError(
            f"{model!r} is a model of type {config.model_type!r}. Give a model of type {' or '.join(types)}; "
            f"`bioscan-hf convert` converts a published checkpoint."
        )
    if cached_file(model, "tokenizer.json", _raise_exceptions_for_missing_entries=False) is None:
        raise FileNotFoundError(
            f"{model!r} has no tokenizer.json. Save its KmerTokenizer there, of k {config.k} and "
            f"vocabulary {config.vocabulary!r}."
        )
    tokenizer = KmerTokenizer.from_pretrained(model)
    for name in ("k", "vocabulary", "max_nucleotides"):
        if getattr(tokenizer, name) != getattr(config, name):
            raise ValueError(
                f"The tokenizer of {model!r} has {name} {getattr(tokenizer, name)!r}, but its config has "
                f"{getattr(config, name)!r}. Save the tokenizer that belongs to the model."
            )
    return config, tokenizer
