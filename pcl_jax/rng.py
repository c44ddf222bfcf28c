"""Named random streams: every draw of a run comes from its seed and the name of its purpose."""

from collections.abc import Sequence
from functools import reduce
from zlib import crc32

import jax
import numpy as np
from jaxtyping import UInt32

Words = tuple[int, int]
"""Two numbers of 32 bits: a key, or a block that it hashes."""

_MASK = 2**32 - 1
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def seeded(seed: int, *names: str | int) -> np.random.Generator:
    """Return the random generator of a named purpose: `seeded(seed, "order", epoch)`."""
    return np.random.default_rng([seed, *(_number(name) for name in names)])


def named_key(seed: int, *names: str | int) -> jax.Array:
    """Return the JAX key of a named purpose: `named_key(seed, "dropout", repeat)`.

    The names are folded into the key of the seed, as `jax.random.fold_in` does. On the host that costs
    nothing; as programs, it would be one for each number of names.
    """
    return jax.random.wrap_key_data(jax.device_put(_hash_names(seed, names)), impl="threefry2x32")


def stack_keys(seed: int, names: Sequence[tuple[str | int, ...]]) -> jax.Array:
    """Return the keys of these purposes as one array."""
    words = np.stack([_hash_names(seed, purpose) for purpose in names])
    return jax.random.wrap_key_data(jax.device_put(words), impl="threefry2x32")


def _number(name: str | int) -> int:
    return crc32(name.encode()) if isinstance(name, str) else name


def _hash_names(seed: int, names: Sequence[str | int]) -> UInt32[np.ndarray, "2"]:
    numbers = [_number(name) & _MASK for name in names]
    return np.array(reduce(lambda key, n: threefry(key, (0, n)), numbers, (0, seed & _MASK)), np.uint32)


def threefry(key: Words, block: Words) -> Words:
    """Return the hash of a block under a key by Threefry-2x32 in 20 rounds (Salmon et al. 2011).

    >>> key = jax.random.fold_in(jax.random.key(7), 5)
    >>> threefry((0, 7), (0, 5)) == tuple(jax.random.key_data(key).tolist())
    True
    """
    schedule = (*key, key[0] ^ key[1] ^ 0x1BD11BDA)
    x, y = (block[0] + key[0]) & _MASK, (block[1] + key[1]) & _MASK
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x = (x + y) & _MASK
            y = x ^ ((y << rotation | y >> (32 - rotation)) & _MASK)
        x = (x + schedule[(group + 1) % 3]) & _MASK
        y = (y + schedule[(group + 2) % 3] + group + 1) & _MASK
    return x, y
