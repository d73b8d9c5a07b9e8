"""Embeddings that do not depend on the reading frame: the mean over the k frames of a barcode.

K-mers that do not overlap are cut from the first nucleotide on. A read that starts one nucleotide later therefore has
other tokens and another embedding, although it is the same barcode. The mean over the barcode without its first 0, 1,
..., k - 1 nucleotides removes most of this difference, for k times the work.
Shape letters: B = barcodes, F = k reading frames, L = tokens, D = embedding size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .base import Encoder


def frames_encoder(
    model: nn.Module, tokenizer: Any, description: str = "frames"
) -> tuple[Encoder, Callable[[Sequence[str]], dict[str, Tensor]]]:
    """Model and processor for `embed`: the mean of a model's embeddings in all reading frames.

    Args:
        model: A `BarcodeBertModel` or a `BarcodeMambaModel`.
        tokenizer: Its `KmerTokenizer`.
    """
    return Encoder(model, mean_of_frames, description=description), partial(frame_inputs, tokenizer=tokenizer)


def frame_inputs(barcodes: Sequence[str], tokenizer: Any) -> dict[str, Tensor]:
    """Token ids and mask of each barcode in its reading frames, one after the other, (B, F L)."""
    frames = [tokenizer.encode_column(barcodes, offset=offset) for offset in range(tokenizer.k)]
    names = ("input_ids", "attention_mask")
    return {
        name: torch.cat([torch.from_numpy(frame[place]) for frame in frames], 1) for place, name in enumerate(names)
    }


def mean_of_frames(network: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Mean embedding (B, D) over the reading frames that have a token."""
    frames, rows = network.config.k, len(input_ids)
    mask = attention_mask.view(rows * frames, -1)
    vectors = network(input_ids=input_ids.view(rows * frames, -1), attention_mask=mask).pooler_output
    read = mask.any(1).view(rows, frames, 1)  # a short barcode has no token in its last frames
    return (vectors.view(rows, frames, -1) * read).sum(1) / read.sum(1).clamp(min=1)
