"""Colours, fonts and scripts of the page. Nothing is loaded from elsewhere."""

from __future__ import annotations

from importlib import resources

import gradio as gr

#: A click on a button of a picture reaches Python with its data.
CLICKS = """element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-act]');
  if (button) trigger('click', {act: button.dataset.act, name: button.dataset.name, rank: button.dataset.rank});
});"""

#: A click or Enter in the map of a frame reaches Python as a click on the specimen.
FRAME_CLICKS = """window.addEventListener('message', (event) => {
  const frame = element.querySelector('iframe'), name = event.data && event.data.bioscanRecord;
  if (!frame || event.source !== frame.contentWindow || typeof name !== 'string') return;
  trigger('click', {act: 'record', name});
});"""

#: Frames of reports and maps tell their height; links and controls are in the language of the page.
HEAD = """<script>
window.addEventListener('message', (event) => {
  const height = event.data && event.data.bioscanHeight;
  if (typeof height !== 'number') return;
  for (const frame of document.querySelectorAll('iframe.bh-frame')) {
    if (frame.contentWindow === event.source) frame.style.height = Math.min(20000, Math.max(200, height + 4)) + 'px';
  }
});
</script>"""

#: From light to dark. White text on the seventh has a contrast of 6.
_GREEN = (
    *("#eef7f3", "#d6ece2", "#b0d9c8", "#82c2a8", "#4ea685", "#237a5c", "#1f6f54", "#195943"),
    *("#144735", "#0f3829", "#0a261c"),
)

_TEXT = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
_CODE = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]


def theme() -> gr.themes.Base:
    """Fonts of the system, green as the reports, and greys that can be read."""
    green = gr.themes.Color(*_GREEN)
    return gr.themes.Base(primary_hue=green, neutral_hue="slate", font=_TEXT, font_mono=_CODE)


def css() -> str:
    return resources.files(__package__).joinpath("page.css").read_text(encoding="utf-8")


def plain_html(value: str, js_on_load: str | None = None, elem_id: str | None = None) -> gr.HTML:
    """HTML of ours, styled by page.css alone."""
    return gr.HTML(value, js_on_load=js_on_load, elem_id=elem_id, apply_default_css=False)
