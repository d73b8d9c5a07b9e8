"""Labels of figures stay inside, and apart from each other, on awkward inputs; colours can be told apart."""

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from text_extents import check_texts

from bioscan_hf import plots
from bioscan_hf.clustering.figures import ami_by_rank, cluster_map
from bioscan_hf.plots.style import shortened, text_width, wrapped

LONG = [f"Pseudopolycentropodidae incertae sedis {i} cost $5 & $6" for i in range(40)]
RNG = np.random.default_rng(0)
QUESTIONS = ("species of test", "genus of a specimen whose species is unseen " * 2, "family\nof test_unseen", "order")


def answers(count=400):
    sure = RNG.beta(5, 1, count)
    return sure, RNG.random(count) < sure


def families(orders, each):
    return {
        (order, f"{name}idae"): int(10 ** RNG.uniform(0, 6)) for order in orders for name in [*LONG[:each], "A", "Bo"]
    }


FIGURES = {
    "tree map of 40 orders": lambda: plots.taxonomy_tree_map(families(LONG, 30), "Specimens by order and family"),
    "tree map of one family": lambda: plots.taxonomy_tree_map({("", ""): 1}),
    "tree map of equal families": lambda: plots.taxonomy_tree_map({(o, f): 1 for o in LONG[:7] for f in LONG}),
    "order bars": lambda: plots.order_bars({name: 10**i for i, name in enumerate(LONG[:9])} | {"": 1}),
    "order bars of 40": lambda: plots.order_bars({name: 3_675_317 + i for i, name in enumerate(LONG)}),
    "one accuracy": lambda: plots.accuracy_bars({"model": {"species": 1.0}}),
    "accuracies of 3": lambda: plots.accuracy_bars(
        {m: dict.fromkeys(QUESTIONS, 1.0) for m in LONG[:3]}, size=(5.4, 3.3)
    ),
    "accuracies of 12": lambda: plots.accuracy_bars({m: dict.fromkeys(QUESTIONS, 0.999) for m in LONG[:12]}),
    "accuracies of 40": lambda: plots.accuracy_bars({m: dict.fromkeys(QUESTIONS) for m in LONG}),
    "loss of 12": lambda: plots.loss_curves({name: [(1, 5), (2, 4)] for name in LONG[:12]}, 5.5),
    "loss of 40": lambda: plots.loss_curves({name: [(1, 5), (2, 4)] for name in LONG}),
    "lengths": lambda: plots.length_histogram([(100, 1), (658, 5_000_000), (1555, 2)], 660),
    "one length": lambda: plots.length_histogram([(658, 9)], 660),
    "violins": lambda: plots.distance_violins({rank: [0.1] * 10 for rank in ("phylum", "subfamily", "species")}),
    "gap": lambda: plots.barcode_gap(RNG.gamma(1, 0.01, 300), RNG.gamma(8, 0.01, 300)),
    "gap of one": lambda: plots.barcode_gap([0.0], [0.0]),
    "reliability": lambda: plots.reliability_curve({name: answers() for name in LONG[:6]}),
    "coverage": lambda: plots.coverage_curve({name: answers() for name in LONG[:6]}),
    "world": lambda: plots.site_map(
        RNG.uniform(-85, 85, 500), RNG.uniform(-180, 180, 500), RNG.integers(1, 10**6, 500), _names(-85, 85, 180)
    ),
    "one site": lambda: plots.site_map([52.1], [5.1], [1], [("Netherlands", 52.1, 5.1), (LONG[0] * 9, 52.2, 5.1)]),
    "many names at one place": lambda: plots.site_map([0, 1], [179, -179.9], [9, 1], [(n, 0, 179) for n in LONG]),
    "an edge": lambda: plots.site_map([-89.9, 89.9], [180, 179], [1, 5], [("South Pole", -89.9, 180)]),
    "photos": lambda: plots.photo_grid([(_photo(), f"{name}\n{name}\nthird line") for name in LONG[:14]]),
    "encoders": lambda: ami_by_rank(
        {
            name: {"metrics": {r: {"ami": 0.5} for r in ("order", "family", "subfamily", "species", "dna_bin")}}
            for name in LONG
        }
    ),
    "cluster map": lambda: cluster_map(RNG.normal(size=(80, 2)), [None, *LONG, *LONG[:39]], "species"),
}


def _names(south, north, east):
    return [(name[:24], float(RNG.uniform(south, north)), float(RNG.uniform(-east, east))) for name in LONG]


def _photo():
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (300, 90), "teal").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("name", FIGURES)
def test_labels_stay_inside_and_apart(name):
    check_texts(FIGURES[name]())


def test_the_check_of_labels_can_fail():
    """A text beyond the edge, and one over another, are found."""
    figure = plots.order_bars({"Diptera": 3})
    figure.text(0.98, 0.5, "beyond the edge of the figure")
    with pytest.raises(AssertionError, match="leaves the figure"):
        check_texts(figure)
    figure = plots.order_bars({"Diptera": 3})
    figure.text(0.5, 0.9, "one")
    figure.text(0.5, 0.9, "two")
    with pytest.raises(AssertionError, match="'one' and 'two' overlap"):
        check_texts(figure)


def test_texts_are_shortened_and_wrapped_to_a_width():
    """The width is that of the drawn text; a dollar is a letter, and not a formula."""
    assert shortened("Diptera", 500, 8) == "Diptera" and shortened("Diptera", 3, 8) == ""
    short = shortened("Pseudopolycentropodidae", 60, 8)
    assert short.endswith("…") and short[:-1] == "Pseudopolycentropodidae"[: len(short) - 1]
    assert 50 < text_width(short, 8) <= 60
    assert text_width("a$b$c", 8) > text_width("abc", 8)
    lines = wrapped("genus of test_unseen", 60, 9).split("\n")
    assert lines == ["genus of", "test_unseen"] and max(text_width(line, 9) for line in lines) <= 60


#: Linear RGB as people without one kind of cone see it (Machado, Oliveira and Fernandes 2009, severity 1).
VISIONS = {
    "all cones": np.eye(3),
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(colour, vision):
    """CIE L*a*b* of a colour as a vision sees it."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(vision) @ linear, 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ seen
    xyz = xyz / [0.95047, 1, 1.08883]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("vision", VISIONS)
def test_the_ten_most_frequent_orders_differ_for_every_reader(vision):
    """A distance of 15 in L*a*b* is six times a just noticeable difference of 2.3."""
    seen = [lab(colour, VISIONS[vision]) for colour in list(plots.ORDER_COLOURS.values())[:10]]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 15


def test_an_order_has_one_colour_in_every_figure():
    """Bars, tree map and map of clusters agree, whatever other orders there are, also outside the table."""
    from matplotlib.colors import to_hex

    for order in ("Coleoptera", "Zoraptera"):
        for others in (["Diptera"] * 5, ["Araneae"] * 5 + ["Odonata"] * 9):
            names = [order] * 3 + others
            counts = {name: names.count(name) for name in names}
            bars = plots.order_bars(counts)
            place = [label.get_text() for label in bars.axes[0].get_yticklabels()].index(order)
            map_ = cluster_map(np.arange(2 * len(names)).reshape(-1, 2), names, "order").axes[0].collections[0]
            dots = {tuple(p): to_hex(c) for p, c in zip(map_.get_offsets(), map_.get_facecolors(), strict=True)}
            tree = plots.taxonomy_tree_map({(name, f"{name} family"): n for name, n in counts.items()})
            boxes = [to_hex(patch.get_facecolor()) for patch in tree.axes[0].patches]
            expected = plots.order_colour(order).lower()
            assert to_hex(bars.axes[0].patches[place].get_facecolor()) == expected == dots[0, 1]
            assert expected in boxes
    assert plots.order_colour("") == plots.order_colour(None) == plots.UNKNOWN_COLOUR
    assert plots.order_colour("Zoraptera") not in plots.ORDER_COLOURS.values()


def test_the_coastline_has_the_continents_and_no_line_across_the_world():
    """Places on land and at sea, by the even-odd rule; no step of a ring crosses the map."""
    from matplotlib.path import Path

    from bioscan_hf.plots.sites import coastline

    rings = coastline()

    def on_land(east, north):
        return sum(Path(ring).contains_point((east, north)) for ring in rings) % 2 == 1

    for place in ((-84.1, 9.95), (5, 52.1), (134, -25), (37, 0), (-100, 50), (175.8, -38.5), (170, 68), (-175, 66.5)):
        assert on_land(*place), place
    for place in ((-30, 40), (-150, 10), (80, -30), (0, -40), (5, 56)):
        assert not on_land(*place), place
    for ring in rings:
        steps = np.abs(np.diff(ring, axis=0))
        assert steps[np.abs(ring[1:, 1]) < 85].max() < 30
