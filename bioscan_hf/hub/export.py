"""Export of encoders to ONNX and to sentence-transformers.

Shape letters: B = batch, L = tokens, D = embedding size.
"""

from __future__ import annotations

import importlib.util
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..files import replacing, write_json

#: Name of the output of every ONNX file.
OUTPUT = "embeddings"

MODALITIES = ("image", "dna")


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
    """Writes an encoder as an ONNX file, and its tokenizer or image processor to the same folder.

    Running the file needs only onnxruntime, with batches of any size. A barcode encoder takes `input_ids` and
    `attention_mask`, int64 (B, L) with L the tokenizer's fixed length, and returns `embeddings` (B, D), which equal
    `pooler_output`. The image encoder of CLIBD takes `pixel_values` float32 (B, 3, H, W), its barcode encoder
    `input_ids` and `attention_mask`; both return unit vectors. The metadata of the file name the modality, the model
    type and the input shape.

    Args:
        model: A `BarcodeBertModel` or `ClibdModel`, in float32 on the CPU.
        processor: The `KmerTokenizer` of the encoder, or the `ClibdProcessor`.
        modality: "image" or "dna" for CLIBD; None for a barcode encoder.

    Raises:
        ValueError: if the model has no such modality, is not in float32, or is not on the CPU.
        FileExistsError: if the file exists.
        ModuleNotFoundError: without onnx or onnxscript.
    """
    path = Path(path)
    _check(model, path, modality)
    tokenizer = processor.dna_tokenizer if modality == "dna" else processor
    inputs, saved = _inputs(tokenizer, modality)
    rows = torch.export.Dim("batch", min=1)
    modes = [(module, module.training) for module in model.modules()]
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the exporter warns about its own steps
            program: Any = torch.onnx.export(
                _Embedding(model, modality).eval(),
                tuple(inputs.values()),
                dynamo=True,
                input_names=list(inputs),
                output_names=[OUTPUT],
                dynamic_shapes={"inputs": tuple({0: rows} for _ in inputs)},
                opset_version=18,
                verbose=False,
            )
    finally:
        for module, mode in modes:
            module.training = mode
    program.model.metadata_props.update(
        model_type=model.config.model_type,
        modality=modality or "dna",
        input_shape=json.dumps(["batch", *next(iter(inputs.values())).shape[1:]]),
    )
    with replacing(path) as part:
        program.save(str(part), external_data=False)
        saved.save_pretrained(path.parent)
    return path


def _check(model: Any, path: Path, modality: str | None) -> None:
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(f"Writing ONNX files needs {package}: pip install 'bioscan_hf[onnx]'.")
    kind, name = model.config.model_type, type(model).__name__
    if kind not in ("barcodebert", "clibd"):
        raise ValueError(f"{name} cannot be written as ONNX; BarcodeBERT and CLIBD can. Use torch.export.")
    if kind == "clibd":
        possible = [name for name in MODALITIES if name in model.config.modalities]
        if modality not in possible:
            raise ValueError(f"modality is {modality!r}; give {' or '.join(map(repr, possible))}.")
    elif modality is not None:
        raise ValueError(f"{name} has one encoder, for barcodes: leave modality out.")
    elif not name.endswith("Model"):
        raise ValueError(f"{name} is an encoder with a head. Pass the encoder: model.base_model.")
    if model.dtype != torch.float32 or model.device.type != "cpu":
        raise ValueError(f"The model is {model.dtype} on {model.device}. Export it from model.float().cpu().")
    if path.exists():
        raise FileExistsError(f"{path} exists. Choose another name, or delete it.")


def _inputs(processor: Any, modality: str | None) -> tuple[dict[str, torch.Tensor], Any]:
    """An example of each input, with two rows, and the tokenizer or processor to save.

    torch.export would treat one row as a fixed size.
    """
    if modality == "image":
        size = processor.image_size
        return {"pixel_values": torch.zeros(2, 3, size, size)}, processor.image_processor
    ids, mask = processor.encode_column(["ACGT" * (processor.max_nucleotides // 4), "ACGT" * 3])
    return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}, processor


def export_sentence_transformers(model: Any, tokenizer: Any, folder: str | Path) -> Path:
    """Writes a folder that `SentenceTransformer(folder, trust_remote_code=True)` loads.

    `encode` returns `pooler_output`. After `import bioscan_hf.auto`, trust_remote_code is not needed.

    Args:
        model: A `BarcodeBertModel` or `BarcodeMambaModel` with `pooling="masked_mean"`, because the mean of
            sentence-transformers ignores padding.

    Raises:
        ValueError: for a model with another pooling or without token vectors.
        FileExistsError: if the folder is not empty.
    """
    folder = Path(folder)
    if not type(model).__name__.endswith("Model") or model.config.model_type not in ("barcodebert", "barcodemamba"):
        raise ValueError(f"{type(model).__name__} has no token vectors to pool. Pass a BarcodeBertModel.")
    if model.config.pooling != "masked_mean":
        raise ValueError(
            f"The model pools by {model.config.pooling!r}, padding included. Pass one with 'masked_mean'."
        )
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty. Choose another folder.")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    pooling = {"word_embedding_dimension": model.config.hidden_size, "pooling_mode_mean_tokens": True}
    modules = [
        {"idx": place, "name": str(place), "path": where, "type": f"sentence_transformers.models.{kind}"}
        for place, (where, kind) in enumerate([("", "Transformer"), ("1_Pooling", "Pooling")])
    ]
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": tokenizer.model_max_length})
    write_json(folder / "1_Pooling" / "config.json", pooling)
    write_json(folder / "modules.json", modules)
    return folder
