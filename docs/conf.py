"""How Sphinx builds these pages: `make docs`. Nothing is fetched, and nothing on a page is loaded from elsewhere."""

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS), str(DOCS.parent)]

from modeling_apex import __version__  # noqa: E402

project = "apex-music"
author = "the apex-music authors"
copyright = "the apex-music authors, Apache-2.0"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "generated_reference"]
exclude_patterns: list[str] = []
highlight_language = "text"
nitpicky = True
# It is not among the public names: a program catches it as a `RuntimeError`.
nitpick_ignore = [("py:exc", "NotValidatedError")]

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"apex-music {version}"
html_static_path = ["static"]
html_css_files = ["tables.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"top_of_page_buttons": []}
