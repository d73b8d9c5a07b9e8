"""Reading folders of embeddings: those of earlier versions, of several modalities, and without loading all of them."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from bioscan_hf.encoders import stored
from bioscan_hf.encoders.embed import embed
from bioscan_hf.encoders.kmers import kmer_encoder
from bioscan_hf.encoders.stored import folder_of, load_embeddings, modalities_of
from bioscan_hf.evaluation.specimens import load_specimens

OLD = Path(__file__).parents[1] / "fixtures/old_embeddings"
EXPECTED = json.loads((OLD / "expected.json").read_text())
RANKS = list(EXPECTED["specimens"]["labels"])


def table(n=7):
    """Barcodes of which row 2 is missing and row 4 has no k-mer, with a label."""
    rows = ["ACGT" * (i + 1) for i in range(n)]
    rows[2], rows[4] = None, "N"
    columns = {"processid": [f"P{i}" for i in range(n)], "dna_barcode": rows}
    return pa.table({**columns, "genus": ["Apis", None, "Bombus", "Apis", "Apis", None, "Apis"][:n]})


def test_embeddings_of_version_0_1_are_read():
    """Values, order and validity equal those that the version itself read."""
    found, expected = load_embeddings(OLD / "barcodes"), EXPECTED["barcodes"]
    np.testing.assert_array_equal(found.embeddings, np.array(expected["embeddings"], np.float32))
    assert found.processids == expected["processids"] and found.valid.tolist() == expected["valid"]
    assert len(found) == 7 and found.dim == 4 and found.columns == {} and found.embeddings.dtype == np.float32
    assert modalities_of(OLD / "barcodes") == []


def test_specimens_of_version_0_1_are_read():
    """All three modalities, as `Specimens` and one at a time; missing ones are zero and not valid."""
    if int(pa.__version__.split(".")[0]) < 26:  # it cannot read vectors that are null
        with pytest.raises(ValueError, match="specimens-.* needs pyarrow 26 or newer"):
            load_specimens(OLD / "specimens").embeddings["image"]
        return
    found, expected = load_specimens(OLD / "specimens"), EXPECTED["specimens"]
    assert found.ids == expected["ids"] and dict(found.labels) == expected["labels"]
    assert list(found.embeddings) == ["image", "dna", "text"]
    for name, vectors in expected["embeddings"].items():
        one = load_embeddings(OLD / "specimens", name)
        for embeddings, valid in ((found.embeddings[name], found.present[name]), (one.embeddings, one.valid)):
            np.testing.assert_array_equal(embeddings, np.array(vectors, np.float32))
            assert valid.tolist() == expected["present"][name] and not valid.all()
        assert one.processids == expected["ids"] and one.columns == expected["labels"]
    for name in ("sound", None):
        with pytest.raises(ValueError, match=f"has embeddings of image, dna, text, but not of {name!r}"):
            load_embeddings(OLD / "specimens", name)


def test_folder_of_several_modalities(tmp_path):
    """A subfolder for each; the same specimens in all, or an error."""
    encoder = kmer_encoder(1)
    for name, rows in (("dna", table()), ("text", table(6))):
        data = rows
        for rank in RANKS:
            if rank not in data.column_names:
                data = data.append_column(rank, pa.nulls(len(rows), pa.string()))
        embed(*encoder, data, output=tmp_path / name, keep=RANKS, missing="invalid")
    assert modalities_of(tmp_path) == ["dna", "text"]
    assert folder_of(tmp_path, "dna") == tmp_path / "dna" and folder_of(tmp_path, "image") == tmp_path
    assert len(load_embeddings(tmp_path, "text")) == 6
    with pytest.raises(ValueError, match="has other specimens for 'text' than for 'dna'"):
        load_specimens(tmp_path)
    with pytest.raises(FileNotFoundError, match="has no manifest.json of embeddings of image, dna, text"):
        load_specimens(tmp_path / "dna")


def test_kept_columns_and_missing_values(tmp_path):
    """Rows without a value are zero and not valid, in memory and on disk; labels come back, also a column of nulls."""
    encoder = kmer_encoder(1)
    with pytest.raises(ValueError, match="^2 of 7 rows have no value of 'dna_barcode': P2, P4"):
        embed(*encoder, table())
    for output in (None, tmp_path):
        found = embed(*encoder, table(), output=output, shard_size=2, keep=["genus"], missing="invalid")
        assert found.valid.tolist() == [True, True, False, True, False, True, True]
        assert found.columns == {"genus": table()["genus"].to_pylist()}
        assert (found.embeddings[~found.valid] == 0).all() and (found.embeddings[found.valid] == 0.5).all()
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert (manifest["encoder"], manifest["column"], manifest["keep"]) == ("kmer:1", "dna_barcode", ["genus"])
    other = table().set_column(2, "genus", pa.array(["Osmia"] * 7))
    with pytest.raises(ValueError, match="What differs: dataset"):
        embed(*encoder, other, output=tmp_path, shard_size=2, keep=["genus"], missing="invalid")
    with pytest.raises(ValueError, match="No row has a value of 'dna_barcode'"):
        embed(*encoder, table().slice(2, 1), missing="invalid")
    with pytest.raises(ValueError, match="missing='skip' is unknown. Choose error, invalid, drop"):
        embed(*encoder, table(), missing="skip")
    with pytest.raises(ValueError, match="no column 'family'"):
        embed(*encoder, table(), keep=["family"])


def test_own_models_keep_columns_too():
    """A model that is not an `Encoder` reads the barcodes, whatever else is kept."""
    model = torch.nn.Module()
    model.forward = lambda codes: SimpleNamespace(pooler_output=codes)
    rows = table().set_column(1, "dna_barcode", pa.array(["A" * (i + 1) for i in range(7)]))
    found = embed(model, lambda texts: {"codes": np.array([[len(text)] for text in texts])}, rows, keep=["genus"])
    assert found.columns == {"genus": table()["genus"].to_pylist()}
    assert found.embeddings.ravel().tolist() == [1, 2, 3, 4, 5, 6, 7]


def test_a_shard_without_any_value_has_the_width_of_the_others(tmp_path):
    rows = table().slice(2, 3)  # missing, a barcode, N
    found = embed(*kmer_encoder(2), rows, output=tmp_path, shard_size=1, missing="invalid")
    assert found.embeddings.shape == (3, 16) and found.valid.tolist() == [False, True, False]


def test_writing_reads_nothing_back(tmp_path, monkeypatch):
    """A run over many shards never has all of the vectors in memory: they are read on first use, once."""
    read, original = [], pq.read_table
    monkeypatch.setattr(stored.pq, "read_table", lambda *a, **k: read.append(k["columns"]) or original(*a, **k))
    rows = table().filter(pa.array([True, True, False, True, True, True, True]))
    found = embed(*kmer_encoder(1), rows, output=tmp_path, shard_size=2, missing="invalid")
    assert (len(found), found.dim) == (6, 4) and read == []
    assert found.valid.sum() == 5 and read == [["valid"]] * 3
    assert found.embeddings is found.embeddings and read[3:] == [["embedding"]] * 3


def test_a_shard_of_another_length_is_refused(tmp_path):
    rows = table().filter(pa.array([True, True, False, True, True, True, True]))
    embed(*kmer_encoder(1), rows, output=tmp_path, shard_size=2, missing="invalid")
    shards = sorted(tmp_path.glob("*.parquet"))
    pq.write_table(pq.read_table(shards[1]).slice(0, 1), shards[1])
    with pytest.raises(ValueError, match="00001-of-00003.parquet' has 1 instead of 2 rows"):
        load_embeddings(tmp_path)
