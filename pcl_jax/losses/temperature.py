"""The temperature of a contrastive loss: its checks, and a learnable form."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from .cosine import at_least_float32


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
    log_temperature: Real[ArrayLike, "..."], *, minimum: float = 0.01, maximum: float = 1.0
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
        The temperature, of the parameter's shape and at least float32, differentiable in reverse mode.

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
    return _bounded_exp(at_least_float32(log_temperature), float(minimum), float(maximum))


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _bounded_exp(x: Array, minimum: float, maximum: float) -> Array:
    # Clipping after the exponential: exp(log(minimum)) may round to less than the minimum.
    return jnp.clip(jnp.exp(x), minimum, maximum)


def _bounded_exp_forward(x, minimum, maximum):
    bounded = _bounded_exp(x, minimum, maximum)
    return bounded, (jnp.exp(x), bounded)


def _bounded_exp_backward(minimum, maximum, residuals, gradient):
    unbounded, bounded = residuals
    # Descent moves against the gradient.
    leads_out = ((unbounded < minimum) & (gradient > 0)) | ((unbounded > maximum) & (gradient < 0))
    return (jnp.where(leads_out, 0, gradient * bounded),)


_bounded_exp.defvjp(_bounded_exp_forward, _bounded_exp_backward)
