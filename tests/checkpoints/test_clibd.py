"""Conversion of published CLIBD checkpoints to folders with the published embeddings."""

import json
import math

import numpy as np
import pytest
import torch
from transformers import BertTokenizer

from bioscan_hf.checkpoints.barcodebert import convert_checkpoint
from bioscan_hf.models.lora import load_lora
from bioscan_hf.models.modeling_clibd import ClibdModel
from bioscan_hf.models.processing_clibd import ClibdProcessor
from bioscan_hf.models.spelling import spell

PUBLISHED = ("best_lora", "best_lora_oldnames", "best_disable_lora", "best_disable_lora_oldnames")


@pytest.fixture
def clibd(reference):
    return reference / "clibd"


@pytest.fixture
def weights(clibd):
    """A small published checkpoint with adapters in all three encoders."""
    return torch.load(clibd / "best_lora.pth", weights_only=True)


def inputs(clibd):
    numbers = np.load(clibd / "encoders.npz")
    keys = {"pixel_values": "in_image", "dna_input_ids": "in_dna"}
    keys |= {f"text_{name}": f"in_text_{name}" for name in ("input_ids", "attention_mask", "token_type_ids")}
    return {ours: torch.from_numpy(numbers[key]) for ours, key in keys.items()}


def furthest(model, clibd, kind):
    """Largest difference of the model's embeddings from the published ones."""
    expected = np.load(clibd / "encoders.npz")
    with torch.no_grad():
        output = model.eval()(**inputs(clibd))
    pairs = [(output[f"{key}_embeds"], expected[f"{kind}/{key}"]) for key in ("image", "dna", "text")]
    return max(float((found - torch.from_numpy(published)).abs().max()) for found, published in pairs)


def converted(weights, folder, **options):
    return ClibdModel.from_pretrained(convert_checkpoint(weights, folder, num_attention_heads=4, **options))


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("adapters", ["merge", "keep"])
def test_published_checkpoints_give_the_published_embeddings(name, adapters, clibd, tmp_path):
    """Unit vectors and temperature, with merged and with separate adapters."""
    if adapters == "keep":
        pytest.importorskip("peft")
    model = converted(clibd / f"{name}.pth", tmp_path / "out", adapters=adapters)
    assert {file.suffix for file in (tmp_path / "out").iterdir() if file.is_file()} <= {".json", ".safetensors", ".py"}
    assert model.logit_scale().item() == pytest.approx(14.285714149475098, abs=1e-6)
    kind = name.removeprefix("best_").removesuffix("_oldnames")
    if adapters == "keep":
        assert furthest(model, clibd, kind) > 1e-3, "without the adapters it is another model"
        model = load_lora(model, tmp_path / "out" / "adapter", trainable=False)
    assert furthest(model, clibd, kind) < 2e-6


def test_published_behaviour_is_in_the_config(clibd, tmp_path):
    model = converted(clibd / "best_lora.pth", tmp_path / "out")
    config = model.config
    assert (config.dna_pooling, config.dna_attend_to_padding) == ("softmax_mean", True)
    assert (config.text_pooling, config.logit_scale_max, config.projection_dim) == ("mean", None, 24)
    assert (config.dna_config.k, config.dna_config.vocabulary, config.dna_config.max_tokens) == (5, "clibd", 133)
    arguments = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4}
    assert config.image_config.model_args == arguments
    processor = ClibdProcessor.from_pretrained(tmp_path / "out")
    assert processor.image_size == 32
    assert list(processor.image_processor.image_mean) == [0, 0, 0]
    assert list(processor.image_processor.image_std) == [1, 1, 1]
    assert (processor.text_template, processor.text_max_length, processor.text_padding) == (
        "published",
        20,
        "max_length",
    )


def test_tokens_of_barcodes_and_of_text(clibd, tmp_path):
    """The processor of the folder gives the published ids of barcodes and, with its tokenizer, of text."""
    words = BertTokenizer(vocab=str(clibd / "tiny_vocab.txt"))
    convert_checkpoint(clibd / "best_lora.pth", tmp_path / "out", num_attention_heads=4, text_tokenizer=words)
    processor = ClibdProcessor.from_pretrained(tmp_path / "out")
    cases = json.loads((clibd / "dna_tokens.json").read_text())["cases"]
    assert len(cases) == 8
    # The published tokens of lower-case letters are unknown; here they are those of upper-case letters.
    known = [case for case in cases.values() if case["seq"] and spell(case["seq"]) == case["seq"]]
    assert len(known) > 4
    assert processor(dna=[case["seq"] for case in known])["dna_input_ids"].tolist() == [case["ids"] for case in known]
    for case in cases.values():
        assert processor.dna_tokenizer(case["seq"]) == processor.dna_tokenizer(spell(case["seq"]))
    for case in known:
        assert processor.dna_tokenizer(case["seq"])["input_ids"] == case["ids"]
    taxonomy = {"order": "Diptera", "family": "Famaidae", "genus": "Gena", "species": "Gena species1"}
    assert processor(text=[taxonomy])["text_input_ids"].shape == (1, 20)


@pytest.mark.parametrize("layout", ["module", "state_dict", "no temperature", "no position_ids", "no adapters"])
def test_other_layouts(layout, weights, clibd, tmp_path):
    """Checkpoints of several processes, and of other versions of the code and of transformers."""
    if layout == "module":
        weights = {f"module.{key}": value for key, value in weights.items()}
    elif layout == "state_dict":
        weights = {"epoch": 3, "state_dict": weights}
    elif layout == "no temperature":  # the first version
        del weights["logit_scale"]
    elif layout == "no position_ids":
        weights = {key: value for key, value in weights.items() if not key.endswith("position_ids")}
        assert len(weights) == 142
    else:
        weights = without_adapters(weights)
        assert len(weights) == 144 - 2 * 4 - 4 * 2 * 2
    torch.save(weights, tmp_path / "best.pth")
    model = converted(tmp_path / "best.pth", tmp_path / "out")
    assert model.logit_scale().item() == pytest.approx(math.exp(math.log(1 / 0.07)), rel=1e-6)
    assert (furthest(model, clibd, "lora") < 2e-6) == (layout != "no adapters")


def without_adapters(weights):
    """The checkpoint without adapters: layers have their plain names."""
    plain = {}
    for key, value in weights.items():
        if ".linear_" not in key and ".w_a." not in key and ".w_b." not in key:
            for name in ("query", "value"):
                key = key.replace(f"{name}.w.", f"{name}.")
            plain[key.replace("qkv.qkv.", "qkv.")] = value
    return plain


@pytest.mark.parametrize("modalities", [("image", "dna"), ("image", "text")], ids="+".join)
def test_two_modalities(modalities, weights, clibd, tmp_path):
    """The other published models: missing modalities are missing in model and processor."""
    begins = {"image": "image_encoder.", "dna": "dna_encoder.", "text": "language_encoder."}
    kept = tuple(begins[modality] for modality in modalities)
    weights = {key: value for key, value in weights.items() if key.startswith(kept) or key == "logit_scale"}
    model = converted(weights, tmp_path / "out")
    assert model.config.modalities == modalities
    given = {key: value for key, value in inputs(clibd).items() if not key.startswith("text_")}
    expected = np.load(clibd / "encoders.npz")["lora/image"]
    found = model.get_image_features(given["pixel_values"]).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_the_checkpoint_of_224_pixels(clibd, tmp_path):
    """Adapters only in the photo encoder, as in the published full fine-tuning; patches of 32 pixels.

    The photos of the reference numbers are rounded to half precision, hence the tolerance.
    """
    model = converted(clibd / "tiny224.pth", tmp_path / "out")
    assert model.config.image_config.model_args["patch_size"] == 32
    assert "img_size" not in model.config.image_config.model_args
    assert ClibdProcessor.from_pretrained(tmp_path / "out").image_size == 224
    numbers = np.load(clibd / "dataset.npz")
    given = {
        key: torch.from_numpy(numbers[f"eval/b0/{key}"]) for key in ("image", "dna", "input_ids", "attention_mask")
    }
    with torch.no_grad():
        output = model(given["image"].float(), given["dna"], None, given["input_ids"], given["attention_mask"])
    for ours, theirs in (("image", "image"), ("dna", "dna"), ("text", "language")):
        expected = numbers[f"features/encoded_{theirs}_feature"][:3]
        np.testing.assert_allclose(output[f"{ours}_embeds"], expected, atol=2e-5)


def test_given_weights_do_not_change(weights, tmp_path):
    before = {key: value.clone() for key, value in weights.items()}
    converted(weights, tmp_path / "out")
    assert all(torch.equal(value, before[key]) for key, value in weights.items())


# ---- errors ---------------------------------------------------------------------------------------------------------


def refused(weights, folder, message, **options):
    with pytest.raises(ValueError, match=message):
        convert_checkpoint(weights, folder / "out", **{"num_attention_heads": 4} | options)
    assert not (folder / "out").exists()


IMAGE, DNA = "image_encoder.base_image_encoder.", "dna_encoder.base_dna_encoder."
TEXT = "language_encoder.base_language_encoder."


def test_all_missing_and_unexpected_keys_are_named(weights, tmp_path):
    del weights[f"{IMAGE}norm.weight"], weights[f"{DNA}cls.predictions.transform.dense.bias"]
    del weights[f"{IMAGE}blocks.0.attn.qkv.linear_b_v.weight"], weights["language_encoder.proj.bias"]
    weights[f"{TEXT}extra"] = weights["classifier.weight"] = weights[f"{DNA}cls.seq_relationship.bias"] = torch.ones(1)
    refused(
        weights,
        tmp_path,
        "missing are image_model.timm_model.norm.weight, dna_projection.transform.dense.bias, text_projection.bias, "
        "value_b of the adapter of image_model.timm_model.blocks.0.attn.qkv; "
        "unexpected are classifier.weight, dna_encoder.base_dna_encoder.cls.seq_relationship.bias, text_model.extra; "
        "of other shapes are none",
    )


def test_weights_of_other_shapes_are_all_named(weights, tmp_path):
    weights[f"{IMAGE}head.bias"] = torch.zeros(25)
    weights[f"{DNA}cls.predictions.decoder.weight"] = torch.zeros(23, 32)
    weights[f"{DNA}bert.encoder.layer.0.attention.self.query.w_a.weight"] = torch.zeros(3, 32)
    refused(
        weights,
        tmp_path,
        r"shapes are image_projection.bias is \(25,\), not \(24,\); dna_projection.decoder.weight is \(23, 32\), not "
        r"\(24, 32\); a of the adapter of dna_model.encoder.layer.0.attention.self.query is \(3, 32\)",
    )


def test_weights_that_give_the_shape_are_required(weights, tmp_path):
    absent = {key: value for key, value in weights.items() if "pos_embed" not in key and key != "dna_encoder.x"}
    refused(absent, tmp_path, "is not a CLIBD model: missing .* are image_model.timm_model.pos_embed")
    refused({"image_encoder.vit.x": torch.ones(1)}, tmp_path, "all encoders; unexpected are image_encoder.vit.x")
    refused(weights, tmp_path, "has no number of attention heads.* image encoder, 32", num_attention_heads=None)
    refused(weights, tmp_path, "5 attention heads were given for dna", num_attention_heads={"image": 4, "dna": 5})
    gap = {key.replace("blocks.1.", "blocks.7."): value for key, value in weights.items()}
    refused(gap, tmp_path, r"has the encoder layers image_model.timm_model.blocks.\{0, 7\}; they must be numbered")
    tokens = weights | {f"{DNA}bert.embeddings.word_embeddings.weight": torch.zeros(1000, 32)}
    refused(tokens, tmp_path, "has 1000 tokens, which fits no k from 1 to 8")
    positions = weights | {f"{IMAGE}pos_embed": torch.zeros(1, 16, 32)}
    refused(positions, tmp_path, "has 16 positions of photos")


def test_other_errors(weights, clibd, tmp_path):
    twice = weights | {"image_encoder.lora_vit.norm.bias": weights[f"{IMAGE}norm.bias"]}
    refused(twice, tmp_path, "has the weight image_encoder.lora_vit.norm.bias twice")
    refused(weights | {"open_clip_model.x": torch.ones(1)}, tmp_path, "has encoders of open_clip")
    refused(weights, tmp_path, "is a CLIBD model: it has no classes", labels=["a"])
    refused(weights, tmp_path, "Unknown adapters 'both'", adapters="both")
    refused(without_adapters(weights), tmp_path, "has no adapters to keep", adapters="keep")
    bert = {"bert.embeddings.word_embeddings.weight": torch.zeros(18, 32)}
    refused(bert, tmp_path, "is not a CLIBD model: adapters and text tokenizers are for CLIBD", adapters="keep")
    refused(bert, tmp_path, "is a BarcodeBERT model: heads by modality", num_attention_heads={"dna": 2})


def test_attention_heads_of_published_sizes(clibd, tmp_path):
    """Published widths have heads of 64 columns: here one layer of 512 with 8 heads."""
    from bioscan_hf.models.configuration_clibd import ClibdConfig

    small = {"hidden_size": 512, "num_hidden_layers": 1, "num_attention_heads": 8, "intermediate_size": 16}
    config = ClibdConfig(
        dna_config=small | {"k": 2, "vocabulary": "clibd", "max_nucleotides": 100}, dna_pooling="softmax_mean"
    )
    state = ClibdModel(config).state_dict()
    names = {"dna_model.": f"{DNA}bert.", "dna_projection.": f"{DNA}cls.predictions."}
    weights = {}
    for key, value in state.items():
        for ours, theirs in names.items():
            if key.startswith(ours):
                weights[key.replace(ours, theirs, 1)] = value
    model = ClibdModel.from_pretrained(convert_checkpoint(weights, tmp_path / "out"))
    assert model.config.dna_config.num_attention_heads == 8 and model.config.modalities == ("dna",)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items() if "scale" not in key)
