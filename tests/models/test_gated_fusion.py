"""Fusion of photo and barcode in CLIBD: either may be missing, saved models, code beside the weights."""

import pytest
import torch
from tiny import CLIBD, clibd_batch, tiny_clibd

from bioscan_hf.models.configuration_clibd import ClibdConfig
from bioscan_hf.models.modeling_clibd import ClibdModel


def test_either_may_be_missing():
    """A row without a photo has the vector of its barcode, and the reverse, whatever the rest of the batch has."""
    model, batch = tiny_clibd(fusion=True), clibd_batch("image", "dna")
    output = model(**batch)
    assert output.fused_embeds.shape == (4, 24)
    torch.testing.assert_close(output.fused_embeds.norm(dim=1), torch.ones(4))
    assert torch.equal(model.get_fused_features(**batch), output.fused_embeds)
    for modality, vectors in (("image", output.image_embeds), ("dna", output.dna_embeds)):
        alone = model.get_fused_features(**clibd_batch(modality))
        torch.testing.assert_close(alone, vectors)
    photos, barcodes = torch.tensor([True, False, True, False]), torch.tensor([True, True, False, False])
    some = model(**batch, image_present=photos, dna_present=barcodes).fused_embeds
    torch.testing.assert_close(some[0], output.fused_embeds[0])
    torch.testing.assert_close(some[1], output.dna_embeds[1])
    torch.testing.assert_close(some[2], output.image_embeds[2])
    assert not some[3].any()
    assert model(**clibd_batch("text")).fused_embeds is None


def test_a_saved_gate_is_equal_and_old_models_have_none(tmp_path):
    model, batch = tiny_clibd(fusion=True), clibd_batch()
    model.save_pretrained(tmp_path)
    again, report = ClibdModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and again.config.fusion
    assert torch.equal(again(**batch).fused_embeds, model(**batch).fused_embeds)
    old = tiny_clibd()
    assert old(**batch).fused_embeds is None and not any("fusion" in name for name in old.state_dict())
    with pytest.raises(ValueError, match="has no fusion"):
        old.fuse(torch.eye(24), None)
    with pytest.raises(ValueError, match="Nothing to fuse"):
        model.fuse(None, None)
    with pytest.raises(ValueError, match="fusion needs image and dna, but the model embeds dna, text"):
        ClibdConfig(dna_config=CLIBD["dna_config"], text_config=CLIBD["text_config"], fusion=True)


def test_the_gate_gets_a_gradient_also_without_a_photo():
    model, batch = tiny_clibd(fusion=True), clibd_batch("image", "dna")
    present = torch.tensor([True, False, True, True])
    model(**batch, image_present=present).fused_embeds.sum().backward()
    assert all(torch.isfinite(weight.grad).all() for weight in model.fusion_gate.parameters())
    assert all(weight.grad.any() for weight in model.fusion_gate.parameters())
