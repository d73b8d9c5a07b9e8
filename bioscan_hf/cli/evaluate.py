"""Commands that evaluate: probe and retrieve, of embeddings, and evaluate clibd, of a model."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Argument, Option, Typer

from ..training.options.evaluate import EvaluateOptions
from ..training.options.given import check_names, read_given
from ..training.options.programs import EVALUATIONS
from .command import Output, Result, app, command, in_main_process
from .options import Force, Labels, no_library_bars, refuse_to_replace, require_embeddings
from .programs import add_programs, printing_of

PANEL = "Benchmarks of embeddings"


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
    temperature: Annotated[
        float | None, Option(help="knn: weight neighbours by similarity; smaller is steeper, such as 0.07.")
    ] = None,
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
    from ..dataset.load import labels_of
    from ..encoders.embed import load_embeddings
    from ..evaluation.probing import knn_probe, linear_probe, probe_barcodes
    from ..provenance import write_results

    output = output or embeddings / "results.json"
    refuse_to_replace(force, output)
    no_library_bars(out)
    splits = ("train", "test", "test_unseen")
    require_embeddings(embeddings, splits)
    found = {name: load_embeddings(embeddings / name) for name in splits}
    how: dict[str, Any] = {"k": k, "metric": metric, "temperature": temperature}
    if probe == "linear":
        how = {"protocol": protocol}
    metrics = probe_barcodes(
        {name: part.embeddings for name, part in found.items()},
        {name: labels_of(source, name, part.processids, labels) for name, part in found.items()},
        probe=linear_probe if probe == "linear" else knn_probe,
        **how,
    )
    results = write_results(
        output,
        task=f"barcodebert/{probe}",
        options=how,
        dataset=source,
        splits={name: len(part.processids) for name, part in found.items()},
        embeddings=str(embeddings),
        metrics=metrics,
    )
    for name, value in metrics.items():
        out.say(
            f"{name:<22} {_percent(value['micro_accuracy'])}  (test {value['n_test']:,}, train {value['n_train']:,})"
        )
    out.wrote(output)
    return results


@command(PANEL, "bioscan-hf retrieve dataset embeddings")
def retrieve(
    source: Labels,
    embeddings: Annotated[
        Path, Argument(help="Output of `bioscan-hf embed` for train, key_unseen, test and test_unseen.")
    ],
    output: Annotated[
        Path | None, Option(help="Results file. Default: retrieval.json in the folder of the embeddings.")
    ] = None,
    ties: Annotated[
        Literal["vote", "parity"], Option(help="Equally near keys vote, or are ordered as published.")
    ] = "vote",
    index: Annotated[
        Literal["exact", "hnsw", "ivfpq"], Option(help="Kind of index. hnsw and ivfpq need faiss.")
    ] = "exact",
    force: Force = False,
    *,
    out: Output,
) -> Result:
    """Measure retrieval: top-1, 3 and 5 of seen and unseen species among the keys of train and key_unseen."""
    from ..evaluation.retrieval_protocol import evaluate_retrieval
    from ..evaluation.specimens import barcode_specimens, joined
    from ..provenance import write_results

    output = output or embeddings / "retrieval.json"
    refuse_to_replace(force, output)
    no_library_bars(out)
    splits = ("train", "key_unseen", "test", "test_unseen")
    require_embeddings(embeddings, splits)
    found = {name: barcode_specimens(embeddings / name, source, name) for name in splits}
    metrics = evaluate_retrieval(
        joined([found["train"], found["key_unseen"]]),
        {"seen": found["test"], "unseen": found["test_unseen"]},
        ties=ties,
        kind=index,
    )
    results = write_results(
        output,
        task="clibd/retrieval",
        options={"ties": ties, "index": index},
        dataset=source,
        splits={name: len(part.ids) for name, part in found.items()},
        embeddings=str(embeddings),
        metrics=metrics,
    )
    for combination, tables in metrics.items():
        for name in ("seen", "unseen"):
            top1 = tables[name]["micro"][1]
            shown = ", ".join(f"{rank} {_percent(value)}" for rank, value in top1.items())
            out.say(f"{combination}, {name}: {shown} ({tables[name]['queries']:,} queries)")
    out.wrote(output)
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
    if "--help-all" not in words:
        check_names(read_given(words), (EvaluateOptions,))
    program = import_module(f"bioscan_hf.trainers.{EVALUATIONS[name].module}")
    from ..training.run import in_processes

    (options,) = program.parse(words)
    with printing_of(out):
        results: Result = in_processes(lambda: program.evaluate(options))
    if results and in_main_process():
        out.wrote(Path(options.output_dir))
    return results


add_programs(group, "evaluate", _evaluate)


def _percent(share: float | None) -> str:
    return "no data" if share is None else f"{share:.1%}"
