"""Pooling and the masked-language-model head, shared by BarcodeBERT, BarcodeMamba and CLIBD.

Uploaded to the Hub beside the weights: needs torch and transformers.
Shape letters: B = batch, L = tokens, D = hidden_size, C = classes.
"""

from typing import Any

import torch
from transformers.modeling_outputs import MaskedLMOutput
from transformers.utils.generic import can_return_tuple

#: Label that losses ignore.
IGNORED = -100


def pool(hidden: torch.Tensor, attention_mask: torch.Tensor | None, pooling: str) -> torch.Tensor:
    """Embeddings (B, D) from hidden states (B, L, D), pooled as `BarcodeBertConfig.pooling` says.

    The attention mask (B, L) is 1 for tokens, 0 for padding; None attends to all positions. A row without attended
    tokens, such as a barcode shorter than k, becomes zero.
    """
    if attention_mask is None:
        return hidden.mean(1)
    unattended = (attention_mask == 0).unsqueeze(-1)  # (B, L, 1)
    if pooling == "mean":
        return hidden.mean(1).masked_fill(unattended.all(1), 0)
    total = hidden.masked_fill(unattended, 0).sum(1)  # (B, D)
    return total / (~unattended).sum(1).clamp(min=1)


def count_labels(labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None) -> torch.Tensor:
    """Number of labels to divide a loss by; at least 1, so that the loss is 0 without labels.

    `num_items_in_batch` is the number over all processes and accumulated batches of a step; None counts `labels`.
    """
    if num_items_in_batch is None:
        num_items_in_batch = (labels != IGNORED).sum()
    return torch.as_tensor(num_items_in_batch, device=labels.device).clamp(min=1)


class MaskedLMMixin:
    """Forward pass of a masked language model over the encoder `base_model`."""

    config: Any
    base_model: Any
    loss_function: Any

    def _predict(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits (..., C) from hidden states (..., D)."""
        raise NotImplementedError

    def _targets(self, labels: torch.Tensor) -> torch.Tensor:
        """Classes from token ids: the numbers of k-mers of ACGT; `IGNORED` for other tokens."""
        numbers = labels - self.config.num_special_tokens
        return numbers.masked_fill((numbers < 0) | (numbers >= self.config.num_kmers), IGNORED)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> MaskedLMOutput:
        """Logits (B, L, C), and with labels the loss in nats.

        With labels and `config.sparse_prediction`, logits are those of the N labelled positions, (N, C).

        Args:
            labels: Token ids (B, L), -100 for positions without prediction.
            kwargs: Arguments of the encoder, and `num_items_in_batch`, see `count_labels`.
        """
        num_items_in_batch = kwargs.pop("num_items_in_batch", None)
        outputs = self.base_model(input_ids, attention_mask, return_dict=True, **kwargs)
        hidden, loss = outputs.last_hidden_state, None
        if labels is None:
            logits = self._predict(hidden)
        else:
            targets = self._targets(labels)
            if self.config.sparse_prediction:
                labelled = targets != IGNORED
                hidden, targets = hidden[labelled], targets[labelled]
            logits = self._predict(hidden)
            count = count_labels(targets, num_items_in_batch)
            loss = self.loss_function(logits, targets, vocab_size=logits.shape[-1], num_items_in_batch=count)
        attentions = getattr(outputs, "attentions", None)
        return MaskedLMOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=attentions)
