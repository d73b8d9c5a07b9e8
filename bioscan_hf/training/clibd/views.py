"""Batches of two altered views of each specimen, for training the encoder of one modality by itself.

The draws of a specimen follow from a seed, the epoch and its processid.
Source: SimCLR, https://arxiv.org/abs/2002.05709
Shape letters: B = specimens, L = tokens, R = ranks, H and W = height and width in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ...models.pixels import photo_pixels, random_box
from ...models.processing_clibd import ClibdProcessor
from ..augmentation import Augmentation, augment
from ..collators import SeededCollator
from ..draws import text_id
from .batches import check_names, encoded_photo

#: Modalities that have views.
VIEWED = ("image", "dna")

#: Alterations of the two reads of a barcode.
READS = Augmentation(truncation=0.5, substitution=0.01, third_substitution=0.04, unread=0.2)

#: Numbers drawn for a view: crop, flip, colours (whether, four strengths, their order), grey, blur.
_CROP, _VIEW = 22, 22 + 1 + 1 + 4 + 4 + 1 + 1

BLUR = 21  # side of the blur kernel in pixels, for a view of 224 pixels


class TwoViewCollator(SeededCollator):
    """Makes batches of two altered views of each specimen; all first views come before all second views.

    A batch holds `pixel_values` uint8 (2 B, 3, H, W), or `dna_input_ids` and `dna_attention_mask` (2 B, L), or both,
    and `labels` (2 B, 1 + R): first a number of the specimen, then the taxa, -1 where unknown.

    Args:
        modalities: "image", "dna", or both.
        label_columns: Ranks, or "dna_bin".

    Raises:
        ValueError: for an unknown modality or column.
    """

    def __init__(
        self,
        processor: ClibdProcessor,
        modalities: Sequence[str] = ("image",),
        *,
        label_columns: Sequence[str] = (),
        seed: int = 0,
    ):
        super().__init__(seed)
        check_names(modalities, VIEWED, label_columns)
        self.processor, self.modalities, self.label_columns = processor, tuple(modalities), list(label_columns)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """A batch of rows; ValueError for a row without a photo or barcode, or a photo that cannot be read."""
        draws = self.generators(rows)
        batch: dict[str, Tensor] = {}
        if "image" in self.modalities:
            batch["pixel_values"] = self._photos(rows, draws)
        if "dna" in self.modalities:
            batch |= self._reads(rows, draws)
        ids = [[text_id(row["processid"]), *(text_id(row[column]) for column in self.label_columns)] for row in rows]
        return batch | {"labels": torch.tensor(ids).repeat(2, 1)}

    def _photos(self, rows: Sequence[Mapping[str, Any]], draws: Sequence[torch.Generator]) -> Tensor:
        views: list[list[Tensor]] = [[], []]
        for row, draw in zip(rows, draws, strict=True):
            photo = encoded_photo(row["image"])
            if photo is None:
                raise ValueError(f"The specimen {row['processid']} has no photo. Remove such rows first.")
            pixels = torch.from_numpy(photo_pixels(photo, f"The specimen {row['processid']}: the photo"))
            for view in views:
                numbers = torch.rand(_VIEW, generator=draw).tolist()
                view.append(simclr_view(pixels.permute(2, 0, 1), self.processor.image_size, numbers))
        return torch.stack(views[0] + views[1])

    def _reads(self, rows: Sequence[Mapping[str, Any]], draws: Sequence[torch.Generator]) -> dict[str, Tensor]:
        barcodes = [(row["dna_barcode"] or "").strip() for row in rows]
        if "" in barcodes:
            raise ValueError(
                f"The specimen {rows[barcodes.index('')]['processid']} has no barcode. Remove such rows first."
            )
        keys = np.array(
            [torch.randint(2**62, (2,), generator=draw).tolist() for draw in draws], np.uint64
        )  # (B, 2): one number for each view
        reads = [read for view in range(2) for read in augment(barcodes, keys[:, view], READS)]
        ids, mask = self.processor.dna_tokenizer.encode_column(reads)
        return {"dna_input_ids": torch.from_numpy(ids), "dna_attention_mask": torch.from_numpy(mask)}


def simclr_view(photo: Tensor, size: int, draws: Sequence[float]) -> Tensor:
    """A random crop of a photo uint8 (3, H, W), flipped, with altered colours, and blurred: uint8 (3, size, size).

    As in the image pretraining of CLIBD: a crop of 8 to 100 %; a horizontal flip with probability 0.5; with
    probability 0.8 brightness, contrast and saturation change by up to 80 % and the hue by up to 20 %, in random
    order; grey with probability 0.2; a Gaussian blur of 0.1 to 2 pixels. `draws` are 34 uniform numbers in [0, 1).
    """
    from torchvision.transforms.v2 import functional as change  # slow to import

    top, left, height, width = random_box(photo.shape[1], photo.shape[2], draws)
    crop = photo[:, top : top + height, left : left + width]
    view = interpolate(crop[None], (size, size), mode="bilinear", antialias=True)[0]
    flip, jitter, brightness, contrast, saturation, hue, *order, grey, blur = draws[_CROP:]
    if flip < 0.5:
        view = view.flip(2)
    if jitter < 0.8:
        changes = [
            (change.adjust_brightness, 0.2 + 1.6 * brightness),
            (change.adjust_contrast, 0.2 + 1.6 * contrast),
            (change.adjust_saturation, 0.2 + 1.6 * saturation),
            (change.adjust_hue, 0.4 * hue - 0.2),
        ]
        for place in np.argsort(order):
            function, strength = changes[place]
            view = function(view, strength)
    if grey < 0.2:
        view = change.rgb_to_grayscale(view, num_output_channels=3)
    side = max(3, round(BLUR * size / 224) // 2 * 2 + 1)
    return change.gaussian_blur(view, [side, side], [0.1 + 1.9 * blur] * 2)
