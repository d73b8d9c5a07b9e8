"""The Trainers of CLIBD: between modalities, and between two views of photos; and how a validation is judged.

Only the loss and what becomes of photos on the device are their own.
Source: CLIBD, https://arxiv.org/abs/2405.17537; SimCLR, https://arxiv.org/abs/2002.05709
Shape letters: B = specimens of a process and batch, E = embedding size, n = rows of a validation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from torch.utils.data import DataLoader
from transformers import EvalPrediction

from ..evaluation.retrieval_protocol import REPORTED_RANKS, Specimens, combinations_of, evaluate_retrieval
from ..losses.cached import cached_embeddings
from ..losses.contrastive import contrastive_loss, siglip_loss
from ..losses.rows import supervised_contrastive_loss
from ..models.processing_clibd import MODALITIES, photos_on_device
from ..models.random_crops import ALTERATIONS
from .arguments import BarcodeTrainer
from .clibd_options import ClibdArguments, ClibdOptions, chosen_pairs
from .clibd_training import Validation

#: What of a batch the model reads.
INPUTS = (
    "pixel_values",
    "dna_input_ids",
    "dna_attention_mask",
    "text_input_ids",
    "text_attention_mask",
    "text_token_type_ids",
)

#: What a validation asks, if the model has the modalities.
QUESTIONS = ("image->image", "dna->dna", "image->dna", "image->text")


class ClibdTrainer(BarcodeTrainer):
    """A Trainer whose loss contrasts the modalities over the rows of all processes.

    Args:
        image_processor: That of the model's processor, whose mean and deviation photos are brought to.
    """

    args: ClibdArguments

    def __init__(self, *args: Any, options: ClibdOptions, image_processor: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.options, self.image_processor = options, image_processor
        self.model_accepts_loss_kwargs = False  # the loss is a mean already

    def embed(self, model: Any, inputs: Mapping[str, Tensor]) -> Any:
        """What the model gives for a batch, photos being altered and normalised first."""
        read = {name: inputs[name] for name in (*INPUTS, *ALTERATIONS) if name in inputs}
        if self.options.rows_at_a_time and torch.is_grad_enabled():
            return cached_embeddings(model, read, self.options.rows_at_a_time, prepare=self.prepare)
        return model(**self.prepare(read))

    def prepare(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the model reads of some rows of a batch: photos become floats here, where few rows are in memory."""
        read = {name: rows[name] for name in INPUTS if name in rows}
        if "pixel_values" in read and not read["pixel_values"].is_floating_point():
            read["pixel_values"] = photos_on_device(rows, self.image_processor)
        return read

    def compute_loss(  # type: ignore[override]
        self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """The contrastive loss of a batch."""
        outputs = self.embed(model, inputs)
        options, columns = self.options, self.options.label_columns or []
        labels: Any = dict(zip(columns, inputs["labels"].unbind(1), strict=True)) if columns else None
        if len(columns) == 1 and (options.target_normalization == "none" or options.loss == "siglip"):
            labels = labels[columns[0]]
        embeddings = {name: outputs[f"{name}_embeds"] for name in MODALITIES if f"{name}_embeds" in outputs}
        compared: dict[str, Any] = {
            "pairs": chosen_pairs(options),
            "bind_to": options.bind_to,
            "present": {name: inputs[f"{name}_present"] for name in embeddings if f"{name}_present" in inputs},
            "duplicates": {name: inputs[f"{name}_ids"] for name in options.mask_duplicates if f"{name}_ids" in inputs},
            "across_processes": not options.local_negatives,
            "chunk_size": options.chunk_size or None,
        }
        if options.loss == "siglip":
            loss = siglip_loss(embeddings, outputs["logit_scale"], outputs["logit_bias"], labels, **compared)
        else:
            loss = contrastive_loss(
                embeddings,
                outputs["logit_scale"],
                labels,
                target_normalization=options.target_normalization,  # type: ignore[arg-type]
                rank_weights=dict(zip(columns, options.rank_weights, strict=True)) if options.rank_weights else None,
                **compared,
            )
        return (loss, outputs) if return_outputs else loss

    def prediction_step(  # type: ignore[override]
        self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[None, tuple[Tensor, ...], Tensor]:
        """Embeddings (B, E) of each modality, which of them count, bool (B, modalities), and the rows' places (B,)."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = self.embed(model, inputs)
        found = [name for name in MODALITIES if f"{name}_embeds" in outputs]
        present = torch.stack([inputs[f"{name}_present"] for name in found], 1)
        return None, (*(outputs[f"{name}_embeds"].float() for name in found), present), inputs["labels"]

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """The same as in validation; the Trainer would collate as in training."""
        return self.get_eval_dataloader(test_dataset)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        """The schedule that the arguments name; OneCycle as CLIBD has it, which leaves the momentum alone."""
        if self.lr_scheduler is None and self.args.schedule == "onecycle":
            optimizer = optimizer or cast(torch.optim.Optimizer, self.optimizer)
            made = OneCycleLR(
                optimizer, max_lr=self.args.learning_rate, total_steps=num_training_steps, cycle_momentum=False
            )
            self.lr_scheduler = made  # type: ignore[assignment]
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)


class SimclrTrainer(ClibdTrainer):
    """A Trainer whose loss finds the other view of a photo among the views of all photos of all processes.

    The same of barcodes, where there are views of them; no modality is compared with another one.
    """

    def compute_loss(  # type: ignore[override]
        self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """The loss of SimCLR: with one other row of its label, the supervised contrastive loss is that.

        With label columns, the mean of that and the same of each of their taxa; the mean over modalities.
        """
        outputs = self.embed(model, inputs)
        names = ["specimen", *(self.options.label_columns or [])]
        labels = dict(zip(names, inputs["labels"].unbind(1), strict=True))
        losses = [
            supervised_contrastive_loss(outputs[f"{modality}_embeds"], labels, temperature=self.options.temperature)
            for modality in self.options.simclr_modalities
        ]
        loss = torch.stack(losses).mean()
        return (loss, outputs) if return_outputs else loss


# ---- validation -----------------------------------------------------------------------------------------------------


def questions(modalities: Sequence[str]) -> list[str]:
    """What a validation asks: "query->key", the most telling first."""
    possible = combinations_of(modalities)
    return [question for question in ("image->dna", *QUESTIONS) if question in possible] or list(possible[:1])


def metric_name(question: str, rank: str = "species", what: str = "harmonic_mean") -> str:
    """Name of a number that a validation logs, such as "image_to_dna_harmonic_mean" (of the species)."""
    name = f"{question.replace('->', '_to_')}_{what}"
    return name if rank == "species" else f"{name}_{rank}"


def retrieval_tables(prediction: EvalPrediction, validation: Validation, modalities: Sequence[str]) -> dict[str, Any]:
    """Accuracies of retrieval among the specimens of a validation, as `evaluate_retrieval` gives them."""
    found: Any = prediction.predictions
    order = np.argsort(np.asarray(prediction.label_ids))
    *embeddings, present = [np.asarray(part)[order] for part in found]
    if len(order) != len(validation.rows):
        raise ValueError(f"{len(order)} specimens of the validation were embedded, but it has {len(validation.rows)}.")

    def specimens(part: slice) -> Specimens:
        return Specimens(
            embeddings={name: vectors[part] for name, vectors in zip(modalities, embeddings, strict=True)},
            labels={rank: validation.labels[rank][part] for rank in REPORTED_RANKS},
            present={name: present[part, column].astype(bool) for column, name in enumerate(modalities)},
            ids=validation.rows["processid"][part],
        )

    fewest = validation.parts["keys"].stop - validation.parts["keys"].start
    return evaluate_retrieval(
        specimens(validation.parts["keys"]),
        {part: specimens(validation.parts[part]) for part in ("seen", "unseen")},
        combinations=list(dict.fromkeys(questions(modalities))),
        top_k=[k for k in (1, 3, 5) if k <= fewest],
    )


def flat_metrics(tables: Mapping[str, Any]) -> dict[str, float]:
    """What the Trainer logs of a validation: macro top-1, of seen and unseen queries and their harmonic mean."""
    flat = {}
    for question, table in tables.items():
        for what in ("seen", "unseen", "harmonic_mean"):
            for rank, value in table[what]["macro"][1].items():
                if value is not None:
                    flat[metric_name(question, rank, what)] = value
    return flat
