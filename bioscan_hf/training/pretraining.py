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
from ..models.barcode_heads import weighted_loss
from ..models.configuration_barcodebert import PROJECTIONS
from ..models.configuration_barcodemamba import BLOCKS
from ..models.modeling_barcodemae import MAE_VOCABULARIES
from ..models.vocabularies import VOCABULARIES
from ..schema import ROW_COLUMN, resolve_splits
from .arguments import BarcodeTrainingArguments, check_workers, global_batch_size
from .checks import check_metric, check_training
from .inputs import check_rows, load_rows, split_revision
from .masking import IGNORED, MASK_TOKEN_IDS
from .options.pretrain import PretrainingOptions
from .options.shared import check_choices
from .taxon_objective import TaxonObjective
from .trainer import BarcodeTrainer

DEDUPLICATIONS = ("none", "split", "upstream")

BACKBONES = ("bert", "mamba")

OBJECTIVES = ("masked", "mae", "next")

#: Objective -> what its metrics are called: both predict masked k-mers.
PREDICTED = {"masked": "masked", "mae": "masked", "next": "next"}

#: Options of the decoder, which do nothing without one.
DECODER_OPTIONS = (
    *("decoder_num_hidden_layers", "decoder_num_attention_heads", "decoder_hidden_size"),
    *("decoder_intermediate_size", "decoder_projection"),
)


def check_options(options: PretrainingOptions, training_args: TrainingArguments) -> None:
    """Raises ValueError for options that are unknown, exclude each other, or do nothing."""
    choices = {"deduplicate": DEDUPLICATIONS, "backbone": BACKBONES, "objective": OBJECTIVES}
    check_choices(options, choices | {"vocabulary": tuple(MASK_TOKEN_IDS), "mamba_block": BLOCKS})
    weight = options.masked_loss_weight
    if (options.loss_on == "weighted") != (weight is not None) or not 0 <= (weight or 0) <= 1:
        raise ValueError(
            f"--masked_loss_weight is {weight} and --loss_on is {options.loss_on!r}. Give a weight in [0, 1] together "
            f"with --loss_on weighted, or neither."
        )
    if options.loss_on == "all" and options.mlm_head != "tied" and options.mamba_block != "published":
        raise ValueError(
            f"--loss_on all predicts padding, for which --mlm_head {options.mlm_head} has no class. Use --mlm_head "
            f"tied, --mamba_block published or --loss_on valid."
        )
    if options.backbone == "mamba" and options.mlm_head != "kmers":
        raise ValueError(f"--mlm_head is {options.mlm_head!r}, but --backbone mamba has only the head 'kmers'.")
    if options.objective == "next" and (options.backbone != "mamba" or options.loss_on not in ("masked", "all")):
        raise ValueError(
            f"--objective next needs --backbone mamba (given: {options.backbone}), because other encoders would see "
            f"the next k-mer, and masks nothing: leave --loss_on (given: {options.loss_on}) out, or give all."
        )
    _check_mamba(options)
    _check_mae(options)
    objective = taxon_objective(options, training_args)
    both = objective is not None and objective.taxa_per_batch
    if both and cast(BarcodeTrainingArguments, training_args).similar_lengths:
        raise ValueError("--taxa_per_batch and --similar_lengths both order the rows: add --similar_lengths False.")
    check_workers(training_args)
    check_training(training_args)
    if training_args.load_best_model_at_end and options.validation_split == "none":
        raise ValueError("--load_best_model_at_end needs a --validation_split.")
    predicted = PREDICTED[options.objective]
    check_metric(training_args, ["loss", f"{predicted}_loss", f"{predicted}_accuracy"])


def _check_mamba(options: PretrainingOptions) -> None:
    """Raises ValueError unless backbone, block and vocabulary fit each other: the published block reads padding."""
    left = VOCABULARIES[options.vocabulary].left
    published = options.mamba_block == "published"
    if published and options.backbone != "mamba":
        raise ValueError(f"--mamba_block published needs --backbone mamba (given: {options.backbone}).")
    if published != left:
        raise ValueError(
            f"--mamba_block is {options.mamba_block!r} and --vocabulary is {options.vocabulary!r}, but the published "
            f"block, and it alone, reads barcodes that are padded at their start. Give --backbone mamba --mamba_block "
            f"published --vocabulary barcodemamba (or barcodemamba-char --k 1), or another vocabulary."
        )


def _check_mae(options: PretrainingOptions) -> None:
    """Raises ValueError for options of the decoder without one, and for others that a masked autoencoder ignores."""
    given = [f"--{name}" for name in DECODER_OPTIONS if getattr(options, name) is not None]
    if options.objective != "mae":
        if given:
            raise ValueError(
                f"{', '.join(given)} would do nothing with --objective {options.objective}: give --objective mae."
            )
        return
    check_choices(options, {"decoder_projection": PROJECTIONS})
    needed = {
        "backbone": ("bert",),
        "mlm_head": ("kmers",),
        "loss_on": ("masked", "weighted"),
        "vocabulary": MAE_VOCABULARIES,
        "mask_token_id": (None, 0),
        "attend_padding": (False,),
    }
    for name, allowed in needed.items():
        if getattr(options, name) not in allowed:
            raise ValueError(
                f"--objective mae does not work with --{name} {getattr(options, name)}: the encoder leaves out "
                f"padding and the tokens with the id of [MASK], and a decoder predicts k-mers. Choose "
                f"{' or '.join(str(value) for value in allowed if value is not None)}."
            )


def taxon_objective(options: PretrainingOptions, training_args: TrainingArguments) -> TaxonObjective | None:
    """The loss on names of taxa that the options describe, see `TaxonObjective.of`."""
    accumulated = training_args.gradient_accumulation_steps
    return TaxonObjective.of(options, training_args.seed, global_batch_size(training_args), accumulated)


# ---- barcodes -------------------------------------------------------------------------------------------------------


def load_barcodes(source: str, split: str, deduplicate: str, max_nucleotides: int, rank: str | None = None) -> Dataset:
    """The barcodes of a split, and the names at a rank where one is given.

    Args:
        deduplicate: "none" keeps each row; "split" keeps the first row of each barcode in the split; "upstream" keeps
            the first row of each barcode in the whole metadata file, whatever its split, as in the published code.
            Trailing N does not count. "split" compares barcodes after cutting to `max_nucleotides`, "upstream" before.
            The name is that of the row that is kept.

    Raises:
        ValueError: if there are no rows, or rows without a barcode; or if "upstream" is used with a source that does
            not hold all rows of a metadata file and their order.
    """
    columns = ["dna_barcode", *([rank] if rank else [])]
    if deduplicate == "upstream":
        data = _first_of_the_file(source, split, max_nucleotides, columns)
        check_rows(data, source, split)
        return data
    unique = deduplicate == "split"
    data = load_rows(source, split, max_nucleotides=max_nucleotides, unique_barcodes=unique)
    return data.select_columns(columns)


def _first_of_the_file(source: str, split: str, max_nucleotides: int, columns: Sequence[str]) -> Dataset:
    """Rows of a split that are the first of their barcode in the metadata file, in the order of the file."""
    advice = "Build the whole release with `bioscan-hf build`, or use --deduplicate split."
    try:
        name, revision = split_revision(source)
        read = [*columns, ROW_COLUMN]
        parts = load_bioscan5m(name, columns=read, max_nucleotides=None, revision=revision)
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
    return prepare(whole.select(chosen).select_columns(list(columns)), LabelMaps({}), max_nucleotides)


# ---- the Trainer ----------------------------------------------------------------------------------------------------


class PretrainingTrainer(BarcodeTrainer):
    """A Trainer with sparse logits, a weighted loss, and a loss on names of taxa.

    Args:
        sparse: Whether training applies the head only to labelled positions. Evaluation needs all logits.
        masked_loss_weight: Weight of the masked k-mers, for batches that have `masked`.
        taxon_objective: The loss of batches that have `taxon_labels`, which is added.
    """

    def __init__(
        self,
        *args: Any,
        sparse: bool = False,
        masked_loss_weight: float | None = None,
        taxon_objective: TaxonObjective | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.sparse, self.masked_loss_weight = sparse, masked_loss_weight
        self.taxon_objective = taxon_objective
        self.counts = torch.zeros(3)

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
        """The batches of a step; also counts masked and visible k-mers and labels of taxa over all processes."""
        batches, labels = super().get_batch_samples(*args, **kwargs)
        if batches and (self.masked_loss_weight is not None or self.taxon_objective is not None):
            self.counts = self._count(batches)
        return batches, labels

    def _count(self, batches: Sequence[Mapping[str, torch.Tensor]]) -> torch.Tensor:
        """Masked and visible k-mers and labels of taxa (3,) of the batches of a step, over all processes."""
        masked = sum(batch["masked"].sum() for batch in batches if "masked" in batch)
        labelled = sum((batch["labels"] != IGNORED).sum() for batch in batches)
        taxa = sum((batch["taxon_labels"] >= 0).sum() for batch in batches if "taxon_labels" in batch)
        counts = torch.stack([torch.as_tensor(x, device=self.args.device) for x in (masked, labelled - masked, taxa)])
        return cast(torch.Tensor, self.accelerator.gather(counts)).view(-1, 3).sum(0)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The model's own loss, or the weighted loss for batches that have `masked`; and the loss on taxa."""
        taxa = inputs.pop("taxon_labels", None)
        if taxa is not None:
            inputs["output_hidden_states"] = True
        if "masked" not in inputs:
            loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        else:
            labels, masked = inputs.pop("labels"), inputs.pop("masked")
            outputs = model(**inputs)
            weight = cast(float, self.masked_loss_weight)
            loss = weighted_loss(outputs.logits, labels, masked, weight, self.counts[:2])
            loss = loss * self.accelerator.num_processes  # because gradients are averaged over processes
        if taxa is not None:
            loss = loss + self._taxon_loss(model, outputs.hidden_states[-1][:, 0], taxa)
        return (loss, outputs) if return_outputs else loss

    def _taxon_loss(self, model: Any, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The weighted loss on taxa, from the hidden states of [CLS] (B, D)."""
        objective, state = cast(TaxonObjective, self.taxon_objective), self.state
        head = self.accelerator.unwrap_model(model).taxon_head
        loss = objective.loss(head, embeddings, labels, self.counts[2], state.global_step)
        return cast(torch.Tensor, loss * objective.weight_at(state.epoch or 0.0))
