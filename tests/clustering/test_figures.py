"""Pictures of clustering show the numbers, names and colours that they are given."""

import io
import sys

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from bioscan_hf.clustering import figures as clustering_figures
from bioscan_hf.clustering.figures import (
    GROUP_COLOURS,
    OTHER_COLOUR,
    UNKNOWN_COLOUR,
    ami_by_rank,
    cluster_map,
    colour_groups,
    plane,
    species_ceiling,
)
from bioscan_hf.plots import order_colour, png


def result(spread=None, **scores):
    return {
        "metrics": {rank: {"ami": score} for rank, score in scores.items()},
        "spread": {rank: {"ami": spread} for rank in scores},
    }


def test_ami_by_rank():
    """A line for each encoder, the best at species first; ranks in the paper's order, a null leaves a gap, not a 0."""
    results = {
        "weak": result(species=0.1, order=0.5),
        "strong": result(spread=0.02, dna_bin=0.35, species=0.4, order=0.8, genus=None, separation=None),
    }
    figure = ami_by_rank(results)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["order", "species", "BIN"]
    lines = {line.get_label(): line for line in axes.containers}
    assert list(lines) == ["strong", "weak"]
    np.testing.assert_allclose(lines["strong"].lines[0].get_xydata(), [[0, 80], [1, 40], [2, 35]])
    np.testing.assert_allclose(lines["weak"].lines[0].get_xydata(), [[0, 50], [1, 10]])
    assert lines["strong"].has_yerr and not lines["weak"].has_yerr
    segments = lines["strong"].lines[2][0].get_segments()
    np.testing.assert_allclose(segments[0], [[0, 78], [0, 82]])
    assert axes.get_ylim()[0] == 0 and axes.get_ylim()[1] > 82
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["strong", "weak"]
    assert axes.get_ylabel() == "adjusted mutual information (%)"
    assert Image.open(io.BytesIO(png(figure))).size[0] > 400
    with pytest.raises(ValueError, match="None of the 1 results has the score 'ami'"):
        ami_by_rank({"none": result(species=None)})


def test_sixteen_encoders_can_be_told_apart():
    """As many as the paper compares: no two share colour and dash, and the legend lies beside the axes."""
    figure = ami_by_rank({f"encoder {i:02}": result(order=0.9 - i / 50, species=0.5 - i / 50) for i in range(16)})
    axes = figure.axes[0]
    looks = {
        (to_hex(line.lines[0].get_color()), line.lines[0].get_linestyle(), line.lines[0].get_marker())
        for line in axes.containers
    }
    assert len(looks) == 16
    png(figure)
    assert axes.get_legend().get_window_extent().x0 > axes.get_window_extent().x1


def test_the_ceiling_is_the_score_of_the_true_species():
    """Species a, a, b, b and one unnamed: the species score 1 with themselves, and less with two orders of which one
    has both species, as scikit-learn says."""
    from sklearn.metrics import adjusted_mutual_info_score

    labels = {"species": ["a", "a", "b", "b", "c", "c", None], "order": ["D", "D", "D", "D", "E", "E", "E"]}
    ceiling = species_ceiling(labels)
    expected = adjusted_mutual_info_score(labels["order"][:6], labels["species"][:6])
    assert ceiling == pytest.approx({"species": 1.0, "order": expected}) and 0 < expected < 0.9
    axes = ami_by_rank({"one": result(species=0.5, order=0.4)}, ceiling).axes[0]
    drawn = next(line for line in axes.lines if line.get_label() == "the true species")
    np.testing.assert_allclose(drawn.get_xydata(), [[0, 100 * expected], [1, 100]])
    assert "the true species" in [text.get_text() for text in axes.get_legend().get_texts()]
    assert species_ceiling({"order": ["D"]}) == {} == species_ceiling({"species": [None]})


def test_colour_groups(monkeypatch):
    """b thrice, c and a twice each, d once, two unknown: two colours are left for b and a; other is c and d."""
    names = ["b", "a", None, "c", "b", "d", "a", "c", "b", None]
    with monkeypatch.context() as patch:
        patch.setattr(clustering_figures, "GROUP_COLOURS", GROUP_COLOURS[:2])
        groups = colour_groups(names)
    assert groups.names == ["b", "a", "other (2 names)", "unknown"]
    assert groups.counts == [3, 2, 3, 2]
    assert groups.of.tolist() == [0, 1, 3, 2, 0, 2, 1, 2, 0, 3]
    assert groups.colours == [*GROUP_COLOURS[:2], OTHER_COLOUR, UNKNOWN_COLOUR]
    assert colour_groups(["x"]).names == ["x"] and colour_groups([None]).names == ["unknown"]
    assert len(set(GROUP_COLOURS) | {OTHER_COLOUR, UNKNOWN_COLOUR}) == len(GROUP_COLOURS) + 2


def test_cluster_map_draws_each_specimen_in_its_colour():
    points = np.arange(12).reshape(6, 2)
    names = ["Diptera", None, "Diptera", "Coleoptera", None, "A" * 60]
    axes = cluster_map(points, names, "order").axes[0]
    drawn = axes.collections[0]
    place = {
        tuple(point): to_hex(colour) for point, colour in zip(drawn.get_offsets(), drawn.get_facecolors(), strict=True)
    }
    groups = colour_groups(names, "order")
    assert groups.colours[0] == order_colour("Diptera")
    assert [place[tuple(point)].upper() for point in points] == [groups.colours[g].upper() for g in groups.of]
    first = [to_hex(colour).upper() for colour in drawn.get_facecolors()[:2]]
    assert first == [UNKNOWN_COLOUR, UNKNOWN_COLOUR], "those without a name must not cover others"
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts[0] == "Diptera  2" and texts[-1] == "unknown  2" and max(map(len, texts)) < 40
    assert axes.get_legend().get_title().get_text() == "order"
    with pytest.raises(ValueError, match=r"got \(6, 2\) and 5 names"):
        cluster_map(points, names[:5], "order")


def test_plane(monkeypatch):
    """PCA keeps the distances of points that lie in a plane; UMAP keeps two blobs apart, the same for a seed."""
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(30, 2))
    turned = flat @ np.linalg.qr(rng.normal(size=(5, 5)))[0][:2]
    found = plane(turned, "pca")
    pairs = np.linalg.norm(flat[:, None] - flat[None], axis=-1)
    np.testing.assert_allclose(np.linalg.norm(found[:, None] - found[None], axis=-1), pairs, atol=1e-4)
    assert plane([[1.0], [2.0], [4.0]], "pca").shape == (3, 2)
    blobs = np.concatenate([rng.normal(size=(25, 4)), rng.normal(50, 1, size=(25, 4))])
    made = plane(blobs, seed=3)
    gap = np.linalg.norm(made[:25].mean(0) - made[25:].mean(0))
    assert made.shape == (50, 2) and gap > 2 * made[:25].std() and gap > 2 * made[25:].std()
    np.testing.assert_array_equal(made, plane(blobs, seed=3))
    with pytest.raises(ValueError, match="Unknown reducer 'tsne' for a map. Choose umap or pca"):
        plane(blobs, "tsne")
    for bad in (blobs[:2], np.full((4, 2), np.nan)):
        with pytest.raises(ValueError, match="A map needs 3 specimens or more, and finite"):
            plane(bad)
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'bioscan_hf\[cluster\]'"):
        plane(blobs)
