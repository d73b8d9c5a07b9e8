"""Converts published checkpoints of BarcodeMamba: Lightning's `last.ckpt`, with `.hydra/config.yaml` beside it.

Source: https://github.com/bioscan-ml/BarcodeMamba. Files: https://huggingface.co/bioscan-ml/BarcodeMamba
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor
from transformers import PreTrainedModel

from ..models.configuration_barcodemamba import PUBLISHED, BarcodeMambaConfig
from ..models.modeling_barcodemamba import BarcodeMambaForMaskedLM, BarcodeMambaForSequenceClassification
from ..models.tokenization_kmer import KmerTokenizer
from ..models.vocabularies import VOCABULARIES
from .shapes import count_layers, name_classes, save_with

#: Pattern in the published keys -> its replacement in ours. Keys of the mixers are the same.
KEYS = (
    (r"^backbone\.embeddings\.word_embeddings\.", "backbone.embeddings."),
    (r"^backbone\.ln_f\.", "backbone.norm_f."),
    (r"^(backbone\.layers\.\d+)\.mlp\.", r"\1."),
    (r"^head\.output_transform\.", "taxon_classifier."),
    (r"^head\.", "classifier."),
)

#: Pretraining in the options -> ours.
OBJECTIVES = {"ntp": "next", "mlm": "masked"}

#: Most bytes that are read of a `config.yaml`.
MOST_BYTES = 2**20


def is_mamba(weights: Mapping[str, Tensor]) -> bool:
    """Whether the keys are those of a BarcodeMamba."""
    return any(re.match(r"(model\.)?backbone\.layers\.\d+\.mixer\.", key) for key in weights)


def convert_mamba(
    weights: Mapping[str, Tensor], output: Path, name: str, labels: Sequence[str] | None, options: Mapping[str, Any]
) -> Path:
    """Converts a checkpoint for which `is_mamba` holds; see `barcodebert.convert_checkpoint`.

    Args:
        options: Content of the run's `.hydra/config.yaml`; may be empty.

    Raises:
        ValueError: if keys are missing or unexpected, or the weights contradict the options.
    """
    state = _renamed(weights)
    config = _config(state, options, name)
    model: PreTrainedModel
    if "taxon_classifier.weight" in state:
        name_classes(config, labels, len(state["taxon_classifier.weight"]), name)
        model = BarcodeMambaForSequenceClassification(config)
    elif labels is not None:
        raise ValueError(f"{name} is a pretrained BarcodeMamba: it has no classes. Leave labels out.")
    else:
        model = BarcodeMambaForMaskedLM(config)
    save_with(model, state, output, name)
    KmerTokenizer(config.k, config.vocabulary, config.max_nucleotides).save_pretrained(output)
    return output


def hydra_options(checkpoint: Path) -> dict[str, Any]:
    """The options that hydra wrote beside a checkpoint, or beside the folder `checkpoints`; empty without.

    Raises:
        ValueError: if the file is too large or not YAML.
    """
    for folder in (checkpoint.parent, checkpoint.parent.parent):
        path = folder / ".hydra" / "config.yaml"
        if not path.is_file():
            continue
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"{str(path)!r} has more than {MOST_BYTES:,} bytes, so it is not a config of hydra.")
        try:
            found = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{str(path)!r} is not a YAML file: {' '.join(str(error).split())}") from None
        return found if isinstance(found, dict) else {}
    return {}


def _renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under our keys. Counters of metrics, which Lightning saves too, are left out."""
    state = {}
    lightning = any(key.startswith("model.") for key in weights)
    for key, value in weights.items():
        if lightning and not key.startswith("model.") and value.ndim == 0:
            continue
        key = key.removeprefix("model.")
        for old, new in KEYS:
            key = re.sub(old, new, key)
        state[key] = value
    return state


def _config(state: Mapping[str, Tensor], options: Mapping[str, Any], name: str) -> BarcodeMambaConfig:
    """Sizes from the weights, checked against the options."""
    layers = count_layers(state, "backbone.layers.", name)
    first = "backbone.layers.0."
    needed = ["backbone.embeddings.weight", *(f"{first}mixer.{part}" for part in ("dt_bias", "conv1d.weight"))]
    needed += [f"{first}mixer.out_proj.weight", f"{first}fc1.weight"]
    dimensions = dict(zip(needed, (2, 1, 3, 2, 2), strict=True))
    absent = [key for key, rank in dimensions.items() if key not in state or state[key].ndim != rank]
    if absent:
        raise ValueError(f"{name} has no {', '.join(absent)}, so it is not a BarcodeMamba with Mamba-2.")
    words, steps, kernel, out, inner = (state[key] for key in needed)
    rows, width, heads, expanded = len(words), words.shape[1], len(steps), out.shape[1]
    if not heads or not width or expanded % heads or expanded % width or kernel.shape[0] < expanded:
        raise ValueError(f"The sizes of {name} do not fit: width {width}, inner width {expanded}, {heads} heads.")
    k, vocabulary = _vocabulary(rows, name)
    found = {"d_model": width, "n_layer": layers, "k_mer": k if vocabulary == "barcodemamba" else None}
    data, told = _section(options, "dataset"), _section(options, "model") | _section(options, "tokenizer")
    if told.get("use_unk_token") is False or told.get("stride", k) not in (k, None):
        raise ValueError(f"{name} uses overlapping k-mers, or k-mers with N, which are not supported.")
    wrong = [
        f"{key} is {value}, the config says {told[key]}"
        for key, value in found.items()
        if value and told.get(key, value) != value
    ]
    if wrong:
        raise ValueError(f"The weights of {name} contradict its config: {'; '.join(wrong)}.")
    fields: dict[str, Any] = PUBLISHED | {"vocabulary": vocabulary}
    fields["objective"] = OBJECTIVES.get(str(data.get("pretrain_method")), "next")
    return BarcodeMambaConfig(
        **fields,
        k=k,
        max_nucleotides=int(data.get("max_len", 660)),
        extra_tokens=rows - VOCABULARIES[vocabulary].size(k),
        vocab_size=rows,
        hidden_size=width,
        num_hidden_layers=layers,
        head_dim=expanded // heads,
        expand=expanded // width,
        state_size=(kernel.shape[0] - expanded) // 2,
        conv_kernel=kernel.shape[-1],
        intermediate_size=len(inner),
    )


def _section(options: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Entries of a section that are numbers, names or switches; those that refer to others ("${...}") are left out."""
    section = options.get(key)
    entries = section.items() if isinstance(section, Mapping) else ()
    return {
        str(name): value
        for name, value in entries
        if isinstance(value, int | float | str) and not str(value).startswith("${")
    }


def _vocabulary(rows: int, name: str) -> tuple[int, str]:
    """k and vocabulary of a number of rows, which is padded to a multiple of 8."""
    if rows == VOCABULARIES["barcodemamba-char"].size(1):
        return 1, "barcodemamba-char"
    for k in range(2, 9):
        if 0 <= rows - VOCABULARIES["barcodemamba"].size(k) < 8:
            return k, "barcodemamba"
    raise ValueError(f"{name} has {rows} tokens: neither single nucleotides (8) nor k-mers of 2 to 8 nucleotides.")
