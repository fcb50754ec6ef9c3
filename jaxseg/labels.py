"""Labels as the distributions `[*pixels, classes]` that every loss takes.

Labels are class indices `[*pixels]` or already a distribution `[*pixels, classes]`. Results are
float32, and float64 for a distribution in float64. An index outside 0..classes-1 at a pixel that
counts gives NaN, and so does a loss of it: an error can't be raised under jit.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Literal

import jax
import jax.numpy as jnp
from jax import lax

from jaxseg import checks

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int, Num

__all__ = ["from_raters", "smooth", "spatially_varying"]

# The logarithm of 0; finite, since a product of matrices multiplies it by 0.
_NEVER = -1e4


def smooth(
    labels: Num[Array, "*pixels"] | Num[Array, "*pixels classes"],
    num_classes: int,
    *,
    label_smoothing: float = 0.1,
) -> Float[Array, "*pixels classes"]:
    """The distribution (1 - e) p + e / classes of labels p, with e = `label_smoothing`.

    What the option of the same name does within a loss (Szegedy et al. 2015, arXiv:1512.00567).

    >>> import jax.numpy as jnp
    >>> smooth(jnp.array([2, 0]), 4, label_smoothing=0.5).tolist()  # 1/2 + 1/8, and 1/8 elsewhere
    [[0.125, 0.125, 0.625, 0.125], [0.625, 0.125, 0.125, 0.125]]
    """
    p = _distribution(labels, num_classes)
    checks.share("label_smoothing", label_smoothing)
    return (1.0 - label_smoothing) * p + label_smoothing / num_classes


def spatially_varying(
    labels: Num[Array, "*pixels"] | Num[Array, "*pixels classes"],
    num_classes: int,
    *,
    where: Bool[Array, "*pixels"] | None = None,
    size: int = 3,
    sigma: float = 1.0,
    spatial_rank: int = 2,
) -> Float[Array, "*pixels classes"]:
    """Labels that are soft at boundaries alone: spatially varying label smoothing, SVLS.

    The mean of the labels p in a neighbourhood of `size` pixels along each axis. The neighbours
    weigh as a Gaussian of `sigma` pixels, and the centre as much as all of them together; so it
    keeps at least half, and where all agree p stays as it is. The picture's edge is continued
    outwards. Pixels outside `where` weigh nothing for others, and become uniform themselves. The
    last `spatial_rank` axes of the pixels are one image, and those before them a batch (Islam and
    Glocker 2021, arXiv:2104.05788).

    >>> import jax.numpy as jnp
    >>> labels = jnp.array([0, 0, 0, 1])
    >>> spatially_varying(labels, 2, spatial_rank=1)[:, 1].tolist()  # the edge continues
    [0.0, 0.0, 0.25, 0.75]
    """
    p = _distribution(labels, num_classes)
    where = checks.where(where, p.shape[:-1])
    checks.whole("size", size, 3)
    if size % 2 == 0:
        raise ValueError(f"size is {size}, but must be odd, for a pixel to be in the middle")
    checks.positive("sigma", sigma)
    if not 1 <= spatial_rank < p.ndim:
        raise ValueError(
            f"spatial_rank is {spatial_rank} for pixels of shape {list(p.shape[:-1])}, but must "
            f"lie in 1..{p.ndim - 1}: give the number of trailing axes that make one image"
        )
    return _spatially_varying(p, where, size, float(sigma), spatial_rank)


def from_raters(
    raters: Int[Array, " raters *pixels"],
    num_classes: int,
    *,
    where: Bool[Array, " raters *pixels"] | None = None,
    method: Literal["votes", "staple"] = "votes",
    iterations: int = 50,
) -> Float[Array, "*pixels classes"]:
    """What several annotators of one picture say, as one distribution.

    `where` marks the pixels that each rater annotated; a pixel that nobody did becomes uniform.

    - "votes": the share of each class among the raters that annotated the pixel.
    - "staple": the probability of each class if every rater errs at random, with a confusion matrix
      of the rater's own. From the votes on, expectation maximisation alternates `iterations` times
      between the matrices and the probabilities; the prior of a class is its share of all
      annotations of the picture, and stays so (Warfield, Zou and Wells 2004,
      doi:10.1109/TMI.2004.828354). An index of no class makes the whole picture NaN.

    One call is one picture. For a batch `[raters, batch, *pixels]`, each picture by itself:
    `jax.vmap(partial(from_raters, num_classes=..., method="staple"), in_axes=1)`.

    >>> import jax.numpy as jnp
    >>> raters = jnp.array([[0, 1, 1, 1], [0, 0, 1, 1], [0, 1, 0, 1]])
    >>> annotated = jnp.array([[True] * 4, [True] * 4, [True, False, True, True]])
    >>> from_raters(raters, 2, where=annotated)[:, 1].tolist()
    [0.0, 0.5, 0.6666666865348816, 1.0]
    """
    raters = jnp.asarray(raters)
    checks.whole("num_classes", num_classes)
    if raters.ndim < 1 or not jnp.issubdtype(raters.dtype, jnp.integer):
        raise TypeError(
            f"raters are {raters.dtype}{list(raters.shape)}, but must be class indices of an "
            "integer dtype and shape [raters, *pixels]"
        )
    where = checks.where(where, raters.shape, "pixel that a rater annotated")
    if method not in ("votes", "staple"):
        raise ValueError(f'method is {method!r}, but must be "votes" or "staple"')
    checks.whole("iterations", iterations)
    if method == "votes":
        return _votes(raters, where, num_classes)
    return _staple(raters, where, num_classes, iterations)


@partial(jax.jit, static_argnames=("size", "sigma", "spatial_rank"))
def _spatially_varying(p, where, size: int, sigma: float, spatial_rank: int) -> Array:
    if p.size == 0:
        return p
    p = _masked(p, where)
    # All weights are relative to that of the nearest, `near`, which is 0 for a small sigma.
    near, reach = math.exp(-0.5 / sigma / sigma), size // 2
    line = {k: near ** (k * k - 1) for k in range(-reach, reach + 1) if k}
    # Separable but for the centre: the neighbours within the axes up to this one are those within
    # the axes before, and the steps along this one from them and from the centre.
    neighbours, total = jnp.zeros_like(p), 0.0
    for axis in range(p.ndim - 1 - spatial_rank, p.ndim - 1):
        widths = [(reach, reach) if a == axis else (0, 0) for a in range(p.ndim)]
        padded = jnp.pad(near * neighbours + p, widths, mode="edge")
        for step, weight in line.items():
            start = reach + step
            part = lax.slice_in_dim(padded, start, start + p.shape[axis], axis=axis)
            neighbours = neighbours + weight * part
        total += sum(line.values()) * (near * total + 1.0)
    return _shares(_masked(p + neighbours / total, where))


@partial(jax.jit, static_argnames="num_classes")
def _votes(raters, where, num_classes: int) -> Array:
    return _shares(jnp.sum(_masked(_one_hot(raters, num_classes), where), 0))


@partial(jax.jit, static_argnames=("num_classes", "iterations"))
def _staple(raters, where, num_classes: int, iterations: int) -> Array:
    # Axes: raters r, pixels x, classes t that are true and s that are said.
    said = _masked(_one_hot(raters, num_classes), where)
    said = said.reshape(len(raters), math.prod(raters.shape[1:]), num_classes)
    annotated = jnp.sum(said, (0, 2))[:, None] != 0
    log_prior = _log(_shares(jnp.sum(said, (0, 1))))[None]

    def iterate(_, log_w):
        # Of each class relative to its likeliest pixel, or one that few raters say would underflow.
        log_w = jnp.where(annotated, log_w, _NEVER)
        w = jnp.exp(log_w - jnp.max(log_w, 0, keepdims=True, initial=_NEVER))
        confusions = _shares(jnp.einsum("rxs,xt->rts", said, w, precision="highest"))
        log_likelihood = jnp.einsum("rxs,rts->xt", said, _log(confusions), precision="highest")
        return jax.nn.log_softmax(log_prior + log_likelihood)

    log_w = lax.fori_loop(0, iterations, iterate, _log(_shares(jnp.sum(said, 0))))
    w = jnp.where(annotated, jnp.exp(log_w), 1.0 / num_classes)
    return w.reshape(*raters.shape[1:], num_classes)


def _distribution(labels, num_classes: int) -> Float[Array, "*pixels classes"]:
    """Class indices or a distribution as a distribution, in float32 at least."""
    labels = jnp.asarray(labels)
    checks.whole("num_classes", num_classes)
    if jnp.issubdtype(labels.dtype, jnp.integer):
        return _one_hot(labels, num_classes)
    if not jnp.issubdtype(labels.dtype, jnp.floating):
        raise TypeError(f"labels are {labels.dtype}, but must be class indices or a distribution")
    if labels.ndim < 1 or labels.shape[-1] != num_classes:
        raise ValueError(
            f"labels are {labels.dtype}{list(labels.shape)} for num_classes {num_classes}, but a "
            f"distribution needs the shape [*pixels, {num_classes}], and class indices an integer "
            "dtype"
        )
    return labels.astype(jnp.promote_types(labels.dtype, jnp.float32))


def _one_hot(labels: Array, num_classes: int) -> Float[Array, "*pixels classes"]:
    """Class indices as a distribution; NaN for an index of no class."""
    # In a type that any number of classes can be compared in, which int8 is not.
    wide = labels.astype(jnp.promote_types(labels.dtype, jnp.int32))
    p = jax.nn.one_hot(wide, num_classes, dtype=jnp.float32)
    return jnp.where(jnp.any(p > 0, -1, keepdims=True), p, jnp.nan)


def _masked(p: Array, where: Array | None) -> Array:
    return p if where is None else jnp.where(where[..., None], p, 0.0)


def _shares(amounts: Array) -> Array:
    """The amounts of the classes divided by their sum; uniform where that is 0."""
    total = jnp.sum(amounts, -1, keepdims=True)
    shares = amounts / total
    return jnp.where(total == 0, 1.0 / amounts.shape[-1], shares)


def _log(p: Array) -> Array:
    return jnp.where(p == 0, _NEVER, jnp.log(p))
