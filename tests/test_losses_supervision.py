"""One loss at several resolutions."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import losses

# What versions change shows in the examples and in test_losses.py.
pytestmark = pytest.mark.exhaustive

CLASSES = 3


def problem(sizes=((8, 12), (4, 6), (2, 3)), pixels=(8, 12), soft=False):
    rng = np.random.default_rng(0)
    logits = [rng.normal(0, 2, (2, *size, CLASSES)) for size in sizes]
    labels = rng.integers(0, CLASSES, (2, *pixels), np.int32)
    if soft:
        labels = rng.dirichlet(np.ones(CLASSES), (2, *pixels))
    return logits, labels, rng.random((2, *pixels)) < 0.7


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("weights", [None, (0.5, 0.0, 3.0)])
def test_nearest(soft, weights):
    """The weighted sum of the loss with every second and fourth label, counted from the middle."""
    logits, labels, where = problem(soft=soft)
    loss = functools.partial(losses.cross_entropy, class_weights=(1.0, 2.0, 3.0))
    expected = 0.0
    for z, share, step in zip(logits, weights or (4 / 7, 2 / 7, 1 / 7), (1, 2, 4), strict=True):
        at = (slice(None), slice(step // 2, None, step), slice(step // 2, None, step))
        expected += share * loss(z, labels[at], where=where[at])
    found = losses.deep_supervision(loss, weights=weights)(logits, labels, where=where)
    np.testing.assert_allclose(found, expected, rtol=1e-14)


@pytest.mark.usefixtures("x64")
def test_nearest_of_any_factor():
    logits, labels, _ = problem(((3, 5),), (7, 12))
    found = losses.deep_supervision(losses.dice)(logits, labels)
    expected = losses.dice(logits[0], labels[:, [1, 3, 5]][:, :, [1, 3, 6, 8, 10]])
    np.testing.assert_allclose(found, expected, rtol=1e-14)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("soft", [False, True])
def test_shares(soft):
    """Each cell against the mean distribution of its labels that count, in a loop."""
    logits, labels, where = problem(((4, 3),), soft=soft)
    where[0, :2, :4] = False  # a cell of which nothing counts
    distributions = labels if soft else np.eye(CLASSES)[labels]
    shares, some = np.zeros((2, 4, 3, CLASSES)), np.zeros((2, 4, 3), bool)
    for i, y, x in np.ndindex(2, 4, 3):
        cell = (i, slice(2 * y, 2 * y + 2), slice(4 * x, 4 * x + 4))
        some[i, y, x] = where[cell].any()
        if some[i, y, x]:
            shares[i, y, x] = distributions[cell][where[cell]].mean(0)
    assert not some.all()
    deep = losses.deep_supervision(losses.kl_divergence, labels="shares")
    expected = losses.kl_divergence(logits[0], shares, where=some)
    np.testing.assert_allclose(deep(logits, labels, where=where), expected, rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_shares_are_the_mean_over_pixels():
    """The cross-entropy of a cell and the shares in it is that of its repetition, on average."""
    logits, labels, _ = problem(((4, 3),))
    repeated = np.repeat(np.repeat(logits[0], 2, 1), 4, 2)
    found = losses.deep_supervision(losses.cross_entropy, labels="shares")(logits, labels)
    np.testing.assert_allclose(found, losses.cross_entropy(repeated, labels), rtol=1e-6)


@pytest.mark.parametrize("labels", ["nearest", "shares"])
def test_volumes_terms_and_gradients(labels):
    """In 3D, with the pair that weighted_sum returns, compiled, and whatever does not count."""
    logits, indices, where = problem(((4, 4, 2), (2, 2, 1)), (4, 4, 2))
    logits = [z.astype(np.float32) for z in logits]
    inner = losses.weighted_sum({"cross_entropy": 1.0, "dice": ((0, 0.0), (10, 1.0))})
    deep = losses.deep_supervision(inner, labels=labels)

    @jax.jit
    def run(logits, indices):
        gradient = jax.value_and_grad(lambda z: deep(z, indices, where=where, step=5), has_aux=True)
        return gradient(logits)

    (total, terms), slopes = run(logits, indices)
    np.testing.assert_allclose(total, terms["cross_entropy"] + 0.5 * terms["dice"], rtol=1e-6)
    assert all(np.any(x != 0) for x in slopes)
    (again, _), found = run(logits, np.where(where, indices, 255))
    assert again == total
    assert all(np.array_equal(x, y) for x, y in zip(slopes, found, strict=True))


def test_a_label_outside_the_classes_gives_nan():
    logits, labels, where = problem(((4, 3),))
    labels[1, 5, 6] = CLASSES
    where[1, 5, 6] = True
    deep = losses.deep_supervision(losses.cross_entropy, labels="shares")
    assert np.isnan(deep(logits, labels, where=where))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("labels", ["nearest", "shares"])
def test_eight_devices_equal_one(labels):
    rng = np.random.default_rng(0)
    logits = [rng.normal(size=(8, size, size, CLASSES)) for size in (4, 2)]
    indices, where = rng.integers(0, CLASSES, (8, 4, 4)), rng.random((8, 4, 4)) < 0.3
    deep = losses.deep_supervision(losses.dice, labels=labels)
    one = deep(logits, indices, where=where)
    split = jax.tree.map(lambda x: x[:, None], (logits, indices, where))
    eight = jax.pmap(lambda z, y, m: deep(z, y, where=m, axis_name="i"), "i")(*split)
    np.testing.assert_allclose(eight, np.full(8, one), rtol=1e-12)


def test_errors():
    logits, labels, _ = problem()
    with pytest.raises(ValueError, match='labels is \'area\', but must be "nearest" or "shares"'):
        losses.deep_supervision(losses.dice, labels="area")
    deep = losses.deep_supervision(losses.dice, labels="shares", weights=(1.0, 0.5))
    with pytest.raises(ValueError, match="but logits have 3 resolutions; give a weight for each"):
        deep(logits, labels)
    with pytest.raises(TypeError, match="needs a list of them, one for each resolution"):
        deep(logits[0], labels)
    with pytest.raises(ValueError, match=re.escape("needs cells of whole numbers of pixels")):
        deep([logits[0], jnp.zeros((2, 5, 5, CLASSES))], labels)
    with pytest.raises(ValueError, match="at least as many pixels as there are cells"):
        deep([logits[0], jnp.zeros((2, 9, 5, CLASSES))], labels)
    with pytest.raises(ValueError, match="resolutions; give a weight"):
        losses.deep_supervision(losses.dice)([], labels)
