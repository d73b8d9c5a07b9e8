"""Measures retrieval by CLIBD: queries of seen and unseen species against all keys, with chance as a baseline.

Protocol: CLIBD (https://arxiv.org/abs/2405.17537), Task III of BIOSCAN-5M. Keys are the specimens of train and
key_unseen together; queries are those of test (seen species) and of test_unseen. For a model and a dataset, on one GPU
or several (an interrupted run continues from the embeddings in `output_dir/embeddings`):

    bioscan-hf evaluate clibd --model out/clibd --source dataset --output_dir out/retrieval
    accelerate launch --num_processes 4 trainers/evaluate_clibd.py --model out/clibd --source dataset \
        --output_dir out/retrieval --baseline out/unaligned

Again for the embeddings on disk, in seconds:

    python trainers/evaluate_clibd.py --embeddings out/retrieval/embeddings --output_dir out/published --ties parity

The paper's table of several models, such as none, 1 M and 5 M specimens, from the folders that this program wrote:

    python trainers/evaluate_clibd.py --table "no alignment=out/none" "1 M=out/1m" "5 M=out/5m" --output_dir out/table

`--baseline` is measured in the same way and shown in each table and in `bars.png`: a model that was not aligned
(`ClibdModel.from_pretrained_towers`, saved without training), or a folder of its embeddings. Every table shows chance:
a key drawn at random.

`--dna_noise True` also measures with errors in the barcodes of the queries, each kind alone and all together, and
writes `robustness.md`. A model with fusion is measured with photo and barcode fused, too.

The output folder holds `results.json` (every combination), `tables.md` (those that the paper reports), and with
--plots `confusion.png`, `keys.png`, `bars.png` and, if the source has photos, `gallery.png`.
"""

import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from datasets import Image
from transformers import PreTrainedConfig

from bioscan_hf.dataset.load import load_bioscan5m
from bioscan_hf.encoders.clibd import embed_clibd
from bioscan_hf.encoders.stored import modalities_of
from bioscan_hf.evaluation.comparison import comparison, read_evaluations
from bioscan_hf.evaluation.comparison import printed as printed_comparison
from bioscan_hf.evaluation.retrieval import check_ranks, check_top_k, class_accuracies
from bioscan_hf.evaluation.retrieval_plots import Found, accuracy_by_keys, confusion_matrix, gallery
from bioscan_hf.evaluation.retrieval_protocol import (
    KEY_TYPES,
    MODALITIES,
    REPORTED,
    Specimens,
    combinations_of,
    evaluate_retrieval,
    rows_of,
)
from bioscan_hf.evaluation.retrieval_tables import printed, table_text
from bioscan_hf.evaluation.specimens import joined, load_specimens
from bioscan_hf.files import write_text, writing
from bioscan_hf.models.modeling_clibd import ClibdModel
from bioscan_hf.models.processing_clibd import ClibdProcessor
from bioscan_hf.plots import accuracy_bars, png
from bioscan_hf.provenance import write_results
from bioscan_hf.schema import LABEL_COLUMNS, REPORTED_RANKS, resolve_splits
from bioscan_hf.search.index import KINDS, build_index, measure_recall, save_index
from bioscan_hf.search.retrieve import TIES, retrieve
from bioscan_hf.training.arguments import check_processes, read_options
from bioscan_hf.training.clibd.batches import encoded_photo
from bioscan_hf.training.clibd.robustness import REPORTED as REPORTED_WITH_NOISE
from bioscan_hf.training.clibd.robustness import WITH_DNA, embed_noisy, noisy_specimens, robustness_text
from bioscan_hf.training.dna_noise import DnaNoise
from bioscan_hf.training.inputs import pinned
from bioscan_hf.training.options.evaluate import EvaluateOptions
from bioscan_hf.training.options.shared import check_choices
from bioscan_hf.training.run import run_program

#: Evaluation -> splits of the queries of seen and of unseen species.
QUERIES = {"val": ("val", "val_unseen"), "test": ("test", "test_unseen")}

#: Queries of seen and of unseen species.
PARTS = ("seen", "unseen")

#: Folder of the embeddings of altered barcodes, in the output folder.
NOISE = "embeddings_noise"

GALLERY_QUERIES = 6
GALLERY_NEIGHBOURS = 3


#: Option -> its allowed values.
CHOICES: dict[str, Sequence[str]] = {
    "evaluate": tuple(QUERIES),
    "combinations": combinations_of((*MODALITIES, "fused")),
    "ties": TIES,
    "index": KINDS,
    "dtype": ("auto", "float32", "bfloat16"),
    "prototypes": LABEL_COLUMNS,
    "save_index": KEY_TYPES,
}


def check_options(options: EvaluateOptions) -> None:
    """Raises ValueError or FileExistsError for options that are unknown or exclude each other."""
    if sum(bool(given) for given in (options.model, options.embeddings, options.table)) != 1:
        raise ValueError("Give either --model and --source, or --embeddings, or --table.")
    if options.model is not None and options.source is None:
        raise ValueError("--model needs --source, the dataset to embed.")
    if options.dna_noise and options.model is None:
        raise ValueError("--dna_noise embeds altered barcodes: give --model and --source.")
    if options.dna_noise and not any(name.split("->")[0] in WITH_DNA for name in options.combinations or ["dna"]):
        raise ValueError("--dna_noise needs one of the --combinations with barcodes as queries, such as 'dna->dna'.")
    resolve_splits(options.key_splits)
    check_top_k(options.top_k)
    check_ranks(options.ranks, dict.fromkeys(LABEL_COLUMNS))
    check_choices(options, CHOICES)
    output, written = Path(options.output_dir), "table.md" if options.table else "results.json"
    if options.save_index is not None and (output / "index/index.json").exists():
        raise FileExistsError(f"{str(output / 'index')!r} holds an index. Delete it, or choose another --output_dir.")
    if (output / written).exists() and not options.force:
        raise FileExistsError(
            f"{str(output)!r} has results. Choose another --output_dir, or replace them with --force."
        )


def embed_splits(options: EvaluateOptions, model: str, folder: Path) -> None:
    """Writes the embeddings of each split to `folder`, or continues an interrupted run."""
    kind = PreTrainedConfig.get_config_dict(pinned(model))[0].get("model_type")
    if kind != "clibd":
        raise ValueError(f"{model!r} is a model of type {kind!r}. Give a CLIBD model.")
    network, processor = _loaded(model)
    config = options.config if "image" in network.config.modalities else "dna"
    how: dict[str, Any] = {"batch_size": options.batch_size, "dtype": options.dtype}
    for split in splits_of(options):
        data = load_bioscan5m(str(options.source), config, split, max_nucleotides=None)
        embed_clibd(network, processor, data, folder / split, workers=max(1, options.workers), **how)


def _loaded(model: str) -> tuple[ClibdModel, ClibdProcessor]:
    """A model on the device of this process, and its processor."""
    model = pinned(model)
    network: Any = ClibdModel.from_pretrained(model)
    return network.to(this_process().device).eval(), ClibdProcessor.from_pretrained(model)


def this_process() -> PartialState:
    """Device and rank of this process."""
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))


def splits_of(options: EvaluateOptions) -> tuple[str, ...]:
    """The splits of keys and queries."""
    return tuple(dict.fromkeys((*resolve_splits(options.key_splits), *QUERIES[options.evaluate])))


def measured(options: EvaluateOptions, specimens: Mapping[str, Specimens]) -> dict[str, Any]:
    """Retrieval tables of a model, numbers of absent modalities, and the recall of an approximate index."""
    keys = joined([specimens[split] for split in resolve_splits(options.key_splits)])
    queries = dict(zip(PARTS, (specimens[split] for split in QUERIES[options.evaluate]), strict=True))
    tables = evaluate_retrieval(
        keys,
        queries,
        combinations=options.combinations or None,
        ranks=options.ranks,
        top_k=options.top_k,
        ties=options.ties,
        kind=options.index,
        prototype_rank=options.prototypes,
        device=this_process().device,
    )
    about: dict[str, Any] = {
        "tables": tables,
        "absent": {
            split: {name: int((~mask).sum()) for name, mask in found.present.items()}
            for split, found in specimens.items()
        },
    }
    if options.index != "exact":
        about["recall"] = {}
        for key in dict.fromkeys(name.split("->")[1] for name in tables):
            rows = rows_of(keys, key, options.ranks)
            index = build_index(rows.vectors, {}, kind=options.index)
            asked = next(name.split("->")[0] for name in tables if name.endswith(f"->{key}"))
            vectors = rows_of(queries["seen"], asked, options.ranks).vectors[:1000]
            about["recall"][f"{asked}->{key}"] = measure_recall(
                index, vectors, min(max(options.top_k), len(index.vectors))
            )
    return about


def embed_with_noise(options: EvaluateOptions) -> ClibdModel:
    """Writes the embeddings of altered barcodes of the queries; gives the model."""
    network, processor = _loaded(str(options.model))
    output, how = Path(options.output_dir) / NOISE, {"batch_size": options.batch_size, "dtype": options.dtype}
    for split in QUERIES[options.evaluate]:
        data = load_bioscan5m(str(options.source), "dna", split, max_nucleotides=None)
        embed_noisy(network, processor.dna_tokenizer, data, split, options.noise_seed, output, **how)
    return network


def measured_with_noise(
    options: EvaluateOptions, network: ClibdModel, specimens: Mapping[str, Specimens], tables: Mapping[str, Any]
) -> dict[str, Any]:
    """Kind of error -> retrieval tables of queries with a barcode; "none" has those without errors."""
    asked = options.combinations or [name for name in REPORTED_WITH_NOISE if name in tables]
    altered = [name for name in asked if name.split("->")[0] in WITH_DNA]
    found: dict[str, Any] = {"none": {name: tables[name] for name in asked}}
    for condition in DnaNoise.conditions():
        folder = Path(options.output_dir) / NOISE / condition
        queries = {
            split: noisy_specimens(network, specimens[split], folder / split) for split in QUERIES[options.evaluate]
        }
        chosen = replace(options, combinations=altered, index="exact")
        found[condition] = measured(chosen, dict(specimens) | queries)["tables"]
    return found


def write_plots(
    options: EvaluateOptions, specimens: Mapping[str, Specimens], models: Mapping[str, Mapping[str, Any]]
) -> None:
    """Writes the figures, of image->dna if it was measured, otherwise of the first combination."""
    output, k = Path(options.output_dir), min(options.top_k)
    tables = models["model"]["tables"]
    name = "image->dna" if "image->dna" in tables else next(iter(tables))
    title = name.replace("->", " \N{RIGHTWARDS ARROW} ").replace("dna", "DNA")
    rank = options.ranks[-1]
    measured_parts = {model: {part: about["tables"][name][part] for part in PARTS} for model, about in models.items()}
    measured_parts["chance"] = {part: tables[name][part]["chance"] for part in PARTS}
    bars = {
        model: {f"{part}\n{of}": parts[part]["macro"][k][of] for part in PARTS for of in options.ranks}
        for model, parts in measured_parts.items()
    }
    _write(output / "bars.png", accuracy_bars(bars, f"{title}, macro top-{k} accuracy (%)"))
    keys = joined([specimens[split] for split in resolve_splits(options.key_splits)])
    rows = rows_of(keys, name.split("->")[1], options.ranks)
    index = build_index(rows.vectors, rows.labels, ids=rows.ids)
    true: list[str | None] = []
    guessed: list[str | None] = []
    by_taxon, sizes = {}, {}
    for part, split in zip(PARTS, QUERIES[options.evaluate], strict=True):
        if not tables[name][part]["queries"]:
            continue
        asked = rows_of(specimens[split], name.split("->")[0], options.ranks)
        found = retrieve(index, asked.vectors, k=1, ties=options.ties)
        by_taxon[part] = class_accuracies(index, found, rank, asked.labels[rank])
        sizes[part] = Counter(taxon for taxon in asked.labels[rank] if taxon is not None)
        shown = next((r for r in ("genus", "family", "order") if r in options.ranks), rank)
        names = np.array([*index.classes[shown], None], object)
        true += asked.labels[shown]
        guessed += names[found.predictions[shown][:, 0]].tolist()
    if any(true):
        _write(output / "confusion.png", confusion_matrix(true, guessed, title=f"{title}, {shown}"))
    counts = Counter(taxon for taxon in rows.labels[rank] if taxon is not None)
    _write(output / "keys.png", accuracy_by_keys(by_taxon, counts, sizes))
    if options.source is not None and "image" in keys.embeddings:
        possible = combinations_of(list(keys.embeddings))
        figure = draw_gallery(options, specimens, [name for name in REPORTED if name in possible], GALLERY_NEIGHBOURS)
        _write(output / "gallery.png", figure)


def draw_gallery(options: EvaluateOptions, specimens: Mapping[str, Specimens], shown: Sequence[str], k: int) -> Any:
    """A figure of queries of seen and unseen species, and their k nearest neighbours in some combinations."""
    keys = joined([specimens[split] for split in resolve_splits(options.key_splits)])
    chosen: list[tuple[str, str]] = []  # split and processid
    asked: dict[str, list[Any]] = {name: [] for name in shown}
    for split in QUERIES[options.evaluate]:
        whole = np.logical_and.reduce(list(specimens[split].present.values()))
        drawn = np.random.default_rng(0).permutation(np.flatnonzero(whole))[: GALLERY_QUERIES // 2].tolist()
        chosen += [(split, specimens[split].ids[row]) for row in drawn]
        for name in shown:
            vectors = np.asarray(specimens[split].embeddings[name.split("->")[0]])
            asked[name] += [vectors[row] for row in drawn]
    ranks = [rank for rank in REPORTED_RANKS if rank in keys.labels]
    found, wanted = {}, {processid for _, processid in chosen}
    for name in shown:
        rows = rows_of(keys, name.split("->")[1], ranks)
        index = build_index(rows.vectors, rows.labels, ids=rows.ids)
        result = retrieve(index, np.stack(asked[name]), k=min(k, len(index)), ties=options.ties)
        found[name] = (rows, result)
        wanted |= {rows.ids[row] for row in result.neighbours.reshape(-1)}
    photos = _photos(options, wanted)
    queries: list[tuple[bytes | None, dict[str, str | None]]] = []
    for split, processid in chosen:
        row = list(specimens[split].ids).index(processid)
        queries.append((photos.get(processid), {rank: specimens[split].labels[rank][row] for rank in ranks}))
    neighbours: dict[str, list[list[Found]]] = {}
    for name, (rows, result) in found.items():
        neighbours[name] = [
            [
                Found(photos.get(rows.ids[row]), {rank: rows.labels[rank][row] for rank in ranks}, float(similarity))
                for row, similarity in zip(of_query, similarities, strict=True)
            ]
            for of_query, similarities in zip(result.neighbours, result.similarities, strict=True)
        ]
    return gallery(queries, neighbours)


def _photos(options: EvaluateOptions, wanted: set[str]) -> dict[str, bytes]:
    """Processid -> its encoded photo, for specimens that have one."""
    found = {}
    for split in splits_of(options):
        data = load_bioscan5m(str(options.source), options.config, split, columns=["processid", "image"])
        rows = [row for row, processid in enumerate(data["processid"]) if processid in wanted]
        for row in data.select(rows).cast_column("image", Image(decode=False)):
            photo = encoded_photo(row["image"])
            if photo is not None:
                found[row["processid"]] = photo["bytes"] or Path(photo["path"]).read_bytes()
    return found


def _write(path: Path, figure: Any) -> None:
    with writing(path, "wb") as file:
        file.write(png(figure))


def compare(options: EvaluateOptions) -> dict[str, Any]:
    """Writes `table.md` and `table.csv` of finished evaluations, and gives both texts."""
    shown = options.combinations or REPORTED
    text, values = comparison(read_evaluations(options.table), options.ranks, shown, k=min(options.top_k))
    write_text(Path(options.output_dir) / "table.md", text)
    write_text(Path(options.output_dir) / "table.csv", values)
    print(printed_comparison(values, text.splitlines()[0]))
    return {"markdown": text, "csv": values}


def evaluate(options: EvaluateOptions) -> dict[str, Any]:
    """Runs the evaluation, and gives the content of results.json; an empty dict in all processes but the main one."""
    check_options(options)
    if options.table:
        return compare(options)
    state = this_process()
    check_processes(state.num_processes)
    start, output = time.time(), Path(options.output_dir)
    specimens: dict[str, dict[str, Specimens]] = {}
    for name, given in (("model", options.model or options.embeddings), ("baseline", options.baseline)):
        if given is None:
            continue
        folder, splits = Path(given), splits_of(options)
        if given != options.embeddings and not all(modalities_of(folder / split) for split in splits):
            folder = output / ("embeddings" if name == "model" else "embeddings_baseline")
            embed_splits(options, given, folder)
        if state.is_main_process:
            specimens[name] = {split: load_specimens(folder / split) for split in splits}
    network = embed_with_noise(options) if options.dna_noise else None
    if not state.is_main_process:
        return {}
    models = {name: measured(options, of_model) for name, of_model in specimens.items()}
    output.mkdir(parents=True, exist_ok=True)
    text = table_text(models, options.ranks, min(options.top_k))
    write_text(output / "tables.md", text)
    print(printed(models, options.ranks, min(options.top_k)))
    if network is not None:
        about = models["model"]
        noise = about["noise"] = measured_with_noise(options, network, specimens["model"], about["tables"])
        write_text(output / "robustness.md", robustness_text(noise, options.ranks, min(options.top_k)))
    if options.plots:
        write_plots(options, specimens["model"], models)
    if options.save_index is not None:
        keys = joined([specimens["model"][split] for split in resolve_splits(options.key_splits)])
        rows = rows_of(keys, options.save_index, options.ranks)
        save_index(build_index(rows.vectors, rows.labels, ids=rows.ids, kind=options.index), output / "index")
    return write_results(
        output / "results.json",
        task="clibd/retrieval",
        options={name: value for name, value in asdict(options).items() if name != "output_dir"},
        dataset=options.source,
        splits={split: len(found.ids) for split, found in specimens["model"].items()},
        device=str(torch.cuda.get_device_name(state.device)) if state.device.type == "cuda" else state.device.type,
        seconds=round(time.time() - start, 1),
        metrics=models,
    )


#: Options from flags, or from one YAML file.
parse = partial(read_options, kinds=(EvaluateOptions,), program="clibd", group="evaluate")


def main(arguments: Sequence[str]) -> dict[str, Any]:
    """Runs the evaluation with the options of a command line."""
    return evaluate(*parse(arguments))


if __name__ == "__main__":
    run_program(lambda: main(sys.argv[1:]))
