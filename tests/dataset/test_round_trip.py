"""Everything that the package makes goes up to a Hub on this machine, and comes back by its id in another process.

One process trains tiny models with all four trainers, which push them, and pushes an adapter, an index and a dataset;
another, with an empty cache and none of the files, loads each by its id and finds the same numbers.
"""

import json
import subprocess
import sys

import minihub
import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard

MODELS = ("pretrained", "classifier", "aligned", "clibd")

SHARED = """
import json, sys
import numpy as np
import torch
import bioscan_hf.auto

BARCODES = ["AACATTATATTTTATTTTTGGAATTTGAGCAGGA" * 5, "ACGT" * 30]
torch.manual_seed(0)
IMAGES = [np.random.default_rng(i).integers(0, 255, (40, 40, 3), dtype=np.uint8) for i in range(2)]

@torch.no_grad()
def answers(pretrained, classifier, aligned, clibd):
    # Id or folder of each -> what it says of fixed specimens.
    from transformers import (AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoProcessor,
        AutoTokenizer)
    def tokens(name):
        return AutoTokenizer.from_pretrained(name)(BARCODES, return_tensors="pt")
    processor = AutoProcessor.from_pretrained(clibd)
    pair = AutoModel.from_pretrained(clibd).eval()(**processor(images=IMAGES, dna=BARCODES))
    found = {
        "pretrained": AutoModelForMaskedLM.from_pretrained(pretrained).eval()(**tokens(pretrained)).logits,
        "encoder": AutoModel.from_pretrained(pretrained).eval()(**tokens(pretrained)).pooler_output,
        "classifier": AutoModelForSequenceClassification.from_pretrained(classifier).eval()(
            **tokens(classifier)).logits,
        "aligned": AutoModel.from_pretrained(aligned).eval()(**tokens(aligned)).pooler_output,
        "image": pair.image_embeds,
        "dna": pair.dna_embeds,
    }
    return {name: value.numpy() for name, value in found.items()}

@torch.no_grad()
def adapted(model, name):
    from transformers import AutoTokenizer
    inputs = AutoTokenizer.from_pretrained(name)(BARCODES, return_tensors="pt")
    return model.eval()(**inputs).pooler_output.numpy()
"""

PUBLISH = (
    SHARED
    + """
from pathlib import Path
from bioscan_hf.trainers import contrast_barcodes, finetune_barcodebert, pretrain_barcodebert, train_clibd

source, work = map(Path, sys.argv[1:])
COMMON = ["--source", str(source), "--use_cpu", "true", "--disable_tqdm", "true", "--save_strategy", "no"]
COMMON += ["--eval_strategy", "no", "--push_to_hub", "true", "--report_to", "none"]

def train(program, name, *flags):
    where = ["--output_dir", str(work / name), "--hub_model_id", f"tester/{name}"]
    program.main(*program.parse([*COMMON, *where, *flags]))

BATCH = ["--per_device_train_batch_size", "16", "--max_steps", "2"]
SMALL = ["--hidden_size", "16", "--intermediate_size", "16", "--num_hidden_layers", "1", "--max_nucleotides", "120"]
train(pretrain_barcodebert, "pretrained", *BATCH, *SMALL, "--train_split", "train")
# The results of a model pushed from a dataset of the Hub are on that dataset's leaderboard: here the source is local.
train(finetune_barcodebert, "classifier", *BATCH, "--model", str(work / "pretrained"), "--lora_rank", "2",
    "--ranks", "order", "family", "--validation_split", "val")
train(contrast_barcodes, "aligned", "--num_train_epochs", "0", "--embedding_size", "8")

from bioscan_hf.models.configuration_clibd import ClibdConfig
from bioscan_hf.models.modeling_clibd import ClibdModel
from bioscan_hf.models.processing_clibd import ClibdProcessor, make_image_processor
from bioscan_hf.models.tokenization_kmer import KmerTokenizer
vit = {"img_size": 32, "patch_size": 16, "embed_dim": 16, "depth": 1, "num_heads": 2}
bert = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
config = ClibdConfig(image_config={"architecture": "vit_tiny_patch16_224", "model_args": vit},
    dna_config={"k": 4, "max_nucleotides": 120, **bert}, projection_dim=8)
ClibdModel(config).save_pretrained(work / "new")
ClibdProcessor(make_image_processor(32), KmerTokenizer(k=4, max_nucleotides=120)).save_pretrained(work / "new")
train(train_clibd, "clibd", *BATCH, "--model", str(work / "new"), "--train_split", "train", "--key_splits", "none",
    "--load_best_model_at_end", "false")

from peft import LoraConfig, get_peft_model
from transformers import AutoModel
torch.manual_seed(0)
model = get_peft_model(AutoModel.from_pretrained("tester/pretrained"),
    LoraConfig(r=2, target_modules=["query", "value"], init_lora_weights=False))
model.push_to_hub("tester/adapter")

from bioscan_hf.hub.dataset_cards import index_card
from bioscan_hf.dataset.publish import publish
from bioscan_hf.files import write_text
from bioscan_hf.search.index import build_index, push_index, save_index
found = answers(**{name: work / name for name in ("pretrained", "classifier", "aligned", "clibd")})
index = save_index(build_index(found["aligned"], {"species": ["Aus bus", "Aus <b>cus</b>"]}, ids=["P0", "P1"]),
    work / "index")
write_text(index / "README.md", index_card("Reference barcodes", index))
push_index(index, "tester/index")
publish(source, "tester/specimens")
np.savez(work / "answers.npz", **found, adapter=adapted(model, "tester/pretrained"))
"""
)

READ = (
    SHARED
    + """
from datasets import load_dataset
from huggingface_hub import snapshot_download
from peft import PeftModel
from transformers import AutoModel
from bioscan_hf.dataset.load import load_bioscan5m
from bioscan_hf.search.retrieve import retrieve
from bioscan_hf.search.index import load_index

found = answers(*(f"tester/{name}" for name in ("pretrained", "classifier", "aligned", "clibd")))
found["adapter"] = adapted(PeftModel.from_pretrained(AutoModel.from_pretrained("tester/pretrained"), "tester/adapter"),
    "tester/pretrained")
with np.load(sys.argv[1]) as expected:
    differences = {name: float(np.abs(found[name] - expected[name]).max()) for name in expected.files}
assert np.abs(found["adapter"] - found["encoder"]).max() > 1e-3, "the adapter must change something"
index = load_index(snapshot_download("tester/index", repo_type="dataset"))
nearest = retrieve(index, found["aligned"], k=1)
rows = load_dataset("tester/specimens", "dna", split="val")
ours = load_bioscan5m("tester/specimens", "dna", "val")
print(json.dumps({
    "differences": differences,
    "species": [index.classes["species"][i] for i in nearest.predictions["species"][:, 0]],
    "keys": load_dataset("tester/index", split="train")["id"][:],
    "processids": rows["processid"][:],
    "same": ours["processid"][:] == rows["processid"][:],
}))
"""
)


def run(code, hub, home, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = minihub.environment(hub, home) | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=home)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def online(dataset, tmp_path_factory):
    """A Hub with everything on it, and the folder that it came from."""
    work = tmp_path_factory.mktemp("work")
    with minihub.serve() as hub:
        run(PUBLISH, hub, tmp_path_factory.mktemp("publisher"), dataset, work)
        yield hub, work


@pytest.mark.slow
def test_everything_comes_back_by_its_id(online, dataset, tmp_path):
    """In a process with an empty cache, elsewhere: the same predictions to 1e-6, the same rows."""
    hub, work = online
    found = json.loads(run(READ, hub, tmp_path, work / "answers.npz").splitlines()[-1])
    names = {"pretrained", "encoder", "classifier", "aligned", "image", "dna", "adapter"}
    assert set(found["differences"]) == names and max(found["differences"].values()) <= 1e-6
    assert found["species"] == ["Aus bus", "Aus <b>cus</b>"] and found["keys"] == ["P0", "P1"]
    import pyarrow.parquet as pq

    there = [pq.read_table(path)["processid"].to_pylist() for path in sorted(dataset.glob("dna/val-*.parquet"))]
    assert found["processids"] == [one for part in there for one in part] and found["same"]


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_trainer_pushes_all_of_a_model(online, name):
    """Weights, tokenizer or processor, card and results; no pickle and no checkpoint."""
    hub, work = online
    files = hub.files(f"tester/{name}")
    own = {"processor_config.json"} if name == "clibd" else {"tokenizer.json", "tokenizer_config.json"}
    assert {"config.json", "model.safetensors", "README.md", "results.json"} | own <= set(files)
    assert not [path for path in files if path.endswith((".bin", ".pt", ".pth", ".pkl")) or "checkpoint" in path]
    assert all(files[path] == (work / name / path).read_bytes() for path in ("model.safetensors", "results.json"))
    if name == "classifier":
        assert "adapter/adapter_model.safetensors" in files


@pytest.mark.slow
@pytest.mark.parametrize("name", [*MODELS, "index", "specimens"])
def test_cards_pass_the_checks_of_the_hub(online, name, dataset):
    """Those of this Hub and of `huggingface_hub`; and no folder of this machine is in them."""
    hub, work = online
    kind = "model" if name in MODELS else "dataset"
    text = hub.files(f"tester/{name}")["README.md"].decode()
    assert minihub.card_errors(kind, text) == []
    card = (ModelCard if kind == "model" else DatasetCard)(text)
    again = type(card)(str(card))
    assert again.data.to_dict() == card.data.to_dict() == yaml.safe_load(text.split("---")[1])
    assert str(work) not in text and str(dataset.parent) not in text and "tester" not in text
    assert "```bibtex" in text and ("## Limits" in text or "and limits" in text)
    assert ("Costa Rica" in text) == (name != "specimens"), "simulated data are not BIOSCAN-5M"
    if kind == "model" and name != "aligned":
        assert f"# {name}" in text
