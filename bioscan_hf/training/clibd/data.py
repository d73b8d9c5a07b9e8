"""Data, sampler, model and processor for CLIBD training.

Source: CLIBD, https://arxiv.org/abs/2405.17537 ("published": its public code)
Shape letters: n = rows of a dataset.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, concatenate_datasets
from datasets import Image as ImageFeature
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import AutoModel, AutoTokenizer, PreTrainedConfig, PreTrainedModel, TimmWrapperConfig
from transformers.utils import cached_file

from ...dataset.load import load_bioscan5m
from ...dataset.parquet_rows import ParquetRows, joined, open_rows
from ...encoders.hub_encoders import BARCODEBERT, load_published_barcodebert
from ...encoders.image_encoders import PUBLISHED as PHOTO_ENCODERS
from ...encoders.image_encoders import load_image_encoder
from ...losses.hierarchical import CHAIN
from ...losses.pairs import choose_pairs
from ...models import register  # noqa: F401  (our classes for AutoModel)
from ...models.configuration_clibd import ClibdConfig
from ...models.modeling_barcodebert import BarcodeBertModel
from ...models.modeling_clibd import ClibdModel, draw_as_timm
from ...models.processing_clibd import MODALITIES, PUBLISHED, ClibdProcessor, make_image_processor
from ...models.tokenization_kmer import KmerTokenizer
from ...schema import RANKS
from ..arguments import global_batch_size
from ..inputs import check_batch, pinned, split_revision
from ..sampling import EpochSampler, block_order, distinct_order, groups_of
from .chains import chain_order
from .options import ClibdArguments, ClibdOptions, batch_labels, chosen_pairs
from .streams import PassStream, ids_of_shards, kept, largest_id

#: Fields of `ClibdConfig` of the published models.
PUBLISHED_HEADS: dict[str, Any] = {
    "dna_pooling": "softmax_mean",
    "dna_attend_to_padding": True,
    "text_pooling": "mean",
    "logit_scale_max": None,
}

#: Initial values of the SigLIP loss: logarithm of the inverse temperature, and bias of a model without one.
SIGLIP_SCALE, SIGLIP_BIAS = math.log(10), -10.0

#: Encoders of the paper: added if fewer are given than the objective needs.
ENCODERS = {
    "image": "timm/vit_base_patch16_224.augreg2_in21k_ft_in1k",
    "dna": BARCODEBERT,
    "text": "prajjwal1/bert-small",
}

#: Name of a photo encoder whose weights a Python package brings -> its settings.
PACKAGED = {name: encoder for name, encoder in PHOTO_ENCODERS.items() if encoder.package}

#: Start of the name of an encoder with random weights.
NEW = "new:"

# ---- specimens ------------------------------------------------------------------------------------------------------


def columns_needed(options: ClibdOptions, modalities: Sequence[str]) -> list[str]:
    """Columns to read in training."""
    columns = ["processid"] + ["image"] * ("image" in modalities) + ["dna_barcode"] * ("dna" in modalities)
    columns += list(RANKS) if "text" in modalities else []
    columns += [*batch_labels(options), *([options.distinct] if options.distinct != "none" else [])]
    columns += list(CHAIN) if options.chain_batches else []
    return list(dict.fromkeys(columns))


def open_specimens(options: ClibdOptions, split: str, columns: Sequence[str]) -> Dataset | ParquetRows:
    """Rows of a split, with encoded photos; ValueError if there are none.

    Photos of built Parquet files are read where they are, without a copy.
    """
    name, revision = split_revision(options.source)
    rows = open_rows(name, options.image_config, split, columns, revision=revision) if "image" in columns else None
    data: Any = rows or _read(options, split, columns, columns)
    if len(data) == 0:
        raise ValueError(f"The split {split!r} of {options.source!r} has no rows. Choose another split or source.")
    return data


def column_of(data: Dataset | ParquetRows, name: str) -> pa.ChunkedArray:
    """The values of a column, for all rows."""
    if isinstance(data, ParquetRows):
        return data.column(name)
    return data.select_columns([name]).with_format("arrow")[:][name]


def load_training_rows(
    options: ClibdOptions, training_args: ClibdArguments, modalities: Sequence[str], first_step: int = 0
) -> Dataset | ParquetRows | PassStream:
    """The training rows: a dataset, or a shuffled stream without an end.

    A stream leaves out `first_step` steps: those before the checkpoint of a resumed run. Raises ValueError if there
    are fewer rows than one batch over all processes.
    """
    split, most = options.train_split, options.max_train_specimens
    columns, smallest = columns_needed(options, modalities), global_batch_size(training_args)
    if options.streaming:
        stream = _read(options, split, columns, columns, streaming=True)
        ids = ids_of_shards(_read(options, split, ["processid"], columns, streaming=True), stream.num_shards)
        limit = largest_id(chain.from_iterable(ids), most)
        rows = PassStream(
            stream,
            [len(kept(of_shard, limit)) for of_shard in ids],
            training_args.per_device_train_batch_size,
            buffer=options.stream_buffer,
            seed=training_args.seed,
            rank=training_args.process_index,
            processes=training_args.world_size,
            first_step=first_step,
            limit=limit,
        )
        check_batch(range(rows.rows), split, smallest)
        return rows
    data = open_specimens(options, split, columns)
    if most is not None:
        data = data.select(kept(names := column_of(data, "processid").to_pylist(), largest_id(names, most)))
    check_batch(data, split, smallest)
    return data


def _read(
    options: ClibdOptions, split: str, columns: Sequence[str], config_of: Sequence[str], streaming: bool = False
) -> Any:
    """Some columns of a split, of the config that has the columns `config_of`; photos are not decoded."""
    config = options.image_config if "image" in config_of else "dna"
    name, revision = split_revision(options.source)
    how: dict[str, Any] = {"columns": list(columns), "streaming": streaming, "revision": revision}
    data: Any = load_bioscan5m(name, config, split, **how)
    return data.cast_column("image", ImageFeature(decode=False)) if "image" in columns else data


@dataclass(frozen=True)
class Validation:
    """Keys and queries of a validation, n rows."""

    rows: Dataset | ParquetRows  # keys, then queries of seen, then of unseen species, with the column `index`
    ids: list[str]  # processids
    labels: dict[str, list[str | None]]  # rank -> names
    parts: dict[str, slice]  # "keys", "seen" and "unseen" -> slice of the rows


def load_validation(options: ClibdOptions, modalities: Sequence[str]) -> Validation | None:
    """Keys and queries; None if the options ask for no validation."""
    if options.key_splits == "none":
        return None
    columns = columns_needed(ClibdOptions("", label_columns=None), [*modalities, "text"])  # text: the names of taxa
    splits = {"keys": options.key_splits, "seen": options.seen_split, "unseen": options.unseen_split}
    loaded = [open_specimens(options, split, columns) for split in splits.values()]
    bounds = np.cumsum([0, *map(len, loaded)]).tolist()
    parts = {part: slice(bounds[i], bounds[i + 1]) for i, part in enumerate(splits)}
    rows: Any
    if all(isinstance(part, ParquetRows) for part in loaded):
        rows = joined(cast(list[ParquetRows], loaded)).in_turn("index")
    else:
        rows = concatenate_datasets(cast(list[Dataset], loaded)).add_column("index", np.arange(bounds[-1]))
    names = {rank: [name or None for name in column_of(rows, rank).to_pylist()] for rank in RANKS}
    return Validation(rows, column_of(rows, "processid").to_pylist(), names, parts)


def make_sampler(options: ClibdOptions, data: Any, training_args: ClibdArguments) -> EpochSampler | None:
    """The order of the training rows; None uses the Trainer's."""
    blocks = data.blocks if isinstance(data, ParquetRows) else None
    how = global_batch_size(training_args), training_args.seed
    if options.chain_batches:
        taxa = np.stack([groups_of(column_of(data, rank)) for rank in CHAIN], 1)  # (n, R)
        return EpochSampler(chain_order, taxa, *how)
    if options.streaming or options.distinct == "none":
        return None if blocks is None else EpochSampler(block_order, blocks, *how)
    groups = groups_of(column_of(data, options.distinct), barcodes=options.distinct == "dna_barcode")
    return EpochSampler(partial(distinct_order, blocks=blocks), groups, *how)


# ---- model and processor --------------------------------------------------------------------------------------------


def make_model(options: ClibdOptions) -> tuple[ClibdModel, ClibdProcessor]:
    """The model and its processor, loaded or new; errors are those of `load_model` and `load_encoders`."""
    if options.model is not None:
        whole = pinned(options.model)
        return load_model(whole, options.loss, options.fusion_weight > 0), ClibdProcessor.from_pretrained(whole)
    given = {modality: name for modality in MODALITIES if (name := getattr(options, f"{modality}_encoder"))}
    enough = 2 if options.objective == "contrast" else 1
    towers, text = load_encoders(given if len(given) >= enough else ENCODERS | given)
    published = options.architecture == "published"
    fields: dict[str, Any] = {**(PUBLISHED_HEADS if published else {}), "projection_dim": options.projection_dim}
    fields["fusion"] = options.fusion_weight > 0
    if options.loss == "siglip":
        fields |= {"logit_scale_init_value": SIGLIP_SCALE, "logit_bias_init_value": SIGLIP_BIAS}
    model = ClibdModel.from_pretrained_towers(**towers, **fields)
    return model, make_processor(model.config, text, published=published)


def load_encoders(names: Mapping[str, str]) -> tuple[dict[str, Any], Any]:
    """Modality -> encoder, and the tokenizer of texts, None without texts.

    Raises FileNotFoundError for encoders that are neither on this machine nor can be downloaded. All are named.
    """
    towers: dict[str, Any] = {}
    hub: dict[str, Any] = {"local_files_only": False}
    text, missing = None, []
    for modality, given in names.items():
        if given.startswith(NEW) or (modality == "image" and given in PACKAGED):
            towers[modality] = new_image_encoder(given)
            continue
        name = pinned(given)
        try:
            cached_file(name, "config.json", **hub)
            if modality != "dna":
                towers[modality] = AutoModel.from_pretrained(name, dtype=torch.float32, **hub)
            elif PreTrainedConfig.get_config_dict(name, **hub)[0].get("model_type") == "bert":
                towers[modality] = load_published_barcodebert(name, **hub)[0]
            else:
                towers[modality] = BarcodeBertModel.from_pretrained(name, dtype=torch.float32, **hub)
            text = AutoTokenizer.from_pretrained(name, **hub) if modality == "text" else text
        except OSError as error:  # what transformers raises for missing files and for a missing network
            if Path(name).is_dir():
                raise FileNotFoundError(f"--{modality}_encoder {given} cannot be read: {error}") from None
            missing.append(f"--{modality}_encoder {given}")
            hub["local_files_only"] |= isinstance(error.__cause__, LocalEntryNotFoundError)  # do not wait again
    if missing:
        raise FileNotFoundError(
            f"Not on this machine, and cannot be downloaded: {', '.join(missing)}. Give folders of encoders, such as "
            f"one of a pretrained BarcodeBERT, or --image_encoder {NEW}vit_base_patch16_224, with random weights."
        )
    return towers, text


def load_model(name: str, loss: str, fusion: bool = False) -> ClibdModel:
    """The model to continue from. It gets a bias for the SigLIP loss and a gate for `fusion`, if it has none.

    Raises ValueError if weights are missing or unexpected; all are named.
    """
    config = ClibdConfig.from_pretrained(name)
    new = set()
    if loss == "siglip" and config.logit_bias_init_value is None:
        config.logit_bias_init_value, new = SIGLIP_BIAS, {"logit_bias.bias"}
    fuse = fusion and not config.fusion
    config.fusion |= fusion
    loaded: Any = ClibdModel.from_pretrained(name, config=config, output_loading_info=True, dtype=torch.float32)
    absent = {key for key in loaded[1]["missing_keys"] if not (fuse and key.startswith("fusion_gate."))}
    missing, unexpected = sorted(absent - new), sorted(loaded[1]["unexpected_keys"])
    if missing or unexpected:
        raise ValueError(
            f"The weights of {name!r} do not fit its config. Missing: {', '.join(missing) or 'none'}; unexpected: "
            f"{', '.join(unexpected) or 'none'}. Give a complete CLIBD model."
        )
    return loaded[0]


def new_image_encoder(name: str) -> PreTrainedModel:
    """A photo encoder of timm, with random weights for "new:ARCHITECTURE" or those of a package for its name.

    Raises ValueError if timm has no such architecture, or the package is not installed.
    """
    import timm  # slow to import

    architecture = PACKAGED[name].timm if name in PACKAGED else name.removeprefix(NEW)
    if not timm.is_model(architecture):
        raise ValueError(f"timm has no architecture {architecture!r}. timm.list_models() lists all architectures.")
    described: Any = timm.get_pretrained_cfg(architecture)
    fields: dict[str, Any] = {"architecture": architecture}
    if described is not None:  # size and normalisation of photos
        values = described.to_dict()
        fields["pretrained_cfg"] = {key: values[key] for key in ("input_size", "mean", "std")}
    encoder = AutoModel.from_config(TimmWrapperConfig(**fields))
    if name in PACKAGED:
        encoder.timm_model.load_state_dict(load_image_encoder(name)[0].network.state_dict())
    else:
        draw_as_timm(encoder)
    return encoder


def make_processor(config: ClibdConfig, text_tokenizer: Any = None, *, published: bool = False) -> ClibdProcessor:
    """A processor that fits a model. With `published`, photos are not normalised, and texts have 20 tokens."""
    image: Any = config.image_config
    size, mean, std = 224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    if image is not None and image.model_type == "timm_wrapper":
        described = image.to_dict().get("pretrained_cfg") or {}  # only weights of timm's hub have one
        size = (image.model_args or {}).get("img_size") or described.get("input_size", (3, size, size))[-1]
        mean, std = described.get("mean", mean), described.get("std", std)
    elif image is not None:
        size = image.image_size
    if published:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    dna = None
    if config.dna_config is not None:
        shape: Any = config.dna_config
        dna = KmerTokenizer(k=shape.k, vocabulary=shape.vocabulary, max_nucleotides=shape.max_nucleotides)
    return ClibdProcessor(
        make_image_processor(size, mean, std), dna, text_tokenizer, **(PUBLISHED if published else {})
    )


def modalities_of(options: ClibdOptions, config: ClibdConfig) -> tuple[str, ...]:
    """Modalities of a model that the loss compares; ValueError for those that the model does not have."""
    if options.objective == "contrast":
        pairs = choose_pairs(config.modalities, chosen_pairs(options), options.bind_to)
        compared = tuple(modality for modality in config.modalities if any(modality in pair for pair in pairs))
        for weight, needed in (("fusion_weight", MODALITIES), ("hir_weight", ("image",))):
            if getattr(options, weight) and not set(needed) <= set(compared):
                raise ValueError(f"--{weight} needs {', '.join(needed)}, but compared are {', '.join(compared)}.")
        return compared
    if missing := [modality for modality in options.simclr_modalities if modality not in config.modalities]:
        raise ValueError(f"The model has no {missing[0]!r} to train by simclr. It has {', '.join(config.modalities)}.")
    return tuple(modality for modality in config.modalities if modality in options.simclr_modalities)


def prepare_model(model: ClibdModel, options: ClibdOptions) -> Any:
    """The model with the parts frozen that are not trained, and with adapters if the options ask for them."""
    compared = modalities_of(options, model.config)
    others = [modality for modality in model.config.modalities if modality not in compared]
    frozen = [modality for modality in options.freeze or () if modality in compared]
    adapted: Any = model
    if options.lora_rank:
        from ...models.lora import add_lora

        trained = [modality for modality in compared if modality not in frozen]
        adapted = add_lora(model, r=options.lora_rank, modalities=trained)
    else:
        model.freeze(*frozen)
    model.freeze(*others, projections=True)
    if options.fixed_temperature or options.objective == "simclr":
        model.logit_scale.requires_grad_(False)
    if model.fusion_gate is not None and not options.fusion_weight:
        model.fusion_gate.requires_grad_(False)
    if model.logit_bias is not None and (options.loss != "siglip" or options.objective == "simclr"):
        model.logit_bias.requires_grad_(False)
    return adapted
