"""Options of fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass

from .shared import FORCE_HELP, SOURCE_HELP, option, required


@dataclass
class FinetuningOptions:
    """Options of fine-tuning: data, model and classes."""

    source: str = required(SOURCE_HELP)
    model: str = required(
        "Folder or Hub id (or ID@REVISION) of the pretrained model; the head of a classifier is left out."
    )
    ranks: list[str] = option(["species"], "Ranks to classify, or dna_bin.")
    preset: str = option("default", "'default', or 'published' for the published recipe.")
    train_split: str = option("train", "Split to train on; 'a+b' joins two.")
    validation_split: str = option("val", "Split to validate on; 'none' for no validation.")
    test_splits: list[str] = option(["test"], "Splits to test on at the end; 'none' for no test.")
    unique_barcodes: bool = option(False, "Train on one specimen per barcode.")
    pooling: str = option("masked_mean", "'masked_mean', or 'mean' over padding too, as published.")
    random_offset: bool = option(True, "Draw the reading frame of each barcode in each epoch.")
    freeze_encoder: bool = option(False, "Train only the head.")
    encoder_dropout: bool | None = option(None, "Dropout in the encoder. Default: on, unless the encoder is frozen.")
    class_weights: str = option(
        "none", "'inverse_sqrt' weighs the classes of a rank by n ** -0.5 for n training rows; 'none' equally."
    )
    label_smoothing: list[float] = option(
        [],
        "Shares of the target, one per rank: for the descendants of the label of each higher rank, then for all "
        "classes; such as 0.02 0.02 0.02 0 for four ranks.",
    )
    lora_rank: int = option(0, "Rank of a low-rank adapter; 0 trains all weights.")
    force: bool = option(False, FORCE_HELP)
