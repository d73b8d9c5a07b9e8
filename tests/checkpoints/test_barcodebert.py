"""Conversion of published BarcodeBERT checkpoints to folders for `from_pretrained`."""

import json
import pickle
import zipfile

import pytest
import torch

from bioscan_hf import (
    BarcodeBertConfig,
    BarcodeBertForMaskedLM,
    BarcodeBertForSequenceClassification,
    BarcodeBertModel,
    KmerTokenizer,
)
from bioscan_hf.checkpoints.barcodebert import convert_checkpoint

#: File -> (attention heads if the file does not have them, masked-LM head or None for a classifier, vocabulary).
PUBLISHED = {
    "A_new_single.pt": (None, "kmers", "barcodebert"),
    "B_new_ddp.pt": (None, "kmers", "barcodebert"),
    "C_finetune_single.pt": (None, None, "barcodebert"),
    "D_finetune_ddp.pt": (None, None, "barcodebert"),
    "E_bare_state_dict.pth": (4, "kmers", "barcodebert"),
    "F_workshop2023_ddp.pth": (4, "tied", "barcodebert-2023"),
    "F2_workshop2023_nomodule.pth": (4, "tied", "barcodebert-2023"),
    "G_new_ddp_tf429.pt": (None, "kmers", "barcodebert"),
}


def config(**more):
    return BarcodeBertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, k=2, **more
    )


@pytest.fixture
def weights():
    """Weights of a small masked language model, saved as by the published code."""
    torch.manual_seed(0)
    model = BarcodeBertForMaskedLM(config())
    return {"model": dict(model.state_dict()), "bert_config": model.config.to_dict()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_layout_converts_and_reloads_exactly(name, reference, tmp_path):
    """The folder has all weights of the file, bit for bit, under our names."""
    heads, mlm_head, vocabulary = PUBLISHED[name]
    path = reference / "barcodebert/checkpoints" / name
    folder = convert_checkpoint(path, tmp_path / "out", num_attention_heads=heads)
    assert {file.suffix for file in folder.iterdir()} <= {".json", ".safetensors", ".py"}
    head = BarcodeBertForSequenceClassification if mlm_head is None else BarcodeBertForMaskedLM
    model = head.from_pretrained(folder)
    assert (model.config.k, model.config.vocabulary, model.config.num_attention_heads) == (4, vocabulary, 4)
    assert model.config.pooling == ("mean" if mlm_head is None else "masked_mean")
    assert mlm_head is None or model.config.mlm_head == mlm_head

    original = torch.load(path, map_location="cpu", weights_only=False)  # a file of the reference numbers, not foreign
    original = original.get("model", original)
    state = model.state_dict()
    compared = 0
    for key, value in original.items():
        ours = key.removeprefix("module.").removeprefix("base_model.")
        if not ours.endswith("position_ids"):
            ours = ours.replace("classifier.", "taxon_classifier.") if mlm_head is None else ours
            assert torch.equal(state[ours], value), key
            compared += 1
    assert compared == len(state) > 30
    tokenizer = KmerTokenizer.from_pretrained(folder)
    assert (tokenizer.k, tokenizer.vocabulary) == (4, vocabulary)
    assert BarcodeBertModel.from_pretrained(folder)(**tokenizer("ACGTACGT", return_tensors="pt")).pooler_output.any()


#: Other files of weights in the fixtures -> key of the weights, k, and vocabulary.
WEIGHTS = {
    "tiny_k4.pt": ("state_dict", 4, "barcodebert"),
    "tiny_k5.pt": ("state_dict", 5, "barcodebert"),
    "tiny_workshop2023_mlm.pt": ("state_dict", 3, "barcodebert-2023"),
    "mlm_train.pt": ("after_3_steps", 4, "barcodebert"),
    "mlm_train_tokenizeN.pt": ("after_3_steps", 4, "barcodebert-n"),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_every_file_of_weights_converts(name, reference, tmp_path):
    """Bit for bit, with the heads of their config."""
    key, k, vocabulary = WEIGHTS[name]
    content = torch.load(reference / "barcodebert" / name, map_location="cpu", weights_only=True)
    given = {"model": content[key], "bert_config": content["bert_config"]}
    model = BarcodeBertForMaskedLM.from_pretrained(convert_checkpoint(given, tmp_path / "out"))
    assert (model.config.k, model.config.vocabulary) == (k, vocabulary)
    assert model.config.num_attention_heads == content["bert_config"]["num_attention_heads"]
    state = model.state_dict()
    for weight, value in content[key].items():
        if not weight.endswith("position_ids"):
            assert torch.equal(state[weight.removeprefix("module.")], value), weight


def test_training_data_is_in_the_config(reference, tmp_path):
    folder = convert_checkpoint(reference / "barcodebert/checkpoints/A_new_single.pt", tmp_path / "out")
    assert json.loads((folder / "config.json").read_text())["training_data"] == "CANADA-1.5M"


def test_labels_are_class_names(reference, tmp_path):
    path = reference / "barcodebert/checkpoints/C_finetune_single.pt"
    species = [f"Aus species{i}" for i in range(7)]
    model = BarcodeBertForSequenceClassification.from_pretrained(
        convert_checkpoint(path, tmp_path / "out", labels=species)
    )
    assert model.config.id2label == dict(enumerate(species))
    with pytest.raises(ValueError, match="has 7 classes, but 2 labels were given"):
        convert_checkpoint(path, tmp_path / "out2", labels=species[:2])


def test_content_as_dict_with_state_dict(weights, tmp_path):
    first = convert_checkpoint(weights, tmp_path / "a")
    second = convert_checkpoint(
        {"state_dict": weights["model"], "bert_config": weights["bert_config"]}, tmp_path / "b"
    )
    for folder in (first, second):
        state = BarcodeBertForMaskedLM.from_pretrained(folder).state_dict()
        assert all(torch.equal(state[key], value) for key, value in weights["model"].items())


def test_all_wrong_weights_are_named(weights, tmp_path):
    del weights["model"]["classifier.bias"], weights["model"]["bert.embeddings.LayerNorm.weight"]
    weights["model"]["bert.extra"] = torch.zeros(1)
    with pytest.raises(
        ValueError,
        match="do not make a BarcodeBertForMaskedLM: missing are bert.embeddings.LayerNorm.weight, classifier.bias; "
        "unexpected are bert.extra; of other shapes are none",
    ):
        convert_checkpoint(weights, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_contradictions_and_unknown_layouts(weights, tmp_path):
    bad = weights | {"bert_config": weights["bert_config"] | {"hidden_size": 32}}
    with pytest.raises(ValueError, match="contradict its config: hidden_size is 16, the config says 32"):
        convert_checkpoint(bad, tmp_path / "out")
    with pytest.raises(ValueError, match="is of an unknown layout.*Its keys begin with lora_vit.x"):
        convert_checkpoint({"lora_vit.x": torch.zeros(1)}, tmp_path / "out")
    with pytest.raises(ValueError, match="holds no weights"):
        convert_checkpoint({"epoch": 3}, tmp_path / "out")
    with pytest.raises(ValueError, match="has no number of attention heads.*16 columns and 1 layers"):
        convert_checkpoint(weights["model"], tmp_path / "out")
    words = {"bert.embeddings.word_embeddings.weight": torch.zeros(100, 16)}
    with pytest.raises(ValueError, match="has 100 tokens, which fits no k from 1 to 8"):
        convert_checkpoint(weights["model"] | words, tmp_path / "out")
    with pytest.raises(ValueError, match="is a masked language model: it has no classes"):
        convert_checkpoint(weights, tmp_path / "out", labels=["a"])


def test_attention_heads_of_published_sizes(tmp_path):
    """768 columns and 2 layers: as many heads as layers, as in every published size."""
    model = BarcodeBertForMaskedLM(
        BarcodeBertConfig(k=1, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=660)
    )
    folder = convert_checkpoint(dict(model.state_dict()), tmp_path / "out")
    assert BarcodeBertConfig.from_pretrained(folder).num_attention_heads == 2


def test_output_is_not_overwritten_and_missing_file_raises(weights, tmp_path):
    (tmp_path / "thesis.txt").write_text("")
    with pytest.raises(FileExistsError, match="is not empty. Give a new folder"):
        convert_checkpoint(weights, tmp_path)
    with pytest.raises(FileNotFoundError, match="No checkpoint at"):
        convert_checkpoint(tmp_path / "nothing.pt", tmp_path / "out")


class Malicious:
    """Writes a file if Python's pickle module loads it."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (exec, (f"open({str(self.target)!r}, 'w').write('gotcha')",))


def test_malicious_file_raises_and_does_not_run(weights, tmp_path):
    path, target = tmp_path / "evil.pt", tmp_path / "gotcha.txt"
    torch.save(weights | {"scheduler": Malicious(target)}, path)
    with zipfile.ZipFile(path) as file:
        name = next(name for name in file.namelist() if name.endswith("data.pkl"))
        assert b"exec" in file.read(name), "the file is not malicious"
    with pytest.raises(ValueError, match="is refused because it names 'builtins.exec'"):
        convert_checkpoint(path, tmp_path / "out")
    assert not target.exists() and not (tmp_path / "out").exists()
    pickle.loads(pickle.dumps(Malicious(target)))
    assert target.exists(), "pickle runs it"


def test_file_of_model_and_bert_config(weights, tmp_path):
    """A saved dict of weights ("model") and shape ("bert_config") is enough."""
    path = tmp_path / "mine.pt"
    torch.save(weights, path)
    model = BarcodeBertForMaskedLM.from_pretrained(convert_checkpoint(path, tmp_path / "out"))
    assert (model.config.num_attention_heads, model.config.k) == (2, 2)
    state = model.state_dict()
    assert state.keys() == weights["model"].keys()
    assert all(torch.equal(state[key], value) for key, value in weights["model"].items())


def test_wrong_k_prefix_and_layers_raise(weights, tmp_path):
    """Errors that a lenient reader would ignore."""
    output, model = tmp_path / "out", weights["model"]

    def refused(content, message):
        with pytest.raises(ValueError, match=message):
            convert_checkpoint(content, output)
        assert not output.exists()

    refused(weights | {"config": {"k_mer": 5, "stride": 5}}, "contradict its config: k is 2, the config says 5")
    other = weights["bert_config"] | {"vocab_size": 258}
    refused(weights | {"bert_config": other}, "vocab_size is 18, the config says 258")
    refused(weights | {"config": {"k_mer": 2, "stride": 1}}, "uses overlapping k-mers .stride 1.")
    refused(weights | {"config": [2]}, "'config' in .* is a list")
    refused(weights | {"bert_config": other | {"hidden_act": [["gelu"]]}}, "hidden_act must be numbers or names")
    prefixed = {f"encoder.{key}": value for key, value in model.items()}
    refused(weights | {"model": prefixed}, "is of an unknown layout: it has no bert.embeddings.word_embeddings.weight")
    twice = model | {"module.classifier.bias": torch.zeros(16)}
    refused(weights | {"model": twice}, "has the weight classifier.bias twice, with and without a prefix")
    layers = model | {"bert.encoder.layer.999999999999.x": torch.zeros(1)}
    refused(
        weights | {"model": layers},
        r"has the encoder layers bert.encoder.layer.\{0, 999999999999\}; they must be numbered from 0 on",
    )
    position = "bert.embeddings.position_embeddings.weight"
    absent = {key: value for key, value in model.items() if key != position}
    refused(weights | {"model": absent}, f"has no {position}, so its shape is unknown")
    reshaped = model | {"classifier.weight": torch.zeros(16, 8)}
    refused(weights | {"model": reshaped}, r"of other shapes are classifier.weight is \(16, 8\), not \(16, 16\)")
    unheaded = {f"base_model.{key}": value for key, value in model.items() if key.startswith("bert.")}
    refused(weights | {"model": unheaded}, "is a fine-tuned classifier without its classifier.weight")
