"""The networks of a run, as plain functions of nested dictionaries of parameters.

`params = {"encoder": {view: ...}, "head": {view: ...}}`, so that freezing, counting and saving an
encoder are dictionary look-ups.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Bool, Float

from pcl_jax.arrays import Array, Variables
from pcl_jax.data.ragged import Ragged
from pcl_jax.models.heads import Classifier, ProjectionHead
from pcl_jax.rng import named_key

Features = Mapping[str, Ragged | Array]


@dataclass(frozen=True)
class PretrainingNetworks:
    """An encoder and a projection head for each view, without parameters; hashable, static under jit."""

    encoders: tuple[tuple[str, nn.Module], ...]
    head: ProjectionHead = field(default_factory=ProjectionHead)

    @property
    def views(self) -> tuple[str, ...]:
        """The names of the views, in the order of the encoders."""
        return tuple(view for view, _ in self.encoders)

    def keys(self, *names: int, seed: int) -> dict[str, tuple[jax.Array, jax.Array]]:
        """Return the keys that draw the encoder and the head of each view.

        They depend on the seed, the view's name and `names` (the fold) alone.
        """
        return {
            view: (named_key(seed, "encoder", view, *names), named_key(seed, "head", view, *names))
            for view in self.views
        }

    def init(
        self, features: Features, keys: Mapping[str, tuple[jax.Array, jax.Array]]
    ) -> tuple[Variables, Variables]:
        """Draw parameters and batch statistics from `keys`; the features give the shapes."""
        params: dict[str, dict[str, Any]] = {"encoder": {}, "head": {}}
        statistics = {}
        for view, encoder in self.encoders:
            example, (encoder_key, head_key) = features[view], keys[view]
            params["encoder"][view] = init_encoder(encoder, example, encoder_key)
            variables = init_head(self.head, head_key, width=representation_width(encoder, example))
            params["head"][view] = variables["params"]
            statistics[view] = variables["batch_stats"]
        return params, statistics

    def project(
        self,
        params: Variables,
        statistics: Variables,
        features: Features,
        mask: Bool[Array, " n"] | None = None,
        *,
        key: jax.Array | None = None,
    ) -> tuple[dict[str, Float[Array, "n d"]], Variables]:
        """Return the projections z of each view, and the new batch statistics.

        With a key: training mode. Rows where the mask is False are padding: they take no part in the batch
        statistics, and their projections have no meaning.
        """
        projections, new_statistics = {}, {}
        for index, (view, encoder) in enumerate(self.encoders):
            view_key = None if key is None else jax.random.fold_in(key, index)
            representation = encode(encoder, params["encoder"][view], features[view], key=view_key)
            projections[view], updated = self.head.apply(
                {"params": params["head"][view], "batch_stats": statistics[view]},
                representation,
                mask,
                train=key is not None,
                mutable=["batch_stats"],
            )
            new_statistics[view] = updated["batch_stats"]
        return projections, new_statistics


class ClassifierNetwork(NamedTuple):
    """The encoder and classifier of one view, without parameters; hashable, static under jit."""

    view: str
    encoder: nn.Module
    classifier: Classifier


class Scale(NamedTuple):
    """An affine map of the representation before the classifier; 0 and 1 leave it as it is."""

    mean: Float[Array, "*r d"] | float = 0.0
    scale: Float[Array, "*r d"] | float = 1.0
    """The reciprocal of the standard deviation."""

    @classmethod
    def fit(cls, representations: Float[np.ndarray, "n d"]) -> "Scale":
        """Return the map of these representations to mean zero and standard deviation one."""
        return cls(representations.mean(axis=0), 1 / np.maximum(representations.std(axis=0), 1e-6))


def compute_logits(
    model: ClassifierNetwork,
    params: Variables,
    scale: Scale,
    features: Ragged | Float[Array, "n d"],
    key: jax.Array | None = None,
) -> Float[Array, "n c"]:
    """Return the logits of a batch. With a key: training mode, whose dropout is drawn from it."""
    representation = encode(model.encoder, params["encoder"], features, key=key)
    scaled = (representation - scale.mean) * scale.scale
    return cast(jax.Array, model.classifier.apply({"params": params["classifier"]}, scaled))


def predict(
    model: ClassifierNetwork, params: Variables, scale: Scale, features: Ragged | Float[Array, "n d"]
) -> Float[Array, "n c"]:
    """Return the log-probabilities of a batch by a fine-tuned model, without dropout.

    Args:
        model: The networks.
        params: The parameters of `encoder` and `classifier`.
        scale: The map of the representation, fitted when the model was trained.
        features: Normalised features: `[n, d]` of a view of vectors, `pcl_jax.data.ragged.pack` of the
            frames of each utterance for any other.
    """
    return jax.nn.log_softmax(compute_logits(model, params, scale, features), axis=-1)


def classify(
    params: Variables, scale: Scale, representations: Float[np.ndarray, "n d"]
) -> Float[np.ndarray, "n c"]:
    """Return the logits of representations on the host: `compute_logits` after the encoder, and no program.

    Args:
        params: The parameters of the classifier.
        scale: The map of the representation.
        representations: Those of an encoder.
    """
    (layer,) = params.values()
    scaled = (representations - np.asarray(scale.mean)) * np.asarray(scale.scale)
    return scaled @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])


class Precomputed(nn.Module):
    """The identity encoder, for representations that were computed before."""

    def __call__(self, features: Float[Array, "n d"], *, train: bool = False) -> Float[Array, "n d"]:
        """Return the features as they are."""
        return jnp.asarray(features)


def encode(
    encoder: nn.Module, params: Variables, features: Ragged | Array, *, key: jax.Array | None = None
) -> Float[Array, "n d"]:
    """Return the representations of a batch. With a key: training mode, whose dropout is drawn from it."""
    rngs = {} if key is None else {"dropout": key}
    return cast(jax.Array, encoder.apply({"params": params}, features, train=key is not None, rngs=rngs))


@partial(jax.jit, static_argnames="encoder")
def init_encoder(encoder: nn.Module, features: Ragged | Array, key: jax.Array) -> Variables:
    """Draw the parameters of an encoder; the features give the shapes."""
    return encoder.init(key, features)["params"]


@partial(jax.jit, static_argnames=("head", "width"))
def init_head(head: nn.Module, key: jax.Array, *, width: int) -> Variables:
    """Draw the variables of a head on representations `[n, width]`: one program for views of one width."""
    return head.init(key, jnp.zeros((1, width)))


def representation_width(encoder: nn.Module, features: Ragged | Array) -> int:
    """Return the width of the representations `[n, d]` of an encoder."""
    shapes = jax.eval_shape(lambda: encoder.init_with_output(jax.random.key(0), features))
    return shapes[0].shape[-1]
