"""Conversion of BarcodeMAE and BarcodeMAE+: encoders, whole models, tokenizers of byte pairs."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

import bioscan_hf.auto  # noqa: F401
from bioscan_hf import BarcodeBertConfig, BarcodeBertModel, KmerTokenizer
from bioscan_hf.checkpoints.barcodebert import convert_checkpoint
from bioscan_hf.checkpoints.bpe import bpe_tokenizer
from bioscan_hf.checkpoints.safe_load import load_checkpoint
from bioscan_hf.encoders.barcode_encoders import load_encoder
from bioscan_hf.models.modeling_barcodemae import BarcodeMaeForPreTraining


@pytest.fixture(scope="module")
def folder(reference):
    return reference / "barcodemae"


@pytest.fixture(scope="module")
def arrays(folder):
    return {name: torch.from_numpy(value) for name, value in np.load(folder / "maelm.npz").items()}


@pytest.fixture(scope="module")
def bpe(folder):
    return (folder / "bpe_barcode_128/tokenizer.json").parent


def test_published_encoder(folder, arrays, tmp_path, caplog):
    """The encoder alone, and with it the published embeddings of six barcodes."""
    made = convert_checkpoint(folder / "checkpoint_maelm.pt", tmp_path / "out")
    assert "The pooler of" in caplog.text and "was never trained" in caplog.text
    model, config = AutoModel.from_pretrained(made), json.loads((made / "config.json").read_text())
    assert type(model) is BarcodeBertModel and config["architectures"] == ["BarcodeBertModel"]
    expected = {"k": 3, "vocabulary": "barcodebert", "max_nucleotides": 120, "num_attention_heads": 2}
    expected |= {"pretraining": "mae", "training_data": "BIOSCAN-5M", "pooling": "masked_mean"}
    assert {key: config[key] for key in expected} == expected
    tokenizer = AutoTokenizer.from_pretrained(made)
    sequences = folder.json("maelm.json")["sequences"]
    barcodes = list(sequences.values()) if isinstance(sequences, dict) else sequences
    batch = tokenizer(barcodes, return_tensors="pt")
    assert (batch["input_ids"] == arrays["ids"]).all() and (batch["attention_mask"] == arrays["attention_mask"]).all()
    found = model(**batch)
    assert (found.pooler_output - arrays["embeddings/masked_mean"]).abs().max() < 1e-5
    assert (found.last_hidden_state - arrays["embeddings/last_hidden"]).abs().max() < 1e-5
    unmasked = AutoModel.from_pretrained(made, pooling="mean")(**batch).pooler_output
    assert (unmasked - arrays["embeddings/finetuning_mean_of_all"]).abs().max() < 1e-5, "the mean of fine-tuning"


HEADS = {"encoder": 2, "decoder": 4}


def whole(content, output):
    """The model of a whole state, which has no options."""
    return BarcodeMaeForPreTraining.from_pretrained(convert_checkpoint(content, output, num_attention_heads=HEADS))


def test_whole_model(folder, arrays, tmp_path):
    """The published logits of masked k-mers; the same folder opens as the encoder alone."""
    model = whole(folder / "tiny_maelm.pt", tmp_path / "out")
    mask = arrays["attention_mask"].long()
    logits, expected = model(arrays["masked_ids"].long(), mask).logits, arrays["v2/logits"]
    attended, rows = mask[: len(expected)] == 1, len(expected)
    assert (logits[:rows, :, 2:][attended] - expected[attended]).abs().max() < 1e-5
    encoder = AutoModel.from_pretrained(tmp_path / "out")
    hidden = encoder(arrays["ids"].long(), mask).last_hidden_state
    expected = arrays["encoder_whole/last_hidden"]
    assert (hidden[mask == 1] - expected[mask == 1]).abs().max() < 1e-5


def test_decoder_of_another_width(folder, arrays, tmp_path):
    """The encoder is projected to 8 columns; the published numbers are those of the baseline, which sees [MASK]."""
    model = whole(folder / "tiny_maelm_narrow_decoder.pt", tmp_path / "out")
    assert model.projection.out_features == model.config.decoder_hidden_size == 8
    mask = arrays["attention_mask"].long()
    hidden = model.bert(arrays["masked_ids"].long(), mask).last_hidden_state
    logits = model._predict(model._decode(model.projection(hidden), mask))
    expected = arrays["narrow_baseline/logits"]
    attended, rows = mask[: len(expected)] == 1, len(expected)
    assert (logits[:rows, :, 2:][attended] - expected[attended]).abs().max() < 1e-5


@pytest.mark.parametrize("state", ["before", "after"])
def test_states_of_training(folder, tmp_path, state):
    """Every weight but those that are not used: the pooler, and the decoder's words other than that of [MASK]."""
    content = load_checkpoint(folder / "train_states.pt")[state]
    model = whole(content, tmp_path / "out")
    found = {key: value for key, value in model.state_dict().items()}
    for key, value in content.items():
        if not key.startswith("encoder.pooler."):
            ours = key.replace("decoder.bert.", "decoder.").replace("decoder.classifier.", "decoder_head.")
            ours = ours.replace("projection_layer.", "projection.")
            ours = f"bert.{key.removeprefix('encoder.')}" if key.startswith("encoder.") else ours
            expected = value[:1] if ours == "decoder.embeddings.word_embeddings.weight" else value
            assert torch.equal(found.pop(ours), expected), key
    assert not found


def small(rows, **options):
    """A checkpoint of an encoder with so many tokens."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=rows,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=128,
    )
    weights = {f"module.{key}": value for key, value in BertModel(config).state_dict().items()}
    trained = {"tokenizer": "kmer", "k_mer": 2, "stride": 2, "max_len": 60, "arch": "maelm"} | options
    return {"model": weights, "bert_config": config.to_dict(), "config": trained}


def test_the_cls_token_is_told_by_the_options_and_not_by_the_size(tmp_path):
    """BarcodeMAE+ has as many tokens as the models of 2023: 4**k + 3."""
    made = convert_checkpoint(small(19, use_cls_token=True), tmp_path / "plus")
    config = BarcodeBertConfig.from_pretrained(made)
    assert (config.vocabulary, config.pooling, config.pretraining) == ("barcodebert-cls", "cls", "mae")
    tokenizer = KmerTokenizer.from_pretrained(made)
    batch = tokenizer("ACGT", return_tensors="pt")
    assert batch["input_ids"][0, :4].tolist() == [2, 3 + 1, 3 + 11, 1]
    model = AutoModel.from_pretrained(made)
    output = model(**batch)
    assert torch.equal(output.pooler_output, output.last_hidden_state[:, 0])
    with pytest.raises(ValueError, match="has 19 tokens, which fits no k from 1 to 8 of barcodebert or barcodebert-n"):
        convert_checkpoint(small(19), tmp_path / "out")
    with pytest.raises(ValueError, match="has 18 tokens, which fits no k from 1 to 8 of barcodebert-cls"):
        convert_checkpoint(small(18, use_cls_token=True), tmp_path / "out")


def test_byte_pairs_have_the_published_ids(folder, bpe, tmp_path):
    """Also of barcodes that are cut, which lose their [SEP]; saved, and loaded without this package's classes."""
    cases = folder.json("bpe_cases.json")
    published = cases["tokenizers"]["bpe_barcode_128"]["cases"]
    tokenizer = bpe_tokenizer(bpe, 128)
    tokenizer.save_pretrained(tmp_path)
    for loaded in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        assert len(loaded) == 128
        for name, barcode in cases["sequences"].items():
            batch = loaded(barcode, padding="max_length", truncation=True)
            if barcode:  # an empty barcode is [CLS] alone
                n = published[name]["n"]
                assert batch["input_ids"] == published[name]["ids"] + [1] * (128 - n), name
                assert batch["attention_mask"] == [1] * n + [0] * (128 - n), name
    assert sum(case["n"] == 128 for case in published.values()) == 1, "one is cut"


def test_encoder_of_byte_pairs(bpe, tmp_path):
    """A BERT with its tokenizer; `hf:` embeds the mean of all tokens, [CLS] and [SEP] too, as published."""
    content = small(128, tokenizer="bpe", k_mer=6, stride=6, max_len=64, dataset_name="BIOSCAN-5M")
    made = convert_checkpoint(content, tmp_path / "out", bpe_tokenizer=bpe)
    config = json.loads((made / "config.json").read_text())
    assert (config["model_type"], config["pretraining"], config["training_data"]) == ("bert", "mae", "BIOSCAN-5M")
    model, processor = load_encoder(f"hf:{made}")
    barcode = "ACGCGCTGACGCATCAGCATACGA"
    found = model(**processor([barcode, "A"]))
    ids = torch.tensor([[2, 19, 44, 44, 17, 19, 44, 22, 27, 113, 7, 5, 3]])
    plain = BertModel(BertConfig.from_dict(content["bert_config"]))
    plain.load_state_dict({key.removeprefix("module."): value for key, value in content["model"].items()})
    expected = plain.eval()(ids).last_hidden_state.mean(1)
    assert (found.pooler_output[0] - expected[0]).abs().max() < 1e-5


def test_wrong_arguments(folder, bpe, tmp_path):
    def refused(message, content, **options):
        with pytest.raises(ValueError, match=message):
            convert_checkpoint(content, tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()

    refused("has 18 tokens, but the tokenizer 128: give its own", small(18, tokenizer="bpe"), bpe_tokenizer=bpe)
    refused("trained with the tokenizer 'bpe', which the file does not have", small(128, tokenizer="bpe"))
    refused("was trained on k-mers, so it takes no tokenizer", small(18), bpe_tokenizer=bpe)
    refused("is a BarcodeMAE: it has no classes", small(18), labels=["a"])
    refused("is not a CLIBD model: adapters and text tokenizers are for CLIBD", small(18), adapters="keep")
    refused("give the heads of encoder and decoder, not of image", small(18), num_attention_heads={"image": 2})
    content = small(18)
    content["model"]["classifier.weight"] = torch.zeros(2, 16)
    refused("do not make a BarcodeBertModel: .*unexpected are classifier.weight", content)
    state = torch.load(folder / "tiny_maelm.pt", weights_only=True)
    refused("has no number of attention heads of its decoder", state, num_attention_heads=2)
    contrary = small(18, k_mer=3, stride=3)
    refused("contradict its config: k is 2, the config says 3", contrary)
    bert = {"bert.embeddings.word_embeddings.weight": torch.zeros(18, 16)}
    refused("is not a BarcodeMAE, which alone takes a BPE tokenizer", bert, bpe_tokenizer=bpe)
    with pytest.raises(FileNotFoundError, match="Give the folder of a tokenizer of BarcodeMAE"):
        bpe_tokenizer(tmp_path, 128)
    KmerTokenizer(2).save_pretrained(tmp_path / "kmers")
    with pytest.raises(ValueError, match="is not a tokenizer of BarcodeMAE"):
        bpe_tokenizer(tmp_path / "kmers", 128)
