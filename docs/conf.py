"""Sphinx: `sphinx-build -W docs build/docs` makes the pages."""

from bioscan_hf import __version__

project = "bioscan_hf"
author = "The bioscan_hf developers"
copyright = author  # noqa: A001
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinxarg.ext"]
html_theme = "furo"
html_title = f"bioscan_hf {__version__}"
html_copy_source = False

myst_heading_anchors = 3
exclude_patterns: list[str] = []

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_numpy_docstring = False
napoleon_use_ivar = True
# Names that a docstring puts between single backquotes are code.
default_role = "code"
