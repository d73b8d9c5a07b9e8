"""Encoders of barcodes that BarcodeBERT is compared with, behind the interface of our own models.

k-mer counts have no parameters, and are a baseline hard to beat on species that the reference library holds.
`load_encoder` also opens the others: the CNN (`baselines_cnn`), published encoders of the Hub (`baselines_hub`) and
our own models. Sequence search, which has no embeddings, is in `baselines_search`.
Shape letters: n = barcodes, V = 4**k k-mers in alphabetical order (AA, AC, AG, ...), D = embedding size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

LARGEST_K = 8

#: Barcodes are counted in blocks of about so many nucleotides or counts, which bounds memory and stays in the cache.
BLOCK = 2**20


def kmer_counts(
    column: Sequence[str] | pa.Array | pa.ChunkedArray, k: int = 4, *, normalize: bool = False
) -> NDArray[np.float32]:
    """How often each k-mer occurs in each barcode, overlapping ones included: (n, V).

    k-mers that hold anything but capital A, C, G, T are not counted. The strand of a barcode is known, so reverse
    complements are k-mers of their own. A barcode shorter than `k` is a row of zeros.

    Args:
        column: The barcodes; an Arrow column is read without a copy.
        k: 1 to 8. A row has 4**k numbers: 1 kB at k = 4, 262 kB at k = 8.
        normalize: Scales each row to length 1, as the cosine compares them; zeros stay zeros.

    Raises:
        ValueError: if `k` is out of range, or a barcode is missing (null).
        TypeError: if the column does not hold strings.

    Example:
        >>> kmer_counts(["ACGNAC"], k=2).nonzero()[1].tolist()  # AC twice, CG once
        [1, 6]
    """
    _check_k(k)
    chunks = _chunks_of_strings(column)
    counts = np.empty((sum(map(len, chunks)), 4**k), np.float32)
    row = 0
    for strings in chunks:
        ends = np.frombuffer(strings.buffers()[1], np.int64, len(strings) + 1, strings.offset * 8)
        text = np.frombuffer(strings.buffers()[2] or b"", np.uint8)
        start = 0
        while start < len(strings):
            # As many rows as fit in a block, but one at least.
            stop = int(np.searchsorted(ends, ends[start] + BLOCK, side="right")) - 1
            stop = max(start + 1, min(stop, start + BLOCK // 4**k, len(strings)))
            block = ends[start : stop + 1]
            counts[row + start : row + stop] = _count_block(text[block[0] : block[-1]], block - block[0], k)
            start = stop
        row += len(strings)
    if normalize:
        norms = np.linalg.norm(counts, axis=1, keepdims=True)
        np.divide(counts, norms, out=counts, where=norms > 0)
    return counts


class KmerOutput(NamedTuple):
    """Output of `KmerCounts`: `pooler_output` (n, D)."""

    pooler_output: Tensor


class KmerCounts(nn.Module):
    """A model without parameters: the embedding of a barcode is its row of k-mer counts, scaled to length 1.

    Of several k each has its own rows of length 1 side by side, so that each weighs the same in a cosine.

    Args:
        sizes: Columns of each k; they are fixed with the processor.
    """

    def __init__(self, sizes: Sequence[int]):
        super().__init__()
        self.sizes = list(sizes)

    def forward(self, counts: Tensor, attention_mask: Tensor | None = None) -> KmerOutput:
        """Scales `counts` (n, D).

        Args:
            attention_mask: Not needed: a barcode without a k-mer is a row of zeros.
        """
        parts = [nn.functional.normalize(part, dim=1) for part in counts.split(self.sizes, dim=1)]
        return KmerOutput(torch.cat(parts, dim=1))


class KmerCounter:
    """Turns barcodes into the input of `KmerCounts`."""

    def __init__(self, *ks: int):
        for k in ks:
            _check_k(k)
        self.ks = ks

    def __call__(self, barcodes: Sequence[str]) -> dict[str, Tensor]:
        """The k-mer counts (n, D), and a mask (n, 1) that is 0 where there is no whole k-mer."""
        counts = torch.from_numpy(np.concatenate([kmer_counts(barcodes, k) for k in self.ks], axis=1))
        return {"counts": counts, "attention_mask": counts.any(dim=1, keepdim=True).long()}


def kmer_encoder(k: int = 4, *more: int) -> tuple[KmerCounts, KmerCounter]:
    """Model and processor for `embed` that make k-mer counts of length 1 the embeddings, D = 4**k.

    Args:
        more: Further k, whose counts stand beside the first.
    """
    ks = (k, *more)
    return KmerCounts([4**size for size in ks]), KmerCounter(*ks)


#: What `load_encoder` understands.
ENCODERS = (
    "the folder or Hub id of one of our own models, such as a BarcodeBERT",
    "kmer:K or kmer:K+L (counts of k-mers)",
    "cnn:FOLDER (a trained BarcodeCnn)",
    "hf:ID (an encoder of DNA on the Hub, or a folder), such as hf:zhihan1996/DNABERT-2-117M",
)

#: Our own models, by the type in their configs.
OWN_TYPES = ("barcodebert", "barcodemamba", "alignedbarcode")


def load_encoder(name: str, *, trust_remote_code: bool = False) -> tuple[nn.Module, Any]:
    """Model and processor for `embed`, by name; on the GPU, where there is one.

    Args:
        name: "kmer:4", "kmer:4+6", "cnn:FOLDER", "hf:ID", the folder or Hub id of one of our own models, or the id of
            an encoder that BarcodeBERT is compared with (`baselines_hub.PUBLISHED`), with or without "hf:".
        trust_remote_code: Whether Python code in the repository of an "hf:ID" may run. Read it first.

    Raises:
        ValueError: for a K that is no number from 1 to 8, a model of another type, or one whose code may not run.
        OSError: if there is no model of that name.
    """
    kind, _, rest = name.partition(":")
    if kind == "kmer":
        return kmer_encoder(*_parse_ks(name, rest))
    from transformers import AutoModel, AutoTokenizer, PreTrainedConfig

    from ..models import register  # noqa: F401
    from .cnn import load_cnn
    from .hub_encoders import BARCODEBERT, PUBLISHED, load_hub_encoder, load_published_barcodebert

    model: nn.Module
    processor: Any
    try:
        if kind == "cnn":
            model, processor = load_cnn(rest)
        elif (kind == "hf" and rest != BARCODEBERT) or name in PUBLISHED:
            model, processor = load_hub_encoder(name.removeprefix("hf:"), trust_remote_code=trust_remote_code)
        else:
            name = name.removeprefix("hf:")
            model_type = PreTrainedConfig.get_config_dict(name)[0].get("model_type")
            if model_type == "barcode_cnn":
                model, processor = load_cnn(name)
            elif model_type in OWN_TYPES:
                model, processor = AutoModel.from_pretrained(name), AutoTokenizer.from_pretrained(name)
            elif name == BARCODEBERT:
                model, processor = load_published_barcodebert(name)
            else:
                raise ValueError(
                    f"{name!r} holds a model of type {model_type!r}, none of ours. To take the mean of its last "
                    f"hidden states write hf:{name}. An encoder is {'; or '.join(ENCODERS)}."
                )
    except OSError as error:
        raise OSError(f"No model at {name!r}. An encoder is {'; or '.join(ENCODERS)}. {error}") from error
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), processor


def _parse_ks(name: str, digits: str) -> list[int]:
    parts = digits.split("+")
    if not all(part.isdecimal() for part in parts):
        raise ValueError(
            f"{name!r}: after 'kmer:' comes a number from 1 to {LARGEST_K}, or several, such as kmer:4 or kmer:4+6."
        )
    return [int(part) for part in parts]


def _check_k(k: int) -> None:
    if not 1 <= k <= LARGEST_K:
        raise ValueError(f"k={k} nucleotides in a k-mer: k must lie between 1 and {LARGEST_K}.")


def _chunks_of_strings(column: Sequence[str] | pa.Array | pa.ChunkedArray) -> list[pa.LargeStringArray]:
    array = column if isinstance(column, (pa.Array, pa.ChunkedArray)) else pa.array(column, pa.large_string())
    if not (pa.types.is_string(array.type) or pa.types.is_large_string(array.type)):
        raise TypeError(f"A column of barcodes holds strings, but this one holds {array.type}.")
    if array.null_count:
        missing = np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))
        named = ", ".join(map(str, missing[:5]))
        raise ValueError(
            f"{len(missing)} of {len(array)} barcodes are missing (row {named}). Filter them out, or give '' for them."
        )
    large = array.cast(pa.large_string())  # of the text itself there is no copy
    return large.chunks if isinstance(large, pa.ChunkedArray) else [large]


def _count_block(text: NDArray[np.uint8], ends: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Counts (rows, V) of the rows of `text`, of which row i is text[ends[i] : ends[i + 1]]."""
    rows, lengths = len(ends) - 1, np.diff(ends)
    windows = len(text) - k + 1
    if windows < 1:
        return np.zeros((rows, 4**k), np.int64)
    letters = _LETTERS[text]
    codes = np.repeat(np.arange(rows, dtype=np.int32), lengths)[:windows]
    for place in range(k):
        codes *= 4
        codes += letters[place : place + windows] & 3
    # Windows that run over the end of their row or over another letter go to one bin more, which is dropped.
    wrong = np.zeros(len(text) + 1, np.int32)
    wrong[1:] = np.cumsum(letters > 3, dtype=np.int32)
    codes[wrong[k:] != wrong[:windows]] = rows * 4**k
    for back in range(1, k):
        over = ends[1:] - back  # windows that begin so near the end of a row, or of one before it, if it is short
        codes[over[(over >= 0) & (over < windows)]] = rows * 4**k
    return np.bincount(codes, minlength=rows * 4**k + 1)[:-1].reshape(rows, 4**k)


_LETTERS = np.full(256, 4, np.uint8)  # 4: no letter
_LETTERS[list(b"ACGT")] = range(4)
