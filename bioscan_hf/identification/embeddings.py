"""`EmbeddingLibrary`: reference vectors, such as those of photos, that name other vectors.

The keys of a CLIBD model may be vectors of barcodes: photos are then named by references that have none themselves.
Shape letters: n = queries, N = keys, D = embedding size, C = candidates.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..encoders.embed import model_fingerprint
from ..encoders.image_encoders import load_image_encoder
from ..files import locked, read_json, replacing, write_text
from ..progress import Progress, silent
from ..provenance import provenance
from ..schema import LABEL_COLUMNS
from ..search.exact import TopK, similarity_blocks
from ..search.vectors import check_query, slices, unit_vectors
from .answers import Named, answered, described
from .base import Library, check_shares, folder_of, ids_of, refuse_single
from .calibration import BIN, LEVELS, Calibration
from .names import names_of
from .photo_references import read_vectors
from .photos import Encoder, photo_vectors
from .quality import PHOTO_STATUSES, Quality
from .similarity import Matches
from .stored import FACTS, FORMAT, TABLE, VECTORS, check_format, clear, is_library

KIND = "embeddings"

#: Keys asked about for each level of the calibration, and candidates of a query.
ASKED, CANDIDATES = 2000, 15

_QUERIES_AT_ONCE = 4096

_NOTES = {
    "no_photo": "no photo",
    "unreadable": "damaged, too small or too large, or not a photo in JPEG, PNG, TIFF, BMP, WebP or GIF",
    "far": "farther from all references than anything that was learned from them",
}


@dataclass
class Keys:
    """Vectors of references.

    Attributes:
        vectors: Unit vectors (N, D).
        queries: Vectors (N, D) of the same specimens as queries, if those are of another kind; zeros where missing.
    """

    vectors: NDArray[np.float32]
    queries: NDArray[np.float32] | None = None


class EmbeddingLibrary(Library):
    """A library of reference vectors that names photos with a confidence.

    Attributes:
        keys: What is searched.
        encoder: Network and processor of the queries; None until photos are named.
    """

    def __init__(
        self,
        records: pa.Table,
        keys: Keys,
        calibration: Calibration | None,
        info: dict[str, Any],
        encoder: Encoder | None = None,
    ) -> None:
        super().__init__(records, calibration, info)
        self.keys, self.encoder = keys, encoder
        specimens = records["processid"].combine_chunks().dictionary_encode()
        self._specimen = specimens.indices.to_numpy()
        lowest = [rank for rank in ("species", "genus") if self.taxa[rank]]
        self._named = torch.from_numpy(self.codes[lowest[0]] >= 0) if lowest else torch.ones(len(records)) > 0

    # ---- making ----------------------------------------------------------------------------------------------------

    @classmethod
    def from_embeddings(
        cls,
        embeddings: ArrayLike,
        labels: Mapping[str, Sequence[str | None]],
        *,
        ids: Sequence[str] | None = None,
        queries: ArrayLike | None = None,
        info: Mapping[str, Any] | None = None,
        encoder: Encoder | None = None,
        progress: Progress = silent,
        seed: int = 0,
    ) -> EmbeddingLibrary:
        """Makes a library from vectors.

        Args:
            embeddings: (N, D) of any length except 0.
            labels: Rank, or "dna_bin", -> names (N,), None where unknown.
            ids: Names of the specimens (N,); several rows may be of one. Row numbers by default.
            queries: Vectors (N, D) of the same specimens that are like later queries, such as photos where the keys
                are barcodes; zeros where there is none. The keys themselves by default.
            info: Facts that are kept: formats, notes, model, fingerprint.
            encoder: Network and processor of photos.
            progress: Called with "calibration", the keys done, and their number.
            seed: Of the calibration.

        Raises:
            ValueError: for labels or ids of another length, and NaN, infinite or zero keys.
        """
        names = list(map(str, range(len(np.asarray(embeddings))))) if ids is None else list(ids)
        vectors = unit_vectors(embeddings, "references", names)
        for what, column in (("ids", names), *labels.items()):
            if len(column) != len(vectors):
                raise ValueError(f"{what!r} has {len(column)} entries for {len(vectors)} vectors: each needs one.")
        columns = {rank: pa.array(labels.get(rank, [None] * len(vectors)), pa.string()) for rank in LABEL_COLUMNS}
        count = pa.array(np.ones(len(vectors), np.int64))
        records = pa.table({"processid": pa.array(names, pa.string()), **columns, "records": count})
        asked = None if queries is None else unit_vectors(queries, "queries", names, zeros=True)
        facts = {"format": FORMAT, "kind": KIND, "formats": {}, "notes": [], "versions": provenance()["versions"]}
        library = cls(records, Keys(vectors, asked), None, facts | dict(info or {}), encoder)
        can = None if asked is None else (asked != 0).any(1)
        library.calibration = library.calibrate(ASKED, np.random.default_rng(seed), progress, can)
        return library

    @classmethod
    def from_files(
        cls, files: str | Path | Sequence[str | Path], *, progress: Progress = silent, seed: int = 0, **options: Any
    ) -> EmbeddingLibrary:
        """Makes a library from the photos or barcodes of datasets, tables and folders of embeddings.

        Args:
            options: Of `photo_references.read_vectors`: model, keys, config, split, encoding.
            progress, seed: As of `from_embeddings`.

        Raises:
            FileNotFoundError, ValueError: as `photo_references.read_vectors`.
        """
        sources = [files] if isinstance(files, str | Path) else list(files)
        found = read_vectors(sources, progress=progress, **options)
        how: dict[str, Any] = {"ids": found.ids, "queries": found.queries, "info": found.info}
        return cls.from_embeddings(
            found.vectors, found.labels, **how, encoder=found.encoder, progress=progress, seed=seed
        )

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        model: str | Encoder | None = None,
        revision: str | None = None,
        **options: Any,
    ) -> EmbeddingLibrary:
        """Opens a library: a folder of `save_pretrained`, or its id on the Hub.

        Args:
            model: The encoder of photos that the library was made with: its name as of `load_image_encoder`, or a
                network and its processor. Needed to name photos if it was a folder.
            revision: Of a library on the Hub.
            options: token and cache_dir of `huggingface_hub.snapshot_download`.

        Raises:
            FileNotFoundError: if the folder or repository is not such a library.
            ValueError: if it was written in a newer format, is damaged, or was made with another encoder.
            ConnectionError, PermissionError: if the Hub cannot be reached, or refuses.
        """
        folder = folder_of(source, revision=revision, **options)
        if not is_library(folder) or (info := read_json(folder / FACTS, {"format": int})).get("kind") != KIND:
            raise FileNotFoundError(f"{str(source)!r} is not a library of embeddings.")
        check_format(source, info["format"])
        try:
            content, rows = info.pop("calibration"), info.pop("rows")
            records = pq.read_table(folder / TABLE, memory_map=True)
            vectors = load_file(folder / VECTORS)["vectors"].float().numpy()
            if len({len(records), len(vectors), rows}) > 1:
                raise ValueError(f"its files have {len(records)} and {len(vectors)} rows")
            calibration = None if content is None else Calibration.from_dict(content)
            library = cls(records, Keys(vectors), calibration, info)
        except PermissionError:
            raise  # names the file
        except (SafetensorError, KeyError, TypeError, AttributeError, OSError, ValueError) as error:
            told = " ".join(str(error).split())[:200]
            raise ValueError(f"{str(folder)!r} is damaged ({told}). Make the library again.") from error
        if model is not None:
            library._use(model)
        return library

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the library to a folder.

        Raises:
            RuntimeError: if another process writes a library there.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder, "library"):
            clear(folder)
            with replacing(folder / TABLE) as part:
                pq.write_table(self.records, part, compression="zstd")
            with replacing(folder / VECTORS) as part:
                save_file({"vectors": torch.from_numpy(self.keys.vectors)}, part)
            calibration = self.calibration.to_dict() if self.calibration else None
            content = {**self.info, "rows": len(self.records), "calibration": calibration}
            write_text(folder / FACTS, json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    def _use(self, model: str | Encoder) -> None:
        """Takes an encoder for the queries; ValueError if it is not that of the library."""
        encoder = load_image_encoder(model) if isinstance(model, str) else model
        wanted = self.info.get("fingerprint")
        if wanted is not None and model_fingerprint(encoder[0]) != wanted:
            raise ValueError(
                f"The library was made with the encoder {self.info.get('model')!r}; the given one has other weights."
            )
        self.encoder = encoder

    # ---- naming ----------------------------------------------------------------------------------------------------

    def identify(
        self,
        photos: Any,
        ids: Sequence[str] | None = None,
        *,
        least: float = 0.95,
        novel_share: float | None = None,
        progress: Progress = silent,
    ) -> pa.Table:
        """Names photos. The table is that of `answers.answered`, with `similarity` (cosine) instead of identity.

        Args:
            photos: A sequence of paths, encoded bytes, PIL images or arrays, None where there is none; or a
                `datasets.Dataset` with the column `image`, as the photos of `photos.read_specimens`.
            ids: Names of the photos; their numbers by default.
            least: Smallest confidence of the name in the column `name`.
            novel_share: Share of photos whose species is not among the references; estimated by default.

        Raises:
            ValueError: without an encoder, for a share outside [0, 1], and other numbers of ids than of photos.
        """
        refuse_single(photos, "read_specimens reads a folder")
        photos = photos if hasattr(photos, "__len__") else list(photos)
        names = ids_of(ids, len(photos)).to_pylist()
        check_shares(least, novel_share)
        return self.table([self.described(photos, names, progress)], least, novel_share)

    def described(self, photos: Any, ids: Sequence[str], progress: Progress = silent) -> pa.Table:
        """`answers.described` of photos."""
        if self.encoder is None:
            if self.info.get("model") is None or self.info.get("local"):
                raise ValueError(
                    f"The library needs its encoder of photos, {self.info.get('model')!r}: give it "
                    f"(--model, in Python model=)."
                )
            self._use(self.info["model"])
        assert self.encoder is not None
        return pa.concat_tables(self.blocks(*photo_vectors(self.encoder, photos, ids, progress=progress), ids))

    def identify_embeddings(
        self,
        embeddings: ArrayLike,
        ids: Sequence[str] | None = None,
        *,
        valid: ArrayLike | None = None,
        least: float = 0.95,
        novel_share: float | None = None,
    ) -> pa.Table:
        """Names vectors (n, D) of the encoder of the queries; otherwise as `identify`.

        Args:
            valid: False (n,) for queries without a vector.
        """
        x = np.asarray(embeddings, np.float32)
        names = ids_of(ids, len(x)).to_pylist()
        check_shares(least, novel_share)
        there = np.ones(len(x), np.bool_) if valid is None else np.asarray(valid, np.bool_)
        status = ["ok" if one else "no_photo" for one in there]
        return self.table(self.blocks(x, status, names), least, novel_share)

    def table(self, descriptions: Iterable[pa.Table], least: float, novel_share: float | None) -> pa.Table:
        """The table of answers for `described` queries."""
        table = answered(self, descriptions, least, novel_share)
        shown = table.rename_columns({"identity": "similarity"}).drop_columns(["overlap", "strand"])
        return shown.replace_schema_metadata(table.schema.metadata)

    def blocks(self, vectors: NDArray[np.float32], status: Sequence[str], ids: Sequence[str]) -> Iterator[pa.Table]:
        """`answers.described` of vectors (n, D) with a status."""
        for part in list(slices(len(vectors), _QUERIES_AT_ONCE)) or [slice(0, 0)]:
            here = list(status[part])
            usable = np.flatnonzero([text not in PHOTO_STATUSES for text in here])
            asked = np.zeros((0, self.keys.vectors.shape[1]), np.float32)
            if len(usable):
                asked = unit_vectors(vectors[part][usable], "queries", [ids[part.start + i] for i in usable.tolist()])
                check_query(asked.shape[1], self.keys.vectors.shape[1])
            matches = self.match(asked)
            for i, place in enumerate(usable):
                if self.calibration is not None and matches.identity[i, 0] < self.calibration.least_identity:
                    here[place] = "far"
            names = names_of(matches, self.codes, self.count, self.named)
            quality = Quality(here, [_NOTES.get(text, "") for text in here], [""] * len(here))
            block = Named(len(here), usable, matches, names, self.evidence(matches, names), quality)
            yield described(self, block, ids[part])

    def match(self, queries: NDArray[np.float32], allowed: Tensor | None = None) -> Matches:
        """The nearest keys of unit vectors (n, D): of all keys, and of those with a name at the lowest rank.

        Args:
            allowed: (n, N) bool: the keys that each query may match; all by default.
        """
        width = min(CANDIDATES, len(self.records))
        found = [TopK(len(queries), width, "cpu") for _ in range(2)]
        if len(queries):
            for part, columns, similarity in similarity_blocks(queries, self.keys.vectors, metric="dot"):
                if allowed is not None:
                    similarity = similarity.masked_fill(~allowed[part, columns], -torch.inf)
                found[0].add(part, similarity, columns.start)
                found[1].add(part, similarity.masked_fill(~self._named[columns], -torch.inf), columns.start)
        rows = np.concatenate([one.found().rows for one in found], axis=1)
        cosine = np.concatenate([one.found().similarities for one in found], axis=1)
        return _matches(rows, cosine)

    def features(self, found: Matches) -> list[NDArray[np.float64]]:
        """Features (n,) of matches: the cosine, and how far it exceeds that of the last candidate."""
        cosine = found.cosine.astype(np.float64)
        last = np.where(found.rows >= 0, cosine, 1.0).min(1)
        return [cosine[:, 0], cosine[:, 0] - np.minimum(last, cosine[:, 0])]

    def _without(
        self, rows: NDArray[np.int64], level: NDArray[np.int64], rng: np.random.Generator
    ) -> tuple[Matches, dict[str, NDArray[np.bool_]]]:
        allowed = self._others(rows, level)
        there = {}
        for rank in {*self.ranks, *LEVELS, BIN}:
            codes = self.codes[rank]
            there[rank] = ((codes[None] == codes[rows, None]) & allowed).any(1) & (codes[rows] >= 0)
        queries = self.keys.vectors if self.keys.queries is None else self.keys.queries
        return self.match(queries[rows], torch.from_numpy(allowed)), there

    def _others(self, rows: NDArray[np.int64], level: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Keys that remain without a record's specimen, and without its taxon at a level if it is not -1, (n, N)."""
        allowed = self._specimen[None] != self._specimen[rows, None]
        for place, rank in enumerate(LEVELS):
            codes = self.codes[rank]
            here = np.flatnonzero(level == place)
            allowed[here] &= (codes[None] != codes[rows[here], None]) | (codes[rows[here], None] < 0)
        return allowed


def _matches(rows: NDArray[np.int64], cosine: NDArray[np.float32]) -> Matches:
    """Candidates (n, C) in order, each once; cosines below 0 count as 0."""
    again = np.zeros(rows.shape, np.bool_)
    for place in range(1, rows.shape[1]):
        again[:, place] = (rows[:, :place] == rows[:, place, None]).any(1)
    rows = np.where(again | ~np.isfinite(cosine), -1, rows)
    cosine = np.where(rows < 0, 0, cosine.clip(0, 1)).astype(np.float32)
    order = np.lexsort((rows, -cosine, rows < 0), axis=1)
    rows, cosine = np.take_along_axis(rows, order, 1), np.take_along_axis(cosine, order, 1)
    n = len(rows)
    nothing, whole = np.zeros(n, np.bool_), np.ones(n, np.int32)
    overlap = (rows >= 0).astype(np.int32)
    return Matches(rows, cosine, overlap, cosine, nothing, np.ones(n, np.float32), [], None, whole, nothing)
