"""Named random streams: every draw of a run comes from its seed and the name of its purpose."""

from functools import reduce
from zlib import crc32

import jax
import numpy as np


def seeded(seed: int, *names: str | int) -> np.random.Generator:
    """Return the random generator of a named purpose: `seeded(seed, "order", epoch)`."""
    return np.random.default_rng([seed, *(crc32(n.encode()) if isinstance(n, str) else n for n in names)])


def named_key(seed: int, *names: str | int) -> jax.Array:
    """Return the JAX key of a named purpose: `named_key(seed, "dropout", repeat)`."""
    numbers = [np.uint32(crc32(n.encode()) if isinstance(n, str) else n) for n in names]
    return _fold_in(jax.random.key(seed), numbers)


@jax.jit
def _fold_in(key, numbers):
    """Fold all names into a key in one call: twenty runs begin with sixty keys."""
    return reduce(jax.random.fold_in, numbers, key)
