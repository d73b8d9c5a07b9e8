"""`gpu_run.py`: every part on a CPU without data libraries, rows that fail, goals, and the steps that it measures."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from bioscan_hf.encoders.barcode_encoders import load_encoder
from bioscan_hf.models.configuration_clibd import ClibdConfig
from bioscan_hf.models.modeling_clibd import ClibdModel
from bioscan_hf.training.presets import PRESETS

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

#: What the machine of a GPU need not have; None makes an import fail.
RUN = """
import sys
for name in ("datasets", "evaluate", "faiss", "umap", "sklearn", "scipy", "igraph", "typer"):
    sys.modules[name] = None
sys.argv[:1] = ["gpu_run.py"]
sys.path.insert(0, sys.argv.pop(1))
import gpu_run
code = gpu_run.main()
print(code)
"""


@pytest.fixture(scope="module")
def gpu():
    """The modules, imported as scripts of one folder import each other."""
    names = ("gpu_run", "gpu_report", "gpu_barcodes", "gpu_clibd", "gpu_training", "real_barcodes")
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield {name: __import__(name) for name in names}
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture
def report(gpu, tmp_path):
    return gpu["gpu_report"].Report(tmp_path / "report.json", torch.device("cpu"), 60.0, {}, measured=0.01)


@pytest.mark.slow
def test_every_part_runs_on_a_cpu_without_data_libraries(tmp_path):
    """Published and our losses are equal, and the file says what was reached, but claims nothing."""
    output = tmp_path / "results" / "gpu.json"
    given = ["--output", str(output), "--small", "--training-seconds", "0.4"]
    command = [sys.executable, "-c", RUN, str(BENCHMARKS), *given]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "0"
    content = json.loads(output.read_text())
    rows = {part: found["rows"] for part, found in content["metrics"].items()}
    assert list(rows) == ["steps", "steps of 8-4-4", "embedding", "clibd", "training", "loss"]
    failed = [name for part in rows.values() for name, row in part.items() if {"error", "out_of_memory"} & set(row)]
    assert not failed and not any("error" in found for found in content["metrics"].values())
    assert content["small"] and {goal["met"] for goal in content["goals"].values()} == {None}
    assert rows["steps"]["4-4-4 published, batch 8"]["samples_per_second"] > 0
    assert rows["embedding"]["from letters, batch 16"]["barcodes_per_second"] > 0
    first = [row["first_loss"] for row in rows["clibd"].values()]
    assert first == pytest.approx([first[0]] * len(first), abs=0.1)
    dense, exact, chunked = (rows["loss"][f"{name}, 64 rows"] for name in ("published", "ours", "ours, in chunks"))
    for found in (exact, chunked):
        assert found["loss_nats"] == pytest.approx(dense["loss_nats"], rel=1e-5)
        assert found["gradient_norm"] == pytest.approx(dense["gradient_norm"], rel=1e-4)
    training = rows["training"]
    assert training["6-mers"]["species of test"] == training["aligned encoder"]["species of test"] == 1.0
    settings, fast = training["BarcodeBERT, masked k-mers"]["settings"], PRESETS["fast"]
    assert {name for name in fast if settings[name] != fast[name]} <= {"learning_rate"}
    last = training["BarcodeBERT, masked k-mers, then contrast of species, mean over reading frames"]
    assert last["species of test"] > 0.5
    assert training["BarcodeBERT, masked k-mers, then contrast of species"]["labels"] == "species of train"


def test_a_row_that_fails_is_a_row(report):
    """The file holds each row as soon as it is measured; other rows go on; a row without time is skipped."""

    def too_large():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB. GPU 0 has ...")

    def wrong():
        raise RuntimeError("no compiler")

    report.begin("part", 50)
    report.row("large", too_large)
    assert json.loads(report.path.read_text())["metrics"]["part"]["rows"]["large"]["out_of_memory"].endswith(
        "9.00 GiB"
    )
    assert report.row("wrong", wrong)["error"] == "RuntimeError: no compiler"
    assert "left" in report.row("late", too_large, needs=100)["skipped"]
    assert report.row("right", lambda: {"rate": 1})["rate"] == 1
    assert list(json.loads(report.path.read_text())["metrics"]["part"]["rows"]) == ["large", "wrong", "late", "right"]
    report.begin("next", 1e9)
    assert 40 < report.left() <= 60  # what all parts have left


def test_goals_are_of_the_best_rows_and_the_row_that_validation_chooses(gpu):
    def rate(value):
        return {"samples_per_second": value}

    parts = {
        "steps": {"4-4-4 published, batch 64": rate(1000), "4-4-4 fast, batch 8": rate(6000), "8-4-4 fast": rate(9e9)},
        "clibd": {"published, batch 2": {"out_of_memory": ""}, "ours, batch 2": rate(1900)},
        "training": {
            "6-mers": {"species of val": 1.0, "species of test": 1.0},
            "BarcodeBERT, masked k-mers": {"species of val": 0.9, "species of test": 0.99},
            "BarcodeBERT, masked k-mers, then contrast": {"species of val": 0.95, "species of test": 0.94},
        },
    }
    found = gpu["gpu_run"].goals({name: {"rows": rows} for name, rows in parts.items()})
    assert found["species of test after training"]["row, chosen by val"] == "BarcodeBERT, masked k-mers, then contrast"
    assert {name: (goal["reached"], goal["met"]) for name, goal in found.items()} == {
        "4-4-4, samples/s": (6000, False),
        "4-4-4, times the published step": (6, True),
        "embedding, barcodes/s from letters": (None, None),
        "CLIBD, samples/s": (1900, True),
        "CLIBD, times the published step": (None, None),
        "species of test after training": (0.94, False),
    }


def test_real_sizes_need_a_gpu_and_parts_have_names(gpu, capsys, tmp_path):
    for given, message in ((["--parts", "steps,other", "--small"], "names other"), ([], "Give --small")):
        with pytest.raises(SystemExit):
            gpu["gpu_run"].main(["--output", str(tmp_path / "x.json"), *given])
        assert message in capsys.readouterr().err


def test_the_fast_step_is_that_of_the_preset(gpu):
    way, fast = gpu["gpu_barcodes"].fast_way(True), PRESETS["fast"]
    assert (way.loss_on, way.dropout, way.cut_padding) == (fast["loss_on"], fast["dropout"], fast["cut_padding"])
    assert way.bf16 and way.compiled and not gpu["gpu_barcodes"].fast_way(False).compiled


def test_the_numpy_file_of_barcodes(gpu, tmp_path):
    """Each barcode once in a split; ids of taxa are the same in all splits; N at the ends does not count."""
    draw = np.random.default_rng(0)
    kinds = [f"Genus{'abcd'[number // 3]} kind{'abcdefghijkl'[number]}" for number in range(12)]
    species = [name for name in kinds for _ in range(60)]
    letters = ["".join(row) for row in np.array(list("ACGT"))[draw.integers(0, 4, (len(species), 60))]]
    letters[1] = letters[0] + "NN"
    table = pa.table(
        {
            "processid": [f"P{row}" for row in range(len(species))],
            **{rank: ["x"] * len(species) for rank in ("order", "family", "dna_bin")},
            "genus": [name.split()[0] for name in species],
            "species": species,
            "dna_barcode": letters,
        }
    )
    path = tmp_path / "table.csv"
    table.to_pandas().to_csv(path, index=False)
    made = gpu["real_barcodes"]
    counts = made.write_numpy(made.partitioned(path, 0), tmp_path / "made")
    read = gpu["gpu_training"].Barcodes.read(tmp_path / "made")
    assert {split: len(rows) for split, rows in read.letters.items()} == counts and sum(counts.values()) <= 719
    name_of = {barcode.rstrip("N"): name for barcode, name in zip(letters, species, strict=True)}
    seen: dict[int, str] = {}
    for split, barcodes in read.letters.items():
        assert len(set(barcodes)) == len(barcodes)
        for barcode, label in zip(barcodes, read.labels[split]["species"].tolist(), strict=True):
            assert (label == -1) == (split == "pretrain")
            assert label == -1 or seen.setdefault(label, name_of[barcode]) == name_of[barcode]
    assert counts["train"] and counts["test"] and len(set(seen.values())) == len(seen)


def test_batches_go_through_all_rows_in_each_epoch(gpu):
    """5 rows in batches of 2: the first 10 indices are two permutations, and name their epoch."""
    batches = iter(gpu["gpu_training"].EndlessBatches(5, 2))
    indices = [index for _ in range(5) for index in next(batches)]
    assert sorted(indices[:5]) == [0, 1, 2, 3, 4] and sorted(indices[5:]) == [5, 6, 7, 8, 9]
    rows = gpu["gpu_training"].Rows(list("ABCDE"), np.arange(5))
    assert rows[8] == {"dna_barcode": "D", "species_index": 3, "epoch": 1}


def test_the_numbers_of_the_guide_come_from_the_results():
    """Hours are samples x epochs / (8 GPUs x samples/s). Accuracies are in the order of the rows."""
    root = BENCHMARKS.parent
    rows = {
        part: found["rows"]
        for part, found in json.loads((root / "benchmarks/results/gpu_run.json").read_text())["metrics"].items()
    }
    guide = (root / "docs/guides/reproduce.md").read_text(encoding="utf-8")
    for training, samples, epochs, part, ours, published in (
        ("8-4-4", 2_325_132, 35, "steps of 8-4-4", "8-4-4 fast, batch 512", "8-4-4 published, batch 256"),
        ("4-4-4", 2_325_132, 35, "steps", "4-4-4 fast, batch 1024", "4-4-4 published, batch 1024"),
        ("1 M", 1_080_142, 50, "clibd", "ours, batch 500", "published, batch 500"),
        ("5 M", 4_966_959, 20, "clibd", "ours, batch 500", "published, batch 500"),
    ):
        cells = [f"{samples:,} x {epochs}"]
        for row in (ours, published):
            rate = rows[part][row]["samples_per_second"]
            cells += [f"{rate:,.0f}", f"{samples * epochs / (8 * rate) / 3600:.1f}"]
        assert f"{training}" in guide and f"| {' | '.join(cells)} |" in guide, cells
    place = guide.index("## Four minutes")
    for name, row in rows["training"].items():
        if name != "barcodes" and "random" not in name:
            cells = [f"{100 * row[question]:.1f}" for question in ("species of test", "genus of test_unseen")]
            place = guide.index(f"| {' | '.join(cells)} |", place)


# ---- steps of CLIBD -------------------------------------------------------------------------------------------------


def test_published_and_our_steps_are_equal_without_dropout(gpu):
    """Two steps in single precision, with the published loss or with the memory options: equal losses."""
    steps, found = gpu["gpu_clibd"], []
    plain = steps.Way(bf16=False, attention="eager")
    for way in (
        plain,
        replace(steps.PUBLISHED),
        steps.Way(bf16=False, rows_at_a_time=3, chunk_size=2),
        steps.Way(bf16=False, float_photos=True, channels_last=True),
    ):
        built = steps.build(way, steps.SMALL, torch.device("cpu"))
        built.model.eval()
        step = steps.make_stepper(built, 7)
        found.append([step().item(), step().item()])
        assert built.model.dna_model.config._attn_implementation == way.attention
    np.testing.assert_allclose(found, [found[0]] * 4, rtol=1e-4)
    assert found[0][0] != found[0][1]


def test_operations_of_the_published_sizes(gpu):
    """35.1 + 23.4 + 0.5 GFLOP forward for ViT-B/16, 133 tokens of DNA and 20 of text: 59.0, and 177 to train."""
    steps = gpu["gpu_clibd"]
    with torch.device("meta"):
        model = ClibdModel(ClibdConfig(**steps.FULL))
    assert steps.gflop_per_sample(model) == pytest.approx(177.1, rel=0.005)
    assert steps.encoder_flop(1, 1, 2, 3) == 2 * (4 * 4 + 2 * 2 * 3) + 4 * 2
    assert len(steps.layers_of(model)) == 12 + 12 + 4


@pytest.mark.realdata
def test_k_mer_counts_find_species_of_the_real_file(gpu, real_data, tmp_path):
    """Of the partition of the sample, 6-mers name 9 in 10 known species."""
    made, training = gpu["real_barcodes"], gpu["gpu_training"]
    made.write_numpy(made.partitioned(real_data / "bold_coi5p_sample.csv.gz", 0), tmp_path)
    barcodes = training.Barcodes.read(tmp_path)
    model, inputs = load_encoder("kmer:6")
    vectors = training.encoder_vectors(model, inputs, torch.device("cpu"))
    found = training.nearest_neighbours(vectors, barcodes, torch.device("cpu"))
    assert found["species of test"] > 0.9 and 0 < found["genus of test_unseen"] < 1
