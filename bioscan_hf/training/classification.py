"""Taxa as classes: names to labels, barcodes to batches, logits to answers, answers to metrics and a file.

Models, tokenizers and datasets are arguments. The protocol is BarcodeBERT's (https://arxiv.org/abs/2311.02401), with
one list of classes, that of the training split, for every split.
Shape letters: B = batch, N = specimens, L = tokens, R = ranks, C = classes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from hashlib import blake2b
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

from ..labels import LabelMaps
from ..metrics import accuracy, coverage, expected_calibration_error, f1
from ..schema import MISSING
from .collators import uniform

#: Label of a specimen whose taxon is not known: no loss and no metric counts it.
IGNORED = -100

#: Label of a taxon that is no class; the next such taxon has one less, and so on. No loss counts them, but metrics
#: do, as wrong.
UNSEEN = -1000

#: What `score_logits` tells of a specimen at a rank.
SCORES = ("id", "probability", "nats", "consistent id", "consistent probability")

#: Rank -> metric -> value.
Metrics = dict[str, dict[str, Any]]


# ---- names and labels -----------------------------------------------------------------------------------------------


def training_classes(data: Dataset, ranks: Sequence[str]) -> dict[str, list[str]]:
    """Rank -> names of the taxa of the training rows, in lexicographic order: a name's place is its class.

    Raises:
        ValueError: if a rank has fewer than two.
    """
    table = data.select_columns(list(ranks)).with_format("arrow")[:]
    maps = LabelMaps({rank: table[rank].unique().to_pylist() for rank in ranks})
    classes = {rank: maps.names(rank) for rank in ranks}
    for rank, names in classes.items():
        if len(names) < 2:
            found = f"the one class {names[0]!r}" if names else "no label"
            raise ValueError(
                f"The training rows have {found} at the rank {rank!r}, but to classify takes two classes or more. "
                f"Leave this rank out, or train on other rows."
            )
    return classes


def class_parents(data: Dataset, classes: Mapping[str, Sequence[str]]) -> tuple[dict[str, list[int]], int]:
    """Each rank but the first -> for each of its classes, the class that it belongs to at the rank before.

    Where the rows disagree it is the one of most rows, and of equally many the first; -1 if no row names both.

    Args:
        data: The training rows.
        classes: Rank -> names, the highest rank first.

    Returns:
        The parents, and the number of classes about which the rows disagree.
    """
    table = data.select_columns(list(classes)).with_format("arrow")[:]
    parents, divided = {}, 0
    ranks = list(classes)
    for above, rank in zip(ranks, ranks[1:], strict=False):
        pair = np.stack([_places(table[name], classes[name]) for name in (rank, above)], axis=1)  # (N, 2)
        pairs, rows = np.unique(pair[(pair >= 0).all(1)], axis=0, return_counts=True)
        pairs = pairs[np.lexsort((-pairs[:, 1], rows))]  # the last one of a class is its parent
        best = np.full(len(classes[rank]), MISSING)
        best[pairs[:, 0]] = pairs[:, 1]
        parents[rank] = best.tolist()
        divided += int((np.bincount(pairs[:, 0], minlength=1) > 1).sum())
    return parents, divided


def add_labels(data: Dataset, classes: Mapping[str, Sequence[str]]) -> Dataset:
    """Adds the column `<rank>_label`: the class, `IGNORED` for a missing name, `UNSEEN` and below for other taxa."""
    for rank, names in classes.items():
        column = data.select_columns([rank]).with_format("arrow")[:][rank]
        places = _places(column, names)
        others = LabelMaps({rank: pc.unique(column.filter(pa.array(places < 0))).to_pylist()}).names(rank)
        number = _places(column, others)  # among the names that are no class
        labels = np.where(places >= 0, places, np.where(number >= 0, UNSEEN - number, IGNORED))
        data = data.add_column(f"{rank}_label", labels)
    return data


def _places(column: pa.ChunkedArray, names: Sequence[str]) -> NDArray[np.int64]:
    """Place of each row's name in `names`, -1 where it is not there."""
    places = pc.index_in(column, value_set=pa.array(names, pa.string()))
    return pc.fill_null(places, MISSING).to_numpy().astype(np.int64)


# ---- batches --------------------------------------------------------------------------------------------------------


class TaxonCollator:
    """Makes batches of barcodes: `input_ids` and `attention_mask`, int64 (B, L), and `labels`, (B,) or (B, R).

    The reading frame of a barcode follows from the seed, the epoch (`set_epoch`) and the barcode's letters alone: it
    is the same in whatever batch, process or worker the barcode falls, and in a resumed run.

    Args:
        tokenizer: A `KmerTokenizer`.
        ranks: Those of the labels; with several, `labels` has one column for each.
        random_offset: Whether a barcode is read from its first, second, ... or k-th nucleotide on, drawn anew in each
            epoch; otherwise from the first.
        cut_padding: Whether a batch is only as long as its longest barcode. It changes an embedding that is the mean
            over all positions, and no other.
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
        self.tokenizer = tokenizer
        self.ranks = list(ranks)
        self.random_offset = random_offset
        self.cut_padding = cut_padding
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """The epochs differ in their reading frames; call this before each one begins."""
        self.epoch = epoch

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """A batch of rows that have a `dna_barcode`, and a `<rank>_label` for each rank."""
        barcodes = [feature["dna_barcode"] for feature in features]
        ids, attention_mask = self.tokenizer.encode_column(barcodes, offset=self._offsets(barcodes))  # both (B, L)
        if self.cut_padding:
            longest = max(int(attention_mask.sum(1).max()), 1)
            ids, attention_mask = ids[:, :longest], attention_mask[:, :longest]
        labels = torch.tensor([[feature[f"{rank}_label"] for rank in self.ranks] for feature in features])  # (B, R)
        return {
            "input_ids": torch.from_numpy(np.ascontiguousarray(ids)),
            "attention_mask": torch.from_numpy(np.ascontiguousarray(attention_mask, np.int64)),
            "labels": labels if len(self.ranks) > 1 else labels.squeeze(1),
        }

    def _offsets(self, barcodes: Sequence[str]) -> NDArray[np.int64] | int:
        """Nucleotides left out in front of each barcode, (B,)."""
        if not self.random_offset:
            return 0
        key = f"{self.seed}:{self.epoch}".encode()
        digests = b"".join(blake2b(barcode.encode(), digest_size=8, key=key).digest() for barcode in barcodes)
        lots = uniform(np.frombuffer(digests, np.dtype("<u8")).astype(np.uint64), 0, 1)[:, 0]
        return (lots * self.tokenizer.k).astype(np.int64)


def count_tokens(barcodes: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> NDArray[np.int64]:
    """Tokens (N,) that each barcode has when it is read from its first nucleotide; padding is not counted."""
    lengths = np.fromiter(map(len, barcodes), np.int64, len(barcodes))
    return np.minimum(lengths, tokenizer.max_nucleotides) // tokenizer.k


# ---- answers and metrics --------------------------------------------------------------------------------------------


@torch.no_grad()
def score_logits(logits: torch.Tensor, labels: torch.Tensor, model: Any) -> torch.Tensor:
    """What the metrics and the file of predictions need of a batch's logits: `SCORES`, float32 (B, R, 5).

    "id" and "probability" are the most probable class of each rank on its own and its softmax, "nats" the
    cross-entropy (NaN where the label is no class). The consistent ones imply each other down the tree, as
    `model.predict_taxa` says; for a classifier of one rank they are the same.

    Args:
        logits: (B, C), those of several ranks side by side.
        labels: (B,) or (B, R), as `add_labels` writes them.
        model: The classifier.
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
    scores: NDArray[np.float32], labels: NDArray[np.int64], classes: Mapping[str, Sequence[str]]
) -> tuple[Metrics, Metrics]:
    """Metrics of each rank on its own, and of the answers that imply each other (empty for one rank).

    Accuracy, F1, coverage (the share of the labelled specimens whose taxon is a class) and expected calibration error
    count a taxon that is no class as wrong; the cross-entropy, which has no value there, leaves it out. The macro
    accuracy is the balanced accuracy. A missing label counts nowhere.

    Args:
        scores: Of `score_logits`, (N, R, 5).
        labels: (N,) or (N, R), as `add_labels` writes them.
        classes: Rank -> names.
    """
    independent: Metrics = {}
    consistent: Metrics = {}
    for place, (rank, names) in enumerate(classes.items()):
        score, label = scores[:, place], labels.reshape(len(labels), -1)[:, place]
        references = np.where(label <= UNSEEN, len(names) + UNSEEN - label, np.where(label < 0, MISSING, label))
        nats = score[:, 2][label >= 0].astype(np.float64)
        independent[rank] = {
            **_metrics(score[:, 0], score[:, 1], references),
            "coverage": coverage(references, np.arange(len(names))),
            "cross_entropy_nats": float(nats.mean()) if len(nats) else None,
        }
        if len(classes) > 1:
            consistent[rank] = _metrics(score[:, 3], score[:, 4], references)
    return independent, consistent


def _metrics(
    ids: NDArray[np.float32], probabilities: NDArray[np.float32], references: NDArray[np.int64]
) -> dict[str, Any]:
    predictions = ids.astype(np.int64)
    return {
        **accuracy(predictions, references),
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
    """Writes a Parquet file of one row for each split, specimen and rank, whole or not at all.

    Columns: `processid`, `split`, `rank`, `name` and `probability` of the rank on its own, and `consistent_name` (null
    for "none of the classes") and `consistent_probability` of the answer that agrees with the other ranks.

    Args:
        predictions: Split -> processids, and scores (N, R, 5) of `score_logits`.
        classes: Rank -> names.
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
    path = Path(path)
    part = path.with_name(path.name + ".part")
    pq.write_table(pa.concat_tables(tables), part)
    os.replace(part, path)
