"""Calibration and error detection: counted exactly, against definitions that see every pixel."""

import fractions
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import metrics
from jaxseg.metrics import calibration
from jaxseg.metrics.selective import Detection

CLASSES = 4


def data(shape=(8, 9, 7), seed=0, sharpness=3.0):
    """Probabilities in float32, labels that follow them in part, of which 255 is none, `where`."""
    rng = np.random.default_rng(seed)
    logits = sharpness * rng.normal(size=(*shape, CLASSES))
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    labels = np.argmax(logits / sharpness + rng.gumbel(size=logits.shape), -1)
    labels = np.where(rng.random(shape) < 0.1, 255, labels)
    return probs.astype(np.float32), labels.astype(np.int32), rng.random(shape) < 0.8


def counted(probs, labels, where=None, metric=None):
    metric = metric or metrics.Calibration(CLASSES)
    return metric.compute(metric.update(metric.init(), probs, labels, where=where))


def chosen(probs, labels, where=None):
    """The confidences in float64 of the pixels that count, which are right, and their all."""
    kept = (labels >= 0) & (labels < probs.shape[-1])
    kept = kept if where is None else kept & where
    probs, labels = probs[kept], labels[kept]
    return probs.max(-1).astype(np.float64), probs.argmax(-1) == labels, probs, labels


def gaps(values, hits, num_bins):
    """Sum of values less hits, and pixels, of each bin (l, u], pixel by pixel."""
    borders = np.linspace(0, 1, num_bins + 1).astype(np.float32)
    found = []
    for i, (low, high) in enumerate(itertools.pairwise(borders)):
        inside = ((values > low) | (i == 0)) & (values <= high)
        found.append((values[inside].astype(np.float64).sum() - hits[inside].sum(), inside.sum()))
    assert sum(n for _, n in found) == len(values)
    return np.array(found).T


def same(first, second):
    """Whether two of what `compute` gives are equal to the last bit."""
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


# Half a step of the fixed point, and the rounding of float64.
BOUND = 2**-25 + 1e-12


@pytest.mark.parametrize("num_bins", [1, 2, 10, 15, 100])
@pytest.mark.parametrize("shape", [(), (1,), (500,), (8, 9, 7)])
def test_errors_are_those_of_every_pixel(num_bins, shape):
    """In float64: expected, maximum and classwise, with and without `where`."""
    probs, labels, where = data(shape, seed=num_bins)
    labels = np.where(labels == 255, 0, labels) if labels.size == 1 else labels
    for where_ in (None, where) if labels.size > 1 else (None,):
        found = counted(probs, labels, where_, metrics.Calibration(CLASSES, num_bins))
        confidence, right, kept, kept_labels = chosen(probs, labels, where_)
        gap, pixels = gaps(confidence, right, num_bins)
        assert found.top.pixels.dtype == np.int64
        np.testing.assert_array_equal(found.top.pixels, pixels)
        some = pixels > 0
        for error, expected in (
            (metrics.expected_calibration_error, np.abs(gap).sum() / pixels.sum()),
            (metrics.maximum_calibration_error, np.max(np.abs(gap[some]) / pixels[some])),
        ):
            assert isinstance(error(found), float)
            np.testing.assert_allclose(error(found), expected, rtol=0, atol=BOUND)
        by_class = [
            np.abs(gaps(kept[:, c], kept_labels == c, num_bins)[0]).sum() / len(kept)
            for c in range(CLASSES)
        ]
        classes = metrics.classwise_calibration_error(found, absent=True)
        np.testing.assert_allclose(classes, np.mean(by_class), rtol=0, atol=BOUND)


def test_sums_are_within_their_bound_and_mostly_exact():
    """From 1/2 on the sums are those of fractions; below they are off by 2^-25 for each pixel."""
    probs, labels, _ = data((4000,), sharpness=2.0)
    found = counted(probs, labels, metric=metrics.Calibration(CLASSES, 2))
    confidence, *_ = chosen(probs, labels)
    for i, part in enumerate((confidence <= 0.5, confidence > 0.5)):
        exact = sum(map(fractions.Fraction, confidence[part].tolist()))
        error = abs(fractions.Fraction(float(found.top.probs[i])) - exact)
        assert error <= (part.sum() * fractions.Fraction(1, 2**25) if i == 0 else 0)
        assert part.sum() > 500


@pytest.mark.parametrize("num_bins", [3, 10, 15, 17])
def test_borders_belong_to_the_bin_below(num_bins):
    """Every border in float32 and the floats next to it, 0 in the first bin and 1 in the last."""
    borders = np.linspace(0, 1, num_bins + 1).astype(np.float32)
    below, above = np.nextafter(borders[1:], np.float32(0)), np.nextafter(borders, np.float32(2))
    values = np.concatenate([borders, below, above[:-1]])
    bins = [0, *range(num_bins), *range(num_bins), *range(num_bins)]
    # One class alone, so that any value is the confidence.
    metric = metrics.Calibration(1, num_bins)
    for value, expected in zip(values, bins, strict=True):
        found = counted(value[None, None], np.zeros(1, int), metric=metric)
        assert np.flatnonzero(found.top.pixels).tolist() == [expected]
        assert np.flatnonzero(found.classes.pixels[0]).tolist() == [expected]


def test_by_hand():
    """Four pixels in two bins: confidences 0.75 and 1, and 0.5 twice; one is wrong of each bin."""
    probs = np.array([[0.75, 0.25], [0.0, 1.0], [0.5, 0.5], [0.5, 0.5]], np.float32)
    labels = np.array([0, 0, 0, 1])  # the first of equal classes is predicted
    found = counted(probs, labels, metric=metrics.Calibration(2, 2))
    assert metrics.expected_calibration_error(found) == (2 * (0.5 - 0.5) + (1.75 - 1)) / 4
    assert metrics.maximum_calibration_error(found) == 1.75 / 2 - 1 / 2
    # Class 0: in 0..1/2 are 0, 1/2, 1/2 of labels 0, 0, 1; class 1 has 1/4, 1/2, 1/2 there.
    first = abs(0 + 0.5 + 0.5 - 2) + abs(0.75 - 1)
    second = abs(0.25 + 0.5 + 0.5 - 1) + abs(1 - 0)
    expected = (first / 4 + second / 4) / 2
    assert metrics.classwise_calibration_error(found) == expected
    curve = metrics.reliability_curve(found)
    assert [x.tolist() for x in curve] == [[0.5, 0.875], [0.5, 0.5], [0.5, 0.5]]


def test_a_class_that_is_no_label():
    """It is left out, or counted with its mean probability."""
    probs = np.array([[0.5, 0.5, 0.0], [0.5, 0.25, 0.25]], np.float32)
    found = counted(probs, np.array([0, 1]), metric=metrics.Calibration(3, 1))
    errors = [abs(0.5 + 0.5 - 1) / 2, abs(0.5 + 0.25 - 1) / 2, 0.25 / 2]
    assert metrics.classwise_calibration_error(found) == sum(errors[:2]) / 2
    assert metrics.classwise_calibration_error(found, absent=True) == sum(errors) / 3


def test_nothing_that_counts_is_nan():
    """No warning, no 0; and neither a NaN nor a strange label outside `where` changes that."""
    metric = metrics.Calibration(CLASSES)
    probs, labels, _ = data((6,))
    nothing = metric.update(
        metric.init(), np.full_like(probs, np.nan), labels, where=np.zeros(6, bool)
    )
    none = metric.update(metric.init(), probs[:0], labels[:0])
    for state in (metric.init(), nothing, none):
        found = metric.compute(state)
        for error in (
            metrics.expected_calibration_error,
            metrics.maximum_calibration_error,
            metrics.classwise_calibration_error,
            metrics.adaptive_calibration_error,
        ):
            assert math.isnan(error(found))
        assert all(np.isnan(x).all() and len(x) == 15 for x in metrics.reliability_curve(found))
        assert not any(x.any() for x in jax.tree.leaves(found))


def test_pixels_that_are_not_counted():
    """Labels outside the classes, and NaN: the rest is as without them."""
    probs, labels, _ = data((50,))
    labels[labels == 255] = 0
    strange = np.concatenate([probs, probs[:4], np.full((2, CLASSES), np.nan, np.float32)])
    strange[-1, :-1] = 0.2
    values = np.concatenate([labels, [-1, CLASSES, 255, -(2**31)], [0, 1]])
    assert counted(probs, labels).top.pixels.sum() == 50
    same(counted(strange, values), counted(probs, labels))


def test_rounding_beyond_one_is_one():
    above = np.array([[1 + 2**-20, -(2**-20)]], np.float32)
    exact = np.array([[1.0, 0.0]], np.float32)
    metric = metrics.Calibration(2)
    same(counted(above, np.array([0]), metric=metric), counted(exact, np.array([0]), metric=metric))


class TestStates:
    """Both metrics: the same to the last bit however the pixels come."""

    calibration = metrics.Calibration(CLASSES)
    detection = metrics.ErrorDetection()

    def updated(self, name, state, probs, labels, where, axis_name=None):
        if name == "calibration":
            return self.calibration.update(state, probs, labels, where=where, axis_name=axis_name)
        uncertainty, errors = 1 - probs.max(-1), probs.argmax(-1) != labels
        return self.detection.update(state, uncertainty, errors, where=where, axis_name=axis_name)

    @pytest.mark.parametrize("name", ["calibration", "detection"])
    def test_batches_and_merging(self, name):
        metric, batch = getattr(self, name), data()
        update = jax.jit(lambda *x: self.updated(name, *x))
        expected = metric.compute(update(metric.init(), *batch))
        for size in (1, 3, 5):
            state = metric.init()
            for start in range(0, 8, size):
                state = update(state, *(x[start : start + size] for x in batch))
            same(metric.compute(state), expected)
        states = [update(metric.init(), *(x[i] for x in batch)) for i in range(8)]
        for seed in range(3):
            order = np.random.default_rng(seed).permutation(8)
            same(metric.compute(metric.merge(*(states[i] for i in order))), expected)
            pairs = [metric.merge(states[a], states[b]) for a, b in order.reshape(4, 2).tolist()]
            same(metric.compute(metric.merge(*pairs)), expected)

    @pytest.mark.parametrize("name", ["calibration", "detection"])
    def test_eight_devices(self, name):
        """The state of the global batch on each, by pmap and by shard_map."""
        metric, batch = getattr(self, name), data(seed=1)
        batch[2][0] = False
        before = self.updated(name, metric.init(), *data(seed=2))
        expected = metric.compute(self.updated(name, before, *batch))

        def replica(*batch):
            return self.updated(name, before, *batch, axis_name="replicas")

        states = jax.pmap(replica, "replicas")(*batch)
        for i in range(8):
            same(metric.compute(jax.tree.map(lambda x, i=i: x[i], states)), expected)
        mesh = jax.sharding.Mesh(np.array(jax.devices()), ("replicas",))
        split, whole = jax.sharding.PartitionSpec("replicas"), jax.sharding.PartitionSpec()
        sharded = jax.shard_map(replica, mesh=mesh, in_specs=split, out_specs=whole)
        same(metric.compute(jax.jit(sharded)(*batch)), expected)

    @pytest.mark.parametrize("name", ["calibration", "detection"])
    def test_more_than_int32_can_count(self, name):
        """Doubled 33 times, which no int32 holds, everything is 2^33 times as much."""
        metric = getattr(self, name)
        state = self.updated(name, metric.init(), *data((90,)))
        once, merge = metric.compute(state), jax.jit(metric.merge)
        for _ in range(33):
            state = merge(state, state)
        many = metric.compute(state)
        if name == "calibration":
            expected = jax.tree.map(lambda x: x * 2**33, once)
        else:
            expected = Detection(once.uncertainty, once.right * 2**33, once.wrong * 2**33)
        same(many, expected)


@pytest.mark.parametrize("chunk", [1, 7, 63, 64, 1000])
def test_chunks(chunk, monkeypatch):
    """Pixels are summed in parts, of which the last may be shorter."""
    batch = data((64,))
    expected = counted(*batch)
    monkeypatch.setattr(calibration, "_CHUNK", chunk)
    monkeypatch.setattr(calibration, "_counted", calibration._counted.__wrapped__)
    same(counted(*batch), expected)


def test_sums_are_exact_beyond_float32():
    """2^24 + 5 pixels, of confidence 1 but for three: neither int32 nor float32 holds their sum."""
    many = 2**24 + 5
    probs = np.ones((many, 1), np.float32)
    probs[:3] = 1 - 2.0**-24
    metric = metrics.Calibration(1)
    found = metric.compute(jax.jit(metric.update)(metric.init(), probs, np.zeros(many, np.int8)))
    for bins in found[:2]:
        last = jax.tree.map(lambda x: x.ravel()[-1], bins)
        assert last == (many, many, many - 3 * 2.0**-24)
    assert found.cells.pixels[:2].tolist() == [many - 3, 3]


def test_accelerators_do_not_scatter(monkeypatch):
    """They compare with every bin, which gives the same numbers."""
    batch = data((40,))
    metric = metrics.Calibration(CLASSES)
    traced = jax.jit(metric.update).trace(metric.init(), *batch[:2])
    for platform, scatters in (("tpu", False), ("cuda", False), ("cpu", True)):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert ("stablehlo.scatter" in text) == scatters, platform
    expected = counted(*batch)

    def elsewhere(*args, cpu, default):
        return default(*args)

    monkeypatch.setattr(calibration.lax, "platform_dependent", elsewhere)
    monkeypatch.setattr(calibration, "_counted", calibration._counted.__wrapped__)
    same(counted(*batch), expected)


def adaptive(confidence, right, num_bins):
    """By sorting all pixels, with parts of pixels where their number is no multiple."""
    order = np.argsort(-confidence, kind="stable")
    sums = np.cumsum([0.0, *(confidence - right)[order]])
    borders = np.linspace(0, len(order), num_bins + 1)
    return np.abs(np.diff(np.interp(borders, np.arange(len(order) + 1), sums))).sum() / len(order)


def bound(confidence, num_bins):
    """Half the pixels of the cells that hold a border, and the width of a cell."""
    distance = np.sort(1 - confidence)
    exponent = np.floor(np.log2(np.maximum(distance, 2.0**-60)))
    cells = np.floor(distance / 2**exponent * 128) + 1000 * exponent
    places = (len(cells) * np.arange(1, num_bins) / num_bins).astype(int)
    inside = np.isin(cells, np.union1d(cells[places], cells[places - 1]))
    return 0.5 * inside.mean() * (1 + 1 / 128) + BOUND


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 3.0, 10.0])
@pytest.mark.parametrize("num_bins", [1, 2, 15, 40])
def test_adaptive_error_is_close_to_that_by_sorting(sharpness, num_bins):
    """Within the share of the pixels whose order is not known, also where most are certain."""
    probs, labels, _ = data((20000,), sharpness=sharpness)
    confidence, right, *_ = chosen(probs, labels)
    found = metrics.adaptive_calibration_error(counted(probs, labels), num_bins=num_bins)
    expected = adaptive(confidence, right, num_bins)
    assert abs(found - expected) <= bound(confidence, num_bins)
    if sharpness < 10:
        np.testing.assert_allclose(found, expected, rtol=0, atol=5e-3)


def test_adaptive_error_is_exact_where_cells_tell_all():
    """Confidences at least 1/128 of 1 - confidence apart, from 1/2 to 1 - 2^-24, and 1."""
    distance = np.concatenate([[0.0], 2.0 ** -np.arange(1, 25), 0.75 * 2.0 ** -np.arange(1, 23)])
    confidence = np.repeat((1 - distance).astype(np.float32), 8)
    right = np.random.default_rng(0).random(len(confidence)) < 0.7
    probs = np.stack([confidence, 1 - confidence], -1)
    found = counted(probs, np.where(right, 0, 1), metric=metrics.Calibration(2))
    # Ties of equal confidence are in any order: of 47 bins each holds those of one.
    expected = adaptive(confidence.astype(np.float64), right & (confidence >= 0.5), 47)
    result = metrics.adaptive_calibration_error(found, num_bins=47)
    np.testing.assert_allclose(result, expected, rtol=1e-12)
    assert np.count_nonzero(found.cells.pixels) == 47
    with pytest.raises(ValueError, match="num_bins is 0"):
        metrics.adaptive_calibration_error(found, num_bins=0)


@pytest.mark.parametrize(
    ("probs", "labels", "where", "error", "words"),
    [
        (np.ones((3, 4), int), np.zeros(3, int), None, TypeError, "softmax over the last axis"),
        (np.ones((3, 4)), np.zeros(3), None, TypeError, r"labels are float\d+\[3\]"),
        (np.ones((3, 5)), np.zeros(3, int), None, ValueError, r"labels of \[3\] and 4 classes"),
        (np.ones((3, 4)), np.zeros((3, 1), int), None, ValueError, r"need \[3, 1, 4\]"),
        (np.ones((3, 4)), np.zeros(3, int), np.ones(2, bool), ValueError, r"where is bool\[2\]"),
        (np.ones((3, 4)), np.zeros(3, int), np.ones(3, int), ValueError, r"but must be bool\[3\]"),
    ],
)
def test_wrong_arguments_of_calibration(probs, labels, where, error, words):
    metric = metrics.Calibration(4)
    with pytest.raises(error, match=words):
        metric.update(metric.init(), probs, labels, where=where)


@pytest.mark.parametrize("options", [{"num_classes": 0}, {"num_classes": 2, "num_bins": 0}])
def test_wrong_numbers(options):
    metric = metrics.Calibration(**options)
    with pytest.raises(ValueError, match=f"{list(options)[-1]} is 0"):
        metric.update(metrics.Calibration(2).init(), np.ones((3, 2)), np.zeros(3, int))


def detected(uncertainty, errors, where=None):
    metric = metrics.ErrorDetection()
    return metric.compute(metric.update(metric.init(), uncertainty, errors, where=where))


def uncertain(size, seed=0, values=None):
    """Uncertainties that bfloat16 holds, of both signs and many sizes, and errors that follow."""
    rng = np.random.default_rng(seed)
    some = rng.normal(size=size) * 10.0 ** rng.integers(-6, 6, size)
    some = np.asarray(jnp.asarray(some if values is None else rng.choice(values, size), "bfloat16"))
    some = some.astype(np.float32)
    order = np.argsort(np.argsort(some)) / size
    return some, rng.random(size) < 0.1 + 0.6 * order


@pytest.mark.parametrize("values", [None, [0.0, -0.0, 0.5, 1.0], [0.25]])
@pytest.mark.parametrize("size", [2, 50, 400])
def test_detection_is_that_of_every_pixel(values, size):
    """For uncertainties in bfloat16: counts, curve and AUROC of all pairs, exactly."""
    uncertainty, errors = uncertain(size, size, values)
    errors[:2] = [True, False]
    where = np.random.default_rng(1).random(size) < 0.8
    where[:2] = True
    for kept in (np.ones(size, bool), where):
        found = detected(uncertainty, errors, kept)
        u, wrong = uncertainty[kept], errors[kept]
        thresholds = np.unique(u)
        np.testing.assert_array_equal(found.uncertainty, thresholds)
        coverage, risk = metrics.risk_coverage(found)
        np.testing.assert_array_equal(coverage, [np.mean(u <= t) for t in thresholds])
        np.testing.assert_array_equal(risk, [np.mean(wrong[u <= t]) for t in thresholds])
        pairs = np.sign(u[wrong][:, None] - u[~wrong][None])
        expected = np.mean((pairs + 1) / 2, dtype=np.float64)
        np.testing.assert_allclose(metrics.auroc_of_errors(found), expected, rtol=1e-12)


@pytest.mark.parametrize("values", [None, [0.0, 0.5, 1.0]])
def test_area_under_risk_coverage(values):
    """The integral of the risk, by quadrature over coverages; ties are accepted in even shares."""
    uncertainty, errors = uncertain(100, 3, values)
    found = detected(uncertainty, errors)
    accepted = np.cumsum([0, *(found.right + found.wrong)])
    wrong = np.cumsum([0, *found.wrong])
    middles = (np.arange(10**6) + 0.5) / 10**6 * 100
    expected = np.mean(np.interp(middles, accepted, wrong) / middles)
    np.testing.assert_allclose(metrics.area_under_risk_coverage(found), expected, rtol=1e-6)


def test_area_of_many_pixels_is_the_mean_of_their_risks():
    """As it is defined for pixels accepted one by one, of 30000 that are all told apart."""
    bits = np.random.default_rng(4).permutation(np.arange(1, 30001)).astype(np.uint32)
    uncertainty = (bits << 16).view(np.float32)
    errors = np.random.default_rng(5).random(30000) < bits / 30000
    wrong = errors[np.argsort(uncertainty)]
    expected = np.mean(np.cumsum(wrong) / np.arange(1, 30001))
    found = detected(uncertainty, errors)
    assert len(found.uncertainty) == 30000
    np.testing.assert_allclose(metrics.area_under_risk_coverage(found), expected, rtol=1e-3)


@pytest.mark.parametrize("power", [0.3, 1.0, 4.0])
def test_rounding_changes_scores_little(power):
    """Of continuous maps, also where most uncertainties are tiny, by less than one in thousand."""
    rng = np.random.default_rng(6)
    uncertainty = (rng.random(3000) ** power).astype(np.float32)
    errors = (
        rng.random(3000)
        < 0.3 * rng.random(3000) ** 0.5 + 0.5 * np.argsort(np.argsort(uncertainty)) / 3000
    )
    found = detected(uncertainty, errors)
    pairs = uncertainty[errors][:, None] > uncertainty[~errors][None]
    np.testing.assert_allclose(metrics.auroc_of_errors(found), pairs.mean(), rtol=0, atol=1e-3)
    wrong = errors[np.argsort(uncertainty)]
    expected = np.mean(np.cumsum(wrong) / np.arange(1, 3001))
    np.testing.assert_allclose(metrics.area_under_risk_coverage(found), expected, rtol=0, atol=3e-3)


def test_scores_at_their_ends():
    """All errors more uncertain, all less, and none said."""
    wrong = np.array([False, False, True, True])
    for uncertainty, expected in (
        ([0.0, 0.1, 0.2, 0.3], 1.0),
        ([0.3, 0.2, 0.1, 0.0], 0.0),
        ([-3.0, -2.0, -1.0, np.inf], 1.0),
        ([0.0, np.inf, np.nan, np.inf], 0.75),
        ([5.0, 5.0, 5.0, 5.0], 0.5),
    ):
        found = detected(np.array(uncertainty, np.float32), wrong)
        assert metrics.auroc_of_errors(found) == expected
    assert metrics.area_under_risk_coverage(found) == 0.5


def test_scores_without_what_they_divide_by():
    """NaN without errors, without right pixels, and without pixels, and no warning."""
    some = np.linspace(0, 1, 5, dtype=np.float32)
    none, every = np.zeros(5, bool), np.ones(5, bool)
    assert math.isnan(metrics.auroc_of_errors(detected(some, none)))
    assert math.isnan(metrics.auroc_of_errors(detected(some, every)))
    assert metrics.area_under_risk_coverage(detected(some, none)) == 0.0
    np.testing.assert_allclose(metrics.area_under_risk_coverage(detected(some, every)), 1.0)
    nothing = detected(np.full(5, np.nan, np.float32), every, none)
    assert math.isnan(metrics.auroc_of_errors(nothing))
    assert math.isnan(metrics.area_under_risk_coverage(nothing))
    assert [x.tolist() for x in metrics.risk_coverage(nothing)] == [[], []]


def test_scores_of_very_many_pixels():
    """Of 2^40, whose pairs int64 can't count."""
    found = Detection(np.array([0.0, 1.0]), np.array([2**40, 0]), np.array([2**40, 2**40]))
    assert metrics.auroc_of_errors(found) == (1 / 2 + 1) / 2


@pytest.mark.parametrize(
    ("uncertainty", "errors", "where", "error", "words"),
    [
        (np.ones(3, int), np.ones(3, bool), None, TypeError, "must be of a float dtype"),
        (np.ones(3), np.ones(3, int), None, TypeError, "as in preds != labels"),
        (np.ones((3, 1)), np.ones(3, bool), None, ValueError, "need one shape"),
        (np.ones(3), np.ones(3, bool), np.ones(1, bool), ValueError, r"where is bool\[1\]"),
    ],
)
def test_wrong_arguments_of_detection(uncertainty, errors, where, error, words):
    with pytest.raises(error, match=words):
        detected(uncertainty, errors, where)


def test_without_the_bins_of_classes():
    """The rest is the same, and the error of classes is that of none."""
    rng = np.random.default_rng(9)
    probs = rng.dirichlet(np.ones(4), 500).astype(np.float32)
    labels = rng.integers(0, 4, 500)
    whole, part = (metrics.Calibration(4, classwise=classwise) for classwise in (True, False))
    found = [x.compute(x.update(x.init(), probs, labels)) for x in (whole, part)]
    for kind in ("top", "cells"):
        for a, b in zip(*(getattr(x, kind) for x in found), strict=True):
            np.testing.assert_array_equal(a, b)
    assert metrics.classwise_calibration_error(found[0]) > 0
    assert np.isnan(metrics.classwise_calibration_error(found[1]))
