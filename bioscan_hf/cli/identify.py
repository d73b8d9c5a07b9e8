"""The command identify: names for your own sequences."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from .command import Output, Result, command
from .options import (
    SOURCE,
    BatchSize,
    Clean,
    Dtype,
    Encoding,
    Force,
    IdColumn,
    KeepDuplicates,
    KeepEmpty,
    Seed,
    SequenceColumn,
    TrustRemoteCode,
    no_library_bars,
    read_own_sequences,
    refuse_to_replace,
)

KeepReferences = Annotated[
    Path | None, Option(metavar="FOLDER", help="Keep the embeddings of the references here for next time.")
]
NovelShare = Annotated[
    float, Option(metavar="SHARE", help="Expected share of the sequences whose species has no reference.")
]


@command("Names for specimens", "bioscan-hf identify reads.fasta names.csv --model out/aligned --references dataset")
def identify(
    source: Annotated[str, Argument(help="FASTA, FASTQ, CSV or TSV with sequences, also .gz.")],
    output: Annotated[Path, Argument(help="CSV to write: the deepest confident name and the names at all ranks.")],
    model: Annotated[str, Option(help="Folder or Hub id of a model, kmer:K, cnn:FOLDER or hf:ID.")],
    references: Annotated[str, Option(metavar="DATASET", help=f"{SOURCE}.")],
    split: Annotated[list[str] | None, Option(help="Split of the references, repeatable. Default: train.")] = None,
    keep: KeepReferences = None,
    least: Annotated[float, Option(help="Smallest confidence of the name in the column `name`.")] = 0.95,
    novel_share: NovelShare = 0.5,
    batch_size: BatchSize = 256,
    dtype: Dtype = "auto",
    seed: Seed = 0,
    trust_remote_code: TrustRemoteCode = False,
    force: Force = False,
    clean: Clean = "barcode",
    keep_duplicates: KeepDuplicates = False,
    keep_empty: KeepEmpty = False,
    id_column: IdColumn = None,
    sequence_column: SequenceColumn = None,
    encoding: Encoding = "utf-8",
    *,
    out: Output,
) -> Result:
    """Name your own sequences by their nearest reference, with a confidence at every rank."""
    given = dict(locals())
    from ..encoders.barcode_encoders import load_encoder
    from ..encoders.embed import embed
    from ..identification.confidence import calibrate, name_rows, write_names
    from ..identification.confidence import identify as name

    refuse_to_replace(force, output)
    _check(source, least, novel_share)
    no_library_bars(out)
    records = read_own_sequences(source, out, given)
    encoder, processor = load_encoder(model, trust_remote_code=trust_remote_code)
    splits = "+".join(split or ["train"])
    how: dict[str, Any] = {"batch_size": batch_size, "dtype": dtype}
    index = _reference_index(references, splits, encoder, processor, output=keep, **how)
    calibration = calibrate(index, novel_share=novel_share, seed=seed)
    queries = embed(encoder, processor, records, **how)
    found = name(queries.embeddings, index, calibration, valid=queries.valid, ids=queries.processids)
    rows = name_rows(queries.processids, found, index.ids, least)
    write_names(output, rows)
    counts = {rank: sum(row["rank"] == rank for row in rows) for rank in found.names}
    out.say(
        f"{len(rows):,} sequences, {len(index):,} references of {splits}. Named at {least:.0%} confidence or more:"
    )
    out.say(*_lines(counts, len(rows)))
    out.say(f"Assumed: the species of {novel_share:.0%} of the sequences have no reference (--novel-share).")
    out.wrote(output)
    return {
        "output": str(output),
        "sequences": len(rows),
        "references": len(index),
        "deepest_rank": counts,
        "least": least,
        "novel_share": novel_share,
    }


def _lines(counts: dict[str, int], total: int) -> list[str]:
    """One line per rank with the number of sequences whose deepest confident name is of that rank."""
    shown = {f"to {rank}": count for rank, count in counts.items()} | {"without a name": total - sum(counts.values())}
    return [f"  {text:<16}{count:>9,}" for text, count in shown.items()]


def _check(source: str, least: float, novel_share: float) -> None:
    """Raises an error for a source that is not a sequence file and for shares outside [0, 1]."""
    from ..dataset.sequences import is_sequence_file

    if not Path(source).exists():
        raise FileNotFoundError(f"There is no file {source!r}.")
    if not is_sequence_file(source):
        raise ValueError(f"{source!r} is not a sequence file: give FASTA, FASTQ, CSV or TSV, also .gz.")
    for flag, value in (("--least", least), ("--novel-share", novel_share)):
        if not 0 <= value <= 1:
            raise ValueError(f"{flag} {value} is not a share: give a number from 0 to 1.")


def _reference_index(source: str, split: str, encoder: Any, processor: Any, **how: Any) -> Any:
    """Index of the references' distinct barcodes with their names."""
    from ..dataset.load import load_bioscan5m
    from ..encoders.embed import embed
    from ..schema import RANKS
    from ..search.index import build_index

    references = load_bioscan5m(source, "dna", split, unique_barcodes=True)
    keys = embed(encoder, processor, references, **how)
    rows = keys.valid.nonzero()[0].tolist()
    table = references.select_columns(list(RANKS)).with_format("arrow")[:].take(rows)
    labels = {rank: table[rank].to_pylist() for rank in RANKS}
    return build_index(keys.embeddings[rows], labels, ids=[keys.processids[row] for row in rows])
