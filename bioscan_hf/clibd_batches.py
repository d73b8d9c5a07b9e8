"""Batches of photos, barcodes and taxonomies for CLIBD: whole specimens, or two views of each photo.

What is drawn for a specimen follows from a seed, the epoch and the specimen's processid alone: the same in whatever
batch, process or worker it falls, and in a resumed run. Photos leave here as uint8; what a GPU does better is left to
`photos_on_device`. The processor is an argument.
Sources: CLIBD, https://arxiv.org/abs/2405.17537; SimCLR, https://arxiv.org/abs/2002.05709
Shape letters: B = specimens, R = ranks, H and W = height and width in pixels, n = rows of a dataset.
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
from torch.nn.functional import interpolate
from torch.utils.data import Sampler

from .photos import random_box
from .processing_clibd import MODALITIES, ClibdProcessor, clibd_text, photo_pixels
from .taxonomy import LABEL_COLUMNS, MISSING, RANKS

#: Numbers drawn for a view: of its crop, its flip, its colours (whether, four strengths, their order), grey, blur.
_CROP, _VIEW = 22, 22 + 1 + 1 + 4 + 4 + 1 + 1

BLUR = 21  # side of the blur's kernel in pixels, of a view of 224


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
        self.trim_padding, self.with_index, self.seed, self.epoch = trim_padding, with_index, seed, 0

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


# ---- two views of a photo -------------------------------------------------------------------------------------------


class TwoViewCollator:
    """Makes batches of two altered views of each photo: `pixel_values` uint8 (2 B, 3, H, W), and `labels` (2 B,).

    All first views come before all second ones. The `labels` are equal for views of one specimen. Rows without a photo
    are refused.
    """

    def __init__(self, processor: ClibdProcessor, *, seed: int = 0):
        self.processor, self.seed, self.epoch = processor, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """The epochs differ in what they draw; call this before each one begins."""
        self.epoch = epoch

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """A batch of rows that have `image` and `processid`.

        Raises:
            ValueError: if a row has no photo, or one that cannot be read.
        """
        views: list[list[Tensor]] = [[], []]
        for row in rows:
            photo = encoded_photo(row["image"])
            if photo is None:
                raise ValueError(f"The specimen {row['processid']} has no photo. Leave such rows out.")
            pixels = torch.from_numpy(photo_pixels(photo, f"The specimen {row['processid']}: the photo"))
            draw = row_generator(self.seed, self.epoch, row["processid"])
            for view in views:
                numbers = torch.rand(_VIEW, generator=draw).tolist()
                view.append(simclr_view(pixels.permute(2, 0, 1), self.processor.image_size, numbers))
        ids = torch.tensor([text_id(row["processid"]) for row in rows])
        return {"pixel_values": torch.stack(views[0] + views[1]), "labels": ids.repeat(2)}


def simclr_view(photo: Tensor, size: int, draws: Sequence[float]) -> Tensor:
    """A random crop of a photo uint8 (3, H, W), flipped, with altered colours, and blurred: uint8 (3, size, size).

    As in the image pretraining of CLIBD: a crop of 8 to 100 %, a horizontal flip half of the time; brightness,
    contrast and saturation by up to 80 % and the hue by up to 20 %, in random order, in four of five views; grey in
    one of five; a Gaussian blur of 0.1 to 2 pixels.

    Args:
        draws: 34 uniform numbers in [0, 1).
    """
    from torchvision.transforms.v2 import functional as change  # slow to import

    top, left, height, width = random_box(photo.shape[1], photo.shape[2], draws)
    crop = photo[:, top : top + height, left : left + width]
    view = interpolate(crop[None], (size, size), mode="bilinear", antialias=True)[0]
    flip, jitter, brightness, contrast, saturation, hue, *order, grey, blur = draws[_CROP:]
    if flip < 0.5:
        view = view.flip(2)
    if jitter < 0.8:
        changes = [
            (change.adjust_brightness, 0.2 + 1.6 * brightness),
            (change.adjust_contrast, 0.2 + 1.6 * contrast),
            (change.adjust_saturation, 0.2 + 1.6 * saturation),
            (change.adjust_hue, 0.4 * hue - 0.2),
        ]
        for place in np.argsort(order):
            function, strength = changes[place]
            view = function(view, strength)
    if grey < 0.2:
        view = change.rgb_to_grayscale(view, num_output_channels=3)
    side = max(3, round(BLUR * size / 224) // 2 * 2 + 1)
    return change.gaussian_blur(view, [side, side], [0.1 + 1.9 * blur] * 2)


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
