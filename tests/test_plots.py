"""Pictures: they show the numbers they are given, and lay out boxes rightly."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bioscan_hf import plots


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=40), st.floats(0.2, 5))
def test_tree_map_areas_are_in_proportion_and_fill_the_box(sizes, aspect):
    """Each area is its share of the whole, and no box leaves the frame; as they fill it, none overlaps another."""
    sizes = sorted(sizes, reverse=True)
    boxes = plots.squarify(sizes, (3, 7, 100 * aspect, 100))
    areas = np.array([width * height for _, _, width, height in boxes])
    np.testing.assert_allclose(areas, np.array(sizes) / sum(sizes) * 100 * aspect * 100, rtol=1e-6)
    for left, top, width, height in boxes:
        assert left >= 3 - 1e-6 and left + width <= 3 + 100 * aspect + 1e-6
        assert top >= 7 - 1e-6 and top + height <= 107 + 1e-6


def test_equal_sizes_make_squares():
    """Four equal parts of a square are its quarters."""
    boxes = plots.squarify([1, 1, 1, 1], (0, 0, 2, 2))
    assert sorted(boxes) == [(0, 0, 1, 1), (0, 1, 1, 1), (1, 0, 1, 1), (1, 1, 1, 1)]


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_accuracy_bars_show_percent_and_say_where_there_are_none():
    figure = plots.accuracy_bars({"A": {"species": 0.875, "genus": None}, "chance": {"species": 0.01, "genus": 0.5}})
    assert texts(figure) == ["87.5", "no data", "1.0", "50.0"]
    heights = [patch.get_height() for patch in figure.axes[0].patches]
    assert heights == [87.5, 0, 1.0, 50.0]


def test_tree_map_names_the_large_and_omits_what_does_not_fit():
    figure = plots.taxonomy_tree_map(
        {("Diptera", "Sciaridae"): 900, ("Diptera", ""): 100, ("Zoraptera", "Zorotypidae"): 1}
    )
    assert "Diptera 1,000" in texts(figure) and "Sciaridae" in texts(figure) and "family unknown" in texts(figure)
    assert not any("Zor" in text for text in texts(figure))


def test_loss_curves_draw_every_point():
    figure = plots.loss_curves({"training": [(1, 5.5), (2, 4.5)], "validation": [(2, 4.6)]}, chance=5.547)
    lines = figure.axes[0].lines
    assert [list(line.get_ydata()) for line in lines[:2]] == [[5.5, 4.5], [4.6]]
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [
        "training",
        "validation",
        "guessing (5.55)",
    ]


def test_photo_grid_and_png():
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(buffer, "PNG")
    figure = plots.photo_grid([(buffer.getvalue(), f"photo {i}") for i in range(7)], columns=3)
    assert [axes.get_title() for axes in figure.axes] == [f"photo {i}" for i in range(7)]
    picture = Image.open(io.BytesIO(plots.png(figure, dpi=50)))
    assert picture.size == pytest.approx((255, 307), abs=1)  # 3 x 1.7 and 3 x 2.05 inches at 50 dots
    with pytest.raises(ValueError, match="at least one photo"):
        plots.photo_grid([])
