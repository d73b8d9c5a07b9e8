"""Figures of retrieval show the given numbers, names and frames."""

import io

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image
from text_extents import check_texts

from bioscan_hf.evaluation.retrieval_plots import (
    FRAMES,
    Found,
    accuracy_by_keys,
    confusion_matrix,
    deepest_shared_rank,
    gallery,
)
from bioscan_hf.plots import png

QUERY = {"order": "Diptera", "family": "Sciaridae", "genus": "Bradysia", "species": "Bradysia ocellaris"}


def photo(colour, size=(40, 30)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_deepest_shared_rank():
    """The lowest rank with equal names; two unknown names are not equal."""
    assert deepest_shared_rank(QUERY, QUERY) == "species"
    assert deepest_shared_rank(QUERY, {**QUERY, "species": None, "genus": "Other"}) == "family"
    assert deepest_shared_rank({"order": None}, {"order": None}) == "none"


def test_gallery_frames_and_captions():
    """Five neighbours, one per frame colour; an absent photo is labelled."""
    others = [QUERY, {**QUERY, "species": "Bradysia sp."}, {**QUERY, "genus": "X", "species": "X y"}]
    others += [{"order": "Diptera", "family": "Y"}, {"order": "Lepidoptera"}]
    neighbours = [Found(photo("red") if i else None, taxa, 0.9 - i / 10) for i, taxa in enumerate(others)]
    figure = gallery([(photo("blue"), QUERY)], {"image->dna": [neighbours]})
    assert [to_hex(axes.spines["left"].get_edgecolor()).upper() for axes in figure.axes[1:]] == list(FRAMES.values())
    assert figure.axes[0].get_xlabel() == "Bradysia ocellaris"
    captions = [axes.get_xlabel() for axes in figure.axes[1:]]
    assert captions[1] == "Bradysia sp.\n0.80, same genus" and captions[4] == "Lepidoptera\n0.50, no shared taxon"
    marks = [[text.get_text() for text in axes.texts] for axes in figure.axes]
    assert marks == [[], ["no photo", "\N{CHECK MARK}"], *[["\N{BALLOT X}"]] * 4], "only the first is of the species"
    assert [text.get_text() for text in figure.texts] == ["query", "image \N{RIGHTWARDS ARROW} DNA"]
    assert Image.open(io.BytesIO(png(figure))).size[0] > 400
    with pytest.raises(ValueError, match="got 1 queries and neighbours of {'image->dna': 2}"):
        gallery([(None, QUERY)], {"image->dna": [neighbours, neighbours]})


def test_captions_of_a_gallery_stay_apart():
    """Long names are cut to the width of a photo; a dollar does not begin a formula."""
    long = {"species": "Pseudopolycentropodes virginicus $cf. & $sp. Malaise 12345"}
    found = {name: [[Found(photo("red"), long, 0.99)] * 5] * 3 for name in ("image->dna", "image->image")}
    texts = check_texts(gallery([(photo("blue"), long)] * 3, found))
    assert sum(text.startswith("Pseudopolycentropodes") for text in texts) == 33


def test_gallery_photos_keep_their_proportions():
    """A wide photo is cropped to a central square, not squeezed: only the green middle is shown."""
    wide = Image.new("RGB", (90, 30), "red")
    wide.paste("green", (30, 0, 60, 30))
    buffer = io.BytesIO()
    wide.save(buffer, "PNG")
    figure = gallery([(buffer.getvalue(), QUERY)], {"dna->dna": [[Found(photo("red"), QUERY, 1.0)]]})
    shown = figure.axes[0].images[0].get_array()
    assert shown.shape == (160, 160, 3) and (np.asarray(shown)[5:-5, 5:-5] == (0, 128, 0)).all()


def test_confusion_matrix_rows_sum_to_100():
    """A has 3 queries, predicted A, A, B; B has 2, predicted other taxa; C is the rarest and not shown."""
    figure = confusion_matrix(
        ["A", "A", "A", "B", "B", "C", None], ["A", "A", "B", "D", None, "C", "A"], most=2, title="x"
    )
    shares = np.asarray(figure.axes[0].images[0].get_array())
    np.testing.assert_allclose(shares, [[200 / 3, 100 / 3, 0], [0, 0, 100]])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["A (3)", "B (2)"]
    assert figure.axes[0].get_title() == "x"
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["A", "B", "other"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["67", "33", "100"]
    with pytest.raises(ValueError, match="No query has a name"):
        confusion_matrix([None], ["A"])


def test_accuracy_by_keys_draws_every_taxon_once():
    """Taxa with 1, 12 (three of them) and no keys; the last is drawn at "none".

    Three taxa have a mean, (50 + 100 + 0) / 3 = 50; one taxon has none.
    """
    accuracies = {"seen": {"a": 1.0, "b": 0.5, "d": 1.0, "e": 0.0}, "unseen": {"c": 0.25}}
    keys = {"a": 1, "b": 12, "d": 12, "e": 12}
    queries = {"seen": {"a": 4, "b": 1, "d": 1, "e": 1}, "unseen": {"c": 9}}
    figure = accuracy_by_keys(accuracies, keys, queries)
    axes = figure.axes[0]
    seen, unseen = (np.asarray(collection.get_offsets()) for collection in axes.collections)
    np.testing.assert_allclose(seen[:, 1], [100, 50, 100, 0])
    np.testing.assert_allclose(np.log(seen[:, 0]), np.log([1, 12, 12, 12]), atol=0.07)
    np.testing.assert_allclose(unseen[0], [0.5, 25], atol=0.05)
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[12, 50]])
    assert axes.lines[1].get_xydata().size == 0
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "seen: mean of taxa",
        "unseen: mean of taxa",
    ]
    assert axes.get_xticklabels()[0].get_text() == "none"
    axes = accuracy_by_keys({"seen": accuracies["seen"]}, keys, queries).axes[0]
    assert axes.get_xticklabels()[0].get_text() == "1"


def test_more_than_eight_lines_are_all_drawn_and_differ():
    names = [f"run {i}" for i in range(12)]
    taxa = {name: {"A": 0.5, "B": 0.5, "C": 0.5} for name in names}
    numbers = {"A": 1, "B": 1, "C": 1}
    (axes,) = accuracy_by_keys(taxa, numbers, dict.fromkeys(names, numbers)).axes
    looks = {(line.get_color(), line.get_linestyle()) for line in axes.lines}
    assert len(axes.lines) == 12 == len(looks) == len(axes.get_legend().get_texts())
