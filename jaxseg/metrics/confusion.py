"""The confusion matrix and the scores that follow from it.

Pixels are counted on the device in integers, and divided once, on the host in float64. A matrix
`[..., labels, preds]` has a row for each label and a column for each prediction. Scores keep the
leading axes: of matrices `[images, labels, preds]` they are those of each image. So every mean is
one of numpy's over what a score returns, of which a 0/0 is no part:

- of the data set: the score of the matrix of all pixels;
- per image: `numpy.nanmean(mean_iou(by_image))`;
- per image and class: `numpy.nanmean(iou(by_image))`;
- of the worst: `worst(mean_iou(by_image), 0.05)`.

A score of a class that is 0/0, since the class occurs in neither what it divides by, is `empty`:
NaN by default, which means over classes leave out; with 0 or 1 they count it as that.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxseg import checks
from jaxseg.metrics import _counts
from jaxseg.metrics._counts import Counts, checked, ratio

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int

# Up to so many classes, an accelerator multiplies one-hot matrices.
_PRODUCT = 256

# The most classes whose square, the number of bins, is in the range of int32.
_MOST = 46340


def confusion_matrix(
    preds: Int[Array, "*pixels"],
    labels: Int[Array, "*pixels"],
    num_classes: int,
    *,
    where: Bool[Array, "*pixels"] | None = None,
    by_image: bool = False,
    axis_name: str | None = None,
) -> Int[Array, "*images labels preds"]:
    """Counts the pixels of each label (row) and prediction (column), over all replicas.

    With `by_image`, for each entry of the first axis by itself, on this replica alone. Exact up to
    2^31 pixels, the range of int32. Labels and predictions outside 0..num_classes-1 are not
    counted.

    >>> import jax.numpy as jnp
    >>> confusion_matrix(jnp.array([0, 1, 1]), jnp.array([0, 0, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    preds, labels = checks.indices("preds", preds), checks.indices("labels", labels)
    checks.whole("num_classes", num_classes)
    if num_classes > _MOST:
        raise ValueError(
            f"num_classes is {num_classes}, but at most {_MOST} can be counted; renumber the ids "
            "that occur as 0, 1, ..."
        )
    if preds.shape != labels.shape:
        raise ValueError(
            f"preds are {list(preds.shape)} and labels {list(labels.shape)}, but need one shape"
        )
    where = checks.where(where, labels.shape)
    if by_image:
        if not labels.ndim:
            raise ValueError("labels have no axis, but by_image needs [images, *pixels]")
        if axis_name is not None:
            raise ValueError(f"axis_name is {axis_name!r}, but images are not summed over replicas")
        return jax.vmap(lambda *x: _count(*x, num_classes))(preds, labels, where)
    counts = _count(preds, labels, where, num_classes)
    return counts if axis_name is None else lax.psum(counts, axis_name)


def _count(preds, labels, where, num_classes: int) -> Int[Array, "labels preds"]:
    preds, labels = (x.astype(jnp.promote_types(x.dtype, jnp.int32)) for x in (preds, labels))
    counts = (preds >= 0) & (preds < num_classes) & (labels >= 0) & (labels < num_classes)
    if where is not None:
        counts &= where

    def scattered(preds, labels, counts):
        bins = jnp.where(counts, num_classes * labels + preds, num_classes**2)
        found = jnp.zeros(num_classes**2 + 1, jnp.int32).at[bins.ravel()].add(1)
        return found[:-1].reshape(num_classes, num_classes)

    def multiplied(preds, labels, counts):
        rows = jax.nn.one_hot(labels, num_classes, dtype=jnp.int8) * counts[..., None]
        columns = jax.nn.one_hot(preds, num_classes, dtype=jnp.int8)
        pixels = tuple(range(labels.ndim))
        return lax.dot_general(
            rows, columns, ((pixels, pixels), ((), ())), preferred_element_type=jnp.int32
        )

    # A CPU adds one by one, in a fourteenth of the time of a product of one-hot matrices; where
    # thousands of threads would have to take turns, the product is the fast way. But its work grows
    # with the square of the classes, of which the more there are, the fewer threads meet in a bin.
    if num_classes > _PRODUCT:
        return scattered(preds, labels, counts)
    return lax.platform_dependent(preds, labels, counts, cpu=scattered, default=multiplied)


class Confusion(NamedTuple):
    """The confusion matrix of a data set, batch by batch: a metric of `num_classes`.

    Its state is a pytree of integers, so that the result is the same for any batches, in any
    order, on any devices. `init()` is the state of nothing; `update(state, preds, labels, where=,
    axis_name=)`, which compiles, adds a batch of all replicas to it; `merge(*states)` adds states;
    and `compute(state)` is the matrix in int64, on the host, which the scores take.

    >>> import jax.numpy as jnp
    >>> metric = Confusion(num_classes=2)
    >>> state = metric.update(metric.init(), jnp.array([0, 1, 1]), jnp.array([0, 0, 1]))
    >>> metric.compute(metric.merge(state, state)).tolist()
    [[2, 2], [0, 2]]
    """

    num_classes: int

    def init(self) -> Counts:
        """The state of no pixels."""
        return _counts.zeros(self.num_classes, self.num_classes)

    def update(
        self,
        state: Counts,
        preds: Int[Array, "*pixels"],
        labels: Int[Array, "*pixels"],
        *,
        where: Bool[Array, "*pixels"] | None = None,
        axis_name: str | None = None,
    ) -> Counts:
        """The state with the pixels of a batch, of up to 2^31 on each replica."""
        new = _counts.split(confusion_matrix(preds, labels, self.num_classes, where=where))
        return self.merge(state, new if axis_name is None else lax.psum(new, axis_name))

    def merge(self, *states: Counts) -> Counts:
        """The state of all pixels of some states."""
        return _counts.merge(*states)

    def compute(self, state: Counts) -> Int[np.ndarray, "labels preds"]:
        """The confusion matrix, in int64."""
        return _counts.total(state)


def iou(
    confusion: Int[np.ndarray, "*images labels preds"], *, empty: float = math.nan
) -> Float[np.ndarray, "*images classes"]:
    """The intersection over union TP / (TP + FP + FN) of each class, also the Jaccard index.

    `empty` where a class is neither labelled nor predicted.

    >>> iou([[1, 1], [0, 1]]).tolist()
    [0.5, 0.5]
    """
    true, predicted, labelled = _areas(confusion)
    return ratio(true, predicted + labelled - true, empty)


def dice(
    confusion: Int[np.ndarray, "*images labels preds"], *, empty: float = math.nan
) -> Float[np.ndarray, "*images classes"]:
    """The Dice coefficient 2 TP / (2 TP + FP + FN) of each class, also the F1 score.

    `empty` where a class is neither labelled nor predicted.

    >>> [round(x, 4) for x in dice([[1, 1], [0, 1]]).tolist()]  # 2 / 3
    [0.6667, 0.6667]
    """
    return f_beta(confusion, beta=1.0, empty=empty)


def f_beta(
    confusion: Int[np.ndarray, "*images labels preds"], *, beta: float, empty: float = math.nan
) -> Float[np.ndarray, "*images classes"]:
    """The weighted harmonic mean (1 + b^2) TP / ((1 + b^2) TP + b^2 FN + FP) of each class.

    Of precision and recall, of which `beta` says how much more recall matters. `empty` where a
    class is neither labelled nor predicted (van Rijsbergen 1979).

    >>> [round(x, 4) for x in f_beta([[1, 1], [0, 1]], beta=2.0).tolist()]  # 5/9, 5/6
    [0.5556, 0.8333]
    """
    checks.positive("beta", beta)
    true, predicted, labelled = _areas(confusion)
    return ratio((1 + beta**2) * true, beta**2 * labelled + predicted, empty)


def precision(
    confusion: Int[np.ndarray, "*images labels preds"], *, empty: float = math.nan
) -> Float[np.ndarray, "*images classes"]:
    """The share TP / (TP + FP) of the pixels predicted as a class that are labelled so.

    `empty` where a class is not predicted.

    >>> precision([[1, 1], [0, 1]]).tolist()
    [1.0, 0.5]
    """
    true, predicted, _ = _areas(confusion)
    return ratio(true, predicted, empty)


def recall(
    confusion: Int[np.ndarray, "*images labels preds"], *, empty: float = math.nan
) -> Float[np.ndarray, "*images classes"]:
    """The share TP / (TP + FN) of the pixels labelled as a class that are predicted so.

    Also the sensitivity, or the accuracy of the class. `empty` where a class is not labelled.

    >>> recall([[1, 1], [0, 1]]).tolist()
    [0.5, 1.0]
    """
    true, _, labelled = _areas(confusion)
    return ratio(true, labelled, empty)


def mean_iou(
    confusion: Int[np.ndarray, "*images labels preds"], *, empty: float = math.nan
) -> Float[np.ndarray, "*images"]:
    """The mean of `iou` over the classes that are labelled or predicted; NaN without any.

    With another `empty`, over all classes.

    >>> print(mean_iou([[3, 1, 0], [0, 4, 0], [0, 0, 0]]))  # (3/4 + 4/5) / 2
    0.775
    >>> print(mean_iou([[3, 1, 0], [0, 4, 0], [0, 0, 0]], empty=1.0))  # (3/4 + 4/5 + 1) / 3
    0.85
    """
    values = iou(confusion, empty=empty)
    found = ~np.isnan(values)
    return ratio(np.sum(np.where(found, values, 0.0), -1), np.sum(found, -1), math.nan)


def frequency_weighted_iou(
    confusion: Int[np.ndarray, "*images labels preds"],
) -> Float[np.ndarray, "*images"]:
    """The mean of `iou` over the labelled pixels: classes weigh by their area in the labels.

    NaN where nothing is labelled (Long et al. 2015, arXiv:1411.4038).

    >>> print(frequency_weighted_iou([[3, 1], [0, 4]]))  # (4 * 3/4 + 4 * 4/5) / 8
    0.775
    """
    _, _, labelled = _areas(confusion)
    return ratio(np.sum(labelled * iou(confusion, empty=0.0), -1), np.sum(labelled, -1), math.nan)


def accuracy(confusion: Int[np.ndarray, "*images labels preds"]) -> Float[np.ndarray, "*images"]:
    """The share of the pixels that count whose prediction is the label; NaN without any.

    >>> print(accuracy([[3, 1], [0, 4]]))
    0.875
    """
    true, predicted, _ = _areas(confusion)
    return ratio(np.sum(true, -1), np.sum(predicted, -1), math.nan)


def kappa(confusion: Int[np.ndarray, "*images labels preds"]) -> Float[np.ndarray, "*images"]:
    """Cohen's kappa: how much of the agreement that chance leaves open is reached.

    (a - e) / (1 - e), a the accuracy and e that of predictions drawn by their frequencies. NaN
    where chance leaves nothing open, all being of one class (Cohen 1960).

    >>> print(kappa([[3, 1], [0, 4]]))  # (7/8 - 1/2) / (1 - 1/2)
    0.75
    """
    true, predicted, labelled = _shares(confusion)
    chance = np.sum(predicted * labelled, -1)
    return ratio(np.sum(true, -1) - chance, 1.0 - chance, math.nan)


def mcc(confusion: Int[np.ndarray, "*images labels preds"]) -> Float[np.ndarray, "*images"]:
    """The Matthews correlation coefficient of labels and predictions, of any number of classes.

    From -1 to 1, and 0 for predictions that say nothing of the labels; NaN where labels or
    predictions are all of one class (Gorodkin 2004, doi:10.1016/j.compbiolchem.2004.09.006).

    >>> print(f"{mcc([[3, 1], [0, 4]]):.4f}")  # (3 * 4 - 1 * 0) / sqrt(4 * 4 * 3 * 5)
    0.7746
    """
    true, predicted, labelled = _shares(confusion)
    covariance = np.sum(true, -1) - np.sum(predicted * labelled, -1)
    variances = [np.sum(x * (1.0 - x), -1) for x in (predicted, labelled)]
    return ratio(covariance, np.sqrt(variances[0] * variances[1]), math.nan)


def worst(values: Float[np.ndarray, "*images"], fraction: float = 0.05) -> float:
    """The mean of the lowest values, a `fraction` of all but rounded up; NaN counts as none.

    >>> print(worst([0.9, 0.5, 0.7, float("nan")], 0.5))  # of 3 the lowest 2
    0.6
    """
    checks.share("fraction", fraction)
    values = np.asarray(values, np.float64).ravel()
    values = np.sort(values[~np.isnan(values)])
    # As a share of 0.07 of 100 is 7, of which floats make a digit more.
    count = math.ceil(round(fraction * len(values), 9))
    return float(np.mean(values[:count])) if count else math.nan


def _areas(confusion) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pixels of each class that are true, predicted, and labelled."""
    confusion = checked(confusion)
    return np.diagonal(confusion, 0, -2, -1), confusion.sum(-2), confusion.sum(-1)


def _shares(confusion) -> list[np.ndarray]:
    """The areas as shares of all pixels that count."""
    areas = _areas(confusion)
    number = np.sum(areas[1], -1, keepdims=True)
    return [ratio(x, number, math.nan) for x in areas]
