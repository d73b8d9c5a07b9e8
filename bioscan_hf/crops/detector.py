"""A DETR detector that finds the specimen in a photo.

The authors of BIOSCAN fine-tuned it (https://arxiv.org/abs/2307.10455, https://arxiv.org/abs/2406.12723).
Source of the method: https://arxiv.org/abs/2005.12872.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..checkpoints.safe_load import load_checkpoint
from ..checkpoints.shapes import check_state


@dataclass(frozen=True)
class Detector:
    """A model that finds boxes, see `detect_boxes`.

    Attributes:
        batch_size: Photos that go through the model together.
    """

    model: Any
    image_processor: Any
    batch_size: int = 8

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"Photos come in batches of 1 or more, not {self.batch_size}.")

    def find(self, images: Sequence[Image.Image]) -> np.ndarray:
        """x0, y0, x1, y1, width and height of each image: int64 (n, 6)."""
        sizes = np.array([image.size for image in images]).reshape(-1, 2)
        boxes = detect_boxes(self.model, self.image_processor, images)
        return np.concatenate([boxes, sizes], axis=1).astype(np.int64)

    def digest(self) -> str:
        """Hash of the weights."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode() + tensor.detach().cpu().float().numpy().tobytes())
        return digest.hexdigest()


@torch.inference_mode()
def detect_boxes(model: Any, image_processor: Any, images: Sequence[Image.Image]) -> np.ndarray:
    """The box of the one specimen in each image: float64 (n, 4), in whole pixels.

    The query with the highest score is taken, without a threshold, so every image gets a box.

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
    scores = outputs.logits.float().softmax(-1)[..., :-1].amax(-1)  # (n, queries)
    best = outputs.pred_boxes[torch.arange(len(images)), scores.argmax(1)].float().cpu().numpy()
    (x, y), half = best[:, :2].T, best[:, 2:].T / 2
    boxes = np.stack([x - half[0], y - half[1], x + half[0], y + half[1]], 1)
    sizes = np.array([image.size * 2 for image in images], dtype=np.float32)
    return np.round(boxes * sizes).astype(np.float64)


def convert_detr(checkpoint: str | Path, output: str | Path, config: Any | None = None) -> None:
    """Writes a published checkpoint of the crop tool (Lightning) as a folder for `from_pretrained`.

    Code in the checkpoint is not run (see `load_checkpoint`). The folder holds the model and its image processor.

    Args:
        config: `transformers.DetrConfig`; None is that of facebook/detr-resnet-50 with one class, as published.

    Raises:
        FileExistsError: if `output` exists and is not empty.
        ValueError: if weights are missing, superfluous, or of other shapes.
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
        raise ValueError(f"{str(checkpoint)!r} holds weights of another model, such as {foreign[0]}.")
    state = {
        key.removeprefix("model."): tensor
        for key, tensor in weights.items()
        if not key.endswith(".num_batches_tracked")  # the frozen layers of the detector have no counters
    }
    # from_pretrained renames weights of earlier versions of transformers.
    model, info = detector.from_pretrained(
        None,
        config=config or transformers.DetrConfig(**one_class),
        state_dict=state,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    missing, unexpected, shapes = (
        sorted(map(str, info[kind])) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
    )
    check_state(str(checkpoint), "detector", {}, {}, missing=missing, unexpected=unexpected, shapes=shapes, most=3)
    model.save_pretrained(output)
    transformers.DetrImageProcessor().save_pretrained(output)
