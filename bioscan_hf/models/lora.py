"""Low-rank adaptation of CLIBD with peft, as published: adapters on the queries and values of all attention layers.

Encoders of timm have queries, keys and values in one layer `qkv`. There the two adapters of rank r are one adapter of
rank 2 r, whose B is (B_q, 0; 0, 0; 0, B_v) by rows of queries, keys and values. The gradient of the zero blocks is set
to 0. Sources: CLIBD, https://arxiv.org/abs/2405.17537; LoRA, https://arxiv.org/abs/2106.09685
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

#: Name suffixes of adapted layers, of BERT, CLIP and timm.
SEPARATE = ("self.query", "self.value", "self_attn.q_proj", "self_attn.v_proj")
FUSED = "attn.qkv"


def add_lora(model: PreTrainedModel, *, r: int = 4, modalities: Sequence[str] | None = None) -> PeftModel:
    """Adds adapters to a `ClibdModel`; only adapters, projections and temperature are trained.

    The adapters have scale 1 and no effect at first. See peft for saving and merging; `load_lora` loads saved ones.

    Args:
        r: Rank of the adapter of queries, and of that of values.
        modalities: Modalities whose encoders are adapted; None is all.

    Raises:
        ValueError: if the model does not have a modality, or an encoder has no known attention layers.
        ImportError: if peft is not installed.
    """
    from peft import LoraConfig, get_peft_model

    adapted = tuple(model.config.modalities) if modalities is None else tuple(modalities)
    if unknown := [modality for modality in adapted if modality not in model.config.modalities]:
        raise ValueError(f"The model has no {', '.join(unknown)}; it embeds {', '.join(model.config.modalities)}.")
    if r < 1:
        raise ValueError(f"r is {r}; give a rank of 1 or more.")
    targets = [name for modality in adapted for name in _attention_layers(model, modality)]
    if not targets:
        raise ValueError("There are no modalities to adapt. Give one or more.")
    heads = {modality: f"{modality}_projection" for modality in model.config.modalities}
    if "dna" in heads and model.config.dna_pooling == "softmax_mean":
        heads["dna"] += ".decoder"  # as published; its transform stays frozen
    fused = {r".*attn\.qkv": 2 * r} if any(name.endswith(FUSED) for name in targets) else {}
    config = LoraConfig(
        r=r,
        lora_alpha=r,
        rank_pattern=fused,
        alpha_pattern=fused,
        target_modules=targets,
        modules_to_save=[
            *heads.values(),
            "logit_scale",
            *(name for name in ("logit_bias", "fusion_gate") if getattr(model, name) is not None),
        ],
    )
    return _keep_zero_blocks(get_peft_model(model, config))


def load_lora(model: PreTrainedModel, folder: str | Path, *, trainable: bool = True, **hub: Any) -> PeftModel:
    """The model with saved adapters, from a folder or the Hub.

    `hub` may have `revision`, `token` and `cache_dir`.
    """
    from peft import PeftModel

    return _keep_zero_blocks(PeftModel.from_pretrained(model, folder, is_trainable=trainable, **hub))


def _attention_layers(model: PreTrainedModel, modality: str) -> list[str]:
    prefix = f"{modality}_model"
    found = []
    for name, module in getattr(model, prefix).named_modules():
        if isinstance(module, nn.Linear) and (name.endswith(SEPARATE) or name.endswith(FUSED)):
            if name.endswith(FUSED) and module.out_features % 3:
                raise ValueError(f"{prefix}.{name} has {module.out_features} rows, not a multiple of 3.")
            found.append(f"{prefix}.{name}")
    if not found:
        raise ValueError(
            f"The encoder of {modality!r} ({type(getattr(model, prefix)).__name__}) has no attention layers named "
            f"{', '.join((*SEPARATE, FUSED))}. Adapt it with peft's LoraConfig, or leave it out of modalities."
        )
    return found


def fused_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Names and modules of adapted layers with queries, keys and values in one."""
    for name, module in model.named_modules():
        if name.endswith(FUSED) and "lora_B" in dict(module.named_children()):
            yield name, module


def _keep_zero_blocks(model: PeftModel) -> PeftModel:
    for _, layer in fused_layers(model):
        for linear in layer.lora_B.values():
            if linear.weight.requires_grad:
                linear.weight.register_hook(_block_gradient)
    return model


def _block_gradient(gradient: Tensor) -> Tensor:
    """The gradient of a fused B (3 D, 2 r), with 0 in the zero blocks."""
    third, r = len(gradient) // 3, gradient.shape[1] // 2
    kept = torch.zeros_like(gradient)
    kept[:third, :r] = gradient[:third, :r]
    kept[-third:, r:] = gradient[-third:, r:]
    return kept
