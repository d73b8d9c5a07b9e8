"""Claim: photos come at least 4 times as fast as from bioscan-dataset, 3 times as from CLIBD's HDF5, at equal work.

Equal work: 224-pixel crops as normalised floats; to train, random crops with flips, with and without a rotation by up
to 45 degrees. The peers are `bioscan_dataset.BIOSCAN5M.__getitem__` with the transform of its README (cropped to 224
instead of 256 pixels), and CLIBD's way (https://arxiv.org/abs/2405.17537), stated here once more: JPEG bytes padded
with zeros in HDF5, Pillow, then transforms of the float picture, which it does not normalise. Ours stay bytes until
they are cropped and rotated; what is normalised on a GPU is measured as well ("bytes"). All run in turns, in one
process, on one thread, on the same photos in the same random order.

    python benchmarks/bench_images.py                                       # about 5 minutes
    python benchmarks/bench_images.py --specimens 60 --output trial.json    # half a minute

Needs `bioscan-dataset`, `h5py`, and for our default decoder `simplejpeg`.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable, Sequence
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
from bioscan_hf.models.pixels import (
    BIOSCAN5M_MEAN,
    decode_batch,
    normalize_on_device,
    photo_bytes,
    rotate_by,
    with_pixels,
)
from bioscan_hf.provenance import write_results
from bioscan_hf.simulate.release import simulate_release

#: Work -> mode of our crops.
WORKS = {"eval": "eval", "train": "train", "train_rotated": "train"}
PEERS = ("bioscan_dataset", "clibd_hdf5")
REQUIRED = {("eval", "bioscan_dataset"): 4, ("train", "bioscan_dataset"): 4, ("train_rotated", "clibd_hdf5"): 3}
BATCH = 64
ROTATION = 45


class Unchecked(BIOSCAN5M):
    """bioscan-dataset's class on a release whose files are not the published ones."""

    def _check_integrity(self, verbose: int = 1) -> bool:
        return True


def random_transforms(work: str) -> list[Any]:
    """Random crop and flips, and the rotation where the work has one."""
    flips = [v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()]
    return [v2.RandomResizedCrop(224, antialias=True), *flips, *[v2.RandomRotation(ROTATION)] * (work != "train")]


def readme_transform(work: str) -> Any:
    """The README's transform; to train, with random transforms of the picture instead of the centre crop."""
    cut = [v2.CenterCrop(224)] if work == "eval" else random_transforms(work)
    floats = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean=RGB_MEAN, std=RGB_STDEV)]
    return v2.Compose(cut + floats)


def clibd_transform(work: str) -> Any:
    """CLIBD's transforms, all of a float picture in [0, 1]."""
    floats = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Resize(256, antialias=True)]
    return v2.Compose(floats + ([v2.CenterCrop(224)] if work == "eval" else random_transforms(work)))


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


class Floats:
    """Our way to normalised floats of a batch: bytes, rotated bytes, floats in a buffer that is used again."""

    def __init__(self, rows: Any, work: str):
        mode: Any = WORKS[work]
        self.rows, self.rotates = with_pixels(rows, mode=mode), work == "train_rotated"
        self.buffer = torch.empty(BATCH, 3, 224, 224)

    def __call__(self, batch: Sequence[int]) -> torch.Tensor:
        pixels = self.rows[batch]["pixel_values"]
        if self.rotates:
            angles = torch.rand(len(pixels)) * 2 * ROTATION - ROTATION
            pixels = rotate_by(pixels, angles, [255 * colour for colour in BIOSCAN5M_MEAN])
        elif self.buffer.is_contiguous():
            self.buffer = torch.empty_like(self.buffer, memory_format=torch.channels_last)  # as crops are
        return normalize_on_device(pixels, out=self.buffer[: len(pixels)])


def ways_of(work: str, release: Path, rows: Any, encoded: list[bytes], group: Any) -> dict[str, Callable[[], Any]]:
    """What is compared: each goes once through all rows of `rows`, in one random order."""
    order = np.random.default_rng(0).permutation(len(rows)).tolist()
    batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    theirs = Unchecked(release, split="all", transform=readme_transform(work), target_type="species")
    clibd, floats = clibd_transform(work), Floats(rows, work)
    mode: Any = WORKS[work]
    decoded = decode_batch(encoded[:BATCH], mode=mode)
    buffer, angles = torch.empty_like(decoded, dtype=torch.float32), torch.rand(len(decoded)) * 90 - 45

    def each(function: Callable[[list[int]], Any]) -> Callable[[], None]:
        def run() -> None:
            for batch in batches:
                function(batch)

        return run

    ways = {
        "bioscan_dataset": each(lambda batch: torch.stack([theirs[i][0] for i in batch])),
        "clibd_hdf5": each(lambda batch: torch.stack([from_hdf5(group, i, clibd) for i in batch])),
        "ours": each(floats),
    }
    if work == "train_rotated":
        return ways | {"rotate_by alone": each(lambda batch: rotate_by(decoded[: len(batch)], angles[: len(batch)]))}
    data = with_pixels(rows, mode=mode)
    loader = torch.utils.data.DataLoader(data, BATCH, shuffle=True)
    return ways | {
        "bytes": each(lambda batch: data[batch]),
        "bytes, DataLoader": lambda: [None for _ in loader],
        "decode_batch, simplejpeg": lambda: decode(encoded, mode, "simplejpeg"),
        "decode_batch, pillow": lambda: decode(encoded, mode, "pillow"),
        "normalize_on_device alone": each(
            lambda batch: normalize_on_device(decoded[: len(batch)], out=buffer[: len(batch)])
        ),
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
            pairs = zip(turns[peer], turns["ours"], strict=True)
            measured[f"ratio_to_{peer}_{kind}"] = round(
                median(theirs[clock] / ours[clock] for theirs, ours in pairs), 1
            )
    return measured


def main(arguments: list[str] | None = None) -> int:
    """Measures each work, writes the results file, and returns 1 if a ratio is below the claim."""
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
            for work in WORKS:
                ways = ways_of(work, release, rows, encoded, file["train"])
                metrics[work] = compare(ways, len(encoded), options.repeats)
                print(work, metrics[work], flush=True)
    passed = all(metrics[work][f"ratio_to_{peer}_cpu"] >= least for (work, peer), least in REQUIRED.items())
    write_results(
        options.output,
        task="benchmark/images",
        metrics=metrics,
        options={"specimens": options.specimens, "repeats": options.repeats, "batch": BATCH, "threads": 1},
        decoder=photos.default_decoder(),
        mean_bytes=round(sum(map(len, encoded)) / len(encoded)),
        required_ratios={f"{work}, {peer}": least for (work, peer), least in REQUIRED.items()},
        passed=passed,
    )
    return int(not passed)


if __name__ == "__main__":
    raise SystemExit(main())
