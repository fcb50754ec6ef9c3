"""Scores where several raters labelled an image, and a model gives several samples of it."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import lax

from jaxseg import checks

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int


def generalised_energy_distance(
    preds: Int[Array, "*images_samples_pixels"],
    labels: Int[Array, "*images_raters_pixels"],
    num_classes: int,
    *,
    where: Bool[Array, "*images_and_pixels"] | None = None,
    spatial_rank: int = 2,
) -> Float[Array, "*images"]:
    """How far the samples of a model are from being drawn as the labels of the raters are.

    2 E d(S, Y) - E d(S, S') - E d(Y, Y') of samples S and labels Y, over all pairs, one with itself
    included. It is 0 if both are the same, and grows with samples that no rater would give as with
    raters that no sample stands for. The distance d is 1 minus the mean IoU of the classes from 1
    on that either of the two has, and 0 where neither has any; class 0 is background, as is every
    pixel outside `where` and every index outside 0..num_classes-1. The axis before the last
    `spatial_rank` counts samples, or raters, and those before it are a batch (Kohl et al. 2018,
    arXiv:1806.05034).

    >>> import jax.numpy as jnp
    >>> samples, raters = jnp.array([[[1, 1]], [[1, 0]]]), jnp.array([[[1, 1]]])
    >>> print(generalised_energy_distance(samples, raters, 2))  # 2 (0 + 1/2) / 2 - (1/2 + 1/2) / 4
    0.25
    """
    preds, labels = checks.indices("preds", preds), checks.indices("labels", labels)
    checks.whole("num_classes", num_classes, 2)
    checks.whole("spatial_rank", spatial_rank)
    for name, array, several in (("preds", preds, "samples"), ("labels", labels, "raters")):
        if array.ndim <= spatial_rank or not array.shape[-spatial_rank - 1]:
            raise ValueError(
                f"{name} are {list(array.shape)}, but with spatial_rank {spatial_rank} must be "
                f"[*images, {several}, *pixels] with at least one of {several}"
            )
    axis = -spatial_rank - 1
    shapes = [x.shape[:axis] + x.shape[axis + 1 :] for x in (preds, labels)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"preds are {list(preds.shape)} and labels {list(labels.shape)}, but need one "
            "shape, but for the number of samples and raters"
        )
    where = checks.where(where, shapes[0])
    return _energy(preds, labels, num_classes, where, spatial_rank)


@partial(jax.jit, static_argnames=("num_classes", "spatial_rank"))
def _energy(preds, labels, num_classes: int, where, spatial_rank: int) -> Array:
    axis = preds.ndim - spatial_rank - 1
    samples = preds.shape[axis]
    maps = jnp.concatenate([preds, labels], axis)
    if where is not None:
        counts = jnp.broadcast_to(jnp.expand_dims(where, axis), maps.shape)
        maps = jnp.where(counts, maps, 0)
    apart = _distances(
        maps.reshape(*maps.shape[: axis + 1], math.prod(maps.shape[axis + 1 :])), num_classes
    )
    across = jnp.mean(apart[..., :samples, samples:], (-2, -1))
    within = jnp.mean(apart[..., :samples, :samples], (-2, -1))
    return 2.0 * across - within - jnp.mean(apart[..., samples:, samples:], (-2, -1))


def _distances(maps: Int[Array, "*images maps pixels"], num_classes: int) -> Array:
    """One minus the mean IoU of any two maps, `[*images, maps, maps]`."""
    images = tuple(range(maps.ndim - 2))
    pixels = (maps.ndim - 1,)

    def add(sums, class_id):
        mask = (maps == class_id).astype(jnp.int8)
        both = lax.dot_general(
            mask, mask, ((pixels, pixels), (images, images)), preferred_element_type=jnp.int32
        )
        areas = jnp.diagonal(both, axis1=-2, axis2=-1)
        either = areas[..., :, None] + areas[..., None, :] - both
        # Not 1 - both / either, which would round a few pixels of many away.
        missed = ((either - both) / jnp.maximum(either, 1)).astype(jnp.float32)
        return (sums[0] + missed, sums[1] + (either > 0)), None

    # Class by class, since one-hot maps would take `num_classes` times the memory.
    shape = (*maps.shape[:-1], maps.shape[-2])
    zeros = jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.int32)
    (missed, number), _ = lax.scan(add, zeros, jnp.arange(1, num_classes))
    return missed / jnp.maximum(number, 1)
