"""Pre-training of a fold: its random draws."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from pcl_jax.training import pretrain as module
from tests.runs.conftest import SETTINGS, small_corpus


@pytest.fixture
def first_epoch(make_runner, monkeypatch):
    """Return a function: fold number -> initial parameters, random draws and loss, on the same data."""
    runner = make_runner(corpus=small_corpus(4))
    spec = runner.pretraining(1)
    data, networks = runner.data(spec), runner.pretraining_networks(spec)
    config = replace(SETTINGS.pretraining, epochs=1, batch=16)

    def draw(number: int):
        same_data = replace(data, fold=replace(data.fold, test_session=number))
        start = module.initial_progress(same_data, networks, seed=0, mesh=runner.mesh)
        seen = {"keys": [], "rows": []}
        train, evaluate = module.pretrain_step.train, module.pretrain_step.evaluate

        def watched_train(state, packed, rows, labels, rate, key, **options):
            seen["keys"].append(np.asarray(jax.random.key_data(key)))
            seen["rows"].append(np.asarray(rows))
            return train(state, packed, rows, labels, rate, key, **options)

        def watched_evaluate(state, packed, rows, *rest, **options):
            seen.setdefault("validation", []).append(np.asarray(rows))
            return evaluate(state, packed, rows, *rest, **options)

        monkeypatch.setattr(module.pretrain_step, "train", watched_train)
        monkeypatch.setattr(module.pretrain_step, "evaluate", watched_evaluate)
        ((_, row),) = module.pretrain(same_data, networks, config, seed=0, mesh=runner.mesh, progress=start)
        monkeypatch.undo()
        return jax.device_get(start.state.params), seen, row["loss"]

    return draw


@pytest.mark.slow
def test_two_folds_with_the_same_data_draw_different_starts_orders_and_dropout(first_epoch):
    """Otherwise the folds are no independent repeats of the method."""
    (one, seen_by_one, loss), (two, seen_by_two, other_loss) = first_epoch(1), first_epoch(2)
    kernels = [jax.tree.leaves_with_path(params) for params in (one, two)]
    for (path, a), (_, b) in zip(*kernels, strict=True):
        if path[-1].key == "kernel":
            assert not np.array_equal(a, b), path
    for name, values in seen_by_one.items():
        assert all(not np.array_equal(a, b) for a, b in zip(values, seen_by_two[name], strict=True)), name
    assert loss != other_loss


def test_a_fold_draws_the_same_again(first_epoch):
    (one, _, loss), (again, _, same_loss) = first_epoch(1), first_epoch(1)
    jax.tree.map(np.testing.assert_array_equal, one, again)
    assert loss == same_loss
