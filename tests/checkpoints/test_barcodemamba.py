"""Conversion of published BarcodeMamba checkpoints: Lightning's files, as the published code writes them.

No published file can be had here, and mamba_ssm needs CUDA, so the files are made: keys and options are those of the
published code, and the weights those of our model, which is tested against the definition.
"""

import sys
import types

import pytest
import torch
import yaml

from bioscan_hf import KmerTokenizer
from bioscan_hf.checkpoints.barcodebert import convert_checkpoint
from bioscan_hf.checkpoints.safe_load import Inert, load_checkpoint
from bioscan_hf.encoders.barcode_encoders import load_encoder
from bioscan_hf.encoders.batches import embed_barcodes, inference
from bioscan_hf.models.configuration_barcodemamba import PUBLISHED, BarcodeMambaConfig
from bioscan_hf.models.modeling_barcodemamba import (
    BarcodeMambaForMaskedLM,
    BarcodeMambaForSequenceClassification,
    BarcodeMambaModel,
)

SIZE = {"hidden_size": 16, "num_hidden_layers": 2, "head_dim": 8, "state_size": 4, "k": 2}

#: Our key -> the published one.
RENAMED = (
    ("backbone.embeddings.", "backbone.embeddings.word_embeddings."),
    ("backbone.norm_f.", "backbone.ln_f."),
    (".fc1.", ".mlp.fc1."),
    (".fc2.", ".mlp.fc2."),
    ("taxon_classifier.", "head.output_transform."),
    ("classifier.", "head."),
)


def published_keys(model):
    """The weights of our model under the published keys."""
    state = {}
    for key, value in model.state_dict().items():
        for ours, theirs in RENAMED:
            if key.startswith(ours) or (ours.startswith(".") and ours in key):
                key = key.replace(ours, theirs)
                break
        state[f"model.{key}"] = value
    return state


def our_model(cls=BarcodeMambaForMaskedLM, **options):
    torch.manual_seed(0)
    model = cls(BarcodeMambaConfig(**PUBLISHED | SIZE | options)).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def options_of_hydra():
    return {
        "model": {"d_model": 16, "n_layer": 2, "vocab_size": "${tokenizer.vocab_size}", "n_classes": None},
        "dataset": {"max_len": 60, "phase": "pretrain", "pretrain_method": "ntp", "__l_max": "${.max_len}"},
        "tokenizer": {"name": "k_mer", "k_mer": 2, "stride": "${.k_mer}", "use_unk_token": True},
    }


class Config:
    """Stands for the classes of omegaconf, which Lightning pickles as hyper-parameters."""

    def __init__(self):
        self.content = {"d_model": 16}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Folder of a run of hydra: `checkpoints/last.ckpt` with omegaconf's classes in it, and `.hydra/config.yaml`."""
    for name, kind in (("dictconfig", "DictConfig"), ("base", "ContainerMetadata"), ("nodes", "AnyNode")):
        module = types.ModuleType(f"omegaconf.{name}")
        setattr(module, kind, type(kind, (Config,), {"__module__": module.__name__, "__qualname__": kind}))
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))

    def write(model, options=None):
        content = {
            "epoch": 3,
            "global_step": 100,
            "pytorch-lightning_version": "2.3.0",
            "state_dict": published_keys(model) | {"train_perplexity.count": torch.tensor(3)},
            "loops": {"fit_loop": {"state_dict": {}}},
            "hyper_parameters": sys.modules["omegaconf.dictconfig"].DictConfig(),
            "metadata": [sys.modules["omegaconf.base"].ContainerMetadata(), sys.modules["omegaconf.nodes"].AnyNode()],
        }
        path = tmp_path / "run/checkpoints/last.ckpt"
        path.parent.mkdir(parents=True)
        torch.save(content, path)
        (tmp_path / "run/.hydra").mkdir()
        (tmp_path / "run/.hydra/config.yaml").write_text(yaml.safe_dump(options or options_of_hydra()))
        return path

    return write


def test_lightning_file_of_kmers(run, tmp_path):
    """Every weight bit for bit, sizes and maximum length of the run, and the embedding over all positions."""
    model = our_model(max_nucleotides=60, intermediate_size=64)
    path = run(model)
    assert isinstance(load_checkpoint(path)["hyper_parameters"], Inert)
    made = convert_checkpoint(path, tmp_path / "out")
    again = BarcodeMambaForMaskedLM.from_pretrained(made)
    fields = again.config.to_diff_dict()
    assert {key: fields[key] for key in fields if key not in ("architectures", "dtype")} == model.config.to_diff_dict()
    state = again.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    tokenizer = KmerTokenizer.from_pretrained(made)
    assert (tokenizer.k, tokenizer.vocabulary, tokenizer.max_nucleotides) == (2, "barcodemamba", 60)
    batch = tokenizer("ACGTACGTAC", return_tensors="pt")
    output = BarcodeMambaModel.from_pretrained(made)(**batch)
    assert batch["input_ids"].shape == (1, 30) and (output.last_hidden_state.mean(1) == output.pooler_output).all()


def test_embeddings_of_a_converted_model(run, tmp_path):
    """`embed` gives the mean over all 30 positions of each barcode, whatever else is in the batch."""
    made = convert_checkpoint(run(our_model(max_nucleotides=60)), tmp_path / "out")
    model, processor = load_encoder(str(made))
    barcodes = ["ACGTACGTAC", "ACGT" * 15, "", "GG"]
    with inference(model):
        vectors, valid = embed_barcodes(model, processor, barcodes)
        batch = processor(barcodes, return_tensors="pt")
        hidden = model(batch["input_ids"]).last_hidden_state.mean(1)
    assert valid.tolist() == [True, True, False, True] and not vectors[2].any()
    for row in (0, 1, 3):
        assert abs(vectors[row] - hidden[row].numpy()).max() < 1e-5


def test_single_nucleotides(run, tmp_path):
    """8 tokens: no run needs to tell that they are single nucleotides."""
    model = our_model(vocabulary="barcodemamba-char", k=1, max_nucleotides=60)
    options = options_of_hydra()
    options["tokenizer"] = {"name": "char", "characters": ["A", "C", "G", "T", "N"]}
    options["dataset"]["pretrain_method"] = "mlm"
    made = convert_checkpoint(run(model, options), tmp_path / "out")
    config = BarcodeMambaConfig.from_pretrained(made)
    assert (config.vocabulary, config.k, config.vocab_size, config.objective) == ("barcodemamba-char", 1, 8, "masked")
    assert KmerTokenizer.from_pretrained(made)("ACGTN")["input_ids"][-5:] == [3, 4, 5, 6, 7]


def test_fine_tuned_head(run, tmp_path):
    """The mean over all positions and a linear layer; its classes have no names in the file."""
    model = our_model(BarcodeMambaForSequenceClassification, num_labels=3, max_nucleotides=60)
    path = run(model)
    made = convert_checkpoint(path, tmp_path / "out", labels=["a", "b", "c"])
    again = BarcodeMambaForSequenceClassification.from_pretrained(made)
    assert again.config.id2label == {0: "a", 1: "b", 2: "c"}
    batch = KmerTokenizer.from_pretrained(made)(["ACGTACGTAC", "GGCC"], return_tensors="pt")
    logits = again(**batch).logits
    assert torch.equal(logits, model(**batch).logits)
    hidden = again.backbone(**batch).last_hidden_state.mean(1)
    assert torch.allclose(logits, again.taxon_classifier(hidden), atol=1e-6)
    with pytest.raises(ValueError, match="has 3 classes, but 2 labels were given"):
        convert_checkpoint(path, tmp_path / "other", labels=["a", "b"])


def test_weights_alone_are_enough(tmp_path):
    """Without options: 660 nucleotides, the next k-mer is predicted."""
    state = {key.removeprefix("model."): value for key, value in published_keys(our_model()).items()}
    config = BarcodeMambaConfig.from_pretrained(convert_checkpoint(state, tmp_path / "out"))
    assert (config.max_nucleotides, config.objective, config.k, config.block) == (660, "next", 2, "published")
    assert (config.num_heads, config.head_dim, config.state_size, config.intermediate_size) == (4, 8, 4, 64)


@pytest.mark.parametrize(
    ("section", "changed", "message"),
    [
        ("model", {"d_model": 384}, "contradict its config: d_model is 16, the config says 384"),
        ("tokenizer", {"k_mer": 6, "stride": 2}, "contradict its config: k_mer is 2, the config says 6"),
        ("tokenizer", {"stride": 1}, "uses overlapping k-mers, or k-mers with N"),
        ("tokenizer", {"use_unk_token": False}, "uses overlapping k-mers, or k-mers with N"),
    ],
)
def test_options_of_another_run_are_refused(run, tmp_path, section, changed, message):
    options = options_of_hydra()
    options[section] |= changed
    with pytest.raises(ValueError, match=message):
        convert_checkpoint(run(our_model(), options), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_wrong_weights_are_named(tmp_path):
    def refused(message, change, **options):
        state = published_keys(our_model())
        change(state)
        with pytest.raises(ValueError, match=message):
            convert_checkpoint({"state_dict": state}, tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()

    first = "model.backbone.layers.0."
    refused("missing are backbone.layers.0.norm2.bias; unexp", lambda state: state.pop(f"{first}norm2.bias"))
    refused("has no backbone.layers.0.fc1.weight", lambda state: state.pop(f"{first}mlp.fc1.weight"))
    refused("unexpected are strange.x", lambda state: state.update({"model.strange.x": torch.zeros(1)}))
    refused("it has no classes", lambda state: None, labels=["a"])
    words = "model.backbone.embeddings.word_embeddings.weight"
    refused("has 100 tokens: neither", lambda state: state.update({words: torch.zeros(100, 16)}))
    refused("do not fit: width 16", lambda state: state.update({f"{first}mixer.dt_bias": torch.zeros(5)}))


def test_a_config_that_is_not_yaml(run, tmp_path):
    path = run(our_model())
    config = path.parents[1] / ".hydra/config.yaml"
    config.write_text("a: [")
    with pytest.raises(ValueError, match="config.yaml' is not a YAML file"):
        convert_checkpoint(path, tmp_path / "out")
    config.write_text("a" * (2**20 + 1))
    with pytest.raises(ValueError, match="has more than 1,048,576 bytes"):
        convert_checkpoint(path, tmp_path / "out")
