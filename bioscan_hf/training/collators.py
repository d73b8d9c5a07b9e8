"""From barcodes to a batch for masked language modelling: random reading frame, k-mers, masks and labels.

Imports nothing of ours; the tokenizer is an argument.
Source: BarcodeBERT, https://arxiv.org/abs/2311.02401
Shape letters: B = batch, L = tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

#: Label that no loss counts.
IGNORED = -100

#: Id that stands for a masked k-mer. The models of 2023 were trained with id 1 there, not with the id of <MASK>.
MASK_TOKEN_IDS = {"barcodebert": 0, "barcodebert-n": 0, "barcodebert-2023": 1, "clibd": 1}

#: What is predicted: the masked k-mers; those and the visible ones; both, with weights; every position, padding too;
#: or, with nothing masked, each k-mer but the first.
LOSSES = ("masked", "valid", "weighted", "all", "next")


def uniform(keys: np.ndarray, first: int, count: int) -> np.ndarray:
    """Numbers `first` to `first + count - 1` of the random stream of each key: uniform in [0, 1), (B, count) float64.

    SplitMix64 (Steele, Lea and Flood 2014, https://doi.org/10.1145/2714064.2660195). A number depends on its key and
    its place alone, and the streams of a whole batch are drawn at once.

    Args:
        keys: uint64 (B,).
    """
    x = keys[:, None] + np.arange(first + 1, first + count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return (x >> np.uint64(11)) * 2.0**-53  # 53 bits are what a float64 holds


class MaskedKmerCollator:
    """Makes batches of masked k-mers: `input_ids`, `attention_mask` and `labels`, all int64 (B, L).

    A k-mer can be masked if it holds A, C, G and T only and lies within the barcode. `labels` are token ids, -100
    where nothing is predicted. A batch in which nothing is padded has no `attention_mask` if padding is cut off, so
    that attention needs none. With `loss_on="weighted"` there is also `masked`, bool (B, L).

    With a `seed`, what is drawn for a barcode follows from the seed, the epoch (`set_epoch`) and the barcode's
    letters, and from nothing else: the same in whatever batch, process or worker it falls, and in a resumed run.
    Without, it follows from torch's global generator, which a resumed run does not find where it was, because data
    loaders read ahead.

    Args:
        tokenizer: A `KmerTokenizer`.
        mask_ratio: Probability of each k-mer to be masked, in (0, 1].
        random_offset: Whether a barcode is read from its first, second, ... or k-th nucleotide on, drawn anew each
            time; otherwise from the first.
        loss_on: "masked" predicts the masked k-mers; "valid" also those that stayed visible, as the published code;
            "weighted" labels the same, for a loss that weighs the two apart; "all" labels every position, padding and
            unknown k-mers among them, as the code of 2023; "next" masks nothing and labels each k-mer but the first,
            for a model that predicts it from those before.
        mask_token_share: Share of the masked k-mers that becomes the mask token.
        random_token_share: Share of them that becomes some other k-mer. What is left over stays as it is.
        mask_token_id: Id of the mask token; None is that of the tokenizer's vocabulary.
        seed: None draws from torch's global generator.
        cut_padding: Whether a batch is as long as its longest row, instead of as long as a full barcode. Masks and
            frames are the same either way.
        pad_to_multiple_of: With `cut_padding`, L is rounded up to a multiple of this, but not beyond a full barcode.
        attend_padding: Gives no `attention_mask`, so that padding is attended to, as in 2023.

    Raises:
        ValueError: if a ratio, a share or `loss_on` is not among the values allowed.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        mask_ratio: float = 0.5,
        random_offset: bool = True,
        loss_on: str = "masked",
        mask_token_share: float = 1.0,
        random_token_share: float = 0.0,
        mask_token_id: int | None = None,
        seed: int | None = None,
        cut_padding: bool = False,
        pad_to_multiple_of: int = 1,
        attend_padding: bool = False,
    ):
        check_masking(mask_ratio, loss_on, mask_token_share, random_token_share)
        check_padding(loss_on, cut_padding, pad_to_multiple_of, attend_padding)
        self.tokenizer = tokenizer
        self.mask_ratio = mask_ratio
        self.random_offset = random_offset
        self.loss_on = loss_on
        self.mask_token_share = mask_token_share
        self.random_token_share = random_token_share
        self.mask_token_id = MASK_TOKEN_IDS[tokenizer.vocabulary] if mask_token_id is None else mask_token_id
        self.seed = seed
        self.cut_padding = cut_padding
        self.pad_to_multiple_of = pad_to_multiple_of
        self.attend_padding = attend_padding
        self.epoch = 0
        self._first_kmer = tokenizer.convert_tokens_to_ids("A" * tokenizer.k)
        self._num_kmers = 4**tokenizer.k

    def set_epoch(self, epoch: int) -> None:
        """With a seed, the epochs differ in what they draw; call this before each one begins."""
        self.epoch = epoch

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Draws a batch from rows that have a `dna_barcode`."""
        barcodes = [feature["dna_barcode"] for feature in features]
        if None in barcodes:
            raise ValueError(
                f"{barcodes.count(None)} of {len(barcodes)} rows have no barcode. Leave them out of the dataset."
            )
        keys = self._keys(barcodes)
        ids, attention_mask = self.tokenizer.encode_column(barcodes, offset=self._frames(keys))  # both (B, L)
        length = ids.shape[1]

        kmers = ids - self._first_kmer
        maskable = (kmers >= 0) & (kmers < self._num_kmers) & (attention_mask == 1)
        masked = maskable & (uniform(keys, 1, length) < self.mask_ratio) & (self.loss_on != "next")
        later = maskable & (np.arange(length) > 0)
        labelled = {"masked": masked, "valid": maskable, "weighted": maskable, "all": True, "next": later}
        batch = {
            "input_ids": np.where(masked, self._replace(kmers, keys), ids),
            "attention_mask": attention_mask.astype(np.int64),
            "labels": np.where(labelled[self.loss_on], ids, IGNORED),
        }
        if self.loss_on == "weighted":
            batch["masked"] = masked
        longest = self._round_up(attention_mask.sum(1).max()) if self.cut_padding else length
        cut = {name: torch.from_numpy(np.ascontiguousarray(value[:, :longest])) for name, value in batch.items()}
        if self.attend_padding or (self.cut_padding and bool(cut["attention_mask"].all())):
            del cut["attention_mask"]
        return cut

    def _frames(self, keys: np.ndarray) -> np.ndarray | int:
        """Nucleotides that are left out in front of each barcode, (B,)."""
        return (uniform(keys, 0, 1)[:, 0] * self.tokenizer.k).astype(np.int64) if self.random_offset else 0

    def _round_up(self, tokens: int) -> int:
        rounded = -(-max(int(tokens), 1) // self.pad_to_multiple_of) * self.pad_to_multiple_of
        return min(rounded, self.tokenizer.number_of_tokens)

    def _replace(self, kmers: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """Token ids (B, L) that stand in place of masked k-mers, given their numbers."""
        length = kmers.shape[1]
        if self.mask_token_share == 1:
            return np.full_like(kmers, self.mask_token_id)
        lot = uniform(keys, 1 + length, length)
        step = 1 + (uniform(keys, 1 + 2 * length, length) * (self._num_kmers - 1)).astype(np.int64)
        other = self._first_kmer + (kmers + step) % self._num_kmers
        kept_or_other = np.where(
            lot < self.mask_token_share + self.random_token_share, other, self._first_kmer + kmers
        )
        return np.where(lot < self.mask_token_share, self.mask_token_id, kept_or_other)

    def _keys(self, barcodes: Sequence[str]) -> np.ndarray:
        """One key of a random stream for each barcode, uint64 (B,)."""
        if self.seed is None:
            return torch.randint(2**63 - 1, (len(barcodes),)).numpy().astype(np.uint64)
        hasher = blake2b(digest_size=8, key=f"{self.seed}:{self.epoch}".encode())
        digests = []
        for barcode in barcodes:
            copy = hasher.copy()
            copy.update(barcode.encode())
            digests.append(copy.digest())
        return np.frombuffer(b"".join(digests), np.dtype("<u8")).astype(np.uint64)


def check_masking(mask_ratio: float, loss_on: str, mask_token_share: float, random_token_share: float) -> None:
    """Raises ValueError unless the options of `MaskedKmerCollator` make sense."""
    if not 0 < mask_ratio <= 1:
        raise ValueError(f"mask_ratio is {mask_ratio}, but it is a probability in (0, 1]; the published one is 0.5.")
    if loss_on not in LOSSES:
        raise ValueError(f"Unknown loss_on {loss_on!r}. Choose one of {', '.join(LOSSES)}.")
    if mask_token_share < 0 or random_token_share < 0 or mask_token_share + random_token_share > 1 + 1e-9:
        raise ValueError(
            f"mask_token_share ({mask_token_share}) and random_token_share ({random_token_share}) are shares of the "
            f"masked k-mers: neither may be negative, and together they must not exceed 1."
        )


def check_padding(loss_on: str, cut_padding: bool, pad_to_multiple_of: int, attend_padding: bool) -> None:
    """Raises ValueError unless what becomes of padding makes sense."""
    if pad_to_multiple_of < 1:
        raise ValueError(f"pad_to_multiple_of is {pad_to_multiple_of}; give 1 (no rounding) or more.")
    if cut_padding and (loss_on == "all" or attend_padding):
        raise ValueError(
            "cut_padding would change what is learned: with loss_on 'all' padding is predicted, and with "
            "attend_padding it is attended to. Leave cut_padding out."
        )
