"""What clusters hold, as two tables: one row a cluster, and one row a specimen that is likely to be mislabelled.

The rules are plain and deterministic; they are written beside the tables, because a list of suspects without its rule
is of no use. They suggest what to look at: a cluster is no species, and a suspect is no error.
Shape letters: N = specimens, C = clusters, D = embedding size.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..files import write_text
from ..schema import LABEL_COLUMNS

#: The cluster of specimens that belong to none (HDBSCAN's noise).
NOISE = -1

CLUSTERS_FILE, SUSPECTS_FILE, RULES_FILE = "cluster_report.csv", "likely_mislabelled.csv", "cluster_report_rules.json"


@dataclass(frozen=True)
class Limits:
    """Numbers in the rules.

    Attributes:
        new_size: Specimens that a cluster needs to be a likely new species.
        new_known: Share of them whose BIN (or genus) has to be known.
        new_share: Share of those that have to be of one BIN (or genus).
        pure_count: Specimens of the cluster's species that speak against another name in it.
        pure_share: Their share of the cluster's specimens with a species name.
    """

    new_size: int = 3
    new_known: float = 0.5
    new_share: float = 0.9
    pure_count: int = 4
    pure_share: float = 0.8


@dataclass(frozen=True)
class Report:
    """Rows of both tables, and the rules in words and numbers."""

    clusters: list[dict[str, Any]]
    suspects: list[dict[str, Any]]
    rules: dict[str, str]
    limits: Limits


def cluster_report(
    clusters: ArrayLike,
    labels: Mapping[str, Sequence[str | None]],
    processids: Sequence[str],
    embeddings: ArrayLike | None = None,
    *,
    limits: Limits | None = None,
) -> Report:
    """What each cluster holds, and which specimens are likely mislabelled; see `rules_of` for the rules.

    Args:
        clusters: Cluster of each specimen (N,); -1 is noise, which has a row and is never judged.
        labels: Rank, or "dna_bin", -> names (N,), None where unknown. "species" has to be there.
        embeddings: (N, D), of which distances are told; without them no cluster is called a likely new species.
        limits: None is `Limits()`.

    Returns:
        `clusters`, the largest first: cluster, size; for each rank its most frequent name (the first in the alphabet
        of equally frequent ones), the share of that among the specimens with a name, and their number; purity (that
        share of species; None without a species name), species, bins (numbers of names), effective_species (2 to the
        entropy: 1 if pure, k for k equally frequent species), purest_place and mixed_place (1 is the purest and the
        most mixed; clusters with two named specimens or more are placed), nearest_named (distance from its centre to
        that of the nearest other cluster with species names), likely_new_species and note (which condition it fails,
        of clusters without a species name).
        `suspects`: processid, cluster, its species, that of the cluster, and how often either is there.

    Raises:
        ValueError: for no specimen, inputs of different lengths, a processid that stands twice, no species among the
            labels, or embeddings that are not finite.
    """
    ids = np.asarray(clusters)
    _check(ids, labels, processids)
    vectors = None if embeddings is None else np.asarray(embeddings, np.float64)
    if vectors is not None and (vectors.ndim != 2 or len(vectors) != len(ids) or not np.isfinite(vectors).all()):
        raise ValueError(f"embeddings must be finite, and (N, D) of {len(ids)} specimens; got {vectors.shape}.")
    limits = limits or Limits()
    members = _members(ids)
    counts = {
        cluster: {rank: Counter(n for row in rows if (n := labels[rank][row]) is not None) for rank in labels}
        for cluster, rows in members.items()
    }
    far, nearest = _distances(members, counts, vectors)
    rows = []
    for cluster in sorted(members, key=lambda c: (-len(members[c]), c)):
        row: dict[str, Any] = {"cluster": cluster, "size": len(members[cluster])}
        for rank in (rank for rank in LABEL_COLUMNS if rank in labels):
            name, share = _top(counts[cluster][rank])
            row |= {rank: name, f"{rank}_share": share, f"{rank}_named": counts[cluster][rank].total()}
        named = counts[cluster]["species"]
        row |= {"purity": _top(named)[1], "species_names": len(named), "bins": len(counts[cluster].get("dna_bin", ()))}
        row["effective_species"] = _effective(named)
        row |= {"purest_place": None, "mixed_place": None, "nearest_named": nearest.get(cluster)}
        row["likely_new_species"], row["note"] = _judged(cluster, row, counts[cluster], far, limits)
        rows.append(row)
    _place(rows)
    return Report(rows, _suspects(members, counts, labels, processids, limits), rules_of(limits, far), limits)


def write_report(folder: str | Path, report: Report) -> list[Path]:
    """Writes both tables as CSV and the rules beside them, each whole or not at all; returns the three paths."""
    folder = Path(folder)
    empty = ["processid", "cluster", "species", "cluster_species"]
    contents = {
        CLUSTERS_FILE: _csv(report.clusters[0], report.clusters),
        SUSPECTS_FILE: _csv(report.suspects[0] if report.suspects else empty, report.suspects),
        RULES_FILE: json.dumps({"rules": report.rules, "limits": asdict(report.limits)}, indent=2) + "\n",
    }
    for name, text in contents.items():
        write_text(folder / name, text)
    return [folder / name for name in contents]


def rules_of(limits: Limits, far: float | None = None) -> dict[str, str]:
    """The rules in words, by what they decide.

    Args:
        far: The distance from which on a cluster is far from named ones.
    """
    distance = "not known, so no cluster qualifies" if far is None else f"{far:.6g}"
    return {
        "purity": "share of the most frequent species among the cluster's specimens with a species name",
        "effective_species": "2 to the entropy (in bits) of the cluster's species names",
        "purest_place": "by purity, then by the number of named specimens; clusters with two of them or more",
        "mixed_place": "by effective_species, then by the number of named specimens; the same clusters",
        "likely_new_species": (
            f"a cluster of {limits.new_size} specimens or more; none has a species name; the BIN (where it is known "
            f"of fewer than {limits.new_known:.0%} of them, the genus) is known of {limits.new_known:.0%} or more and "
            f"the same for {limits.new_share:.0%} of those; its centre is at least as far from the nearest centre of "
            f"a cluster with species names as clusters with species names are from each other (median of their "
            f"distances to the nearest other one, here {distance})"
        ),
        "likely_mislabelled": (
            f"a specimen whose species is not the cluster's, where {limits.pure_count} specimens or more, and "
            f"{limits.pure_share:.0%} or more of those with a species name, are of one species"
        ),
    }


def _check(ids: NDArray[Any], labels: Mapping[str, Sequence[str | None]], processids: Sequence[str]) -> None:
    if ids.ndim != 1 or not len(ids) or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"clusters must be integers (N,), one specimen or more; got {ids.dtype} {ids.shape}.")
    if "species" not in labels:
        raise ValueError(f"labels must hold 'species'; got {', '.join(labels) or 'none'}.")
    strange = [rank for rank in labels if rank not in LABEL_COLUMNS]
    if strange:
        raise ValueError(f"Unknown rank {strange[0]!r} among the labels: there is {', '.join(LABEL_COLUMNS)}.")
    sizes = {"processids": len(processids)} | {rank: len(names) for rank, names in labels.items()}
    wrong = {name: size for name, size in sizes.items() if size != len(ids)}
    if wrong:
        raise ValueError(f"There are {len(ids)} clusters of specimens, but {wrong}. Give one of each for a specimen.")
    repeated = [name for name, count in Counter(processids).items() if count > 1]
    if repeated:
        raise ValueError(f"The processid {repeated[0]!r} and {len(repeated) - 1} more stand twice. Give each once.")


def _members(ids: NDArray[Any]) -> dict[int, NDArray[np.int64]]:
    """Cluster -> its rows, in order."""
    order = np.argsort(ids, kind="stable")
    names, starts = np.unique(ids[order], return_index=True)
    return dict(zip(names.tolist(), np.split(order, starts[1:]), strict=True))


def _top(names: Counter[str]) -> tuple[str | None, float | None]:
    """The most frequent name and its share; None if there is none."""
    if not names:
        return None, None
    name = min(names, key=lambda one: (-names[one], one))
    return name, names[name] / names.total()


def _effective(names: Counter[str]) -> float | None:
    if not names:
        return None
    return 2.0 ** -sum(count / names.total() * math.log2(count / names.total()) for count in names.values())


def _distances(
    members: Mapping[int, NDArray[np.int64]],
    counts: Mapping[int, Mapping[str, Counter[str]]],
    vectors: NDArray[np.float64] | None,
) -> tuple[float | None, dict[int, float]]:
    """The distance that counts as far, and cluster -> distance to the nearest other cluster with species names."""
    found = [cluster for cluster in members if cluster != NOISE]
    named = [cluster for cluster in found if counts[cluster]["species"]]
    if vectors is None or not named:
        return None, {}
    from sklearn.neighbors import NearestNeighbors

    centres = {cluster: vectors[members[cluster]].mean(axis=0) for cluster in found}
    search = NearestNeighbors(n_neighbors=min(2, len(named))).fit(np.stack([centres[cluster] for cluster in named]))
    distances, places = search.kneighbors(np.stack([centres[cluster] for cluster in found]))
    nearest = {}
    for cluster, of_cluster, at in zip(found, distances, places, strict=True):
        others = [float(d) for d, place in zip(of_cluster, at, strict=True) if named[place] != cluster]
        if others:
            nearest[cluster] = others[0]
    between = [nearest[cluster] for cluster in named if cluster in nearest]
    return (float(np.median(between)) if between else None), nearest


def _judged(
    cluster: int, row: Mapping[str, Any], counts: Mapping[str, Counter[str]], far: float | None, limits: Limits
) -> tuple[bool, str]:
    """Whether it is a likely new species, and of a cluster without a species name why not."""
    if cluster == NOISE:
        return False, "noise"
    if counts["species"]:
        return False, ""
    if row["size"] < limits.new_size:
        return False, f"fewer than {limits.new_size} specimens"
    known = limits.new_known * row["size"]
    rank = next((rank for rank in ("dna_bin", "genus") if rank in counts and counts[rank].total() >= known), None)
    if rank is None:
        return False, "BIN and genus mostly unknown"
    share = _top(counts[rank])[1]
    if share is None or share < limits.new_share:
        return False, f"several {'BINs' if rank == 'dna_bin' else 'genera'}"
    if far is None:
        return False, "no distance to compare with"
    if row["nearest_named"] is None or row["nearest_named"] < far:
        return False, "near a cluster with species names"
    return True, f"one {'BIN' if rank == 'dna_bin' else 'genus'}"


def _place(rows: Iterable[dict[str, Any]]) -> None:
    """Fills in the places of the clusters that have two named specimens or more."""
    placed = [row for row in rows if row["species_named"] >= 2 and row["cluster"] != NOISE]
    for place, row in enumerate(sorted(placed, key=lambda r: (-r["purity"], -r["species_named"], r["cluster"])), 1):
        row["purest_place"] = place
    mixed = sorted(placed, key=lambda r: (-round(r["effective_species"], 9), -r["species_named"], r["cluster"]))
    for place, row in enumerate(mixed, 1):
        row["mixed_place"] = place


def _suspects(
    members: Mapping[int, NDArray[np.int64]],
    counts: Mapping[int, Mapping[str, Counter[str]]],
    labels: Mapping[str, Sequence[str | None]],
    processids: Sequence[str],
    limits: Limits,
) -> list[dict[str, Any]]:
    """Specimens with another species than their cluster's, those against the most specimens first."""
    everywhere = Counter(name for name in labels["species"] if name is not None)
    found = []
    for cluster, rows in members.items():
        named = counts[cluster]["species"]
        species, share = _top(named)
        if cluster == NOISE or species is None or share is None:
            continue
        if named[species] < limits.pure_count or share < limits.pure_share:
            continue
        bins = counts[cluster].get("dna_bin", Counter())
        for row in rows:
            name = labels["species"][row]
            if name is None or name == species:
                continue
            suspect = {"processid": processids[row], "cluster": cluster, "species": name, "cluster_species": species}
            suspect |= {"of_cluster_species": named[species], "of_its_species": named[name]}
            suspect["of_its_species_elsewhere"] = everywhere[name] - named[name]
            if "dna_bin" in labels:
                suspect |= {"dna_bin": labels["dna_bin"][row], "cluster_bin": _top(bins)[0]}
            found.append(suspect)
    return sorted(found, key=lambda s: (-s["of_cluster_species"], s["of_its_species"], s["cluster"], s["processid"]))


def _csv(columns: Iterable[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """Numbers of four decimals at most; empty where there is none; yes and no in words."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(columns), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(value) for name, value in row.items()})
    return buffer.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
