"""Options, data and Trainer for pretraining.

Source: BarcodeBERT, https://arxiv.org/abs/2311.02401
Shape letters: B = batch, L = tokens, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from transformers import PreTrainedModel, TrainingArguments

from ..barcodes import first_of_each_barcode
from ..dataset.load import load_bioscan5m
from ..dataset.request import prepare
from ..labels import LabelMaps
from ..models.configuration_barcodemamba import OBJECTIVES
from ..schema import ROW_COLUMN, resolve_splits
from .arguments import check_workers
from .checks import check_metric, check_training
from .inputs import check_rows, load_rows, split_revision
from .masking import IGNORED
from .options.pretrain import PretrainingOptions
from .trainer import BarcodeTrainer

DEDUPLICATIONS = ("none", "split", "upstream")

BACKBONES = ("bert", "mamba")


def check_options(options: PretrainingOptions, training_args: TrainingArguments) -> None:
    """Raises ValueError for options that are unknown or exclude each other."""
    choices = {"deduplicate": DEDUPLICATIONS, "backbone": BACKBONES, "objective": OBJECTIVES}
    for name, allowed in choices.items():
        if getattr(options, name) not in allowed:
            raise ValueError(f"Unknown --{name} {getattr(options, name)!r}. Choose one of {', '.join(allowed)}.")
    weight = options.masked_loss_weight
    if (options.loss_on == "weighted") != (weight is not None) or not 0 <= (weight or 0) <= 1:
        raise ValueError(
            f"--masked_loss_weight is {weight} and --loss_on is {options.loss_on!r}. Give a weight in [0, 1] together "
            f"with --loss_on weighted, or neither."
        )
    if options.loss_on == "all" and options.mlm_head != "tied":
        raise ValueError(
            f"--loss_on all predicts padding, for which --mlm_head {options.mlm_head} has no class. Use --mlm_head "
            f"tied or --loss_on valid."
        )
    if options.backbone == "mamba" and options.mlm_head != "kmers":
        raise ValueError(f"--mlm_head is {options.mlm_head!r}, but --backbone mamba has only the head 'kmers'.")
    if options.objective == "next" and (options.backbone, options.loss_on) != ("mamba", "masked"):
        raise ValueError(
            f"--objective next needs --backbone mamba (given: {options.backbone}), because other encoders would see "
            f"the next k-mer, and masks nothing: leave --loss_on (given: {options.loss_on}) out."
        )
    check_workers(training_args)
    check_training(training_args)
    if training_args.load_best_model_at_end and options.validation_split == "none":
        raise ValueError("--load_best_model_at_end needs a --validation_split.")
    check_metric(training_args, ["loss", f"{options.objective}_loss", f"{options.objective}_accuracy"])


# ---- barcodes -------------------------------------------------------------------------------------------------------


def load_barcodes(source: str, split: str, deduplicate: str, max_nucleotides: int) -> Dataset:
    """The barcodes of a split, without labels.

    Args:
        deduplicate: "none" keeps each row; "split" keeps the first row of each barcode in the split; "upstream" keeps
            the first row of each barcode in the whole metadata file, whatever its split, as in the published code.
            Trailing N does not count. "split" compares barcodes after cutting to `max_nucleotides`, "upstream" before.

    Raises:
        ValueError: if there are no rows, or rows without a barcode; or if "upstream" is used with a source that does
            not hold all rows of a metadata file and their order.
    """
    if deduplicate == "upstream":
        data = _first_of_the_file(source, split, max_nucleotides)
        check_rows(data, source, split)
        return data
    unique = deduplicate == "split"
    data = load_rows(source, split, max_nucleotides=max_nucleotides, unique_barcodes=unique)
    return data.select_columns(["dna_barcode"])


def _first_of_the_file(source: str, split: str, max_nucleotides: int) -> Dataset:
    """Rows of a split that are the first of their barcode in the metadata file, in the order of the file."""
    advice = "Build the whole release with `bioscan-hf build`, or use --deduplicate split."
    try:
        name, revision = split_revision(source)
        columns = ["dna_barcode", ROW_COLUMN]
        parts = load_bioscan5m(name, columns=columns, max_nucleotides=None, revision=revision)
    except ValueError as error:
        if ROW_COLUMN not in str(error):
            raise
        raise ValueError(
            f"--deduplicate upstream needs the order of the metadata file, which {source!r} does not tell. {advice}"
        ) from None
    whole = concatenate_datasets(list(parts.values()))
    numbers = whole.data.column(ROW_COLUMN).to_numpy()
    if numbers.max(initial=-1) != len(numbers) - 1:
        raise ValueError(
            f"--deduplicate upstream needs all rows of the metadata file; {source!r} lacks some. {advice}"
        )
    order = np.argsort(numbers)
    first = order[first_of_each_barcode(whole.select(order))]
    wanted = [name in resolve_splits(split) for name in parts]
    chosen = first[np.repeat(wanted, [len(part) for part in parts.values()])[first]]
    return prepare(whole.select(chosen).select_columns(["dna_barcode"]), LabelMaps({}), max_nucleotides)


# ---- losses ---------------------------------------------------------------------------------------------------------


def weighted_loss(
    logits: torch.Tensor, labels: torch.Tensor, masked: torch.Tensor, weight: float, counts: torch.Tensor
) -> torch.Tensor:
    """`weight` times the mean loss of masked k-mers plus (1 - `weight`) times that of visible ones, in nats.

    Args:
        logits: Of all tokens, (B, L, V).
        labels: Token ids (B, L), -100 where nothing is predicted.
        masked: Which k-mers are masked, bool (B, L).
        counts: Masked and visible k-mers (2,) of the whole step, of which this batch may be a part.
    """
    losses = torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
    )
    masked = masked.flatten()
    shares = torch.tensor([weight, 1 - weight], device=losses.device) / counts.clamp(min=1)
    return shares[0] * losses[masked].sum() + shares[1] * losses[~masked].sum()


class PretrainingTrainer(BarcodeTrainer):
    """A Trainer with sparse logits and a weighted loss.

    Args:
        sparse: Whether training applies the head only to labelled positions. Evaluation needs all logits.
        masked_loss_weight: Weight of the masked k-mers, for batches that have `masked`.
    """

    def __init__(self, *args: Any, sparse: bool = False, masked_loss_weight: float | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.sparse, self.masked_loss_weight = sparse, masked_loss_weight
        self.counts = torch.zeros(2)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """A step forward and backward; with `sparse`, the head is applied only to labelled positions."""
        if not self.sparse:
            return super().training_step(*args, **kwargs)
        config = cast(PreTrainedModel, self.model).config
        config.sparse_prediction = True
        try:
            return super().training_step(*args, **kwargs)
        finally:
            config.sparse_prediction = False  # for evaluation and for the saved config

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Any]:
        """The batches of a step; also counts their masked and visible k-mers over all processes."""
        batches, labels = super().get_batch_samples(*args, **kwargs)
        if self.masked_loss_weight is not None and batches:
            self.counts = self._count(batches)
        return batches, labels

    def _count(self, batches: Sequence[Mapping[str, torch.Tensor]]) -> torch.Tensor:
        """Masked and visible k-mers (2,) of the batches of a step, over all processes."""
        masked = sum(batch["masked"].sum() for batch in batches)
        labelled = sum((batch["labels"] != IGNORED).sum() for batch in batches)
        counts = torch.stack([torch.as_tensor(masked), torch.as_tensor(labelled - masked)]).to(self.args.device)
        return cast(torch.Tensor, self.accelerator.gather(counts)).view(-1, 2).sum(0)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The model's own loss, or the weighted loss for batches that have `masked`."""
        if "masked" not in inputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels, masked = inputs.pop("labels"), inputs.pop("masked")
        outputs = model(**inputs)
        loss = weighted_loss(outputs.logits, labels, masked, cast(float, self.masked_loss_weight), self.counts)
        loss = loss * self.accelerator.num_processes  # because gradients are averaged over processes
        return (loss, outputs) if return_outputs else loss
