"""The temperature: checked, and learnable."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float


def check_positive(temperature: ArrayLike) -> None:
    """A traced value cannot be looked at; a plain number can, and is where the mistakes are made."""
    if isinstance(temperature, int | float) and not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")


def shaped(temperature: ArrayLike, like: Array, *shapes: tuple[int, ...]) -> Array:
    """The temperature in the dtype of `like`, if its shape is one of `shapes`."""
    array = jnp.asarray(temperature, like.dtype)
    if array.shape not in shapes:
        raise ValueError(f"temperature must be of shape {' or '.join(map(str, shapes))}, got {array.shape}")
    return array


def clamped_temperature(
    log_temperature: Float[ArrayLike, "..."], *, minimum: float = 0.01, maximum: float = 1.0
) -> Float[Array, "..."]:
    r"""A learnable temperature $\tau = \exp(\theta)$, kept between two bounds.

    Train `log_temperature` with the rest of the parameters. CLIP learns $\log(1 / \tau)$, the negative of it,
    from $\tau = 0.07$, and keeps $1 / \tau \le 100$ by clipping the *parameter* after each update, which a
    loss function cannot do. Clipping in the loss alone has a flaw: outside of the bounds the gradient is zero
    and the parameter never returns. Here the gradient is zero there only if descending it would lead further
    out.

    Args:
        log_temperature: the parameter, a scalar or `[k, k]` (one for each ordered pair of views).
        minimum: smallest temperature; CLIP's is 0.01.
        maximum: largest temperature.

    Returns:
        The temperature, of the parameter's shape, differentiable in reverse mode.

    Raises:
        ValueError: the bounds are not 0 < minimum < maximum.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pcl_jax.losses import clamped_temperature, pairwise_nt_xent
        >>> views = jax.random.normal(jax.random.key(0), (3, 16, 8))
        >>> def loss(log_temperature):
        ...     return pairwise_nt_xent(views, temperature=clamped_temperature(log_temperature))
        >>> start = jnp.log(0.07)
        >>> bool(jax.grad(loss)(start) < 0)  # unrelated views: certainty costs, so descent raises it
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
