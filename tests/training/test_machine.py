"""Data that are prepared once for the processes of a machine, and the default number of data workers."""

import os
import subprocess
import sys

import pytest

from bioscan_hf.training import machine
from bioscan_hf.training.arguments import BaseTrainingArguments

TWO_PROCESSES = """
import os, sys, time
from datetime import timedelta
from pathlib import Path
from accelerate import PartialState
from bioscan_hf.training.machine import once_per_machine

folder, fails = Path(sys.argv[1]), len(sys.argv) > 2
state = PartialState(cpu=True, timeout=timedelta(seconds=2))  # a barrier would fail
try:
    with once_per_machine():
        if not (folder / "prepared").exists():
            time.sleep(4)
            if fails:
                raise ValueError("broken data")
            (folder / f"by-{state.process_index}").touch()
            (folder / "prepared").touch()
except ValueError as error:
    (folder / f"{state.process_index}-{error}").touch()
"""


@pytest.mark.slow
@pytest.mark.parametrize("fails", [False, True])
def test_one_process_prepares_and_the_other_waits_longer_than_a_barrier(tmp_path, fails):
    """It takes twice the time limit of the process group. If it fails, the other process tries, and fails as well."""
    script = tmp_path / "script.py"
    script.write_text(TWO_PROCESSES)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", str(script)]
    environment = os.environ | {"ACCELERATE_USE_CPU": "yes", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, tmp_path, *["fails"] * fails], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = {path.name for path in tmp_path.iterdir()} - {"script.py"}
    assert found == ({"0-broken data", "1-broken data"} if fails else {"prepared", "by-0"})


@pytest.mark.parametrize(
    ("cores", "processes", "on_gpu", "workers"),
    [(64, 8, True, 7), (16, 1, True, 15), (128, 1, True, 16), (8, 8, True, 1), (2, 8, True, 1), (64, 1, False, 0)],
)
def test_workers_share_the_cores(monkeypatch, cores, processes, on_gpu, workers):
    """A core of each process is left to it; a machine with fewer cores than processes still has a worker for each."""
    monkeypatch.setattr(machine, "cores", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert machine.default_workers(on_gpu) == workers


def test_a_given_number_of_workers_is_used(tmp_path):
    given = {"output_dir": str(tmp_path), "use_cpu": True}
    assert BaseTrainingArguments(**given).dataloader_num_workers == 0
    assert BaseTrainingArguments(dataloader_num_workers=3, **given).dataloader_num_workers == 3
