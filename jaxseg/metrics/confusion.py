"""The confusion matrix and the scores that follow from it.

`confusion_matrix` counts one batch on the device; matrices are added on the host in int64, so that
a data set is scored as a whole, and divided once at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int


def confusion_matrix(
    preds: Int[Array, "*pixels"],
    labels: Int[Array, "*pixels"],
    num_classes: int,
    *,
    where: Bool[Array, "*pixels"] | None = None,
    axis_name: str | None = None,
) -> Int[Array, "labels preds"]:
    """Counts the pixels of each label (row) and prediction (column), over all replicas.

    Exact up to 2^31 pixels a call, the range of int32. Labels and predictions outside
    0..num_classes-1 are not counted.

    >>> import jax.numpy as jnp
    >>> confusion_matrix(jnp.array([0, 1, 1]), jnp.array([0, 0, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    preds, labels = jnp.asarray(preds), jnp.asarray(labels)
    for name, array in (("preds", preds), ("labels", labels)):
        if not jnp.issubdtype(array.dtype, jnp.integer):
            raise TypeError(
                f"{name} are {array.dtype}, but must be class indices of an integer dtype; of "
                "logits take the argmax over the last axis"
            )
    if where is not None and jnp.asarray(where).dtype != jnp.bool_:
        raise TypeError(f"where is {jnp.asarray(where).dtype}, but must be bool")
    shapes = [x.shape for x in (preds, labels, where) if x is not None]
    if len(set(shapes)) != 1:
        raise ValueError(f"preds, labels and where have shapes {shapes}, but need the same one")
    if where is None:
        where = jnp.ones(labels.shape, bool)
    preds, labels = (x.astype(jnp.promote_types(x.dtype, jnp.int32)) for x in (preds, labels))
    # A product of one-hot matrices rather than a scatter, which is slow on accelerators.
    rows = jax.nn.one_hot(labels, num_classes, dtype=jnp.int8) * where[..., None]
    columns = jax.nn.one_hot(preds, num_classes, dtype=jnp.int8)
    pixels = tuple(range(labels.ndim))
    counts = lax.dot_general(
        rows, columns, ((pixels, pixels), ((), ())), preferred_element_type=jnp.int32
    )
    return counts if axis_name is None else lax.psum(counts, axis_name)


def iou(confusion: Int[np.ndarray, "labels preds"]) -> Float[np.ndarray, " classes"]:
    """The intersection over union of each class; NaN for a class neither labelled nor predicted.

    >>> iou([[1, 1], [0, 1]]).tolist()
    [0.5, 0.5]
    """
    confusion = np.asarray(confusion, np.int64)
    intersection = np.diagonal(confusion)
    union = confusion.sum(0) + confusion.sum(1) - intersection
    return np.divide(intersection, union, out=np.full(len(union), np.nan), where=union > 0)


def mean_iou(confusion: Int[np.ndarray, "labels preds"]) -> float:
    """The mean of `iou` over the classes that are labelled or predicted; NaN without any.

    >>> mean_iou([[3, 1, 0], [0, 4, 0], [0, 0, 0]])  # (3/4 + 4/5) / 2
    0.775
    """
    values = iou(confusion)
    return float(np.mean(values[~np.isnan(values)])) if not np.isnan(values).all() else float("nan")


def pixel_accuracy(confusion: Int[np.ndarray, "labels preds"]) -> float:
    """The fraction of the pixels that count whose prediction is the label; NaN without any.

    >>> pixel_accuracy([[3, 1], [0, 4]])
    0.875
    """
    confusion = np.asarray(confusion, np.int64)
    return float(np.trace(confusion) / confusion.sum()) if confusion.sum() else float("nan")
