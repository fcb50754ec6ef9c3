"""Pooling, dense layers and rectified normalisation of models, with their derivatives."""

import contextlib
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType

from jaxseg import ops
from jaxseg.models.unet import BatchNorm, Block, Dense, UNet


def normal(seed, *shape, dtype=np.float64):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def derivatives(function, *args):
    """Of something that is not linear in the answers: reverse, and what follows from it."""

    def total(*args):
        return sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(function(*args)))

    directions = tuple(normal(9 + i, *x.shape, dtype=x.dtype) for i, x in enumerate(args))
    gradient = jax.grad(total, tuple(range(len(args))))

    def along(*args):
        return sum(jnp.vdot(a, b) for a, b in zip(gradient(*args), directions, strict=True))

    return {
        "answers": function(*args),
        "forward": jax.jvp(total, args, directions)[1],
        "reverse": gradient(*args),
        "forward over reverse": jax.jvp(gradient, args, directions)[1],
        "reverse over reverse": jax.grad(along, tuple(range(len(args))))(*args),
    }


def assert_same(found, expected, **tolerances):
    assert found.keys() == expected.keys()
    for name, x in found.items():
        chex.assert_trees_all_close(x, expected[name], **tolerances, custom_message=name)


def of_flax(x):
    window = (2,) * (x.ndim - 2)
    return nnx.max_pool(x, window, strides=window)


@pytest.mark.parametrize("shape", [(2, 6, 10, 3), (2, 4, 6, 2, 3), (1, 2, 2, 1), (0, 4, 4, 3)])
def test_max_pool_is_that_of_flax(shape):
    x = normal(0, *shape, dtype=np.float32)
    chex.assert_trees_all_equal(ops.max_pool(x), of_flax(x))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("shape", [(2, 6, 10, 3), (2, 4, 6, 2, 3)])
def test_derivatives_of_max_pool_are_those_of_flax(shape, ties):
    """With ties, too, which are many, as after ReLU: the first of them has it all."""
    x = normal(0, *shape)
    if ties:
        x = jnp.round(x)
        cells = x.reshape(2, shape[1] // 2, 2, shape[2] // 2, 2, -1)
        same = np.sum(cells == cells.max((2, 4), keepdims=True), (2, 4))
        assert len(np.unique(same)) == 4
    weights = normal(1, *of_flax(x).shape)
    found, expected = (
        jax.grad(lambda x, f=f: jnp.sum(weights * f(x)))(x) for f in (ops.max_pool, of_flax)
    )
    np.testing.assert_array_equal(found, expected)
    # Of a window flax has no second derivatives.
    direction = normal(2, *shape)
    hessian = jax.jvp(jax.grad(lambda x: jnp.sum(ops.max_pool(x) ** 3)), (x,), (direction,))[1]
    np.testing.assert_allclose(hessian, jnp.where(expected != 0, 6 * x * direction, 0), rtol=1e-12)
    along = jax.grad(
        lambda x: jnp.vdot(jax.grad(lambda x: jnp.sum(ops.max_pool(x) ** 3))(x), direction)
    )
    np.testing.assert_allclose(along(x), hessian, rtol=1e-12)
    _, tangent = jax.jvp(ops.max_pool, (x,), (direction,))
    np.testing.assert_allclose(jnp.vdot(tangent, weights), jnp.vdot(expected, direction))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_max_pool_keeps_the_dtype_and_what_is_not_finite(dtype):
    x = normal(0, 2, 4, 6, 3, dtype=dtype).at[0, 1, 2, 1].set(jnp.nan)
    x = x.at[1, :2, :2, 0].set(-jnp.inf)
    y = ops.max_pool(x)
    assert y.dtype == dtype
    assert np.argwhere(np.isnan(y)).tolist() == [[0, 0, 1, 1]]
    assert np.argwhere(np.isneginf(y)).tolist() == [[1, 0, 0, 0]]
    gradient = jax.grad(lambda x: jnp.sum(ops.max_pool(x).astype(jnp.float32)))(x)
    assert gradient.dtype == dtype
    assert gradient[1, :2, :2, 0].tolist() == [[1, 0], [0, 0]]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", [(4, 6, 5), (2, 3, 2, 4, 5), (7, 5)])
def test_normalize_relu_is_what_it_says_with_all_derivatives(shape):
    x, mean, bias = 3 + normal(0, *shape), normal(1, shape[-1]) + 3, normal(2, shape[-1])
    var, scale = 0.1 + normal(3, shape[-1]) ** 2, normal(4, shape[-1])

    def plain(x, *channels):
        mean, var, scale, bias = (v.reshape(*(1,) * (x.ndim - 1), -1) for v in channels)
        return jnp.maximum((x - mean) / jnp.sqrt(var + 1e-3) * scale + bias, 0)

    args = x, mean, var, scale, bias
    found = derivatives(lambda *args: ops.normalize_relu(*args, 1e-3), *args)
    positive = np.mean(found["answers"] > 0)
    assert 0.2 < positive < 0.8
    assert_same(found, derivatives(plain, *args), rtol=1e-9, atol=1e-9)


def test_what_is_zero_or_below_has_no_gradient():
    """As of ReLU, also where a channel is constant."""
    x = jnp.array([[1.0, 0.0, -1.0], [1.0, 0.0, -1.0]])
    zeros, ones = jnp.zeros(3), jnp.ones(3)
    gradient = jax.grad(lambda x: jnp.sum(ops.normalize_relu(x, zeros, ones, ones, zeros)))(x)
    np.testing.assert_allclose(gradient, [[1, 0, 0]] * 2, rtol=1e-4)


def product(x, kernel, bias):
    return jnp.tensordot(x, kernel, 1) + jnp.broadcast_to(bias, (*x.shape[:-1], len(bias)))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("mean", "digits"), [(0, 1e-6), (10, 1e-5), (100, 1e-4)])
def test_a_large_mean_costs_gradients_no_more_digits_than_it_says(mean, digits):
    x = mean + normal(0, 4096, 4, dtype=np.float32)
    cotangent = normal(1, 4096, 4, dtype=np.float32)
    wide = np.asarray(x, np.float64)
    moments = wide.mean(0), wide.var(0)

    def gradients(dtype):
        args = [jnp.asarray(v, dtype) for v in (x, *moments, np.ones(4), np.full(4, 0.1))]
        found, transposed = jax.vjp(ops.normalize_relu, *args)
        return transposed(cotangent.astype(found.dtype))

    for a, b in zip(gradients(jnp.float32), gradients(jnp.float64), strict=True):
        assert (a.dtype, b.dtype) == (jnp.float32, jnp.float64)
        np.testing.assert_allclose(a, b, atol=digits * np.max(np.abs(b)))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 2, 4, 5), (5,), (0, 3, 5), (2, 3, 0)])
def test_dense_is_a_product_with_all_derivatives(shape):
    args = normal(0, *shape), normal(1, shape[-1], 3), normal(2, 3)
    assert_same(derivatives(ops.dense, *args), derivatives(product, *args), rtol=1e-12, atol=1e-12)


def test_dense_transposes_no_gradient_on_a_cpu():
    """As XLA does if it is told of several axes of pixels, even though those lie side by side."""
    shapes = (2, 8, 16, 64), (64, 128), (128,), (2, 8, 16, 128)
    *args, weights = (normal(0, *shape, dtype=np.float32) for shape in shapes)

    def transposes(function):
        gradient = jax.jit(lambda y, *args: jax.vjp(function, *args)[1](y)[1:])
        return gradient.lower(weights, *args).compile().as_text().count(" copy(")

    assert transposes(product) > 0
    assert transposes(ops.dense) == 0


def test_the_gradient_of_a_bias_is_a_sum_along_one_axis_on_a_cpu():
    shapes = (2, 8, 16, 6), (6, 4), (4,), (2, 8, 16, 4)
    *args, weights = (normal(0, *shape, dtype=np.float32) for shape in shapes)

    def sums(function):
        gradient = jax.jit(lambda y, *args: jax.vjp(function, *args)[1](y)[2])
        text = gradient.lower(weights, *args).as_text()
        return re.findall(r"across dimensions = \[([\d, ]*)\]", text)

    assert set(sums(product)) == {"0, 1, 2"}
    assert set(sums(ops.dense)) == {"0"}


@pytest.mark.parametrize("context", [False, True])
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_dense_leaves_pixels_as_xla_splits_them(kind, context):
    """As they lie, or as a mesh of the context says: devices gather nothing."""
    mesh = jax.make_mesh((2,), ("devices",), (kind,), devices=jax.devices()[:2])
    x, kernel, bias = (normal(0, *s, dtype=np.float32) for s in ((2, 4, 6, 5), (5, 3), (3,)))
    expected = np.asarray(product(x, kernel, bias))
    rows = jax.sharding.PartitionSpec(None, "devices")
    x = jax.device_put(x, jax.sharding.NamedSharding(mesh, rows))

    def run(x, *others):
        y, transposed = jax.vjp(ops.dense, x, *others)
        return y, *(transposed(y) if kind == AxisType.Auto else ())

    # Gradients have shardings of their own where those are explicit.
    with jax.set_mesh(mesh) if context else contextlib.nullcontext():
        compiled = jax.jit(run).lower(x, kernel, bias).compile()
    assert not re.search("all-gather|all-to-all|collective-permute", compiled.as_text())
    np.testing.assert_allclose(compiled(x, kernel, bias)[0], expected, rtol=1e-5, atol=1e-6)


def test_the_unet_has_dense_layers_of_ours(monkeypatch):
    """Those of upsampling and of logits."""
    calls, dense = [], ops.dense
    monkeypatch.setattr(ops, "dense", lambda x, *others: calls.append(x.shape) or dense(x, *others))
    model = UNet(3, 2, widths=(4, 8), rngs=nnx.Rngs(0))
    model(jnp.zeros((1, 8, 8, 3)), train=False)
    assert calls == [(1, 4, 4, 8), (1, 8, 8, 4)]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("param_dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("dtype", [None, jnp.bfloat16, jnp.float32, jnp.float64])
def test_the_dense_layer_is_that_of_flax(dtype, param_dtype):
    options = {"dtype": dtype, "param_dtype": param_dtype}
    ours, flax = (kind(5, 3, **options, rngs=nnx.Rngs(0)) for kind in (Dense, nnx.Linear))
    chex.assert_trees_all_equal(*map(nnx.state, (ours, flax)))
    for x in (normal(0, 2, 4, 6, 5), normal(0, 2, 4, 6, 5, dtype=np.float32)):
        found, expected = ours(x), flax(x)
        assert found.dtype == expected.dtype
        rtol = 1e-2 if dtype == jnp.bfloat16 else 1e-5
        np.testing.assert_allclose(
            found.astype(np.float64), expected.astype(np.float64), rtol=rtol, atol=rtol
        )


def drawn(layer):
    """With other parameters and statistics than the first ones."""
    for i, name in enumerate(("scale", "bias", "mean", "var")):
        variable = getattr(layer, name)
        values = normal(i, *variable.shape, dtype=variable.dtype)
        variable[...] = 0.1 + values**2 if name == "var" else values


@pytest.mark.usefixtures("x64")
def test_batch_norm_is_that_of_flax_with_its_statistics():
    """By the moments of the batch, whose gradients it has, and by the running ones."""
    options = {"momentum": 0.9, "dtype": jnp.float64, "param_dtype": jnp.float64}
    ours, flax = (kind(5, **options, rngs=nnx.Rngs(0)) for kind in (BatchNorm, nnx.BatchNorm))
    for layer in (ours, flax):
        layer.mean, layer.var = nnx.BatchStat(jnp.zeros(5)), nnx.BatchStat(jnp.ones(5))
        drawn(layer)
    x = 2 + normal(0, 3, 4, 6, 5)

    def answers(layer, call):
        graphdef, params, stats = nnx.split(layer, nnx.Param, nnx.BatchStat)

        def function(params, x):
            layer = nnx.merge(graphdef, params, stats, copy=True)
            y = call(layer, x)
            return y, nnx.state(layer, nnx.BatchStat)

        def loss(params, x):
            y, _ = function(params, x)
            return jnp.sum(jnp.sin(y))

        return function(params, x), jax.grad(loss, (0, 1))(params, x)

    found = answers(ours, BatchNorm.rectified)
    expected = answers(flax, lambda layer, x: nnx.relu(layer(x)))
    chex.assert_trees_all_close(
        *(jax.tree.leaves(x) for x in (found, expected)), rtol=1e-9, atol=1e-9
    )
    kernel, bias = ours.folded(normal(5, 3, 3, 2, 5))
    before = normal(6, 3, 4, 6, 2)
    found = ops.convolve(before, kernel) + bias
    expected = flax(ops.convolve(before, normal(5, 3, 3, 2, 5)), use_running_average=True)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("param_dtype", [jnp.float32, jnp.float64])
def test_blocks_are_those_of_flax(train, param_dtype):
    """Also of float64 with parameters of float32, and far from zero."""
    options = {"dtype": jnp.float64, "param_dtype": param_dtype, "axis_name": None}
    block = Block(2, 5, spatial_rank=2, norm="batch", rngs=nnx.Rngs(0), **options)
    drawn(block.norm0)
    drawn(block.norm1)
    x = expected = 1000 + normal(0, 3, 4, 6, 2)
    graphdef, state = nnx.split(block)
    flax = nnx.merge(graphdef, jax.tree.map(lambda x: x.astype(jnp.float64), state), copy=True)
    for conv, norm in ((flax.conv0, flax.norm0), (flax.conv1, flax.norm1)):
        expected = nnx.relu(norm(conv(expected), use_running_average=not train))
    found = block(x, train=train)
    assert found.dtype == jnp.float64
    assert 0.1 < np.mean(found > 0) < 0.9
    np.testing.assert_allclose(found, expected, rtol=1e-4 if param_dtype == jnp.float32 else 1e-8)
    stats = (nnx.state(x, nnx.BatchStat) for x in (block, flax))
    chex.assert_trees_all_close(*map(jax.tree.leaves, stats), rtol=1e-5)
    assert block.norm0.mean.dtype == param_dtype


def test_integers_are_normalised_as_what_they_are():
    x, ones = jnp.arange(6).reshape(3, 2), jnp.ones(2)
    found = jax.grad(lambda mean: jnp.sum(ops.normalize_relu(x, mean, ones, ones, ones)))(ones)
    np.testing.assert_allclose(found, [-3, -3], rtol=1e-4)


def test_bfloat16_rounds_answers_once():
    """Neither moments nor parameters: what comes out is what float64 has, rounded at last."""
    layer = BatchNorm(64, momentum=0.9, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    drawn(layer)
    scale, bias, mean, var = (
        np.float64(getattr(layer, name)[...]) for name in ("scale", "bias", "mean", "var")
    )
    kernel = normal(5, 3, 3, 16, 64, dtype=np.float32)
    folded = (
        np.float64(kernel) * scale / np.sqrt(var + 1e-5),
        bias - mean * scale / np.sqrt(var + 1e-5),
    )
    x = 1 + normal(6, 4, 16, 16, 64, dtype=jnp.bfloat16)
    inputs = np.float64(x)
    normalised = (inputs - inputs.mean((0, 1, 2))) / np.sqrt(inputs.var((0, 1, 2)) + 1e-5)
    found = *layer.folded(kernel), layer.rectified(x)
    for y, exact in zip(found, (*folded, np.maximum(normalised * scale + bias, 0)), strict=True):
        assert y.dtype == jnp.bfloat16
        once = np.broadcast_to(exact, y.shape).astype(jnp.bfloat16)
        assert np.mean(np.asarray(y) != once) < 0.01


@pytest.mark.parametrize("shape", [(2, 5, 4, 3), (2, 4, 5, 3), (2, 4, 4, 3, 3), (4, 4)])
def test_what_has_no_cells_is_a_line(shape):
    with pytest.raises(
        ValueError, match=r"^x is \[.*\], but must be \[batch, sides, channels\], wi"
    ):
        ops.max_pool(np.zeros(shape))


@pytest.mark.parametrize(("shape", "channels"), [((2, 4, 5), (4,)), ((2, 5), (1,)), ((), ())])
def test_other_channels_are_a_line(shape, channels):
    with pytest.raises(
        ValueError, match=r"^x is \[.*\], and mean, var, scale and bias are .*, but"
    ):
        ops.normalize_relu(np.zeros(shape), *[np.ones(channels)] * 4)


@pytest.mark.parametrize(
    ("shape", "kernel", "bias"),
    [
        ((2, 4, 5), (4, 5), (5,)),
        ((5,), (5,), ()),
        ((), (1, 1), (1,)),
        ((5,), (1, 5, 3), (3,)),
        ((2, 5), (5, 3), (1, 3)),
        ((2, 5), (5, 3), (1,)),
    ],
)
def test_a_kernel_or_bias_that_does_not_fit_is_a_line(shape, kernel, bias):
    with pytest.raises(ValueError, match=r"^x is \[.*\], the kernel is \[.*\] and the bias is"):
        ops.dense(np.zeros(shape), np.zeros(kernel), np.zeros(bias))
