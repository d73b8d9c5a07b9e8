"""BarcodeMAE: published numbers, packing, saving, and the encoder alone."""

import json

import numpy as np
import pytest
import torch
from tiny import close

import bioscan_hf.auto  # noqa: F401
from bioscan_hf.models.configuration_barcodebert import BarcodeBertConfig
from bioscan_hf.models.modeling_barcodemae import BarcodeMaeForPreTraining

MAE = {"decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 4}
PUBLISHED = {"k": 3, "max_nucleotides": 120, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
PUBLISHED |= {"intermediate_size": 32, "max_position_embeddings": 64, "hidden_dropout_prob": 0.0}
PUBLISHED |= {"attention_probs_dropout_prob": 0.0}

#: Special tokens of the published vocabulary, before the k-mers.
FIRST = 2


def ours(name):
    """Our name of a published weight; None for one that we do not have."""
    if name.startswith("encoder.pooler.") or name.split(".")[0].endswith("_embedding"):
        return None
    for old, new in {
        "encoder_position_embeddings.": None,
        "encoder.": "bert.",
        "decoder.bert.": "decoder.",
        "decoder.classifier.": "decoder_head.",
        "projection_layer.": "projection.",
    }.items():
        if name.startswith(old):
            return new and new + name.removeprefix(old)
    raise AssertionError(name)


def published(states, **options):
    """Our model with published weights. Of the decoder's word embeddings it has the one of masked tokens."""
    model = BarcodeMaeForPreTraining(BarcodeBertConfig(**PUBLISHED | MAE | options)).eval()
    weights = {ours(name): value for name, value in states.items() if ours(name)}
    weights["decoder.embeddings.word_embeddings.weight"] = weights["decoder.embeddings.word_embeddings.weight"][:1]
    missing = model.load_state_dict(weights, strict=False)
    assert not missing.missing_keys and missing.unexpected_keys in ([], ["projection.weight", "projection.bias"])
    return model


@pytest.fixture(scope="module")
def fixture(shared):
    """Arrays, numbers and the folder of the reference."""
    folder = shared / "fixtures" / "barcodemae"
    arrays = {name: torch.from_numpy(value) for name, value in np.load(folder / "maelm.npz").items()}
    return {name: x.long() if x.dtype in (torch.int16, torch.int8) else x for name, x in arrays.items()}, folder


@pytest.fixture(scope="module")
def numbers(fixture):
    return json.loads((fixture[1] / "maelm.json").read_text())


@pytest.fixture
def states(fixture):
    return torch.load(fixture[1] / "tiny_maelm.pt", weights_only=True)


def attended_equal(logits, expected, mask, tolerance=1e-6):
    """Published classes are k-mers; at padding the published model predicts from tokens that ours leaves out."""
    close(logits[..., FIRST:][mask == 1], expected[mask == 1], tolerance)


def test_published_logits(fixture, states):
    arrays, folder = fixture
    mask = arrays["attention_mask"]
    model = published(states)
    for ids, name in (("masked_ids", "v2"), ("mixed_ids", "v2_mixed"), ("ids", "v2_nothing_masked")):
        found = model(arrays[ids], mask, output_hidden_states=True)
        attended_equal(found.logits, arrays[f"{name}/logits"], mask)
        assert found.logits.std() > 0.1
    attended_equal(
        published(states, decoder_projection="auto")(arrays["masked_ids"], mask).logits,
        arrays["v2_equal_flags/logits"],
        mask,
    )
    baseline = model.bert(arrays["masked_ids"], mask).last_hidden_state
    logits = model._predict(model._decode(model.projection(baseline), mask))
    attended_equal(logits, arrays["baseline/logits"], mask)
    narrow = torch.load(folder / "tiny_maelm_narrow_decoder.pt", weights_only=True)
    model = published(narrow, decoder_hidden_size=8, decoder_projection="auto")
    baseline = model.bert(arrays["masked_ids"], mask).last_hidden_state
    logits = model._predict(model._decode(model.projection(baseline), mask))
    attended_equal(logits, arrays["narrow_baseline/logits"], mask)
    assert model(arrays["masked_ids"], mask).logits.isfinite().all(), "a narrow decoder works without the baseline too"
