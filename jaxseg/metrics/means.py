"""Means over the pixels or the images of a data set, of whatever can be said of one.

Sums of floats depend on the order of their summands in the last digits. These don't: the one adds
integers, and the other keeps the value of each image until all are there.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxseg import checks
from jaxseg.metrics import _counts
from jaxseg.metrics._counts import Counts

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int

# Fractions are summed in multiples of 2^-24: float32 from 1/2 on has no others.
_BITS = 24
# Numbers are cut in pieces of so many bits, of which int32 holds the sum of so many.
_PIECE = 12
_CHUNK = 2**18


class PixelMean(NamedTuple):
    """The mean over the pixels of a data set of a map, batch by batch.

    The map is that of a pixelwise loss, `reduce=None`: with `losses.cross_entropy` it is the
    negative log-likelihood in nats, and over log 2 the bits per pixel; with `losses.brier` the
    Brier score; with `losses.kl_divergence` that from a label distribution to the prediction. Its
    state is a pytree of integers, so that the result is the same for any batches, in any order, on
    any devices. Values from -2^31 to 2^31 are rounded to multiples of 2^-24, which below 1/2 is an
    error of 3e-8 at most and above none. `init()` is the state of nothing; `update(state, values,
    where=, axis_name=)`, which compiles, adds a batch of all replicas to it; `merge(*states)` adds
    states; and `compute(state)` is the mean, in float64 on the host, NaN without pixels, or with
    one that counts and is not finite.

    >>> import jax.numpy as jnp
    >>> metric = PixelMean()
    >>> state = metric.update(metric.init(), jnp.array([0.5, 2.0, 7.0]), where=jnp.arange(3) < 2)
    >>> print(metric.compute(state))
    1.25
    """

    def init(self) -> Counts:
        """The state of no pixels."""
        return _counts.zeros(7)

    def update(
        self,
        state: Counts,
        values: Float[Array, "*pixels"],
        *,
        where: Bool[Array, "*pixels"] | None = None,
        axis_name: str | None = None,
    ) -> Counts:
        """The state with the pixels of a batch, of up to 2^28 on each replica."""
        values = jnp.asarray(values)
        if not jnp.issubdtype(values.dtype, jnp.floating):
            raise TypeError(
                f"values are {values.dtype}{list(values.shape)}, but must be a map of a float "
                "dtype, as a loss with reduce=None is"
            )
        where = checks.where(where, values.shape)
        counts = jnp.ones(values.shape, bool) if where is None else where
        values = jnp.where(counts, values.astype(jnp.float32), 0.0).ravel()
        finite = jnp.abs(values) < 2.0**31
        values = jnp.where(finite, values, 0.0)
        whole = jnp.floor(values)
        fraction = jnp.round((values - whole) * 2.0**_BITS).astype(jnp.int32)
        whole, low = whole.astype(jnp.int32), (1 << _PIECE) - 1
        columns = (
            counts.ravel().astype(jnp.int32),
            (~finite).astype(jnp.int32),
            *(whole >> 2 * _PIECE, whole >> _PIECE & low, whole & low),
            *(fraction >> _PIECE, fraction & low),
        )
        chunks = max(1, math.ceil(values.size / _CHUNK))
        rest = -values.size % chunks
        rows = (jnp.pad(x, (0, rest)).reshape(chunks, -1) for x in columns)
        sums = [jnp.sum(x, 1, dtype=jnp.int32) for x in rows]
        new = _counts.summed(jnp.stack(sums, -1))
        return self.merge(state, new if axis_name is None else lax.psum(new, axis_name))

    def merge(self, *states: Counts) -> Counts:
        """The state of all pixels of some states."""
        return _counts.merge(*states)

    def compute(self, state: Counts) -> float:
        """The mean over the pixels that count."""
        number, wrong, *pieces = _counts.total(state).tolist()
        if wrong or not number:
            return math.nan
        total = 0
        for piece in pieces:
            total = (total << _PIECE) + piece
        return total / (number << _BITS)


class Rows(NamedTuple):
    """The state of `ByImage`: values that are 0 until they are there, and how often they are."""

    values: Float[Array, " images *shape"]
    seen: Int[Array, " images"]


class ByImage(NamedTuple):
    """The values of each image of a data set, batch by batch, in whatever order they come.

    For what is not counted in pixels, such as distances between surfaces; an image may have several
    values, in an array of a `shape`. Its state is a pytree that adds up, so that the result is the
    same for any batches, in any order, on any devices. `init()` is the state of nothing;
    `update(state, index, values, axis_name=)`, which compiles, adds a batch of all replicas to it;
    `merge(*states)` adds states; and `compute(state)` is the table, in float64 on the host, of
    which every mean is one of numpy's.

    >>> import jax.numpy as jnp
    >>> metric = ByImage(num_images=3)
    >>> late = metric.update(metric.init(), jnp.array([2]), jnp.array([0.5]))
    >>> early = metric.update(metric.init(), jnp.array([0, 1]), jnp.array([jnp.nan, 0.25]))
    >>> metric.compute(metric.merge(late, early)).tolist()
    [nan, 0.25, 0.5]
    """

    num_images: int
    shape: tuple[int, ...] = ()

    def init(self) -> Rows:
        """The state of no images."""
        images = self.num_images
        return Rows(jnp.zeros((images, *self.shape), jnp.float32), jnp.zeros(images, jnp.int32))

    def update(
        self,
        state: Rows,
        index: Int[Array, " batch"],
        values: Float[Array, " batch *shape"],
        *,
        axis_name: str | None = None,
    ) -> Rows:
        """The state with the images of a batch; an index outside 0..num_images-1 is padding."""
        index, values = jnp.asarray(index), jnp.asarray(values)
        if values.shape != (*index.shape, *self.shape) or index.ndim != 1:
            raise ValueError(
                f"index is {list(index.shape)} and values are {list(values.shape)}, but must be "
                f"[batch] and [batch{''.join(f', {n}' for n in self.shape)}]"
            )
        index = jnp.where(index < 0, self.num_images, index)  # or it would count from the end
        new = Rows(
            jnp.zeros_like(state.values).at[index].add(values, mode="drop"),
            jnp.zeros_like(state.seen).at[index].add(1, mode="drop"),
        )
        return self.merge(state, new if axis_name is None else lax.psum(new, axis_name))

    def merge(self, *states: Rows) -> Rows:
        """The state of all images of some states."""
        return Rows(*(sum(x) for x in zip(*states, strict=True)))

    def compute(self, state: Rows) -> Float[np.ndarray, " images *shape"]:
        """The values of all images; ValueError unless each was given once."""
        values, seen = (np.asarray(x) for x in state)
        wrong = np.flatnonzero(seen != 1)
        if wrong.size:
            raise ValueError(
                f"image {wrong[0]} was given {seen[wrong[0]]} times, but must be given once "
                f"({wrong.size} of {self.num_images} images were not)"
            )
        return values.astype(np.float64)
