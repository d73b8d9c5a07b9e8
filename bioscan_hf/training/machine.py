"""What follows from the machine of a trainer: work done once for its processes, and its data workers."""

from __future__ import annotations

import getpass
import os
import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from accelerate import PartialState

from ..files import locked

#: Environment variables that name a launch and, if several were started on this machine, the part of it.
LAUNCH = ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK")

#: Most data workers of a process.
MOST_WORKERS = 16


@contextmanager
def once_per_machine() -> Iterator[None]:
    """Lets one process of each machine prepare data first; the others wait, and then find what it has prepared.

    They wait for a lock, as long as it takes: a barrier of the processes fails after half an hour, and the copy of all
    photos can take longer.
    """
    state = PartialState()
    if state.num_processes == 1:
        yield
        return
    launch = "-".join(os.environ.get(name, "") for name in LAUNCH)
    name = f"bioscan_hf-{getpass.getuser()}-{platform.node()}-{launch}.lock"
    if state.is_local_main_process:
        with locked(tempfile.gettempdir(), "preparation", wait=True, name=name):
            state.wait_for_everyone()  # so that the others find the lock held
            yield
    else:
        state.wait_for_everyone()
        with locked(tempfile.gettempdir(), "preparation", wait=True, name=name):
            pass
        yield


def default_workers(on_gpu: bool) -> int:
    """Data workers of a process: its share of the cores beside a GPU; none on a CPU, whose cores are busy."""
    if not on_gpu:
        return 0
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(cores() // processes - 1, MOST_WORKERS))


def cores() -> int:
    """Cores that this process may use; those of the machine where the system does not tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
