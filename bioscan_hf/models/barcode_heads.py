"""Pooling and the masked-language-model head, shared by BarcodeBERT, BarcodeMAE, BarcodeMamba and CLIBD.

Uploaded to the Hub beside the weights: needs torch and transformers.
Shape letters: B = batch, L = tokens, D = hidden_size, V = vocab_size.
"""

from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import MaskedLMOutput
from transformers.utils.generic import can_return_tuple

#: Label that losses ignore.
IGNORED = -100

#: Logit of tokens that a head does not predict: exact, and with the probability 0, in any precision.
NEVER = -(2.0**13)


def pool(hidden: torch.Tensor, attention_mask: torch.Tensor | None, pooling: str) -> torch.Tensor:
    """Embeddings (B, D) from hidden states (B, L, D), pooled as `BarcodeBertConfig.pooling` says.

    The attention mask (B, L) is 1 for tokens, 0 for padding; None attends to all positions. A row without attended
    tokens, such as a barcode shorter than k, becomes zero.
    """
    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "tokens":
        attention_mask = hidden.new_ones(hidden.shape[:2]) if attention_mask is None else attention_mask
        hidden, attention_mask = hidden[:, 1:], attention_mask[:, 1:]
    if attention_mask is None:
        return hidden.mean(1)
    unattended = (attention_mask == 0).unsqueeze(-1)  # (B, L, 1)
    if pooling == "mean":
        return hidden.mean(1).masked_fill(unattended.all(1), 0)
    total = hidden.masked_fill(unattended, 0).sum(1)  # (B, D)
    return total / (~unattended).sum(1).clamp(min=1)


def count_labels(
    labels: torch.Tensor, predicted: torch.Tensor, num_items_in_batch: torch.Tensor | int | None
) -> torch.Tensor:
    """Number of labels to divide a loss by; at least 1, so that the loss is 0 without labels.

    Args:
        labels: As given, of any shape.
        predicted: Which of them the loss reads, bool.
        num_items_in_batch: Number of labels over all processes and accumulated batches of a step; None counts
            `predicted`. The Trainer counts all labels but -100: where these are the labels of this batch alone,
            `predicted` is counted instead.

    Raises:
        ValueError: for other negative labels in a batch that is only a part of a step (not checked when compiled).
    """
    own = predicted.sum()
    if num_items_in_batch is None:
        return own.clamp(min=1)
    total, counted = torch.as_tensor(num_items_in_batch, device=labels.device), (labels != IGNORED).sum()
    if not torch.compiler.is_compiling() and (counted > own) & (total > counted):
        if (wrong := labels[(labels < 0) & (labels != IGNORED) & ~predicted]).numel():
            raise ValueError(
                f"A missing label is {wrong[0].item():g}. With several processes or gradient_accumulation_steps, the "
                f"Trainer counts it as a label: give {IGNORED} for missing labels."
            )
    return torch.where(total == counted, own, total).clamp(min=1)


def weighted_loss(
    logits: torch.Tensor, labels: torch.Tensor, masked: torch.Tensor, weight: float, counts: torch.Tensor | None = None
) -> torch.Tensor:
    """`weight` times the mean loss of masked k-mers plus (1 - `weight`) times that of visible ones, in nats.

    The mean over no k-mer is 0.

    Args:
        logits: Of all tokens, (B, L, V).
        labels: Token ids (B, L), -100 where nothing is predicted.
        masked: Which k-mers are masked, bool (B, L).
        counts: Masked and visible labels (2,) of the whole step, of which this batch may be a part; None counts those
            of the batch.
    """
    losses = nn.functional.cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
    )
    masked = masked.flatten()
    if counts is None:
        labelled = labels.flatten() != IGNORED
        counts = torch.stack([(labelled & masked).sum(), (labelled & ~masked).sum()])
    shares = torch.tensor([weight, 1 - weight], device=losses.device) / counts.clamp(min=1)
    return shares[0] * losses[masked].sum() + shares[1] * losses[~masked].sum()


class ResizableMixin:
    """Embeddings of further tokens, which are saved and loaded like those of the vocabulary."""

    config: Any

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """Adds embeddings after those of the vocabulary, see `PreTrainedModel.resize_token_embeddings`.

        Raises:
            ValueError: for fewer tokens than the vocabulary has, before anything changes.
        """
        size = self.config.vocab_size - self.config.extra_tokens
        if new_num_tokens is not None and new_num_tokens < size:
            raise ValueError(
                f"{new_num_tokens} tokens are fewer than the {size} of the vocabulary. Give {size} or more."
            )
        found: nn.Embedding = super().resize_token_embeddings(  # type: ignore[misc]
            new_num_tokens, pad_to_multiple_of, mean_resizing
        )
        self.config.extra_tokens = self.config.vocab_size - size
        return found


class MaskedLMMixin(ResizableMixin):
    """Forward pass of a masked language model over the encoder `base_model`."""

    base_model: Any
    loss_function: Any

    def _predict(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits (..., V) from hidden states (..., D)."""
        raise NotImplementedError

    def _as_vocabulary(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits (..., V) of token ids from those of the k-mers of ACGT; `NEVER` for other tokens."""
        first = self.config.num_special_tokens
        others = self.config.vocab_size - first - self.config.num_kmers
        return nn.functional.pad(logits, (first, others), value=NEVER)

    def _targets(self, labels: torch.Tensor) -> torch.Tensor:
        """Token ids that are predicted, the k-mers of ACGT; `IGNORED` for others."""
        first = self.config.num_special_tokens
        return labels.masked_fill((labels < first) | (labels >= first + self.config.num_kmers), IGNORED)

    def _encode(self, input_ids: torch.Tensor | None, attention_mask: torch.Tensor | None, **kwargs: Any) -> Any:
        """Outputs of the encoder; the head reads their `last_hidden_state` (B, L, D)."""
        return self.base_model(input_ids, attention_mask, return_dict=True, **kwargs)

    def _shift(self, hidden: torch.Tensor) -> torch.Tensor:
        """The hidden states (B, L, D) that predict the token at each position."""
        return hidden

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> MaskedLMOutput:
        """Logits (B, L, V) of the token ids at each position, and with labels the loss in nats.

        With labels and `config.sparse_prediction`, logits are those of the N labelled positions, (N, V).

        Args:
            labels: Token ids (B, L), -100 for positions without prediction.
            kwargs: Arguments of the encoder, and `num_items_in_batch`, see `count_labels`.
        """
        num_items_in_batch = kwargs.pop("num_items_in_batch", None)
        outputs = self._encode(input_ids, attention_mask, **kwargs)
        hidden, loss = self._shift(outputs.last_hidden_state), None
        if labels is None:
            logits = self._predict(hidden)
        else:
            targets = self._targets(labels)
            count = count_labels(labels, targets != IGNORED, num_items_in_batch)
            if self.config.sparse_prediction:
                labelled = targets != IGNORED
                hidden, targets = hidden[labelled], targets[labelled]
            logits = self._predict(hidden)
            loss = self.loss_function(logits, targets, vocab_size=logits.shape[-1], num_items_in_batch=count)
        attentions = getattr(outputs, "attentions", None)
        return MaskedLMOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=attentions)


def without_empty(
    input_ids: torch.Tensor | None, attention_mask: torch.Tensor | None
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Ids and mask (B, L) with one masked position instead of none: encoders fail for batches without a token."""
    if input_ids is None or input_ids.shape[1]:
        return input_ids, attention_mask
    nothing = input_ids.new_zeros(len(input_ids), 1, dtype=torch.long)  # tensors of empty lists are floats
    return nothing, nothing
