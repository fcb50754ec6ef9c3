"""The distance between sets of masks, by its definition in numpy and by its axioms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import metrics

# What versions change shows in the examples of the docstrings.
pytestmark = pytest.mark.exhaustive

energy = metrics.generalised_energy_distance


def apart(one, other, num_classes):
    """One minus the mean IoU of the foreground classes that either map has."""
    ious = []
    for c in range(1, num_classes):
        either = ((one == c) | (other == c)).sum()
        if either:
            ious.append(((one == c) & (other == c)).sum() / either)
    return 1 - np.mean(ious) if ious else 0.0


def define(preds, labels, num_classes):
    """The distance of one image, in float64."""

    def mean(first, second):
        return np.mean([apart(a, b, num_classes) for a in first for b in second])

    return 2 * mean(preds, labels) - mean(preds, preds) - mean(labels, labels)


def maps(shape, num_classes, seed=0):
    """Maps of all kinds: noise, one class, one pixel, halves and ids that are no class."""
    rng = np.random.default_rng(seed)
    found = rng.integers(0, num_classes, (9, *shape))
    found[1] = 0
    found[2] = num_classes - 1
    found[3] = 0
    found[3].flat[-1] = 1
    found[4] = 0
    found[4, ..., : shape[-1] // 2] = 1
    found[5] = np.where(rng.random(shape) < 0.1, 255, found[0])
    found[6] = np.where(found[0] == 1, 0, found[0])
    found[7] = np.where(rng.random(shape) < 0.2, 1, 0)
    found[8] = 255
    return found.astype(np.int32)


@pytest.mark.parametrize("num_classes", [2, 3, 7])
@pytest.mark.parametrize("shape", [(12, 12), (5, 17), (1, 1), (1, 40)])
def test_it_is_numpys(num_classes, shape):
    """For sets of any size from masks of all kinds."""
    rng = np.random.default_rng(num_classes)
    some = maps(shape, num_classes)
    found, expected = [], []
    for samples, raters in ((1, 1), (1, 4), (5, 1), (4, 3), (9, 9)):
        preds = some[rng.choice(9, samples, replace=False)]
        labels = some[rng.choice(9, raters, replace=False)]
        found.append(energy(preds, labels, num_classes))
        expected.append(define(preds, labels, num_classes))
        assert found[-1].dtype == jnp.float32
        assert found[-1].shape == ()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_by_hand():
    """Samples {a, ab} and raters {ab, nothing}: 2 (1/2 + 1 + 0 + 1)/4 - (2/2)/4 - 2/4."""
    samples, raters = np.array([[[1, 0]], [[1, 1]]]), np.array([[[1, 1]], [[0, 0]]])
    assert float(energy(samples, raters, 2)) == 2 * 2.5 / 4 - 1 / 4 - 2 / 4


def test_classes_that_neither_has_are_left_out():
    """IoUs 1/2 of class 1 and 0 of class 2, that one of the two has; not of class 3."""
    one, other = np.array([[[1, 1, 0]]]), np.array([[[1, 2, 0]]])
    assert float(energy(one, other, 4)) == 2 * (1 - (1 / 2 + 0) / 2)
    assert float(energy(one, other, 2)) == 2 * (1 - 1 / 2)  # 2 is no class then


def test_nothing_but_background():
    """Two maps without foreground are as near as can be; one with some is as far."""
    nothing, some = np.zeros((3, 4, 4), int), np.ones((2, 4, 4), int)
    assert float(energy(nothing, nothing, 3)) == 0.0
    assert float(energy(nothing, some, 3)) == float(energy(some, nothing, 3)) == 2.0


def test_a_sample_that_no_rater_gives_and_a_rater_without_a_sample():
    left, right = np.eye(2, dtype=int)[:, None, :]
    only_left, both = np.stack([left, left]), np.stack([left, right])
    assert float(energy(only_left, both, 2)) == 2 * 1 / 2 - 0 - 1 / 2
    assert float(energy(both, only_left, 2)) == 2 * 1 / 2 - 1 / 2 - 0
    assert float(energy(both, both[::-1], 2)) == 0.0


@pytest.mark.parametrize("num_classes", [2, 5])
def test_same_sets_are_0_apart_and_order_does_not_matter(num_classes):
    some = maps((11, 6), num_classes)
    np.testing.assert_allclose(energy(some, some[::-1], num_classes), 0.0, atol=1e-6)
    repeated = np.concatenate([some, some, some])
    np.testing.assert_allclose(energy(some, repeated, num_classes), 0.0, atol=1e-6)
    there, back = energy(some[:4], some[4:], num_classes), energy(some[4:], some[:4], num_classes)
    np.testing.assert_allclose(there, back, rtol=1e-6)
    assert there > 0.1


def test_binary_distances_are_not_negative():
    """One minus the IoU of two sets is a metric of negative type."""
    rng = np.random.default_rng(1)
    rates = rng.random((200, 1, 1, 1))
    preds = (rng.random((200, 6, 3, 3)) < rates).astype(np.int32)
    labels = (rng.random((200, 4, 3, 3)) < rates).astype(np.int32)
    found = np.asarray(energy(preds, labels, 2))
    assert found.min() >= -1e-6
    assert found.max() > 0.1


def test_pixels_outside_where_are_background():
    rng = np.random.default_rng(2)
    preds, labels = rng.integers(0, 4, (2, 3, 5, 8, 9), np.int32)
    where = rng.random((3, 8, 9)) < 0.5
    where[2] = False
    found = energy(preds, labels, 4, where=where)
    expected = [define(p * w, t * w, 4) for p, t, w in zip(preds, labels, where, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert found[2] == 0.0
    changed = np.where(where[:, None], labels, 3)
    np.testing.assert_array_equal(energy(preds, changed, 4, where=where), found)
    assert not np.allclose(energy(preds, labels, 4), found)


def test_any_batch_axes_and_spatial_rank():
    """Each image by itself, as a map, a line or a volume, compiled or not."""
    rng = np.random.default_rng(3)
    preds = rng.integers(0, 3, (2, 3, 4, 5, 6), np.int32)
    labels = rng.integers(0, 3, (2, 3, 4, 5, 6), np.int32)
    for spatial_rank in (1, 2, 3):
        distance = functools.partial(energy, num_classes=3, spatial_rank=spatial_rank)
        found = jax.jit(distance)(preds, labels)
        assert found.shape == preds.shape[: 4 - spatial_rank]
        for index in np.ndindex(found.shape):
            expected = define(preds[index], labels[index], 3)
            np.testing.assert_allclose(found[index], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint32])
def test_any_integer_dtype(dtype):
    """300 classes do not fit into the small ones, and none of them wraps around."""
    some = maps((6, 7), 100) % 128
    found = energy(some[:3].astype(dtype), some[3:], 300)
    np.testing.assert_allclose(found, define(some[:3], some[3:], 300), rtol=1e-5)


def test_large_masks_are_counted_exactly():
    """2^24 + 1 pixels, which float32 has not: one pixel of them still sets two masks apart."""
    many = 2**24 + 1
    labels = np.ones((1, 1, many), np.int8)
    preds = labels.copy()
    preds[..., -1] = 0
    found = energy(preds, labels, 2)
    np.testing.assert_allclose(found, 2 / many, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"preds": np.zeros((2, 4, 4))}, TypeError, r"preds are float\d+\[2, 4, 4\].* class ind"),
        ({"labels": np.zeros((2, 4, 4), bool)}, TypeError, r"labels are bool\[2, 4, 4\]"),
        ({"labels": np.zeros((4, 4), int)}, ValueError, r"labels are \[4, 4\].* raters, \*pixels"),
        ({"preds": np.zeros((0, 4, 4), int)}, ValueError, r"preds are \[0, 4, 4\].* least one"),
        ({"preds": np.zeros((2, 4, 5), int)}, ValueError, r"preds are \[2, 4, 5\].* one shape"),
        ({"preds": np.zeros((1, 2, 4, 4), int)}, ValueError, "need one shape"),
        ({"where": np.ones((3, 4, 4), bool)}, ValueError, r"where is bool\[3, 4, 4\]"),
        ({"num_classes": 1}, ValueError, "num_classes is 1, .* at least 2"),
        ({"spatial_rank": 0}, ValueError, "spatial_rank is 0, .* at least 1"),
    ],
)
def test_errors(change, error, words):
    given = {
        "preds": np.zeros((2, 4, 4), int),
        "labels": np.zeros((3, 4, 4), int),
        "num_classes": 2,
    }
    with pytest.raises(error, match=words):
        energy(**given | change)
