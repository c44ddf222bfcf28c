"""The example of a new view runs, and its view is the few lines that the documentation promises."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "new_view.py"


@pytest.mark.slow
def test_the_example_extracts_and_encodes_the_values_of_known_signals():
    out = subprocess.run([sys.executable, str(EXAMPLE)], capture_output=True, text=True, check=True).stdout
    tone, noise, representation = out.splitlines()
    assert tone == "tone: 0.0125 zero crossings a sample, level -2.08"  # 200 of 16,000; ln(0.5 ** 2 / 2)
    assert "level -5.71" in noise  # ln(0.1 ** 2 / 3)
    assert representation == "representation: (2, 128)"


def test_the_view_has_at_most_25_lines_of_code():
    source = EXAMPLE.read_text()
    lines: set[int] = set()
    for node in ast.parse(source).body:
        if getattr(node, "name", "") in ("Level", "LevelView", "level"):
            lines |= {node.lineno - 1, *range(node.lineno, node.end_lineno + 1)}  # with its decorator
            for part in ast.walk(node):
                if isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant):
                    lines -= set(range(part.lineno, part.end_lineno + 1))
    code = [line for line in lines if source.splitlines()[line - 1].strip()]
    assert 0 < len(code) <= 25
