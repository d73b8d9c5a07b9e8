"""Converts published CLIBD checkpoints (`best.pth`) to folders with a model and its processor.

All checkpoints of CLIBD since 2024 are supported, with any modalities and with low-rank adapters in any encoder.
Published quirks are kept as config options. Source: CLIBD, https://arxiv.org/abs/2405.17537
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..models.configuration_clibd import MODALITIES, ClibdConfig
from ..models.logit_scale import with_dimension
from ..models.lora import add_lora, fused_layers
from ..models.modeling_clibd import ClibdModel
from ..models.processing_clibd import PUBLISHED, ClibdProcessor, make_image_processor
from ..models.tokenization_kmer import KmerTokenizer
from .shapes import check_state, count_layers, find_vocabulary

State = dict[str, Tensor]

#: Modality -> key prefixes of its encoder, after and before April 2025.
ENCODERS = {
    "image": ("image_encoder.base_image_encoder.", "image_encoder.lora_vit."),
    "dna": ("dna_encoder.base_dna_encoder.", "dna_encoder.lora_barcode_bert."),
    "text": ("language_encoder.base_language_encoder.", "language_encoder.lora_bert."),
}

#: Modality -> key prefix -> our prefix; the first that matches is used.
OURS = {
    "image": {"head.": "image_projection.", "": "image_model.timm_model."},
    "dna": {
        "bert.": "dna_model.",
        "cls.predictions.transform.": "dna_projection.transform.",
        "cls.predictions.decoder.": "dna_projection.decoder.",
    },
    "text": {"proj.": "text_projection.", "": "text_model."},
}

#: Weights that do not affect embeddings.
UNUSED = {
    "image": (),
    "dna": ("bert.embeddings.position_ids", "cls.predictions.bias"),
    "text": ("embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"),
}

#: Key suffix of an adapter -> suffix of the adapted weight, and part of the adapter.
ADAPTERS = {
    "qkv.linear_a_q.weight": ("qkv", "query_a"),
    "qkv.linear_b_q.weight": ("qkv", "query_b"),
    "qkv.linear_a_v.weight": ("qkv", "value_a"),
    "qkv.linear_b_v.weight": ("qkv", "value_b"),
    "query.w_a.weight": ("query", "a"),
    "query.w_b.weight": ("query", "b"),
    "value.w_a.weight": ("value", "a"),
    "value.w_b.weight": ("value", "b"),
}

#: Key part of an adapted layer's own weights -> the same without an adapter.
ADAPTED = {"attn.qkv.qkv.": "attn.qkv.", "self.query.w.": "self.query.", "self.value.w.": "self.value."}

#: Modality -> weight of its projection.
PROJECTIONS = {
    "image": "image_projection.weight",
    "dna": "dna_projection.decoder.weight",
    "text": "text_projection.weight",
}

#: Weights that give the sizes of a BERT -> their number of dimensions.
BERT_SIZED = dict.fromkeys(
    (
        "embeddings.word_embeddings.weight",
        "embeddings.position_embeddings.weight",
        "embeddings.token_type_embeddings.weight",
        "encoder.layer.0.intermediate.dense.weight",
    ),
    2,
)

#: Modality -> weights that give the sizes of its encoder, without prefix -> their number of dimensions.
SIZED = {
    "image": {
        "timm_model.pos_embed": 3,
        "timm_model.patch_embed.proj.weight": 4,
        "timm_model.blocks.0.mlp.fc1.weight": 2,
    },
    "dna": BERT_SIZED,
    "text": BERT_SIZED,
}

#: Widths of the published encoders, whose heads are 64 wide.
PUBLISHED_WIDTHS = (512, 768, 1024)

#: Log of the inverse temperature of the first version, which did not save it.
FIXED_LOG_SCALE = math.log(1 / 0.07)


class Parts(NamedTuple):
    """A checkpoint under our keys."""

    state: State  # without adapters
    adapters: dict[str, State]  # our name of an adapted layer -> part of the adapter -> weight
    unknown: list[str]  # keys that CLIBD checkpoints do not have


def convert_clibd(
    weights: Mapping[str, Tensor],
    output: Path,
    name: str,
    num_attention_heads: int | Mapping[str, int] | None,
    adapters: str,
    text_tokenizer: PreTrainedTokenizerBase | None,
) -> Path:
    """Converts the weights of a checkpoint called `name`; other arguments are those of `convert_checkpoint`."""
    if adapters not in ("merge", "keep"):
        raise ValueError(f"Unknown adapters {adapters!r}. Choose 'merge' or 'keep'.")
    if any(key.removeprefix("module.").startswith("open_clip_model.") for key in weights):
        raise ValueError(
            f"{name} has encoders of open_clip, which are not supported. Give a checkpoint with a photo encoder of "
            f"timm and BERT encoders of barcodes and text."
        )
    parts = _parts(weights, name)
    if adapters == "keep" and not parts.adapters:
        raise ValueError(f"{name} has no adapters to keep. Merge them (adapters='merge', --adapters merge).")
    model = ClibdModel(_config(parts, num_attention_heads, name))
    _check(parts, model.state_dict(), name)
    state = parts.state | (_merged(parts) if adapters == "merge" else {})
    model.load_state_dict(state)
    model.eval().save_pretrained(output)
    _processor(model.config, text_tokenizer).save_pretrained(output)
    if adapters == "keep":
        _save_adapters(model, parts.adapters, output / "adapter")
    return output


def _parts(weights: Mapping[str, Tensor], name: str) -> Parts:
    parts = Parts({}, {}, [])
    for original, value in weights.items():
        modality, key = _modality(original.removeprefix("module."))
        if key in UNUSED.get(modality, ()):
            continue
        end = next((end for end in ADAPTERS if key.endswith(f".{end}")), None)
        base, part = ADAPTERS[end] if end is not None else ("", "")
        ours = _ours(modality, f"{key.removesuffix(end)}{base}" if end is not None else key)
        if ours is None:
            parts.unknown.append(original)
            continue
        place, ours = (parts.adapters.setdefault(ours, {}), part) if end is not None else (parts.state, ours)
        if ours in place:
            raise ValueError(f"{name} has the weight {original} twice, under two keys.")
        place[ours] = value
    parts.state.setdefault("logit_scale.log_scale", torch.tensor([FIXED_LOG_SCALE]))
    with_dimension(parts.state, "logit_scale.log_scale")
    return parts


def _modality(key: str) -> tuple[str, str]:
    """The modality of a key, "" for none, and the key within its encoder."""
    for modality, begins in ENCODERS.items():
        for begin in begins:
            if key.startswith(begin):
                return modality, key.removeprefix(begin)
    if key.startswith("language_encoder.proj."):
        return "text", key.removeprefix("language_encoder.")
    return "", key


def _ours(modality: str, key: str) -> str | None:
    """Our key; None if unknown."""
    if not modality:
        return "logit_scale.log_scale" if key == "logit_scale" else None
    for adapted, plain in ADAPTED.items():
        key = key.replace(adapted, plain)
    begin = next((begin for begin in OURS[modality] if key.startswith(begin)), None)
    return None if begin is None else OURS[modality][begin] + key.removeprefix(begin)


def _config(parts: Parts, heads: int | Mapping[str, int] | None, name: str) -> ClibdConfig:
    state = parts.state
    present = [modality for modality in MODALITIES if any(key.startswith(f"{modality}_model.") for key in state)]
    needed = {PROJECTIONS[modality]: 2 for modality in present}
    for modality in present:
        needed |= {f"{modality}_model.{key}": dimensions for key, dimensions in SIZED[modality].items()}
    absent = [key for key, dimensions in needed.items() if key not in state or state[key].ndim != dimensions]
    if absent or not present:
        raise ValueError(
            f"{name} is not a CLIBD model: missing (or of other dimensions) are "
            f"{', '.join(absent) or 'all encoders'}; unexpected are {', '.join(parts.unknown) or 'none'}."
        )
    describe = {"image": _image_config, "dna": _dna_config, "text": _bert_config}
    configs: dict[str, Any] = {}
    for modality in present:
        given = heads.get(modality) if isinstance(heads, Mapping) else heads
        configs[f"{modality}_config"] = describe[modality](state, modality, given, name)
    return ClibdConfig(
        **configs,
        projection_dim=len(state[PROJECTIONS[present[0]]]),
        dna_pooling="softmax_mean",
        dna_attend_to_padding=True,
        text_pooling="mean",
        logit_scale_max=None,
    )


def _attention_heads(given: int | None, modality: str, width: int, name: str) -> int:
    if given is not None:
        if given < 1 or width % given:
            raise ValueError(
                f"{given} attention heads were given for {modality}; give a divisor of its width, {width}."
            )
        return given
    if width not in PUBLISHED_WIDTHS:
        raise ValueError(
            f"{name} has no number of attention heads, and the width of its {modality} encoder, {width}, is not a "
            f"published size. Give it (--heads, in Python num_attention_heads=)."
        )
    return width // 64


def _image_config(state: State, modality: str, heads: int | None, name: str) -> dict[str, Any]:
    prefix = f"{modality}_model.timm_model."
    _, positions, width = state[f"{prefix}pos_embed"].shape
    patch = state[f"{prefix}patch_embed.proj.weight"].shape[-1]
    side = math.isqrt(positions - 1)
    if side * side != positions - 1:
        raise ValueError(f"{name} has {positions} positions of photos, not a square and one class token.")
    found: dict[str, Any] = {
        "img_size": side * patch,
        "patch_size": patch,
        "embed_dim": width,
        "depth": count_layers(state, f"{prefix}blocks.", name),
        "num_heads": _attention_heads(heads, modality, width, name),
        "mlp_ratio": len(state[f"{prefix}blocks.0.mlp.fc1.weight"]) / width,
    }
    base = {"img_size": 224, "patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12, "mlp_ratio": 4.0}
    other = {key: value for key, value in found.items() if value != base[key]}
    return {"architecture": "vit_base_patch16_224"} | ({"model_args": other} if other else {})


def _bert_config(state: State, modality: str, heads: int | None, name: str) -> dict[str, Any]:
    prefix = f"{modality}_model."
    words = state[f"{prefix}embeddings.word_embeddings.weight"]
    return {
        "vocab_size": words.shape[0],
        "hidden_size": words.shape[1],
        "num_hidden_layers": count_layers(state, f"{prefix}encoder.layer.", name),
        "num_attention_heads": _attention_heads(heads, modality, words.shape[1], name),
        "intermediate_size": len(state[f"{prefix}encoder.layer.0.intermediate.dense.weight"]),
        "max_position_embeddings": len(state[f"{prefix}embeddings.position_embeddings.weight"]),
        "type_vocab_size": len(state[f"{prefix}embeddings.token_type_embeddings.weight"]),
    }


def _dna_config(state: State, modality: str, heads: int | None, name: str) -> dict[str, Any]:
    sizes = _bert_config(state, modality, heads, name)
    # "barcodebert" is the vocabulary of later versions.
    k, vocabulary = find_vocabulary(sizes["vocab_size"], ("clibd", "barcodebert"), name)
    return sizes | {"k": k, "vocabulary": vocabulary}


def _check(parts: Parts, expected: State, name: str) -> None:
    """Raises ValueError, with all wrong keys, unless the weights and adapters are those of the model."""
    missing, unexpected, shapes = [], [*parts.unknown], []
    for layer, adapter in parts.adapters.items():
        if f"{layer}.weight" not in expected:
            unexpected.append(f"an adapter of {layer}")
            continue
        width, rank = expected[f"{layer}.weight"].shape[1], _rank(parts.adapters)
        for part in ("query_a", "query_b", "value_a", "value_b") if layer.endswith("qkv") else ("a", "b"):
            if part not in adapter:
                missing.append(f"{part} of the adapter of {layer}")
            elif adapter[part].shape != ((rank, width) if part.endswith("a") else (width, rank)):
                shapes.append(f"{part} of the adapter of {layer} is {tuple(adapter[part].shape)}")
    check_state(name, "ClibdModel", parts.state, expected, missing=missing, unexpected=unexpected, shapes=shapes)


def _rank(adapters: Mapping[str, State]) -> int:
    """Rank of the first adapter; all have the same."""
    first = next(iter(adapters.values()))
    return min(next(iter(first.values())).shape, default=0)


def _merged(parts: Parts) -> State:
    """Weights of adapted layers, with the adapters added."""
    merged = {}
    for layer, adapter in parts.adapters.items():
        weight = parts.state[f"{layer}.weight"].float().clone()
        if layer.endswith("qkv"):
            width = weight.shape[1]
            weight[:width] += adapter["query_b"].float() @ adapter["query_a"].float()
            weight[-width:] += adapter["value_b"].float() @ adapter["value_a"].float()
        else:
            weight += adapter["b"].float() @ adapter["a"].float()
        merged[f"{layer}.weight"] = weight
    return merged


@torch.no_grad()
def _save_adapters(model: ClibdModel, adapters: Mapping[str, State], folder: Path) -> None:
    modalities = [modality for modality in MODALITIES if any(key.startswith(f"{modality}_model.") for key in adapters)]
    rank = _rank(adapters)
    adapted = add_lora(model, r=rank, modalities=modalities)
    fused = dict(fused_layers(model))
    for layer, adapter in adapters.items():
        module: Any = model.get_submodule(layer)
        a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
        if layer in fused:
            width = a.shape[1]
            a.copy_(torch.cat([adapter["query_a"], adapter["value_a"]]))
            b[:width, :rank] = adapter["query_b"]
            b[-width:, rank:] = adapter["value_b"]
        else:
            a.copy_(adapter["a"])
            b.copy_(adapter["b"])
    adapted.save_pretrained(str(folder), save_embedding_layers=False)


def _processor(config: ClibdConfig, text_tokenizer: PreTrainedTokenizerBase | None) -> ClibdProcessor:
    """Processor of the published models: photos in [0, 1], not normalized."""
    photos: Any = config.image_config
    dna: Any = config.dna_config
    size = 224 if photos is None else (photos.model_args or {}).get("img_size", 224)
    return ClibdProcessor(
        make_image_processor(size, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
        KmerTokenizer(dna.k, dna.vocabulary, dna.max_nucleotides) if dna is not None else None,
        text_tokenizer if config.text_config is not None else None,
        **PUBLISHED,
    )
