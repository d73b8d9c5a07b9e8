"""Aligned-barcode encoder: aligns barcodes to the barcode region and compares them position by position.

Indels are rare within one marker, so barcodes are not aligned in pairs: k-mers that occur at one position of the
region (anchors) vote for the start of a read. Uploaded to the Hub beside the weights and its configuration file.
Shape letters: B = batch, L = nucleotides, P = positions of the region, V = 4**anchor_k, D = embedding size.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_alignedbarcode import AlignedBarcodeConfig

#: Token id of A; C, G and T follow. Other ids are not nucleotides.
FIRST_NUCLEOTIDE = 2

#: Code of an unknown nucleotide, after 0 (A), 1 (C), 2 (G) and 3 (T).
NOTHING = 4

#: Weight of the most reliable anchor. Weights are whole numbers, which are exact in any precision.
FULL_WEIGHT = 1000

#: Barcodes that `fit_region` processes at a time.
FITTED_ROWS = 4096


@dataclass
class AlignedBarcodeOutput(ModelOutput):
    """Output of `AlignedBarcodeModel`.

    Attributes:
        pooler_output: Embeddings (B, D), unit vectors; zeros for a barcode without a nucleotide in the region.
        aligned: Nucleotide at each position, 0 to 3 for A, C, G, T and 4 for none, (B, P) int32.
        start: Position of the first nucleotide, (B,) int64; negative if the read starts before the region.
        alignment_score: Share of the anchors' votes for this start, in [0, 1], (B,). Below about 0.15, the read is
            probably of another region or of the other strand.
    """

    pooler_output: torch.Tensor | None = None
    aligned: torch.Tensor | None = None
    start: torch.Tensor | None = None
    alignment_score: torch.Tensor | None = None


class AlignedBarcodeModel(PreTrainedModel):
    """Encodes barcodes by their nucleotide at each position of the barcode region.

    The profile of a barcode has, at each position, 1 for its nucleotide minus the nucleotide frequencies, and 0 where
    the nucleotide is unknown. So shared rare nucleotides increase the cosine of two profiles more than common ones, as
    in tf-idf. A learned projection of the profile makes the embedding small.

    Anchors and nucleotide frequencies are fitted to barcodes without labels (`fit_region`) and saved with the weights.
    After an indel (about 1 % of insects), positions no longer match. Adapters that wrap linear layers, such as LoRA,
    have no effect: weights are read as lookup tables of nucleotides.
    """

    config_class = AlignedBarcodeConfig
    config: AlignedBarcodeConfig
    base_model_prefix = "aligned_barcode"
    main_input_name = "input_ids"

    anchor_position: torch.Tensor
    anchor_weight: torch.Tensor

    def __init__(self, config: AlignedBarcodeConfig):
        super().__init__(config)
        anchors = 4**config.anchor_k + 1  # the last one is for windows with other letters than A, C, G, T
        self.register_buffer("anchor_position", torch.zeros(anchors, dtype=torch.int64))
        self.register_buffer("anchor_weight", torch.zeros(anchors, dtype=torch.int64))
        # Fitted, not trained. It is a parameter because a model without parameters has no dtype.
        self.nucleotide_frequency = nn.Parameter(torch.full((config.positions, 4), 0.25), requires_grad=False)
        self.projection = self.hidden = self.output = None
        if config.embedding_size:
            self.projection = nn.Linear(config.profile_size, config.embedding_size, bias=False)
            if config.hidden_size:
                self.hidden = nn.Linear(config.profile_size, config.hidden_size)
                self.dropout = nn.Dropout(config.dropout)
                self.output = nn.Linear(config.hidden_size, config.embedding_size)
        self.post_init()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Loads a model with frozen nucleotide frequencies."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # a tuple with `output_loading_info=True`
        model.nucleotide_frequency.requires_grad_(False)
        return loaded

    @can_return_tuple
    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, return_dict: bool | None = None
    ) -> AlignedBarcodeOutput:
        """Embeddings of token ids (B, L) of `KmerTokenizer(k=1)`.

        Args:
            attention_mask: 1 for nucleotides, 0 for padding, (B, L); None attends to all positions.

        Raises:
            RuntimeError: if the model was neither loaded nor fitted (not checked in compiled and exported models).
        """
        aligned, start, score = self.align(input_ids, attention_mask)
        return AlignedBarcodeOutput(
            pooler_output=self.embed_aligned(aligned), aligned=aligned, start=start, alignment_score=score
        )

    def align(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Aligned nucleotides (B, P), start positions (B,) and alignment scores (B,), see `AlignedBarcodeOutput`."""
        if not torch.compiler.is_compiling() and not self.anchor_weight.any():
            raise RuntimeError("The model has no anchors yet. Load it with from_pretrained, or call fit_region first.")
        return self._place(nucleotides(input_ids, attention_mask))

    def _place(self, letters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """`align` for nucleotides (B, L) as 0 to 4."""
        positions = self.config.positions
        anchors = anchor_ids(letters, self.config.anchor_k)
        windows = anchors.shape[1]
        weight = self.anchor_weight.int().index_select(0, anchors.flatten()).view_as(anchors)
        place = self.anchor_position.index_select(0, anchors.flatten()).view_as(anchors)
        # Bin j of a row's votes is for the start j - windows.
        place = place + torch.arange(windows, 0, -1, device=letters.device)
        votes = torch.zeros(letters.shape[0], windows + positions, dtype=weight.dtype, device=letters.device)
        most, start = votes.scatter_add_(1, place, weight).max(1)
        start = torch.where(most > 0, start - windows, 0)  # without votes, the read starts with the region
        score = most / weight.sum(1).clamp(min=1)
        # Padded on both sides so that the region is inside for any start.
        source = torch.arange(positions, 2 * positions, device=letters.device) - start[:, None]  # (B, P)
        return F.pad(letters, (positions, positions), value=NOTHING).gather(1, source), start, score

    def contents(self) -> torch.Tensor:
        """Profile of each nucleotide at each position, (P, 5, 4); the last of the 5 is unknown and 0."""
        frequency = self.nucleotide_frequency
        known = torch.eye(4, dtype=frequency.dtype, device=frequency.device) - frequency[:, None]
        return F.pad(known, (0, 0, 0, 1))

    def profile(self, aligned: torch.Tensor) -> torch.Tensor:
        """Profiles (B, 4 P) of aligned barcodes (B, P)."""
        return F.embedding(table_rows(aligned), self.contents().flatten(0, 1)).flatten(1)

    def embed_aligned(self, aligned: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, D) of aligned barcodes (B, P)."""
        share = self.config.profile_weight
        parts = []
        if share > 0:
            parts.append(share**0.5 * F.normalize(self.profile(aligned), dim=1))
        if self.projection is not None:
            parts.append((1 - share) ** 0.5 * F.normalize(self._learned(aligned, self.projection), dim=1))
        return torch.cat(parts, dim=1)

    def _learned(self, aligned: torch.Tensor, projection: nn.Linear) -> torch.Tensor:
        """The learned part of embeddings, (B, embedding_size), not normalized."""
        rows, contents = table_rows(aligned), self.contents()
        if self.hidden is None or self.output is None:
            return weighted_sum(rows, contents, projection.weight)
        # These layers take normalized profiles.
        length = F.embedding_bag(rows, contents.square().sum(-1).view(-1, 1), mode="sum").sqrt()
        sums = weighted_sum(rows, contents, torch.cat([projection.weight, self.hidden.weight]))
        linear, hidden = (sums / length.clamp(min=1e-12)).split([len(projection.weight), len(self.hidden.bias)], 1)
        learned = linear + self.output(self.dropout(F.gelu(hidden + self.hidden.bias)))
        return learned.masked_fill(length == 0, 0)  # not the biases alone

    @torch.no_grad()
    def fit_region(self, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> int:
        """Fits anchors and nucleotide frequencies to barcodes, and returns the number of full-length ones.

        Barcodes exactly as long as the region define it; in the second round, those that are shifted are left out.
        All barcodes count for the frequencies. The projection starts as the principal components of the profiles, and
        the hidden layer starts without effect.

        Args:
            batches: Token ids and attention masks (B, L) of the barcodes. They are read four times and not kept, so
                any number of barcodes fits in memory; of an iterator, which ends, a byte is kept for each nucleotide.

        Raises:
            ValueError: if fewer than 2 barcodes are as long as the region.
        """
        if isinstance(batches, Iterator):
            kept = [nucleotides(ids, mask).to(torch.uint8) for ids, mask in batches]
            batches = [(part + FIRST_NUCLEOTIDE, part < NOTHING) for part in kept]

        def letters() -> Iterator[torch.Tensor]:
            for ids, mask in batches:
                yield from nucleotides(ids, mask).to(self.device).split(FITTED_ROWS)

        positions = self.config.positions
        found = self._find_anchors((self._whole(part)[1] for part in letters()), fewest=2)
        if found < 2:
            raise ValueError(
                f"{found} of the barcodes have exactly {positions} nucleotides, but 2 or more are needed to fit "
                f"the barcode region. Set `positions` to the most frequent length, or give more barcodes."
            )
        straight: list[torch.Tensor] = []  # for each part, whether each whole read starts with the region

        def straight_reads() -> Iterator[torch.Tensor]:
            for part in letters():
                _, reads = self._whole(part)
                straight.append(self._place(reads)[1] == 0)
                yield reads[straight[-1]]

        second = self._find_anchors(straight_reads(), fewest=1)
        if not second:
            straight = [torch.ones_like(rows) for rows in straight]
        counts = torch.full((positions, 4), 0.5, dtype=torch.float64, device=self.device)
        still = 0
        for part, rows in zip(letters(), straight, strict=True):
            aligned, start, _ = self._place(part)
            still += int((start[self._whole(part)[0]][rows] == 0).sum())
            counts += torch.stack([(aligned == letter).sum(0) for letter in range(4)], dim=1)
        self.nucleotide_frequency.copy_(counts / counts.sum(1, keepdim=True))
        if self.projection is not None:
            self._start_projection(self.projection, (self._place(part)[0] for part in letters()))
        if self.output is not None:
            self.output.weight.zero_()
            self.output.bias.zero_()
        return still or second or found

    def _whole(self, letters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Which barcodes (B, L) have the region's number of nucleotides and nothing before them; and these, (n, P)."""
        known, positions = letters < NOTHING, self.config.positions
        whole = (known.sum(1) == positions) & known[:, :positions].all(1)
        return whole, letters[whole, :positions] if whole.any() else letters.new_empty(0, positions)

    def _start_projection(self, projection: nn.Linear, aligned: Iterable[torch.Tensor]) -> None:
        """Sets the projection to the principal components of the profiles, the largest first."""
        size = self.config.profile_size
        covariance = torch.zeros(size, size, dtype=torch.float64, device=projection.weight.device)
        for part in aligned:
            profile = F.normalize(self.profile(part), dim=1)
            covariance += profile.T @ profile
        largest = torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, : len(projection.weight)]
        projection.weight.zero_()
        projection.weight[: largest.shape[1]] = largest.T.to(projection.weight)

    def _find_anchors(self, parts: Iterable[torch.Tensor], fewest: int) -> int:
        """Sets the position and weight of each k-mer from full-length barcodes (n, P), if there are the fewest needed.

        Returns their number.
        """
        kinds, windows = len(self.anchor_weight), self.config.positions - self.config.anchor_k + 1
        counts = torch.zeros(kinds * windows, dtype=torch.int64, device=self.device)
        reads = 0
        for part in parts:
            bins = anchor_ids(part, self.config.anchor_k) * windows + torch.arange(windows, device=self.device)
            counts += torch.bincount(bins.flatten(), minlength=kinds * windows)
            reads += len(part)
        if reads < fewest:
            return reads
        most, position = counts.view(kinds, windows).max(1)
        self.anchor_position.copy_(position)
        # The share of the k-mer's occurrences at this position, times about the square root of their number.
        reliable = most / (counts.view(kinds, windows).sum(1) + 1) ** 0.5
        self.anchor_weight.copy_((FULL_WEIGHT * reliable / reliable.max()).round())
        return reads

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def nucleotides(input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
    """Codes of token ids (B, L): 0 to 3 for A, C, G and T, 4 for others, int32."""
    letters = input_ids.int() - FIRST_NUCLEOTIDE
    nothing = (letters < 0) | (letters > 3)
    if attention_mask is not None:
        nothing |= attention_mask == 0
    return letters.masked_fill(nothing, NOTHING)


def anchor_ids(letters: torch.Tensor, k: int) -> torch.Tensor:
    """Alphabetical number of the k-mer that starts at each nucleotide, (B, max(1, L - k + 1)) int32.

    Windows with other letters than A, C, G and T have 4**k; a barcode shorter than k has one such window.
    """
    windows = letters.shape[1] - k + 1
    if windows < 1:
        return torch.full((letters.shape[0], 1), 4**k, dtype=torch.int32, device=letters.device)
    # Negative enough for any letters beside it, and still an int32 with k up to 8.
    digits = letters.masked_fill(letters == NOTHING, -(4**k))
    number = digits[:, :windows]
    for place in range(1, k):
        number = torch.add(digits[:, place : place + windows], number, alpha=4)
    return number.masked_fill(number < 0, 4**k)


def table_rows(aligned: torch.Tensor) -> torch.Tensor:
    """Rows (B, P) of aligned barcodes (B, P) in tables with 5 rows for each position."""
    return aligned + torch.arange(0, 5 * aligned.shape[1], 5, dtype=aligned.dtype, device=aligned.device)


def weighted_sum(rows: torch.Tensor, contents: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Products (B, E) of profiles, given as rows (B, P) of the table (P, 5, 4), with a weight (E, 4 P)."""
    table = torch.einsum("epn,pcn->pce", weight.view(len(weight), -1, 4), contents)  # (P, 5, E)
    return F.embedding_bag(rows, table.flatten(0, 1), mode="sum")


# `save_pretrained` and `push_to_hub` then copy this file and the files it imports.
AlignedBarcodeModel.register_for_auto_class("AutoModel")
