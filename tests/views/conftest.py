"""Where real speech lies, for the tests marked `corpora`."""

import os
from pathlib import Path

import pytest


@pytest.fixture
def corpora_folder() -> Path:
    root = Path(__file__).resolve().parents[2]
    folder = Path(os.environ.get("PCL_CORPORA", root.parent / "shared" / "corpora"))
    if not folder.is_dir():
        pytest.skip(f"real speech not found at {folder}")
    return folder
