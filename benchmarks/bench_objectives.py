"""Four objectives of pretraining on real barcodes: masked k-mers or a masked autoencoder, with names of genera or not.

    python benchmarks/bench_objectives.py bold_coi5p.csv.gz --work out/objectives     # about 20 minutes on 2 cores
    python benchmarks/bench_objectives.py bold_coi5p.csv.gz --work out/trial --steps 3 --seeds 1 --output trial.json

Each objective takes the same steps of the same size with the project's own trainer, from three seeds. Barcodes of
pretrain (without names) and train are read, each once; genera are those of train. Then the nearest neighbour in train,
by cosine, names the species of test and the genus of test_unseen, whose species were never seen; random weights stand
beside. The partition is that of `real_barcodes.py`. The models are small (a few minutes of a CPU), so the table says
which objective learns more in the same steps, not what it can reach. What is done stays in the folder, and a run that
is started again goes on.

Claim: each objective names more genera of test_unseen than random weights do, all seeds together. The exit code is 1
if it is missed.

Sources: BarcodeMAE, https://arxiv.org/abs/2502.18405; BarcodeMAE+, https://github.com/bioscan-ml/BarcodeMAE-plus
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from claims import ended
from numpy.typing import NDArray
from pyarrow import csv
from real_barcodes import partitioned

from bioscan_hf.dataset.load import load_bioscan5m
from bioscan_hf.encoders.barcode_encoders import load_encoder
from bioscan_hf.evaluation.intervals import species_intervals
from bioscan_hf.evaluation.probing import knn_probe
from bioscan_hf.files import writing
from bioscan_hf.metrics import accuracy
from bioscan_hf.models.barcode_heads import pool
from bioscan_hf.models.modeling_barcodebert import BarcodeBertModel
from bioscan_hf.models.tokenization_kmer import KmerTokenizer
from bioscan_hf.training.arguments import BarcodeTrainingArguments
from bioscan_hf.training.pretraining import PretrainingOptions

#: Split and rank of each question; those of val are for choosing recipes.
QUESTIONS = (("val", "species"), ("val_unseen", "genus"), ("test", "species"), ("test_unseen", "genus"))

#: The same for each objective.
RECIPE: dict[str, Any] = {
    "train_split": "pretrain+train",
    "validation_split": "none",
    "k": 4,
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "dropout": 0.0,
    "attention": "eager",  # faster in bfloat16 on a CPU
    "similar_lengths": False,
    "per_device_train_batch_size": 64,
    "learning_rate": 1e-3,
    "warmup_steps": 0.1,
}

MAE: dict[str, Any] = {"objective": "mae", "decoder_num_hidden_layers": 1}

NAMES: dict[str, Any] = {
    "vocabulary": "barcodebert-cls",
    "taxon_objective": "classes",
    "taxon_rank": "genus",
    "taxon_warmup_epochs": 0.1,
    "taxa_per_batch": 8,
    "rows_per_taxon": 4,
}

#: Row of the table -> options of the trainer.
OBJECTIVES: dict[str, dict[str, Any]] = {
    "masked k-mers": {},
    "masked autoencoder": MAE,
    "masked k-mers and genera": NAMES,
    "masked autoencoder and genera": MAE | NAMES,
}

Rows = dict[str, Any]
Hits = dict[str, NDArray[np.bool_]]


def load(source: Path, work: Path) -> tuple[Path, dict[str, Rows]]:
    """The partitioned metadata CSV, and split -> barcodes and label ids, each barcode once."""
    path = work / "split.csv"
    if not path.is_file():
        with writing(path, "wb") as file:
            csv.write_csv(partitioned(source, seed=0), file)
    rows: dict[str, Rows] = {}
    for split in ("train", *dict(QUESTIONS)):
        data: Any = load_bioscan5m(str(path), split=split, ranks=["genus", "species"], unique_barcodes=True)
        rows[split] = {rank: np.array(data[f"{rank}_index"][:], np.int64) for rank in ("genus", "species")}
        rows[split]["barcodes"] = data["dna_barcode"][:]
    return path, rows


def train(source: Path, folder: Path, options: dict[str, Any], steps: int, seed: int) -> dict[str, Any]:
    """Content of the results file of a training, which is run if there is none."""
    done = folder / "results.json"
    if not done.is_file():
        chosen = RECIPE | options | {"source": str(source), "output_dir": str(folder), "force": True}
        chosen |= {"max_steps": steps, "seed": seed, "save_strategy": "no", "eval_strategy": "no", "use_cpu": True}
        chosen |= {"disable_tqdm": True, "bf16": True, "logging_steps": max(1, steps // 10)}
        own = set(PretrainingOptions.__dataclass_fields__)
        import_module("bioscan_hf.trainers.pretrain_barcodebert").main(
            PretrainingOptions(**{name: value for name, value in chosen.items() if name in own}),
            BarcodeTrainingArguments(**{name: value for name, value in chosen.items() if name not in own}),
        )
    return json.loads(done.read_text(encoding="utf-8"))


def untrained(folder: Path, seed: int) -> None:
    """Saves the encoder of the recipe with random weights."""
    trainer: Any = import_module("bioscan_hf.trainers.pretrain_barcodebert")
    own = set(PretrainingOptions.__dataclass_fields__)
    options = PretrainingOptions(source="", **{name: value for name, value in RECIPE.items() if name in own})
    torch.manual_seed(seed)
    BarcodeBertModel(trainer.make_config(options)).save_pretrained(folder)
    KmerTokenizer(options.k).save_pretrained(folder)


def vectors_of(model: Any, tokenizer: Any, barcodes: list[str], poolings: list[str]) -> dict[str, torch.Tensor]:
    """Pooling -> vectors (rows, D), of one pass in bfloat16."""
    found: dict[str, list[torch.Tensor]] = {name: [] for name in poolings}
    for start in range(0, len(barcodes), 256):
        ids, mask = map(torch.from_numpy, tokenizer.encode_column(barcodes[start : start + 256]))
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            hidden = model(ids, mask).last_hidden_state.float()
        for name, parts in found.items():
            parts.append(pool(hidden, mask, name))
    return {name: torch.cat(parts) for name, parts in found.items()}


def hits_of(folder: Path, rows: Mapping[str, Rows], poolings: list[str]) -> dict[str, Hits]:
    """Pooling -> question -> whether the nearest neighbour in train is right, (rows,)."""
    model: Any
    model, tokenizer = load_encoder(str(folder))
    model.set_attn_implementation(RECIPE["attention"])
    vectors = {split: vectors_of(model.eval(), tokenizer, part["barcodes"], poolings) for split, part in rows.items()}
    hits: dict[str, Hits] = {}
    for name in poolings:
        hits[name] = {}
        for split, rank in QUESTIONS:
            keys, true = rows["train"][rank], rows[split][rank]
            found = knn_probe(vectors["train"][name], keys, vectors[split][name], true)
            hits[name][f"{rank} of {split}"] = found.predictions == true
    return hits


def summarize(hits: list[Hits], rows: Mapping[str, Rows]) -> dict[str, Any]:
    """Question -> accuracies over all seeds, with intervals over species, and the micro accuracy of each seed."""
    found = {}
    for split, rank in QUESTIONS:
        question = f"{rank} of {split}"
        right = np.concatenate([one[question] for one in hits])
        true, species = (np.tile(rows[split][name], len(hits)) for name in (rank, "species"))
        scores = dict(accuracy(np.where(right, true, -2), true))
        found[question] = {
            **{name: scores[name] for name in ("micro_accuracy", "macro_accuracy")},
            **species_intervals(right, true, species),
            "micro_accuracy_of_each_seed": [round(float(one[question].mean()), 4) for one in hits],
            "specimens": len(rows[split][rank]),
        }
    return found


def measure(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metrics of each objective, and what each training took."""
    source, rows = load(args.source, args.work)
    metrics, trainings = {}, {}
    for name, options in {"random weights": {}, **OBJECTIVES}.items():
        folders = [args.work / f"{name.replace(' ', '_')}_{seed}" for seed in range(args.seeds)]
        done = []
        for seed, folder in enumerate(folders):
            if name in OBJECTIVES:
                done.append(train(source, folder, options, args.steps, seed))
            else:
                untrained(folder, seed)
        poolings = ["cls", "tokens"] if "taxon_objective" in options else ["masked_mean"]
        hits = [hits_of(folder, rows, poolings) for folder in folders]
        for pooling in poolings:
            label = f"{name}, mean of tokens" if pooling == "tokens" else name
            metrics[label] = summarize([one[pooling] for one in hits], rows)
            told = {question: round(values["micro_accuracy"], 4) for question, values in metrics[label].items()}
            print(f"{label}: {told}", flush=True)
        if done:
            trainings[name] = {
                "parameters": done[0]["model"]["parameters"],
                "seconds": [result["seconds"] for result in done],
                "loss_nats": [result["metrics"]["train_loss_nats"] for result in done],
            }
    return metrics, trainings


def missed(metrics: Mapping[str, Any]) -> list[str]:
    """Objectives that name no more genera of unseen species than random weights."""
    question, peer = "genus of test_unseen", "random weights"
    least = metrics[peer][question]["micro_accuracy"]
    own = {name: metrics[name][question]["micro_accuracy"] for name in OBJECTIVES}
    return [f"{question}: {name} {value:.1%}, {peer} {least:.1%}" for name, value in own.items() if value <= least]


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark and writes the results file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="metadata CSV in which every record has a species")
    parser.add_argument("--work", type=Path, required=True, help="folder; what is done there is not done again")
    parser.add_argument("--steps", type=int, default=500, help="steps of each training (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each objective (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "objectives.json")
    args = parser.parse_args(arguments)
    args.work.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    metrics, trainings = measure(args)
    used = resource.getrusage(resource.RUSAGE_SELF)
    return ended(
        args.output,
        missed(metrics),
        task="benchmark/objectives",
        dataset=f"{args.source.name}: real COI-5P barcodes of insects, public records of BOLD",
        protocol="1-NN by cosine; keys are train; each barcode once; all seeds together, 95 % intervals over species",
        recipe=RECIPE,
        objectives=OBJECTIVES,
        options={"steps": args.steps, "seeds": args.seeds},
        trainings=trainings,
        device="cpu",
        threads=torch.get_num_threads(),
        load_average=round(os.getloadavg()[0], 1),
        seconds=round(time.perf_counter() - start, 1),
        cpu_seconds=round(used.ru_utime + used.ru_stime, 1),
        metrics=metrics,
    )


if __name__ == "__main__":
    raise SystemExit(main())
