"""What the tests of all trainers share: launching, killing, options, logs and weights of a run."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import datasets
import pytest
import torch
from safetensors.torch import load_file

from bioscan_hf.schema import COLUMNS

#: SGD: a step is proportional to the gradient, so that equal weights mean equal gradients.
SGD = {"optim": "sgd", "learning_rate": 1.0, "lr_scheduler_type": "constant", "warmup_steps": 0}

#: Shape of a tiny encoder, and training arguments of every tiny run.
TINY = {"k": 3, "max_nucleotides": 60, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
RUN = {"use_cpu": True, "disable_tqdm": True, "logging_steps": 1, "save_total_limit": 10, "max_steps": 4}
RUN |= {"per_device_train_batch_size": 16}

LAUNCHERS = {
    "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"],
    "accelerate": [
        *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0", "-m")
    ],
}

KILLER = """
import os, signal, sys
from importlib import import_module
from bioscan_hf.training import trainer

class Killer(trainer.EpochCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)

trainer.EpochCallback = Killer
program = import_module(f"bioscan_hf.trainers.{sys.argv[1]}")
program.main(*program.parse(sys.argv[3:]))
"""

#: Runs programs in turn. The last one stops at the end of a step, if one is given, and says which process it is.
STOPPER = """
import json, os, sys, time
from importlib import import_module
from pathlib import Path
from accelerate import PartialState
from bioscan_hf.training import trainer

runs, folder, step = json.loads(sys.argv[1])

class Stopper(trainer.EpochCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == step:
            path = Path(folder, f"rank-{args.process_index}")
            path.with_suffix(".part").write_text(str(os.getpid()))
            path.with_suffix(".part").rename(path)
            time.sleep(600)

trainer.EpochCallback = Stopper
for name, flags in runs:
    program = import_module(f"bioscan_hf.trainers.{name}")
    program.main(*program.parse(flags))
PartialState().destroy_process_group()
"""


@pytest.fixture(autouse=True, scope="module")
def datasets_cache(tmp_path_factory):
    """The cache of `datasets`, for this process and those that it starts."""
    folder = str(tmp_path_factory.mktemp("cache"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
        patch.setenv("HF_DATASETS_CACHE", folder)
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        yield


def start(command: list[str], **environment: str) -> subprocess.CompletedProcess:
    """A finished Python process; the arguments follow the interpreter."""
    return subprocess.run(
        [sys.executable, *command], env=os.environ | environment, capture_output=True, text=True, check=False
    )


def launch_nodes(program: str, flags: list[str]) -> None:
    """Runs a trainer on two nodes of one CPU process each, which share their folders and must succeed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = ["--master_addr", "127.0.0.1", "--master_port", str(free.getsockname()[1])]
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1", *address]
    nodes = [
        subprocess.Popen(
            [*command, "--node_rank", str(rank), "-m", f"bioscan_hf.trainers.{program}", *flags],
            env=os.environ | {"ACCELERATE_USE_CPU": "yes"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for node in nodes:
        error = node.communicate()[1]
        assert node.returncode == 0, error[-5000:]


def launch(program: str, flags: list[str], launcher: str = "torchrun") -> None:
    """Runs a trainer on two CPU processes, which must succeed."""
    done = start([*LAUNCHERS[launcher], f"bioscan_hf.trainers.{program}", *flags], ACCELERATE_USE_CPU="yes")
    assert done.returncode == 0, done.stderr[-5000:]


def kill(program: str, flags: list[str], step: int) -> None:
    """Runs a trainer that kills itself by SIGKILL at the end of a step."""
    done = start(["-c", KILLER, program, str(step), *flags])
    assert done.returncode == -signal.SIGKILL, done.stderr[-5000:]


def launch_in_turn(runs: list[tuple[str, list[str]]], folder: Path, kill_at: int | None = None) -> None:
    """Runs trainers in turn on two CPU processes, by `accelerate launch`; they must succeed.

    Args:
        folder: A folder for files of this function.
        kill_at: Both processes, their data workers and the launcher are killed by SIGKILL at the end of this step.
    """
    folder.mkdir()
    script = folder / "program.py"
    script.write_text(STOPPER)
    words = [*LAUNCHERS["accelerate"][:-1], str(script), json.dumps([runs, str(folder), kill_at])]
    if kill_at is None:
        done = start(words, ACCELERATE_USE_CPU="yes")
        assert done.returncode == 0, done.stderr[-5000:]
        return
    environment = os.environ | {"ACCELERATE_USE_CPU": "yes"}
    with open(folder / "errors", "w") as errors:
        launcher = subprocess.Popen(
            [sys.executable, *words], env=environment, stdout=errors, stderr=errors, start_new_session=True
        )
    ranks, end = [folder / "rank-0", folder / "rank-1"], time.monotonic() + 300
    while not all(rank.exists() for rank in ranks):
        assert launcher.poll() is None and time.monotonic() < end, (folder / "errors").read_text()[-5000:]
        time.sleep(0.05)
    groups = [launcher.pid, *(os.getpgid(int(rank.read_text())) for rank in ranks)]
    for group in dict.fromkeys(groups):  # torchrun starts each process in a group of its own
        os.killpg(group, signal.SIGKILL)
    assert launcher.wait() == -signal.SIGKILL


def divide(kinds: tuple[type, type], given: dict) -> tuple:
    """The options and the training arguments of a trainer, of values that belong to either."""
    own = set(kinds[0].__dataclass_fields__)
    return (
        kinds[0](**{name: value for name, value in given.items() if name in own}),
        kinds[1](**{name: value for name, value in given.items() if name not in own}),
    )


def as_flags(given: dict) -> list[str]:
    """Values as a command line."""
    return [
        part
        for name, value in given.items()
        for part in (f"--{name}", *(map(str, value) if isinstance(value, list) else [str(value)]))
    ]


def write_csv(path: Path, rows: list[dict]) -> Path:
    """A metadata CSV."""
    with open(path, "w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, restval="", extrasaction="ignore")
        table.writeheader()
        table.writerows(rows)
    return path


def history(folder: Path) -> list[dict]:
    """What was logged at each step and evaluation, but for what measures time."""
    logged = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    clock = ("_runtime", "_per_second")
    return [
        {name: value for name, value in entry.items() if not name.endswith(clock)}
        for entry in logged
        if "step" in entry and "train_loss" not in entry  # a mean over the session
    ]


def steps_of(folder: Path) -> list[dict]:
    """The logged training steps."""
    return [entry for entry in history(folder) if "loss" in entry]


def losses(folder: Path) -> list[float]:
    return [entry["loss"] for entry in steps_of(folder)]


def results_of(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same_weights(folder: Path, other: Path, atol: float = 0.0) -> None:
    """Asserts that two models have the same weights; bit for bit by default."""
    one, two = weights(folder), weights(other)
    assert one.keys() == two.keys()
    for name, value in one.items():
        if atol:
            torch.testing.assert_close(two[name], value, rtol=0, atol=atol)
        else:
            assert torch.equal(two[name], value), name


def same_steps(folder: Path, other: Path, count: int, rel: float = 1e-5) -> None:
    """Asserts that two runs of `count` steps have the same losses and gradient norms."""
    one, two = steps_of(folder), steps_of(other)
    assert len(one) == len(two) == count
    for a, b in zip(one, two, strict=True):
        for name in ("loss", "grad_norm"):
            assert b[name] == pytest.approx(a[name], rel=rel)


def same_state(one, other) -> None:
    """Asserts that two nested objects are equal, tensors and arrays bit for bit."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            same_state(one[name], other[name])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            same_state(a, b)
    elif torch.is_tensor(one):
        assert torch.equal(one, other)
    else:
        assert (one == other) is True or (one == other).all()
