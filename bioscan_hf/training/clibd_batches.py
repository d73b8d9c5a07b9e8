"""Batches of photos, barcodes and taxonomies of specimens for CLIBD, and orders without duplicates.

What is drawn for a specimen follows from a seed, the epoch and the specimen's processid alone: the same in whatever
batch, process or worker it falls, and in a resumed run. Photos leave here as uint8; what a GPU does better is left to
`photos_on_device`. The processor is an argument.
Source: CLIBD, https://arxiv.org/abs/2405.17537
Shape letters: B = specimens, R = ranks, n = rows of a dataset.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import islice
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler

from ..models.processing_clibd import MODALITIES, ROTATION, ClibdProcessor, clibd_text, photo_pixels
from ..models.random_crops import photos_to_crop
from ..schema import LABEL_COLUMNS, MISSING, RANKS


def text_id(text: str | None) -> int:
    """A number for a text, the same in every process: 63 bits of a hash; -1 for None and for ""."""
    if not text:
        return MISSING
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


class ClibdCollator:
    """Makes batches of rows of BIOSCAN-5M that have `processid`, and those of `image`, `dna_barcode`, ranks they need.

    A batch holds what the processor gives with `on_device`, and besides for each modality `<modality>_present`, bool
    (B,); `dna_ids` and `text_ids`, int64 (B,), equal where barcodes or texts are and -1 where there is none; and with
    `label_columns` their `labels`, int64 (B, R), -1 where unknown. A row without a photo or a barcode, or whose
    taxonomy is unknown altogether, lacks that modality.

    Args:
        processor: A `ClibdProcessor`.
        modalities: Those to read; None is all that the processor can.
        mode: "train" augments photos and draws templates.
        label_columns: Ranks, or "dna_bin".
        templates: Forms of text to draw from in training, see `clibd_text`; None is the processor's own.
        trim_padding: Cuts barcodes to the longest of the batch; for models that attend to no padding.
        with_index: Whether rows have an `index`, which becomes `labels` (B,): what an evaluation finds them by.
        augment_on_device: In training, leaves crops and flips to `photos_on_device`, too: photos are only decoded
            here, and `crop` (B, 4) and `flip` (B, 2) tell what was drawn, as `photos_to_crop` gives them.

    Raises:
        ValueError: for a modality, column or mode that is unknown.
    """

    def __init__(
        self,
        processor: ClibdProcessor,
        modalities: Sequence[str] | None = None,
        *,
        mode: Literal["eval", "train"] = "train",
        label_columns: Sequence[str] = (),
        templates: Sequence[str] | None = None,
        trim_padding: bool = False,
        with_index: bool = False,
        augment_on_device: bool = False,
        seed: int = 0,
    ):
        self.modalities = tuple(modalities or processor.modalities)
        unknown = [modality for modality in self.modalities if modality not in MODALITIES]
        unknown += [column for column in label_columns if column not in LABEL_COLUMNS]
        if unknown:
            raise ValueError(
                f"Unknown {unknown[0]!r}. The modalities are {', '.join(MODALITIES)}, and labels are of "
                f"{', '.join(LABEL_COLUMNS)}."
            )
        if "text" in self.modalities and processor.text_tokenizer is None:
            raise ValueError("Texts are to be read, but the processor has no text_tokenizer. Give it one.")
        for template in templates or ():
            clibd_text({}, template)  # raises for an unknown one
        if mode not in ("eval", "train"):
            raise ValueError(f"Unknown mode {mode!r}: give 'eval' or 'train'.")
        self.processor, self.mode = processor, mode
        self.label_columns, self.templates = list(label_columns), list(templates or [processor.text_template])
        self.trim_padding, self.with_index, self.augment_on_device = trim_padding, with_index, augment_on_device
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """The epochs differ in what they draw; call this before each one begins."""
        self.epoch = epoch

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """A batch of rows."""
        names = [f"The specimen {row['processid']}" for row in rows]
        draws = [row_generator(self.seed, self.epoch, row["processid"]) for row in rows]
        batch: dict[str, Tensor] = {}
        if "text" in self.modalities:
            texts = [self._text(row, draw) for row, draw in zip(rows, draws, strict=True)]
            batch |= self._add("text", texts, text=texts, names=names)
            batch["text_ids"] = torch.tensor([text_id(text) for text in texts])
        if "dna" in self.modalities:
            barcodes = [(row["dna_barcode"] or "").strip() or None for row in rows]
            batch |= self._add("dna", barcodes, dna=barcodes, names=names)
            batch["dna_ids"] = torch.tensor([text_id(barcode) for barcode in barcodes])
            if self.trim_padding:
                longest = max(int(batch["dna_attention_mask"].sum(1).max()), 1)
                for name in ("dna_input_ids", "dna_attention_mask"):
                    batch[name] = batch[name][:, :longest].contiguous()
        if "image" in self.modalities:
            batch |= self._photos([encoded_photo(row["image"]) for row in rows], names, draws)
        if self.label_columns:
            ids = [[text_id(row[column]) for column in self.label_columns] for row in rows]
            batch["labels"] = torch.tensor(ids)
        if self.with_index:
            batch["labels"] = torch.tensor([row["index"] for row in rows])
        return batch

    def _add(self, modality: str, values: Sequence[Any], **arguments: Any) -> dict[str, Tensor]:
        """What the processor makes of values, and which of them are there."""
        made = dict(self.processor(on_device=True, mode=self.mode, **arguments))
        return made | {f"{modality}_present": torch.tensor([value is not None for value in values])}

    def _photos(
        self, photos: Sequence[Any], names: Sequence[str], draws: Sequence[torch.Generator]
    ) -> dict[str, Tensor]:
        if self.mode == "eval":
            return self._add("image", photos, images=photos, names=names)
        if self.augment_on_device:
            size = self.processor.image_size
            filler = np.zeros((size, size, 3), np.uint8)
            pixels = [
                filler if photo is None else photo_pixels(photo, f"{name}: the photo")
                for photo, name in zip(photos, names, strict=True)
            ]
            resized = self.processor.image_processor.size["shortest_edge"]
            made = photos_to_crop(pixels, resized, ROTATION, draws)
            return made | {"image_present": torch.tensor([photo is not None for photo in photos])}
        parts = [
            self._add("image", [photo], images=[photo], names=[name], generator=draw)
            for photo, name, draw in zip(photos, names, draws, strict=True)
        ]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _text(self, row: Mapping[str, Any], draw: torch.Generator) -> str | None:
        taxonomy = {rank: row.get(rank) for rank in RANKS}
        if self.mode == "eval" or len(self.templates) == 1:
            template = self.templates[0]
        else:
            template = self.templates[int(torch.randint(len(self.templates), (), generator=draw))]
        return clibd_text(taxonomy, template)


def row_generator(seed: int, epoch: int, processid: str) -> torch.Generator:
    """The source of what is drawn for a specimen in an epoch."""
    digest = blake2b(f"{seed}:{epoch}:{processid}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def encoded_photo(photo: Any) -> Any:
    """A photo as a row holds it; None if the row has none."""
    if isinstance(photo, Mapping) and photo["bytes"] is None and photo["path"] is None:
        return None
    return photo


# ---- batches without duplicates -------------------------------------------------------------------------------------


class DistinctSampler(Sampler[int]):
    """Rows in an order whose consecutive global batches hold rows of distinct groups, each row once an epoch.

    Equal barcodes or texts in a batch are negatives of each other, although nothing tells them apart. The order
    follows from the seed and the epoch alone. Where a group is so large that this cannot be, what is left over comes
    last.

    Args:
        groups: Group of each row (n,); negative for a row that is like no other.
        batch_size: Rows of a global batch.
    """

    def __init__(self, groups: NDArray[np.int64], batch_size: int, seed: int):
        self.groups, self.batch_size, self.seed = groups, batch_size, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order; call this before each epoch begins."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.groups)

    def __iter__(self) -> Iterator[int]:
        return iter(distinct_order(self.groups, self.batch_size, (self.seed, self.epoch)).tolist())


def distinct_order(groups: NDArray[np.int64], batch_size: int, seed: Sequence[int]) -> NDArray[np.int64]:
    """A permutation (n,) of the rows whose consecutive batches hold no group twice, as far as this can be.

    Rows are drawn; one whose group is in the batch already waits for the next batch that has none of it.
    """
    drawn = np.random.default_rng(list(seed)).permutation(len(groups))
    rows = iter(zip(drawn.tolist(), groups[drawn].tolist(), strict=True))
    waiting: dict[int, list[int]] = {}
    order: list[int] = []
    while len(order) < len(groups):
        batch = [_take(waiting, group) for group in list(islice(waiting, batch_size))]
        seen = {int(groups[row]) for row in batch}
        while len(batch) < batch_size:
            row, group = next(rows, (None, 0))
            if row is None:
                break
            if group < 0 or group not in seen:
                batch.append(row)
                seen.add(group)
            else:
                waiting.setdefault(group, []).append(row)
        while len(batch) < batch_size and waiting:  # no row is left that is not waiting
            batch.append(_take(waiting, next(iter(waiting))))
        order += batch
    return np.array(order, np.int64)


def _take(waiting: dict[int, list[int]], group: int) -> int:
    """A waiting row of a group, which then queues up behind the others."""
    rows = waiting.pop(group)
    row = rows.pop()
    if rows:
        waiting[group] = rows
    return row


def groups_of(column: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
    """A number for each row (n,), equal where the strings are; -1 where there is none."""
    encoded = pc.dictionary_encode(column)
    chunked = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    merged = chunked if isinstance(chunked, pa.DictionaryArray) else pa.concat_arrays(chunked.chunks)
    indices = pc.fill_null(merged.indices, MISSING).to_numpy(zero_copy_only=False).astype(np.int64)
    if "" in merged.dictionary.to_pylist():
        indices[indices == merged.dictionary.to_pylist().index("")] = MISSING
    return indices
