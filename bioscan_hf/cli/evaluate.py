"""Commands that evaluate: probe and retrieve, of embeddings, and evaluate clibd, of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option, Typer

from ..training.options.programs import EVALUATIONS
from .command import Output, Result, app, command, in_main_process
from .options import (
    Force,
    Labels,
    beside,
    check_exists,
    check_source,
    no_library_bars,
    refuse_inputs,
    refuse_to_replace,
    require_embeddings,
    shell,
)
from .programs import add_programs, parsed, printing_of

PANEL = "Benchmarks of embeddings"

Temperature = Annotated[
    float, Option(help="knn, with --k above 1: the smaller, the more near neighbours count; 0 weighs all equally.")
]
EmbeddedSplits = Annotated[
    Path, Argument(help="Output of `bioscan-hf embed` for train, key_unseen, test and test_unseen.")
]


@command(PANEL, "bioscan-hf probe dataset embeddings --output probe.json")
def probe(
    source: Labels,
    embeddings: Annotated[Path, Argument(help="Output of `bioscan-hf embed`.")],
    output: Annotated[
        Path | None, Option(help="Results file. Default: results.json in the folder of the embeddings.")
    ] = None,
    probe: Annotated[Literal["knn", "linear"], Option(help="Nearest neighbours or a linear probe.")] = "knn",
    k: Annotated[int, Option(help="knn: number of neighbours.")] = 1,
    metric: Annotated[Literal["cosine", "euclidean"], Option(help="knn: distance.")] = "cosine",
    temperature: Temperature = 0.02,
    curve: Annotated[bool, Option("--curve", help="knn: also measure 1 to 50 neighbours (knn_curve.png).")] = False,
    without_leaks: Annotated[
        bool, Option("--without-leaks", help="Leave out test barcodes that are copies or parts of train barcodes.")
    ] = False,
    protocol: Annotated[
        Literal["default", "upstream"], Option(help="linear: upstream is the published protocol.")
    ] = "default",
    labels: Annotated[
        Path | None,
        Option(metavar="labels.json", help="Label ids. Default: those of SOURCE, which must be a whole release."),
    ] = None,
    force: Force = False,
    *,
    out: Output,
) -> Result:
    """Measure embeddings: species of test and genus of test_unseen, by nearest neighbour or linear probe."""
    output = output or embeddings / "results.json"
    if curve and probe == "linear":
        raise ValueError("--curve is of nearest neighbours. Leave it out, or choose --probe knn.")
    picture = output.with_name("knn_curve.png")
    refuse_inputs([source, *([labels] if labels else [])], output)
    refuse_to_replace(force, output, *([picture] if curve else []))
    check_source(source)
    check_exists(labels)
    require_embeddings(embeddings, ("train",))
    from ..evaluation.probe_protocol import KnnOptions, evaluate_probe, load_probe, write_curves
    from ..provenance import write_results

    no_library_bars(out)
    how = {"protocol": protocol} if probe == "linear" else KnnOptions(k, metric, temperature).used()
    with out.progress("probing"):
        data = load_probe(source, embeddings, labels)
        found = evaluate_probe(data, probe, how, curve=curve, without_leaks=without_leaks)
    results = write_results(
        output,
        task=f"barcodebert/{probe}",
        options=how | ({"without_leaks": True} if without_leaks else {}),
        dataset=source,
        splits=data.sizes,
        left_out=data.left_out,
        embeddings=str(embeddings),
        **found.content(),
    )
    for line in (*data.told(), *found.lines()):
        out.say(line)
    if curve := bool(found.curves):
        write_curves(picture, found.curves)
    then = shell("retrieve", source, embeddings) if (embeddings / "key_unseen").is_dir() else ()
    out.wrote(*([picture] if curve else []), output, next=then)
    return results


@command(PANEL, "bioscan-hf retrieve dataset embeddings")
def retrieve(
    source: Labels,
    embeddings: EmbeddedSplits,
    output: Annotated[
        Path | None, Option(help="Results file. Default: retrieval.json in the folder of the embeddings.")
    ] = None,
    ties: Annotated[
        Literal["vote", "parity"], Option(help="Among equally near keys: vote, or parity, their order as published.")
    ] = "vote",
    index: Annotated[
        Literal["exact", "hnsw", "ivfpq"], Option(help="Kind of index. hnsw and ivfpq need faiss.")
    ] = "exact",
    force: Force = False,
    *,
    out: Output,
) -> Result:
    """Measure retrieval: top-1, 3 and 5 accuracy of seen and unseen species, with keys of train and key_unseen."""
    output = output or embeddings / "retrieval.json"
    refuse_inputs([source], output)
    refuse_to_replace(force, output)
    splits = ("train", "key_unseen", "test", "test_unseen")
    check_source(source)
    require_embeddings(embeddings, splits)
    from ..evaluation.probe_protocol import percent
    from ..evaluation.retrieval_protocol import evaluate_retrieval
    from ..evaluation.specimens import embedded_specimens, joined
    from ..provenance import write_results

    no_library_bars(out)
    with out.progress("retrieving"):
        found = {name: embedded_specimens(embeddings / name, source, name) for name in splits}
        metrics = evaluate_retrieval(
            joined([found["train"], found["key_unseen"]]),
            {"seen": found["test"], "unseen": found["test_unseen"]},
            ties=ties,
            kind=index,
        )
    present = {name: next(iter(part.present.values())) for name, part in found.items()}
    left_out = {name: int((~there).sum()) for name, there in present.items()}
    results = write_results(
        output,
        task="clibd/retrieval",
        options={"ties": ties, "index": index},
        dataset=source,
        splits={name: int(there.sum()) for name, there in present.items()},
        left_out=left_out,
        embeddings=str(embeddings),
        metrics=metrics,
    )
    for combination, tables in metrics.items():
        ranks = list(tables["seen"]["micro"][1])
        out.say(f"{'top-1, ' + combination:<20}" + "".join(f"{rank:>10}" for rank in ranks) + f"{'queries':>10}")
        for name in ("seen", "unseen"):
            shown = "".join(f"{percent(value):>10}" for value in tables[name]["micro"][1].values())
            out.say(f"{name:<20}{shown}{tables[name]['queries']:>10,}")
    for name, count in left_out.items():
        if count:
            out.say(f"Left out of {name}: {count:,} without a valid embedding.")
    out.wrote(output, next=shell("cluster", source, embeddings, "--output", beside(embeddings, "clusters")))
    return results


group = Typer(no_args_is_help=True, rich_markup_mode="rich")
app.add_typer(
    group,
    name="evaluate",
    help=f"\b\nExample:\n  {EVALUATIONS['clibd'].examples[0]}\n\n{EVALUATIONS['clibd'].about}",
    short_help=EVALUATIONS["clibd"].about,
    rich_help_panel=PANEL,
)


def _evaluate(name: str, words: list[str], out: Output) -> Result:
    """Runs an evaluation."""
    program, (options,) = parsed(EVALUATIONS[name], words)
    from ..training.run import in_processes

    with printing_of(out):
        results: Result = in_processes(lambda: program.evaluate(options))
    if results and in_main_process():
        folder = options.output_dir.rstrip("/")
        table = shell("evaluate", name, "--table", f"model={folder}", "--output_dir", f"{folder}_table")
        out.wrote(options.output_dir, next=() if options.table else table)
    return results


add_programs(group, "evaluate", _evaluate)
