"""The commands train pretrain, finetune, contrast and clibd: the programs of `bioscan_hf.trainers`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import typer

from ..terminal import aligned
from ..training.options.programs import PROGRAMS
from .command import Output, Result, app, in_main_process
from .programs import add_programs, parsed, printing_of

group = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
app.add_typer(
    group,
    name="train",
    help="\b\nExample:\n"
    + "\n".join(f"  {program.examples[0]}" for program in PROGRAMS.values())
    + "\n\nTrain models: each program has its own --help. `accelerate launch -m bioscan_hf.cli.main train ...` uses "
    "several GPUs.",
    short_help="Train BarcodeBERT, taxon classifiers, encoders for nearest neighbours, and CLIBD.",
    rich_help_panel="Models",
)


def _train(name: str, words: list[str], out: Output) -> Result:
    """Runs a trainer, and shows its metrics and the next command."""
    trainer, (options, training_args) = parsed(PROGRAMS[name], words)
    from ..training.run import in_processes

    if out.silent:
        training_args.disable_tqdm, training_args.log_level = True, "error"
    with printing_of(out):  # the Trainer prints what it logs
        results: Result = in_processes(lambda: trainer.main(options, training_args))
    if results and in_main_process():
        folder = training_args.output_dir
        rows = list(_metrics(results))
        out.say(*aligned(rows, min(2, len(rows[0]) - 1)))  # a text or two, then numbers
        out.wrote(folder, next=_next(name, options.source, folder))
    return results


def _metrics(results: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    """The rows of a table with the metrics of a training: fractions in percent."""
    metrics = results["metrics"]
    if "retrieval" in metrics:
        yield "query->key", "rank", "seen", "unseen", "harmonic mean"
        for question, found in metrics["retrieval"].items():
            top1 = [next(iter(found[part]["macro"].values())) for part in ("seen", "unseen", "harmonic_mean")]
            yield from ((question, rank, *(_shown(part.get(rank)) for part in top1)) for rank in top1[0])
    elif "independent" in metrics:
        yield "split", "rank", "accuracy", "macro accuracy", "macro F1"
        for split, ranks in metrics["independent"].items():
            for rank, values in ranks.items():
                yield split, rank, *(_shown(values[key]) for key in ("micro_accuracy", "macro_accuracy", "f1_macro"))
    else:
        yield "metric", "value"
        for key, value in ((key, value) for key, value in metrics.items() if value is not None):
            name, nats = key.replace("_", " "), key.endswith("_nats")
            yield name.removesuffix(" nats"), f"{value:.4f} nats" if nats else _shown(value)


def _shown(share: float | None) -> str:
    return "no data" if share is None else f"{share:.1%}"


def _next(name: str, source: str, folder: str) -> list[str]:
    """Commands that use the trained model."""
    source, model, beside = shlex.quote(source), shlex.quote(folder), folder.rstrip("/")
    embeddings, retrieval = shlex.quote(f"{beside}_embeddings"), shlex.quote(f"{beside}_retrieval")
    if name == "pretrain":
        return [
            f"bioscan-hf embed {source} {embeddings} --model {model}",
            f"bioscan-hf probe {source} {embeddings}",
        ]
    if name == "clibd":
        return [f"bioscan-hf evaluate clibd --model {model} --source {source} --output_dir {retrieval}"]
    return [f"bioscan-hf identify reads.fasta names.csv --model {model} --references {source}"]


add_programs(group, "train", _train)
