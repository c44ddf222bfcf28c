"""Objectives: the paper's by default, others by one function and one line."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pcl_jax.config import Pretraining
from pcl_jax.losses import pairwise_nt_xent, sigmoid_loss, simclr_nt_xent
from pcl_jax.training import objectives
from pcl_jax.training.objectives import OBJECTIVES, build_objective
from pcl_jax.training.pretrain import initial_progress, pretrain
from tests.runs.conftest import SETTINGS, small_corpus

RNG = np.random.default_rng(4)
PROJECTIONS = {view: RNG.normal(size=(9, 5)).astype(np.float32) for view in ("mel", "egemaps", "states")}
LABELS = np.arange(9) % 3
MASK = np.arange(9) < 7


def train(runner, **changes) -> list[dict]:
    """Return the history of a pre-training of fold 1."""
    config = replace(SETTINGS.pretraining, **changes)
    spec = runner.pretraining(1)
    data, networks = runner.data(spec), runner.pretraining_networks(spec)
    start = initial_progress(data, networks, seed=0, mesh=runner.mesh)
    return [row for _, row in pretrain(data, networks, config, seed=0, mesh=runner.mesh, progress=start)]


@pytest.mark.parametrize("mask", [None, MASK])
def test_the_default_is_eq_3_to_the_bit_and_its_metric_the_mean_cross_entropy(mask):
    config = Pretraining(temperature=0.3)
    assert config.objective == "pairwise"
    objective = build_objective(config)
    loss, metrics = jax.jit(objective)(PROJECTIONS, LABELS, mask)
    assert float(loss) == float(pairwise_nt_xent(PROJECTIONS, temperature=0.3, mask=mask))
    assert set(metrics) == {"mean_ce"}
    assert float(metrics["mean_ce"]) == float(loss) / 4


@pytest.mark.parametrize("mask", [None, MASK])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("simclr", lambda mask, n: simclr_nt_xent(PROJECTIONS, temperature=0.3, mask=mask)),
        (
            "sigmoid",
            lambda mask, n: sigmoid_loss(PROJECTIONS, temperature=0.3, bias=-np.log(n - 1.0), mask=mask),
        ),
    ],
)
def test_the_others_are_losses_of_the_library(name, expected, mask):
    objective = build_objective(Pretraining(objective=name, temperature=0.3))
    n = 9 if mask is None else 7
    np.testing.assert_allclose(objective(PROJECTIONS, LABELS, mask)[0], expected(mask, n), rtol=1e-6)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_is_hashable_equal_to_its_like_and_blind_to_labels(name):
    """Equal and hashable, so that a second pre-training compiles nothing."""
    one, other = (build_objective(Pretraining(objective=name)) for _ in range(2))
    assert hash(one) == hash(other)
    assert one == other
    assert one(PROJECTIONS, LABELS, None)[0] == one(PROJECTIONS, LABELS[::-1], None)[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
def test_each_objective_lowers_its_loss_and_pulls_the_views_together(make_runner, name):
    runner = make_runner(corpus=small_corpus(24))
    history = train(runner, objective=name, epochs=10, learning_rate=3e-3)
    first, last = history[0], history[-1]
    print(
        [round(r["loss"], 2) for r in history],
        [round(r["validation_loss"], 2) for r in history],
        [round(r["retrieval"], 3) for r in history],
    )
    assert last["loss"] < 0.95 * first["loss"]
    assert last["validation_loss"] < first["validation_loss"]
    assert last["retrieval"] > max(first["retrieval"], 1.5 * last["retrieval_chance"])
    assert ("mean_ce" in first) == ("validation_mean_ce" in first) == (name == "pairwise")


def test_an_objective_of_ones_own_is_one_function_and_one_line(make_runner, monkeypatch):
    """Of the labels, too: utterances of one class are pulled to one place."""

    def within_class_spread(projections, labels, mask):
        z = jnp.stack([projections[view] for view in sorted(projections)])
        known = labels >= 0 if mask is None else mask & (labels >= 0)
        same = known[:, None] & known[None] & (labels[:, None] == labels[None])
        distances = jnp.square(z[:, :, None] - z[:, None]).sum(axis=-1)
        loss = jnp.where(same, distances, 0).sum() / same.sum()
        return loss, {"labelled": known.sum()}

    monkeypatch.setitem(OBJECTIVES, "spread", lambda config: within_class_spread)
    history = train(make_runner(corpus=small_corpus(24)), objective="spread", epochs=10, learning_rate=3e-3)
    assert history[-1]["loss"] < history[0]["loss"]
    assert history[-1]["validation_loss"] < history[0]["validation_loss"]
    # four of five utterances have a class; a validation session has 16, one batch
    assert history[0]["validation_labelled"] == pytest.approx(13, abs=1)
    assert 10 < history[0]["labelled"] < 16


def test_an_unknown_objective_leaves_no_folder(make_runner):
    runner = make_runner()
    spec = runner.pretraining(1, objective="clip")
    with pytest.raises(ValueError, match="objective clip is not known"):
        runner.pretrain(spec)
    assert not runner.ledger.folder(spec).exists()


def test_an_unknown_objective_is_refused_with_the_choices(make_runner):
    with pytest.raises(ValueError, match="objective clip is not known; choose from pairwise, simclr"):
        train(make_runner(), objective="clip")


def test_the_factor_of_eq_3_stands_in_one_place():
    from pathlib import Path

    source = Path(objectives.__file__).parent
    assert [path.name for path in source.glob("*.py") if re.search(r"(?<!/)/ 4\b", path.read_text())] == [
        "objectives.py"
    ]
