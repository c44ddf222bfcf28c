"""Rules of docs/architecture.md and CONTRIBUTING.md that no linter checks."""

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(path for top in ("pcl_jax", "experiments", "examples") for path in (ROOT / top).rglob("*.py"))
FRAGMENTS = ("Of ", "What ", "Whose ", "Those ", "How ", "Where ", "So many ", "That which ")
"""Beginnings of a docstring that is no sentence and no noun phrase with its head noun."""
MOST_LINES = 60
"""Code lines of a function: no blank ones, comments or docstrings."""

Documented = ast.Module | ast.ClassDef | ast.FunctionDef


def docstrings(tree: ast.Module) -> Iterator[ast.Constant]:
    """Yield docstrings, and the strings after a name that document it."""
    for node in ast.walk(tree):
        if isinstance(node, Documented):
            for line in node.body:
                value = line.value if isinstance(line, ast.Expr) else None
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    yield value


def code_lines(path: Path) -> set[int]:
    """Return the numbers of the lines that hold code."""
    text = path.read_text()
    skipped = (
        tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER,
    )  # fmt: skip
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skipped:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for text_node in docstrings(ast.parse(text)):
        lines -= set(range(text_node.lineno, (text_node.end_lineno or text_node.lineno) + 1))
    return lines


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_docstring_begins_with_a_fragment_and_no_function_is_long(path):
    tree = ast.parse(path.read_text())
    for text in docstrings(tree):
        assert not str(text.value).startswith(FRAGMENTS), f"{path}:{text.lineno}: {text.value}"
    lines = code_lines(path)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            count = len(lines & set(range(node.lineno, (node.end_lineno or node.lineno) + 1)))
            assert count <= MOST_LINES, f"{path}:{node.lineno}: {node.name} has {count} lines of code"


def test_the_rules_are_seen_to_be_broken():
    tree = ast.parse('"""Map of the code."""\n\nX = 1\n"""Of a name: a fragment."""\n')
    assert [str(text.value).startswith(FRAGMENTS) for text in docstrings(tree)] == [False, True]
