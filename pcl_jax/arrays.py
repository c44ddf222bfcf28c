"""Types of arrays, and nested dictionaries of them.

One letter per axis, everywhere:
`n` utterances, `t` frames, `m` mel bands, `h` hidden states, `d` features,
`c` classes, `k` views, `r` runs; `g` groups, one per device that shares a batch.

The shapes are jaxtyping annotations; the test suite executes them (beartype).
NumPy and JAX arrays both fit where a function takes either.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np

Array: TypeAlias = jax.Array | np.ndarray

Variables: TypeAlias = Any
"""A nested dictionary of arrays: parameters, batch statistics."""


def aligned(shape: Sequence[int], dtype: np.typing.DTypeLike) -> np.ndarray:
    """Return an empty array that `jax.device_put` takes over on a CPU without a copy.

    Do not write to it afterwards.

    >>> values = aligned((1000, 3), np.float16)
    >>> values.fill(1)
    >>> jax.device_put(values).unsafe_buffer_pointer() == values.ctypes.data
    True
    """
    boundary, dtype = 64, np.dtype(dtype)
    count = int(np.prod(shape)) * dtype.itemsize
    raw = np.empty(count + boundary, np.uint8)
    start = -raw.ctypes.data % boundary
    return raw[start : start + count].view(dtype).reshape(shape)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    """Return a nested dictionary of arrays as one level with dotted names, sorted."""
    flat = {}
    for name in sorted(tree):
        value = tree[name]
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = np.ascontiguousarray(value)
    return flat


def unflatten(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the nested dictionary that `flatten` was given."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *path, last = name.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return tree
