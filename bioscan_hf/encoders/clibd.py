"""The encoders of a CLIBD model: photos, barcodes and taxonomies, one encoder for each modality.

Source: CLIBD, https://arxiv.org/abs/2405.17537
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from torch import Tensor

from ..models.modeling_clibd import ClibdModel
from ..models.taxonomy_text import clibd_text
from ..schema import LABEL_COLUMNS, RANKS
from .base import Encoder
from .embed import embed
from .image_encoders import clibd_image_encoder


class TaxonomyEncoder(Encoder):
    """The text encoder of CLIBD. The value of a row is the text of its taxonomy."""

    def __init__(self, model: ClibdModel, template: str):
        super().__init__(model, clibd_text_features, columns=tuple(RANKS), description="clibd text")
        self.template = template

    def values(self, table: pa.Table) -> list[str | None]:
        """Text of the taxonomy of each row; None where no rank is known."""
        return [clibd_text(row, self.template) for row in table.select(list(self.columns)).to_pylist()]


def clibd_encoders(model: ClibdModel, processor: Any, workers: int = 1) -> dict[str, tuple[Encoder, Any]]:
    """Modality -> model and processor for `embed`, for each modality of a CLIBD model.

    Args:
        processor: Its `ClibdProcessor`.
        workers: Threads that decode photos.
    """
    encoders: dict[str, Callable[[], tuple[Encoder, Any]]] = {
        "image": lambda: clibd_image_encoder(model, processor.image_processor, workers=workers),
        "dna": lambda: (Encoder(model, clibd_dna_features, description="clibd dna"), processor.dna_tokenizer),
        "text": lambda: (TaxonomyEncoder(model, processor.text_template), partial(_tokens_of_texts, processor)),
    }
    return {modality: encoders[modality]() for modality in model.config.modalities}


def embed_clibd(
    model: ClibdModel, processor: Any, dataset: Any, output: str | Path, *, workers: int = 1, **options: Any
) -> None:
    """Writes embeddings of each modality to `output`/MODALITY, with the labels. See `embed`.

    A row without a photo, a barcode or a taxonomy is written as not valid for that modality.

    Args:
        processor: The `ClibdProcessor` of the model.
        dataset: A map-style `datasets.Dataset` with processid, `LABEL_COLUMNS`, dna_barcode, and image for photos.
        workers: Threads that decode photos.
        options: batch_size, shard_size and dtype of `embed`.
    """
    for modality, encoder in clibd_encoders(model, processor, workers).items():
        how: dict[str, Any] = {"keep": LABEL_COLUMNS, "missing": "invalid", **options}
        embed(*encoder, dataset, output=Path(output) / modality, **how)


def clibd_dna_features(network: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Unit vectors of barcodes in the space that CLIBD shares with photos and taxonomy."""
    return network.get_dna_features(input_ids, attention_mask)


def clibd_text_features(network: Any, text_input_ids: Tensor, text_attention_mask: Tensor) -> Tensor:
    """Unit vectors of texts in the space that CLIBD shares with photos and barcodes."""
    return network.get_text_features(text_input_ids, text_attention_mask)


def _tokens_of_texts(processor: Any, texts: list[str]) -> dict[str, Tensor]:
    return dict(processor(text=texts))
