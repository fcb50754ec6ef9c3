"""Metrics against the numbers of other packages, which need not be installed.

tests/metric_peers.json holds their numbers; benchmarks/metric_peers.py writes it, from the inputs
below, and has the other half of the table under the same names. Arrays have an axis of cases first:
a peer gets one at a time, ours all at once. docs/metric_peers.md says where a peer differs, and
why.
"""

import ast
import functools
import inspect
import json
import math
import pathlib
import re
import tomllib
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import losses, metrics

pytestmark = pytest.mark.exhaustive  # the numbers of others are the same with any version

HERE = pathlib.Path(__file__).parent
CLASSES = 4
SEGMENTS = 40  # above the largest id
INSTANCES = 8  # of one class
VOID = 255
SPACINGS = (2.0, 0.5)
SPACINGS_3D = (2.5, 1.0, 0.75)
TOLERANCE = 1.5


class Differs(NamedTuple):
    ours: Callable
    theirs: Callable | None = None  # what they compute instead, as far as it is any of ours


# Inputs


def blobs(random, shape, number, radius):
    """A union of balls, of integers alone, so that it is the same anywhere."""
    mask, grid = np.zeros(shape, bool), np.indices(shape)
    for _ in range(number):
        square = random.randint(2, radius) ** 2
        centre = [random.randint(0, side) for side in shape]
        mask |= sum((x - c) ** 2 for x, c in zip(grid, centre, strict=True)) <= square
    return mask


def shifted(mask, steps):
    """The mask moved along each axis; what leaves the image is lost."""
    padded = np.pad(mask, max(map(abs, steps)))
    padded = np.roll(padded, steps, range(mask.ndim))
    return padded[tuple(slice(max(map(abs, steps)), -max(map(abs, steps))) for _ in steps)]


def pixel(shape, *place):
    mask = np.zeros(shape, bool)
    mask[place] = True
    return mask


def batch(**cases):
    return {name: np.stack(x) for name, x in cases.items()}


def masks(random):
    """Blobs, noise, the borders, single pixels in corners, all pixels, holes, and equal masks."""
    shape = 28, 41
    blob, full = blobs(random, shape, 6, 9), np.ones(shape, bool)
    noise = [random.rand(*shape) < 0.3 for _ in range(2)]
    left, top = (np.indices(shape)[axis] < side for axis, side in ((1, 9), (0, 7)))
    hole = full & ~blobs(random, shape, 2, 8)
    return batch(
        preds=[shifted(blob, (2, -1)), noise[0], top, pixel(shape, 27, 40), full, hole, blob],
        labels=[blob, noise[1], left, pixel(shape, 0, 0), pixel(shape, 9, 40), full, blob],
    )


def unlike(random):
    """Pairs of blobs of which no score is 0 or 1."""
    found = [[blobs(random, (28, 41), 5, 8) for _ in range(2)] for _ in range(2)]
    return batch(preds=found[0], labels=found[1])


def square(random):
    return batch(
        preds=[blobs(random, (32, 32), 5, 8), pixel((32, 32), 31, 0)],
        labels=[blobs(random, (32, 32), 5, 8), np.ones((32, 32), bool)],
    )


def holed(random):
    """Everything, against all but a disc within."""
    full, hole = np.ones((28, 41), bool), pixel((28, 41), 14, 20)
    holes = (hole | shifted(hole, (0, 1)), np.sum((np.indices(full.shape) - 13) ** 2, 0) < 30)
    return batch(preds=[full, full], labels=[full & ~hole for hole in holes])


def volumes(random):
    shape = 9, 14, 11
    blob = blobs(random, shape, 4, 5)
    return batch(
        preds=[shifted(blob, (1, 2, -1)), random.rand(*shape) < 0.2, np.ones(shape, bool)],
        labels=[blob, random.rand(*shape) < 0.2, pixel(shape, 8, 0, 5)],
    )


def nothing(random):
    """Both masks empty."""
    return {name: np.zeros((1, 6, 9), bool) for name in ("preds", "labels")}


def one_empty(random):
    """No prediction, and then no label."""
    empty, some = np.zeros((6, 9), bool), pixel((6, 9), 2, 3)
    return batch(preds=[empty, some], labels=[some, empty])


def regions(random, shape, classes):
    labels = np.zeros(shape, np.int32)
    for image in labels:
        for label in range(1, classes):
            image[blobs(random, image.shape, 3, 7)] = label
    return labels


def corrupted(random, labels, classes, share=0.25):
    wrong = random.randint(0, classes, labels.shape, np.int32)
    return np.where(random.rand(*labels.shape) < share, wrong, labels)


def classes(random):
    labels = regions(random, (3, 17, 23), CLASSES)
    return {"preds": corrupted(random, np.roll(labels, 1, 2), CLASSES), "labels": labels}


def absent(random):
    """Class 2 is predicted and never labelled, class 3 neither."""
    labels = regions(random, (2, 17, 23), 2)
    return {"preds": np.where(random.rand(*labels.shape) < 0.2, 2, labels), "labels": labels}


def ignored(random):
    found = classes(random)
    keep = random.rand(*found["labels"].shape) < 0.7
    return found | {"labels": np.where(keep, found["labels"], VOID), "keep": keep}


def constant(random):
    """Everything labelled and predicted as class 1."""
    return {name: np.ones((1, 6, 9), np.int32) for name in ("preds", "labels")}


def constant_labels(random):
    """Everything labelled as class 1, and some of it predicted as another."""
    labels = np.ones((1, 6, 9), np.int32)
    return {"preds": corrupted(random, labels, 2, 0.5), "labels": labels}


def large(random):
    """An odd number of pixels above 2^24, of which two are wrong."""
    preds, labels = np.ones((2, 1, 4097, 4099), np.int32)
    preds[0, 7, 7:9] = 0
    return {"preds": preds, "labels": labels}


def partition(random, shape, ids):
    """Cells around random points, with ids that are not consecutive."""
    points = np.stack([random.randint(0, side, len(ids)) for side in shape], -1)
    apart = np.indices(shape)[:, None] - points.T[:, :, None, None]
    return np.asarray(ids, np.int32)[np.argmin(np.sum(apart**2, 0), 0)]


def segments(random):
    shape = 16, 21
    labels = partition(random, shape, [0, 3, 7, 8, 21, 39])
    preds = np.where(random.rand(*shape) < 0.1, 5, np.roll(labels, 1, 0))
    pairs = np.arange(16 * 21).reshape(shape) // 9
    return batch(
        preds=[preds, partition(random, shape, [1, 2, 38]), pairs],
        labels=[labels, labels, partition(random, shape, [4, 6])],
    )


def one_segment(random):
    """Both partitions of one segment, with different ids."""
    return {"preds": np.full((1, 4, 6), 3), "labels": np.full((1, 4, 6), 9)}


def singletons(random):
    """Each pixel a segment of its own, against one segment."""
    return {"preds": np.arange(24).reshape(1, 4, 6), "labels": np.full((1, 4, 6), 9)}


def objects(random):
    """Discs moved a little, some lost, some found where none is; 0 is background."""
    preds, labels = np.zeros((2, 2, 40, 52), np.int32)
    for case in range(2):
        for k in range(12):
            y, x = 7 + 13 * (k // 4), 7 + 13 * (k % 4)
            disc = np.sum((np.indices((40, 52)) - np.array([y, x])[:, None, None]) ** 2, 0) <= 20
            if k % 5 != case:
                labels[case][disc] = 3 * k + 1
            if k % 4 + k % 3 != 3 * case:
                steps = random.randint(-2, 3), random.randint(-1, 2)
                preds[case][shifted(disc, steps)] = 3 * k + 4
    return {"preds": preds, "labels": labels}


def panoptic(random):
    """Pairs of class and instance: 0 and 1 are things, 2 and 3 stuff, CLASSES is void."""
    labels = np.zeros((2, 20, 26, 2), np.int32)
    for image in labels:
        cells = partition(random, (20, 26), np.arange(14))
        image[..., 0] = np.where(cells < 6, cells % 2, 2 + cells % 2)
        image[..., 1] = np.where(cells < 6, cells, 0)
    preds = np.roll(labels, 1, 2)
    cells = partition(random, (20, 26), np.arange(12))
    preds[:, cells == 3] = [1, 7]
    labels[:, cells == 4] = [CLASSES, 0]
    return {"preds": preds, "labels": labels}


def absent_panoptic(random):
    """Class 3 is neither labelled nor predicted."""
    found = panoptic(random)
    return {name: np.where(x == [3, 0], [2, 0], x) for name, x in found.items()}


def probabilities(random, shape):
    """Positive multiples of 1 / 1024 that sum to 1; none is the border of one of 15 bins."""
    parts = np.sort(random.randint(0, 1021, (*shape, CLASSES - 1)), -1) + np.arange(1, CLASSES)
    ends = np.zeros((*shape, 1), int)
    return np.diff(np.concatenate([ends, parts, ends + 1024], -1), axis=-1) / 1024


def probs(random):
    found = probabilities(random, (2, 13, 17))
    likely = np.argmax(found, -1)
    return {"probs": found, "labels": corrupted(random, likely, CLASSES, 0.4)}


def absent_probs(random):
    """Class 3 has probabilities, and no label."""
    found = probs(random)
    return found | {"labels": np.where(found["labels"] == 3, 0, found["labels"])}


def border_probs(random):
    """A confidence that is the border of two of 4 bins: 3 of 4 pixels are right."""
    return {"probs": np.full((1, 4, 2), [0.75, 0.25]), "labels": np.array([[0, 0, 0, 1]])}


def impossible(random):
    """One of two pixels has a label of probability 0."""
    return {"probs": np.array([[[1.0, 0.0], [0.5, 0.5]]]), "labels": np.array([[1, 1]])}


def uncertain(random):
    """Uncertainties of few values, so with ties."""
    uncertainty = random.randint(0, 32, (2, 11, 13)) / 32
    return {
        "uncertainty": uncertainty,
        "errors": random.rand(*uncertainty.shape) < (uncertainty + 0.1) / 1.5,
    }


INPUTS = {
    make.__name__: make
    for make in (
        *(masks, unlike, square, holed, volumes, nothing, one_empty),
        *(classes, absent, ignored, constant, constant_labels, large),
        *(segments, one_segment, singletons, objects, panoptic, absent_panoptic),
        *(probs, absent_probs, border_probs, impossible, uncertain),
    )
}


@functools.cache
def inputs(kind):
    # The older generator of numpy, since its numbers are promised to stay.
    return INPUTS[kind](np.random.RandomState(0))


# Ours


def matrix(preds, labels, number=CLASSES, where=None):
    return metrics.confusion_matrix(preds, labels, number, where=where, by_image=True)


def table(preds, labels, where=None):
    """Of segments."""
    return matrix(preds, labels, SEGMENTS, where)


def two(preds, labels):
    """Of masks."""
    return matrix(preds.astype(np.int32), labels.astype(np.int32), 2)


def apart(preds, labels, **options):
    return metrics.surface_distances(preds, labels, **options)


def spaced(preds, labels):
    return apart(preds, labels, spacing=SPACINGS)


def solid(preds, labels):
    return apart(preds, labels, spatial_rank=3, spacing=SPACINGS_3D)


def one_way(distances):
    """The mean distance of the predictions' surface alone."""
    return np.mean(np.asarray(distances.to_labels), -1, where=np.asarray(distances.of_preds))


def panoptic_counts(preds, labels):
    """What a peer calls a category and an instance is a class and an id."""
    number = INSTANCES * (CLASSES + 1)
    of_ids = np.arange(number) // INSTANCES
    of_ids = np.where(of_ids < CLASSES, of_ids, -1)
    of_ids = np.broadcast_to(of_ids, (len(labels), number))
    ids = (INSTANCES * x[..., 0] + x[..., 1] for x in (preds, labels))
    return metrics.panoptic_counts(matrix(*ids, number), of_ids, of_ids, CLASSES)


def reliability(probs, labels, num_bins=15):
    metric = metrics.Calibration(probs.shape[-1], num_bins)
    return metric.compute(metric.update(metric.init(), probs.astype(np.float32), labels))


def each(score, *arrays):
    """The scores of all cases, of what scores one."""
    return np.stack([score(*case) for case in zip(*arrays, strict=True)])


def curve(probs, labels):
    """Accuracy and confidence of the bins that have pixels."""
    confidence, accuracy, share = metrics.reliability_curve(reliability(probs, labels, 3))
    return np.stack([accuracy, confidence])[:, share > 0]


def pixel_mean(loss):
    """The mean of a loss of each case, given its probabilities."""
    return lambda probs, labels: loss(jnp.log(probs), labels)


def detection(uncertainty, errors):
    metric = metrics.ErrorDetection()
    return metric.compute(metric.update(metric.init(), uncertainty.astype(np.float32), errors))


OURS = {
    # The confusion matrix
    "confusion_matrix/scikit-learn": lambda preds, labels: matrix(preds, labels),
    "confusion_matrix/scikit-learn/large": lambda preds, labels: matrix(preds, labels, 2),
    "confusion_matrix/scikit-image": lambda preds, labels: table(preds, labels),
    "confusion_matrix/torchmetrics": lambda preds, labels: matrix(preds, labels),
    "confusion_matrix/torchmetrics/ignored": lambda preds, labels, keep: matrix(
        preds, labels, where=keep
    ),
    "confusion_matrix/torchmetrics/large": lambda preds, labels: matrix(preds, labels, 2),
    "confusion_matrix/monai": lambda preds, labels: np.diagonal(matrix(preds, labels), 0, 1, 2),
    "confusion_matrix/monai/large": Differs(
        lambda preds, labels: matrix(preds, labels, 2)[:, 1:, 1],
        lambda preds, labels: np.float32(matrix(preds, labels, 2))[:, 1:, 1],
    ),
    # Scores of it
    "iou/scikit-learn": lambda preds, labels: metrics.iou(matrix(preds, labels)),
    "iou/scikit-learn/absent": Differs(
        lambda preds, labels: metrics.iou(matrix(preds, labels)),
        lambda preds, labels: metrics.iou(matrix(preds, labels), empty=0.0),
    ),
    "iou/scipy": lambda preds, labels: metrics.iou(two(preds, labels))[:, 1],
    "iou/scipy/nothing": Differs(
        lambda preds, labels: metrics.iou(two(preds, labels))[:, 1],
        lambda preds, labels: metrics.iou(two(preds, labels), empty=1.0)[:, 1],
    ),
    "iou/torchmetrics": lambda preds, labels: metrics.iou(matrix(preds, labels)),
    "iou/torchmetrics/ignored": lambda preds, labels: metrics.iou(matrix(preds, labels)),
    "iou/torchmetrics/absent": Differs(
        lambda preds, labels: metrics.iou(matrix(preds, labels)),
        lambda preds, labels: metrics.iou(matrix(preds, labels), empty=0.0),
    ),
    "iou/monai": lambda preds, labels: metrics.iou(matrix(preds, labels)),
    "iou/monai/absent": Differs(
        lambda preds, labels: metrics.iou(matrix(preds, labels)),
        lambda preds, labels: np.where(
            metrics.recall(matrix(preds, labels)) >= 0, metrics.iou(matrix(preds, labels)), math.nan
        ),
    ),
    "mean_iou/scikit-learn": lambda preds, labels: metrics.mean_iou(matrix(preds, labels)),
    "mean_iou/torchmetrics": lambda preds, labels: metrics.mean_iou(matrix(preds, labels)),
    "mean_iou/torchmetrics/absent": lambda preds, labels: metrics.mean_iou(matrix(preds, labels)),
    "mean_iou/torchmetrics/segmentation": lambda preds, labels: metrics.mean_iou(
        matrix(preds, labels)
    ),
    "mean_iou/torchmetrics/segmentation_absent": lambda preds, labels: metrics.mean_iou(
        matrix(preds, labels)
    ),
    "dice/scikit-learn": lambda preds, labels: metrics.dice(matrix(preds, labels)),
    "dice/scikit-learn/absent": lambda preds, labels: metrics.dice(matrix(preds, labels)),
    "dice/scipy": lambda preds, labels: metrics.dice(two(preds, labels))[:, 1],
    "dice/surface-distance": lambda preds, labels: metrics.dice(two(preds, labels))[:, 1],
    "dice/torchmetrics": lambda preds, labels: metrics.dice(matrix(preds, labels)),
    "dice/torchmetrics/absent": lambda preds, labels: metrics.dice(matrix(preds, labels)),
    "dice/monai": lambda preds, labels: metrics.dice(matrix(preds, labels)),
    "dice/monai/absent": Differs(
        lambda preds, labels: metrics.dice(matrix(preds, labels)),
        lambda preds, labels: np.where(
            metrics.recall(matrix(preds, labels)) >= 0,
            metrics.dice(matrix(preds, labels)),
            math.nan,
        ),
    ),
    "f_beta/scikit-learn": lambda preds, labels: metrics.f_beta(matrix(preds, labels), beta=2.0),
    "f_beta/torchmetrics": lambda preds, labels: metrics.f_beta(matrix(preds, labels), beta=0.5),
    "precision/scikit-learn": lambda preds, labels: metrics.precision(matrix(preds, labels)),
    "precision/scikit-learn/absent": lambda preds, labels: metrics.precision(matrix(preds, labels)),
    "precision/torchmetrics": lambda preds, labels: metrics.precision(matrix(preds, labels)),
    "precision/torchmetrics/absent": Differs(
        lambda preds, labels: metrics.precision(matrix(preds, labels)),
        lambda preds, labels: metrics.precision(matrix(preds, labels), empty=0.0),
    ),
    "precision/monai": lambda preds, labels: metrics.precision(matrix(preds, labels)),
    "recall/scikit-learn": lambda preds, labels: metrics.recall(matrix(preds, labels)),
    "recall/scikit-learn/absent": lambda preds, labels: metrics.recall(matrix(preds, labels)),
    "recall/torchmetrics": lambda preds, labels: metrics.recall(matrix(preds, labels)),
    "recall/monai": lambda preds, labels: metrics.recall(matrix(preds, labels)),
    "recall/monai/absent": lambda preds, labels: metrics.recall(matrix(preds, labels)),
    "accuracy/scikit-learn": lambda preds, labels: metrics.accuracy(matrix(preds, labels)),
    "accuracy/torchmetrics": lambda preds, labels: metrics.accuracy(matrix(preds, labels)),
    "accuracy/torchmetrics/ignored": lambda preds, labels: metrics.accuracy(matrix(preds, labels)),
    "kappa/scikit-learn": lambda preds, labels: metrics.kappa(matrix(preds, labels)),
    "kappa/scikit-learn/constant": lambda preds, labels: metrics.kappa(matrix(preds, labels)),
    "kappa/torchmetrics": lambda preds, labels: metrics.kappa(matrix(preds, labels)),
    "kappa/torchmetrics/constant": lambda preds, labels: metrics.kappa(matrix(preds, labels)),
    "mcc/scikit-learn": lambda preds, labels: metrics.mcc(matrix(preds, labels)),
    "mcc/scikit-learn/constant_labels": Differs(
        lambda preds, labels: metrics.mcc(matrix(preds, labels)),
        lambda preds, labels: np.nan_to_num(metrics.mcc(matrix(preds, labels))),
    ),
    "mcc/torchmetrics": lambda preds, labels: metrics.mcc(matrix(preds, labels)),
    "mcc/torchmetrics/constant_labels": Differs(
        lambda preds, labels: metrics.mcc(matrix(preds, labels)),
        lambda preds, labels: np.nan_to_num(metrics.mcc(matrix(preds, labels))),
    ),
    "frequency_weighted_iou/scikit-learn": lambda preds, labels: metrics.frequency_weighted_iou(
        matrix(preds, labels)
    ),
    "frequency_weighted_iou/torchmetrics": lambda preds, labels: metrics.frequency_weighted_iou(
        matrix(preds, labels)
    ),
    "frequency_weighted_iou/torchmetrics/absent": lambda preds, labels: (
        metrics.frequency_weighted_iou(matrix(preds, labels))
    ),
    # Surfaces
    "hausdorff/scipy": lambda preds, labels: metrics.hausdorff(spaced(preds, labels)),
    "hausdorff/scikit-image": Differs(
        lambda preds, labels: metrics.hausdorff(apart(preds, labels)),
    ),
    "hausdorff/scikit-image/one_empty": lambda preds, labels: metrics.hausdorff(
        apart(preds, labels)
    ),
    "hausdorff/scikit-image/nothing": Differs(
        lambda preds, labels: metrics.hausdorff(apart(preds, labels)),
        lambda preds, labels: metrics.hausdorff(apart(preds, labels), empty=0.0),
    ),
    "hausdorff/torchmetrics": lambda preds, labels: metrics.hausdorff(spaced(preds, labels)),
    "hausdorff/torchmetrics/oblong": Differs(
        lambda preds, labels: metrics.hausdorff(apart(preds, labels))
    ),
    "hausdorff/torchmetrics/one_empty": lambda preds, labels: metrics.hausdorff(
        apart(preds, labels)
    ),
    "hausdorff/monai": lambda preds, labels: metrics.hausdorff(spaced(preds, labels)),
    "hausdorff/monai/volumes": lambda preds, labels: metrics.hausdorff(solid(preds, labels)),
    "hausdorff/monai/one_empty": lambda preds, labels: metrics.hausdorff(apart(preds, labels)),
    "hausdorff/monai/nothing": lambda preds, labels: metrics.hausdorff(apart(preds, labels)),
    "hausdorff/surface-distance": lambda preds, labels: metrics.hausdorff(apart(preds, labels)),
    "hausdorff_95/monai": lambda preds, labels: metrics.hausdorff_95(spaced(preds, labels)),
    "hausdorff_95/monai/volumes": lambda preds, labels: metrics.hausdorff_95(solid(preds, labels)),
    "hausdorff_95/monai/one_empty": Differs(
        lambda preds, labels: metrics.hausdorff_95(apart(preds, labels)),
        lambda preds, labels: metrics.hausdorff_95(apart(preds, labels), missing=math.nan),
    ),
    "hausdorff_95/surface-distance": Differs(
        lambda preds, labels: metrics.hausdorff_95(apart(preds, labels)),
    ),
    "average_surface_distance/monai": lambda preds, labels: metrics.average_surface_distance(
        spaced(preds, labels)
    ),
    "average_surface_distance/monai/volumes": lambda preds, labels: (
        metrics.average_surface_distance(solid(preds, labels))
    ),
    "average_surface_distance/monai/directed": Differs(
        lambda preds, labels: metrics.average_surface_distance(apart(preds, labels)),
        lambda preds, labels: one_way(apart(preds, labels)),
    ),
    "average_surface_distance/surface-distance": Differs(
        lambda preds, labels: metrics.average_surface_distance(apart(preds, labels)),
    ),
    "normalized_surface_dice/monai": lambda preds, labels: metrics.normalized_surface_dice(
        spaced(preds, labels), TOLERANCE
    ),
    "normalized_surface_dice/monai/volumes": lambda preds, labels: metrics.normalized_surface_dice(
        solid(preds, labels), TOLERANCE
    ),
    "normalized_surface_dice/monai/one_empty": lambda preds, labels: (
        metrics.normalized_surface_dice(apart(preds, labels), TOLERANCE)
    ),
    "normalized_surface_dice/monai/nothing": lambda preds, labels: metrics.normalized_surface_dice(
        apart(preds, labels), TOLERANCE
    ),
    "normalized_surface_dice/monai/subvoxels": Differs(
        lambda preds, labels: metrics.normalized_surface_dice(apart(preds, labels), TOLERANCE)
    ),
    "normalized_surface_dice/surface-distance": Differs(
        lambda preds, labels: metrics.normalized_surface_dice(apart(preds, labels), TOLERANCE)
    ),
    "boundary_iou/opencv-python-headless": lambda preds, labels: metrics.boundary_iou(
        preds, labels
    ),
    "boundary_iou/opencv-python-headless/wide": lambda preds, labels: metrics.boundary_iou(
        preds, labels, width=0.07
    ),
    # Partitions
    "variation_of_information/scikit-image": lambda preds, labels: np.stack(
        metrics.variation_of_information(table(preds, labels))[1:], -1
    ),
    "variation_of_information/scikit-image/background": lambda preds, labels: (
        metrics.variation_of_information(table(preds, labels, labels != 0)).total
    ),
    "adapted_rand_error/scikit-image": lambda preds, labels: (
        metrics.adapted_rand_error(table(preds, labels)).error
    ),
    "adapted_rand_error/scikit-image/background": lambda preds, labels: (
        metrics.adapted_rand_error(table(preds, labels, labels != 0)).error
    ),
    "adapted_rand_error/scikit-image/precision": Differs(
        lambda preds, labels: metrics.adapted_rand_error(table(preds, labels)).precision,
        lambda preds, labels: metrics.adapted_rand_error(table(preds, labels)).recall,
    ),
    "adapted_rand_error/scikit-learn": lambda preds, labels: np.stack(
        metrics.adapted_rand_error(table(preds, labels)), -1
    ),
    "adapted_rand_error/scikit-learn/singletons": lambda preds, labels: (
        metrics.adapted_rand_error(table(preds, labels)).error
    ),
    "mutual_information/scikit-learn": lambda preds, labels: metrics.mutual_information(
        table(preds, labels)
    ),
    "mutual_information/torchmetrics": lambda preds, labels: metrics.mutual_information(
        table(preds, labels)
    ),
    "mutual_information/scikit-learn/singletons": lambda preds, labels: metrics.mutual_information(
        table(preds, labels)
    ),
    "normalized_mutual_information/scikit-learn": lambda preds, labels: np.stack(
        [
            metrics.normalized_mutual_information(table(preds, labels), mean=mean)
            for mean in ("arithmetic", "geometric", "min", "max")
        ],
        -1,
    ),
    "normalized_mutual_information/scikit-learn/one_segment": Differs(
        lambda preds, labels: metrics.normalized_mutual_information(table(preds, labels)),
        lambda preds, labels: metrics.normalized_mutual_information(
            table(preds, labels), empty=1.0
        ),
    ),
    "normalized_mutual_information/torchmetrics": lambda preds, labels: (
        metrics.normalized_mutual_information(table(preds, labels))
    ),
    "normalized_mutual_information/scikit-image": Differs(
        lambda preds, labels: metrics.normalized_mutual_information(table(preds, labels)),
        lambda preds, labels: (
            1 + metrics.normalized_mutual_information(table(preds, labels), mean="joint")
        ),
    ),
    # Segments
    "object_f1/monai": lambda preds, labels: metrics.object_f1(
        metrics.object_counts(table(preds, labels))
    ),
    "object_f1/monai/nothing": Differs(
        lambda preds, labels: metrics.object_f1(metrics.object_counts(two(preds, labels)))
    ),
    "object_counts/monai": lambda preds, labels: np.stack(
        metrics.object_counts(table(preds, labels)), -1
    ),
    "object_counts/scikit-learn": lambda preds, labels: np.stack(
        metrics.object_counts(table(preds, labels), threshold=0.75)[:3], -1
    ),
    "panoptic_quality/torchmetrics": lambda preds, labels: np.stack(
        metrics.panoptic_quality(panoptic_counts(preds, labels)), -1
    ),
    "panoptic_quality/torchmetrics/absent": Differs(
        lambda preds, labels: metrics.panoptic_quality(panoptic_counts(preds, labels)).pq,
        lambda preds, labels: (
            metrics.panoptic_quality(panoptic_counts(preds, labels), empty=0.0).pq
        ),
    ),
    "panoptic_quality/torchmetrics/mean": lambda preds, labels: each(
        np.nanmean, metrics.panoptic_quality(panoptic_counts(preds, labels)).pq
    ),
    # Probabilities
    "expected_calibration_error/torchmetrics": lambda probs, labels: each(
        lambda *x: metrics.expected_calibration_error(reliability(*x)), probs, labels
    ),
    "maximum_calibration_error/torchmetrics": lambda probs, labels: each(
        lambda *x: metrics.maximum_calibration_error(reliability(*x)), probs, labels
    ),
    "maximum_calibration_error/torchmetrics/border": lambda probs, labels: each(
        lambda *x: metrics.maximum_calibration_error(reliability(*x, 4)), probs, labels
    ),
    "reliability_curve/scikit-learn": lambda probs, labels: each(curve, probs, labels),
    "classwise_calibration_error/monai": lambda probs, labels: each(
        lambda *x: metrics.classwise_calibration_error(reliability(*x)), probs, labels
    ),
    "classwise_calibration_error/monai/absent": Differs(
        lambda probs, labels: each(
            lambda *x: metrics.classwise_calibration_error(reliability(*x)), probs, labels
        ),
        lambda probs, labels: each(
            lambda *x: metrics.classwise_calibration_error(reliability(*x), absent=True),
            probs,
            labels,
        ),
    ),
    "brier/scikit-learn": lambda probs, labels: each(pixel_mean(losses.brier), probs, labels),
    "negative_log_likelihood/scikit-learn": lambda probs, labels: each(
        pixel_mean(losses.cross_entropy), probs, labels
    ),
    "negative_log_likelihood/scikit-learn/impossible": Differs(
        lambda probs, labels: each(pixel_mean(losses.cross_entropy), probs, labels)
    ),
    "auroc_of_errors/scikit-learn": lambda uncertainty, errors: each(
        lambda *x: metrics.auroc_of_errors(detection(*x)), uncertainty, errors
    ),
    "auroc_of_errors/torchmetrics": lambda uncertainty, errors: each(
        lambda *x: metrics.auroc_of_errors(detection(*x)), uncertainty, errors
    ),
}


@functools.cache
def literals():
    return json.loads((HERE / "metric_peers.json").read_text())


def compute(function, kind):
    """Ours, of all cases of the inputs."""
    arrays = inputs(kind)
    return np.asarray(function(*(arrays[name] for name in inspect.signature(function).parameters)))


def cases(wanted):
    """The entries, those of so many pixels that they take seconds marked so."""
    large = pytest.mark.exhaustive
    return [
        pytest.param(name, marks=large) if name.endswith("/large") else name
        for name, entry in OURS.items()
        if wanted(entry)
    ]


@pytest.mark.parametrize("name", cases(lambda entry: getattr(entry, "theirs", entry)))
def test_number_of_the_peer(name):
    """Ours, or what a peer that differs computes in terms of ours."""
    entry = literals()["peers"][name]
    value = compute(getattr(OURS[name], "theirs", OURS[name]), entry["inputs"])
    np.testing.assert_allclose(value, entry["value"], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", cases(lambda entry: isinstance(entry, Differs)))
def test_peer_that_differs(name):
    """In every case something differs from ours."""
    entry = literals()["peers"][name]
    ours = compute(OURS[name].ours, entry["inputs"])
    for mine, theirs in zip(ours, entry["value"], strict=True):
        assert not np.array_equal(mine, theirs, equal_nan=True)
        assert not np.allclose(mine, theirs, rtol=1e-9, equal_nan=True)


def test_the_page_has_this_table():
    """Each entry is a row of docs/metric_peers.md: our call, the package, and the inputs."""
    page = (HERE.parent / "docs" / "metric_peers.md").read_text()
    rows = re.findall(r"^\| `(.+?)` \| (\S+) \S+ \| `.+?` \| (\w+) \| (d?)", page, re.M)
    (table,) = (
        node.value
        for node in ast.parse(pathlib.Path(__file__).read_text()).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "OURS"
    )
    expected = [
        (
            ast.unparse((call.args[0] if isinstance(call, ast.Call) else call).body),
            name.split("/")[1],
            literals()["peers"][name]["inputs"],
            "d" * isinstance(entry, Differs),
        )
        for (name, entry), call in zip(OURS.items(), table.values, strict=True)
    ]
    assert rows == expected


def test_the_literals_are_of_this_table_and_of_the_pinned_versions():
    assert list(literals()["peers"]) == list(OURS)
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]
    pins = dict(pin.split("==") for pin in project["optional-dependencies"]["peers"])
    assert literals()["versions"].items() <= pins.items()
