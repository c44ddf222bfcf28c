"""What stands on an encoder: the projection head of pre-training, the classifier of fine-tuning."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float

from pcl_jax.arrays import Array
from pcl_jax.models.layers import Init, dense


class ProjectionHead(nn.Module):
    """Linear 256, ReLU, BatchNorm, Linear 128: `[n, d_i] -> [n, 128]`; dropped after pre-training.

    Its batch statistics are those of the whole batch: under `jit` with a sharded batch without more
    ado, under `pmap` or `shard_map` when `axis_name` is given.
    """

    hidden: int = 256
    width: int = 128
    axis_name: str | None = None
    initial: Init = "flax"

    @nn.compact
    def __call__(self, representation: Float[Array, "n d"], *, train: bool = False) -> Float[Array, "n d2"]:
        x = nn.relu(dense(self.hidden, representation.shape[-1], self.initial)(jnp.asarray(representation)))
        x = nn.BatchNorm(
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            axis_name=self.axis_name if train else None,
        )(x)
        return dense(self.width, self.hidden, self.initial)(x)


class Classifier(nn.Module):
    """One linear layer: representation `[n, d]` -> logits `[n, c]` (the softmax is in the loss)."""

    classes: int
    initial: Init = "flax"

    @nn.compact
    def __call__(self, representation: Float[Array, "n d"]) -> Float[Array, "n c"]:
        return dense(self.classes, representation.shape[-1], self.initial)(jnp.asarray(representation))
