"""How devices share the work: whether XLA splits it, and what `jax.shard_map` keeps account of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import lax

if TYPE_CHECKING:
    from jaxtyping import Array, Float


def is_split(*arrays: Array) -> bool:
    """Whether XLA splits the work: as a mesh of the context says (`jax.set_mesh`) or arrays lie.

    Not by axes that have a name here, as in `jax.pmap` or `jax.shard_map`.
    """
    found = jax.sharding.get_abstract_mesh(), *(jax.typeof(x).sharding.mesh for x in arrays)
    # Rather than by their types, which jax 0.7 does not change in `jax.pmap`.
    return not all(_is_bound(name) for mesh in found for name in mesh.axis_names)


def _is_bound(name: str) -> bool:
    try:
        lax.axis_size(name)
    except NameError:
        return False
    return True


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
