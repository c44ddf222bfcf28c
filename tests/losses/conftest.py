import jax
import pytest


@pytest.fixture(autouse=True)
def _compile_in_half_the_time():
    """Hundreds of small programs that run once each; what optimisation is worth, benchmarks/ measures."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def optimised(_compile_in_half_the_time):
    jax.config.update("jax_disable_most_optimizations", False)
