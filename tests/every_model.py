"""A tiny model of every class, and its inputs."""

import numpy as np
import torch
from tiny import BERT, TREE, clibd_batch, tiny_clibd

from bioscan_hf.models.configuration_alignedbarcode import AlignedBarcodeConfig
from bioscan_hf.models.configuration_barcodebert import BarcodeBertConfig
from bioscan_hf.models.configuration_barcodemamba import PUBLISHED, BarcodeMambaConfig
from bioscan_hf.models.modeling_alignedbarcode import AlignedBarcodeModel
from bioscan_hf.models.modeling_barcodebert import (
    BarcodeBertForMaskedLM,
    BarcodeBertForSequenceClassification,
    BarcodeBertModel,
)
from bioscan_hf.models.modeling_barcodemae import BarcodeMaeForPreTraining
from bioscan_hf.models.modeling_barcodemamba import (
    BarcodeMambaForMaskedLM,
    BarcodeMambaForSequenceClassification,
    BarcodeMambaModel,
)
from bioscan_hf.models.tokenization_kmer import KmerTokenizer

MAMBA = {"k": 2, "max_nucleotides": 24, "hidden_size": 16, "num_hidden_layers": 1, "head_dim": 8, "state_size": 4}
LETTERS = np.random.default_rng(0).choice(list("ACGT"), (8, 24))
BARCODES = ["".join(row) for row in LETTERS[:7]] + ["".join(LETTERS[7, :9])]


def barcode_bert(cls, **options):
    torch.manual_seed(0)
    return cls(BarcodeBertConfig(**(BERT | options))).eval()


def barcode_mamba(cls, **options):
    torch.manual_seed(0)
    return cls(BarcodeMambaConfig(**(MAMBA | options))).eval()


def aligned_barcode():
    torch.manual_seed(0)
    config = AlignedBarcodeConfig(positions=24, max_nucleotides=40, embedding_size=8, hidden_size=12)
    model = AlignedBarcodeModel(config).eval()
    inputs = inputs_of(model)
    model.fit_region([(inputs["input_ids"][:7], inputs["attention_mask"][:7])])
    return model


#: A masked autoencoder with [CLS] and a head of genera.
NAMES = {"decoder_num_hidden_layers": 1, "vocabulary": "barcodebert-cls", "pooling": "cls"}
NAMES |= {"taxon_objective": "classes", "taxon_objective_classes": 3}

#: Name of the class -> a tiny model of it.
MODELS = {
    "BarcodeBertModel": lambda: barcode_bert(BarcodeBertModel),
    "BarcodeBertForMaskedLM": lambda: barcode_bert(BarcodeBertForMaskedLM),
    "BarcodeBertForMaskedLM, tied": lambda: barcode_bert(BarcodeBertForMaskedLM, mlm_head="tied"),
    "BarcodeBertForSequenceClassification": lambda: barcode_bert(BarcodeBertForSequenceClassification, **TREE),
    "BarcodeMaeForPreTraining": lambda: barcode_bert(BarcodeMaeForPreTraining, decoder_num_hidden_layers=1),
    "BarcodeMaeForPreTraining, names": lambda: barcode_bert(BarcodeMaeForPreTraining, **NAMES),
    "BarcodeMambaModel": lambda: barcode_mamba(BarcodeMambaModel),
    "BarcodeMambaForMaskedLM": lambda: barcode_mamba(BarcodeMambaForMaskedLM),
    "BarcodeMambaModel, published": lambda: barcode_mamba(BarcodeMambaModel, **PUBLISHED),
    "BarcodeMambaForMaskedLM, published": lambda: barcode_mamba(BarcodeMambaForMaskedLM, **PUBLISHED),
    "BarcodeMambaForSequenceClassification": lambda: barcode_mamba(BarcodeMambaForSequenceClassification, **TREE),
    "BarcodeMambaForSequenceClassification, published": lambda: barcode_mamba(
        BarcodeMambaForSequenceClassification, **PUBLISHED, **TREE
    ),
    "AlignedBarcodeModel": aligned_barcode,
    "ClibdModel": tiny_clibd,
}


def inputs_of(model):
    """A batch for the model, with labels for heads; the last barcode is short."""
    if model.config.model_type == "clibd":
        return clibd_batch()
    config = model.config
    tokenizer = KmerTokenizer(config.k, config.vocabulary, max_nucleotides=config.max_nucleotides)
    ids, mask = map(torch.from_numpy, tokenizer.encode_column(BARCODES))
    inputs = {"input_ids": ids, "attention_mask": mask}
    if type(model).__name__.endswith(("MaskedLM", "PreTraining")):
        inputs["labels"] = ids.masked_fill(mask == 0, -100)
    elif "Classification" in type(model).__name__:
        inputs["labels"] = torch.tensor([[0, 0, 0], [0, 1, 1], [1, 2, 2], [0, 0, 3]]).repeat(2, 1)
    return inputs
