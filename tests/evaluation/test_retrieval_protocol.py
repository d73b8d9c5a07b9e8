"""The retrieval protocol: published numbers of all combinations, absent modalities, prototypes, errors."""

import numpy as np
import pytest

from bioscan_hf.evaluation.retrieval_protocol import (
    MODALITIES,
    REPORTED_RANKS,
    Specimens,
    combinations_of,
    evaluate_retrieval,
    harmonic_means,
    rows_of,
    two_stage_names,
)
from bioscan_hf.search.index import build_index
from bioscan_hf.search.retrieve import TIES

PUBLISHED = {
    "image": "encoded_image_feature",
    "dna": "encoded_dna_feature",
    "text": "encoded_language_feature",
    "averaged": "averaged_feature",
    "concatenated": "concatenated_feature",
    "all": "all_key_features",
}


@pytest.fixture(scope="module")
def published(reference):
    """Name of the rows ("keys", "seen", "unseen") -> specimens; and the published accuracies."""
    folder = reference / "clibd"
    vectors = np.load(folder / "eval_embeddings.npz")
    labels = folder.json("eval_labels.json")
    specimens = {
        name: Specimens(
            {modality: vectors[f"{name}/{PUBLISHED[modality]}"] for modality in MODALITIES},
            {rank: [row[rank] for row in rows] for rank in REPORTED_RANKS},
            {},
        )
        for name, rows in labels.items()
    }
    return specimens, *(folder.json(f"eval_{name}.json") for name in ("acc", "meta"))


def test_intervals_by_species(published):
    """Each top-1 accuracy lies in its interval; without species, taxa of the lowest rank are drawn."""
    specimens = published[0]
    queries = {name: specimens[name] for name in ("seen", "unseen")}
    table = evaluate_retrieval(specimens["keys"], queries, combinations=["dna->dna"])["dna->dna"]
    widths = []
    for split in ("seen", "unseen"):
        for average, ends in table[split]["top1_intervals"].items():
            for rank, (low, high) in ends.items():
                assert 0 <= low <= table[split][average][1][rank] <= high <= 1
                widths.append(high - low)
    assert max(widths) > 0.05
    genus = evaluate_retrieval(specimens["keys"], queries, combinations=["dna->dna"], ranks=["order", "genus"])
    assert set(genus["dna->dna"]["seen"]["top1_intervals"]["micro"]) == {"order", "genus"}


@pytest.mark.parametrize("ties", TIES)
def test_all_published_accuracies(published, ties):
    """All 21 combinations x 2 kinds of queries x 2 averages x 3 k x 4 ranks, to 4 decimals.

    No keys of the fixture are equally near, so both tie rules give the published numbers.
    """
    specimens, expected, meta = published
    queries = {name: specimens[name] for name in ("seen", "unseen")}
    tables = evaluate_retrieval(specimens["keys"], queries, ties=ties)
    compared = 0
    for query, of_query in expected.items():
        for key, of_key in of_query.items():
            if not of_key:
                assert f"{query}->{key}" in meta["empty_combos"]
                continue
            ours = {name: kind for kind, name in PUBLISHED.items()}
            table = tables.pop(f"{ours[query]}->{ours[key]}")
            for split, average, k, rank in np.ndindex(2, 2, 3, 4):
                split, average, k = ("seen", "unseen")[split], ("micro", "macro")[average], (1, 3, 5)[k]
                rank = REPORTED_RANKS[rank]
                found = table[split][average][k][rank]
                assert round(found, 4) == round(of_key[split][f"{average}_acc"][str(k)][rank], 4)
                assert 0 < table[split]["chance"][average][k][rank] < 1
                compared += 1
    assert compared == 21 * 48 and not tables


def test_published_harmonic_mean_and_selection_score(published):
    specimens, _, meta = published
    queries = {name: specimens[name] for name in ("seen", "unseen")}
    tables = evaluate_retrieval(specimens["keys"], queries, ties="parity")
    assert tables["image->dna"]["harmonic_mean"]["macro"][1] == pytest.approx(meta["harmonic_mean"])
    parts = [tables[name][split] for name in tables for split in queries]
    selection = np.mean([list(part[average][1].values()) for part in parts for average in ("micro", "macro")])
    assert selection == pytest.approx(meta["checkpoint_selection_overall_acc"]), "the published selection score"


def test_published_two_stages(published):
    """Photos of seen species first, then barcodes of unseen ones: the accuracies at the published threshold.

    The DNA keys are those of the species of the unseen queries.
    """
    specimens, _, meta = published
    keys, unseen = specimens["keys"], specimens["unseen"]
    is_unseen = np.isin(keys.labels["species"], unseen.labels["species"])

    def index(modality, mask):
        labels = {rank: np.array(names)[mask].tolist() for rank, names in keys.labels.items()}
        return build_index(keys.embeddings[modality][mask], labels)

    near, far = index("image", ~is_unseen), index("dna", is_unseen)
    expected = meta["method_nn"]
    threshold = expected["best_threshold"]
    for split in ("seen", "unseen"):
        found = two_stage_names(
            near, far, specimens[split].embeddings["image"], REPORTED_RANKS, threshold=threshold, k=5
        )
        for k in (1, 3, 5):
            for rank in REPORTED_RANKS:
                true = specimens[split].labels[rank]
                hits = np.array([name in answers[:k] for answers, name in zip(found[rank], true, strict=True)])
                classes = [hits[np.array(true) == name].mean() for name in set(true)]
                assert hits.mean() == pytest.approx(expected[split]["micro"][str(k)][rank])
                assert np.mean(classes) == pytest.approx(expected[split]["macro"][str(k)][rank])


def test_combinations_by_modality():
    """With two modalities there is no "all"; without both photo and DNA there is no "averaged"."""
    assert len(combinations_of(["text", "image", "dna"])) == 21
    assert combinations_of(["dna"]) == ("dna->dna",)
    assert len(combinations_of(["image", "dna"])) == 3 * 3 + 1
    assert combinations_of(["image", "text"]) == ("image->image", "image->text", "text->image", "text->text")


def small(present=None, nan=False):
    """Four specimens of two species whose photos, barcodes and texts agree."""
    rows = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]])
    photos = rows.copy()
    if nan:
        photos[1] = np.nan
    names = {"species": ["A", "A", "B", None], "genus": ["G", "G", "G", "G"]}
    return Specimens({"image": photos, "dna": rows, "text": rows}, names, present or {}, ["p0", "p1", "p2", "p3"])


def test_absent_modalities_are_neither_keys_nor_queries():
    """Without a photo a specimen is neither a photo key nor a photo query; its embedding is ignored."""
    present = {"image": np.array([True, False, True, True])}
    keys = small(present, nan=True)
    options = {"ranks": ["species"], "top_k": [1]}
    tables = evaluate_retrieval(keys, {"seen": keys, "unseen": small()}, **options)
    assert {name: tables[name]["keys"] for name in ("dna->image", "dna->dna", "dna->all", "image->averaged")} == {
        "dna->image": 3,
        "dna->dna": 4,
        "dna->all": 11,
        "image->averaged": 3,
    }
    assert [tables["image->dna"][split]["queries"] for split in ("seen", "unseen")] == [3, 4]
    assert tables["image->dna"]["unseen"]["labelled"] == {"species": 3}
    assert tables["image->dna"]["harmonic_mean"]["micro"][1] == {"species": 1.0}
    with pytest.raises(ValueError, match=r"modality .image. are NaN, infinite or zero in the rows 1 \(p1\)"):
        evaluate_retrieval(small(nan=True), {"seen": small()}, **options)
    nobody = small({"image": np.zeros(4, bool)})
    nothing = evaluate_retrieval(keys, {"seen": keys, "unseen": nobody}, **options)["image->dna"]
    assert nothing["unseen"]["queries"] == 0 and nothing["seen"] == tables["image->dna"]["seen"]
    for of in (nothing["unseen"], nothing["unseen"]["chance"], nothing["harmonic_mean"]):
        assert of["micro"] == of["macro"] == {1: {"species": None}}
    nobody = small({"dna": np.zeros(4, bool)})
    with pytest.raises(ValueError, match="No specimen has image and dna, which 'averaged' needs"):
        rows_of(nobody, "averaged", ["genus"])


def test_prototype_keys():
    """One key per species: two keys; one key per genus: one key."""
    tables = evaluate_retrieval(
        small(), {"seen": small()}, ranks=["genus", "species"], top_k=[1], prototype_rank="species"
    )
    assert tables["image->dna"]["keys"] == 2
    assert tables["image->dna"]["seen"]["micro"][1] == {"genus": 1.0, "species": 1.0}
    assert "harmonic_mean" not in tables["image->dna"]
    with pytest.raises(ValueError, match="k is 2; give a positive number of neighbours, at most 1"):
        evaluate_retrieval(small(), {"seen": small()}, ranks=["genus"], top_k=[2], prototype_rank="genus")


def test_harmonic_means_of_missing_and_zero():
    """0 if one is 0, None if one is None."""
    table = {average: {1: {"r": 0.5, "s": 0.0, "t": None}} for average in ("micro", "macro")}
    full = {average: {1: {"r": 0.25, "s": 1.0, "t": 1.0}} for average in ("micro", "macro")}
    assert harmonic_means(table, full)["macro"] == {1: {"r": pytest.approx(1 / 3), "s": 0.0, "t": None}}


def test_errors():
    keys, queries = small(), {"seen": small()}
    with pytest.raises(ValueError, match="Unknown combination image->photo. Choose from image->image, "):
        evaluate_retrieval(keys, queries, combinations=["image->photo"])
    with pytest.raises(ValueError, match=r"Unknown combination \(none\)"):
        evaluate_retrieval(keys, queries, combinations=[])
    with pytest.raises(ValueError, match="Unknown rank: order, family. The keys have species, genus"):
        evaluate_retrieval(keys, queries)
    with pytest.raises(ValueError, match="k is 5; give a positive number of neighbours, at most 4"):
        evaluate_retrieval(keys, queries, ranks=["genus"])
    with pytest.raises(ValueError, match="'image' needs other embeddings than those given: dna"):
        rows_of(Specimens({"dna": np.eye(4)}, keys.labels, {}), "image", ["genus"])
    with pytest.raises(ValueError, match="There are 3 embeddings of 'dna', 3 entries in `present`"):
        rows_of(Specimens({"dna": np.eye(3)}, keys.labels, {}), "dna", ["genus"])
    assert evaluate_retrieval(keys, queries, ranks=["genus"], top_k=[1], combinations=["dna->dna"]).keys() == {
        "dna->dna"
    }
