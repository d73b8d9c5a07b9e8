"""The common region of references: where a read lies in it, and what its vector is.

Shape letters: n = reads, L = nucleotides, P = positions of the region, D = components, W = 4,096 words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from torch import Tensor

from ..barcodes import complement
from ..files import read_json
from .letters import NOTHING, WORD, Codes, blocks, codes_of, letters, word_ids
from .packed import Packed

if TYPE_CHECKING:
    from ..models.modeling_alignedbarcode import AlignedBarcodeModel

__all__ = ["WORD", "Placed", "Region", "blocks", "complement", "letters", "oriented"]

#: Smallest alignment score of a barcode of the region. Reads of other origin stay below 0.05.
LEAST_SCORE = 0.15

#: A read of more windows than this many times the region has a score for the part that lies in the region.
LONG = 1.5

#: Fewest references, and smallest share of them, of one length, for a region of that length.
FEWEST_ALIKE, LEAST_ALIKE = 20, 0.1

#: From this number of references, profiles are reduced to `WIDTH` principal components, fitted to at most `MOST`.
MANY, WIDTH, MOST = 4_000, 512, 20_000

#: From this number of references, to fewer components, which bounds the memory.
VERY_MANY, NARROW = 200_000, 256

Numbers = NDArray[np.float32]
Encoder = Callable[[Sequence[str]], Numbers]
Aligned = TypeVar("Aligned", Codes, Packed)


@dataclass
class Placed(Generic[Aligned]):
    """Reads in the region.

    Attributes:
        aligned: Code at each position (n, P) uint8, 4 for none; references keep them as bits.
        start: Position of the first nucleotide of each read (n,).
        score: Share of the anchors that agree on it (n,).
        vectors: Unit vectors (n, D) bfloat16.
    """

    aligned: Aligned
    start: NDArray[np.int64]
    score: Numbers
    vectors: Tensor


class Region:
    """The common region of references: where a read lies in it, and what its vector is.

    Equal to what `AlignedBarcodeModel` computes, but without it if its vectors are linear in the profile: transformers
    take longer to import than thousands of reads to be named.

    Args:
        model: Aligns reads, and gives their vectors; or the folder that holds it.
        encoder: Gives the vectors (n, D) of reads instead of the model.
    """

    def __init__(self, model: AlignedBarcodeModel | Path, encoder: Encoder | None = None) -> None:
        self.encoder = encoder
        if isinstance(model, Path):
            config = read_json(model / "config.json", {"positions": int, "anchor_k": int})
            tensors = load_file(model / "model.safetensors")
            self._stored = config, tensors
        else:
            self.model = model.eval()
            config = model.config.to_dict()
            tensors = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
        #: Length of the region in nucleotides.
        self.positions = int(config["positions"])
        self._k = int(config["anchor_k"])
        self._anchor = tensors["anchor_position"].astype(np.int32)
        self._weight = tensors["anchor_weight"].astype(np.float64)
        linear = config["profile_weight"] == 0 and not config["hidden_size"]
        self._projection = _table(tensors) if linear else None
        self._pairs = _pairs(tensors) if linear and encoder is None else None

    @cached_property
    def model(self) -> AlignedBarcodeModel:
        """The model that aligns reads, of what was read: its folder may have moved or hold another library since."""
        from ..models.configuration_alignedbarcode import AlignedBarcodeConfig
        from ..models.modeling_alignedbarcode import AlignedBarcodeModel

        config, tensors = self._stored
        model = AlignedBarcodeModel(AlignedBarcodeConfig.from_dict(config))
        model.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in tensors.items()})
        return model.eval()

    @classmethod
    def of(cls, references: Sequence[str], encoder: Encoder | None = None) -> Region | None:
        """The region of references, fitted to those of the most frequent length; None if they have none in common."""
        lengths = np.fromiter(map(len, references), np.int64, len(references))
        length = int(np.bincount(lengths).argmax())
        alike = int((lengths == length).sum())
        if alike < FEWEST_ALIKE or alike < LEAST_ALIKE * len(references) or length < 4 * WORD:
            return None
        from ..models.configuration_alignedbarcode import AlignedBarcodeConfig
        from ..models.modeling_alignedbarcode import FIRST_NUCLEOTIDE, AlignedBarcodeModel

        width = 0 if len(references) < MANY else WIDTH if len(references) < VERY_MANY else NARROW
        config = AlignedBarcodeConfig(
            positions=length,
            max_nucleotides=max(length, 660),
            embedding_size=min(width, 4 * length),
            hidden_size=0,
            profile_weight=0.0 if width else 1.0,
        )
        model = AlignedBarcodeModel(config)
        fitted = [references[i] for i in _spread_over(len(references), MOST)]
        parts = [letters([fitted[i] for i in rows]) for rows in blocks(fitted)]
        with _one_thread():
            model.fit_region((part + FIRST_NUCLEOTIDE, (part < NOTHING).int()) for part in parts)
        region = cls(model, encoder)
        sample = [references[i] for i in _spread_over(len(references), 2000)]
        return region if (region.place(sample).score >= LEAST_SCORE).mean() > 0.5 else None

    def place(self, reads: Sequence[str], *, vectors: bool = False) -> Placed[Codes]:
        """Where reads lie in the region, and their vectors if asked for."""
        n = len(reads)
        aligned, start = np.full((n, self.positions), NOTHING, np.uint8), np.zeros(n, np.int64)
        score = np.zeros(n, np.float32)
        for rows in blocks(reads):
            codes = codes_of([reads[i] for i in rows])
            start[rows], score[rows] = self._start(codes)
            aligned[rows] = self._aligned(codes, start[rows])
        found = Placed(aligned, start, score, torch.empty(0))
        found.vectors = self.vectors(reads, aligned) if vectors else found.vectors
        return found

    def _start(self, codes: Codes) -> tuple[NDArray[np.int64], Numbers]:
        """Start (n,) and alignment score (n,) of reads (n, L): the start for which most anchors vote."""
        anchors = word_ids(codes, self._k)
        n, windows = anchors.shape
        weight = self._weight[anchors]
        width = windows + self.positions
        place = self._anchor[anchors]  # bin j of the votes of a read is for the start j - windows
        place += np.arange(windows, 0, -1, dtype=np.int32)
        place += np.arange(0, n * width, width, dtype=np.int32)[:, None]
        votes = np.bincount(place.ravel(), weight.ravel(), n * width).reshape(n, width)
        best = votes.argmax(1)
        most = votes[np.arange(n), best]
        start = np.where(most > 0, best - windows, 0)  # without votes, the read starts with the region
        every = self._inside(weight, start, (anchors < 4**self._k).sum(1))
        return start, (most / np.maximum(every, 1)).astype(np.float32)

    def _inside(self, weight: NDArray[np.float64], start: NDArray[np.int64], count: NDArray[np.int64]) -> Any:
        """Weight of the anchors of reads (n,); of those in the region, if a read is much longer than the region.

        Args:
            weight: Of the anchor at each window (n, windows).
            count: Windows of each read (n,).
        """
        every = weight.sum(1)
        long = np.flatnonzero(count > LONG * self.positions)
        if len(long):
            until = np.pad(weight[long].cumsum(1), ((0, 0), (1, 0)))
            ends = (np.stack([-start[long], self.positions - start[long]], 1)).clip(0, weight.shape[1])
            low, high = np.take_along_axis(until, ends, 1).T
            least = every[long] / count[long] * self.positions / 2  # a few anchors are found at any end
            every[long] = np.maximum(high - low, least)
        return every

    def _aligned(self, codes: Codes, start: NDArray[np.int64]) -> Codes:
        """Codes at each position of the region (n, P) of reads (n, L) that start there."""
        found = np.full((len(codes), self.positions), NOTHING, np.uint8)
        first, where = np.unique(start, return_inverse=True)
        order = np.argsort(where, kind="stable")
        for begin, rows in zip(first.tolist(), np.split(order, np.bincount(where).cumsum()[:-1]), strict=True):
            low, high = max(begin, 0), min(begin + codes.shape[1], self.positions)
            if low < high:
                found[rows, low:high] = codes[rows, low - begin : high - begin]
        return found

    def vectors(self, reads: Sequence[str], aligned: Codes) -> Tensor:
        """Unit vectors (n, D) bfloat16 of reads, which are aligned as (n, P)."""
        if self.encoder is not None:
            found = torch.from_numpy(self.encoder(reads))
            return torch.nn.functional.normalize(found.float(), dim=1).to(torch.bfloat16)
        if self._projection is not None:
            parts = [self._linear(torch.from_numpy(part)) for part in _split(aligned, 2048)]
            return torch.cat([torch.zeros(0, self._projection.shape[1], dtype=torch.bfloat16), *parts])
        empty = torch.zeros(0, self.model.config.output_size, dtype=torch.bfloat16)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            parts = [self.model.embed_aligned(torch.from_numpy(part).int()) for part in _split(aligned, 4096)]
        return torch.cat([empty, *(part.to(torch.bfloat16) for part in parts)])

    def cosines(self, reads: Codes, keys: Codes) -> Numbers | None:
        """Cosines (n, C) of the whole profiles of aligned reads (n, P) and of the keys of each (n, C, P).

        Distant profiles are nearer in their principal components than as a whole. None for vectors of another kind.
        """
        if self._pairs is None:
            return None
        place = np.arange(0, 25 * self.positions, 25, dtype=np.int32)
        own = place + np.int32(5) * reads
        product = self._pairs[own[:, None] + keys].sum(-1)
        square = self._pairs[own + reads].sum(-1)[:, None] * self._pairs[place + np.uint8(6) * keys].sum(-1)
        return np.asarray(product / np.sqrt(np.maximum(square, 1e-12)), np.float32)

    def _linear(self, aligned: Tensor) -> Tensor:
        """Unit vectors (n, D) of aligned reads (n, P): the sum of the projections of their letters."""
        assert self._projection is not None
        letter = _ONE_HOT[aligned.int()].view(torch.bfloat16)  # four letters of 2 bytes each
        return torch.nn.functional.normalize((letter @ self._projection).float(), dim=1).to(torch.bfloat16)


#: Letter -> 1 at its place of four, as bits of bfloat16; 0 for unknown letters.
_ONE_HOT = torch.eye(NOTHING + 1, 4, dtype=torch.bfloat16).view(torch.int64)[:, 0]


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread of torch: eigenvectors by two on busy cores take 12 times as long, on free ones little less."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _table(tensors: dict[str, NDArray[Any]]) -> Tensor:
    """Projection of each letter at each position (4 P, D), bfloat16."""
    frequency, weight = tensors["nucleotide_frequency"].astype(np.float32), tensors["projection.weight"]
    contents = np.eye(4, dtype=np.float32) - frequency[:, None]  # (P, 4, 4)
    per_position = weight.astype(np.float32).reshape(len(weight), -1, 4).transpose(1, 2, 0)  # (P, 4, D)
    return torch.from_numpy((contents @ per_position).reshape(-1, len(weight))).to(torch.bfloat16)


def _pairs(tensors: dict[str, NDArray[Any]]) -> Numbers:
    """Products of the profiles of each two letters at each position, (25 P,); 0 for unknown letters."""
    frequency = tensors["nucleotide_frequency"].astype(np.float32)
    contents = np.zeros((len(frequency), 5, 4), np.float32)
    contents[:, :4] = np.eye(4, dtype=np.float32) - frequency[:, None]
    return (contents @ contents.transpose(0, 2, 1)).ravel()


def _split(rows: Codes, size: int) -> list[Codes]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _spread_over(number: int, most: int) -> NDArray[np.int64]:
    """At most `most` positions of `number`, evenly spread."""
    return np.linspace(0, number - 1, min(number, most)).astype(np.int64)


def oriented(region: Region, reads: Sequence[str]) -> tuple[list[str], NDArray[np.bool_], Placed[Codes]]:
    """Reads on the strand of the references, which of them were turned round, and where they lie."""
    forward = region.place(reads)
    doubtful = np.flatnonzero(forward.score < 0.5)  # a good score is never beaten by the other strand
    turned = np.zeros(len(reads), np.bool_)
    found = list(reads)
    if len(doubtful):
        others = [complement(reads[int(i)]) for i in doubtful]
        back = region.place(others)
        better = back.score > forward.score[doubtful]
        for i in np.flatnonzero(better).tolist():
            found[int(doubtful[i])] = others[i]
        rows = doubtful[better]
        turned[rows] = True
        forward.aligned[rows], forward.start[rows] = back.aligned[better], back.start[better]
        forward.score[rows] = back.score[better]
    forward.vectors = region.vectors(found, forward.aligned)
    return found, turned, forward
