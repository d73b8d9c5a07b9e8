"""What pretraining learns from and how: published recipes as presets, barcodes without repeats, losses.

Source: BarcodeBERT, https://arxiv.org/abs/2311.02401 (`main`: its public code for BIOSCAN-5M, and `workshop2023`: that
of its first version); BarcodeMAE, https://github.com/bioscan-ml/BarcodeMAE (`masked-only`)
Shape letters: B = batch, L = tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from ..dataset.load import load_bioscan5m, source_kind
from ..release.check import find_metadata, read_strings
from ..schema import resolve_splits
from .arguments import BarcodeTrainer
from .collators import IGNORED

DEDUPLICATIONS = ("none", "split", "upstream")


# ---- presets --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Preset:
    """A published recipe: values of the options of these names.

    The size of the model is not part of a recipe, but for the models of 2023, which had one size. Cutting padding off
    and applying the head where there are labels change nothing that is computed, so recipes do not forbid them.
    """

    train_split: str
    validation_split: str
    deduplicate: str
    vocabulary: str
    num_hidden_layers: int
    num_attention_heads: int
    dropout: float
    mlm_head: str
    mask_ratio: float
    loss_on: str
    mask_token_share: float
    random_token_share: float
    mask_token_id: int
    random_offset: bool
    attend_padding: bool
    cut_padding: bool
    learning_rate: float
    scale_learning_rate: bool
    schedule: str
    weight_decay: float
    decay_all_parameters: bool
    per_device_train_batch_size: int
    num_train_epochs: float
    max_grad_norm: float
    train_sampling_strategy: str
    similar_lengths: bool
    dataloader_drop_last: bool
    bf16: bool


MAIN = Preset(
    train_split="pretrain+other_heldout",
    validation_split="train",  # of which the barcodes alone are read
    deduplicate="upstream",
    vocabulary="barcodebert",
    num_hidden_layers=4,
    num_attention_heads=4,
    dropout=0.1,
    mlm_head="kmers",
    mask_ratio=0.5,
    loss_on="valid",
    mask_token_share=1.0,
    random_token_share=0.0,
    mask_token_id=0,
    random_offset=True,
    attend_padding=False,
    cut_padding=True,
    learning_rate=1e-4,
    scale_learning_rate=True,
    schedule="onecycle",
    weight_decay=0.0,
    decay_all_parameters=True,
    per_device_train_batch_size=16,
    num_train_epochs=35.0,
    max_grad_norm=0.0,  # none
    train_sampling_strategy="random",
    similar_lengths=False,
    dataloader_drop_last=True,
    bf16=False,
)

#: Its data were another release, split and freed of repeats beforehand: what is said of splits here is our choice.
WORKSHOP_2023 = Preset(
    train_split="pretrain",
    validation_split="val",
    deduplicate="split",
    vocabulary="barcodebert-2023",
    num_hidden_layers=12,
    num_attention_heads=12,
    dropout=0.1,
    mlm_head="tied",
    mask_ratio=0.5,
    loss_on="all",
    mask_token_share=1.0,
    random_token_share=0.0,
    mask_token_id=1,
    random_offset=False,
    attend_padding=True,
    cut_padding=False,
    learning_rate=1e-4,
    scale_learning_rate=False,
    schedule="epoch-warmup",
    weight_decay=1e-5,
    decay_all_parameters=True,
    per_device_train_batch_size=16,
    num_train_epochs=100.0,
    max_grad_norm=0.0,
    train_sampling_strategy="sequential",
    similar_lengths=False,
    dataloader_drop_last=False,
    bf16=False,
)

MASKED_ONLY = Preset(**(asdict(MAIN) | {"loss_on": "masked", "weight_decay": 1e-5, "num_train_epochs": 45.0}))

PRESETS: dict[str, dict[str, Any]] = {
    "main": asdict(MAIN),
    "workshop2023": asdict(WORKSHOP_2023),
    "masked-only": asdict(MASKED_ONLY),
}


def preset_overrides(name: str, effective: Mapping[str, Any]) -> dict[str, Any]:
    """What a run does differently from the preset it names: option -> its effective value.

    Raises:
        ValueError: if there is no such preset.
    """
    if name != "none" and name not in PRESETS:
        raise ValueError(f"Unknown preset {name!r}. Choose one of {', '.join([*PRESETS, 'none'])}.")
    preset = PRESETS.get(name, {})
    return {option: effective[option] for option, value in preset.items() if effective[option] != value}


# ---- barcodes -------------------------------------------------------------------------------------------------------


def load_barcodes(source: str, split: str, deduplicate: str, max_nucleotides: int) -> Dataset:
    """The barcodes of a split, and no other column: no label is read.

    Args:
        deduplicate: "none" keeps each row; "split" keeps one row of each barcode among those asked for; "upstream"
            keeps the first row of each barcode in the whole metadata file, whatever its split, so that a split lacks
            the barcodes which occur earlier in the file in another one, as in the published code. Trailing N does not
            count. "split" compares barcodes after they are cut to `max_nucleotides`, "upstream" before.

    Raises:
        ValueError: if there are no rows, or rows without a barcode, or "upstream" is asked of something else than a
            release folder or metadata file: Parquet does not hold the order of the file.
    """
    if deduplicate not in DEDUPLICATIONS:
        raise ValueError(f"Unknown deduplicate {deduplicate!r}. Choose one of {', '.join(DEDUPLICATIONS)}.")
    if deduplicate == "upstream":
        data = _first_of_the_file(source, split, max_nucleotides)
    else:
        unique = deduplicate == "split"
        loaded = load_bioscan5m(source, split=split, max_nucleotides=max_nucleotides, unique_barcodes=unique)
        data = cast(Dataset, loaded).select_columns(["dna_barcode"])
    if len(data) == 0:
        raise ValueError(f"The split {split!r} of {source!r} has no rows. Choose another split or source.")
    batches = data.with_format("arrow").iter(batch_size=10_000)
    missing = sum(pc.sum(pc.equal(pc.fill_null(batch["dna_barcode"], ""), "")).as_py() for batch in batches)
    if missing:
        raise ValueError(f"{missing} of {len(data)} rows of the split {split!r} have no barcode. Remove them first.")
    return data


def _first_of_the_file(source: str, split: str, max_nucleotides: int) -> Dataset:
    """Rows of a split that are the first of their barcode in the metadata file, in the order of the file."""
    names = resolve_splits(split)
    kind = source_kind(source)
    if kind != "release":
        raise ValueError(
            f"deduplicate 'upstream' goes by the order of the metadata file, which {source!r} ({kind}) does not hold. "
            f"Give the folder of a release or its metadata file, or pass --deduplicate split."
        )
    seen: set[bytes] = set()
    kept = []
    for _, table in read_strings(find_metadata(source), columns=("dna_barcode", "split")):
        first = []
        for barcode in pc.utf8_rtrim(table["dna_barcode"], "N").to_pylist():
            digest = hashlib.blake2b(barcode.encode(), digest_size=16).digest() if barcode else b""
            first.append(bool(barcode) and digest not in seen)
            seen.add(digest)
        rows = pc.and_(pa.array(first, pa.bool_()), pc.is_in(table["split"], value_set=pa.array(names, pa.string())))
        kept.append(pc.utf8_slice_codeunits(table["dna_barcode"].filter(rows), 0, max_nucleotides))
    pieces = [chunk for column in kept for chunk in column.chunks]
    return Dataset(pa.table({"dna_barcode": pa.chunked_array(pieces, pa.string())}))


# ---- losses ---------------------------------------------------------------------------------------------------------


def weighted_loss(
    logits: torch.Tensor, targets: torch.Tensor, masked: torch.Tensor, weight: float, counts: torch.Tensor
) -> torch.Tensor:
    """`weight` times the mean loss of masked k-mers plus (1 - `weight`) times that of visible ones, in nats.

    Args:
        logits: (B, L, classes).
        targets: Classes (B, L), -100 where nothing is predicted.
        masked: Which k-mers were masked, bool (B, L).
        counts: Masked and visible k-mers (2,) that the means are over: those of a whole step, of which this batch may
            be a part.
    """
    losses = torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none"
    )
    masked = masked.flatten()
    shares = torch.tensor([weight, 1 - weight], device=losses.device) / counts.clamp(min=1)
    return shares[0] * losses[masked].sum() + shares[1] * losses[~masked].sum()


class PretrainingTrainer(BarcodeTrainer):
    """Applies the head where there are labels, in training alone, and can weigh masked against visible k-mers.

    Args:
        first_id: Token id of the head's first class.
        sparse: Whether the head is applied at the labelled positions alone. Evaluation needs the logits of all.
        masked_loss_weight: Weight of the masked k-mers, for batches that say which they are.
    """

    def __init__(
        self, *args: Any, first_id: int, sparse: bool = False, masked_loss_weight: float | None = None, **kwargs: Any
    ):
        super().__init__(*args, **kwargs)
        self.first_id, self.sparse, self.masked_loss_weight = first_id, sparse, masked_loss_weight
        self.counts = torch.zeros(2)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """A step forward and backward, with the head at the labelled positions alone if `sparse`."""
        if not self.sparse:
            return super().training_step(*args, **kwargs)
        config = cast(PreTrainedModel, self.model).config
        config.sparse_prediction = True
        try:
            return super().training_step(*args, **kwargs)
        finally:
            config.sparse_prediction = False  # which is what evaluation needs and what is saved

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Any]:
        """The batches of a step, whose masked and visible k-mers are counted over all processes."""
        batches, labels = super().get_batch_samples(*args, **kwargs)
        if self.masked_loss_weight is not None and batches:
            self.counts = self._count(batches)
        return batches, labels

    def _count(self, batches: Sequence[Mapping[str, torch.Tensor]]) -> torch.Tensor:
        """Masked and visible k-mers (2,) of a step's batches, over all processes."""
        masked = sum(batch["masked"].sum() for batch in batches)
        labelled = sum((batch["labels"] != IGNORED).sum() for batch in batches)
        counts = torch.stack([torch.as_tensor(masked), torch.as_tensor(labelled - masked)]).to(self.args.device)
        return cast(torch.Tensor, self.accelerator.gather(counts)).view(-1, 2).sum(0)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The model's own loss, or the weighted one where a batch says which k-mers were masked."""
        if "masked" not in inputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels, masked = inputs.pop("labels"), inputs.pop("masked")
        outputs = model(**inputs)
        targets = (labels - self.first_id).masked_fill(labels == IGNORED, IGNORED)
        loss = weighted_loss(outputs.logits, targets, masked, cast(float, self.masked_loss_weight), self.counts)
        loss = loss * self.accelerator.num_processes  # whose gradients are averaged
        return (loss, outputs) if return_outputs else loss
