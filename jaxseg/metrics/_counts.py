"""What numbers of pixels need: more digits than int32 has, checks, and one division."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

# So many low bits of a number are counted by themselves.
_BITS = 20


class Counts(NamedTuple):
    """Numbers up to 2^50 in int32, as high 2^20 + low; a sum of such is one, too."""

    high: Int[Array, "*shape"]
    low: Int[Array, "*shape"]


def zeros(*shape: int) -> Counts:
    """Zeros of a shape."""
    return Counts(*(jnp.zeros(shape, jnp.int32) for _ in range(2)))


def split(counts: Int[Array, "*shape"]) -> Counts:
    """The same numbers, with the low bits by themselves."""
    return Counts(counts >> _BITS, counts & (2**_BITS - 1))


def merge(*counts: Counts) -> Counts:
    """The sum, with low numbers below 2^20; those given may be sums of 2^11 of such."""
    found, *others = counts
    for other in [jax.tree.map(jnp.zeros_like, found), *others]:  # and so carries at least once
        carried, low = split(found.low + other.low)
        found = Counts(found.high + other.high + carried, low)
    return found


def summed(parts: Int[Array, " parts *shape"]) -> Counts:
    """The sum over the first axis of up to 2^11 numbers that are each in the range of int32."""
    high, low = split(parts)
    return merge(Counts(*(jnp.sum(x, 0, dtype=jnp.int32) for x in (high, low))))


def total(counts: Counts) -> Int[np.ndarray, "*shape"]:
    """The numbers in int64, on the host."""
    high, low = (np.asarray(x, np.int64) for x in counts)
    return (high << _BITS) + low


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
