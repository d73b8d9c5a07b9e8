"""transformers' own pipelines, and peft's usual adapters, with our models."""

import pytest
import torch
from tiny import TREE, close, tiny_batch, tiny_bert, tiny_mamba
from transformers import pipeline

import bioscan_hf.auto  # noqa: F401
from bioscan_hf.models.modeling_barcodebert import BarcodeBertForMaskedLM, BarcodeBertForSequenceClassification
from bioscan_hf.models.modeling_barcodemamba import BarcodeMambaForMaskedLM, BarcodeMambaForSequenceClassification
from bioscan_hf.models.tokenization_kmer import KmerTokenizer

MASKED = {
    "kmers": lambda **more: tiny_bert(BarcodeBertForMaskedLM, **more),
    "tied": lambda **more: tiny_bert(BarcodeBertForMaskedLM, mlm_head="tied", **more),
    "mamba": lambda **more: tiny_mamba(BarcodeMambaForMaskedLM, **more),
    "mamba, next": lambda **more: tiny_mamba(BarcodeMambaForMaskedLM, objective="next", **more),
}


@pytest.mark.parametrize("vocabulary", ["barcodebert", "barcodebert-2023", "clibd", "barcodebert-n"])
@pytest.mark.parametrize("head", MASKED)
def test_fill_mask(head, vocabulary):
    """A head that only predicts GT gives GT, to the task, its `targets`, and the argmax of the logits."""
    model = MASKED[head](vocabulary=vocabulary)
    tokenizer = KmerTokenizer(2, vocabulary, max_nucleotides=24)
    expected = tokenizer.convert_tokens_to_ids("GT")
    layer = model.cls.predictions.decoder if head == "tied" else model.classifier
    with torch.no_grad():
        layer.bias.fill_(-20)
        layer.bias[expected - (0 if head == "tied" else model.config.num_special_tokens)] = 40
    batch = tokenizer(["GTACGT"], return_tensors="pt")
    assert (model(**batch).logits.argmax(-1) == expected).all()
    labels = torch.full_like(batch["input_ids"], -100)
    labels[0, 1] = expected
    assert model(**batch, labels=labels).loss.item() < 1e-3
    if vocabulary == "barcodebert-n":  # whose tokenizer reads "[MASK]" as letters
        return
    fill = pipeline("fill-mask", model=model, tokenizer=tokenizer, device="cpu")
    text = f"GT{tokenizer.mask_token}GT"
    found = [fill(text, top_k=1), fill(text, targets=["TT"])]
    if vocabulary == "clibd":  # its leading token is the mask token, and so is answered as well
        found = [answers[1] for answers in found]
    assert [answer["token_str"] for answer in found[0]] == ["GT"]
    assert [(answer["token_str"], answer["score"] < 1e-3) for answer in found[1]] == [("TT", True)]


def test_text_classification():
    """Of one rank, and of the lowest of several, with its probabilities."""
    tokenizer = KmerTokenizer(2, max_nucleotides=24)
    names = {0: "Aedes", 1: "Culex"}
    one = tiny_bert(BarcodeBertForSequenceClassification, id2label=names, label2id={"Aedes": 0, "Culex": 1})
    answers = pipeline("text-classification", model=one, tokenizer=tokenizer, device="cpu")(
        ["ACGT", "acgu"], top_k=None
    )
    assert [{answer["label"] for answer in found} for found in answers] == [set(names.values())] * 2
    assert answers[0] == answers[1] and sum(answer["score"] for answer in answers[0]) == pytest.approx(1)
    for several in (
        tiny_bert(BarcodeBertForSequenceClassification, **TREE),
        tiny_mamba(BarcodeMambaForSequenceClassification, **TREE),
    ):
        task = pipeline("text-classification", model=several, tokenizer=tokenizer, device="cpu")
        (best,) = task("ACGTACGT")
        (found,) = task(["ACGTACGT"], top_k=None)
        by_rank = pipeline("dna-classification", model=several, tokenizer=tokenizer)("ACGTACGT", top_k=None)
        named = {one["label"]: one["score"] for one in by_rank if one["rank"] == "genus" and one["label"]}
        assert {one["label"] for one in found} == set(TREE["taxa"]["genus"]) and found[0] == best
        assert [one["score"] for one in found] == sorted(named.values(), reverse=True)
        assert {one["label"]: one["score"] for one in found} == named and task("ACGTACGT", top_k=2) == found[:2]


def test_a_task_without_a_model_says_what_to_pass():
    for task, told in (
        ("dna-classification", "has no default model.*Pass model=: a classifier .*or a library of references"),
        ("dna-feature-extraction", "an encoder of barcodes"),
        ("zero-shot-species-retrieval", "a CLIBD model .*, and index="),
    ):
        with pytest.raises(ValueError, match=told):
            pipeline(task)


@pytest.mark.parametrize("cls", [BarcodeBertForSequenceClassification, BarcodeMambaForSequenceClassification])
def test_all_linear_adapters(cls, tmp_path):
    """The head is trained whole and saved, the other layers get adapters."""
    peft = pytest.importorskip("peft")
    make = tiny_bert if cls is BarcodeBertForSequenceClassification else tiny_mamba
    chosen = peft.LoraConfig(task_type=peft.TaskType.SEQ_CLS, target_modules="all-linear")
    model = peft.get_peft_model(make(cls, num_labels=3), chosen)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert any("taxon_classifier.modules_to_save" in name for name in trained)
    assert any("lora_A" in name for name in trained) and not any(
        "classifier" in name and "lora" in name for name in trained
    )
    ids, mask = tiny_batch()
    model.train()
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], 0.5)
    model(input_ids=ids, attention_mask=mask, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    optimizer.step()
    expected = model.eval()(input_ids=ids, attention_mask=mask).logits
    model.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(make(cls, num_labels=3), tmp_path).eval()
    close(loaded(input_ids=ids, attention_mask=mask).logits, expected, 1e-6)
    assert (make(cls, num_labels=3)(ids, mask).logits - expected).abs().max() > 1e-3
