"""A weighted sum of losses as one function, from the plain data of a config."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

from jaxseg.losses import divergences, regions

AVAILABLE = {
    loss.__name__: loss
    for loss in (
        divergences.cross_entropy,
        divergences.kl_divergence,
        divergences.relative_entropy,
        regions.dice,
    )
}
# What the caller of the combined loss decides, not the config.
_RESERVED = ("logits", "labels", "where", "reduce", "axis_name")


def combine(terms: Sequence[tuple]) -> Callable:
    """Combines `(name, weight)` or `(name, weight, options)` terms into one loss.

    The result takes `(logits, labels, *, where, axis_name)` and returns the weighted sum and a
    dictionary with the unweighted value of each term. A second term of the same name gets `_2`.

    >>> import jax.numpy as jnp
    >>> loss = combine([("cross_entropy", 1.0), ("kl_divergence", 0.5, {"temperature": 2.0})])
    >>> total, by_term = loss(jnp.zeros((4, 2)), jnp.array([0, 1, 1, 0]))
    >>> sorted(by_term)
    ['cross_entropy', 'kl_divergence']
    """
    if not terms:
        raise ValueError(f"loss has no terms; give at least one of {', '.join(AVAILABLE)}")
    parsed = {}
    for term in terms:
        name, weight, options = _parse(term)
        earlier = sum(AVAILABLE[name] is function for function, *_ in parsed.values())
        key = f"{name}_{earlier + 1}" if earlier else name
        parsed[key] = (AVAILABLE[name], float(weight), options)

    def loss(logits, labels, *, where=None, axis_name=None):
        values = {
            key: function(logits, labels, where=where, axis_name=axis_name, **options)
            for key, (function, _, options) in parsed.items()
        }
        return sum(weight * values[key] for key, (_, weight, _) in parsed.items()), values

    return loss


def _parse(term) -> tuple[str, float, dict]:
    match term:
        case (str(name), int() | float() as weight):
            options = {}
        case (str(name), int() | float() as weight, dict(options)):
            pass
        case _:
            raise ValueError(
                f"loss term {term!r} is not understood; write (name, weight) or "
                '(name, weight, {"option": value})'
            )
    if name not in AVAILABLE:
        raise ValueError(f"loss {name!r} does not exist; choose from {', '.join(AVAILABLE)}")
    known = [p for p in inspect.signature(AVAILABLE[name]).parameters if p not in _RESERVED]
    for option in options:
        if option not in known:
            raise ValueError(
                f"loss {name!r} has no option {option!r}; its options are {', '.join(known)}"
            )
    return name, weight, options
