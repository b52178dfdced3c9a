"""Configuration of the documentation site.

sphinx-build -W --keep-going -n -b html docs build/docs

The build uses no network. Pages are Markdown that a code host shows as well: links name files of the repository.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pygments.lexers.special import TextLexer

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "Forgather"
author = "The Forgather maintainers"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns: list[str] = []

html_theme = "furo"
html_title = "Forgather"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = html_show_sourcelink = html_copy_source = False

myst_heading_anchors = 3
highlight_language = "text"

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
add_module_names = False
default_role = "code"  # docstrings mark code with single backticks

# Names of other projects, and internal classes in signatures, have no page here. Other names must resolve.
nitpick_ignore_regex = [("py:.*", r"(?!forgather).*|forgather_core\.checks\.covering\..*")]

_DEFINITION = re.compile(r"\]\((?:\.\./)*(?:plugins/)?forgather_(\w+)/README\.md")


def setup(app: Sphinx) -> None:
    """Register the handlers of this configuration."""
    app.add_lexer("mermaid", TextLexer)
    app.connect("source-read", lambda app, page, source: _link_definitions(page, source))
    app.connect("include-read", lambda app, file, stem, source: _link_definitions(app.env.docname, source))


def _link_definitions(page: str, source: list[str]) -> None:
    """Replace links to the READMEs of definitions, which the site includes as pages, by links to those pages."""
    directory = "" if page.startswith("definitions/") else "definitions/"
    source[0] = _DEFINITION.sub(rf"]({directory}\1.md", source[0])
