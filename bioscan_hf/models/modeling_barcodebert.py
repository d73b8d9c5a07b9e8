"""BarcodeBERT: encoder of DNA barcodes, with a masked-language-model head or a classifier of taxonomic ranks.

The encoder is transformers' BERT; the names of weights are the published ones. Uploaded to the Hub beside the weights
and the files that it imports. Paper: https://arxiv.org/abs/2311.02401
Shape letters: B = batch, L = tokens, D = hidden_size, V = vocab_size, C = classes, R = ranks.
"""

from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions
from transformers.models.bert.modeling_bert import BertModel, BertOnlyMLMHead, BertPreTrainedModel
from transformers.utils.generic import can_return_tuple

from .barcode_heads import IGNORED, MaskedLMMixin, ResizableMixin, pool, without_empty
from .configuration_barcodebert import BarcodeBertConfig
from .taxon_classifier import TaxonClassifierMixin

#: Width inside the head of the taxon objective "pairs".
PAIR_WIDTH = 256


class BarcodeBertModel(ResizableMixin, BertModel):
    """Encodes barcodes: `last_hidden_state` (B, L, D) for tokens, `pooler_output` (B, D) for barcodes.

    The pooling has no weights. Checkpoints of either head load without the head.
    """

    config_class = BarcodeBertConfig
    config: BarcodeBertConfig
    _keys_to_ignore_on_load_unexpected = [
        *(r"^classifier\.", r"^cls\.", r"^taxon_classifier\.", r"^taxon_head\."),
        *(r"^decoder\.", r"^decoder_head\.", r"^projection\."),  # BarcodeMAE
    ]

    def __init__(self, config: BarcodeBertConfig):
        super().__init__(config, add_pooling_layer=False)

    @can_return_tuple
    def forward(
        self, input_ids: torch.Tensor | None = None, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPoolingAndCrossAttentions:
        """Encodes token ids (B, L).

        Args:
            attention_mask: 1 for tokens, 0 for padding, (B, L); None attends to all positions.
            kwargs: Arguments of `BertModel`, such as `inputs_embeds` and `output_hidden_states`.
        """
        empty = input_ids is not None and not input_ids.shape[1]
        input_ids, attention_mask = without_empty(input_ids, attention_mask)
        outputs = super().forward(input_ids, attention_mask, return_dict=True, **kwargs)
        outputs.pooler_output = pool(outputs.last_hidden_state, attention_mask, self.config.pooling)
        if empty:
            outputs.last_hidden_state = outputs.last_hidden_state[:, :0]
        return outputs


class TaxonHead(nn.Sequential):
    """Head of the taxon objective of pretraining, see `BarcodeBertConfig.taxon_objective`.

    "classes" maps [CLS] (..., D) to logits of taxa (..., C), "pairs" maps two of them side by side (..., 2 D) to the
    logit of one taxon (..., 1), and "triplet" has no weights. Source: BarcodeMAE+,
    https://github.com/bioscan-ml/BarcodeMAE-plus
    """

    def __init__(self, config: BarcodeBertConfig):
        width, dropout = config.hidden_size, nn.Dropout(config.hidden_dropout_prob)
        if config.taxon_objective == "classes":
            norm = nn.LayerNorm(width, config.layer_norm_eps)
            super().__init__(norm, dropout, nn.Linear(width, config.taxon_objective_classes))
        elif config.taxon_objective == "pairs":
            super().__init__(nn.Linear(2 * width, PAIR_WIDTH), nn.ReLU(), dropout, nn.Linear(PAIR_WIDTH, 1))
        else:
            super().__init__()


class BarcodeBertForMaskedLM(MaskedLMMixin, BertPreTrainedModel):
    """Predicts masked k-mers: logit j is the token id j.

    With `mlm_head="kmers"`, only k-mers of ACGT are predicted; the logits of other tokens are -8,192.
    """

    config_class = BarcodeBertConfig
    config: BarcodeBertConfig

    def __init__(self, config: BarcodeBertConfig):
        super().__init__(config)
        self.bert = BarcodeBertModel(config)
        if config.mlm_head == "tied":
            self.cls = BertOnlyMLMHead(config)
            self._tied_weights_keys = {
                "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
                "cls.predictions.decoder.bias": "cls.predictions.bias",
            }
        else:
            self.dropout = nn.Dropout(config.hidden_dropout_prob)
            self.classifier = nn.Linear(config.hidden_size, config.num_kmers)
        if config.taxon_objective is not None:
            self.taxon_head = TaxonHead(config)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module | None:
        """The layer tied to the embeddings; None if the head has its own weights."""
        return self.cls.predictions.decoder if self.config.mlm_head == "tied" else None

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replaces the layer tied to the embeddings, and the bias it shares."""
        self.cls.predictions.decoder = new_embeddings
        self.cls.predictions.bias = new_embeddings.bias

    def _predict(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.config.mlm_head == "tied":
            return self.cls(hidden)
        return self._as_vocabulary(self.classifier(self.dropout(hidden)))

    def _targets(self, labels: torch.Tensor) -> torch.Tensor:
        """Token ids that are predicted; the "tied" head predicts all."""
        return labels.masked_fill(labels < 0, IGNORED) if self.config.mlm_head == "tied" else super()._targets(labels)


class BarcodeBertForSequenceClassification(TaxonClassifierMixin, BertPreTrainedModel):
    """Classifies barcodes by one taxonomic rank (`config.id2label`), or by several at once (`config.taxa`)."""

    config_class = BarcodeBertConfig
    config: BarcodeBertConfig

    def __init__(self, config: BarcodeBertConfig):
        super().__init__(config)
        self.bert = BarcodeBertModel(config)
        self._add_taxon_classifier(config.classifier_dropout or 0.0)
        self.post_init()


# `save_pretrained` and `push_to_hub` then copy this file and the files it imports.
BarcodeBertModel.register_for_auto_class("AutoModel")
BarcodeBertForMaskedLM.register_for_auto_class("AutoModelForMaskedLM")
BarcodeBertForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
