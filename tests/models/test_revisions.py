"""Every loader takes a revision and a cache folder: two revisions of each repository, in a cache, offline."""

import shutil

import numpy as np
import pytest
import torch
from tiny import CLIBD_SIZES, text_tokenizer, tiny_bert, tiny_clibd
from transformers import AutoImageProcessor, BertConfig, BertModel, ViTConfig, ViTModel

from bioscan_hf.encoders.barcode_encoders import load_encoder
from bioscan_hf.encoders.cnn import BarcodeCnn, BarcodeCnnConfig
from bioscan_hf.encoders.image_encoders import load_image_encoder
from bioscan_hf.hub.pipelines import open_index
from bioscan_hf.models.lora import add_lora, load_lora
from bioscan_hf.models.modeling_barcodebert import BarcodeBertModel
from bioscan_hf.models.modeling_clibd import ClibdModel
from bioscan_hf.models.processing_clibd import make_image_processor
from bioscan_hf.models.tokenization_kmer import KmerTokenizer
from bioscan_hf.search.index import build_index, save_index

REVISIONS = {"v1": "1" * 40, "v2": "2" * 40}


def store(cache, save, name="tester/tiny", kind="models"):
    """Writes both revisions of a repository into a cache: `save(folder, number)`."""
    root = cache / f"{kind}--{name.replace('/', '--')}"
    shutil.rmtree(root, ignore_errors=True)
    (root / "refs").mkdir(parents=True)
    for number, (revision, commit) in enumerate(REVISIONS.items(), start=1):
        (root / "refs" / revision).write_text(commit)
        (root / "snapshots" / commit).mkdir(parents=True)
        save(root / "snapshots" / commit, number)
    return name


def filled(model, number):
    """The model with its first weight set to a number."""
    with torch.no_grad():
        next(model.parameters()).fill_(number)
    return model


def saved(model, *more):
    def save(folder, number):
        filled(model, number).save_pretrained(folder)
        for part in more:
            part.save_pretrained(folder)

    return save


def first(model):
    return next(model.parameters()).flatten()[-1].item()


@pytest.mark.parametrize("revision", REVISIONS)
def test_every_loader_takes_a_revision(revision, tmp_path):
    number = int(revision[1])
    where = {"revision": revision, "cache_dir": tmp_path}
    name = store(tmp_path, saved(tiny_bert(BarcodeBertModel), KmerTokenizer(2, max_nucleotides=24)))
    assert first(load_encoder(name, **where)[0]) == number
    towers = ClibdModel.from_pretrained_towers(dna=name, revisions={"dna": revision}, cache_dir=tmp_path)
    assert first(towers.dna_model) == number
    name = store(tmp_path, saved(BertModel(BertConfig(vocab_size=140, **CLIBD_SIZES)), text_tokenizer()))
    assert first(load_encoder(f"hf:{name}", **where)[0]) == number
    name = store(tmp_path, saved(BarcodeCnn(BarcodeCnnConfig(id2label={0: "a", 1: "b"}))))
    assert first(load_encoder(f"cnn:{name}", **where)[0]) == number
    vit = ViTModel(ViTConfig(image_size=32, patch_size=8, **CLIBD_SIZES))
    name = store(tmp_path, saved(vit, make_image_processor(32)))
    assert first(load_image_encoder(f"hf:{name}", **where)[0]) == number
    assert AutoImageProcessor.from_pretrained(name, **where).crop_size["height"] == 32
    with pytest.raises(ValueError, match="timm:resnet10t.*loaded by timm, without revision"):
        load_image_encoder("timm:resnet10t", revision=revision)
    with pytest.raises(OSError, match="No model at 'tester/tiny'"):
        load_encoder(name, revision="v3", cache_dir=tmp_path)


@pytest.mark.parametrize("revision", REVISIONS)
def test_adapters_and_indexes_take_a_revision(revision, tmp_path):
    pytest.importorskip("peft")
    where = {"revision": revision, "cache_dir": tmp_path}

    def adapter(folder, number):
        add_lora(tiny_clibd("dna"), r=number).save_pretrained(folder)

    adapted = load_lora(tiny_clibd("dna"), store(tmp_path, adapter), **where)
    assert adapted.peft_config["default"].r == int(revision[1])

    def index(folder, number):
        save_index(build_index(np.eye(4, dtype=np.float32)[:number], {"species": ["a", "b"][:number]}), folder)

    found = open_index(store(tmp_path, index, kind="datasets"), **where)
    assert len(found) == int(revision[1])
