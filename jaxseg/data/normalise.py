"""The normal form of the numbers of a batch: of images, and of amounts of classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
from jax import lax

from jaxseg.batch import Batch

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Num, UInt

_LARGEST = {"uint8": 255.0, "uint16": 65535.0}


def normalise(batch: Batch, mean: tuple[float, ...] = (), std: tuple[float, ...] = ()) -> Batch:
    """Brings images to float32 of about zero mean and unit deviation in each channel.

    With the `mean` and `std` of a data set, in 0..1, or without them by the statistics of each
    image over all its pixels, also those that don't count: what the model sees never depends on
    labels. Padding becomes 0, as what an augmentation brings in from outside the image. Amounts of
    classes become shares; class indices stay.

    >>> import numpy as np
    >>> pixels = np.array([0, 255], np.uint8).reshape(1, 1, 2, 1)
    >>> batch = Batch(pixels, np.zeros((1, 1, 2), np.uint8), np.ones((1, 1, 2), bool))
    >>> normalise(batch).images.ravel().tolist(), normalise(batch, (0.5,), (0.25,)).images.tolist()
    ([-1.0, 1.0], [[[[-2.0], [2.0]]]])
    """
    images = standardise(batch.images, *statistics(batch, mean, std), inside(batch))
    soft = batch.labels.ndim > batch.where.ndim
    return batch._replace(images=images, labels=shares(batch.labels) if soft else batch.labels)


def largest(images: UInt[Array, "*shape"]) -> float:
    """The stored number that stands for the value 1."""
    if images.dtype.name not in _LARGEST:
        raise ValueError(f"images are {images.dtype}, but must be uint8 or uint16, as decoded")
    return _LARGEST[images.dtype.name]


def shares(amounts: Num[Array, "*pixels classes"]) -> Float[Array, "*pixels classes"]:
    """The share of each class in all that a pixel has; of none, all have the same.

    Such a pixel must not count, but loss functions want a distribution everywhere.

    >>> import numpy as np
    >>> shares(np.array([[1, 3], [0, 0]], np.uint8)).tolist()
    [[0.25, 0.75], [0.5, 0.5]]
    """
    amounts = amounts.astype(jnp.float32)
    total = jnp.sum(amounts, -1, keepdims=True)
    return jnp.where(total > 0, amounts / jnp.where(total > 0, total, 1.0), 1 / amounts.shape[-1])


def inside(batch: Batch) -> Bool[Array, " batch *pixels"]:
    """Which pixels are of the image, and not its padding."""
    found = jnp.ones(batch.where.shape, bool)
    if batch.sizes is not None:
        for axis, size in enumerate(batch.sizes.T, 1):
            place = lax.broadcasted_iota(jnp.int32, found.shape, axis)
            found &= place < size.reshape(-1, *(1,) * (found.ndim - 1))
    return found


def statistics(
    batch: Batch, mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[Float[Array, "#batch *ones channels"], Float[Array, "#batch *ones channels"]]:
    """The mean and deviation, in stored numbers, that are to become 0 and 1."""
    rank, channels, unit = batch.where.ndim - 1, batch.images.shape[-1], largest(batch.images)
    if mean or std:
        if len(mean) != channels or len(std) != channels:
            raise ValueError(
                f"mean {tuple(mean)} and std {tuple(std)} must have one number for each of the "
                f"{channels} channels, or none at all"
            )
        if min(std) <= 0:
            raise ValueError(f"std is {tuple(std)}, but must be positive in each channel")
        shape = (1,) * (rank + 1) + (channels,)
        return tuple(unit * jnp.asarray(x, jnp.float32).reshape(shape) for x in (mean, std))
    pixels = tuple(range(1, rank + 1))
    counts, images = inside(batch)[..., None], batch.images.astype(jnp.float32)
    count = jnp.maximum(jnp.sum(counts, pixels, keepdims=True), 1).astype(jnp.float32)
    average = jnp.sum(images * counts, pixels, keepdims=True) / count
    variance = jnp.sum((images - average) ** 2 * counts, pixels, keepdims=True) / count
    # An even image stays 0: its deviation is below one level as stored.
    return average, jnp.maximum(jnp.sqrt(variance), 1.0)


def standardise(
    images: Num[Array, "batch *pixels channels"],
    average: Float[Array, "#batch *ones channels"],
    deviation: Float[Array, "#batch *ones channels"],
    inside: Bool[Array, " batch *pixels"],
) -> Float[Array, "batch *pixels channels"]:
    """The images less the average, by the deviation, and 0 outside."""
    images = images.astype(jnp.float32)
    return jnp.where(inside[..., None], (images - average) / deviation, 0.0)
