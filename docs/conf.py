"""Sphinx: `sphinx-build -W docs build/docs` makes the pages."""

import re
import subprocess
import sys

from sphinx.application import Sphinx

from bioscan_hf import __version__
from bioscan_hf.training.options.programs import PROGRAMS, help_page

project = "bioscan_hf"
author = "The bioscan_hf developers"
copyright = author  # noqa: A001
release = version = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_theme = "furo"
html_title = f"bioscan_hf {__version__}"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["pages.css"]

myst_heading_anchors = 3
nb_execution_mode = "off"  # tests/test_notebooks.py runs them
exclude_patterns: list[str] = []
smartquotes_action = "qe"  # options of commands keep their two hyphens

autodoc_typehints = "signature"
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_numpy_docstring = False
napoleon_use_ivar = True
# Names that a docstring puts between single backquotes are code.
default_role = "code"


def command_line(app: Sphinx, page: str, source: list[str]) -> None:
    """Fills the page of the command line with typer's own documentation of the commands."""
    if page == "api/command_line":
        command = [sys.executable, "-m", "typer", "bioscan_hf.cli.main", "utils", "docs", "--name", "bioscan-hf"]
        text = subprocess.run([*command, "--title", "Command line"], capture_output=True, text=True, check=True).stdout
        pages = [f"### Options of `bioscan-hf train {name}`\n\n```text\n{help_page(name)}\n```" for name in PROGRAMS]
        text = re.sub(r"^Examples?:\n((?:  .*\n)+)", r"```console\n\1```\n", text, flags=re.M)
        source[0] = "\n\n".join([text, *pages])


def setup(app: Sphinx) -> None:
    app.connect("source-read", command_line)
