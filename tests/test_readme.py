"""Commands and code in README.md and the documentation: every flag exists, every snippet runs."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
import tyro

from pcl_jax.commands import flags

ROOT = Path(__file__).parent.parent
PAGES = (
    *(ROOT / name for name in ("README.md", "RESULTS.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
)
FENCED = re.compile(r"^```([^\n`]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(
    r"(?:^|\s|/)(pcl (?:corpus|extract|features|pretrain|finetune"
    r"|learn|predict|embed|suggest|demo|export)\b.*"
    r"|python -m experiments\.[a-z_]+\b.*|python benchmarks/\w+\.py\b.*|make [a-z-]+\b.*)"
)

NAMES = ("pcl predict", "pcl embed", "pcl export")
"""Inline code that names a command which needs arguments."""


def commands(page: Path) -> list[str]:
    """Return the command lines of fenced blocks without a language and of inline code, each on one line."""
    text = page.read_text(encoding="utf-8")
    lines = [line for language, block in FENCED.findall(text) if not language for line in block.splitlines()]
    inline = re.findall(r"`([^`]+)`", FENCED.sub("", text))
    candidates = [*lines, *(" ".join(code.split()) for code in inline)]
    found = [match[1].strip() for line in candidates if (match := COMMAND.search(line.split("#")[0]))]
    return [command for command in found if command not in NAMES]


def snippets(page: Path) -> list[str]:
    """Return the Python blocks of a page."""
    return [block for language, block in FENCED.findall(page.read_text("utf-8")) if language == "python"]


def parse(command: str) -> None:
    """Parse a command line as the program itself would.

    Raises:
        SystemExit: The program refuses it.
    """
    program, *arguments = shlex.split(command)
    if program == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        target, *variables = arguments
        known = set(re.findall(r"^([A-Z_]+) \?=", makefile, re.MULTILINE))
        given = {variable.split("=")[0] for variable in variables}
        if not re.search(rf"^{target}:", makefile, re.MULTILINE) or given - known:
            raise SystemExit(f"make knows no {command}")
    elif program == "pcl":
        flags.parse(arguments)
    elif arguments[0] == "-m":
        parse_experiment(arguments[1], arguments[2:])
    else:
        script, *words = arguments
        source = (ROOT / script).read_text(encoding="utf-8")  # argparse: its flags stand in the text
        for word in words:
            if word.startswith("--") and f'"{word}"' not in source:
                raise SystemExit(f"{script} has no {word}")


def parse_experiment(module: str, arguments: list[str]) -> None:
    """Parse the flags of an experiment."""
    kinds = vars(importlib.import_module(module)).values()
    (command,) = [kind for kind in kinds if getattr(kind, "__module__", "") == module and is_command(kind)]
    tyro.cli(command, args=arguments)


def is_command(kind: object) -> bool:
    """Say whether this is the dataclass of a module's flags."""
    return isinstance(kind, type) and hasattr(kind, "debug")


COMMANDS = sorted({command for page in PAGES for command in commands(page)})
SNIPPETS = [
    pytest.param(code, id=f"{page.name}-{i}") for page in PAGES for i, code in enumerate(snippets(page))
]


WRONG = (
    "pcl extract --veiws mel",
    "make pretrian",
    "make paper FSAT=1",
    "python -m experiments.freezing --repaets 2",
    "python benchmarks/features.py --rouns 3",
)


def test_commands_are_found():
    for start in ("make pretrain", "pcl extract", "python -m experiments.", "python benchmarks/"):
        assert any(command.startswith(start) for command in COMMANDS), start


@pytest.mark.parametrize("command", COMMANDS)
def test_command_is_one_that_the_program_takes(command):
    parse(command)


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_command_is_refused(wrong):
    with pytest.raises(SystemExit):
        parse(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("code", SNIPPETS)
def test_snippet_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "snippet", "exec"), {"__name__": "snippet"})


def test_files_that_paper_md_names_exist():
    rows = [line.strip("|").split("|") for line in (ROOT / "PAPER.md").read_text("utf-8").splitlines()]
    named = [
        (folder, path)
        for row in rows
        if len(row) == 4
        for folder, cell in (("pcl_jax", row[2]), ("tests", row[3]))
        for path in re.findall(r"`([^`]+)`", cell)
    ]
    assert len(named) > 60
    assert [path for folder, path in named if not (ROOT / folder / path).exists()] == []


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 180
