"""The folder of a library of references: `library.json`, `references.parquet`, `search.safetensors`, and `region`.

What is searched is mapped from the file and not read, so that a library of any size opens at once.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..files import as_new, locked, read_json, replacing, write_text
from ..schema import LABEL_COLUMNS
from .calibration import Calibration
from .packed import Packed
from .quality import Frame
from .region import Placed, Region
from .shortlist import Cells, Words
from .similarity import References, nothing

#: Version of the folder.
FORMAT = 3

#: Its name in `config.json`, by which transformers opens the folder.
MODEL_TYPE = "reference-library"

CONFIG = "config.json"

#: Table of suspicious references.
AUDIT = "audit.csv"

FACTS, TABLE, SEARCH, REGION = "library.json", "references.parquet", "search.safetensors", "region"

#: What a library of photos has instead of `SEARCH` and `REGION`.
VECTORS = "vectors.safetensors"

_DTYPES = {"BF16": torch.bfloat16, "F32": torch.float32, "I64": torch.int64, "I32": torch.int32, "U8": torch.uint8}

#: References whose vectors are compared with those of a given encoder, and the most by which rounding moves one.
_COMPARED, _ROUNDING = 8, 0.15

#: Files of fewer bytes stay in memory.
_SMALL = 1 << 28

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


def is_library_of_photos(path: str | Path) -> bool:
    """Whether a folder holds a library of photos."""
    return is_library(path) and read_json(Path(path) / FACTS).get("kind") == "embeddings"


def check_format(folder: str | Path, found: int) -> None:
    """Raises ValueError unless a library has the format of this version."""
    if found != FORMAT:
        what = "Update bioscan_hf" if found > FORMAT else "Make the library again"
        raise ValueError(f"{str(folder)!r} has the format {found}; this version reads {FORMAT}. {what}.")


def clear(folder: Path) -> None:
    """Deletes the files of a library that another one replaces, which may be of another kind; `FACTS` first."""
    if is_library(folder):
        model = (f"{REGION}/config.json", f"{REGION}/model.safetensors")
        for name in (FACTS, AUDIT, CONFIG, SEARCH, VECTORS, *model):
            (folder / name).unlink(missing_ok=True)


def write_parts(folder: Path, parts: Parts) -> None:
    """Writes a library. `library.json` goes first and comes last, so that a cut never leaves a mixture of two."""
    folder.mkdir(parents=True, exist_ok=True)
    region = parts.references.region
    with locked(folder, "library"):
        clear(folder)
        with replacing(folder / TABLE) as part:
            pq.write_table(_plain(parts.records), part, compression="zstd")
        if region is not None:
            region.model.save_pretrained(folder / REGION)
            as_new(folder / REGION / "model.safetensors")
        with replacing(folder / SEARCH) as part:
            save_file(_tensors(parts.references), part)
        content = {
            **parts.info,
            "rows": len(parts.records),
            "region": region is not None,
            "calibration": parts.calibration.to_dict() if parts.calibration else None,
            "frame": parts.frame.to_dict() if parts.frame else None,
        }
        write_text(folder / CONFIG, json.dumps({"model_type": MODEL_TYPE}) + "\n")
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
    check_format(folder, info["format"])
    if "encoder" in info and encoder is None:
        raise ValueError(
            f"The library was made with the encoder {info.get('model')!r}: give it (--model, in Python model=)."
        )
    if "encoder" not in info and encoder is not None:
        raise ValueError(f"{str(folder)!r} was made without an encoder. Leave it out (--model, in Python model=).")
    try:
        parts = _read(folder, info, encoder)
    except PermissionError:
        raise  # names the file
    except (SafetensorError, KeyError, TypeError, IndexError, AttributeError, OSError, ValueError) as error:
        raise ValueError(
            f"{str(folder)!r} is damaged ({' '.join(str(error).split())[:200]}). Make the library again."
        ) from error
    if encoder is not None:
        _check_encoder(parts.references, info)
    return parts


def _check_encoder(references: References, info: dict[str, Any]) -> None:
    """Raises ValueError if the encoder gives the first references other vectors than the stored ones."""
    assert references.region is not None and references.placed is not None
    few = min(_COMPARED, len(references.sequences))
    own = references.region.vectors(references.sequences[:few], references.placed.aligned[:few]).float()
    kept = references.placed.vectors[:few].float()
    if own.shape != kept.shape or float((own - kept).norm(dim=1).max()) > _ROUNDING:
        raise ValueError(
            f"The library was made with the encoder {info.get('model')!r}; the given one gives other vectors. Give "
            f"that one (--model, in Python model=), or make the library again."
        )


def _read(folder: Path, info: dict[str, Any], encoder: Encoder | None) -> Parts:
    content, frame, rows, has_region = (info.pop(name) for name in ("calibration", "frame", "rows", "region"))
    names = ["processid", *LABEL_COLUMNS, "records"]
    records = pq.read_table(folder / TABLE, columns=names, read_dictionary=list(LABEL_COLUMNS), memory_map=True)
    found, release = _mapped(folder / SEARCH)
    column = _strings(found)
    region = placed = cells = None
    if has_region:
        region = Region(folder / REGION, encoder)
        planes = Packed(found["planes"].numpy().view(np.uint64), region.positions)
        placed = Placed(planes, found["start"].numpy(), found["score"].numpy(), found["vectors"])
    if "cell_order" in found:
        cells = Cells(found["centres"], found["cell_order"].numpy(), found["cell_starts"].numpy())
    bits = found["words"].numpy().view(np.uint64)
    cut = [found[name].numpy() for name in ("representatives", "word_order", "word_starts") if name in found]
    words = Words(bits, *cut)
    sizes = {len(records), rows, len(bits), len(column)}
    sizes |= {len(part) for part in (vars(placed).values() if placed else ())}
    if len(sizes) > 1:
        raise ValueError(f"its files have {', '.join(map(str, sorted(sizes)))} rows")
    records = records.add_column(1, "dna_barcode", pa.chunked_array([column]))
    references = References(Sequences(column), region, placed, words, cells, release)
    calibration = None if content is None else Calibration.from_dict(content)
    return Parts(records, references, None if frame is None else Frame(**frame), calibration, info)


def _mapped(path: Path) -> tuple[dict[str, Tensor], Callable[[], None]]:
    """Tensors of a safetensors file over its mapped memory, and what gives back the pages that were read.

    `load_file` maps as well, but nothing gives its pages back: with 1,000,000 references, 2 GB more are in use.
    """
    with open(path, "rb") as file:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    start = 8 + int.from_bytes(memory[:8], "little")
    if start > len(memory):
        raise ValueError(f"{path.name} is incomplete")
    header = json.loads(memory[8:start])
    header.pop("__metadata__", None)
    found = {}
    for name, facts in header.items():
        dtype, (first, last) = _DTYPES[facts["dtype"]], facts["data_offsets"]
        if start + last > len(memory):
            raise ValueError(f"{path.name} is incomplete")
        count = (last - first) // dtype.itemsize
        flat = torch.frombuffer(memory, dtype=dtype, count=count, offset=start + first) if count else torch.empty(0)
        found[name] = flat.to(dtype).reshape(facts["shape"])
    advise = getattr(memory, "madvise", None)
    if advise is None or len(memory) < _SMALL:  # the first on Windows
        return found, nothing
    advise(mmap.MADV_RANDOM)
    return found, lambda: advise(mmap.MADV_DONTNEED)  # nothing is ever written there


class Sequences(Sequence[str]):
    """A column of strings as a sequence that makes each string when it is asked for."""

    def __init__(self, column: pa.Array) -> None:
        self.column = column

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, place: Any) -> Any:
        return self.column[place].to_pylist() if isinstance(place, slice) else self.column[int(place)].as_py()


def _plain(records: pa.Table) -> pa.Table:
    """Records without dictionaries and long offsets, as everyone reads them."""
    plain = [pa.field(f.name, pa.int64() if f.name == "records" else pa.large_string()) for f in records.schema]
    return records.cast(pa.schema(plain))


def _tensors(references: References) -> dict[str, Tensor]:
    """What is searched, by name."""
    texts = references.sequences
    column = texts.column if isinstance(texts, Sequences) else pa.array(texts, pa.large_string())
    offsets = np.frombuffer(column.buffers()[1], np.int64)[column.offset : column.offset + len(column) + 1]
    flat = np.frombuffer(column.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
    words, placed, cells = references.words, references.placed, references.cells
    arrays: dict[str, NDArray[Any] | None] = {"letters": flat, "offsets": offsets - offsets[0]}
    arrays |= {"words": words.bits.view(np.int64), "representatives": words.representatives}
    arrays |= {"word_order": words.order, "word_starts": words.starts}
    found: dict[str, Tensor] = {}
    if placed is not None:
        arrays |= {"planes": Packed.of(placed.aligned).planes.view(np.int64)}
        arrays |= {"start": placed.start, "score": placed.score}
        found["vectors"] = placed.vectors.contiguous()
    if cells is not None:
        arrays |= {"cell_order": cells.order, "cell_starts": cells.starts}
        found["centres"] = cells.centres
    given = {name: np.ascontiguousarray(array) for name, array in arrays.items() if array is not None}
    return found | {
        name: torch.from_numpy(array if array.flags.writeable else array.copy()) for name, array in given.items()
    }


def _strings(found: dict[str, Tensor]) -> pa.Array:
    """The column of sequences, over the memory of the tensors."""
    offsets, flat = (found[name].numpy() for name in ("offsets", "letters"))
    if offsets[-1] != len(flat) or (np.diff(offsets) < 0).any():
        raise ValueError("the sequences are incomplete")
    return pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(flat))
