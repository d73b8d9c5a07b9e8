"""Converts published checkpoints to folders for `from_pretrained`.

All layouts of BarcodeBERT since 2023 are supported (https://arxiv.org/abs/2311.02401), and those of CLIBD
(`clibd.py`), BarcodeMAE (`barcodemae.py`) and BarcodeMamba (`barcodemamba.py`). They are recognised by their keys,
every key must be known, and nothing in the file runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..models.modeling_barcodebert import BarcodeBertForMaskedLM, BarcodeBertForSequenceClassification
from ..models.tokenization_kmer import KmerTokenizer
from .barcodemae import convert_mae, is_mae
from .barcodemamba import convert_mamba, hydra_options, is_mamba
from .bert_encoder import State, barcodebert_config, options_of, training_options, weights_of
from .safe_load import load_checkpoint
from .shapes import name_classes, save_with

#: Prefixes of CLIBD's keys.
CLIBD = ("image_encoder.", "dna_encoder.", "language_encoder.", "open_clip_model.")


def convert_checkpoint(
    checkpoint: str | Path | Mapping[str, Any],
    output_dir: str | Path,
    *,
    labels: Sequence[str] | None = None,
    num_attention_heads: int | Mapping[str, int] | None = None,
    adapters: str = "merge",
    text_tokenizer: PreTrainedTokenizerBase | None = None,
    bpe_tokenizer: str | Path | None = None,
) -> Path:
    """Converts a published checkpoint to a folder with model and tokenizer, and returns the folder.

    Masked language models (since 2024, or of 2023 with a tied head) become `BarcodeBertForMaskedLM`, fine-tuned
    classifiers `BarcodeBertForSequenceClassification`, and every `best.pth` of CLIBD `ClibdModel` with a
    `ClibdProcessor`. Encoders of BarcodeMAE become `BarcodeBertModel`, and BarcodeMamba `BarcodeMambaForMaskedLM` or,
    fine-tuned, `BarcodeMambaForSequenceClassification`. Files may hold a training state or only weights, of one
    process or several.

    Args:
        checkpoint: File written by torch.save, or its content: weights, or a dict with the weights as "model" or
            "state_dict" and the shape as "bert_config".
        output_dir: New or empty folder.
        labels: Class names of a classifier, in the order of its outputs. Published files do not have them.
        num_attention_heads: Required if the file has no config and is not of a published size. Published BarcodeBERT
            models have as many heads as layers, CLIBD's encoders one head per 64 columns. For CLIBD also modality
            (image, dna, text) -> heads, for a BarcodeMAE with its decoder also "encoder" and "decoder" -> heads.
        adapters: For CLIBD. "merge" adds low-rank adapters to the weights; "keep" writes them to the folder "adapter",
            for `load_lora`.
        text_tokenizer: For CLIBD: tokenizer of the text encoder (published: "prajjwal1/bert-small"), which the file
            does not have. It can also be given when the processor is loaded.
        bpe_tokenizer: For BarcodeMAE of BPE tokens: published folder of its tokenizer, which the file does not have.

    Raises:
        FileExistsError: if the folder is not empty.
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged or of an unknown layout (its keys are named), keys are missing or
            unexpected (all are named), or the number of `labels` is not that of the classes.
    """
    output = Path(output_dir)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"{str(output)!r} is not empty. Give a new folder.")
    content = load_checkpoint(checkpoint) if isinstance(checkpoint, str | Path) else checkpoint
    name = str(checkpoint) if isinstance(checkpoint, str | Path) else "the checkpoint"
    weights = weights_of(content, name)
    if any(key.removeprefix("module.").startswith(CLIBD) for key in weights):
        from .clibd import convert_clibd  # needs the packages for photos

        if labels is not None:
            raise ValueError(f"{name} is a CLIBD model: it has no classes. Leave labels out.")
        return convert_clibd(weights, output, name, num_attention_heads, adapters, text_tokenizer)
    if bpe_tokenizer is not None and not is_mae(weights):
        raise ValueError(f"{name} is not a BarcodeMAE, which alone takes a BPE tokenizer. Leave it out.")
    if adapters != "merge" or text_tokenizer is not None:
        raise ValueError(f"{name} is not a CLIBD model: adapters and text tokenizers are for CLIBD.")
    if is_mamba(weights):
        options = hydra_options(Path(checkpoint)) if isinstance(checkpoint, str | Path) else {}
        return convert_mamba(weights, output, name, labels, options)
    if is_mae(weights):
        return convert_mae(content, weights, output, name, labels, num_attention_heads, bpe_tokenizer)
    if isinstance(num_attention_heads, Mapping):
        raise ValueError(f"{name} is a BarcodeBERT model: heads by modality are for CLIBD.")
    return _convert_bert(content, weights, output, name, labels, num_attention_heads)


def _convert_bert(
    content: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    output: Path,
    name: str,
    labels: Sequence[str] | None,
    heads: int | None,
) -> Path:
    """Converts a BarcodeBERT; see `convert_checkpoint`."""
    state, kind = _weights(weights, name)
    shape, trained = options_of(content, "bert_config", name), training_options(content, name)
    known = ("barcodebert-2023",) if kind == "tied" else ("barcodebert", "barcodebert-n")
    pooling = "mean" if kind == "classifier" else "masked_mean"
    head = "tied" if kind == "tied" else "kmers"
    config = barcodebert_config(state, known, shape, trained, heads, name, pooling=pooling, mlm_head=head)
    model: PreTrainedModel
    if kind == "classifier":
        if "taxon_classifier.weight" not in state:
            raise ValueError(f"{name} is a fine-tuned classifier without its classifier.weight.")
        name_classes(config, labels, len(state["taxon_classifier.weight"]), name)
        model = BarcodeBertForSequenceClassification(config)
    elif labels is not None:
        raise ValueError(f"{name} is a masked language model: it has no classes. Leave labels out.")
    else:
        model = BarcodeBertForMaskedLM(config)
    save_with(model, state, output, name)
    KmerTokenizer(config.k, config.vocabulary, config.max_nucleotides).save_pretrained(output)
    return output


def _weights(weights: Mapping[str, Tensor], name: str) -> tuple[State, str]:
    """The weights under our keys, and their kind: "kmers", "tied" or "classifier"."""
    state: State = {}
    fine_tuned = False
    for key, value in weights.items():
        key = key.removeprefix("module.")  # DistributedDataParallel
        fine_tuned |= key.startswith("base_model.")
        key = key.removeprefix("base_model.")
        if key in state:
            raise ValueError(f"{name} has the weight {key} twice, with and without a prefix.")
        if not key.endswith("position_ids"):  # a buffer that transformers < 4.31 saved
            state[key] = value
    if "bert.embeddings.word_embeddings.weight" not in state:
        raise ValueError(
            f"{name} is of an unknown layout: it has no bert.embeddings.word_embeddings.weight, with or without the "
            f"prefixes 'module.' and 'base_model.'. Its keys begin with {', '.join(list(state)[:5]) or 'nothing'}."
        )
    if fine_tuned:
        return {key.replace("classifier.", "taxon_classifier."): value for key, value in state.items()}, "classifier"
    return state, "tied" if any(key.startswith("cls.predictions.") for key in state) else "kmers"
