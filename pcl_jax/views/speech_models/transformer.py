"""Layers that wav2vec 2.0, HuBERT and Whisper share: the exact GELU, self-attention, a transformer layer.

float32 means float32: matrix products ask for the highest precision, because an accelerator's
default for float32 is TF32 or bfloat16 and misses torch's values in the third digit. With
`dtype="bfloat16"` products and the residual stream are bfloat16; the statistics of norms and the
softmax stay float32.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Bool, Float

from pcl_jax.arrays import Array


def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Apply `x * Phi(x)` with the normal distribution function itself, not its tanh approximation.

    It uses erf where `jax.nn.gelu` uses erfc, which takes three times as long on a CPU. The difference is
    below 1e-7 absolute (erfc is better only in the relative precision of the far negative tail).
    """
    return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))


def precision(dtype: str) -> jax.lax.Precision:
    """Return the precision of matrix products in a model of this dtype."""
    return jax.lax.Precision.HIGHEST if dtype == "float32" else jax.lax.Precision.DEFAULT


def dense(features: int, dtype: str, name: str, *, bias: bool = True) -> nn.Dense:
    """Make a dense layer whose parameters and products have this dtype."""
    return nn.Dense(
        features, use_bias=bias, dtype=dtype, param_dtype=dtype, precision=precision(dtype), name=name
    )


def layer_norm(epsilon: float, dtype: str, name: str) -> nn.LayerNorm:
    """Make a layer norm with float32 statistics."""
    # The two-pass variance: E[x^2] - E[x]^2 loses digits where the residual stream has a large mean.
    return nn.LayerNorm(epsilon, dtype=dtype, use_fast_variance=False, name=name)


def attend(
    query: Float[Array, "n t a d"],
    key: Float[Array, "n t a d"],
    value: Float[Array, "n t a d"],
    valid: Bool[Array, "n t"] | None,
    precision: jax.lax.Precision,
) -> Float[Array, "n t a d"]:
    """Compute `softmax(query key^T) value` for each head (axis `a`).

    Args:
        query: Scaled by `d ** -0.5`.
        key: See above.
        value: See above.
        valid: Frames that may be attended to; None: all.
        precision: Precision of the matrix products.
    """
    n, t, heads, d = query.shape
    seen = jnp.ones((n, t), bool) if valid is None else valid

    def all_heads(query, key, value, seen):
        score = jnp.einsum("nqad,nkad->naqk", query, key, precision=precision)
        score = jnp.where(seen[:, None, None, :], score.astype(jnp.float32), -jnp.inf)
        weight = jax.nn.softmax(score, axis=-1).astype(value.dtype)
        return jnp.einsum("naqk,nkad->nqad", weight, value, precision=precision)

    def head_by_head(query, key, value, seen):
        # The scores of all heads at once do not fit into a CPU's cache: one head at a time is
        # three times as fast at 749 frames and five times at Whisper's 1500.
        def one_head(arrays):
            query, key, value, seen = arrays
            score = jnp.dot(query, key.T, precision=precision)
            score = jnp.where(seen, score.astype(jnp.float32), -jnp.inf)
            weight = jnp.exp(score - score.max(axis=-1, keepdims=True))
            summed = jnp.dot(weight.astype(value.dtype), value, precision=precision)
            return (summed / weight.sum(axis=-1, keepdims=True)).astype(value.dtype)

        rows = [x.transpose(0, 2, 1, 3).reshape(n * heads, t, d) for x in (query, key, value)]
        out = jax.lax.map(one_head, (*rows, jnp.repeat(seen, heads, axis=0)))
        return out.reshape(n, heads, t, d).transpose(0, 2, 1, 3)

    return jax.lax.platform_dependent(query, key, value, seen, cpu=head_by_head, default=all_heads)


class SelfAttention(nn.Module):
    """Multi-head self-attention; Whisper has `key_bias=False`."""

    heads: int
    key_bias: bool
    dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "n t d"], valid: Bool[Array, "n t"] | None) -> Float[Array, "n t d"]:
        """Attend to the valid frames; None: to all."""
        n, t, d = x.shape
        split = (n, t, self.heads, d // self.heads)
        query = dense(d, self.dtype, "query")(x) * (d // self.heads) ** -0.5
        key = dense(d, self.dtype, "key", bias=self.key_bias)(x)
        value = dense(d, self.dtype, "value")(x)
        mixed = attend(
            query.reshape(split), key.reshape(split), value.reshape(split), valid, precision(self.dtype)
        )
        return dense(d, self.dtype, "out")(mixed.reshape(n, t, d))


class TransformerLayer(nn.Module):
    """Attention and a feed-forward block, each with a residual and a layer norm.

    `pre_norm=False` (wav2vec 2.0 base) normalises after each residual sum, `True` (large, Whisper)
    before each block, so that the residual stream itself is never normalised.
    """

    heads: int
    feed_forward: int
    pre_norm: bool
    epsilon: float
    dtype: str
    key_bias: bool = True

    @nn.compact
    def __call__(
        self, x: Float[Array, "n t d"], valid: Bool[Array, "n t"] | None = None
    ) -> Float[Array, "n t d"]:
        """Apply the layer; frames that are not valid are attended to by none."""
        attention = SelfAttention(self.heads, self.key_bias, self.dtype, name="attention")
        attention_norm = layer_norm(self.epsilon, self.dtype, "attention_norm")
        feed_forward_norm = layer_norm(self.epsilon, self.dtype, "feed_forward_norm")
        widen = dense(self.feed_forward, self.dtype, "feed_forward_in")
        narrow = dense(x.shape[-1], self.dtype, "feed_forward_out")
        if self.pre_norm:
            x = x + attention(attention_norm(x), valid)
            return x + narrow(gelu(widen(feed_forward_norm(x))))
        x = attention_norm(x + attention(x, valid))
        return feed_forward_norm(x + narrow(gelu(widen(x))))
