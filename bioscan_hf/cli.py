"""The command line, `bioscan-hf`: one subcommand per step from release files to numbers.

Starts without torch; each command imports what it needs. Errors are one line on standard error and exit status 1
(2 for unusable arguments); `--debug` shows where they come from.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import __version__
from .taxonomy import CONFIGS, SPLITS

Result = dict[str, Any]


def parser() -> argparse.ArgumentParser:
    """The arguments of every command."""
    top = argparse.ArgumentParser(
        prog="bioscan-hf",
        description="BIOSCAN-5M and its benchmarks: from release files to a measured DNA classifier.",
        epilog="`bioscan-hf COMMAND --help` shows an example of each.",
    )
    top.add_argument("--version", action="version", version=f"bioscan-hf {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print the result as JSON, and nothing else")
    common.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], Result], text: str, example: str) -> Any:
        sub = commands.add_parser(
            name,
            parents=[common],
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(run=run)
        return sub

    sub = command(
        "demo", _demo, "run everything on a made-up release and write a report", "bioscan-hf demo --output demo"
    )
    sub.add_argument("--output", type=Path, default=Path("demo"), help="new folder (default: demo)")
    sub.add_argument("--specimens", type=int, default=3000, help="size of the made-up release (default: 3000)")
    sub.add_argument("--steps", type=int, default=400, help="steps of pretraining (default: 400)")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--force", action="store_true", help="replace an earlier demo in that folder")

    sub = command(
        "simulate",
        _simulate,
        "write a small made-up release in the published layout",
        "bioscan-hf simulate release --specimens 2000 --seed 0",
    )
    sub.add_argument("output", type=Path, help="new folder")
    sub.add_argument("--specimens", type=int, default=2000)
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--folders", action="store_true", help="write photos into folders instead of zips")
    sub.add_argument("--force", action="store_true", help="replace an earlier simulation in that folder")

    sub = command(
        "split",
        _split,
        "partition a metadata CSV as the paper does",
        "bioscan-hf split barcodes.csv.gz partitioned.csv --seed 0",
    )
    sub.add_argument("input", type=Path, help="CSV (or .csv.gz) with processid, genus, species and dna_barcode")
    sub.add_argument("output", type=Path, help="CSV to write; a column `split` is added or filled")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument(
        "--hold-out-species",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="simulation: treat this share of the species as unnamed, so that there are unseen species",
    )
    sub.add_argument(
        "--unlabel",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="simulation: take the labels from this share of the other barcodes, so that there is a pretrain split",
    )
    sub.add_argument("--force", action="store_true", help="replace the output file")

    sub = command(
        "build",
        _build,
        "write a release as Parquet that load_dataset reads by name",
        "bioscan-hf build release dataset --config cropped_256",
    )
    sub.add_argument("source", type=Path, help="folder of a release, or a metadata CSV")
    sub.add_argument("output", type=Path, help="new folder, or that of an interrupted build")
    sub.add_argument(
        "--config",
        action="append",
        choices=CONFIGS,
        help="what to build, repeatable; dna always is (default: all that the source has photos for)",
    )
    sub.add_argument("--workers", type=int, default=1, help="processes that read photos (default: 1)")
    sub.add_argument("--keep-going", action="store_true", help="report problems in problems.csv instead of stopping")
    sub.add_argument("--force", action="store_true", help="replace another build in that folder")

    sub = command(
        "embed",
        _embed,
        "write the embeddings of barcodes",
        "bioscan-hf embed dataset embeddings --model out/barcodebert --split train --split test_unseen",
    )
    sub.add_argument("source", help="Hub id, Parquet folder, release folder or metadata CSV")
    sub.add_argument(
        "output", type=Path, help="folder; each split gets a folder in it, and an interrupted run goes on"
    )
    sub.add_argument(
        "--model", required=True, help="folder or Hub id of a BarcodeBERT, or kmer:K for counts of K-mers"
    )
    sub.add_argument("--split", action="append", help=f"repeatable (default: train, test, test_unseen); {SPLITS}")
    sub.add_argument("--batch-size", type=int, default=256)
    sub.add_argument("--unique-barcodes", action="store_true", help="one specimen of each barcode")

    sub = command(
        "probe",
        _probe,
        "measure embeddings: species of test, genus of test_unseen, by nearest neighbour in train",
        "bioscan-hf probe dataset embeddings --output probe.json",
    )
    sub.add_argument("source", help="where the labels are: the source that was embedded")
    sub.add_argument("embeddings", type=Path, help="what `bioscan-hf embed` wrote")
    sub.add_argument("--output", type=Path, help="results file (default: results.json in EMBEDDINGS)")
    sub.add_argument("--k", type=int, default=1, help="neighbours (default: 1)")
    sub.add_argument("--metric", choices=("cosine", "euclidean"), default="cosine")
    return top


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command; prints its result, as JSON with --json."""
    options = parser().parse_args(arguments)
    try:
        result = options.run(options)
    except (ValueError, KeyError, OSError, RuntimeError) as error:
        if options.debug:
            raise
        message = error.args[0] if isinstance(error, KeyError) else error
        print(f"bioscan-hf {options.command}: {message}", file=sys.stderr)
        raise SystemExit(1) from None
    if options.json:
        print(json.dumps(result, ensure_ascii=False))


def _say(options: argparse.Namespace, *lines: str) -> None:
    if not options.json:
        print(*lines, sep="\n", flush=True)


def _demo(options: argparse.Namespace) -> Result:
    from .demo import run_demo

    return run_demo(
        options.output,
        specimens=options.specimens,
        steps=options.steps,
        seed=options.seed,
        force=options.force,
        say=lambda line: _say(options, line),
    )


def _simulate(options: argparse.Namespace) -> Result:
    from .simulate import simulate_release

    root = simulate_release(
        options.output, options.specimens, options.seed, folders=options.folders, force=options.force
    )
    _say(options, f"Wrote {options.specimens} made-up specimens to {root}")
    return {"output": str(root), "specimens": options.specimens, "seed": options.seed}


def _split(options: argparse.Namespace) -> Result:
    from .partition import make_splits, split_summary
    from .release import read_table, write_csv
    from .results import write_results

    if options.output.exists() and not options.force:
        raise FileExistsError(f"{str(options.output)!r} exists. Give another name, or --force to replace it.")
    table = read_table(options.input, required=("processid", "genus", "species", "dna_barcode"))
    table = make_splits(table, options.seed, hold_out_species=options.hold_out_species, unlabel=options.unlabel)
    write_csv(table, options.output)
    shares = {"hold_out_species": options.hold_out_species, "unlabel": options.unlabel}
    simulated = any(shares.values())
    result = write_results(
        options.output.with_name(f"{options.output.name}.results.json"),
        task="partition",
        source=options.input.name,
        output=str(options.output),
        options={"seed": options.seed, "simulated": simulated, **shares},
        metrics={},
        splits=split_summary(table),
    )
    if simulated:
        _say(
            options,
            f"SIMULATED partition: {options.hold_out_species:.0%} of the species treated as unnamed, "
            f"{options.unlabel:.0%} of the other barcodes without labels (true names in original_species).",
        )
    _say(options, f"{'split':<15}{'samples':>10}{'barcodes':>10}{'species':>10}")
    for row in result["splits"]:
        _say(options, f"{row['split']:<15}{row['samples']:>10,}{row['barcodes']:>10,}{row['species']:>10,}")
    _say(options, f"Wrote {options.output} and {options.output.name}.results.json")
    return result


def _build(options: argparse.Namespace) -> Result:
    from tqdm import tqdm

    from .build import PROBLEMS_FILE, build

    with tqdm(unit=" rows", delay=2, disable=options.json) as bar:

        def progress(config: str, rows: int) -> None:
            bar.set_description(config)
            bar.update(rows)

        manifest = build(
            options.source,
            options.output,
            options.config,
            workers=options.workers,
            keep_going=options.keep_going,
            force=options.force,
            progress=progress,
        )
    rows = sum(shard["rows"] for name, shard in manifest.shards.items() if name.startswith("dna/"))
    configs = manifest.about["configs"]
    _say(options, f"{rows:,} specimens in {options.output}, as {', '.join(configs)}. In Python:")
    _say(options, f'  load_dataset("{options.output}", "{configs[-1]}")')
    if manifest.problems:
        _say(options, f"{len(manifest.problems)} problems are listed in {options.output / PROBLEMS_FILE}")
    return {
        "output": str(options.output),
        "rows": rows,
        "configs": configs,
        "shards": len(manifest.shards),
        "problems": [vars(problem) for problem in manifest.problems],
    }


def _embed(options: argparse.Namespace) -> Result:
    from datasets import disable_progress_bars

    from .baselines import load_encoder
    from .data import load_bioscan5m
    from .embedding import embed

    disable_progress_bars()  # those of datasets; embedding has its own
    model, processor = load_encoder(options.model)
    sizes = {}
    for split in options.split or ("train", "test", "test_unseen"):
        data = load_bioscan5m(options.source, "dna", split, unique_barcodes=options.unique_barcodes)
        found = embed(model, processor, data, batch_size=options.batch_size, output=options.output / split)
        sizes[split] = len(found.processids)
        short = int((~found.valid).sum())
        note = f"; {short} hold no whole token: their vector is zero, their `valid` false" if short else ""
        _say(options, f"{split}: {len(found.processids):,} x {found.embeddings.shape[1]}{note}")
    _say(options, f"Wrote {options.output}")
    return {"output": str(options.output), "model": options.model, "rows": sizes}


def _probe(options: argparse.Namespace) -> Result:
    from datasets import disable_progress_bars

    from .data import labels_of
    from .embedding import load_embeddings
    from .probing import probe_barcodes
    from .results import write_results

    disable_progress_bars()
    splits = ("train", "test", "test_unseen")
    for split in splits:
        if not (options.embeddings / split).is_dir():
            raise FileNotFoundError(
                f"No embeddings of {split!r} in {str(options.embeddings)!r}: run `bioscan-hf embed` for it first."
            )
    embeddings = {split: load_embeddings(options.embeddings / split) for split in splits}
    metrics = probe_barcodes(
        {split: found.embeddings for split, found in embeddings.items()},
        {split: labels_of(options.source, split, found.processids) for split, found in embeddings.items()},
        k=options.k,
        metric=options.metric,
    )
    output = options.output or options.embeddings / "results.json"
    results = write_results(
        output,
        task="barcodebert/knn",
        options={"k": options.k, "metric": options.metric},
        dataset=str(options.source),
        splits={split: len(found.processids) for split, found in embeddings.items()},
        embeddings=str(options.embeddings),
        metrics=metrics,
    )
    for name, value in metrics.items():
        text = "no data" if value["micro_accuracy"] is None else f"{value['micro_accuracy']:.4f}"
        _say(options, f"{name:<22} {text}  ({value['n_test']:,} queries, {value['n_train']:,} keys)")
    _say(options, f"Wrote {output}")
    return results


if __name__ == "__main__":
    main()
