"""What masks hold becomes what is learned: classes, rings of objects, votes and shares."""

import re

import numpy as np
import pytest
import scipy.ndimage

from jaxseg import labels
from jaxseg.config import Data
from jaxseg.data import DataError
from jaxseg.data.targets import Target, check, make_target, object_depth

# What versions change shows in the examples of the docstrings.
pytestmark = pytest.mark.exhaustive

RNG = np.random.default_rng(0)


def config(masks="classes", classes=2, **fields):
    return Data(masks=masks, classes=tuple(f"c{i}" for i in range(classes)), **fields)


def target(mask, **fields):
    return make_target(config(**fields))(mask, "a.png")


def slow_depth(ids):
    """The definition, pixel by pixel."""
    places = np.stack(np.indices(ids.shape), -1).reshape(-1, ids.ndim)
    flat, depth = ids.ravel(), np.zeros(ids.size)
    for i in np.flatnonzero(flat):
        others = places[flat != flat[i]]
        distances = np.sqrt(((others - places[i]) ** 2).sum(-1))
        depth[i] = distances.min(initial=np.inf)
    return depth.reshape(ids.shape)


@pytest.mark.parametrize("shape", [(13, 9), (1, 7), (5, 6, 4)])
@pytest.mark.parametrize("count", [1, 3, 400])
def test_depth_is_the_distance_to_what_is_not_of_the_object(shape, count):
    """Also of ids with gaps, touching objects, objects in parts, and those that the image cuts."""
    coarse = RNG.integers(0, count + 1, [-(-side // 3) for side in shape])
    ids = coarse
    for axis, side in enumerate(shape):
        ids = ids.repeat(3, axis).take(range(side), axis)
    ids = (ids * 7).astype(np.uint16)
    np.testing.assert_allclose(object_depth(ids), slow_depth(ids), rtol=1e-12)


def test_depth_of_one_object_alone():
    assert np.isinf(object_depth(np.ones((3, 4), int))).all()
    assert not object_depth(np.zeros((3, 4), int)).any()


def test_instances_are_objects_or_background():
    ids = np.array([[0, 3, 700, -1]], np.int32)
    found = target(ids, masks="instances")
    np.testing.assert_array_equal(found.labels, [[0, 1, 1, 0]])
    np.testing.assert_array_equal(found.where, [[True, True, True, False]])


@pytest.mark.parametrize("border", [1, 2, 3])
def test_borders_part_what_touches(border):
    """Inside and border of an object are those deeper and less deep than data.border.

    With the borders left out, touching objects are components of their own.
    """
    ids = np.zeros((12, 24), np.uint16)
    ids[1:11, 1:11], ids[1:11, 11:22] = 300, 255  # 255 is an id as any other
    found = target(ids, masks="borders", classes=3, border=border).labels
    np.testing.assert_array_equal(found > 0, ids > 0)
    np.testing.assert_array_equal(found == 2, (ids > 0) & (slow_depth(ids) <= border))
    _, count = scipy.ndimage.label(found == 1)
    assert count == 2


def test_distances_are_rings():
    ids = np.zeros((11, 11), np.uint8)
    ids[1:10, 1:10] = 4
    found = target(ids, masks="distances", classes=4, border=2).labels
    assert found[5].tolist() == [0, 1, 1, 2, 2, 3, 2, 2, 1, 1, 0]


COLOURS = ((0, 0, 0), (255, 0, 1), (1, 0, 255))


def test_colours_are_classes():
    indices = RNG.integers(0, 3, (5, 7))
    mask = np.array(COLOURS, np.uint8)[indices]
    found = target(mask, classes=3, colours=COLOURS)
    np.testing.assert_array_equal(found.labels, indices)
    assert found.where.all()


def test_colours_that_do_not_count():
    """They are mapped like any class."""
    mask = np.array(COLOURS, np.uint8)[None]
    found = target(mask, classes=3, colours=COLOURS, label_map=((0, 255), (1, 0), (2, 1)))
    np.testing.assert_array_equal(found.where, [[False, True, True]])
    np.testing.assert_array_equal(found.labels, [[0, 0, 1]])


def test_unknown_colour_is_named():
    mask = np.array(COLOURS, np.uint8)[[[0, 1, 2, 2]]]
    mask[0, 2:] = 9, 8, 7
    with pytest.raises(DataError, match=r"a\.png: the colour \(9, 8, 7\) \(2 pixels\)"):
        target(mask, classes=3, colours=COLOURS)


def raters():
    masks = RNG.integers(0, 3, (5, 6, 4)).astype(np.uint8)
    masks[:, 0, 0] = 255  # nobody
    masks[1:3, 1] = 255
    return masks


def test_votes_are_counted():
    """Exactly: their shares are what labels.from_raters finds, where anyone voted."""
    masks = raters()
    soft = config("votes", 3)
    counts, where = make_target(soft)(masks, "a")
    assert counts.dtype == np.uint8
    expected = [[(masks == label).sum(0) for label in range(3)]]
    np.testing.assert_array_equal(counts, np.stack(expected[0], -1))
    np.testing.assert_array_equal(where, (masks != 255).any(0))
    shares = labels.from_raters(np.where(masks == 255, 0, masks), 3, where=masks != 255)
    found = counts / np.maximum(counts.sum(-1, keepdims=True), 1)
    np.testing.assert_allclose(found[where], np.asarray(shares)[where], rtol=1e-6)


def test_votes_fit_into_bytes():
    soft = config("votes", 2)
    counts, _ = make_target(soft)(np.ones((255, 1, 2), np.uint8), "a")
    assert counts.tolist() == [[[0, 255]] * 2]
    with pytest.raises(DataError, match="256 annotators, but at most 255"):
        make_target(soft)(np.ones((256, 1, 2), np.uint8), "a")


def test_staple_is_that_of_labels():
    masks = raters()
    soft = config("staple", 3)
    found, where = make_target(soft)(masks, "a")
    assert found.dtype == np.float16
    expected = labels.from_raters(
        np.where(masks == 255, 0, masks), 3, where=masks != 255, method="staple"
    )
    np.testing.assert_allclose(found[where], np.asarray(expected)[where], atol=5e-4)
    np.testing.assert_array_equal(where, (masks != 255).any(0))
    assert not found[~where].any()


@pytest.mark.parametrize("stored", [np.uint8, np.uint16, np.float16, np.float32])
def test_shares_survive_float16(stored):
    """Small whole amounts exactly, all others as shares of their sum."""
    large = {np.uint8: 200, np.uint16: 60_000}.get(stored)
    mask = RNG.integers(0, large, (4, 5, 3)) if large else RNG.random((4, 5, 3)) * 1e-3
    mask = mask.astype(stored)
    mask[0, 0] = 0
    soft = config("shares", 3)
    found, where = make_target(soft)(mask, "a")
    assert found.dtype == np.float16
    assert not where[0, 0]
    assert where.sum() == 19
    if stored is np.uint8:
        np.testing.assert_array_equal(found, mask)
    parts = found[where].astype(float)
    expected = mask[where].astype(float)
    np.testing.assert_allclose(
        parts / parts.sum(-1, keepdims=True),
        expected / expected.sum(-1, keepdims=True),
        atol=1e-3,
    )


@pytest.mark.parametrize(
    ("mask", "part"),
    [
        (np.zeros((4, 5, 2)), "last axis of 3"),
        (np.full((4, 5, 3), -1), "negative"),
        (np.full((4, 5, 3), np.nan), "not finite"),
    ],
)
def test_what_is_no_share(mask, part):
    with pytest.raises(DataError, match=rf"a\.png.*{part}"):
        target(mask, masks="shares", classes=3)


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"masks": "ids"}, "data.masks is 'ids', but must be one of classes, instances"),
        ({"masks": "borders"}, "makes 3 classes, but data.classes has 2"),
        ({"masks": "instances", "classes": 3}, "makes 2 classes"),
        ({"masks": "borders", "classes": 3, "border": 0}, "data.border is 0"),
        ({"colours": COLOURS}, "3 different colours for 2 classes"),
        ({"colours": (COLOURS[0],) * 2}, "1 different colours for 2 classes"),
        ({"colours": ((0, 0, 0), (0, 0, 256))}, "0..255"),
        ({"colours": COLOURS[:2], "masks": "votes"}, "data.colours go with"),
        ({"masks": "votes", "ignore_label": 1}, "also the class 'c1'"),
    ],
)
def test_fields_that_do_not_go_together(fields, part):
    with pytest.raises(DataError, match=re.escape(part)):
        check(config(**fields))


def test_a_target_is_its_labels_and_where():
    """Of every kind, in whole arrays of the image's size."""
    for masks, mask, classes in (
        ("classes", RNG.integers(0, 2, (4, 6), np.uint8), 2),
        ("instances", RNG.integers(0, 9, (4, 6)), 2),
        ("distances", RNG.integers(0, 9, (4, 6)), 5),
        ("panoptic", RNG.integers(-1, 2, (4, 6)), 2),
    ):
        found = target(mask, masks=masks, classes=classes, ignore_label=-1)
        assert isinstance(found, Target)
        assert found.labels.shape == found.where.shape == (4, 6)
        assert found.labels.dtype == np.uint8
        assert found.where.dtype == bool
