"""`ReferenceLibrary`: reference sequences that name reads with a confidence.

Shape letters: n = reads, N = references, C = candidates.
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from ..barcodes import spelled
from ..files import is_missing_path
from ..progress import Progress, silent
from ..provenance import provenance
from .answers import Named, answered, described, finished, restored, shares_of, stored
from .audit import audited
from .base import Library, check_shares, files_of, folder_of, reads_table
from .calibration import BIN, LEVELS, Calibration
from .chimeras import parents_of
from .formats import Found, read_references
from .learning import Asked, pseudo_read
from .letters import Codes
from .names import Names, names_of
from .packed import Packed
from .prior import FILLED, coi_region, prior_of
from .quality import Frame, judged, unusable
from .records import distinct, forward
from .region import Region
from .similarity import LeftOut, Matches, References, match
from .stored import FORMAT, Parts, read_parts, write_parts
from .support import supports
from .workers import ahead

#: References asked about for each level of the calibration.
ASKED = 1200

#: Reads of which equal ones are named once; and most and fewest that a thread names at once.
_WINDOW, _READS_AT_ONCE, _LEAST_AT_ONCE = 32_768, 2048, 512


class ReferenceLibrary(Library):
    """A library of reference sequences that names reads with a confidence.

    Attributes:
        records: One row for each distinct sequence and lineage: `COLUMNS`, and `records`, the number of records.
        references: What is searched.
        frame: Reading frame of the references; None if they have none.
        calibration: None if too few references are named.
        info: Facts of the library: files, formats, notes, versions.
    """

    def __init__(
        self,
        records: pa.Table,
        references: References,
        frame: Frame | None,
        calibration: Calibration | None,
        info: dict[str, Any],
    ) -> None:
        super().__init__(records, calibration, info)
        self.references, self.frame = references, frame
        self._pairs: dict[tuple[str, str], tuple[NDArray[np.int64], NDArray[np.int64]]] = {}

    # ---- making ----------------------------------------------------------------------------------------------------

    @classmethod
    def from_files(
        cls,
        files: str | Path | Sequence[str | Path],
        *,
        model: str | None = None,
        progress: Progress = silent,
        seed: int = 0,
        **options: Any,
    ) -> ReferenceLibrary:
        """Makes a library from files in any format of `read_references`.

        Args:
            model: Folder or Hub id of a barcode encoder that gives the vectors; one is fitted to the references by
                default.
            progress: Called with the name of a step, the references done, and their number.
            seed: Of the calibration.
            options: Of `read_references`: format, ranks, marker, encoding, split.

        Raises:
            FileNotFoundError, TypeError, ValueError: as `read_references` and `base.files_of`.
        """
        found = read_references(files_of(files), **options)
        return cls.from_records(found, model=model, progress=progress, seed=seed)

    @classmethod
    def from_records(
        cls, found: Found, *, model: str | None = None, progress: Progress = silent, seed: int = 0
    ) -> ReferenceLibrary:
        """Makes a library from the records of `read_references`; arguments as of `from_files`."""
        library = cls.uncalibrated(found, model=model, progress=progress)
        library.calibration = library.calibrate(ASKED, np.random.default_rng(seed), progress)
        if library.calibration is not None and library.calibration.filled:
            library.info["notes"] = [*library.info["notes"], FILLED]
        return library

    @classmethod
    def uncalibrated(cls, found: Found, *, model: str | None = None, progress: Progress = silent) -> ReferenceLibrary:
        """A library without confidences; arguments as of `from_files`."""
        records, notes, turned = forward(distinct(found.table), by_model=model is not None)
        sequences = records["dna_barcode"].to_pylist()
        progress("references", 0, len(sequences))
        region = _region(model) or Region.of(sequences, _encoder(model)) or (None if model else coi_region(sequences))
        references = References.of(sequences, region)
        frame = Frame.of(_sample(references.placed.aligned)) if references.placed is not None else None
        progress("references", len(sequences), len(sequences))
        formats: dict[str, int] = {}
        for name in found.formats.values():
            formats[name] = formats.get(name, 0) + 1
        info = {
            "format": FORMAT,
            "records": len(found.table),
            "formats": formats,
            "model": Path(model).name if model else None,
            "notes": found.notes + notes,
            "turned": turned,
            "versions": provenance()["versions"],
        }
        if region is not None and region.encoder is not None:
            info["encoder"] = "given"
        return cls(records, references, frame, None, info)

    @classmethod
    def from_pretrained(
        cls, source: str | Path, *, model: str | None = None, revision: str | None = None, **options: Any
    ) -> ReferenceLibrary:
        """Opens a library: a folder of `save_pretrained`, or its id on the Hub.

        Args:
            model: The encoder that the library was made with, if one was given then.
            revision: Of a library on the Hub.
            options: token and cache_dir of `huggingface_hub.snapshot_download`.

        Raises:
            FileNotFoundError: if the folder or repository is not a library.
            ValueError: if it was written in a newer format, needs an encoder, or is damaged.
            ConnectionError, PermissionError: if the Hub cannot be reached, or refuses.
        """
        return cls(*read_parts(folder_of(source, revision=revision, **options), _encoder(model)))

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the library to a folder.

        Raises:
            RuntimeError: if another process writes a library there.
        """
        write_parts(Path(folder), Parts(self.records, self.references, self.frame, self.calibration, self.info))

    def _without(
        self, rows: NDArray[np.int64], level: NDArray[np.int64], rng: np.random.Generator
    ) -> tuple[Matches, dict[str, NDArray[np.bool_]]]:
        taxa = np.stack([self.codes[rank] for rank in LEVELS]).astype(np.int32)
        code = np.where(level >= 0, taxa[level, rows], -1).astype(np.int64)
        alone = (level >= 0) | (self.count[rows] == 1)
        reads = [pseudo_read(self.references.sequences[int(row)], rng) for row in rows]
        found = match(self.references, reads, LeftOut(np.where(alone, rows, -1), level, code, taxa))
        there = {}
        for rank in {*self.ranks, *LEVELS, BIN}:
            own = self.codes[rank][rows]
            every = np.bincount(self.codes[rank][self.codes[rank] >= 0], minlength=len(self.taxa[rank]) + 1)[own]
            gone = alone.astype(np.int64)
            for place in np.unique(level[code >= 0]).tolist():
                here = (level == place) & (code >= 0)
                gone[here] = self._both(rank, LEVELS[place], own[here], code[here])
            there[rank] = (own >= 0) & (every > gone)
        return found, there

    def _both(self, first: str, second: str, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
        """Number of references with the codes a and b (n,) at two ranks."""
        width = len(self.taxa[second]) + 1
        if (first, second) not in self._pairs:
            pairs = (self.codes[first] + 1) * width + self.codes[second] + 1
            self._pairs[first, second] = np.unique(pairs, return_counts=True)
        keys, counts = self._pairs[first, second]
        return counts[np.searchsorted(keys, (a + 1) * width + b + 1)]

    def prior(self) -> Asked | None:
        """As `prior.prior_of`."""
        return prior_of(self.references)

    def support(self, found: Matches, names: Names) -> dict[str, NDArray[np.float64]]:
        """As `supports`; empty without a region."""
        if found.aligned is None or self.references.placed is None:
            return {}
        return supports(found.aligned, self.references.placed.aligned, found.rows, self.codes, names)

    # ---- naming ----------------------------------------------------------------------------------------------------

    def name(self, reads: Sequence[str | None]) -> Named:
        """Matches, names and quality of reads, without confidences."""
        spelling = [read or "" for read in spelled(pa.array(reads, pa.string())).to_pylist()]
        refused = unusable(spelling)
        usable = np.flatnonzero([status is None for status in refused])
        some = pa.array([spelling[i] for i in usable], pa.large_string()).dictionary_encode()
        found = match(self.references, some.dictionary.to_pylist())
        if len(some.dictionary) < len(usable):  # equal reads are compared once
            found = found.take(some.indices.to_numpy().astype(np.int64))
        names = names_of(found, self.codes, self.count, self.named)
        least = self.calibration.least_identity if self.calibration else 0.0
        parents = parents_of(self.references, found, self.codes["genus"], self.records["processid"])
        quality = judged(spelling, refused, usable, found, self.references, self.frame, least, parents)
        self.references.release()
        return Named(len(reads), usable, found, names, self.evidence(found, names), quality)

    def identify(
        self,
        reads: Any,
        ids: Any = None,
        *,
        least: float = 0.95,
        novel_share: float | None = None,
        neighbours: int = 0,
        progress: Progress = silent,
    ) -> pa.Table:
        """Names reads; returns the table of `answers.answered`.

        Args:
            reads, ids: As of `base.reads_table`: a list or column of sequences, or a table with them, and their names.
            least: Smallest confidence of the name in the column `name`.
            novel_share: Share of reads whose species is not among the references; estimated from them by default.
            neighbours: Number of nearest references in a column `neighbours`, see `report.write_report`.

        Raises:
            TypeError, ValueError: as `base.reads_table`; for a share outside [0, 1].
        """
        check_shares(least, novel_share)
        asked = reads_table(reads, ids)
        return answered(self, self.described([asked], neighbours, progress, len(asked)), least, novel_share)

    def identify_batches(
        self,
        batches: Iterable[pa.Table],
        *,
        least: float = 0.95,
        novel_share: float | None = None,
        neighbours: int = 0,
        progress: Progress = silent,
        total: int | None = None,
    ) -> Iterator[pa.Table]:
        """Names the reads of several tables in turn, in bounded memory.

        How sure a name is depends on all reads, so what was found waits in a temporary file for the last of them.

        Args:
            batches: Tables as of `identify`.
            total: Number of reads, for the progress.
            least, novel_share, neighbours, progress: As of `identify`.

        Raises:
            ValueError: for a share outside [0, 1].
        """
        check_shares(least, novel_share)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "described.arrow"
            shares = shares_of(self, stored(self.described(batches, neighbours, progress, total), file), novel_share)
            yield from (finished(self, table, shares, least) for table in restored(file))

    def described(
        self, batches: Iterable[pa.Table], neighbours: int, progress: Progress = silent, total: int | None = None
    ) -> Iterator[pa.Table]:
        """`answers.described` for the reads of tables, in their order; of `_WINDOW` reads, equal ones are named once.

        Each thread of torch names a block. Many references, which would be in memory for each, are searched by one.
        """
        threads = torch.get_num_threads()
        workers = threads if self.references.cells is None else 1
        windows: deque[tuple[pa.ChunkedArray, pa.Array, int]] = deque()

        def blocks() -> Iterator[pa.Array]:
            for window in _windows(batches):
                reads = pc.fill_null(spelled(window["dna_barcode"]), "").combine_chunks().dictionary_encode()
                most, least = (-(-len(reads.dictionary) // size) for size in (_LEAST_AT_ONCE, _READS_AT_ONCE))
                number = max(least, min(workers, most), 1)
                windows.append((window["processid"], reads.indices, number))
                bounds = np.linspace(0, len(reads.dictionary), number + 1).astype(int).tolist()
                yield from (reads.dictionary.slice(low, high - low) for low, high in pairwise(bounds))

        done, parts = 0, []
        for part in ahead(partial(self._described, neighbours=neighbours), blocks(), workers):
            parts.append(part)
            ids, places, number = windows[0]
            progress("reads", done + len(ids) * len(parts) // number, total)
            if len(parts) == number:
                yield pa.concat_tables(parts).take(places).set_column(0, "id", ids.cast(pa.string()).combine_chunks())
                done += len(ids)
                parts.clear()
                windows.popleft()

    def _described(self, reads: pa.Array, neighbours: int) -> pa.Table:
        return described(self, self.name(reads.to_pylist()), [""] * len(reads), neighbours)

    def audit(self) -> pa.Table:
        """Suspicious references, one row per finding, see `audit.audited`."""
        return audited(self.records, self.codes, self.taxa, self.references, self.frame, self.info.get("turned", {}))


def _sample(aligned: Codes | Packed, most: int = 50_000) -> Codes:
    """At most `most` of aligned references, evenly spread."""
    return aligned[np.linspace(0, len(aligned) - 1, min(len(aligned), most)).astype(np.int64)]


def _windows(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Tables joined or cut to about `_WINDOW` rows."""
    waiting: list[pa.Table] = []
    done = 0
    for part in [tables] if isinstance(tables, pa.Table) else tables:
        table = reads_table(part, first=done + 1)
        done += len(table)
        for start in range(0, max(len(table), 1), _WINDOW):
            waiting.append(table.slice(start, _WINDOW))
            if sum(map(len, waiting)) >= _WINDOW:
                yield pa.concat_tables(waiting, promote_options="permissive")
                waiting = []
    if waiting:
        yield pa.concat_tables(waiting, promote_options="permissive")


def _region(model: str | None) -> Region | None:
    """The region of a fitted aligned encoder; None for another encoder."""
    if model is None or ":" in model:
        return None
    from transformers import AutoConfig

    from ..models import register  # noqa: F401  (our classes for AutoConfig)

    try:
        kind = None if is_missing_path(model) else AutoConfig.from_pretrained(model).model_type
    except OSError:  # of which `load_encoder` tells
        return None
    if kind != "alignedbarcode":
        return None
    from ..models.modeling_alignedbarcode import AlignedBarcodeModel

    return Region(AlignedBarcodeModel.from_pretrained(model))


def _encoder(model: str | None) -> Callable[[Sequence[str]], NDArray[np.float32]] | None:
    """Vectors of reads by an encoder of `load_encoder`, None for the default."""
    if model is None or _region(model) is not None:
        return None
    from ..encoders.barcode_encoders import load_encoder
    from ..encoders.batches import embed_barcodes

    encoder, processor = load_encoder(model)
    encoder.eval()

    def vectors(reads: Sequence[str]) -> NDArray[np.float32]:
        with torch.inference_mode():  # of each thread its own
            return embed_barcodes(encoder, processor, list(reads) or ["ACGT" * 50], batch_size=256)[0][: len(reads)]

    return vectors
