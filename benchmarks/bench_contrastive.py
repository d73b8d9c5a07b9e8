"""Claim: the contrastive loss takes at most a third of the published one's time and half of its memory, and in chunks
at most 0.3 of its memory; with cached gradients a batch of 32,768 trains in 4 GB.

The published loss (CLIBD, https://arxiv.org/abs/2405.17537: every ordered pair of modalities, each with both
directions, against a dense matrix of targets) is stated here once more. It runs beside ours, in turns, in one process,
forward and backward, and value and gradients are compared. Memory is the peak of resident memory of an own process
above what it held before the step. The batch of 32,768 goes through a small ClibdModel of three modalities, 64 rows at
a time; at 1,024 rows its loss and gradients are compared with those of a plain step.

    python benchmarks/bench_contrastive.py                                  # about 10 minutes on a CPU core, on Linux
    python benchmarks/bench_contrastive.py --quick --output trial.json      # a minute, small batches: no claim

It needs torch and transformers.

Shape letters: N = rows, D = embedding size.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
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
from bioscan_hf.provenance import write_results

MODALITIES = ("image", "dna", "text")
LOG_SCALE = math.log(1 / 0.07)
CLAIMS = {
    "exact_speed": 3.0,
    "exact_memory": 0.5,
    "chunked_memory": 0.3,
    "cached_gb": 4.0,
}
TOLERANCE = 1e-5
CHUNK = 256

Step = Callable[[dict[str, Tensor], Tensor, Tensor], Tensor]


def published_loss(embeddings: dict[str, Tensor], scale: Tensor, labels: Tensor) -> Tensor:
    """Each ordered pair of modalities, normalised anew, and for each both directions."""
    targets = (labels[:, None] == labels).float()  # (N, N)
    losses = []
    for name, rows in embeddings.items():
        for other, columns in embeddings.items():
            if name != other:
                first, second = normalize(rows, dim=-1), normalize(columns, dim=-1)
                losses.append(cross_entropy(scale * first @ second.T, targets))
                losses.append(cross_entropy(scale * second @ first.T, targets))
    return torch.stack(losses).mean()


WAYS: dict[str, Step] = {
    "published": published_loss,
    "exact": contrastive_loss,
    "chunked": lambda embeddings, scale, labels: contrastive_loss(embeddings, scale, labels, chunk_size=CHUNK),
}


def make_embeddings(rows: int, size: int) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Embeddings with a gradient, log of the scale, and labels of which some are shared."""
    torch.manual_seed(0)
    shared = torch.randn(rows, size)
    embeddings = {name: (shared + 2 * torch.randn(rows, size)).requires_grad_() for name in MODALITIES}
    return embeddings, torch.tensor(LOG_SCALE, requires_grad=True), torch.randint(0, rows, (rows,))


def step(way: str, embeddings: dict[str, Tensor], log_scale: Tensor, labels: Tensor) -> Tensor:
    """Forward and backward."""
    for parameter in (*embeddings.values(), log_scale):
        parameter.grad = None
    loss = WAYS[way](embeddings, log_scale.exp(), labels)
    loss.backward()
    return loss.detach()


def timed(function: Callable[[], Any]) -> tuple[Any, float, float]:
    """What the function returns, and its seconds of wall and CPU time."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def compare_times(rows: int, size: int, repeats: int) -> dict[str, dict[str, float]]:
    """Each way's median seconds, ratios to the published way turn by turn, and largest errors against it."""
    embeddings, log_scale, labels = make_embeddings(rows, size)
    inputs = [*embeddings.values(), log_scale]
    seconds: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    losses: dict[str, float] = {}
    gradients: dict[str, list[Tensor]] = {}
    for _ in range(repeats):
        for way in WAYS:
            loss, wall, cpu = timed(partial(step, way, embeddings, log_scale, labels))
            seconds[way].append((wall, cpu))
            losses[way] = loss.item()
            gradients[way] = [parameter.grad for parameter in inputs if parameter.grad is not None]
    measured: dict[str, dict[str, float]] = {}
    for way, turns in seconds.items():
        errors = [
            ((one - other).abs().max() / other.abs().max()).item()
            for one, other in zip(gradients[way], gradients["published"], strict=True)
        ]
        measured[way] = {
            "seconds_wall": round(median(wall for wall, _ in turns), 4),
            "seconds_cpu": round(median(cpu for _, cpu in turns), 4),
            "loss_nats": losses[way],
            "relative_error_loss": abs(losses[way] / losses["published"] - 1),
            "relative_error_gradients": max(errors),
        }
        for clock, unit in enumerate(("wall", "cpu")):
            ratios = [old[clock] / new[clock] for old, new in zip(seconds["published"], turns, strict=True)]
            measured[way][f"ratio_{unit}"] = round(median(ratios), 2)
    return measured


def make_model(size: int) -> ClibdModel:
    """A ClibdModel of two layers in each encoder."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = ClibdConfig(
        image_config=shape | {"model_type": "vit", "image_size": 32, "patch_size": 8},
        dna_config=shape | {"k": 5},
        text_config=shape | {"vocab_size": 1000, "max_position_embeddings": 32},
        projection_dim=size,
    )
    # Dropout would draw otherwise for 64 rows at a time than for all.
    return ClibdModel(config).eval()


def make_batch(rows: int) -> dict[str, Tensor]:
    """Random photos, barcodes and texts."""
    torch.manual_seed(1)
    return {
        "pixel_values": torch.rand(rows, 3, 32, 32),
        "dna_input_ids": torch.randint(2, 1026, (rows, 132)),
        "dna_attention_mask": torch.ones(rows, 132, dtype=torch.long),
        "text_input_ids": torch.randint(1, 1000, (rows, 20)),
        "text_attention_mask": torch.ones(rows, 20, dtype=torch.long),
    }


def train_step(model: ClibdModel, batch: dict[str, Tensor], rows_at_a_time: int | None) -> float:
    """Forward and backward, cached or plain."""
    outputs = model(**batch) if rows_at_a_time is None else cached_embeddings(model, batch, rows_at_a_time)
    embeddings = {name: outputs[f"{name}_embeds"] for name in MODALITIES}
    model.zero_grad()
    loss = contrastive_loss(embeddings, outputs["logit_scale"], chunk_size=CHUNK if rows_at_a_time else None)
    loss.backward()
    return loss.item()


def compare_cached(rows: int, size: int) -> dict[str, float]:
    """Largest relative difference of the loss, and of all gradients together, between cached and plain."""
    model, batch = make_model(size), make_batch(rows)
    losses, gradients = [], []
    for rows_at_a_time in (None, 64):
        losses.append(train_step(model, batch, rows_at_a_time))
        gradients.append(torch.cat([part.grad.flatten() for part in model.parameters() if part.grad is not None]))
    difference = (gradients[1] - gradients[0]).norm() / gradients[0].norm()
    return {
        "rows": rows,
        "relative_error_loss": abs(losses[1] / losses[0] - 1),
        "relative_error_gradients": difference.item(),
    }


def memory(key: str) -> float:
    """Megabytes of this process: VmRSS is what it holds, VmHWM the most it has held (unlike ru_maxrss, its own)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"/proc/self/status has no {key}.")


def work(way: str, rows: int, size: int) -> dict[str, float]:
    """Peak memory of one step, in this process; a small step before it loads what is loaded once."""
    if way.startswith("model"):
        rows_at_a_time = 64 if way == "model, cached" else None
        model = make_model(size)
        train_step(model, make_batch(128), rows_at_a_time)
        batch = make_batch(rows)
        before = memory("VmRSS")
        _, wall, cpu = timed(lambda: train_step(model, batch, rows_at_a_time))
    else:
        step(way, *make_embeddings(32, size))
        given = make_embeddings(rows, size)
        before = memory("VmRSS")
        _, wall, cpu = timed(lambda: step(way, *given))
    peak = memory("VmHWM")
    return {
        "rows": rows,
        "peak_mb": round(peak),
        "above_inputs_mb": round(peak - before, 1),
        "seconds_wall": round(wall, 2),
        "seconds_cpu": round(cpu, 2),
    }


def in_own_process(way: str, rows: int, size: int) -> dict[str, float]:
    """What `work` measures in a new process."""
    command = [sys.executable, __file__, "--work", way, "--rows", str(rows), "--size", str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Times, memory, and the large batch."""
    metrics: dict[str, Any] = {"times": compare_times(options.rows, options.size, options.repeats)}
    print(*(f"{way}: {values}" for way, values in metrics["times"].items()), sep="\n", flush=True)
    metrics["memory"] = {way: in_own_process(way, options.rows, options.size) for way in WAYS}
    print(*(f"{way}: {values}" for way, values in metrics["memory"].items()), sep="\n", flush=True)
    metrics["cached_against_plain"] = compare_cached(options.compared_rows, options.projection)
    print(f"cached against plain: {metrics['cached_against_plain']}", flush=True)
    metrics["models"] = {
        way: in_own_process(way, rows, options.projection)
        for way, rows in (("model, plain", options.compared_rows), ("model, cached", options.large_rows))
    }
    print(*(f"{way}: {values}" for way, values in metrics["models"].items()), sep="\n", flush=True)
    return metrics


def main(arguments: list[str] | None = None) -> int:
    """Measures, writes the results file, and returns 1 if a claim is not reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4096, help="of the losses (default: %(default)s)")
    parser.add_argument("--size", type=int, default=768, help="of their embeddings (default: %(default)s)")
    parser.add_argument("--large_rows", type=int, default=32768, help="of the cached batch (default: %(default)s)")
    parser.add_argument("--compared_rows", type=int, default=1024, help="cached against plain (default: %(default)s)")
    parser.add_argument("--projection", type=int, default=256, help="embedding size of the model")
    parser.add_argument("--repeats", type=int, default=5, help="turns of which the median counts")
    parser.add_argument("--quick", action="store_true", help="small batches, to see that it runs")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "contrastive.json")
    options = parser.parse_args(arguments)
    if options.work:
        print(json.dumps(work(options.work, options.rows, options.size)))
        return 0
    if options.quick:
        options.rows, options.large_rows, options.compared_rows, options.repeats = 512, 1024, 256, 2
    metrics = measure(options)
    peaks = {way: values["above_inputs_mb"] for way, values in metrics["memory"].items()}
    reached = {
        "exact_speed": metrics["times"]["exact"]["ratio_wall"],
        "exact_memory": round(peaks["exact"] / peaks["published"], 3),
        "chunked_memory": round(peaks["chunked"] / peaks["published"], 3),
        "cached_gb": round(metrics["models"]["model, cached"]["peak_mb"] / 1e3, 2),
    }
    errors = [
        one[f"relative_error_{what}"]
        for one in (*metrics["times"].values(), metrics["cached_against_plain"])
        for what in ("loss", "gradients")
    ]
    asked = ("rows", "size", "large_rows", "compared_rows", "projection", "repeats", "quick")
    write_results(
        options.output,
        task="benchmark/contrastive",
        metrics=metrics,
        options={name: getattr(options, name) for name in asked} | {"threads": torch.get_num_threads()},
        device="cpu",
        claimed=CLAIMS | {"relative_error": TOLERANCE},
        reached=reached | {"relative_error": max(errors)},
    )
    print(*(f"{name}: {value} (claimed: {CLAIMS[name]})" for name, value in reached.items()), sep="\n")
    print(f"largest relative error: {max(errors):.1e} (claimed: {TOLERANCE})")
    held = reached["exact_speed"] >= CLAIMS["exact_speed"] and all(
        reached[name] <= CLAIMS[name] for name in ("exact_memory", "chunked_memory", "cached_gb")
    )
    return int(max(errors) > TOLERANCE or (not options.quick and not held))


if __name__ == "__main__":
    raise SystemExit(main())
