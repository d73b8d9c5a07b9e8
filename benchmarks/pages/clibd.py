"""CLIBD: retrieval on a made-up release, the loss, and steps on a GPU."""

from __future__ import annotations

from typing import Any

from bioscan_hf.cards import table

from .results import NOT_YET, Blocks, claim, exists, percent, results

PAIRS = {"image->dna": "photo to barcode", "dna->dna": "barcode to barcode", "image->image": "photo to photo"}
COLUMNS = [(rank, part) for rank in ("species", "genus") for part in ("seen", "unseen", "harmonic_mean")]


def clibd_simulated() -> str:
    """One row per pair of modalities and model: macro top-1 of species and genus, seen, unseen and harmonic mean."""
    metrics = results("clibd_simulated")["metrics"]
    rows: list[tuple[str, ...]] = []
    for pair, text in PAIRS.items():
        for name, of in metrics.items():
            rows.append((text, name, *(percent(of[pair]["macro"][part][rank]) for rank, part in COLUMNS)))
        chance = metrics["no alignment"][pair]["chance"]["macro"]
        shown = [percent(chance[part][rank]) if part in chance else "-" for rank, part in COLUMNS]
        rows.append((text, "chance", *shown))
    queries = metrics["no alignment"]["image->dna"]["queries"]
    rows.append(("queries", "-", *(f"{queries[part]}" if part in queries else "-" for _, part in COLUMNS)))
    return table(("", "model", *(f"{rank}, {part.replace('_', ' ')}" for rank, part in COLUMNS)), rows)


def clibd_claims() -> str:
    """Margins over chance and no alignment, and how far the losses of one and two processes differ."""
    found = results("clibd_simulated")
    rows = [(name, f"{claim:.0f}", f"{found['reached'][name]:.1f}") for name, claim in found["claimed"].items()]
    rows += [
        (f"largest difference of the losses of 1 and 2 processes, {name}", "-", f"{value:.1e}")
        for name, value in found["training"]["largest_difference_of_loss"].items()
    ]
    return table(("photo to barcode, species", "goal, times", "reached"), rows)


#: Errors of the table: none, and all kinds together.
ERRORS = ("none", "all")


def clibd_fused() -> str:
    """One row per model and combination: macro top-1 of species, seen and unseen, without and with errors."""
    if not exists("clibd_fused"):
        return NOT_YET
    rows = [
        (
            name,
            combination.replace("->", " to "),
            *(
                percent(conditions[condition].get(combination, photos)[part]["accuracy"])
                for condition in ERRORS
                for part in ("seen", "unseen")
            ),
        )
        for name, conditions in results("clibd_fused")["metrics"].items()
        for combination, photos in conditions["none"].items()  # errors in barcodes do not change photos alone
    ]
    columns = (f"{part}, {words}" for words in ("clean", "all errors") for part in ("seen", "unseen"))
    return table(("model", "query to key", *columns), rows)


def contrastive() -> str:
    """Seconds and memory of the loss; ratios of the medians, and the median of the ratios of each turn."""
    found = results("contrastive")["metrics"]
    times, memory = found["times"], found["memory"]
    published, most = times["published"], memory["published"]["above_inputs_mb"]
    rows = [
        (
            way,
            f"{one['seconds_wall']:.1f}",
            f"{one['seconds_cpu']:.1f}",
            f"{published['seconds_wall'] / one['seconds_wall']:.1f}",
            f"{published['seconds_cpu'] / one['seconds_cpu']:.1f}",
            f"{one['ratio_wall']:.1f}",
            f"{memory[way]['above_inputs_mb'] / most:.2f}",
            f"{one['relative_error_gradients']:.0e}",
        )
        for way, one in times.items()
    ]
    columns = ("times as fast (seconds)", "times as fast (CPU)", "median of 5 ratios", "memory / published")
    return table(("", "seconds", "CPU seconds", *columns, "relative error of the gradients"), rows)


def cached_model() -> str:
    """Peak memory of a model with a batch that fits the memory, and of one that does not."""
    models = results("contrastive")["metrics"]["models"]
    rows = [
        (
            name,
            values["rows"],
            f"{values['peak_mb']:,}",
            f"{values['seconds_wall']:,.0f}",
            f"{values['seconds_cpu']:,.0f}",
        )
        for name, values in models.items()
    ]
    return table(("", "rows", "peak of the process, MB", "seconds", "CPU seconds"), rows)


def gpu_rows(part: str, columns: dict[str, tuple[str, str]]) -> str:
    """Rows of a part of gpu_run.json; `columns` are key -> (header, format)."""
    rows: list[tuple[Any, ...]] = []
    for name, row in results("gpu_run")["metrics"][part]["rows"].items():
        if "skipped" in row or "out_of_memory" in row:
            rows.append((name, "out of memory" if "out_of_memory" in row else "not run: no time left"))
            rows[-1] += ("-",) * (len(columns) - 1)
        else:
            rows.append((name, *(format(row[key], how) if key in row else "-" for key, (_, how) in columns.items())))
    return table(("", *(header for header, _ in columns.values())), rows)


STEP = {
    "samples_per_second": ("samples/s", ",.0f"),
    "mfu": ("share of the peak FLOP/s", ".2f"),
    "peak_gb": ("peak memory, GB", ".1f"),
}


def gpu_goals() -> str:
    """Goals of the run on the GPU."""
    goals = results("gpu_run")["goals"]

    def shown(value: float) -> str:
        return percent(value) if value < 1 else f"{value:,.1f}"

    rows = [
        (name, shown(one["goal"]), shown(one["reached"]), "yes" if one["met"] else "**no**")
        for name, one in goals.items()
    ]
    return table(("", "goal", "reached", "met"), rows)


BLOCKS: Blocks = {
    "clibd_simulated": clibd_simulated,
    "clibd_claims": clibd_claims,
    "clibd_fused": clibd_fused,
    "clibd_fused_claim": lambda: claim("clibd_fused"),
    "contrastive": contrastive,
    "cached_model": cached_model,
    "gpu_clibd": lambda: gpu_rows("clibd", STEP),
    "gpu_steps": lambda: gpu_rows("steps", STEP),
    "gpu_steps_844": lambda: gpu_rows("steps of 8-4-4", STEP),
    "gpu_embedding": lambda: gpu_rows("embedding", {"barcodes_per_second": ("barcodes/s", ",.0f")}),
    "gpu_loss": lambda: gpu_rows("loss", {"seconds": ("seconds", ".3f"), "peak_gb": ("peak memory, GB", ".1f")}),
    "gpu_goals": gpu_goals,
}
