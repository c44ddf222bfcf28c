"""Fine-tuning: an encoder, pre-trained or fresh, frozen or tuned, and a classifier on few labels.

Runs that differ only in their labelled subset, their initial parameters and their random draws train as one
program: see `pcl_jax.training.parallel_runs`.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int
from scipy.special import log_softmax

from pcl_jax.arrays import Array, Variables
from pcl_jax.config import Finetuning
from pcl_jax.data.batches import order
from pcl_jax.data.fold import FoldData
from pcl_jax.data.ragged import Ragged
from pcl_jax.devices import fetch, put, replicated
from pcl_jax.evaluation.metrics import uar
from pcl_jax.models.networks import ClassifierNetwork, Precomputed, Scale, init
from pcl_jax.rng import named_key
from pcl_jax.training import finetune_step
from pcl_jax.training.epoch import Epoch, train_epoch
from pcl_jax.training.parallel_runs import keep_better, pad_runs, place_runs, start_runs
from pcl_jax.training.represent import map_utterances, represent
from pcl_jax.training.stopping import Patience, Plateau


class Run(NamedTuple):
    """The part of a fine-tuning that differs among those of one program."""

    rows: Int[np.ndarray, " n"]
    """Labelled utterances to train on."""
    repeat: int
    """Names its random draws, together with seed and fold."""
    pretrained: Variables | None = None
    """Encoder parameters; None trains the same network from scratch (supervised)."""


class Finetuned(NamedTuple):
    """The outcome of one run, at its best validation UAR."""

    params: Variables
    """The parameters of `encoder` and `classifier`."""
    scale: Scale
    """The affine map of the representation; with `params` all that `networks.predict` needs."""
    validation: Float[np.ndarray, "n c"]
    """Log-probabilities of the labelled validation utterances; the prediction is the largest."""
    test: Float[np.ndarray, "m c"]
    """Log-probabilities of the labelled test utterances."""
    best_epoch: int
    history: list[dict[str, Any]]


def init_params(model: ClassifierNetwork, example: Ragged | Array, *names: int, seed: int) -> Variables:
    """Draw parameters, named by the seed, the view and `names` (fold and repeat)."""
    keys = (named_key(seed, part, model.view, *names) for part in ("encoder", "classifier"))
    encoder, classifier = init(model.encoder, model.classifier, example, *keys)
    return {"encoder": encoder, "classifier": classifier["params"]}


def finetune(
    data: FoldData,
    model: ClassifierNetwork,
    runs: Sequence[Run],
    config: Finetuning,
    *,
    frozen: bool,
    seed: int,
    mesh: Mesh,
) -> list[Finetuned]:
    """Train a classifier, and the encoder unless frozen, on the labelled rows of each run.

    Each run keeps its epoch of the best UAR on the labelled validation utterances; the test session is
    predicted once, at the end. A repeat has its own classifier, and its own encoder where that starts fresh.
    Runs train together until all have stopped; but for rounding, each ends as it would alone.

    Args:
        data: The features and labels of the fold.
        model: The networks.
        runs: Runs with equally many rows.
        config: Epochs, batch, learning rate and stopping rules.
        frozen: The encoder, one and the same for all runs, stays as it is. In training its dropout is on
            unless `config.frozen_dropout` is off.
        seed: Names the initial parameters, the order of the utterances and the dropout.
        mesh: The devices that share the runs.

    Raises:
        ValueError: There is no labelled utterance to train on, or to validate or test with.
        FloatingPointError: The loss is no longer finite.
    """
    data = data.select_view(model.view)
    _check_labelled(data, runs)
    starts, inputs = _prepare(data, model, runs, config, frozen=frozen, seed=seed, mesh=mesh)
    padded, starts, scales = (pad_runs(values, mesh.size) for values in (runs, starts, inputs.scales))
    inputs = inputs._replace(scales=place_runs(scales, mesh))
    best, progress = _train(inputs, padded, place_runs(starts, mesh), len(runs), config, seed)
    tested = _predict(inputs, best, data.labelled(data.test))
    best, scales = fetch((best, inputs.scales))
    outcomes = []
    for i in range(len(runs)):
        params, scale = jax.tree.map(lambda leaf, i=i: leaf[i], (best, scales))
        run = progress[i]
        assert run.validation is not None  # the first epoch is better than none
        outcome = params | inputs.kept, scale, run.validation, tested[i], run.best_epoch, run.history
        outcomes.append(Finetuned(*outcome))
    return outcomes


def _check_labelled(data: FoldData, runs: Sequence[Run]) -> None:
    sessions = {
        "training": runs[0].rows,
        "validation": data.labelled(data.validation),
        "test": data.labelled(data.test),
    }
    for name, rows in sessions.items():
        if not len(rows):
            raise ValueError(
                f"fold {data.fold.test_session} has no labelled {name} utterance; choose other --targets"
            )


class _Network(NamedTuple):
    """A network, the features it reads, and the parameters that do not train, on the devices."""

    data: FoldData
    model: ClassifierNetwork
    frozen: Variables


class _Inputs(NamedTuple):
    """Everything that the runs of a program share while they train."""

    training: _Network
    evaluation: _Network
    """Without dropout a frozen encoder is a fixed map: its representations are features here."""
    kept: Variables
    """The parameters of a frozen encoder, as they came."""
    scales: Any
    """The scale of each run."""
    mesh: Mesh


def _prepare(
    data: FoldData,
    model: ClassifierNetwork,
    runs: Sequence[Run],
    config: Finetuning,
    *,
    frozen: bool,
    seed: int,
    mesh: Mesh,
) -> tuple[list[Variables], _Inputs]:
    """Return the initial parameters of each run that train, and what its training reads."""
    example, fold = data.example()[model.view], data.fold.test_session
    starts = fetch([init_params(model, example, fold, run.repeat, seed=seed) for run in runs])
    for params, run in zip(starts, runs, strict=True):
        if run.pretrained is not None:
            params["encoder"] = run.pretrained
    scales = [Scale() for _ in runs]
    tuned = _Network(data.undivided(), model, {})
    if not frozen:
        if config.standardise:
            scales = [Scale.fit(represent(data, model, p["encoder"], data.train, mesh)) for p in starts]
        return starts, _Inputs(tuned, tuned, {}, scales, mesh)
    kept = {"encoder": [params.pop("encoder") for params in starts][-1]}
    placed = put(kept, replicated(mesh))
    vectors = represent(data, model, placed["encoder"], data.every_row, mesh)
    if config.standardise:
        scales = [Scale.fit(vectors[data.train])] * len(runs)
    evaluation = _Network(
        tuned.data.with_vectors(vectors, mesh), model._replace(encoder=Precomputed()), {"encoder": {}}
    )
    training = tuned._replace(frozen=placed) if config.frozen_dropout else evaluation
    return starts, _Inputs(training, evaluation, kept, scales, mesh)


@dataclass
class _RunProgress:
    """The progress of one run: early stopping, learning rate, history."""

    patience: Patience = field(default_factory=Patience)
    plateau: Plateau = field(default_factory=Plateau)
    best_epoch: int = 0
    validation: Float[np.ndarray, "n c"] | None = None
    history: list[dict[str, Any]] = field(default_factory=list)

    def update(self, row: dict[str, Any], predicted: Float[np.ndarray, "n c"], config: Finetuning) -> bool:
        """Record one more epoch; return whether it was the best."""
        self.history.append(row)
        error = 1 - row["validation_uar"]
        self.patience = self.patience.update(error)
        self.plateau = self.plateau.update(
            error, factor=config.plateau_factor, patience=config.plateau_patience
        )
        if improved := self.patience.stalled == 0:
            self.best_epoch, self.validation = row["epoch"], predicted
        return improved

    def is_over(self, config: Finetuning) -> bool:
        """Return whether early stopping has come."""
        return self.patience.stalled >= config.patience


def _train(
    inputs: _Inputs, runs: Sequence[Run], params: Variables, requested: int, config: Finetuning, seed: int
) -> tuple[Variables, list[_RunProgress]]:
    """Train all runs until each has stopped; return the best parameters `[r, ...]` and the progress of each.

    `requested` is the number of runs without the copies that fill the devices.
    """
    (data, model, frozen), mesh = inputs.training, inputs.mesh
    fold, validation = data.fold.test_session, data.labelled(data.validation)
    truth = data.labels[validation]
    states, best = start_runs(params, mesh=mesh), params
    labels = put(data.labels.astype(np.int32), replicated(mesh))
    keys = jnp.stack([named_key(seed, "finetuning dropout", model.view, fold, run.repeat) for run in runs])
    progress = [_RunProgress() for _ in runs]
    for number in range(1, config.epochs + 1):
        began = time.perf_counter()
        rates = np.array([config.learning_rate * run.plateau.scale for run in progress], np.float32)
        shuffled = np.stack([run.rows[order(seed, number, len(run.rows), fold, run.repeat)] for run in runs])
        batches = data.batches(shuffled, config.batch, mesh, drop_last=False)
        trained = train_epoch(
            finetune_step.train, states, data, batches, inputs.scales, rates, keys, frozen, labels,
            model=model, mesh=mesh,
        )  # fmt: skip
        states = trained.state
        predicted = _predict(inputs, states.params, validation)
        seconds = (time.perf_counter() - began) / requested
        improved = np.zeros(len(runs), bool)
        for i, run in enumerate(progress):
            if run.is_over(config):
                continue  # stopped early: later updates are discarded
            row = {
                "epoch": number,
                "loss": _finite_loss(trained, i, number, f"{model.view}, repeat {runs[i].repeat}"),
                "validation_uar": uar(truth, predicted[i].argmax(axis=-1), model.classifier.classes),
                "learning_rate": float(rates[i]),
                "seconds": seconds,
            }
            improved[i] = run.update(row, predicted[i], config)
        best = keep_better(improved, states.params, best)
        if all(run.is_over(config) for run in progress):
            break
    return best, progress


def _finite_loss(trained: Epoch, run: int, number: int, name: str) -> float:
    """Return the mean loss of a run in an epoch. Raises: FloatingPointError, if it is not finite."""
    loss = float(trained.metrics["loss"][run])
    if not np.isfinite(loss):
        step = 1 + int(np.argmin(np.isfinite(trained.losses[:, run])))
        raise FloatingPointError(
            f"the loss of {name}, is {loss} in epoch {number} from step {step} on; lower --learning-rate"
        )
    return loss


def _predict(inputs: _Inputs, params: Variables, rows: Int[np.ndarray, " n"]) -> Float[np.ndarray, "r n c"]:
    """Return the log-probabilities of these rows by each run.

    The softmax is in float64, so that two logits which differ still differ: the largest is the prediction.
    """
    data, model, frozen = inputs.evaluation
    function = partial(finetune_step.predict, params, frozen, inputs.scales, model=model, mesh=inputs.mesh)
    logits = map_utterances(data, rows, inputs.mesh, function)
    return log_softmax(logits.swapaxes(0, 1).astype(np.float64), axis=-1)
