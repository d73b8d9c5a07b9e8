"""The demo: every step on a simulated release, and a report with figures.

Release files -> Parquet -> pretrained BarcodeBERT -> embeddings -> nearest-neighbour probe, compared with counts of
4-mers.
"""

from __future__ import annotations

import base64
import html
import math
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars, load_dataset
from matplotlib.figure import Figure
from transformers.utils.logging import disable_progress_bar

from .. import plots
from ..dataset.build import build
from ..dataset.load import labels_of, load_bioscan5m
from ..encoders.barcode_encoders import load_encoder
from ..encoders.embed import embed
from ..evaluation.probing import probe_barcodes
from ..files import delete_inside, write_text
from ..provenance import write_results
from ..simulate.release import simulate_release

#: A small encoder: two CPU cores train it in about a minute.
MODEL = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 2}
PROBED = ("train", "test", "test_unseen")
MARKER = "demo.json"

#: Everything that a demo writes, and that `force` deletes.
FOLDERS = ("release", "dataset", "barcodebert", "embeddings")
PICTURES = ("accuracy.png", "loss.png", "taxonomy.png", "photos.png")
FILES = (*PICTURES, "results.json", "report.html", MARKER)


def run_demo(
    output: str | Path,
    *,
    specimens: int = 3000,
    steps: int = 300,
    seed: int = 0,
    force: bool = False,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Runs the demo in a new folder and returns the content of its results.json.

    Args:
        output: New folder. `force` replaces an earlier demo in it and nothing else.
        specimens: Size of the simulated release.
        steps: Steps of pretraining.
        say: Called with a line of text at each stage.

    Raises:
        FileExistsError: if `output` has other files, or an earlier demo and `force` is False.
    """
    output, start = Path(output), time.perf_counter()
    _claim(output, force)
    disable_progress_bars()
    disable_progress_bar()
    dataset, model = output / "dataset", output / "barcodebert"
    say(f"1/5 simulating a release of {specimens:,} specimens")
    release = simulate_release(output / "release", specimens, seed)
    say("2/5 building Parquet from its CSV and zips")
    build(release, dataset, ["dna", "cropped_256"])
    say(f"3/5 pretraining BarcodeBERT on masked 4-mers, {steps} steps")
    pretraining = pretrain(dataset, model, steps, seed)
    say("4/5 embedding barcodes, and counting their 4-mers")
    encoders = {"BarcodeBERT": str(model), "4-mer counts": "kmer:4"}
    probes = {name: probe(encoder, dataset, output / "embeddings") for name, encoder in encoders.items()}
    say("5/5 writing the report")
    results = write_results(
        output / "results.json",
        task="demo",
        options={"specimens": specimens, "steps": steps, "seed": seed, **MODEL},
        dataset="a simulated release (bioscan-hf simulate), no real specimens",
        splits={name: len(part) for name, part in load_dataset(str(dataset), "dna").items()},
        model=pretraining["model"],
        pretraining={key: pretraining[key] for key in ("metrics", "loss_curve", "seconds")},
        seconds=round(time.perf_counter() - start, 1),
        metrics=probes,
    )
    write_report(output, results)
    for name, metrics in probes.items():
        say(f"  {name:<13} " + ", ".join(f"{task} {_percent(value)}" for task, value in metrics.items()))
    say(f"Done in {results['seconds']:.0f} s. Numbers: {output / 'results.json'}; figures: {output / 'report.html'}")
    return results


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


def pretrain(dataset: Path, output: Path, steps: int, seed: int) -> dict[str, Any]:
    """Runs the pretraining program; returns its results."""
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
        "use_cpu": torch.cuda.device_count() > 1,  # several GPUs would need a process each
        **MODEL,
    }
    trainer = import_module("bioscan_hf.trainers.pretrain_barcodebert")
    given = trainer.parse([f"--{name}={value}" for name, value in options.items()])
    with redirect_stdout(StringIO()), warnings.catch_warnings(action="ignore"):  # the Trainer prints what it logs
        results: dict[str, Any] = trainer.main(*given)
    return results


def probe(model: str, dataset: Path, output: Path) -> dict[str, Any]:
    """1-NN accuracy of an encoder's embeddings of distinct barcodes."""
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
    """Writes report.html with its figures inside, and the same figures as PNG."""
    figures = []
    for name, caption, figure in _figures(output / "dataset", results):
        picture = plots.png(figure)
        (output / f"{name}.png").write_bytes(picture)
        source = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
        text = html.escape(caption)
        figures.append(f'<figure><img src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>')
    write_text(output / "report.html", _page(results, figures))


def _figures(dataset: Path, results: Mapping[str, Any]) -> Iterator[tuple[str, str, Figure]]:
    """Name, caption and figure of each picture of the report."""
    probes, pretraining = results["metrics"], results["pretraining"]
    names = [name.replace(" of ", "\nof ") for name in next(iter(probes.values()))]

    def bars(metrics: Mapping[str, Any], key: str) -> dict[str, float]:
        return dict(zip(names, (value[key] for value in metrics.values()), strict=True))

    accuracies = {model: bars(metrics, "micro_accuracy") for model, metrics in probes.items()}
    yield (
        "accuracy",
        "1-nearest-neighbour accuracy: the label of the nearest barcode in train, by cosine. Species of unseen "
        "specimens have no reference, so their genus, family and order are tested.",
        plots.accuracy_bars({**accuracies, "chance": bars(probes["BarcodeBERT"], "chance")}),
    )
    loss = pretraining["metrics"].get("validation_masked_loss_nats")
    final = "" if loss is None else f" Validation loss after the last step: {loss:.3f} nats."
    yield (
        "loss",
        "Pretraining: loss on masked 4-mers, mean over the steps since the last point. The dashed line is the "
        f"loss of guessing among {4**4} 4-mers.{final}",
        plots.loss_curves({"training": pretraining["loss_curve"]}, chance=math.log(4**4)),
    )
    yield (
        "taxonomy",
        "Every specimen of the release by order (colour) and family (box); areas are numbers of specimens.",
        plots.taxonomy_tree_map(_families(load_dataset(str(dataset), "dna"))),
    )
    yield (
        "photos",
        "Simulated photos of the split train: four specimens of each of six species.",
        plots.photo_grid(_photos(load_dataset(str(dataset), "cropped_256", split="train"))),
    )


def _families(data: Mapping[str, Dataset]) -> dict[tuple[str, str], int]:
    counts: Counter[tuple[str, str]] = Counter()
    for part in data.values():
        counts.update(zip(part["order"], part["family"], strict=True))
    return {(order or "", family or ""): count for (order, family), count in counts.items()}


def _photos(data: Dataset, species: int = 6, each: int = 4) -> list[tuple[bytes, str]]:
    """Photos of the most frequent species, one column each, from different families where possible."""
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
    some = next(iter(results["metrics"].values()))
    rows = [[model, *(_percent(value) for value in metrics.values())] for model, metrics in results["metrics"].items()]
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
<p>Simulated specimens in the layout of BIOSCAN-5M went through every step: release files, Parquet, pretraining,
embeddings, nearest-neighbour probe. The numbers show that the steps work together; they say nothing about real
insects.</p>
{_table(header, rows)}
{"".join(figures)}
<h2>How these numbers were made</h2>
<dl>{"".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(str(value))}</dd>" for name, value in facts.items())}</dl>
</html>
"""


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["".join(f"<th>{html.escape(cell)}</th>" for cell in header)]
    lines += ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"
