"""Settings of the losses' tests: strict promotion."""

import jax
import pytest


@pytest.fixture(autouse=True)
def _promote_strictly():
    """Refuse implicit promotion of ranks and dtypes, as many JAX code bases do."""
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture
def optimised():
    """Restore the optimisations that `tests/conftest.py` turns off, for tests of memory."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)
