"""Photos in the commands references and identify."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Option

from .command import Output
from .identify_files import Files
from .options import Config, no_library_bars

if TYPE_CHECKING:
    import pyarrow as pa

    from ..identification.embeddings import EmbeddingLibrary
    from ..identification.joint import JointLibrary

_PANEL = "Photos"

Photos = Annotated[
    Config, Option(help="Photos of a dataset that are used; dna: sequences only.", rich_help_panel=_PANEL)
]
Keys = Annotated[
    Literal["image", "dna"],
    Option(help="dna: photos are named by the barcodes of references, with a CLIBD model.", rich_help_panel=_PANEL),
]
SourceSplit = Annotated[
    list[str] | None,
    Option(help="Split of SOURCE, if it is a dataset; repeatable. Default: all records."),
]


def are_photos(source: str, config: str, references: list[str], model: str | None, encoding: str) -> bool:
    """Whether the specimens of a source are to be named by photos."""
    from ..dataset.sequences import may_hold_sequences
    from ..identification.opening import of_photos
    from ..identification.photo_files import has_photo_column, is_folder_of_photos
    from ..identification.stored import is_library

    if config != "dna" or is_folder_of_photos(source):
        return True
    if not may_hold_sequences(source):  # a dataset
        return any(map(of_photos, references))
    if not has_photo_column(source, encoding):
        return False
    return any(map(of_photos, references)) or (model is not None and not all(map(is_library, references)))


def opening_of(given: dict[str, Any]) -> dict[str, Any]:
    """Options that open references, as their functions take them; `given` are those of the command by name."""
    ranks, split = given["ranks"], given["split"]
    return {name: given[name] for name in ("seed", "model", "format", "encoding")} | {
        "ranks": [name.strip() for name in ranks.split(",")] if ranks else None,
        "marker": None if given["marker"] == "all" else given["marker"],
        "split": "+".join(split) if split else None,
    }


def library_of_photos(sources: list[str], given: dict[str, Any], out: Output) -> EmbeddingLibrary:
    """The library of photos of references; `given` are the options of the command by name."""
    from ..identification.embeddings import EmbeddingLibrary

    no_library_bars(out)
    how = {name: value for name, value in opening_of(given).items() if name in ("seed", "model", "split", "encoding")}
    with out.progress() as progress:
        return EmbeddingLibrary.from_files(
            sources, config=_config_of(given), keys=given["keys"], progress=progress, **how
        )


def _config_of(given: dict[str, Any]) -> str | None:
    return None if given["config"] == "dna" else given["config"]


def identify_photos(
    given: dict[str, Any], files: Files, out: Output
) -> tuple[pa.Table, EmbeddingLibrary | JointLibrary, pa.Table, Any]:
    """Answers for photos or for photos with sequences, the library, the ids and sequences, and the photos.

    `given` are the options of the command by name.
    """
    import pyarrow as pa

    from ..identification.joint import JointLibrary
    from ..identification.opening import open_for_specimens
    from ..identification.photos import read_specimens

    no_library_bars(out)
    config = _config_of(given)
    specimens = read_specimens(
        given["source"],
        config=config,
        split="+".join(given["source_split"]) if given["source_split"] else None,
        **{name: given[name] for name in ("id_column", "sequence_column", "encoding")},
    )
    paths = specimens.photos if isinstance(specimens.photos, list) else []
    if lost := [file for file in paths if file is not None and not file.is_file()]:
        told = "1 photo does" if len(lost) == 1 else f"{len(lost):,} photos do"
        out.say(f"{told} not exist, such as {str(lost[0])!r}. Paths in a table are relative to its folder.")
    reads = specimens.reads if specimens.reads is not None else pa.nulls(len(specimens), pa.string())
    table = pa.table({"processid": pa.array(specimens.ids, pa.string()), "dna_barcode": reads})
    files.check_reads(table)
    how: dict[str, Any] = {"least": given["least"], "novel_share": given["novel_share"]}
    opening = opening_of(given) | {"with_reads": specimens.reads is not None, "config": config, "keys": given["keys"]}
    with out.progress() as progress:
        library = open_for_specimens(given["references"], progress=progress, **opening)
        if isinstance(library, JointLibrary):
            answers = library.identify(specimens, **how, progress=progress)
        else:
            answers = library.identify(specimens.photos, specimens.ids, **how, progress=progress)
    return answers, library, table, specimens.photos
