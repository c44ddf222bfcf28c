"""The made-up features that the tests of studies have."""

from tests.runs.conftest import make_study, quick_compilation

__all__ = ["make_study", "quick_compilation"]
