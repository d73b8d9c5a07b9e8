"""Published DNA encoders of the Hugging Face Hub.

Tokens and pooling are those of BarcodeBERT's comparison (https://arxiv.org/abs/2311.02401): the mean of the last
hidden states over the attended tokens.
Shape letters: B = batch, L = tokens, D = embedding size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.utils import SAFE_WEIGHTS_NAME, WEIGHTS_NAME, cached_file

from ..models import register  # noqa: F401  (our classes for AutoModel)
from ..models.configuration_barcodebert import BarcodeBertConfig
from ..models.modeling_barcodebert import BarcodeBertModel
from ..models.tokenization_kmer import KmerTokenizer
from ..provenance import without_folders
from .base import Encoder


@dataclass(frozen=True)
class HubSettings:
    """Tokenizer settings of a published encoder.

    Attributes:
        max_tokens: Longer barcodes are cut to this many tokens; None is the tokenizer's own limit.
        special_tokens: Whether the tokenizer adds special tokens, which are pooled like the others.
        attends: Whether the encoder takes an attention mask. One that does not is always padded to the limit.
    """

    max_tokens: int | None = 512
    special_tokens: bool = False
    attends: bool = True


#: Hub id -> settings of the published comparisons. Other encoders get `HubSettings()`. GENA-LM and Caduceus are tested
#: on small stand-ins with random weights only.
PUBLISHED = {
    "zhihan1996/DNABERT-2-117M": HubSettings(),
    "zhihan1996/DNABERT-S": HubSettings(),
    "InstaDeepAI/nucleotide-transformer-v2-50m-multi-species": HubSettings(),
    "LongSafari/hyenadna-tiny-1k-seqlen-d256-hf": HubSettings(max_tokens=None, special_tokens=True, attends=False),
    "LongSafari/hyenadna-tiny-1k-seqlen-hf": HubSettings(max_tokens=None, special_tokens=True, attends=False),
    # GENA-LM: byte pairs. ModernGENA is a ModernBERT of transformers; the older one brings code of its own.
    "AIRI-Institute/moderngena-base": HubSettings(),
    "AIRI-Institute/gena-lm-bert-base-t2t": HubSettings(),
    # Caduceus: letters, read in both directions; its code needs the package mamba_ssm and a GPU of Nvidia.
    "kuleshov-group/caduceus-ps_seqlen-1k_d_model-256_n_layer-4_lr-8e-3": HubSettings(
        max_tokens=None, special_tokens=True, attends=False
    ),
    "kuleshov-group/caduceus-ph_seqlen-1k_d_model-256_n_layer-4_lr-8e-3": HubSettings(
        max_tokens=None, special_tokens=True, attends=False
    ),
}

#: BarcodeBERT as its authors publish it: a plain BERT.
BARCODEBERT = "bioscan-ml/BarcodeBERT"

#: Entries of a remote model's `auto_map`, in order of preference. The head of a model is left out.
AUTO_CLASSES = ("AutoModel", "AutoModelForMaskedLM", "AutoModelForCausalLM", "AutoModelForSequenceClassification")

#: A barcode that tokenizers must know.
PROBE = "AACTTTATATTTTATTTTTGGAGCTTGAGCTGGTATAGTAGGAACTTCTCTTAGAATCCTCATTCGAGCCGAA"

#: A tokenizer without a limit reports one far above this.
NO_LIMIT = 10**9


def mean_of_tokens(network: Any, input_ids: Tensor, attention_mask: Tensor, masked: bool = True) -> Tensor:
    """Mean of the last hidden states over the attended tokens (zeros without).

    `masked`: whether the network also gets the mask. Raises ValueError if the first output of the network is not a
    vector for each token.
    """
    mask = {"attention_mask": attention_mask} if masked else {}
    hidden = network(input_ids=input_ids, **mask)[0]  # (B, L, D)
    if hidden.ndim != 3 or hidden.shape[:2] != input_ids.shape:
        kind, shape, tokens = type(network).__name__, tuple(hidden.shape), tuple(input_ids.shape)
        raise ValueError(f"{kind} gave {shape} for tokens {tokens}: expected is a vector for each token, (B, L, D).")
    weights = attention_mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)


def mean_of_tokens_without_mask(network: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """`mean_of_tokens` of a network that takes no mask."""
    return mean_of_tokens(network, input_ids, attention_mask, masked=False)


class HubTokens:
    """Makes the tokens that `mean_of_tokens` takes from barcodes."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, settings: HubSettings):
        limit = settings.max_tokens or tokenizer.model_max_length
        if limit > NO_LIMIT and not settings.attends:
            raise ValueError(f"{type(tokenizer).__name__} has no limit to which barcodes could be padded.")
        if tokenizer.pad_token is None:
            raise ValueError(f"{type(tokenizer).__name__} has no padding token, so it cannot make batches.")
        found = tokenizer(PROBE, add_special_tokens=False)["input_ids"]
        if set(found) <= {tokenizer.unk_token_id}:
            raise ValueError(
                f"Every token of a barcode is unknown to {type(tokenizer).__name__}, so all barcodes would be equal. "
                f"It may want k-mers with spaces between them, or other letters: such an encoder is not supported."
            )
        self.tokenizer, self.settings, self.limit = tokenizer, settings, limit

    def __call__(self, barcodes: Sequence[str]) -> dict[str, Tensor]:
        """Token ids and mask (B, L); 0 for an empty barcode."""
        encoded = self.tokenizer(
            [*barcodes, "", "A"],  # "" shows how many tokens are added to each; "A" has one token at least
            add_special_tokens=self.settings.special_tokens,
            padding="longest" if self.settings.attends else "max_length",
            truncation=self.limit <= NO_LIMIT,
            max_length=self.limit if self.limit <= NO_LIMIT else None,
            return_attention_mask=True,
            return_tensors="pt",
        )
        ids, mask = encoded["input_ids"], encoded["attention_mask"]
        mask = mask * (mask.sum(1, keepdim=True) > mask[-2].sum())
        return {"input_ids": ids[:-2], "attention_mask": mask[:-2]}


def load_hub_encoder(
    name: str, *, trust_remote_code: bool = False, settings: HubSettings | None = None, **hub: Any
) -> tuple[Encoder, HubTokens]:
    """Model and processor for `embed` of a Hub id or folder.

    Most published models bring Python code, which runs on your machine only with `trust_remote_code`. Read it first.
    `settings` None are those of the published comparison; `hub` may have `revision`, `token` and `cache_dir`.

    Raises:
        ValueError: if code of the model may not run, weights are missing, or its tokenizer cannot pad or does not know
            the letters of barcodes.
        OSError: if the model does not exist.
    """
    config, _ = PreTrainedConfig.get_config_dict(name, **hub)
    auto_map = {key: value for key, value in config.get("auto_map", {}).items() if key in AUTO_CLASSES}
    if auto_map and not trust_remote_code:
        code = ", ".join(sorted(set(auto_map.values())))
        raise ValueError(
            f"{name!r} brings code of its own ({code}), which would run on this machine with your rights. If you have "
            f"read it and trust it, pass --trust-remote-code (in Python trust_remote_code=True)."
        )
    if auto_map:
        encoder = _remote_model(name, next(auto_map[key] for key in AUTO_CLASSES if key in auto_map), hub)
    else:
        encoder, info = AutoModel.from_pretrained(name, output_loading_info=True, **hub)
        _check_complete(name, info["missing_keys"])
    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code, **hub)
    if settings is None and config.get("pretraining") == "mae":  # converted: [CLS] and [SEP] are pooled, as published
        settings = HubSettings(max_tokens=None, special_tokens=True)
    settings = settings or PUBLISHED.get(name, HubSettings())
    pool = mean_of_tokens if settings.attends else mean_of_tokens_without_mask
    version = f"@{hub['revision']}" if hub.get("revision") else ""
    model = Encoder(encoder, pool, description=f"hf:{without_folders(name)}{version}")
    return model.eval(), HubTokens(tokenizer, settings)


def load_published_barcodebert(name: str = BARCODEBERT, **hub: Any) -> tuple[BarcodeBertModel, KmerTokenizer]:
    """The published BarcodeBERT as our own class; none of its code runs.

    `hub` may have `revision`, `token` and `cache_dir`. Raises ValueError if the model is not a BERT over the k-mers of
    BarcodeBERT, or weights are missing.
    """
    found, _ = PreTrainedConfig.get_config_dict(name, **hub)
    sizes = {4**k + 2: k for k in range(1, 9)}
    if found.get("model_type") != "bert" or found.get("vocab_size") not in sizes:
        kind = f"of type {found.get('model_type')!r} with {found.get('vocab_size')} tokens"
        raise ValueError(f"{name!r} is {kind}, not a BarcodeBERT: expected is 'bert' with 4**k + 2 tokens.")
    shape = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings")
    config = BarcodeBertConfig(k=sizes[found["vocab_size"]], **{key: found[key] for key in shape if key in found})
    loaded: Any = BarcodeBertModel.from_pretrained(name, config=config, output_loading_info=True, **hub)
    model, info = loaded
    _check_complete(name, info["missing_keys"])
    return model.eval(), KmerTokenizer(config.k)


def _remote_model(name: str, reference: str, hub: dict[str, Any]) -> nn.Module:
    """The encoder of a model whose code is stored with its weights.

    It is built on the CPU before its weights are read: older code makes tensors in its constructor, which transformers
    would leave uninitialised. Its config is that of the class, which may differ from the one of `auto_map`.
    """
    model_class: Any = get_class_from_dynamic_module(reference, name, **hub)
    model: PreTrainedModel = model_class(model_class.config_class.from_pretrained(name, **hub))
    safe = cached_file(name, SAFE_WEIGHTS_NAME, _raise_exceptions_for_missing_entries=False, **hub)
    pickled: Any = None if safe else cached_file(name, WEIGHTS_NAME, **hub)
    state = load_file(safe) if safe else torch.load(pickled, map_location="cpu", weights_only=True)
    encoder: nn.Module = model.base_model
    prefix = f"{model.base_model_prefix}."
    missing, _ = encoder.load_state_dict({key.removeprefix(prefix): x for key, x in state.items()}, strict=False)
    _check_complete(name, missing)
    return encoder


def _check_complete(name: str, missing: Sequence[str]) -> None:
    """Raises ValueError if weights are missing, other than the unused pooling layer."""
    needed = sorted(key for key in missing if not key.startswith("pooler."))
    if needed:
        raise ValueError(f"The weights of {name!r} are incomplete; missing: {', '.join(needed[:5])} ({len(needed)}).")
