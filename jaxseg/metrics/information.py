"""How much two partitions into segments tell of each other.

They compare maps of ids, whose values mean nothing: an id of the labels need not be one of the
predictions, and ids that do not occur change nothing. All follow from the number of pixels that
each pair of ids has in common, `[..., labels, preds]`, which
`confusion_matrix(preds, labels, num_segments, by_image=True)` counts, with `num_segments` above the
largest id of both; leading axes are kept. Every pixel that it counts is part of the scores, so give
it `where=labels != 0` to leave out a background. Entropies are in bits.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from jaxseg.metrics._counts import checked, ratio

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class VariationOfInformation(NamedTuple):
    """In bits, of each image: `total` is `split` + `merge`."""

    total: Float[np.ndarray, "*images"]
    split: Float[np.ndarray, "*images"]
    merge: Float[np.ndarray, "*images"]


def variation_of_information(
    confusion: Int[np.ndarray, "*images labels preds"],
) -> VariationOfInformation:
    """The bits that each of two partitions leaves unknown of the other: 0 if they are the same.

    `split` is the conditional entropy H(preds | labels), of labelled segments that are predicted as
    several; `merge` is H(labels | preds), of labelled segments that are predicted as one. NaN
    without any pixel (Meila 2007, doi:10.1016/j.jmva.2006.11.013).

    >>> found = variation_of_information([[2, 2, 0], [0, 0, 4], [0, 0, 0]])
    >>> print(found.split, found.merge)  # half of the pixels are in a segment cut into halves
    0.5 0.0
    """
    table = checked(confusion)
    number = table.sum((-2, -1))
    # Each term is at least 0, and just 0 for a segment that is one of the other partition, too.
    split, merge = (
        ratio(np.sum(table * np.log2(ratio(areas, table, 1.0)), (-2, -1)), number, math.nan)
        for areas in (table.sum(-1, keepdims=True), table.sum(-2, keepdims=True))
    )
    return VariationOfInformation(split + merge, split, merge)


class AdaptedRand(NamedTuple):
    """The error of each image, which is 1 - F1 of `precision` and `recall`."""

    error: Float[np.ndarray, "*images"]
    precision: Float[np.ndarray, "*images"]
    recall: Float[np.ndarray, "*images"]


def adapted_rand_error(
    confusion: Int[np.ndarray, "*images labels preds"], *, empty: float = math.nan
) -> AdaptedRand:
    """One minus the F1 score of the pairs of pixels that are in one segment: 0 if all agree.

    Of pairs of distinct pixels, `precision` is the share of those in one predicted segment that are
    in one labelled segment, too, and `recall` the share of those in one labelled segment that are
    in one predicted segment. scikit-image 0.26 gives these two in the other order. `empty` where
    there is no pair to divide by (Arganda-Carreras et al. 2015, doi:10.3389/fnana.2015.00142).

    >>> found = adapted_rand_error([[2, 2, 0], [0, 0, 4], [0, 0, 0]])  # 16, 24 and 16 pairs
    >>> print(f"{found.error:.4f} {found.precision:.4f} {found.recall:.4f}")  # 1 - 32/40, 1, 16/24
    0.2000 1.0000 0.6667
    """
    table = checked(confusion).astype(np.float64)  # int64 could not hold the square of all pixels
    both = np.sum(table * np.maximum(table - 1, 0), (-2, -1))
    split = np.sum(table * (table.sum(-1, keepdims=True) - table), (-2, -1))
    merged = np.sum(table * (table.sum(-2, keepdims=True) - table), (-2, -1))
    return AdaptedRand(
        error=ratio(split + merged, 2 * both + split + merged, empty),
        precision=ratio(both, both + merged, empty),
        recall=ratio(both, both + split, empty),
    )


def mutual_information(
    confusion: Int[np.ndarray, "*images labels preds"],
) -> Float[np.ndarray, "*images"]:
    """The bits that each of two partitions tells of the other: H(labels) - H(labels | preds).

    0 if they are independent, and the entropy if they are the same; NaN without any pixel.

    >>> print(mutual_information([[2, 2, 0], [0, 0, 4], [0, 0, 0]]))  # the labels' only bit
    1.0
    """
    labels, preds = _entropies(confusion)
    shared = (labels + preds - variation_of_information(confusion).total) / 2
    return np.clip(shared, 0.0, np.minimum(labels, preds))


def normalized_mutual_information(
    confusion: Int[np.ndarray, "*images labels preds"],
    *,
    mean: Literal["arithmetic", "geometric", "min", "max", "joint"] = "arithmetic",
    empty: float = math.nan,
) -> Float[np.ndarray, "*images"]:
    """`mutual_information` divided by a mean of both entropies: 1 if the partitions are the same.

    Or by the entropy of both together, with "joint". `empty` where neither entropy is above 0, for
    want of a second segment or of any pixel; 0 where only one is
    (Vinh et al. 2010, https://jmlr.org/papers/v11/vinh10a.html).

    >>> print(normalized_mutual_information([[2, 2, 0], [0, 0, 4], [0, 0, 0]]))  # of 1 and 1.5 bits
    0.8
    """
    labels, preds = _entropies(confusion)
    shared = mutual_information(confusion)
    means = {
        "arithmetic": (labels + preds) / 2,
        "geometric": np.sqrt(labels * preds),
        "min": np.minimum(labels, preds),
        "max": np.maximum(labels, preds),
        "joint": labels + preds - shared,
    }
    if mean not in means:
        raise ValueError(f"mean is {mean!r}, but must be one of {', '.join(map(repr, means))}")
    return np.where(means["max"] > 0, ratio(shared, means[mean], 0.0), empty)[()]


def _entropies(confusion) -> list[Float[np.ndarray, "*images"]]:
    """The entropies of labels and predictions."""
    table = checked(confusion)
    number = table.sum((-2, -1))
    # Summed in one order whatever the ids, those of the same partition are the same to the bit.
    areas = [np.sort(table.sum(axis), -1) for axis in (-1, -2)]
    bits = [np.sum(x * np.log2(ratio(number[..., None], x, 1.0)), -1) for x in areas]
    return [ratio(x, number, math.nan) for x in bits]
