"""Claim: a pretraining step is at least twice as fast as the published one, and three times with the masked-only loss.

The published step (BarcodeBERT, https://arxiv.org/abs/2311.02401: single precision, plain attention with a mask, masks
drawn on the device in two draws, the loss of all valid k-mers, plain AdamW, three accuracies per step) is implemented
here again. Both run in turns in one process, from the same weights and tokens. Ours draws its masks in the collator,
which counts here; on a GPU (`gpu_run.py`, which measures these steps there) workers of the data loader do it.

    python benchmarks/bench_pretrain_step.py                                  # about 5 minutes on 2 CPU cores
    python benchmarks/bench_pretrain_step.py --quick --output trial.json      # seconds, a tiny model: no claim
    python benchmarks/bench_pretrain_step.py --compile                        # also with torch.compile
    python benchmarks/bench_pretrain_step.py --mae                            # masked autoencoders: no claim

With `--mae`, masked autoencoders (BarcodeMAE, https://arxiv.org/abs/2502.18405) are compared with masked k-mers at
equal size, in `results/mae_step.json`. The cost of the encoder alone follows from those of two decoders.

Shape letters: B = batch, L = tokens.
"""

from __future__ import annotations

import argparse
import os
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
from bioscan_hf.models.modeling_barcodemae import BarcodeMaeForPreTraining
from bioscan_hf.provenance import write_results
from bioscan_hf.training.masking import MaskedKmerCollator, Masking

REQUIRED = {"ours, same objective": 2.0, "ours, masked only": 3.0}
NUCLEOTIDES = 658
LEARNING_RATE = 1e-4


@dataclass(frozen=True)
class Way:
    """How a step is computed: as published, or ours with some of its options."""

    published: bool = False
    loss_on: str = "valid"
    bf16: bool = True
    dropout: float = 0.1  # of hidden states
    attention_dropout: float = 0.0
    cut_padding: bool = True
    attention: str = "sdpa"
    compiled: bool = False
    max_grad_norm: float = 0.0
    decoder_layers: int = 0  # of a masked autoencoder


WAYS = {
    "published": Way(published=True, bf16=False, attention_dropout=0.1, cut_padding=False, attention="eager"),
    "sdpa, fused AdamW": Way(bf16=False, attention_dropout=0.1, cut_padding=False),
    "and bf16": Way(attention_dropout=0.1, cut_padding=False),
    "and no attention dropout": Way(cut_padding=False),
    "and padding cut": Way(),
}


#: Masked k-mers, and masked autoencoders with a light decoder and with one like the encoder; in single precision.
MASKED = Way(bf16=False, loss_on="masked", attention="eager")
MAE_WAYS = {"masked k-mers": MASKED} | {
    f"masked autoencoder, decoder of {text}": replace(MASKED, decoder_layers=layers)
    for text, layers in (("1 layer", 1), ("4 layers", 4))
}


def ways_on_cpu(compiled: bool) -> dict[str, Way]:
    """The ways to compare. On a CPU, plain attention in bfloat16 takes less time than torch's fused one."""
    ours = {
        "ours, same objective": Way(attention="eager"),
        "ours, masked only": Way(attention="eager", loss_on="masked"),
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
    logits = model(ids.masked_fill(masked, 0), attention_mask=mask).logits  # (B, L, V)
    targets = ids
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


@dataclass(frozen=True)
class Built:
    """A model in training, and its way."""

    way: Way
    device: torch.device
    model: Any
    run: Any  # the model, compiled or not
    optimizer: torch.optim.Optimizer
    scheduler: Any


def build(way: Way, config: dict[str, Any], device: torch.device) -> Built:
    """A new model, its optimizer and schedule."""
    torch.manual_seed(0)
    how: dict[str, Any] = {
        "decoder_num_hidden_layers": way.decoder_layers,
        "decoder_projection": "auto",
        "hidden_dropout_prob": way.dropout,
        "attention_probs_dropout_prob": way.attention_dropout,
    }
    model = (BarcodeMaeForPreTraining if way.decoder_layers else BarcodeBertForMaskedLM)._from_config(
        BarcodeBertConfig(**config, **how, sparse_prediction=way.loss_on == "masked"),
        attn_implementation=way.attention,
    )
    model = model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0.0, fused=not way.published)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=1_000_000)
    run = torch.compile(model, dynamic=False) if way.compiled else model
    return Built(way, device, model, run, optimizer, scheduler)


def our_step(built: Built, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The step of the Trainer with the options of a way; gives the loss."""
    with torch.autocast(built.device.type, torch.bfloat16, enabled=built.way.bf16):
        loss = built.run(**batch).loss
    loss.backward()
    if built.way.max_grad_norm:
        torch.nn.utils.clip_grad_norm_(built.model.parameters(), built.way.max_grad_norm)
    built.optimizer.step()
    built.scheduler.step()
    built.optimizer.zero_grad()
    return loss.detach()


def make_stepper(
    built: Built, tokens: PreparedTokens, batch_size: int
) -> tuple[Callable[[], Any], Callable[[], dict[str, torch.Tensor]]]:
    """A function that does a step (on a CPU with masking), and one that only draws a batch."""
    way, device = built.way, built.device
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
        names = [str(row % len(tokens.ids)) for row in range(batch_size)]
        ids, mask = (torch.from_numpy(part) for part in tokens.encode_column(names, 0))
        given = built.run, built.optimizer, built.scheduler
        return lambda: published_step(*given, ids.to(device), mask.to(device)), collate
    if device.type == "cpu":
        return lambda: our_step(built, collate()), collate
    ready = [{name: part.pin_memory() for name, part in collate().items()} for _ in range(4)]

    def step() -> torch.Tensor:
        batch = {name: part.to(device, non_blocking=True) for name, part in ready[0].items()}
        ready.append(ready.pop(0))
        return our_step(built, batch)

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
    """Median seconds per step of each way, and the median speed-up over the first way."""
    device, tokens = torch.device("cpu"), PreparedTokens(config["k"], 1024, 0)
    steppers = {name: make_stepper(build(way, config, device), tokens, batch_size) for name, way in ways.items()}
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
            ratios = [old[clock] / new[clock] for old, new in zip(seconds[next(iter(ways))], turns, strict=True)]
            measured[name][f"ratio_{unit}"] = round(median(ratios), 2)
    return measured


def flop_per_sample(config: BarcodeBertConfig, tokens: float, predicted: float) -> float:
    """Floating-point operations of a training step for one barcode: forward, and twice that backward."""
    d, f = config.hidden_size, config.intermediate_size
    layer = tokens * 2 * (4 * d * d + 2 * d * f) + 4 * tokens * tokens * d
    return 3 * (config.num_hidden_layers * layer + predicted * 2 * d * config.num_kmers)


def shape(k: int, quick: bool) -> dict[str, Any]:
    """Config values of a model of 4 heads and 4 layers, or of a tiny one."""
    tiny = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    return {"k": k, "num_attention_heads": 4, **(tiny if quick else {"num_hidden_layers": 4})}


def measure_mae(options: argparse.Namespace) -> int:
    """Measures masked autoencoders and masked k-mers, writes the results file, and returns 0."""
    measured = compare_on_cpu(MAE_WAYS, shape(4, options.quick), options.batch_size, options.repeats, options.steps)
    print(*(f"{name}: {values}" for name, values in measured.items()), sep="\n")
    plain, light, deep = (values["seconds_cpu"] for values in measured.values())
    layers = [way.decoder_layers for way in MAE_WAYS.values()]
    encoder = light - layers[1] * (deep - light) / (layers[2] - layers[1])
    write_results(
        options.output,
        task="benchmark/mae_step",
        metrics={
            "ways": measured,
            "encoder_share_of_masked_step": round(encoder / plain, 3),
            "light_decoder_share_of_masked_step": round(light / plain, 3),
        },
        options={name: getattr(options, name) for name in ("batch_size", "repeats", "steps", "quick")},
        ways={name: asdict(way) for name, way in MAE_WAYS.items()},
        device="cpu",
        threads=torch.get_num_threads(),
        load_average=round(os.getloadavg()[0], 1),
    )
    print(f"The encoder of an autoencoder takes {encoder / plain:.0%} of a step of masked k-mers (CPU time).")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark, writes the results file, and returns 1 if a speed-up is below the claim."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_size", type=int, default=16, help="barcodes (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="number of turns; the median is reported")
    parser.add_argument("--steps", type=int, default=1, help="steps in a turn (default: %(default)s)")
    parser.add_argument("--compile", action="store_true", help="also measure ours with torch.compile")
    parser.add_argument("--quick", action="store_true", help="smoke test with a tiny model")
    parser.add_argument("--mae", action="store_true", help="masked autoencoders beside masked k-mers: no claim")
    parser.add_argument("--output", type=Path, help="default: results/pretrain_step.json, or mae_step.json")
    options = parser.parse_args(arguments)
    name = "mae_step" if options.mae else "pretrain_step"
    options.output = options.output or Path(__file__).parent / "results" / f"{name}.json"
    if options.mae:
        return measure_mae(options)
    ways = ways_on_cpu(options.compile)
    measured = compare_on_cpu(ways, shape(4, options.quick), options.batch_size, options.repeats, options.steps)
    print(*(f"{name}: {values}" for name, values in measured.items()), sep="\n")
    ratios = {name: measured[name]["ratio_wall"] for name in REQUIRED}
    write_results(
        options.output,
        task="benchmark/pretrain_step",
        metrics={"4-4-4": measured},
        options={name: getattr(options, name) for name in ("batch_size", "repeats", "steps", "quick")},
        ways={name: asdict(way) for name, way in ways.items()},
        device="cpu",
        threads=torch.get_num_threads(),
        required_ratios=REQUIRED,
        ratios=ratios,
    )
    print(*(f"{name}: {ratio} times the published rate (claimed: {REQUIRED[name]})" for name, ratio in ratios.items()))
    return int(not options.quick and any(ratio < REQUIRED[name] for name, ratio in ratios.items()))


if __name__ == "__main__":
    raise SystemExit(main())
