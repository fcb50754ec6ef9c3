"""The metrics that commands know by name, and what can be said of them with confidence.

Each metric is a function of a statistic of every image that adds up over images. So the same
function gives the score of an image, of the data set, and of every resampling of its images. And
how masks are batched, over how many devices, makes no difference: the statistics of an image are
computed by one program for one image, and are added up on the host in float64. Where a model
predicts, they are as equal as its logits are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg import losses, metrics

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int

SIGNIFICANT = 0.05  # p-values below it, and what intervals leave out
# Of the overlap of objects; by division, since those of numpy.linspace are not all the nearest.
_THRESHOLDS = tuple(k / 20 for k in range(10, 20))


class Task(NamedTuple):
    """What is scored: class masks, or masks of segments, which have no classes."""

    num_classes: int | None
    num_segments: int | None = None
    spacing: tuple[float, ...] | None = None  # of neighbouring pixels
    tolerance: float = 2.0  # of normalized_surface_dice, in the units of the spacing
    loss: Callable | None = None  # losses.weighted_sum of the run
    step: int = 0  # of the run, which weights may depend on


class Example:
    """An image as statistics see it; what several of them need is computed once.

    `targets` are class indices, or a distribution at each pixel, which losses take as it is; what
    asks for one class takes the likeliest, of equals the first, as `labels`.
    """

    def __init__(
        self,
        task: Task,
        preds: Int[Array, "*pixels"],
        targets: Int[Array, "*pixels"] | Float[Array, "*pixels classes"],
        where: Bool[Array, "*pixels"],
        size: Int[Array, " rank"],
        logits: Float[Array, "*pixels classes"] | None = None,
    ):
        self.task, self.targets, self.logits = task, targets, logits
        self.preds, self.where, self.size = preds, where, size
        self.labels = targets if targets.ndim == where.ndim else jnp.argmax(targets, -1)

    @functools.cached_property
    def confusion(self) -> Int[Array, "labels preds"]:
        """The pixels of each pair of classes, or of segments."""
        number = self.task.num_classes or self.task.num_segments
        return metrics.confusion_matrix(self.preds, self.labels, number, where=self.where)

    @functools.cached_property
    def masks(self) -> dict:
        """What surface metrics take: each class as a mask by itself."""
        classes = jnp.arange(self.task.num_classes).reshape(-1, *(1,) * self.labels.ndim)
        preds, labels = (x[None] == classes for x in (self.preds, self.labels))
        where = jnp.broadcast_to(self.where[None], labels.shape)
        return {
            "preds": preds,
            "labels": labels,
            "where": where,
            "spatial_rank": self.labels.ndim,
        }

    @functools.cached_property
    def distances(self) -> metrics.SurfaceDistances:
        return metrics.surface_distances(**self.masks, spacing=self.task.spacing)

    @functools.cached_property
    def diagonal(self) -> Float[Array, ""]:
        """The length of the image's diagonal, which stands for the distance of a missed class."""
        spacing = self.task.spacing or (1.0,) * self.labels.ndim
        return jnp.sqrt(jnp.sum(jnp.square(self.size * jnp.array(spacing, jnp.float32))))

    @functools.cached_property
    def calibration(self) -> metrics.CalibrationSums:
        metric = metrics.Calibration(self.task.num_classes)
        probs = jax.nn.softmax(self.logits)
        return metric.update(metric.init(), probs, self.labels, where=self.where)


class Statistic(NamedTuple):
    """What is measured of an image on the device, and what of it is kept on the host.

    `finish` takes the arrays of a batch of images to one array `[images, *statistic]`.
    """

    measure: Callable[[Example], object]
    finish: Callable[[object], np.ndarray] = np.asarray


class Metric(NamedTuple):
    """A metric by the name of a statistic, and what the sums of that say.

    `score` takes sums `[..., *statistic]` to scores `[...]`, and `by_class`, where there is one, to
    `[..., classes]`, of which the score is the mean over the classes that it is defined for.
    """

    what: str
    statistic: str
    score: Callable[[np.ndarray], np.ndarray]
    by_class: Callable[[np.ndarray], np.ndarray] | None = None
    higher_is_better: bool = True


def _summand(values: Array) -> Array:
    """[value, 1], which adds up to a mean, and [0, 0] for NaN, which it leaves out."""
    found = ~jnp.isnan(values)
    return jnp.stack([jnp.where(found, values, 0.0), found.astype(jnp.float32)], -1)


def _mean_of_sums(sums: np.ndarray) -> np.ndarray:
    total, number = sums[..., 0], sums[..., 1]
    return np.divide(total, number, out=np.full(np.shape(total), np.nan), where=number > 0)


def _mean_over_classes(values: np.ndarray) -> np.ndarray:
    found = ~np.isnan(values)
    return _mean_of_sums(np.stack([np.sum(np.where(found, values, 0.0), -1), found.sum(-1)], -1))


def _surface(score: Callable) -> Statistic:
    return Statistic(
        lambda example: _summand(score(example.distances, empty=np.nan, missing=example.diagonal))
    )


def _pixelwise(loss: Callable) -> Statistic:
    def measure(example):
        values = loss(example.logits, example.targets, where=example.where, reduce=None)
        return jnp.stack([jnp.sum(values), jnp.sum(example.where, dtype=jnp.float32)])

    return Statistic(measure)


def _loss(example: Example) -> Array:
    """The run's loss and its terms, sorted by name, times the pixels that count; and these."""
    # As a batch of one, since losses may need the axis of images.
    loss, terms = example.task.loss(
        example.logits[None],
        example.targets[None],
        where=example.where[None],
        step=example.task.step,
    )
    number = jnp.sum(example.where, dtype=jnp.float32)
    values = jnp.stack([loss, *(terms[name] for name in sorted(terms))])
    return jnp.stack([values * number, jnp.broadcast_to(number, values.shape)], -1)


def _calibration(kind: str) -> Statistic:
    """Pixels, hits and probabilities of the bins of one kind."""

    def finish(counts):
        sums = metrics.CalibrationSums(counts, counts, counts)
        return np.stack(metrics.Calibration(1).compute(sums).top, -1)

    return Statistic(lambda example: getattr(example.calibration, kind), finish)


def _objects(tables: np.ndarray) -> np.ndarray:
    """The numbers of objects matched, missed and spurious, and the IoU, at each threshold."""
    found = [metrics.object_counts(tables, threshold=threshold) for threshold in _THRESHOLDS]
    return np.stack([np.stack(counts, -1) for counts in found], -2)


def _partitions(tables: np.ndarray) -> np.ndarray:
    """The sums of what compares partitions, over images that have a pixel."""
    information = metrics.variation_of_information(tables)
    rand = metrics.adapted_rand_error(tables).error
    shared = metrics.normalized_mutual_information(tables)
    values = np.stack([*information, rand, shared], -1)
    found = ~np.isnan(values)
    return np.stack([np.where(found, values, 0.0), found], -1)


STATISTICS = {
    "confusion": Statistic(lambda example: example.confusion),
    "boundary_iou": Statistic(
        lambda example: _summand(
            metrics.boundary_iou(
                **example.masks,
                sizes=jnp.broadcast_to(
                    example.size[None], (example.task.num_classes, len(example.size))
                ),
            )
        )
    ),
    "hausdorff": _surface(metrics.hausdorff),
    "hausdorff_95": _surface(metrics.hausdorff_95),
    "average_surface_distance": _surface(metrics.average_surface_distance),
    "normalized_surface_dice": Statistic(
        lambda example: _summand(
            metrics.normalized_surface_dice(example.distances, example.task.tolerance)
        )
    ),
    "negative_log_likelihood": _pixelwise(losses.cross_entropy),
    "brier": _pixelwise(losses.brier),
    "kl_divergence": _pixelwise(losses.kl_divergence),
    "loss": Statistic(_loss),
    "calibration": _calibration("top"),
    "classwise_calibration": _calibration("classes"),
    "confidence": _calibration("cells"),
    "objects": Statistic(lambda example: example.confusion, _objects),
    "partitions": Statistic(lambda example: example.confusion, _partitions),
}


def _of_classes(what: str, score: Callable) -> Metric:
    return Metric(what, "confusion", lambda sums: _mean_over_classes(score(sums)), score)


def _of_surfaces(statistic: str, what: str, *, higher: bool = False) -> Metric:
    return Metric(
        what,
        statistic,
        lambda sums: _mean_over_classes(_mean_of_sums(sums)),
        _mean_of_sums,
        higher_is_better=higher,
    )


def _of_pixels(statistic: str, what: str) -> Metric:
    return Metric(what, statistic, _mean_of_sums, higher_is_better=False)


def _one_by_one(score: Callable[[np.ndarray], float], rank: int) -> Callable:
    """A score of one array of `rank` axes as one of arrays `[..., *axes]`."""

    def scores(sums):
        flat = sums.reshape(-1, *sums.shape[sums.ndim - rank :])
        return np.array([score(x) for x in flat], np.float64).reshape(sums.shape[:-rank])

    return scores


def reliability(sums: np.ndarray) -> metrics.Reliability:
    """The bins of any kind in the form that errors of calibration take."""
    bins = metrics.Bins(*np.moveaxis(sums, -1, 0))
    return metrics.Reliability(bins, bins, bins)


def detection(sums: np.ndarray) -> metrics.Detection:
    """The cells of confidence in the form that scores of error detection take."""
    pixels, hits, _ = np.moveaxis(sums[sums[..., 0] > 0], -1, 0)
    return metrics.Detection(np.arange(len(pixels), dtype=np.float64), hits, pixels - hits)


def _of_bins(statistic: str, what: str, score: Callable, rank: int = 2) -> Metric:
    def of_sums(sums):
        return score(reliability(sums))

    return Metric(what, statistic, _one_by_one(of_sums, rank), higher_is_better=False)


def _of_errors(what: str, score: Callable, *, higher: bool) -> Metric:
    def of_sums(sums):
        return score(detection(sums))

    return Metric(what, "confidence", _one_by_one(of_sums, 2), higher_is_better=higher)


def _of_objects(what: str, score: Callable[[metrics.SegmentCounts], np.ndarray]) -> Metric:
    """A metric of the counts `[..., thresholds]`."""
    return Metric(
        what, "objects", lambda sums: score(metrics.SegmentCounts(*np.moveaxis(sums, -1, 0)))
    )


def _of_partitions(what: str, index: int, *, higher: bool = False) -> Metric:
    return Metric(
        what,
        "partitions",
        lambda sums: _mean_of_sums(sums)[..., index],
        higher_is_better=higher,
    )


_CLASSES = {
    "mean_iou": _of_classes("mean over classes of TP / (TP + FP + FN)", metrics.iou),
    "mean_dice": _of_classes("mean over classes of 2 TP / (2 TP + FP + FN)", metrics.dice),
    "mean_precision": _of_classes("mean over classes of TP / (TP + FP)", metrics.precision),
    "mean_recall": _of_classes("mean over classes of TP / (TP + FN)", metrics.recall),
    "accuracy": Metric("share of pixels that are right", "confusion", metrics.accuracy),
    "frequency_weighted_iou": Metric(
        "mean IoU, classes weighed by labelled pixels", "confusion", metrics.frequency_weighted_iou
    ),
    "kappa": Metric("Cohen's kappa of all pixels", "confusion", metrics.kappa),
    "mcc": Metric("Matthews correlation coefficient of all pixels", "confusion", metrics.mcc),
    "boundary_iou": _of_surfaces(
        "boundary_iou", "IoU of bands of 2 % of the diagonal along boundaries", higher=True
    ),
    "hausdorff": _of_surfaces("hausdorff", "largest distance between surfaces"),
    "hausdorff_95": _of_surfaces("hausdorff_95", "95th percentile of distances between surfaces"),
    "average_surface_distance": _of_surfaces(
        "average_surface_distance", "mean distance between surfaces"
    ),
    "normalized_surface_dice": _of_surfaces(
        "normalized_surface_dice", "share of surfaces within --tolerance", higher=True
    ),
}
_PROBABILITIES = {
    "negative_log_likelihood": _of_pixels("negative_log_likelihood", "in nats per pixel"),
    "bits_per_pixel": Metric(
        "negative log-likelihood in bits",
        "negative_log_likelihood",
        lambda sums: _mean_of_sums(sums) / np.log(2),
        higher_is_better=False,
    ),
    "brier": _of_pixels("brier", "squared distance of probabilities and label"),
    "kl_divergence": _of_pixels("kl_divergence", "from label to prediction, in nats per pixel"),
    "loss": Metric(
        "the run's own loss",
        "loss",
        lambda sums: _mean_of_sums(sums)[..., 0],
        higher_is_better=False,
    ),
    "expected_calibration_error": _of_bins(
        "calibration",
        "mean gap of confidence and accuracy, 15 bins",
        metrics.expected_calibration_error,
    ),
    "maximum_calibration_error": _of_bins(
        "calibration",
        "largest gap of confidence and accuracy, 15 bins",
        metrics.maximum_calibration_error,
    ),
    "adaptive_calibration_error": _of_bins(
        "confidence",
        "mean gap of confidence and accuracy, bins of equally many pixels",
        metrics.adaptive_calibration_error,
    ),
    "classwise_calibration_error": _of_bins(
        "classwise_calibration",
        "mean over classes of the calibration error of each one's probability",
        metrics.classwise_calibration_error,
        rank=3,
    ),
    "area_under_risk_coverage": _of_errors(
        "mean error over shares of the most confident pixels",
        metrics.area_under_risk_coverage,
        higher=False,
    ),
    "auroc_of_errors": _of_errors(
        "probability that a wrong pixel is less confident than a right one",
        metrics.auroc_of_errors,
        higher=True,
    ),
}
_SEGMENTS = {
    "object_f1": _of_objects(
        "2 TP / (2 TP + FP + FN) of objects, matched above IoU 0.5",
        lambda counts: metrics.object_f1(counts)[..., 0],
    ),
    "object_jaccard": _of_objects(
        "TP / (TP + FP + FN) of objects, matched above IoU 0.5",
        lambda counts: metrics.object_jaccard(counts)[..., 0],
    ),
    "mean_object_jaccard": _of_objects(
        "its mean over the thresholds 0.5, 0.55, ..., 0.95",
        lambda counts: np.mean(metrics.object_jaccard(counts), -1),
    ),
    "panoptic_quality": _of_objects(
        "IoU of matched objects over TP + FP / 2 + FN / 2",
        lambda counts: metrics.panoptic_quality(counts).pq[..., 0],
    ),
    "segmentation_quality": _of_objects(
        "mean IoU of matched objects", lambda counts: metrics.panoptic_quality(counts).sq[..., 0]
    ),
    "variation_of_information": _of_partitions("in bits, mean over images", 0),
    "variation_of_information_split": _of_partitions("its part of split segments", 1),
    "variation_of_information_merge": _of_partitions("its part of merged segments", 2),
    "adapted_rand_error": _of_partitions("1 - F1 of pairs of pixels, mean over images", 3),
    "normalized_mutual_information": _of_partitions("mean over images", 4, higher=True),
}
METRICS = _CLASSES | _PROBABILITIES | _SEGMENTS
CLASSES, PROBABILITIES, SEGMENTS = (tuple(x) for x in (_CLASSES, _PROBABILITIES, _SEGMENTS))


def measure(names: Sequence[str], example: Example) -> dict[str, object]:
    """The statistics of an image that some metrics need, on the device."""
    keys = dict.fromkeys(METRICS[name].statistic for name in names)
    return {key: STATISTICS[key].measure(example) for key in keys}


def finish(measured: dict[str, object]) -> dict[str, np.ndarray]:
    """What `measure` found of a batch of images, as one array `[images, ...]` each."""
    return {key: STATISTICS[key].finish(value) for key, value in measured.items()}


class Evaluation(NamedTuple):
    """What was measured of each image of a data set, under the name of each."""

    images: tuple[str, ...]
    classes: tuple[str, ...]
    metrics: tuple[str, ...]
    statistics: dict[str, np.ndarray]  # [images, ...]

    def scores(self) -> dict[str, float]:
        """The score of the data set by each metric; NaN where it is defined for nothing."""
        return {name: float(self._score(name)(self._sums(name))) for name in self.metrics}

    def by_class(self) -> dict[str, np.ndarray]:
        """The score of each class, by the metrics that have some."""
        found = {name: METRICS[name].by_class for name in self.metrics}
        return {name: score(self._sums(name)) for name, score in found.items() if score}

    def by_image(self) -> dict[str, np.ndarray]:
        """The score of each image by each metric, by its own pixels."""
        return {name: self._score(name)(self._of(name)) for name in self.metrics}

    def by_image_and_class(self) -> dict[str, np.ndarray]:
        """The score of each class in each image `[images, classes]`, by the metrics that have."""
        found = {name: METRICS[name].by_class for name in self.metrics}
        return {name: score(self._of(name)) for name, score in found.items() if score}

    def resampled(self, name: str, weights: np.ndarray) -> np.ndarray:
        """The score of each data set that has each image as often as `weights`, [sets, images]."""
        statistic, score = self._of(name), self._score(name)
        # In float64, where products are fast, and exact for sums below 2^53.
        floats = statistic.astype(np.float64)
        parts = np.array_split(weights, max(1, weights.shape[0] * statistic[0].size // 10**7))
        sums = (np.tensordot(part.astype(np.float64), floats, 1) for part in parts)
        exact = np.int64 if statistic.dtype.kind in "iu" else np.float64
        return np.concatenate([score(x.astype(exact)) for x in sums])

    def _of(self, name: str) -> np.ndarray:
        return self.statistics[METRICS[name].statistic]

    def _sums(self, name: str) -> np.ndarray:
        statistic = self._of(name)
        exact = np.int64 if statistic.dtype.kind in "iu" else np.float64
        return np.sum(statistic, 0, dtype=exact)

    @staticmethod
    def _score(name: str) -> Callable:
        return METRICS[name].score


def resamplings(images: int, samples: int, seed: int = 0) -> np.ndarray:
    """How often each image is in each of some data sets drawn with replacement."""
    return np.random.default_rng(seed).multinomial(images, [1 / images] * images, size=samples)


def intervals(evaluation: Evaluation, samples: int) -> dict[str, tuple[float, float]]:
    """The 95 % interval of each score, by the percentiles of resampled data sets.

    The bootstrap over images (Efron and Tibshirani 1993, chapter 13): how far the scores would move
    with other images of the same kind, not with another training. Of one image there is none.
    """
    if len(evaluation.images) < 2:
        return dict.fromkeys(evaluation.metrics, (np.nan, np.nan))
    weights = resamplings(len(evaluation.images), samples)
    tails = 50 * SIGNIFICANT, 100 - 50 * SIGNIFICANT
    found = {}
    for name in evaluation.metrics:
        values = evaluation.resampled(name, weights)
        values = values[~np.isnan(values)]
        found[name] = tuple(np.percentile(values, tails)) if len(values) else (np.nan, np.nan)
    return found


class Difference(NamedTuple):
    """The score of one evaluation minus that of another on the same images."""

    first: float
    second: float
    difference: float
    low: float
    high: float
    p_value: float


def compare(first: Evaluation, second: Evaluation, samples: int) -> dict[str, Difference]:
    """The differences of two evaluations of the same images, by a paired bootstrap.

    Both are resampled alike. The p-value is two-sided: how often the resampled difference is at
    least as far from the difference found as that is from 0, counted with the difference itself, so
    that it is at least 1 / (samples + 1) (Efron and Tibshirani 1993, chapter 16). Nor is it less
    than 2^(1 - images), the chance that all images favour one of two equals. With fewer than some
    30 images, it is still smaller than it should be.
    """
    weights = resamplings(len(first.images), samples)
    found = {}
    scores = [x.scores() for x in (first, second)]
    for name in first.metrics:
        values = [x[name] for x in scores]
        difference = values[0] - values[1]
        drawn = np.subtract(*(x.resampled(name, weights) for x in (first, second)))
        drawn = drawn[~np.isnan(drawn)]
        if np.isnan(difference) or not len(drawn):
            found[name] = Difference(*values, difference, np.nan, np.nan, np.nan)
            continue
        low, high = np.percentile(drawn, (50 * SIGNIFICANT, 100 - 50 * SIGNIFICANT))
        farther = np.sum(np.abs(drawn - difference) >= abs(difference))
        # As many images may all be in favour of one by chance alone.
        p_value = max((1 + farther) / (1 + len(drawn)), 2.0 ** (1 - len(first.images)))
        found[name] = Difference(*values, difference, low, high, p_value)
    return found
