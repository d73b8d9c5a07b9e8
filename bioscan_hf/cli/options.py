"""Options that several commands share, and their checks."""

from __future__ import annotations

import codecs
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, Option

from ..files import is_missing_path
from .command import Output

if TYPE_CHECKING:
    import pyarrow as pa

SEQUENCES = "file of sequences (FASTA, FASTQ, CSV or TSV)"
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
    str | None, Option(help="Column of the ids in a table. Default: found by its name.", rich_help_panel=_OWN)
]
SequenceColumn = Annotated[
    str | None, Option(help="Column of the sequences in a table. Default: found by its name.", rich_help_panel=_OWN)
]
Encoding = Annotated[str, Option(help="Text encoding of the file.", rich_help_panel=_OWN)]


def refuse_to_replace(force: bool, *files: Path) -> None:
    """Raises FileExistsError if one of the files exists and `force` is False, and if it cannot be a file."""
    for file in files:
        refuse_file(*file.parents)
        if file.is_dir():
            raise FileExistsError(f"{str(file)!r} is a folder. Give the name of a file.")
        if file.exists() and not force:
            raise FileExistsError(f"{str(file)!r} exists. Give another name, or --force to replace it.")


def refuse_file(*folders: Path) -> None:
    """Raises FileExistsError for a folder that is a file."""
    for folder in folders:
        if folder.exists() and not folder.is_dir():
            raise FileExistsError(f"{str(folder)!r} is a file, and a folder is needed. Give another name.")


def refuse_inputs(inputs: Iterable[str | Path], *outputs: Path) -> None:
    """Raises ValueError if an output is one of the inputs, which --force would replace."""
    files = [Path(file) for file in inputs]
    for output in outputs:
        if output.exists() and any(file.exists() and file.samefile(output) for file in files):
            raise ValueError(f"{str(output)!r} is an input of this command. Give the output another name.")


def refuse_folder(folder: Path) -> None:
    """Raises FileExistsError if the folder is not empty, or is a file."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{str(folder)!r} is not empty. Give a new folder.")


def check_source(source: str | Path, others: str = "") -> None:
    """Raises FileNotFoundError for a dataset that is neither here nor a Hub id, before libraries are imported.

    `others` says what may be given as well; it is named first.
    """
    if is_missing_path(str(source).partition("@")[0]):
        raise FileNotFoundError(f"There is nothing at {str(source)!r}. Give a {others and others + ', '}{SOURCE}.")


def check_model(model: str, *, photos: bool = False) -> None:
    """Raises FileNotFoundError for a folder of a model that does not exist, before libraries are imported.

    Names of published encoders, such as dino_vitb16 for `photos`, are checked where they are loaded.
    """
    kind, colon, name = model.partition(":")
    if not colon:
        kind, name = "", model
    is_path = "/" in name if kind == "hf" or photos else kind in ("", "cnn", "frames")
    if is_path and kind in ("", "cnn", "frames", "hf") and is_missing_path(name.partition("@")[0]):
        raise FileNotFoundError(
            f"No model at {model!r}: the folder does not exist. Give a folder, a Hub id (owner/name), or one of the "
            f"other models that --help names."
        )


def check_encoding(name: str) -> None:
    """Raises ValueError for an encoding that Python does not know."""
    try:
        codecs.lookup(name)
    except LookupError:
        raise ValueError(f"Unknown --encoding {name!r}. Give a name such as utf-8, latin-1 or cp1252.") from None


def check_encoding_of_dataset(source: str, encoding: str) -> None:
    """Raises ValueError for another encoding than UTF-8 of a file that is read as a dataset."""
    if Path(source).is_file() and encoding.lower() not in ("utf-8", "utf8"):
        build = shell("build", source, "dataset", "--encoding", encoding)
        raise ValueError(f"--encoding is for sequence files. Build a dataset with it first: {build}")


def check_exists(*paths: Path | None) -> None:
    """Raises FileNotFoundError for a path without a file or folder; None is left out."""
    for path in paths:
        if path is not None and not path.exists():
            raise FileNotFoundError(f"{str(path)!r} does not exist. Give an existing file or folder.")


def require_embeddings(folder: Path, splits: tuple[str, ...]) -> None:
    """Raises FileNotFoundError if the embeddings of a split are missing."""
    for name in splits:
        if not (folder / name).is_dir():
            raise FileNotFoundError(
                f"No embeddings of {name!r} in {str(folder)!r}: run `bioscan-hf embed` for it first."
            )


def plural(number: int, one: str, many: str | None = None) -> str:
    """A number and its noun: "1 read", "2 reads"."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def beside(path: Path, name: str) -> Path:
    """A new path beside another, for the next command."""
    found = path.parent / name
    return found if not found.exists() else path.parent / f"{path.name}_{name}"


def shell(*words: str | Path) -> str:
    """A command line of `bioscan-hf`."""
    return shlex.join(["bioscan-hf", *map(str, words)])


def no_library_bars(out: Output) -> None:
    """Switches off the progress bars and warnings of other libraries, and bars of the Hub if the command is silent."""
    from datasets import disable_progress_bars
    from datasets.utils import logging as datasets_logs
    from huggingface_hub.utils import disable_progress_bars as disable_hub_bars
    from huggingface_hub.utils import logging as hub_logs
    from transformers.utils import logging as transformers_logs
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bars()
    disable_progress_bar()
    for logs in (datasets_logs, hub_logs, transformers_logs):
        logs.set_verbosity_error()
    if out.silent:
        disable_hub_bars()


def read_own_sequences(source: str, out: Output, given: dict[str, Any]) -> pa.Table:
    """Records of a FASTA, FASTQ or table. `given` are the options of this file by name."""
    from ..dataset.sequences import read_sequences

    with out.progress() as progress:
        return read_sequences(
            source,
            duplicates="keep" if given["keep_duplicates"] else "error",
            empty="keep" if given["keep_empty"] else "error",
            progress=progress,
            tell=out.say,
            **{name: given[name] for name in ("clean", "id_column", "sequence_column", "encoding")},
        )
