"""All that is to be looked at of a clustering is written, of a built dataset with its photos."""

import json
import re

import numpy as np
from datasets import Dataset, Features, Image, Value

from bioscan_hf.clustering import output as clustering_output
from bioscan_hf.clustering.output import SpecimenPhotos, write_output
from bioscan_hf.dataset.load import load_bioscan5m
from bioscan_hf.schema import LABEL_COLUMNS


def data_of(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_everything_is_written(dataset, tmp_path, monkeypatch):
    """Pictures, page and tables; photos in the order of the specimens, not of the dataset; a drawn page says so."""
    data = load_bioscan5m(dataset, "dna", "test+test_unseen", columns=["processid", *LABEL_COLUMNS])
    order = np.random.default_rng(0).permutation(len(data))
    data = data.select(order)
    labels = {rank: data[rank][:] for rank in LABEL_COLUMNS} | {"family": [None] * len(data)}
    ids = data["processid"][:]
    photos = SpecimenPhotos(dataset, "cropped_256", "test+test_unseen", [*ids, "nobody"])
    own = load_bioscan5m(dataset, "cropped_256", "all", columns=["processid", "image"])
    first = own.filter(lambda name: name == ids[0], input_columns="processid")
    assert photos[-1] is None and len(photos) == len(ids) + 1
    assert photos[0] == first.with_format("arrow")[:]["image"].to_pylist()[0]["bytes"]
    x = np.random.default_rng(1).normal(size=(len(ids), 5))
    results = {"made up": {"metrics": {"order": {"ami": 0.5}}}}
    arguments = (results, np.arange(len(ids)) % 3, labels, ids, x)
    paths = write_output(tmp_path, *arguments, photos=photos[:-1], reducer="pca")
    assert (
        {path.name for path in paths}
        == {path.name for path in tmp_path.iterdir()}
        >= {
            "ami_by_rank.png",
            "map_order.png",
            "map_species.png",
            "map.html",
            "cluster_report.csv",
        }
    )
    assert "map_family.png" not in {path.name for path in paths}, "a rank without a name has no map"
    page = data_of(tmp_path / "map.html")
    assert page["processids"] == ids and all(page["photos"])
    monkeypatch.setattr(clustering_output, "MOST_SPECIMENS", 7)
    write_output(tmp_path, *arguments, photos=photos[:-1], reducer="pca", title="Made up")
    page = data_of(tmp_path / "map.html")
    assert len(page["processids"]) == 7 and page["photos"] is None
    assert f"Made up: 7 of {len(ids)}, drawn by chance" in (tmp_path / "map.html").read_text()


def test_without_a_name_at_any_rank_there_is_the_rest(tmp_path):
    """A rank without names is no fault: no figure, no maps, and the pictures of an earlier clustering are gone."""
    x = np.random.default_rng(0).normal(size=(6, 3))
    labels = {rank: [None] * 6 for rank in LABEL_COLUMNS}
    results = {"made up": {"metrics": {rank: {"ami": None} for rank in LABEL_COLUMNS}}}
    ids = np.array([0, 0, 0, 1, 1, -1])
    (tmp_path / "map_order.png").write_bytes(b"earlier")
    paths = write_output(tmp_path, results, ids, labels, list("abcdef"), x, reducer="pca")
    assert {path.name for path in paths} == {path.name for path in tmp_path.iterdir()}
    assert {path.name for path in paths} == {
        *("map.html", "cluster_report.csv", "likely_mislabelled.csv", "cluster_report_rules.json")
    }
    only_phylum = labels | {"phylum": ["Arthropoda"] * 6}
    results["made up"]["metrics"]["phylum"]["ami"] = 0.0  # which the figure does not show
    write_output(tmp_path, results, ids, only_phylum, list("abcdef"), x, reducer="pca")
    assert not list(tmp_path.glob("*.png"))
    noise = write_output(tmp_path, results, np.full(6, -1), labels, list("abcdef"), x, reducer="pca")
    assert "-1,6," in noise[1].read_text()


def test_a_specimen_without_a_photo_has_none(monkeypatch):
    """A null among the photos, or a specimen that the source lacks."""
    rows = {"processid": ["a", "b"], "image": [{"bytes": b"x", "path": None}, None]}
    data = Dataset.from_dict(rows, Features({"processid": Value("string"), "image": Image()}))
    monkeypatch.setattr(clustering_output, "load_bioscan5m", lambda *_, **__: data)
    assert list(SpecimenPhotos("made up", "cropped_256", "test", ["b", "a", "c"])) == [None, b"x", None]
