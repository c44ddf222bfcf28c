"""Sphinx configuration: Markdown pages, and an API reference made from the docstrings (`make docs`)."""

import re
from importlib.metadata import version as installed

project = "pcl_jax"
author = "The pcl_jax authors"
copyright = author
release = version = installed("pcl-jax")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "pcl_jax"
html_static_path = ["_static"]
html_css_files = ["tables.css"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

default_role = "code"  # `name` in a docstring, as in Markdown
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_display_short_literal_types = True
python_maximum_signature_line_length = 88


def to_rest(app, what, name, obj, options, lines):
    """Turn the docstrings' dollar formulas into the roles and directives of reStructuredText."""
    text = "\n".join(lines)

    def display(match):
        margin = match[1]
        formula = "\n".join(f"{margin}   {line.strip()}" for line in match[2].strip().splitlines())
        return f"\n{margin}.. math::\n\n{formula}\n"

    text = re.sub(r"(?m)^([ ]*)\$\$(.+?)\$\$[ ]*$", display, text, flags=re.DOTALL)
    text = re.sub(r"(?<![\\$\w`])\$([^$\n]+(?:\n[^$\n]+)?)\$(?![\w`])", r":math:`\1`", text)
    lines[:] = text.split("\n")


def setup(app):
    """Register the conversion before napoleon's, which has priority 500."""
    app.connect("autodoc-process-docstring", to_rest, priority=400)
