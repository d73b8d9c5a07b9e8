"""BarcodeMamba: a causal state-space encoder of DNA barcodes with the heads of BarcodeBERT.

The encoder is transformers' Mamba2, which also runs on CPUs. Uploaded to the Hub beside the weights and the files of
BarcodeBERT. Paper: https://arxiv.org/abs/2412.11084
Shape letters: B = batch, L = tokens, D = hidden_size, C = classes.
"""

import logging
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.mamba2.modeling_mamba2 import Mamba2Model, Mamba2PreTrainedModel
from transformers.utils.generic import can_return_tuple

from .barcode_heads import IGNORED, MaskedLMMixin, ResizableMixin, pool, without_empty
from .configuration_barcodemamba import BarcodeMambaConfig
from .taxon_classifier import TaxonClassifierMixin


def advice_is_useful(record: logging.LogRecord) -> bool:
    """Filters transformers' advice to install Mamba's kernels, which only run on GPUs."""
    message = record.getMessage()
    return torch.cuda.is_available() or not ("falling back to" in message.lower() and "install" in message)


class BarcodeMambaModel(ResizableMixin, Mamba2Model):
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
        outputs = super().forward(input_ids, attention_mask=attention_mask, return_dict=True, **kwargs)
        hidden = outputs.last_hidden_state.to(self.dtype)  # the residuals are always float32
        return BaseModelOutputWithPooling(
            last_hidden_state=hidden[:, :0] if empty else hidden,
            pooler_output=pool(hidden, attention_mask, self.config.pooling),
            hidden_states=outputs.hidden_states,
        )


class BarcodeMambaForMaskedLM(MaskedLMMixin, Mamba2PreTrainedModel):
    """Predicts the k-mer at each position: logit j is the token id j.

    With `config.objective` "next", it is predicted from the positions before. Only k-mers of ACGT are predicted; the
    logits of other tokens are -8,192.
    """

    config_class = BarcodeMambaConfig
    config: BarcodeMambaConfig

    def __init__(self, config: BarcodeMambaConfig):
        super().__init__(config)
        self.backbone = BarcodeMambaModel(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_kmers)
        self.post_init()

    def _predict(self, hidden: torch.Tensor) -> torch.Tensor:
        return self._as_vocabulary(self.classifier(hidden))

    def _shift(self, hidden: torch.Tensor) -> torch.Tensor:
        """With the objective "next", the hidden states of the positions before; zeros at the first."""
        return nn.functional.pad(hidden[:, :-1], (0, 0, 1, 0)) if self.config.objective == "next" else hidden

    def _targets(self, labels: torch.Tensor) -> torch.Tensor:
        """Token ids that are predicted; with the objective "next", not those of the first position."""
        targets = super()._targets(labels)
        if self.config.objective == "next":
            return nn.functional.pad(targets[:, 1:], (1, 0), value=IGNORED)
        return targets


class BarcodeMambaForSequenceClassification(TaxonClassifierMixin, Mamba2PreTrainedModel):
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
