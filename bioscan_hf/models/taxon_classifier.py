"""Classifier of taxonomic ranks: loss, predictions down the taxonomy, and the shared classification head.

Uploaded to the Hub beside the weights and `barcode_heads.py`: needs torch and transformers.
Shape letters: B = batch, L = tokens, C = classes, R = ranks.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils.generic import can_return_tuple

from .barcode_heads import IGNORED, ResizableMixin, count_labels
from .vocabularies import check_choice

#: Kinds of labels of a classifier of one rank, as in transformers.
PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression")


def taxa_loss(
    logits: torch.Tensor, labels: torch.Tensor, sizes: Sequence[int], num_items_in_batch: torch.Tensor | int | None
) -> torch.Tensor:
    """Mean of the cross-entropies of the ranks that have a label, in nats; 0 without labels.

    Args:
        logits: (B, C), concatenated over ranks.
        labels: Ids (B, R); negative ones are ignored.
        sizes: Number of classes of each rank.
        num_items_in_batch: Number of labels of each rank (R,) over all processes and accumulated batches of a step;
            None counts `labels`. With a single number, as the Trainer counts, each label has the same weight instead
            of each rank.

    Raises:
        ValueError: if the shape of `labels` or of `num_items_in_batch` does not fit the ranks.
    """
    if labels.ndim != 2 or labels.shape[1] != len(sizes):
        raise ValueError(
            f"labels have the shape {tuple(labels.shape)}, but taxa has {len(sizes)} ranks. Give (B, {len(sizes)}), "
            f"with -100 for a missing label."
        )
    targets = labels.masked_fill(labels < 0, IGNORED)
    counts = (targets != IGNORED).sum(0)  # (R,)
    if num_items_in_batch is not None:
        counts = torch.as_tensor(num_items_in_batch, device=logits.device)
        if counts.numel() not in (1, len(sizes)):
            given = f"num_items_in_batch has {counts.numel()} numbers, but there are {len(sizes)} ranks"
            raise ValueError(f"{given}. Give the number of labels of each rank, or of all together.")
    cross_entropy = partial(nn.functional.cross_entropy, ignore_index=IGNORED, reduction="sum")
    sums = torch.stack(list(map(cross_entropy, logits.float().split(list(sizes), 1), targets.unbind(1))))  # (R,)
    if counts.numel() == 1:
        return sums.sum() / count_labels(labels, targets != IGNORED, counts.reshape(()))
    return (sums / counts.clamp(min=1)).sum() / (counts > 0).sum().clamp(min=1)


def class_loss(
    logits: torch.Tensor, labels: torch.Tensor, config: Any, num_items_in_batch: torch.Tensor | int | None
) -> torch.Tensor:
    """Mean loss of the labels of one rank, by `config.problem_type`; 0 without labels.

    None becomes "single_label_classification" for integers, and else "multi_label_classification", as in transformers.

    Args:
        logits: (B, C).
        labels: Ids (B,), negative ones are ignored; for several labels 0 or 1 (B, C), negative ones are ignored; for
            "regression" numbers (B, C), -100 is ignored.
        num_items_in_batch: See `count_labels`.

    Raises:
        ValueError: for another `problem_type`, or labels of another shape.
    """
    if config.problem_type is None:
        kind = "multi" if labels.is_floating_point() else "single"
        config.problem_type = f"{kind}_label_classification"
    check_choice("problem_type", config.problem_type, PROBLEM_TYPES)
    single = config.problem_type.startswith("single")
    fits = labels.numel() == len(logits) if single else labels.shape == logits.shape
    if not fits:
        raise ValueError(
            f"labels have the shape {tuple(labels.shape)} and logits {tuple(logits.shape)}. Give integers (B,) for "
            f"one label, or numbers (B, C) for several."
        )
    logits = logits.float()
    if single:
        labels = labels.reshape(-1)
        targets = labels.masked_fill(labels < 0, IGNORED)
        known = targets != IGNORED
        total = nn.functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
    else:
        regression = config.problem_type == "regression"
        known = labels != IGNORED if regression else labels >= 0
        compare = nn.functional.mse_loss if regression else nn.functional.binary_cross_entropy_with_logits
        losses = compare(logits, labels.to(logits.dtype), reduction="none")
        total = losses.masked_fill(~known, 0).sum()
    return total / count_labels(labels, known, num_items_in_batch)


class TaxonPrediction(NamedTuple):
    """Prediction at one rank: class ids (B,), -1 for none of the classes, and their probabilities (B,)."""

    ids: torch.Tensor
    probabilities: torch.Tensor


def predict_taxa(logits: Sequence[torch.Tensor], parents: Sequence[Sequence[int]]) -> list[TaxonPrediction]:
    """The most probable path down the taxonomy: each predicted taxon is a child of the one above it.

    The score of a path is the product of the probabilities of its taxa, each from the softmax of its rank. A path may
    end at a class without children: the ranks below are then -1, "none of the classes", and count with the highest
    probability of the rank. Among equal scores, the longest path wins. A class with an unknown parent is placed below
    the best path of the rank above.

    The probability of a taxon is the sum of the scores of the paths through it, divided by the sum over all paths. The
    probabilities of a taxon's children sum to its own; those of a rank's classes and of -1 sum to 1.

    Args:
        logits: (B, C) of each rank, the highest rank first.
        parents: For each rank but the first, the id of each class's parent at the rank above; -1 if unknown.
    """
    ends, above, links = _score_ends(logits, parents)
    masses = _sum_up(ends, above, links)
    lowest = len(ends) - 1
    best = ends[lowest].amax(1)
    end_rank = torch.full_like(best, lowest, dtype=torch.long)  # (B,) rank at which the best path ends
    for rank in reversed(range(lowest)):
        score = ends[rank].amax(1)
        end_rank = torch.where(score > best, rank, end_rank)
        best = torch.maximum(score, best)

    predictions = []
    ids = torch.full_like(end_rank, -1)  # (B,) followed from the end of the path upwards
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
    """Probabilities (B, C) of the classes of each rank, as in `predict_taxa`; the rest to 1 is none of the classes."""
    return _sum_up(*_score_ends(logits, parents))


def summed_probabilities(logits: Sequence[torch.Tensor], parents: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """Probabilities (B, C) of the classes of each rank, summed up from the softmax of the lowest rank.

    Only the logits of the lowest rank are used. A class with an unknown parent adds to no class above. Source:
    MycoAI, https://doi.org/10.1111/1755-0998.14006. Arguments are those of `predict_taxa`.
    """
    found = [logits[-1].float().softmax(1)]
    for part, ids in zip(reversed(logits[:-1]), reversed(parents), strict=True):
        link = torch.tensor(ids, device=part.device)
        known = link >= 0
        above = found[0].new_zeros(part.shape)
        found.insert(0, above.index_add(1, link[known], found[0][:, known]))
    return found


def _score_ends(
    logits: Sequence[torch.Tensor], parents: Sequence[Sequence[int]]
) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
    """Log scores (B, C) of the paths that end at each class of each rank, -inf at classes with children.

    Also, for each rank but the lowest, the class (B, 1) that replaces an unknown parent, and the parents.
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
        for scores in log_probabilities[rank + 1 :]:  # summed in the order of longer paths, for exact ties
            end = end + scores.amax(1, keepdim=True)
        ends.append(end)
    return [*ends, paths[-1]], above, links


def _sum_up(
    ends: Sequence[torch.Tensor], above: Sequence[torch.Tensor], links: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """Probabilities (B, C) of the classes of each rank: the share of the paths that end at or below them."""
    total = torch.cat(list(ends), 1).logsumexp(1, keepdim=True)
    masses = [(end - total).exp() for end in ends]
    for rank in reversed(range(len(links))):
        known = links[rank] >= 0
        below = masses[rank + 1]
        masses[rank] = masses[rank].index_add(1, links[rank][known], below[:, known])
        masses[rank] = masses[rank].scatter_add(1, above[rank], below[:, ~known].sum(1, keepdim=True))
    return masses


class TaxonClassifierMixin(ResizableMixin):
    """Classification head over the `pooler_output` of the encoder `base_model`.

    Classes are `config.id2label` for one rank, `config.taxa` for several, with the tree in `config.parents`.
    """

    base_model: Any
    training: bool

    @property
    def score(self) -> nn.Module:
        """The classifier, under the name by which peft leaves it out of "all-linear"."""
        return self.taxon_classifier

    def _add_taxon_classifier(self, dropout: float) -> None:
        num_labels = self.config.num_labels or 0
        if num_labels < 2:
            raise ValueError(f"num_labels is {num_labels}, but a classifier needs 2 taxa or more.")
        self.config.validate_architecture()  # `from_pretrained(folder, taxa=...)` sets fields without checks
        self.dropout = nn.Dropout(dropout)
        # `classifier` is the masked-LM head of published weights.
        self.taxon_classifier = nn.Linear(self.config.hidden_size, num_labels)
        #: Loss of logits and labels in training mode, such as `losses.taxa.TaxaLoss`; None is the plain cross-entropy.
        self.training_loss: nn.Module | None = None

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Logits (B, C), concatenated over ranks, and with labels the loss in nats.

        Args:
            labels: Ids of taxa, (B,) for one rank (see `class_loss`) or (B, R) for several in the order of
                `config.taxa`. Negative ids are ignored; use -100, which the Trainer does not count as a label.
            kwargs: Arguments of the encoder, and `num_items_in_batch`, see `count_labels` and `taxa_loss`.
        """
        num_items_in_batch = kwargs.pop("num_items_in_batch", None)
        outputs = self.base_model(input_ids, attention_mask, return_dict=True, **kwargs)
        logits = self.taxon_classifier(self.dropout(outputs.pooler_output))
        loss = None
        if labels is not None and self.training and self.training_loss is not None:
            loss = self.training_loss(logits, labels, num_items_in_batch)
        elif labels is not None and self.config.taxa is not None:
            loss = taxa_loss(logits, labels, [len(names) for names in self.config.taxa.values()], num_items_in_batch)
        elif labels is not None:
            loss = class_loss(logits, labels, self.config, num_items_in_batch)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )

    def rank_logits(self, logits: torch.Tensor) -> dict[str, torch.Tensor]:
        """Rank -> its logits (B, C); raises ValueError for a classifier of one rank."""
        if self.config.taxa is None:
            raise ValueError("This classifier has one rank (no taxa), so its logits are those of the rank.")
        sizes = [len(names) for names in self.config.taxa.values()]
        return dict(zip(self.config.taxa, logits.split(sizes, 1), strict=True))

    def predict_taxa(self, logits: torch.Tensor, *, infer_sum: bool = False) -> dict[str, TaxonPrediction]:
        """Rank -> prediction, consistent with the tree of `config.parents`, see the function `predict_taxa`.

        With `infer_sum`, each rank is predicted from probabilities summed up from the lowest rank, see the function
        `summed_probabilities`; the ranks may then disagree.
        """
        parts = self.rank_logits(logits)
        parents = [(self.config.parents or {})[rank] for rank in list(parts)[1:]]
        if infer_sum:
            sums = [part.max(1) for part in summed_probabilities(list(parts.values()), parents)]
            predictions = [TaxonPrediction(found.indices, found.values) for found in sums]
        else:
            predictions = predict_taxa(list(parts.values()), parents)
        return dict(zip(parts, predictions, strict=True))
