"""Losses between predictions, and of distributions over the picture instead of single pixels.

Logits are `[*pixels, classes]`; values are in nats, over the pixels in `where` and over all
replicas if `axis_name` is given. Computed in float32 at least.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import lax

from jaxseg import checks
from jaxseg.losses import _pixels as pixels
from jaxseg.losses.divergences import kl_divergence, kl_of

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Num


def knowledge_distillation(
    logits: Float[Array, "*pixels classes"],
    teacher_logits: Float[Array, "*pixels classes"],
    *,
    where: Bool[Array, "*pixels"] | None = None,
    class_weights: Float[Array, " classes"] | None = None,
    temperature: float = 4.0,
    reduce: pixels.Reduce = "mean",
    axis_name: str | None = None,
) -> Float[Array, ""] | Float[Array, "*pixels"]:
    """T^2 D(p || q) of the teacher's p and the student's q, both softmaxes of logits / T.

    For a large temperature T it is half the mean square, over the classes, of the difference of
    the logits without their means. No gradient flows to the teacher (Hinton et al. 2015,
    arXiv:1503.02531).

    >>> import jax.numpy as jnp
    >>> student, teacher = jnp.array([[0.0, 2.0]]), jnp.array([[0.0, 0.0]])
    >>> print(f"{knowledge_distillation(student, teacher, temperature=1000.0):.4f}")  # (1 + 1) / 4
    0.5000
    """
    teacher_logits = _like(logits, teacher_logits, "teacher_logits")
    checks.positive("temperature", temperature)
    p = jnp.exp(pixels.log_probs(lax.stop_gradient(teacher_logits), where, temperature))
    return kl_divergence(
        logits,
        p,
        where=where,
        class_weights=class_weights,
        temperature=temperature,
        reduce=reduce,
        axis_name=axis_name,
    )


def channel_distillation(
    logits: Float[Array, "images *pixels classes"],
    teacher_logits: Float[Array, "images *pixels classes"],
    *,
    where: Bool[Array, " images *pixels"] | None = None,
    temperature: float = 4.0,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """T^2 D(p || q) where p and q are distributions of each class over the pixels of an image.

    Softmaxes of logits / T over the pixels that count, so that a class's overall level does not
    matter but where it is seen; averaged over the classes, and over the images that have pixels
    that count. No gradient flows to the teacher (Shu et al. 2021, arXiv:2011.13256).

    >>> import jax.numpy as jnp
    >>> student = jnp.log(jnp.array([[[1.0], [3.0]]]))  # one image of two pixels, one class
    >>> teacher = jnp.log(jnp.array([[[1.0], [1.0]]]))
    >>> value = channel_distillation(student, teacher, temperature=1.0)
    >>> print(f"{value:.4f}")  # log 2 / sqrt 3
    0.1438
    """
    logits = jnp.asarray(logits)
    teacher_logits = _like(logits, teacher_logits, "teacher_logits")
    if logits.ndim < 3:
        raise ValueError(
            f"logits are {list(logits.shape)}, but channel_distillation needs [images, *pixels, "
            "classes]"
        )
    checks.positive("temperature", temperature)
    counts = _where(logits, where)
    counts = counts.reshape(len(logits), math.prod(counts.shape[1:]), 1)
    log_q, log_p = (
        _over_pixels(x, counts, temperature) for x in (logits, lax.stop_gradient(teacher_logits))
    )
    divergence = jnp.mean(kl_of(log_p, log_q), -1)
    some = jnp.any(counts, (1, 2)).astype(divergence.dtype)
    value = pixels.total(jnp.sum(divergence * some), axis_name)
    return temperature**2 * pixels.divide(value, pixels.total(jnp.sum(some), axis_name))


def marginal_kl(
    logits: Float[Array, "*pixels classes"],
    labels: Num[Array, "*pixels"] | Num[Array, "*pixels classes"],
    *,
    where: Bool[Array, "*pixels"] | None = None,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """D(mean p || mean q) of the class proportions over all pixels that count.

    At most the mean of the pixels' divergences. For labels that say how much there is of a class
    rather than where.

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[0.25, 0.75], [0.75, 0.25]]))
    >>> print(f"{marginal_kl(logits, jnp.array([0, 1])):.4f}")  # both proportions are 1/2
    0.0000
    """
    logits, labels, where, _ = pixels.check(logits, labels, where, None)
    predicted, labelled, counted = pixels.class_sums(
        ("predicted", "labelled", "counted"), logits, labels, where=where, axis_name=axis_name
    )
    p, q = pixels.divide(labelled, counted), pixels.divide(predicted, counted)
    # The largest quotient that float32 holds, where a class is labelled and never predicted.
    log_q = jnp.where((p > 0) | (q > 0), jnp.log(jnp.maximum(q, 1e-37)), -jnp.inf)
    return kl_of(pixels.log(p), log_q)


def consistency(
    logits: Float[Array, "predictions *pixels classes"] | Sequence[Float[Array, "*pixels classes"]],
    *,
    where: Bool[Array, "*pixels"] | None = None,
    weights: Sequence[float] | None = None,
    reduce: pixels.Reduce = "mean",
    axis_name: str | None = None,
) -> Float[Array, ""] | Float[Array, "*pixels"]:
    """The Jensen-Shannon divergence H(sum w q) - sum w H(q) of several predictions of each pixel.

    0 where all agree, at most the entropy of the weights, which are 1 over the number by default.
    For augmented views (Hendrycks et al. 2020, arXiv:1912.02781), ensembles and dropout: it is the
    mutual information of prediction and member.

    >>> import jax.numpy as jnp
    >>> certain = jnp.array([[[40.0, 0.0]], [[0.0, 40.0]]])
    >>> print(f"{consistency(certain):.4f}")  # log 2
    0.6931
    """
    logits = jnp.stack([jnp.asarray(x) for x in logits])
    number = len(logits)
    shares = [1.0 / number] * number if weights is None else [float(x) for x in weights]
    if len(shares) != number or min(shares) <= 0 or not math.isclose(sum(shares), 1.0):
        raise ValueError(
            f"weights are {weights}, but must be {number} positive numbers whose sum is 1"
        )
    counts = _where(logits[0], where)
    log_q = jnp.stack([pixels.log_probs(x, counts) for x in logits])
    log_w = jnp.log(jnp.asarray(shares, log_q.dtype)).reshape(-1, *[1] * (log_q.ndim - 1))
    log_m = jax.nn.logsumexp(log_q + jnp.broadcast_to(log_w, log_q.shape), 0)
    divergence = kl_of(log_q, jnp.broadcast_to(log_m, log_q.shape))
    values = jnp.sum(jnp.broadcast_to(jnp.exp(log_w)[..., 0], divergence.shape) * divergence, 0)
    values = jnp.where(counts, values, 0.0)
    return pixels.reduced(values, counts.astype(values.dtype), reduce, axis_name)


def mutual_information(
    logits: Float[Array, "images *pixels classes"],
    other_logits: Float[Array, "images *pixels classes"],
    *,
    where: Bool[Array, " images *pixels"] | None = None,
    displacement: int = 0,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """Minus the mutual information of two predictions' classes, over all pixels that count.

    Of the joint distribution (P + P^T) / 2, with P the mean of q(x) q'(x + t)^T over the pixels x
    for which x + t is in the image, too, and both count; then the mean over the displacements t of
    at most `displacement` along each axis. From 0 for independent classes down to minus their
    entropy, at most the logarithm of their number: least where the predictions are certain, agree
    and use all classes alike. Learns without labels from two views of an image, warped back onto
    each other; gradients flow to both (Ji et al. 2019, arXiv:1807.06653).

    >>> import jax.numpy as jnp
    >>> certain = jnp.array([[[40.0, 0.0], [0.0, 40.0]]])  # one image of two pixels
    >>> print(f"{mutual_information(certain, certain):.4f}")  # -log 2
    -0.6931
    """
    other_logits = _like(logits, other_logits, "other_logits")
    logits, _, where, _ = pixels.check(logits, other_logits, where, None)
    if logits.ndim < 2:
        raise ValueError(
            f"logits are {list(logits.shape)}, but mutual_information needs [images, *pixels, "
            "classes]"
        )
    sides = logits.shape[1:-1]
    checks.number("displacement", displacement)
    if displacement not in range(min(sides, default=1)):
        raise ValueError(
            f"displacement is {displacement}, but must be a whole number of at least 0, and less "
            f"than the sides of logits {list(logits.shape)}"
        )
    q, other = (
        pixels.masked(jnp.exp(pixels.log_probs(x, where)), where) for x in (logits, other_logits)
    )
    joints = pixels.total(_joints(q, other, int(displacement)), axis_name)
    amounts = jnp.sum(joints, (1, 2), keepdims=True)
    joints = pixels.divide((joints + joints.transpose(0, 2, 1)) / 2.0, amounts)
    shares = jnp.sum(joints, -1)
    log_joints, log_shares = (jnp.log(jnp.maximum(x, 1e-37)) for x in (joints, shares))
    gain = log_joints - log_shares[:, :, None] - log_shares[:, None, :]
    some = jnp.sum((amounts != 0).astype(joints.dtype))
    return -pixels.divide(jnp.sum(joints * gain), some)


@functools.partial(jax.jit, static_argnames="displacement")
def _joints(
    q: Float[Array, "images *pixels classes"],
    other: Float[Array, "images *pixels classes"],
    displacement: int,
) -> Float[Array, "displacements classes classes"]:
    """The sums of q(x) q'(x + t)^T over the pixels x, for each displacement t."""
    rank = q.ndim - 2
    # Pixels beyond the image are like those that don't count: 0.
    other = jnp.pad(other, [(0, 0), *[(displacement, displacement)] * rank, (0, 0)])

    def joint(start):
        moved = lax.dynamic_slice(other, (0, *start, 0), q.shape)
        # In full precision, which accelerators otherwise save on.
        return jnp.einsum("...a,...b->ab", q, moved, precision=lax.Precision.HIGHEST)

    # One after the other: the slices of all displacements at once would be as many copies.
    starts = list(itertools.product(range(2 * displacement + 1), repeat=rank))
    return lax.map(jax.checkpoint(joint), jnp.array(starts))


def _like(logits: Array, others: Array, name: str) -> Array:
    others = jnp.asarray(others)
    if others.shape != jnp.shape(logits) or not jnp.issubdtype(others.dtype, jnp.floating):
        raise ValueError(
            f"{name} are {others.dtype}{list(others.shape)} for logits "
            f"{list(jnp.shape(logits))}, but must be floating-point and have their shape"
        )
    return others


def _where(logits: Array, where: Array | None) -> Bool[Array, "*pixels"]:
    shape = logits.shape[:-1]
    return jnp.ones(shape, bool) if where is None else checks.where(where, shape)


def _over_pixels(logits: Array, counts: Array, temperature: float) -> Array:
    """The log-softmax of each class over the pixels that count, [images, classes, pixels]."""
    flat = pixels.wide(logits).reshape(*counts.shape[:-1], logits.shape[-1]) / temperature
    flat = jnp.where(counts, flat, 0.0)
    largest = jnp.max(jnp.where(counts, flat, -jnp.inf), 1, keepdims=True)
    largest = lax.stop_gradient(jnp.where(jnp.isfinite(largest), largest, 0.0))
    powers = jnp.where(counts, jnp.exp(flat - largest), 0.0)
    total = jnp.sum(powers, 1, keepdims=True)
    log_shares = flat - largest - jnp.log(jnp.where(total > 0, total, 1.0))
    return jnp.swapaxes(jnp.where(counts, log_shares, -jnp.inf), 1, 2)
