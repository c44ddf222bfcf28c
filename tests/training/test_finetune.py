"""Fine-tuning's options, by what must not change."""

import re
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest

from pcl_jax.data.batches import Layout, balanced_batches, split
from pcl_jax.data.ragged import pack
from pcl_jax.devices import mesh
from pcl_jax.models.networks import Scale, predict
from pcl_jax.runs.spec import Finetune, Labels
from pcl_jax.training import finetune_step
from pcl_jax.training.finetune import Run, finetune, init_params
from pcl_jax.training.represent import represent
from tests.data.test_fold import STATES
from tests.runs.conftest import SETTINGS, VIEWS

CONFIG = SETTINGS.finetuning


def assert_same_predictions(one, other):
    """The predicted classes are equal, their log-probabilities but for rounding."""
    np.testing.assert_array_equal(one.argmax(axis=-1), other.argmax(axis=-1))
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def run(runner, config, *, view="mel", frozen=True, repeat=0, encoder=None):
    data, model = runner.data(runner.pretraining(1)), runner.network(view, runner.settings)
    if encoder is None:
        encoder = init_params(model, data.select_view(view).example()[view], seed=9)["encoder"]
    rows = data.labelled(data.train)
    (result,) = finetune(
        data, model, [Run(rows, repeat, encoder)], config, frozen=frozen, seed=0, mesh=runner.mesh
    )
    return encoder, result


def test_without_its_dropout_a_frozen_encoder_is_a_fixed_map_and_training_sees_no_noise(make_runner):
    runner = make_runner()
    silent = replace(CONFIG, frozen_dropout=False, batch=256)
    outcomes = [run(runner, config) for config in (silent, silent, CONFIG)]
    losses = [[row["loss"] for row in result.history] for _, result in outcomes]
    for encoder, result in outcomes:  # it is kept beside the classifier, as it came
        jax.tree.map(np.testing.assert_array_equal, result.params["encoder"], encoder)
    assert losses[0] == losses[1] != losses[2]
    # full-batch logistic regression with a small rate only goes down
    assert losses[0] == sorted(losses[0], reverse=True)


def test_a_repeat_names_the_random_start(make_runner):
    runner = make_runner()
    first, again, other = (run(runner, CONFIG, repeat=r)[1].params["classifier"] for r in (0, 0, 1))
    same = jax.tree.map(np.array_equal, first, again)
    assert all(jax.tree.leaves(same))
    assert not np.array_equal(first["Dense_0"]["kernel"], other["Dense_0"]["kernel"])


def test_standardising_is_blind_to_the_scale_of_the_representation(make_runner):
    """Scale the last layer of a ReLU encoder by 1000: the same predictions, which without it differ."""
    runner = make_runner()
    config = replace(CONFIG, standardise=True)
    encoder, plain = run(runner, config, view="egemaps")
    louder = encoder | {"Dense_1": jax.tree.map(lambda leaf: leaf * 1000, encoder["Dense_1"])}
    _, scaled = run(runner, config, view="egemaps", encoder=louder)
    predictions = plain.test.argmax(axis=-1)
    assert np.array_equal(predictions, scaled.test.argmax(axis=-1))
    np.testing.assert_allclose(scaled.scale.mean, plain.scale.mean * 1000, rtol=1e-4)
    _, without = run(runner, CONFIG, view="egemaps", encoder=louder)
    assert without.scale == Scale()
    assert not np.array_equal(without.test.argmax(axis=-1), predictions)


def test_standardising_uses_training_utterances_alone(make_runner):
    runner = make_runner()
    encoder, result = run(runner, replace(CONFIG, standardise=True), view="egemaps")
    data = runner.data(runner.pretraining(1))
    seen = represent(data, runner.network("egemaps", runner.settings), encoder, data.train, runner.mesh)
    np.testing.assert_allclose(result.scale.mean, seen.mean(axis=0), rtol=1e-5)


def test_the_kept_epoch_is_the_first_best_on_validation(make_runner):
    runner = make_runner()
    _, result = run(runner, replace(CONFIG, epochs=8, learning_rate=1e-2), frozen=False)
    scores = [row["validation_uar"] for row in result.history]
    assert result.best_epoch == 1 + int(np.argmax(scores))
    data = runner.data(runner.pretraining(1))
    truth = data.labels[data.labelled(data.validation)]
    predictions = result.validation.argmax(axis=-1)
    recalls = [np.mean(predictions[truth == c] == c) for c in range(4)]
    assert np.mean(recalls) == pytest.approx(max(scores))


@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize(("view", "frozen"), [("egemaps", True), ("mel", False), ("states", True)])
def test_the_model_that_is_kept_gives_the_log_probabilities_that_are_reported(
    make_runner, view, frozen, standardise
):
    """One utterance at a time, from its stored features by way of the fold's normaliser."""
    runner = make_runner(views=(*VIEWS, STATES))
    _, result = run(runner, replace(CONFIG, standardise=standardise), view=view, frozen=frozen)
    data = runner.data(runner.pretraining(1))
    rows = data.labelled(data.test)
    assert result.test.shape == (len(rows), 4)
    np.testing.assert_allclose(np.exp(result.test).sum(axis=-1), 1, rtol=1e-6)
    for row, expected in zip(rows[::5], result.test[::5], strict=True):
        utterance = next(u for u in data.fold.test if u.id == data.ids[row])
        values, frames = runner.loader.stores[view].packed([utterance.id])
        if view in data.normalisers:
            values, _ = data.normalisers[view].apply(values, frames, [utterance.speaker])
        features = pack([values]) if frames.any() else values
        found = predict(runner.network(view, runner.settings), result.params, result.scale, features)
        np.testing.assert_allclose(found[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("view", "frozen"), [("egemaps", False), ("mel", False), ("mel", True)])
def test_runs_that_train_at_once_end_as_each_would_alone(make_runner, view, frozen):
    """With dropout: a run's masks are named by its repeat. Their patience ends them in different epochs."""
    runner = make_runner()
    config = replace(CONFIG, epochs=12, patience=2, learning_rate=1e-2)
    data, model = runner.data(runner.pretraining(1)), runner.network(view, runner.settings)
    encoder = init_params(model, data.select_view(view).example()[view], seed=9)["encoder"]
    specs = [Finetune(1, view, labels=Labels(0.5, None, repeat)) for repeat in range(3)]
    rows = [data.rows(runner.labelled(spec)) for spec in specs]
    runs = [
        Run(rows[repeat], repeat, encoder if frozen or pretrained else None)
        for repeat in range(3)
        for pretrained in (False, True)
    ]
    options = {"frozen": frozen, "seed": 0, "mesh": runner.mesh}
    together = finetune(data, model, runs, config, **options)
    alone = [finetune(data, model, [run], config, **options)[0] for run in runs]
    assert len({len(result.history) for result in alone}) > 1
    for one, other in zip(together, alone, strict=True):
        assert one.best_epoch == other.best_epoch
        assert_same_predictions(one.test, other.test)
        assert_same_predictions(one.validation, other.validation)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), one.params, other.params)
        for mine, theirs in zip(one.history, other.history, strict=True):
            assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
            assert mine["learning_rate"] == theirs["learning_rate"]


@pytest.mark.slow
@pytest.mark.parametrize(("view", "frozen"), [("egemaps", False), ("mel", True), ("mel", False)])
def test_eight_devices_share_out_the_runs_and_talk_of_nothing(make_runner, monkeypatch, view, frozen):
    """Ten runs are two for each device, six of them for nobody."""
    runner, eight = make_runner(), make_runner(devices=8)
    data, model = runner.data(runner.pretraining(1)), runner.network(view, runner.settings)
    encoder = init_params(model, data.select_view(view).example()[view], seed=9)["encoder"]
    rows = data.labelled(data.train)[:20]
    runs = [Run(rows, repeat, encoder if frozen else None) for repeat in range(10)]
    programs, kinds, plain = [], set(), finetune_step.train
    plain.clear_cache()

    def watched(*arrays, _train=plain, **static):
        kinds.add((static["mesh"], static["capacity"]))
        if not programs and static["mesh"].size == 8:
            programs.append(_train.lower(*arrays, **static).compile())
        return _train(*arrays, **static)

    monkeypatch.setattr(finetune_step, "train", watched)
    one, eight = (
        finetune(fold_data, model, runs, CONFIG, frozen=frozen, seed=0, mesh=mesh(count))
        for count, fold_data in ((1, data), (8, eight.data(eight.pretraining(1))))
    )
    (program,) = programs
    assert plain._cache_size() == len(kinds)  # no second program where a first step finds its state elsewhere
    assert not re.findall("all-reduce|all-gather|all-to-all|collective", program.as_text())
    of_loss = program.output_shardings[1]["loss"]
    assert of_loss.shard_shape((16,)) == (2,)
    assert len(eight) == 10
    for mine, theirs in zip(eight, one, strict=True):
        assert_same_predictions(mine.test, theirs.test)
        assert mine.best_epoch == theirs.best_epoch
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), mine.params, theirs.params)


@pytest.mark.parametrize("count", [1, 63, 64, 65, 200])
def test_an_evaluation_has_everybody_once_in_batches_of_one_size(count):
    lengths = np.random.default_rng(0).integers(60, 1500, count)
    places = balanced_batches(lengths, 64)
    assert sorted(places[places >= 0]) == list(range(count))
    filled = (places >= 0).sum(axis=1)
    assert filled.max() - filled.min() <= 1
    assert places.shape[1] == 64  # whatever the number of utterances: one program
    layout = Layout(groups=1)
    if count > 64:
        plain = layout.capacities({"mel": lengths}, split(np.arange(count), 64, drop_last=False))
        even = layout.capacities({"mel": lengths}, list(places))
        assert len(set(even)) <= 2  # full ones, and those with one less
        assert sum(frames for ((_, frames),) in even) <= 1.1 * sum(frames for ((_, frames),) in plain)
