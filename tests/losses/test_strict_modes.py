"""All losses and their gradients under JAX's strict modes of rank and dtype promotion."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from pcl_jax import losses

NAMES = ("egemaps", "mel", "wav2vec2")
VIEWS = np.random.default_rng(0).normal(size=(3, 16, 6)).astype("f")
MASK = np.random.default_rng(1).random((3, 16)) < 0.8
LABELS = np.random.default_rng(2).integers(0, 3, 16)
DIRECTIONS = np.random.default_rng(3).uniform(0.1, 1, (3, 3)).astype("f")


def total(function, views):
    """Sum the result of a function of views, an array or a dictionary of arrays, to a scalar."""
    return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(function(views)))


PAIRWISE = {
    "plain": {},
    "masked": {"mask": MASK},
    "masked rows": {"mask": MASK[0]},
    "weighted": {"temperature": DIRECTIONS, "pair_weights": DIRECTIONS},
    "blocked": {"block_size": 5},
    "blocked, masked": {"block_size": 5, "mask": MASK, "temperature": DIRECTIONS},
}
FUNCTIONS = {
    **{
        f"pairwise, {name}": partial(losses.pairwise_nt_xent, **options) for name, options in PAIRWISE.items()
    },
    "mean_directional_ce": losses.mean_directional_ce,
    "simclr": losses.simclr_nt_xent,
    "simclr, masked": partial(losses.simclr_nt_xent, mask=MASK),
    "supervised": partial(losses.supervised_contrastive, labels=LABELS),
    "supervised, masked": partial(losses.supervised_contrastive, labels=LABELS, mask=MASK),
    "sigmoid": losses.sigmoid_loss,
    "sigmoid, masked": partial(losses.sigmoid_loss, mask=MASK),
    "retrieval": losses.retrieval_accuracy,
    "retrieval, masked": partial(losses.retrieval_accuracy, mask=MASK),
    "alignment": losses.alignment,
    "alignment, masked": partial(losses.alignment, mask=MASK),
    "uniformity": losses.uniformity,
    "uniformity, masked": partial(losses.uniformity, mask=MASK),
}


def assert_same_program_in_strict_modes(function, values, dtype):
    with jax.enable_x64(dtype == jnp.float64):
        argument = jnp.asarray(values, dtype)
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            expected = program(function, argument)
        with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
            assert program(function, argument) == expected


def program(function, argument):
    """Trace value and gradient; promotion is decided while tracing, so nothing needs to be compiled."""
    return re.sub(r"0x[0-9a-f]+", "", str(jax.make_jaxpr(jax.value_and_grad(function))(argument)))


dtypes = pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float64], ids=lambda x: x.__name__)


@dtypes
@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS.keys())
def test_losses_and_diagnostics_run_in_strict_modes(function, dtype):
    assert_same_program_in_strict_modes(partial(total, function), VIEWS, dtype)


@pytest.mark.parametrize(
    "form", [list, lambda views: dict(zip(NAMES, views, strict=True))], ids=["list", "dict"]
)
@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS.keys())
def test_lists_and_dictionaries_of_views_run_in_strict_modes(function, form):
    assert_same_program_in_strict_modes(lambda views: total(function, form(views)), VIEWS, jnp.bfloat16)


@dtypes
@pytest.mark.parametrize("block_size", [None, 3])
def test_the_loss_of_several_devices_runs_in_strict_modes(block_size, dtype):
    split = P(None, "data")

    def local(views, mask):
        return losses.pairwise_nt_xent(views, mask=mask, axis_name="data", block_size=block_size)

    def function(views):
        mesh = jax.make_mesh((4,), ("data",), (AxisType.Auto,))
        return jax.shard_map(local, mesh=mesh, in_specs=(split, split), out_specs=P())(views, MASK)

    assert_same_program_in_strict_modes(function, VIEWS, dtype)


@dtypes
@pytest.mark.parametrize("mask", [None, MASK[0], MASK[:2]], ids=["plain", "rows", "sides"])
def test_nt_xent_runs_in_strict_modes(mask, dtype):
    def function(views):
        return losses.nt_xent(views[0], views[1], temperature=0.5, mask=mask)

    assert_same_program_in_strict_modes(function, VIEWS, dtype)


@dtypes
@pytest.mark.parametrize("shape", [(), (3, 3)])
def test_a_learnable_temperature_runs_in_strict_modes(shape, dtype):
    def function(parameter):
        return losses.pairwise_nt_xent(VIEWS, temperature=losses.clamped_temperature(parameter))

    for log_temperature in (-2.0, -20.0):
        assert_same_program_in_strict_modes(function, np.full(shape, log_temperature), dtype)
