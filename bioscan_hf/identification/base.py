"""`Library`: references with names, and the calibration of their confidences.

Shape letters: n = records asked about, N = records, C = candidates.
"""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..files import is_hub_id
from ..progress import Progress, silent
from ..schema import LABEL_COLUMNS, RANKS
from .calibration import BIN, LEVELS, Calibration, Evidence
from .learning import Asked, by_species, learn
from .names import Names, evidence_of, features, names_of
from .similarity import Matches
from .stored import AUDIT, is_library
from .tables import write_answers

#: Fewest named records for confidences that are learned from them alone.
FEWEST_NAMED = 20

#: Records named at once while confidences are learned.
_AT_ONCE = 512


class Library(ABC):
    """References with taxa, and the calibration of their confidences.

    Attributes:
        records: One row for each reference: processid, `LABEL_COLUMNS`, and `records`, the number of its records.
        calibration: None if too few records are named.
        info: Facts of the library: formats, notes, versions.
        count: Number of records of each reference (N,).
        codes: Rank -> place of its name in `taxa` (N,), -1 where it has none.
        taxa: Rank -> names in ascending order.
        sizes: Rank -> references of each of them.
    """

    def __init__(self, records: pa.Table, calibration: Calibration | None, info: dict[str, Any]) -> None:
        self.records, self.calibration, self.info = records, calibration, info
        self.count = records["records"].to_numpy()
        self.codes: dict[str, NDArray[np.int64]] = {}
        self.taxa: dict[str, list[str]] = {}
        self.sizes: dict[str, NDArray[np.int64]] = {}
        for rank in LABEL_COLUMNS:
            column = records[rank].combine_chunks()
            column = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
            names = column.dictionary.to_pylist()
            order = sorted((place for place, name in enumerate(names) if name is not None), key=names.__getitem__)
            code = np.full(len(names) + 1, -1)  # the last is for records without a name
            code[order] = range(len(order))
            self.codes[rank] = code[pc.fill_null(column.indices, len(names)).to_numpy(zero_copy_only=False)]
            self.taxa[rank] = [names[place] for place in order]
            self.sizes[rank] = np.bincount(self.codes[rank][self.codes[rank] >= 0], minlength=max(len(order), 1))

    def __len__(self) -> int:
        return int(self.count.sum())

    @property
    def ranks(self) -> list[str]:
        """Ranks with names, the highest first."""
        return [rank for rank in RANKS if self.taxa[rank]]

    @property
    def named(self) -> list[str]:
        """The ranks, and "dna_bin" if references have BINs."""
        return [*self.ranks, BIN] if self.taxa[BIN] else self.ranks

    @abstractmethod
    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the library to a folder."""

    def push_to_hub(
        self,
        repo_id: str,
        *,
        license: str,
        private: bool = False,
        revision: str | None = None,
        token: str | None = None,
    ) -> str:
        """Uploads the library and a card to a dataset repository; returns the URL of the commit.

        Args:
            repo_id: "user/name"; the repository is created if it does not exist.
            license: Id of the licence of the references on the Hub, such as "cc-by-4.0".
            private: Whether a new repository is private.
            revision: Branch, created if it does not exist; "main" by default.
            token: Token of an account that may write there; by default that of `hf auth login`.

        Raises:
            ConnectionError, PermissionError: if the Hub cannot be reached, or refuses.
        """
        from .publish import push_folder

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            if (audit := getattr(self, "audit", None)) is not None:  # of sequences
                write_answers(audit(), Path(folder) / AUDIT)
            return push_folder(folder, repo_id, license=license, private=private, revision=revision, token=token)

    # ---- confidences -----------------------------------------------------------------------------------------------

    @abstractmethod
    def _without(
        self, rows: NDArray[np.int64], level: NDArray[np.int64], rng: np.random.Generator
    ) -> tuple[Matches, dict[str, NDArray[np.bool_]]]:
        """Matches of records among those that remain, and rank -> whether their taxon is among these (n,).

        Args:
            level: Level whose taxon is left out, -1 for the record alone (n,).
        """

    def evidence(self, found: Matches, names: Names, own: NDArray[np.int64] | None = None) -> Evidence:
        """Features of matches for the confidences, see `evidence_of`."""
        common, support = self.features(found), self.support(found, names)
        return evidence_of(found, names, self.codes, self.sizes, common, support, own)

    def features(self, found: Matches) -> list[NDArray[np.float64]]:
        """Features (n,) of matches that count at every rank."""
        return features(found)

    def support(self, found: Matches, names: Names) -> dict[str, NDArray[np.float64]]:
        """Rank -> share of samples of positions in which the name wins (n,); empty without alignments."""
        return {}

    def calibrate(
        self, number: int, rng: np.random.Generator, progress: Progress, can: NDArray[np.bool_] | None = None
    ) -> Calibration | None:
        """Names records by the others, see `calibration`; None if too few are named.

        Arguments as of `asked`.
        """
        prior = self.prior()
        asked = self.asked(number, rng, progress, can, FEWEST_NAMED if prior is None else 2)
        return None if asked is None else learn(asked, prior)

    def prior(self) -> Asked | None:
        """What other libraries taught, for questions about which these records teach too little."""
        return None

    def asked(
        self,
        number: int,
        rng: np.random.Generator,
        progress: Progress = silent,
        can: NDArray[np.bool_] | None = None,
        fewest: int = 2,
    ) -> Asked | None:
        """Names records by the others; None if fewer than `fewest` are named.

        Args:
            number: Records asked about for each level.
            can: Records that can be asked about (N,); all by default.
        """
        species = self.codes["species"] if self.taxa["species"] else self.codes["genus"]
        species = species if can is None else np.where(can, species, -1)
        if (species >= 0).sum() < fewest:
            return None
        levels = [-1, *(place for place, rank in enumerate(LEVELS) if len(self.taxa[rank]) > 1)]
        asked = by_species(species, number, rng)
        rows = np.concatenate([asked] * len(levels))
        without = np.repeat(levels, len(asked))
        parts, known, bins = [], [], []
        for start in range(0, len(rows), _AT_ONCE):
            own, level = rows[start : start + _AT_ONCE], without[start : start + _AT_ONCE]
            found, there = self._without(own, level, rng)
            names = names_of(found, self.codes, self.count, self.named)
            left_out = np.where((level >= 0) | (self.count[own] == 1), own, -1)
            evidence = self.evidence(found, names, left_out)
            parts.append((found.identity[:, 0], evidence, self._right(own, names, there)))
            known.append(_lowest(there))
            bins.append(np.where((level <= 0) & (self.codes[BIN][own] >= 0), there[BIN], -1))
            progress("calibration", min(start + _AT_ONCE, len(rows)), len(rows))
        evidence = joined_evidence([evidence for _, evidence, _ in parts], self.named)
        right = {
            rank: np.concatenate([r[rank] for _, _, r in parts]) for rank in self.named if len(self.taxa[rank]) > 1
        }
        identity = np.concatenate([i for i, _, _ in parts]).astype(np.float64)
        weight, families = self._weights(rows, without), self.codes["family"][rows]
        return Asked(evidence, np.concatenate(known), right, weight, identity, np.concatenate(bins), families)

    def _weights(self, rows: NDArray[np.int64], without: NDArray[np.int64]) -> NDArray[np.float64]:
        """Weights (n,) by which each taxon that is left out counts once, and each level the same."""
        weight = np.ones(len(rows))
        for place, rank in enumerate(LEVELS):
            here = without == place
            codes = self.codes[rank][rows[here]]
            own = 1 / np.bincount(codes + 1)[codes + 1]
            weight[here] = own * (here.sum() / max(own.sum(), 1e-9))
        return weight

    def _right(
        self, rows: NDArray[np.int64], names: Names, there: Mapping[str, NDArray[np.bool_]]
    ) -> dict[str, NDArray[np.int64]]:
        """Rank -> whether names are right (n,): 1, 0, or -1 if the taxon is not there."""
        found = {}
        for rank in self.named:
            right = (names.codes[rank] == self.codes[rank][rows]).astype(np.int64)
            found[rank] = np.where(there[rank] & (names.codes[rank] >= 0), right, -1)
        return found


def _lowest(there: Mapping[str, NDArray[np.bool_]]) -> NDArray[np.int64]:
    """The lowest level whose taxon remains (n,); the number of levels if none does."""
    found = np.full(len(there[LEVELS[0]]), len(LEVELS))
    for place in reversed(range(len(LEVELS))):
        found[there[LEVELS[place]]] = place
    return found


def joined_evidence(parts: Sequence[Evidence], ranks: Sequence[str]) -> Evidence:
    """Evidence of all parts, one after the other."""
    return Evidence(
        np.concatenate([part.known for part in parts]),
        {rank: np.concatenate([part.ranks[rank] for part in parts]) for rank in ranks},
    )


def folder_of(source: str | Path, **options: Any) -> Path:
    """The folder of a library, which is fetched if `source` is an id on the Hub; options as of `publish.fetch`."""
    if Path(source).is_dir() or not is_hub_id(str(source)):
        return Path(source)
    from .publish import fetch  # imports the client of the Hub, which takes longer than opening a folder

    return fetch(str(source), **options)


def reads_table(reads: Any, ids: Any = None, first: int = 1) -> pa.Table:
    """Table of `processid` and `dna_barcode` of reads in any usual form, null where a read is missing.

    Args:
        reads: A list, generator, array or column of sequences; or a table with the column `dna_barcode`, and
            `processid` if no ids are given: of Arrow, pandas, polars or a `datasets.Dataset`.
        ids: Names of the reads; their numbers from `first` on by default.

    Raises:
        TypeError: for one text, a dict or a set, and a sequence that is not a text.
        ValueError: for a table without the column, and other numbers of ids than of reads.
    """
    if hasattr(reads, "column_names") or hasattr(reads, "columns"):
        names = list(reads.column_names if hasattr(reads, "column_names") else reads.columns)
        if "dna_barcode" not in names:
            raise ValueError(
                f"The table of reads has no column 'dna_barcode'; it has {', '.join(map(str, names))}. Rename one."
            )
        wanted = [name for name in ("processid", "dna_barcode") if name in names]
        if hasattr(reads, "with_format"):
            table = reads.select_columns(wanted).with_format("arrow")[:]
        else:
            table = pa.table(reads.select(wanted) if hasattr(reads, "column_names") else reads[wanted])
        texts = table["dna_barcode"]
        ids = table["processid"] if ids is None and "processid" in wanted else ids
    else:
        texts = _texts(reads)
    return pa.table({"processid": ids_of(ids, len(texts), first), "dna_barcode": texts})


def files_of(files: Any, *, finished: bool = False) -> list[str]:
    """Files of references as a list.

    Args:
        finished: Whether a finished library may be among them.

    Raises:
        TypeError: for a table in memory.
        ValueError: for an empty list, a file that is given twice, and a finished library.
    """
    if hasattr(files, "column_names") or hasattr(files, "columns"):
        raise TypeError(f"References are files, but a {type(files).__name__} was given: write it to a CSV.")
    found = [str(files)] if isinstance(files, str | Path) else list(map(str, files))
    if not found:
        raise ValueError("No file of references was given. Give one or more.")
    places = [Path(file).resolve() for file in found]
    if twice := next((file for file, place in zip(found, places, strict=True) if places.count(place) > 1), None):
        raise ValueError(f"{twice!r} is given twice, so its records would count twice. Give each file once.")
    if not finished and (library := next(filter(is_library, found), None)):
        raise ValueError(f"{library!r} is a finished library, and stands alone. Give the files that it was made of.")
    return found


def _texts(values: Any) -> pa.Array | pa.ChunkedArray:
    """Texts of a list, generator, array, column or torch `Dataset`, null for None and NaN."""
    refuse_single(values, "read_sequences reads a file")
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values
    values = list(values) if hasattr(values, "__iter__") else [values[place] for place in range(len(values))]
    try:
        return pa.array(values, pa.string(), from_pandas=True)
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        wrong = next(one for one in values if not _is_text(one))
        raise TypeError(f"A barcode must be a string, but a {type(wrong).__name__} was given.") from None


def _is_text(value: Any) -> bool:
    """Whether a value is a text or missing."""
    try:
        pa.array([value], pa.string(), from_pandas=True)
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        return False
    return True


def refuse_single(values: Any, advice: str) -> None:
    """Raises TypeError for one value, such as a text whose letters would be taken, and what has no order."""
    several = hasattr(values, "__iter__") or hasattr(values, "__getitem__")
    if not several or isinstance(values, str | bytes | Path | Mapping | Set):
        raise TypeError(f"A list is needed, but a {type(values).__name__} was given: give [value]; {advice}.")


def ids_of(ids: Any, number: int, first: int = 1) -> pa.Array | pa.ChunkedArray:
    """Ids as texts, "" where one is missing; the numbers from `first` on by default.

    Raises:
        ValueError: if there are other than `number` ids.
    """
    column = range(first, first + number) if ids is None else ids
    if not isinstance(column, pa.Array | pa.ChunkedArray):
        values = list(column)
        try:
            column = pa.array(values, from_pandas=True)
        except (pa.ArrowInvalid, pa.ArrowTypeError):  # of several types
            column = pa.array(["" if one is None else str(one) for one in values])
    if len(column) != number:
        raise ValueError(f"There are {number:,} specimens and {len(column):,} ids.")
    return pc.fill_null(column.cast(pa.string()), "")


def check_shares(least: float, novel_share: float | None) -> None:
    """Raises ValueError for a share outside [0, 1]."""
    for what, value in (("least", least), ("novel_share", novel_share)):
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"{what} is {value}; give a share from 0 to 1.")
