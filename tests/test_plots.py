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
    assert set(texts(figure)) == {"Diptera 1,000", "Sciaridae\n900", "family unknown\n100"}


def test_small_taxa_are_gathered_and_none_is_lost():
    """Of 10,000 specimens, orders below 60 are joined, and families of an order below 30; a single one stays."""
    counts = {("Diptera", "A"): 9_700, ("Diptera", "B"): 29, ("Diptera", "C"): 10, ("Diptera", "D"): 1}
    counts |= {("Araneae", "E"): 120, ("Araneae", "F"): 20, ("Odonata", "G"): 59, ("Mantodea", "H"): 61}
    figure = plots.taxonomy_tree_map(counts)
    areas = [patch.get_width() * patch.get_height() for patch in figure.axes[0].patches if patch.get_fill()]
    whole = sum(areas)
    # Diptera: A, and B to D; Araneae: E and F; Odonata and Mantodea alone.
    assert sorted(round(10_000 * area / whole) for area in areas) == [20, 40, 59, 61, 120, 9_700]
    gathered = plots.taxonomy_tree_map({("Diptera", "A"): 9_900, ("Odonata", "G"): 50, ("Mantodea", "H"): 50})
    assert sorted(
        round(p.get_width() * p.get_height() / 24.1056) for p in gathered.axes[0].patches if p.get_fill()
    ) == [
        100,
        9_900,
    ]


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
    """Areas grow with the root of the samples, 26 + 330 sqrt(1/4) for a quarter of the largest, and are never less
    than 26 points, which is visible. Of many names at one place those that fit around it are written; one at the edge
    is moved into the frame.
    """
    names = [("Costa Rica", 10, -84), ("New Zealand", -40, 178), *((f"Panama {i}", 10, -84) for i in range(9))]
    figure = plots.site_map([10, 50, -41], [-84, 10, 174], [100, 400, 1], names)
    dots = figure.axes[0].collections[1]
    np.testing.assert_allclose(dots.get_offsets(), [[10, 50], [-84, 10], [174, -41]])
    np.testing.assert_allclose(dots.get_sizes(), [356, 191, 26 + 330 / 20])
    written = [text.get_text() for text in figure.axes[0].texts]
    assert written[:2] == ["Costa Rica", "New Zealand"] and 2 < len(written) < 7
    assert 150 < figure.axes[0].texts[1].get_position()[0] < 170
    assert figure.texts[0].get_text() == "3 places, 501 specimens"
    land = figure.axes[0].collections[0].get_paths()
    assert len(land) > 100, "no coastline"
    with pytest.raises(ValueError, match="at least one place"):
        plots.site_map([], [], [])


def test_near_places_share_a_dot_and_the_map_shows_the_part_with_places():
    """Cells of one degree: two places of 1 and 3 samples at 10.2 and 10.6 east meet at 10.5. A map is 30 degrees wide
    at least, and the world if places lie far apart.
    """
    from bioscan_hf.plots.sites import WORLD, extent_of, merged

    east, north, counts = merged(np.array([[10.2, 5.0], [30, 5], [10.6, 5.0]]), np.array([1, 9, 3]), 1.0)
    np.testing.assert_allclose([east, north, counts], [[30, 10.5], [5, 5], [9, 4]])
    assert extent_of(np.array([[5.1, 52.1]])) == pytest.approx((-9.9, 44.6, 20.1, 59.6))
    assert extent_of(np.array([[-84, 10], [140, -30]])) == WORLD
    assert extent_of(np.array([[-84, 10], [140, -85]])).south == -85
    west, south, east, north = extent_of(np.array([[178, 80], [179, 89]]))
    assert east <= 180 and north <= 90 and west < 178 and south < 80


def test_reliability_curve_has_equally_filled_bins():
    """Confidences 0.5 (four, one right) and 0.9 (four, three right) are two points, whatever the number of bins; an
    interval by hand: 1 of 4 is 4.6 to 69.9 % (Wilson 1927)."""
    figure = plots.reliability_curve({"species": ([0.9] * 4 + [0.5] * 4, [1, 1, 1, 0, 1, 0, 0, 0])}, bins=4)
    axes = figure.axes[0]
    np.testing.assert_allclose(axes.containers[0].lines[0].get_xydata(), [[50, 25], [90, 75]])
    ends = axes.containers[0].lines[2][0].get_segments()[0][:, 1]
    np.testing.assert_allclose(ends, [4.56, 69.94], atol=0.01)
    assert list(axes.lines[0].get_xdata()) == list(axes.lines[0].get_ydata()) == [0, 100]
    with pytest.raises(ValueError, match="'none' needs a confidence for each answer"):
        plots.reliability_curve({"none": ([], [])})


def test_coverage_curve_marks_the_coverage_at_the_error():
    """Right, right, wrong, right by falling confidence: 25 % error is reached again when all four are answered, and
    0 % holds for the first half."""
    answers = {"genus": ([0.6, 0.9, 0.8, 0.7], [1, 1, 1, 0])}
    for error, covered in ((0.25, 100), (0.1, 50), (0.0, 50)):
        axes = plots.coverage_curve(answers, error).axes[0]
        np.testing.assert_allclose(axes.lines[0].get_xydata(), [[25, 0], [50, 0], [75, 100 / 3], [100, 25]])
        assert axes.lines[1].get_xydata().tolist() == [[covered, 100 * error]]
        assert axes.get_legend().get_texts()[0].get_text() == f"genus: {covered}.0 % answered"
    assert plots.coverage_curve({"a": ([0.9, 0.8], [0, 1])}).axes[0].lines[1].get_xydata().tolist() == [[0, 1]]


def test_barcode_gap_counts_species_with_a_gap():
    """Three species: 1 % within and 5 % to the next; 4 % and 3 %; equal distances are not a gap."""
    figure = plots.barcode_gap([0.01, 0.04, 0.02], [0.05, 0.03, 0.02])
    left, right = figure.axes
    assert [text.get_text() for text in right.get_legend().get_texts()] == [
        "with a gap: 1 species",
        "without: 2 species",
    ]
    np.testing.assert_allclose(right.collections[0].get_offsets(), [[1, 5]])
    np.testing.assert_allclose(right.collections[1].get_offsets(), [[4, 3], [2, 2]])
    assert sum(patch.get_height() for patch in left.patches) == 6
    with pytest.raises(ValueError, match="two distances of each species"):
        plots.barcode_gap([0.1], [])


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
