"""The temperature of a contrastive loss: its checks, and a learnable form."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float


def check_positive(temperature: ArrayLike) -> None:
    """Raise ValueError for a plain number that is not positive; a traced value cannot be checked."""
    if isinstance(temperature, int | float) and not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")


def as_temperature(temperature: ArrayLike, like: Array, *shapes: tuple[int, ...]) -> Array:
    """Return the temperature in the dtype of `like`; raise ValueError if its shape is none of `shapes`."""
    array = jnp.asarray(temperature, like.dtype)
    if array.shape not in shapes:
        raise ValueError(f"temperature must be of shape {' or '.join(map(str, shapes))}, got {array.shape}")
    return array


def clamped_temperature(
    log_temperature: Float[ArrayLike, "..."], *, minimum: float = 0.01, maximum: float = 1.0
) -> Float[Array, "..."]:
    r"""Compute a learnable temperature, bounded on both sides.

    $$\tau = \exp(\operatorname{clip}(\theta, \log \tau_{min}, \log \tau_{max}))$$

    Train $\theta$, `log_temperature`, with the other parameters. CLIP learns $\log(1 / \tau) = -\theta$ from
    $\tau = 0.07$. It keeps $1 / \tau \le 100$ by clipping the *parameter* after each update, which a loss
    function cannot do. `jnp.clip` in the loss alone has a flaw: outside the bounds its gradient is zero, so
    the parameter never returns. Here the gradient is zero only where descent would lead further out.

    Args:
        log_temperature: The parameter $\theta$, a scalar or `[k, k]` (one per ordered pair of views).
        minimum: Smallest temperature; CLIP's is 0.01.
        maximum: Largest temperature.

    Returns:
        The temperature, of the parameter's shape, differentiable in reverse mode.

    Raises:
        ValueError: If the bounds are not 0 < minimum < maximum.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pcl_jax.losses import clamped_temperature, pairwise_nt_xent
        >>> views = jax.random.normal(jax.random.key(0), (3, 16, 8))
        >>> def loss(log_temperature):
        ...     return pairwise_nt_xent(views, temperature=clamped_temperature(log_temperature))
        >>> start = jnp.log(0.07)
        >>> bool(jax.grad(loss)(start) < 0)  # unrelated views: descent raises the temperature
        True

    References:
        Radford et al., Learning transferable visual models from natural language supervision, ICML 2021.
    """
    if not 0 < minimum < maximum:
        raise ValueError(f"the bounds must be 0 < minimum < maximum, got {minimum} and {maximum}")
    log_temperature = jnp.asarray(log_temperature)
    low, high = jnp.log(jnp.array([minimum, maximum], log_temperature.dtype))
    return jnp.exp(_clip(log_temperature, low, high))


@jax.custom_vjp
def _clip(x, low, high):
    return jnp.clip(x, low, high)


def _clip_forward(x, low, high):
    return jnp.clip(x, low, high), (x, low, high)


def _clip_backward(residuals, gradient):
    x, low, high = residuals
    # Descent moves against the gradient.
    leads_out = ((x < low) & (gradient > 0)) | ((x > high) & (gradient < 0))
    return jnp.where(leads_out, 0, gradient), None, None


_clip.defvjp(_clip_forward, _clip_backward)
