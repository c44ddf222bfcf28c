"""A further objective of pre-training: one function and one line.

    python examples/new_objective.py
    python examples/new_objective.py pretrain --corpus demo --views mel egemaps --objective uniform --epochs 5

Alignment and uniformity (Wang and Isola 2020, arXiv 2005.10242): projections of one utterance should
coincide, and the projections of all utterances should spread over the sphere. Unlike Eq. (3) of the paper
it has no temperature and no softmax over negatives. Without words the script shows what the objective
gives; with words it is `pcl`, which then knows the objective.
"""

import sys
from itertools import combinations

import jax
import jax.numpy as jnp

from pcl_jax import cli
from pcl_jax.arrays import Array
from pcl_jax.training.objectives import OBJECTIVES, Metrics, Projections


def uniform(
    projections: Projections, labels: Array | None = None, mask: Array | None = None
) -> tuple[Array, Metrics]:
    """Return alignment plus uniformity, averaged over views, and both as metrics.

    Args:
        projections: view -> `[n, d]`; row `l` is the same utterance in every view.
        labels: ignored.
        mask: False for the rows that are padding.
    """
    views = [x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), 1e-8) for x in projections.values()]
    rows = len(views[0])
    weight = jnp.ones(rows) if mask is None else mask.astype(jnp.float32)
    pairs = weight[:, None] * weight * (1 - jnp.eye(rows))
    distances = [jnp.sum((x - y) ** 2, axis=1) for x, y in combinations(views, 2)]
    alignment = jnp.mean(jnp.stack([jnp.sum(weight * d) / jnp.sum(weight) for d in distances]))
    kernels = [jnp.exp(-4 * (1 - x @ x.T)) for x in views]  # exp(-2 |x - y|^2) on the sphere
    uniformity = jnp.mean(jnp.stack([jnp.log(jnp.sum(pairs * k) / jnp.sum(pairs)) for k in kernels]))
    return alignment + uniformity, {"alignment": alignment, "uniformity": uniformity}


OBJECTIVES["uniform"] = lambda config: uniform  # pyright: ignore[reportArgumentType] - a line of that table


def show() -> None:
    """Print the loss of unrelated, of aligned and of collapsed projections."""
    keys = jax.random.split(jax.random.key(0), 2)
    one, two = (jax.random.normal(key, (64, 16)) for key in keys)
    cases = {"unrelated": (one, two), "aligned": (one, one + 0.1 * two), "collapsed": (one[:1], one[:1])}
    for name, (x, y) in cases.items():
        x, y = jnp.broadcast_to(x, one.shape), jnp.broadcast_to(y, one.shape)
        loss, metrics = uniform({"mel": x, "egemaps": y})
        texts = [f"{metric} {value:.2f}" for metric, value in metrics.items()]
        print(f"{name:>9}: loss {loss:.2f} ({', '.join(texts)})")


if __name__ == "__main__":
    cli.main(sys.argv[1:]) if sys.argv[1:] else show()
