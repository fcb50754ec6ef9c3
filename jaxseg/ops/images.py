"""How a batch of images is worked on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
from jax import lax

if TYPE_CHECKING:
    from jaxtyping import Array, Shaped

# Numbers from which on an image is large.
_LARGE = 2**15


def each_image(
    function: Callable, *arrays: Shaped[Array, "*shape"] | None, batch_rank: int
) -> Shaped[Array, "*shape"]:
    """`function(*arrays)` of arrays whose first `batch_rank` axes are a batch, as is fastest.

    The function takes arrays with such axes and without them, and treats each image by itself. A
    CPU works on large images one by one: they stay in its cache, and a search ends when that of
    this image does. Where there are thousands of threads, they work on all at once.

    >>> import jax.numpy as jnp
    >>> each_image(lambda x: jnp.sum(x, -1), jnp.ones((2, 3)), batch_rank=1).tolist()
    [3.0, 3.0]
    """
    first, *_ = arrays
    batch = first.shape[:batch_rank]
    if not batch_rank or first.size < _LARGE * math.prod(batch) or not first.size:
        return function(*arrays)

    def one_by_one(*arrays):
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[batch_rank:]), arrays)
        found = lax.map(lambda images: function(*images), flat)
        return jax.tree.map(lambda x: x.reshape(*batch, *x.shape[1:]), found)

    return lax.platform_dependent(*arrays, cpu=one_by_one, default=function)
