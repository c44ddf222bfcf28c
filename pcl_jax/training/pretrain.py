"""Pairwise-CL pre-training of one fold (paper, sections 2.2 and 3.3)."""

import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Bool, Int

from pcl_jax.arrays import Array, Variables
from pcl_jax.config import Pretraining
from pcl_jax.corpora.utterance import NotPossible
from pcl_jax.data.batches import gather, order
from pcl_jax.data.fold import Batch, FoldData
from pcl_jax.devices import put, replicated
from pcl_jax.losses import pairwise_nt_xent, retrieval_accuracy
from pcl_jax.models.networks import Features, PretrainingNetworks
from pcl_jax.rng import named_key, seeded
from pcl_jax.training.epoch import epoch
from pcl_jax.training.optimiser import TrainState, apply_gradient, init_state
from pcl_jax.training.stopping import Patience, Plateau


def loss_of(
    params: Variables,
    statistics: Variables,
    features: Features,
    mask: Bool[Array, " n"] | None = None,
    *,
    networks: PretrainingNetworks,
    temperature: float,
    axis_name: str | None = None,
    key: jax.Array | None = None,
) -> tuple[jax.Array, tuple[Variables, dict[str, Array]]]:
    """Eq. (3) on the projections of a batch; beside it the new batch statistics and the projections.

    The negatives are those of the whole batch, on however many devices it lies; `axis_name` is for
    callers inside `pmap` or `shard_map` only. With a key: training mode.
    """
    projections, statistics = networks.project(params, statistics, features, key=key)
    loss = pairwise_nt_xent(projections, temperature=temperature, mask=mask, axis_name=axis_name)
    return loss, (statistics, projections)


def train_step(
    state: TrainState,
    features: Features,
    learning_rate: jax.Array | float,
    key: jax.Array,
    *,
    networks: PretrainingNetworks,
    temperature: float,
) -> tuple[TrainState, jax.Array]:
    """One Adam step on a full batch, and its loss. Dropout is drawn from `key` and the step's number."""
    (loss, (statistics, _)), gradient = jax.value_and_grad(loss_of, has_aux=True)(
        state.params,
        state.statistics,
        features,
        networks=networks,
        temperature=temperature,
        key=jax.random.fold_in(key, state.step),
    )
    return apply_gradient(state, gradient, statistics, learning_rate), loss


def mean_retrieval(projections: Mapping[str, Array], mask: Bool[Array, " n"]) -> jax.Array:
    """Retrieval@1, averaged over the ordered pairs of different views; chance is 1 / n."""
    accuracy = retrieval_accuracy(projections, mask=mask)
    assert isinstance(accuracy, dict)  # of a mapping, a mapping
    return jnp.stack(list(accuracy.values())).mean()


_STATIC = ("capacity", "full_length", "networks", "temperature")


@partial(jax.jit, static_argnames=_STATIC)
def _train(state, packed, rows, learning_rate, key, *, capacity, full_length, networks, temperature):
    features = gather(packed, rows, capacity=dict(capacity), full_length=full_length)
    return train_step(state, features, learning_rate, key, networks=networks, temperature=temperature)


@partial(jax.jit, static_argnames=_STATIC)
def _evaluate(state, packed, rows, *, capacity, full_length, networks, temperature):
    features = gather(packed, rows, capacity=dict(capacity), full_length=full_length)
    mask = rows.reshape(-1) >= 0
    loss, (_, projections) = loss_of(
        state.params, state.statistics, features, mask, networks=networks, temperature=temperature
    )
    return loss, mean_retrieval(projections, mask)


@partial(jax.jit, static_argnames=_STATIC)
def _look(state, packed, rows, key, *, capacity, full_length, networks, temperature):
    """Of each view, whether its projections are finite, and the norm of the gradient of its networks."""
    features = gather(packed, rows, capacity=dict(capacity), full_length=full_length)
    (_, (_, projections)), gradient = jax.value_and_grad(loss_of, has_aux=True)(
        state.params, state.statistics, features, networks=networks, temperature=temperature,
        key=jax.random.fold_in(key, state.step),
    )  # fmt: skip
    finite = {view: jnp.isfinite(z).all() for view, z in projections.items()}
    norms = {
        view: optax.tree.norm([of_part[view] for of_part in gradient.values()]) for view in networks.views
    }
    return finite, norms


def _first_failure(
    state: TrainState, batches: Iterator[Batch], learning_rate: float, key: jax.Array, options: Mapping
) -> str:
    """An epoch once more, to the step whose loss is not finite: which step, which views, which gradients."""
    known, norms = options["networks"].views, {}
    for step, batch in enumerate(batches, start=1):
        static = {**batch.static, **options}
        finite, now = jax.device_get(_look(state, batch.features, batch.rows, key, **static))
        state, loss = _train(state, batch.features, batch.rows, learning_rate, key, **static)
        if not np.isfinite(loss):
            views = ", ".join(view for view in known if not finite[view])
            text = f"step {step}: {f'projections of {views}' if views else 'the loss alone'} not finite"
            before = ", ".join(f"{view} {norms[view]:.3g}" for view in known if norms)
            return text + (f"; norm of the gradient one step before: {before}" if before else "")
        norms = now
    return "in no step when done again"


class Progress(NamedTuple):
    """Everything a later process needs to go on as if nothing had happened."""

    epoch: int
    """Epochs done."""
    state: TrainState
    best: TrainState
    """As it was at the best validation loss."""
    best_epoch: int
    patience: Patience
    plateau: Plateau

    def over(self, config: Pretraining) -> bool:
        return self.epoch >= config.epochs or self.patience.since >= config.patience


def beginning(data: FoldData, networks: PretrainingNetworks, *, seed: int, mesh: Mesh) -> Progress:
    """Before the first epoch: fresh parameters, a function of the seed alone."""
    fresh = jax.jit(lambda features: init_state(*networks.init(features, seed=seed)))
    state = put(fresh(data.example()), replicated(mesh))
    return Progress(0, state, state, 0, Patience(), Plateau())


def unlabelled(data: FoldData, config: Pretraining, *, seed: int) -> Int[np.ndarray, " n"]:
    """The rows that pre-training sees: of the fold's training sessions, and all of the other corpora."""
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
    """Train until patience or epochs end; after each epoch yield where we are and its metrics.

    Going on from a yielded `Progress` gives bit for bit what would have come without the pause, on
    the same number of devices.

    Raises:
        NotPossible: fewer training utterances than a batch, or none to validate with.
        FloatingPointError: the loss is no longer finite.
    """
    train = unlabelled(data, config, seed=seed)
    validation = data.choose_subset(data.validation, config.subset)
    kinds = {"all": "", "target": " of target emotions", "out_of_distribution": " of other emotions"}
    kind = kinds[config.subset]
    if len(train) < config.batch:
        raise NotPossible(
            f"the fold has {len(train)} training utterances{kind}, fewer than one batch of {config.batch}; "
            "choose a smaller --batch"
        )
    if not len(validation):
        raise NotPossible(
            f"the validation session of the fold has no utterance{kind}; choose other --targets"
        )
    key = named_key(seed, "dropout")
    options = {"networks": networks, "temperature": config.temperature}
    shuffled = seeded(seed, "validation").permutation(validation)
    shapes = set()  # of batches: each is a program, compiled once
    while not progress.over(config):
        began = time.perf_counter()
        number = progress.epoch + 1
        learning_rate = config.learning_rate * progress.plateau.scale
        rows = train[order(seed, number, len(train))]
        batches = data.batches(rows, config.batch, mesh, drop_last=True)
        trained = epoch(_train, progress.state, data, batches, learning_rate, key, **options)
        loss, seconds = float(trained.loss), time.perf_counter() - began
        shapes |= {("train", capacity) for capacity in trained.capacities}
        checks = []
        for batch in data.batches(shuffled, config.batch, mesh, drop_last=False):
            found = _evaluate(trained.state, batch.features, batch.rows, **batch.static, **options)
            checks.append((batch.utterances, *data.throttle(found)))
            shapes.add(("evaluate", batch.static["capacity"], batch.rows.shape))
        sizes, validation_losses, retrievals = zip(*jax.device_get(checks), strict=True)
        validation_loss = float(np.average(validation_losses, weights=sizes))
        row = {
            "epoch": number,
            "loss": loss,
            "mean_ce": loss / 4,
            "validation_loss": validation_loss,
            "validation_mean_ce": validation_loss / 4,
            "retrieval": float(np.average(retrievals, weights=sizes)),
            "retrieval_chance": len(checks) / len(validation),
            "learning_rate": learning_rate,
            "programs": len(shapes),
            "utterances_per_s": trained.utterances / seconds,
            "waiting": trained.waited_s / seconds,
            "seconds": time.perf_counter() - began,
        }
        if not np.isfinite(row["loss"]):
            batches = data.batches(rows, config.batch, mesh, drop_last=True)
            where = _first_failure(progress.state, batches, learning_rate, key, options)
            raise FloatingPointError(
                f"the loss is {loss} in epoch {number}, {where}; lower --learning-rate or raise --temperature"
            )
        if not np.isfinite(row["validation_loss"]):
            raise FloatingPointError(
                f"the validation loss is {validation_loss} in epoch {number}; lower --learning-rate or raise "
                "--temperature"
            )
        patience = progress.patience.update(row["validation_loss"])
        plateau = progress.plateau.update(
            row["loss"], factor=config.plateau_factor, patience=config.plateau_patience
        )
        best = (trained.state, number) if patience.since == 0 else (progress.best, progress.best_epoch)
        progress = Progress(number, trained.state, *best, patience, plateau)
        yield progress, row
