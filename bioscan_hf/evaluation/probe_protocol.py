"""The probe of embeddings on disk: data, leaks, accuracies with intervals, novel species, and curves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..dataset.load import rows_of
from ..dataset.request import MissingSplit
from ..encoders.stored import load_embeddings
from ..files import replacing
from ..schema import LABEL_COLUMNS
from .knn_curve import VOTES, curve_figure, knn_curve
from .leaks import Leaks, find_leaks
from .open_set import open_set_scores
from .probing import BARCODE_QUESTIONS, knn_probe, linear_probe, novel_species, probe_barcodes

SPLITS = ("train", "test", "test_unseen")


@dataclass(frozen=True)
class KnnOptions:
    """Options of the nearest-neighbour probe; `temperature` 0 is votes of equal weight."""

    k: int
    metric: str
    temperature: float

    def used(self) -> dict[str, Any]:
        """Arguments of `knn_probe`. One neighbour has no votes, so no temperature."""
        return {"k": self.k, "metric": self.metric, "temperature": self.temperature or None if self.k > 1 else None}


@dataclass(frozen=True)
class ProbeData:
    """Embeddings and label ids of the splits, and the leaks of the test splits.

    Attributes:
        embeddings: Split -> (n, D).
        labels: Split -> rank -> ids (n,).
        leaks: Test split -> barcodes that are in train.
        left_out: Split -> specimens whose embedding is not valid, such as of a barcode without a whole token.
    """

    embeddings: Mapping[str, NDArray[np.float32]]
    labels: Mapping[str, Mapping[str, NDArray[np.int64]]]
    leaks: Mapping[str, Leaks]
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def sizes(self) -> dict[str, int]:
        """Split -> its specimens."""
        return {split: len(rows) for split, rows in self.embeddings.items()}

    def told(self) -> Iterator[str]:
        """A line for each split with specimens left out, and for each test split with leaks."""
        for split, count in self.left_out.items():
            if count:
                yield f"Left out of {split}: {count:,} without a valid embedding."
        for split, leaks in self.leaks.items():
            if leaks.any.any():
                yield (
                    f"Leaks of {split}: {leaks.exact.sum():,} of {len(leaks.any):,} equal one of train, and "
                    f"{leaks.substring.sum():,} contain one or are in one. Other copies: {leaks.copies.told()}."
                )

    def without_leaks(self) -> ProbeData:
        """The data without the leaks."""
        keep = {split: ~self.leaks[split].any if split in self.leaks else slice(None) for split in self.embeddings}
        return ProbeData(
            {split: rows[keep[split]] for split, rows in self.embeddings.items()},
            {split: {rank: ids[keep[split]] for rank, ids in of.items()} for split, of in self.labels.items()},
            {split: Leaks(*(mask[keep[split]] for mask in leaks)) for split, leaks in self.leaks.items()},
            self.left_out,
        )


def load_probe(source: str | Path, embeddings: Path, labels: str | Path | None = None) -> ProbeData:
    """Valid embeddings of train, test and test_unseen, and the labels and leaks of their specimens.

    A test split that the source does not have is left out.

    Args:
        source: As in `load_bioscan5m`, the dataset of the embeddings.
        embeddings: Folder with one folder per split.
        labels: As in `load_bioscan5m`.

    Raises:
        ValueError: if a specimen is not in that split of the source, or a split has no valid embedding.
    """
    vectors, ids, barcodes, left_out = {}, {}, {}, {}
    for split in SPLITS:
        if not (embeddings / split).is_dir():
            if split != "train" and _is_absent(source, split):
                continue
            raise FileNotFoundError(
                f"No embeddings of {split!r} in {str(embeddings)!r}: run `bioscan-hf embed` for it first."
            )
        found = load_embeddings(embeddings / split)
        kept, processids = found.valid, np.array(found.processids, object)[found.valid].tolist()
        if not processids:
            raise ValueError(f"No specimen of {split} has a valid embedding: embed it with another model.")
        table = rows_of(source, split, processids, ["dna_barcode"], LABEL_COLUMNS, labels)
        vectors[split], left_out[split] = found.embeddings[kept], int((~kept).sum())
        barcodes[split] = [one or "" for one in table["dna_barcode"].to_pylist()]
        ids[split] = {rank: table[f"{rank}_index"].to_numpy() for rank in LABEL_COLUMNS}
    tests = [split for split in SPLITS[1:] if split in vectors]
    if not tests:
        raise ValueError(f"{str(source)!r} has no split {' or '.join(SPLITS[1:])}, so there is nothing to test.")
    leaks = {split: find_leaks(barcodes["train"], barcodes[split]) for split in tests}
    return ProbeData(vectors, ids, leaks, left_out)


def _is_absent(source: str | Path, split: str) -> bool:
    try:
        rows_of(source, split, [], [])
    except MissingSplit:
        return True
    return False


@dataclass(frozen=True)
class ProbeReport:
    """Results of a probe.

    Attributes:
        metrics: Question -> metrics of `probe_metrics`.
        novelty: Scores of `novel_species`.
        leaks: Test split -> kind of leak -> number of barcodes, before any were left out.
        curves: Question -> rows of `knn_curve`; empty without.
        unanswered: Question -> why it was not asked.
    """

    metrics: Mapping[str, Mapping[str, Any]]
    novelty: Mapping[str, Any]
    leaks: Mapping[str, Mapping[str, int]]
    curves: Mapping[str, list[dict[str, Any]]]
    unanswered: Mapping[str, str] = field(default_factory=dict)

    def content(self) -> dict[str, Any]:
        """Entries of the results file."""
        found = {"metrics": self.metrics, "novel_species": self.novelty, "leaks": self.leaks}
        more = {"curves": self.curves, "unanswered": self.unanswered}
        return found | {name: value for name, value in more.items() if value}

    def lines(self) -> Iterator[str]:
        """Accuracies with their intervals, novel species, and a table of each curve, in at most 80 columns."""
        yield f"{'':22} {'accuracy':>8}  {'95% interval':<17} {'test':>9} {'train':>9}"
        for name, value in self.metrics.items():
            ends = value["micro_accuracy_interval"]
            interval = f"{ends[0]:.1%} to {ends[1]:.1%}" if ends else ""
            rows = f"{value['n_test']:>9,} {value['n_train']:>9,}"
            yield f"{name:<22} {percent(value['micro_accuracy']):>8}  {interval:<17} {rows}"
        for name, why in self.unanswered.items():
            yield f"{name:<22} {percent(None):>8}  {why}"
        if self.novelty["auroc"] is not None:
            auroc, passing = self.novelty["auroc"], self.novelty["fpr_at_95"]
            yield f"Novel species: AUROC {auroc:.1%}, FPR95 {passing:.1%}"
        for name, curve in self.curves.items():
            yield f"{name}, by neighbours"
            yield f"{'neighbours':>10}" + "".join(f"{votes:>18}" for votes in VOTES)
            shares = {(row["k"], row["votes"]): row["micro_accuracy"] for row in curve}
            for k in sorted({row["k"] for row in curve}):
                yield f"{k:>10}" + "".join(f"{percent(shares[k, votes]):>18}" for votes in VOTES)


def evaluate_probe(
    data: ProbeData, probe: str, options: Mapping[str, Any], *, curve: bool = False, without_leaks: bool = False
) -> ProbeReport:
    """Task I of BIOSCAN-5M on frozen embeddings.

    Questions of an absent split are not asked, nor those at a rank with no name in train, or for "linear" only one.

    Args:
        probe: "knn" or "linear".
        options: Of `knn_probe` or `linear_probe`.
        curve: For "knn": also give `knn_curve` of each question with labels.
        without_leaks: Whether test barcodes that are in train are left out.

    Raises:
        ValueError: as the probes, and if no test barcode or no question is left.
    """
    leaks = {split: found.counts() for split, found in data.leaks.items()}
    if without_leaks:
        data = data.without_leaks()
        if empty := [split for split, size in data.sizes.items() if not size]:
            raise ValueError(f"Every barcode of {empty[0]} is in train: without leaks there is nothing to test.")
    run = linear_probe if probe == "linear" else knn_probe
    train = {rank: len(np.unique(ids[ids >= 0])) for rank, ids in data.labels["train"].items()}
    unanswered = {}
    for split, rank in BARCODE_QUESTIONS:
        if split not in data.embeddings:
            unanswered[f"{rank} of {split}"] = f"the dataset has no {split}"
        elif train[rank] < (2 if probe == "linear" else 1):
            unanswered[f"{rank} of {split}"] = f"train has {train[rank] or 'no'} {rank}"
    questions = [(split, rank) for split, rank in BARCODE_QUESTIONS if f"{rank} of {split}" not in unanswered]
    if not questions:
        raise ValueError(f"There is nothing to ask: {'; '.join(dict.fromkeys(unanswered.values()))}.")
    metrics = probe_barcodes(data.embeddings, data.labels, probe=run, questions=questions, **options)
    novelty = open_set_scores([], [])
    if len(data.leaks) == 2 and ("test", "species") in questions:
        novelty = novel_species(data.embeddings, data.labels, probe=run, **options)
    curves = {}
    for split, rank in questions if curve else ():
        if metrics[f"{rank} of {split}"]["n_test"]:
            curves[f"{rank} of {split}"] = knn_curve(
                data.embeddings["train"],
                data.labels["train"][rank],
                data.embeddings[split],
                data.labels[split][rank],
                metric=options["metric"],
            )
    return ProbeReport(metrics, novelty, leaks, curves, unanswered)


def write_curves(path: Path, curves: Mapping[str, list[dict[str, Any]]]) -> None:
    """Writes the picture of the curves of a `ProbeReport`, a PNG file."""
    from ..plots import png  # matplotlib takes a second to import

    with replacing(path) as part:
        Path(part).write_bytes(png(curve_figure(curves)))


def percent(share: float | None) -> str:
    """A share as a person reads it."""
    return "no data" if share is None else f"{share:.1%}"
