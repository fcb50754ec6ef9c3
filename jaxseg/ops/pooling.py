"""Pooling of models."""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from jaxtyping import Array, Float


def max_pool(x: Float[Array, "batch *pixels channels"]) -> Float[Array, "batch *cells channels"]:
    """The maximum of each cell of side 2, by strided slices: faster than a window on CPU.

    The gradient is that of the first of its pixels that has it, as for `lax.reduce_window`, and
    once compiled it needs the number of that pixel alone. A NaN makes the cell NaN.

    >>> import jax.numpy as jnp
    >>> max_pool(jnp.arange(8.0).reshape(1, 2, 4, 1))[0, ..., 0].tolist()
    [[5.0, 7.0]]
    """
    x = jnp.asarray(x)
    if x.ndim < 3 or any(side % 2 for side in x.shape[1:-1]):
        raise ValueError(
            f"x is {list(x.shape)}, but must be [batch, sides, channels], with even sides; pad it"
        )
    return _max_pool(x)


@jax.custom_jvp
def _max_pool(x: Array) -> Array:
    return functools.reduce(jnp.maximum, _corners(x))


@_max_pool.defjvp
def _max_pool_jvp(primals, tangents):
    (x,), (tangent,) = primals, tangents
    first = _first(*_corners(x))
    return _max_pool(x), sum(jnp.where(first == i, y, 0) for i, y in enumerate(_corners(tangent)))


def _first(most: Array, *others: Array) -> Array:
    """The number of the first that has the maximum."""
    first = jnp.zeros(most.shape, jnp.uint8)
    for i, other in enumerate(others, 1):
        first = jnp.where(other > most, jnp.uint8(i), first)
        most = jnp.maximum(most, other)
    return first


def _corners(x: Array) -> list[Array]:
    """The pixels of each cell that lie at the same place in it, of all places."""
    places = itertools.product(range(2), repeat=x.ndim - 2)
    return [x[:, *(slice(i, None, 2) for i in place)] for place in places]
