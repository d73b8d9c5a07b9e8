"""Texts of a figure as they are drawn: which overlap, and which leave the figure."""

from itertools import combinations

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox


def drawn_texts(figure: Figure) -> list[tuple[str, Bbox]]:
    """The texts that the Agg renderer draws and their boxes in pixels."""
    canvas, drawn = FigureCanvasAgg(figure), []
    with pytest.MonkeyPatch.context() as patch:
        draw = Text.draw
        patch.setattr(Text, "draw", lambda self, renderer: (drawn.append(self), draw(self, renderer))[1])
        canvas.draw()
    visible = [text for text in dict.fromkeys(drawn) if text.get_visible() and text.get_text().strip()]
    return [(text.get_text(), text.get_window_extent(canvas.get_renderer())) for text in visible]


def check_texts(figure: Figure, slack: float = 1.0) -> list[str]:
    """Fails if a text leaves the figure or two overlap by more than `slack` pixels; returns the texts."""
    found = drawn_texts(figure)
    assert found, "the figure shows no text"
    whole = figure.bbox
    for text, box in found:
        inside = box.x0 >= -slack and box.y0 >= -slack and box.x1 <= whole.x1 + slack and box.y1 <= whole.y1 + slack
        assert inside, f"{text!r} leaves the figure: {box} in {whole}"
    for (a, one), (b, two) in combinations(found, 2):
        across = min(one.x1, two.x1) - max(one.x0, two.x0)
        down = min(one.y1, two.y1) - max(one.y0, two.y0)
        assert across <= slack or down <= slack, f"{a!r} and {b!r} overlap by {across:.1f} x {down:.1f} pixels"
    return [text for text, _ in found]
