"""The U-Net and its functional form, against plain numpy and against itself."""

import itertools
import os
import pathlib
import re
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import special

import jaxseg
from jaxseg import losses
from jaxseg.models import UNet, to_functional

ROOT = pathlib.Path(jaxseg.__file__).parents[1]


FLOAT64 = {"dtype": jnp.float64, "param_dtype": jnp.float64}


def make(channels=3, classes=4, **options):
    options = {"widths": (4, 6, 8)} | options
    return to_functional(lambda rngs: UNet(channels, classes, rngs=rngs, **options))


def random_images(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def random_state(init, dtype=np.float32, seed=0):
    """Parameters and statistics in the structure of `init`, quicker than its compilation."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        kind = path[-1].key
        if kind == "kernel":
            values = rng.normal(0, np.sqrt(2 / np.prod(leaf.shape[:-1])), leaf.shape)
        elif kind in ("scale", "var"):
            values = rng.uniform(0.5, 1.5, leaf.shape)
        else:
            values = rng.normal(0, 0.3, leaf.shape)
        return values.astype(dtype)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(init, jax.random.key(0)))


def run(apply, train):
    return jax.jit(lambda *state_and_images: apply(*state_and_images, train=train))


class Reference:
    """The U-Net in numpy, from the same parameters: loops and einsum, no convolution of jax."""

    def __init__(self, params, batch_stats=None):
        self.params, self.stats = params, batch_stats

    def __call__(self, images):
        levels = sum(name.startswith("down") for name in self.params)
        skips, x = [], images
        for level in range(levels):
            x = self.block(f"down{level}", x if level == 0 else self.pool(x))
            skips.append(x)
        for level in reversed(range(levels - 1)):
            x = np.concatenate([skips[level], self.up(f"up{level}", x)], -1)
            x = self.block(f"decode{level}", x)
        return x @ self.params["head"]["kernel"] + self.params["head"]["bias"]

    def block(self, name, x):
        for i in range(2):
            x = self.conv(x, self.params[name][f"conv{i}"]["kernel"])
            x = np.maximum(self.norm(name, f"norm{i}", x), 0)
        return x

    @staticmethod
    def conv(x, kernel):
        """Each output is the sum over its neighbours, with zeros outside the image."""
        size = x.shape[1:-1]
        padded = np.pad(x, ((0, 0), *((1, 1),) * len(size), (0, 0)))
        return sum(
            padded[:, *(slice(i, i + side) for i, side in zip(at, size, strict=True))] @ kernel[at]
            for at in itertools.product(range(3), repeat=len(size))
        )

    def norm(self, block, name, x):
        params = self.params[block][name]
        if self.stats:
            mean, var = (self.stats[block][name][key] for key in ("mean", "var"))
            x = (x - mean) / np.sqrt(var + 1e-5)
        else:
            groups = {4: 4, 6: 6, 8: 8, 12: 6, 13: 1}[x.shape[-1]]
            grouped = x.reshape(*x.shape[:-1], groups, -1)
            axes = (*range(1, x.ndim - 1), x.ndim)
            mean, var = (f(grouped, axes, keepdims=True) for f in (np.mean, np.var))
            x = ((grouped - mean) / np.sqrt(var + 1e-6)).reshape(x.shape)
        return x * params["scale"] + params["bias"]

    @staticmethod
    def pool(x):
        batch, *size, channels = x.shape
        cells = x.reshape(batch, *(n for side in size for n in (side // 2, 2)), channels)
        return cells.max(tuple(range(2, cells.ndim - 1, 2)))

    def up(self, name, x):
        dense = self.params[name]["dense"]
        x = x @ dense["kernel"] + dense["bias"]
        batch, *size, channels = x.shape
        channels //= 2 ** len(size)
        out = np.zeros((batch, *(2 * side for side in size), channels))
        for cell, at in enumerate(itertools.product(range(2), repeat=len(size))):
            pixels = (slice(i, None, 2) for i in at)
            out[:, *pixels] = x[..., cell * channels : (cell + 1) * channels]
        return out


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("norm", "widths"), [("batch", (4, 6, 8)), ("group", (4, 6, 8)), ("group", (13, 12))]
)
def test_divisible_sizes_equal_the_reference(norm, widths):
    """Without a need for padding there is none: the network is that of numpy, in float64."""
    init, apply = make(norm=norm, widths=widths, **FLOAT64)
    state, images = random_state(init, np.float64), random_images(2, 4, 12, 3)
    logits, _ = run(apply, train=False)(*state, images)
    expected = Reference(*state)(images)
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(logits, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("norm", "size"), [("batch", (2, 4, 6)), ("group", (3, 1, 5))])
def test_volumes_equal_the_reference(norm, size):
    """Also those that have to be padded, to whole cells of 2x2x2, and cropped."""
    init, apply = make(2, norm=norm, widths=(4, 6), spatial_rank=3, **FLOAT64)
    state, images = random_state(init, np.float64), random_images(2, *size, 2)
    assert state[0]["up0"]["dense"]["kernel"].shape == (6, 8 * 4)
    logits, _ = run(apply, train=False)(*state, images)
    padded = np.pad(images, [(0, 0), *((0, side % 2) for side in size), (0, 0)], mode="edge")
    expected = Reference(*state)(padded)[:, *map(slice, size)]
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(logits, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("size", [(1, 1), (3, 9), (5, 8)])
def test_other_sizes_are_padded_by_their_border_and_cropped(size):
    """To whole cells of 4x4, below and to the right."""
    init, apply = make(**FLOAT64)
    state, images = random_state(init, np.float64), random_images(2, *size, 3)
    logits, _ = run(apply, train=False)(*state, images)
    padding = [(0, 0), *((0, -side % 4) for side in size), (0, 0)]
    padded = np.pad(images, padding, mode="edge")
    expected = Reference(*state)(padded)[:, : size[0], : size[1]]
    np.testing.assert_allclose(logits, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(
    ("size", "channels"),
    [
        *(((1, 1), 1), ((1, 40), 2), ((2, 3), 3), ((16, 16), 4)),
        *(((33, 31), 5), ((97, 131), 3), ((250, 256), 1), ((1, 17, 32), 2), ((35, 51, 35), 1)),
    ],
)
def test_shapes(size, channels, train):
    """One logit for each class and pixel, for any size and number of channels."""
    init, apply = make(channels, 5, widths=(4, 4, 8, 8, 8), spatial_rank=len(size))
    state = jax.eval_shape(init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((2, *size, channels), jnp.float32)
    logits, _ = jax.eval_shape(run(apply, train), *state, images)
    assert logits.shape == (2, *size, 5)
    assert logits.dtype == jnp.float32


def test_an_odd_size_runs():
    init, apply = make(1, 2, widths=(2, 2, 2, 2))
    logits, _ = run(apply, train=False)(*random_state(init), random_images(1, 97, 131, 1))
    assert logits.shape == (1, 97, 131, 2)
    assert np.isfinite(logits).all()
    assert np.std(logits) > 0.01


def test_a_single_level_is_a_network_too():
    init, apply = make(widths=(4,))
    state = jax.eval_shape(init, jax.random.key(0))
    assert set(state[0]) == {"down0", "head"}
    images = jax.ShapeDtypeStruct((1, 3, 5, 3), jnp.float32)
    logits, _ = jax.eval_shape(run(apply, train=True), *state, images)
    assert logits.shape == (1, 3, 5, 4)


def test_bfloat16_computes_and_float32_remains():
    """Parameters, statistics and logits are float32; every convolution is in bfloat16."""
    init, apply = make(dtype=jnp.bfloat16)
    for leaf in jax.tree.leaves(jax.eval_shape(init, jax.random.key(0))):
        assert leaf.dtype == jnp.float32
    state, images = random_state(init), random_images(2, 8, 8, 3).astype(np.float32)
    text = jax.jit(run(apply, train=True)).lower(*state, images).as_text()
    convolutions = re.findall(r"stablehlo\.convolution\(.*-> tensor<[\dx]*x(\w+)>", text)
    assert convolutions == ["bf16"] * 10

    results = run(apply, train=True)(*state, images)
    for leaf in jax.tree.leaves(results):
        assert leaf.dtype == jnp.float32
    expected, _ = run(make()[1], train=True)(*state, images)
    error = np.linalg.norm(results[0] - expected) / np.linalg.norm(expected)
    assert 1e-4 < error < 0.05


@pytest.mark.filterwarnings("error")
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64])
def test_param_dtype(dtype):
    """That of parameters and logits; statistics, old and new, have it in float32 at least."""
    init, apply = make(param_dtype=dtype)
    params, batch_stats = jax.eval_shape(init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((1, 4, 4, 3), jnp.float32)
    logits, new_stats = jax.eval_shape(run(apply, train=True), params, batch_stats, images)
    assert {leaf.dtype for leaf in jax.tree.leaves((params, logits))} == {np.dtype(dtype)}
    statistics = jnp.promote_types(dtype, jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves((batch_stats, new_stats))} == {statistics}


def test_group_norm_is_independent_of_the_batch():
    """It has no statistics, and an image's logits are the same in any company, even in training."""
    init, apply = make(norm="group")
    params, batch_stats = random_state(init)
    assert batch_stats == {}
    first, second, third = random_images(3, 8, 8, 3)
    train = run(apply, train=True)
    together, new_stats = train(params, batch_stats, np.stack([first, second]))
    other, _ = train(params, batch_stats, np.stack([first, 100 * third]))
    assert new_stats == {}
    np.testing.assert_array_equal(together[0], other[0])
    assert np.abs(together[1] - other[1]).max() > 0.1


def test_group_norm_divides_every_width():
    """At most 8 groups, and a divisor of the width."""
    for width, groups in ((1, 1), (2, 2), (6, 6), (8, 8), (12, 6), (13, 1), (20, 5), (64, 8)):
        model = nnx.eval_shape(
            lambda w=width: UNet(1, 2, widths=(w,), norm="group", rngs=nnx.Rngs(0))
        )
        assert model.down0.norm0.num_groups == groups


def test_logits_at_several_resolutions():
    """In training, finest first, each from the features of its level; in evaluation one."""
    init, apply = make(resolutions=3, norm="group")
    params, batch_stats = random_state(init)
    images = random_images(2, 8, 12, 3)
    logits, _ = run(apply, train=True)(params, batch_stats, images)
    assert [z.shape for z in logits] == [(2, 8, 12, 4), (2, 4, 6, 4), (2, 2, 3, 4)]
    alone, _ = run(apply, train=False)(params, batch_stats, images)
    np.testing.assert_array_equal(alone, logits[0])
    _, plain = make(norm="group")
    expected, _ = run(plain, train=True)(
        {name: x for name, x in params.items() if name not in ("head1", "head2")}, {}, images
    )
    np.testing.assert_array_equal(expected, alone)
    # A level's logits depend on its head and on what lies above, not on the finer levels.
    for name, changed in {"head": [0], "head1": [1], "decode1": [0, 1], "down2": [0, 1, 2]}.items():
        other = {**params, name: jax.tree.map(lambda x: x + 0.1, params[name])}
        found, _ = run(apply, train=True)(other, batch_stats, images)
        different = [i for i in range(3) if not np.array_equal(found[i], logits[i])]
        assert different == changed, name
    with pytest.raises(ValueError, match=r"images are 6x12, .* sides divisible by 4; crop or pad"):
        apply(params, batch_stats, images[:, :6], train=True)
    with pytest.raises(ValueError, match=re.escape("resolutions are 4, but must lie in 1..3")):
        make(resolutions=4)


def test_volumes_are_trained_at_several_resolutions():
    init, apply = make(1, 2, widths=(4, 4), resolutions=2, norm="group", spatial_rank=3)
    params, batch_stats = random_state(init)
    images = random_images(1, 2, 4, 6, 1)
    labels = np.random.default_rng(1).integers(0, 2, (1, 2, 4, 6))
    supervised = losses.deep_supervision(losses.weighted_sum((("cross_entropy", 1.0),)))

    def step(params):
        logits, _ = apply(params, batch_stats, images, train=True)
        return supervised(logits, labels, step=0)[0], logits

    (value, logits), grads = jax.jit(jax.value_and_grad(step, has_aux=True))(params)
    assert [z.shape for z in logits] == [(1, 2, 4, 6, 2), (1, 1, 2, 3, 2)]
    values = []
    for z, own in zip(logits, (labels, labels[:, 1::2, 1::2, 1::2]), strict=True):
        log_probs = special.log_softmax(np.asarray(z, np.float64), -1)
        values.append(-np.mean(np.take_along_axis(log_probs, own[..., None], -1)))
    np.testing.assert_allclose(value, (values[0] + values[1] / 2) / 1.5, rtol=1e-5)
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert np.isfinite(grad).all(), path
        assert np.abs(grad).max() > 1e-6, path
    with pytest.raises(ValueError, match=r"images are 1x4x6, .* sides divisible by 2; crop or pad"):
        apply(params, batch_stats, images[:, :1], train=True)


@pytest.fixture(scope="module")
def dropout():
    """Training and evaluation with dropout as functions of the key; evaluation without."""
    init, apply = make(dropout=0.5, norm="group", widths=(4, 4))
    state, images = random_state(init), random_images(2, 8, 8, 3)
    training = jax.jit(lambda key: apply(*state, images, train=True, key=key)[0])
    evaluation = jax.jit(lambda key: apply(*state, images, train=False, key=key)[0])
    _, without = make(norm="group", widths=(4, 4))
    return training, evaluation, jax.jit(lambda: without(*state, images, train=False)[0])()


def test_dropout_differs_by_key_and_by_nothing_else(dropout):
    training, _, without = dropout
    first, again, other = (training(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-2
    assert np.abs(first - without).max() > 1e-2


def test_dropout_is_off_in_evaluation(dropout):
    _, evaluation, without = dropout
    for key in (None, jax.random.key(0), jax.random.key(1)):
        np.testing.assert_array_equal(evaluation(key), without)


def test_dropout_needs_a_key_only_to_train():
    init, apply = make(dropout=0.5)
    state = jax.eval_shape(init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((1, 4, 4, 3), jnp.float32)
    with pytest.raises(ValueError, match="dropout needs a key when training; pass key="):
        jax.eval_shape(run(apply, train=True), *state, images)
    jax.eval_shape(run(apply, train=False), *state, images)
    jax.eval_shape(run(make(dropout=0.0)[1], train=True), *state, images)


@pytest.mark.parametrize("kind", [jnp.array, np.array])
def test_apply_is_pure(kind):
    """Twice the same inputs give the same outputs, and the inputs keep what they held."""
    init, apply = make(1, 2, widths=(2,))
    params, batch_stats = jax.tree.map(kind, random_state(init))
    before = jax.tree.map(np.array, (params, batch_stats))
    images = random_images(2, 4, 4, 1).astype(np.float32)
    first = jax.tree.map(np.array, apply(params, batch_stats, images, train=True))
    chex.assert_trees_all_equal((params, batch_stats), before)
    chex.assert_trees_all_equal(apply(params, batch_stats, images, train=True), first)
    for new, old in zip(*map(jax.tree.leaves, (first[1], batch_stats)), strict=True):
        assert np.all(new != old)


def test_statistics_may_be_constants_of_a_compiled_function():
    """Even numpy arrays, which a mutating module would try to write to."""
    init, apply = make(1, 2, widths=(2,))
    params, batch_stats = random_state(init)
    images = jax.ShapeDtypeStruct((2, 4, 4, 1), jnp.float32)
    logits, new_stats = jax.eval_shape(
        lambda images: apply(params, batch_stats, images, train=True), images
    )
    assert logits.shape == (2, 4, 4, 2)
    assert jax.tree.structure(new_stats) == jax.tree.structure(batch_stats)


def test_init_depends_on_the_key_alone():
    """Kernels differ by key; statistics and the rest start as 0 or 1."""
    init, _ = make(1, 2, widths=(2,))
    first, again, other = (jax.jit(init)(jax.random.key(seed)) for seed in (0, 0, 1))
    chex.assert_trees_all_equal(first, again)
    leaves = zip(*map(jax.tree_util.tree_leaves_with_path, (first, other)), strict=True)
    for (path, one), (_, two) in leaves:
        kind = path[-1].key
        if kind == "kernel":
            assert np.all(one != two), path
            assert len(np.unique(one)) == one.size, path
        else:
            np.testing.assert_array_equal(one, np.full(one.shape, kind in ("scale", "var")))


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_parameters_are_plain_nested_dictionaries(norm):
    """With strings as keys, which say where in the network a parameter is."""
    init, _ = make(1, 2, widths=(2, 2), norm=norm, dropout=0.1)
    params, batch_stats = jax.eval_shape(init, jax.random.key(0))

    def leaves(tree):
        assert type(tree) is dict
        for key, value in tree.items():
            assert type(key) is str
            if type(value) is dict:
                yield from leaves(value)
            else:
                yield key, value

    assert {key for key, _ in leaves(params)} == {"kernel", "scale", "bias"}
    assert {key for key, _ in leaves(batch_stats)} == (
        {"mean", "var"} if norm == "batch" else set()
    )
    assert all(leaf.dtype == jnp.float32 for _, leaf in (*leaves(params), *leaves(batch_stats)))
    assert set(params) == {"down0", "down1", "up0", "decode0", "head"}


def test_batch_statistics_in_training():
    """A tenth of the batch's mean and variance enters; in evaluation nothing does."""
    init, apply = make()
    params, batch_stats = random_state(init)
    images = random_images(2, 8, 8, 3).astype(np.float32)
    _, new = run(apply, train=True)(params, batch_stats, images)
    x = Reference.conv(images, params["down0"]["conv0"]["kernel"])
    old = batch_stats["down0"]["norm0"]
    for key, of_batch in (("mean", x.mean((0, 1, 2))), ("var", x.var((0, 1, 2)))):
        expected = 0.9 * old[key] + 0.1 * of_batch
        np.testing.assert_allclose(new["down0"]["norm0"][key], expected, rtol=1e-5, atol=1e-6)
    _, same = run(apply, train=False)(params, batch_stats, images)
    chex.assert_trees_all_equal(same, batch_stats)


@pytest.mark.usefixtures("x64")
def test_eight_devices_normalise_as_one():
    """Logits, statistics and gradient of eight devices are those of one with the whole batch."""
    options = {"widths": (3,), **FLOAT64}
    images = random_images(8, 4, 4, 3) * np.arange(1, 9)[:, None, None, None]
    labels = np.random.default_rng(1).integers(0, 4, (8, 4, 4))

    def gradient(apply, axis_name):
        def loss(params, batch_stats, images, labels):
            logits, batch_stats = apply(params, batch_stats, images, train=True)
            value = losses.cross_entropy(logits, labels, axis_name=axis_name)
            return value, (logits, batch_stats)

        def replica(*arguments):
            (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(*arguments)
            return value, aux, grads if axis_name is None else jax.lax.pmean(grads, axis_name)

        return replica

    init, apply = make(**options)
    params, batch_stats = random_state(init, np.float64)
    value, (logits, stats), grads = jax.jit(gradient(apply, None))(
        params, batch_stats, images, labels
    )

    _, replicated = make(axis_name="replicas", **options)
    on_eight = jax.pmap(gradient(replicated, "replicas"), "replicas", in_axes=(None, None, 0, 0))
    value_8, (logits_8, stats_8), grads_8 = on_eight(
        params, batch_stats, images[:, None], labels[:, None]
    )
    np.testing.assert_allclose(value_8, np.full(8, value), rtol=1e-12)
    np.testing.assert_allclose(logits_8[:, 0], logits, rtol=1e-9, atol=1e-11)
    for device in range(8):
        own = jax.tree.map(lambda x, i=device: x[i], (stats_8, grads_8))
        chex.assert_trees_all_close(own, (stats, grads), rtol=1e-9, atol=1e-11)

    alone, _ = run(apply, train=True)(params, batch_stats, images[:1])
    assert np.abs(alone - logits[:1]).max() > 0.1


@pytest.mark.parametrize(("norm", "widths"), [("batch", (4, 4, 4)), ("group", (4, 4))])
def test_every_parameter_gets_a_gradient(norm, widths):
    init, apply = make(norm=norm, widths=widths)
    params, batch_stats = random_state(init)
    images = random_images(2, 8, 8, 3)
    labels = np.random.default_rng(1).integers(0, 4, (2, 8, 8))

    @jax.jit
    @jax.grad
    def gradient(params, batch_stats):
        logits, _ = apply(params, batch_stats, images, train=True)
        return losses.cross_entropy(logits, labels)

    for path, grad in jax.tree_util.tree_leaves_with_path(gradient(params, batch_stats)):
        assert np.isfinite(grad).all(), path
        assert np.abs(grad).max() > 1e-5, path


WITHOUT_GRAPH_MODE = """
import flax, jax, numpy as np
from jaxseg.models import UNet, to_functional
assert not getattr(flax.config, "nnx_graph_mode", False)
init, apply = to_functional(lambda rngs: UNet(1, 2, widths=(2, 2), dropout=0.1, rngs=rngs))
params, batch_stats = jax.eval_shape(init, jax.random.key(0))
images = np.zeros((1, 3, 5, 1))

def gradient(params, batch_stats):
    def loss(params):
        logits, stats = apply(params, batch_stats, images, train=True, key=jax.random.key(1))
        return (logits ** 2).mean(), stats
    return jax.grad(loss, has_aux=True)(params)

grads, stats = jax.eval_shape(gradient, params, batch_stats)
assert jax.tree.structure(grads) == jax.tree.structure(params)
assert jax.tree.structure(stats) == jax.tree.structure(batch_stats)
print("works")
"""


def test_remat_changes_no_result():
    """Gradients, statistics and draws are the same where blocks are computed again."""
    images = random_images(2, 8, 8, 3)

    def step(apply):
        def objective(params, stats):
            logits, stats = apply(params, stats, images, train=True, key=jax.random.key(1))
            return jnp.sum(logits**2), stats

        return jax.jit(jax.grad(objective, has_aux=True))

    kept, again = (make(remat=remat, dropout=0.5) for remat in (False, True))
    state = random_state(kept.init)
    chex.assert_trees_all_equal_shapes(state, random_state(again.init))
    found = [step(model.apply)(*state) for model in (kept, again)]
    chex.assert_trees_all_close(*found, rtol=1e-4, atol=1e-4)
    assert "remat" in str(jax.make_jaxpr(step(again.apply))(*state))


def test_it_works_without_the_graph_mode_of_nnx():
    """Which flax will one day turn off by default."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_GRAPH_MODE],
        env=os.environ | {"NNX_GRAPH_MODE": "false", "JAX_PLATFORMS": "cpu"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "works\n"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"widths": ()}, ["widths are ()", "positive", "one for a level"]),
        ({"widths": (4, 0)}, ["widths are (4, 0)", "positive"]),
        ({"widths": [4, -8]}, ["widths are (4, -8)", "positive"]),
        ({"norm": "layer"}, ["norm is 'layer'", '"batch" or "group"']),
        ({"dropout": 1.0}, ["dropout is 1.0", "[0, 1)"]),
        ({"dropout": -0.1}, ["dropout is -0.1", "[0, 1)"]),
        ({"dropout": float("nan")}, ["dropout is nan", "[0, 1)"]),
        ({"spatial_rank": 1}, ["spatial_rank is 1", "2, for images, or 3, for volumes"]),
    ],
)
def test_errors_of_options(options, words):
    """They come where the network is made, not where it first runs."""
    with pytest.raises(ValueError, match=re.escape(words[0])) as error:
        make(**options)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("shape", [(8, 8, 3), (2, 8, 8, 1), (2, 3, 8, 8), (1, 2, 8, 8, 3)])
def test_errors_of_images(shape):
    init, apply = make()
    state = jax.eval_shape(init, jax.random.key(0))
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    with pytest.raises(ValueError, match="images are") as error:
        jax.eval_shape(run(apply, train=False), *state, images)
    assert str(list(shape)) in str(error.value)
    assert "[batch, height, width, 3]" in str(error.value)


def test_errors_of_volumes():
    init, apply = make(spatial_rank=3)
    state = jax.eval_shape(init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    with pytest.raises(ValueError, match=re.escape("needs [batch, depth, height, width, 3]")):
        jax.eval_shape(run(apply, train=False), *state, images)
