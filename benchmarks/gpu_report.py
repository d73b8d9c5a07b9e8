"""The results file of `gpu_run.py`: rows that are written as soon as they are measured, and time budgets."""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from bioscan_hf.files import write_json
from bioscan_hf.provenance import provenance, without_folders


class Report:
    """Rows of all parts, written to a JSON file after each row.

    A row that fails, or does not fit into the memory, is a row with its error.

    Args:
        path: The file.
        device: Where the parts compute.
        seconds: Seconds that all parts have.
        measured: About how many seconds a step is measured.
        about: Further fields of the file.
    """

    def __init__(
        self, path: Path, device: torch.device, seconds: float, about: Mapping[str, Any], measured: float = 1.0
    ):
        self.path, self.device, self.measured = path, device, measured
        self.end = self.part_end = time.monotonic() + seconds
        self.parts: dict[str, dict[str, Any]] = {}
        self.rows: dict[str, Any] = {}
        self.content = {"task": "benchmark/gpu_run", **about, **provenance()}
        self.goals: dict[str, Any] = {}

    def begin(self, part: str, budget: float) -> None:
        """Starts a part that has `budget` seconds, or what is left of all."""
        self.part_end = min(self.end, time.monotonic() + budget)
        self.rows = {}
        self.parts[part] = {"rows": self.rows}
        print(f"== {part} ({self.left():.0f} s)", flush=True)

    def left(self) -> float:
        """Seconds that the part has left."""
        return self.part_end - time.monotonic()

    def row(self, name: str, measure: Callable[[], Mapping[str, Any]], needs: float = 0.0) -> dict[str, Any]:
        """Measures a row and writes the file; the row is skipped if fewer than `needs` seconds are left."""
        start = time.monotonic()
        free_memory(self.device)
        if self.left() < needs:
            found: dict[str, Any] = {"skipped": f"{self.left():.0f} s left of the part's time"}
        else:
            found = self.attempt(measure)
        free_memory(self.device)
        found["seconds_of_row"] = round(time.monotonic() - start, 2)
        self.rows[name] = found
        print(f"  {name}: { {key: value for key, value in found.items() if key != 'trace'} }", flush=True)
        self.write()
        return found

    def attempt(self, measure: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """What `measure` gives, or its error."""
        try:
            return dict(measure())
        except torch.OutOfMemoryError as error:
            return {"out_of_memory": str(error).partition(". GPU")[0]}
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}"[:500], "trace": traceback.format_exc()[-1500:]}

    def seconds_per_step(self, step: Callable[[], Any]) -> dict[str, float]:
        """Seconds of the first step (with compilation), and of a later step: the mean over about `measured`."""

        def timed(steps: int) -> float:
            start = time.perf_counter()
            for _ in range(steps):
                step()
            wait(self.device)
            return (time.perf_counter() - start) / steps

        wait(self.device)
        first = timed(1)
        steps = round(self.measured / timed(1))
        return {"first_step": round(first, 3), "step": timed(min(max(2, steps), 1000))}

    def write(self) -> None:
        """Writes the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, without_folders({**self.content, "goals": self.goals, "metrics": self.parts}))


def free_memory(device: torch.device) -> None:
    """Frees what earlier rows left on the device, and starts to count its peak anew."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def wait(device: torch.device) -> None:
    """Waits until the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def peak_gb(device: torch.device) -> float | None:
    """Most memory held on the device since it was freed, in GB; None on a CPU."""
    return round(torch.cuda.max_memory_allocated() / 1e9, 2) if device.type == "cuda" else None
