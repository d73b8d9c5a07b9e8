"""Steps of CLIBD (ViT-B/16, BarcodeBERT of 12 layers, BERT-small) and its loss, measured by `gpu_run.py`.

The published step (CLIBD, https://arxiv.org/abs/2405.17537: single precision, anomaly detection always on, plain
AdamW, each ordered pair of modalities in both directions against a dense matrix of targets, the loss read twice) is
implemented here again, with the same shapes and weights as ours. Ours: bfloat16, torch's fused attention, fused AdamW,
compiled layers, each pair once, and photos as uint8 that are rotated and normalised on the device; in the published
step they arrive as floats. In parts, 500 specimens at a time pass through the model and no similarities are kept:
nearly the same memory for any batch, for a second forward pass.

Floating-point operations are counted as 2 per multiplication and addition: per token of each encoder, projections and
attention (4 D^2 + 2 D F weights per layer, 4 L D for scores and values), the projection heads and the patches; times
three for forward and backward. Embeddings, norms, softmax, the loss and the second forward pass are not counted.

Shape letters: B = specimens, L = tokens, D = hidden size, F = intermediate size, E = projection_dim.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from gpu_report import Report, peak_gb
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from bioscan_hf.losses.cached import cached_embeddings
from bioscan_hf.losses.contrastive import contrastive_loss
from bioscan_hf.models.configuration_clibd import ClibdConfig
from bioscan_hf.models.modeling_clibd import ClibdModel
from bioscan_hf.models.pixels import normalize_on_device, rotate_by

PEAK = 790e12  # bf16 FLOP/s of an H100 or H200, measured on a product of matrices of 8192
LEARNING_RATE = 5e-5
TEXT_TOKENS = 20
MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
MODALITIES = ("image", "dna", "text")

#: Configs of the model: the published one, and one for a trial on a CPU.
FULL: dict[str, Any] = {"image_config": {}, "dna_config": {}, "text_config": {}}
_TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
_TINY_VIT = {"img_size": 32, "embed_dim": 32, "depth": 1, "num_heads": 2}
SMALL: dict[str, Any] = {
    "image_config": {"architecture": "vit_tiny_patch16_224", "model_args": _TINY_VIT},
    "dna_config": {"k": 5, "vocabulary": "clibd", **_TINY},
    "text_config": {"vocab_size": 100, **_TINY},
    "projection_dim": 16,
}


@dataclass(frozen=True)
class Way:
    """How a step is computed: as published, or ours with some of its options."""

    published_loss: bool = False
    anomaly_detection: bool = False
    bf16: bool = True
    attention: str = "sdpa"
    fused_optimizer: bool = True
    rows_at_a_time: int = 0
    chunk_size: int = 0
    float_photos: bool = False
    compiled: bool = False
    channels_last: bool = False


PUBLISHED = Way(
    published_loss=True,
    anomaly_detection=True,
    bf16=False,
    attention="eager",
    fused_optimizer=False,
    float_photos=True,
)
#: Batch sizes of each way. A batch of 2,000 does not fit into the memory of one GPU, except in parts.
PLANS: dict[str, tuple[Way, tuple[int, ...]]] = {
    "published": (PUBLISHED, (200, 500, 2000)),
    "ours, not compiled": (Way(), (200,)),
    "ours": (Way(compiled=True), (500, 200, 1000)),
    "ours, photos channels last": (Way(compiled=True, channels_last=True), (500,)),
    "ours, in parts": (Way(compiled=True, rows_at_a_time=500, chunk_size=1024), (2000,)),
}


def published_loss(embeddings: dict[str, Tensor], scale: Tensor) -> Tensor:
    """The published loss: each ordered pair of modalities in both directions; every row has its own label."""
    labels = torch.arange(len(embeddings["image"]), device=scale.device)
    targets = (labels[:, None] == labels).float()  # (B, B)
    losses = []
    for name, rows in embeddings.items():
        for other, columns in embeddings.items():
            if name != other:
                first, second = normalize(rows, dim=-1), normalize(columns, dim=-1)
                losses.append(cross_entropy(scale * first @ second.T, targets))
                losses.append(cross_entropy(scale * second @ first.T, targets))
    return torch.stack(losses).mean()


def make_batch(config: ClibdConfig, rows: int, image_size: int) -> dict[str, Tensor]:
    """A batch of the collator with random content: uint8 photos, angles, 133 and 20 tokens."""
    draw = torch.Generator().manual_seed(0)
    dna: Any = config.dna_config
    text: Any = config.text_config
    kmers = dna.max_nucleotides // dna.k + 1
    photos = torch.randint(0, 256, (min(rows, 200), 3, image_size, image_size), generator=draw, dtype=torch.uint8)
    return {
        "pixel_values": photos[torch.arange(rows) % len(photos)],
        "rotation": torch.rand(rows, generator=draw) * 90 - 45,
        "dna_input_ids": torch.randint(3, dna.vocab_size, (rows, kmers), generator=draw),
        "text_input_ids": torch.randint(3, text.vocab_size, (rows, TEXT_TOKENS), generator=draw),
    }


def prepare(rows: Any, channels_last: bool = False) -> dict[str, Tensor]:
    """Inputs of the model, with photos normalised and rotated on their device."""
    pixels = rows["pixel_values"]
    if not pixels.is_floating_point():
        pixels = rotate_by(normalize_on_device(pixels, MEAN, STD), rows["rotation"])
    if channels_last:
        pixels = pixels.contiguous(memory_format=torch.channels_last)
    return {"pixel_values": pixels} | {name: rows[name] for name in ("dna_input_ids", "text_input_ids")}


def train_step(way: Way, model: ClibdModel, optimizer: Any, scheduler: Any, batch: dict[str, Tensor]) -> Tensor:
    """Does a step and gives its loss."""
    device = batch["dna_input_ids"].device
    with torch.autograd.set_detect_anomaly(way.anomaly_detection):
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=way.bf16):
            if way.rows_at_a_time:
                outputs: Any = cached_embeddings(model, batch, way.rows_at_a_time, prepare=prepare)
            else:
                outputs = model(**prepare(batch, way.channels_last))
        embeddings = {name: outputs[f"{name}_embeds"] for name in MODALITIES}
        if way.published_loss:
            loss = published_loss(embeddings, outputs["logit_scale"])
        else:
            loss = contrastive_loss(embeddings, outputs["logit_scale"], chunk_size=way.chunk_size or None)
        loss.backward()
        optimizer.step()
        scheduler.step()
    if way.published_loss:
        loss.item(), loss.item()  # waits for the device, twice
    return loss.detach()


@dataclass(frozen=True)
class Built:
    """A model in training, and its way."""

    way: Way
    device: torch.device
    model: ClibdModel
    optimizer: torch.optim.Optimizer
    scheduler: Any


def build(way: Way, fields: dict[str, Any], device: torch.device) -> Built:
    """A new model, its optimizer and schedule."""
    torch.manual_seed(0)
    config = ClibdConfig(**fields, dna_attend_to_padding=True)
    # The photo encoder has torch's fused attention in any case, as it had in the published code: timm's own.
    model = ClibdModel._from_config(
        config, attn_implementation={"dna_config": way.attention, "text_config": way.attention}
    )
    model = model.to(device).train()
    if way.compiled:
        for layer in layers_of(model):
            layer.compile(dynamic=False)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0.01, fused=way.fused_optimizer)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=1_000_000, cycle_momentum=False
    )
    return Built(way, device, model, optimizer, scheduler)


def layers_of(model: Any) -> list[torch.nn.Module]:
    """The layers of the three encoders. Compiled one by one, equal layers are compiled once."""
    encoders = (model.image_model.timm_model.blocks, model.dna_model.encoder.layer, model.text_model.encoder.layer)
    return [layer for layers in encoders for layer in layers]


def make_stepper(built: Built, rows: int) -> Callable[[], Tensor]:
    """A function that copies a batch to the device and does a step."""
    way, device = built.way, built.device
    given = make_batch(built.model.config, rows, photo_size(built.model.config))
    if way.float_photos:  # the published data loader gives them ready, in four times the bytes
        given |= {name: part.cpu() for name, part in prepare({n: x.to(device) for n, x in given.items()}).items()}
    ready = {name: part.pin_memory() if device.type == "cuda" else part for name, part in given.items()}

    def step() -> Tensor:
        batch = {name: part.to(device, non_blocking=True) for name, part in ready.items()}
        return train_step(way, built.model, built.optimizer, built.scheduler, batch)

    return step


def photo_size(config: ClibdConfig) -> int:
    """Side length of the photos in pixels."""
    photos: Any = config.image_config
    return (photos.model_args or {}).get("img_size", 224)


def gflop_per_sample(model: ClibdModel) -> float:
    """Operations (GFLOP) of a training step for one specimen: forward, and twice that backward."""
    config: Any = model.config
    dna, text = config.dna_config, config.text_config
    vit: Any = model.image_model.timm_model
    patches, d = vit.patch_embed.num_patches, vit.embed_dim
    kernel = vit.patch_embed.proj.weight[0].numel()
    flop = encoder_flop(patches + 1, len(vit.blocks), d, vit.blocks[0].mlp.fc1.out_features) + 2 * patches * kernel * d
    for one, length in ((dna, dna.max_nucleotides // dna.k + 1), (text, TEXT_TOKENS)):
        flop += encoder_flop(length, one.num_hidden_layers, one.hidden_size, one.intermediate_size)
    flop += sum(2 * width * config.projection_dim for width in (d, dna.hidden_size, text.hidden_size))
    return 3 * flop / 1e9


def encoder_flop(tokens: int, layers: int, d: int, f: int) -> float:
    """Operations (FLOP) of a forward pass through an encoder."""
    return layers * (2 * tokens * (4 * d * d + 2 * d * f) + 4 * tokens * tokens * d)


def measure_clibd(report: Report, small: bool) -> None:
    """One row for each way and batch size; a model is built once for each way."""
    for name, (way, batches) in PLANS.items():
        torch.set_float32_matmul_precision("highest" if way.published_loss else "high")
        torch._dynamo.reset()
        if report.device.type == "cpu":
            way = replace(way, compiled=False)
        built: list[Built] = []

        def measure(batch_size: int, way: Way = way, built: list[Built] = built) -> dict[str, Any]:
            if not built:
                built.append(build(way, SMALL if small else FULL, report.device))
            return rates(built[0], batch_size, report)

        for rows in batches if not small else (6,):
            report.row(f"{name}, batch {rows}", partial(measure, rows), 20 if way.compiled else 5)


def rates(built: Built, rows: int, report: Report) -> dict[str, Any]:
    """Samples/s, the share of the peak (MFU), memory and the first loss of a step."""
    losses: list[Tensor] = []
    step = make_stepper(built, rows)
    seconds = report.seconds_per_step(lambda: losses.append(step()))
    rate, gflop = rows / seconds["step"], gflop_per_sample(built.model)
    return {
        "samples_per_second": round(rate, 1),
        "mfu": round(rate * gflop * 1e9 / PEAK, 4),
        "gflop_per_sample": round(gflop, 3),
        "peak_gb": peak_gb(report.device),
        "seconds_of_first_step": seconds["first_step"],
        "first_loss": round(losses[0].item(), 4),
    }


# ---- the loss alone -------------------------------------------------------------------------------------------------


def measure_loss(report: Report, small: bool) -> None:
    """Forward and backward of the losses of three modalities, at a batch that only ours holds, and a smaller one."""
    size = 32 if small else 768
    for rows in (64, 128) if small else (8192, 32_768):
        for name, chunk in {"published": None, "ours": None, "ours, in chunks": rows // 32}.items():
            given = name == "published", chunk, rows, size, report
            report.row(f"{name}, {rows} rows", partial(_loss_row, *given), 2)


def _loss_row(published: bool, chunk: int | None, rows: int, size: int, report: Report) -> dict[str, Any]:
    torch.set_float32_matmul_precision("highest")
    torch.manual_seed(0)
    shared = torch.randn(rows, size, device=report.device)
    embeddings = {name: (shared + 2 * torch.randn_like(shared)).requires_grad_() for name in MODALITIES}
    scale = torch.tensor(1 / 0.07, device=report.device, requires_grad=True)
    losses = []

    def step() -> None:
        for part in (*embeddings.values(), scale):
            part.grad = None
        ours = partial(contrastive_loss, chunk_size=chunk)
        loss = (published_loss if published else ours)(embeddings, scale)
        loss.backward()
        losses.append(loss.detach())

    seconds = report.seconds_per_step(step)
    return {
        "seconds": round(seconds["step"], 4),
        "peak_gb": peak_gb(report.device),
        "loss_nats": losses[0].item(),
        "gradient_norm": sum(part.grad.norm().item() for part in embeddings.values() if part.grad is not None),
    }
