"""Folders load by trust_remote_code where only torch and transformers are installed, and CLIBD's with timm as well."""

import json
import os
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
import torch
from every_model import MODELS
from packaging.requirements import Requirement
from safetensors.torch import load_file
from tiny import text_tokenizer, tiny_clibd

from bioscan_hf.models import configuration_alignedbarcode, configuration_barcodebert, configuration_barcodemamba
from bioscan_hf.models.processing_clibd import ClibdProcessor, make_image_processor
from bioscan_hf.models.tokenization_kmer import KmerTokenizer

BARCODES = ["ACGTACGTTACCGTACGTTACGGA", "acguacg-ttaccguac"]

RUN = """
import sys
sys.path.append(sys.argv[1])
import torch, transformers
from pathlib import Path
from safetensors.torch import save_file
for folder in sorted(path for path in Path(sys.argv[2]).iterdir() if path.is_dir()):
    kind = (folder / "auto.txt").read_text()
    model = getattr(transformers, kind).from_pretrained(folder, trust_remote_code=True).eval()
    if model.config.model_type == "clibd":
        processor = transformers.AutoProcessor.from_pretrained(folder, trust_remote_code=True)
        photo = torch.arange(3 * 40 * 40).remainder(251).view(3, 40, 40).to(torch.uint8)
        given = {"images": [photo] * 2, "text": ["a b"] * 2} if "image" in model.config.modalities else {}
        output = model(**processor(dna=BARCODES, **given))
        output = output.fused_embeds if model.config.fusion else output.dna_embeds
    else:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        batch = tokenizer(BARCODES, return_tensors="pt", padding="max_length", truncation=True)
        output = model(**batch)
        output = output.pooler_output if kind == "AutoModel" else output.logits
        transformers.AutoModel.from_pretrained(folder, trust_remote_code=True)  # the encoder of any head
    save_file({"output": output.detach().contiguous()}, folder / "found.safetensors")
print(*sys.modules)
""".replace("BARCODES", repr(BARCODES))


def installed(*names):
    """These distributions and all that they require, as paths of their files and folders."""
    done, waiting = {}, list(names)
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in done:
            continue
        found = distribution(name)
        tops = {file.parts[0] for file in found.files or () if not file.parts[0].startswith("..")}
        done[name] = {found.locate_file(top) for top in tops if top != "__pycache__"}
        for text in found.requires or ():
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                waiting.append(needed.name)
    return {path for paths in done.values() for path in paths}


def run(packages, root, modules):
    """Runs the script with these packages alone, and returns the modules that it loaded."""
    site = root / "site"
    site.mkdir()
    for path in installed(*packages):
        if Path(path).exists():
            (site / Path(path).name).symlink_to(path)
    done = subprocess.run(
        [sys.executable, "-S", "-c", RUN, str(site), str(root / "folders")],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        | {"HF_MODULES_CACHE": str(modules)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert torch.cuda.is_available() or "alling back" not in done.stderr, "advice to install kernels of GPUs"
    return {name.split(".")[0] for name in done.stdout.split()}


def save(folder, model, tokenizer, kind):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "auto.txt").write_text(kind)


BERT_CODE = {"configuration_barcodebert", "modeling_barcodebert", "barcode_heads", "taxon_classifier", "vocabularies"}
CODE = {
    "BarcodeBertForMaskedLM": (configuration_barcodebert, BERT_CODE),
    "BarcodeMambaForMaskedLM": (
        configuration_barcodemamba,
        BERT_CODE - {"modeling_barcodebert"} | {"configuration_barcodemamba", "modeling_barcodemamba"},
    ),
    "AlignedBarcodeModel": (
        configuration_alignedbarcode,
        {"configuration_alignedbarcode", "modeling_alignedbarcode"},
    ),
}


@pytest.mark.parametrize("name", CODE)
def test_a_folder_has_the_code_of_every_head_and_no_more(name, tmp_path):
    configuration, code = CODE[name]
    MODELS[name]().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"] == configuration.AUTO_MAP
    assert {path.stem for path in tmp_path.glob("*.py")} == code


@pytest.mark.slow
def test_barcode_models_need_torch_and_transformers_alone(tmp_path):
    """Every model of barcodes, and CLIBD without photos: no timm, datasets, pyarrow or simplejpeg."""
    kinds = {"MaskedLM": "AutoModelForMaskedLM", "Classification": "AutoModelForSequenceClassification"}
    kinds["PreTraining"] = "AutoModelForPreTraining"
    expected = {}
    for name, make in MODELS.items():
        if name == "ClibdModel":
            continue
        model, folder = make(), tmp_path / "folders" / name
        config = model.config
        tokenizer = KmerTokenizer(config.k, config.vocabulary, max_nucleotides=config.max_nucleotides)
        save(folder, model, tokenizer, next((kind for end, kind in kinds.items() if end in name), "AutoModel"))
        output = model(**tokenizer(BARCODES, return_tensors="pt"))
        expected[name] = output["pooler_output"] if "pooler_output" in output else output["logits"]
    loaded = run(("torch", "transformers"), tmp_path, tmp_path / "modules")
    assert not loaded & {"bioscan_hf", "timm", "datasets", "pyarrow", "simplejpeg", "torchvision"}
    for name, output in expected.items():
        found = load_file(tmp_path / "folders" / name / "found.safetensors")["output"]
        torch.testing.assert_close(found, output, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_clibd_needs_timm_as_well(tmp_path):
    """Also with a gate that fuses photo and barcode."""
    processor = ClibdProcessor(make_image_processor(32), KmerTokenizer(2, max_nucleotides=40), text_tokenizer())
    photo = torch.arange(3 * 40 * 40).remainder(251).view(3, 40, 40).to(torch.uint8)
    expected = {}
    for name, fusion in (("clibd", False), ("fused", True)):
        model = tiny_clibd(fusion=fusion)
        save(tmp_path / "folders" / name, model, processor, "AutoModel")
        output = model(**processor(dna=BARCODES, images=[photo] * 2))
        expected[name] = output.fused_embeds if fusion else output.dna_embeds
    loaded = run(("torch", "transformers", "timm"), tmp_path, tmp_path / "modules")
    assert not loaded & {"bioscan_hf", "datasets", "pyarrow", "simplejpeg", "sklearn"} and "timm" in loaded
    for name, output in expected.items():
        found = load_file(tmp_path / "folders" / name / "found.safetensors")["output"]
        torch.testing.assert_close(found, output, rtol=0, atol=1e-5)
