"""The progress bar of a command, on a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock, Timer
from typing import Any

#: Seconds until the bar appears.
BAR_DELAY = 2.0


class Bar:
    """A bar on standard error that appears after `BAR_DELAY` seconds and restarts for each new stage."""

    def __init__(self, stage: str = "working", in_bytes: bool = False) -> None:
        self.latest: tuple[str, int, int | None] = (stage, 0, None)
        self.in_bytes, self.lock = in_bytes, RLock()
        self.bar: Any = None
        self.timer = Timer(BAR_DELAY, self._start)
        self.timer.daemon = True
        if sys.stderr.isatty():
            self.timer.start()

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        stage, count = (TextColumn(f"{{task.{name}}}", markup=False) for name in ("description", "fields[count]"))
        columns = (stage, BarColumn(), count, TimeElapsedColumn())
        with self.lock:
            self.bar = Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False)
            self.bar.start()
            self._draw()

    def show(self, stage: str, done: int, total: int | None) -> None:
        """A progress callback, see `bioscan_hf.progress`."""
        with self.lock:
            self.latest = (stage, done, total)
            self._draw()

    def _draw(self) -> None:
        stage, done, total = self.latest
        if self.bar is None:
            return
        if not self.bar.tasks or self.bar.tasks[0].description != stage:
            for task in self.bar.task_ids:
                self.bar.remove_task(task)
            self.bar.add_task(stage, total=total, count="")
        self.bar.update(self.bar.task_ids[0], completed=done, total=total, count=self._count(done, total))

    def _count(self, done: int, total: int | None) -> str:
        """What is done of how many; "" before anything is."""
        if not done and not total:
            return ""
        shown = [f"{number / 1e6:,.1f} MB" if self.in_bytes else f"{number:,}" for number in (done, total or 0)]
        return " of ".join(shown if total else shown[:1])

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Removes the bar while something is printed."""
        with self.lock:
            if self.bar is not None:
                self.bar.stop()
            yield
            if self.bar is not None:
                self.bar.start()

    def close(self) -> None:
        """Removes the bar for good."""
        self.timer.cancel()
        with self.lock:
            if self.bar is not None:
                self.bar.stop()
            self.bar = None
