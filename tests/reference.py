"""Where tests find reference numbers and real data."""

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FIXTURES = Path(__file__).parent / "fixtures"
SHARED = Path(os.environ.get("BIOSCAN_HF_SHARED", Path(__file__).parents[2] / "shared"))

#: Start of a name -> the real data, and where it comes from.
REAL = {
    "bold_coi5p": "public COI-5P records of insects from boldsystems.org in the columns of BIOSCAN-5M",
    "bioscan5m_browser": "25 records and boxes of BIOSCAN-5M from github.com/bioscan-ml/bioscan-browser at 519ce95",
    "split_reference": "public records of boldsystems.org, split by bioscan_split.py of BIOSCAN-5M at 97f68a6",
    "images": "photos cut from the figures of the BIOSCAN papers",
}


class Files:
    """A folder whose files lie in the first root that has them. A missing file skips the test."""

    def __init__(self, roots: tuple[Path, ...], missing: Callable[[str], str], name: str = "") -> None:
        self.roots, self.missing, self.name = roots, missing, name

    def __truediv__(self, name: str) -> Any:
        """The path of a file, or the folder below this one."""
        path = Path(self.name, name)
        for root in self.roots:
            if (root / path).is_file():
                return root / path
        if path.suffix:
            pytest.skip(self.missing(path.as_posix()))
        return Files(self.roots, self.missing, path.as_posix())

    def text(self, name: str) -> str:
        """Text of a file, which may lie there as `name`.gz."""
        for root in self.roots:
            packed = root / self.name / f"{name}.gz"
            if packed.is_file():
                return gzip.decompress(packed.read_bytes()).decode()
        return (self / name).read_text(encoding="utf-8")

    def json(self, name: str) -> Any:
        return json.loads(self.text(name))

    def weights(self) -> dict[str, Path]:
        """Name -> path of the checkpoints at any depth of this folder."""
        found: dict[str, Path] = {}
        for root in self.roots:
            for path in sorted((root / self.name).rglob("*")):
                if path.suffix in (".pt", ".pth"):
                    found.setdefault(path.relative_to(root).as_posix(), path)
        return found


def missing_reference(name: str) -> str:
    return (
        f"reference file {name} is not in tests/fixtures; the README there says how to make it "
        "(set BIOSCAN_HF_SHARED to a folder with fixtures/)"
    )


def missing_data(name: str) -> str:
    what = next(text for start, text in REAL.items() if name.startswith(start))
    return f"real data {name} is not in the repository: {what} (set BIOSCAN_HF_SHARED to a folder with data/)"
