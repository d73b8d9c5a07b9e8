"""Converts published BarcodeBERT and CLIBD checkpoints to folders for `from_pretrained`.

All layouts since 2023 are supported (https://arxiv.org/abs/2311.02401; `clibd.py` for CLIBD). They are recognised by
their keys, every key must be known, and nothing in the file runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..models.configuration_barcodebert import BarcodeBertConfig
from ..models.modeling_barcodebert import BarcodeBertForMaskedLM, BarcodeBertForSequenceClassification
from ..models.tokenization_kmer import KmerTokenizer
from .safe_load import load_checkpoint
from .shapes import check_state, count_layers, find_vocabulary

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

#: Prefixes of CLIBD's keys.
CLIBD = ("image_encoder.", "dna_encoder.", "language_encoder.", "open_clip_model.")

State = dict[str, Tensor]


def convert_checkpoint(
    checkpoint: str | Path | Mapping[str, Any],
    output_dir: str | Path,
    *,
    labels: Sequence[str] | None = None,
    num_attention_heads: int | Mapping[str, int] | None = None,
    adapters: str = "merge",
    text_tokenizer: PreTrainedTokenizerBase | None = None,
) -> Path:
    """Converts a published checkpoint to a folder with model and tokenizer, and returns the folder.

    Masked language models (since 2024, or of 2023 with a tied head) become `BarcodeBertForMaskedLM`, fine-tuned
    classifiers `BarcodeBertForSequenceClassification`, and every `best.pth` of CLIBD `ClibdModel` with a
    `ClibdProcessor`. Files may hold a training state or only weights, of one process or several.

    Args:
        checkpoint: File written by torch.save, or its content: weights, or a dict with the weights as "model" or
            "state_dict" and the shape as "bert_config".
        output_dir: New or empty folder.
        labels: Class names of a classifier, in the order of its outputs. Published files do not have them.
        num_attention_heads: Required if the file has no config and is not of a published size. Published BarcodeBERT
            models have as many heads as layers, CLIBD's encoders one head per 64 columns. For CLIBD also modality
            (image, dna, text) -> heads.
        adapters: For CLIBD. "merge" adds low-rank adapters to the weights; "keep" writes them to the folder "adapter",
            for `load_lora`.
        text_tokenizer: For CLIBD: tokenizer of the text encoder (published: "prajjwal1/bert-small"), which the file
            does not have. It can also be given when the processor is loaded.

    Raises:
        FileExistsError: if the folder is not empty.
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged or of an unknown layout (its keys are named), keys are missing or
            unexpected (all are named), or the number of `labels` is not that of the classes.
    """
    output = Path(output_dir)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"{str(output)!r} is not empty. Give a new folder.")
    content = load_checkpoint(checkpoint) if isinstance(checkpoint, str | Path) else checkpoint
    name = str(checkpoint) if isinstance(checkpoint, str | Path) else "the checkpoint"
    weights = _tensors(content, name)
    if any(key.removeprefix("module.").startswith(CLIBD) for key in weights):
        from .clibd import convert_clibd  # needs the packages for photos

        if labels is not None:
            raise ValueError(f"{name} is a CLIBD model: it has no classes. Leave labels out.")
        return convert_clibd(weights, output, name, num_attention_heads, adapters, text_tokenizer)
    if isinstance(num_attention_heads, Mapping) or adapters != "merge" or text_tokenizer is not None:
        raise ValueError(
            f"{name} is a BarcodeBERT model: heads by modality, adapters and text tokenizers are for CLIBD."
        )
    model = _model(content, weights, labels, num_attention_heads, name)
    model.eval().save_pretrained(output)
    config = model.config
    KmerTokenizer(config.k, config.vocabulary, config.max_nucleotides).save_pretrained(output)
    return output


def _model(
    content: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    labels: Sequence[str] | None,
    heads: int | None,
    name: str,
) -> PreTrainedModel:
    """The BarcodeBERT of a checkpoint, see `convert_checkpoint`."""
    state, kind = _weights(weights, name)
    shape = _options(content, "bert_config", name)
    trained = _options(content, "config", name)
    if trained.get("stride", trained.get("k_mer")) != trained.get("k_mer"):
        raise ValueError(f"{name} uses overlapping k-mers (stride {trained['stride']}), which are not supported.")
    config = _config(state, kind, shape, trained, heads, name)
    if kind == "classifier":
        if "taxon_classifier.weight" not in state:
            raise ValueError(f"{name} is a fine-tuned classifier without its classifier.weight.")
        n = len(state["taxon_classifier.weight"])
        if labels is not None and len(labels) != n:
            raise ValueError(f"{name} has {n} classes, but {len(labels)} labels were given.")
        config.id2label = {i: label for i, label in enumerate(labels or [f"LABEL_{i}" for i in range(n)])}
        config.label2id = {label: i for i, label in config.id2label.items()}
        model: PreTrainedModel = BarcodeBertForSequenceClassification(config)
    elif labels is not None:
        raise ValueError(f"{name} is a masked language model: it has no classes. Leave labels out.")
    else:
        model = BarcodeBertForMaskedLM(config)
    check_state(name, type(model).__name__, state, model.state_dict())
    model.load_state_dict(state)
    return model


def _options(content: Mapping[str, Any], key: str, name: str) -> Mapping[str, Any]:
    """The options under a key; empty if the key is missing."""
    options = content.get(key, {})
    if isinstance(options, argparse.Namespace):
        options = vars(options)
    if not isinstance(options, Mapping):
        raise ValueError(f"{key!r} in {name} is a {type(options).__name__}, not a dict of options.")
    return options


def _tensors(content: Mapping[str, Any], name: str) -> Mapping[str, Tensor]:
    weights = content.get("model", content.get("state_dict", content))
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(
            f"{name} holds no weights. Give a dict of tensors, or one with them as 'model' or 'state_dict'."
        )
    return weights


def _weights(weights: Mapping[str, Tensor], name: str) -> tuple[State, str]:
    """The weights under our keys, and their kind: "kmers", "tied" or "classifier"."""
    state: State = {}
    fine_tuned = False
    for key, value in weights.items():
        key = key.removeprefix("module.")  # DistributedDataParallel
        fine_tuned |= key.startswith("base_model.")
        key = key.removeprefix("base_model.")
        if key in state:
            raise ValueError(f"{name} has the weight {key} twice, with and without a prefix.")
        if not key.endswith("position_ids"):  # a buffer that transformers < 4.31 saved
            state[key] = value
    if "bert.embeddings.word_embeddings.weight" not in state:
        raise ValueError(
            f"{name} is of an unknown layout: it has no bert.embeddings.word_embeddings.weight, with or without the "
            f"prefixes 'module.' and 'base_model.'. Its keys begin with {', '.join(list(state)[:5]) or 'nothing'}."
        )
    if fine_tuned:
        return {key.replace("classifier.", "taxon_classifier."): value for key, value in state.items()}, "classifier"
    return state, "tied" if any(key.startswith("cls.predictions.") for key in state) else "kmers"


def _config(
    state: State, kind: str, shape: Mapping[str, Any], trained: Mapping[str, Any], heads: int | None, name: str
) -> BarcodeBertConfig:
    words = state["bert.embeddings.word_embeddings.weight"]
    layers = count_layers(state, "bert.encoder.layer.", name)
    absent = [key for key in SIZED.values() if key not in state or state[key].ndim == 0]
    if absent or words.ndim != 2:
        raise ValueError(f"{name} has no {', '.join(absent) or 'matrix of word embeddings'}, so its shape is unknown.")
    known = ("barcodebert-2023",) if kind == "tied" else ("barcodebert", "barcodebert-n")
    k, vocabulary = find_vocabulary(len(words), known, name)
    found: dict[str, Any] = {"hidden_size": words.shape[1], "num_hidden_layers": layers, "vocab_size": len(words)}
    found |= {size: len(state[key]) for size, key in SIZED.items()}
    told = {key: shape[key] for key in OPTIONS if key in shape}
    if strange := [key for key, value in told.items() if not isinstance(value, int | float | str)]:
        raise ValueError(f"In the bert_config of {name}, {', '.join(strange)} must be numbers or names.")
    says = {**shape, "k": trained.get("k_mer", k)}
    contradictions = [
        f"{key} is {value}, the config says {says[key]}"
        for key, value in (found | {"k": k}).items()
        if says.get(key, value) != value
    ]
    if contradictions:
        raise ValueError(f"The weights of {name} contradict its config: {'; '.join(contradictions)}.")
    if heads is not None:
        told["num_attention_heads"] = heads
    elif "num_attention_heads" not in told:
        if found["hidden_size"] != 768:
            raise ValueError(
                f"{name} has no number of attention heads, and {found['hidden_size']} columns and {layers} layers are "
                f"not a published size. Give it (num_attention_heads=, --heads)."
            )
        told["num_attention_heads"] = layers
    return BarcodeBertConfig(
        k=k,
        vocabulary=vocabulary,
        max_nucleotides=int(trained.get("max_len", 660)),
        pooling="mean" if kind == "classifier" else "masked_mean",
        mlm_head="tied" if kind == "tied" else "kmers",
        training_data=trained.get("dataset_name"),
        **(found | told),
    )
