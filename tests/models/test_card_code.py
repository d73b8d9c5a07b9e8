"""The Python example of each model card runs with a saved model."""

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from bioscan_hf.hub.cards import barcodebert_card, clibd_card
from bioscan_hf.models.configuration_alignedbarcode import AlignedBarcodeConfig
from bioscan_hf.models.configuration_barcodebert import BarcodeBertConfig
from bioscan_hf.models.configuration_barcodemamba import BarcodeMambaConfig
from bioscan_hf.models.configuration_clibd import ClibdConfig
from bioscan_hf.models.modeling_alignedbarcode import AlignedBarcodeModel
from bioscan_hf.models.modeling_barcodebert import BarcodeBertForMaskedLM, BarcodeBertForSequenceClassification
from bioscan_hf.models.modeling_barcodemamba import BarcodeMambaForMaskedLM
from bioscan_hf.models.modeling_clibd import ClibdModel
from bioscan_hf.models.processing_clibd import ClibdProcessor, make_image_processor
from bioscan_hf.models.tokenization_kmer import KmerTokenizer

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
REST = {"dataset": "release", "splits": {"train": 4}, "options": {"validation_split": "none"}}
NOT_EVALUATED = {"train_loss_nats": 0.5, "independent": {}, "consistent": {}}


def run(card, folder):
    """Variables after running the Python block of a card, with the folder in place of the repository."""
    blocks = card.split("```python\n")[1:]
    assert len(blocks) == 1 and "PATH_OR_HUB_ID" in blocks[0]
    made = {}
    with torch.no_grad():
        exec(blocks[0].split("```")[0].replace("PATH_OR_HUB_ID", str(folder)), made)
    return made


def described(model, **more):
    """Entries of a results file about a model."""
    config = model.config.to_dict()
    names = ("k", "num_hidden_layers", "hidden_size", "num_attention_heads", "state_size")
    names += ("positions", "embedding_size", "profile_weight")
    shape = {name: config[name] for name in names if name in config}
    return {"parameters": model.num_parameters(), **shape, **more}


@pytest.mark.parametrize(
    ("model", "task"),
    [
        (lambda: BarcodeBertForMaskedLM(BarcodeBertConfig(k=2, **SIZES)), "barcodebert/pretrain"),
        (
            lambda: BarcodeMambaForMaskedLM(
                BarcodeMambaConfig(k=2, hidden_size=16, num_hidden_layers=1, head_dim=8, state_size=4)
            ),
            "barcodebert/pretrain",
        ),
        (lambda: AlignedBarcodeModel(AlignedBarcodeConfig(positions=24, embedding_size=4)), "barcodes/contrast"),
        (
            lambda: AlignedBarcodeModel(AlignedBarcodeConfig(positions=24, embedding_size=4, profile_weight=0.5)),
            "barcodes/contrast",
        ),
        (lambda: BarcodeBertForMaskedLM(BarcodeBertConfig(k=2, **SIZES)).bert, "barcodes/contrast"),
    ],
    ids=["barcodebert", "barcodemamba", "aligned", "aligned-profile", "contrast"],
)
def test_encoders_of_barcodes(model, task, tmp_path):
    """The embedding has the width in the comment of the example."""
    torch.manual_seed(0)
    model = model()
    tokenizer = KmerTokenizer(k=model.config.k)
    aligned = model.config.model_type == "alignedbarcode"
    if aligned:  # fitted to ten copies of one read
        read = "".join(np.random.default_rng(0).choice(list("ACGT"), 24))
        model.fit_region([tuple(map(torch.from_numpy, tokenizer.encode_column([read] * 10)))])
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    width = model.config.output_size if aligned else model.config.hidden_size
    results = REST | {"task": task, "model": described(model, output_size=width), "metrics": {}}
    card = barcodebert_card("Tiny", results)
    made = run(card, tmp_path)
    assert tuple(made["embedding"].shape) == (1, width) and f"pooler_output  # (1, {width})" in card
    assert torch.isfinite(made["embedding"]).all()


@pytest.mark.parametrize("ranks", [["genus", "species"], ["species"]], ids="+".join)
def test_classifiers_of_barcodes(ranks, tmp_path):
    """The result is a taxon for each of several ranks, or a name for one rank."""
    torch.manual_seed(0)
    names = {rank: [f"{rank} {i}" for i in range(3)] for rank in ranks}
    several = {"taxa": names, "parents": {"species": [0, 1, 2]}}
    one = {
        "id2label": dict(enumerate(names["species"])),
        "label2id": {name: i for i, name in enumerate(names["species"])},
    }
    config = BarcodeBertConfig(k=2, **SIZES, **(several if len(ranks) > 1 else one))
    model = BarcodeBertForSequenceClassification(config)
    model.save_pretrained(tmp_path)
    KmerTokenizer(k=2).save_pretrained(tmp_path)
    counts = {rank: len(of_rank) for rank, of_rank in names.items()}
    results = REST | {"task": "barcodebert/finetune", "model": described(model, classes=counts)}
    made = run(barcodebert_card("Tiny", results | {"metrics": NOT_EVALUATED}), tmp_path)
    if len(ranks) == 1:
        assert made["name"] in names["species"]
    else:
        assert list(made["taxa"]) == ranks


def text_tokenizer():
    """A tokenizer with two words."""
    backend = Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1, "Diptera": 2, "Sciaridae": 3}, unk_token="[UNK]"))
    backend.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")


@pytest.mark.parametrize(
    "modalities", [("image", "dna", "text"), ("image", "dna"), ("dna", "text"), ("dna",)], ids="+".join
)
def test_clibd(modalities, tmp_path, monkeypatch):
    """The example reads a photo beside the script, and computes the cosine of one specimen."""
    torch.manual_seed(0)
    photos = {"img_size": 32, "patch_size": 16, "embed_dim": 16, "depth": 1, "num_heads": 2}
    configs = {
        "image": {"architecture": "vit_tiny_patch16_224", "model_args": photos},
        "dna": {"k": 2, **SIZES},
        "text": {"vocab_size": 4, **SIZES},
    }
    fields = {f"{modality}_config": configs[modality] for modality in modalities}
    model = ClibdModel(ClibdConfig(**fields, projection_dim=8))
    model.save_pretrained(tmp_path)
    text = text_tokenizer() if "text" in modalities else None
    ClibdProcessor(make_image_processor(32), KmerTokenizer(k=2), text).save_pretrained(tmp_path)
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (40, 50, 3), np.uint8)).save(tmp_path / "specimen.jpg")
    monkeypatch.chdir(tmp_path)
    about = {"modalities": list(modalities), "projection_dim": 8, "parameters": 9, "trained_parameters": 9}
    metrics = {"train_loss_nats": None, "retrieval": {}}
    made = run(clibd_card("Tiny", REST | {"task": "clibd/train", "model": about, "metrics": metrics}), tmp_path)
    assert made["similarity"].shape == (1, 1) and -1.0001 <= made["similarity"].item() <= 1.0001
    assert all(made["output"][f"{modality}_embeds"].shape == (1, 8) for modality in modalities)
