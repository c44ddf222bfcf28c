"""Conversion of the tensors of a checkpoint to the parameters of our modules: names, layouts, weight norm.

The names on the right are those of transformers' `Wav2Vec2Model`, `HubertModel` and `WhisperEncoder`.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pcl_jax.views.speech_models.families import Family
from pcl_jax.views.speech_models.model import Architecture

_WAV2VEC2_NAMES = (
    (r"conv_(\d+)", r"feature_extractor.conv_layers.\1.conv"),
    (r"conv_norm_(\d+)", r"feature_extractor.conv_layers.\1.layer_norm"),
    (r"projection_norm", "feature_projection.layer_norm"),
    (r"projection", "feature_projection.projection"),
    (r"position_conv", "encoder.pos_conv_embed.conv"),
    (r"input_norm", "encoder.layer_norm"),
    (r"layer_(\d+)/attention/out", r"encoder.layers.\1.attention.out_proj"),
    (r"layer_(\d+)/attention/(\w)\w+", r"encoder.layers.\1.attention.\2_proj"),
    (r"layer_(\d+)/attention_norm", r"encoder.layers.\1.layer_norm"),
    (r"layer_(\d+)/feed_forward_norm", r"encoder.layers.\1.final_layer_norm"),
    (r"layer_(\d+)/feed_forward_in", r"encoder.layers.\1.feed_forward.intermediate_dense"),
    (r"layer_(\d+)/feed_forward_out", r"encoder.layers.\1.feed_forward.output_dense"),
)
_WHISPER_NAMES = (
    (r"conv_0", "conv1"),
    (r"conv_1", "conv2"),
    (r"output_norm", "layer_norm"),
    (r"layer_(\d+)/attention/out", r"layers.\1.self_attn.out_proj"),
    (r"layer_(\d+)/attention/(\w)\w+", r"layers.\1.self_attn.\2_proj"),
    (r"layer_(\d+)/attention_norm", r"layers.\1.self_attn_layer_norm"),
    (r"layer_(\d+)/feed_forward_norm", r"layers.\1.final_layer_norm"),
    (r"layer_(\d+)/feed_forward_in", r"layers.\1.fc1"),
    (r"layer_(\d+)/feed_forward_out", r"layers.\1.fc2"),
)
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}

_PREFIXES = {
    "wav2vec2": ("wav2vec2.", ""),
    "hubert": ("hubert.", ""),
    "whisper": ("model.encoder.", "encoder.", ""),
}
"""Prefixes of the body's names: in a model with a head or a decoder; in the bare body."""
_FIRST = {
    "wav2vec2": "feature_extractor.conv_layers.0.conv.weight",
    "hubert": "feature_extractor.conv_layers.0.conv.weight",
    "whisper": "conv1.weight",
}
"""A tensor that every body has: it shows which prefix a file uses."""
_OTHER_PARTS = re.compile(
    r"(quantizer|project_q|project_hid|lm_head|classifier|projector|layer_weights|tdnn|objective|"
    r"feature_extractor_head|adapter|masked_spec_embed|decoder|model\.decoder|proj_out)(\.|$)"
)
"""Names of heads, quantizers, decoders, adapters on top, and the embedding of masked frames in training."""

_WEIGHT_NORMS = (
    ("weight_g", "weight_v"),
    ("parametrizations.weight.original0", "parametrizations.weight.original1"),
)
"""Names of magnitude and direction of the positional convolution: until torch 2.0, and since."""


def tensor_name(path: str, family: Family) -> str:
    """Return the name in the file (without prefix) of the parameter at a path of our tree.

    >>> tensor_name("layer_3/attention/query/kernel", "wav2vec2")
    'encoder.layers.3.attention.q_proj.weight'
    """
    if path == "positions":
        return "embed_positions.weight"
    module, _, leaf = path.rpartition("/")
    for pattern, name in _WHISPER_NAMES if family == "whisper" else _WAV2VEC2_NAMES:
        if match := re.fullmatch(pattern, module):
            return f"{match.expand(name)}.{_LEAVES[leaf]}"
    raise AssertionError(f"no tensor name for {path}")


def to_parameters(
    tensors: Mapping[str, np.ndarray],
    family: Family,
    architecture: Architecture,
    dtype: str,
) -> tuple[dict[str, Any], list[str]]:
    """Convert the tensors of a checkpoint to the parameters of `architecture.module(dtype)`.

    Args:
        tensors: By name; only those that are needed are looked up.
        family: The names to expect.
        architecture: The shapes to expect.
        dtype: Dtype of the products; norms stay float32.

    Returns:
        The parameters, and the names of the tensors that are no part of them.

    Raises:
        ValueError: Lists all tensors that are missing, of the wrong shape, or unexpected (inside the
            encoder and not known as a head, quantizer, decoder or training aid).
    """
    prefix = next((p for p in _PREFIXES[family] if p + _FIRST[family] in tensors), "")
    waveform = jax.ShapeDtypeStruct((1, architecture.shortest), jnp.float32)
    wanted: Any = jax.eval_shape(architecture.module(dtype).init, jax.random.key(0), waveform)
    missing, misshapen, used = [], [], set()
    parameters: dict[str, Any] = {}
    for keys, leaf in _leaves(wanted["params"]):
        name = prefix + tensor_name("/".join(keys), family)
        value, sources = _find(tensors, name)
        used.update(sources)
        if value is None:
            missing.append(name)
            continue
        # torch: [out, in] and [out, in, width]; flax: [in, out] and [width, in, out].
        value = value.transpose() if keys[-1] == "kernel" else value
        if value.shape != leaf.shape:
            misshapen.append(f"{name} {_torch_shape(keys, value)} instead of {_torch_shape(keys, leaf)}")
            continue
        node = parameters
        for key in keys[:-1]:
            node = node.setdefault(key, {})
        node[keys[-1]] = jnp.asarray(value, leaf.dtype)

    left = sorted(set(tensors) - used)
    unexpected = [
        name
        for name in left
        if name.startswith(prefix)
        and not _OTHER_PARTS.match(name.removeprefix(prefix))
        # The pre-norm layout has this norm behind its last layer, where none of our states reaches.
        and not (name.startswith(f"{prefix}encoder.layer_norm.") and "input_norm" not in wanted["params"])
    ]
    if missing or misshapen or unexpected:
        raise ValueError(
            f"the tensors are not those of the {family} model that config.json describes:"
            + _listed("missing", missing)
            + _listed("of the wrong shape", misshapen)
            + _listed("unexpected", unexpected)
        )
    return parameters, left


def _leaves(tree: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*above, key))
        else:
            yield (*above, key), value


def _find(tensors: Mapping[str, np.ndarray], name: str) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Return a tensor and the names it was read from; fold weight norm: g v / |v| per kernel position."""
    if name in tensors:
        return tensors[name], (name,)
    stem = name.removesuffix("weight")
    for magnitude, direction in _WEIGHT_NORMS:
        if stem != name and stem + magnitude in tensors and stem + direction in tensors:
            g, v = (np.asarray(tensors[stem + part], np.float64) for part in (magnitude, direction))
            norm = np.sqrt(np.square(v).sum(axis=(0, 1), keepdims=True))
            return g * v / norm, (stem + magnitude, stem + direction)
    return None, ()


def _torch_shape(keys: tuple[str, ...], value: Any) -> list[int]:
    return list(value.shape[::-1] if keys[-1] == "kernel" else value.shape)


def _listed(what: str, names: list[str]) -> str:
    return f"\n  {what} ({len(names)}): {', '.join(names)}" if names else ""
