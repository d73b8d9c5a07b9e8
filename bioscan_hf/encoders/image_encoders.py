"""Encoders of photos behind the interface of our own models: the 11 of BIOSCAN-5M's clustering, and any other.

Weights are frozen and heads removed; photos are prepared as there (https://arxiv.org/abs/2406.12723, section 5.2): the
shorter side is brought to 224 pixels, the middle 224 x 224 cut out, and the colours scaled as the encoder expects.
Shape letters: B = batch, H and W = height and width in pixels, T = tokens, D = embedding size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..checkpoints.image_weights import load_weights
from ..models.pixels import decode_batch, normalize_on_device

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

#: Side of the square that an encoder sees, in pixels, unless it has one of its own.
SIZE = 224


@dataclass(frozen=True)
class Published:
    """An encoder of the published comparison.

    Attributes:
        timm: Its id in timm; without a tag (".dino") its weights are in no maintained library, but in `file`.
        upstream: Its name in the published code.
        file: Name of the published file of weights, by which it is found; None where timm has them.
        prefix: What stands before the encoder's keys in that file; entries without it are left out.
        pooling: See `load_image_encoder`.
        keeps_head: The projection is part of the embedding (CLIP).
        clip: Colours are scaled by CLIP's mean and standard deviation instead of ImageNet's.
    """

    timm: str
    upstream: str
    file: str | None = None
    prefix: str = ""
    pooling: str = "model"
    keeps_head: bool = False
    clip: bool = False


#: Short name -> the encoder. Of MoCo-v3, DINO's ResNet, VICReg and torchvision's ViT the file has to be given.
PUBLISHED = {
    "resnet50": Published("resnet50.tv2_in1k", "resnet50"),
    "mocov3_resnet50": Published("resnet50", "mocov3_resnet50", "r-50-1000ep.pth.tar", prefix="module.base_encoder."),
    "dino_resnet50": Published("resnet50", "dino_resnet50", "dino_resnet50_pretrain.pth"),
    "vicreg_resnet50": Published("resnet50", "vicreg_resnet50", "resnet50.pth (of VICReg)"),
    "clip_resnet50": Published("resnet50_clip.openai", "clip_RN50", keeps_head=True, clip=True),
    "vitb16": Published("vit_base_patch16_224", "vitb16", "vit_b_16-c867db91.pth"),
    "mocov3_vitb16": Published(
        "vit_base_patch16_224", "mocov3_vit_base", "vit-b-300ep.pth.tar", prefix="module.base_encoder."
    ),
    "dino_vitb16": Published("vit_base_patch16_224.dino", "dino_vitb16"),
    "mae_vitb16_cls": Published("vit_base_patch16_224.mae", "timm_vit_base_patch16_224.mae"),
    "mae_vitb16_avg": Published("vit_base_patch16_224.mae", "mae_pretrain_vit_base_global", pooling="avg_before_norm"),
    # natively with QuickGELU: the id without it computes something slightly different
    "clip_vitb16": Published("vit_base_patch16_clip_quickgelu_224.openai", "clip_vitb16", keeps_head=True, clip=True),
}

#: What the keys of heads begin with, in torchvision's, timm's and MoCo-v3's networks.
HEADS = ("fc.", "head.", "heads.")

#: What `load_image_encoder` understands.
ENCODERS = (
    f"a published one ({', '.join(PUBLISHED)})",
    "timm:ID or timm:FOLDER (a network of timm, or a folder that timm.models.save_for_hf wrote)",
    "hf:ID or hf:FOLDER (a vision model of transformers, such as hf:facebook/dinov2-base)",
    "the folder or Hub id of a CLIBD model with a tower of photos",
)


class ImageOutput(NamedTuple):
    """Output of `ImageEncoder`: `pooler_output` (B, D)."""

    pooler_output: Tensor


class ImageEncoder(nn.Module):
    """A network with the scaling of colours before it and the pooling behind it."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        pool: Callable[[Any, Tensor], Tensor],
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ):
        """Takes `pool(network, pixels)`, which gives the embeddings (B, D) of scaled pixels (B, 3, H, W)."""
        super().__init__()
        self.network, self.pool = network, pool
        self.register_buffer("mean", torch.tensor(list(mean)))
        self.register_buffer("std", torch.tensor(list(std)))

    def extra_repr(self) -> str:
        """The pooling, which tells encoders of the same weights apart."""
        return self.pool.__name__

    def forward(self, pixel_values: Tensor) -> ImageOutput:
        """Embeddings of photos, uint8 (B, 3, H, W)."""
        pixels = normalize_on_device(pixel_values, self.mean.tolist(), self.std.tolist())
        return ImageOutput(self.pool(self.network, pixels))


@dataclass(frozen=True)
class PhotoProcessor:
    """Turns encoded photos into the input of `ImageEncoder`.

    Attributes:
        size: Side of the square that is cut from the middle, in pixels.
        resized: Shorter side, in pixels, to which a photo is brought before.
        workers: Threads that decode.
    """

    size: int = SIZE
    resized: int = SIZE
    workers: int = 1

    def __call__(self, photos: Sequence[bytes], names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """`pixel_values`, uint8 (B, 3, size, size).

        Raises:
            ValueError: for a photo that cannot be decoded; its name, or its place in the batch, is told.
        """
        called = list(names or (f"Photo {i} of the batch" for i in range(len(photos))))
        if self.workers == 1 or len(photos) < 2 * self.workers:
            return {"pixel_values": decode_batch(photos, self.size, resized=self.resized, names=called)}

        def part(start: int) -> Tensor:
            rows = slice(start, None, self.workers)
            return decode_batch(photos[rows], self.size, resized=self.resized, names=called[rows])

        pixels = torch.empty(len(photos), 3, self.size, self.size, dtype=torch.uint8)
        with ThreadPoolExecutor(self.workers) as pool:
            for start, done in enumerate(pool.map(part, range(self.workers))):
                pixels[start :: self.workers] = done
        return {"pixel_values": pixels}


def load_image_encoder(
    name: str,
    *,
    weights: str | Path | None = None,
    random_weights: bool = False,
    pooling: str | None = None,
    zoom: float | None = None,
    workers: int = 1,
) -> tuple[ImageEncoder, PhotoProcessor]:
    """Model and processor for `embed(..., column="image")`, by name; on the GPU, where there is one.

    Args:
        name: A key of `PUBLISHED`, "timm:ID", "hf:ID", either with a folder for the id, or the folder or Hub id of a
            CLIBD model, whose image tower is taken, with its projection and its own preparation of photos.
        weights: File of weights (.safetensors, or what torch.save wrote, of which nothing is run), for a published
            encoder or one of timm; heads are dropped, and all other keys have to fit.
        random_weights: Leaves a published encoder or one of timm untrained (seed 0): the lowest reference.
        pooling: "model" (the network's own way; the default), "token" (its class token), "avg" (mean of the tokens
            of patches), or "avg_before_norm" (the same before the last LayerNorm, then one without weights; how the
            comparison averages MAE's). The latter three need a network with tokens.
        zoom: The shorter side is brought to size / zoom, so that less than 1 cuts a border off; default 1, for a
            CLIBD model its own.
        workers: Threads that decode photos.

    Raises:
        ValueError: for an unknown name, pooling or zoom; weights that have to be given, do not fit or cannot be;
            and a model of another kind.
        FileNotFoundError: if there is no such file of weights.
        OSError: if there is no model of that name.
    """
    if zoom is not None and not 0 < zoom <= 1:
        raise ValueError(f"zoom is {zoom}; it may be above 0 and up to 1, which shows the whole shorter side.")
    if workers < 1:
        raise ValueError(f"workers is {workers}; at least one thread has to decode.")
    if weights is not None and random_weights:
        raise ValueError("Weights are given and random ones asked for: leave one of the two out.")
    kind, _, rest = name.partition(":")
    if name in PUBLISHED or kind == "timm":
        model, size = _timm_encoder(name, weights, random_weights, pooling)
        processor = PhotoProcessor(size, int(size / (zoom or 1)), workers)
    else:
        if weights is not None or random_weights:
            raise ValueError(f"{name!r} has its own weights: they can be given for published encoders and timm:ID.")
        model, processor = _transformers_encoder(name, rest if kind == "hf" else None, pooling, zoom, workers)
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu"), processor


# ---- timm ----------------------------------------------------------------------------------------------------------


def _timm_encoder(
    name: str, weights: str | Path | None, random_weights: bool, pooling: str | None
) -> tuple[ImageEncoder, int]:
    import timm

    chosen = PUBLISHED.get(name) or Published(name.removeprefix("timm:"), name)
    if chosen.file and weights is None and not random_weights:
        raise ValueError(
            f"No maintained library has the weights of {name!r}: give their published file, {chosen.file}, as weights."
        )
    folder = Path(chosen.timm)
    architecture = f"local-dir:{folder.resolve()}" if (folder / "config.json").is_file() else chosen.timm
    download = weights is None and not random_weights
    head: dict[str, Any] = {} if chosen.keeps_head else {"num_classes": 0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            network: Any = timm.create_model(architecture, pretrained=download, **head)
        except RuntimeError as error:  # how timm tells that it does not know a name or a tag, or has no weights of it
            raise ValueError(
                f"timm has no {chosen.timm!r} ({error}). An encoder is {'; or '.join(ENCODERS)}."
            ) from error
    if weights is not None:
        heads = () if chosen.keeps_head else HEADS
        load_weights(network, Path(weights), prefix=chosen.prefix, heads=heads, expected=chosen.file)
    settings: Mapping[str, Any] = network.pretrained_cfg
    # A name without a tag has the settings of other weights: those of the comparison are told here.
    mean, std = (CLIP_MEAN, CLIP_STD) if chosen.clip else (IMAGENET_MEAN, IMAGENET_STD)
    if name not in PUBLISHED:
        mean, std = settings["mean"], settings["std"]
    encoder = ImageEncoder(network, _timm_pooling(network, pooling or chosen.pooling), mean, std)
    return encoder, _timm_size(settings)


def _timm_size(settings: Mapping[str, Any]) -> int:
    """Side of the photos of a network. A saved folder does not tell whether it is fixed: the architecture does."""
    from timm.models import get_pretrained_cfg

    usual = get_pretrained_cfg(settings["architecture"])
    fixed = settings["fixed_input_size"] or (usual is not None and usual.fixed_input_size)
    return settings["input_size"][-1] if fixed else SIZE


def pool_model(network: Any, pixels: Tensor) -> Tensor:
    """What the network itself puts out."""
    return network(pixels)


def pool_token(network: Any, pixels: Tensor) -> Tensor:
    """The class token of the last layer, normalised as the network does."""
    return network.forward_features(pixels)[:, 0]


def pool_avg(network: Any, pixels: Tensor) -> Tensor:
    """The mean of the tokens of patches, normalised as the network does."""
    return network.forward_features(pixels)[:, network.num_prefix_tokens :].mean(1)


def pool_avg_before_norm(network: Any, pixels: Tensor) -> Tensor:
    """The mean of the tokens of patches before the last LayerNorm, then a LayerNorm without weights."""
    vectors = pool_avg(network, pixels)  # its last LayerNorm is an Identity
    return nn.functional.layer_norm(vectors, vectors.shape[1:], eps=1e-6)


TIMM_POOLINGS = {
    "model": pool_model,
    "token": pool_token,
    "avg": pool_avg,
    "avg_before_norm": pool_avg_before_norm,
}


def _timm_pooling(network: Any, pooling: str) -> Callable[[Any, Tensor], Tensor]:
    """Raises ValueError for an unknown pooling, or one of tokens of a network that has none."""
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

    if pooling not in TIMM_POOLINGS:
        raise ValueError(f"Unknown pooling {pooling!r}: there is {', '.join(TIMM_POOLINGS)}.")
    if pooling != "model" and not isinstance(network, (VisionTransformer, Eva)):
        raise ValueError(f"{type(network).__name__} is no plain vision transformer: its pooling can only be 'model'.")
    if pooling == "token" and not network.num_prefix_tokens:
        raise ValueError(f"{type(network).__name__} has no class token here: its pooling can be 'model' or 'avg'.")
    if pooling == "avg_before_norm":
        network.norm = nn.Identity()
    return TIMM_POOLINGS[pooling]


# ---- transformers --------------------------------------------------------------------------------------------------

#: Types whose last hidden states are a class token, registers if any, and the tokens of patches.
TOKEN_TYPES = ("beit", "dinov2", "dinov2_with_registers", "dinov3_vit", "vit")


def _transformers_encoder(
    name: str, folder: str | None, pooling: str | None, zoom: float | None, workers: int
) -> tuple[ImageEncoder, PhotoProcessor]:
    from transformers import AutoImageProcessor, AutoModel, PreTrainedConfig

    from ..models import register  # noqa: F401

    place = name if folder is None else folder
    try:
        config, _ = PreTrainedConfig.get_config_dict(place)
        kind = config.get("model_type", "timm_wrapper" if "architecture" in config else None)
        if folder is None and kind != "clibd":
            raise ValueError(
                f"{name!r} holds a model of type {kind!r}, no CLIBD. An encoder of photos is {'; or '.join(ENCODERS)}."
            )
        if kind == "clibd":
            return _clibd_encoder(place, pooling, zoom, workers)
        model = AutoModel.from_pretrained(place)
        if kind == "timm_wrapper":
            settings = model.timm_model.pretrained_cfg | (model.config.to_dict().get("pretrained_cfg") or {})
            mean, std, size = settings["mean"], settings["std"], _timm_size(settings)
            encoder = ImageEncoder(model.timm_model, _timm_pooling(model.timm_model, pooling or "model"), mean, std)
        else:
            images = AutoImageProcessor.from_pretrained(place)
            size = _size_of(images)
            encoder = ImageEncoder(model, _token_pooling(name, kind, pooling), images.image_mean, images.image_std)
    except OSError as error:
        raise OSError(f"No model at {name!r}. An encoder of photos is {'; or '.join(ENCODERS)}. {error}") from error
    return encoder, PhotoProcessor(size, int(size / (zoom or 1)), workers)


def _size_of(images: Any) -> int:
    """Side of the square that an image processor cuts out, in pixels."""
    settings = images.to_dict()
    size = settings.get("crop_size") or settings.get("size") or {}
    found = size.get("height") or size.get("shortest_edge")
    if found is None:
        raise ValueError(f"{type(images).__name__} does not tell how large the photos of its model are: {settings}.")
    return int(found)


def first_token(network: Any, pixels: Tensor) -> Tensor:
    """The class token."""
    return network(pixel_values=pixels).last_hidden_state[:, 0]


def mean_of_patches(network: Any, pixels: Tensor) -> Tensor:
    """The mean of the tokens of patches; registers and the class token do not count."""
    before = 1 + network.config.to_dict().get("num_register_tokens", 0)
    return network(pixel_values=pixels).last_hidden_state[:, before:].mean(1)


def own_pooling(network: Any, pixels: Tensor) -> Tensor:
    """What the network pools itself, as a vector."""
    return network(pixel_values=pixels).pooler_output.flatten(1)


def _token_pooling(name: str, kind: str | None, pooling: str | None) -> Callable[[Any, Tensor], Tensor]:
    """The class token by default: poolers of such models are often not trained."""
    if kind in ("clip", "siglip", "siglip2", "vit_mae"):
        raise ValueError(f"{name!r} of type {kind!r} does not take photos alone, or hides parts of them: use timm:ID.")
    if kind in TOKEN_TYPES:
        known = {"model": own_pooling, "token": first_token, "avg": mean_of_patches, None: first_token}
    else:
        known = {"model": own_pooling, None: own_pooling}
    if pooling not in known:
        raise ValueError(
            f"Unknown pooling {pooling!r} of a model of type {kind!r}: there is {', '.join(filter(None, known))}."
        )
    return known[pooling]


def clibd_image(network: Any, pixels: Tensor) -> Tensor:
    """Unit vectors of photos in the space that CLIBD shares with barcodes and taxonomy."""
    return network.get_image_features(pixels)


def _clibd_encoder(
    place: str, pooling: str | None, zoom: float | None, workers: int
) -> tuple[ImageEncoder, PhotoProcessor]:
    from transformers import AutoImageProcessor, AutoModel

    from ..models import register  # noqa: F401

    if pooling not in (None, "model"):
        raise ValueError(f"A CLIBD model pools photos in its own way: pooling cannot be {pooling!r}.")
    images = AutoImageProcessor.from_pretrained(place)
    size = images.crop_size["height"]
    resized = images.size["shortest_edge"] if zoom is None else int(size / zoom)
    model = AutoModel.from_pretrained(place)
    return ImageEncoder(model, clibd_image, images.image_mean, images.image_std), PhotoProcessor(
        size, resized, workers
    )
