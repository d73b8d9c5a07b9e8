"""The one form of progress callback: `progress(stage, done, total)`.

Long functions take `progress: Progress = silent`. The command line shows a bar for it.
"""

from __future__ import annotations

from collections.abc import Callable

#: Called with the stage ("photos"), what is done of it so far (cumulative), and the total, None if unknown.
Progress = Callable[[str, int, int | None], object]


def silent(stage: str, done: int, total: int | None) -> None:
    """Shows nothing: the default."""
