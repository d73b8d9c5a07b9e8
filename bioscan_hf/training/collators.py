"""Base class of the collators of barcodes.

Shape letters: B = batch, L = tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from .draws import row_generator

#: Column of the number of the pass of a row, in streams that count their passes.
PASS = "pass"


class SeededCollator:
    """A collator whose random draws follow from a seed, the epoch and each row.

    The epoch is in shared memory, so the workers of a DataLoader notice a new one, also if they persist.
    """

    def __init__(self, seed: int):
        self.seed = seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        """Changes the draws; set it with `set_epoch` before each epoch."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch; call it before each epoch begins."""
        self._epoch.fill_(epoch)

    def epochs_of(self, rows: Sequence[Mapping[str, Any]]) -> list[int]:
        """The epoch of each row: its pass in a stream that counts passes, otherwise `epoch`."""
        epoch = self.epoch
        return [row.get(PASS, epoch) for row in rows]

    def generators(self, rows: Sequence[Mapping[str, Any]]) -> list[torch.Generator]:
        """The random generator of each specimen in its epoch."""
        epochs = self.epochs_of(rows)
        return [row_generator(self.seed, epoch, row["processid"]) for epoch, row in zip(epochs, rows, strict=True)]


def barcodes_of(features: Sequence[Mapping[str, Any]]) -> list[str]:
    """The barcodes of some rows; ValueError if a row has none."""
    barcodes = [feature["dna_barcode"] for feature in features]
    if None in barcodes:
        raise ValueError(f"Rows without a barcode: {barcodes.count(None)} of {len(barcodes)}. Remove them first.")
    return barcodes


def token_batch(
    tokenizer: PreTrainedTokenizerBase, barcodes: Sequence[str], offset: NDArray[np.int64] | int, cut_padding: bool
) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask` of some barcodes from an offset on, both int64 (B, L).

    With `cut_padding`, L is the length of the longest barcode, instead of the length of a full barcode.
    """
    ids, mask = tokenizer.encode_column(barcodes, offset=offset)
    longest = max(int(mask.sum(1).max()), 1) if cut_padding else ids.shape[1]
    return {
        "input_ids": torch.from_numpy(np.ascontiguousarray(ids[:, :longest])),
        "attention_mask": torch.from_numpy(np.ascontiguousarray(mask[:, :longest], np.int64)),
    }
