"""Converts published checkpoints of BarcodeMAE and BarcodeMAE+.

Sources: https://arxiv.org/abs/2502.18405, https://github.com/bioscan-ml/BarcodeMAE-plus. Published files hold the
encoder alone, whose keys have no prefix: `embeddings.*`, `encoder.layer.*`, `pooler.*`. A whole model, with its
decoder, has the keys `encoder.embeddings.*` and `decoder.bert.*`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import BertConfig, BertModel, PreTrainedModel

from ..models.modeling_barcodebert import BarcodeBertModel
from ..models.modeling_barcodemae import BarcodeMaeForPreTraining
from ..models.tokenization_kmer import KmerTokenizer
from .bert_encoder import State, barcodebert_config, bert_shape, options_of, training_options
from .bpe import bpe_tokenizer
from .shapes import count_layers, save_with

logger = logging.getLogger(__name__)

#: Prefix in a whole model -> ours. Other names of the same weights begin with `ALIASES`.
PREFIXES = {
    "encoder.": "bert.",
    "decoder.bert.": "decoder.",
    "decoder.classifier.": "decoder_head.",
    "projection_layer.": "projection.",
}
ALIASES = ("encoder_embedding.", "encoder_position_embeddings.", "decoder_embedding.")

#: A word embedding of the decoder is read for masked tokens only.
WORDS = "decoder.embeddings.word_embeddings.weight"


def is_mae(weights: Mapping[str, Tensor]) -> bool:
    """Whether the keys are those of an encoder without prefix, or of a whole BarcodeMAE."""
    keys = [key.removeprefix("module.") for key in weights]
    return any(key.startswith(("embeddings.word_embeddings.", "encoder.embeddings.word_embeddings.")) for key in keys)


def convert_mae(
    content: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    output: Path,
    name: str,
    labels: Sequence[str] | None,
    heads: int | Mapping[str, int] | None,
    tokenizer: str | Path | None,
) -> Path:
    """Converts a checkpoint for which `is_mae` holds; see `barcodebert.convert_checkpoint`.

    Encoders become `BarcodeBertModel`, of BPE tokens transformers' `BertModel`; whole models become
    `BarcodeMaeForPreTraining`.

    Raises:
        ValueError: if keys are missing, unexpected or twice, or sizes or the vocabulary are unknown.
    """
    if labels is not None:
        raise ValueError(f"{name} is a BarcodeMAE: it has no classes. Leave labels out.")
    trained = training_options(content, name)
    shape = options_of(content, "bert_config", name)
    state = _renamed(weights, name)
    of_part: Mapping[str, int | None] = heads if isinstance(heads, Mapping) else {"encoder": heads}
    if wrong := set(of_part) - {"encoder", "decoder"}:
        raise ValueError(f"{name} is a BarcodeMAE: give the heads of encoder and decoder, not of {', '.join(wrong)}.")
    encoder_heads = of_part.get("encoder")
    if trained.get("tokenizer", "kmer") != "kmer":
        return _convert_bpe(state, shape, trained, encoder_heads, output, name, tokenizer)
    if tokenizer is not None:
        raise ValueError(f"{name} was trained on k-mers, so it takes no tokenizer. Leave it out.")
    whole = any(key.startswith("decoder.") for key in state)
    fields: dict[str, Any] = {"pretraining": "mae"}
    if trained.get("use_cls_token", False):
        fields["pooling"] = "cls"
    if whole:
        fields |= _decoder(state, trained, of_part.get("decoder"), name)
    vocabularies = ("barcodebert", "barcodebert-n")
    config = barcodebert_config(state, vocabularies, shape, trained, encoder_heads, name, **fields)
    model: PreTrainedModel
    if whole:
        model = BarcodeMaeForPreTraining(config)
        if config.decoder_projection == "auto" and (config.decoder_hidden_size == config.hidden_size):
            state = {key: value for key, value in state.items() if not key.startswith("projection.")}
    else:
        model = BarcodeBertModel(config)
        state = {key.removeprefix("bert."): value for key, value in state.items()}
    save_with(model, state, output, name)
    KmerTokenizer(config.k, config.vocabulary, config.max_nucleotides).save_pretrained(output)
    return output


def _renamed(weights: Mapping[str, Tensor], name: str) -> State:
    """The weights under our keys, those of the encoder with the prefix "bert."; without aliases and pooler."""
    state: State = {}
    dropped = False
    whole = any(key.removeprefix("module.").startswith("encoder.embeddings.") for key in weights)
    for key, value in weights.items():
        key = key.removeprefix("module.")
        if whole:
            if key.startswith(ALIASES):
                continue
            key = next((new + key.removeprefix(old) for old, new in PREFIXES.items() if key.startswith(old)), key)
        else:
            key = f"bert.{key}"
        if key.startswith("bert.pooler."):
            dropped = True
        elif key in state:
            raise ValueError(f"{name} has the weight {key} twice, with and without a prefix.")
        elif not key.endswith("position_ids"):
            state[key] = value
    if WORDS in state:
        state[WORDS] = state[WORDS][:1].clone()
    if dropped:
        logger.warning("The pooler of %s was left out: it was never trained.", name)
    return state


def _decoder(state: State, trained: Mapping[str, Any], heads: int | None, name: str) -> dict[str, Any]:
    """Fields of the decoder in the config."""
    layers = count_layers(state, "decoder.encoder.layer.", name)
    inner = "decoder.encoder.layer.0.intermediate.dense.bias"
    if WORDS not in state or inner not in state:
        raise ValueError(f"{name} has no {WORDS if WORDS not in state else inner}, so its decoder is unknown.")
    width = state[WORDS].shape[-1]
    heads = heads or trained.get("decoder_n_heads") or (layers if width == 768 else None)
    if heads is None:
        raise ValueError(
            f"{name} has no number of attention heads of its decoder: convert it in Python, with "
            f"num_attention_heads={{'encoder': ..., 'decoder': ...}}; `bioscan-hf convert --heads` is for the encoder."
        )
    return {
        "decoder_num_hidden_layers": layers,
        "decoder_num_attention_heads": heads,
        "decoder_hidden_size": width,
        "decoder_intermediate_size": len(state[inner]),
        "decoder_projection": "auto" if trained.get("use_cls_token", False) else "always",
    }


def _convert_bpe(
    state: State,
    shape: Mapping[str, Any],
    trained: Mapping[str, Any],
    heads: int | None,
    output: Path,
    name: str,
    tokenizer: str | Path | None,
) -> Path:
    """An encoder of BPE tokens as transformers' `BertModel`, with its tokenizer."""
    if tokenizer is None:
        raise ValueError(
            f"{name} was trained with the tokenizer {trained['tokenizer']!r}, which the file does not have. Give its "
            f"folder (--bpe-tokenizer, in Python bpe_tokenizer=)."
        )
    if any(key.startswith("decoder.") for key in state):
        raise ValueError(f"{name} is a whole model of BPE tokens. Give the checkpoint of its encoder.")
    fields = bert_shape(state, shape, heads, name)
    made = bpe_tokenizer(tokenizer, int(trained.get("max_len", fields["max_position_embeddings"])))
    if len(made) != fields["vocab_size"]:
        raise ValueError(f"{name} has {fields['vocab_size']} tokens, but the tokenizer {len(made)}: give its own.")
    config = BertConfig(pad_token_id=0, **fields)
    config.pretraining, config.training_data = "mae", trained.get("dataset_name")
    model = BertModel(config, add_pooling_layer=False)
    save_with(model, {key.removeprefix("bert."): value for key, value in state.items()}, output, name)
    made.save_pretrained(output)
    return output
