"""Losses of single pixels that are no divergences: made for hard labels, defined for all.

They share the contract of the divergences: logits `[*pixels, classes]`, labels class indices
`[*pixels]` or distributions p `[*pixels, classes]`, of which each is the expectation of what it is
for an index; the mean over the pixels in `where`, each weighted by its class weight, over all
replicas if `axis_name` is given; `reduce=None` gives the weighted map.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxseg import checks
from jaxseg.losses import _pixels as pixels
from jaxseg.losses._pixels import Pair, Term
from jaxseg.losses.divergences import cross_entropy, relative_entropy

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int, Num


def _focal_value(pair: Pair, gamma: float) -> Array:
    return -pixels.dot(pair.p * _power(_rest(pair), gamma), pair.log_q)


def _focal_slope(pair: Pair, gamma: float) -> Array:
    rest = _rest(pair)
    # log q / (1 - q), which goes to -1 where q goes to 1.
    ratio = jnp.where(rest > 0, pixels.divide(pair.log_q, rest), -1.0)
    along = jnp.where(pair.q > 0, gamma * pair.q * ratio, 0.0)
    return pair.p * _power(rest, gamma) * (along - 1.0)


def _power(rest: Array, gamma: float) -> Array:
    """rest^gamma, whose derivatives are 0 where rest is."""
    positive = rest > 0
    return jnp.where(positive, jnp.where(positive, rest, 1.0) ** gamma, float(gamma == 0))


def _rest(pair: Pair) -> Array:
    """1 - q, without rounding to 0 before q is 1."""
    return -jnp.expm1(pair.log_q)


def _generalized_value(pair: Pair, power: float) -> Array:
    return pixels.dot(pair.p, -jnp.expm1(power * pair.log_q) / power)


_FOCAL = Term(_focal_value, _focal_slope)
_POLY1 = Term(
    lambda pair, epsilon: (
        -pixels.dot(pair.p, pair.log_q) + epsilon * jnp.sum(pair.p * _rest(pair), -1)
    ),
    lambda pair, epsilon: -pair.p * (1.0 + epsilon * pair.q),
)
_GENERALIZED = Term(_generalized_value, lambda pair, power: -pair.p * jnp.exp(power * pair.log_q))
_SYMMETRIC = Term(
    lambda pair, alpha, beta, floor: (
        -alpha * pixels.dot(pair.p, pair.log_q)
        - beta * jnp.sum(pair.q * jnp.maximum(pair.log_p, floor), -1)
    ),
    lambda pair, alpha, beta, floor: (
        -alpha * pair.p - beta * pair.q * jnp.maximum(pair.log_p, floor)
    ),
)


_ENTROPY = Term(
    lambda pair: -pixels.dot(pair.q, pair.log_q),
    lambda pair: -jnp.where(pair.q > 0, pair.q * pair.log_q, 0.0),
    merges=False,
)


def focal(
    logits: Float[Array, "*pixels classes"],
    labels: Num[Array, "*pixels"] | Num[Array, "*pixels classes"],
    *,
    where: Bool[Array, "*pixels"] | None = None,
    class_weights: Float[Array, " classes"] | None = None,
    gamma: float = 2.0,
    reduce: pixels.Reduce = "mean",
    axis_name: str | None = None,
) -> Float[Array, ""] | Float[Array, "*pixels"]:
    """The cross-entropy of each pixel times (1 - q_y)^gamma, which mutes what is already right.

    Over the softmax; `sigmoid_focal` is the original, of one against the rest (Lin et al. 2017,
    arXiv:1708.02002). Its balancing alpha is `class_weights` here. At gamma 0 it is the
    cross-entropy. Not proper: its minimum lies at less certain probabilities than the true ones.

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[0.25, 0.75]]))
    >>> print(f"{focal(logits, jnp.array([1])):.4f}")  # 0.25^2 log(4/3)
    0.0180
    """
    checks.amount("gamma", gamma)
    return pixels.pixelwise(
        _FOCAL,
        (float(gamma),),
        logits,
        labels,
        where=where,
        class_weights=class_weights,
        reduce=reduce,
        axis_name=axis_name,
    )


def poly1(
    logits: Float[Array, "*pixels classes"],
    labels: Num[Array, "*pixels"] | Num[Array, "*pixels classes"],
    *,
    where: Bool[Array, "*pixels"] | None = None,
    class_weights: Float[Array, " classes"] | None = None,
    epsilon: float = 1.0,
    reduce: pixels.Reduce = "mean",
    axis_name: str | None = None,
) -> Float[Array, ""] | Float[Array, "*pixels"]:
    """The cross-entropy plus epsilon (1 - q_y), which changes its first polynomial coefficient.

    At epsilon 0 it is the cross-entropy (Leng et al. 2022, arXiv:2204.12511).

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[0.25, 0.75]]))
    >>> print(f"{poly1(logits, jnp.array([1])):.4f}")  # log(4/3) + 0.25
    0.5377
    """
    checks.number("epsilon", epsilon)
    return pixels.pixelwise(
        _POLY1,
        (float(epsilon),),
        logits,
        labels,
        where=where,
        class_weights=class_weights,
        reduce=reduce,
        axis_name=axis_name,
    )


def generalized_cross_entropy(
    logits: Float[Array, "*pixels classes"],
    labels: Num[Array, "*pixels"] | Num[Array, "*pixels classes"],
    *,
    where: Bool[Array, "*pixels"] | None = None,
    class_weights: Float[Array, " classes"] | None = None,
    q: float = 0.7,
    reduce: pixels.Reduce = "mean",
    axis_name: str | None = None,
) -> Float[Array, ""] | Float[Array, "*pixels"]:
    """The loss (1 - q_y^q) / q, between the cross-entropy (q to 0) and 1 - q_y (q = 1).

    Wrong labels, whose q_y stays small, pull less at it the larger q (Zhang and Sabuncu 2018,
    arXiv:1805.07836). For class indices it is a times `alpha_divergence` of a = 1 - q.

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[0.25, 0.75]]))
    >>> value = generalized_cross_entropy(logits, jnp.array([1]), q=0.5)
    >>> print(f"{value:.4f}")  # (1 - sqrt 0.75) / 0.5
    0.2679
    """
    checks.number("q", q)
    if not 0.0 < q <= 1.0:
        raise ValueError(f"q is {q}, but must lie in (0, 1]; for 0 use cross_entropy")
    return pixels.pixelwise(
        _GENERALIZED,
        (float(q),),
        logits,
        labels,
        where=where,
        class_weights=class_weights,
        reduce=reduce,
        axis_name=axis_name,
    )


def symmetric_cross_entropy(
    logits: Float[Array, "*pixels classes"],
    labels: Num[Array, "*pixels"] | Num[Array, "*pixels classes"],
    *,
    where: Bool[Array, "*pixels"] | None = None,
    class_weights: Float[Array, " classes"] | None = None,
    alpha: float = 0.1,
    beta: float = 1.0,
    floor: float = -4.0,
    reduce: pixels.Reduce = "mean",
    axis_name: str | None = None,
) -> Float[Array, ""] | Float[Array, "*pixels"]:
    """alpha H(p, q) + beta H(q, p), where log p is no less than `floor`.

    For class indices the second is -floor (1 - q_y), a bounded loss that wrong labels pull less at
    (Wang et al. 2019, arXiv:1908.06112, with these defaults, theirs for CIFAR-10).

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[0.25, 0.75]]))
    >>> value = symmetric_cross_entropy(logits, jnp.array([1]))
    >>> print(f"{value:.4f}")  # 0.1 log(4/3) + 4 * 0.25
    1.0288
    """
    checks.amount("alpha", alpha)
    checks.amount("beta", beta)
    checks.number("floor", floor)
    if not -math.inf < floor < 0:
        raise ValueError(f"floor is {floor}, but must be negative and finite, like log(0.02) = -4")
    return pixels.pixelwise(
        _SYMMETRIC,
        (float(alpha), float(beta), float(floor)),
        logits,
        labels,
        where=where,
        class_weights=class_weights,
        reduce=reduce,
        axis_name=axis_name,
    )


def logit_adjusted(
    logits: Float[Array, "*pixels classes"],
    labels: Num[Array, "*pixels"] | Num[Array, "*pixels classes"],
    *,
    prior: Sequence[float],
    where: Bool[Array, "*pixels"] | None = None,
    class_weights: Float[Array, " classes"] | None = None,
    tau: float = 1.0,
    label_smoothing: float = 0.0,
    reduce: pixels.Reduce = "mean",
    axis_name: str | None = None,
) -> Float[Array, ""] | Float[Array, "*pixels"]:
    """The cross-entropy of logits + tau log(prior), which asks rare classes for a wider margin.

    `prior` holds the classes' frequencies in training, all positive; their sum does not matter. The
    argmax of the plain logits is then right for classes of equal frequency (Menon et al. 2021,
    arXiv:2007.07314).

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[0.25, 0.75]]))
    >>> value = logit_adjusted(logits, jnp.array([1]), prior=(0.9, 0.1))
    >>> print(f"{value:.4f}")  # log(1 + 0.25 * 0.9 / (0.75 * 0.1))
    1.3863
    """
    checks.number("tau", tau)
    logits, *_ = pixels.check(logits, labels, where, class_weights)
    prior = tuple(map(float, prior))
    if len(prior) != logits.shape[-1] or not all(0.0 < x < math.inf for x in prior):
        raise ValueError(
            f"prior is {prior}, but must have a positive number for each of the classes of logits "
            f"{list(logits.shape)}"
        )
    shift = jnp.asarray([tau * math.log(x) for x in prior])
    wide = pixels.wide(logits)
    return cross_entropy(
        wide + jnp.broadcast_to(shift.astype(wide.dtype), wide.shape),
        labels,
        where=where,
        class_weights=class_weights,
        label_smoothing=label_smoothing,
        reduce=reduce,
        axis_name=axis_name,
    )


def hard_pixels(
    loss: Callable,
    *,
    fraction: float | None = None,
    threshold: float | None = None,
    minimum: int = 1,
) -> Callable:
    """Makes of a pixelwise loss the mean over its hardest pixels alone.

    Either over the largest `fraction` of the pixels that count (top-k), rounded up, or over those
    with a loss above `threshold` (online hard example mining, Shrivastava et al. 2016,
    arXiv:1604.03540), in nats for a cross-entropy: log(1 / 0.7) keeps those with q_y below 0.7. At
    least `minimum` are kept, if so many count. Pixels of equal loss at the boundary are all kept.
    They are chosen among all replicas together, by their loss without class weights, by which the
    mean then weighs them.

    The result has the signature of the loss, without `reduce`. The loss needs one value for each
    pixel.

    >>> import jax.numpy as jnp
    >>> from jaxseg.losses import cross_entropy
    >>> logits = jnp.log(jnp.array([[0.25, 0.75], [0.5, 0.5], [0.9, 0.1], [0.2, 0.8]]))
    >>> hard = hard_pixels(cross_entropy, fraction=0.5)
    >>> print(f"{hard(logits, jnp.array([1, 1, 0, 0])):.4f}")  # (log 5 + log 2) / 2
    1.1513
    """
    if (fraction is None) == (threshold is None):
        raise ValueError("give either fraction or threshold")
    if fraction is not None and not 0.0 < fraction <= 1.0:
        raise ValueError(f"fraction is {fraction}, but must lie in (0, 1]")
    if minimum < 1:
        raise ValueError(f"minimum is {minimum}, but must be at least 1")

    pixels.check_pixelwise("hard_pixels", loss)

    def hard(logits, labels, *, where=None, class_weights=None, axis_name=None, **options):
        values = loss(logits, labels, where=where, reduce=None, **options)
        classes = jnp.shape(logits)[-1]
        pixels.check_map("hard_pixels", loss, values, labels, classes)
        labels, where = jnp.asarray(labels), checks.where(where, values.shape)
        counts = jnp.ones(values.shape, bool) if where is None else where
        number = pixels.total(jnp.sum(counts), axis_name)
        if fraction is None:
            wanted = pixels.total(jnp.sum(counts & (values > threshold)), axis_name)
        else:
            wanted = jnp.ceil(fraction * number).astype(number.dtype)
        wanted = jnp.minimum(jnp.maximum(wanted, minimum), number)
        kept = counts & _among_largest(lax.stop_gradient(values), counts, wanted, axis_name)
        class_weights = pixels.check_weights(class_weights, jnp.asarray(logits))
        shape = (*values.shape, classes)
        weights = pixels.weights(labels, where, class_weights, shape, values.dtype)
        values, weights = (jnp.where(kept, x, 0.0) for x in (values * weights, weights))
        return pixels.reduced(values, weights, "mean", axis_name)

    return hard


def _among_largest(
    values: Float[Array, "*pixels"],
    counts: Bool[Array, "*pixels"],
    number: Int[Array, ""],
    axis_name: str | None,
) -> Bool[Array, "*pixels"]:
    """Whether a value is among the so many largest that count, on all replicas; so is any NaN."""
    # Bit by bit the largest key that so many reach, of keys in the order of the values: a sum over
    # replicas for each bit, and in less time than to sort.
    signed = jnp.int64 if values.dtype == jnp.float64 else jnp.int32
    unsigned = jnp.uint64 if values.dtype == jnp.float64 else jnp.uint32
    bits = jnp.iinfo(signed).bits
    key = lax.bitcast_convert_type(jnp.where(jnp.isnan(values), jnp.inf, values), signed)
    key = lax.bitcast_convert_type(jnp.where(key < 0, ~key, key ^ jnp.iinfo(signed).min), unsigned)
    least = jnp.zeros((), unsigned)
    for bit in reversed(range(bits)):
        higher = least | np.array(1 << bit, unsigned)
        enough = pixels.total(jnp.sum(counts & (key >= higher)), axis_name) >= number
        least = jnp.where(enough, higher, least)
    return key >= least


def entropy(
    logits: Float[Array, "*pixels classes"],
    *,
    where: Bool[Array, "*pixels"] | None = None,
    reduce: pixels.Reduce = "mean",
    axis_name: str | None = None,
) -> Float[Array, ""] | Float[Array, "*pixels"]:
    """The entropy -sum q log q of the prediction, in nats: from 0 to log(classes).

    As a loss it makes predictions on unlabelled pixels certain (Grandvalet and Bengio 2004).

    >>> import jax.numpy as jnp
    >>> print(f"{entropy(jnp.zeros((1, 4))):.4f}")  # log 4
    1.3863
    """
    return pixels.pixelwise(
        _ENTROPY,
        (),
        logits,
        jnp.zeros(jnp.shape(logits)[:-1], jnp.int32),  # which it does not depend on
        where=where,
        class_weights=None,
        reduce=reduce,
        axis_name=axis_name,
    )


def confidence_penalty(
    logits: Float[Array, "*pixels classes"],
    *,
    where: Bool[Array, "*pixels"] | None = None,
    reduce: pixels.Reduce = "mean",
    axis_name: str | None = None,
) -> Float[Array, ""] | Float[Array, "*pixels"]:
    """The divergence log(classes) - H(q) of the prediction from the uniform distribution.

    As a small term beside another loss it keeps predictions from certainty (Pereyra et al. 2017,
    arXiv:1701.06548, up to a constant that makes it 0 at its least).

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[0.25, 0.75]]))
    >>> print(f"{confidence_penalty(logits):.4f}")  # log 2 + 0.25 log 0.25 + 0.75 log 0.75
    0.1308
    """
    return relative_entropy(
        logits,
        jnp.zeros(jnp.shape(logits)[:-1], jnp.int32),
        where=where,
        label_smoothing=1.0,  # so that nothing is left of the labels
        reduce=reduce,
        axis_name=axis_name,
    )
