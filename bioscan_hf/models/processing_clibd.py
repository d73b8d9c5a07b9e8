"""Processor of CLIBD: converts photos, barcodes and taxonomies of specimens to a batch of tensors.

Sources: CLIBD, https://arxiv.org/abs/2405.17537; text templates of BioCLIP, https://arxiv.org/abs/2311.18803
Shape letters: B = specimens, H and W = height and width in pixels, L = tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image as PILImage
from transformers import AutoTokenizer, BatchFeature, CLIPImageProcessor, PreTrainedTokenizerBase, ProcessorMixin
from transformers.dynamic_module_utils import custom_object_save

from .pixels import Photo, decode_batch, normalize_on_device, photo_pixels, rotate_by
from .random_crops import crops_on_device
from .taxonomy_text import TEXT_TEMPLATES, clibd_text
from .tokenization_kmer import KmerTokenizer

MODALITIES = ("image", "dna", "text")

#: With it, `AutoProcessor` finds this file beside the weights.
AUTO_MAP = {"AutoProcessor": "processing_clibd.ClibdProcessor"}

#: Largest angle of the published augmentation, in degrees.
ROTATION = 45.0

#: Shorter side of a resized photo, divided by the side of its centre crop.
RESIZE_RATIO = 256 / 224

#: Options of the published checkpoints.
PUBLISHED: dict[str, Any] = {"text_template": "published", "text_max_length": 20, "text_padding": "max_length"}


def make_image_processor(
    image_size: int = 224, mean: Sequence[float] = (0.5, 0.5, 0.5), std: Sequence[float] = (0.5, 0.5, 0.5)
) -> CLIPImageProcessor:
    """Image processor with an antialiased bilinear resize and a centre crop, such as 256 to 224.

    The default `mean` and `std` are those of CLIBD's pretrained ViT; CLIBD itself used 0 and 1.
    """
    return CLIPImageProcessor(
        size={"shortest_edge": round(image_size * RESIZE_RATIO)},
        crop_size={"height": image_size, "width": image_size},
        resample=PILImage.Resampling.BILINEAR,
        image_mean=list(mean),
        image_std=list(std),
    )


class ClibdProcessor(ProcessorMixin):
    """Converts photos, barcodes and taxonomies to the inputs of `ClibdModel`.

    Args:
        image_processor: None is `make_image_processor()`.
        dna_tokenizer: None is CLIBD's `KmerTokenizer(k=5, vocabulary="clibd")`.
        text_tokenizer: None for a model without text.
        text_template: Template of the text of a taxonomy, see `clibd_text`.
        text_prompt: Prompt with "{}" in place of that text, such as BioCLIP's "a photo of {}.".
        text_max_length: Maximum number of tokens of a text; the rest is cut off.
        text_padding: "longest" pads texts to the longest of a batch, "max_length" to `text_max_length`.

    Example:
        >>> processor = ClibdProcessor()
        >>> processor(dna=["ACGTA" * 132])["dna_input_ids"].shape
        torch.Size([1, 133])
    """

    dna_tokenizer: Any

    def __init__(
        self,
        image_processor: Any = None,
        dna_tokenizer: Any = None,
        text_tokenizer: Any = None,
        text_template: str = "known",
        text_prompt: str = "{}",
        text_max_length: int = 64,
        text_padding: str = "longest",
    ):
        if text_template not in TEXT_TEMPLATES:
            raise ValueError(f"Unknown text_template {text_template!r}. Choose one of {', '.join(TEXT_TEMPLATES)}.")
        if text_prompt.count("{}") != 1:
            raise ValueError(f"text_prompt is {text_prompt!r}, but must hold '{{}}' once, in place of the text.")
        if text_padding not in ("longest", "max_length"):
            raise ValueError(f"Unknown text_padding {text_padding!r}. Choose 'longest' or 'max_length'.")
        if text_max_length < 1:
            raise ValueError(f"text_max_length is {text_max_length}; give 1 token or more.")
        self._text_tokenizer = text_tokenizer
        self.text_template, self.text_prompt = text_template, text_prompt
        self.text_max_length, self.text_padding = text_max_length, text_padding
        super().__init__(
            image_processor or make_image_processor(),
            dna_tokenizer or KmerTokenizer(k=5, vocabulary="clibd"),
        )

    @classmethod
    def get_attributes(cls) -> list[str]:
        """The required parts. ProcessorMixin has no optional ones, so the text tokenizer is handled separately."""
        return ["image_processor", "dna_tokenizer"]

    @property
    def text_tokenizer(self) -> PreTrainedTokenizerBase | None:
        """Tokenizer of texts, None for a model without text."""
        return self._text_tokenizer

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of texts, or else of barcodes, whose special tokens the Trainer reads."""
        return self._text_tokenizer or self.dna_tokenizer

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> list[str]:
        """Writes `processor_config.json`, a folder for each tokenizer, and the code that loads them."""
        if push_to_hub:
            return [self.push_to_hub(kwargs.pop("repo_id", Path(save_directory).name), **kwargs)]
        files = super().save_pretrained(save_directory, **kwargs)
        files += custom_object_save(self, save_directory)
        if self._text_tokenizer is not None:
            files += self._text_tokenizer.save_pretrained(Path(save_directory) / "text_tokenizer")
        return files

    def to_dict(self) -> dict[str, Any]:
        """Content of `processor_config.json`."""
        return super().to_dict() | {"modalities": list(self.modalities), "auto_map": dict(AUTO_MAP)}

    @classmethod
    def from_args_and_dict(cls, args: Any, processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """The processor from its parts and options; `modalities` and `auto_map` are derived."""
        options = {key: value for key, value in processor_dict.items() if key not in ("modalities", "auto_map")}
        return super().from_args_and_dict(args, options, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> ClibdProcessor:
        """Loads a processor from a folder or the Hub; `kwargs` overwrite its options.

        Raises:
            ValueError: if it is not a processor of CLIBD.
        """
        given = kwargs.pop("text_tokenizer", None)
        processor = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        found, _ = cls.get_processor_dict(pretrained_model_name_or_path, **_hub_options(kwargs))
        if "modalities" not in found:
            raise ValueError(
                f"{str(pretrained_model_name_or_path)!r} has no processor of CLIBD: processor_config.json or its "
                f"'modalities' are missing. Give the folder or Hub id of a CLIBD model."
            )
        if given is None and "text" in found["modalities"]:
            folder = "/".join(filter(None, (kwargs.get("subfolder", ""), "text_tokenizer")))
            options = _hub_options(kwargs) | {"subfolder": folder}
            given = AutoTokenizer.from_pretrained(pretrained_model_name_or_path, **options)
        processor._text_tokenizer = given
        return processor

    @classmethod
    def _load_tokenizer_from_pretrained(cls, sub_processor_type: str, *args: Any, **kwargs: Any) -> KmerTokenizer:
        """Loads a KmerTokenizer; AutoTokenizer does so only if this package is imported."""
        folder = "/".join(filter(None, (kwargs.pop("subfolder", ""), sub_processor_type)))
        return KmerTokenizer.from_pretrained(*args, subfolder=folder, **kwargs)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities that it can process."""
        return MODALITIES if self._text_tokenizer is not None else MODALITIES[:2]

    @property
    def image_size(self) -> int:
        """Height and width of `pixel_values`."""
        return self.image_processor.crop_size["height"]

    @property
    def model_input_names(self) -> list[str]:
        """Keys of a batch."""
        names = ["pixel_values", "dna_input_ids", "dna_attention_mask"]
        return names + ["text_input_ids", "text_attention_mask"] * (self._text_tokenizer is not None)

    def __call__(
        self,
        images: Photo | Sequence[Photo | None] | None = None,
        text: Any = None,
        dna: str | Sequence[str | None] | None = None,
        *,
        mode: Literal["eval", "train"] = "eval",
        on_device: bool = False,
        generator: torch.Generator | None = None,
        names: Sequence[str] | None = None,
        return_tensors: Literal["pt"] = "pt",
    ) -> BatchFeature:
        """A batch of one or more specimens, with one or more modalities.

        Args:
            images: Photo or photos, see `photo_pixels`.
            text: Taxonomy (see `clibd_text`) or text, or a list of them.
            dna: Barcode or barcodes.
            mode: "train" augments photos as published: a random crop, flips, and a rotation by up to 45 degrees.
            on_device: Leaves rotation and normalization to `photos_on_device`: `pixel_values` are uint8, and in
                training `rotation` holds the angles.
            generator: Random number generator of "train"; None is torch's global one.
            names: Name of each specimen for errors.

        Returns:
            `pixel_values` (B, 3, H, W), `dna_input_ids`, `dna_attention_mask`, `text_input_ids` and
            `text_attention_mask` (B, L). In a list, None is a missing photo, barcode or taxonomy: its row holds
            placeholder values and is False in `image_present`, `dna_present` or `text_present`, bool (B,).

        Raises:
            ValueError: for nothing to process, unequal numbers, or invalid data (named).
            TypeError: for an input that is not a photo, barcode or taxonomy.
        """
        given = {"image": _several(images), "dna": _several(dna), "text": _several(text)}
        rows = {modality: len(values) for modality, values in given.items() if values is not None}
        if not rows or not min(rows.values()) or len(set(rows.values())) > 1:
            counts = ", ".join(f"{count} of {modality}" for modality, count in rows.items()) or "nothing"
            raise ValueError(f"There is {counts} to process. Give the same number of each, 1 or more.")
        names = names or [f"Row {row} of the batch" for row in range(max(rows.values()))]
        batch: dict[str, torch.Tensor] = {}
        if given["image"] is not None:
            batch |= self._process_photos(given["image"], names, mode, on_device, generator)
        if given["dna"] is not None:
            batch |= self._process_barcodes(given["dna"], names)
        if given["text"] is not None:
            batch |= self._process_texts(given["text"], names)
        for modality, values in given.items():
            if values is not None and any(value is None for value in values):
                batch[f"{modality}_present"] = torch.tensor([value is not None for value in values])
        return BatchFeature(batch, tensor_type=return_tensors)

    def decoded(self, photos: Sequence[Any], names: Sequence[str]) -> list[np.ndarray]:
        """Pixels of photos, uint8 (H, W, 3), see `photo_pixels`; black for None. `names` are for errors."""
        filler = np.zeros((self.image_size, self.image_size, 3), np.uint8)
        return [
            filler if photo is None else photo_pixels(photo, f"{name}: the photo")
            for photo, name in zip(photos, names, strict=True)
        ]

    def _process_photos(
        self,
        photos: Sequence[Any],
        names: Sequence[str],
        mode: Literal["eval", "train"],
        on_device: bool,
        generator: torch.Generator | None,
    ) -> dict[str, torch.Tensor]:
        pixels = self.decoded(photos, names)
        if mode == "eval" and not on_device:  # resized as floats, as published
            floats = [torch.from_numpy(photo).permute(2, 0, 1) / 255 for photo in pixels]
            return dict(self.image_processor(floats, do_rescale=False, return_tensors="pt"))
        resized = self.image_processor.size["shortest_edge"]
        crops = decode_batch(pixels, self.image_size, mode, resized=resized, generator=generator)
        rotation = torch.rand(len(pixels), generator=generator) * 2 * ROTATION - ROTATION
        batch = {"pixel_values": crops} | ({"rotation": rotation} if mode == "train" else {})
        return batch if on_device else {"pixel_values": photos_on_device(batch, self.image_processor)}

    def _process_barcodes(self, barcodes: Sequence[str | None], names: Sequence[str]) -> dict[str, torch.Tensor]:
        for barcode, name in zip(barcodes, names, strict=True):
            if barcode is not None and not isinstance(barcode, str):
                raise TypeError(f"{name}: the barcode is a {type(barcode).__name__}, not a string.")
            if barcode is not None and not barcode.strip():
                raise ValueError(f"{name}: the barcode is empty. Give None for a specimen without one.")
        ids, mask = self.dna_tokenizer.encode_column([barcode or "" for barcode in barcodes])
        mask[[barcode is None for barcode in barcodes], 0] = 1  # attention needs a token to attend to
        return {"dna_input_ids": torch.from_numpy(ids), "dna_attention_mask": torch.from_numpy(mask)}

    def _process_texts(self, taxonomies: list[Any], names: Sequence[str]) -> dict[str, torch.Tensor]:
        """Tokens of texts. A taxonomy without known names becomes None in `taxonomies`."""
        if self._text_tokenizer is None:
            raise ValueError("This processor has no text_tokenizer. Give one to process text.")
        texts = []
        for row, (taxonomy, name) in enumerate(zip(taxonomies, names, strict=True)):
            if isinstance(taxonomy, Mapping):
                taxonomies[row] = taxonomy = clibd_text(taxonomy, self.text_template)
            elif taxonomy is not None and not isinstance(taxonomy, str):
                raise TypeError(f"{name}: a {type(taxonomy).__name__} is neither a text nor a dict of rank -> name.")
            texts.append("" if taxonomy is None else self.text_prompt.format(taxonomy))
        encoded = self._text_tokenizer(
            texts,
            padding=self.text_padding,
            max_length=self.text_max_length,
            truncation=True,
            return_token_type_ids=False,
            return_tensors="pt",
        )
        return {"text_input_ids": encoded["input_ids"], "text_attention_mask": encoded["attention_mask"]}


def photos_on_device(batch: Mapping[str, torch.Tensor], image_processor: Any) -> torch.Tensor:
    """`pixel_values` (B, 3, H, W) for the model, computed on the device of the batch.

    Args:
        batch: `pixel_values` uint8; optionally `crop` and `flip` (see `random_crops.photos_to_crop`) and `rotation`
            (B,), in degrees. Photos are cropped, flipped, rotated and normalized in this order. Corners of a rotated
            photo have the mean colour.
    """
    pixels, mean = batch["pixel_values"], image_processor.image_mean
    if "crop" in batch:
        pixels = crops_on_device(pixels, batch["crop"], batch["flip"], image_processor.crop_size["height"])
    if "rotation" in batch:
        pixels = rotate_by(pixels, batch["rotation"], [255 * colour for colour in mean])
    return normalize_on_device(pixels, mean, image_processor.image_std)


def _several(values: Any) -> list[Any] | None:
    """The values as a list; a single photo, text or barcode becomes a list of one."""
    if values is None:
        return None
    if isinstance(values, np.ndarray | torch.Tensor) and values.ndim == 4:
        return list(values)
    if isinstance(values, Sequence) and not isinstance(values, str | bytes | bytearray | memoryview):
        return list(values)
    return [values]


def _hub_options(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `from_pretrained` that say where files are."""
    where = {"cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder", "trust_remote_code"}
    return {name: value for name, value in kwargs.items() if name in where}
