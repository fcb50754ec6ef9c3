"""The only place that knows labels, `where`, class weights, reduction and replicas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Num

Reduce = Literal["mean"] | None


class Pixels(NamedTuple):
    """Checked inputs of a loss: floating, finite, and inert outside `where`."""

    log_probs: Float[Array, "*pixels classes"]
    targets: Float[Array, "*pixels classes"]
    counts: Float[Array, "*pixels"]  # 1 for a pixel that counts, 0 outside `where`
    class_weights: Float[Array, " classes"] | None


def prepare(
    logits: Float[Array, "*pixels classes"],
    labels: Num[Array, "*pixels"] | Num[Array, "*pixels classes"],
    where: Bool[Array, "*pixels"] | None,
    class_weights: Float[Array, " classes"] | None,
    temperature: float = 1.0,
) -> Pixels:
    """Checks a loss's inputs and brings them to one form.

    Outside `where`, logits become 0 and targets uniform before anything is computed, so that not
    even a NaN can reach a value or a gradient. An integer label outside 0..classes-1 at a pixel
    that counts makes its count, and with it the loss, NaN: an error can't be raised under jit, and
    a quiet wrong number would be worse.
    """
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    if logits.ndim < 1 or not jnp.issubdtype(logits.dtype, jnp.floating):
        raise TypeError(
            f"logits are {logits.dtype}{list(logits.shape)}, but a loss needs floating-point "
            "[*pixels, classes]; pass the model's raw outputs"
        )
    *pixels, num_classes = logits.shape
    dtype = jnp.promote_types(logits.dtype, jnp.float32)
    integers = jnp.issubdtype(labels.dtype, jnp.integer)
    expected = tuple(pixels) if integers else logits.shape
    if labels.dtype == jnp.bool_ or jnp.issubdtype(labels.dtype, jnp.complexfloating):
        raise TypeError(f"labels are {labels.dtype}, but must be class indices or a distribution")
    if labels.shape != expected:
        raise ValueError(
            f"labels are {labels.dtype}{list(labels.shape)} for logits {list(logits.shape)}, but "
            f"class indices need an integer dtype and shape {pixels}, and distributions a float "
            f"dtype and shape {list(logits.shape)}"
        )
    if where is not None:
        where = jnp.asarray(where)
        if where.dtype != jnp.bool_ or where.shape != tuple(pixels):
            raise ValueError(
                f"where is {where.dtype}{list(where.shape)}, but must be bool{pixels}: True for "
                "each pixel that counts"
            )
    if class_weights is not None:
        class_weights = jnp.asarray(class_weights, dtype)
        if class_weights.shape != (num_classes,):
            raise ValueError(
                f"class_weights have shape {list(class_weights.shape)}, but the logits have "
                f"{num_classes} classes; give one weight for each"
            )

    logits = logits.astype(dtype)
    if integers:
        # In int8, for one, 300 classes could not be compared.
        labels = labels.astype(jnp.promote_types(labels.dtype, jnp.int32))
        # Dense, not a gather of the label's logit: its transpose is a scatter-add, which is slow.
        targets = jax.nn.one_hot(labels, num_classes, dtype=dtype)
        counts = jnp.where((labels >= 0) & (labels < num_classes), 1.0, jnp.nan).astype(dtype)
    else:
        targets = labels.astype(dtype)
        counts = jnp.ones(tuple(pixels), dtype)
    if where is not None:
        logits = jnp.where(where[..., None], logits, 0.0)
        targets = jnp.where(where[..., None], targets, 1.0 / num_classes)
        counts = jnp.where(where, counts, 0.0)
    return Pixels(jax.nn.log_softmax(logits / temperature), targets, counts, class_weights)


def smooth(targets: Float[Array, "*pixels classes"], label_smoothing: float) -> Array:
    """Mixes the targets with the uniform distribution: (1 - e) p + e / classes."""
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"label_smoothing is {label_smoothing}, but must lie in 0..1")
    if label_smoothing == 0.0:
        return targets
    return (1.0 - label_smoothing) * targets + label_smoothing / targets.shape[-1]


def dot(targets: Array, values: Array) -> Float[Array, "*pixels"]:
    """The expectation of `values` under the targets, where 0 times infinity is 0."""
    return jnp.sum(jnp.where(targets > 0, targets * values, 0.0), -1)


def reduce(
    values: Float[Array, "*pixels"], pixels: Pixels, how: Reduce, axis_name: str | None
) -> Float[Array, ""] | Float[Array, "*pixels"]:
    """The weighted mean over the pixels that count, on all replicas, or the weighted map.

    The weight of a pixel is 1, or the class weight expected under its label.
    """
    weights = pixels.counts
    if pixels.class_weights is not None:
        weights = weights * jnp.sum(
            pixels.targets * jnp.broadcast_to(pixels.class_weights, pixels.targets.shape), -1
        )
    values = values * weights
    if how is None:
        return values
    if how != "mean":
        raise ValueError(f'reduce is {how!r}, but must be "mean" or None (for the per-pixel map)')
    return divide(total(jnp.sum(values), axis_name), total(jnp.sum(weights), axis_name))


def total(value: Array, axis_name: str | None) -> Array:
    """The sum over replicas, or the value itself where there is no axis.

    One array a call: jax 0.7 can't transpose a psum of several when only some are differentiated.
    """
    return value if axis_name is None else lax.psum(value, axis_name)


def divide(numerator: Array, denominator: Array) -> Array:
    """The quotient, and 0 with zero gradient where the denominator is 0."""
    empty = denominator == 0
    return jnp.where(empty, 0.0, numerator / jnp.where(empty, 1.0, denominator))
