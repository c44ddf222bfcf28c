"""Settings of the losses' tests: strict promotion, and quick compilation."""

import jax
import pytest


@pytest.fixture(autouse=True)
def _promote_strictly():
    """Refuse implicit promotion of ranks and dtypes, as many JAX code bases do."""
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture(autouse=True)
def _compile_without_optimisation():
    """Halve the compile time: the tests run hundreds of small programs once each."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def optimised(_compile_without_optimisation):
    """Restore the optimisations, for tests of memory."""
    jax.config.update("jax_disable_most_optimizations", False)
