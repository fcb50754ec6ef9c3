"""Random changes of images, labels and `where`: what each option does, how far and how often."""

import colorsys
import functools
import itertools

import jax
import numpy as np
import pytest
import scipy.ndimage

from jaxseg import Batch
from jaxseg.config import Augment
from jaxseg.data import augment, normalise

FLIPS = {"flip_horizontal": True, "flip_vertical": True}
NOTHING = {
    **dict.fromkeys([*FLIPS, "rotate90"], False),
    **dict.fromkeys(["brightness", "contrast"], 0.0),
}
PLACE = {
    **FLIPS,
    "rotate90": True,
    "rotate": 30.0,
    "scale": (0.5, 2.0),
    "shear": 10.0,
    "translate": 0.1,
    "elastic": 1.0,
    "elastic_spacing": 8,
}
EVERYTHING = {
    **PLACE,
    "brightness": 0.3,
    "contrast": 0.2,
    "saturation": 0.3,
    "hue": 0.1,
    "gamma": 0.3,
    "noise": 0.2,
    "blur": 0.7,
    "cutout": 0.4,
}


COUNT = 64


# Compiling takes most of these tests' time.
QUICK = {"compiler_options": {"xla_backend_optimization_level": 0}}


def function(normal=False, **fields):
    """Augmentation by these options; images stay as stored unless they are to be normalised."""

    def augment_(batch, keys):
        channels, largest = batch.images.shape[-1], np.iinfo(batch.images.dtype).max
        stored = {"mean": (0.0,) * channels, "std": (1 / largest,) * channels}
        return augment(batch, keys, Augment(**{**NOTHING, **fields}), **({} if normal else stored))

    return augment_


@functools.cache
def compiled(**fields):
    return jax.jit(function(**fields), **QUICK)


def augmented(batch, seed=0, **fields):
    """The augmented batch, as numpy arrays, each image with a key of its own."""
    keys = jax.random.split(jax.random.key(seed), len(batch.images))
    return jax.tree.map(np.asarray, compiled(**fields)(batch, keys))


def random_batch(count, *size, channels=1, dtype=np.int32):
    rng = np.random.default_rng(0)
    return Batch(
        rng.integers(0, 256, (count, *size, channels), np.uint8),
        rng.integers(0, 5, (count, *size)).astype(dtype),
        rng.random((count, *size)) < 0.8,
    )


def repeated(batch, count=COUNT):
    return jax.tree.map(lambda x: np.repeat(x[:1], count, 0), batch)


def shared_batch():
    """Of one form for all tests with EVERYTHING, which is slow to compile."""
    return random_batch(16, 20, 14, channels=3, dtype=np.uint8)


def places(height, width, where=True):
    """Images that hold their coordinates, and labels that number the pixels.

    Interpolation is exact for what is linear, so that each pixel tells where it comes from.
    """
    rows, columns = np.mgrid[:height, :width]
    images = np.stack([rows, columns], -1).astype(np.uint8)
    labels = (rows * width + columns).astype(np.int32)
    where = np.broadcast_to(where, (height, width))
    return repeated(Batch(images[None], labels[None], where[None]))


def which_equal(batch, example):
    """Which images of a batch have the image, labels and `where` of the example."""
    return np.all(
        [[np.array_equal(a, b) for a in x] for x, b in zip(batch[:3], example, strict=True)], axis=0
    )


def assert_batch_equal(found, expected):
    assert found.images.dtype == np.float32
    assert found.labels.dtype == expected.labels.dtype
    for a, b in zip(found[:3], expected[:3], strict=True):
        np.testing.assert_array_equal(a, b)


# Geometry.


@pytest.mark.parametrize("size", [(6, 9), (3, 5, 4)])
def test_nothing_to_change_is_normalise(size):
    """Bit for bit by given statistics; an image's own may be summed in another order."""
    whole = random_batch(4, *size, channels=2)
    sizes = (np.array(size) - np.arange(4)[:, None] % 3).astype(np.int32)
    where = np.zeros_like(whole.where)
    for row, extent in enumerate(sizes):
        inside = (row, *map(slice, extent))
        where[inside] = whole.where[inside]
    for batch in (whole, whole._replace(where=where, sizes=sizes)):
        numbers = {"mean": (0.4, 0.5), "std": (0.2, 0.3)}
        expected = jax.jit(functools.partial(normalise, **numbers))(batch)
        still = functools.partial(augment, config=Augment(**NOTHING), **numbers)
        found = jax.jit(still)(batch, jax.random.split(jax.random.key(0), 4))
        np.testing.assert_array_equal(found.images, expected.images)
        np.testing.assert_array_equal(found.where, batch.where)
        np.testing.assert_array_equal(found.labels[batch.where], batch.labels[batch.where])
        extents = [size] * 4 if batch.sizes is None else batch.sizes
        wanted = [np.all(np.moveaxis(np.indices(size), 0, -1) < x, -1) for x in extents]
        np.testing.assert_array_equal(found.inside, wanted)
        expected, found = jax.jit(normalise)(batch), augmented(batch, normal=True)
        np.testing.assert_allclose(found.images, expected.images, rtol=1e-5, atol=1e-6)


def test_amounts_become_shares():
    """As `normalise` has them, where pixels only change places."""
    batch = random_batch(4, 6, 6)
    amounts = np.random.default_rng(2).integers(0, 3, (4, 6, 6, 3)).astype(np.uint8)
    found = augmented(batch._replace(labels=amounts), flip_horizontal=True)
    expected = np.asarray(normalise(batch._replace(labels=amounts)).labels)
    for image, own in zip(found.labels, expected, strict=True):
        assert np.array_equal(image, own) or np.array_equal(image, own[:, ::-1])


def dihedral(flip_vertical=False, flip_horizontal=False, rotate90=False):
    """The transforms of an array `[height, width, ...]` that the options allow."""
    flips = itertools.product(
        *((False, True) if f else (False,) for f in (flip_vertical, flip_horizontal))
    )
    return [
        lambda x, v=v, h=h, k=k: np.rot90(x[:: -1 if v else 1, :: -1 if h else 1], k)
        for (v, h), k in itertools.product(flips, range(4) if rotate90 else (0,))
    ]


@pytest.mark.parametrize(
    ("options", "size", "count"),
    [
        ({"flip_horizontal": True}, 6, 2),
        ({"flip_vertical": True}, 7, 2),
        ({"rotate90": True}, 6, 4),
        ({"rotate90": True}, 7, 4),
        ({"rotate90": True, **FLIPS}, 6, 8),
        ({"rotate90": True, **FLIPS}, 7, 8),
    ],
    ids=["horizontal", "vertical", "turns-even", "turns-odd", "all-even", "all-odd"],
)
def test_flips_and_right_angles_are_exact(options, size, count):
    """Image, labels and `where` are one numpy flip or rotation of the old ones, bit for bit.

    Every one of the transforms asked for occurs, and no other.
    """
    batch = random_batch(1, size, size, channels=2)
    found = augmented(repeated(batch), **options)
    occurred = {}
    for transform in dihedral(**options):
        expected = [np.ascontiguousarray(transform(x[0])) for x in batch[:3]]
        same = which_equal(found, expected)
        occurred[tuple(expected[1].ravel())] = same.sum()
    assert len(occurred) == count
    assert sum(occurred.values()) == COUNT
    assert all(n > COUNT / count / 4 for n in occurred.values()), occurred


def test_right_angles_of_an_oblong_image():
    """A quarter turn is of any square of it, at the beginning; the rest has nothing to show."""
    batch = random_batch(1, 6, 10, channels=2)._replace(where=np.ones((1, 6, 10), bool))
    found = augmented(repeated(batch), rotate90=True)
    counts = {}
    for k, start in [(0, 0), (2, 0), *itertools.product((1, 3), range(5))]:
        part = np.s_[:, start : start + (6 if k % 2 else 10)]
        expected = [np.zeros_like(x[0]) for x in batch[:3]]
        for new, old in zip(expected, batch[:3], strict=True):
            turned = np.rot90(old[0][part], k)
            new[:, : turned.shape[1]] = turned
        same = [np.array_equal(x, expected[0]) for x in found.images]
        counts[k, start] = sum(same)
        np.testing.assert_array_equal(found.where[same], [expected[2]] * sum(same))
        labels = found.labels[same] * expected[2]
        np.testing.assert_array_equal(labels, [expected[1]] * sum(same))
    assert sum(counts.values()) == COUNT
    assert all(counts.values()), counts


def test_right_angles_of_a_padded_image():
    """What its array has room for is turned as a whole, and is again at the beginning."""
    batch = random_batch(1, 10, 10)._replace(sizes=np.array([[6, 10]], np.int32))
    found = augmented(repeated(batch), rotate90=True)
    counts = []
    for k in range(4):
        expected = np.zeros((10, 10, 1))
        turned = np.rot90(batch.images[0, :6], k)
        expected[: len(turned), : turned.shape[1]] = turned
        same = [np.array_equal(x, expected) for x in found.images]
        counts.append(sum(same))
        turned = np.rot90(batch.where[0, :6], k)
        inside = np.s_[: len(turned), : turned.shape[1]]
        for where in found.where[same]:
            np.testing.assert_array_equal(where[inside], turned)
            assert where.sum() == turned.sum()
    assert sum(counts) == COUNT
    assert min(counts) > COUNT / 16


def test_padded_images_stay_where_they_begin():
    """A flip is of the image, not of its array."""
    batch = random_batch(COUNT, 8, 9)._replace(sizes=np.full((COUNT, 2), (5, 7), np.int32))
    found = augmented(batch, flip_horizontal=True)
    inside = np.s_[:, :5, :7]
    flipped = [
        np.array_equal(new, old[:, ::-1])
        for new, old in zip(found.images[inside], batch.images[inside], strict=True)
    ]
    still = [
        np.array_equal(new, old)
        for new, old in zip(found.images[inside], batch.images[inside], strict=True)
    ]
    assert sum(flipped) + sum(still) == COUNT
    assert min(sum(flipped), sum(still)) > COUNT / 4
    assert found.where.sum() == found.where[inside].sum() == batch.where[inside].sum()


def test_flips_and_right_angles_of_volumes():
    """One of 16 transforms, exactly: flips along three axes, and turns of the last two."""
    batch = random_batch(1, 3, 4, 4, channels=2)
    options = {**FLIPS, "flip_depth": True, "rotate90": True}
    found = augmented(repeated(batch), **options)
    occurred = {}
    for transform, depth in itertools.product(dihedral(**FLIPS, rotate90=True), (1, -1)):
        expected = [np.stack([transform(x) for x in a[0][::depth]]) for a in batch[:3]]
        occurred[expected[1].tobytes()] = which_equal(found, expected).sum()
    assert len(occurred) == 16
    assert sum(occurred.values()) == COUNT
    assert sum(n > 0 for n in occurred.values()) >= 14, occurred


def maps(batch, found):
    """For each image, the affine map from output to input pixels: `[matrix | offset]`."""
    height, width = batch.labels.shape[1:]
    out = np.stack(
        [
            *np.mgrid[: found.labels.shape[1], : found.labels.shape[2]],
        ],
        -1,
    )
    for image, where in zip(found.images, found.where, strict=True):
        # At the border the image is continued evenly, which is not linear.
        inner = where & (image > 0.01).all(-1) & (image < [height - 1.01, width - 1.01]).all(-1)
        points = np.c_[out[inner], np.ones(inner.sum())]
        solution, *_ = np.linalg.lstsq(points, image[inner].astype(float), rcond=None)
        assert np.abs(points @ solution - image[inner]).max() < 1e-3, "not an affine map"
        yield solution.T


def test_free_rotation():
    """A rotation about the centre, either way, by at most the angle, and evenly spread."""
    size = (33, 48)
    batch = places(*size)
    angles = []
    for affine in maps(batch, augmented(batch, rotate=30.0)):
        matrix, offset = affine[:, :2], affine[:, 2]
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(2), atol=1e-3)
        assert np.linalg.det(matrix) > 0
        centre = (np.array(size) - 1) / 2
        np.testing.assert_allclose(matrix @ centre + offset, centre, atol=1e-2)
        angles.append(np.rad2deg(np.arctan2(matrix[1, 0], matrix[0, 0])))
    assert max(np.abs(angles)) <= 30.01
    assert min(angles) < -24
    assert max(angles) > 24
    assert abs(np.mean(angles)) < 3 * 30 / np.sqrt(3 * COUNT)


def test_magnification():
    """Both axes by one factor, between the bounds and evenly spread in its logarithm."""
    batch = places(33, 48)
    logs = []
    for affine in maps(batch, augmented(batch, scale=(0.5, 2.0))):
        np.testing.assert_allclose(affine[:, :2], affine[0, 0] * np.eye(2), atol=1e-3)
        np.testing.assert_allclose(affine @ [16, 23.5, 1], [16, 23.5], atol=1e-2)
        logs.append(-np.log2(affine[0, 0]))
    assert min(logs) >= -1.001
    assert max(logs) <= 1.001
    assert min(logs) < -0.8
    assert max(logs) > 0.8
    assert abs(np.mean(logs)) < 3 / np.sqrt(3 * COUNT)


def test_shear():
    """Rows shift along themselves, by at most the tangent of the angle."""
    batch = places(33, 48)
    tangents = []
    for affine in maps(batch, augmented(batch, shear=20.0)):
        tangent = affine[1, 0]
        np.testing.assert_allclose(affine[:, :2], [[1, 0], [tangent, 1]], atol=1e-3)
        np.testing.assert_allclose(affine @ [16, 23.5, 1], [16, 23.5], atol=1e-2)
        tangents.append(tangent)
    angles = np.rad2deg(np.arctan(tangents))
    assert 16 < max(angles) <= 20.01
    assert -16 > min(angles) >= -20.01
    assert abs(np.mean(angles)) < 3 * 20 / np.sqrt(3 * COUNT)


def test_translation():
    """By at most its share of each side, each axis by itself."""
    batch = places(30, 50)
    found = augmented(batch, translate=0.2)
    shifts = np.array([affine[:, 2] for affine in maps(batch, found)])
    for values, bound in zip(shifts.T, (6, 10), strict=True):
        assert 0.85 * bound < values.max() <= bound + 1e-2
        assert -0.85 * bound > values.min() >= -bound - 1e-2
        assert abs(values.mean()) < 3 * bound / np.sqrt(3 * COUNT)
    assert abs(np.corrcoef(shifts.T)[0, 1]) < 3 / np.sqrt(COUNT)


def test_elastic():
    """Smooth displacements, of the deviation that the spline leaves of the control points'."""
    batch = places(40, 48)
    found = augmented(batch, elastic=2.0, elastic_spacing=16)
    inner = np.s_[:, 8:-8, 8:-8]
    moved = found.images[inner] - batch.images[inner]
    # At a control point its neighbours weigh 1/6, 2/3 and 1/6; half way 1/48, 23/48, 23/48, 1/48.
    at_point, between = 1 / 2, 2 * (1 + 23**2) / 48**2
    for rows, columns, expected in (
        (np.s_[8:9], np.s_[8:25:16], at_point**2),
        (np.s_[16:17], np.s_[16:17], between**2),
    ):
        deviation = moved[:, rows, columns].std()
        np.testing.assert_allclose(deviation, 2 * np.sqrt(expected), rtol=0.2)
    assert np.abs(moved.mean((0, 1, 2))).max() < 0.2
    assert np.abs(np.diff(moved, axis=1)).max() < 0.6
    assert np.abs(moved).max() > 2


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_magnified_objects_grow(scale):
    """An object's pixels grow by the square of the factor, in the labels and in the image."""
    rows, columns = np.mgrid[:96, :96] - 47.5
    disc = np.hypot(rows, columns) < 22
    images, labels = 255 * disc[None, ..., None].astype(np.uint8), disc[None].astype(np.int32)
    found = augmented(Batch(images, labels, np.ones_like(disc)[None]), scale=(scale, scale))
    for area in (found.labels[found.where].sum(), (found.images > 127.5).sum()):
        np.testing.assert_allclose(area, scale**2 * disc.sum(), rtol=0.03)


@pytest.mark.parametrize(("size", "crop"), [((24, 24), ()), ((17, 30), (12, 16))])
def test_labels_stay_on_their_image(size, crop):
    """Under all changes of place at once, each pixel's label, image and `where` are of one place.

    The label's pixel is the nearest to where the image was interpolated, and `where` is its own.
    """
    counts = np.random.default_rng(1).random(size) < 0.7
    options = {**PLACE, "crop_size": crop}
    found = augmented(places(*size), **options)
    partly = augmented(places(*size, where=counts), **options)
    rows, columns = np.divmod(found.labels, size[1])
    inside = found.where
    assert 0.3 < inside.mean() < 1
    for channel, place in enumerate((rows, columns)):
        assert np.abs(found.images[..., channel] - place)[inside].max() <= 0.5 + 1e-3
    np.testing.assert_array_equal(found.images[~inside], 0)
    assert_batch_equal(partly, found._replace(where=inside & counts.ravel()[found.labels]))


def test_outside_is_what_lies_outside():
    """Made half as large, an image fills the middle quarter, and nothing else counts."""
    batch = random_batch(2, 20, 12)._replace(where=np.ones((2, 20, 12), bool))
    found = augmented(batch, scale=(0.5, 0.5))
    inside = np.zeros((20, 12), bool)
    inside[5:15, 3:9] = True
    np.testing.assert_array_equal(found.where, np.broadcast_to(inside, (2, 20, 12)))
    assert not found.images[~found.where].any()


def test_labels_are_never_invented():
    """No label that the image lacks, inside or outside; no mean of two classes."""
    batch = shared_batch()
    batch = batch._replace(labels=np.where(batch.labels > 2, 200, 7).astype(np.uint8))
    found = augmented(batch, **EVERYTHING)
    assert not found.where.all()
    assert found.labels.dtype == np.uint8
    assert set(np.unique(found.labels)) == {7, 200}


def test_every_place_of_a_crop():
    """An unturned crop is a window of the image, and each of the 2x4 windows occurs."""
    batch = random_batch(1, 5, 9, channels=2)
    found = augmented(repeated(batch), crop_size=(4, 6))
    occurred = np.zeros((2, 4), int)
    for top, left in np.ndindex(2, 4):
        expected = [x[0, top : top + 4, left : left + 6] for x in batch[:3]]
        same = which_equal(found, expected)
        occurred[top, left] = same.sum()
    assert occurred.sum() == COUNT
    assert occurred.all(), occurred


def test_a_crop_sees_beyond_itself():
    """Made half as large, a crop shows what lies around it, as far as the image goes."""
    batch = random_batch(COUNT, 20, 20)._replace(where=np.ones((COUNT, 20, 20), bool))
    found = augmented(batch, crop_size=(10, 10), scale=(0.5, 0.5))
    # From the crop's first pixel at o, the image's pixels o - 4, o - 2, ..., o + 14 are taken.
    sizes = {sum(0 <= o - 4 + 2 * i < 20 for i in range(10)) for o in range(11)}
    assert sizes == {7, 8, 9, 10}
    assert set(found.where.any(2).sum(1)) == set(found.where.any(1).sum(1)) == sizes


@pytest.mark.parametrize("crop_size", [(9, 6), (6, 10), (20, 20)])
def test_a_crop_beyond_the_image(crop_size):
    with pytest.raises(ValueError, match=r"crop_size is \(\d+, \d+\), but images are \(8, 9\)"):
        augmented(random_batch(1, 8, 9), crop_size=crop_size)


# Light.


def test_light():
    """A normalised image times 1 +- contrast, plus +- brightness: one pair of numbers for all.

    Both are spread between their bounds, have nothing to do with each other, and leave the rest.
    """
    batch = random_batch(COUNT, 6, 9, channels=2)
    found = augmented(batch, normal=True, brightness=0.3, contrast=0.2)
    pairs = []
    for old, new in zip(np.asarray(normalise(batch).images), found.images, strict=True):
        factor, added = np.polyfit(old.ravel(), new.ravel(), 1)
        np.testing.assert_allclose(new, factor * old + added, atol=1e-5)
        pairs.append((factor - 1, added))
    pairs = np.array(pairs)
    for values, bound in zip(pairs.T, (0.2, 0.3), strict=True):
        assert np.abs(values).max() <= bound + 1e-5
        assert values.min() < -0.85 * bound
        assert values.max() > 0.85 * bound
        assert abs(values.mean()) < 3 * bound / np.sqrt(3 * COUNT)
    assert abs(np.corrcoef(pairs.T)[0, 1]) < 3 / np.sqrt(COUNT)
    np.testing.assert_array_equal(found.labels, batch.labels)
    np.testing.assert_array_equal(found.where, batch.where)


def test_gamma():
    """Values in 0..1 to a power, whose logarithm is spread either way."""
    batch = random_batch(COUNT, 6, 9, channels=2)
    found = augmented(batch, gamma=0.5)
    values = batch.images / 255
    ordinary = (values > 0.1) & (values < 0.9)
    logs = []
    for old, new, where in zip(values, found.images / 255, ordinary, strict=True):
        exponents = np.log(new[where]) / np.log(old[where])
        np.testing.assert_allclose(exponents, exponents[0], rtol=1e-3)
        np.testing.assert_allclose(new, old ** exponents.mean(), atol=1e-4)
        logs.append(np.log(exponents.mean()) / np.log(1.5))
    assert 0.85 < max(logs) <= 1.001
    assert -0.85 > min(logs) >= -1.001
    assert abs(np.mean(logs)) < 3 / np.sqrt(3 * COUNT)


def in_yiq(image):
    return np.array([colorsys.rgb_to_yiq(*pixel) for pixel in image.reshape(-1, 3) / 255])


@pytest.mark.parametrize(("saturation", "hue"), [(0.4, 0.0), (0.0, 0.2), (0.4, 0.2)])
def test_colours(saturation, hue):
    """In YIQ, as the standard library has it, luma stays and colours turn and stretch."""
    batch = random_batch(COUNT, 3, 4, channels=3)
    found = augmented(batch, saturation=saturation, hue=hue)
    changes = []
    for old, new in zip(map(in_yiq, batch.images), map(in_yiq, found.images), strict=True):
        np.testing.assert_allclose(new[:, 0], old[:, 0], atol=1e-5)
        before, after = (x[:, 1] + 1j * x[:, 2] for x in (old, new))
        change = np.vdot(before, after) / np.vdot(before, before)
        np.testing.assert_allclose(after, change * before, atol=1e-5)
        changes.append(change)
    ranges = ((np.abs(changes) - 1, saturation), (np.angle(changes) / (2 * np.pi), hue))
    for values, bound in ranges:
        assert np.abs(values).max() <= bound + 1e-5
        assert values.min() <= -0.85 * bound + 1e-5
        assert values.max() >= 0.85 * bound - 1e-5
        assert abs(values.mean()) <= 3 * bound / np.sqrt(3 * COUNT) + 1e-5


def test_noise():
    """Gaussian, anew at each pixel and channel, and of up to the deviation asked for."""
    batch = random_batch(COUNT, 20, 20, channels=2)
    added = augmented(batch, noise=3.0).images - batch.images
    deviations = added.std((1, 2, 3))
    assert deviations.max() < 3.3
    assert deviations.max() > 2.5
    assert deviations.min() < 0.5
    np.testing.assert_allclose(deviations.mean(), 1.5, atol=3 * 3 / np.sqrt(12 * COUNT))
    unit = added / deviations[:, None, None, None]
    assert abs((unit**4).mean() - 3) < 0.1
    for neighbour in (unit[:, 1:] * unit[:, :-1], unit[..., :1] * unit[..., 1:]):
        assert abs(neighbour.mean()) < 0.02


def test_blur_equals_scipy():
    """A Gaussian of up to the width asked for, normalised over the pixels of the image."""
    batch = random_batch(16, 18, 15)._replace(sizes=np.full((16, 2), (14, 15), np.int32))
    found = augmented(batch, blur=1.5)
    inside = np.zeros((18, 15))
    inside[:14] = 1
    widths = np.linspace(0.01, 1.5, 299)

    def blurred(image, width):
        radius = {"mode": "constant", "radius": 5}
        return scipy.ndimage.gaussian_filter(image * inside, width, **radius)

    best = []
    for old, new in zip(batch.images[..., 0].astype(float), found.images[..., 0], strict=True):
        expected = [blurred(old, w)[:14] / blurred(np.ones(old.shape), w)[:14] for w in widths]
        errors = [np.abs(x - new[:14]).max() for x in expected]
        best.append(widths[np.argmin(errors)])
        assert min(errors) < 2
        assert not new[14:].any()
    assert max(best) > 1.2
    assert min(best) < 0.3


def test_blur_of_a_known_width():
    """All images by less than a hundredth of a pixel stay; labels and `where` do always."""
    batch = random_batch(4, 9, 8)
    assert_batch_equal(augmented(batch, blur=0.01), batch)


def test_cutout():
    """A box of 0 in the image, of at most its share of each side, anywhere; its pixels count."""
    batch = random_batch(COUNT, 20, 30)._replace(images=np.full((COUNT, 20, 30, 1), 200, np.uint8))
    found = augmented(batch, cutout=0.5)
    boxes = []
    for image in found.images[..., 0] == 0:
        rows, columns = np.flatnonzero(image.any(1)), np.flatnonzero(image.any(0))
        if rows.size:
            boxes.append((rows[0], rows[-1] + 1, columns[0], columns[-1] + 1))
            top, bottom, left, right = boxes[-1]
            assert image.sum() == (bottom - top) * (right - left)
            assert abs((bottom - top) / 20 - (right - left) / 30) < 0.05
    boxes = np.array(boxes)
    assert len(boxes) > 0.9 * COUNT
    heights = boxes[:, 1] - boxes[:, 0]
    assert 9 <= heights.max() <= 10
    assert heights.min() <= 2
    centres = boxes.reshape(-1, 2, 2).mean((0, 2))
    np.testing.assert_allclose(centres, (10, 15), rtol=0.2)
    assert boxes[:, 0].min() == 0
    assert boxes[:, 1].max() == 20
    assert boxes[:, 2].min() == 0
    assert boxes[:, 3].max() == 30
    np.testing.assert_array_equal(found.labels, batch.labels)
    np.testing.assert_array_equal(found.where, batch.where)


# Options.


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"rotate": -1.0}, "augment.rotate is -1.0, but must be at least 0"),
        ({"elastic": np.nan}, "augment.elastic is nan, but must be at least 0"),
        ({"noise": np.inf}, "augment.noise is inf, but must be at least 0"),
        ({"cutout": 1.5}, "augment.cutout is 1.5, but must lie in 0..1"),
        ({"mosaic": -0.1}, "augment.mosaic is -0.1, but must lie in 0..1"),
        ({"shear": 90.0}, "augment.shear is 90.0, but must be less than 90 degrees"),
        ({"elastic_spacing": 0}, "augment.elastic_spacing is 0, but must be at least 1 pixel"),
        ({"scale": (2.0, 1.0)}, "augment.scale is .2.0, 1.0., but must be .smallest, largest"),
        ({"scale": (0.0, 1.0)}, "augment.scale is .0.0, 1.0., but must be .smallest, largest"),
        ({"saturation": 0.1}, "are for RGB, but images have 1 channel"),
        ({"hue": 0.1}, "are for RGB, but images have 1 channel"),
        ({"flip_depth": True}, "flip_depth is for volumes, but images have two axes"),
        ({"crop_size": (4, 4, 4)}, "crop_size is .4, 4, 4., but images are .8, 9."),
    ],
    ids=lambda x: "-".join(x) if isinstance(x, dict) else "",
)
def test_options_that_make_no_sense(fields, line):
    batch = random_batch(2, 8, 9)
    keys = jax.random.split(jax.random.key(0), 2)
    with pytest.raises(ValueError, match=line):
        augment(batch, keys, Augment(**{**NOTHING, **fields}))


# Keys.


def test_the_key_decides():
    """The same keys give the same batch; other keys give another."""
    batch = shared_batch()
    first = augmented(batch, seed=1, **EVERYTHING)
    assert_batch_equal(augmented(batch, seed=1, **EVERYTHING), first)
    other = augmented(batch, seed=2, **EVERYTHING)
    assert all((a != b).any() for a, b in zip(first.images, other.images, strict=True))


def test_each_image_has_its_own_key():
    """One image under sixteen keys is sixteen images; a key changes its own image alone."""
    batch = repeated(shared_batch(), 16)
    keys = jax.random.split(jax.random.key(0), 16)
    first = compiled(**EVERYTHING)(batch, keys)
    assert len({image.tobytes() for image in np.asarray(first.images)}) == 16
    second = compiled(**EVERYTHING)(batch, keys.at[2].set(keys[4]))
    same = np.array(
        [np.array_equal(a, b) for a, b in zip(first.images, second.images, strict=True)]
    )
    np.testing.assert_array_equal(same, np.arange(16) != 2)
    np.testing.assert_array_equal(second.images[2], first.images[4])


def in_parts(run, parts):
    """The shared batch by `run` of it in parts, and as a whole."""
    batch = shared_batch()
    keys = jax.random.split(jax.random.key(7), 16)
    whole = augmented(batch, seed=7, **EVERYTHING)
    split = jax.tree.map(lambda x: x.reshape(parts, 16 // parts, *x.shape[1:]), (batch, keys))
    found = run(jax.vmap(function(**EVERYTHING)))(*split)
    return jax.tree.map(lambda x: np.asarray(x).reshape(16, *x.shape[2:]), found), whole


def by_devices(function):
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("replicas",))
    split = jax.sharding.PartitionSpec("replicas")
    mapped = jax.shard_map(function, mesh=mesh, in_specs=split, out_specs=split)
    return jax.jit(mapped, **QUICK)


def test_eight_devices_see_the_same_pictures():
    """However many devices share a batch: each pixel is of the same place, and of the same light.

    Compilers may round the light another way.
    """
    found, whole = in_parts(by_devices, 8)
    np.testing.assert_allclose(found.images, whole.images, rtol=1e-5, atol=1e-3)
    np.testing.assert_array_equal(found.labels, whole.labels)
    np.testing.assert_array_equal(found.where, whole.where)


def test_under_vmap():
    """A stack of batches is augmented as each by itself."""
    assert_batch_equal(*in_parts(functools.partial(jax.jit, **QUICK), 2))
