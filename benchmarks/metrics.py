"""Time of metrics beside that of other packages, all in one run.

    python benchmarks/metrics.py --cases surfaces,volumes

A contestant is a line of a case. All of one metric take turns, so that what else the machine does
meets each alike; the ratio is the median over the turns of its time to ours. Each gets the data as
it wants them, made before the clock starts, and ends with scores on the host. README.md says what
the columns mean.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

# jax needs cores on which torch's idle threads would spin.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import cv2
import jax
import jax.numpy as jnp
import machine
import monai.metrics
import numpy as np
import scipy.ndimage
import skimage.metrics
import sklearn.metrics
import surface_distance
import torch
from losses import take_turns
from torchmetrics.functional import classification, clustering, detection

from jaxseg import losses, metrics

OURS = "jaxseg"
PACKAGES = ("jaxseg", "jax", "jaxlib", "numpy", "monai", "torch", "torchmetrics", "scikit-image")
PACKAGES += ("scikit-learn", "surface-distance", "opencv-python-headless")

# A case: for each metric who computes it, and how, of nothing.
Case = dict[str, dict[str, Callable]]


def blobs(random, shape, radii) -> np.ndarray:
    """A union of 12 balls."""
    mask, grid = np.zeros(shape, bool), np.indices(shape)
    for _ in range(12):
        centre, radius = random.integers(0, shape), random.integers(*radii)
        mask |= sum((x - c) ** 2 for x, c in zip(grid, centre, strict=True)) <= radius**2
    return mask


def near(random, mask, sigma=4.0) -> np.ndarray:
    """A prediction near the labels: smooth, with a threshold that varies from place to place."""
    smooth = scipy.ndimage.gaussian_filter(mask.astype(np.float32), sigma)
    rough = scipy.ndimage.gaussian_filter(random.normal(size=mask.shape), sigma)
    return smooth > 0.5 + 0.1 * rough / rough.std()


def one_hot(x, classes) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.from_numpy(x).long(), classes).movedim(-1, 1)


def confusion(random) -> tuple[Case, int]:
    """2 x 512 x 512 pixels of 19 classes."""
    shape, classes = (2, 512, 512), 19
    labels = np.repeat(np.repeat(random.integers(0, classes, (2, 32, 32)), 16, 1), 16, 2)
    preds = np.where(random.random(shape) < 0.1, random.integers(0, classes, shape), labels)
    preds, labels = preds.astype(np.int32), labels.astype(np.int32)
    p, y = jnp.asarray(preds), jnp.asarray(labels)
    tp, ty = torch.from_numpy(preds).long(), torch.from_numpy(labels).long()
    hot = one_hot(preds, classes), one_hot(labels, classes)
    fp, fy = preds.ravel(), labels.ravel()
    count = jax.jit(partial(metrics.confusion_matrix, num_classes=classes))

    def ours(score):
        return lambda: score(np.asarray(count(p, y)))

    def of_torch(score, average="none"):
        return lambda: score(tp, ty, num_classes=classes, average=average)

    def of_sklearn(score, **options):
        return lambda: score(fy, fp, **options)

    def of_bins():
        return np.bincount(classes * fy + fp, minlength=classes**2).reshape(classes, classes)

    def of_counts(name):
        score = monai.metrics.compute_confusion_matrix_metric
        return lambda: score(name, monai.metrics.get_confusion_matrix(*hot).sum(0))

    prf = sklearn.metrics
    case = {
        "confusion_matrix": {
            OURS: ours(lambda x: x),
            "torchmetrics": lambda: classification.multiclass_confusion_matrix(tp, ty, classes),
            "scikit-learn": of_sklearn(prf.confusion_matrix),
            "numpy": of_bins,
        },
        "iou": {
            OURS: ours(metrics.iou),
            "torchmetrics": of_torch(classification.multiclass_jaccard_index),
            "scikit-learn": of_sklearn(prf.jaccard_score, average=None),
        },
        "dice": {
            OURS: ours(metrics.dice),
            "torchmetrics": of_torch(classification.multiclass_f1_score),
            "scikit-learn": of_sklearn(prf.f1_score, average=None),
        },
        "f_beta": {
            OURS: ours(partial(metrics.f_beta, beta=2.0)),
            "torchmetrics": of_torch(partial(classification.multiclass_fbeta_score, beta=2.0)),
            "scikit-learn": of_sklearn(prf.fbeta_score, beta=2.0, average=None),
        },
        "precision": {
            OURS: ours(metrics.precision),
            "torchmetrics": of_torch(classification.multiclass_precision),
            "scikit-learn": of_sklearn(prf.precision_score, average=None),
            "monai": of_counts("precision"),
        },
        "recall": {
            OURS: ours(metrics.recall),
            "torchmetrics": of_torch(classification.multiclass_recall),
            "scikit-learn": of_sklearn(prf.recall_score, average=None),
            "monai": of_counts("recall"),
        },
        "accuracy": {
            OURS: ours(metrics.accuracy),
            "torchmetrics": of_torch(classification.multiclass_accuracy, "micro"),
            "scikit-learn": of_sklearn(prf.accuracy_score),
        },
        "kappa": {
            OURS: ours(metrics.kappa),
            "torchmetrics": lambda: classification.multiclass_cohen_kappa(tp, ty, classes),
            "scikit-learn": of_sklearn(prf.cohen_kappa_score),
        },
        "mcc": {
            OURS: ours(metrics.mcc),
            "torchmetrics": lambda: classification.multiclass_matthews_corrcoef(tp, ty, classes),
            "scikit-learn": of_sklearn(prf.matthews_corrcoef),
        },
        "frequency_weighted_iou": {
            OURS: ours(metrics.frequency_weighted_iou),
            "torchmetrics": of_torch(classification.multiclass_jaccard_index, "weighted"),
            "scikit-learn": of_sklearn(prf.jaccard_score, average="weighted"),
        },
    }
    by_image = jax.jit(partial(metrics.confusion_matrix, num_classes=classes, by_image=True))
    case["iou of each image"] = {
        OURS: lambda: metrics.iou(np.asarray(by_image(p, y))),
        "monai": lambda: monai.metrics.compute_iou(*hot),
    }
    return case, len(labels)


def logits(random) -> tuple[Case, int]:
    """1024 x 2048 pixels of 19 classes, and the argmax of their logits."""
    shape, classes = (1024, 2048), 19
    labels = random.integers(0, classes, shape, np.int32)
    z = random.normal(size=(*shape, classes)).astype(np.float32)
    preds = z.argmax(-1).astype(np.int32)
    count = jax.jit(partial(metrics.confusion_matrix, num_classes=classes))
    most = jax.jit(lambda z: jnp.argmax(z, -1))
    p, y, z = map(jnp.asarray, (preds, labels, z))
    tp, ty = torch.from_numpy(preds).long(), torch.from_numpy(labels).long()
    fp, fy = preds.ravel(), labels.ravel()
    return {
        "confusion_matrix": {
            OURS: lambda: np.asarray(count(p, y)),
            "torchmetrics": lambda: classification.multiclass_confusion_matrix(tp, ty, classes),
            "scikit-learn": lambda: sklearn.metrics.confusion_matrix(fy, fp),
            "numpy": lambda: np.bincount(classes * fy + fp).reshape(classes, classes),
            "argmax of logits": lambda: most(z).block_until_ready(),
        }
    }, 1


def surface_case(labels, preds, **options) -> Case:
    rank = labels.ndim - 1
    p, y = jnp.asarray(preds), jnp.asarray(labels)
    tp, ty = (torch.from_numpy(x)[:, None] for x in (preds, labels))
    measured = jax.jit(partial(metrics.surface_distances, spatial_rank=rank))

    def ours(*scores):
        of_all = jax.jit(lambda p, y: [score(measured(p, y)) for score in scores])
        return lambda: [np.asarray(x) for x in of_all(p, y)]

    def of_monai(score, **options):
        return lambda: score(tp, ty, include_background=True, **options)[:, 0]

    def of_surfels(*scores):
        spacing = (1.0,) * rank

        def call():
            pairs = zip(labels, preds, strict=True)
            found = [surface_distance.compute_surface_distances(*x, spacing) for x in pairs]
            return [[score(x) for x in found] for score in scores]

        return call

    mean = metrics.average_surface_distance
    near = partial(metrics.normalized_surface_dice, tolerance=2.0)
    surfels = (
        lambda x: surface_distance.compute_robust_hausdorff(x, 100),
        lambda x: surface_distance.compute_robust_hausdorff(x, 95),
        surface_distance.compute_average_surface_distance,
        lambda x: surface_distance.compute_surface_dice_at_tolerance(x, 2.0),
    )
    peers = (
        of_monai(monai.metrics.compute_hausdorff_distance),
        of_monai(monai.metrics.compute_hausdorff_distance, percentile=95),
        of_monai(monai.metrics.compute_average_surface_distance, symmetric=True),
        of_monai(monai.metrics.compute_surface_dice, class_thresholds=[2.0]),
    )

    def of_points():
        outline = scipy.ndimage.binary_erosion
        pairs = [[x & ~outline(x) for x in pair] for pair in zip(preds, labels, strict=True)]
        return [skimage.metrics.hausdorff_distance(*pair) for pair in pairs]

    names = ["hausdorff", "hausdorff_95", "average_surface_distance", "normalized_surface_dice"]
    scores = metrics.hausdorff, metrics.hausdorff_95, mean, near
    case = {
        name: {OURS: ours(score), "monai": peer, "(surface-distance)": of_surfels(of)}
        for name, score, peer, of in zip(names, scores, peers, surfels, strict=True)
    }
    case["hausdorff"]["scikit-image"] = of_points
    case["all four"] = {
        OURS: ours(*scores),
        "monai": lambda: [peer() for peer in peers],
        "(surface-distance)": of_surfels(*surfels),
    }
    return case


def surfaces(random) -> tuple[Case, int]:
    """8 masks of 512 x 512 pixels."""
    labels = np.stack([blobs(random, (512, 512), (20, 80)) for _ in range(8)])
    preds = np.stack([near(random, x) for x in labels])
    case = surface_case(labels, preds)
    p, y = jnp.asarray(preds), jnp.asarray(labels)
    steps = round(0.02 * np.hypot(512, 512))

    def band(mask):
        padded = np.pad(mask.astype(np.uint8), 1)
        eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=steps)
        return mask & (eroded[1:-1, 1:-1] == 0)

    def of_opencv():
        bands = [(band(a), band(b)) for a, b in zip(preds, labels, strict=True)]
        return [np.sum(a & b) / np.sum(a | b) for a, b in bands]

    score = jax.jit(metrics.boundary_iou)
    case["boundary_iou"] = {
        OURS: lambda: np.asarray(score(p, y)),
        "opencv-python-headless": of_opencv,
    }
    return case, len(labels)


def strays(random) -> tuple[Case, int]:
    """The same masks, and predictions with a false object far away."""
    labels = np.stack([blobs(random, (512, 512), (20, 80)) for _ in range(8)])
    preds = np.stack([near(random, x) for x in labels])
    preds[:, 2:8, -9:-2] = True
    return surface_case(labels, preds), len(labels)


def volumes(random) -> tuple[Case, int]:
    """2 masks of 64 x 64 x 64 pixels."""
    labels = np.stack([blobs(random, (64, 64, 64), (6, 16)) for _ in range(2)])
    return surface_case(labels, np.stack([near(random, x, 2.0) for x in labels])), len(labels)


def segments(random) -> tuple[Case, int]:
    """1 map of 512 x 512 pixels and 120 segments."""
    number, shape = 128, (512, 512)
    points = random.integers(0, 512, (120, 2))
    moved = points + random.integers(-6, 7, points.shape)
    labels, preds = (
        scipy.ndimage.distance_transform_edt(
            ~np.isin(np.arange(512**2).reshape(shape), np.ravel_multi_index(x.T, shape, "clip")),
            return_distances=False,
            return_indices=True,
        )
        for x in (points, moved)
    )
    where = [np.zeros(shape, np.int32) for _ in range(2)]
    for ids, x in zip(where, (points, moved), strict=True):
        ids[tuple(np.clip(x, 0, 511).T)] = np.arange(1, 121)
    labels, preds = (ids[tuple(x)] for ids, x in zip(where, (labels, preds), strict=True))
    p, y = jnp.asarray(preds), jnp.asarray(labels)
    tp, ty = torch.from_numpy(preds).long(), torch.from_numpy(labels).long()
    fp, fy = preds.ravel(), labels.ravel()
    pairs = [torch.stack([torch.zeros_like(x), x], -1)[None] for x in (tp, ty)]
    count = jax.jit(partial(metrics.confusion_matrix, num_classes=number))
    classes = np.where(np.arange(number) > 0, 0, -1)

    def ours(score):
        return lambda: score(np.asarray(count(p, y)))

    def quality(table):
        counts = metrics.panoptic_counts(table, classes, classes, 1)
        return metrics.panoptic_quality(counts).pq

    def of_scikit_image(labels, preds):
        return skimage.metrics.variation_of_information(labels, preds).sum()

    return {
        "variation_of_information": {
            OURS: ours(lambda x: metrics.variation_of_information(x).total),
            "scikit-image": lambda: of_scikit_image(labels, preds),
        },
        "adapted_rand_error": {
            OURS: ours(lambda x: metrics.adapted_rand_error(x).error),
            "scikit-image": lambda: skimage.metrics.adapted_rand_error(
                labels, preds, ignore_labels=()
            )[0],
        },
        "mutual_information": {
            OURS: ours(lambda x: metrics.mutual_information(x) * np.log(2)),
            "scikit-learn": lambda: sklearn.metrics.mutual_info_score(fy, fp),
            "torchmetrics": lambda: clustering.mutual_info_score(tp.flatten(), ty.flatten()),
        },
        "normalized_mutual_information": {
            OURS: ours(metrics.normalized_mutual_information),
            "scikit-learn": lambda: sklearn.metrics.normalized_mutual_info_score(fy, fp),
            "torchmetrics": lambda: clustering.normalized_mutual_info_score(
                tp.flatten(), ty.flatten()
            ),
        },
        "object_f1": {
            OURS: ours(lambda x: metrics.object_f1(metrics.object_counts(x))),
            "monai": lambda: monai.metrics.compute_panoptic_quality(tp, ty, "rq"),
        },
        "panoptic_quality": {
            OURS: ours(quality),
            "torchmetrics": lambda: detection.panoptic_quality(*pairs, things={0}, stuffs={1}),
        },
    }, 1


def probabilities(random) -> tuple[Case, int]:
    """2 x 256 x 256 pixels of 21 classes."""
    shape, classes = (2, 256, 256), 21
    z = random.normal(size=(*shape, classes)).astype(np.float32) * 2
    labels = random.integers(0, classes, shape, np.int32)
    z += 4 * np.eye(classes, dtype=np.float32)[labels] * (random.random((*shape, 1)) < 0.8)
    probs = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    q, y, log_q = jnp.asarray(probs), jnp.asarray(labels), jnp.log(probs)
    flat, fy = probs.reshape(-1, classes), labels.ravel()
    tq, ty = torch.from_numpy(flat), torch.from_numpy(fy).long()
    hot = one_hot(labels, classes).float()
    tq_images = torch.from_numpy(np.moveaxis(probs, -1, 1).copy())
    metric = metrics.Calibration(classes)
    fewer = metrics.Calibration(classes, classwise=False)
    update = {x: jax.jit(lambda q, y, x=x: x.update(x.init(), q, y)) for x in (metric, fewer)}
    errors = metrics.ErrorDetection()
    detect = jax.jit(lambda u, e: errors.update(errors.init(), u, e))
    uncertainty, wrong = 1 - probs.max(-1), probs.argmax(-1) != labels
    u, e = jnp.asarray(uncertainty), jnp.asarray(wrong)
    tu, te = torch.from_numpy(uncertainty).flatten(), torch.from_numpy(wrong).flatten().int()

    def ours(score, metric=fewer):
        return lambda: score(metric.compute(update[metric](q, y)))

    def of_torch(norm):
        return lambda: classification.multiclass_calibration_error(tq, ty, classes, 15, norm)

    def of_monai():
        confidence, accuracy, pixels = monai.metrics.calibration_binning(tq_images, hot, 15, True)
        gaps = torch.nan_to_num(confidence - accuracy).abs() * pixels
        return (gaps.sum(-1) / pixels.sum(-1)).mean()

    brier, nll = jax.jit(losses.brier), jax.jit(losses.cross_entropy)
    return {
        "expected_calibration_error": {
            OURS: ours(metrics.expected_calibration_error),
            "torchmetrics": of_torch("l1"),
        },
        "maximum_calibration_error": {
            OURS: ours(metrics.maximum_calibration_error),
            "torchmetrics": of_torch("max"),
        },
        "classwise_calibration_error": {
            OURS: ours(metrics.classwise_calibration_error, metric),
            "(monai)": of_monai,
        },
        "brier": {
            OURS: lambda: float(brier(log_q, y)),
            "scikit-learn": lambda: sklearn.metrics.brier_score_loss(fy, flat, scale_by_half=False),
        },
        "negative_log_likelihood": {
            OURS: lambda: float(nll(log_q, y)),
            "scikit-learn": lambda: sklearn.metrics.log_loss(fy, flat),
        },
        "auroc_of_errors": {
            OURS: lambda: metrics.auroc_of_errors(errors.compute(detect(u, e))),
            "(torchmetrics)": lambda: classification.binary_auroc(tu, te),
            "(scikit-learn)": lambda: sklearn.metrics.roc_auc_score(
                wrong.ravel(), uncertainty.ravel()
            ),
        },
    }, len(labels)


CASES = {
    make.__name__: make
    for make in (confusion, logits, surfaces, strays, volumes, segments, probabilities)
}


def agree(name: str, calls: dict[str, Callable]) -> None:
    """Raises where two contestants compute different numbers, which no one should compare.

    Those in brackets may: theirs is another definition, or exact where ours is in bins.
    """
    ours = np.asarray(calls[OURS](), np.float64)
    for who, call in calls.items():
        if not who.startswith("(") and who != "argmax of logits":
            theirs = np.asarray(call(), np.float64)
            np.testing.assert_allclose(
                np.ravel(theirs), np.ravel(ours), rtol=1e-4, err_msg=f"{name} by {who}"
            )


def main() -> None:
    device = jax.devices()[0]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    slug = device.device_kind.lower().replace(" ", "-")
    results = Path(__file__).parent / "results" / f"metrics-{slug}.json"
    parser.add_argument(
        "--cases", type=lambda text: text.split(","), default=[*CASES], help=",".join(CASES)
    )
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--output", type=Path, default=results)
    args = parser.parse_args()
    if unknown := set(args.cases) - set(CASES):
        parser.error(f"no such cases: {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    warnings.simplefilter("ignore")
    report = {
        "device": device.device_kind,
        **machine.facts(PACKAGES),
        "repeats": args.repeats,
        "rows": [],
    }
    print(f"{device.device_kind}, {report['machine']}, load {report['load'][0]:.1f}")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    for name in args.cases:
        case, images = CASES[name](np.random.default_rng(0))
        print(f"\n{name}: {CASES[name].__doc__}")
        for metric, calls in case.items():
            agree(metric, calls)
            turns = {who: (call, lambda _: None) for who, call in calls.items()}
            seconds = take_turns(turns, args.repeats, 0.2)
            line = f"{metric:32}{images / statistics.median(seconds[OURS]):10.2f} images/s"
            for who, times in seconds.items():
                ratios = [x / y for x, y in zip(times, seconds[OURS], strict=True)]
                row = {
                    "case": name,
                    "metric": metric,
                    "contestant": who,
                    "images_per_second": images / statistics.median(times),
                    "to_ours": statistics.median(ratios),
                }
                report["rows"].append(row)
                line += f"  {who} {row['to_ours']:.2f}" if who != OURS else ""
            print(line, flush=True)
            args.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
