"""Problems found while a release is read, and their list in problems.csv."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from ..files import writing
from ..release.problems import Problem, stop

PROBLEMS_FILE = "problems.csv"


class ProblemList(list[Problem]):
    """Problems in the order in which they were found, each once.

    `report` collects them if the user chose --keep-going of `command`, and raises the first one otherwise.
    """

    def __init__(self, keep_going: bool, problems: Iterable[Problem] = (), command: str = "build"):
        super().__init__()
        self.keep_going, self.command = keep_going, command
        self._known: set[Problem] = set()
        for problem in problems:
            self.note(problem)

    def report(self, problem: Problem) -> None:
        """Adds a problem, or raises it as ReleaseError."""
        if not self.keep_going:
            stop(problem, self.command)
        self.note(problem)

    def note(self, problem: Problem) -> None:
        """Adds a problem that does not stop the work."""
        if problem not in self._known:
            self._known.add(problem)
            self.append(problem)

    def write(self, folder: Path) -> None:
        """Writes `PROBLEMS_FILE` in `folder`; removes it if there are no problems."""
        if not self:
            (folder / PROBLEMS_FILE).unlink(missing_ok=True)
            return
        with writing(folder / PROBLEMS_FILE) as file:
            writer = csv.DictWriter(file, ["file", "row", "processid", "what", "consequence"])
            writer.writeheader()
            writer.writerows(vars(problem) for problem in self)
