"""The made-up features that the tests of runs have."""

from tests.runs.conftest import make_runner

__all__ = ["make_runner"]
