"""Scores of maps of ids: partitions against pairs of pixels, segments against sets of them."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxseg import metrics

pytestmark = pytest.mark.exhaustive  # counts in numpy, whatever the version of jax

SEGMENTS = 40


def maps(seed=0, images=6, shape=(11, 14), segments=SEGMENTS):
    """Maps of ids with gaps: blocks, and the same blocks of other ids, moved and with noise."""
    rng = np.random.default_rng(seed)
    labels, preds = np.zeros((2, images, *shape), np.int32)
    for i in range(images):
        ids = rng.choice(segments, (2, 4, 5), replace=False)
        rows = np.sort(rng.integers(0, shape[0], shape[0])) * 4 // shape[0]
        columns = np.sort(rng.integers(0, shape[1], shape[1])) * 5 // shape[1]
        labels[i] = ids[0][rows[:, None], columns]
        preds[i] = np.roll(ids[1][rows[:, None], columns], rng.integers(0, 2), 1)
        noisy = rng.random(shape) < 0.05
        preds[i][noisy] = rng.choice(ids[1].ravel(), noisy.sum())
    return preds, labels


def table(preds, labels, segments=SEGMENTS, where=None):
    return metrics.confusion_matrix(preds, labels, segments, where=where, by_image=True)


def joint(preds, labels):
    """The joint distribution of the ids that occur, by numpy, whatever their values."""
    pairs, counts = np.unique([labels.ravel(), preds.ravel()], axis=1, return_counts=True)
    found = np.zeros(pairs.max(1) + 1)
    found[tuple(pairs)] = counts
    return found / found.sum()


def entropy(shares):
    return stats.entropy(shares.ravel(), base=2)


class TestInformation:
    """Each image by itself, by definitions in terms of entropies and of pairs of pixels."""

    def test_variation_of_information(self):
        preds, labels = maps()
        found = metrics.variation_of_information(table(preds, labels))
        for i, (p, y) in enumerate(zip(preds, labels, strict=True)):
            shares = joint(p, y)
            split = entropy(shares) - entropy(shares.sum(1))
            merge = entropy(shares) - entropy(shares.sum(0))
            np.testing.assert_allclose(found.split[i], split, rtol=1e-12)
            np.testing.assert_allclose(found.merge[i], merge, rtol=1e-12)
            np.testing.assert_allclose(found.total[i], split + merge, rtol=1e-12)
            assert abs(split - merge) > 1e-3

    def test_split_and_merge_by_hand(self):
        """A segment cut in four has 2 bits; three joined that are 1, 1 and 2 of 4 have 3/2."""
        cut = np.zeros((4, 4), int)
        cut[1] = 5
        found = metrics.variation_of_information(cut)
        assert (found.total, found.split, found.merge) == (2.0, 2.0, 0.0)
        merged = np.diag([0, 0, 0, 12])
        merged[:3, 0] = [1, 1, 2]
        found = metrics.variation_of_information(merged)
        expected = (1 * 2 + 1 * 2 + 2 * 1) / 16
        assert (found.total, found.split, found.merge) == (expected, 0.0, expected)

    def test_adapted_rand_error(self):
        """From all pairs of distinct pixels, one by one."""
        preds, labels = maps(1)
        found = metrics.adapted_rand_error(table(preds, labels))
        for i, (p, y) in enumerate(zip(preds, labels, strict=True)):
            p, y = (np.equal.outer(x.ravel(), x.ravel()) for x in (p, y))
            distinct = ~np.eye(len(p), dtype=bool)
            both, pred, label = ((x & distinct).sum() for x in (p & y, p, y))
            np.testing.assert_allclose(found.precision[i], both / pred, rtol=1e-14)
            np.testing.assert_allclose(found.recall[i], both / label, rtol=1e-14)
            np.testing.assert_allclose(found.error[i], 1 - 2 * both / (pred + label), rtol=1e-13)
            assert both / pred != both / label

    def test_mutual_information(self):
        preds, labels = maps(2)
        found = metrics.mutual_information(table(preds, labels))
        for i, (p, y) in enumerate(zip(preds, labels, strict=True)):
            shares = joint(p, y)
            apart = np.outer(shares.sum(1), shares.sum(0))
            np.testing.assert_allclose(
                found[i], stats.entropy(shares.ravel(), apart.ravel(), base=2), rtol=1e-12
            )

    @pytest.mark.parametrize("mean", ["arithmetic", "geometric", "min", "max", "joint"])
    def test_normalized_mutual_information(self, mean):
        preds, labels = maps(3)
        found = metrics.normalized_mutual_information(table(preds, labels), mean=mean)
        for i, (p, y) in enumerate(zip(preds, labels, strict=True)):
            shares = joint(p, y)
            label, pred, both = (entropy(x) for x in (shares.sum(1), shares.sum(0), shares))
            divisor = {
                "arithmetic": (label + pred) / 2,
                "geometric": math.sqrt(label * pred),
                "min": min(label, pred),
                "max": max(label, pred),
                "joint": both,
            }[mean]
            np.testing.assert_allclose(found[i], (label + pred - both) / divisor, rtol=1e-12)

    def test_the_default_mean_is_arithmetic(self):
        confusion = table(*maps(3))
        np.testing.assert_array_equal(
            metrics.normalized_mutual_information(confusion),
            metrics.normalized_mutual_information(confusion, mean="arithmetic"),
        )

    def test_the_same_partition_under_other_ids(self):
        """Exactly the best score, for areas whose logarithms are not exact."""
        rng = np.random.default_rng(4)
        areas = rng.integers(1, 2**40, (200, 30)) * (rng.random((200, 30)) < 0.7)
        areas[:, :2] += 1
        confusion = np.stack([np.diag(x)[:, rng.permutation(30)] for x in areas])
        variation = metrics.variation_of_information(confusion)
        rand = metrics.adapted_rand_error(confusion)
        np.testing.assert_array_equal(variation, np.zeros((3, 200)))
        np.testing.assert_array_equal(rand.error, np.zeros(200))
        np.testing.assert_array_equal([rand.precision, rand.recall], np.ones((2, 200)))
        for mean in ("arithmetic", "geometric", "min", "max", "joint"):
            found = metrics.normalized_mutual_information(confusion, mean=mean)
            np.testing.assert_array_equal(found, np.ones(200))

    def test_independent_partitions(self):
        """Never below 0, however the logarithms are rounded."""
        rng = np.random.default_rng(5)
        rows, columns = rng.integers(1, 1000, (2, 500, 7))
        found = metrics.mutual_information(rows[:, :, None] * columns[:, None, :])
        np.testing.assert_allclose(found, 0.0, atol=1e-14)
        assert (found >= 0).all()

    def test_bounds(self):
        """Random matrices, refinements among them, stay in 0..1 and at least 0."""
        rng = np.random.default_rng(6)
        confusion = rng.integers(0, 1000, (500, 6, 6)) * (rng.random((500, 6, 6)) < 0.3)
        confusion[:250] *= np.arange(6) % 2 == np.arange(6)[:, None] // 3
        confusion[:, 0, 0] += 1
        for mean in ("arithmetic", "geometric", "min", "max", "joint"):
            found = metrics.normalized_mutual_information(confusion, mean=mean, empty=0.5)
            assert ((found >= 0) & (found <= 1)).all()
        for values in (
            *metrics.variation_of_information(confusion),
            *metrics.adapted_rand_error(confusion, empty=0.5),
        ):
            assert (values >= 0).all()

    def test_labels_and_predictions_change_places(self):
        confusion = np.asarray(table(*maps(7)))
        turned = confusion.swapaxes(-1, -2)
        one, other = (metrics.variation_of_information(x) for x in (confusion, turned))
        np.testing.assert_allclose(one.split, other.merge, rtol=1e-14)
        one, other = (metrics.adapted_rand_error(x) for x in (confusion, turned))
        np.testing.assert_allclose(one, (other.error, other.recall, other.precision), rtol=1e-14)

    def test_pixels_outside_where_are_no_part(self):
        """As if they were not there: here those of one label."""
        preds, labels = maps(8)
        where = labels != labels[0, 0, 0]
        found = metrics.variation_of_information(table(preds, labels, where=where))
        for i, (p, y, w) in enumerate(zip(preds, labels, where, strict=True)):
            expected = metrics.variation_of_information(table(p[w][None], y[w][None]))
            np.testing.assert_array_equal([x[i] for x in found], [x[0] for x in expected])
        assert found.total[0] != metrics.variation_of_information(table(preds, labels)).total[0]

    def test_without_a_pixel(self):
        nothing = np.zeros((2, 3, 3), int)
        for values in (
            *metrics.variation_of_information(nothing),
            metrics.mutual_information(nothing),
            *metrics.adapted_rand_error(nothing),
            metrics.normalized_mutual_information(nothing),
        ):
            np.testing.assert_array_equal(values, [math.nan, math.nan])
        for values in (
            *metrics.adapted_rand_error(nothing, empty=0.25),
            metrics.normalized_mutual_information(nothing, empty=0.25),
        ):
            np.testing.assert_array_equal(values, [0.25, 0.25])

    def test_one_pixel_and_one_segment(self):
        """One pixel makes no pair; one segment of each has no entropy, but nothing unknown."""
        one, whole = [[0, 1], [0, 0]], [[0, 0], [7, 0]]
        np.testing.assert_array_equal(
            metrics.adapted_rand_error(one), [math.nan, math.nan, math.nan]
        )
        np.testing.assert_array_equal(metrics.adapted_rand_error(whole), [0.0, 1.0, 1.0])
        for confusion in (one, whole):
            np.testing.assert_array_equal(metrics.variation_of_information(confusion), [0, 0, 0])
            assert metrics.mutual_information(confusion) == 0.0
            assert math.isnan(metrics.normalized_mutual_information(confusion))
            assert metrics.normalized_mutual_information(confusion, empty=1.0) == 1.0

    @pytest.mark.parametrize("mean", ["arithmetic", "geometric", "min", "max", "joint"])
    def test_only_one_of_the_two_is_a_single_segment(self, mean):
        """It tells nothing of the other, though two of the means are 0."""
        for confusion in ([[3, 4], [0, 0]], [[3, 0], [4, 0]]):
            assert metrics.normalized_mutual_information(confusion, mean=mean) == 0.0

    def test_pixels_all_by_themselves(self):
        """Predictions without a pair have no precision, but recall and error."""
        found = metrics.adapted_rand_error([[1, 1, 1], [0, 0, 0], [0, 0, 0]], empty=-1.0)
        assert found == (1.0, -1.0, 0.0)
        found = metrics.adapted_rand_error([[1, 0, 0], [1, 0, 0], [1, 0, 0]], empty=-1.0)
        assert found == (1.0, 0.0, -1.0)

    def test_many_pixels(self):
        """Pairs of 2^40 pixels are more than int64 holds."""
        n = 2**40
        found = metrics.adapted_rand_error([[n, n], [0, 2 * n]])
        both, pred, label = (
            sum(k * (k - 1) for k in areas) for areas in ((n, n, 2 * n), (n, 3 * n), (2 * n, 2 * n))
        )
        expected = [1 - Fraction(2 * both, pred + label), Fraction(both, pred)]
        expected = [*map(float, expected), float(Fraction(both, label))]
        np.testing.assert_allclose(found, expected, rtol=1e-14)

    def test_an_unknown_mean(self):
        with pytest.raises(ValueError, match="mean is 'harmonic', but must be one of 'arithmetic'"):
            metrics.normalized_mutual_information([[1]], mean="harmonic")


def segments(ids):
    """The set of pixels of each id in a map."""
    return {int(i): set(np.flatnonzero(ids == i).tolist()) for i in np.unique(ids)}


def overlap(a, b):
    return Fraction(len(a & b), len(a | b))


def define_objects(preds, labels, threshold, background):
    """Matched, missed, spurious and the sum of IoUs of one image, pair by pair of objects."""
    preds, labels = (
        {k: v for k, v in segments(x).items() if k != background} for x in (preds, labels)
    )
    pairs = [(overlap(p, y), i, j) for i, p in preds.items() for j, y in labels.items()]
    matches = [pair for pair in pairs if pair[0] > Fraction(str(threshold))]
    assert len({i for _, i, _ in matches}) == len({j for *_, j in matches}) == len(matches)
    n = len(matches)
    return n, len(labels) - n, len(preds) - n, float(sum(pair[0] for pair in matches))


class TestObjects:
    """Objects without classes."""

    @pytest.mark.parametrize("threshold", [0.5, 0.55, 0.7, 0.9])
    @pytest.mark.parametrize("background", [0, 3, None])
    def test_each_pair_of_objects(self, threshold, background):
        preds, labels = maps(10, images=12)
        if background is not None:
            some = np.random.default_rng(10).random(preds.shape) < 0.05
            preds[some] = labels[:, :4] = background
            preds[:, :3] = background
        found = metrics.object_counts(
            table(preds, labels), threshold=threshold, background=background
        )
        expected = [
            define_objects(p, y, threshold, background) for p, y in zip(preds, labels, strict=True)
        ]
        np.testing.assert_allclose(np.transpose(found), expected, rtol=1e-14)
        if threshold < 0.9:
            assert all(sum(x) > 0 for x in zip(*expected, strict=True))

    @pytest.mark.parametrize("kind", [list, np.asarray, jnp.asarray])
    def test_by_hand(self, kind):
        """IoUs of 3/6, 4/7 and 2/2, the first of which is no match at 1/2."""
        confusion = [[20, 1, 3, 0, 0], [2, 3, 0, 0, 0], [0, 0, 4, 0, 0], [0, 0, 0, 0, 2], [0] * 5]
        found = metrics.object_counts(kind(confusion))
        assert found[:3] == (2, 1, 1)
        np.testing.assert_allclose(found.iou, 4 / 7 + 1, rtol=1e-15)
        assert metrics.object_f1(found) == 4 / 6
        assert metrics.object_jaccard(found) == 2 / 4
        found = metrics.object_counts(kind(confusion), threshold=0.6)
        assert found == (1, 2, 2, 1.0)
        assert metrics.object_f1(found) == 2 / 6
        assert metrics.object_jaccard(found) == 1 / 5

    def test_at_the_threshold_nothing_matches(self):
        """Neither two halves of an object, nor k pixels of 20 at a threshold of k / 20."""
        assert metrics.object_counts([[0, 0, 0], [0, 2, 2], [0, 0, 0]])[:3] == (0, 1, 2)
        for k in range(10, 20):
            part = [[0, 0], [20 - k, k]]
            assert metrics.object_counts(part, threshold=k / 20)[:3] == (0, 1, 1)
            more = [[0, 0], [3 * (20 - k), 3 * k + 1]]
            assert metrics.object_counts(more, threshold=k / 20)[:3] == (1, 0, 0)

    def test_images_without_objects(self):
        """Nothing to find and nothing found is `empty`; one of the two is 0."""
        confusion = np.zeros((4, 2, 2), int)
        confusion[1:, 0, 0] = 9
        confusion[2, 0, 1] = confusion[3, 1, 0] = 4
        counts = metrics.object_counts(confusion)
        np.testing.assert_array_equal(counts.missed, [0, 0, 0, 1])
        np.testing.assert_array_equal(counts.spurious, [0, 0, 1, 0])
        for score in (metrics.object_f1, metrics.object_jaccard):
            np.testing.assert_array_equal(score(counts), [math.nan, math.nan, 0.0, 0.0])
            np.testing.assert_array_equal(score(counts, empty=1.0), [1.0, 1.0, 0.0, 0.0])

    def test_a_data_set_is_a_sum_of_images(self):
        preds, labels = maps(11)
        counts = metrics.object_counts(table(preds, labels))
        matched, missed, spurious, _ = total = jax.tree.map(lambda x: x.sum(0), counts)
        f1 = 2 * matched / (2 * matched + missed + spurious)
        np.testing.assert_allclose(metrics.object_f1(total), f1, rtol=1e-15)
        np.testing.assert_allclose(metrics.panoptic_quality(total).rq, f1, rtol=1e-15)
        jaccard = matched / (matched + missed + spurious)
        np.testing.assert_allclose(metrics.object_jaccard(total), jaccard, rtol=1e-15)
        assert abs(f1 - np.mean(metrics.object_f1(counts))) > 1e-4

    @pytest.mark.parametrize("threshold", [0.49, 1.0, math.nan, -1])
    def test_thresholds_at_which_objects_match_several_or_none(self, threshold):
        with pytest.raises(ValueError, match=f"threshold is {threshold}, but must be from 0.5"):
            metrics.object_counts([[1]], threshold=threshold, background=None)

    @pytest.mark.parametrize("background", [-1, 2, 255])
    def test_a_background_that_is_no_id(self, background):
        with pytest.raises(ValueError, match=rf"background is {background}, but the ids are 0..1"):
            metrics.object_counts(np.zeros((2, 2), int), background=background)


def define_average_precision(preds, labels, scores, threshold):
    """Predictions take the best object left in the order of their scores, as COCO has it."""
    ranked, number = [], 0
    for image, (p, y) in enumerate(zip(preds, labels, strict=True)):
        p, y = segments(p), segments(y)
        p.pop(0, None), y.pop(0, None)
        number += len(y)
        for i in sorted(p, key=lambda i: -scores[image][i]):
            best = max(y, key=lambda j: overlap(p[i], y[j]), default=None)
            hit = best is not None and overlap(p[i], y[best]) > Fraction(str(threshold))
            ranked.append((scores[image][i], hit))
            if hit:
                del y[best]
    cuts = sorted({score for score, _ in ranked}, reverse=True)
    points = []
    for cut in cuts:
        hits = [hit for score, hit in ranked if score >= cut]
        points.append((Fraction(sum(hits), number), Fraction(sum(hits), len(hits))))
    best = [
        max((precision for recall, precision in points if recall >= Fraction(k, 100)), default=0)
        for k in range(101)
    ]
    return float(sum(best) / 101)


class TestAveragePrecision:
    """Objects with scores."""

    @pytest.mark.parametrize("threshold", [0.5, 0.55, 0.75])
    @pytest.mark.parametrize("digits", [9, 1])
    def test_predictions_one_by_one(self, threshold, digits):
        """With scores that differ, and with many that are equal; higher ones for larger objects."""
        preds, labels = maps(20, images=10, shape=(22, 28))
        preds[:, 5:8], labels[:, :2] = 0, 0
        confusion = table(preds, labels)
        noise = np.random.default_rng(20).random((10, SEGMENTS))
        scores = np.round(np.asarray(confusion).sum(1) / 100 + noise / 3, digits)
        found = metrics.average_precision(confusion, scores, threshold=threshold)
        assert isinstance(found, float)
        expected = define_average_precision(preds, labels, scores, threshold)
        np.testing.assert_allclose(found, expected, rtol=1e-14)
        assert 0.01 < expected < 0.95

    def test_by_hand(self):
        """Ranked right, wrong, right, of 4 labelled: precision 1 to recall 1/4, 2/3 to 1/2."""
        confusion = np.diag([90, 5, 0, 6, 0, 0, 0])
        confusion[0, 2], confusion[4, 0], confusion[5, 0] = 3, 7, 7
        scores = np.array([9.0, 0.9, 0.8, 0.7, 9.0, 9.0, 9.0])
        expected = (26 * 1 + 25 * 2 / 3 + 50 * 0) / 101
        np.testing.assert_allclose(
            metrics.average_precision(confusion, scores), expected, rtol=1e-15
        )
        scores[2] = 0.1  # the wrong one last
        np.testing.assert_allclose(metrics.average_precision(confusion, scores), 51 / 101)
        scores[2] = 0.95  # the wrong one first: the best precision at no less recall is 2/3
        expected = (51 * 2 / 3) / 101
        np.testing.assert_allclose(
            metrics.average_precision(confusion, scores), expected, rtol=1e-15
        )

    def test_the_order_of_equal_scores_is_no_part(self):
        """Nor are the scores of ids that are not predicted, which may be anything."""
        right, wrong = np.diag([9, 4]), np.array([[9, 4], [0, 0]])
        scores = np.array([[math.nan, 0.5], [math.nan, 0.5]])
        for confusion in ([right, wrong], [wrong, right]):
            assert metrics.average_precision(np.stack(confusion), scores) == 1 / 2

    def test_recalls_are_exact(self):
        """35 of 100 reach the recall 0.35, which in floats is below 35 * 0.01."""
        assert np.linspace(0, 1, 101)[35] > 35 / 100
        confusion = np.diag([1] * 101)
        confusion[36:] = 0
        confusion[36:, 0] = 1
        found = metrics.average_precision(confusion, np.ones(101))
        np.testing.assert_allclose(found, 36 / 101, rtol=1e-15)

    def test_nothing_labelled_or_predicted(self):
        nothing, missed = np.zeros((2, 3, 3), int), np.zeros((2, 3, 3), int)
        missed[0, 1, 0] = 5
        scores = np.ones((2, 3))
        assert math.isnan(metrics.average_precision(nothing, scores))
        assert metrics.average_precision(nothing, scores, empty=0.5) == 0.5
        assert metrics.average_precision(missed.swapaxes(1, 2), scores, empty=0.5) == 0.5
        assert metrics.average_precision(missed, scores) == 0.0

    def test_scores_without_an_end(self):
        """Logarithms of 0 are the last, and infinities equal."""
        confusion = np.diag([0, 1, 1, 1])
        scores = np.array([0, -math.inf, -math.inf, math.inf])
        assert metrics.average_precision(confusion, scores) == 1.0

    @pytest.mark.parametrize(
        ("scores", "words"),
        [
            (np.ones(3, int), r"scores are int64\[3\], but must be floats \[2\]"),
            (np.ones((2, 2)), r"scores are float64\[2, 2\], but must be floats \[2\]"),
            (np.array([0.0, math.nan]), "scores of predicted objects are NaN"),
        ],
    )
    def test_errors(self, scores, words):
        with pytest.raises(ValueError, match=words):
            metrics.average_precision(np.diag([1, 1]), scores)
        with pytest.raises(ValueError, match=r"threshold is 0.3"):
            metrics.average_precision(np.diag([1, 1]), np.ones(2), threshold=0.3)


def define_panoptic(preds, labels, pred_classes, label_classes, num_classes, crowd):
    """The rules of Kirillov et al., on the sets of pixels of the segments of one image."""
    preds, labels = segments(preds), segments(labels)
    void = {pixel for i, pixels in labels.items() if label_classes[i] == -1 for pixel in pixels}
    counts = np.zeros((num_classes, 3), int).tolist()
    ious = [Fraction(0)] * num_classes
    found = set()
    for i, pixels in labels.items():
        c = label_classes[i]
        if c == -1 or crowd[i]:
            continue
        for j, others in preds.items():
            union = len((pixels | others) - (void & others))
            if pred_classes[j] == c and 2 * len(pixels & others) > union:
                counts[c][0] += 1
                ious[c] += Fraction(len(pixels & others), union)
                found |= {("label", i), ("pred", j)}
        counts[c][1] += ("label", i) not in found
    for j, others in preds.items():
        c = pred_classes[j]
        if c == -1 or ("pred", j) in found:
            continue
        groups = [labels[i] for i in labels if crowd[i] and label_classes[i] == c]
        left_out = set().union(void, *groups) & others
        counts[c][2] += 2 * len(left_out) <= len(others)
    return [(*n, float(iou)) for n, iou in zip(counts, ious, strict=True)]


# Segments 1, 2, 3 and 4 of classes 0, 0, 1 and 1 on both sides, and 0 is void or nothing.
CLASSES = [-1, 0, 0, 1, 1]


def panoptic(cells, crowd=None):
    """Counts of one image, from `{(label, pred): pixels}`."""
    confusion = np.zeros((5, 5), int)
    for index, pixels in cells.items():
        confusion[index] = pixels
    return metrics.panoptic_counts(confusion, CLASSES, CLASSES, 2, crowd=crowd)


def check(counts, matched, missed, spurious, iou):
    for name, expected in (("matched", matched), ("missed", missed), ("spurious", spurious)):
        assert getattr(counts, name).tolist() == expected, name
    np.testing.assert_allclose(counts.iou, iou, rtol=1e-15)


class TestPanoptic:
    """One rule each, and all of them on sets of pixels."""

    @pytest.mark.parametrize("with_crowd", [False, True])
    def test_pixel_by_pixel(self, with_crowd):
        """Random classes, void and crowds, with ids that do not occur."""
        preds, labels = maps(30, images=40, segments=SEGMENTS)
        rng = np.random.default_rng(30)
        label_classes = rng.choice([-1, 0, 0, 1, 2], (40, SEGMENTS))
        pred_classes = rng.choice([-1, 0, 0, 1, 2], (40, SEGMENTS))
        for i in range(40):  # most predictions of the class of what they are on
            for j, pixels in segments(preds[i]).items():
                if rng.random() < 0.7:
                    ids, counts = np.unique(labels[i].ravel()[list(pixels)], return_counts=True)
                    pred_classes[i, j] = label_classes[i, ids[counts.argmax()]]
        crowd = rng.random((40, SEGMENTS)) < 0.3
        found = metrics.panoptic_counts(
            table(preds, labels),
            label_classes,
            pred_classes,
            4,
            crowd=crowd if with_crowd else None,
        )
        expected = [
            define_panoptic(*x, 4, c if with_crowd else np.zeros_like(c))
            for *x, c in zip(preds, labels, pred_classes, label_classes, crowd, strict=True)
        ]
        np.testing.assert_allclose(np.stack(found, -1), expected, rtol=1e-14)
        assert (np.sum(expected, 0)[:3] > 5).all()
        assert (np.sum(expected, 0)[3] == 0).all()

    def test_a_match_is_above_a_half(self):
        check(panoptic({(1, 1): 3, (1, 2): 2}), [1, 0], [0, 0], [1, 0], [3 / 5, 0])
        check(panoptic({(1, 1): 2, (1, 2): 2}), [0, 0], [1, 0], [2, 0], [0, 0])

    def test_a_match_is_of_one_class(self):
        check(panoptic({(1, 3): 9}), [0, 0], [1, 0], [0, 1], [0, 0])

    def test_nothing_predicted_is_missed_and_not_spurious(self):
        check(panoptic({(1, 0): 9}), [0, 0], [1, 0], [0, 0], [0, 0])
        check(panoptic({(1, 0): 2, (1, 1): 3}), [1, 0], [0, 0], [0, 0], [3 / 5, 0])

    def test_void_is_no_part_of_the_union(self):
        check(panoptic({(0, 3): 8, (3, 3): 5, (3, 0): 4}), [0, 1], [0, 0], [0, 0], [0, 5 / 9])

    def test_predictions_mostly_on_void_are_excused(self):
        """More than half, not half."""
        check(panoptic({(0, 1): 4, (3, 1): 3, (3, 3): 9}), [0, 1], [0, 0], [0, 0], [0, 9 / 12])
        check(panoptic({(0, 1): 3, (3, 1): 3, (3, 3): 9}), [0, 1], [0, 0], [1, 0], [0, 9 / 12])

    def test_a_crowd_neither_matches_nor_is_missed(self):
        crowd = np.array([0, 1, 0, 0, 0]) == 1
        check(panoptic({(1, 1): 9}, crowd), [0, 0], [0, 0], [0, 0], [0, 0])
        check(panoptic({(1, 0): 9}, crowd), [0, 0], [0, 0], [0, 0], [0, 0])

    def test_predictions_mostly_on_a_crowd_of_their_class_are_excused(self):
        """Together with void; a crowd of another class is none of theirs."""
        crowd = np.array([0, 1, 0, 0, 0]) == 1
        check(panoptic({(1, 2): 5, (3, 2): 4}, crowd), [0, 0], [0, 1], [0, 0], [0, 0])
        check(panoptic({(1, 2): 4, (3, 2): 4}, crowd), [0, 0], [0, 1], [1, 0], [0, 0])
        check(panoptic({(1, 2): 4, (0, 2): 1, (3, 2): 4}, crowd), [0, 0], [0, 1], [0, 0], [0, 0])
        check(panoptic({(1, 3): 5, (3, 3): 4}, crowd), [0, 0], [0, 1], [0, 1], [0, 0])

    def test_all_crowds_of_a_class_count(self):
        crowd = np.array([0, 1, 1, 0, 0]) == 1
        check(panoptic({(1, 2): 3, (2, 2): 3, (3, 2): 4}, crowd), [0, 0], [0, 1], [0, 0], [0, 0])

    def test_a_crowd_is_part_of_the_union(self):
        """Unlike void."""
        crowd = np.array([0, 1, 0, 0, 0]) == 1
        check(panoptic({(1, 2): 8, (2, 2): 5, (2, 0): 4}, crowd), [0, 0], [1, 0], [0, 0], [0, 0])
        check(panoptic({(1, 2): 4, (2, 2): 9}, crowd), [1, 0], [0, 0], [0, 0], [9 / 13, 0])

    def test_an_id_that_is_not_there_counts_nowhere(self):
        check(panoptic({}), [0, 0], [0, 0], [0, 0], [0, 0])

    def test_quality(self):
        """IoUs of 3/5 and 1 with one missed and two spurious; none matched; not there."""
        counts = type(panoptic({}))(
            np.array([2, 0, 0]), np.array([1, 0, 0]), np.array([2, 1, 0]), np.array([1.6, 0, 0])
        )
        for empty in (math.nan, 0.0, 1.0):
            found = metrics.panoptic_quality(counts, empty=empty)
            np.testing.assert_allclose(found.pq, [1.6 / 3.5, 0, empty], rtol=1e-15)
            np.testing.assert_allclose(found.sq, [1.6 / 2, 0, empty], rtol=1e-15)
            np.testing.assert_allclose(found.rq, [2 / 3.5, 0, empty], rtol=1e-15)
        found = metrics.panoptic_quality(counts)
        np.testing.assert_allclose(found.pq, found.sq * found.rq, rtol=1e-15)

    def test_a_data_set_is_a_sum_of_images(self):
        preds, labels = maps(31)
        classes = np.broadcast_to(np.arange(SEGMENTS) % 3, (6, SEGMENTS))
        confusion = table(preds, np.where(labels % 2, labels, preds))
        counts = metrics.panoptic_counts(confusion, classes, classes, 3)
        total = jax.tree.map(lambda x: x.sum(0), counts)
        found = metrics.panoptic_quality(total).pq
        assert found.shape == (3,)
        expected = total.iou / (total.matched + (total.missed + total.spurious) / 2)
        np.testing.assert_allclose(found, expected, rtol=1e-15)
        by_image = metrics.panoptic_quality(counts).pq
        assert by_image.shape == (6, 3)
        assert (np.abs(by_image.mean(0) - found) > 1e-4).all()

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (
                {"label_classes": [0, 1]},
                r"label_classes are int64\[2\], but must be integers \[3\]",
            ),
            ({"pred_classes": [0.0] * 3}, r"pred_classes are float64\[3\], but must be integers"),
            ({"label_classes": [0, 255, 1]}, r"label_classes have 255, but must be in 0..1, or -1"),
            ({"pred_classes": [0, -2, 1]}, r"pred_classes have -2, but must be in 0..1, or -1"),
            ({"pred_classes": [0, 2, 1]}, r"pred_classes have 2, but must be in 0..1, or -1"),
            ({"crowd": [0, 0, 1]}, r"crowd is int64\[3\], but must be bool\[3\]"),
            ({"crowd": [False]}, r"crowd is bool\[1\], but must be bool\[3\]"),
            ({"num_classes": 0}, "num_classes is 0, but must be a Python integer of at least 1"),
        ],
    )
    def test_errors(self, change, words):
        given = {"label_classes": [0, 0, 1], "pred_classes": [0, 0, 1], "num_classes": 2}
        with pytest.raises(ValueError, match=words):
            metrics.panoptic_counts(np.zeros((3, 3), int), **(given | change))


def of_class(confusion):
    classes = np.zeros(np.shape(confusion)[:-1], int)
    return metrics.panoptic_counts(confusion, classes, classes, 1)


def of_scores(confusion):
    return metrics.average_precision(confusion, np.ones(np.shape(confusion)[:-1]))


SCORES = {
    "variation_of_information": metrics.variation_of_information,
    "adapted_rand_error": metrics.adapted_rand_error,
    "mutual_information": metrics.mutual_information,
    "normalized_mutual_information": metrics.normalized_mutual_information,
    "object_counts": metrics.object_counts,
    "average_precision": of_scores,
    "panoptic_counts": of_class,
}


@pytest.mark.parametrize("name", SCORES)
def test_ids_mean_nothing(name):
    """Other ids, as many as there are or far apart, give the same."""
    preds, labels = maps(40)
    preds, labels = preds + 1, labels + 1
    rng = np.random.default_rng(40)
    ids = np.concatenate([[0], 1 + rng.permutation(3 * SEGMENTS)[:SEGMENTS]])
    found = SCORES[name](table(preds, labels, SEGMENTS + 1))
    renumbered = SCORES[name](table(ids[preds], ids[::-1][labels - 1], 3 * SEGMENTS + 1))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(renumbered), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13)


@pytest.mark.parametrize("name", sorted(set(SCORES) - {"average_precision"}))
def test_any_leading_axes(name):
    """None, or two: each matrix by itself, in float64 or int64."""
    confusion = np.reshape(table(*maps(41)), (2, 3, SEGMENTS, SEGMENTS))
    found = jax.tree.leaves(SCORES[name](confusion))
    for index in np.ndindex(2, 3):
        one = jax.tree.leaves(SCORES[name](confusion[index]))
        for a, b in zip(found, one, strict=True):
            np.testing.assert_array_equal(a[index], b)
            assert a.dtype == b.dtype
            assert a.dtype in (np.float64, np.int64)


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize(
    ("confusion", "error", "words"),
    [
        (np.ones((2, 2)), TypeError, "confusion is float64, but must be counts"),
        (np.ones((2, 3), int), ValueError, r"confusion is \[2, 3\]"),
        (np.ones(4, int), ValueError, r"confusion is \[4\]"),
    ],
)
def test_no_confusion_matrix(name, confusion, error, words):
    with pytest.raises(error, match=words):
        SCORES[name](confusion)
