"""Losses of overlap: one number for each class over all the pixels that count."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp

from jaxseg.losses import _pixels as pixels

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Num


def dice(
    logits: Float[Array, "*pixels classes"],
    labels: Num[Array, "*pixels"] | Num[Array, "*pixels classes"],
    *,
    where: Bool[Array, "*pixels"] | None = None,
    class_weights: Float[Array, " classes"] | None = None,
    smooth: float = 0.0,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """One minus the soft Dice overlap, averaged over the classes present in the labels.

    For each class, sum |p - q| / (sum p + sum q + smooth) over the pixels that count, of the whole
    batch and all replicas. With hard labels this is the familiar 1 - (2 sum pq + smooth) /
    (sum p + sum q + smooth); with distributions it is minimal at q = p, which that form is not
    (Wang et al. 2023, arXiv:2303.16296). Absent classes are left out; `class_weights` weigh the
    classes in the average. Labels with no class present (nothing counts) give 0.

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[0.25, 0.75], [0.5, 0.5]]))
    >>> print(f"{dice(logits, jnp.array([1, 1])):.4f}")  # 1 - 2 * 1.25 / (2 + 1.25)
    0.2308
    """
    p = pixels.prepare(logits, labels, where, class_weights)
    probs, over = jnp.exp(p.log_probs), tuple(range(p.counts.ndim))

    def per_class(values):
        return pixels.total(jnp.sum(values * p.counts[..., None], over), axis_name)

    difference = per_class(jnp.abs(probs - p.targets))
    predicted, labelled = per_class(probs), per_class(p.targets)
    by_class = pixels.divide(difference, predicted + labelled + smooth)
    weights = 1.0 if p.class_weights is None else p.class_weights
    weights = jnp.where(labelled == 0, 0.0, weights)
    return pixels.divide(jnp.sum(weights * by_class), jnp.sum(weights))
