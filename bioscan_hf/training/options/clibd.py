"""Options of CLIBD training."""

from __future__ import annotations

from dataclasses import dataclass

from ...models.taxonomy_text import TEXT_TEMPLATES
from .shared import FORCE_HELP, TrainingDefaults, option, required

#: Metric that chooses the best checkpoint: photos find barcodes of their species, macro top-1 accuracy, harmonic mean
#: of seen and unseen species.
BEST_BY = "image_to_dna_harmonic_mean"


@dataclass
class ClibdOptions:
    """Options of CLIBD training: data, model and loss."""

    source: str = required("Hub id (or ID@REVISION), Parquet folder, or release folder of BIOSCAN-5M.")
    model: str | None = option(None, "Folder or Hub id (or ID@REVISION) of a CLIBD model to continue from.")
    image_encoder: str | None = option(
        None,
        "New model: a photo encoder such as timm/vit_base_patch16_224.augreg2_in21k_ft_in1k, efficientnet-lite0 (of "
        "a Python package), or new:ARCHITECTURE for one of timm's architectures with random weights.",
    )
    dna_encoder: str | None = option(None, "New model: a BarcodeBERT, such as bioscan-ml/BarcodeBERT.")
    text_encoder: str | None = option(
        None, "New model: a text encoder such as prajjwal1/bert-small. With fewer than two encoders: these three."
    )
    architecture: str = option("improved", "New model: 'improved', or 'published' for the released models' heads.")
    projection_dim: int = option(768, "New model: width of the shared embedding space.")
    preset: str = option("none", "'published', 'published-simclr', or 'none'.")
    objective: str = option("contrast", "'contrast' between modalities, or 'simclr' between views of one modality.")
    simclr_modalities: list[str] = option(["image"], "simclr: modalities to train separately: image, dna.")
    loss: str = option("softmax", "contrast: 'softmax' (CLIP's, as published) or 'siglip' (pairwise).")
    image_config: str = option("cropped_256", "Image package of the source.")
    train_split: str = option("pretrain+train", "Split to train on; 'a+b' joins two.")
    max_train_specimens: int | None = option(
        None, "Train on this many specimens of the split. Smaller numbers are subsets of larger ones. Default: all."
    )
    streaming: bool = option(False, "Read the data during training, without a copy of it in the cache.")
    stream_buffer: int = option(10_000, "Rows of the shuffle buffer of a stream.")
    key_splits: str = option("train+key_unseen", "Validation: splits of the keys; 'none' for no validation.")
    seen_split: str = option("val", "Validation: queries of seen species.")
    unseen_split: str = option("val_unseen", "Validation: queries of unseen species.")
    text_templates: list[str] | None = option(
        None, f"Templates of the text, drawn at random: {', '.join(TEXT_TEMPLATES)}. Default: the processor's own."
    )
    label_columns: list[str] | None = option(
        None, "Ranks, or dna_bin, at which equal taxa are positives. Default: each specimen is its own class."
    )
    rank_weights: list[float] | None = option(
        None, "Weight of each of the --label_columns in the loss. Default: equal weights."
    )
    target_normalization: str = option("mean", "'mean' over the positives of a row, or 'none' (sum), as published.")
    pairs: list[str] | None = option(None, "Pairs to compare, such as image-dna dna-text. Default: all.")
    bind_to: str | None = option(None, "Compare only this modality with each other one.")
    mask_duplicates: list[str] = option(
        ["dna", "text"], "Modalities whose equal inputs in a batch are not negatives; 'none'."
    )
    fusion_weight: float = option(
        0.0, "Weight of the loss of photo and barcode fused, against the text (published: 1); 0 for no fusion."
    )
    hir_weight: float = option(
        0.0,
        "Weight of the loss of photos over the chain species, genus, family, order (published: 0.01); 0 for none.",
    )
    hir_views: int = option(1, "Random crops of each photo that --hir_weight compares (published: 2).")
    chain_batches: bool = option(False, "Make batches of chains: rows of one species, genus, family and order.")
    distinct: str = option("none", "Column, such as dna_barcode, whose values occur once in a batch; 'none'.")
    augment_on_device: bool = option(False, "Crop and flip photos on the GPU; the data loader only decodes them.")
    rows_at_a_time: int = option(
        0, "Rows per forward pass; saves memory for a second forward pass; 0: the whole batch."
    )
    chunk_size: int = option(0, "Rows whose similarities are in memory at once; 0: all.")
    fixed_temperature: bool = option(False, "Do not train the temperature.")
    temperature: float = option(0.07, "simclr: temperature of the loss.")
    freeze: list[str] | None = option(None, "Modalities whose encoders are not trained.")
    lora_rank: int = option(0, "Rank of low-rank adapters (published: 4); 0 for none.")
    force: bool = option(False, FORCE_HELP)


@dataclass
class ClibdDefaults(TrainingDefaults):
    """Training defaults of this recipe."""

    output_dir: str = option("clibd", "Folder of the model and the results.")
    learning_rate: float = option(5e-5, "Peak learning rate.")
    per_device_train_batch_size: int = option(500, "Specimens per process and batch.")
    num_train_epochs: float = option(20.0, "Passes over the training split.")
    weight_decay: float = option(0.01, "Weight decay of AdamW.")
    warmup_steps: float = option(0.1, "Steps of warm-up; below 1, a share of all steps.")
    dataloader_drop_last: bool = option(True, "Leave it on: processes need equal batches.")
    load_best_model_at_end: bool = option(True, "Keep the model of the best validation.")
    metric_for_best_model: str | None = option(BEST_BY, "Metric of the best validation.")
