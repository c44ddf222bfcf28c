"""With negatives from all devices, value and gradient equal those of one device with the whole batch."""

import os
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from pcl_jax.losses import pairwise_nt_xent

whole_and_blocked = pytest.mark.parametrize("block_size", [None, 3], ids=["whole", "blocked"])
FEATURES = jax.random.normal(jax.random.key(0), (3, 32, 6))
MASK = jax.random.bernoulli(jax.random.key(1), 0.8, (3, 32))
# Two kinds of parameters: those of an encoder and those of the loss.
PARAMETERS = (jax.random.normal(jax.random.key(2), (6, 5)), jnp.linspace(0.1, 0.5, 9).reshape(3, 3))


def loss(parameters, features, mask, block_size=None, axis_name=None):
    weights, temperature = parameters
    return pairwise_nt_xent(
        jnp.tanh(features @ weights),
        temperature=temperature,
        mask=mask,
        axis_name=axis_name,
        block_size=block_size,
    )


# Over "data", the rows are split and the parameters are replicated.
SPLIT = P(None, "data")
ARGUMENTS = (P(), SPLIT, SPLIT)


def mesh(*shape, names=("data",)):
    return jax.make_mesh(shape or (8,), names, (AxisType.Auto,) * len(names))


def sharded(function, out, check_vma):
    return jax.shard_map(function, mesh=mesh(), in_specs=ARGUMENTS, out_specs=out, check_vma=check_vma)


def outside(local, check_vma):
    return jax.value_and_grad(sharded(local, P(), check_vma))


def inside(local, check_vma):
    return sharded(jax.value_and_grad(local), P(), check_vma)


def inside_pmean(local, check_vma):
    def step(*arguments):
        value, gradient = jax.value_and_grad(local)(*arguments)
        return value, lax.pmean(gradient, "data")

    return sharded(step, P(), check_vma)


def inside_varying_psum(local, check_vma):
    def step(parameters, *arguments):
        parameters = lax.pcast(parameters, "data", to="varying")
        value, gradient = jax.value_and_grad(local)(parameters, *arguments)
        return value, lax.psum(gradient, "data")

    return sharded(step, P(), check_vma)


def pmap(local, check_vma):
    def step(*arguments):
        value, gradient = jax.value_and_grad(local)(*arguments)
        return value, lax.pmean(gradient, "data")

    def split(x):
        return x.reshape(3, 8, 4, *x.shape[2:]).swapaxes(0, 1)

    def run(parameters, features, mask):
        outputs = jax.pmap(step, "data", in_axes=(None, 0, 0))(parameters, split(features), split(mask))
        for leaf in jax.tree.leaves(outputs):
            assert np.all(leaf == leaf[:1]), "devices disagree"
        return jax.tree.map(lambda leaf: leaf[0], outputs)

    return run


def vmap(local, check_vma):
    """Use the collectives over a batch axis instead of devices."""

    def split(x):
        return x.reshape(3, 8, 4, *x.shape[2:]).swapaxes(0, 1)

    def value(parameters, features, mask):
        losses = jax.vmap(local, (None, 0, 0), axis_name="data")(parameters, split(features), split(mask))
        return jnp.mean(losses)

    return jax.jit(jax.value_and_grad(value))


# The types that a custom derivative must satisfy differ in the last four.
METHODS = [
    (outside, True, None),
    (outside, False, None),
    (inside, True, None),
    (inside_pmean, True, None),
    (inside_pmean, False, None),
    (inside_varying_psum, True, None),
    (pmap, None, None),
    (vmap, None, None),
    (outside, True, 3),
    (inside, True, 3),
    (inside_pmean, False, 3),
    (pmap, None, 3),
]


@pytest.fixture(scope="module")
def whole_batch():
    return jax.jit(jax.value_and_grad(loss))(PARAMETERS, FEATURES, MASK)


def assert_equal(actual, expected):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6 * float(np.abs(b).max()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "check_vma", "block_size"),
    METHODS,
    ids=[f"{method.__name__}-{check}-{block_size}" for method, check, block_size in METHODS],
)
def test_eight_devices_equal_one_device(method, check_vma, block_size, whole_batch):
    local = partial(loss, axis_name="data", block_size=block_size)
    run = method(local, check_vma)
    run = run if method is pmap else jax.jit(run)
    assert_equal(run(PARAMETERS, FEATURES, MASK), whole_batch)


def test_eight_devices_equal_one_device_without_a_mask():
    local = partial(loss, axis_name="data")
    run = jax.shard_map(jax.value_and_grad(local), mesh=mesh(), in_specs=(P(), SPLIT, None), out_specs=P())
    expected = jax.jit(jax.value_and_grad(loss))(PARAMETERS, FEATURES, None)
    assert_equal(jax.jit(run)(PARAMETERS, FEATURES, None), expected)


def test_a_batch_split_over_two_mesh_axes_equals_one_device(whole_batch):
    split = P(None, ("host", "chip"))
    run = jax.shard_map(
        jax.value_and_grad(partial(loss, axis_name=("host", "chip"), block_size=3)),
        mesh=mesh(2, 4, names=("host", "chip")),
        in_specs=(P(), split, split),
        out_specs=P(),
    )
    assert_equal(jax.jit(run)(PARAMETERS, FEATURES, MASK), whole_batch)


@whole_and_blocked
def test_sharded_inputs_under_jit_need_no_axis_name(block_size, whole_batch):
    devices = mesh()
    arguments = [
        jax.device_put(x, NamedSharding(devices, spec))
        for x, spec in zip((PARAMETERS, FEATURES, MASK), ARGUMENTS, strict=True)
    ]
    run = jax.jit(jax.value_and_grad(partial(loss, block_size=block_size)))
    assert_equal(run(*arguments), whole_batch)


@pytest.mark.parametrize(("check_vma", "times"), [(True, 1), (False, 8)])
def test_the_gradient_of_split_rows_is_a_share_or_a_multiple_of_it(check_vma, times):
    """Inputs that are not replicated get the share of their device, or the sum of it over all devices."""

    def local(views):
        return pairwise_nt_xent(views, axis_name="data")

    run = jax.shard_map(jax.grad(local), mesh=mesh(), in_specs=SPLIT, out_specs=SPLIT, check_vma=check_vma)
    assert_equal(jax.jit(run)(FEATURES), times * jax.jit(jax.grad(pairwise_nt_xent))(FEATURES))


@pytest.mark.parametrize(("check_vma", "times"), [(True, 8), (False, 1)])
def test_pmean_of_gradients_of_local_losses_is_too_large_as_the_docstring_says(check_vma, times):
    """This pins a behaviour of JAX, which may change."""

    def local(weights, features):
        return pairwise_nt_xent(jnp.tanh(features @ weights))

    def global_loss(weights):
        parts = FEATURES.reshape(3, 8, 4, 6)
        return jnp.mean(jax.vmap(local, (None, 1))(weights, parts))

    def step(weights, features):
        return lax.pmean(jax.grad(local)(weights, features), "data")

    run = jax.shard_map(step, mesh=mesh(), in_specs=(P(), SPLIT), out_specs=P(), check_vma=check_vma)
    expected = jax.jit(jax.grad(global_loss))(PARAMETERS[0])
    assert_equal(jax.jit(run)(PARAMETERS[0], FEATURES), times * expected)


def test_all_rows_absent_on_one_device_and_on_all_devices():
    mask = MASK.at[:, :4].set(False)
    expected = jax.jit(jax.value_and_grad(loss))(PARAMETERS, FEATURES, mask)
    run = jax.jit(inside(partial(loss, axis_name="data"), True))
    assert_equal(run(PARAMETERS, FEATURES, mask), expected)
    value, gradient = run(PARAMETERS, FEATURES, jnp.zeros_like(MASK))
    assert value == 0
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(gradient))


@pytest.mark.slow
def test_two_processes_of_two_devices_equal_one_device(tmp_path):
    """The processes communicate over gloo, and each holds half of the batch."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    program = Path(__file__).with_name("two_processes.py")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("JAX_", "XLA_"))}
    processes = [
        subprocess.Popen(
            [sys.executable, program, address, str(rank), tmp_path / f"{rank}.npz"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=Path(__file__).parents[2],
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    sys.path.insert(0, str(program.parent))
    import two_processes

    expected = jax.jit(jax.value_and_grad(two_processes.loss))(*two_processes.data())
    for rank in range(2):
        results = np.load(tmp_path / f"{rank}.npz")
        for method in ("jit", "shard_map"):
            assert_equal((results[method + "_value"], results[method + "_gradient"]), expected)
