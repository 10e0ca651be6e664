"""How Sphinx makes the site: `tox -e docs`, or `sphinx-build -W docs docs/_build` where the extra `docs` is installed.

Nothing is fetched, at build time or by a page: fonts are the reader's own, scripts and styles lie in the site.
"""

import runpy
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

project = "kerasimg"
author = "the kerasimg authors"
release = metadata.version("kerasimg")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "snippets", "notebooks"]
myst_enable_extensions = ["attrs_inline"]
myst_heading_anchors = 3
myst_links_external_new_tab = False

html_theme = "furo"
html_title = f"kerasimg {release}"
html_show_sourcelink = False
html_copy_source = False

default_role = "code"
"""Docstrings write `name` as Markdown does."""
autodoc_typehints = "none"
autodoc_member_order = "bysource"
nitpicky = True
suppress_warnings = ["myst.xref_missing"]
"""Links to files that are no pages lead out of the site; tests/test_docs.py checks that all are there."""


def write_generated(app: Any) -> None:
    """Write the pages that follow from the code: the reference and the gallery."""
    pages = runpy.run_path(str(HERE / "make_reference.py"))["pages"]()
    for name, text in pages.items():
        path = HERE / "generated" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def setup(app: Any) -> None:
    """Sphinx calls it."""
    app.connect("builder-inited", write_generated)
