"""`bioscan-hf card FOLDER`: what a folder is, and its card."""

import json
import shutil

import numpy as np
import pytest
from made_up_references import library_of, records

from bioscan_hf.cli.main import main
from bioscan_hf.hub.folder_cards import folder_card, kind_of
from bioscan_hf.search.index import build_index, save_index


def test_a_dataset_keeps_what_was_edited(dataset, tmp_path, capsys):
    """A deleted card is written anew; in an edited one, only the tables are replaced, without --force."""
    folder = shutil.copytree(dataset, tmp_path / "dataset")
    card = folder / "README.md"
    built = card.read_text()
    card.unlink()
    main(["card", str(folder)])
    assert capsys.readouterr().out == f"Wrote {card}\n"
    written = card.read_text()
    assert "configs:" in written and "| train |" in written and kind_of(folder) == "dataset"
    assert written.partition("---\n")[2].splitlines()[:3] == built.partition("---\n")[2].splitlines()[:3]
    card.write_text(written.replace("# ", "# Mine: ", 1))
    main(["card", str(folder)])
    assert "# Mine: " in card.read_text()
    elsewhere = tmp_path / "card.md"
    main(["card", str(folder), "--output", str(elsewhere)])
    assert "# Mine: " not in elsewhere.read_text() and "| train |" in elsewhere.read_text()


def test_a_library_an_index_and_a_clustering_are_recognised(tmp_path, capsys):
    library = library_of(records(np.random.default_rng(0))[:6])
    library.save_pretrained(tmp_path / "moths")
    main(["card", str(tmp_path / "moths"), "--license", "cc0-1.0"])
    text = (tmp_path / "moths/README.md").read_text()
    assert "license: cc0-1.0" in text and "A library of 6 references" in text and "audit.csv" not in text
    (tmp_path / "moths/audit.csv").write_text("processid\n")
    assert "`audit.csv` lists suspicious references" in folder_card(tmp_path / "moths", "moths")
    index = build_index(np.eye(3, dtype=np.float32), {"species": ["a", "b", "c"]})
    save_index(index, tmp_path / "run/index")
    assert "Not evaluated." in folder_card(tmp_path / "run/index", "keys")
    (tmp_path / "run/results.json").write_text(json.dumps({"task": "partition"}))
    assert kind_of(tmp_path / "run/index") == "index" and "Not evaluated." in folder_card(tmp_path / "run/index", "k")
    with pytest.raises(ValueError, match="of the task 'partition'; give results of"):
        folder_card(tmp_path / "run", "run")
    with pytest.raises(SystemExit):
        main(["card", str(tmp_path / "moths")])
    assert "--force to replace it" in capsys.readouterr().err


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no card: it holds none of library.json, index.json"):
        kind_of(tmp_path)
