"""The convolution of models: kernels of side 3, with fewer products on a CPU."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxseg.ops.sharding import alike, is_split

if TYPE_CHECKING:
    from jaxtyping import Array, Float

# From which on Winograd's algorithm pays: channels, both before and after, for each of which a
# pixel becomes four numbers; and pixels of the batch, for which the kernel is transformed. Measured
# with jax 0.10.2 on two cores of an AMD EPYC.
_CHANNELS, _PIXELS = 64, 128
# The bytes that a core's cache holds of a kernel's gradient's two factors, by the one with more
# channels; the pieces of so many at least, for which it is worth it, and at most, give or take, as
# each is compiled; and those channels from which on a piece is of one image, of 16 and 32 that were
# tried. Measured on two cores of an Intel Xeon.
_CACHED, _FEW, _MANY, _CHANNELS_OF_IMAGE = 2**19, 4, 16, 32


def convolve(
    images: Float[Array, "batch *pixels before"],
    kernel: Float[Array, "*sides before after"],
) -> Float[Array, "batch *pixels after"]:
    """Convolves images, or volumes, with a kernel whose sides are 3.

    It is `lax.conv_general_dilated` with strides of 1 and the padding "SAME", to rounding, which a
    CPU computes in another way:

    - images of even sides, with 64 channels or more before and after and 128 pixels in a batch, in
      float32: by F(2x2, 3x3) of Lavin and Gray 2015 (arXiv:1509.09308; Winograd 1980, Arithmetic
      Complexity of Computations), with 16 products for four pixels rather than 36. An infinite
      number may become NaN. For gradients the images are kept, and not their tiles;
    - else, of large images in float32, the gradient of the kernel, as a sum of those of pieces that
      stay in the cache: bands of an image's rows, or images. Both have no forward mode, but forward
      over reverse mode: whether there is one goes by the images, where JAX runs on a CPU;
    - volumes as images with the channels of three slices, and these by the same rule, since XLA has
      fast convolutions of images alone.

    Not where XLA splits the work, as the images lie or a mesh of the context says, outside of
    `jax.shard_map`: devices would have to exchange more.

    >>> import jax.numpy as jnp
    >>> convolve(jnp.ones((1, 2, 3, 1)), jnp.ones((3, 3, 1, 1)))[0, ..., 0].tolist()
    [[4.0, 6.0, 4.0], [4.0, 6.0, 4.0]]
    """
    images, kernel = jnp.asarray(images), jnp.asarray(kernel)
    rank = images.ndim - 2
    if rank not in (2, 3) or kernel.shape[:-1] != (*(3,) * rank, images.shape[-1]):
        raise ValueError(
            f"images are {list(images.shape)} and the kernel is {list(kernel.shape)}, but must be "
            "[batch, height, width, before] and [3, 3, before, after], or of volumes [batch, "
            "depth, height, width, before] and [3, 3, 3, before, after]"
        )
    on_cpu = _of_images(images, kernel) if rank == 2 else _of_slices
    # With another backend directly, so that there is a forward mode.
    if on_cpu is _direct or jax.default_backend() != "cpu" or is_split(images):
        return _direct(images, kernel)
    return lax.platform_dependent(images, kernel, cpu=on_cpu, default=_direct)


def _direct(images: Array, kernel: Array, padding="SAME") -> Array:
    axes = "DHW"[-(images.ndim - 2) :]
    numbers = (f"N{axes}C", f"{axes}IO", f"N{axes}C")
    strides = (1,) * len(axes)
    return lax.conv_general_dilated(images, kernel, strides, padding, dimension_numbers=numbers)


def _of_slices(volumes: Array, kernel: Array) -> Array:
    batch, depth, *size, channels = volumes.shape
    padded = jnp.pad(volumes, ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0)))
    slices = jnp.concatenate([padded[:, i : i + depth] for i in range(3)], -1)
    after = kernel.shape[-1]
    kernel = kernel.transpose(1, 2, 0, 3, 4).reshape(3, 3, 3 * channels, after)
    slices = slices.reshape(batch * depth, *size, 3 * channels)
    found = _of_images(slices, kernel)(slices, kernel)
    return found.reshape(batch, depth, *size, after)


def _of_images(images: Array, kernel: Array) -> Callable:
    """The way that is faster for images of this shape on a CPU."""
    batch, height, width, before = images.shape
    pays = min(before, kernel.shape[-1]) >= _CHANNELS and batch * height * width >= _PIXELS
    even = height % 2 == width % 2 == 0
    if pays and even and images.dtype == kernel.dtype == jnp.float32:
        return _in_tiles
    return _direct if _pieces(images, kernel) == (1, 1) else _directly


def _pieces(images: Array, kernel: Array) -> tuple[int, int]:
    """The groups of images, and bands of rows, that the kernel's gradient is best computed in.

    A group is an image, where they are not too many: XLA takes the images of a group for channels,
    by which each step of its innermost sums is longer than with one. But of few channels it needs
    all of them. A piece has half as many pixels as the kernel has numbers for a channel, or more:
    each writes them all.
    """
    batch, height, width, before = images.shape
    few, many = sorted([before, kernel.shape[-1]])
    pixels = batch * height * width
    pieces = min(4 * pixels * many // _CACHED, 2 * pixels // (9 * few), _MANY)
    same = images.dtype == kernel.dtype == jnp.float32
    if pieces < _FEW or not same:
        return 1, 1
    groups = min(batch, pieces) if many >= _CHANNELS_OF_IMAGE else 1
    return groups, max(1, min(round(pieces / groups), height // 4))  # of four rows at least


def _directly(images: Array, kernel: Array) -> Array:
    return _convolved(*alike(images, kernel))


@jax.custom_vjp
def _convolved(images: Array, kernel: Array) -> Array:
    return _direct(images, kernel)


def _convolved_forward(images, kernel):
    return _direct(images, kernel), (images, kernel)


def _convolved_backward(residuals, gradient):
    images, kernel = residuals
    (of_images,) = jax.linear_transpose(lambda images: _direct(images, kernel), images)(gradient)
    return of_images, _of_kernel(images, kernel, gradient)


_convolved.defvjp(_convolved_forward, _convolved_backward)


def _of_kernel(images: Array, kernel: Array, gradient: Array) -> Array:
    """The gradient of a kernel, as a sum of those of pieces.

    What has more channels is told to XLA as the gradient, whose channels are its innermost ones:
    the kernel from its end has that of the images by the gradient. So is it in one piece, too.
    """

    def turned(kernel):
        return kernel[::-1, ::-1].swapaxes(2, 3)

    if images.shape[-1] > gradient.shape[-1]:
        return turned(_of_kernel(gradient, turned(kernel), images))
    (batch, height), (groups, bands) = images.shape[:2], _pieces(images, kernel)
    found = []
    for i, j in itertools.product(range(groups), range(bands)):
        group = slice(i * batch // groups, (i + 1) * batch // groups)
        begin, end = j * height // bands, (j + 1) * height // bands
        above, below = max(0, 1 - begin), max(0, end + 1 - height)
        rows = images[group, begin - 1 + above : end + 1 - below]  # with a row around
        convolved = partial(_direct, rows, padding=((above, below), (1, 1)))
        (piece,) = jax.linear_transpose(convolved, kernel)(gradient[group, begin:end])
        found.append(piece)
    return sum(found)


def _in_tiles(images: Array, kernel: Array) -> Array:
    return _winograd(*alike(images, kernel))


@jax.custom_vjp
def _winograd(images: Array, kernel: Array) -> Array:
    """F(2, 3) of Lavin and Gray: a kernel f, g, h over pixels l, a, b, r gives two pixels.

        near = (b + a, b - a) * ((f + g + h) / 2, (f - g + h) / 2)
        far = (l - b, r - a) * (f, h)
        near[0] + near[1] + far[0], near[0] - near[1] + far[1]

    They write m2, m3 for near and m1, -m4 for far. In two directions each of both has both again:
    four arrays, which begin with axes for the two numbers of columns and those of rows.
    """
    return _forward(images, kernel)[0]


def _forward(images, kernel):
    # Not by `_winograd`, so that gradients have a forward mode.
    tiles = _in_both(_near, _far, _padded(images), 1, 3)
    products = _products("abnhwi,abio->abnhwo", tiles, _numbers_of_kernel(kernel))
    return _as_images(products), (images, kernel)


def _backward(residuals, gradient):
    images, kernel = residuals
    # By the kernel from its end, h, g, f. Its numbers are the same but for far, which change
    # places: so do those of the gradient here, and then the products. As the kernel's stay as they
    # are, XLA computes them once for both passes.
    tiles = _exchanged(_in_both(_near, _far, _padded(gradient), 1, 3))
    products = _products("abnhwo,abio->abnhwi", tiles, _numbers_of_kernel(kernel))
    of_images = _as_images(_exchanged(products))
    # The sum of images * of_images is one of products, whose factors are what each pixel adds to
    # `_as_images`: with those the same tiles give the gradient of the kernel's numbers.
    pixels = _in_both(_near_of_pixels, _far_of_pixels, _corners(images), 0, 1)
    tiles = [x.reshape(2, 2, -1, x.shape[-1]) for x in tiles]
    near, far = _from_columns(_sides, _products("abip,abpo->abio", pixels, tiles))
    return of_images, _sides(near.swapaxes(0, 1), far.swapaxes(0, 1))


_winograd.defvjp(_forward, _backward)


def _numbers_of_kernel(kernel: Array) -> list[Array]:
    return _in_both(_near_of_kernel, _far_of_kernel, kernel, 0, 1)


def _exchanged(four: list[Array]) -> list[Array]:
    """With the numbers of far in each other's place."""
    near_near, near_far, far_near, far_far = four
    return [near_near, near_far[::-1], far_near[:, ::-1], far_far[::-1, ::-1]]


def _as_images(products: list[Array]) -> Array:
    columns = zip(*_from_columns(_pixels, products), strict=True)
    columns = [_pixels(near, far).transpose(1, 2, 0, 3, 4) for near, far in columns]
    # XLA fuses any other operation into all that uses it, and computes it again in each; but not a
    # concatenation along the last axis.
    rows = jnp.concatenate(columns, -1)
    batch, height, _, width, _ = rows.shape
    return rows.reshape(batch, 2 * height, 2 * width, -1)


def _corners(images: Array) -> Array:
    """The pixels of cells of 2 x 2, [row, column, channels, cells]: the last first, as exchanged.

    Those of an image are transposed by themselves: XLA writes slowly what lies far apart.
    """
    batch, *_, channels = images.shape

    def transposed(x):
        return x.reshape(batch, -1, channels).swapaxes(1, 2)

    found = jnp.stack([transposed(images[:, i::2, j::2]) for i in (1, 0) for j in (1, 0)])
    return found.transpose(0, 2, 1, 3).reshape(2, 2, channels, -1)


def _padded(images: Array) -> Array:
    """With zeros around; those of columns by a concatenation, for the reason of `_as_images`."""
    batch, height, width, channels = images.shape
    column = jnp.zeros((batch, height, channels), images.dtype)
    images = jnp.concatenate([column, images.reshape(batch, height, -1), column], -1)
    images = images.reshape(batch, height, width + 2, channels)
    return jnp.pad(images, ((0, 0), (1, 1), (0, 0), (0, 0)))


def _in_both(near: Callable, far: Callable, x: Array, rows: int, columns: int) -> list[Array]:
    """Near and far of rows, each with near and far of columns, whose axis has moved by then."""
    of_rows = [near(x, rows), far(x, rows)]
    return [of_columns(x, columns) for x in of_rows for of_columns in (near, far)]


def _products(what: str, x: list[Array], y: list[Array]) -> list[Array]:
    return [jnp.einsum(what, *both) for both in zip(x, y, strict=True)]


def _from_columns(of: Callable, four: list[Array]) -> tuple[Array, Array]:
    near_near, near_far, far_near, far_far = four
    return of(near_near, near_far), of(far_near, far_far)


def _near(x: Array, axis: int) -> Array:
    a, b = _pairs(lax.slice_in_dim(x, 1, x.shape[axis] - 1, axis=axis), axis)
    return _sums(b, a)


def _far(x: Array, axis: int) -> Array:
    x, axis = _pairs(x, axis), axis + 1
    last = x.shape[axis] - 1
    x = lax.slice_in_dim(x, 0, last, axis=axis) - lax.slice_in_dim(x, 1, last + 1, axis=axis)
    return _signs(x.ndim) * x


def _near_of_kernel(x: Array, axis: int) -> Array:
    f, g, h = jnp.moveaxis(x, axis, 0)
    return _sums(f + h, g) / 2


def _far_of_kernel(x: Array, axis: int) -> Array:
    return jnp.moveaxis(x, axis, 0)[::2]


def _near_of_pixels(x: Array, axis: int) -> Array:
    b, a = jnp.moveaxis(x, axis, 0)
    return _sums(a, b)


def _far_of_pixels(x: Array, axis: int) -> Array:
    return jnp.moveaxis(x, axis, 0)


def _pixels(near: Array, far: Array) -> Array:
    return near[:1] + _signs(far.ndim) * near[1:] + far


def _sides(near: Array, far: Array) -> Array:
    """The gradients of f, g and h by those of what they became."""
    half = (near[0] + near[1]) / 2
    return jnp.stack([far[0] + half, (near[0] - near[1]) / 2, far[1] + half])


def _pairs(x: Array, axis: int) -> Array:
    x = x.reshape(*x.shape[:axis], -1, 2, *x.shape[axis + 1 :])
    return jnp.moveaxis(x, axis + 1, 0)


def _sums(a: Array, b: Array) -> Array:
    return a[None] + _signs(a.ndim + 1) * b[None]


def _signs(ndim: int) -> np.ndarray:
    return np.array([1, -1], np.float32).reshape(2, *(1,) * (ndim - 1))
