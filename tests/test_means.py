"""Means that do not depend on how a data set is cut into batches, not even in the last bit."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import losses, metrics

IMAGES = 24


def maps(seed=0):
    """Values of many magnitudes, and the pixels that count."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(IMAGES, 5, 7)) * 10.0 ** rng.integers(-6, 6, (IMAGES, 1, 1))
    return values.astype(np.float32), rng.random((IMAGES, 5, 7)) < 0.8


def batched(metric, size, *arrays, order=None):
    """The states of the batches of a data set."""
    update = jax.jit(lambda *x: metric.update(metric.init(), *x[:-1], **x[-1]))
    return [
        update(*(x[i : i + size] for x in arrays[:-1]), {"where": arrays[-1][i : i + size]})
        for i in range(0, IMAGES, size)
    ]


def test_the_mean_of_pixels_is_that_of_float64():
    values, where = maps()
    metric = metrics.PixelMean()
    found = metric.compute(metric.update(metric.init(), values, where=where))
    expected = values.astype(np.float64)[where].mean()
    # The large ones are exact, and the small ones off by 2^-25 at most.
    assert abs(found - expected) <= 2**-25
    assert found == metric.compute(metric.update(metric.init(), values[where]))


@pytest.mark.parametrize("value", [0.1, -0.1, 1 / 3, 12345.678, -(2.0**31) * 0.99, 2.0**-24])
def test_many_equal_pixels(value):
    """More than float32 could add: 2^24 and some, of which each is there."""
    value = np.float32(value)
    many = 2**24 + 77
    metric = metrics.PixelMean()
    found = metric.compute(jax.jit(metric.update)(metric.init(), np.full(many, value)))
    rounded = round(float(value) * 2**24) / 2**24
    assert found == rounded
    assert abs(found - float(value)) <= 2**-25


def test_pixels_in_any_batches_and_order():
    values, where = maps(1)
    metric = metrics.PixelMean()
    whole = metric.compute(metric.update(metric.init(), values, where=where))
    rng = np.random.default_rng(0)
    for size in (1, 3, IMAGES):
        states = batched(metric, size, values, where)
        for _ in range(3):
            rng.shuffle(states)
            assert metric.compute(metric.merge(*states)) == whole
    assert math.isfinite(whole)


@pytest.mark.parametrize("mapped", ["pmap", "shard_map"])
def test_pixels_of_eight_devices(mapped):
    values, where = maps(2)
    metric = metrics.PixelMean()
    whole = metric.compute(metric.update(metric.init(), values, where=where))

    def replica(values, where):
        return metric.update(metric.init(), values, where=where, axis_name="replicas")

    if mapped == "pmap":
        states = jax.pmap(replica, "replicas")(*(x.reshape(8, -1, 5, 7) for x in (values, where)))
        state = jax.tree.map(lambda x: x[3], states)
    else:
        mesh = jax.sharding.Mesh(np.array(jax.devices()), ("replicas",))
        split, all_ = jax.sharding.PartitionSpec("replicas"), jax.sharding.PartitionSpec()
        sharded = jax.shard_map(replica, mesh=mesh, in_specs=split, out_specs=all_)
        state = jax.jit(sharded)(values, where)
    assert metric.compute(state) == whole


def test_losses_are_maps():
    """The negative log-likelihood, the Brier score and the divergence from a distribution."""
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(4, 6, 3)).astype(np.float32)
    labels = rng.integers(0, 3, (4, 6))
    soft = rng.dirichlet(np.ones(3), (4, 6)).astype(np.float32)
    q = np.exp(logits.astype(np.float64))
    q /= q.sum(-1, keepdims=True)
    own = np.take_along_axis(q, labels[..., None], -1)
    expected = {
        ("cross_entropy", "hard"): -np.log(own).mean(),
        ("brier", "hard"): np.square(q - np.eye(3)[labels]).sum(-1).mean(),
        ("kl_divergence", "soft"): (soft * np.log(soft.astype(np.float64) / q)).sum(-1).mean(),
    }
    metric = metrics.PixelMean()
    for (name, kind), mean in expected.items():
        values = getattr(losses, name)(logits, labels if kind == "hard" else soft, reduce=None)
        found = metric.compute(metric.update(metric.init(), values))
        np.testing.assert_allclose(found, mean, rtol=1e-6)


def test_what_is_not_finite_is_no_mean():
    metric = metrics.PixelMean()
    assert math.isnan(metric.compute(metric.init()))
    for bad in (np.nan, np.inf, -np.inf, 3e9):
        values = np.array([1.0, bad], np.float32)
        assert math.isnan(metric.compute(metric.update(metric.init(), values)))
        where = np.array([True, False])
        assert metric.compute(metric.update(metric.init(), values, where=where)) == 1.0
    with pytest.raises(TypeError, match=r"values are int32\[2\], but must be a map of a float"):
        metric.update(metric.init(), np.zeros(2, np.int32))
    with pytest.raises(ValueError, match=r"where is bool\[3\], but must be bool\[2\]"):
        metric.update(metric.init(), np.zeros(2, np.float32), where=np.ones(3, bool))


def table(shape=()):
    rng = np.random.default_rng(4)
    values = rng.normal(size=(IMAGES, *shape)).astype(np.float32)
    values[3], values[5] = np.nan, np.inf
    return values


@pytest.mark.parametrize("shape", [(), (3,)])
@pytest.mark.parametrize("size", [1, 3, IMAGES])
def test_images_in_any_batches_and_order(shape, size):
    """With padding, which is no image."""
    values = table(shape)
    metric = metrics.ByImage(IMAGES, shape)
    order = np.random.default_rng(size).permutation(IMAGES)
    update = jax.jit(metric.update)
    state = metric.init()
    for i in range(0, IMAGES, size):
        index = np.append(order[i : i + size], [IMAGES, IMAGES + 5, -1])
        rows = np.concatenate([values[order[i : i + size]], np.full((3, *shape), 7, np.float32)])
        state = update(state, index, rows)
    found = metric.compute(state)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("mapped", ["pmap", "shard_map"])
def test_images_of_eight_devices(mapped):
    values, index = table(), np.arange(IMAGES)[::-1].copy()
    metric = metrics.ByImage(IMAGES)

    def replica(index, values):
        return metric.update(metric.init(), index, values, axis_name="replicas")

    if mapped == "pmap":
        states = jax.pmap(replica, "replicas")(index.reshape(8, -1), values[index].reshape(8, -1))
        state = jax.tree.map(lambda x: x[5], states)
    else:
        mesh = jax.sharding.Mesh(np.array(jax.devices()), ("replicas",))
        split, all_ = jax.sharding.PartitionSpec("replicas"), jax.sharding.PartitionSpec()
        sharded = jax.shard_map(replica, mesh=mesh, in_specs=split, out_specs=all_)
        state = jax.jit(sharded)(index, values[index])
    np.testing.assert_array_equal(metric.compute(state), values)


def test_states_merge_in_any_order():
    values = table()
    metric = metrics.ByImage(IMAGES)
    cuts = itertools.pairwise((0, 7, 15, IMAGES))
    states = [
        metric.update(metric.init(), np.arange(a, b), jnp.asarray(values[a:b])) for a, b in cuts
    ]
    for order in itertools.permutations(states):
        np.testing.assert_array_equal(metric.compute(metric.merge(*order)), values)


def test_each_image_once():
    metric = metrics.ByImage(3)
    state = metric.update(metric.init(), np.array([0, 2]), np.zeros(2, np.float32))
    with pytest.raises(ValueError, match=r"image 1 was given 0 times, .* \(1 of 3"):
        metric.compute(state)
    state = metric.merge(state, state)
    with pytest.raises(ValueError, match=r"image 0 was given 2 times, .* \(3 of 3"):
        metric.compute(state)
    with pytest.raises(ValueError, match=r"index is \[2\] and values are \[3\], but must be"):
        metric.update(metric.init(), np.zeros(2, int), np.zeros(3, np.float32))
