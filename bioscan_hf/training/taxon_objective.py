"""The loss on [CLS] that pretraining adds where it has names of taxa.

Source: BarcodeMAE+, https://github.com/bioscan-ml/BarcodeMAE-plus
Shape letters: B = batch, D = hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray

from ..losses.pretraining_taxa import class_sum, pair_loss, triplet_loss
from ..losses.rows import process_count
from ..models.configuration_barcodebert import TAXON_OBJECTIVES
from ..schema import LABEL_COLUMNS
from .options.pretrain import PretrainingOptions
from .options.shared import check_choices
from .sampling import Order, taxon_order
from .taxa import add_labels, training_classes

#: Column of the labels in the training rows.
LABEL = "taxon_label"

#: Options that need --taxon_objective, in the order of the fields of `TaxonObjective`, and their default values.
DEFAULTS: Mapping[str, Any] = {
    "taxon_rank": "genus",
    "taxon_loss_weight": 0.1,
    "taxon_warmup_epochs": 5.0,
    "taxa_per_batch": 0,
    "rows_per_taxon": 4,
}


@dataclass(frozen=True)
class TaxonObjective:
    """Kind, rank and weight of the loss, and how batches are made for it."""

    kind: str  # one of `TAXON_OBJECTIVES`
    rank: str  # of the labels, or dna_bin
    weight: float  # after the warm-up
    warmup_epochs: float  # over which the weight rises from 0 in equal steps
    taxa_per_batch: int  # taxa of which a batch has `rows_per_taxon` rows; 0 draws all rows at random
    rows_per_taxon: int  # or all rows of a smaller taxon
    seed: int  # of the pairs

    @classmethod
    def of(cls, options: PretrainingOptions, seed: int, batch_size: int, accumulated: int) -> TaxonObjective | None:
        """The objective that the options describe; None without one.

        A global batch has `batch_size` rows, in `accumulated` batches of each process. Raises ValueError for options
        that are unknown, exclude each other, or do nothing.
        """
        given = {name: getattr(options, name) for name in DEFAULTS}
        if options.taxon_objective == "none":
            idle = [f"--{name}" for name, value in given.items() if value is not None]
            if idle:
                raise ValueError(
                    f"{', '.join(idle)} would do nothing: give --taxon_objective {' or '.join(TAXON_OBJECTIVES)}."
                )
            return None
        values = (DEFAULTS[name] if value is None else value for name, value in given.items())
        made = cls(*(options.taxon_objective, *values, seed))
        made._check(options, batch_size, accumulated)
        return made

    def _check(self, options: PretrainingOptions, batch_size: int, accumulated: int) -> None:
        check_choices(options, {"taxon_objective": TAXON_OBJECTIVES, "taxon_rank": LABEL_COLUMNS})
        if options.backbone != "bert" or options.vocabulary != "barcodebert-cls":
            raise ValueError(
                f"--taxon_objective {self.kind} reads the [CLS] token (given: --vocabulary {options.vocabulary}, "
                f"--backbone {options.backbone}). Use --vocabulary barcodebert-cls and --backbone bert."
            )
        if self.weight <= 0 or self.warmup_epochs < 0:
            raise ValueError(
                f"--taxon_loss_weight is {self.weight} and --taxon_warmup_epochs is {self.warmup_epochs}. Give a "
                f"weight above 0, and 0 epochs or more."
            )
        if options.rows_per_taxon is not None and not self.taxa_per_batch:
            raise ValueError("--rows_per_taxon does nothing without --taxa_per_batch. Give both, or neither.")
        labelled = self.taxa_per_batch * self.rows_per_taxon
        if self.taxa_per_batch < 0 or self.rows_per_taxon < 2 or labelled > batch_size:
            raise ValueError(
                f"--taxa_per_batch is {self.taxa_per_batch} and --rows_per_taxon is {self.rows_per_taxon}, which are "
                f"{labelled} rows of a global batch of {batch_size}. Give 2 rows of a taxon or more, and not more "
                f"rows than the batch has."
            )
        if accumulated > 1 and self.kind != "classes":
            raise ValueError(
                f"--gradient_accumulation_steps is {accumulated}, but the rows of --taxon_objective {self.kind} are "
                f"compared within one batch. Use 1, or --taxon_objective classes."
            )

    def weight_at(self, epoch: float) -> float:
        """Weight of the loss after `epoch` epochs."""
        return self.weight * (min(1.0, epoch / self.warmup_epochs) if self.warmup_epochs else 1.0)

    def order(self) -> Order | None:
        """Order of the rows of an epoch by their labels; None: any order."""
        if not self.taxa_per_batch:
            return None
        return partial(taxon_order, taxa=self.taxa_per_batch, rows=self.rows_per_taxon)

    def loss(self, head: Any, embeddings: torch.Tensor, labels: torch.Tensor, count: torch.Tensor, step: int) -> Any:
        """The loss in nats, without its weight, of hidden states of [CLS] (B, D) and ids (B,), negative where missing.

        Averaged over processes, it and its gradients are those of one process with all rows. `count` is that of the
        labels of the whole step, over all processes and accumulated batches. The pairs follow from `step`.
        """
        if self.kind == "classes":
            return class_sum(head(embeddings), labels) / count.clamp(min=1) * process_count()
        if self.kind == "pairs":
            return pair_loss(embeddings, labels, head, seed=self.seed * 1_000_003 + step)
        return triplet_loss(embeddings, labels)


def label_rows(data: Dataset, rank: str) -> tuple[Dataset, list[str]]:
    """`dna_barcode` and the column `LABEL` of rows with names at a rank, and the names of the classes, two or more."""
    classes = training_classes(data, [rank])
    labelled = add_labels(data, classes).rename_column(f"{rank}_label", LABEL)
    return labelled.select_columns(["dna_barcode", LABEL]), classes[rank]


def labels_of(data: Dataset) -> NDArray[np.int64]:
    """The labels (n,) of rows of `label_rows`, negative where missing."""
    return data.select_columns([LABEL]).with_format("arrow")[:][LABEL].to_numpy().astype(np.int64)
