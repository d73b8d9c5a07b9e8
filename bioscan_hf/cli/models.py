"""What the commands of `bioscan-hf` that have to do with models and embeddings do, as `commands` does the others."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .data import Options, Result, bar, refuse_to_replace, say


def embed(options: Options) -> Result:
    from datasets import disable_progress_bars
    from huggingface_hub.utils import disable_progress_bars as disable_own_bar
    from transformers.utils.logging import disable_progress_bar

    from ..dataset.load import load_bioscan5m, parse_taxon
    from ..dataset.sequences import is_sequence_file
    from ..encoders.barcode_encoders import load_encoder
    from ..encoders.embed import embed as write

    disable_progress_bars()  # those of the libraries; embedding has its own
    disable_progress_bar()
    if options.json or options.quiet:
        disable_own_bar()
    own = is_sequence_file(options.source)
    _check_photo_options(options, own)
    if own and (options.split or options.taxon or options.unique_barcodes):
        raise ValueError(
            f"{options.source!r} holds sequences without splits: leave --split, --taxon and --unique-barcodes out."
        )
    photos = options.config != "dna"
    model, processor = (
        _photo_encoder(options) if photos else load_encoder(options.model, trust_remote_code=options.trust_remote_code)
    )
    column = "image" if photos else "dna_barcode"
    sizes = {}

    def write_to(folder: Path, name: str, data: Any) -> None:
        how: dict[str, Any] = {"batch_size": options.batch_size, "dtype": options.dtype, "column": column}
        found = write(model, processor, data, output=folder, **how)
        sizes[name] = len(found.processids)
        short = int((~found.valid).sum())
        note = f"; {short} hold no whole token: their vector is zero, their `valid` false" if short else ""
        say(options, f"{name}: {len(found.processids):,} x {found.embeddings.shape[1]}{note}")

    if own:
        write_to(options.output, Path(options.source).name, _own_sequences(options))
    else:
        taxon = parse_taxon(options.taxon) if options.taxon else None
        for name in options.split or ("train", "test", "test_unseen"):
            data = load_bioscan5m(
                options.source, options.config, name, taxon=taxon, unique_barcodes=options.unique_barcodes
            )
            write_to(options.output / name, name, data)
    say(options, f"Wrote {options.output}")
    return {"output": str(options.output), "model": options.model, "rows": sizes}


def _check_photo_options(options: Options, own: bool) -> None:
    photos = options.config != "dna"
    if photos and (own or options.trust_remote_code):
        raise ValueError(
            "Photos come from a dataset, and their encoders run no code of their own: leave out --config or "
            "--trust-remote-code."
        )
    given = (options.weights, options.pooling, options.zoom, options.workers)
    if not photos and (options.random_weights or any(value is not None for value in given)):
        raise ValueError(
            "--weights, --random-weights, --pooling, --zoom and --workers are for photos: add --config cropped_256."
        )


def _photo_encoder(options: Options) -> tuple[Any, Any]:
    from ..encoders.image_encoders import load_image_encoder

    return load_image_encoder(
        options.model,
        weights=options.weights,
        pooling=options.pooling,
        random_weights=options.random_weights,
        zoom=options.zoom,
        workers=options.workers or 1,
    )


def _own_sequences(options: Options) -> Any:
    """The records of a FASTA, FASTQ or table."""
    from ..dataset.sequences import read_sequences

    with bar(options, " records") as shown:
        return read_sequences(
            options.source,
            clean=options.clean,
            remove_gaps=options.remove_gaps,
            duplicates="keep" if options.keep_duplicates else "error",
            empty="keep" if options.keep_empty else "error",
            id_column=options.id_column,
            sequence_column=options.sequence_column,
            encoding=options.encoding,
            progress=shown.update,
        )


def identify(options: Options) -> Result:
    from datasets import disable_progress_bars
    from huggingface_hub.utils import disable_progress_bars as disable_own_bar
    from transformers.utils.logging import disable_progress_bar

    from ..dataset.load import load_bioscan5m
    from ..dataset.sequences import is_sequence_file
    from ..encoders.barcode_encoders import load_encoder
    from ..encoders.embed import embed as write
    from ..identification.confidence import calibrate, name_rows, write_names
    from ..identification.confidence import identify as name
    from ..schema import RANKS
    from ..search.index import build_index

    refuse_to_replace(options.force, options.output)
    if not Path(options.source).exists():
        raise FileNotFoundError(f"There is no file {options.source!r}.")
    if not is_sequence_file(options.source):
        raise ValueError(f"{options.source!r} is no file of sequences: give FASTA, FASTQ, CSV or TSV, also .gz.")
    if not 0 <= options.least <= 1:
        raise ValueError(f"--least {options.least} is no probability: give a number from 0 to 1.")
    if not 0 <= options.novel_share <= 1:
        raise ValueError(f"--novel-share {options.novel_share} is no share: give a number from 0 to 1.")
    disable_progress_bars()
    disable_progress_bar()
    if options.json or options.quiet:
        disable_own_bar()
    records = _own_sequences(options)
    model, processor = load_encoder(options.model, trust_remote_code=options.trust_remote_code)
    split = "+".join(options.split or ["train"])
    references = load_bioscan5m(options.references, "dna", split, unique_barcodes=True)
    how: dict[str, Any] = {"batch_size": options.batch_size, "dtype": options.dtype}
    keys = write(model, processor, references, output=options.keep, **how)
    whole = [row for row, valid in enumerate(keys.valid) if valid]
    table = references.select_columns(list(RANKS)).with_format("arrow")[:].take(whole)
    labels = {rank: table[rank].to_pylist() for rank in RANKS}
    index = build_index(keys.embeddings[whole], labels, ids=[keys.processids[row] for row in whole])
    calibration = calibrate(index, novel_share=options.novel_share, seed=options.seed)
    queries = write(model, processor, records, **how)
    found = name(queries.embeddings, index, calibration, valid=queries.valid, ids=queries.processids)
    rows = name_rows(queries.processids, found, index.ids, options.least)
    write_names(options.output, rows)
    counts = {rank: sum(row["rank"] == rank for row in rows) for rank in found.names}
    say(
        options,
        f"{len(rows):,} sequences against {len(index):,} references of {split}, at {options.least:.0%} or surer:",
    )
    for rank, count in counts.items():
        say(options, f"  to {rank:<10} {count:>9,}")
    say(options, f"  without a name {len(rows) - sum(counts.values()):>5,}")
    say(
        options, f"Wrote {options.output}; it assumes that the species of {options.novel_share:.0%} have no reference."
    )
    return {
        "output": str(options.output),
        "sequences": len(rows),
        "references": len(index),
        "deepest_rank": counts,
        "least": options.least,
        "novel_share": options.novel_share,
    }


def probe(options: Options) -> Result:
    from datasets import disable_progress_bars

    from ..dataset.load import labels_of
    from ..encoders.embed import load_embeddings
    from ..evaluation.probing import knn_probe, linear_probe, probe_barcodes
    from ..provenance import write_results

    output = options.output or options.embeddings / "results.json"
    refuse_to_replace(options.force, output)
    disable_progress_bars()
    splits = ("train", "test", "test_unseen")
    for name in splits:
        if not (options.embeddings / name).is_dir():
            raise FileNotFoundError(
                f"No embeddings of {name!r} in {str(options.embeddings)!r}: run `bioscan-hf embed` for it first."
            )
    embeddings = {name: load_embeddings(options.embeddings / name) for name in splits}
    how: dict[str, Any] = {"k": options.k, "metric": options.metric, "temperature": options.temperature}
    if options.probe == "linear":
        how = {"protocol": options.protocol}
    metrics = probe_barcodes(
        {name: found.embeddings for name, found in embeddings.items()},
        {name: labels_of(options.source, name, found.processids) for name, found in embeddings.items()},
        probe=linear_probe if options.probe == "linear" else knn_probe,
        **how,
    )
    results = write_results(
        output,
        task=f"barcodebert/{options.probe}",
        options=how,
        dataset=str(options.source),
        splits={name: len(found.processids) for name, found in embeddings.items()},
        embeddings=str(options.embeddings),
        metrics=metrics,
    )
    for name, value in metrics.items():
        text = "no data" if value["micro_accuracy"] is None else f"{value['micro_accuracy']:.4f}"
        say(options, f"{name:<22} {text}  ({value['n_test']:,} queries, {value['n_train']:,} keys)")
    say(options, f"Wrote {output}")
    return results


def retrieve(options: Options) -> Result:
    from datasets import disable_progress_bars

    from ..evaluation.retrieval_embeddings import barcode_specimens, joined
    from ..evaluation.retrieval_protocol import evaluate_retrieval
    from ..provenance import write_results

    output = options.output or options.embeddings / "retrieval.json"
    refuse_to_replace(options.force, output)
    disable_progress_bars()
    splits = ("train", "key_unseen", "test", "test_unseen")
    for name in splits:
        if not (options.embeddings / name).is_dir():
            raise FileNotFoundError(
                f"No embeddings of {name!r} in {str(options.embeddings)!r}: run `bioscan-hf embed` for it first."
            )
    found = {name: barcode_specimens(options.embeddings / name, options.source, name) for name in splits}
    metrics = evaluate_retrieval(
        joined([found["train"], found["key_unseen"]]),
        {"seen": found["test"], "unseen": found["test_unseen"]},
        ties=options.ties,
        kind=options.index,
    )
    results = write_results(
        output,
        task="clibd/retrieval",
        options={"ties": options.ties, "index": options.index},
        dataset=str(options.source),
        splits={name: len(part.ids) for name, part in found.items()},
        embeddings=str(options.embeddings),
        metrics=metrics,
    )
    for combination, tables in metrics.items():
        for name in ("seen", "unseen"):
            top1 = tables[name]["micro"][1]
            shown = ", ".join(f"{rank} {'-' if value is None else f'{value:.4f}'}" for rank, value in top1.items())
            say(options, f"{combination}, {name}: {shown} ({tables[name]['queries']:,} queries)")
    say(options, f"Wrote {output}")
    return results


def cluster(options: Options) -> Result:
    from datasets import disable_progress_bars

    from ..clustering.output import FILES, SpecimenPhotos, clear_output
    from ..clustering.protocol import cluster_embeddings

    written = ("results.json", "clusters.parquet", *FILES)
    refuse_to_replace(options.force, *(options.output / name for name in written))
    disable_progress_bars()
    folders = _named_folders((options.embeddings, *options.also))
    if options.photos is not None:  # a source without them is told before the long work
        if options.map == "none":
            raise ValueError("--photos are shown in the map, which --map none leaves out: leave one of them out.")
        SpecimenPhotos(options.source, options.photos, "+".join(options.split or ("test", "test_unseen")), [])
    chosen = {name: getattr(options, name) for name in ("reducer", "clusterer", "distance_threshold", "normalization")}
    how: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
    if options.n_clusters is not None:
        how["n_clusters"] = int(options.n_clusters) if options.n_clusters.isdecimal() else options.n_clusters
    with bar(options, " runs") as shown:
        results = cluster_embeddings(
            options.source,
            folders,
            options.output,
            preset=options.preset,
            splits=options.split or ("test", "test_unseen"),
            seeds=options.seed,
            missing=options.missing,
            force=options.force,
            progress=lambda seed: shown.update(),
            **how,
        )
    for rank in (rank for rank in results["metrics"] if rank != "separation"):
        scores, spread = results["metrics"][rank], results["spread"][rank]["ami"]
        ami = "no names" if scores["ami"] is None else f"{100 * scores['ami']:.1f}"
        more = "" if spread is None else f" +- {100 * spread:.1f}"
        say(options, f"{rank:<10} AMI {ami}{more}  ({scores['classes']:,} names, {scores['missing']:,} missing)")
    found = results["chosen"][0]
    oracle = f", the true number of names of {found['rank']}" if found["oracle"] else ""
    say(options, f"{results['metrics']['separation']['n_clusters']:,.0f} clusters{oracle}")
    for name, those in results["dropped"].items():
        say(options, f"Left out: {len(those):,} specimens that {name!r} lacks")
    clear_output(options.output)
    if options.map != "none":
        _show_clusters(options, folders, results)
    say(options, f"Wrote {options.output}")
    return results


def _named_folders(given: Iterable[str]) -> dict[str, Path]:
    """Name -> folder, of "NAME=FOLDER", or of a folder alone, which lends its own name."""
    folders: dict[str, Path] = {}
    for text in given:
        name, _, folder = text.partition("=")
        if not folder or Path(text).is_dir():
            name, folder = Path(text).resolve().name, text
        if name in folders:
            raise ValueError(f"Two folders are named {name!r}: tell them apart, such as dna=FOLDER and image=FOLDER.")
        folders[name] = Path(folder)
    return folders


def _show_clusters(options: Options, folders: dict[str, Path], results: Result) -> None:
    """Writes the figure, the maps and the tables of the first run."""
    import pyarrow.parquet as pq

    from ..clustering.output import SpecimenPhotos, write_output
    from ..clustering.protocol import clustered_vectors, read_specimens

    splits = options.split or ("test", "test_unseen")
    specimens = read_specimens(options.source, folders, splits=splits, missing=options.missing)
    photos = None
    if options.photos is not None:
        photos = SpecimenPhotos(options.source, options.photos, "+".join(splits), specimens.processids)
    write_output(
        options.output,
        {" + ".join(folders): results},
        pq.read_table(options.output / "clusters.parquet", columns=["cluster"])["cluster"].to_numpy(),
        specimens.labels,
        specimens.processids,
        clustered_vectors(specimens, results),
        photos=photos,
        reducer=options.map,
        seed=results["seeds"][0],
    )


def card(options: Options) -> Result:
    from ..cards import read_results, write_card
    from ..hub.cards import barcodebert_card, clibd_card
    from ..hub.dataset_cards import clustering_card, index_card

    folder = options.index or options.results.resolve().parent
    output = options.output or folder / "README.md"
    refuse_to_replace(options.force, output)
    results = read_results(options.results)
    title, task = options.title or folder.resolve().name, str(results.get("task"))
    if options.index is not None:
        text = index_card(title, options.index, results)
    elif task == "bioscan5m/clustering":
        text = clustering_card(title, results)
    else:
        text = (clibd_card if task.startswith("clibd/") else barcodebert_card)(title, results)
    write_card(output, text)
    say(options, f"Wrote {output}")
    return {"output": str(output)}


def convert(options: Options) -> Result:
    import json

    from ..checkpoints.safe_load import load_checkpoint

    weights = load_checkpoint(options.checkpoint).get("state_dict", {})
    if any(str(name).startswith("model.model.") for name in weights):
        from ..crops.boxes import convert_detr

        convert_detr(options.checkpoint, options.output)
        say(options, f"Wrote {options.output}, a detector for `bioscan-hf crop --model {options.output}`")
        return {"output": str(options.output), "model": "detr"}
    from ..checkpoints.barcodebert import convert_checkpoint

    labels = options.labels.read_text(encoding="utf-8").splitlines() if options.labels else None
    tokenizer = None
    if options.text_tokenizer is not None:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(options.text_tokenizer)
    folder = convert_checkpoint(
        options.checkpoint,
        options.output,
        labels=labels,
        num_attention_heads=options.heads,
        adapters=options.adapters,
        text_tokenizer=tokenizer,
    )
    say(options, f'Wrote {folder}. In Python: AutoModel.from_pretrained("{folder}")')
    return {"output": str(folder), "model": json.loads((folder / "config.json").read_text())["model_type"]}
