"""The device mesh, with one axis "data" over which devices share a batch or runs, and its processes.

The devices may be those of several processes, which all run the same program on the same data.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import count
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

T = TypeVar("T")


def join_processes(processes: str) -> None:
    """Join the processes that train as one. Call this before anything else of jax.

    Args:
        processes: `auto`, as SLURM or Open MPI started them, or `2/4@HOST:PORT`: the second of four, the
            first of which listens at that address.

    Raises:
        ValueError: It is neither, or `auto` without either launcher.
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
    """Put values on the devices of all processes; each process has them whole."""
    if jax.process_count() == 1:
        return jax.device_put(values, sharding)

    def put_leaf(leaf):
        leaf = np.asarray(leaf)
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

    return jax.tree.map(put_leaf, values)


def fetch(values: T) -> T:
    """Return values as whole host arrays, in every process."""

    def gather_leaf(leaf):
        addressable = getattr(leaf, "is_fully_addressable", True)
        return leaf if addressable else multihost_utils.process_allgather(leaf, tiled=True)

    return jax.device_get(jax.tree.map(gather_leaf, values))


def broadcast_from_first(value: bool | int) -> int:
    """Return the value of the first process in every process: for decisions by the clock or the machine."""
    return int(multihost_utils.broadcast_one_to_all(np.asarray(value, np.int32)))


def barrier(name: str) -> None:
    """Wait for all processes: files that the first has written exist afterwards."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


_calls = count()


def preemption_requested() -> bool:
    """Return whether any process got SIGTERM, at the same call in all of them.

    All processes call this between two pieces of work: jax's runtime keeps the signal of several processes to
    itself. A lone process always gets False: there SIGTERM is KeyboardInterrupt (`pcl_jax.cli`).
    """
    return multihost_utils.reached_preemption_sync_point(next(_calls))


def mesh(devices: int | None = None) -> Mesh:
    """Return a mesh of the first `devices` devices, all of them by default.

    Its axes are Auto: the compiler places the collectives (jax 0.9 made Explicit the default).
    """
    count = devices or jax.device_count()
    return jax.make_mesh((count,), ("data",), (AxisType.Auto,), devices=jax.devices()[:count])


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding with a copy on each device: for parameters and features."""
    return NamedSharding(mesh, PartitionSpec())


def sharded(mesh: Mesh) -> NamedSharding:
    """Return the sharding of the first axis over the devices: for the groups of a batch, or runs.

    On one device it is that of `replicated`. So is what a compiled step returns there, and a step whose
    state comes with another sharding is compiled again.
    """
    return NamedSharding(mesh, PartitionSpec("data") if mesh.size > 1 else PartitionSpec())


def device_memory(mesh: Mesh) -> int:
    """Return the bytes that each device has; CPU devices share the memory of their process."""
    if stats := mesh.local_devices[0].memory_stats():
        return stats["bytes_limit"]
    return process_memory() // len(mesh.local_devices)


def process_memory(root: Path = Path("/")) -> int:
    """Return the bytes of memory that this process may use: those of the machine, or fewer by its cgroups.

    A container or a job of a cluster is killed beyond the limit of its control group, or of any group above.

    Args:
        root: The folder that stands for `/`, where `proc` and `sys` are; for tests.
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        groups = []  # not Linux
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2
            top, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            top, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        # From the top down: in a container the path may exist on the host only, the limit lies at the top.
        parts = path.strip("/").split("/")
        folders = [top.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]
        limits += [limit for folder in folders if (limit := _read_limit(folder / name))]
    return min(limits)


def _read_limit(path: Path) -> int | None:
    """Return the bytes that a cgroup file says, None without a limit."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


@contextmanager
def count_programs() -> Iterator[list[str]]:
    """Give a list, which gets the name of each program that is compiled or loaded during the block."""
    names = _programs()
    before, found = len(names), []
    try:
        yield found
    finally:
        found += names[before:]


@cache
def _programs() -> list[str]:
    """Names of all programs since the first call; jax cannot forget a listener, so there is one for good."""
    names = []

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(str(kwargs.get("fun_name", "?")))

    jax.monitoring.register_event_duration_secs_listener(listen)
    return names


def keep_compiled_programs() -> None:
    """Keep compiled programs on disk, so that the next run with the same shapes starts at once.

    They lie in JAX_COMPILATION_CACHE_DIR, or in the user's cache folder.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(cache / "pcl_jax" / "programs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
