"""BarcodeMamba with the published block: sizes, definition, padding, heads, saving."""

import pytest
import torch
from tiny import close, tiny_batch, tiny_mamba
from torch.nn.functional import gelu, layer_norm, linear, silu, softplus

from bioscan_hf.models.configuration_barcodemamba import PUBLISHED, SIZES, BarcodeMambaConfig
from bioscan_hf.models.modeling_barcodemamba import (
    BarcodeMambaForMaskedLM,
    BarcodeMambaModel,
)
from bioscan_hf.models.tokenization_kmer import KmerTokenizer

CHAR = {"vocabulary": "barcodemamba-char", "k": 1}


@pytest.mark.parametrize(
    ("size", "tokens", "parameters"),
    [
        ("small", {"k": 6}, 7_409_504),
        ("large", {"k": 6}, 56_651_952),
        ("small", CHAR, 4_263_776),
        ("large", CHAR, 50_360_496),
    ],
)
def test_published_numbers_of_parameters(size, tokens, parameters):
    """With the head, whose vocabulary is padded to a multiple of 8: 4,104 and 8 tokens."""
    with torch.device("meta"):
        model = BarcodeMambaForMaskedLM(BarcodeMambaConfig(**PUBLISHED | SIZES[size] | tokens))
    assert model.num_parameters() == parameters
    assert model.config.vocab_size == model.classifier.out_features == (8 if tokens is CHAR else 4104)


def by_definition(model, ids):
    """Hidden states (L, D) of one barcode (L,), one position and one head at a time."""
    weights = {name: value.double() for name, value in model.state_dict().items()}
    config = model.config
    inner, heads, width, state = config.hidden_size * 2, config.num_heads, config.head_dim, config.state_size
    x = weights["embeddings.weight"][ids]
    for layer in range(config.num_hidden_layers):
        w = {
            name.removeprefix(f"layers.{layer}."): value
            for name, value in weights.items()
            if name.startswith(f"layers.{layer}.")
        }
        u = layer_norm(x, (config.hidden_size,), w["norm1.weight"], w["norm1.bias"], 1e-5)
        gate, convolved, steps = (u @ w["mixer.in_proj.weight"].T).split([inner, inner + 2 * state, heads], 1)
        padded = torch.cat([convolved.new_zeros(3, convolved.shape[1]), convolved])
        kernel, bias = w["mixer.conv1d.weight"].squeeze(1), w["mixer.conv1d.bias"]
        convolved = silu(torch.stack([(padded[i : i + 4].T * kernel).sum(1) + bias for i in range(len(u))]))
        values, inputs, outputs = convolved.split([inner, state, state], 1)
        steps, rates = softplus(steps + w["mixer.dt_bias"]), -w["mixer.A_log"].exp()
        y = torch.zeros(len(u), inner, dtype=torch.float64)
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            memory = torch.zeros(width, state, dtype=torch.float64)
            for i in range(len(u)):
                step = steps[i, head]
                memory = (step * rates[head]).exp() * memory + step * values[i, part, None] * inputs[i]
                y[i, part] = memory @ outputs[i] + w["mixer.D"][head] * values[i, part]
        y = y * silu(gate)
        y = y * (y.square().mean(1, keepdim=True) + 1e-5).rsqrt() * w["mixer.norm.weight"]
        x = x + y @ w["mixer.out_proj.weight"].T
        u = layer_norm(x, (config.hidden_size,), w["norm2.weight"], w["norm2.bias"], 1e-5)
        u = gelu(linear(u, w["fc1.weight"], w["fc1.bias"]), approximate="tanh")
        x = x + linear(u, w["fc2.weight"], w["fc2.bias"])
    return layer_norm(x, (config.hidden_size,), weights["norm_f.weight"], weights["norm_f.bias"], 1e-5)


def test_hidden_states_equal_their_definition():
    model, (ids, _) = tiny_mamba(BarcodeMambaModel, **PUBLISHED, num_hidden_layers=2), tiny_batch()
    found = model(ids)
    for row in range(4):
        expected = by_definition(model, ids[row])
        close(found.last_hidden_state[row].double(), expected, 1e-5)
        close(found.pooler_output[row].double(), expected.mean(0), 1e-5)


def test_padding_is_read_and_the_mask_is_not():
    """The embedding is the mean over all positions; only a barcode without letters is zero."""
    tokenizer = KmerTokenizer(2, "barcodemamba", max_nucleotides=24)
    model = tiny_mamba(BarcodeMambaModel, **PUBLISHED)
    batch = tokenizer(["ACGTACG", "", "ACGT" * 6], return_tensors="pt")
    found = model(**batch)
    close(found.last_hidden_state, model(batch["input_ids"]).last_hidden_state, 0)
    close(found.pooler_output[0], found.last_hidden_state[0].mean(0), 1e-6)
    assert batch["input_ids"][0, 0] == 2 and not found.pooler_output[1].any() and found.pooler_output[0].any()


def test_the_head_predicts_every_token_from_those_before():
    model, (ids, mask) = tiny_mamba(**PUBLISHED), tiny_batch()
    output = model(ids, mask, labels=ids)
    hidden = model.backbone(ids, mask).last_hidden_state
    logits = hidden[:, :-1] @ model.classifier.weight.T
    close(output.logits[:, 1:], logits, 1e-6)
    close(output.loss, torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()), 1e-5)
    assert model.classifier.bias is None and output.logits.shape[2] == 24


def test_only_training_drops_embeddings():
    model, (ids, _) = tiny_mamba(BarcodeMambaModel, **PUBLISHED), tiny_batch()
    before = model(ids).pooler_output
    close(model(ids).pooler_output, before, 0)
    assert (model.train()(ids).pooler_output - before).abs().max() > 1e-3
    assert [block.dropout.p for block in model.layers] == [0.1, 0.0]


def test_initial_weights():
    """Deviation 0.02, of the last layers of mixer and MLP 0.02 / sqrt(2 layers); norms start at 1."""
    torch.manual_seed(0)
    model = BarcodeMambaForMaskedLM(BarcodeMambaConfig(**PUBLISHED, num_hidden_layers=8, hidden_size=96, head_dim=48))
    block = model.backbone.layers[3]
    for layer, expected in (
        (block.mixer.in_proj, 0.02),
        (block.mixer.out_proj, 0.005),
        (block.fc1, 0.02),
        (block.fc2, 0.005),
        (model.classifier, 0.02),
    ):
        assert layer.weight.std().item() == pytest.approx(expected, rel=0.05)
    assert (block.norm1.weight == 1).all() and (model.backbone.norm_f.weight == 1).all()
    assert (block.mixer.A_log.exp() - torch.arange(1, 5)).abs().max() < 1e-5


def test_further_tokens():
    model = tiny_mamba(**PUBLISHED)
    assert (model.config.vocab_size, model.config.extra_tokens) == (24, 5)
    model.resize_token_embeddings(26)
    assert model.classifier.weight.shape == (26, 16) and model.config.extra_tokens == 7


def test_an_unknown_block_is_refused():
    with pytest.raises(ValueError, match="Unknown block 'mlp'. Choose one of plain, published"):
        BarcodeMambaConfig(block="mlp")
