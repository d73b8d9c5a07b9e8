"""Published BarcodeBERT and CLIBD checkpoints -> folders that `from_pretrained` opens: safetensors, config, tokenizer.

Every layout is recognised by its keys, and every key must be accounted for. The file is read such that nothing in it
runs. Layouts: those that the code of BarcodeBERT has written since 2023 (https://arxiv.org/abs/2311.02401), and, in
`convert_clibd`, those of CLIBD.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..models.configuration_barcodebert import VOCABULARIES, BarcodeBertConfig
from ..models.modeling_barcodebert import BarcodeBertForMaskedLM, BarcodeBertForSequenceClassification
from ..models.tokenization_kmer import KmerTokenizer
from .safe_load import load_checkpoint

#: Entries of a published `bert_config` that describe the shape of the model; the others are versions and file names.
SHAPE = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "layer_norm_eps",
    "initializer_range",
)

#: Sizes of the model, and the weight that is as long.
SIZED = {
    "intermediate_size": "bert.encoder.layer.0.intermediate.dense.bias",
    "max_position_embeddings": "bert.embeddings.position_embeddings.weight",
    "type_vocab_size": "bert.embeddings.token_type_embeddings.weight",
}

#: Beginnings of CLIBD's keys.
CLIBD = ("image_encoder.", "dna_encoder.", "language_encoder.", "open_clip_model.")

State = dict[str, Tensor]


def convert_checkpoint(
    checkpoint: str | Path | Mapping[str, Any],
    output_dir: str | Path,
    *,
    labels: Sequence[str] | None = None,
    num_attention_heads: int | Mapping[str, int] | None = None,
    adapters: str = "merge",
    text_tokenizer: PreTrainedTokenizerBase | None = None,
) -> Path:
    """Writes a published checkpoint as a folder for `from_pretrained`, with its tokenizer, and returns the folder.

    Known are: the masked language models since 2024 (with the optimizer beside them, or the bare weights), those of
    2023 with a tied head, and fine-tuned classifiers; saved by one process or by several, by any version of
    transformers. The masked language models open in `BarcodeBertForMaskedLM`, the classifiers, which pool over all
    positions, in `BarcodeBertForSequenceClassification`. Of CLIBD: `best.pth` with any of the three modalities, of any
    version, as `convert_clibd` says; they open in `ClibdModel`, with a `ClibdProcessor` beside them.

    Args:
        checkpoint: File that torch.save wrote, or its content: weights, or a dict with the weights as "model" or
            "state_dict" and the shape as "bert_config".
        output_dir: New or empty folder.
        labels: Names of the classes of a classifier, in the order of its outputs; a published file does not tell them.
        num_attention_heads: Needed where the file holds no shape and is not of a published size, because weights do
            not tell it. In the published sizes of BarcodeBERT there are as many heads as layers, in those of CLIBD
            one for each 64 columns. For CLIBD also modality (image, dna, text) -> heads.
        adapters: Of CLIBD. "merge" adds adapters of low rank to the weights; "keep" leaves them apart, in the folder
            "adapter", for `load_lora`.
        text_tokenizer: Of CLIBD: the tokenizer of its text encoder (published: that of "prajjwal1/bert-small"), which
            the file does not hold. Without it the processor makes no text; it can be given when that is loaded.

    Raises:
        FileExistsError: if the folder holds something.
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged or of an unknown layout (its keys are named), its weights do not fit each
            other (all missing and unexpected keys are named), or `labels` are not one for each class.
    """
    output = Path(output_dir)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"{str(output)!r} is not empty. Give a new folder.")
    content = load_checkpoint(checkpoint) if isinstance(checkpoint, str | Path) else checkpoint
    name = str(checkpoint) if isinstance(checkpoint, str | Path) else "the checkpoint"
    weights = _tensors(content, name)
    if any(key.removeprefix("module.").startswith(CLIBD) for key in weights):
        from .clibd import convert_clibd  # here, because it needs what photos need

        if labels is not None:
            raise ValueError(f"{name} is a CLIBD model: it has no classes that labels could name.")
        return convert_clibd(
            weights,
            output,
            name,
            num_attention_heads=num_attention_heads,
            adapters=adapters,
            text_tokenizer=text_tokenizer,
        )
    if isinstance(num_attention_heads, Mapping) or adapters != "merge" or text_tokenizer is not None:
        raise ValueError(f"{name} is a BarcodeBERT: heads by modality, adapters and text_tokenizer are for CLIBD.")
    state, kind = _weights(weights, name)
    shape = _options(content, "bert_config", name)
    trained = _options(content, "config", name)
    if trained.get("stride", trained.get("k_mer")) != trained.get("k_mer"):
        raise ValueError(f"{name} reads k-mers that overlap (stride {trained['stride']}), which is not supported.")
    config = _config(state, kind, shape, trained, num_attention_heads, name)
    if kind == "classifier":
        if "taxon_classifier.weight" not in state:
            raise ValueError(f"{name} is a fine-tuned classifier without its classifier.weight.")
        n = len(state["taxon_classifier.weight"])
        if labels is not None and len(labels) != n:
            raise ValueError(f"{name} tells {n} classes apart, but {len(labels)} labels were given.")
        config.id2label = {i: label for i, label in enumerate(labels or [f"LABEL_{i}" for i in range(n)])}
        config.label2id = {label: i for i, label in config.id2label.items()}
        model: PreTrainedModel = BarcodeBertForSequenceClassification(config)
    elif labels is not None:
        raise ValueError(f"{name} is a masked language model: it has no classes that labels could name.")
    else:
        model = BarcodeBertForMaskedLM(config)
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # weights of other shapes
        told = " ".join(str(error).split())
        raise ValueError(f"The weights of {name} do not make a {type(model).__name__}: {told}") from error
    if missing or unexpected:
        raise ValueError(
            f"The weights of {name} do not make a {type(model).__name__}: missing are {', '.join(missing) or 'none'}; "
            f"unexpected are {', '.join(unexpected) or 'none'}."
        )
    model.eval().save_pretrained(output)
    KmerTokenizer(config.k, config.vocabulary, config.max_nucleotides).save_pretrained(output)
    return output


def _options(content: Mapping[str, Any], key: str, name: str) -> Mapping[str, Any]:
    """The options under a key, of a dict or of the command line; none if it is absent."""
    options = content.get(key, {})
    if isinstance(options, argparse.Namespace):
        options = vars(options)
    if not isinstance(options, Mapping):
        raise ValueError(f"{name} holds {key!r} of the type {type(options).__name__}; expected is a dict of options.")
    return options


def _tensors(content: Mapping[str, Any], name: str) -> Mapping[str, Tensor]:
    """The weights under their own names."""
    weights = content.get("model", content.get("state_dict", content))
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"{name} holds no weights: expected are tensors, at the top or as 'model' or 'state_dict'.")
    return weights


def _weights(weights: Mapping[str, Tensor], name: str) -> tuple[State, str]:
    """The weights under our names, and what they are: "kmers", "tied" or "classifier"."""
    state: State = {}
    fine_tuned = False
    for key, value in weights.items():
        key = key.removeprefix("module.")  # of a run over several processes
        fine_tuned |= key.startswith("base_model.")
        key = key.removeprefix("base_model.")
        if key in state:
            raise ValueError(f"{name} holds the weight {key} twice, with and without a prefix.")
        if not key.endswith("position_ids"):  # a buffer that transformers < 4.31 saved
            state[key] = value
    if "bert.embeddings.word_embeddings.weight" not in state:
        raise ValueError(
            f"{name} is of an unknown layout: it has no bert.embeddings.word_embeddings.weight, with or without "
            f"'module.' and 'base_model.' before it. Its keys begin with {', '.join(list(state)[:5]) or 'nothing'}."
        )
    if fine_tuned:
        return {key.replace("classifier.", "taxon_classifier."): value for key, value in state.items()}, "classifier"
    return state, "tied" if any(key.startswith("cls.predictions.") for key in state) else "kmers"


def _config(
    state: State, kind: str, shape: Mapping[str, Any], trained: Mapping[str, Any], heads: int | None, name: str
) -> BarcodeBertConfig:
    words = state["bert.embeddings.word_embeddings.weight"]
    layers = _number_of_layers(state, name)
    k, vocabulary = _vocabulary(len(words), kind, name)
    absent = [key for key in SIZED.values() if key not in state or state[key].ndim == 0]
    if absent or words.ndim != 2:
        raise ValueError(f"{name} lacks {', '.join(absent) or 'a matrix of word embeddings'}, which tells its shape.")
    found: dict[str, Any] = {
        "hidden_size": words.shape[1],
        "num_hidden_layers": layers,
        **{size: len(state[key]) for size, key in SIZED.items()},
    }
    told = {key: shape[key] for key in SHAPE if key in shape}
    if strange := [key for key, value in told.items() if not isinstance(value, int | float | str)]:
        raise ValueError(f"In the bert_config of {name}, {', '.join(strange)} must be numbers or names.")
    says = told | {"vocab_size": shape.get("vocab_size", len(words)), "k": trained.get("k_mer", k)}
    contradictions = [
        f"{key} is {value}, the config says {says[key]}"
        for key, value in (found | {"vocab_size": len(words), "k": k}).items()
        if says.get(key, value) != value
    ]
    if contradictions:
        raise ValueError(f"The weights of {name} contradict its config: {'; '.join(contradictions)}.")
    if heads is not None:
        told["num_attention_heads"] = heads
    elif "num_attention_heads" not in told:
        if found["hidden_size"] != 768:
            raise ValueError(
                f"{name} does not tell its number of attention heads, and weights of {found['hidden_size']} columns "
                f"and {layers} layers are no published size. Give num_attention_heads."
            )
        told["num_attention_heads"] = layers
    return BarcodeBertConfig(
        k=k,
        vocabulary=vocabulary,
        max_nucleotides=int(trained.get("max_len", 660)),
        pooling="mean" if kind == "classifier" else "masked_mean",
        mlm_head="tied" if kind == "tied" else "kmers",
        training_data=trained.get("dataset_name"),
        **(found | told),
    )


def _number_of_layers(state: State, name: str) -> int:
    """Layers of the encoder, which must be numbered from 0 on without a gap."""
    prefix = "bert.encoder.layer."
    numbers = {key.removeprefix(prefix).partition(".")[0] for key in state if key.startswith(prefix)}
    expected = {str(number) for number in range(len(numbers))}
    if not numbers or numbers != expected:
        raise ValueError(
            f"{name} has the encoder layers {', '.join(sorted(numbers)) or 'none'}; they must be numbered from 0 on."
        )
    return len(numbers)


def _vocabulary(size: int, kind: str, name: str) -> tuple[int, str]:
    """k and vocabulary that have so many tokens."""
    names = ("barcodebert-2023",) if kind == "tied" else ("barcodebert", "barcodebert-n")
    for k in range(1, 9):
        for vocabulary in names:
            letters, special_tokens, _ = VOCABULARIES[vocabulary]
            if size == len(letters) ** k + special_tokens:
                return k, vocabulary
    raise ValueError(f"{name} has {size} tokens, which fits no k from 1 to 8 of {' or '.join(names)}.")
