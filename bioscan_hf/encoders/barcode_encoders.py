"""Encoders of barcodes by name: k-mers, CNN, Hub, our own models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from ..files import is_missing_path
from .base import default_device, hub_options, split_name
from .frames import frames_encoder
from .kmers import kmer_encoder, parse_ks

#: What `load_encoder` understands, for errors.
ENCODERS = (
    "An encoder is the folder or Hub id of one of our own models, such as a BarcodeBERT or CLIBD; or kmer:K or "
    "kmer:K+L (counts of k-mers); or cnn:FOLDER (a trained BarcodeCnn); or frames:FOLDER (the mean of a BarcodeBERT "
    "over its reading frames); or hf:ID (an encoder of DNA on the Hub, or a folder), "
    "such as hf:zhihan1996/DNABERT-2-117M."
)

#: Our own models, by the type in their configs.
OWN_TYPES = ("barcodebert", "barcodemamba", "alignedbarcode")


def load_encoder(
    name: str,
    *,
    trust_remote_code: bool = False,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    pooling: str | None = None,
) -> tuple[nn.Module, Any]:
    """Model and processor for `embed`, by name; on the GPU if available.

    Args:
        name: "kmer:4", "kmer:4+6", "cnn:FOLDER", "frames:FOLDER", "hf:ID", the folder or Hub id of one of our own
            models, or a key of `hub_encoders.PUBLISHED`, with or without "hf:".
        trust_remote_code: Whether Python code in the repository of an "hf:ID" may run. Read it first.
        revision: Branch, tag or commit of a repository of the Hub.
        token: Token of the Hub; None is the saved one.
        cache_dir: Folder for downloads; None is that of huggingface_hub.
        pooling: How a BarcodeBERT or BarcodeMamba pools its tokens, see `BarcodeBertConfig`: "masked_mean", "mean",
            and with [CLS] "cls" or "tokens"; None is what its config says.

    Raises:
        ValueError: for a K that is not a number from 1 to 8, a model of another type, one whose code may not run, or
            a pooling that the model does not have.
        OSError: if there is no model of that name.
    """
    kind, rest = split_name(name)
    if kind == "kmer":
        if pooling is not None:
            raise ValueError(f"{name!r} has its own pooling: leave {pooling!r} out.")
        return kmer_encoder(*parse_ks(name, rest))
    if kind == "timm":
        raise ValueError(f"{name!r} is an encoder of photos, not of barcodes. {ENCODERS}")
    try:
        if kind is None and revision is None and is_missing_path(rest):
            raise FileNotFoundError("The folder does not exist.")
        model, processor = _load(name, kind, rest, trust_remote_code, hub_options(revision, token, cache_dir))
    except OSError as error:
        raise OSError(f"No model at {name!r}. {ENCODERS} {error}") from error
    if pooling is not None:
        _set_pooling(model, pooling, name)
    return model.to(default_device()), processor


def _set_pooling(model: nn.Module, pooling: str, name: str) -> None:
    """Sets the pooling of a BarcodeBERT or BarcodeMamba; ValueError for others, and where it is not possible."""
    config: Any = getattr(getattr(model, "network", model), "config", None)  # `frames:` wraps the model
    if config is None or config.model_type not in ("barcodebert", "barcodemamba"):
        raise ValueError(f"{name!r} has its own pooling: leave {pooling!r} out.")
    config.pooling = pooling
    config.validate_architecture()


def _load(
    name: str, kind: str | None, rest: str, trust_remote_code: bool, hub: dict[str, Any]
) -> tuple[nn.Module, Any]:
    from transformers import AutoModel, AutoTokenizer, PreTrainedConfig

    from ..models import register  # noqa: F401
    from .cnn import load_cnn
    from .hub_encoders import BARCODEBERT, PUBLISHED, load_hub_encoder, load_published_barcodebert

    if kind == "cnn":
        return load_cnn(rest, **hub)
    if kind == "frames":
        return _load_frames(name, rest, trust_remote_code, hub)
    if rest in PUBLISHED or (kind == "hf" and rest != BARCODEBERT):
        return load_hub_encoder(rest, trust_remote_code=trust_remote_code, **hub)
    model_type = PreTrainedConfig.get_config_dict(rest, **hub)[0].get("model_type")
    if model_type == "barcode_cnn":
        return load_cnn(rest, **hub)
    if model_type == "clibd":
        from .clibd import load_clibd_barcodes

        return load_clibd_barcodes(rest, **hub)
    if model_type in OWN_TYPES:
        return AutoModel.from_pretrained(rest, **hub), AutoTokenizer.from_pretrained(rest, **hub)
    if rest == BARCODEBERT:
        return load_published_barcodebert(rest, **hub)
    raise ValueError(
        f"{name!r} holds a model of type {model_type!r}, which is not one of ours. For the mean of its last hidden "
        f"states write hf:{rest}. {ENCODERS}"
    )


def _load_frames(name: str, rest: str, trust_remote_code: bool, hub: dict[str, Any]) -> tuple[nn.Module, Any]:
    model, tokenizer = _load(rest, *split_name(rest), trust_remote_code, hub)
    model_type = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    if model_type not in ("barcodebert", "barcodemamba"):
        raise ValueError(
            f"{name!r}: after 'frames:' comes the folder or Hub id of a BarcodeBERT or BarcodeMamba, whose tokens "
            f"depend on the reading frame; {rest!r} is of type {model_type}."
        )
    return frames_encoder(model, tokenizer, name)
