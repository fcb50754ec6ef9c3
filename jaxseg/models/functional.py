"""Turns a Flax NNX module into two pure functions over plain dictionaries."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    Apply = Callable[..., tuple[Float[Array, "batch *pixels classes"], dict]]


class Functional(NamedTuple):
    """A model without state of its own.

    `init(key)` returns `(params, batch_stats)`. `apply(params, batch_stats, images, train=...,
    key=...)` returns the logits and the updated batch statistics; `key` is for dropout alone.
    """

    init: Callable[[jax.Array], tuple[dict, dict]]
    apply: Apply


def to_functional(make: Callable[[nnx.Rngs], nnx.Module]) -> Functional:
    """Splits the module that `make(rngs)` builds into `(init, apply)`.

    The module holds parameters and batch statistics only: whether it trains and its dropout key are
    arguments of its call, so there is no random state to carry, save or forget.

    >>> import jax
    >>> from jaxseg.models import UNet, to_functional
    >>> init, apply = to_functional(lambda rngs: UNet(1, 2, widths=(4, 8), rngs=rngs))
    >>> params, batch_stats = init(jax.random.key(0))
    >>> images = jax.numpy.zeros((1, 97, 131, 1))
    >>> logits, _ = apply(params, batch_stats, images, train=False)
    >>> logits.shape
    (1, 97, 131, 2)
    """
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: make(nnx.Rngs(0))))

    def init(key):
        params, batch_stats = nnx.state(make(nnx.Rngs(key)), nnx.Param, nnx.BatchStat)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats)

    def apply(params, batch_stats, images, *, train, key=None):
        # copy=True, or the module would write its statistics into the caller's variables; and jax
        # arrays, since numpy's would be written in place all the same.
        batch_stats = jax.tree.map(jnp.asarray, batch_stats)
        module = nnx.merge(graphdef, params, batch_stats, copy=True)
        logits = module(images, train=train, key=key)
        return logits, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))

    return Functional(init, apply)
