"""Batches of photos, barcodes and taxonomies of specimens for CLIBD.

The draws of a specimen follow from a seed, the epoch and its processid. Photos leave the collator as uint8;
`photos_on_device` does what is faster on a GPU.
Source: CLIBD, https://arxiv.org/abs/2405.17537
Shape letters: B = specimens, R = ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ...barcodes import barcode_digest
from ...models.processing_clibd import MODALITIES, ROTATION, ClibdProcessor
from ...models.random_crops import photos_to_crop
from ...models.taxonomy_text import clibd_text
from ...schema import LABEL_COLUMNS, RANKS
from ..collators import SeededCollator
from ..draws import digest_id, text_id

#: End of the keys of the second random crop of a photo.
SECOND = "_2"


class ClibdCollator(SeededCollator):
    """Makes batches of rows of BIOSCAN-5M: `processid`, and `image`, `dna_barcode` and ranks as needed.

    A batch holds the output of the processor with `on_device`, and for each modality `<modality>_present`, bool (B,);
    `dna_ids` and `text_ids`, int64 (B,), equal for equal barcodes (trailing N does not count) or texts and -1 where
    missing; and with `label_columns`, `labels` int64 (B, R), -1 where unknown. A row without a photo, a barcode or any
    name of a taxon is without that modality. In mode "eval", the `index` of rows that have one becomes `labels` (B,).

    Args:
        modalities: Modalities to read; None for all of the processor.
        mode: "train" augments photos and draws text templates.
        label_columns: Ranks, or "dna_bin".
        templates: Text templates to draw from in training, see `clibd_text`; None for the processor's own.
        trim_padding: Cuts barcodes to the longest of the batch; for models that do not attend to padding.
        augment_on_device: In training, only decodes photos and leaves crops and flips to `photos_on_device`: `crop`
            (B, 4) and `flip` (B, 2) are those of `photos_to_crop`.
        photo_views: 2 also makes a second random crop of each photo in training, under the same keys with `_2`.

    Raises:
        ValueError: for an unknown modality, column, template or mode.
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
        augment_on_device: bool = False,
        photo_views: int = 1,
        seed: int = 0,
    ):
        super().__init__(seed)
        self.modalities = tuple(modalities or processor.modalities)
        check_names(self.modalities, MODALITIES, label_columns)
        if "text" in self.modalities and processor.text_tokenizer is None:
            raise ValueError("The processor has no text_tokenizer, but the modality 'text' needs one. Give it one.")
        for template in templates or ():
            clibd_text({}, template)  # raises for an unknown template
        if mode not in ("eval", "train"):
            raise ValueError(f"Unknown mode {mode!r}. Choose 'eval' or 'train'.")
        self.processor, self.mode = processor, mode
        self.label_columns, self.templates = list(label_columns), list(templates or [processor.text_template])
        self.trim_padding, self.augment_on_device = trim_padding, augment_on_device
        self.photo_views = photo_views

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """A batch of rows."""
        names = [f"The specimen {row['processid']}" for row in rows]
        draws = self.generators(rows)
        batch: dict[str, Tensor] = {}
        if "text" in self.modalities:
            texts = [self._text(row, draw) for row, draw in zip(rows, draws, strict=True)]
            batch |= self._process("text", texts, text=texts, names=names)
            batch["text_ids"] = torch.tensor([text_id(text) for text in texts])
        if "dna" in self.modalities:
            barcodes = [(row["dna_barcode"] or "").strip() or None for row in rows]
            batch |= self._process("dna", barcodes, dna=barcodes, names=names)
            batch["dna_ids"] = torch.tensor([digest_id(barcode_digest(barcode)) for barcode in barcodes])
            if self.trim_padding:
                longest = max(int(batch["dna_attention_mask"].sum(1).max()), 1)
                for name in ("dna_input_ids", "dna_attention_mask"):
                    batch[name] = batch[name][:, :longest].contiguous()
        if "image" in self.modalities:
            photos = [encoded_photo(row["image"]) for row in rows]
            batch |= self._photos(photos, names, draws)
            if self.mode == "train" and self.photo_views > 1:
                batch |= self._second_crops(photos, names, draws)
        if self.label_columns:
            ids = [[text_id(row[column]) for column in self.label_columns] for row in rows]
            batch["labels"] = torch.tensor(ids)
        if self.mode == "eval" and rows and "index" in rows[0]:
            batch["labels"] = torch.tensor([row["index"] for row in rows])
        return batch

    def _process(self, modality: str, values: Sequence[Any], **arguments: Any) -> dict[str, Tensor]:
        """The processor's output for the values of a modality, and which of them are present."""
        made = dict(self.processor(on_device=True, mode=self.mode, **arguments))
        return made | {f"{modality}_present": torch.tensor([value is not None for value in values])}

    def _photos(
        self, photos: Sequence[Any], names: Sequence[str], draws: Sequence[torch.Generator]
    ) -> dict[str, Tensor]:
        if self.mode == "eval":
            return self._process("image", photos, images=photos, names=names)
        if self.augment_on_device:
            resized = self.processor.image_processor.size["shortest_edge"]
            made = photos_to_crop(self.processor.decoded(photos, names), resized, ROTATION, draws)
            return made | {"image_present": torch.tensor([photo is not None for photo in photos])}
        parts = [
            self._process("image", [photo], images=[photo], names=[name], generator=draw)
            for photo, name, draw in zip(photos, names, draws, strict=True)
        ]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _second_crops(
        self, photos: Sequence[Any], names: Sequence[str], draws: Sequence[torch.Generator]
    ) -> dict[str, Tensor]:
        """Other crops of the photos, drawn after the first; crops on the device are of the same pixels."""
        made = self._photos(photos, names, draws)
        left_out = {"image_present"} | ({"pixel_values"} if self.augment_on_device else set())
        return {f"{name}{SECOND}": value for name, value in made.items() if name not in left_out}

    def _text(self, row: Mapping[str, Any], draw: torch.Generator) -> str | None:
        taxonomy = {rank: row.get(rank) for rank in RANKS}
        if self.mode == "eval" or len(self.templates) == 1:
            template = self.templates[0]
        else:
            template = self.templates[int(torch.randint(len(self.templates), (), generator=draw))]
        return clibd_text(taxonomy, template)


def check_names(modalities: Sequence[str], known: Sequence[str], label_columns: Sequence[str]) -> None:
    """Raises ValueError for unknown modalities or label columns, or without a modality."""
    unknown = [modality for modality in modalities if modality not in known]
    unknown += [column for column in label_columns if column not in LABEL_COLUMNS]
    if unknown or not modalities:
        raise ValueError(
            f"Unknown {(unknown[0] if unknown else modalities)!r}. The modalities are {', '.join(known)}; labels are "
            f"{', '.join(LABEL_COLUMNS)}."
        )


def encoded_photo(photo: Any) -> Any:
    """The photo of a row; None if the row has none."""
    if isinstance(photo, Mapping) and photo["bytes"] is None and photo["path"] is None:
        return None
    return photo
