"""The configurations of `accelerate launch` that the trainers come with."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import FullyShardedDataParallelPlugin

from bioscan_hf.models.modeling_barcodemamba import BarcodeMambaBlock
from bioscan_hf.training.trainer import FSDP_UNITS

FOLDER = Path(__file__).parents[2] / "trainers" / "launch"
SIZES = {"one_gpu": (1, 1), "four_gpus": (1, 4), "two_nodes": (2, 8), "fsdp": (1, 4), "two_cpu_processes": (1, 2)}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_reads_every_config(path):
    """accelerate refuses keys that it does not know; a config that is not in the table below is untested."""
    config = load_config_from_file(str(path))
    assert (config.num_machines, config.num_processes) == SIZES[path.stem]
    assert f"trainers/launch/{path.name}" in path.read_text(encoding="utf-8")


def test_fsdp_config_holds_options_that_the_plugin_has():
    """A misspelt option would be ignored in silence. What the config does is in test_fsdp.py."""
    options = load_config_from_file(str(FOLDER / "fsdp.yaml")).fsdp_config
    names = {name.removeprefix("fsdp_").replace("version", "fsdp_version") for name in options}
    assert names <= set(FullyShardedDataParallelPlugin.__dataclass_fields__)


def test_the_units_of_fsdp_are_layers_that_our_models_have():
    from timm.models.vision_transformer import Block
    from transformers.models.bert.modeling_bert import BertLayer
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Block

    layers = (BertLayer, Block, Mamba2Block, BarcodeMambaBlock)
    assert {layer.__name__ for layer in layers} == FSDP_UNITS


@pytest.mark.slow
def test_two_cpu_processes_are_two(tmp_path):
    code = "from accelerate import Accelerator\none = Accelerator()\nprint(one.num_processes)\n"
    (tmp_path / "x.py").write_text(code + "one.wait_for_everyone()\none.end_training()\n")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0"]
    command += ["--config_file", str(FOLDER / "two_cpu_processes.yaml"), str(tmp_path / "x.py")]
    environment = os.environ | {"ACCELERATE_USE_CPU": "yes"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert "".join(done.stdout.split()) == "22", done.stderr[-2000:]
