"""Sphinx configuration: Markdown pages, and an API reference made from the docstrings (`make docs`)."""

import ast
import inspect
import re
import textwrap
from importlib.metadata import version as installed

from docutils import nodes

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
suppress_warnings = ["ref.python"]  # a type in a signature, as `bytes`, may be the name of two fields
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "pcl_jax"
html_static_path = ["_static"]
html_css_files = ["tables.css"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

highlight_language = "text"
default_role = "code"  # `name` in a docstring, as in Markdown
napoleon_numpy_docstring = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_display_short_literal_types = True
python_maximum_signature_line_length = 88


def to_rest(app, what, name, obj, options, lines):
    """Turn the docstrings' dollar formulas and return values into what napoleon and docutils read."""
    text = "\n".join(lines)

    def display(match):
        margin = match[1]
        formula = "\n".join(f"{margin}   {line.strip()}" for line in match[2].strip().splitlines())
        return f"\n{margin}.. math::\n\n{formula}\n"

    text = re.sub(r"(?m)^([ ]*)\$\$(.+?)\$\$[ ]*$", display, text, flags=re.DOTALL)
    text = re.sub(r"(?<![\\$\w`])\$([^$\n]+(?:\n[^$\n]+)?)\$(?![\w`])", r":math:`\1`", text)
    if what == "module":  # a map of the package in columns stays as it is written
        text = "\n\n".join(
            "::\n\n" + textwrap.indent(textwrap.dedent(block), "    ")
            if re.search(r"\S {2,}\S", block)
            else block
            for block in text.split("\n\n")
        )
    # Napoleon takes what stands before a colon for a type; a leading colon says that there is none.
    text = re.sub(r"(?m)^( *(?:Returns|Yields):\n +)(?=\S)", r"\1: ", text)
    if what in ("attribute", "data", "property"):
        text = "" if text.startswith("Alias for field number") else f": {text}"
    lines[:] = text.split("\n")


def as_written(app, what, name, obj, options, signature, returns):
    """Return the signature of a function as its source has it: `views: Views`, not all that `Views` is."""
    if inspect.isclass(obj):
        try:
            parameters = inspect.signature(obj).parameters.values()
        except (TypeError, ValueError):
            return None
        if len(parameters) > 6:  # a record, whose fields are listed below it
            return "", None
        untyped = [parameter.replace(annotation=parameter.empty) for parameter in parameters]
        return str(inspect.Signature(untyped)), None
    try:
        (function,) = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(obj)))).body
    except (TypeError, OSError, SyntaxError, ValueError):
        return None
    if not isinstance(function, ast.FunctionDef):
        return None
    arguments = function.args
    if arguments.args and arguments.args[0].arg in ("self", "cls"):
        del arguments.args[0]
    return f"({ast.unparse(arguments)})", function.returns and ast.unparse(function.returns)


def mark_numbers(app, doctree):
    """Give tables whose cells are all short, as numbers are, the class `numbers` (see tables.css)."""
    for table in doctree.findall(nodes.table):
        if max(len(entry.astext()) for entry in table.findall(nodes.entry)) <= 32:
            table["classes"].append("numbers")


def setup(app):
    """Register the hooks; napoleon, which reads the docstrings after `to_rest`, has priority 500."""
    app.connect("doctree-read", mark_numbers)
    app.connect("autodoc-process-docstring", to_rest, priority=400)
    app.connect("autodoc-process-signature", as_written)
