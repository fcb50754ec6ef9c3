"""Divergences between the label distribution p and the prediction q = softmax(logits).

All are in nats and share one contract. Logits are `[*pixels, classes]`, labels class indices
`[*pixels]` or distributions `[*pixels, classes]`. The value is the mean over the pixels in
`where`, each weighted by its class weight, over all replicas if `axis_name` is given;
`reduce=None` gives the weighted map `[*pixels]` instead. Computed in float32 at least, from
log-probabilities. `label_smoothing` e replaces p by (1 - e) p + e / classes; an optimum is then at
the smoothed labels. Differentiable in reverse mode, any number of times.

Each divergence is a sum over classes of terms that are never negative, sum q f(p/q) with the f
that has its minimum, 0, at 1. So none is negative by rounding, and small ones keep their digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from jaxseg import checks
from jaxseg.losses import _pixels as pixels
from jaxseg.losses._pixels import Pair, Term

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Num

# The exponent at which what grows without bound saturates, so that a sum over an image of it, and
# its gradient, stay finite in float32.
_LARGEST = 60.0


def _convex(p: Array, q: Array, log_ratio: Array, b: float) -> Array:
    """(q - p - (p^(1-b) q^b - p) / b) / (1 - b), which is p times a convex function of log(q/p).

    For b = 0 its limit q - p - p log(q/p), whose sum is D(p || q); b must not be 1. `log_ratio` is
    log(q/p), and +inf where p is 0.
    """
    # Where q is close to p all cancels but the series sum_n log(q/p)^n (1 + b + ... + b^(n-2))/n!.
    close = jnp.abs(log_ratio) * max(1.0, abs(b)) < 0.05
    x = jnp.where(close, log_ratio, 0.0)
    series = jnp.zeros_like(x)
    for n in reversed(range(2, 10)):
        series = series * x + sum(b**k for k in range(n - 1)) / math.factorial(n)
    exact = jnp.where((p == 0) | close, 0.0, log_ratio)
    away = p * (jnp.expm1(jnp.minimum(b * exact, _LARGEST)) / b if b else exact)
    return jnp.where(close, p * x * x * series, (q - p - away) / (1.0 - b))


def _alpha_value(pair: Pair, alpha: float) -> Array:
    if alpha >= 0.5:
        return jnp.sum(_convex(pair.p, pair.q, pair.log_ratio, 1.0 - alpha), -1)
    # By the symmetry with p and q exchanged, or nothing would be left of small orders.
    log_ratio = jnp.where(pair.q > 0, pair.log_p - pair.log_q, jnp.inf)
    return jnp.sum(_convex(pair.q, pair.p, log_ratio, alpha), -1)


def _alpha_slope(pair: Pair, alpha: float) -> Array:
    q = pair.q
    if alpha == 0.0:
        return jnp.where(q > 0, q * pair.log_ratio, 0.0)
    if alpha == 1.0:
        return -pair.p
    x = -alpha * pair.log_ratio
    power = jnp.exp(jnp.minimum(alpha * pair.log_p + (1.0 - alpha) * pair.log_q, _LARGEST))
    slope = jnp.where(x < 1.0, -q * jnp.expm1(jnp.minimum(x, 1.0)), q - power) / alpha
    # A class that neither p nor q has is none, though 0 to a negative power is infinite.
    return slope if alpha > 0 else jnp.where(q > 0, slope, 0.0)


def _log_power_sum(pair: Pair, order: float) -> tuple[Array, Array]:
    """log(p^order q^(1-order)) of each class, and the logarithm of the sum over classes."""
    log_powers = jnp.where(pair.p > 0, order * pair.log_p + (1.0 - order) * pair.log_q, -jnp.inf)
    return log_powers, jax.nn.logsumexp(log_powers, -1)


def _renyi_value(pair: Pair, order: float) -> Array:
    excess = order * (order - 1.0) * _alpha_value(pair, order)  # sum of powers, minus 1
    close = jnp.abs(excess) < 0.5
    near = jnp.log1p(jnp.where(close, excess, 0.0))
    return jnp.where(close, near, _log_power_sum(pair, order)[1]) / (order - 1.0)


def _renyi_slope(pair: Pair, order: float) -> Array:
    excess = order * (order - 1.0) * _alpha_value(pair, order)[..., None]
    log_powers, log_sum = _log_power_sum(pair, order)
    near = order * _alpha_slope(pair, order) / (1.0 + excess)
    return jnp.where(jnp.abs(excess) < 0.5, near, -jnp.exp(log_powers - log_sum[..., None]))


def _excess(x: Array) -> Array:
    """(1 + x) log(1 + x) - x for x of at least -1."""
    close = jnp.abs(x) < 0.3
    series = jnp.zeros_like(x)
    for n in reversed(range(2, 30 if x.dtype == jnp.float64 else 14)):
        series = 1.0 / (n * (n - 1)) - x * series  # of (-x)^n / (n (n - 1))
    ratio = jnp.maximum(1.0 + x, jnp.finfo(x.dtype).tiny)
    return jnp.where(close, x * x * series, ratio * jnp.log(ratio) - x)


def _mixture(pair: Pair, weight: float) -> tuple[Array, Array]:
    """m = weight p + (1 - weight) q, and (q - p) / m."""
    m = weight * pair.p + (1.0 - weight) * pair.q
    return m, (pair.q - pair.p) / jnp.where(m > 0, m, 1.0)


def _jensen_shannon_value(pair: Pair, weight: float, scale: float) -> Array:
    m, u = _mixture(pair, weight)
    # p / m = 1 - (1 - weight) u and q / m = 1 + weight u.
    of_p, of_q = _excess((weight - 1.0) * u), _excess(weight * u)
    return scale * jnp.sum(m * (weight * of_p + (1.0 - weight) * of_q), -1)


def _jensen_shannon_slope(pair: Pair, weight: float, scale: float) -> Array:
    m, u = _mixture(pair, weight)
    close = jnp.abs(weight * u) < 0.5
    far = pair.log_q - jnp.log(jnp.where(m > 0, m, 1.0))
    log_ratio = jnp.where(close, jnp.log1p(jnp.where(close, weight * u, 0.0)), far)
    return scale * (1.0 - weight) * jnp.where(pair.q > 0, pair.q * log_ratio, 0.0)


def _jeffreys_value(pair: Pair) -> Array:
    difference = pair.difference
    return jnp.sum(jnp.where(difference == 0, 0.0, difference * pair.log_ratio), -1)


def _ratio(pair: Pair) -> Array:
    """p / q, up to exp(40), whose square and a little more float32 can hold."""
    return jnp.exp(jnp.minimum(-pair.log_ratio, 40.0))


def _generated_value(pair: Pair, f: Callable) -> Array:
    ratio = _ratio(pair)
    # q f(p/q) = p f(p/q) / (p/q), of which one is good where q is small and the other where p is.
    share = jnp.where(ratio > 1.0, pair.p / jnp.maximum(ratio, 1.0), pair.q)
    return jnp.sum(share * f(ratio), -1)


def _generated_slope(pair: Pair, f: Callable) -> Array:
    ratio = _ratio(pair)
    share = jnp.where(ratio > 1.0, pair.p / jnp.maximum(ratio, 1.0), pair.q)
    positive = jnp.where(ratio > 0, ratio, 1.0)
    value, derivative = jax.jvp(f, (positive,), (jnp.ones_like(positive),))
    return share * jnp.where(ratio > 0, value - positive * derivative, f(jnp.zeros_like(ratio)))


_CROSS_ENTROPY = Term(lambda pair: -pixels.dot(pair.p, pair.log_q), lambda pair: -pair.p)
_ALPHA = Term(_alpha_value, _alpha_slope)
_TSALLIS = Term(
    lambda pair, order: order * _alpha_value(pair, order),
    lambda pair, order: order * _alpha_slope(pair, order),
)
_RENYI = Term(_renyi_value, _renyi_slope)
_JENSEN_SHANNON = Term(_jensen_shannon_value, _jensen_shannon_slope)
_JEFFREYS = Term(_jeffreys_value, lambda pair: _alpha_slope(pair, 0.0) - pair.p)
_TOTAL_VARIATION = Term(
    lambda pair: 0.5 * jnp.sum(jnp.abs(pair.difference), -1),
    lambda pair: 0.5 * pair.q * jnp.sign(pair.log_ratio),
)
_BRIER = Term(
    lambda pair: jnp.sum(jnp.square(pair.difference), -1),
    lambda pair: 2.0 * pair.q * pair.difference,
    merges=False,
)
_HELLINGER = Term(
    lambda pair: 0.25 * _alpha_value(pair, 0.5), lambda pair: 0.25 * _alpha_slope(pair, 0.5)
)
_CHI_SQUARED = Term(
    lambda pair: 2.0 * _alpha_value(pair, 2.0), lambda pair: 2.0 * _alpha_slope(pair, 2.0)
)
_GENERATED = Term(_generated_value, _generated_slope)


def cross_entropy(
    logits: Float[Array, "*pixels classes"],
    labels: Num[Array, "*pixels"] | Num[Array, "*pixels classes"],
    *,
    where: Bool[Array, "*pixels"] | None = None,
    class_weights: Float[Array, " classes"] | None = None,
    label_smoothing: float = 0.0,
    reduce: pixels.Reduce = "mean",
    axis_name: str | None = None,
) -> Float[Array, ""] | Float[Array, "*pixels"]:
    """The cross-entropy H(p, q) = -sum p log q of the prediction under the label.

    Equals H(p) + `kl_divergence`: for distributions its minimum is the labels' entropy, not 0.
    The mean divides by the total weight, as torch does for class indices, not by the number of
    pixels.

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[0.25, 0.75]]))
    >>> print(f"{cross_entropy(logits, jnp.array([1])):.4f}")  # -log 0.75
    0.2877
    """
    return pixels.pixelwise(
        _CROSS_ENTROPY,
        (),
        logits,
        labels,
        where=where,
        class_weights=class_weights,
        label_smoothing=label_smoothing,
        reduce=reduce,
        axis_name=axis_name,
    )


def kl_divergence(
    logits: Float[Array, "*pixels classes"],
    labels: Num[Array, "*pixels"] | Num[Array, "*pixels classes"],
    *,
    where: Bool[Array, "*pixels"] | None = None,
    class_weights: Float[Array, " classes"] | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    reduce: pixels.Reduce = "mean",
    axis_name: str | None = None,
) -> Float[Array, ""] | Float[Array, "*pixels"]:
    """The divergence D(p || q) = sum p log(p / q) from label to prediction: mode covering.

    0 exactly where q = p. For one-hot labels it is the cross-entropy. A temperature T divides the
    logits, not the labels, and the value is multiplied by T^2 to keep the gradient's size
    (Hinton et al. 2015, arXiv:1503.02531). Definition: Kullback and Leibler 1951.

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[0.25, 0.75]]))
    >>> print(f"{kl_divergence(logits, jnp.array([[0.5, 0.5]])):.4f}")  # log 2 / sqrt 3
    0.1438
    """
    value = pixels.pixelwise(
        _ALPHA,
        (1.0,),
        logits,
        labels,
        where=where,
        class_weights=class_weights,
        label_smoothing=label_smoothing,
        reduce=reduce,
        axis_name=axis_name,
        temperature=temperature,
    )
    return temperature**2 * value


def relative_entropy(
    logits: Float[Array, "*pixels classes"],
    labels: Num[Array, "*pixels"] | Num[Array, "*pixels classes"],
    *,
    where: Bool[Array, "*pixels"] | None = None,
    class_weights: Float[Array, " classes"] | None = None,
    label_smoothing: float = 0.1,
    reduce: pixels.Reduce = "mean",
    axis_name: str | None = None,
) -> Float[Array, ""] | Float[Array, "*pixels"]:
    """The divergence D(q || p) = sum q log(q / p) from prediction to label: mode seeking.

    Infinite where the label gives a class no probability, so p is smoothed first, and the smoothing
    is a hyper-parameter: its size sets the loss's scale, log((1 - e + e/C) / (e/C)) for a certain
    wrong prediction, and its optimum is the smoothed label. Integer labels need it above 0; with
    distributions that have no zeros it may be 0. Also known as the reverse KL divergence.

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[0.25, 0.75]]))
    >>> value = relative_entropy(logits, jnp.array([[0.5, 0.5]]), label_smoothing=0.0)
    >>> print(f"{value:.4f}")  # 0.25 log 0.5 + 0.75 log 1.5
    0.1308
    """
    _need_smoothing("relative_entropy", labels, label_smoothing)
    return pixels.pixelwise(
        _ALPHA,
        (0.0,),
        logits,
        labels,
        where=where,
        class_weights=class_weights,
        label_smoothing=label_smoothing,
        reduce=reduce,
        axis_name=axis_name,
    )


def jeffreys(
    logits: Float[Array, "*pixels classes"],
    labels: Num[Array, "*pixels"] | Num[Array, "*pixels classes"],
    *,
    where: Bool[Array, "*pixels"] | None = None,
    class_weights: Float[Array, " classes"] | None = None,
    label_smoothing: float = 0.1,
    reduce: pixels.Reduce = "mean",
    axis_name: str | None = None,
) -> Float[Array, ""] | Float[Array, "*pixels"]:
    """The symmetric divergence D(p || q) + D(q || p) = sum (p - q) log(p / q).

    The sum of both directions, not their mean. Infinite where p is 0, like `relative_entropy`, and
    smoothed like it. Definition: Jeffreys 1946.

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[0.25, 0.75]]))
    >>> value = jeffreys(logits, jnp.array([[0.5, 0.5]]), label_smoothing=0.0)
    >>> print(f"{value:.4f}")  # 0.25 log 3
    0.2747
    """
    _need_smoothing("jeffreys", labels, label_smoothing)
    return pixels.pixelwise(
        _JEFFREYS,
        (),
        logits,
        labels,
        where=where,
        class_weights=class_weights,
        label_smoothing=label_smoothing,
        reduce=reduce,
        axis_name=axis_name,
    )


def jensen_shannon(
    logits: Float[Array, "*pixels classes"],
    labels: Num[Array, "*pixels"] | Num[Array, "*pixels classes"],
    *,
    where: Bool[Array, "*pixels"] | None = None,
    class_weights: Float[Array, " classes"] | None = None,
    weight: float = 0.5,
    scaled: bool = False,
    label_smoothing: float = 0.0,
    reduce: pixels.Reduce = "mean",
    axis_name: str | None = None,
) -> Float[Array, ""] | Float[Array, "*pixels"]:
    """The divergence w D(p || m) + (1 - w) D(q || m) from the mixture m = w p + (1 - w) q.

    Also H(m) - w H(p) - (1 - w) H(q). Finite for any labels: at weight 1/2 symmetric and at most
    log 2. With `scaled` it is divided by -(1 - w) log(1 - w), which for one-hot labels leads from
    the cross-entropy (w to 0) to 1 - q_y (w to 1), and makes noisy labels matter less as w grows
    (Englesson and Azizpour 2021, arXiv:2105.04522). Definition: Lin 1991.

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[0.25, 0.75]]))
    >>> print(f"{jensen_shannon(logits, jnp.array([1])):.4f}")  # H(1/8, 7/8) - H(1/4, 3/4) / 2
    0.0956
    """
    checks.number("weight", weight)
    if not 0.0 < weight < 1.0:
        raise ValueError(f"weight is {weight}, but must lie between 0 and 1")
    scale = 1.0 / -((1.0 - weight) * math.log1p(-weight)) if scaled else 1.0
    return pixels.pixelwise(
        _JENSEN_SHANNON,
        (float(weight), scale),
        logits,
        labels,
        where=where,
        class_weights=class_weights,
        label_smoothing=label_smoothing,
        reduce=reduce,
        axis_name=axis_name,
    )


def alpha_divergence(
    logits: Float[Array, "*pixels classes"],
    labels: Num[Array, "*pixels"] | Num[Array, "*pixels classes"],
    *,
    where: Bool[Array, "*pixels"] | None = None,
    class_weights: Float[Array, " classes"] | None = None,
    alpha: float = 0.5,
    label_smoothing: float = 0.0,
    reduce: pixels.Reduce = "mean",
    axis_name: str | None = None,
) -> Float[Array, ""] | Float[Array, "*pixels"]:
    """The divergence (sum p^a q^(1-a) - 1) / (a (a - 1)) of order a = `alpha`.

    Leads from `relative_entropy` (a = 0) over four times `hellinger` (1/2) and `kl_divergence` (1)
    to half of `chi_squared` (2): the larger, the more it covers. D_a(p || q) = D_(1-a)(q || p). For
    one-hot labels it is (1 - q_y^(1-a)) / (a (1 - a)), bounded for a between 0 and 1; for a of 0 or
    less the labels must have no zeros, and need label smoothing if they are integers. For a above
    1 it saturates near exp(60). Definition: Chernoff 1952, Amari 1985.

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[0.25, 0.75]]))
    >>> print(f"{alpha_divergence(logits, jnp.array([1])):.4f}")  # 4 (1 - sqrt 0.75)
    0.5359
    """
    checks.number("alpha", alpha)
    if alpha <= 0:
        _need_smoothing(f"alpha_divergence of alpha {alpha}", labels, label_smoothing)
    return pixels.pixelwise(
        _ALPHA,
        (float(alpha),),
        logits,
        labels,
        where=where,
        class_weights=class_weights,
        label_smoothing=label_smoothing,
        reduce=reduce,
        axis_name=axis_name,
    )


def renyi_divergence(
    logits: Float[Array, "*pixels classes"],
    labels: Num[Array, "*pixels"] | Num[Array, "*pixels classes"],
    *,
    where: Bool[Array, "*pixels"] | None = None,
    class_weights: Float[Array, " classes"] | None = None,
    order: float = 2.0,
    label_smoothing: float = 0.0,
    reduce: pixels.Reduce = "mean",
    axis_name: str | None = None,
) -> Float[Array, ""] | Float[Array, "*pixels"]:
    """The divergence log(sum p^a q^(1-a)) / (a - 1) of order a, which must be positive.

    Grows with the order, and is `kl_divergence` at 1. For one-hot labels it is the cross-entropy at
    every order. Finite wherever the logits are. Definition: Renyi 1961.

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[0.25, 0.75]]))
    >>> value = renyi_divergence(logits, jnp.array([[0.5, 0.5]]))
    >>> print(f"{value:.4f}")  # log(0.25 / 0.25 + 0.25 / 0.75)
    0.2877
    """
    _check_order(order)
    return pixels.pixelwise(
        _ALPHA if order == 1 else _RENYI,
        (float(order),),
        logits,
        labels,
        where=where,
        class_weights=class_weights,
        label_smoothing=label_smoothing,
        reduce=reduce,
        axis_name=axis_name,
    )


def tsallis_divergence(
    logits: Float[Array, "*pixels classes"],
    labels: Num[Array, "*pixels"] | Num[Array, "*pixels classes"],
    *,
    where: Bool[Array, "*pixels"] | None = None,
    class_weights: Float[Array, " classes"] | None = None,
    order: float,
    label_smoothing: float = 0.0,
    reduce: pixels.Reduce = "mean",
    axis_name: str | None = None,
) -> Float[Array, ""] | Float[Array, "*pixels"]:
    """The divergence (sum p^a q^(1-a) - 1) / (a - 1) of order a, which must be positive.

    Equals a times `alpha_divergence`, and `kl_divergence` at order 1. For orders above 1 it
    saturates near exp(60). Definition: Tsallis 1998.

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[0.25, 0.75]]))
    >>> value = tsallis_divergence(logits, jnp.array([[0.5, 0.5]]), order=2)
    >>> print(f"{value:.4f}")  # 0.25 / 0.25 + 0.25 / 0.75 - 1
    0.3333
    """
    _check_order(order)
    return pixels.pixelwise(
        _TSALLIS,
        (float(order),),
        logits,
        labels,
        where=where,
        class_weights=class_weights,
        label_smoothing=label_smoothing,
        reduce=reduce,
        axis_name=axis_name,
    )


def total_variation(
    logits: Float[Array, "*pixels classes"],
    labels: Num[Array, "*pixels"] | Num[Array, "*pixels classes"],
    *,
    where: Bool[Array, "*pixels"] | None = None,
    class_weights: Float[Array, " classes"] | None = None,
    label_smoothing: float = 0.0,
    reduce: pixels.Reduce = "mean",
    axis_name: str | None = None,
) -> Float[Array, ""] | Float[Array, "*pixels"]:
    """Half the sum of |p - q|: the largest difference in probability of any set of classes.

    From 0 to 1; for one-hot labels 1 - q_y. At most sqrt(KL / 2) (Pinsker).

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[0.25, 0.75]]))
    >>> print(f"{total_variation(logits, jnp.array([1])):.4f}")  # 1 - 0.75
    0.2500
    """
    return pixels.pixelwise(
        _TOTAL_VARIATION,
        (),
        logits,
        labels,
        where=where,
        class_weights=class_weights,
        label_smoothing=label_smoothing,
        reduce=reduce,
        axis_name=axis_name,
    )


def hellinger(
    logits: Float[Array, "*pixels classes"],
    labels: Num[Array, "*pixels"] | Num[Array, "*pixels classes"],
    *,
    where: Bool[Array, "*pixels"] | None = None,
    class_weights: Float[Array, " classes"] | None = None,
    label_smoothing: float = 0.0,
    reduce: pixels.Reduce = "mean",
    axis_name: str | None = None,
) -> Float[Array, ""] | Float[Array, "*pixels"]:
    """The squared Hellinger distance 1 - sum sqrt(p q), from 0 to 1.

    Between half the squared and the whole `total_variation`. Definition: Hellinger 1909.

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[0.25, 0.75]]))
    >>> print(f"{hellinger(logits, jnp.array([1])):.4f}")  # 1 - sqrt 0.75
    0.1340
    """
    return pixels.pixelwise(
        _HELLINGER,
        (),
        logits,
        labels,
        where=where,
        class_weights=class_weights,
        label_smoothing=label_smoothing,
        reduce=reduce,
        axis_name=axis_name,
    )


def chi_squared(
    logits: Float[Array, "*pixels classes"],
    labels: Num[Array, "*pixels"] | Num[Array, "*pixels classes"],
    *,
    where: Bool[Array, "*pixels"] | None = None,
    class_weights: Float[Array, " classes"] | None = None,
    label_smoothing: float = 0.0,
    reduce: pixels.Reduce = "mean",
    axis_name: str | None = None,
) -> Float[Array, ""] | Float[Array, "*pixels"]:
    """Pearson's divergence sum (p - q)^2 / q.

    Its logarithm, log(1 + chi^2), is `renyi_divergence` of order 2. Grows like 1 / q for a label
    that the prediction rules out, and saturates near exp(60).

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[0.25, 0.75]]))
    >>> print(f"{chi_squared(logits, jnp.array([1])):.4f}")  # 1 / 0.75 - 1
    0.3333
    """
    return pixels.pixelwise(
        _CHI_SQUARED,
        (),
        logits,
        labels,
        where=where,
        class_weights=class_weights,
        label_smoothing=label_smoothing,
        reduce=reduce,
        axis_name=axis_name,
    )


def brier(
    logits: Float[Array, "*pixels classes"],
    labels: Num[Array, "*pixels"] | Num[Array, "*pixels classes"],
    *,
    where: Bool[Array, "*pixels"] | None = None,
    class_weights: Float[Array, " classes"] | None = None,
    label_smoothing: float = 0.0,
    reduce: pixels.Reduce = "mean",
    axis_name: str | None = None,
) -> Float[Array, ""] | Float[Array, "*pixels"]:
    """The squared error sum (p - q)^2, summed over the classes: from 0 to 2.

    A proper score: its expectation is least for the true probabilities (Brier 1950).

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[0.25, 0.75]]))
    >>> print(f"{brier(logits, jnp.array([1])):.4f}")  # 2 * 0.25^2
    0.1250
    """
    return pixels.pixelwise(
        _BRIER,
        (),
        logits,
        labels,
        where=where,
        class_weights=class_weights,
        label_smoothing=label_smoothing,
        reduce=reduce,
        axis_name=axis_name,
    )


def f_divergence(
    logits: Float[Array, "*pixels classes"],
    labels: Num[Array, "*pixels"] | Num[Array, "*pixels classes"],
    *,
    f: Callable[[Array], Array],
    where: Bool[Array, "*pixels"] | None = None,
    class_weights: Float[Array, " classes"] | None = None,
    label_smoothing: float = 0.0,
    reduce: pixels.Reduce = "mean",
    axis_name: str | None = None,
) -> Float[Array, ""] | Float[Array, "*pixels"]:
    """The divergence sum q f(p / q) of a convex function f with f(1) = 0.

    `f` is applied to an array of ratios, class by class, and must be finite at 0 where labels have
    zeros; larger ratios than exp(40) count as that. Its derivative is jax's. Define it once: for
    another function object, though it has the same code, all is compiled anew.

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[0.25, 0.75]]))
    >>> value = f_divergence(logits, jnp.array([1]), f=lambda u: jnp.abs(u - 1) / 2)
    >>> print(f"{value:.4f}")  # the total variation, 1 - 0.75
    0.2500
    """
    return pixels.pixelwise(
        _GENERATED,
        (f,),
        logits,
        labels,
        where=where,
        class_weights=class_weights,
        label_smoothing=label_smoothing,
        reduce=reduce,
        axis_name=axis_name,
    )


def kl_of(log_p: Array, log_q: Array) -> Array:
    """D(p || q) along the last axis, for losses of distributions other than a pixel's."""
    p, q = jnp.exp(log_p), jnp.exp(log_q)
    return jnp.sum(_convex(p, q, jnp.where(p > 0, log_q - log_p, jnp.inf), 0.0), -1)


def _need_smoothing(name: str, labels: Array, label_smoothing: float) -> None:
    if label_smoothing == 0.0 and jnp.issubdtype(jnp.asarray(labels).dtype, jnp.integer):
        raise ValueError(
            f"{name} is infinite for integer labels with label_smoothing 0; give a label_smoothing "
            "in (0, 1], such as 0.1"
        )


def _check_order(order: float) -> None:
    checks.number("order", order)
    if not 0.0 < order < math.inf:
        raise ValueError(f"order is {order}, but must be positive and finite")
