"""How far the surfaces of two masks are apart: distances, and agreement along boundaries.

`preds` and `labels` are masks, bool `[*images, *pixels]`: the last `spatial_rank` axes are one
image, two by default and three for volumes, and those before them a batch, such as images and
classes. `surface_distances` measures once what the scores, float32 `[*images]`, are made of. The
surface of a mask are its pixels with a neighbour across a face that is not in it; beyond the image
nothing is. `where` marks the pixels that count: those outside are in neither mask.

What is scored where a mask has no pixel is said by two arguments, and is never NaN by accident:

| | neither has one | one of the two has none |
|---|---|---|
| distances | `empty`, NaN by default | `missing`, inf by default |
| overlaps | `empty`, NaN by default | 0 |

So a mean over images that leaves NaN out is one over those that have something to find or to miss,
and a prediction that finds nothing is as bad as can be, not left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxseg import checks, ops

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int, Int16


class SurfaceDistances(NamedTuple):
    """The surfaces of two masks, and how far each of their pixels is from the other surface.

    The pixels of an image are one axis. Distances are those of the surface's own pixels; elsewhere
    they mean nothing.
    """

    of_preds: Bool[Array, "*images pixels"]  # the pixels of the surface
    of_labels: Bool[Array, "*images pixels"]
    to_preds: Float[Array, "*images pixels"]  # from the surface of the labels
    to_labels: Float[Array, "*images pixels"]  # from the surface of the predictions


def surface_distances(
    preds: Bool[Array, "*images_and_pixels"],
    labels: Bool[Array, "*images_and_pixels"],
    *,
    where: Bool[Array, "*images_and_pixels"] | None = None,
    spatial_rank: int = 2,
    spacing: Sequence[float] | None = None,
) -> SurfaceDistances:
    """The Euclidean distances between the centres of pixels of two surfaces.

    In the units of `spacing`, the distance of neighbours along each axis, 1 by default.

    >>> import jax.numpy as jnp
    >>> labels = jnp.zeros((4, 6), bool).at[1, 1:3].set(True)
    >>> found = surface_distances(labels.at[1, 5].set(True), labels)
    >>> found.to_labels[found.of_preds].tolist()  # from column 5 to column 2
    [0.0, 0.0, 3.0]
    """
    preds, labels = _masks(preds, labels, where, spatial_rank)
    spacing = None if spacing is None else tuple(map(float, spacing))
    return _measured(preds, labels, spatial_rank, spacing)


def hausdorff(
    distances: SurfaceDistances, *, empty: float = math.nan, missing: float = math.inf
) -> Float[Array, "*images"]:
    """The largest distance from a pixel of either surface to the other surface.

    >>> import jax.numpy as jnp
    >>> labels = jnp.zeros((4, 6), bool).at[1, 1:3].set(True)
    >>> print(hausdorff(surface_distances(labels.at[1, 5].set(True), labels)))
    3.0
    """
    return _scored(_hausdorff, distances, empty, missing)


def hausdorff_95(
    distances: SurfaceDistances, *, empty: float = math.nan, missing: float = math.inf
) -> Float[Array, "*images"]:
    """The 95th percentile in place of the maximum in `hausdorff`, which one stray pixel decides.

    The larger of the percentiles of the two directions, each interpolated linearly as by
    `numpy.percentile`; not that of both directions together.

    >>> import jax.numpy as jnp
    >>> labels = jnp.zeros((4, 99), bool).at[1, :41].set(True)
    >>> preds = labels.at[1, 90].set(True)  # one of 42 pixels strays
    >>> print(hausdorff_95(surface_distances(preds, labels)))
    0.0
    """
    return _scored(_hausdorff_95, distances, empty, missing)


def average_surface_distance(
    distances: SurfaceDistances, *, empty: float = math.nan, missing: float = math.inf
) -> Float[Array, "*images"]:
    """The mean distance to the other surface, over the pixels of both: symmetric.

    >>> import jax.numpy as jnp
    >>> labels = jnp.zeros((4, 6), bool).at[1, 1:3].set(True)
    >>> preds = labels.at[1, 5].set(True)
    >>> print(average_surface_distance(surface_distances(preds, labels)))  # 3 of one of 5
    0.6
    """
    return _scored(_average, distances, empty, missing)


def normalized_surface_dice(
    distances: SurfaceDistances, tolerance: float, *, empty: float = math.nan
) -> Float[Array, "*images"]:
    """The share of the pixels of both surfaces that are within `tolerance` of the other.

    The tolerance has the units of the distances, and is what annotators differ by (Nikolov et al.
    2018, arXiv:1809.04430, who weigh surface elements by their area; here all weigh alike).

    >>> import jax.numpy as jnp
    >>> labels = jnp.zeros((4, 6), bool).at[1, 1:3].set(True)
    >>> preds = labels.at[1, 5].set(True)
    >>> print(normalized_surface_dice(surface_distances(preds, labels), 2.0))  # all but one of 5
    0.8
    """
    checks.amount("tolerance", tolerance)
    # A distance of three steps of 0.3 is as near as 0.9, but in float32 a digit more.
    within = tolerance * (1.0 + 4.0 * float(jnp.finfo(jnp.float32).eps))
    return _scored(_share_within, distances, empty, within)


def boundary_iou(
    preds: Bool[Array, "*images_and_pixels"],
    labels: Bool[Array, "*images_and_pixels"],
    *,
    where: Bool[Array, "*images_and_pixels"] | None = None,
    spatial_rank: int = 2,
    sizes: Int[Array, "*images rank"] | None = None,
    width: float = 0.02,
    empty: float = math.nan,
) -> Float[Array, "*images"]:
    """The intersection over union of the inner bands of two masks along their boundaries.

    A band are the pixels of a mask that a square of side 2 d + 1 around them reaches out of, with d
    the nearest whole number to `width` times the diagonal of the image, and at least 1; the image's
    border is a boundary, too. `sizes` are the sides of each image where the arrays are padded. It
    judges the contour of large objects, which the `iou` hardly sees (Cheng et al. 2021,
    arXiv:2103.16562).

    >>> import jax.numpy as jnp
    >>> labels = jnp.ones((3, 5), bool)
    >>> print(f"{boundary_iou(labels.at[:, 4].set(False), labels):.4f}")  # 9 / 13
    0.6923
    """
    checks.positive("width", width)
    preds, labels = _masks(preds, labels, where, spatial_rank)
    images = labels.shape[: labels.ndim - spatial_rank]
    if sizes is None:
        sizes = jnp.broadcast_to(jnp.array(labels.shape[len(images) :]), (*images, spatial_rank))
    sizes = jnp.asarray(sizes)
    if sizes.shape != (*images, spatial_rank):
        raise ValueError(
            f"sizes are {list(sizes.shape)}, but must be {[*images, spatial_rank]}: the sides of "
            "each image"
        )
    return _boundary_iou(preds, labels, sizes, spatial_rank, float(width), empty)


@partial(jax.jit, static_argnames=("spatial_rank", "width"))
def _boundary_iou(preds, labels, sizes, spatial_rank: int, width: float, empty) -> Array:
    diagonals = jnp.sqrt(jnp.sum(jnp.square(sizes.astype(jnp.float32)), -1))
    reach = jnp.maximum(1, jnp.round(width * diagonals).astype(jnp.int32))

    def score(preds, labels, reach):
        bands = [x & ~_eroded(x, reach) for x in (preds, labels)]
        both, either = (jnp.sum(x) for x in (bands[0] & bands[1], bands[0] | bands[1]))
        return jnp.where(either == 0, empty, both / jnp.maximum(either, 1)).astype(jnp.float32)

    def scores(*images):
        function = score
        for _ in images[-1].shape:
            function = jax.vmap(function)
        return function(*images)

    return ops.each_image(scores, preds, labels, reach, batch_rank=labels.ndim - spatial_rank)


def _masks(preds, labels, where, spatial_rank: int) -> tuple[Array, Array]:
    """Both masks as arrays without the pixels outside `where`."""
    preds = checks.mask("preds", preds, spatial_rank)
    labels = checks.mask("labels", labels, spatial_rank)
    if preds.shape != labels.shape:
        raise ValueError(
            f"preds are {list(preds.shape)} and labels {list(labels.shape)}, but need one shape"
        )
    where = checks.where(where, labels.shape)
    return (preds, labels) if where is None else (preds & where, labels & where)


@partial(jax.jit, static_argnames=("spatial_rank", "spacing"))
def _measured(preds, labels, spatial_rank: int, spacing: tuple[float, ...] | None):
    def measure(preds, labels):
        axes = tuple(range(labels.ndim - spatial_rank, labels.ndim))
        surfaces = [x & ~_inner(x, spatial_rank) for x in (preds, labels)]
        # Where there is nothing to measure to, the search would go through the whole image.
        both = jnp.any(preds, axes, keepdims=True) & jnp.any(labels, axes, keepdims=True)

        def distances(of, to):
            found = ops.distance_transform(
                ~to, where=of & both, spatial_rank=spatial_rank, spacing=spacing
            )
            return jnp.where(both, found, jnp.inf)

        found = (*surfaces, distances(surfaces[1], surfaces[0]), distances(*surfaces))
        images = labels.shape[: labels.ndim - spatial_rank]
        pixels = math.prod(labels.shape[len(images) :])
        return SurfaceDistances(*(x.reshape(*images, pixels) for x in found))

    return ops.each_image(measure, preds, labels, batch_rank=labels.ndim - spatial_rank)


def _inner(mask: Array, spatial_rank: int) -> Array:
    """The pixels whose neighbours across all faces are in the mask, too."""
    inner = mask
    for axis in range(mask.ndim - spatial_rank, mask.ndim):
        border = [(1, 1) if a == axis else (0, 0) for a in range(mask.ndim)]
        padded = jnp.pad(mask, border)
        for start in (0, 2):
            inner &= lax.slice_in_dim(padded, start, start + mask.shape[axis], axis=axis)
    return inner


def _eroded(mask: Array, reach: Array) -> Array:
    """The pixels around which a square of side 2 reach + 1 is in the mask."""
    width = 2 * reach + 1
    for axis in range(mask.ndim):
        length = mask.shape[axis]
        border = [(length, length) if a == axis else (0, 0) for a in range(mask.ndim)]

        def shifted(mask, step, axis=axis, length=length, border=border):
            start = length + jnp.clip(step, -length, length)
            return lax.dynamic_slice_in_dim(jnp.pad(mask, border), start, length, axis)

        def widen(state, shifted=shifted):
            done, all_after = state  # whether so many pixels from each on are in the mask
            step = jnp.minimum(done, width - done)
            return done + step, all_after & shifted(all_after, step)

        state = jnp.minimum(width, 1), mask
        _, all_after = lax.while_loop(lambda state: state[0] < width, widen, state)
        mask = shifted(all_after, -reach)
    return mask


@partial(jax.jit, static_argnames="score")
def _scored(score: Callable, distances: SurfaceDistances, *values) -> Float[Array, "*images"]:
    def of_images(*arrays):
        return score(SurfaceDistances(*arrays), *values).astype(jnp.float32)

    return ops.each_image(of_images, *distances, batch_rank=distances.of_preds.ndim - 1)


def _hausdorff(distances: SurfaceDistances, empty, missing) -> Array:
    return _resolved(_larger(_largest, distances), distances, empty, missing)


def _hausdorff_95(distances: SurfaceDistances, empty, missing) -> Array:
    values = _larger(partial(_percentile, percent=95), distances)
    return _resolved(values, distances, empty, missing)


def _average(distances: SurfaceDistances, empty, missing) -> Array:
    total = _sum(distances.to_labels, distances.of_preds)
    total += _sum(distances.to_preds, distances.of_labels)
    return _resolved(total / _pixels_of_both(distances), distances, empty, missing)


def _share_within(distances: SurfaceDistances, empty, within) -> Array:
    near = _number(distances.of_preds & (distances.to_labels <= within))
    near += _number(distances.of_labels & (distances.to_preds <= within))
    return _resolved(near / _pixels_of_both(distances), distances, empty, 0.0)


def _larger(score: Callable, distances: SurfaceDistances) -> Array:
    """The larger score of the two directions."""
    return jnp.maximum(
        score(distances.to_labels, distances.of_preds),
        score(distances.to_preds, distances.of_labels),
    )


def _number(surface: Array) -> Int[Array, "*images"]:
    return jnp.sum(surface, -1, dtype=jnp.int32)


def _sum(distances: Array, surface: Array) -> Float[Array, "*images"]:
    return jnp.sum(jnp.where(surface, distances, 0.0), -1)


def _largest(distances: Array, surface: Array) -> Float[Array, "*images"]:
    return jnp.max(jnp.where(surface, distances, 0.0), -1, initial=0.0)


def _percentile(distances: Array, surface: Array, percent: int) -> Float[Array, "*images"]:
    """The percentile over the surface, interpolated linearly."""
    # The exact order statistic, as the bits of such floats are ordered as they are: to sort takes
    # longer, and neither the number nor the place of the pixels is known. First of the high and
    # then of the low half: twice as many fit into a register.
    bits = lax.bitcast_convert_type(distances, jnp.int32)
    last = jnp.maximum(_number(surface) - 1, 0)
    # percent * last / 100, with no product of more than int32 holds.
    whole, rest = jnp.divmod(last, 100)
    below, hundredths = jnp.divmod(percent * rest, 100)
    below += percent * whole
    high, low = ((x - 2**15).astype(jnp.int16) for x in (bits >> 16, bits & 0xFFFF))
    leading = _of_rank(high, surface, below)
    smaller = surface & (high < leading[..., None])
    alike = surface & (high == leading[..., None])
    found = ((leading.astype(jnp.int32) + 2**15) << 16) + 2**15
    found += _of_rank(low, alike, below - _number(smaller))
    lower = lax.bitcast_convert_type(found, jnp.float32)
    at_most = _number(surface & (bits <= found[..., None]))
    above = jnp.min(
        jnp.where(surface & (bits > found[..., None]), distances, jnp.inf), -1, initial=jnp.inf
    )
    upper = jnp.where((at_most > below + 1) | (below == last), lower, above)
    share = hundredths.astype(jnp.float32) / 100.0
    return jnp.where(hundredths > 0, (1.0 - share) * lower + share * upper, lower)


def _of_rank(
    values: Int16[Array, "*images pixels"],
    surface: Bool[Array, "*images pixels"],
    rank: Int[Array, "*images"],
) -> Int16[Array, "*images"]:
    """The value at a place, from 0 on, in the order of those on the surface."""
    # Counted column by column in int16, which a CPU does in less than half of the time.
    images, pixels = values.shape[:-1], values.shape[-1]
    columns = max(512, math.ceil(pixels / 2**14))
    rows = math.ceil(pixels / columns)
    border = [(0, 0)] * len(images) + [(0, rows * columns - pixels)]
    least, most = (jnp.int16(x) for x in (-(2**15), 2**15 - 1))
    highest = jnp.max(jnp.where(surface, values, least), -1)
    values = jnp.pad(jnp.where(surface, values, most), border, constant_values=most)
    values = values.reshape(*images, rows, columns)

    def unfinished(bracket):
        low, high = bracket
        return jnp.any(low < high)

    def halve(bracket):
        low, high = bracket
        middle = ((low.astype(jnp.int32) + high) >> 1).astype(jnp.int16)
        up_to = jnp.sum(values <= middle[..., None, None], -2, dtype=jnp.int16)
        above = jnp.sum(up_to, -1, dtype=jnp.int32) <= rank
        return jnp.where(above, middle + 1, low), jnp.where(above, high, middle)

    return lax.while_loop(unfinished, halve, (jnp.min(values, (-2, -1)), highest))[0]


def _pixels_of_both(distances: SurfaceDistances) -> Int[Array, "*images"]:
    """The number of pixels of both surfaces, at least 1."""
    return jnp.maximum(_number(distances.of_preds) + _number(distances.of_labels), 1)


def _resolved(values: Array, distances: SurfaceDistances, empty, missing) -> Array:
    """The values, and what the caller says of masks without a pixel."""
    found = jnp.any(distances.of_preds, -1), jnp.any(distances.of_labels, -1)
    values = jnp.where(found[0] & found[1], values, missing)
    return jnp.where(found[0] | found[1], values, empty)
