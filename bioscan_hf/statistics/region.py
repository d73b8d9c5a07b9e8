"""Places of barcodes in a common region, on either strand, without an alignment.

Each barcode is shifted along a typical one, and the shift with the greatest correlation of letters is its place; one
Fourier transform gives the correlations of all shifts. Shape letters: n = barcodes, F = length of the transforms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..barcodes import complement

#: Barcodes that are tried as the typical one, and others that each of them is compared with.
CANDIDATES, OTHERS = 16, 64

#: A barcode is turned if its correlation is then so many times as great (of another region, both are about equal), and
#: at least so great for each letter; equal barcodes have about 0.7.
CLEARLY, LEAST = 2, 0.3

#: Letters of a sequence that are compared, on each strand from its beginning.
LONGEST = 4096

_BLOCK = 128


class Placed(NamedTuple):
    """Barcodes on one strand, and where they begin.

    Attributes:
        barcodes: All on the strand of most of them.
        turned: Which were on the other strand (n,).
        starts: First nucleotide of each, counted from a common one (n,).
    """

    barcodes: list[str]
    turned: NDArray[np.bool_]
    starts: NDArray[np.int64]


def placed(barcodes: Sequence[str]) -> Placed:
    """Turns barcodes to the strand of most of them, and finds where they begin."""
    lengths = np.array([len(barcode) for barcode in barcodes])
    typical = np.flatnonzero(lengths >= np.median(lengths))
    tried = [barcodes[i] for i in _spread(typical, CANDIDATES)]
    others = [barcodes[i] for i in _spread(np.arange(len(barcodes)), OTHERS)]
    best = max(tried, key=lambda one: float(_compared(others, one)[1].max(axis=1).sum()))
    shifts, alike = _compared(barcodes, best)
    turned = alike[:, 1] > np.maximum(CLEARLY * alike[:, 0], LEAST * lengths.clip(max=LONGEST))
    starts = np.where(turned, shifts[:, 1], shifts[:, 0])
    if 2 * turned.sum() > len(turned):  # the typical one is itself on the strand of the fewer
        turned, starts = ~turned, len(best) - starts - lengths
    found = [complement(one) if turn else one for one, turn in zip(barcodes, turned, strict=True)]
    return Placed(found, turned, starts)


def _spread(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    return rows[np.unique(np.linspace(0, len(rows) - 1, most).round().astype(np.int64))]


def _compared(barcodes: Sequence[str], reference: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Best shift (n, 2) of each barcode as it is and turned, and its correlation (n, 2).

    Of equally good shifts, the shortest.
    """
    reference, longest = reference[:LONGEST], min(LONGEST, max(map(len, barcodes)))
    size = 1 << (len(reference) + longest - 1).bit_length()
    key = np.conj(np.fft.rfft(_letters([reference], size)))
    away = np.fft.fftfreq(size, 1 / size).round().astype(np.int64)  # shift of the reference along the barcode
    both = (barcodes, [complement(one) for one in barcodes])
    shifts, alike = np.empty((len(barcodes), 2), np.int64), np.empty((len(barcodes), 2))
    for strand, texts in enumerate(both):
        for part in _blocks(len(texts)):
            values = np.fft.irfft(
                (np.fft.rfft(_letters([text[:longest] for text in texts[part]], size)) * key).sum(axis=1), size
            )
            place = (values - 1e-6 * np.abs(away)).argmax(axis=1)
            shifts[part, strand] = -away[place]
            alike[part, strand] = np.take_along_axis(values, place[:, None], 1)[:, 0]
    return shifts, alike


def _letters(barcodes: Sequence[str], size: int) -> NDArray[np.float64]:
    """Places of A, C, G and T (n, 4, F), minus their shares: overlaps of unrelated letters then gain nothing."""
    found = np.zeros((len(barcodes), 4, size))
    for row, barcode in enumerate(barcodes):
        text = np.frombuffer(barcode.encode(), np.uint8)
        for channel, letter in enumerate(b"ACGT"):
            found[row, channel, : len(text)] = (text == letter) - (text == letter).mean()
    return found


def _blocks(count: int) -> Iterator[slice]:
    return (slice(start, start + _BLOCK) for start in range(0, count, _BLOCK))
