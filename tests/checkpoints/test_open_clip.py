"""Conversion of open_clip models to `ClibdModel`, with random weights."""

import pytest
import torch
from PIL import Image

from bioscan_hf.checkpoints.open_clip import convert_open_clip, load_open_clip
from bioscan_hf.models.configuration_barcodebert import BarcodeBertConfig
from bioscan_hf.models.modeling_barcodebert import BarcodeBertModel
from bioscan_hf.models.modeling_clibd import ClibdModel
from bioscan_hf.models.processing_clibd import ClibdProcessor

open_clip = pytest.importorskip("open_clip", reason="open_clip_torch is not installed")

VISION = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 32}
TEXT = {"context_length": 12, "vocab_size": 50, "width": 64, "heads": 2, "layers": 2}


def clip(quick_gelu=False, **vision):
    torch.manual_seed(0)
    model = open_clip.CLIP(16, VISION | vision, TEXT, quick_gelu=quick_gelu).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.05)  # no bias is zero, no scale is one
    return model


@pytest.mark.parametrize("quick_gelu", [False, True])
def test_same_embeddings(quick_gelu, tmp_path):
    """Photos, texts of several lengths, and the temperature, after saving and loading."""
    theirs = clip(quick_gelu)
    convert_open_clip(theirs).save_pretrained(tmp_path)
    ours = ClibdModel.from_pretrained(tmp_path)
    photos = torch.rand(3, 3, 32, 32)
    ids = torch.randint(1, 48, (3, 12))
    ids[0, 5], ids[1, 11], ids[2, 1] = 49, 49, 49
    ids[0, 6:] = 0
    with torch.no_grad():
        output = ours(photos, text_input_ids=ids)
        torch.testing.assert_close(output.image_embeds, theirs.encode_image(photos, normalize=True))
        torch.testing.assert_close(output.text_embeds, theirs.encode_text(ids, normalize=True))
        torch.testing.assert_close(output.logit_scale, theirs.logit_scale.exp())


def test_with_a_barcode_encoder():
    torch.manual_seed(0)
    dna = BarcodeBertModel(
        BarcodeBertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, k=2)
    )
    model = convert_open_clip(clip(), dna=dna)
    assert model.config.modalities == ("image", "dna", "text")
    assert all(torch.equal(value, dna.state_dict()[key]) for key, value in model.dna_model.state_dict().items())
    assert model.get_dna_features(torch.randint(2, 18, (2, 30))).shape == (2, 16)


def test_other_encoders_raise():
    with pytest.raises(ValueError, match="pooled by 'avg'"):
        convert_open_clip(clip(pool_type="avg"))
    with pytest.raises(ValueError, match="unexpected are .*ls_1.gamma"):
        convert_open_clip(clip(ls_init_value=0.1))


def test_load_with_its_processor(tmp_path, monkeypatch):
    """Tokens, resize and normalization are those of open_clip, after saving and loading."""
    config = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT | {"context_length": 77, "vocab_size": 49408}}
    monkeypatch.setattr(open_clip, "create_model", lambda name, pretrained: made(config))
    model, processor = load_open_clip("ViT-B-16")
    processor.save_pretrained(tmp_path)
    processor = ClibdProcessor.from_pretrained(tmp_path)
    texts = ["Diptera Sciaridae Claustropyga acanthostyla", "a photo of Bombus sp. BIN:ABC-123."]
    theirs = open_clip.get_tokenizer("ViT-B-16")(texts)
    words = processor.text_tokenizer(texts, padding=True, return_tensors="pt")
    for ours, expected in zip(words["input_ids"], theirs, strict=True):
        length = int((expected != 0).sum())
        assert ours[:length].tolist() == expected[:length].tolist()
    reference = made(config)
    given = torch.randint(0, 255, (40, 32, 3), dtype=torch.uint8).numpy()
    batch = processor(images=[Image.fromarray(given)], text=[{"order": "Diptera"}])
    assert batch["pixel_values"].shape == (1, 3, 32, 32)
    transform = open_clip.image_transform(
        32, is_train=False, mean=reference.visual.image_mean, std=reference.visual.image_std
    )
    torch.testing.assert_close(
        batch["pixel_values"][0], transform(Image.fromarray(given)), atol=0.05, rtol=0
    )  # open_clip resizes 8-bit colours, this processor floats
    prompt = open_clip.get_tokenizer("ViT-B-16")("a photo of Animalia Diptera.")
    with torch.no_grad():
        found = model.get_text_features(batch["text_input_ids"], batch["text_attention_mask"])
        torch.testing.assert_close(found, reference.encode_text(prompt, normalize=True), atol=1e-5, rtol=1e-4)


def made(config):
    torch.manual_seed(0)
    model = open_clip.CLIP(**config).eval()
    model.visual.image_mean, model.visual.image_std = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
    return model
