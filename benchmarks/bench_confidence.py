"""Claims: the confidences of `bioscan-hf identify` hold on real barcodes, and it names more of them than its peers.

    python benchmarks/bench_confidence.py bold_coi5p.csv.gz                         # 5 partitions, about 45 minutes
    python benchmarks/bench_confidence.py bold_coi5p.csv.gz --seeds 1 --peers 0     # a few minutes

For each seed, families, genera and species are held out at random; of the rest, two records of each species are reads
and the others are references. A library is made of the references alone, so nothing is chosen by the reads. Reads of
known species, and of species, genera and families that are new to the references, are named whole, cut to 313 and 200
nucleotides, on either strand, with an insertion or 2 % of wrong letters (12 variants), and four more ways; each
barcode counts once. They are mixed six ways. Foreign reads are random letters, reversed (but not complemented) and
shuffled barcodes, and pieces of the sequences of `--foreign`. Intervals are a bootstrap over species.

Peers (`identify_peers.py`) name the same reads by the same references: all of the mix "half new" at each length, and a
quarter of them with every change, since BLAST takes 0.15 CPU s a read. Differences to the peers have intervals, too:
the species of all partitions are drawn again together. IDTAXA and PROTAX are not in Debian or on PyPI.
The exit code is 1 if a claim is missed:
- of the deepest names at 95 %, at least 95 % are right, with a lower end of the interval of 93 %, in every cell;
- fewer than 0.1 % of foreign reads have such a name, and of barcodes on the other strand as few wrong ones;
- at 1 % wrong names, more reads are named than by each peer, at species, genus and family and every length;
- of all reads, as many are right as BLAST's interval allows, on every variant.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from identify_peers import RULE, Told, by_blast, by_sintax, by_vsearch, coverage, coverages
from identify_reads import LENGTHS, MIXES, PARTS, RANKS, Row, foreign, mixed, partition, pieces, rows_of, variants
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve

from bioscan_hf.dataset.sequences import read_sequences
from bioscan_hf.identification.formats import COLUMNS, Found
from bioscan_hf.identification.library import ReferenceLibrary
from bioscan_hf.provenance import write_results

LEAST = 0.95
COMPARED = ("family", "genus", "species")

#: Claims: shares of the deepest names that are right, its lower bound, of foreign reads that are named, and of wrong
#: names at which the coverage is compared.
RIGHT, LOWER, FOREIGN, ERROR = 0.95, 0.93, 0.001, 0.01


def interval(right: NDArray[np.bool_], species: Sequence[str | None], seed: int = 0) -> list[float] | None:
    """95 % interval of a share, by a bootstrap over species."""
    if not len(right):
        return None
    names, place = np.unique(np.array(species, dtype=str), return_inverse=True)
    good, every = np.bincount(place, right, len(names)), np.bincount(place, minlength=len(names))
    drawn = np.random.default_rng(seed).integers(0, len(names), (2000, len(names)))
    shares = good[drawn].sum(1) / every[drawn].sum(1)
    return [round(float(x), 4) for x in np.quantile(shares, [0.025, 0.975])]


def rounded(value: float) -> float:
    return round(float(value), 4)


class Partition:
    """References of one seed, their library, and the reads of each part."""

    def __init__(self, rows: Sequence[Row], seed: int) -> None:
        self.draw = random.Random(seed)
        references, parts = partition(rows, self.draw)
        table = pa.table({name: pa.array([row[name] for row in references], pa.large_string()) for name in COLUMNS})
        self.library = ReferenceLibrary.from_records(Found(table, {"records": "table"}), seed=seed)
        self.reads = [row for name in PARTS for row in parts[name]]
        ends = np.cumsum([0, *(len(parts[name]) for name in PARTS)])
        self.parts = {name: range(*ends[i : i + 2].tolist()) for i, name in enumerate(PARTS)}
        self.references = [row["dna_barcode"] or "" for row in references]
        every = {rank: sorted({row[rank] or "" for row in (*references, *self.reads)}) for rank in RANKS}
        number = {rank: {name: code for code, name in enumerate(names) if name} for rank, names in every.items()}
        self.taxa = {rank: np.array([number[rank].get(row[rank] or "", -1) for row in references]) for rank in RANKS}
        self.truth = {rank: np.array([number[rank].get(row[rank] or "", -2) for row in self.reads]) for rank in RANKS}
        self.number = number

    def ours(self, sequences: Sequence[str], some: Sequence[int]) -> tuple[pa.Table, Told]:
        """Answers for some reads, and the same as codes and scores."""
        start = time.perf_counter()
        answers = self.library.identify([sequences[i] for i in some], least=LEAST)
        seconds = time.perf_counter() - start
        codes = {r: np.array([self.number[r].get(name or "", -1) for name in answers[r].to_pylist()]) for r in RANKS}
        scores = {r: np.array(answers[f"{r}_confidence"].fill_null(0.0).to_pylist()) for r in RANKS}
        return answers, Told(codes, scores, seconds)

    def cell(self, sequences: Sequence[str], some: list[int]) -> dict[str, Any]:
        """Numbers of one mix of one variant: per rank, of the deepest names, and of what is told to be new."""
        answers, told = self.ours(sequences, some)
        found: dict[str, Any] = {"reads": len(some), "novel_share": float(answers.schema.metadata[b"novel_share"])}
        species = [self.reads[i]["species"] for i in some]
        deepest, good = np.zeros(len(some), np.bool_), np.zeros(len(some), np.bool_)
        for rank in RANKS:
            right, sure = told.codes[rank] == self.truth[rank][some], told.scores[rank]
            found[rank] = scores_of(right, sure, told.codes[rank] >= 0)
            named = sure >= LEAST
            deepest, good = deepest | named, np.where(named, right, good)
        found["deepest"] = {
            "named": rounded(deepest.mean()),
            "right_of_named": rounded(good[deepest].mean()) if deepest.any() else None,
            "interval": interval(good[deepest], [species[i] for i in np.flatnonzero(deepest)]),
        }
        return found | self.novelty(answers, some)

    def novelty(self, answers: pa.Table, some: list[int]) -> dict[str, Any]:
        """Area under the curve, and false alarms at 95 % found, of `species_new` and of 1 - identity.

        Every species counts once, so that a species with many reads decides no more than another.
        """
        new = np.array([i not in self.parts["known"] for i in some])
        if new.all() or not new.any():
            return {}
        species = [self.reads[i]["species"] for i in some]
        counts = {name: species.count(name) for name in set(species)}
        weight = np.array([1 / counts[name] for name in species])
        scores = {
            "species_new": np.array(answers["species_new"].fill_null(1.0).to_pylist()),
            "distance": 1 - np.array(answers["identity"].fill_null(0.0).to_pylist()),
        }
        found = {}
        for name, score in scores.items():
            false, true, _ = roc_curve(new, score, sample_weight=weight)
            area = roc_auc_score(new, score, sample_weight=weight)
            found[name] = {"auroc": rounded(area), "fpr95": rounded(false[true >= 0.95][0])}
        return {"novelty": found}


def scores_of(right: NDArray[np.bool_], sure: NDArray[np.float64], there: NDArray[np.bool_]) -> dict[str, Any]:
    """Brier score, log score, reliability and shares of the names at one rank."""
    named = sure >= LEAST
    inside = sure.clip(1e-4, 1 - 1e-4)
    edges = np.array([0, 0.2, 0.5, 0.8, 0.9, 0.95, 0.99, 1.0001])
    place = np.digitize(sure, edges) - 1
    return {
        "right": rounded(right.mean()),
        "error_at_full_coverage": rounded(1 - right[there].mean()) if there.any() else None,
        "mean_confidence": rounded(sure.mean()),
        "brier": rounded(((sure - right) ** 2).mean()),
        "log_score": rounded(np.where(right, np.log(inside), np.log(1 - inside)).mean()),
        "named": rounded(named.mean()),
        "right_of_named": rounded(right[named].mean()) if named.any() else None,
        "reliability": [
            [int((place == i).sum()), rounded(sure[place == i].mean()), rounded(right[place == i].mean())]
            for i in range(len(edges) - 1)
            if (place == i).any()
        ],
    }


# ---- against peers ------------------------------------------------------------------------------------------------


@dataclass
class Scored:
    """Answers of one program for n reads at one rank: right or not, score, and the species of each."""

    right: NDArray[np.bool_]
    score: NDArray[np.float64]
    species: Sequence[str | None]

    def summary(self) -> dict[str, Any]:
        return {
            "coverage": rounded(coverage(self.right, self.score, ERROR)),
            "right": rounded(self.right.mean()),
            "interval": interval(self.right, self.species),
        }


#: Variant -> rank -> program -> its answers in each partition.
Answers = dict[str, dict[str, dict[str, list[Scored]]]]


def compared(
    part: Partition, variant: str, sequences: Sequence[str], some: list[int], kept: Answers
) -> dict[str, Any]:
    """Coverage at 1 % wrong names, and share right of all reads, of each program on the same reads.

    Args:
        kept: Gets the answers of each program.
    """
    reads, species = [sequences[i] for i in some], [part.reads[i]["species"] for i in some]
    told = {
        "ours": part.ours(sequences, some)[1],
        "vsearch": by_vsearch(part.references, part.taxa, reads),
        "sintax": by_sintax(part.references, part.taxa, reads),
    }
    bands = list(by_blast(part.references, part.taxa, reads).values())
    found: dict[str, Any] = {name: {"seconds": round(one.seconds, 2)} for name, one in told.items()}
    found["blast"] = {"seconds": round(bands[0].seconds, 2)}
    for rank in COMPARED:
        truth = part.truth[rank][some]

        def scored(one: Told, rank: str = rank, truth: NDArray[np.int64] = truth) -> Scored:
            return Scored(one.codes[rank] == truth, one.scores[rank], species)

        every = {name: scored(one) for name, one in told.items()}
        widths = [scored(one) for one in bands]  # the best for BLAST at 1 % wrong names, and of all names
        every["blast"] = max(widths, key=lambda one: coverage(one.right, one.score, ERROR))
        for name, one in every.items():
            found[name][rank] = one.summary()
            kept.setdefault(variant, {}).setdefault(rank, {}).setdefault(name, []).append(one)
        best = max(widths, key=lambda one: float(one.right.mean())).summary()
        found["blast"][rank] = best | {"coverage": found["blast"][rank]["coverage"]}
    for rank, least in RULE.items():
        named = told["vsearch"].scores[rank] >= least
        right = told["vsearch"].codes[rank] == part.truth[rank][some]
        found["vsearch"][f"{rank}, {least:.0%} rule"] = {
            "named": rounded(named.mean()),
            "right_of_named": rounded(right[named].mean()) if named.any() else None,
        }
    return found


def differences(kept: Answers, times: int = 1000) -> dict[str, Any]:
    """Variant -> rank -> peer -> how much more we name at 1 % wrong: mean of the partitions, and 95 % interval.

    A species that is drawn again is drawn in every partition, since partitions share barcodes.
    """
    found: dict[str, Any] = {}
    for variant, ranks in kept.items():
        for rank, programs in ranks.items():
            names = sorted({str(name) for one in programs["ours"] for name in one.species})
            number = {name: place for place, name in enumerate(names)}
            weight = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), times)
            weight[0] = 1  # the reads themselves
            own: dict[str, NDArray[np.float64]] = {}
            for program, parts in programs.items():
                drawn = [weight[:, [number[str(name)] for name in one.species]] for one in parts]
                every = zip(parts, drawn, strict=True)
                own[program] = np.mean([coverages(one.right, one.score, many, ERROR) for one, many in every], axis=0)
            for peer in (name for name in programs if name != "ours"):
                ahead = own["ours"] - own[peer]
                low, high = np.quantile(ahead[1:], [0.025, 0.975])
                told = {"mean": rounded(ahead[0]), "interval": [rounded(low), rounded(high)]}
                found.setdefault(variant, {}).setdefault(rank, {})[peer] = told
    return found


# ---- runs ---------------------------------------------------------------------------------------------------------


def run(rows: Sequence[Row], seed: int, others: Mapping[str, str], kept: Answers | None) -> dict[str, Any]:
    """All cells of one partition.

    Args:
        kept: Gets the answers of the peers, which are not run for None.
    """
    part = Partition(rows, seed)
    found: dict[str, Any] = {
        "references": {"records": len(part.library), "species": len(part.library.taxa["species"])},
        "reads": {name: len(reads) for name, reads in part.parts.items()},
        "cells": {},
        "peers": {},
    }
    for variant, change in variants().items():
        sequences = [change(row["dna_barcode"] or "", part.draw) for row in part.reads]
        for mix, shares in MIXES.items():
            found["cells"][f"{variant}, {mix}"] = part.cell(sequences, mixed(part.parts, shares))
        some = mixed(part.parts, MIXES["half new"])
        if kept is not None and variant.endswith("as they are"):
            found["peers"][variant] = compared(part, variant, sequences, some, kept)
        elif kept is not None and variant.startswith("whole"):
            found["peers"][variant] = compared(part, variant, sequences, some[::4], kept)
    known = [part.reads[i]["dna_barcode"] or "" for i in part.parts["known"]]
    kinds = foreign(known, part.draw) | {name: pieces(sequence, part.draw) for name, sequence in others.items()}
    found["foreign"] = {}
    for kind, reads in kinds.items():
        names = part.library.identify(reads, least=LEAST)["name"]
        found["foreign"][kind] = {"reads": len(reads), "named": len(names) - names.null_count}
    return found


def missed(metrics: Mapping[str, Mapping[str, Any]], ahead: Mapping[str, Any]) -> list[str]:
    """The claims that do not hold.

    Args:
        ahead: As `differences`.
    """
    found = []
    for seed, result in metrics.items():
        for cell, values in result["cells"].items():
            deepest = values["deepest"]
            if deepest["interval"] and (deepest["right_of_named"] < RIGHT or deepest["interval"][0] < LOWER):
                found.append(f"{seed}, {cell}: {deepest['right_of_named']:.1%} right, {deepest['interval']}")
    kinds = [(kind, values) for result in metrics.values() for kind, values in result["foreign"].items()]
    reads, named = (sum(values[what] for _, values in kinds) for what in ("reads", "named"))
    if named > FOREIGN * reads:
        found.append(f"{named} of {reads} foreign reads have a sure name")
    return found + _behind(metrics, ahead)


def _behind(metrics: Mapping[str, Mapping[str, Any]], ahead: Mapping[str, Any]) -> list[str]:
    """Claims against peers that do not hold, on the mean of all seeds."""
    found, measured = [], [result["peers"] for result in metrics.values() if result["peers"]]

    def mean(variant: str, name: str, rank: str, what: str) -> float:
        return float(np.mean([peers[variant][name][rank][what] for peers in measured]))

    for variant in measured[0] if measured else ():
        for rank in COMPARED:
            if variant in {f"{length}, as they are" for length in LENGTHS}:
                own = mean(variant, "ours", rank, "coverage")
                for name, difference in ahead[variant][rank].items():
                    if difference["mean"] < 0:
                        low, high = (f"{100 * end:.1f}" for end in difference["interval"])
                        text = f"{own:.1%}, {name} {mean(variant, name, rank, 'coverage'):.1%}"
                        points = f"difference {100 * difference['mean']:.1f} points, 95 % interval {low} to {high}"
                        found.append(f"{variant}, {rank} at 1 % wrong: {text} ({points})")
            lowest = float(np.mean([peers[variant]["blast"][rank]["interval"][0] for peers in measured]))
            own = mean(variant, "ours", rank, "right")
            if own < lowest:
                found.append(f"{variant}, {rank}: {own:.1%} right, BLAST at least {lowest:.1%}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="table in BIOSCAN-5M columns, .csv.gz")
    parser.add_argument("--foreign", type=Path, help="FASTA of sequences that are not of insects")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--peers", type=int, default=5, metavar="N", help="first seeds with vsearch and BLAST+")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results/confidence.json")
    args = parser.parse_args()
    start = time.perf_counter()
    rows, others = rows_of(args.source), {}
    if args.foreign is not None:
        table = read_sequences(args.foreign, clean="any")
        others = dict(zip(table["processid"].to_pylist(), table["dna_barcode"].to_pylist(), strict=True))
    metrics: dict[str, Any] = {}
    kept: Answers = {}
    failures: list[str] = []
    for seed in range(1, args.seeds + 1):
        metrics[f"seed {seed}"] = run(rows, seed, others, kept if seed <= args.peers else None)
        ahead = differences(kept)
        failures = missed(metrics, ahead)
        print(f"seed {seed}: {time.perf_counter() - start:.0f} s", flush=True)
        write_results(  # after each seed, so that a cut leaves what was done
            args.output,
            task="benchmark/confidence",
            options={"least": LEAST, "seeds": seed, "peers": min(seed, args.peers)},
            claims={"right": RIGHT, "lower": LOWER, "foreign": FOREIGN, "error": ERROR},
            dataset=args.source.name,
            seconds=round(time.perf_counter() - start),
            missed=failures,
            differences=ahead,
            metrics=metrics,
        )
    print(*failures, sep="\n")
    return int(bool(failures))


if __name__ == "__main__":
    raise SystemExit(main())
