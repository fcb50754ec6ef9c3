"""Augmentation on the device, inside the step."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.batch import Batch, Prepared
from jaxseg.config import Augment
from jaxseg.data import mix
from jaxseg.data.normalise import largest, shares, standardise, statistics
from jaxseg.data.warp import control_points, smooth_field, warp

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int, Key

# Of RGB to luma and two axes of colour, as the FCC defined YIQ in 1953.
_YIQ = np.array([[0.3, 0.59, 0.11], [0.599, -0.2773, -0.3217], [0.213, -0.5251, 0.3121]])


def augment(
    batch: Batch,
    keys: Key[Array, " batch"],
    config: Augment,
    *,
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
    axis_name: str | None = None,
    look: int = 0,
) -> Prepared:
    """Normalises images, with `mean` and `std` as `normalise` does, and changes each at random.

    An image's changes follow from its own key. In this order:

    - all that moves pixels is one map and one resampling, `warp`: a crop, flips and right angles,
      then rotation, shear and magnification about the centre of what is seen, translation, and a
      smooth displacement;
    - of values in 0..1: gamma, then saturation and hue, which scale and turn the plane of colours
      of YIQ and keep its luma;
    - of normalised values: contrast and brightness, blur, noise, cutout;
    - `mix` with the images that follow in the batch, over all replicas of `axis_name`.

    Images are normalised by the statistics that they had before; pixels from outside are 0 and
    don't count. Another `look` is of the same places, in other colours and light and with another
    hole. With nothing to change, this is `normalise`.

    >>> pixels = np.array([10, 20, 30, 40], np.uint8).reshape(1, 2, 2, 1)
    >>> batch = Batch(pixels, pixels[..., 0], np.ones((1, 2, 2), bool))
    >>> half = jax.jit(lambda batch, keys: augment(batch, keys, Augment(scale=(0.5, 0.5))))
    >>> keys = jax.random.split(jax.random.key(0), 1)
    >>> int(half(batch, keys).where.sum())  # of four pixels
    1
    """
    _check(batch, config)
    rank = batch.where.ndim - 1
    size = tuple(config.crop_size) or batch.where.shape[1:]
    extents = batch.sizes
    if extents is None:
        extents = jnp.broadcast_to(
            jnp.array(batch.where.shape[1:], jnp.int32)[None], (len(keys), rank)
        )
    unit, normal = largest(batch.images), statistics(batch, mean, std)

    place, elastic, colour, light, others = jax.vmap(lambda key: jax.random.split(key, 5))(keys).T
    if look:
        colour, light = (
            jax.vmap(lambda key: jax.random.fold_in(key, look))(keys) for keys in (colour, light)
        )
    matrix, offset = jax.vmap(lambda *x: _affine(*x, size, config))(place, extents)
    displacement = None
    if config.elastic:
        displacement = jax.vmap(lambda key: _displacement(key, size, config))(elastic)
    free = config.rotate or config.shear or config.translate or config.elastic
    interpolate = bool(free) or tuple(config.scale) != (1.0, 1.0)
    batch, inside = warp(batch, matrix, offset, displacement, size=size, interpolate=interpolate)
    if batch.labels.ndim > batch.where.ndim and not interpolate:
        batch = batch._replace(labels=shares(batch.labels))

    images = jax.vmap(lambda *x: _coloured(*x, unit, config))(colour, batch.images)
    images = standardise(images, *normal, inside)
    images = jax.vmap(lambda *x: _lit(*x, config))(light, images, inside)
    prepared = Prepared(images, batch.labels, batch.where, inside)
    return mix.mix(prepared, others, config, axis_name=axis_name)


def _uniform(key: Key[Array, ""], bound: float = 1.0, shape: Sequence[int] = ()) -> Array:
    """Between -bound and bound."""
    return jax.random.uniform(key, shape, jnp.float32, -bound, bound)


def _affine(key, extent: Int[Array, " rank"], size: tuple[int, ...], config: Augment):
    """The matrix and offset of the map from the new pixels to the places that they show.

    It is about the centres of what is seen, in the image and in the result: of the box of the image
    that a right angle turns to one that fits, at a random place. So an image that its array pads
    stays at the beginning of it, and one that is not square loses nothing that there is room for.
    """
    rank = len(size)
    turn, crop, flip, rotate, shear, magnify, move = jax.random.split(key, 7)
    turns = jax.random.randint(turn, (), 0, 4, jnp.int32) * config.rotate90
    swapped = jnp.array([*range(rank - 2), rank - 1, rank - 2])

    def turned(sides):
        return jnp.where(turns % 2 == 1, sides[swapped], sides)

    seen = jnp.minimum(turned(extent), jnp.array(size, jnp.int32))
    start = jax.random.randint(crop, (rank,), 0, extent - turned(seen) + 1, jnp.int32)
    source = start + 0.5 * (turned(seen) - 1).astype(jnp.float32)
    centre = 0.5 * (seen - 1).astype(jnp.float32)

    # Exact sines and cosines, so that right angles move pixels without blurring them.
    cosine, sine = jnp.array([[1, 0, -1, 0], [0, 1, 0, -1]], jnp.float32)[:, turns]
    matrix = _rotation(cosine, sine, rank, rank - 2, rank - 1)
    flips = (config.flip_depth, config.flip_vertical, config.flip_horizontal)[-rank:]
    flipped = jax.random.bernoulli(flip, 0.5, (rank,)) & jnp.array(flips)
    matrix = matrix * jnp.where(flipped, -1.0, 1.0).astype(jnp.float32)[None]

    pairs = list(itertools.combinations(range(rank), 2))
    if config.rotate:
        angles = _uniform(rotate, math.radians(config.rotate), (len(pairs),))
        for axes, angle in zip(pairs, angles, strict=True):
            matrix = _product(matrix, _rotation(jnp.cos(angle), jnp.sin(angle), rank, *axes))
    if config.shear:
        angles = _uniform(shear, math.radians(config.shear), (len(pairs),))
        for (i, j), angle in zip(pairs, angles, strict=True):
            matrix = _product(matrix, _identity(rank).at[j, i].set(jnp.tan(angle)))
    if tuple(config.scale) != (1.0, 1.0):
        low, high = map(math.log, config.scale)
        factor = jnp.exp(-jax.random.uniform(magnify, (), jnp.float32, low, high))
        matrix = _product(matrix, factor * _identity(rank))
    if config.translate:
        centre = centre + seen * _uniform(move, config.translate, (rank,))
    return matrix, source - _product(matrix, centre)


def _identity(rank: int) -> Float[Array, "rank rank"]:
    return jnp.eye(rank, dtype=jnp.float32)


def _product(a, b):
    return jnp.matmul(a, b, precision="highest")


def _rotation(cosine, sine, rank: int, i: int, j: int) -> Float[Array, "rank rank"]:
    """The rotation in the plane of two axes."""
    matrix = _identity(rank).at[i, i].set(cosine).at[j, j].set(cosine)
    return matrix.at[i, j].set(-sine).at[j, i].set(sine)


def _displacement(key, size: tuple[int, ...], config: Augment) -> Float[Array, " rank *size"]:
    spacing = config.elastic_spacing
    counts = [control_points(side, spacing) for side in size]
    controls = jax.random.normal(key, (len(size), *counts), jnp.float32)
    return smooth_field(config.elastic * controls, size, spacing)


def _coloured(key, image: Float[Array, "*pixels channels"], unit: float, config: Augment):
    """The image, of values in 0..unit, in other colours."""
    exponent, amount, angle = jax.random.split(key, 3)
    if config.gamma:
        image = unit * (image / unit) ** jnp.exp(_uniform(exponent, math.log1p(config.gamma)))
    if config.saturation or config.hue:
        factor = 1.0 + _uniform(amount, config.saturation)
        turn = _uniform(angle, 2 * math.pi * config.hue)
        change = _rotation(jnp.cos(turn), jnp.sin(turn), 3, 1, 2)
        change = change.at[1:, 1:].multiply(factor)
        into, back = jnp.asarray(_YIQ, jnp.float32), jnp.asarray(np.linalg.inv(_YIQ), jnp.float32)
        image = _product(image, _product(_product(back, change), into).T)
    return image


def _lit(key, image: Float[Array, "*pixels channels"], inside: Bool[Array, "*pixels"], config):
    """The normalised image in other light, less sharp, with noise and with a hole."""
    factor, added, width, amount, noise, hole, share = jax.random.split(key, 7)
    if config.contrast:
        image = image * (1.0 + _uniform(factor, config.contrast))
    if config.brightness:
        image = image + _uniform(added, config.brightness)
    if config.blur:
        sigma = jax.random.uniform(width, (), jnp.float32, 0.0, config.blur)
        image = _blurred(image, inside, sigma, math.ceil(3 * config.blur))
    if config.noise:
        scale = jax.random.uniform(amount, (), jnp.float32, 0.0, config.noise)
        image = image + scale * jax.random.normal(noise, image.shape, jnp.float32)
    if config.cutout:
        side = jax.random.uniform(share, (), jnp.float32, 0.0, config.cutout)
        inside = inside & ~mix.box(hole, inside.shape, side)
    return jnp.where(inside[..., None], image, 0.0)


def _blurred(image, inside, sigma, radius: int):
    """By a Gaussian of up to `radius` pixels to each side, over the pixels inside."""
    distance = jnp.arange(-radius, radius + 1, dtype=jnp.float32)
    weights = jnp.exp(-0.5 * (distance / jnp.maximum(sigma, 1e-3)) ** 2)

    def smooth(x):
        for axis in range(inside.ndim):
            pad = [(radius, radius) if i == axis else (0, 0) for i in range(x.ndim)]
            padded = jnp.pad(x, pad)
            x = sum(
                w * jax.lax.slice_in_dim(padded, k, k + x.shape[axis], axis=axis)
                for k, w in enumerate(weights)
            )
        return x

    counts = inside[..., None].astype(jnp.float32)
    return smooth(image * counts) / jnp.maximum(smooth(counts), 1e-12)


def _check(batch: Batch, config: Augment) -> None:
    """Raises ValueError for options that make no sense, or none for these images."""
    rank, channels = batch.where.ndim - 1, batch.images.shape[-1]
    amounts = ("rotate", "shear", "translate", "elastic", "brightness", "contrast", "saturation")
    amounts += ("hue", "gamma", "noise", "blur")
    for name in amounts:
        if not 0 <= getattr(config, name) < math.inf:
            raise ValueError(
                f"augment.{name} is {getattr(config, name)}, but must be at least 0: the largest "
                "change, either way"
            )
    for name in ("cutout", *mix.OPTIONS):
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"augment.{name} is {getattr(config, name)}, but must lie in 0..1")
    if not config.shear < 90:
        raise ValueError(f"augment.shear is {config.shear}, but must be less than 90 degrees")
    if config.elastic_spacing < 1:
        raise ValueError(
            f"augment.elastic_spacing is {config.elastic_spacing}, but must be at least 1 pixel"
        )
    low, high = config.scale if len(config.scale) == 2 else (0, 0)
    if not 0 < low <= high < math.inf:
        raise ValueError(
            f"augment.scale is {config.scale}, but must be (smallest, largest), positive"
        )
    if (config.saturation or config.hue) and channels != 3:
        raise ValueError(
            f"augment.saturation and augment.hue are for RGB, but images have {channels} "
            "channel(s); set both to 0"
        )
    if config.flip_depth and rank != 3:
        raise ValueError("augment.flip_depth is for volumes, but images have two axes; unset it")
    size = batch.where.shape[1:]
    crop = tuple(config.crop_size) or size
    if len(crop) != rank or not all(1 <= c <= s for c, s in zip(crop, size, strict=True)):
        raise ValueError(
            f"augment.crop_size is {crop}, but images are {size}; crop at most the whole image"
        )
