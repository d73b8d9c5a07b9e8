"""The mean over reading frames, against the embeddings of each frame."""

import numpy as np
import pytest
import torch

from bioscan_hf.encoders.barcode_encoders import load_encoder
from bioscan_hf.encoders.batches import embed_barcodes, inference
from bioscan_hf.models.configuration_alignedbarcode import AlignedBarcodeConfig
from bioscan_hf.models.configuration_barcodebert import BarcodeBertConfig
from bioscan_hf.models.modeling_alignedbarcode import AlignedBarcodeModel
from bioscan_hf.models.modeling_barcodebert import BarcodeBertModel
from bioscan_hf.models.tokenization_kmer import KmerTokenizer

SHAPE = {"k": 3, "max_nucleotides": 30, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    BarcodeBertModel(BarcodeBertConfig(**SHAPE, num_attention_heads=2, initializer_range=0.5)).save_pretrained(folder)
    KmerTokenizer(k=3, max_nucleotides=30).save_pretrained(folder)
    return folder


def embed(name, barcodes):
    model, processor = load_encoder(name)
    with inference(model):
        return embed_barcodes(model, processor, barcodes, batch_size=2)


def test_it_is_the_mean_of_the_frames(folder):
    """The barcode without its first 0, 1 and 2 nucleotides. A short one has fewer frames; the shortest has none."""
    letters = np.random.default_rng(0).choice(list("ACGT"), (5, 30))
    barcodes = ["".join(row[:length]) for row, length in zip(letters, (30, 29, 12, 4, 2), strict=True)]
    found, valid = embed(f"frames:{folder}", barcodes)
    assert valid.tolist() == [True] * 4 + [False] and not found[4].any()
    for row, barcode in enumerate(barcodes[:4]):
        frames = [barcode[offset:] for offset in range(3) if len(barcode) - offset >= 3]
        expected = embed(str(folder), frames)[0].mean(0)
        np.testing.assert_allclose(found[row], expected, atol=1e-5)
        assert len(frames) == (2 if len(barcode) == 4 else 3)


def test_a_read_that_starts_later_stays_near(folder):
    """30 nucleotides against themselves without the first: nearer in the mean over frames than in one frame."""
    letters = np.random.default_rng(1).choice(list("ACGT"), (20, 30))
    whole = ["".join(row) for row in letters]
    cosine, length = {}, np.linalg.norm
    for name in (str(folder), f"frames:{folder}"):
        first, second = (embed(name, barcodes)[0] for barcodes in (whole, [barcode[1:] for barcode in whole]))
        first, second = (rows - np.concatenate([first, second]).mean(0) for rows in (first, second))
        cosine[name] = np.mean((first * second).sum(1) / length(first, axis=1) / length(second, axis=1))
    assert cosine[f"frames:{folder}"] > cosine[str(folder)] + 0.2


def test_models_without_frames_are_refused(tmp_path):
    AlignedBarcodeModel(AlignedBarcodeConfig(positions=20, embedding_size=4, anchor_k=4)).save_pretrained(tmp_path)
    KmerTokenizer(k=1, max_nucleotides=20).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="^'frames:.*BarcodeBERT or BarcodeMamba.* is of type alignedbarcode"):
        load_encoder(f"frames:{tmp_path}")
    with pytest.raises(OSError, match="No model at 'frames:"):
        load_encoder("frames:absent/folder/x")
