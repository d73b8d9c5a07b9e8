"""Accuracies of retrieval, chance, prototypes, and errors."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from bioscan_hf.evaluation import retrieval
from bioscan_hf.evaluation.retrieval import (
    accuracies,
    chance_accuracies,
    class_accuracies,
    prototypes,
    retrieval_accuracy,
)
from bioscan_hf.search.index import build_index
from bioscan_hf.search.retrieve import TIES, retrieve


def test_accuracy_by_hand():
    """Two keys of A at 10 and 80 degrees, one of B at 40; queries at 0 (A), 50 (A), 45 (B) and 90 (C).

    Nearest: A, B, B, A. Micro top-1 is 2/4; macro is the mean of A 1/2, B 1/1, C 0/1. Among two keys each query but
    that of C finds its own: 3/4 and (1 + 1 + 0) / 3. At the other rank, where the second query has no name and all
    keys but that of 40 degrees are X: queries X, -, Y, X are right, wrong for none, 3/3.
    """

    def at(*degrees):
        return [(np.cos(d), np.sin(d)) for d in np.radians(degrees)]

    keys = {"species": ["A", "B", "A"], "order": ["X", "Y", "X"]}
    queries = {"species": ["A", "A", "B", "C"], "order": ["X", None, "Y", "X"]}
    found = retrieval_accuracy(at(10, 40, 80), keys, 7 * np.array(at(0, 50, 45, 90)), queries, top_k=[2, 1])
    assert list(found["micro"]) == [1, 2]
    assert found["micro"][1] == {"species": 0.5, "order": 1.0}
    assert found["macro"][1] == pytest.approx({"species": 0.5, "order": 1.0})
    assert found["micro"][2] == {"species": 0.75, "order": 1.0}
    assert found["macro"][2] == pytest.approx({"species": 2 / 3, "order": 1.0})


class Meeting:
    """The calls of torch.distributed that the search of several processes makes; here, the processes are threads."""

    def __init__(self, processes):
        self.ranks, self.parts, self.barrier = threading.local(), {}, threading.Barrier(processes)

    def get_rank(self):
        return self.ranks.own

    def all_reduce(self, tensor):
        self.parts[self.get_rank()] = tensor.clone()
        self.barrier.wait()
        tensor.copy_(sum(self.parts.values()))
        self.barrier.wait()


@pytest.mark.parametrize("count", [2, 7, 2500], ids="{} queries".format)
def test_processes_share_the_queries_and_find_the_same(monkeypatch, count):
    """Three processes, of which one has no query of two, and blocks of 1,024 queries of 2,500."""
    draw = np.random.default_rng(0)
    keys, queries = draw.normal(size=(60, 8)), draw.normal(size=(count, 8))
    keys[30:] = keys[:30]  # ties
    index = build_index(keys, {"order": draw.choice(["A", "B", None], 60).tolist()})
    one, sizes = retrieve(index, queries, k=3, ties="parity"), []
    meeting = Meeting(3)
    monkeypatch.setattr(retrieval, "dist", meeting)
    monkeypatch.setattr(retrieval, "process_count", lambda: 3)
    monkeypatch.setattr(
        retrieval, "retrieve", lambda *args, **rest: sizes.append(len(args[1])) or retrieve(*args, **rest)
    )

    def process(rank):
        meeting.ranks.own = rank
        return retrieval.retrieve_together(index, queries, k=3, ties="parity")

    with ThreadPoolExecutor(3) as pool:
        for found in pool.map(process, range(3)):
            np.testing.assert_array_equal(found.predictions["order"], one.predictions["order"])
            np.testing.assert_array_equal(found.neighbours, one.neighbours)
            atol = 0 if count > 1024 else 1e-6
            np.testing.assert_allclose(found.similarities, one.similarities, rtol=0, atol=atol)
    assert sorted(sizes) == {2: [1, 1], 7: [1, 3, 3], 2500: [452, 1024, 1024]}[count]


def test_unknown_names_count_nowhere():
    """A query without a name does not count, a key without one is never right, a rank without queries is None."""
    found = retrieval_accuracy(np.eye(2), {"r": ["A", None], "s": ["x", "y"]}, np.eye(2), {"r": ["A", "A"]}, top_k=[1])
    assert found == {"micro": {1: {"r": 0.5}}, "macro": {1: {"r": 0.5}}}
    found = retrieval_accuracy(np.eye(2), {"r": ["A", None]}, np.eye(2), {"r": [None, None]}, top_k=[1])
    assert found["micro"][1]["r"] is None and found["macro"][1]["r"] is None


def test_chance_equals_random_neighbours():
    """4 of 10 keys are of A, one of B; draws of 2 hit A with 1 - 6/10 * 5/9 = 2/3, B with 2/10; C never."""
    index = build_index(np.eye(10), {"r": ["A"] * 4 + ["B"] + [None] * 5})
    found = chance_accuracies(index, {"r": ["A", "A", "B", "C", None]}, [1, 2])
    assert found["micro"][1]["r"] == pytest.approx((0.4 + 0.4 + 0.1 + 0) / 4)
    assert found["micro"][2]["r"] == pytest.approx((2 / 3 + 2 / 3 + 0.2 + 0) / 4)
    assert found["macro"][2]["r"] == pytest.approx((2 / 3 + 0.2 + 0) / 3)
    generator = np.random.default_rng(0)
    draws = [retrieve(index, generator.normal(size=(200, 10)), k=2) for _ in range(20)]
    hits = [accuracies(index, found, {"r": ["A"] * 200}, [2])["micro"][2]["r"] for found in draws]
    assert np.mean(hits) == pytest.approx(2 / 3, abs=0.03)
    assert chance_accuracies(index, {"r": [None]}, [1])["micro"][1]["r"] is None


def test_prototypes_are_directions_of_means():
    """A has keys along x and (longer) along y: its prototype is between them, with the family of most of its keys."""
    keys = [[1, 0, 0], [0, 5, 0], [0, 0, 2], [9, 9, 9], [1, 0, 0]]
    labels = {"species": ["A", "A", "B", None, "A"], "family": ["F", "G", None, "F", "G"]}
    vectors, names = prototypes(keys, labels)
    np.testing.assert_allclose(vectors, [np.array([2, 1, 0]) / 5**0.5, [0, 0, 1]], atol=1e-6)
    assert names == {"species": ["A", "B"], "family": ["G", None]}
    assert vectors.dtype == np.float32
    with pytest.raises(ValueError, match="Unknown rank: tribe"):
        prototypes(keys, labels, "tribe")
    with pytest.raises(ValueError, match=r"prototypes are NaN, infinite or zero in the rows 0 \(A\)"):
        prototypes([[1, 0], [-1, 0]], {"species": ["A", "A"]})


def test_class_accuracies():
    """Of two queries of A one is right, that of B is not; the query without a name counts for none."""
    index = build_index(np.eye(3), {"r": ["A", "C", "B"]})
    found = retrieve(index, [[1, 0, 0], [0, 1, 0], [0, 1, 0.9], [1, 0, 0]], k=2)
    names = ["A", "A", "B", None]
    assert class_accuracies(index, found, "r", names) == {"A": 0.5, "B": 0.0}
    # The keys of A and B are equally far from the second query, and A comes first.
    assert class_accuracies(index, found, "r", names, k=2) == {"A": 1.0, "B": 1.0}


def test_published_class_accuracies_and_predictions(reference):
    """Photo against DNA of the published run: the accuracy of each taxon, and the 5 names of each query in order."""
    folder = reference / "clibd"
    vectors = np.load(folder / "eval_embeddings.npz")
    labels, classes, predictions = (
        folder.json(f"{name}.json") for name in ("eval_labels", "eval_per_class", "eval_pred_image_to_dna")
    )
    ranks = ("order", "family", "genus", "species")
    index = build_index(
        vectors["keys/encoded_dna_feature"], {rank: [row[rank] for row in labels["keys"]] for rank in ranks}
    )
    for split in ("seen", "unseen"):
        found = retrieve(index, vectors[f"{split}/encoded_image_feature"], k=5, ties="parity")
        for rank in ranks:
            expected = [row[rank] for row in predictions[f"curr_{split}_pred_list"]]
            names = np.array([*index.classes[rank], None], object)
            assert names[found.predictions[rank]].tolist() == expected
            for k in (1, 3, 5):
                ours = class_accuracies(index, found, rank, [row[rank] for row in labels[split]], k)
                published = classes["encoded_image_feature"]["encoded_dna_feature"][split][str(k)][rank]
                assert ours == pytest.approx(published)


@pytest.mark.parametrize("ties", TIES)
def test_errors(ties):
    """Every error says what was given and what is allowed."""
    labels = {"r": ["A", "B"]}

    def run(keys=((1, 0), (0, 1)), names=labels, queries=((1, 0), (0, 1)), asked=labels, **options):
        return retrieval_accuracy(keys, names, queries, asked, **{"top_k": [1], "ties": ties, **options})

    assert run()["micro"][1]["r"] == 1
    with pytest.raises(ValueError, match="k is 5; give a positive number of neighbours, at most 2"):
        run(top_k=[1, 5])
    with pytest.raises(ValueError, match="1 or more"):
        run(top_k=[0, 1])
    with pytest.raises(ValueError, match="Unknown rank: tribe. The keys have r"):
        run(asked={"tribe": ["A", "B"]})
    with pytest.raises(ValueError, match="queries are NaN, infinite or zero in the rows 1:"):
        run(queries=[[1, 0], [np.nan, 1]])
    with pytest.raises(ValueError, match="keys are NaN, infinite or zero in the rows 0, 1:"):
        run(keys=[[np.inf, 0], [0, 0]])
    with pytest.raises(ValueError, match="queries have 3 dimensions and the keys 2"):
        run(queries=np.eye(3), asked={"r": ["A", "B", "A"]})
    with pytest.raises(ValueError, match="'r' has 1 entries for 2 keys"):
        run(names={"r": ["A"]})
    with pytest.raises(ValueError, match="1 labels at the rank 'r', and there are 2"):
        run(asked={"r": ["A"]})
    with pytest.raises(ValueError, match="matrix"):
        run(queries=[1, 0])
    with pytest.raises(ValueError, match="A label is 3 .*LabelMaps.decode"):
        run(names={"r": [3, 4]})
