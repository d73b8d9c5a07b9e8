"""What the page is made of: sources of each kind, names for photos, clusters of embeddings, faults as words."""

from collections import Counter

import gradio as gr
import pytest
from photo_world import encoder, rows_of

from bioscan_hf.app import words
from bioscan_hf.app.clusters import Found, compared
from bioscan_hf.app.clusters_tab import bins, new_species, summary, suspects
from bioscan_hf.app.names import FILES, Namer, write_files
from bioscan_hf.app.page import make_page, open_parts
from bioscan_hf.cli.main import main
from bioscan_hf.identification.embeddings import EmbeddingLibrary
from bioscan_hf.identification.photos import photo_vectors
from bioscan_hf.schema import LABEL_COLUMNS


def test_photos_are_named_by_a_library_of_photos(dataset, tmp_path):
    rows = rows_of(dataset, "train+val")
    vectors, _ = photo_vectors(encoder(), rows["photo"], rows["processid"])
    labels = {rank: rows[rank] for rank in LABEL_COLUMNS}
    photos = EmbeddingLibrary.from_embeddings(vectors, labels, ids=rows["processid"], encoder=encoder())
    files = []
    for number in (0, 5):
        files.append(tmp_path / f"{rows['processid'][number]}.jpg")
        files[-1].write_bytes(rows["photo"][number])
    files.append(tmp_path / "junk.png")
    files[-1].write_bytes(b"\x89PNG junk")
    answers, library, reads, title = Namer(photos=photos).names("", files, 0.95)
    assert answers["nearest"].to_pylist()[:2] == [rows["processid"][0], rows["processid"][5]]
    assert answers["status"].to_pylist()[2] == "unreadable" and reads is None and title == "Names of photos"
    page = write_files(tmp_path, answers, library, reads, title, 0.95)
    assert files[0].stem in page and all((tmp_path / name).is_file() for name in FILES)
    with pytest.raises(ValueError, match="This page names photos, not sequences"):
        Namer(photos=photos).names("ACGT", [], 0.95)


def test_what_a_visitor_cannot_mean_is_refused(library, tmp_path):
    namer = open_parts([str(library)]).namer
    for text, files, told in (
        ("ACGT", [tmp_path / "a.fasta"], "There are a text and a file"),
        ("", [tmp_path / "a.jpg"], "This page names sequences, not photos"),
        ("", [tmp_path / "a.fasta", tmp_path / "b.fasta"], "one file of sequences at a time"),
    ):
        with pytest.raises(ValueError, match=told):
            namer.names(text, files, 0.95)


def test_embeddings_are_clustered_when_the_page_starts(dataset, library, tmp_path, capsys):
    splits = ["--split", "test", "--split", "test_unseen"]
    main(["embed", str(dataset), str(tmp_path / "kmers"), "--model", "kmer:3", *splits, "--quiet"])
    parts = open_parts([str(library), str(dataset)], clusters=tmp_path / "kmers")
    found = parts.clusters
    assert sum(found.sizes.values()) == found.results["specimens"] > 20 and "canvas" in found.map
    assert found.results["chosen"][0]["by"] == "silhouette" and "data:image/jpeg" in found.map
    assert "clusters" in summary(found) and isinstance(make_page(parts), gr.Blocks)
    with pytest.raises(ValueError, match="give the dataset that was embedded"):
        open_parts([str(library)], clusters=tmp_path / "kmers")


def test_tables_of_clusters(clusters):
    folder, wrong = clusters
    found = Found.read(folder)
    assert wrong in suspects(found) and found.new and all(len(ids) >= 3 for ids in found.members.values())
    assert next(iter(found.members.values()))[0] in new_species(found)
    assert "BINs are exactly one cluster" in bins(found)


def test_clusters_and_bins_of_a_small_example():
    """A is one cluster, B two, and cluster 2 holds B and C; the noise and a specimen without a BIN do not count."""
    found = compared([0, 0, 1, 2, 2, -1, 3], ["A", "A", "B", "B", "C", "A", None])
    assert (found.equal, found.without) == (1, 1)
    assert found.split == {"B": Counter({1: 1, 2: 1})} and found.joined == {2: Counter({"B": 1, "C": 1})}


def test_a_dataset_alone_gets_a_library(dataset, monkeypatch):
    from bioscan_hf.identification import library as module

    monkeypatch.setattr(module, "ASKED", 40)
    said = []
    parts = open_parts([str(dataset)], say=said.append)
    assert len(parts.namer.sequences) == parts.collection.rows == 400
    assert "bioscan-hf references" in said[0] and parts.namer.example().count(">") == 4


def test_a_fault_is_words_without_its_details(caplog):
    def broken(value):
        raise TypeError(f"secret /path of {value}")

    page, other = words.told(broken, 2)("x")
    assert words.FAULT in page and "secret" not in page and other == gr.skip()
    assert "secret" in caplog.text

    def wrong(value):
        raise ValueError("Give <b>\nanother.")

    assert "Give &lt;b&gt; another." in words.told(wrong, 1)("x")[0]


def test_a_page_without_parts_says_how_to_give_them():
    from bioscan_hf.app.page import Parts

    page = make_page(Parts(Namer()))
    texts = " ".join(str(block.value) for block in page.blocks.values() if isinstance(block, gr.HTML))
    assert "bioscan-hf references" in texts and "Start it with a dataset" in texts and "bioscan-hf cluster" in texts
