"""BarcodeMamba: sizes, objectives, padding, heads, saving and loading."""

import pytest
import torch
from tiny import LABELS, TREE, close, cut, same_step, step, tiny_batch, tiny_mamba

from bioscan_hf.models.configuration_barcodemamba import SIZES, BarcodeMambaConfig
from bioscan_hf.models.modeling_barcodemamba import (
    BarcodeMambaForMaskedLM,
    BarcodeMambaForSequenceClassification,
    BarcodeMambaModel,
)
from bioscan_hf.models.tokenization_kmer import KmerTokenizer

HEADS = [
    (BarcodeMambaModel, {}),
    (BarcodeMambaForMaskedLM, {}),
    (BarcodeMambaForMaskedLM, {"objective": "next"}),
    (BarcodeMambaForSequenceClassification, {"num_labels": 3}),
    (BarcodeMambaForSequenceClassification, TREE),
]


def test_published_shapes():
    """Two sizes, single nucleotides and k-mers; 2 * 384 / 48 = 16 heads, 2 * 768 / 64 = 24."""
    for size, heads in (("small", 16), ("large", 24)):
        config = BarcodeMambaConfig(**SIZES[size])
        assert (config.num_heads, config.state_size, config.n_groups) == (heads, 64, 1)
    assert BarcodeMambaConfig().to_dict() == BarcodeMambaConfig(**SIZES["small"]).to_dict()
    assert (BarcodeMambaConfig(k=1).vocab_size, BarcodeMambaConfig(k=1).max_tokens) == (6, 660)
    with torch.device("meta"):
        model = BarcodeMambaForMaskedLM(BarcodeMambaConfig(k=1, **SIZES["large"]))
    assert model.classifier.out_features == 4 and len(model.backbone.layers) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"head_dim": 50},
            r"num_heads \(15\) times head_dim \(50\) must be hidden_size \(384\) times expand \(2\), 768",
        ),
        ({"head_dim": 0}, r"num_heads \(None\) times head_dim \(0\)"),
        ({"num_heads": 3}, r"num_heads \(3\) times head_dim \(48\)"),
        ({"n_groups": 5}, "n_groups is 5, but must divide the 16 heads"),
        ({"chunk_size": 0}, "chunk_size is 0"),
        ({"objective": "causal"}, "Unknown objective 'causal'. Choose one of masked, next."),
        ({"pooling": "max"}, "Unknown pooling 'max'"),
        ({"pooling": "cls"}, "pooling is 'cls', but the vocabulary 'barcodebert' has no .CLS. token"),
        ({"vocabulary": "bpe"}, "Unknown vocabulary 'bpe'"),
        ({"vocab_size": 8}, "vocab_size is 8, but k=4"),
        ({"k": 0}, "k is 0"),
        ({"parents": {}}, "parents are given without taxa"),
        ({"num_labels": 5} | TREE, "num_labels is 5"),
    ],
)
def test_contradictory_config_raises(options, message):
    with pytest.raises(ValueError, match=message):
        BarcodeMambaConfig(**options)


def test_encoder_is_causal():
    """A change of the last token changes only its own vector."""
    model, (ids, _) = tiny_mamba(BarcodeMambaModel), tiny_batch()
    changed = ids.clone()
    changed[:, -1] = 2 + (ids[:, -1] - 1) % 16
    before, after = model(ids).last_hidden_state, model(changed).last_hidden_state
    close(before[:, :-1], after[:, :-1], 1e-6)
    assert ((before - after)[:, -1].abs().max(1).values > 1e-3).all()


@pytest.mark.parametrize("training", [False, True])
def test_padding_has_no_effect(training):
    """The embedding is the same with any padding; without tokens it is zero."""
    model, (ids, mask) = tiny_mamba(BarcodeMambaModel).train(training), tiny_batch()
    padded = model(ids, mask).pooler_output
    for row, length in ((0, 12), (1, 7), (2, 1)):
        alone = model(ids[row : row + 1, :length])
        close(padded[row], alone.pooler_output[0], 1e-6)
        close(alone.pooler_output[0], alone.last_hidden_state[0].mean(0), 1e-6)
    close(model(ids.where(mask == 1, 1), mask).pooler_output, padded, 1e-6)
    assert not padded[3].any() and padded[:3].any(1).all()
    mean = tiny_mamba(BarcodeMambaModel, pooling="mean")(ids, mask)
    close(mean.pooler_output[1], mean.last_hidden_state[1].mean(0), 1e-6)


def test_chunk_size_has_no_effect():
    ids, mask = tiny_batch()
    one, other = (tiny_mamba(BarcodeMambaModel, chunk_size=size)(ids, mask).last_hidden_state for size in (5, 64))
    close(one, other, 1e-5)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("objective", ["masked", "next"])
def test_losses_equal_their_definition(objective, sparse):
    """Cross-entropy of the label's k-mer, from its position or the one before; other labels are ignored."""
    model, (ids, mask) = tiny_mamba(objective=objective, sparse_prediction=sparse), tiny_batch()
    labels = ids.masked_fill(mask == 0, -100)
    labels[0, 3] = 1  # [UNK]
    logits = model(ids, mask).logits
    assert logits.shape == (4, 12, 18)
    hidden = model.backbone(ids, mask).last_hidden_state
    source = 5 if objective == "masked" else 4
    close(logits[:, 5, 2:], model.classifier(hidden[:, source]), 1e-6)
    pairs = [(row, i, labels[row, i].item()) for row in range(4) for i in range(12) if labels[row, i] >= 2]
    if objective == "next":
        pairs = [(row, i, kmer) for row, i, kmer in pairs if i > 0]
        assert len(pairs) == 18 - 2, "12 + 7 + 1 tokens, less 3 first ones and [UNK], which is none of the first"
    expected = -sum(logits[row, i].log_softmax(0)[kmer] for row, i, kmer in pairs) / len(pairs)
    output = model(ids, mask, labels=labels)
    close(output.loss, expected, 1e-5)
    assert output.logits.shape == ((len(pairs), 18) if sparse else (4, 12, 18))


@pytest.mark.parametrize(("cls", "options"), HEADS[1:])
def test_losses_of_parts_sum_to_that_of_the_step(cls, options):
    """Loss and gradients; with the objective "next", the first k-mer of a barcode does not count."""
    model, (ids, mask) = tiny_mamba(cls, **options), tiny_batch()
    labels = {"taxa": LABELS, "num_labels": torch.tensor([2, 0, 1, -100])}.get(next(iter(options), ""))
    if labels is None:
        labels = ids.masked_fill(mask == 0, -100)
        labels[:, 0] = -100 if options else labels[:, 0]
    count = (labels >= 0).sum(0) if "taxa" in options else (labels >= 0).sum()
    same_step(step(model, [(ids, mask, labels)]), step(model, cut(ids, mask, labels), num_items_in_batch=count))


def test_both_objectives_are_learned():
    """A few steps are enough for barcodes that repeat ACGT."""
    ids = torch.tensor([[3, 13] * 6, [13, 3] * 6])  # the k-mers AC and GT, with k = 2
    for objective in ("masked", "next"):
        model = tiny_mamba(objective=objective).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        given = ids.masked_fill(torch.arange(12) % 5 == 4, 0) if objective == "masked" else ids
        losses = []
        for _ in range(40):
            loss = model(given, labels=ids).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[0] > 1 and losses[-1] < 0.3


def test_several_ranks():
    model, (ids, mask) = tiny_mamba(BarcodeMambaForSequenceClassification, **TREE), tiny_batch()
    logits = model(ids, mask).logits
    predictions = model.predict_taxa(logits)
    assert logits.shape == (4, 9) and list(predictions) == ["order", "family", "genus"]
    assert all(prediction.ids.shape == (4,) for prediction in predictions.values())


def test_single_nucleotides():
    """The tokenizer of k = 1: one token for each nucleotide."""
    tokenizer = KmerTokenizer(k=1, max_nucleotides=24)
    batch = tokenizer(["ACGTTGCA", "ACG"], return_tensors="pt")
    assert batch["attention_mask"].sum(1).tolist() == [8, 3]
    model = tiny_mamba(BarcodeMambaModel, k=1)
    assert model.config.vocab_size == len(tokenizer) == 6
    output = model(batch["input_ids"], batch["attention_mask"])
    assert output.last_hidden_state.shape == (2, 24, 16) and output.pooler_output.shape == (2, 16)


@pytest.mark.parametrize(("cls", "options"), HEADS)
def test_every_head_loads_from_every_head(cls, options, tmp_path):
    """Only weights of another head are initialized."""
    model, (ids, mask) = tiny_mamba(cls, **options), tiny_batch()
    model.save_pretrained(tmp_path)
    assert cls.from_pretrained(tmp_path).config.to_diff_dict() == model.config.to_diff_dict()
    encoder = model if cls is BarcodeMambaModel else model.backbone
    for other in {head for head, _ in HEADS}:
        again, info = other.from_pretrained(tmp_path, output_loading_info=True)
        loaded = again if other is BarcodeMambaModel else again.backbone
        close(loaded(ids, mask).pooler_output, encoder(ids, mask).pooler_output, 0)
        assert all(key.startswith(("classifier.", "taxon_classifier.")) for key in info["missing_keys"])
        assert bool(info["missing_keys"]) == (other not in (cls, BarcodeMambaModel))
