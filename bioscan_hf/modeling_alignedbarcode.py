"""The aligned-barcode encoder: puts a barcode in its place in the barcode region and compares it there.

Barcodes of one marker are nearly free of insertions and deletions, so homologous nucleotides can be found without
aligning pairs: k-mers that occur at one position of the region (anchors) vote for where a read begins. Its profile
says at each position which nucleotide it has, less how frequent that nucleotide is there, and 0 where the read says
nothing. The cosine of two profiles weighs agreement in rare nucleotides more than in common ones, as tf-idf does with
words. A learned projection of the profile makes the embedding small.

Uploaded to the Hub beside the weights: needs torch, transformers and the configuration file beside it.
Shape letters: B = batch, L = nucleotides, P = positions of the region, V = 4**anchor_k, D = embedding size.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_alignedbarcode import AlignedBarcodeConfig

#: Token id of A; C, G and T follow. Whatever else there is, is no nucleotide.
FIRST_NUCLEOTIDE = 2

#: Stands for "no nucleotide here" among 0 (A), 1 (C), 2 (G) and 3 (T).
NOTHING = 4

#: Anchor weights are whole numbers, which keep their value in any precision: an anchor that is always right has this.
FULL_WEIGHT = 1000

#: A barcode whose best place has less than this share of its anchors' votes is hardly one of this region.
LOW_ALIGNMENT = 0.15


@dataclass
class AlignedBarcodeOutput(ModelOutput):
    """What `AlignedBarcodeModel` gives.

    Attributes:
        pooler_output: Embeddings of length 1, (B, D); zeros for a barcode without a nucleotide in the region.
        aligned: Nucleotide at each position, 0 to 3 for A, C, G, T and 4 for none, (B, P) int64.
        start: Position of the first nucleotide, negative if the read begins before the region, (B,) int64.
        alignment_score: Share of the anchors' votes that agree on the place, in [0, 1], (B,). Below about 0.15 the
            read is hardly of this region, or on the other strand.
    """

    pooler_output: torch.Tensor | None = None
    aligned: torch.Tensor | None = None
    start: torch.Tensor | None = None
    alignment_score: torch.Tensor | None = None


class AlignedBarcodeModel(PreTrainedModel):
    """Encodes barcodes by what they have at each position of the barcode region.

    Where the anchors are and how frequent each nucleotide is at each position are fitted to barcodes without labels
    (`fit_region`); they are saved with the weights. Insertions and deletions are not followed: behind one, a read
    compares like a stranger (in about 1 % of insects).
    """

    config_class = AlignedBarcodeConfig
    config: AlignedBarcodeConfig
    base_model_prefix = "aligned_barcode"
    main_input_name = "input_ids"

    anchor_position: torch.Tensor
    anchor_weight: torch.Tensor

    def __init__(self, config: AlignedBarcodeConfig):
        super().__init__(config)
        anchors = 4**config.anchor_k + 1  # the last one stands for windows with something else than A, C, G, T
        self.register_buffer("anchor_position", torch.zeros(anchors, dtype=torch.int64))
        self.register_buffer("anchor_weight", torch.zeros(anchors, dtype=torch.int64))
        # Fitted, not trained; a parameter, because a model without one has no dtype.
        self.nucleotide_frequency = nn.Parameter(torch.full((config.positions, 4), 0.25), requires_grad=False)
        self.projection = self.hidden = self.output = None
        if config.embedding_size:
            self.projection = nn.Linear(config.profile_size, config.embedding_size, bias=False)
            if config.hidden_size:
                self.hidden = nn.Linear(config.profile_size, config.hidden_size)
                self.dropout = nn.Dropout(config.dropout)
                self.output = nn.Linear(config.hidden_size, config.embedding_size)
        self.post_init()

    @can_return_tuple
    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, return_dict: bool | None = None
    ) -> AlignedBarcodeOutput:
        """Nucleotides (B, L), as `KmerTokenizer(k=1)` gives them, to embeddings.

        Args:
            attention_mask: 1 for nucleotides, 0 for padding, (B, L); None counts all.

        Raises:
            RuntimeError: if the model was neither loaded nor fitted.
        """
        aligned, start, score = self.align(input_ids, attention_mask)
        return AlignedBarcodeOutput(
            pooler_output=self.embed_aligned(aligned), aligned=aligned, start=start, alignment_score=score
        )

    def align(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Nucleotides in their place (B, P), the places of the first ones (B,), and the alignment scores (B,)."""
        if not self.anchor_weight.any():
            raise RuntimeError("The model has no anchors yet. Load it with from_pretrained, or call fit_region first.")
        letters = nucleotides(input_ids, attention_mask)
        anchors = anchor_ids(letters, self.config.anchor_k)
        length, windows = letters.shape[1], anchors.shape[1]
        # Bin j of a row's votes stands for the start j - windows.
        place = self.anchor_position[anchors] - torch.arange(windows, device=letters.device) + windows
        weight = self.anchor_weight[anchors]
        votes = torch.zeros(len(letters), windows + self.config.positions, dtype=weight.dtype, device=letters.device)
        most, start = votes.scatter_add_(1, place, weight).max(1)
        start = start - windows
        score = most / weight.sum(1).clamp(min=1)
        start = torch.where(most > 0, start, 0)  # without any vote, a read is taken to begin where the region does
        source = torch.arange(self.config.positions, device=letters.device) - start[:, None]  # (B, P)
        inside = (source >= 0) & (source < length)
        aligned = letters.gather(1, source.clamp(0, length - 1))
        return aligned.masked_fill(~inside, NOTHING), start, score

    def profile(self, aligned: torch.Tensor) -> torch.Tensor:
        """Profiles (B, 4 P) of aligned barcodes (B, P): 1 for the nucleotide that is there, less its frequency."""
        there = torch.nn.functional.one_hot(aligned, 5)[..., :4] - self.nucleotide_frequency
        return there.masked_fill((aligned == NOTHING).unsqueeze(-1), 0).flatten(1)

    def embed_aligned(self, aligned: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, D) of aligned barcodes (B, P)."""
        profile = nn.functional.normalize(self.profile(aligned), dim=1)
        if self.projection is None:
            return profile
        learned = self.projection(profile)
        if self.hidden is not None and self.output is not None:
            learned = learned + self.output(self.dropout(nn.functional.gelu(self.hidden(profile))))
        learned = nn.functional.normalize(learned, dim=1)
        share = self.config.profile_weight
        if share == 0:
            return learned
        return torch.cat([share**0.5 * profile, (1 - share) ** 0.5 * learned], dim=1)

    @torch.no_grad()
    def fit_region(self, batches: Iterable[tuple[torch.Tensor, torch.Tensor]], *, rounds: int = 2) -> int:
        """Finds anchors and nucleotide frequencies in barcodes, without labels, and gives how many were whole ones.

        The barcodes that are exactly as long as the region define it. Those of them that turn out to be shifted are
        left out in further rounds. All barcodes count for the frequencies. The projection begins as the principal
        components of the profiles, and the hidden layer at zero.

        Args:
            batches: Token ids and attention masks (B, L) of the barcodes, as the tokenizer gives them; passed over
                several times, so no generator.
            rounds: Times that the anchors are found.

        Raises:
            ValueError: if fewer than 2 barcodes are as long as the region.
        """
        positions, k = self.config.positions, self.config.anchor_k
        whole = [letters[(letters < NOTHING).sum(1) == positions, :positions] for letters in _letters(batches)]
        reads = torch.cat([part for part in whole if part.shape[1] == positions] or [torch.empty(0, positions)]).long()
        reads = reads[(reads < NOTHING).all(1)]
        if len(reads) < 2:
            raise ValueError(
                f"{len(reads)} of the barcodes have exactly {positions} nucleotides, but the barcode region is fitted "
                f"to 2 or more that do. Set `positions` to the most frequent length, or give more barcodes."
            )
        for _ in range(rounds):
            self._find_anchors(anchor_ids(reads, k))
            _, start, _ = self.align(reads + FIRST_NUCLEOTIDE)
            reads = reads[start == 0] if (start == 0).any() else reads
        counts = torch.full((positions, 4), 0.5, dtype=torch.float64, device=reads.device)
        covariance = torch.zeros(4 * positions, 4 * positions, dtype=torch.float64, device=reads.device)
        aligned = [self.align(ids, mask)[0] for ids, mask in batches]
        for part in aligned:
            counts += nn.functional.one_hot(part, 5)[..., :4].sum(0)
        self.nucleotide_frequency.copy_(counts / counts.sum(1, keepdim=True))
        if self.projection is not None:
            for part in aligned:
                profile = nn.functional.normalize(self.profile(part), dim=1)
                covariance += (profile.T @ profile).double()
            largest = torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, : self.config.embedding_size]
            self.projection.weight.zero_()
            self.projection.weight[: largest.shape[1]] = largest.T.to(self.projection.weight)
            if self.output is not None:
                self.output.weight.zero_()
                self.output.bias.zero_()
        return len(reads)

    def _find_anchors(self, anchors: torch.Tensor) -> None:
        """Position and weight of each k-mer from those at each position of whole barcodes (B, windows)."""
        kinds, windows = len(self.anchor_weight), anchors.shape[1]
        places = torch.arange(windows, device=anchors.device).expand_as(anchors)
        counts = torch.bincount((anchors * windows + places).flatten(), minlength=kinds * windows)
        counts = counts.view(kinds, windows).double()
        counts[-1] = 0
        most, position = counts.max(1)
        self.anchor_position.copy_(position)
        # The share of the k-mer's occurrences that are at this position, less for k-mers that were seen seldom.
        share = most / (counts.sum(1) + 1) ** 0.5
        self.anchor_weight.copy_((FULL_WEIGHT * share / share.max()).round())

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def nucleotides(input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
    """Token ids (B, L) as 0 to 3 for A, C, G and T, and 4 for all else."""
    letters = input_ids - FIRST_NUCLEOTIDE
    nothing = (letters < 0) | (letters > 3)
    if attention_mask is not None:
        nothing |= attention_mask == 0
    return letters.masked_fill(nothing, NOTHING)


def anchor_ids(letters: torch.Tensor, k: int) -> torch.Tensor:
    """Number of the k-mer that begins at each nucleotide, in alphabetical order, (B, max(1, L - k + 1)).

    4**k stands for a window with anything but A, C, G and T; a barcode shorter than k has one such window.
    """
    windows = letters.shape[1] - k + 1
    if windows < 1:
        return torch.full((len(letters), 1), 4**k, dtype=torch.int64, device=letters.device)
    number = torch.zeros(len(letters), windows, dtype=torch.int64, device=letters.device)
    broken = torch.zeros_like(number, dtype=torch.bool)
    for place in range(k):
        part = letters[:, place : place + windows]
        number = 4 * number + part
        broken |= part == NOTHING
    return number.masked_fill(broken, 4**k)


def _letters(batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Iterable[torch.Tensor]:
    return (nucleotides(ids, mask) for ids, mask in batches)


# Makes `save_pretrained` and `push_to_hub` put this file and the configuration file beside the weights.
AlignedBarcodeModel.register_for_auto_class("AutoModel")
