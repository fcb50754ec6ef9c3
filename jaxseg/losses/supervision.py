"""One loss of logits at several resolutions."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.losses import _pixels as pixels
from jaxseg.losses import upsample

if TYPE_CHECKING:
    from jaxtyping import Array


def deep_supervision(
    loss: Callable,
    *,
    weights: Sequence[float] | None = None,
    labels: Literal["nearest", "shares"] = "nearest",
) -> Callable:
    """Makes of a loss its weighted sum over logits at several resolutions, finest first.

    The result takes a sequence of logits `[images, *cells, classes]` where the loss takes logits.
    What the loss returns is summed, be it a number or the pair of `weighted_sum`. The weights are
    1, 1/2, 1/4, ... over their sum, unless given. At each resolution, the label of a cell is either
    the one "nearest" to its middle (as in nnU-Net, Isensee et al. 2021, doi:10.1038/s41592-020-
    01008-z), or the "shares" of the labels in it that count, a distribution in which no thin object
    is lost; then cells must be whole numbers of pixels. A loss of `upsampled` needs neither: give
    its result the labels as they are, once for each resolution.

    >>> import jax.numpy as jnp
    >>> from jaxseg.losses import kl_divergence
    >>> loss = deep_supervision(kl_divergence, labels="shares")
    >>> fine, coarse = jnp.zeros((1, 2, 2, 4)), jnp.zeros((1, 1, 1, 4))
    >>> print(f"{loss((fine, coarse), jnp.array([[[0, 1], [2, 3]]])):.4f}")  # (2 log 4 + 0) / 3
    0.9242
    """
    if labels not in ("nearest", "shares"):
        raise ValueError(f'labels is {labels!r}, but must be "nearest" or "shares"')
    of_cells = _nearest if labels == "nearest" else _shares

    def deep(logits, labels, *, where=None, **options):
        if "reduce" in options:
            raise ValueError(
                "deep_supervision has no reduce: maps of several resolutions have no sum"
            )
        if not isinstance(logits, list | tuple):
            raise TypeError(
                f"logits are {type(logits).__name__}, but deep_supervision needs a list of them, "
                "one for each resolution"
            )
        shares = [2.0**-i for i in range(len(logits))] if weights is None else list(weights)
        if len(shares) != len(logits) or not logits:
            raise ValueError(
                f"weights are {shares}, but logits have {len(logits)} resolutions; give a weight "
                "for each"
            )
        divisor = sum(shares) if weights is None else 1.0
        values = []
        for share, z in zip(shares, logits, strict=True):
            z, full, counts, _ = upsample.check(z, labels, where, None)
            value = loss(z, **of_cells(full, counts, z.shape), **options)
            values.append(jax.tree.map(lambda x, share=share: share / divisor * x, value))
        return jax.tree.map(lambda *x: sum(x), *values)

    return deep


def _nearest(labels: Array, where: Array | None, logits: tuple[int, ...]) -> dict:
    """Labels and `where` of the pixel in the middle of each cell, or just behind it."""
    found = {"labels": labels, "where": where}
    for name, x in found.items():
        for axis, cells in enumerate(logits[1:-1], 1):
            if x is not None and x.shape[axis] != cells:
                middle = np.floor((np.arange(cells) + 0.5) * x.shape[axis] / cells)
                x = jnp.take(x, middle.astype(np.int32), axis)
        found[name] = x
    return found


def _shares(labels: Array, where: Array | None, logits: tuple[int, ...]) -> dict:
    """The distribution of the labels that count in each cell, and whether any does."""
    images, *cells, classes = logits
    size = labels.shape[1 : 1 + len(cells)]
    if any(pixels % low for pixels, low in zip(size, cells, strict=True)):
        raise ValueError(
            f'logits are {list(logits)}, but labels="shares" needs cells of whole numbers of '
            f"pixels, and labels are {list(labels.shape)}"
        )
    if list(size) == cells:
        return {"labels": labels, "where": where}
    shape = (images, *size, classes)
    counts = pixels.weights(labels, where, None, shape, jnp.float32)[..., None]
    p = pixels.targets(labels, where, classes, jnp.float32) * counts
    split = [*itertools.chain(*((low, full // low) for low, full in zip(cells, size, strict=True)))]
    inner = tuple(range(2, 2 + 2 * len(cells), 2))
    p, number = (jnp.sum(x.reshape(images, *split, x.shape[-1]), inner) for x in (p, counts))
    some = None if where is None else number[..., 0] != 0
    return {"labels": pixels.divide(p, jnp.broadcast_to(number, p.shape)), "where": some}
