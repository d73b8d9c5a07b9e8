"""Photos of a batch as one uint8 tensor: fetched together, decoded, cropped before they are resized.

Floating-point work (normalisation, rotation) is left to the device, which gets a quarter of the bytes. The crops are
those of CLIBD (https://arxiv.org/abs/2405.17537): shorter side 256 and a centre crop of 224 to evaluate; a random
resized crop and both flips to train. B = batch, H and W = height and width in pixels.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor

from .photos import Decoder, decode_photo, default_decoder, rgb

#: Mean and standard deviation of red, green and blue in the cropped_256 photos, in [0, 1], as the two papers' loaders
#: publish them: https://arxiv.org/abs/2406.12723 and https://arxiv.org/abs/2307.10455.
BIOSCAN5M_MEAN, BIOSCAN5M_STD = (0.76281859, 0.76503749, 0.76373138), (0.14205404, 0.15642502, 0.17309470)
BIOSCAN1M_MEAN, BIOSCAN1M_STD = (0.72510918, 0.72891550, 0.72956181), (0.12654378, 0.14301962, 0.16103319)

RESIZED = 256  # shorter side, in pixels, before the centre crop
AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of a random crop: share of the photo, width over height
ATTEMPTS = 10

#: A photo with a shorter side of fewer pixels shows nothing; it is a broken file or a wrong one.
SMALLEST_SIDE = 8

Photo = Any  # PIL image, uint8 array or tensor, encoded bytes, path, or what datasets.Image(decode=False) gives


def photo_pixels(photo: Photo, name: str = "The photo") -> np.ndarray:
    """Pixels of one photo, upright: uint8 (H, W, 3), RGB whatever its own colours. See `decode_photo`.

    Args:
        photo: A PIL image; an array uint8 (H, W, 3) or (H, W), or a tensor uint8 (3, H, W); encoded bytes; a path; or
            {"bytes": ..., "path": ...}.
        name: What to call it in an error.

    Raises:
        ValueError: for a photo that is damaged, not a picture, smaller than 8 pixels, or of 32 bits a colour.
        FileNotFoundError: if there is no file at the path.
        TypeError: for anything else.
    """
    if isinstance(photo, Mapping) and {"bytes", "path"} <= set(photo):
        photo = photo["path"] if photo["bytes"] is None else photo["bytes"]
    if isinstance(photo, str | Path):
        name, photo = f"{name} ({photo})", Path(photo).read_bytes()
    if isinstance(photo, bytes | bytearray | memoryview):
        pixels = decode_photo(bytes(photo), name)
    elif isinstance(photo, PILImage.Image):
        try:
            pixels = rgb(photo)
        except (OSError, ValueError, SyntaxError) as error:  # a lazily read file that is cut off, or 32 bits a pixel
            raise ValueError(f"{name} cannot be decoded ({error}).") from error
    elif isinstance(photo, np.ndarray | torch.Tensor):
        pixels = _array_pixels(photo, name)
    else:
        raise TypeError(
            f"{name} is a {type(photo).__name__}. Give a PIL image, an array or tensor of uint8, the bytes of a file, "
            f"or its path."
        )
    return _large_enough(pixels, name)


def _large_enough(pixels: np.ndarray, name: str) -> np.ndarray:
    if min(pixels.shape[:2]) < SMALLEST_SIDE:
        raise ValueError(
            f"{name} has {pixels.shape[1]} x {pixels.shape[0]} pixels, but either side needs {SMALLEST_SIDE} or more. "
            f"Is it whole?"
        )
    return pixels


def _array_pixels(photo: np.ndarray | torch.Tensor, name: str) -> np.ndarray:
    shape, dtype = tuple(photo.shape), str(photo.dtype).removeprefix("torch.")
    if dtype != "uint8":
        raise ValueError(f"{name} is an array of {dtype}. Give uint8, in 0..255.")
    if isinstance(photo, torch.Tensor):
        if len(shape) != 3 or shape[0] != 3:
            raise ValueError(f"{name} is a tensor of the shape {shape}. Give (3, H, W), RGB.")
        return np.ascontiguousarray(photo.permute(1, 2, 0).cpu().numpy())
    if len(shape) == 2:
        return np.repeat(photo[:, :, None], 3, axis=2)
    if len(shape) != 3 or shape[2] != 3:
        raise ValueError(f"{name} is an array of the shape {shape}. Give (H, W, 3), RGB, or (H, W), grey.")
    return np.require(
        photo, requirements=["C", "W"]
    )  # torch warns of what may not be written to, as of np.asarray(PIL)


def decode_batch(
    photos: Sequence[bytes | np.ndarray],
    size: int = 224,
    mode: Literal["eval", "train"] = "eval",
    *,
    resized: int = RESIZED,
    generator: torch.Generator | None = None,
    names: Sequence[str] | None = None,
    decoder: Decoder | None = None,
) -> Tensor:
    """Square crops of photos: uint8 (B, 3, size, size).

    Args:
        photos: Encoded, as they are stored, or decoded, uint8 (H, W, 3).
        mode: "eval" brings the shorter side to `resized` (unless it is) and cuts out the centre. "train" cuts out
            8 to 100 % of the photo with a ratio of 3/4 to 4/3, resizes that, and flips it either way by chance.
        generator: Source of the randomness; None is torch's global one, which a DataLoader seeds in each worker.
        names: What to call each photo in an error; its place in the batch by default.
        decoder: None is `default_decoder()`.

    Raises:
        ValueError: unknown mode, a size that does not fit, or an encoded photo that cannot be decoded or is smaller
            than 8 pixels.
    """
    if mode not in ("eval", "train"):
        raise ValueError(f"Unknown mode {mode!r}: give 'eval' or 'train'.")
    if size < 1 or (mode == "eval" and size > resized):
        raise ValueError(f"size is {size}; it may be 1 to {resized}, the shorter side of the resized photo.")
    decoder = decoder or default_decoder()
    # The layout in memory in which decoders write, so that no pixel is moved twice.
    pixels = torch.empty(len(photos), 3, size, size, dtype=torch.uint8, memory_format=torch.channels_last)
    draws = torch.rand(len(photos), 2 * ATTEMPTS + 4, generator=generator).tolist() if mode == "train" else []
    for i, data in enumerate(photos):
        if isinstance(data, bytes):
            name = names[i] if names else f"Photo {i} of the batch"
            data = _large_enough(decode_photo(data, name, decoder), name)
        photo = torch.from_numpy(data).permute(2, 0, 1)
        height, width = photo.shape[1:]
        if mode == "train":
            top, left, height, width = random_box(height, width, draws[i])
            photo = _resize(photo[:, top : top + height, left : left + width], size, size)
            flips = [1 + dim for dim, draw in enumerate(draws[i][-2:]) if draw < 0.5]
            pixels[i] = photo.flip(flips) if flips else photo
            continue
        if min(height, width) != resized:
            photo = to_shorter_side(photo, resized)
            height, width = photo.shape[1:]
        top, left = round((height - size) / 2), round((width - size) / 2)
        pixels[i] = photo[:, top : top + size, left : left + size]
    return pixels


def to_shorter_side(photo: Tensor, resized: int) -> Tensor:
    """A photo (3, H, W), resized so that its shorter side has `resized` pixels."""
    shorter = min(photo.shape[1:])
    return _resize(photo, int(resized * photo.shape[1] / shorter), int(resized * photo.shape[2] / shorter))


def _resize(photo: Tensor, height: int, width: int) -> Tensor:
    """A photo (3, H, W), resized with antialiasing; fastest with the colours side by side and no gaps between rows."""
    photos = photo[None].contiguous(memory_format=torch.channels_last)
    return torch.nn.functional.interpolate(photos, (height, width), mode="bilinear", antialias=True)[0]


def random_box(height: int, width: int, draws: Sequence[float]) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random crop, as torchvision's RandomResizedCrop chooses it.

    Area and (logarithm of the) ratio are drawn until the crop fits, ten times at most; then it is the largest central
    one within the ratios.

    Args:
        draws: At least 22 uniform numbers in [0, 1): ten of area and ratio each, then two of the place.
    """
    log_ratio = (math.log(RATIO[0]), math.log(RATIO[1]))
    down, across = draws[2 * ATTEMPTS], draws[2 * ATTEMPTS + 1]
    for attempt in range(ATTEMPTS):
        area = height * width * (AREA[0] + (AREA[1] - AREA[0]) * draws[2 * attempt])
        ratio = math.exp(log_ratio[0] + (log_ratio[1] - log_ratio[0]) * draws[2 * attempt + 1])
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top, left = int(down * (height - crop_height + 1)), int(across * (width - crop_width + 1))
            return top, left, crop_height, crop_width
    crop_width = min(width, max(1, round(height * RATIO[1])))
    crop_height = min(height, max(1, round(width / RATIO[0])))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


# ---- datasets ------------------------------------------------------------------------------------------------------


def photo_bytes(column: Any) -> tuple[list[bytes], list[str]]:
    """Encoded photos of a column, and what to call each in an error.

    Args:
        column: Arrow column of struct<bytes, path>, or a list of {"bytes": ..., "path": ...}: what
            `datasets.Image(decode=False)` gives. Without bytes, the file at the path is read.

    Raises:
        ValueError: if a row has no photo.
        FileNotFoundError: if a file is not there.
    """
    rows = column.to_pylist() if hasattr(column, "to_pylist") else column
    photos, names = [], []
    for number, row in enumerate(rows):
        if row is None or (row["bytes"] is None and row["path"] is None):
            raise ValueError(f"Row {number} of the batch has no photo. Leave such rows out with `Dataset.filter`.")
        photos.append(Path(row["path"]).read_bytes() if row["bytes"] is None else row["bytes"])
        names.append(f"Row {number} of the batch" + ("" if row["path"] is None else f" ({row['path']})"))
    return photos, names


def with_pixels(
    dataset: Any, size: int = 224, mode: Literal["eval", "train"] = "eval", *, column: str = "image"
) -> Any:
    """The `datasets.Dataset` with `pixel_values` instead of photos: uint8 (3, size, size), of a batch (B, ...).

    Photos are decoded when rows are read, batch by batch where they are asked for so, as a `DataLoader` does. The
    other columns stay; `select_columns` first if they are many and not needed. See `decode_batch` for the modes.

    Raises:
        ValueError: if the dataset has no such column.
        TypeError: for a streamed dataset, whose batches can go through `photo_bytes` and `decode_batch` in a collator.
    """
    try:  # transformers then does not demand it for folders with this file
        from datasets import Dataset
        from datasets import Image as ImageFeature
    except ImportError as error:
        raise ImportError("with_pixels needs the package datasets.") from error

    if not isinstance(dataset, Dataset):
        raise TypeError(
            f"with_pixels takes a datasets.Dataset, not {type(dataset).__name__}. For a stream, cast the column to "
            f"Image(decode=False), and call photo_bytes and decode_batch in the collator."
        )
    if column not in dataset.column_names:
        raise ValueError(f"No column {column!r}; the dataset has {', '.join(dataset.column_names)}.")
    encoded = dataset.cast_column(column, ImageFeature(decode=False))
    return encoded.with_transform(functools.partial(_decode_rows, size=size, mode=mode, column=column))


def _decode_rows(rows: dict[str, list[Any]], size: int, mode: Literal["eval", "train"], column: str) -> dict[str, Any]:
    photos, names = photo_bytes(rows[column])
    others = {name: values for name, values in rows.items() if name != column}
    return {"pixel_values": decode_batch(photos, size, mode, names=names), **others}


# ---- on the device -------------------------------------------------------------------------------------------------


def normalize_on_device(
    pixels: Tensor,
    mean: Sequence[float] = BIOSCAN5M_MEAN,
    std: Sequence[float] = BIOSCAN5M_STD,
    dtype: torch.dtype = torch.float32,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """(pixels / 255 - mean) / std of uint8 (B, 3, H, W), on the device on which the pixels are.

    Args:
        out: Floats (B, 3, H, W) to write to and return. A loop on a CPU that gives the same tensor to each batch is
            several times as fast, because a new one of this size is new memory of the system each time.
    """
    out = torch.empty_like(pixels, dtype=dtype) if out is None else out
    # Colours lie side by side within a row, or in planes: either way the fastest dimension is worked along.
    side_by_side = out.is_contiguous(memory_format=torch.channels_last) and not out.is_contiguous()
    times, shape = (out.shape[3], (-1,)) if side_by_side else (1, (3, 1, 1))
    scale = torch.tensor([1 / (255 * s) for s in std] * times, device=out.device, dtype=out.dtype).view(shape)
    shift = torch.tensor([m / s for m, s in zip(mean, std, strict=True)] * times).to(scale).view(shape)
    parts = (pixels, out, out.permute(0, 2, 3, 1).flatten(2) if side_by_side else out)
    for given, floats, view in zip(*parts, strict=True) if out.device.type == "cpu" else [parts]:
        floats.copy_(given)
        view.mul_(scale).sub_(shift)
    return out


def rotate_by(pixels: Tensor, angles: Tensor, fill: Sequence[float] = (0, 0, 0)) -> Tensor:
    """Each picture of (B, 3, H, W) turned counter-clockwise by its angle (B,), in degrees; to the nearest pixel.

    Args:
        pixels: uint8, which is fastest, or floats.
        fill: Colour of the corners, in the units of the pixels; rounded for uint8.
    """
    colours, height, width = pixels.shape[1:]
    turned = torch.empty_like(pixels, memory_format=torch.contiguous_format)
    border = torch.tensor(fill, dtype=torch.float32, device=pixels.device)
    border = (border if pixels.is_floating_point() else border.round()).to(pixels.dtype).view(-1, 1, 1)
    at_once = _photos_at_once(pixels.device)
    most = min(at_once, len(pixels))
    framed = border.repeat(most, 1, height + 2, width + 2)
    places = torch.empty(most, height, width, dtype=torch.int64, device=pixels.device)
    scratch = torch.empty(2, most, height, width, device=pixels.device)  # new memory for each photo would take longer
    for start in range(0, len(pixels), at_once):
        part = pixels[start : start + at_once]
        frame, count = framed[: len(part)], len(part)
        frame[:, :, 1:-1, 1:-1] = part
        sources = places[:count].copy_(_sources(angles[start : start + at_once], scratch[:, :count]))
        flat = frame.flatten(2)
        if at_once == 1:  # numpy gathers bytes several times as fast as torch
            for colour in range(colours):
                np.take(flat[0, colour].numpy(), sources[0].numpy(), out=turned[start, colour].numpy(), mode="clip")
        else:
            found = flat.gather(2, sources.flatten(1)[:, None].expand(-1, colours, -1))
            turned[start : start + at_once] = found.view(part.shape)
    return turned


def _photos_at_once(device: torch.device) -> int:
    return 1 if device.type == "cpu" else 256  # one stays in the cache of a CPU


def _sources(angles: Tensor, scratch: Tensor) -> Tensor:
    """Place of each pixel of turned pictures in a picture with a frame of one pixel, (B, H, W), in scratch[0]."""
    height, width = scratch.shape[2:]
    radians = torch.deg2rad(angles.float())[:, None]
    cos, sin = radians.cos(), radians.sin()
    down = torch.arange(height, device=angles.device) - (height - 1) / 2  # from the centre
    across = torch.arange(width, device=angles.device) - (width - 1) / 2
    row = torch.add((cos * down + (height + 1) / 2)[:, :, None], (sin * across)[:, None], out=scratch[0])
    column = torch.add(((width + 1) / 2 - sin * down)[:, :, None], (cos * across)[:, None], out=scratch[1])
    column.round_().clamp_(0, width + 1)
    # Whole numbers below 2**24 are exact in float32.
    return row.round_().clamp_(0, height + 1).mul_(width + 2).add_(column)
