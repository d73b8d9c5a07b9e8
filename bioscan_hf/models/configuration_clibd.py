"""Configuration of CLIBD, which embeds photos, DNA barcodes and taxonomy text in one space.

Uploaded to the Hub beside the weights and the configuration of BarcodeBERT; photo encoders also need timm.
Paper: CLIBD, https://arxiv.org/abs/2405.17537
"""

import copy
import math
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from .configuration_barcodebert import BarcodeBertConfig
from .vocabularies import check_choice

MODALITIES = ("image", "dna", "text")

#: Modality -> fields of the published encoder, the default.
DEFAULTS: dict[str, dict[str, Any]] = {
    "image": {"architecture": "vit_base_patch16_224"},
    "dna": {"k": 5, "vocabulary": "clibd", "num_hidden_layers": 12, "num_attention_heads": 12},
    "text": {"hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8, "intermediate_size": 2048},
}

#: Modality -> default model type of its encoder.
MODEL_TYPES = {"image": "timm_wrapper", "dna": "barcodebert", "text": "bert"}

POOLINGS = {"dna": ("masked_mean", "mean", "softmax_mean"), "text": ("masked_mean", "mean", "pooler")}

AUTO_MAP = {"AutoConfig": "configuration_clibd.ClibdConfig", "AutoModel": "modeling_clibd.ClibdModel"}


def encoder_config(modality: str, fields: dict[str, Any]) -> PreTrainedConfig:
    """Config of one encoder from its fields; without fields, that of `DEFAULTS`."""
    fields = copy.deepcopy(fields or DEFAULTS[modality])
    model_type = fields.pop("model_type", MODEL_TYPES[modality])
    if modality == "dna":
        if model_type != BarcodeBertConfig.model_type:
            raise ValueError(f"dna_config has the model_type {model_type!r}, not 'barcodebert'. Leave model_type out.")
        return BarcodeBertConfig(**fields)
    if model_type == "bert":
        fields["use_cache"] = False  # an encoder has no cache, and True makes gradient checkpointing warn
    return AutoConfig.for_model(model_type, **fields)


@strict
class ClibdConfig(PreTrainedConfig):
    """Configuration of CLIBD. A modality without config is absent; without any, all three have the default encoders.

    Args:
        image_config: Fields of the photo encoder's config: `architecture` is the name of a timm model, `model_args`
            are arguments of `timm.create_model`. {} is ViT-B/16 at 224 pixels. With a `model_type`, any encoder of
            transformers that has a `pooler_output`.
        dna_config: Fields of `BarcodeBertConfig`. {} is 12 layers, 12 heads, k = 5, and the vocabulary "clibd".
        text_config: Fields of `BertConfig`. {} is BERT-small: 4 layers, 8 heads, hidden size 512. With a `model_type`,
            any text encoder of transformers.
        projection_dim: Embedding size, the same for all modalities.
        dna_pooling: How the tokens of a barcode are pooled. "masked_mean" and "mean" are as in `BarcodeBertConfig`,
            before a linear projection. "softmax_mean", as published, applies BERT's prediction head and softmax to
            each token and takes the mean over all positions, padding included.
        dna_attend_to_padding: Ignore the attention mask of barcodes, as published.
        text_pooling: "masked_mean" is the mean over the attended tokens; "mean" is over all positions, padding
            included, as published; "pooler" is the encoder's own `pooler_output`, which encoders of CLIP need.
        logit_scale_init_value: Logarithm of the initial inverse temperature.
        logit_scale_max: Maximum of the inverse temperature; None, as published, is no maximum.
        logit_bias_init_value: Initial bias of the scaled cosines for SigLIP's loss, which starts at -10; None is no
            bias.
        fusion: Add a gate that fuses photo and barcode, see `ClibdModel.get_fused_features`.
        initializer_range: Standard deviation of the initial weights of the projections.
        training_data: Name of the training dataset, if known.

    Raises:
        ValueError: if values contradict each other.
    """

    model_type = "clibd"
    sub_configs = {"image_config": AutoConfig, "dna_config": BarcodeBertConfig, "text_config": AutoConfig}

    image_config: dict[str, Any] | PreTrainedConfig | None = None
    dna_config: dict[str, Any] | PreTrainedConfig | None = None
    text_config: dict[str, Any] | PreTrainedConfig | None = None
    projection_dim: int = 768
    dna_pooling: str = "masked_mean"
    dna_attend_to_padding: bool = False
    text_pooling: str = "masked_mean"
    logit_scale_init_value: float = math.log(1 / 0.07)
    logit_scale_max: float | None = 100.0
    logit_bias_init_value: float | None = None
    fusion: bool = False
    initializer_range: float = 0.02
    training_data: str | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        given: dict[str, Any] = {modality: getattr(self, f"{modality}_config") for modality in MODALITIES}
        if all(config is None for config in given.values()):
            given = dict.fromkeys(MODALITIES, {})
        for modality, config in given.items():
            setattr(
                self, f"{modality}_config", encoder_config(modality, config) if isinstance(config, dict) else config
            )
        super().__post_init__(**kwargs)
        self.auto_map = dict(AUTO_MAP)
        self.validate_architecture()

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities of the model, in the order image, dna, text."""
        return tuple(modality for modality in MODALITIES if getattr(self, f"{modality}_config") is not None)

    def validate_architecture(self) -> None:
        """Raises ValueError if values contradict each other. `save_pretrained` also calls it."""
        check_choice("dna_pooling", self.dna_pooling, POOLINGS["dna"])
        check_choice("text_pooling", self.text_pooling, POOLINGS["text"])
        dna: Any = self.dna_config
        # Not isinstance: remote code is imported more than once, with different classes.
        if dna is not None and dna.model_type != BarcodeBertConfig.model_type:
            raise ValueError(f"dna_config is a {type(dna).__name__}, but must be a BarcodeBertConfig.")
        if self.fusion and not {"image", "dna"} <= set(self.modalities):
            raise ValueError(f"fusion needs image and dna, but the model embeds {', '.join(self.modalities)}.")
        if self.projection_dim < 1:
            raise ValueError(f"projection_dim is {self.projection_dim}; give 1 or more.")
        if self.logit_scale_max is not None and math.exp(self.logit_scale_init_value) > self.logit_scale_max:
            raise ValueError(
                f"logit_scale_max is {self.logit_scale_max:g}, but training starts at an inverse temperature of "
                f"{math.exp(self.logit_scale_init_value):g}. Increase it, or decrease logit_scale_init_value."
            )


ClibdConfig.register_for_auto_class()
