"""Configuration of CLIBD, which embeds photos, DNA barcodes and taxonomy text in one space.

Uploaded to the Hub beside the weights: needs transformers and the configuration file of BarcodeBERT beside it; timm
too, where a photo encoder is described.
Paper: CLIBD, https://arxiv.org/abs/2405.17537
"""

import copy
import math
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from .configuration_barcodebert import BarcodeBertConfig

MODALITIES = ("image", "dna", "text")

#: Encoders of a config that describes none: those of the published model.
DEFAULTS: dict[str, dict[str, Any]] = {
    "image": {"architecture": "vit_base_patch16_224"},
    "dna": {"k": 5, "vocabulary": "clibd", "num_hidden_layers": 12, "num_attention_heads": 12},
    "text": {"hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8, "intermediate_size": 2048},
}

#: Type of an encoder whose config does not name its own.
MODEL_TYPES = {"image": "timm_wrapper", "text": "bert"}

DNA_POOLINGS = ("masked_mean", "mean", "softmax_mean")

TEXT_POOLINGS = ("masked_mean", "mean", "pooler")

AUTO_MAP = {"AutoConfig": "configuration_clibd.ClibdConfig", "AutoModel": "modeling_clibd.ClibdModel"}


def encoder_config(modality: str, fields: dict[str, Any]) -> PreTrainedConfig:
    """Config of one encoder from its fields; without fields, that of `DEFAULTS`."""
    fields = copy.deepcopy(fields or DEFAULTS[modality])
    if modality == "dna":
        model_type = fields.pop("model_type", BarcodeBertConfig.model_type)
        if model_type != BarcodeBertConfig.model_type:
            raise ValueError(
                f"dna_config has the model_type {model_type!r}, but barcodes are encoded by "
                f"{BarcodeBertConfig.model_type!r}. Leave model_type out."
            )
        return BarcodeBertConfig(**fields)
    model_type = fields.pop("model_type", MODEL_TYPES[modality])
    if model_type == "bert":
        fields["use_cache"] = False  # an encoder caches nothing, but gradient checkpointing would remark on it
    return AutoConfig.for_model(model_type, **fields)


@strict
class ClibdConfig(PreTrainedConfig):
    """Shape of a CLIBD model. A modality whose config is None is absent; if all three are, each has its default.

    Args:
        image_config: Fields of the photo encoder's config: `architecture` is the name of any timm model, `model_args`
            what `timm.create_model` takes besides. {} is ViT-B/16 at 224 pixels. With a `model_type`, any other
            encoder of transformers that has a `pooler_output`.
        dna_config: Fields of `BarcodeBertConfig`. {} is 12 layers and 12 heads, k = 5, with
            the vocabulary "clibd".
        text_config: Fields of `BertConfig`. {} is BERT-small: 4 layers, 8 heads, hidden size 512. With a `model_type`,
            any other text encoder of transformers.
        projection_dim: Width of the common space.
        dna_pooling: How a barcode's embedding is made of its tokens'. "masked_mean" and "mean" are those of
            `BarcodeBertConfig`, before a linear projection. "softmax_mean" is the published one: BERT's prediction
            head on each token, its softmax, and the mean over all positions, padding included.
        dna_attend_to_padding: Ignore the attention mask of barcodes, as published.
        text_pooling: "masked_mean" is the mean over the attended tokens; "mean" over all positions, padding included,
            as published; "pooler" the encoder's own `pooler_output`, which encoders from CLIP need.
        logit_scale_init_value: Logarithm of the inverse temperature at the start of training.
        logit_scale_max: Bound of the inverse temperature; None is none, as published.
        logit_bias_init_value: What the loss of SigLIP adds to the scaled cosines at the start of training, -10 there;
            None for a model without a bias, which other losses do not need.
        initializer_range: Standard deviation of the projections' weights at the start of training.
        training_data: Name of the dataset that the weights were trained on, where it is known.

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
    initializer_range: float = 0.02
    training_data: str | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        given: dict[str, Any] = {modality: getattr(self, f"{modality}_config") for modality in MODALITIES}
        if all(config is None for config in given.values()):
            given = {modality: {} for modality in MODALITIES}
        for modality, config in given.items():
            if isinstance(config, dict):
                config = encoder_config(modality, config)
            setattr(self, f"{modality}_config", config)
        super().__post_init__(**kwargs)
        self.auto_map = dict(AUTO_MAP)
        self.validate_architecture()

    @property
    def modalities(self) -> tuple[str, ...]:
        """Those that the model has, in the order image, dna, text."""
        return tuple(modality for modality in MODALITIES if getattr(self, f"{modality}_config") is not None)

    def validate_architecture(self) -> None:
        """Raises ValueError if values contradict each other. Saving calls it, too."""
        for name, choices in (("dna_pooling", DNA_POOLINGS), ("text_pooling", TEXT_POOLINGS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"Unknown {name} {getattr(self, name)!r}. Choose one of {', '.join(choices)}.")
        dna: Any = self.dna_config
        # By its name: code that was uploaded is imported more than once, and its classes are then not the same.
        if dna is not None and dna.model_type != BarcodeBertConfig.model_type:
            raise ValueError(f"dna_config is a {type(dna).__name__}, but must be a BarcodeBertConfig.")
        if self.projection_dim < 1:
            raise ValueError(f"projection_dim is {self.projection_dim}, but a space has 1 dimension at least.")
        if self.logit_scale_max is not None and math.exp(self.logit_scale_init_value) > self.logit_scale_max:
            raise ValueError(
                f"logit_scale_max is {self.logit_scale_max:g}, but training starts at an inverse temperature of "
                f"{math.exp(self.logit_scale_init_value):g}. Raise the bound, or lower logit_scale_init_value."
            )


ClibdConfig.register_for_auto_class()
