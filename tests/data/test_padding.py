"""No frame of another utterance, and no padding, reaches a representation."""

from functools import partial

import jax
import numpy as np
import pytest

from pcl_jax.config import Encoders, authors
from pcl_jax.data.batches import Layout, Packed, gather
from pcl_jax.data.load import FoldLoader
from pcl_jax.models.encoders import (
    FunctionalsEncoder,
    HiddenStatesEncoder,
    SpectrogramEncoder,
    fixed_lengths,
)
from pcl_jax.models.networks import encode
from tests.runs.conftest import FakeView, functionals_like, mel_like

FRAMES = 41
"""Every utterance of the made-up spectrograms is shorter."""


def states_like(rng: np.random.Generator, emotion: int) -> np.ndarray:
    return rng.normal(emotion, size=(int(rng.integers(3, 30)), 3, 6)).astype(np.float16)


def encoders_of(pool: str) -> dict:
    mel = SpectrogramEncoder(channels=(4, 4, 8), pool=pool, flatten_frames=FRAMES)
    return {"mel": mel, "egemaps": FunctionalsEncoder((16, 8)), "states": HiddenStatesEncoder((8, 8))}


def views_of(pool: str) -> tuple[FakeView, ...]:
    """Not normalised, so that each utterance is as it is stored."""
    make = {"mel": mel_like, "egemaps": functionals_like, "states": states_like}
    return tuple(
        FakeView(name, partial(encoders_of(pool).__getitem__, name), make[name], normalised=False)
        for name in make
    )


@partial(jax.jit, static_argnames=("capacity", "fixed_lengths", "pool"))
def encode_batch(params, packed, rows, *, capacity, fixed_lengths, pool):
    features = gather(packed, rows, capacity=dict(capacity), fixed_lengths=fixed_lengths)
    return {
        view: encode(encoder, params[view], features[view]) for view, encoder in encoders_of(pool).items()
    }


@pytest.fixture(scope="module", params=["mean", "flatten"])
def pool(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def params(pool):
    layout = Layout(1, tuple(fixed_lengths(encoders_of(pool)).items()))
    shapes = {"mel": (20, 8), "egemaps": (1, 12), "states": (20, 3, 6)}
    values = {view: np.zeros(shape, np.float32) for view, shape in shapes.items()}
    frames = {view: np.array([20 * (view != "egemaps")]) for view in shapes}
    packed = {view: Packed(values[view], np.zeros(1, int), frames[view]) for view in shapes}
    (capacity,) = layout.capacities({"mel": frames["mel"], "states": frames["states"]}, [np.zeros(1, int)])
    features = gather(
        packed, np.zeros((1, 1), int), capacity=dict(capacity), fixed_lengths=layout.fixed_lengths
    )
    return {
        view: encoder.init(jax.random.key(number), features[view])["params"]
        for number, (view, encoder) in enumerate(encoders_of(pool).items())
    }


def represent_all(runner, params, pool: str, memory_share: float) -> dict[str, np.ndarray]:
    """Return the representations of 24 utterances in batches of 7, the last of which has three."""
    loader = FoldLoader(runner.corpus, runner.loader.folds, runner.loader.stores, runner.mesh, memory_share)
    data = loader.load(1, list(runner.views), normalise={}, fixed_lengths=fixed_lengths(encoders_of(pool)))
    assert set(data.on_disk) == ({"mel", "states"} if memory_share == 0 else set())
    found: dict[str, list[np.ndarray]] = {view: [] for view in runner.views}
    for batch in data.batches(np.arange(24), 7, runner.mesh, drop_last=False):
        present = np.asarray(batch.rows).ravel() >= 0
        for view, values in encode_batch(
            params, batch.features, batch.rows, **batch.static, pool=pool
        ).items():
            found[view].append(np.asarray(values)[present])
    return {view: np.concatenate(values) for view, values in found.items()}


def dense(layer, x):
    return x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"], np.float64)


def mel_by_hand(params, x: np.ndarray, pool: str) -> np.ndarray:
    """The definition, loop by loop; to flatten, zeros after the utterance count as frames."""
    x = np.pad(x.astype(np.float64), ((0, FRAMES - len(x) if pool == "flatten" else 0), (0, 0)))
    for layer, kernel in (("Conv_0", 7), ("Conv_1", 5), ("Conv_2", 3)):
        w, b = (np.asarray(params[layer][part], np.float64) for part in ("kernel", "bias"))
        padded = np.pad(x, ((1, 1), (0, 0)))
        windows = [padded[i : i + kernel] for i in range(len(padded) - kernel + 1)]
        out = np.maximum([np.einsum("kc,kco->o", window, w) + b for window in windows], 0)
        x = np.array([np.maximum(out[2 * i], out[2 * i + 1]) for i in range(len(out) // 2)])
    return x.ravel() if pool == "flatten" else x.mean(axis=0)


def functionals_by_hand(params, x: np.ndarray, pool: str) -> np.ndarray:
    for layer in ("Dense_0", "Dense_1"):
        x = np.maximum(dense(params[layer], x.astype(np.float64)), 0)
    return x


def states_by_hand(params, x: np.ndarray, pool: str) -> np.ndarray:
    """Weighted states, two pointwise layers, the mean over the frames of the utterance itself."""
    weights = np.asarray(params["layer_weights"], np.float64)
    x = np.einsum("thd,h->td", x.astype(np.float64), weights / weights.sum())
    x = np.maximum(dense(params, x), 0)
    return np.maximum(dense(params["Dense_0"], x), 0).mean(axis=0)


BY_HAND = {"mel": mel_by_hand, "egemaps": functionals_by_hand, "states": states_by_hand}


def clean(utterance, values):
    """Without the NaN of the made-up functionals: nothing is imputed here."""
    return np.nan_to_num(values)


@pytest.mark.parametrize("memory_share", [0.5, 0.0])
@pytest.mark.parametrize("devices", [1, 3, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 5, 8))])
def test_a_representation_is_the_definition_on_its_utterance_and_blind_to_all_others(
    make_runner, params, pool, devices, memory_share
):
    """The first utterance is changed: padding frames are read from its place."""
    runner = make_runner(views=views_of(pool), devices=devices, spoil=clean)
    found = represent_all(runner, params, pool, memory_share)
    ids = [u.id for u in runner.loader.folds[1].train]
    for view, values in found.items():
        expected = [BY_HAND[view](params[view], runner.loader.stores[view][id], pool) for id in ids[:24]]
        np.testing.assert_allclose(values, expected, rtol=2e-3, atol=2e-4)

    def louder(utterance, values):
        return clean(utterance, values) * (100 if utterance.id == ids[0] else 1)

    changed = represent_all(
        make_runner(runs="changed", views=views_of(pool), devices=devices, spoil=louder),
        params, pool, memory_share,
    )  # fmt: skip
    for view, values in found.items():
        np.testing.assert_array_equal(values[1:], changed[view][1:])
        assert not np.allclose(values[0], changed[view][0])


def test_the_authors_preset_fixes_the_length_of_spectrograms_alone():
    """Padding of hidden states would not be zero: their encoder takes the mean over valid frames instead."""
    assert authors().encoders == Encoders(spectral_pool="flatten", init="torch")
    encoders = {"mel": SpectrogramEncoder(pool="flatten"), "wav2vec2": HiddenStatesEncoder()}
    assert fixed_lengths(encoders) == {"mel": 1501}
    assert fixed_lengths(encoders | {"mel": SpectrogramEncoder()}) == {}


def test_a_run_fixes_the_length_of_the_views_that_its_encoders_flatten(make_runner):
    for pool, expected in (("flatten", (("mel", FRAMES),)), ("mean", ())):
        runner = make_runner(runs=pool, views=views_of(pool), spoil=clean)
        assert runner.data(runner.pretraining(1)).layout.fixed_lengths == expected


def test_hidden_states_of_a_fixed_length_are_refused():
    packed = Packed(np.zeros((9, 2, 3), np.float16), np.array([0, 4]), np.array([4, 5]))
    with pytest.raises(ValueError, match="hidden states"):
        gather({"x": packed}, np.array([[0, 1]]), capacity={"x": 64}, fixed_lengths=(("x", 10),))


def test_an_utterance_that_is_longer_than_its_fixed_length_is_refused():
    layout = Layout(1, (("mel", 30),))
    with pytest.raises(ValueError, match="31 frames of mel; its encoder reads 30"):
        layout.capacities({"mel": np.array([31, 4])}, [np.array([1])])
