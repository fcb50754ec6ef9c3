"""Losses of distances to the boundaries of the labels.

They need an axis of images: logits `[images, *pixels, classes]`, of which `*pixels` are two axes
for pictures or three for volumes, and class indices `[images, *pixels]`. Distances are computed on
the device in the loss itself, by `jaxseg.ops.distance_transform`, in the unit of `spacing`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax.numpy as jnp
from jax import lax

from jaxseg import checks, ops
from jaxseg.losses import _pixels as pixels

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int


def boundary(
    logits: Float[Array, "images *pixels classes"],
    labels: Int[Array, " images *pixels"],
    *,
    where: Bool[Array, " images *pixels"] | None = None,
    class_weights: Float[Array, " classes"] | None = None,
    spacing: Sequence[float] | None = None,
    reduce: pixels.Reduce = "mean",
    axis_name: str | None = None,
) -> Float[Array, ""] | Float[Array, " images *pixels"]:
    """The mean of q times the signed distance to the label's boundary, negative within the label.

    Per class, the distance of a pixel outside to the nearest labelled pixel, and within minus the
    distance to the nearest outside plus one step, that of the least `spacing` (Kervadec et al.
    2019, arXiv:1812.07032, for a spacing of 1). Summed over the classes, each times its weight,
    and averaged over the pixels that count; `reduce=None` gives the map of which it is the mean. A
    class that an image lacks or that fills it has distance 0 there. Can be negative, and needs a
    region loss beside it, such as `generalized_dice`: weigh it in slowly. Labels that don't count
    belong to no class.

    >>> import jax.numpy as jnp
    >>> labels = jnp.array([[[0, 0, 1]]])
    >>> right = boundary(50 * jnp.eye(2)[labels], labels)
    >>> print(f"{right:.4f}")  # class 0: (-1 + 0) / 3; class 1: 0 / 3
    -0.3333
    """
    logits, labels, where, class_weights = _check(logits, labels, where, class_weights)
    spacing = _spacing(labels, spacing)
    inside = _inside(labels, where, logits.shape[-1])
    distance = _signed(inside, spacing)
    q = jnp.exp(pixels.log_probs(logits, where))
    if class_weights is not None:
        distance = distance * jnp.broadcast_to(class_weights, distance.shape)
    counts = pixels.weights(labels, where, None, logits.shape, q.dtype)
    return pixels.reduced(jnp.sum(q * distance, -1) * counts, counts, reduce, axis_name)


def hausdorff_dt(
    logits: Float[Array, "images *pixels classes"],
    labels: Int[Array, " images *pixels"],
    *,
    where: Bool[Array, " images *pixels"] | None = None,
    class_weights: Float[Array, " classes"] | None = None,
    alpha: float = 2.0,
    spacing: Sequence[float] | None = None,
    reduce: pixels.Reduce = "mean",
    axis_name: str | None = None,
) -> Float[Array, ""] | Float[Array, " images *pixels"]:
    """The mean of (p - q)^2 (d_p^alpha + d_q^alpha), d the distance to a class's boundary.

    d_p is of the label and d_q of the prediction q > 1/2, each the distance to the nearest pixel of
    the other side; no gradient flows through them. Errors far from the boundaries, which make the
    Hausdorff distance, weigh most (Karimi and Salcudean 2019, arXiv:1904.10030). Averaged over the
    classes by their weights, and over the pixels that count; `reduce=None` gives the map of which
    it is the mean. Where a side is missing from an image its d is 0.

    >>> import jax.numpy as jnp
    >>> labels = jnp.array([[[0, 0, 0, 1]]])
    >>> preds = jnp.array([[[1, 0, 0, 1]]])
    >>> value = hausdorff_dt(50 * jnp.eye(2)[preds], labels)
    >>> print(f"{value:.4f}")  # of both classes (3^2 + 1^2) / 4
    2.5000
    """
    checks.amount("alpha", alpha)
    logits, labels, where, class_weights = _check(logits, labels, where, class_weights)
    spacing = _spacing(labels, spacing)
    q = jnp.exp(pixels.log_probs(logits, where))
    inside = _inside(labels, where, logits.shape[-1])
    p = inside.astype(q.dtype)
    predicted = lax.stop_gradient(q) > 0.5
    if where is not None:
        predicted = predicted & where[..., None]
    distances = (jnp.abs(_to_other_side(x, spacing)) for x in (inside, predicted))
    weight = sum(x.astype(q.dtype) ** alpha for x in distances)
    weights = jnp.ones(q.shape[-1], q.dtype) if class_weights is None else class_weights
    errors = jnp.sum(jnp.square(p - q) * weight * jnp.broadcast_to(weights, q.shape), -1)
    counts = pixels.weights(labels, where, None, logits.shape, q.dtype)
    errors = pixels.divide(errors, jnp.broadcast_to(jnp.sum(weights), errors.shape))
    return pixels.reduced(errors * counts, counts, reduce, axis_name)


def _check(logits, labels, where, class_weights):
    logits, labels, where, class_weights = pixels.check(logits, labels, where, class_weights)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(
            f"labels are {labels.dtype}, but boundaries are those of class indices; take the argmax"
        )
    if labels.ndim not in (3, 4):
        raise ValueError(
            f"logits are {list(logits.shape)}, but boundaries need [images, height, width, "
            "classes], or three axes of pixels"
        )
    return logits, labels, where, class_weights


def _spacing(labels: Array, spacing: Sequence[float] | None) -> tuple[float, ...]:
    rank = labels.ndim - 1
    spacing = (1.0,) * rank if spacing is None else tuple(map(float, spacing))
    if len(spacing) != rank:
        raise ValueError(
            f"spacing is {spacing}, but must have {rank} numbers, one for each axis of pixels in "
            f"labels {list(labels.shape)}"
        )
    return spacing


def _inside(labels: Array, where: Array | None, num_classes: int) -> Bool[Array, "*pixels classes"]:
    inside = pixels.targets(labels, None, num_classes, jnp.float32) > 0
    return inside if where is None else inside & where[..., None]


def _distances(mask: Array, spacing: tuple[float, ...]) -> Array:
    """The distance of each True pixel to the nearest False one, class by class."""
    by_class = jnp.moveaxis(mask, -1, 0)
    found = ops.distance_transform(by_class, spatial_rank=len(spacing), spacing=spacing)
    return jnp.moveaxis(found, 0, -1)


def _to_other_side(mask: Array, spacing: tuple[float, ...]) -> Array:
    """Positive outside of the mask, negative inside, and 0 where there is but one side."""
    distance = _distances(~mask, spacing) - _distances(mask, spacing)
    return jnp.where(jnp.isfinite(distance), distance, 0.0)


def _signed(mask: Array, spacing: tuple[float, ...]) -> Array:
    """Likewise, with 0 at the pixels inside whose neighbour at the least spacing is outside."""
    distance = _to_other_side(mask, spacing)
    return jnp.where(distance < 0, distance + min(spacing), distance)
