"""The dense layer of models."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from jaxseg.ops.sharding import is_split

if TYPE_CHECKING:
    from jaxtyping import Array, Float


def dense(
    x: Float[Array, "*pixels before"], kernel: Float[Array, "before after"]
) -> Float[Array, "*pixels after"]:
    """The product of each pixel's channels with a kernel.

    Where JAX runs on a CPU with all pixels along one axis: for the gradient of the kernel XLA would
    otherwise transpose that of the answer first, which takes longer than the product. Not where XLA
    splits the work, as x lies or a mesh of the context says: it can't split that axis as it did
    those of pixels.

    >>> import jax.numpy as jnp
    >>> dense(jnp.ones((1, 2, 3)), jnp.array([[1.0, 0.0], [2.0, 0.0], [4.0, 8.0]])).tolist()
    [[[7.0, 8.0], [7.0, 8.0]]]
    """
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    if kernel.ndim != 2 or x.ndim == 0 or x.shape[-1] != kernel.shape[0]:
        raise ValueError(
            f"x is {list(x.shape)} and the kernel is {list(kernel.shape)}, but must be "
            "[..., before] and [before, after]"
        )
    if jax.default_backend() != "cpu" or is_split(x):
        return x @ kernel
    *pixels, before = x.shape
    return (x.reshape(math.prod(pixels), before) @ kernel).reshape(*pixels, kernel.shape[1])
