"""Low-rank adaptation of CLIBD through peft, as published: rank 4 on the queries and values of every attention.

BERT has queries and values in layers of their own. Encoders of timm have them fused with the keys in one layer `qkv`;
there the two adapters of rank r are one of rank 2 r whose matrices are made of blocks:

    A = [A_q]        B = [B_q   0 ]   rows of queries
        [A_v]            [ 0    0 ]   rows of keys
                         [ 0   B_v]   rows of values

so that B A is what the two add, and keys stay as they are. Gradients of the zero blocks are taken away, so that they
stay zero in training; initialisation and learning are then those of two separate adapters.

Source: CLIBD, https://arxiv.org/abs/2405.17537; LoRA, https://arxiv.org/abs/2106.09685
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

if TYPE_CHECKING:
    from peft import PeftModel

#: Ends of the names of layers that are adapted: of BERT, of CLIP, and of timm where they are fused.
SEPARATE = ("self.query", "self.value", "self_attn.q_proj", "self_attn.v_proj")
FUSED = "attn.qkv"


def add_lora(model: PreTrainedModel, *, r: int = 4, modalities: Sequence[str] | None = None) -> PeftModel:
    """A `ClibdModel` that trains by low rank: the adapters, the projections and the temperature alone.

    The scale of the adapters is 1, and they begin with no effect. For what to do with the result (saving, merging)
    see peft; load a saved one by `load_lora`, which keeps it trainable.

    Args:
        r: Rank for queries, and as much for values.
        modalities: Those whose encoders are adapted; the encoders of the others stay as they are. None is all.

    Raises:
        ValueError: if the model has no such modality, or the encoder no attention that is known.
        ImportError: if peft is not installed.
    """
    from peft import LoraConfig, get_peft_model

    adapted = tuple(model.config.modalities) if modalities is None else tuple(modalities)
    if unknown := [modality for modality in adapted if modality not in model.config.modalities]:
        raise ValueError(f"The model has no {', '.join(unknown)}; it embeds {', '.join(model.config.modalities)}.")
    if r < 1:
        raise ValueError(f"r is {r}, but a rank is at least 1.")
    targets = [name for modality in adapted for name in _attention_layers(model, modality)]
    if not targets:
        raise ValueError("No modality is left to adapt. Name one at least.")
    heads = {modality: f"{modality}_projection" for modality in model.config.modalities}
    if "dna" in heads and model.config.dna_pooling == "softmax_mean":
        heads["dna"] += ".decoder"  # published: what comes before it stays frozen
    fused = {r".*attn\.qkv": 2 * r} if any(name.endswith(FUSED) for name in targets) else {}
    config = LoraConfig(
        r=r,
        lora_alpha=r,
        rank_pattern=fused,
        alpha_pattern=fused,
        target_modules=targets,
        modules_to_save=[*heads.values(), "logit_scale", *(["logit_bias"] if model.logit_bias is not None else [])],
    )
    return _hold_blocks(get_peft_model(model, config))


def load_lora(model: PreTrainedModel, folder: str | Path, *, trainable: bool = True) -> PeftModel:
    """The model with adapters that `save_pretrained` wrote, from a folder or the Hub, to train further or to use."""
    from peft import PeftModel

    return _hold_blocks(PeftModel.from_pretrained(model, folder, is_trainable=trainable))


def _attention_layers(model: PreTrainedModel, modality: str) -> list[str]:
    prefix = f"{modality}_model"
    found = []
    for name, module in getattr(model, prefix).named_modules():
        if isinstance(module, nn.Linear) and (name.endswith(SEPARATE) or name.endswith(FUSED)):
            if name.endswith(FUSED) and module.out_features % 3:
                raise ValueError(f"{prefix}.{name} has {module.out_features} rows, which are no three equal parts.")
            found.append(f"{prefix}.{name}")
    if not found:
        raise ValueError(
            f"The encoder of {modality!r} ({type(getattr(model, prefix)).__name__}) has no attention layers named "
            f"{', '.join((*SEPARATE, FUSED))}. Adapt it with peft's own LoraConfig, or leave it out of modalities."
        )
    return found


def fused_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Adapted layers of queries, keys and values in one, with their names."""
    for name, module in model.named_modules():
        if name.endswith(FUSED) and "lora_B" in dict(module.named_children()):
            yield name, module


def _hold_blocks(model: PeftModel) -> PeftModel:
    for _, layer in fused_layers(model):
        for linear in layer.lora_B.values():
            weight = linear.weight
            if weight.requires_grad:
                weight.register_hook(_block_gradient(weight))
    return model


def _block_gradient(weight: Tensor) -> Any:
    third, r = len(weight) // 3, weight.shape[1] // 2

    def keep(gradient: Tensor) -> Tensor:
        kept = torch.zeros_like(gradient)
        kept[:third, :r] = gradient[:third, :r]
        kept[-third:, r:] = gradient[-third:, r:]
        return kept

    return keep
