"""Random crops, flips and rotations of photos on the device of the batch, such as a GPU.

Data workers only decode: they return a batch of photos as one uint8 tensor, each photo in the upper left corner, with
random parameters equal to those of `pixels.decode_batch`. Interpolation differs: bilinear, without antialiasing.
Shape letters: B = photos, H and W = height and width in pixels of the largest photo.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from .pixels import ATTEMPTS, random_box, to_shorter_side

#: Keys of a batch with the parameters of the augmentation.
ALTERATIONS = ("crop", "flip", "rotation")


def photos_to_crop(
    photos: Sequence[np.ndarray], resized: int, rotation: float, generators: Sequence[torch.Generator]
) -> dict[str, Tensor]:
    """Photos in one tensor, and the random parameters of their augmentation (CLIBD's).

    Args:
        photos: uint8 (h, w, 3), of any shapes.
        resized: Photos with a longer shorter side are resized to this many pixels.
        rotation: Largest angle, in degrees to either side.
        generators: Random number generator of each photo.

    Returns:
        `pixel_values` uint8 (B, 3, H, W); `crop` (B, 4), top, left, height and width in pixels; `flip` bool (B, 2),
        vertical and horizontal; `rotation` (B,), in degrees.
    """
    small = [torch.from_numpy(photo).permute(2, 0, 1) for photo in photos]
    small = [to_shorter_side(photo, resized) if min(photo.shape[1:]) > resized else photo for photo in small]
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
    """Resized and flipped crops: floats in 0..255, (B, 3, size, size). Arguments are results of `photos_to_crop`."""
    places = (torch.arange(size, device=pixels.device) + 0.5) / size
    axes = []  # (B, size) for each side: source of each row (or column) of a crop, in -1 to 1
    for side in (0, 1):
        first, length = crop[:, side, None], crop[:, 2 + side, None]
        share = torch.where(flip[:, side, None], 1 - places, places)
        pixel = (first + length * share).clamp(first + 0.5, first + length - 0.5)  # no pixels outside the crop
        axes.append(2 * pixel / pixels.shape[2 + side] - 1)
    down, across = axes
    grid = torch.stack([across[:, None].expand(-1, size, -1), down[:, :, None].expand(-1, -1, size)], 3)
    return grid_sample(pixels.to(grid.dtype), grid, mode="bilinear", padding_mode="border", align_corners=False)
