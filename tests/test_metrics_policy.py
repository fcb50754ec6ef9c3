"""What each metric says where there is nothing to find, to miss, or to divide by: as documented."""

import pathlib
import re

import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import decisions, metrics, ops

# What versions change shows in the examples of the docstrings.
pytestmark = pytest.mark.exhaustive

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "metrics.md"
NONE, SOME = np.zeros((4, 5), bool), np.zeros((4, 5), bool)
SOME[1, 1:3] = True


def table(heading):
    """The rows of the table below a heading, by the name in their first column."""
    text = PAGE.read_text().split(f"### {heading}\n")[1]
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", text.split("\n#")[0], re.M)
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in rows}


def confusion(preds, labels):
    return metrics.confusion_matrix(preds.astype(int), labels.astype(int), 3)


def objects(preds, labels):
    return metrics.object_counts(
        confusion(*(ops.connected_components(x)[0] for x in (preds, labels)))
    )


def distances(preds, labels):
    return metrics.surface_distances(preds, labels)


def panoptic(preds, labels):
    classes = np.array([1, 0, 0])  # id 0 is a segment of another class
    counts = metrics.panoptic_counts(confusion(preds, labels), classes, classes, 2)
    return metrics.panoptic_quality(counts).pq[0]


def precision_of_objects(preds, labels):
    found = confusion(*(ops.connected_components(x)[0] for x in (preds, labels)))
    return metrics.average_precision(found, np.ones(3))


def energy(preds, labels):
    samples, raters = (jnp.asarray(x[None], int) for x in (preds, labels))
    return metrics.generalised_energy_distance(samples, raters, 2)


OF_A_CLASS = {
    **{
        name: lambda p, t, name=name: getattr(metrics, name)(confusion(p, t))[1]
        for name in ("iou", "dice", "precision", "recall")
    },
    "f_beta": lambda p, t: metrics.f_beta(confusion(p, t), beta=2.0)[1],
    **{
        name: lambda p, t, name=name: getattr(metrics, name)(distances(p, t))
        for name in ("hausdorff", "hausdorff_95", "average_surface_distance")
    },
    "normalized_surface_dice": lambda p, t: metrics.normalized_surface_dice(distances(p, t), 1.0),
    "boundary_iou": metrics.boundary_iou,
    "object_f1": lambda p, t: metrics.object_f1(objects(p, t)),
    "object_jaccard": lambda p, t: metrics.object_jaccard(objects(p, t)),
    "average_precision": precision_of_objects,
    "panoptic_quality": panoptic,
    "generalised_energy_distance": energy,
}


def calibration(score):
    def of_classes(preds, labels, where):
        metric = metrics.Calibration(3)
        probs = jnp.asarray(np.eye(3)[preds], jnp.float32)
        return score(metric.compute(metric.update(metric.init(), probs, labels, where=where)))

    return of_classes


def errors(score):
    def of_classes(preds, labels, where):
        metric = metrics.ErrorDetection()
        uncertainty = jnp.full(labels.shape, 0.25, jnp.float32)
        state = metric.update(metric.init(), uncertainty, preds != labels, where=where)
        return score(metric.compute(state))

    return of_classes


def counted(score):
    def of_classes(preds, labels, where):
        return score(metrics.confusion_matrix(preds, labels, 3, where=where))

    return of_classes


OF_AN_IMAGE = {
    **{
        name: counted(getattr(metrics, name))
        for name in (
            *("accuracy", "mean_iou", "frequency_weighted_iou", "kappa", "mcc"),
            *("mutual_information", "normalized_mutual_information"),
        )
    },
    "variation_of_information": counted(lambda x: metrics.variation_of_information(x).total),
    "adapted_rand_error": counted(lambda x: metrics.adapted_rand_error(x).error),
    **{
        name: calibration(getattr(metrics, name))
        for name in (
            *("expected_calibration_error", "maximum_calibration_error"),
            *("classwise_calibration_error", "adaptive_calibration_error"),
        )
    },
    "area_under_risk_coverage": errors(metrics.area_under_risk_coverage),
    "auroc_of_errors": errors(metrics.auroc_of_errors),
}

CLASS_CASES = {"neither": (NONE, NONE), "label": (NONE, SOME), "prediction": (SOME, NONE)}
ZERO, ONE = np.zeros((4, 5), int), np.ones((4, 5), int)
IMAGE_CASES = {
    "nothing": (ZERO, ZERO, NONE),
    "right": (ONE, ONE, ~NONE),
    "wrong": (ONE, ZERO, ~NONE),
}


def said(value):
    return f"{float(value):.4g}"


@pytest.mark.parametrize("name", OF_A_CLASS)
def test_of_a_class(name):
    """Neither labelled nor predicted; labelled alone; predicted alone; and the argument for it."""
    cells = table("Of a class")[name]
    found = [said(OF_A_CLASS[name](*masks)) for masks in CLASS_CASES.values()]
    assert cells[:3] == found
    arguments = re.findall(r"`(\w+)`", cells[3])
    function = getattr(metrics, name)
    known = function.__kwdefaults__ or {}
    assert set(arguments) == set(known) & {"empty", "missing"}
    for argument in arguments:
        default = {"empty": 0, "missing": 1}[argument]
        assert said(known[argument]) == found[default]


@pytest.mark.parametrize("name", OF_AN_IMAGE)
def test_of_an_image(name):
    """Without a pixel that counts; all of one class, rightly and wrongly."""
    cells = table("Of an image or a data set")[name]
    found = [said(OF_AN_IMAGE[name](*arrays)) for arrays in IMAGE_CASES.values()]
    assert cells[:3] == found


def test_what_the_page_says_of_others():
    labels = np.zeros((2, 3), bool)
    assert np.isnan(metrics.PixelMean().compute(metrics.PixelMean().init()))
    counts = metrics.SegmentCounts(*np.array([[0], [1], [1], [0]]))
    assert [x.tolist() for x in metrics.panoptic_quality(counts)] == [[0], [0], [0]]
    rates = decisions.miss_rates(np.ones((2, 3), np.float32), labels, np.array([0.5], np.float32))
    assert rates.tolist() == [0]
    for function in (decisions.rank_dice, decisions.rank_iou):
        assert function.__kwdefaults__["empty"] == 1
    empty = metrics.Calibration(2)
    reliability = empty.compute(empty.init())
    assert all(np.isnan(x).all() for x in metrics.reliability_curve(reliability))


def test_every_metric_is_in_a_table():
    """But for what only counts, measures, or draws a curve."""
    functions = {x for x in metrics.__all__ if not isinstance(getattr(metrics, x), type)}
    raw = {
        *("confusion_matrix", "surface_distances", "object_counts", "panoptic_counts"),
        *("reliability_curve", "risk_coverage", "worst"),
    }
    assert functions - raw == set(OF_A_CLASS) | set(OF_AN_IMAGE)
    assert set(table("Of a class")) == set(OF_A_CLASS)
    assert set(table("Of an image or a data set")) == set(OF_AN_IMAGE)
