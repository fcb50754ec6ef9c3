"""The one resampling, against scipy.ndimage and OpenCV on fixed transforms."""

import functools

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from jaxseg import Batch
from jaxseg.data.warp import control_points, smooth_field, warp

SIZES = {2: (19, 27), 3: (9, 14, 11)}


def random_batch(rank, *, channels=2, dtype=np.uint8, classes=0):
    rng = np.random.default_rng(rank)
    shape = (2, *SIZES[rank])
    amounts = (*shape, classes) if classes else shape
    return Batch(
        rng.integers(0, np.iinfo(dtype).max, (*shape, channels), dtype, endpoint=True),
        rng.integers(0, 9, amounts, np.uint8),
        rng.random(shape) < 0.8,
    )


def maps(rank):
    """A shrinking rotation with a shear, and another that magnifies, from outside to outside."""
    rng = np.random.default_rng(rank)
    matrices = np.eye(rank) + rng.uniform(-0.4, 0.4, (2, rank, rank))
    matrices *= np.array([1.3, 0.7])[:, None, None]
    centre = (np.array(SIZES[rank]) - 1) / 2
    offsets = centre - np.einsum("nij,nj->ni", matrices, centre + rng.uniform(-2, 2, (2, rank)))
    return matrices.astype(np.float32), offsets.astype(np.float32)


@functools.cache
def compiled(**options):
    return jax.jit(
        functools.partial(warp, **options),
        compiler_options={"xla_backend_optimization_level": 0},
    )


def places_of(matrix, offset, size):
    """Where each pixel of the result looks, `[rank, *size]`, in float64."""
    grid = np.indices(size).reshape(len(size), -1)
    return (matrix.astype(float) @ grid + offset[:, None]).reshape(len(size), *size)


def is_inside(places, extent):
    """Whose nearest pixel is one of the image; none is so near an edge that rounding decides."""
    extent = np.reshape(extent, (-1,) + (1,) * (places.ndim - 1))
    edges = np.minimum(np.abs(places + 0.5), np.abs(places - extent + 0.5))
    assert edges.min() > 1e-5
    return ((places > -0.5) & (places < extent - 0.5)).all(0)


@pytest.mark.parametrize("rank", [2, 3])
def test_affine_equals_scipy(rank):
    """Images by order 1, labels and `where` by order 0, and from outside nothing."""
    batch, (matrices, offsets) = random_batch(rank), maps(rank)
    size = tuple(side + 3 for side in SIZES[rank])
    found, inside = compiled(size=size)(batch, matrices, offsets)
    assert found.images.dtype == jnp.float32
    assert found.labels.dtype == np.uint8
    for i, (matrix, offset) in enumerate(zip(matrices, offsets, strict=True)):
        within = is_inside(places_of(matrix, offset, size), SIZES[rank])
        assert 0.2 < within.mean() < 1
        np.testing.assert_array_equal(inside[i], within)

        def by_scipy(x, order, matrix=matrix, offset=offset):
            options = {"output_shape": size, "order": order, "mode": "nearest"}
            return scipy.ndimage.affine_transform(x, matrix, offset, **options)

        for channel in range(2):
            expected = by_scipy(batch.images[i, ..., channel].astype(float), 1) * within
            np.testing.assert_allclose(found.images[i, ..., channel], expected, atol=1e-3)
        expected = by_scipy(batch.labels[i], 0)
        np.testing.assert_array_equal(found.labels[i][within], expected[within])
        np.testing.assert_array_equal(found.where[i], by_scipy(batch.where[i], 0) & within)


def test_affine_equals_opencv():
    """cv2.warpAffine takes (x, y), and rounds places to 1/32 of a pixel, as all here are."""
    batch = random_batch(2, channels=3)
    matrices = np.array([[[0.75, 0.25], [-0.5, 1.0]], [[1.25, -0.75], [0.25, 0.5]]], np.float32)
    offsets = np.array([[2.0625, 3.0], [1.53125, -2.4375]], np.float32)
    found, inside = compiled()(batch, matrices, offsets)
    height, width = SIZES[2]
    for i, (matrix, offset) in enumerate(zip(matrices, offsets, strict=True)):
        expected = cv2.warpAffine(
            batch.images[i].astype(np.float32),
            np.c_[matrix[::-1, ::-1], offset[::-1]],
            (width, height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        assert 0.3 < inside[i].mean() < 0.95
        within = np.asarray(inside[i])[..., None]
        np.testing.assert_allclose(found.images[i], expected * within, atol=1e-3)


@pytest.mark.parametrize(
    ("matrix", "offset", "by_opencv"),
    [
        ([[-1, 0], [0, 1]], (18, 0), lambda x: cv2.flip(x, 0)),
        ([[1, 0], [0, -1]], (0, 26), lambda x: cv2.flip(x, 1)),
        ([[0, 1], [-1, 0]], (0, 26), lambda x: cv2.rotate(x, cv2.ROTATE_90_COUNTERCLOCKWISE)),
        ([[0, -1], [1, 0]], (18, 0), lambda x: cv2.rotate(x, cv2.ROTATE_90_CLOCKWISE)),
    ],
    ids=["upside-down", "mirrored", "left", "right"],
)
@pytest.mark.parametrize("interpolate", [False, True])
def test_flips_and_right_angles_equal_opencv(matrix, offset, by_opencv, interpolate):
    """Bit for bit, also where they are interpolated."""
    batch = random_batch(2, channels=3)
    expected = by_opencv(batch.images[0])
    arguments = (np.array([x] * 2, np.float32) for x in (matrix, offset))
    found, inside = compiled(size=expected.shape[:2], interpolate=interpolate)(batch, *arguments)
    assert inside.all()
    np.testing.assert_array_equal(found.images[0], expected.astype(np.float32))
    np.testing.assert_array_equal(found.labels[0], by_opencv(batch.labels[0]))
    where = by_opencv(batch.where[0].astype(np.uint8))
    np.testing.assert_array_equal(found.where[0], where.astype(bool))


def fields(rank):
    rng = np.random.default_rng(3)
    counts = [control_points(side, 6) for side in SIZES[rank]]
    return rng.normal(size=(2, rank, *counts)).astype(np.float32)


@pytest.mark.parametrize("rank", [2, 3])
def test_smooth_field_equals_scipy(rank):
    """The cubic B-spline of scipy, of coefficients and not of values to pass through."""
    controls = fields(rank)[0]
    found = smooth_field(jnp.asarray(controls), SIZES[rank], 6)
    places = np.indices(SIZES[rank]) / 6 + 1
    for field, points in zip(found, controls, strict=True):
        expected = scipy.ndimage.map_coordinates(
            points.astype(float), places, order=3, prefilter=False
        )
        np.testing.assert_allclose(field, expected, atol=1e-5)


@pytest.mark.parametrize("rank", [2, 3])
def test_displacement_equals_scipy(rank):
    """map_coordinates at the places of the affine map, each displaced on its own."""
    batch, (matrices, offsets) = random_batch(rank), maps(rank)
    field = jax.vmap(lambda x: smooth_field(x, SIZES[rank], 6))(2 * fields(rank))
    found, inside = compiled()(batch, matrices, offsets, field)
    for i in range(2):
        places = places_of(matrices[i], offsets[i], SIZES[rank]) + np.asarray(field[i], float)
        within = is_inside(places, SIZES[rank])
        np.testing.assert_array_equal(inside[i], within)
        image = batch.images[i, ..., 0].astype(float)
        expected = scipy.ndimage.map_coordinates(image, places, order=1, mode="nearest") * within
        np.testing.assert_allclose(found.images[i, ..., 0], expected, atol=1e-3)
        nearest = scipy.ndimage.map_coordinates(batch.labels[i], places, order=0, mode="nearest")
        np.testing.assert_array_equal(found.labels[i][within], nearest[within])


@pytest.mark.parametrize("rank", [2, 3])
def test_padding_is_outside(rank):
    """A padded image moves as the image alone does, whatever it is padded with."""
    batch, (matrices, offsets) = random_batch(rank), maps(rank)
    extents = np.array(SIZES[rank]) - [[3], [5]]
    found, inside = compiled()(batch._replace(sizes=extents.astype(np.int32)), matrices, offsets)
    for i, extent in enumerate(extents):
        image = np.s_[i : i + 1, *map(slice, extent)]
        alone = Batch(*(x[image] for x in batch[:3]))
        expected, within = compiled(size=SIZES[rank])(
            alone, matrices[i : i + 1], offsets[i : i + 1]
        )
        np.testing.assert_array_equal(inside[i], within[0])
        assert 0.1 < inside[i].mean() < 0.9
        np.testing.assert_array_equal(found.images[i], expected.images[0])
        np.testing.assert_array_equal(found.where[i], expected.where[0])
        np.testing.assert_array_equal(found.labels[i], expected.labels[0])


@pytest.mark.parametrize("rank", [2, 3])
def test_distributions_are_resampled_linearly(rank):
    """By the shares of what counts alone, which are shares again."""
    batch, (matrices, offsets) = random_batch(rank, classes=3), maps(rank)
    batch = batch._replace(where=batch.where & (batch.labels.sum(-1) > 0))
    found, inside = compiled()(batch, matrices, offsets)
    np.testing.assert_allclose(found.labels.sum(-1), 1, rtol=1e-6)
    for i in range(2):
        options = {"order": 1, "mode": "nearest"}
        total = batch.labels[i].sum(-1, keepdims=True, dtype=float)
        shares = batch.labels[i] / np.maximum(total, 1) * batch.where[i][..., None]
        mixed = np.stack(
            [
                scipy.ndimage.affine_transform(x, matrices[i], offsets[i], **options)
                for x in np.moveaxis(shares, -1, 0)
            ],
            -1,
        )
        where = np.asarray(found.where[i])
        assert 0.1 < where.mean() < np.asarray(inside[i]).mean()
        expected = mixed[where] / mixed[where].sum(-1, keepdims=True)
        np.testing.assert_allclose(found.labels[i][where], expected, atol=1e-4)


def test_16_bits_keep_their_values():
    batch = random_batch(2, dtype=np.uint16)
    still = np.eye(2, dtype=np.float32)[None].repeat(2, 0), np.zeros((2, 2), np.float32)
    for interpolate in (False, True):
        found, inside = compiled(interpolate=interpolate)(batch, *still)
        np.testing.assert_array_equal(found.images, batch.images)
        assert inside.all()


def test_places_far_away():
    """No number overflows: what is a million pixels away is outside."""
    batch = random_batch(2)
    matrices = np.array([[[3e4, 1.0], [1.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]], np.float32)
    offsets = np.array([[0.0, 0.0], [-1e6, 1e6]], np.float32)
    _, inside = compiled()(batch, matrices, offsets)
    expected = np.zeros(SIZES[2], bool)
    expected[0, :19] = True  # the row at 1 x column
    np.testing.assert_array_equal(inside[0], expected)
    assert not inside[1].any()
