"""The Lovasz extension of the Jaccard loss: its convex closure in the pixels' errors.

Of sorted errors e_1 >= e_2 >= ..., sum e_i (J_i - J_(i-1)), where J_i is one minus the intersection
over union if the first i pixels were wrong (Berman et al. 2018, arXiv:1705.08790). Shapes are
static, so that it compiles; the pixels that don't count are sorted behind all others.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import jax.numpy as jnp
from jax import lax

from jaxseg.losses import _pixels as pixels
from jaxseg.losses import regions
from jaxseg.losses.sigmoid import check_channels

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Num


def lovasz_softmax(
    logits: Float[Array, "*pixels classes"],
    labels: Num[Array, "*pixels"],
    *,
    where: Bool[Array, "*pixels"] | None = None,
    class_weights: Float[Array, " classes"] | None = None,
    per: regions.Per = "batch",
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """The Lovasz extension in the errors |p - q|, averaged over the classes present.

    For hard predictions it is one minus the intersection over union. Needs class indices. Sorts the
    pixels for each class, so that they must lie in one place: with `axis_name` only `per="image"`
    works.

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[0.25, 0.75], [0.5, 0.5]]))
    >>> value = lovasz_softmax(logits, jnp.array([1, 1]))
    >>> print(f"{value:.4f}")  # errors 0.5 and 0.25, of which each is half of the class
    0.3750
    """
    logits, labels, where, class_weights = pixels.check(logits, labels, where, class_weights)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(
            f"labels are {labels.dtype}, but lovasz_softmax is defined for class indices only; use "
            "jaccard for distributions"
        )
    images = _images("lovasz_softmax", per, logits, axis_name)
    q = jnp.exp(pixels.log_probs(logits, where))
    p = pixels.targets(labels, where, logits.shape[-1], q.dtype)
    counts = pixels.weights(labels, where, None, logits.shape, q.dtype)
    p, errors = _flat(images, p, jnp.abs(p - q))
    (counts,) = _flat(images, jnp.broadcast_to(counts[..., None], q.shape))
    present = jnp.sum(p * counts, -2) != 0
    by_class = _extension(errors, p > 0, counts)
    return regions.average(by_class, present, class_weights, "present", per, axis_name)


def lovasz_hinge(
    logits: Float[Array, "*pixels channels"],
    labels: Num[Array, "*pixels channels"],
    *,
    where: Bool[Array, "*pixels"] | None = None,
    class_weights: Float[Array, " channels"] | None = None,
    per: regions.Per = "batch",
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """The Lovasz extension in the hinge errors max(0, 1 - z s), averaged over all channels.

    Of yes-no questions: labels are 0 or 1 and s is -1 or 1, as for the losses of
    `sigmoid_cross_entropy`. Channels without a positive label count, too: there any positive
    prediction is an error. With `axis_name` only `per="image"` works.

    >>> import jax.numpy as jnp
    >>> value = lovasz_hinge(jnp.array([[0.5], [-1.0]]), jnp.array([[1], [1]]))
    >>> print(f"{value:.4f}")  # errors 2 and 0.5, of which each is half of the class
    1.2500
    """
    logits, labels, counts, class_weights = check_channels(logits, labels, where, class_weights)
    images = _images("lovasz_hinge", per, logits, axis_name)
    errors = 1.0 - logits * (2.0 * labels - 1.0)
    errors, labels, counts = _flat(images, errors, labels, counts)
    by_class = _extension(jnp.maximum(errors, 0.0), labels > 0.5, counts, errors)
    some = jnp.sum(counts, -2) != 0
    return regions.average(by_class, some, class_weights, "present", per, axis_name)


def _images(name: str, per: str, logits: Array, axis_name: str | None) -> tuple[int, ...]:
    """The axis of images, if they are for themselves."""
    by_image = regions.check_per(per, logits)
    if not by_image and axis_name is not None:
        raise ValueError(
            f"{name} sorts the pixels of the whole batch, which lie on several replicas; use "
            'per="image", or jaccard'
        )
    return logits.shape[:1] if by_image else ()


def _flat(images: tuple[int, ...], *arrays: Array) -> list[Array]:
    """The arrays with one axis of pixels behind that of images."""
    shape = arrays[0].shape
    number = math.prod(shape[len(images) : -1])
    return [x.reshape(*images, number, shape[-1]) for x in arrays]


def _extension(
    errors: Float[Array, "*images pixels classes"],
    labelled: Bool[Array, "*images pixels classes"],
    counts: Float[Array, "*images pixels classes"],
    order: Float[Array, "*images pixels classes"] | None = None,
) -> Float[Array, "*images classes"]:
    """The extension for each class; pixels are sorted by `order`, if not by their errors."""
    # By class and image along the last axis, which sorts faster.
    errors, labelled, counts, order = (
        jnp.swapaxes(x, -1, -2)
        for x in (errors, labelled, counts, errors if order is None else order)
    )
    valid = counts != 0
    key = jnp.where(valid, -lax.stop_gradient(order), jnp.inf)
    index = lax.broadcasted_iota(jnp.int32, key.shape, key.ndim - 1)
    _, index, positive, valid = lax.sort(
        (key, index, labelled & valid, valid), dimension=-1, num_keys=1, is_stable=False
    )
    found = jnp.cumsum(positive.astype(jnp.int32), -1)
    seen = jnp.cumsum(valid.astype(jnp.int32), -1)
    positives = found[..., -1:]
    union = jnp.maximum(positives + seen - found, 1).astype(errors.dtype)
    wrong = 1.0 - (positives - found).astype(errors.dtype) / union
    steps = jnp.diff(wrong, prepend=0.0, axis=-1)
    # Sorted back instead of gathered, whose gradient would be a scatter.
    _, steps = lax.sort((index, steps), dimension=-1, num_keys=1, is_stable=False)
    return jnp.sum(errors * counts * steps, -1)
