"""Folders that version 0.1.0 saved load by Auto class, by the code beside the weights, and save again."""

import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoProcessor,
    AutoTokenizer,
)

import bioscan_hf.auto  # noqa: F401

#: Model folders written at 324f939, with their outputs; `code` has the files of code that lay beside the weights.
SAVED = Path(__file__).parents[1] / "fixtures" / "saved_by_0_1"

#: Folder -> Auto class of its model.
CLASSES = {
    "aligned": AutoModel,
    "barcodebert": AutoModelForMaskedLM,
    "barcodemamba": AutoModelForMaskedLM,
    "classifier": AutoModelForSequenceClassification,
    "clibd": AutoModel,
}


def outputs(model, folder, **options):
    """Outputs for the inputs of the stored outputs, by name."""
    folder = Path(folder)
    barcodes = ["ACGTACGTTACCGT", "TTGACNACGTACGT"]
    if (folder / "barcodes.txt").exists():
        barcodes = (folder / "barcodes.txt").read_text().split()
    if folder.name == "clibd":
        photo = (np.arange(40 * 60 * 3) % 251).astype(np.uint8).reshape(40, 60, 3)
        processor = AutoProcessor.from_pretrained(folder, **options)
        batch = processor(
            images=[photo, photo[:, ::-1]], dna=barcodes, text=[{"order": "Diptera"}, "Diptera Sciaridae"]
        )
        with torch.no_grad():
            found = model(**batch)
        return {name: getattr(found, f"{name}_embeds").contiguous() for name in ("image", "dna", "text")}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(barcodes, return_tensors="pt", padding=True, truncation=True)
    with torch.no_grad():
        found = model(batch["input_ids"], batch["attention_mask"])
    return {"output": (found.pooler_output if folder.name == "aligned" else found.logits).contiguous()}


RUN = f"""
import sys
sys.modules["bioscan_hf"] = None  # as if it were not installed
import numpy as np, torch, transformers
from pathlib import Path
from safetensors.torch import save_file
from transformers import AutoProcessor, AutoTokenizer
{inspect.getsource(outputs)}
for argument in sys.argv[1:]:
    name, folder = argument.split("=", 1)
    model = getattr(transformers, name).from_pretrained(folder, trust_remote_code=True).eval()
    assert type(model).__module__.startswith("transformers_modules"), type(model)
    save_file(outputs(model, folder, trust_remote_code=True), folder + "/found.safetensors")
"""


def close(found, folder):
    expected = load_file(Path(folder) / "expected.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        # Version 0.1.0 had logits of the k-mers alone, which are the last tokens.
        torch.testing.assert_close(found[name][..., -tensor.shape[-1] :], tensor, rtol=0, atol=1e-5)
        assert tensor.std() > 1e-3, "constant: this test would prove nothing"


@pytest.mark.parametrize("name", CLASSES)
def test_auto_classes_load_and_save(name, tmp_path):
    """Classes are those of this package; outputs equal the stored ones, also after saving again."""
    model = CLASSES[name].from_pretrained(SAVED / name).eval()
    assert type(model).__module__.startswith("bioscan_hf.models.")
    assert type(AutoConfig.from_pretrained(SAVED / name)) is type(model.config)
    close(outputs(model, SAVED / name), SAVED / name)
    again = tmp_path / name
    shutil.copytree(SAVED / name, again)
    model.save_pretrained(again)
    close(outputs(CLASSES[name].from_pretrained(again).eval(), again), SAVED / name)


@pytest.fixture(scope="module")
def without_the_package(tmp_path_factory):
    """Copies with the code of version 0.1.0 or of this one, and their outputs in a process without the package."""
    root = tmp_path_factory.mktemp("saved")
    for name in CLASSES:
        old, new = root / "old" / name, root / "new" / name
        shutil.copytree(SAVED / name, old)
        for file in (SAVED / "code").iterdir():
            shutil.copy(file, old)
        shutil.copytree(SAVED / name, new)
        CLASSES[name].from_pretrained(new).save_pretrained(new)
        if name == "clibd":
            AutoProcessor.from_pretrained(new).save_pretrained(new)
    arguments = [f"{cls.__name__}={root / code / name}" for code in ("old", "new") for name, cls in CLASSES.items()]
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"HF_MODULES_CACHE": str(root / "modules")},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return root


@pytest.mark.slow
@pytest.mark.parametrize("code", ["old", "new"])
@pytest.mark.parametrize("name", CLASSES)
def test_code_beside_the_weights_runs(name, code, without_the_package):
    """Folders of version 0.1.0, also saved again, load with trust_remote_code and give the stored outputs."""
    folder = without_the_package / code / name
    assert list(folder.glob("modeling_*.py"))
    close(load_file(folder / "found.safetensors"), SAVED / name)
