"""How Sphinx makes the site: ``sphinx-build -W docs FOLDER``."""

import importlib
import itertools
import re
from typing import Any

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


def put_catalogues(app: Any, page: str, source: list[str]) -> None:
    """Put what the code has in the place of its name: each thing of a catalogue."""
    source[0] = re.sub(r"^ALL OF (\S+)\.(\w+)$", all_of, source[0], flags=re.MULTILINE)


def all_of(found: re.Match[str]) -> str:
    """What documents each thing of a catalogue, with its name."""
    catalogue = getattr(importlib.import_module(found[1]), found[2])
    return "\n\n".join(
        f"``{name}``\n\n.. autoclass:: {thing.__module__}.{thing.__name__}"
        for name, thing in catalogue.items()
    )


def keep_formulas(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Leave formulas, which stand indented before the first section, as they are; and bars bars."""
    given, lines[:] = lines.copy(), []
    is_text, is_formula = True, False
    for line, following in itertools.zip_longest(given, given[1:], fillvalue=""):
        is_text = is_text and not re.fullmatch("-{3,}", following)
        if line.strip():
            is_indented = line.startswith("    ")
            if is_text and is_indented and not is_formula:
                lines += ["", "::", ""]
            elif is_formula and not is_indented:
                lines.append("")
            is_formula = is_text and is_indented
        lines.append(line if is_formula or "`" in line else line.replace("|", r"\|"))


def setup(app: Any) -> None:
    """Connect the above; numpydoc reads what `keep_formulas` has made."""
    app.connect("source-read", put_catalogues)
    app.connect("autodoc-process-docstring", keep_formulas, priority=400)
