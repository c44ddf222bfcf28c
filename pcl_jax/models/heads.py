"""Heads: the projection head of pre-training and the classifier of fine-tuning."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Bool, Float

from pcl_jax.arrays import Array
from pcl_jax.models.layers import Init, dense


class ProjectionHead(nn.Module):
    """Linear 256, ReLU, BatchNorm, Linear 128: `[n, d_i] -> [n, 128]`; dropped after pre-training.

    Its batch statistics are those of the whole batch: under `jit` always, under `pmap` or `shard_map` if
    `axis_name` names the axis of the devices.
    """

    hidden: int = 256
    width: int = 128
    axis_name: str | None = None
    initial: Init = "flax"

    @nn.compact
    def __call__(
        self,
        representation: Float[Array, "n d"],
        mask: Bool[Array, " n"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "n d2"]:
        """Return projections; rows where the mask is False take no part in the batch statistics.

        Raises:
            ValueError: A mask is given under `axis_name`; the mean over devices would weigh them equally.
        """
        if mask is not None and self.axis_name is not None:
            raise ValueError("a projection head takes either a mask or an axis_name, not both")
        x = nn.relu(dense(self.hidden, representation.shape[-1], self.initial)(jnp.asarray(representation)))
        x = nn.BatchNorm(
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            axis_name=self.axis_name if train else None,
        )(x, mask=None if mask is None else jnp.asarray(mask)[:, None])
        return dense(self.width, self.hidden, self.initial)(x)


class Classifier(nn.Module):
    """One linear layer: representation `[n, d]` -> logits `[n, c]` (the softmax is in the loss)."""

    classes: int
    initial: Init = "flax"

    @nn.compact
    def __call__(self, representation: Float[Array, "n d"]) -> Float[Array, "n c"]:
        """Return the logits of a batch."""
        return dense(self.classes, representation.shape[-1], self.initial)(jnp.asarray(representation))
