"""The blocked sums equal the whole ones in value and gradient, within bounded memory."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pcl_jax.losses import mean_directional_ce, pairwise_nt_xent


def random_views(seed, k, n, d):
    shared, noise = jax.random.normal(jax.random.key(seed), (2, k, n, d))
    return shared[:1] + noise


@pytest.mark.parametrize(("n", "block_size"), [(48, 16), (49, 16)])
def test_blocks_that_do_or_do_not_divide_n_equal_whole_matrices(n, block_size):
    views = random_views(n, 3, n, 8)
    mask = jax.random.bernoulli(jax.random.key(1), 0.8, (3, n))
    temperature = jax.random.uniform(jax.random.key(2), (3, 3), minval=0.1, maxval=1)

    @jax.jit
    def both(*arguments):
        def function(views, temperature, block_size):
            return pairwise_nt_xent(views, temperature=temperature, mask=mask, block_size=block_size)

        differentiated = jax.value_and_grad(function, (0, 1))
        return differentiated(*arguments, None), differentiated(*arguments, block_size)

    whole, blocked = both(views, temperature)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(blocked), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5)


def temporary_bytes(function, *arguments):
    return jax.jit(function).lower(*arguments).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.usefixtures("optimised")
def test_the_gradient_at_16384_rows_needs_megabytes_not_gigabytes():
    views = jax.ShapeDtypeStruct((3, 16384, 128), jnp.float32)
    temperature = jax.ShapeDtypeStruct((), jnp.float32)

    def gradient(block_size):
        return jax.value_and_grad(lambda v, t: pairwise_nt_xent(v, temperature=t, block_size=block_size))

    assert temporary_bytes(gradient(512), views, temperature) < 200e6
    assert temporary_bytes(gradient(None), views, temperature) > 6e9


@pytest.mark.usefixtures("optimised")
def test_memory_grows_with_n_not_with_its_square():
    def bytes_at(n):
        gradient = jax.grad(partial(mean_directional_ce, block_size=128))
        return temporary_bytes(gradient, jax.ShapeDtypeStruct((2, n, 16), jnp.float32))

    assert bytes_at(16384) < 4.5 * bytes_at(4096)


def test_a_second_derivative_is_refused_clearly():
    views = random_views(0, 2, 6, 3)
    function = partial(pairwise_nt_xent, block_size=4)
    with pytest.raises(NotImplementedError, match="use block_size=None"):
        jax.eval_shape(jax.hessian(function), views)
    with pytest.raises(NotImplementedError, match="use block_size=None"):
        jax.eval_shape(jax.grad(lambda v: jnp.sum(jax.grad(function)(v) ** 2)), views)
    # JAX itself refuses forward mode.
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jit(lambda v: jax.jvp(function, (v,), (v,))).lower(views)


def test_blocks_equal_whole_matrices_under_checkpoint_and_scan():
    views = random_views(1, 2, 10, 4)

    def steps(views, block_size):
        @jax.checkpoint
        def step(v, _):
            value, gradient = jax.value_and_grad(partial(pairwise_nt_xent, block_size=block_size))(v)
            return v - gradient, value

        return jax.lax.scan(step, views, length=3)

    for a, b in zip(*(jax.jit(partial(steps, block_size=b))(views) for b in (None, 4)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_blocks_give_the_gradient_of_a_function_of_several_losses():
    """Some gradients of the outputs are zero here: one direction, a scaled loss, a sum of two."""
    views = random_views(2, 3, 10, 4)
    weights = jnp.zeros((3, 3)).at[2, 1].set(1)

    def function(views, block_size):
        direction = pairwise_nt_xent(views, pair_weights=weights, block_size=block_size)
        return 3 * direction + jnp.sin(pairwise_nt_xent(views[:2], block_size=block_size))

    gradients = jax.jit(lambda v: [jax.grad(function)(v, block_size) for block_size in (None, 4)])(views)
    np.testing.assert_allclose(gradients[0], gradients[1], rtol=1e-5, atol=1e-6)
