"""Spelling, digests and repeats of DNA barcodes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from .schema import MAX_NUCLEOTIDES

if TYPE_CHECKING:
    from datasets import Dataset

#: Bytes of the digest of a barcode.
DIGEST_BYTES = 16

#: IUPAC codes of several bases.
AMBIGUOUS = "RYSWKMBDHV"

#: Letters that become A, C, G, T or N: lower case, U, IUPAC codes and gaps.
SPELLING = str.maketrans("acgtuUn-" + AMBIGUOUS + AMBIGUOUS.lower(), "ACGTTTNN" + 2 * len(AMBIGUOUS) * "N")

_BLOCK = 10_000  # rows that are hashed at a time


def clean_barcodes(barcodes: Iterable[str]) -> list[str]:
    """Barcodes in the letters A, C, G, T and N.

    Letters become upper case, U becomes T, IUPAC codes and gaps become N; white space and trailing N are removed. The
    published systems read barcodes as they are; use this for sequences from elsewhere.

    Raises:
        ValueError: if a sequence holds any other character; the message names the first one.
    """
    cleaned = []
    for number, barcode in enumerate(barcodes, start=1):
        clean = "".join(barcode.split()).translate(SPELLING).rstrip("N")
        if wrong := re.search(r"[^ACGTN]", clean):
            raise ValueError(
                f"Sequence {number} ({barcode[:30]!r}...) is not DNA: it contains {wrong[0]!r}. "
                f"Allowed are A, C, G, T, U, the IUPAC codes, N and '-'."
            )
        cleaned.append(clean)
    return cleaned


def barcode_digest(barcode: str | None) -> bytes:
    """16 bytes, equal for equal barcodes; b"" for None and "". Trailing N does not count."""
    stripped = barcode.rstrip("N") if barcode else ""
    return hashlib.blake2b(stripped.encode(), digest_size=DIGEST_BYTES).digest() if stripped else b""


def barcode_digests(
    barcodes: pa.ChunkedArray | pa.Array, max_nucleotides: int | None = None
) -> npt.NDArray[np.bytes_]:
    """Digests (n,) of a column, dtype "S16": equal for equal barcodes, b"" where the barcode is missing.

    Args:
        max_nucleotides: Compares only so many nucleotides; None compares whole barcodes.
    """
    if max_nucleotides is not None:
        barcodes = pc.utf8_slice_codeunits(barcodes, 0, max_nucleotides)
    return np.array([barcode_digest(barcode) for barcode in barcodes.to_pylist()], dtype=f"S{DIGEST_BYTES}")


def first_of_each_barcode(data: Dataset) -> npt.NDArray[np.int64]:
    """Positions (m,) of the first row of each barcode, ascending.

    Trailing N does not count; rows without a barcode are left out.
    """
    digests = _digests_of(data, barcode_digests)
    rows = np.flatnonzero(digests != b"")
    return np.sort(rows[np.unique(digests[rows], return_index=True)[1]]).astype(np.int64)


def published_unique_barcodes(
    data: Dataset | pa.Table, max_nucleotides: int | None = MAX_NUCLEOTIDES
) -> npt.NDArray[np.int64]:
    """Positions (m,), ascending, of the rows that `bioscan-dataset` keeps with `reduce_repeated_barcodes=True`.

    Its rule: shuffle all rows of the metadata with seed 0, keep the first of each barcode (compared after cutting to
    `max_nucleotides` and without trailing N), and restore the order. The draw depends on the position of a row in the
    whole CSV, so `data` must hold all its rows in its order (see `published_unique_ids`). Missing barcodes count as
    one barcode, and barcodes of N only as another. `first_of_each_barcode` needs only the rows of one split.

    Args:
        data: Has the column `dna_barcode`.
    """
    return kept_by_shuffle(_digests_of(data, partial(published_digests, max_nucleotides=max_nucleotides)))


def published_digests(barcodes: pa.ChunkedArray | pa.Array, max_nucleotides: int | None) -> npt.NDArray[np.bytes_]:
    """Digests (n,) by which `bioscan-dataset` compares barcodes: those of N only differ from missing ones."""
    digests = barcode_digests(barcodes, max_nucleotides)
    present = pc.is_valid(barcodes).to_numpy(zero_copy_only=False)
    digests[present & (digests == b"")] = b"N"
    return digests


def kept_by_shuffle(digests: npt.NDArray[np.bytes_]) -> npt.NDArray[np.int64]:
    """Positions of the first of each digest after the published shuffle, ascending."""
    # numpy's legacy generator never changes, and pandas' sample(frac=1, random_state=0) is its permutation.
    shuffled = np.random.RandomState(0).permutation(len(digests))
    first = np.unique(digests[shuffled], return_index=True)[1]
    return np.sort(shuffled[first]).astype(np.int64)


def _digests_of(
    data: Dataset | pa.Table, digests: Callable[[pa.ChunkedArray | pa.Array], npt.NDArray[np.bytes_]]
) -> npt.NDArray[np.bytes_]:
    if isinstance(data, pa.Table):
        blocks: Iterable[pa.Table | pa.RecordBatch] = data.select(["dna_barcode"]).to_batches(_BLOCK)
    else:
        blocks = data.select_columns("dna_barcode").with_format("arrow").iter(_BLOCK)
    found = [digests(block["dna_barcode"]) for block in blocks]
    return np.concatenate(found) if found else np.empty(0, f"S{DIGEST_BYTES}")
