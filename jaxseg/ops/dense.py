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
    x: Float[Array, "*pixels before"],
    kernel: Float[Array, "before after"],
    bias: Float[Array, " after"],
) -> Float[Array, "*pixels after"]:
    """The product of each pixel's channels with a kernel, and a bias.

    Where JAX runs on a CPU with all pixels along one axis: for the gradients of kernel and bias XLA
    would otherwise transpose, or copy, that of the answer first, which takes longer than they do.
    Not where XLA splits the work, as x lies or a mesh of the context says: it can't split that axis
    as it did those of pixels.

    >>> import jax.numpy as jnp
    >>> kernel, bias = jnp.array([[1.0, 0.0], [2.0, 0.0], [4.0, 8.0]]), jnp.array([0.0, 1.0])
    >>> dense(jnp.ones((1, 2, 3)), kernel, bias).tolist()
    [[[7.0, 9.0], [7.0, 9.0]]]
    """
    x, kernel, bias = map(jnp.asarray, (x, kernel, bias))
    if kernel.ndim != 2 or x.shape[-1:] != kernel.shape[:1] or bias.shape != kernel.shape[1:]:
        raise ValueError(
            f"x is {list(x.shape)}, the kernel is {list(kernel.shape)} and the bias is "
            f"{list(bias.shape)}, but must be [..., before], [before, after] and [after]"
        )
    if jax.default_backend() != "cpu" or is_split(x):
        return _added(x @ kernel, bias)
    *pixels, before = x.shape
    found = x.reshape(math.prod(pixels), before) @ kernel
    return _added(found, bias).reshape(*pixels, len(bias))


def _added(x: Array, bias: Array) -> Array:
    return x + jnp.expand_dims(bias, range(x.ndim - 1))
