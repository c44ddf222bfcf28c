"""Train the tiny wav2vec 2.0 that the demo reads as its speech model, without labels.

    python scripts/tiny_speech_model.py [FOLDER]

It is HuBERT's first iteration (Hsu et al. 2021) at a thousandth of the size: predict the clusters of log-mel
frames where the input is masked. The voices are synthetic, and none is of the demo: every cue is drawn on its
own, with no emotion behind it. The checkpoint has Hugging Face's names. It takes minutes on two cores.
"""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from safetensors.numpy import save
from sklearn.cluster import MiniBatchKMeans

from pcl_jax.corpora import voice
from pcl_jax.rng import named_key, seeded
from pcl_jax.views.mel import Mel, mel_spectrogram
from pcl_jax.views.speech_models.families import TINY_FOLDER
from pcl_jax.views.speech_models.parameters import tensor_name
from pcl_jax.views.speech_models.wav2vec2 import Wav2Vec2Architecture

SEED = 1_988_0415
UTTERANCES, SAMPLES = 1000, 32_000
CLUSTERS = 100
STEPS, BATCH, LEARNING_RATE = 1500, 8, 2e-3
SPAN, STARTS = 5, 0.12
"""Frames of a masked span, and the share of frames that begin one: about 45 % are masked."""
ARCHITECTURE = Wav2Vec2Architecture(
    conv_channels=(32, 32, 32, 48, 64, 64, 64), conv_bias=True, conv_norm="layer", width=64, layers=3,
    heads=4, feed_forward=128, position_kernel=16, position_groups=4, pre_norm=True,
)  # fmt: skip
"""The layout of wav2vec 2.0 large and XLS-R."""
FRAMES = ARCHITECTURE.frames(SAMPLES)


def utterance(number: int) -> np.ndarray:
    """Return float32 `[samples]` of a voice that speaks nowhere else, normalised as the view does it."""
    rng = seeded(SEED, "voice", number)
    rate_hz, roughness = np.exp(rng.normal(np.log([4.8, 1.2]), [0.25, 0.4]))
    manner = voice.Manner(
        f0_hz=np.exp(rng.uniform(np.log(85), np.log(330))), f0_range_st=np.exp(rng.normal(np.log(1.8), 0.5)),
        f0_slope_st=rng.normal(-1.0, 2.0), rate_hz=rate_hz, level_db=rng.uniform(-38, -16),
        tilt_hz=1000 * 2 ** rng.normal(0.0, 0.7), jitter=0.008 * roughness, shimmer=0.05 * roughness,
        breath=rng.uniform(0.01, 0.12), tract=rng.uniform(0.92, 1.25), precision=rng.uniform(0.7, 1.15),
        room_db=rng.normal(-62, 4),
    )  # fmt: skip
    speech = voice.speak(manner, voice.draw_sentence(round(3.5 * rate_hz), rng), rng)
    cut = speech[rng.integers(len(speech) - SAMPLES) :][:SAMPLES]
    return ((cut - cut.mean()) / np.sqrt(cut.var() + 1e-7)).astype(np.float32)


def clusters(waveforms: np.ndarray) -> np.ndarray:
    """Return the cluster int32 `[n, t]` of the log-mel frame at the middle of each frame of the model."""
    frames = np.stack([mel_spectrogram(x, Mel())[1 : 2 * FRAMES : 2] for x in waveforms])
    flat = frames.reshape(-1, frames.shape[-1])
    kmeans = MiniBatchKMeans(CLUSTERS, random_state=0, n_init=3).fit(flat)  # pyright: ignore[reportArgumentType]
    return np.asarray(kmeans.predict(flat), np.int32).reshape(frames.shape[:2])


def masked_frames(embedding: jax.Array, mask: jax.Array):
    """Put an embedding in place of the masked frames of the model's local encoder."""

    def replace(call, args, kwargs, context):
        out = call(*args, **kwargs)
        return jnp.where(mask[..., None], embedding, out) if context.module.name == "projection" else out

    return nn.intercept_methods(replace)


def loss(params, waveforms, targets, key):
    """Return the mean cross-entropy of the clusters, and the accuracy where the input is masked."""
    starts = jax.random.bernoulli(key, STARTS, targets.shape)
    mask = jnp.stack([jnp.roll(starts, i, axis=1).at[:, :i].set(False) for i in range(SPAN)]).any(axis=0)
    with masked_frames(params["mask"], mask):
        *_, last = ARCHITECTURE.module("float32").apply({"params": params["body"]}, waveforms)
    scores = nn.LayerNorm(ARCHITECTURE.epsilon).apply({"params": params["norm"]}, last) @ params["head"]
    entropy = optax.softmax_cross_entropy_with_integer_labels(scores, targets)
    right = (scores.argmax(axis=-1) == targets) & mask
    masked = jnp.where(mask, entropy, 0).sum() / mask.sum()
    seen = jnp.where(mask, 0, entropy).sum() / (~mask).sum()
    return (masked + seen) / 2, right.sum() / mask.sum()


def train(waveforms: np.ndarray, targets: np.ndarray) -> dict:
    """Return the parameters after `STEPS` steps of AdamW."""
    width = ARCHITECTURE.width
    init = jax.jit(ARCHITECTURE.module("float32").init)
    params = {
        "body": init(named_key(SEED, "body"), waveforms[:1])["params"],
        "mask": jax.random.normal(named_key(SEED, "mask"), (width,)),
        "norm": {"scale": jnp.ones(width), "bias": jnp.zeros(width)},
        "head": jax.random.normal(named_key(SEED, "head"), (width, CLUSTERS)) / width**0.5,
    }
    rate = optax.warmup_cosine_decay_schedule(0.0, LEARNING_RATE, STEPS // 10, STEPS)
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=0.01))

    @jax.jit
    def step(params, state, waveforms, targets, key):
        (value, right), gradient = jax.value_and_grad(loss, has_aux=True)(params, waveforms, targets, key)
        updates, state = optimiser.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value, right

    state = optimiser.init(params)
    for number in range(STEPS):
        rows = seeded(SEED, "batch", number).choice(len(waveforms), BATCH, replace=False)
        key = named_key(SEED, "masks", number)
        params, state, value, right = step(params, state, waveforms[rows], targets[rows], key)
        if number % 100 == 99:
            print(f"step {number + 1}: loss {value:.3f}, {right:.1%} of masked clusters right", flush=True)
    return jax.device_get(params)


def write(params: dict, folder: Path) -> None:
    """Write a checkpoint in float16 with the names and files of Hugging Face."""
    a, tensors = ARCHITECTURE, {}
    for path, value in jax.tree.leaves_with_path(params["body"]):
        name = tensor_name("/".join(key.key for key in path), "wav2vec2")
        tensors[name] = value.T if path[-1].key == "kernel" else value
    weight = tensors.pop("encoder.pos_conv_embed.conv.weight")
    tensors["encoder.pos_conv_embed.conv.weight_v"] = weight
    tensors["encoder.pos_conv_embed.conv.weight_g"] = np.sqrt((weight**2).sum(axis=(0, 1), keepdims=True))
    tensors["encoder.layer_norm.weight"] = params["norm"]["scale"]
    tensors["encoder.layer_norm.bias"] = params["norm"]["bias"]
    tensors["masked_spec_embed"] = params["mask"]
    config = {
        "model_type": "wav2vec2", "architectures": ["Wav2Vec2Model"], "torch_dtype": "float16",
        "conv_dim": a.conv_channels, "conv_kernel": a.conv_kernels, "conv_stride": a.conv_strides,
        "conv_bias": a.conv_bias, "feat_extract_norm": a.conv_norm, "do_stable_layer_norm": a.pre_norm,
        "hidden_size": a.width, "num_hidden_layers": a.layers, "num_attention_heads": a.heads,
        "intermediate_size": a.feed_forward, "num_conv_pos_embeddings": a.position_kernel,
        "num_conv_pos_embedding_groups": a.position_groups, "layer_norm_eps": a.epsilon,
    }  # fmt: skip
    preprocessor = {"do_normalize": True, "feature_size": 1, "sampling_rate": 16_000, "padding_value": 0.0}
    folder.mkdir(parents=True, exist_ok=True)
    halves = {name: np.ascontiguousarray(value, np.float16) for name, value in tensors.items()}
    (folder / "model.safetensors").write_bytes(save(halves, metadata={"format": "pt"}))
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=1) + "\n")


if __name__ == "__main__":
    spoken = np.stack([utterance(number) for number in range(UTTERANCES)])
    write(train(spoken, clusters(spoken)), Path(sys.argv[1]) if sys.argv[1:] else TINY_FOLDER)
