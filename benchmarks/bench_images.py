"""Claim: training crops of photos come at least 4 times as fast as from bioscan-dataset, 5 times as from CLIBD's HDF5.

The peers are `bioscan_dataset.BIOSCAN5M.__getitem__` with the transform of its README, and CLIBD's way
(https://arxiv.org/abs/2405.17537), stated here once more: JPEG bytes padded with zeros in HDF5, Pillow, then
transforms of the float picture. Each gives what its next step takes: normalised floats there, here uint8, which the
device normalises (and rotates). All run in turns, in one process, on one thread, on the same photos.

    python benchmarks/bench_images.py                                       # about 3 minutes
    python benchmarks/bench_images.py --specimens 60 --output trial.json    # half a minute

Needs `bioscan-dataset`, `h5py`, and for our default decoder `simplejpeg`.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import h5py
import numpy as np
import torch
from bioscan_dataset import BIOSCAN5M
from bioscan_dataset.bioscan5m import RGB_MEAN, RGB_STDEV
from PIL import Image
from torchvision.transforms import v2

from bioscan_hf.dataset.build import build
from bioscan_hf.dataset.load import load_bioscan5m
from bioscan_hf.models import pixels as photos
from bioscan_hf.models.pixels import decode_batch, normalize_on_device, photo_bytes, rotate_by, with_pixels
from bioscan_hf.provenance import write_results
from bioscan_hf.simulate.release import simulate_release

PEERS = ("bioscan_dataset", "clibd_hdf5")
REQUIRED = {("eval", "bioscan_dataset"): 4, ("train", "bioscan_dataset"): 4, ("train", "clibd_hdf5"): 5}
BATCH = 64


class Unchecked(BIOSCAN5M):
    """bioscan-dataset's class on a release whose files are not the published ones."""

    def _check_integrity(self, verbose: int = 1) -> bool:
        return True


def readme_transform(mode: str) -> Any:
    """The README's transform; to train, with a random crop and flips instead of the centre crop."""
    random = [v2.RandomResizedCrop(224), v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()]
    cut = [v2.CenterCrop(256)] if mode == "eval" else random
    floats = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean=RGB_MEAN, std=RGB_STDEV)]
    return v2.Compose(cut + floats)


def clibd_transform(mode: str) -> Any:
    """CLIBD's transforms, all of a float picture in [0, 1]."""
    floats = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Resize(256, antialias=True)]
    if mode == "eval":
        return v2.Compose([*floats, v2.CenterCrop(224)])
    flips = [v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()]
    return v2.Compose([*floats, v2.RandomResizedCrop(224, antialias=True), *flips, v2.RandomRotation(45)])


def write_hdf5(path: Path, encoded: list[bytes]) -> None:
    """Photos as CLIBD keeps them: bytes padded with zeros to the longest, and their lengths."""
    with h5py.File(path, "w") as file:
        longest = max(map(len, encoded))
        images = file.create_dataset("train/image", (len(encoded), longest), "uint8")
        for i, data in enumerate(encoded):
            images[i, : len(data)] = np.frombuffer(data, np.uint8)
        file["train/image_mask"] = [len(data) for data in encoded]


def from_hdf5(group: Any, index: int, transform: Any) -> torch.Tensor:
    """One photo of CLIBD's HDF5."""
    data = group["image"][index][: group["image_mask"][index]].tobytes()
    return transform(Image.open(io.BytesIO(data)))


def timed(function: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of wall and CPU time."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - cpu


def ways_of(mode: Any, release: Path, rows: Any, encoded: list[bytes], group: Any) -> dict[str, Callable[[], Any]]:
    """What is compared: each goes once through all rows of `rows`, in one random order."""
    order = np.random.default_rng(0).permutation(len(rows)).tolist()
    batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    theirs = Unchecked(release, split="all", transform=readme_transform(mode), target_type="species")
    clibd = clibd_transform(mode)
    ours = with_pixels(rows, mode=mode)
    decoded = decode_batch(encoded[:BATCH], mode=mode)
    return {
        "bioscan_dataset": lambda: [torch.stack([theirs[i][0] for i in batch]) for batch in batches],
        "clibd_hdf5": lambda: [torch.stack([from_hdf5(group, i, clibd) for i in batch]) for batch in batches],
        "with_pixels": lambda: [ours[batch] for batch in batches],
        "with_pixels, DataLoader": lambda: list(torch.utils.data.DataLoader(ours, BATCH, shuffle=True)),
        "decode_batch, simplejpeg": lambda: decode(encoded, mode, "simplejpeg"),
        "decode_batch, pillow": lambda: decode(encoded, mode, "pillow"),
        "normalize_on_device, on this CPU": lambda: [normalize_on_device(decoded) for _ in batches],
        "rotate_by, on this CPU": lambda: [
            rotate_by(normalize_on_device(decoded), torch.rand(len(decoded)) * 90 - 45) for _ in batches
        ],
    }


def decode(encoded: list[bytes], mode: Any, decoder: photos.Decoder) -> None:
    """All photos, batch by batch."""
    for start in range(0, len(encoded), BATCH):
        decode_batch(encoded[start : start + BATCH], mode=mode, decoder=decoder)


def compare(ways: dict[str, Callable[[], Any]], count: int, repeats: int) -> dict[str, Any]:
    """Median rates, and median ratios of the peers' time to ours in the same turn."""
    for function in ways.values():
        function()
    turns: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, function in ways.items():
            turns[name].append(timed(function))
    rates = {name: round(count / median(cpu for _, cpu in seconds)) for name, seconds in turns.items()}
    measured: dict[str, Any] = {"photos_per_second_of_cpu": rates}
    for peer in PEERS:
        for clock, kind in enumerate(("wall", "cpu")):
            pairs = zip(turns[peer], turns["with_pixels"], strict=True)
            measured[f"ratio_to_{peer}_{kind}"] = round(
                median(theirs[clock] / ours[clock] for theirs, ours in pairs), 1
            )
    return measured


def main(arguments: list[str] | None = None) -> int:
    """Runs both modes, writes the results file, and returns 1 if a ratio is below the claim."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--specimens", type=int, default=600, help="photos (default: %(default)s)")
    parser.add_argument(
        "--repeats", type=int, default=5, help="turns of which the median counts (default: %(default)s)"
    )
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "images.json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    metrics: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        release = simulate_release(Path(folder, "release"), options.specimens, packages=("cropped_256",), folders=True)
        build(release, Path(folder, "parquet"))
        rows = load_bioscan5m(Path(folder, "parquet"), "cropped_256", "all", ranks=["species"])
        rows = rows.select_columns(["image", "processid", "dna_barcode", "species_index"])
        encoded, _ = photo_bytes(rows.with_format("arrow")[:]["image"])
        write_hdf5(Path(folder, "train.hdf5"), encoded)
        with h5py.File(Path(folder, "train.hdf5")) as file:
            for mode in ("eval", "train"):
                metrics[mode] = compare(
                    ways_of(mode, release, rows, encoded, file["train"]), len(encoded), options.repeats
                )
                print(mode, metrics[mode])
    passed = all(metrics[mode][f"ratio_to_{peer}_cpu"] >= least for (mode, peer), least in REQUIRED.items())
    write_results(
        options.output,
        task="benchmark/images",
        metrics=metrics,
        options={"specimens": options.specimens, "repeats": options.repeats, "batch": BATCH, "threads": 1},
        decoder=photos.default_decoder(),
        mean_bytes=round(sum(map(len, encoded)) / len(encoded)),
        required_ratios={f"{mode}, {peer}": least for (mode, peer), least in REQUIRED.items()},
        passed=passed,
    )
    return int(not passed)


if __name__ == "__main__":
    raise SystemExit(main())
