"""From an index to a batch: every batch is a function of its step, on any number of hosts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import cv2
import grain
import jax
import numpy as np

from jaxseg.batch import Batch
from jaxseg.config import Data
from jaxseg.data.datasets import Source
from jaxseg.data.files import DataError

_EPOCHS = 10**9  # without end, in practice: grain can't batch an endless data set by one


def train_positions(
    length: int, *, batch_size: int, seed: int, host: int = 0, hosts: int = 1
) -> grain.MapDataset:
    """The indices of the examples that a host reads at each step, without end.

    Each epoch is a new permutation; a batch may reach into the next one. A host's share is a block
    of rows of the global batch, so the global batch is the same for any number of hosts.
    """
    # Grain adds the epoch to the seed, so that the epochs of neighbouring seeds would be the same.
    mixed = int(np.random.SeedSequence(seed).generate_state(1)[0])
    positions = grain.MapDataset.range(length).shuffle(seed=mixed).repeat(_EPOCHS)
    return positions.batch(batch_size // hosts)[host::hosts]


def eval_positions(
    length: int, *, batch_size: int, host: int = 0, hosts: int = 1
) -> grain.MapDataset:
    """The indices of each example once, in order; those past the end fill up the last batch."""
    padded = -(-length // batch_size) * batch_size
    return grain.MapDataset.range(padded).batch(batch_size // hosts)[host::hosts]


def batches(
    source: Source,
    positions: grain.MapDataset,
    config: Data,
    *,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[Batch]:
    """Reads the batches of the steps from `start` to `stop`, in threads and ahead of their use.

    Indices past the end of the source become images that don't count.
    """
    load = make_loader(source, config)
    dataset = positions[start:stop].map(lambda indices: collate(map(load, indices)))
    options = grain.ReadOptions(num_threads=config.threads, prefetch_buffer_size=2 * config.threads)
    return iter(dataset.to_iter_dataset(options))


def collate(examples: Iterable[Batch]) -> Batch:
    """Stacks examples, as a loader gives them, to a batch."""
    return jax.tree.map(lambda *arrays: np.stack(arrays), *examples)


def make_loader(source: Source, config: Data) -> Callable[[int], Batch]:
    """Makes the function from an index to an example of fixed size, labels checked."""
    height, width = config.image_size
    num_classes = len(config.classes)
    label_dtype = np.uint8 if num_classes <= 256 else np.int32
    classify = _make_classify(config)

    def load(index):
        image = np.zeros((height, width, config.channels), np.uint8)
        labels = np.zeros((height, width), label_dtype)
        where = np.zeros((height, width), bool)
        size = np.zeros(2, np.int32)
        if index < len(source):
            name = source.name(index)
            example = source[index]
            pixels = _channels(example.image, config.channels, name)
            if pixels.shape[:2] != example.mask.shape:
                raise DataError(
                    f"{name}: the image is {_size(pixels)}, but its mask {_size(example.mask)}; "
                    "they must be of one size"
                )
            classes, counts = classify(example.mask, name)
            pixels, classes, counts = _scale_down(
                (pixels, classes.astype(label_dtype), counts), height, width
            )
            inside = np.s_[: pixels.shape[0], : pixels.shape[1]]
            image[inside], labels[inside], where[inside] = pixels, classes, counts
            size[:] = counts.shape
        return Batch(image, labels, where, size)

    return load


def _make_classify(config: Data) -> Callable[[np.ndarray, str], tuple[np.ndarray, np.ndarray]]:
    """Makes the function from a mask to the class of each pixel, and whether it counts."""
    num_classes, ignored = len(config.classes), config.ignore_label
    if len(dict(config.label_map)) != len(config.label_map):
        raise DataError("data.label_map has a value twice; give each value one class")
    for value, label in config.label_map:
        if not (0 <= label < num_classes or label == ignored):
            raise DataError(
                f"data.label_map has the class {label} for the value {value}, but data.classes has "
                f"{num_classes} and data.ignore_label is {ignored}"
            )
    if not config.label_map and 0 <= ignored < num_classes:
        raise DataError(
            f"data.ignore_label is {ignored}, which is also the class "
            f"{config.classes[ignored]!r}; set it to a value that no class has, such as -1, or "
            "give the classes their mask values in data.label_map"
        )
    values, labels = np.array(sorted(config.label_map), np.int64).reshape(-1, 2).T

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

    table = translate(np.arange(256))

    def classify(mask, name):
        if mask.dtype == np.uint8:
            classes, counts, wrong = (entry[mask] for entry in table)
        else:
            classes, counts, wrong = translate(mask.astype(np.int64))
        if wrong.any():
            found, numbers = np.unique(mask[wrong], return_counts=True)
            cure = "add it to data.label_map" if len(values) else "map it with data.label_map"
            raise DataError(
                f"{name}: mask value {found[0]} ({numbers[0]} pixels) is none of the {num_classes} "
                f"classes and not data.ignore_label={ignored}; {cure}, or correct data.classes"
            )
        return np.where(counts, classes, 0), counts

    return classify


def _channels(image: np.ndarray, channels: int, name: str) -> np.ndarray:
    """The image with the channels asked for: grey and RGB are converted, alpha is dropped."""
    if image.dtype != np.uint8:
        raise DataError(f"{name}: the image is {image.dtype}, but must be uint8; convert it")
    if image.ndim == 3 and image.shape[-1] == channels:
        return image
    found = image.shape[-1] if image.ndim == 3 else 1
    if channels == 1 and found in (3, 4):
        return cv2.cvtColor(np.ascontiguousarray(image[..., :3]), cv2.COLOR_RGB2GRAY)[..., None]
    if channels == 3 and found in (1, 4):
        return np.repeat(image, 3, -1) if found == 1 else image[..., :3]
    raise DataError(
        f"{name}: the image has {found} channels, but data.channels is {channels}; set "
        f"--config.data.channels={found}"
    )


def _scale_down(arrays, height: int, width: int):
    """Scales an image, its labels and `where` to fit, keeping the aspect; never scales up."""
    image, labels, where = arrays
    old_height, old_width = labels.shape
    scale = min(height / old_height, width / old_width)
    if scale >= 1:
        return arrays
    size = (max(1, round(old_width * scale)), max(1, round(old_height * scale)))
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    # Nearest by pixel centres, as the area average is: INTER_NEAREST would shift the labels.
    labels, where = (
        cv2.resize(
            x.astype(np.int32).astype(np.float32), size, interpolation=cv2.INTER_NEAREST_EXACT
        )
        for x in (labels, where)
    )
    return image.reshape(*size[::-1], -1), labels, where > 0


def _size(array: np.ndarray) -> str:
    return f"{array.shape[0]}x{array.shape[1]}"
