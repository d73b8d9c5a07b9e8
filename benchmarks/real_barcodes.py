"""Writes a table of real barcodes as one small numpy file, for `gpu_run.py` on a machine without the table.

    python benchmarks/real_barcodes.py bold_coi5p.csv.gz .gpu_data

The input is a metadata CSV in BIOSCAN-5M columns in which every record has a species; the partition is simulated as in
`bench_real_coi.py`: 15 % of the species are treated as unnamed (unseen), and half of the other barcodes lose their
labels (pretrain). A split holds each barcode once. Letters are stored as bytes, one barcode after the other.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from bioscan_hf.barcodes import barcode_digests, spelled
from bioscan_hf.files import writing
from bioscan_hf.partition.assign import make_splits

SPLITS = ("pretrain", "train", "val", "test", "val_unseen", "test_unseen")
RANKS = ("order", "family", "genus", "species", "dna_bin")
FILE = "barcodes.npz"


def partitioned(source: Path, seed: int) -> pa.Table:
    """The table with its simulated partition, the barcodes in their one spelling, without N at the ends."""
    table = make_splits(csv.read_csv(source), seed, hold_out_species=0.15, unlabel=0.5, tell=lambda line: None)
    place = table.column_names.index("dna_barcode")
    letters = pc.utf8_trim(spelled(table["dna_barcode"]), "N")
    return table.set_column(place, "dna_barcode", letters)


def write_numpy(table: pa.Table, folder: Path) -> dict[str, int]:
    """Writes the distinct barcodes of each split and their label ids; gives the number of barcodes of each split."""
    arrays: dict[str, np.ndarray] = {}
    names = {rank: {} for rank in RANKS}  # type: dict[str, dict[str, int]]
    for split in SPLITS:
        rows = table.filter(pc.equal(table["split"], split))
        first = np.unique(barcode_digests(rows["dna_barcode"]), return_index=True)[1]
        rows = rows.take(pa.array(np.sort(first)))
        barcodes = rows["dna_barcode"].to_pylist()
        arrays[f"{split}_letters"] = np.frombuffer("".join(barcodes).encode("ascii"), np.uint8)
        arrays[f"{split}_lengths"] = np.array([len(barcode) for barcode in barcodes], np.int16)
        for rank in RANKS:
            ids = [names[rank].setdefault(name, len(names[rank])) if name else -1 for name in rows[rank].to_pylist()]
            arrays[f"{split}_{rank}"] = np.array(ids, np.int16)
    folder.mkdir(parents=True, exist_ok=True)
    with writing(folder / FILE, "wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return {split: len(arrays[f"{split}_lengths"]) for split in SPLITS}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="metadata CSV in which every record has a species")
    parser.add_argument("folder", type=Path, help=f"folder of the file {FILE}; leave it out of git")
    parser.add_argument("--seed", type=int, default=0, help="of the partition (default: %(default)s)")
    options = parser.parse_args(arguments)
    print(write_numpy(partitioned(options.source, options.seed), options.folder))
    print(f"{(options.folder / FILE).stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
