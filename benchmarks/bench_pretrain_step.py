"""Claim: a pretraining step is at least twice as fast as the published one, and three times with the masked-only loss.

The published step (BarcodeBERT, https://arxiv.org/abs/2311.02401: single precision, plain attention with a mask, masks
drawn on the device in two draws, the loss of all valid k-mers, plain AdamW, three accuracies per step) is implemented
here again. Both run in turns in one process, from the same weights and tokens. Ours draws its masks in the collator:
on a CPU this counts; on a GPU, where workers of the data loader do it, it is reported separately.

    python benchmarks/bench_pretrain_step.py                                  # about 5 minutes on 2 CPU cores
    python benchmarks/bench_pretrain_step.py --quick --output trial.json      # seconds, a tiny model: no claim
    python benchmarks/bench_pretrain_step.py --compile                        # also with torch.compile

On a GPU it runs the shapes 4-4-4 and 8-4-4 (k, heads, layers), each way at its best batch size, and reports samples/s,
the utilisation of 790 TFLOP/s (bf16), and peak memory. It needs only torch, transformers and numpy.

Shape letters: B = batch, L = tokens.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from bioscan_hf.models.configuration_barcodebert import BarcodeBertConfig
from bioscan_hf.models.modeling_barcodebert import BarcodeBertForMaskedLM
from bioscan_hf.provenance import write_results
from bioscan_hf.training.masking import MaskedKmerCollator, Masking

REQUIRED = {"ours, same objective": 2.0, "ours, masked only": 3.0}
PEAK = 790e12  # FLOP/s of an H200 in bf16, measured on a product of matrices of 8192
NUCLEOTIDES = 658
BATCH_SIZES = (64, 128, 256, 512, 1024, 2048)
LEARNING_RATE = 1e-4


@dataclass(frozen=True)
class Way:
    """How a step is computed: as published, or ours with some of its options."""

    published: bool = False
    loss_on: str = "valid"
    bf16: bool = True
    attention_dropout: float = 0.0
    cut_padding: bool = True
    attention: str = "sdpa"
    compiled: bool = False


WAYS = {
    "published": Way(published=True, bf16=False, attention_dropout=0.1, cut_padding=False, attention="eager"),
    "sdpa, fused AdamW": Way(bf16=False, attention_dropout=0.1, cut_padding=False),
    "and bf16": Way(attention_dropout=0.1, cut_padding=False),
    "and no attention dropout": Way(cut_padding=False),
    "and padding cut": Way(),
}
#: On a CPU, plain attention in bfloat16 takes less time than torch's fused one.
FASTEST_ATTENTION = {"cpu": "eager", "cuda": "sdpa"}


def ways_on(device: str, compiled: bool) -> dict[str, Way]:
    """The ways to compare on a device."""
    attention = FASTEST_ATTENTION[device]
    ours = {
        "ours, same objective": Way(attention=attention),
        "ours, masked only": Way(attention=attention, loss_on="masked"),
    }
    if compiled:
        ours |= {f"{name}, compiled": replace(way, compiled=True) for name, way in ours.items()}
    return WAYS | ours


class PreparedTokens:
    """Replaces a tokenizer: barcode "7" has the random tokens of row 7, so that neither way tokenizes."""

    vocabulary = "barcodebert"

    def __init__(self, k: int, rows: int, seed: int):
        self.k, self.max_nucleotides = k, 660
        self.number_of_tokens = self.max_nucleotides // k
        self.ids = np.random.default_rng(seed).integers(2, 4**k + 2, (rows, self.number_of_tokens))

    def convert_tokens_to_ids(self, token: str) -> int:
        """The id of the first k-mer."""
        return 2

    def encode_column(self, barcodes: list[str], offset: Any) -> tuple[np.ndarray, np.ndarray]:
        """Ids and mask (B, L) of barcodes of 658 nucleotides, without the first `offset` nucleotides."""
        tokens = (NUCLEOTIDES - np.broadcast_to(offset, len(barcodes))) // self.k
        mask = (np.arange(self.number_of_tokens) < tokens[:, None]).astype(np.int64)
        return np.where(mask == 1, self.ids[[int(barcode) for barcode in barcodes]], 1), mask


def published_step(model: Any, optimizer: Any, scheduler: Any, ids: torch.Tensor, mask: torch.Tensor) -> None:
    """Masks the batch on its device, predicts every valid k-mer, and computes loss and accuracies."""
    maskable = ids > 1
    torch.rand(ids.shape, device=ids.device)  # drawn and not used
    masked = (torch.rand(ids.shape, device=ids.device) < 0.5) & maskable
    logits = model(ids.masked_fill(masked, 0), attention_mask=mask).logits  # (B, L, 4**k)
    targets = ids - 2
    loss = torch.nn.functional.cross_entropy(logits[maskable], targets[maskable])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    scheduler.step()
    with torch.no_grad():
        right = logits.argmax(-1) == targets
        for part in (masked, maskable & ~masked, maskable):
            right[part].float().mean().item()
    loss.item()


def our_step(model: Any, optimizer: Any, scheduler: Any, batch: dict[str, torch.Tensor], bf16: bool) -> None:
    """The step of the Trainer with the options of a way."""
    device = batch["input_ids"].device.type
    with torch.autocast(device, torch.bfloat16, enabled=bf16):
        loss = model(**batch).loss
    loss.backward()
    optimizer.step()
    scheduler.step()
    optimizer.zero_grad()


def make_stepper(
    way: Way, config: dict[str, Any], tokens: PreparedTokens, batch_size: int, device: torch.device
) -> tuple[Callable[[], None], Callable[[], dict[str, torch.Tensor]]]:
    """A function that does a step (on a CPU with masking), and one that only draws a batch."""
    torch.manual_seed(0)
    model = BarcodeBertForMaskedLM._from_config(
        BarcodeBertConfig(
            **config, attention_probs_dropout_prob=way.attention_dropout, sparse_prediction=way.loss_on == "masked"
        ),
        attn_implementation=way.attention,
    )
    model = model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0.0, fused=not way.published)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=1_000_000)
    run = torch.compile(model) if way.compiled else model
    collator = MaskedKmerCollator(
        tokens,  # type: ignore[arg-type]
        Masking(loss_on=way.loss_on),
        cut_padding=way.cut_padding,
    )
    draw = np.random.default_rng(0)

    def collate() -> dict[str, torch.Tensor]:
        rows = draw.integers(0, len(tokens.ids), batch_size)
        return collator([{"dna_barcode": str(row)} for row in rows])

    if way.published:
        ids, mask = (
            torch.from_numpy(part)
            for part in tokens.encode_column([str(i % len(tokens.ids)) for i in range(batch_size)], 0)
        )
        return lambda: published_step(run, optimizer, scheduler, ids.to(device), mask.to(device)), collate
    if device.type == "cpu":
        return lambda: our_step(run, optimizer, scheduler, collate(), way.bf16), collate
    ready = [{name: part.pin_memory() for name, part in collate().items()} for _ in range(4)]

    def step() -> None:
        batch = {name: part.to(device, non_blocking=True) for name, part in ready[0].items()}
        ready.append(ready.pop(0))
        our_step(run, optimizer, scheduler, batch, way.bf16)

    return step, collate


def timed(step: Callable[[], Any], steps: int, device: torch.device) -> tuple[float, float]:
    """Wall and CPU seconds per step."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - wall) / steps, (time.process_time() - cpu) / steps


def compare_on_cpu(
    ways: dict[str, Way], config: dict[str, Any], batch_size: int, repeats: int, steps: int
) -> dict[str, dict[str, float]]:
    """Median seconds per step of each way, and the median speed-up over the published way."""
    device, tokens = torch.device("cpu"), PreparedTokens(config["k"], 1024, 0)
    steppers = {name: make_stepper(way, config, tokens, batch_size, device) for name, way in ways.items()}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for step, _ in steppers.values():
        timed(step, 2, device)  # warms up, compiles
    for _ in range(repeats):
        for name, (step, _) in steppers.items():
            seconds[name].append(timed(step, steps, device))
    measured = {}
    for name, turns in seconds.items():
        collate = [timed(steppers[name][1], 3, device)[0] for _ in range(repeats)]
        measured[name] = {
            "seconds_wall": round(median(wall for wall, _ in turns), 4),
            "seconds_cpu": round(median(cpu for _, cpu in turns), 4),
            "samples_per_second": round(batch_size / median(wall for wall, _ in turns), 2),
            "seconds_collator": round(median(collate), 5),
        }
        for clock, unit in enumerate(("wall", "cpu")):
            ratios = [old[clock] / new[clock] for old, new in zip(seconds["published"], turns, strict=True)]
            measured[name][f"ratio_{unit}"] = round(median(ratios), 2)
    return measured


def flop_per_sample(config: BarcodeBertConfig, tokens: float, predicted: float) -> float:
    """Floating-point operations of a training step for one barcode: forward, and twice that backward."""
    d, f = config.hidden_size, config.intermediate_size
    layer = tokens * 2 * (4 * d * d + 2 * d * f) + 4 * tokens * tokens * d
    return 3 * (config.num_hidden_layers * layer + predicted * 2 * d * config.num_kmers)


def measure_on_gpu(way: Way, config: dict[str, Any], batch_size: int, repeats: int, steps: int) -> dict[str, float]:
    """Samples/s, utilisation and peak memory of a way at one batch size."""
    device, tokens = torch.device("cuda"), PreparedTokens(config["k"], 8192, 0)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    step, collate = make_stepper(way, config, tokens, batch_size, device)
    timed(step, 8, device)
    seconds = median(timed(step, steps, device)[0] for _ in range(repeats))
    batch = collate()
    attended = batch["attention_mask"].float().sum(1).mean().item() if "attention_mask" in batch else None
    length = attended or batch["input_ids"].shape[1]
    predicted = (batch["labels"] >= 0).float().sum(1).mean().item()
    flop = flop_per_sample(BarcodeBertConfig(**config), length, predicted)
    return {
        "batch_size": batch_size,
        "samples_per_second": round(batch_size / seconds, 1),
        "utilisation": round(batch_size / seconds * flop / PEAK, 4),
        "gflop_per_sample": round(flop / 1e9, 2),
        "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2),
        "collator_samples_per_second_and_core": round(batch_size / timed(collate, 3, device)[0]),
    }


def compare_on_gpu(
    ways: dict[str, Way], config: dict[str, Any], batch_sizes: tuple[int, ...], repeats: int, steps: int
) -> dict[str, dict[str, Any]]:
    """Each way at its best batch size, and its speed-up over the published way."""
    measured: dict[str, dict[str, Any]] = {}
    for name, way in ways.items():
        tried = []
        for batch_size in batch_sizes:
            try:
                tried.append(measure_on_gpu(way, config, batch_size, repeats, steps))
            except torch.OutOfMemoryError:
                break
            print(f"  {name}: {tried[-1]}", flush=True)
        best = max(tried, key=lambda one: one["samples_per_second"])
        measured[name] = best | {"tried": {one["batch_size"]: one["samples_per_second"] for one in tried}}
    for values in measured.values():
        values["ratio_wall"] = round(values["samples_per_second"] / measured["published"]["samples_per_second"], 2)
    return measured


def shape(k: int, quick: bool) -> dict[str, Any]:
    """Config values of a model of 4 heads and 4 layers, or of a tiny one."""
    tiny = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    return {"k": k, "num_attention_heads": 4, **(tiny if quick else {"num_hidden_layers": 4})}


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark, writes the results file, and returns 1 if a speed-up is below the claim."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_size", type=int, default=16, help="barcodes on a CPU (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="number of turns; the median is reported")
    parser.add_argument("--steps", type=int, default=None, help="steps in a turn (default: 1 on a CPU, 10 on a GPU)")
    parser.add_argument("--compile", action="store_true", help="also measure ours with torch.compile")
    parser.add_argument("--quick", action="store_true", help="smoke test with a tiny model")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "pretrain_step.json")
    options = parser.parse_args(arguments)
    on_gpu = options.device == "cuda"
    ways = ways_on(options.device, options.compile)
    steps = options.steps or (10 if on_gpu else 1)
    metrics: dict[str, Any] = {}
    for k in (4, 8) if on_gpu else (4,):
        print(f"{k}-4-4 on {options.device}", flush=True)
        config = shape(k, options.quick)
        if on_gpu:
            sizes = BATCH_SIZES[:2] if options.quick else BATCH_SIZES
            metrics[f"{k}-4-4"] = compare_on_gpu(ways, config, sizes, options.repeats, steps)
        else:
            metrics[f"{k}-4-4"] = compare_on_cpu(ways, config, options.batch_size, options.repeats, steps)
        print(*(f"  {name}: {values}" for name, values in metrics[f"{k}-4-4"].items()), sep="\n")
    ratios = {name: metrics["4-4-4"][name]["ratio_wall"] for name in REQUIRED}
    write_results(
        options.output,
        task="benchmark/pretrain_step",
        metrics=metrics,
        options={"batch_size": options.batch_size, "repeats": options.repeats, "steps": steps, "quick": options.quick},
        ways={name: asdict(way) for name, way in ways.items()},
        device=torch.cuda.get_device_name() if on_gpu else "cpu",
        threads=torch.get_num_threads(),
        peak_flop_per_second=PEAK,
        required_ratios=REQUIRED,
        ratios=ratios,
    )
    print(*(f"{name}: {ratio} times the published rate (claimed: {REQUIRED[name]})" for name, ratio in ratios.items()))
    return int(not options.quick and any(ratio < REQUIRED[name] for name, ratio in ratios.items()))


if __name__ == "__main__":
    raise SystemExit(main())
