"""What other packages compute for the inputs on which tests/test_metrics_peers.py computes ours.

With the extras `peers` and `test` installed,

    python benchmarks/metric_peers.py

writes the peers' values to tests/metric_peers.json, and the comparison to docs/metric_peers.md. An
entry is named `metric/package/variant`; its call gets one case of the arrays that it names as
arguments. Packages of torch get tensors.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import math
import pathlib
import sys
import warnings
from collections.abc import Callable
from typing import NamedTuple

import cv2
import monai.metrics
import numpy as np
import scipy.ndimage
import scipy.spatial.distance
import skimage.metrics
import sklearn.metrics
import surface_distance
import torch
from sklearn import calibration
from tables import distance, expressions, worst, write_literals, write_table
from torch.nn import functional as F
from torchmetrics.functional import classification, clustering, detection, segmentation

ROOT = pathlib.Path(__file__).parents[1]
TEST = ROOT / "tests" / "test_metrics_peers.py"
LITERALS = ROOT / "tests" / "metric_peers.json"
TABLE = ROOT / "docs" / "metric_peers.md"

sys.path.insert(0, str(TEST.parent))

from test_metrics_peers import (  # noqa: E402
    CLASSES,
    OURS,
    SEGMENTS,
    SPACINGS,
    SPACINGS_3D,
    TOLERANCE,
    VOID,
    Differs,
    compute,
    inputs,
)

warnings.simplefilter("ignore")

TORCH = {"monai", "torchmetrics"}


class Peer(NamedTuple):
    inputs: str
    call: Callable
    why: str | None = None  # it differs from ours, where it does


def flat(score: Callable, preds, labels, /, **options):
    """A score of scikit-learn, which takes the labels first."""
    return score(labels.ravel(), preds.ravel(), **options)


def by_class(score: Callable, preds, labels, /, **options):
    return flat(score, preds, labels, labels=range(CLASSES), average=None, **options)


def multiclass(score: Callable, preds, labels, **options):
    """A score of torchmetrics for each class."""
    return score(preds, labels, num_classes=CLASSES, average="none", **options)


def one_hot(x, classes=CLASSES):
    """Of one image, as monai wants it."""
    return F.one_hot(x.long(), classes).movedim(-1, 0)[None]


def counts(preds, labels, classes=CLASSES):
    """Of each class the pixels TP, FP, TN and FN."""
    return monai.metrics.get_confusion_matrix(one_hot(preds, classes), one_hot(labels, classes))


def counted(name, preds, labels):
    return monai.metrics.compute_confusion_matrix_metric(name, counts(preds, labels))[0]


def masks(x):
    """A mask as a batch of one image and one class."""
    return x[None, None]


def of_masks(score: Callable, preds, labels, **options):
    return score(masks(preds), masks(labels), include_background=True, **options)[0, 0]


def surface_dice(preds, labels, **options):
    thresholds = [TOLERANCE]
    score = monai.metrics.compute_surface_dice
    return of_masks(score, preds, labels, class_thresholds=thresholds, **options)


def torch_hausdorff(preds, labels, spacing=None):
    pair = (masks(x).long() for x in (preds, labels))
    return segmentation.hausdorff_distance(*pair, 1, include_background=True, spacing=spacing)[0, 0]


def points(mask):
    """The coordinates of the pixels of the surface, which have a neighbour outside."""
    return np.argwhere(mask & ~scipy.ndimage.binary_erosion(mask)) * np.array(SPACINGS)


def surfels(preds, labels):
    return surface_distance.compute_surface_distances(labels, preds, (1.0, 1.0))


def band(mask, width):
    """The pixels of a mask near its contour, by repeated erosion."""
    steps = max(1, round(width * math.hypot(*mask.shape)))
    padded = np.pad(mask.astype(np.uint8), 1)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=steps)
    return mask & (eroded[1:-1, 1:-1] == 0)


def band_iou(preds, labels, width):
    a, b = band(preds, width), band(labels, width)
    return np.sum(a & b) / np.sum(a | b)


def pairs(preds, labels):
    """One minus F1, precision and recall of the pairs of pixels in one segment."""
    (_, spurious), (missed, both) = flat(sklearn.metrics.pair_confusion_matrix, preds, labels)
    error = 1 - 2 * both / (2 * both + spurious + missed)
    return error, both / (both + spurious), both / (both + missed)


def object_scores(preds, labels):
    """The objects matched, missed and spurious, and the sum of the matches' IoUs."""
    matched, spurious, missed, iou = monai.metrics.compute_panoptic_quality(
        preds, labels, output_confusion_matrix=True
    ).double()
    return torch.stack([matched, missed, spurious, iou])


def object_table(preds, labels):
    """The objects matched, missed and spurious, with scikit-learn's IoU of each pair."""
    ids = [np.unique(x[x > 0]) for x in (labels, preds)]
    found = sum(
        sklearn.metrics.jaccard_score((labels == a).ravel(), (preds == b).ravel()) > 0.75
        for a in ids[0]
        for b in ids[1]
    )
    return found, len(ids[0]) - found, len(ids[1]) - found


def panoptic_quality(preds, labels, **options):
    return detection.panoptic_quality(
        preds, labels, things={0, 1}, stuffs={2, 3}, allow_unknown_preds_category=True, **options
    )


def rows(probs, labels):
    """One distribution for each label, as torchmetrics wants them."""
    return probs.flatten(0, -2), labels.flatten()


def torch_calibration(probs, labels, norm, bins=15):
    return classification.multiclass_calibration_error(
        *rows(probs, labels), num_classes=probs.shape[-1], n_bins=bins, norm=norm
    )


def right(probs, labels):
    return (probs.argmax(-1) == labels).ravel()


def monai_calibration(probs, labels):
    """The mean over the classes, by hand of the bins that monai fills."""
    confidence, accuracy, pixels = monai.metrics.calibration_binning(
        probs.movedim(-1, 0)[None], one_hot(labels).double(), num_bins=15, right=True
    )
    gaps = torch.nan_to_num(confidence - accuracy).abs() * pixels
    return (gaps.sum(-1) / pixels.sum(-1)).mean()


EMPTY_SCORE = "absent classes score 0, and count in a mean that one takes of them"
UNLABELLED = "a class that is predicted and not labelled is left out as NaN, and not 0"
SURFELS = (
    "its surface are elements between the pixels, each with its area; ours are pixels of the mask"
)

PEERS = {
    # The confusion matrix
    "confusion_matrix/scikit-learn": Peer(
        "classes",
        lambda preds, labels: flat(
            sklearn.metrics.confusion_matrix, preds, labels, labels=range(CLASSES)
        ),
    ),
    "confusion_matrix/scikit-learn/large": Peer(
        "large",
        lambda preds, labels: flat(
            sklearn.metrics.confusion_matrix, preds, labels, labels=range(2)
        ),
    ),
    "confusion_matrix/scikit-image": Peer(
        "objects",
        lambda preds, labels: np.pad(
            skimage.metrics.contingency_table(labels, preds).toarray(),
            [(0, SEGMENTS - 1 - x.max()) for x in (labels, preds)],
        ),
    ),
    "confusion_matrix/torchmetrics": Peer(
        "classes",
        lambda preds, labels: classification.multiclass_confusion_matrix(preds, labels, CLASSES),
    ),
    "confusion_matrix/torchmetrics/ignored": Peer(
        "ignored",
        lambda preds, labels: classification.multiclass_confusion_matrix(
            preds, labels, CLASSES, ignore_index=VOID
        ),
    ),
    "confusion_matrix/torchmetrics/large": Peer(
        "large", lambda preds, labels: classification.multiclass_confusion_matrix(preds, labels, 2)
    ),
    "confusion_matrix/monai": Peer("classes", lambda preds, labels: counts(preds, labels)[0, :, 0]),
    "confusion_matrix/monai/large": Peer(
        "large",
        lambda preds, labels: counts(preds, labels, 2)[0, 1:, 0],
        "it counts in float32, which has no odd numbers above 2^24",
    ),
    # Scores of it
    "iou/scikit-learn": Peer(
        "classes", lambda preds, labels: by_class(sklearn.metrics.jaccard_score, preds, labels)
    ),
    "iou/scikit-learn/absent": Peer(
        "absent",
        lambda preds, labels: by_class(sklearn.metrics.jaccard_score, preds, labels),
        EMPTY_SCORE,
    ),
    "iou/scipy": Peer(
        "masks",
        lambda preds, labels: 1 - scipy.spatial.distance.jaccard(preds.ravel(), labels.ravel()),
    ),
    "iou/scipy/nothing": Peer(
        "nothing",
        lambda preds, labels: 1 - scipy.spatial.distance.jaccard(preds.ravel(), labels.ravel()),
        "two empty masks are the same",
    ),
    "iou/torchmetrics": Peer(
        "classes",
        lambda preds, labels: multiclass(classification.multiclass_jaccard_index, preds, labels),
    ),
    "iou/torchmetrics/ignored": Peer(
        "ignored",
        lambda preds, labels: multiclass(
            classification.multiclass_jaccard_index, preds, labels, ignore_index=VOID
        ),
    ),
    "iou/torchmetrics/absent": Peer(
        "absent",
        lambda preds, labels: multiclass(classification.multiclass_jaccard_index, preds, labels),
        EMPTY_SCORE,
    ),
    "iou/monai": Peer(
        "classes",
        lambda preds, labels: monai.metrics.compute_iou(one_hot(preds), one_hot(labels))[0],
    ),
    "iou/monai/absent": Peer(
        "absent",
        lambda preds, labels: monai.metrics.compute_iou(one_hot(preds), one_hot(labels))[0],
        UNLABELLED,
    ),
    "mean_iou/scikit-learn": Peer(
        "classes",
        lambda preds, labels: flat(sklearn.metrics.jaccard_score, preds, labels, average="macro"),
    ),
    "mean_iou/torchmetrics": Peer(
        "classes",
        lambda preds, labels: classification.multiclass_jaccard_index(preds, labels, CLASSES),
    ),
    "mean_iou/torchmetrics/absent": Peer(
        "absent",
        lambda preds, labels: classification.multiclass_jaccard_index(preds, labels, CLASSES),
    ),
    "mean_iou/torchmetrics/segmentation": Peer(
        "classes",
        lambda preds, labels: segmentation.mean_iou(
            preds[None], labels[None], CLASSES, input_format="index"
        )[0],
    ),
    "mean_iou/torchmetrics/segmentation_absent": Peer(
        "absent",
        lambda preds, labels: segmentation.mean_iou(
            preds[None], labels[None], CLASSES, input_format="index"
        )[0],
    ),
    "dice/scikit-learn": Peer(
        "classes", lambda preds, labels: by_class(sklearn.metrics.f1_score, preds, labels)
    ),
    "dice/scikit-learn/absent": Peer(
        "absent",
        lambda preds, labels: by_class(
            sklearn.metrics.f1_score, preds, labels, zero_division=math.nan
        ),
    ),
    "dice/scipy": Peer(
        "masks",
        lambda preds, labels: 1 - scipy.spatial.distance.dice(preds.ravel(), labels.ravel()),
    ),
    "dice/surface-distance": Peer(
        "masks",
        lambda preds, labels: surface_distance.compute_dice_coefficient(labels, preds),
    ),
    "dice/torchmetrics": Peer(
        "classes",
        lambda preds, labels: segmentation.dice_score(
            preds[None], labels[None], CLASSES, average="none", input_format="index"
        )[0],
    ),
    "dice/torchmetrics/absent": Peer(
        "absent",
        lambda preds, labels: segmentation.dice_score(
            preds[None], labels[None], CLASSES, average="none", input_format="index"
        )[0],
    ),
    "dice/monai": Peer(
        "classes",
        lambda preds, labels: monai.metrics.compute_dice(one_hot(preds), one_hot(labels))[0],
    ),
    "dice/monai/absent": Peer(
        "absent",
        lambda preds, labels: monai.metrics.compute_dice(one_hot(preds), one_hot(labels))[0],
        UNLABELLED,
    ),
    "f_beta/scikit-learn": Peer(
        "classes",
        lambda preds, labels: by_class(sklearn.metrics.fbeta_score, preds, labels, beta=2),
    ),
    "f_beta/torchmetrics": Peer(
        "classes",
        lambda preds, labels: multiclass(
            classification.multiclass_fbeta_score, preds, labels, beta=0.5
        ),
    ),
    "precision/scikit-learn": Peer(
        "classes", lambda preds, labels: by_class(sklearn.metrics.precision_score, preds, labels)
    ),
    "precision/scikit-learn/absent": Peer(
        "absent",
        lambda preds, labels: by_class(
            sklearn.metrics.precision_score, preds, labels, zero_division=math.nan
        ),
    ),
    "precision/torchmetrics": Peer(
        "classes",
        lambda preds, labels: multiclass(classification.multiclass_precision, preds, labels),
    ),
    "precision/torchmetrics/absent": Peer(
        "absent",
        lambda preds, labels: multiclass(classification.multiclass_precision, preds, labels),
        EMPTY_SCORE,
    ),
    "precision/monai": Peer("classes", lambda preds, labels: counted("precision", preds, labels)),
    "recall/scikit-learn": Peer(
        "classes", lambda preds, labels: by_class(sklearn.metrics.recall_score, preds, labels)
    ),
    "recall/scikit-learn/absent": Peer(
        "absent",
        lambda preds, labels: by_class(
            sklearn.metrics.recall_score, preds, labels, zero_division=math.nan
        ),
    ),
    "recall/torchmetrics": Peer(
        "classes",
        lambda preds, labels: multiclass(classification.multiclass_recall, preds, labels),
    ),
    "recall/monai": Peer("classes", lambda preds, labels: counted("recall", preds, labels)),
    "recall/monai/absent": Peer("absent", lambda preds, labels: counted("recall", preds, labels)),
    "accuracy/scikit-learn": Peer(
        "classes", lambda preds, labels: flat(sklearn.metrics.accuracy_score, preds, labels)
    ),
    "accuracy/torchmetrics": Peer(
        "classes",
        lambda preds, labels: classification.multiclass_accuracy(
            preds, labels, CLASSES, average="micro"
        ),
    ),
    "accuracy/torchmetrics/ignored": Peer(
        "ignored",
        lambda preds, labels: classification.multiclass_accuracy(
            preds, labels, CLASSES, average="micro", ignore_index=VOID
        ),
    ),
    "kappa/scikit-learn": Peer(
        "classes", lambda preds, labels: flat(sklearn.metrics.cohen_kappa_score, preds, labels)
    ),
    "kappa/scikit-learn/constant": Peer(
        "constant", lambda preds, labels: flat(sklearn.metrics.cohen_kappa_score, preds, labels)
    ),
    "kappa/torchmetrics": Peer(
        "classes",
        lambda preds, labels: classification.multiclass_cohen_kappa(preds, labels, CLASSES),
    ),
    "kappa/torchmetrics/constant": Peer(
        "constant",
        lambda preds, labels: classification.multiclass_cohen_kappa(preds, labels, CLASSES),
    ),
    "mcc/scikit-learn": Peer(
        "classes", lambda preds, labels: flat(sklearn.metrics.matthews_corrcoef, preds, labels)
    ),
    "mcc/scikit-learn/constant_labels": Peer(
        "constant_labels",
        lambda preds, labels: flat(sklearn.metrics.matthews_corrcoef, preds, labels),
        "0 / 0 is 0",
    ),
    "mcc/torchmetrics": Peer(
        "classes",
        lambda preds, labels: classification.multiclass_matthews_corrcoef(preds, labels, CLASSES),
    ),
    "mcc/torchmetrics/constant_labels": Peer(
        "constant_labels",
        lambda preds, labels: classification.multiclass_matthews_corrcoef(preds, labels, CLASSES),
        "0 / 0 is 0",
    ),
    "frequency_weighted_iou/scikit-learn": Peer(
        "classes",
        lambda preds, labels: flat(
            sklearn.metrics.jaccard_score, preds, labels, average="weighted"
        ),
    ),
    "frequency_weighted_iou/torchmetrics": Peer(
        "classes",
        lambda preds, labels: classification.multiclass_jaccard_index(
            preds, labels, CLASSES, average="weighted"
        ),
    ),
    "frequency_weighted_iou/torchmetrics/absent": Peer(
        "absent",
        lambda preds, labels: classification.multiclass_jaccard_index(
            preds, labels, CLASSES, average="weighted"
        ),
    ),
    # Surfaces
    "hausdorff/scipy": Peer(
        "masks",
        lambda preds, labels: max(
            scipy.spatial.distance.directed_hausdorff(points(a), points(b))[0]
            for a, b in ((preds, labels), (labels, preds))
        ),
    ),
    "hausdorff/scikit-image": Peer(
        "holed",
        lambda preds, labels: skimage.metrics.hausdorff_distance(preds, labels),
        "it is of the masks' pixels and not of their surfaces: inside a mask there is no distance",
    ),
    "hausdorff/scikit-image/one_empty": Peer(
        "one_empty", lambda preds, labels: skimage.metrics.hausdorff_distance(preds, labels)
    ),
    "hausdorff/scikit-image/nothing": Peer(
        "nothing",
        lambda preds, labels: skimage.metrics.hausdorff_distance(preds, labels),
        "two empty masks are the same",
    ),
    "hausdorff/torchmetrics": Peer(
        "square", lambda preds, labels: torch_hausdorff(preds, labels, spacing=[*SPACINGS])
    ),
    "hausdorff/torchmetrics/oblong": Peer(
        "masks",
        lambda preds, labels: torch_hausdorff(preds, labels),
        "it lays out rows as if they were as long as columns, which mixes up pixels unless the "
        "image is square",
    ),
    "hausdorff/torchmetrics/one_empty": Peer(
        "one_empty", lambda preds, labels: torch_hausdorff(preds, labels)
    ),
    "hausdorff/monai": Peer(
        "masks",
        lambda preds, labels: of_masks(
            monai.metrics.compute_hausdorff_distance, preds, labels, spacing=SPACINGS
        ),
    ),
    "hausdorff/monai/volumes": Peer(
        "volumes",
        lambda preds, labels: of_masks(
            monai.metrics.compute_hausdorff_distance, preds, labels, spacing=SPACINGS_3D
        ),
    ),
    "hausdorff/monai/one_empty": Peer(
        "one_empty",
        lambda preds, labels: of_masks(monai.metrics.compute_hausdorff_distance, preds, labels),
    ),
    "hausdorff/monai/nothing": Peer(
        "nothing",
        lambda preds, labels: of_masks(monai.metrics.compute_hausdorff_distance, preds, labels),
    ),
    "hausdorff/surface-distance": Peer(
        "unlike",
        lambda preds, labels: surface_distance.compute_robust_hausdorff(
            surfels(preds, labels), 100
        ),
    ),
    "hausdorff_95/monai": Peer(
        "masks",
        lambda preds, labels: of_masks(
            monai.metrics.compute_hausdorff_distance,
            preds,
            labels,
            percentile=95,
            spacing=SPACINGS,
        ),
    ),
    "hausdorff_95/monai/volumes": Peer(
        "volumes",
        lambda preds, labels: of_masks(
            monai.metrics.compute_hausdorff_distance,
            preds,
            labels,
            percentile=95,
            spacing=SPACINGS_3D,
        ),
    ),
    "hausdorff_95/monai/one_empty": Peer(
        "one_empty",
        lambda preds, labels: of_masks(
            monai.metrics.compute_hausdorff_distance, preds, labels, percentile=95
        ),
        "its interpolation between infinite distances is NaN",
    ),
    "hausdorff_95/surface-distance": Peer(
        "unlike",
        lambda preds, labels: surface_distance.compute_robust_hausdorff(surfels(preds, labels), 95),
        SURFELS,
    ),
    "average_surface_distance/monai": Peer(
        "masks",
        lambda preds, labels: of_masks(
            monai.metrics.compute_average_surface_distance,
            preds,
            labels,
            symmetric=True,
            spacing=SPACINGS,
        ),
    ),
    "average_surface_distance/monai/volumes": Peer(
        "volumes",
        lambda preds, labels: of_masks(
            monai.metrics.compute_average_surface_distance,
            preds,
            labels,
            symmetric=True,
            spacing=SPACINGS_3D,
        ),
    ),
    "average_surface_distance/monai/directed": Peer(
        "unlike",
        lambda preds, labels: of_masks(
            monai.metrics.compute_average_surface_distance, preds, labels
        ),
        "it is of the prediction's pixels alone, unless it is asked to be symmetric",
    ),
    "average_surface_distance/surface-distance": Peer(
        "unlike",
        lambda preds, labels: surface_distance.compute_average_surface_distance(
            surfels(preds, labels)
        ),
        "it is a pair, from and to the labels; " + SURFELS,
    ),
    "normalized_surface_dice/monai": Peer(
        "masks", lambda preds, labels: surface_dice(preds, labels, spacing=SPACINGS)
    ),
    "normalized_surface_dice/monai/volumes": Peer(
        "volumes", lambda preds, labels: surface_dice(preds, labels, spacing=SPACINGS_3D)
    ),
    "normalized_surface_dice/monai/one_empty": Peer(
        "one_empty", lambda preds, labels: surface_dice(preds, labels)
    ),
    "normalized_surface_dice/monai/nothing": Peer(
        "nothing", lambda preds, labels: surface_dice(preds, labels)
    ),
    "normalized_surface_dice/monai/subvoxels": Peer(
        "unlike",
        lambda preds, labels: surface_dice(preds, labels, use_subvoxels=True),
        "as surface-distance",
    ),
    "normalized_surface_dice/surface-distance": Peer(
        "unlike",
        lambda preds, labels: surface_distance.compute_surface_dice_at_tolerance(
            surfels(preds, labels), TOLERANCE
        ),
        SURFELS,
    ),
    "boundary_iou/opencv-python-headless": Peer(
        "masks", lambda preds, labels: band_iou(preds, labels, 0.02)
    ),
    "boundary_iou/opencv-python-headless/wide": Peer(
        "masks", lambda preds, labels: band_iou(preds, labels, 0.07)
    ),
    # Partitions
    "variation_of_information/scikit-image": Peer(
        "segments",
        lambda preds, labels: skimage.metrics.variation_of_information(labels, preds),
    ),
    "variation_of_information/scikit-image/background": Peer(
        "objects",
        lambda preds, labels: skimage.metrics.variation_of_information(
            labels, preds, ignore_labels=[0]
        ).sum(),
    ),
    "adapted_rand_error/scikit-image": Peer(
        "segments",
        lambda preds, labels: skimage.metrics.adapted_rand_error(labels, preds, ignore_labels=())[
            0
        ],
    ),
    "adapted_rand_error/scikit-image/background": Peer(
        "objects", lambda preds, labels: skimage.metrics.adapted_rand_error(labels, preds)[0]
    ),
    "adapted_rand_error/scikit-image/precision": Peer(
        "segments",
        lambda preds, labels: skimage.metrics.adapted_rand_error(labels, preds, ignore_labels=())[
            1
        ],
        "what it calls precision is recall, and the other way round",
    ),
    "adapted_rand_error/scikit-learn": Peer("segments", lambda preds, labels: pairs(preds, labels)),
    "adapted_rand_error/scikit-learn/singletons": Peer(
        "singletons", lambda preds, labels: pairs(preds, labels)[0]
    ),
    "mutual_information/scikit-learn": Peer(
        "segments",
        lambda preds, labels: flat(sklearn.metrics.mutual_info_score, preds, labels) / math.log(2),
    ),
    "mutual_information/torchmetrics": Peer(
        "segments",
        lambda preds, labels: (
            clustering.mutual_info_score(preds.flatten(), labels.flatten()) / math.log(2)
        ),
    ),
    "mutual_information/scikit-learn/singletons": Peer(
        "singletons",
        lambda preds, labels: flat(sklearn.metrics.mutual_info_score, preds, labels) / math.log(2),
    ),
    "normalized_mutual_information/scikit-learn": Peer(
        "segments",
        lambda preds, labels: [
            flat(sklearn.metrics.normalized_mutual_info_score, preds, labels, average_method=mean)
            for mean in ("arithmetic", "geometric", "min", "max")
        ],
    ),
    "normalized_mutual_information/scikit-learn/one_segment": Peer(
        "one_segment",
        lambda preds, labels: flat(sklearn.metrics.normalized_mutual_info_score, preds, labels),
        "0 / 0 is 1",
    ),
    "normalized_mutual_information/torchmetrics": Peer(
        "segments",
        lambda preds, labels: clustering.normalized_mutual_info_score(
            preds.flatten(), labels.flatten()
        ),
    ),
    "normalized_mutual_information/scikit-image": Peer(
        "segments",
        lambda preds, labels: skimage.metrics.normalized_mutual_information(labels, preds),
        "it is the sum of both entropies by the joint one, from 1 to 2",
    ),
    # Segments
    "object_f1/monai": Peer(
        "objects",
        lambda preds, labels: monai.metrics.compute_panoptic_quality(
            preds, labels, "rq", smooth_numerator=0.0
        ),
    ),
    "object_f1/monai/nothing": Peer(
        "nothing",
        lambda preds, labels: monai.metrics.compute_panoptic_quality(preds, labels, "rq"),
        "no object at all is as bad as none found: 0 by its smoothing",
    ),
    "object_counts/monai": Peer("objects", lambda preds, labels: object_scores(preds, labels)),
    "object_counts/scikit-learn": Peer(
        "objects", lambda preds, labels: object_table(preds, labels)
    ),
    "panoptic_quality/torchmetrics": Peer(
        "panoptic",
        lambda preds, labels: panoptic_quality(
            preds[None], labels[None], return_sq_and_rq=True, return_per_class=True
        ),
    ),
    "panoptic_quality/torchmetrics/absent": Peer(
        "absent_panoptic",
        lambda preds, labels: panoptic_quality(preds[None], labels[None], return_per_class=True)[0],
        EMPTY_SCORE + ", though its own leaves them out",
    ),
    "panoptic_quality/torchmetrics/mean": Peer(
        "absent_panoptic", lambda preds, labels: panoptic_quality(preds[None], labels[None])
    ),
    # Probabilities
    "expected_calibration_error/torchmetrics": Peer(
        "probs", lambda probs, labels: torch_calibration(probs, labels, "l1")
    ),
    "maximum_calibration_error/torchmetrics": Peer(
        "probs", lambda probs, labels: torch_calibration(probs, labels, "max")
    ),
    "maximum_calibration_error/torchmetrics/border": Peer(
        "border_probs", lambda probs, labels: torch_calibration(probs, labels, "max", 4)
    ),
    "reliability_curve/scikit-learn": Peer(
        "probs",
        lambda probs, labels: calibration.calibration_curve(
            right(probs, labels), probs.max(-1).ravel(), n_bins=3
        ),
    ),
    "classwise_calibration_error/monai": Peer(
        "probs", lambda probs, labels: monai_calibration(probs, labels)
    ),
    "classwise_calibration_error/monai/absent": Peer(
        "absent_probs",
        lambda probs, labels: monai_calibration(probs, labels),
        "it counts classes that are no label",
    ),
    "brier/scikit-learn": Peer(
        "probs",
        lambda probs, labels: sklearn.metrics.brier_score_loss(
            labels.ravel(), probs.reshape(-1, CLASSES), scale_by_half=False
        ),
    ),
    "negative_log_likelihood/scikit-learn": Peer(
        "probs",
        lambda probs, labels: sklearn.metrics.log_loss(labels.ravel(), probs.reshape(-1, CLASSES)),
    ),
    "negative_log_likelihood/scikit-learn/impossible": Peer(
        "impossible",
        lambda probs, labels: sklearn.metrics.log_loss(labels, probs, labels=[0, 1]),
        "it clips probabilities to the least that float64 tells from 0 and 1: the surprise of what "
        "was called impossible is 36 nats, not infinite",
    ),
    "auroc_of_errors/scikit-learn": Peer(
        "uncertain",
        lambda uncertainty, errors: sklearn.metrics.roc_auc_score(
            errors.ravel(), uncertainty.ravel()
        ),
    ),
    "auroc_of_errors/torchmetrics": Peer(
        "uncertain",
        lambda uncertainty, errors: classification.binary_auroc(uncertainty, errors.int()),
    ),
}


def run(name: str) -> dict:
    """The value of a peer for each case."""
    peer = PEERS[name]
    arrays = [inputs(peer.inputs)[x] for x in inspect.signature(peer.call).parameters]
    if name.split("/")[1] in TORCH:
        tensors = map(torch.from_numpy, arrays)
        arrays = [x.long() if x.dtype == torch.int32 else x for x in tensors]
    values = [np.asarray(peer.call(*case)).tolist() for case in zip(*arrays, strict=True)]
    return {"inputs": peer.inputs, "value": values}


def compared(name: str, entry: dict, theirs: list[str], mine: list[str]) -> str:
    """A row of the page: both calls, and how far they are from each other."""
    ours = OURS[name]
    function = ours.ours if isinstance(ours, Differs) else ours
    value = compute(function, entry["inputs"])
    if not isinstance(ours, Differs):
        result = distance(value, entry["value"])
    else:
        a, b = worst(np.array(entry["value"]), value)
        result = f"differs: {PEERS[name].why}. Theirs {a:.9g}, ours {b:.9g}"
        if ours.theirs is not None:
            close = distance(compute(ours.theirs, entry["inputs"]), entry["value"])
            result += f"; theirs is `{mine[1]}` to {close}"
    package = name.split("/")[1]
    peer = f"{package} {importlib.metadata.version(package)}"
    return f"| `{mine[0]}` | {peer} | `{theirs[0]}` | {entry['inputs']} | {result} |"


def main() -> None:
    entries = {name: run(name) for name in PEERS}
    packages = sorted({name.split("/")[1] for name in PEERS})
    versions = {package: importlib.metadata.version(package) for package in packages}
    write_literals(LITERALS, {"versions": versions, "peers": entries})
    theirs, mine = expressions(pathlib.Path(__file__), "PEERS"), expressions(TEST, "OURS")
    rows = [compared(name, x, theirs[name], mine[name]) for name, x in entries.items()]
    write_table(TABLE, ["ours", "peer", "theirs", "inputs", "relative difference"], rows)


if __name__ == "__main__":
    main()
