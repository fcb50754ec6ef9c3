"""What a function asks of its arguments, said in one line where they are not that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Integer

__all__ = ["amount", "indices", "mask", "number", "positive", "rank", "share", "where", "whole"]


def number(name: str, value: float) -> None:
    """Raises TypeError unless an option is a Python number, which what is compiled can depend on.

    >>> number("order", "two")
    Traceback (most recent call last):
    TypeError: order is 'two', but must be a Python number, known when compiled
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is {value!r}, but must be a Python number, known when compiled")


def amount(name: str, value: float) -> None:
    """Raises unless an option is a Python number of at least 0.

    >>> amount("smooth", -1)
    Traceback (most recent call last):
    ValueError: smooth is -1, but must be at least 0
    """
    number(name, value)
    if not value >= 0:
        raise ValueError(f"{name} is {value}, but must be at least 0")


def positive(name: str, value: float) -> None:
    """Raises unless an option is a Python number above 0.

    >>> positive("temperature", 0.0)
    Traceback (most recent call last):
    ValueError: temperature is 0.0, but must be positive
    """
    number(name, value)
    if not value > 0:
        raise ValueError(f"{name} is {value}, but must be positive")


def share(name: str, value: float) -> None:
    """Raises unless an option is a Python number from 0 to 1.

    >>> share("label_smoothing", 1.5)
    Traceback (most recent call last):
    ValueError: label_smoothing is 1.5, but must lie in 0..1
    """
    number(name, value)
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} is {value}, but must lie in 0..1")


def whole(name: str, value: int, least: int = 1) -> None:
    """Raises unless an option is a Python integer of at least `least`.

    >>> whole("iterations", 2.5)
    Traceback (most recent call last):
    ValueError: iterations is 2.5, but must be a Python integer of at least 1
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} is {value!r}, but must be a Python integer of at least {least}")


def mask(name: str, mask: Bool[Array, "*shape"], spatial_rank: int) -> Bool[Array, "*shape"]:
    """The mask as an array of jax; its last `spatial_rank` axes are one image, others batch.

    >>> import numpy as np
    >>> mask("preds", np.zeros((4, 4), np.uint8), 2)
    Traceback (most recent call last):
    TypeError: preds: the mask is uint8[4, 4], but must be bool; compare first, as in labels == 1
    """
    mask = jnp.asarray(mask)
    if mask.dtype != jnp.bool_:
        raise TypeError(
            f"{name}: the mask is {mask.dtype}{list(mask.shape)}, but must be bool; compare first, "
            "as in labels == 1"
        )
    rank(name, mask.shape, spatial_rank)
    return mask


def indices(name: str, indices: Integer[Array, "*shape"]) -> Integer[Array, "*shape"]:
    """Class indices as an array of jax; TypeError unless they are of an integer type.

    Those of 64 bits beyond int32, which jax would cut to its low bits, become its least or largest:
    the index of no class, either.

    >>> import numpy as np
    >>> indices("labels", np.array([1, 2**32])).tolist()
    [1, 2147483647]
    """
    if isinstance(indices, np.ndarray) and indices.dtype in (np.int64, np.uint64):
        bounds = np.iinfo(np.int32)
        indices = np.clip(indices, max(bounds.min, np.iinfo(indices.dtype).min), bounds.max)
        indices = indices.astype(np.int32)
    indices = jnp.asarray(indices)
    if not jnp.issubdtype(indices.dtype, jnp.integer):
        raise TypeError(
            f"{name} are {indices.dtype}{list(indices.shape)}, but must be class indices of an "
            "integer dtype; of logits or a distribution take the argmax over the last axis"
        )
    return indices


def rank(name: str, shape: Sequence[int], spatial_rank: int) -> None:
    """Raises ValueError unless an array has as many axes as one image.

    >>> rank("probs", (4, 4), 3)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: spatial_rank is 3 for probs of shape [4, 4], but must lie in 1..2: give the ...
    """
    whole("spatial_rank", spatial_rank)
    if spatial_rank > len(shape):
        raise ValueError(
            f"spatial_rank is {spatial_rank} for {name} of shape {[*shape]}, but must lie in "
            f"1..{len(shape)}: give the number of trailing axes that make one image"
        )


def where(
    where: Bool[Array, "*shape"] | None, shape: Sequence[int], each: str = "pixel that counts"
) -> Bool[Array, "*shape"] | None:
    """`where` as an array of jax, or None; ValueError unless it is one boolean for each pixel.

    >>> where([1, 0], (2,))
    Traceback (most recent call last):
    ValueError: where is int32[2], but must be bool[2]: True for each pixel that counts
    """
    if where is None:
        return None
    where = jnp.asarray(where)
    if where.dtype != jnp.bool_ or where.shape != tuple(shape):
        raise ValueError(
            f"where is {where.dtype}{list(where.shape)}, but must be bool{[*shape]}: True for "
            f"each {each}"
        )
    return where
