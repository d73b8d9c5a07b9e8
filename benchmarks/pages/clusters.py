"""Zero-shot clustering: real barcodes with the ceiling of each rank, and Ward's method by size."""

from __future__ import annotations

from math import log
from typing import Any

from bioscan_hf.cards import table

from .results import Blocks, percent, results

RANKS = ("order", "family", "subfamily", "genus", "species", "dna_bin")  # all specimens are insects

WARDS = {
    "scikit-learn": "Ward, scikit-learn",
    "exact": "Ward, ours",
    "umap and scikit-learn": "UMAP, then Ward, scikit-learn (published)",
    "umap and exact": "UMAP, then Ward, ours",
    "sample, exact": "Ward, ours, of the million",
    "sample, graph": "Ward over a graph, of the million",
    "graph": "Ward over a graph",
}


#: Name of a way in the results file -> in the tables; the number of clusters is that of the species unless told.
WAYS = {
    "UMAP, Ward, number of species (published)": "UMAP, Ward (published)",
    "Ward, number of species": "Ward",
    "Ward, number by silhouette": "Ward, number by silhouette",
}


def cases_of_barcodes() -> list[tuple[str, str, dict[str, Any]]]:
    """Encoder with its steps of training, way, and numbers."""
    found = results("real_clustering")
    steps = {name: f" ({about['steps']:,} steps)" for name, about in found["trainings"].items() if about.get("steps")}
    return [
        (f"{encoder}{steps.get(encoder, '')}", WAYS[way], values)
        for encoder, ways in found["metrics"].items()
        for way, values in ways.items()
    ]


def real_clustering() -> str:
    """One row per encoder and method: AMI at every rank in percent, below the ceiling of each rank."""
    ceiling = results("ceiling")["metrics"]
    rows = [("**ceiling**: the true species", "-", *(percent(ceiling[rank]) for rank in RANKS))]
    rows += [
        (encoder, way, *(percent(values["ami"][rank]) for rank in RANKS))
        for encoder, way, values in cases_of_barcodes()
    ]
    return table(("", "clusters by", *RANKS[:-1], "BIN"), rows)


def real_clustering_costs() -> str:
    """Deviation over seeds, number of clusters, seconds and memory."""
    rows = [
        (
            encoder,
            way,
            percent(values["ami_std"]["species"]),
            f"{values['separation']['n_clusters']:,.0f}",
            f"{sum(values['seconds_of_a_run'].values()):,.0f}",
            f"{values['peak_rss_bytes'] / 1e6:,.0f}",
        )
        for encoder, way, values in cases_of_barcodes()
    ]
    return table(("", "clusters by", "deviation of species", "clusters", "seconds", "peak memory, MB"), rows)


def clustering() -> str:
    """One row per case; the exponent is that of the CPU seconds since the row of fewer points."""
    metrics = results("clustering")["metrics"]
    cases = [
        (way, case | {"rows": int(size)})
        for way, sizes in metrics["peers"]["cases"].items()
        if way in WARDS
        for size, case in sizes.items()
    ]
    cases += [(way, metrics["full"][way]) for way in ("exact", "graph")]
    cases += [(way, metrics["million"][way]) for way in ("sample, exact", "sample, graph", "graph")]
    cases.sort(key=lambda case: (list(WARDS).index(case[0]), case[1]["rows"]))
    rows, before = [], ("", {"rows": 0, "seconds_cpu": 0.0})
    for way, case in cases:
        exponent = "-"
        if way == before[0]:
            more = log(case["rows"] / before[1]["rows"])
            exponent = f"{log(case['seconds_cpu'] / before[1]['seconds_cpu']) / more:.1f}"
        numbers = (f"{case['seconds_cpu']:,.1f}", f"{case['seconds_wall']:,.1f}", f"{case['above_inputs_mb']:,.0f}")
        rows.append((WARDS[way], case["rows"], *numbers, percent(case["ami"]["species"]), exponent))
        before = (way, case)
    header = ("", "points", "CPU seconds", "seconds", "memory beyond the points, MB", "AMI of species", "exponent")
    return table(header, rows)


BLOCKS: Blocks = {
    "real_clustering": real_clustering,
    "real_clustering_costs": real_clustering_costs,
    "clustering": clustering,
}
