"""Images to mean 0 and deviation 1, and amounts of classes to shares."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import Batch
from jaxseg.data import normalise


def assert_same_but_images(found, batch):
    np.testing.assert_array_equal(found.labels, batch.labels)
    np.testing.assert_array_equal(found.where, batch.where)


def random_batch(*pixels, dtype=np.uint8):
    rng = np.random.default_rng(0)
    shape = (4, *(pixels or (9, 7)))
    images = rng.integers(0, np.iinfo(dtype).max, (*shape, 3), dtype, endpoint=True)
    return Batch(images, np.zeros(shape, np.int32), rng.random(shape) < 0.6)


SIZES = np.array([[9, 7], [5, 7], [1, 2], [0, 0]], np.int32)


VOLUMES = np.array([[5, 4, 6], [2, 4, 5], [1, 2, 1], [0, 0, 0]], np.int32)


@pytest.mark.parametrize(
    ("batch", "sizes"),
    [
        (random_batch(), None),
        (random_batch(), SIZES),
        (random_batch(dtype=np.uint16), SIZES),
        (random_batch(5, 4, 6), VOLUMES),
    ],
    ids=["whole", "padded", "16-bit", "volumes"],
)
def test_normalised_by_its_own_pixels(batch, sizes):
    """Mean 0 and deviation 1 of each channel, over the pixels of the image; its padding is 0."""
    found = normalise(batch._replace(sizes=sizes))
    assert found.images.dtype == jnp.float32
    for row, (image, raw) in enumerate(zip(found.images, batch.images, strict=True)):
        inside = tuple(map(slice, raw.shape[:-1] if sizes is None else sizes[row]))
        pixels = raw[inside].reshape(-1, 3).astype(np.float64)
        expected = np.zeros(raw.shape)
        if pixels.size:
            deviation = np.maximum(pixels.std(0), np.iinfo(raw.dtype).max / 255)
            expected[inside] = (raw[inside] - pixels.mean(0)) / deviation
        np.testing.assert_allclose(image, expected, rtol=1e-5, atol=1e-5)
    assert_same_but_images(found, batch)


def test_labels_and_padding_normalise_nothing():
    """The model sees the same whatever counts, and whatever an image is padded with."""
    batch = random_batch()._replace(sizes=SIZES)
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
    batch = random_batch()._replace(images=np.full((4, 9, 7, 3), level, np.uint8))
    np.testing.assert_allclose(normalise(batch).images, 0, atol=1e-4)
    speck = batch.images.copy()
    speck[:, 4, 3] = abs(level - 1)
    found = normalise(batch._replace(images=speck)).images
    assert 0.9 < np.abs(found).max() <= 1 + 1e-5


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_normalised_by_given_numbers(dtype):
    """Mean and deviation are of images in 0..1, whatever their bits."""
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    batch = random_batch(dtype=dtype)
    values = batch.images.astype(float) / np.iinfo(dtype).max
    expected = (values - np.array(mean)) / np.array(std)
    found = normalise(batch, mean, std)
    assert found.images.dtype == jnp.float32
    np.testing.assert_allclose(found.images, expected, rtol=1e-5, atol=1e-6)
    assert_same_but_images(found, batch)


def test_deviation_of_zero():
    with pytest.raises(ValueError, match="must be positive in each channel"):
        normalise(random_batch(), (0.5,) * 3, (0.2, 0.0, 0.2))


@pytest.mark.parametrize(
    ("mean", "std"),
    [((0.5,), ()), ((), (0.5,)), ((0.5,), (0.2,)), ((0.5,) * 3, (0.2,)), ((0.5,) * 4, (0.2,) * 4)],
)
def test_numbers_for_other_channels(mean, std):
    """Both or none, one for each channel; never spread over the channels in silence."""
    with pytest.raises(ValueError, match="one number for each of the 3 channels"):
        normalise(random_batch(), mean, std)


@pytest.mark.parametrize("dtype", [np.uint8, np.float16])
def test_amounts_become_shares(dtype):
    """Each class's part of the sum at its pixel; where nothing is, a uniform distribution."""
    amounts = np.random.default_rng(1).integers(0, 4, (4, 9, 7, 3)).astype(dtype)
    amounts[0, 0, 0] = 0
    batch = random_batch()._replace(labels=amounts)
    found = normalise(batch)
    assert found.labels.dtype == jnp.float32
    total = amounts.astype(float).sum(-1, keepdims=True)
    expected = np.divide(amounts, total, where=total > 0, out=np.full(amounts.shape, 1 / 3))
    np.testing.assert_allclose(found.labels, expected, rtol=1e-6)
    np.testing.assert_array_equal(found.images, normalise(random_batch()).images)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_images_of_other_types(dtype):
    with pytest.raises(ValueError, match=f"images are {np.dtype(dtype)}, but must be uint8 or"):
        normalise(random_batch()._replace(images=np.zeros((4, 9, 7, 3), dtype)))
