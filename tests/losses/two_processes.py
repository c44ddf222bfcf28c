"""One of two processes: `two_processes.py ADDRESS RANK OUT` writes its loss and gradient to OUT."""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

SPLIT = P(None, "data")


def data():
    rng = np.random.default_rng(0)
    return (
        rng.normal(size=(6, 5)).astype("f"),
        rng.normal(size=(3, 16, 6)).astype("f"),
        rng.random((3, 16)) < 0.8,
    )


def loss(weights, features, mask, axis_name=None, block_size=None):
    from pcl_jax.losses import pairwise_nt_xent

    views = jnp.tanh(features @ weights)
    return pairwise_nt_xent(views, temperature=0.2, mask=mask, axis_name=axis_name, block_size=block_size)


def main(address, rank, out):
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, num_processes=2, process_id=int(rank), initialization_timeout=180)
    assert (jax.device_count(), jax.local_device_count()) == (4, 2)
    mesh = jax.make_mesh((4,), ("data",), (AxisType.Auto,))
    weights, features, mask = data()
    half = slice(8 * int(rank), 8 * int(rank) + 8)
    weights = jax.device_put(weights, NamedSharding(mesh, P()))
    features, mask = (
        jax.make_array_from_process_local_data(NamedSharding(mesh, SPLIT), x[:, half])
        for x in (features, mask)
    )
    methods = {
        "jit": jax.value_and_grad(loss),
        "shard_map": jax.shard_map(
            jax.value_and_grad(partial(loss, axis_name="data", block_size=3)),
            mesh=mesh,
            in_specs=(P(), SPLIT, SPLIT),
            out_specs=P(),
        ),
    }
    results = {}
    for name, method in methods.items():
        value, gradient = jax.jit(method, out_shardings=NamedSharding(mesh, P()))(weights, features, mask)
        results[name + "_value"], results[name + "_gradient"] = np.asarray(value), np.asarray(gradient)
    np.savez(out, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
