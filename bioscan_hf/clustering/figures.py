"""Figures of a clustering: agreement with each rank, and maps.

Source: the figure of BIOSCAN-5M's Task II (https://arxiv.org/abs/2406.12723).
Shape letters: N = specimens, D = embedding size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike, NDArray

from ..metrics import adjusted_mutual_information
from ..plots import COLOURS, OTHER_COLOUR, UNKNOWN_COLOUR, line_style, order_colour, plain
from ..plots.style import QUIET, shortened
from .agreement import encoded_labels
from .embeddings import reduced

#: Rank -> its name in the figure, in the order of the paper. All insects have the same phylum.
FIGURE_RANKS = {
    **{rank: rank for rank in ("class", "order", "family", "subfamily", "genus", "species")},
    "dna_bin": "BIN",
}

#: Colours of the largest groups of a map: those of all figures without the grey, then of Tol's bright and muted ones.
#: Orders have their own colours, the same in every figure.
GROUP_COLOURS = (*COLOURS[:7], "#332288", "#88CCEE", "#882255", "#117733")

REDUCERS = ("umap", "pca")

#: Longest name in a legend, in points.
_LONGEST_NAME = 170.0


class Groups(NamedTuple):
    """Specimens in a few coloured groups.

    Attributes:
        of: Group of each specimen (N,).
        names: Name of each group. The last ones can be "other (so many names)" and "unknown".
        colours: Colour of each group, as "#RRGGBB".
        counts: Specimens of each group.
    """

    of: NDArray[np.int64]
    names: list[str]
    colours: list[str]
    counts: list[int]


def species_ceiling(labels: Mapping[str, Sequence[str | None]]) -> dict[str, float]:
    """Rank -> adjusted mutual information of clusters that are exactly the species.

    One clustering is compared with every rank, so with as many clusters as species no method reaches 1 at order. Only
    specimens with a species count; without any, the result is empty.
    """
    ids = encoded_labels(labels, len(labels["species"])) if "species" in labels else {}
    if not ids or not (named := ids["species"] >= 0).any():
        return {}
    scores = {rank: adjusted_mutual_information(ids["species"][named], of[named])["ami"] for rank, of in ids.items()}
    return {rank: float(score) for rank, score in scores.items() if score is not None}


def ami_by_rank(results: Mapping[str, Mapping[str, Any]], ceiling: Mapping[str, float] | None = None) -> Figure:
    """Adjusted mutual information with each rank, a line per encoder, best first.

    Raises ValueError if no result has the score at any rank.

    Args:
        results: Name of an encoder -> its results.json of `cluster_embeddings`, of which `metrics` is drawn, and
            `spread` as error bars.
        ceiling: Rank -> score of the true species, such as `species_ceiling` returns; a dashed line.
    """
    scores = {name: {rank: row.get("ami") for rank, row in one["metrics"].items()} for name, one in results.items()}
    ranks = [rank for rank in FIGURE_RANKS if any(of.get(rank) is not None for of in scores.values())]
    if not ranks:
        raise ValueError(f"None of the {len(results)} results has the score 'ami' at any rank: nothing to draw.")

    def order(name: str) -> tuple[float, str]:
        values = (scores[name].get(rank) for rank in ("species", *reversed(ranks)))
        return -next((value for value in values if value is not None), -1.0), name

    figure = Figure(figsize=(8.2, max(4.2, 0.24 * len(results))), layout="constrained")
    axes = figure.add_subplot()
    for place, name in enumerate(sorted(results, key=order)):
        drawn = [(x, scores[name][rank], rank) for x, rank in enumerate(ranks) if scores[name].get(rank) is not None]
        spread = results[name].get("spread", {})
        bars = [100 * (spread.get(rank, {}).get("ami") or 0.0) for _, _, rank in drawn]
        style = line_style(place) | {"markersize": 5, "capsize": 3, "yerr": bars if any(bars) else None}
        label = shortened(name, 1.3 * _LONGEST_NAME, 8).replace("$", r"\$")
        axes.errorbar([x for x, _, _ in drawn], [100 * value for _, value, _ in drawn], label=label, **style)
    if best := [(x, 100 * ceiling[rank]) for x, rank in enumerate(ranks) if ceiling and rank in ceiling]:
        axes.plot(*zip(*best, strict=True), color=QUIET, linestyle="-.", linewidth=1.2, label="the true species")
    axes.set_xticks(range(len(ranks)), [FIGURE_RANKS[rank] for rank in ranks])
    axes.set(xlabel="rank", ylabel="adjusted mutual information (%)")
    low, high = axes.get_ylim()
    axes.set_ylim(min(0, low), max(high, 1))
    plain(axes, grid="both")
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return figure


def plane(embeddings: ArrayLike, reducer: str = "umap", *, seed: int = 0) -> NDArray[np.float32]:
    """Places of specimens in a plane (N, 2), for a map only.

    Raises ValueError for an unknown reducer, fewer than 3 specimens, and embeddings that are NaN or infinite. Raises
    ModuleNotFoundError if umap-learn is not installed.

    Args:
        embeddings: (N, D), finite.
        reducer: "umap" (15 neighbours, euclidean), which keeps neighbours together, or "pca", which keeps directions.
    """
    points = np.asarray(embeddings, np.float32)
    if reducer not in REDUCERS:
        raise ValueError(f"Unknown reducer {reducer!r} for a map. Choose {' or '.join(REDUCERS)}.")
    if points.ndim != 2 or len(points) < 3 or not np.isfinite(points).all():
        broken = int((~np.isfinite(points)).sum())
        raise ValueError(
            f"A map needs 3 specimens or more, and finite embeddings; got {points.shape}, {broken} not finite."
        )
    if reducer == "pca" or len(points) < 5:  # UMAP cannot start with so few
        flat = points if points.shape[1] > 1 else np.concatenate([points, np.zeros_like(points)], axis=1)
        return reduced(flat, "pca", {"n_components": 2}, seed)
    return reduced(points, "umap", {"n_neighbors": min(15, len(points) - 1), "n_components": 2}, seed)


def colour_groups(names: Sequence[str | None], rank: str | None = None) -> Groups:
    """Colours for the most frequent names, other and missing names.

    Equally frequent names are in alphabetical order. At the rank order, colours are those of `plots.order_colour`.
    """
    counts = Counter(name for name in names if name is not None)
    ranked = sorted(counts, key=lambda name: (-counts[name], name))
    most = len(GROUP_COLOURS)
    titles = ranked[:most]
    colours = [*map(order_colour, titles)] if rank == "order" else list(GROUP_COLOURS[: len(ranked)])
    place: dict[str | None, int] = {name: min(i, most) for i, name in enumerate(ranked)}
    if len(ranked) > most:
        titles.append(f"other ({len(ranked) - most:,} names)")
        colours.append(OTHER_COLOUR)
    if len(names) > counts.total():
        place[None] = len(titles)
        titles.append("unknown")
        colours.append(UNKNOWN_COLOUR)
    of = np.fromiter((place[name] for name in names), np.int64, len(names))
    return Groups(of, titles, colours, np.bincount(of, minlength=len(titles)).tolist())


def cluster_map(points: ArrayLike, names: Sequence[str | None], rank: str) -> Figure:
    """Map of points (N, 2), coloured by frequent names (None: unknown).

    Raises ValueError if there are not as many names as points, or none.
    """
    places = np.asarray(points, np.float32)
    if places.ndim != 2 or places.shape[1] != 2 or len(places) != len(names) or not len(names):
        raise ValueError(f"A map needs points (N, 2) and N names; got {places.shape} and {len(names)} names.")
    groups = colour_groups(names, rank)
    figure = Figure(figsize=(8.6, 6), layout="constrained")
    axes = figure.add_subplot()
    size = float(np.clip(12_000 / len(places), 1.5, 28))
    # Points are drawn in a random order, so that large groups do not cover small ones; unnamed ones are drawn first.
    order = np.random.default_rng(0).permutation(len(places))
    unnamed = np.array([colour in (OTHER_COLOUR, UNKNOWN_COLOUR) for colour in groups.colours])
    order = order[np.argsort(~unnamed[groups.of[order]], kind="stable")]
    colours = np.array(groups.colours)[groups.of[order]]
    axes.scatter(places[order, 0], places[order, 1], s=size, c=colours, linewidths=0, alpha=0.75, rasterized=True)
    handles = []
    for name, colour, count in zip(groups.names, groups.colours, groups.counts, strict=True):
        short = shortened(name, _LONGEST_NAME, 8).replace("$", r"\$")
        handles.append(Line2D([], [], ls="", marker="o", markersize=6, color=colour, label=f"{short}  {count:,}"))
    beside: dict[str, Any] = {"frameon": False, "fontsize": 8, "loc": "upper left", "bbox_to_anchor": (1.01, 1.0)}
    axes.legend(handles=handles, title=rank, alignment="left", **beside)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color("#bbbbbb")
    return figure
