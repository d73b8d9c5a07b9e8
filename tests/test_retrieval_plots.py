"""Pictures of retrieval show the numbers, names and frames that they are given."""

import io

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from bioscan_hf.plots import png
from bioscan_hf.retrieval_plots import FRAMES, Found, accuracy_by_keys, confusion_matrix, deepest_shared_rank, gallery

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
    """Five neighbours, one for each frame colour; an absent photo is said to be absent."""
    others = [QUERY, {**QUERY, "species": "Bradysia sp."}, {**QUERY, "genus": "X", "species": "X y"}]
    others += [{"order": "Diptera", "family": "Y"}, {"order": "Lepidoptera"}]
    neighbours = [Found(photo("red") if i else None, taxa, 0.9 - i / 10) for i, taxa in enumerate(others)]
    figure = gallery([(photo("blue"), QUERY)], {"image->dna": [neighbours]})
    assert [to_hex(axes.spines["left"].get_edgecolor()).upper() for axes in figure.axes[1:]] == list(FRAMES.values())
    assert figure.axes[0].get_xlabel() == "Bradysia ocellaris"
    captions = [axes.get_xlabel() for axes in figure.axes[1:]]
    assert captions[1] == "Bradysia sp.\n0.80, same genus" and captions[4] == "Lepidoptera\n0.50, no shared taxon"
    assert [text.get_text() for text in figure.axes[1].texts] == ["no photo"]
    assert [text.get_text() for text in figure.texts] == ["query", "image \N{RIGHTWARDS ARROW} DNA"]
    assert Image.open(io.BytesIO(png(figure))).size[0] > 400
    with pytest.raises(ValueError, match="got 1 queries and neighbours of {'image->dna': 2}"):
        gallery([(None, QUERY)], {"image->dna": [neighbours, neighbours]})


def test_gallery_photos_keep_their_proportions():
    """A wide photo is cut to a square around its middle, not squeezed: what is shown is the green middle."""
    wide = Image.new("RGB", (90, 30), "red")
    wide.paste("green", (30, 0, 60, 30))
    buffer = io.BytesIO()
    wide.save(buffer, "PNG")
    figure = gallery([(buffer.getvalue(), QUERY)], {"dna->dna": [[Found(photo("red"), QUERY, 1.0)]]})
    shown = figure.axes[0].images[0].get_array()
    assert shown.shape == (160, 160, 3) and (np.asarray(shown)[5:-5, 5:-5] == (0, 128, 0)).all()


def test_confusion_matrix_rows_sum_to_100():
    """A is asked three times: A, A, B; B once: an unseen taxon; C is the rarest and not shown. One has no name."""
    figure = confusion_matrix(["A", "A", "A", "B", "B", "C", None], ["A", "A", "B", "D", None, "C", "A"], most=2)
    shares = np.asarray(figure.axes[0].images[0].get_array())
    np.testing.assert_allclose(shares, [[200 / 3, 100 / 3, 0], [0, 0, 100]])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["A (3)", "B (2)"]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["A", "B", "other"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["67", "33", "100"]
    with pytest.raises(ValueError, match="No query has a name"):
        confusion_matrix([None], ["A"])


def test_accuracy_by_keys_draws_every_taxon_once():
    """Taxa with 1, 12 and no keys; the last stands at "none", and the lines are the means of classes of size."""
    figure = accuracy_by_keys(
        {"seen": {"a": 1.0, "b": 0.5}, "unseen": {"c": 0.25}},
        {"a": 1, "b": 12},
        {"seen": {"a": 4, "b": 1}, "unseen": {"c": 9}},
    )
    axes = figure.axes[0]
    seen, unseen = (np.asarray(collection.get_offsets()) for collection in axes.collections)
    np.testing.assert_allclose(seen[:, 1], [100, 50])
    np.testing.assert_allclose(np.log(seen[:, 0]), np.log([1, 12]), atol=0.07)
    np.testing.assert_allclose(unseen[0], [0.5, 25], atol=0.05)
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[1, 100], [12, 50]])
    assert axes.lines[1].get_xydata().size == 0
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "seen: mean of taxa",
        "unseen: mean of taxa",
    ]
    assert axes.get_xticklabels()[0].get_text() == "none"
