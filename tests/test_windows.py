"""Sliding windows: the weighted mean that a plain loop over them computes, for any sizes."""

import dataclasses
import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jaxseg import data, ops, parallel
from jaxseg.batch import Batch
from jaxseg.config import Config, Data, Model
from jaxseg.evaluate import Evaluator, make_init, make_model


def starts(side, length, overlap):
    """The first pixels of the windows along an axis, by walking along it."""
    found, step = [0], max(1, int(length * (1 - overlap)))
    while found[-1] + length < side:
        found.append(min(found[-1] + step, side - length))
    return found


def by_loops(function, images, size, overlap, weights):
    """The weighted sum of all windows over that of their weights, in float64."""
    weight = np.ones(size)
    if weights == "gaussian":
        for axis, side in enumerate(size):
            z = (np.arange(side) - (side - 1) / 2) / (side / 8)
            shape = [-1 if a == axis else 1 for a in range(len(size))]
            weight = weight * np.exp(-(z**2) / 2).reshape(shape)
        weight = np.maximum(weight, 1e-3)
    missing = [max(0, b - a) for a, b in zip(images.shape[1:], size, strict=False)]
    images = np.pad(images, [(0, 0), *((n // 2, n - n // 2) for n in missing), (0, 0)])
    total, sums = 0.0, np.zeros(images.shape[1:-1])
    for corner in itertools.product(
        *(starts(a, b, overlap) for a, b in zip(images.shape[1:-1], size, strict=True))
    ):
        at = tuple(slice(a, a + b) for a, b in zip(corner, size, strict=True))
        found = np.asarray(function(images[:, *at]), np.float64)
        if np.ndim(total) == 0:
            total = np.zeros((*images.shape[:-1], found.shape[-1]))
        total[:, *at] += weight[..., None] * found
        sums[at] += weight
    inside = [slice(n // 2, total.shape[i + 1] - (n - n // 2)) for i, n in enumerate(missing)]
    return (total / sums[..., None])[:, *inside]


def lopsided(windows):
    """Two numbers a pixel that depend on the pixel's place in the window, and on the others."""
    pixels = range(1, windows.ndim - 1)
    place = sum(
        np.arange(windows.shape[a], dtype=np.float32).reshape(
            [-1 if b == a else 1 for b in range(windows.ndim)]
        )
        for a in pixels
    )
    mean = windows.mean((*pixels,), keepdims=True)
    both = [windows[..., :1] * mean[..., :1], windows[..., :1] - place]
    return (np if isinstance(windows, np.ndarray) else jnp).concatenate(both, -1)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


CASES = [
    ((1, 23, 17, 2), (8, 6), 0.25, "gaussian", 4),  # neither side divides, and 20 windows are 5 x 4
    ((3, 23, 17, 2), (8, 6), 0.25, "constant", 4),  # windows of several images at once
    ((1, 16, 16, 1), (8, 8), 0.5, "gaussian", 2),  # sides divide
    ((2, 16, 16, 1), (8, 8), 0.0, "gaussian", 3),
    ((2, 8, 6, 1), (8, 6), 0.25, "gaussian", 4),  # one window each
    ((1, 7, 19, 1), (8, 4), 0.9, "constant", 64),  # padded along one axis, and 64 are too many
    ((1, 3, 2, 1), (8, 7), 0.25, "gaussian", 1),  # padded along both
    ((2, 9, 11, 6, 2), (4, 5, 6), 0.25, "gaussian", 4),
    ((1, 2, 11, 9, 1), (4, 5, 3), 0.5, "constant", 5),
    ((1, 6, 5, 1), (1, 1), 0.25, "gaussian", 7),
]


@pytest.mark.parametrize(("shape", "size", "overlap", "weights", "at_once"), CASES)
def test_of_plain_loops(shape, size, overlap, weights, at_once):
    images = noise(*shape)
    slide = functools.partial(
        ops.sliding_windows, size=size, overlap=overlap, weights=weights, windows_at_once=at_once
    )
    found = jax.jit(functools.partial(slide, lopsided))(images)
    expected = by_loops(lopsided, images, size, overlap, weights)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert found.dtype == jnp.float32
    # A function of the pixel alone comes back to the last bit, whatever overlaps.
    np.testing.assert_array_equal(slide(lambda x: 3 * x, images), 3 * images)


def test_of_monai():
    """The same windows and weights as MONAI's, where that is installed."""
    torch = pytest.importorskip("torch")
    inferers = pytest.importorskip("monai.inferers")
    for shape, size, overlap, weights, _ in CASES:
        images = noise(*shape)

        def function(windows):
            return torch.from_numpy(
                np.moveaxis(lopsided(np.moveaxis(windows.numpy(), 1, -1)), -1, 1).copy()
            )

        inferer = inferers.SlidingWindowInferer(size, 2, overlap, weights)
        expected = inferer(torch.from_numpy(np.moveaxis(images, -1, 1).copy()), function)
        expected = np.moveaxis(expected.numpy(), 1, -1)
        found = ops.sliding_windows(lopsided, images, size, overlap=overlap, weights=weights)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_of_one_corner():
    """By hand: 6 pixels in windows of 4, a quarter of which overlap, begin at 0 and 2."""
    images = jnp.arange(6.0).reshape(1, 6, 1)
    found = ops.sliding_windows(
        lambda x: jnp.broadcast_to(x[:, :1], x.shape), images, (4,), weights="constant"
    )
    assert found.ravel().tolist() == [0, 0, 1, 1, 2, 2]
    found = ops.sliding_windows(lambda x: jnp.broadcast_to(x[:, :1], x.shape), images, (4,))
    high, low = (np.exp(-0.5 * (far / 0.5) ** 2) for far in (0.5, 1.5))
    share = low / (high + low)  # 0.018, of the far window
    np.testing.assert_allclose(found.ravel()[2:4], [2 * (1 - share), 2 * share][::-1], rtol=1e-4)


def test_vmap_and_low_precision():
    """A batch may also be mapped; and what is half a number is averaged in float32."""
    images = noise(3, 2, 9, 11, 1)
    slide = functools.partial(ops.sliding_windows, lopsided, size=(4, 6))
    np.testing.assert_allclose(
        jax.vmap(slide)(images), jnp.stack([slide(x) for x in images]), rtol=1e-6, atol=1e-6
    )
    half = ops.sliding_windows(lambda x: lopsided(x).astype(jnp.bfloat16), images[0], (4, 6))
    assert half.dtype == jnp.float32
    assert len(np.unique(np.asarray(half - half.astype(jnp.bfloat16).astype(jnp.float32)))) > 10


def test_values_that_are_not_finite_stay_in_place():
    """Of a class that is ruled out, and of a pixel that is none; others are as they were."""
    images = noise(1, 20, 20, 2)
    images[0, 9, 9], images[0, 2, 15, 0] = np.nan, -np.inf
    found = ops.sliding_windows(lambda x: x, images, (8, 8))
    np.testing.assert_array_equal(found, images)


def test_memory_is_that_of_the_answer_and_of_some_windows():
    """XLA plans no more for an image of four times the pixels, but for one number a pixel."""

    def planned(side):
        image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
        slide = jax.jit(
            lambda x: ops.sliding_windows(lambda w: jnp.sin(w).repeat(7, -1), x, (32, 32))
        )
        memory = slide.lower(image).compile().memory_analysis()
        assert memory.output_size_in_bytes == side**2 * 21 * 4
        return memory.temp_size_in_bytes - 4 * side**2

    assert planned(1024) - planned(512) < 2**14
    assert planned(512) < 3 * 4 * 32**2 * 21 * 4


@pytest.mark.parametrize("kind", ["pmap", "shard_map", "fsdp", "spatial"])
def test_on_several_devices(kind):
    """Whatever is split over them."""
    runner, images = parallel.make_runner(kind), noise(8, 16, 9, 1)
    batch = Batch(images, *(np.zeros((8, 16, 9), t) for t in (np.int32, bool)))

    def step(_, batch):
        found = ops.sliding_windows(lopsided, batch.images, (8, 4))
        return found if runner.axis_name is None else jax.lax.psum(found.sum(0), runner.axis_name)

    found = runner.compile(step, donate_state=False)((), runner.shard(batch))
    expected = by_loops(lopsided, images, (8, 4), 0.25, "gaussian")
    expected = expected if runner.axis_name is None else expected.sum(0)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_evaluation_in_windows():
    """What is scored and drawn is the model's in windows; and, where these are no smaller, as ever.

    Also beside views, and of images that are smaller along one axis.
    """
    size = Data(image_size=(24, 32))
    plain = Config(data=size, model=Model(widths=(2, 4)), eval_batch_size=8)
    runner = parallel.make_runner("shard_map")
    state = runner.place(make_init(plain, make_model(plain))())

    def evaluator(window, **options):
        config = dataclasses.replace(plain, model=Model(widths=(2, 4), window=window))
        return Evaluator(config, make_model(config), runner, names=("accuracy",), **options)

    def probs(made):
        ((*_, probs),) = made.examples(state, [1])
        return probs

    whole = evaluator(())
    statistics = whole.evaluation(state).statistics
    for window in ((24, 32), (30, 99)):
        same = evaluator(window)
        np.testing.assert_array_equal(probs(same), probs(whole))
        jax.tree.map(np.testing.assert_array_equal, same.evaluation(state).statistics, statistics)
    cut = evaluator((40, 16), temperature=2.0)
    assert not np.array_equal(
        cut.evaluation(state).statistics["confusion"], statistics["confusion"]
    )
    batch = data.collate([data.make_loader(whole.source, plain.data)(1)])
    expected = by_loops(
        lambda x: make_model(plain).apply(*state.eval_variables, x, train=False)[0] / 2,
        np.asarray(data.normalise(batch).images),
        (24, 16),
        0.25,
        "gaussian",
    )
    np.testing.assert_allclose(probs(cut), special.softmax(expected[0], -1), rtol=1e-4)
    flipped = evaluator((40, 16), temperature=2.0, views="flips")
    assert np.abs(probs(cut) - probs(flipped)).max() > 1e-4


@pytest.mark.parametrize("window", [(16,), (16, 0), (8, 8, 8)])
def test_windows_that_fit_no_image(window):
    with pytest.raises(ValueError, match="but must have 2 positive numbers, as many as"):
        make_model(Config(model=Model(window=window)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": (4, 0)}, "a side of the window is 0, but must be a Python integer of at least 1"),
        ({"size": (4,)}, r"images are [1, 6, 6, 1] for windows of 4, but must be [batch, *pixels"),
        ({"overlap": 1.0}, "overlap is 1, but must be less: windows must get on"),
        ({"overlap": -0.25}, "overlap is -0.25, but must lie in 0..1"),
        ({"weights": "hann"}, 'weights are \'hann\', but must be "gaussian" or "constant"'),
        ({"windows_at_once": 0}, "windows_at_once is 0, but must be a Python integer of at lea"),
        (
            {"function": lambda x: x[:, ::2]},
            "the function makes [4, 2, 4, 1] of windows [4, 4, 4, 1], but must give [4, 4, 4, 'n']",
        ),
    ],
)
def test_what_is_refused(change, message):
    options = {"function": lambda x: x, "images": noise(1, 6, 6, 1), "size": (4, 4), **change}
    with pytest.raises(ValueError, match=re.escape(message)):
        ops.sliding_windows(options.pop("function"), options.pop("images"), **options)
