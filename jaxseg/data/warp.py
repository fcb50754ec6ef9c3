"""The one resampling of images, labels and `where`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxseg.batch import Batch
from jaxseg.data.normalise import shares

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int

_BITS = 24  # of a fraction of a pixel, at most: as many as float32 holds


def warp(
    batch: Batch,
    matrix: Float[Array, "batch rank rank"],
    offset: Float[Array, "batch rank"],
    displacement: Float[Array, "batch rank *size"] | None = None,
    *,
    size: Sequence[int] = (),
    interpolate: bool = True,
) -> tuple[Batch, Bool[Array, " batch *size"]]:
    """Batch whose pixel p shows the place matrix p + offset + displacement of the old images.

    Images are interpolated linearly, and so are amounts of classes: of the shares of the pixels
    that count. Class indices and `where` are those of the nearest pixel. A place whose nearest
    pixel is outside the image, or in its padding, does not count; there, the image is 0. Returned
    with the batch, whose images are float32, is which pixels are inside. Without `interpolate`, all
    is of the nearest pixel, which for flips, right angles and shifts by whole pixels is exact.

    `size` is that of the result, by default as before. With the matrix and the offset the same,
    inside the images this is scipy.ndimage.affine_transform of order 1.

    >>> pixels = np.arange(4, dtype=np.uint8).reshape(1, 1, 4, 1)
    >>> batch = Batch(pixels, pixels[..., 0], np.ones((1, 1, 4), bool))
    >>> moved, inside = warp(batch, np.eye(2)[None], np.array([[0.0, 1.5]]))
    >>> moved.images.ravel().tolist(), moved.labels.tolist(), inside.tolist()
    ([1.5, 2.5, 0.0, 0.0], [[[2, 3, 3, 3]]], [[[True, True, False, False]]])
    """
    size = tuple(size) or batch.where.shape[1:]

    def one(image, labels, where, extent, matrix, offset, displacement):
        places, bits = _places(matrix, offset, displacement, size)
        nearest = [(x + ((1 << bits) >> 1)) >> bits for x in places]
        inside = jnp.ones(size, bool)
        for x, side in zip(nearest, extent, strict=True):
            inside &= (x >= 0) & (x < side)

        def pick(array: Array, places: list[Int[Array, "*size"]]):
            index = 0
            for x, side, stride in zip(places, extent, where.shape, strict=True):
                index = index * stride + jnp.clip(x, 0, jnp.maximum(side - 1, 0))
            flat = array.reshape(where.size, *array.shape[where.ndim :])
            return flat.at[index].get(mode="promise_in_bounds")

        def linear(array):
            mixed = 0.0
            for corner in itertools.product((0, 1), repeat=len(size)):
                weight = 1.0
                for x, far in zip(places, corner, strict=True):
                    share = (x & ((1 << bits) - 1)).astype(jnp.float32) * jnp.exp2(-bits)
                    weight = weight * (share if far else 1.0 - share)
                at = [(x >> bits) + far for x, far in zip(places, corner, strict=True)]
                mixed += pick(array, at).astype(jnp.float32) * weight[..., None]
            return mixed

        counts = pick(where, nearest) & inside
        image = linear(image) if interpolate else pick(image, nearest).astype(jnp.float32)
        if interpolate and labels.ndim > where.ndim:
            labels = shares(linear(jnp.where(where[..., None], shares(labels), 0.0)))
        else:
            labels = pick(labels, nearest)
        return Batch(jnp.where(inside[..., None], image, 0.0), labels, counts), inside

    extents = batch.sizes
    if extents is None:
        extents = jnp.broadcast_to(jnp.array(batch.where.shape[1:], jnp.int32)[None], offset.shape)
    return jax.vmap(one)(*batch[:3], extents, matrix, offset, displacement)


def _places(matrix, offset, displacement, size):
    """The old places of all new pixels, along each axis, in integers, and the bits of a fraction.

    In integers since a compiler rounds a sum of products in floating point one way here and
    another way there: the pixel to the left of a place and the share of the one to the right, each
    computed where it is used, would now and then not belong together.
    """
    sides = jnp.array(size, jnp.float32)
    furthest = jnp.abs(matrix) @ sides + jnp.abs(offset)
    if displacement is not None:
        furthest += jnp.max(jnp.abs(displacement), range(1, displacement.ndim))
    _, exponent = jnp.frexp(jnp.max(furthest) + 2.0)
    bits = jnp.clip(30 - exponent, 0, _BITS).astype(jnp.int32)

    def whole(x):
        return jnp.round(x * jnp.exp2(bits.astype(jnp.float32))).astype(jnp.int32)

    places = []
    for axis in range(len(size)):
        place = jnp.broadcast_to(whole(offset[axis]), size)
        for other in range(len(size)):
            place += whole(matrix[axis, other]) * lax.broadcasted_iota(jnp.int32, size, other)
        if displacement is not None:
            place += whole(displacement[axis])
        places.append(place)
    return places, bits


def smooth_field(
    controls: Float[Array, " axes *counts"], size: Sequence[int], spacing: int
) -> Float[Array, " axes *size"]:
    """The cubic B-spline of control points that are `spacing` pixels apart, at all pixels.

    The control points of an axis are `control_points(side, spacing)`, the second one at pixel 0.

    >>> smooth_field(jnp.array([[0.0, 6.0, 0.0, 0.0]]), (2,), 2).round(4).tolist()  # 4/6, 23/48
    [[4.0, 2.875]]
    """
    for side in size:
        # Replaces the first axis of control points by one of pixels, behind all others. What a
        # product of matrices returns is rounded once, so that `_places` finds it the same always.
        weights = jnp.asarray(_spline(side, spacing))
        controls = jnp.tensordot(controls, weights, (1, 1), precision="highest")
    return controls


def control_points(side: int, spacing: int) -> int:
    """How many control points an axis of `side` pixels has.

    >>> control_points(64, 32)  # at pixels -32, 0, 32, 64, 96
    5
    """
    return (side - 1) // spacing + 4


def _spline(side: int, spacing: int) -> np.ndarray:
    """The weight of each control point at each pixel."""
    distance = np.abs(
        np.arange(side)[:, None] / spacing - (np.arange(control_points(side, spacing)) - 1)[None]
    )
    near, far = 2 / 3 - distance**2 + distance**3 / 2, np.maximum(2 - distance, 0) ** 3 / 6
    return np.where(distance < 1, near, far).astype(np.float32)
