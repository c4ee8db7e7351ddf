"""The site: `make docs` builds it in build/docs, and fails at the first warning."""

import re
from typing import Any

from quantal import __version__

project = "quantal"
author = "the authors of quantal"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_click"]
exclude_patterns = ["**/plots"]
html_theme = "furo"
html_title = f"quantal {__version__}"
html_copy_source = html_show_copyright = False
smartquotes = False  # options are written with two hyphens
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "description"


def as_plain_text(_app: Any, _kind: str, _name: str, _of: Any, _options: Any, lines: list[str]) -> None:
    """Docstrings are plain text with `code` in them: what else would be markup is shown as it is."""
    example = False
    for number, line in enumerate(lines):
        example = line.lstrip().startswith(">>>") or (example and bool(line.strip()))
        if not example:
            parts = re.split(r"(`[^`]*`)", line)
            parts = [f"`{part}`" if part[:1] == "`" else re.sub(r"([\\*|_])", r"\\\1", part) for part in parts]
            lines[number] = "".join(parts)


def setup(app: Any) -> None:
    """What Sphinx calls."""
    app.connect("autodoc-process-docstring", as_plain_text)
