"""Losses of structure: centrelines, and how the pixels of a neighbourhood go together.

They need an axis of images: logits `[images, *pixels, classes]`, of which `*pixels` are two axes
for pictures or three for volumes. Classes are taken one after the other, so that what is held in
memory besides p and q is that of a single class.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import lax

from jaxseg import checks
from jaxseg.losses import _pixels as pixels
from jaxseg.losses import regions

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Num

# Added to the diagonal of matrices whose diagonal is 1 in the mean, or less. In float32 rounding
# moves their eigenvalues by about 1e-6: they stay positive, and the smallest keep three digits.
_JITTER = 1e-3


def cldice(
    logits: Float[Array, "images *pixels classes"],
    labels: Num[Array, " images *pixels"] | Num[Array, "images *pixels classes"],
    *,
    where: Bool[Array, " images *pixels"] | None = None,
    class_weights: Float[Array, " classes"] | None = None,
    iterations: int = 10,
    smooth: float = 0.0,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """One minus the harmonic mean of precision and sensitivity of the classes' centrelines.

    With S the soft skeleton, the precision is (sum S(q) p + smooth) / (sum S(q) + smooth) and the
    sensitivity (sum S(p) q + smooth) / (sum S(p) + smooth), over all the pixels that count (Shit
    et al. 2021, arXiv:2003.07311). Averaged over the classes whose label has a skeleton; give the
    background the class weight 0. A prediction without any, such as a constant one, has precision 0
    (1 with `smooth`), so that the loss is 1 and its gradient 0: it needs a region loss beside it,
    such as `dice`.

    S collects what `iterations` erosions of a class leave and an opening then removes; it takes
    half the width, in pixels, of the widest structure that shall be reduced to its centreline. The
    published code has 10, and a smooth of 1. Pixels outside `where` are like those outside the
    image: no minimum or maximum of neighbours includes them.

    >>> import jax.numpy as jnp
    >>> labels = jnp.zeros((1, 3, 5), jnp.int32).at[0, 1].set(1)  # a line of 5 pixels
    >>> preds = labels.at[0, 1, 4].set(0)  # of which the last is missed
    >>> value = cldice(50 * jnp.eye(2)[preds], labels, class_weights=(0, 1))
    >>> print(f"{value:.4f}")  # 1 - 2 * 1 * 4/5 / (1 + 4/5)
    0.1111
    """
    checks.amount("smooth", smooth)
    checks.whole("iterations", iterations)
    q, p, counts, class_weights = _read(logits, labels, where, class_weights)
    sums = _centreline_sums(q, p, counts, iterations)
    true_q, all_q, true_p, all_p = (pixels.total(x, axis_name) for x in sums)
    precision = _ratio(true_q + smooth, all_q + smooth)
    sensitivity = _ratio(true_p + smooth, all_p + smooth)
    by_class = 1.0 - _ratio(2.0 * precision * sensitivity, precision + sensitivity)
    return regions.average(by_class, all_p != 0, class_weights)


def rmi(
    logits: Float[Array, "images *pixels classes"],
    labels: Num[Array, " images *pixels"] | Num[Array, "images *pixels classes"],
    *,
    where: Bool[Array, " images *pixels"] | None = None,
    class_weights: Float[Array, " classes"] | None = None,
    size: int = 3,
    pool: int = 1,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """The entropy per pixel of a label's neighbourhood that the predicted one leaves, if Gaussian.

    Of each image and class, with p and q the vectors of the d pixels of a neighbourhood of side
    `size`, and covariances over the neighbourhoods all of whose pixels count, it is
    1/(2d) log det(M / v + jitter), M = S_pp - S_pq (S_qq + jitter (v + u))^-1 S_qp, with v and u
    the mean variances of p and q and a jitter of 1/1000. From about 0, where q says nothing of p,
    down to about 1/2 log(jitter). Averaged over the classes whose label is not constant in an
    image, and then over the images. Up to constants it bounds minus the mutual information of the
    two from above (Zhao et al. 2019, arXiv:1910.12037, who sum over classes and use sigmoids).

    It does not tell q from a linear function of q, such as 1 - q, and needs a pixelwise loss beside
    it; published with the binary cross-entropy and weights of 1/2 each, here
    `weighted_sum({"cross_entropy": 0.5, "rmi": 0.5})`. With `pool`, p and q are first averaged over
    blocks of that side, over the pixels that count of each; published with 4.

    >>> import jax.numpy as jnp
    >>> labels = jnp.array([[[0, 1], [1, 0]]])
    >>> value = rmi(jnp.zeros((1, 2, 2, 2)), labels, size=1)
    >>> print(f"{value:.4f}")  # 1/2 log(1 + 0.001)
    0.0005
    >>> value = rmi(50 * jnp.eye(2)[labels], labels, size=1)
    >>> print(f"{value:.4f}")  # 1/2 log(1 - 1 / 1.002 + 0.001)
    -2.9052
    """
    checks.whole("size", size)
    checks.whole("pool", pool)
    if size % 2 == 0:
        raise ValueError(f"size is {size}, but must be odd, for a neighbourhood with a centre")
    q, p, counts, class_weights = _read(logits, labels, where, class_weights)
    if min(-(-side // pool) for side in counts.shape[1:]) < size:
        raise ValueError(
            f"logits are {list(jnp.shape(logits))}, but with size {size} and pool {pool} each axis "
            f"of pixels must be longer than {pool * (size - 1)}"
        )
    values, present = _conditional_entropies(q, p, counts, size, pool)
    return regions.average(values.T, present.T, class_weights, per="image", axis_name=axis_name)


def _read(logits, labels, where, class_weights) -> tuple[Array, Array, Array, Array | None]:
    """q and p with the classes first, the weights of the pixels, and those of the classes."""
    logits, labels, where, class_weights = pixels.check(logits, labels, where, class_weights)
    if logits.ndim not in (4, 5):
        raise ValueError(
            f"logits are {list(logits.shape)}, but structures need [images, height, width, "
            "classes], or three axes of pixels"
        )
    q = jnp.exp(pixels.log_probs(logits, where))
    p = pixels.targets(labels, where, logits.shape[-1], q.dtype)
    counts = pixels.weights(labels, where, None, logits.shape, q.dtype)
    return jnp.moveaxis(q, -1, 0), jnp.moveaxis(p, -1, 0), counts, class_weights


def _ratio(numerator: Array, denominator: Array) -> Array:
    """The quotient, and towards 0 where there is next to nothing to divide by.

    A class predicted nowhere has a skeleton of any smallness, and the square of what float32 can
    just hold, by which a quotient's derivative divides, it can't.
    """
    return numerator / jnp.maximum(denominator, 1e-15)


@functools.partial(jax.jit, static_argnames="iterations")
def _centreline_sums(
    q: Float[Array, "classes images *pixels"],
    p: Float[Array, "classes images *pixels"],
    counts: Float[Array, " images *pixels"],
    iterations: int,
) -> tuple[Float[Array, " classes"], ...]:
    """sum S(q) p, sum S(q), sum S(p) q and sum S(p), over the pixels that count."""
    skeleton = functools.partial(_skeleton, outside=counts == 0, iterations=iterations)
    of_q, of_p = (lax.map(jax.checkpoint(skeleton), x) for x in (q, p))
    terms = (of_q * p, of_q, of_p * q, of_p)
    return tuple(jnp.sum(x * counts[None], range(1, x.ndim)) for x in terms)


def _skeleton(
    x: Float[Array, " images *pixels"], outside: Bool[Array, " images *pixels"], iterations: int
) -> Float[Array, " images *pixels"]:
    """The soft skeleton of one class: the union of what opening removes after each erosion."""
    axes = range(1, x.ndim)

    def step(carry, _):
        x, skeleton = carry
        # Values lie in 0..1, so that 1 and 0 leave a minimum and a maximum to the other pixels.
        inside = jnp.where(outside, 1.0, x)
        eroded = functools.reduce(_lesser, (_of_three(_lesser, inside, i, 1.0) for i in axes))
        opened = jnp.where(outside, 0.0, eroded)
        for axis in axes:
            opened = _of_three(_larger, opened, axis, 0.0)
        removed = jax.nn.relu(x - opened)
        return (eroded, skeleton + removed * (1.0 - skeleton)), None

    first, _ = step((x, 0.0), None)
    (_, skeleton), _ = lax.scan(jax.checkpoint(step), first, length=iterations)
    return skeleton


def _of_three(choose: Callable, x: Array, axis: int, beyond: float) -> Array:
    """The least or largest of each value and its two neighbours along an axis.

    Of slices, since the gradient of `reduce_window` is a scatter.
    """
    if not x.shape[axis]:
        return x
    edge = jnp.full_like(lax.slice_in_dim(x, 0, 1, axis=axis), beyond)
    before = lax.concatenate([edge, lax.slice_in_dim(x, 0, -1, axis=axis)], axis)
    after = lax.concatenate([lax.slice_in_dim(x, 1, None, axis=axis), edge], axis)
    return choose(choose(x, before), after)


def _lesser(x: Array, y: Array) -> Array:
    return jnp.where(y < x, y, x)


def _larger(x: Array, y: Array) -> Array:
    return jnp.where(y > x, y, x)


@functools.partial(jax.jit, static_argnames=("size", "pool"))
def _conditional_entropies(
    q: Float[Array, "classes images *pixels"],
    p: Float[Array, "classes images *pixels"],
    counts: Float[Array, " images *pixels"],
    size: int,
    pool: int,
) -> tuple[Float[Array, "classes images"], Bool[Array, "classes images"]]:
    """The value of each class and image, and whether the label varies there."""
    number = _blocks(counts, pool)
    whole = jnp.min(_neighbourhoods(jnp.minimum(number, 1.0), size), 1, keepdims=True)

    def of_class(pair):
        means = [pixels.divide(_blocks(x * counts, pool), number) for x in pair]
        both = jnp.concatenate([_neighbourhoods(x, size) for x in means], 1)
        return _conditional_entropy(_covariance(both, whole))

    return lax.map(jax.checkpoint(of_class), (q, p))


def _conditional_entropy(
    covariance: Float[Array, "images dims dims"],
) -> tuple[Float[Array, " images"], Bool[Array, " images"]]:
    """Of the second half of the variables given the first, and whether those of it vary."""
    dims = covariance.shape[1] // 2
    eye = jnp.eye(2 * dims, dtype=covariance.dtype)[None]
    variances = jnp.sum(covariance * eye, -1)
    of_q, of_p = jnp.mean(variances[:, :dims], -1), jnp.mean(variances[:, dims:], -1)
    # A mean leaves of a constant what rounding makes of it. A NaN is present.
    present = ~(of_p <= jnp.square(8 * jnp.finfo(of_p.dtype).eps))
    of_p = jnp.where(present, of_p, 1.0)
    # The prediction's by its own variance, too, which for a rare class may be larger by any factor.
    scales = jnp.repeat(lax.rsqrt(jnp.stack([of_q + of_p, of_p], -1)), dims, -1)
    scaled = covariance * scales[:, :, None] * scales[:, None, :]
    factor = jnp.linalg.cholesky(scaled + _JITTER * eye)
    # Its lower right block is the factor of the covariance of the second half given the first.
    return jnp.mean(jnp.log(jnp.sum(factor * eye, -1)[:, dims:]), -1), present


def _covariance(
    x: Float[Array, "images dims positions"], counts: Float[Array, "images 1 positions"]
) -> Float[Array, "images dims dims"]:
    """The covariance over the positions that count."""
    inside = counts != 0
    number = jnp.sum(counts, -1, keepdims=True)
    mean = pixels.divide(jnp.sum(jnp.where(inside, x, 0.0), -1, keepdims=True), number)
    x = jnp.where(inside, x - mean, 0.0)
    # In full precision, which accelerators otherwise save on.
    products = jnp.einsum("nip,njp->nij", x, x, precision=lax.Precision.HIGHEST)
    return pixels.divide(products, number)


def _neighbourhoods(
    x: Float[Array, " images *pixels"], size: int
) -> Float[Array, "images dims positions"]:
    """The pixels of each neighbourhood that lies in the image."""
    sides = [side - size + 1 for side in x.shape[1:]]
    starts = itertools.product(range(size), repeat=len(sides))
    views = [
        lax.slice(x, (0, *start), (len(x), *map(operator.add, start, sides))) for start in starts
    ]
    return jnp.stack([view.reshape(len(x), math.prod(sides)) for view in views], 1)


def _blocks(x: Float[Array, " images *pixels"], side: int) -> Float[Array, " images *blocks"]:
    """The sums over blocks of pixels; what the last lack is 0."""
    x = jnp.pad(x, [(0, 0), *((0, -n % side) for n in x.shape[1:])])
    x = x.reshape(len(x), *(k for n in x.shape[1:] for k in (n // side, side)))
    return jnp.sum(x, tuple(range(2, x.ndim, 2)))
