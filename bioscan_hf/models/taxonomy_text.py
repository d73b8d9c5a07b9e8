"""The taxonomy of a specimen as text for CLIBD's text encoder.

Uploaded beside the processor, so it imports nothing of this package; `RANKS` equals `schema.RANKS` (tested).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

RANKS = ("phylum", "class", "order", "family", "subfamily", "genus", "species")

NOT_CLASSIFIED = "not_classified"


def taxonomy_text(
    taxonomy: Mapping[str, str | None],
    ranks: Sequence[str] = ("order", "family", "genus", "species"),
    missing: str | None = NOT_CLASSIFIED,
) -> str:
    """The taxonomy of one specimen as a text for a language model: the names of `ranks`, separated by spaces.

    With the defaults it is the text of CLIBD (https://arxiv.org/abs/2405.17537), in which an unknown rank stands as
    "not_classified" and the genus occurs twice, since a species is named by both words.

    Args:
        taxonomy: Rank -> name; None and "" are unknown.
        missing: What stands for an unknown rank; None leaves the rank out.
    """
    for rank in ranks:
        if rank not in RANKS:
            raise ValueError(f"Unknown rank {rank!r}. The ranks are {', '.join(RANKS)}.")
    names = (taxonomy.get(rank) or missing for rank in ranks)
    return " ".join(name for name in names if name)
