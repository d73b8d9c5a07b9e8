"""Specimens of a simulated release, and an encoder of photos that sees colours."""

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F

from bioscan_hf import load_bioscan5m
from bioscan_hf.encoders.image_encoders import ImageEncoder, PhotoProcessor
from bioscan_hf.schema import LABEL_COLUMNS


def colours(network, pixels):
    """Mean colours of 4 x 4 parts of photos and of 6 x 6 parts of their centres."""
    centre = pixels[:, :, 80:144, 60:164]
    return torch.cat([F.adaptive_avg_pool2d(pixels, 4).flatten(1), F.adaptive_avg_pool2d(centre, 6).flatten(1)], 1)


def encoder():
    return ImageEncoder(torch.nn.Identity(), colours), PhotoProcessor()


def rows_of(dataset, split="all", photos=True):
    """Ids, labels, barcodes and encoded photos of a dataset."""
    config = "cropped_256" if photos else "dna"
    table = load_bioscan5m(dataset, config, split, max_nucleotides=None).with_format("arrow")[:]
    found = {name: table[name].to_pylist() for name in ("processid", "dna_barcode", *LABEL_COLUMNS)}
    return found | ({"photo": [one["bytes"] for one in table["image"].to_pylist()]} if photos else {})


def vectors(rows, noise, seed=5, size=48):
    """Vectors near those of their species, genus, family and order."""
    rng = np.random.default_rng(seed)
    centres: dict = {}
    x = rng.normal(size=(len(rows["species"]), size)) * noise
    for rank, scale in (("order", 1.5), ("family", 1.0), ("genus", 0.7), ("species", 0.6)):
        for i, name in enumerate(rows[rank]):
            name = name or f"{rank} of {rows['dna_bin'][i]}"
            if name not in centres:
                centres[name] = rng.normal(size=size) * scale
            x[i] += centres[name]
    return x.astype(np.float32)


def part(rows, places):
    return {name: [column[place] for place in places] for name, column in rows.items()}


def records_of(rows):
    """As `library_of` takes them."""
    return [dict(zip(rows, cells, strict=True)) for cells in zip(*rows.values(), strict=True)]


def score(table, rows, rank, least=0.95):
    """Share right, mean confidence, Brier score, share at least so sure, and share right of them, of named rows."""
    named = [i for i, name in enumerate(rows[rank]) if name is not None]
    right = np.array([table[rank][i].as_py() == rows[rank][i] for i in named], float)
    sure = np.array([table[f"{rank}_confidence"][i].as_py() or 0 for i in named])
    high = sure >= least
    return {
        "right": right.mean(),
        "sure": sure.mean(),
        "brier": ((sure - right) ** 2).mean(),
        "named": high.mean(),
        "right of named": right[high].mean() if high.any() else 1.0,
    }


def reads_of(rows, length, errors, seed=0):
    """Parts of barcodes with errors."""
    rng = np.random.default_rng(seed)

    def read(barcode):
        start = int(rng.integers(0, max(1, len(barcode) - length)))
        letters = list(barcode[start : start + length])
        return "".join(rng.choice(list("ACGT")) if rng.random() < errors else letter for letter in letters)

    return pa.chunked_array([pa.array([read(barcode or "") for barcode in rows["dna_barcode"]], pa.string())])
