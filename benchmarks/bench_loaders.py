"""How many specimens a core prepares for training: what the data workers of a node can deliver.

Each loader makes batches as its trainer does, from Parquet on disk to tensors, in one process and on one thread:
masked k-mers (pretraining), altered reads (contrastive training), and photos with barcodes (CLIBD), whose crops are
made by the worker, or left to a GPU. Photos are read by row groups, in the order of `block_order`. The system keeps
the files in memory after the first turn, so a disk has to deliver `photo_megabytes_per_second` beside it.

    python benchmarks/bench_loaders.py                                       # about 2 minutes
    python benchmarks/bench_loaders.py --specimens 200 --output trial.json   # half a minute

The number of cores that a rate needs is that rate divided by the rate of a core. The exit code is 1 if more than 2
cores are needed for the training step of one H200.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader

from bioscan_hf.dataset.build import build
from bioscan_hf.dataset.load import load_bioscan5m
from bioscan_hf.dataset.parquet_rows import ParquetRows, open_rows
from bioscan_hf.models.processing_clibd import ClibdProcessor
from bioscan_hf.models.tokenization_kmer import KmerTokenizer
from bioscan_hf.provenance import write_results
from bioscan_hf.simulate.release import simulate_release
from bioscan_hf.training.augmentation import Augmentation, AugmentingCollator
from bioscan_hf.training.clibd.batches import ClibdCollator
from bioscan_hf.training.masking import MaskedKmerCollator
from bioscan_hf.training.options.contrast import ContrastOptions
from bioscan_hf.training.sampling import EpochSampler, block_order

BATCH = 128

#: Claims: specimens/s of one core such that 2 cores feed the training step of one H200 (gpu_run.json).
LEAST = {"masked k-mers": 6_200, "photos and barcodes": 980}


def loaders(dataset: Path) -> dict[str, tuple[int, Callable[[], Any]]]:
    """Name -> number of rows, and a data loader of one pass."""
    barcodes = load_bioscan5m(dataset, "dna", "all", columns=["dna_barcode"], ranks=["species"])
    photos = open_rows(dataset, "cropped_256", "all", ["processid", "image", "dna_barcode"])
    assert photos is not None

    def of(data: Any, collator: Any) -> tuple[int, Callable[[], Any]]:
        sampler: Any = None
        if isinstance(data, ParquetRows):
            sampler = BatchSampler(EpochSampler(block_order, data.blocks, BATCH, seed=0), BATCH, drop_last=False)
            return len(data), lambda: DataLoader(data, batch_sampler=sampler, collate_fn=collator)
        return len(data), lambda: DataLoader(data, BATCH, shuffle=True, collate_fn=collator)

    tokenizer = KmerTokenizer(k=4)
    contrast = ContrastOptions("")  # its defaults
    altered = Augmentation(**{field.name: getattr(contrast, field.name) for field in fields(Augmentation)})
    return {
        "masked k-mers": of(barcodes, MaskedKmerCollator(tokenizer)),
        "altered reads": of(
            barcodes, AugmentingCollator(KmerTokenizer(k=1), ["species"], altered, views=contrast.views, seed=0)
        ),
        "photos and barcodes": of(photos, ClibdCollator(ClibdProcessor(), ["image", "dna"])),
        "photos and barcodes, crops on the GPU": of(
            photos, ClibdCollator(ClibdProcessor(), ["image", "dna"], augment_on_device=True)
        ),
    }


def seconds_of(loader: Callable[[], Any]) -> float:
    """Seconds of CPU time of a pass."""
    start = time.process_time()
    for _ in loader():
        pass
    return time.process_time() - start


def main(arguments: list[str] | None = None) -> int:
    """Measures, and writes the results file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--specimens", type=int, default=2000, help="specimens (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="turns whose median counts (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "loaders.json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        release = simulate_release(Path(folder, "release"), options.specimens, packages=("cropped_256",))
        build(release, Path(folder, "dataset"))
        made = loaders(Path(folder, "dataset"))
        seconds: dict[str, list[float]] = {name: [] for name in made}
        for _ in range(options.repeats + 1):
            for name, (_, loader) in made.items():
                seconds[name].append(seconds_of(loader))
        size = sum(file.stat().st_size for file in Path(folder, "dataset", "cropped_256").glob("*.parquet"))
    rates = {name: round(made[name][0] / median(found[1:])) for name, found in seconds.items()}
    photo_bytes = size / made["photos and barcodes"][0]
    metrics = {
        "specimens_per_second_of_a_core": rates,
        "photo_megabytes_per_second": round(rates["photos and barcodes"] * photo_bytes / 1e6, 1),
    }
    print(metrics)
    about = {"specimens": options.specimens, "repeats": options.repeats, "batch": BATCH, "threads": 1}
    missed = [f"{name}: {rates[name]:,} specimens/s of a core, claimed {least:,}" for name, least in LEAST.items()]
    missed = [text for text, (name, least) in zip(missed, LEAST.items(), strict=True) if rates[name] < least]
    write_results(
        options.output, task="benchmark/loaders", metrics=metrics, options=about, claimed=LEAST, missed=missed
    )
    print(*missed, sep="\n")
    return int(bool(missed))


if __name__ == "__main__":
    raise SystemExit(main())
