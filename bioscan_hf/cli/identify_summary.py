"""What the command identify tells of its answers on the screen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from .command import Output, Result
from .options import plural

if TYPE_CHECKING:
    import pyarrow as pa

    from ..identification.base import Library

#: Answers that are shown.
SHOWN = 5

#: Below this number of sequences, the expected share of new species counts much.
FEW = 100


class Summary:
    """Numbers of the answers: by status, by deepest rank, and the share of new species; and the first answers."""

    def __init__(self, ranks: list[str]) -> None:
        self.ranks = ranks
        self.status: Counter[str] = Counter()
        self.deepest: Counter[str | None] = Counter()
        self.first: list[dict[str, Any]] = []
        self.metadata: dict[str, str] = {}

    def of(self, parts: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """The parts without nearest references, counted as they pass."""
        for part in parts:
            self.status.update(part["status"].to_pylist())
            self.deepest.update(part["rank"].to_pylist())
            self.first += part.slice(0, SHOWN - len(self.first)).to_pylist()
            self.metadata = {key.decode(): value.decode() for key, value in (part.schema.metadata or {}).items()}
            yield part.drop_columns("neighbours") if "neighbours" in part.column_names else part

    def result(self) -> Result:
        """The numbers."""
        result: Result = {
            "sequences": self.status.total(),
            "status": dict(self.status),
            "deepest_rank": {rank: self.deepest[rank] for rank in self.ranks},
        }
        if "novel_share" in self.metadata:
            result["novel_share"] = float(self.metadata["novel_share"])
        if "interval" in self.metadata:
            result["novel_share_interval"] = [float(part) for part in self.metadata["interval"].split(",")]
        return result


def show(summary: Summary, result: Result, library: Library, out: Output) -> None:
    """The first answers, the numbers by rank and by status, and what the library cannot tell."""
    if getattr(library, "calibration", library) is None:  # two joined libraries have one each
        out.say("The references are too few for confidences, so nothing has a name; see the column nearest.")
    for row in summary.first:
        name = f"{row['name']} ({row['rank']}, {row['confidence']:.1%})" if row["name"] else "no name"
        told = "" if row["status"] == "ok" else f" [{row['status']}]"
        alike = row["similarity"] if row.get("identity") is None and "similarity" in row else row.get("identity")
        near = "" if alike is None else f", nearest {row['nearest'] or row['photo_nearest']} at {alike:.1%}"
        out.say(f"  {row['id']}: {name}{near}{told}")
    total, what = result["sequences"], "sequence" if "strand" in summary.first[0] else "photo"
    lines = {f"to {rank}": count for rank, count in result["deepest_rank"].items()}
    lines["without a name"] = total - sum(lines.values())
    counts = (f"  {text:<16}{count:>9,}" for text, count in lines.items())
    out.say(f"{plural(total, what)}, by the deepest sure name:", *counts)
    others = {status: count for status, count in result["status"].items() if status != "ok"}
    if others:
        counts = (f"{count:,} {status}" for status, count in others.items())
        out.say(f"Statuses: {', '.join(counts)}; the column note explains.")
    if "novel_share" in result:
        told = f"Share of {what}s whose species has no reference: {result['novel_share']:.1%}"
        if "novel_share_interval" not in result:
            out.say(f"{told}, as given by --novel-share.")
            return
        low, high = result["novel_share_interval"]
        few = "; few reads, so the estimate is drawn to 50%" if total < FEW else ""
        out.say(f"{told} ({low:.1%} to {high:.1%}{few}); set it by --novel-share.")
