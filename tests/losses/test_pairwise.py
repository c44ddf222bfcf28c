"""The pairwise loss: formulas, invariances, hard numbers, absent rows, options and errors."""

import math
from collections import OrderedDict
from functools import partial
from pathlib import Path
from types import MappingProxyType

import jax
import jax.numpy as jnp
import jaxtyping
import loops
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pcl_jax.losses import mean_directional_ce, nt_xent, pairwise_nt_xent

REFERENCE = dict(np.load(Path(__file__).parents[1] / "reference" / "losses_torch.npz"))
TEMPERATURES = [1e-3, 1e-2, 0.07, 0.5, 1.0]
whole_and_blocked = pytest.mark.parametrize("block_size", [None, 4], ids=["whole", "blocked"])


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def random_views(seed, k, n, d):
    """Return views that agree in part, with rows of very different lengths."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(n, d))
    return (shared + rng.normal(size=(k, n, d))) * np.exp(rng.normal(size=(k, n, 1)))


def assert_close(actual, expected, rtol=1e-11, atol=1e-11):
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol)


# Formulas.


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_nt_xent_equals_equation_1(temperature):
    a, c = random_views(0, 2, 9, 5)
    assert_close(nt_xent(a, c, temperature=temperature), loops.directional(a, c, temperature))


@pytest.mark.usefixtures("x64")
@whole_and_blocked
@pytest.mark.parametrize("k", [2, 5])
def test_pairwise_equals_equation_3_as_printed(k, block_size):
    views = random_views(1, k, 7, 6)
    expected = loops.paper(views, 0.3)
    assert_close(pairwise_nt_xent(views, temperature=0.3, block_size=block_size), expected)
    assert_close(mean_directional_ce(views, temperature=0.3, block_size=block_size), expected / 4)


@pytest.mark.usefixtures("x64")
def test_nt_xent_agrees_with_torch_cross_entropy_in_value_and_gradient():
    a, c, _ = REFERENCE["views"]
    value, gradients = jax.value_and_grad(partial(nt_xent, temperature=REFERENCE["temperature"]), (0, 1))(
        a, c
    )
    assert_close(value, REFERENCE["cross_entropy"])
    assert_close(jnp.stack(gradients), REFERENCE["cross_entropy_views"][:2])


@pytest.mark.usefixtures("x64")
@whole_and_blocked
@pytest.mark.parametrize(("reference", "k", "pairs"), [("clip", 2, 1), ("clip_sum", 3, 3)])
def test_the_loss_agrees_with_open_clip_in_value_and_gradients(reference, k, pairs, block_size):
    tau = REFERENCE["temperature"]

    def function(views, temperature):
        return mean_directional_ce(views, temperature=temperature, block_size=block_size)

    value, (d_views, d_tau) = jax.jit(jax.value_and_grad(function, (0, 1)))(REFERENCE["views"][:k], tau)
    assert_close(value * pairs, REFERENCE[reference])
    assert_close(d_views * pairs, REFERENCE[reference + "_views"][:k])
    # d/dtau = d/dscale * dscale/dtau, and scale = 1 / tau.
    assert_close(d_tau * pairs, -REFERENCE[reference + "_scale"] / tau**2)


@pytest.mark.usefixtures("x64")
@whole_and_blocked
def test_all_gradients_agree_with_finite_differences_of_the_loops(block_size):
    """The differences are of the loops, not of the code: in views, temperatures `[k, k]` and weights."""
    rng = np.random.default_rng(2)
    views, mask = random_views(3, 3, 6, 4), rng.random((3, 6)) < 0.7
    temperature, weights = rng.uniform(0.2, 1, (3, 3)), rng.uniform(0, 1, (3, 3))

    def function(views, temperature, weights):
        return pairwise_nt_xent(
            views, temperature=temperature, mask=mask, pair_weights=weights, block_size=block_size
        )

    gradients = jax.jit(jax.grad(function, (0, 1, 2)))(views, temperature, weights)
    arguments = [views, temperature, weights]
    for position, (point, gradient) in enumerate(zip(arguments, gradients, strict=True)):
        for _ in range(3):
            direction = rng.normal(size=point.shape)

            def loss(x, position=position):
                v, t, w = [*arguments[:position], x, *arguments[position + 1 :]]
                return loops.pairwise(v, t, mask, w)

            expected = loops.slope(loss, point, direction)
            assert_close(np.sum(gradient * direction), expected, rtol=1e-8, atol=1e-9)


shapes = st.tuples(st.integers(2, 5), st.integers(1, 65), st.integers(1, 64))


def check_any_shape(shape, seed, temperature, absent, per_view, block_size):
    rng = np.random.default_rng(seed)
    k, n, d = shape
    views = random_views(seed, k, n, d)
    mask = rng.random((k, n) if per_view else n) >= absent
    with jax.enable_x64(True):

        def both(views):
            whole = pairwise_nt_xent(views, temperature=temperature, mask=mask)
            blocked = pairwise_nt_xent(views, temperature=temperature, mask=mask, block_size=block_size)
            return jnp.stack([whole, blocked])

        values, gradients = map(np.asarray, jax.jit(lambda v: (both(v), jax.jacrev(both)(v)))(views))
    expected = loops.pairwise(views, temperature, mask)
    assert_close(values, [expected, expected])
    assert np.all(values >= 0)
    direction = rng.normal(size=views.shape)
    slope = loops.slope(lambda v: loops.pairwise(v, temperature, mask), views, direction, 1e-6 * temperature)
    assert_close(np.sum(gradients * direction, (1, 2, 3)), [slope, slope], rtol=1e-5, atol=1e-6 / temperature)
    assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-10 / temperature)
    absent_rows = ~np.broadcast_to(mask, (k, n))
    assert np.all(gradients[:, absent_rows] == 0)


any_shape = given(
    shape=shapes,
    seed=st.integers(0, 2**16),
    temperature=st.sampled_from([0.01, 0.07, 0.5, 1.0]),
    absent=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    per_view=st.booleans(),
    block_size=st.sampled_from([1, 7, 16, 100]),
)


@any_shape
@settings(max_examples=5, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_any_shape_and_mask_agrees_with_the_loops(**case):
    check_any_shape(**case)


@pytest.mark.slow
@any_shape
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_many_shapes_and_masks_agree_with_the_loops(**case):
    check_any_shape(**case)


# Invariances and limits.


@pytest.mark.usefixtures("x64")
@whole_and_blocked
def test_the_loss_is_invariant_to_order_rotation_and_length_but_not_to_the_matching(block_size):
    rng = np.random.default_rng(4)
    views = random_views(5, 3, 10, 6)
    loss = jax.jit(lambda v: pairwise_nt_xent(v, temperature=0.2, block_size=block_size))
    expected = loss(views)
    rotation, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    assert_close(loss(views[:, rng.permutation(10)]), expected)
    assert_close(loss(views[[2, 0, 1]]), expected)
    assert_close(loss(views * rng.uniform(1e-6, 1e6, (3, 10, 1))), expected)
    assert_close(loss(views @ rotation), expected)
    # The matching of rows across views must matter.
    shuffled = np.stack([views[0], views[1][rng.permutation(10)], views[2]])
    assert abs(loss(shuffled) - expected) > 0.1


@pytest.mark.usefixtures("x64")
@whole_and_blocked
def test_the_gradient_is_orthogonal_to_each_row(block_size):
    """This follows from the invariance to the length of a row."""
    views = random_views(6, 2, 10, 6)
    gradient = jax.jit(jax.grad(partial(pairwise_nt_xent, temperature=0.2, block_size=block_size)))(views)
    assert_close(np.sum(np.asarray(gradient) * views, axis=2), np.zeros((2, 10)))


@whole_and_blocked
@pytest.mark.parametrize("temperature", [1e-3, 0.5])
def test_equal_similarities_cost_log_n(temperature, block_size):
    value = mean_directional_ce(jnp.ones((3, 37, 8)), temperature=temperature, block_size=block_size)
    assert_close(value, math.log(37), rtol=1e-6)
    value = pairwise_nt_xent(jnp.zeros((3, 37, 8)), temperature=temperature, block_size=block_size)
    assert_close(value, 4 * math.log(37), rtol=1e-6)


def test_the_loss_of_orthogonal_utterances_vanishes_with_the_temperature():
    views = jnp.stack([jnp.eye(8), 3 * jnp.eye(8)])
    for temperature in TEMPERATURES:
        exact = math.log1p(7 * math.exp(-1 / temperature))
        assert_close(mean_directional_ce(views, temperature=temperature), exact, rtol=1e-5, atol=1e-6)


def test_the_loss_of_one_utterance_is_zero():
    assert_close(pairwise_nt_xent(np.float32(random_views(7, 2, 1, 4))), 0)


# Inputs that break other implementations.


def embeddings():
    rng = np.random.default_rng(8)
    base, unrelated = rng.normal(size=(2, 24, 16))
    duplicated = np.repeat(base[:6], 4, axis=0)
    zeros = np.stack([base, unrelated, base])
    zeros[0, 3] = zeros[1, 3] = zeros[2, 7] = 0
    huge = np.stack([base, unrelated, base]) * 1e30
    return {
        "aligned": np.stack([base, base, 2 * base]),
        "random": np.stack([base, unrelated, rng.normal(size=(24, 16))]),
        "zero rows": zeros,
        "all zero": np.zeros((3, 24, 16)),
        "duplicated": np.stack([duplicated, duplicated, unrelated]),
        "opposite": np.stack([base, -base, base]),
        "huge": huge,
        "tiny": huge * 1e-45,
    }


@whole_and_blocked
def test_the_loss_is_finite_and_accurate_at_every_temperature_on_every_embedding(block_size):
    def loss(views, temperature):
        return pairwise_nt_xent(views, temperature=temperature, block_size=block_size)

    single = jax.jit(jax.value_and_grad(loss))
    double = jax.jit(jax.value_and_grad(lambda v, t: pairwise_nt_xent(v, temperature=t)))
    for name, views in embeddings().items():
        views = views.astype(np.float32)
        for temperature in TEMPERATURES:
            value, gradient = single(views, temperature)
            assert value >= 0, (name, temperature)
            assert np.all(np.isfinite(gradient)), (name, temperature)
            expected = loops.pairwise(views.astype(float), temperature)
            # Cosines in float32 carry an error of eps, the logits one of eps / temperature.
            resolution = 8 * np.finfo(np.float32).eps / temperature
            assert_close(value, expected, rtol=1e-5, atol=resolution)
            with jax.enable_x64(True):
                exact = np.asarray(double(views.astype(float), temperature)[1])
            # In units of the row's length, and of the largest that a gradient can be: 1 / temperature.
            length = np.linalg.norm(views.astype(float), axis=2, keepdims=True)
            difference = np.abs(np.asarray(gradient, float) - exact) * length * temperature
            assert difference.max() < 2 * resolution + 1e-5, (name, temperature)


@whole_and_blocked
def test_a_loss_near_zero_keeps_its_digits(block_size):
    """The textbook form, log sum exp minus the positive, rounds two terms of 1 / temperature = 20."""
    views = jnp.stack([jnp.eye(8), 3 * jnp.eye(8)])
    function = jax.jit(
        jax.value_and_grad(partial(mean_directional_ce, temperature=0.05, block_size=block_size))
    )
    value, gradient = function(views)
    assert_close(value, math.log1p(7 * math.exp(-20)), rtol=1e-5)
    # The softmax of one negative, over the temperature, in two directions.
    assert_close(gradient[0, 0, 1], math.exp(-20) / 0.05 / 8, rtol=1e-5)


@whole_and_blocked
def test_a_zero_row_has_zero_gradient_and_the_rows_of_the_second_view_do_not(block_size):
    views = random_views(10, 2, 6, 4).astype(np.float32)
    views[0, 2] = 0
    gradient = jax.jit(jax.grad(partial(pairwise_nt_xent, block_size=block_size)))(views)
    assert np.all(gradient[0, 2] == 0)
    assert np.all(np.any(np.asarray(gradient[1]) != 0, axis=1))


@pytest.mark.parametrize(("dtype", "block_size"), [(jnp.bfloat16, None), (jnp.float16, 4)])
def test_half_precision_is_accumulated_in_float32(dtype, block_size):
    views = jnp.asarray(random_views(11, 2, 40, 8), dtype)
    function = jax.value_and_grad(partial(pairwise_nt_xent, temperature=0.05, block_size=block_size))
    in_half, in_single = jax.jit(lambda v: (function(v), function(v.astype(jnp.float32))))(views)
    assert in_half[0].dtype == jnp.float32
    assert in_half[0] == in_single[0]
    assert in_half[1].dtype == dtype
    assert np.array_equal(in_half[1], in_single[1].astype(dtype))
    # A sum over 40 rows in half precision would not be so close.
    assert_close(in_half[0], loops.pairwise(np.asarray(views, float), 0.05), rtol=1e-6)


def test_the_result_has_the_dtype_of_the_views_but_at_least_float32():
    views = random_views(12, 2, 5, 4)
    shape = jax.eval_shape(partial(pairwise_nt_xent, temperature=1), views)
    assert (shape.dtype, shape.weak_type) == (jnp.float32, False)
    with jax.enable_x64(True):
        shape = jax.eval_shape(partial(pairwise_nt_xent, temperature=jnp.float32(1)), views)
        assert (shape.dtype, shape.weak_type) == (jnp.float64, False)
        shape = jax.eval_shape(partial(pairwise_nt_xent, temperature=np.float64(1)), np.float32(views))
        assert shape.dtype == jnp.float32


def test_a_traced_temperature_compiles_once():
    traces = []

    @jax.jit
    def step(views, temperature):
        traces.append(None)
        return pairwise_nt_xent(views, temperature=temperature)

    views = np.float32(random_views(13, 2, 5, 4))
    values = {float(step(views, temperature)) for temperature in (0.1, 0.2, 0.3)}
    assert len(traces) == 1
    assert len(values) == 3


# Absent rows and views.


@pytest.mark.usefixtures("x64")
@whole_and_blocked
def test_a_padded_batch_equals_the_smaller_batch(block_size):
    views = random_views(14, 3, 9, 5)
    padded = np.insert(views, [0, 4, 4, 9], np.nan, axis=1)
    mask = ~np.isnan(padded[0, :, 0])
    function = jax.jit(jax.value_and_grad(partial(pairwise_nt_xent, temperature=0.1, block_size=block_size)))
    value, gradient = function(views)
    value_padded, gradient_padded = function(padded, mask=mask)
    assert_close(value_padded, value)
    assert_close(gradient_padded[:, mask], gradient)
    assert np.all(gradient_padded[:, ~mask] == 0)


@pytest.mark.usefixtures("x64")
@whole_and_blocked
def test_missing_views_agree_with_loops_and_with_fewer_views(block_size):
    views = random_views(15, 3, 8, 5)
    mask = np.random.default_rng(15).random((3, 8)) < 0.6
    function = jax.jit(partial(pairwise_nt_xent, temperature=0.1, block_size=block_size))
    assert_close(function(views, mask=mask), loops.pairwise(views, 0.1, mask))
    mask = np.array([[True], [False], [True]]) & np.ones(8, bool)
    assert_close(function(views, mask=mask), function(views[[0, 2]]))


@pytest.mark.usefixtures("x64")
def test_an_absent_row_takes_no_part_but_the_same_utterance_in_the_second_view_is_a_negative():
    views = random_views(16, 2, 4, 3)
    mask = np.array([[True, True, True, True], [True, True, True, False]])

    def entropy(i, j, rows, candidates):
        return np.mean(
            [
                loops.cross_entropy([loops.cosine(views[i, row], views[j, m]) for m in candidates], row, 0.5)
                for row in rows
            ]
        )

    forward, backward = entropy(0, 1, range(3), range(3)), entropy(1, 0, range(3), range(4))
    assert_close(mean_directional_ce(views, mask=mask), (forward + backward) / 2)


@whole_and_blocked
def test_the_loss_is_zero_where_all_rows_are_absent(block_size):
    views = jnp.full((2, 6, 4), jnp.nan)
    function = partial(pairwise_nt_xent, mask=jnp.zeros(6, bool), block_size=block_size)
    value, gradient = jax.jit(jax.value_and_grad(function))(views)
    assert value == 0
    assert np.all(gradient == 0)


@whole_and_blocked
@pytest.mark.parametrize("mask", [None, np.zeros((2, 0), bool)], ids=["plain", "masked"])
def test_the_loss_of_an_empty_batch_is_zero(mask, block_size):
    function = partial(pairwise_nt_xent, mask=mask, block_size=block_size)
    value, gradient = jax.value_and_grad(function)(jnp.zeros((2, 0, 4)))
    assert value == 0
    assert gradient.shape == (2, 0, 4)
    value, gradient = jax.value_and_grad(lambda v: nt_xent(*v, temperature=0.5, mask=mask))(
        jnp.zeros((2, 0, 4))
    )
    assert value == 0
    assert gradient.shape == (2, 0, 4)


def test_the_loss_is_zero_where_no_utterance_has_two_views():
    views = np.float32(random_views(17, 2, 4, 3))
    mask = np.array([[True, True, False, False], [False, False, True, True]])
    value, gradient = jax.jit(jax.value_and_grad(partial(pairwise_nt_xent, mask=mask)))(views)
    assert value == 0
    assert np.all(gradient == 0)


@pytest.mark.usefixtures("x64")
def test_nt_xent_takes_a_mask_per_row_and_per_side():
    a, c = random_views(18, 2, 8, 5)
    mask = np.arange(8) < 5
    assert_close(nt_xent(a, c, temperature=0.1, mask=mask), nt_xent(a[:5], c[:5], temperature=0.1))
    mask = np.random.default_rng(18).random((2, 8)) < 0.7
    assert_close(nt_xent(a, c, temperature=0.1, mask=mask), loops.directional(a, c, 0.1, *mask))
    assert nt_xent(a, c, temperature=0.1, mask=np.zeros(8, bool)) == 0


# Weights, temperatures, names.


@pytest.mark.usefixtures("x64")
@whole_and_blocked
def test_pair_weights_weigh_the_directions(block_size):
    views = random_views(19, 3, 8, 5)
    function = jax.jit(partial(pairwise_nt_xent, temperature=0.1, block_size=block_size))
    single = np.zeros((3, 3))
    single[2, 0] = 0.7
    assert_close(function(views, pair_weights=single), 4 * nt_xent(views[2], views[0], temperature=0.1))
    star = np.zeros((3, 3))
    star[0], star[:, 0], star[0, 0] = 1, 1, np.nan
    pairs = [(0, 1), (1, 0), (0, 2), (2, 0)]
    mean = np.mean([nt_xent(views[i], views[j], temperature=0.1) for i, j in pairs])
    assert_close(function(views, pair_weights=star), 4 * mean)
    weights = np.random.default_rng(19).uniform(size=(3, 3))
    assert_close(function(views, pair_weights=weights), loops.pairwise(views, 0.1, None, weights))
    assert_close(function(views, pair_weights=5 * weights), function(views, pair_weights=weights))
    assert function(views, pair_weights=np.zeros((3, 3))) == 0


@pytest.mark.usefixtures("x64")
@whole_and_blocked
def test_each_direction_can_have_a_temperature(block_size):
    views = random_views(20, 3, 8, 5)
    temperature = np.random.default_rng(20).uniform(0.05, 1, (3, 3))
    value = pairwise_nt_xent(views, temperature=temperature, block_size=block_size)
    assert_close(value, loops.pairwise(views, temperature))
    np.fill_diagonal(temperature, np.nan)
    assert_close(pairwise_nt_xent(views, temperature=temperature, block_size=block_size), value)


@pytest.mark.usefixtures("x64")
def test_views_by_name_are_sorted_inside_and_outside_jit():
    wav2vec2, mel, egemaps = random_views(21, 3, 6, 4)
    views = {"wav2vec2": wav2vec2, "mel": mel, "egemaps": egemaps}
    weights = np.arange(9.0).reshape(3, 3)
    expected = pairwise_nt_xent(np.stack([egemaps, mel, wav2vec2]), pair_weights=weights)
    assert_close(pairwise_nt_xent(views, pair_weights=weights), expected)
    assert_close(jax.jit(partial(pairwise_nt_xent, pair_weights=weights))(views), expected)
    # An OrderedDict keeps its order through jit, and JAX need not know the type of the mapping.
    assert_close(pairwise_nt_xent(OrderedDict(views), pair_weights=weights), expected)
    assert_close(pairwise_nt_xent(MappingProxyType(views), pair_weights=weights), expected)


@pytest.mark.usefixtures("x64")
@whole_and_blocked
def test_vmap_equals_a_loop(block_size):
    batch = np.stack([random_views(seed, 2, 6, 4) for seed in (22, 23, 24)])
    mask = np.random.default_rng(22).random((3, 6)) < 0.8

    def function(views, mask):
        return pairwise_nt_xent(views, temperature=0.2, mask=mask, block_size=block_size)

    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(function)))(batch, mask)
    single = jax.jit(jax.grad(function))
    for b in range(3):
        assert_close(values[b], loops.pairwise(batch[b], 0.2, mask[b]))
        assert_close(gradients[b], single(batch[b], mask[b]))


def test_the_loss_without_blocks_can_be_differentiated_twice():
    views = np.float32(random_views(25, 2, 3, 2))
    hessian = jax.jit(jax.hessian(partial(pairwise_nt_xent, temperature=1.0)))(views).reshape(12, 12)
    assert np.all(np.isfinite(hessian))
    assert_close(hessian, hessian.T, rtol=1e-4, atol=1e-4)


def test_a_sequence_of_views_equals_an_array_in_its_order():
    """Twelve views, so that an order by name, "10" before "2", would show."""
    views = random_views(26, 12, 4, 3).astype("f")
    weights = np.random.default_rng(26).uniform(size=(12, 12))
    expected = pairwise_nt_xent(views, pair_weights=weights)
    assert pairwise_nt_xent(list(views), pair_weights=weights) == expected
    assert pairwise_nt_xent(tuple(jnp.asarray(view) for view in views), pair_weights=weights) == expected


# Wrong inputs.


@pytest.mark.parametrize(
    ("views", "options", "message"),
    [
        (np.ones((1, 4, 3)), {}, "at least two views, got 1"),
        ({"mel": np.ones((4, 3)), "egemaps": np.ones((4, 2))}, {}, r"'egemaps': \(4, 2\), 'mel': \(4, 3\)"),
        (np.ones((2, 4, 3)), {"temperature": 0.0}, "positive, got 0.0"),
        (np.ones((2, 4, 3)), {"temperature": -1}, "positive, got -1"),
        (np.ones((2, 4, 3)), {"temperature": np.ones((3, 3))}, r"got \(3, 3\)"),
        (np.ones((2, 4, 3)), {"mask": np.ones(3, bool)}, r"mask must have shape .* got \(3,\)"),
        (np.ones((2, 4, 3)), {"pair_weights": np.ones((3, 3))}, r"pair_weights .* got \(3, 3\)"),
        (np.ones((2, 4, 3)), {"block_size": 0}, "block_size must be positive or None, got 0"),
        (np.ones((4, 3)), {}, r"got \(4, 3\)"),
        ([np.ones((4, 3)), np.ones((4, 2))], {}, r"0: \(4, 3\), 1: \(4, 2\)"),
        (np.ones((2, 4, 3), complex), {}, "real, got complex64"),
    ],
)
def test_errors_name_the_argument_and_its_value(views, options, message, monkeypatch):
    # Otherwise the type checks of the test suite would catch some of these first.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        pairwise_nt_xent(views, **options)


def test_shapes_in_annotations_are_checked_at_run_time():
    with pytest.raises(jaxtyping.TypeCheckError):
        pairwise_nt_xent(np.ones((2, 4, 3)), mask=np.ones(5, bool))


@pytest.mark.parametrize("options", [{}, {"block_size": 32}, {"mask": True}], ids=str)
@pytest.mark.parametrize("index", [(), (0, 0), (0, 127)], ids=str)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_that_is_not_finite_is_not_taken_for_a_zero_row(bad, index, options):
    """On a CPU, XLA's maximum of a long row ignores NaN; a diverged view would have the loss of chance."""
    x = np.random.default_rng(0).normal(size=(2, 128, 128)).astype(np.float32)
    x[(1, *index)] = bad
    if "mask" in options:
        options = {"mask": np.ones(128, bool)}
    loss = jax.jit(jax.value_and_grad(lambda x: pairwise_nt_xent(x, temperature=0.5, **options)))
    value, gradient = loss(jnp.asarray(x))
    assert np.isnan(value)
    assert np.isnan(gradient).any()
