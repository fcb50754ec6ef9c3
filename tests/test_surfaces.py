"""Distances between surfaces, against scipy's definitions on masks that are easy to get wrong."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxseg import metrics


def of_distances(score, **fixed):
    """A score of distances as one of masks, as `boundary_iou` is."""

    def metric(preds, labels, empty=math.nan, missing=None, **options):
        distances = metrics.surface_distances(preds, labels, **options)
        missing = {} if missing is None else {"missing": missing}
        return score(distances, empty=empty, **missing, **fixed)

    return metric


DISTANCES = {
    "hausdorff": of_distances(metrics.hausdorff),
    "hausdorff_95": of_distances(metrics.hausdorff_95),
    "average_surface_distance": of_distances(metrics.average_surface_distance),
}
OVERLAPS = {
    "normalized_surface_dice": of_distances(metrics.normalized_surface_dice, tolerance=1.5),
    "boundary_iou": functools.partial(metrics.boundary_iou, width=0.1),
}
METRICS = DISTANCES | OVERLAPS


def surface(mask):
    """The pixels of a mask with a neighbour across a face, or the image's border, outside it."""
    return mask & ~ndimage.binary_erosion(mask)


def distances(preds, labels, spacing):
    """Of each pixel of either surface, the distance to the other."""
    surfaces = surface(preds), surface(labels)
    to = [ndimage.distance_transform_edt(~x, sampling=spacing) for x in surfaces]
    return to[1][surfaces[0]], to[0][surfaces[1]]


def define(name, preds, labels, spacing=None):
    """A metric of two masks with pixels, in float64."""
    if name == "boundary_iou":
        reach = max(1, round(0.1 * math.hypot(*labels.shape)))
        square = np.ones((2 * reach + 1,) * labels.ndim)
        bands = [x & ~ndimage.binary_erosion(x, square) for x in (preds, labels)]
        return (bands[0] & bands[1]).sum() / (bands[0] | bands[1]).sum()
    first, second = distances(preds, labels, spacing)
    if name == "hausdorff":
        return max(first.max(), second.max())
    if name == "hausdorff_95":
        return max(np.percentile(first, 95), np.percentile(second, 95))
    both = np.concatenate([first, second])
    return both.mean() if name == "average_surface_distance" else (both <= 1.5).mean()


def serpentine(shape):
    """A path that winds through the whole image."""
    mask = np.zeros(shape, bool)
    if mask.ndim == 1:
        mask[::2] = True
        return mask
    mask[..., ::2, :] = True
    mask[..., 1::4, -1] = True
    mask[..., 3::4, 0] = True
    return mask


def masks(shape, seed=0):
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), 2.0)
    one = np.zeros(shape, bool)
    one[tuple(n // 3 for n in shape)] = True
    border = np.zeros(shape, bool)
    border[..., :2] = True
    return {
        "random": rng.random(shape) < 0.3,
        "blobs": smooth > 0,
        "small_blobs": smooth > 0.7 * smooth.max(),
        "one_pixel": one,
        "border": border,
        "serpentine": serpentine(shape),
        "full": np.ones(shape, bool),
    }


SHAPES = {
    "square": ((24, 24), None),
    "wide": ((13, 40), None),
    "anisotropic": ((31, 12), (0.7, 2.5)),
    "volume": ((7, 12, 9), (3.0, 0.5, 1.0)),
    "line": ((30,), (2.0,)),
}


@functools.cache
def compiled(name, spatial_rank, spacing):
    options = {"spatial_rank": spatial_rank}
    if spacing is not None and name != "boundary_iou":
        options["spacing"] = spacing
    return jax.jit(functools.partial(METRICS[name], **options))


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("shape", SHAPES)
def test_all_pairs_of_masks(name, shape):
    """Each mask of the list as prediction and as label of each other, in one batch."""
    shape, spacing = SHAPES[shape]
    some = list(masks(shape).values())
    preds, labels = (np.array(x) for x in zip(*((a, b) for a in some for b in some), strict=True))
    found = compiled(name, len(shape), spacing)(preds, labels)
    assert found.dtype == jnp.float32
    expected = [define(name, a, b, spacing) for a, b in zip(preds, labels, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert len({round(float(x), 4) for x in found}) > 5


@pytest.mark.parametrize("name", METRICS)
def test_masks_without_a_pixel(name):
    """Neither has one: `empty`. One of them has none: the worst that there is."""
    none, some = np.zeros((5, 7), bool), np.eye(5, 7, dtype=bool)
    preds, labels = np.stack([none, none, some, some]), np.stack([none, some, none, some])
    perfect, worst = (0.0, math.inf) if name in DISTANCES else (1.0, 0.0)
    expected = [math.nan, worst, worst, perfect]
    np.testing.assert_array_equal(METRICS[name](preds, labels), expected)
    found = METRICS[name](preds, labels, empty=perfect)
    np.testing.assert_array_equal(found, [perfect, worst, worst, perfect])
    if name in DISTANCES:
        found = METRICS[name](preds, labels, missing=8.5)
        np.testing.assert_array_equal(found, [math.nan, 8.5, 8.5, perfect])


@pytest.mark.parametrize("name", METRICS)
def test_symmetric_and_perfect(name):
    some = list(masks((24, 24)).values())
    preds, labels = np.array(some[:-1]), np.array(some[1:])
    metric = compiled(name, 2, None)
    np.testing.assert_array_equal(metric(preds, labels), metric(labels, preds))
    same = metric(preds, preds)
    np.testing.assert_array_equal(same, np.full(len(preds), 0.0 if name in DISTANCES else 1.0))


@pytest.mark.parametrize("name", METRICS)
def test_pixels_outside_where_are_in_neither_mask(name):
    rng = np.random.default_rng(3)
    some = masks((24, 24))
    preds, labels = some["small_blobs"][None], some["border"][None]
    where = rng.random((1, 24, 24)) < 0.8
    where[..., 12:] = False
    expected = METRICS[name](preds & where, labels & where)
    np.testing.assert_array_equal(METRICS[name](preds, labels, where=where), expected)
    assert expected != METRICS[name](preds, labels)


@pytest.mark.parametrize("name", DISTANCES)
def test_spacing_is_a_unit(name):
    preds, labels = list(masks((24, 24)).values())[1:3]
    one = METRICS[name](preds, labels)
    half = METRICS[name](preds, labels, spacing=(0.5, 0.5))
    np.testing.assert_allclose(half, one / 2, rtol=1e-6)


@pytest.mark.parametrize("shape", [(24, 30), (60, 17)])
def test_boundaries_of_padded_images(shape):
    """The band is as wide as the image's own diagonal has it, and padding a border."""
    for preds in masks(shape).values():
        labels = masks(shape, seed=1)["blobs"]
        padded = [np.pad(x, ((0, 40), (0, 9))) for x in (preds, labels, np.ones(shape, bool))]
        found = metrics.boundary_iou(*padded[:2], where=padded[2], sizes=np.array(shape))
        assert found == metrics.boundary_iou(preds, labels)
    wider = metrics.boundary_iou(*padded[:2], where=padded[2], sizes=np.array([400, 500]))
    assert wider != found


@pytest.mark.parametrize("count", [1, 2, 3, 20, 21, 39, 40, 41, 1000])
def test_percentile_is_numpys(count):
    """For any number of pixels, with ties and between them."""
    rng = np.random.default_rng(count)
    for values in (rng.random(count), rng.integers(0, 3, count), np.zeros(count)):
        # Label pixels at the left of lines of their own; predictions so many steps to the right.
        steps = np.round(values * 9).astype(int)
        labels, preds = np.zeros((2, count, 40), bool)
        labels[:, 0] = True
        preds[np.arange(count), steps] = True
        first, second = distances(preds, labels, (100.0, 1.0))
        expected = max(np.percentile(first, 95), np.percentile(second, 95))
        found = DISTANCES["hausdorff_95"](preds, labels, spacing=(100.0, 1.0))
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("name", METRICS)
def test_any_batch_axes(name):
    """Images and classes: each by itself."""
    rng = np.random.default_rng(5)
    preds, labels = rng.random((2, 2, 3, 10, 11)) < 0.4
    found = METRICS[name](preds, labels)
    assert found.shape == (2, 3)
    for index in np.ndindex(2, 3):
        one = METRICS[name](preds[index], labels[index])
        np.testing.assert_array_equal(found[index], one)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (
            {"preds": np.zeros((4, 4), int)},
            TypeError,
            r"preds: the mask is int\d+\[4, 4\]",
        ),
        ({"labels": np.zeros((4, 5), bool)}, ValueError, r"preds are \[4, 4\] and labels \[4, 5\]"),
        ({"spatial_rank": 3}, ValueError, r"spatial_rank is 3 for preds of shape \[4, 4\]"),
        ({"spatial_rank": 0}, ValueError, "spatial_rank is 0, but must be a Python integer"),
        ({"where": np.ones((4, 4))}, ValueError, r"where is float\d+\[4, 4\], but must be bool"),
    ],
)
@pytest.mark.parametrize("name", METRICS)
def test_errors(name, change, error, words):
    given = {"preds": np.zeros((4, 4), bool), "labels": np.zeros((4, 4), bool)} | change
    with pytest.raises(error, match=words):
        METRICS[name](given.pop("preds"), given.pop("labels"), **given)


@pytest.mark.parametrize("name", METRICS)
def test_no_images(name):
    assert METRICS[name](*np.zeros((2, 0, 5, 7), bool)).shape == (0,)


@pytest.mark.parametrize("step", [0.1, 0.2, 0.3, 0.7, 1.1, 1.2, 3.7])
def test_as_far_as_the_tolerance_is_within_it(step):
    """However float32 rounds the steps."""
    preds, labels = np.zeros((2, 5, 9), bool)
    preds[2, 5] = labels[2, 2] = True
    distances = metrics.surface_distances(preds, labels, spacing=(step, step))
    assert metrics.normalized_surface_dice(distances, 3 * step) == 1
    assert metrics.normalized_surface_dice(distances, 2.999 * step) == 0


def test_errors_of_options():
    mask = np.zeros((4, 4), bool)
    with pytest.raises(ValueError, match=r"tolerance is -1.0, but must be at least 0"):
        metrics.normalized_surface_dice(metrics.surface_distances(mask, mask), -1.0)
    with pytest.raises(ValueError, match="width is 0, but must be positive"):
        metrics.boundary_iou(mask, mask, width=0)
    with pytest.raises(ValueError, match=r"spacing is \(1.0,\)"):
        metrics.surface_distances(mask, mask, spacing=(1.0,))
    with pytest.raises(ValueError, match=r"sizes are \[3\], but must be \[2\]"):
        metrics.boundary_iou(mask, mask, sizes=np.array([4, 4, 1]))


def test_percentile_of_more_pixels_than_int32_has_products_of():
    """95 times the rank of a pixel passes 2^31 at 22.6 million."""
    count = 24_000_000
    ranks = jnp.arange(count, dtype=jnp.float32)
    on = jnp.ones(count, bool)
    found = metrics.hausdorff_95(metrics.SurfaceDistances(on, on, ranks, ranks))
    expected = 0.95 * (count - 1)
    assert abs(float(found) - expected) <= np.spacing(np.float32(expected))
