"""Fine-tuning: an encoder, pre-trained or fresh, frozen or tuned, and a classifier on few labels."""

import time
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh
from jaxtyping import Float, Int

from pcl_jax.arrays import Array, Ragged
from pcl_jax.batches import gather, named_key, order
from pcl_jax.config import Finetuning
from pcl_jax.encoders import Classifier
from pcl_jax.metrics import uar
from pcl_jax.training.devices import everywhere
from pcl_jax.training.fold_data import FoldData
from pcl_jax.training.networks import encode, init_encoder
from pcl_jax.training.state import TrainState, Variables, apply_gradient, start
from pcl_jax.training.stopping import Patience, Plateau

_EVALUATION_BATCH = 256
"""Utterances per evaluation step; no result depends on it."""


class Model(NamedTuple):
    """One view's encoder and classifier, without parameters. Hashable: static under jit."""

    view: str
    encoder: nn.Module
    classifier: Classifier


class Scale(NamedTuple):
    """What the representation is scaled by before the classifier; 0 and 1 leave it as it is."""

    mean: Float[Array, " d"] | float = 0.0
    scale: Float[Array, " d"] | float = 1.0


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
    dropout: bool,
) -> tuple[TrainState, jax.Array]:
    """One Adam step on the mean cross-entropy of the utterances with a label >= 0.

    `state.params | frozen` are all the parameters; those of `frozen` stay.
    """

    def loss(params):
        key_now = jax.random.fold_in(key, state.step)
        logits = _logits(model, params | frozen, features, scale, key=key_now if dropout else None)
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


@partial(jax.jit, static_argnames=(*_STATIC, "dropout"))
def _train(
    state, frozen, packed, labels, rows, scale, learning_rate, key, *, capacity, full_length, model, dropout
):
    features = gather(packed, rows, capacity=dict(capacity), full_length=full_length)[model.view]
    rows = rows.reshape(-1)
    return train_step(
        state,
        frozen,
        features,
        jnp.where(rows >= 0, labels[rows], -1),
        scale,
        learning_rate,
        key,
        model=model,
        dropout=dropout,
    )


@partial(jax.jit, static_argnames=_STATIC)
def _predict(params, scale, packed, rows, *, capacity, full_length, model):
    features = gather(packed, rows, capacity=dict(capacity), full_length=full_length)[model.view]
    return _logits(model, params, features, scale).argmax(axis=-1)


@partial(jax.jit, static_argnames=_STATIC)
def _represent(params, packed, rows, *, capacity, full_length, model):
    features = gather(packed, rows, capacity=dict(capacity), full_length=full_length)[model.view]
    return encode(model.encoder, params, features)


def represent(
    data: FoldData, model: Model, params: Variables, rows: Int[np.ndarray, " n"], mesh: Mesh
) -> Float[np.ndarray, "n d"]:
    """Representations of these rows by an encoder with the given parameters, dropout off."""
    return _pass(data.of_view(model.view), model, rows, mesh, partial(_represent, params))


def _pass(data: FoldData, model: Model, rows, mesh: Mesh, function) -> np.ndarray:
    """One result per row, in their order, every row exactly once."""
    results = [
        (
            placed,
            function(
                data.features, placed, capacity=capacity, full_length=data.layout.full_length, model=model
            ),
        )
        for placed, capacity, _ in data.batches(rows, _EVALUATION_BATCH, mesh, drop_last=False)
    ]
    return np.concatenate([result[placed.ravel() >= 0] for placed, result in jax.device_get(results)])


def finetune(
    data: FoldData,
    model: Model,
    rows: Int[np.ndarray, " n"],
    config: Finetuning,
    *,
    pretrained: Variables | None,
    frozen: bool,
    repeat: int,
    seed: int,
    mesh: Mesh,
) -> Finetuned:
    """Train a classifier, and the encoder unless frozen, on the labelled `rows`; keep the best epoch.

    Best by the UAR of the labelled validation utterances; the test session is predicted once, at the
    end. A repeat has its own classifier, and its own encoder where that starts fresh.

    Args:
        pretrained: encoder parameters; None trains the same network from scratch (supervised).
        frozen: the encoder stays as it is; its dropout is on unless `config.frozen_dropout` is off.
        repeat: names this run's random draws, together with seed and fold.

    Raises:
        ValueError: no labelled utterance to train on, or to validate with.
        FloatingPointError: the loss is no longer finite.
    """
    data = data.of_view(model.view)
    validation, test = data.labelled(data.validation), data.labelled(data.test)
    for name, some in (("training", rows), ("validation", validation), ("test", test)):
        if not len(some):
            raise ValueError(
                f"fold {data.fold.test_session} has no labelled {name} utterance; choose other --targets"
            )
    names = (data.fold.test_session, repeat)
    encoder = pretrained
    if encoder is None:
        encoder = init_encoder(model.encoder, data.example()[model.view], model.view, seed=seed, names=names)[
            0
        ]
    scale = Scale()
    one = represent(data, model, encoder, data.train[:1], mesh)
    classifier = model.classifier.init(named_key(seed, "classifier", model.view, *names), one)["params"]
    if config.standardise:
        seen = represent(data, model, encoder, data.train, mesh)
        scale = Scale(seen.mean(axis=0), 1 / np.maximum(seen.std(axis=0), 1e-6))
    params = jax.device_put({"encoder": encoder, "classifier": classifier}, everywhere(mesh))
    fixed = {"encoder": params.pop("encoder")} if frozen else {}
    state, best, best_epoch = start(params, {}), params | fixed, 0
    patience, plateau, history = Patience(), Plateau(), []
    labels = jax.device_put(jnp.asarray(data.labels), everywhere(mesh))
    key = named_key(seed, "finetuning dropout", model.view, *names)
    shared = {"full_length": data.layout.full_length, "model": model}
    dropout = not frozen or config.frozen_dropout

    for epoch in range(1, config.epochs + 1):
        began = time.perf_counter()
        learning_rate = config.learning_rate * plateau.scale
        losses = []
        shuffled = rows[order(seed, epoch, len(rows), *names)]
        for placed, capacity, count in data.batches(shuffled, config.batch, mesh, drop_last=False):
            state, loss = _train(
                state, fixed, data.features, labels, placed, scale, learning_rate, key,
                capacity=capacity, dropout=dropout, **shared,
            )  # fmt: skip
            losses.append((count, loss))
        predicted = _pass(data, model, validation, mesh, partial(_predict, state.params | fixed, scale))
        score = uar(data.labels[validation], predicted, model.classifier.classes)
        train_loss = float(np.average([v for _, v in losses], weights=[c for c, _ in losses]))
        if not np.isfinite(train_loss):
            raise FloatingPointError(f"the loss is {train_loss} in epoch {epoch}; lower --learning-rate")
        patience = patience.seen(1 - score)
        plateau = plateau.seen(1 - score, factor=config.plateau_factor, patience=config.plateau_patience)
        if patience.since == 0:
            best, best_epoch = state.params | fixed, epoch
        history.append(
            {
                "epoch": epoch,
                "loss": train_loss,
                "validation_uar": score,
                "learning_rate": learning_rate,
                "seconds": time.perf_counter() - began,
            }
        )
        if patience.since >= config.patience:
            break

    best_prediction = partial(_predict, best, scale)
    return Finetuned(
        best,
        scale,
        _pass(data, model, validation, mesh, best_prediction),
        _pass(data, model, test, mesh, best_prediction),
        best_epoch,
        history,
    )
