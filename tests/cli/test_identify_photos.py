"""Photos in the commands references, identify and publish."""

import base64
import csv
import io
import json
import re
import shutil
import subprocess

import pytest
from clibd_runs import make_folder
from photo_world import part, rows_of
from PIL import Image

from bioscan_hf.cli.main import main
from bioscan_hf.clustering.map import THUMBNAIL
from bioscan_hf.identification import thumbnails

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


def run(capsys, *command):
    main([*map(str, command), "--json"])
    return json.loads(capsys.readouterr().out)


def fails(capsys, *command):
    with pytest.raises(SystemExit) as stopped:
        main([*map(str, command)])
    assert stopped.value.code in (1, 2)
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def world(dataset, tmp_path_factory):
    """A CLIBD model, libraries of photos and of sequences by it, a folder of photos and a table of specimens."""
    folder = tmp_path_factory.mktemp("photos")
    clibd = make_folder(folder / "clibd", ("image", "dna"))
    rows = part(rows_of(dataset, "test"), range(6))
    (folder / "photos" / "more").mkdir(parents=True)
    lines = [["id", "photo", "sequence"]]
    for i, (name, photo) in enumerate(zip(rows["processid"], rows["photo"], strict=True)):
        file = f"photos/{'more/' if i > 3 else ''}{name}.jpg"
        (folder / file).write_bytes(photo if i else photo[:200])
        lines.append([name, file if i != 1 else "", rows["dna_barcode"][i] if i != 2 else ""])
    with open(folder / "specimens.csv", "w", newline="") as file:
        csv.writer(file).writerows(lines)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bioscan_hf.identification.library.ASKED", 60)
        main(["references", str(dataset), str(folder / "sequences"), "--split", "train", "--quiet"])
    made = ["--config", "cropped_256", "--model", str(clibd), "--split", "train", "--quiet"]
    main(["references", str(dataset), str(folder / "library"), *made])
    return {"folder": folder, "clibd": clibd, "rows": rows, "library": folder / "library"}


def read(path):
    with open(path, newline="") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def test_a_folder_of_photos_is_named(world, tmp_path, capsys):
    output, ids = tmp_path / "names.csv", world["rows"]["processid"]
    command = ["identify", world["folder"] / "photos", output, "--references", world["library"]]
    assert "needs its encoder of photos, 'clibd'" in fails(capsys, *command)
    found = run(capsys, *command, "--model", world["clibd"])
    names = read(output)
    assert set(names) == {*ids[:4], *(f"more/{name}" for name in ids[4:])}
    assert names[ids[0]]["status"] == "unreadable" and names[ids[0]]["order"] == ""
    assert all(row["order"] and row["similarity"] for name, row in names.items() if name != ids[0])
    assert found["sequences"] == 6 and found["status"]["unreadable"] == 1
    main([*map(str, command), "--model", str(world["clibd"]), "--force", "--krona", str(tmp_path / "krona.txt")])
    told = capsys.readouterr().out
    assert "6 photos, by the deepest sure name:" in told and "1 unreadable" in told
    assert (tmp_path / "krona.txt").exists()
    assert "--sample-column is for sequences" in fails(capsys, *command, "--force", "--sample-column", "x")


def data_of(path):
    page = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def test_a_page_shows_photos(world, tmp_path, capsys, monkeypatch):
    """Small photos beside their names, none for the one that is unreadable; their bytes have a limit, which the page
    tells."""
    output, page = tmp_path / "names.csv", tmp_path / "names.html"
    command = ["identify", world["folder"] / "photos", output, "--references", world["library"], "--html", page]
    command += ["--model", world["clibd"], "--force"]
    run(capsys, *command)
    data, names = data_of(page), read(output)
    assert data["id"] == list(names) and "strips" not in data and "strand" not in data
    for i, photo in enumerate(data["photos"]):
        assert (photo is None) == (names[data["id"][i]]["status"] == "unreadable")
        if photo is not None:
            assert max(Image.open(io.BytesIO(base64.b64decode(photo))).size) == THUMBNAIL
    assert sum(photo is None for photo in data["photos"]) == 1
    nearest = [data["nearest"]["names"][code] if code >= 0 else "" for code in data["nearest"]["codes"]]
    assert nearest == [row["nearest"] for row in names.values()]
    if BROWSER is not None:
        shown = shown_in_browser(page, tmp_path)
        assert shown.count('<img class="small"') == 5 and "6 photos." in shown and ">Photos</h2>" in shown
    monkeypatch.setattr(thumbnails, "MOST_BYTES", sum(len(photo or "") for photo in data["photos"][:3]))
    run(capsys, *command)
    assert data_of(page)["photos"] == data["photos"][:3]
    if BROWSER is not None:
        assert "The first 3 photos are shown." in shown_in_browser(page, tmp_path)


def shown_in_browser(page, folder):
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    command += ["--virtual-time-budget=5000", "--dump-dom", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=300).stdout


def test_photos_and_sequences_of_a_table_are_joined(world, tmp_path, capsys):
    """By a library of each; where one is missing, the other names."""
    output, ids = tmp_path / "names.csv", world["rows"]["processid"]
    command = ["identify", world["folder"] / "specimens.csv", output, "--model", world["clibd"]]
    libraries = ["--references", world["folder"] / "sequences", "--references", world["library"]]
    run(capsys, *command, *libraries)
    rows = read(output)
    expected = ["sequence", "sequence", "photo", *["sequence and photo"] * 3]
    assert [rows[name]["evidence"] for name in ids] == expected
    assert [rows[name]["photo_status"] for name in ids] == ["unreadable", "no_photo", "ok", "ok", "ok", "ok"]
    assert rows[ids[2]]["note"].startswith("named by the photo alone") and rows[ids[1]]["nearest"]
    assert [rows[name]["species"] for name in ids[3:]] == world["rows"]["species"][3:]
    run(capsys, *command, *libraries, "--force", "--html", tmp_path / "names.html")
    data = data_of(tmp_path / "names.html")
    assert [photo is None for photo in data["photos"]] == [True, True, False, False, False, False]
    assert [data["evidence"]["names"][code] for code in data["evidence"]["codes"]] == expected
    assert "compared with photos" in data["about"]["notes"][0] and data["strand"]["names"]
    run(capsys, *command[:3], *libraries[:2], "--force")
    assert "evidence" not in read(output)[ids[0]] and read(output)[ids[2]]["status"] == "empty"


def test_photos_of_a_table_that_do_not_exist_are_told(world, tmp_path, capsys):
    """A photo that is not found is told, also beside a read. "NA" and an empty cell mean that there is no photo."""
    names = world["rows"]["processid"]
    barcodes, there = world["rows"]["dna_barcode"], world["folder"] / "photos" / f"{names[1]}.jpg"
    cells = [f" {there} ", "lost/a.jpg", "lost/b.jpg", "NA", ""]
    lines = [",".join(row) for row in zip(names, cells, barcodes, strict=False)]
    (tmp_path / "table.csv").write_text("\n".join(["id,photo,sequence", *lines]))
    command = ["identify", tmp_path / "table.csv", tmp_path / "names.csv", "--model", world["clibd"]]
    main(
        [*map(str, command), "--references", str(world["folder"] / "sequences"), "--references", str(world["library"])]
    )
    told = capsys.readouterr().out
    assert f"2 photos do not exist, such as '{tmp_path / 'lost/a.jpg'}'. Paths in a table are relative" in told
    found = read(tmp_path / "names.csv")
    assert [found[name]["photo_status"] for name in names[:5]] == ["ok", *["no_photo"] * 4]


def test_a_dataset_is_named_by_another_split(dataset, world, tmp_path, capsys):
    """Both libraries are made of the references; photos are named by barcodes with --keys dna."""
    output = tmp_path / "names.csv"
    command = ["identify", dataset, output, "--references", dataset, "--split", "train", "--source-split", "test"]
    made = ["--config", "cropped_256", "--model", world["clibd"], "--keys", "dna"]
    found = run(capsys, *command, *made)
    assert set(read(output)) == set(rows_of(dataset, "test", photos=False)["processid"])
    assert found["deepest_rank"].keys() >= {"order", "species"}


def test_a_dataset_is_named_by_the_kinds_of_its_libraries(dataset, world, tmp_path, capsys):
    """Its photos by a library of photos, its barcodes by one of sequences, both by both."""
    output = tmp_path / "names.csv"
    ids = rows_of(dataset, "test", photos=False)["processid"]
    command = ["identify", dataset, output, "--source-split", "test", "--force"]
    photos = ["--references", world["library"], "--model", world["clibd"]]
    sequences = ["--references", world["folder"] / "sequences"]
    run(capsys, *command, *photos)
    rows = read(output)
    assert list(rows) == ids and all(row["similarity"] and "identity" not in row for row in rows.values())
    run(capsys, *command, *sequences)
    rows = read(output)
    assert list(rows) == ids and all("identity" in row and "similarity" not in row for row in rows.values())
    run(capsys, *command, *sequences, *photos)
    rows = read(output)
    assert list(rows) == ids and "sequence and photo" in {row["evidence"] for row in rows.values()}


def test_what_does_not_fit_is_told(dataset, world, tmp_path, capsys):
    photos, output = world["folder"] / "photos", tmp_path / "names.csv"
    sequences = world["folder"] / "sequences"
    told = fails(capsys, "identify", photos, output, "--references", sequences)
    assert "Photos are named by a library of photos: make one by" in told
    assert "Photos need an encoder" in fails(capsys, "identify", photos, output, "--references", dataset)
    reads = tmp_path / "x.fasta"
    reads.write_text(">a\n" + "ACGT" * 50 + "\n")
    told = fails(capsys, "identify", reads, output, "--references", world["library"], "--model", world["clibd"])
    assert "is a library of photos: it names photos, not sequences" in told
    assert (
        "needs an encoder" in fails(capsys, "references", dataset, tmp_path / "x", "--config", "cropped_256") or True
    )
    assert not output.exists()
