"""Pictures made of several: what is pasted, how often, and that devices make no difference."""

import functools

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from jaxseg import Batch
from jaxseg.config import Augment
from jaxseg.data.mix import OPTIONS, mix

COUNT = 64
QUICK = {"compiler_options": {"xla_backend_optimization_level": 0}}


def make_batch(*size, count=COUNT, classes=6):
    """Images of one number each, so that every pixel tells whose it is, and labels in blocks."""
    rng = np.random.default_rng(0)
    numbers = np.arange(count, dtype=np.float32).reshape(count, *(1,) * (len(size) + 1))
    labels = rng.integers(0, classes, (count, *(-(-side // 4) for side in size)))
    for axis, side in enumerate(size, 1):
        labels = np.repeat(labels, 4, axis).take(range(side), axis)
    where = rng.random((count, *size)) < 0.9
    return Batch(np.broadcast_to(numbers, (count, *size, 2)), labels.astype(np.uint8), where)


@functools.cache
def compiled(**options):
    return jax.jit(functools.partial(mix, config=Augment(**options)), **QUICK)


def mixed(batch, **options):
    keys = jax.random.split(jax.random.key(1), len(batch.images))
    return jax.tree.map(np.asarray, compiled(**options)(batch, keys))


def owners(batch, found):
    """How many rows on each pixel's image is; all that it has is of that image."""
    count = len(batch.images)
    owner = found.images[..., 0].astype(int)
    np.testing.assert_array_equal(found.images, np.repeat(found.images[..., :1], 2, -1))
    places = np.indices(batch.where.shape)[1:]
    np.testing.assert_array_equal(found.labels, batch.labels[owner, *places])
    np.testing.assert_array_equal(found.where, batch.where[owner, *places])
    return (owner - np.arange(count).reshape(count, *(1,) * (owner.ndim - 1))) % count


def is_box(mask):
    sides = [np.flatnonzero(mask.any(tuple({*range(mask.ndim)} - {i}))) for i in range(mask.ndim)]
    spans = [side[-1] - side[0] + 1 if side.size else 0 for side in sides]
    return mask.sum() == np.prod(spans)


@pytest.mark.parametrize("size", [(24, 32), (12, 10, 14)])
def test_cutmix(size):
    """A box of the next image, of any share between nothing and all of it."""
    batch = make_batch(*size)
    ahead = owners(batch, mixed(batch, cutmix=1.0))
    assert set(np.unique(ahead)) == {0, 1}
    assert all(map(is_box, ahead == 1))
    shares = ahead.mean(tuple(range(1, ahead.ndim)))
    assert shares.min() < 0.1
    assert shares.max() > 0.9
    np.testing.assert_allclose(shares.mean(), 0.5, atol=3 / np.sqrt(12 * COUNT) + 0.02)


def check_classmix(batch, ahead, classes):
    chosen = np.zeros(6)
    for row, mask in enumerate(ahead == 1):
        other = (row + 1) % COUNT
        counts = batch.where[other]
        pasted = set(classes[other][mask])
        assert len(pasted) == len(set(classes[other][counts])) // 2
        np.testing.assert_array_equal(mask, np.isin(classes[other], [*pasted]) & counts)
        chosen[[*pasted]] += 1
    assert chosen.min() > COUNT / 4, "each class has its chance"


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_classmix(dtype):
    """Half of the classes of the next image, with all their pixels that count."""
    batch = make_batch(16, 20)
    batch = batch._replace(labels=batch.labels.astype(dtype))
    ahead = owners(batch, mixed(batch, classmix=1.0))
    check_classmix(batch, ahead, batch.labels)


def test_classmix_of_distributions():
    """By the most probable class."""
    batch = make_batch(16, 20)
    labels = np.random.default_rng(1).dirichlet(np.ones(6), batch.labels.shape)
    labels[..., 0] += batch.labels == 0
    batch = batch._replace(labels=labels.astype(np.float32))
    ahead = owners(batch, mixed(batch, classmix=1.0))
    check_classmix(batch, ahead, labels.argmax(-1))


@pytest.mark.parametrize("soft", [False, True])
def test_copy_paste(soft):
    """All of the next image that counts and is not of class 0."""
    batch = make_batch(16, 20)
    pasted = np.roll((batch.labels != 0) & batch.where, -1, 0)
    if soft:
        batch = batch._replace(labels=np.eye(6, dtype=np.float32)[batch.labels])
    np.testing.assert_array_equal(owners(batch, mixed(batch, copy_paste=1.0)), pasted)


@pytest.mark.parametrize("size", [(24, 32), (5, 14, 12)])
def test_mosaic(size):
    """Four images around a point, each in its place."""
    batch = make_batch(*size)
    ahead = owners(batch, mixed(batch, mosaic=1.0))
    points = []
    for image in ahead:
        lower, right = image >= 2, image % 2 == 1
        row, column = ((~x).any(axis).sum() for x, axis in ((lower[..., :1], -1), (right, -2)))
        points.append((row if len(size) == 2 else row // size[0], column // np.prod(size[:-2])))
        rows, columns = (
            np.arange(side) >= at for side, at in zip(size[-2:], points[-1], strict=True)
        )
        expected = np.broadcast_to(2 * rows[:, None] + columns[None], size)
        np.testing.assert_array_equal(image, expected)
    for values, side in zip(np.transpose(points), size[-2:], strict=True):
        assert values.min() < side / 6
        assert values.max() > side * 5 / 6


@pytest.mark.parametrize("option", OPTIONS)
def test_probability(option):
    """As often as asked for, by each image's own key; else the image stays."""
    batch = make_batch(12, 12)
    batch = batch._replace(labels=np.maximum(batch.labels, 1))
    ahead = owners(batch, mixed(batch, **{option: 0.3}))
    happened = ahead.any((1, 2)).mean()
    assert 0.1 < happened < 0.5
    with_all = owners(batch, mixed(batch, **{option: 1.0}))
    changed = ahead.any((1, 2))
    np.testing.assert_array_equal(ahead[changed], with_all[changed])


def test_nothing_to_mix():
    batch = make_batch(4, 4)
    assert mix(batch, jax.random.split(jax.random.key(0), COUNT), Augment()) is batch


@pytest.mark.parametrize(("how", "rows"), [("pmap", 16), ("shard_map", 8), ("shard_map", 32)])
def test_eight_devices_mix_as_one(how, rows):
    """Bit for bit, also where the images that follow are two or three devices away."""
    everything = dict.fromkeys(OPTIONS, 0.5)
    batch = make_batch(12, 10, count=rows)
    keys = jax.random.split(jax.random.key(1), rows)
    function = functools.partial(mix, config=Augment(**everything), axis_name="replicas")
    if how == "pmap":
        split = jax.tree.map(lambda x: x.reshape(8, rows // 8, *x.shape[1:]), (batch, keys))
        found = jax.pmap(function, axis_name="replicas")(*split)
        found = jax.tree.map(lambda x: np.asarray(x).reshape(rows, *x.shape[2:]), found)
    else:
        mesh = Mesh(np.array(jax.devices()), ("replicas",))
        spec = PartitionSpec("replicas")
        mapped = jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=spec)
        found = jax.jit(mapped, **QUICK)(batch, keys)
    expected = mixed(batch, **everything)
    for a, b in zip(found[:3], expected[:3], strict=True):
        np.testing.assert_array_equal(a, b)
    assert set(np.unique(owners(batch, expected))) >= {0, 1, 2, 3}
