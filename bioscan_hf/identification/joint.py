"""`JointLibrary`: names by the sequence and the photo of one specimen together.

Rank by rank, within the taxon of the rank above, the probabilities of both are multiplied and the shares that were
expected before are divided out once, as for independent evidence. Both err towards near relatives, though, so that
two equal names do not rule out an unknown relative: the surer both are, the less their agreement counts. Where
one of the two is missing, the answer is that of the other.
Shape letters: n = specimens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..progress import Progress, silent
from ..schema import RANKS
from .answers import answered, confidences_of, present_of, shares_of
from .base import Library, check_shares, reads_table
from .calibration import place_of
from .embeddings import EmbeddingLibrary
from .library import ReferenceLibrary
from .photos import Specimens
from .quality import UNNAMED

#: Names that differ although both are at least as sure as this are told.
SURE = 0.95

_LEAST = 1e-6


@dataclass
class Side:
    """Answers of one library for n specimens.

    Attributes:
        library: The library.
        table: Its answers.
        named: Specimens with names and confidences (n,).
        names: Rank -> names (n,), None where there is none.
        sure: Rank -> confidences (n,).
        present: Rank -> probability that the taxon is among the references (n,).
        prior: Rank -> the same before the evidence.
    """

    library: Library
    table: pa.Table
    named: NDArray[np.bool_]
    names: dict[str, list[str | None]]
    sure: dict[str, NDArray[np.float64]]
    present: dict[str, NDArray[np.float64]]
    prior: dict[str, float]

    @classmethod
    def of(cls, library: Library, description: pa.Table, table: pa.Table, novel_share: float | None) -> Side:
        """From a library, its `answers.described`, and its answers."""
        named = np.array([status not in UNNAMED for status in table["status"].to_pylist()], np.bool_)
        shares = shares_of(library, [description], novel_share)
        side = cls(library, table, named & (shares is not None), {}, {}, {}, {})
        if shares is None:
            return side
        confidence, levels = confidences_of(library, description, shares), present_of(description, shares)
        for rank in library.ranks:
            place = 1 + place_of(rank)
            side.names[rank] = table[rank].to_pylist()
            side.sure[rank], side.present[rank] = confidence[rank], levels[:, :place].sum(1)
            side.prior[rank] = float(shares.levels[:place].sum())
        return side


@dataclass
class _View:
    """What one side says of a specimen at a rank.

    Attributes:
        name: The name.
        children: Taxa of the side at this rank, within the taxon above.
        right, other, new: Probability of the name, of all other taxa together, and of one without a reference.
        known: Probability of a taxon with references before the evidence.
    """

    name: str
    children: set[str]
    right: float
    other: float
    new: float
    known: float

    def ratio(self, name: str) -> float:
        """Probability over prior of a name."""
        if name == self.name:
            return self.right / self.known
        return self.other / self.known if name in self.children else self.unknown

    @property
    def unknown(self) -> float:
        """Probability over prior of a taxon without a reference."""
        return self.new / (1 - self.known) if self.known < 1 - _LEAST else 1.0

    def skill(self, count: int) -> float:
        """How much likelier than by chance the name is, of `count` taxa: 0 to 1."""
        return max(self.right / (self.right + self.other) - 1 / count, 0.0) / (1 - 1 / count)


class JointLibrary:
    """Names specimens by sequence and photo, with a library of each.

    Attributes:
        sequences: Names sequences.
        photos: Names photos.
    """

    def __init__(self, sequences: ReferenceLibrary, photos: EmbeddingLibrary) -> None:
        self.sequences, self.photos = sequences, photos
        self._children: dict[tuple[str, str | None], dict[str | None, tuple[set[str], set[str]]]] = {}

    def __len__(self) -> int:
        return len(self.sequences) + len(self.photos)

    @property
    def ranks(self) -> list[str]:
        """Ranks with names, the highest first."""
        return [rank for rank in RANKS if rank in self.sequences.ranks or rank in self.photos.ranks]

    def identify(
        self,
        specimens: Specimens,
        *,
        least: float = 0.95,
        novel_share: float | None = None,
        progress: Progress = silent,
    ) -> pa.Table:
        """Names specimens by their sequences and photos.

        The table is that of `answers.answered`. The columns nearest, identity and those beside them are of the
        sequence; `photo_status`, `photo_nearest` and `similarity` are of the photo; `evidence` says what the name
        rests on.

        Args:
            specimens: Of `photos.read_specimens`.
            least, novel_share, progress: As of `ReferenceLibrary.identify`.

        Raises:
            ValueError: as of `ReferenceLibrary.identify` and `EmbeddingLibrary.identify`.
        """
        ids, n = specimens.ids, len(specimens)
        reads = specimens.reads if specimens.reads is not None else pa.chunked_array([pa.nulls(n, pa.string())])
        photos = specimens.photos if specimens.photos is not None else [None] * n
        check_shares(least, novel_share)
        asked = reads_table(reads, ids)
        texts = pa.concat_tables(self.sequences.described([asked], 0, progress, n))
        images = self.photos.described(photos, ids, progress)
        named = answered(self.sequences, [texts], least, novel_share)
        seen = self.photos.table([images], least, novel_share)
        sides = (
            Side.of(self.sequences, texts, named, novel_share),
            Side.of(self.photos, images, seen, novel_share),
        )
        return self._table(sides, least)

    # ---- the table -------------------------------------------------------------------------------------------------

    def _table(self, sides: tuple[Side, Side], least: float) -> pa.Table:
        texts, images = (side.table.to_pylist() for side in sides)
        rows = []
        for i, (text, image) in enumerate(zip(texts, images, strict=True)):
            row = {name: value for name, value in text.items() if name not in ("name", "rank", "confidence")}
            own: dict[str, Any] = {"photo_status": image["status"], "evidence": ""}
            own |= {"photo_nearest": image["nearest"], "similarity": image["similarity"]}
            if sides[0].named[i] and sides[1].named[i]:
                row |= self._both(sides, i) | {"note": _note(sides, i, text["note"])}
                own["evidence"] = "sequence and photo"
            elif text["status"] not in UNNAMED:
                own["evidence"] = "sequence"
            elif image["status"] not in UNNAMED:
                row |= {name: image[name] for name in image if name in self.ranks or name.endswith("_confidence")}
                row |= {name: image.get(name) for name in ("species_new", "genus_new", "bin")}
                note = f"named by the photo alone: {text['note']}"
                row |= {"status": image["status"], "note": note}
                own["evidence"] = "photo"
            elif text["status"] == "empty" and image["status"] != "no_photo":
                row |= {"status": image["status"], "note": image["note"]}
            rows.append(row | own)
        return self._columns(rows, sides, least)

    def _columns(self, rows: list[dict[str, Any]], sides: tuple[Side, Side], least: float) -> pa.Table:
        """The rows as a table in the order of `answers.answered`, with the deepest sure name."""
        named = [name for rank in self.ranks for name in (rank, f"{rank}_confidence")]
        rest = [name for name in sides[0].table.column_names if name not in ("id", "status", "note", *named)]
        rest = [name for name in rest if name not in ("name", "rank", "confidence")]
        types = {field.name: field.type for side in sides for field in reversed(side.table.schema)}
        for row in rows:
            row |= {"name": None, "rank": None, "confidence": None}
            for rank in self.ranks:
                sure = row.get(f"{rank}_confidence")
                if sure is not None and sure >= least:
                    row |= {"name": row[rank], "rank": rank, "confidence": sure}
        order = ["id", "status", "name", "rank", "confidence", *named, *rest]
        order += ["evidence", "photo_status", "photo_nearest", "similarity", "note"]
        columns = {
            name: pa.array([row.get(name) for row in rows], types.get(name, pa.string()))
            for name in dict.fromkeys(order)
        }
        metadata = sides[0].table.schema.metadata if sides[0].named.any() else sides[1].table.schema.metadata
        return pa.table(columns).replace_schema_metadata(metadata)

    # ---- both ------------------------------------------------------------------------------------------------------

    def _both(self, sides: tuple[Side, Side], i: int) -> dict[str, Any]:
        """Names, confidences and novelty of a specimen by both sides."""
        row: dict[str, Any] = {}
        sure, novel, on = 1.0, 0.0, [True, True]
        above: tuple[str | None, str | None] = (None, None)
        pending: list[str] = []
        for rank in self.ranks:
            here = [
                side.names.get(rank, ())[i] if on[m] and rank in side.names else None for m, side in enumerate(sides)
            ]
            candidates = list(dict.fromkeys(name for name in here if name is not None))
            row |= {rank: None, f"{rank}_confidence": None}
            if not candidates:
                continue
            children = self._of(rank, *above)
            if len(children[0] | children[1]) < 2 and above == (None, None):
                row[rank] = candidates[0]  # nothing is learned of a rank with one taxon: at least that of the next
                pending.append(rank)
                continue
            views: list[_View | None] = [None, None]
            for m, (side, name) in enumerate(zip(sides, here, strict=True)):
                if name is not None:
                    views[m] = _view(side, rank, i, name, children[m])
            best, share, new = _product(views, candidates, children[0] | children[1])
            sure, novel = min(sure, share), max(novel, new)
            row |= {rank: best, f"{rank}_confidence": sure}
            row |= {f"{name}_confidence": sure for name in pending}
            pending = []
            row |= {f"{rank}_new": novel} if rank in ("genus", "species") else {}
            on = [on[m] and name in (None, best) for m, name in enumerate(here)]
            above = (rank, best)
        return row

    def _of(self, rank: str, above: str | None, parent: str | None) -> tuple[set[str], set[str]]:
        """Names at a rank below a taxon, of each library."""
        if (rank, above) not in self._children:
            found: dict[str | None, tuple[set[str], set[str]]] = {}
            for m, library in enumerate((self.sequences, self.photos)):
                names = library.records[rank].to_pylist()
                parents = [None] * len(names) if above is None else library.records[above].to_pylist()
                for pair in set(zip(parents, names, strict=True)):
                    if pair[1] is not None:
                        found.setdefault(pair[0], (set(), set()))[m].add(pair[1])
            self._children[rank, above] = found
        return self._children[rank, above].get(parent, (set(), set()))


def _view(side: Side, rank: str, i: int, name: str, children: set[str]) -> _View:
    """What a side says of a specimen at a rank."""
    right, new = float(side.sure[rank][i]), 1 - float(side.present[rank][i])
    parts = np.array([right, max(1 - right - new, 0.0), new]).clip(_LEAST)
    right, other, new = (parts / parts.sum()).tolist()
    return _View(name, children, right, other, new, side.prior[rank])


def _product(views: Sequence[_View | None], candidates: Sequence[str], children: set[str]) -> tuple[str, float, float]:
    """The likelier candidate, its probability, and that of a new taxon."""
    there = [view for view in views if view is not None]
    known, count, alike = there[0].known, max(len(children), 2), 1.0
    if len(there) == 2 and len(candidates) == 1:
        alike = 1 / count + (1 - 1 / count) * there[0].skill(count) * there[1].skill(count)
    weights = {name: known * math.prod(view.ratio(name) for view in there) for name in candidates}
    others = known * alike * math.prod(view.other / view.known for view in there)
    new = (1 - known) * alike * math.prod(view.unknown for view in there)
    best = max(weights, key=lambda name: weights[name])
    total = sum(weights.values()) + others + new
    return best, weights[best] / total, new / total


def _note(sides: tuple[Side, Side], i: int, note: str) -> str:
    """The note of the sequence, and the highest rank at which both are sure of different names."""
    for rank in RANKS:
        if all(rank in side.sure for side in sides):
            names = [side.names[rank][i] for side in sides]
            sure = min(side.sure[rank][i] for side in sides)
            if None not in names and names[0] != names[1] and sure >= SURE:
                return (
                    f"{note + '; ' if note else ''}the photo is of the {rank} {names[1]}: perhaps they were mixed up"
                )
    return note
