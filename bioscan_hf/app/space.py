"""A Space of the Hub that shows the page."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .. import __version__
from ..files import is_hub_id, write_text

#: Largest folder that is copied into a Space, in bytes.
MOST_BYTES = 1 << 30

FILES = ("app.py", "requirements.txt", "README.md")

#: Version of gradio in the card where none is installed.
_GRADIO = "6.31.0"

_APP = '''"""The page of `bioscan-hf app` as a Space."""

from bioscan_hf.app.page import open_parts, serve

serve(open_parts({sources}, clusters={clusters}, model={model}), host="0.0.0.0", port=7860).wait()
'''

_CARD = """---
title: {title}
emoji: 🪲
colorFrom: green
colorTo: gray
sdk: gradio
sdk_version: {gradio}
app_file: app.py
license: apache-2.0
short_description: Names for DNA barcodes, with a confidence at every rank
tags:
- biodiversity
- DNA barcode
- BIOSCAN-5M
---

# {title}

Names sequences by {what}, with a confidence at every rank, and shows a collection and its clusters.
Uploads are deleted within 15 minutes and are never run.

The page is `bioscan-hf app` of the package bioscan_hf. The licence above is that of the program; state the licence of
the references and photos here.
"""


def write_space(
    folder: str | Path,
    sources: Sequence[str],
    *,
    clusters: str | Path | None = None,
    model: str | None = None,
    title: str = "Names for specimens",
    force: bool = False,
) -> list[Path]:
    """Writes app.py, requirements.txt and README.md, and copies the folders that the page shows.

    Args:
        sources: As of `page.open_parts`; ids of the Hub stay as they are.
        force: Replaces these files and folders.

    Raises:
        FileExistsError: if one of them exists, unless `force`.
        FileNotFoundError, ValueError: for a source that is not there, or is too large for a Space.
    """
    folder = Path(folder)
    local = [source for source in (*sources, clusters, model) if source is not None and Path(source).exists()]
    for source in (*sources, *([clusters] if clusters else [])):
        if source not in local and not is_hub_id(str(source)):
            raise FileNotFoundError(f"There is nothing at {str(source)!r}. Give a folder or an id of the Hub.")
    copies = {str(source): Path(source).resolve().name for source in local}
    if len(set(copies.values())) < len(copies):
        raise ValueError(f"Two of the folders have one name ({', '.join(copies.values())}). Rename one of them.")
    for source in copies:
        size = sum(path.stat().st_size for path in _files(Path(source)))
        if size > MOST_BYTES:
            raise ValueError(
                f"{source!r} has {size >> 20:,} MB; at most {MOST_BYTES >> 20:,} MB are copied into a Space. Publish "
                f"it on the Hub, and give its id."
            )
    taken = [name for name in (*FILES, *copies.values()) if (folder / name).exists()]
    if taken and not force:
        raise FileExistsError(f"{str(folder / taken[0])!r} exists. Give another folder, or --force to replace it.")
    for source, name in copies.items():
        _copy(Path(source), folder / name)

    def place(source: str | Path | None) -> str:
        return json.dumps(copies.get(str(source), str(source))) if source is not None else "None"

    listed = f"[{', '.join(map(place, sources))}]"
    texts = {
        "app.py": _APP.format(sources=listed, clusters=place(clusters), model=place(model)),
        "requirements.txt": "# Until this version is on PyPI, give its address: bioscan_hf[app] @ git+https://...\n"
        f"bioscan_hf[app]=={__version__}\n",
        "README.md": _CARD.format(title=title, gradio=_gradio(), what=", ".join(f"`{Path(s).name}`" for s in sources)),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in FILES]


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]


def _copy(source: Path, target: Path) -> None:
    """Copies a file or folder; a folder that is there is replaced file by file."""
    if source.resolve() == target.resolve():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_file():
        shutil.copyfile(source, target)
    else:
        shutil.copytree(source, target, dirs_exist_ok=True)


def _gradio() -> str:
    try:
        return version("gradio")
    except PackageNotFoundError:
        return _GRADIO
