"""Fine-tuning: an encoder, pre-trained or fresh, frozen or tuned, and a classifier on few labels.

Runs that differ in their subset, start and random draws alone train as one program (axis `r`), and devices
share them out: each trains its own.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int

from pcl_jax.arrays import Array, Variables
from pcl_jax.config import Finetuning
from pcl_jax.corpora.utterance import NotPossible
from pcl_jax.data.batches import gather, order
from pcl_jax.data.fold import FoldData
from pcl_jax.data.ragged import Ragged
from pcl_jax.devices import fetch, put, replicated, sharded
from pcl_jax.evaluation.metrics import uar
from pcl_jax.models.encoders import FunctionalsEncoder
from pcl_jax.models.networks import ClassifierNetwork, Precomputed, encode, init
from pcl_jax.rng import named_key
from pcl_jax.training.epoch import train_epoch
from pcl_jax.training.optimiser import TrainState, apply_gradient, init_state
from pcl_jax.training.represent import map_utterances, represent
from pcl_jax.training.stopping import Patience, Plateau


class Scale(NamedTuple):
    """What the representation is scaled by before the classifier; 0 and 1 leave it as it is."""

    mean: Float[Array, "..."] | float = 0.0
    scale: Float[Array, "..."] | float = 1.0

    @classmethod
    def of(cls, seen: Float[np.ndarray, "n d"]) -> "Scale":
        """To mean zero and standard deviation one."""
        return cls(seen.mean(axis=0), 1 / np.maximum(seen.std(axis=0), 1e-6))


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
    validation: Float[np.ndarray, "n c"]
    """Log-probabilities of the classes for the labelled validation utterances."""
    test: Float[np.ndarray, "m c"]
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
    model: ClassifierNetwork,
) -> tuple[TrainState, dict[str, jax.Array]]:
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
    return apply_gradient(state, gradient, state.statistics, learning_rate), {"loss": value}


def _logits(
    model: ClassifierNetwork,
    params: Variables,
    features: Ragged | Array,
    scale: Scale,
    key: jax.Array | None = None,
) -> Float[Array, "n c"]:
    representation = encode(model.encoder, params["encoder"], features, key=key)
    scaled = (representation - scale.mean) * scale.scale
    return cast(jax.Array, model.classifier.apply({"params": params["classifier"]}, scaled))


def _map_runs(one: Callable, mesh: Mesh, runs: tuple, *shared: Any, in_turn: bool = False) -> Any:
    """`one(*run, *shared)` of each run, on the device whose run it is; all of a device's at once, or in turn.

    A single run has no axis of its own: XLA's gradients of a batched convolution or scan are slower on a CPU.
    """

    def on_one_device(runs, shared):
        if len(jax.tree.leaves(runs)[0]) == 1:
            run = jax.tree.map(lambda leaf: leaf[0], runs)
            return jax.tree.map(lambda leaf: leaf[None], one(*run, *shared))
        map_ = jax.lax.map if in_turn else lambda each, runs: jax.vmap(each)(runs)
        return map_(lambda run: one(*run, *shared), runs)

    specs = sharded(mesh).spec, replicated(mesh).spec
    # Unchecked: the scans of `mix_dense` begin with zeros that are no device's own.
    whole = jax.shard_map(on_one_device, mesh=mesh, in_specs=specs, out_specs=specs[0], check_vma=False)
    return whole(runs, shared)


_STATIC = ("capacity", "full_length", "model")


@partial(jax.jit, static_argnames=(*_STATIC, "mesh"))
def _train(
    states, packed, rows, scales, learning_rates, keys, frozen, labels,
    *, capacity, full_length, model, mesh,
):  # fmt: skip
    """A step of each run on its own batch."""

    def one(state, rows, scale, learning_rate, key, frozen, packed, labels):
        features = gather(packed, rows, capacity=dict(capacity), full_length=full_length)[model.view]
        rows = rows.reshape(-1)
        own = jnp.where(rows >= 0, labels[rows], -1)
        return train_step(state, frozen, features, own, scale, learning_rate, key, model=model)

    return _map_runs(one, mesh, (states, rows, scales, learning_rates, keys), frozen, packed, labels)


@partial(jax.jit, static_argnames=(*_STATIC, "mesh"))
def _predict(params, frozen, scales, packed, rows, *, capacity, full_length, model, mesh):
    """Log-probabilities `[n, r, c]`; a device gathers features once for all its runs."""

    def one(params, scale, frozen, features):
        return jax.nn.log_softmax(_logits(model, params | frozen, features, scale))

    features = gather(packed, rows, capacity=dict(capacity), full_length=full_length)[model.view]
    in_turn = jax.default_backend() == "cpu"  # the layers of one run stay in the cache
    return _map_runs(one, mesh, (params, scales), frozen, features, in_turn=in_turn).swapaxes(0, 1)


def init_params(model: ClassifierNetwork, example: Ragged | Array, *names: int, seed: int) -> Variables:
    """Parameters before any training, drawn by the seed, the view and `names` (fold and repeat)."""
    keys = (named_key(seed, part, model.view, *names) for part in ("encoder", "classifier"))
    encoder, classifier = init(model.encoder, model.classifier, example, *keys)
    return {"encoder": encoder, "classifier": classifier["params"]}


def _stacked(of_runs: Sequence[Any]) -> Any:
    """`[r, ...]`"""
    return jax.tree.map(lambda *leaves: np.stack(leaves, dtype=np.float32), *of_runs)


@partial(jax.jit, static_argnames="mesh")
def _start(params: Variables, *, mesh: Mesh) -> TrainState:
    """The state of each run before any step, where `_train` leaves it."""
    return _map_runs(lambda params: init_state(params, {}), mesh, (params,))


@jax.jit
@jax.vmap
def _better(improved: Bool[Array, ""], new: Variables, old: Variables) -> Variables:
    """The new parameters of those runs that improved."""
    return jax.tree.map(partial(jnp.where, improved), new, old)


class _Inputs(NamedTuple):
    """What training or evaluation reads, with which network, and the parameters that do not train."""

    data: FoldData
    model: ClassifierNetwork
    frozen: Variables


def max_runs_per_program(data: FoldData, model: ClassifierNetwork, mesh: Mesh, *, frozen: bool) -> int:
    """How many runs train as one program at most; no result depends on it.

    One on each device, where a CPU is slower at convolutions and products with another kernel for each run
    than run after run, and where features come from disk, which are those of all runs' batches. Else more:
    where the encoder is small or stays as it is, a run alone would leave the device idle between its steps.
    """
    small = frozen or isinstance(model.encoder, FunctionalsEncoder)
    several = (small or jax.default_backend() != "cpu") and model.view not in data.on_disk
    return mesh.size * (32 if several else 1)


@dataclass
class _RunProgress:
    """How one run fares."""

    patience: Patience = field(default_factory=Patience)
    plateau: Plateau = field(default_factory=Plateau)
    best_epoch: int = 0
    validation: Float[np.ndarray, "n c"] | None = None
    history: list[dict[str, Any]] = field(default_factory=list)

    def update(self, row: dict[str, Any], predicted: Float[np.ndarray, "n c"], config: Finetuning) -> bool:
        """After one more epoch; whether it was the best."""
        self.history.append(row)
        error = 1 - row["validation_uar"]
        self.patience = self.patience.update(error)
        self.plateau = self.plateau.update(
            error, factor=config.plateau_factor, patience=config.plateau_patience
        )
        if better := self.patience.stalled == 0:
            self.best_epoch, self.validation = row["epoch"], predicted
        return better

    def over(self, config: Finetuning) -> bool:
        return self.patience.stalled >= config.patience


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
    """Train a classifier, and the encoder unless frozen, on the labelled rows of each run; keep its best
    epoch.

    Best by the UAR of the labelled validation utterances; the test session is predicted once, at the
    end. A repeat has its own classifier, and its own encoder where that starts fresh. Runs train at once,
    each on one of the devices, until all have ended; but for rounding, the outcome of each is what it would
    have been alone.

    Args:
        runs: with equally many rows.
        frozen: the encoder, one and the same for all runs, stays as it is; in training its dropout is on
            unless `config.frozen_dropout` is off.

    Raises:
        NotPossible: no labelled utterance to train on, or to validate with.
        FloatingPointError: the loss is no longer finite.
    """
    data, fold = data.select_view(model.view), data.fold.test_session
    validation, test = data.labelled(data.validation), data.labelled(data.test)
    for name, some in (("training", runs[0].rows), ("validation", validation), ("test", test)):
        if not len(some):
            raise NotPossible(f"fold {fold} has no labelled {name} utterance; choose other --targets")
    example = data.example()[model.view]
    starts = fetch([init_params(model, example, fold, run.repeat, seed=seed) for run in runs])
    for params, run in zip(starts, runs, strict=True):
        if run.pretrained is not None:
            params["encoder"] = run.pretrained
    apart, fixed = data.undivided(), {}
    training = evaluation = _Inputs(apart, model, {})
    scales = [Scale() for _ in runs]
    if frozen:
        # Without dropout a frozen encoder is a fixed map: what it makes of an utterance is a feature.
        fixed = {"encoder": [params.pop("encoder") for params in starts][-1]}
        on_devices = put(fixed, replicated(mesh))
        vectors = represent(data, model, on_devices["encoder"], data.every_row, mesh)
        evaluation = _Inputs(
            apart.with_vectors(vectors, mesh), model._replace(encoder=Precomputed()), {"encoder": {}}
        )
        training = _Inputs(apart, model, on_devices) if config.frozen_dropout else evaluation
        if config.standardise:
            scales = [Scale.of(vectors[data.train])] * len(runs)
    elif config.standardise:
        seen = (represent(data, model, params["encoder"], data.train, mesh) for params in starts)
        scales = [Scale.of(vectors) for vectors in seen]
    asked, nobody = len(runs), -len(runs) % mesh.size
    each = [*zip(runs, starts, scales, strict=True)]
    runs, starts, scales = zip(*each, *each[-1:] * nobody, strict=True)  # as many on each device
    params, scales = (put(_stacked(of_runs), sharded(mesh)) for of_runs in (starts, scales))

    def predict(params, rows):
        at, model, its_own = evaluation
        return map_utterances(
            at, rows, mesh, partial(_predict, params, its_own, scales, model=model, mesh=mesh)
        ).swapaxes(0, 1)

    states, best = _start(params, mesh=mesh), params
    labels = put(data.labels.astype(np.int32), replicated(mesh))
    keys = jnp.stack([named_key(seed, "finetuning dropout", model.view, fold, run.repeat) for run in runs])
    courses = [_RunProgress() for _ in runs]
    for number in range(1, config.epochs + 1):
        began = time.perf_counter()
        rates = np.array([config.learning_rate * course.plateau.scale for course in courses], np.float32)
        shuffled = np.stack([run.rows[order(seed, number, len(run.rows), fold, run.repeat)] for run in runs])
        batches = training.data.batches(shuffled, config.batch, mesh, drop_last=False)
        trained = train_epoch(
            _train, states, training.data, batches, scales, rates, keys, training.frozen, labels,
            model=training.model, mesh=mesh,
        )  # fmt: skip
        states = trained.state
        predicted = predict(states.params, validation)
        seconds = (time.perf_counter() - began) / asked
        improved = np.zeros(len(runs), bool)
        for i, course in enumerate(courses):
            if course.over(config):
                continue  # trains on in vain until all have ended
            loss = float(trained.metrics["loss"][i])
            if not np.isfinite(loss):
                step = 1 + int(np.argmin(np.isfinite(trained.losses[:, i])))
                raise FloatingPointError(
                    f"the loss of {model.view}, repeat {runs[i].repeat}, is {loss} in epoch {number} from "
                    f"step {step} on; lower --learning-rate"
                )
            row = {
                "epoch": number,
                "loss": loss,
                "validation_uar": uar(
                    data.labels[validation], predicted[i].argmax(axis=1), model.classifier.classes
                ),
                "learning_rate": float(rates[i]),
                "seconds": seconds,
            }
            improved[i] = course.update(row, predicted[i], config)
        best = _better(improved, states.params, best)
        if all(course.over(config) for course in courses):
            break

    tested = predict(best, test)
    best, scales = fetch((best, scales))
    outcomes = []
    for i, course in enumerate(courses[:asked]):
        assert course.validation is not None  # the first epoch is better than none
        own, scale = jax.tree.map(lambda leaf, i=i: leaf[i], (best, scales))
        outcome = own | fixed, scale, course.validation, tested[i], course.best_epoch, course.history
        outcomes.append(Finetuned(*outcome))
    return outcomes
