"""Every metric is its definition, of images, data sets and resamplings; and what is said of them.

The definitions here are those of numpy and scipy, of a list of images of their own sizes; the
library measures the same images in padded batches.
"""

import functools
from typing import NamedTuple

import jax
import numpy as np
import pytest
from scipy import ndimage, special, stats

from jaxseg import losses, parallel, scores
from jaxseg.scores import METRICS, Evaluation, Example, Task
from jaxseg.steps import make_eval_step

PADDED = {2: (24, 32), 3: (6, 10, 14)}
SPACING = {2: (1.0, 1.0), 3: (3.0, 1.0, 0.5)}
CLASSES = ("a", "b", "c", "d")  # the last of which occurs nowhere
TOLERANCE = 1.5
LOSS = losses.weighted_sum((("cross_entropy", 1.0), ("dice", 0.5, {"per": "image"})))
TASK = Task(len(CLASSES), tolerance=TOLERANCE, loss=LOSS)
VOLUMES = TASK._replace(spacing=SPACING[3])
SEGMENTS = Task(None, num_segments=16)


class Image(NamedTuple):
    """An image of its own size, or some of them in padded arrays."""

    preds: np.ndarray
    labels: np.ndarray
    where: np.ndarray
    logits: np.ndarray
    sizes: np.ndarray


def make_image(seed, shape, *, classes=(0, 1, 2), counts=0.8, logits=None):
    """Blobs of some classes, and logits that know something of them."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(len(classes), *shape))
    noise = ndimage.gaussian_filter(noise, (0, *(6 / len(shape),) * len(shape)))
    labels = np.array(classes)[noise.argmax(0)].astype(np.int32)
    found = rng.normal(size=(*shape, len(CLASSES))) - 9.0 * (np.arange(len(CLASSES)) == 3)
    found = (found + 2.0 * (labels[..., None] == np.arange(len(CLASSES)))).astype(np.float32)
    return Image(found.argmax(-1), labels, rng.random(shape) < counts, found, np.array(shape))


IMAGES = [
    make_image(0, (20, 24)),
    make_image(1, (24, 32), counts=1.0),
    make_image(2, (13, 31), classes=(0, 1)),
    make_image(3, (1, 1), counts=1.0),
    make_image(4, (20, 24), counts=0.0),
    make_image(5, (24, 9), classes=(2,)),
    make_image(6, (17, 32)),
]


def make_segments(seed, shape, number, counts=0.9):
    """Cells of a labelled and of a slightly other map of ids, in any order."""
    rng = np.random.default_rng(seed)

    def cells(points, ids):
        grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)[..., None, :]
        distances = np.linalg.norm(grid - points, axis=-1)
        return np.where(distances.min(-1) < 5, ids[distances.argmin(-1)], 0).astype(np.int32)

    points = rng.uniform(0, shape, (number, 2))
    labels = cells(points, np.arange(1, number + 1))
    preds = cells(points[1:] + rng.normal(0, 0.7, (number - 1, 2)), rng.permutation(12)[1:number])
    where = rng.random(shape) < counts
    return Image(preds, labels, where, np.zeros((*shape, len(CLASSES)), np.float32), shape)


VOLUMETRIC = [
    make_image(0, (6, 10, 14)),
    make_image(1, (5, 7, 9), counts=1.0),
    make_image(2, (1, 10, 12), classes=(0, 2)),
]


def soften(image):
    """The image with the votes of five annotators as a distribution, which may have ties."""
    rng = np.random.default_rng(image.labels.size)
    others = rng.integers(0, 3, (3, *image.labels.shape))
    votes = np.stack([image.labels, image.labels, *others])[..., None] == np.arange(len(CLASSES))
    return image._replace(labels=votes.mean(0, dtype=np.float32))


SOFT = [soften(image) for image in IMAGES[:3]]
SEGMENTED = [
    make_segments(0, (20, 24), 8),
    make_segments(1, (24, 32), 10, counts=1.0),
    make_segments(2, (9, 9), 2),
    make_segments(3, (20, 24), 5, counts=0.0),
    make_segments(4, (13, 31), 7),
]
SEGMENTED += [SEGMENTED[0]._replace(preds=0 * SEGMENTED[0].preds)]
SEGMENTED += [SEGMENTED[0]._replace(preds=0 * SEGMENTED[0].preds, labels=0 * SEGMENTED[0].preds)]


def padded(images, number):
    """The images in arrays, and as many that don't count as are wanting to the number."""
    rank = images[0].where.ndim
    soft = images[0].labels.shape[rank:]
    rows = Image(
        np.zeros((number, *PADDED[rank]), np.int32),
        np.zeros((number, *PADDED[rank], *soft), np.float32 if soft else np.int32),
        np.zeros((number, *PADDED[rank]), bool),
        np.full((number, *PADDED[rank], len(CLASSES)), 7.0, np.float32),
        np.zeros((number, rank), np.int32),
    )
    for index, image in enumerate(images):
        inside = (index, *map(slice, image.where.shape))
        for array, values in zip(rows[:4], image[:4], strict=True):
            array[inside] = values
        rows.sizes[index] = image.sizes
    return rows


@functools.cache
def compiled(names, task, runner):
    """The step that measures a batch, and how it takes one."""

    def measure(state, logits, image):
        example = Example(task, image.preds, image.labels, image.where, image.sizes, logits)
        return scores.measure(names, example)

    axis_name = None if runner == "jit" else parallel.AXIS
    step = make_eval_step(lambda _, batch: batch.logits, measure, axis_name=axis_name)
    if runner == "jit":
        return jax.jit(step), lambda batch: batch
    found = parallel.make_runner(runner)
    return found.compile(step, donate_state=False), found.shard


def evaluate(images, names, task, *, batch_size=None, runner="jit"):
    """The evaluation of a list of images in batches."""
    batch_size = batch_size or len(images)
    step, shard = compiled(tuple(names), task, runner)
    rows = []
    for start in range(0, len(images), batch_size):
        batch = shard(padded(images[start : start + batch_size], batch_size))
        rows.append(scores.finish(parallel.on_host(step((), batch))))
    statistics = {key: np.concatenate([x[key] for x in rows])[: len(images)] for key in rows[0]}
    classes = CLASSES if task.num_classes else ()
    return Evaluation(tuple(map(str, range(len(images)))), classes, tuple(names), statistics)


# The definitions.


def pixels(images):
    """Logits, labels and predictions of all pixels that count."""
    return [
        np.concatenate([getattr(x, name)[x.where] for x in images])
        for name in ("logits", "labels", "preds")
    ]


def each_class(score):
    """A score of two maps of truth as that of each class in all pixels."""

    def scored(images):
        _, labels, preds = pixels(images)
        return [score(preds == c, labels == c) for c in range(len(CLASSES))]

    return scored


def ratio(a, b):
    return a / b if b else np.nan


def nanmean(values):
    values = np.asarray(values, np.float64)
    return values[~np.isnan(values)].mean() if (~np.isnan(values)).any() else np.nan


def frequency_weighted_iou(images):
    _, labels, preds = pixels(images)
    found = np.unique(labels)
    shares = [np.mean(labels == c) * np.sum((labels == c) & (preds == c)) for c in found]
    unions = [np.sum((labels == c) | (preds == c)) for c in found]
    return np.sum(np.divide(shares, unions)) if len(found) else np.nan


def kappa(images):
    _, labels, preds = pixels(images)
    if not len(labels):
        return np.nan
    chance = sum(np.mean(labels == c) * np.mean(preds == c) for c in range(len(CLASSES)))
    return ratio(np.mean(labels == preds) - chance, 1 - chance)


def mcc(images):
    """The correlation of one-hot vectors."""
    _, labels, preds = pixels(images)
    if not len(labels):
        return np.nan
    hot = [x[:, None] == np.arange(len(CLASSES)) for x in (labels, preds)]
    a, b = (x - x.mean(0) for x in hot)
    return ratio(np.sum(a * b), np.sqrt(np.sum(a * a) * np.sum(b * b)))


def mean_of_images(score):
    """Of each class, the mean over the images that have something to score."""

    def scored(images):
        values = [
            [score((x.preds == c) & x.where, (x.labels == c) & x.where) for x in images]
            for c in range(len(CLASSES))
        ]
        return [nanmean(of_class) for of_class in values]

    return scored


def distances(a, b):
    """From each surface to the other; None where a mask is empty."""
    cross = ndimage.generate_binary_structure(a.ndim, 1)
    surfaces = [x & ~ndimage.binary_erosion(x, cross) for x in (a, b)]
    if not (a.any() and b.any()):
        return None
    spacing = SPACING[a.ndim]
    to_a, to_b = (ndimage.distance_transform_edt(~x, sampling=spacing) for x in surfaces)
    return to_b[surfaces[0]], to_a[surfaces[1]]


def of_distances(score, *, overlap=False):
    def scored(a, b):
        found = distances(a, b)
        if found is not None:
            return score(*found)
        missed = 0.0 if overlap else np.linalg.norm(np.multiply(a.shape, SPACING[a.ndim]))
        return missed if a.any() or b.any() else np.nan

    return mean_of_images(scored)


def boundary_iou(a, b):
    reach = max(1, round(0.02 * np.linalg.norm(a.shape)))
    cube = np.ones((2 * reach + 1,) * a.ndim)
    bands = [x & ~ndimage.binary_erosion(x, cube) for x in (a, b)]
    return ratio(np.sum(bands[0] & bands[1]), np.sum(bands[0] | bands[1]))


def of_probabilities(score):
    """The mean over pixels of a score of probabilities and labels, one-hot or a distribution."""

    def scored(images):
        logits, labels, _ = pixels(images)
        probs = special.softmax(logits.astype(np.float64), -1)
        if labels.ndim == 1:
            labels = labels[:, None] == np.arange(len(CLASSES))
        return nanmean(score(probs, labels))

    return scored


def loss(images):
    """Of each image, weighted by its pixels."""
    number = [int(x.where.sum()) for x in images]
    values = [
        float(LOSS(x.logits[None], x.labels[None], where=x.where[None])[0]) if n else 0.0
        for x, n in zip(images, number, strict=True)
    ]
    return ratio(np.dot(values, number), sum(number))


def confidences(images):
    logits, labels, _ = pixels(images)
    probs = special.softmax(logits.astype(np.float64), -1)
    return probs, probs.max(-1), probs.argmax(-1) == labels, labels


def binned(confidence, hits):
    """The pixels of 15 bins (l, u], and how far confidence and accuracy are apart there."""
    bins = np.ceil(15 * confidence).clip(1) - 1
    found = [bins == b for b in range(15) if np.any(bins == b)]
    return [(np.sum(x), abs(np.mean(confidence[x]) - np.mean(hits[x]))) for x in found]


def expected_error(confidence, hits):
    return ratio(sum(number * gap for number, gap in binned(confidence, hits)), len(hits))


def maximum_error(images):
    return max((gap for _, gap in binned(*confidences(images)[1:3])), default=np.nan)


def adaptive_error(images):
    """In 15 runs of the sorted pixels, of which those at a border are shared."""
    _, confidence, hits, _ = confidences(images)
    order = np.argsort(-confidence)
    sums = np.cumsum([0, *(confidence - hits)[order]])
    borders = np.linspace(0, len(hits), 16)
    gaps = np.diff(np.interp(borders, np.arange(len(sums)), sums))
    return ratio(np.sum(np.abs(gaps)), len(hits))


def classwise_error(images):
    probs, _, _, labels = confidences(images)
    return nanmean([expected_error(probs[:, c], labels == c) for c in np.unique(labels)])


def area_under_risk_coverage(images):
    _, confidence, hits, _ = confidences(images)
    wrong = np.cumsum(~hits[np.argsort(-confidence)])
    return nanmean(wrong / np.arange(1, len(hits) + 1))


def auroc_of_errors(images):
    _, confidence, hits, _ = confidences(images)
    if hits.all() or not hits.any():
        return np.nan
    return stats.mannwhitneyu(confidence[hits], confidence[~hits]).statistic / (
        np.sum(hits) * np.sum(~hits)
    )


def overlaps(image):
    """The numbers of labelled and predicted objects, and the IoUs of all pairs that meet."""
    labels, preds = image.labels[image.where], image.preds[image.where]
    ids = [np.setdiff1d(x, [0]) for x in (labels, preds)]
    found = [
        np.sum((labels == a) & (preds == b)) / np.sum((labels == a) | (preds == b))
        for a in ids[0]
        for b in ids[1]
    ]
    return len(ids[0]), len(ids[1]), np.array(found)


def of_matches(score, thresholds=(0.5,)):
    """A score of the objects matched and of their IoU, and of the numbers of objects."""

    def scored(images):
        found = [overlaps(x) for x in images]
        labels, preds = (sum(x[i] for x in found) for i in (0, 1))
        ious = np.concatenate([x[2] for x in found])
        if not labels + preds:
            return np.nan
        matched = [ious[ious > t] for t in thresholds]
        return np.mean([score(len(x), x.sum(), labels, preds) for x in matched])

    return scored


def of_partitions(score):
    def scored(images):
        cut = [(x.labels[x.where], x.preds[x.where]) for x in images if x.where.any()]
        return nanmean([score(*x) for x in cut])

    return scored


def entropy(*columns):
    _, numbers = np.unique(np.stack(columns, -1), axis=0, return_counts=True)
    return stats.entropy(numbers, base=2)


def rand_error(labels, preds):
    """Over all pairs of pixels, one by one."""
    upper = np.triu(np.ones((len(labels),) * 2, bool), 1)
    both = [(x[:, None] == x[None])[upper] for x in (labels, preds)]
    return 1 - ratio(2 * np.sum(both[0] & both[1]), np.sum(both[0]) + np.sum(both[1]))


def shared_information(labels, preds):
    own = entropy(labels), entropy(preds)
    return 2 * ratio(sum(own) - entropy(labels, preds), sum(own))  # NaN for one segment in both


DEFINITIONS = {
    "mean_iou": each_class(lambda p, y: ratio(np.sum(p & y), np.sum(p | y))),
    "mean_dice": each_class(lambda p, y: ratio(2 * np.sum(p & y), np.sum(p) + np.sum(y))),
    "mean_precision": each_class(lambda p, y: ratio(np.sum(p & y), np.sum(p))),
    "mean_recall": each_class(lambda p, y: ratio(np.sum(p & y), np.sum(y))),
    "accuracy": lambda images: nanmean(np.equal(*pixels(images)[1:])),
    "frequency_weighted_iou": frequency_weighted_iou,
    "kappa": kappa,
    "mcc": mcc,
    "boundary_iou": mean_of_images(boundary_iou),
    "hausdorff": of_distances(lambda a, b: max(a.max(), b.max())),
    "hausdorff_95": of_distances(lambda a, b: max(np.percentile(a, 95), np.percentile(b, 95))),
    "average_surface_distance": of_distances(lambda a, b: np.mean([*a, *b])),
    "normalized_surface_dice": of_distances(
        lambda a, b: np.mean(np.array([*a, *b]) <= TOLERANCE), overlap=True
    ),
    "negative_log_likelihood": of_probabilities(lambda p, y: -special.xlogy(y, p).sum(-1)),
    "bits_per_pixel": of_probabilities(lambda p, y: -special.xlogy(y, p).sum(-1) / np.log(2)),
    "brier": of_probabilities(lambda p, y: np.sum((p - y) ** 2, -1)),
    "kl_divergence": of_probabilities(lambda p, y: special.rel_entr(y, p).sum(-1)),
    "loss": loss,
    "expected_calibration_error": lambda images: expected_error(*confidences(images)[1:3]),
    "maximum_calibration_error": maximum_error,
    "adaptive_calibration_error": adaptive_error,
    "classwise_calibration_error": classwise_error,
    "area_under_risk_coverage": area_under_risk_coverage,
    "auroc_of_errors": auroc_of_errors,
    "object_f1": of_matches(lambda n, _, a, b: 2 * n / (a + b)),
    "object_jaccard": of_matches(lambda n, _, a, b: n / (a + b - n)),
    "mean_object_jaccard": of_matches(
        lambda n, _, a, b: n / (a + b - n), [k / 20 for k in range(10, 20)]
    ),
    "panoptic_quality": of_matches(lambda _, iou, a, b: 2 * iou / (a + b)),
    "segmentation_quality": of_matches(lambda n, iou, *_: iou / n if n else 0.0),
    "variation_of_information": of_partitions(
        lambda y, p: 2 * entropy(y, p) - entropy(y) - entropy(p)
    ),
    "variation_of_information_split": of_partitions(lambda y, p: entropy(y, p) - entropy(y)),
    "variation_of_information_merge": of_partitions(lambda y, p: entropy(y, p) - entropy(p)),
    "adapted_rand_error": of_partitions(rand_error),
    "normalized_mutual_information": of_partitions(shared_information),
}
OF_COUNTS = (*tuple(scores.CLASSES)[:8], *scores.SEGMENTS)
# Confidences that agree to within 1/128 of what they want to 1 are one.
OF_CELLS = ("adaptive_calibration_error", "area_under_risk_coverage", "auroc_of_errors")


def assert_near(found, wanted, name):
    if name in OF_CELLS:
        np.testing.assert_allclose(found, wanted, atol=2e-2)
    else:
        exact = (
            {"rtol": 1e-12, "atol": 1e-12} if name in OF_COUNTS else {"rtol": 2e-5, "atol": 1e-6}
        )
        np.testing.assert_allclose(found, wanted, **exact)


def images_of(name):
    return SEGMENTED if name in scores.SEGMENTS else IMAGES


def assert_defined(found, name, images):
    """What an evaluation says by a metric is its definition."""
    define = DEFINITIONS[name]
    wanted, by_image = define(images), [define([x]) for x in images]
    if METRICS[name].by_class:
        assert_near(found.by_class()[name], wanted, name)
        assert_near(found.by_image_and_class()[name], by_image, name)
        wanted, by_image = nanmean(wanted), list(map(nanmean, by_image))
    assert_near(found.scores()[name], wanted, name)
    assert_near(found.by_image()[name], by_image, name)
    assert np.isfinite(wanted)


@functools.cache
def evaluated(kind):
    """All metrics of class masks with their probabilities, or of segments."""
    if kind == "segments":
        return evaluate(SEGMENTED, scores.SEGMENTS, SEGMENTS)
    return evaluate(IMAGES, (*scores.CLASSES, *scores.PROBABILITIES), TASK)


def evaluation_of(name):
    return evaluated("segments" if name in scores.SEGMENTS else "classes")


def test_every_metric_has_a_definition():
    assert list(DEFINITIONS) == list(METRICS)
    assert set(METRICS) == {*scores.CLASSES, *scores.PROBABILITIES, *scores.SEGMENTS}


@pytest.mark.parametrize("name", METRICS)
def test_scores_are_their_definitions(name):
    """Of the data set, of each image, and of each class in both."""
    assert_defined(evaluation_of(name), name, images_of(name))


def test_scores_of_volumes():
    """Surfaces along three axes, of pixels that are not cubes."""
    names = (*scores.CLASSES, "negative_log_likelihood", "loss", "expected_calibration_error")
    found = evaluate(VOLUMETRIC, names, VOLUMES)
    for name in names:
        assert_defined(found, name, VOLUMETRIC)


def test_scores_of_label_distributions():
    """Losses take the whole distribution; what needs one class takes the likeliest, or first."""
    of_losses = ("negative_log_likelihood", "bits_per_pixel", "brier", "kl_divergence", "loss")
    others = ("mean_iou", "accuracy", "hausdorff", "expected_calibration_error", "auroc_of_errors")
    found = evaluate(SOFT, (*of_losses, *others), TASK)
    likeliest = [x._replace(labels=x.labels.argmax(-1)) for x in SOFT]
    ties = np.sort(SOFT[0].labels, -1)
    assert np.sum(ties[..., -1] == ties[..., -2]) > 50
    for name in of_losses:
        assert_defined(found, name, SOFT)
    for name in others:
        assert_defined(found, name, likeliest)


def test_kappa_of_one_class_is_not_defined():
    """As in the image of one pixel, where the definitions must agree on NaN."""
    for name in ("kappa", "mcc", "auroc_of_errors"):
        assert np.isnan(evaluated("classes").by_image()[name][3])


def test_a_class_that_is_nowhere_is_left_out():
    """It has no score, and no part in the mean over classes."""
    found = evaluated("classes")
    for name, values in found.by_class().items():
        assert np.isnan(values[3]), name
        assert found.scores()[name] == pytest.approx(values[:3].mean(), rel=1e-15)


def test_an_image_without_pixels_that_count_is_left_out():
    """It has no score by any metric, and adds nothing to that of the data set."""
    for kind, index in (("classes", 4), ("segments", 3)):
        found = evaluated(kind)
        keep = np.arange(len(found.images)) != index
        statistics = {key: x[keep] for key, x in found.statistics.items()}
        rest = found._replace(images=found.images[:-1], statistics=statistics)
        assert rest.scores() == found.scores()
        for name, values in found.by_image().items():
            assert np.isnan(values[index]), name
        for name, values in found.by_image_and_class().items():
            assert np.isnan(values[index]).all(), name


@pytest.mark.parametrize("kind", ["classes", "segments"])
def test_without_any_pixel_there_is_no_score(kind):
    """Nor an interval or a difference; NaN, and no warning."""
    found = evaluated(kind)
    empty = {key: np.zeros_like(x) for key, x in found.statistics.items()}
    nothing = found._replace(statistics=empty)
    assert np.isnan(list(nothing.scores().values())).all()
    assert np.isnan(list(scores.intervals(nothing, 5).values())).all()
    for difference in scores.compare(nothing, nothing, 5).values():
        assert np.isnan(difference).all()


@pytest.mark.parametrize("name", METRICS)
def test_direction(name):
    """The right answer is as good as can be, by what the metric says is better."""
    rights = []
    for image in images_of(name):
        sure = np.float32(30.0) * (image.labels[..., None] == np.arange(len(CLASSES)))
        rights.append(image._replace(preds=image.labels, logits=sure.astype(np.float32)))
    if name == "auroc_of_errors":  # which needs an error: one pixel that is unsure
        rights[1].logits[0, 0] /= -100
    names, task = (
        (scores.SEGMENTS, SEGMENTS)
        if name in scores.SEGMENTS
        else (
            (*scores.CLASSES, *scores.PROBABILITIES),
            TASK,
        )
    )
    right, wrong = evaluate(rights, names, task).scores()[name], evaluation_of(name).scores()[name]
    assert right > wrong if METRICS[name].higher_is_better else right < wrong


@pytest.mark.parametrize("name", METRICS)
def test_resampling_is_repeating(name):
    """With weights, a score is that of the data set with each image so often."""
    found = evaluation_of(name)
    weights = scores.resamplings(len(found.images), 20, seed=1)
    weights[0] = 0
    weights[1] = 1
    drawn = found.resampled(name, weights)
    for row, value in zip(weights, drawn, strict=True):
        rows = np.repeat(np.arange(len(row)), row)
        statistics = {key: x[rows] for key, x in found.statistics.items()}
        wanted = found._replace(statistics=statistics).scores()[name]
        assert value == pytest.approx(wanted, rel=1e-12, abs=1e-12, nan_ok=True)
    assert np.isnan(drawn[0])
    assert drawn[1] == pytest.approx(found.scores()[name], rel=1e-12)


def test_many_resamplings_are_done_in_parts():
    """Which are put together again."""
    found = evaluated("classes")
    weights = scores.resamplings(len(found.images), 2500)
    size = found.statistics["confidence"][0].size
    assert len(weights) * size > 2 * 10**7
    drawn = found.resampled("auroc_of_errors", weights)
    assert drawn.shape == (2500,)
    for index in (0, 1200, 2499):
        np.testing.assert_array_equal(
            drawn[index : index + 1],
            found.resampled("auroc_of_errors", weights[index : index + 1]),
        )


def test_resamplings_are_drawn_with_replacement():
    """As many images as there are, each as likely as others; the same at every call."""
    weights = scores.resamplings(10, 4000)
    assert weights.shape == (4000, 10)
    assert (weights.sum(1) == 10).all()
    np.testing.assert_allclose(weights.mean(0), 1, atol=4 * np.sqrt(0.9 / 4000))
    np.testing.assert_allclose(weights.var(0), 0.9, rtol=0.1)  # n p (1 - p)
    np.testing.assert_array_equal(weights, scores.resamplings(10, 4000))


def of_hits(hits, pixels=100):
    """An evaluation by accuracy, of images with so many pixels that are right."""
    hits = np.asarray(hits)
    confusion = np.zeros((len(hits), 2, 2), np.int32)
    confusion[:, 0, 0], confusion[:, 0, 1] = hits, pixels - hits
    names = tuple(map(str, range(len(hits))))
    return Evaluation(names, ("a", "b"), ("accuracy",), {"confusion": confusion})


def test_the_interval_of_a_mean_is_the_normal_one():
    hits = np.random.default_rng(0).binomial(100, 0.7, 400)
    ((low, high),) = scores.intervals(of_hits(hits), 4000).values()
    mean, error = hits.mean() / 100, hits.std() / 100 / np.sqrt(len(hits))
    reach = stats.norm.ppf(0.975) * error
    np.testing.assert_allclose([low, high], [mean - reach, mean + reach], atol=0.05 * reach)


def test_intervals_hold_the_truth_19_times_of_20():
    rng = np.random.default_rng(0)
    held = []
    for _ in range(400):
        ((low, high),) = scores.intervals(of_hits(rng.binomial(100, 0.7, 60)), 300).values()
        held.append(low <= 0.7 <= high)
    assert 0.92 <= np.mean(held) <= 0.975


def test_intervals_hold_the_score():
    """Of every metric, and without a warning."""
    for kind in ("classes", "segments"):
        found = evaluated(kind)
        bounds = scores.intervals(found, 200)
        assert list(bounds) == list(found.metrics)
        for name, value in found.scores().items():
            low, high = bounds[name]
            assert low < value < high or name == "variation_of_information_merge", name


@pytest.mark.parametrize("kind", ["classes", "segments"])
def test_the_same_twice_does_not_differ(kind):
    found = evaluated(kind)
    for name, (first, second, *rest) in scores.compare(found, found, 50).items():
        assert first == second == found.scores()[name]
        assert rest == [0.0, 0.0, 0.0, 1.0], name


def test_a_clear_difference_has_the_least_p_value():
    """And the sign of the first minus the second, with its interval on that side of 0."""
    rng = np.random.default_rng(0)
    better, worse = (of_hits(rng.binomial(100, share, 50)) for share in (0.9, 0.6))
    (found,) = scores.compare(better, worse, 999).values()
    assert found.p_value == 1 / 1000
    assert found.difference == found.first - found.second
    assert 0 < found.low < found.difference < found.high
    (other,) = scores.compare(worse, better, 999).values()
    assert other == pytest.approx(
        (found.second, found.first, -found.difference, -found.high, -found.low, 1 / 1000)
    )


def test_images_are_compared_in_pairs():
    """A small difference of each image is seen, however much the images differ."""
    hits = np.random.default_rng(0).integers(5, 95, 40)
    (found,) = scores.compare(of_hits(hits + 1), of_hits(hits), 99).values()
    assert found.difference == pytest.approx(0.01, rel=1e-12)
    assert (found.low, found.high) == pytest.approx((0.01, 0.01), rel=1e-12)
    assert found.p_value == 1 / 100
    (found,) = scores.compare(of_hits(hits + 1), of_hits(hits[::-1]), 99).values()
    assert found.p_value > 0.5


def test_p_values_without_a_difference_are_uniform():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(300):
        first, second = (of_hits(rng.binomial(100, 0.7, 60)) for _ in range(2))
        found.append(scores.compare(first, second, 300)["accuracy"].p_value)
    assert stats.kstest(found, "uniform").pvalue > 0.05
    assert np.mean(np.less(found, 0.05)) == pytest.approx(0.05, abs=0.03)


def test_resamplings_without_a_score_are_left_out():
    """A class in one image of three is in 19 of 27 resamplings, which have an interval."""
    confusion = np.zeros((3, 2, 2), np.int32)
    confusion[0] = [[0, 0], [3, 1]]
    found = Evaluation(tuple("abc"), ("a", "b"), ("mean_recall",), {"confusion": confusion})
    assert scores.intervals(found, 100) == {"mean_recall": (0.25, 0.25)}
    better = found._replace(statistics={"confusion": confusion[:, :, ::-1]})
    missed = np.isnan(found.resampled("mean_recall", scores.resamplings(3, 100)))
    assert 10 < missed.sum() < 60
    (difference,) = scores.compare(better, found, 100).values()
    assert difference == (0.75, 0.25, 0.5, 0.5, 0.5, 2**-2)  # of 3 images
    assert 1 / (1 + np.sum(~missed)) < difference.p_value


def test_one_image_decides_nothing():
    first, second = of_hits(np.array([90])), of_hits(np.array([10]))
    (difference,) = scores.compare(first, second, 99).values()
    assert (difference.difference, difference.p_value) == (pytest.approx(0.8), 1.0)
    assert np.isnan(list(scores.intervals(first, 99).values())).all()


RUNS = [(1, "jit"), (3, "jit"), (8, "pmap"), (16, "pmap"), (8, "shard_map")]


@pytest.mark.parametrize("kind", ["classes", "segments"])
@pytest.mark.parametrize(("batch_size", "runner"), RUNS)
def test_neither_batches_nor_devices_matter(batch_size, runner, kind):
    """To the last bit of every statistic, in any order of the images."""
    wanted = evaluated(kind)
    images, task = (SEGMENTED, SEGMENTS) if kind == "segments" else (IMAGES, TASK)
    order = np.random.default_rng(batch_size).permutation(len(images))
    found = evaluate(
        [images[i] for i in order], wanted.metrics, task, batch_size=batch_size, runner=runner
    )
    assert list(found.statistics) == list(wanted.statistics)
    for key, values in wanted.statistics.items():
        np.testing.assert_array_equal(found.statistics[key], values[order], key)


def test_padding_does_not_matter():
    """Nor what values it has."""
    names = tuple(x for x in METRICS if x not in scores.SEGMENTS)
    step, _ = compiled(names, TASK, "jit")
    batch = padded(IMAGES, len(IMAGES))
    other = Image(*(np.array(x) for x in batch))
    outside = np.ones(other.where.shape, bool)
    for index, image in enumerate(IMAGES):
        outside[(index, *map(slice, image.labels.shape))] = False
    other.preds[outside], other.labels[outside] = 2, 1
    other.logits[outside] = np.array([5.0, -80.0, 80.0, 0.0])
    found = [scores.finish(parallel.on_host(step((), x))) for x in (batch, other)]
    for key, values in found[0].items():
        np.testing.assert_array_equal(values, found[1][key], key)
