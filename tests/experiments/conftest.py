"""The fixtures of the tests of runs: made-up features."""

from tests.runs.conftest import make_runner

__all__ = ["make_runner"]
