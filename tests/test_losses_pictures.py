"""Losses of boundaries, and of distributions over the picture and between predictions."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import ndimage, special

from jaxseg import losses

# What versions change shows in the examples and in test_losses.py.
pytestmark = pytest.mark.exhaustive

CLASSES = 3
# Compiling takes most of these tests' time.
quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def pictures(shape=(4, 12, 9), seed=0):
    """Blobs of three classes, an image of one class alone, and logits that are roughly right."""
    rng = np.random.default_rng(seed)
    smooth = [
        ndimage.gaussian_filter(rng.normal(size=(*shape, CLASSES)), (0, *[2] * (len(shape) - 1), 0))
    ]
    labels = smooth[0].argmax(-1).astype(np.int32)
    labels[-1] = 1
    logits = 3 * np.eye(CLASSES)[labels] + rng.normal(0, 2, (*shape, CLASSES))
    return logits, labels, rng.random(shape) < 0.8


def signed(mask, spacing, inner):
    """scipy's distance to the other side, negative inside up to `inner`; 0 without two sides."""
    if mask.all() or not mask.any():
        return np.zeros(mask.shape)
    outside = ndimage.distance_transform_edt(~mask, sampling=spacing)
    inside = ndimage.distance_transform_edt(mask, sampling=spacing)
    return outside - np.where(mask, inside - inner, 0)


def boundary_value(logits, labels, where, weights=(1, 1, 1), spacing=None):
    q = special.softmax(logits, -1)
    total = 0.0
    for image in range(len(labels)):
        for c in range(CLASSES):
            phi = signed((labels[image] == c) & where[image], spacing, min(spacing or [1]))
            total += weights[c] * np.sum(q[image, ..., c] * phi * where[image])
    return total / where.sum()


def hausdorff_value(logits, labels, where, weights=(1, 1, 1), spacing=None, alpha=2.0):
    q = special.softmax(logits, -1)
    total = 0.0
    for image in range(len(labels)):
        for c in range(CLASSES):
            label = (labels[image] == c) & where[image]
            pred = (q[image, ..., c] > 0.5) & where[image]
            d = sum(np.abs(signed(x, spacing, 0)) ** alpha for x in (label, pred))
            total += weights[c] * np.sum(((label - q[image, ..., c]) ** 2 * d)[where[image]])
    return total / where.sum() / sum(weights)


BOUNDARIES = {
    "boundary": (losses.boundary, boundary_value),
    "hausdorff_dt": (losses.hausdorff_dt, hausdorff_value),
    "hausdorff_dt_1": (
        functools.partial(losses.hausdorff_dt, alpha=1.0),
        functools.partial(hausdorff_value, alpha=1.0),
    ),
}
every_boundary = pytest.mark.parametrize("name", BOUNDARIES)


@pytest.mark.parametrize("spacing", [None, (0.5, 0.5), (0.1, 0.1), (5.0, 5.0), (0.2, 3.0)])
def test_boundary_is_least_for_the_label(spacing):
    """Whatever the unit: it is negative within the label, or the wrong side would be rewarded."""
    labels = np.zeros((1, 8, 8), np.int32)
    labels[0, 2:6, 2:6] = 1
    loss = quick(functools.partial(losses.boundary, spacing=spacing))
    right, wrong = (loss(50.0 * np.eye(2)[preds], labels) for preds in (labels, 1 - labels))
    assert right < 0 < loss(np.zeros((1, 8, 8, 2)), labels) < wrong


@every_boundary
def test_the_map_of_a_boundary_has_its_mean(name):
    loss, _ = BOUNDARIES[name]
    logits, labels, where = pictures((4, 12, 9))
    for options in ({}, {"class_weights": (1.0, 5.0, 0.5)}):
        values = quick(functools.partial(loss, reduce=None, **options))(logits, labels, where=where)
        assert values.shape == labels.shape
        assert not np.any(values[~where])
        mean = quick(functools.partial(loss, **options))(logits, labels, where=where)
        np.testing.assert_allclose(np.sum(values) / where.sum(), mean, rtol=1e-5)


@pytest.mark.usefixtures("x64")
@every_boundary
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((4, 12, 9), {}),
        ((4, 12, 9), {"spacing": (0.5, 2.0)}),
        ((4, 12, 9), {"class_weights": (1.0, 5.0, 0.5)}),
        ((2, 5, 6, 7), {}),
        ((2, 5, 6, 7), {"spacing": (3.0, 1.0, 0.7)}),
    ],
)
def test_boundaries_are_those_of_scipy(name, shape, options):
    """In 2D and 3D, with and without `where`; distances are float32."""
    loss, definition = BOUNDARIES[name]
    logits, labels, where = pictures(shape)
    loss = quick(functools.partial(loss, **options))
    for mask in (where, np.ones(shape, bool)):
        expected = definition(
            logits,
            labels,
            mask,
            weights=options.get("class_weights", (1, 1, 1)),
            spacing=options.get("spacing"),
        )
        found = loss(logits, labels, where=mask)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.usefixtures("x64")
@every_boundary
def test_gradients_of_boundaries(name):
    """Of q alone: the distances have none."""
    loss, _ = BOUNDARIES[name]
    logits, labels, where = pictures((2, 6, 5))
    check = jax.jit(lambda z: loss(z, labels, where=where))
    check_grads(check, (jnp.asarray(logits),), order=1, modes=["rev"], rtol=1e-6, eps=1e-6)


@every_boundary
def test_boundaries_outside_where(name):
    """NaN, inf, 255 and -1 there change no bit; nothing at all gives 0; a wrong label gives NaN."""
    loss = quick(jax.value_and_grad(BOUNDARIES[name][0]))
    logits, labels, where = pictures()
    logits = logits.astype(np.float32)
    expected = loss(logits, labels, where=where)
    for logit, label in ((np.nan, 255), (np.inf, -1), (-np.inf, 0)):
        found = loss(
            np.where(where[..., None], logits, np.float32(logit)),
            np.where(where, labels, label),
            where=where,
        )
        chex.assert_trees_all_equal(found, expected)
    assert np.isfinite(expected[0])
    assert not np.any(expected[1][~where])
    value, grad = loss(np.full_like(logits, np.nan), labels, where=np.zeros_like(where))
    assert value == 0
    assert not np.any(grad)
    labels[0, 0, 0], where[0, 0, 0] = CLASSES, True
    assert np.isnan(loss(logits, labels, where=where)[0])


@pytest.mark.usefixtures("x64")
@every_boundary
def test_boundaries_over_replicas(name):
    loss, _ = BOUNDARIES[name]
    logits, labels, where = pictures((8, 6, 5))
    where[:3] = False
    one = quick(loss)(logits, labels, where=where)
    eight = jax.pmap(lambda z, y, m: loss(z[None], y[None], where=m[None], axis_name="i"), "i")(
        logits, labels, where
    )
    np.testing.assert_allclose(eight, np.full(8, one), rtol=1e-12)


def test_boundaries_of_perfect_predictions():
    _, labels, _ = pictures()
    perfect = (1e4 * np.eye(CLASSES)[labels]).astype(np.float32)
    assert losses.hausdorff_dt(perfect, labels) == 0
    shifted = np.roll(perfect, 2, 1)
    assert losses.hausdorff_dt(shifted, labels) > 0
    assert losses.boundary(shifted, labels) > losses.boundary(perfect, labels)


@pytest.mark.parametrize(
    ("attempt", "words"),
    [
        (lambda f: f(np.zeros((5, 3)), np.zeros(5, int)), "boundaries need"),
        (lambda f: f(np.zeros((1, 2, 2, 3)), np.zeros((1, 2, 2, 3))), "those of class indices"),
        (lambda f: f(*pictures()[:2], spacing=(1.0,)), "spacing is"),
    ],
)
@pytest.mark.parametrize("loss", [losses.boundary, losses.hausdorff_dt])
def test_boundaries_errors(loss, attempt, words):
    with pytest.raises((ValueError, TypeError), match=words):
        attempt(loss)


# Between predictions.


def two_predictions(shape=(4, 5, 6), seed=0):
    rng = np.random.default_rng(seed)
    student, teacher = rng.normal(0, 2, (2, *shape, CLASSES))
    return student, teacher, rng.random(shape) < 0.7


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_knowledge_distillation(temperature):
    """T^2 times the divergence of tempered softmaxes; no gradient to the teacher."""
    student, teacher, where = two_predictions()
    p, q = (special.softmax(x / temperature, -1) for x in (teacher, student))
    expected = temperature**2 * special.rel_entr(p, q).sum(-1)
    loss = functools.partial(losses.knowledge_distillation, temperature=temperature, where=where)
    np.testing.assert_allclose(quick(loss)(student, teacher), expected[where].mean(), rtol=1e-11)
    found = quick(functools.partial(loss, reduce=None))(student, teacher)
    np.testing.assert_allclose(found, np.where(where, expected, 0), rtol=1e-9)
    grads = quick(jax.grad(loss, (0, 1)))(jnp.asarray(student), jnp.asarray(teacher))
    wanted = temperature * (q - p) * where[..., None] / where.sum()
    np.testing.assert_allclose(grads[0], wanted, rtol=1e-10, atol=1e-15)
    assert not np.any(grads[1])


@pytest.mark.usefixtures("x64")
def test_knowledge_distillation_at_a_large_temperature():
    """Half the mean square of the logits' difference without its mean."""
    student, teacher, _ = two_predictions()
    d = student - teacher
    expected = np.mean((d - d.mean(-1, keepdims=True)) ** 2) / 2
    found = losses.knowledge_distillation(student, teacher, temperature=1e4)
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def channel_value(student, teacher, where, temperature=4.0):
    values = []
    for s, t, m in zip(student, teacher, where, strict=True):
        if m.any():
            p, q = (special.softmax(x[m] / temperature, 0) for x in (t, s))
            values.append(temperature**2 * special.rel_entr(p, q).sum() / CLASSES)
    return np.mean(values)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_channel_distillation(temperature):
    """Softmaxes over the pixels that count; a class's level does not matter."""
    student, teacher, where = two_predictions()
    where[2] = False
    loss = functools.partial(losses.channel_distillation, temperature=temperature)
    expected = channel_value(student, teacher, where, temperature)
    np.testing.assert_allclose(loss(student, teacher, where=where), expected, rtol=1e-12)
    shifted = student + np.array([5.0, -3.0, 0.1])
    np.testing.assert_allclose(loss(shifted, teacher, where=where), expected, rtol=1e-12)
    everywhere = channel_value(student, teacher, np.ones_like(where), temperature)
    np.testing.assert_allclose(loss(student, teacher), everywhere, rtol=1e-12)
    check_grads(
        jax.jit(lambda z: loss(z, teacher, where=where)), (jnp.asarray(student),), 1, ["rev"]
    )
    assert not np.any(quick(jax.grad(loss, 1))(student, jnp.asarray(teacher)))


@pytest.mark.usefixtures("x64")
def test_marginal_kl():
    """Of the proportions, which is at most the mean divergence."""
    rng = np.random.default_rng(0)
    logits, _, where = two_predictions()
    labels = rng.dirichlet(np.ones(CLASSES), where.shape)
    p, q = labels[where].mean(0), special.softmax(logits, -1)[where].mean(0)
    found = losses.marginal_kl(logits, labels, where=where)
    np.testing.assert_allclose(found, special.rel_entr(p, q).sum(), rtol=1e-10)
    assert found <= losses.kl_divergence(logits, labels, where=where)
    check_grads(
        jax.jit(lambda z: losses.marginal_kl(z, jnp.asarray(labels))),
        (jnp.asarray(logits),),
        1,
        ["rev"],
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("weights", [None, (0.2, 0.5, 0.3)])
def test_consistency(weights):
    """H(mean) - mean H, of three predictions, as an array or a list."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (3, 4, 5, CLASSES))
    where = rng.random((4, 5)) < 0.7
    q = special.softmax(logits, -1)
    shares = np.array(weights or [1 / 3] * 3)
    mixed = special.entr(np.tensordot(shares, q, 1)).sum(-1)
    expected = mixed - np.tensordot(shares, special.entr(q).sum(-1), 1)
    loss = functools.partial(losses.consistency, weights=weights, where=where)
    for given in (logits, list(logits)):
        np.testing.assert_allclose(quick(loss)(given), expected[where].mean(), rtol=1e-10)
    values = quick(functools.partial(loss, reduce=None))(logits)
    np.testing.assert_allclose(values, np.where(where, expected, 0), rtol=1e-8)
    same = quick(losses.consistency)([logits[0]] * 3)
    np.testing.assert_allclose(same, 0, atol=1e-15)
    check_grads(jax.jit(loss), (jnp.asarray(logits),), 1, ["rev"])
    two = quick(functools.partial(losses.consistency, reduce=None))(logits[:2])
    js = quick(functools.partial(losses.jensen_shannon, reduce=None))(logits[0], q[1])
    np.testing.assert_allclose(two, js, rtol=1e-9)


BETWEEN = {
    "knowledge_distillation": losses.knowledge_distillation,
    "channel_distillation": losses.channel_distillation,
    "marginal_kl": lambda z, other, **more: losses.marginal_kl(z, jax.nn.softmax(other), **more),
    "consistency": lambda z, other, **more: losses.consistency([z, other], **more),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_predictions_outside_where(name):
    """They change no bit, whatever they hold; nothing at all gives 0, and extremes are finite."""
    student, teacher, where = two_predictions()
    student, teacher = student.astype(np.float32), teacher.astype(np.float32)
    loss = quick(jax.value_and_grad(BETWEEN[name]))
    expected = loss(student, teacher, where=where)
    assert np.any(expected[1][where])
    for garbage in (np.nan, np.inf, -np.inf):
        out = [np.where(where[..., None], x, np.float32(garbage)) for x in (student, teacher)]
        chex.assert_trees_all_equal(loss(*out, where=where), expected)
    value, grad = loss(student * np.nan, teacher, where=np.zeros_like(where))
    assert value == 0
    assert not np.any(grad)
    value, grad = loss(1e4 * np.sign(student), 1e4 * np.sign(teacher), where=where)
    assert np.isfinite(value)
    assert np.isfinite(grad).all()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", BETWEEN)
def test_predictions_over_replicas(name):
    student, teacher, where = two_predictions((8, 5, 3))
    where[:3] = False
    one = quick(BETWEEN[name])(student, teacher, where=where)

    def replica(*arrays):
        z, other, m = (x[None] for x in arrays)
        return BETWEEN[name](z, other, where=m, axis_name="i")

    eight = jax.pmap(replica, "i")(student, teacher, where)
    np.testing.assert_allclose(eight, np.full(8, one), rtol=1e-12)


def test_predictions_errors():
    student, teacher, where = two_predictions()
    for loss in (losses.knowledge_distillation, losses.channel_distillation):
        with pytest.raises(ValueError, match=r"teacher_logits are .* must be floating-point"):
            loss(student, teacher[:1])
        with pytest.raises(ValueError, match=r"temperature is 0.0, but must be positive"):
            loss(student, teacher, temperature=0.0)
    with pytest.raises(ValueError, match=r"needs \[images, \*pixels, classes\]"):
        losses.channel_distillation(student[0, 0], teacher[0, 0])
    with pytest.raises(ValueError, match="2 positive numbers whose sum is 1"):
        losses.consistency([student, teacher], weights=(0.5, 0.6))
    with pytest.raises(
        ValueError, match=r"where is float64\[4, 5, 6\]|where is float32\[4, 5, 6\]"
    ):
        losses.consistency([student, teacher], where=where.astype(float))
