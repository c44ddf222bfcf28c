"""One device, eight devices and pmap are one training step."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pcl_jax.config import Pretraining
from pcl_jax.data.batches import Layout, Packed, gather, split
from pcl_jax.devices import mesh, replicated, sharded
from pcl_jax.models.encoders import FunctionalsEncoder, HiddenStatesEncoder, SpectrogramEncoder
from pcl_jax.models.heads import ProjectionHead
from pcl_jax.models.networks import PretrainingNetworks
from pcl_jax.training import pretrain_step
from pcl_jax.training.objectives import OBJECTIVES, Pairwise
from pcl_jax.training.optimiser import init_state
from pcl_jax.training.pretrain_step import compute_loss, train_step
from tests.runs.conftest import VIEWS
from tests.training.test_objectives import train as history

DEVICES = 8
RNG = np.random.default_rng(1)


def networks_of(dropout: float) -> PretrainingNetworks:
    encoders = (
        ("mel", SpectrogramEncoder(dropout=dropout)),
        ("egemaps", FunctionalsEncoder()),
        ("states", HiddenStatesEncoder(dropout=dropout)),
    )
    return PretrainingNetworks(encoders, ProjectionHead())


NETWORKS = networks_of(0.2)


@pytest.fixture(scope="module")
def features() -> tuple[dict[str, Packed], dict[str, np.ndarray]]:
    lengths = RNG.integers(20, 90, size=40)
    mel = RNG.normal(size=(lengths.sum(), 64)).astype(np.float32)
    egemaps = RNG.normal(size=(40, 88)).astype(np.float32)
    frames = RNG.integers(5, 45, size=40)
    states = RNG.normal(size=(frames.sum(), 4, 16)).astype(np.float16)
    packed = {
        "states": Packed(states, np.cumsum(frames) - frames, frames),
        "mel": Packed(mel, np.cumsum(lengths) - lengths, lengths),
        "egemaps": Packed(egemaps, np.arange(40), np.zeros(40, int)),
    }
    return jax.tree.map(jnp.asarray, packed), {"mel": lengths, "states": frames}


def batch(features, groups: int):
    packed, lengths = features
    layout = Layout(groups=groups)
    rows = np.arange(40)[::-1][:32]
    (capacity,) = layout.capacities(lengths, [rows])
    return partial(gather, capacity=dict(capacity)), packed, layout.place(rows)


@pytest.fixture(scope="module")
def initial(features):
    make, packed, rows = batch(features, 1)
    return jax.jit(lambda packed, rows: NETWORKS.init(make(packed, rows), NETWORKS.keys(seed=0)))(
        packed, rows
    )


def no_dropout(state, batch):
    """A step with the dropout of evaluation, so that devices cannot differ by their masks."""
    return train_step(
        state, batch, 1e-3, jax.random.key(0), networks=networks_of(0.0), objective=Pairwise(0.5)
    )


@pytest.mark.slow
def test_eight_devices_take_the_step_of_one(features, initial):
    assert jax.device_count() == DEVICES, "tests/conftest.py asks for eight CPU devices"
    results = []
    for count in (1, DEVICES):
        make, packed, rows = batch(features, count)
        on = mesh(count)
        packed = jax.device_put(packed, replicated(on))
        rows = jax.device_put(rows, sharded(on))
        state = jax.device_put(init_state(*initial), replicated(on))
        step = jax.jit(lambda state, packed, rows, make=make: no_dropout(state, make(packed, rows)))
        state, metrics = step(state, packed, rows)
        results.append((metrics["loss"], state.statistics, state.moments.mu))
        assert len(state.params["head"]["mel"]["Dense_0"]["kernel"].sharding.device_set) == count
    one, eight = map(jax.device_get, results)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), eight, one)


@pytest.fixture(scope="module")
def one_device():
    """The step of each objective on one device, computed once."""
    return {}


def full_step(features, initial, count: int, objective: str):
    """Return loss, statistics and parameters after one compiled step on 32 utterances, without dropout."""
    make, packed, rows = batch(features, count)
    on = mesh(count)
    state = jax.device_put(init_state(*initial), replicated(on))
    state, metrics = pretrain_step.train(
        state,
        jax.device_put(packed, replicated(on)),
        jax.device_put(rows, sharded(on)),
        jnp.zeros(40, jnp.int32),
        1e-3,
        jax.random.key(0),
        capacity=tuple(make.keywords["capacity"].items()),
        fixed_lengths=(),
        networks=networks_of(0.0),
        objective=OBJECTIVES[objective](Pretraining(temperature=0.5)),
        padded=32 % count > 0,
    )
    return jax.device_get((metrics, state.statistics, state.moments.mu, state.params))


@pytest.mark.parametrize(
    ("count", "objective"),
    [
        (3, "pairwise"),
        *(pytest.param(3, name, marks=pytest.mark.slow) for name in ("simclr", "sigmoid")),
        *(pytest.param(n, "pairwise", marks=pytest.mark.slow) for n in (2, 5, 8)),
    ],
)
def test_a_step_is_the_same_on_any_number_of_devices(features, initial, one_device, count, objective):
    """On 3 devices one place of 33 is padding, on 5 devices three of 35.

    Adam's first step is the learning rate times the sign of the gradient: where that is rounding noise, the
    gradient (`moments.mu`) is compared, and not the parameter.
    """
    if objective not in one_device:
        one_device[objective] = full_step(features, initial, 1, objective)
    metrics, statistics, gradient, params = full_step(features, initial, count, objective)
    expected = one_device[objective]
    for name, value in metrics.items():
        assert value == pytest.approx(expected[0][name], rel=1e-6)
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, (statistics, gradient), expected[1:3])
    certain = jax.tree.map(lambda g: np.abs(g) > 1e-6, expected[2])
    assert np.mean(np.concatenate([c.ravel() for c in jax.tree.leaves(certain)])) > 0.8
    jax.tree.map(lambda sure, one, other: close(one[sure], other[sure]), certain, params, expected[3])


@pytest.mark.parametrize("devices", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 5, 8))])
def test_pre_training_has_the_same_losses_on_any_number_of_devices(make_runner, devices):
    """Two epochs of three batches of 16: what one step leaves wrong, the next ones see.

    The gradient of a bias before a batch norm is rounding noise, and Adam moves it by the learning rate in
    the noise's direction. Training does not see that, but running statistics lag behind it, and with them
    the validation loss. So the rate is small.
    """
    views = (
        replace(VIEWS[0], encoder_of=lambda: SpectrogramEncoder(channels=(4, 4, 8), dropout=0.0)),
        VIEWS[1],
    )
    one, several = (
        history(make_runner(views=views, devices=count, runs=f"on {count}"), epochs=2, learning_rate=1e-4)
        for count in (1, devices)
    )
    for expected, row in zip(one, several, strict=True):
        for name in ("loss", "mean_ce", "validation_loss"):
            assert row[name] == pytest.approx(expected[name], rel=1e-4)


@pytest.mark.slow
def test_pmap_with_the_loss_gathered_over_its_axis_is_one_device(features, initial):
    params, statistics = initial
    networks = PretrainingNetworks(NETWORKS.encoders, ProjectionHead(axis_name="data"))
    make, packed, rows = batch(features, DEVICES)

    def local(params, rows):
        def loss(params):
            shard = make(packed, rows[None])
            value, forward = compute_loss(
                params, statistics, shard, networks=networks, objective=Pairwise(0.5, "data")
            )
            return value, forward.statistics

        (value, _), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        return value, jax.lax.pmean(gradient, "data")

    values, gradients = jax.pmap(local, axis_name="data", in_axes=(None, 0))(params, rows)

    make_one, _, rows_one = batch(features, 1)
    whole = jax.jit(make_one)(packed, rows_one)
    loss_of_whole = partial(compute_loss, networks=NETWORKS, objective=Pairwise(0.5))
    (value, _), gradient = jax.jit(jax.value_and_grad(loss_of_whole, has_aux=True))(params, statistics, whole)
    np.testing.assert_allclose(values, np.full(DEVICES, value), rtol=1e-5)
    for device in (0, DEVICES - 1):
        mine = jax.tree.map(lambda g, d=device: g[d], gradients)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-6), mine, gradient)


def test_the_negatives_are_those_of_the_global_batch(features, initial):
    """At initialisation the loss is near chance, 4 ln n with n of all devices together."""
    params, statistics = initial
    make, packed, rows = batch(features, DEVICES)
    loss, _ = jax.jit(partial(compute_loss, networks=NETWORKS, objective=Pairwise(10.0)))(
        params, statistics, jax.jit(make)(packed, rows)
    )
    assert loss == pytest.approx(4 * np.log(32), rel=0.01)


def test_gather_gives_each_row_its_own_frames_and_absent_rows_nothing(features):
    packed, lengths = features
    layout = Layout(groups=2)
    rows = np.array([7, -1, 3, 30, -1, 12])
    (capacity,) = layout.capacities(lengths, [rows])
    made = jax.jit(partial(gather, capacity=dict(capacity)))(packed, layout.place(rows))
    mel = made["mel"]
    frames, owner, valid = (np.asarray(a) for a in (mel.frames, mel.owner, mel.valid))
    for group, row_list in enumerate(layout.place(rows)):
        for index, row in enumerate(row_list):
            mine = frames[group][(owner[group] == index) & valid[group]]
            first = packed["mel"].starts[row]
            expected = packed["mel"].values[first : first + lengths["mel"][row]] if row >= 0 else mine[:0]
            assert np.array_equal(mine, expected)
    assert not frames[~valid].any()
    expected = np.where(rows[:, None] >= 0, packed["egemaps"].values[rows], 0)
    assert np.array_equal(made["egemaps"], expected)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["tensorfloat32", None])
def test_no_product_of_a_step_escapes_the_precision_that_is_asked_for(features, initial, precision):
    """Those of `mix_dense`, which has a gradient of its own, included; None shows that it can fail."""
    make, packed, rows = batch(features, 1)
    state = init_state(*initial)
    with jax.default_matmul_precision(precision):
        step = str(jax.make_jaxpr(no_dropout)(state, make(packed, rows)))
    assert step.count("dot_general[") > 20
    assert step.count("conv_general_dilated[") >= 3
    assert ("precision=None" in step) == (precision is None)


def test_places_that_are_left_empty_cost_nothing(features):
    """Four utterances in a batch of 64, as 2 % of the labels often are, and in one of four."""
    _, lengths = features
    rows = np.array([5, 9, 2, 30])
    wide = np.concatenate([rows, np.full(60, -1)])
    assert Layout().capacities(lengths, [wide]) == Layout().capacities(lengths, [rows])
    (batch,) = split(rows, 64, drop_last=False)
    assert batch.shape == (4,)


def slots_of(lengths, placed) -> int:
    """Frames of the fullest group."""
    return int(((np.maximum(lengths[placed], 16) // 8 + 1) * 8).sum(axis=1).max())


def test_capacities_are_enough_and_few_and_waste_an_eighth_at_most(features):
    _, lengths = features
    layout = Layout(groups=2)
    batches = [RNG.permutation(40)[:32] for _ in range(50)]
    alone = [dict(c)["mel"] for c in layout.capacities({"mel": lengths["mel"]}, batches)]
    for rows, capacity in zip(batches, alone, strict=True):
        needed = slots_of(lengths["mel"], layout.place(rows))
        assert needed <= capacity <= 1.125 * needed + 8
        assert capacity % 8 == 0
    assert len(set(alone)) <= 5


def test_an_epoch_of_few_batches_has_a_size_for_full_ones_and_a_smaller_one_for_the_last(features):
    """In 200 epochs of 40 utterances, 12 at a time: a program each, but for one batch in twenty by chance."""
    _, lengths = features
    epochs = [split(RNG.permutation(40), 12, drop_last=False) for _ in range(200)]
    found = np.array([[dict(c)["mel"] for c in Layout().capacities(lengths, e)] for e in epochs])
    full, last = found[:, :3].ravel(), found[:, 3]
    for sizes, count in (full, 12), (last, 4):
        usual = np.bincount(sizes).argmax()
        assert (sizes == usual).mean() > 0.95
        assert usual <= 1.5 * count * (lengths["mel"].mean() + 8)
    assert np.bincount(last).argmax() < np.bincount(full).argmax() / 2


def test_capacities_of_several_views_meet_in_few_combinations(features):
    _, lengths = features
    layout = Layout(groups=2)
    batches = [RNG.permutation(40)[:32] for _ in range(50)]
    together = layout.capacities(lengths, batches)
    for rows, capacities in zip(batches, together, strict=True):
        for view, capacity in capacities:
            assert slots_of(lengths[view], layout.place(rows)) <= capacity
    assert len(set(together)) <= 5
