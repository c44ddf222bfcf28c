"""View-level encoders f_i, projection heads g_i and the classifier (paper, section 3.2).

An encoder reads the features of a batch and gives one representation per utterance, `[n, d_i]`.
Time-resolved features come as `Ragged`, so a result never depends on the batch an utterance is in,
nor on any padding. `train=True` switches dropout on and needs an rng named "dropout".
"""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Bool, Float, Int

from pcl_jax.arrays import Array, Ragged, Rows, within

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
    x: Float[Array, "g t d"], owner: Int[Array, "g t"], valid: Bool[Array, "g t"], count: int
) -> Float[Array, "n d"]:
    """Mean over the valid frames of each of a group's `count` utterances; zero where there are none.

    A sum over segments, written as a product with a 0/1 matrix: a scatter is slow on CPU.
    """
    member = (owner[:, None] == jnp.arange(count)[:, None]) & valid[:, None]
    total = jnp.einsum("gnt,gtd->gnd", member.astype(x.dtype), x)
    return (total / jnp.maximum(member.sum(-1), 1)[..., None]).reshape(-1, x.shape[-1])


@jax.custom_vjp
def mix(
    values: Float[Array, "_ h d"], rows: Int[Array, "g t"], weights: Float[Array, " h"]
) -> Float[Array, "g t d"]:
    """Weighted sum over the hidden states of each given frame: `gthd,h->gtd` of `values[rows]`.

    As an einsum it would write the frames out, convert and read them again, ten times as long on a CPU.
    The sum below is one loop over the frames where they lie; its gradient for the weights goes through the
    frames in pieces that stay in the cache. There is no gradient for the frozen model's values.
    """
    return sum(values[rows, h].astype(jnp.float32) * weights[h] for h in range(values.shape[1]))  # pyright: ignore[reportReturnType]


def _mix_forward(values, rows, weights):
    return mix(values, rows, weights), (jnp.asarray(values), jnp.asarray(rows))


def _mix_backward(residuals, gradient):
    values, rows = residuals
    (g, t), (_, h, d) = rows.shape, values.shape
    piece = 64 if jax.default_backend() == "cpu" else 4096
    beyond = -t % piece

    def cut(x):
        x = jnp.pad(x, [(0, 0), (0, beyond)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(g, -1, piece, *x.shape[2:]), 1, 0)

    def add(total, one):
        rows, gradient = one
        products = [(values[rows, i].astype(jnp.float32) * gradient).sum(axis=(0, 1)) for i in range(h)]
        return total + jnp.stack(products), None

    total, _ = jax.lax.scan(add, jnp.zeros((h, d)), (cut(rows), cut(gradient)))
    return None, None, total.sum(axis=1)


mix.defvjp(_mix_forward, _mix_backward)


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
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
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
        x = mix(values, rows, weights / weights.sum())
        for width in self.widths:
            x = nn.relu(_dense(width, x.shape[-1], self.initial)(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return mean_over_frames(x, features.owner, features.valid, features.lengths.shape[1])


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
