"""The pipeline "dna-classification" with a library of references."""

import numpy as np
import pandas as pd
import pytest
from made_up_references import library_of, records
from transformers import pipeline

import bioscan_hf.auto  # noqa: F401
from bioscan_hf import EmbeddingLibrary
from bioscan_hf.identification import library as module

TASK = "dna-classification"


@pytest.fixture(scope="module")
def world():
    rows = records(np.random.default_rng(0))
    asked = rows[::8][:12]
    names = {row["processid"] for row in asked}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ASKED", 100)
        return library_of([row for row in rows if row["processid"] not in names]), asked


def test_answers_are_those_of_the_library(world):
    """Ranks from the highest down, each with its confidence; a string gives one answer, a list several."""
    library, asked = world
    reads = [row["dna_barcode"] for row in asked]
    named = pipeline(TASK, model=library)(reads)
    table = library.identify(reads).to_pylist()
    assert len(named) == len(reads)
    for answer, row, true in zip(named, table, asked, strict=True):
        labels = {one["rank"]: one for one in answer}
        assert list(labels) == library.ranks
        assert labels["family"] == {"rank": "family", "label": true["family"], "score": row["family_confidence"]}
        assert labels["species"]["label"] == (true["species"] if row["species_new"] < 0.5 else None)
    one = pipeline(TASK, model=library, novel_share=0.1)(reads[0])
    assert [answer["label"] for answer in one][-1] == asked[0]["species"] and all(0 <= a["score"] <= 1 for a in one)


def test_options_and_other_inputs(world):
    library, asked = world
    classify = pipeline(TASK, model=library, ranks=["species"])
    reads = [row["dna_barcode"] for row in asked[:3]]
    (found,) = classify(reads[:1], top_k=2)
    assert {one["label"] for one in found} == {asked[0]["species"], None} and found[0]["score"] >= found[1]["score"]
    assert classify(iter(reads), batch_size=2) == classify(reads) == classify(np.array(reads, object))
    assert classify(pd.Series(reads, index=[2, 1, 0])) == classify(reads)  # in their order, not that of the labels
    assert classify([]) == []
    with pytest.raises(ValueError, match="The library has no rank 'tribe'. It has class, order"):
        classify(reads, ranks=["tribe"])
    with pytest.raises(ValueError, match="top_k is 0: give 1 or more"):
        classify(reads, top_k=0)
    with pytest.raises(TypeError, match="Unknown option 'depth' of the pipeline. Allowed are top_k, ranks"):
        classify(reads, depth=2)
    with pytest.raises(TypeError, match="A barcode must be a string, but a int was given"):
        classify([1])


def test_reads_without_a_name_tell_their_status(world):
    library, asked = world
    random = "".join(np.random.default_rng(1).choice(list("ACGT"), 658))
    found = pipeline(TASK, model=library)([random, "ACGT", "", asked[0]["dna_barcode"]])
    assert [answer[0].get("status") for answer in found] == ["not_coi", "too_short", "empty", None]
    for answer in found[:3]:
        assert len(answer) == 1 and answer[0]["label"] is None and answer[0]["score"] == 0 and answer[0]["note"]


def test_a_folder_is_opened(world, tmp_path):
    library, asked = world
    library.save_pretrained(tmp_path / "library")
    reads = [row["dna_barcode"] for row in asked[:4]]
    assert pipeline(TASK, model=str(tmp_path / "library"))(reads) == pipeline(TASK, model=library)(reads)


def test_libraries_without_confidences_and_of_photos(world):
    library, asked = world
    rows = records(np.random.default_rng(0))[:6]
    answer = pipeline(TASK, model=library_of(rows))(rows[0]["dna_barcode"])
    assert answer[-1] == {"rank": "species", "label": rows[0]["species"], "score": None}
    with pytest.raises(ValueError, match="The library is of photos"):
        pipeline(TASK, model=EmbeddingLibrary.from_embeddings(np.eye(3), {"species": ["a", "b", "c"]}))
