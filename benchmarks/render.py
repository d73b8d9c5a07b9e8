"""Writes the numbers of README, docs/limits.md and docs/measured anew, from benchmarks/results.

    python benchmarks/render.py           # after a file in benchmarks/results has changed
    python benchmarks/render.py --check   # exit code 1 if a page differs from the files

A block of a page begins with a line `<!-- name -->` and an empty line, and ends before the next empty line. `name` is
a renderer of `pages`, or `run FILE`: command, commit, machine and seconds of a results file. The rest is written by
hand.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from pages import barcodes, clibd, clusters, names, objectives, pictures, readme, speed
from pages.results import ROOT, run

BLOCKS = {
    name: render
    for module in (barcodes, clibd, clusters, names, objectives, readme, speed)
    for name, render in module.BLOCKS.items()
}

BLOCK = re.compile(r"(?<=^<!-- )([\w ]+)( -->\n\n)(.*?)(?=\n\n|\n\Z)", re.S | re.M)


def pages() -> list[Path]:
    """README, the page of limits and the pages of measurements."""
    return [ROOT / "README.md", ROOT / "docs/limits.md", *sorted((ROOT / "docs/measured").glob("*.md"))]


def text_of(name: str) -> str:
    """Text of a block.

    Raises:
        KeyError: If no renderer has this name.
    """
    return run(name.removeprefix("run ")) if name.startswith("run ") else BLOCKS[name]()


def rendered(page: str) -> str:
    """A page with all its blocks made anew."""
    return BLOCK.sub(lambda found: f"{found[1]}{found[2]}{text_of(found[1])}", page)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args(arguments)
    different = []
    for path in pages():
        old = path.read_text(encoding="utf-8")
        new = rendered(old)
        if new != old:
            different.append(path)
            if not options.check:
                path.write_text(new, encoding="utf-8")
    for path in pictures.PICTURES:
        if not pictures.is_new(path):
            different.append(path)
            if not options.check:
                pictures.draw(path)
    for path in different:
        print(f"{'Differs: ' if options.check else 'Wrote '}{path.relative_to(ROOT)}")
    return int(options.check and bool(different))


if __name__ == "__main__":
    raise SystemExit(main())
