"""Annotations in COCO's JSON: polygons and run lengths, drawn as masks."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxseg.config import Data
from jaxseg.data import files, targets
from jaxseg.data.files import DataError

if TYPE_CHECKING:
    from jaxtyping import Bool, Int


class Annotations:
    """The objects of each image of a JSON file (Lin et al. 2014, arXiv:1405.0312).

    A mask has at each pixel the class whose name in data.classes is that of the object's category,
    or the id of the category if there is a data.label_map; of data.masks that hold objects, their
    numbers from 1 on. Pixels of no object are 0. Objects are drawn from the largest to the
    smallest; the pixels of crowds do not count.
    """

    def __init__(self, path: pathlib.Path, config: Data):
        self.path, self._config = path, config
        if not path.is_file():
            raise DataError(f"{path} is not a file, but data.root and data.label name it")
        self.version = files.version(path)  # of what is read now, whatever the file becomes
        try:
            content = json.loads(files.read_text(path))
            images, categories = content["images"], content["categories"]
            image_ids = [x["id"] for x in images]
            stems = [_stem(x["file_name"]) for x in images]
            names = {x["id"]: x["name"] for x in categories}
            self._objects = {key: [] for key in image_ids}
            for each in content["annotations"]:
                self._objects[each["image_id"]].append(each)
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise DataError(
                f"{path} is not an annotation file in COCO's JSON ({type(error).__name__}: "
                f"{error}); it needs images, categories and annotations"
            ) from error
        for image in images:
            if not all(isinstance(image.get(side), int | float) for side in ("height", "width")):
                raise DataError(
                    f"{path}: the image {image['file_name']} needs a height and a width, in pixels"
                )
        said = [f"the image {x['file_name']} of id {x['id']}" for x in images]
        self._check_different(image_ids, said, "id")
        self._check_different(stems, said, "file name without directory and suffix")
        said = [f"the category {x['name']!r}" for x in categories]
        self._check_different([x["id"] for x in categories], said, "id")
        self._images = dict(zip(stems, images, strict=True))
        self._of_objects = config.masks in targets.OF_OBJECTS
        self._crowd = -1 if self._of_objects else config.ignore_label
        self._values = {} if self._of_objects else self._values_of(names)

    @property
    def names(self) -> list[str]:
        """The file names of the images, in order."""
        return sorted(image["file_name"] for image in self._images.values())

    def mask(self, name: str, size: tuple[int, int]) -> Int[np.ndarray, "height width"]:
        """The mask of an image, by its name with or without suffix."""
        image = self._images.get(name) or self._images.get(_stem(name))
        if image is None:
            raise DataError(f"{self.path} has no image of the name {name}; add it")
        if (image["height"], image["width"]) != size:
            raise DataError(
                f"{self.path}: {image['file_name']} is said to be "
                f"{image['height']}x{image['width']}, but is {size[0]}x{size[1]}"
            )
        drawn = []
        for each in self._objects[image["id"]]:
            try:
                drawn.append((self._value(each), _pixels(each.get("segmentation"), size)))
            except ValueError as error:
                raise DataError(
                    f"{self.path}: annotation {each.get('id')} of {image['file_name']} {error}; "
                    "correct or remove it"
                ) from error
        drawn = sorted((x for x in drawn if x[1].any()), key=lambda x: -x[1].sum())
        found = np.zeros(size, np.int32)
        for number, (value, pixels) in enumerate(drawn, 1):
            found[pixels] = number if value is None else value
        return found

    def _value(self, annotation: dict) -> int | None:
        """What the pixels of an object become; None for its number."""
        if annotation.get("iscrowd"):
            return self._crowd
        if self._of_objects:
            return None
        category = annotation.get("category_id")
        if not isinstance(category, int | float | str) or category not in self._values:
            raise ValueError(f"has the category_id {category!r}, which no category has")
        return self._values[category]

    def _values_of(self, categories: dict[int, str]) -> dict[int, int]:
        """The value of the pixels of each category, which nothing else may have."""
        config = self._config
        mapping = dict(config.label_map)
        if mapping:
            ignored = config.ignore_label
            if ignored in categories or mapping.get(ignored) in range(len(config.classes)):
                raise DataError(
                    f"{self.path}: data.ignore_label, which crowds become, is {ignored}, but so is "
                    "the id of a category or a value that data.label_map gives a class; set it to "
                    "one that is neither, such as -1"
                )
            for key, name in categories.items():
                if type(key) is not int or not 0 <= key < 2**31:
                    raise DataError(
                        f"{self.path}: the category {name!r} has the id {key!r}, but "
                        "data.label_map needs ids that are numbers; correct it, or go by names "
                        "without data.label_map"
                    )
            drawn = (x.get("category_id") for each in self._objects.values() for x in each)
            if 0 in categories and 0 in drawn:
                raise DataError(
                    f"{self.path}: objects of the category {categories[0]!r} have its id 0, which "
                    "data.label_map takes for pixels of no object; give the category another id, "
                    "or go by names without data.label_map"
                )
            return {key: key for key in categories}
        unknown = [name for name in categories.values() if name not in config.classes]
        if unknown:
            raise DataError(
                f"{self.path} has the category {unknown[0]!r}, which is none of data.classes; add "
                "it there, or map the ids of categories to classes in data.label_map, which then "
                "also says what 0 is"
            )
        values = {key: config.classes.index(name) for key, name in categories.items()}
        if 0 in values.values():
            raise DataError(
                f"{self.path} has the category {config.classes[0]!r}, but the first of "
                "data.classes is that of pixels of no object; put the background before it, or "
                "say in data.label_map which class 0 and the ids of the categories are"
            )
        return values

    def _check_different(self, keys: Iterable, said: Iterable[str], what: str) -> None:
        seen = {}
        for key, name in zip(keys, said, strict=True):
            if key in seen:
                raise DataError(
                    f"{self.path}: {seen[key]} and {name} have the same {what}; change or remove "
                    "one"
                )
            seen[key] = name


def _stem(name: str) -> str:
    return files.key(name, files.IMAGES)


def _pixels(segmentation: Any, size: tuple[int, int]) -> Bool[np.ndarray, "height width"]:
    """The pixels of an object; raises ValueError, to say after its name, for what is none."""
    if isinstance(segmentation, list):
        return _polygons(segmentation, size)
    try:
        sides, counts = segmentation["size"], segmentation["counts"]
    except (LookupError, TypeError) as error:
        raise ValueError("is neither polygons nor run lengths with their size") from error
    if sides != list(size):
        raise ValueError(f"has run lengths of the size {sides}, which should be {list(size)}")
    lengths = _lengths(counts) if isinstance(counts, str) else counts
    if (
        not isinstance(lengths, list)
        or not all(type(x) is int and x >= 0 for x in lengths)
        or sum(lengths) != size[0] * size[1]
    ):
        raise ValueError(
            "has run lengths that are not whole numbers from 0 on, or that don't add up to "
            f"the {size[0] * size[1]} pixels of the image"
        )
    flat = np.repeat(np.arange(len(lengths)) % 2 > 0, lengths)
    return flat.reshape(size, order="F")


def _polygons(polygons: list, size: tuple[int, int]) -> Bool[np.ndarray, "height width"]:
    from pycocotools import mask as runs  # slow to import, and not needed for masks in files

    if not polygons:
        return np.zeros(size, bool)
    sides = np.array(size[::-1])
    checked = []
    for polygon in polygons:
        try:
            points = np.array(polygon, np.float64).reshape(-1, 2)
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError("has a polygon that is not x, y, x, y and so on") from error
        # Fewer would be drawn as boxes.
        if len(points) < 3:
            raise ValueError(f"has a polygon of {len(points)} points, but needs 3 or more")
        # pycocotools neither ends with what is no number nor survives far points.
        if not ((points >= -sides[None]) & (points <= 2 * sides[None])).all():
            raise ValueError(
                "has a polygon with a point that is no number, or farther from the image than "
                "its size"
            )
        checked.append(points.ravel().tolist())
    return runs.decode(runs.merge(runs.frPyObjects(checked, *size))) > 0


def _lengths(text: str) -> list[int]:
    """The run lengths of COCO's short form.

    Each is in digits of 5 bits, the lowest first, with 32 if more follow; 48 is added to make them
    letters. From the fourth on they are differences to the last but one.
    """
    lengths, value, bits = [], 0, 0
    for letter in text:
        digit = ord(letter) - 48
        if not 0 <= digit < 64:
            raise ValueError(f"has run lengths with the letter {letter!r}, which has no meaning")
        value |= (digit & 31) << bits
        bits += 5
        if digit < 32:
            value -= (digit >= 16) << bits
            lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
            value = bits = 0
    return lengths
