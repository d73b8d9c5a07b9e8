"""Results files, folders stripped from text, tables, and the card of a dataset."""

import json
import os
import subprocess
import sys

import pytest
import yaml

from bioscan_hf import __version__
from bioscan_hf.cards import table
from bioscan_hf.dataset.card import dataset_card
from bioscan_hf.provenance import PACKAGES, without_folders, without_secrets, write_results


def test_results_hold_metrics_and_provenance(tmp_path):
    path = tmp_path / "new" / "results.json"
    written = write_results(path, task="t", metrics={"a": 0.5}, seconds=1.5)
    assert json.loads(path.read_text()) == written
    assert written["task"] == "t" and written["metrics"] == {"a": 0.5} and written["seconds"] == 1.5
    assert set(written["versions"]) == {"python", *PACKAGES}
    assert written["versions"]["bioscan_hf"] == __version__
    assert not list(tmp_path.rglob("*.part"))


def test_command_is_recorded_without_folders(tmp_path):
    code = f"from bioscan_hf.provenance import *; write_results({str(tmp_path / 'r.json')!r}, task='t', metrics={{}})"
    program = tmp_path / "some" / "where.py"
    program.parent.mkdir()
    program.write_text(code)
    given = ["--a", "b c", str(tmp_path / "x.csv"), f"--work={tmp_path / 'w'}", "here/y", "--b=1"]
    subprocess.run([sys.executable, str(program), *given], check=True)
    command = json.loads((tmp_path / "r.json").read_text())["command"]
    assert command == "where.py --a 'b c' x.csv --work=w here/y --b=1"


def test_results_file_has_no_folders(tmp_path):
    """A Hub id, a relative path and a text with a slash stay."""
    about = {
        "dataset": str(tmp_path / "release"),
        "model": {"path": str(tmp_path / "out"), "parameters": 3},
        "options": {"source": "org/name", "files": [str(tmp_path / "a.csv"), "out/b"], "say": "1 / 2", "root": "/"},
    }
    written = write_results(tmp_path / "r.json", task="t", metrics={}, **about)
    assert str(tmp_path) not in (tmp_path / "r.json").read_text()
    assert written["dataset"] == "release" and written["model"] == {"path": "out", "parameters": 3}
    assert written["options"] == {"source": "org/name", "files": ["a.csv", "out/b"], "say": "1 / 2", "root": "/"}


@pytest.mark.parametrize(
    ("text", "stripped"),
    [
        ("/home/ann/data", "data"),
        ("/home/My Data/x y.csv", "x y.csv"),
        ("/home/Lee, Ann/data", "data"),
        ("C:\\Users\\Ann Lee\\data", "data"),
        ("\\\\server\\share\\our data\\x.csv", "x.csv"),
        ("file:///home/ann/x.csv", "x.csv"),
        ("~/data/x", "x"),
        ("no photo a/b/c.jpg in /home/ann/my_release, /mnt/x/B.zip", "no photo a/b/c.jpg in my_release, B.zip"),
        ("in /data/my stuff/new things/x.csv, row 3", "in x.csv, row 3"),
        ("read /data/a.zip then images/x.jpg", "read a.zip then images/x.jpg"),
        ("in //server/my share/x.csv, row 3", "in x.csv, row 3"),
        ("//server/my share/x.csv", "x.csv"),
        ("\\\\?\\C:\\Users\\Ann Lee\\x.csv: no header", "x.csv: no header"),
        ("see \\\\srv\\d$\\x.csv and C:\\Users\\Ann Lee\\y.csv", "see x.csv and y.csv"),
        ("C:\\data\\m.csv, row 3: 1/2 of 'a/b'", "m.csv, row 3: 1/2 of 'a/b'"),
        ("'/home/Lee, Ann/y.csv' and \"C:\\\\Users\\\\Ann\\\\z.csv\"", "'y.csv' and \"z.csv\""),
        ("/data/a and /data/b", "a and b"),
        ("PATH=/home/a/b:/home/c/d", "PATH=b:d"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("hf://datasets/a/b", "hf://datasets/a/b"),
        ("org/name", "org/name"),
        ("2020/01/02", "2020/01/02"),
        ("1 / 2", "1 / 2"),
        ("/", "/"),
    ],
)
def test_folders_are_stripped(text, stripped):
    """POSIX, Windows and UNC paths, also with spaces and inside longer texts."""
    assert without_folders(text) == stripped
    assert without_folders({"a": [text, 1], "b": (text,)}) == {"a": [stripped, 1], "b": [stripped]}


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("HF_TOKEN=hf_abc python x.py", "HF_TOKEN=*** python x.py"),
        ("x.py --hub_token hf_abc --seed 1", "x.py --hub_token *** --seed 1"),
        ("x.py --api-key=abc==, --seed 1", "x.py --api-key=***, --seed 1"),
        ("https://ann:pw@example.org/a?token=abc&page=1", "https://***@example.org/a?token=***&page=1"),
        ("https://hf_abc@example.org", "https://***@example.org"),
        ("hf://datasets/a/b@main/x", "hf://datasets/a/b@main/x"),
        ("the key of a row", "the key of a row"),
        ("--key_splits train+key_unseen", "--key_splits train+key_unseen"),
        ("a value in-the-environment, used", "a value ***, used"),
    ],
)
def test_secrets_in_texts_are_hidden(text, hidden, monkeypatch):
    """NAME=VALUE, --NAME VALUE, the user of a URL, and the values of secret environment variables."""
    monkeypatch.setenv("MY_SERVICE_PASSWORD", "in-the-environment")
    assert without_secrets(text) == without_folders(text) == hidden


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        *((name, True) for name in ("hub_token", "HF_TOKEN", "api-key", "apiKey", "AWS_SECRET_ACCESS_KEY", "key")),
        *((name, True) for name in ("password", "db_password_file", "Secret", "credentials", "api_key_2")),
        *((name, False) for name in ("tokenizer", "mask_token", "mask_token_share", "key_splits", "max_tokens")),
    ],
)
def test_values_of_secret_names_are_hidden(name, secret):
    """Texts below the name are hidden; numbers and empty values stay."""
    about = {name: "abc", "more": [{name: ["abc", {"x": "abc"}]}], "count": {name: 3}, "none": {name: None}}
    found = without_secrets(about)
    assert ("abc" in json.dumps(found)) != secret
    assert found["count"] == {name: 3} and found["none"] == {name: None}


def test_commands_and_results_hold_no_secret(tmp_path):
    """An option in two parts and in one, an assignment, a URL, and the environment; metrics as well."""
    code = (
        "import os; from bioscan_hf.provenance import *;"
        f"write_results({str(tmp_path / 'r.json')!r}, task='t', metrics={{'note': 'from-env-1234'}}, hub_token='s3cr')"
    )
    program = tmp_path / "where.py"
    program.write_text(code)
    given = ["--hub_token", "s3cr", "--api-key=s3cr==", "PASSWORD=s3cr", "--source", "https://u:s3cr@h.org/x", "--b=1"]
    environment = os.environ | {"OUR_ACCESS_TOKEN": "from-env-1234"}
    subprocess.run([sys.executable, str(program), *given, "from-env-1234"], check=True, env=environment)
    text = (tmp_path / "r.json").read_text()
    assert "s3cr" not in text and "from-env" not in text
    expected = "where.py --hub_token '***' '--api-key=***' 'PASSWORD=***' --source 'https://***@h.org/x' --b=1 '***'"
    assert json.loads(text)["command"] == expected


def test_stripping_folders_is_fast():
    """Time is linear in the length of the text."""
    for text in ("/" + "a b." * 50_000, "/a" * 100_000, "\\" * 100_000, "'" + "/a b" * 50_000, "a-token" * 50_000):
        without_folders(text)


def test_table_cells():
    """Fractions are percentages, whole numbers have separators, None is "not run"."""
    assert (
        table(("x", "y"), [("a", 0.12345), (1234, None)])
        == "| x | y |\n| --- | --- |\n| a | 12.3 |\n| 1,234 | not run |"
    )


def test_dataset_card_yaml():
    card = dataset_card("m.csv", ["dna", "cropped_256"], {"train": 1200, "val": 3}, {"dna": "ab", "cropped_256": "cd"})
    header = yaml.safe_load(card.split("---")[1])
    assert header["license"] == "other"  # these rows are not those of BIOSCAN-5M
    assert header["configs"] == [
        {
            "config_name": "dna",
            "description": "Build ab.",
            "data_files": [
                {"split": "train", "path": "dna/train-*.parquet"},
                {"split": "val", "path": "dna/val-*.parquet"},
            ],
        },
        {
            "config_name": "cropped_256",
            "description": "Build cd.",
            "default": True,
            "data_files": [
                {"split": "train", "path": "cropped_256/train-*.parquet"},
                {"split": "val", "path": "cropped_256/val-*.parquet"},
            ],
        },
    ]
    assert "| train | 1,200 |" in card and "Rows: **1,203** in all." in card and "`m.csv`" in card
