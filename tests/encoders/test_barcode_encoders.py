"""k-mer counts against a plain loop over strings, in every form a column may have; and encoders by name."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertConfig

from bioscan_hf.barcodes import spell
from bioscan_hf.encoders import kmers
from bioscan_hf.encoders.barcode_encoders import load_encoder
from bioscan_hf.encoders.base import split_name
from bioscan_hf.encoders.embed import embed
from bioscan_hf.encoders.image_encoders import load_image_encoder
from bioscan_hf.encoders.kmers import kmer_counts, kmer_encoder
from bioscan_hf.models.configuration_barcodebert import BarcodeBertConfig
from bioscan_hf.models.modeling_barcodebert import BarcodeBertModel
from bioscan_hf.models.tokenization_kmer import KmerTokenizer


def counts_by_loop(barcodes, k):
    """The definition, one k-mer at a time, of barcodes in their one spelling."""
    counts = np.zeros((len(barcodes), 4**k), np.float32)
    for row, barcode in enumerate(spell(barcode) or "" for barcode in barcodes):
        for start in range(len(barcode) - k + 1):
            kmer = barcode[start : start + k]
            if set(kmer) <= set("ACGT"):
                counts[row, int("".join(str("ACGT".index(letter)) for letter in kmer), 4)] += 1
    return counts


columns = st.lists(st.text(st.sampled_from("ACGTACGTACGTNacgt-é"), max_size=30), max_size=12)


def test_hand_made_counts():
    """ACGTAC holds AC (twice), CG, GT, TA. With A=0, C=1, G=2, T=3 their places are 1, 6, 11 and 12."""
    expected = np.zeros((1, 16))
    expected[0, [1, 6, 11, 12]] = [2, 1, 1, 1]
    counts = kmer_counts(["ACGTAC"], k=2)
    np.testing.assert_array_equal(counts, expected)
    assert counts.dtype == np.float32


@given(columns, st.integers(1, 6))
def test_equals_the_loop(barcodes, k):
    """Rows of any length, empty ones too, N, lower case and a letter of two bytes: no k-mer of two rows, none over
    another letter."""
    np.testing.assert_array_equal(kmer_counts(barcodes, k), counts_by_loop(barcodes, k))


@given(columns.filter(lambda column: len(column) > 2), st.integers(1, 3))
def test_every_form_of_a_column_gives_the_same(barcodes, k):
    """Lists, Arrow strings of both widths, slices with an offset, chunks, and a column of a Dataset."""
    expected = counts_by_loop(barcodes, k)
    chunked = pa.chunked_array([pa.array(barcodes[:2]), pa.array([], pa.string()), pa.array(barcodes[2:])])
    sliced = pa.array(["GATTACA", *barcodes, "GATTACA"]).slice(1, len(barcodes))
    for column in (tuple(barcodes), pa.array(barcodes, pa.large_string()), chunked, sliced):
        np.testing.assert_array_equal(kmer_counts(column, k), expected)


def test_column_of_a_dataset():
    dataset = Dataset.from_dict({"dna_barcode": ["ACGT", "AAN"]})
    np.testing.assert_array_equal(kmer_counts(dataset["dna_barcode"], 2), counts_by_loop(["ACGT", "AAN"], 2))


def test_blocks_do_not_change_the_counts(monkeypatch):
    """Blocks of 50 nucleotides or 50 counts: barcodes longer than a block, and several of them in one."""
    rng = np.random.default_rng(0)
    barcodes = ["".join(rng.choice(list("ACGTN"), size)) for size in (0, 3, 120, 49, 50, 51, 1, 1, 1, 0, 0, 70)]
    for k in (1, 2, 4):
        monkeypatch.setattr(kmers, "BLOCK", 50)
        np.testing.assert_array_equal(kmer_counts(barcodes, k), counts_by_loop(barcodes, k))


def test_largest_k():
    """The last k-mer in the alphabet, TTTTTTTT, has the last place."""
    assert kmer_counts(["NTTTTTTTT"], k=8).nonzero()[1].tolist() == [4**8 - 1]


def test_both_strands_are_not_mixed():
    """A barcode's strand is known: AAC and its reverse complement GTT are two k-mers."""
    assert (kmer_counts(["AAC"], k=3) != kmer_counts(["GTT"], k=3)).any()


def test_normalized_rows_have_length_one_or_are_zero():
    """AAAC at k=2: AA twice, AC once; the length is sqrt(5). A barcode without a k-mer stays zero, not NaN."""
    rows = kmer_counts(["AAAC", "NN", "A"], k=2, normalize=True)
    np.testing.assert_allclose(rows[0, :2], [2 / 5**0.5, 1 / 5**0.5], rtol=1e-6)
    assert (rows[1:] == 0).all()


def test_no_barcodes():
    assert kmer_counts([], k=3).shape == kmer_counts(pa.chunked_array([], pa.string()), k=3).shape == (0, 64)


@pytest.mark.parametrize("k", [0, 9])
def test_k_out_of_range_is_refused(k):
    for function in (lambda: kmer_counts(["ACGT"], k), lambda: kmer_encoder(k)):
        with pytest.raises(ValueError, match=f"k={k} .* between 1 and 8"):
            function()


def test_missing_barcode_is_refused_by_row():
    with pytest.raises(ValueError, match=r"1 of 3 barcodes are missing \(row 1\)"):
        kmer_counts(["ACGT", None, "ACGT"])
    with pytest.raises(TypeError, match="holds strings, but this one holds int64"):
        kmer_counts(pa.array([1, 2]))


def test_encoder_gives_counts_of_length_one_and_a_mask():
    model, processor = kmer_encoder(k=3)
    barcodes = ["ACGTACGT", "AC", "ANANAN"]
    inputs = processor(barcodes)
    output = model(**inputs).pooler_output
    torch.testing.assert_close(output, torch.from_numpy(kmer_counts(barcodes, 3, normalize=True)))
    assert inputs["attention_mask"].tolist() == [[1], [0], [0]]
    assert not list(model.parameters())


def test_several_k_weigh_the_same():
    """AAAC has AA twice and AC once, and AAA and AAC once: rows of length 1 side by side, of which one may be zero."""
    model, processor = load_encoder("kmer:2+3")
    inputs = processor(["AAAC", "AC", "N"])
    output = model(**inputs).pooler_output
    assert output.shape == (3, 16 + 64) and inputs["attention_mask"].tolist() == [[1], [1], [0]]
    expected = [kmer_counts(["AAAC", "AC", "N"], k, normalize=True) for k in (2, 3)]
    torch.testing.assert_close(output, torch.from_numpy(np.concatenate(expected, axis=1)))
    assert output.norm(dim=1).tolist() == pytest.approx([2**0.5, 1, 0])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("kmer:", "'kmer:': after 'kmer:' comes a number from 1 to 8, or several, such as kmer:4 or kmer:4.6"),
        ("kmer:4+", "'kmer:4.': after 'kmer:' comes a number"),
        ("kmer:4+9", "k=9 .* between 1 and 8"),
    ],
)
def test_bad_names_of_kmer_encoders_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        load_encoder(name)


@pytest.mark.parametrize("name", ["absent/absent/absent", "cnn:absent/absent/absent", "hf:absent/absent/absent"])
def test_absent_model_is_refused_with_what_there_is(name):
    with pytest.raises(OSError, match=f"No model at '{name}'. An encoder is .*kmer:K.*cnn:FOLDER.*hf:ID"):
        load_encoder(name)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("kmer:4+6", ("kmer", "4+6")),
        ("hf:zhihan1996/DNABERT-S", ("hf", "zhihan1996/DNABERT-S")),
        ("bioscan-ml/BarcodeBERT", (None, "bioscan-ml/BarcodeBERT")),
        ("C:/models/cnn", (None, "C:/models/cnn")),
        ("timm", (None, "timm")),
    ],
)
def test_names_are_split_at_a_known_kind(name, parts):
    assert split_name(name) == parts


def test_encoders_of_photos_and_barcodes_are_not_confused():
    with pytest.raises(ValueError, match="'timm:resnet50' is an encoder of photos, not of barcodes. An encoder is"):
        load_encoder("timm:resnet50")
    with pytest.raises(ValueError, match="'kmer:4' is an encoder of barcodes. An encoder of photos is"):
        load_image_encoder("kmer:4")


def test_model_of_another_type_is_refused_with_the_way_to_load_it(tmp_path):
    BertConfig(hidden_size=16).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match="of type 'bert', which is not one of ours. .* write hf:.* An encoder is .*kmer:K"
    ):
        load_encoder(str(tmp_path))


def test_barcodebert_is_loaded_by_its_folder(tmp_path):
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    BarcodeBertModel(BarcodeBertConfig(k=2, **shape)).save_pretrained(tmp_path)
    KmerTokenizer(k=2).save_pretrained(tmp_path)
    model, processor = load_encoder(str(tmp_path))
    assert isinstance(model, BarcodeBertModel) and isinstance(processor, KmerTokenizer)


def test_the_pooling_of_a_model_with_a_cls_token(tmp_path):
    """[CLS], the mean of the other tokens, and what the folder says; in batches with padding and alone."""
    shape = {"k": 2, "max_nucleotides": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BarcodeBertConfig(**shape, intermediate_size=16, vocabulary="barcodebert-cls", pooling="cls")
    torch.manual_seed(0)
    BarcodeBertModel(config).save_pretrained(tmp_path)
    KmerTokenizer(2, "barcodebert-cls", max_nucleotides=40).save_pretrained(tmp_path)
    rows = Dataset.from_dict({"processid": ["A", "B", "C"], "dna_barcode": ["ACGTACGT", "ACGGT" * 8, "A"]})
    found = {}
    for pooling in (None, "cls", "tokens", "masked_mean"):
        model, tokenizer = load_encoder(str(tmp_path), pooling=pooling)
        found[pooling] = embed(model, tokenizer, rows)
        hidden = model(**tokenizer("ACGTACGT", return_tensors="pt")).last_hidden_state[0, :5].detach().numpy()
        wanted = {None: hidden[0], "cls": hidden[0], "tokens": hidden[1:].mean(0), "masked_mean": hidden.mean(0)}
        np.testing.assert_allclose(found[pooling].embeddings[0], wanted[pooling], atol=1e-5)
    assert found[None].valid.tolist() == [True, True, False]
    assert np.abs(found["cls"].embeddings - found["tokens"].embeddings).max() > 0.1
    for name, message in ((str(tmp_path), "Unknown pooling 'first'"), ("kmer:2", "'kmer:2' has its own pooling")):
        with pytest.raises(ValueError, match=message):
            load_encoder(name, pooling="first")


def test_a_clibd_model_embeds_barcodes_by_its_tower_of_barcodes(tmp_path):
    """The unit vectors that the model itself gives; a model without that tower is refused."""
    from clibd_runs import make_folder

    from bioscan_hf.models.modeling_clibd import ClibdModel
    from bioscan_hf.models.processing_clibd import ClibdProcessor

    folder = str(make_folder(tmp_path / "clibd"))
    barcodes = ["ACGTTGCAACGT" * 5, "TTTTACGATTTT" * 6]
    rows = pa.table({"processid": ["a", "b"], "dna_barcode": barcodes})
    found = embed(*load_encoder(folder), rows).embeddings
    inputs = ClibdProcessor.from_pretrained(folder)(dna=barcodes)
    with torch.inference_mode():
        clibd = ClibdModel.from_pretrained(folder).eval()
        expected = clibd.get_dna_features(inputs["dna_input_ids"], inputs["dna_attention_mask"])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert abs(found[0] - found[1]).max() > 1e-3, "all alike: this test would prove nothing"
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    with pytest.raises(ValueError, match="'cls' out"):
        load_encoder(folder, pooling="cls")
    make_folder(tmp_path / "photos", ("image", "text"))
    with pytest.raises(ValueError, match="has encoders of image, text, but not of barcodes"):
        load_encoder(str(tmp_path / "photos"))
