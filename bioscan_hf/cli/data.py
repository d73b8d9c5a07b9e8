"""Commands of the dataset: download, split, crop, build, publish, stats."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer import Argument, Option

from ..schema import CONFIGS, resolve_splits
from .command import Output, Result, command
from .options import (
    Config,
    Force,
    Seed,
    Source,
    beside,
    check_exists,
    check_model,
    check_source,
    plural,
    refuse_file,
    refuse_inputs,
    refuse_to_replace,
    shell,
)

PANEL = "The dataset"

KeepGoing = Annotated[
    bool, Option("--keep-going", help="List problems in problems.csv instead of stopping at the first.")
]

TableEncoding = Annotated[str, Option(help="Text encoding of the table.")]


def _known_configs(given: list[str] | None) -> list[str] | None:
    for name in given or ():
        if name not in CONFIGS:
            raise typer.BadParameter(f"{name!r} is not one of {', '.join(CONFIGS)}.")
    return given


@command(PANEL, "bioscan-hf download release --config cropped_256 --split train")
def download(
    output: Annotated[Path, Argument(help="Folder. Correct files in it are not downloaded again.")],
    dataset: Annotated[
        Literal["bioscan-5m", "canadian-invertebrates"],
        Option(help="canadian-invertebrates is one table with all splits."),
    ] = "bioscan-5m",
    config: Annotated[Config, Option(help="Photos to download; dna: metadata and barcodes only.")] = "dna",
    split: Annotated[str, Option(help="A split, seen, unseen, all, or a+b.")] = "all",
    source: Annotated[str, Option(help="hub, or the URL of a folder with the files.")] = "hub",
    revision: Annotated[str | None, Option(help="Revision on the Hub. Default: the one with known checksums.")] = None,
    boxes: Annotated[bool, Option("--boxes", help="Download the table of bounding boxes as well.")] = False,
    retries: Annotated[int, Option(help="Attempts without progress before giving up.")] = 5,
    check: Annotated[
        bool, Option("--check", help="Download nothing: list present, missing and damaged files.")
    ] = False,
    reread: Annotated[bool, Option("--reread", help="Compute the checksums of all files again.")] = False,
    *,
    out: Output,
) -> Result:
    """Download the published files of a config and split, and verify them."""
    from ..release.download import DownloadError
    from ..release.download import download as fetch
    from ..release.local_files import check as check_files

    how: dict[str, Any] = {"boxes": boxes, "dataset": dataset, "reread": reread}
    with out.progress(in_bytes=True) as progress:
        if check:
            states = check_files(output, config, split, progress=progress, **how)
        else:
            how |= {"source": source, "revision": revision, "retries": retries, "say": out.say}
            states = fetch(output, config, split, progress=progress, **how)
    if check:
        out.say(*map(str, states))
    unusable = [state for state in states if not state.usable]
    if unusable:
        raise DownloadError(f"{len(unusable)} of {len(states)} files are not there as published.", states)
    if not check:
        out.wrote(output, next=shell("build", output, beside(output, "dataset")) if dataset == "bioscan-5m" else ())
    return {"output": str(output), "files": [{"name": state.name, "state": state.state} for state in states]}


#: Split -> why it can be empty.
_EMPTY = {
    "test": "test is empty: it takes rows of species with 8 or more, of several barcodes.",
    "test_unseen": "test_unseen is empty: it takes rows of placeholders such as Apis sp. 1, with 8\nor more, of a "
    "genus in train; --hold-out-species simulates them.",
}


@command(PANEL, "bioscan-hf split barcodes.csv.gz partitioned.csv --seed 0")
def split(
    input: Annotated[Path, Argument(help="Table with processid, genus, species and dna_barcode (or BOLD's names).")],
    output: Annotated[
        Path, Argument(help="Table to write, .csv, .tsv or .jsonl, also .gz. The column `split` is added or filled.")
    ],
    seed: Seed = 0,
    hold_out_species: Annotated[
        float, Option(metavar="SHARE", help="Simulation: treat this share of the species as unnamed.")
    ] = 0.0,
    unlabel: Annotated[
        float, Option(metavar="SHARE", help="Simulation: remove the labels of this share of other barcodes.")
    ] = 0.0,
    no_overlap: Annotated[
        bool,
        Option("--no-overlap", help="Move test barcodes that are part of a reference (or contain one) to train."),
    ] = False,
    encoding: TableEncoding = "utf-8",
    force: Force = False,
    *,
    out: Output,
) -> Result:
    """Partition a table of barcodes as in the paper."""
    about = output.with_name(f"{output.name}.results.json")
    check_exists(input)
    refuse_inputs([input], output, about)
    refuse_to_replace(force, output, about)
    from ..dataset.split_file import split_file
    from ..provenance import write_results

    options: dict[str, Any] = {"hold_out_species": hold_out_species, "unlabel": unlabel, "no_overlap": no_overlap}
    with out.progress("splitting"):
        splits = split_file(input, output, seed, encoding=encoding, tell=out.say, **options)
    simulated = bool(hold_out_species or unlabel)
    result = write_results(
        about,
        task="partition",
        source=input.name,
        output=str(output),
        options={"seed": seed, "simulated": simulated, **options},
        metrics={},
        splits=splits,
    )
    if simulated:
        out.say(
            f"SIMULATED partition: {hold_out_species:.0%} of the species treated as unnamed, "
            f"{unlabel:.0%} of the other barcodes without labels (true names in original_species)."
        )
    out.say(f"{'split':<15}{'samples':>10}{'barcodes':>10}{'species':>10}")
    for row in result["splits"]:
        out.say(f"{row['split']:<15}{row['samples']:>10,}{row['barcodes']:>10,}{row['species']:>10,}")
    empty = {row["split"] for row in result["splits"] if not row["samples"]}
    out.say(*(line for name, line in _EMPTY.items() if name in empty))
    builds = output.suffix in (".csv", ".tsv")
    out.wrote(output, about, next=shell("build", output, beside(output, "dataset")) if builds else ())
    return result


@command(PANEL, "bioscan-hf crop release crops --boxes release/BIOSCAN_5M_Insect_bbox.tsv")
def crop(
    source: Annotated[Path, Argument(help="Release with original photos, or folder of photos.")],
    output: Annotated[Path, Argument(help="New folder, or the folder of an interrupted run.")],
    boxes: Annotated[Path | None, Option(help="Tab-separated table of bounding boxes.")] = None,
    model: Annotated[str | None, Option(help="Folder or Hub id of a DETR that detects insects.")] = None,
    package: Annotated[
        str | None, Option(help="Photos of a release. Default: original_full, else original_256.")
    ] = None,
    split: Annotated[str, Option(help="A split, seen, unseen, all, or a+b.")] = "all",
    style: Annotated[str, Option(help="Margin and padding: bioscan5m, croptool or bioscan1m.")] = "bioscan5m",
    size: Annotated[int, Option(help="Shorter side in pixels; 0 does not resize.")] = 256,
    workers: Annotated[int, Option(help="Processes that crop.")] = 1,
    keep_going: KeepGoing = False,
    encoding: Annotated[str, Option(help="Text encoding of the tables: boxes and metadata.")] = "utf-8",
    *,
    out: Output,
) -> Result:
    """Crop photos to the insect, by a table of boxes or a detector."""
    if (boxes is None) == (model is None):
        raise typer.BadParameter("give --boxes or --model, one of them.")
    check_exists(source, boxes)
    refuse_file(output)
    refuse_inputs([source], output)
    if model is not None:
        check_model(model)
    from ..crops.detector import Detector
    from ..crops.run import CropOptions, crop_folder
    from ..release.boxes import read_boxes
    from ..release.problems import refuse

    options = CropOptions(style, size or None)
    if boxes is not None:
        found: Any = read_boxes(boxes, refuse, encoding=encoding)
    else:
        from transformers import AutoImageProcessor, DetrForObjectDetection

        detector = DetrForObjectDetection.from_pretrained(model).eval()
        found = Detector(detector, AutoImageProcessor.from_pretrained(model))
    with out.progress() as progress:
        done = crop_folder(
            source,
            output,
            found,
            package=package,
            split=split,
            options=options,
            workers=workers,
            keep_going=keep_going,
            encoding=encoding,
            progress=progress,
        )
    out.say(f"{plural(done.written, 'new crop')}, {done.present:,} already present")
    if done.problems:
        out.say(f"Left out: {plural(len(done.problems), 'photo')}; see {output / 'problems.csv'}")
    out.wrote(output)
    return {
        "output": str(output),
        "written": done.written,
        "present": done.present,
        "problems": [vars(problem) for problem in done.problems],
    }


BuiltConfigs = Annotated[
    list[str] | None,
    Option(
        metavar="|".join(CONFIGS),
        callback=_known_configs,
        autocompletion=lambda: CONFIGS,
        help="Config to build, repeatable; dna is always built. Default: all with photos in the source.",
    ),
]


@command(PANEL, "bioscan-hf build release dataset --config cropped_256")
def build(
    source: Annotated[Path, Argument(help="Release folder, or its metadata (CSV, TSV, JSON-LD, zip).")],
    output: Annotated[Path, Argument(help="New folder, or the folder of an interrupted build.")],
    config: BuiltConfigs = None,
    split: Annotated[
        str | None, Option(help="Build some splits only: a split, seen, unseen, or a+b. Default: all.")
    ] = None,
    workers: Annotated[int, Option(help="Processes that read photos.")] = 1,
    dask: Annotated[
        str | None,
        Option(
            metavar="tcp://HOST:PORT",
            help="Dask scheduler whose workers read the photos; they must see both folders under the same paths.",
        ),
    ] = None,
    keep_going: KeepGoing = False,
    encoding: TableEncoding = "utf-8",
    force: Annotated[bool, Option("--force", help="Replace another build in that folder.")] = False,
    *,
    out: Output,
) -> Result:
    """Write a release as Parquet that load_dataset reads by name."""
    check_exists(source)
    refuse_file(output)
    refuse_inputs([source], output)
    from ..dataset.build import build as write
    from ..dataset.executors import dask_executor

    with nullcontext() if dask is None else dask_executor(dask) as executor, out.progress() as progress:
        manifest = write(
            source,
            output,
            config or None,
            splits=None if split is None else resolve_splits(split),
            workers=workers,
            executor=executor,
            keep_going=keep_going,
            encoding=encoding,
            force=force,
            progress=progress,
        )
    rows, configs = sum(manifest.counts.values()), manifest.about["configs"]
    out.say(f"{plural(rows, 'specimen')} as {', '.join(configs)}. In Python:")
    out.say(f'  load_dataset("{output}", "{configs[-1]}")')
    if manifest.problems:
        out.say(f"Problems: {len(manifest.problems):,}; see {output / 'problems.csv'}")
    out.wrote(output, next=shell("stats", output))
    return {
        "output": str(output),
        "rows": rows,
        "configs": configs,
        "complete": manifest.complete,
        "shards": len(manifest.shards),
        "problems": [vars(problem) for problem in manifest.problems],
    }


@command(PANEL, "bioscan-hf publish dataset user/my-barcodes --private")
def publish(
    folder: Annotated[Path, Argument(help="Output of `bioscan-hf build` or `bioscan-hf references`.")],
    repo_id: Annotated[str, Argument(help="user/name. The repository is created if it does not exist.")],
    private: Annotated[bool, Option("--private", help="Make a new repository private.")] = False,
    revision: Annotated[str | None, Option(help="Branch. Default: main.")] = None,
    license: Annotated[
        str | None,
        Option(
            metavar="ID",
            help="Licence of the data, such as cc0-1.0. Default: that of the card (README.md); references need it.",
        ),
    ] = None,
    force: Annotated[
        bool, Option("--force", help="Publish the card of the folder even if it was edited on the Hub as well.")
    ] = False,
    *,
    out: Output,
) -> Result:
    """Upload a dataset or a library of references to the Hub.

    An interrupted upload of a dataset resumes, and your edits of its card are kept.
    """
    check_exists(folder)
    from ..dataset.publish import publish as upload
    from ..identification.stored import is_library

    if is_library(folder):
        from ..identification.publish import push_folder

        if license is None:
            raise typer.BadParameter("the licence of the references is not known: give --license, such as cc-by-4.0.")
        url = push_folder(folder, repo_id, license=license, private=private, revision=revision)
        use = f"bioscan-hf identify reads.fasta names.csv --references {repo_id}"
    else:
        how: dict[str, Any] = {"private": private, "revision": revision, "license": license, "force": force}
        with out.progress(in_bytes=True) as progress:
            url = upload(folder, repo_id, progress=progress, **how)
        use = f'load_dataset("{repo_id}", split="train", streaming=True)'
    out.say(f"Published: {url}", f"  {use}")
    return {"repo_id": repo_id, "commit": url}


@command(PANEL, "bioscan-hf stats dataset --plots pictures")
def stats(
    source: Source,
    plots: Annotated[Path | None, Option(metavar="FOLDER", help="Write figures to this folder.")] = None,
    distances: Annotated[bool, Option("--distances", help="Add pairwise barcode distances per rank (slow).")] = False,
    max_barcodes: Annotated[
        int | None, Option(metavar="N", help="Sample at most N barcodes per group for the distances.")
    ] = None,
    seed: Seed = 0,
    encoding: TableEncoding = "utf-8",
    force: Force = False,
    *,
    out: Output,
) -> Result:
    """Describe a dataset: splits, ranks, diversity, places, sizes, lengths."""
    check_source(source)
    if plots is not None:
        refuse_file(plots)
        refuse_to_replace(force, *sorted(plots.glob("*.png")))
    from ..statistics.measures import describe

    with out.progress() as progress:
        summary = describe(
            source,
            distances=distances,
            seed=seed,
            max_per_group=max_barcodes,
            encoding=encoding,
            progress=progress,
        )
    if not out.silent:
        from rich.console import Console

        from ..statistics.tables import tables

        for table in tables(summary):
            Console().print(table)
    if plots is not None:
        from ..statistics.figures import save_figures

        out.wrote(*save_figures(summary, plots))
    return summary
