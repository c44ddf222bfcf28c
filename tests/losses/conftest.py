import jax
import pytest


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
