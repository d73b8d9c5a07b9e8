"""The main job from end to end on a made-up release: `bioscan-hf demo`.

Release files -> Parquet -> pretrained BarcodeBERT -> embeddings -> nearest-neighbour probe, beside counts of 4-mers,
and a report with pictures.
"""

from __future__ import annotations

import base64
import html
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, disable_progress_bars, load_dataset
from matplotlib.figure import Figure
from transformers.utils.logging import disable_progress_bar

from .. import plots
from ..dataset.build import build
from ..dataset.load import labels_of, load_bioscan5m
from ..encoders.barcode_encoders import load_encoder
from ..encoders.embed import embed
from ..evaluation.probing import probe_barcodes
from ..files import write_text
from ..provenance import write_results
from ..simulate.release import simulate_release

#: A small encoder, which two CPU cores train in about a minute.
MODEL = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 2}
PROBED = ("train", "test", "test_unseen")
MARKER = "demo.json"

#: What a demo writes, and all that `force` removes.
FOLDERS = ("release", "dataset", "barcodebert", "embeddings")
PICTURES = ("accuracy.png", "loss.png", "taxonomy.png", "photos.png")
FILES = (*PICTURES, "pretraining.log", "results.json", "report.html", MARKER)


def run_demo(
    output: str | Path,
    *,
    specimens: int = 3000,
    steps: int = 300,
    seed: int = 0,
    force: bool = False,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Runs everything into a new folder and returns the content of its results.json.

    Args:
        output: New folder; `force` replaces an earlier demo, and nothing else.
        specimens: Size of the made-up release.
        steps: Steps of pretraining.
        say: Called with a line of text at each stage.

    Raises:
        FileExistsError: if `output` holds something else, or an earlier demo without `force`.
        RuntimeError: if the pretraining program fails; the message ends with what it said.
    """
    output, start = Path(output), time.perf_counter()
    _claim(output, force)
    disable_progress_bars()
    disable_progress_bar()
    say(f"1/5 making up a release of {specimens:,} specimens")
    release = simulate_release(output / "release", specimens, seed)
    say("2/5 building Parquet from its CSV and zips")
    build(release, output / "dataset", ["dna", "cropped_256"])
    say(f"3/5 pretraining BarcodeBERT on masked 4-mers, {steps} steps")
    pretraining = pretrain(output / "dataset", output / "barcodebert", steps, seed)
    say("4/5 embedding barcodes, and counting their 4-mers")
    encoders = {"BarcodeBERT": str(output / "barcodebert"), "4-mer counts": "kmer:4"}
    probes = {name: probe(model, output / "dataset", output / "embeddings", seed) for name, model in encoders.items()}
    say("5/5 writing the report")
    results = write_results(
        output / "results.json",
        task="demo",
        options={"specimens": specimens, "steps": steps, "seed": seed, **MODEL},
        dataset="a made-up release (bioscan-hf simulate), no real specimens",
        splits={name: len(part) for name, part in load_dataset(str(output / "dataset"), "dna").items()},
        model=pretraining["model"],
        pretraining={key: pretraining[key] for key in ("metrics", "loss_curve", "seconds")},
        seconds=round(time.perf_counter() - start, 1),
        metrics=probes,
    )
    write_report(output, results)
    for model, metrics in probes.items():
        say(f"  {model:<13} " + ", ".join(f"{name} {_percent(value)}" for name, value in metrics.items()))
    say(f"Done in {results['seconds']:.0f} s. Numbers: {output / 'results.json'}; pictures: {output / 'report.html'}")
    return results


def _claim(output: Path, force: bool) -> None:
    """Makes the folder of a demo and marks it as one."""
    if output.exists() and any(output.iterdir()):
        ours = (output / MARKER).is_file()
        if not (ours and force):
            advice = "Give another --output" + (", or --force to replace that demo." if ours else ".")
            raise FileExistsError(f"{str(output)!r} holds {'an earlier demo' if ours else 'something else'}. {advice}")
        for name in FOLDERS:
            if (output / name).exists():
                shutil.rmtree(output / name)
        for name in FILES:
            (output / name).unlink(missing_ok=True)
    output.mkdir(parents=True, exist_ok=True)
    write_text(output / MARKER, "{}\n")


def pretrain(dataset: Path, output: Path, steps: int, seed: int) -> dict[str, Any]:
    """Runs the pretraining program as a user would, by `accelerate launch`; returns its results."""
    options: dict[str, Any] = {
        "source": dataset,
        "train_split": "pretrain+train",
        "output_dir": output,
        "max_steps": steps,
        "learning_rate": 1e-3,
        "per_device_train_batch_size": 32,
        "warmup_steps": 0.1,
        "dropout": 0.0,
        "eval_strategy": "no",
        "save_strategy": "no",
        "logging_steps": max(steps // 30, 1),
        "seed": seed,
        "disable_tqdm": True,
        **MODEL,
    }
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    launch += ["--num_cpu_threads_per_process", str(os.cpu_count() or 1)]  # one, if it is not said
    program = ["-m", "bioscan_hf.trainers.pretrain_barcodebert"]
    flags = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    log = output.parent / "pretraining.log"
    with open(log, "w", encoding="utf-8") as file:
        done = subprocess.run(
            [*launch, *program, *flags],
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
            check=False,
        )
    if done.returncode != 0:
        said = "\n".join(log.read_text(encoding="utf-8").splitlines()[-40:])
        raise RuntimeError(f"Pretraining stopped with exit status {done.returncode}. The end of {log}:\n{said}")
    return json.loads((output / "results.json").read_text(encoding="utf-8"))


def probe(model: str, dataset: Path, output: Path, seed: int) -> dict[str, Any]:
    """1-NN accuracy of an encoder's embeddings of distinct barcodes, by `probe_barcodes`."""
    encoder, processor = load_encoder(model)
    embeddings, labels = {}, {}
    for split in PROBED:
        data = load_bioscan5m(dataset, "dna", split, unique_barcodes=True)
        found = embed(encoder, processor, data, output=output / Path(model).name.replace(":", "-") / split)
        embeddings[split] = found.embeddings
        labels[split] = labels_of(dataset, split, found.processids)
    return probe_barcodes(embeddings, labels)


def _percent(value: Mapping[str, Any]) -> str:
    accuracy = value["micro_accuracy"]
    return "no data" if accuracy is None else f"{accuracy:.1%}"


# ---- the report ----------------------------------------------------------------------------------------------------


def write_report(output: Path, results: Mapping[str, Any]) -> None:
    """Writes report.html, which holds its pictures, and the same pictures as PNG."""
    data = load_dataset(str(output / "dataset"), "dna")
    names = [name.replace(" of ", "\nof ") for name in next(iter(results["metrics"].values()))]
    bars = {
        model: dict(zip(names, (value["micro_accuracy"] for value in metrics.values()), strict=True))
        for model, metrics in results["metrics"].items()
    }
    chance = {
        "chance": dict(zip(names, (v["chance"] for v in results["metrics"]["BarcodeBERT"].values()), strict=True))
    }
    pretraining = results["pretraining"]
    loss = pretraining["metrics"].get("validation_masked_loss_nats")
    final = "" if loss is None else f" Validation loss after the last step: {loss:.3f} nats."
    pictures: list[tuple[str, str, Figure]] = [
        (
            "accuracy",
            "1-nearest-neighbour accuracy: the label of the nearest barcode in train, by cosine. Species of unseen "
            "specimens cannot be right, so they are asked for their genus, family and order.",
            plots.accuracy_bars({**bars, **chance}),
        ),
        (
            "loss",
            "Pretraining: loss on masked 4-mers, mean over the steps since the last point. The dashed line is the "
            f"loss of guessing among {4**4} 4-mers.{final}",
            plots.loss_curves({"training": pretraining["loss_curve"]}, chance=math.log(4**4)),
        ),
        (
            "taxonomy",
            "Every specimen of the release by order (colour) and family (box); areas are numbers of specimens.",
            plots.taxonomy_tree_map(_families(data)),
        ),
        (
            "photos",
            "Photos of the split train, drawn by the simulation: four specimens of each of six species.",
            plots.photo_grid(_photos(load_dataset(str(output / "dataset"), "cropped_256", split="train"))),
        ),
    ]
    figures = []
    for name, caption, figure in pictures:
        data_png = plots.png(figure)
        (output / f"{name}.png").write_bytes(data_png)
        source = f"data:image/png;base64,{base64.b64encode(data_png).decode()}"
        text = html.escape(caption)
        figures.append(f'<figure><img src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>')
    write_text(output / "report.html", _page(results, figures))


def _families(data: Mapping[str, Dataset]) -> dict[tuple[str, str], int]:
    counts: Counter[tuple[str, str]] = Counter()
    for part in data.values():
        counts.update(zip(part["order"], part["family"], strict=True))
    return {(order or "", family or ""): count for (order, family), count in counts.items()}


def _photos(data: Dataset, species: int = 6, each: int = 4) -> list[tuple[bytes, str]]:
    """Photos of the most frequent species, each of another family as far as there are; a column per species."""
    from datasets import Image

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


def _page(results: Mapping[str, Any], figures: list[str]) -> str:
    header = ["", *next(iter(results["metrics"].values()))]
    rows = [[model, *(_percent(value) for value in metrics.values())] for model, metrics in results["metrics"].items()]
    some = next(iter(results["metrics"].values()))
    rows.append(["chance", *(_percent({"micro_accuracy": value["chance"]}) for value in some.values())])
    rows.append(["queries / keys", *(f"{value['n_test']:,} / {value['n_train']:,}" for value in some.values())])
    facts = {
        "data": results["dataset"],
        "specimens": ", ".join(f"{name} {count:,}" for name, count in results["splits"].items()),
        "model": f"BarcodeBERT, {results['model']['parameters']:,} parameters",
        "command": results["command"],
        "commit": results["commit"] or "not run from a checkout",
        "versions": ", ".join(f"{name} {version}" for name, version in results["versions"].items()),
        "time": f"{results['seconds']} s",
    }
    return f"""<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>bioscan_hf demo</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
table {{ border-collapse: collapse; margin: 1rem 0; }}
th, td {{ text-align: right; padding: .3rem .8rem; border-bottom: 1px solid #ddd; }}
th:first-child, td:first-child {{ text-align: left; }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; font-size: .9rem; }}
dt {{ color: #666; }} dd {{ margin: 0; overflow-wrap: anywhere; }}
figure {{ margin: 2rem 0; }} img {{ max-width: 100%; }} figcaption {{ color: #555; font-size: .9rem; }}
</style>
<h1>From a release to a measured DNA classifier</h1>
<p>Made-up specimens in the layout of BIOSCAN-5M went through every step: release files, Parquet, pretraining,
embeddings, nearest-neighbour probe. The numbers show that the steps fit together; they say nothing about real
insects.</p>
{_table(header, rows)}
{"".join(figures)}
<h2>What made these numbers</h2>
<dl>{"".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(str(value))}</dd>" for name, value in facts.items())}</dl>
</html>
"""


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["".join(f"<th>{html.escape(cell)}</th>" for cell in header)]
    lines += ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"
