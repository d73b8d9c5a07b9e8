"""Checks and loading of what a trainer starts from: rows, a pretrained model and its tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow.compute as pc
from datasets import Dataset
from transformers import AutoConfig, PreTrainedConfig
from transformers.utils import cached_file

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


def check_batch(data: Dataset, split: str, smallest: int) -> None:
    """Raises ValueError if a split has fewer rows than one batch over all processes."""
    if len(data) < smallest:
        raise ValueError(
            f"The split {split!r} has {len(data)} rows, fewer than one batch over all processes ({smallest}). Give a "
            f"smaller --per_device_train_batch_size."
        )


def check_model_name(name: str) -> None:
    """Raises FileNotFoundError unless `name` is a folder or has the form of a Hub id."""
    if not Path(name).is_dir() and (Path(name).is_absolute() or name.count("/") != 1):
        raise FileNotFoundError(
            f"The model {name!r} is neither an existing folder nor a Hub id (owner/name). Give one of them."
        )


def load_tokenizer(model: str, types: Sequence[str]) -> tuple[PreTrainedConfig, KmerTokenizer]:
    """Config and tokenizer of a pretrained barcode encoder.

    Args:
        model: Folder or Hub id.
        types: Allowed model types.

    Raises:
        ValueError: if the model has another type, or the tokenizer does not fit it.
        FileNotFoundError: if there is no model or no tokenizer.
    """
    check_model_name(model)
    config = AutoConfig.from_pretrained(model)
    if config.model_type not in types:
        raise ValueError(
            f"{model!r} is a model of type {config.model_type!r}. Give a model of type {' or '.join(types)}; "
            f"`bioscan-hf convert` converts a published checkpoint."
        )
    if cached_file(model, "tokenizer.json", _raise_exceptions_for_missing_entries=False) is None:
        raise FileNotFoundError(
            f"{model!r} has no tokenizer.json. Save its tokenizer there: KmerTokenizer(k={config.k}, "
            f"vocabulary={config.vocabulary!r}).save_pretrained(...)."
        )
    tokenizer = KmerTokenizer.from_pretrained(model)
    for name in ("k", "vocabulary", "max_nucleotides"):
        if getattr(tokenizer, name) != getattr(config, name):
            raise ValueError(
                f"The tokenizer of {model!r} has {name} {getattr(tokenizer, name)!r}, but its config has "
                f"{getattr(config, name)!r}. Save the tokenizer that belongs to the model."
            )
    return config, tokenizer
