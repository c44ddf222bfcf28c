"""Negatives of the anchor's group alone: formula, limits, masks, blocks and devices."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from pcl_jax.losses import mean_directional_ce, pairwise_nt_xent

GROUPS = np.array([0, 0, 1, 1, 1, 0, 2, 1])
whole_and_blocked = pytest.mark.parametrize("block_size", [None, 3], ids=["whole", "blocked"])


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def some_views(k=3, n=8, d=5):
    rng = np.random.default_rng(2)
    return rng.normal(size=(n, d)) + rng.normal(size=(k, n, d))


def by_hand(views, groups, tau, present=None):
    """Return the mean of the directional cross-entropies, one softmax at a time."""
    k, n, _ = views.shape
    present = np.ones((k, n), bool) if present is None else present
    unit = views / np.linalg.norm(views, axis=2, keepdims=True)
    directions = []
    for i in range(k):
        for j in range(k):
            anchors = [row for row in range(n) if present[i, row] and present[j, row]]
            if i == j or not anchors:
                continue
            losses = []
            for row in anchors:
                rows = [m for m in range(n) if groups[m] == groups[row] and present[j, m]]
                logits = {m: unit[i, row] @ unit[j, m] / tau for m in rows}
                losses.append(np.log(sum(np.exp(x) for x in logits.values())) - logits[row])
            directions.append(np.mean(losses))
    return np.mean(directions)


@whole_and_blocked
def test_the_negatives_are_of_the_anchors_group(block_size):
    views = some_views()
    found = mean_directional_ce(views, temperature=0.3, groups=GROUPS, block_size=block_size)
    np.testing.assert_allclose(found, by_hand(views, GROUPS, 0.3), rtol=1e-12)


@whole_and_blocked
def test_a_mask_and_groups_agree_with_the_loops(block_size):
    views = some_views()
    present = np.random.default_rng(3).uniform(size=(3, 8)) < 0.7
    found = mean_directional_ce(views, temperature=0.3, mask=present, groups=GROUPS, block_size=block_size)
    np.testing.assert_allclose(found, by_hand(views, GROUPS, 0.3, present), rtol=1e-12)


@whole_and_blocked
def test_one_group_for_all_is_the_loss_without_groups(block_size):
    views = some_views()
    one = pairwise_nt_xent(views, groups=np.full(8, 5), block_size=block_size)
    np.testing.assert_allclose(one, pairwise_nt_xent(views), rtol=1e-13)


@whole_and_blocked
def test_rows_that_are_alone_have_no_loss_and_no_gradient(block_size):
    def loss(views):
        return pairwise_nt_xent(views, groups=np.arange(8), block_size=block_size)

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(some_views()))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_the_gradient_is_that_of_finite_differences_whole_and_blocked():
    views, direction = some_views(), np.random.default_rng(4).normal(size=(3, 8, 5))
    for block_size in (None, 3):

        def loss(views, block_size=block_size):
            return pairwise_nt_xent(views, temperature=0.4, groups=GROUPS, block_size=block_size)

        slope = (loss(views + 1e-5 * direction) - loss(views - 1e-5 * direction)) / 2e-5
        found = np.vdot(jax.grad(loss)(jnp.asarray(views)), direction)
        np.testing.assert_allclose(found, slope, rtol=1e-8)


@pytest.mark.slow
@whole_and_blocked
def test_groups_are_those_of_all_devices(block_size):
    views = some_views()
    mesh = jax.make_mesh((4,), ("data",), (jax.sharding.AxisType.Auto,))

    def loss(views, groups):
        return pairwise_nt_xent(views, groups=groups, axis_name="data", block_size=block_size)

    split = jax.shard_map(loss, mesh=mesh, in_specs=(P(None, "data"), P("data")), out_specs=P())
    found, gradient = jax.value_and_grad(split)(jnp.asarray(views), jnp.asarray(GROUPS))
    expected, reference = jax.value_and_grad(lambda v: pairwise_nt_xent(v, groups=GROUPS))(jnp.asarray(views))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(gradient, reference, atol=1e-12)


def test_groups_of_another_length_are_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would refuse the shape first
    with pytest.raises(ValueError, match=r"groups must have shape \[n\] = \(8,\), got \(7,\)"):
        pairwise_nt_xent(some_views(), groups=GROUPS[:7])
