"""Fine-tuning: an encoder, pre-trained or fresh, frozen or tuned, and a classifier on few labels.

Runs that differ in their subset, start and random draws alone train as one `vmap`ped program (axis `r`).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int

from pcl_jax.arrays import Array, Ragged
from pcl_jax.batches import gather, named_key, order, seeded
from pcl_jax.config import Finetuning
from pcl_jax.devices import everywhere, fetch, put
from pcl_jax.encoders import Classifier, FunctionalsEncoder
from pcl_jax.fold_data import FoldData
from pcl_jax.metrics import uar
from pcl_jax.training.networks import encode
from pcl_jax.training.state import TrainState, Variables, apply_gradient, start
from pcl_jax.training.stopping import Patience, Plateau


class Model(NamedTuple):
    """One view's encoder and classifier, without parameters. Hashable: static under jit."""

    view: str
    encoder: nn.Module
    classifier: Classifier


class Given(nn.Module):
    """The encoder of representations that are there already."""

    def __call__(self, features: Float[Array, "n d"], *, train: bool = False) -> Float[Array, "n d"]:
        return jnp.asarray(features)


class Scale(NamedTuple):
    """What the representation is scaled by before the classifier; 0 and 1 leave it as it is."""

    mean: Float[Array, "..."] | float = 0.0
    scale: Float[Array, "..."] | float = 1.0


class Run(NamedTuple):
    """What is a fine-tuning's own among those that train at once."""

    rows: Int[np.ndarray, " n"]
    """Labelled utterances to train on."""
    repeat: int
    """Names its random draws, together with seed and fold."""
    pretrained: Variables | None = None
    """Encoder parameters; None trains the same network from scratch (supervised)."""


class Finetuned(NamedTuple):
    """The outcome of one run, at its best validation UAR."""

    params: Variables
    scale: Scale
    validation: Int[np.ndarray, " n"]
    """Predicted classes of the labelled validation utterances."""
    test: Int[np.ndarray, " n"]
    best_epoch: int
    history: list[dict[str, Any]]


def train_step(
    state: TrainState,
    frozen: Variables,
    features: Ragged | Float[Array, "n d"],
    labels: Int[Array, " n"],
    scale: Scale,
    learning_rate: jax.Array | float,
    key: jax.Array,
    *,
    model: Model,
) -> tuple[TrainState, jax.Array]:
    """One Adam step on the mean cross-entropy of the utterances with a label >= 0, dropout on.

    `state.params | frozen` are all the parameters; those of `frozen` stay.
    """

    def loss(params):
        key_now = jax.random.fold_in(key, state.step)
        logits = _logits(model, params | frozen, features, scale, key=key_now)
        present = labels >= 0
        errors = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
        return jnp.where(present, errors, 0).sum() / jnp.maximum(present.sum(), 1)

    value, gradient = jax.value_and_grad(loss)(state.params)
    return apply_gradient(state, gradient, state.statistics, learning_rate), value


def _logits(
    model: Model,
    params: Variables,
    features: Ragged | Array,
    scale: Scale,
    *,
    key: jax.Array | None = None,
) -> Float[Array, "n c"]:
    representation = encode(model.encoder, params["encoder"], features, key=key)
    scaled = (representation - scale.mean) * scale.scale
    return cast(jax.Array, model.classifier.apply({"params": params["classifier"]}, scaled))


_STATIC = ("capacity", "full_length", "model")


@partial(jax.jit, static_argnames=_STATIC)
def _train(
    states, frozen, packed, labels, rows, scales, learning_rates, keys, *, capacity, full_length, model
):
    """A step of each run on its own batch."""

    def one(state, rows, scale, learning_rate, key):
        features = gather(packed, rows, capacity=dict(capacity), full_length=full_length)[model.view]
        rows = rows.reshape(-1)
        own = jnp.where(rows >= 0, labels[rows], -1)
        return train_step(state, frozen, features, own, scale, learning_rate, key, model=model)

    return jax.vmap(one)(states, rows, scales, learning_rates, keys)


@partial(jax.jit, static_argnames=_STATIC)
def _predict(params, frozen, scales, packed, rows, *, capacity, full_length, model):
    """`[n, r]`; features are gathered once for all runs."""
    features = gather(packed, rows, capacity=dict(capacity), full_length=full_length)[model.view]

    def one(run):
        params, scale = run
        return _logits(model, params | frozen, features, scale).argmax(axis=-1)

    several = len(jax.tree.leaves(params)[0]) > 1
    if several and jax.default_backend() == "cpu":  # small ones: run after run, layers stay in the cache
        return jax.lax.map(one, (params, scales)).T
    return jax.vmap(one, out_axes=1)((params, scales))


@partial(jax.jit, static_argnames=_STATIC)
def _represent(params, packed, rows, *, capacity, full_length, model):
    features = gather(packed, rows, capacity=dict(capacity), full_length=full_length)[model.view]
    return encode(model.encoder, params, features)


@partial(jax.jit, static_argnames="model")
def _fresh(encoder_keys, classifier_keys, example, *, model):
    """Parameters of each run before any training."""

    def one(encoder_key, classifier_key):
        representation, variables = model.encoder.init_with_output(encoder_key, example)
        classifier = model.classifier.init(classifier_key, representation)
        return {"encoder": variables["params"], "classifier": classifier["params"]}

    return jax.vmap(one)(encoder_keys, classifier_keys)


@jax.jit
@jax.vmap
def _start(params: Variables) -> TrainState:
    """The state of each run before any step."""
    return start(params, {})


@jax.jit
def _better(improved: Bool[Array, " r"], new: Variables, old: Variables) -> Variables:
    """The new parameters of those runs that improved."""
    return jax.tree.map(lambda n, o: jnp.where(improved.reshape(-1, *(1,) * (n.ndim - 1)), n, o), new, old)


def represent(
    data: FoldData, model: Model, params: Variables, rows: Int[np.ndarray, " n"], mesh: Mesh
) -> Float[np.ndarray, "n d"]:
    """Representations of these rows by an encoder with the given parameters, dropout off."""
    return _pass(data.of_view(model.view), model, rows, mesh, partial(_represent, params))


def _pass(data: FoldData, model: Model, rows, mesh: Mesh, function) -> np.ndarray:
    """One result per row, in their order, every row exactly once."""
    places = _dealt(data.lengths[model.view][rows]) if data.lengths else np.arange(len(rows))[None]
    dealt = np.where(places >= 0, rows[places], -1).ravel()
    results = [
        (
            batch.rows,
            data.pace(
                function(
                    batch.features,
                    batch.rows,
                    capacity=batch.capacity,
                    full_length=data.layout.full_length,
                    model=model,
                )
            ),
        )
        for batch in data.batches(dealt, places.shape[1], mesh, drop_last=False)
    ]
    found = np.concatenate([result[placed.ravel() >= 0] for placed, result in fetch(results)])
    return found[np.argsort(places[places >= 0])]


def _dealt(lengths: Int[np.ndarray, " n"]) -> Int[np.ndarray, "batches b"]:
    """Places of these utterances in batches that are all about equally long, so that one program serves them;
    -1 where a batch has one less. No result depends on it.

    >>> _dealt(np.arange(130)).shape
    (3, 44)
    """
    # Of 64, the layers of a spectrogram stay in a CPU's cache.
    size = 64 if jax.default_backend() == "cpu" else 256
    count = -(-len(lengths) // size)
    places = np.full(-(-len(lengths) // count) * count, -1)
    places[: len(lengths)] = np.argsort(-lengths, kind="stable")
    batches = places.reshape(-1, count).T
    # Not the longest first, which would be the first device's.
    return batches[:, seeded(0, "dealt").permutation(batches.shape[1])]


class _Reading(NamedTuple):
    """What training or evaluation reads, with which network, and the parameters that do not train."""

    data: FoldData
    model: Model
    frozen: Variables


def at_once(model: Model, *, frozen: bool) -> int:
    """How many runs train as one program at most; no result depends on it.

    On a CPU, convolutions and products with another kernel for each run are slower in one program than run
    after run; small ones, of vectors or of a classifier alone, leave it waiting for the next step.
    """
    small = frozen or isinstance(model.encoder, FunctionalsEncoder)
    return 32 if small or jax.default_backend() != "cpu" else 1


@dataclass
class _Course:
    """How one run fares."""

    patience: Patience = field(default_factory=Patience)
    plateau: Plateau = field(default_factory=Plateau)
    best_epoch: int = 0
    validation: Int[np.ndarray, " n"] | None = None
    history: list[dict[str, Any]] = field(default_factory=list)

    def seen(self, row: dict[str, Any], predicted: Int[np.ndarray, " n"], config: Finetuning) -> bool:
        """After one more epoch; whether it was the best."""
        self.history.append(row)
        error = 1 - row["validation_uar"]
        self.patience = self.patience.seen(error)
        self.plateau = self.plateau.seen(
            error, factor=config.plateau_factor, patience=config.plateau_patience
        )
        if better := self.patience.since == 0:
            self.best_epoch, self.validation = row["epoch"], predicted
        return better

    def over(self, config: Finetuning) -> bool:
        return self.patience.since >= config.patience


def finetune(
    data: FoldData,
    model: Model,
    runs: Sequence[Run],
    config: Finetuning,
    *,
    frozen: bool,
    seed: int,
    mesh: Mesh,
) -> list[Finetuned]:
    """Train a classifier, and the encoder unless frozen, on the labelled rows of each run; keep its best
    epoch.

    Best by the UAR of the labelled validation utterances; the test session is predicted once, at the
    end. A repeat has its own classifier, and its own encoder where that starts fresh. Runs train at once,
    until all have ended; the outcome of each is what it would have been alone.

    Args:
        runs: with equally many rows.
        frozen: the encoder, one and the same for all runs, stays as it is; in training its dropout is on
            unless `config.frozen_dropout` is off.

    Raises:
        ValueError: no labelled utterance to train on, or to validate with.
        FloatingPointError: the loss is no longer finite.
    """
    data, fold = data.of_view(model.view), data.fold.test_session
    validation, test = data.labelled(data.validation), data.labelled(data.test)
    for name, some in (("training", runs[0].rows), ("validation", validation), ("test", test)):
        if not len(some):
            raise ValueError(f"fold {fold} has no labelled {name} utterance; choose other --targets")
    params, scales = _beginning(data, model, runs, config, seed=seed, mesh=mesh)
    training = evaluation = _Reading(data, model, {})
    if frozen:
        # Without dropout a frozen encoder is a fixed map: what it makes of an utterance is a feature.
        encoder = jax.tree.map(lambda leaf: leaf[0], params.pop("encoder"))
        vectors = represent(data, model, encoder, data.all, mesh)
        training = _Reading(data, model, {"encoder": encoder})
        evaluation = _Reading(
            data.with_vectors(vectors, mesh), model._replace(encoder=Given()), {"encoder": {}}
        )
        if not config.frozen_dropout:
            training = evaluation

    def predict(params, rows):
        at, model, fixed = evaluation
        return _pass(at, model, rows, mesh, lambda *now, **how: _predict(params, fixed, scales, *now, **how))

    states, best = _start(params), params
    labels = put(data.labels.astype(np.int32), everywhere(mesh))
    keys = jnp.stack([named_key(seed, "finetuning dropout", model.view, fold, run.repeat) for run in runs])
    courses = [_Course() for _ in runs]
    for epoch in range(1, config.epochs + 1):
        began = time.perf_counter()
        rates = np.array([config.learning_rate * course.plateau.scale for course in courses], np.float32)
        shuffled = np.stack([run.rows[order(seed, epoch, len(run.rows), fold, run.repeat)] for run in runs])
        losses, counts = [], []
        for batch in training.data.batches(shuffled, config.batch, mesh, drop_last=False):
            states, loss = _train(
                states, training.frozen, batch.features, labels, batch.rows, scales, rates, keys,
                capacity=batch.capacity, full_length=data.layout.full_length, model=training.model,
            )  # fmt: skip
            losses.append(training.data.pace(loss))
            counts.append(batch.utterances)
        predicted = predict(states.params, validation).T
        train_losses = np.average(jax.device_get(losses), weights=counts, axis=0)
        seconds = (time.perf_counter() - began) / len(runs)
        improved = np.zeros(len(runs), bool)
        for i, course in enumerate(courses):
            if course.over(config):
                continue  # trains on in vain until all have ended
            loss = float(train_losses[i])
            if not np.isfinite(loss):
                step = 1 + int(np.argmin(np.isfinite(np.array(jax.device_get(losses))[:, i])))
                raise FloatingPointError(
                    f"the loss of {model.view}, repeat {runs[i].repeat}, is {loss} in epoch {epoch} from "
                    f"step {step} on; lower --learning-rate"
                )
            row = {
                "epoch": epoch,
                "loss": loss,
                "validation_uar": uar(data.labels[validation], predicted[i], model.classifier.classes),
                "learning_rate": float(rates[i]),
                "seconds": seconds,
            }
            improved[i] = course.seen(row, predicted[i], config)
        best = _better(improved, states.params, best)
        if all(course.over(config) for course in courses):
            break

    tested = predict(best, test).T
    best, scales = jax.device_get((best, scales))
    outcomes = []
    for i, course in enumerate(courses):
        assert course.validation is not None  # the first epoch is better than none
        own, scale = jax.tree.map(lambda leaf, i=i: leaf[i], (best, scales))
        outcomes.append(
            Finetuned(
                own | training.frozen if frozen else own,
                scale,
                course.validation,
                tested[i],
                course.best_epoch,
                course.history,
            )
        )
    return outcomes


def _beginning(
    data: FoldData, model: Model, runs: Sequence[Run], config: Finetuning, *, seed: int, mesh: Mesh
) -> tuple[Variables, Scale]:
    """Parameters and scale of each run before the first epoch, `[r, ...]`, on all devices."""
    names = [(model.view, data.fold.test_session, run.repeat) for run in runs]
    params = _fresh(
        jnp.stack([named_key(seed, "encoder", *name) for name in names]),
        jnp.stack([named_key(seed, "classifier", *name) for name in names]),
        data.example()[model.view],
        model=model,
    )
    given = [i for i, run in enumerate(runs) if run.pretrained is not None]
    for i in given:
        params["encoder"] = jax.tree.map(
            lambda leaf, own, i=i: leaf.at[i].set(own), params["encoder"], runs[i].pretrained
        )
    scales = Scale(np.zeros(len(runs), np.float32), np.ones(len(runs), np.float32))
    if config.standardise:
        seen = [
            represent(
                data, model, jax.tree.map(lambda leaf, i=i: leaf[i], params["encoder"]), data.train, mesh
            )
            for i in range(len(runs))
        ]
        scales = Scale(
            np.stack([x.mean(axis=0) for x in seen]),
            np.stack([1 / np.maximum(x.std(axis=0), 1e-6) for x in seen]),
        )
    return put((params, scales), everywhere(mesh))
