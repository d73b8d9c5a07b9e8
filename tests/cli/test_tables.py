"""Every table that a command prints has at most 80 columns, with the largest numbers and long names; no number is cut.

`PRINTERS` lists every function that aligns text, so that a new table has a test too.
"""

import ast
import io
import json
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from bioscan_hf.cli import cluster, identify, identify_summary, train
from bioscan_hf.cli.command import Output
from bioscan_hf.cli.main import main
from bioscan_hf.evaluation import comparison, retrieval_tables
from bioscan_hf.evaluation.knn_curve import VOTES
from bioscan_hf.evaluation.probe_protocol import ProbeReport
from bioscan_hf.identification.audit import FINDINGS
from bioscan_hf.schema import LABEL_COLUMNS, RANKS
from bioscan_hf.terminal import WIDTH, aligned

ROOT = Path(__file__).parents[2]
MOST = 5_150_850
LONG = "a model of a long name, which is like another one up to its end: "
FOUR = ("order", "family", "genus", "species")

#: Functions that print a table, by their file, or are a part of one; and where it is tested, if not here.
PRINTERS = {
    ("cli/cluster.py", "_summary"): "",
    ("cli/data.py", "split"): "tests/cli/test_cli.py",
    ("cli/demo.py", "run_demo"): "tests/cli/test_demo.py",
    ("cli/evaluate.py", "retrieve"): "",
    ("cli/identify.py", "_tell_audit"): "",
    ("cli/identify_summary.py", "show"): "",
    ("cli/train.py", "_train"): "",
    ("evaluation/comparison.py", "printed"): "",
    ("evaluation/probe_protocol.py", "lines"): "",
    ("evaluation/retrieval_tables.py", "printed"): "",
    ("statistics/tables.py", "_table"): "tests/statistics/test_tables.py",
    ("terminal.py", "aligned"): "",
    ("training/options/programs.py", "_described"): "",
}


def aligns(node):
    """Whether a part of a program aligns text: `{x:>9}`, `ljust`, a table of rich, or `aligned`."""
    if isinstance(node, ast.FormattedValue) and node.format_spec is not None:
        parts = (part.value for part in node.format_spec.values if isinstance(part, ast.Constant))
        return bool(re.match(r"[<>]", "".join(parts)))
    called = getattr(node, "func", None)
    return getattr(called, "attr", getattr(called, "id", "")) in ("aligned", "Table", "rjust")


def test_every_printer_is_listed():
    found = set()
    for path in (*(ROOT / "bioscan_hf").rglob("*.py"), *(ROOT / "trainers").glob("*.py")):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef) and any(map(aligns, ast.walk(function))):
                found.add((path.relative_to(ROOT).as_posix().removeprefix("bioscan_hf/"), function.name))
    assert found == PRINTERS.keys()


def fits(lines, *numbers):
    """Checks the width of lines, and that each number stands whole in one of them."""
    lines = list(lines)
    assert lines and all(len(line) <= WIDTH for line in lines), [line for line in lines if len(line) > WIDTH]
    for number in numbers:
        assert re.search(rf"(?<![\d.,]){re.escape(number)}(?![\d.,]*\d)", "\n".join(lines)), number


def said(function, *values):
    with redirect_stdout(io.StringIO()) as text:
        function(*values, Output())
    return text.getvalue().splitlines()


def retrieval(share, queries=MOST):
    of = {1: dict.fromkeys(RANKS, share)}
    part = {"macro": of, "micro": of, "chance": {"macro": of, "micro": of}, "queries": queries}
    return {"seen": part, "unseen": part, "harmonic_mean": part, "keys": MOST}


def test_texts_are_cut_in_the_middle_and_numbers_never():
    rows = [("name", "rank", "n"), (LONG + "one", "species", "5,150,850"), (LONG + "two", "genus", "1")]
    lines = aligned(rows, 2)
    fits(lines, "5,150,850")
    assert "a model of" in lines[1] and "its end: one" in lines[1] and "its end: two" in lines[2] and "…" in lines[1]
    assert max(map(len, lines)) == WIDTH and lines[2].endswith(" 1")
    assert aligned([("a", "b"), ("x", "10")]) == ["a   b", "x  10"]


def test_evaluate_clibd(tmp_path):
    tables = {f"{query}->{key}": retrieval(1.0) for query in ("image", "dna") for key in ("image", "dna")}
    models = {"model": {"tables": tables}, "baseline": {"tables": tables | {"image->dna": retrieval(None)}}}
    lines = retrieval_tables.printed(models, RANKS, 1).splitlines()
    fits(lines, "100.0", "5,150,850")
    assert lines[1].split() == ["combination", "rank", "of", "seen", "unseen", "harmonic", "mean"]
    assert len(lines) == 2 * (2 + 3 * 3 * len(RANKS) + 1) + 1, "three reported combinations of both models and chance"
    compared = {LONG + end: tables for end in ("1 M", "5 M")}
    _, values = comparison.comparison(compared, FOUR)
    fits(shown := comparison.printed(values, "Macro top-1 accuracy (%)").splitlines(), "100.0")
    assert any("1 M" in line for line in shown) and any("5 M" in line for line in shown)


@pytest.mark.parametrize("kind", ["retrieval", "independent", "metrics"])
def test_train(kind):
    values = dict.fromkeys(("micro_accuracy", "macro_accuracy", "f1_macro"), 1.0)
    metrics = {
        "retrieval": {"retrieval": {"image->image": retrieval(1.0)}},
        "independent": {"independent": {"other_heldout": dict.fromkeys(RANKS, values)}},
        "metrics": {"eval_accuracy_of_masked_kmers_in_the_split_val": 1.0, "loss_nats": 12.3456, "none": None},
    }[kind]
    rows = list(train._metrics({"metrics": metrics}))
    fits(aligned(rows, min(2, len(rows[0]) - 1)), "12.3456 nats" if kind == "metrics" else "100.0%")


def test_cluster():
    scores = {"ami": 1.0, "ami_labelled": 1.0, "classes": MOST, "missing": MOST}
    results = {
        "metrics": dict.fromkeys(LABEL_COLUMNS, scores) | {"separation": {"n_clusters": MOST}},
        "spread": dict.fromkeys(LABEL_COLUMNS, {"ami": 1.0}),
        "chosen": [{"by": "oracle", "oracle": True, "rank": "subfamily"}],
        "specimens": MOST,
        "dropped": {},
    }
    fits(cluster._summary(results), "5,150,850", "100.0%")


def test_probe():
    metrics = {"micro_accuracy": 1.0, "micro_accuracy_interval": [1.0, 1.0], "n_test": MOST, "n_train": MOST}
    curve = [{"k": k, "votes": votes, "micro_accuracy": 1.0} for k in (1, 50) for votes in VOTES]
    names = [f"{rank} of {split}" for rank in ("species", "genus") for split in ("test", "test_unseen")]
    novelty = {"auroc": 1.0, "fpr_at_95": 1.0}
    report = ProbeReport(dict.fromkeys(names, metrics), novelty, {}, {names[0]: curve})
    fits(report.lines(), "5,150,850", "100.0%")


def test_identify_and_references():
    summary = identify_summary.Summary(list(RANKS))
    summary.first = [{"id": "x", "name": None, "status": "ok", "identity": None, "strand": "+"}]
    result = {"sequences": MOST, "deepest_rank": dict.fromkeys(RANKS, MOST), "status": {"ok": MOST}}
    fits(said(identify_summary.show, summary, result, object()), "5,150,850")
    found = dict.fromkeys(FINDINGS, MOST) | {"species_in_several_bins": MOST}
    fits(said(identify._tell_audit, found), "5,150,850")


def test_retrieve(dataset, tmp_path, capsys, monkeypatch):
    """With all numbers at their largest."""
    from bioscan_hf.evaluation import retrieval_protocol

    monkeypatch.chdir(tmp_path)
    (tmp_path / "dataset").symlink_to(dataset)
    splits = [word for split in ("train", "key_unseen", "test", "test_unseen") for word in ("--split", split)]
    main(["embed", "dataset", "e", "--model", "kmer:2", *splits, "--quiet"])
    whole = {1: dict.fromkeys(FOUR, 1.0)}
    of = {"micro": whole, "queries": MOST}
    found = {f"image->{key}": {"seen": of, "unseen": of} for key in ("image", "dna")}
    monkeypatch.setattr(retrieval_protocol, "evaluate_retrieval", lambda *given, **how: found)
    main(["retrieve", "dataset", "e"])
    fits(capsys.readouterr().out.splitlines(), "5,150,850", "100.0%")
    assert json.loads((tmp_path / "e/retrieval.json").read_text())["metrics"]


def test_help(capsys, monkeypatch):
    """Options of a program are wrapped."""
    monkeypatch.setenv("COLUMNS", "80")
    for words in (["train", "clibd"], ["train", "pretrain"], ["evaluate", "clibd"]):
        main([*words, "--help"])
        options = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("  --", "      "))]
        fits(options)
