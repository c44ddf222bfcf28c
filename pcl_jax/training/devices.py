"""The device mesh: one axis, "data", over which a batch is shared out."""

import os
from pathlib import Path

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def mesh(devices: int | None = None) -> Mesh:
    """A mesh of the first `devices` devices, all of them by default.

    Auto axes, stated: the compiler places the collectives (jax 0.9 made Explicit the default).
    """
    count = devices or jax.device_count()
    return jax.make_mesh((count,), ("data",), (AxisType.Auto,), devices=jax.devices()[:count])


def everywhere(mesh: Mesh) -> NamedSharding:
    """A copy on each device: parameters, features."""
    return NamedSharding(mesh, PartitionSpec())


def shared_out(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """One axis dealt to the devices: batches."""
    return NamedSharding(mesh, PartitionSpec(*(None,) * axis, "data"))


def memory(mesh: Mesh) -> int:
    """Bytes that each device has; CPU devices share the machine's."""
    if stats := mesh.devices.flat[0].memory_stats():
        return stats["bytes_limit"]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // mesh.size


def keep_compiled_programs() -> None:
    """Keep compiled programs on disk, so that the next run of the same shapes starts at once.

    In JAX_COMPILATION_CACHE_DIR, or the user's cache folder.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(cache / "pcl_jax" / "programs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
