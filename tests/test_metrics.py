"""Counting is exact, dividing is done once, and every policy is tested."""

import fractions

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import metrics


def count(preds, labels, num_classes, where=None):
    """The confusion matrix by numpy: rows are labels, columns predictions."""
    preds, labels = np.asarray(preds, np.int64), np.asarray(labels, np.int64)
    inside = (labels >= 0) & (labels < num_classes) & (preds >= 0) & (preds < num_classes)
    inside = inside if where is None else inside & where
    index = num_classes * labels[inside] + preds[inside]
    return np.bincount(index, minlength=num_classes**2).reshape(num_classes, num_classes)


@pytest.mark.parametrize(
    ("shape", "num_classes"),
    [((), 5), ((0,), 5), ((500,), 1), ((500,), 2), ((500,), 5), ((2, 3, 4, 8), 5)],
)
def test_counts_are_those_of_numpy(shape, num_classes):
    """For any rank, with and without `where`."""
    rng = np.random.default_rng(num_classes)
    preds, labels = rng.integers(0, num_classes, (2, *shape), np.int32)
    for where in (None, rng.random(shape) < 0.7, np.zeros(shape, bool)):
        expected = count(preds, labels, num_classes, where)
        assert expected.sum() == (preds.size if where is None else where.sum())
        confusion = metrics.confusion_matrix(preds, labels, num_classes, where=where)
        assert confusion.dtype == jnp.int32
        np.testing.assert_array_equal(confusion, expected)


@pytest.mark.parametrize("far", [2**31, 2**32, 2**32 + 1, -(2**32), 2**63 - 1, -(2**63)])
def test_indices_of_64_bits_are_not_cut(far):
    """What lies outside the classes lies outside, also where its low bits are a class."""
    rng = np.random.default_rng(0)
    preds, labels = rng.integers(0, 3, (2, 50))
    preds[::7], labels[::5] = far, far
    found = metrics.confusion_matrix(preds, labels, 3)
    np.testing.assert_array_equal(found, count(preds, labels, 3))


def test_it_compiles():
    rng = np.random.default_rng(0)
    preds, labels = rng.integers(0, 5, (2, 500), np.int32)
    compiled = jax.jit(metrics.confusion_matrix, static_argnums=2)
    where = rng.random(500) < 0.5
    confusion = compiled(preds, labels, 5, where=where)
    np.testing.assert_array_equal(confusion, count(preds, labels, 5, where))


def test_rows_are_labels_and_columns_predictions():
    confusion = metrics.confusion_matrix(jnp.array([1, 1, 2]), jnp.array([0, 0, 1]), 3)
    assert confusion.tolist() == [[0, 2, 0], [0, 0, 1], [0, 0, 0]]


def test_values_outside_the_classes_are_not_counted():
    """Neither as labels nor as predictions; least of all do they wrap around."""
    values = np.array([-1, 0, 1, 2, 3, 4, 127, 255, 256, 257, -(2**31), 2**31 - 1], np.int32)
    preds, labels = (x.ravel() for x in np.meshgrid(values, values))
    confusion = metrics.confusion_matrix(preds, labels, 3)
    np.testing.assert_array_equal(confusion, np.ones((3, 3)))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.uint32])
@pytest.mark.parametrize("num_classes", [4, 300])
def test_any_integer_dtype(dtype, num_classes):
    """The number of classes need not fit into the dtype."""
    rng = np.random.default_rng(0)
    preds, labels = rng.integers(0, min(num_classes, 127), (2, 1000))
    confusion = metrics.confusion_matrix(preds.astype(dtype), labels.astype(dtype), num_classes)
    np.testing.assert_array_equal(confusion, count(preds, labels, num_classes))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_an_ignored_label_is_not_counted(dtype):
    labels = np.array([0, 255, 1, 255], dtype)
    confusion = metrics.confusion_matrix(jnp.array([0, 1, 1, 0]), labels, 2)
    assert confusion.tolist() == [[1, 0], [0, 1]]


def test_counts_are_exact_beyond_float32():
    """2^24 + 5 pixels of one kind: float32, which has no such number, would lose some."""
    many = 2**24 + 5
    assert int(np.float32(many)) != many
    labels = np.zeros(many + 10, np.int8)
    labels[many:] = 1
    preds = np.zeros_like(labels)
    preds[-3:] = 1
    confusion = metrics.confusion_matrix(preds, labels, 2)
    assert confusion.tolist() == [[many, 0], [7, 3]]


def test_counts_are_summed_over_devices():
    """Eight devices, some with nothing that counts, each hold the matrix of the whole batch."""
    rng = np.random.default_rng(1)
    preds, labels = rng.integers(0, 3, (2, 8, 10, 10), np.int32)
    where = rng.random((8, 10, 10)) < np.array([0, 0, 0.01, 0.2, 0.5, 0.9, 1, 1])[:, None, None]

    def replica(preds, labels, where):
        return metrics.confusion_matrix(preds, labels, 3, where=where, axis_name="replicas")

    confusion = jax.pmap(replica, "replicas")(preds, labels, where)
    expected = count(preds, labels, 3, where)
    np.testing.assert_array_equal(confusion, np.broadcast_to(expected, (8, 3, 3)))

    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("replicas",))
    split, whole = jax.sharding.PartitionSpec("replicas"), jax.sharding.PartitionSpec()
    sharded = jax.shard_map(replica, mesh=mesh, in_specs=split, out_specs=whole)
    np.testing.assert_array_equal(jax.jit(sharded)(preds, labels, where), expected)


def test_matrices_of_parts_add_up():
    rng = np.random.default_rng(2)
    preds, labels = rng.integers(0, 5, (2, 1500), np.int32)
    parts = [
        metrics.confusion_matrix(preds[i : i + 500], labels[i : i + 500], 5)
        for i in range(0, 1500, 500)
    ]
    np.testing.assert_array_equal(sum(map(np.asarray, parts)), count(preds, labels, 5))


def test_any_number_of_states_merges():
    """More than int32 could hold the low bits of."""
    metric = metrics.Confusion(2)
    state = metric.update(metric.init(), np.zeros(2**20 - 1, int), np.zeros(2**20 - 1, int))
    assert metric.compute(metric.merge(*[state] * 3000))[0, 0] == 3000 * (2**20 - 1)


def test_vmap_counts_each_image():
    rng = np.random.default_rng(3)
    preds, labels = rng.integers(0, 3, (2, 5, 8, 8), np.int32)
    each = jax.vmap(lambda p, t: metrics.confusion_matrix(p, t, 3))(preds, labels)
    expected = [count(p, t, 3) for p, t in zip(preds, labels, strict=True)]
    np.testing.assert_array_equal(each, expected)


@pytest.mark.parametrize(
    ("preds", "labels", "where"),
    [((4, 1), (4,), None), ((4,), (4, 1), None), ((4,), (4,), (4, 1)), ((4,), (4,), (1,))],
)
def test_unequal_shapes_are_an_error(preds, labels, where):
    """Which names the shapes it got; broadcasting would count something else."""
    where = None if where is None else np.ones(where, bool)
    with pytest.raises(ValueError, match=r"need one shape|where is") as error:
        metrics.confusion_matrix(np.zeros(preds, int), np.zeros(labels, int), 2, where=where)
    for shape in (preds, labels) if where is None else (where.shape, labels):
        assert str(list(shape)) in str(error.value)


@pytest.mark.parametrize(
    ("preds", "labels", "where", "named"),
    [
        (np.zeros(4), np.zeros(4, int), None, "preds are float"),
        (np.zeros(4, int), np.zeros(4), None, "labels are float"),
        (np.zeros(4, bool), np.zeros(4, int), None, "preds are bool"),
        (np.zeros(4, int), np.zeros(4, int), np.full(4, 255, np.uint8), "where is uint8"),
    ],
)
def test_other_types_are_an_error(preds, labels, where, named):
    """A probability would be rounded to a class; a `where` of 255s would count 255 times."""
    with pytest.raises((TypeError, ValueError), match=named):
        metrics.confusion_matrix(preds, labels, 2, where=where)


def test_classes_that_int32_cannot_number_are_an_error():
    """The bins of 46341 classes would wrap around and be counted as others."""
    assert 46340**2 < 2**31 - 1 < 46341**2
    with pytest.raises(ValueError, match="num_classes is 46341, but at most 46340 can be counted"):
        metrics.confusion_matrix(np.zeros(2, int), np.zeros(2, int), 46341)


@pytest.mark.usefixtures("x64")
def test_large_labels_do_not_wrap_into_a_class():
    large = jnp.array([2**32, 1, 2**32 + 1])
    assert large.dtype == jnp.int64
    zeros = jnp.zeros(3, jnp.int64)
    assert metrics.confusion_matrix(zeros, large, 2).tolist() == [[0, 0], [1, 0]]
    assert metrics.confusion_matrix(large, zeros, 2).tolist() == [[0, 1], [0, 0]]


# Labels 0, 1, 2 and 3: 10, 5, 0 and 0 pixels; class 2 is only predicted, class 3 is not there.
CONFUSION = np.array([[6, 3, 1, 0], [2, 3, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])


def test_iou_by_hand():
    """Intersection over union; 0 for a class only predicted, NaN for one that is not there."""
    expected = [6 / (6 + 3 + 1 + 2), 3 / (3 + 2 + 3), 0 / 1, np.nan]
    np.testing.assert_allclose(metrics.iou(CONFUSION), expected, rtol=1e-15)


def test_iou_of_a_class_only_labelled_is_zero():
    assert metrics.iou([[0, 4], [0, 6]]).tolist() == [0.0, 6 / 10]


def test_mean_iou_leaves_out_absent_classes_alone():
    """Class 3 is left out; class 2, which is predicted and wrong, is not."""
    expected = (6 / 12 + 3 / 8 + 0) / 3
    np.testing.assert_allclose(metrics.mean_iou(CONFUSION), expected, rtol=1e-15)


def test_accuracy_by_hand():
    np.testing.assert_allclose(metrics.accuracy(CONFUSION), (6 + 3) / 15, rtol=1e-15)


@pytest.mark.parametrize("kind", [list, np.asarray, jnp.asarray])
def test_scores_take_any_matrix_and_give_float64(kind):
    confusion = kind([[1, 1], [0, 2]])
    assert metrics.iou(confusion).dtype == np.float64
    assert metrics.iou(confusion).tolist() == [1 / 2, 2 / 3]
    for score, expected in (
        (metrics.mean_iou, (1 / 2 + 2 / 3) / 2),
        (metrics.accuracy, 3 / 4),
    ):
        assert score(confusion).dtype == np.float64
        np.testing.assert_allclose(score(confusion), expected, rtol=1e-15)


def test_scores_of_nothing_are_nan():
    """An empty matrix has no score: not 0, not 1 and no warning."""
    empty = np.zeros((3, 3), np.int64)
    assert np.isnan(metrics.iou(empty)).all()
    assert np.isnan(metrics.mean_iou(empty))
    assert np.isnan(metrics.accuracy(empty))


def test_perfect_and_wrong():
    perfect, wrong = np.diag([5, 3, 1]), np.array([[0, 5], [5, 0]])
    assert metrics.mean_iou(perfect) == metrics.accuracy(perfect) == 1.0
    assert metrics.mean_iou(wrong) == metrics.accuracy(wrong) == 0.0


def test_scores_follow_a_permutation_of_the_classes():
    rng = np.random.default_rng(4)
    confusion, order = rng.integers(0, 50, (5, 5)), rng.permutation(5)
    permuted = confusion[np.ix_(order, order)]
    np.testing.assert_array_equal(metrics.iou(permuted), metrics.iou(confusion)[order])
    np.testing.assert_array_equal(metrics.iou(confusion.T), metrics.iou(confusion))
    assert metrics.accuracy(permuted) == metrics.accuracy(confusion)


def test_large_counts_are_divided_in_float64():
    """More pixels than int32 holds, from int32 matrices summed in int64."""
    part = np.asarray(metrics.confusion_matrix(jnp.array([0, 1, 1]), jnp.array([0, 0, 1]), 2))
    confusion = part.astype(np.int64) * (2**31 + 1)
    confusion[0, 0] += 1
    total, hit = 3 * (2**31 + 1) + 1, 2 * (2**31 + 1) + 1
    assert metrics.accuracy(confusion) == float(fractions.Fraction(hit, total))
    first = fractions.Fraction(2**31 + 2, 2 * (2**31 + 1) + 1)
    assert metrics.iou(confusion)[0] == float(first)


def test_a_data_set_is_scored_as_a_whole():
    """Foreground IoU of 3/4 in one batch and 0/2 in the next: 3/6, not the mean 0.375."""
    first = metrics.confusion_matrix(np.array([1, 1, 1, 1]), np.array([1, 1, 1, 0]), 2)
    second = metrics.confusion_matrix(np.array([0, 0, 0, 0]), np.array([1, 1, 0, 0]), 2)
    assert metrics.iou(np.add(first, second))[1] == 3 / 6
    assert np.mean([metrics.iou(first)[1], metrics.iou(second)[1]]) == 0.375


def batches(seed=5, shape=(12, 9, 7), num_classes=4):
    """Predictions, labels and `where` of some images, of which class 3 is in few and 2 in none."""
    rng = np.random.default_rng(seed)
    preds, labels = rng.choice([0, 1, 1, 3], (2, *shape))
    return preds.astype(np.int32), labels.astype(np.int32), rng.random(shape) < 0.7


class TestConfusion:
    """The state that is carried over a data set."""

    metric = metrics.Confusion(4)

    @pytest.mark.parametrize("size", [1, 3, 5, 12])
    def test_any_batches(self, size):
        """In batches of 1, 3, 5 with a rest, or all, compiled, the result is the same."""
        data = batches()
        update = jax.jit(
            lambda state, preds, labels, where: self.metric.update(
                state, preds, labels, where=where
            )
        )
        state = self.metric.init()
        for start in range(0, 12, size):
            state = update(state, *(x[start : start + size] for x in data))
        found = self.metric.compute(state)
        assert found.dtype == np.int64
        np.testing.assert_array_equal(found, count(*data[:2], 4, data[2]))

    def test_merged_in_any_order(self):
        data = batches()
        states = [
            self.metric.update(self.metric.init(), *(x[i] for x in data[:2]), where=data[2][i])
            for i in range(12)
        ]
        expected = count(*data[:2], 4, data[2])
        for seed in range(3):
            order = np.random.default_rng(seed).permutation(12)
            one = self.metric.merge(*(states[i] for i in order))
            np.testing.assert_array_equal(self.metric.compute(one), expected)
            pairs = [
                self.metric.merge(states[a], states[b]) for a, b in order.reshape(6, 2).tolist()
            ]
            two = self.metric.merge(*pairs)
            np.testing.assert_array_equal(self.metric.compute(two), expected)

    def test_eight_devices(self):
        """The state of the global batch on each, whatever state they had before."""
        preds, labels, where = (x[:8] for x in batches())
        before = self.metric.update(self.metric.init(), preds, labels)

        def replica(preds, labels, where):
            return self.metric.update(before, preds, labels, where=where, axis_name="replicas")

        states = jax.pmap(replica, "replicas")(preds, labels, where)
        expected = count(preds, labels, 4, where) + count(preds, labels, 4)
        for i in range(8):
            found = self.metric.compute(jax.tree.map(lambda x, i=i: x[i], states))
            np.testing.assert_array_equal(found, expected)

        mesh = jax.sharding.Mesh(np.array(jax.devices()), ("replicas",))
        split, whole = jax.sharding.PartitionSpec("replicas"), jax.sharding.PartitionSpec()
        sharded = jax.shard_map(replica, mesh=mesh, in_specs=split, out_specs=whole)
        found = self.metric.compute(jax.jit(sharded)(preds, labels, where))
        np.testing.assert_array_equal(found, expected)

    def test_more_than_int32_can_count(self):
        """Doubled 18 times, 4e6 pixels are 2^40: beyond int32, float32 and any single update."""
        labels = np.zeros(2**22, np.int8)
        labels[:5] = 1
        preds = np.zeros_like(labels)
        state = self.metric.update(self.metric.init(), preds, labels)
        merge = jax.jit(self.metric.merge)
        for _ in range(18):
            state = merge(state, state)
        found = self.metric.compute(state)
        assert found[0, 0] == 2**18 * (2**22 - 5)
        assert found[1, 0] == 2**18 * 5
        assert found.sum() == 2**40
        state = self.metric.update(state, preds[:3], labels[:3])
        assert self.metric.compute(state)[1, 0] == 2**18 * 5 + 3


def test_by_image():
    """A matrix for each entry of the first axis, which add up to that of all."""
    preds, labels, where = batches()
    found = jax.jit(lambda *x: metrics.confusion_matrix(*x, 4, where=where, by_image=True))(
        preds, labels
    )
    expected = [count(p, y, 4, w) for p, y, w in zip(preds, labels, where, strict=True)]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(found.sum(0), count(preds, labels, 4, where))
    for options, words in (
        ({"axis_name": "i"}, "not summed over replicas"),
        ({"where": where[0]}, "where is bool"),
    ):
        with pytest.raises(ValueError, match=words):
            metrics.confusion_matrix(preds, labels, 4, by_image=True, **options)
    with pytest.raises(ValueError, match="have no axis"):
        metrics.confusion_matrix(1, 1, 4, by_image=True)


@pytest.mark.parametrize("num_classes", [4, 256, 257])
def test_accelerators_do_not_scatter(num_classes):
    """They multiply one-hot matrices, which gives the same numbers, unless classes are many."""
    preds, labels, where = batches()

    def counted(preds, labels):
        return metrics.confusion_matrix(preds, labels, num_classes, where=where)

    traced = jax.jit(counted).trace(preds, labels)
    many = num_classes > 256
    for platform, scatters in (("tpu", many), ("cuda", many), ("cpu", True)):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert ("scatter" in text) == scatters, platform
        assert ("dot_general" in text) != scatters, platform


# Every score of a class, written out for one class's pixels that are TP, FP and FN.
BY_CLASS = {
    "iou": lambda tp, fp, fn: (tp, tp + fp + fn),
    "dice": lambda tp, fp, fn: (2 * tp, 2 * tp + fp + fn),
    "precision": lambda tp, fp, fn: (tp, tp + fp),
    "recall": lambda tp, fp, fn: (tp, tp + fn),
}


@pytest.mark.parametrize("name", BY_CLASS)
@pytest.mark.parametrize("empty", [np.nan, 0.0, 1.0])
def test_scores_by_class(name, empty):
    """Of matrices of any leading axes, each class by fractions, and `empty` for 0/0 alone."""
    rng = np.random.default_rng(8)
    confusion = rng.integers(0, 3, (2, 6, 3, 3)) * (rng.random((2, 6, 3, 3)) < 0.5)
    confusion[0, 0] = 0
    found = getattr(metrics, name)(confusion, empty=empty)
    assert found.shape == (2, 6, 3)
    undefined = 0
    for index in np.ndindex(2, 6):
        matrix = confusion[index].tolist()
        for c in range(3):
            tp = matrix[c][c]
            fp, fn = sum(row[c] for row in matrix) - tp, sum(matrix[c]) - tp
            top, bottom = BY_CLASS[name](tp, fp, fn)
            undefined += not bottom
            expected = float(fractions.Fraction(top, bottom)) if bottom else empty
            np.testing.assert_equal(found[(*index, c)], expected)
    assert undefined > 3


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_f_beta_is_the_weighted_harmonic_mean(beta):
    precision, recall = metrics.precision(CONFUSION), metrics.recall(CONFUSION)
    expected = (1 + beta**2) / (1 / precision[:2] + beta**2 / recall[:2])
    np.testing.assert_allclose(metrics.f_beta(CONFUSION, beta=beta)[:2], expected, rtol=1e-14)
    with pytest.raises(ValueError, match="beta is 0, but must be positive"):
        metrics.f_beta(CONFUSION, beta=0)


def test_frequency_weighted_iou_by_hand():
    """Classes 0 and 1 have 10 and 5 labelled pixels of 15; the others weigh nothing."""
    expected = (10 * 6 / 12 + 5 * 3 / 8) / 15
    np.testing.assert_allclose(metrics.frequency_weighted_iou(CONFUSION), expected, rtol=1e-15)
    assert np.isnan(metrics.frequency_weighted_iou(np.zeros((2, 2), int)))


def test_kappa_and_mcc_of_two_classes():
    """By their definitions for yes and no, over random matrices in one call."""
    confusion = np.random.default_rng(9).integers(1, 100, (50, 2, 2))
    (tn, fp), (fn, tp) = np.moveaxis(confusion, 0, -1).astype(float)
    n = tn + fp + fn + tp
    chance = ((tp + fp) * (tp + fn) + (tn + fn) * (tn + fp)) / n**2
    np.testing.assert_allclose(
        metrics.kappa(confusion), ((tp + tn) / n - chance) / (1 - chance), rtol=1e-12, atol=1e-15
    )
    root = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    np.testing.assert_allclose(
        metrics.mcc(confusion), (tp * tn - fp * fn) / root, rtol=1e-12, atol=1e-15
    )


def test_mcc_is_a_correlation():
    """Of several classes: the covariance of one-hot codes over the root of their variances."""
    rng = np.random.default_rng(10)
    labels = rng.integers(0, 5, 400)
    preds = np.where(rng.random(400) < 0.5, labels, rng.integers(0, 5, 400))
    x, y = (np.eye(5)[a] - np.eye(5)[a].mean(0) for a in (preds, labels))
    expected = np.sum(x * y) / np.sqrt(np.sum(x * x) * np.sum(y * y))
    np.testing.assert_allclose(metrics.mcc(count(preds, labels, 5)), expected, rtol=1e-12)


@pytest.mark.parametrize("score", [metrics.kappa, metrics.mcc])
def test_agreement_at_its_ends(score):
    """1 if all agree, 0 if predictions say nothing, and NaN where there is only one class."""
    assert score(np.diag([5, 3, 1])) == 1.0
    np.testing.assert_allclose(score(np.outer([4, 2, 6], [1, 3, 5])), 0.0, atol=1e-15)
    assert np.isnan(score([[7, 0], [0, 0]]))
    assert np.isnan(score(np.zeros((3, 3), int)))


def test_means_of_images():
    """Per image, and per image and class; classes that an image lacks are no part of its mean."""
    by_image = np.array([[[4, 0], [0, 0]], [[1, 1], [1, 1]], [[0, 0], [2, 2]]])
    np.testing.assert_allclose(metrics.mean_iou(by_image), [1, 1 / 3, (0 + 1 / 2) / 2], rtol=1e-15)
    np.testing.assert_allclose(
        np.nanmean(metrics.iou(by_image)), (1 + 1 / 3 + 1 / 3 + 0 + 1 / 2) / 5, rtol=1e-15
    )
    np.testing.assert_allclose(
        metrics.mean_iou(by_image, empty=0.0), [1 / 2, 1 / 3, 1 / 4], rtol=1e-15
    )


def test_worst():
    values = np.random.default_rng(11).permutation(np.arange(1, 101.0))
    assert metrics.worst(values) == np.mean([1, 2, 3, 4, 5])
    assert metrics.worst(values[values > 90], 0.05) == 91  # at least one
    for percent in range(1, 101):
        assert metrics.worst(values, percent / 100) == np.arange(1, percent + 1).mean()
    assert metrics.worst([*values, np.nan], 1.0) == values.mean()
    assert np.isnan(metrics.worst([np.nan]))
    assert np.isnan(metrics.worst([]))
    with pytest.raises(ValueError, match="fraction is 5"):
        metrics.worst(values, 5)


@pytest.mark.parametrize(
    ("confusion", "error", "words"),
    [
        (np.ones((2, 2)), TypeError, "confusion is float64, but must be counts"),
        (np.ones((2, 3), int), ValueError, r"confusion is \[2, 3\]"),
        (np.ones(4, int), ValueError, r"confusion is \[4\]"),
    ],
)
def test_no_confusion_matrix(confusion, error, words):
    for name in (*BY_CLASS, "mean_iou", "accuracy", "kappa", "mcc", "frequency_weighted_iou"):
        with pytest.raises(error, match=words):
            getattr(metrics, name)(confusion)
