"""How far the surfaces of two masks are apart: distances, and agreement along boundaries.

`preds` and `labels` are masks, bool `[*images, *pixels]`: the last `spatial_rank` axes are one
image, two by default and three for volumes, and those before them a batch, such as images and
classes. Scores are float32 `[*images]`. The surface of a mask are its pixels with a neighbour
across a face that is not in it; beyond the image nothing is. Distances are Euclidean, between the
centres of pixels, in the units of `spacing`, that of neighbours along each axis (1 by default).
`where` marks the pixels that count: those outside are in neither mask.

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
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxseg import checks, ops

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int


def hausdorff(
    preds: Bool[Array, "*images_and_pixels"],
    labels: Bool[Array, "*images_and_pixels"],
    *,
    where: Bool[Array, "*images_and_pixels"] | None = None,
    spatial_rank: int = 2,
    spacing: Sequence[float] | None = None,
    empty: float = math.nan,
    missing: float = math.inf,
) -> Float[Array, "*images"]:
    """The largest distance from a pixel of either surface to the other surface.

    >>> import jax.numpy as jnp
    >>> labels = jnp.zeros((4, 6), bool).at[1, 1:3].set(True)
    >>> print(hausdorff(labels.at[1, 5].set(True), labels))  # from column 5 to column 2
    3.0
    """
    to = _distances(preds, labels, where, spatial_rank, spacing)
    values = jnp.maximum(_largest(to.labels, to.of_preds), _largest(to.preds, to.of_labels))
    return _resolved(values, to, empty, missing)


def hausdorff_95(
    preds: Bool[Array, "*images_and_pixels"],
    labels: Bool[Array, "*images_and_pixels"],
    *,
    where: Bool[Array, "*images_and_pixels"] | None = None,
    spatial_rank: int = 2,
    spacing: Sequence[float] | None = None,
    empty: float = math.nan,
    missing: float = math.inf,
) -> Float[Array, "*images"]:
    """The 95th percentile in place of the maximum in `hausdorff`, which one stray pixel decides.

    The larger of the percentiles of the two directions, each interpolated linearly as by
    `numpy.percentile`; not that of both directions together.

    >>> import jax.numpy as jnp
    >>> labels = jnp.zeros((4, 99), bool).at[1, :41].set(True)
    >>> print(hausdorff_95(labels.at[1, 90].set(True), labels))  # one of 42 pixels strays
    0.0
    """
    to = _distances(preds, labels, where, spatial_rank, spacing)
    values = jnp.maximum(
        _percentile(to.labels, to.of_preds, 95), _percentile(to.preds, to.of_labels, 95)
    )
    return _resolved(values, to, empty, missing)


def average_surface_distance(
    preds: Bool[Array, "*images_and_pixels"],
    labels: Bool[Array, "*images_and_pixels"],
    *,
    where: Bool[Array, "*images_and_pixels"] | None = None,
    spatial_rank: int = 2,
    spacing: Sequence[float] | None = None,
    empty: float = math.nan,
    missing: float = math.inf,
) -> Float[Array, "*images"]:
    """The mean distance to the other surface, over the pixels of both: symmetric.

    >>> import jax.numpy as jnp
    >>> labels = jnp.zeros((4, 6), bool).at[1, 1:3].set(True)
    >>> print(average_surface_distance(labels.at[1, 5].set(True), labels))  # 3 of one of 5
    0.6
    """
    to = _distances(preds, labels, where, spatial_rank, spacing)
    distances = _sum(to.labels, to.of_preds) + _sum(to.preds, to.of_labels)
    values = distances / jnp.maximum(_number(to.of_preds) + _number(to.of_labels), 1)
    return _resolved(values, to, empty, missing)


def normalized_surface_dice(
    preds: Bool[Array, "*images_and_pixels"],
    labels: Bool[Array, "*images_and_pixels"],
    tolerance: float,
    *,
    where: Bool[Array, "*images_and_pixels"] | None = None,
    spatial_rank: int = 2,
    spacing: Sequence[float] | None = None,
    empty: float = math.nan,
) -> Float[Array, "*images"]:
    """The share of the pixels of both surfaces that are within `tolerance` of the other.

    The tolerance has the units of `spacing`, and is what annotators differ by (Nikolov et al. 2018,
    arXiv:1809.04430, who weigh surface elements by their area; here all weigh alike).

    >>> import jax.numpy as jnp
    >>> labels = jnp.zeros((4, 6), bool).at[1, 1:3].set(True)
    >>> print(normalized_surface_dice(labels.at[1, 5].set(True), labels, 2.0))  # all but one of 5
    0.8
    """
    checks.amount("tolerance", tolerance)
    to = _distances(preds, labels, where, spatial_rank, spacing)
    near = _number(to.of_preds & (to.labels <= tolerance))
    near += _number(to.of_labels & (to.preds <= tolerance))
    values = near / jnp.maximum(_number(to.of_preds) + _number(to.of_labels), 1)
    return _resolved(values, to, empty, 0.0)


def boundary_iou(
    preds: Bool[Array, "*images_and_pixels"],
    labels: Bool[Array, "*images_and_pixels"],
    *,
    where: Bool[Array, "*images_and_pixels"] | None = None,
    spatial_rank: int = 2,
    width: float = 0.02,
    empty: float = math.nan,
) -> Float[Array, "*images"]:
    """The intersection over union of the inner bands of two masks along their boundaries.

    A band are the pixels of a mask that a square of side 2 d + 1 around them reaches out of, with d
    the nearest whole number to `width` times the diagonal of the image, and at least 1; the image's
    border is a boundary, too. It judges the contour of large objects, which the `iou` hardly sees
    (Cheng et al. 2021, arXiv:2103.16562).

    >>> import jax.numpy as jnp
    >>> labels = jnp.ones((3, 5), bool)
    >>> print(f"{boundary_iou(labels.at[:, 4].set(False), labels):.4f}")  # 9 / 13
    0.6923
    """
    checks.positive("width", width)
    preds, labels = _checked(preds, labels, where, spatial_rank)
    reach = max(1, round(width * math.hypot(*labels.shape[labels.ndim - spatial_rank :])))
    bands = [x & ~_eroded(x, spatial_rank, reach) for x in (preds, labels)]
    axes = tuple(range(labels.ndim - spatial_rank, labels.ndim))
    both, either = (jnp.sum(x, axes) for x in (bands[0] & bands[1], bands[0] | bands[1]))
    return jnp.where(either == 0, empty, both / jnp.maximum(either, 1))


class _Distances(NamedTuple):
    """The surfaces of two masks, flat, and of every pixel the distances to them."""

    of_preds: Bool[Array, "*images pixels"]
    of_labels: Bool[Array, "*images pixels"]
    preds: Float[Array, "*images pixels"]
    labels: Float[Array, "*images pixels"]


def _checked(preds, labels, where, spatial_rank: int) -> tuple[Array, Array]:
    """Both masks as arrays without the pixels outside `where`."""
    preds, labels = jnp.asarray(preds), jnp.asarray(labels)
    for name, mask in (("preds", preds), ("labels", labels)):
        if mask.dtype != jnp.bool_:
            raise TypeError(
                f"{name} are {mask.dtype}{list(mask.shape)}, but must be bool masks; compare "
                "first, as in labels == 1"
            )
    if preds.shape != labels.shape:
        raise ValueError(
            f"preds are {list(preds.shape)} and labels {list(labels.shape)}, but need one shape"
        )
    checks.whole("spatial_rank", spatial_rank)
    if spatial_rank > labels.ndim:
        raise ValueError(
            f"spatial_rank is {spatial_rank} for masks of shape {list(labels.shape)}, but must lie "
            f"in 1..{labels.ndim}: give the number of trailing axes that make one image"
        )
    where = checks.where(where, labels.shape)
    return (preds, labels) if where is None else (preds & where, labels & where)


def _distances(preds, labels, where, spatial_rank: int, spacing) -> _Distances:
    preds, labels = _checked(preds, labels, where, spatial_rank)
    spacing = None if spacing is None else tuple(map(float, spacing))
    return _measured(preds, labels, spatial_rank, spacing)


@partial(jax.jit, static_argnames=("spatial_rank", "spacing"))
def _measured(preds, labels, spatial_rank: int, spacing: tuple[float, ...] | None) -> _Distances:
    surfaces = [x & ~_inner(x, spatial_rank) for x in (preds, labels)]
    distances = [
        ops.distance_transform(~x, spatial_rank=spatial_rank, spacing=spacing) for x in surfaces
    ]
    images = labels.shape[: labels.ndim - spatial_rank]
    return _Distances(*(x.reshape(*images, -1) for x in (*surfaces, *distances)))


def _inner(mask: Array, spatial_rank: int) -> Array:
    """The pixels whose neighbours across all faces are in the mask, too."""
    axes = range(mask.ndim - spatial_rank, mask.ndim)
    inner = mask
    for axis in axes:
        inner &= _window(mask, axis, 1)
    return inner


def _eroded(mask: Array, spatial_rank: int, reach: int) -> Array:
    """The pixels around which a square of side 2 reach + 1 is in the mask."""
    for axis in range(mask.ndim - spatial_rank, mask.ndim):
        mask = _window(mask, axis, reach)
    return mask


def _window(mask: Array, axis: int, reach: int) -> Array:
    """Whether all pixels at most `reach` steps away along an axis are in the mask."""
    length = 2 * reach + 1
    mask = jnp.pad(mask, [(reach, reach) if a == axis else (0, 0) for a in range(mask.ndim)])
    done = 1  # the pixels from each on of which all are known to be in the mask
    while done < length:
        step = min(done, length - done)
        size = mask.shape[axis] - step
        mask = lax.slice_in_dim(mask, 0, size, axis=axis) & lax.slice_in_dim(
            mask, step, step + size, axis=axis
        )
        done += step
    return mask


def _number(surface: Array) -> Int[Array, "*images"]:
    return jnp.sum(surface, -1)


def _sum(distances: Array, surface: Array) -> Float[Array, "*images"]:
    return jnp.sum(jnp.where(surface, distances, 0.0), -1)


def _largest(distances: Array, surface: Array) -> Float[Array, "*images"]:
    return jnp.max(jnp.where(surface, distances, 0.0), -1, initial=0.0)


@partial(jax.jit, static_argnames="percent")
def _percentile(distances: Array, surface: Array, percent: int) -> Float[Array, "*images"]:
    """The percentile over the surface, interpolated linearly."""
    # The exact order statistic, bit by bit, since the bits of such floats are ordered as they are;
    # to sort takes longer, and neither the number nor the place of the pixels is known.
    bits = lax.bitcast_convert_type(distances, jnp.int32)
    last = jnp.maximum(_number(surface) - 1, 0)
    below, hundredths = jnp.divmod(percent * last, 100)

    def refine(i, found):
        candidate = found | (1 << (30 - i))
        smaller = _number(surface & (bits < candidate[..., None]))
        return jnp.where(smaller <= below, candidate, found)

    found = lax.fori_loop(0, 31, refine, jnp.zeros_like(below))
    lower = lax.bitcast_convert_type(found, jnp.float32)
    at_most = _number(surface & (bits <= found[..., None]))
    above = jnp.min(
        jnp.where(surface & (bits > found[..., None]), distances, jnp.inf), -1, initial=jnp.inf
    )
    upper = jnp.where((at_most > below + 1) | (below == last), lower, above)
    share = hundredths.astype(jnp.float32) / 100.0
    return jnp.where(hundredths > 0, (1.0 - share) * lower + share * upper, lower)


def _resolved(values: Array, to: _Distances, empty: float, missing: float) -> Array:
    """The values, and what the caller says of masks without a pixel."""
    of_preds, of_labels = (jnp.any(x, -1) for x in (to.of_preds, to.of_labels))
    values = jnp.where(of_preds & of_labels, values, missing)
    return jnp.where(of_preds | of_labels, values, empty).astype(jnp.float32)
