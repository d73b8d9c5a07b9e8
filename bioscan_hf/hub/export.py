"""Models for other programs: ONNX files of the encoders, and a folder that sentence-transformers loads.

An ONNX file takes a batch of any size and needs onnxruntime alone; beside it lies what makes its inputs: the tokenizer
(`tokenizer.json`) or the image processor. Writing it needs onnx and onnxscript.
Shape letters: B = batch, L = tokens, D = embedding size.
"""

from __future__ import annotations

import importlib.util
import json
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..files import write_json, write_text

#: Name of the output of every ONNX file.
OUTPUT = "embeddings"

MODALITIES = ("image", "dna")

#: The export traces a batch of so many rows. One row would be taken for a fixed size.
TRACED_ROWS = 2


class _Embedding(nn.Module):
    """The encoder of one modality, with tensors in and the embedding out."""

    def __init__(self, model: Any, modality: str | None):
        super().__init__()
        self.model = model
        self.modality = modality

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        if self.modality == "image":
            return self.model.get_image_features(*inputs)
        if self.modality == "dna":
            return self.model.get_dna_features(*inputs)
        return self.model(*inputs).pooler_output


def export_onnx(model: Any, path: str | Path, processor: Any, *, modality: str | None = None) -> Path:
    """Writes an encoder as an ONNX file, and what makes its inputs into the same folder.

    A barcode encoder takes `input_ids` and `attention_mask`, int64 (B, L) with L the tokenizer's fixed length, and
    gives `embeddings` (B, D), those of `pooler_output`. CLIBD's tower of photos takes `pixel_values` float32
    (B, 3, H, W), its tower of barcodes `input_ids` and `attention_mask`; both give unit vectors. The file's metadata
    name the modality, the model type and the tokens of a barcode. The model itself is left as it is.

    Args:
        model: A `BarcodeBertModel` or `ClibdModel`, in float32 on the CPU.
        path: Of the file, such as "folder/dna.onnx".
        processor: The `KmerTokenizer` of the encoder, or the `ClibdProcessor`.
        modality: "image" or "dna": which tower of a CLIBD. None for a barcode encoder.

    Returns:
        The path.

    Raises:
        ValueError: if the modality does not fit the model, the processor not the modality, or the model is in half
            precision or not on the CPU.
        FileExistsError: if there is such a file.
        ModuleNotFoundError: without onnx or onnxscript.
    """
    path = Path(path)
    _check(model, path, modality)
    tokenizer = processor.dna_tokenizer if modality == "dna" else processor
    names, inputs, saved = _inputs(tokenizer, modality)
    rows = torch.export.Dim("batch", min=1)
    part = path.with_name(path.name + ".part")
    modes = [(module, module.training) for module in model.modules()]
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of the exporter, about its own steps
            program: Any = torch.onnx.export(
                _Embedding(model, modality).eval(),
                inputs,
                dynamo=True,
                input_names=names,
                output_names=[OUTPUT],
                dynamic_shapes={"inputs": tuple({0: rows} for _ in inputs)},
                opset_version=18,
                verbose=False,
            )
    finally:
        for module, mode in modes:
            module.training = mode
    program.model.metadata_props.update(_about(model, modality, inputs))
    path.parent.mkdir(parents=True, exist_ok=True)
    program.save(str(part), external_data=False)
    saved.save_pretrained(path.parent)
    os.replace(part, path)
    return path


def _check(model: Any, path: Path, modality: str | None) -> None:
    for name in ("onnx", "onnxscript"):
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(f"Writing ONNX files needs {name}: pip install 'bioscan_hf[onnx]'.")
    clibd = model.config.model_type == "clibd"
    if clibd and (modality not in MODALITIES or modality not in model.config.modalities):
        possible = " or ".join(repr(name) for name in MODALITIES if name in model.config.modalities)
        raise ValueError(f"modality={modality!r} is no tower of this model to be exported. Pass {possible}.")
    if model.config.model_type not in ("barcodebert", "clibd"):
        raise ValueError(
            f"{type(model).__name__} cannot be written as ONNX: only BarcodeBERT and CLIBD can. Use torch.export."
        )
    if not clibd and modality is not None:
        raise ValueError(f"{type(model).__name__} has one encoder, that of barcodes: leave modality out.")
    if not clibd and not type(model).__name__.endswith("Model"):
        raise ValueError(f"{type(model).__name__} is an encoder with a head. Pass the encoder: model.base_model.")
    if model.dtype != torch.float32 or model.device.type != "cpu":
        raise ValueError(f"The model is {model.dtype} on {model.device}. Export it from model.float().cpu().")
    if path.exists():
        raise FileExistsError(f"{path} exists. Choose another name, or delete it.")


def _inputs(processor: Any, modality: str | None) -> tuple[list[str], tuple[torch.Tensor, ...], Any]:
    """Names of the inputs, an example of each, and what is to be saved beside the file."""
    if modality == "image":
        size = processor.image_size
        return ["pixel_values"], (torch.zeros(TRACED_ROWS, 3, size, size),), processor.image_processor
    ids, mask = processor.encode_column(["ACGT" * (processor.max_nucleotides // 4), "ACGT" * 3])
    return ["input_ids", "attention_mask"], (torch.from_numpy(ids), torch.from_numpy(mask)), processor


def _about(model: Any, modality: str | None, inputs: tuple[torch.Tensor, ...]) -> dict[str, str]:
    """What the metadata of the file say."""
    return {
        "model_type": model.config.model_type,
        "modality": modality or "dna",
        "input_shape": json.dumps(["batch", *inputs[0].shape[1:]]),
    }


def export_sentence_transformers(model: Any, tokenizer: Any, folder: str | Path) -> Path:
    """Writes a folder that `SentenceTransformer(folder, trust_remote_code=True)` loads: the encoder and a mean.

    `encode` gives the embeddings of `pooler_output`, for barcodes of one token at least. Where this package is
    imported, trust_remote_code is not needed.

    Args:
        model: A `BarcodeBertModel` or `BarcodeMambaModel` with `pooling="masked_mean"`: sentence-transformers' mean
            passes over padding.
        tokenizer: Its `KmerTokenizer`.

    Raises:
        ValueError: for a model with another pooling or without vectors of tokens.
        FileExistsError: if the folder is not empty.
    """
    folder = Path(folder)
    if not type(model).__name__.endswith("Model") or model.config.model_type not in ("barcodebert", "barcodemamba"):
        raise ValueError(f"{type(model).__name__} cannot be pooled from outside. Pass a BarcodeBertModel.")
    if model.config.pooling != "masked_mean":
        raise ValueError(
            f"The model pools by {model.config.pooling!r}, padding included, which sentence-transformers cannot do. "
            f"Only pooling='masked_mean' is exported."
        )
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty. Choose another folder.")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": tokenizer.model_max_length})
    pooling = {"word_embedding_dimension": model.config.hidden_size, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling").mkdir()
    write_json(folder / "1_Pooling" / "config.json", pooling)
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling")]
    modules = [
        {"idx": place, "name": str(place), "path": where, "type": f"sentence_transformers.models.{kind}"}
        for place, (where, kind) in enumerate(kinds)
    ]
    write_text(folder / "modules.json", json.dumps(modules, indent=2) + "\n")
    return folder
