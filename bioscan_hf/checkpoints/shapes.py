"""Checks of the keys and shapes of weights, the sizes of encoders that follow from them, and saving of models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..models.vocabularies import VOCABULARIES

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check_state(
    name: str,
    model: str,
    state: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    *,
    missing: Sequence[str] = (),
    unexpected: Sequence[str] = (),
    shapes: Sequence[str] = (),
    most: int | None = None,
) -> None:
    """Raises ValueError, with the wrong keys, unless `state` has the keys and shapes of `expected`.

    Args:
        missing, unexpected, shapes: Other problems that the caller found.
        most: Number of keys of each kind in the error; None names all.
    """
    absent = [*(key for key in expected if key not in state), *missing]
    extra = [*unexpected, *(key for key in state if key not in expected)]
    other = [
        f"{key} is {tuple(value.shape)}, not {tuple(expected[key].shape)}"
        for key, value in state.items()
        if key in expected and value.shape != expected[key].shape
    ]
    other += shapes

    def listed(keys: Sequence[str], separator: str = ", ") -> str:
        more = f" and {len(keys) - most} more" if most is not None and len(keys) > most else ""
        return f"{separator.join(keys[:most]) or 'none'}{more}"

    if absent or extra or other:
        raise ValueError(
            f"The weights of {name} do not make a {model}: missing are {listed(absent)}; unexpected are "
            f"{listed(extra)}; of other shapes are {listed(other, '; ')}."
        )


def save_with(model: PreTrainedModel, state: Mapping[str, Tensor], output: Path, name: str) -> None:
    """Writes a model with the weights `state` of the checkpoint `name`; errors are those of `check_state`."""
    check_state(name, type(model).__name__, state, model.state_dict())
    model.load_state_dict(state)
    model.eval().save_pretrained(output)


def name_classes(config: Any, labels: Sequence[str] | None, count: int, name: str) -> None:
    """Sets the class names of a classifier, LABEL_0 and so on without `labels`; ValueError for another number."""
    if labels is not None and len(labels) != count:
        raise ValueError(f"{name} has {count} classes, but {len(labels)} labels were given.")
    config.id2label = dict(enumerate(labels or [f"LABEL_{i}" for i in range(count)]))
    config.label2id = {label: i for i, label in config.id2label.items()}


def count_layers(keys: Iterable[str], prefix: str, name: str) -> int:
    """Number of layers whose keys start with `prefix` and a number; raises ValueError unless they are 0, 1, ..."""
    numbers = {key.removeprefix(prefix).partition(".")[0] for key in keys if key.startswith(prefix)}
    if not numbers or numbers != {str(number) for number in range(len(numbers))}:
        found = ", ".join(sorted(numbers)) or "none"
        raise ValueError(f"{name} has the encoder layers {prefix}{{{found}}}; they must be numbered from 0 on.")
    return len(numbers)


def find_vocabulary(size: int, vocabularies: Sequence[str], name: str) -> tuple[int, str]:
    """k from 1 to 8 and vocabulary with `size` tokens; raises ValueError if there are none."""
    for vocabulary in vocabularies:
        for k in range(1, 9):
            if size == VOCABULARIES[vocabulary].size(k):
                return k, vocabulary
    raise ValueError(f"{name} has {size} tokens, which fits no k from 1 to 8 of {' or '.join(vocabularies)}.")
