"""Taxa as classes: labels, batches, predictions, metrics and the predictions file.

The protocol of BarcodeBERT (https://arxiv.org/abs/2311.02401). The classes of every split are those of the training
split.
Shape letters: B = batch, N = specimens, L = tokens, R = ranks, C = classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from datasets import Dataset
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from ..evaluation.intervals import species_intervals
from ..files import replacing
from ..labels import LabelMaps
from ..metrics import accuracy, coverage, expected_calibration_error, f1
from ..schema import MISSING
from .collators import SeededCollator, barcodes_of, token_batch
from .draws import draw_keys, uniform
from .masking import IGNORED

#: Label of the first taxon that is not a class; the next such taxon has one less, and so on. No loss counts these
#: labels; metrics count them as wrong. A missing label is `IGNORED`, which nothing counts.
UNSEEN = -1000

#: Columns of `score_logits`.
SCORES = ("id", "probability", "nats", "consistent id", "consistent probability")

#: Metrics of a rank, see `summarize`.
METRICS = (
    *("micro_accuracy", "macro_accuracy", "support", "classes", "f1_micro", "f1_macro", "f1_weighted"),
    *("expected_calibration_error", "coverage", "cross_entropy_nats"),
)

#: Rank -> metric -> value.
Metrics = dict[str, dict[str, Any]]


# ---- labels ---------------------------------------------------------------------------------------------------------


def training_classes(data: Dataset, ranks: Sequence[str]) -> dict[str, list[str]]:
    """Rank -> names of the taxa of the training rows, in lexicographic order; the index of a name is its class.

    Raises ValueError if a rank has fewer than two classes.
    """
    table = data.select_columns(list(ranks)).with_format("arrow")[:]
    maps = LabelMaps({rank: table[rank].unique().to_pylist() for rank in ranks})
    classes = {rank: list(maps.names(rank)) for rank in ranks}
    for rank, names in classes.items():
        if len(names) < 2:
            found = f"the one class {names[0]!r}" if names else "no label"
            raise ValueError(
                f"The training rows have {found} at the rank {rank!r}; a classifier needs two classes or more. Leave "
                f"this rank out, or train on other rows."
            )
    return classes


def class_parents(data: Dataset, classes: Mapping[str, Sequence[str]]) -> tuple[dict[str, list[int]], int]:
    """Rank but the first -> the parent of each of its classes at the rank above; and how many classes have several.

    Where the rows disagree, the parent of most rows counts, then the first; -1 if no row names both ranks. `classes`
    has the highest rank first.
    """
    table = data.select_columns(list(classes)).with_format("arrow")[:]
    parents, divided = {}, 0
    ranks = list(classes)
    for above, rank in zip(ranks, ranks[1:], strict=False):
        pair = np.stack([_places(table[name], classes[name]) for name in (rank, above)], axis=1)  # (N, 2)
        pairs, rows = np.unique(pair[(pair >= 0).all(1)], axis=0, return_counts=True)
        pairs = pairs[np.lexsort((-pairs[:, 1], rows))]  # the last pair of a class names its parent
        best = np.full(len(classes[rank]), MISSING)
        best[pairs[:, 0]] = pairs[:, 1]
        parents[rank] = best.tolist()
        divided += int((np.bincount(pairs[:, 0], minlength=1) > 1).sum())
    return parents, divided


def add_labels(data: Dataset, classes: Mapping[str, Sequence[str]]) -> Dataset:
    """Adds the columns `<rank>_label`: the class, `IGNORED` for a missing name, `UNSEEN` or less for other taxa."""
    for rank, names in classes.items():
        column = data.select_columns([rank]).with_format("arrow")[:][rank]
        places = _places(column, names)
        others = LabelMaps({rank: pc.unique(column.filter(pa.array(places < 0))).to_pylist()}).names(rank)
        number = _places(column, others)  # among the names that are not classes
        labels = np.where(places >= 0, places, np.where(number >= 0, UNSEEN - number, IGNORED))
        data = data.add_column(f"{rank}_label", labels)
    return data


def _places(column: pa.ChunkedArray, names: Sequence[str]) -> NDArray[np.int64]:
    """Index of each row's name in `names`, -1 where it is missing."""
    places = pc.index_in(column, value_set=pa.array(names, pa.string()))
    return pc.fill_null(places, MISSING).to_numpy().astype(np.int64)


# ---- batches --------------------------------------------------------------------------------------------------------


class TaxonCollator(SeededCollator):
    """Makes batches of barcodes: `input_ids` and `attention_mask`, int64 (B, L), and `labels`, (B,) or (B, R).

    The reading frame of a barcode follows from the seed, the epoch (`set_epoch`) and the barcode.

    Args:
        tokenizer: A `KmerTokenizer`.
        ranks: Ranks of the labels; with several, `labels` has a column for each.
        random_offset: Whether a barcode is read from its first, second, ... or k-th nucleotide, drawn in each epoch;
            otherwise it is read from the first.
        cut_padding: Whether a batch is as long as its longest barcode. This changes only embeddings that are the mean
            over all positions.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        ranks: Sequence[str],
        *,
        random_offset: bool,
        cut_padding: bool,
        seed: int,
    ):
        super().__init__(seed)
        self.tokenizer, self.ranks = tokenizer, list(ranks)
        self.random_offset, self.cut_padding = random_offset, cut_padding

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """A batch of rows that have a `dna_barcode`, and a `<rank>_label` for each rank."""
        barcodes = barcodes_of(features)
        labels = torch.tensor([[feature[f"{rank}_label"] for rank in self.ranks] for feature in features])  # (B, R)
        offsets = self._offsets(barcodes, self.epochs_of(features))
        batch = token_batch(self.tokenizer, barcodes, offsets, self.cut_padding)
        return batch | {"labels": labels if len(self.ranks) > 1 else labels.squeeze(1)}

    def _offsets(self, barcodes: Sequence[str], epochs: Sequence[int]) -> NDArray[np.int64] | int:
        """Nucleotides to skip at the start of each barcode, (B,)."""
        if not self.random_offset:
            return 0
        lots = uniform(draw_keys(barcodes, self.seed, epochs), 0, 1)[:, 0]
        return (lots * self.tokenizer.k).astype(np.int64)


def count_tokens(data: Dataset, tokenizer: PreTrainedTokenizerBase) -> NDArray[np.int64]:
    """Tokens (N,) of the barcodes of a dataset, read from their first nucleotide, without padding."""
    batches = data.select_columns(["dna_barcode"]).with_format("arrow").iter(batch_size=50_000)
    lengths = np.concatenate([pc.binary_length(batch["dna_barcode"]).to_numpy() for batch in batches])
    return np.minimum(lengths, tokenizer.max_nucleotides) // tokenizer.k


# ---- predictions and metrics ----------------------------------------------------------------------------------------


@torch.no_grad()
def score_logits(logits: torch.Tensor, labels: torch.Tensor, model: Any) -> torch.Tensor:
    """Scores of a batch, of which metrics and predictions are made: `SCORES`, float32 (B, R, 5).

    "id" and "probability" are the most probable class of each rank alone and its softmax; "nats" is the cross-entropy
    (NaN where the label is not a class). The consistent ones agree down the taxonomy, as in `model.predict_taxa`; for
    a classifier of one rank they are the same. `logits` are (B, C), the ranks side by side, `labels` (B,) or (B, R),
    as made by `add_labels`.
    """
    several = labels.ndim == 2
    scores = []
    parts = list(model.rank_logits(logits).values()) if several else [logits]
    chosen = list(model.predict_taxa(logits).values()) if several else []
    for place, (part, label) in enumerate(zip(parts, labels.reshape(len(labels), -1).unbind(1), strict=True)):
        log_probabilities = part.float().log_softmax(1)
        best, ids = log_probabilities.max(1)
        nats = (
            -log_probabilities.gather(1, label.clamp(min=0).unsqueeze(1)).squeeze(1).masked_fill(label < 0, torch.nan)
        )
        consistent = chosen[place] if several else (ids, best.exp())
        scores.append(torch.stack([ids.float(), best.exp(), nats, consistent[0].float(), consistent[1].float()], 1))
    return torch.stack(scores, 1)


def summarize(
    scores: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: Mapping[str, Sequence[str]],
    *,
    intervals: bool = False,
) -> tuple[Metrics, Metrics]:
    """Metrics of each rank alone, and of the consistent predictions (empty for one rank).

    Accuracy, F1, coverage (the share of the labelled specimens whose taxon is a class) and expected calibration error
    count a taxon that is not a class as wrong; the cross-entropy leaves it out. The macro accuracy is the balanced
    accuracy. Missing labels are not counted.

    Args:
        scores: (N, R, 5), of `score_logits`.
        labels: (N,) or (N, R), as made by `add_labels`.
        classes: Rank -> names.
        intervals: Whether accuracies have 95 % intervals, by a bootstrap over the taxa of the lowest rank.
    """
    independent: Metrics = {}
    consistent: Metrics = {}
    lowest = labels.reshape(len(labels), -1)[:, -1]
    taxa = np.where(lowest <= UNSEEN, lowest.max(initial=0) + 1 + UNSEEN - lowest, lowest) if intervals else None
    for place, (rank, names) in enumerate(classes.items()):
        score, label = scores[:, place], labels.reshape(len(labels), -1)[:, place]
        references = np.where(label <= UNSEEN, len(names) + UNSEEN - label, np.where(label < 0, MISSING, label))
        nats = score[:, 2][label >= 0].astype(np.float64)
        independent[rank] = {
            **_metrics(score[:, 0], score[:, 1], references, taxa),
            "coverage": coverage(references, np.arange(len(names))),
            "cross_entropy_nats": float(nats.mean()) if len(nats) else None,
        }
        if len(classes) > 1:
            consistent[rank] = _metrics(score[:, 3], score[:, 4], references, taxa)
    return independent, consistent


def _metrics(
    ids: NDArray[np.float32],
    probabilities: NDArray[np.float32],
    references: NDArray[np.int64],
    taxa: NDArray[np.int64] | None,
) -> dict[str, Any]:
    predictions = ids.astype(np.int64)
    return {
        **accuracy(predictions, references),
        **({} if taxa is None else species_intervals(predictions == references, references, taxa)),
        **f1(predictions, references),
        "expected_calibration_error": expected_calibration_error(
            np.clip(probabilities, 0, 1), predictions, references
        ),
    }


def write_predictions(
    path: str | Path,
    predictions: Mapping[str, tuple[Sequence[str], NDArray[np.float32]]],
    classes: Mapping[str, Sequence[str]],
) -> None:
    """Writes a Parquet file with one row for each split, specimen and rank.

    Columns: `processid`, `split`, `rank`, `name` and `probability` of the rank alone, and `consistent_name` (null for
    "none of the classes") and `consistent_probability` of the prediction that agrees with the other ranks.
    `predictions` has the processids of a split, and its scores (N, R, 5) of `score_logits`.
    """
    tables = []
    for split, (processids, scores) in predictions.items():
        for place, (rank, names) in enumerate(classes.items()):
            score, known = scores[:, place], pa.array(names, pa.string())
            ids = [score[:, column].astype(np.int64) for column in (0, 3)]
            columns = {
                "processid": pa.array(processids, pa.string()),
                "split": pa.array([split] * len(score), pa.string()),
                "rank": pa.array([rank] * len(score), pa.string()),
                "name": known.take(pa.array(ids[0])),
                "probability": pa.array(score[:, 1], pa.float32()),
                "consistent_name": known.take(pa.array(ids[1], mask=ids[1] < 0)),
                "consistent_probability": pa.array(score[:, 4], pa.float32()),
            }
            tables.append(pa.table(columns))
    with replacing(path) as part:
        pq.write_table(pa.concat_tables(tables), part)
