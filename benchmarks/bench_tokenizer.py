"""Claim: `KmerTokenizer.encode_column` is at least 15 times as fast as the published way of tokenizing barcodes.

The published way (BarcodeBERT, https://arxiv.org/abs/2311.02401) goes through the sequences one by one and looks up
each k-mer in a dictionary. It is stated here once more and runs beside ours, in turns, in one process and on one
thread; its results stay Python lists, so that the published conversion to tensors is not even counted.

    python benchmarks/bench_tokenizer.py                                    # about 2 minutes
    python benchmarks/bench_tokenizer.py --rows 2000 --output trial.json    # a few seconds
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa

from bioscan_hf.models.tokenization_kmer import VOCABULARIES, KmerTokenizer, kmer_vocabulary
from bioscan_hf.provenance import write_results

REQUIRED_RATIO = 15
FAST_TOKENIZER_ROWS = 2000


def published_loop(
    barcodes: list[str], k: int, vocabulary: dict[str, int], unknown: int, leading: list[int], max_nucleotides: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Ids and masks, sequence by sequence: cut, pad with N, look each k-mer up, mark the whole ones."""
    ids, masks = [], []
    for barcode in barcodes:
        mask = [1] * (max_nucleotides // k)
        if len(barcode) > max_nucleotides:
            barcode = barcode[:max_nucleotides]
        else:
            whole = len(barcode) // k
            mask[whole:] = [0] * (len(mask) - whole)
            barcode = barcode + "N" * (max_nucleotides - len(barcode))
        pieces = [barcode[place : place + k] for place in range(0, max_nucleotides - k + 1, k)]
        ids.append(leading + [vocabulary.get(piece, unknown) for piece in pieces])
        masks.append([1] * len(leading) + mask)
    return ids, masks


def simulate_barcodes(rows: int, seed: int, mixed: bool) -> list[str]:
    """Barcodes of 658 nucleotides, or of 200 to 1,500 with 1 % of N."""
    random = np.random.default_rng(seed)
    lengths = random.integers(200, 1501, rows) if mixed else np.full(rows, 658)
    letters = np.frombuffer(b"ACGTN", np.uint8)
    weights = [0.2475] * 4 + [0.01] if mixed else [0.25] * 4 + [0.0]
    text = letters[np.searchsorted(np.cumsum(weights)[:-1], random.random(lengths.sum(), np.float32), side="right")]
    ends = np.cumsum(lengths)
    whole = text.tobytes().decode("ascii")
    return [whole[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def timed(function: Callable[[], Any]) -> tuple[Any, float, float]:
    """What the function returns, and its seconds of wall and CPU time."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def compare(barcodes: list[str], tokenizer: KmerTokenizer, repeats: int) -> dict[str, Any]:
    """Medians of the rates and ratios over `repeats` turns, in which both give the same ids and masks.

    Raises:
        RuntimeError: if an id or a mask differs.
    """
    form = VOCABULARIES[tokenizer.vocabulary]
    ids_of = {token: index for index, token in enumerate(kmer_vocabulary(tokenizer.k, tokenizer.vocabulary))}
    unknown, leading = form.unknown, [form.leading] if form.leading is not None else []
    column = pa.array(barcodes, pa.large_string())
    ways: dict[str, Callable[[], Any]] = {
        "published": lambda: published_loop(
            barcodes, tokenizer.k, ids_of, unknown, leading, tokenizer.max_nucleotides
        ),
        "encode_column": lambda: tokenizer.encode_column(column),
        "encode_column_of_list": lambda: tokenizer.encode_column(barcodes),
    }
    seconds: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, function in ways.items():
            result, wall, cpu = timed(function)
            seconds[way].append((wall, cpu))
            if way == "published":
                expected = [np.array(part) for part in result]
            elif not all(np.array_equal(*pair) for pair in zip(expected, result, strict=True)):
                raise RuntimeError(f"{way} does not give the published ids and masks.")
            del result
    measured: dict[str, Any] = {}
    for way, turns in seconds.items():
        measured[f"{way}_sequences_per_second"] = round(len(barcodes) / median(wall for wall, _ in turns))
    for way in ("encode_column", "encode_column_of_list"):
        for clock, name in enumerate(("wall", "cpu")):
            ratios = [old[clock] / new[clock] for old, new in zip(seconds["published"], seconds[way], strict=True)]
            measured[f"{way}_ratio_{name}"] = round(median(ratios), 1)
    return measured


def fast_tokenizer_rate(barcodes: list[str], tokenizer: KmerTokenizer, repeats: int) -> int:
    """Sequences per second of a plain call, which the Rust library carries out."""
    walls = [timed(lambda: tokenizer(barcodes, return_tensors="np"))[1] for _ in range(repeats)]
    return round(len(barcodes) / median(walls))


def main(arguments: list[str] | None = None) -> int:
    """Runs the cases, writes the results file, and returns 1 if a ratio is below the claim."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="barcodes in each case (default: %(default)s)")
    parser.add_argument(
        "--repeats", type=int, default=5, help="turns of which the median counts (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "tokenizer.json")
    options = parser.parse_args(arguments)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one thread: the Rust library reads it at its first batch,
    pa.set_cpu_count(1)  # and numpy uses one for whatever is no matrix product
    cases = {
        "658 nt, barcodebert, k=4": (False, KmerTokenizer(4, "barcodebert")),
        "200 to 1500 nt with N, barcodebert, k=4": (True, KmerTokenizer(4, "barcodebert")),
        "658 nt, clibd, k=5": (False, KmerTokenizer(5, "clibd")),
    }
    metrics: dict[str, Any] = {}
    for name, (mixed, tokenizer) in cases.items():
        barcodes = simulate_barcodes(options.rows, options.seed, mixed)
        metrics[name] = compare(barcodes, tokenizer, options.repeats)
        few = barcodes[:FAST_TOKENIZER_ROWS]
        metrics[name]["call_sequences_per_second"] = fast_tokenizer_rate(few, tokenizer, options.repeats)
        print(name, *(f"  {key}: {value:,}" for key, value in metrics[name].items()), sep="\n")
    slowest = min(case["encode_column_ratio_wall"] for case in metrics.values())
    write_results(
        options.output,
        task="benchmark/tokenizer",
        metrics=metrics,
        options={"rows": options.rows, "repeats": options.repeats, "seed": options.seed, "threads": 1},
        required_ratio=REQUIRED_RATIO,
        slowest_ratio=slowest,
    )
    print(f"at least {slowest} times the published rate (claimed: {REQUIRED_RATIO})")
    return int(slowest < REQUIRED_RATIO)


if __name__ == "__main__":
    raise SystemExit(main())
