"""Centrelines, neighbourhoods and the information between predictions, by their definitions."""

import functools
import itertools
from typing import NamedTuple

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
WEIGHTS = (0.5, 2.0, 1.0)
# Compiling takes most of these tests' time.
quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


class Problem(NamedTuple):
    logits: np.ndarray
    labels: np.ndarray
    where: np.ndarray


def problem(kind="hard", shape=(4, 9, 8), seed=0):
    """Blobs of three classes, an image where nothing changes, and logits that are roughly right."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(*shape, CLASSES))
    blobs = ndimage.gaussian_filter(noise, (0, *[1] * (len(shape) - 1), 0))
    hard = blobs.argmax(-1).astype(np.int32)
    hard[-1] = 1
    soft = special.softmax(4 * blobs + noise / 2, -1)
    soft[-1] = 0.3, 0.3, 0.4
    logits = 2 * np.eye(CLASSES)[hard] + rng.normal(0, 1.5, (*shape, CLASSES))
    return Problem(logits, {"hard": hard, "soft": soft}[kind], rng.random(shape) < 0.9)


def distribution(labels, classes=CLASSES):
    return labels if labels.dtype.kind == "f" else np.eye(classes)[labels]


# The definitions, in float64.


def skeleton(x, where, iterations):
    """The published recursion with scipy's erosion and dilation, of one image."""
    cross = ndimage.generate_binary_structure(x.ndim, 1)
    box = np.ones((3,) * x.ndim)

    def erode(x):
        x = np.where(where, x, np.inf)
        return ndimage.minimum_filter(x, footprint=cross, mode="constant", cval=np.inf)

    def removed(x):
        eroded = np.where(where, erode(x), -np.inf)
        opened = ndimage.maximum_filter(eroded, footprint=box, mode="constant", cval=-np.inf)
        return np.where(where, np.maximum(x - opened, 0), 0)

    found = removed(x)
    for _ in range(iterations):
        x = np.where(where, erode(x), 0)
        more = removed(x)
        found = found + np.maximum(more - found * more, 0)
    return found


def cldice_value(logits, labels, where, class_weights=None, iterations=10, smooth=0.0):
    q, p = special.softmax(logits, -1), distribution(labels)
    weights = np.ones(CLASSES) if class_weights is None else np.array(class_weights)
    top = bottom = 0.0
    for c in range(CLASSES):
        true_q = true_p = all_q = all_p = 0.0
        for image in range(len(q)):
            one, two, m = q[image, ..., c], p[image, ..., c], where[image]
            of_q, of_p = skeleton(one, m, iterations), skeleton(two, m, iterations)
            true_q += (of_q * two)[m].sum()
            true_p += (of_p * one)[m].sum()
            all_q += of_q[m].sum()
            all_p += of_p[m].sum()
        if all_p > 0:
            precision = (true_q + smooth) / (all_q + smooth)
            sensitivity = (true_p + smooth) / (all_p + smooth)
            top += weights[c] * (1 - 2 / (1 / precision + 1 / sensitivity))
            bottom += weights[c]
    return top / bottom


def boxes(sides, size, step):
    for start in itertools.product(*(range(0, side, step) for side in sides)):
        yield tuple(slice(s, s + size) for s in start)


def pooled(image, where, pool):
    """The means over blocks of what counts, and whether anything does."""
    sides = [-(-side // pool) for side in where.shape]
    blocks = list(boxes(where.shape, pool, pool))
    some = np.array([where[block].any() for block in blocks])
    means = [image[b][where[b]].sum(0) / max(where[b].sum(), 1) for b in blocks]
    return np.reshape(means, (*sides, -1)), some.reshape(sides)


def rmi_value(logits, labels, where, class_weights=None, size=3, pool=1):
    classes = logits.shape[-1]
    weights = np.ones(classes) if class_weights is None else np.array(class_weights)
    images, targets = [], distribution(labels, classes)
    for q, p, m in zip(special.softmax(logits, -1), targets, where, strict=True):
        (q, _), (p, m) = pooled(q, m, pool), pooled(p, m, pool)
        d = size**m.ndim
        whole = [b for b in boxes(m.shape, size, 1) if m[b].size == d and m[b].all()]
        top = bottom = 0.0
        for c in range(classes):
            x, y = (np.array([image[b][..., c].ravel() for b in whole]).T for image in (q, p))
            if not whole or np.ptp(y, 1).max() < 1e-12:
                continue
            s = np.cov(x, y, bias=True)
            s_q, s_qp, s_p = s[:d, :d], s[:d, d:], s[d:, d:]
            u, v = np.trace(s_q) / d, np.trace(s_p) / d
            noisy = s_q + 1e-3 * (u + v) * np.eye(d)
            left = s_p - s_qp.T @ np.linalg.inv(noisy) @ s_qp
            top += weights[c] * np.linalg.slogdet(left / v + 1e-3 * np.eye(d))[1] / (2 * d)
            bottom += weights[c]
        if bottom:
            images.append(top / bottom)
    return np.mean(images)


def information(joint):
    rows, columns = joint.sum(1, keepdims=True), joint.sum(0, keepdims=True)
    return special.rel_entr(joint, rows * columns).sum()


def mutual_information_value(logits, others, where, displacement=0):
    q, other = (special.softmax(x, -1) for x in (logits, others))
    reach = range(-displacement, displacement + 1)
    found = []
    for t in itertools.product(reach, repeat=where.ndim - 1):
        joint = np.zeros((CLASSES, CLASSES))
        for here in zip(*np.nonzero(where), strict=True):
            there = (here[0], *np.add(here[1:], t))
            if min(there) >= 0 and all(np.less(there, where.shape)) and where[there]:
                joint += np.outer(q[here], other[there])
        if joint.any():
            found.append(information((joint + joint.T) / 2 / joint.sum()))
    return -np.mean(found)


DEFINITIONS = {
    losses.cldice: cldice_value,
    losses.rmi: rmi_value,
    losses.mutual_information: mutual_information_value,
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("loss", "options"),
    [
        (losses.cldice, {}),
        (losses.cldice, {"iterations": 1}),
        (losses.cldice, {"iterations": 3, "smooth": 1.0, "class_weights": WEIGHTS}),
        (losses.rmi, {}),
        (losses.rmi, {"size": 1, "class_weights": WEIGHTS}),
        (losses.rmi, {"pool": 2}),
        (losses.rmi, {"pool": 4, "size": 1}),
        (losses.mutual_information, {}),
        (losses.mutual_information, {"displacement": 1}),
        (losses.mutual_information, {"displacement": 3}),
    ],
)
@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("shape", [(4, 9, 8), (3, 4, 6, 5)])
def test_value_is_the_definition(loss, options, kind, shape):
    """In 2D and 3D, with and without `where`, for indices and distributions."""
    if shape == (3, 4, 6, 5) and options.get("pool", 1) == 2:
        options = options | {"size": 1}
    data = problem(kind, shape)
    if loss is losses.mutual_information:
        data = data._replace(labels=3 * distribution(data.labels))
    run = quick(functools.partial(loss, **options))
    for where in (data.where, np.ones(shape, bool)):
        expected = DEFINITIONS[loss](*data._replace(where=where), **options)
        assert abs(expected) > 1e-3
        found = run(data.logits, data.labels, where=where)
        assert found.dtype == jnp.float64
        np.testing.assert_allclose(found, expected, rtol=1e-10)
    np.testing.assert_allclose(run(data.logits, data.labels), expected, rtol=1e-10)


# The contract.


def shared(logits, labels, **options):
    """The information in two predictions, of which the other is that of the labels."""
    return losses.mutual_information(logits, 8 * labels, **options)


CASES = {
    "cldice": (losses.cldice, "hard"),
    "cldice_soft": (losses.cldice, "soft"),
    "rmi": (losses.rmi, "hard"),
    "rmi_soft": (losses.rmi, "soft"),
    "rmi_pooled": (functools.partial(losses.rmi, pool=2), "soft"),
    "mutual_information": (shared, "soft"),
    "mutual_information_moved": (functools.partial(shared, displacement=2), "soft"),
}
MAIN = ("cldice", "rmi", "mutual_information")
every_case = pytest.mark.parametrize(
    "name", [pytest.param(x, marks=() if x in MAIN else pytest.mark.exhaustive) for x in CASES]
)


@functools.cache
def gradient_of(name):
    """One function for all tests, which thereby share what is compiled of it."""
    loss, kind = CASES[name]
    return jax.value_and_grad(loss, 0 if kind == "hard" else (0, 1))


def case(name, shape=(4, 9, 8)):
    """The loss with its gradients in all that is differentiable, and its problem in float32."""
    _, kind = CASES[name]
    logits, labels, where = problem(kind, shape)
    labels = labels if kind == "hard" else labels.astype(np.float32)
    return gradient_of(name), Problem(logits.astype(np.float32), labels, where)


@every_case
def test_pixels_outside_where_change_nothing(name):
    """Not a bit of the value or of a gradient, whatever they hold; compiled or not."""
    gradient, (logits, labels, where) = case(name)
    compiled = jax.jit(gradient)
    for run in (gradient, compiled):
        expected = run(logits, labels, where=where)
        chex.assert_tree_all_finite(expected)
        for grad in jax.tree.leaves(expected[1]):
            assert np.any(grad[where])
            assert not np.any(grad[~where])
        hard = iter((255, -1, CLASSES))
        for garbage in (np.nan, np.inf, -np.inf):
            label = next(hard) if labels.dtype.kind == "i" else np.float32(garbage)
            found = run(
                np.where(where[..., None], logits, np.float32(garbage)),
                np.where(where if labels.ndim == 3 else where[..., None], labels, label),
                where=where,
            )
            chex.assert_trees_all_equal(found, expected)


@every_case
def test_eager_and_compiled_agree(name):
    gradient, data = case(name)
    eager, compiled = (run(*data[:2], where=data.where) for run in (gradient, jax.jit(gradient)))
    chex.assert_trees_all_close(eager, compiled, rtol=1e-5, atol=2e-7)


@every_case
def test_nothing_counts(name):
    """Neither where `where` is empty, nor without images: 0, with zero gradients."""
    gradient, (logits, labels, where) = case(name)
    gradient = jax.jit(gradient)
    for found in (
        gradient(logits * np.nan, labels, where=np.zeros_like(where)),
        gradient(logits[:0], labels[:0], where=where[:0]),
    ):
        assert found[0] == 0
        for grad in jax.tree.leaves(found[1]):
            assert not np.any(grad)


@pytest.mark.parametrize("loss", [losses.cldice, losses.rmi, functools.partial(losses.rmi, pool=4)])
@pytest.mark.parametrize("label", [-1, CLASSES, 255])
def test_a_label_of_no_class(loss, label):
    """NaN, even at a pixel all of whose neighbours don't count."""
    logits, labels, where = problem("hard", (4, 9, 13))
    where[0, :3, :3] = False
    where[0, 1, 1] = True
    loss = quick(loss)
    assert np.isfinite(loss(logits, labels, where=where))
    labels[0, 1, 1] = label
    assert np.isnan(loss(logits, labels, where=where))
    where[0, 1, 1] = False
    assert np.isfinite(loss(logits, labels, where=where))


@every_case
def test_bfloat16(name):
    """Computed in float32, from what bfloat16 holds; the gradient comes back in it."""
    gradient, (logits, labels, where) = case(name)
    narrow = jnp.asarray(logits, jnp.bfloat16)
    value, grad = gradient(narrow, labels, where=where)
    expected, exact = gradient(narrow.astype(jnp.float32), labels, where=where)
    assert value.dtype == jnp.float32
    assert value == expected
    grad, exact = (x[0] if isinstance(x, tuple) else x for x in (grad, exact))
    assert grad.dtype == jnp.bfloat16
    np.testing.assert_array_equal(grad, exact.astype(jnp.bfloat16))


@every_case
def test_float32_is_close_to_float64(name):
    gradient, (logits, labels, where) = case(name)
    gradient = jax.jit(gradient)
    value, grad = gradient(logits, labels, where=where)
    with jax.enable_x64(True) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64():
        wide = labels if labels.dtype.kind == "i" else labels.astype(float)
        expected, exact = gradient(logits.astype(float), wide, where=where)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=2e-7)
    for one, two in zip(*map(jax.tree.leaves, (grad, exact)), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-3 * np.abs(two).max())


@pytest.mark.usefixtures("x64")
@every_case
def test_eight_devices_equal_one(name):
    """However unevenly the pixels that count, and the classes, lie on them."""
    loss, kind = CASES[name]
    logits, labels, where = problem(kind, (8, 6, 5))
    where[:2] = False
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    one, grad = quick(jax.value_and_grad(loss))(logits, labels, where=where)

    def replica(z, y, m):
        return loss(z[None], y[None], where=m[None], axis_name="i")

    eight, grads = jax.pmap(jax.value_and_grad(replica), "i")(logits, labels, where)
    np.testing.assert_allclose(eight, np.full(8, one), rtol=1e-11)
    # The transpose of a psum is a psum: each device counts the loss of all eight.
    np.testing.assert_allclose(grads / 8, grad, rtol=1e-9, atol=1e-14)

    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("i",))
    split = jax.sharding.PartitionSpec("i")
    sharded = jax.shard_map(
        lambda z, y, m: loss(z, y, where=m, axis_name="i"),
        mesh=mesh,
        in_specs=split,
        out_specs=jax.sharding.PartitionSpec(),
    )
    value, grads = quick(jax.value_and_grad(sharded))(logits, labels, where)
    np.testing.assert_allclose(value, one, rtol=1e-11)
    np.testing.assert_allclose(grads, grad, rtol=1e-9, atol=1e-14)


@pytest.mark.usefixtures("x64")
@every_case
def test_gradients_are_the_numerical_ones(name):
    """In the logits and, where they are distributions, the labels."""
    loss, kind = CASES[name]
    data = Problem(*(x[:2] for x in problem(kind, (3, 6, 5))))
    inputs = tuple(map(jnp.asarray, data[: 1 if kind == "hard" else 2]))
    labels = data.labels

    @jax.jit
    def value(logits, labels=labels):
        return loss(logits, labels, where=data.where)

    check_grads(value, inputs, order=1, modes=["rev"], rtol=1e-6, atol=1e-8, eps=1e-6)


@every_case
def test_vmap(name):
    loss, _ = CASES[name]
    _, data = case(name, (3, 2, 6, 5))
    found = quick(jax.vmap(lambda z, y, m: loss(z, y, where=m)))(*data)
    alone = quick(loss)
    each = [alone(z, y, where=m) for z, y, m in zip(*data, strict=True)]
    np.testing.assert_allclose(found, each, rtol=1e-5)


@every_case
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-4, 30.0, 60.0, 95.0, 1e4])
def test_finite_for_any_logits(name, scale):
    """Certain and constant ones, right and wrong, and those of probabilities of all sizes."""
    gradient, (logits, labels, where) = case(name)
    run = jax.jit(gradient)
    right = np.argmax(distribution(labels), -1)
    for z in (
        np.sign(logits),
        np.eye(CLASSES)[right],
        np.eye(CLASSES)[(right + 1) % CLASSES],
        -np.eye(CLASSES)[np.ones_like(right)] + 0.01 * logits,
        np.eye(CLASSES)[np.zeros_like(right)],
    ):
        chex.assert_tree_all_finite(run((scale * z).astype(np.float32), labels, where=where))


@pytest.mark.usefixtures("x64")
@every_case
def test_masking_is_cropping(name):
    """Rows outside `where` are like those beyond the image's border."""
    loss, kind = CASES[name]
    logits, labels, where = problem(kind, (4, 10, 8))
    where[:, 6:] = False
    loss = quick(loss)
    whole = loss(logits, labels, where=where)
    part = loss(logits[:, :6], labels[:, :6], where=where[:, :6])
    np.testing.assert_allclose(whole, part, rtol=1e-12)


@pytest.mark.usefixtures("x64")
@every_case
def test_axes_of_pixels_are_alike(name):
    """Mirrored and transposed pictures have the same value and mirrored gradients."""
    loss, kind = CASES[name]
    data = problem(kind, (4, 8, 8))
    gradient = quick(jax.value_and_grad(loss))
    value, grad = gradient(*data[:2], where=data.where)
    for turn in (lambda x: np.flip(x, 1), lambda x: np.flip(x, 2), lambda x: x.swapaxes(1, 2)):
        turned, grads = gradient(turn(data.logits), turn(data.labels), where=turn(data.where))
        np.testing.assert_allclose(turned, value, rtol=1e-10)
        np.testing.assert_allclose(grads, turn(grad), rtol=1e-7, atol=1e-12)


@every_case
def test_gradients_need_no_scatter(name):
    gradient, data = case(name)
    text = str(jax.make_jaxpr(gradient)(*data[:2], where=data.where))
    assert "scan" in text
    assert "scatter" not in text
    assert "reduce_window" not in text


@pytest.mark.parametrize("loss", [losses.cldice, losses.rmi])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"logits": np.zeros((1, 4, 4, 3), int)}, "logits are int.* needs floating-point"),
        ({"logits": np.zeros((4, 4, 3)), "labels": np.zeros((4, 4), int)}, "structures need"),
        ({"labels": np.zeros((1, 4, 5), int)}, "labels are"),
        ({"where": np.ones((1, 4, 4))}, "where is"),
        ({"class_weights": (1, 2)}, "give one weight for each"),
    ],
)
def test_errors(loss, change, words):
    given = {"logits": np.zeros((1, 4, 4, 3)), "labels": np.zeros((1, 4, 4), int)} | change
    with pytest.raises((ValueError, TypeError), match=words):
        loss(given.pop("logits"), given.pop("labels"), **given)


@pytest.mark.parametrize(
    ("loss", "options", "words"),
    [
        (losses.cldice, {"iterations": 0}, "iterations is 0, but must be a Python integer of at"),
        (
            losses.cldice,
            {"iterations": 2.5},
            "iterations is 2.5, but must be a Python integer of at",
        ),
        (losses.cldice, {"iterations": np.int32(3)}, "iterations is .*3.*, but must be a Python"),
        (losses.cldice, {"smooth": -1.0}, "smooth is -1.0, but must be at least 0"),
        (losses.rmi, {"size": 4}, "size is 4, but must be odd"),
        (losses.rmi, {"size": -3}, "size is -3, but must be a Python integer"),
        (losses.rmi, {"size": True}, "size is True, but must be a Python integer"),
        (losses.rmi, {"size": 11}, r"size 11 and pool 1 .* must be longer than 10$"),
        (losses.rmi, {"pool": 0}, "pool is 0, but must be a Python integer"),
        (losses.rmi, {"pool": 4}, r"size 3 and pool 4 .* must be longer than 8$"),
    ],
)
def test_errors_of_options(loss, options, words):
    logits, labels, _ = problem()
    with pytest.raises((ValueError, TypeError), match=words):
        loss(logits, labels, **options)


def test_sides_just_long_enough():
    logits, labels, _ = problem("hard", (4, 9, 13))
    assert losses.rmi(logits, labels, pool=4) != 0
    logits, labels = logits[:, :, :9], labels[:, :, :9]
    assert losses.rmi(logits, labels, size=9) == 0  # a single neighbourhood varies in nothing


# Centrelines.

LINE = (0.0, 1.0)  # class weights of a background and a line


def lines(*rows):
    """A picture of 0s and 1s, as labels of one image."""
    return np.array([[list(map(int, row)) for row in rows]])


def certain(labels):
    return 50 * np.eye(2)[labels]


def test_cldice_of_perfect_predictions():
    for kind in ("hard", "soft"):
        _, labels, where = problem(kind)
        logits = np.log(np.maximum(distribution(labels), 1e-30))
        if kind == "hard":
            assert losses.cldice(logits, labels, where=where) == 0


def test_cldice_sees_the_gap_and_not_the_width():
    """A line drawn too wide has the same centreline; one with a gap lacks a part of it."""
    thin = np.zeros((1, 11, 40), int)
    thin[:, 5] = 1
    wide = np.zeros_like(thin)
    wide[:, 3:8] = 1
    gap = thin.copy()
    gap[:, :, 20] = 0
    loss = functools.partial(losses.cldice, class_weights=LINE)
    np.testing.assert_allclose(loss(certain(wide), thin), 0, atol=1e-6)
    # Of the 40 pixels of the centreline one is missed, and nothing wrong is found.
    np.testing.assert_allclose(loss(certain(gap), thin), 1 - 2 * 39 / (39 + 40), rtol=1e-5)
    assert losses.dice(certain(wide), thin) > 10 * losses.dice(certain(gap), thin)


def test_cldice_needs_iterations_of_half_the_width():
    """A band of 9 rows is reduced to its middle by 4 erosions, and to nothing by fewer."""
    band = np.zeros((1, 15, 30), int)
    band[:, 3:12] = 1
    middle = np.zeros_like(band)
    middle[:, 7] = 1
    for iterations, expected in ((3, 1.0), (4, 0.0), (10, 0.0)):
        value = losses.cldice(certain(band), middle, class_weights=LINE, iterations=iterations)
        np.testing.assert_allclose(value, expected, atol=1e-6)


def test_cldice_without_a_predicted_skeleton():
    """Precision 0, so 1 with zero gradient; with `smooth` 1, and the sensitivity's alone."""
    labels = lines("00000", "11110", "00000")
    gradient = jax.value_and_grad(functools.partial(losses.cldice, class_weights=LINE))
    for q in (0.0, 0.25, 1.0):
        logits = np.broadcast_to(special.logit(np.clip([1 - q, q], 1e-30, 1)), (1, 3, 5, 2))
        logits = np.log(np.clip([1 - q, q], 1e-38, 1)) + np.zeros((1, 3, 5, 1))
        value, grad = gradient(logits.astype(np.float32), labels)
        assert value == 1
        assert not np.any(grad)
        value, grad = gradient(logits.astype(np.float32), labels, smooth=1.0)
        sensitivity = (4 * q + 1) / (4 + 1)
        np.testing.assert_allclose(value, 1 - 2 * sensitivity / (1 + sensitivity), atol=1e-6)
        assert np.any(grad) == (q == 0.25)


def test_cldice_of_absent_classes():
    """A class without a labelled skeleton is left out, here one that is everywhere or nowhere."""
    logits, labels, _ = problem()
    same = np.ones_like(labels)
    assert losses.cldice(logits, same) == 0
    two = np.where(labels == 2, 0, labels)
    value = losses.cldice(logits, two)
    assert value > 0
    assert value == losses.cldice(logits, two, class_weights=(1, 1, 7))


@pytest.mark.parametrize(
    ("shape", "iterations", "expected"),
    [
        ((1, 12, 10), 1, 0.5105439295471275),
        ((1, 12, 10), 10, 0.5185508012478375),
        ((1, 6, 7, 5), 3, 0.7289044656440706),
    ],
)
def test_cldice_is_that_of_monai(shape, iterations, expected):
    """monai 1.6.1 of one image, without background, and with 1e-15 for what it calls smooth."""
    rng = np.random.default_rng(7)
    logits = rng.normal(0, 2, (*shape, 2)).astype(np.float32)
    sigma = (0, *[1] * (len(shape) - 1))
    labels = (ndimage.gaussian_filter(rng.normal(size=shape), sigma) > 0).astype(int)
    found = losses.cldice(logits, labels, class_weights=LINE, iterations=iterations, smooth=1.0)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_cldice_keeps_two_copies_of_a_class_an_iteration():
    """What is kept for the gradient grows no faster with the iterations."""

    def memory(iterations):
        loss = functools.partial(losses.cldice, iterations=iterations)
        logits, labels = jnp.zeros((2, 64, 64, 5)), jnp.zeros((2, 64, 64), int)
        compiled = jax.jit(jax.grad(loss)).lower(logits, labels).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    of_a_class = 4 * 2 * 64 * 64
    assert memory(60) - memory(10) <= 1.1 * 50 * 2 * of_a_class


# Neighbourhoods.


@pytest.mark.usefixtures("x64")
def test_rmi_lies_between_its_bounds():
    """From 1/2 log(1 + jitter), where nothing is known, down to 1/2 log(jitter)."""
    logits, labels, _ = problem("hard", (2, 30, 30))
    right = losses.rmi(1e4 * np.eye(CLASSES)[labels], labels)
    roughly = losses.rmi(logits, labels)
    nothing = losses.rmi(0 * logits, labels)
    assert 0.5 * np.log(1e-3) < right < roughly < nothing < 0.5 * np.log1p(1e-3)
    np.testing.assert_allclose(losses.rmi(0 * logits, labels, size=1), np.log1p(1e-3) / 2)


@pytest.mark.usefixtures("x64")
def test_rmi_of_the_correlation():
    """With neighbourhoods of one pixel it is 1/2 log(1 - r^2), but for the jitter."""
    logits, labels, _ = problem("soft", (1, 20, 20))
    labels = special.softmax(logits + np.random.default_rng(1).normal(size=logits.shape), -1)
    q = special.softmax(logits, -1)
    r = np.array([np.corrcoef(q[..., c].ravel(), labels[..., c].ravel())[0, 1] for c in range(3)])
    expected = np.mean(np.log(1 - r**2)) / 2
    np.testing.assert_allclose(losses.rmi(logits, labels, size=1), expected, rtol=1e-2)


def test_rmi_does_not_know_the_sign():
    """The complement of a prediction says as much of the label."""
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(2, 9, 9, 2)), rng.integers(0, 2, (2, 9, 9))
    swapped = losses.rmi(logits[..., ::-1], labels)
    np.testing.assert_allclose(losses.rmi(logits, labels), swapped, rtol=1e-5)


@pytest.mark.parametrize("smooth", [0, 20])
def test_rmi_of_a_rare_class_predicted_widely(smooth):
    """Its label has next to no variance, and the neighbours in the prediction are nearly equal."""
    rng = np.random.default_rng(0)
    labels = np.zeros((1, 80, 80), int)
    labels[0, 40, 40] = 1
    noise = rng.normal(size=(1, 80, 80, 2))
    blobs = ndimage.gaussian_filter(noise, (0, smooth, smooth, 0))
    logits = (5 * blobs / blobs.std()).astype(np.float32)
    value, grad = jax.value_and_grad(losses.rmi)(logits, labels)
    assert np.isfinite(grad).all()
    expected = rmi_value(logits.astype(float), labels, labels >= 0)
    np.testing.assert_allclose(value, expected, rtol=1e-3)


def test_rmi_leaves_constant_labels_out():
    """In an image where only one of two images has anything to say, that one is the mean."""
    logits, labels, where = problem()
    assert (labels[-1] == 1).all()
    alone = losses.rmi(logits[:-1], labels[:-1], where=where[:-1])
    np.testing.assert_allclose(losses.rmi(logits, labels, where=where), alone, rtol=1e-6)
    assert losses.rmi(logits[-1:], labels[-1:]) == 0


@pytest.mark.parametrize("side", [300, 1000])
def test_rmi_of_constant_distributions(side):
    """Their mean is rounded, but not what is left of them: nothing."""
    logits = np.random.default_rng(0).normal(size=(1, side, side, 2)).astype(np.float32)
    labels = np.full_like(logits, (0.3, 0.7))
    assert losses.rmi(logits, labels, size=1) == 0


# Information between predictions.


@pytest.mark.usefixtures("x64")
def test_information_of_certain_and_balanced_predictions():
    """Minus the logarithm of the number of classes, the least there is."""
    labels = np.arange(24).reshape(2, 3, 4) % CLASSES
    logits = 1e3 * np.eye(CLASSES)[labels]
    found = losses.mutual_information(logits, logits)
    np.testing.assert_allclose(found, -np.log(CLASSES), rtol=1e-14)
    # Of renamed classes, (P + P^T) / 2 spreads each over two.
    renamed = losses.mutual_information(logits, np.roll(logits, 1, -1))
    np.testing.assert_allclose(renamed, -np.log(CLASSES / 2), rtol=1e-14)


@pytest.mark.usefixtures("x64")
def test_information_of_independent_predictions():
    """0 for constants, and for all pairs of two lists of predictions."""
    logits, _, _ = problem()
    constant = np.zeros_like(logits) + np.array([0.1, 1.0, -2.0])
    np.testing.assert_allclose(losses.mutual_information(constant, constant), 0, atol=1e-15)
    row = np.broadcast_to(logits[:1, :1], (1, 8, 8, CLASSES))
    column = row.swapaxes(1, 2)
    np.testing.assert_allclose(losses.mutual_information(row, column), 0, atol=1e-15)
    assert losses.mutual_information(row, row) < -0.1


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("displacement", [0, 2])
def test_information_is_at_most_the_entropy(displacement):
    """Of the mean prediction; and it is symmetric in the predictions."""
    for seed in range(5):
        logits, _, where = problem(seed=seed)
        others = problem(seed=seed + 50).logits
        loss = functools.partial(losses.mutual_information, displacement=displacement)
        found = loss(logits, others, where=where)
        means = [special.softmax(x, -1)[where].mean(0) for x in (logits, others)]
        if displacement == 0:
            assert -found <= special.entr(np.mean(means, 0)).sum()
        assert -np.log(CLASSES) < found < 0
        swapped = loss(others, logits, where=where)
        np.testing.assert_allclose(swapped, found, rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_information_finds_what_is_displaced():
    """A shifted prediction is found by the displacement of its shift, one of 9."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, (1, 60, 60))
    logits = 1e3 * np.eye(CLASSES)[labels]
    moved = np.roll(logits, (1, -1), (1, 2))
    still = losses.mutual_information(logits, moved)
    near = losses.mutual_information(logits, moved, displacement=1)
    np.testing.assert_allclose(near, -np.log(CLASSES) / 9, atol=0.01)
    np.testing.assert_allclose(still, 0, atol=0.01)


def test_information_leaves_out_displacements_without_pairs():
    """Two neighbours that count make pairs at 3 of 9 displacements."""
    where = np.zeros((1, 5, 5), bool)
    where[0, 2, 2:4] = True
    logits = np.zeros((1, 5, 5, 2), np.float32)
    logits[0, 2, 2], logits[0, 2, 3] = (90, 0), (0, 90)
    found = losses.mutual_information(logits, logits, where=where, displacement=1)
    # log 2 without displacement; one to either side has one pair, (P + P^T) / 2 of which has log 2.
    np.testing.assert_allclose(found, -np.log(2), rtol=1e-6)


def test_information_without_axes_of_pixels():
    """Of whole images' classes."""
    logits = 50 * np.eye(CLASSES)
    np.testing.assert_allclose(losses.mutual_information(logits, logits), -np.log(3), rtol=1e-6)


@pytest.mark.parametrize(
    ("attempt", "words"),
    [
        (lambda f, z: f(z, z[:1]), "other_logits are .* must be floating-point and have"),
        (lambda f, z: f(z, z.astype(int)), "other_logits are int.* must be floating-point"),
        (lambda f, z: f(z.astype(int), z), "logits are int.* needs floating-point"),
        (lambda f, z: f(z[0, 0, 0], z[0, 0, 0]), r"needs \[images, \*pixels, classes\]"),
        (lambda f, z: f(z, z, where=np.ones((4, 9))), "where is"),
        (lambda f, z: f(z, z, displacement=-1), "displacement is -1, but must be a whole"),
        (lambda f, z: f(z, z, displacement=8), "displacement is 8, but must .* less than the"),
        (lambda f, z: f(z, z, displacement=0.5), "displacement is 0.5, but must be a whole"),
        (lambda f, z: f(z, z, displacement="1"), "displacement is '1', but must be a Python"),
        (lambda f, z: f(z[:, 0, 0], z[:, 0, 0], displacement=1), "displacement is 1, but"),
    ],
)
def test_information_errors(attempt, words):
    with pytest.raises((ValueError, TypeError), match=words):
        attempt(losses.mutual_information, problem().logits)
