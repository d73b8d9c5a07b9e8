"""Random crops, flips and rotations of photos where the batch is, such as on a GPU.

The processes that read the data only decode: a batch of photos of any shapes leaves them as one uint8 tensor, each in
the upper left corner, with the numbers that were drawn for it. What is drawn is the same as for `pixels.decode_batch`,
and so is the augmentation, but for the interpolation: bilinear from the photo at hand, which is never more than a
little larger than the crop, without antialiasing.
Source: the augmentation of CLIBD, https://arxiv.org/abs/2405.17537
Shape letters: B = photos, H and W = height and width in pixels of the largest of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from .pixels import ATTEMPTS, random_box

#: What of a batch tells how photos are to be altered.
ALTERATIONS = ("crop", "flip", "rotation")


def photos_to_crop(
    photos: Sequence[np.ndarray], resized: int, rotation: float, generators: Sequence[torch.Generator]
) -> dict[str, Tensor]:
    """Photos in one tensor, and how each is to be altered.

    Args:
        photos: uint8 (h, w, 3), of any shapes.
        resized: A shorter side of more pixels is brought to this one.
        rotation: Largest angle, in degrees to either side.
        generators: Source of the randomness of each photo.

    Returns:
        `pixel_values` uint8 (B, 3, H, W); `crop` (B, 4), top, left, height and width in pixels; `flip` bool (B, 2),
        upside down and sideways; `rotation` (B,), in degrees.
    """
    small = [_shrunk(torch.from_numpy(photo).permute(2, 0, 1), resized) for photo in photos]
    height, width = (max(photo.shape[side] for photo in small) for side in (1, 2))
    pixels = torch.zeros(len(small), 3, height, width, dtype=torch.uint8)
    crops, flips, angles = [], [], []
    for place, photo, generator in zip(pixels, small, generators, strict=True):
        place[:, : photo.shape[1], : photo.shape[2]] = photo
        draws = torch.rand(1, 2 * ATTEMPTS + 4, generator=generator)[0].tolist()
        crops.append(random_box(photo.shape[1], photo.shape[2], draws))
        flips.append([draw < 0.5 for draw in draws[-2:]])
        angles.append(torch.rand(1, generator=generator) * 2 * rotation - rotation)
    return {
        "pixel_values": pixels,
        "crop": torch.tensor(crops, dtype=torch.float32),
        "flip": torch.tensor(flips),
        "rotation": torch.cat(angles),
    }


def crops_on_device(pixels: Tensor, crop: Tensor, flip: Tensor, size: int) -> Tensor:
    """The crops, resized and flipped: floats in 0..255, (B, 3, size, size). For the arguments see `photos_to_crop`."""
    places = (torch.arange(size, device=pixels.device) + 0.5) / size
    axes = []  # of each side, where in the batch's tensor each row (or column) of a crop is read, -1 to 1: (B, size)
    for side in (0, 1):
        first, length = crop[:, side, None], crop[:, 2 + side, None]
        share = torch.where(flip[:, side, None], 1 - places, places)
        pixel = (first + length * share).clamp(first + 0.5, first + length - 0.5)  # beyond it, nothing is known
        axes.append(2 * pixel / pixels.shape[2 + side] - 1)
    down, across = axes
    grid = torch.stack([across[:, None].expand(-1, size, -1), down[:, :, None].expand(-1, -1, size)], 3)
    return grid_sample(pixels.to(grid.dtype), grid, mode="bilinear", padding_mode="border", align_corners=False)


def _shrunk(photo: Tensor, resized: int) -> Tensor:
    """A photo (3, h, w) whose shorter side is `resized` pixels at most."""
    height, width = photo.shape[1:]
    shorter = min(height, width)
    if shorter <= resized:
        return photo
    shape = (int(resized * height / shorter), int(resized * width / shorter))
    return interpolate(photo[None], shape, mode="bilinear", antialias=True)[0]
