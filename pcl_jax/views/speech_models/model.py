"""SpeechModel: an architecture and its parameters in one pytree; and its hidden states of audio."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Float, Int

from pcl_jax.arrays import Array
from pcl_jax.views.speech_models.families import Family
from pcl_jax.views.speech_models.wav2vec2 import Wav2Vec2Architecture
from pcl_jax.views.speech_models.whisper import WhisperArchitecture, sinusoids

Architecture: TypeAlias = Wav2Vec2Architecture | WhisperArchitecture

UNTRAINED_SEED = 0
_SMALL = Wav2Vec2Architecture(
    conv_channels=(64,) * 7,
    width=64,
    layers=3,
    heads=4,
    feed_forward=128,
    position_kernel=16,
    position_groups=4,
)
UNTRAINED_ARCHITECTURES: Mapping[Family, Architecture] = {
    "wav2vec2": _SMALL,
    "hubert": _SMALL,
    "whisper": WhisperArchitecture(width=64, layers=3, heads=4, feed_forward=128),
}


class SpeechModel(struct.PyTreeNode):
    """A frozen large speech model; `load` makes one. Its leaves are the parameters, all else is static."""

    parameters: Any
    architecture: Architecture = struct.field(pytree_node=False)
    family: Family = struct.field(pytree_node=False)
    """The `model_type` of the checkpoint's config."""
    dtype: Literal["float32", "bfloat16"] = struct.field(pytree_node=False, default="float32")
    normalise: bool = struct.field(pytree_node=False, default=False)
    """Whether the checkpoint's preprocessor asks for waveforms of zero mean and unit variance."""


@partial(jax.jit, static_argnames="masked")
def hidden_states(
    model: SpeechModel,
    waveforms: Float[Array, "n samples"],
    *,
    lengths: Int[Array, " n"] | None = None,
    masked: bool | None = None,
) -> Float[Array, "n t h d"]:
    """Compute all hidden states of a frozen speech model, `h = 1 + layers`: see `Wav2Vec2`, `WhisperEncoder`.

    Pure; compiled once per shape. The states are in the model's dtype.

    Args:
        model: The frozen model.
        waveforms: Mono, at 16 kHz, [-1, 1], zero-padded on the right.
        lengths: Valid samples of each; None: all.
        masked: Hide the padding beyond `lengths` from the model, so that an utterance's states do not
            depend on its padding or its neighbours. None: as the checkpoint's own config asks, that is
            only models with layer-norm convolutions; wav2vec 2.0 base and HuBERT base see their zeros
            (through a norm over time: padding changes every frame), as in the paper. True is right for
            those too: their time norm then leaves the padding out. Whisper is never masked.

    Returns:
        `t` frames, one per 20 ms; with `lengths`, the frames beyond the end of an utterance are zero.

    Raises:
        ValueError: Fewer samples than make one frame (400 in wav2vec 2.0), or more than Whisper's window.
    """
    a = model.architecture
    samples = waveforms.shape[1]
    if samples < a.shortest:
        raise ValueError(f"{samples} samples make no frame: the model needs {a.shortest}; pad with zeros")
    if a.longest is not None and samples > a.longest:
        raise ValueError(
            f"{samples} samples exceed the model's window of {a.longest} ({a.longest / 16_000:g} s): "
            "trim or split the waveform"
        )
    hide = a.asks_for_mask if masked is None else masked
    seen = lengths if hide or model.family == "whisper" else None
    states: Any = a.module(model.dtype).apply({"params": model.parameters}, waveforms, seen)
    if lengths is not None:
        valid = jnp.arange(states[0].shape[1]) < a.frames(lengths)[:, None]
        states = [jnp.where(valid[..., None], state, 0) for state in states]
    return jnp.stack(states, axis=2)


def untrained(family: Family, *, dtype: Literal["float32", "bfloat16"] = "float32") -> SpeechModel:
    """Make a small model with random weights from a fixed seed: the stand-in for a checkpoint.

    It shows that a pipeline runs and nothing else; every title calls it "untrained stand-in".
    """
    return random_model(family, UNTRAINED_ARCHITECTURES[family], dtype=dtype)


def random_model(
    family: Family,
    architecture: Architecture,
    *,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> SpeechModel:
    """Make a model with weights of unit gain from a fixed seed; benchmarks measure speed with it too."""
    rng = np.random.default_rng(UNTRAINED_SEED)

    def draw(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
        match path[-1].key:
            case "kernel":
                value = rng.standard_normal(leaf.shape) / math.prod(leaf.shape[:-1]) ** 0.5
            case "scale":
                value = np.ones(leaf.shape)
            case "bias":
                value = np.zeros(leaf.shape)
            case _:
                value = sinusoids(*leaf.shape)
        return jnp.asarray(value, leaf.dtype)

    waveform = jax.ShapeDtypeStruct((1, architecture.shortest), jnp.float32)
    shapes: Any = jax.eval_shape(architecture.module(dtype).init, jax.random.key(0), waveform)
    parameters = jax.tree.map_with_path(draw, shapes["params"])
    return SpeechModel(parameters, architecture, family, dtype)
