"""Options of contrastive training of barcode encoders."""

from __future__ import annotations

from dataclasses import dataclass

from .shared import FORCE_HELP, SOURCE_HELP, TrainingDefaults, option, required

#: Validation split -> rank at which its nearest neighbours in the split `train` are compared.
QUESTIONS = {"val": "species", "val_unseen": "genus"}


@dataclass
class ContrastOptions:
    """Options of contrastive training: data, model, loss and alterations."""

    source: str = required(SOURCE_HELP)
    model: str = option("aligned", "'aligned' for a new encoder, or a folder or Hub id.")
    train_split: str = option("train", "Split to train on; 'a+b' joins two.")
    validation_splits: list[str] = option(list(QUESTIONS), f"Some of {', '.join(QUESTIONS)}; 'none' for none.")
    unique_barcodes: bool = option(True, "Keep one specimen per barcode.")
    ranks: list[str] = option(["species"], "Ranks, or dna_bin, at which equal taxa are positives.")
    labels: str | None = option(None, "File labels.json with the label ids. Default: those of --source.")
    rank_weights: list[float] | None = option(None, "One weight for each of --ranks. Default: equal weights.")
    temperature: float = option(0.1, "Temperature of the loss.")
    views: int = option(1, "Altered reads of each barcode in a batch.")
    truncation: float = option(0.5, "Probability that a read is cut at an end.")
    largest_cut: float = option(0.4, "Largest share that is cut off at an end.")
    substitution: float = option(0.01, "Substitution rate at first and second codon positions.")
    third_substitution: float = option(0.01, "Substitution rate at third codon positions.")
    unread: float = option(0.0, "Probability that a stretch becomes N.")
    positions: int = option(658, "aligned: nucleotides of a full barcode.")
    embedding_size: int = option(512, "aligned: width of the learned part; 0 for none.")
    hidden_size: int = option(0, "aligned: width of the hidden layer; 0 for none.")
    profile_weight: float | None = option(
        None, "aligned: share of the profile in the cosine. Default: 0, or 1 with --embedding_size 0."
    )
    force: bool = option(False, FORCE_HELP)


@dataclass
class ContrastDefaults(TrainingDefaults):
    """Training defaults of this recipe."""

    output_dir: str = option("barcode_encoder", "Folder of the model and the results.")
    learning_rate: float = option(3e-4, "Peak learning rate.")
    per_device_train_batch_size: int = option(1024, "Barcodes per process and batch.")
    num_train_epochs: float = option(0.0, "Passes over the training split; 0 only fits an aligned encoder.")
    weight_decay: float = option(0.01, "Weight decay of AdamW.")
    warmup_steps: float = option(0.1, "Steps of warm-up; below 1, a share of all steps.")
    eval_strategy: str = option("no", "Leave it at 'no': validation runs at the end.")
    dataloader_drop_last: bool = option(True, "Leave out an incomplete last batch; processes need equal batches.")
