"""The demo: the three benchmarks and the names of reads on a simulated release, and a report with figures.

Release files -> Parquet -> encoders of barcodes (Task I) -> clusters (Task II) -> CLIBD (Task III) -> names.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from datasets import disable_progress_bars, load_dataset
from transformers.utils.logging import disable_progress_bar

from ..dataset.build import build
from ..files import delete_inside, write_text
from ..provenance import write_results
from ..simulate.release import simulate_release
from ..terminal import aligned
from . import demo_steps as steps_of
from .demo_report import FIGURES, PAGE, percent, write_report

MARKER = "demo.json"

#: Encoders of Task I -> folder of their embeddings.
ENCODERS = {"aligned": "aligned", "BarcodeBERT": "barcodebert", "4-mer counts": "kmer-4"}

#: Everything that a demo writes, and that `force` deletes.
FOLDERS = ("release", "dataset", "barcodebert", "aligned", "embeddings", "clusters", "clibd", "retrieval")
FILES = (*(f"{name}.png" for name in FIGURES), "reads.fasta", "names.csv", "names.html", "results.json", PAGE, MARKER)


def run_demo(
    output: str | Path,
    *,
    specimens: int = 3000,
    steps: int = 80,
    seed: int = 0,
    force: bool = False,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Runs the demo in a new folder and returns the content of its results.json.

    Args:
        output: New folder. `force` replaces an earlier demo in it and nothing else.
        specimens: Size of the simulated release.
        steps: Training steps, of BarcodeBERT and of CLIBD each.
        say: Called with a line of text at each stage.

    Raises:
        FileExistsError: if `output` has other files, or an earlier demo and `force` is False.
    """
    output, start = Path(output), time.perf_counter()
    _claim(output, force)
    disable_progress_bars()
    disable_progress_bar()
    dataset, model = output / "dataset", output / "barcodebert"
    say(f"1/7 Simulating a release of {specimens:,} specimens: {steps_of.MADE_UP.lower()}")
    release = simulate_release(output / "release", specimens, seed)
    build(release, dataset, ["dna", "cropped_256"])
    say("2/7 Naming reads of the test splits by the barcodes of train")
    names = steps_of.name_reads(dataset, output)
    say(f"3/7 Task I: pretraining BarcodeBERT on masked 4-mers, {steps} steps; fitting the aligned encoder")
    pretraining = steps_of.pretrain(dataset, model, steps, seed)
    steps_of.fit_aligned(dataset, output / "aligned", seed)
    folders = {name: output / "embeddings" / folder for name, folder in ENCODERS.items()}
    loaded = {"aligned": str(output / "aligned"), "BarcodeBERT": str(model), "4-mer counts": "kmer:4"}
    probes = {name: steps_of.probe(loaded[name], dataset, folders[name]) for name in ENCODERS}
    say(f"4/7 Task III: training CLIBD on photos and barcodes, {steps} steps")
    clibd = steps_of.train_clibd(dataset, output / "clibd", steps, seed)
    say("5/7 Task III: retrieving barcodes by photos")
    tables = steps_of.retrieve(dataset, output / "clibd", output / "retrieval")
    say("6/7 Task II: clustering barcodes and photos")
    embedded = {name: ("dna", folder) for name, folder in folders.items()}
    embedded["photos (CLIBD)"] = ("image", output / "retrieval" / "embeddings")
    clusters = steps_of.cluster(dataset, embedded, output / "clusters")
    say("7/7 Writing the report")
    steps_of.mark_cards(output)
    options = {"specimens": specimens, "steps": steps, "seed": seed, **steps_of.BARCODEBERT}
    results = write_results(
        output / "results.json",
        task="demo",
        options=options,
        dataset="a simulated release (bioscan-hf simulate), no real specimens",
        splits={name: len(part) for name, part in load_dataset(str(dataset), "dna").items()},
        model=pretraining["model"],
        pretraining={key: pretraining[key] for key in ("metrics", "loss_curve", "seconds")},
        clibd={key: clibd[key] for key in ("loss_curve", "seconds")},
        seconds=round(time.perf_counter() - start, 1),
        metrics=probes,
        clusters=clusters,
        retrieval={name: _top1(table) for name, table in tables.items()},
        names=names.counts(),
    )
    write_report(output, results, names)
    rows: list[tuple[str, ...]] = [("1-NN, distinct barcodes", *probes)]
    for task in next(iter(probes.values())):
        rows.append((task, *(percent(metrics[task]["micro_accuracy"]) for metrics in probes.values())))
    for line in aligned(rows):
        say(line)
    say(f"Done in {results['seconds']:.0f} s, on {steps_of.MADE_UP.lower()}. Open {output / PAGE}")
    return results


def _top1(table: Mapping[str, Any]) -> dict[str, Any]:
    """Micro top-1 accuracy and chance of each rank, and the queries, of seen and unseen species."""
    return {
        part: {
            "micro_accuracy": table[part]["micro"][1],
            "chance": table[part]["chance"]["micro"][1],
            "n_test": table[part]["queries"],
        }
        for part in ("seen", "unseen")
    }


def _claim(output: Path, force: bool) -> None:
    """Makes the folder of a demo, or empties that of an earlier demo, and marks it as a demo."""
    if output.exists() and any(output.iterdir()):
        ours = (output / MARKER).is_file()
        if not (ours and force):
            advice = "Give another --output" + (", or --force to replace that demo." if ours else ".")
            raise FileExistsError(f"{str(output)!r} holds {'an earlier demo' if ours else 'something else'}. {advice}")
        for name in FOLDERS:
            shutil.rmtree(output / name, ignore_errors=True)
        for name in FILES:
            delete_inside(output, name)
    write_text(output / MARKER, "{}\n")
