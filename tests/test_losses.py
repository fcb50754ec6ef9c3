"""One table of losses, and one test for each clause of their contract.

Nearly all the time goes into compilation. So the losses are compiled together, and tests share what
is compiled: the same shapes in float32 and in float64, for whatever data. Losses with other options
are a program of their own, which quick runs do without.
"""

import functools
import inspect
import itertools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import special

from jaxseg import losses

NUM_CLASSES = 4
WEIGHTS = (0.5, 2.0, 1.0, 3.0)
SHAPE = (8, 2, 3)


def smoothed(targets, e):
    return (1 - e) * targets + e / targets.shape[-1]


def cross_entropy_map(z, p, label_smoothing=0.0):
    return -np.sum(smoothed(p, label_smoothing) * special.log_softmax(z, -1), -1)


def kl_map(z, p, label_smoothing=0.0, temperature=1.0):
    p, log_q = smoothed(p, label_smoothing), special.log_softmax(z / temperature, -1)
    return temperature**2 * np.sum(special.xlogy(p, p) - p * log_q, -1)


def relative_entropy_map(z, p, label_smoothing=0.1):
    return special.rel_entr(special.softmax(z, -1), smoothed(p, label_smoothing)).sum(-1)


def mean_of(pixel_map):
    """The definition of the mean: sum of weight times loss over the sum of weight."""

    def mean(z, p, where, class_weights, **options):
        weights = where * (1.0 if class_weights is None else p @ np.array(class_weights))
        return np.sum(weights * pixel_map(z, p, **options)) / np.sum(weights)

    return mean


def power_sum(z, p, a):
    q = special.softmax(z, -1)
    return np.sum(np.where(p > 0, p, 1) ** a * (p > 0) * q ** (1 - a), -1)


def alpha_map(z, p, alpha=0.5, label_smoothing=0.0):
    return (power_sum(z, smoothed(p, label_smoothing), alpha) - 1) / (alpha * (alpha - 1))


def renyi_map(z, p, order=2.0, label_smoothing=0.0):
    p, log_q = smoothed(p, label_smoothing), special.log_softmax(z, -1)
    powers = np.where(p > 0, order * np.log(np.where(p > 0, p, 1)) + (1 - order) * log_q, -np.inf)
    return special.logsumexp(powers, -1) / (order - 1)


def jeffreys_map(z, p, label_smoothing=0.1):
    p, log_q = smoothed(p, label_smoothing), special.log_softmax(z, -1)
    return np.sum((p - np.exp(log_q)) * (np.log(p) - log_q), -1)


def triangular_classes(p, q, f):
    return (p - q) ** 2 / np.where(p + q > 0, p + q, 1)


def jensen_shannon_map(z, p, weight=0.5, scaled=False, label_smoothing=0.0):
    p, q = smoothed(p, label_smoothing), special.softmax(z, -1)
    parts = special.entr(weight * p + (1 - weight) * q)
    value = np.sum(parts - weight * special.entr(p) - (1 - weight) * special.entr(q), -1)
    return value / (-(1 - weight) * np.log(1 - weight) if scaled else 1)


def of_probs(function):
    def pixel_map(z, p, label_smoothing=0.0, **options):
        return function(smoothed(p, label_smoothing), special.softmax(z, -1), **options).sum(-1)

    return pixel_map


def focal_map(z, p, gamma=2.0):
    return -np.sum(p * (1 - special.softmax(z, -1)) ** gamma * special.log_softmax(z, -1), -1)


def poly1_map(z, p, epsilon=1.0):
    overlap = np.sum(p * special.softmax(z, -1), -1)
    return cross_entropy_map(z, p) + epsilon * (np.sum(p, -1) - overlap)


def symmetric_map(z, p, alpha=0.1, beta=1.0, floor=-4.0):
    log_p = np.maximum(np.log(np.where(p > 0, p, 1e-300)), floor)
    return alpha * cross_entropy_map(z, p) - beta * np.sum(special.softmax(z, -1) * log_p, -1)


def logit_adjusted_map(z, p, prior, tau=1.0, label_smoothing=0.0):
    return cross_entropy_map(z + tau * np.log(prior), p, label_smoothing)


def entropy_map(z, p):
    return special.entr(special.softmax(z, -1)).sum(-1)


def overlap_value(by_class, sometimes=lambda p: p.sum() > 0):
    """The average of `by_class(p, q, **options)` over the classes that occur, and the images."""

    def of_image(z, p, where, class_weights, classes="present", **options):
        q, p = special.softmax(z, -1)[where], p[where]
        weights = np.ones(p.shape[-1]) if class_weights is None else np.array(class_weights)
        present = [c for c in range(p.shape[-1]) if classes == "all" or sometimes(p[:, c])]
        if not present:
            return 0.0
        values = [weights[c] * by_class(p[:, c], q[:, c], **options) for c in present]
        return np.sum(values) / weights[present].sum()

    def value(z, p, where, class_weights, per="batch", **options):
        if per == "batch":
            return of_image(z, p, where, class_weights, **options)
        images = [
            of_image(*image, class_weights, **options)
            for image in zip(z, p, where, strict=True)
            if image[2].any()
        ]
        return np.mean(images)

    return value


def sums_of(p, q, form):
    """The overlap and the areas of a class in a form, as the modules' text has them."""
    if form == "l1":
        return np.minimum(p, q).sum(), q.sum(), p.sum()
    if form == "product":
        return (p * q).sum(), q.sum(), p.sum()
    return (p * q).sum(), (q**2).sum(), (p**2).sum()


def dice_of_class(p, q, form="l1", smooth=0.0):
    overlap, predicted, labelled = sums_of(p, q, form)
    return 1 - (2 * overlap + smooth) / (predicted + labelled + smooth)


def jaccard_of_class(p, q, form="l1", smooth=0.0):
    overlap, predicted, labelled = sums_of(p, q, form)
    return 1 - (overlap + smooth) / (predicted + labelled - overlap + smooth)


def tversky_of_class(p, q, alpha=0.3, beta=0.7, gamma=1.0, smooth=0.0):
    overlap, predicted, labelled = sums_of(p, q, "l1")
    wrong = alpha * (predicted - overlap) + beta * (labelled - overlap)
    return (1 - (overlap + smooth) / (overlap + wrong + smooth)) ** gamma


def mcc_of_class(p, q):
    overlap, predicted, labelled = sums_of(p, q, "l1")
    n = len(p)
    return 1 - (n * overlap - predicted * labelled) / np.sqrt(
        predicted * labelled * (n - predicted) * (n - labelled)
    )


def generalized_dice_value(z, p, where, class_weights):
    q, p = special.softmax(z, -1)[where], p[where]
    top = bottom = 0.0
    for c in range(p.shape[-1]):
        overlap, predicted, labelled = sums_of(p[:, c], q[:, c], "l1")
        if labelled:
            weight = (1 if class_weights is None else class_weights[c]) / labelled**2
            top += 2 * weight * overlap
            bottom += weight * (predicted + labelled)
    return 1 - top / bottom


def jaccard_of_errors(wrong, labelled):
    """One minus the intersection over union of a class whose pixels are `wrong` or not."""
    predicted = labelled ^ wrong
    return 1 - np.sum(predicted & labelled) / max(np.sum(predicted | labelled), 1)


def lovasz_of_class(p, q):
    """The Lovasz extension by its definition: a sum over the chain of the largest errors."""
    errors, value, last = np.abs(p - q), 0.0, 0.0
    wrong = np.zeros(len(p), bool)
    for index in np.argsort(-errors):
        wrong[index] = True
        now = jaccard_of_errors(wrong, p > 0)
        value, last = value + errors[index] * (now - last), now
    return value


def triangular(u):
    """The f of the triangular discrimination sum (p - q)^2 / (p + q)."""
    return (u - 1) ** 2 / (u + 1)


class Case(NamedTuple):
    loss: Callable
    definition: Callable  # (logits, distribution, where, class_weights, **options), in float64
    options: dict[str, Any]
    hard: bool = True  # takes integer labels
    soft: bool = True  # takes distributions
    saturates: bool = False  # grows so fast that it is cut off
    replicas: bool = True  # takes an axis_name

    @property
    def by_image(self):
        """Whether the first axis means more than pixels."""
        return self.options.get("per") == "image"


CASES = {
    "cross_entropy": Case(losses.cross_entropy, mean_of(cross_entropy_map), {}),
    "cross_entropy_smoothed_weighted": Case(
        losses.cross_entropy,
        mean_of(cross_entropy_map),
        {"label_smoothing": 0.2, "class_weights": WEIGHTS},
    ),
    "kl_divergence": Case(losses.kl_divergence, mean_of(kl_map), {}),
    "kl_divergence_tempered_smoothed_weighted": Case(
        losses.kl_divergence,
        mean_of(kl_map),
        {"temperature": 3.0, "label_smoothing": 0.1, "class_weights": WEIGHTS},
    ),
    "relative_entropy": Case(losses.relative_entropy, mean_of(relative_entropy_map), {}),
    "relative_entropy_weighted": Case(
        losses.relative_entropy,
        mean_of(relative_entropy_map),
        {"label_smoothing": 0.5, "class_weights": WEIGHTS},
    ),
    "relative_entropy_unsmoothed": Case(
        losses.relative_entropy,
        mean_of(relative_entropy_map),
        {"label_smoothing": 0.0},
        hard=False,
    ),
    "jeffreys": Case(losses.jeffreys, mean_of(jeffreys_map), {}),
    "jensen_shannon": Case(losses.jensen_shannon, mean_of(jensen_shannon_map), {}),
    "jensen_shannon_scaled": Case(
        losses.jensen_shannon,
        mean_of(jensen_shannon_map),
        {"weight": 0.2, "scaled": True, "label_smoothing": 0.1, "class_weights": WEIGHTS},
    ),
    "alpha_divergence": Case(losses.alpha_divergence, mean_of(alpha_map), {}),
    "alpha_divergence_small": Case(losses.alpha_divergence, mean_of(alpha_map), {"alpha": 0.2}),
    "alpha_divergence_large": Case(
        losses.alpha_divergence,
        mean_of(alpha_map),
        {"alpha": 1.5, "class_weights": WEIGHTS},
        saturates=True,
    ),
    "alpha_divergence_negative": Case(
        losses.alpha_divergence,
        mean_of(alpha_map),
        {"alpha": -0.5, "label_smoothing": 0.2},
    ),
    "renyi_divergence": Case(losses.renyi_divergence, mean_of(renyi_map), {}),
    "renyi_divergence_half": Case(
        losses.renyi_divergence, mean_of(renyi_map), {"order": 0.5, "label_smoothing": 0.1}
    ),
    "tsallis_divergence": Case(
        losses.tsallis_divergence,
        mean_of(lambda z, p, order: order * alpha_map(z, p, order)),
        {"order": 0.7},
    ),
    "total_variation": Case(
        losses.total_variation, mean_of(of_probs(lambda p, q: abs(p - q) / 2)), {}
    ),
    "hellinger": Case(
        losses.hellinger, mean_of(of_probs(lambda p, q: (p**0.5 - q**0.5) ** 2 / 2)), {}
    ),
    "chi_squared": Case(
        losses.chi_squared, mean_of(of_probs(lambda p, q: (p - q) ** 2 / q)), {}, saturates=True
    ),
    "brier": Case(losses.brier, mean_of(of_probs(lambda p, q: (p - q) ** 2)), {}),
    "f_divergence": Case(
        losses.f_divergence,
        mean_of(of_probs(triangular_classes)),
        {"f": triangular},
    ),
    "focal": Case(losses.focal, mean_of(focal_map), {}),
    "focal_half_weighted": Case(
        losses.focal, mean_of(focal_map), {"gamma": 0.5, "class_weights": WEIGHTS}
    ),
    "poly1": Case(losses.poly1, mean_of(poly1_map), {"epsilon": 2.0}),
    "generalized_cross_entropy": Case(
        losses.generalized_cross_entropy,
        mean_of(of_probs(lambda p, q, **_: p * (1 - q**0.7) / 0.7)),
        {},
    ),
    "symmetric_cross_entropy": Case(losses.symmetric_cross_entropy, mean_of(symmetric_map), {}),
    "logit_adjusted": Case(
        losses.logit_adjusted, mean_of(logit_adjusted_map), {"prior": (0.4, 0.3, 0.2, 0.1)}
    ),
    "dice": Case(losses.dice, overlap_value(dice_of_class), {}),
    "dice_smooth_weighted": Case(
        losses.dice, overlap_value(dice_of_class), {"smooth": 1.0, "class_weights": WEIGHTS}
    ),
    "dice_product": Case(
        losses.dice, overlap_value(dice_of_class), {"form": "product", "smooth": 0.5}
    ),
    "dice_squared_per_image": Case(
        losses.dice, overlap_value(dice_of_class), {"form": "squared", "per": "image"}
    ),
    "jaccard": Case(losses.jaccard, overlap_value(jaccard_of_class), {}),
    "jaccard_product_weighted": Case(
        losses.jaccard,
        overlap_value(jaccard_of_class),
        {"form": "product", "smooth": 1.0, "class_weights": WEIGHTS},
    ),
    "jaccard_squared_all": Case(
        losses.jaccard, overlap_value(jaccard_of_class), {"form": "squared", "classes": "all"}
    ),
    "tversky": Case(losses.tversky, overlap_value(tversky_of_class), {"smooth": 0.5}),
    "focal_tversky": Case(
        losses.focal_tversky,
        overlap_value(functools.partial(tversky_of_class, gamma=0.75)),
        {"class_weights": WEIGHTS},
    ),
    "generalized_dice": Case(losses.generalized_dice, generalized_dice_value, {}),
    "mcc": Case(losses.mcc, overlap_value(mcc_of_class, lambda p: 0 < p.sum() < len(p)), {}),
    "lovasz_softmax": Case(
        losses.lovasz_softmax,
        overlap_value(lovasz_of_class),
        {"class_weights": WEIGHTS},
        soft=False,
        replicas=False,
    ),
    "lovasz_softmax_per_image": Case(
        losses.lovasz_softmax, overlap_value(lovasz_of_class), {"per": "image"}, soft=False
    ),
}
LOSSES = {case.loss.__name__: case.loss for case in CASES.values()}
NEEDED = {"f": triangular, "prior": (0.4, 0.3, 0.2, 0.1), "order": 0.7}  # without a default


def with_needed(loss):
    """The loss with the options that it can't do without."""
    missing = {
        name: NEEDED[name]
        for name, parameter in inspect.signature(loss).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty
    }
    return functools.partial(loss, **missing) if missing else loss


PAIRS = tuple(
    (name, kind)
    for name, kind in itertools.product(CASES, ("hard", "soft"))
    if getattr(CASES[name], kind)
)
MAPS = tuple(x for x in PAIRS if "reduce" in inspect.signature(CASES[x[0]].loss).parameters)
SHARED = tuple(x for x in PAIRS if CASES[x[0]].replicas)
MAIN = tuple(x for x in PAIRS if x[0] == CASES[x[0]].loss.__name__)
HARD = tuple(x for x in PAIRS if x[1] == "hard")
MAIN_HARD, MAIN_SHARED = (tuple(x for x in MAIN if x in some) for some in (HARD, SHARED))


def every(pairs):
    """A test for each pair; those of a loss with other options are left out of quick runs."""
    marked = []
    for name, kind in pairs:
        marks = () if (name, kind) in MAIN else pytest.mark.exhaustive
        marked.append(pytest.param(name, kind, marks=marks))
    return pytest.mark.parametrize(("name", "kind"), marked)


every_loss = pytest.mark.parametrize("loss", [with_needed(x) for x in LOSSES.values()], ids=LOSSES)


class Problem(NamedTuple):
    logits: np.ndarray
    labels: np.ndarray
    where: np.ndarray
    class_weights: np.ndarray = np.array(WEIGHTS)  # for the cases that have some

    @property
    def targets(self):
        return self.labels if self.labels.dtype.kind == "f" else np.eye(NUM_CLASSES)[self.labels]


def problem(kind, shape=SHAPE, seed=0):
    """Random logits, labels and `where`, in float64."""
    rng = np.random.default_rng(seed)
    labels = {
        "hard": rng.integers(0, NUM_CLASSES, shape, np.int32),
        "soft": rng.dirichlet(np.ones(NUM_CLASSES), shape),
    }
    logits = rng.normal(0, 2, (*shape, NUM_CLASSES))
    return Problem(logits, labels[kind], rng.random(shape) < 0.6)


def define(name, data, where=None):
    """The value of a case by its definition, in float64."""
    options = {"class_weights": None} | CASES[name].options
    where = np.ones(data.where.shape, bool) if where is None else where
    return CASES[name].definition(data.logits, data.targets, where, **options)


def call(name, logits, labels, where=None, class_weights=WEIGHTS, **more):
    """A case of these class weights, if it has any at all."""
    options = CASES[name].options
    if "class_weights" in options:
        options = options | {"class_weights": class_weights}
    return CASES[name].loss(logits, labels, where=where, **options | more)


def value_and_grads(name, logits, labels, where, class_weights):
    """The value, and the gradients in all that is differentiable."""
    given = {"logits": logits, "labels": labels, "class_weights": class_weights}
    given = {of: jnp.asarray(x) for of, x in given.items()}
    real = {of: x for of, x in given.items() if jnp.issubdtype(x.dtype, jnp.floating)}
    return jax.value_and_grad(lambda x: call(name, **given | x, where=where))(real)


@functools.cache
def program(function, pairs, kind, main):
    """All the losses of a kind as one function, which compiles them together.

    Either the losses as they are or those with other options.
    """
    names = [name for name, k in pairs if k == kind and ((name, k) in MAIN) == main]
    return jax.jit(lambda *arguments: {name: function(name, *arguments) for name in names})


def compiled(function, name, kind, *arguments, among=PAIRS):
    """`function(name, *arguments)`, by a program that is compiled once for each type and shape."""
    return program(function, among, kind, (name, kind) in MAIN)(*arguments)[name]


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


MAKERS = {"deep_supervision", "hard_pixels", "upsampled", "weighted_sum"}
BETWEEN = {"knowledge_distillation", "channel_distillation", "consistency", "mutual_information"}
OTHERS = MAKERS | {"entropy", "confidence_penalty", "lovasz_hinge"}
OTHERS |= {"boundary", "hausdorff_dt", "cldice", "rmi", "marginal_kl"}
OTHERS |= BETWEEN
OTHERS |= {f"sigmoid_{name}" for name in ("cross_entropy", "focal", "dice", "tversky")}
OTHERS |= {name for name in losses.__all__ if name.startswith("upsample")}


def test_table_is_complete():
    """Every loss of logits and labels over classes is in it; test_losses_more.py has the others."""
    assert set(LOSSES) == set(losses.__all__) - OTHERS
    assert {name for name, _ in MAIN} == set(LOSSES)


@pytest.mark.parametrize("yes_no", [False, True])
def test_config_can_name_it(yes_no):
    """All that need no more than labels, and no function, which is no plain data."""
    needed = {"logit_adjusted": {"prior": NEEDED["prior"]}, "tsallis_divergence": {"order": 2.0}}
    names = [
        name
        for name in sorted(set(losses.__all__) - BETWEEN - MAKERS)
        if ("sigmoid" in name or "hinge" in name) == yes_no and not name.endswith("f_divergence")
    ]
    options = [needed.get(name.removeprefix("upsample_"), {}) for name in names]
    loss = losses.weighted_sum([(name, 1.0, x) for name, x in zip(names, options, strict=True)])
    data = problem("hard", (2, 4, 5))
    _, terms = jax.jit(loss)(data.logits, data.targets if yes_no else data.labels)
    assert list(terms) == names
    assert np.isfinite(list(terms.values())).all()


@every_loss
def test_signature(loss):
    """Two positional arguments, the rest by keyword; no flag that the contract rules out."""
    parameters = inspect.signature(loss).parameters
    positional = [n for n, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    keyword = {n: p.default for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert positional == ["logits", "labels"]
    assert len(positional) + len(keyword) == len(parameters)
    for name in ("where", "class_weights", "axis_name"):
        assert keyword[name] is None
    assert not {"mode", "from_logits", "activation", "ignore_index", "reduction"} & set(keyword)


@pytest.mark.usefixtures("x64")
@every(PAIRS)
def test_value_is_the_definition(name, kind):
    """In float64, with and without `where`, the value is that of numpy and scipy."""
    for seed in range(3):
        data = problem(kind, seed=seed)
        value, _ = compiled(value_and_grads, name, kind, *data)
        everywhere = compiled(call, name, kind, *data._replace(where=None))
        assert value.dtype == everywhere.dtype == jnp.float64
        np.testing.assert_allclose(value, define(name, data, data.where), rtol=1e-12)
        np.testing.assert_allclose(everywhere, define(name, data), rtol=1e-12)


@every(PAIRS)
def test_float32_is_close_to_the_definition(name, kind):
    data = problem(kind)
    value, _ = compiled(value_and_grads, name, kind, *data)
    assert value.dtype == jnp.float32
    assert value.shape == ()
    np.testing.assert_allclose(value, define(name, data, data.where), rtol=1e-6)


@pytest.mark.usefixtures("x64")
@every(PAIRS)
def test_gradient_is_the_numerical_one(name, kind):
    """The gradient in the logits is the difference quotient of the definition, in float64."""
    data = problem(kind)
    _, grads = compiled(value_and_grads, name, kind, *data)
    step, numerical = 1e-3, np.zeros_like(data.logits)
    for index in np.argwhere(np.broadcast_to(data.where[..., None], data.logits.shape)):
        index = tuple(index)
        for offset, factor in ((-2, 1 / 12), (-1, -2 / 3), (1, 2 / 3), (2, -1 / 12)):
            logits = data.logits.copy()
            logits[index] += offset * step
            moved = define(name, data._replace(logits=logits), data.where)
            numerical[index] += factor * moved / step
    assert np.abs(numerical).max() > 1e-3
    # What grows without bound has higher derivatives to match, which the quotient neglects.
    accuracy = 1e-6 if CASES[name].saturates else 1e-8
    np.testing.assert_allclose(grads["logits"], numerical, rtol=accuracy, atol=1e-11)


@pytest.mark.usefixtures("x64")
@every(MAIN)
@pytest.mark.parametrize("shape", [(48,), (1, 8, 2, 3)])
def test_any_rank(name, kind, shape):
    """Any arrangement of the same pixels gives the same value."""
    data = problem(kind)
    value, _ = compiled(value_and_grads, name, kind, *data)
    arranged = compiled(
        call, name, kind, *Problem(*(x.reshape(*shape, *x.shape[3:]) for x in data[:3]))
    )
    np.testing.assert_allclose(arranged, value, rtol=1e-14)


@pytest.mark.usefixtures("x64")
@every(MAIN)
def test_single_pixel_without_axes(name, kind):
    """`*pixels` may be no axis at all."""
    data = Problem(*(x[0, 0, 0] for x in problem(kind)[:3]))
    value = compiled(call, name, kind, *data._replace(where=True))
    np.testing.assert_allclose(value, define(name, data), rtol=1e-12)


GARBAGE = {
    "nan": (np.nan, 255, np.nan),
    "inf": (np.inf, -1, np.inf),
    "minus_inf": (-np.inf, np.iinfo(np.int32).min, -np.inf),
    "huge": (3e38, np.iinfo(np.int32).max, -3e38),
    "mixture": ([np.inf, -np.inf, np.nan, 0.0], NUM_CLASSES, [np.nan, 0.0, -1.0, 7.0]),
    "zero": (0.0, 0, 0.0),
}


def spoiled(data, garbage, out):
    """The problem with garbage at the pixels `out`."""
    logit, hard, soft = GARBAGE[garbage]
    logits, labels = data.logits.astype(np.float32), data.labels.copy()
    logits[out] = logit
    labels[out] = hard if labels.dtype.kind == "i" else soft
    return data._replace(logits=logits, labels=labels)


def check_outside(found, expected, where):
    """Raises unless value and gradients are the same bits, those of the pixels outside 0."""
    assert np.isfinite(found[0])
    assert bits(found) == bits(expected)
    assert not np.any(found[1]["logits"][~where])
    assert np.all(np.any(found[1]["logits"][where] != 0, -1))


def check_nothing(found):
    """Raises unless the value is 0, and so are all gradients."""
    chex.assert_trees_all_equal(found, jax.tree.map(np.zeros_like, found))


@every(PAIRS)
def test_pixels_outside_where_change_nothing(name, kind):
    """Value and all gradients are the same bits, whatever the pixels outside `where` hold."""
    data = problem(kind)
    expected = compiled(value_and_grads, name, kind, *data)
    for garbage in GARBAGE:
        other = spoiled(data, garbage, ~data.where)
        check_outside(compiled(value_and_grads, name, kind, *other), expected, data.where)


@every(PAIRS)
def test_nothing_counts(name, kind):
    """Without a pixel that counts the loss is 0, and so are all its gradients."""
    for garbage in GARBAGE:
        data = spoiled(problem(kind), garbage, np.ones(SHAPE, bool))
        nothing = data._replace(where=np.zeros(SHAPE, bool))
        check_nothing(compiled(value_and_grads, name, kind, *nothing))


@every(MAIN)
def test_the_same_without_compilation(name, kind):
    """From arrays on the host and on a device; pixels outside `where` change nothing here, too."""
    data = problem(kind)
    plain = value_and_grads(name, *data)
    assert bits(value_and_grads(name, *map(jnp.asarray, data))) == bits(plain)
    other = spoiled(data, "mixture", ~data.where)
    check_outside(value_and_grads(name, *other), plain, data.where)
    check_nothing(value_and_grads(name, *other._replace(where=np.zeros(SHAPE, bool))))

    value, grads = plain
    expected, expected_grads = compiled(value_and_grads, name, kind, *data)
    chex.assert_trees_all_equal_shapes_and_dtypes(plain, (expected, expected_grads))
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for of, wanted in expected_grads.items():
        # Its terms cancel, to within a few roundings of the largest.
        rounding = 4 * np.finfo(np.float32).eps * np.abs(wanted).max()
        np.testing.assert_allclose(grads[of], wanted, rtol=1e-5, atol=rounding)


@pytest.mark.usefixtures("x64")
@every(PAIRS)
def test_where_of_all_true_is_none(name, kind):
    data = problem(kind)._replace(where=np.ones(SHAPE, bool))
    with_where, _ = compiled(value_and_grads, name, kind, *data)
    without = compiled(call, name, kind, *data._replace(where=None))
    np.testing.assert_allclose(with_where, without, rtol=1e-13)


@every(MAIN)
def test_no_pixels_at_all(name, kind):
    value = compiled(call, name, kind, *problem(kind, (0, 5))._replace(where=None))
    assert value == 0.0


def weighted(name, logits, labels, class_weights):
    options = CASES[name].options | {"class_weights": class_weights}
    return CASES[name].loss(logits, labels, **options)


def weighted_gradient(name, logits, labels, class_weights):
    return jax.value_and_grad(lambda z: weighted(name, z, labels, class_weights))(logits)


@every(MAIN_HARD)
def test_no_weight_counts(name, kind):
    """Pixels of classes with weight 0 do not count either."""
    data = problem(kind)
    labels, weights = np.where(data.labels == 1, 1, 3), np.array([1.0, 0.0, 2.0, 0.0])
    check_nothing(compiled(weighted_gradient, name, kind, data.logits, labels, weights))


def test_class_weights_by_hand():
    """Predictions of 1/4 and 1/2 for labels of weight 1 and 3: the mean divides by 1 + 3."""
    logits = jnp.log(jnp.array([[0.25, 0.75], [0.5, 0.5]]))
    value = losses.cross_entropy(logits, jnp.array([0, 1]), class_weights=(1, 3))
    expected = (1 * np.log(4) + 3 * np.log(2)) / (1 + 3)
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_class_weights_of_distributions_by_hand():
    """The weight of a distribution is the expected one: (1 + 3) / 2 and 3."""
    logits = jnp.log(jnp.array([[0.25, 0.75], [0.5, 0.5]]))
    labels = jnp.array([[0.5, 0.5], [0.0, 1.0]])
    value = losses.cross_entropy(logits, labels, class_weights=(1, 3))
    first = -(np.log(0.25) + np.log(0.75)) / 2
    np.testing.assert_allclose(value, (2 * first + 3 * np.log(2)) / (2 + 3), rtol=1e-6)


def test_dice_class_weights_by_hand():
    """Dice overlaps of 2 * 1/4 / (1 + 3/4) and 2 * 1/2 / (1 + 5/4), weighted 1 and 3."""
    logits = jnp.log(jnp.array([[0.25, 0.75], [0.5, 0.5]]))
    value = losses.dice(logits, jnp.array([0, 1]), class_weights=(1, 3))
    first, second = 1 - 2 * 0.25 / (1 + 0.75), 1 - 2 * 0.5 / (1 + 1.25)
    np.testing.assert_allclose(value, (1 * first + 3 * second) / (1 + 3), rtol=1e-6)


@pytest.mark.usefixtures("x64")
@every(MAIN_HARD)
def test_only_the_ratio_of_class_weights_matters(name, kind):
    data = problem(kind)[:2]
    value, seven, one = (
        compiled(weighted, name, kind, *data, weights)
        for weights in (np.array(WEIGHTS), 7 * np.array(WEIGHTS), np.ones(NUM_CLASSES))
    )
    np.testing.assert_allclose(seven, value, rtol=1e-14)
    np.testing.assert_allclose(one, compiled(weighted, name, kind, *data, None), rtol=1e-14)
    assert abs(value - one) > 1e-3


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["cross_entropy", "kl_divergence", "relative_entropy"])
def test_a_weight_of_four_is_four_pixels(name):
    index = np.array([*range(12), *range(6), *range(6), *range(6)])
    logits, labels = problem("hard", (12,)).logits[index], np.where(index < 6, 2, 3)
    first = np.arange(30) < 12
    four = LOSSES[name](logits, labels)
    weighted = LOSSES[name](logits, labels, where=first, class_weights=(1, 1, 4, 1))
    np.testing.assert_allclose(weighted, four, rtol=1e-14)


REPLICAS = 8


def spread(kind):
    """A linear model, and eight images whose pixels that count lie very unevenly.

    The model's parameters are its kernel, which all replicas share, and an offset for each pixel.
    """
    rng = np.random.default_rng(3)
    data = problem(kind, seed=3)
    params = {"kernel": rng.normal(size=(3, NUM_CLASSES)), "offset": data.logits}
    features = rng.normal(size=(*SHAPE, 3))
    where = np.arange(6) < np.array([0, 0, 1, 0, 2, 3, 6, 6])[:, None]
    return params, features, data.labels, where.reshape(SHAPE)


def linear(name, params, features, labels, where, axis_name=None):
    logits = features @ params["kernel"] + params["offset"]
    if CASES[name].by_image and logits.ndim == 3:  # a replica's one image, whose axis pmap took
        logits, labels, where = logits[None], labels[None], where[None]
    return call(name, logits, labels, where=where, axis_name=axis_name)


def on_one_device(name, kind):
    """The value and the gradients in the parameters."""
    params, features, labels, where = spread(kind)
    logits = features @ params["kernel"] + params["offset"]
    value, grads = compiled(value_and_grads, name, kind, *Problem(logits, labels, where))
    kernel = np.tensordot(features, grads["logits"], (range(3), range(3)))
    return value, {"kernel": kernel, "offset": grads["logits"]}


@functools.cache
def by_pmap(kind, main):
    replica = functools.partial(linear, axis_name="replicas")
    names = [name for name, k in SHARED if k == kind and ((name, k) in MAIN) == main]

    def gradients(*arguments):
        return {
            name: jax.value_and_grad(functools.partial(replica, name))(*arguments) for name in names
        }

    axes = ({"kernel": None, "offset": 0}, 0, 0, 0)
    return jax.pmap(gradients, "replicas", in_axes=axes)


def by_shard_map(name, *arguments):
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("replicas",))
    split, whole = jax.sharding.PartitionSpec("replicas"), jax.sharding.PartitionSpec()
    eight = jax.shard_map(
        functools.partial(linear, name, axis_name="replicas"),
        mesh=mesh,
        in_specs=({"kernel": whole, "offset": split}, split, split, split),
        out_specs=whole,
    )
    return jax.value_and_grad(eight)(*arguments)


@pytest.mark.usefixtures("x64")
@every(SHARED)
def test_eight_devices_equal_one_under_pmap(name, kind):
    """Value and gradient do not depend on how the batch lies on the devices.

    The transpose of a psum is a psum: the gradient of a device's own logits is eight times that of
    the global loss, and the mean over devices of the parameters' gradient is the global one.
    """
    one, grads = on_one_device(name, kind)
    eight, grads_8 = by_pmap(kind, (name, kind) in MAIN)(*spread(kind))[name]
    assert one.dtype == eight.dtype == jnp.float64
    np.testing.assert_allclose(eight, np.full(REPLICAS, one), rtol=1e-13)
    kernel, offset = grads_8["kernel"].mean(0), grads_8["offset"] / REPLICAS
    np.testing.assert_allclose(kernel, grads["kernel"], rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(offset, grads["offset"], rtol=1e-12, atol=1e-16)


@pytest.mark.usefixtures("x64")
@every(MAIN_SHARED)
def test_eight_devices_equal_one_under_shard_map(name, kind):
    """Likewise where the gradient is taken of the global function, with jax's own check."""
    one, grads = on_one_device(name, kind)
    eight, grads_8 = compiled(by_shard_map, name, kind, *spread(kind), among=MAIN_SHARED)
    assert one.dtype == eight.dtype == jnp.float64
    np.testing.assert_allclose(eight, one, rtol=1e-13)
    chex.assert_trees_all_close(grads_8, grads, rtol=1e-12, atol=1e-15)


@pytest.mark.usefixtures("x64")
@every(SHARED)
def test_the_mean_over_replicas_is_not_that_of_their_means(name, kind):
    """Which would weigh a pixel on an empty device more: the data tell the two apart."""
    params, features, labels, where = spread(kind)
    logits = features @ params["kernel"] + params["offset"]
    one, _ = on_one_device(name, kind)
    np.testing.assert_allclose(one, define(name, Problem(logits, labels, where), where), 1e-12)
    if CASES[name].by_image or name == "mcc":
        return  # a mean over images, of which each device has one; a device of one class has no mcc
    by_device = [
        define(name, Problem(*x), x[2])
        for x in zip(logits, labels, where, strict=True)
        if x[2].any()
    ]
    assert abs(np.mean(by_device) - one) > 1e-3


@pytest.mark.usefixtures("x64")
@every(SHARED)
def test_nothing_counts_on_any_device(name, kind):
    *data, where = spread(kind)
    check_nothing(by_pmap(kind, (name, kind) in MAIN)(*data, np.zeros_like(where))[name])


def as_type(dtype, data):
    """The problem with floating-point numbers of a type."""
    return Problem(*(x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x for x in data))


@every(MAIN)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_computed_in_float32(name, kind, dtype):
    """The value is float32, bit for bit that of the same numbers in float32; so are gradients."""
    half = as_type(dtype, problem(kind))
    full = as_type(jnp.float32, half)
    value, grads = compiled(value_and_grads, name, kind, *half)
    expected, expected_grads = compiled(value_and_grads, name, kind, *full)
    assert value.dtype == jnp.float32
    assert bits(value) == bits(expected)
    for of, grad in grads.items():
        assert grad.dtype == getattr(half, of).dtype
        assert bits(grad) == bits(expected_grads[of].astype(grad.dtype))


def test_bfloat16_keeps_small_losses():
    """A log-softmax in bfloat16 rounds this loss, log(1 + 2 exp(-8)), to 0."""
    logits = jnp.array([[8.0, 0.0, 0.0]], jnp.bfloat16)
    assert -jax.nn.log_softmax(logits)[0, 0] == 0
    value = losses.cross_entropy(logits, jnp.array([0]))
    np.testing.assert_allclose(value, np.log1p(2 * np.exp(-8)), rtol=1e-4)


@every(PAIRS)
def test_logits_of_ten_thousand(name, kind):
    """Any combination of -1e4, 0 and 1e4 gives the right value and a finite gradient."""
    halves = (jnp.float16, jnp.bfloat16) if (name, kind) in MAIN else ()
    rng = np.random.default_rng(8)
    for seed, dtype in itertools.product(range(3), (jnp.float32, *halves)):
        data = problem(kind, seed=seed)
        data = data._replace(logits=rng.choice([-1e4, 0.0, 1e4], data.logits.shape))
        if kind == "soft":  # which all types can hold
            data = data._replace(labels=(rng.multinomial(96, data.labels) + 8) / 128)
        given = as_type(dtype, data)
        value, grads = compiled(value_and_grads, name, kind, *given)
        if CASES[name].saturates:  # near exp(60), the true value being near exp(1e4)
            assert 1e24 < value < 1e28
        else:
            data = data._replace(logits=given.logits.astype(np.float64))
            np.testing.assert_allclose(value, define(name, data, data.where), rtol=1e-6)
        assert np.isfinite(np.asarray(grads["logits"], np.float32)).all()


def test_a_certain_mistake_by_hand():
    """Logits of +-1e4: 2e4 for cross-entropy, and the documented scale for D(q || p)."""
    logits, labels = jnp.array([[1e4, -1e4]]), jnp.array([1])
    assert losses.cross_entropy(logits, labels) == 2e4
    assert losses.cross_entropy(logits, 1 - labels) == 0
    wrong = losses.relative_entropy(logits, labels, label_smoothing=0.1)
    np.testing.assert_allclose(wrong, np.log(1 / 0.05), rtol=1e-6)
    right = losses.relative_entropy(logits, 1 - labels, label_smoothing=0.1)
    np.testing.assert_allclose(right, np.log(1 / 0.95), rtol=1e-5)
    assert losses.dice(logits, labels) == 1
    assert losses.dice(logits, 1 - labels) == 0


def by_vmap(name, logits, labels, where, class_weights):
    image = functools.partial(value_and_grads, name, class_weights=class_weights)
    return jax.vmap(image)(logits, labels, where)


@pytest.mark.usefixtures("x64")
@every(MAIN)
def test_vmap_is_a_loop(name, kind):
    """Each image keeps its own mean and its own gradient, as if only it counted."""
    data = problem(kind)
    values, gradients = compiled(by_vmap, name, kind, *data)
    for i in range(len(data.where)):
        where = data.where & (np.arange(8) == i)[:, None, None]
        value, grads = compiled(value_and_grads, name, kind, *data._replace(where=where))
        np.testing.assert_allclose(values[i], value, rtol=1e-13)
        for of in {"logits", "labels"} & set(grads):
            np.testing.assert_allclose(gradients[of][i], grads[of][i], rtol=1e-11, atol=1e-16)


def per_pixel(name, *data):
    return call(name, *data, reduce=None)


@pytest.mark.usefixtures("x64")
@every(MAPS)
def test_the_map_sums_to_the_mean(name, kind):
    """`reduce=None` gives the weighted map: its sum over that of the weights is the mean."""
    data = problem(kind)
    values = compiled(per_pixel, name, kind, *data, among=MAPS)
    assert values.shape == SHAPE
    assert not np.any(values[~data.where])
    class_weights = CASES[name].options.get("class_weights", np.ones(NUM_CLASSES))
    weights = data.where * (data.targets @ np.array(class_weights))
    mean, _ = compiled(value_and_grads, name, kind, *data)
    np.testing.assert_allclose(values.sum() / weights.sum(), mean, rtol=1e-13)

    for index in [(0, 0, 0), (7, 1, 2), (3, 1, 0)]:
        pixel = Problem(data.logits[index], data.labels[index], np.array(True))
        expected = define(name, pixel) * weights[index]
        np.testing.assert_allclose(values[index], expected, rtol=1e-12)


@pytest.mark.usefixtures("x64")
@every(HARD)
def test_a_label_outside_the_classes_gives_nan(name, kind):
    """Where it counts it makes the loss NaN; outside `where` it is nothing."""
    data = problem(kind)
    for label in (NUM_CLASSES, -1, 255, -(2**31)):
        data.labels[5, 1, 2] = label
        data.where[5, 1, 2] = True
        assert np.isnan(compiled(value_and_grads, name, kind, *data)[0])
        assert np.isnan(compiled(call, name, kind, *data._replace(where=None)))
        data.where[5, 1, 2] = False
        assert np.isfinite(compiled(value_and_grads, name, kind, *data)[0])


@pytest.mark.usefixtures("x64")
def test_a_large_label_does_not_wrap_into_a_class():
    assert np.isnan(losses.cross_entropy(jnp.zeros((1, 2)), jnp.array([2**32])))


@pytest.mark.usefixtures("x64")
@every([x for x in MAPS if x in HARD])
def test_a_label_outside_the_classes_shows_in_the_map(name, kind):
    data = problem(kind)._replace(where=np.ones(SHAPE, bool))
    data.labels[5, 1, 2] = 255
    wrong = np.isnan(compiled(per_pixel, name, kind, *data, among=MAPS))
    assert np.argwhere(wrong).tolist() == [[5, 1, 2]]


def of_many_classes(name, logits, labels):
    options = {"prior": np.ones(300)} if "prior" in CASES[name].options else {}
    return call(name, logits, labels, class_weights=None, **options)


@every(MAIN_HARD)
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.uint32])
def test_any_integer_dtype(name, kind, dtype):
    """The number of classes need not fit into the labels' dtype."""
    logits, labels = np.random.default_rng(0).normal(size=(6, 300)), np.array([0, 1, 44, 127, 1, 0])
    expected = compiled(of_many_classes, name, kind, logits, labels.astype(np.int32))
    assert np.isfinite(expected)
    found = compiled(of_many_classes, name, kind, logits, labels.astype(dtype))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@every(MAIN)
def test_accelerators_neither_scatter_nor_gather(name, kind):
    """Both are slow there; a loss by take_along_axis, for comparison, has both."""
    data = problem(kind)

    def by_gather(logits):
        log_probs = jax.nn.log_softmax(logits)
        return -jnp.take_along_axis(log_probs, np.zeros((*SHAPE, 1), np.int32), -1).mean()

    def operations(loss, platform):
        lowered = (
            jax.jit(jax.value_and_grad(loss)).trace(logits).lower(lowering_platforms=(platform,))
        )
        return set(re.findall(r"\b(?:scatter|gather)\b", lowered.as_text()))

    logits = jnp.asarray(data.logits)
    for platform in ("tpu", "cuda"):
        assert operations(by_gather, platform) == {"scatter", "gather"}
        loss = functools.partial(call, name, labels=data.labels, where=data.where)
        assert operations(loss, platform) == set()


Z, L = np.zeros((2, 3), np.float32), np.array([0, 1], np.int32)
WRONG = {
    "integer logits": (
        lambda loss: loss(np.zeros((2, 3), np.int32), L),
        TypeError,
        ["logits are int32[2, 3]", "floating-point [*pixels, classes]"],
    ),
    "scalar logits": (
        lambda loss: loss(np.float32(0), np.int32(0)),
        TypeError,
        ["logits are float32[]", "[*pixels, classes]"],
    ),
    "class indices as floats": (
        lambda loss: loss(Z, L.astype(np.float32)),
        ValueError,
        ["labels are float32[2]", "logits [2, 3]", "integer dtype and shape [2]"],
    ),
    "one-hot labels as integers": (
        lambda loss: loss(Z, np.zeros((2, 3), np.int32)),
        ValueError,
        ["labels are int32[2, 3]", "float dtype and shape [2, 3]"],
    ),
    "too few labels": (
        lambda loss: loss(Z, L[:1]),
        ValueError,
        ["labels are int32[1]", "logits [2, 3]", "shape [2]"],
    ),
    "transposed distributions": (
        lambda loss: loss(Z, Z.T),
        ValueError,
        ["labels are float32[3, 2]", "float dtype and shape [2, 3]"],
    ),
    "boolean labels": (
        lambda loss: loss(Z, L.astype(bool)),
        TypeError,
        ["labels are bool", "class indices or a distribution"],
    ),
    "boolean one-hot labels": (
        lambda loss: loss(Z, Z.astype(bool)),
        TypeError,
        ["labels are bool", "class indices or a distribution"],
    ),
    "complex labels": (
        lambda loss: loss(Z, Z.astype(np.complex64)),
        TypeError,
        ["labels are complex64", "class indices or a distribution"],
    ),
    "where as numbers": (
        lambda loss: loss(Z, L, where=np.ones(2, np.float32)),
        ValueError,
        ["where is float32[2]", "bool[2]"],
    ),
    "where with channels": (
        lambda loss: loss(Z, L, where=np.ones((2, 1), bool)),
        ValueError,
        ["where is bool[2, 1]", "bool[2]"],
    ),
    "class_weights of another number": (
        lambda loss: loss(Z, L, class_weights=(1.0, 2.0)),
        ValueError,
        ["class_weights have shape [2]", "3 classes", "one weight for each"],
    ),
    "class_weights of one number": (
        lambda loss: loss(Z, L, class_weights=2.0),
        ValueError,
        ["class_weights have shape []", "3 classes"],
    ),
}


@every_loss
def test_errors_say_what_was_got_and_needed(loss):
    for attempt, exception, words in WRONG.values():
        with pytest.raises(exception, match=re.escape(words[0])) as error:
            attempt(loss)
        for word in words:
            assert word in str(error.value)


OPTIONS = {
    "negative label_smoothing": (
        "cross_entropy",
        {"label_smoothing": -0.1},
        ["label_smoothing is -0.1", "0..1"],
    ),
    "label_smoothing above 1": (
        "kl_divergence",
        {"label_smoothing": 1.5},
        ["label_smoothing is 1.5", "0..1"],
    ),
    "label_smoothing that is NaN": (
        "relative_entropy",
        {"label_smoothing": float("nan")},
        ["label_smoothing is nan", "0..1"],
    ),
    "relative_entropy without smoothing": (
        "relative_entropy",
        {"label_smoothing": 0.0},
        ["integer labels", "label_smoothing 0", "label_smoothing in (0, 1]", "0.1"],
    ),
    "temperature 0": (
        "kl_divergence",
        {"temperature": 0.0},
        ["temperature is 0.0", "positive"],
    ),
    "negative temperature": (
        "kl_divergence",
        {"temperature": -1.0},
        ["temperature is -1.0", "positive"],
    ),
    "temperature that is NaN": (
        "kl_divergence",
        {"temperature": float("nan")},
        ["temperature is nan", "positive"],
    ),
    "reduce to a sum": (
        "cross_entropy",
        {"reduce": "sum"},
        ["reduce is 'sum'", '"mean" or None'],
    ),
}


@pytest.mark.parametrize("wrong", OPTIONS)
def test_errors_of_options_say_what_was_got_and_needed(wrong):
    name, options, words = OPTIONS[wrong]
    with pytest.raises(ValueError, match=re.escape(words[0])) as error:
        LOSSES[name](Z, L, **options)
    for word in words:
        assert word in str(error.value)


def test_relative_entropy_of_distributions_needs_no_smoothing():
    value = losses.relative_entropy(Z, np.full((2, 3), 1 / 3, np.float32), label_smoothing=0.0)
    np.testing.assert_allclose(value, 0.0, atol=1e-7)


@pytest.mark.usefixtures("x64")
class TestIdentities:
    """What the definitions imply, in float64."""

    @pytest.mark.parametrize("e", [0.0, 0.3])
    @pytest.mark.parametrize("kind", ["hard", "soft"])
    def test_cross_entropy_is_entropy_plus_divergence(self, kind, e):
        data = problem(kind)
        entropy = special.entr(smoothed(data.targets, e)).sum(-1).mean()
        kl = losses.kl_divergence(data.logits, data.labels, label_smoothing=e)
        ce = losses.cross_entropy(data.logits, data.labels, label_smoothing=e)
        np.testing.assert_allclose(ce, entropy + kl, rtol=1e-13)

    def test_one_hot_divergence_is_cross_entropy(self):
        data = problem("hard")
        for labels in (data.labels, data.targets):
            kl = losses.kl_divergence(data.logits, labels)
            np.testing.assert_allclose(
                kl, losses.cross_entropy(data.logits, data.labels), rtol=1e-14
            )

    def test_one_hot_distributions_are_class_indices(self):
        data, weights = problem("hard"), np.array(WEIGHTS)
        for name, kind in MAIN:
            if kind == "soft":
                hard = compiled(weighted, name, "hard", data.logits, data.labels, weights)
                soft = compiled(weighted, name, "soft", data.logits, data.targets, weights)
                np.testing.assert_allclose(soft, hard, rtol=1e-14, err_msg=name)

    @pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
    def test_divergences_are_positive_and_zero_where_equal(self, temperature):
        """D(p || q) and D(q || p) are at least 0, and 0 with zero gradient only where q = p."""
        for seed in range(5):
            data = problem("soft", seed=seed)
            equal = temperature * np.log(data.targets)
            kl = functools.partial(losses.kl_divergence, temperature=temperature)
            reverse = functools.partial(losses.relative_entropy, label_smoothing=0.0)
            for loss, optimum in ((kl, equal), (reverse, np.log(data.targets))):
                assert np.all(loss(data.logits, data.labels, reduce=None) > 1e-4)
                value, grad = jax.value_and_grad(loss)(optimum, data.labels)
                np.testing.assert_allclose(value, 0.0, atol=1e-15)
                np.testing.assert_allclose(grad, np.zeros_like(grad), atol=1e-16)

    def test_relative_entropy_is_zero_at_the_smoothed_label(self):
        data = problem("hard")
        optimum = np.log(smoothed(data.targets, 0.1))
        value, grad = jax.value_and_grad(losses.relative_entropy)(optimum, data.labels)
        np.testing.assert_allclose(value, 0.0, atol=1e-15)
        np.testing.assert_allclose(grad, np.zeros_like(grad), atol=1e-16)

    def test_the_two_divergences_are_each_other_reversed(self):
        """D(p || q) of one function is D(q || p) of the other with p and q exchanged."""
        data = problem("soft")
        kl = losses.kl_divergence(data.logits, data.labels)
        reverse = losses.relative_entropy(
            np.log(data.labels), special.softmax(data.logits, -1), label_smoothing=0.0
        )
        np.testing.assert_allclose(kl, reverse, rtol=1e-13)

    @pytest.mark.parametrize("e", [1e-6, 0.01, 0.1, 0.5, 1.0])
    def test_closed_form_of_relative_entropy(self, e):
        """A (1 - q_y) - H(q) - log(1 - e + e/C), where A = log((1 - e + e/C) / (e/C))."""
        data = problem("hard")
        q = special.softmax(data.logits, -1)
        q_y = np.sum(q * data.targets, -1)
        peak, floor = 1 - e + e / NUM_CLASSES, e / NUM_CLASSES
        expected = np.log(peak / floor) * (1 - q_y) - special.entr(q).sum(-1) - np.log(peak)
        value = losses.relative_entropy(data.logits, data.labels, label_smoothing=e, reduce=None)
        np.testing.assert_allclose(value, expected, rtol=1e-11)

    @pytest.mark.parametrize("kind", ["hard", "soft"])
    @pytest.mark.parametrize("e", [0.0, 0.2])
    def test_gradient_of_cross_entropy_is_q_minus_p(self, kind, e):
        data = problem(kind)
        q, p = special.softmax(data.logits, -1), smoothed(data.targets, e)
        for loss in (losses.cross_entropy, losses.kl_divergence):
            grad = jax.grad(functools.partial(loss, label_smoothing=e))(data.logits, data.labels)
            np.testing.assert_allclose(grad * data.where.size, q - p, rtol=1e-12, atol=1e-15)

    def test_gradient_at_a_temperature(self):
        """T^2 times 1/T: the gradient is T (q - p), where q is the softmax of z / T."""
        data = problem("soft")
        grad = jax.grad(functools.partial(losses.kl_divergence, temperature=5.0))(*data[:2])
        q = special.softmax(data.logits / 5, -1)
        expected = 5 * (q - data.labels)
        np.testing.assert_allclose(grad * data.where.size, expected, rtol=1e-11, atol=1e-14)

    @pytest.mark.parametrize("kind", ["hard", "soft"])
    def test_gradient_of_relative_entropy(self, kind):
        """q_j (log(q_j / p_j) - D)."""
        data = problem(kind)
        q, p = special.softmax(data.logits, -1), smoothed(data.targets, 0.1)
        divergence = special.rel_entr(q, p).sum(-1, keepdims=True)
        grad = jax.grad(losses.relative_entropy)(data.logits, data.labels)
        expected = q * (np.log(q / p) - divergence)
        np.testing.assert_allclose(grad * data.where.size, expected, rtol=1e-11, atol=1e-14)

    @pytest.mark.parametrize("loss", [losses.cross_entropy, losses.kl_divergence, losses.dice])
    def test_a_class_excluded_by_its_logit_is_no_class(self, loss):
        """Logits of -inf where the labels hold no probability: 0 times infinity is 0."""
        data = problem("soft")
        logits = np.concatenate([data.logits, np.full((*SHAPE, 1), -np.inf)], -1)
        labels = np.concatenate([data.labels, np.zeros((*SHAPE, 1))], -1)
        value, grad = jax.value_and_grad(loss)(logits, labels)
        expected, expected_grad = jax.value_and_grad(loss)(data.logits, data.labels)
        np.testing.assert_allclose(value, expected, rtol=1e-14)
        np.testing.assert_allclose(grad[..., :-1], expected_grad, rtol=1e-12, atol=1e-16)
        assert not np.any(grad[..., -1])

    @every(PAIRS)
    def test_a_constant_added_to_the_logits_changes_nothing(self, name, kind):
        """Hence the gradient sums to 0 over the classes."""
        data = problem(kind)
        shift = np.random.default_rng(1).normal(0, 10, (*SHAPE, 1))
        value, grads = compiled(value_and_grads, name, kind, *data)
        moved = data._replace(logits=data.logits + shift)
        shifted, _ = compiled(value_and_grads, name, kind, *moved)
        np.testing.assert_allclose(shifted, value, rtol=1e-12)
        largest = max(1.0, np.abs(grads["logits"]).max())
        np.testing.assert_allclose(grads["logits"].sum(-1), np.zeros(SHAPE), atol=1e-15 * largest)

    @every(PAIRS)
    def test_the_order_of_classes_and_pixels_is_immaterial(self, name, kind):
        data = problem(kind)
        if CASES[name].by_image or "prior" in CASES[name].options:
            return  # whose order does matter
        rng = np.random.default_rng(2)
        pixels = np.unravel_index(rng.permutation(data.where.size).reshape(SHAPE), SHAPE)
        classes = rng.permutation(NUM_CLASSES)
        labels = data.labels[pixels]
        labels = (
            np.argsort(classes).astype(np.int32)[labels] if kind == "hard" else labels[..., classes]
        )
        other = Problem(
            data.logits[pixels][..., classes],
            labels,
            data.where[pixels],
            data.class_weights[classes],
        )
        value, _ = compiled(value_and_grads, name, kind, *other)
        np.testing.assert_allclose(value, define(name, data, data.where), rtol=1e-12)

    def test_optax_agrees(self):
        """With optax's cross-entropies, and its divergence in both directions."""
        hard, soft = problem("hard"), problem("soft")
        log_q, p = special.log_softmax(soft.logits, -1), soft.labels
        smooth = smoothed(hard.targets, 0.1)
        pairs = (
            (
                losses.cross_entropy(hard.logits, hard.labels, reduce=None),
                optax.losses.softmax_cross_entropy_with_integer_labels(hard.logits, hard.labels),
            ),
            (
                losses.cross_entropy(soft.logits, p, reduce=None),
                optax.losses.softmax_cross_entropy(soft.logits, p),
            ),
            (
                losses.kl_divergence(soft.logits, p, reduce=None),
                optax.losses.kl_divergence(log_q, p),
            ),
            (
                losses.relative_entropy(hard.logits, hard.labels, reduce=None),
                optax.losses.kl_divergence(np.log(smooth), special.softmax(hard.logits, -1)),
            ),
        )
        for ours, theirs in pairs:
            np.testing.assert_allclose(ours, theirs, rtol=1e-11)

    def test_smoothing_of_integers_is_smoothing_of_distributions(self):
        data = problem("hard")
        smooth = np.asarray(optax.smooth_labels(data.targets, 0.3))
        for loss in (losses.cross_entropy, losses.kl_divergence, losses.relative_entropy):
            ours = loss(data.logits, data.labels, label_smoothing=0.3)
            given = loss(data.logits, smooth, label_smoothing=0.0)
            np.testing.assert_allclose(ours, given, rtol=1e-13)

    @pytest.mark.parametrize("smooth", [0.0, 1.0])
    def test_dice_of_hard_labels_is_the_familiar_form(self, smooth):
        """1 - (2 sum pq + s) / (sum p + sum q + s), averaged over the classes."""
        data = problem("hard")
        q, p = special.softmax(data.logits, -1)[data.where], data.targets[data.where]
        overlap, size = 2 * np.sum(p * q, 0), np.sum(p, 0) + np.sum(q, 0)
        expected = np.mean(1 - (overlap + smooth) / (size + smooth))
        value = losses.dice(data.logits, data.labels, where=data.where, smooth=smooth)
        np.testing.assert_allclose(value, expected, rtol=1e-13)

    def test_dice_of_hard_predictions_is_one_minus_mean_dice(self):
        """Mean Dice by sets, over the classes that the labels contain: class 2 is absent."""
        rng = np.random.default_rng(6)
        labels, preds = rng.choice([0, 1, 3], SHAPE), rng.integers(0, NUM_CLASSES, SHAPE)
        expected = np.mean(
            [
                2
                * np.sum((labels == c) & (preds == c))
                / (np.sum(labels == c) + np.sum(preds == c))
                for c in (0, 1, 3)
            ]
        )
        value = losses.dice(1e4 * np.eye(NUM_CLASSES)[preds], labels)
        np.testing.assert_allclose(value, 1 - expected, rtol=1e-13)

    def test_dice_of_perfect_predictions_is_zero(self):
        labels = problem("hard").labels
        assert losses.dice(1e4 * np.eye(NUM_CLASSES)[labels], labels) == 0

    def test_dice_of_distributions_is_minimal_at_the_labels(self):
        """0 at q = p and above elsewhere, where the product form would still fall."""
        data = problem("soft")
        optimum, rng = np.log(data.labels), np.random.default_rng(7)

        def product_form(z):
            q, p = special.softmax(z, -1).reshape(-1, 4), data.labels.reshape(-1, 4)
            return np.mean(1 - 2 * np.sum(p * q, 0) / (np.sum(p, 0) + np.sum(q, 0)))

        np.testing.assert_allclose(losses.dice(optimum, data.labels), 0.0, atol=1e-15)
        for size in (1e-3, 0.1, 1.0):
            for _ in range(5):
                moved = optimum + size * rng.normal(size=optimum.shape)
                assert losses.dice(moved, data.labels) > 0.1 * size / (1 + size)
        assert product_form(2 * optimum) < product_form(optimum) - 0.01


class TestWeightedSum:
    """A weighted sum of losses, from a config's plain data."""

    TERMS = (
        ("cross_entropy", 1.0),
        ("relative_entropy", 0.5, {"label_smoothing": 0.2}),
        ("dice", 2, {"smooth": 1.0, "class_weights": WEIGHTS}),
    )

    def values(self, data, **more):
        return {
            "cross_entropy": losses.cross_entropy(*data[:2], **more),
            "relative_entropy": losses.relative_entropy(*data[:2], label_smoothing=0.2, **more),
            "dice": losses.dice(*data[:2], smooth=1.0, class_weights=WEIGHTS, **more),
        }

    @pytest.mark.usefixtures("x64")
    @pytest.mark.parametrize("terms", [TERMS, [list(term) for term in TERMS]])
    def test_weighted_sum_and_unweighted_terms(self, terms):
        data = problem("hard")
        total, by_term = losses.weighted_sum(terms)(*data[:2], where=data.where)
        expected = self.values(data, where=data.where)
        chex.assert_trees_all_equal(by_term, expected)
        assert list(by_term) == list(expected)
        weighted = 1.0 * expected["cross_entropy"] + 0.5 * expected["relative_entropy"]
        np.testing.assert_allclose(total, weighted + 2 * expected["dice"], rtol=1e-15)

    @pytest.mark.usefixtures("x64")
    def test_over_replicas(self):
        data = problem("hard", (REPLICAS, 6))
        loss = losses.weighted_sum(self.TERMS)
        one = jax.jit(lambda z, labels, where: loss(z, labels, where=where))(*data[:3])
        eight = jax.pmap(
            lambda z, labels, where: loss(z, labels, where=where, axis_name="replicas"), "replicas"
        )(*data[:3])
        for value, by_device in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
            np.testing.assert_allclose(by_device, np.full(REPLICAS, value), rtol=1e-13)

    def test_mapping(self):
        data = problem("hard")
        found = losses.weighted_sum({"dice": 2.0, "entropy": 1})(*data[:2], where=data.where)
        assert bits(found) == bits(
            losses.weighted_sum((("dice", 2.0), ("entropy", 1.0)))(*data[:2], where=data.where)
        )

    @pytest.mark.parametrize(
        ("step", "weight"),
        [(0, 0.5), (10, 0.5), (15, 0.75), (20, 1.0), (30, 1.5), (40, 2.0), (99, 2)],
    )
    def test_schedule(self, step, weight):
        """Linear between its points and even beyond them, for a step that is traced."""
        data = problem("hard")
        terms = [("cross_entropy", 1.0), ("dice", [[10, 0.5], [20, 1], [40, 2.0]])]
        loss = jax.jit(lambda step: losses.weighted_sum(terms)(*data[:2], step=step))
        total, by_term = loss(step)
        expected = by_term["cross_entropy"] + weight * by_term["dice"]
        np.testing.assert_allclose(total, expected, rtol=1e-6)
        with pytest.raises(ValueError, match="is a schedule, but no step was given"):
            losses.weighted_sum(terms)(*data[:2])

    def test_repeated_names_are_numbered(self):
        """The second term of a name gets `_2`, and the third `_3`, whatever stands between."""
        terms = [("dice", 1.0), ("cross_entropy", 1.0), ("dice", 3.0, {"smooth": 1.0})]
        data = problem("hard")
        total, by_term = losses.weighted_sum([*terms, ("dice", 1.0, {"smooth": 9.0})])(*data[:2])
        assert list(by_term) == ["dice", "cross_entropy", "dice_2", "dice_3"]
        assert by_term["dice_2"] == losses.dice(*data[:2], smooth=1.0)
        expected = np.dot([1.0, 1.0, 3.0, 1.0], list(by_term.values()))
        np.testing.assert_allclose(total, expected, rtol=1e-6)

    @pytest.mark.parametrize(
        ("terms", "words"),
        [
            ([], ["no terms", "at least one of cross_entropy", "dice"]),
            ([("crossentropy", 1.0)], ["'crossentropy' does not exist", "cross_entropy", "dice"]),
            ([("weighted_sum", 1.0)], ["'weighted_sum' does not exist"]),
            (
                [("dice", 1.0, {"smoothing": 1.0})],
                ["'dice' has no option 'smoothing'", "class_weights, form, smooth, classes, per"],
            ),
            ([("dice", 1.0, {"where": None})], ["no option 'where'"]),
            ([("cross_entropy", 1.0, {"reduce": None})], ["no option 'reduce'"]),
            ([("dice", 1.0, {"axis_name": "i"})], ["no option 'axis_name'"]),
            (["dice"], ["'dice' is not understood", "(name, weight)"]),
            ([("dice",)], ["('dice',) is not understood", "(name, weight)"]),
            ([("dice", "1.0")], ["('dice', '1.0') is not understood"]),
            ([(1.0, "dice")], ["(1.0, 'dice') is not understood"]),
            ([("dice", True)], ["('dice', True) is not understood"]),
            ([("dice", ((0, 1.0, 2.0),))], ["is not understood"]),
            ([("dice", ())], ["('dice', ()) is not understood"]),
            ([("dice", ((5, 1.0), (5, 2.0)))], ["steps of the weight", "do not increase"]),
            ([("dice", 1.0, 2.0)], ["('dice', 1.0, 2.0) is not understood", '{"option": value}']),
        ],
    )
    def test_errors(self, terms, words):
        with pytest.raises(ValueError, match=re.escape(words[0])) as error:
            losses.weighted_sum(terms)
        for word in words:
            assert word in str(error.value)
