"""Flipped and turned images, and the way back: for test-time augmentation."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp

if TYPE_CHECKING:
    from jaxtyping import Array, Shaped

KINDS = ("none", "flips", "dihedral")


class View(NamedTuple):
    """An exact change of arrays `[batch, *pixels, channels]`, and its inverse.

    Some axes are flipped, after the last two of the pixels are exchanged, or not.
    """

    flipped: tuple[int, ...]
    transposed: bool

    def __call__(
        self, images: Shaped[Array, "batch *pixels channels"]
    ) -> Shaped[Array, "batch *pixels channels"]:
        return jnp.flip(jnp.swapaxes(images, -3, -2) if self.transposed else images, self.flipped)

    def inverse(
        self, images: Shaped[Array, "batch *pixels channels"]
    ) -> Shaped[Array, "batch *pixels channels"]:
        images = jnp.flip(images, self.flipped)
        return jnp.swapaxes(images, -3, -2) if self.transposed else images


def views(kind: str, rank: int) -> tuple[View, ...]:
    """The views of images with so many axes of pixels; the first is the image itself.

    "none" has no other, "flips" those along any of the axes, and "dihedral" also right angles in
    the plane of the last two axes: a quarter turn is an exchange of them and a flip. They are what
    flips and right angles do in `augment`; only those that a model was trained with do it good.

    >>> len(views("flips", 2)), len(views("dihedral", 2)), len(views("flips", 3))
    (4, 8, 8)
    >>> turn = views("dihedral", 2)[5]
    >>> turn(jnp.array([[[[1], [2]], [[3], [4]]]]))[0, ..., 0].tolist()
    [[3, 1], [4, 2]]
    """
    if kind not in KINDS:
        raise ValueError(f"views is {kind!r}, but must be one of {', '.join(KINDS)}")
    axes = range(1, rank + 1) if kind != "none" else ()
    flips = [x for n in range(len(axes) + 1) for x in itertools.combinations(axes[::-1], n)]
    exchanges = (False, True) if kind == "dihedral" else (False,)
    return tuple(View(x, exchange) for exchange in exchanges for x in flips)
