"""Weights of published encoders of photos, from files, into networks of timm; nothing in a file runs.

The files are those of MoCo-v3, DINO, VICReg, MAE and torchvision, or any in the layout of timm.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .safe_load import load_checkpoint


def load_weights(
    network: nn.Module, path: Path, *, prefix: str = "", heads: tuple[str, ...] = (), expected: str | None = None
) -> None:
    """Reads a file's weights into a network.

    Args:
        path: A .safetensors, or what torch.save (of torch >= 1.6) wrote: weights, alone or as "state_dict" or "model".
        prefix: What stands before the encoder's keys; entries without it are left out.
        heads: Beginnings of keys, after the prefix, that are left out.
        expected: Name of the file that is wanted, for the error.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a key is missing, is not the network's, or has another shape; or the file is none of weights.
    """
    if not path.is_file():
        raise FileNotFoundError(f"No file of weights at {str(path)!r}.")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            content: Mapping[str, Any] = load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{str(path)!r} is no whole file of safetensors ({error}).") from error
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
    own = network.state_dict()
    found = (
        ("lacks", sorted(own.keys() - state.keys())),
        ("has besides", sorted(state.keys() - own.keys())),
        ("has in another shape", sorted(k for k in own.keys() & state.keys() if own[k].shape != state[k].shape)),
    )
    if any(keys for _, keys in found):
        told = "; ".join(f"{what} {_some(keys)}" for what, keys in found if keys)
        raise ValueError(
            f"{str(path)!r} does not fit {type(network).__name__}: it {told}. "
            f"Expected is {expected or 'a file in the layout of timm'}."
        )
    network.load_state_dict(state)


def _some(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return f"{', '.join(keys[:3])}{more}"


#: Part of a key of torchvision's VisionTransformer -> the same in timm's.
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
    """The weights of torchvision's VisionTransformer under the names that timm's has for them."""
    renamed = {}
    for key, value in state.items():
        for old, new in TORCHVISION_KEYS:
            key = re.sub(old, new, key)
        renamed[key] = value
    return renamed
