"""Tables of the clusters and of the specimens that are likely mislabelled.

The rules are deterministic, and are written beside the tables. They suggest what to check: a cluster is not a species,
and a suspect is not necessarily an error.
Shape letters: N = specimens, C = clusters, D = embedding size.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import entropy
from sklearn.neighbors import NearestNeighbors

from ..files import write_json, writing
from ..schema import LABEL_COLUMNS
from .agreement import check_labels

#: Cluster of the specimens that belong to none: the noise of HDBSCAN.
NOISE = -1

#: Files of the two tables and of the rules.
REPORT_FILES = ("cluster_report.csv", "likely_mislabelled.csv", "cluster_report_rules.json")

#: Specimens that a likely new species needs; the share of them with a known BIN (or genus); and the share of those
#: with the same one.
NEW_SIZE, NEW_KNOWN, NEW_SHARE = 3, 0.5, 0.9

#: Share of the clusters with species names that are nearer to another one than a likely new species may be.
NEW_NEARER = 0.1

#: Specimens of the cluster's species that make another name in it a suspect; and their share of the named specimens.
PURE_COUNT, PURE_SHARE = 4, 0.8


@dataclass(frozen=True)
class Report:
    """Rows of both tables, and the rules."""

    clusters: list[dict[str, Any]]
    suspects: list[dict[str, Any]]
    rules: dict[str, str]


def cluster_report(
    clusters: ArrayLike,
    labels: Mapping[str, Sequence[str | None]],
    processids: Sequence[str],
    embeddings: ArrayLike | None = None,
) -> Report:
    """Contents of each cluster, and likely mislabelled specimens, by `rules_of`.

    Raises ValueError if there are no specimens, the inputs have different lengths, a processid is repeated, the labels
    have no species, or embeddings are not finite.

    Args:
        clusters: Cluster of each specimen (N,). The noise, -1, has a row and no judgement.
        labels: Rank, or "dna_bin", -> names (N,), None where unknown. "species" is required.
        embeddings: (N, D), for distances. Without them, no cluster is called a likely new species.

    Returns:
        `clusters`, the largest first: cluster and size; for each rank its most frequent name (of equally frequent
        ones, the first in alphabetical order), its share of the specimens with a name, and their number; purity (that
        share for species), species_names and bins (numbers of names), effective_species (2 to the entropy: k for k
        equally frequent species), purest_place and mixed_place (1 is the purest and the most mixed), nearest_named
        (distance of its centre from the nearest centre of another cluster with species names), likely_new_species, and
        note (the rule that a cluster without a species name fails).
        `suspects`: processid, cluster, its species, the cluster's species, and how many specimens have each.
    """
    ids = np.asarray(clusters)
    if ids.ndim != 1 or not len(ids) or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"clusters must be integers (N,), of 1 specimen or more; got {ids.dtype} {ids.shape}.")
    if "species" not in labels:
        raise ValueError(f"labels must have 'species'; got {', '.join(labels) or 'none'}.")
    check_labels(labels, len(ids), processids=len(processids))
    if repeated := [name for name, count in Counter(processids).items() if count > 1]:
        raise ValueError(f"The processid {repeated[0]!r} and {len(repeated) - 1} more are repeated. Give each once.")
    vectors = None if embeddings is None else np.asarray(embeddings, np.float64)
    if vectors is not None and (vectors.ndim != 2 or len(vectors) != len(ids) or not np.isfinite(vectors).all()):
        raise ValueError(f"embeddings must be finite, and (N, D) of {len(ids)} specimens; got {vectors.shape}.")
    members = _members(ids)
    counts = {
        cluster: {rank: Counter(n for row in rows if (n := labels[rank][row]) is not None) for rank in labels}
        for cluster, rows in members.items()
    }
    far, nearest = _distances(members, counts, vectors)
    pairs = zip(labels.get("dna_bin", ()), labels["species"], strict=False)
    known_bins = {of_bin for of_bin, species in pairs if species is not None and of_bin is not None}
    rows = []
    for cluster in sorted(members, key=lambda c: (-len(members[c]), c)):
        row: dict[str, Any] = {"cluster": cluster, "size": len(members[cluster])}
        for rank in (rank for rank in LABEL_COLUMNS if rank in labels):
            name, share = _top(counts[cluster][rank])
            row |= {rank: name, f"{rank}_share": share, f"{rank}_named": counts[cluster][rank].total()}
        named = counts[cluster]["species"]
        row |= {"purity": _top(named)[1], "species_names": len(named), "bins": len(counts[cluster].get("dna_bin", ()))}
        row["effective_species"] = float(2 ** entropy([*named.values()], base=2)) if named else None
        row |= {"purest_place": None, "mixed_place": None, "nearest_named": nearest.get(cluster)}
        row["likely_new_species"], row["note"] = _judged(cluster, row, counts[cluster], known_bins, far)
        rows.append(row)
    _place(rows)
    return Report(rows, _suspects(members, counts, labels, processids), rules_of(far))


def write_report(folder: str | Path, report: Report) -> list[Path]:
    """Writes tables (CSV) and rules (JSON), and returns the paths."""
    clusters, suspects, rules = paths = [Path(folder) / name for name in REPORT_FILES]
    _write_csv(clusters, report.clusters, report.clusters[0])
    _write_csv(suspects, report.suspects, ("processid", "cluster", "species", "cluster_species"))
    write_json(rules, {"rules": report.rules})
    return paths


def rules_of(far: float | None = None) -> dict[str, str]:
    """Column or table -> its rule; `far` is the distance from named clusters."""
    distance = "unknown, so no cluster qualifies" if far is None else f"{far:.6g}"
    return {
        "purity": "share of the most frequent species among the cluster's specimens with a species name",
        "effective_species": "2 to the entropy (in bits) of the cluster's species names",
        "purest_place": "by purity, then by the number of named specimens; only clusters with 2 of them or more",
        "mixed_place": "by effective_species, then by the number of named specimens; the same clusters",
        "likely_new_species": (
            f"a cluster of {NEW_SIZE} specimens or more; none has a species name; the BIN (or the genus, if "
            f"fewer than {NEW_KNOWN:.0%} have a BIN) is known for {NEW_KNOWN:.0%} or more, and the same "
            f"for {NEW_SHARE:.0%} of those; no specimen of its most frequent BIN has a species name; the distance "
            f"of its centre from the nearest centre of a cluster with species names is at least that below "
            f"which {NEW_NEARER:.0%} of such clusters have their nearest other one (here {distance})"
        ),
        "likely_mislabelled": (
            f"a specimen whose species differs from the cluster's, if {PURE_COUNT} specimens or more, and "
            f"{PURE_SHARE:.0%} or more of those with a species name, have one species"
        ),
    }


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


def _distances(
    members: Mapping[int, NDArray[np.int64]],
    counts: Mapping[int, Mapping[str, Counter[str]]],
    vectors: NDArray[np.float64] | None,
) -> tuple[float | None, dict[int, float]]:
    """Distance that counts as far, and each distance to a named cluster."""
    found = [cluster for cluster in members if cluster != NOISE]
    named = [cluster for cluster in found if counts[cluster]["species"]]
    if vectors is None or not named:
        return None, {}
    centres = {cluster: vectors[members[cluster]].mean(axis=0) for cluster in found}
    search = NearestNeighbors(n_neighbors=min(2, len(named))).fit(np.stack([centres[cluster] for cluster in named]))
    distances, places = search.kneighbors(np.stack([centres[cluster] for cluster in found]))
    nearest = {}
    for cluster, of_cluster, at in zip(found, distances, places, strict=True):
        others = [float(d) for d, place in zip(of_cluster, at, strict=True) if named[place] != cluster]
        if others:
            nearest[cluster] = others[0]
    between = [nearest[cluster] for cluster in named if cluster in nearest]
    return (float(np.quantile(between, NEW_NEARER)) if between else None), nearest


def _judged(
    cluster: int,
    row: Mapping[str, Any],
    counts: Mapping[str, Counter[str]],
    known_bins: Set[str],
    far: float | None,
) -> tuple[bool, str]:
    """Whether a cluster is a likely new species, and why."""
    if cluster == NOISE:
        return False, "noise"
    if counts["species"]:
        return False, ""
    if row["size"] < NEW_SIZE:
        return False, f"fewer than {NEW_SIZE} specimens"
    known = NEW_KNOWN * row["size"]
    rank = next((rank for rank in ("dna_bin", "genus") if rank in counts and counts[rank].total() >= known), None)
    if rank is None:
        return False, "BIN and genus mostly unknown"
    share = _top(counts[rank])[1]
    if share is None or share < NEW_SHARE:
        return False, f"several {'BINs' if rank == 'dna_bin' else 'genera'}"
    if row.get("dna_bin") in known_bins:
        return False, "a BIN with species names"
    if far is None:
        return False, "no distance to compare with"
    if row["nearest_named"] is None or row["nearest_named"] < far:
        return False, "near a cluster with species names"
    return True, f"one {'BIN' if rank == 'dna_bin' else 'genus'}"


def _place(rows: Iterable[dict[str, Any]]) -> None:
    """Sets the places of the clusters with 2 named specimens or more."""
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
) -> list[dict[str, Any]]:
    """Specimens with another species than their cluster, the clearest first."""
    everywhere = Counter(name for name in labels["species"] if name is not None)
    found = []
    for cluster, rows in members.items():
        named = counts[cluster]["species"]
        species, share = _top(named)
        if cluster == NOISE or species is None or share is None:
            continue
        if named[species] < PURE_COUNT or share < PURE_SHARE:
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


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Iterable[str]) -> None:
    """Writes rows as CSV; without rows, only `columns`."""
    with writing(path) as file:
        writer = csv.DictWriter(file, list(rows[0] if rows else columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
