"""Labels as distributions: convolutions of scipy, votes by hand, STAPLE written out and of ITK."""

import itertools
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxseg import labels, losses

# What versions change shows in the examples of the docstrings.
pytestmark = pytest.mark.exhaustive

CLASSES = 4
staple = partial(labels.from_raters, method="staple")
FUNCTIONS = {
    "smooth": labels.smooth,
    "spatially_varying": labels.spatially_varying,
    "votes": labels.from_raters,
    "staple": partial(staple, iterations=3),
}
every_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS.keys())
of_raters = list(FUNCTIONS.values())[2:]
masked_functions = pytest.mark.parametrize(
    "function", list(FUNCTIONS.values())[1:], ids=list(FUNCTIONS)[1:]
)
of_labels = pytest.mark.parametrize("function", [labels.smooth, labels.spatially_varying])
same = np.testing.assert_array_equal
near = partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7)


def indices(shape, seed=0, classes=CLASSES):
    """Class indices in patches, so that there are boundaries and places far from them."""
    noise = np.random.default_rng(seed).normal(size=(classes, *shape))
    smooth = [ndimage.gaussian_filter(x, 1.5, mode="wrap") for x in noise]
    return np.argmax(smooth, 0).astype(np.int32)


def one_hot(x, classes=CLASSES):
    return (x[..., None] == np.arange(classes)).astype(np.float64)


def svls_kernel(rank, size, sigma):
    """Weights that sum to 1: a half in the middle, and the rest a Gaussian."""
    squares = sum(x**2 for x in np.indices((size,) * rank) - size // 2)
    kernel = np.exp(-squares / (2 * sigma**2))
    kernel[squares == 0] = kernel[squares > 0].sum()
    return kernel / kernel.sum()


def test_smooth_by_hand():
    smoothed = labels.smooth(np.array([2, 0]), 4, label_smoothing=0.2)
    near(smoothed, [[0.05, 0.05, 0.85, 0.05], [0.85, 0.05, 0.05, 0.05]])
    near(labels.smooth(np.array([1]), 2), [[0.05, 0.95]])  # by default 0.1
    soft = np.array([[0.5, 0.3, 0.2, 0.0]], np.float32)
    near(labels.smooth(soft, 4, label_smoothing=0.2), [[0.45, 0.29, 0.21, 0.05]])
    same(labels.smooth(soft, 4, label_smoothing=0.0), soft)
    same(labels.smooth(np.array([1]), 4, label_smoothing=1), np.full((1, 4), 0.25))


def test_smooth_is_the_smoothing_of_losses():
    y = indices((2, 8, 9))
    logits = np.random.default_rng(1).normal(size=(*y.shape, CLASSES)).astype(np.float32)
    for loss in (losses.kl_divergence, losses.relative_entropy, losses.brier):
        within = loss(logits, y, label_smoothing=0.3, reduce=None)
        before = labels.smooth(y, CLASSES, label_smoothing=0.3)
        near(loss(logits, before, label_smoothing=0.0, reduce=None), within)


@pytest.mark.parametrize("shape", [(31,), (17, 23), (2, 17), (1, 1), (9, 12, 7), (8, 1, 6)])
@pytest.mark.parametrize(("size", "sigma"), [(3, 1.0), (3, 0.4), (5, 1.0), (7, 2.5)])
def test_svls_is_a_convolution(shape, size, sigma):
    y = indices(shape)
    kernel = svls_kernel(len(shape), size, sigma)
    expected = [ndimage.convolve(x, kernel, mode="nearest") for x in np.moveaxis(one_hot(y), -1, 0)]
    found = labels.spatially_varying(y, CLASSES, size=size, sigma=sigma, spatial_rank=len(shape))
    near(found, np.moveaxis(expected, 0, -1))


def test_svls_by_hand():
    """With the published weights: those of a 3 x 3 Gaussian of sigma 1, and its centre replaced."""
    y = np.zeros((5, 5), np.int32)
    y[2, 2] = 1
    face, corner = np.exp([-1 / 2, -1])
    share = np.array([corner, face, corner]) / (8 * (face + corner))
    found = np.asarray(labels.spatially_varying(y, 2)[..., 1])
    near(found[1:4, 1:4], [share, [share[1], 1 / 2, share[1]], share])
    same(found[[0, -1]], 0)
    same(found[:, [0, -1]], 0)


@pytest.mark.parametrize("rank", [2, 3])
def test_svls_far_from_boundaries_is_one_hot(rank):
    """To the last bit, and only there; everywhere the shares sum to 1 and the label keeps half."""
    y = indices((24,) * rank)
    flat = ndimage.minimum_filter(y, 3) == ndimage.maximum_filter(y, 3)
    assert 0.01 < flat.mean() < 0.99
    found = np.asarray(labels.spatially_varying(y, CLASSES, spatial_rank=rank))
    same(found[flat], one_hot(y)[flat])
    own = np.take_along_axis(found, y[..., None], -1)[..., 0]
    assert own[~flat].max() < 1
    assert own.min() >= 0.5
    near(found.sum(-1), 1)


def test_svls_of_any_sigma():
    """From the nearest neighbours alone to all alike, with nothing lost in between."""
    y = indices((9, 11))
    cross = ndimage.generate_binary_structure(2, 1) / 8.0
    box = np.full((3, 3), 1 / 16)
    for kernel, sigmas in ((cross, (0.01, 1e-3, 1e-200)), (box, (1e5, 1e200, np.inf))):
        kernel[1, 1] = 1 / 2
        expected = [ndimage.convolve(x, kernel, mode="nearest") for x in one_hot(y).T]
        for sigma in sigmas:
            near(labels.spatially_varying(y, CLASSES, sigma=sigma), np.transpose(expected))


@pytest.mark.parametrize(("shape", "size"), [((7, 9), 3), ((7, 9), 5), ((5, 4, 6), 3)])
def test_svls_counts_pixels_in_where_alone(shape, size):
    """A loop over pixels and their neighbours, those beyond the edge being the nearest within."""
    rng = np.random.default_rng(0)
    p, where = rng.dirichlet(np.ones(CLASSES), shape), rng.random(shape) < 0.5
    kernel = svls_kernel(len(shape), size, 1.3)
    expected = np.full(p.shape, 1 / CLASSES)
    for pixel in zip(*np.nonzero(where), strict=True):
        total = 0.0
        for offset in np.ndindex(kernel.shape):
            other = np.array(pixel) + offset - size // 2
            other = tuple(np.clip(other, 0, np.array(shape) - 1))
            total = total + where[other] * kernel[offset] * np.append(p[other], 1.0)
        expected[pixel] = total[:-1] / total[-1]
    found = labels.spatially_varying(
        p.astype(np.float32), CLASSES, where=where, size=size, sigma=1.3, spatial_rank=len(shape)
    )
    near(found, expected)


def test_svls_of_lonely_pixels():
    """Alone in `where` a label stays; nowhere in `where` all are uniform."""
    y, where = np.array([[3, 1], [2, 0]]), np.array([[True, False], [False, False]])
    found = labels.spatially_varying(y, CLASSES, where=where)
    same(found, np.where(where[..., None], one_hot(y), 1 / CLASSES))
    same(labels.spatially_varying(y, CLASSES, where=where & False), np.full((2, 2, 4), 0.25))


def test_svls_takes_distributions():
    """A mixture of labels becomes the mixture of what they become."""
    a, b = indices((2, 9, 8)), indices((2, 9, 8), seed=1)
    mixed = (0.3 * one_hot(a) + 0.7 * one_hot(b)).astype(np.float32)
    of_a, of_b = (labels.spatially_varying(y, CLASSES) for y in (a, b))
    near(labels.spatially_varying(mixed, CLASSES), 0.3 * of_a + 0.7 * of_b)
    same(labels.spatially_varying(one_hot(a).astype(np.float32), CLASSES), of_a)


@of_labels
def test_gradients_pass_to_distributions(function):
    """Between two distributions the function is linear. None to a pixel outside `where`."""
    p, other = np.random.default_rng(0).dirichlet(np.ones(3), (2, 4, 5)).astype(np.float32)
    where = np.arange(20).reshape(4, 5) % 7 > 1
    options = {"where": where} if function is labels.spatially_varying else {}

    def score(p):
        return jnp.sum(jnp.where(where, function(p, 3, **options)[..., 0], 0.0))

    gradient = jax.grad(score)(np.where(where[..., None], p, np.nan))
    assert np.isfinite(gradient).all()
    same(gradient[~where], 0)
    way = np.where(where[..., None], other - p, 0)
    near(np.sum(gradient * way), score(other) - score(p), rtol=1e-5)


def rated(shape, raters=5, seed=0, classes=CLASSES):
    """What raters of differing quality say of a picture, and which pixels they annotated."""
    rng = np.random.default_rng(seed)
    truth = indices(shape, seed, classes)
    wrong = rng.random((raters, *shape)) < np.linspace(0.1, 0.5, raters).reshape(
        -1, *[1] * len(shape)
    )
    said = np.where(wrong, rng.integers(0, classes, wrong.shape), truth).astype(np.int32)
    return said, rng.random(said.shape) < 0.7


def votes_of(said, where, classes=CLASSES):
    counts = (one_hot(said, classes) * where[..., None]).sum(0)
    total = counts.sum(-1, keepdims=True)
    return np.where(total > 0, counts / np.maximum(total, 1), 1 / classes)


def staple_of(said, where, iterations, classes=CLASSES):
    """The algorithm of Warfield et al. in float64, pixel by pixel."""
    pixels = list(np.ndindex(said.shape[1:]))
    w = votes_of(said, where, classes)
    prior = one_hot(said, classes)[where].mean(0)
    for _ in range(iterations):
        confusions = np.zeros((len(said), classes, classes))
        for r, x in itertools.product(range(len(said)), pixels):
            if where[(r, *x)]:
                confusions[r, :, said[(r, *x)]] += w[x]
        mass = confusions.sum(2, keepdims=True)
        confusions = confusions / np.where(mass == 0, 1, mass)
        for x in pixels:
            likelihood = prior.copy()
            for r in range(len(said)):
                if where[(r, *x)]:
                    likelihood *= confusions[r, :, said[(r, *x)]]
            w[x] = likelihood / likelihood.sum()
    return np.where(where.any(0)[..., None], w, 1 / classes)


def test_votes_by_hand():
    said = np.array([[[0, 1, 2], [1, 1, 0]], [[0, 2, 2], [0, 1, 1]], [[0, 0, 1], [1, 1, 2]]])
    thirds = [[3, 0, 0], [1, 1, 1], [0, 1, 2], [1, 2, 0], [0, 3, 0], [1, 1, 1]]
    near(labels.from_raters(said, 3), np.reshape(thirds, (2, 3, 3)) / 3)
    where = np.ones(said.shape, bool)
    where[1] = where[2, 1] = where[0, 1, 2] = False
    found = labels.from_raters(said, 3, where=where)
    near(found[0], [[1, 0, 0], [1 / 2, 1 / 2, 0], [0, 1 / 2, 1 / 2]])
    near(found[1], [[0, 1, 0], [0, 1, 0], [1 / 3, 1 / 3, 1 / 3]])


@pytest.mark.parametrize("shape", [(), (40,), (7, 9), (3, 4, 5)])
def test_votes_are_shares_of_those_who_annotated(shape):
    said, where = rated(shape)
    near(labels.from_raters(said, CLASSES, where=where), votes_of(said, where))
    near(labels.from_raters(said, CLASSES), votes_of(said, where | True))


@pytest.mark.parametrize("iterations", [1, 2, 10])
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("everywhere", [True, False])
def test_staple_written_out(classes, iterations, everywhere):
    said, where = rated((12, 13), classes=classes)
    where[0, :3], where[:, 5, 5:8] = False, False
    where |= everywhere
    found = staple(said, classes, where=where, iterations=iterations)
    assert found.shape == (12, 13, classes)
    np.testing.assert_allclose(found, staple_of(said, where, iterations, classes), atol=2e-5)
    near(found.sum(-1), 1)


def test_staple_stops_after_50_iterations():
    said, _ = rated((12, 13))
    same(staple(said, CLASSES), staple(said, CLASSES, iterations=50))
    assert np.any(staple(said, CLASSES) != staple(said, CLASSES, iterations=49))


def test_staple_of_what_nobody_says_or_annotates():
    """A class, a rater and pixels without any annotation take part in nothing."""
    said, where = rated((12, 13))
    where[2] = where[:, 4] = False
    found = np.asarray(staple(said, CLASSES, where=where))
    fewer = np.delete(said, 2, 0), np.delete(where, 2, 0)
    near(found, staple(fewer[0], CLASSES, where=fewer[1]), atol=1e-5)
    same(found[4], 1 / CLASSES)
    rest = staple(np.delete(said, 4, 1), CLASSES, where=np.delete(where, 4, 1))
    near(np.delete(found, 4, 0), rest, atol=1e-5)
    more = np.asarray(staple(said, CLASSES + 2, where=where))
    near(np.delete(more[..., :CLASSES], 4, 0), rest, atol=1e-5)
    same(np.delete(more[..., CLASSES:], 4, 0), 0)
    same(staple(said, CLASSES, where=where & False), np.full(found.shape, 1 / CLASSES))


def test_staple_knows_neither_names_nor_order():
    said, where = rated((12, 13))
    found = staple(said, CLASSES, where=where)
    near(staple(said[::-1], CLASSES, where=where[::-1]), found, atol=1e-5)
    renamed = staple(CLASSES - 1 - said, CLASSES, where=where)
    near(renamed[..., ::-1], found, atol=1e-5)
    near(staple(said[..., ::-1], CLASSES, where=where[..., ::-1])[:, ::-1], found, atol=1e-5)


# What SimpleITK 2.5.7 gives, by what the four raters say of a pixel, after 1, 3 and 8 iterations:
#   staple = SimpleITK.STAPLEImageFilter()
#   staple.SetForegroundValue(1)
#   staple.SetMaximumIterations(iterations)
#   staple.Execute([SimpleITK.GetImageFromArray(rater) for rater in ITK_RATERS])
ITK_RATERS = np.array(
    [
        [[0, 0, 1, 1, 0, 0], [0, 1, 1, 1, 1, 0], [0, 1, 1, 1, 1, 0], [0, 0, 1, 1, 0, 0]],
        [[0, 0, 0, 1, 0, 0], [0, 0, 1, 1, 1, 0], [0, 0, 1, 1, 1, 0], [0, 0, 1, 1, 0, 0]],
        [[0, 0, 1, 1, 1, 0], [0, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 0]],
        [[1, 1, 1, 0, 0, 0], [0, 1, 1, 1, 1, 0], [0, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0]],
    ],
    np.uint8,
)
ITK_POSTERIORS = {
    (0, 0, 0, 0): (0.006245714, 0.00010342316, 4.5737801e-09),
    (0, 0, 0, 1): (0.035650557, 0.00047897432, 2.6146136e-08),
    (0, 0, 1, 0): (0.063646497, 0.0014375149, 4.8092347e-08),
    (1, 0, 0, 1): (0.48408289, 0.62582372, 0.94043801),
    (1, 0, 1, 1): (0.91029611, 0.95881086, 0.99401271),
    (1, 1, 0, 0): (0.74792312, 0.99691391, 1.0),
    (1, 1, 1, 0): (0.96977843, 0.99977763, 1.0),
    (1, 1, 1, 1): (0.99472988, 0.99995199, 1.0),
}


@pytest.mark.parametrize(("column", "iterations"), [(0, 1), (1, 3), (2, 8)])
def test_staple_of_two_classes_is_that_of_itk(column, iterations):
    said = [tuple(x) for x in ITK_RATERS.reshape(4, -1).T.tolist()]
    expected = np.reshape([ITK_POSTERIORS[x][column] for x in said], (4, 6))
    found = staple(ITK_RATERS, 2, iterations=iterations)
    np.testing.assert_allclose(found[..., 1], expected, rtol=2e-5)
    np.testing.assert_allclose(found[..., 0], 1 - expected, atol=1e-6)


def test_staple_finds_the_truth_among_raters_of_differing_quality():
    """Two good raters and three poor ones, who confuse classes in ways of their own."""
    rng = np.random.default_rng(0)
    truth = indices((48, 48), classes=3)
    good, poor = np.full((3, 3), 0.05) + 0.85 * np.eye(3), np.full((3, 3), 0.3) + 0.1 * np.eye(3)
    poor = np.array([poor, poor, np.roll(poor, 1, 1)])
    chances = np.cumsum(np.stack([good, good, *poor])[:, truth], -1)
    said = np.sum(rng.random(chances.shape[:-1])[..., None] > chances[..., :-1], -1)
    likelihood = np.log(np.bincount(truth.ravel(), minlength=3) / truth.size) * np.ones((48, 48, 1))
    for rater, confusion in zip(said, [good, good, *poor], strict=True):
        likelihood = likelihood + np.log(confusion.T[rater])
    best = np.mean(np.argmax(likelihood, -1) == truth)  # of those who know all confusions
    found, votes = (np.argmax(f(said, 3), -1) == truth for f in (staple, labels.from_raters))
    assert best - 0.01 < found.mean() < best + 0.01
    assert found.mean() > votes.mean() + 0.1


def test_staple_of_hundreds_of_raters():
    """Each class has pixels of its own, but at first is less likely than float32 can tell of.

    One of 200 raters sees class 2, in half of class 0 and half of class 1; at first the others seem
    to toss a coin there.
    """
    truth = np.arange(40) % 2
    said = np.where(np.random.default_rng(0).random((200, 40)) < 0.01, 1 - truth, truth)
    said[0, :20] = 2
    where = np.broadcast_to(np.arange(40) < 39, said.shape)
    expected = staple_of(said, where, 5, 3)
    assert expected[..., 2].max() > 0.1
    found = staple(said, 3, where=where, iterations=5)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)


@pytest.fixture
def nodules(shared_data):
    """Outlines of nodules by four radiologists each, `[nodules, raters, height, width]`."""
    with np.load(shared_data / "lidc_raters" / "lidc_4rater_64.npz") as file:
        return np.unpackbits(file["masks"], axis=-1).reshape(file["shape"])[::15]


def test_votes_on_real_raters(nodules):
    found = jax.vmap(partial(labels.from_raters, num_classes=2))(nodules)
    same(found[..., 1], nodules.mean(1))
    same(found[..., 0], 1 - nodules.mean(1))


def test_staple_on_real_raters(nodules):
    """Converged, and of one mind with them wherever they are of one mind."""
    found, earlier = (
        np.asarray(jax.vmap(partial(staple, num_classes=2, iterations=iterations))(nodules))
        for iterations in (50, 40)
    )
    assert found.min() >= 0
    assert found.max() <= 1
    near(found.sum(-1), 1)
    np.testing.assert_allclose(found, earlier, atol=1e-5)
    agreed = np.ptp(nodules, 1) == 0
    same(np.argmax(found, -1)[agreed], nodules[:, 0][agreed])
    assert np.abs(found[..., 1] - nodules.mean(1)).max() > 0.4


def example(function, shape=(4, 9, 8), dtype=np.int32):
    """Labels that a function takes, and where they count, if it asks for that."""
    if function in of_raters:
        y, where = rated(shape[1:], raters=shape[0])
    else:
        y = indices(shape)
        where = np.random.default_rng(1).random(shape) < 0.7
    return y.astype(dtype), {} if function is labels.smooth else {"where": where}


def pixels_of(function, y):
    return y.shape[1:] if function in of_raters else y.shape


@every_function
def test_all_are_distributions(function):
    y, options = example(function)
    for found in (function(y, CLASSES), function(y, CLASSES, **options)):
        assert found.dtype == jnp.float32
        assert found.shape == (*pixels_of(function, y), CLASSES)
        assert np.min(found) >= 0
        near(np.sum(found, -1), 1)


@every_function
def test_losses_take_the_result(function):
    """At the logits of which they are, all but rounding, at their least."""
    y, options = example(function)
    p = function(y, CLASSES, **options)
    where = np.random.default_rng(2).random(p.shape[:-1]) < 0.8
    logits = np.log(np.maximum(p, 1e-30))
    assert abs(losses.kl_divergence(logits, p, where=where)) < 1e-6
    assert losses.kl_divergence(np.zeros_like(logits), p, where=where) > 0.1


@every_function
def test_jit_changes_nothing(function):
    y, options = example(function)
    expected = function(y, CLASSES, **options)
    jitted = jax.jit(lambda y, **options: function(y, CLASSES, **options))
    near(jitted(y, **options), expected, atol=1e-6)


@every_function
def test_vmap_is_a_loop(function):
    batch = [example(function), example(function)]
    batch[1] = (CLASSES - 1 - batch[1][0], {k: ~v for k, v in batch[1][1].items()})
    expected = [function(y, CLASSES, **options) for y, options in batch]
    y, options = jax.tree.map(lambda *x: np.stack(x, 1), *batch)
    found = jax.vmap(lambda y, o: function(y, CLASSES, **o), in_axes=1)(y, options)
    near(found, expected, atol=1e-6)


@every_function
def test_replicas_change_nothing(function):
    batch = [np.roll(example(function)[0], k, -1) for k in range(8)]
    expected = np.stack([function(y, CLASSES) for y in batch])
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("replicas",))
    spec = jax.sharding.PartitionSpec("replicas")
    each = jax.vmap(lambda y: function(y, CLASSES))
    mapped = jax.jit(jax.shard_map(each, mesh=mesh, in_specs=spec, out_specs=spec))
    near(mapped(np.stack(batch)), expected, atol=1e-6)
    near(jax.pmap(lambda y: function(y, CLASSES))(np.stack(batch)), expected, atol=1e-6)


@of_labels
def test_a_batch_is_its_images(function):
    y, options = example(function)
    for k in range(len(y)):
        one = function(y[k], CLASSES, **{name: value[k] for name, value in options.items()})
        same(function(y, CLASSES, **options)[k], one)


@masked_functions
@pytest.mark.parametrize("garbage", [255, -1, CLASSES, np.iinfo(np.int32).min])
def test_garbage_outside_where_changes_no_bit(function, garbage):
    y, options = example(function)
    where = options["where"]
    expected = function(y, CLASSES, where=where)
    assert np.isfinite(expected).all()
    same(function(np.where(where, y, garbage), CLASSES, where=where), expected)
    same(function(np.where(where, y, 0), CLASSES, where=where), expected)


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -1e30])
def test_garbage_of_distributions_outside_where_changes_no_bit(garbage):
    y, options = example(labels.spatially_varying)
    p, inside = one_hot(y).astype(np.float32), options["where"][..., None]
    expected = labels.spatially_varying(p, CLASSES, **options)
    same(labels.spatially_varying(np.where(inside, p, garbage), CLASSES, **options), expected)


@every_function
@pytest.mark.parametrize("wrong", [CLASSES, -1, 1 << 16])
def test_an_index_of_no_class_is_nan(function, wrong):
    """Where it has a say, and in every loss of that; elsewhere nothing changes."""
    y, _ = example(function)
    expected = np.array(function(y, CLASSES))
    y[2, 4, 4] = wrong
    found = function(y, CLASSES)
    if function is labels.smooth:
        expected[2, 4, 4] = np.nan
    elif function is labels.spatially_varying:
        expected[2, 3:6, 3:6] = np.nan
    elif function is labels.from_raters:
        expected[4, 4] = np.nan
    else:
        expected[:] = np.nan
    same(found, expected)
    assert np.isnan(losses.cross_entropy(np.zeros(found.shape, np.float32), found))


@every_function
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint32])
def test_indices_of_any_integer_type(function, dtype):
    y, options = example(function)
    expected = function(y, 300, **options)
    found = function(y.astype(dtype), 300, **options)  # more classes than int8 and uint8 can name
    assert found.dtype == jnp.float32
    same(found, expected)


@of_labels
def test_distributions_are_computed_in_float32_at_least(function):
    p = np.random.default_rng(0).dirichlet(np.ones(CLASSES), (9, 8)).astype(np.float32)
    for dtype in (jnp.bfloat16, jnp.float16):
        narrow = p.astype(dtype)
        found = function(narrow, CLASSES)
        assert found.dtype == jnp.float32
        same(found, function(narrow.astype(np.float32), CLASSES))


@pytest.mark.usefixtures("x64")
@every_function
def test_dtypes_in_float64(function):
    y, options = example(function, dtype=np.int64)
    assert function(y, CLASSES, **options).dtype == jnp.float32
    if function in (labels.smooth, labels.spatially_varying):
        p = np.random.default_rng(0).dirichlet(np.ones(CLASSES), y.shape)
        found = function(p, CLASSES, **options)
        assert found.dtype == jnp.float64
        np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-14)
        assert function(p.astype(np.float32), CLASSES, **options).dtype == jnp.float32


@every_function
@pytest.mark.parametrize("shape", [(0, 4, 3), (2, 0, 3), (2, 3, 0)])
def test_no_pixels_are_no_error(function, shape):
    y = np.zeros(shape, np.int32)
    found = function(y, CLASSES)
    assert found.shape == (*pixels_of(function, y), CLASSES)
    same(found, np.full(found.shape, 1 / CLASSES))  # those of no rater at all


@every_function
def test_a_single_class_is_certain(function):
    y = np.zeros((3, 4, 5), np.int32)
    same(function(y, 1), np.ones((*pixels_of(function, y), 1)))


@every_function
def test_what_are_no_labels_is_refused(function):
    y = np.zeros((3, 4, 5), np.int32)
    for dtype in (bool, np.complex64):
        with pytest.raises(TypeError, match=rf"are {np.dtype(dtype)}.*, but must be class indices"):
            function(y.astype(dtype), CLASSES)
    for number in (0, -1, 2.0, True, "4"):
        message = f"num_classes is {number!r}, but must be a Python integer of at least 1"
        with pytest.raises(ValueError, match=re.escape(message)):
            function(y, number)


@of_labels
@pytest.mark.parametrize("shape", [(), (3, 5)])
def test_distributions_have_all_classes(function, shape):
    message = f"labels are float32{list(shape)} for num_classes 4, but a distribution needs the"
    with pytest.raises(ValueError, match=re.escape(message)):
        function(np.ones(shape, np.float32), 4)


@masked_functions
def test_where_has_the_shape_of_the_labels(function):
    y = np.zeros((3, 4, 5), np.int32)
    for where in (np.ones((4, 5), bool), np.ones((3, 4, 5), np.int32)):
        message = f"where is {where.dtype}{list(where.shape)}, but must be bool[3, 4, 5]: True for"
        with pytest.raises(ValueError, match=re.escape(message)):
            function(y, CLASSES, where=where)


@pytest.mark.parametrize("value", [-0.1, 1.1, np.nan])
def test_label_smoothing_is_a_share(value):
    with pytest.raises(ValueError, match=f"label_smoothing is {value}, but must lie in 0..1"):
        labels.smooth(np.zeros(3, np.int32), 2, label_smoothing=value)


def test_options_are_python_numbers():
    y = np.zeros((3, 4), np.int32)
    for value in (jnp.ones(()), "1", None, True):
        with pytest.raises(TypeError, match=r"label_smoothing is .*, but must be a Python number"):
            labels.smooth(y, 2, label_smoothing=value)
        with pytest.raises(TypeError, match=r"sigma is .*, but must be a Python number"):
            labels.spatially_varying(y, 2, sigma=value)


def test_neighbourhoods_have_a_size_and_a_middle():
    y = np.zeros((3, 4), np.int32)
    for sigma in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match=f"sigma is {sigma}, but must be positive"):
            labels.spatially_varying(y, 2, sigma=sigma)
    for size in (1, -3, 3.0, True):
        message = f"size is {size!r}, but must be a Python integer of at least 3"
        with pytest.raises(ValueError, match=re.escape(message)):
            labels.spatially_varying(y, 2, size=size)
    with pytest.raises(ValueError, match="size is 4, but must be odd"):
        labels.spatially_varying(y, 2, size=4)
    for rank in (0, 3):
        message = f"spatial_rank is {rank} for pixels of shape [3, 4], but must lie in 1..2"
        with pytest.raises(ValueError, match=re.escape(message)):
            labels.spatially_varying(y, 2, spatial_rank=rank)


def test_raters_give_indices_and_a_method_is_known():
    for raters in (np.zeros((3, 4), np.float32), np.int32(1)):
        message = f"raters are {raters.dtype}{list(raters.shape)}, but must be class indices of an"
        with pytest.raises(TypeError, match=re.escape(message)):
            labels.from_raters(raters, 2)
    y = np.zeros((3, 4), np.int32)
    with pytest.raises(ValueError, match='method is \'mean\', but must be "votes" or "staple"'):
        labels.from_raters(y, 2, method="mean")
    for iterations in (0, 2.0, True):
        message = f"iterations is {iterations!r}, but must be a Python integer of at least 1"
        with pytest.raises(ValueError, match=re.escape(message)):
            staple(y, 2, iterations=iterations)
