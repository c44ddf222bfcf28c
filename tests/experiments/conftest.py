"""The made-up features that the tests of training have."""

from tests.training.conftest import make_study, quick_compilation

__all__ = ["make_study", "quick_compilation"]
