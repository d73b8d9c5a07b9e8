"""Libraries of references on a local Hub."""

import json
import subprocess
import sys

import minihub
import numpy as np
import pyarrow.csv as pacsv
import pytest
from made_up_references import library_of, records

from bioscan_hf.identification import library as module
from bioscan_hf.identification.publish import library_card

PUSH = """
import sys
from bioscan_hf import ReferenceLibrary
from bioscan_hf.cli.main import main
from bioscan_hf.identification.tables import write_answers

folder, reads = sys.argv[1:]
library = ReferenceLibrary.from_pretrained(folder)
library.push_to_hub("tester/moths", license="cc-by-4.0", private=True, revision="v1")
write_answers(library.audit(), folder + "/audit.csv")  # as the command references
main(["publish", folder, "tester/moths", "--license", "cc0-1.0"])
opened = ReferenceLibrary.from_pretrained("tester/moths", revision="v1")
assert len(opened) == len(library)
main(["identify", reads, "names.csv", "--references", "tester/moths"])

import re
from pathlib import Path
from huggingface_hub import hf_hub_download
card = Path(hf_hub_download("tester/moths", "README.md", repo_type="dataset")).read_text()
for block in re.findall("```python\\n(.*?)```", card, re.S):
    exec(block)
assert name(opened.records["dna_barcode"][0].as_py())[-1]["rank"] == "species"
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A library whose notes hold a folder and a token, its folder, and reads."""
    folder = tmp_path_factory.mktemp("published") / "library"
    rows = records(np.random.default_rng(0), 1, 2, 2, 3, 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ASKED", 40)
        library = library_of(rows)
    library.info["notes"] = ["/home/ann/secret place/bold.tsv: 2 records; token=hf_abcdefgh <b>"]
    library.save_pretrained(folder)
    reads = folder.parent / "reads.fasta"
    reads.write_text("".join(f">{row['processid']}\n{row['dna_barcode']}\n" for row in rows[:3]))
    return {"folder": folder, "reads": reads, "rows": rows, "library": library}


def run(code, tmp_path, hub, *arguments):
    environment = minihub.environment(hub, tmp_path / "home")
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)


@pytest.mark.slow
def test_a_pushed_library_opens_by_its_id(world, tmp_path):
    """By Python on a branch and by the command on main; without folders, secrets and files that are not its own."""
    (world["folder"] / "private.txt").write_text("not part of it")
    with minihub.serve() as hub:
        done = run(PUSH, tmp_path, hub, world["folder"], world["reads"])
        assert done.returncode == 0, done.stderr[-3000:]
        main, branch = hub.files("tester/moths"), hub.files("tester/moths", "v1")
    assert pacsv.read_csv(tmp_path / "names.csv")["species"].to_pylist() == [
        row["species"] for row in world["rows"][:3]
    ]
    assert "private.txt" not in main and branch.keys() == main.keys()
    assert {"README.md", "library.json", "references.parquet"} <= main.keys()
    assert b"`audit.csv` lists suspicious" in main["README.md"]
    assert branch["audit.csv"] == main["audit.csv"] and main["audit.csv"].startswith(b'"processid","finding"')
    for name, content in (*main.items(), *branch.items()):
        for secret in (b"/home", b"ann", b"hf_abcdefgh", str(world["folder"].parent).encode()):
            assert secret not in content or name.endswith(".safetensors"), name
    assert json.loads(main["library.json"])["notes"] == ["bold.tsv: 2 records; token=*** <b>"]
    card = main["README.md"].decode()
    assert "license: cc0-1.0" in card and "license: cc-by-4.0" in branch["README.md"].decode()
    assert "48 references (sequences)" in card and "| species | 12 |" in card and "&lt;b>" in card
    assert "--references tester/moths" in card and "| species known | 40 |" in card


SMALLER = """
import sys
from bioscan_hf.identification.publish import push_folder
for folder in sys.argv[1:]:
    push_folder(folder, "tester/moths", license="other")
"""


@pytest.mark.slow
def test_a_smaller_library_leaves_nothing_of_the_one_before(world, tmp_path):
    few = library_of(
        [{**row, "dna_barcode": row["dna_barcode"][: 300 + i]} for i, row in enumerate(world["rows"][:6])]
    )
    few.save_pretrained(tmp_path / "few")
    with minihub.serve() as hub:
        done = run(SMALLER, tmp_path, hub, world["folder"], tmp_path / "few")
        assert done.returncode == 0, done.stderr[-3000:]
        left = hub.files("tester/moths")
    assert set(left) == {".gitattributes", "README.md", "library.json", "references.parquet", "search.safetensors"} | {
        "config.json"
    }
    assert "Not calibrated" in left["README.md"].decode()


def test_the_licence_is_asked_for(world, capsys):
    from bioscan_hf.cli.main import main

    with pytest.raises(SystemExit) as stopped:
        main(["publish", str(world["folder"]), "tester/moths"])
    assert stopped.value.code == 2 and "give --license" in capsys.readouterr().err


def test_the_card_names_an_encoder_that_is_needed(world):
    facts = {"calibration": None, "encoder": "given", "model": "kmers", "formats": {"table": 1}}
    card = library_card("tester/moths", world["library"].records, facts, "mit")
    assert "--model MODEL" in card and "the encoder `kmers`" in card and 'model="MODEL"' in card
