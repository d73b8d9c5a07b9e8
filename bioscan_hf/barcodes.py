"""Spelling, digests and repeats of DNA barcodes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from functools import partial
from string import ascii_lowercase, ascii_uppercase
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from .schema import MAX_NUCLEOTIDES, MISSING_TAXA

if TYPE_CHECKING:
    from datasets import Dataset

#: Bytes of the digest of a barcode.
DIGEST_BYTES = 16

#: IUPAC codes of several bases.
AMBIGUOUS = "RYSWKMBDHV"

#: Letters of a barcode in its one spelling.
LETTERS = "ACGTN" + AMBIGUOUS

#: Letters that are removed besides white space: gaps of an alignment.
GAPS = "-."

#: IUPAC codes -> N.
TO_N = str.maketrans(dict.fromkeys(AMBIGUOUS, "N"))

_COMPLEMENT = str.maketrans("ACGTRYSWKMBDHVN", "TGCAYRSWMKVHDBN")
_SPELLING = str.maketrans(ascii_lowercase + "U", ascii_uppercase.replace("U", "T") + "T", GAPS)
_LONGEST_MARKER = max(len(marker) for marker in MISSING_TAXA if not set(marker.upper()) - set(LETTERS))
_BLOCK = 10_000  # rows that are hashed at a time


def spell(barcode: str | None) -> str | None:
    """A barcode in its one spelling: upper case, T for U, without gaps and white space. None if it is missing.

    Missing are None, "" and the markers of missing values, such as "NA" and "n". IUPAC codes and N stay, also at the
    ends; other letters stay as they are.

    Example:
        >>> spell("acgu-acg t"), spell("None")
        ('ACGTACGT', None)
    """
    if barcode is None or barcode.strip().lower() in MISSING_TAXA:
        return None
    spelling = "".join(barcode.split()).translate(_SPELLING)
    return None if spelling.lower() in MISSING_TAXA else spelling


def spelled(barcodes: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """A column of barcodes in their one spelling (`spell`), null where a barcode is missing.

    The same object if nothing changes; all its letters are then among `LETTERS`.
    """
    if isinstance(barcodes, pa.ChunkedArray):
        given = barcodes.chunks
        chunks = [spelled(chunk) for chunk in given]
        if chunks and all(new is old for new, old in zip(chunks, given, strict=True)):
            return barcodes
        return pa.chunked_array(chunks, chunks[0].type if chunks else pa.string())
    if pa.types.is_dictionary(barcodes.type):
        return spelled(barcodes.dictionary).take(barcodes.indices)
    if not (pa.types.is_string(barcodes.type) or pa.types.is_large_string(barcodes.type)):
        barcodes = barcodes.cast(pa.large_string() if pa.types.is_large_binary(barcodes.type) else pa.string())
    if _is_spelled(barcodes):
        return barcodes
    markers = pa.array(MISSING_TAXA, barcodes.type)
    missing = pc.is_in(pc.utf8_lower(pc.utf8_trim_whitespace(barcodes)), markers)
    upper = pc.ascii_upper(pc.replace_substring_regex(barcodes, r"[\s\x0b\x1c-\x1f\x{85}\p{Z}.\-]+", ""))
    upper = pc.replace_substring(upper, "U", "T")
    return pc.if_else(pc.or_(missing, pc.is_in(pc.ascii_lower(upper), markers)), pa.scalar(None, barcodes.type), upper)


def _is_spelled(barcodes: pa.Array) -> bool:
    """Whether all letters are upper case, and no barcode is as short as a marker of missing values."""
    if len(barcodes) == barcodes.null_count:
        return True
    if pc.min(pc.binary_length(barcodes)).as_py() <= _LONGEST_MARKER:
        return False
    kind = np.int64 if pa.types.is_large_string(barcodes.type) else np.int32
    offsets = np.frombuffer(barcodes.buffers()[1], kind)
    start, end = offsets[barcodes.offset], offsets[barcodes.offset + len(barcodes)]
    letters = barcodes.buffers()[2].slice(int(start), int(end - start)).to_pybytes()
    return not letters.translate(None, LETTERS.encode())


def complement(barcode: str) -> str:
    """The other strand of a spelled barcode, from its own first nucleotide on."""
    return barcode.translate(_COMPLEMENT)[::-1]


def clean_barcodes(barcodes: Iterable[str]) -> list[str]:
    """Barcodes in the letters A, C, G, T and N, "" where one is missing.

    In the one spelling (`spell`), with N for IUPAC codes and without N at the end.

    Raises:
        ValueError: if a sequence holds any other character; the message names the first one.
    """
    cleaned = []
    for number, barcode in enumerate(barcodes, start=1):
        clean = (spell(barcode) or "").translate(TO_N).rstrip("N")
        if wrong := re.search(r"[^ACGTN]", clean):
            raise ValueError(
                f"Sequence {number} ({barcode[:30]!r}...) is not DNA: it contains {wrong[0]!r}. "
                f"Allowed are A, C, G, T, U, the IUPAC codes, N and '-'."
            )
        cleaned.append(clean)
    return cleaned


def barcode_digest(barcode: str | None) -> bytes:
    """16 bytes, equal for equal barcodes in any spelling; b"" for a missing one. Trailing N does not count."""
    stripped = (spell(barcode) or "").rstrip("N")
    return _digest(stripped) if stripped else b""


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).digest()


def barcode_digests(
    barcodes: pa.ChunkedArray | pa.Array, max_nucleotides: int | None = None
) -> npt.NDArray[np.bytes_]:
    """Digests (n,) of a column, dtype "S16": equal for equal barcodes, b"" where the barcode is missing.

    Args:
        max_nucleotides: Compares only so many nucleotides; None compares whole barcodes.
    """
    barcodes = spelled(barcodes)
    if max_nucleotides is not None:
        barcodes = pc.utf8_slice_codeunits(barcodes, 0, max_nucleotides)
    stripped = ((barcode or "").rstrip("N") for barcode in barcodes.to_pylist())
    return np.array([_digest(barcode) if barcode else b"" for barcode in stripped], dtype=f"S{DIGEST_BYTES}")


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
