"""Tests whether CLIBD, trained from scratch on a simulated release, retrieves the barcode of a photographed species.

    python benchmarks/bench_clibd_simulated.py out/clibd_simulated

Writes a release with drawn photos, builds it, and makes a small model with random weights. `train_clibd.py` trains it
on one CPU process, and on two with the same global batch; `evaluate_clibd.py` measures retrieval from the test splits.
The control "no alignment" is the same model with its photo and barcode encoders trained separately by contrast
(SimCLR; barcodes of a BIN). All are trained on the same specimens. Steps that an earlier run finished are skipped.
`--quick` is a smoke test.

The result does not predict accuracy on photos of real specimens: the photos are drawn, and appearance and barcodes
evolve along one tree. Unseen species have no label and are among the unlabelled training pairs of photo and barcode,
as in BIOSCAN-5M.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.trainers import WordPieceTrainer
from transformers import PreTrainedTokenizerFast

from bioscan_hf.dataset.load import load_bioscan5m
from bioscan_hf.models.configuration_clibd import ClibdConfig
from bioscan_hf.models.modeling_barcodebert import BarcodeBertModel
from bioscan_hf.models.modeling_clibd import ClibdModel
from bioscan_hf.models.pixels import BIOSCAN5M_MEAN, BIOSCAN5M_STD
from bioscan_hf.models.processing_clibd import ClibdProcessor, make_image_processor
from bioscan_hf.models.taxonomy_text import clibd_text
from bioscan_hf.models.tokenization_kmer import KmerTokenizer
from bioscan_hf.plots import line_style, plain, png
from bioscan_hf.provenance import write_results

TRAINERS = Path(__file__).parents[1] / "trainers"

#: Measured models; the second is the baseline of the trained ones.
MODELS = ("random weights", "no alignment", "trained, 1 process", "trained, 2 processes")

RANKS = ("order", "family", "genus", "species")

PARTS = ("seen", "unseen")

COMBINATIONS = ("image->dna", "dna->dna", "image->image")

#: A photo encoder of timm that a CPU trains in minutes. It has group normalisation instead of batch normalisation, so
#: that one process and two take the same steps.
ARCHITECTURE = "resnet10t"
MODEL_ARGS: dict[str, Any] = {"channels": [24, 48, 96, 192], "norm_layer": "groupnorm1"}

#: Steps over which the losses of one process and two are compared; rounding errors grow later.
COMPARED_STEPS = 10

#: Claimed ratios of the macro top-1 accuracy of species, photo to barcode, to chance and to no alignment.
CLAIMS = {"seen / chance": 10.0, "seen / no alignment": 3.0, "unseen / chance": 10.0, "unseen / no alignment": 3.0}


def run(name: str, command: Sequence[object], folder: Path, threads: int | None = None) -> float:
    """Runs a program with its output in `folder`/`name`.log, and returns its seconds.

    A program that an earlier run finished is skipped.

    Raises:
        RuntimeError: if it fails; the message has the end of its output.
    """
    done, log = folder / f"{name}.seconds", folder / f"{name}.log"
    if done.exists():
        return float(done.read_text())
    print(f"{name} ...", flush=True)
    environment = os.environ | {
        "ACCELERATE_USE_CPU": "yes",
        "OMP_NUM_THREADS": str(threads or os.environ.get("OMP_NUM_THREADS", 2)),
        "HF_DATASETS_CACHE": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
    }
    start = time.perf_counter()
    with open(log, "w", encoding="utf-8") as output:
        ended = subprocess.run([*map(str, command)], stdout=output, stderr=output, env=environment, check=False)
    if ended.returncode:
        raise RuntimeError(f"{name} failed:\n{log.read_text(encoding='utf-8')[-4000:]}")
    seconds = round(time.perf_counter() - start, 1)
    done.write_text(str(seconds))
    print(f"{name}: {seconds} s", flush=True)
    return seconds


def make_model(dataset: Path, folder: Path, size: int, seed: int) -> None:
    """Saves a small model with random weights and its processor; without dropout, which differs between processes."""
    rows = load_bioscan5m(str(dataset), "dna", "pretrain+train", columns=[*RANKS])
    texts = [written for row in rows if (written := clibd_text(dict(row)))]
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    pieces = Tokenizer(WordPiece(unk_token="[UNK]"))
    pieces.pre_tokenizer = BertPreTokenizer()
    trainer = WordPieceTrainer(vocab_size=1000, special_tokens=list(special.values()), show_progress=False)
    pieces.train_from_iterator(texts, trainer)
    text: Any = PreTrainedTokenizerFast(tokenizer_object=pieces, **special)
    shape: dict[str, Any] = {"hidden_size": 96, "num_hidden_layers": 1, "num_attention_heads": 3}
    shape |= {"intermediate_size": 192, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    torch.manual_seed(seed)
    config = ClibdConfig(
        image_config={"architecture": ARCHITECTURE, "model_args": MODEL_ARGS},
        dna_config={**shape, "k": 5},
        text_config={**shape, "vocab_size": len(text), "max_position_embeddings": 64},
        projection_dim=128,
    )
    model = ClibdModel(config)
    model.save_pretrained(folder)
    images = make_image_processor(size, BIOSCAN5M_MEAN, BIOSCAN5M_STD)
    ClibdProcessor(images, KmerTokenizer(k=5), text).save_pretrained(folder)


def train_command(options: argparse.Namespace, processes: int, output: Path) -> list[object]:
    """The command that trains the model on one or more processes, with the same global batch."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", processes]
    launch += ["--multi_gpu", "--main_process_port", 0] if processes > 1 else []
    steps = ["--eval_strategy", "steps", "--eval_steps", options.eval_steps, "--logging_steps", 1]
    steps += ["--save_strategy", "steps", "--save_steps", options.eval_steps, "--save_total_limit", 1]
    return [
        *launch,
        TRAINERS / "train_clibd.py",
        *("--source", options.work / "dataset", "--model", options.work / "untrained", "--output_dir", output),
        *("--num_train_epochs", options.epochs, "--learning_rate", options.learning_rate, "--seed", options.seed),
        *("--per_device_train_batch_size", options.batch_size // processes, "--per_device_eval_batch_size", 128),
        *steps,
        *("--force", True, "--disable_tqdm", True),
    ]


def train_photos(options: argparse.Namespace) -> float:
    """Trains only the photo encoder, and returns the seconds."""
    output = options.work / "photos_alone"
    command: list[object] = [sys.executable, TRAINERS / "train_clibd.py", "--model", options.work / "untrained"]
    command += ["--objective", "simclr", "--key_splits", "none", "--load_best_model_at_end", False]
    return run(
        "photos_alone", command + _apart(options, options.photo_epochs) + ["--output_dir", output], options.work
    )


def train_barcodes(options: argparse.Namespace) -> float:
    """Trains only the barcode encoder, with the barcodes of a BIN as positives, and returns the seconds."""
    work = options.work
    ClibdModel.from_pretrained(work / "untrained").dna_model.save_pretrained(work / "barcodes")
    KmerTokenizer(k=5).save_pretrained(work / "barcodes")
    command: list[object] = [sys.executable, TRAINERS / "contrast_barcodes.py", "--model", work / "barcodes"]
    command += ["--train_split", "pretrain+train", "--ranks", "dna_bin", "--validation_splits", "none"]
    command += _apart(options, options.barcode_epochs) + ["--output_dir", work / "barcodes_alone"]
    return run("barcodes_alone", command, work)


def _apart(options: argparse.Namespace, epochs: int) -> list[object]:
    given = ["--source", options.work / "dataset", "--seed", options.seed, "--num_train_epochs", epochs]
    given += ["--learning_rate", options.learning_rate, "--per_device_train_batch_size", options.batch_size]
    return [*given, "--eval_strategy", "no", "--save_strategy", "no", "--disable_tqdm", True, "--force", True]


def join(work: Path) -> None:
    """Saves a model of the two separately trained encoders, which are not aligned."""
    joined = ClibdModel.from_pretrained(work / "photos_alone")
    barcodes = BarcodeBertModel.from_pretrained(work / "barcodes_alone")
    joined.dna_model.load_state_dict(barcodes.state_dict())
    joined.save_pretrained(work / "apart")
    ClibdProcessor.from_pretrained(work / "untrained").save_pretrained(work / "apart")


def accuracies(file: Path) -> dict[str, Any]:
    """Top-1 accuracies of the model and of chance in a results file of `evaluate_clibd.py`."""
    found: dict[str, Any] = {}
    for name, table in json.loads(file.read_text(encoding="utf-8"))["metrics"]["model"]["tables"].items():
        parts = ("seen", "unseen", "harmonic_mean")
        found[name] = {average: {part: table[part][average]["1"] for part in parts} for average in ("macro", "micro")}
        chance = {part: table[part]["chance"] for part in ("seen", "unseen")}
        found[name]["chance"] = {
            average: {part: chance[part][average]["1"] for part in chance} for average in ("macro", "micro")
        }
        found[name]["keys"] = table["keys"]
        found[name]["queries"] = {part: table[part]["queries"] for part in ("seen", "unseen")}
    return found


def history(folder: Path, key: str) -> list[tuple[int, float]]:
    """(step, value) of a logged metric."""
    log = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    return [(entry["step"], entry[key]) for entry in log if key in entry]


def evaluate(options: argparse.Namespace, name: str, model: Path, plots: bool) -> float:
    """Measures retrieval of a model; with `plots` also writes figures and compares it with the baseline."""
    output = options.work / f"evaluation_{name}"
    command: list[object] = [sys.executable, TRAINERS / "evaluate_clibd.py", "--model", model, "--force", True]
    command += ["--source", options.work / "dataset", "--output_dir", output, "--combinations", *COMBINATIONS]
    if plots:
        command += ["--plots", True, "--baseline", options.work / "evaluation_apart" / "embeddings"]
    return run(f"evaluate_{name}", command, options.work)


def training_curve(
    losses: Mapping[str, Sequence[tuple[float, float]]],
    accuracies: Mapping[str, Sequence[tuple[float, float]]],
    chance: Mapping[str, float],
) -> Figure:
    """Loss in nats by step, and validation accuracy by step beside dashed lines of chance."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i, (name, points) in enumerate(losses.items()):
        left.plot(*zip(*points, strict=True), **line_style(i) | {"marker": None}, label=name)
    for i, (name, points) in enumerate(accuracies.items()):
        steps, shares = zip(*points, strict=True)
        right.plot(steps, [100 * share for share in shares], **line_style(i) | {"markersize": 3}, label=name)
    for style, (name, share) in zip(("--", ":"), chance.items(), strict=True):
        right.axhline(100 * share, color="#666666", linestyle=style, linewidth=1, label=name)
    left.set(xlabel="step", ylabel="loss (nats)")
    right.set(xlabel="step", ylabel="image to DNA, top-1 of species (%)", ylim=(0, None))
    for axes in (left, right):
        plain(axes)
        axes.legend(frameon=False, fontsize=8)
    return figure


def measure(options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any], dict[str, float]]:
    """Metrics, details of the training runs, and seconds of each step."""
    work, seconds = options.work, {}
    program = [sys.executable, "-m", "bioscan_hf.cli.main"]
    simulate = [*program, "simulate", work / "release", "--specimens", options.specimens, "--seed", options.seed]
    seconds["simulate"] = run("simulate", simulate, work)
    build = [*program, "build", work / "release", work / "dataset", "--config", "cropped_256", "--workers", 2]
    seconds["build"] = run("build", build, work)
    make_model(work / "dataset", work / "untrained", options.size, options.seed)
    seconds["train photos alone"] = train_photos(options)
    seconds["train barcodes alone"] = train_barcodes(options)
    join(work)
    folders = {"untrained": work / "untrained", "apart": work / "apart"}
    for processes in (1, 2):
        name = f"trained_{processes}"
        folders[name] = work / name
        command = train_command(options, processes, folders[name])
        seconds[f"train, {processes} process{'es' * (processes > 1)}"] = run(name, command, work, 2 // processes)
    metrics: dict[str, Any] = {}
    for name, (short, folder) in zip(MODELS, folders.items(), strict=True):
        spent = evaluate(options, short, folder, plots=short == "trained_2")
        seconds[f"evaluate, {name}"] = spent
        metrics[name] = accuracies(work / f"evaluation_{short}" / "results.json")

    losses = {name: history(work / name, "loss") for name in ("trained_1", "trained_2")}
    differences = [abs(one[1] - two[1]) for one, two in zip(*losses.values(), strict=True)]
    validations = {f"{part} species": history(work / "trained_2", f"eval_image_to_dna_{part}") for part in PARTS}
    chance = metrics["no alignment"]["image->dna"]["chance"]["macro"]
    curves = {"1 process": losses["trained_1"], "2 processes": losses["trained_2"]}
    drawn = {f"chance, {part} (test)": chance[part]["species"] for part in PARTS}
    (work / "curve.png").write_bytes(png(training_curve(curves, validations, drawn)))
    about = {
        "steps": len(differences),
        "largest_difference_of_loss": {
            f"first {COMPARED_STEPS} steps": max(differences[:COMPARED_STEPS]),
            "all steps": max(differences),
        },
        "first_loss_nats": losses["trained_2"][0][1],
        "last_losses_nats": {name: sum(loss for _, loss in curve[-10:]) / 10 for name, curve in curves.items()},
        "validation": validations,
    }
    return metrics, about, seconds


def margins(metrics: dict[str, Any]) -> dict[str, float]:
    """Ratios of the accuracy to chance and to no alignment (macro top-1 of species, photo to barcode)."""
    found = {}
    for part in PARTS:
        trained, without = (
            metrics[name]["image->dna"]["macro"][part]["species"] for name in ("trained, 2 processes", "no alignment")
        )
        chance = metrics["no alignment"]["image->dna"]["chance"]["macro"][part]["species"]
        found[f"{part} / chance"] = round(trained / chance, 1)
        # An accuracy of 0 without alignment counts as chance.
        found[f"{part} / no alignment"] = round(trained / max(without, chance), 1)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark, writes the results file, and returns 1 if a claim is not reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for the release, the models and the pictures")
    parser.add_argument("--specimens", type=int, default=6000)
    parser.add_argument("--epochs", type=int, default=8, help="epochs of CLIBD training")
    parser.add_argument("--photo_epochs", type=int, default=2, help="epochs of the photo encoder alone")
    parser.add_argument("--barcode_epochs", type=int, default=5, help="epochs of the barcode encoder alone")
    parser.add_argument("--batch_size", type=int, default=64, help="over all processes")
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--size", type=int, default=64, help="height and width of the photos in pixels")
    parser.add_argument("--eval_steps", type=int, default=150, help="steps from one validation to the next")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="smoke test with 400 specimens and 1 epoch")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "clibd_simulated.json")
    options = parser.parse_args(arguments)
    if options.quick:
        options.specimens, options.epochs, options.eval_steps = 400, 1, 3
    options.work = options.work.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    metrics, about, seconds = measure(options)
    reached = margins(metrics)
    asked = ["specimens", "epochs", "photo_epochs", "barcode_epochs", "batch_size", "learning_rate", "size"]
    asked += ["eval_steps", "seed", "quick"]
    write_results(
        options.output,
        task="benchmark/clibd_simulated",
        metrics=metrics,
        options={name: getattr(options, name) for name in asked},
        training=about,
        dataset=f"simulated release of {options.specimens} specimens, seed {options.seed}",
        device="cpu",
        seconds=seconds | {"all": round(sum(seconds.values()), 1)},
        claimed=CLAIMS,
        reached=reached,
    )
    print(*(f"{name}: {value} times (claimed: {CLAIMS[name]})" for name, value in reached.items()), sep="\n")
    return int(not options.quick and any(reached[name] < claim for name, claim in CLAIMS.items()))


if __name__ == "__main__":
    raise SystemExit(main())
