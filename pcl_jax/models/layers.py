"""Layers that encoders and heads share: initialisation, dropout, pooling over frames."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Bool, Float, Int

from pcl_jax.arrays import Array

Init = Literal["flax", "torch"]


def torch_uniform(fan_in: int) -> nn.initializers.Initializer:
    """Torch's rule for weights and biases: U(+-1/sqrt(fan_in))."""
    bound = fan_in**-0.5

    def draw(key, shape, dtype=jnp.float32, out_sharding=None):
        del out_sharding
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return draw


def dense(width: int, fan_in: int, initial: Init) -> nn.Dense:
    if initial == "flax":
        return nn.Dense(width)
    return nn.Dense(width, kernel_init=torch_uniform(fan_in), bias_init=torch_uniform(fan_in))


def conv(channels: int, kernel: int, fan_in: int, initial: Init) -> nn.Conv:
    """Zero padding of one frame before, and after as much as keeps the number of frames."""
    padding = ((1, kernel - 2),)
    if initial == "flax":
        return nn.Conv(channels, (kernel,), padding=padding)
    uniform = torch_uniform(kernel * fan_in)
    return nn.Conv(channels, (kernel,), padding=padding, kernel_init=uniform, bias_init=uniform)


def mean_over_frames(
    x: Float[Array, "g t d"],
    owner: Int[Array, "g t"],
    valid: Bool[Array, "g t"],
    count: int,
    together: int = 1,
) -> Float[Array, "n d"]:
    """Mean over the valid frames of each of a group's `count` utterances; zero where there are none.

    A sum over segments, written as a product with a 0/1 matrix: a scatter is slow on CPU. Before it, so many
    frames as surely belong `together` are summed: with all frames of a batch of 128 the product is a seventh
    of the pointwise layers'.
    """
    g, t, d = x.shape
    x = jnp.where(valid[..., None], x, 0).reshape(g, t // together, together, d).sum(axis=2)
    valid = valid.reshape(g, t // together, together).sum(axis=2)
    member = owner[:, None, ::together] == jnp.arange(count)[:, None]
    total = jnp.einsum("gnt,gtd->gnd", member.astype(x.dtype), x)
    frames = jnp.where(member, valid[:, None], 0).sum(axis=-1)
    return (total / jnp.maximum(frames, 1)[..., None]).reshape(-1, d)


class Dropout(nn.Module):
    """flax's, with 16 random bits for each value: half the time, and on a CPU it is a tenth of a step."""

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "*_ d"], *, train: bool) -> Float[Array, "*_ d"]:
        if not train or not self.rate:
            return x
        *axes, d = x.shape
        words = jax.random.bits(self.make_rng("dropout"), (*axes, -(-d // 2)), jnp.uint32)
        halves = jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(*axes, -1)[..., :d]
        limit = round(self.rate * 2**16)
        kept = jax.lax.optimization_barrier(halves >= limit)  # or its gradient draws the bits once more
        return jnp.where(kept, x / (1 - limit / 2**16), 0)
