"""Small models and inputs that several test files share."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from bioscan_hf.models.configuration_barcodebert import BarcodeBertConfig
from bioscan_hf.models.configuration_barcodemamba import BarcodeMambaConfig
from bioscan_hf.models.configuration_clibd import ClibdConfig
from bioscan_hf.models.modeling_barcodebert import (
    BarcodeBertForMaskedLM,
    BarcodeBertForSequenceClassification,
    BarcodeBertModel,
)
from bioscan_hf.models.modeling_barcodemamba import BarcodeMambaForMaskedLM
from bioscan_hf.models.modeling_clibd import ClibdModel

BERT = {
    "k": 2,
    "max_nucleotides": 24,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
CLIBD_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}

CLIBD = {
    "image_config": {
        "architecture": "vit_base_patch16_224",
        "model_args": {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4},
    },
    "dna_config": {**CLIBD_SIZES, "k": 2, "max_nucleotides": 40},
    "text_config": {**CLIBD_SIZES, "vocab_size": 64, "max_position_embeddings": 32},
}

CLIBD_INPUTS = {"image": ("pixel_values",), "dna": ("dna_input_ids", "dna_attention_mask")}
CLIBD_INPUTS["text"] = ("text_input_ids", "text_attention_mask")

MAMBA = {"k": 2, "max_nucleotides": 24, "hidden_size": 16, "head_dim": 8, "state_size": 4, "chunk_size": 8}

BERT_HEADS = [
    (BarcodeBertModel, {}),
    (BarcodeBertForMaskedLM, {}),
    (BarcodeBertForMaskedLM, {"mlm_head": "tied"}),
    (BarcodeBertForSequenceClassification, {"num_labels": 3}),
]

#: Not in the order of the alphabet, which config.json would put them in.
TREE = {
    "taxa": {
        "order": ["Diptera", "Araneae"],
        "family": ["Culicidae", "Muscidae", "Lycosidae"],
        "genus": ["Aedes", "Musca", "Pardosa", "Culex"],
    },
    "parents": {"family": [0, 0, 1], "genus": [0, 1, -1, 0]},
}

#: Labels of 4 barcodes at the ranks of `TREE`; negative where unknown.
LABELS = torch.tensor([[0, 0, 3], [0, 1, -100], [1, -100, -1], [-100, -100, -100]])


GNAT = {
    "phylum": "Arthropoda",
    "class": "Insecta",
    "order": "Diptera",
    "family": "Sciaridae",
    "subfamily": None,
    "genus": "Claustropyga",
    "species": "Claustropyga acanthostyla",
}
BARCODE = "AACTTTATATTTTATTTTTGGAGCTTGAGCTGGTATAGTAGGAACTTCTCTTAGA"


def tiny_bert(cls=BarcodeBertForMaskedLM, **options):
    torch.manual_seed(0)
    model = cls(BarcodeBertConfig(**(BERT | options))).eval()
    for parameter in model.parameters():  # biases too, which start at zero and would hide a mistake
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def tiny_batch():
    """Four barcodes of 12 tokens: whole, short, one token, none."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(2, 18, (4, 12), generator=generator)
    mask = (torch.arange(12) < torch.tensor([12, 7, 1, 0])[:, None]).long()
    return ids, mask


def tiny_mamba(cls=BarcodeMambaForMaskedLM, **options):
    torch.manual_seed(0)
    model = cls(BarcodeMambaConfig(**(MAMBA | options))).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def tiny_clibd(*modalities, **more):
    """A small model of these modalities, or of all, in evaluation."""
    torch.manual_seed(0)
    configs = {f"{modality}_config": CLIBD[f"{modality}_config"] for modality in modalities or CLIBD_INPUTS}
    return ClibdModel(ClibdConfig(**configs, projection_dim=24, **more)).eval()


def clibd_batch(*modalities):
    """Four specimens; the barcode of the last and the text of the first are padded."""
    generator = torch.Generator().manual_seed(1)
    given = {
        "pixel_values": torch.rand(4, 3, 32, 32, generator=generator),
        "dna_input_ids": torch.randint(2, 18, (4, 20), generator=generator),
        "dna_attention_mask": torch.ones(4, 20, dtype=torch.long),
        "text_input_ids": torch.randint(0, 64, (4, 12), generator=generator),
        "text_attention_mask": torch.ones(4, 12, dtype=torch.long),
    }
    given["dna_attention_mask"][3, 9:] = 0
    given["text_attention_mask"][0, 5:] = 0
    keys = [key for modality in modalities or CLIBD_INPUTS for key in CLIBD_INPUTS[modality]]
    return {key: given[key] for key in keys}


def close(actual, expected, tolerance):
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def step(model, parts, **kwargs):
    """Summed loss and gradients of a step whose batch comes in `parts`: (ids, mask, labels) each."""
    model.zero_grad()
    total = 0.0
    for ids, mask, labels in parts:
        loss = model(ids, mask, labels=labels, **kwargs).loss
        loss.backward()
        total += loss.item()
    return total, gradients(model)


def cut(ids, mask, labels):
    return [(ids[rows], mask[rows], labels[rows]) for rows in (slice(0, 1), slice(1, 4))]


def same_step(one, other):
    assert one[0] == pytest.approx(other[0], abs=1e-6)
    assert one[1].keys() == other[1].keys() and any(grad.any() for grad in one[1].values())
    for name, grad in one[1].items():
        close(grad, other[1][name], 1e-6)


def text_tokenizer():
    """One piece for each letter."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_"
    words = ["[PAD]", "[UNK]", *letters, *(f"##{letter}" for letter in letters)]
    backend = Tokenizer(WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")


def picture(width=60, height=40, mode="RGB", seed=0):
    draw = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(draw).convert(mode)


def encoded(image, form="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def clibd_rows(count=6):
    """Rows of a dataset with photos, barcodes and taxonomies; the first has no species."""
    return [
        {"processid": f"P{i}", "image": {"bytes": encoded(picture(seed=i)), "path": None}, "dna_barcode": BARCODE[i:]}
        | GNAT
        | {"genus": f"G{i % 2}", "species": f"G{i % 2} s{i % 3}" if i else None}
        for i in range(count)
    ]
