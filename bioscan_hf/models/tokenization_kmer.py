"""Tokenizer of DNA barcodes: non-overlapping k-mers, in every published vocabulary.

It saves a plain `tokenizer.json`, which `AutoTokenizer` loads without remote code. Whole columns are encoded directly
from their Arrow buffers. Sources: BarcodeBERT, https://arxiv.org/abs/2311.02401; CLIBD,
https://arxiv.org/abs/2405.17537. Shape letters: n = barcodes, L = tokens of a barcode.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tokenizers import Regex, Tokenizer, normalizers
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from transformers import BatchEncoding, PreTrainedTokenizerFast

from .spelling import REMOVED, is_spelled, spell, spelled_text
from .vocabularies import VOCABULARIES, check_choice

try:  # transformers then does not demand it for folders with this file
    import pyarrow as pa
except ImportError:
    pa = None

_BLOCK_ROWS = 1024  # the arrays of a block fit into the second-level cache
_INVALID = -(2**28)  # value of an invalid letter, which makes the value of its k-mer negative


@lru_cache(maxsize=16)
def kmer_vocabulary(k: int, vocabulary: str) -> tuple[str, ...]:
    """Every token of the vocabulary, in the order of the ids."""
    form = VOCABULARIES[vocabulary]
    kmers = ["".join(letters) for letters in product("ACGT", repeat=k)]
    if "N" in form.letters:
        kmers += [kmer for kmer in map("".join, product(form.letters, repeat=k)) if "N" in kmer]
    return (*form.special_tokens, *kmers)


def _check(k: int, vocabulary: str, max_nucleotides: int) -> None:
    check_choice("vocabulary", vocabulary, tuple(VOCABULARIES))
    largest = VOCABULARIES[vocabulary].largest_k
    if type(k) is not int or not 1 <= k <= largest:
        raise ValueError(
            f"k {k!r} is not possible: the vocabulary {vocabulary!r} takes an integer from 1 to {largest}."
        )
    if type(max_nucleotides) is not int or max_nucleotides < k:
        raise ValueError(f"max_nucleotides {max_nucleotides!r} is not possible: give an integer of at least k, {k}.")


def _special_tokens(k: int, vocabulary: str) -> dict[str, str]:
    """Role -> token."""
    form = VOCABULARIES[vocabulary]
    mask, unknown = form.special_tokens[0], form.special_tokens[form.unknown]
    padding = "N" * k if "N" in form.letters else unknown
    first = [("cls_token", token) for token in form.special_tokens if "CLS" in token]
    return {"mask_token": mask, "unk_token": unknown, "pad_token": padding} | dict(first)


def _backend(k: int, vocabulary: str, max_nucleotides: int, ids: dict[str, int]) -> Tokenizer:
    form = VOCABULARIES[vocabulary]
    tokenizer = Tokenizer(WordLevel(ids, unk_token=form.special_tokens[form.unknown]))
    removed = normalizers.Replace(Regex(f"[{REMOVED}]+"), "")
    letters = [normalizers.Replace(letter, letter.upper()) for letter in "acgtn"]
    thymine = [normalizers.Replace(letter, "T") for letter in "Uu"]
    padding: list[Any] = []
    if form.left:
        surplus = Regex(rf"\AN{{1,{max_nucleotides}}}(?=[\s\S]{{{max_nucleotides}}})")
        padding = [normalizers.Prepend("N" * max_nucleotides), normalizers.Replace(surplus, "")]
    tokenizer.normalizer = normalizers.Sequence([removed, *letters, *thymine, *padding])
    # Matches k characters of any kind; "removed" with "invert" drops the shorter last piece.
    tokenizer.pre_tokenizer = Split(Regex(rf"[\s\S]{{{k}}}"), behavior="removed", invert=True)
    if form.leading is not None:
        first = form.special_tokens[form.leading]
        tokenizer.post_processor = TemplateProcessing(single=f"{first} $A", special_tokens=[(first, form.leading)])
    return tokenizer


def string_chunks(column: Any) -> list[Any]:
    """The column as Arrow string arrays, not copied if it is one; without pyarrow as one list.

    Raises TypeError or ValueError for other values.
    """
    if isinstance(column, str):
        raise TypeError("A column is a list of barcodes, but one string was given. Give [barcode].")
    if pa is None:
        values = list(column)
        _refuse_missing([place for place, value in enumerate(values) if value is None], len(values))
        if wrong := [value for value in values if not isinstance(value, str)]:
            raise TypeError(f"A column of barcodes holds strings, but: {wrong[0]!r}. Convert it to str.")
        return [values]
    if not isinstance(column, pa.Array | pa.ChunkedArray):
        try:
            column = pa.array(column[:], pa.large_string(), from_pandas=True)
        except pa.ArrowTypeError as error:
            raise TypeError(f"A column of barcodes holds strings, but: {error}. Convert it to str.") from error
    content = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if content not in (pa.string(), pa.large_string(), pa.string_view(), pa.null()):
        raise TypeError(f"A column of barcodes holds strings, but this one holds {column.type}.")
    if column.type not in (pa.string(), pa.large_string()):
        column = column.cast(pa.large_string())
    if column.null_count:
        _refuse_missing(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)), len(column))
    return column.chunks if isinstance(column, pa.ChunkedArray) else [column]


def _refuse_missing(rows: Any, n: int) -> None:
    """Raises ValueError if there are such rows."""
    if len(rows):
        named = ", ".join(map(str, rows[:10])) + (", ..." if len(rows) > 10 else "")
        raise ValueError(f"{len(rows)} of {n} barcodes are missing (row {named}). Drop them, or give ''.")


def _row_offsets(offset: int | ArrayLike, n: int) -> NDArray[np.int64]:
    """One offset for each of `n` rows."""
    offsets = np.asarray(offset)
    if offsets.dtype.kind not in "iu" and offsets.size:
        raise ValueError(f"The offset must be integers, but has the type {offsets.dtype}.")
    if offsets.shape not in ((), (n,)):
        raise ValueError(
            f"The offset has the shape {offsets.shape}; give one number, or one for each of the {n} rows."
        )
    if (offsets < 0).any():
        raise ValueError(f"The offset {offsets.min()} is negative; it is a number of nucleotides to cut off.")
    return np.broadcast_to(offsets.astype(np.int64), (n,))


def barcode_bytes(strings: Any) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Bytes of the barcodes of a chunk of `string_chunks`, in their one spelling, and the offsets of each (n + 1,)."""
    if isinstance(strings, list):
        return spelled_text(strings)
    _, bounds, data = strings.buffers()
    dtype = np.dtype(np.int64 if pa.types.is_large_string(strings.type) else np.int32)
    ends = np.frombuffer(bounds, dtype, len(strings) + 1, strings.offset * dtype.itemsize).astype(np.int64)
    if ends[0] == ends[-1]:
        return np.empty(0, np.uint8), ends - ends[0]
    text = np.frombuffer(data, np.uint8)[ends[0] : ends[-1]]
    return (text, ends - ends[0]) if is_spelled(text.tobytes(), np.diff(ends)) else spelled_text(strings.to_pylist())


def rows_of_bytes(
    text: NDArray[np.uint8], ends: NDArray[np.int64], offsets: NDArray[np.int64], width: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The first `width` bytes of each barcode after its offset (n, width), and the length after the offset (n,).

    `text` and `ends` are those of `barcode_bytes`. Bytes after the end of a barcode are those of the next one.
    """
    padded = np.full(len(text) + width, ord("N"), np.uint8)  # room for the last window
    padded[: len(text)] = text
    starts = np.minimum(ends[:-1] + offsets, ends[1:])
    return np.lib.stride_tricks.sliding_window_view(padded, width)[starts], ends[1:] - starts


def rows_padded_left(
    text: NDArray[np.uint8], ends: NDArray[np.int64], offsets: NDArray[np.int64], width: int, length: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The first `width` bytes of each barcode after its offset, padded with N at the start to `length` (n, width).

    Also their lengths (n,): `length`, or 0 for an empty barcode. `text` and `ends` are those of `barcode_bytes`.
    """
    padded = np.full(len(text) + 2 * length, ord("N"), np.uint8)
    padded[length : length + len(text)] = text
    starts = np.minimum(ends[:-1] + offsets, ends[1:])
    missing = np.maximum(length - (ends[1:] - starts), 0)
    rows = np.lib.stride_tricks.sliding_window_view(padded, width)[starts + length - missing]
    return np.where(np.arange(width) < missing[:, None], np.uint8(ord("N")), rows), np.where(
        starts < ends[1:], length, 0
    )


def _encode_block(
    nucleotides: NDArray[np.uint8],
    lengths: NDArray[np.int64],
    k: int,
    vocabulary: str,
    ids: NDArray[np.int64],
    mask: NDArray[np.int64],
) -> None:
    """Fills `ids` and `mask` (n, L without the leading token) from bytes (n, L * k) and lengths (n,) of barcodes."""
    form = VOCABULARIES[vocabulary]
    unknown = form.unknown
    n, n_tokens = ids.shape
    token = np.arange(n_tokens, dtype=np.int32)
    whole = np.minimum(lengths // k, n_tokens).astype(np.int32)[:, None]  # whole k-mers, (n, 1)
    within = token < whole
    mask[:] = within
    numbers_n = "N" in form.letters
    if numbers_n:  # the last piece, padded with N, has an id
        _fill_last_piece(nucleotides, lengths, whole[:, 0], k)
        within = token <= whole
    values = np.zeros((n, n_tokens), np.int32)
    for place, dtype, table in _value_tables(k, len(form.letters)):
        pieces = np.ndarray((n, n_tokens), dtype, nucleotides, place, (n_tokens * k, k))
        values += np.take(table, pieces, mode="clip")
    if numbers_n:
        values = np.take(_renumbering(k, vocabulary), np.maximum(values, -1), mode="wrap")
    else:
        values += len(form.special_tokens)
        np.maximum(values, unknown, out=values)
    padding = len(kmer_vocabulary(k, vocabulary)) - 1 if numbers_n else unknown
    np.copyto(values, padding, where=~within)
    ids[:] = values


def _fill_last_piece(
    nucleotides: NDArray[np.uint8], lengths: NDArray[np.int64], whole: NDArray[np.int32], k: int
) -> None:
    """Pads the last k-mer of each barcode with N, in place."""
    rows = np.flatnonzero(whole * k < nucleotides.shape[1])[:, None]
    places = whole[rows] * k + np.arange(k)
    nucleotides[rows, places] = np.where(places < lengths[rows], nucleotides[rows, places], ord("N"))


@lru_cache(maxsize=16)
def _value_tables(k: int, base: int) -> tuple[tuple[int, str, NDArray[np.int32]], ...]:
    """Tables whose entries, summed over the pairs of bytes of a k-mer, give its rank among k-mers of `base` letters.

    For each pair, and the last byte of an odd k: place in the k-mer, dtype, and values (65,536,) or (256,). The sum is
    negative for other letters.
    """

    def values(place: int) -> NDArray[np.int32]:
        table = np.full(256, _INVALID, np.int32)
        table[list(b"ACGTN"[:base])] = np.arange(base) * base ** (k - 1 - place)
        return table

    tables: list[tuple[int, str, NDArray[np.int32]]] = []
    for place in range(0, k - 1, 2):
        pair = values(place + 1)[:, None] + values(place)  # little-endian: the second byte is the higher one
        tables.append((place, "<u2", np.maximum(pair, _INVALID).ravel()))
    if k % 2:
        tables.append((k - 1, "u1", values(k - 1)))
    return tuple(tables)


@lru_cache(maxsize=16)
def _renumbering(k: int, vocabulary: str) -> NDArray[np.int32]:
    """Rank among the k-mers of all letters -> id, (letters ** k + 1,); the last entry is the unknown token."""
    form = VOCABULARIES[vocabulary]
    ids = {token: index for index, token in enumerate(kmer_vocabulary(k, vocabulary))}
    ranked = [ids["".join(letters)] for letters in product(form.letters, repeat=k)]
    return np.array([*ranked, form.unknown], np.int32)


class KmerTokenizer(PreTrainedTokenizerFast):
    """Cuts a barcode into non-overlapping k-mers from its first nucleotide on.

    A call returns ids and masks (n, L), padded and truncated to the fixed length L = `number_of_tokens` unless
    `padding` and `truncation` say otherwise. As published:

    - a k-mer with other letters than A, C, G, T is the unknown token, and is attended to;
    - a last piece shorter than k is padding, with mask 0;
    - a barcode shorter than k is padding throughout (`clibd` and `barcodebert-cls`: after their first token);
    - `barcodemamba` and `barcodemamba-char` pad a barcode with N at its start, and attend to this padding.

    Barcodes are normalised first: lower case becomes upper case, U becomes T, and gaps ("-" and ".") and white space
    are removed. Words for a missing barcode, such as "NA", are a barcode without letters.

    The padding token is the unknown token (`barcodebert-n`: the k-mer of N). As in other tokenizers, "[MASK]" in the
    text is read as that token. With `barcodebert-n` it is not: `split_special_tokens` is always on, because the
    padding token would match runs of N. Loaded without this package, the tokenizer needs `padding="max_length",
    truncation=True` in the call.

    Args:
        k: 1 to 8 nucleotides (`barcodebert-n`: 1 to 6, `barcodemamba-char`: 1).
        vocabulary: A name in `VOCABULARIES`.
        max_nucleotides: Maximum length of a barcode; the rest is cut off. It sets `model_max_length`.
        kwargs: Arguments of `PreTrainedTokenizerFast`; the vocabulary sets the special tokens.

    Raises:
        ValueError: if `k`, `vocabulary` or `max_nucleotides` is not possible, or contradicts a saved vocabulary.

    Example:
        >>> KmerTokenizer(k=4).tokenize("ACGTNACGTT")
        ['ACGT', '[UNK]']
    """

    model_input_names = ["input_ids", "attention_mask"]

    def __init__(self, k: int = 4, vocabulary: str = "barcodebert", max_nucleotides: int = 660, **kwargs: Any):
        _check(k, vocabulary, max_nucleotides)
        self.k, self.vocabulary, self.max_nucleotides = k, vocabulary, max_nucleotides
        fixed: dict[str, Any] = _special_tokens(k, vocabulary)
        for role, token in fixed.items():
            if str(kwargs.get(role, token)) != token:
                raise ValueError(f"{role} is {str(kwargs[role])!r}, but must be {token!r} in {vocabulary!r}.")
        fixed |= {"model_max_length": self.number_of_tokens, "model_input_names": self.model_input_names}
        if "N" in VOCABULARIES[vocabulary].letters:
            fixed["split_special_tokens"] = True
        ids = {token: index for index, token in enumerate(kmer_vocabulary(k, vocabulary))}
        saved_ids = kwargs.pop("vocab", ids)  # from_pretrained passes the content of tokenizer.json
        self._tokenizer = _backend(k, vocabulary, max_nucleotides, ids)
        super().__init__(k=k, vocabulary=vocabulary, max_nucleotides=max_nucleotides, **(kwargs | fixed))
        for found in (saved_ids, self.backend_tokenizer.get_vocab(with_added_tokens=False)):
            if found != ids:
                raise ValueError(
                    f"The saved tokenizer, of {len(found)} tokens, is not {vocabulary!r} with k={k}, of {len(ids)}. "
                    f"Give its k and vocabulary (one of {', '.join(VOCABULARIES)})."
                )

    @property
    def number_of_kmers(self) -> int:
        """The k-mers in `max_nucleotides`."""
        return self.max_nucleotides // self.k

    @property
    def number_of_tokens(self) -> int:
        """The fixed length L: the k-mers, and the token before them."""
        return self.number_of_kmers + VOCABULARIES[self.vocabulary].num_leading

    def __call__(
        self,
        text: str | list[str] | None = None,
        text_pair: str | list[str] | None = None,
        *,
        padding: Any = "max_length",
        truncation: Any = True,
        **kwargs: Any,
    ) -> BatchEncoding:
        """Ids and mask of one barcode or a list; tensors are (n, L) also for n = 1.

        Raises ValueError if a barcode of the list is missing.
        """
        if isinstance(text, str):
            text = text if spell(text) else ""
        elif text is not None:
            text = list(text)
            _refuse_missing([row for row, one in enumerate(text) if one is None or one != one], len(text))
            text = [barcode if not isinstance(barcode, str) or spell(barcode) else "" for barcode in text]
        return super().__call__(text, text_pair, padding=padding, truncation=truncation, **kwargs)

    def encode_column(self, column: Any, offset: int | ArrayLike = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Ids and mask (n, L) of a column of barcodes: those of a call, many times faster.

        With `barcodebert-n`, a last piece shorter than k has mask 0 and the published id of the piece padded with N; a
        call gives padding. Text such as "[MASK]" is always read as letters.

        Args:
            column: A list, tuple, array or `datasets` column of strings. Arrow arrays, such as
                `dataset.with_format("arrow")[:]["dna_barcode"]`, are fastest: they are not copied.
            offset: Nucleotides to cut off at the start of each barcode; one number, or one for each row (n,).

        Raises:
            ValueError: if a row is missing, or `offset` is negative, not an integer, or of another length.
            TypeError: if the column holds other values than strings.
        """
        chunks = string_chunks(column)
        n = sum(map(len, chunks))
        offsets = _row_offsets(offset, n)
        form = VOCABULARIES[self.vocabulary]
        leading = form.num_leading
        ids = np.empty((n, self.number_of_tokens), np.int64)
        mask = np.empty((n, self.number_of_tokens), np.int64)
        ids[:, :leading] = form.leading or 0
        mask[:, :leading] = 1
        start = 0
        for chunk in chunks:
            for first in range(0, len(chunk), _BLOCK_ROWS):
                text, ends = barcode_bytes(chunk[first : first + _BLOCK_ROWS])
                rows = slice(start, start + len(ends) - 1)
                width = self.number_of_kmers * self.k
                if form.left:
                    found = rows_padded_left(text, ends, offsets[rows], width, self.max_nucleotides)
                else:
                    found = rows_of_bytes(text, ends, offsets[rows], width)
                nucleotides, lengths = found
                _encode_block(nucleotides, lengths, self.k, self.vocabulary, ids[rows, leading:], mask[rows, leading:])
                start = rows.stop
        return ids, mask

    def _save_pretrained(self, *args: Any, **kwargs: Any) -> tuple[str, ...]:
        # The file must not depend on the last call.
        self.backend_tokenizer.no_padding()
        self.backend_tokenizer.no_truncation()
        return super()._save_pretrained(*args, **kwargs)
