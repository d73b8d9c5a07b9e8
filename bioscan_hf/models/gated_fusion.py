"""Gated fusion of the embeddings of a photo and a barcode, of which either may be missing.

Source: CLiBD-HiR-Fuse, https://arxiv.org/abs/2603.25573, whose fused vectors have unit length in training only.
Shape letters: B = batch, E = embedding size.
"""

import torch
from torch import nn


class FusionGate(nn.Module):
    """Weighs each number of two embeddings: gate * image + (1 - gate) * dna, of unit length."""

    def __init__(self, size: int):
        super().__init__()
        self.hidden = nn.Linear(2 * size, 2 * size)
        self.output = nn.Linear(2 * size, size)

    def gate(self, image: torch.Tensor, dna: torch.Tensor) -> torch.Tensor:
        """Weights (B, E) of the photo in [0, 1], from embeddings (B, E)."""
        return self.output(self.hidden(torch.cat([image, dna], 1)).relu()).sigmoid()

    def forward(
        self,
        image: torch.Tensor,
        dna: torch.Tensor,
        image_present: torch.Tensor | None = None,
        dna_present: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Unit vectors (B, E); the embedding of the other modality where one is missing, zeros where both are.

        Args:
            image, dna: Unit vectors (B, E). Those of missing inputs may hold any values.
            image_present, dna_present: Which rows have a photo or a barcode, bool (B,); None is all.
        """
        everything = torch.ones(len(image), dtype=torch.bool, device=image.device)
        has_image = everything if image_present is None else image_present.bool()
        has_dna = everything if dna_present is None else dna_present.bool()
        image, dna = image.masked_fill(~has_image[:, None], 0), dna.masked_fill(~has_dna[:, None], 0)
        gate = self.gate(image.to(self.hidden.weight.dtype), dna.to(self.hidden.weight.dtype)).to(image.dtype)
        gate = gate.masked_fill(~has_dna[:, None], 1).masked_fill(~has_image[:, None], 0)
        fused = gate * image + (1 - gate) * dna
        return nn.functional.normalize(fused.masked_fill(~(has_image | has_dna)[:, None], 0), dim=-1)
