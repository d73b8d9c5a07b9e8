"""Our models, tokenizer and processor in transformers' own Trainer, with its common options, two steps each."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from every_model import aligned_barcode
from safetensors.torch import load_file
from tiny import LABELS, TREE, clibd_batch, text_tokenizer, tiny_bert, tiny_clibd, tiny_mamba
from transformers import (
    DataCollatorForLanguageModeling,
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    Trainer,
    TrainingArguments,
)

import bioscan_hf.auto  # noqa: F401
from bioscan_hf.losses.contrastive import contrastive_loss
from bioscan_hf.models.modeling_barcodebert import BarcodeBertForMaskedLM, BarcodeBertForSequenceClassification
from bioscan_hf.models.modeling_barcodemamba import BarcodeMambaForMaskedLM, BarcodeMambaForSequenceClassification
from bioscan_hf.models.processing_clibd import ClibdProcessor, make_image_processor
from bioscan_hf.models.tokenization_kmer import KmerTokenizer

BARCODES = ["ACGTTACCGTACGTTACGGATTAC", "ACGTTACCG", "TTGACCAGTACGTA", "CCGTAGGTACCTAGGT"]

#: Name -> a new model.
MODELS = {
    "BERT, masked": lambda: tiny_bert(BarcodeBertForMaskedLM),
    "BERT, tied": lambda: tiny_bert(BarcodeBertForMaskedLM, mlm_head="tied"),
    "BERT, with N": lambda: tiny_bert(BarcodeBertForMaskedLM, vocabulary="barcodebert-n"),
    "BERT, one rank": lambda: tiny_bert(BarcodeBertForSequenceClassification, num_labels=3),
    "BERT, ranks": lambda: tiny_bert(BarcodeBertForSequenceClassification, **TREE),
    "Mamba, masked": lambda: tiny_mamba(BarcodeMambaForMaskedLM),
    "Mamba, next": lambda: tiny_mamba(BarcodeMambaForMaskedLM, objective="next"),
    "Mamba, ranks": lambda: tiny_mamba(BarcodeMambaForSequenceClassification, **TREE),
    "CLIBD": tiny_clibd,
    "aligned": aligned_barcode,
}

#: Name -> arguments of training.
OPTIONS = {
    "processing_class": {},
    "label_names": {"label_names": ["labels"]},
    "load_best_model_at_end": {"eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True},
    "train_sampling_strategy=group_by_length": {"train_sampling_strategy": "group_by_length"},
    "gradient_accumulation_steps": {"gradient_accumulation_steps": 2},
    "gradient_checkpointing": {"gradient_checkpointing": True},
    "bf16": {"bf16": True},
    "torch_compile": {"torch_compile": True, "torch_compile_backend": "aot_eager"},
    "dataloader_num_workers": {"dataloader_num_workers": 2},
    "include_num_input_tokens_seen": {"include_num_input_tokens_seen": "all"},
    "IterableDataset": {},
}
TOGETHER = ("label_names", "load_best_model_at_end", "train_sampling_strategy=group_by_length")
STREAMED = ("gradient_accumulation_steps", "gradient_checkpointing", "bf16", "include_num_input_tokens_seen")

#: Option and model that do not go together: photos have no length, and the aligned encoder has no layers.
REFUSED = {("train_sampling_strategy=group_by_length", "CLIBD"), ("gradient_checkpointing", "aligned")}


class EncoderTrainer(Trainer):
    """A Trainer with a loss for a model without one, as users write it."""

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        inputs.pop("labels", None)
        output = model(**inputs)
        if self.model.config.model_type == "clibd":
            loss = contrastive_loss({"image": output.image_embeds, "dna": output.dna_embeds}, output.logit_scale)
        else:
            loss = (output.pooler_output[:, 0] - 0.5).square().mean()
        return (loss, output) if return_outputs else loss


def material(model):
    """The processing class, rows without padding, and the collator for a model."""
    if model.config.model_type == "clibd":
        processor = ClibdProcessor(make_image_processor(32), KmerTokenizer(2, max_nucleotides=40), text_tokenizer())
        rows = [dict(zip(clibd_batch(), row, strict=True)) for row in zip(*clibd_batch().values(), strict=True)]
        return (
            processor,
            Dataset.from_list([{k: v.tolist() for k, v in row.items()} | {"labels": 0} for row in rows]),
            None,
        )
    config = model.config
    tokenizer = KmerTokenizer(config.k, config.vocabulary, config.max_nucleotides)
    rows = Dataset.from_dict({"dna_barcode": BARCODES})
    rows = rows.map(lambda batch: tokenizer(batch["dna_barcode"], padding=False), batched=True)
    rows = rows.remove_columns("dna_barcode")
    if "MaskedLM" in type(model).__name__:
        return tokenizer, rows, DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.9)
    labels = LABELS.tolist() if getattr(config, "taxa", None) else [0, 1, 2, -100]
    return tokenizer, rows.add_column("labels", labels), None


def train(model, folder, *options, streamed=False, **more):
    """The Trainer after two steps with these options, its model saved in the folder."""
    processing, rows, collator = material(model)
    given = {key: value for name in options for key, value in OPTIONS[name].items()}
    given = {"per_device_train_batch_size": 2, "max_steps": 2, "save_steps": 1, "learning_rate": 1e-2} | given | more
    arguments = TrainingArguments(str(folder), report_to="none", use_cpu=True, disable_tqdm=True, **given)
    if "gradient_accumulation_steps" in given and "labels" in rows.column_names:  # a missing label is then -100 only
        rows = rows.map(lambda row: {"labels": np.where(np.less(row["labels"], 0), -100, row["labels"]).tolist()})
    trainer = (Trainer if "For" in type(model).__name__ else EncoderTrainer)(
        model=model,
        args=arguments,
        train_dataset=rows.to_iterable_dataset() if streamed else rows,
        eval_dataset=rows,
        data_collator=collator,
        processing_class=processing,
        callbacks=[EarlyStoppingCallback(3)] if "load_best_model_at_end" in given else [],
    )
    trainer.train()
    trainer.save_model()
    return trainer


def check(name, trainer, folder):
    """The model has learned, and what was saved is equal to it; the embedding of [MASK] stays zero."""
    start, model = MODELS[name]().state_dict(), trainer.model
    assert any(not torch.equal(weight, start[key]) for key, weight in model.state_dict().items())
    loaded, info = type(model).from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    for key, weight in loaded.state_dict().items():
        assert torch.equal(weight, model.state_dict()[key]), key
    again = type(trainer.processing_class).from_pretrained(folder)
    tokenizer = getattr(again, "dna_tokenizer", again)
    assert tokenizer(BARCODES) == getattr(trainer.processing_class, "dna_tokenizer", again)(BARCODES)
    if name.startswith("BERT"):
        assert loaded.config.pad_token_id == 0
    if name.startswith("BERT") and "tied" not in name:  # a tied head learns its row of each token
        change = load_file(folder / "model.safetensors")["bert.embeddings.word_embeddings.weight"][0]
        assert torch.equal(change, start["bert.embeddings.word_embeddings.weight"][0])


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_plain_trainer(name, tmp_path):
    """Saves and reopens; the best model is loaded and the training resumes, with rows of various lengths."""
    trainer = train(MODELS[name](), tmp_path, *(option for option in TOGETHER if (option, name) not in REFUSED))
    check(name, trainer, tmp_path)
    trainer.args.max_steps = 3
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_plain_trainer_of_a_stream(name, tmp_path):
    """A stream, in bfloat16, with accumulated batches and checkpointed gradients."""
    options = (option for option in STREAMED if (option, name) not in REFUSED)
    check(name, train(MODELS[name](), tmp_path, *options, streamed=True), tmp_path)


@pytest.mark.slow
def test_plain_trainer_compiles(tmp_path):
    """One of the models: compiling takes seconds, and `test_model_checks.py` compiles the others."""
    torch._dynamo.reset()
    check("BERT, one rank", train(MODELS["BERT, one rank"](), tmp_path, "torch_compile", max_steps=1), tmp_path)


def test_the_tokenizer_pads_and_is_mapped_by_processes():
    """DataCollatorWithPadding; `map` with two processes gives the same rows, and finds them again in the cache."""
    tokenizer = KmerTokenizer(2, max_nucleotides=24)
    rows = Dataset.from_dict({"dna_barcode": BARCODES})
    mapped = [
        rows.map(KmerTokenizer(2, max_nucleotides=24), input_columns="dna_barcode", batched=True, num_proc=number)
        for number in (None, 2)
    ]
    assert mapped[0]["input_ids"] == mapped[1]["input_ids"] == tokenizer(BARCODES)["input_ids"]
    used = KmerTokenizer(2, max_nucleotides=24)
    used(BARCODES, padding="longest")
    first, second = (rows.map(one, input_columns="dna_barcode", batched=True) for one in (tokenizer, used))
    assert first._fingerprint == second._fingerprint
    batch = DataCollatorWithPadding(tokenizer)([tokenizer(barcode, padding=False) for barcode in BARCODES])
    assert batch["input_ids"].shape == (4, 12) and batch["attention_mask"].sum(1).tolist() == [12, 4, 7, 8]
    assert (batch["input_ids"][batch["attention_mask"] == 0] == tokenizer.pad_token_id).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["BERT, one rank", "BERT, ranks"])
def test_a_missing_label_is_any_negative_id(name, tmp_path):
    """-1 counts as -100 does; where the Trainer's count would be wrong, it is refused."""
    model, found = MODELS[name](), []
    _, rows, _ = material(model)
    for missing in (-100, -1):
        labels = torch.tensor(rows["labels"][:])
        changed = rows.remove_columns("labels").add_column("labels", labels.masked_fill(labels < 0, missing).tolist())
        trainer = train(MODELS[name](), tmp_path / str(missing), per_device_train_batch_size=4, max_steps=1)
        trainer.train_dataset = changed
        batch = next(iter(trainer.get_train_dataloader()))
        count = (batch["labels"] != -100).sum()
        found.append(trainer.compute_loss(MODELS[name]().eval(), dict(batch), num_items_in_batch=count).item())
    assert found[0] == pytest.approx(found[1], abs=1e-6)
    with pytest.raises(ValueError, match="A missing label is -1. With several processes or grad.*give -100"):
        model(**batch, num_items_in_batch=count + 4)


@pytest.mark.parametrize("kind", ["multi_label_classification", "regression"])
def test_losses_of_several_labels_sum_over_parts(kind):
    """Of one batch at once, or in parts with the count that the Trainer makes."""
    model = tiny_bert(BarcodeBertForSequenceClassification, num_labels=3, problem_type=kind)
    tokenizer = KmerTokenizer(2, max_nucleotides=24)
    batch = tokenizer(BARCODES, return_tensors="pt")
    labels = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, -100.0], [1.0, 1.0, 0.0], [-100.0, -100.0, 1.0]])
    count = (labels != -100).sum()
    logits = model(**batch).logits
    known = labels != -100
    losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels.clamp(min=0), reduction="none")
    if kind == "regression":
        losses = (logits - labels).square()
    assert model(**batch, labels=labels).loss.item() == pytest.approx(losses[known].mean().item(), rel=1e-5)
    parts = [
        model(**{key: value[rows] for key, value in batch.items()}, labels=labels[rows], num_items_in_batch=count).loss
        for rows in (slice(0, 1), slice(1, 4))
    ]
    assert sum(parts).item() == pytest.approx(losses[known].mean().item(), rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "labels", "message"),
    [
        (
            "regression",
            [0.5, 1.0, 2.0, 3.0],
            r"labels have the shape \(4,\) and logits \(4, 4\). Give integers \(B,\)",
        ),
        (None, [0.0, 1.0, 1.0, 0.0], r"labels have the shape \(4,\) and logits \(4, 4\)"),
        (None, [[0, 1, 0, 0]] * 4, r"labels have the shape \(4, 4\) and logits \(4, 4\)"),
        (
            "multilabel",
            [[1.0, 0.0, 0.0, 0.0]] * 4,
            "Unknown problem_type 'multilabel'. Choose one of single_label",
        ),
    ],
)
def test_labels_that_do_not_fit_are_refused(kind, labels, message):
    """Numbers (B,) would be compared with the logits of every class where there are B classes."""
    model = tiny_bert(BarcodeBertForSequenceClassification, num_labels=4, problem_type=kind)
    batch = KmerTokenizer(2, max_nucleotides=24)(BARCODES, return_tensors="pt")
    with pytest.raises(ValueError, match=message):
        model(**batch, labels=torch.tensor(labels))


def test_sentence_transformers_trains_an_exported_encoder(tmp_path):
    transformers = pytest.importorskip("sentence_transformers")
    losses = pytest.importorskip("sentence_transformers.losses")
    from bioscan_hf.hub.export import export_sentence_transformers

    export_sentence_transformers(
        tiny_bert(BarcodeBertForMaskedLM).bert, KmerTokenizer(2, max_nucleotides=24), tmp_path / "one"
    )
    model = transformers.SentenceTransformer(str(tmp_path / "one"), device="cpu")
    assert not model.encode("A").any() and not model.encode(["A", ""]).any() and model.encode("acgtac").any()
    assert abs(model.encode("ACGUAC") - model.encode("acgtac")).max() < 1e-6
    rows = Dataset.from_dict({"anchor": BARCODES, "positive": BARCODES[::-1]})
    arguments = transformers.SentenceTransformerTrainingArguments(
        str(tmp_path / "run"), max_steps=2, report_to="none", use_cpu=True, disable_tqdm=True, save_steps=1
    )
    loss = losses.MultipleNegativesRankingLoss(model)
    transformers.SentenceTransformerTrainer(model=model, args=arguments, train_dataset=rows, loss=loss).train()
    model.save_pretrained(str(tmp_path / "two"))
    again = transformers.SentenceTransformer(str(tmp_path / "two"), device="cpu")
    assert abs(again.encode(BARCODES) - model.encode(BARCODES)).max() < 1e-6
