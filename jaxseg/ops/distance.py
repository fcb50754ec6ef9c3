"""Exact Euclidean distances within masks, on the device."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxseg.ops import _masks as masks

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float


def distance_transform(
    mask: Bool[Array, "*shape"], *, spatial_rank: int = 2, spacing: Sequence[float] | None = None
) -> Float[Array, "*shape"]:
    """The Euclidean distance from each True pixel to the nearest False one, centre to centre.

    0 at False pixels, and inf throughout an image that has none; scipy, which agrees elsewhere,
    measures to a pixel before the first one there. The last `spatial_rank` axes are one image, and
    the axes before them a batch. `spacing` is the distance of neighbours along each spatial axis,
    1 by default; squared distances are then integers, and exact up to 2^24. Always float32.

    The time depends on the shape alone: it is proportional to the pixels times the sum of all
    spatial sides but the last. The memory is proportional to the pixels. The distance is separable
    (Saito and Toriwaki 1994, doi:10.1016/0031-3203(94)90133-3).

    >>> import jax.numpy as jnp
    >>> distance_transform(jnp.array([[0, 1, 1], [1, 1, 1]]) == 1)[1].tolist()  # 1, sqrt 2, sqrt 5
    [1.0, 1.4142135381698608, 2.2360680103302]
    """
    mask = masks.checked(mask, spatial_rank)
    sizes = np.ones(spatial_rank) if spacing is None else np.asarray(spacing, np.float64)
    if sizes.shape != (spatial_rank,) or not (np.isfinite(sizes) & (sizes > 0)).all():
        raise ValueError(
            f"spacing is {spacing} for spatial_rank {spatial_rank}, but must be {spatial_rank} "
            "positive numbers, one for each spatial axis"
        )
    return _distances(mask, tuple(sizes.tolist()))


@partial(jax.jit, static_argnames="spacing")
def _distances(mask: Array, spacing: tuple[float, ...]) -> Array:
    if mask.size == 0:
        return jnp.zeros(mask.shape, jnp.float32)
    *others, last = range(mask.ndim - len(spacing), mask.ndim)
    squared = (spacing[-1] * _along_line(mask, last)) ** 2
    for axis, step in zip(others, spacing[:-1], strict=True):
        squared = _lower_envelope(squared, axis, step)
    return jnp.sqrt(squared)


def _along_line(mask: Array, axis: int) -> Array:
    """The number of steps to the nearest False pixel on the same line, or inf."""
    length = mask.shape[axis]
    index = lax.broadcasted_iota(jnp.int32, mask.shape, axis)
    before = lax.cummax(jnp.where(mask, -length, index), axis)
    after = lax.cummin(jnp.where(mask, 2 * length, index), axis, reverse=True)
    steps = jnp.minimum(index - before, after - index)
    return jnp.where(steps < length, steps.astype(jnp.float32), jnp.inf)


def _lower_envelope(squared: Array, axis: int, step: float) -> Array:
    """The minimum over j of squared[j] + (step (i - j))^2, for each i along an axis.

    Every j is tried: envelopes of linear cost need a stack, and stacks need gathers. On two cores
    the transform then takes 0.6 to 1.7 of scipy's time at 512 x 512 and 0.2 at 64^3. A reduction
    over a new axis instead of the loop takes 4 times as long, and in 3D a copy for each j.
    """
    length = squared.shape[axis]
    line = tuple(length if a == axis else 1 for a in range(squared.ndim))
    index = lax.broadcasted_iota(jnp.float32, line, axis)

    def lower(j, lowest):
        steps = index - lax.convert_element_type(j, jnp.float32)
        return jnp.minimum(
            lowest, lax.dynamic_slice_in_dim(squared, j, 1, axis) + (step * steps) ** 2
        )

    return lax.fori_loop(0, length, lower, squared, unroll=4)
