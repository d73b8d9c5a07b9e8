"""What a trainer starts from: names of models and datasets, with a revision or without."""

import pytest
import torch
from clibd_runs import make_folder
from datasets import Dataset
from tiny import BERT, tiny_bert

from bioscan_hf.models.tokenization_kmer import KmerTokenizer
from bioscan_hf.training import inputs
from bioscan_hf.training.clibd import data as clibd
from bioscan_hf.training.clibd.options import ClibdOptions


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Folders of the models of a Hub, and what was asked for."""
    tiny_bert().save_pretrained(tmp_path / "bert")
    KmerTokenizer(k=BERT["k"], max_nucleotides=BERT["max_nucleotides"]).save_pretrained(tmp_path / "bert")
    make_folder(tmp_path / "clibd")
    asked = []

    def snapshot_download(name, revision, ignore_patterns):
        asked.append((name, revision))
        return str(tmp_path / name.split("/")[1])

    monkeypatch.setattr(inputs, "snapshot_download", snapshot_download)
    return asked


def test_models_are_loaded_at_their_revision(hub, tmp_path):
    """A model, its tokenizer, a CLIBD model, and the encoders of a new one."""
    config, tokenizer = inputs.load_tokenizer("ann/bert@v1.0", ["barcodebert"])
    assert (config.k, tokenizer.k) == (2, 2)
    model, processor = clibd.make_model(ClibdOptions("source", model="ann/clibd@v2"))
    assert model.config.projection_dim == processor.dna_tokenizer.k * 4 == 16
    made, _ = clibd.make_model(ClibdOptions("source", image_encoder="new:test_vit", dna_encoder="ann/bert@main"))
    weights = [getattr(part, "base_model", part).state_dict() for part in (made.dna_model, tiny_bert())]
    name = "embeddings.word_embeddings.weight"
    assert torch.equal(weights[0][name], weights[1][name])
    assert hub == [("ann/bert", "v1.0"), ("ann/clibd", "v2"), ("ann/bert", "main")]
    (tmp_path / "mine@home").mkdir()
    assert inputs.pinned(str(tmp_path / "mine@home")) == str(tmp_path / "mine@home")
    assert inputs.pinned("ann/bert") == "ann/bert" and len(hub) == 3
    with pytest.raises(FileNotFoundError, match="neither an existing folder nor a Hub id"):
        inputs.pinned("no/such/folder")


def test_datasets_are_loaded_at_their_revision(monkeypatch):
    asked = []

    def load_bioscan5m(source, split, revision, **how):
        asked.append((source, split, revision, how))
        return Dataset.from_dict({"dna_barcode": ["ACGT"]})

    monkeypatch.setattr(inputs, "load_bioscan5m", load_bioscan5m)
    for source in ("ann/BIOSCAN-5M@v1.0", "ann/BIOSCAN-5M"):
        assert len(inputs.load_rows(source, "train", ranks=["genus"])) == 1
    assert asked == [("ann/BIOSCAN-5M", "train", revision, {"ranks": ["genus"]}) for revision in ("v1.0", None)]
