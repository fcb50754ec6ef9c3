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

    Not within `jax.shard_map` and `jax.pmap`, nor by an axis of the arrays that has a name here.
    """
    context = jax.sharding.get_abstract_mesh()
    # In `jax.pmap` of jax 0.7 arrays lie as they do outside, but for the name of its axis.
    axes = {name for x in arrays for name in jax.typeof(x).sharding.mesh.axis_names}
    return not (
        (context.empty or context.are_all_axes_manual) and all(_is_bound(name) for name in axes)
    )


def _is_bound(name: str) -> bool:
    try:
        lax.axis_size(name)
    except NameError:
        return False
    return True


def alike(*arrays: Array | None) -> list[Array | None]:
    """The arrays, those with gradients as varying over devices as any of them, for `jax.shard_map`.

    It would miss the sum over devices in the gradient of one that is the same on all. Elsewhere
    they stay as they are: `jax.vmap` takes what depends on what it maps for mapped.
    """
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return [*arrays]
    zero = sum(nothing(x) for x in arrays if x is not None)
    return [
        x if x is None or not jnp.issubdtype(x.dtype, jnp.floating) else x + zero.astype(x.dtype)
        for x in arrays
    ]


def nothing(x: Array) -> Float[Array, ""]:
    """A zero that varies over devices as the array does."""
    return jnp.sum(x.ravel()[:0].astype(jnp.float32))
