"""Vectors of references: of the photos or barcodes of datasets and tables, or of folders that `embed` wrote.

Shape letters: N = references, D = embedding size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..dataset.load import load_bioscan5m
from ..encoders.base import Encoder as Pooled
from ..encoders.base import split_name
from ..encoders.batches import embed_barcodes, inference
from ..encoders.clibd import clibd_dna_features
from ..encoders.embed import load_embeddings, model_fingerprint
from ..encoders.image_encoders import load_image_encoder
from ..encoders.stored import MANIFEST, folder_of
from ..files import read_json
from ..progress import Progress, silent
from ..schema import LABEL_COLUMNS
from .formats import read_references
from .forms import in_one_form
from .photo_files import has_photo_column
from .photos import Encoder, Specimens, photo_vectors, read_specimens
from .records import counted

#: What the keys of a library can be.
KEYS = ("image", "dna")


@dataclass
class Vectors:
    """Vectors of references, and what is known of them.

    Attributes:
        ids: Names of the specimens (N,).
        vectors: Keys (N, D).
        labels: Rank, or "dna_bin", -> names (N,), None where unknown.
        queries: Vectors (N, D) of their photos, if the keys are of barcodes; zeros where there is none.
        info: Facts that a library keeps.
        encoder: Network and processor of photos, if they were used.
    """

    ids: list[str]
    vectors: NDArray[np.float32]
    labels: dict[str, list[str | None]]
    queries: NDArray[np.float32] | None = None
    info: dict[str, Any] = field(default_factory=dict)
    encoder: Encoder | None = None


def is_embeddings(path: str | Path) -> bool:
    """Whether a folder holds embeddings of `embed`, perhaps of several modalities."""
    manifests = [Path(path) / part / MANIFEST for part in (".", *KEYS)]
    return any(isinstance(read_json(one).get("shard_size"), int) for one in manifests if one.is_file())


def read_vectors(
    sources: Sequence[str | Path],
    *,
    model: str | Encoder | None = None,
    keys: str = "image",
    config: str | None = None,
    split: str | None = None,
    encoding: str = "utf-8",
    progress: Progress = silent,
) -> Vectors:
    """Reads or computes the vectors of references.

    Args:
        sources: Datasets, and tables with photos and names (see `read_specimens`). Or folders of embeddings, whose
            names are those of the columns that were kept, or of a dataset beside them.
        model: Encoder of photos: a name as of `load_image_encoder`, or a network and its processor.
        keys: "image", or "dna" for the barcodes of the references by a CLIBD model.
        config, split, encoding: As of `read_specimens`.

    Raises:
        FileNotFoundError, ValueError: as `read_specimens` and `load_embeddings`; without names or an encoder.
    """
    if keys not in KEYS:
        raise ValueError(f"keys is {keys!r}; give {' or '.join(map(repr, KEYS))}.")
    stored = [Path(source) for source in sources if is_embeddings(source)]
    others = [source for source in sources if not is_embeddings(source)]
    facts: dict[str, Any] = {"keys": keys, **(stored_name(model) if isinstance(model, str) else {})}
    if stored:
        found = _of_folders(stored, others, keys)
    elif model is None:
        raise ValueError(
            "Photos need an encoder: a CLIBD model or another encoder of photos (--model, in Python model=)."
        )
    else:
        found = _computed(others, model, keys, config, split, encoding, progress)
    found.info |= facts
    found.labels = _named(found.labels, found.info["notes"])
    return found


def _named(labels: dict[str, list[str | None]], notes: list[str]) -> dict[str, list[str | None]]:
    """Names in their one form, as those of sequences, and notes about what was changed."""
    there = {rank: pa.chunked_array([pa.array(names, pa.string())]) for rank, names in labels.items() if any(names)}
    return labels | {rank: names.to_pylist() for rank, names in in_one_form(there, notes).items()}


def stored_name(model: str) -> dict[str, Any]:
    """Facts of an encoder by name, without folders: `model`, and `local` if it is a folder of this machine."""
    path = Path(split_name(model)[1])
    return {"model": path.name, "local": True} if path.exists() else {"model": model}


def _computed(
    sources: Sequence[str | Path],
    model: str | Encoder,
    keys: str,
    config: str | None,
    split: str | None,
    encoding: str,
    progress: Progress,
) -> Vectors:
    """Vectors of datasets and tables by an encoder."""
    encoder = load_image_encoder(model) if isinstance(model, str) else model
    specimens = [_specimens(source, keys, config, split, encoding) for source in sources]
    if nameless := [str(source) for source, one in zip(sources, specimens, strict=True) if one.labels is None]:
        raise ValueError(
            f"{nameless[0]!r} has no names: a table of references needs columns such as species and genus."
        )
    photos = [photo_vectors(encoder, s.photos, s.ids, progress=progress) for s in specimens if s.photos is not None]
    images = _filled(specimens, [vectors for vectors, _ in photos])
    broken = sum(status.count("unreadable") for _, status in photos)
    notes = [f"{broken:,} photo{' is' if broken == 1 else 's are'} damaged or not of a known kind"] if broken else []
    vectors, queries = images, None
    if keys == "dna":
        vectors, queries = _barcode_vectors(model, specimens), images
        if not (queries != 0).any():
            notes.append("no reference has a photo, so names of photos by their barcodes have no confidence")
    there = (vectors != 0).any(1)
    if not there.any():
        raise ValueError(f"No reference has a {'photo' if keys == 'image' else 'barcode'} that can be read.")
    if left := int((~there).sum()):
        notes.append(f"left out {counted(left)} without a {'photo' if keys == 'image' else 'barcode'}")
    labels = pa.concat_tables([s.labels for s in specimens if s.labels is not None]).filter(pa.array(there))
    ids = np.array([name for s in specimens for name in s.ids], object)[there].tolist()
    info = {
        "fingerprint": model_fingerprint(encoder[0]),
        "formats": {"dataset" if not Path(source).is_file() else "table": 1 for source in sources},
        "notes": notes,
    }
    return Vectors(ids, vectors[there], labels.to_pydict(), None if queries is None else queries[there], info, encoder)


def _specimens(source: str | Path, keys: str, config: str | None, split: str | None, encoding: str) -> Specimens:
    """Specimens of a source; for keys of barcodes it needs no photos."""
    try:
        return read_specimens(source, config=config, split=split, encoding=encoding)
    except ValueError:
        if keys == "image" or (Path(source).is_file() and has_photo_column(source, encoding)):
            raise
    table = read_references([source], split=split, encoding=encoding).table
    labels = pa.table({rank: table[rank].cast(pa.string()) for rank in LABEL_COLUMNS})
    return Specimens(table["processid"].to_pylist(), None, table["dna_barcode"], labels)


def _filled(specimens: Sequence[Specimens], vectors: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Vectors of all specimens, zeros for sources without photos."""
    dim, rest = (vectors[0].shape[1] if vectors else 1), iter(vectors)
    return np.concatenate([np.zeros((len(s), dim), np.float32) if s.photos is None else next(rest) for s in specimens])


def _barcode_vectors(model: str | Encoder, specimens: Sequence[Specimens]) -> NDArray[np.float32]:
    """Vectors of the barcodes by a CLIBD model (N, D), zeros without a barcode."""
    from ..models.modeling_clibd import ClibdModel
    from ..models.processing_clibd import ClibdProcessor

    if not isinstance(model, str):
        raise ValueError("Keys of barcodes need a CLIBD model by its name: a folder or Hub id.")
    try:
        network, processor = ClibdModel.from_pretrained(model), ClibdProcessor.from_pretrained(model)
    except (ValueError, TypeError) as error:
        raise ValueError(f"Keys of barcodes need a CLIBD model; {model!r} is another ({error}).") from error
    encoder = Pooled(network, clibd_dna_features, description="clibd dna")
    reads = [read or "" for s in specimens for read in (s.reads.to_pylist() if s.reads is not None else [""] * len(s))]
    with inference(encoder):
        return embed_barcodes(encoder, processor.dna_tokenizer, reads)[0]


def _of_folders(folders: Sequence[Path], names: Sequence[str | Path], keys: str) -> Vectors:
    """Vectors of folders of `embed`; names of their columns, or by the ids of datasets."""
    read = [load_embeddings(folder, keys) for folder in folders]
    valid = np.concatenate([one.valid for one in read])
    ids = [name for one in read for name in one.processids]
    labels: dict[str, list[str | None]] = {}
    if names:
        tables = [_named_records(source) for source in names]
        table = pa.concat_tables(tables)
        place = pc.index_in(pa.array(ids, pa.string()), table["processid"].combine_chunks())
        labels = {rank: table[rank].take(place).to_pylist() for rank in LABEL_COLUMNS}
    else:
        kept = [rank for rank in LABEL_COLUMNS if all(rank in one.columns for one in read)]
        labels = {rank: [value for one in read for value in one.columns[rank]] for rank in kept}
    if not any(name for names_of_rank in labels.values() for name in names_of_rank):
        raise ValueError(
            f"{str(folders[0])!r} has no names of taxa. Give the dataset that was embedded beside it, which has them."
        )
    images = [folder_of(folder, "image") for folder in folders]
    queries = fingerprint = None
    if keys == "dna":
        queries = np.zeros((len(ids), read[0].dim), np.float32)
        if all((folder / "image" / MANIFEST).is_file() for folder in folders):
            queries = np.concatenate([load_embeddings(folder, "image").embeddings for folder in folders])
    if keys == "image" or queries is not None and queries.any():
        fingerprint = read_json(images[0] / MANIFEST).get("model")
    rows = np.flatnonzero(valid)
    info: dict[str, Any] = {"fingerprint": fingerprint, "formats": {"embeddings": len(folders)}, "notes": []}
    return Vectors(
        [ids[row] for row in rows],
        np.concatenate([one.embeddings for one in read])[valid],
        {rank: [column[row] for row in rows] for rank, column in labels.items()},
        None if queries is None else queries[valid],
        info,
    )


def _named_records(source: str | Path) -> pa.Table:
    """Ids and names of a dataset."""
    data = load_bioscan5m(source, "dna", "all", columns=["processid", *LABEL_COLUMNS])
    return data.with_format("arrow")[:]
