"""A function of images of one size, taken to images of any size."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxseg import checks

if TYPE_CHECKING:
    from jaxtyping import Array, Float

# Below which no Gaussian weight falls, or what a corner says would be lost in few bits.
_LEAST = 1e-3


def sliding_windows(
    function: Callable[[Float[Array, "windows *size channels"]], Float[Array, "windows *size n"]],
    images: Float[Array, "batch *pixels channels"],
    size: Sequence[int],
    *,
    overlap: float = 0.25,
    weights: Literal["gaussian", "constant"] = "gaussian",
    windows_at_once: int = 4,
) -> Float[Array, "batch *pixels n"]:
    """What a function of windows, such as a model, says of larger images, in float32 at least.

    Windows of the `size` begin at every multiple of floor((1 - overlap) size) along each axis; the
    last one of an axis ends where the image does. An image that is smaller than a window is padded
    by zeros on both sides, which the answer has no pixels of. There is no `where`: each pixel gets
    an answer, from windows that show the images as they are.

    A pixel has the weighted mean of what the windows over it say. The weights are all 1, or a
    Gaussian around the centre of the window with a standard deviation of an eighth of each side, of
    which the highest is about 1 and none is below 1e-3. That is how MONAI's SlidingWindowInferer
    defines it. The mean is a running one, by which windows that agree to the last bit give that.

    One loop takes `windows_at_once` of all images, so that besides the answer there is memory for
    these and for one number a pixel; a CPU takes them one by one, which is faster there. Within
    `jax.jit` the program is no larger for larger images.

    >>> import jax.numpy as jnp
    >>> images = jnp.arange(12.0).reshape(1, 3, 4, 1)
    >>> found = sliding_windows(lambda x: x - x.mean((1, 2, 3), keepdims=True), images, (3, 2),
    ...     overlap=0.5, weights="constant")
    >>> found[0, 0, :, 0].tolist()  # 0 - 4.5, then the means of two: 1 - 4.5 and 1 - 5.5, ...
    [-4.5, -4.0, -4.0, -3.5]
    """
    images = jnp.asarray(images)
    size = _checked(images.shape, size, overlap, weights)
    checks.whole("windows_at_once", windows_at_once)
    pixels, channels = images.shape[1:-1], images.shape[-1]
    missing = [max(0, least - side) for least, side in zip(size, pixels, strict=True)]
    around = [(n // 2, n - n // 2) for n in missing]
    if any(missing):
        images = jnp.pad(images, ((0, 0), *around, (0, 0)))
    corners, counts = _corners(images.shape[:-1], size, overlap, windows_at_once)

    shape = (corners.shape[1], *size, channels)
    answer = jax.eval_shape(function, jax.ShapeDtypeStruct(shape, images.dtype))
    if answer.shape[:-1] != shape[:-1]:
        raise ValueError(
            f"the function makes {list(answer.shape)} of windows {list(shape)}, but must give "
            f"{[*shape[:-1], 'n']}: some numbers for each pixel"
        )
    n, dtype = answer.shape[-1], jnp.promote_types(answer.dtype, jnp.float32)
    # Of the images, since within shard_map they say what differs between devices.
    mean = jnp.zeros_like(images, dtype, shape=(*images.shape[:-1], n))
    total = jnp.zeros_like(images, dtype, shape=(*images.shape[:-1], 1))

    def one(carry, window):
        corner, count, own = window
        return _with_window(*carry, (*corner, 0), own[None], count * weight[None]), None

    # A CPU keeps more of one window in its cache than of several.
    def one_by_one(windows):
        return lax.map(lambda x: function(x[None])[0], windows)

    def some(carry, windows):
        corners, counts = windows
        seen = [lax.dynamic_slice(images, (*x, 0), (1, *size, channels)) for x in corners]
        found = lax.platform_dependent(jnp.concatenate(seen), cpu=one_by_one, default=function)
        return lax.scan(one, carry, (corners, counts, found.astype(dtype)))

    weight = jnp.asarray(_weight(size, weights), dtype)
    (mean, _), _ = lax.scan(some, (mean, total), (corners, counts.astype(dtype)))
    inside = [slice(a, a + side) for (a, _), side in zip(around, pixels, strict=True)]
    return mean[:, *inside] if any(missing) else mean


def _with_window(mean: Array, total: Array, place: tuple, own: Array, weight: Array) -> tuple:
    """The mean and the sum of weights, with those of one more window."""
    # The sums are read after they are updated, or XLA would copy all of them, for each window.
    sums = lax.dynamic_slice(total, place, weight.shape) + weight
    total = lax.dynamic_update_slice(total, sums, place)
    before = lax.dynamic_slice(mean, place, own.shape)
    share = weight / lax.dynamic_slice(total, place, weight.shape)
    # What is equal is kept: rounded, a mean of equal numbers is not always that number.
    after = jnp.where(before == own, before, (1 - share) * before + share * own)
    return lax.dynamic_update_slice(mean, after, place), total


def _corners(
    shape: Sequence[int], size: Sequence[int], overlap: float, at_once: int
) -> tuple[np.ndarray, np.ndarray]:
    """The image and first pixel of each window, `[loops, at once, axes]`, and which count.

    What fills up the last turn are windows that were there before, which don't count.
    """
    starts = [range(shape[0])]
    for side, length in zip(shape[1:], size, strict=True):
        step = max(1, int((1 - overlap) * length))
        starts.append([min(i, side - length) for i in range(0, side - length + step, step)])
    corners = np.array([*itertools.product(*starts)], np.int32)
    at_once = min(at_once, len(corners))
    turns = -(-len(corners) // at_once)
    order = np.arange(turns * at_once)
    rows = corners[np.minimum(order, len(corners) - 1)]
    return rows.reshape(turns, at_once, -1), (order < len(corners)).reshape(turns, at_once)


def _weight(size: Sequence[int], weights: str) -> np.ndarray:
    """The weights of the pixels of a window, `[*size, 1]`."""
    weight = np.ones(())
    for side in size if weights == "gaussian" else ():
        z = (np.arange(side) - (side - 1) / 2) / (side / 8)
        weight = weight[..., None] * np.exp(-0.5 * z**2)
    return np.maximum(np.broadcast_to(weight, size), _LEAST)[..., None]


def _checked(
    shape: Sequence[int], size: Sequence[int], overlap: float, weights: str
) -> tuple[int, ...]:
    """The size; raises ValueError for what can't be divided into windows."""
    size = tuple(size)
    for side in size:
        checks.whole("a side of the window", side)
    if len(shape) != len(size) + 2 or not size or 0 in shape:
        raise ValueError(
            f"images are {[*shape]} for windows of {'x'.join(map(str, size))}, but must "
            "be [batch, *pixels, channels], with as many axes of pixels, and none empty"
        )
    checks.share("overlap", overlap)
    if overlap == 1:
        raise ValueError("overlap is 1, but must be less: windows must get on")
    if weights not in ("gaussian", "constant"):
        raise ValueError(f'weights are {weights!r}, but must be "gaussian" or "constant"')
    return size
