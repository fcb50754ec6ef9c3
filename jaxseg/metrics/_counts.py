"""What every score asks of its counts, and how it divides them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Int


def checked(confusion) -> Int[np.ndarray, "*images labels preds"]:
    """The matrices in int64; an error unless they are counts `[..., labels, preds]`."""
    confusion = np.asarray(confusion)
    if not np.issubdtype(confusion.dtype, np.integer):
        raise TypeError(f"confusion is {confusion.dtype}, but must be counts of an integer dtype")
    if confusion.ndim < 2 or confusion.shape[-1] != confusion.shape[-2]:
        raise ValueError(
            f"confusion is {list(confusion.shape)}, but must be [..., labels, preds] with as many "
            "of both"
        )
    return confusion.astype(np.int64)


def ratio(numerator, denominator, empty: float) -> Float[np.ndarray, "*shape"]:
    """The quotient in float64, and `empty` where the denominator is 0."""
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    quotient = np.full(denominator.shape, empty, np.float64)
    return np.divide(numerator, denominator, out=quotient, where=denominator != 0)[()]
