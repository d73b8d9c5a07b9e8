"""Boxes around specimens, and the crops of photos that they give, as the published crop tools make them.

A box comes from a release's table of boxes or from a DETR detector (https://arxiv.org/abs/2005.12872) fine-tuned by
the authors of BIOSCAN (https://arxiv.org/abs/2307.10455, https://arxiv.org/abs/2406.12723). It is (x0, y0, x1, y1):
left, top, right and bottom in pixels of the photo. `crop_folder` in crop_files.py crops whole folders and releases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from ..checkpoints.safe_load import load_checkpoint

Box = tuple[float, float, float, float]
Corners = Sequence[float] | np.ndarray


class Style(NamedTuple):
    """How a box becomes a crop.

    Attributes:
        ratio: By how much the box grows about its centre.
        equal_extend: Both sides grow by the same length, that of the longer one, rather than each by its own.
        fix_ratio: The shorter side grows further, until the crop is 4:3.
        rotate: Before that, a crop that is taller than wide is laid on its side (counter-clockwise).
        padding: Colour (red, green, blue) of what lies outside the photo.
    """

    ratio: float
    equal_extend: bool
    fix_ratio: bool
    rotate: bool
    padding: tuple[int, int, int]


#: The defaults of BIOSCAN-1M's script, of the crop tool's own, and of its script for all of BIOSCAN-5M's photos.
#: The scripts pad one more pixel on the right and at the bottom, which the crop then leaves out: nothing shows it.
STYLES = {
    "bioscan1m": Style(1.4, True, False, False, (240, 240, 240)),
    "croptool": Style(1.4, True, False, False, (234, 242, 245)),
    "bioscan5m": Style(1.4, True, True, True, (204, 218, 243)),
}


def find_style(name: str) -> Style:
    """The published style of that name.

    Raises:
        ValueError: if there is none, naming those there are.
    """
    if name not in STYLES:
        raise ValueError(f"Unknown style {name!r}: choose from {', '.join(STYLES)}.")
    return STYLES[name]


# ---- what a box tells ----------------------------------------------------------------------------------------------


def check_box(box: Corners) -> Box:
    """The box as four floats.

    Raises:
        ValueError: unless it is x0 < x1 and y0 < y1.
    """
    x0, y0, x1, y1 = map(float, box)
    if not (x0 < x1 and y0 < y1):  # also false for NaN
        raise ValueError(f"The box ({x0:g}, {y0:g}, {x1:g}, {y1:g}) is empty: x0 < x1 and y0 < y1 must hold.")
    return x0, y0, x1, y1


def area_fraction(box: Corners, size: tuple[int, int]) -> float:
    """Area of the box over that of the photo, to 4 decimals: the published column of that name.

    Args:
        size: Width and height of the photo.
    """
    x0, y0, x1, y1 = check_box(box)
    return round((x1 - x0) * (y1 - y0) / (size[0] * size[1]), 4)


def scale_factor(box: Corners) -> float:
    """Shorter side of the box over 256, to 4 decimals: the published column of that name.

    It describes the box itself, although cropped_256 shows a region 1.4 times as large.
    """
    x0, y0, x1, y1 = check_box(box)
    return round(min(x1 - x0, y1 - y0) / 256, 4)


# ---- crops ---------------------------------------------------------------------------------------------------------


def expand_box(
    box: Corners, ratio: float = 1.4, *, equal_extend: bool = True, fix_ratio: bool = False
) -> tuple[int, int, int, int]:
    """The box, grown about its centre, in whole pixels (cut towards zero, as published). See `Style`."""
    x0, y0, x1, y1 = check_box(box)
    width, height = x1 - x0, y1 - y0
    if equal_extend:
        more_width = more_height = (ratio - 1) * max(width, height)
    else:
        more_width, more_height = width * ratio - width, height * ratio - height
    grown = (
        int(x0 - more_width / 2),
        int(y0 - more_height / 2),
        int(x1 + more_width / 2),
        int(y1 + more_height / 2),
    )
    return widen_box(grown) if fix_ratio else grown


def widen_box(box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """The smallest box of 4:3 about the same centre that holds `box`, rounded to whole pixels."""
    x0, y0, x1, y1 = box
    more_width = max(0.0, (y1 - y0) / 3 * 4 - (x1 - x0))
    more_height = max(0.0, (x1 - x0) / 4 * 3 - (y1 - y0))
    return (
        round(x0 - more_width / 2),
        round(y0 - more_height / 2),
        round(x1 + more_width / 2),
        round(y1 + more_height / 2),
    )


def crop(image: Image.Image, box: Corners, style: str | Style = "bioscan5m") -> Image.Image:
    """The region about a box, in RGB, padded where it reaches beyond the photo.

    Args:
        style: "bioscan1m", "croptool" or "bioscan5m" (see `STYLES`), or one of your own.

    Raises:
        ValueError: for an unknown style, or a box that is empty or lies outside the photo.
    """
    style = find_style(style) if isinstance(style, str) else style
    x0, y0, x1, y1 = check_box(box)
    if x1 <= 0 or y1 <= 0 or x0 >= image.width or y0 >= image.height:
        raise ValueError(
            f"The box ({x0:g}, {y0:g}, {x1:g}, {y1:g}) lies outside the photo of {image.width} x {image.height}."
        )
    image = image.convert("RGB")
    left, top, right, bottom = expand_box(box, style.ratio, equal_extend=style.equal_extend)
    if style.fix_ratio:
        if style.rotate and bottom - top > right - left:
            left, top, right, bottom = top, image.width - right, bottom, image.width - left
            image = image.transpose(Image.Transpose.ROTATE_90)
        left, top, right, bottom = widen_box((left, top, right, bottom))
    canvas = Image.new("RGB", (right - left, bottom - top), style.padding)
    inside = (max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height))
    canvas.paste(image.crop(inside), (inside[0] - left, inside[1] - top))
    return canvas


def resize_shorter_side(image: Image.Image, size: int = 256) -> Image.Image:
    """The image with a shorter side of `size` pixels, and its longer side cut to a whole number, as published."""
    shorter = min(image.size)
    if shorter == size:
        return image
    width, height = (int(size * side / shorter) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


# ---- the detector --------------------------------------------------------------------------------------------------


@torch.inference_mode()
def detect_boxes(model: Any, image_processor: Any, images: Sequence[Image.Image]) -> np.ndarray:
    """The box of the one specimen in each image: float64 (n, 4), in whole pixels.

    It is the query that is surest of a specimen; there is no threshold, so that every image gets a box.

    Args:
        model: `transformers.DetrForObjectDetection`, whose last class is "no object".
        image_processor: Its `DetrImageProcessor`.
    """
    if not images:
        return np.empty((0, 4))
    inputs = image_processor(images=[image.convert("RGB") for image in images], return_tensors="pt").to(model.device)
    was_training = model.training
    model.eval()
    outputs = model(pixel_values=inputs["pixel_values"], pixel_mask=inputs["pixel_mask"])
    model.train(was_training)
    sureness = outputs.logits.float().softmax(-1)[..., :-1].amax(-1)  # (n, queries)
    best = outputs.pred_boxes[torch.arange(len(images)), sureness.argmax(1)].float().cpu().numpy()
    (x, y), half = best[:, :2].T, best[:, 2:].T / 2
    boxes = np.stack([x - half[0], y - half[1], x + half[0], y + half[1]], 1)
    sizes = np.array([image.size * 2 for image in images], dtype=np.float32)
    return np.round(boxes * sizes).astype(np.float64)


def convert_detr(checkpoint: str | Path, output: str | Path, config: Any | None = None) -> None:
    """Writes a published checkpoint of the crop tool (Lightning) as a folder for `from_pretrained`.

    Nothing in the checkpoint runs (see `load_checkpoint`). The folder holds the model and its image processor.

    Args:
        config: `transformers.DetrConfig`; None is that of facebook/detr-resnet-50 with one class, as published.

    Raises:
        FileExistsError: if `output` is there and not empty.
        ValueError: if the file is no such checkpoint: weights are missing, left over, or of other shapes.
    """
    import transformers

    detector: Any = transformers.DetrForObjectDetection
    one_class: dict[str, Any] = {"num_labels": 1, "id2label": {0: "specimen"}, "label2id": {"specimen": 0}}
    output = Path(output)
    if output.exists() and any(output.iterdir()):
        raise FileExistsError(f"{str(output)!r} is not empty: give a new folder.")
    content = load_checkpoint(checkpoint)
    weights = content.get("state_dict")
    if not isinstance(weights, Mapping):
        raise ValueError(f"{str(checkpoint)!r} has no 'state_dict' (it has {', '.join(map(str, content))}).")
    if foreign := [key for key in weights if not key.startswith("model.")]:
        raise ValueError(f"{str(checkpoint)!r} holds weights of something else, such as {foreign[0]}.")
    state = {
        key.removeprefix("model."): tensor
        for key, tensor in weights.items()
        if not key.endswith(".num_batches_tracked")  # counters, which the frozen layers of the detector do not have
    }
    # from_pretrained knows the names that earlier versions of transformers gave to the weights.
    model, info = detector.from_pretrained(
        None,
        config=config or transformers.DetrConfig(**one_class),
        state_dict=state,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    wrong = {kind: sorted(map(str, keys)) for kind, keys in info.items() if keys}
    if wrong:
        kind, keys = next(iter(wrong.items()))
        raise ValueError(
            f"{str(checkpoint)!r} does not fit the detector: {len(keys)} {kind.replace('_', ' ')}, such as {keys[0]}."
        )
    model.save_pretrained(output)
    transformers.DetrImageProcessor().save_pretrained(output)
