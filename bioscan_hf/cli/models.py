"""Commands of models: embed, convert, card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Argument, Option

from ..schema import UNASSIGNED
from .command import Output, Result, command
from .options import (
    SEQUENCES,
    SOURCE,
    BatchSize,
    Clean,
    Config,
    Dtype,
    Encoding,
    Force,
    IdColumn,
    KeepDuplicates,
    KeepEmpty,
    SequenceColumn,
    TrustRemoteCode,
    beside,
    check_encoding,
    check_encoding_of_dataset,
    check_exists,
    check_model,
    check_source,
    no_library_bars,
    plural,
    read_own_sequences,
    refuse_file,
    refuse_folder,
    refuse_inputs,
    refuse_to_replace,
    shell,
)

PANEL = "Models"
PHOTOS = "Photos"

#: Splits that `probe` and `retrieve` read.
EVALUATED = ("train", "key_unseen", "test", "test_unseen")

EmbeddedSplits = Annotated[
    list[str] | None,
    Option("--split", help=f"Split, repeatable. Default: those of {', '.join(EVALUATED)} that exist."),
]
EmbedConfig = Annotated[Config, Option(help="dna embeds barcodes, the others embed photos.", rich_help_panel=PHOTOS)]
Weights = Annotated[
    Path | None, Option(help="Weights file of a published encoder or of timm:ID.", rich_help_panel=PHOTOS)
]
RandomWeights = Annotated[
    bool, Option("--random-weights", help="An untrained network, for comparison.", rich_help_panel=PHOTOS)
]
Pooling = Annotated[
    Literal["masked_mean", "mean", "cls", "tokens", "model", "token", "avg", "avg_before_norm"] | None,
    Option(
        help="Default: that of the encoder. For barcodes: masked_mean, mean; with [CLS] also cls, and tokens (the "
        "mean without [CLS]). The others are for photos."
    ),
]

#: Barcodes of a split of which the strands are compared, and the fewest letters that tell a strand.
STRANDS_COMPARED, STRAND_LETTERS = 1000, 100

#: Poolings of barcodes.
BARCODE_POOLINGS = ("masked_mean", "mean", "cls", "tokens")
OnlyTaxa = Annotated[list[str] | None, Option(metavar="RANK=NAME", help="Only this taxon, such as order=Diptera.")]
Missing = Annotated[
    Literal["error", "drop"],
    Option(help="Specimens without a barcode, or without a photo: an error, or left out and counted."),
]
Noise = Annotated[
    Literal["substitutions", "unread", "insertions", "deletions", "lost_run", "cut_end", "all"] | None,
    Option(help="Errors to add to the barcodes of --split, to measure robustness."),
]
Zoom = Annotated[float | None, Option(help="Below 1 crops a border. Default: 1.", rich_help_panel=PHOTOS)]
Workers = Annotated[int | None, Option(help="Threads that decode photos. Default: 1.", rich_help_panel=PHOTOS)]


@command(
    PANEL,
    "bioscan-hf embed dataset embeddings --model out/barcodebert",
    "bioscan-hf embed reads.fasta vectors --model out/barcodebert",
)
def embed(
    source: Annotated[str, Argument(help=f"{SOURCE}; or FASTA, FASTQ, CSV or TSV with sequences, also .gz.")],
    output: Annotated[Path, Argument(help="Folder, with a subfolder per split. Interrupted runs resume.")],
    model: Annotated[str, Option(help="Folder or Hub id, kmer:K, cnn:FOLDER, hf:ID or timm:ID.")],
    split: EmbeddedSplits = None,
    taxon: OnlyTaxa = None,
    batch_size: BatchSize = 256,
    unique_barcodes: Annotated[bool, Option("--unique-barcodes", help="One specimen of each barcode.")] = False,
    dtype: Dtype = "auto",
    trust_remote_code: TrustRemoteCode = False,
    config: EmbedConfig = "dna",
    weights: Weights = None,
    random_weights: RandomWeights = False,
    pooling: Pooling = None,
    zoom: Zoom = None,
    workers: Workers = None,
    clean: Clean = "barcode",
    keep_duplicates: KeepDuplicates = False,
    keep_empty: KeepEmpty = False,
    id_column: IdColumn = None,
    sequence_column: SequenceColumn = None,
    encoding: Encoding = "utf-8",
    missing: Missing = "error",
    dna_noise: Noise = None,
    force: Annotated[bool, Option("--force", help="Replace other embeddings in the folder.")] = False,
    *,
    out: Output,
) -> Result:
    """Embed the barcodes or photos of a dataset, or your own sequences."""
    given = dict(locals())
    check_source(source, SEQUENCES)
    check_encoding(encoding)
    check_model(model, photos=config != "dna")
    check_exists(weights)
    refuse_file(output)
    refuse_inputs([source], output)
    from ..dataset.sequences import is_sequence_file

    no_library_bars(out)
    own = is_sequence_file(source)
    _check_embed_options(given, own)
    with out.progress("loading the model"):
        encoder, processor = _encoder(given)
    out.no_bar()  # the embedding draws its own
    sizes, dropped = _embed_parts(given, own, encoder, processor, out)
    out.wrote(output, next=_next(source, output, sizes, own))
    return {"output": str(output), "model": model, "rows": sizes, "left_out": dropped}


def _embed_parts(
    given: dict[str, Any], own: bool, encoder: Any, processor: Any, out: Output
) -> tuple[dict[str, int], dict[str, int]]:
    """Embeds each split, or the sequences that are the user's own; numbers of rows and of those left out, by split."""
    from ..dataset.request import MissingSplit
    from ..encoders.embed import embed as write
    from ..schema import LABEL_COLUMNS

    how = {name: given[name] for name in ("batch_size", "dtype", "force", "missing")}
    how["column"] = "dna_barcode" if given["config"] == "dna" else "image"
    sizes: dict[str, int] = {}
    dropped: dict[str, int] = {}
    for name, (folder, read) in _parts(given, own, out).items():
        try:
            rows = read()
        except MissingSplit as error:
            if given["split"] or name == EVALUATED[-1] and not sizes:
                whole = " To embed all of its specimens, save ids and barcodes as CSV or FASTA."
                raise MissingSplit(f"{error}{whole if UNASSIGNED in str(error) else ''}") from None
            out.say(f"{name}: left out. {error}")
            continue
        if turned := _turned(rows) if given["config"] == "dna" else "":
            out.say(f"{name}: {turned}")
        labels = [rank for rank in LABEL_COLUMNS if own and rank in rows.column_names]  # `cluster` reads them
        found = write(encoder, processor, rows, output=folder, keep=labels, **how)
        sizes[name], dropped[name] = len(found), len(rows) - len(found)
        out.say(f"{name}: {len(found):,} x {found.dim}{_notes(found, dropped[name], given['config'])}")
    return sizes, dropped


def _turned(rows: Any) -> str:
    """How many barcodes of an even sample are on the other strand than most; empty if none is."""
    import numpy as np

    from ..barcodes import spell
    from ..statistics.region import placed

    chosen = np.unique(np.linspace(0, len(rows) - 1, STRANDS_COMPARED).astype(np.int64))[: len(rows)]
    part = rows.select(chosen).with_format("arrow")[:] if hasattr(rows, "with_format") else rows.take(chosen)
    barcodes = [one for one in map(spell, part["dna_barcode"].to_pylist()) if one and len(one) >= STRAND_LETTERS]
    if not barcodes or not (turned := int(placed(barcodes).turned.sum())):
        return ""
    compared = plural(len(barcodes), "barcode")
    return f"{turned:,} of {compared} compared are on the other strand, and get other vectors. Turn them first."


def _notes(found: Any, dropped: int, config: str) -> str:
    """How many specimens have no embedding, and why."""
    short = int((~found.valid).sum())
    note = f"; too short for a token: {short:,} (zero vector, `valid` is false)" if short else ""
    what = "barcode" if config == "dna" else "photo"
    return (f"; left out: {plural(dropped, 'specimen')} without a {what}" if dropped else "") + note


def _next(source: str, output: Path, sizes: dict[str, int], own: bool) -> Sequence[str]:
    """The command that reads the embeddings, if one does."""
    if {"train", "test", "test_unseen"} <= sizes.keys():
        return [shell("probe", source, output)]
    if own or {"test", "test_unseen"} <= sizes.keys():
        return [shell("cluster", source, output, "--output", beside(output, "clusters"))]
    return []


def _parts(given: dict[str, Any], own: bool, out: Output) -> dict[str, tuple[Path, Callable[[], Any]]]:
    """Name of a split, or of a sequence file -> folder for its embeddings, and a function that reads its rows."""
    from ..dataset.load import parse_taxon

    source, output, taxon = given["source"], given["output"], given["taxon"]
    if own:
        kept = given | {"keep_empty": given["keep_empty"] or given["missing"] == "drop"}
        return {Path(source).name: (output, lambda: read_own_sequences(source, out, kept))}
    only = {"taxon": parse_taxon(taxon) if taxon else None, "unique_barcodes": given["unique_barcodes"]}
    splits = given["split"] or EVALUATED
    return {name: (output / name, partial(_read_split, given, name, only)) for name in splits}


def _read_split(given: dict[str, Any], split: str, only: dict[str, Any]) -> Any:
    """Rows to embed, with errors if they are wanted. All photos of a split are read where they are, without a copy."""
    from ..dataset.load import load_bioscan5m
    from ..dataset.parquet_rows import open_rows

    source, config = given["source"], given["config"]
    everything = config != "dna" and not any(only.values())
    rows = open_rows(source, config, split, ["processid", "image"]) if everything else None
    rows = rows or load_bioscan5m(source, config, split, **only)
    if not given["dna_noise"]:
        return rows
    from ..training.dna_noise import DnaNoise, noisy_rows

    return noisy_rows(rows, DnaNoise.conditions()[given["dna_noise"]])


def _check_embed_options(given: dict[str, Any], own: bool) -> None:
    """Raises ValueError for options that do not go together. `own`: the source is a sequence file."""
    photos = given["config"] != "dna"
    if own and (given["split"] or given["taxon"] or given["unique_barcodes"]):
        raise ValueError(
            f"{given['source']!r} is a sequence file without splits: leave out --split, --taxon and --unique-barcodes."
        )
    if not own:
        check_encoding_of_dataset(given["source"], given["encoding"])
    if given["keep_empty"] and given["missing"] == "drop":
        raise ValueError("--keep-empty keeps the records that --missing drop leaves out: give one of them.")
    if given["dna_noise"] and (photos or own or not given["split"]):
        raise ValueError("--dna-noise alters barcodes of queries: give their --split, such as test, of a dataset.")
    if photos and own:
        raise ValueError(f"{given['source']!r} is a sequence file without photos: leave out --config.")
    if photos and given["trust_remote_code"]:
        raise ValueError("Photo encoders run no remote code: leave out --trust-remote-code.")
    of_photos = [given[name] for name in ("weights", "zoom", "workers")]
    if not photos and (given["random_weights"] or any(value is not None for value in of_photos)):
        raise ValueError("--weights, --random-weights, --zoom and --workers are for photos: add --config cropped_256.")
    if given["pooling"] is not None and (given["pooling"] in BARCODE_POOLINGS) == photos:
        kind, config = ("barcodes", "dna") if photos else ("photos", "cropped_256")
        raise ValueError(f"--pooling {given['pooling']} is for {kind}: choose another one, or --config {config}.")


def _encoder(given: dict[str, Any]) -> tuple[Any, Any]:
    """Model and processor for barcodes or photos."""
    if given["config"] == "dna":
        from ..encoders.barcode_encoders import load_encoder

        return load_encoder(given["model"], **{name: given[name] for name in ("trust_remote_code", "pooling")})
    from ..encoders.image_encoders import load_image_encoder

    names = ("weights", "pooling", "random_weights", "zoom")
    return load_image_encoder(given["model"], workers=given["workers"] or 1, **{name: given[name] for name in names})


@command(PANEL, "bioscan-hf convert model_41.pth barcodebert")
def convert(
    checkpoint: Annotated[Path, Argument(help="File written by torch.save.")],
    output: Annotated[Path, Argument(help="New folder.")],
    heads: Annotated[int | None, Option(help="Number of attention heads, if the file does not have it.")] = None,
    adapters: Annotated[
        Literal["merge", "keep"], Option(help="CLIBD: add adapters to the weights, or keep them separate.")
    ] = "merge",
    text_tokenizer: Annotated[
        str | None, Option(metavar="ID", help="CLIBD: folder or Hub id of the tokenizer of its text encoder.")
    ] = None,
    bpe_tokenizer: Annotated[
        Path | None, Option(metavar="FOLDER", help="BarcodeMAE of BPE tokens: its published tokenizer.")
    ] = None,
    labels: Annotated[
        Path | None, Option(help="Text file with the class names of a classifier, one per line.")
    ] = None,
    *,
    out: Output,
) -> Result:
    """Convert a checkpoint of BarcodeBERT, BarcodeMAE, BarcodeMamba, CLIBD or the crop tool to a folder."""
    check_exists(checkpoint, bpe_tokenizer, labels)
    refuse_folder(output)
    from ..checkpoints.safe_load import load_checkpoint
    from ..files import read_json

    weights = load_checkpoint(checkpoint).get("state_dict", {})
    if any(str(name).startswith("model.model.") for name in weights):
        from ..crops.detector import convert_detr

        convert_detr(checkpoint, output)
        out.wrote(output, next=shell("crop", "release", "crops", "--model", output))
        return {"output": str(output), "model": "detr"}
    from ..checkpoints.barcodebert import convert_checkpoint

    tokenizer = None
    if text_tokenizer is not None:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(text_tokenizer)
    folder = convert_checkpoint(
        checkpoint,
        output,
        labels=labels.read_text(encoding="utf-8").splitlines() if labels else None,
        num_attention_heads=heads,
        adapters=adapters,
        text_tokenizer=tokenizer,
        bpe_tokenizer=bpe_tokenizer,
    )
    out.say(f'In Python: AutoModel.from_pretrained("{folder}")')
    out.wrote(folder, next=shell("embed", "reads.fasta", "vectors", "--model", folder))
    return {"output": str(folder), "model": read_json(folder / "config.json")["model_type"]}


@command(PANEL, "bioscan-hf card out/species", "bioscan-hf card clusters")
def card(
    source: Annotated[
        Path, Argument(help="Folder of a dataset, model, clustering, index or library of references; or results.json.")
    ],
    index: Annotated[
        Path | None, Option(metavar="FOLDER", help="Write the card of this index, with the results SOURCE.")
    ] = None,
    title: Annotated[str | None, Option(help="Default: the name of the folder.")] = None,
    license: Annotated[
        str | None, Option(metavar="ID", help="Licence of a library of references, such as cc0-1.0.")
    ] = None,
    output: Annotated[Path | None, Option(help="File to write. Default: README.md in the folder.")] = None,
    force: Force = False,
    *,
    out: Output,
) -> Result:
    """Write the card (README.md) of a folder: what it holds, how it was made, and its results.

    In the card of a dataset that you have edited, only the generated parts are replaced.
    """
    check_exists(source, index)
    folder = index or (source if source.is_dir() else source.resolve().parent)
    output = output or folder / "README.md"
    whole = source.is_dir() and index is None and output == folder / "README.md"
    kept = whole and (folder / "manifest.json").is_file()
    refuse_inputs([source], output)
    if not kept:
        refuse_to_replace(force, output)
    from ..cards import read_results, write_card
    from ..dataset import card as datasets
    from ..hub.dataset_cards import index_card
    from ..hub.folder_cards import folder_card, kind_of, results_card

    title = title or folder.resolve().name
    if index is not None:
        text = index_card(title, index, read_results(source))
    else:
        text = folder_card(folder, title, license) if source.is_dir() else results_card(title, read_results(source))
    if kept and kind_of(folder) == "dataset":
        datasets.write_card(folder, text)
    else:
        write_card(output, text)
    out.wrote(output)
    return {"output": str(output)}
