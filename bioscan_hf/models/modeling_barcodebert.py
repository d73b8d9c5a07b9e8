"""BarcodeBERT: the encoder of DNA barcodes, its masked-language-model head, and a classifier of taxonomic ranks.

The encoder is BERT's own. What is added: how a barcode is pooled, and heads under the names of the published weights.
Uploaded to the Hub beside the weights: needs torch, transformers and the configuration file beside it.

Paper: BarcodeBERT, https://arxiv.org/abs/2311.02401
Shape letters: B = batch, L = tokens, D = hidden_size, V = vocab_size, C = classes, R = ranks.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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


def kmer_numbers(labels: torch.Tensor, num_special_tokens: int, num_kmers: int) -> torch.Tensor:
    """Token ids as numbers of k-mers; `IGNORED` for what is no k-mer of ACGT."""
    numbers = labels - num_special_tokens
    return numbers.masked_fill((numbers < 0) | (numbers >= num_kmers), IGNORED)


def apply_masked_lm_head(
    head: Callable[[torch.Tensor], torch.Tensor], hidden: torch.Tensor, targets: torch.Tensor | None, sparse: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Logits and the targets that go with them.

    Args:
        head: Hidden states (..., D) to logits (..., C).
        hidden: Hidden states (B, L, D).
        targets: Classes (B, L), `IGNORED` where nothing is predicted, or None.
        sparse: Leave out the positions without a target: logits are then (N, C) and targets (N,) for N targets.
    """
    if targets is None or not sparse:
        return head(hidden), targets
    labelled = targets != IGNORED
    return head(hidden[labelled]), targets[labelled]


def taxa_loss(
    logits: torch.Tensor, labels: torch.Tensor, sizes: Sequence[int], num_items_in_batch: torch.Tensor | int | None
) -> torch.Tensor:
    """Mean, over the ranks that have a label, of each rank's mean cross-entropy, in nats; 0 without any label.

    Args:
        logits: (B, C), the ranks' side by side.
        labels: Ids (B, R); negative ones are passed over.
        sizes: Classes of each rank.
        num_items_in_batch: Labels of each rank (R,), counted over all processes and accumulated batches of a step;
            None counts `labels`. A single number, which is what a Trainer counts by itself, gives each label the same
            weight instead of each rank; where every barcode has a label at every rank the two are equal.

    Raises:
        ValueError: if the shape of `labels` or of `num_items_in_batch` does not fit the ranks.
    """
    if labels.ndim != 2 or labels.shape[1] != len(sizes):
        raise ValueError(
            f"labels have the shape {tuple(labels.shape)}, but taxa has {len(sizes)} ranks: pass one id for each, "
            f"(B, {len(sizes)}), -100 where a barcode has none."
        )
    targets = labels.masked_fill(labels < 0, IGNORED)
    counts = (targets != IGNORED).sum(0)  # (R,)
    if num_items_in_batch is not None:
        counts = torch.as_tensor(num_items_in_batch, device=logits.device)
        if counts.numel() not in (1, len(sizes)):
            raise ValueError(
                f"num_items_in_batch has {counts.numel()} numbers, but there are {len(sizes)} ranks. Pass the count "
                f"of labels of each, or of all together."
            )
    sums = torch.stack(
        [
            nn.functional.cross_entropy(part.float(), target, ignore_index=IGNORED, reduction="sum")
            for part, target in zip(logits.split(list(sizes), 1), targets.unbind(1), strict=True)
        ]
    )  # (R,)
    if counts.numel() == 1:
        return sums.sum() / counts.reshape(()).clamp(min=1)
    return (sums / counts.clamp(min=1)).sum() / (counts > 0).sum().clamp(min=1)


class TaxonPrediction(NamedTuple):
    """What `predict_taxa` says of one rank: an id of a class, or -1 for none of them, and its probability, (B,)."""

    ids: torch.Tensor
    probabilities: torch.Tensor


def predict_taxa(logits: Sequence[torch.Tensor], parents: Sequence[Sequence[int]]) -> list[TaxonPrediction]:
    """The most probable path down the tree, rank by rank: each predicted taxon lies below the one before it.

    A path's score is the product of its taxa's probabilities, each from the softmax of its own rank. A rank of which
    a path says nothing counts neither for nor against it, that is, with the rank's highest probability:

    - A class whose parent is not known goes below the best path of the rank above.
    - A path may end at a class that has no class below it; the ranks below are then -1, "none of the classes". Of
      equal scores, the longer path wins.

    The probability of a taxon is the share of the paths through it in the sum of all paths' scores. So those of the
    classes below a taxon sum to its own, and those of a rank's classes and of its -1 to 1.

    Args:
        logits: Each rank's (B, C), the highest rank first.
        parents: For each rank but the first, the id of each class's parent at the rank above; -1 is unknown.
    """
    ends, above, links = _score_ends(logits, parents)
    masses = _sum_up(ends, above, links)
    lowest = len(ends) - 1
    best = ends[lowest].amax(1)
    end_rank = torch.full_like(best, lowest, dtype=torch.long)  # (B,) where the best path ends
    for rank in reversed(range(lowest)):
        score = ends[rank].amax(1)
        end_rank = torch.where(score > best, rank, end_rank)
        best = torch.maximum(score, best)

    predictions = []
    ids = torch.full_like(end_rank, -1)  # (B,) walks up the path from its end
    for rank in reversed(range(len(ends))):
        if rank < lowest:
            parent = links[rank][ids.clamp(min=0)]
            ids = torch.where(ids < 0, ids, torch.where(parent < 0, above[rank].squeeze(1), parent))
        ids = torch.where(end_rank == rank, ends[rank].argmax(1), ids)
        of_class = masses[rank].gather(1, ids.clamp(min=0).unsqueeze(1)).squeeze(1)
        of_none = (1 - masses[rank].sum(1)).clamp(min=0)
        predictions.append(TaxonPrediction(ids, torch.where(ids < 0, of_none, of_class)))
    return predictions[::-1]


def taxa_probabilities(logits: Sequence[torch.Tensor], parents: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """Probabilities (B, C) of the classes of each rank, by the paths of `predict_taxa`.

    Those of the classes below a taxon sum to its own. What a rank's lack to 1 is that of none of its classes.

    Args:
        logits: As for `predict_taxa`.
        parents: Likewise.
    """
    return _sum_up(*_score_ends(logits, parents))


def _score_ends(
    logits: Sequence[torch.Tensor], parents: Sequence[Sequence[int]]
) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
    """Log scores (B, C) of the paths that end at each class of each rank, -inf where none may end.

    Also, for each rank but the lowest, the class (B, 1) below which classes of an unknown parent go; and the parents.
    """
    log_probabilities = [part.float().log_softmax(1) for part in logits]
    links = [torch.tensor(ids, device=logits[0].device) for ids in parents]
    paths, above = [log_probabilities[0]], []
    for scores, link in zip(log_probabilities[1:], links, strict=True):
        best, best_id = paths[-1].max(1, keepdim=True)
        paths.append(torch.where(link < 0, best, paths[-1][:, link.clamp(min=0)]) + scores)
        above.append(best_id)
    ends = []
    for rank, (path, link) in enumerate(zip(paths, links, strict=False)):
        childless = torch.ones(path.shape[1], dtype=torch.bool, device=path.device)
        childless[link[link >= 0]] = False
        end = path.masked_fill(~childless, -torch.inf)
        for scores in log_probabilities[rank + 1 :]:  # one by one, as for the longer paths: so equal scores are equal
            end = end + scores.amax(1, keepdim=True)
        ends.append(end)
    return [*ends, paths[-1]], above, links


def _sum_up(
    ends: Sequence[torch.Tensor], above: Sequence[torch.Tensor], links: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """Probabilities (B, C) of each rank's classes: the shares of the paths that end at or below them."""
    total = torch.cat(list(ends), 1).logsumexp(1, keepdim=True)
    masses = [(end - total).exp() for end in ends]
    for rank in reversed(range(len(links))):
        known = links[rank] >= 0
        below = masses[rank + 1]
        masses[rank] = masses[rank].index_add(1, links[rank][known], below[:, known])
        masses[rank] = masses[rank].scatter_add(1, above[rank], below[:, ~known].sum(1, keepdim=True))
    return masses


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

        With labels and `config.sparse_prediction`, logits are those of the labelled positions alone, (N, classes),
        in the order of `labels`.

        Args:
            labels: Token ids (B, L), -100 where there is nothing to predict. The "kmers" head also passes over the
                ids that it cannot predict: special tokens and k-mers that hold an N.
        """
        num_items_in_batch = kwargs.pop("num_items_in_batch", None)
        outputs = self.bert(input_ids, attention_mask, return_dict=True, **kwargs)
        tied = self.config.mlm_head == "tied"
        targets = labels
        if labels is not None and not tied:
            targets = kmer_numbers(labels, self.config.num_special_tokens, self.config.num_kmers)
        logits, targets = apply_masked_lm_head(
            self.cls if tied else self._classify, outputs.last_hidden_state, targets, self.config.sparse_prediction
        )
        loss = None
        if targets is not None:
            count = count_labels(targets, num_items_in_batch)
            loss = self.loss_function(logits, targets, vocab_size=logits.shape[-1], num_items_in_batch=count)
        return MaskedLMOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )

    def _classify(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.dropout(hidden))


class TaxonClassifierMixin:
    """The head that classifies barcodes, for any encoder whose `pooler_output` is their embedding.

    One rank: `config.id2label` holds the names of its taxa. Several ranks: `config.taxa` holds the names, and
    `config.parents` the tree.
    """

    config: BarcodeBertConfig

    def _add_taxon_classifier(self, dropout: float) -> None:
        num_labels = self.config.num_labels or 0
        if num_labels < 2:
            raise ValueError(f"num_labels is {num_labels}, but to classify takes 2 taxa or more.")
        self.config.validate_architecture()  # `from_pretrained(folder, taxa=...)` sets fields unchecked
        self.dropout = nn.Dropout(dropout)
        # Not `classifier`: that is the masked-LM head of published weights, which must not be taken for this one.
        self.taxon_classifier = nn.Linear(self.config.hidden_size, num_labels)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Logits (B, C), and the loss in nats if there are labels. The logits of several ranks stand side by side.

        Args:
            labels: Ids of taxa, (B,) for one rank, (B, R) for several, in the order of `config.taxa`. Negative ones
                are passed over; write -100, not -1, where a Trainer counts labels.
            kwargs: Those of the encoder, and `num_items_in_batch`: the labels over all processes and accumulated
                batches of a step. For several ranks pass the count of each, (R,), as `taxa_loss` says.
        """
        num_items_in_batch = kwargs.pop("num_items_in_batch", None)
        outputs = self.base_model(input_ids, attention_mask, return_dict=True, **kwargs)  # type: ignore[attr-defined]
        logits = self.taxon_classifier(self.dropout(outputs.pooler_output))

        loss = None
        if labels is not None and self.config.taxa is not None:
            loss = taxa_loss(logits, labels, [len(names) for names in self.config.taxa.values()], num_items_in_batch)
        elif labels is not None:
            targets = labels.masked_fill(labels < 0, IGNORED)
            count = count_labels(targets, num_items_in_batch)
            loss = self.loss_function(  # type: ignore[attr-defined]
                targets, logits.float(), self.config, num_items_in_batch=count
            )
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )

    def rank_logits(self, logits: torch.Tensor) -> dict[str, torch.Tensor]:
        """Each rank's logits (B, C of the rank), from those of all ranks side by side.

        Raises:
            ValueError: if this is a classifier of one rank.
        """
        if self.config.taxa is None:
            raise ValueError("This classifier has one rank, and its logits are that rank's. Ranks are those of taxa.")
        sizes = [len(names) for names in self.config.taxa.values()]
        return dict(zip(self.config.taxa, logits.split(sizes, 1), strict=True))

    def predict_taxa(self, logits: torch.Tensor) -> dict[str, TaxonPrediction]:
        """Each rank's prediction, consistent down the tree: a species implies its genus.

        What the function of this name says, with the tree of `config.parents`.
        """
        parts, parents = self.rank_logits(logits), self.config.parents or {}
        predictions = predict_taxa(list(parts.values()), [parents[rank] for rank in list(parts)[1:]])
        return dict(zip(parts, predictions, strict=True))


class BarcodeBertForSequenceClassification(TaxonClassifierMixin, BertPreTrainedModel):
    """Classifies barcodes by one taxonomic rank (`config.id2label`), or by several at once (`config.taxa`)."""

    config_class = BarcodeBertConfig
    config: BarcodeBertConfig

    def __init__(self, config: BarcodeBertConfig):
        super().__init__(config)
        self.bert = BarcodeBertModel(config)
        self._add_taxon_classifier(config.classifier_dropout or 0.0)
        self.post_init()


# Makes `save_pretrained` and `push_to_hub` put this file and the configuration file beside the weights.
BarcodeBertModel.register_for_auto_class("AutoModel")
BarcodeBertForMaskedLM.register_for_auto_class("AutoModelForMaskedLM")
BarcodeBertForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
