"""What every loss shares: the only place that reads labels, `where` and class weights.

A pixelwise loss is a `Term`, a function of the target p and the prediction q at one pixel; an
overlap is a function of `class_sums`. Both have gradients in closed form that need nothing but the
loss's own arguments, so that a backward pass keeps no copy of the logits, where automatic
differentiation keeps several.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxseg import checks

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int, Num

Reduce = Literal["mean"] | None


class Pair(NamedTuple):
    """The target p and the prediction q of each pixel, finite and inert outside `where`."""

    p: Float[Array, "*pixels classes"]
    q: Float[Array, "*pixels classes"]
    log_p: Float[Array, "*pixels classes"]
    log_q: Float[Array, "*pixels classes"]

    @property
    def log_ratio(self) -> Float[Array, "*pixels classes"]:
        """log(q / p); infinite where p is 0."""
        return jnp.where(self.p > 0, self.log_q - self.log_p, jnp.inf)

    @property
    def difference(self) -> Float[Array, "*pixels classes"]:
        """q - p, without the rounding of the two where they are close."""
        ratio = self.log_ratio
        close = jnp.abs(ratio) < 1.0
        return jnp.where(close, self.p * jnp.expm1(jnp.where(close, ratio, 0.0)), self.q - self.p)


class Term(NamedTuple):
    """A loss at one pixel, as a function of p and q, with its derivatives.

    `value(pair, *params)` is `[*pixels]`. `slope(pair, *params)`, `[*pixels, classes]`, is the
    derivative in each log q, all taken as independent; a multiple of q may be added to it, since
    the derivative in the logits is slope - q sum(slope). `merges` says that classes of no p count
    by the sum of their q alone, as in every f-divergence.
    """

    value: Callable[..., Array]
    slope: Callable[..., Array]
    merges: bool = True


class _How(NamedTuple):
    """What of a pixelwise loss is known at compile time."""

    term: Term
    params: tuple
    label_smoothing: float
    temperature: float


def pixelwise(
    term: Term,
    params: tuple,
    logits: Float[Array, "*pixels classes"],
    labels: Num[Array, "*pixels"] | Num[Array, "*pixels classes"],
    *,
    where: Bool[Array, "*pixels"] | None,
    class_weights: Float[Array, " classes"] | None,
    reduce: Reduce,
    axis_name: str | None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
) -> Float[Array, ""] | Float[Array, "*pixels"]:
    """The weighted mean of a term over the pixels that count, on all replicas, or the weighted map.

    The weight of a pixel is 1, or the class weight expected under its label. Outside `where`,
    logits become 0 and targets uniform before anything is computed, so that not even a NaN can
    reach a value or a gradient. An integer label outside 0..classes-1 at a pixel that counts makes
    the loss NaN: an error can't be raised under jit, and a quiet wrong number would be worse.
    """
    logits, labels, where, class_weights = check(logits, labels, where, class_weights)
    checks.share("label_smoothing", label_smoothing)
    checks.positive("temperature", temperature)
    how = _How(term, params, float(label_smoothing), float(temperature))
    values = _map(how, logits, labels, where)
    counts = weights(labels, where, class_weights, logits.shape, values.dtype)
    return reduced(values * counts, counts, reduce, axis_name)


def _map_of(how, logits, labels, where):
    if _certain(how, labels):
        pair, _ = _merged_pair(how, logits, labels, where)
    else:
        pair = _pair(how, logits, labels, where)
    values = how.term.value(pair, *how.params)
    return values if where is None else jnp.where(where, values, 0.0)


def _map_forward(how, logits, labels, where):
    return _map_of(how, logits, labels, where), (logits, labels, where)


def _map_backward(how, kept, cotangent):
    logits, labels, where = kept
    to_tempered = cotangent / how.temperature
    if _certain(how, labels):
        pair, powers = _merged_pair(how, logits, labels, where)
        of_label, of_rest = jnp.moveaxis(how.term.slope(pair, *how.params), -1, 0)
        rest = pair.q[..., 1]
        scale = (of_label - pair.q[..., 0] * divide(of_rest, rest)) * to_tempered
        label, of_others = _one_hot(labels, logits.shape[-1]), -scale / jnp.sum(powers, -1)
        gradient = jnp.where(label, (rest * scale)[..., None], powers * of_others[..., None])
        return narrow(masked(gradient, where), logits.dtype), None, None
    pair = _pair(how, logits, labels, where)
    gradient = to_logits(pair.q, how.term.slope(pair, *how.params)) * to_tempered[..., None]
    if jnp.issubdtype(labels.dtype, jnp.integer):
        return narrow(masked(gradient, where), logits.dtype), None, None

    def value(labels):
        return how.term.value(_pair(how, logits, labels, where), *how.params)

    (of_labels,) = jax.vjp(value, labels)[1](cotangent)
    gradient = narrow(masked(gradient, where), logits.dtype)
    return gradient, masked(of_labels, where), None


_map = jax.custom_vjp(_map_of, nondiff_argnums=(0,))
_map.defvjp(_map_forward, _map_backward)
_map = jax.jit(_map, static_argnums=0)


def _certain(how: _How, labels) -> bool:
    """Whether targets are single classes, beside which the term sees all others as one."""
    integers = jnp.issubdtype(labels.dtype, jnp.integer)
    return integers and how.term.merges and not how.label_smoothing


def _merged_pair(how: _How, logits, labels, where) -> tuple[Pair, Array]:
    """The label's class and the rest as a pair of two; and the multiple of q whose largest is 1.

    So that no array of the logits' size is made but that of the gradient.
    """
    logits = _tempered(logits, where, how.temperature)
    largest = lax.stop_gradient(jnp.max(logits, -1))
    powers = jnp.exp(logits - largest[..., None])
    log_q = _of_label(logits, labels) - largest - jnp.log(jnp.sum(powers, -1))
    rest = -jnp.expm1(log_q)
    first = lax.broadcasted_iota(jnp.int32, (*log_q.shape, 2), log_q.ndim) == 0

    def two(of_label, of_rest):  # selected, which XLA fuses, and a concatenation less
        return jnp.where(first, of_label[..., None], of_rest[..., None])

    one, zero = jnp.ones_like(log_q), jnp.zeros_like(log_q)
    p, log_p = two(one, zero), two(zero, jnp.full_like(log_q, -jnp.inf))
    return Pair(p, two(jnp.exp(log_q), rest), log_p, two(log_q, log(rest))), powers


def _pair(how: _How, logits, labels, where) -> Pair:
    log_q = log_probs(logits, where, how.temperature)
    p = targets(labels, where, logits.shape[-1], log_q.dtype)
    if how.label_smoothing:
        p = (1.0 - how.label_smoothing) * p + how.label_smoothing / p.shape[-1]
    return Pair(p, jnp.exp(log_q), _log_p(how, labels, p, where), log_q)


def _log_p(how: _How, labels, p, where) -> Float[Array, "*pixels classes"]:
    """log p, which of class indices is one of two or three numbers."""
    if jnp.issubdtype(labels.dtype, jnp.floating):
        return log(p)
    e, num_classes = how.label_smoothing, p.shape[-1]
    of_rest, of_label, of_any = (
        math.log(x) if x > 0 else -math.inf
        for x in (e / num_classes, 1.0 - e + e / num_classes, 1.0 / num_classes)
    )
    log_p = jnp.where(_one_hot(labels, num_classes), of_label, of_rest).astype(p.dtype)
    return log_p if where is None else jnp.where(where[..., None], log_p, of_any)


def _side(p: Array, q: Array) -> Array:
    """The sign of q - p, at a fraction of what XLA spends on `jnp.sign` on a CPU."""
    return (q > p).astype(q.dtype) - (q < p).astype(q.dtype)


SUMS = {
    # Of p and q at each pixel: what is summed, and its derivative in q.
    "overlap": (lambda p, q: p * q, lambda p, q: p),
    "predicted": (lambda p, q: q, lambda p, q: jnp.ones_like(q)),
    "labelled": (lambda p, q: p, lambda p, q: jnp.zeros_like(q)),
    "difference": (lambda p, q: jnp.abs(p - q), _side),
    "squared_difference": (lambda p, q: jnp.square(p - q), lambda p, q: 2.0 * (q - p)),
    "predicted_squares": (lambda p, q: q * q, lambda p, q: 2.0 * q),
    "labelled_squares": (lambda p, q: p * p, lambda p, q: jnp.zeros_like(q)),
    "counted": (lambda p, q: jnp.ones_like(q), lambda p, q: jnp.zeros_like(q)),
}


def class_sums(
    names: tuple[str, ...],
    logits: Float[Array, "*pixels classes"],
    labels: Num[Array, "*pixels"] | Num[Array, "*pixels classes"],
    *,
    where: Bool[Array, "*pixels"] | None,
    per_image: bool = False,
    axis_name: str | None = None,
) -> tuple[Float[Array, "*images classes"], ...]:
    """The sums named in `SUMS` over the pixels that count, for each class and on all replicas.

    With `per_image`, for each entry of the first axis by itself and on this replica alone. Inputs
    come from `check`.
    """
    sums = _sums((names, per_image), logits, labels, where)
    return sums if per_image else tuple(total(x, axis_name) for x in sums)


def _sums_of(how, logits, labels, where):
    names, per_image = how
    log_q = log_probs(logits, where)
    p, q = targets(labels, where, logits.shape[-1], log_q.dtype), jnp.exp(log_q)
    over = tuple(range(1 if per_image else 0, q.ndim - 1))
    sums = tuple(jnp.sum(masked(SUMS[name][0](p, q), where), over) for name in names)
    found = jnp.all(_known(labels, where, logits.shape), over)[..., None]
    return tuple(jnp.where(found, x, jnp.nan) for x in sums)


def _sums_forward(how, logits, labels, where):
    return _sums_of(how, logits, labels, where), (logits, labels, where)


def _sums_backward(how, kept, cotangents):
    names, per_image = how
    logits, labels, where = kept
    log_q = log_probs(logits, where)
    p, q = targets(labels, where, logits.shape[-1], log_q.dtype), jnp.exp(log_q)
    lead = q.shape[:1] if per_image else ()
    cotangents = [
        jnp.broadcast_to(x.reshape(*lead, *(1,) * (q.ndim - len(lead) - 1), -1), q.shape)
        for x in cotangents
    ]
    slope = sum(x * SUMS[name][1](p, q) for name, x in zip(names, cotangents, strict=True))
    gradient = masked(to_logits(q, q * slope), where).astype(logits.dtype)
    if jnp.issubdtype(labels.dtype, jnp.integer):
        return gradient, None, None

    def value(p):
        return tuple(SUMS[name][0](p, q) for name in names)

    (of_labels,) = jax.vjp(value, p)[1](tuple(cotangents))
    return gradient, masked(of_labels, where).astype(labels.dtype), None


_sums = jax.custom_vjp(_sums_of, nondiff_argnums=(0,))
_sums.defvjp(_sums_forward, _sums_backward)
_sums = jax.jit(_sums, static_argnums=0)


def check(
    logits: Float[Array, "*pixels classes"],
    labels: Num[Array, "*pixels"] | Num[Array, "*pixels classes"],
    where: Bool[Array, "*pixels"] | None,
    class_weights: Float[Array, " classes"] | None,
    pixels: tuple[int, ...] | None = None,
) -> tuple[Array, Array, Array | None, Array | None]:
    """The inputs of a loss as arrays; TypeError or ValueError for those that make none.

    `pixels` is the shape of the labels' pixels where it is not that of the logits'.
    """
    logits, labels = check_logits(logits), jnp.asarray(labels)
    num_classes = logits.shape[-1]
    pixels = [*logits.shape[:-1]] if pixels is None else [*pixels]
    integers = jnp.issubdtype(labels.dtype, jnp.integer)
    expected = pixels if integers else [*pixels, num_classes]
    if labels.dtype == jnp.bool_ or jnp.issubdtype(labels.dtype, jnp.complexfloating):
        raise TypeError(f"labels are {labels.dtype}, but must be class indices or a distribution")
    if labels.shape != tuple(expected):
        raise ValueError(
            f"labels are {labels.dtype}{list(labels.shape)} for logits {list(logits.shape)}, but "
            f"class indices need an integer dtype and shape {pixels}, and distributions a float "
            f"dtype and shape {[*pixels, num_classes]}"
        )
    return logits, labels, checks.where(where, pixels), check_weights(class_weights, logits)


def check_logits(logits: Float[Array, "*pixels classes"]) -> Array:
    """The logits as an array; TypeError for those that are none."""
    logits = jnp.asarray(logits)
    if logits.ndim < 1 or not jnp.issubdtype(logits.dtype, jnp.floating):
        raise TypeError(
            f"logits are {logits.dtype}{list(logits.shape)}, but a loss needs floating-point "
            "[*pixels, classes]; pass the model's raw outputs"
        )
    return logits


def check_weights(
    class_weights: Float[Array, " classes"] | None, logits: Float[Array, "*pixels classes"]
) -> Array | None:
    """The weights as an array; ValueError unless there is one for each class."""
    if class_weights is None:
        return None
    class_weights = jnp.asarray(class_weights, wide(logits).dtype)
    if class_weights.shape != logits.shape[-1:]:
        raise ValueError(
            f"class_weights have shape {list(class_weights.shape)}, but the logits have "
            f"{logits.shape[-1]} classes; give one weight for each"
        )
    return class_weights


def check_pixelwise(maker: str, loss: Callable) -> None:
    """Raises ValueError unless a loss can be asked for its map of labels."""
    missing = {"labels", "where", "reduce"} - set(inspect.signature(loss).parameters)
    if missing:
        raise ValueError(
            f"{maker} needs a loss of logits and labels with one value for each pixel, such as "
            f"cross_entropy, but {_name(loss)} takes no {' and no '.join(sorted(missing))}"
        )


def check_map(maker: str, loss: Callable, values, labels, num_classes: int) -> None:
    """Raises ValueError unless the map of a loss has one value for each pixel of the labels."""
    shape = jnp.shape(labels)
    if jnp.issubdtype(jnp.asarray(labels).dtype, jnp.floating) and shape[-1:] == (num_classes,):
        shape = shape[:-1]
    if values.shape != shape:
        raise ValueError(
            f"{maker} needs a loss with one value for each pixel, but {_name(loss)} gives "
            f"{list(values.shape)} for labels {list(jnp.shape(labels))}"
        )


def _name(loss: Callable) -> str:
    return getattr(loss, "__name__", repr(loss))


def wide(x: Array) -> Array:
    """In float32 at least, which everything is computed in."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def log_probs(logits, where, temperature: float = 1.0) -> Float[Array, "*pixels classes"]:
    """log q in float32 at least; uniform outside `where`."""
    return jax.nn.log_softmax(_tempered(logits, where, temperature))


def _tempered(logits, where, temperature: float) -> Float[Array, "*pixels classes"]:
    """The logits in float32 at least, divided by the temperature; 0 outside `where`."""
    logits = masked(wide(logits), where)
    return logits if temperature == 1.0 else logits / temperature


def targets(labels, where, num_classes: int, dtype) -> Float[Array, "*pixels classes"]:
    """The labels as distributions; uniform outside `where`, and 0 for a label of no class."""
    if jnp.issubdtype(labels.dtype, jnp.integer):
        p = _one_hot(labels, num_classes).astype(dtype)
    else:
        p = labels.astype(dtype)
    return p if where is None else jnp.where(where[..., None], p, 1.0 / num_classes)


def weights(labels, where, class_weights, shape, dtype) -> Float[Array, "*pixels"]:
    """The weight of each pixel: 0 outside `where`, and NaN for a label of no class."""
    # Not even in passing NaN where nothing counts: NaN times 0 is NaN in a backward pass.
    found = jnp.where(_known(labels, where, shape), jnp.ones(shape[:-1], dtype), jnp.nan)
    if class_weights is not None:
        expected = jnp.broadcast_to(class_weights, shape)
        if jnp.issubdtype(labels.dtype, jnp.integer):
            # Selected, since XLA would make a product a matrix product, and hold a one-hot array.
            found = found * jnp.sum(jnp.where(_one_hot(labels, shape[-1]), expected, 0.0), -1)
        else:
            found = found * jnp.sum(targets(labels, where, shape[-1], dtype) * expected, -1)
    return found if where is None else jnp.where(where, found, 0.0)


def _known(labels, where, shape) -> Bool[Array, "*pixels"]:
    """Whether the label of a pixel, if it counts, is one of the classes."""
    if jnp.issubdtype(labels.dtype, jnp.floating):
        return jnp.ones(shape[:-1], bool)
    known = (_indices(labels) >= 0) & (_indices(labels) < shape[-1])
    return known if where is None else known | ~where


def _indices(labels: Array) -> Int[Array, "*pixels"]:
    """Indices in a type that any number of classes can be compared in, which int8 is not."""
    return labels.astype(jnp.promote_types(labels.dtype, jnp.int32))


def _one_hot(labels: Array, num_classes: int) -> Bool[Array, "*pixels classes"]:
    """Whether a pixel has a class, for all: the transpose of a gather would be a slow scatter."""
    labels = _indices(labels)[..., None]
    shape = (*labels.shape[:-1], num_classes)
    return labels == lax.broadcasted_iota(labels.dtype, shape, labels.ndim - 1)


def _of_label(values: Array, labels: Array) -> Float[Array, "*pixels"]:
    """The value of each pixel's label: gathered on a CPU, and elsewhere, where that is slow, not.

    Immaterial, but finite, for a label of no class.
    """

    def gathered(values, labels):
        return jnp.take_along_axis(values, _indices(labels)[..., None], -1, mode="clip")[..., 0]

    def selected(values, labels):
        return jnp.sum(jnp.where(_one_hot(labels, values.shape[-1]), values, 0.0), -1)

    return lax.platform_dependent(values, labels, cpu=gathered, default=selected)


def to_logits(q: Array, slope: Array) -> Float[Array, "*pixels classes"]:
    """The derivative in the logits from that in log q."""
    return slope - q * jnp.sum(slope, -1, keepdims=True)


def narrow(gradient: Array, dtype: jnp.dtype) -> Array:
    """The gradient in the logits' type, whose range, that of float16 say, it may exceed."""
    most = jnp.finfo(dtype).max
    if most < jnp.finfo(gradient.dtype).max:
        gradient = jnp.clip(gradient, -most, most)
    return gradient.astype(dtype)


def masked(values: Array, where: Array | None) -> Array:
    """The values, and 0 outside `where`."""
    return values if where is None else jnp.where(where[..., None], values, 0)


def log(p: Array) -> Array:
    """The logarithm; -inf with zero gradient where p is 0."""
    return jnp.where(p > 0, jnp.log(jnp.where(p > 0, p, 1.0)), -jnp.inf)


def dot(p: Array, values: Array) -> Float[Array, "*pixels"]:
    """The expectation of values under p, where 0 times infinity is 0."""
    return jnp.sum(p * jnp.where((p == 0) & jnp.isinf(values), 0.0, values), -1)


def total(value: Array, axis_name: str | None) -> Array:
    """The sum over replicas, or the value itself where there is no axis.

    One array a call: jax 0.7 can't transpose a psum of several when only some are differentiated.
    """
    return value if axis_name is None else lax.psum(value, axis_name)


def reduced(
    values: Float[Array, "*pixels"],
    counts: Float[Array, "*pixels"],
    reduce: Reduce,
    axis_name: str | None,
) -> Float[Array, ""] | Float[Array, "*pixels"]:
    """The weighted values, or their sum over that of the weights `counts`, on all replicas."""
    if reduce is None:
        return values
    if reduce != "mean":
        raise ValueError(f'reduce is {reduce!r}, but must be "mean" or None (for the map)')
    return divide(total(jnp.sum(values), axis_name), total(jnp.sum(counts), axis_name))


def divide(numerator: Array, denominator: Array) -> Array:
    """The quotient, and 0 with zero gradient where the denominator is 0."""
    empty = denominator == 0
    return jnp.where(empty, 0.0, _quotient(numerator, jnp.where(empty, 1.0, denominator)))


@jax.custom_jvp
def _quotient(numerator: Array, denominator: Array) -> Array:
    return numerator / denominator


@_quotient.defjvp
def _quotient_derivative(primals, tangents):
    """Without the square of the denominator, which float32 can't hold of a small or a large one."""
    quotient = _quotient(*primals)
    return quotient, _quotient(tangents[0] - quotient * tangents[1], primals[1])
