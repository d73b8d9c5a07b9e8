"""Shapes of encoders, read from the keys and sizes of their weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..models.configuration_barcodebert import VOCABULARIES


def count_layers(keys: Iterable[str], prefix: str, name: str) -> int:
    """Number of layers whose keys start with `prefix` and a number.

    Raises:
        ValueError: if they are not numbered 0, 1, ...; `name` is the checkpoint's, for the error.
    """
    numbers = {key.removeprefix(prefix).partition(".")[0] for key in keys if key.startswith(prefix)}
    if not numbers or numbers != {str(number) for number in range(len(numbers))}:
        found = ", ".join(sorted(numbers)) or "none"
        raise ValueError(f"{name} has the encoder layers {prefix}{{{found}}}; they must be numbered from 0 on.")
    return len(numbers)


def find_vocabulary(size: int, vocabularies: Sequence[str], name: str) -> tuple[int, str]:
    """k and vocabulary with `size` tokens.

    Raises:
        ValueError: if there is none with k from 1 to 8.
    """
    for vocabulary in vocabularies:
        letters, special_tokens, _ = VOCABULARIES[vocabulary]
        for k in range(1, 9):
            if size == len(letters) ** k + special_tokens:
                return k, vocabulary
    raise ValueError(f"{name} has {size} tokens, which fits no k from 1 to 8 of {' or '.join(vocabularies)}.")
