"""README's tables are rendered from the files that runs have written, and its commands are those that exist."""

import json
import re
from pathlib import Path

from bioscan_hf.cli import parser
from bioscan_hf.hub import table

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def results(name):
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def real_coi_probe():
    """A row per encoder and one for chance; columns are the questions, with their numbers of queries."""
    metrics = results("real_coi_probe")["metrics"]
    first = next(iter(metrics.values()))
    header = ["", *(f"{name} ({value['n_test']:,} of {value['n_train']:,} keys)" for name, value in first.items())]
    rows = [[model, *(value["micro_accuracy"] for value in values.values())] for model, values in metrics.items()]
    return table(header, [*rows, ["chance", *(value["chance"] for value in first.values())]])


def tokenizer():
    """Ratio of `encode_column` to the published loop, from an Arrow column and from a list."""
    metrics = results("tokenizer")["metrics"]
    rows = [
        (case, *(f"{values[f'{way}_ratio_wall']:.1f}" for way in ("encode_column", "encode_column_of_list")))
        for case, values in metrics.items()
    ]
    return table(("barcodes", "from an Arrow column", "from a list"), rows)


def test_tables_come_from_results_files():
    for name, render in (("real_coi_probe", real_coi_probe), ("tokenizer", tokenizer)):
        assert f"<!-- {name} -->\n\n{render()}\n" in README, f"the table {name} should read\n\n{render()}"


def test_results_files_tell_their_command_and_commit():
    files = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    assert files
    for file in files:
        content = json.loads(file.read_text(encoding="utf-8"))
        assert content["command"].startswith("bench_") and re.fullmatch("[0-9a-f]{40}", content["commit"]), file.name


def test_commands_in_readme_exist():
    names = set(re.findall(r"bioscan-hf ([a-z]+)", README))
    assert names >= {"demo", "simulate", "split", "build", "embed", "probe"}
    for name in names:
        known = parser()._subparsers._group_actions[0].choices
        assert name in known, name
    for path in re.findall(r"trainers/\w+\.py", README):
        assert (ROOT / path).is_file()


def test_ci_runs_the_second_command_of_readme():
    first, second = (command.strip() for command in re.findall(r"```bash\n(.+?)\n```", README, flags=re.S)[:2])
    assert "\n" not in first + second and "pip install" in first and "bioscan-hf demo" in first
    assert second.removeprefix(".venv/bin/") in (ROOT / ".ci/run").read_text()
