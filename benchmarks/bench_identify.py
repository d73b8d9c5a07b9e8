"""How fast real barcodes are named, and how well: sequence search against nearest neighbours of embeddings.

    python benchmarks/bench_identify.py out/real_coi

Reads the folder that `bench_real_coi.py --work` leaves. Each way names the same queries (test and test_unseen) from
the same references (train). Its time is from letters to nearest references, embedding of the queries included, but not
that of preparing the references, which a library does once (vsearch indexes them anew each time, in about 0.2 s). The
ways take turns, so that a busy machine slows all of them. Two threads each.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from bioscan_hf.dataset.load import load_bioscan5m
from bioscan_hf.encoders.barcode_encoders import load_encoder
from bioscan_hf.encoders.batches import ColumnTokenizer, embed_barcodes, inference
from bioscan_hf.evaluation.probing import knn_probe
from bioscan_hf.identification.sequence_search import neighbour_labels, search_nearest
from bioscan_hf.metrics import accuracy
from bioscan_hf.provenance import write_results
from bioscan_hf.search.cells import make_cells, nearest_in_cells

THREADS = 2
CELLS = 64

#: The way that others are measured against.
PEER = "vsearch, 8 candidates"

#: Name -> encoder (a folder of the work folder, or a name), precision, cells of the references that are searched.
ENCODERS: dict[str, tuple[str, str, int | None]] = {
    "6-mer counts": ("kmer:6", "float32", None),
    "aligned, whole profile": ("profile", "bfloat16", None),
    "aligned, 512 principal components, float32": ("pca_512", "float32", None),
    "aligned, 512 principal components": ("pca_512", "bfloat16", None),
    "aligned, 512 principal components, 8 of 64 cells": ("pca_512", "bfloat16", 8),
    "aligned, 1,024 principal components, 8 of 64 cells": ("pca_1024", "bfloat16", 8),
}

#: The one whose speed and accuracy are claimed together.
CLAIMED = "aligned, 1,024 principal components, 8 of 64 cells"

Neighbours = NDArray[np.int64]


def embed_column(model: Any, processor: Any, precision: str, column: pa.ChunkedArray) -> NDArray[np.float32]:
    """Embeddings of a column, each barcode computed as it comes."""
    if not isinstance(processor, ColumnTokenizer):
        return embed_barcodes(model, processor, column.to_pylist(), batch_size=512)[0]
    parts = []
    with inference(model), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        for start in range(0, len(column), 512):
            ids, mask = processor.encode_column(column.slice(start, 512))
            parts.append(model(torch.from_numpy(ids), torch.from_numpy(mask)).pooler_output.float())
    return torch.cat(parts).numpy()


def prepare(
    encoder: str, precision: str, searched: int | None, references: pa.ChunkedArray
) -> Callable[[pa.ChunkedArray], Neighbours]:
    """What names queries by an encoder, with the references embedded."""
    model, processor = load_encoder(encoder)
    embed = partial(embed_column, model, processor, precision)
    keys = embed(references)
    everyone = np.zeros(len(references), np.int64)
    cells = make_cells(keys, CELLS, dtype=precision) if searched else None

    def nearest(queries: pa.ChunkedArray) -> Neighbours:
        vectors = embed(queries)
        if cells is not None and searched is not None:
            return nearest_in_cells(cells, vectors, searched=searched)[0]
        found = knn_probe(keys, everyone, vectors, np.zeros(len(queries), np.int64), dtype=precision)
        return np.asarray(found.neighbours)

    return nearest


def by_search(queries: pa.ChunkedArray, references: pa.ChunkedArray, candidates: int) -> Neighbours:
    """Nearest references by vsearch."""
    found = search_nearest(references.to_pylist(), queries.to_pylist(), threads=THREADS, candidates=candidates)
    return found.neighbours


def timed(function: Callable[[], Neighbours]) -> tuple[Neighbours, float, float]:
    """Result, wall seconds, and seconds of CPU, of child processes too."""
    before, start = cpu_seconds(), time.perf_counter()
    result = function()
    return result, time.perf_counter() - start, cpu_seconds() - before


def cpu_seconds() -> float:
    """Of this process and its finished children."""
    return sum(
        used.ru_utime + used.ru_stime
        for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder of bench_real_coi.py")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results/identify.json")
    args = parser.parse_args()

    torch.set_num_threads(THREADS)
    work, ranks = args.work.resolve(), ["order", "family", "genus", "species"]
    data: dict[str, Any] = {
        split: load_bioscan5m(str(work / "dataset"), split=split, ranks=ranks, unique_barcodes=True)
        for split in ("train", "test", "test_unseen")
    }
    columns = {split: rows.with_format("arrow")[:]["dna_barcode"] for split, rows in data.items()}
    references = columns["train"]
    queries = pa.chunked_array([*columns["test"].chunks, *columns["test_unseen"].chunks])
    seen = len(data["test"])

    ways: dict[str, Callable[[], Neighbours]] = {
        PEER: partial(by_search, queries, references, 8),
        "vsearch, 32 candidates": partial(by_search, queries, references, 32),
    }
    for name, (encoder, precision, searched) in ENCODERS.items():
        path = str(work / encoder) if (work / encoder).is_dir() else encoder
        ways[name] = partial(prepare(path, precision, searched, references), queries)
    for name in ENCODERS:
        ways[name]()  # once before, so that none pays for what is set up
    turns: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    metrics: dict[str, dict[str, Any]] = {name: {} for name in ways}
    for _ in range(args.repeats):
        for name, function in ways.items():
            found, wall, cpu = timed(function)
            turns[name].append((wall, cpu))
            for split, rows, rank in (
                ("test", slice(None, seen), "species"),
                *(("test_unseen", slice(seen, None), rank) for rank in ("genus", "family", "order")),
            ):
                train_ids, ids = (np.asarray(data[part][f"{rank}_index"][:]) for part in ("train", split))
                answers = neighbour_labels(found[rows], train_ids)
                metrics[name][f"{rank} of {split}"] = accuracy(answers, ids)["micro_accuracy"]
    for name, taken in turns.items():
        metrics[name]["queries_per_second"] = round(len(queries) / median(wall for wall, _ in taken), 1)
        for clock, unit in enumerate(("wall", "cpu")):
            ratios = [old[clock] / new[clock] for old, new in zip(turns[PEER], taken, strict=True)]
            metrics[name][f"times_as_fast_{unit}"] = round(median(ratios), 2)
    write_results(
        args.output,
        task="benchmark/identify",
        dataset="the barcodes of real_coi.json",
        references=len(references),
        queries=len(queries),
        threads=THREADS,
        repeats=args.repeats,
        load_average=os.getloadavg()[0],
        peer=PEER,
        claimed=CLAIMED,
        metrics=metrics,
    )
    for name, found_metrics in metrics.items():
        print(name, found_metrics)


if __name__ == "__main__":
    main()
