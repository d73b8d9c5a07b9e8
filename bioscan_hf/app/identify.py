"""The tab that names what a visitor pastes or uploads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gradio as gr

from ..identification.photo_files import ENDINGS
from .names import FILES, Namer, new_folder, write_files
from .pieces import frame, note
from .style import plain_html
from .uploads import LIMITS, SEQUENCE_ENDINGS
from .words import told

#: Confidences to choose from.
LEAST = (0.8, 0.9, 0.95, 0.99)

_LABELS = ("Table (CSV)", "Table (XLSX)", "Report (HTML)")

#: No text, no files, no answers, and no buttons to download them.
_CLEARED = f"() => {json.dumps(['', None, '', *[{'__type__': 'update', 'visible': False}] * len(FILES)])}"


def identify_tab(namer: Namer) -> None:
    """Builds the tab."""
    endings = [*(SEQUENCE_ENDINGS if namer.sequences else ()), *(ENDINGS if namer.photos else ())]
    plain_html(note(about(namer)))
    with gr.Row():
        with gr.Column(visible=namer.sequences is not None, min_width=280):
            text = gr.Textbox(label="Sequences: FASTA, FASTQ, a table, or one on each line", lines=7, max_lines=12)
            example = gr.Button("Fill in an example", min_width=120)
        with gr.Column(min_width=280):
            files = gr.File(label="Or files", file_count="multiple", file_types=endings, height=190)
            least = gr.Dropdown(
                [(f"{share:.0%}", share) for share in LEAST], value=0.95, label="Least confidence of a name"
            )
    with gr.Row():
        name = gr.Button("Name them", variant="primary", scale=0, min_width=140)
        clear = gr.Button("Clear all", scale=0, min_width=120)
    plain_html(note(LIMITS))
    with gr.Row():
        downloads = [gr.DownloadButton(label, visible=False, scale=0, min_width=170) for label in _LABELS]
    page = plain_html("")
    outputs = [page, *downloads]

    def identify(text: str, files: list[str] | None, least: float) -> list[Any]:
        if least not in LEAST:
            raise ValueError(f"{least!r} is not a confidence to choose from.")
        answers, library, reads, title = namer.names(text or "", [Path(file) for file in files or []], least)
        with new_folder() as folder:
            report = write_files(Path(folder), answers, library, reads, title, least)
            kept = [
                button.move_resource_to_block_cache(Path(folder) / file)
                for button, file in zip(downloads, FILES, strict=True)
            ]
        return [frame(report, title), *(gr.DownloadButton(value=file, visible=True) for file in kept)]

    name.click(told(identify, len(outputs)), [text, files, least], outputs, api_name="identify")
    example.click(namer.example, None, text)
    clear.click(None, None, [text, files, *outputs], js=_CLEARED)  # in the browser: a late answer would take new files


def about(namer: Namer) -> str:
    """What the page names, and by what."""
    said = []
    if namer.sequences is not None:
        said.append(f"Sequences are named by {len(namer.sequences):,} reference sequences.")
    if namer.photos is not None:
        said.append(f"Photos are named by {len(namer.photos):,} reference photos.")
    return " ".join(said)
