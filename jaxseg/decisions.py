"""From probabilities to masks: those of the best expected score, and those of a bounded risk.

`probs` are the probabilities of one class, or of a sigmoid, `[*images, *pixels]`: the last
`spatial_rank` axes are one image, two by default and three for volumes, and those before them a
batch. `where` marks the pixels that count: those outside are in no mask.

Classes are such a batch, too, each decided by itself, so that their masks may overlap or leave
pixels to none: `rank_dice(jnp.moveaxis(probs, -1, 1))` takes probabilities `[images, *pixels,
classes]` to masks `[images, classes, *pixels]`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxseg import checks

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float

__all__ = ["conformal_threshold", "miss_rates", "rank_dice", "rank_iou"]

# The trapezoidal rule in the logit of s: what it leaves out at either end, and its step.
_TAIL = 1e-6
_STEP = 0.6


def rank_dice(
    probs: Float[Array, "*images_and_pixels"],
    *,
    where: Bool[Array, "*images_and_pixels"] | None = None,
    spatial_rank: int = 2,
    empty: float = 1.0,
) -> Bool[Array, "*images_and_pixels"]:
    """The mask of the largest expected Dice, if each pixel is drawn by its probability alone.

    It is made of the t most probable pixels, for the t that maximises E[2 TP / (t + Y)], with TP
    the true pixels among them and Y those of the image. So each image has a threshold of its own,
    in a large one half the expected Dice. That Dice falls short of the best by a share of 1e-5 at
    most. Pixels of equal probability are decided alike. `empty` is the Dice of predicting nothing
    where nothing is true; with 0 an image always gets a mask, unless all its probabilities are 0
    (Dai and Li 2023, arXiv:2206.13086).

    >>> import jax.numpy as jnp
    >>> probs = jnp.array([0.4, 0.3])  # expected of both 0.427, of the first 0.36, of none 0.42
    >>> rank_dice(probs, spatial_rank=1).tolist()
    [True, True]
    """
    return _best(_dice, probs, where, spatial_rank, empty)


def rank_iou(
    probs: Float[Array, "*images_and_pixels"],
    *,
    where: Bool[Array, "*images_and_pixels"] | None = None,
    spatial_rank: int = 2,
    empty: float = 1.0,
) -> Bool[Array, "*images_and_pixels"]:
    """The mask of the largest expected IoU, if each pixel is drawn by its probability alone.

    As `rank_dice`, for the t that maximises E[TP / (t + Z)], with Z the true pixels outside the
    mask. `empty` is the IoU of predicting nothing where nothing is true (Dai and Li 2023,
    arXiv:2206.13086).

    >>> import jax.numpy as jnp
    >>> probs = jnp.array([0.6, 0.4])  # expected of both 0.5, of the first 0.48, of none 0.24
    >>> rank_iou(probs, spatial_rank=1).tolist()
    [True, True]
    """
    return _best(_iou, probs, where, spatial_rank, empty)


def miss_rates(
    probs: Float[Array, "*images_and_pixels"],
    labels: Bool[Array, "*images_and_pixels"],
    thresholds: Float[Array, " thresholds"],
    *,
    where: Bool[Array, "*images_and_pixels"] | None = None,
    spatial_rank: int = 2,
) -> Float[Array, "*images thresholds"]:
    """The share of the labelled pixels that the mask `probs >= threshold` misses, for each.

    The false negative rate, one minus the recall; 0 where nothing is labelled. Thresholds that
    fall make risks that don't rise, as `conformal_threshold` needs them.

    >>> import jax.numpy as jnp
    >>> probs, labels = jnp.array([0.9, 0.4, 0.7, 0.2, 0.6]), jnp.array([1, 1, 1, 1, 0], bool)
    >>> miss_rates(probs, labels, jnp.array([0.8, 0.5, 0.3]), spatial_rank=1).tolist()
    [0.75, 0.5, 0.25]
    """
    probs, where = _checked(probs, where, spatial_rank)
    labels, thresholds = jnp.asarray(labels), jnp.asarray(thresholds, probs.dtype)
    if labels.dtype != jnp.bool_ or labels.shape != probs.shape:
        raise ValueError(
            f"labels are {labels.dtype}{list(labels.shape)}, but must be bool{list(probs.shape)}, "
            "a mask as large as probs; compare first, as in labels == 1"
        )
    if thresholds.ndim != 1:
        raise ValueError(f"thresholds are {list(thresholds.shape)}, but must be a list: [number]")
    return _missed(probs, labels if where is None else labels & where, thresholds, spatial_rank)


def conformal_threshold(
    risks: Float[np.ndarray, "images thresholds"],
    thresholds: Sequence[float] | Float[np.ndarray, " thresholds"],
    *,
    alpha: float,
    bound: float = 1.0,
) -> float:
    """The first threshold that keeps the expected risk of a new image at `alpha` or below.

    `risks` are those of images kept for calibration, none above `bound`, and of no image do they
    rise along the thresholds: such as `miss_rates` of thresholds from 1 down to 0. Of n images it
    takes the first threshold with (n mean risk + bound) / (n + 1) <= alpha. The promise holds on
    average over calibration sets and images exchangeable with theirs, of any distribution, if the
    last threshold leaves every image a risk of at most alpha, as 0 does with no pixel missed
    (Angelopoulos et al. 2022, arXiv:2208.02814).

    >>> risks = [[0.2, 0.1, 0.0]] * 19
    >>> conformal_threshold(risks, [0.9, 0.5, 0.1], alpha=0.15)  # (19 * 0.1 + 1) / 20 = 0.145
    0.5
    """
    checks.positive("alpha", alpha)
    checks.positive("bound", bound)
    risks, thresholds = (np.asarray(x, np.float64) for x in (risks, thresholds))
    if risks.ndim != 2 or 0 in risks.shape or thresholds.shape != risks.shape[1:]:
        raise ValueError(
            f"risks are {list(risks.shape)} and thresholds {list(thresholds.shape)}, but must be "
            "[images, thresholds] and [thresholds], with at least one of both"
        )
    if not np.all((risks >= 0) & (risks <= bound)):
        raise ValueError(
            f"risks lie in {risks.min():g}..{risks.max():g}, but must in 0..{bound:g}: give the "
            "largest that a risk can be as bound"
        )
    rises = np.argwhere(np.diff(risks) > 0)
    if len(rises):
        image, place = rises[0]
        raise ValueError(
            f"the risk of image {image} rises from {risks[image, place]:g} to "
            f"{risks[image, place + 1]:g}, from threshold {thresholds[place]:g} to "
            f"{thresholds[place + 1]:g}, but must not; order the thresholds by falling risk"
        )
    # Else a rounding would ask for one more image.
    most = alpha * (1.0 + 1e-12)
    images = len(risks)
    bounds = (np.sum(risks, 0) + bound) / (images + 1)
    if bounds[-1] > most:
        least = risks[:, -1].mean()
        remedy = "add thresholds with a smaller risk"
        if least < alpha:
            needed = math.ceil((bound - most) / (most - least))
            remedy = f"with its mean risk of {least:g} it takes {needed} images"
        raise ValueError(
            f"of {images} images even the last threshold's risk is only known to be at most "
            f"{bounds[-1]:g}, more than alpha, {alpha:g}; {remedy}"
        )
    return float(thresholds[np.argmax(bounds <= most)])


def _checked(probs, where, spatial_rank: int) -> tuple[Array, Array | None]:
    """Probabilities in float32, and `where`."""
    probs = jnp.asarray(probs)
    if not jnp.issubdtype(probs.dtype, jnp.floating):
        raise TypeError(
            f"probs are {probs.dtype}{list(probs.shape)}, but must be probabilities of a floating "
            "dtype; of logits take the sigmoid, or the softmax and then one class"
        )
    checks.rank("probs", probs.shape, spatial_rank)
    where = checks.where(where, probs.shape)
    return probs.astype(jnp.float32), where


def _best(score: Callable, probs, where, spatial_rank: int, empty: float) -> Array:
    probs, where = _checked(probs, where, spatial_rank)
    checks.share("empty", empty)
    # Probabilities that were resized or averaged exceed 1 by a rounding.
    p = jnp.clip(probs, 0.0, 1.0)
    return _ranked(score, p if where is None else jnp.where(where, p, 0.0), spatial_rank, empty)


@partial(jax.jit, static_argnames=("score", "spatial_rank"))
def _ranked(score: Callable, probs: Array, spatial_rank: int, empty: float) -> Array:
    """The mask of the most probable pixels, as many as maximise the score."""
    images = probs.shape[: probs.ndim - spatial_rank]
    p = probs.reshape(*images, math.prod(probs.shape[len(images) :]))
    ranked = jnp.sort(p, axis=-1, descending=True)
    none = empty * jnp.exp(jnp.sum(jnp.log1p(-p), -1, keepdims=True))
    # Between none and all of some equal pixels the score has no maximum, so that it counts where
    # the probabilities fall alone; after the last positive one that is nowhere.
    some = jnp.where(jnp.diff(ranked, append=0.0) < 0, _expected(score, ranked), 0.0)
    size = jnp.argmax(jnp.concatenate([none, some], -1), -1, keepdims=True)
    bounds = jnp.concatenate([jnp.full_like(none, jnp.inf), ranked], -1)
    return (p >= jnp.take_along_axis(bounds, size, -1)).reshape(probs.shape)


def _expected(score: Callable, ranked: Array) -> Float[Array, "*images pixels"]:
    """The expected score of the first 1, 2, ... pixels.

    1/a is the integral of s^(a-1) from 0 to 1, so that the expectation of 1/(a + Y) is the integral
    of s^(a-1) times the product of 1 - p + p s over the pixels that Y counts. In the logit of s the
    trapezoidal rule converges exponentially, for masks of any size by the same nodes: those from
    _TAIL / pixels to 1 - _TAIL of 1 - s. In float32 the error is 2e-6 of the score.
    """
    ends = math.log(_TAIL / (ranked.shape[-1] + 1)), -math.log(_TAIL)
    logits, step = np.linspace(*ends, math.ceil((ends[1] - ends[0]) / _STEP) + 1, retstep=True)
    log_s, log_rest = -np.logaddexp(0.0, logits), -np.logaddexp(0.0, -logits)
    nodes = log_s, np.exp(log_rest), step * np.exp(log_s + log_rest)

    def add(total, node):
        log_s, rest, weight = node
        return total + weight * score(ranked, log_s, rest), None

    nodes = tuple(jnp.asarray(x, ranked.dtype) for x in nodes)
    return lax.scan(add, jnp.zeros_like(ranked), nodes)[0]


def _sizes(ranked: Array) -> Float[Array, "*images pixels"]:
    return lax.broadcasted_iota(ranked.dtype, ranked.shape, ranked.ndim - 1) + 1.0


def _dice(ranked: Array, log_s: Array, rest: Array) -> Array:
    """Of E[2 TP / (t + Y)] what is to be integrated over s, at 1 - `rest`.

    TP / (t + Y) is the sum of 1 / (t + 1 + Y of the other pixels) over the true pixels in the mask.
    """
    none = jnp.sum(jnp.log1p(-rest * ranked), -1, keepdims=True)
    others = jnp.cumsum(ranked / (1.0 - rest * ranked), -1)
    return 2.0 * jnp.exp(_sizes(ranked) * log_s + none) * others


def _iou(ranked: Array, log_s: Array, rest: Array) -> Array:
    """Of E[TP / (t + Z)], of which TP and Z are independent, what is to be integrated over s."""
    logs = jnp.log1p(-rest * ranked)
    outside = lax.cumsum(logs, axis=logs.ndim - 1, reverse=True) - logs
    return jnp.exp((_sizes(ranked) - 1.0) * log_s + outside) * jnp.cumsum(ranked, -1)


@partial(jax.jit, static_argnames="spatial_rank")
def _missed(probs: Array, labels: Array, thresholds: Array, spatial_rank: int) -> Array:
    pixels = tuple(range(labels.ndim - spatial_rank, labels.ndim))
    # By threshold, since of all at once a batch of images makes hundreds of copies.
    missed = lax.map(lambda least: jnp.sum(labels & ~(probs >= least), pixels), thresholds)
    rates = missed / jnp.maximum(jnp.sum(labels, pixels), 1)[None]
    return jnp.moveaxis(rates, 0, -1).astype(jnp.float32)
