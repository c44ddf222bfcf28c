"""wav2vec 2.0 and HuBERT: a waveform -> the hidden states of every layer.

Baevski et al. 2020, "wav2vec 2.0"; Hsu et al. 2021, "HuBERT" (the same body, trained otherwise).
Two layouts: base (group norm over time after the first convolution, post-norm transformer) and
large / XLS-R (layer norm after every convolution, pre-norm transformer).
"""

import math
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Bool, Float, Int

from pcl_jax.arrays import Array
from pcl_jax.views.speech_models.transformer import TransformerLayer, dense, gelu, layer_norm, precision

CONV_NORM_EPSILON = 1e-5
"""Epsilon of the norms in the convolution stack: torch's default, which no config of these models changes."""


@dataclass(frozen=True)
class Wav2Vec2Architecture:
    """The architecture that a checkpoint's `config.json` describes. The defaults are wav2vec 2.0 base."""

    conv_channels: tuple[int, ...] = (512,) * 7
    conv_kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    """Samples, then frames of the layer below."""
    conv_strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = False
    conv_norm: Literal["group", "layer"] = "group"
    """`group`: over time, after the first convolution only. `layer`: over channels, after each."""
    projection_norm: bool = True
    width: int = 768
    layers: int = 12
    heads: int = 12
    feed_forward: int = 3072
    position_kernel: int = 128
    """Frames."""
    position_groups: int = 16
    pre_norm: bool = False
    """Hugging Face's `do_stable_layer_norm`."""
    epsilon: float = 1e-5

    @property
    def states(self) -> int:
        """Number of hidden states per frame: the projected convolution output and one per layer."""
        return 1 + self.layers

    @property
    def asks_for_mask(self) -> bool:
        """Whether padding is hidden from the model; the group-norm models were trained seeing zeros."""
        return self.conv_norm == "layer"

    @property
    def shortest(self) -> int:
        """Number of samples that make one frame: 400."""
        samples = 1
        for kernel, stride in zip(self.conv_kernels[::-1], self.conv_strides[::-1], strict=True):
            samples = (samples - 1) * stride + kernel
        return samples

    @property
    def longest(self) -> int | None:
        """Number of samples that the model can take at once; None: no limit."""
        return None

    def frames(self, samples):
        """Count the valid frames of this many samples (an integer, or an array): 749 for 15 s at 16 kHz.

        `(n - 400) // 320 + 1`, which equals `(n - kernel) // stride + 1` of the layers one after the other.
        XLA's CPU compiler repeats each of seven nested divisions inside the next and takes a minute over
        them (jax 0.10.2).
        """
        return (samples - self.shortest) // math.prod(self.conv_strides) + 1

    def module(self, dtype: str) -> "Wav2Vec2":
        """Return the module with this architecture."""
        return Wav2Vec2(self, dtype)


class TimeNorm(nn.Module):
    """Normalisation of each channel of each utterance over time: group norm with one channel a group."""

    dtype: str

    @nn.compact
    def __call__(
        self, x: Float[Array, "n t d"], valid: Bool[Array, "n t"] | None = None
    ) -> Float[Array, "n t d"]:
        """Normalise by the statistics of the valid frames; None: of all."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32)
        x = x.astype(jnp.float32)
        if valid is None:
            mean = x.mean(axis=1, keepdims=True)
            variance = jnp.square(x - mean).mean(axis=1, keepdims=True)
        else:
            # Statistics of the valid frames: those of the utterance without its padding.
            inside = valid[..., None]
            count = jnp.maximum(inside.sum(axis=1, keepdims=True), 1)
            mean = jnp.where(inside, x, 0).sum(axis=1, keepdims=True) / count
            variance = jnp.where(inside, jnp.square(x - mean), 0).sum(axis=1, keepdims=True) / count
        normalised = (x - mean) * jax.lax.rsqrt(variance + CONV_NORM_EPSILON)
        return (normalised * scale + bias).astype(self.dtype)


class Wav2Vec2(nn.Module):
    """The network from waveforms at 16 kHz to all hidden states; see `__call__`."""

    architecture: Wav2Vec2Architecture
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, waveforms: Float[Array, "n samples"], lengths: Int[Array, " n"] | None = None
    ) -> tuple[Float[Array, "n t d"], ...]:
        """Compute all hidden states.

        State 0 is the projected convolution output, before the positional convolution (the authors'
        "local encoder", method.md 1a; Hugging Face's `hidden_states[0]` is the input of the first
        layer instead); state i is the output of layer i. In the pre-norm layout that is the residual
        stream as it leaves the layer, also for the last: the norm that follows it belongs to no
        state (as in torchaudio's `extract_features` and in transformers 5; transformers 4 applied it).

        Args:
            waveforms: Mono, [-1, 1].
            lengths: Valid samples. None: every sample is seen, zeros too. Given: the samples beyond
                are hidden (time norm, positional convolution, attention), so an utterance's states
                are those it has alone, up to rounding; states of the frames beyond are meaningless.
        """
        a, dtype = self.architecture, self.dtype
        x = waveforms.astype(dtype)[..., None]
        for i, (channels, kernel, stride) in enumerate(
            zip(a.conv_channels, a.conv_kernels, a.conv_strides, strict=True)
        ):
            x = nn.Conv(
                channels,
                (kernel,),
                (stride,),
                padding="VALID",
                use_bias=a.conv_bias,
                dtype=dtype,
                param_dtype=dtype,
                precision=precision(dtype),
                name=f"conv_{i}",
            )(x)
            if a.conv_norm == "layer":
                x = layer_norm(CONV_NORM_EPSILON, dtype, f"conv_norm_{i}")(x)
            elif i == 0:
                inside = None if lengths is None else (lengths - kernel) // stride + 1
                x = TimeNorm(dtype, name="conv_norm_0")(x, _valid(inside, x.shape[1]))
            x = gelu(x)
        valid = _valid(None if lengths is None else a.frames(lengths), x.shape[1])

        if a.projection_norm:
            x = layer_norm(a.epsilon, dtype, "projection_norm")(x)
        x = dense(a.width, dtype, "projection")(x)
        if valid is not None:
            # So that the positional convolution sees zeros beyond the end, as it does without padding.
            x = jnp.where(valid[..., None], x, 0)
        states = [x]

        # torch pads both sides by kernel // 2 and drops the last frame of an even kernel.
        before, after = a.position_kernel // 2, (a.position_kernel - 1) // 2
        position = nn.Conv(
            a.width,
            (a.position_kernel,),
            padding=[(before, after)],
            feature_group_count=a.position_groups,
            dtype=dtype,
            param_dtype=dtype,
            precision=precision(dtype),
            name="position_conv",
        )(x)
        x = x + gelu(position)
        if not a.pre_norm:
            x = layer_norm(a.epsilon, dtype, "input_norm")(x)
        for i in range(a.layers):
            layer = TransformerLayer(a.heads, a.feed_forward, a.pre_norm, a.epsilon, dtype, name=f"layer_{i}")
            x = layer(x, valid)
            states.append(x)
        return tuple(states)


def _valid(lengths: Int[Array, " n"] | None, t: int) -> Bool[Array, "n t"] | None:
    return None if lengths is None else jnp.arange(t) < lengths[:, None]
