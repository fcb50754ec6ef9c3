"""Connected components of masks, on the device."""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import lax

from jaxseg import checks

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Int


def connected_components(
    mask: Bool[Array, "*shape"], *, spatial_rank: int = 2, connectivity: int = 1
) -> tuple[Int[Array, "*shape"], Int[Array, "*batch"]]:
    """Numbers the connected components of True pixels in each image, and counts them.

    False pixels are 0; components are 1, 2, ... in the order of their first pixels, row by row, as
    scipy.ndimage.label has them. The last `spatial_rank` axes are one image, and the axes before
    them a batch, whose images are numbered each by itself. Pixels are neighbours if they differ by
    at most 1 along at most `connectivity` axes: 1 joins faces, `spatial_rank` corners too. For at
    most 2^31 - 1 pixels a call, the range of int32.

    Components are trees that hook onto their lowest neighbour and are then flattened by pointer
    jumping (algorithm S of Liu and Tarjan 2019, arXiv:1812.06177). O(log^2 pixels) rounds suffice,
    whatever the shapes: a spiral takes fewer than noise does. Meant for masks that are on the
    device already: on two cores, scipy is 6 to 20 times as fast.

    >>> import jax.numpy as jnp
    >>> labels, count = connected_components(jnp.array([[0, 1, 0], [1, 0, 1], [1, 0, 0]]) == 1)
    >>> labels.tolist(), count.item()
    ([[0, 1, 0], [2, 0, 3], [2, 0, 0]], 3)
    """
    mask = checks.mask("mask", mask, spatial_rank)
    if not 1 <= connectivity <= spatial_rank:
        raise ValueError(
            f"connectivity is {connectivity} for spatial_rank {spatial_rank}, but must lie in "
            f"1..{spatial_rank}: 1 joins faces, {spatial_rank} corners too"
        )
    labels, count, _ = _components(mask, spatial_rank, connectivity)
    return labels, count


@partial(jax.jit, static_argnames=("spatial_rank", "connectivity"))
def _components(mask: Array, spatial_rank: int, connectivity: int) -> tuple[Array, Array, Array]:
    """Labels, counts, and the number of rounds of pointer jumping that they took.

    Pixels are numbered through the whole batch, so that one flat array holds all trees; no two
    images share a tree, because no neighbourhood crosses them.
    """
    index = lax.iota(jnp.int32, mask.size)
    batch = mask.ndim - spatial_rank
    by_image = (*mask.shape[:batch], math.prod(mask.shape[batch:]))

    def lowest(roots):
        around = _lowest_around(roots.reshape(mask.shape), mask, spatial_rank, connectivity)
        return around.reshape(-1)

    def unfinished(state):
        roots, lower, _ = state
        return jnp.any(lower < roots)

    def hook(state):
        roots, lower, rounds = state
        roots, jumps = _flatten(roots.at[roots].min(lower))
        return roots, lowest(roots), rounds + jumps

    roots, rounds = _flatten(lowest(index))
    roots, _, rounds = lax.while_loop(unfinished, hook, (roots, lowest(roots), rounds))
    first = (mask.reshape(-1) & (roots == index)).reshape(by_image)
    numbers = jnp.cumsum(first, -1, dtype=jnp.int32).reshape(-1)
    labels = jnp.where(mask, numbers[roots].reshape(mask.shape), 0)
    return labels, jnp.sum(first, -1, dtype=jnp.int32), rounds


def _lowest_around(roots: Array, mask: Array, spatial_rank: int, connectivity: int) -> Array:
    """The lowest root of a True pixel and its True neighbours; a False pixel keeps its own."""
    batch = mask.ndim - spatial_rank
    none = jnp.int32(jnp.iinfo(jnp.int32).max)
    border = [(0, 0, 0)] * batch + [(1, 1, 0)] * spatial_rank
    padded = lax.pad(jnp.where(mask, roots, none), none, border)
    lower = roots
    for offset in itertools.product((-1, 0, 1), repeat=spatial_rank):
        if 1 <= sum(map(abs, offset)) <= connectivity:
            start = (0,) * batch + tuple(1 + step for step in offset)
            stop = tuple(a + b for a, b in zip(start, mask.shape, strict=True))
            lower = jnp.minimum(lower, lax.slice(padded, start, stop))
    return jnp.where(mask, lower, roots)


def _flatten(parents: Array) -> tuple[Array, Array]:
    """Points every pixel of every tree at its root, and counts the rounds that this took."""

    def unfinished(state):
        parents, grandparents, _ = state
        return jnp.any(grandparents != parents)

    def jump(state):
        _, parents, rounds = state
        return parents, parents[parents], rounds + 1

    roots, _, rounds = lax.while_loop(unfinished, jump, (parents, parents[parents], jnp.int32(1)))
    return roots, rounds
