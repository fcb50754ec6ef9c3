"""How devices share the work: whether XLA splits it, and what `jax.shard_map` keeps account of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from jaxtyping import Array, Float


def is_split(*arrays: Array) -> bool:
    """Whether XLA splits the work: as a mesh of the context says (`jax.set_mesh`) or arrays lie."""
    found = jax.sharding.get_abstract_mesh(), *(jax.typeof(x).sharding.mesh for x in arrays)
    return not all(mesh.empty or mesh.are_all_axes_manual for mesh in found)


def alike(*arrays: Array | None) -> list[Array | None]:
    """The arrays, those with gradients as varying over devices as any of them, for `jax.shard_map`.

    It would miss the sum over devices in the gradient of one that is the same on all.
    """
    zero = sum(nothing(x) for x in arrays if x is not None)
    return [
        x if x is None or not jnp.issubdtype(x.dtype, jnp.floating) else x + zero.astype(x.dtype)
        for x in arrays
    ]


def nothing(x: Array) -> Float[Array, ""]:
    """A zero that varies over devices as the array does."""
    return jnp.sum(x.ravel()[:0].astype(jnp.float32))
