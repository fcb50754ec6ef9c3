"""Losses of yes-no questions: one logit for each, through a sigmoid.

They share one contract. Logits are `[*pixels, channels]`, each channel a question of its own: one
for binary segmentation, several where labels may overlap. Labels have the same shape, or
`[*pixels]` if there is one channel: 0 or 1 as integers or booleans, or probabilities as floats.
`where` is `[*pixels]`, or of the logits' shape where some questions have no answer. The value is
the mean over all answers that count, each weighted by the class weight of its channel, over all
replicas if `axis_name` is given. Computed in float32 at least.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from jaxseg import checks
from jaxseg.losses import _pixels as pixels
from jaxseg.losses import regions

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Num


def sigmoid_cross_entropy(
    logits: Float[Array, "*pixels channels"],
    labels: Num[Array, "*pixels channels"],
    *,
    where: Bool[Array, "*pixels"] | None = None,
    class_weights: Float[Array, " channels"] | None = None,
    pos_weight: float | Float[Array, " channels"] = 1.0,
    label_smoothing: float = 0.0,
    reduce: pixels.Reduce = "mean",
    axis_name: str | None = None,
) -> Float[Array, ""] | Float[Array, "*pixels channels"]:
    """The cross-entropy -w p log s(z) - (1 - p) log s(-z), s the sigmoid, w = `pos_weight`.

    The mean divides by the sum of class weights, not of `pos_weight`, as torch does. Smoothing e
    replaces p by (1 - e) p + e / 2.

    >>> import jax.numpy as jnp
    >>> print(f"{sigmoid_cross_entropy(jnp.log(jnp.array([[3.0]])), jnp.array([[1]])):.4f}")
    0.2877
    """
    logits, labels, counts, class_weights = check_channels(logits, labels, where, class_weights)
    checks.share("label_smoothing", label_smoothing)
    labels = (1.0 - label_smoothing) * labels + label_smoothing / 2.0
    pos_weight = jnp.broadcast_to(jnp.asarray(pos_weight, logits.dtype), logits.shape)
    values = -pos_weight * labels * jax.nn.log_sigmoid(logits)
    values -= (1.0 - labels) * jax.nn.log_sigmoid(-logits)
    return _mean(values, counts, class_weights, reduce, axis_name)


def sigmoid_focal(
    logits: Float[Array, "*pixels channels"],
    labels: Num[Array, "*pixels channels"],
    *,
    where: Bool[Array, "*pixels"] | None = None,
    class_weights: Float[Array, " channels"] | None = None,
    gamma: float = 2.0,
    alpha: float | None = 0.25,
    reduce: pixels.Reduce = "mean",
    axis_name: str | None = None,
) -> Float[Array, ""] | Float[Array, "*pixels channels"]:
    """The focal loss -alpha p (1 - s)^gamma log s - (1 - alpha) (1 - p) s^gamma log(1 - s).

    With s the sigmoid of the logit (Lin et al. 2017, arXiv:1708.02002, with these defaults).
    `alpha` balances positive and negative labels; None gives both the weight 1. The mean is over
    all answers, not over the positive ones.

    >>> import jax.numpy as jnp
    >>> value = sigmoid_focal(jnp.log(jnp.array([[3.0]])), jnp.array([[1]]), alpha=None)
    >>> print(f"{value:.4f}")  # 0.25^2 log(4/3)
    0.0180
    """
    checks.amount("gamma", gamma)
    if alpha is not None and not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha is {alpha}, but must lie in 0..1, or be None")
    logits, labels, counts, class_weights = check_channels(logits, labels, where, class_weights)
    positive, negative = (1.0, 1.0) if alpha is None else (alpha, 1.0 - alpha)
    log_yes, log_no = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    values = -positive * labels * jnp.exp(gamma * log_no) * log_yes
    values -= negative * (1.0 - labels) * jnp.exp(gamma * log_yes) * log_no
    return _mean(values, counts, class_weights, reduce, axis_name)


def sigmoid_dice(
    logits: Float[Array, "*pixels channels"],
    labels: Num[Array, "*pixels channels"],
    *,
    where: Bool[Array, "*pixels"] | None = None,
    class_weights: Float[Array, " channels"] | None = None,
    form: regions.Form = "l1",
    smooth: float = 0.0,
    classes: regions.Classes = "present",
    per: regions.Per = "batch",
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """The Dice loss of each channel's positive label, averaged over the channels.

    Options are those of `dice`.

    >>> import jax.numpy as jnp
    >>> value = sigmoid_dice(jnp.log(jnp.array([[3.0], [1.0]])), jnp.array([[1], [1]]))
    >>> print(f"{value:.4f}")  # 1 - 2 * 1.25 / (2 + 1.25)
    0.2308
    """
    logits, labels, counts, class_weights = check_channels(logits, labels, where, class_weights)
    sums = _sums(form, logits, labels, counts, per, axis_name)
    by_class = regions.dice_of(form, smooth)(*sums)
    return regions.average(by_class, sums[2] != 0, class_weights, classes, per, axis_name)


def sigmoid_tversky(
    logits: Float[Array, "*pixels channels"],
    labels: Num[Array, "*pixels channels"],
    *,
    where: Bool[Array, "*pixels"] | None = None,
    class_weights: Float[Array, " channels"] | None = None,
    alpha: float = 0.3,
    beta: float = 0.7,
    gamma: float = 1.0,
    smooth: float = 0.0,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """The (focal) Tversky loss of each channel's positive label, averaged over those present.

    Options are those of `focal_tversky`.

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[3.0], [1.0]]))
    >>> value = sigmoid_tversky(logits, jnp.array([[1], [1]]), alpha=1.0, beta=3.0)
    >>> print(f"{value:.4f}")  # 1 - 1.25 / (1.25 + 3 * 0.75)
    0.6429
    """
    logits, labels, counts, class_weights = check_channels(logits, labels, where, class_weights)
    sums = _sums("l1", logits, labels, counts, "batch", axis_name)
    by_class = regions.tversky_of(alpha, beta, gamma, smooth)(*sums)
    return regions.average(by_class, sums[2] != 0, class_weights)


def check_channels(logits, labels, where, class_weights) -> tuple[Array, Array, Array, Array]:
    """The inputs in one form: all floating and of the logits' shape, inert where nothing counts.

    A label that is not from 0 to 1 makes its count, and with it the loss, NaN.
    """
    logits, labels = pixels.check_logits(logits), jnp.asarray(labels)
    *points, channels = logits.shape
    if channels == 1 and labels.shape == tuple(points):
        labels = labels[..., None]
    if labels.shape != logits.shape or jnp.issubdtype(labels.dtype, jnp.complexfloating):
        raise ValueError(
            f"labels are {labels.dtype}{list(labels.shape)} for logits {list(logits.shape)}, but "
            "must have their shape: 0, 1 or a probability for each channel"
        )
    counts = jnp.ones(logits.shape, bool)
    if where is not None:
        where = jnp.asarray(where)
        if where.dtype != jnp.bool_ or where.shape not in (tuple(points), logits.shape):
            raise ValueError(
                f"where is {where.dtype}{list(where.shape)}, but must be bool{points}: True for "
                f"each pixel that counts, or bool{list(logits.shape)} for each channel of it"
            )
        counts = (
            where
            if where.shape == logits.shape
            else jnp.broadcast_to(where[..., None], counts.shape)
        )
    logits = jnp.where(counts, pixels.wide(logits), 0.0)
    labels = jnp.where(counts, labels.astype(logits.dtype), 0.5)
    valid = (labels >= 0) & (labels <= 1)
    return (
        logits,
        labels,
        jnp.where(counts, jnp.where(valid, 1.0, jnp.nan), 0.0).astype(logits.dtype),
        pixels.check_weights(class_weights, logits),
    )


def _mean(values, counts, class_weights, reduce, axis_name):
    if class_weights is not None:
        counts = counts * jnp.broadcast_to(class_weights, counts.shape)
    return pixels.reduced(values * counts, counts, reduce, axis_name)


def _sums(form, logits, labels, counts, per, axis_name) -> tuple[Array, ...]:
    by_image = regions.check_per(per, logits)
    over = tuple(range(int(by_image), logits.ndim - 1))
    q = jax.nn.sigmoid(logits)
    sums = (jnp.sum(pixels.SUMS[n][0](labels, q) * counts, over) for n in regions.sum_names(form))
    return tuple(x if by_image else pixels.total(x, axis_name) for x in sums)
