"""Goal: at least 1,800 samples/s of training ViT-B/16, BarcodeBERT (12 layers) and BERT-small on one H200.

The published step (CLIBD, https://arxiv.org/abs/2405.17537: single precision, anomaly detection always on, plain
AdamW, each ordered pair of modalities in both directions against a dense matrix of targets, the loss read twice) is
implemented here again. Both run in turns in one process, with the same shapes and weights. Ours: bfloat16, torch's
fused attention, fused AdamW, each pair once, and photos as uint8 that are rotated and normalised on the device; in the
published step they arrive as floats. `in parts` passes 250 specimens at a time through the model and keeps no
similarities: nearly the same memory for any batch, for a second forward pass. The other ways show single options.

    python benchmarks/bench_clibd_step.py --device cuda                       # about 5 minutes on an H200
    python benchmarks/bench_clibd_step.py --small --output trial.json         # seconds on a CPU: no claim

Floating-point operations are counted as 2 per multiplication and addition: per token of each encoder, projections and
attention (4 D^2 + 2 D F weights per layer, 4 L D for scores and values), the projection heads and the patches; times
three for forward and backward. Embeddings, norms, softmax, the loss and the second forward pass of `in parts` are not
counted. Utilisation is relative to 790 TFLOP/s (bf16, measured on a product of matrices of 8192 on an H200; other
devices: `--peak_tflops`). It needs torch, transformers and timm; no data set, index or metric library is imported.

Shape letters: B = specimens, L = tokens, D = hidden size, F = intermediate size, E = projection_dim.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from bioscan_hf.losses.cached import cached_embeddings
from bioscan_hf.losses.contrastive import contrastive_loss
from bioscan_hf.models.configuration_clibd import ClibdConfig
from bioscan_hf.models.modeling_clibd import ClibdModel
from bioscan_hf.models.pixels import normalize_on_device, rotate_by
from bioscan_hf.provenance import write_results

GOAL = 1800.0  # samples/s of ours at the better of the two batches
PEAK_TFLOPS = 790.0
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


PUBLISHED = Way(
    published_loss=True,
    anomaly_detection=True,
    bf16=False,
    attention="eager",
    fused_optimizer=False,
    float_photos=True,
)
WAYS = {
    "published": PUBLISHED,
    "without anomaly detection": replace(PUBLISHED, anomaly_detection=False),
    "sdpa, fused AdamW, each pair once": Way(bf16=False),
    "ours": Way(),
    "ours, in parts": Way(rows_at_a_time=250, chunk_size=1024),
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
    return {
        "pixel_values": torch.randint(0, 256, (rows, 3, image_size, image_size), generator=draw, dtype=torch.uint8),
        "rotation": torch.rand(rows, generator=draw) * 90 - 45,
        "dna_input_ids": torch.randint(3, dna.vocab_size, (rows, kmers), generator=draw),
        "text_input_ids": torch.randint(3, text.vocab_size, (rows, TEXT_TOKENS), generator=draw),
    }


def prepare(rows: Any) -> dict[str, Tensor]:
    """Inputs of the model, with photos normalised and rotated on their device."""
    pixels = rows["pixel_values"]
    if not pixels.is_floating_point():
        pixels = rotate_by(normalize_on_device(pixels, MEAN, STD), rows["rotation"])
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
                outputs = model(**prepare(batch))
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


def make_stepper(
    way: Way, fields: dict[str, Any], rows: int, device: torch.device
) -> tuple[Callable[[], Tensor], ClibdModel]:
    """A function that copies a batch to the device and does a step, and the model."""
    torch.manual_seed(0)
    config = ClibdConfig(**fields, dna_attend_to_padding=True)
    # The photo encoder has torch's fused attention in any case, as it had in the published code: timm's own.
    model = ClibdModel._from_config(
        config, attn_implementation={"dna_config": way.attention, "text_config": way.attention}
    )
    model = model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0.01, fused=way.fused_optimizer)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=1_000_000, cycle_momentum=False
    )
    given = make_batch(config, rows, photo_size(config))
    if way.float_photos:  # the published data loader gives them ready, in four times the bytes
        given |= prepare(given)
    ready = {name: part.pin_memory() if device.type == "cuda" else part for name, part in given.items()}

    def step() -> Tensor:
        batch = {name: part.to(device, non_blocking=True) for name, part in ready.items()}
        return train_step(way, model, optimizer, scheduler, batch)

    return step, model


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


def wait(device: torch.device) -> None:
    """Waits until the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure_turns(
    ways: dict[str, Way], fields: dict[str, Any], rows: int, device: torch.device, repeats: int, steps: int
) -> dict[str, dict[str, Any]]:
    """Median rate, peak memory on the device, and speed-up over the published way, of each way."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    about: dict[str, dict[str, Any]] = {name: {"losses": []} for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            if "out_of_memory" in about[name]:
                continue
            try:
                spent = one_turn(way, fields, rows, device, steps, about[name])
            except torch.OutOfMemoryError:
                about[name]["out_of_memory"] = True
                continue
            if turn:  # the first one warms up
                seconds[name].append(spent)
    measured: dict[str, dict[str, Any]] = {}
    for name, turns in seconds.items():
        measured[name] = {"losses": about[name]["losses"]}
        if "out_of_memory" in about[name]:
            measured[name]["out_of_memory"] = True
            continue
        wall, cpu = (median(turn[clock] for turn in turns) for clock in (0, 1))
        measured[name] |= {
            "samples_per_second": round(rows / wall, 2),
            "seconds_wall": round(wall, 4),
            "seconds_cpu": round(cpu, 4),
            "gflop_per_sample": round(about[name]["gflop"], 3),
            "peak_gb": about[name]["peak_gb"],
        }
        if seconds["published"] and "out_of_memory" not in about["published"]:
            ratios = [old[0] / new[0] for old, new in zip(seconds["published"], turns, strict=True)]
            measured[name]["ratio_wall"] = round(median(ratios), 2)
    return measured


def one_turn(
    way: Way, fields: dict[str, Any], rows: int, device: torch.device, steps: int, about: dict[str, Any]
) -> tuple[float, float]:
    """Wall and CPU seconds per step of a new model, after two steps of warm-up."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    step, model = make_stepper(way, fields, rows, device)
    about["gflop"] = gflop_per_sample(model)
    losses = [step(), step()]
    wait(device)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        step()
    wait(device)
    spent = (time.perf_counter() - wall) / steps, (time.process_time() - cpu) / steps
    about["losses"] = [round(loss.item(), 4) for loss in losses]
    about["peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2) if device.type == "cuda" else None
    return spent


def main(arguments: list[str] | None = None) -> int:
    """Measures, writes the results file, and returns 1 if the goal is not reached on a GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="the real sizes need cuda")
    parser.add_argument("--small", action="store_true", help="smoke test with a tiny model")
    parser.add_argument("--batches", type=int, nargs="+", default=None, help="(default: 500 2000)")
    parser.add_argument("--repeats", type=int, default=5, help="number of turns; the median is reported")
    parser.add_argument("--steps", type=int, default=None, help="steps in a turn (default: 5, with --small 1)")
    parser.add_argument("--peak_tflops", type=float, default=PEAK_TFLOPS, help="of the device, bf16")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "clibd_step.json")
    options = parser.parse_args(arguments)
    if options.device == "cpu" and not options.small:
        parser.error("The real sizes need a GPU: give --device cuda, or --small for a trial.")
    device = torch.device(options.device)
    fields = SMALL if options.small else FULL
    batches = options.batches or ([16, 32] if options.small else [500, 2000])
    steps = options.steps or (1 if options.small else 5)
    metrics: dict[str, Any] = {}
    for rows in batches:
        metrics[str(rows)] = measure_turns(WAYS, fields, rows, device, options.repeats, steps)
        for name, values in metrics[str(rows)].items():
            if "samples_per_second" in values and options.device == "cuda":
                rate = values["samples_per_second"] * values["gflop_per_sample"] * 1e9
                values["utilisation"] = round(rate / (options.peak_tflops * 1e12), 4)
            print(f"batch {rows}, {name}: {values}", flush=True)
    reached = max(of_batch["ours"].get("samples_per_second", 0.0) for of_batch in metrics.values())
    write_results(
        options.output,
        task="benchmark/clibd_step",
        metrics=metrics,
        options={"batches": batches, "repeats": options.repeats, "steps": steps, "small": options.small},
        ways={name: asdict(way) for name, way in WAYS.items()},
        device=torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        threads=torch.get_num_threads(),
        peak_tflops=options.peak_tflops,
        goal_samples_per_second=GOAL,
        reached_samples_per_second=None if options.small else reached,
    )
    print(f"ours: {reached} samples/s (goal on an H200: {GOAL})")
    return int(not options.small and reached < GOAL)


if __name__ == "__main__":
    raise SystemExit(main())
