"""How uncertain several members are, pixel by pixel: in what they say, and in what they agree on.

`probs` are the probabilities `[members, *pixels, classes]` of samples with dropout, of an ensemble,
or of one image under augmentations. Maps are float32 `[*pixels]` in nats, finite also for
probabilities of 0 and 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from jaxtyping import Array, Float

__all__ = ["expected_entropy", "mutual_information", "predictive_entropy"]


def predictive_entropy(
    probs: Float[Array, "members *pixels classes"],
) -> Float[Array, "*pixels"]:
    """The entropy of the mean of the members: all the uncertainty of what they predict together.

    >>> import jax.numpy as jnp
    >>> print(f"{predictive_entropy(jnp.array([[1.0, 0.0], [0.0, 1.0]])):.4f}")  # log 2
    0.6931
    """
    return _entropy(jnp.mean(_checked(probs), 0))


def expected_entropy(
    probs: Float[Array, "members *pixels classes"],
) -> Float[Array, "*pixels"]:
    """The mean of the members' entropies: what each is uncertain of, as in the data (aleatoric).

    >>> import jax.numpy as jnp
    >>> print(f"{expected_entropy(jnp.array([[0.5, 0.5], [0.0, 1.0]])):.4f}")  # (log 2 + 0) / 2
    0.3466
    """
    return jnp.mean(_entropy(_checked(probs)), 0)


def mutual_information(
    probs: Float[Array, "members *pixels classes"],
) -> Float[Array, "*pixels"]:
    """What the members disagree on: `predictive_entropy` less `expected_entropy`, never negative.

    Computed as the mean relative entropy of the members to their mean, which is the same and keeps
    its digits where members nearly agree. Also the uncertainty of the model (epistemic), or the
    score of BALD (Houlsby et al. 2011, arXiv:1112.5745).

    >>> import jax.numpy as jnp
    >>> print(f"{mutual_information(jnp.array([[1.0, 0.0], [0.0, 1.0]])):.4f}")  # log 2 - 0
    0.6931
    >>> print(mutual_information(jnp.array([[0.3, 0.7], [0.3, 0.7]])))
    0.0
    """
    return _disagreement(_checked(probs))


def _checked(probs) -> Float[Array, "members *pixels classes"]:
    """The probabilities in float32."""
    probs = jnp.asarray(probs)
    if not jnp.issubdtype(probs.dtype, jnp.floating):
        raise TypeError(
            f"probs are {probs.dtype}{list(probs.shape)}, but must be probabilities of a float "
            "dtype; of logits take the softmax over the last axis"
        )
    if probs.ndim < 2:
        raise ValueError(
            f"probs are {list(probs.shape)}, but must be [members, *pixels, classes]; stack the "
            "members along a first axis"
        )
    if not probs.shape[0]:
        raise ValueError(f"probs are {list(probs.shape)}, but need at least one member")
    return probs.astype(jnp.float32)


@jax.jit
def _entropy(probs: Array) -> Array:
    return jnp.sum(jax.scipy.special.entr(probs), -1)


@jax.jit
def _disagreement(probs: Array) -> Array:
    """The mean relative entropy of the members to their mean."""
    mean = jnp.broadcast_to(jnp.mean(probs, 0, keepdims=True), probs.shape)
    divisor = jnp.where(mean > 0, mean, 1.0)
    change = (probs - mean) / divisor
    # p log(p/m) - p + m, whose last two terms cancel over the members, but which is a sum of terms
    # of one sign. Near m it is all but cancelled itself, and its series in (p - m) / m is exact.
    far = jax.scipy.special.xlogy(probs, probs / divisor) - probs + mean
    series = jnp.zeros_like(change)
    for k in range(12, 1, -1):
        series = 1.0 / (k * (k - 1)) - change * series
    near = mean * change**2 * series
    return jnp.mean(jnp.sum(jnp.where(jnp.abs(change) < 0.25, near, far), -1), 0)
