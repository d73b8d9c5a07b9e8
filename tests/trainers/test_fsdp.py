"""Training with trainers/launch/fsdp.yaml: two CPU processes, each with half of the parameters."""

import json
from pathlib import Path

import pytest
import torch
from clibd_runs import flags as clibd_flags
from clibd_runs import make_folder
from training_runs import SGD, as_flags, losses, results_of, start, steps_of, weights
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

from bioscan_hf.models.modeling_clibd import ClibdModel
from bioscan_hf.trainers import finetune_barcodebert, pretrain_barcodebert, train_clibd

CONFIG = Path(__file__).parents[2] / "trainers/launch/fsdp.yaml"

#: accelerate uses FSDP on accelerators alone, and DDP, silently, on CPUs; here it is told to use FSDP.
PROGRAM = """
import json, sys
from accelerate import state
from accelerate.utils import DistributedType

begin = state.AcceleratorState.__init__

def on_cpu_too(self, *args, **kwargs):
    begin(self, *args, **kwargs)
    self.fsdp_plugin = kwargs.get("fsdp_plugin") or self.__dict__.get("fsdp_plugin")
    if self.fsdp_plugin is not None:
        self.distributed_type = DistributedType.FSDP

state.AcceleratorState.__init__ = on_cpu_too

from bioscan_hf.trainers import finetune_barcodebert, pretrain_barcodebert, train_clibd
from bioscan_hf.training.trainer import BarcodeTrainer
from torch.distributed.tensor import DTensor

step = BarcodeTrainer.training_step

def checked_step(self, model, *args, **kwargs):
    assert all(isinstance(weight, DTensor) for weight in model.parameters())
    return step(self, model, *args, **kwargs)

BarcodeTrainer.training_step = checked_step
for program, flags in zip((pretrain_barcodebert, train_clibd, finetune_barcodebert), json.loads(sys.argv[1])):
    program.main(*program.parse(flags))
state.PartialState().destroy_process_group()
"""


@pytest.mark.slow
def test_steps_under_fsdp_are_those_of_one_process(dataset, tmp_path):
    """Pretraining, CLIBD and fine-tuning: equal losses and weights; the saved folders are as without FSDP."""
    options = SGD | {"learning_rate": 0.1, "max_steps": 2, "logging_steps": 1, "use_cpu": True, "disable_tqdm": True}
    bert = {"k": 2, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    bert |= {"max_nucleotides": 40, "dropout": 0.0, "train_split": "train", "validation_split": "val"}
    bert |= options | {"source": str(dataset), "eval_strategy": "no", "save_strategy": "steps", "save_steps": 1}
    finetune = options | {"source": str(dataset), "model": str(tmp_path / "bert_one"), "ranks": ["order", "family"]}
    finetune |= {"eval_strategy": "no", "save_strategy": "steps", "save_steps": 1, "encoder_dropout": False}
    model = make_folder(tmp_path / "model")

    def flags(name, rows):
        pretrain = as_flags(bert | {"output_dir": str(tmp_path / f"bert_{name}"), "per_device_train_batch_size": rows})
        clibd = clibd_flags(dataset, model, tmp_path / f"clibd_{name}", **options, per_device_train_batch_size=rows)
        taxa = finetune | {"output_dir": str(tmp_path / f"taxa_{name}"), "per_device_train_batch_size": rows}
        return [pretrain, clibd, as_flags(taxa)]

    programs = (pretrain_barcodebert, train_clibd, finetune_barcodebert)
    for program, given in zip(programs, flags("one", 8), strict=True):
        program.main(*program.parse(given))
    (tmp_path / "program.py").write_text(PROGRAM)
    launch = [
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(CONFIG),
        "--num_processes",
        "2",
        "--main_process_port",
        "0",
    ]
    given = json.dumps(flags("two", 4))
    command = [*launch, "--mixed_precision", "no", str(tmp_path / "program.py"), given]
    done = start(command, ACCELERATE_USE_CPU="yes")
    assert done.returncode == 0, done.stderr[-5000:]
    readers = {"bert": AutoModelForMaskedLM, "clibd": ClibdModel, "taxa": AutoModelForSequenceClassification}
    for kind, reader in readers.items():
        one, two = tmp_path / f"{kind}_one", tmp_path / f"{kind}_two"
        assert results_of(two)["processes"] == 2
        torch.testing.assert_close(torch.tensor(losses(two)), torch.tensor(losses(one)), rtol=1e-5, atol=0)
        for name, value in weights(one).items():
            torch.testing.assert_close(weights(two)[name], value, rtol=0, atol=5e-5)
        assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in two.iterdir())
        assert (one / "config.json").read_text() == (two / "config.json").read_text()
        reader.from_pretrained(two)
    before, after = weights(model), weights(tmp_path / "clibd_two")
    assert max((before[name] - after[name]).abs().max() for name in before) > 3e-3, "the weights hardly moved"
    logged = [[entry["temperature"] for entry in steps_of(tmp_path / f"clibd_{name}")] for name in ("one", "two")]
    assert logged[0] == pytest.approx([0.07, 0.07], rel=0.1) and logged[1] == pytest.approx(logged[0], rel=1e-5)


def test_adapters_are_refused_under_fsdp(tmp_path, monkeypatch):
    """They would be trained, and could then not be saved. Nothing is read before."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    given = {"source": "no/such/source", "model": "no/such/model", "output_dir": str(tmp_path), "lora_rank": 2}
    for program in (train_clibd, finetune_barcodebert):
        with pytest.raises(ValueError, match="--lora_rank trains adapters, which FSDP cannot save. Launch without"):
            program.main(*program.parse(as_flags(given | {"use_cpu": True})))
