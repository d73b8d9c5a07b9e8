"""Encoder: a network with its pooling. And the names of encoders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

#: What may stand before the colon in the name of an encoder.
KINDS = ("kmer", "cnn", "frames", "hf", "timm")


class Encoder(nn.Module):
    """A network and its pooling: `pool(network, **inputs)` is (B, D).

    Our own models, and any other module whose `forward(**inputs).pooler_output` is (B, D), need no such wrapper.

    Attributes:
        columns: Columns of a dataset that are encoded. If there are several, `values` makes one value of them.
        description: Name in the manifest, such as "kmer:4".
    """

    def __init__(
        self,
        network: nn.Module,
        pool: Callable[..., Tensor],
        *,
        columns: tuple[str, ...] = ("dna_barcode",),
        description: str | None = None,
    ):
        super().__init__()
        self.network, self.pool, self.columns = network, pool, columns
        self.description = description or type(network).__name__

    def extra_repr(self) -> str:
        """Name of the pooling, which distinguishes encoders with the same weights."""
        return self.pool.__name__

    def values(self, table: pa.Table) -> list[Any]:
        """Value of each row for the processor; None where missing."""
        return table[self.columns[0]].to_pylist()

    def forward(self, **inputs: Tensor) -> BaseModelOutputWithPooling:
        return BaseModelOutputWithPooling(pooler_output=self.pool(self.network, **inputs))


def split_name(name: str) -> tuple[str | None, str]:
    """Kind and rest of the name of an encoder.

    Example:
        >>> split_name("kmer:4"), split_name("folder")
        (('kmer', '4'), (None, 'folder'))
    """
    kind, colon, rest = name.partition(":")
    return (kind, rest) if colon and kind in KINDS else (None, name)


def default_device() -> torch.device:
    """The GPU of this process; the CPU without one or with `ACCELERATE_USE_CPU=yes`."""
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    device = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU")).device
    return device if device.type == "cuda" else torch.device("cpu")


def hub_options(revision: str | None, token: str | bool | None, cache_dir: str | Path | None) -> dict[str, Any]:
    """Those of the arguments of `from_pretrained` that are given."""
    given = {"revision": revision, "token": token, "cache_dir": cache_dir}
    return {name: value for name, value in given.items() if value is not None}
