"""The folder of a library of references: `library.json`, `references.parquet`, and, with a region, `region` and
`placed.safetensors`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..files import locked, read_json, replacing, write_text
from ..models.modeling_alignedbarcode import AlignedBarcodeModel
from ..schema import LABEL_COLUMNS
from .calibration import Calibration
from .quality import Frame
from .region import Placed, Region
from .similarity import References

#: Version of the folder.
FORMAT = 1

FACTS, TABLE, PLACES, REGION = "library.json", "references.parquet", "placed.safetensors", "region"

Encoder = Callable[[Sequence[str]], NDArray[np.float32]]


class Parts(NamedTuple):
    """What a library is made of, see `ReferenceLibrary`."""

    records: pa.Table
    references: References
    frame: Frame | None
    calibration: Calibration | None
    info: dict[str, Any]


def is_library(path: str | Path) -> bool:
    """Whether a folder holds a library of references."""
    return (Path(path) / FACTS).is_file()


def write_parts(folder: Path, parts: Parts) -> None:
    """Writes a library. `library.json` goes first and comes last, so that a cut never leaves a mixture of two."""
    folder.mkdir(parents=True, exist_ok=True)
    region, placed = parts.references.region, parts.references.placed
    with locked(folder, "library"):
        (folder / FACTS).unlink(missing_ok=True)
        with replacing(folder / TABLE) as part:
            pq.write_table(parts.records, part, compression="zstd")
        if region is not None and placed is not None:
            region.model.save_pretrained(folder / REGION)
            arrays = {"aligned": placed.aligned, "start": placed.start, "score": placed.score}
            tensors = {name: torch.from_numpy(array) for name, array in arrays.items()} | {"vectors": placed.vectors}
            with replacing(folder / PLACES) as part:
                save_file(tensors, part)
        content = {
            **parts.info,
            "rows": len(parts.records),
            "region": region is not None,
            "calibration": parts.calibration.to_dict() if parts.calibration else None,
            "frame": parts.frame.to_dict() if parts.frame else None,
        }
        write_text(folder / FACTS, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_parts(folder: Path, encoder: Encoder | None) -> Parts:
    """Reads a library.

    Args:
        encoder: Gives the vectors of reads, for a library that was made with one.

    Raises:
        FileNotFoundError: if the folder is not a library.
        ValueError: if it was written in a newer format, needs an encoder, or is damaged.
    """
    if not is_library(folder):
        raise FileNotFoundError(f"{str(folder)!r} is not a library of references: it has no {FACTS}.")
    info = read_json(folder / FACTS, {"format": int})
    if info["format"] > FORMAT:
        raise ValueError(f"{str(folder)!r} has the format {info['format']}; this version reads {FORMAT}. Update.")
    if "encoder" in info and encoder is None:
        raise ValueError(f"The library was made with the encoder {info.get('model')!r}: give it (model=, --model).")
    try:
        return _read(folder, info, encoder)
    except (SafetensorError, KeyError, TypeError, IndexError, AttributeError, OSError, ValueError) as error:
        raise ValueError(
            f"{str(folder)!r} is damaged ({' '.join(str(error).split())[:200]}). Make the library again."
        ) from error


def _read(folder: Path, info: dict[str, Any], encoder: Encoder | None) -> Parts:
    content, frame, rows, has_region = (info.pop(name) for name in ("calibration", "frame", "rows", "region"))
    records = pq.read_table(folder / TABLE, memory_map=True).select(
        ["processid", "dna_barcode", *LABEL_COLUMNS, "records"]
    )
    region = placed = None
    if has_region:
        region = Region(AlignedBarcodeModel.from_pretrained(folder / REGION), encoder)
        found = load_file(folder / PLACES)
        placed = Placed(found["aligned"].numpy(), found["start"].numpy(), found["score"].numpy(), found["vectors"])
    sizes = {len(records), rows, *(len(part) for part in (vars(placed).values() if placed else ()))}
    if len(sizes) > 1:
        raise ValueError(f"its files have {', '.join(map(str, sorted(sizes)))} rows")
    references = References(records["dna_barcode"].to_pylist(), region, placed)
    calibration = None if content is None else Calibration.from_dict(content)
    return Parts(records, references, None if frame is None else Frame(**frame), calibration, info)
