"""Loads weights of published photo encoders from files into networks of timm. Nothing in a file runs.

Supported are files of MoCo-v3, DINO, VICReg, MAE and torchvision, and files in the layout of timm.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .safe_load import load_checkpoint
from .shapes import check_state


def load_weights(
    network: nn.Module, path: Path, *, prefix: str = "", heads: tuple[str, ...] = (), expected: str | None = None
) -> None:
    """Loads the weights of a file into a network.

    Args:
        path: A .safetensors file, or a file of torch.save (torch 1.6 or later) with the weights, at the top or as
            "state_dict" or "model".
        prefix: Prefix of the encoder's keys; other entries are ignored.
        heads: Key prefixes, after `prefix`, that are ignored.
        expected: Name of the expected file, for errors.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file does not hold weights, or keys or shapes differ from those of the network.
    """
    if not path.is_file():
        raise FileNotFoundError(f"No file of weights at {str(path)!r}.")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            content: Mapping[str, Any] = load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{str(path)!r} is not a complete safetensors file ({error}).") from error
    else:
        content = load_checkpoint(path)
    for wrapped in ("state_dict", "model"):
        if isinstance(content.get(wrapped), Mapping):
            content = content[wrapped]
    state = {
        key.removeprefix(prefix): value
        for key, value in content.items()
        if key.startswith(prefix) and isinstance(value, Tensor)
    }
    if "class_token" in state:
        state = timm_keys(state)
    if heads:
        state = {key: value for key, value in state.items() if not key.startswith(heads)}
    name = f"{str(path)!r} (expected is {expected or 'a file in the layout of timm'})"
    check_state(name, type(network).__name__, state, network.state_dict(), most=3)
    network.load_state_dict(state)


#: Pattern in the keys of torchvision's VisionTransformer -> its replacement in the keys of timm's.
TORCHVISION_KEYS = (
    (r"^class_token$", "cls_token"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^encoder\.ln\.", "norm."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.self_attention\.in_proj_", ".attn.qkv."),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.(?:linear_1|0)\.", ".mlp.fc1."),
    (r"\.mlp\.(?:linear_2|3)\.", ".mlp.fc2."),
)


def timm_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of torchvision's VisionTransformer with the keys of timm's."""
    renamed = {}
    for key, value in state.items():
        for old, new in TORCHVISION_KEYS:
            key = re.sub(old, new, key)
        renamed[key] = value
    return renamed
