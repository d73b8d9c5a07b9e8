"""Pages of docs/: the reference names every public name and module page, the glossary is in order."""

import re
from pathlib import Path

import bioscan_hf

DOCS = Path(__file__).parents[1] / "docs"


def test_python_reference_lists_every_public_name_once():
    page = (DOCS / "api/index.md").read_text(encoding="utf-8")
    table = [line for line in page.splitlines() if line.startswith("| ") and "](" in line]
    named = [name for line in table for name in re.findall(r"`(\w+)`(?! of)", line) if hasattr(bioscan_hf, name)]
    assert sorted(named) == sorted(set(bioscan_hf.__all__) - {"__version__"})


def test_a_module_is_on_one_page_of_the_reference():
    pages = "".join(path.read_text(encoding="utf-8") for path in sorted((DOCS / "api").glob("*.md")))
    modules = re.findall(r"automodule:: (\S+)", pages)
    assert len(modules) == len(set(modules)) > 80


def test_glossary_is_in_alphabetical_order():
    terms = re.findall(r"^(\w.*)\n    ", (DOCS / "glossary.md").read_text(encoding="utf-8"), flags=re.M)
    assert len(terms) > 30 and terms == sorted(terms, key=str.lower)
    assert {"BIN", "COI", "NUMT", "AMI", "k-mer", "linear probe", "harmonic mean", "calibration"} <= set(terms)


def test_limits_say_what_was_never_run_and_what_the_confidence_means():
    page = (DOCS / "limits.md").read_text(encoding="utf-8")
    for word in ("BIOSCAN-5M itself", "Several GPUs", "Windows", "What the 95 % means", "<!-- confidence_verdict -->"):
        assert word in page, word
