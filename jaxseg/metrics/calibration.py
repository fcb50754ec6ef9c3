"""Calibration: whether of the pixels predicted with a confidence of 0.8, 80 % are right.

The confidence of a pixel is its largest probability, and the pixel is right if that is the label's.
Errors are means over pixels of how far confidence and accuracy are apart within bins. All follow
from the `Reliability` that a `Calibration` counts: expected and maximum error (Guo et al. 2017,
arXiv:1706.04599), adaptive error (Nixon et al. 2019, arXiv:1904.01685), and the classwise one
(Kull et al. 2019, arXiv:1910.12656).
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxseg import checks
from jaxseg.metrics import _counts
from jaxseg.metrics._counts import Counts, ratio

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int

# Probabilities are summed in multiples of 2^-24: from 1/2 on float32 has no others.
_BITS = 24
# They are two numbers, of 12 bits and 13, so that int32 holds their sum over so many pixels.
_LOW = 12
_CHUNK = 2**18


class Bins(NamedTuple):
    """For each bin the number of pixels, those of them that are hits, and the sum of probabilities.

    A hit is a pixel where what the probability is of came true.
    """

    pixels: Int[np.ndarray, "*bins"]
    hits: Int[np.ndarray, "*bins"]
    probs: Float[np.ndarray, "*bins"]


class Reliability(NamedTuple):
    """What calibration is judged by.

    `top` are bins of the confidence, `[bins]`; `classes` those of each class's probability,
    `[classes, bins]`; and `cells` bins of the confidence so narrow that they stand for an order of
    all pixels, from certain to uncertain: 128 for each halving of 1 - confidence.
    """

    top: Bins
    classes: Bins
    cells: Bins


class CalibrationSums(NamedTuple):
    """The state of `Calibration`: as `Reliability`, in integers `[..., 4]`, the last two a sum."""

    top: Counts
    classes: Counts
    cells: Counts


class Calibration(NamedTuple):
    """The calibration over a data set, batch by batch: a metric of `num_classes`.

    Bins are the `num_bins` intervals (l, u] of equal width in 0..1, with borders as in float32 and
    with 0 in the first. Its state is a pytree of integers, so that the result is the same for any
    batches, in any order, on any devices; it holds up to 2^38 pixels. Probabilities are rounded to
    multiples of 2^-24, so that means are off by 2^-25, 3e-8, at most. Without `classwise`, the bins
    of each class are left out, which are most of the work. `init()` is the state of nothing;
    `update(state, probs, labels, where=, axis_name=)`, which compiles, adds a batch of all replicas
    to it; `merge(*states)` adds states; and `compute(state)` is the `Reliability`, on the host,
    which the errors take.

    >>> import jax.numpy as jnp
    >>> metric = Calibration(num_classes=2)
    >>> probs = jnp.array([[0.75, 0.25], [0.25, 0.75], [0.75, 0.25], [0.75, 0.25]])
    >>> state = metric.update(metric.init(), probs, jnp.array([0, 1, 0, 0]))
    >>> print(expected_calibration_error(metric.compute(state)))  # all are right: 1 - 3/4
    0.25
    """

    num_classes: int
    num_bins: int = 15
    classwise: bool = True

    def init(self) -> CalibrationSums:
        """The state of no pixels."""
        bins = self.num_bins, 4
        return CalibrationSums(
            _counts.zeros(*bins),
            _counts.zeros(self.num_classes if self.classwise else 0, *bins),
            _counts.zeros(_NUM_CELLS, 4),
        )

    def update(
        self,
        state: CalibrationSums,
        probs: Float[Array, "*pixels classes"],
        labels: Int[Array, "*pixels"],
        *,
        where: Bool[Array, "*pixels"] | None = None,
        axis_name: str | None = None,
    ) -> CalibrationSums:
        """The state with the pixels of a batch, of up to 2^29 on each replica.

        Pixels with a label outside 0..num_classes-1, or with a NaN, are not counted; probabilities
        beyond 0..1, where rounding has put them, count as 0 or 1.
        """
        probs, labels, counts = self._checked(probs, labels, where)
        new = _counted(probs, labels, counts, self.num_bins, self.classwise)
        return self.merge(state, new if axis_name is None else lax.psum(new, axis_name))

    def merge(self, *states: CalibrationSums) -> CalibrationSums:
        """The state of all pixels of some states."""
        return CalibrationSums(*(_counts.merge(*x) for x in zip(*states, strict=True)))

    def compute(self, state: CalibrationSums) -> Reliability:
        """The pixels, hits and sums of probabilities of all bins, in int64 and float64."""
        return Reliability(*map(_bins, state))

    def _checked(self, probs, labels, where) -> tuple[Array, Array, Array]:
        """Probabilities `[pixels, classes]` in 0..1, labels `[pixels]`, and which of them count."""
        checks.whole("num_classes", self.num_classes)
        checks.whole("num_bins", self.num_bins)
        probs = jnp.asarray(probs)
        if not jnp.issubdtype(probs.dtype, jnp.floating):
            raise TypeError(
                f"probs are {probs.dtype}{list(probs.shape)}, but must be probabilities of a float "
                "dtype; of logits take the softmax over the last axis"
            )
        labels = checks.indices("labels", labels)
        if probs.shape != (*labels.shape, self.num_classes):
            raise ValueError(
                f"probs are {list(probs.shape)}, but labels of {list(labels.shape)} and "
                f"{self.num_classes} classes need {[*labels.shape, self.num_classes]}"
            )
        where = checks.where(where, labels.shape)
        probs = jnp.clip(probs.astype(jnp.float32), 0.0, 1.0).reshape(-1, self.num_classes)
        labels = labels.ravel()
        counts = (labels >= 0) & (labels < self.num_classes) & ~jnp.any(jnp.isnan(probs), -1)
        return probs, labels, counts if where is None else counts & where.ravel()


def expected_calibration_error(reliability: Reliability) -> float:
    """The mean over pixels of how far confidence and accuracy of their bin are apart.

    NaN without pixels (Guo et al. 2017, arXiv:1706.04599).

    >>> bins = Bins(pixels=np.array([4, 6]), hits=np.array([3, 3]), probs=np.array([2.0, 5.0]))
    >>> print(expected_calibration_error(Reliability(bins, bins, bins)))  # (|2 - 3| + |5 - 3|) / 10
    0.3
    """
    return float(_error(reliability.top))


def maximum_calibration_error(reliability: Reliability) -> float:
    """The largest difference between confidence and accuracy of a bin that has pixels.

    NaN without pixels. One bin of few pixels decides it (Guo et al. 2017, arXiv:1706.04599).

    >>> bins = Bins(pixels=np.array([4, 6]), hits=np.array([3, 3]), probs=np.array([2.0, 5.0]))
    >>> print(f"{maximum_calibration_error(Reliability(bins, bins, bins)):.4f}")  # |5/6 - 3/6|
    0.3333
    """
    confidence, accuracy, share = reliability_curve(reliability)
    gaps = np.abs(confidence - accuracy)[share > 0]
    return float(np.max(gaps)) if gaps.size else math.nan


def classwise_calibration_error(reliability: Reliability, *, absent: bool = False) -> float:
    """The mean over classes of the expected calibration error of each class's probability.

    That of a class bins its probability at all pixels, whichever class is predicted, and compares
    it with how often the class is the label. Over the classes that are; with `absent`, also over
    those that are no label, whose error is their mean probability. NaN without classes to average
    (Kull et al. 2019, arXiv:1910.12656, whose data sets have all classes).

    >>> bins = Bins(np.full((2, 1), 10), hits=np.array([[9], [0]]), probs=np.array([[7.0], [3.0]]))
    >>> print(classwise_calibration_error(Reliability(bins, bins, bins)))  # |7 - 9| / 10
    0.2
    >>> print(classwise_calibration_error(Reliability(bins, bins, bins), absent=True))
    0.25
    """
    labelled = np.sum(reliability.classes.hits, -1) > 0
    found = _error(reliability.classes)[labelled | absent]
    return float(np.mean(found)) if found.size else math.nan


def adaptive_calibration_error(reliability: Reliability, *, num_bins: int = 15) -> float:
    """The expected calibration error in bins that have the same number of pixels each.

    Confidences that agree in 1 - confidence to within 1/128 of it are one: where a border falls
    among the pixels of such, each side gets its share of them all. That is off from a sort of all
    pixels by no more than the share of the pixels that the cells of the borders hold. NaN without
    pixels (Nixon et al. 2019, arXiv:1904.01685).

    >>> bins = Bins(pixels=np.array([4, 6]), hits=np.array([3, 3]), probs=np.array([4.0, 3.0]))
    >>> found = adaptive_calibration_error(Reliability(bins, bins, bins), num_bins=2)
    >>> print(found)  # 5 pixels each: |4 - 3 + (3 - 3) / 6| / 10 + |(3 - 3) 5 / 6| / 10
    0.1
    """
    checks.whole("num_bins", num_bins)
    pixels, hits, probs = (np.cumsum([0, *x]) for x in reliability.cells)
    borders = pixels[-1] / num_bins * np.arange(num_bins + 1)
    gaps = np.diff(np.interp(borders, pixels, probs - hits))
    return float(ratio(np.sum(np.abs(gaps)), pixels[-1], math.nan))


def reliability_curve(
    reliability: Reliability,
) -> tuple[Float[np.ndarray, " bins"], Float[np.ndarray, " bins"], Float[np.ndarray, " bins"]]:
    """The confidence, the accuracy and the share of all pixels of each bin of the confidence.

    The first two are NaN in a bin without pixels; shares are NaN without any.

    >>> bins = Bins(pixels=np.array([0, 4]), hits=np.array([0, 1]), probs=np.array([0.0, 3.0]))
    >>> [x.tolist() for x in reliability_curve(Reliability(bins, bins, bins))]
    [[nan, 0.75], [nan, 0.25], [0.0, 1.0]]
    """
    pixels, hits, probs = reliability.top
    return (
        ratio(probs, pixels, math.nan),
        ratio(hits, pixels, math.nan),
        ratio(pixels, np.sum(pixels), math.nan),
    )


def _error(bins: Bins) -> Float[np.ndarray, "*classes"]:
    gaps = np.abs(bins.probs - bins.hits)
    return ratio(np.sum(gaps, -1), np.sum(bins.pixels, -1), math.nan)


@partial(jax.jit, static_argnames=("num_bins", "classwise"))
def _counted(probs, labels, counts, num_bins: int, classwise: bool) -> CalibrationSums:
    """The sums of pixels `[pixels, classes]`, of which only those count that do."""
    confidence = jnp.max(probs, -1)
    right = jnp.argmax(probs, -1) == labels
    borders = np.linspace(0.0, 1.0, num_bins + 1, dtype=np.float32)[1:-1]

    def binned(probs, hits):
        bins = sum((probs > x for x in borders), jnp.zeros_like(probs, jnp.int32))
        return _sums(probs, hits, jnp.where(counts, bins, num_bins), num_bins)

    classes = probs.T if classwise else probs.T[:0]
    return CalibrationSums(
        binned(confidence, right),
        # Class by class, since a scatter into all of them at once takes longer.
        lax.map(lambda x: binned(x[0], labels == x[1]), (classes, jnp.arange(len(classes)))),
        _sums(confidence, right, jnp.where(counts, _cell(confidence), _NUM_CELLS), _NUM_CELLS),
    )


# The leading 16 bits of 2^-24, which is the least that 1 - confidence can be other than 0, and 1.
_FIRST, _LAST = ((127 - 24) << 7), (127 << 7)
_NUM_CELLS = _LAST - _FIRST + 2


def _cell(confidence: Float[Array, " pixels"]) -> Int[Array, " pixels"]:
    """0 for a confidence of 1, and for others a cell of those alike, in falling order."""
    # The bits of such floats are ordered as they are: so are the leading ones, a logarithm.
    bits = lax.bitcast_convert_type(1.0 - confidence, jnp.int32) >> 16
    return jnp.maximum(bits - (_FIRST - 1), 0)


def _sums(values, hits, bins, num_bins: int) -> Counts:
    """The pixels, the hits and the values of each bin, `[bins, 4]`; of bin `num_bins` not."""
    fixed = jnp.round(values * 2.0**_BITS).astype(jnp.int32)
    columns = jnp.ones_like(fixed), hits.astype(jnp.int32), fixed >> _LOW, fixed & (2**_LOW - 1)
    chunks = max(1, math.ceil(values.size / _CHUNK))
    rest = -values.size % chunks
    bins = jnp.pad(bins, (0, rest), constant_values=num_bins).reshape(chunks, -1)
    columns = [jnp.pad(x, (0, rest)).reshape(chunks, -1) for x in columns]

    def scattered(bins, *columns):
        found = [jnp.zeros(num_bins, jnp.int32).at[bins].add(x, mode="drop") for x in columns]
        return jnp.stack(found, -1)

    def compared(bins, *columns):
        here = bins[:, None] == jnp.arange(num_bins)[None]
        found = [jnp.sum(jnp.where(here, x[:, None], 0), 0, dtype=jnp.int32) for x in columns]
        return jnp.stack(found, -1)

    # As in a confusion matrix: a CPU adds one by one, and thousands of threads would take turns.
    found = lax.map(
        lambda x: lax.platform_dependent(*x, cpu=scattered, default=compared), (bins, *columns)
    )
    return _counts.summed(found)


def _bins(sums: Counts) -> Bins:
    pixels, hits, high, low = np.moveaxis(_counts.total(sums), -1, 0)
    return Bins(pixels, hits, ((high << _LOW) + low) / 2.0**_BITS)
