"""The report of the demo: names, map, gallery, and the numbers of the three benchmarks."""

from __future__ import annotations

import base64
import html
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module, resources
from importlib.util import find_spec
from itertools import chain, zip_longest
from operator import itemgetter
from pathlib import Path
from typing import Any

from datasets import Dataset, Image, load_dataset
from matplotlib.figure import Figure

from .. import plots
from ..dataset.load import load_bioscan5m
from ..evaluation.specimens import load_specimens
from ..files import write_text
from ..schema import REPORTED_RANKS
from ..statistics.gap import barcode_gaps
from ..statistics.measures import geography
from ..training.options.evaluate import EvaluateOptions
from .demo_steps import MADE_UP, REMARK, Named

PAGE = "report.html"

#: Names shown, and photos that the gallery shows for each query.
ROWS, RETRIEVED = 8, 5


def write_report(output: Path, results: Mapping[str, Any], names: Named) -> None:
    """Writes report.html with its figures inside, and the same figures as PNG."""
    parts: dict[str, str] = {}
    for name, draw in FIGURES.items():
        found = draw(output, results, names)
        if found is None:
            (output / f"{name}.png").unlink(missing_ok=True)
            parts[name] = ""
            continue
        figure, caption = found
        picture = plots.png(figure)
        (output / f"{name}.png").write_bytes(picture)
        source, text = f"data:image/png;base64,{base64.b64encode(picture).decode()}", html.escape(caption)
        parts[name] = f'<figure><img src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>'
    parts |= {
        "remark": html.escape(REMARK),
        "names": _names(names),
        "named": html.escape(_told(results["names"])),
        "task1": _task1(results["metrics"]),
        "task2": _task2(results["clusters"]),
        "task3": _task3(results["retrieval"]),
        "facts": _facts(results),
    }
    page = resources.files(__package__).joinpath("demo.html").read_text(encoding="utf-8")
    for name, text in parts.items():
        page = page.replace(f"<!-- {name} -->", text)
    write_text(output / PAGE, page)


def percent(value: float | None) -> str:
    return "no data" if value is None else f"{value:.1%}"


# ---- figures -------------------------------------------------------------------------------------------------------

#: A figure and its caption; None if there is nothing to draw.
Drawn = tuple[Figure, str] | None


def _sites(output: Path, results: Mapping[str, Any], names: Named) -> Drawn:
    places = geography(str(output / "dataset"))
    cells, place = places["cells"], itemgetter("country", "latitude", "longitude")
    if not cells["samples"]:
        return None
    countries = [place(row) for row in places["countries"] if row["latitude"] is not None]
    figure = plots.site_map(cells["latitude"], cells["longitude"], cells["samples"], countries)
    return figure, "Where the specimens were collected (invented). Coastline: Natural Earth."


def _gallery(output: Path, results: Mapping[str, Any], names: Named) -> Drawn:
    """Photos of the test splits and the nearest photos of train and key_unseen."""
    program = import_module("bioscan_hf.trainers.evaluate_clibd")
    options = EvaluateOptions(str(output / "retrieval"), source=str(output / "dataset"))
    folder = output / "retrieval" / "embeddings"
    specimens = {split: load_specimens(folder / split) for split in program.splits_of(options)}
    return program.draw_gallery(options, specimens, ["image->image"], RETRIEVED), (
        f"Photos (left) and the {RETRIEVED} nearest photos by CLIBD, trained for about a minute. A tick "
        f"marks the right species. The first {program.GALLERY_QUERIES // 2} queries are of species with names in "
        f"train, the others of species without."
    )


def _accuracy(output: Path, results: Mapping[str, Any], names: Named) -> Drawn:
    probes = results["metrics"]
    questions = [name.replace(" of ", "\nof ") for name in next(iter(probes.values()))]

    def bars(metrics: Mapping[str, Any], key: str) -> dict[str, float]:
        return dict(zip(questions, (value[key] for value in metrics.values()), strict=True))

    accuracies = {model: bars(metrics, "micro_accuracy") for model, metrics in probes.items()}
    figure = plots.accuracy_bars({**accuracies, "chance": bars(next(iter(probes.values())), "chance")})
    return figure, (
        "1-nearest-neighbour accuracy of distinct barcodes: the label of the nearest in train, by cosine. Species of "
        "unseen specimens have no reference, so their genus, family and order are tested. The aligned encoder is "
        "fitted in seconds; BarcodeBERT is small, and trained for a minute or two."
    )


def _clusters(output: Path, results: Mapping[str, Any], names: Named) -> Drawn:
    from ..clustering.figures import ami_by_rank, species_ceiling

    data = load_bioscan5m(output / "dataset", "dna", "test+test_unseen").with_format("arrow")[:]
    labels = {rank: data[rank].to_pylist() for rank in (*REPORTED_RANKS, "subfamily", "dna_bin")}
    scores = {
        name: {"metrics": {rank: {"ami": value} for rank, value in of.items()}}
        for name, of in results["clusters"].items()
    }
    if not any(value is not None for of in results["clusters"].values() for value in of.values()):
        return None
    return ami_by_rank(scores, species_ceiling(labels)), (
        "Agreement of clusters with the taxa of each rank. There are as many clusters as species, so at higher ranks "
        "even the true species score less than 100 %."
    )


def _trust(output: Path, results: Mapping[str, Any], names: Named) -> Drawn:
    answers = _judged(names)
    if not answers:
        return None
    return plots.reliability_curve(answers, bins=5), (
        "Confidence of names and how many were right, for the reads of test and test_unseen. Above the diagonal a "
        "confidence is too low, below it too high; bars are 95 % intervals, wide because the reads are few."
    )


def _coverage(output: Path, results: Mapping[str, Any], names: Named) -> Drawn:
    answers = _judged(names)
    if not answers:
        return None
    return plots.coverage_curve(answers), (
        "Share of the reads that get a name at a rank, the most confident first, and how many of these names are "
        "wrong. A species of test_unseen has no reference, so its name at species is wrong."
    )


def _gap(output: Path, results: Mapping[str, Any], names: Named) -> Drawn:
    if find_spec("rapidfuzz") is None:
        return None
    gaps = barcode_gaps(str(output / "dataset"), most=600)
    if not gaps:
        return None
    figure = plots.barcode_gap([row["farthest_within"] for row in gaps], [row["nearest_other"] for row in gaps])
    return figure, "Barcode gap: the farthest barcode of the same species, and the nearest one of another."


def _taxonomy(output: Path, results: Mapping[str, Any], names: Named) -> Drawn:
    counts: Counter[tuple[str, str]] = Counter()
    for part in load_dataset(str(output / "dataset"), "dna").values():
        counts.update((order or "", family or "") for order, family in zip(part["order"], part["family"], strict=True))
    return plots.taxonomy_tree_map(counts), (
        "Every specimen of the release by order (colour) and family (box); areas are numbers of specimens."
    )


def _photos(output: Path, results: Mapping[str, Any], names: Named) -> Drawn:
    data = load_dataset(str(output / "dataset"), "cropped_256", split="train")
    return plots.photo_grid(_frequent(data)), "Drawn photos of the split train: four specimens of each of six species."


def _loss(output: Path, results: Mapping[str, Any], names: Named) -> Drawn:
    pretraining = results["pretraining"]
    loss = pretraining["metrics"].get("validation_masked_loss_nats")
    final = "" if loss is None else f" Validation loss after the last step: {loss:.3f} nats."
    return plots.loss_curves({"BarcodeBERT": pretraining["loss_curve"]}, chance=math.log(4**4)), (
        "Pretraining: loss on masked 4-mers, mean over the steps since the last point. The dashed line is the "
        f"loss of guessing among {4**4} 4-mers.{final}"
    )


#: Figures by name, in the order of the page.
FIGURES: dict[str, Callable[[Path, Mapping[str, Any], Named], Drawn]] = {
    "sites": _sites,
    "gallery": _gallery,
    "accuracy": _accuracy,
    "clusters": _clusters,
    "reliability": _trust,
    "coverage": _coverage,
    "gap": _gap,
    "taxonomy": _taxonomy,
    "photos": _photos,
    "loss": _loss,
}


def _judged(names: Named) -> dict[str, tuple[list[float], list[bool]]]:
    """Rank -> confidence of each answer, and whether it is right, of the reads with a true name and a confidence."""
    found = {}
    for rank in ("species", "genus", "family"):
        columns = (names.answers[rank], names.answers[f"{rank}_confidence"], names.truth[rank])
        rows = zip(*(column.to_pylist() for column in columns), strict=True)
        kept = [(sure, name == truth) for name, sure, truth in rows if name and truth and sure is not None]
        if kept:
            sure, right = zip(*kept, strict=True)
            found[rank] = (list(sure), list(right))
    return found


def _frequent(data: Dataset, species: int = 6, each: int = 4) -> list[tuple[bytes, str]]:
    """Photos of the most frequent species, one column each, from different families where possible."""
    rows: dict[str, list[int]] = {}
    family_of: dict[str, str] = {}
    for i, (name, family) in enumerate(zip(data["species"], data["family"], strict=True)):
        rows.setdefault(name, []).append(i)
        family_of[name] = family
    ranked = sorted((name for name in rows if len(rows[name]) >= each), key=lambda name: (-len(rows[name]), name))
    first_of_family = {family_of[name]: name for name in reversed(ranked)}
    chosen = [name for name in ranked if first_of_family[family_of[name]] == name]
    chosen = (chosen + [name for name in ranked if name not in chosen])[:species]
    raw = data.cast_column("image", Image(decode=False))
    return [(raw[rows[name][j]]["image"]["bytes"], name.replace(" ", "\n", 1)) for j in range(each) for name in chosen]


# ---- text and tables -----------------------------------------------------------------------------------------------


def _told(found: Mapping[str, Any]) -> str:
    """One sentence about the names of the reads."""
    parts = [f"{count:,} to {rank} ({right / count:.0%} right)" for rank, (count, right) in found["named"].items()]
    without = found["reads"] - sum(count for count, _ in found["named"].values())
    named = ", ".join([*parts, f"{without:,} without a name"])
    return f"{found['reads']:,} reads, {found['references']:,} references: {named}."


def _names(names: Named) -> str:
    """Some answers, of different orders: read, name, confidence, true name."""
    pairs = zip(names.answers.to_pylist(), names.truth.to_pylist(), strict=True)
    by_order: dict[str, list[list[str]]] = {}
    for answer, truth in pairs:
        if truth["order"] and answer["rank"]:
            by_order.setdefault(truth["order"], []).append(_name_row(answer, truth))
    in_turn = chain.from_iterable(zip_longest(*by_order.values()))
    rows = [row for row in in_turn if row is not None][:ROWS]
    if not rows:
        return "<p>No read has a name: the references are too few.</p>"
    return _table(["read", "name", "confidence", "true name", ""], rows, "names")


def _name_row(answer: Mapping[str, Any], truth: Mapping[str, Any]) -> list[str]:
    rank, sure = answer["rank"], answer["confidence"] or 0.0
    real = truth[rank]
    bar = f'<span class="bar"><i style="width:{100 * sure:.0f}%"></i></span> {percent(sure)}'
    verdict = (
        "" if real is None else '<b class="yes">right</b>' if real == answer["name"] else '<b class="no">wrong</b>'
    )
    name = f"{html.escape(answer['name'])} <small>{rank}</small>"
    return [html.escape(answer["id"]), name, bar, html.escape(real or "unknown"), verdict]


def _task1(probes: Mapping[str, Any]) -> str:
    some = next(iter(probes.values()))
    rows = [[model, *(percent(value["micro_accuracy"]) for value in of.values())] for model, of in probes.items()]
    rows.append(["chance", *(percent(value["chance"]) for value in some.values())])
    rows.append(["queries / keys", *(f"{value['n_test']:,} / {value['n_train']:,}" for value in some.values())])
    return _table(["", *some], rows)


def _task2(clusters: Mapping[str, Mapping[str, float | None]]) -> str:
    ranks = [rank for rank in ("order", "family", "genus", "species") if any(rank in of for of in clusters.values())]
    return _table(
        ["AMI", *ranks], [[name, *(percent(of.get(rank)) for rank in ranks)] for name, of in clusters.items()]
    )


def _task3(tables: Mapping[str, Any]) -> str:
    rows = []
    for name in ("image->dna", "image->image", "dna->dna"):
        if name in tables:
            label = name.replace("image", "photo").replace("dna", "barcode").replace("->", " \N{RIGHTWARDS ARROW} ")
            rows.append([label, *_pairs(tables[name], "micro_accuracy")])
    one = tables["image->dna"]
    rows.append(["chance", *_pairs(one, "chance")])
    counts = f"{one['seen']['n_test']:,} / {one['unseen']['n_test']:,}"
    rows.append(["queries", *[counts] * len(REPORTED_RANKS)])
    return _table(["seen / unseen", *REPORTED_RANKS], rows)


def _pairs(table: Mapping[str, Any], key: str) -> Iterator[str]:
    for rank in REPORTED_RANKS:
        yield " / ".join(percent(table[part][key].get(rank)) for part in ("seen", "unseen"))


def _facts(results: Mapping[str, Any]) -> str:
    facts = {
        "data": f"{MADE_UP.lower()}: {results['dataset']}",
        "specimens": ", ".join(f"{name} {count:,}" for name, count in results["splits"].items()),
        "model": f"BarcodeBERT, {results['model']['parameters']:,} parameters",
        "command": results["command"],
        "commit": results["commit"] or "not run from a checkout",
        "versions": ", ".join(f"{name} {version}" for name, version in results["versions"].items()),
        "time": f"{results['seconds']} s",
    }
    return "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(str(value))}</dd>" for name, value in facts.items())


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "numbers") -> str:
    """An HTML table; cells of `rows` are HTML."""
    head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in header)
    body = "".join(
        "<tr>"
        + "".join(f'<td data-label="{html.escape(of)}">{cell}</td>' for of, cell in zip(header, row, strict=True))
        + "</tr>"
        for row in rows
    )
    table = f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="wide" tabindex="0">{table}</div>'
