"""The Trainers of CLIBD, and the metrics of a validation.

Source: CLIBD, https://arxiv.org/abs/2405.17537; SimCLR, https://arxiv.org/abs/2002.05709
Shape letters: B = specimens of a process and batch, E = embedding size, n = rows of a validation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from accelerate.data_loader import prepare_data_loader
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader
from transformers import EvalPrediction

from ...evaluation.retrieval_protocol import Specimens, combinations_of, evaluate_retrieval
from ...losses.cached import cached_embeddings
from ...losses.contrastive import contrastive_loss, siglip_loss
from ...losses.hierarchical import CHAIN, hierarchical_loss
from ...losses.supervised import supervised_contrastive_loss
from ...models.logit_scale import LogitScale
from ...models.processing_clibd import MODALITIES, photos_on_device
from ...models.random_crops import ALTERATIONS
from ...schema import REPORTED_RANKS
from ..arguments import global_batch_size
from ..trainer import BarcodeTrainer
from .batches import SECOND
from .data import Validation
from .options import ClibdArguments, ClibdOptions, batch_labels, chosen_pairs
from .streams import PassStream

#: Batch keys passed to the model.
INPUTS = (
    "pixel_values",
    "dna_input_ids",
    "dna_attention_mask",
    "text_input_ids",
    "text_attention_mask",
    "text_token_type_ids",
    "image_present",
    "dna_present",
)

#: Combinations ("query->key") of a validation, where the model has the modalities; the first one is judged.
QUESTIONS = ("image->dna", "image->image", "dna->dna", "image->text")


class ClibdTrainer(BarcodeTrainer):
    """A Trainer whose loss contrasts the modalities over the rows of all processes.

    OneCycle leaves the momentum alone, as in the published code. `image_processor` normalises photos.
    """

    args: ClibdArguments

    cycle_momentum = False

    def __init__(self, *args: Any, options: ClibdOptions, image_processor: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.options, self.image_processor = options, image_processor
        self.model_accepts_loss_kwargs = False  # the loss is already a mean

    def get_train_dataloader(self) -> DataLoader:
        """Batches of training rows. A stream is already divided among the processes, and resumes by itself."""
        stream, args = self.train_dataset, self.args
        if not isinstance(stream, PassStream):
            return super().get_train_dataloader()
        loader: DataLoader = DataLoader(
            stream,
            stream.batch_size,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            prefetch_factor=args.dataloader_prefetch_factor,
            generator=torch.Generator(),  # so that a resumed run draws the same dropout
        )
        alone: dict[str, Any] = {"num_processes": 1, "process_index": 0, "dispatch_batches": False}
        return prepare_data_loader(loader, args.device, put_on_device=True, **alone)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs values; with a loss, also the temperature.

        The epoch of a stream is its number of passes, which the Trainer does not know.
        """
        if "loss" in logs and self.options.objective == "contrast":
            modules = cast(Any, self.model).modules()
            scale = next(module for module in modules if isinstance(module, LogitScale)).log_scale
            whole = scale.full_tensor() if isinstance(scale, DTensor) else scale
            logs["temperature"] = whole.neg().exp().item()
        if isinstance(self.train_dataset, PassStream):
            self.state.epoch = self.state.global_step * global_batch_size(self.args) / self.train_dataset.rows
        super().log(logs, start_time)

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """Names of the parameters with weight decay: matrices, as in open_clip; all with `decay_all_parameters`.

        The published code decays the temperature too.
        """
        chosen = super().get_decay_parameter_names(model)
        if self.args.decay_all_parameters:
            return chosen
        matrices = {name for name, parameter in model.named_parameters() if parameter.ndim > 1}
        return [name for name in chosen if name in matrices]

    def training_step(self, model: Any, *args: Any, **kwargs: Any) -> Tensor:
        """One step. It limits the temperature first: in `forward` under FSDP, parameters are copies."""
        for module in model.modules():
            if isinstance(module, LogitScale):
                module.limit()
        return super().training_step(model, *args, **kwargs)

    def embed(self, model: Any, inputs: Mapping[str, Tensor]) -> Any:
        """The model's output for a batch, whose photos are altered and normalised first."""
        read = {name: inputs[name] for name in (*INPUTS, *ALTERATIONS) if name in inputs}
        if self.options.rows_at_a_time and torch.is_grad_enabled():
            return cached_embeddings(model, read, self.options.rows_at_a_time, prepare=self.prepare)
        return model(**self.prepare(read))

    def prepare(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Inputs of the model for some rows of a batch. Photos become floats here, to keep few floats in memory."""
        read = {name: rows[name] for name in INPUTS if name in rows}
        if "pixel_values" in read and not read["pixel_values"].is_floating_point():
            read["pixel_values"] = photos_on_device(rows, self.image_processor)
        return read

    def compute_loss(  # type: ignore[override]
        self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """The contrastive loss of a batch, and what `--fusion_weight` and `--hir_weight` add to it."""
        outputs = self.embed(model, inputs)
        options, columns = self.options, self.options.label_columns or []
        found = batch_labels(options)
        taxa = dict(zip(found, inputs["labels"].unbind(1), strict=True)) if found else {}
        labels: Any = {column: taxa[column] for column in columns} or None
        if len(columns) == 1 and (options.target_normalization == "none" or options.loss == "siglip"):
            labels = labels[columns[0]]
        embeddings = {name: outputs[f"{name}_embeds"] for name in MODALITIES if f"{name}_embeds" in outputs}
        loss = self.contrast(embeddings, outputs, inputs, labels)
        if options.fusion_weight:
            fused = {"fused": outputs["fused_embeds"], "text": embeddings["text"]}
            loss = loss + options.fusion_weight * self.contrast(fused, outputs, inputs, labels)
        if options.hir_weight:
            chain, present = {rank: taxa[rank] for rank in CHAIN}, inputs.get("image_present")
            photos = embeddings["image"]
            if options.hir_views > 1:
                other = self.embed(model, second_crops(inputs))["image_embeds"]
                photos = torch.stack([photos, other], 1)  # (B, 2, E)
            loss = loss + options.hir_weight * hierarchical_loss(photos, chain, present=present)
        return (loss, outputs) if return_outputs else loss

    def contrast(
        self, embeddings: Mapping[str, Tensor], outputs: Any, inputs: Mapping[str, Tensor], labels: Any
    ) -> Any:
        """The chosen contrastive loss of the modalities, or of photo and barcode fused and the text."""
        options, columns = self.options, self.options.label_columns or []
        present = {name: inputs[f"{name}_present"] for name in MODALITIES if f"{name}_present" in inputs}
        fused = "fused" in embeddings
        if fused:
            present["fused"] = present["image"] | present["dna"]
        compared: dict[str, Any] = {
            "pairs": None if fused else chosen_pairs(options),
            "bind_to": None if fused else options.bind_to,
            "present": {name: mask for name, mask in present.items() if name in embeddings},
            "duplicates": {
                name: inputs[f"{name}_ids"]
                for name in options.mask_duplicates
                if f"{name}_ids" in inputs and name in embeddings
            },
            "chunk_size": options.chunk_size or None,
        }
        if options.loss == "siglip":
            return siglip_loss(embeddings, outputs["logit_scale"], outputs["logit_bias"], labels, **compared)
        return contrastive_loss(
            embeddings,
            outputs["logit_scale"],
            labels,
            target_normalization=options.target_normalization,  # type: ignore[arg-type]
            rank_weights=dict(zip(columns, options.rank_weights, strict=True)) if options.rank_weights else None,
            **compared,
        )

    def prediction_step(  # type: ignore[override]
        self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[None, tuple[Tensor, ...], Tensor]:
        """Embeddings (B, E) of each modality, which are present, bool (B, modalities), and the rows' index (B,)."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = self.embed(model, inputs)
        found = [name for name in MODALITIES if f"{name}_embeds" in outputs]
        present = torch.stack([inputs[f"{name}_present"] for name in found], 1)
        return None, (*(outputs[f"{name}_embeds"].float() for name in found), present), inputs["labels"]


def second_crops(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Photos of a batch alone, in their second random crops."""
    found = {name: batch[f"{name}{SECOND}"] for name in ALTERATIONS if f"{name}{SECOND}" in batch}
    return {"pixel_values": batch.get(f"pixel_values{SECOND}", batch["pixel_values"]), **found}


class SimclrTrainer(ClibdTrainer):
    """A Trainer with the loss of SimCLR within each modality, over the views of all processes."""

    def compute_loss(  # type: ignore[override]
        self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """The mean loss over modalities: SimCLR's, which is the supervised contrastive loss of the specimens.

        With label columns, the loss of a modality is the mean over the specimens and each of the columns.
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
    """Combinations ("query->key") of a validation, the judged one first."""
    possible = combinations_of(modalities)
    return [question for question in QUESTIONS if question in possible] or list(possible[:1])


def metric_name(question: str, rank: str = "species", what: str = "harmonic_mean") -> str:
    """Name of a logged metric, such as "image_to_dna_harmonic_mean" (at the rank species)."""
    name = f"{question.replace('->', '_to_')}_{what}"
    return name if rank == "species" else f"{name}_{rank}"


def metric_names(asked: Sequence[str], validation: Validation) -> list[str]:
    """Names of the metrics of some combinations, for the ranks at which queries have names."""
    named = {
        part: {rank for rank in REPORTED_RANKS if any(validation.labels[rank][validation.parts[part]])}
        for part in ("seen", "unseen")
    }
    named["harmonic_mean"] = named["seen"] & named["unseen"]
    return [metric_name(question, rank, what) for question in asked for what in named for rank in sorted(named[what])]


def retrieval_tables(
    prediction: EvalPrediction, validation: Validation, modalities: Sequence[str], device: torch.device
) -> dict[str, Any]:
    """Retrieval accuracies of a validation, of `evaluate_retrieval`; each process searches its share on `device`."""
    found: Any = prediction.predictions
    *embeddings, present = (np.asarray(part) for part in found)
    if not np.array_equal(np.asarray(prediction.label_ids), np.arange(len(validation.rows))):
        raise ValueError("The validation was not embedded in its order, or not all of it.")

    def specimens(part: slice) -> Specimens:
        return Specimens(
            embeddings={name: vectors[part] for name, vectors in zip(modalities, embeddings, strict=True)},
            labels={rank: validation.labels[rank][part] for rank in REPORTED_RANKS},
            present={name: present[part, column].astype(bool) for column, name in enumerate(modalities)},
            ids=validation.ids[part],
        )

    fewest = validation.parts["keys"].stop - validation.parts["keys"].start
    with full_precision():
        return evaluate_retrieval(
            specimens(validation.parts["keys"]),
            {part: specimens(validation.parts[part]) for part in ("seen", "unseen")},
            combinations=questions(modalities),
            top_k=[k for k in (1, 3, 5) if k <= fewest],
            device=device,
            across_processes=True,
        )


@contextmanager
def full_precision() -> Iterator[None]:
    """Matrix products of a GPU in float32, also in a training with TF32, whose cosines are 0.001 apart."""
    products: Any = torch.backends.cuda.matmul
    before, products.fp32_precision = products.fp32_precision, "ieee"
    try:
        yield
    finally:
        products.fp32_precision = before


def flat_metrics(tables: Mapping[str, Any]) -> dict[str, float]:
    """Metrics that the Trainer logs: macro top-1 accuracy of seen and unseen queries and their harmonic mean."""
    flat = {}
    for question, table in tables.items():
        for what in ("seen", "unseen", "harmonic_mean"):
            for rank, value in table[what]["macro"][1].items():
                if value is not None:
                    flat[metric_name(question, rank, what)] = value
    return flat
