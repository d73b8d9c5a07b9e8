"""The evaluation of CLIBD with photo and barcode fused, and with errors in the barcodes of the queries."""

import json
import shutil

import numpy as np
import pytest
import torch
from clibd_runs import make_folder
from training_runs import as_flags, launch

from bioscan_hf.encoders.fused import embed_fused
from bioscan_hf.encoders.stored import load_embeddings
from bioscan_hf.evaluation.specimens import load_specimens
from bioscan_hf.models.modeling_clibd import ClibdModel
from bioscan_hf.trainers.evaluate_clibd import main
from bioscan_hf.training.clibd.data import load_model
from bioscan_hf.training.clibd.robustness import robustness_text

CONDITIONS = ["substitutions", "unread", "insertions", "deletions", "lost_run", "cut_end", "all"]


@pytest.fixture(scope="module")
def fusion(tmp_path_factory):
    """A model with a gate, of random weights, and its processor."""
    folder = make_folder(tmp_path_factory.mktemp("fusion") / "model")
    torch.manual_seed(1)
    load_model(str(folder), "softmax", fusion=True).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run(dataset, fusion, tmp_path_factory):
    output = tmp_path_factory.mktemp("robust") / "out"
    given = {"model": str(fusion), "source": str(dataset), "output_dir": str(output), "dna_noise": True}
    return output, main(as_flags(given | {"ranks": ["genus", "species"]}))


def test_fused_embeddings_are_those_of_the_model(run, fusion):
    """31 tables: 21 of three modalities, and those with fused queries or keys."""
    output, results = run
    tables = results["metrics"]["model"]["tables"]
    assert len(tables) == 31 and {"fused->text", "image->fused", "fused->all"} <= set(tables)
    found = load_specimens(output / "embeddings/test")
    model = ClibdModel.from_pretrained(fusion)
    with torch.inference_mode():
        expected = model.fuse(*(torch.from_numpy(np.asarray(found.embeddings[name])) for name in ("image", "dna")))
    np.testing.assert_allclose(found.embeddings["fused"], expected.numpy(), atol=1e-6)
    names = ["--ranks", "species", "--combinations", "fused->fused", "fused->text"]
    again = main(["--embeddings", str(output / "embeddings"), "--output_dir", str(output / "again"), *names])
    for name, table in again["metrics"]["model"]["tables"].items():
        assert table["seen"]["macro"][1]["species"] == tables[name]["seen"]["macro"][1]["species"]


def test_report_of_errors(run):
    """A row for each kind of error; that of photos alone does not change, and all errors change the barcodes."""
    output, results = run
    noise = results["metrics"]["model"]["noise"]
    assert list(noise) == ["none", *CONDITIONS]
    assert set(noise["none"]) - set(noise["all"]) == {"image->image", "image->text"}
    lines = (output / "robustness.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| ")]
    assert len(rows) == 9 and rows[0].startswith("| errors | image->image | dna->dna | averaged->averaged | fused->")
    assert len({row.split("|")[2] for row in rows[1:]}) == 1
    clean = load_embeddings(output / "embeddings/test/dna").embeddings
    for condition in CONDITIONS:
        altered = load_embeddings(output / "embeddings_noise" / condition / "test").embeddings
        changed = (np.abs(clean - altered).max(1) > 1e-6).mean()
        # The model reads the first 120 letters, which the cut end does not reach.
        assert changed == 0 if condition == "cut_end" else changed > (0.7 if condition == "all" else 0), condition
    seen = noise["all"]["dna->dna"]["seen"]["micro"][1]["species"]
    assert seen < noise["none"]["dna->dna"]["seen"]["micro"][1]["species"]
    assert f"{100 * noise['all']['dna->dna']['seen']['macro'][1]['species']:.1f} / " in rows[-1]
    assert json.loads((output / "results.json").read_text())["metrics"]["model"]["noise"].keys() == noise.keys()


@pytest.mark.slow
def test_two_processes_find_the_same(run, dataset, fusion, tmp_path):
    given = {"model": str(fusion), "source": str(dataset), "output_dir": str(tmp_path), "dna_noise": True}
    launch("evaluate_clibd", as_flags(given | {"ranks": ["genus", "species"]}), "accelerate")
    assert (tmp_path / "robustness.md").read_text() == (run[0] / "robustness.md").read_text()


def test_an_evaluation_that_was_stopped_goes_on(run, dataset, fusion, tmp_path):
    """Results and the shard of one condition are lost: that is made again, others are left, the report is equal."""
    output = tmp_path / "out"
    shutil.copytree(run[0], output)
    kept, lost = (
        next((output / "embeddings_noise" / name / "test").glob("embeddings-*.parquet"))
        for name in ("insertions", "deletions")
    )
    time = kept.stat().st_mtime_ns
    report = (output / "robustness.md").read_text()
    for path in (lost, output / "results.json", output / "robustness.md"):
        path.unlink()
    given = {"model": str(fusion), "source": str(dataset), "output_dir": str(output), "dna_noise": True}
    main(as_flags(given | {"ranks": ["genus", "species"]}))
    assert (output / "robustness.md").read_text() == report
    assert lost.is_file() and kept.stat().st_mtime_ns == time


def test_other_rows_and_other_embeddings_are_refused(run, fusion, tmp_path):
    output, _ = run
    split = output / "embeddings/test"
    model = ClibdModel.from_pretrained(fusion)
    with pytest.raises(ValueError, match="other rows or shards"):
        embed_fused(model, split / "image", output / "embeddings/test_unseen/dna", tmp_path)
    shutil.copytree(split / "fused", tmp_path / "fused")
    embed_fused(model, split / "image", split / "dna", tmp_path / "fused")  # the same again
    with torch.no_grad():
        model.fusion_gate.output.bias += 1
    with pytest.raises(ValueError, match="holds other embeddings"):
        embed_fused(model, split / "image", split / "dna", tmp_path / "fused")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embeddings": "x"}, "give --model and --source"),
        ({"model": "x", "source": "y", "combinations": ["image->dna"]}, "with barcodes as queries"),
    ],
)
def test_noise_that_would_do_nothing_is_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        main(as_flags({"output_dir": str(tmp_path / "out"), "dna_noise": True} | options))


def test_a_missing_accuracy_is_a_dash():
    table = {part: {"macro": {1: {"species": None}}} for part in ("seen", "unseen")}
    assert "| none | - / - |" in robustness_text({"none": {"dna->dna": table}}, ["species"], 1)
