"""Losses of logits at a lower resolution than the labels, as most architectures put them out.

Logits are `[images, *cells, classes]` and labels `[images, *pixels]` or `[images, *pixels,
classes]`, with one axis of cells for each of pixels: two for pictures, three for volumes. The value
is that of the loss of logits interpolated linearly to the labels' size, as by `jax.image.resize`
and by torch with align_corners=False. But they are interpolated, compared and differentiated some
rows at a time: logits of the full size, with many classes most of a training step's memory, never
exist.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxseg.losses import _pixels as pixels
from jaxseg.losses import divergences
from jaxseg.ops.sharding import alike, nothing

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int

# So many rows are done at once that they are a 32nd of the picture, or have as many elements as
# keep an accelerator busy; those of a CPU had better stay in its cache, for twice the speed.
_CHUNKS = 32
_ELEMENTS = {"cpu": 2**16}
_ELEMENTS_ELSEWHERE = 2**22


_SHAPES = {
    "logits": 'Float[Array, "images *cells classes"]',
    "labels": 'Int[Array, " images *pixels"] | Float[Array, "images *pixels classes"]',
    "where": 'Bool[Array, " images *pixels"] | None',
}


class _How(NamedTuple):
    """What is known at compile time."""

    loss: Callable
    options: tuple[tuple[str, object], ...]


def upsampled(loss: Callable) -> Callable:
    """Makes of a pixelwise loss one that takes logits at a lower resolution than the labels.

    The result has the signature of the loss, and its value, map and gradient for the interpolated
    logits. `where` is at the labels' resolution; logits that no pixel in it draws on are
    immaterial. Options of the loss must be hashable.

    >>> import jax.numpy as jnp
    >>> from jaxseg.losses import focal
    >>> logits = jnp.log(jnp.array([[[[0.25, 0.75]]]]))  # one cell for 2x2 pixels
    >>> value = upsampled(focal)(logits, jnp.array([[[1, 1], [1, 1]]]))
    >>> print(f"{value:.4f}")  # 0.25^2 log(4/3)
    0.0180
    """

    pixels.check_pixelwise("upsampled", loss)

    def of_cells(
        logits, labels, *, where=None, class_weights=None, reduce="mean", axis_name=None, **options
    ):
        logits, labels, where, class_weights = check(logits, labels, where, class_weights)
        if where is not None:
            logits = jnp.where(_drawn_on(where, logits.shape)[..., None], logits, 0)
        how = _How(loss, tuple(sorted(options.items())))
        try:
            hash(how)
        except TypeError:
            raise TypeError(
                f"options are {options}, but those of an upsampled loss must be hashable, such as "
                "numbers and tuples"
            ) from None
        arguments = alike(logits, labels, where, class_weights)
        if reduce is None:
            return _map(how, *arguments)
        return pixels.reduced(_sum(how, *arguments), _counts(*arguments), reduce, axis_name)

    of_cells.__annotations__ = loss.__annotations__ | _SHAPES
    signature = inspect.signature(loss)
    of_cells.__signature__ = signature.replace(
        parameters=[
            p.replace(annotation=of_cells.__annotations__[name])
            for name, p in signature.parameters.items()
        ]
    )
    of_cells.__name__ = of_cells.__qualname__ = f"upsample_{loss.__name__}"
    of_cells.__doc__ = (
        f"`{loss.__name__}` of logits interpolated to the labels' resolution; see `upsampled`."
    )
    return of_cells


def _map(how, logits, labels, where, class_weights):
    """The weighted map of the loss; a backward pass computes each chunk again."""

    @jax.checkpoint
    def of_chunk(chunk):
        rows = _rows(chunk, labels), _rows(chunk, where)
        return _map_of_rows(how, chunk, _cells(chunk, logits), *rows, class_weights)

    return _joined(lax.map(of_chunk, _chunks(logits.shape, labels.shape)), labels.shape[1])


def _sum_of(how, logits, labels, where, class_weights):
    """The sum of the weighted map."""

    def of_chunk(chunk):
        rows = _rows(chunk, labels), _rows(chunk, where)
        return _sum_of_rows(how, chunk, _cells(chunk, logits), *rows, class_weights)

    return jnp.sum(lax.map(of_chunk, _chunks(logits.shape, labels.shape)))


def _sum_forward(how, logits, labels, where, class_weights):
    """Keeps the gradients, which a chunk has at once with its value."""
    soft = jnp.issubdtype(labels.dtype, jnp.floating)

    def add_chunk(gradients, chunk):
        labelled, counts = _rows(chunk, labels), _rows(chunk, where)

        def of_chunk(inputs):
            cells, distributions, class_weights = inputs
            rows = distributions if soft else labelled, counts
            return _sum_of_rows(how, chunk, cells, *rows, class_weights)

        inputs = _cells(chunk, logits), labelled if soft else None, class_weights
        value, (of_cells, of_rows, of_weights) = jax.value_and_grad(of_chunk)(inputs)
        of_logits, of_all_weights = gradients
        of_cells += _cells(chunk, of_logits)
        of_logits = lax.dynamic_update_slice_in_dim(of_logits, of_cells, chunk.cell, 1)
        of_all_weights = jax.tree.map(jnp.add, of_all_weights, of_weights)
        return (of_logits, of_all_weights), (value, of_rows)

    zeros = jax.tree.map(
        lambda x: jnp.zeros_like(x) + nothing(x).astype(x.dtype),
        (pixels.wide(logits), class_weights),
    )
    chunks = _chunks(logits.shape, labels.shape)
    (of_logits, of_weights), (values, of_labels) = lax.scan(add_chunk, zeros, chunks)
    of_labels = _joined(of_labels, labels.shape[1]) if soft else None
    # An array of no elements tells a backward pass the logits' type.
    return jnp.sum(values), (of_logits, of_labels, of_weights, logits[:0])


def _sum_backward(how, kept, cotangent):
    *gradients, logits = kept
    of_logits, of_labels, of_weights = jax.tree.map(lambda x: cotangent * x, gradients)
    return pixels.narrow(of_logits, logits.dtype), of_labels, None, of_weights


def _counts(logits, labels, where, class_weights):
    """The sum of the pixels' weights, one for each chunk."""

    @jax.checkpoint
    def of_chunk(chunk):
        labelled = _rows(chunk, labels)
        shape = (*labelled.shape[: logits.ndim - 1], logits.shape[-1])
        where_ = _fresh(chunk, _rows(chunk, where), shape[:-1])
        dtype = pixels.wide(logits).dtype
        return jnp.sum(pixels.weights(labelled, where_, class_weights, shape, dtype))

    return lax.map(of_chunk, _chunks(logits.shape, labels.shape))


_sum = jax.custom_vjp(_sum_of, nondiff_argnums=(0,))
_sum.defvjp(_sum_forward, _sum_backward)
_map, _sum = (jax.jit(function, static_argnums=0) for function in (_map, _sum))
_counts = jax.jit(_counts)


def _map_of_rows(how, chunk, cells, labels, where, class_weights):
    """The map of the rows of a chunk, from the rows of cells that they draw on."""
    weights = chunk.weights.astype(cells.dtype)
    logits = jnp.einsum("pc,ic...->ip...", weights, cells, precision=lax.Precision.HIGHEST)
    for axis in range(2, logits.ndim - 1):
        logits = _stretched(logits, axis, labels.shape[axis])
    weighing = {"where": where, "class_weights": class_weights}
    values = how.loss(logits, labels, **weighing, reduce=None, **dict(how.options))
    pixels.check_map("upsampled", how.loss, values, labels, logits.shape[-1])
    return values


def _sum_of_rows(how, chunk, cells, labels, where, class_weights):
    """The sum of their map without the rows that an earlier chunk has, too."""
    where = _fresh(chunk, where, labels.shape[: cells.ndim - 1])
    return jnp.sum(_map_of_rows(how, chunk, cells, labels, where, class_weights))


def _fresh(chunk: _Chunk, where: Array | None, shape: tuple[int, ...]) -> Array | None:
    """`where` of the rows of a chunk, but for the rows that the one before has done."""
    if chunk.fresh is None:
        return where
    fresh = jnp.broadcast_to(chunk.fresh.reshape(1, -1, *[1] * (len(shape) - 2)), shape)
    return fresh if where is None else where & fresh


class _Chunk(NamedTuple):
    """Some rows of pixels. Stacked, all that a picture is done in."""

    pixel: Int[Array, ""]  # the first row
    cell: Int[Array, ""]  # the first row of the cells that they draw on
    weights: Float[Array, "rows cells"]  # of each row of pixels in each of cells
    fresh: Bool[Array, " rows"] | None  # False in the last chunk for rows of the one before it


def _chunks(logits: tuple[int, ...], labels: tuple[int, ...]) -> _Chunk:
    """Those of a picture, from the shapes of its logits and labels."""
    height, low, rank = labels[1], logits[1], len(logits)
    elements = labels[0] * math.prod(labels[2 : rank - 1]) * logits[-1]  # of a row
    enough = _ELEMENTS.get(jax.default_backend(), _ELEMENTS_ELSEWHERE)
    number = min(max(math.ceil(height / _CHUNKS), enough // max(elements, 1)), height)
    done = np.arange(0, height, number)
    start = np.minimum(done, height - number)
    rows = start[:, None] + np.arange(number)
    at = _positions(height, low)[rows]
    first, last = np.floor(at[:, 0]).astype(int), np.ceil(at[:, -1]).astype(int)
    reach = np.max(last - first) + 1
    first = np.minimum(first, low - reach)
    weights = _hat(at[:, :, None] - (first[:, None, None] + np.arange(reach)))
    fresh = rows >= done[:, None]
    return _Chunk(*map(jnp.asarray, (start, first, weights)), None if fresh.all() else fresh)


def _rows(chunk: _Chunk, x: Array | None) -> Array | None:
    """The rows of pixels of a chunk."""
    length = chunk.weights.shape[0]
    return None if x is None else lax.dynamic_slice_in_dim(x, chunk.pixel, length, 1)


def _cells(chunk: _Chunk, logits: Array) -> Array:
    """The rows of cells of a chunk, in float32 at least."""
    length = chunk.weights.shape[1]
    return pixels.wide(lax.dynamic_slice_in_dim(logits, chunk.cell, length, 1))


def _joined(chunks: Array, height: int) -> Array:
    """The whole picture of a map's chunks."""
    images, number = chunks.shape[1:3]
    before = len(chunks) - 1
    whole = jnp.moveaxis(chunks[:-1], 0, 1).reshape(images, before * number, *chunks.shape[3:])
    rest = height - before * number
    return jnp.concatenate([whole, chunks[-1][:, number - rest :]], 1)


def _stretched(x: Array, axis: int, length: int) -> Array:
    """Interpolates along an axis."""
    low = x.shape[axis]
    if length % low:
        weights = jnp.asarray(_hat(_positions(length, low)[:, None] - np.arange(low)), x.dtype)
        x = jnp.tensordot(x, weights, (axis, 1), precision=lax.Precision.HIGHEST)
        return jnp.moveaxis(x, -1, axis)
    # A whole number of pixels in each cell, which draw on it and a neighbour alone. Phase by phase,
    # for in this form the gradient, too, is made of shifted copies.
    number = length // low
    first, last = lax.slice_in_dim(x, 0, 1, axis=axis), lax.slice_in_dim(x, low - 1, low, axis=axis)
    padded = jnp.concatenate([first, x, last], axis)
    phases = []
    for offset in (np.arange(number) + 0.5) / number - 0.5:
        side = 0 if offset < 0 else 2
        neighbour = lax.slice_in_dim(padded, side, side + low, axis=axis)
        phases.append((1 - abs(offset)) * x + abs(offset) * neighbour)
    return jnp.stack(phases, axis + 1).reshape(*x.shape[:axis], length, *x.shape[axis + 1 :])


def _drawn_on(where: Array, logits: tuple[int, ...]) -> Bool[Array, " images *cells"]:
    """Whether any pixel that counts draws on a cell."""
    number = jnp.asarray(where, jnp.float32)
    for low, length in zip(logits[1:-1], where.shape[1:], strict=True):
        draws = _hat(_positions(length, low)[:, None] - np.arange(low)) > 0
        number = jnp.tensordot(number, jnp.asarray(draws, jnp.float32), (1, 0))
    return number > 0


def _positions(length: int, low: int) -> np.ndarray:
    """Where pixels lie among the cells' centres 0, 1, ..., no further out than the outermost."""
    return np.clip((np.arange(length) + 0.5) * low / length - 0.5, 0, low - 1)


def _hat(distance: np.ndarray) -> np.ndarray:
    """The weight of a cell at some distance, in linear interpolation."""
    return np.maximum(1 - np.abs(distance), 0)


def check(
    logits: Float[Array, "images *cells classes"],
    labels: Int[Array, " images *pixels"] | Float[Array, "images *pixels classes"],
    where: Bool[Array, " images *pixels"] | None,
    class_weights: Float[Array, " classes"] | None,
) -> tuple[Array, Array, Array | None, Array | None]:
    """The inputs of a loss as arrays; errors are those of any loss, or say that sizes misfit."""
    logits, labels = pixels.check_logits(logits), jnp.asarray(labels)
    size = labels.shape[: max(logits.ndim - 1, 0)]
    cells = logits.shape[:-1]
    fits = len(cells) == len(size) > 1 and cells[0] == size[0]
    if not fits or not all(0 < low <= full for low, full in zip(cells[1:], size[1:], strict=True)):
        raise ValueError(
            f"labels are {labels.dtype}{list(labels.shape)} for logits {list(logits.shape)}, but "
            "logits at low resolution need [images, *cells, classes] and labels of as many images, "
            "with at least as many pixels as there are cells along each axis"
        )
    return pixels.check(logits, labels, where, class_weights, size)


upsample_cross_entropy = upsampled(divergences.cross_entropy)
upsample_kl_divergence = upsampled(divergences.kl_divergence)
upsample_relative_entropy = upsampled(divergences.relative_entropy)
upsample_jeffreys = upsampled(divergences.jeffreys)
upsample_jensen_shannon = upsampled(divergences.jensen_shannon)
upsample_alpha_divergence = upsampled(divergences.alpha_divergence)
upsample_renyi_divergence = upsampled(divergences.renyi_divergence)
upsample_tsallis_divergence = upsampled(divergences.tsallis_divergence)
upsample_total_variation = upsampled(divergences.total_variation)
upsample_hellinger = upsampled(divergences.hellinger)
upsample_chi_squared = upsampled(divergences.chi_squared)
upsample_brier = upsampled(divergences.brier)
upsample_f_divergence = upsampled(divergences.f_divergence)
