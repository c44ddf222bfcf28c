"""Encoders: a ragged batch gives what each utterance gives alone, by another route."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from pcl_jax.data.ragged import Ragged, pack
from pcl_jax.models.encoders import FunctionalsEncoder, HiddenStatesEncoder, SpectrogramEncoder
from pcl_jax.models.heads import Classifier, ProjectionHead
from pcl_jax.models.layers import Dropout
from pcl_jax.models.mixing import mix_dense
from pcl_jax.training.optimiser import count_parameters

RNG = np.random.default_rng(0)


def spectrogram(frames: int, bands: int = 64) -> np.ndarray:
    return RNG.normal(size=(frames, bands)).astype(np.float32)


def init(encoder: nn.Module, *features):
    """Draw parameters in one program: operation by operation, each test would load fifty."""
    return jax.jit(encoder.init)(jax.random.key(0), *features)


def apply(encoder: nn.Module, variables, features, **options):
    """Apply an encoder in one program."""
    return jax.jit(partial(encoder.apply, **options))(variables, features)


def by_hand(params, x: np.ndarray) -> np.ndarray:
    """The spectral encoder of one bare utterance in float64, loop by loop from the definition."""
    x = x.astype(np.float64)
    for layer, kernel in (("Conv_0", 7), ("Conv_1", 5), ("Conv_2", 3)):
        w = np.asarray(params[layer]["kernel"], np.float64)
        b = np.asarray(params[layer]["bias"], np.float64)
        padded = np.pad(x, ((1, 1), (0, 0)))
        out = np.array(
            [np.einsum("kc,kco->o", padded[i : i + kernel], w) + b for i in range(len(padded) - kernel + 1)]
        )
        out = np.maximum(out, 0)
        x = np.array([np.maximum(out[2 * i], out[2 * i + 1]) for i in range(len(out) // 2)])
    return x.mean(axis=0)


@pytest.mark.parametrize("lengths", [(16,), (23, 24, 25), (400, 17, 100, 31)])
def test_spectral_encoder_is_the_definition_on_each_bare_utterance(lengths):
    utterances = [spectrogram(t) for t in lengths]
    encoder = SpectrogramEncoder()
    params = init(encoder, pack(utterances))["params"]
    result = apply(encoder, {"params": params}, pack(utterances))
    expected = np.stack([by_hand(params, x) for x in utterances])
    np.testing.assert_allclose(result, expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("encoder", [SpectrogramEncoder(), HiddenStatesEncoder()])
@pytest.mark.parametrize("frames", [1, 3, 15, 16, 50])
def test_a_representation_does_not_depend_on_its_neighbours(encoder, frames):
    shape = (frames, 64) if isinstance(encoder, SpectrogramEncoder) else (frames, 3, 20)
    x = RNG.normal(size=shape).astype(np.float32)
    quiet = [np.zeros((9, *shape[1:]), np.float32), x, np.zeros((40, *shape[1:]), np.float32)]
    loud = [100 + 0 * quiet[0], x, 100 + 0 * quiet[2]]
    params = init(encoder, pack([x]))
    alone = apply(encoder, params, pack([x]))[0]
    together = jax.jit(encoder.apply)
    for neighbours in (quiet, loud):
        np.testing.assert_allclose(together(params, pack(neighbours))[1], alone, rtol=1e-5, atol=1e-6)


def test_wav2vec2_encoder_weighs_states_by_their_share_and_averages_valid_frames():
    encoder = HiddenStatesEncoder(widths=(4,))
    x = RNG.uniform(size=(5, 3, 4)).astype(np.float32)
    params = {"layer_weights": jnp.array([1.0, 2.0, 5.0]), "kernel": jnp.eye(4), "bias": jnp.full(4, 3.0)}
    result = apply(encoder, {"params": params}, pack([x, 7 * x[:2]]))
    mixed = np.einsum("thd,h->td", x.astype(np.float64), [1 / 8, 2 / 8, 5 / 8])
    expected = [3 + mixed.mean(axis=0), 3 + 7 * mixed[:2].mean(axis=0)]
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("frames", [77, 600])  # no whole number of pieces
def test_mixing_where_the_frames_lie_is_the_products_and_their_gradients(dtype, frames):
    """Against float64 products over the frames written out, in any order, some twice."""
    values = RNG.normal(size=(50, 3, 5)).astype(dtype)
    rows = RNG.integers(0, 50, size=(2, frames))
    weights, kernel, toward = (RNG.normal(size=shape) for shape in ((3,), (5, 4), (2, frames, 4)))
    x = values[rows].astype(np.float64)
    result, pull = jax.vjp(
        lambda w, k: mix_dense(values, rows, w, k),
        jnp.asarray(weights, jnp.float32),
        jnp.asarray(kernel, jnp.float32),
    )
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-4)
    close(result, np.einsum("gthd,h,de->gte", x, weights, kernel))
    of_weights, of_kernel = pull(jnp.asarray(toward, jnp.float32))
    close(of_weights, np.einsum("gthd,de,gte->h", x, kernel, toward))
    close(of_kernel, np.einsum("gthd,h,gte->de", x, weights, toward))


def test_gradient_of_what_is_beyond_an_utterance_is_zero():
    batch = pack([spectrogram(20), spectrogram(30)])
    encoder = SpectrogramEncoder()
    params = init(encoder, batch)

    def first(frames):
        return encoder.apply(params, batch._replace(frames=frames))[0].sum()

    gradient = np.abs(jax.jit(jax.grad(first))(batch.frames)).sum(axis=-1)[0]
    assert (gradient[:20] > 0).any()
    assert (gradient[24:] == 0).all()


def test_parameters_are_as_many_as_the_authors_networks_have():
    """method.md, part B: 49,376; 55,680; 114,957; heads by hand."""
    mel = init(SpectrogramEncoder(), pack([spectrogram(20)]))
    functionals = init(FunctionalsEncoder(), jnp.zeros((1, 88)))
    wav2vec2 = init(HiddenStatesEncoder(), pack([np.zeros((4, 13, 768), np.float32)]))
    head = init(ProjectionHead(), jnp.zeros((2, 128)))["params"]
    classifier = init(Classifier(4), jnp.zeros((1, 128)))
    assert [count_parameters(p) for p in (mel, functionals, wav2vec2, classifier)] == [
        49_376,
        55_680,
        114_957,
        516,
    ]
    assert count_parameters(head) == 128 * 256 + 256 + 2 * 256 + 256 * 128 + 128


def test_flattened_spectral_representation_has_the_authors_size():
    encoder = SpectrogramEncoder(pool="flatten")
    batch = pack([spectrogram(1501), spectrogram(1501)])
    assert encoder.left(1501) == 186
    result, _ = jax.eval_shape(encoder.init_with_output, jax.random.key(0), batch)
    assert result.shape == (2, 23_808)


def test_flattened_frames_are_in_order_of_time():
    """Mean over the flattened frames is the mean-pooled representation."""
    batch = pack([spectrogram(1501), spectrogram(1501)])
    params = init(SpectrogramEncoder(), batch)
    flat = apply(SpectrogramEncoder(pool="flatten"), params, batch)
    pooled = apply(SpectrogramEncoder(), params, batch)
    np.testing.assert_allclose(flat.reshape(2, 186, 128).mean(axis=1), pooled, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "encoder", [SpectrogramEncoder(initial="torch"), FunctionalsEncoder(initial="torch")]
)
def test_torch_initialisation_is_uniform_within_its_bound(encoder):
    features = pack([spectrogram(20)]) if isinstance(encoder, SpectrogramEncoder) else jnp.zeros((1, 88))
    for layer in init(encoder, features)["params"].values():
        bound = np.prod(layer["kernel"].shape[:-1]) ** -0.5
        for leaf in layer.values():
            assert bound * 0.9 < np.abs(leaf).max() <= bound
        assert np.asarray(layer["kernel"]).std() == pytest.approx(bound / 3**0.5, rel=0.05)


def test_dropout_is_on_only_in_training():
    batch = pack([spectrogram(40)])
    encoder = SpectrogramEncoder()
    params = init(encoder, batch)
    train = jax.jit(
        lambda seed: encoder.apply(params, batch, train=True, rngs={"dropout": jax.random.key(seed)})
    )
    assert not np.allclose(train(0), train(1))
    predict = jax.jit(encoder.apply)
    assert np.array_equal(predict(params, batch), predict(params, batch))


def test_dropout_drops_its_share_of_independent_values_and_keeps_the_mean():
    x = jnp.ones((400, 2001))
    y = np.asarray(Dropout(0.2).apply({}, x, train=True, rngs={"dropout": jax.random.key(0)}))
    dropped = y == 0
    four = 4 * (0.2 * 0.8 / y.size) ** 0.5  # standard errors
    assert dropped.mean() == pytest.approx(0.2, abs=four)
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / (1 - 13107 / 2**16))}
    for one, other in ((dropped[:, :-1], dropped[:, 1:]), (dropped[:-1], dropped[1:])):
        assert (one & other).mean() == pytest.approx(0.2**2, abs=four)


def test_head_normalises_by_the_batch_in_training_and_by_running_statistics_after():
    head = ProjectionHead()
    x = jnp.asarray(RNG.normal(size=(64, 128)) * 5 + 3, jnp.float32)
    variables = head.init(jax.random.key(0), x)
    hidden = nn.relu(nn.Dense(256).apply({"params": variables["params"]["Dense_0"]}, x))
    normed = (hidden - hidden.mean(0)) / np.sqrt(hidden.var(0) + 1e-5)
    expected = nn.Dense(128).apply({"params": variables["params"]["Dense_1"]}, normed)
    z, updated = head.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(z, expected, rtol=1e-3, atol=1e-4)
    mean = updated["batch_stats"]["BatchNorm_0"]["mean"]
    np.testing.assert_allclose(mean, 0.1 * hidden.mean(0), rtol=1e-4, atol=1e-6)
    after = head.apply(variables, x)
    assert not np.allclose(after, z, atol=0.1)


def test_pack_refuses_nothing_but_marks_slots_beyond_utterances():
    batch: Ragged = pack([spectrogram(3), spectrogram(17)])
    assert batch.frames.shape[1] % 8 == 0
    assert int(batch.valid.sum()) == 20
    assert not np.asarray(batch.frames)[~np.asarray(batch.valid)].any()
