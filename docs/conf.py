"""How Sphinx makes the site: ``sphinx-build -W docs FOLDER``."""

from mlp_xp import __version__

project = "mlp_xp"
author = "mlp_xp developers"
release = __version__

extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # numpydoc has them, in words
numpydoc_show_class_members = False
default_role = "code"

html_theme = "furo"
html_title = f"mlp_xp {release}"
