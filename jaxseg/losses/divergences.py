"""Losses between the label distribution p and the predicted distribution q, pixel by pixel.

All are in nats and share one contract. Logits are `[*pixels, classes]`, labels class indices
`[*pixels]` or distributions `[*pixels, classes]`. The value is the mean over the pixels in
`where`, each weighted by its class weight, over all replicas if `axis_name` is given;
`reduce=None` gives the weighted map `[*pixels]` instead. Computed in float32 at least.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
from jax.scipy.special import entr

from jaxseg.losses import _pixels as pixels

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Num


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
    p = pixels.prepare(logits, labels, where, class_weights)
    targets = pixels.smooth(p.targets, label_smoothing)
    return pixels.reduce(-pixels.dot(targets, p.log_probs), p, reduce, axis_name)


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
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}, but must be positive")
    p = pixels.prepare(logits, labels, where, class_weights, temperature)
    targets = pixels.smooth(p.targets, label_smoothing)
    values = -pixels.dot(targets, p.log_probs) - jnp.sum(entr(targets), -1)
    return pixels.reduce(temperature**2 * values, p, reduce, axis_name)


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
    p = pixels.prepare(logits, labels, where, class_weights)
    if label_smoothing == 0.0 and jnp.issubdtype(jnp.asarray(labels).dtype, jnp.integer):
        raise ValueError(
            "relative_entropy is infinite for integer labels with label_smoothing 0; give a "
            "label_smoothing in (0, 1], such as the default 0.1"
        )
    targets = pixels.smooth(p.targets, label_smoothing)
    # Through log-probabilities: q log q by itself has NaN gradients where q rounds to 0.
    values = pixels.dot(jnp.exp(p.log_probs), p.log_probs - jnp.log(targets))
    return pixels.reduce(values, p, reduce, axis_name)
