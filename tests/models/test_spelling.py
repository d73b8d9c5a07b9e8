"""Barcodes mean the same in every spelling, to the tokenizer, k-mer counts and every encoder."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from every_model import MODELS
from hypothesis import given, settings
from hypothesis import strategies as st

from bioscan_hf import barcodes
from bioscan_hf.encoders.cnn import cnn_inputs
from bioscan_hf.encoders.embed import embed
from bioscan_hf.encoders.kmers import kmer_counts
from bioscan_hf.models import spelling, tokenization_kmer
from bioscan_hf.models.tokenization_kmer import KmerTokenizer
from bioscan_hf.schema import MISSING_TAXA

SPACES = [" ", "\t", "\n", "\r", "\x0b", "\x1c", "\x85", "\xa0", "\u2009", "\u3000"]
MARKERS = st.sampled_from(sorted(MISSING_TAXA)) | st.sampled_from(["NA", "NaN", "N", "Unknown", " - "])


@st.composite
def spellings(draw):
    """A barcode, and the same in another spelling."""
    barcode = draw(st.text("ACGTN", max_size=60) | st.text("ACGTNRYK", max_size=60))
    parts = []
    for letter in barcode:
        letter = draw(st.sampled_from(["T", "U"])) if letter == "T" else letter
        letter = letter.lower() if draw(st.booleans()) else letter
        parts.append(letter + draw(st.sampled_from(["", "", "", "-", ".", "--", *SPACES])))
    return barcode, draw(st.sampled_from(["", "-", " ", "..."])) + "".join(parts)


def test_the_rule_of_the_tokenizer_is_that_of_barcodes():
    assert spelling.MISSING == MISSING_TAXA and spelling.LETTERS.decode() == barcodes.LETTERS


@settings(max_examples=300, deadline=None)
@given(spellings() | st.text(max_size=12) | MARKERS)
def test_the_rule_agrees_for_any_text(drawn):
    for barcode in [drawn] if isinstance(drawn, str) else drawn:
        spelled = barcodes.spell(barcode)
        assert spelling.spell(barcode) == (spelled or "")


@settings(max_examples=150, deadline=None)
@given(st.lists(spellings(), min_size=1, max_size=4), st.sampled_from([(1, "barcodebert"), (4, "barcodebert"),
       (3, "barcodebert-n"), (5, "clibd"), (2, "barcodebert-2023")]))  # fmt: skip
def test_tokens_and_counts_are_equal_for_equal_barcodes(drawn, form):
    """One by one, in a batch, in a column of any kind, with and without pyarrow."""
    plain, other = map(list, zip(*drawn, strict=True))
    k, vocabulary = form
    tokenizer = KmerTokenizer(k, vocabulary, max_nucleotides=66)
    ids, mask = tokenizer.encode_column(plain)
    for column in (other, pa.array(other), pa.array(other).dictionary_encode(), pa.chunked_array([other, other])[2:]):
        if len(column) == len(plain):
            np.testing.assert_array_equal(tokenizer.encode_column(column), (ids, mask))
    batch = tokenizer(plain)
    assert tokenizer(other).data == batch.data
    for row, barcode in enumerate(other):
        assert tokenizer(barcode)["input_ids"] == batch["input_ids"][row]
        assert tokenizer(barcode)["attention_mask"] == mask[row].tolist()
    np.testing.assert_array_equal(kmer_counts(other, k), kmer_counts(plain, k))
    assert torch.equal(cnn_inputs(other)["letters"], cnn_inputs(plain)["letters"])
    arrow, tokenization_kmer.pa = tokenization_kmer.pa, None
    try:
        np.testing.assert_array_equal(tokenizer.encode_column(other), (ids, mask))
    finally:
        tokenization_kmer.pa = arrow


def test_encoders_agree_on_all_spellings():
    """The model called with the tokens of each spelling, and `embed`; a missing barcode is a row of zeros."""
    plain = "ACGTTACCGTACGTTACGGATTAC"
    others = ["acgttaccgtacgttacggattac", "ACGUUACCGUACGUUACGGAUUAC", "--ACGTTACC-GTACG TTACGG.ATTAC\n", " NA", "none"]
    table = pa.table({"processid": [f"P{i}" for i in range(6)], "dna_barcode": [plain, *others]})
    for name in ("AlignedBarcodeModel", "BarcodeBertModel", "BarcodeMambaModel"):
        model = MODELS[name]()
        tokenizer = KmerTokenizer(model.config.k, max_nucleotides=model.config.max_nucleotides)
        with torch.no_grad():
            called = model(**tokenizer([plain, *others], return_tensors="pt")).pooler_output
        found = embed(model, tokenizer, table, missing="invalid")
        assert found.valid.tolist() == [True] * 4 + [False] * 2
        for vectors in (called, torch.from_numpy(found.embeddings)):
            assert vectors[0].any() and not vectors[4:].any()
            torch.testing.assert_close(vectors[1:4], vectors[:1].expand(3, -1), rtol=0, atol=1e-6)


def test_columns_without_pyarrow(monkeypatch):
    """Lists are encoded, and errors are the same."""
    tokenizer = KmerTokenizer(2, max_nucleotides=12)
    expected = tokenizer.encode_column(["ACGT", "", "ä"])
    monkeypatch.setattr(tokenization_kmer, "pa", None)
    np.testing.assert_array_equal(tokenizer.encode_column(("ACGT", "", "ä")), expected)
    with pytest.raises(ValueError, match=r"1 of 2 barcodes are missing \(row 1\)"):
        tokenizer.encode_column(["ACGT", None])
    with pytest.raises(TypeError, match="A column of barcodes holds strings, but: 1"):
        tokenizer.encode_column([1])
