"""Error detection: whether the pixels that are uncertain are those that are wrong.

Any map of uncertainty serves: 1 - confidence, an entropy, a disagreement of members. All scores
follow from the `Detection` that an `ErrorDetection` counts.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxseg import checks
from jaxseg.metrics import _counts
from jaxseg.metrics._counts import Counts, ratio
from jaxseg.metrics.confusion import confusion_matrix

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int


class Detection(NamedTuple):
    """Of each uncertainty that occurs, in rising order, the pixels that are right and wrong."""

    uncertainty: Float[np.ndarray, " values"]
    right: Int[np.ndarray, " values"]
    wrong: Int[np.ndarray, " values"]


class PixelsAndErrors(NamedTuple):
    """The state of `ErrorDetection`: numbers for each uncertainty, by its leading and last byte."""

    pixels: Counts
    errors: Counts


class ErrorDetection(NamedTuple):
    """How many pixels are right and wrong at each uncertainty of a data set, batch by batch.

    Uncertainties are rounded to the 8 significant bits of bfloat16, and those that are then equal
    are ties. So they may have any range, but what matters should be near 0: give 1 - confidence,
    not -confidence. Its state is a pytree of integers, so that the result is the same for any
    batches, in any order, on any devices. `init()` is the state of nothing; `update(state,
    uncertainty, errors, where=, axis_name=)`, which compiles, adds a batch of all replicas to it;
    `merge(*states)` adds states; and `compute(state)` is the `Detection`, on the host, which the
    scores take.

    >>> import jax.numpy as jnp
    >>> metric = ErrorDetection()
    >>> uncertainty, errors = jnp.array([0.5, 0.125, 0.5]), jnp.array([True, False, False])
    >>> state = metric.update(metric.init(), uncertainty, errors)
    >>> [x.tolist() for x in metric.compute(metric.merge(state, state))]
    [[0.125, 0.5], [2, 2], [0, 2]]
    """

    def init(self) -> PixelsAndErrors:
        """The state of no pixels."""
        return PixelsAndErrors(_counts.zeros(256, 256), _counts.zeros(256, 256))

    def update(
        self,
        state: PixelsAndErrors,
        uncertainty: Float[Array, "*pixels"],
        errors: Bool[Array, "*pixels"],
        *,
        where: Bool[Array, "*pixels"] | None = None,
        axis_name: str | None = None,
    ) -> PixelsAndErrors:
        """The state with the pixels of a batch, of up to 2^31 on each replica.

        `errors` are the pixels that are wrong, as in preds != labels; `where` has to leave out
        those without a label. NaN is as uncertain as inf.
        """
        uncertainty, errors = jnp.asarray(uncertainty), jnp.asarray(errors)
        if not jnp.issubdtype(uncertainty.dtype, jnp.floating):
            raise TypeError(
                f"uncertainty is {uncertainty.dtype}{list(uncertainty.shape)}, but must be of a "
                "float dtype"
            )
        if errors.dtype != jnp.bool_:
            raise TypeError(
                f"errors are {errors.dtype}{list(errors.shape)}, but must be bool: compare first, "
                "as in preds != labels"
            )
        if uncertainty.shape != errors.shape:
            raise ValueError(
                f"uncertainty is {list(uncertainty.shape)} and errors {list(errors.shape)}, but "
                "need one shape"
            )
        where = checks.where(where, errors.shape)
        uncertainty = jnp.where(jnp.isnan(uncertainty), jnp.inf, uncertainty)
        bits = lax.bitcast_convert_type(uncertainty.astype(jnp.bfloat16), jnp.uint16)
        high, low = (bits >> 8).astype(jnp.int32), (bits & 255).astype(jnp.int32)
        wrong = errors if where is None else errors & where
        new = PixelsAndErrors(
            # A histogram of two bytes is a matrix of one by the other.
            _counts.split(confusion_matrix(low, high, 256, where=where)),
            _counts.split(confusion_matrix(low, high, 256, where=wrong)),
        )
        return self.merge(state, new if axis_name is None else lax.psum(new, axis_name))

    def merge(self, *states: PixelsAndErrors) -> PixelsAndErrors:
        """The state of all pixels of some states."""
        return PixelsAndErrors(*(_counts.merge(*x) for x in zip(*states, strict=True)))

    def compute(self, state: PixelsAndErrors) -> Detection:
        """The pixels that are right and wrong at each uncertainty, in int64."""
        pixels, errors = (_counts.total(x).ravel() for x in state)
        bits = np.flatnonzero(pixels)
        values = (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        values, found = np.unique(values, return_inverse=True)  # of 0 and -0 one
        right, wrong = np.zeros((2, len(values)), np.int64)
        np.add.at(right, found, (pixels - errors)[bits])
        np.add.at(wrong, found, errors[bits])
        return Detection(values, right, wrong)


def risk_coverage(
    detection: Detection,
) -> tuple[Float[np.ndarray, " values"], Float[np.ndarray, " values"]]:
    """The share of pixels that are accepted, and how many of these are wrong, for each threshold.

    The thresholds are `detection.uncertainty`: accepted is what is at most as uncertain. The last
    coverage is 1, at which the risk is that of all pixels (Geifman and El-Yaniv 2017,
    arXiv:1705.08500).

    >>> detection = Detection(np.array([0.1, 0.7]), right=np.array([3, 2]), wrong=np.array([1, 4]))
    >>> [x.tolist() for x in risk_coverage(detection)]
    [[0.4, 1.0], [0.25, 0.5]]
    """
    accepted, wrong = np.cumsum(detection.right + detection.wrong), np.cumsum(detection.wrong)
    coverage = ratio(accepted, np.sum(detection.right + detection.wrong), math.nan)
    return coverage, ratio(wrong, accepted, math.nan)


def area_under_risk_coverage(detection: Detection) -> float:
    """The mean risk over all coverages from 0 to 1, AURC; the lower, the better.

    Between two thresholds pixels are accepted in equal shares of right and wrong, as those of one
    uncertainty are on average. NaN without pixels (Geifman and El-Yaniv 2017, arXiv:1705.08500).

    >>> detection = Detection(np.array([0.1, 0.7]), right=np.array([4, 0]), wrong=np.array([0, 4]))
    >>> print(f"{area_under_risk_coverage(detection):.4f}")  # 1/2 - 1/2 log 2
    0.1534
    """
    pixels = detection.right + detection.wrong
    share = ratio(detection.wrong, pixels, math.nan)
    before, wrong = np.cumsum(pixels) - pixels, np.cumsum(detection.wrong) - detection.wrong
    # The integral of (wrong + x share) / (before + x) over x from 0 to pixels.
    growth = np.log1p(ratio(pixels, before, 0.0))
    areas = share * pixels + (wrong - share * before) * growth
    return float(ratio(np.sum(areas), np.sum(pixels), math.nan))


def auroc_of_errors(detection: Detection) -> float:
    """The probability that a wrong pixel is more uncertain than a right one; ties count half.

    The area under the receiver operating characteristic of the uncertainty as a detector of errors:
    1/2 for one that says nothing, NaN without a pixel of either kind (Hendrycks and Gimpel 2017,
    arXiv:1610.02136).

    >>> detection = Detection(np.array([0.1, 0.7]), right=np.array([3, 1]), wrong=np.array([1, 1]))
    >>> print(auroc_of_errors(detection))  # (3/2 + 3 + 1/2) / (4 * 2)
    0.625
    """
    # In float64, since products of two numbers of pixels are beyond int64.
    right, wrong = (x.astype(np.float64) for x in (detection.right, detection.wrong))
    below = np.cumsum(right) - right / 2
    return float(ratio(np.sum(wrong * below), np.sum(wrong) * np.sum(right), math.nan))
