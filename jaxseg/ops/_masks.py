"""What every operation on masks asks of its input."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp

if TYPE_CHECKING:
    from jaxtyping import Array, Bool


def checked(mask: Bool[Array, "*shape"], spatial_rank: int) -> Bool[Array, "*shape"]:
    """The mask as an array of jax; its last `spatial_rank` axes are one image, others batch."""
    mask = jnp.asarray(mask)
    if mask.dtype != jnp.bool_:
        raise TypeError(
            f"mask is {mask.dtype}{list(mask.shape)}, but must be bool; compare first, as in "
            "labels == 1 or probs > 0.5"
        )
    if not 1 <= spatial_rank <= mask.ndim:
        raise ValueError(
            f"spatial_rank is {spatial_rank} for a mask of shape {list(mask.shape)}, but must lie "
            f"in 1..{mask.ndim}: give the number of trailing axes that make one image"
        )
    return mask
