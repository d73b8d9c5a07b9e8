"""Whether `bioscan-hf identify` keeps its word on real barcodes: confidences against what turned out right.

    python benchmarks/bench_confidence.py bold_coi5p.csv.gz

split -> build -> the aligned encoder (512 principal components, no labels) -> identify. The input is a metadata CSV in
BIOSCAN-5M columns in which every record has a species, so the partition is simulated as in bench_real_coi.py. The
references are train; confidences are learned from them alone. Queries are test (their species have references) and
test_unseen (theirs have none), weighted so that the latter are half, which is what `--novel-share 0.5` says, and as
they would be if the share were another. Each barcode counts once. Two minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bioscan_hf.dataset.load import load_bioscan5m
from bioscan_hf.encoders.barcode_encoders import load_encoder
from bioscan_hf.encoders.embed import embed
from bioscan_hf.identification.confidence import calibrate, identify
from bioscan_hf.provenance import write_results
from bioscan_hf.search.index import build_index

RANKS = ("order", "family", "genus", "species")

#: Shares of queries without a reference of their species.
SHARES = (0.1, 0.5, 0.9)

LEAST = 0.95

Numbers = NDArray[np.float64]


def prepare(source: Path, work: Path) -> None:
    """A dataset and an encoder in `work`, by the commands."""
    cli = [sys.executable, "-c", "import sys; from bioscan_hf.cli.main import main; main(sys.argv[1:])"]
    trainer = [sys.executable, "-m", "bioscan_hf.trainers.contrast_barcodes"]
    for command in (
        [*cli, "split", source, work / "split.csv", "--hold-out-species", 0.15, "--unlabel", 0.5],
        [*cli, "build", work / "split.csv", work / "dataset"],
        [*trainer, "--source", work / "dataset", "--output_dir", work / "aligned"],
    ):
        subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)


def calibration_error(confidence: Numbers, right: Numbers, weight: Numbers, bins: int = 15) -> float:
    """Weighted mean gap of confidence and accuracy over bins of equal width."""
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs((weight * (confidence - right))[place == b].sum()) for b in range(bins)]
    return float(np.sum(gaps) / weight.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="metadata CSV")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results/confidence.json")
    args = parser.parse_args()

    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        prepare(args.source, work)
        model, processor = load_encoder(str(work / "aligned"))
        labels, vectors, ids = {}, {}, {}
        for split in ("train", "test", "test_unseen"):
            data = load_bioscan5m(str(work / "dataset"), split=split, unique_barcodes=True)
            table = data.select_columns(list(RANKS)).with_format("arrow")[:]
            labels[split] = {rank: table[rank].to_pylist() for rank in RANKS}
            found = embed(model, processor, data)
            vectors[split], ids[split] = found.embeddings, found.processids
    index = build_index(vectors["train"], labels["train"], ids=ids["train"])

    metrics: dict[str, Any] = {}
    for share in SHARES:
        calibration = calibrate(index, novel_share=share)
        named = {split: identify(vectors[split], index, calibration) for split in ("test", "test_unseen")}
        weight = np.concatenate(
            [
                np.full(len(ids[split]), part / len(ids[split]))
                for split, part in (("test", 1 - share), ("test_unseen", share))
            ]
        )
        for rank in RANKS:
            sure = np.concatenate([found.confidences[rank] for found in named.values()])
            right = np.asarray(
                [
                    name is not None and name == true
                    for split, found in named.items()
                    for name, true in zip(found.names[rank], labels[split][rank], strict=True)
                ],
                float,
            )
            told = sure >= LEAST
            metrics[f"{share:.0%} novel, {rank}"] = {
                "accuracy": float((weight * right).sum()),
                "mean_confidence": float((weight * sure).sum()),
                "calibration_error": calibration_error(sure, right, weight),
                "named": float((weight * told).sum()),
                "right_of_named": float((weight * told * right).sum() / (weight * told).sum()) if told.any() else None,
            }
            print(f"{share:.0%} novel, {rank}: {metrics[f'{share:.0%} novel, {rank}']}", flush=True)
    write_results(
        args.output,
        task="benchmark/confidence",
        options={"least": LEAST, "hold_out_species": 0.15, "unlabel": 0.5},
        dataset=args.source.name,
        splits={split: len(names) for split, names in ids.items()},
        seconds=time.perf_counter() - start,
        metrics=metrics,
    )


if __name__ == "__main__":
    main()
