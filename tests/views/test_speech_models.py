"""The Flax models against torch's, and what must hold of any model: neighbours, padding, lengths.

The references are Hugging Face's torch models with random weights: tests/reference/speech_models_torch.py.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from pcl_jax.views.speech_models import SpeechModel, hidden_states, load
from pcl_jax.views.speech_models.checkpoint import read_architecture
from pcl_jax.views.speech_models.model import untrained
from pcl_jax.views.speech_models.parameters import to_parameters
from pcl_jax.views.speech_models.transformer import attend, gelu
from pcl_jax.views.speech_models.wav2vec2 import TimeNorm, Wav2Vec2Architecture
from pcl_jax.views.speech_models.whisper import WhisperArchitecture, log_mel, mel_filters

REFERENCE = Path(__file__).parents[1] / "reference"
LAYOUTS = ("wav2vec2_base", "wav2vec2_large", "hubert_base", "hubert_large", "whisper", "whisper_128")
TOLERANCE = 1e-4
"""Absolute, of states of order one to ten, float32."""


def reference(layout: str) -> dict[str, np.ndarray]:
    with np.load(REFERENCE / f"speech_models_{layout}.npz") as file:
        return dict(file)


def model_of(layout: str, tmp_path: Path, dtype: str = "float32") -> SpeechModel:
    found = reference(layout)
    (tmp_path / "config.json").write_text(str(found["config"]))
    family, architecture = read_architecture(tmp_path / "config.json")
    tensors = {name.removeprefix("tensors/"): x for name, x in found.items() if name.startswith("tensors/")}
    parameters, left = to_parameters(tensors, family, architecture, dtype)
    assert all("masked_spec_embed" in name or "encoder.layer_norm" in name for name in left)
    return SpeechModel(parameters, architecture, family, dtype)


def noise(*shape: int, seed: int = 0, loudness: float = 0.1) -> np.ndarray:
    return (loudness * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


@pytest.mark.parametrize("case", ["one", "shortest", "padded"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_hidden_state_is_torchs(layout, case, tmp_path):
    found = reference(layout)
    model = model_of(layout, tmp_path)
    waveforms, lengths, theirs = (found[f"{case}/{part}"] for part in ("waveforms", "lengths", "states"))
    ours = np.asarray(hidden_states(model, waveforms, lengths=lengths))
    assert ours.shape == theirs.shape == (*theirs.shape[:2], model.architecture.states, 32)
    own = np.arange(theirs.shape[1]) < model.architecture.frames(lengths)[:, None]
    assert own.any(axis=1).all()
    gap = np.abs(ours - theirs)[own].max(axis=(0, 2))
    np.testing.assert_array_less(gap, TOLERANCE)
    # The bound means something: a wrong state would be far off.
    assert (np.abs(theirs[own]).max(axis=(0, 2)) > 1000 * TOLERANCE).all()


def test_state_0_is_the_projected_convolution_output(tmp_path):
    """Not Hugging Face's hidden_states[0]: no positional convolution, so nothing of what comes later."""
    model = model_of("wav2vec2_large", tmp_path)
    waveforms = noise(1, 8_000)
    changed = waveforms.copy()
    changed[:, 4_000:] += 1  # no norm over time in this layout: earlier frames cannot know
    before, after = (np.asarray(hidden_states(model, w)) for w in (waveforms, changed))
    early = int(model.architecture.frames(4_000))
    np.testing.assert_allclose(after[:, :early, 0], before[:, :early, 0], atol=1e-6)
    assert np.abs(after[:, :early, 1] - before[:, :early, 1]).max() > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["wav2vec2_base", "wav2vec2_large", "whisper"])
def test_masked_states_do_not_depend_on_neighbours_or_padding(layout, tmp_path):
    model = model_of(layout, tmp_path)
    lengths = np.array([400, 401, 3_333, 6_000])
    waveforms = noise(4, 6_400)  # padded with noise, not with zeros
    batch = np.asarray(hidden_states(model, waveforms, lengths=lengths, masked=True))
    for row, length in enumerate(lengths):
        alone = np.asarray(hidden_states(model, waveforms[row : row + 1, :length]))[0]
        np.testing.assert_allclose(batch[row, : len(alone)], alone, atol=2e-5)
        assert len(alone) == model.architecture.frames(int(length))
        assert not batch[row, len(alone) :].any()


def test_base_sees_its_zeros_unless_masked_and_large_never(tmp_path):
    """Attention masks only where the config asks for them: the paper's features saw the padding."""
    waveforms = np.pad(noise(1, 4_000), ((0, 0), (0, 4_000)))
    lengths = np.array([4_000])
    for layout, sees in (("wav2vec2_base", True), ("wav2vec2_large", False)):
        model = model_of(layout, tmp_path)
        t = model.architecture.frames(4_000)
        alone = np.asarray(hidden_states(model, waveforms[:, :4_000]))
        default = np.asarray(hidden_states(model, waveforms, lengths=lengths))[:, :t]
        whole = np.asarray(hidden_states(model, waveforms))[:, :t]
        assert (np.abs(default - alone).max() > 1e-2) == sees
        assert (np.abs(default - whole).max() < 1e-5) == sees


def test_whisper_sees_the_window_and_nothing_else(tmp_path):
    model = model_of("whisper", tmp_path)
    waveforms = noise(1, 3_200)
    short = np.asarray(hidden_states(model, waveforms))
    padded = np.asarray(hidden_states(model, np.pad(waveforms, ((0, 0), (0, 6_400)))))
    np.testing.assert_allclose(padded[:, :10], short, atol=1e-6)
    with pytest.raises(ValueError, match=r"16001 samples exceed .* 16000 \(1 s\)"):
        hidden_states(model, noise(1, 16_001))


@pytest.mark.parametrize(
    ("samples", "frames"), [(400, 1), (719, 1), (720, 2), (16_000, 49), (240_000, 749), (241_001, 752)]
)
def test_frames_are_counted_as_the_convolutions_count(samples, frames):
    a = Wav2Vec2Architecture(
        conv_channels=(4,) * 7, width=8, layers=1, heads=2, feed_forward=8, position_groups=2
    )
    assert a.frames(samples) == frames
    assert a.shortest == 400
    shape = jax.eval_shape(
        lambda w: a.module("float32").init_with_output(jax.random.key(0), w)[0], noise(1, samples)
    )
    assert [state.shape for state in shape] == [(1, frames, 8)] * 2


def test_too_few_samples_make_an_error():
    with pytest.raises(ValueError, match="399 samples make no frame: the model needs 400"):
        hidden_states(load("untrained"), noise(1, 399))


def test_whisper_frames():
    a = WhisperArchitecture()
    assert [a.frames(n) for n in (1, 320, 321, 240_000, 480_000)] == [1, 1, 2, 750, 1500]
    assert a.longest == 480_000


def test_gelu_is_exact():
    x = np.linspace(-8, 8, 10_001, dtype=np.float32)
    exact = x.astype(np.float64) * scipy.special.ndtr(x.astype(np.float64))
    np.testing.assert_allclose(gelu(jnp.asarray(x)), exact, atol=1e-6)
    # The tanh approximation is 5e-4 off.


def test_attention_by_heads_is_attention_by_definition():
    query, key, value = (noise(2, 7, 3, 4, seed=s, loudness=1) for s in range(3))
    valid = np.arange(7) < np.array([[7], [4]])
    ours = attend(query, key, value, valid, jax.lax.Precision.HIGHEST)
    for n in range(2):
        for a in range(3):
            score = query[n, :, a] @ key[n, :, a].T
            weight = scipy.special.softmax(np.where(valid[n], score, -np.inf), axis=1)
            np.testing.assert_allclose(ours[n, :, a], weight @ value[n, :, a], atol=1e-5)
    everywhere = attend(query, key, value, None, jax.lax.Precision.HIGHEST)
    np.testing.assert_allclose(everywhere[0], ours[0], atol=1e-6)


def test_attention_on_an_accelerator_is_attention_on_a_cpu():
    """Both branches, whatever device the tests run on: lowered for CUDA it has no loop over heads."""
    query = jax.ShapeDtypeStruct((2, 7, 3, 4), jnp.float32)
    attention = jax.jit(lambda q, k, v: attend(q, k, v, None, jax.lax.Precision.HIGHEST))
    for platform, loops in (("cuda", False), ("cpu", True)):
        text = attention.trace(query, query, query).lower(lowering_platforms=(platform,)).as_text()
        assert ("stablehlo.while" in text) == loops


def test_time_norm_ignores_a_constant_and_a_gain():
    """y = (x - mean) / std over time, so a x + b gives the same y, up to epsilon."""
    x = noise(2, 50, 4, loudness=10)
    norm = TimeNorm("float32")
    parameters = norm.init(jax.random.key(0), x)
    once = norm.apply(parameters, x)
    np.testing.assert_allclose(norm.apply(parameters, 3 * x + 100), once, atol=1e-4)
    np.testing.assert_allclose(np.asarray(once).mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(np.asarray(once).std(axis=1), 1, atol=1e-3)


@pytest.mark.parametrize("layout", ["whisper", "whisper_128"])
@pytest.mark.parametrize("case", ["one", "padded"])
def test_log_mel_is_whispers(layout, case):
    found = reference(layout)
    window = np.zeros((len(found[f"{case}/waveforms"]), 16_000), np.float32)
    window[:, : found[f"{case}/waveforms"].shape[1]] = found[f"{case}/waveforms"]
    theirs = found[f"{case}/mel"].transpose(0, 2, 1)
    np.testing.assert_allclose(log_mel(window, theirs.shape[-1]), theirs, atol=1e-4)


@pytest.mark.parametrize("bands", [80, 128])
def test_mel_filters_are_slaneys(bands):
    import librosa

    np.testing.assert_allclose(
        mel_filters(bands), librosa.filters.mel(sr=16_000, n_fft=400, n_mels=bands).T, atol=1e-7
    )


def test_bfloat16_is_near_float32(tmp_path):
    """Eight bits of mantissa, three layers deep: within 3 % of the states; and no float32 in disguise."""
    waveforms = noise(2, 8_000)
    for layout in ("wav2vec2_base",):
        exact = np.asarray(hidden_states(model_of(layout, tmp_path), waveforms))
        model = model_of(layout, tmp_path, dtype="bfloat16")
        assert hidden_states(model, waveforms).dtype == jnp.bfloat16
        rough = np.asarray(hidden_states(model, waveforms), np.float32)
        error = np.sqrt(np.square(rough - exact).mean() / np.square(exact).mean())
        assert 1e-4 < error < 0.03
        norms = model.parameters["layer_0"]["attention_norm"]
        assert norms["scale"].dtype == jnp.float32


def test_a_model_is_a_pytree_and_hidden_states_are_jittable(tmp_path):
    model = model_of("hubert_base", tmp_path)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(model))
    halved = jax.tree.map(lambda x: x / 2, model)
    assert halved.architecture == model.architecture
    waveforms = noise(1, 2_000)
    inside = jax.jit(lambda m, w: hidden_states(m, w).mean(axis=1))(model, waveforms)
    np.testing.assert_allclose(inside, hidden_states(model, waveforms).mean(axis=1), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["wav2vec2", "hubert", "whisper"])
def test_untrained_is_the_same_every_time(family):
    once, again = untrained(family), untrained(family)
    jax.tree.map(np.testing.assert_array_equal, once, again)
    states = np.asarray(hidden_states(once, noise(1, 16_000)))
    assert np.isfinite(states).all()
    assert states.std(axis=1).min(axis=1).max() > 0.01  # it tells frames apart


def test_the_configs_of_the_references_are_the_layouts_they_are_named_for():
    """Else parity would be shown four times for one layout."""
    base, large = (json.loads(str(reference(f"wav2vec2_{size}")["config"])) for size in ("base", "large"))
    assert large["do_stable_layer_norm"]
    assert large["feat_extract_norm"] == "layer"
    assert large["conv_bias"]
    assert not base["do_stable_layer_norm"]
    assert base["feat_extract_norm"] == "group"
    assert json.loads(str(reference("hubert_base")["config"]))["num_conv_pos_embeddings"] % 2 == 1
