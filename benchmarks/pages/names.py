"""Names with a confidence: what is right, what other programs name, and how fast."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from statistics import mean
from typing import Any

from bioscan_hf.cards import escape, table

from .results import NOT_YET, Blocks, between, claim, exists, percent, results

VARIANTS = ("whole, as they are", "first 313, as they are", "first 200, as they are", "whole, one insertion")
MIXES = ("none new", "half new", "nine tenths new", "family new")
PROGRAMS = {"ours": "bioscan-hf identify", "blast": "BLAST+", "vsearch": "vsearch", "sintax": "SINTAX"}
COMPARED = ("species", "genus", "family")


def measured(render: Callable[[dict[str, Any]], str]) -> Callable[[], str]:
    """A block of the partitions."""
    return lambda: render(results("confidence")["metrics"])


def average(values: Iterable[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return mean(there) if there else None


def lowest(intervals: Iterable[list[float] | None]) -> float | None:
    return min((pair[0] for pair in intervals if pair is not None), default=None)


def cells(partitions: dict[str, Any]) -> str:
    """One row per variant and mix: means over the partitions, and the lowest lower end of an interval."""
    rows = []
    for variant in VARIANTS:
        for mix in MIXES:
            found = [one["cells"][f"{variant}, {mix}"] for one in partitions.values()]
            numbers = [
                average(one[rank][name] for one in found)
                for rank in ("species", "genus", "deepest")
                for name in ("named", "right_of_named")
            ]
            low = lowest(one["deepest"]["interval"] for one in found)
            rows.append((f"{variant}; {mix}", *map(percent, numbers), percent(low)))
    columns = ("species named", "right", "genus named", "right", "any rank named", "right", "lowest 95 % bound")
    return table(("reads", *columns), rows)


def every_variant(partitions: dict[str, Any]) -> str:
    """All variants of the mix "half new"."""
    names = [cell for cell in next(iter(partitions.values()))["cells"] if cell.endswith(", half new")]
    rows = []
    for name in names:
        found = [one["cells"][name] for one in partitions.values()]
        shares = [average(one["deepest"][what] for one in found) for what in ("named", "right_of_named")]
        novelty = [one["novelty"] for one in found if "novelty" in one]
        new = [average(one[by]["auroc"] for one in novelty) for by in ("species_new", "distance")]
        low = lowest(one["deepest"]["interval"] for one in found)
        rows.append((name.removesuffix(", half new"), *map(percent, (*shares, low, *new))))
    header = ("reads", "named", "right", "lowest 95 % bound", "AUROC of species_new", "AUROC of the distance")
    return table(header, rows)


def verdict(partitions: dict[str, Any]) -> str:
    """The claims, and what does not hold."""
    found = results("confidence")
    claims, missed = found["claims"], found["missed"]
    deepest = [cell["deepest"] for one in partitions.values() for cell in one["cells"].values()]
    asked = [one for one in deepest if one["interval"]]
    right = sum(one["right_of_named"] >= claims["right"] for one in asked)
    sure = sum(one["interval"][0] >= claims["lower"] for one in asked)
    foreign = [kind for one in partitions.values() for kind in one["foreign"].values()]
    variants = {name.rsplit(", ", 1)[0] for name in next(iter(partitions.values()))["cells"]}
    text = (
        f"{len(asked)} tests: {len(variants)} kinds of reads in {len(deepest) // (len(variants) * len(partitions))} "
        f"mixtures of known and new taxa, over {len(partitions)} partitions. At least {percent_of(claims['right'])} "
        f"of the sure names (confidence of 95 % or more) are right in {right}, and the 95 % interval begins at "
        f"{percent_of(claims['lower'])} or higher in {sure}. {sum(kind['named'] for kind in foreign):,} of "
        f"{sum(kind['reads'] for kind in foreign):,} foreign reads get a sure name. "
    )
    return text + ("Every claim of the benchmark holds." if not missed else _told(len(missed)))


def percent_of(share: float) -> str:
    return f"{100 * share:.0f} %"


def _told(missed: int) -> str:
    many = "1 claim of the benchmark does" if missed == 1 else f"{missed} claims of the benchmark do"
    return f"{many} not hold; *Names with a confidence* lists them."


def missed_claims(partitions: dict[str, Any]) -> str:
    """The tests that miss a bound."""
    claims = results("confidence")["claims"]
    rows = [
        (f"{name}; {cell}", percent(deepest["right_of_named"]), between(deepest["interval"]))
        for name, one in partitions.items()
        for cell, values in one["cells"].items()
        if (deepest := values["deepest"])["interval"]
        and (deepest["right_of_named"] < claims["right"] or deepest["interval"][0] < claims["lower"])
    ]
    return table(("partition; reads", "right", "interval"), rows) if rows else "No test misses a bound."


def behind() -> str:
    """The claims on foreign reads and against peers that do not hold."""
    missed = [line for line in results("confidence")["missed"] if not line.startswith("seed ")]
    return "\n".join(f"- {escape(line)}" for line in missed) or "No other claim is missed."


def peers(partitions: dict[str, Any]) -> str:
    """Coverage at 1 % wrong names of each program, on the same reads."""
    there = [one["peers"] for one in partitions.values() if one["peers"]]
    rows = []
    for variant in there[0] if there else ():
        for rank in COMPARED:
            shares = [mean(one[variant][name][rank]["coverage"] for one in there) for name in PROGRAMS]
            rows.append((f"{variant}; {rank}", *map(percent, shares)))
    return table(("reads; rank", *PROGRAMS.values()), rows)


def ahead() -> str:
    """In how many comparisons the difference to another program is more than chance."""
    found = results("confidence")["differences"]
    every = [one for ranks in found.values() for programs in ranks.values() for one in programs.values()]
    more, surely = sum(one["mean"] > 0 for one in every), sum(one["interval"][0] > 0 for one in every)
    less = sum(one["interval"][1] < 0 for one in every)
    return (
        f"In {more} of {len(every)} comparisons (reads, rank and program) `identify` names more reads. The 95 % "
        f"interval of the difference, by a bootstrap over species, lies above 0 in {surely} and below 0 in {less}."
    )


def peers_right(partitions: dict[str, Any]) -> str:
    """Share of all reads whose name is right, whatever the confidence, of the first partition with its interval."""
    there = next(one["peers"] for one in partitions.values() if one["peers"])
    rows = [
        (
            f"{variant}; {rank}",
            *(
                f"{percent(there[variant][name][rank]['right'])} ({between(there[variant][name][rank]['interval'])})"
                for name in PROGRAMS
            ),
        )
        for variant in VARIANTS[:3]
        if variant in there
        for rank in COMPARED
    ]
    return table(("reads; rank", *PROGRAMS.values()), rows)


def rules(partitions: dict[str, Any]) -> str:
    """Names of vsearch by fixed thresholds of identity."""
    there = [one["peers"] for one in partitions.values() if one["peers"]]
    rows = []
    for variant in VARIANTS[:3]:
        found = [one[variant]["vsearch"] for one in there if variant in one]
        for rule in [key for key in found[0] if key.endswith(" rule")] if found else ():
            shares = [average(one[rule][what] for one in found) for what in ("named", "right_of_named")]
            rows.append((f"{variant}; {rule}", *map(percent, shares)))
    return table(("reads; threshold", "named", "right"), rows)


def foreign(partitions: dict[str, Any]) -> str:
    kinds = list(dict.fromkeys(kind for one in partitions.values() for kind in one["foreign"]))
    rows = []
    for kind in kinds:
        found = [one["foreign"][kind] for one in partitions.values() if kind in one["foreign"]]
        rows.append((kind, sum(one["reads"] for one in found), sum(one["named"] for one in found)))
    return table(("reads", "number", "with a sure name"), rows)


def small_libraries() -> str:
    """One row per kind of library, with confidences filled up and without."""
    if not exists("small_libraries"):
        return NOT_YET
    rows = [
        (
            name,
            percent(ways["without"]["known_to_species"]),
            percent(ways["with"]["known_to_species"]),
            percent(ways["with"]["new_to_species"]),
            percent(ways["with"]["named"]),
            f"{percent(ways['with']['right_of_named'])} ({between(ways['with']['interval'])})",
        )
        for name, ways in results("small_libraries")["metrics"].items()
    ]
    header = (
        "references",
        "known species named, without the insect barcodes",
        "known species named",
        "new species given a species name",
        "reads named",
        "right of the named",
    )
    return table(header, rows)


def speed() -> str:
    """Reads per second from file to file, beside vsearch."""
    if not exists("identify_speed"):
        return NOT_YET
    metrics = results("identify_speed")["metrics"]
    rows = []
    for size in ("small", "large"):
        if size not in metrics:
            continue
        part = metrics[size]
        name = f"{part['opened']['records']:,} references"
        for way, found in (("bioscan-hf identify", part["reads"]), ("vsearch", part["vsearch"])):
            times = f"{part['times_vsearch']:.1f}" if way != "vsearch" else "1.0"
            rates = (f"{found['reads_per_s']:,.0f}", f"{found['reads_per_s_wall']:,.0f}")
            rows.append((f"{name}; {way}", found["reads"], *rates, times, f"{found['memory_gb']:.2f}"))
    header = ("", "reads", "reads/s by CPU time", "reads/s by wall time", "times vsearch", "peak memory, GB")
    return table(header, rows)


def example() -> str:
    """Five reads and their names; the true species is added for the reader."""
    found = results("names_example")["metrics"]
    rows = [
        (
            row["id"],
            row["status"],
            f"*{row['name']}*" if row["rank"] in ("genus", "species") else row["name"],
            row["rank"],
            f"{row['confidence']:.3f}" if row["confidence"] else "",
            f"{row['identity']:.3f}",
            f"*{found['species'][row['id']]}*" if row["id"] != "shuffled" else "-",
        )
        for row in found["rows"]
    ]
    return table(("id", "status", "name", "rank", "confidence", "identity", "(true species)"), rows)


BLOCKS: Blocks = {
    "confidence": measured(cells),
    "confidence_variants": measured(every_variant),
    "confidence_verdict": measured(verdict),
    "confidence_missed": measured(missed_claims),
    "confidence_behind": behind,
    "confidence_peers": measured(peers),
    "confidence_ahead": ahead,
    "confidence_peers_right": measured(peers_right),
    "confidence_rules": measured(rules),
    "confidence_foreign": measured(foreign),
    "small_libraries": small_libraries,
    "small_libraries_claim": lambda: claim("small_libraries"),
    "identify_speed": speed,
    "identify_speed_goals": lambda: claim("identify_speed"),
    "names_example": example,
}
