"""The learnable temperature within its bounds, and the gradient outside them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pcl_jax.losses import clamped_temperature, mean_directional_ce


def test_the_temperature_is_the_exponential_clipped_to_the_bounds():
    parameter = jnp.log(jnp.array([0.001, 0.01, 0.07, 1.0, 20.0]))
    np.testing.assert_allclose(clamped_temperature(parameter), [0.01, 0.01, 0.07, 1.0, 1.0], rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.float32, jnp.bfloat16])
def test_the_temperature_never_leaves_the_bounds_whatever_the_dtype(dtype):
    """In integers log 0.01 is log 0, and exp(log 0.01) may round to less than 0.01 in any dtype."""
    temperature = clamped_temperature(jnp.arange(-200, 200, dtype=dtype))
    assert temperature.dtype == jnp.float32
    assert temperature.min() == jnp.float32(0.01)
    assert temperature.max() == 1
    assert clamped_temperature(-10) == jnp.float32(0.01)
    for minimum in np.geomspace(0.001, 0.9, 100):
        assert clamped_temperature(-10, minimum=minimum) == jnp.float32(minimum)


@pytest.mark.parametrize(
    ("temperature", "sign", "moves"),
    [
        (0.07, 1, True),
        (0.07, -1, True),
        (0.001, 1, False),
        (0.001, -1, True),
        (20.0, 1, True),
        (20.0, -1, False),
    ],
)
def test_outside_a_bound_only_a_step_back_has_a_gradient(temperature, sign, moves):
    """`sign` is that of the loss's derivative; descent moves against it."""
    gradient = jax.grad(lambda theta: sign * clamped_temperature(theta))(jnp.log(temperature))
    expected = sign * np.clip(temperature, 0.01, 1.0) if moves else 0
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


def test_descent_reaches_the_best_temperature_from_outside_the_bounds():
    """The gradient of `exp(jnp.clip(theta))` would be zero, and the temperature would stay at its start."""
    clean, noise = jax.random.normal(jax.random.key(0), (2, 64, 16))
    views = jnp.stack([clean, clean + noise])

    @jax.jit
    def step(theta):
        return theta - 0.5 * jax.grad(
            lambda t: mean_directional_ce(views, temperature=clamped_temperature(t))
        )(theta)

    theta = jnp.log(5.0)
    for _ in range(100):
        theta = step(theta)
    grid = jnp.geomspace(0.01, 1, 200)
    best = grid[jnp.argmin(jax.jit(jax.vmap(lambda t: mean_directional_ce(views, temperature=t)))(grid))]
    np.testing.assert_allclose(jnp.exp(theta), best, rtol=0.05)


def test_bounds_in_the_wrong_order_are_refused():
    with pytest.raises(ValueError, match=r"0 < minimum < maximum, got 1\.0 and 0\.5"):
        clamped_temperature(jnp.float32(0), minimum=1.0, maximum=0.5)
