"""Probe of embeddings on disk: leaks, intervals by species, novel species and the curve over neighbours."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from bioscan_hf.cli.main import main
from bioscan_hf.evaluation.intervals import species_intervals
from bioscan_hf.evaluation.knn_curve import KS, VOTES, curve_figure, knn_curve
from bioscan_hf.evaluation.leaks import Leaks, find_leaks
from bioscan_hf.evaluation.open_set import open_set_scores
from bioscan_hf.evaluation.probe_protocol import KnnOptions, ProbeData, evaluate_probe, load_probe
from bioscan_hf.evaluation.probing import knn_probe

# ---- intervals ----


def test_interval_of_independent_species():
    """One specimen per species: the interval of a share of 0.8 of 400 is 0.8 +- 1.96 * sqrt(0.8 * 0.2 / 400)."""
    hits = np.arange(400) % 5 > 0
    found = species_intervals(hits, np.zeros(400, int), np.arange(400))
    low, high = found["micro_accuracy_interval"]
    assert (low, high) == (pytest.approx(0.8 - 0.0392, abs=0.006), pytest.approx(0.8 + 0.0392, abs=0.006))
    assert found["macro_accuracy_interval"] == [low, high], "one class"


def test_specimens_of_a_species_count_as_one():
    """20 specimens of each species, all right or all wrong: the interval is that of 20 species."""
    species = np.repeat(np.arange(20), 20)
    hits = species % 5 > 0
    low, high = species_intervals(hits, np.zeros(400, int), species)["micro_accuracy_interval"]
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.16 / 20), rel=0.15)
    unnamed = species_intervals(hits, np.zeros(400, int), np.full(400, -1))["micro_accuracy_interval"]
    assert unnamed[1] - unnamed[0] < 0.3 * (high - low)


def test_interval_equals_its_definition():
    """Species are drawn, and both accuracies computed from the specimens of the drawn species."""
    draw = np.random.default_rng(1)
    references, species = draw.integers(-1, 4, 60), draw.integers(0, 12, 60)
    references = np.where(species < 2, 0, references)
    hits = draw.random(60) < 0.6
    found = species_intervals(hits, references, species, draws=7, seed=3)
    names, known = np.unique(species[references >= 0]), references >= 0
    times = np.random.default_rng(3).multinomial(len(names), np.full(len(names), 1 / len(names)), 7)
    micro, macro = [], []
    for row in times:
        weight = dict(zip(names.tolist(), row.tolist(), strict=True))
        weights = np.array([weight.get(one, 0) for one in species]) * known
        micro.append((weights * hits).sum() / weights.sum())
        per_class, times_of_class = [], []
        for one in (one for one in range(4) if weights[references == one].sum()):
            per_class.append((weights * hits)[references == one].sum() / weights[references == one].sum())
            times_of_class.append(np.mean([weight[name] for name in np.unique(species[references == one])]))
        macro.append(np.average(per_class, weights=times_of_class))
    assert found["micro_accuracy_interval"] == pytest.approx(np.quantile(micro, [0.025, 0.975]).tolist())
    assert found["macro_accuracy_interval"] == pytest.approx(np.quantile(macro, [0.025, 0.975]).tolist())


def test_macro_interval_of_classes_of_one_species():
    """400 species, each a class with one specimen: micro and macro are the same share, and so are their intervals."""
    hits = np.arange(400) % 5 > 0
    found = species_intervals(hits, np.arange(400), np.arange(400))
    assert found["macro_accuracy_interval"] == pytest.approx(found["micro_accuracy_interval"])


def test_interval_of_too_little():
    nothing = {"micro_accuracy_interval": None, "macro_accuracy_interval": None}
    assert species_intervals([True], [0], [0]) == species_intervals([], np.zeros(0, int), np.zeros(0, int)) == nothing
    with pytest.raises(ValueError, match="draws is 0"):
        species_intervals([True], [0], [0], draws=0)
    with pytest.raises(ValueError, match="There are 1 hits, 2 references and 1 species"):
        species_intervals([True], [0, 1], [0])


# ---- open set ----


@pytest.mark.parametrize("decimals", [1, 8])
def test_open_set_scores_are_scikit_learns(decimals):
    """With and without ties."""
    draw = np.random.default_rng(0)
    known = draw.random(500) < 0.7
    confidences = np.round(np.clip(draw.normal(0.5 + 0.2 * known, 0.2), 0, 1), decimals)
    found = open_set_scores(confidences, known)
    assert found["auroc"] == pytest.approx(roc_auc_score(known, confidences))
    false, true, _ = roc_curve(known, confidences, drop_intermediate=False)
    assert found["fpr_at_95"] == pytest.approx(false[true >= 0.95][0])
    assert (found["n_known"], found["n_novel"]) == (known.sum(), (~known).sum())


def test_open_set_scores_by_hand():
    """Of 20 known ones at 1 to 20, 19 reach 2. Of the novel ones 0, 2 and 30 two do; 0 + 1.5 + 20 of 60 pairs lose."""
    found = open_set_scores([*range(1, 21), 0, 2, 30], [True] * 20 + [False] * 3)
    assert found["fpr_at_95"] == pytest.approx(2 / 3) and found["auroc"] == pytest.approx(1 - 21.5 / 60)
    assert open_set_scores([1.0], [True]) == {"auroc": None, "fpr_at_95": None, "n_known": 1, "n_novel": 0}
    with pytest.raises(ValueError, match="The confidence of row 1 is NaN"):
        open_set_scores([1.0, np.nan], [True, False])
    with pytest.raises(ValueError, match="give one for each specimen"):
        open_set_scores([1.0], [True, False])


# ---- leaks ----


def test_leaks():
    """Equal up to the N at the ends; a part; one that contains a reference; and what only looks like it."""
    draw = np.random.default_rng(0)
    first, second, third = ("".join(draw.choice(list("ACGT"), 90)) for _ in range(3))
    queries = [f"NN{first}N", second[10:80], third, f"{first[:40]}A{first[41:]}X", "", "N" * 30, third, second[:20]]
    found = find_leaks([first, second, third[5:60], "N" * 40, ""], queries)
    assert found.exact.tolist() == [True] + [False] * 7
    assert found.substring.tolist() == [False, True, True, False, False, False, True, False]
    assert found.any.sum() == 4
    assert find_leaks([], ["ACGT"]).any.tolist() == [False] and find_leaks(["ACGT"], []).any.shape == (0,)


# ---- curve ----


@pytest.fixture(scope="module")
def probe():
    """8 species of 4 genera as clouds; of the test species, two are not in train, and one has a genus that is not."""
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(8, 12)) + np.repeat(draw.normal(size=(4, 12)), 2, axis=0)

    def rows(species, each):
        names = np.repeat(species, each)
        vectors = (centres[names] + 0.6 * draw.normal(size=(len(names), 12))).astype(np.float32)
        labels = {"species": names, "genus": names // 2, "family": names // 4, "order": names // 3}
        return vectors, labels

    data = {"train": rows([0, 1, 2, 3, 4], 12), "test": rows([0, 1, 2, 3, 4], 6), "test_unseen": rows([5, 6], 6)}
    nothing = {split: Leaks(*np.zeros((5, len(data[split][0])), np.bool_)) for split in ("test", "test_unseen")}
    return ProbeData(
        {name: rows for name, (rows, _) in data.items()}, {n: ids for n, (_, ids) in data.items()}, nothing
    )


def test_curve_equals_the_probe_at_each_k(probe):
    train, test = (probe.embeddings[split] for split in ("train", "test"))
    ids, asked = (probe.labels[split]["species"] for split in ("train", "test"))
    rows = knn_curve(train, ids, test, asked)
    assert [row["k"] for row in rows] == [*KS, *KS] and {row["votes"] for row in rows} == set(VOTES)
    for row in rows:
        expected = knn_probe(train, ids, test, asked, k=row["k"], temperature=VOTES[row["votes"]])
        assert row["micro_accuracy"] == expected.micro_accuracy and row["macro_accuracy"] == expected.macro_accuracy
    assert [row["k"] for row in knn_curve(train[:8], ids[:8], test, asked)][:4] == [1, 3, 5, 7]
    with pytest.raises(
        ValueError, match="No number of neighbours is left: 60 train rows have a label, and ks are .99"
    ):
        knn_curve(train, ids, test, asked, ks=[99])
    assert len(curve_figure({"species of test": rows, "genus of test": rows}).axes) == 2


# ---- the whole protocol ----


@pytest.mark.parametrize("kind", ["knn", "linear"])
def test_report(probe, kind):
    options = {} if kind == "linear" else KnnOptions(3, "cosine", 0.02).used()
    report = evaluate_probe(probe, kind, options, curve=kind == "knn")
    species, genus = report.metrics["species of test"], report.metrics["genus of test_unseen"]
    low, high = species["micro_accuracy_interval"]
    assert 0 <= low <= species["micro_accuracy"] <= high <= 1
    assert genus["auroc"] is not None and genus["coverage"] == 0.5, "one of two genera is in train"
    assert species["auroc"] is None, "every species of test is in train"
    assert (report.novelty["n_known"], report.novelty["n_novel"]) == (30, 12) and report.novelty["auroc"] > 0.5
    lines = "\n".join(report.lines())
    assert f"  {low:.1%} to {high:.1%} " in lines and "Novel species: AUROC" in lines
    assert all(len(line) <= 80 for line in report.lines())
    assert ("curves" in report.content()) == (kind == "knn")
    if kind == "knn":
        assert "genus of test_unseen, by neighbours" in lines and "  temperature 0.02" in lines
        assert list(report.curves) == list(report.metrics)


@pytest.mark.parametrize("kind", ["knn", "linear"])
def test_questions_that_cannot_be_asked_are_named(probe, kind):
    """No name in train, one name, and an absent split; the others have the same answers."""
    options = {} if kind == "linear" else KnnOptions(1, "cosine", 0.0).used()
    whole = evaluate_probe(probe, kind, options)
    train = probe.labels["train"]
    changed = train | {"genus": np.full_like(train["genus"], -1), "order": np.zeros_like(train["order"])}
    part = ProbeData(probe.embeddings, {**probe.labels, "train": changed}, probe.leaks)
    report = evaluate_probe(part, kind, options)
    expected = {"genus of test_unseen": "train has no genus"}
    if kind == "linear":
        expected["order of test_unseen"] = "train has 1 order"
    assert report.unanswered == report.content()["unanswered"] == expected
    assert "genus of test_unseen    no data  train has no genus" in list(report.lines())
    assert report.metrics["species of test"] == whole.metrics["species of test"] and report.novelty == whole.novelty
    seen = ProbeData(
        {split: probe.embeddings[split] for split in ("train", "test")},
        {split: probe.labels[split] for split in ("train", "test")},
        {"test": probe.leaks["test"]},
    )
    report = evaluate_probe(seen, kind, options, curve=kind == "knn")
    assert report.metrics == {"species of test": whole.metrics["species of test"]}
    assert report.unanswered["order of test_unseen"] == "the dataset has no test_unseen"
    assert report.novelty == {"auroc": None, "fpr_at_95": None, "n_known": 0, "n_novel": 0}
    nameless = {**seen.labels, "train": {rank: np.full_like(ids, -1) for rank, ids in train.items()}}
    with pytest.raises(ValueError, match="nothing to ask: train has no species; the dataset has no test_unseen"):
        evaluate_probe(ProbeData(seen.embeddings, nameless, seen.leaks), kind, options)


def test_a_source_without_test_unseen_is_probed(tmp_path):
    """If it has the split, its embeddings must be there."""
    rows = [f"P{i},{split},{'ACGT' * 20}{'AT'[i] * 20},s{i}" for split in ("train", "test") for i in (0, 1)]
    for name, more in (("without", []), ("with", [f"P9,test_unseen,{'ACGT' * 30},s9"])):
        lines = ["processid,split,dna_barcode,species", *(f"{split}{row}" for split, row in enumerate(rows)), *more]
        (tmp_path / f"{name}.csv").write_text("\n".join(lines))
    folder = tmp_path / "embeddings"
    run = ["--model", "kmer:3", "--split", "train", "--split", "test", "--quiet"]
    main(["embed", str(tmp_path / "without.csv"), str(folder), *run])
    data = load_probe(tmp_path / "without.csv", folder)
    assert data.sizes == {"train": 2, "test": 2}
    assert evaluate_probe(data, "knn", KnnOptions(1, "cosine", 0.0).used()).metrics["species of test"]["n_test"] == 2
    with pytest.raises(FileNotFoundError, match="No embeddings of 'test_unseen' in"):
        load_probe(tmp_path / "with.csv", folder)


def test_leaks_are_told_and_left_out(probe):
    leaks = dict(probe.leaks)
    leaks["test"] = Leaks(*(np.isin(np.arange(30), kind) for kind in ([0, 1, 2, 3], [4, 5], [6], [], [7, 8])))
    leaking = ProbeData(probe.embeddings, probe.labels, leaks)
    (line,) = leaking.told()
    assert line == (
        "Leaks of test: 4 of 30 equal one of train, and 2 contain one or are in one. Other copies: 1 on the other "
        "strand, 0 equal up to unknown letters, 2 with one letter more or less."
    )
    options = KnnOptions(1, "cosine", 0.02).used()
    assert options["temperature"] is None, "one neighbour has no votes"
    kept, less = (evaluate_probe(leaking, "knn", options, without_leaks=out) for out in (False, True))
    assert (
        kept.leaks
        == less.leaks
        == {
            "test": {"exact": 4, "substring": 2, "reversed": 1, "unknown": 0, "indel": 2},
            "test_unseen": dict.fromkeys(Leaks._fields, 0),
        }
    )
    assert (kept.metrics["species of test"]["n_test"], less.metrics["species of test"]["n_test"]) == (30, 21)
    assert less.metrics["genus of test_unseen"] == kept.metrics["genus of test_unseen"]
    leaks["test"] = Leaks(np.ones(30, np.bool_), *np.zeros((4, 30), np.bool_))
    with pytest.raises(ValueError, match="Every barcode of test is in train"):
        evaluate_probe(ProbeData(probe.embeddings, probe.labels, leaks), "knn", options, without_leaks=True)
