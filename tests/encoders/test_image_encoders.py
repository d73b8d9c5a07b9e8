"""Encoders of photos: settings, poolings and files of weights against networks called by hand; `embed` of photos."""

import io
import json

import numpy as np
import pyarrow as pa
import pytest
import timm
import torch
import torchvision
from datasets import Dataset, Features, Image, Value
from PIL import Image as PILImage
from safetensors.torch import save_file
from timm.models import get_pretrained_cfg, save_for_hf
from transformers import (
    AutoImageProcessor,
    BertConfig,
    CLIPImageProcessor,
    Dinov2Config,
    Dinov2Model,
    ResNetConfig,
    ResNetModel,
    TimmWrapperConfig,
    TimmWrapperModel,
)

from bioscan_hf import ClibdConfig, ClibdModel
from bioscan_hf.checkpoints.image_weights import load_weights
from bioscan_hf.dataset.load import load_bioscan5m
from bioscan_hf.dataset.parquet_rows import open_rows
from bioscan_hf.encoders.embed import embed
from bioscan_hf.encoders.image_encoders import (
    CLIP_MEAN,
    CLIP_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    PUBLISHED,
    ImageEncoder,
    PhotoProcessor,
    load_image_encoder,
    pool_avg_before_norm,
    pool_model,
)
from bioscan_hf.encoders.stored import MANIFEST, load_embeddings
from bioscan_hf.models.processing_clibd import ClibdProcessor

TINY = "test_vit.r160_in1k"


def photo(seed, size=(60, 48)):
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    PILImage.fromarray(pixels).resize(size).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def photos():
    data = [{"bytes": photo(i, (60 + 3 * i, 48)), "path": f"P{i}.jpg"} for i in range(7)]
    rows = {"processid": [f"P{i}" for i in range(7)], "image": data}
    return Dataset.from_dict(rows, Features({"processid": Value("string"), "image": Image()}))


@pytest.fixture(scope="module")
def tiny_timm(tmp_path_factory):
    """A small network of timm in a folder; its photos have 160 pixels a side."""
    folder = tmp_path_factory.mktemp("timm")
    torch.manual_seed(3)
    network = timm.create_model(TINY, pretrained=False)
    save_for_hf(network, folder, safe_serialization=True)
    return folder, network.eval()


def test_the_published_ones_are_in_timm_with_the_settings_of_the_comparison():
    """An id with a tag has downloadable weights, the stated colours and takes 224 pixels; one without is an
    architecture, and its file is named."""
    assert len(PUBLISHED) == 12
    downloadable = set(timm.list_pretrained())
    for name, published in PUBLISHED.items():
        if published.file is None:
            assert published.timm in downloadable, name
            settings = get_pretrained_cfg(published.timm)
            expected = (CLIP_MEAN, CLIP_STD) if published.clip else (IMAGENET_MEAN, IMAGENET_STD)
            assert (settings.mean, settings.std) == expected, name
            assert settings.input_size[-1] == 224 or not settings.fixed_input_size, name
        else:
            assert "." not in published.timm and timm.is_model(published.timm), name
        assert published.clip == name.startswith("clip")


def test_published_file_has_to_be_given():
    with pytest.raises(ValueError, match="give its published weights, the file r-50-1000ep.pth.tar"):
        load_image_encoder("mocov3_resnet50")


@pytest.mark.parametrize(("name", "width"), [("resnet50", 2048), ("clip_vitb16", 512)])
def test_heads(name, width):
    """A classifier is removed, and CLIP's projection is kept: it is part of its embedding."""
    model, processor = load_image_encoder(name, random_weights=True)
    assert processor == PhotoProcessor(224, 224)
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 224, 224, dtype=torch.uint8)).pooler_output.shape == (1, width)


def test_photos_are_prepared_as_published(photos):
    """The same pixels as torchvision's Resize, CenterCrop and Normalize of the published code, within a level."""
    data = [row["bytes"] for row in photos.cast_column("image", Image(decode=False))["image"]]
    for zoom, size in ((1, 32), (0.5, 32)):
        steps = [torchvision.transforms.Resize(int(size / zoom)), torchvision.transforms.CenterCrop(size)]
        published = torchvision.transforms.Compose([*steps, torchvision.transforms.PILToTensor()])
        expected = torch.stack([published(PILImage.open(io.BytesIO(one)).convert("RGB")) for one in data])
        for workers in (1, 2):
            found = PhotoProcessor(size, int(size / zoom), workers)(data)["pixel_values"]
            assert (found.int() - expected.int()).abs().max() <= 2
    seen = []
    model = ImageEncoder(torch.nn.Identity(), lambda _, pixels: seen.append(pixels) or pixels.flatten(1))
    model(expected)
    by_hand = torchvision.transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)(expected / 255)
    torch.testing.assert_close(seen[0], by_hand, atol=1e-5, rtol=1e-5)


def test_poolings(tiny_timm):
    """Each is the network's own tokens, taken by hand; a folder keeps the weights and the size of the photos."""
    folder, network = tiny_timm
    pixels = torch.randint(0, 256, (2, 3, 160, 160), dtype=torch.uint8)
    scaled = (pixels / 255 - 0.5) / 0.5
    with torch.inference_mode():
        tokens = network.forward_features(scaled)
        before = network.blocks(network._pos_embed(network.patch_embed(scaled)))[:, 1:].mean(1)
        spread = (before - before.mean(1, keepdim=True)) / (before.var(1, keepdim=True, correction=0) + 1e-6).sqrt()
        expected = {"model": tokens[:, 0], "token": tokens[:, 0], "avg": tokens[:, 1:].mean(1)}
        for pooling, vectors in (expected | {"avg_before_norm": spread}).items():
            model, processor = load_image_encoder(f"timm:{folder}", pooling=pooling)
            torch.testing.assert_close(model(pixels).pooler_output, vectors, atol=1e-4, rtol=1e-4)
            assert processor == PhotoProcessor(160, 160) and not model.training
    assert (spread - expected["avg"]).abs().max() > 1e-2, "both averages alike: this test would prove nothing"
    with pytest.raises(ValueError, match="'max' is not possible .* Choose one of model, token, avg, avg_before_norm"):
        load_image_encoder(f"timm:{folder}", pooling="max")
    with pytest.raises(ValueError, match="'avg' is not possible with ResNet. Choose one of model"):
        load_image_encoder("timm:test_resnet", random_weights=True, pooling="avg")


def test_random_weights_are_the_same_each_time():
    state = torch.random.get_rng_state()
    first, second = (load_image_encoder(f"timm:{TINY}", random_weights=True)[0] for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


# ---- files of weights ----------------------------------------------------------------------------------------------


def test_weights_of_torchvision(tmp_path):
    """torchvision's ViT-B file in timm's network: the same vectors as torchvision's own model gives."""
    torch.manual_seed(0)
    sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 24, "mlp_dim": 48}
    theirs = torchvision.models.VisionTransformer(image_size=32, patch_size=8, num_classes=5, **sizes).eval()
    for weight in theirs.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    torch.save(theirs.state_dict(), tmp_path / "vit.pth")
    shape = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "mlp_ratio": 2}
    ours = timm.models.VisionTransformer(num_classes=0, **shape).eval()
    load_weights(ours, tmp_path / "vit.pth", heads=("heads.",))
    theirs.heads = torch.nn.Identity()
    pixels = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(ours(pixels), theirs(pixels), atol=1e-5, rtol=1e-4)


def test_weights_of_moco(tmp_path):
    """Only the base encoder of the checkpoint is taken, without its projector, and optimiser states do not matter."""
    network = timm.create_model("test_resnet", pretrained=False, num_classes=0)
    base = {f"module.base_encoder.{key}": value for key, value in network.state_dict().items()}
    others = {"module.base_encoder.fc.0.weight": torch.ones(2), "module.momentum_encoder.conv1.weight": torch.ones(2)}
    torch.save({"epoch": 9, "state_dict": base | others, "optimizer": {"state": {}}}, tmp_path / "moco.pth.tar")
    fresh = timm.create_model("test_resnet", pretrained=False, num_classes=0)
    torch.nn.init.zeros_(fresh.conv1[0].weight)
    load_weights(fresh, tmp_path / "moco.pth.tar", prefix="module.base_encoder.", heads=("fc.",))
    for key, value in fresh.state_dict().items():
        assert torch.equal(value, network.state_dict()[key]), key


def test_weights_that_do_not_fit(tiny_timm, tmp_path):
    """Every key counts: missing, strange and misshapen ones are named; a network is not changed by them."""
    _, network = tiny_timm
    state = {key: value.clone() for key, value in network.state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    model, _ = load_image_encoder(f"timm:{TINY}", weights=tmp_path / "w.safetensors")
    assert torch.equal(model.network.cls_token, network.cls_token)
    del state["cls_token"]
    save_file(state | {"other": torch.ones(1), "norm.bias": torch.ones(2)}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="missing are cls_token; unexpected are other; of other shapes are norm.bias"):
        load_image_encoder(f"timm:{TINY}", weights=tmp_path / "w.safetensors")
    with pytest.raises(FileNotFoundError, match="No file of weights at .*absent.pth"):
        load_image_encoder("mocov3_vitb16", weights=tmp_path / "absent.pth")


# ---- transformers --------------------------------------------------------------------------------------------------


def save_processor(folder, size):
    square = {"height": size, "width": size}
    images = CLIPImageProcessor(
        size={"shortest_edge": size}, crop_size=square, image_mean=(0.1, 0.2, 0.3), image_std=(1, 1, 1)
    )
    images.save_pretrained(folder)


def test_dinov2_of_transformers(tmp_path):
    """The class token by default and the mean of patches on demand, with the colours of its own processor."""
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14, mlp_ratio=2
    )
    network = Dinov2Model(config).eval()
    network.save_pretrained(tmp_path)
    save_processor(tmp_path, 28)
    pixels = torch.randint(0, 256, (2, 3, 28, 28), dtype=torch.uint8)
    scaled = pixels / 255 - torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)
    with torch.inference_mode():
        tokens = network(scaled).last_hidden_state
        for pooling, expected in ((None, tokens[:, 0]), ("avg", tokens[:, 1:].mean(1))):
            model, processor = load_image_encoder(f"hf:{tmp_path}", pooling=pooling)
            torch.testing.assert_close(model(pixels).pooler_output, expected, atol=1e-5, rtol=1e-4)
            assert processor == PhotoProcessor(28, 28)
    with pytest.raises(
        ValueError, match="'avg_before_norm' is not possible with Dinov2Model. Choose one of token, model, avg"
    ):
        load_image_encoder(f"hf:{tmp_path}", pooling="avg_before_norm")


def test_other_models_of_transformers(tmp_path, tiny_timm):
    """A ResNet gives a vector, a wrapped network of timm the same as timm; what is no CLIBD is told."""
    network = ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic"))
    network.save_pretrained(tmp_path / "resnet")
    save_processor(tmp_path / "resnet", 32)
    pixels = torch.randint(0, 256, (2, 3, 160, 160), dtype=torch.uint8)
    with torch.inference_mode():
        model, _ = load_image_encoder(f"hf:{tmp_path / 'resnet'}")
        assert model(pixels).pooler_output.shape == (2, 12)
        wrapped = TimmWrapperModel(TimmWrapperConfig(architecture=TINY, num_labels=2))
        wrapped.timm_model.load_state_dict(tiny_timm[1].state_dict(), strict=False)
        wrapped.save_pretrained(tmp_path / "wrapped")
        found, processor = load_image_encoder(f"hf:{tmp_path / 'wrapped'}")
        assert processor == PhotoProcessor(160, 160)
        expected = wrapped.eval().timm_model(pixels / 127.5 - 1)
        torch.testing.assert_close(found(pixels).pooler_output, expected, atol=1e-4, rtol=1e-4)
    BertConfig().save_pretrained(tmp_path / "bert")
    with pytest.raises(
        ValueError, match="holds a model of type 'bert', not a CLIBD model. An encoder of photos is a published"
    ):
        load_image_encoder(str(tmp_path / "bert"))
    with pytest.raises(OSError, match="No model at 'hf:.*absent'. An encoder of photos is"):
        load_image_encoder(f"hf:{tmp_path / 'absent'}")


def test_clibd(tmp_path, photos):
    """A folder of CLIBD gives the features of photos that the model itself gives, prepared by its own processor."""
    from tiny import CLIBD

    torch.manual_seed(0)
    clibd = ClibdModel(ClibdConfig(image_config=CLIBD["image_config"], projection_dim=24)).eval()
    clibd.save_pretrained(tmp_path)
    images = CLIPImageProcessor(
        size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}, do_convert_rgb=False
    )
    clibd_processor = ClibdProcessor(images)
    clibd_processor.save_pretrained(tmp_path)
    AutoImageProcessor.from_pretrained(tmp_path)
    model, processor = load_image_encoder(str(tmp_path))
    assert processor == PhotoProcessor(32, 40)
    data = [row["bytes"] for row in photos.cast_column("image", Image(decode=False))["image"]]
    found = embed(model, processor, photos, column="image").embeddings
    with torch.inference_mode():
        expected = clibd.get_image_features(clibd_processor(images=data)["pixel_values"])
    np.testing.assert_allclose(found, expected, atol=2e-2)  # resized as floats there, as bytes here
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert np.ptp(found, axis=0).max() > 0.05, "all alike: this test would prove nothing"
    with pytest.raises(ValueError, match="has its own pooling of photos: 'avg' is not possible"):
        load_image_encoder(str(tmp_path), pooling="avg")


# ---- embed ---------------------------------------------------------------------------------------------------------


class Mean(torch.nn.Module):
    """The mean colour of a photo."""

    def forward(self, pixels):
        return pixels.mean((2, 3))


@pytest.mark.parametrize(("batch_size", "shard_size"), [(256, 8192), (2, 3), (1, 7)])
def test_embed_photos(photos, tmp_path, batch_size, shard_size):
    """In memory, on disk and resumed: the photos' own vectors, in order, whatever the sizes; tables and Datasets."""
    encoder, processor = ImageEncoder(Mean(), pool_model), PhotoProcessor(32, 32)
    data = photos.cast_column("image", Image(decode=False))["image"]
    expected = encoder(processor([row["bytes"] for row in data])["pixel_values"]).pooler_output
    sizes = {"batch_size": batch_size, "shard_size": shard_size, "column": "image"}
    for dataset in (photos, photos.with_format("arrow")[:], photos.select(range(7))):
        found = embed(encoder, processor, dataset, **sizes)
        np.testing.assert_allclose(found.embeddings, expected, atol=1e-5)
        assert found.processids == [f"P{i}" for i in range(7)] and found.valid.all()
    embed(encoder, processor, photos, output=tmp_path, **sizes)
    first = sorted(tmp_path.glob("*.parquet"))[0]
    first.unlink()
    embed(encoder, processor, photos, output=tmp_path, **sizes)
    np.testing.assert_allclose(load_embeddings(tmp_path).embeddings, expected, atol=1e-5)
    assert json.loads((tmp_path / MANIFEST).read_text())["dim"] == 3


def test_other_photos_poolings_and_sizes_are_other_embeddings(photos, tmp_path):
    """A folder is not resumed with another pooling, size or photo, of which the weights know nothing."""
    encoder, processor = ImageEncoder(Mean(), pool_model), PhotoProcessor(32, 32)
    embed(encoder, processor, photos, output=tmp_path, column="image")
    other = photos.cast_column("image", Image(decode=False)).map(
        lambda row: {"image": {"bytes": photo(99), "path": "x.jpg"}}
    )
    averaged = ImageEncoder(Mean(), pool_avg_before_norm)
    for model, prepare, data, differs in (
        (averaged, processor, photos, "model"),
        (encoder, PhotoProcessor(32, 40), photos, "processor"),
        (encoder, processor, other, "dataset"),
    ):
        with pytest.raises(ValueError, match=f"What differs: {differs}"):
            embed(model, prepare, data, output=tmp_path, column="image")


def test_photos_that_cannot_be_embedded_are_named(photos):
    """A damaged and a missing photo, by the name of the specimen; photos that lie in files are read."""
    encoder, processor = ImageEncoder(Mean(), pool_model), PhotoProcessor(32, 32)
    data = photos.cast_column("image", Image(decode=False))["image"]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})

    def table(values):
        return pa.table({"processid": [f"P{i}" for i in range(len(values))], "image": pa.array(values, kind)})

    with pytest.raises(ValueError, match="P1 cannot be decoded"):
        embed(encoder, processor, table([data[0], {"bytes": b"no photo", "path": None}]), column="image")
    with pytest.raises(ValueError, match="1 of 2 rows has no value of 'image': P1. Leave them out by --missing drop"):
        embed(encoder, processor, table([data[0], None]), column="image")
    two = embed(encoder, processor, table([data[0], data[1]]), column="image")
    left = embed(encoder, processor, table([None, data[0], None, data[1]]), column="image", missing="drop")
    assert left.processids == ["P1", "P3"] and np.array_equal(left.embeddings, two.embeddings)


def test_photos_in_files(photos, tmp_path):
    encoder, processor = ImageEncoder(Mean(), pool_model), PhotoProcessor(32, 32)
    (tmp_path / "a.jpg").write_bytes(photo(5))
    rows = {"processid": ["A"], "image": [{"bytes": None, "path": str(tmp_path / "a.jpg")}]}
    files = Dataset.from_dict(rows, Features({"processid": Value("string"), "image": Image(decode=False)}))
    expected = encoder(processor([photo(5)])["pixel_values"]).pooler_output
    np.testing.assert_allclose(embed(encoder, processor, files, column="image").embeddings, expected, atol=1e-5)


def test_embed_photos_of_a_release(dataset, tiny_timm):
    """From the built dataset by its name, the way of the command line: photos of test, as the network sees them."""
    model, processor = load_image_encoder(f"timm:{tiny_timm[0]}", zoom=0.875)
    data = load_bioscan5m(dataset, "cropped_256", "test", columns=["processid", "image"])
    found = embed(model, processor, data, batch_size=16, column="image")
    read = open_rows(dataset, "cropped_256", "test", ["processid", "image"])  # without a copy of the photos
    without_copy = embed(model, processor, read, batch_size=16, shard_size=3, column="image")
    np.testing.assert_allclose(without_copy.embeddings, found.embeddings, atol=1e-5)
    assert found.processids == without_copy.processids == data["processid"][:] and found.embeddings.shape[1] == 64
    assert np.isfinite(found.embeddings).all() and found.embeddings.std(axis=0).max() > 0.01


def test_bad_arguments():
    for options, message in (
        ({"zoom": 1.5}, "zoom is 1.5. Give a number above 0 and at most 1"),
        ({"workers": 0}, "workers is 0. Give 1 thread or more"),
        ({"weights": "x", "random_weights": True}, "leave one of the two out"),
    ):
        with pytest.raises(ValueError, match=message):
            load_image_encoder("resnet50", **options)
    with pytest.raises(ValueError, match="its own weights"):
        load_image_encoder("hf:anything", random_weights=True)
    with pytest.raises(ValueError, match="timm has no 'no_such_network'"):
        load_image_encoder("timm:no_such_network", random_weights=True)
