"""Independent runs as one program: the devices share them out, and each trains its own (axis `r`)."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from pcl_jax.data.fold import FoldData
from pcl_jax.devices import put, replicated, sharded
from pcl_jax.models.encoders import FunctionalsEncoder
from pcl_jax.models.networks import ClassifierNetwork

T = TypeVar("T")


def max_runs_per_program(data: FoldData, model: ClassifierNetwork, mesh: Mesh, *, frozen: bool) -> int:
    """Return how many runs train as one program at most; no result depends on it.

    One run a device where a CPU is slower at convolutions and products with another kernel for each run than
    run after run, and where features come from disk, since a batch is then that of all runs. Otherwise more:
    a small or frozen encoder alone would leave the device idle between its steps.
    """
    small = frozen or isinstance(model.encoder, FunctionalsEncoder)
    several = (small or jax.default_backend() != "cpu") and model.view not in data.on_disk
    return mesh.size * (32 if several else 1)


def pad_runs(runs: Sequence[T], devices: int) -> list[T]:
    """Repeat the last run until each device has equally many; the copies' results are not used.

    >>> pad_runs("abc", 2)
    ['a', 'b', 'c', 'c']
    """
    return [*runs, *[runs[-1]] * (-len(runs) % devices)]


def place_runs(values: Sequence[Any], mesh: Mesh) -> Any:
    """Stack one nested dictionary of each run to `[r, ...]`, each run on its device."""

    def stack(*leaves):
        stacked = np.stack(leaves)
        return stacked.astype(jax.dtypes.canonicalize_dtype(stacked.dtype))

    return put(jax.tree.map(stack, *values), sharded(mesh))


def map_runs(function: Callable, mesh: Mesh, runs: tuple, *shared: Any, sequential: bool = False) -> Any:
    """Apply `function(*run, *shared)` to each run on its device.

    A device takes its runs together (`jax.vmap`), or one after the other if `sequential`. A single run has no
    axis: XLA's gradients of a batched convolution or scan are slower on a CPU.
    """

    def on_one_device(runs, shared):
        if len(jax.tree.leaves(runs)[0]) == 1:
            run = jax.tree.map(lambda leaf: leaf[0], runs)
            return jax.tree.map(lambda leaf: leaf[None], function(*run, *shared))
        map_ = jax.lax.map if sequential else lambda mapped, runs: jax.vmap(mapped)(runs)
        return map_(lambda run: function(*run, *shared), runs)

    specs = sharded(mesh).spec, replicated(mesh).spec
    # Unchecked: the scans of `mix_dense` begin with zeros that belong to no device.
    mapped = jax.shard_map(on_one_device, mesh=mesh, in_specs=specs, out_specs=specs[0], check_vma=False)
    return mapped(runs, shared)
