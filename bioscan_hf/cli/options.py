"""Options that several commands share, and their checks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, Option

from .command import Output

if TYPE_CHECKING:
    import pyarrow as pa

SOURCE = "Hub id, Parquet folder, release folder or metadata CSV"
_OWN = "Your own sequences"

Config = Literal["dna", "cropped_256", "original_256", "cropped", "original_full"]
PhotoConfig = Literal["cropped_256", "original_256", "cropped", "original_full"]
Precision = Literal["auto", "float32", "bfloat16"]

Force = Annotated[bool, Option("--force", help="Replace existing output files.")]
Seed = Annotated[int, Option(help="Seed of the random numbers.")]
Source = Annotated[str, Argument(help=f"{SOURCE}.")]
Labels = Annotated[str, Argument(metavar="SOURCE", help="Source of the labels: the source that was embedded.")]
BatchSize = Annotated[int, Option(help="Rows per batch.")]
Dtype = Annotated[Precision, Option(help="Precision. auto is bfloat16 on a GPU and float32 elsewhere.")]
TrustRemoteCode = Annotated[bool, Option("--trust-remote-code", help="Run the code in the repository of hf:ID.")]

Clean = Annotated[
    Literal["barcode", "none"],
    Option(
        help="barcode turns IUPAC codes into N and cuts N at the end; none keeps them.",
        rich_help_panel=_OWN,
    ),
]
KeepDuplicates = Annotated[
    bool, Option("--keep-duplicates", help="Allow several records with one id.", rich_help_panel=_OWN)
]
KeepEmpty = Annotated[bool, Option("--keep-empty", help="Allow records without a sequence.", rich_help_panel=_OWN)]
IdColumn = Annotated[
    str | None, Option(help="Column of a table. Default: the first with a usual name.", rich_help_panel=_OWN)
]
SequenceColumn = Annotated[
    str | None, Option(help="Column of a table. Default: the one with a usual name.", rich_help_panel=_OWN)
]
Encoding = Annotated[str, Option(help="Text encoding of the file.", rich_help_panel=_OWN)]


def refuse_to_replace(force: bool, *files: Path) -> None:
    """Raises FileExistsError if one of the files exists and `force` is False."""
    for file in files:
        if file.exists() and not force:
            raise FileExistsError(f"{str(file)!r} exists. Give another name, or --force to replace it.")


def require_embeddings(folder: Path, splits: tuple[str, ...]) -> None:
    """Raises FileNotFoundError if the embeddings of a split are missing."""
    for name in splits:
        if not (folder / name).is_dir():
            raise FileNotFoundError(
                f"No embeddings of {name!r} in {str(folder)!r}: run `bioscan-hf embed` for it first."
            )


def no_library_bars(out: Output) -> None:
    """Switches off the progress bars of datasets and transformers, and of the Hub if the command is silent."""
    from datasets import disable_progress_bars
    from huggingface_hub.utils import disable_progress_bars as disable_hub_bars
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bars()
    disable_progress_bar()
    if out.silent:
        disable_hub_bars()


def read_own_sequences(source: str, out: Output, given: dict[str, Any]) -> pa.Table:
    """Records of a FASTA, FASTQ or table. `given` are the options of this file by name."""
    from ..dataset.sequences import read_sequences

    with out.progress() as progress:
        return read_sequences(
            source,
            clean=given["clean"],
            duplicates="keep" if given["keep_duplicates"] else "error",
            empty="keep" if given["keep_empty"] else "error",
            id_column=given["id_column"],
            sequence_column=given["sequence_column"],
            encoding=given["encoding"],
            progress=progress,
            tell=out.say,
        )
