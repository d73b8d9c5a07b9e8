"""What the commands of `bioscan-hf` do: each takes its parsed arguments and returns its result, ready for JSON.

Heavy libraries are imported where a command needs them, so that help and errors come at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..schema import resolve_splits

Options = argparse.Namespace
Result = dict[str, Any]


def say(options: Options, *lines: str) -> None:
    """Prints lines for a person; nothing under --json or --quiet."""
    if not (options.json or options.quiet):
        print(*lines, sep="\n", flush=True)


def refuse_to_replace(force: bool, *files: Path) -> None:
    """Raises FileExistsError if one of the files is there, unless `force`."""
    there = [str(file) for file in files if file.exists()]
    if there and not force:
        raise FileExistsError(f"{there[0]!r} exists. Give another name, or --force to replace it.")


@contextmanager
def bar(options: Options, unit: str) -> Iterator[Any]:
    """A progress bar that appears after two seconds; none under --json or --quiet."""
    from tqdm import tqdm

    with tqdm(unit=unit, delay=2, disable=options.json or options.quiet, unit_scale=unit == "B") as shown:
        yield shown


class Stages:
    """A progress bar for work in stages: set to what is done of the stage named last, and begun anew for another."""

    def __init__(self, shown: Any):
        self.shown, self.stage = shown, ""

    def __call__(self, stage: str, done: int, total: int | None = None) -> None:
        if stage != self.stage:
            self.stage = stage
            self.shown.n = self.shown.last_print_n = 0
            self.shown.total = total
            self.shown.set_description(stage, refresh=False)
        self.shown.update(done - self.shown.n)  # unlike `refresh`, does not show a bar before its time


def demo(options: Options) -> Result:
    from .demo import run_demo

    return run_demo(
        options.output,
        specimens=options.specimens,
        steps=options.steps,
        seed=options.seed,
        force=options.force,
        say=lambda line: say(options, line),
    )


def simulate(options: Options) -> Result:
    from ..simulate.release import simulate_release

    with bar(options, " rows") as shown:
        root = simulate_release(
            options.output,
            options.specimens,
            options.seed,
            folders=options.folders,
            force=options.force,
            metadata_only=options.metadata_only,
            progress=shown.update,
        )
    say(options, f"Wrote {options.specimens:,} made-up specimens to {root}")
    return {"output": str(root), "specimens": options.specimens, "seed": options.seed}


def download(options: Options) -> Result:
    from ..release.catalogue import check
    from ..release.download import REVISION, DownloadError
    from ..release.download import download as fetch

    with bar(options, "B") as shown:
        if options.check:
            states = check(
                options.output,
                options.config,
                options.split,
                boxes=options.boxes,
                reread=options.reread,
                progress=Stages(shown),
            )
        else:
            states = fetch(
                options.output,
                options.config,
                options.split,
                source=options.source,
                revision=options.revision or REVISION,
                boxes=options.boxes,
                retries=options.retries,
                progress=Stages(shown),
                say=lambda line: say(options, line),
            )
    lacking = [state for state in states if not state.usable]
    if options.check:
        say(options, *map(str, states))
    if lacking:
        raise DownloadError(f"{len(lacking)} of {len(states)} files are not there as published.", states)
    return {"output": str(options.output), "files": [{"name": state.name, "state": state.state} for state in states]}


def split(options: Options) -> Result:
    from ..partition.assign import make_splits, split_summary
    from ..provenance import write_results
    from ..release.check import read_table, write_csv

    about = options.output.with_name(f"{options.output.name}.results.json")
    refuse_to_replace(options.force, options.output, about)
    table = read_table(options.input, required=("processid", "genus", "species", "dna_barcode"))
    table = make_splits(table, options.seed, hold_out_species=options.hold_out_species, unlabel=options.unlabel)
    write_csv(table, options.output)
    shares = {"hold_out_species": options.hold_out_species, "unlabel": options.unlabel}
    simulated = any(shares.values())
    result = write_results(
        about,
        task="partition",
        source=options.input.name,
        output=str(options.output),
        options={"seed": options.seed, "simulated": simulated, **shares},
        metrics={},
        splits=split_summary(table),
    )
    if simulated:
        say(
            options,
            f"SIMULATED partition: {options.hold_out_species:.0%} of the species treated as unnamed, "
            f"{options.unlabel:.0%} of the other barcodes without labels (true names in original_species).",
        )
    say(options, f"{'split':<15}{'samples':>10}{'barcodes':>10}{'species':>10}")
    for row in result["splits"]:
        say(options, f"{row['split']:<15}{row['samples']:>10,}{row['barcodes']:>10,}{row['species']:>10,}")
    say(options, f"Wrote {options.output} and {about.name}")
    return result


def crop(options: Options) -> Result:
    from ..crops.run import crop_folder
    from ..release.check import read_boxes

    how: dict[str, Any] = {}
    if options.boxes is not None:
        how["boxes"] = read_boxes(options.boxes)
    else:
        from transformers import AutoImageProcessor, DetrForObjectDetection

        how["model"] = DetrForObjectDetection.from_pretrained(options.model).eval()
        how["image_processor"] = AutoImageProcessor.from_pretrained(options.model)
    with bar(options, " photos") as shown:
        done = crop_folder(
            options.source,
            options.output,
            package=options.package,
            split=options.split,
            style=options.style,
            size=options.size or None,
            keep_going=options.keep_going,
            progress=shown.update,
            **how,
        )
    say(options, f"{done.written:,} crops written to {options.output}, {done.present:,} were there")
    if done.problems:
        say(options, f"{len(done.problems)} photos have no crop: see {options.output / 'problems.csv'}")
    return {
        "output": str(options.output),
        "written": done.written,
        "present": done.present,
        "problems": [vars(problem) for problem in done.problems],
    }


def build(options: Options) -> Result:
    from ..dataset.build import PROBLEMS_FILE
    from ..dataset.build import build as write

    if (options.shard is None) != (options.of is None):
        raise ValueError("--shard I and --of N go together: machine I, from 0 on, of N.")
    with bar(options, " rows") as shown:

        def progress(config: str, rows: int) -> None:
            shown.set_description(config, refresh=False)
            shown.update(rows)

        manifest = write(
            options.source,
            options.output,
            options.config,
            splits=None if options.split is None else resolve_splits(options.split),
            workers=options.workers,
            shard=None if options.shard is None else (options.shard, options.of),
            keep_going=options.keep_going,
            force=options.force,
            progress=progress,
        )
    rows = sum(manifest.counts.values())
    configs = manifest.about["configs"]
    if options.shard is not None:
        say(options, f"Part {options.shard} of {options.of} is written; the last call, without --shard, completes it.")
    else:
        say(options, f"{rows:,} specimens in {options.output}, as {', '.join(configs)}. In Python:")
        say(options, f'  load_dataset("{options.output}", "{configs[-1]}")')
    if manifest.problems:
        say(options, f"{len(manifest.problems)} problems are listed in {options.output / PROBLEMS_FILE}")
    return {
        "output": str(options.output),
        "rows": rows,
        "configs": configs,
        "complete": manifest.complete,
        "shards": len(manifest.shards),
        "problems": [vars(problem) for problem in manifest.problems],
    }


def publish(options: Options) -> Result:
    from ..dataset.publish import publish as upload

    with bar(options, "B") as shown:
        url = upload(
            options.folder,
            options.repo_id,
            private=options.private,
            revision=options.revision,
            progress=Stages(shown),
        )
    say(options, f"Published: {url}", f'  load_dataset("{options.repo_id}", split="train", streaming=True)')
    return {"repo_id": options.repo_id, "commit": url}


def stats(options: Options) -> Result:
    from ..statistics.measures import describe

    if options.plots is not None:
        refuse_to_replace(options.force, *sorted(options.plots.glob("*.png")))
    with bar(options, "") as shown:
        summary = describe(
            options.source,
            distances=options.distances,
            seed=options.seed,
            max_per_group=options.max_barcodes,
            progress=Stages(shown),
        )
    if not (options.json or options.quiet):
        from rich.console import Console

        from ..statistics.report import tables

        for table in tables(summary):
            Console().print(table)
    if options.plots is not None:
        from ..statistics.report import save_figures

        for path in save_figures(summary, options.plots):
            say(options, f"Wrote {path}")
    return summary
