"""Weights, options and sizes of published checkpoints of BERT encoders."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..models.configuration_barcodebert import BarcodeBertConfig
from ..models.vocabularies import VOCABULARIES
from .shapes import count_layers, find_vocabulary

#: Entries of a published `bert_config` that do not follow from the weights.
OPTIONS = (
    "num_attention_heads",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "layer_norm_eps",
    "initializer_range",
)

#: Size in the config -> the weight with this length.
SIZED = {
    "intermediate_size": "bert.encoder.layer.0.intermediate.dense.bias",
    "max_position_embeddings": "bert.embeddings.position_embeddings.weight",
    "type_vocab_size": "bert.embeddings.token_type_embeddings.weight",
}

State = dict[str, Tensor]


def weights_of(content: Mapping[str, Any], name: str) -> Mapping[str, Tensor]:
    """The weights of a checkpoint; raises ValueError if it has none."""
    weights = content.get("model", content.get("state_dict", content))
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(
            f"{name} holds no weights. Give a dict of tensors, or one with them as 'model' or 'state_dict'."
        )
    return weights


def options_of(content: Mapping[str, Any], key: str, name: str) -> Mapping[str, Any]:
    """The options under a key; empty if the key is missing."""
    options = content.get(key, {})
    if isinstance(options, argparse.Namespace):
        options = vars(options)
    if not isinstance(options, Mapping):
        raise ValueError(f"{key!r} in {name} is a {type(options).__name__}, not a dict of options.")
    return options


def training_options(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Options of the published training program; raises ValueError for overlapping k-mers."""
    trained = options_of(content, "config", name)
    if trained.get("stride", trained.get("k_mer")) != trained.get("k_mer"):
        raise ValueError(f"{name} uses overlapping k-mers (stride {trained['stride']}), which are not supported.")
    return trained


def bert_shape(state: State, shape: Mapping[str, Any], heads: int | None, name: str) -> dict[str, Any]:
    """Fields of a BERT config, from weights with the prefix "bert." and from the options of the file.

    Args:
        shape: The `bert_config` of the file; may be empty.
        heads: Attention heads, if the user gave them.

    Raises:
        ValueError: if the weights do not tell a size, contradict the options, or the number of heads is unknown.
    """
    words = state["bert.embeddings.word_embeddings.weight"]
    layers = count_layers(state, "bert.encoder.layer.", name)
    absent = [key for key in SIZED.values() if key not in state or state[key].ndim == 0]
    if absent or words.ndim != 2:
        raise ValueError(f"{name} has no {', '.join(absent) or 'matrix of word embeddings'}, so its shape is unknown.")
    found: dict[str, Any] = {"hidden_size": words.shape[1], "num_hidden_layers": layers, "vocab_size": len(words)}
    found |= {size: len(state[key]) for size, key in SIZED.items()}
    told = {key: shape[key] for key in OPTIONS if key in shape}
    if strange := [key for key, value in told.items() if not isinstance(value, int | float | str)]:
        raise ValueError(f"In the bert_config of {name}, {', '.join(strange)} must be numbers or names.")
    _check_same(found, shape, name)
    if heads is not None:
        told["num_attention_heads"] = heads
    elif "num_attention_heads" not in told:
        if found["hidden_size"] != 768:
            raise ValueError(
                f"{name} has no number of attention heads, and {found['hidden_size']} columns and {layers} layers are "
                f"not a published size. Give it (--heads, in Python num_attention_heads=)."
            )
        told["num_attention_heads"] = layers
    return found | told


def barcodebert_config(
    state: State,
    vocabularies: tuple[str, ...],
    shape: Mapping[str, Any],
    trained: Mapping[str, Any],
    heads: int | None,
    name: str,
    **more: Any,
) -> BarcodeBertConfig:
    """Config of a BERT over k-mers; `more` are fields that do not follow from the weights.

    A [CLS] token is told by `use_cls_token` of the options, because BarcodeMAE+ and the models of 2023 have as many
    tokens.
    """
    if trained.get("use_cls_token", False):
        vocabularies = ("barcodebert-cls",)
    words = state["bert.embeddings.word_embeddings.weight"]
    k, vocabulary = find_vocabulary(words.shape[0] if words.ndim else 0, vocabularies, name)
    fields = bert_shape(state, shape, heads, name)
    _check_same({"k": k}, {"k": trained.get("k_mer", k)}, name)
    longest = (fields["max_position_embeddings"] - VOCABULARIES[vocabulary].num_leading) * k
    return BarcodeBertConfig(
        k=k,
        vocabulary=vocabulary,
        max_nucleotides=int(trained.get("max_len", min(660, longest))),
        training_data=trained.get("dataset_name"),
        **(fields | more),
    )


def _check_same(found: Mapping[str, Any], says: Mapping[str, Any], name: str) -> None:
    contradictions = [
        f"{key} is {value}, the config says {says[key]}"
        for key, value in found.items()
        if says.get(key, value) != value
    ]
    if contradictions:
        raise ValueError(f"The weights of {name} contradict its config: {'; '.join(contradictions)}.")
