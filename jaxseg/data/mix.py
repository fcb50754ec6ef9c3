"""Pictures made of several: each image of a batch gets parts of those that follow it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import lax

from jaxseg.batch import Batch, Prepared
from jaxseg.config import Augment

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int, Key

OPTIONS = ("mosaic", "cutmix", "classmix", "copy_paste")


def mix(
    batch: Batch | Prepared,
    keys: Key[Array, " batch"],
    config: Augment,
    *,
    axis_name: str | None = None,
) -> Batch | Prepared:
    """Pastes parts of the images that follow in the global batch, each at its probability.

    Of the next image, as it is before it is mixed itself, and after the last one comes the first:

    - mosaic: the quarters, in the plane of the last two axes, are of this image and the next three,
      and meet anywhere (Bochkovskiy et al. 2020, arXiv:2004.10934);
    - cutmix: a box of any share of the image (Yun et al. 2019, arXiv:1905.04899);
    - classmix: half of its classes, rounded down, with all their pixels (Olsson et al. 2021,
      arXiv:2007.07936);
    - copy_paste: all that is not class 0 (Ghiasi et al. 2021, arXiv:2012.07177).

    Pixels come with their label and `where`; the last two paste none that does not count. The class
    of a distribution is its most probable one.

    >>> labels = jnp.array([[[0, 0]], [[0, 7]]])
    >>> batch = Batch(jnp.zeros((2, 1, 2, 3)), labels, jnp.ones((2, 1, 2), bool))
    >>> keys = jax.random.split(jax.random.key(0), 2)
    >>> mix(batch, keys, Augment(copy_paste=1.0)).labels.tolist()
    [[[0, 7]], [[0, 7]]]
    """
    wanted = [name for name in OPTIONS if getattr(config, name)]
    if not wanted:
        return batch
    others = [_following(batch, k, axis_name) for k in range(1, 4 if config.mosaic else 2)]
    pick = {"cutmix": _box_of_any_share, "classmix": _half_the_classes, "copy_paste": _objects}

    def one(own, others, key):
        for name, (chance, draw) in zip(
            wanted, jax.random.split(key, (len(wanted), 2)), strict=True
        ):
            happens = jax.random.uniform(chance, dtype=jnp.float32) < getattr(config, name)
            if name == "mosaic":
                parts = list(zip(others, _quarters(draw, own.where.shape), strict=True))
            else:
                parts = [(others[0], pick[name](draw, others[0]))]
            for other, part in parts:
                own = _paste(own, other, part & happens)
        return own

    return jax.vmap(one)(batch, others, keys)


def box(
    key: Key[Array, ""], shape: Sequence[int], share: Float[Array, ""]
) -> Bool[Array, "*shape"]:
    """A box of a share of each side, anywhere within."""
    sides = jnp.round(share * jnp.array(shape, jnp.float32)).astype(jnp.int32)
    room = jnp.array(shape, jnp.int32) - sides
    start = jax.random.randint(key, (len(shape),), 0, room + 1, jnp.int32)
    found = jnp.ones(shape, bool)
    for axis in range(len(shape)):
        place = lax.broadcasted_iota(jnp.int32, shape, axis)
        found &= (place >= start[axis]) & (place < start[axis] + sides[axis])
    return found


def _following(batch: Batch, rows: int, axis_name: str | None) -> Batch:
    """Each row's image `rows` further on in the global batch."""
    count = len(batch.images)
    if axis_name is None:
        return jax.tree.map(lambda x: jnp.roll(x, -rows, 0), batch)
    replicas = lax.axis_size(axis_name)
    ahead, rest = divmod(rows, count)

    def of_replica(x, ahead):
        pairs = [(source, (source - ahead) % replicas) for source in range(replicas)]
        return lax.ppermute(x, axis_name, pairs)

    def of_rows(x):
        parts = [of_replica(x[rest:], ahead)]
        if rest:
            parts.append(of_replica(x[:rest], ahead + 1))
        return jnp.concatenate(parts)

    return jax.tree.map(of_rows, batch)


def _paste(own: Batch, other: Batch, part: Bool[Array, "*pixels"]) -> Batch:
    def choose(a, b):
        return jnp.where(part.reshape(*part.shape, *(1,) * (a.ndim - part.ndim)), b, a)

    return jax.tree.map(choose, own, other)


def _quarters(key: Key[Array, ""], shape: Sequence[int]) -> list[Bool[Array, "*pixels"]]:
    """Three of the four parts around a point; the first is the image's own."""
    limits = jnp.array(shape[-2:], jnp.int32)
    row, column = jax.random.randint(key, (2,), 0, limits + 1, jnp.int32)
    lower = lax.broadcasted_iota(jnp.int32, shape, len(shape) - 2) >= row
    right = lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1) >= column
    return [~lower & right, lower & ~right, lower & right]


def _box_of_any_share(key: Key[Array, ""], other: Batch) -> Bool[Array, "*pixels"]:
    place, size = jax.random.split(key)
    share = jax.random.uniform(size, dtype=jnp.float32)  # of the pixels
    return box(place, other.where.shape, share ** (1 / other.where.ndim))


def _half_the_classes(key: Key[Array, ""], other: Batch) -> Bool[Array, "*pixels"]:
    classes = _classes(other)
    count = other.labels.shape[-1] if other.labels.ndim > other.where.ndim else 2**16
    if classes.dtype.itemsize == 1:
        count = min(count, 2**8)
    classes = classes.astype(jnp.int32)
    present = jnp.zeros(count, bool).at[classes].max(other.where, mode="drop")
    order = jnp.where(present, jax.random.uniform(key, (count,), jnp.float32), 2.0)
    half = jnp.sum(present) // 2
    chosen = jnp.zeros(count, bool).at[jnp.argsort(order)].set(jnp.arange(count) < half)
    return chosen.at[classes].get(mode="fill", fill_value=False) & other.where


def _objects(key: Key[Array, ""], other: Batch) -> Bool[Array, "*pixels"]:
    del key  # nothing here is random
    return (_classes(other) != 0) & other.where


def _classes(other: Batch) -> Int[Array, "*pixels"]:
    soft = other.labels.ndim > other.where.ndim
    return jnp.argmax(other.labels, -1) if soft else other.labels
