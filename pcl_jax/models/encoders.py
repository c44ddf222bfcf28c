"""View-level encoders f_i, projection heads g_i and the classifier (paper, section 3.2).

An encoder reads the features of a batch and gives one representation per utterance, `[n, d_i]`.
Time-resolved features come as `Ragged`, so a result never depends on the batch an utterance is in,
nor on any padding. `train=True` switches dropout on and needs an rng named "dropout".
"""

from functools import reduce
from operator import add
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Bool, Float, Int

from pcl_jax.arrays import ALIGNMENT, Array, Ragged, Rows, within

Init = Literal["flax", "torch"]


def _uniform(fan_in: int) -> nn.initializers.Initializer:
    """torch's rule for weights and biases: U(+-1/sqrt(fan_in))."""
    bound = fan_in**-0.5

    def draw(key, shape, dtype=jnp.float32, out_sharding=None):
        del out_sharding
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return draw


def _dense(width: int, fan_in: int, initial: Init) -> nn.Dense:
    if initial == "flax":
        return nn.Dense(width)
    return nn.Dense(width, kernel_init=_uniform(fan_in), bias_init=_uniform(fan_in))


def _conv(channels: int, kernel: int, fan_in: int, initial: Init) -> nn.Conv:
    """Zero padding of one frame before, and after as much as keeps the number of frames."""
    padding = ((1, kernel - 2),)
    if initial == "flax":
        return nn.Conv(channels, (kernel,), padding=padding)
    uniform = _uniform(kernel * fan_in)
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


_RUN = 32
"""Frames whose contributions to the gradient of `mix_dense` are one expression."""


def _pieces(x: Array, frames: int) -> Array:
    """`[g, t, ...]` -> `[pieces, g, frames, ...]`, zeros after the end."""
    x = jnp.pad(x, [(0, 0), (0, -x.shape[1] % frames)] + [(0, 0)] * (x.ndim - 2))
    return jnp.moveaxis(x.reshape(x.shape[0], -1, frames, *x.shape[2:]), 1, 0)


def _frames_a_piece() -> int:
    """What of the frames, their gradient and the kernel stays in a core's cache, or fills an accelerator."""
    return 128 if jax.default_backend() == "cpu" else 8192


def _mixed(values, rows, weights):
    """One loop over the frames where they lie; an einsum would write them out, convert, read them again."""
    return reduce(add, (values[rows, h].astype(jnp.float32) * weights[h] for h in range(values.shape[1])))


@jax.custom_vjp
def mix_dense(
    values: Float[Array, "_ h d"],
    rows: Int[Array, "g t"],
    weights: Float[Array, " h"],
    kernel: Float[Array, "d d2"],
) -> Float[Array, "g t d2"]:
    """Weighted sum over the hidden states of each given frame, times a matrix: `gthd,h,de->gte` of
    `values[rows]`.

    Most of a step of pre-training is here, so it goes through the frames in pieces that stay in the cache,
    forward and backward, and never writes the sums out: with its gradient two thirds of the time that sums,
    products and their gradients take one after the other (2-core CPU). No gradient for the frozen values.
    """
    values, width = jnp.asarray(values), rows.shape[1]

    def forward(_, rows):
        return None, _mixed(values, rows, weights) @ kernel

    _, made = jax.lax.scan(forward, None, _pieces(jnp.asarray(rows), _frames_a_piece()))
    return jnp.moveaxis(made, 0, 1).reshape(len(rows), -1, kernel.shape[1])[:, :width]


def _mix_dense_forward(values, rows, weights, kernel):
    return mix_dense(values, rows, weights, kernel), (jnp.asarray(values), jnp.asarray(rows), weights, kernel)


def _mix_dense_backward(residuals, gradient):
    values, rows, weights, kernel = residuals
    _, h, d = values.shape

    def of_piece(totals, one):
        of_states, of_kernel = totals
        rows, gradient = one
        rows, gradient = rows.ravel(), gradient.reshape(-1, kernel.shape[1])
        of_kernel += gradient.T @ _mixed(values, rows, weights)  # transposed: the mixed frames need not be
        back = jax.lax.optimization_barrier(gradient @ kernel.T)
        # Of `_RUN` frames at once, so that the sum stays in a register while the frames stream by.
        rows, back = rows.reshape(-1, _RUN), back.reshape(-1, _RUN, 1, d)
        products = (values[rows[:, i]].astype(jnp.float32) * back[:, i] for i in range(_RUN))
        of_states += jax.lax.optimization_barrier(reduce(add, products)).sum(axis=0)
        return (of_states, of_kernel), None

    size = _frames_a_piece()
    totals = jnp.zeros((h, d)), jnp.zeros_like(kernel.T)
    (of_states, of_kernel), _ = jax.lax.scan(of_piece, totals, (_pieces(rows, size), _pieces(gradient, size)))
    return None, None, of_states.sum(axis=1), of_kernel.T


mix_dense.defvjp(_mix_dense_forward, _mix_dense_backward)


class SpectrogramEncoder(nn.Module):
    """Three blocks of Conv1d over time (mel bands are channels), ReLU, max-pool 2 and dropout.

    32-64-128 channels, kernels 7-5-3, zero padding of one frame on both sides, then the mean over
    the frames that the utterance's own length leaves: `[n, 128]`. `pool="flatten"`, the literal
    reading of the authors' code, needs all utterances to be `flatten_frames` long (`batches.gather`
    pads them to the clip) and gives `[n, 23808]`.
    """

    channels: tuple[int, ...] = (32, 64, 128)
    kernels: tuple[int, ...] = (7, 5, 3)
    dropout: float = 0.2
    pool: Literal["mean", "flatten"] = "mean"
    flatten_frames: int = 1501
    initial: Init = "flax"

    @nn.compact
    def __call__(self, features: Ragged, *, train: bool = False) -> Float[Array, "n d"]:
        x = jnp.asarray(features.frames)
        owner, position = features.owner, features.position
        # Below the shortest length that leaves one frame, the silence that follows is counted in.
        lengths = jnp.maximum(jnp.asarray(features.lengths), self.shortest())
        valid = within(owner, position, lengths)
        for channels, kernel in zip(self.channels, self.kernels, strict=True):
            x = _conv(channels, kernel, x.shape[-1], self.initial)(x)
            x = nn.relu(x)
            x = jnp.maximum(x[:, ::2], x[:, 1::2])  # max-pool 2: reduce_window's gradient is slow on CPU
            owner, position = owner[:, ::2], position[:, ::2] >> 1
            lengths = self.after(lengths, kernel)
            valid = within(owner, position, lengths)
            # What a bare utterance would not have must be zero: it is the next layer's zero padding.
            x = jnp.where(valid[..., None], x, 0)
            x = Dropout(self.dropout)(x, train=train)
        if self.pool == "mean":
            return mean_over_frames(x, owner, valid, lengths.shape[1])
        slots = x.reshape(lengths.size, -1, x.shape[-1])  # all utterances are of one length
        return slots[:, : self.left(self.flatten_frames)].reshape(lengths.size, -1)

    def left(self, frames: int) -> int:
        """Frames that an utterance of `frames` has after the last pooling: 186 of 1501."""
        for kernel in self.kernels:
            frames = self.after(frames, kernel)
        return frames

    @staticmethod
    def after(frames, kernel: int):
        """Frames after one block. Shifts for halves: XLA's CPU compiler drowns in nested divisions."""
        return (frames + 3 - kernel) >> 1

    def shortest(self) -> int:
        """Frames that leave exactly one after the last pooling: 16 (0.15 s) for the defaults."""
        frames = 1
        for kernel in reversed(self.kernels):
            frames = 2 * frames + kernel - 3
        return frames


class FunctionalsEncoder(nn.Module):
    """Two dense layers with ReLU, 88-256-128, for features that are one vector: `[n, 88] -> [n, 128]`."""

    widths: tuple[int, ...] = (256, 128)
    initial: Init = "flax"

    @nn.compact
    def __call__(self, features: Float[Array, "n d"], *, train: bool = False) -> Float[Array, "n d2"]:
        x = jnp.asarray(features)
        for width in self.widths:
            x = nn.relu(_dense(width, x.shape[-1], self.initial)(x))
        return x


class Wav2Vec2Encoder(nn.Module):
    """Hidden states of a speech model, averaged with learnable weights, then two pointwise layers.

    Pepino et al. 2021 as in the authors' code: weights start at one and are divided by their sum
    (no softmax), conv 1x1 to 128 twice, each ReLU and dropout, mean over valid frames: `[n, 128]`.
    """

    widths: tuple[int, ...] = (128, 128)
    dropout: float = 0.2
    initial: Init = "flax"

    @nn.compact
    def __call__(self, features: Ragged, *, train: bool = False) -> Float[Array, "n d"]:
        values, rows = _rows(features.frames)
        weights = self.param("layer_weights", nn.initializers.ones, (values.shape[1],))
        first, *others = self.widths
        kernel_init, bias_init = nn.linear.default_kernel_init, nn.initializers.zeros
        if self.initial == "torch":
            kernel_init = bias_init = _uniform(values.shape[-1])
        kernel = self.param("kernel", kernel_init, (values.shape[-1], first))
        x = mix_dense(values, rows, weights / weights.sum(), kernel) + self.param("bias", bias_init, (first,))
        x = Dropout(self.dropout)(nn.relu(x), train=train)
        for width in others:
            x = nn.relu(_dense(width, x.shape[-1], self.initial)(x))
            x = Dropout(self.dropout)(x, train=train)
        return mean_over_frames(x, features.owner, features.valid, features.lengths.shape[1], ALIGNMENT)


def _rows(frames: Float[Array, "g t h d"] | Rows) -> Rows:
    if isinstance(frames, Rows):
        return frames
    g, t = frames.shape[:2]
    return Rows(jnp.asarray(frames).reshape(g * t, *frames.shape[2:]), jnp.arange(g * t).reshape(g, t))


class ProjectionHead(nn.Module):
    """Linear 256, ReLU, BatchNorm, Linear 128: `[n, d_i] -> [n, 128]`; dropped after pre-training.

    Its batch statistics are those of the whole batch: under `jit` with a sharded batch without more
    ado, under `pmap` or `shard_map` when `axis_name` is given.
    """

    hidden: int = 256
    width: int = 128
    axis_name: str | None = None
    initial: Init = "flax"

    @nn.compact
    def __call__(self, representation: Float[Array, "n d"], *, train: bool = False) -> Float[Array, "n d2"]:
        x = nn.relu(_dense(self.hidden, representation.shape[-1], self.initial)(jnp.asarray(representation)))
        x = nn.BatchNorm(
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            axis_name=self.axis_name if train else None,
        )(x)
        return _dense(self.width, self.hidden, self.initial)(x)


class Classifier(nn.Module):
    """One linear layer: representation `[n, d]` -> logits `[n, c]` (the softmax is in the loss)."""

    classes: int
    initial: Init = "flax"

    @nn.compact
    def __call__(self, representation: Float[Array, "n d"]) -> Float[Array, "n c"]:
        dense = _dense(self.classes, representation.shape[-1], self.initial)
        return dense(jnp.asarray(representation))
