"""Annotations in COCO's JSON: polygons and run lengths, drawn as masks."""

from __future__ import annotations

import json
import pathlib
from typing import TYPE_CHECKING

import numpy as np

from jaxseg.config import Data
from jaxseg.data import files, targets
from jaxseg.data.files import DataError

if TYPE_CHECKING:
    from jaxtyping import Int


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
        try:
            content = json.loads(files.read_text(path))
            self._images = {x["file_name"]: x for x in content["images"]}
            categories = {x["id"]: x["name"] for x in content["categories"]}
            self._objects = {x["id"]: [] for x in content["images"]}
            for each in content["annotations"]:
                self._objects[each["image_id"]].append(each)
        except (ValueError, LookupError, TypeError) as error:
            raise DataError(
                f"{path} is not an annotation file in COCO's JSON ({type(error).__name__}: "
                f"{error}); it needs images, categories and annotations"
            ) from error
        self._crowd = -1 if config.masks in targets.OF_OBJECTS else config.ignore_label
        self._values = self._values_of(categories)

    @property
    def names(self) -> list[str]:
        """The file names of the images, in order."""
        return sorted(self._images)

    def mask(self, name: str, size: tuple[int, int]) -> Int[np.ndarray, "height width"]:
        """The mask of an image, by its name with or without suffix."""
        from pycocotools import mask as runs  # slow to import, and not needed for masks in files

        image = self._image(name)
        if (image["height"], image["width"]) != size:
            raise DataError(
                f"{self.path}: {image['file_name']} is said to be "
                f"{image['height']}x{image['width']}, but is {size[0]}x{size[1]}"
            )
        drawn = []
        for each in self._objects[image["id"]]:
            try:
                shape = each["segmentation"]
                if isinstance(shape, list):
                    shape = runs.merge(runs.frPyObjects(shape, *size)) if shape else None
                elif isinstance(shape["counts"], list):
                    shape = runs.frPyObjects(shape, *size)
                area = 0 if shape is None else runs.area(shape)
                if area:
                    drawn.append((-int(area), len(drawn), each, runs.decode(shape) > 0))
            except (LookupError, TypeError, ValueError, AttributeError) as error:
                raise DataError(
                    f"{self.path}: annotation {each.get('id')} of {image['file_name']} is neither "
                    f"polygons nor run lengths ({error}); correct or remove it"
                ) from error
        found = np.zeros(size, np.int32)
        of_objects = self._config.masks in targets.OF_OBJECTS
        for number, (*_, each, pixels) in enumerate(sorted(drawn, key=lambda x: x[:2]), 1):
            value = number if of_objects else self._values[each["category_id"]]
            found[pixels] = self._crowd if each.get("iscrowd") else value
        return found

    def _image(self, name: str) -> dict:
        if name in self._images:
            return self._images[name]
        return next(
            x
            for key, x in self._images.items()
            if files.stem(pathlib.Path(key), files.IMAGES) == name
        )

    def _values_of(self, categories: dict[int, str]) -> dict[int, int]:
        config = self._config
        if config.label_map or config.masks in targets.OF_OBJECTS:
            return {key: key for key in categories}
        unknown = [name for name in categories.values() if name not in config.classes]
        if unknown:
            raise DataError(
                f"{self.path} has the category {unknown[0]!r}, which is none of data.classes; add "
                "it there, or map the ids of categories to classes in data.label_map, which then "
                "also says what 0 is"
            )
        return {key: config.classes.index(name) for key, name in categories.items()}
