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
from flax import linen as nn
from jaxtyping import Float

from pcl_jax.arrays import Array, Variables
from pcl_jax.data.ragged import Ragged
from pcl_jax.models.heads import Classifier, ProjectionHead
from pcl_jax.rng import named_key

Features = Mapping[str, Ragged | Array]


@dataclass(frozen=True)
class PretrainingNetworks:
    """An encoder and a projection head for each view, without parameters. Hashable: static under jit."""

    encoders: tuple[tuple[str, nn.Module], ...]
    head: ProjectionHead = field(default_factory=ProjectionHead)

    @property
    def views(self) -> tuple[str, ...]:
        return tuple(view for view, _ in self.encoders)

    def init(self, features: Features, *, seed: int) -> tuple[Variables, Variables]:
        """Parameters and batch statistics. A view's draw depends on the seed and its name alone."""
        params: dict[str, dict[str, Any]] = {"encoder": {}, "head": {}}
        statistics = {}
        for view, encoder in self.encoders:
            keys = named_key(seed, "encoder", view), named_key(seed, "head", view)
            params["encoder"][view], variables = init(encoder, self.head, features[view], *keys)
            params["head"][view] = variables["params"]
            statistics[view] = variables["batch_stats"]
        return params, statistics

    def project(
        self, params: Variables, statistics: Variables, features: Features, *, key: jax.Array | None = None
    ) -> tuple[dict[str, Float[Array, "n d"]], Variables]:
        """Projections z of each view, and the new batch statistics. With a key: training mode."""
        projections, new_statistics = {}, {}
        for index, (view, encoder) in enumerate(self.encoders):
            own_key = None if key is None else jax.random.fold_in(key, index)
            representation = encode(encoder, params["encoder"][view], features[view], key=own_key)
            projections[view], updated = self.head.apply(
                {"params": params["head"][view], "batch_stats": statistics[view]},
                representation,
                train=key is not None,
                mutable=["batch_stats"],
            )
            new_statistics[view] = updated["batch_stats"]
        return projections, new_statistics


class ClassifierNetwork(NamedTuple):
    """One view's encoder and classifier, without parameters. Hashable: static under jit."""

    view: str
    encoder: nn.Module
    classifier: Classifier


class Precomputed(nn.Module):
    """The encoder of representations that are there already."""

    def __call__(self, features: Float[Array, "n d"], *, train: bool = False) -> Float[Array, "n d"]:
        return jnp.asarray(features)


def encode(
    encoder: nn.Module, params: Variables, features: Ragged | Array, *, key: jax.Array | None = None
) -> Float[Array, "n d"]:
    """Representations of a batch. With a key: training mode, dropout drawn from it."""
    rngs = {} if key is None else {"dropout": key}
    return cast(jax.Array, encoder.apply({"params": params}, features, train=key is not None, rngs=rngs))


@partial(jax.jit, static_argnames=("encoder", "top"))
def init(
    encoder: nn.Module,
    top: nn.Module,
    features: Ragged | Array,
    encoder_key: jax.Array,
    top_key: jax.Array,
) -> tuple[Variables, Variables]:
    """Fresh parameters of an encoder, and variables of the network that its representations of such features
    go into. One program, whatever the keys."""
    representation, variables = encoder.init_with_output(encoder_key, features)
    return variables["params"], top.init(top_key, representation)
