"""CLIBD: embeds photos, DNA barcodes and taxonomy text in one space, trained by contrastive learning.

One encoder and one projection per modality. Losses are separate: they take the embeddings. Uploaded to the Hub beside
the weights and the files of BarcodeBERT; photo encoders also need timm. Paper: https://arxiv.org/abs/2405.17537
Shape letters: B = batch, L = tokens, H = hidden size of an encoder, E = projection_dim.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.models.bert.modeling_bert import BertPredictionHeadTransform
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .barcode_heads import pool
from .configuration_clibd import ClibdConfig
from .gated_fusion import FusionGate
from .logit_scale import LogitBias, LogitScale
from .modeling_barcodebert import BarcodeBertModel


@dataclass
class ClibdOutput(ModelOutput):
    """Output of `ClibdModel`: unit vectors (B, E) of the modalities, and scalars.

    `fused_embeds` are those of photo and barcode together, None for a model without `fusion`.
    `logit_scale` is the inverse temperature; `logit_bias` is the bias of SigLIP's loss, None for a model without it.
    """

    image_embeds: torch.Tensor | None = None
    dna_embeds: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    fused_embeds: torch.Tensor | None = None
    logit_scale: torch.Tensor | None = None
    logit_bias: torch.Tensor | None = None


class DnaTokenHead(nn.Module):
    """Published barcode head: each token's softmax over the E dimensions, averaged over tokens."""

    def __init__(self, config: Any, projection_dim: int):
        super().__init__()
        self.transform = BertPredictionHeadTransform(config)
        self.decoder = nn.Linear(config.hidden_size, projection_dim)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.transform(hidden)).softmax(-1).mean(1)


def has_timm(config: Any) -> bool:
    """Whether a photo encoder with this config wraps a network of timm."""
    return config.model_type == "timm_wrapper"


@torch.no_grad()
def draw_as_timm(encoder: Any) -> None:
    """Initializes a photo encoder of timm as timm does.

    transformers initializes all layers alike (deviation 0.02, all normalization scales 1), so that convolutional
    networks hardly learn. Encoders on the meta device are left alone, because their weights are loaded later.
    """
    if not has_timm(encoder.config) or any(weight.is_meta for weight in encoder.parameters()):
        return
    try:  # slow to import; in `try`, or transformers would demand it of models without photos
        import timm
    except ImportError as error:
        raise ImportError("A photo encoder of timm needs the package timm.") from error
    drawn = timm.create_model(encoder.config.architecture, num_classes=0, **(encoder.config.model_args or {}))
    encoder.timm_model.load_state_dict(drawn.state_dict())


def drop_pooler(encoder: Any) -> Any:
    """Removes the pooling layer of a BERT, which would not be trained."""
    if "pooler" in dict(encoder.named_children()):
        encoder.pooler = None
    return encoder


def unit(vectors: torch.Tensor) -> torch.Tensor:
    """Normalized vectors (B, E), at least in float32."""
    return nn.functional.normalize(vectors.to(torch.promote_types(vectors.dtype, torch.float32)), dim=-1)


class ClibdModel(PreTrainedModel):
    """Embeds photos, barcodes and taxonomy text, those with an encoder in `config`."""

    config_class = ClibdConfig
    config: ClibdConfig
    base_model_prefix = "clibd"
    main_input_name = "pixel_values"
    input_modalities = ["image", "text"]
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def __init__(self, config: ClibdConfig):
        super().__init__(config)
        self.frozen_modalities: set[str] = set()
        size = config.projection_dim
        if config.image_config is not None:
            encoder = self.image_model = AutoModel.from_config(config.image_config)
            width = encoder.timm_model.head_hidden_size if has_timm(encoder.config) else encoder.config.hidden_size
            self.image_projection = nn.Linear(width, size)
        dna: Any = config.dna_config
        if dna is not None:
            self.dna_model = BarcodeBertModel(dna)
            by_token = config.dna_pooling == "softmax_mean"
            self.dna_projection = DnaTokenHead(dna, size) if by_token else nn.Linear(dna.hidden_size, size)
        if config.text_config is not None:
            encoder = AutoModel.from_config(config.text_config)
            self.text_model = encoder if config.text_pooling == "pooler" else drop_pooler(encoder)
            self.text_projection = nn.Linear(encoder.config.hidden_size, size)
        self.logit_scale = LogitScale(config.logit_scale_init_value, config.logit_scale_max)
        initial = config.logit_bias_init_value
        self.logit_bias = None if initial is None else LogitBias(initial)
        self.fusion_gate = FusionGate(size) if config.fusion else None
        self.post_init()
        if config.image_config is not None:
            draw_as_timm(self.image_model)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, LogitScale):
            init.constant_(module.log_scale, module.initial)
        if isinstance(module, LogitBias):
            init.constant_(module.bias, module.initial)

    @classmethod
    def from_pretrained_towers(
        cls,
        image: str | Path | PreTrainedModel | None = None,
        dna: str | Path | PreTrainedModel | None = None,
        text: str | Path | PreTrainedModel | None = None,
        *,
        revisions: Mapping[str, str] | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        **config: Any,
    ) -> "ClibdModel":
        """A model of pretrained encoders, with new projections that are still to be trained.

        Args:
            image: Photo encoder, or its Hub id or folder, such as "timm/vit_base_patch16_224.augreg2_in21k_ft_in1k";
                None leaves the modality out.
            dna: The same for a BarcodeBERT, whose heads are dropped.
            text: The same for a text encoder, such as "prajjwal1/bert-small".
            revisions: Modality -> branch, tag or commit of its repository on the Hub.
            token, cache_dir: As in `from_pretrained`.
            config: Further fields of `ClibdConfig`.

        Raises:
            ValueError: if no encoder is given.
        """
        towers: dict[str, Any] = {"image": image, "dna": dna, "text": text}
        towers = {modality: tower for modality, tower in towers.items() if tower is not None}
        if not towers:
            raise ValueError("No encoder is given. Give one or more of image, dna and text.")
        for modality, tower in towers.items():
            if isinstance(tower, str | Path):
                kind: Any = BarcodeBertModel if modality == "dna" else AutoModel
                hub = {"revision": (revisions or {}).get(modality, "main"), "token": token, "cache_dir": cache_dir}
                towers[modality] = kind.from_pretrained(tower, dtype=torch.float32, **hub)
        fields: dict[str, Any] = {f"{modality}_config": _described(tower) for modality, tower in towers.items()}
        model = cls(ClibdConfig(**fields, **config))
        for modality, tower in towers.items():
            if modality == "text" and model.config.text_pooling != "pooler":
                tower = drop_pooler(tower)
            getattr(model, f"{modality}_model").load_state_dict(tower.state_dict())
        return model.eval()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        dna_input_ids: torch.Tensor | None = None,
        dna_attention_mask: torch.Tensor | None = None,
        text_input_ids: torch.Tensor | None = None,
        text_attention_mask: torch.Tensor | None = None,
        text_token_type_ids: torch.Tensor | None = None,
        image_present: torch.Tensor | None = None,
        dna_present: torch.Tensor | None = None,
        return_dict: bool | None = None,
    ) -> ClibdOutput:
        """Embeddings of the given modalities; the `get_*_features` methods describe the inputs.

        A model with `fusion` also fuses photos and barcodes, those of the rows that have them.

        Raises:
            ValueError: if nothing is given, or a modality without an encoder in this model.
        """
        if pixel_values is None and dna_input_ids is None and text_input_ids is None:
            raise ValueError("Nothing to embed: pass pixel_values, dna_input_ids or text_input_ids.")
        image = dna = text = None
        if pixel_values is not None:
            image = self.get_image_features(pixel_values)
        if dna_input_ids is not None:
            dna = self.get_dna_features(dna_input_ids, dna_attention_mask)
        if text_input_ids is not None:
            text = self.get_text_features(text_input_ids, text_attention_mask, text_token_type_ids)
        bias = None if self.logit_bias is None else self.logit_bias()
        fused = None
        if self.fusion_gate is not None and (image is not None or dna is not None):
            fused = self.fuse(image, dna, image_present=image_present, dna_present=dna_present)
        # Set at once, because the order of an output's fields is that of setting them.
        return ClibdOutput(
            image_embeds=image,
            dna_embeds=dna,
            text_embeds=text,
            fused_embeds=fused,
            logit_scale=self.logit_scale(),
            logit_bias=bias,
        )

    def get_image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Unit vectors (B, E) of photos (B, 3, height, width), normalized as by the processor.

        Raises:
            ValueError: if the model has no photo encoder, or the photos are integers and so not normalized.
        """
        self._check_modality("image")
        if not pixel_values.is_floating_point():
            raise ValueError(f"pixel_values are {pixel_values.dtype}; give normalized floats, as the processor does.")
        return unit(self.image_projection(self.image_model(pixel_values=pixel_values).pooler_output))

    def get_dna_features(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Unit vectors (B, E) of barcodes, given as token ids (B, L).

        Args:
            attention_mask: 1 for tokens, 0 for padding, (B, L); None attends to all positions.

        Raises:
            ValueError: if the model has no barcode encoder.
        """
        self._check_modality("dna")
        attended = None if self.config.dna_attend_to_padding else attention_mask
        hidden = self.dna_model(input_ids, attended).last_hidden_state
        if self.config.dna_pooling != "softmax_mean":
            hidden = pool(hidden, attention_mask, self.config.dna_pooling)
        return unit(self.dna_projection(hidden))

    def get_text_features(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Unit vectors (B, E) of text, given as token ids (B, L); arguments are as in `get_dna_features`."""
        self._check_modality("text")
        segments = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        outputs = self.text_model(input_ids=input_ids, attention_mask=attention_mask, **segments)
        if self.config.text_pooling == "pooler":
            return unit(self.text_projection(outputs.pooler_output))
        return unit(self.text_projection(pool(outputs.last_hidden_state, attention_mask, self.config.text_pooling)))

    def get_fused_features(
        self,
        pixel_values: torch.Tensor | None = None,
        dna_input_ids: torch.Tensor | None = None,
        dna_attention_mask: torch.Tensor | None = None,
        *,
        image_present: torch.Tensor | None = None,
        dna_present: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Unit vectors (B, E) of photos and barcodes together, see `fuse`.

        Args:
            pixel_values, dna_input_ids, dna_attention_mask: As in `forward`; photos or barcodes may be None.
            image_present, dna_present: Which rows have a photo or a barcode, bool (B,); None is all.

        Raises:
            ValueError: if the model has no fusion, or neither photos nor barcodes are given.
        """
        image = None if pixel_values is None else self.get_image_features(pixel_values)
        dna = None if dna_input_ids is None else self.get_dna_features(dna_input_ids, dna_attention_mask)
        return self.fuse(image, dna, image_present=image_present, dna_present=dna_present)

    def fuse(
        self,
        image_embeds: torch.Tensor | None,
        dna_embeds: torch.Tensor | None,
        *,
        image_present: torch.Tensor | None = None,
        dna_present: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Unit vectors (B, E) of embeddings of photos and barcodes (B, E), of which one may be None.

        A row without a photo has the embedding of its barcode, and the reverse; zeros without both.

        Raises:
            ValueError: if the model has no fusion, or both are None.
        """
        if self.fusion_gate is None:
            raise ValueError("This model has no fusion. Train one with fusion (--fusion_weight 1).")
        given = image_embeds if image_embeds is not None else dna_embeds
        if given is None:
            raise ValueError("Nothing to fuse: give embeddings of photos, barcodes or both.")
        nothing = torch.zeros(len(given), dtype=torch.bool, device=given.device)
        if image_embeds is None:
            image_embeds, image_present = torch.zeros_like(given), nothing
        if dna_embeds is None:
            dna_embeds, dna_present = torch.zeros_like(given), nothing
        return self.fusion_gate(image_embeds, dna_embeds, image_present, dna_present)

    def _check_modality(self, modality: str) -> None:
        if modality not in self.config.modalities:
            raise ValueError(f"This model has no {modality!r}; it embeds {', '.join(self.config.modalities)}.")

    def get_input_embeddings(self) -> None:  # type: ignore[override]
        """None: each encoder has its own. FSDP asks for it."""

    def freeze(self, *modalities: str, projections: bool = False) -> None:
        """Freezes the encoders of these modalities, without dropout; it is not saved.

        Args:
            projections: Also freeze their projections.
        """
        for modality in modalities:
            self._check_modality(modality)
            self.frozen_modalities.add(modality)
            getattr(self, f"{modality}_model").requires_grad_(False)
            if projections:
                getattr(self, f"{modality}_projection").requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "ClibdModel":
        """Sets training mode; frozen encoders stay in evaluation mode."""
        super().train(mode)
        for modality in self.frozen_modalities:
            getattr(self, f"{modality}_model").eval()
        return self

    def _set_gradient_checkpointing(self, enable: bool = True, *args: Any, **kwargs: Any) -> None:
        """Also sets it for encoders of timm, whose layers transformers does not find."""
        with_timm = self.config.image_config is not None and has_timm(self.config.image_config)
        if with_timm:
            encoder: Any = self.image_model
            encoder.timm_model.set_grad_checkpointing(enable)
        if not with_timm or self.config.modalities != ("image",):
            super()._set_gradient_checkpointing(enable, *args, **kwargs)


def _described(tower: PreTrainedModel) -> dict[str, Any]:
    """Fields of an encoder's config that describe its shape."""
    fields = tower.config.to_dict()
    if has_timm(tower.config):
        kept = ("model_type", "architecture", "model_args", "pretrained_cfg")
        return {key: fields[key] for key in kept if key in fields}
    left_out = ("_name_or_path", "architectures", "auto_map", "dtype", "transformers_version")
    return {key: value for key, value in fields.items() if key not in left_out}


# `save_pretrained` and `push_to_hub` then copy this file and the files it imports.
ClibdModel.register_for_auto_class("AutoModel")
