"""The convolution of models: that of lax, with its derivatives, in whichever way it is computed."""

import math
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from jaxseg import models, ops
from jaxseg.ops import convolution

NUMBERS = {2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}


def by_lax(images, kernel):
    rank = images.ndim - 2
    return jax.lax.conv_general_dilated(
        images, kernel, (1,) * rank, "SAME", dimension_numbers=NUMBERS[rank]
    )


def normal(seed, *shape, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def pair(shape, after, dtype=np.float32):
    """Images and a kernel, by which the answers have about a variance of 1."""
    sides, before = len(shape) - 2, shape[-1]
    kernel = normal(1, *(3,) * sides, before, after, dtype=dtype)
    return normal(0, *shape, dtype=dtype), kernel / dtype(math.sqrt(before * 3**sides))


def with_gradients(function, images, kernel):
    weights = normal(2, *images.shape[:-1], kernel.shape[-1], dtype=images.dtype.type)

    def total(images, kernel):
        found = function(images, kernel)
        return jnp.sum(weights * found), found

    return jax.jit(jax.grad(total, (0, 1), has_aux=True))(images, kernel)


def convolutions(images, kernel, platform="cpu", function=ops.convolve):
    """Those of lax in the program that is lowered for the platform, and the products."""
    jax.clear_caches()  # that have programs of before a patch
    traced = jax.jit(function).trace(images, kernel)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    return text.count("stablehlo.convolution"), text.count("stablehlo.dot_general")


@pytest.mark.parametrize(
    ("shape", "after"),
    [
        ((2, 8, 12, 64), 64),
        ((1, 16, 8, 128), 64),
        ((3, 6, 8, 65), 128),
        ((2, 8, 8, 128), 128),
        ((1, 2, 64, 192), 129),
        ((1, 64, 2, 128), 130),
    ],
)
def test_tiles_are_as_accurate_as_lax_and_so_are_their_gradients(shape, after):
    """Compared with float64."""
    images, kernel = pair(shape, after)
    assert convolutions(images, kernel) == (0, 4)
    gradient = jax.grad(lambda *x: jnp.sum(ops.convolve(*x)), (0, 1))
    assert convolutions(images, kernel, function=gradient) == (0, 8)
    ours, theirs = (with_gradients(f, images, kernel) for f in (ops.convolve, by_lax))
    with jax.enable_x64(True) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64():
        exact = with_gradients(by_lax, *(x.astype(np.float64) for x in (images, kernel)))
        exact = jax.device_get(exact)

    def errors(found):
        return [
            np.sqrt(np.mean((np.float64(x) - y) ** 2)) / np.std(y)
            for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True)
        ]

    assert max(errors(ours)) < 1e-6
    for mine, other in zip(errors(ours), errors(theirs), strict=True):
        assert mine < 4 * other


@pytest.mark.parametrize("seed", range(3))
def test_small_integers_are_convolved_exactly(seed):
    """As are halves of sums of them, so that nothing is rounded, nor in either gradient."""
    draw = np.random.default_rng(seed)
    images = draw.integers(-4, 5, (2, 8, 10, 128)).astype(np.float32)
    kernel = draw.integers(-4, 5, (3, 3, 128, 128)).astype(np.float32)
    weights = draw.integers(-4, 5, (2, 8, 10, 128)).astype(np.float32)

    def of(function):
        answers, transposed = jax.vjp(function, images, kernel)
        return answers, *transposed(weights)

    chex.assert_trees_all_equal(of(ops.convolve), of(by_lax))


@pytest.mark.parametrize(
    ("shape", "after", "dtype"),
    [
        ((2, 8, 8, 63), 64, np.float32),
        ((2, 8, 8, 64), 63, np.float32),
        ((2, 7, 10, 64), 64, np.float32),
        ((2, 10, 7, 64), 64, np.float32),
        ((1, 8, 14, 64), 64, np.float32),
        ((2, 1, 1, 128), 128, np.float32),
        ((2, 8, 8, 64), 64, jnp.bfloat16),
    ],
)
def test_where_tiles_would_not_pay_or_not_fit_it_is_that_of_lax(shape, after, dtype):
    images, kernel = (jnp.asarray(x, dtype) for x in pair(shape, after))
    assert convolutions(images, kernel) == (1, 0)
    chex.assert_trees_all_equal(ops.convolve(images, kernel), by_lax(images, kernel))


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("devices", [1, 2])
def test_where_xla_splits_the_work_it_is_that_of_lax(devices, kind):
    """As a mesh of the context says, but within `jax.shard_map` there: it is for one device.

    Gradients that lax has not where shardings are explicit are left out.
    """
    images, kernel = pair((4, 8, 8, 64), 64)
    mesh = jax.make_mesh((devices,), ("devices",), (kind,), devices=jax.devices()[:devices])
    rows = jax.sharding.PartitionSpec("devices")
    of = with_gradients if kind == AxisType.Auto else lambda function, *x: jax.jit(function)(*x)
    expected = of(by_lax, images, kernel)
    with jax.set_mesh(mesh):
        split = jax.device_put(images, jax.sharding.NamedSharding(mesh, rows))
        assert convolutions(split, kernel) == (1, 0)
        found = of(ops.convolve, split, kernel)
        specs = rows, jax.sharding.PartitionSpec()
        mapped = jax.shard_map(ops.convolve, in_specs=specs, out_specs=rows)
        assert convolutions(split, kernel, function=mapped) == (0, 4)
    chex.assert_trees_all_close(*jax.device_get((found, expected)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(2, 8, 8, 128), (2, 3, 8, 8, 64), (1, 2, 3, 4, 5)])
def test_elsewhere_it_is_that_of_lax(shape, monkeypatch):
    """In programs for a GPU that a CPU makes, and where there is one, with a forward mode."""
    images, kernel = pair(shape, 128)
    assert convolutions(images, kernel, "cuda") == (1, 0)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert convolutions(images, kernel) == (1, 0)
    _, found = jax.jvp(ops.convolve, (images, kernel), (images, kernel))
    np.testing.assert_allclose(found, 2 * by_lax(images, kernel), rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", [(2, 3, 4, 5, 3), (1, 1, 2, 2, 1), (2, 4, 5, 3)])
def test_in_float64_it_is_that_of_lax_with_its_gradients(shape):
    """Volumes by images, whose channels are those of three slices."""
    both = pair(shape, 2, np.float64)
    found, expected = (with_gradients(f, *both) for f in (ops.convolve, by_lax))
    chex.assert_trees_all_close(found, expected, rtol=1e-10, atol=1e-11)


def test_volumes_are_convolved_as_images_on_a_cpu_alone():
    traced = jax.jit(ops.convolve).trace(*pair((2, 3, 4, 5, 3), 2))
    for platform, axes in (("cpu", "[b, 0, 1, f]"), ("cuda", "[b, 0, 1, 2, f]")):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert [text.count(f"dim_numbers = {x}") for x in (axes, "[")] == [1, 1], platform


def test_volumes_of_many_channels_are_taken_in_tiles():
    both = pair((1, 4, 8, 8, 32), 64)
    assert convolutions(*both) == (0, 4)
    found, expected = (with_gradients(f, *both) for f in (ops.convolve, by_lax))
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "after"),
    [((1, 8, 16, 64), 64), ((1, 8, 16, 64), 96), ((2, 64, 64, 8), 64), ((2, 64, 64, 64), 8)],
)
def test_second_derivatives_are_those_of_lax(shape, after):
    """Forward over reverse, and reverse over reverse, of something that is not linear."""
    images, kernel = pair(shape, after)
    directions = normal(3, *images.shape), normal(4, *kernel.shape) / 30

    def of(function):
        gradient = jax.grad(lambda *x: jnp.mean(jnp.sin(function(*x))), (0, 1))

        def along(*x):
            return sum(jnp.vdot(a, b) for a, b in zip(gradient(*x), directions, strict=True))

        forward = jax.jvp(gradient, (images, kernel), directions)[1]
        return forward, jax.grad(along, (0, 1))(images, kernel)

    (forward, reverse), expected = of(ops.convolve), of(by_lax)
    scale = max(float(jnp.max(jnp.abs(x))) for x in jax.tree.leaves(expected))
    chex.assert_trees_all_close((forward, reverse), expected, rtol=1e-4, atol=1e-6 * scale)
    chex.assert_trees_all_close(forward, reverse, rtol=1e-4, atol=1e-6 * scale)


@pytest.mark.parametrize("shape", [(2, 8, 8, 128), (1, 64, 64, 16)])
@pytest.mark.parametrize("in_axes", [(0, 0), (0, None), (None, 0)])
def test_it_can_be_mapped_with_its_gradients(in_axes, shape):
    """In tiles and in pieces; by a kernel for all without convolutions in groups."""
    images, kernel = pair(shape, 128)
    both = [
        x if axis is None else np.stack([x, 2 * x, -x])
        for x, axis in zip((images, kernel), in_axes, strict=True)
    ]

    def of(function):
        def total(*x):
            found = function(*x)
            return jnp.mean(jnp.sin(found)), found

        text = jax.jit(jax.vmap(function, in_axes)).lower(*both).as_text()
        groups = set(re.findall(r"feature_group_count = (\d+)", text))
        assert in_axes != (0, None) or groups <= {"1"}
        return jax.jit(jax.vmap(jax.grad(total, (0, 1), has_aux=True), in_axes))(*both)

    for found, expected in zip(
        jax.tree.leaves(of(ops.convolve)), jax.tree.leaves(of(by_lax)), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.max(np.abs(expected)))


@pytest.mark.parametrize(
    ("shape", "after", "groups", "bands"),
    [
        ((2, 64, 64, 8), 64, 2, 2),
        ((1, 101, 130, 16), 48, 1, 4),
        ((2, 101, 130, 16), 48, 2, 4),
        ((2, 64, 65, 64), 64, 2, 2),
        ((3, 64, 64, 8), 64, 3, 2),
        ((3, 56, 56, 32), 64, 3, 1),
        ((5, 64, 64, 8), 64, 5, 2),
        ((21, 32, 32, 8), 64, 10, 1),
        ((40, 32, 32, 8), 64, 16, 1),
        ((1, 17, 2048, 8), 32, 1, 4),
        ((1, 15, 4096, 8), 32, 1, 3),
        ((4, 3, 2048, 8), 32, 4, 1),
        ((2, 63, 63, 128), 128, 2, 4),
        ((12, 15, 17, 176), 176, 1, 1),
        ((24, 15, 17, 176), 176, 7, 1),
        ((1, 512, 512, 2), 32, 1, 16),
        ((1, 2, 64, 64, 16), 64, 2, 2),
        ((1, 8, 64, 64, 4), 64, 8, 2),
        ((2, 63, 64, 8), 64, 1, 1),
        ((2, 64, 64, 64), 8, 2, 2),
        ((2, 101, 130, 48), 16, 2, 4),
        ((3, 64, 64, 128), 63, 3, 4),
        ((5, 64, 64, 31), 31, 1, 4),
        ((4, 64, 64, 32), 31, 4, 1),
    ],
)
def test_gradients_of_kernels_are_sums_of_those_of_pieces(shape, after, groups, bands):
    """Of large images, odd ones, too, and slices of volumes. Of integers nothing is rounded.

    Either has more channels; XLA is always told of those as the last.
    """
    draw = np.random.default_rng(0)
    images, gradient, kernel = (
        draw.integers(-4, 5, x).astype(np.float32)
        for x in (shape, (*shape[:-1], after), (*(3,) * (len(shape) - 2), shape[-1], after))
    )

    def of_kernel(images, kernel, gradient):
        return jax.vjp(lambda kernel: ops.convolve(images, kernel), kernel)[1](gradient)

    program = jax.jit(of_kernel)
    text = program.trace(images, kernel, gradient).lower().as_text()
    # The images of a piece, its rows with those around, and the channels of the kernel.
    operands = r"\(tensor<(\d+)x(\d+)x\d+x\d+xf32>, \S+\) -> tensor<3x3x(\d+)x(\d+)xf32>"
    found = [[int(n) for n in x] for x in re.findall(rf"stablehlo.convolution.*: {operands}", text)]
    assert len(found) == groups * bands
    slices = math.prod(shape[:-3])
    if groups * bands > 1:
        sizes, rows, few, many = map(set, zip(*found, strict=True))
        assert sizes <= {slices // groups, -(-slices // groups)}
        assert max(rows) <= -(-shape[-3] // bands) + 2
        assert max(few) <= min(many)
    (expected,) = jax.vjp(lambda kernel: by_lax(images, kernel), kernel)[1](gradient)
    np.testing.assert_array_equal(program(images, kernel, gradient)[0], expected)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_images_that_lie_on_several_devices_are_in_no_pieces(kind):
    """Without a mesh of the context, too: devices would exchange what they slice."""
    mesh = jax.make_mesh((2,), ("devices",), (kind,), devices=jax.devices()[:2])
    images, kernel = pair((4, 64, 64, 8), 64)
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("devices"))
    split = jax.device_put(images, rows)

    def direction(images, kernel):
        found, transposed = jax.vjp(lambda kernel: ops.convolve(images, kernel), kernel)
        # lax has no gradients where shardings are explicit.
        return found if kind == AxisType.Explicit else transposed(found)[0]

    lowered = jax.jit(direction).lower(split, kernel)
    assert lowered.as_text().count("stablehlo.convolution") == 1 + (kind == AxisType.Auto)
    compiled = lowered.compile()
    assert not re.search("all-gather|all-to-all|collective-permute", compiled.as_text())
    found = by_lax(images, kernel)
    if kind == AxisType.Auto:
        (found,) = jax.vjp(lambda kernel: by_lax(images, kernel), kernel)[1](found)
    atol = 1e-5 * np.max(np.abs(found))
    np.testing.assert_allclose(compiled(split, kernel), found, rtol=1e-7, atol=atol)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_a_mapped_axis_that_is_called_as_one_of_the_mesh_is_none_of_it(kind):
    """`jax.vmap` leaves the work to XLA, whatever its axis is called."""
    mesh = jax.make_mesh((2,), ("devices",), (kind,), devices=jax.devices()[:2])
    images, kernel = pair((2, 8, 8, 64), 64)
    images = np.stack([images, -images])
    function = jax.vmap(lambda x: ops.convolve(x, kernel), axis_name="devices")
    with jax.set_mesh(mesh):
        split = jax.device_put(
            images, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("devices"))
        )
        text = jax.jit(function).trace(split).lower().as_text()
    assert text.count("stablehlo.convolution") == 1
    assert "stablehlo.dot_general" not in text


@pytest.mark.parametrize("shape", [(2, 8, 8, 64), (2, 64, 64, 8)])
def test_there_is_forward_mode_but_for_tiles_and_pieces(shape):
    both = pair(shape, 64)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(ops.convolve, both, both)
    few = pair((2, 8, 8, 32), 64)
    _, found = jax.jvp(ops.convolve, few, few)
    np.testing.assert_allclose(found, 2 * by_lax(*few), atol=1e-5)


@pytest.mark.parametrize("shape", [(0, 4, 4, 3), (0, 2, 4, 4, 3), (0, 8, 8, 64), (0, 2, 8, 8, 64)])
def test_of_no_images_there_are_no_answers(shape):
    images, kernel = pair(shape, 64)
    assert ops.convolve(images, kernel).shape == (*shape[:-1], 64)


@pytest.mark.parametrize("shared", ["kernel", "images"])
@pytest.mark.parametrize(
    ("shape", "after"), [((2, 8, 16, 64), 64), ((2, 8, 16, 64), 96), ((2, 64, 64, 64), 16)]
)
@pytest.mark.parametrize("check_vma", [True, False])
def test_replicas_get_the_gradients_that_lax_has_there(check_vma, shape, after, shared):
    """Also of what they share, while the other is one for each."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("replicas",))
    spec = jax.sharding.PartitionSpec
    images, kernel = pair(shape, after)
    assert convolutions(images, kernel) == ((1, 0) if after == 16 else (0, 4))
    if shared == "kernel":
        images, specs = np.stack([images, 2 * images]), (spec("replicas"), spec())
    else:
        kernel, specs = np.stack([kernel, 2 * kernel]), (spec(), spec("replicas"))

    def of(function):
        def loss(images, kernel):
            images, kernel = (images[0], kernel) if shared == "kernel" else (images, kernel[0])
            return jax.lax.pmean(jnp.mean(jnp.sin(function(images, kernel))), "replicas")

        mapped = jax.shard_map(
            jax.grad(loss, (0, 1)),
            mesh=mesh,
            in_specs=specs,
            out_specs=specs,
            check_vma=check_vma,
        )
        program = jax.jit(mapped)
        text = program.lower(images, kernel).as_text()
        return program(images, kernel), text.count("stablehlo.convolution")

    (ours, mine), (theirs, others) = of(ops.convolve), of(by_lax)
    assert mine != others  # tiles have fewer and pieces more
    for found, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.max(np.abs(expected)))


@pytest.mark.parametrize("spoiler", [np.nan, np.inf, -np.inf])
def test_an_image_is_the_same_in_a_batch_and_pixels_stay_apart(spoiler):
    """To rounding; what is not finite spoils the pixels that it does by lax."""
    images, kernel = pair((4, 8, 8, 64), 64)
    found = ops.convolve(images, kernel)
    np.testing.assert_allclose(found[:2], ops.convolve(images[:2], kernel), atol=1e-5)
    for row, column in ((0, 0), (3, 4), (4, 3), (7, 7)):
        spoilt = images.copy()
        spoilt[1, row, column, 5] = spoiler
        finite = np.isfinite(ops.convolve(spoilt, kernel))
        np.testing.assert_array_equal(finite, np.isfinite(by_lax(spoilt, kernel)))
        assert finite[[0, 2, 3]].all()
        assert not finite[1, row, column].any()


@pytest.mark.parametrize("remat", [False, True])
def test_the_unet_learns_from_tiles_what_it_does_without(remat, monkeypatch):
    images = normal(0, 2, 32, 48, 3)

    def gradients():
        jax.clear_caches()
        init, apply = models.to_functional(
            lambda rngs: models.UNet(3, 2, widths=(64, 128), remat=remat, rngs=rngs)
        )
        params, stats = init(jax.random.key(0))

        def loss(params):
            logits, _ = apply(params, stats, images, train=True)
            return jnp.mean(logits**2)

        program = jax.jit(jax.grad(loss))
        return program(params), program.lower(params).as_text().count("stablehlo.convolution")

    found, few = gradients()
    monkeypatch.setattr(convolution, "_CHANNELS", 1000)
    expected, many = gradients()
    assert (few, many) == ((3, 23) if remat else (2, 17))
    for path, x in jax.tree_util.tree_leaves_with_path(expected):
        (y,) = (v for p, v in jax.tree_util.tree_leaves_with_path(found) if p == path)
        np.testing.assert_allclose(y, x, atol=1e-4 * np.max(np.abs(x)), err_msg=str(path))


@pytest.mark.parametrize(
    ("images", "kernel"),
    [
        ((8, 8, 3), (3, 3, 3, 4)),
        ((1, 8, 8, 3), (3, 3, 4, 4)),
        ((1, 8, 8, 3), (5, 5, 3, 4)),
        ((1, 8, 8, 3), (3, 3, 3, 3, 4)),
        ((1, 4, 8, 8, 3), (3, 3, 3, 4)),
    ],
)
def test_other_shapes_are_a_line(images, kernel):
    with pytest.raises(ValueError, match=r"^images are \[.*\] and the kernel is \[.*, but must be"):
        ops.convolve(np.zeros(images), np.zeros(kernel))
