"""Masks against every other mask by exact expectation, and thresholds against their promise."""

import fractions
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from jaxseg import decisions

# What versions change shows in the examples of the docstrings.
pytestmark = pytest.mark.exhaustive

RANKS = {"dice": decisions.rank_dice, "iou": decisions.rank_iou}


def number(probs):
    """Of independent pixels the distribution of how many are true, one pixel after the other."""
    found = np.ones(1)
    for p in probs:
        found = np.convolve(found, [1 - p, p])
    return found


def expected(name, probs, mask, empty):
    """The expected score of a mask, by the distributions inside and outside of it."""
    probs, mask = np.asarray(probs, np.float64).ravel(), np.asarray(mask).ravel()
    inside, outside = number(probs[mask]), number(probs[~mask])
    if not mask.any():
        return empty * outside[0]
    true, missed = np.arange(len(inside))[:, None], np.arange(len(outside))[None]
    size = mask.sum()
    scores = 2 * true / (size + true + missed) if name == "dice" else true / (size + missed)
    return inside @ scores @ outside


def enumerated(name, probs, mask, empty):
    """The same by its definition: over all images that there can be."""
    total = 0.0
    for truth in itertools.product([False, True], repeat=len(probs)):
        truth = np.array(truth)
        both, sizes = (truth & mask).sum(), truth.sum() + mask.sum()
        score = 2 * both / sizes if sizes else empty
        if name == "iou":
            score = both / (sizes - both) if sizes else empty
        total += np.prod(np.where(truth, probs, 1 - probs)) * score
    return total


@pytest.mark.parametrize("name", RANKS)
def test_expectation_is_that_over_all_images(name):
    """Of the tests' own definition, by which the masks are judged."""
    probs = np.array([0.9, 0.5, 0.05, 1.0, 0.0, 0.3])
    for mask in itertools.product([False, True], repeat=6):
        found = expected(name, probs, mask, 0.7)
        np.testing.assert_allclose(
            found, enumerated(name, probs, np.array(mask), 0.7), rtol=1e-12, atol=1e-15
        )


def few(pixels):
    """Probabilities of few pixels, of all kinds."""
    rng = np.random.default_rng(pixels)
    return {
        "uniform": rng.random(pixels),
        "likely": 1 - 0.1 * rng.random(pixels),
        "rare": 0.1 * rng.random(pixels),
        "very_rare": 1e-4 * rng.random(pixels),
        "sharp": rng.beta(0.1, 0.1, pixels),
        "flat": np.full(pixels, 0.3),
        "ties": rng.choice([0.0, 0.2, 0.4, 1.0], pixels),
        "one_certain": np.eye(1, pixels)[0],
        "nothing": np.zeros(pixels),
        "everything": np.ones(pixels),
        "halves": np.full(pixels, 0.5),
    }


@pytest.mark.parametrize("name", RANKS)
@pytest.mark.parametrize("empty", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("pixels", [1, 2, 3, 9])
def test_no_other_mask_is_expected_to_score_more(name, empty, pixels):
    """Of all 2^pixels; not only of those that are ranked."""
    probs = np.array(list(few(pixels).values()), np.float32)
    masks = RANKS[name](probs, spatial_rank=1, empty=empty)
    assert masks.dtype == jnp.bool_
    assert masks.shape == probs.shape
    for p, mask in zip(probs, np.asarray(masks), strict=True):
        others = [
            expected(name, p, other, empty)
            for other in itertools.product([False, True], repeat=pixels)
        ]
        assert expected(name, p, mask, empty) >= max(others) * (1 - 1e-5)


@pytest.mark.parametrize("name", RANKS)
@pytest.mark.parametrize("empty", [1.0, 0.0])
def test_no_other_size_is_expected_to_score_more(name, empty):
    rng = np.random.default_rng(0)
    probs = np.array([*few(150).values(), rng.beta(0.2, 5, 150), rng.beta(5, 3, 150)], np.float32)
    masks = np.asarray(RANKS[name](probs, spatial_rank=1, empty=empty))
    sizes = set()
    for p, mask in zip(probs, masks, strict=True):
        order = np.argsort(-p, stable=True)
        best = max(expected(name, p, np.isin(range(150), order[:t]), empty) for t in range(151))
        assert expected(name, p, mask, empty) >= best * (1 - 1e-5)
        assert mask[order].tolist() == sorted(mask, reverse=True)
        sizes.add(mask.sum())
    assert len(sizes) > 6


def expanded(name, ranked):
    """The expected scores of all sizes by the moments of the counts, exact to their cube."""
    p = np.asarray(ranked, np.float64)
    variances = p * (1 - p)
    t = np.arange(1.0, len(p) + 1)
    if name == "dice":
        # 1 / (t + 1 + Y) without pixel j, to first order in what j takes from the mean
        mean, variance = t + 1 + p.sum(), variances.sum()
        first = (1 + variance / mean**2) / mean
        slope = (1 + 3 * variance / mean**2) / mean**2
        return 2 * (np.cumsum(p) * first + np.cumsum(p * p) * slope)
    mean, variance = t + p.sum() - np.cumsum(p), variances.sum() - np.cumsum(variances)
    return np.cumsum(p) * (1 + variance / mean**2) / mean


@pytest.mark.parametrize("name", RANKS)
@pytest.mark.parametrize("shapes", [(0.1, 0.5), (1.0, 20.0), (3.0, 1.0)])
def test_a_large_image(name, shapes):
    """65536 pixels, of which no score differs from those of their moments by 1e-5."""
    rng = np.random.default_rng(1)
    probs = rng.beta(*shapes, (256, 256)).astype(np.float32)
    mask = np.asarray(RANKS[name](probs))
    scores = expanded(name, np.sort(probs.ravel())[::-1])
    size = mask.sum()
    assert 0 < size < mask.size or shapes == (3.0, 1.0)
    assert scores[size - 1] >= scores.max() * (1 - 1e-5)
    assert probs[mask].min() >= probs[~mask].max(initial=0.0)
    if name == "dice" and size < mask.size:
        np.testing.assert_allclose(probs[mask].min(), scores.max() / 2, rtol=5e-3)


def test_dice_by_hand():
    """0.4 and 0.25, of which one alone scores 2/3 with both and 1 by itself; none are 0.45."""
    both = 2 / 3 * (0.4 * 0.75 + 0.6 * 0.25) + 0.4 * 0.25
    first = 0.4 * (0.75 + 2 / 3 * 0.25)
    assert first < 0.88 * 0.45 < both < 0.89 * 0.45
    for empty, taken in ((1.0, False), (0.89, False), (0.88, True), (0.0, True)):
        mask = decisions.rank_dice(jnp.array([0.4, 0.25]), spatial_rank=1, empty=empty)
        assert mask.tolist() == [taken, taken]


def test_iou_by_hand():
    """0.6 and 0.3: of the first 0.7 + 0.3 / 2 if it is true; of both 1 and 1/2 of 2 true or 1."""
    first, both = 0.6 * (0.7 + 0.3 / 2), 0.6 * 0.3 + (0.6 * 0.7 + 0.4 * 0.3) / 2
    assert 0.4 * 0.7 < both < first
    assert decisions.rank_iou(jnp.array([0.3, 0.6]), spatial_rank=1).tolist() == [False, True]


@pytest.mark.parametrize("name", RANKS)
def test_empty_decides_what_an_unlikely_image_gets(name):
    """One pixel of probability 0.3 is expected to score 0.3, and none 0.7 `empty`."""
    probs = jnp.array([[0.3]])
    for empty, taken in ((1.0, False), (0.43, False), (0.42, True), (0.0, True)):
        assert RANKS[name](probs, empty=empty).tolist() == [[taken]]


@pytest.mark.parametrize("name", RANKS)
@pytest.mark.parametrize("empty", [0.0, 1.0])
def test_a_pixel_of_probability_0_is_never_taken(name, empty):
    """Even where it costs less than float32 can tell."""
    for likely in (0, 1, 1000):
        probs = np.zeros((300, 400), np.float32)
        probs.flat[:likely] = 0.9
        np.testing.assert_array_equal(RANKS[name](probs, empty=empty), probs > 0)


@pytest.mark.parametrize("name", RANKS)
@pytest.mark.parametrize("certain", [1, 2, 5])
def test_equal_probabilities_are_decided_alike(name, certain):
    """Below some probability none of them pays, above all of them do, and never a part."""
    sizes = []
    for equal in np.linspace(0.02, 0.5, 25):
        probs = np.full(30, equal, np.float32)
        probs[3 : 3 + certain] = 0.9
        order = np.argsort(-probs, stable=True)
        scores = [expected(name, probs, np.isin(range(30), order[:t]), 0.0) for t in range(31)]
        assert max(scores) == max(scores[certain], scores[30])
        mask = np.asarray(RANKS[name](probs, spatial_rank=1, empty=0.0))
        assert scores[mask.sum()] == max(scores)
        assert mask.sum() in (certain, 30)
        sizes.append(mask.sum())
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 2


@pytest.mark.parametrize("name", RANKS)
def test_many_equal_probabilities(name):
    """Of 9000 one more hardly costs, and rounding must not let one in for all to follow."""

    def image(equal):
        return np.repeat(np.array([0.75, equal], np.float64), (1000, 9000))

    def gain(equal):
        scores = expanded(name, image(equal))
        return scores[-1] - scores[999]

    even = optimize.brentq(gain, 0.05, 0.45)
    probs = np.array([image(even * (1 + x)) for x in np.linspace(-1e-3, 1e-3, 60)], np.float32)
    sizes = np.sum(RANKS[name](probs, spatial_rank=1), 1)
    assert set(sizes.tolist()) == {1000, 10000}
    for p, size in zip(probs, sizes, strict=True):
        scores = expanded(name, p)
        assert scores[size - 1] >= scores.max() * (1 - 1e-5)


@pytest.mark.parametrize("name", RANKS)
@pytest.mark.parametrize("pixels", [1, 2, 30, 2000])
def test_the_score_is_exact_where_nothing_is_as_good(name, pixels):
    """The `empty` at which nothing becomes the better mask, to 2e-5 of it."""
    rng = np.random.default_rng(pixels)
    probs = rng.random(pixels) + 0.5
    probs = (0.4 * probs / probs.sum()).astype(np.float32)
    mask = np.asarray(RANKS[name](probs, spatial_rank=1, empty=0.0))
    even = expected(name, probs, mask, 0.0) / np.prod(1 - probs.astype(np.float64))
    assert even < 0.8
    for empty, best in ((even * (1 - 1e-5), mask), (even * (1 + 1e-5), np.zeros_like(mask))):
        found = RANKS[name](probs, spatial_rank=1, empty=float(empty))
        np.testing.assert_array_equal(found, best)


@pytest.mark.parametrize("name", RANKS)
def test_pixels_outside_where_do_not_count(name):
    """Whatever they hold: the mask is that of the other pixels alone."""
    rng = np.random.default_rng(2)
    probs = rng.beta(0.5, 2, (3, 12, 9)).astype(np.float32)
    where = rng.random((3, 12, 9)) < 0.6
    where[2] = False
    outside = np.where(rng.random(probs.shape) < 0.5, np.nan, 1.0).astype(np.float32)
    found = RANKS[name](np.where(where, probs, outside), where=where)
    assert not found[~where].any()
    for p, w, mask in zip(probs[:2], where[:2], np.asarray(found)[:2], strict=True):
        np.testing.assert_array_equal(mask[w], RANKS[name](p[w], spatial_rank=1))
        assert 0 < mask.sum() < w.sum()


@pytest.mark.parametrize("name", RANKS)
def test_probabilities_that_exceed_1_by_rounding(name):
    probs = np.array([0.0, 1.0, 1.0, 0.05], np.float32) * np.float32(1 + 1e-6)
    assert probs.max() > 1
    assert RANKS[name](probs, spatial_rank=1).tolist() == [False, True, True, False]


@pytest.mark.parametrize("name", RANKS)
def test_any_batch_axes_and_spatial_rank(name):
    """Images and classes: each by itself, as maps or as volumes, compiled or not."""
    rng = np.random.default_rng(3)
    probs = rng.beta(0.5, 1, (2, 3, 4, 5, 6)).astype(np.float32)
    for spatial_rank in (1, 2, 3):
        rank = functools.partial(RANKS[name], spatial_rank=spatial_rank)
        found = jax.jit(rank)(probs)
        for index in np.ndindex(probs.shape[: 5 - spatial_rank]):
            np.testing.assert_array_equal(found[index], rank(probs[index]))
    np.testing.assert_array_equal(found, jax.vmap(rank)(probs))


@pytest.mark.parametrize("name", RANKS)
def test_half_precision(name):
    probs = jnp.asarray(np.random.default_rng(4).random((20, 20)), jnp.bfloat16)
    found = RANKS[name](probs)
    np.testing.assert_array_equal(found, RANKS[name](probs.astype(jnp.float32)))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", RANKS)
def test_double_precision(name):
    """Decided in float32, whatever comes in."""
    probs = jnp.asarray(np.random.default_rng(4).random((20, 20)))
    assert probs.dtype == jnp.float64
    np.testing.assert_array_equal(RANKS[name](probs), RANKS[name](probs.astype(jnp.float32)))
    rates = decisions.miss_rates(probs, probs > 0.2, [0.7, 0.3])
    assert rates.dtype == jnp.float32


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"probs": np.zeros((4, 4), int)}, TypeError, r"probs are int\d+\[4, 4\], .* floating"),
        ({"spatial_rank": 3}, ValueError, r"spatial_rank is 3 for probs of shape \[4, 4\]"),
        ({"spatial_rank": 0}, ValueError, "spatial_rank is 0, but must be a Python integer"),
        ({"where": np.ones((4, 5), bool)}, ValueError, r"where is bool\[4, 5\], but must be bool"),
        ({"empty": 1.5}, ValueError, r"empty is 1.5, but must lie in 0..1"),
    ],
)
@pytest.mark.parametrize("name", RANKS)
def test_errors_of_ranks(name, change, error, words):
    given = {"probs": np.zeros((4, 4), np.float32)} | change
    with pytest.raises(error, match=words):
        RANKS[name](**given)


def test_miss_rates_are_those_of_masks():
    rng = np.random.default_rng(5)
    probs = rng.random((2, 3, 9, 7)).round(1).astype(np.float32)
    labels, where = rng.random((2, *probs.shape)) < 0.5
    labels[0, 0], where[1, 1] = False, False
    thresholds = np.array([1.0, 0.5, 0.7, 0.1, 0.0], np.float32)
    found = decisions.miss_rates(probs, labels, thresholds, where=where)
    assert found.dtype == jnp.float32
    assert found.shape == (2, 3, 5)
    for index in np.ndindex(2, 3):
        counted = probs[index][labels[index] & where[index]]
        rates = [1 - np.mean(counted >= t) if len(counted) else 0.0 for t in thresholds]
        np.testing.assert_allclose(found[index], rates, rtol=1e-6, atol=1e-7)
    assert not found[0, 0].any()
    assert not found[1, 1].any()
    assert len(np.unique(found)) > 10
    compiled = jax.jit(decisions.miss_rates)(probs, labels, thresholds, where=where)
    np.testing.assert_array_equal(compiled, found)


def test_miss_rates_of_a_volume_and_of_nan():
    """A threshold that a probability reaches keeps it; NaN is in no mask."""
    probs = np.array([0.5, 0.25, math.nan, 0.75], np.float32).reshape(1, 2, 2)
    labels = np.ones((1, 2, 2), bool)
    found = decisions.miss_rates(probs, labels, [0.75, 0.5, 0.25], spatial_rank=3)
    assert found.tolist() == [3 / 4, 2 / 4, 1 / 4]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": np.zeros((4, 4), int)}, r"labels are int\d+\[4, 4\], but must be bool\[4, 4\]"),
        ({"labels": np.zeros((4, 5), bool)}, r"labels are bool\[4, 5\], but must be bool\[4, 4\]"),
        ({"thresholds": 0.5}, r"thresholds are \[\], but must be a list"),
        ({"where": np.ones((4, 5), bool)}, r"where is bool\[4, 5\]"),
        ({"spatial_rank": 3}, "spatial_rank is 3 for probs"),
    ],
)
def test_errors_of_miss_rates(change, words):
    given = {
        "probs": np.zeros((4, 4), np.float32),
        "labels": np.zeros((4, 4), bool),
        "thresholds": [0.5],
    }
    with pytest.raises(ValueError, match=words):
        decisions.miss_rates(**given | change)


def test_threshold_by_hand():
    """Of 3 images, risks whose means are 5/6, 1/2, 1/6 and 0, with a bound of 1."""
    risks = [[1.0, 0.5, 0.0, 0.0], [1.0, 0.5, 0.25, 0.0], [0.5, 0.5, 0.25, 0.0]]
    thresholds = [0.9, 0.6, 0.3, 0.0]
    for column, total in enumerate((2.5, 1.5, 0.5, 0.0)):
        alpha = (total + 1) / 4
        found = decisions.conformal_threshold(risks, thresholds, alpha=alpha)
        assert found == thresholds[column]
        if column < 3:
            found = decisions.conformal_threshold(risks, thresholds, alpha=alpha - 1e-9)
            assert found == thresholds[column + 1]


def test_threshold_of_other_units():
    """Risks of another bound: alpha scales with it."""
    risks = np.sort(np.random.default_rng(6).random((40, 20)))[:, ::-1]
    for alpha in (0.2, 0.5, 0.9):
        one = decisions.conformal_threshold(risks, range(20), alpha=alpha)
        eight = decisions.conformal_threshold(8 * risks, range(20), alpha=8 * alpha, bound=8.0)
        assert one == eight
    assert decisions.conformal_threshold(risks, range(20), alpha=1.0) == 0


def images(count, seed):
    """Miss rates of images of 40 labelled pixels, some of them far harder than others."""
    rng = np.random.default_rng(seed)
    ease = rng.normal(1.0, 1.5, (count, 1))
    logits = ease + rng.normal(0.0, 1.0, (count, 40))
    probs = (1 / (1 + np.exp(-logits))).astype(np.float32)
    thresholds = np.linspace(1, 0, 501, dtype=np.float32)
    labels = np.ones_like(probs, bool)
    return np.asarray(decisions.miss_rates(probs, labels, thresholds, spatial_rank=1)), thresholds


@pytest.mark.parametrize(("count", "alpha"), [(19, 0.2), (50, 0.1), (200, 0.05)])
def test_risk_of_a_new_image_is_alpha(count, alpha):
    """Over many draws of calibration images: no more, and less by 2 bound / (n + 1) at most."""
    risks, thresholds = images(20_000, seed=7)
    means = dict(zip(thresholds.tolist(), risks.mean(0, np.float64), strict=True))
    rng = np.random.default_rng(8)
    found = []
    for _ in range(800):
        some = risks[rng.choice(len(risks), count, replace=False)]
        found.append(means[decisions.conformal_threshold(some, thresholds, alpha=alpha)])
    error = np.std(found) / math.sqrt(len(found))
    assert np.mean(found) <= alpha + 2 * error
    assert np.mean(found) >= alpha - 2 / (count + 1) - 2 * error
    assert np.mean(found) >= alpha / 2
    assert error < 0.05 * alpha


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.07, 0.1, 0.3])
@pytest.mark.parametrize("least", [0.0, 0.005])
def test_too_few_images_say_how_many_it_takes(alpha, least):
    """One less is an error that names the number, and that number is enough."""
    exact = [fractions.Fraction(str(x)) for x in (alpha, least)]
    needed = math.ceil((1 - exact[0]) / (exact[0] - exact[1]))
    few = np.tile([1.0, least], (needed - 1, 1))
    with pytest.raises(ValueError, match=f"of {needed - 1} images .* it takes {needed} images"):
        decisions.conformal_threshold(few, [0.5, 0.0], alpha=alpha)
    enough = np.tile([1.0, least], (needed, 1))
    assert decisions.conformal_threshold(enough, [0.5, 0.0], alpha=alpha) == 0.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"risks": [0.2, 0.1]}, r"risks are \[2\] and thresholds \[2\]"),
        ({"risks": [[0.2, 0.1, 0.0]]}, r"risks are \[1, 3\] and thresholds \[2\]"),
        ({"risks": np.zeros((0, 2))}, r"risks are \[0, 2\].* at least one"),
        ({"risks": [[0.2, 0.1], [0.3, 0.4]]}, r"image 1 rises from 0.3 to 0.4, .* 0.5 to 0.25"),
        ({"risks": [[1.5, 0.1]]}, r"risks lie in 0.1..1.5, but must in 0..1"),
        ({"risks": [[0.5, -0.1]]}, r"risks lie in -0.1..0.5"),
        ({"risks": [[0.5, math.nan]]}, r"risks lie in nan"),
        ({"alpha": 0.0}, "alpha is 0.0, but must be positive"),
        ({"bound": -1.0}, "bound is -1.0, but must be positive"),
        ({"risks": [[0.5, 0.3]] * 99}, r"more than alpha, 0.2; add thresholds"),
        ({"risks": [[0.5, 0.25]] * 99, "alpha": 0.25}, r"more than alpha, 0.25; add thresholds"),
    ],
)
def test_errors_of_thresholds(change, words):
    given = {"risks": [[0.2, 0.1]] * 99, "thresholds": [0.5, 0.25], "alpha": 0.2}
    assert decisions.conformal_threshold(**given) == 0.25
    with pytest.raises(ValueError, match=words):
        decisions.conformal_threshold(**given | change)
