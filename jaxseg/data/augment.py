"""Normalisation and augmentation on the device, inside the step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.ndimage import map_coordinates

from jaxseg.batch import Batch
from jaxseg.config import Augment

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int, Num


def normalise(batch: Batch, mean: tuple[float, ...] = (), std: tuple[float, ...] = ()) -> Batch:
    """Brings uint8 images to float32 of about zero mean and unit deviation in each channel.

    With the `mean` and `std` of a data set, in 0..1, or without them by the statistics of each
    image over all its pixels, also those that don't count: what the model sees never depends on
    labels. Padding becomes 0, as what an augmentation brings in from outside the image.
    """
    images = batch.images.astype(jnp.float32) / 255.0
    channels = images.shape[-1]
    inside = jnp.ones((*batch.where.shape, 1), bool)
    if batch.sizes is not None:
        rows, columns = (lax.broadcasted_iota(jnp.int32, batch.where.shape, i) for i in (1, 2))
        height, width = (batch.sizes[:, i, None, None] for i in (0, 1))
        inside = ((rows < height) & (columns < width))[..., None]
    if mean or std:
        if len(mean) != channels or len(std) != channels:
            raise ValueError(
                f"mean {tuple(mean)} and std {tuple(std)} must have one number for each of the "
                f"{channels} channels, or none at all"
            )
        if min(std) <= 0:
            raise ValueError(f"std is {tuple(std)}, but must be positive in each channel")
        images = (images - jnp.asarray(mean)[None, None, None]) / jnp.asarray(std)[None, None, None]
    else:
        count = jnp.maximum(jnp.sum(inside, (1, 2), keepdims=True), 1)
        average = jnp.sum(images * inside, (1, 2), keepdims=True) / count
        images = images - average
        variance = jnp.sum(images**2 * inside, (1, 2), keepdims=True) / count
        # An even image stays 0: its deviation is below one grey level in 255.
        images = images / jnp.maximum(jnp.sqrt(variance), 1.0 / 255.0)
    return batch._replace(images=jnp.where(inside, images, 0.0))


def augment(batch: Batch, keys: Array, config: Augment) -> Batch:
    """Changes each normalised image at random, each by its own key.

    Flips, rotation, magnification and the crop's place are one affine map, so that pixels are
    interpolated once: images linearly, labels by the nearest. Pixels from outside the image don't
    count.
    """
    crop = tuple(config.crop_size) or batch.labels.shape[1:]
    if any(c > s for c, s in zip(crop, batch.labels.shape[1:], strict=True)):
        raise ValueError(
            f"augment.crop_size is {crop}, but images are {batch.labels.shape[1:]}; crop at most "
            "the whole image"
        )

    def one(image, labels, where, key):
        place, light = jax.random.split(key)
        rows, columns = _coordinates(place, labels.shape, crop, config)
        image, labels, where = _resample(image, labels, where, rows, columns)
        brightness, contrast = jax.random.uniform(light, (2,), minval=-1.0)
        image = image * (1.0 + config.contrast * contrast) + config.brightness * brightness
        return Batch(image, labels, where)

    return jax.vmap(one)(batch.images, batch.labels, batch.where, keys)


def _coordinates(key, size: tuple[int, int], crop: tuple[int, int], config: Augment):
    """Where in the image each pixel of the crop comes from: rows and columns, `[*crop]` each."""
    keys = jax.random.split(key, 6)
    low = jnp.zeros(2, jnp.int32)
    offset = jax.random.randint(keys[0], (2,), low, jnp.array(size) - jnp.array(crop) + 1)
    centre = jnp.array([(c - 1) / 2 for c in crop])

    turns = jax.random.randint(keys[1], (), 0, 4) if config.rotate90 else 0
    # Exact sines and cosines, so that right angles and flips move pixels without blurring them.
    cosine, sine = jnp.array([1, 0, -1, 0])[turns], jnp.array([0, 1, 0, -1])[turns]
    matrix = jnp.array([[cosine, -sine], [sine, cosine]], jnp.float32)
    if config.rotate:
        angle = jnp.deg2rad(jax.random.uniform(keys[2], (), minval=-1.0) * config.rotate)
        c, s = jnp.cos(angle), jnp.sin(angle)
        matrix = matrix @ jnp.array([[c, -s], [s, c]])
    if tuple(config.scale) != (1.0, 1.0):
        low, high = jnp.log(jnp.array(config.scale))
        matrix = matrix / jnp.exp(jax.random.uniform(keys[3], (), minval=low, maxval=high))
    for axis, flip in enumerate((config.flip_vertical, config.flip_horizontal)):
        if flip:
            sign = jnp.where(jax.random.bernoulli(keys[4 + axis]), -1.0, 1.0)
            matrix = matrix.at[:, axis].multiply(sign)

    grid = jnp.stack(jnp.meshgrid(*map(jnp.arange, crop), indexing="ij"), -1) - centre[None, None]
    moved = jnp.einsum("ij,hwj->ihw", matrix, grid, precision="highest")
    return moved + (offset + centre)[:, None, None]


def _resample(
    image: Float[Array, "height width channels"],
    labels: Int[Array, "height width"],
    where: Bool[Array, "height width"],
    rows: Float[Array, "*crop"],
    columns: Float[Array, "*crop"],
) -> tuple[Array, Array, Array]:
    """The image, labels and `where` at fractional coordinates."""
    height, width = labels.shape
    nearest = [jnp.floor(x + 0.5).astype(jnp.int32) for x in (rows, columns)]
    inside = (nearest[0] >= 0) & (nearest[0] < height) & (nearest[1] >= 0) & (nearest[1] < width)
    nearest = (jnp.clip(nearest[0], 0, height - 1), jnp.clip(nearest[1], 0, width - 1))

    def linear(channel: Num[Array, "height width"]):
        return map_coordinates(channel, [rows, columns], order=1, mode="nearest")

    image = jax.vmap(linear, in_axes=-1, out_axes=-1)(image)
    image = jnp.where(inside[..., None], image, 0.0)
    return image, labels[nearest], where[nearest] & inside
