"""With jax_enable_x64 metrics compute what they do without it, in the same types."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import metrics

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, (2, 20, 17)).astype(np.int32)
PREDS = np.where(RNG.random(LABELS.shape) < 0.8, LABELS, 0).astype(np.int32)
PROBS = RNG.dirichlet([1, 1, 1], LABELS.shape).astype(np.float32)
SMOOTH = np.zeros((2, 20, 17), bool)
SMOOTH[:, 3:15, 4:12] = True
MOVED = np.roll(SMOOTH, 3, 1)


def distances():
    return metrics.surface_distances(SMOOTH, MOVED)


def calibration():
    metric = metrics.Calibration(num_classes=3, classwise=True)
    return metric.update(metric.init(), PROBS, LABELS)


def pixel_mean():
    metric = metrics.PixelMean()
    # A state keeps its types, or a scan over batches would not compile.
    scanned, _ = jax.lax.scan(
        lambda state, x: (metric.update(state, x), None), metric.init(), jnp.asarray(PROBS)
    )
    return scanned


def by_image():
    metric = metrics.ByImage(2)
    return metric.update(metric.init(), jnp.arange(2), jnp.asarray(PROBS[:, 0, 0, 0]))


def errors():
    metric = metrics.ErrorDetection()
    return metric.update(metric.init(), 1 - PROBS.max(-1), PROBS.argmax(-1) != LABELS)


CALLS = {
    "confusion_matrix": lambda: metrics.confusion_matrix(PREDS, LABELS, 3),
    "hausdorff": lambda: metrics.hausdorff(distances()),
    "hausdorff_95": lambda: metrics.hausdorff_95(distances()),
    "average_surface_distance": lambda: metrics.average_surface_distance(distances()),
    "normalized_surface_dice": lambda: metrics.normalized_surface_dice(distances(), 2.0),
    "boundary_iou": lambda: metrics.boundary_iou(SMOOTH, MOVED),
    "generalised_energy_distance": lambda: metrics.generalised_energy_distance(PREDS, LABELS, 3),
    "Calibration": calibration,
    "PixelMean": pixel_mean,
    "ByImage": by_image,
    "ErrorDetection": errors,
}


@pytest.mark.parametrize("name", CALLS)
def test_same_numbers_and_types(name, request):
    usual = jax.tree.map(np.asarray, CALLS[name]())
    request.getfixturevalue("x64")
    wide = jax.tree.map(np.asarray, CALLS[name]())
    for a, b in zip(jax.tree.leaves(usual), jax.tree.leaves(wide), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_array_equal(a, b)
