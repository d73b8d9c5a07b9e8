"""Every file of a clustering is written, from a built dataset with its photos."""

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, Image, Value

from bioscan_hf.clustering import output as clustering_output
from bioscan_hf.clustering.output import SpecimenPhotos, write_output
from bioscan_hf.clustering.protocol import JoinedSpecimens
from bioscan_hf.dataset.load import load_bioscan5m
from bioscan_hf.schema import LABEL_COLUMNS


def data_of(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


def specimens_of(processids, labels, embeddings):
    splits = ["test"] * len(processids)
    return JoinedSpecimens(processids, {"dna": embeddings.astype(np.float32)}, labels, splits, {}, {})


def results_of(**amis):
    metrics = {rank: {"ami": ami} for rank, ami in amis.items()}
    return {"dna": {"metrics": metrics, "options": {"normalization": "none"}, "seeds": [0]}}


def write_clusters(folder, clusters):
    pq.write_table(pa.table({"cluster": np.asarray(clusters)}), folder / "clusters.parquet")


def written(folder):
    return {path.name for path in folder.iterdir()} - {"clusters.parquet"}


def test_everything_is_written(dataset, tmp_path, monkeypatch):
    """Figures, page and tables; photos in the order of the specimens, not of the dataset; a sampled page says so."""
    data = load_bioscan5m(dataset, "dna", "test+test_unseen", columns=["processid", *LABEL_COLUMNS])
    order = np.random.default_rng(0).permutation(len(data))
    data = data.select(order)
    labels = {rank: data[rank][:] for rank in LABEL_COLUMNS} | {"family": [None] * len(data)}
    ids = data["processid"][:]
    photos = SpecimenPhotos(dataset, "cropped_256", "test+test_unseen", ids)
    own = load_bioscan5m(dataset, "cropped_256", "all", columns=["processid", "image"])
    first = own.filter(lambda name: name == ids[0], input_columns="processid")
    assert len(photos) == len(ids) and photos[0] == first.with_format("arrow")[:]["image"].to_pylist()[0]["bytes"]
    specimens = specimens_of(ids, labels, np.random.default_rng(1).normal(size=(len(ids), 5)))
    write_clusters(tmp_path, np.arange(len(ids)) % 3)
    paths = write_output(tmp_path, results_of(order=0.5), specimens, photos=photos, reducer="pca")
    names = {"ami_by_rank.png", "map_order.png", "map_species.png", "map.html", "cluster_report.csv"}
    assert {path.name for path in paths} == written(tmp_path) >= names
    assert "map_family.png" not in written(tmp_path), "a rank without a name has no map"
    page = data_of(tmp_path / "map.html")
    assert page["processids"] == ids and all(page["photos"])
    clusters = next(column for column in page["columns"] if column["title"] == "cluster")
    assert [clusters["names"][i] for i in clusters["of"]] == [str(i % 3) for i in range(len(ids))]
    monkeypatch.setattr(clustering_output, "MOST_SPECIMENS", 7)
    write_output(tmp_path, results_of(order=0.5), specimens, photos=photos, reducer="pca")
    page = data_of(tmp_path / "map.html")
    assert len(page["processids"]) == 7 and page["photos"] is None
    assert f"Map of specimens: 7 of {len(ids)}, drawn at random" in (tmp_path / "map.html").read_text()


def test_without_a_name_at_any_rank_there_is_the_rest(tmp_path):
    """Without names there are no figure and no maps, and those of an earlier clustering are deleted."""
    x = np.random.default_rng(0).normal(size=(6, 3))
    labels = {rank: [None] * 6 for rank in LABEL_COLUMNS}
    results = results_of(**dict.fromkeys(LABEL_COLUMNS))
    (tmp_path / "map_order.png").write_bytes(b"earlier")
    write_clusters(tmp_path, [0, 0, 0, 1, 1, -1])
    paths = write_output(tmp_path, results, specimens_of(list("abcdef"), labels, x), reducer="pca")
    tables = {"cluster_report.csv", "likely_mislabelled.csv", "cluster_report_rules.json"}
    assert {path.name for path in paths} == written(tmp_path) == {"map.html", *tables}
    only_phylum = labels | {"phylum": ["Arthropoda"] * 6}
    results = results_of(**dict.fromkeys(LABEL_COLUMNS) | {"phylum": 0.0})  # the figure does not show the phylum
    write_output(tmp_path, results, specimens_of(list("abcdef"), only_phylum, x), reducer="pca")
    assert not list(tmp_path.glob("*.png"))
    write_clusters(tmp_path, [-1] * 6)
    noise = write_output(tmp_path, results, specimens_of(list("abcdef"), labels, x), reducer="pca")
    assert "-1,6," in noise[1].read_text()


def test_a_specimen_without_a_photo_has_none(monkeypatch):
    """A null photo, or a specimen that is not in the source."""
    rows = {"processid": ["a", "b"], "image": [{"bytes": b"x", "path": None}, None]}
    data = Dataset.from_dict(rows, Features({"processid": Value("string"), "image": Image()}))
    monkeypatch.setattr(clustering_output, "load_bioscan5m", lambda *_, **__: data)
    assert list(SpecimenPhotos("simulated", "cropped_256", "test", ["b", "a", "c"])) == [None, b"x", None]
