"""Counts of samples, barcodes and species in each split."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..barcodes import barcode_digests, spelled
from ..schema import SPLITS

#: Rows without a split, and the name under which they are counted.
_UNASSIGNED = "unassigned"


def count_splits(blocks: Iterable[pa.Table | pa.RecordBatch]) -> list[dict[str, Any]]:
    """Samples, distinct barcodes and distinct species per split, and in total.

    Splits without rows are omitted; the last row is "total". N at both ends of a barcode does not count, and neither
    does a missing barcode. Memory: 16 bytes per distinct barcode of a block.

    Args:
        blocks: Tables with the columns split, dna_barcode and species.
    """
    samples: Counter[str] = Counter()
    digests: defaultdict[str, list[np.ndarray]] = defaultdict(list)
    species: defaultdict[str, set[str]] = defaultdict(set)
    for block in blocks:
        of_row = pc.fill_null(block["split"], _UNASSIGNED)
        for split in of_row.unique().to_pylist():
            rows = block.filter(pc.equal(of_row, split))
            samples[split] += len(rows)
            barcodes = pc.unique(pc.utf8_trim(spelled(rows["dna_barcode"].cast(pa.large_string())), "N"))
            digests[split].append(barcode_digests(barcodes))
            species[split].update(name for name in rows["species"].unique().to_pylist() if name)
    order = [split for split in (*SPLITS, _UNASSIGNED) if split in samples]
    distinct = {split: np.unique(np.concatenate(digests.pop(split))) for split in order}
    distinct["total"] = np.unique(np.concatenate([*distinct.values(), np.empty(0, "S16")]))
    samples["total"], species["total"] = samples.total(), set().union(*species.values())
    return [
        {
            "split": split,
            "samples": samples[split],
            "barcodes": int((distinct[split] != b"").sum()),
            "species": len(species[split]),
        }
        for split in (*order, "total")
    ]
