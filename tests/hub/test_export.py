"""Export to ONNX and sentence-transformers, and LoRA adapters of the encoder."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from tiny import tiny_bert, tiny_clibd
from transformers import CLIPImageProcessor, PreTrainedTokenizerFast

import bioscan_hf.auto  # noqa: F401
from bioscan_hf.hub.export import export_onnx, export_sentence_transformers
from bioscan_hf.models.configuration_alignedbarcode import AlignedBarcodeConfig
from bioscan_hf.models.modeling_alignedbarcode import AlignedBarcodeModel
from bioscan_hf.models.modeling_barcodebert import BarcodeBertForMaskedLM, BarcodeBertModel
from bioscan_hf.models.processing_clibd import ClibdProcessor, make_image_processor
from bioscan_hf.models.tokenization_kmer import KmerTokenizer

#: Full length, short, with unknown letters, one token, and no token.
BARCODES = ["ACGTACGTTACGACGTACGTTACG", "ACGTTTGA", "TTGANCNN", "GA", ""]

#: Largest difference of an embedding due to another order of arithmetic.
NEAR = 1e-5


def tokenizer():
    return KmerTokenizer(k=2, max_nucleotides=24)


def run(file, **inputs):
    """Embeddings by onnxruntime, and the metadata of the file."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (output,) = session.run(["embeddings"], inputs)
    return output, session.get_modelmeta().custom_metadata_map


@pytest.fixture
def onnx():
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["masked_mean", "mean"])
def test_barcode_encoder(onnx, pooling, tmp_path):
    """Batches of any size, with and without padding, equal `pooler_output`; a barcode without a token gives zeros."""
    model = tiny_bert(BarcodeBertModel, pooling=pooling).train()
    file = export_onnx(model, tmp_path / "dna.onnx", tokenizer())
    assert model.training and all(module.training for module in model.modules()), "the model is not changed"
    model.eval()
    for rows in (BARCODES, BARCODES[:1], BARCODES[2:], BARCODES * 7):
        ids, mask = tokenizer().encode_column(rows)
        found, about = run(file, input_ids=ids, attention_mask=mask)
        expected = model(torch.from_numpy(ids), torch.from_numpy(mask)).pooler_output.detach().numpy()
        np.testing.assert_allclose(found, expected, rtol=0, atol=NEAR)
        assert np.abs(expected).max() > 0.1
    assert not found[4].any()
    assert (about["model_type"], about["modality"]) == ("barcodebert", "dna")
    assert json.loads(about["input_shape"]) == ["batch", 12]


ALONE = """
import sys
sys.modules["bioscan_hf"] = sys.modules["torch"] = sys.modules["transformers"] = None
import numpy as np, onnxruntime
from tokenizers import Tokenizer
tokenizer = Tokenizer.from_file(sys.argv[1] + "/tokenizer.json")
tokenizer.enable_padding(pad_id=1, pad_token="[UNK]", length=12)
encoded = tokenizer.encode_batch(sys.argv[2].split(","))
inputs = {"input_ids": [e.ids for e in encoded], "attention_mask": [e.attention_mask for e in encoded]}
inputs = {name: np.array(x, np.int64) for name, x in inputs.items()}
session = onnxruntime.InferenceSession(sys.argv[1] + "/dna.onnx")
np.save(sys.argv[1] + "/found.npy", session.run(None, inputs)[0])
"""


@pytest.mark.slow
def test_without_torch_and_transformers(onnx, tmp_path):
    """The folder works with onnxruntime and tokenizers only."""
    model = tiny_bert(BarcodeBertModel)
    export_onnx(model, tmp_path / "dna.onnx", tokenizer())
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(tmp_path), ",".join(BARCODES[:4])], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    ids, mask = map(torch.from_numpy, tokenizer().encode_column(BARCODES[:4]))
    expected = model(ids, mask).pooler_output.detach().numpy()
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), expected, rtol=0, atol=NEAR)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"dna_pooling": "softmax_mean", "dna_attend_to_padding": True}])
def test_clibd_towers(onnx, options, tmp_path):
    """Unit vectors of photos and barcodes, from two files with their processors beside them."""
    model = tiny_clibd("image", "dna", **options)
    processor = ClibdProcessor(make_image_processor(32), KmerTokenizer(k=2, max_nucleotides=40))
    dna = export_onnx(model, tmp_path / "dna" / "dna.onnx", processor, modality="dna")
    ids, mask = processor.dna_tokenizer.encode_column(BARCODES[:4])
    found, about = run(dna, input_ids=ids, attention_mask=mask)
    expected = model.get_dna_features(torch.from_numpy(ids), torch.from_numpy(mask)).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=NEAR)
    assert about["modality"] == "dna"
    assert PreTrainedTokenizerFast.from_pretrained(dna.parent)("ACGTA")["input_ids"] == [3, 13]
    if options:
        return
    image = export_onnx(model, tmp_path / "image" / "image.onnx", processor, modality="image")
    pixels = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for rows in (pixels, pixels[:1]):
        found, about = run(image, pixel_values=rows.numpy())
        expected = model.get_image_features(rows).detach().numpy()
        np.testing.assert_allclose(found, expected, rtol=0, atol=NEAR)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert json.loads(about["input_shape"]) == ["batch", 3, 32, 32]
    assert CLIPImageProcessor.from_pretrained(image.parent).crop_size["height"] == 32


def test_refused_exports(onnx, tmp_path, monkeypatch):
    model, clibd = tiny_bert(BarcodeBertModel), tiny_clibd("dna", "text")
    with pytest.raises(ValueError, match=r"is an encoder with a head. Pass the encoder: model.base_model"):
        export_onnx(tiny_bert(BarcodeBertForMaskedLM), tmp_path / "a.onnx", tokenizer())
    with pytest.raises(ValueError, match="leave modality out"):
        export_onnx(model, tmp_path / "a.onnx", tokenizer(), modality="dna")
    with pytest.raises(ValueError, match="modality is 'image'; give 'dna'"):
        export_onnx(clibd, tmp_path / "a.onnx", tokenizer(), modality="image")
    with pytest.raises(ValueError, match="is torch.bfloat16 on cpu"):
        export_onnx(tiny_bert(BarcodeBertModel).bfloat16(), tmp_path / "a.onnx", tokenizer())
    aligned = AlignedBarcodeModel(AlignedBarcodeConfig(positions=24, max_nucleotides=40, embedding_size=4))
    with pytest.raises(ValueError, match="AlignedBarcodeModel cannot be written as ONNX"):
        export_onnx(aligned, tmp_path / "a.onnx", KmerTokenizer(k=1, max_nucleotides=40))
    (tmp_path / "there.onnx").write_text("mine")
    with pytest.raises(FileExistsError, match="there.onnx exists"):
        export_onnx(model, tmp_path / "there.onnx", tokenizer())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"bioscan_hf\[onnx\]"):
        export_onnx(model, tmp_path / "a.onnx", tokenizer())
    assert [path.name for path in tmp_path.iterdir()] == ["there.onnx"], "nothing was written"


def test_sentence_transformers(tmp_path):
    """Embeddings equal ours for every batch size, for barcodes of at least one token."""
    library = pytest.importorskip("sentence_transformers")
    model = tiny_bert(BarcodeBertModel)
    folder = export_sentence_transformers(model, tokenizer(), tmp_path / "encoder")
    encoder = library.SentenceTransformer(str(folder), device="cpu")
    ids, mask = map(torch.from_numpy, tokenizer().encode_column(BARCODES[:4]))
    expected = model(ids, mask).pooler_output.detach().numpy()
    for batch_size in (1, 4):
        np.testing.assert_allclose(encoder.encode(BARCODES[:4], batch_size=batch_size), expected, rtol=0, atol=NEAR)
    long = BARCODES[0] * 3  # truncated at max_nucleotides, as by the tokenizer
    np.testing.assert_allclose(encoder.encode([long])[0], expected[0], rtol=0, atol=NEAR)
    for short in (["G"], ["G", ""]):  # shorter than k: a batch without a token
        found = encoder.encode(short)
        assert found.shape == (len(short), expected.shape[1]) and not found.any()


def test_refused_sentence_transformers(tmp_path):
    with pytest.raises(ValueError, match="pools by 'mean', padding included"):
        export_sentence_transformers(tiny_bert(BarcodeBertModel, pooling="mean"), tokenizer(), tmp_path / "a")
    with pytest.raises(ValueError, match="Pass a BarcodeBertModel"):
        export_sentence_transformers(tiny_bert(BarcodeBertForMaskedLM), tokenizer(), tmp_path / "a")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="is not empty"):
        export_sentence_transformers(tiny_bert(BarcodeBertModel), tokenizer(), tmp_path)


def test_adapters_of_the_encoder(tmp_path):
    """LoRA on the encoder: saved as safetensors; merged, it equals the adapted model."""
    peft = pytest.importorskip("peft")
    model = tiny_bert(BarcodeBertModel)
    ids, mask = map(torch.from_numpy, tokenizer().encode_column(BARCODES[:3]))
    before = model(ids, mask).pooler_output.detach()
    lora = peft.LoraConfig(r=4, target_modules=["query", "value"], init_lora_weights=False)
    adapted = peft.get_peft_model(model, lora).eval()
    after = adapted(input_ids=ids, attention_mask=mask).pooler_output.detach()
    assert (after - before).abs().max() > 1e-3
    adapted.save_pretrained(tmp_path / "adapter")
    assert {path.suffix for path in (tmp_path / "adapter").iterdir()} <= {".json", ".safetensors", ".md"}
    merged = peft.PeftModel.from_pretrained(tiny_bert(BarcodeBertModel), tmp_path / "adapter").merge_and_unload()
    assert type(merged) is BarcodeBertModel
    torch.testing.assert_close(merged.eval()(ids, mask).pooler_output, after, rtol=0, atol=1e-5)
