"""SIGKILL at any instant of `pcl learn` and `pcl predict`: the same command ends with the same bytes."""

import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from tests.inference.conftest import tone


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Sixteen clips of four speakers, two of three with a label."""
    rows = ["file,speaker,emotion"]
    for number in range(16):
        soundfile.write(tmp_path / f"{number:02d}.wav", tone(number, 4_000), 16_000)
        label = ("excited", "calm")[number % 2] if number % 3 else ""
        rows.append(f"{number:02d}.wav,s{number // 4},{label}")
    (tmp_path / "mine.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "mine.csv"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_commands_that_were_killed_again_and_again_end_with_the_bytes_of_undisturbed_ones(table, tmp_path):
    """Kills before changes of the file system, whichever they are, and at instants in between."""
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    words = [sys.executable, "-m", "tests.commands.killed", table, tmp_path, "0"]
    done = subprocess.run(
        words, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=1200, check=False
    )
    assert done.returncode == 0, done.stderr
    kills = {name: int(count) for name, count in map(str.split, done.stdout.splitlines())}
    assert min(kills.values()) >= 2
    whole, killed = contents(tmp_path / "whole"), contents(tmp_path / "killed")
    assert set(whole) >= {"model/config.json", "model/model.safetensors", "model/report.html", "x.csv"}
    assert killed == whole
