"""Steps of BarcodeBERT pretraining and its embedding, measured by `gpu_run.py`.

Shape letters: B = barcodes, L = tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import bench_pretrain_step as pretrain
import torch
from gpu_report import Report, peak_gb

from bioscan_hf.models.configuration_barcodebert import BarcodeBertConfig
from bioscan_hf.models.modeling_barcodebert import BarcodeBertModel
from bioscan_hf.training.presets import PRESETS

#: bf16 FLOP/s of an H100 or H200, measured on a product of matrices of 8192.
PEAK = 790e12

#: Operations of embedding one barcode of 658 nucleotides with 4-4-4.
FLOP_OF_EMBEDDING = 9.7e9

FAST = PRESETS["fast"]

TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}

#: Barcodes of a batch.
PUBLISHED_BATCHES = (64, 256, 1024)
FAST_BATCHES = (1024, 2048, 4096)


def fast_way(on_gpu: bool) -> pretrain.Way:
    """The step of `--preset fast`."""
    return pretrain.Way(
        loss_on=FAST["loss_on"],
        bf16=on_gpu,
        dropout=FAST["dropout"],
        attention_dropout=FAST["dropout"],
        cut_padding=FAST["cut_padding"],
        attention=FAST.get("attention", "sdpa"),
        compiled=on_gpu,
        max_grad_norm=FAST["max_grad_norm"],
    )


def shape_of(k: int, small: bool) -> dict[str, Any]:
    """Config values of k-4-4, or of a tiny model."""
    return {"k": k, "num_attention_heads": 4, **(TINY if small else {"num_hidden_layers": 4})}


def use_tf32(on: bool) -> None:
    """Whether single-precision products may run in TF32."""
    torch.set_float32_matmul_precision("high" if on else "highest")


def measure_steps(report: Report, small: bool) -> None:
    """Published and fast steps of 4-4-4: each model is built once, and goes through a few batch sizes."""
    fast = fast_way(report.device.type == "cuda")
    shape = shape_of(4, small)
    _measure_way(report, "4-4-4 published", pretrain.WAYS["published"], shape, PUBLISHED_BATCHES, 3)
    _measure_way(report, "4-4-4 fast, not compiled", replace(fast, compiled=False), shape, FAST_BATCHES[:1], 3)
    _measure_way(report, "4-4-4 fast", fast, shape, FAST_BATCHES, 15)


def measure_steps_of_8(report: Report, small: bool) -> None:
    """The same for 8-4-4, whose head has 65,536 classes."""
    fast, shape = fast_way(report.device.type == "cuda"), shape_of(8 if not small else 5, small)
    _measure_way(report, "8-4-4 published", pretrain.WAYS["published"], shape, PUBLISHED_BATCHES[:2], 3)
    _measure_way(report, "8-4-4 fast", fast, shape, (512, 1024), 15)


def _measure_way(
    report: Report, name: str, way: pretrain.Way, shape: dict[str, Any], batches: tuple[int, ...], needs: float
) -> None:
    """One row for each batch size, with one model."""
    use_tf32(not way.published)
    torch._dynamo.reset()
    if shape.get("hidden_size") == TINY["hidden_size"]:
        batches = (8,)
    tokens = pretrain.PreparedTokens(shape["k"], max(batches), 0)
    built: list[pretrain.Built] = []

    def measure(batch_size: int) -> dict[str, Any]:
        if not built:
            built.append(pretrain.build(way, shape, report.device))
        step, collate = pretrain.make_stepper(built[0], tokens, batch_size)
        return rates(step, collate(), batch_size, shape, report)

    for batch_size in batches:
        report.row(f"{name}, batch {batch_size}", partial(measure, batch_size), needs)


def rates(
    step: Callable[[], Any], batch: dict[str, torch.Tensor], batch_size: int, shape: dict[str, Any], report: Report
) -> dict[str, Any]:
    """Samples/s, the share of the peak that their operations are (MFU), and memory, of a step."""
    seconds = report.seconds_per_step(step)
    length = batch["input_ids"].shape[1]
    attended = batch["attention_mask"].float().sum(1).mean().item() if "attention_mask" in batch else length
    predicted = (batch["labels"] >= 0).float().sum(1).mean().item()
    flop = pretrain.flop_per_sample(BarcodeBertConfig(**shape), attended, predicted)
    rate = batch_size / seconds["step"]
    return {
        "samples_per_second": round(rate, 1),
        "mfu": round(rate * flop / PEAK, 4),
        "gflop_per_sample": round(flop / 1e9, 2),
        "peak_gb": peak_gb(report.device),
        "seconds_of_first_step": seconds["first_step"],
    }


# ---- embedding ------------------------------------------------------------------------------------------------------


def measure_embedding(report: Report, small: bool) -> None:
    """Barcodes/s of `embed_barcodes` from letters, and of the model alone, plain and compiled."""
    from bench_embed import simulate_barcodes

    from bioscan_hf.models.tokenization_kmer import KmerTokenizer

    rows, batches = (64, (16,)) if small else (65_536, (512, 1024))
    use_tf32(True)
    torch._dynamo.reset()
    barcodes, tokenizer = simulate_barcodes(rows, 0), KmerTokenizer(k=4)
    torch.manual_seed(0)
    model = BarcodeBertModel(BarcodeBertConfig(**shape_of(4, small))).eval().to(report.device)
    encode = partial(tokenizer.encode_column, barcodes)
    report.row("tokenizing alone, one thread", partial(_second_call, encode, rows))
    for compiled in (False, True) if report.device.type == "cuda" else (False,):
        if compiled:
            model.compile(dynamic=False)
        name = ", compiled" if compiled else ""
        for batch_size in batches[1:2] if compiled else batches:
            given = model, tokenizer, barcodes, batch_size, report
            report.row(f"model alone{name}, batch {batch_size}", partial(_model_alone, *given), 2)
            report.row(f"from letters{name}, batch {batch_size}", partial(_from_letters, *given), 4)


def _second_call(function: Callable[[], Any], rows: int) -> dict[str, Any]:
    """Barcodes/s of the second of two calls."""
    function()
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    rate = rows / (time.perf_counter() - wall)
    return {"barcodes_per_second": round(rate, 1), "cpu_seconds": round(time.process_time() - cpu, 2)}


def _model_alone(model: Any, tokenizer: Any, barcodes: list[str], batch_size: int, report: Report) -> dict[str, Any]:
    ids = torch.from_numpy(tokenizer.encode_column(barcodes[:batch_size])[0][:, :164]).to(report.device)

    def step() -> torch.Tensor:
        with torch.inference_mode(), torch.autocast(report.device.type, torch.bfloat16):
            return model(input_ids=ids).pooler_output

    seconds = report.seconds_per_step(step)
    rate = batch_size / seconds["step"]
    return {
        "barcodes_per_second": round(rate, 1),
        "mfu": round(rate * FLOP_OF_EMBEDDING / PEAK, 4),
        "seconds_of_first_step": seconds["first_step"],
    }


def _from_letters(model: Any, tokenizer: Any, barcodes: list[str], batch_size: int, report: Report) -> dict[str, Any]:
    from bioscan_hf.encoders.batches import embed_barcodes, inference

    def run() -> Any:
        with inference(model):
            return embed_barcodes(model, tokenizer, barcodes, batch_size=batch_size, dtype=torch.bfloat16)

    return _second_call(run, len(barcodes)) | {"peak_gb": peak_gb(report.device)}
