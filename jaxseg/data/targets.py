"""From what masks hold to what is learned: `data.masks` says which.

| data.masks | a mask is | and becomes |
|---|---|---|
| classes | class indices `[*pixels]`, or `[*pixels, 3]` one of data.colours | classes |
| instances | ids of objects, 0 the background | background, object |
| borders | the same | background, inside, border: at most data.border pixels deep |
| distances | the same | background, and by depth a class for each data.border pixels |
| panoptic | ids of segments in the colours of COCO, with the class of each (tfds) | classes |
| votes | class indices of several annotators `[raters, *pixels]` | the votes for each class |
| staple | the same | the distribution that `labels.from_raters` estimates |
| shares | amounts of each class `[*pixels, classes]` | their shares of the sum |

Ids below 0 and pixels of data.ignore_label, which ids don't have, do not count. The depth of a
pixel is its distance to the nearest one that is not of its object.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import cv2
import jax
import numpy as np

from jaxseg import labels as label_functions
from jaxseg.config import Data
from jaxseg.data.files import DataError

if TYPE_CHECKING:
    from jaxtyping import Bool, Int, Integer, Num, UInt8

    Mask = Num[np.ndarray, "*shape"]

OF_OBJECTS = ("instances", "borders", "distances")
OF_RATERS = ("votes", "staple")
MASKS = ("classes", *OF_OBJECTS, "panoptic", *OF_RATERS, "shares")


class Target(NamedTuple):
    """The labels of an image in its own size, and the pixels that count.

    Class indices `[*pixels]`, or amounts of each class `[*pixels, classes]`.
    """

    labels: Num[np.ndarray, "*shape"]
    where: Bool[np.ndarray, "*pixels"]


def is_soft(config: Data) -> bool:
    """Whether labels reach the device as amounts of each class rather than as class indices."""
    return config.masks in (*OF_RATERS, "shares")


def label_dtype(config: Data) -> np.dtype:
    """The type that labels have on their way to the device.

    Votes are counted in bytes, and other amounts are float16.

    >>> label_dtype(Data(classes=("background", "nucleus"))).name
    'uint8'
    """
    if config.masks in ("staple", "shares"):
        return np.dtype(np.float16)
    return np.dtype(np.uint8 if len(config.classes) <= 256 else np.int32)


def pixels_of(mask: Mask, config: Data) -> tuple[int, ...]:
    """The sides of the image that a mask belongs to."""
    if config.masks in OF_RATERS:
        return mask.shape[1:]
    return mask.shape[:-1] if config.colours or config.masks == "shares" else mask.shape


def make_target(config: Data) -> Callable[[Mask, str], Target]:
    """Makes the function from a mask, and the name to call it by in an error, to its labels."""
    check(config)
    if config.masks == "shares":
        return lambda mask, name: _shares(mask, len(config.classes), name)
    if config.masks in OF_OBJECTS:
        return lambda mask, name: _of_objects(mask, config, name)
    classify = _make_classify(config)
    if config.colours:
        index = _make_index(config)
        return lambda mask, name: classify(index(mask, name), name)
    if config.masks in OF_RATERS:
        return lambda mask, name: _of_raters(classify(mask, name), config, name)
    return classify


def check(config: Data) -> None:
    """Raises DataError for fields of masks and classes that don't go together."""
    num_classes, ignored = len(config.classes), config.ignore_label
    if config.masks not in MASKS:
        raise DataError(f"data.masks is {config.masks!r}, but must be one of {', '.join(MASKS)}")
    if config.masks in OF_OBJECTS:
        least, most = {"instances": (2, 2), "borders": (3, 3), "distances": (2, 255)}[config.masks]
        if not least <= num_classes <= most:
            raise DataError(
                f'data.masks="{config.masks}" makes {least} classes, but data.classes has '
                f"{num_classes}; name {_NAMES[config.masks]}"
            )
        if config.border < 1:
            raise DataError(f"data.border is {config.border}, but must be at least 1")
    if config.colours:
        if config.masks != "classes":
            raise DataError(f'data.colours go with data.masks="classes", not "{config.masks}"')
        if len(config.colours) != num_classes or len(set(config.colours)) != num_classes:
            raise DataError(
                f"data.colours has {len(set(config.colours))} different colours for {num_classes} "
                "classes; give one for each, in their order, and let the colours of pixels that "
                "do not count be classes, which data.label_map maps to data.ignore_label"
            )
        if any(not 0 <= value <= 255 for colour in config.colours for value in colour):
            raise DataError("data.colours must be (red, green, blue), each in 0..255")
    if len(dict(config.label_map)) != len(config.label_map):
        raise DataError("data.label_map has a value twice; give each value one class")
    for value, label in config.label_map:
        if not (0 <= label < num_classes or label == ignored):
            raise DataError(
                f"data.label_map has the class {label} for the value {value}, but data.classes has "
                f"{num_classes} and data.ignore_label is {ignored}"
            )
    by_values = config.masks in ("classes", *OF_RATERS)
    if by_values and not config.label_map and 0 <= ignored < num_classes:
        raise DataError(
            f"data.ignore_label is {ignored}, which is also the class "
            f"{config.classes[ignored]!r}; set it to a value that no class has, such as -1, or "
            "give the classes their mask values in data.label_map"
        )


_NAMES = {
    "instances": "the background and the objects",
    "borders": "the background, the inside of objects and their border",
    "distances": "the background, and one for each ring of data.border pixels",
}


def _of_raters(raters: Target, config: Data, name: str) -> Target:
    """What several annotators say, each by a mask and the pixels that they annotated."""
    labels, where = raters
    num_classes = len(config.classes)
    if len(labels) > 255:
        raise DataError(f"{name}: there are {len(labels)} annotators, but at most 255 are counted")
    if config.masks == "votes":
        votes = [np.sum(where & (labels == i), 0, dtype=np.uint8) for i in range(num_classes)]
        return Target(np.stack(votes, -1), where.any(0))
    # On a CPU, whatever else there is: the devices are busy with the steps.
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        found = label_functions.from_raters(
            labels.astype(np.int32), num_classes, where=where, method="staple"
        )
    found = np.where(where.any(0)[..., None], np.asarray(found), 0)
    return Target(found.astype(np.float16), where.any(0))


def _shares(mask: Num[np.ndarray, "*pixels classes"], num_classes: int, name: str) -> Target:
    if mask.shape[-1] != num_classes:
        raise DataError(
            f"{name}: the mask is {mask.dtype}{list(mask.shape)}, but amounts of the "
            f"{num_classes} data.classes need a last axis of {num_classes}"
        )
    if not (mask >= 0).all() or not np.isfinite(mask).all():
        raise DataError(
            f"{name}: the mask has amounts that are negative or not finite; they must be at least 0"
        )
    if mask.dtype.kind == "f" or mask.max(initial=0) > 2048:  # up to which float16 has all integers
        total = mask.sum(-1, keepdims=True, dtype=np.float64)
        mask = mask / np.where(total > 0, total, 1)
    return Target(mask.astype(np.float16), mask.any(-1))


def _of_objects(ids: Integer[np.ndarray, "*pixels"], config: Data, name: str) -> Target:
    where = ids >= 0
    ids = np.where(where, ids, 0)
    if config.masks == "instances":
        return Target((ids > 0).astype(np.uint8), where)
    depth = object_depth(ids)
    if config.masks == "borders":
        classes = np.where(depth > config.border, 1, 2)
    else:
        classes = np.minimum(np.ceil(depth / config.border), len(config.classes) - 1)
    return Target(np.where(ids > 0, classes, 0).astype(np.uint8), where)


def object_depth(ids: Integer[np.ndarray, "*pixels"]) -> Num[np.ndarray, "*pixels"]:
    """The distance from each pixel of an object to the nearest that is not of it; 0 elsewhere.

    Beyond the image there is nothing: an object that it cuts goes on. An object that fills the
    image is infinitely deep.

    >>> object_depth(np.array([[1, 1, 1, 2, 2, 0]])).tolist()
    [[3.0, 2.0, 1.0, 1.0, 1.0, 0.0]]
    """
    import scipy.ndimage  # slow to import, and seldom needed

    depth = np.zeros(ids.shape)
    numbers, compact = np.unique(np.append(ids, 0), return_inverse=True)
    compact = compact[:-1].reshape(ids.shape) - np.searchsorted(numbers, 0)
    for number, box in enumerate(scipy.ndimage.find_objects(compact), 1):
        # One pixel more on each side, where there is one, is not of the object.
        around = tuple(slice(max(0, side.start - 1), side.stop + 1) for side in box)
        inside = compact[around] == number
        if inside.all():
            depth[around] = np.inf
        else:
            distances = scipy.ndimage.distance_transform_edt(inside)
            depth[around][inside] = distances[inside]
    return depth


def _make_index(config: Data) -> Callable[[UInt8[np.ndarray, "*pixels 3"], str], np.ndarray]:
    """Makes the function from the colours of a mask to the indices of `data.colours`."""
    numbers = _packed(np.array(config.colours, np.uint8).reshape(-1, 3))
    order = np.argsort(numbers)
    numbers = numbers[order]

    def index(mask, name):
        packed = _packed(mask)
        found = np.searchsorted(numbers, packed).clip(max=len(numbers) - 1)
        wrong = numbers[found] != packed
        if wrong.any():
            values, counts = np.unique(packed[wrong], return_counts=True)
            most = int(values[counts.argmax()])
            colour = (most >> 16, most >> 8 & 255, most & 255)
            raise DataError(
                f"{name}: the colour {colour} ({counts.max()} pixels) is none of the "
                f"{len(numbers)} data.colours; add it, or store the mask without loss, as PNG"
            )
        return order[found]

    return index


def _packed(colours: UInt8[np.ndarray, "*pixels 3"]) -> Int[np.ndarray, "*pixels"]:
    red, green, blue = (colours[..., i].astype(np.int32) for i in range(3))
    return red << 16 | green << 8 | blue


def _make_classify(config: Data) -> Callable[[Integer[np.ndarray, "*shape"], str], Target]:
    """Makes the function from mask values to the class of each pixel, and whether it counts."""
    num_classes, ignored = len(config.classes), config.ignore_label
    values, labels = np.array(sorted(config.label_map), np.int64).reshape(-1, 2).T
    dtype = np.uint8 if num_classes <= 256 else np.int32

    def translate(mask):
        """The class of each value, whether it counts, and whether it means nothing."""
        ignore = mask == ignored
        if not len(values):
            return mask, ~ignore, ~ignore & ((mask < 0) | (mask >= num_classes))
        index = np.searchsorted(values, mask).clip(max=len(values) - 1)
        listed = values[index] == mask
        classes = labels[index]
        # Where the ignored number is that of a class, only values that are not listed are ignored.
        left_out = (classes == ignored) & (not 0 <= ignored < num_classes)
        return classes, ~np.where(listed, left_out, ignore), ~listed & ~ignore

    def finish(classes, counts, wrong):
        return np.where(counts & ~wrong, classes, 0).astype(dtype), counts, wrong

    # OpenCV looks up bytes, which takes most of the time, in a half of NumPy's.
    fast, left_out, unknown = num_classes <= 254, 254, 255
    classes, counts, wrong = finish(*translate(np.arange(256)))
    table = np.where(wrong, unknown, np.where(counts, classes, left_out)).astype(np.uint8)

    def classify(mask, name):
        if mask.dtype == np.uint8 and fast:
            found = cv2.LUT(mask.reshape(-1), table).reshape(mask.shape)
            counts, wrong = found < left_out, found == unknown
            classes = found * counts
        else:
            classes, counts, wrong = finish(*translate(mask.astype(np.int64)))
        if wrong.any():
            found, numbers = np.unique(mask[wrong], return_counts=True)
            cure = "add it to data.label_map" if len(values) else "map it with data.label_map"
            raise DataError(
                f"{name}: mask value {found[0]} ({numbers[0]} pixels) is none of the {num_classes} "
                f"classes and not data.ignore_label={ignored}; {cure}, or correct data.classes"
            )
        return Target(classes, counts)

    return classify
