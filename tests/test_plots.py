"""Figures show the numbers they are given, in one style."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.collections import LineCollection
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


def test_more_lines_and_bars_than_colours():
    """Every curve and model is drawn, also after the eighth, and lines can be told apart."""
    axes = plots.loss_curves({f"curve {i}": [(1, i), (2, i + 1)] for i in range(20)}).axes[0]
    assert [list(line.get_ydata()) for line in axes.lines] == [[i, i + 1] for i in range(20)]
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 20
    axes = plots.accuracy_bars({f"model {i}": {"species": i / 20} for i in range(10)}).axes[0]
    assert [round(patch.get_height()) for patch in axes.patches] == [5 * i for i in range(10)]


def test_photo_grid_and_png():
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(buffer, "PNG")
    figure = plots.photo_grid([(buffer.getvalue(), f"photo {i}") for i in range(7)], columns=3)
    assert [axes.get_title() for axes in figure.axes] == [f"photo {i}" for i in range(7)]
    picture = Image.open(io.BytesIO(plots.png(figure, dpi=50)))
    assert picture.size == pytest.approx((255, 307), abs=1)  # 3 x 1.7 and 3 x 2.05 inches at 50 dots
    with pytest.raises(ValueError, match="at least one photo"):
        plots.photo_grid([])


def test_order_bars_are_sorted_and_show_their_numbers():
    figure = plots.order_bars({"Araneae": 25, "Diptera": 3675, "order unknown": 25})
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["Diptera", "Araneae", "order unknown"]
    assert [patch.get_width() for patch in figure.axes[0].patches] == [3675, 25, 25]
    assert texts(figure) == ["3,675", "25", "25"]


def test_site_map_draws_every_place_and_names_those_that_fit():
    """Areas grow with the root of the samples, 4 + 320 sqrt(1/4) for a quarter of the largest. Of two names at one
    place the first is written; one at the edge is moved into the frame.
    """
    names = [("Costa Rica", 10, -84), ("Panama", 9, -80), ("New Zealand", -40, 178)]
    figure = plots.site_map([10, 50], [-84, 10], [100, 400], names)
    dots = figure.axes[0].collections[0]
    assert dots.get_offsets().tolist() == [[10, 50], [-84, 10]]
    assert dots.get_sizes().tolist() == [324, 164]
    assert texts(figure) == ["Costa Rica", "New Zealand"]
    assert 150 < figure.axes[0].texts[1].get_position()[0] < 170
    assert figure.axes[0].get_title() == "2 places, 500 specimens; the largest dot is 400"


def test_length_histogram_holds_every_barcode():
    """Lengths from 100 to 1,555 in bars of 13, which is 1,456 / 120 rounded up; 659 = 100 + 43 x 13 begins one."""
    figure = plots.length_histogram([(100, 1), (658, 70), (660, 5), (1555, 2)], 660)
    heights = [patch.get_height() for patch in figure.axes[0].patches]
    assert [height for height in heights if height] == [1, 70, 5, 2]
    assert list(figure.axes[0].lines[0].get_xdata()) == [660, 660]
    assert "13 per bar" in figure.axes[0].get_xlabel()


def test_length_histogram_of_one_length():
    assert [patch.get_height() for patch in plots.length_histogram([(658, 9)], 660).axes[0].patches] == [9]


def test_distance_violins_mark_mean_and_middle_half():
    """Shares 1/4 at each of 0, 1, 2 and 5: the mean is 2, a quarter lies at or below 0 and three at or below 2."""
    figure = plots.distance_violins({"genus": [0.25, 0.25, 0.25, 0, 0, 0.25], "species": [0, 1.0]})
    assert texts(figure) == ["2", "1"]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["genus", "species"]
    bars = [list(c.get_segments()[0][:, 1]) for c in figure.axes[0].collections if isinstance(c, LineCollection)]
    assert bars == [[0, 2], [1, 1]]
