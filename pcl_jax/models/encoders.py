"""View-level encoders f_i (paper, section 3.2).

An encoder maps the features of a batch to one representation per utterance, `[n, d_i]`. Time-resolved
features come as `Ragged`, so a representation depends neither on the rest of the batch nor on padding.
`train=True` switches dropout on and needs an rng named "dropout".
"""

from collections.abc import Callable, Mapping
from typing import Literal

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float

from pcl_jax.arrays import Array
from pcl_jax.config import Encoders
from pcl_jax.data.ragged import ALIGNMENT, IndexedFrames, Ragged, within
from pcl_jax.models.layers import Dropout, Init, conv, dense, mean_over_frames, torch_uniform
from pcl_jax.models.mixing import mix_dense
from pcl_jax.views.view import View


class SpectrogramEncoder(nn.Module):
    """Three blocks of Conv1d over time (mel bands are channels), ReLU, max-pool 2 and dropout.

    32-64-128 channels, kernels 7-5-3, zero padding of one frame on both sides, then the mean over the frames
    that the length of the utterance leaves: `[n, 128]`. `pool="flatten"`, the literal reading of the authors'
    code, needs all utterances to have `flatten_frames` frames (see `fixed_lengths`) and returns `[n, 23808]`.
    """

    channels: tuple[int, ...] = (32, 64, 128)
    kernels: tuple[int, ...] = (7, 5, 3)
    dropout: float = 0.2
    pool: Literal["mean", "flatten"] = "mean"
    flatten_frames: int = 1501
    initial: Init = "flax"

    @nn.compact
    def __call__(self, features: Ragged, *, train: bool = False) -> Float[Array, "n d"]:
        """Return the representations of a batch of spectrograms `[g, t, m]`."""
        x = jnp.asarray(features.frames)
        owner, position = features.owner, features.position
        # A shorter utterance would leave no frame: the silence after it counts as part of it.
        lengths = jnp.maximum(jnp.asarray(features.lengths), self.shortest())
        valid = within(owner, position, lengths)
        for channels, kernel in zip(self.channels, self.kernels, strict=True):
            x = conv(channels, kernel, x.shape[-1], self.initial)(x)
            x = nn.relu(x)
            x = jnp.maximum(x[:, ::2], x[:, 1::2])  # max-pool 2: reduce_window's gradient is slow on CPU
            owner, position = owner[:, ::2], position[:, ::2] >> 1
            lengths = self.after(lengths, kernel)
            valid = within(owner, position, lengths)
            # Frames after the utterance must be zero: they are the zero padding of the next layer.
            x = jnp.where(valid[..., None], x, 0)
            x = Dropout(self.dropout)(x, train=train)
        if self.pool == "mean":
            return mean_over_frames(x, owner, valid, lengths.shape[1])
        slots = x.reshape(lengths.size, -1, x.shape[-1])  # all utterances are of one length
        return slots[:, : self.left(self.flatten_frames)].reshape(lengths.size, -1)

    def left(self, frames: int) -> int:
        """Return the frames that an utterance has left after the last pooling: 186 of 1501."""
        for kernel in self.kernels:
            frames = self.after(frames, kernel)
        return frames

    @staticmethod
    def after(frames, kernel: int):
        """Return the frames after one block, by shifts: XLA compiles nested divisions very slowly."""
        return (frames + 3 - kernel) >> 1

    def shortest(self) -> int:
        """Return the frames that leave exactly one after the last pooling: 16 (0.15 s) by default."""
        frames = 1
        for kernel in reversed(self.kernels):
            frames = 2 * frames + kernel - 3
        return frames


def fixed_lengths(encoders: Mapping[str, nn.Module]) -> dict[str, int]:
    """Return the frames that every utterance must have, for the views whose encoder flattens them."""
    return {
        view: encoder.flatten_frames
        for view, encoder in encoders.items()
        if isinstance(encoder, SpectrogramEncoder) and encoder.pool == "flatten"
    }


class FunctionalsEncoder(nn.Module):
    """Two dense layers with ReLU, 88-256-128, for views of one vector: `[n, 88] -> [n, 128]`."""

    widths: tuple[int, ...] = (256, 128)
    initial: Init = "flax"

    @nn.compact
    def __call__(self, features: Float[Array, "n d"], *, train: bool = False) -> Float[Array, "n d2"]:
        """Return the representations of a batch of vectors."""
        x = jnp.asarray(features)
        for width in self.widths:
            x = nn.relu(dense(width, x.shape[-1], self.initial)(x))
        return x


class HiddenStatesEncoder(nn.Module):
    """A learnable weighted mean of a speech model's hidden states, then two pointwise layers.

    Pepino et al. 2021 as in the authors' code: weights start at one and are divided by their sum (no
    softmax), conv 1x1 to 128 twice, each with ReLU and dropout, then the mean over valid frames: `[n, 128]`.
    The authors' mean is over all 749 frames of the padded clip.
    """

    widths: tuple[int, ...] = (128, 128)
    dropout: float = 0.2
    initial: Init = "flax"

    @nn.compact
    def __call__(self, features: Ragged, *, train: bool = False) -> Float[Array, "n d"]:
        """Return the representations of a batch of hidden states `[g, t, h, d]`."""
        values, rows = _index_frames(features.frames)
        weights = self.param("layer_weights", nn.initializers.ones, (values.shape[1],))
        first, *others = self.widths
        kernel_init, bias_init = nn.linear.default_kernel_init, nn.initializers.zeros
        if self.initial == "torch":
            kernel_init = bias_init = torch_uniform(values.shape[-1])
        kernel = self.param("kernel", kernel_init, (values.shape[-1], first))
        x = mix_dense(values, rows, weights / weights.sum(), kernel) + self.param("bias", bias_init, (first,))
        x = Dropout(self.dropout)(nn.relu(x), train=train)
        for width in others:
            x = nn.relu(dense(width, x.shape[-1], self.initial)(x))
            x = Dropout(self.dropout)(x, train=train)
        return mean_over_frames(x, features.owner, features.valid, features.lengths.shape[1], ALIGNMENT)


def _index_frames(frames: Float[Array, "g t h d"] | IndexedFrames) -> IndexedFrames:
    if isinstance(frames, IndexedFrames):
        return frames
    g, t = frames.shape[:2]
    return IndexedFrames(
        jnp.asarray(frames).reshape(g * t, *frames.shape[2:]), jnp.arange(g * t).reshape(g, t)
    )


def _functionals(view: View, config: Encoders) -> nn.Module:
    return FunctionalsEncoder(initial=config.init)


def _spectrogram(view: View, config: Encoders) -> nn.Module:
    if view.full_frames is None:
        if config.spectral_pool == "flatten":
            raise ValueError(
                f"the view {view.name} has no full clip to flatten: use --encoders.spectral-pool mean"
            )
        return SpectrogramEncoder(dropout=config.dropout, initial=config.init)
    return SpectrogramEncoder(
        dropout=config.dropout,
        pool=config.spectral_pool,
        flatten_frames=view.full_frames,
        initial=config.init,
    )


def _hidden_states(view: View, config: Encoders) -> nn.Module:
    return HiddenStatesEncoder(dropout=config.dropout, initial=config.init)


ENCODERS: dict[str, Callable[[View, Encoders], nn.Module]] = {
    "vector": _functionals,
    "frames": _spectrogram,
    "states": _hidden_states,
}
"""The function that builds the encoder of a view, by `View.kind`."""
