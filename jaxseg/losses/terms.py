"""A weighted sum of losses as one function, from the plain data of a config."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import lax

from jaxseg.losses import (
    boundaries,
    distillation,
    divergences,
    lovasz,
    pixelwise,
    regions,
    sigmoid,
    structure,
    upsample,
)

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

AVAILABLE = {
    loss.__name__: loss
    for loss in (
        divergences.cross_entropy,
        divergences.kl_divergence,
        divergences.relative_entropy,
        divergences.jeffreys,
        divergences.jensen_shannon,
        divergences.alpha_divergence,
        divergences.renyi_divergence,
        divergences.tsallis_divergence,
        divergences.total_variation,
        divergences.hellinger,
        divergences.chi_squared,
        divergences.brier,
        pixelwise.focal,
        pixelwise.poly1,
        pixelwise.generalized_cross_entropy,
        pixelwise.symmetric_cross_entropy,
        pixelwise.logit_adjusted,
        pixelwise.entropy,
        pixelwise.confidence_penalty,
        regions.dice,
        regions.jaccard,
        regions.tversky,
        regions.focal_tversky,
        regions.generalized_dice,
        regions.mcc,
        boundaries.boundary,
        boundaries.hausdorff_dt,
        structure.cldice,
        structure.rmi,
        distillation.marginal_kl,
        lovasz.lovasz_softmax,
        lovasz.lovasz_hinge,
        sigmoid.sigmoid_cross_entropy,
        sigmoid.sigmoid_focal,
        sigmoid.sigmoid_dice,
        sigmoid.sigmoid_tversky,
        upsample.upsample_cross_entropy,
        upsample.upsample_kl_divergence,
        upsample.upsample_relative_entropy,
        upsample.upsample_jeffreys,
        upsample.upsample_jensen_shannon,
        upsample.upsample_alpha_divergence,
        upsample.upsample_renyi_divergence,
        upsample.upsample_tsallis_divergence,
        upsample.upsample_total_variation,
        upsample.upsample_hellinger,
        upsample.upsample_chi_squared,
        upsample.upsample_brier,
    )
}
BETWEEN = {  # those of the logits of two models
    loss.__name__: loss
    for loss in (
        distillation.knowledge_distillation,
        distillation.channel_distillation,
        distillation.mutual_information,
    )
}
# What the caller of the sum decides, not the config.
_OTHERS = ("teacher_logits", "other_logits")
_RESERVED = ("logits", "labels", *_OTHERS, "where", "reduce", "axis_name")


def weighted_sum(
    terms: Mapping[str, float] | Sequence[tuple], *, teacher: bool = False
) -> Callable:
    """Makes one loss of the terms `{name: weight}`, or `(name, weight, options)` with options.

    A weight is a number, or a schedule of `(step, weight)` points, between which it is linear. The
    result takes `(logits, labels, *, where, axis_name, step)` and returns the weighted sum and a
    dictionary with the unweighted value of each term; `step` is needed for schedules alone. A
    second term of the same name gets `_2`.

    With `teacher`, the labels are the logits of another model, to which no gradient flows. There
    are then the losses between two predictions, too, and others get their softmax as labels.

    >>> import jax.numpy as jnp
    >>> loss = weighted_sum([("cross_entropy", 1.0), ("dice", ((0, 0.0), (100, 1.0)))])
    >>> total, by_term = loss(jnp.zeros((4, 2)), jnp.array([0, 1, 1, 0]), step=50)
    >>> sorted(by_term)
    ['cross_entropy', 'dice']
    >>> print(f"{total:.4f}")  # log 2 + 50/100 (1 - 2 * 1 / (2 + 2))
    0.9431
    """
    if isinstance(terms, Mapping):
        terms = tuple(terms.items())
    if not terms:
        raise ValueError(f"loss has no terms; give at least one of {', '.join(AVAILABLE)}")
    available = AVAILABLE | BETWEEN if teacher else AVAILABLE
    parsed = {}
    for term in terms:
        name, weight, options = _parse(term, available)
        earlier = sum(available[name] is function for function, *_ in parsed.values())
        key = f"{name}_{earlier + 1}" if earlier else name
        parsed[key] = (available[name], weight, options)

    def loss(logits, labels, *, where=None, axis_name=None, step=None):
        values, total = {}, 0.0
        others = lax.stop_gradient(labels)
        if teacher:
            labels = jax.nn.softmax(others)
        for key, (function, weight, options) in parsed.items():
            second = _parameters(function)[1]
            given = (labels,) if second == "labels" else (others,) if second in _OTHERS else ()
            values[key] = function(logits, *given, where=where, axis_name=axis_name, **options)
            total += _at(weight, step) * values[key]
        return total, values

    return loss


def _at(
    weight: float | tuple[tuple[float, float], ...], step: Int[Array, ""] | None
) -> float | Float[Array, ""]:
    if isinstance(weight, float):
        return weight
    if step is None:
        raise ValueError(f"the weight {weight} is a schedule, but no step was given")
    return jnp.interp(step, *map(jnp.asarray, zip(*weight, strict=True)))


def _parse(term, available: Mapping[str, Callable]) -> tuple[str, float | tuple, dict]:
    match term:
        case (str(name), weight):
            options = {}
        case (str(name), weight, dict(options)):
            pass
        case _:
            raise _not_understood(term)
    match weight:
        case bool():
            raise _not_understood(term)
        case int() | float():
            weight = float(weight)
        case list() | tuple() if weight and all(_is_point(x) for x in weight):
            weight = tuple((float(step), float(value)) for step, value in weight)
            if any(a >= b for (a, _), (b, _) in itertools.pairwise(weight)):
                raise ValueError(f"the steps of the weight {weight} of {name!r} do not increase")
        case _:
            raise _not_understood(term)
    if name not in available:
        if name in BETWEEN:
            raise ValueError(f"loss {name!r} needs a teacher; put it into teacher.loss")
        raise ValueError(f"loss {name!r} does not exist; choose from {', '.join(available)}")
    known = [p for p in _parameters(available[name]) if p not in _RESERVED]
    for option in options:
        if option not in known:
            raise ValueError(
                f"loss {name!r} has no option {option!r}; its options are {', '.join(known)}"
            )
    return name, weight, options


def _is_point(point) -> bool:
    return (
        isinstance(point, list | tuple) and [type(x) in (int, float) for x in point] == [True] * 2
    )


def _not_understood(term) -> ValueError:
    return ValueError(
        f"loss term {term!r} is not understood; write (name, weight) or "
        '(name, weight, {"option": value})'
    )


def _parameters(function: Callable) -> list[str]:
    return list(inspect.signature(function).parameters)
