"""BarcodeBERT: published numbers, configuration, heads, saving and loading."""

import numpy as np
import pytest
import torch
from tiny import BERT_HEADS, close, tiny_batch, tiny_bert

from bioscan_hf.models.configuration_barcodebert import BarcodeBertConfig
from bioscan_hf.models.modeling_barcodebert import (
    BarcodeBertForMaskedLM,
    BarcodeBertForSequenceClassification,
    BarcodeBertModel,
)
from bioscan_hf.models.tokenization_kmer import KmerTokenizer
from bioscan_hf.models.vocabularies import VOCABULARIES

SHAPE = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_dropout_prob")


def published(reference, name):
    """State dict of reference weights, without buffers of old versions of transformers, and the BERT config."""
    stored = torch.load(reference / "barcodebert" / name, weights_only=name not in CHECKPOINTS_WITH_OBJECTS)
    weights = stored
    for key in ("model", "state_dict", "init"):
        if key in stored:
            weights = stored[key]
    weights = {name.removeprefix("module."): value for name, value in weights.items()}
    return {name: value for name, value in weights.items() if not name.endswith("position_ids")}, stored


CHECKPOINTS_WITH_OBJECTS = (
    "checkpoints/A_new_single.pt",
    "checkpoints/B_new_ddp.pt",
    "checkpoints/C_finetune_single.pt",
    "checkpoints/G_new_ddp_tf429.pt",
)


def load(cls, weights, bert_config, **options):
    config = BarcodeBertConfig(
        attention_probs_dropout_prob=bert_config["attention_probs_dropout_prob"],
        **{name: bert_config[name] for name in SHAPE},
        **options,
    )
    model = cls(config).eval()
    model.load_state_dict(weights, strict=True)
    return model


def arrays(reference, name):
    with np.load(reference / "barcodebert" / name) as stored:
        return {key: torch.from_numpy(stored[key]) for key in stored.files if stored[key].dtype.kind != "U"}


def of_kmers(model, logits):
    """The published logits, of the k-mers of ACGT alone; the others are never predicted."""
    first = model.config.num_special_tokens
    kmers = slice(first, first + model.config.num_kmers)
    assert logits.shape[-1] == model.config.vocab_size
    assert (torch.cat([logits[..., :first], logits[..., kmers.stop :]], -1) == -8_192).all()
    return logits[..., kmers]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("k", [4, 5])
def test_published_outputs(reference, k, attention):
    """Logits and both poolings are those of the published code; zero where it gives NaN (a barcode of 3 nt)."""
    weights, stored = published(reference, f"tiny_k{k}.pt")
    model = load(BarcodeBertForMaskedLM, weights, stored["bert_config"], k=k)
    model.set_attn_implementation(attention)
    expected = arrays(reference, f"forward_k{k}.npz")
    live = ~expected["pooled_upstream"].isnan().any(1)
    assert 0 < live.sum() < len(live), "no row without a k-mer: this test would not see what becomes of it"
    with torch.no_grad():
        logits = model(expected["input_ids"], expected["attention_mask"]).logits
        pooled = model.bert(expected["input_ids"], expected["attention_mask"]).pooler_output
        model.config.pooling = "mean"
        mean = model.bert(expected["input_ids"], expected["attention_mask"]).pooler_output
    stored_logits, logits = expected["logits"], of_kmers(model, logits)
    stored_live = live[: len(stored_logits)]
    rows, positions = stored_logits.shape[:2]
    close(logits[:rows, :positions][stored_live], stored_logits[stored_live], 1e-5)
    close(pooled[live], expected["pooled_upstream"][live], 1e-6)
    close(mean[live], expected["mean_unmasked"][live], 1e-6)
    assert not pooled[~live].any() and not mean[~live].any()


@pytest.mark.parametrize("name", ["checkpoints/A_new_single.pt", "checkpoints/B_new_ddp.pt"])
def test_published_weights_load_unchanged(reference, name):
    weights, stored = published(reference, name)
    assert load(BarcodeBertForMaskedLM, weights, stored["bert_config"]).config.num_kmers == 256


def test_checkpoint_of_an_old_version_of_transformers(reference):
    weights, stored = published(reference, "checkpoints/G_new_ddp_tf429.pt")
    model = load(BarcodeBertForMaskedLM, weights, stored["bert_config"])
    expected = arrays(reference, "forward_tf429_G.npz")
    with torch.no_grad():
        output = model(expected["input_ids"], expected["attention_mask"], output_hidden_states=True)
    close(of_kmers(model, output.logits), expected["logits"], 1e-5)
    close(output.hidden_states[-1], expected["hidden_last"], 1e-5)


@pytest.mark.parametrize("name", ["checkpoints/F2_workshop2023_nomodule.pth", "checkpoints/F_workshop2023_ddp.pth"])
def test_the_models_of_2023(reference, name):
    """Three special tokens and a tied head; the file has neither mask nor config."""
    weights, _ = published(reference, name)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    shape |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = load(
        BarcodeBertForMaskedLM, weights, shape, vocabulary="barcodebert-2023", mlm_head="tied", pooling="mean"
    )
    expected = arrays(reference, "forward_workshop2023.npz")
    with torch.no_grad():
        close(model(expected["input_ids"]).logits, expected["logits"], 1e-5)
        close(model.bert(expected["input_ids"]).pooler_output, expected["mean_unmasked"], 1e-6)


@pytest.mark.parametrize("case", ["", "_tokenizeN"])
def test_published_masked_lm_loss(reference, case):
    """The published objective (all k-mers) and the loss over masked k-mers only, in nats."""
    weights, stored = published(reference, f"mlm_train{case}.pt")
    vocabulary = "barcodebert-n" if case else "barcodebert"
    model = load(BarcodeBertForMaskedLM, weights, stored["bert_config"], vocabulary=vocabulary)
    data = arrays(reference, f"mlm{case}.npz")
    numbers = reference.json(f"barcodebert/mlm{case}.json")
    losses = {"predicted": "loss_all_predicted_positions_single_batch", "masked": "loss_masked_only_single_batch"}
    for which, name in losses.items():
        labels = data["input_ids"].masked_fill(~data[f"{which}_positions"], -100)
        with torch.no_grad():
            output = model(data["masked_input"], data["attention_mask"], labels=labels)
        assert output.loss.item() == pytest.approx(numbers[name], abs=1e-6)
    expected = data["logits_first4"]
    close(of_kmers(model, output.logits[:4, : expected.shape[1]]), expected, 1e-5)


@pytest.mark.parametrize("case", ["", "_tokenizeN"])
def test_three_published_training_steps(reference, case):
    """Losses, learning rates and final weights with AdamW and OneCycle; [MASK] stays zero."""
    weights, stored = published(reference, f"mlm_train{case}.pt")
    data = arrays(reference, f"mlm{case}.npz")
    recorded = reference.json(f"barcodebert/mlm{case}.json")["train"]
    vocabulary = "barcodebert-n" if case else "barcodebert"
    model = load(BarcodeBertForMaskedLM, weights, stored["bert_config"], vocabulary=vocabulary).train()
    rate = 1e-4 * 8 / 64
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, epochs=2, steps_per_epoch=3)
    losses, rates = [], []
    for step in range(3):
        rows = slice(8 * step, 8 * step + 8)
        ids = data["input_ids"][rows]
        # The published code draws twice a step and uses the second; under "-n" it leaves out TTTT, too.
        valid = (ids > 1) & (ids < 257) if case else ids > 1
        masked = valid & (data["train_rand_all_draws"][2 * step + 1] < 0.5)
        rates.append(schedule.get_last_lr()[0])
        output = model(ids.masked_fill(masked, 0), data["attention_mask"][rows], labels=ids.masked_fill(~valid, -100))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(output.loss.item())
    assert losses == pytest.approx(recorded["losses"], abs=1e-5)
    assert rates == pytest.approx(recorded["lr_before_each_step_and_after"][:3])
    for name, value in model.state_dict().items():
        close(value, stored["after_3_steps"][name], 1e-5)
    assert not model.bert.embeddings.word_embeddings.weight[0].any()


def test_the_loss_of_2023(reference):
    """All positions count, also unknown ones and padding; masked ones have id 1."""
    weights, stored = published(reference, "tiny_workshop2023_mlm.pt")
    options = {"k": 3, "vocabulary": "barcodebert-2023", "mlm_head": "tied"}
    model = load(BarcodeBertForMaskedLM, weights, stored["bert_config"], **options)
    data = arrays(reference, "mlm_workshop2023.npz")
    with torch.no_grad():
        output = model(data["masked_input"], labels=data["batch"])
    assert output.loss.item() == pytest.approx(data["loss"].item(), abs=1e-6)
    close(output.logits[:, : data["logits"].shape[1]], data["logits"], 1e-5)


def test_a_published_fine_tuned_model(reference):
    """The published fine-tuning pools over all positions; its `classifier` is `taxon_classifier`."""
    weights, stored = published(reference, "checkpoints/C_finetune_single.pt")
    weights = {
        name.removeprefix("base_model.").replace("classifier.", "taxon_classifier."): value
        for name, value in weights.items()
    }
    options = {"pooling": "mean", "num_labels": 7}
    model = load(BarcodeBertForSequenceClassification, weights, stored["bert_config"], **options)
    expected = arrays(reference, "finetune_forward.npz")
    with torch.no_grad():
        output = model(expected["input_ids"], expected["attention_mask"], labels=expected["labels"])
    assert expected["attention_mask"].any(1).all(), "a row without a k-mer is ours to define"
    close(output.logits, expected["logits"], 1e-5)
    assert output.loss.item() == pytest.approx(expected["loss"].item(), abs=1e-6)


@pytest.mark.parametrize(
    ("options", "encoder", "total"),
    [
        ({}, 28_945_920, 29_142_784),  # the published 4-4-4 model
        ({"k": 8}, 79_080_960, 129_478_144),  # 8-4-4
        ({"k": 6, "num_hidden_layers": 6, "num_attention_heads": 6}, 46_070_784, 49_220_608),
    ],
)
def test_published_parameter_counts(options, encoder, total):
    with torch.device("meta"):
        model = BarcodeBertForMaskedLM(BarcodeBertConfig(**options))
    assert model.bert.num_parameters() == encoder
    assert model.num_parameters() == total


@pytest.mark.parametrize(
    ("vocabulary", "k", "size", "special", "tokens"),
    [
        ("barcodebert", 4, 258, 2, 165),
        ("barcodebert-n", 4, 627, 2, 165),
        ("barcodebert-2023", 4, 259, 3, 165),
        ("clibd", 5, 1027, 3, 133),
    ],
)
def test_vocabularies(vocabulary, k, size, special, tokens):
    config = BarcodeBertConfig(k=k, vocabulary=vocabulary)
    assert (config.vocab_size, config.num_special_tokens, config.max_tokens) == (size, special, tokens)
    assert config.num_kmers == 4**k


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 259}, r"vocab_size is 259, but k=4 and vocabulary='barcodebert' give 258"),
        ({"vocabulary": "bpe"}, r"Unknown vocabulary 'bpe'. Choose one of barcodebert, barcodebert-n"),
        ({"pooling": "max"}, r"Unknown pooling 'max'. Choose one of masked_mean, mean, cls, tokens"),
        ({"pooling": "cls"}, r"pooling is 'cls', but the vocabulary 'barcodebert' has no \[CLS\] token"),
        ({"taxon_objective": "pairs"}, r"needs \[CLS\], but the vocabulary 'barcodebert' has none"),
        ({"taxon_objective": "classes", "vocabulary": "barcodebert-cls"}, r"Give 2 classes or more with 'classes'"),
        ({"masked_loss_weight": 1.5}, r"masked_loss_weight is 1.5"),
        ({"decoder_projection": "never"}, r"Unknown decoder_projection 'never'. Choose one of always, auto"),
        ({"decoder_hidden_size": 30}, r"The decoder has 0 layers, a width of 30 and 4 heads"),
        ({"mlm_head": "mlp"}, r"Unknown mlm_head 'mlp'. Choose one of kmers, tied"),
        ({"hidden_size": 30}, r"hidden_size \(30\) must be a multiple of num_attention_heads \(4\)"),
        ({"num_attention_heads": 0}, r"num_attention_heads \(0\)"),
        ({"hidden_size": 0}, r"hidden_size \(0\) must be a multiple"),
        ({"num_hidden_layers": -1}, r"num_hidden_layers is -1; give 0 or more"),
        ({"k": 0}, r"k is 0; the vocabulary 'barcodebert' takes 1 to 8"),
        ({"k": 9}, r"k is 9; the vocabulary 'barcodebert' takes 1 to 8"),
        ({"k": 7, "vocabulary": "barcodebert-n"}, r"k is 7; the vocabulary 'barcodebert-n' takes 1 to 6"),
        ({"k": 1}, r"max_position_embeddings is 512, but 660 nucleotides at k=1 are 660 tokens"),
        ({"k": 8, "max_nucleotides": 7}, r"max_nucleotides \(7\) must be at least k \(8\)"),
        ({"pad_token_id": 1}, r"pad_token_id is 1, but BarcodeBERT needs 0"),
        ({"is_decoder": True}, r"is_decoder is True, but BarcodeBERT is an encoder"),
    ],
)
def test_contradictory_config_raises(options, message):
    with pytest.raises(ValueError, match=message):
        BarcodeBertConfig(**options)


def test_invalid_config_is_not_saved(tmp_path):
    """Another padding would freeze another row; that of the tokenizer, which the Trainer copies, changes nothing."""
    for vocabulary in VOCABULARIES:
        k = min(4, VOCABULARIES[vocabulary].largest_k)
        config = BarcodeBertConfig(k=k, vocabulary=vocabulary, max_position_embeddings=660)
        config.pad_token_id = KmerTokenizer(k, vocabulary).pad_token_id
        assert config.pad_token_id == 0
    config.pad_token_id = 5
    with pytest.raises(Exception, match="pad_token_id is 5"):
        config.save_pretrained(tmp_path)


def test_the_config_of_k_8_is_small(tmp_path):
    """The 65,536 k-mers are no labels: their made-up names would take megabytes."""
    BarcodeBertConfig(k=8).save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text()
    assert "LABEL_2" not in text and len(text) < 3_000
    assert BarcodeBertConfig.from_pretrained(tmp_path).vocab_size == 65_538


def test_one_taxon_is_no_classification():
    with pytest.raises(ValueError, match="num_labels is 1"):
        tiny_bert(BarcodeBertForSequenceClassification, num_labels=1)


@pytest.mark.parametrize("pooling", ["masked_mean", "mean"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_barcode_without_tokens_is_zero(pooling, attention):
    """The others do not see it: their vectors are those of a batch without it."""
    model = tiny_bert(BarcodeBertModel, pooling=pooling)
    model.set_attn_implementation(attention)
    ids, mask = tiny_batch()
    pooled = model(ids, mask).pooler_output
    assert pooled.isfinite().all() and not pooled[3].any() and pooled[:3].any(1).all()
    close(pooled[:3], model(ids[:3], mask[:3]).pooler_output, 1e-6)
    pooled.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_poolings_by_hand():
    """The second barcode has 7 tokens: the mean of these, and the mean over all 12."""
    ids, mask = tiny_batch()
    for pooling, count in (("masked_mean", 7), ("mean", 12)):
        output = tiny_bert(BarcodeBertModel, pooling=pooling)(ids, mask)
        close(output.pooler_output[1], output.last_hidden_state[1, :count].mean(0), 1e-6)
    model = tiny_bert(BarcodeBertModel)
    close(model(ids).pooler_output, model(ids, torch.ones_like(mask)).pooler_output, 1e-6)


@pytest.mark.parametrize(("cls", "options"), BERT_HEADS)
def test_a_tuple_on_request(cls, options):
    model, (ids, mask) = tiny_bert(cls, **options), tiny_batch()
    first = model(ids, mask, return_dict=False)[0]
    close(first, model(ids, mask).to_tuple()[0], 0)


def test_kmers_head_ignores_other_labels():
    """Labels of special tokens and of k-mers with N (ids from 2 + 16 on, with k = 2) count as -100."""
    model = tiny_bert(vocabulary="barcodebert-n")
    ids, mask = tiny_batch()
    labels = ids.masked_fill(mask == 0, -100)
    loss = model(ids, mask, labels=labels).loss
    labels[0, :3] = torch.tensor([0, 1, 18])
    fewer = model(ids, mask, labels=labels).loss
    expected = labels.clone()
    expected[0, :3] = -100
    close(fewer, model(ids, mask, labels=expected).loss, 0)
    assert (loss - fewer).abs() > 1e-4, "the three labels made no difference: this test would prove nothing"


@pytest.mark.parametrize(("cls", "options"), BERT_HEADS[1:])
def test_loss_without_labels_is_zero(cls, options):
    """NaN would make all weights NaN."""
    model, (ids, mask) = tiny_bert(cls, **options), tiny_batch()
    labels = torch.full((4,) if cls is BarcodeBertForSequenceClassification else (4, 12), -100)
    loss = model(ids, mask, labels=labels).loss
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize(("cls", "options"), BERT_HEADS[1:])
def test_losses_of_parts_sum_to_that_of_the_step(cls, options):
    """With `num_items_in_batch`, the losses of two unequal parts of a batch sum to that of the whole."""
    model, (ids, mask) = tiny_bert(cls, **options), tiny_batch()
    labels = torch.tensor([2, 0, 1, -100]) if cls is BarcodeBertForSequenceClassification else ids * mask + mask - 1
    labels = labels.masked_fill(labels < 0, -100)
    count = (labels != -100).sum()
    whole = model(ids, mask, labels=labels).loss
    parts = [
        model(ids[rows], mask[rows], labels=labels[rows], num_items_in_batch=count).loss
        for rows in (slice(0, 1), slice(1, 4))
    ]
    close(sum(parts), whole, 1e-6)


def test_missing_taxa_are_ignored():
    """-1, as in label arrays, and -100; the loss is the mean over the two labelled barcodes."""
    model = tiny_bert(BarcodeBertForSequenceClassification, num_labels=3)
    ids, mask = tiny_batch()
    output = model(ids, mask, labels=torch.tensor([2, -1, 0, -100]))
    expected = torch.nn.functional.cross_entropy(output.logits[[0, 2]], torch.tensor([2, 0]))
    close(output.loss, expected, 1e-6)


@pytest.mark.parametrize(("cls", "options"), BERT_HEADS)
def test_every_head_loads_from_every_head(cls, options, tmp_path):
    """Also the encoder; only weights of another head are initialized."""
    model, (ids, mask) = tiny_bert(cls, **options), tiny_batch()
    model.save_pretrained(tmp_path)
    encoder = model if cls is BarcodeBertModel else model.bert
    for other in (BarcodeBertModel, BarcodeBertForMaskedLM, BarcodeBertForSequenceClassification):
        again, info = other.from_pretrained(tmp_path, output_loading_info=True)
        loaded = again if other is BarcodeBertModel else again.bert
        close(loaded(ids, mask).pooler_output, encoder(ids, mask).pooler_output, 0)
        assert not any(key.startswith(("bert.", "embeddings.", "encoder.")) for key in info["missing_keys"])
        head = {BarcodeBertForMaskedLM: ("classifier.", "cls."), BarcodeBertModel: ()}
        expected = () if other is cls else head.get(other, ("taxon_classifier.",))
        assert all(key.startswith(expected) for key in info["missing_keys"])
        assert bool(info["missing_keys"]) == bool(expected)


def test_names_of_taxa_are_kept(tmp_path):
    names = {0: "Diptera", 1: "Hymenoptera", 2: "Coleoptera"}
    ids = {name: i for i, name in names.items()}
    tiny_bert(BarcodeBertForSequenceClassification, id2label=names, label2id=ids).save_pretrained(tmp_path)
    config = BarcodeBertForSequenceClassification.from_pretrained(tmp_path).config
    assert (config.id2label, config.label2id, config.num_labels) == (names, ids, 3)


@pytest.mark.parametrize(("cls", "options"), BERT_HEADS)
@pytest.mark.parametrize("pooling", ["masked_mean", "mean"])
def test_a_batch_without_a_token(cls, options, pooling):
    """Barcodes shorter than k, padded to the longest: the embedding is zero, and there are no logits of tokens."""
    model = tiny_bert(cls, pooling=pooling, **options)
    batch = KmerTokenizer(2, max_nucleotides=24)(["A", ""], padding="longest", return_tensors="pt")
    assert batch["input_ids"].shape == (2, 0)
    for given in (dict(batch), {"input_ids": batch["input_ids"].long()}):
        output = model(**given)
        if cls is BarcodeBertModel:
            assert output.pooler_output.shape == (2, 16) and not output.pooler_output.any()
            assert output.last_hidden_state.shape == (2, 0, 16)
        elif cls is BarcodeBertForMaskedLM:
            assert output.logits.shape == (2, 0, 18)
        else:
            close(output.logits, model.taxon_classifier.bias.expand(2, -1), 1e-6)
