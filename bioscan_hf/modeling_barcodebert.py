"""BarcodeBERT: the encoder of DNA barcodes, its masked-language-model head, and a classifier of one taxonomic rank.

The encoder is BERT's own. What is added: how a barcode is pooled, and heads under the names of the published weights.
Uploaded to the Hub beside the weights: needs torch, transformers and the configuration file beside it.

Paper: BarcodeBERT, https://arxiv.org/abs/2311.02401
Shape letters: B = batch, L = tokens, D = hidden_size, V = vocab_size, C = classes.
"""

from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import (
    BaseModelOutputWithPoolingAndCrossAttentions,
    MaskedLMOutput,
    SequenceClassifierOutput,
)
from transformers.models.bert.modeling_bert import BertModel, BertOnlyMLMHead, BertPreTrainedModel
from transformers.utils.generic import can_return_tuple

from .configuration_barcodebert import BarcodeBertConfig

#: Label that no loss counts.
IGNORED = -100


def pool(hidden: torch.Tensor, attention_mask: torch.Tensor | None, pooling: str) -> torch.Tensor:
    """Embeddings (B, D) of barcodes from those of their tokens (B, L, D), as `BarcodeBertConfig.pooling` says.

    A barcode without a single attended token (shorter than k) has no embedding: its row is exactly zero.

    Args:
        attention_mask: 1 for the tokens that count, (B, L); None counts all.
    """
    if attention_mask is None:
        return hidden.mean(1)
    unattended = (attention_mask == 0).unsqueeze(-1)  # (B, L, 1)
    if pooling == "mean":
        return hidden.mean(1).masked_fill(unattended.all(1), 0)
    total = hidden.masked_fill(unattended, 0).sum(1)  # (B, D)
    return total / (~unattended).sum(1).clamp(min=1)


def count_labels(labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None) -> torch.Tensor:
    """Labels that a loss is the mean over: at least 1, so that a batch without any has the loss 0 and not NaN.

    Args:
        num_items_in_batch: The count over all processes and accumulated batches of a step; None counts `labels`.
    """
    if num_items_in_batch is None:
        num_items_in_batch = (labels != IGNORED).sum()
    return torch.as_tensor(num_items_in_batch, device=labels.device).clamp(min=1)


class BarcodeBertModel(BertModel):
    """Encodes barcodes: `last_hidden_state` (B, L, D) has its tokens, `pooler_output` (B, D) its embedding.

    There is no pooling layer with weights. A checkpoint of either head opens here without its head.
    """

    config_class = BarcodeBertConfig
    config: BarcodeBertConfig
    _keys_to_ignore_on_load_unexpected = [r"^classifier\.", r"^cls\.", r"^taxon_classifier\."]

    def __init__(self, config: BarcodeBertConfig):
        super().__init__(config, add_pooling_layer=False)

    @can_return_tuple
    def forward(
        self, input_ids: torch.Tensor | None = None, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPoolingAndCrossAttentions:
        """Tokens (B, L) to vectors.

        Args:
            attention_mask: 1 for tokens, 0 for padding, (B, L); None attends to all.
            kwargs: Those of `BertModel`, such as `inputs_embeds` and `output_hidden_states`.
        """
        outputs = super().forward(input_ids, attention_mask, return_dict=True, **kwargs)
        outputs.pooler_output = pool(outputs.last_hidden_state, attention_mask, self.config.pooling)
        return outputs


class BarcodeBertForMaskedLM(BertPreTrainedModel):
    """Predicts masked k-mers.

    With `mlm_head="kmers"`, logit j is the k-mer number j of ACGT, whose token id is j + `config.num_special_tokens`;
    with "tied", logit j is the token id j.
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
        self.post_init()

    def get_output_embeddings(self) -> nn.Module | None:
        """The layer tied to the embeddings; None where the head has its own weights."""
        return self.cls.predictions.decoder if self.config.mlm_head == "tied" else None

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replaces the layer tied to the embeddings, and the bias it shares."""
        self.cls.predictions.decoder = new_embeddings
        self.cls.predictions.bias = new_embeddings.bias

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> MaskedLMOutput:
        """Logits (B, L, 4**k), or (B, L, V) with the "tied" head, and the loss in nats if there are labels.

        Args:
            labels: Token ids (B, L), -100 where there is nothing to predict. The "kmers" head also passes over the
                ids that it cannot predict: special tokens and k-mers that hold an N.
        """
        num_items_in_batch = kwargs.pop("num_items_in_batch", None)
        outputs = self.bert(input_ids, attention_mask, return_dict=True, **kwargs)
        hidden = outputs.last_hidden_state
        tied = self.config.mlm_head == "tied"
        logits = self.cls(hidden) if tied else self.classifier(self.dropout(hidden))

        loss = None
        if labels is not None:
            targets = labels if tied else self._kmer_numbers(labels)
            count = count_labels(targets, num_items_in_batch)
            loss = self.loss_function(logits, targets, vocab_size=logits.shape[-1], num_items_in_batch=count)
        return MaskedLMOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )

    def _kmer_numbers(self, labels: torch.Tensor) -> torch.Tensor:
        """Token ids as numbers of k-mers; `IGNORED` for what is no k-mer of ACGT."""
        numbers = labels - self.config.num_special_tokens
        return numbers.masked_fill((numbers < 0) | (numbers >= self.config.num_kmers), IGNORED)


class BarcodeBertForSequenceClassification(BertPreTrainedModel):
    """Classifies barcodes by one taxonomic rank. `config.id2label` holds the names of its taxa."""

    config_class = BarcodeBertConfig
    config: BarcodeBertConfig

    def __init__(self, config: BarcodeBertConfig):
        super().__init__(config)
        num_labels = config.num_labels or 0
        if num_labels < 2:
            raise ValueError(f"num_labels is {num_labels}, but to classify takes 2 taxa or more.")
        self.bert = BarcodeBertModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout or 0.0)
        # Not `classifier`: that is the masked-LM head of published weights, which must not be taken for this one.
        self.taxon_classifier = nn.Linear(config.hidden_size, num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Logits (B, C), and the loss in nats if there are labels.

        Args:
            labels: Ids of taxa (B,). Negative ones are passed over; write -100, not -1, where a Trainer counts labels.
        """
        num_items_in_batch = kwargs.pop("num_items_in_batch", None)
        outputs = self.bert(input_ids, attention_mask, return_dict=True, **kwargs)
        logits = self.taxon_classifier(self.dropout(outputs.pooler_output))

        loss = None
        if labels is not None:
            targets = labels.masked_fill(labels < 0, IGNORED)
            count = count_labels(targets, num_items_in_batch)
            loss = self.loss_function(targets, logits, self.config, num_items_in_batch=count)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


# Makes `save_pretrained` and `push_to_hub` put this file and the configuration file beside the weights.
BarcodeBertModel.register_for_auto_class("AutoModel")
BarcodeBertForMaskedLM.register_for_auto_class("AutoModelForMaskedLM")
BarcodeBertForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
