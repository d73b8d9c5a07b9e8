"""Boxes, the crops they give, and the detector that finds them."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from bioscan_hf.crops.boxes import (
    STYLES,
    Style,
    area_fraction,
    crop,
    expand_box,
    resize_shorter_side,
    scale_factor,
    widen_box,
)
from bioscan_hf.crops.detector import convert_detr, detect_boxes


@pytest.mark.realdata
def test_published_sizes_are_those_of_the_boxes(real_data):
    """25 genuine rows: area_fraction and scale_factor of the metadata and of the table of boxes, to the last digit."""
    with open(real_data / "bioscan5m_browser_rows.csv", newline="") as file:
        metadata = {row["processid"]: row for row in csv.DictReader(file)}
    with open(real_data / "bioscan5m_browser_bbox.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert len(rows) == len(metadata) == 25
    for row in rows:
        box = [int(row[name]) for name in ("x0", "y0", "x1", "y1")]
        fraction = area_fraction(box, (int(row["width_original"]), int(row["height_original"])))
        published = metadata[row["processid"]]
        assert fraction == float(row["area_fraction"]) == float(published["area_fraction"])
        assert scale_factor(box) == float(row["scale_factor"]) == float(published["scale_factor"])


def test_boxes_grow_as_published():
    """A box of 100 x 40 at (200, 300), ratio 1.4.

    Each by its own: 40 wider (20 a side) and 16 higher (8 a side). Equal: both 0.4 * 100 = 40, 20 a side. 4:3 after
    that: 140 x 80 is too wide, 140 * 3 / 4 = 105 is 25 more, so 280 - 12.5 = 267.5 and 372.5, rounded to the even.
    """
    box = (200, 300, 300, 340)
    assert expand_box(box, equal_extend=False) == (180, 292, 320, 348)
    assert expand_box(box) == (180, 280, 320, 360)
    assert widen_box(expand_box(box)) == (180, 268, 320, 372)
    assert expand_box((10, 10, 30, 30), 2.0) == (0, 0, 40, 40)
    assert expand_box((5, 5, 20, 20), 2.0) == (-2, -2, 27, 27)  # -2.5 and 27.5 are cut towards zero


def test_widening_keeps_the_centre():
    """60 x 60 becomes 80 x 60; 80 x 30 becomes 80 x 60; 80 x 60 stays."""
    assert widen_box((100, 100, 160, 160)) == (90, 100, 170, 160)
    assert widen_box((0, 100, 80, 130)) == (0, 85, 80, 145)
    assert widen_box((1, 2, 81, 62)) == (1, 2, 81, 62)


def photo(width: int = 64, height: int = 48, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize("style", [*STYLES, Style(1.4, False, False, False, (1, 2, 3))])
def test_crops_show_the_photo_and_padding(style):
    """Every crop equals a window of the photo inside a wide frame of the padding colour, for 200 random boxes.

    The window is found here by enlarging the box; the picture of a tall one (bioscan5m) is turned afterwards.
    """
    random = np.random.default_rng(1)
    image = photo()
    kind = STYLES[style] if isinstance(style, str) else style
    framed = np.pad(np.asarray(image), ((200, 200), (200, 200), (0, 0)), constant_values=0)
    framed[:] = kind.padding
    framed[200:248, 200:264] = np.asarray(image)
    turned = padded = 0
    for _ in range(200):
        (x0, x1), (y0, y1) = np.sort(random.choice(65, 2, False)), np.sort(random.choice(49, 2, False))
        found = np.asarray(crop(image, (x0, y0, x1, y1), style))
        left, top, right, bottom = expand_box((x0, y0, x1, y1), 1.4, equal_extend=kind.equal_extend)
        frame = framed
        if kind.rotate and bottom - top > right - left:
            frame = np.rot90(framed)
            left, top, right, bottom = top, 64 - right, bottom, 64 - left
            turned += 1
        if kind.fix_ratio:
            left, top, right, bottom = widen_box((left, top, right, bottom))
            assert abs(found.shape[1] - found.shape[0] * 4 / 3) < 2
        expected = frame[top + 200 : bottom + 200, left + 200 : right + 200]
        assert np.array_equal(found, expected)
        padded += left < 0 or top < 0
    assert padded > 10 and (turned > 10 or not kind.rotate)


def test_only_rotation_lays_a_tall_specimen_down():
    """A red head on top of a tall box: after turning counter-clockwise it lies on the left."""
    image = Image.new("RGB", (100, 100), "white")
    image.paste((255, 0, 0), (45, 20, 55, 30))
    laid = np.asarray(crop(image, (45, 20, 55, 80), "bioscan5m"))
    red = np.argwhere((laid == (255, 0, 0)).all(-1))
    assert red[:, 1].mean() < laid.shape[1] / 2 and abs(red[:, 0].mean() - laid.shape[0] / 2) < 2
    upright = np.asarray(crop(image, (45, 20, 55, 80), "bioscan1m"))
    red = np.argwhere((upright == (255, 0, 0)).all(-1))
    assert red[:, 0].mean() < upright.shape[0] / 2


def test_refuses_what_gives_no_crop():
    for box in ((5, 5, 5, 9), (5, 9, 9, 5), (float("nan"), 1, 2, 3)):
        with pytest.raises(ValueError, match="is empty: x0 < x1 and y0 < y1"):
            crop(photo(), box)
    with pytest.raises(ValueError, match="outside the photo of 64 x 48"):
        crop(photo(), (64, 0, 80, 10))
    with pytest.raises(ValueError, match="Unknown style 'x': choose from bioscan1m, croptool, bioscan5m"):
        crop(photo(), (1, 1, 5, 5), "x")


@pytest.mark.parametrize(
    "size, expected", [((640, 480), (341, 256)), ((300, 401), (256, 342)), ((256, 300), (256, 300))]
)
def test_resizing_cuts_the_longer_side(size, expected):
    """640 * 256 / 480 = 341.33 and 401 * 256 / 300 = 342.19, both cut; what fits stays."""
    assert resize_shorter_side(Image.new("RGB", size)).size == expected


# ---- the detector --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def detector():
    """A tiny DETR with random weights, and its image processor."""
    from transformers import DetrConfig, DetrForObjectDetection, DetrImageProcessor, ResNetConfig

    torch.manual_seed(0)
    backbone = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, layer_type="basic", out_features=["stage4"]
    )
    small = {f"{part}_{name}": n for part in ("encoder", "decoder") for name, n in (("layers", 1), ("ffn_dim", 16))}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = DetrConfig(backbone_config=backbone, d_model=16, num_queries=7, num_labels=1, **small, **heads)
    model = DetrForObjectDetection(config)
    for parameter in model.parameters():  # with the initial ones, all queries find the same box everywhere
        torch.nn.init.normal_(parameter, std=0.3)
    return model, DetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 128})


def test_detected_box_is_that_of_the_surest_query(detector):
    """As found by hand from logits and boxes, one photo at a time.

    Photos of one shape agree to the rounding; those of two shapes are padded in a batch, which moves corners a little.
    """
    model, processor = detector
    model.train()
    images = [photo(100, 75, 1), photo(100, 75, 2).convert("L"), photo(100, 75, 3), photo(75, 100, 4)]
    boxes = np.concatenate([detect_boxes(model, processor, images[:3]), detect_boxes(model, processor, images[3:])])
    mixed = detect_boxes(model, processor, images)
    assert boxes.shape == (4, 4) and np.array_equal(boxes, boxes.round())
    assert model.training  # as it was
    model.eval()
    for image, box in zip(images, boxes, strict=True):
        with torch.no_grad():
            outputs = model(**processor(images=image.convert("RGB"), return_tensors="pt"))
        sureness = outputs.logits[0].softmax(-1)[:, 0]
        assert sureness.std() > 0
        x, y, width, height = outputs.pred_boxes[0, sureness.argmax()].tolist()
        corners = np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2]) * (image.size * 2)
        assert np.abs(box - corners).max() <= 0.51
    assert np.abs(mixed - boxes).max() <= 3
    assert len(np.unique(boxes, axis=0)) > 1
    assert detect_boxes(model, processor, []).shape == (0, 4)


@pytest.fixture
def lightning(detector, tmp_path):
    """Writes a checkpoint as Lightning does, with the names that the model's weights had in its time."""
    from safetensors.torch import load_file

    detector[0].save_pretrained(tmp_path / "detector")
    state = load_file(tmp_path / "detector" / "model.safetensors")
    assert "model.backbone.conv_encoder.model.embedder.embedder.convolution.weight" in state

    def write(**changes):
        weights = {f"model.{name}": tensor for name, tensor in state.items()}
        for name, tensor in changes.items():
            weights.pop(name) if tensor is None else weights.update({name: tensor})
        path = tmp_path / "checkpoint.ckpt"
        content = {"epoch": 9, "state_dict": weights, "loops": {"x": np.random.default_rng(0)}, "hyper_parameters": {}}
        torch.save(content, path)
        return path

    return write


def test_published_checkpoint_becomes_a_folder(detector, lightning, tmp_path):
    """Converted and loaded by name, the detector finds the same boxes; the file's other objects do not matter."""
    from transformers import AutoImageProcessor, DetrForObjectDetection

    counter = torch.tensor(3)
    path = lightning(**{"model.model.backbone.conv_encoder.model.bn1.num_batches_tracked": counter})
    convert_detr(path, tmp_path / "converted", detector[0].config)
    model = DetrForObjectDetection.from_pretrained(tmp_path / "converted")
    images = [photo(100, 75, seed) for seed in range(3)]
    assert np.array_equal(detect_boxes(model, detector[1], images), detect_boxes(*detector, images))
    assert AutoImageProcessor.from_pretrained(tmp_path / "converted").size["shortest_edge"] == 800
    with pytest.raises(FileExistsError, match="is not empty"):
        convert_detr(path, tmp_path / "converted", detector[0].config)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model.model.query_position_embeddings.weight": None}, "missing are [^;]*query_position_embeddings"),
        ({"model.extra": torch.ones(1)}, "unexpected are [^;]*extra"),
        ({"model.class_labels_classifier.bias": torch.ones(92)}, "of other shapes are .*class_labels_classifier.bias"),
        ({"loss.weight": torch.ones(1)}, "weights of another model, such as loss.weight"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(changes, message, detector, lightning, tmp_path):
    """A weight that is missing, left over, of another shape, or of another model; nothing is written."""
    with pytest.raises(ValueError, match=message):
        convert_detr(lightning(**changes), tmp_path / "converted", detector[0].config)
    assert not (tmp_path / "converted").exists()


def test_a_checkpoint_without_weights_is_refused(tmp_path):
    torch.save({"epoch": 1, "model": {}}, tmp_path / "checkpoint.ckpt")
    with pytest.raises(ValueError, match="has no 'state_dict' .it has epoch, model"):
        convert_detr(tmp_path / "checkpoint.ckpt", tmp_path / "converted")
