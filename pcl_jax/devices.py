"""The device mesh: one axis, "data", over which a batch, or runs, are shared out; on one device, several, or
those of several processes, which all run the same program on the same data.
"""

import os
import re
from itertools import count
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

T = TypeVar("T")


def join_processes(processes: str) -> None:
    """Become one of several processes that train as one: `auto`, as SLURM or Open MPI started them, or
    `2/4@HOST:PORT`, the second of four, of which the first listens there.

    To be called before anything else of jax.

    Raises:
        ValueError: neither, or `auto` without either launcher.
    """
    if processes == "auto":
        try:
            jax.distributed.initialize()
        except ValueError as error:
            raise ValueError(
                f"--processes auto finds neither SLURM nor Open MPI ({error}); give 2/4@HOST:PORT"
            ) from error
        return
    found = re.fullmatch(r"(\d+)/(\d+)@(.+:\d+)", processes)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError(f"--processes {processes} is neither auto nor like 2/4@HOST:PORT")
    jax.distributed.initialize(found[3], int(found[2]), int(found[1]) - 1)


def put(values: T, sharding: NamedSharding) -> T:
    """On the devices of all processes, each of which has the whole of the values."""
    if jax.process_count() == 1:
        return jax.device_put(values, sharding)

    def one(value):
        value = np.asarray(value)
        return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

    return jax.tree.map(one, values)


def fetch(values: T) -> T:
    """As host arrays, whole, in every process."""

    def one(value):
        there = getattr(value, "is_fully_addressable", True)
        return value if there else multihost_utils.process_allgather(value, tiled=True)

    return jax.device_get(jax.tree.map(one, values))


def broadcast_from_first(value: bool | int) -> int:
    """What the first process says, in every process: for decisions by the clock or the machine."""
    return int(multihost_utils.broadcast_one_to_all(np.asarray(value, np.int32)))


def barrier(where: str) -> None:
    """Wait for all processes: what the first has written is there then."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(where)


_calls = count()


def preemption_requested() -> bool:
    """To be called by all of several processes between two pieces of work: once one of them has got SIGTERM,
    which jax's runtime then keeps to itself, all hear yes at the same call. A lone process never does: there
    SIGTERM is KeyboardInterrupt (`pcl_jax.cli.guarded`).
    """
    return multihost_utils.reached_preemption_sync_point(next(_calls))


def mesh(devices: int | None = None) -> Mesh:
    """A mesh of the first `devices` devices, all of them by default.

    Auto axes, stated: the compiler places the collectives (jax 0.9 made Explicit the default).
    """
    count = devices or jax.device_count()
    return jax.make_mesh((count,), ("data",), (AxisType.Auto,), devices=jax.devices()[:count])


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on each device: parameters, features."""
    return NamedSharding(mesh, PartitionSpec())


def sharded(mesh: Mesh) -> NamedSharding:
    """The first axis dealt to the devices: the groups of a batch, or runs."""
    return NamedSharding(mesh, PartitionSpec("data"))


def device_memory(mesh: Mesh) -> int:
    """Bytes that each device has; CPU devices share the machine's."""
    if stats := mesh.local_devices[0].memory_stats():
        return stats["bytes_limit"]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // len(mesh.local_devices)


def keep_compiled_programs() -> None:
    """Keep compiled programs on disk, so that the next run of the same shapes starts at once.

    In JAX_COMPILATION_CACHE_DIR, or the user's cache folder.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(cache / "pcl_jax" / "programs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
