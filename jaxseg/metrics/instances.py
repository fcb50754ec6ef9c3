"""Scores of segments that are found or not: objects, and the segments of panoptic maps.

Two maps of ids are compared by the number of pixels that each pair of ids has in common,
`[..., labels, preds]`, which `confusion_matrix(preds, labels, num_segments, by_image=True)` counts
for each image; `num_segments` is above the largest id of both, since pixels of others are not
counted. Ids need not be consecutive, and those of the labels are unrelated to those of the
predictions.

A labelled and a predicted segment match if their intersection over union is above a threshold.
Segments of one map do not overlap, so above 1/2 each matches one at most, and there is nothing to
assign. Matches are counted first, as `SegmentCounts` of each image, and those of a data set are
their sum, `jax.tree.map(lambda x: x.sum(0), counts)`, of which all scores are taken alike.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxseg import checks
from jaxseg.metrics._counts import checked, ratio

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


class SegmentCounts(NamedTuple):
    """Numbers of segments that are matched, labelled alone and predicted alone, which add up.

    `iou` is the sum over the matches of their intersections over unions.
    """

    matched: Int[np.ndarray, "*counts"]
    missed: Int[np.ndarray, "*counts"]
    spurious: Int[np.ndarray, "*counts"]
    iou: Float[np.ndarray, "*counts"]


def object_counts(
    confusion: Int[np.ndarray, "*images labels preds"],
    *,
    threshold: float = 0.5,
    background: int | None = 0,
) -> SegmentCounts:
    """Counts the objects of each image that are matched, missed and spurious.

    Objects are all ids but `background`, which is no object of either map; None if there is none.
    A match is an intersection over union above `threshold`, from 0.5 to below 1; some others also
    take one equal to it. The objects of a semantic mask are its connected components.

    >>> import jax.numpy as jnp
    >>> from jaxseg.metrics import confusion_matrix
    >>> from jaxseg.ops import connected_components
    >>> labels, _ = connected_components(jnp.array([[1, 1, 1, 0, 1, 0, 1]]) == 1)
    >>> preds, _ = connected_components(jnp.array([[0, 1, 1, 0, 1, 0, 0]]) == 1)
    >>> counts = object_counts(confusion_matrix(preds, labels, 4))
    >>> print(counts.matched, counts.missed, counts.spurious, f"{counts.iou:.4f}")  # 2/3 + 1
    2 1 0 1.6667
    >>> print(object_f1(counts))  # 2 * 2 / (2 * 2 + 1)
    0.8
    """
    table = checked(confusion)
    labels, preds = _objects(table, background)
    iou = _matches(table, labels[..., :, None] & preds[..., None, :], threshold)
    matched = np.sum(iou > 0, (-2, -1))
    return SegmentCounts(
        matched, labels.sum(-1) - matched, preds.sum(-1) - matched, iou.sum((-2, -1))
    )


def object_f1(counts: SegmentCounts, *, empty: float = math.nan) -> Float[np.ndarray, "*counts"]:
    """The F1 score 2 TP / (2 TP + FP + FN) of objects: matched, spurious and missed ones.

    `empty` where there are none, neither labelled nor predicted.

    >>> counts = object_counts([[9, 0, 0], [1, 5, 0], [4, 0, 0]])
    >>> print(f"{object_f1(counts):.4f}")  # 2 * 1 / (2 * 1 + 0 + 1)
    0.6667
    """
    matched, missed, spurious, _ = counts
    return ratio(2 * matched, 2 * matched + missed + spurious, empty)


def object_jaccard(
    counts: SegmentCounts, *, empty: float = math.nan
) -> Float[np.ndarray, "*counts"]:
    """The Jaccard index TP / (TP + FP + FN) of objects: matched, spurious and missed ones.

    Cellpose and the Data Science Bowl 2018, which takes the mean over ten thresholds, call it
    average precision, and StarDist accuracy. No precision is averaged in it, and it needs no
    scores: `average_precision` is another. `empty` where there are no objects, neither labelled nor
    predicted.

    >>> confusion = [[9, 0, 0], [2, 5, 0], [0, 0, 4]]  # IoUs of 5/7 and 1
    >>> print(object_jaccard(object_counts(confusion)))
    1.0
    >>> ten = [object_counts(confusion, threshold=k / 20) for k in range(10, 20)]
    >>> print(f"{np.mean([object_jaccard(counts) for counts in ten]):.4f}")  # (5 * 1 + 5 / 3) / 10
    0.6667
    """
    matched, missed, spurious, _ = counts
    return ratio(matched, matched + missed + spurious, empty)


def average_precision(
    confusion: Int[np.ndarray, "*images labels preds"],
    scores: Float[np.ndarray, "*images preds"],
    *,
    threshold: float = 0.5,
    background: int | None = 0,
    empty: float = math.nan,
) -> float:
    """The area under the curve of precision over recall of objects with confidence scores.

    Predicted objects of all images enter in the order of their `scores`, one for each id, those of
    equal scores together. Precision is made monotone, as the best at no less recall, and averaged
    over the recalls 0, 0.01, ..., 1; it is 0 beyond the last one reached. `empty` without labelled
    objects. Objects match as in `object_counts`, and are of one class: to score it among others,
    give these the background's id before counting. The mean over classes and the thresholds 0.5,
    0.55, ..., 0.95 is the AP of COCO, but for crowds and for IoUs equal to a threshold (Lin et al.
    2014, arXiv:1405.0312). What is called average precision without scores is `object_jaccard`.

    >>> confusion = [[9, 2, 0, 0], [0, 0, 3, 0], [0, 0, 0, 3], [0, 0, 0, 0]]  # 1 is spurious
    >>> scores = np.array([0.0, 0.8, 0.9, 0.7])
    >>> print(f"{average_precision(confusion, scores):.4f}")  # (51 * 1/1 + 50 * 2/3) / 101
    0.8350
    """
    table = checked(confusion)
    labels, preds = _objects(table, background)
    matched = np.any(_matches(table, labels[..., :, None] & preds[..., None, :], threshold), -2)
    scores = np.asarray(scores)
    if not np.issubdtype(scores.dtype, np.floating) or scores.shape != preds.shape:
        raise ValueError(
            f"scores are {scores.dtype}{list(scores.shape)}, but must be floats "
            f"{list(preds.shape)}: one for each predicted id"
        )
    if np.isnan(scores[preds]).any():
        raise ValueError("scores of predicted objects are NaN, but must be numbers to be sorted")
    number = labels.sum()
    if not number:
        return empty
    _, order = np.unique(-scores[preds], return_inverse=True)
    found = np.cumsum(np.bincount(order, weights=matched[preds]))
    precision = found / np.cumsum(np.bincount(order))
    best = np.maximum.accumulate(precision[::-1])[::-1]
    reached = np.searchsorted(100 * found, number * np.arange(101))
    return float(np.mean(np.append(best, 0.0)[reached]))


def panoptic_counts(
    confusion: Int[np.ndarray, "*images labels preds"],
    label_classes: Int[np.ndarray, "*images labels"],
    pred_classes: Int[np.ndarray, "*images preds"],
    num_classes: int,
    *,
    crowd: Bool[np.ndarray, "*images labels"] | None = None,
) -> SegmentCounts:
    """Counts the segments of each image and class that are matched, missed and spurious.

    The class of each id is -1 where it is no segment: void as a label, nothing as a prediction.
    Label segments that are a `crowd` are groups of objects. A match is of one class and an
    intersection over union above 1/2, the union without the prediction's pixels on void. A crowd
    neither matches nor is missed; a prediction that matches none is not spurious if more than half
    of it is on void or on crowds of its class (Kirillov et al. 2019, arXiv:1801.00868; their code
    takes one crowd of a class, here it is all). A void pixel is one of the prediction's area, so
    give it an id; one that is left out by `where` is of none.

    >>> confusion = [[0, 1, 0], [0, 3, 1], [0, 0, 2]]  # id 0 is void, 1 and 2 are segments
    >>> classes = [-1, 0, 1]
    >>> counts = panoptic_counts(confusion, classes, classes, num_classes=2)
    >>> [round(x, 4) for x in counts.iou.tolist()]  # 3 / (4 + 4 - 3 - 1), 2 / (2 + 3 - 2)
    [0.75, 0.6667]
    """
    table = checked(confusion)
    checks.whole("num_classes", num_classes)
    label_classes = _classes("label_classes", label_classes, table, num_classes)
    pred_classes = _classes("pred_classes", pred_classes, table, num_classes)
    crowd = np.zeros(label_classes.shape, bool) if crowd is None else np.asarray(crowd)
    if crowd.dtype != np.bool_ or crowd.shape != label_classes.shape:
        raise ValueError(
            f"crowd is {crowd.dtype}{list(crowd.shape)}, but must be "
            f"bool{list(label_classes.shape)}: True for each label id that is a group"
        )
    labelled, predicted = table.sum(-1), table.sum(-2)
    labels = (labelled > 0) & (label_classes >= 0) & ~crowd
    preds = (predicted > 0) & (pred_classes >= 0)
    alike = label_classes[..., :, None] == pred_classes[..., None, :]
    void = np.sum(table, -2, where=label_classes[..., :, None] < 0)
    iou = _matches(table, alike & labels[..., :, None] & preds[..., None, :], 0.5, void)
    crowded = np.sum(table, -2, where=alike & crowd[..., :, None])
    excused = 2 * (void + crowded) > predicted
    matched = np.any(iou, -1)
    return SegmentCounts(
        matched=_by_class(matched, label_classes, num_classes),
        missed=_by_class(labels & ~matched, label_classes, num_classes),
        spurious=_by_class(preds & ~np.any(iou, -2) & ~excused, pred_classes, num_classes),
        iou=_by_class(iou.sum(-1), label_classes, num_classes),
    )


class PanopticQuality(NamedTuple):
    """Of each class: `pq` is `sq`, the mean IoU of the matches, times `rq`, their F1 score."""

    pq: Float[np.ndarray, "*images classes"]
    sq: Float[np.ndarray, "*images classes"]
    rq: Float[np.ndarray, "*images classes"]


def panoptic_quality(counts: SegmentCounts, *, empty: float = math.nan) -> PanopticQuality:
    """The sum of the IoUs of matches over TP + FP / 2 + FN / 2 of each class, and its factors.

    All three are 0 where nothing matches, and `empty` where a class has no segment, neither
    labelled nor predicted. That of a data set is of the sum of its counts, and its mean over
    classes is `numpy.nanmean(pq)` (Kirillov et al. 2019, arXiv:1801.00868).

    >>> confusion = [[[0, 1, 0], [0, 3, 1], [0, 0, 2]], [[0, 0, 0], [0, 0, 5], [0, 0, 0]]]
    >>> classes = [[-1, 0, 1], [-1, 0, 1]]  # the second image has a 0 that is predicted as a 1
    >>> counts = panoptic_counts(confusion, classes, classes, num_classes=2)
    >>> import jax
    >>> total = jax.tree.map(lambda x: x.sum(0), counts)
    >>> [round(x, 4) for x in panoptic_quality(total).pq.tolist()]  # 3/4 and 2/3, over 3/2
    [0.5, 0.4444]
    """
    matched, missed, spurious, iou = counts
    total = matched + missed / 2 + spurious / 2
    return PanopticQuality(
        pq=ratio(iou, total, empty),
        sq=np.where(total > 0, ratio(iou, matched, 0.0), empty)[()],
        rq=ratio(matched, total, empty),
    )


def _objects(table, background: int | None) -> list[Bool[np.ndarray, "*images ids"]]:
    """Which ids are objects of the labels and of the predictions."""
    last = table.shape[-1] - 1
    if background is not None and not 0 <= background <= last:
        raise ValueError(
            f"background is {background}, but the ids are 0..{last}; give None if there is none"
        )
    objects = np.arange(last + 1) != background
    return [(table.sum(axis) > 0) & objects for axis in (-1, -2)]


def _matches(table, alike, threshold: float, void=0) -> Float[np.ndarray, "*images labels preds"]:
    """The intersections over unions of the pairs alike that match, and 0 for all others."""
    checks.number("threshold", threshold)
    if not 0.5 <= threshold < 1.0:
        raise ValueError(
            f"threshold is {threshold}, but must be from 0.5 to below 1; below 0.5, one object "
            "could match several"
        )
    union = table.sum(-1)[..., :, None] + (table.sum(-2) - void)[..., None, :] - table
    # Correctly rounded, so that an IoU of 9/10 is not above the threshold 0.9, whose float is the
    # nearest, too; that of numpy.linspace(0.5, 0.95, 10) is below it.
    iou = ratio(table, union, 0.0)
    return np.where(alike & (iou > threshold), iou, 0.0)


def _classes(name: str, classes, table, num_classes: int) -> Int[np.ndarray, "*images ids"]:
    classes = np.asarray(classes)
    if not np.issubdtype(classes.dtype, np.integer) or classes.shape != table.shape[:-1]:
        raise ValueError(
            f"{name} are {classes.dtype}{list(classes.shape)}, but must be integers "
            f"{list(table.shape[:-1])}: the class of each id, -1 where it is no segment"
        )
    wrong = classes[(classes < -1) | (classes >= num_classes)]
    if wrong.size:
        raise ValueError(
            f"{name} have {wrong[0]}, but must be in 0..{num_classes - 1}, or -1 for an id that is "
            "no segment"
        )
    return classes


def _by_class(values, classes, num_classes: int) -> np.ndarray:
    """The sums over the ids of each class."""
    return np.sum(values[..., None] * (classes[..., None] == np.arange(num_classes)), -2)
