"""Loads weights of published photo encoders from files into networks of timm. Nothing in a file runs.

Supported are files of MoCo-v3, DINO, VICReg, MAE, torchvision and EfficientNet-Lite0, and files in the layout of timm.
"""

from __future__ import annotations

import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .safe_load import load_checkpoint
from .shapes import check_state

#: What torch.load raises for a damaged file.
BROKEN = (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError, struct.error)


def load_weights(
    network: nn.Module,
    path: Path,
    *,
    prefix: str = "",
    heads: tuple[str, ...] = (),
    expected: str | None = None,
    legacy: bool = False,
) -> None:
    """Loads the weights of a file into a network.

    Args:
        path: A .safetensors file, or a file of torch.save (torch 1.6 or later) with the weights, at the top or as
            "state_dict" or "model".
        prefix: Prefix of the encoder's keys; other entries are ignored.
        heads: Key prefixes, after `prefix`, that are ignored.
        expected: Name of the expected file, for errors.
        legacy: Also read a file of torch before 1.6, by torch itself with `weights_only=True`.

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
    elif legacy and not zipfile.is_zipfile(path):
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except BROKEN as error:
            raise ValueError(f"{str(path)!r} is not a file of weights, or is cut off ({error}).") from error
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
    if "_conv_stem.weight" in state:
        state = efficientnet_keys(state)
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


#: Layers of a block of an EfficientNet without and with expansion -> their names in timm.
EFFICIENTNET_BLOCKS = {
    False: {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"},
    True: {
        **{"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"},
        **{"_project_conv": "conv_pwl", "_bn2": "bn3"},
    },
}

#: The other layers of an EfficientNet -> their names in timm.
EFFICIENTNET_ENDS = {
    **{"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"},
}

#: Number of blocks in each stage of EfficientNet-B0 and Lite0.
EFFICIENTNET_STAGES = (1, 2, 2, 3, 3, 4, 1)


def efficientnet_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of EfficientNet-Lite0 in the layout of its ports from TensorFlow with the keys of timm's."""
    places = [(stage, block) for stage, blocks in enumerate(EFFICIENTNET_STAGES) for block in range(blocks)]
    renamed = {}
    for key, value in state.items():
        found = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
        if found is None or int(found[1]) >= len(places):
            layer, _, weight = key.partition(".")
            renamed[f"{EFFICIENTNET_ENDS.get(layer, layer)}.{weight}"] = value
            continue
        layers = EFFICIENTNET_BLOCKS[f"_blocks.{found[1]}._expand_conv.weight" in state]
        stage, block = places[int(found[1])]
        renamed[f"blocks.{stage}.{block}.{layers.get(found[2], found[2])}.{found[3]}"] = value
    return renamed
