"""The encoders of a CLIBD model (https://arxiv.org/abs/2405.17537): photos, barcodes and taxonomies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
from torch import Tensor

from ..models.modeling_clibd import ClibdModel
from ..models.processing_clibd import ClibdProcessor
from ..models.taxonomy_text import clibd_text
from ..schema import LABEL_COLUMNS, RANKS
from .base import Encoder
from .embed import embed
from .fused import embed_fused
from .image_encoders import clibd_image_encoder


class TaxonomyEncoder(Encoder):
    """The text encoder of CLIBD, for the taxonomy of a row."""

    def __init__(self, model: ClibdModel, template: str):
        super().__init__(model, clibd_text_features, columns=tuple(RANKS), description="clibd text")
        self.template = template

    def values(self, table: pa.Table) -> list[str | None]:
        return [clibd_text(row, self.template) for row in table.select(list(self.columns)).to_pylist()]


def load_clibd_barcodes(name: str, **hub: Any) -> tuple[Encoder, Any]:
    """The barcode tower of a CLIBD model and its tokenizer, from a folder or Hub id.

    Raises:
        ValueError: if the model has no encoder of barcodes.
    """
    model = ClibdModel.from_pretrained(name, **hub)
    if "dna" not in model.config.modalities:
        raise ValueError(
            f"The CLIBD model {name!r} has encoders of {', '.join(model.config.modalities)}, but not of barcodes."
        )
    tokenizer = ClibdProcessor.from_pretrained(name, **hub).dna_tokenizer
    return Encoder(model, clibd_dna_features, description="clibd dna"), tokenizer


def embed_clibd(
    model: ClibdModel, processor: Any, dataset: Any, output: str | Path, *, workers: int = 1, **options: Any
) -> None:
    """Writes embeddings of each modality to `output`/MODALITY, with the labels. See `embed`.

    A model with `fusion` also writes those of photo and barcode together, to `output`/fused.

    A row without a photo, a barcode or a taxonomy is written as not valid for that modality.

    Args:
        processor: The `ClibdProcessor` of the model.
        dataset: A map-style `datasets.Dataset` with processid, `LABEL_COLUMNS`, dna_barcode, and image for photos.
        workers: Threads that decode photos.
        options: batch_size, shard_size and dtype of `embed`.
    """
    encoders: dict[str, Callable[[], tuple[Encoder, Any]]] = {
        "image": lambda: clibd_image_encoder(model, processor.image_processor, workers=workers),
        "dna": lambda: (Encoder(model, clibd_dna_features, description="clibd dna"), processor.dna_tokenizer),
        "text": lambda: (TaxonomyEncoder(model, processor.text_template), lambda texts: dict(processor(text=texts))),
    }
    how: dict[str, Any] = {"keep": LABEL_COLUMNS, "missing": "invalid", **options}
    for modality in model.config.modalities:
        embed(*encoders[modality](), dataset, output=Path(output) / modality, **how)
    if model.config.fusion:
        embed_fused(model, Path(output) / "image", Path(output) / "dna", Path(output) / "fused")


def clibd_dna_features(network: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Unit vectors of barcodes in the shared space of CLIBD."""
    return network.get_dna_features(input_ids, attention_mask)


def clibd_text_features(network: Any, text_input_ids: Tensor, text_attention_mask: Tensor) -> Tensor:
    """Unit vectors of texts in the shared space of CLIBD."""
    return network.get_text_features(text_input_ids, text_attention_mask)
