"""Losses of logits at a lower resolution equal those of interpolated logits, in less memory."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from jax.test_util import check_grads

from jaxseg import losses
from jaxseg.losses import divergences, upsample

# What versions change shows in the examples and in test_losses.py.
pytestmark = pytest.mark.exhaustive

CLASSES = 3
WEIGHTS = (1.0, 2.0, 0.5)
# Compiling takes most of these tests' time.
quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
OPTIONS = {
    "tsallis_divergence": {"order": 0.7},
    "f_divergence": {"f": lambda u: (u - 1) ** 2 / (u + 1)},
    "kl_divergence": {"temperature": 2.0, "label_smoothing": 0.1},
}
NAMES = [name for name in losses.__all__ if name.startswith("upsample_")]
every_loss = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(autouse=True)
def few_rows_at_once(monkeypatch):
    """So that small pictures, too, are done in many chunks."""
    monkeypatch.setattr(upsample, "_ELEMENTS", {})
    monkeypatch.setattr(upsample, "_ELEMENTS_ELSEWHERE", 1)


def pair(name):
    """The loss of cells, and the same of interpolated logits."""
    plain = name.removeprefix("upsample_")
    options = OPTIONS.get(plain, {})
    loss = functools.partial(getattr(losses, plain), **options)

    def whole(logits, labels, **more):
        size = labels.shape[1 : logits.ndim - 1]
        shape = (*logits.shape[:1], *size, *logits.shape[-1:])
        full = jax.image.resize(logits, shape, "linear", precision="highest")
        return loss(full, labels, **more)

    return functools.partial(getattr(losses, name), **options), whole


def problem(cells, size, *, soft=False, images=2):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (images, *cells, CLASSES))
    shape = (images, *size)
    indices = rng.integers(0, CLASSES, shape, np.int32)
    labels = rng.dirichlet(np.ones(CLASSES), shape) if soft else indices
    return logits, labels, rng.random(shape) < 0.7


def value_and_grads(loss, logits, labels, where, soft):
    def value(inputs):
        z, weights, *more = inputs
        return loss(z, more[0] if soft else labels, where=where, class_weights=weights)

    inputs = (jnp.asarray(logits), jnp.asarray(WEIGHTS, logits.dtype))
    return quick(jax.value_and_grad(value))(inputs + ((jnp.asarray(labels),) if soft else ()))


SIZES = [
    ((5, 4), (10, 12)),  # whole factors, even and odd
    ((7, 3), (35, 3)),  # rows of which the last chunk repeats one
    ((6, 4), (35, 9)),  # any factors
    ((1, 1), (6, 4)),
    ((3, 4, 2), (7, 8, 6)),  # volumes
    ((6,), (12,)),  # signals
]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("cells", "size"), SIZES)
@pytest.mark.parametrize("soft", [False, True])
def test_any_size(cells, size, soft):
    """Value and all gradients are those of the interpolated logits."""
    logits, labels, where = problem(cells, size, soft=soft)
    of_cells, whole = pair("upsample_cross_entropy")
    for mask in (where, None):
        found = value_and_grads(of_cells, logits, labels, mask, soft)
        expected = value_and_grads(whole, logits, labels, mask, soft)
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-11, atol=1e-15), found, expected
        )


@pytest.mark.usefixtures("x64")
@every_loss
@pytest.mark.parametrize("soft", [False, True])
def test_every_divergence(name, soft):
    of_cells, whole = pair(name)
    logits, labels, where = problem((7, 3), (35, 6), soft=soft)
    found = value_and_grads(of_cells, logits, labels, where, soft)
    expected = value_and_grads(whole, logits, labels, where, soft)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-14), found, expected
    )

    def maps(loss):
        both = [functools.partial(loss, where=inputs, reduce=None) for inputs in (where, None)]
        return quick(lambda *data: [f(*data) for f in both])(logits, labels)

    for found, expected in zip(maps(of_cells), maps(whole), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-14)


def test_all_divergences_are_there():
    public = {
        f"upsample_{name}"
        for name, item in vars(divergences).items()
        if name in losses.__all__ and callable(item)
    }
    assert set(NAMES) == public
    assert len(NAMES) == 13


@pytest.mark.usefixtures("x64")
def test_by_hand():
    """Cells of logit 0 and 1 make pixels of 0, 1/4, 3/4 and 1."""
    logits = np.array([[[0.0, 0.0], [1.0, 0.0]]])  # one image of two cells in a row
    found = losses.upsample_cross_entropy(logits, np.zeros((1, 4), np.int32), reduce=None)
    expected = np.log1p(np.exp(-np.array([[0.0, 0.25, 0.75, 1.0]])))
    np.testing.assert_allclose(found, expected, rtol=1e-14)


@pytest.mark.usefixtures("x64")
def test_gradient_of_the_map():
    of_cells, whole = pair("upsample_jensen_shannon")
    logits, labels, where = problem((7, 3), (35, 6))
    slopes = jnp.asarray(np.random.default_rng(1).normal(size=labels.shape))
    found, expected = (
        quick(jax.grad(lambda z, f=f: jnp.vdot(slopes, f(z, labels, where=where, reduce=None))))(
            logits
        )
        for f in (of_cells, whole)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-14)


@pytest.mark.usefixtures("x64")
def test_second_derivatives():
    of_cells, whole = pair("upsample_kl_divergence")
    logits, labels, where = problem((3, 2), (6, 5), images=1)
    loss = jax.jit(lambda z: of_cells(z, labels, where=where))
    check_grads(loss, (jnp.asarray(logits),), order=2, modes=["rev"], rtol=1e-6, atol=1e-7)
    found, expected = (
        quick(jax.hessian(lambda z, f=f: f(z, labels, where=where)))(logits)
        for f in (of_cells, whole)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-13)


@every_loss
def test_what_does_not_count_changes_nothing(name):
    """Labels outside `where` and cells that only such pixels draw on, down to the bit."""
    of_cells, _ = pair(name)
    logits, labels, where = problem((8, 6), (16, 18))
    where[:, 6:] = False  # pixels that draw on cells 0 to 3
    gradient = quick(jax.value_and_grad(of_cells))
    logits = logits.astype(np.float32)
    expected, slopes = gradient(logits, labels, where=where)
    assert np.isfinite(expected)
    assert np.all(np.any(slopes[:, :4] != 0, -1))
    assert not np.any(slopes[:, 4:])
    for logit, label in ((np.nan, 255), (np.inf, -1), (-np.inf, 2**31 - 1)):
        other = logits.copy()
        other[:, 4:] = logit
        value, found = gradient(other, np.where(where, labels, label), where=where)
        assert value == expected
        assert np.array_equal(found, slopes)
    value, found = gradient(np.full_like(logits, np.nan), labels, where=np.zeros_like(where))
    assert value == 0
    assert not np.any(found)


def test_a_label_outside_the_classes_gives_nan():
    logits, labels, where = problem((4, 3), (8, 9))
    labels[0, 5, 4] = 255
    where[0, 5, 4] = True
    assert np.isnan(losses.upsample_cross_entropy(logits, labels, where=where))
    found = np.isnan(losses.upsample_cross_entropy(logits, labels, where=where, reduce=None))
    assert np.argwhere(found).tolist() == [[0, 5, 4]]
    where[0, 5, 4] = False
    assert np.isfinite(losses.upsample_cross_entropy(logits, labels, where=where))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["upsample_cross_entropy", "upsample_relative_entropy"])
def test_eight_devices_equal_one(name):
    logits, labels, where = problem((5, 2), (10, 6), images=8)
    where[:3] = False
    loss = functools.partial(getattr(losses, name), class_weights=WEIGHTS)
    value, slopes = quick(jax.value_and_grad(loss))(logits, labels, where=where)

    def replica(z, labels, where):
        return jax.value_and_grad(loss)(z[None], labels[None], where=where[None], axis_name="i")

    values, by_device = jax.pmap(replica, "i")(logits, labels, where)
    np.testing.assert_allclose(values, np.full(8, value), rtol=1e-13)
    np.testing.assert_allclose(by_device[:, 0] / 8, slopes, rtol=1e-12, atol=1e-16)

    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("i",))
    split = PartitionSpec("i")

    def sharded(z, shift):
        run = jax.shard_map(
            lambda z, shift, labels, where: loss(z + shift, labels, where=where, axis_name="i"),
            mesh=mesh,
            in_specs=(split, PartitionSpec(), split, split),
            out_specs=PartitionSpec(),
        )
        return run(z, shift, labels, where)

    shift = jnp.zeros(logits.shape[1:])
    found, (of_z, of_shift) = quick(jax.value_and_grad(sharded, (0, 1)))(logits, shift[None])
    np.testing.assert_allclose(found, value, rtol=1e-13)
    np.testing.assert_allclose(of_z, slopes, rtol=1e-12, atol=1e-16)
    np.testing.assert_allclose(of_shift[0], slopes.sum(0), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_computed_in_float32(dtype):
    logits, labels, where = problem((7, 3), (35, 6))
    half = jnp.asarray(logits, dtype)
    gradient = jax.value_and_grad(losses.upsample_cross_entropy)
    value, slopes = gradient(half, labels, where=where)
    expected, wanted = gradient(half.astype(jnp.float32), labels, where=where)
    assert value.dtype == jnp.float32
    assert value == expected
    assert slopes.dtype == dtype
    assert np.array_equal(slopes, wanted.astype(dtype))


@pytest.mark.parametrize("extreme", [1e4, -1e4])
def test_large_logits(extreme):
    logits, labels, _ = problem((4, 3), (8, 9))
    logits = np.where(np.random.default_rng(0).random(logits.shape) < 0.5, extreme, 0.0)
    for name in ("upsample_cross_entropy", "upsample_relative_entropy", "upsample_jensen_shannon"):
        found = quick(jax.value_and_grad(pair(name)[0]))(logits.astype(np.float32), labels)
        assert all(np.isfinite(x).all() for x in found), name


def test_vmap_is_a_loop():
    logits, labels, where = problem((4, 3), (8, 9), images=3)
    loss = jax.value_and_grad(losses.upsample_cross_entropy)
    found = quick(jax.vmap(lambda z, y, m: loss(z[None], y[None], where=m[None])))(
        logits, labels, where
    )
    alone = quick(loss)
    for i in range(3):
        value, slopes = alone(logits[i : i + 1], labels[i : i + 1], where=where[i : i + 1])
        np.testing.assert_allclose(found[0][i], value, rtol=1e-6)
        np.testing.assert_allclose(found[1][i], slopes, rtol=1e-5, atol=1e-8)


def test_other_pixelwise_losses_and_hard_pixels():
    """`upsampled` takes any loss with a map, and what it makes is one, too."""
    logits, labels, where = problem((4, 3), (8, 9))
    full = jax.image.resize(logits, (2, 8, 9, CLASSES), "linear")
    found = losses.upsampled(losses.focal)(logits, labels, where=where, gamma=1.0)
    expected = losses.focal(full, labels, where=where, gamma=1.0)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    found, expected = (
        losses.hard_pixels(loss, fraction=0.25)(z, labels, where=where)
        for loss, z in ((losses.upsample_cross_entropy, logits), (losses.cross_entropy, full))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    total, _ = losses.weighted_sum({"upsample_cross_entropy": 2.0})(logits, labels, where=where)
    alone = losses.upsample_cross_entropy(logits, labels, where=where)
    np.testing.assert_allclose(total, 2 * alone, rtol=1e-6)


@pytest.mark.parametrize("name", ["upsample_cross_entropy", "upsample_jensen_shannon"])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_memory(name, soft, weighted, monkeypatch):
    """At stride 4 and 150 classes a tenth of what resize-then-loss holds, or less.

    Of what the compiled value and gradient hold besides arguments and results, with the sizes that
    are done at once outside of tests.
    """
    monkeypatch.undo()
    options = {"class_weights": np.linspace(1, 2, 150, dtype=np.float32)} if weighted else {}
    logits = jax.ShapeDtypeStruct((4, 128, 128, 150), jnp.float32)
    labels = jax.ShapeDtypeStruct((4, 512, 512), jnp.uint8)
    if soft:
        labels = jax.ShapeDtypeStruct((4, 512, 512, 150), jnp.float32)
    held = []
    for loss in pair(name):
        compiled = jax.jit(jax.value_and_grad(functools.partial(loss, **options)))
        held.append(compiled.lower(logits, labels).compile().memory_analysis().temp_size_in_bytes)
    of_cells, whole = held
    assert whole > 4 * 512 * 512 * 150 * 4  # at least the logits of full size
    assert of_cells < whole / 10


@pytest.mark.parametrize(
    ("cells", "labels", "words"),
    [
        ((2, 4, 4, 3), (2, 8), "labels are int32[2, 8] for logits [2, 4, 4, 3], but logits"),
        ((2, 4, 4, 3), (2, 8, 3), "at least as many pixels as there are cells along each axis"),
        ((2, 4, 4, 3), (3, 8, 8), "labels of as many images"),
        ((2, 0, 4, 3), (2, 8, 8), "at least as many pixels"),
        ((4, 3), (4,), "need [images, *cells, classes]"),
        ((2, 4, 4, 3), (2, 8, 8, 3), "class indices need an integer dtype and shape [2, 8, 8]"),
    ],
)
def test_errors(cells, labels, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        losses.upsample_cross_entropy(np.zeros(cells, np.float32), np.zeros(labels, np.int32))


def test_errors_of_other_arguments():
    logits, labels, where = problem((4, 3), (8, 9))
    with pytest.raises(
        ValueError, match=re.escape("where is bool[2, 4, 3], but must be bool[2, 8")
    ):
        losses.upsample_cross_entropy(logits, labels, where=where[:, :4, :3])
    with pytest.raises(ValueError, match="class_weights have shape"):
        losses.upsample_cross_entropy(logits, labels, class_weights=(1.0,))
    with pytest.raises(ValueError, match="reduce is 'sum', but must be \"mean\" or None"):
        losses.upsample_cross_entropy(logits, labels, reduce="sum")
    with pytest.raises(TypeError, match="logits are int"):
        losses.upsample_cross_entropy(labels[..., None], labels)
    with pytest.raises(TypeError, match="unexpected keyword argument 'smoothing'"):
        losses.upsample_cross_entropy(logits, labels, smoothing=0.1)
