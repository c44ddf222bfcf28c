"""Fine-tuning: an encoder, pre-trained or fresh, frozen or tuned, and a classifier on few labels.

Runs that differ only in their labelled subset, their initial parameters and their random draws train as one
program: see `pcl_jax.training.parallel_runs`.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import jax
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
from pcl_jax.models.networks import (
    ClassifierNetwork,
    Precomputed,
    Scale,
    classify,
    init_encoder,
    init_head,
    representation_width,
)
from pcl_jax.rng import named_key, stack_keys
from pcl_jax.training import finetune_step
from pcl_jax.training.epoch import Epoch, train_epoch
from pcl_jax.training.optimiser import init_state
from pcl_jax.training.parallel_runs import pad_runs, place_runs
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
    keys = [named_key(seed, part, model.view, *names) for part in ("encoder", "classifier")]
    width = representation_width(model.encoder, example)
    classifier = init_head(model.classifier, keys[1], width=width)["params"]
    return {"encoder": init_encoder(model.encoder, example, keys[0]), "classifier": classifier}


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
    padded, starts = pad_runs(runs, mesh.size), pad_runs(starts, mesh.size)
    inputs = inputs._replace(scales=pad_runs(inputs.scales, mesh.size))
    progress = _train(inputs, padded, starts, len(runs), config, seed)
    tested = _predict(inputs, place_runs([run.best for run in progress], mesh), data.labelled(data.test))
    outcomes = []
    for run, scale, test in zip(progress[: len(runs)], inputs.scales, tested, strict=False):
        assert run.validation is not None  # the first epoch is better than none
        scale = Scale(*(np.asarray(part, np.float32) for part in scale))
        outcome = run.best | inputs.kept, scale, run.validation, test, run.best_epoch, run.history
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
    vectors: Float[np.ndarray, "n d"] | None
    """The representations of a frozen encoder, for evaluation: without dropout it is a fixed map."""
    kept: Variables
    """The parameters of a frozen encoder, as they came."""
    scales: Sequence[Scale]
    """The scale of each run."""
    mesh: Mesh

    def place_scales(self) -> Scale:
        """Return the scales of all runs on the devices."""
        return place_runs(self.scales, self.mesh)


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
    scales: Sequence[Scale] = [Scale() for _ in runs]
    tuned = _Network(data.undivided(), model, {})
    if not frozen:
        if config.standardise:
            scales = [Scale.fit(represent(data, model, p["encoder"], data.train, mesh)) for p in starts]
        return starts, _Inputs(tuned, None, {}, scales, mesh)
    kept = {"encoder": [params.pop("encoder") for params in starts][-1]}
    vectors = represent(data, model, kept["encoder"], data.every_row, mesh)
    if config.standardise:
        scales = [Scale.fit(vectors[data.train])] * len(runs)
    training = tuned._replace(frozen=put(kept, replicated(mesh)))
    if not config.frozen_dropout:
        network = model._replace(encoder=Precomputed())
        training = _Network(tuned.data.with_vectors(vectors, mesh), network, {"encoder": {}})
    return starts, _Inputs(training, vectors, kept, scales, mesh)


@dataclass
class _RunProgress:
    """The progress of one run: early stopping, learning rate, history."""

    best: Variables
    """The parameters of the best epoch, on the host."""
    patience: Patience = field(default_factory=Patience)
    plateau: Plateau = field(default_factory=Plateau)
    best_epoch: int = 0
    validation: Float[np.ndarray, "n c"] | None = None
    history: list[dict[str, Any]] = field(default_factory=list)

    def update(
        self, row: dict[str, Any], predicted: Float[np.ndarray, "n c"], params: Variables, config: Finetuning
    ) -> None:
        """Record one more epoch, and keep its parameters if it is the best."""
        self.history.append(row)
        error = 1 - row["validation_uar"]
        self.patience = self.patience.update(error)
        self.plateau = self.plateau.update(
            error, factor=config.plateau_factor, patience=config.plateau_patience
        )
        if self.patience.stalled == 0:
            self.best = jax.tree.map(np.array, params)  # a copy: not a view of the parameters of all runs
            self.best_epoch, self.validation = row["epoch"], predicted

    def is_over(self, config: Finetuning) -> bool:
        """Return whether early stopping has come."""
        return self.patience.stalled >= config.patience


def _train(
    inputs: _Inputs,
    runs: Sequence[Run],
    starts: Sequence[Variables],
    requested: int,
    config: Finetuning,
    seed: int,
) -> list[_RunProgress]:
    """Train all runs until each has stopped; return the progress of each.

    `requested` is the number of runs without the copies that fill the devices.
    """
    (data, model, frozen), mesh = inputs.training, inputs.mesh
    fold, validation = data.fold.test_session, data.labelled(data.validation)
    truth = data.labels[validation]
    states, scales = place_runs([init_state(params, {}) for params in starts], mesh), inputs.place_scales()
    labels = put(data.labels.astype(np.int32), replicated(mesh))
    keys = stack_keys(seed, [("finetuning dropout", model.view, fold, run.repeat) for run in runs])
    progress = [_RunProgress(params) for params in starts]
    for number in range(1, config.epochs + 1):
        began = time.perf_counter()
        rates = np.array([config.learning_rate * run.plateau.scale for run in progress], np.float32)
        shuffled = np.stack([run.rows[order(seed, number, len(run.rows), fold, run.repeat)] for run in runs])
        batches = data.batches(shuffled, config.batch, mesh, drop_last=False)
        trained = train_epoch(
            finetune_step.train, states, data, batches, scales, rates, keys, frozen, labels,
            model=model, mesh=mesh,
        )  # fmt: skip
        states = trained.state
        predicted = _predict(inputs, states.params, validation)
        seconds = (time.perf_counter() - began) / requested
        params = fetch(states.params)
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
            run.update(row, predicted[i], jax.tree.map(itemgetter(i), params), config)
        if all(run.is_over(config) for run in progress):
            break
    return progress


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
    logits = _classify_on_host if inputs.vectors is not None or len(inputs.scales) == 1 else _predict_runs
    return log_softmax(logits(inputs, params, rows).astype(np.float64), axis=-1)


def _classify_on_host(
    inputs: _Inputs, params: Variables, rows: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "r n c"]:
    """Return logits of representations on the host: of frozen encoders, or by the program of `represent`."""
    params = fetch(params)
    if inputs.vectors is None:
        data, model, _ = inputs.training
        encoder = jax.tree.map(itemgetter(0), params["encoder"])
        representations = represent(data, model, encoder, rows, inputs.mesh)
    else:
        representations = inputs.vectors[rows]
    layers = [jax.tree.map(itemgetter(i), params["classifier"]) for i in range(len(inputs.scales))]
    return np.stack([classify(*run, representations) for run in zip(layers, inputs.scales, strict=True)])


def _predict_runs(
    inputs: _Inputs, params: Variables, rows: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "r n c"]:
    """Return logits of several runs by one program, which computes them beside the representations."""
    data, model, _ = inputs.training
    function = partial(finetune_step.predict, params, inputs.place_scales(), model=model, mesh=inputs.mesh)
    return map_utterances(data, rows, inputs.mesh, function).swapaxes(0, 1)
