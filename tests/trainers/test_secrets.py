"""The token of a push is in no file that a trainer writes or pushes."""

import json

import minihub
import pytest
from training_runs import as_flags, start, write_csv

TINY = {"k": 2, "max_nucleotides": 20, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
TINY |= {"num_attention_heads": 1, "max_steps": 2, "per_device_train_batch_size": 2, "use_cpu": True}


@pytest.mark.parametrize("how", ["two parts", "one part", "file"])
def test_the_token_of_the_hub_is_in_no_file(how, tmp_path):
    """--hub_token TOKEN, --hub_token=TOKEN, and a file of options; checkpoints are saved and everything is pushed."""
    barcodes = ["ACGTACGTACGTACGTACGT", "ACGTACGTACGTACGTACGA", "ACGTACGTACGTACGTTTTT", "ACGTACGTAAAAACGTACGT"]
    rows = [
        {"processid": f"P{i}", "dna_barcode": text, "split": "val" if i == 3 else "train"}
        for i, text in enumerate(barcodes)
    ]
    source, folder, repo = write_csv(tmp_path / "metadata.csv", rows), tmp_path / "run", f"{minihub.USER}/bert"
    options = {"source": str(source), "output_dir": str(folder), "train_split": "train", "eval_strategy": "no"}
    options |= {"save_strategy": "steps", "save_steps": 1, "push_to_hub": True, "hub_model_id": repo}
    options |= TINY | {"hub_private_repo": False}
    flags = as_flags(options)
    if how == "two parts":
        flags += ["--hub_token", minihub.TOKEN]
    elif how == "one part":
        flags += [f"--hub_token={minihub.TOKEN}"]
    else:
        path = tmp_path / "options.yaml"
        path.write_text(json.dumps(options | {"hub_token": minihub.TOKEN}))  # JSON is YAML
        flags = [str(path)]
    with minihub.serve() as hub:
        environment = minihub.environment(hub, tmp_path / "home") | {"HF_TOKEN": ""}
        done = start(["-m", "bioscan_hf.trainers.pretrain_barcodebert", *flags], **environment)
        assert done.returncode == 0, done.stderr[-3000:]
        pushed = hub.files(repo)
    assert "results.json" in pushed and "model.safetensors" in pushed
    written = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert [name for name in written if name.startswith("checkpoint-2/")], "checkpoints were saved"
    for name, content in (written | pushed).items():
        assert minihub.TOKEN.encode() not in content, name
    assert minihub.TOKEN not in done.stdout + done.stderr
