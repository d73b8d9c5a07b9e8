"""BarcodeMamba: a causal state-space encoder of DNA barcodes with the heads of BarcodeBERT.

The mixers are those of transformers' Mamba2, which also run on CPUs. Uploaded to the Hub beside the weights and the
files of BarcodeBERT. Paper: https://arxiv.org/abs/2412.11084
Shape letters: B = batch, L = tokens, D = hidden_size, C = classes.
"""

import logging
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.mamba2.modeling_mamba2 import Mamba2Block, Mamba2Mixer, Mamba2Model, Mamba2PreTrainedModel
from transformers.utils.generic import can_return_tuple

from .barcode_heads import IGNORED, MaskedLMMixin, ResizableMixin, pool, without_empty
from .configuration_barcodemamba import BarcodeMambaConfig
from .taxon_classifier import TaxonClassifierMixin


def advice_is_useful(record: logging.LogRecord) -> bool:
    """Filters transformers' advice to install Mamba's kernels, which only run on GPUs."""
    message = record.getMessage()
    return torch.cuda.is_available() or not ("falling back to" in message.lower() and "install" in message)


class LastNorm(nn.LayerNorm):
    """LayerNorm in the precision of its weights: the residuals are float32."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input.to(self.weight.dtype))


class OutputLinear(nn.Linear):
    """Last layer of an MLP. Its class tells `InitMixin` to scale its initial weights."""


class BarcodeMambaBlock(Mamba2Block):
    """Block of the published BarcodeMamba: x + mixer(LayerNorm(x)), then x + MLP(LayerNorm(x)), x in float32."""

    def __init__(self, config: BarcodeMambaConfig, layer_idx: int):
        nn.Module.__init__(self)  # Mamba2Block would make an RMSNorm
        self.gradient_checkpointing = False
        width, inner = config.hidden_size, config.intermediate_size or 4 * config.hidden_size
        self.dropout = nn.Dropout(config.embedding_dropout if layer_idx == 0 else 0.0)
        self.norm1 = nn.LayerNorm(width, config.layer_norm_epsilon)
        self.mixer = Mamba2Mixer(config, layer_idx, initialize_mixer_weights=False)
        self.norm2 = nn.LayerNorm(width, config.layer_norm_epsilon)
        self.fc1, self.fc2 = nn.Linear(width, inner), OutputLinear(inner, width)
        self.precise = config.residual_in_fp32

    def forward(
        self, hidden_states: torch.Tensor, cache: Any = None, attention_mask: Any = None, **kwargs: Any
    ) -> torch.Tensor:
        """Hidden states (B, L, D) from those of the block before. The attention mask is not read, as published."""
        dtype = self.norm1.weight.dtype
        hidden = self.dropout(hidden_states)
        hidden = hidden.float() if self.precise else hidden
        hidden = hidden + self.mixer(self.norm1(hidden.to(dtype)), cache=cache, attention_mask=None, **kwargs)
        inner = nn.functional.gelu(self.fc1(self.norm2(hidden.to(dtype))), approximate="tanh")
        return hidden + self.fc2(inner)


class InitMixin:
    """Initial weights of the published block: the last layers of mixer and MLP are scaled by 1 / sqrt(2 layers)."""

    config: BarcodeMambaConfig

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # type: ignore[misc]
        if self.config.block == "plain":
            return
        width = self.config.initializer_range
        scaled = width / (2 * self.config.num_hidden_layers) ** 0.5
        if isinstance(module, OutputLinear):
            init.normal_(module.weight, std=scaled)
        elif isinstance(module, Mamba2Mixer):
            init.normal_(module.in_proj.weight, std=width)
            init.normal_(module.out_proj.weight, std=scaled)


class BarcodeMambaModel(InitMixin, ResizableMixin, Mamba2Model):
    """Encodes barcodes: `last_hidden_state` (B, L, D) for tokens, `pooler_output` (B, D) for barcodes.

    Checkpoints of either head load without the head.
    """

    config_class = BarcodeMambaConfig
    config: BarcodeMambaConfig
    _keys_to_ignore_on_load_unexpected = [r"^classifier\.", r"^taxon_classifier\."]

    def __init__(self, config: BarcodeMambaConfig):
        for module in ("integrations.hub_kernels", "models.mamba2.modeling_mamba2"):
            logging.getLogger(f"transformers.{module}").addFilter(advice_is_useful)
        super().__init__(config)
        if config.block == "published":
            blocks = [BarcodeMambaBlock(config, layer) for layer in range(config.num_hidden_layers)]
            self.layers = nn.ModuleList(blocks)
            self.norm_f = LastNorm(config.hidden_size, config.layer_norm_epsilon)  # type: ignore[assignment]
            self.post_init()

    @can_return_tuple
    def forward(
        self, input_ids: torch.Tensor | None = None, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Encodes token ids (B, L).

        Args:
            attention_mask: 1 for tokens, 0 for padding (at the end), (B, L); None attends to all positions.
            kwargs: Arguments of `Mamba2Model`, such as `inputs_embeds` and `output_hidden_states`.
        """
        empty = input_ids is not None and not input_ids.shape[1]
        input_ids, attention_mask = without_empty(input_ids, attention_mask)
        read = None if self.config.block == "published" else attention_mask
        outputs = super().forward(input_ids, attention_mask=read, return_dict=True, **kwargs)
        hidden = outputs.last_hidden_state.to(self.dtype)  # the residuals are always float32
        return BaseModelOutputWithPooling(
            last_hidden_state=hidden[:, :0] if empty else hidden,
            pooler_output=pool(hidden, attention_mask, self.config.pooling),
            hidden_states=outputs.hidden_states,
        )


class BarcodeMambaForMaskedLM(InitMixin, MaskedLMMixin, Mamba2PreTrainedModel):
    """Predicts the k-mer at each position: logit j is the token id j.

    With `config.objective` "next", it is predicted from the positions before. Only k-mers of ACGT are predicted; the
    logits of other tokens are -8,192. With the published block, all tokens are predicted.
    """

    config_class = BarcodeMambaConfig
    config: BarcodeMambaConfig

    def __init__(self, config: BarcodeMambaConfig):
        super().__init__(config)
        self.backbone = BarcodeMambaModel(config)
        if config.block == "published":
            self.classifier = nn.Linear(config.hidden_size, config.vocab_size or 0, bias=False)
        else:
            self.classifier = nn.Linear(config.hidden_size, config.num_kmers)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module | None:
        """The head that predicts all tokens, which is resized with the embeddings; None for the plain block."""
        return self.classifier if self.config.block == "published" else None

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        self.classifier = new_embeddings

    def _predict(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = self.classifier(hidden)
        return logits if self.config.block == "published" else self._as_vocabulary(logits)

    def _shift(self, hidden: torch.Tensor) -> torch.Tensor:
        """With the objective "next", the hidden states of the positions before; zeros at the first."""
        return nn.functional.pad(hidden[:, :-1], (0, 0, 1, 0)) if self.config.objective == "next" else hidden

    def _targets(self, labels: torch.Tensor) -> torch.Tensor:
        """Token ids that are predicted; with the objective "next", not those of the first position."""
        published = self.config.block == "published"
        targets = labels.masked_fill(labels < 0, IGNORED) if published else super()._targets(labels)
        if self.config.objective == "next":
            return nn.functional.pad(targets[:, 1:], (1, 0), value=IGNORED)
        return targets


class BarcodeMambaForSequenceClassification(InitMixin, TaxonClassifierMixin, Mamba2PreTrainedModel):
    """Classifies barcodes by one taxonomic rank (`config.id2label`), or by several at once (`config.taxa`)."""

    config_class = BarcodeMambaConfig
    config: BarcodeMambaConfig

    def __init__(self, config: BarcodeMambaConfig):
        super().__init__(config)
        self.backbone = BarcodeMambaModel(config)
        self._add_taxon_classifier(config.classifier_dropout or 0.0)
        self.post_init()


# `save_pretrained` and `push_to_hub` then copy this file and the files it imports.
BarcodeMambaModel.register_for_auto_class("AutoModel")
BarcodeMambaForMaskedLM.register_for_auto_class("AutoModelForMaskedLM")
BarcodeMambaForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
