"""The wheel works where the checkout is not."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def call(*words: str | Path, cwd: Path) -> str:
    """Return the output of a command that finds nothing but what is installed."""
    environment = {
        k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "JAX_COMPILATION_CACHE_DIR")
    }
    done = subprocess.run([str(w) for w in words], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built of a copy of the files that git tracks, so that the checkout gets no build folder."""
    folder = tmp_path_factory.mktemp("wheel")
    files = call("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).split("\0")
    for name in filter(None, files):
        if (ROOT / name).is_file():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "source" / name).write_bytes((ROOT / name).read_bytes())
    # What builds it is what is installed here: nothing is fetched.
    script = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    call(sys.executable, "-c", script, folder, cwd=folder / "source")
    (found,) = folder.glob("*.whl")
    return found


@pytest.mark.slow
def test_the_wheel_has_every_file_that_the_packages_read(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = call("git", "ls-files", "pcl_jax", "experiments", cwd=ROOT).split()
    assert {name for name in tracked if not name.endswith(".md")} <= names
    assert not {name for name in names if name.startswith(("tests", "benchmarks", "docs"))}


@pytest.mark.slow
def test_the_wheel_works_outside_the_checkout(wheel, tmp_path):
    """In an environment of its own; its dependencies are those of this one, found by a path file."""
    call(sys.executable, "-m", "venv", "--without-pip", "fresh", cwd=tmp_path)
    python = tmp_path / "fresh" / "bin" / "python"
    own = Path(
        call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    )
    # Before the path file: the wheel's package is found first, and never the checkout's.
    zipfile.ZipFile(wheel).extractall(own)
    here = call(sys.executable, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path)
    (own / "dependencies.pth").write_text(here)
    script = "import sys; from pcl_jax.cli import main; sys.argv[0] = 'pcl'; main()"
    assert "pretrain" in call(python, "-c", script, "--help", cwd=tmp_path)
    counted = call(python, "-c", script, "corpus", cwd=tmp_path)
    assert "SYNTHETIC" in counted or "synthetic" in counted
    place = call(python, "-c", "import pcl_jax.losses; print(pcl_jax.losses.__file__)", cwd=tmp_path)
    assert Path(place.strip()).is_relative_to(own)
