"""The command app: a web page of names, a collection and clusters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from .command import Output, Result, command
from .options import Force, no_library_bars

PANEL = "Names for specimens"


@command(PANEL, "bioscan-hf app library", "bioscan-hf app library dataset --clusters clusters")
def app(
    sources: Annotated[
        list[str],
        Argument(
            metavar="LIBRARY_OR_DATASET...",
            help="Output of `bioscan-hf references`, of sequences or photos, or its Hub id; and a dataset: Hub id, "
            "Parquet folder, release folder or CSV. One of each at most.",
        ),
    ],
    clusters: Annotated[
        Path | None,
        Option(metavar="FOLDER", help="Output of `bioscan-hf cluster`, or of `bioscan-hf embed` to cluster it now."),
    ] = None,
    model: Annotated[str | None, Option(help="Encoder of photos that a library of photos needs.")] = None,
    host: Annotated[str, Option(help="Address to listen at; 0.0.0.0 is seen by other machines.")] = "127.0.0.1",
    port: Annotated[int | None, Option(help="Port. Default: the first free one from 7860.")] = None,
    browser: Annotated[bool, Option("--browser", help="Open the page in a browser.")] = False,
    space: Annotated[
        Path | None,
        Option(metavar="FOLDER", help="Write a Space of the Hub to a new folder, and serve nothing."),
    ] = None,
    force: Force = False,
    *,
    out: Output,
) -> Result:
    """Serve a web page that names sequences and photos, and shows a collection and its clusters.

    It works offline, keeps no upload and counts no visit. Ctrl+C ends it.
    """
    if space is not None:
        from ..app.space import write_space

        files = write_space(space, sources, clusters=clusters, model=model, force=force)
        out.wrote(*files, next=f"hf upload USER/NAME {space} --repo-type space")
        return {"output": str(space), "files": [path.name for path in files]}
    try:
        from ..app.page import open_parts, serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("gradio", "openpyxl"):
            raise
        raise ModuleNotFoundError("The web page needs gradio: pip install 'bioscan_hf[app]'.") from error
    no_library_bars(out)
    with out.progress() as progress:
        parts = open_parts(sources, clusters=clusters, model=model, progress=progress, say=out.say)
    out.no_bar()
    served = serve(parts, host=host, port=port, open_browser=browser)
    out.say(f"The page is at {served.address} (Ctrl+C ends it).")
    served.wait()
    return {"address": served.address}
