"""Distances and components are those of scipy, image by image, whatever the shapes and masks."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxseg import ops
from jaxseg.ops import components


def serpentine(side):
    """A path of one pixel's width, down a square in rows that are joined at alternate ends."""
    mask = np.zeros((side, side), bool)
    mask[::2] = True
    mask[1::4, -1] = mask[3::4, 0] = True
    return mask


def spiral(side):
    """A path of one pixel's width, from a corner of an odd square to its centre."""
    rows, columns = np.indices((side, side))
    mask = np.minimum.reduce([rows, columns, side - 1 - rows, side - 1 - columns]) % 2 == 0
    for ring in range(0, side // 2 - 1, 2):
        mask[ring + 1, ring] = False
        mask[ring + 2, ring + 1] = True
    return mask


def noise(shape, density, seed=0):
    return np.random.default_rng(seed).random(shape) < density


def single(shape, value):
    mask = np.full(shape, not value)
    mask[tuple(side // 3 for side in shape)] = value
    return mask


MASKS = {
    **{f"2D {density}": noise((37, 61), density) for density in (0.03, 0.4, 0.6, 0.8, 0.97)},
    **{f"3D {density}": noise((11, 14, 9), density) for density in (0.1, 0.3, 0.5, 0.97)},
    "1D": noise((101,), 0.7),
    "even": noise((32, 16), 0.6),
    "empty": np.zeros((9, 14), bool),
    "full": np.ones((9, 14), bool),
    "3D empty": np.zeros((3, 5, 4), bool),
    "3D full": np.ones((3, 5, 4), bool),
    "one True": single((9, 14), True),
    "one False": single((9, 14), False),
    "3D one False": single((5, 7, 6), False),
    "1xN": noise((1, 77), 0.7),
    "Nx1": noise((77, 1), 0.7),
    "1x1": np.ones((1, 1), bool),
    "1xNx1": noise((1, 50, 1), 0.7),
    "serpentine": serpentine(31),
    "serpentine upwards": serpentine(31)[::-1],
    "serpentine of columns": serpentine(31).T,
    "spiral": spiral(33),
    "spiral, other corner": spiral(33)[::-1, ::-1],
}
SPACINGS = {1: [(0.3,)], 2: [(0.7, 1.3), (5.0, 0.4)], 3: [(2.5, 1.0, 0.3), (0.1, 3.0, 1.7)]}
BATCH = np.stack([noise((19, 23), density) for density in (0.2, 0.6, 0.9, 1.0, 0.0, 0.7)])

every_mask = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
every_op = pytest.mark.parametrize("op", [ops.distance_transform, ops.connected_components])


def same(actual, expected):
    """Whether two results agree in structure, dtypes, shapes and every bit."""
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b, strict=True), actual, expected)


def test_paths_are_paths():
    """Connected, and with two neighbours at each pixel but the ends."""
    cross = ndimage.generate_binary_structure(2, 1).astype(int)
    for mask in (serpentine(31), spiral(33)):
        neighbours = ndimage.convolve(mask.astype(int), cross, mode="constant")[mask] - 1
        assert np.bincount(neighbours).tolist() == [0, 2, mask.sum() - 2]
        assert ndimage.label(mask)[1] == 1


@every_mask
def test_distances_are_those_of_scipy(mask):
    """With unit spacing, squares are exact integers."""
    distances = ops.distance_transform(mask, spatial_rank=mask.ndim)
    assert distances.dtype == jnp.float32
    if mask.all():
        np.testing.assert_array_equal(distances, np.full(mask.shape, np.inf))
        return
    nearest = ndimage.distance_transform_edt(mask, return_distances=False, return_indices=True)
    squared = ((nearest - np.indices(mask.shape)) ** 2).sum(0)
    np.testing.assert_array_equal(np.rint(np.float64(distances) ** 2), squared)
    np.testing.assert_array_equal(distances, np.sqrt(squared, dtype=np.float32))


@every_mask
def test_distances_with_spacing_are_those_of_scipy(mask):
    for spacing in SPACINGS[mask.ndim]:
        distances = ops.distance_transform(mask, spatial_rank=mask.ndim, spacing=spacing)
        if mask.all():
            np.testing.assert_array_equal(distances, np.full(mask.shape, np.inf))
            continue
        expected = ndimage.distance_transform_edt(mask, sampling=spacing)
        np.testing.assert_allclose(distances, expected, rtol=1e-6)


@pytest.mark.parametrize("platform", ["cpu", "default"])
def test_any_platform_finds_the_same(platform, monkeypatch):
    """What other platforms run, run here: the choice is made when compiled."""

    def choose(*args, **branches):
        return branches[platform](*args)

    rng = np.random.default_rng(0)
    mask = rng.random((3, 200, 190)) < 0.99
    expected = [ndimage.distance_transform_edt(x) for x in mask]
    monkeypatch.setattr(jax.lax, "platform_dependent", choose)
    jax.clear_caches()
    np.testing.assert_allclose(ops.distance_transform(mask), expected, rtol=1e-6)
    jax.clear_caches()


@pytest.mark.parametrize("spacing", [None, (3.0, 0.5)])
def test_wanted_distances_are_exact(spacing):
    """And what is not wanted may only be too large, however far the farthest pixel is."""
    rng = np.random.default_rng(0)
    mask = np.ones((3, 40, 60), bool)
    mask[0, rng.integers(0, 40, 5), rng.integers(0, 60, 5)] = False
    mask[1, 0, 0] = mask[2, :, 7] = False
    exact = ops.distance_transform(mask, spacing=spacing)
    for share in (0.0, 0.001, 0.02, 0.5, 1.0):
        where = rng.random(mask.shape) < share
        found = ops.distance_transform(mask, where=where, spacing=spacing)
        np.testing.assert_array_equal(found[where], exact[where])
        assert (found >= exact).all()
    near = np.zeros_like(mask)
    near[1, :2, :2] = True  # nothing far is wanted, so not even its own distance is found
    found = ops.distance_transform(mask, where=near, spacing=(1.0, 1.0))
    np.testing.assert_allclose(found[1, :2, :2], [[0, 1], [1, 2**0.5]], rtol=1e-6)
    assert np.isinf(found[1, -1, -1])


@pytest.mark.parametrize("shape", [(1, 4097), (4097, 1)])
def test_distances_are_exact_up_to_4096(shape):
    """The square is 2^24 at the far end."""
    mask = np.arange(4097).reshape(shape) > 0
    same(ops.distance_transform(mask), jnp.arange(4097, dtype=jnp.float32).reshape(shape))


def test_spacing_of_ones_is_the_default():
    spaced = functools.partial(ops.distance_transform, BATCH)
    same(spaced(spacing=(1.0, 1.0)), spaced())
    same(spaced(spacing=[1, 1]), spaced())
    same(spaced(spacing=np.ones(2)), spaced())


@every_mask
def test_components_are_those_of_scipy(mask):
    """With the same numbers, for every connectivity."""
    for connectivity in range(1, mask.ndim + 1):
        structure = ndimage.generate_binary_structure(mask.ndim, connectivity)
        expected, number = ndimage.label(mask, structure)
        labels, count = ops.connected_components(
            mask, spatial_rank=mask.ndim, connectivity=connectivity
        )
        assert labels.dtype == count.dtype == jnp.int32
        np.testing.assert_array_equal(labels, expected)
        assert count.shape == ()
        assert count == number


def test_faces_are_the_default():
    labels, count = ops.connected_components(np.eye(3, dtype=bool))
    assert labels.tolist() == [[1, 0, 0], [0, 2, 0], [0, 0, 3]]
    assert count == 3


@pytest.mark.parametrize("length", [2, 65, 1025])
def test_rounds_on_a_line_are_counted(length):
    """Each doubles what is flat, and one more sees that all is."""
    _, _, rounds = components._components(jnp.ones(length, bool), 1, 1)
    assert rounds == math.log2(length - 1) + 1


@pytest.mark.parametrize("connectivity", [1, 2])
def test_rounds_are_few_however_long_the_paths(connectivity):
    """A label that went from neighbour to neighbour would need one for each of 30 000 pixels."""
    path = serpentine(256)
    turned = [np.rot90(path, quarter) for quarter in range(4)]
    masks = [*turned, *(mask.T for mask in turned), spiral(257)[:256, :256]]
    masks += [noise((256, 256), density) for density in (0.4, 0.5, 0.6, 1.0)]
    assert path.sum() > 30_000
    for mask in masks:
        _, _, rounds = components._components(jnp.asarray(mask), 2, connectivity)
        assert rounds <= 2 * math.log2(mask.size)


@every_op
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_batch_is_its_images_one_by_one(op, rank):
    op = functools.partial(op, spatial_rank=rank)
    images = BATCH.reshape(-1, *BATCH.shape[3 - rank :])[:8]
    expected = jax.tree.map(lambda *results: jnp.stack(results), *map(op, images))
    same(op(images), expected)
    same(jax.vmap(op)(images), expected)
    nested = images.reshape(-1, 1, *images.shape[1:])
    same(op(nested), jax.tree.map(lambda result: result[:, None], expected))


@every_op
def test_jit_and_replicas_change_nothing(op):
    expected = op(BATCH)
    same(jax.jit(op)(BATCH), expected)
    replicas = jax.devices()[: len(BATCH)]
    mesh = jax.sharding.Mesh(np.array(replicas), ("replicas",))
    spec = jax.sharding.PartitionSpec("replicas")
    same(jax.jit(jax.shard_map(op, mesh=mesh, in_specs=spec, out_specs=spec))(BATCH), expected)
    same(jax.pmap(op, devices=replicas)(BATCH), expected)


@every_op
@pytest.mark.usefixtures("x64")
def test_dtypes_are_the_same_in_float64(op):
    dtypes = [result.dtype for result in jax.tree.leaves(op(BATCH))]
    assert dtypes in ([jnp.float32], [jnp.int32, jnp.int32])


@every_op
@pytest.mark.parametrize("shape", [(0, 4, 3), (2, 0, 3), (2, 3, 0)])
def test_no_pixels_are_no_error(op, shape):
    result, *count = jax.tree.leaves(op(np.ones(shape, bool)))
    assert result.shape == shape
    for zeros in count:
        same(zeros, jnp.zeros(shape[0], jnp.int32))


def test_masks_are_constants_to_gradients():
    """A gradient passes beside them, also where a distance is 0, but not through them."""

    def score(values):
        distances = ops.distance_transform(values > 0)
        labels, count = ops.connected_components(values > 0)
        return jnp.sum(values * (distances + labels)) + count

    values = jnp.asarray(np.random.default_rng(0).normal(size=(7, 8)), jnp.float32)
    expected = ndimage.distance_transform_edt(values > 0) + ndimage.label(values > 0)[0]
    np.testing.assert_allclose(jax.grad(score)(values), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(jax.grad(score))(values), expected, rtol=1e-6)


@every_op
def test_what_is_no_mask_is_refused(op):
    for dtype in (np.int32, np.float32):
        with pytest.raises(TypeError, match=re.escape(f"mask is {np.dtype(dtype)}[3, 4], but")):
            op(np.ones((3, 4), dtype))
    for rank, words in ((-1, "a Python integer"), (0, "at least 1"), (3, r"\[3, 4\].* in 1\.\.2")):
        with pytest.raises(ValueError, match=rf"spatial_rank is {rank}.* {words}"):
            op(np.ones((3, 4), bool), spatial_rank=rank)


@pytest.mark.parametrize(
    "spacing", [1.0, (1.0,), (1.0, 1.0, 1.0), (1.0, 0.0), (1.0, -1.0), (1.0, np.inf), (np.nan, 1.0)]
)
def test_spacing_is_a_positive_number_for_each_axis(spacing):
    message = re.escape(f"spacing is {spacing} for spatial_rank 2, but must be 2 positive numbers")
    with pytest.raises(ValueError, match=message):
        ops.distance_transform(np.ones((3, 4), bool), spacing=spacing)


@pytest.mark.parametrize("connectivity", [-1, 0, 3])
def test_connectivity_is_a_number_of_axes(connectivity):
    message = re.escape(f"connectivity is {connectivity} for spatial_rank 2, but must lie in 1..2")
    with pytest.raises(ValueError, match=message):
        ops.connected_components(np.ones((3, 4), bool), connectivity=connectivity)
