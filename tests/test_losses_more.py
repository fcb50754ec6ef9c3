"""Losses by properties of their own: small numbers, memory, hard pixels, sigmoids."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads
from scipy import special

from jaxseg import losses

# What versions change shows in the examples and in test_losses.py.
pytestmark = pytest.mark.exhaustive

SHAPE, CLASSES = (2, 3, 5), 4
# Compiling takes most of these tests' time.
quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def soft_problem(seed=0, scale=2.0):
    rng = np.random.default_rng(seed)
    labels = rng.dirichlet(np.ones(CLASSES), SHAPE)
    return rng.normal(0, scale, (*SHAPE, CLASSES)), labels


def hard_problem(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 2, (*SHAPE, CLASSES)), rng.integers(0, CLASSES, SHAPE, np.int32)


def maps(logits, labels):
    """Every divergence of the family as a map, by its short name."""
    per_pixel = functools.partial
    family = {
        "kl": losses.kl_divergence,
        "reverse": per_pixel(losses.relative_entropy, label_smoothing=0.0),
        "jeffreys": per_pixel(losses.jeffreys, label_smoothing=0.0),
        "js": losses.jensen_shannon,
        "tv": losses.total_variation,
        "hellinger": losses.hellinger,
        "chi2": losses.chi_squared,
        "brier": losses.brier,
        "renyi": losses.renyi_divergence,
        **{f"alpha{a}": per_pixel(losses.alpha_divergence, alpha=a) for a in ALPHAS},
        **{f"renyi{a}": per_pixel(losses.renyi_divergence, order=a) for a in ORDERS},
        **{f"tsallis{a}": per_pixel(losses.tsallis_divergence, order=a) for a in ORDERS},
    }
    every = jax.jit(lambda *data: {name: f(*data, reduce=None) for name, f in family.items()})
    return jax.tree.map(np.asarray, every(logits, labels))


ALPHAS = (-1.0, 0.0, 0.3, 0.5, 0.7, 1.0, 2.0)
ORDERS = (0.3, 0.5, 1.0, 2.0, 3.0)


@pytest.mark.parametrize("scale", [1e-1, 1e-2, 1e-3])
def test_small_divergences_keep_their_digits(scale):
    """In float32, close to q = p, where a difference of two large terms has no digit left."""
    rng = np.random.default_rng(0)
    p = rng.dirichlet(3 * np.ones(CLASSES), 200).astype(np.float32)
    z = (np.log(p) + rng.normal(0, scale, p.shape)).astype(np.float32)
    with jax.enable_x64(True) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64():
        exact = maps(z.astype(np.float64), p.astype(np.float64))
    # The rounding of the logits themselves, relative to log(q / p).
    accuracy = 4e-6 / scale
    for name, found in maps(z, p).items():
        assert found.dtype == np.float32
        assert np.all(found >= 0), name
        error = np.abs(found - exact[name]).sum() / exact[name].sum()
        assert error < accuracy, (name, error)


@pytest.mark.parametrize("order", [1 + 1e-7, 1 - 1e-7, 1 + 1e-4, 1 - 1e-4])
@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_orders_near_one_are_the_limit(order, kind):
    logits, labels = soft_problem() if kind == "soft" else hard_problem()
    logits = logits.astype(np.float32)
    kl = np.asarray(losses.kl_divergence(logits, labels, reduce=None))
    for loss, name in (
        (losses.alpha_divergence, "alpha"),
        (losses.renyi_divergence, "order"),
        (losses.tsallis_divergence, "order"),
    ):
        found = loss(logits, labels, reduce=None, **{name: order})
        # The true difference grows with |order - 1| and the size of the logits.
        np.testing.assert_allclose(found, kl, rtol=2e-6 + 10 * abs(order - 1))


@pytest.mark.parametrize("alpha", [1e-7, -1e-7, 1e-4, -1e-4])
def test_orders_near_zero_are_the_limit(alpha):
    logits, labels = soft_problem()
    logits = logits.astype(np.float32)
    smooth = {"label_smoothing": 0.1, "reduce": None}
    found = losses.alpha_divergence(logits, labels, alpha=alpha, **smooth)
    expected = losses.relative_entropy(logits, labels, **smooth)
    np.testing.assert_allclose(found, expected, rtol=2e-6 + 10 * abs(alpha))


SMOOTH = {
    "kl": losses.kl_divergence,
    "reverse": losses.relative_entropy,
    "jeffreys": losses.jeffreys,
    "js": losses.jensen_shannon,
    "alpha": functools.partial(losses.alpha_divergence, alpha=0.3),
    "alpha3": functools.partial(losses.alpha_divergence, alpha=3.0),
    "renyi": losses.renyi_divergence,
    "tsallis": functools.partial(losses.tsallis_divergence, order=0.7),
    "chi2": losses.chi_squared,
    "hellinger": losses.hellinger,
    "brier": losses.brier,
    "focal": losses.focal,
    "poly1": losses.poly1,
    "gce": losses.generalized_cross_entropy,
    "sce": losses.symmetric_cross_entropy,
    "entropy": lambda z, labels: losses.entropy(z),
    "dice": losses.dice,
    "dice_squared": functools.partial(losses.dice, form="squared"),
    "jaccard": losses.jaccard,
    "tversky": losses.tversky,
    "generalized_dice": losses.generalized_dice,
    "mcc": losses.mcc,
    "marginal_kl": losses.marginal_kl,
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_second_derivatives(name, kind):
    """The closed-form gradient can be differentiated again, and its derivative is right."""
    logits, labels = soft_problem(scale=0.7) if kind == "soft" else hard_problem()
    loss = jax.jit(lambda z: SMOOTH[name](z, jnp.asarray(labels[0])))
    check_grads(loss, (jnp.asarray(logits[0]) / 2,), order=2, modes=["rev"], rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", sorted(set(SMOOTH) - {"entropy"}))
def test_gradient_of_distributions(name):
    """Labels have a gradient, too, as a teacher's prediction needs; here along the simplex."""
    logits, labels = soft_problem()

    def value(teacher):
        return SMOOTH[name](jnp.asarray(logits), jax.nn.softmax(teacher))

    check_grads(jax.jit(value), (jnp.log(labels),), order=1, modes=["rev"], rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_hessian_by_forward_over_reverse():
    logits, labels = soft_problem()
    z, p = jnp.asarray(logits[0, 0, 0]), jnp.asarray(labels[0, 0, 0])
    found = jax.hessian(losses.kl_divergence)(z, p)
    q = special.softmax(z)
    np.testing.assert_allclose(found, np.diag(q) - np.outer(q, q), rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("name", ["kl", "reverse", "js", "jeffreys", "renyi", "focal", "dice"])
def test_the_backward_pass_keeps_the_arguments_alone(name):
    """At most 1.1 times the bytes of the logits, and they are the logits themselves."""
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(2, 64, 64, 21)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 21, (2, 64, 64)), jnp.uint8)
    _, pullback = jax.vjp(lambda z: SMOOTH[name](z, labels), logits)
    kept = {id(x): x.nbytes for x in jax.tree.leaves(pullback) if hasattr(x, "nbytes")}
    assert logits.nbytes <= sum(kept.values()) <= 1.1 * logits.nbytes

    def automatic(z):
        log_q, p = jax.nn.log_softmax(z), jax.nn.one_hot(labels, 21) * 0.9 + 0.1 / 21
        m = (p + jnp.exp(log_q)) / 2
        return jnp.mean(p * (jnp.log(p) - jnp.log(m)) + jnp.exp(log_q) * (log_q - jnp.log(m)))

    _, pullback = jax.vjp(automatic, logits)
    kept = {id(x): x.nbytes for x in jax.tree.leaves(pullback) if hasattr(x, "nbytes")}
    assert sum(kept.values()) > 4 * logits.nbytes


def test_excluded_classes_leave_finite_gradients():
    """Logits of -inf for classes that labels rule out, also where q log q is 0 times infinity."""
    logits = jnp.array([[1.0, -jnp.inf, 0.0], [0.3, -jnp.inf, 2.0]])
    labels = jnp.array([[0.3, 0.0, 0.7], [1.0, 0.0, 0.0]])
    for name in ("kl", "js", "renyi", "hellinger", "brier", "focal", "poly1", "gce", "entropy"):
        value, grad = quick(jax.value_and_grad(SMOOTH[name]))(logits, labels)
        assert np.isfinite(value), name
        assert np.isfinite(grad).all(), name
        assert not np.any(grad[:, 1]), name


@pytest.mark.parametrize(
    ("loss", "options", "words"),
    [
        (losses.jeffreys, {"label_smoothing": 0.0}, "jeffreys is infinite"),
        (losses.alpha_divergence, {"alpha": 0.0}, "alpha_divergence of alpha 0.0 is infinite"),
        (losses.alpha_divergence, {"alpha": "a"}, "alpha is 'a', but must be a Python number"),
        (losses.renyi_divergence, {"order": 0.0}, "order is 0.0, but must be positive"),
        (losses.tsallis_divergence, {"order": math.inf}, "order is inf"),
        (losses.jensen_shannon, {"weight": 1.0}, "weight is 1.0, but must lie between 0 and 1"),
        (losses.focal, {"gamma": -1.0}, "gamma is -1.0, but must be at least 0"),
        (losses.generalized_cross_entropy, {"q": 0.0}, "q is 0.0, but must lie in"),
        (losses.symmetric_cross_entropy, {"floor": 1.0}, "floor is 1.0, but must be negative"),
        (losses.logit_adjusted, {"prior": (1.0, 2.0)}, "prior is .* each of the classes"),
        (losses.logit_adjusted, {"prior": (1.0, 0.0, 1.0, 1.0)}, "positive number for each"),
        (losses.dice, {"form": "L1"}, "form is 'L1', but must be one of 'l1', 'product'"),
        (losses.dice, {"classes": "some"}, 'must be "present" or "all"'),
        (losses.dice, {"per": "pixel"}, 'must be "batch" or "image"'),
        (losses.tversky, {"alpha": -1.0}, "alpha is -1.0, but must be at least 0"),
        (losses.focal_tversky, {"gamma": 0.0}, "gamma is 0.0, but must be positive"),
        (losses.lovasz_softmax, {"axis_name": "i"}, 'on several replicas; use per="image"'),
        (losses.cross_entropy, {"reduce": "sum"}, 'must be "mean" or None'),
    ],
)
def test_options_that_make_no_loss(loss, options, words):
    with pytest.raises((ValueError, TypeError), match=words):
        loss(*hard_problem(), **options)


def test_lovasz_wants_class_indices():
    with pytest.raises(TypeError, match="class indices only; use jaccard"):
        losses.lovasz_softmax(*soft_problem())


# Hard pixels.


def hardest(values, where, fraction=None, threshold=None, minimum=1):
    """The mean of the largest values, written out."""
    values = np.sort(values[where])[::-1]
    count = math.ceil(fraction * len(values)) if fraction else (values > threshold).sum()
    return values[: min(max(count, minimum), len(values))].mean()


@pytest.mark.parametrize(
    "options",
    [
        {"fraction": 0.25},
        {"fraction": 1.0},
        {"fraction": 0.01, "minimum": 5},
        {"threshold": 2.0},
        {"threshold": 1e9, "minimum": 3},
        {"threshold": -1.0},
    ],
)
@pytest.mark.parametrize("name", ["cross_entropy", "focal", "jensen_shannon"])
def test_hard_pixels(name, options):
    """The mean over the hardest pixels that count, whatever the others hold; and its gradient."""
    logits, labels = hard_problem()
    where = np.random.default_rng(1).random(SHAPE) < 0.6
    logits[~where] = np.nan
    labels[~where] = 255
    loss = getattr(losses, name)
    hard = quick(jax.value_and_grad(losses.hard_pixels(loss, **options)))
    value, grad = hard(logits.astype(np.float32), labels, where=where)
    per_pixel = np.asarray(loss(logits, labels, where=where, reduce=None), np.float64)
    np.testing.assert_allclose(value, hardest(per_pixel, where, **options), rtol=1e-5)
    chosen = np.any(grad != 0, -1)
    assert not chosen[~where].any()
    assert per_pixel[chosen].min() >= np.sort(per_pixel[where])[::-1][: chosen.sum()].min() - 1e-6


def test_hard_pixels_of_nothing():
    logits, labels = hard_problem()
    hard = losses.hard_pixels(losses.cross_entropy, fraction=0.5)
    value, grad = jax.value_and_grad(hard)(logits, labels, where=np.zeros(SHAPE, bool))
    assert value == 0
    assert not np.any(grad)


@pytest.mark.parametrize(
    "options", [{"fraction": 0.3}, {"threshold": 5.0, "minimum": 7}, {"threshold": 2.0}]
)
def test_hard_pixels_over_replicas(options):
    """Chosen among all replicas, of which one has nothing that counts: eight devices equal one."""
    rng = np.random.default_rng(1)
    logits = 3 * rng.normal(size=(8, 20, 3)).astype(np.float32)
    labels = rng.integers(0, 3, (8, 20), np.int32)
    where = rng.random((8, 20)) < np.linspace(0, 1, 8)[:, None]
    hard = losses.hard_pixels(losses.cross_entropy, **options)
    hard = jax.value_and_grad(functools.partial(hard, class_weights=(1.0, 2.0, 5.0)))
    value, grad = quick(hard)(logits, labels, where=where)

    def replica(z, labels, where):
        return hard(z, labels, where=where, axis_name="i")

    values, grads = jax.pmap(replica, "i")(logits, labels, where)
    np.testing.assert_allclose(values, np.full(8, value), rtol=1e-6)
    np.testing.assert_allclose(grads / 8, grad, rtol=1e-5, atol=1e-9)


@pytest.mark.usefixtures("x64")
def test_hard_pixels_with_class_weights():
    """Chosen by the loss, then weighed: with all pixels it is the loss, and scale is immaterial."""
    logits, labels = hard_problem()
    weights = np.array([0.5, 2.0, 1.0, 3.0])
    every = losses.hard_pixels(losses.cross_entropy, fraction=1.0)
    for scale in (1.0, 7.0):
        found = every(logits, labels, class_weights=scale * weights)
        expected = losses.cross_entropy(logits, labels, class_weights=weights)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    values = np.asarray(losses.cross_entropy(logits, labels, reduce=None)).ravel()
    order = np.argsort(-values)[:9]
    kept = weights[labels.ravel()[order]]
    half = losses.hard_pixels(losses.cross_entropy, fraction=0.3)
    found = half(logits, labels, class_weights=weights)
    np.testing.assert_allclose(found, np.sum(kept * values[order]) / kept.sum(), rtol=1e-12)


@pytest.mark.parametrize("maker", ["hard_pixels", "upsampled"])
def test_what_needs_a_value_for_each_pixel(maker):
    """Of losses that have none, a line says so; where a call shows it, the call does."""
    make = {
        "hard_pixels": functools.partial(losses.hard_pixels, fraction=0.5),
        "upsampled": losses.upsampled,
    }[maker]
    for loss, lacks in ((losses.entropy, "labels"), (losses.dice, "reduce")):
        with pytest.raises(ValueError, match=f"{maker} needs .* {loss.__name__} takes no {lacks}"):
            make(loss)
    z = np.zeros((1, 4, 4, 1), np.float32)
    with pytest.raises(ValueError, match=r"but sigmoid_cross_entropy gives \[1, 4, 4, 1\] for"):
        make(losses.sigmoid_cross_entropy)(z, np.ones((1, 4, 4), np.int32))


@pytest.mark.parametrize(
    "name", ["dice", "jaccard", "tversky", "focal_tversky", "generalized_dice", "mcc"]
)
@pytest.mark.parametrize("rest", [1e-11, 1e-25, 1e-37])
@pytest.mark.parametrize("logit", [0.0, 1.0, 100.0])
def test_a_class_of_next_to_no_area(name, rest, logit):
    """A teacher's smallest probabilities leave value and gradient finite."""
    p, z = np.array([[1.0, rest]], np.float32), np.array([[logit, -logit]], np.float32)
    value, grad = jax.value_and_grad(getattr(losses, name))(z, p)
    assert np.isfinite(value)
    assert np.isfinite(grad).all()
    if "dice" in name and name != "generalized_dice":
        value, grad = jax.value_and_grad(losses.sigmoid_dice)(z, p)
        assert np.isfinite(value)
        assert np.isfinite(grad).all()


def test_generalized_dice_of_a_rare_class():
    """One pixel of 2^23: the gradient is that of the definition, worked out by hand.

    At q = 1/2, 1 - 2 sum w I / sum w (P + G) with the weights 1 and (1 / (N - 1))^2.
    """
    number = 2**23
    labels = jnp.zeros((1, number), jnp.int32).at[0, 0].set(1)
    logits = jnp.zeros((1, number, 2), jnp.bfloat16)
    grad = jax.jit(jax.grad(losses.generalized_dice))(logits, labels)[0]
    w, areas = 1 / (number - 1) ** 2, number / 2
    wrong = (number / 2) * (1 + w)
    bottom = areas + 1 + w * (areas + number - 1)
    # In q of the rare class, at its pixel and elsewhere; of the other class it is the opposite.
    of_rare = [(-1 / bottom - wrong / bottom**2), (1 / bottom - wrong / bottom**2)]
    of_other = [w * (1 / bottom - wrong / bottom**2), w * (-1 / bottom - wrong / bottom**2)]
    for pixel, a, b in ((0, of_rare[0], of_other[0]), (5, of_rare[1], of_other[1])):
        expected = (a - b) / 4
        np.testing.assert_allclose(grad[pixel].astype(np.float32), [-expected, expected], rtol=0.02)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 3.0])
def test_second_derivatives_of_focal_at_certainty(gamma):
    hessian = quick(jax.hessian(functools.partial(losses.focal, gamma=gamma)))
    for margin in (10.0, 17.0, 30.0, 80.0, 160.0):
        z = jnp.array([[margin, 0.0, 0.0]])
        found = hessian(z, jnp.array([0]))
        assert np.isfinite(found).all()


def test_nothing_at_all():
    """No images, or images without a pixel."""
    z = jnp.zeros((0, 5, 6, 3))
    assert losses.channel_distillation(z, z) == 0
    assert losses.cldice(jnp.zeros((2, 0, 6, 3)), jnp.zeros((2, 0, 6), jnp.int32)) == 0


@pytest.mark.parametrize(
    "options", [{}, {"fraction": 0.5, "threshold": 1.0}, {"fraction": 0.0}, {"fraction": 2.0}]
)
def test_hard_pixels_errors(options):
    with pytest.raises(ValueError, match="fraction"):
        losses.hard_pixels(losses.cross_entropy, **options)
    with pytest.raises(ValueError, match="minimum is 0"):
        losses.hard_pixels(losses.cross_entropy, fraction=0.5, minimum=0)


# Predictions alone.


@pytest.mark.usefixtures("x64")
def test_entropy_and_its_opposite():
    logits, _ = hard_problem()
    where = np.random.default_rng(1).random(SHAPE) < 0.6
    expected = special.entr(special.softmax(logits, -1)).sum(-1)
    logits[~where] = np.nan
    for reduce, wanted in ((None, np.where(where, expected, 0)), ("mean", expected[where].mean())):
        found = losses.entropy(logits, where=where, reduce=reduce)
        np.testing.assert_allclose(found, wanted, rtol=1e-12)
    penalty = losses.confidence_penalty(logits, where=where)
    np.testing.assert_allclose(penalty, math.log(CLASSES) - expected[where].mean(), rtol=1e-12)
    grad = jax.grad(losses.entropy)(jnp.array([[1e4, -1e4, 0.0]]))
    assert np.isfinite(grad).all()


# Yes-no questions.

SIGMOIDS = {
    "cross_entropy": losses.sigmoid_cross_entropy,
    "focal": losses.sigmoid_focal,
    "dice": losses.sigmoid_dice,
    "dice_squared": functools.partial(losses.sigmoid_dice, form="squared", per="image"),
    "tversky": functools.partial(losses.sigmoid_tversky, gamma=0.75),
    "hinge": losses.lovasz_hinge,
}
SHARED = sorted(set(SIGMOIDS) - {"hinge"})


def yes_no_problem(soft=False, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.random((*SHAPE, 3)) if soft else rng.integers(0, 2, (*SHAPE, 3))
    return rng.normal(0, 2, (*SHAPE, 3)), labels


@pytest.mark.usefixtures("x64")
def test_sigmoid_losses_are_those_of_optax():
    z, labels = yes_no_problem()
    expected = optax.losses.sigmoid_binary_cross_entropy(z, labels).mean()
    np.testing.assert_allclose(losses.sigmoid_cross_entropy(z, labels), expected, rtol=1e-12)
    expected = optax.losses.sigmoid_focal_loss(z, labels, alpha=0.25, gamma=2.0).mean()
    np.testing.assert_allclose(losses.sigmoid_focal(z, labels), expected, rtol=1e-12)


def test_pos_weight():
    """One for each channel, of positive labels; the mean does not divide by it."""
    z, labels = yes_no_problem()
    weights = np.array([1.0, 2.0, 5.0])
    plain = np.asarray(losses.sigmoid_cross_entropy(z, labels, reduce=None))
    found = losses.sigmoid_cross_entropy(z, labels, pos_weight=weights)
    expected = np.mean(plain * np.where(labels == 1, weights, 1))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("name", SIGMOIDS)
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("by_channel", [False, True])
def test_sigmoids_outside_where(name, soft, by_channel):
    """NaN, inf and 255 there change no bit of value or gradient; nothing at all gives 0."""
    if name == "hinge" and soft:
        return
    z, labels = yes_no_problem(soft)
    z = z.astype(np.float32)
    where = np.random.default_rng(1).random((*SHAPE, 3) if by_channel else SHAPE) < 0.6
    loss = jax.jit(jax.value_and_grad(SIGMOIDS[name]))
    expected = loss(z, labels, where=where)
    out = ~(where if by_channel else np.broadcast_to(where[..., None], z.shape))
    for logit, label in ((np.nan, 255), (np.inf, -1), (-np.inf, 7)):
        found = loss(np.where(out, np.float32(logit), z), np.where(out, label, labels), where=where)
        chex.assert_trees_all_equal(found, expected)
    assert np.isfinite(expected[0])
    assert not np.any(expected[1][out])
    assert np.any(expected[1][~out])
    value, grad = loss(np.full_like(z, np.nan), labels, where=np.zeros_like(where))
    assert value == 0
    assert not np.any(grad)


@pytest.mark.parametrize("name", SIGMOIDS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_sigmoids_of_extreme_logits(name, dtype):
    rng = np.random.default_rng(0)
    z = jnp.asarray(rng.choice([-1e4, 0.0, 1e4], (*SHAPE, 3)), dtype)
    value, grad = quick(jax.value_and_grad(SIGMOIDS[name]))(z, yes_no_problem()[1])
    assert value.dtype == jnp.float32
    assert grad.dtype == dtype
    assert np.isfinite(value)
    assert np.isfinite(np.asarray(grad, np.float32)).all()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", SIGMOIDS)
def test_sigmoids_by_difference_quotients(name):
    z, labels = yes_no_problem()
    loss = jax.jit(lambda z: SIGMOIDS[name](z, labels))
    check_grads(loss, (jnp.asarray(z),), order=1, modes=["rev"], rtol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", SHARED)
def test_sigmoids_over_replicas(name):
    rng = np.random.default_rng(0)
    z, labels = rng.normal(size=(8, 6, 3)), rng.integers(0, 2, (8, 6, 3))
    where = np.arange(6) < np.array([0, 0, 1, 0, 2, 3, 6, 6])[:, None]
    one = quick(SIGMOIDS[name])(z, labels, where=where)

    def replica(z, labels, where):
        expand = {"dice_squared": lambda x: x[None]}.get(name, lambda x: x)
        return SIGMOIDS[name](expand(z), expand(labels), where=expand(where), axis_name="i")

    np.testing.assert_allclose(jax.pmap(replica, "i")(z, labels, where), np.full(8, one), 1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["cross_entropy", "focal", "dice_squared"])
def test_second_derivatives_of_sigmoids(name):
    z, labels = yes_no_problem()
    loss = jax.jit(lambda z: SIGMOIDS[name](z, labels[:1]))
    check_grads(loss, (jnp.asarray(z[:1]),), order=2, modes=["rev"], rtol=1e-5, atol=1e-6)


# What the table of test_losses.py can't call, since it takes something else: vmap and shard_map.


def yes(labels):
    return jax.nn.one_hot(labels, 3, dtype=jnp.int32)


ELSEWHERE = {
    "sigmoid_cross_entropy": lambda z, y, **o: losses.sigmoid_cross_entropy(z, yes(y), **o),
    "sigmoid_focal": lambda z, y, **o: losses.sigmoid_focal(z, yes(y), **o),
    "sigmoid_dice": lambda z, y, **o: losses.sigmoid_dice(z, yes(y), **o),
    "sigmoid_tversky": lambda z, y, **o: losses.sigmoid_tversky(z, yes(y), **o),
    "boundary": losses.boundary,
    "hausdorff_dt": losses.hausdorff_dt,
    "entropy": lambda z, y, **o: losses.entropy(z, **o),
    "confidence_penalty": lambda z, y, **o: losses.confidence_penalty(z, **o),
    "marginal_kl": losses.marginal_kl,
    "knowledge_distillation": lambda z, y, **o: losses.knowledge_distillation(z, 2 * z + 1, **o),
    "channel_distillation": lambda z, y, **o: losses.channel_distillation(z, z * z, **o),
    "consistency": lambda z, y, **o: losses.consistency([z, z * z], **o),
    "hard_pixels": losses.hard_pixels(losses.cross_entropy, fraction=0.3),
    "deep_supervision": lambda z, y, **o: losses.deep_supervision(losses.dice)(
        [z, z[:, ::2, ::2]], y, **o
    ),
    "hinge": lambda z, y, axis_name=None, **o: losses.lovasz_hinge(z, yes(y), **o),
}


def pictures_of_three(images):
    rng = np.random.default_rng(4)
    where = rng.random((images, 6, 4)) < np.linspace(0.2, 1, images)[:, None, None]
    logits = rng.normal(0, 2, (images, 6, 4, 3))
    return logits, rng.integers(0, 3, (images, 6, 4), np.int32), where


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ELSEWHERE)
def test_vmap_is_a_loop(name):
    """Three batches of two images, each with its own value and gradient; nothing counts in one."""
    data = [x.reshape(3, 2, *x.shape[1:]) for x in pictures_of_three(6)]
    data[2][1] = False
    gradient = jax.value_and_grad(lambda z, y, w: ELSEWHERE[name](z, y, where=w))
    values, grads = quick(jax.vmap(gradient))(*data)
    alone = quick(gradient)
    assert values[1] == 0
    for i in range(3):
        value, grad = alone(*(x[i] for x in data))
        np.testing.assert_allclose(values[i], value, rtol=1e-12)
        np.testing.assert_allclose(grads[i], grad, rtol=1e-10, atol=1e-15)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", sorted(set(ELSEWHERE) - {"hinge"}))
def test_eight_devices_equal_one_under_shard_map(name):
    """The gradient of the global function, with jax's own check of what varies."""
    data = pictures_of_three(8)
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("i",))
    split, whole = jax.sharding.PartitionSpec("i"), jax.sharding.PartitionSpec()

    def replica(z, y, w):
        return ELSEWHERE[name](z, y, where=w, axis_name="i")

    eight = jax.shard_map(replica, mesh=mesh, in_specs=split, out_specs=whole)
    found = quick(jax.value_and_grad(eight))(*data)
    expected = quick(jax.value_and_grad(lambda z, y, w: ELSEWHERE[name](z, y, where=w)))(*data)
    chex.assert_trees_all_close(found, expected, rtol=1e-10, atol=1e-14)


def test_sigmoid_labels():
    """Of one channel they may lack its axis; those that are no answer show as NaN."""
    z = np.array([[0.5], [-1.0]], np.float32)
    flat, full = np.array([1, 0]), np.array([[1], [0]])
    for name, loss in SIGMOIDS.items():
        if name != "dice_squared":
            assert loss(z, flat) == loss(z, full) == loss(z, full.astype(bool)), name
            assert np.isnan(loss(z, np.array([1, 255]))), name
    with pytest.raises(ValueError, match=r"labels are int32\[3\] for logits \[2, 1\]"):
        losses.sigmoid_cross_entropy(z, np.array([1, 0, 1]).astype(np.int64))
    with pytest.raises(ValueError, match=r"where is float32\[2\], but must be bool\[2\]"):
        losses.sigmoid_cross_entropy(z, flat, where=np.ones(2, np.float32))
    with pytest.raises(TypeError, match="logits are int32"):
        losses.sigmoid_cross_entropy(np.array([[1]], np.int32), full)


@pytest.mark.usefixtures("x64")
def test_lovasz_hinge_by_its_definition():
    """The sorted errors, each times what it adds to one minus the intersection over union."""
    z, labels = yes_no_problem()
    values = []
    for c in range(3):
        errors = 1 - z[..., c].ravel() * (2 * labels[..., c].ravel() - 1)
        labelled, wrong = labels[..., c].ravel() == 1, np.zeros(errors.size, bool)
        value = last = 0.0
        for index in np.argsort(-errors):
            wrong[index] = True
            union = np.sum(labelled | wrong)
            now = 1 - np.sum(labelled & ~wrong) / union
            value, last = value + max(errors[index], 0) * (now - last), now
        values.append(value)
    np.testing.assert_allclose(losses.lovasz_hinge(z, labels), np.mean(values), rtol=1e-12)


@pytest.mark.parametrize("loss", [losses.dice, losses.jaccard, losses.mcc, losses.generalized_dice])
def test_overlaps_of_distributions_are_least_at_the_labels(loss):
    _, labels = soft_problem()
    rng = np.random.default_rng(1)
    value, grad = jax.value_and_grad(loss)(np.log(labels).astype(np.float32), labels)
    if loss is not losses.mcc:  # the correlation of a distribution with itself is not 1
        np.testing.assert_allclose(value, 0, atol=1e-6)
    for size in (0.01, 0.3):
        assert loss(np.log(labels) + size * rng.normal(size=labels.shape), labels) > value
    assert np.isfinite(grad).all()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["kl", "reverse", "js", "brier", "dice", "jaccard"])
def test_second_derivatives_outside_where(name):
    """A NaN there reaches no second derivative either, which a mask over the result alone lets."""
    logits, labels = soft_problem(scale=0.7)
    where = np.random.default_rng(1).random(SHAPE) < 0.6

    def along(z):
        gradient = jax.grad(lambda z: SMOOTH[name](z, labels, where=where))
        return jnp.sum(jnp.where(where[..., None], gradient(z), 0.0) ** 2)

    again = quick(jax.grad(along))
    found = again(np.where(where[..., None], logits, np.nan))
    np.testing.assert_allclose(found, again(logits), rtol=1e-10, atol=1e-16)
    assert np.any(found)
