"""Normalisation, and augmentation that moves images, labels and `where` as one."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import Batch
from jaxseg.config import Augment
from jaxseg.data import augment, normalise

NOTHING = {
    "flip_horizontal": False,
    "flip_vertical": False,
    "rotate90": False,
    "rotate": 0.0,
    "scale": (1.0, 1.0),
    "brightness": 0.0,
    "contrast": 0.0,
}
FLIPS = {"flip_horizontal": True, "flip_vertical": True}
EVERYTHING = {
    **FLIPS,
    "rotate90": True,
    "rotate": 30.0,
    "scale": (0.5, 2.0),
    "brightness": 0.3,
    "contrast": 0.2,
}


COUNT = 64


@functools.cache
def compiled(**fields):
    function = functools.partial(augment, config=Augment(**{**NOTHING, **fields}))
    # Compiling takes most of these tests' time, so that only one config gets all of it.
    options = {} if fields == EVERYTHING else {"xla_backend_optimization_level": 0}
    return jax.jit(function, compiler_options=options)


def augmented(batch, seed=0, **fields):
    """The augmented batch, as numpy arrays, each image with a key of its own."""
    keys = jax.random.split(jax.random.key(seed), len(batch.images))
    return jax.tree.map(np.asarray, compiled(**fields)(batch, keys))


def random_batch(count, height, width, channels=1, dtype=np.int32):
    rng = np.random.default_rng(0)
    return Batch(
        rng.normal(size=(count, height, width, channels)).astype(np.float32),
        rng.integers(0, 5, (count, height, width)).astype(dtype),
        rng.random((count, height, width)) < 0.8,
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
    images = np.stack([rows, columns], -1).astype(np.float32)
    labels = (rows * width + columns).astype(np.int32)
    where = np.broadcast_to(where, (height, width))
    return repeated(Batch(images[None], labels[None], where[None]))


def which_equal(batch, example):
    """Which images of a batch have the image, labels and `where` of the example."""
    return np.all(
        [[np.array_equal(a, b) for a in x] for x, b in zip(batch[:3], example, strict=True)], axis=0
    )


def assert_batch_equal(found, expected):
    for a, b in zip(found[:3], expected[:3], strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


# Geometry.


def test_nothing_changes_nothing():
    """Without any change asked for, images, labels and `where` are the same bit for bit."""
    batch = random_batch(COUNT, 6, 9, 2, np.uint8)
    assert_batch_equal(augmented(batch), batch)


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
    """A quarter turn about the centre keeps the middle square, exactly, and loses the ends."""
    batch = random_batch(1, 6, 10, 2)._replace(where=np.ones((1, 6, 10), bool))
    found = augmented(repeated(batch), rotate90=True)
    counts = np.zeros(4, int)
    middle = np.s_[:, 2:8]
    for image, labels, where in zip(*found[:3], strict=True):
        (k,) = (
            k
            for k in range(4)
            if np.array_equal(image[middle], np.rot90(batch.images[0][middle], k))
        )
        counts[k] += 1
        np.testing.assert_array_equal(labels[middle], np.rot90(batch.labels[0][middle], k))
        inside = np.ones((6, 10), bool)
        inside[:, [0, 1, 8, 9]] = k % 2 == 0
        np.testing.assert_array_equal(where, inside)
        assert not image[~inside].any()
    assert counts.all()


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


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_magnified_objects_grow(scale):
    """An object's pixels grow by the square of the factor, in the labels and in the image."""
    rows, columns = np.mgrid[:96, :96] - 47.5
    disc = np.hypot(rows, columns) < 22
    images, labels = disc[None, ..., None].astype(np.float32), disc[None].astype(np.int32)
    found = augmented(Batch(images, labels, np.ones_like(disc)[None]), scale=(scale, scale))
    for area in (found.labels[found.where].sum(), (found.images > 0.5).sum()):
        np.testing.assert_allclose(area, scale**2 * disc.sum(), rtol=0.03)


@pytest.mark.parametrize(("size", "crop"), [((24, 24), ()), ((17, 30), (12, 16))])
def test_labels_stay_on_their_image(size, crop):
    """Under all changes of place at once, each pixel's label, image and `where` are of one place.

    The label's pixel is the nearest to where the image was interpolated, and `where` is its own.
    """
    counts = np.random.default_rng(1).random(size) < 0.7
    options = {**EVERYTHING, "brightness": 0.0, "contrast": 0.0, "crop_size": crop}
    found = augmented(places(*size), **options)
    partly = augmented(places(*size, where=counts), **options)
    rows, columns = np.divmod(found.labels, size[1])
    inside = found.where
    assert 0.3 < inside.mean() < 1
    for channel, place in enumerate((rows, columns)):
        assert np.abs(found.images[..., channel] - place)[inside].max() <= 0.5 + 1e-3
    np.testing.assert_array_equal(found.images[~inside], 0)
    assert_batch_equal(partly[:2], found[:2])
    np.testing.assert_array_equal(partly.where, inside & counts.ravel()[found.labels])


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
    """An image times 1 +- contrast, plus +- brightness: one pair of numbers for all its pixels.

    Both are spread between their bounds, have nothing to do with each other, and leave the rest.
    """
    batch = random_batch(COUNT, 6, 9, channels=2)
    found = augmented(batch, brightness=0.3, contrast=0.2)
    pairs = []
    for old, new in zip(batch.images, found.images, strict=True):
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
    assert_batch_equal(found[1:3], batch[1:3])


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


def in_parts(function, parts):
    """The shared batch by `function` of it in parts, and as a whole."""
    batch = shared_batch()
    keys = jax.random.split(jax.random.key(7), 16)
    whole = augmented(batch, seed=7, **EVERYTHING)
    split = jax.tree.map(lambda x: x.reshape(parts, 16 // parts, *x.shape[1:]), (batch, keys))
    found = function(lambda batch, keys: augment(batch, keys, Augment(**EVERYTHING)))(*split)
    return jax.tree.map(lambda x: np.asarray(x).reshape(16, *x.shape[2:]), found), whole


def test_eight_devices_see_the_same_pictures():
    """However many devices share a batch, its images are the same, bit for bit."""
    assert_batch_equal(*in_parts(jax.pmap, 8))


def test_under_vmap():
    """A stack of batches is augmented as each by itself."""
    assert_batch_equal(*in_parts(lambda f: jax.jit(jax.vmap(f)), 2))


# Normalisation.


def bytes_batch(channels=3):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 9, 7, channels), dtype=np.uint8)
    return Batch(images, np.zeros((4, 9, 7), np.int32), rng.random((4, 9, 7)) < 0.6)


SIZES = np.array([[9, 7], [5, 7], [1, 2], [0, 0]], np.int32)


def test_normalised_by_its_own_pixels():
    """Mean 0 and deviation 1 of each channel, over the pixels of the image; its padding is 0."""
    for batch in (bytes_batch(), bytes_batch()._replace(sizes=SIZES)):
        found = normalise(batch)
        assert found.images.dtype == jnp.float32
        sizes = [(9, 7)] * 4 if batch.sizes is None else SIZES
        for image, raw, (height, width) in zip(found.images, batch.images, sizes, strict=True):
            pixels = raw[:height, :width].astype(np.float64)
            expected = np.zeros(raw.shape)
            if pixels.size:
                expected[:height, :width] = (pixels - pixels.mean((0, 1))) / pixels.std((0, 1))
            np.testing.assert_allclose(image, expected, rtol=1e-5, atol=1e-5)
        assert_batch_equal(found[1:3], batch[1:3])


def test_labels_and_padding_normalise_nothing():
    """The model sees the same whatever counts, and whatever an image is padded with."""
    batch = bytes_batch()._replace(sizes=SIZES)
    expected = np.asarray(normalise(batch).images)
    blind = batch._replace(labels=batch.labels + 1, where=np.zeros_like(batch.where))
    np.testing.assert_array_equal(normalise(blind).images, expected)
    padded = batch.images.copy()
    for image, (height, width) in zip(padded, SIZES, strict=True):
        image[height:], image[:, width:] = 255, 255
    for given in ((), ((0.4,) * 3, (0.2,) * 3)):
        first, second = (
            normalise(batch._replace(images=x), *given) for x in (batch.images, padded)
        )
        np.testing.assert_array_equal(first.images, second.images)
        np.testing.assert_array_equal(np.asarray(first.images)[1, 5:], 0)


@pytest.mark.parametrize("level", [0, 13, 255])
def test_an_even_image_stays_zero(level):
    """No division by a deviation of 0; and one grey level is at most one deviation."""
    batch = bytes_batch()._replace(images=np.full((4, 9, 7, 3), level, np.uint8))
    np.testing.assert_allclose(normalise(batch).images, 0, atol=1e-4)
    speck = batch.images.copy()
    speck[:, 4, 3] = abs(level - 1)
    found = normalise(batch._replace(images=speck)).images
    assert 0.9 < np.abs(found).max() <= 1 + 1e-5


def test_normalised_by_given_numbers():
    """Mean and deviation are of images in 0..1."""
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    batch = bytes_batch()
    expected = (batch.images / 255.0 - np.array(mean)) / np.array(std)
    found = normalise(batch, mean, std)
    assert found.images.dtype == jnp.float32
    np.testing.assert_allclose(found.images, expected, rtol=1e-5, atol=1e-6)
    assert_batch_equal(found[1:3], batch[1:3])


def test_deviation_of_zero():
    with pytest.raises(ValueError, match="must be positive in each channel"):
        normalise(bytes_batch(), (0.5,) * 3, (0.2, 0.0, 0.2))


@pytest.mark.parametrize(
    ("mean", "std"),
    [((0.5,), ()), ((), (0.5,)), ((0.5,), (0.2,)), ((0.5,) * 3, (0.2,)), ((0.5,) * 4, (0.2,) * 4)],
)
def test_numbers_for_other_channels(mean, std):
    """Both or none, one for each channel; never spread over the channels in silence."""
    with pytest.raises(ValueError, match="one number for each of the 3 channels"):
        normalise(bytes_batch(), mean, std)
