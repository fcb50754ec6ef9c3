"""Every identity and bound of the losses' definitions, on problems that hypothesis draws.

All problems have one shape, so that a table of losses is compiled once: a problem of fewer classes
has classes of logit -inf and probability 0, and one of fewer pixels has a `where`. The problems are
the same in every run; with HYPOTHESIS_PROFILE=more they are many, and others each time.
"""

import decimal
import functools
import itertools
import math
import os
from typing import NamedTuple

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import special

from jaxseg import losses

hypothesis.settings.register_profile(
    "same",
    max_examples=100,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.register_profile(
    "more", hypothesis.settings.get_profile("same"), max_examples=1000, derandomize=False
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))
pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.exhaustive]

PIXELS, CLASSES = SHAPE = 8, 6
EPS = np.finfo(np.float64).eps
LOG1P = 128 * EPS  # the relative error of XLA's log1p, near -0.41


# Problems.


def log(x):
    with np.errstate(divide="ignore"):
        return np.log(x)


class Problem(NamedTuple):
    """Logits and labels, distributions or class indices, and what follows from them in numpy."""

    z: np.ndarray
    labels: np.ndarray

    @property
    def p(self):
        return self.labels if self.labels.ndim == 2 else np.eye(CLASSES)[self.labels]

    @property
    def log_q(self):
        return special.log_softmax(self.z, -1)

    @property
    def q(self):
        return np.exp(self.log_q)

    @property
    def log_q_y(self):
        return np.take_along_axis(self.log_q, self.labels[:, None], -1)[:, 0]

    @property
    def log_u(self):
        """log(p / q), and 0 for a class that is left out."""
        kept = (self.p > 0) | (self.q > 0)
        return np.where(kept, log(self.p), 0.0) - np.where(kept, self.log_q, 0.0)

    @property
    def whole(self):
        """The pixels whose labels rule out no class of the prediction."""
        return ~np.any((self.p == 0) & (self.q > 0), -1)

    @property
    def rounding(self):
        """That of a log-probability, from those of its logit and of the sum."""
        finite = [np.abs(x[np.isfinite(x)]) for x in (self.z, log(self.p))]
        return 16 * EPS * (1.0 + max(x.max(initial=0.0) for x in finite))


def numbers(shape):
    """Numbers in -1..1: few and simple ones, to which hypothesis shrinks, or all different."""
    few = hnp.arrays(np.float64, shape, elements=st.floats(-1, 1))
    many = st.integers(0, 2**32 - 1).map(lambda s: np.random.default_rng(s).uniform(-1, 1, shape))
    return few | many


def orders(number):
    return st.permutations(range(number)).map(np.array)


tables = numbers(SHAPE)
masks = st.just(np.zeros(SHAPE, bool)) | hnp.arrays(np.bool_, SHAPE)
wheres = hnp.arrays(np.bool_, PIXELS)
class_weights = hnp.arrays(np.float64, CLASSES, elements=st.floats(0.1, 10.0))


@st.composite
def soft_problems(draw, largest=50.0, fewest=2):
    """Labels with zeros and ones among them; logits of any size, or with q close to p."""
    inside = np.arange(CLASSES) < draw(st.integers(fewest, CLASSES))
    log_p = draw(st.sampled_from([0.0, 1.0, 5.0, 30.0])) * draw(tables)
    out = ~inside | draw(masks)
    out[np.arange(PIXELS), np.argmax(np.where(inside, log_p, -np.inf), -1)] = False
    log_p = special.log_softmax(np.where(out, -np.inf, log_p), -1)
    if draw(st.booleans()):
        scale = 10.0 ** draw(st.floats(-8, 0))
        z = np.where(out, -draw(st.sampled_from([1.0, 30.0])), log_p) + scale * draw(tables)
    else:
        z = draw(st.sampled_from([1.0, 10.0, largest])) * draw(tables)
    return Problem(np.where(inside, z, -np.inf), np.exp(log_p))


@st.composite
def hard_problems(draw, largest=50.0, fewest=2):
    """Class indices; logits of any size, of which some are right."""
    classes = draw(st.integers(fewest, CLASSES))
    labels = draw(hnp.arrays(np.int32, PIXELS, elements=st.integers(0, classes - 1)))
    z = draw(st.sampled_from([1.0, 10.0, largest])) * draw(tables)
    z += draw(st.sampled_from([0.0, 1.0, 10.0, 40.0])) * np.eye(CLASSES)[labels]
    return Problem(np.where(np.arange(CLASSES) < classes, z, -np.inf), labels)


# Comparisons.


def near(found, expected, tolerance, name=""):
    """Within a tolerance, for each element, that follows from the roundings."""
    excess = np.abs(found - expected) - tolerance
    assert np.all(excess <= 0), (name, np.max(excess), found, expected)


def at_most(smaller, larger, tolerance, name=""):
    assert np.all(smaller <= larger + tolerance), (name, smaller, larger)


def of_square(value, rounding):
    """The rounding of a divergence, which is like a squared distance of log-probabilities."""
    value = np.abs(value)
    return rounding * (value + np.sqrt(value) + rounding)


def rounded(name, value, rounding):
    """Likewise, but of distances a rounding, and of an f that cancels."""
    if name in ("total_variation", "f_total_variation", "f_kl"):
        return rounding
    return of_square(value, rounding) + (LOG1P * np.abs(value) if "renyi" in name else 0)


def on_device(function):
    """Compiled once, from and to numpy, which is faster with small arrays."""
    compiled = jax.jit(function)
    return lambda *arguments: jax.device_get(compiled(*arguments))


# Divergences of distributions.

ALPHAS = (-1.0, -1e-7, 0.0, 1e-7, 0.3, 0.5, 0.7, 1 - 1e-7, 1.0, 1 + 1e-7, 2.0, 3.0)
ORDERS = tuple(a for a in ALPHAS if a > 0)
WEIGHTS = (0.1, 0.5, 0.9)


def of_kl(u):
    return jax.scipy.special.xlogy(u, u) - u + 1


def of_chi_squared(u):
    return jnp.square(u - 1)


def of_total_variation(u):
    return jnp.abs(u - 1) / 2


def triangular(u):
    return (u - 1) * ((u - 1) / (u + 1))


FROM_F = {"kl": of_kl, "chi_squared": of_chi_squared, "total_variation": of_total_variation}
DIVERGENCES = {
    "kl": losses.kl_divergence,
    "reverse": functools.partial(losses.relative_entropy, label_smoothing=0.0),
    "jeffreys": functools.partial(losses.jeffreys, label_smoothing=0.0),
    "total_variation": losses.total_variation,
    "hellinger": losses.hellinger,
    "chi_squared": losses.chi_squared,
    "brier": losses.brier,
    "f_triangular": functools.partial(losses.f_divergence, f=triangular),
    **{f"f_{n}": functools.partial(losses.f_divergence, f=f) for n, f in FROM_F.items()},
    **{f"js_{w}": functools.partial(losses.jensen_shannon, weight=w) for w in WEIGHTS},
    **{f"alpha_{a}": functools.partial(losses.alpha_divergence, alpha=a) for a in ALPHAS},
    **{f"renyi_{a}": functools.partial(losses.renyi_divergence, order=a) for a in ORDERS},
    **{f"tsallis_{a}": functools.partial(losses.tsallis_divergence, order=a) for a in ORDERS},
}
# Infinite at a pixel whose label rules a class out.
NEED_WHOLE = {"reverse", "jeffreys", *(f"alpha_{a}" for a in ALPHAS if a <= 0)}
MIRRORS = {
    "kl": "reverse",
    "jeffreys": "jeffreys",
    "total_variation": "total_variation",
    "hellinger": "hellinger",
    "brier": "brier",
    "js_0.1": "js_0.9",
    "js_0.5": "js_0.5",
    **{f"alpha_{a}": f"alpha_{b}" for a, b in ((-1.0, 2.0), (0.0, 1.0), (0.3, 0.7), (0.5, 0.5))},
}


@on_device
def divergences(z, p):
    """The map of each."""
    return {name: loss(z, p, reduce=None) for name, loss in DIVERGENCES.items()}


@on_device
def gradients(z, p):
    """The gradient of each, summed over the pixels."""
    return {
        name: jax.grad(lambda z, loss=loss: jnp.sum(loss(z, p, reduce=None)))(z)
        for name, loss in (DIVERGENCES | {"cross_entropy": losses.cross_entropy}).items()
    }


def bounded(name, problem):
    """The pixels at which a divergence is neither infinite nor so large that it saturates."""
    kind, _, order = name.rpartition("_")
    a = float(order) if kind in ("alpha", "tsallis") else 2.0 if name == "chi_squared" else 0.5
    found = problem.whole if name in NEED_WHOLE else np.full(PIXELS, True)
    if name.startswith("f_"):
        found = found & np.all(problem.log_u < 40, -1)
    if a > 1 or a < 0:
        with np.errstate(invalid="ignore"):
            exponents = np.maximum((a - 1) * problem.log_u, problem.log_q + a * problem.log_u)
        found = found & np.all(np.where(problem.log_q > -np.inf, exponents, 0.0) < 60, -1)
    return found


exp, ln = (np.frompyfunc(f, 1, 1) for f in (decimal.Decimal.exp, decimal.Decimal.ln))


def defined(z, p):
    """Each divergence of a pixel by its definition, in forty digits."""
    kept = z > -np.inf
    z, p = (np.array([decimal.Decimal(x) for x in values[kept]]) for values in (z, p))
    log_q, p = z - ln(np.sum(exp(z))), p / np.sum(p)
    q, seen = exp(log_q), p > 0
    log_p = ln(p[seen])

    def entropy(x):
        return -np.sum(x[x > 0] * ln(x[x > 0]))

    kl = np.sum(p[seen] * (log_p - log_q[seen]))
    found = {
        "kl": kl,
        "total_variation": np.sum(abs(p - q)) / 2,
        "hellinger": 1 - np.sum(np.sqrt(p * q)),
        "chi_squared": np.sum((p - q) ** 2 / q),
        "brier": np.sum((p - q) ** 2),
        "triangular": np.sum((p - q) ** 2 / (p + q)),
    }
    for w in WEIGHTS:
        w_p, w_q = decimal.Decimal(w), 1 - decimal.Decimal(w)
        found[f"js_{w}"] = entropy(w_p * p + w_q * q) - w_p * entropy(p) - w_q * entropy(q)
    if np.all(seen):
        found["reverse"] = np.sum(q * (log_q - log_p))
        found["jeffreys"] = np.sum((p - q) * (log_p - log_q))
    for a in ALPHAS:
        order = decimal.Decimal(a)
        power_sum = np.sum(exp(order * log_p + (1 - order) * log_q[seen]))
        if a > 0:
            found[f"tsallis_{a}"] = kl if a == 1 else (power_sum - 1) / (order - 1)
            found[f"renyi_{a}"] = kl if a == 1 else power_sum.ln() / (order - 1)
            found[f"alpha_{a}"] = found[f"tsallis_{a}"] / order
        elif np.all(seen):
            of_order = found["reverse"] if a == 0 else (power_sum - 1) / (order * (order - 1))
            found[f"alpha_{a}"] = of_order
    return {name: float(x) for name, x in found.items()}


@hypothesis.given(soft_problems(largest=25.0))
def test_divergences_by_their_definitions(problem):
    """To all digits, be q far from p or close to it, and the order far from 0 and 1 or close."""
    found = divergences(*problem)
    with decimal.localcontext(prec=40):
        by_pixel = [defined(*pixel) for pixel in zip(*problem, strict=True)]
    for name in found:
        kept = bounded(name, problem)
        expected = [x[name.removeprefix("f_")] for x in itertools.compress(by_pixel, kept)]
        near(found[name][kept], expected, rounded(name, expected, problem.rounding), name)


@hypothesis.given(soft_problems(largest=1e4))
def test_divergences_are_never_negative(problem):
    """Nor 0 for another prediction: 2 TV^2 is no more than they are (Pinsker, Gilardoni 2010)."""
    found = divergences(*problem)
    for name, value in found.items():
        at_most(0, value[bounded(name, problem)], problem.rounding if name == "f_kl" else 0, name)
    distance = 2 * found["total_variation"] ** 2
    for name in ("kl", "reverse", *(f"alpha_{a}" for a in ALPHAS if -1 <= a <= 2)):
        kept = bounded(name, problem)
        lower = distance[kept]
        at_most(lower, found[name][kept], of_square(lower, problem.rounding), name)


@hypothesis.given(soft_problems(largest=1e4))
def test_divergences_are_zero_where_equal(problem):
    """Up to the square of a rounding, with a gradient of a rounding; distances up to a rounding."""
    equal = problem._replace(z=log(problem.labels))
    rounding = equal.rounding
    for name, value in divergences(*equal).items():
        at_most(value, 0, rounded(name, 0, rounding), name)
    for name, gradient in gradients(*equal).items():
        if not name.endswith("total_variation"):
            near(gradient, 0, 4 * rounding * equal.p, name)


@hypothesis.given(soft_problems(largest=1e4))
def test_cross_entropy_is_entropy_plus_divergence(problem):
    found = losses.cross_entropy(*problem, reduce=None)
    expected = special.entr(problem.p).sum(-1) + divergences(*problem)["kl"]
    near(found, expected, problem.rounding)


@hypothesis.given(soft_problems(largest=1e4))
def test_focal_and_poly1_of_distributions(problem):
    """Expectations under p; both are the cross-entropy for an option of 0."""
    expected = losses.cross_entropy(*problem, reduce=None)
    wrong = np.sum(problem.p * -np.expm1(problem.log_q), -1)
    for loss, options, value in (
        (losses.focal, {"gamma": 0.0}, expected),
        (losses.poly1, {"epsilon": 0.0}, expected),
        (losses.poly1, {"epsilon": 2.0}, expected + 2 * wrong),
    ):
        near(loss(*problem, reduce=None, **options), value, 2 * problem.rounding)


@hypothesis.given(soft_problems(largest=1e4))
def test_gradient_of_cross_entropy_is_q_minus_p(problem):
    found = gradients(*problem)
    for name in ("kl", "cross_entropy"):
        near(found[name], problem.q - problem.p, problem.rounding * (problem.q + problem.p), name)


@hypothesis.given(soft_problems())
def test_divergences_that_are_one(problem):
    found = divergences(*problem)
    pairs = {
        "kl": found["alpha_1.0"],
        "reverse": found["alpha_0.0"],
        "jeffreys": found["kl"] + found["reverse"],
        "hellinger": found["alpha_0.5"] / 4,
        "chi_squared": found["alpha_2.0"] * 2,
        "renyi_1.0": found["kl"],
        "renyi_2.0": np.log1p(found["chi_squared"]),
        "f_kl": found["kl"],
        "f_chi_squared": found["chi_squared"],
        "f_total_variation": found["total_variation"],
        **{f"tsallis_{a}": a * found[f"alpha_{a}"] for a in ORDERS},
    }
    for name, expected in pairs.items():
        kept = bounded(name, problem) & bounded("chi_squared", problem)
        tolerance = rounded(name, expected[kept], problem.rounding)
        near(found[name][kept], expected[kept], tolerance, name)


@hypothesis.given(soft_problems())
def test_divergences_with_p_and_q_exchanged(problem):
    """D_a(p || q) = D_(1-a)(q || p); Jeffreys, Jensen-Shannon and the distances are symmetric."""
    exchanged = Problem(log(problem.p), problem.q)
    rounding = problem.rounding + exchanged.rounding
    found, other = divergences(*problem), divergences(*exchanged)
    for name, mirror in MIRRORS.items():
        kept = bounded(name, problem) & bounded(mirror, exchanged)
        tolerance = rounded(name, found[name][kept], rounding)
        near(found[name][kept], other[mirror][kept], tolerance, name)


@hypothesis.given(soft_problems(largest=1e4))
def test_bounds_between_divergences(problem):
    found, rounding = divergences(*problem), problem.rounding
    tv, h2, js = (found[name] for name in ("total_variation", "hellinger", "js_0.5"))
    at_most(tv, 1, rounding)
    at_most(h2, tv, rounding)
    at_most(tv, np.sqrt(h2 * (2 - h2)), rounding)
    at_most(tv, np.sqrt(found["kl"] / 2), rounding)
    at_most(js, math.log(2) * tv, rounding * (tv + rounding))
    at_most(js, math.log(2), rounding)
    at_most(found["brier"], 2, rounding)
    for w in WEIGHTS:
        at_most(found[f"js_{w}"], (special.entr(w) + special.entr(1 - w)) * tv, rounding)
    for a in ALPHAS:
        if 0 < a < 1:
            at_most(found[f"alpha_{a}"], 1 / (a * (1 - a)), rounding / (a * (1 - a)))
    for low, high in itertools.pairwise(ORDERS):
        tolerance = 2 * rounded("renyi", found[f"renyi_{high}"], rounding)
        at_most(found[f"renyi_{low}"], found[f"renyi_{high}"], tolerance)


@hypothesis.given(soft_problems())
def test_limits_in_the_order(problem):
    """1e-7 from 1 or 0 changes an exponent of p / q by that, and Renyi's by D times that, too."""
    found, rounding = divergences(*problem), problem.rounding
    kl, most = found["kl"], np.max(np.abs(problem.log_u), -1, where=problem.p > 0, initial=1.0)
    for a in (1 - 1e-7, 1 + 1e-7):
        tolerance = kl * np.expm1(2e-7 * most) + 2 * of_square(kl, rounding)
        near(found[f"alpha_{a}"], kl, tolerance)
        near(found[f"tsallis_{a}"], kl, tolerance)
        near(found[f"renyi_{a}"], kl, tolerance + 1e-7 * kl**2)
    for a in (-1e-7, 1e-7):
        kept = problem.whole
        reverse = found["reverse"][kept]
        tolerance = reverse * np.expm1(2e-7 * most[kept]) + 2 * of_square(reverse, rounding)
        near(found[f"alpha_{a}"][kept], reverse, tolerance)


def power_gradient(a):
    return lambda v: -np.expm1(a * v) / a if a else -v


def mixture_gradient(w):
    return lambda v: -(1 - w) * np.log1p(w * np.expm1(v))


# g = f(u) - u f'(u) of v = log(u), the f with f'(1) = 0.
GENERATORS = {
    "kl": power_gradient(1.0),
    "reverse": power_gradient(0.0),
    "jeffreys": lambda v: -np.expm1(v) - v,
    "total_variation": lambda v: -np.sign(v) / 2,
    "hellinger": lambda v: -np.expm1(v / 2) / 2,
    "chi_squared": lambda v: -np.expm1(2 * v),
    "triangular": lambda v: -np.tanh(v / 2) * (2 + np.tanh(v / 2)),
    **{f"js_{w}": mixture_gradient(w) for w in WEIGHTS},
    **{f"alpha_{a}": power_gradient(a) for a in ALPHAS},
    **{f"tsallis_{a}": lambda v, a=a: a * power_gradient(a)(v) for a in ORDERS},
    **{f"renyi_{a}": lambda v, a=a: a * power_gradient(a)(v) for a in ORDERS},
}


@hypothesis.given(soft_problems())
def test_gradient_of_any_f_divergence(problem):
    """dz_j = q_j (g_j - sum q g), to all digits of each; Renyi's is divided by sum p^a q^(1-a).

    Brier's score is no f-divergence, but has that form with 2 (q - p) for g.
    """
    found, rounding = gradients(*problem), problem.rounding
    ties = np.any((np.abs(problem.log_u) < 2 * rounding) & (problem.q > 0), -1)
    for name in found.keys() - {"cross_entropy"}:
        kept = bounded(name, problem)
        if name.endswith("total_variation"):
            kept = kept & ~ties
        q, v = problem.q[kept], problem.log_u[kept]
        of_log_u = GENERATORS.get(name.removeprefix("f_"))
        g = of_log_u(v) if of_log_u else 2 * (q - problem.p[kept])
        expected = q * (g - np.sum(q * g, -1, keepdims=True))
        # The difference f - u f' of an f that jax differentiates cancels.
        size = 1 + np.abs(g) + (np.exp(v) if name.startswith("f_") else 0)
        tolerance = 4 * rounding * q * (size + np.sum(q * size, -1, keepdims=True))
        if name.startswith("renyi"):
            a = float(name.removeprefix("renyi_"))
            powers = special.logsumexp(a * v + problem.log_q[kept], -1, keepdims=True)
            expected, tolerance = expected * np.exp(-powers), tolerance * np.exp(-powers)
        near(found[name][kept], expected, tolerance, name)


@hypothesis.given(soft_problems(), hnp.arrays(np.int64, CLASSES, elements=st.integers(0, 5)))
def test_merging_classes_never_increases_a_divergence(problem, groups):
    merge = np.eye(CLASSES)[groups]
    merged = Problem(log(problem.q @ merge), problem.p @ merge)
    fine, coarse = divergences(*problem), divergences(*merged)
    rounding = problem.rounding + merged.rounding
    for name in fine.keys() - {"brier"}:
        kept = bounded(name, problem) & bounded(name, merged)
        tolerance = 2 * rounded(name, fine[name][kept], rounding)
        at_most(coarse[name][kept], fine[name][kept], tolerance, name)


@hypothesis.given(soft_problems(), st.sampled_from([0.5, 4.0]))
def test_temperature(problem, temperature):
    """T^2 times the divergence of logits divided by T."""
    found = losses.kl_divergence(*problem, temperature=temperature, reduce=None)
    kl = divergences(problem.z / temperature, problem.p)["kl"]
    near(found, temperature**2 * kl, temperature**2 * of_square(kl, 2 * problem.rounding))


@on_device
def expected_scores(z, p):
    """The cross-entropy and Brier's score, expected under p."""
    labels = jnp.broadcast_to(jnp.arange(CLASSES)[:, None], (CLASSES, PIXELS))
    z = jnp.broadcast_to(z, (CLASSES, *SHAPE))
    scores = [f(z, labels, reduce=None).T for f in (losses.cross_entropy, losses.brier)]
    return [jnp.sum(jnp.where(p > 0, p * x, 0.0), -1) for x in scores]


@hypothesis.given(soft_problems())
def test_scores_are_proper(problem):
    """The expected score exceeds that of the labels themselves by a divergence."""
    found, least = expected_scores(*problem), expected_scores(log(problem.p), problem.p)
    for name, high, low in zip(("kl", "brier"), found, least, strict=True):
        near(high - low, divergences(*problem)[name], problem.rounding * (1 + high), name)


@on_device
def entropies(z):
    value, opposite = (f(z, reduce=None) for f in (losses.entropy, losses.confidence_penalty))
    return value, opposite, jax.grad(lambda z: jnp.sum(losses.entropy(z, reduce=None)))(z)


@hypothesis.given(soft_problems(largest=1e4))
def test_entropy(problem):
    """From 0 to log C, which it reaches with its opposite; its gradient is -q (log q + H)."""
    value, opposite, gradient = entropies(problem.z)
    expected, rounding = special.entr(problem.q).sum(-1), problem.rounding
    near(value, expected, rounding)
    at_most(0, value, 0)
    at_most(value, np.log(np.sum(problem.z > -np.inf, -1)), rounding)
    near(value + opposite, math.log(CLASSES), rounding)
    terms = special.entr(problem.q), problem.q * expected[:, None]
    near(gradient, terms[0] - terms[1], rounding * (sum(terms) + problem.q + rounding))


# Class indices.

POWERS = (1e-9, 0.3, 0.7, 1.0)
SCALED = (1e-9, 0.1, 0.5, 0.9, 1 - 1e-9)
SMOOTHINGS = (1e-6, 0.01, 0.1, 0.5, 1.0)
GAMMAS = (0.0, 0.5, 2.0)
EPSILONS = (0.0, 2.0)
OF_INDICES = {
    "cross_entropy": losses.cross_entropy,
    **{name: DIVERGENCES[name] for name in DIVERGENCES if name not in NEED_WHOLE},
    **{f"gce_{r}": functools.partial(losses.generalized_cross_entropy, q=r) for r in POWERS},
    **{
        f"scaled_{w}": functools.partial(losses.jensen_shannon, weight=w, scaled=True)
        for w in SCALED
    },
    **{
        f"smoothed_{e}": functools.partial(losses.relative_entropy, label_smoothing=e)
        for e in SMOOTHINGS
    },
    **{f"focal_{g}": functools.partial(losses.focal, gamma=g) for g in GAMMAS},
    **{f"poly1_{e}": functools.partial(losses.poly1, epsilon=e) for e in EPSILONS},
    "symmetric": functools.partial(losses.symmetric_cross_entropy, alpha=2.0, beta=3.0),
}


@on_device
def of_indices(z, labels):
    return {name: loss(z, labels, reduce=None) for name, loss in OF_INDICES.items()}


@hypothesis.given(hard_problems(largest=1e4))
def test_losses_of_class_indices(problem):
    """In closed form, as functions of the cross-entropy x = -log q_y."""
    found, rounding = of_indices(*problem), problem.rounding
    x = -problem.log_q_y
    wrong = -np.expm1(-x)
    powers = {a: -np.expm1(-(1 - a) * x) / (a * (1 - a)) for a in (0.3, 0.5, 0.7)}
    powers |= {a: np.expm1((a - 1) * np.minimum(x, 60)) / (a * (a - 1)) for a in (2.0, 3.0)}
    powers[1.0] = x
    expected = {
        "cross_entropy": x,
        "kl": x,
        "total_variation": wrong,
        "hellinger": -np.expm1(-x / 2),
        "chi_squared": 2 * powers[2.0],
        **{f"renyi_{a}": x for a in ORDERS},
        **{f"alpha_{a}": value for a, value in powers.items()},
        **{f"tsallis_{a}": a * value for a, value in powers.items()},
        **{f"focal_{g}": wrong**g * x for g in GAMMAS},
        **{f"poly1_{e}": x + e * wrong for e in EPSILONS},
        "symmetric": 2 * x + 3 * 4 * wrong,
        **{f"gce_{r}": -np.expm1(-r * x) / r for r in POWERS},
    }
    for name, value in expected.items():
        kept = bounded(name, problem)
        near(found[name][kept], value[kept], (rounding + LOG1P) * (1 + value[kept]), name)
    for r, a in ((0.3, 0.7), (0.7, 0.3)):
        alpha = a * found[f"alpha_{a}"]
        near(found[f"gce_{r}"], alpha, rounding * (1 + alpha))
    for low, high in itertools.pairwise(POWERS):
        at_most(found[f"gce_{high}"], found[f"gce_{low}"], rounding)
    near(found["gce_1e-09"], x, 1e-9 * x**2 / 2 + rounding)


@hypothesis.given(hard_problems(largest=1e4))
def test_scaled_jensen_shannon(problem):
    """Goes from cross-entropy to 1 - q_y with the weight.

    It is at least 1 - q_y, the entropy being concave, and at least its part w D(p || m); it is at
    most w D(p || q) and H(w) TV.
    """
    found, rounding = of_indices(*problem), problem.rounding
    x = -problem.log_q_y
    wrong = -np.expm1(-x)
    for w in SCALED:
        value, scale = found[f"scaled_{w}"], -(1 - w) * math.log1p(-w)
        at_most(wrong, value, rounding)
        at_most(w / scale * -np.log(np.exp(-x) + w * wrong), value, rounding)
        at_most(value, w / scale * x, rounding)
        at_most(value, (special.entr(w) / scale + 1) * wrong, rounding)


@hypothesis.given(hard_problems(largest=1e4))
def test_closed_form_of_smoothed_relative_entropy(problem):
    """A (1 - q_y) - H(q) - log(1 - e + e/C), A = log((1 - e + e/C) / (e/C)); 0 at the optimum."""
    found, entropy = of_indices(*problem), special.entr(problem.q).sum(-1)
    for e in SMOOTHINGS:
        peak, floor = 1 - e + e / CLASSES, e / CLASSES
        a = math.log(peak / floor)
        expected = a * -np.expm1(problem.log_q_y) - entropy - math.log(peak)
        near(found[f"smoothed_{e}"], expected, problem.rounding + 4 * EPS * a)
        optimum = np.log((1 - e) * problem.p + floor)
        at_most(of_indices(optimum, problem.labels)[f"smoothed_{e}"], 0, (4 * EPS * a) ** 2)


# Between predictions.


@st.composite
def teachers(draw, largest=50.0):
    """Logits of a student and a teacher, close to one another or not."""
    teacher = largest * draw(tables)
    if draw(st.booleans()):
        return teacher + 10.0 ** draw(st.integers(-6, 0)) * draw(tables), teacher
    return largest * draw(tables), teacher


TEMPERATURES = (1.0, 4.0, 1e2, 1e4, 1e6)


@on_device
def distillations(z, teacher):
    return {
        t: losses.knowledge_distillation(z, teacher, temperature=t, reduce=None)
        for t in TEMPERATURES
    }


@hypothesis.given(teachers())
def test_knowledge_distillation(logits):
    """The variance of the logits' difference over 2 classes, for a large temperature T.

    The divergence is half a variance under probabilities within exp(+-range / T) of uniform ones.
    """
    difference = logits[0] - logits[1]
    limit = np.var(difference, -1) / 2
    spread = sum(np.ptp(x, -1) for x in logits)
    for t, found in distillations(*logits).items():
        problem = Problem(logits[0] / t, special.softmax(logits[1] / t, -1))
        kl = divergences(*problem)["kl"]
        rounding = 2 * problem.rounding
        near(found, t**2 * kl, t**2 * of_square(kl, rounding))
        if t >= 100:
            tolerance = t**2 * of_square(limit / t**2, rounding)
            near(found, limit, tolerance + limit * np.expm1(spread / t))


@on_device
def between(z, teacher, where):
    """Losses of two predictions; "pixels" takes the pixels for classes."""
    images = [x.reshape(2, PIXELS // 2, CLASSES) for x in (z, teacher)]
    return {
        "channels": losses.channel_distillation(*images, where=where.reshape(2, -1)),
        "transposed": losses.channel_distillation(z[None], teacher[None], temperature=2.0),
        "pixels": losses.knowledge_distillation(z.T, teacher.T, temperature=2.0),
        "marginal": losses.marginal_kl(z, jax.nn.softmax(teacher), where=where),
        "mean": losses.kl_divergence(z, jax.nn.softmax(teacher), where=where),
        "consistency": losses.consistency([z, teacher], weights=(0.1, 0.9), reduce=None),
        "exchanged": losses.consistency([teacher, z], weights=(0.9, 0.1), reduce=None),
        "js": losses.jensen_shannon(teacher, jax.nn.softmax(z), weight=0.1, reduce=None),
        "same": losses.consistency([z, z, z], reduce=None),
        "three": losses.consistency([z, teacher, z - teacher], reduce=None),
    }


@hypothesis.given(
    teachers(), wheres, hnp.arrays(np.float64, (2, CLASSES), elements=st.floats(-9, 9))
)
def test_losses_between_predictions(logits, where, shifts):
    """A level for each channel of an image changes nothing; what else they are; none is below 0."""
    found = between(*logits, where)
    moved = logits[0] + np.repeat(shifts, PIXELS // 2, 0)
    shifted = between(moved, logits[1], where)
    rounding = 2 * Problem(moved, special.softmax(logits[1], -1)).rounding
    pairs = {
        "channels": shifted["channels"],
        "transposed": found["pixels"],
        "consistency": found["js"],
        "exchanged": found["js"],
        "same": 0,
    }
    for name, expected in pairs.items():
        near(found[name], expected, of_square(expected, rounding), name)
    at_most(found["marginal"], found["mean"], of_square(found["mean"], rounding))
    at_most(found["three"], math.log(3), rounding)
    for name in ("channels", "marginal", "three", "consistency"):
        at_most(0, found[name], 0, name)


# Overlaps.

TVERSKY = ((0.5, 0.5), (1.0, 1.0), (0.3, 0.7))
FORMS = ("l1", "product", "squared")
OVERLAPS = {
    **{f"dice_{x}": functools.partial(losses.dice, form=x) for x in FORMS},
    **{f"jaccard_{x}": functools.partial(losses.jaccard, form=x) for x in FORMS},
    **{f"tversky_{a}": functools.partial(losses.tversky, alpha=a, beta=b) for a, b in TVERSKY},
    "focal_tversky": functools.partial(losses.focal_tversky, gamma=1.5),
    "generalized_dice": losses.generalized_dice,
    "mcc": losses.mcc,
}


@on_device
def overlaps(z, p, where):
    """The value of each class."""

    def of_class(class_weights):
        given = {"where": where, "class_weights": class_weights}
        return {name: loss(z, p, **given) for name, loss in OVERLAPS.items()}

    return jax.vmap(of_class)(jnp.eye(CLASSES, dtype=z.dtype))


@on_device
def averages(z, p, where):
    """The value of all classes; and the gradient of the product form."""
    found = {name: loss(z, p, where=where) for name, loss in OVERLAPS.items()}
    found["all"] = losses.jaccard(z, p, where=where, classes="all")
    found["product"] = jax.grad(functools.partial(losses.dice, form="product", where=where))(z, p)
    return found


@hypothesis.given(soft_problems(), wheres)
def test_overlaps_of_each_class(problem, where):
    """Jaccard's loss is 2 d / (1 + d) of Dice's d, and Tversky's contains both."""
    found = overlaps(*problem, where)
    for form in FORMS:
        d = found[f"dice_{form}"]
        near(found[f"jaccard_{form}"], 2 * d / (1 + d), 8 * EPS * d, form)
        at_most(0, d, 0, form)
        at_most(d, 1, 8 * EPS, form)
    near(found["generalized_dice"], found["dice_l1"], 8 * EPS * found["dice_l1"])
    near(found["tversky_0.5"], found["dice_l1"], 16 * EPS)
    near(found["tversky_1.0"], found["jaccard_l1"], 16 * EPS)
    near(found["focal_tversky"], found["tversky_0.3"] ** 1.5, 8 * EPS)
    at_most(0, found["mcc"], math.sqrt(EPS))
    at_most(found["mcc"], 2, math.sqrt(EPS))


@hypothesis.given(soft_problems(largest=1e4), wheres)
def test_overlaps_are_zero_for_the_labels_alone(problem, where):
    """Dice's loss is at least the sum of |p - q| over twice all areas; and 0 where q = p."""
    found = averages(*problem, where)
    area = max(1, where.sum())
    # The classes present have at least half of the sum, and each at most the areas.
    distance = np.sum(np.abs(problem.p - problem.q)[where]) / 2 / (2 * area * CLASSES)
    equal = problem._replace(z=log(problem.p))
    least = averages(*equal, where)
    for name, share in (("dice_l1", 1), ("jaccard_l1", 1), ("tversky_0.3", 0.3)):
        at_most(share * distance, found[name], problem.rounding, name)
    for name in ("dice_l1", "jaccard_l1", "tversky_0.3", "generalized_dice", "dice_squared"):
        at_most(0, found[name], 0, name)
        at_most(least[name], 0, equal.rounding, name)


@hypothesis.given(hard_problems(), wheres)
def test_overlaps_of_class_indices(problem, where):
    """The forms agree, for any prediction or for hard ones, with the sets' overlaps."""
    found, rounding = overlaps(problem.z, problem.p, where), problem.rounding
    near(found["dice_l1"], found["dice_product"], rounding)
    near(found["jaccard_l1"], found["jaccard_product"], rounding)
    preds = np.argmax(problem.z, -1)
    hard = overlaps(1e4 * np.eye(CLASSES)[preds], problem.p, where)
    for c in range(CLASSES):
        predicted, labelled = ((x == c) & where for x in (preds, problem.labels))
        if labelled.any():
            both, union = np.sum(predicted & labelled), np.sum(predicted | labelled)
            for form in FORMS:
                near(hard[f"jaccard_{form}"][c], 1 - both / union, 4 * EPS, form)
                near(hard[f"dice_{form}"][c], 1 - 2 * both / (both + union), 4 * EPS, form)
            weighted = (
                both + 0.3 * np.sum(predicted & ~labelled) + 0.7 * np.sum(labelled & ~predicted)
            )
            near(hard["tversky_0.3"][c], 1 - both / weighted, 4 * EPS)


@hypothesis.given(soft_problems(), soft_problems(), soft_problems(), wheres)
def test_the_jaccard_loss_is_a_metric(a, b, c, where):
    """Symmetric, and no way round is shorter."""
    z = [log(x.p) for x in (a, b, c)]
    rounding = 2 * max(x._replace(z=y).rounding for x, y in zip((a, b, c), z, strict=True))
    direct, back = averages(z[0], b.p, where)["all"], averages(z[1], a.p, where)["all"]
    near(direct, back, rounding)
    at_most(direct, averages(z[0], c.p, where)["all"] + averages(z[2], b.p, where)["all"], rounding)


@hypothesis.given(st.floats(0.05, 0.45), st.floats(0.55, 0.95), wheres)
def test_the_product_form_is_not_least_at_the_labels(low, high, where):
    """For labels that differ between pixels it falls from q = p on, where the l1 form rises."""
    where = where | (np.arange(PIXELS) < 2)
    share = np.where(np.arange(PIXELS) % 2, low, high)
    p = np.stack([share, 1 - share, *np.zeros((CLASSES - 2, PIXELS))], -1)
    at = averages(log(p), p, where)
    gradient = np.where(p > 0, at["product"], 0.0)
    down = averages(log(p) - 1e-3 * gradient / np.linalg.norm(gradient), p, where)
    assert down["dice_product"] < at["dice_product"] - 1e-4 * np.linalg.norm(gradient)
    assert np.linalg.norm(gradient) > 1e-3
    assert down["dice_l1"] > at["dice_l1"]


@hypothesis.given(soft_problems(), wheres)
def test_generalized_dice(problem, where):
    """By its definition, over the classes that are present; absent ones may have any prediction."""
    p, q = problem.p[where], problem.q[where]
    present = p.sum(0) > 0
    areas = p.sum(0)[present] / max(1.0, p.sum())
    wrong, both = (np.sum(x, 0)[present] / areas**2 for x in (np.abs(p - q), p + q))
    expected = wrong.sum() / both.sum() if present.any() else 0.0
    near(averages(*problem, where)["generalized_dice"], expected, 2 * problem.rounding)


@hypothesis.given(hard_problems(), wheres)
def test_correlation(problem, where):
    """0 for the labels; with two classes exchanged it is what it lacks to 2."""
    p = problem.p
    near(averages(1e4 * p, p, where)["mcc"], 0, 4 * EPS)
    labels = problem.labels % 2
    if len(set(labels[where])) == 2:
        two = np.where(np.arange(CLASSES) < 2, np.clip(problem.z, -10, 10), -np.inf)
        exchanged = two[:, [1, 0, 2, 3, 4, 5]]
        total = sum(averages(z, np.eye(CLASSES)[labels], where)["mcc"] for z in (two, exchanged))
        near(total, 2, 16 * EPS * math.exp(10))  # a root of the shares


@on_device
def lovasz(z, labels, where):
    questions = labels[:, None] == jnp.arange(CLASSES)[None]
    return (
        losses.lovasz_softmax(z, labels, where=where),
        losses.lovasz_hinge(z, questions, where=where),
    )


@hypothesis.given(hard_problems(), wheres)
def test_lovasz_of_hard_predictions(problem, where):
    """One minus the intersection over union, averaged over the classes present."""
    preds = np.argmax(problem.z, -1)
    classes = np.unique(problem.labels[where])
    pairs = [[(x == c) & where for x in (preds, problem.labels)] for c in classes]
    expected = np.mean([1 - np.sum(x & y) / np.sum(x | y) for x, y in pairs]) if pairs else 0.0
    near(lovasz(1e4 * np.eye(CLASSES)[preds], problem.labels, where)[0], expected, 4 * EPS)


@hypothesis.given(hard_problems(), tables, st.floats(0, 1), wheres)
def test_lovasz_is_convex(problem, other, t, where):
    """Along the segments between two predictions: of q, and of the hinges' logits."""
    z, labels = problem
    other = np.where(np.isinf(z), -np.inf, 20 * other)
    mixed = log(t * problem.q + (1 - t) * special.softmax(other, -1))
    first, last = (np.where(np.isinf(x), -50, x) for x in (z, other))
    for index, ends, middle in (
        (0, (z, other), mixed),
        (1, (first, last), t * first + (1 - t) * last),
    ):
        low, high, found = (lovasz(x, labels, where)[index] for x in (*ends, middle))
        at_most(found, t * low + (1 - t) * high, problem.rounding)


# Boundaries.

PICTURES = (2, 3, 4)


@on_device
def boundaries(q, labels):
    z = jnp.log(q)
    return losses.boundary(z, labels), losses.hausdorff_dt(z, labels)


@st.composite
def pictures(draw):
    """Two pictures of labels of three classes, of which some are absent."""
    classes = draw(st.sampled_from([(0,), (0, 1), (0, 2), (0, 1, 2)]))
    return draw(hnp.arrays(np.int32, PICTURES, elements=st.sampled_from(classes)))


@hypothesis.given(pictures(), pictures(), numbers((2, *PICTURES, 3)), st.floats(0, 1))
def test_losses_of_boundaries(labels, preds, noise, t):
    """Linear in q, least for the labels, 0 for a class that is absent or alone; or symmetric."""
    first, second = special.softmax(10 * noise, -1)
    perfect = np.eye(3)[labels]
    values = [boundaries(q, labels) for q in (first, second, t * first + (1 - t) * second)]
    near(values[2][0], t * values[0][0] + (1 - t) * values[1][0], 64 * EPS)
    least, nothing = boundaries(perfect, labels)
    at_most(least, values[0][0], 16 * EPS)
    assert nothing == 0
    assert values[0][1] >= 0
    here, there = boundaries(np.eye(3)[preds], labels)[1], boundaries(perfect, preds)[1]
    near(here, there, 4 * EPS * (1 + here))
    for c in set(range(3)) - set(labels.flat):
        assert boundaries(np.broadcast_to(np.eye(3)[c], (*PICTURES, 3)), labels)[0] == 0
    assert boundaries(first, np.full(PICTURES, labels[0, 0, 0]))[0] == 0


# Yes-no questions.


@on_device
def sigmoids(z, labels):
    return {
        "cross_entropy": losses.sigmoid_cross_entropy(z, labels, reduce=None),
        "focal": losses.sigmoid_focal(z, labels, alpha=None, gamma=3.0, reduce=None),
        "tversky": losses.sigmoid_tversky(z, labels, gamma=1.5),
        **{form: losses.sigmoid_dice(z, labels, form=form) for form in FORMS},
    }


@on_device
def softmaxes(z, labels):
    """The same of two classes, the first of logit 0."""
    two, p = (jnp.stack([x, y], -1) for x, y in ((jnp.zeros_like(z), z), (1 - labels, labels)))

    def by_channel(loss):
        of_second = functools.partial(loss, class_weights=jnp.array([0.0, 1.0]))
        present = jnp.sum(labels, 0) > 0
        values = jax.vmap(of_second, 1)(two, p)
        return jnp.sum(values * present) / jnp.maximum(jnp.sum(present), 1)

    return {
        "cross_entropy": losses.cross_entropy(two, p, reduce=None),
        "focal": losses.focal(two, p, gamma=3.0, reduce=None),
        "tversky": by_channel(functools.partial(losses.focal_tversky, gamma=1.5)),
        **{form: by_channel(functools.partial(losses.dice, form=form)) for form in FORMS},
    }


@hypothesis.given(tables, tables, st.sampled_from([1.0, 50.0, 1e4]), st.booleans())
def test_sigmoids_are_softmaxes_of_two_classes(z, labels, size, hard):
    soft = np.where(np.abs(labels) > 1e-100, np.abs(labels), 0.0)  # whose squares are no zero
    z, labels = size * z, np.where(hard, labels > 0, soft).astype(float)
    found, expected = sigmoids(z, labels), softmaxes(z, labels)
    for name, value in found.items():
        near(value, expected[name], 16 * EPS * (1 + size), name)


# What all losses share.

WEIGHTED = {
    "cross_entropy": losses.cross_entropy,
    "kl": functools.partial(losses.kl_divergence, temperature=2.0, label_smoothing=0.1),
    "relative_entropy": losses.relative_entropy,
    "jeffreys": losses.jeffreys,
    "jensen_shannon": losses.jensen_shannon,
    "alpha": losses.alpha_divergence,
    "renyi": losses.renyi_divergence,
    "tsallis": functools.partial(losses.tsallis_divergence, order=0.7),
    "total_variation": losses.total_variation,
    "hellinger": losses.hellinger,
    "chi_squared": losses.chi_squared,
    "brier": losses.brier,
    "triangular": functools.partial(losses.f_divergence, f=triangular),
    "focal": losses.focal,
    "poly1": losses.poly1,
    "generalized": losses.generalized_cross_entropy,
    "symmetric": losses.symmetric_cross_entropy,
    "logit_adjusted": functools.partial(losses.logit_adjusted, prior=(1.0,) * CLASSES),
}
SMOOTH = WEIGHTED.keys() - {"total_variation"} | {"dice_squared", "dice_product", "marginal"}
problems = st.one_of(f(largest=20.0, fewest=CLASSES) for f in (soft_problems, hard_problems))


@on_device
def every(z, labels, where, class_weights):
    """The value and the gradient of each loss of the classes."""
    hard = {"lovasz": losses.lovasz_softmax} if labels.ndim == 1 else {}
    given = {"where": where, "class_weights": class_weights}
    found = {
        name: jax.value_and_grad(loss)(z, labels, **given)
        for name, loss in (WEIGHTED | OVERLAPS | hard).items()
    }
    found["entropy"] = jax.value_and_grad(losses.entropy)(z, where=where)
    found["marginal"] = jax.value_and_grad(losses.marginal_kl)(z, labels, where=where)
    return found


def alike(found, expected, problem, of_gradient):
    """Equal up to rounding; gradients only where there is no kink, which q = p may be."""
    for name, (value, gradient) in found.items():
        other, other_gradient = expected[name]
        # The correlation divides by a root of what may be a rounding.
        rounding = math.sqrt(EPS) if name == "mcc" else problem.rounding
        near(value, other, rounding * (1 + np.abs(other)), name)
        if name in SMOOTH:
            wanted = of_gradient(other_gradient)
            near(gradient, wanted, rounding * (1 + np.abs(wanted)), name)


@hypothesis.given(problems, wheres, class_weights, orders(PIXELS), orders(CLASSES))
def test_the_order_of_classes_and_pixels_is_immaterial(problem, where, weights, pixels, classes):
    """Values are the same and gradients in the new order."""
    z, labels = problem
    moved = labels[pixels]
    moved = moved[:, classes] if labels.ndim == 2 else np.argsort(classes).astype(np.int32)[moved]
    found = every(z[pixels][:, classes], moved, where[pixels], weights[classes])
    expected = every(z, labels, where, weights)
    alike(found, expected, problem, lambda x: x[pixels][:, classes])


@hypothesis.given(problems, class_weights, orders(PIXELS), st.booleans())
def test_where_is_the_subset_alone(problem, weights, pixels, nan):
    """Or two copies of it, to keep the shape; whatever the others hold, whose gradients are 0."""
    twice = np.tile(pixels[: PIXELS // 2], 2)
    where = np.isin(np.arange(PIXELS), twice)
    alone = every(*(x[twice] for x in problem), np.ones(PIXELS, bool), weights)
    z, p = (np.where(where[:, None], x, np.nan if nan else np.inf) for x in (problem.z, problem.p))
    labels = p if problem.labels.ndim == 2 else np.where(where, problem.labels, 255)
    found = every(z, labels, where, weights)
    alike(found, alone, problem, lambda x: np.eye(PIXELS)[:, twice] @ x)


@hypothesis.given(problems, hnp.arrays(np.int32, PIXELS, elements=st.integers(0, 2)), class_weights)
def test_a_batch_is_the_weighted_mean_of_its_parts(problem, parts, weights):
    """By the pixels that count, or by their weights."""
    parts = [parts == i for i in range(2)]
    found = [every(*problem, where, weights) for where in (*parts, parts[0] | parts[1])]
    for name in (*WEIGHTED, "entropy"):
        of_pixels = np.ones(PIXELS) if name == "entropy" else problem.p @ weights
        shares = [of_pixels[where].sum() for where in parts]
        if sum(shares) > 0:
            *values, whole = (x[name][0] for x in found)
            mean = np.dot(shares, values) / sum(shares)
            near(whole, mean, problem.rounding * (1 + mean), name)


@hypothesis.given(problems, wheres, class_weights, st.floats(0.01, 100))
def test_only_the_ratio_of_class_weights_matters(problem, where, weights, factor):
    found, expected = (every(*problem, where, w) for w in (factor * weights, weights))
    alike(found, expected, problem, lambda x: x)


@hypothesis.given(
    problems,
    wheres,
    class_weights,
    hnp.arrays(np.float64, (PIXELS, 1), elements=st.floats(-1e4, 1e4)),
)
def test_a_constant_added_to_the_logits_changes_nothing(problem, where, weights, shift):
    """Hence the gradient sums to 0 over the classes."""
    shifted = problem._replace(z=problem.z + shift)
    found, expected = (every(*x, where, weights) for x in (shifted, problem))
    alike(found, expected, shifted, lambda x: x)
    for name, (value, gradient) in expected.items():
        if name != "mcc":
            near(np.sum(gradient, -1), 0, problem.rounding * (1 + value), name)


@hypothesis.given(hard_problems(largest=20.0, fewest=CLASSES), wheres, class_weights)
def test_one_hot_distributions_are_class_indices(problem, where, weights):
    found = every(problem.z, problem.p, where, weights)
    alike(found, every(*problem, where, weights), problem, lambda x: x)


@hypothesis.given(soft_problems(largest=1e4), hard_problems(largest=1e4), teachers(largest=1e4))
def test_float32(soft, hard, logits):
    """Losses are finite and not negative, and their gradients finite."""
    single = functools.partial(np.asarray, dtype=np.float32)
    soft = Problem(*map(single, soft))
    found = [divergences(*soft), of_indices(single(hard.z), hard.labels)]
    found += [averages(*soft, np.full(PIXELS, True)), between(*map(single, logits), soft.whole)]
    for name, value in itertools.chain.from_iterable(x.items() for x in found):
        kept = soft.whole if name in NEED_WHOLE else ...
        assert value.dtype == np.float32
        assert np.all(np.isfinite(value[kept])), name
        if name not in ("product", "dice_product", "jaccard_product", "mcc"):
            at_most(0, value[kept], 1e-6 if name == "f_kl" else 0, name)
    for name, gradient in gradients(*soft).items():
        kept = soft.whole if name in NEED_WHOLE else ...
        assert np.all(np.isfinite(gradient[kept])), name
