"""Annotations in COCO's JSON: what is drawn, and what is refused in one line."""

import json
import os

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as pycocotools

from jaxseg.config import Data
from jaxseg.data import DataError, make_loader, open_source

RNG = np.random.default_rng(0)
SIZE = (10, 14)
CLASSES = ("nothing", "cat", "dog")


def config(root, **fields):
    usual = {"image": "images", "label": "annotations.json", "channels": 3, "image_size": SIZE}
    return Data(**{"name": "folder", "root": str(root), **usual, **fields})


def picture(path, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (*size, 3), np.uint8)).save(path)


def loaded(config):
    """All examples, as they reach the device."""
    source = open_source(config, "[:]")
    load = make_loader(source, config)
    return [load(index) for index in range(len(source))]


def complaint(read, config, *arguments):
    """The one line that opening or reading ends with."""
    with pytest.raises(DataError) as caught:
        read(config, *arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def coco(root, annotations, categories=((5, "cat"), (8, "dog")), **fields):
    """Writes an image and its annotations; fields are others of the JSON file."""
    picture(root / "images" / "a b.png")
    content = {
        "images": [{"id": 7, "file_name": "a b.png", "height": SIZE[0], "width": SIZE[1]}],
        "categories": [{"id": key, "name": name} for key, name in categories],
        "annotations": [{"id": i, "image_id": 7, **x} for i, x in enumerate(annotations, 40)],
    }
    (root / "annotations.json").write_text(json.dumps(content | fields))


def runs(pixels):
    """Run lengths column by column, from a run of False on."""
    flat = pixels.ravel(order="F").astype(int)
    ends = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff([0, *ends, flat.size]).tolist()
    return {"size": list(pixels.shape), "counts": [0, *lengths] if flat[0] else lengths}


def box(top, left, bottom, right):
    found = np.zeros(SIZE, bool)
    found[top:bottom, left:right] = True
    return found


def polygon(top, left, bottom, right):
    return [[left, top, right, top, right, bottom, left, bottom]]


BOXES = [(1, 1, 9, 12), (2, 2, 5, 6), (6, 8, 8, 11)]
CATEGORIES = (5, 8, 5)


def objects(kind):
    draw = {"runs": lambda x: runs(box(*x)), "polygons": lambda x: polygon(*x)}[kind]
    pairs = zip(BOXES, CATEGORIES, strict=True)
    # The largest comes last, and is drawn first.
    return [{"segmentation": draw(b), "category_id": c} for b, c in pairs][::-1]


@pytest.mark.parametrize("kind", ["runs", "polygons"])
def test_classes(tmp_path, kind):
    """By the names of the categories, the smaller above the larger."""
    coco(tmp_path, objects(kind))
    (found,) = loaded(config(tmp_path, classes=("nothing", "dog", "cat")))
    expected = np.zeros(SIZE, int)
    for place, category in zip(BOXES, CATEGORIES, strict=True):
        expected[box(*place)] = {5: 2, 8: 1}[category]
    np.testing.assert_array_equal(found.labels, expected)
    assert found.where.all()


@pytest.mark.parametrize(("last", "ignored"), [(8, 255), (255, -1)])
def test_category_ids(tmp_path, last, ignored):
    """With a label_map they are the values; crowds do not count."""
    crowd = {"segmentation": runs(box(0, 0, 2, 3)), "category_id": 5, "iscrowd": 1}
    drawn = [{**x, "category_id": {5: 5, 8: last}[x["category_id"]]} for x in objects("runs")]
    coco(tmp_path, [*drawn, crowd], [(5, "cat"), (last, "dog")])
    page = {"classes": ("nothing", "animal"), "label_map": ((0, 0), (5, 1), (last, 1))}
    (found,) = loaded(config(tmp_path, **page, ignore_label=ignored))
    np.testing.assert_array_equal(found.where, ~box(0, 0, 2, 3))
    np.testing.assert_array_equal(found.labels == 1, box(*BOXES[0]) & ~box(0, 0, 2, 3))


def test_objects(tmp_path):
    """Objects have ids, so that they have borders."""
    coco(tmp_path, objects("runs"))
    page = config(tmp_path, masks="borders", classes=("a", "b", "c"))
    (found,) = loaded(page)
    assert found.labels[0, 0] == 0
    assert found.labels[2, 2] == 2  # of an object on another
    assert found.labels[3, 3] == 1


@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_short_run_lengths(tmp_path, share):
    """Those that pycocotools writes."""
    pixels = RNG.random(SIZE) < share
    short = pycocotools.encode(np.asfortranarray(pixels.astype(np.uint8)))["counts"].decode()
    shape = {"size": list(SIZE), "counts": short}
    coco(tmp_path, [{"segmentation": shape, "category_id": 8}])
    (found,) = loaded(config(tmp_path, classes=CLASSES))
    np.testing.assert_array_equal(found.labels, 2 * pixels)


def test_short_run_lengths_of_many_digits(tmp_path):
    side = 300
    pixels = np.zeros((side, side), bool)
    pixels[10:20, 3] = pixels[:, 100:290] = True
    short = pycocotools.encode(np.asfortranarray(pixels.astype(np.uint8)))["counts"].decode()
    shape = {"size": [side, side], "counts": short}
    sizes = [{"id": 7, "file_name": "a b.png", "height": side, "width": side}]
    coco(tmp_path, [{"segmentation": shape, "category_id": 5}], images=sizes)
    picture(tmp_path / "images" / "a b.png", (side, side))
    (found,) = loaded(config(tmp_path, classes=CLASSES, image_size=(side, side)))
    np.testing.assert_array_equal(found.labels, pixels)


def test_points_beyond_the_image(tmp_path):
    """Up to its size away they are only cut off."""
    height, width = SIZE
    coco(tmp_path, [{"segmentation": polygon(4, -width, 2 * height, 5), "category_id": 5}])
    (found,) = loaded(config(tmp_path, classes=CLASSES))
    np.testing.assert_array_equal(found.labels, box(4, 0, height, 5))


def test_nothing_to_draw(tmp_path):
    coco(tmp_path, [{"segmentation": x, "category_id": 5} for x in ([], runs(box(0, 0, 0, 0)))])
    (found,) = loaded(config(tmp_path, classes=CLASSES))
    assert not found.labels.any()
    assert found.where.all()


GOOD = polygon(1, 1, 5, 5)
NAN, INF = float("nan"), float("inf")  # which Python's JSON has


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"segmentation": 5}, "is neither polygons nor run lengths"),
        ({"segmentation": None}, "is neither polygons nor run lengths"),
        ({"segmentation": {"counts": [140]}}, "is neither polygons nor run lengths"),
        ({"segmentation": [[]]}, "a polygon of 0 points, but needs 3 or more"),
        ({"segmentation": [[1, 1, 5, 5]]}, "a polygon of 2 points"),
        ({"segmentation": [*GOOD, [1, 1, 5, 5]]}, "a polygon of 2 points"),
        ({"segmentation": [1, 1, 5, 5, 1, 5]}, "not x, y, x, y"),
        ({"segmentation": [[1, 1, 5, 5, 1, 5, 3]]}, "not x, y, x, y"),
        ({"segmentation": [[1, 1, 5, 5, 1, "a"]]}, "not x, y, x, y"),
        ({"segmentation": [[1, 1, 5, 5, 1, 10**400]]}, "not x, y, x, y"),
        ({"segmentation": [[1, 1, 5, NAN, 1, 5]]}, "a point that is no number, or farther"),
        ({"segmentation": [[1, 1, 5, None, 1, 5]]}, "a point that is no number, or farther"),
        ({"segmentation": [[1, 1, 5, INF, 1, 5]]}, "a point that is no number, or farther"),
        ({"segmentation": [[1, 1, 5, -INF, 1, 5]]}, "a point that is no number, or farther"),
        ({"segmentation": [*GOOD, [1, 1, 1e9, 5, 1, 1e9]]}, "a point that is no number, or"),
        ({"segmentation": [[1, 1, 29, 5, 1, 5]]}, "a point that is no number, or farther"),
        ({"segmentation": [[1, 1, 5, -11, 1, 5]]}, "a point that is no number, or farther"),
        ({"segmentation": {"size": [14, 10], "counts": [140]}}, "of the size [14, 10], which"),
        ({"segmentation": {"size": [10, 14], "counts": [-1, 141]}}, "add up to the 140 pixels"),
        ({"segmentation": {"size": [10, 14], "counts": [141]}}, "add up to the 140 pixels"),
        ({"segmentation": {"size": [10, 14], "counts": [50, 50]}}, "add up to the 140 pixels"),
        ({"segmentation": {"size": [10, 14], "counts": [2**63, -(2**63) + 140]}}, "add up to"),
        ({"segmentation": {"size": [10, 14], "counts": ["140"]}}, "add up to the 140 pixels"),
        ({"segmentation": {"size": [10, 14], "counts": 140}}, "add up to the 140 pixels"),
        ({"segmentation": {"size": [10, 14], "counts": ""}}, "add up to the 140 pixels"),
        ({"segmentation": {"size": [10, 14], "counts": "11"}}, "add up to the 140 pixels"),
        ({"segmentation": {"size": [10, 14], "counts": "ooo"}}, "add up to the 140 pixels"),
        ({"segmentation": {"size": [10, 14], "counts": "N0"}}, "add up to the 140 pixels"),
        ({"segmentation": {"size": [10, 14], "counts": "1 1"}}, "the letter ' '"),
        ({"category_id": 9}, "has the category_id 9, which no category has"),
        ({"category_id": None}, "has the category_id None"),
        ({"category_id": [5]}, "has the category_id [5]"),
    ],
)
def test_annotation_that_can_not_be_drawn(tmp_path, change, part):
    coco(tmp_path, [{"segmentation": GOOD, "category_id": 5, **change}])
    message = complaint(loaded, config(tmp_path, classes=CLASSES))
    assert "annotations.json: annotation 40 of a b.png " in message
    assert part in message


def images(*names, ids=(1, 2)):
    height, width = SIZE
    return [
        {"id": i, "file_name": name, "height": height, "width": width}
        for i, name in zip(ids, names, strict=True)
    ]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"categories": [(5, "bird")]}, "has the category 'bird'"),
        ({"categories": [(5, "cat"), (8, "nothing")]}, "put the background before it"),
        ({"categories": [(5, "cat"), (5, "dog")]}, "'cat' and the category 'dog' have the same id"),
        (
            {"images": images("d1/a.png", "d2/a.png")},
            "the image d1/a.png of id 1 and the image d2/a.png of id 2 have the same file name",
        ),
        (
            {"images": images("a.png", "a.png")},
            "the image a.png of id 1 and the image a.png of id 2 have the same file name",
        ),
        ({"images": images("a.png", "a.jpg")}, "have the same file name"),
        (
            {"images": images("a.png", "b.png", ids=(1, 1))},
            "the image a.png of id 1 and the image b.png of id 1 have the same id",
        ),
        ({"images": [{"id": 7, "file_name": "a b.png"}]}, "a b.png needs a height and a width"),
        (
            {"images": [{"id": 7, "file_name": "a b.png", "height": 10, "width": "14"}]},
            "a b.png needs a height and a width",
        ),
    ],
)
def test_file_that_can_not_be_used(tmp_path, change, part):
    coco(tmp_path, [], **change)
    message = complaint(open_source, config(tmp_path, classes=CLASSES), "[:]")
    assert part in message
    assert "annotations.json" in message


def test_image_of_another_size(tmp_path):
    coco(tmp_path, [], images=[{"id": 7, "file_name": "a b.png", "height": 99, "width": 14}])
    message = complaint(loaded, config(tmp_path, classes=CLASSES))
    assert "annotations.json: a b.png is said to be 99x14, but is 10x14" in message


@pytest.mark.parametrize(
    ("category", "label_map", "part"),
    [
        (255, ((0, 0), (5, 1)), "crowds become, is 255, but so is the id of a category"),
        (5, ((0, 0), (5, 1), (255, 1)), "or a value that data.label_map gives a class"),
        (0, ((0, 0), (5, 1)), "'cat' have its id 0"),
        ("5", ((0, 0), (5, 1)), "has the id '5', but data.label_map needs ids that are numbers"),
    ],
)
def test_category_ids_that_mean_something_else(tmp_path, category, label_map, part):
    coco(tmp_path, [{"segmentation": GOOD, "category_id": category}], [(category, "cat")])
    page = config(tmp_path, classes=("nothing", "animal"), label_map=label_map)
    message = complaint(open_source, page, "[:]")
    assert part in message
    assert "annotations.json" in message


def test_categories_do_not_matter_to_objects(tmp_path):
    coco(tmp_path, [{"segmentation": GOOD}, {"segmentation": GOOD, "category_id": 99}], [(0, "a")])
    (found,) = loaded(config(tmp_path, masks="instances", classes=("a", "b")))
    np.testing.assert_array_equal(found.labels, box(1, 1, 5, 5))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"images": []}', "\x00", "[" * 100_000])
def test_file_that_is_none(tmp_path, text):
    picture(tmp_path / "images" / "a.png")
    (tmp_path / "a.json").write_text(text)
    message = complaint(open_source, config(tmp_path, label="a.json"), "[:]")
    assert "a.json is not an annotation file" in message


def test_without_an_image(tmp_path):
    coco(tmp_path, objects("runs"))
    os.remove(tmp_path / "images" / "a b.png")
    assert "'a b' first" in complaint(open_source, config(tmp_path, classes=CLASSES), "[:]")


def test_cache_of_annotations_that_change(tmp_path):
    """What a run has read before the change is not taken for what the file holds after it."""
    cached = config(tmp_path, classes=CLASSES, cache=str(tmp_path / "cache"))
    picture(tmp_path / "images" / "a.png")

    def annotate(side):
        square = [0, 0, side, 0, side, side, 0, side]
        drawn = {"image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": [square]}
        size = {"height": SIZE[0], "width": SIZE[1]}
        content = {
            "images": [{"id": 1, "file_name": "a.png", **size}],
            "categories": [{"id": 1, "name": "cat"}],
            "annotations": [{"id": 1, **drawn}],
        }
        (tmp_path / "annotations.json").write_text(json.dumps(content))

    annotate(4)
    load = make_loader(open_source(cached, "[:]"), cached)
    annotate(10)
    assert load(0).labels.sum() == 16
    assert loaded(cached)[0].labels.sum() == 100
