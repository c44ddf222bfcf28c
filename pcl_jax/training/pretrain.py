"""Pairwise-CL pre-training of one fold: the loop over epochs (paper, sections 2.2 and 3.3)."""

import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from pcl_jax.arrays import Array
from pcl_jax.config import Pretraining
from pcl_jax.corpora.folds import require_batch
from pcl_jax.corpora.utterance import NotPossible
from pcl_jax.data.batches import order
from pcl_jax.data.fold import Batch, FoldData
from pcl_jax.devices import put, replicated
from pcl_jax.models.networks import PretrainingNetworks
from pcl_jax.rng import named_key, seeded
from pcl_jax.training import pretrain_step
from pcl_jax.training.epoch import mean_metrics, train_epoch
from pcl_jax.training.objectives import build_objective
from pcl_jax.training.optimiser import TrainState, init_state
from pcl_jax.training.stopping import Patience, Plateau

_SUBSETS = {"all": "", "target": " of target emotions", "out_of_distribution": " of other emotions"}


class Progress(NamedTuple):
    """Everything that a later process needs to continue as if nothing had happened."""

    epoch: int
    """Completed epochs."""
    state: TrainState
    best: TrainState
    """The state at the best validation loss."""
    best_epoch: int
    patience: Patience
    plateau: Plateau

    def is_over(self, config: Pretraining) -> bool:
        """Return whether no further epoch follows: the last one is done, or early stopping has come."""
        return self.epoch >= config.epochs or self.patience.stalled >= config.patience


def initial_progress(data: FoldData, networks: PretrainingNetworks, *, seed: int, mesh: Mesh) -> Progress:
    """Return the progress before the first epoch: fresh parameters, a function of seed and fold alone."""
    keys = networks.keys(data.fold.test_session, seed=seed)
    state = put(init_state(*networks.init(data.example(), keys)), replicated(mesh))
    return Progress(0, state, state, 0, Patience(), Plateau())


def pretraining_rows(data: FoldData, config: Pretraining, *, seed: int) -> Int[np.ndarray, " n"]:
    """Return the rows that pre-training sees: of the fold's training sessions and of all extra corpora."""
    rows = np.concatenate([data.choose_subset(data.train, config.subset), data.extra])
    if config.utterances is not None and config.utterances < len(rows):
        chosen = seeded(seed, "unlabelled", data.fold.test_session).permutation(len(rows))
        rows = rows[np.sort(chosen[: config.utterances])]
    return rows


def pretrain(
    data: FoldData,
    networks: PretrainingNetworks,
    config: Pretraining,
    *,
    seed: int,
    mesh: Mesh,
    progress: Progress,
) -> Iterator[tuple[Progress, dict[str, Any]]]:
    """Train until early stopping or the last epoch; yield the progress and the metrics of each epoch.

    Continuing from a yielded `Progress` gives bit for bit what would have come without the pause, on the same
    number of devices.

    Args:
        data: The features of the fold.
        networks: The encoders and projection heads.
        config: Objective, batch, learning rate and stopping rules.
        seed: Names, together with the fold, the order of the utterances and the dropout.
        mesh: The devices that share each batch.
        progress: Where to start: `initial_progress`, or one that was yielded.

    Raises:
        NotPossible: There are fewer training utterances than a batch, or none to validate with.
        ValueError: The objective is not known.
        FloatingPointError: The loss is no longer finite.
    """
    static = {"networks": networks, "objective": build_objective(config)}
    train, validation = choose_rows(data, config, seed)
    fold = data.fold.test_session
    shuffled = seeded(seed, "validation", fold).permutation(validation)
    labels = put(data.labels.astype(np.int32), replicated(mesh))
    key = named_key(seed, "dropout", fold)
    padded = config.batch % data.layout.groups > 0  # training batches are full
    programs = set()  # one for each shape of a batch
    while not progress.is_over(config):
        began = time.perf_counter()
        number = progress.epoch + 1
        learning_rate = config.learning_rate * progress.plateau.scale
        rows = train[order(seed, number, len(train), fold)]
        trained = train_epoch(
            pretrain_step.train, progress.state, data, data.batches(rows, config.batch, mesh, drop_last=True),
            labels, learning_rate, key, padded=padded, **static,
        )  # fmt: skip
        seconds = time.perf_counter() - began
        validated = _validate(trained.state, data, shuffled, config.batch, mesh, labels, static)
        programs |= {("train", capacity) for capacity in trained.capacities} | validated.programs
        row = {
            "epoch": number,
            **{name: float(value) for name, value in trained.metrics.items()},
            **validated.metrics,
            "retrieval_chance": validated.batches / len(validation),
            "learning_rate": learning_rate,
            "programs": len(programs),
            "utterances_per_s": trained.utterances / seconds,
            "waiting": trained.waited_s / seconds,
            "seconds": time.perf_counter() - began,
        }
        if not np.isfinite(row["loss"]):
            batches = data.batches(rows, config.batch, mesh, drop_last=True)
            options = {**static, "padded": padded}
            where = _locate_failure(progress.state, batches, labels, learning_rate, key, options)
            raise FloatingPointError(
                f"the loss is {row['loss']} in epoch {number}, {where}; lower --learning-rate or raise "
                "--temperature"
            )
        if not np.isfinite(row["validation_loss"]):
            raise FloatingPointError(
                f"the validation loss is {row['validation_loss']} in epoch {number}; lower --learning-rate "
                "or raise --temperature"
            )
        progress = _advance(progress, trained.state, row, config)
        yield progress, row


def choose_rows(
    data: FoldData, config: Pretraining, seed: int
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " m"]]:
    """Return the rows to train on and those to validate with.

    Raises:
        NotPossible: As `pretrain`.
    """
    train = pretraining_rows(data, config, seed=seed)
    validation = data.choose_subset(data.validation, config.subset)
    subset = _SUBSETS[config.subset]
    require_batch(len(train), config.batch, subset)
    if not len(validation):
        raise NotPossible(
            f"the validation session of the fold has no utterance{subset}; choose other --targets"
        )
    return train, validation


class _Validation(NamedTuple):
    """Means over the validation utterances."""

    metrics: Mapping[str, float]
    batches: int
    programs: set[Any]


def _validate(
    state: TrainState,
    data: FoldData,
    rows: Int[np.ndarray, " n"],
    batch_size: int,
    mesh: Mesh,
    labels: Array,
    static: Mapping[str, Any],
) -> _Validation:
    """Evaluate a state on these rows, batch by batch."""
    metrics, counts, programs = [], [], set()
    for batch in data.batches(rows, batch_size, mesh, drop_last=False):
        found = pretrain_step.evaluate(state, batch.features, batch.rows, labels, **batch.static, **static)
        metrics.append(data.throttle(found))
        counts.append(batch.utterances)
        programs.add(("evaluate", batch.static["capacity"], batch.rows.shape))
    means = mean_metrics(jax.device_get(metrics), counts)
    return _Validation({name: float(mean) for name, mean in means.items()}, len(counts), programs)


def _advance(progress: Progress, state: TrainState, row: Mapping[str, Any], config: Pretraining) -> Progress:
    """Return the progress after one more epoch, which left `state` and `row`."""
    patience = progress.patience.update(row["validation_loss"])
    plateau = progress.plateau.update(
        row["loss"],
        factor=config.plateau_factor,
        patience=config.plateau_patience,
        threshold=config.plateau_threshold,
    )
    best = (state, row["epoch"]) if patience.stalled == 0 else (progress.best, progress.best_epoch)
    return Progress(row["epoch"], state, *best, patience, plateau)


def _locate_failure(
    state: TrainState,
    batches: Iterator[Batch],
    labels: Array,
    learning_rate: float,
    key: jax.Array,
    static: Mapping[str, Any],
) -> str:
    """Repeat an epoch up to the step whose loss is not finite; say which step, views and gradients."""
    views, norms = static["networks"].views, {}
    for step, batch in enumerate(batches, start=1):
        options = {**batch.static, **static}
        finite, new_norms = jax.device_get(
            pretrain_step.diagnose(state, batch.features, batch.rows, labels, key, **options)
        )
        state, metrics = pretrain_step.train(
            state, batch.features, batch.rows, labels, learning_rate, key, **options
        )
        if not np.isfinite(metrics["loss"]):
            failed = ", ".join(view for view in views if not finite[view])
            text = f"step {step}: {f'projections of {failed}' if failed else 'the loss alone'} not finite"
            before = ", ".join(f"{view} {norms[view]:.3g}" for view in views if norms)
            return text + (f"; norm of the gradient one step before: {before}" if before else "")
        norms = new_norms
    return "in no step when repeated"
