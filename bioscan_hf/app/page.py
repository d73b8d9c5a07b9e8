"""The page: what it is made of, and how it is served."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from ..files import is_missing_path
from ..identification.opening import open_library, open_references
from ..identification.publish import fetch, is_on_hub
from ..identification.stored import is_library, is_library_of_photos
from ..progress import Progress, silent
from ..schema import IMAGE_PACKAGES
from .clusters import Found, are_embeddings, cluster_now
from .clusters_tab import clusters_tab
from .collection import Collection
from .explore import explore_tab
from .identify import identify_tab
from .names import Namer
from .pieces import note, text
from .style import HEAD, css, plain_html, theme
from .uploads import MOST_BYTES

#: Specimens of a dataset of which a library is made when the page starts.
MOST_REFERENCES = 20_000

#: Visits that are answered at once, and that wait. More are told to come back.
AT_ONCE, WAITING = 2, 100

#: Seconds between deletions of uploads and downloads, and their age then.
DELETED = (60, 900)

TITLE = "Names for specimens"


@dataclass
class Parts:
    """What the page shows; None for what was not given."""

    namer: Namer
    collection: Collection | None = None
    clusters: Found | None = None


def open_parts(
    sources: Sequence[str],
    *,
    clusters: str | Path | None = None,
    model: str | None = None,
    progress: Progress = silent,
    say: Callable[[str], object] = lambda text: None,
) -> Parts:
    """Opens libraries, a dataset and clusters.

    Args:
        sources: At most one library of sequences, one of photos, and one dataset, in any order.
        clusters: Output of `bioscan-hf cluster`, or of `bioscan-hf embed`, which is clustered now.
        model: Encoder of a library that needs one.
        progress, say: Told what takes long.

    Raises:
        FileNotFoundError, ValueError: for a source that is none of these, or two of a kind.
    """
    namer = Namer()
    data: list[str] = []
    folders: list[Path] = []
    for source in sources:
        if is_library(source) or (not is_missing_path(source) and is_on_hub(source)):
            folders.append(Path(source) if Path(source).is_dir() else fetch(source))
            kind = "photos" if is_library_of_photos(folders[-1]) else "sequences"
            library = open_library(folders[-1], model=model if kind == "photos" else None)
            if getattr(namer, kind) is not None:
                raise ValueError(f"{source!r} is a second library of {kind}. Give one of them.")
            setattr(namer, kind, library)
        else:
            data.append(source)
    if len(data) > 1:
        raise ValueError(f"{data[1]!r} is a second dataset. Give one dataset, and libraries that name by it.")
    shown = data or folders
    collection = Collection(shown[0], progress) if shown else None
    if data and collection and namer.sequences is None and collection.rows <= MOST_REFERENCES:
        say(f"Making a library of {data[0]}; `bioscan-hf references {data[0]} library` keeps one.")
        namer.sequences = open_references(data, progress=progress)
    found = None if clusters is None else _clusters(Path(clusters), data, collection, progress)
    return Parts(namer, collection, found)


def _clusters(folder: Path, data: Sequence[str], collection: Collection | None, progress: Progress) -> Found:
    if not are_embeddings(folder):
        return Found.read(folder)
    if not data:
        raise ValueError(f"{str(folder)!r} holds embeddings: give the dataset that was embedded as well.")
    config = None
    if collection is not None and collection.photo_files:
        config = next((name for name in IMAGE_PACKAGES if name in collection.photo_files[0].parts), None)
    with tempfile.TemporaryDirectory(prefix="bioscan_hf-app-") as output:
        cluster_now(data[0], folder, Path(output), config, progress)
        return Found.read(output)


def make_page(parts: Parts, title: str = TITLE) -> gr.Blocks:
    """The page with its tabs; what was not given has a tab that says how to give it."""
    with gr.Blocks(analytics_enabled=False, title=title, delete_cache=DELETED, fill_width=True) as page:
        plain_html(f'<h1 class="bh-title">{text(title)}</h1>')
        with gr.Tabs():
            with gr.Tab("Identify"):
                if parts.namer.sequences or parts.namer.photos:
                    identify_tab(parts.namer)
                else:
                    plain_html(
                        note(
                            "This page has no library of references. Make one by `bioscan-hf references DATASET "
                            "library`, and start `bioscan-hf app library DATASET`."
                        )
                    )
            with gr.Tab("Explore"):
                if parts.collection is not None:
                    explore_tab(parts.collection)
                else:
                    plain_html(note("This page has no collection on this machine. Start it with a dataset."))
            with gr.Tab("Clusters") as tab:
                if parts.clusters is not None:
                    clusters_tab(parts.clusters, tab, parts.collection)
                else:
                    plain_html(
                        note(
                            "This page has no clusters. Make them by `bioscan-hf cluster DATASET EMBEDDINGS --output "
                            "clusters`, and start `bioscan-hf app DATASET --clusters clusters`."
                        )
                    )
    return page.queue(max_size=WAITING, default_concurrency_limit=AT_ONCE, api_open=False)


@dataclass
class Served:
    """A page that is served at an address, and the folder of its uploads and downloads."""

    page: gr.Blocks
    address: str
    folder: tempfile.TemporaryDirectory[str]

    def wait(self) -> None:
        """Serves until it is interrupted, or told to end (SIGTERM)."""
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            self.page.block_thread()
        finally:
            self.close()

    def close(self) -> None:
        """Ends the page and deletes the folder."""
        self.page.close(verbose=False)
        self.folder.cleanup()
        os.environ.pop("GRADIO_TEMP_DIR", None)


def serve(parts: Parts, *, host: str = "127.0.0.1", port: int | None = None, open_browser: bool = False) -> Served:
    """Serves the page in the background.

    Args:
        port: A free one from 7860 by default.

    Raises:
        OSError: if the port is taken.
    """
    if port is not None:
        _check_free(host, port)
    folder = tempfile.TemporaryDirectory(prefix="bioscan_hf-app-", ignore_cleanup_errors=True)
    os.environ["GRADIO_TEMP_DIR"] = folder.name
    page = make_page(parts)
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        inbrowser=open_browser,
        quiet=True,
        share=False,
        show_error=False,
        prevent_thread_lock=True,
        max_file_size=MOST_BYTES,
        footer_links=[],
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        theme=theme(),
        css=css(),
        head=HEAD,
    )
    return Served(page, address, folder)


def _check_free(host: str, port: int) -> None:
    """Raises OSError if another program listens at a port."""
    with socket.socket() as found:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((host, port))
        except OSError as error:
            raise OSError(
                f"Port {port} of {host} cannot be used ({error.strerror}). Give another by --port."
            ) from None
