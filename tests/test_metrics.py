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
    with pytest.raises(ValueError, match="need the same one") as error:
        metrics.confusion_matrix(np.zeros(preds, int), np.zeros(labels, int), 2, where=where)
    for shape in (preds, labels, *([] if where is None else [where.shape])):
        assert str(shape) in str(error.value)


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
    with pytest.raises(TypeError, match=named):
        metrics.confusion_matrix(preds, labels, 2, where=where)


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


def test_pixel_accuracy_by_hand():
    np.testing.assert_allclose(metrics.pixel_accuracy(CONFUSION), (6 + 3) / 15, rtol=1e-15)


@pytest.mark.parametrize("kind", [list, np.asarray, jnp.asarray])
def test_scores_take_any_matrix_and_give_float64(kind):
    confusion = kind([[1, 1], [0, 2]])
    assert metrics.iou(confusion).dtype == np.float64
    assert metrics.iou(confusion).tolist() == [1 / 2, 2 / 3]
    for score, expected in (
        (metrics.mean_iou, (1 / 2 + 2 / 3) / 2),
        (metrics.pixel_accuracy, 3 / 4),
    ):
        assert type(score(confusion)) is float
        np.testing.assert_allclose(score(confusion), expected, rtol=1e-15)


def test_scores_of_nothing_are_nan():
    """An empty matrix has no score: not 0, not 1 and no warning."""
    empty = np.zeros((3, 3), np.int64)
    assert np.isnan(metrics.iou(empty)).all()
    assert np.isnan(metrics.mean_iou(empty))
    assert np.isnan(metrics.pixel_accuracy(empty))


def test_perfect_and_wrong():
    perfect, wrong = np.diag([5, 3, 1]), np.array([[0, 5], [5, 0]])
    assert metrics.mean_iou(perfect) == metrics.pixel_accuracy(perfect) == 1.0
    assert metrics.mean_iou(wrong) == metrics.pixel_accuracy(wrong) == 0.0


def test_scores_follow_a_permutation_of_the_classes():
    rng = np.random.default_rng(4)
    confusion, order = rng.integers(0, 50, (5, 5)), rng.permutation(5)
    permuted = confusion[np.ix_(order, order)]
    np.testing.assert_array_equal(metrics.iou(permuted), metrics.iou(confusion)[order])
    np.testing.assert_array_equal(metrics.iou(confusion.T), metrics.iou(confusion))
    assert metrics.pixel_accuracy(permuted) == metrics.pixel_accuracy(confusion)


def test_large_counts_are_divided_in_float64():
    """More pixels than int32 holds, from int32 matrices summed in int64."""
    part = np.asarray(metrics.confusion_matrix(jnp.array([0, 1, 1]), jnp.array([0, 0, 1]), 2))
    confusion = part.astype(np.int64) * (2**31 + 1)
    confusion[0, 0] += 1
    total, hit = 3 * (2**31 + 1) + 1, 2 * (2**31 + 1) + 1
    assert metrics.pixel_accuracy(confusion) == float(fractions.Fraction(hit, total))
    first = fractions.Fraction(2**31 + 2, 2 * (2**31 + 1) + 1)
    assert metrics.iou(confusion)[0] == float(first)


def test_a_data_set_is_scored_as_a_whole():
    """Foreground IoU of 3/4 in one batch and 0/2 in the next: 3/6, not the mean 0.375."""
    first = metrics.confusion_matrix(np.array([1, 1, 1, 1]), np.array([1, 1, 1, 0]), 2)
    second = metrics.confusion_matrix(np.array([0, 0, 0, 0]), np.array([1, 1, 0, 0]), 2)
    assert metrics.iou(np.add(first, second))[1] == 3 / 6
    assert np.mean([metrics.iou(first)[1], metrics.iou(second)[1]]) == 0.375
