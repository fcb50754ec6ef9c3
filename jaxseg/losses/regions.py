"""Losses of overlap: numbers for each class over all the pixels that count.

They share one contract. With q the prediction, p the label, and sums over the pixels of the batch
that count, on all replicas if `axis_name` is given, a class has the overlap I = sum pq, the
predicted P = sum q and the labelled area G = sum p. For hard labels the overlap of soft sets has
one meaning; for distributions it has several, and only some of them make a loss that is least at
q = p. With the sum of min(p, q), I = (P + G - sum |p - q|) / 2, it is; it is used unless a function
says otherwise.

The value is the average over the classes present in the labels, weighted by `class_weights`.
Where no class is present (nothing counts) it is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import jax.numpy as jnp
from jax import lax

from jaxseg import checks
from jaxseg.losses import _pixels as pixels

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Num

Form = Literal["l1", "product", "squared"]
Classes = Literal["present", "all"]
Per = Literal["batch", "image"]

_FORMS = {
    # What is summed for I, or for P + G - 2 I, which then keeps its digits; and for the areas.
    "l1": ("difference", "predicted", "labelled"),
    "product": ("overlap", "predicted", "labelled"),
    "squared": ("squared_difference", "predicted_squares", "labelled_squares"),
}


def dice(
    logits: Float[Array, "*pixels classes"],
    labels: Num[Array, "*pixels"] | Num[Array, "*pixels classes"],
    *,
    where: Bool[Array, "*pixels"] | None = None,
    class_weights: Float[Array, " classes"] | None = None,
    form: Form = "l1",
    smooth: float = 0.0,
    classes: Classes = "present",
    per: Per = "batch",
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """One minus the soft Dice overlap, 1 - (2 I + smooth) / (P + G + smooth), of the classes.

    The forms agree for hard predictions. "l1" has the I of this module, and is sum |p - q| / (P +
    G + smooth) (Wang et al. 2023, arXiv:2303.16296); "product" has I = sum pq, which for soft
    labels is not least at q = p; "squared" has I = sum pq and the squares' sums for P and G
    (Milletari et al. 2016, arXiv:1606.04797), and is. With `classes="all"` absent classes are
    averaged in, too: 1 for one that is predicted anywhere, if smooth is 0. With `per="image"` the
    first axis is that of images, each of which has its own overlaps, and the mean is over classes
    and then over images.

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[0.25, 0.75], [0.5, 0.5]]))
    >>> print(f"{dice(logits, jnp.array([1, 1])):.4f}")  # 1 - 2 * 1.25 / (2 + 1.25)
    0.2308
    """

    logits, labels, where, class_weights = pixels.check(logits, labels, where, class_weights)
    sums = _sums(form, logits, labels, where, per, axis_name)
    return average(
        dice_of(form, smooth)(*sums), sums[2] != 0, class_weights, classes, per, axis_name
    )


def jaccard(
    logits: Float[Array, "*pixels classes"],
    labels: Num[Array, "*pixels"] | Num[Array, "*pixels classes"],
    *,
    where: Bool[Array, "*pixels"] | None = None,
    class_weights: Float[Array, " classes"] | None = None,
    form: Form = "l1",
    smooth: float = 0.0,
    classes: Classes = "present",
    per: Per = "batch",
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """One minus the soft intersection over union, 1 - (I + smooth) / (P + G - I + smooth).

    Forms and options are those of `dice`; "l1" is sum |p - q| over the union (Wang et al. 2023,
    arXiv:2302.05666). Of each class it is 2 d / (1 + d) for the Dice loss d of the same form.

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[0.25, 0.75], [0.5, 0.5]]))
    >>> print(f"{jaccard(logits, jnp.array([1, 1])):.4f}")  # 1 - 1.25 / 2
    0.3750
    """

    checks.amount("smooth", smooth)
    logits, labels, where, class_weights = pixels.check(logits, labels, where, class_weights)
    sums = _sums(form, logits, labels, where, per, axis_name)
    wrong, areas = _wrong(form, *sums)
    by_class = pixels.divide(wrong, (areas + wrong) / 2.0 + smooth)
    return average(by_class, sums[2] != 0, class_weights, classes, per, axis_name)


def tversky(
    logits: Float[Array, "*pixels classes"],
    labels: Num[Array, "*pixels"] | Num[Array, "*pixels classes"],
    *,
    where: Bool[Array, "*pixels"] | None = None,
    class_weights: Float[Array, " classes"] | None = None,
    alpha: float = 0.3,
    beta: float = 0.7,
    smooth: float = 0.0,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """One minus the Tversky index, 1 - (I + smooth) / (I + alpha FP + beta FN + smooth).

    FP = P - I are the false positives and FN = G - I the false negatives; alpha = beta = 1/2 is
    `dice` and 1 is `jaccard`. A beta above alpha asks for recall (Salehi et al. 2017,
    arXiv:1706.05721, with these defaults).

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[0.25, 0.75], [0.5, 0.5]]))
    >>> value = tversky(logits, jnp.array([1, 1]), alpha=1.0, beta=3.0)
    >>> print(f"{value:.4f}")  # 1 - 1.25 / (1.25 + 3 * 0.75)
    0.6429
    """
    return focal_tversky(
        logits,
        labels,
        where=where,
        class_weights=class_weights,
        alpha=alpha,
        beta=beta,
        gamma=1.0,
        smooth=smooth,
        axis_name=axis_name,
    )


def focal_tversky(
    logits: Float[Array, "*pixels classes"],
    labels: Num[Array, "*pixels"] | Num[Array, "*pixels classes"],
    *,
    where: Bool[Array, "*pixels"] | None = None,
    class_weights: Float[Array, " classes"] | None = None,
    alpha: float = 0.3,
    beta: float = 0.7,
    gamma: float = 0.75,
    smooth: float = 0.0,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """The Tversky loss of each class to the power gamma, averaged (arXiv:1810.07842).

    A gamma below 1 makes good classes matter more, above 1 bad ones. Below 1 the slope grows
    without bound towards a perfect overlap; at it, the gradient is 0.

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[0.25, 0.75], [0.5, 0.5]]))
    >>> value = focal_tversky(logits, jnp.array([1, 1]), alpha=1.0, beta=3.0, gamma=2.0)
    >>> print(f"{value:.4f}")  # (1 - 1.25 / (1.25 + 3 * 0.75))^2
    0.4133
    """
    logits, labels, where, class_weights = pixels.check(logits, labels, where, class_weights)
    sums = _sums("l1", logits, labels, where, "batch", axis_name)
    by_class = tversky_of(alpha, beta, gamma, smooth)(*sums)
    return average(by_class, sums[2] != 0, class_weights)


def generalized_dice(
    logits: Float[Array, "*pixels classes"],
    labels: Num[Array, "*pixels"] | Num[Array, "*pixels classes"],
    *,
    where: Bool[Array, "*pixels"] | None = None,
    class_weights: Float[Array, " classes"] | None = None,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """One Dice loss of all classes, 1 - 2 sum w I / sum w (P + G), each weighted by w = 1 / G^2.

    So that small classes weigh as much as large ones (Sudre et al. 2017, arXiv:1707.03237). Absent
    classes, whose weight would be infinite, are left out. `class_weights` multiply the weights.

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[0.25, 0.75], [0.5, 0.5]]))
    >>> print(f"{generalized_dice(logits, jnp.array([1, 1])):.4f}")  # 1 - 2 * 1.25 / (2 + 1.25)
    0.2308
    """
    logits, labels, where, class_weights = pixels.check(logits, labels, where, class_weights)
    difference, predicted, labelled = _sums("l1", logits, labels, where, "batch", axis_name)
    # The scale of the weights is free; relative to the smallest class they are at most 1.
    smallest = jnp.min(jnp.where(labelled > 0, labelled, jnp.inf))
    weights = jnp.square(pixels.divide(lax.stop_gradient(smallest), labelled))
    if class_weights is not None:
        weights = weights * class_weights
    areas = jnp.sum(weights * (predicted + labelled))
    return pixels.divide(jnp.sum(weights * difference), areas)


def mcc(
    logits: Float[Array, "*pixels classes"],
    labels: Num[Array, "*pixels"] | Num[Array, "*pixels classes"],
    *,
    where: Bool[Array, "*pixels"] | None = None,
    class_weights: Float[Array, " classes"] | None = None,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """One minus Matthews' correlation of each class with the rest, averaged over the classes.

    With N pixels that count, it is 1 - (N I - P G) / sqrt(P G (N - P) (N - G)), from 0 to 2
    (Abhishek and Hamarneh 2021, arXiv:2010.13454). Classes that are absent or cover all have none
    and are left out.

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[0.25, 0.75], [0.5, 0.5]]))
    >>> value = mcc(logits, jnp.array([1, 0]))
    >>> print(f"{value:.4f}")  # 1 - (2 * 0.75 - 1.25) / sqrt(1.25 * 0.75)
    0.7418
    """

    logits, labels, where, class_weights = pixels.check(logits, labels, where, class_weights)
    names = (*_FORMS["l1"], "counted")
    *sums, counted = pixels.class_sums(names, logits, labels, where=where, axis_name=axis_name)
    # In shares of the picture, whose products stay in range.
    difference, predicted, labelled = (pixels.divide(x, counted) for x in sums)
    overlap = (predicted + labelled - difference) / 2.0
    rest = jnp.maximum(1.0 - predicted, 0.0) * jnp.maximum(1.0 - labelled, 0.0)
    squared = predicted * labelled * rest
    root = jnp.where(squared == 0, 0.0, jnp.sqrt(jnp.where(squared == 0, 1.0, squared)))
    by_class = 1.0 - pixels.divide(overlap - predicted * labelled, root)
    return average(by_class, (sums[2] != 0) & (sums[2] != counted), class_weights)


def dice_of(form: str, smooth: float) -> Callable:
    """The Dice loss of each class as a function of the sums of a form."""
    checks.amount("smooth", smooth)

    def by_class(*sums):
        wrong, areas = _wrong(form, *sums)
        return pixels.divide(wrong, areas + smooth)

    return by_class


def tversky_of(alpha: float, beta: float, gamma: float, smooth: float) -> Callable:
    """The focal Tversky loss of each class as a function of the sums of the form "l1"."""
    for name, value in (("alpha", alpha), ("beta", beta), ("smooth", smooth)):
        checks.amount(name, value)
    checks.positive("gamma", gamma)

    def by_class(difference, predicted, labelled):
        overlap = (predicted + labelled - difference) / 2.0
        too_much = jnp.maximum(predicted - overlap, 0.0)
        too_little = jnp.maximum(labelled - overlap, 0.0)
        wrong = alpha * too_much + beta * too_little
        loss = pixels.divide(wrong, overlap + wrong + smooth)
        return jnp.where(loss == 0, 0.0, jnp.where(loss == 0, 1.0, loss) ** gamma)

    return by_class


def average(
    by_class: Float[Array, "*images classes"],
    present: Bool[Array, "*images classes"],
    class_weights: Float[Array, " classes"] | None,
    classes: Classes = "present",
    per: Per = "batch",
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """The weighted mean over the classes, and then over the images that have any."""
    if classes not in ("present", "all"):
        raise ValueError(f'classes is {classes!r}, but must be "present" or "all"')
    weights = jnp.ones_like(by_class)
    if class_weights is not None:
        weights = weights * jnp.broadcast_to(class_weights, by_class.shape)
    if classes == "present":
        weights = jnp.where(present, weights, 0.0)
    by_image = pixels.divide(jnp.sum(weights * by_class, -1), jnp.sum(weights, -1))
    if per == "batch":
        return by_image
    some = jnp.any(present, -1)
    values = jnp.sum(jnp.where(some, by_image, 0.0))
    images = jnp.sum(some.astype(values.dtype))
    return pixels.divide(pixels.total(values, axis_name), pixels.total(images, axis_name))


def sum_names(form: str) -> tuple[str, ...]:
    """The sums that a form is made of."""
    if form not in _FORMS:
        raise ValueError(f"form is {form!r}, but must be one of {', '.join(map(repr, _FORMS))}")
    return _FORMS[form]


def check_per(per: str, logits: Array) -> bool:
    """Whether each image is for itself; raises where there are none."""
    if per not in ("batch", "image"):
        raise ValueError(f'per is {per!r}, but must be "batch" or "image"')
    if per == "image" and logits.ndim < 3:
        raise ValueError(
            f'logits are {list(logits.shape)}, but per="image" needs [images, *pixels, classes]'
        )
    return per == "image"


def _wrong(form: str, joint: Array, predicted: Array, labelled: Array) -> tuple[Array, Array]:
    """P + G - 2 I and P + G, from the sums of a form."""
    areas = predicted + labelled
    return (areas - 2.0 * joint if form == "product" else joint), areas


def _sums(form, logits, labels, where, per, axis_name) -> tuple[Array, ...]:
    return pixels.class_sums(
        sum_names(form),
        logits,
        labels,
        where=where,
        per_image=check_per(per, logits),
        axis_name=axis_name,
    )
