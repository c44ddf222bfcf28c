"""Objectives of pre-training: the projections of a batch -> a loss and its metrics.

A further objective is one function (or a frozen dataclass with `__call__`) and one line in `OBJECTIVES`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Num

from pcl_jax.arrays import Array
from pcl_jax.config import Pretraining
from pcl_jax.losses import pairwise_nt_xent, sigmoid_loss, simclr_nt_xent

Projections = Mapping[str, Float[Array, "n d"]]
Metrics = dict[str, Num[Array, ""]]


@runtime_checkable
class Objective(Protocol):
    """The signature of an objective: a pure, hashable function, static in the compiled steps."""

    def __call__(
        self, projections: Projections, labels: Int[Array, " n"] | None, mask: Bool[Array, " n"] | None, /
    ) -> tuple[Float[Array, ""], Metrics]:
        """Return the loss of a batch, which is minimised, and metrics of it, which are recorded.

        Args:
            projections: View -> `[n, d]`; row `l` is the same utterance in every view.
            labels: The class of each utterance, -1 without one. The objectives of this module ignore it. One
                that uses it sees the labels of all training utterances, whatever share fine-tuning gets.
            mask: False for the rows that are padding; None where all rows are utterances.

        Returns:
            A scalar, and scalars by name. The mean of each over training and over validation utterances
            stands in epochs.jsonl as `NAME` and `validation_NAME`; `loss` is the name of the first.
        """
        ...


@dataclass(frozen=True)
class Pairwise:
    """The pairwise contrastive loss of the paper, Eq. (3); its metric is the mean cross-entropy.

    Attributes:
        temperature: tau of Eq. (1).
        axis_name: The mesh axis that shares the batch, inside `jax.pmap` or `jax.shard_map` only; under
            `jax.jit` the batch is whole.
    """

    temperature: float = 0.5
    axis_name: str | None = None

    def __call__(
        self,
        projections: Projections,
        labels: Int[Array, " n"] | None = None,
        mask: Bool[Array, " n"] | None = None,
    ) -> tuple[Float[Array, ""], Metrics]:
        """Return Eq. (3), and as `mean_ce` the mean of the k(k-1) directional cross-entropies, in nats."""
        loss = pairwise_nt_xent(
            projections, temperature=self.temperature, mask=mask, axis_name=self.axis_name
        )
        return loss, {"mean_ce": loss / 4}  # Eq. (3) counts each direction four times


@dataclass(frozen=True)
class SimCLR:
    """SimCLR's NT-Xent over all views: other utterances of an anchor's own view are negatives too."""

    temperature: float = 0.5

    def __call__(
        self,
        projections: Projections,
        labels: Int[Array, " n"] | None = None,
        mask: Bool[Array, " n"] | None = None,
    ) -> tuple[Float[Array, ""], Metrics]:
        """Return `pcl_jax.losses.simclr_nt_xent`."""
        return simclr_nt_xent(projections, temperature=self.temperature, mask=mask), {}


@dataclass(frozen=True)
class Sigmoid:
    """SigLIP's loss: each pair of projections is one binary decision.

    SigLIP learns its bias from -10 and its temperature from 0.1. Here both are constants, and the bias is
    -ln(n - 1): without any knowledge, a pair is a positive with probability 1 / n.
    """

    temperature: float = 0.5

    def __call__(
        self,
        projections: Projections,
        labels: Int[Array, " n"] | None = None,
        mask: Bool[Array, " n"] | None = None,
    ) -> tuple[Float[Array, ""], Metrics]:
        """Return `pcl_jax.losses.sigmoid_loss`."""
        rows = len(next(iter(projections.values())))
        utterances = jnp.float32(rows) if mask is None else jnp.sum(mask, dtype=jnp.float32)
        bias = -jnp.log(jnp.maximum(utterances - 1, 1))
        return sigmoid_loss(projections, temperature=self.temperature, bias=bias, mask=mask), {}


OBJECTIVES: dict[str, Callable[[Pretraining], Objective]] = {
    "pairwise": lambda config: Pairwise(config.temperature),
    "simclr": lambda config: SimCLR(config.temperature),
    "sigmoid": lambda config: Sigmoid(config.temperature),
}
"""A builder for each name that `config.Pretraining.objective` can have."""


def build_objective(config: Pretraining) -> Objective:
    """Build the objective that a configuration names.

    Raises:
        ValueError: There is no objective of this name.
    """
    if config.objective not in OBJECTIVES:
        raise ValueError(
            f"--pretraining.objective {config.objective} is not known; choose from {', '.join(OBJECTIVES)}"
        )
    return OBJECTIVES[config.objective](config)
