"""Errors of sequencing added to barcodes, for tests of robustness.

Source: CLiBD-HiR, https://arxiv.org/abs/2603.25573, whose rates are the defaults. The errors of a barcode follow from
a seed and the barcode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .draws import draw_keys, uniform

_NUCLEOTIDES = np.frombuffer(b"ACGT", np.uint8)


@dataclass(frozen=True)
class DnaNoise:
    """Rates of errors, each in [0, 1].

    Args:
        substitutions: Probability that a nucleotide becomes another.
        unread: Probability that a letter becomes N.
        insertions: Probability that a random nucleotide is inserted behind a letter.
        deletions: Probability that a letter is deleted.
        lost_run: Share of the barcode, in one run at a random place, that becomes N.
        cut_end: Share of the barcode that is cut off at its end.

    Raises:
        ValueError: if a value is out of range.
    """

    substitutions: float = 0.01
    unread: float = 0.003
    insertions: float = 0.002
    deletions: float = 0.002
    lost_run: float = 0.05
    cut_end: float = 0.1

    def __post_init__(self) -> None:
        for field in fields(self):
            if not 0 <= getattr(self, field.name) <= 1:
                raise ValueError(f"{field.name} is {getattr(self, field.name)}. Give a number from 0 to 1.")

    @classmethod
    def conditions(cls) -> dict[str, DnaNoise]:
        """Name -> each kind of error alone, and "all" together."""
        none = cls(**{field.name: 0.0 for field in fields(cls)})
        alone = {field.name: replace(none, **{field.name: getattr(cls(), field.name)}) for field in fields(cls)}
        return alone | {"all": cls()}


def add_noise(barcodes: Sequence[str | None], noise: DnaNoise, seed: int = 123) -> list[str | None]:
    """Barcodes with errors. A non-empty barcode keeps a letter; None and "" stay."""
    texts = [barcode or "" for barcode in barcodes]
    keys = draw_keys(texts, seed, [0] * len(texts))
    return [_altered(text, keys[row : row + 1], noise) if text else barcodes[row] for row, text in enumerate(texts)]


def noisy_rows(data: Any, noise: DnaNoise, seed: int = 123) -> pa.Table:
    """The columns processid and dna_barcode of a map-style `datasets.Dataset`, with errors in the barcodes."""
    table = data.select_columns(["processid", "dna_barcode"]).with_format("arrow")[:]
    altered = pa.array(add_noise(table["dna_barcode"].to_pylist(), noise, seed), pa.string())
    return pa.table({"processid": table["processid"], "dna_barcode": altered})


def _altered(text: str, key: NDArray[np.uint64], noise: DnaNoise) -> str:
    """One barcode with the errors of its random stream, key (1,)."""
    letters = np.frombuffer(text.encode("latin-1", "replace"), np.uint8).copy()
    lots = uniform(key, 0, 4 * len(letters) + 1)[0]
    start, (change, lose, insert, delete) = lots[0], lots[1:].reshape(4, -1)
    changed = (change < noise.substitutions) & np.isin(letters, _NUCLEOTIDES)
    # A number below the rate, divided by the rate, is uniform in [0, 1) again.
    step = 1 + (3 * change[changed] / noise.substitutions).astype(np.int64) if changed.any() else 0
    letters[changed] = _NUCLEOTIDES[(np.searchsorted(_NUCLEOTIDES, letters[changed]) + step) % 4]
    letters[lose < noise.unread] = ord("N")
    behind = np.flatnonzero(insert < noise.insertions)
    kept = delete >= noise.deletions
    added = (4 * insert[behind] / noise.insertions).astype(np.int64) if len(behind) else behind
    places = np.cumsum(kept)[behind]  # after the deletions
    letters = np.insert(
        letters[kept] if kept.any() else letters[:1], np.minimum(places, kept.sum()), _NUCLEOTIDES[added]
    )
    run = round(noise.lost_run * len(letters))
    first = int(start * (len(letters) - run + 1))
    letters[first : first + run] = ord("N")
    return letters[: max(1, len(letters) - round(noise.cut_end * len(letters)))].tobytes().decode("latin-1")
