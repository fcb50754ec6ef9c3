"""Looks at every image and mask of a config's splits, and says what training would meet:

    python -m jaxseg.data inspect --config=configs/mine.py
    python -m jaxseg.data inspect DIR

Prints counts, sizes, the classes with the weights that their frequencies imply, the mean and
standard deviation of the channels, and what is wrong: files that can't be read, masks of another
size or with values that are no class, duplicates within and across splits. Of a folder without a
config, the one that `python -m jaxseg.data new` would write is inspected. Leaves inspection.json,
contact_sheet.png and inspection.html. The exit code is 1 if training would stop, and 0 otherwise.
"""

from __future__ import annotations

import base64
import collections
import concurrent.futures
import dataclasses
import hashlib
import io
import json
import math
import pathlib
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import jinja2
import numpy as np
import rich.table
from absl import flags
from ml_collections import config_flags
from PIL import Image
from rich.console import Console
from rich.text import Text

import jaxseg.config
from jaxseg import cli, pictures, report, writing
from jaxseg.batch import Batch
from jaxseg.config import Data
from jaxseg.data import targets
from jaxseg.data.datasets import Example, FolderSource, Source, open_source
from jaxseg.data.files import DataError
from jaxseg.data.pipeline import example_spec, make_loader

if TYPE_CHECKING:
    from jaxtyping import Float, Num, UInt64

ARGUMENTS = 1
FILES = ("inspection.json", "contact_sheet.png", "inspection.html")
_SHOWN = 8  # findings of one kind in the terminal, and sizes
_PICTURES = {"train": 16, "eval": 8}  # in the contact sheet
_VALUES = 4096  # that are counted of a mask
_NEAR = 10  # of the 256 bits of a sketch, in which images that look alike differ
_MOST_COMPARED = 200_000  # images whose sketches are compared, each with each

# What is found, whether it stops training, and what to do about it.
KINDS = {
    "split": (True, "Correct the config: a split can't be opened."),
    "unreadable": (
        True,
        "Replace or remove what can't be read, or leave it out with --config.data.unreadable=skip.",
    ),
    "size": (True, "Give images and masks one size, or remove them."),
    "image": (True, "Make images and the config agree: data.channels, bits, value_range, sizes."),
    "labels": (
        True,
        "Give mask values a class in data.label_map, or correct data.classes and "
        "data.ignore_label.",
    ),
    "unpaired": (False, "Add the partners of files that have none, or remove them: none is read."),
    "skipped": (False, "Training leaves out what can't be used, as data.unreadable says."),
    "group": (False, "Keep each group in one split: what is evaluated has been trained on."),
    "duplicate": (False, "Keep one of the images that are the same, and all in one split."),
    "near duplicate": (False, "Look at the images that are nearly the same in both splits."),
    "orientation": (
        False,
        "Bring volumes to one orientation, as nibabel.as_closest_canonical does: they are not "
        "turned.",
    ),
    "orientation tag": (
        False,
        "See in the contact sheet that masks lie on pictures that viewers turn: they are read as "
        "they are stored.",
    ),
    "absent class": (False, "Give every split some pixels of each class, or drop the class."),
    "constant image": (False, "Look at the images of one value: they teach nothing."),
    "constant mask": (False, "See that masks of one value are meant so."),
}

_OF_FILES = ("unreadable", "size", "labels", "image")


class Finding(NamedTuple):
    """Something to know of an image or a split, in one line."""

    kind: str
    split: str
    line: str


class Facts(NamedTuple):
    """What is known of one image and its mask."""

    index: int  # in the source
    name: str
    finding: Finding | None = None  # what would stop training at it
    shape: tuple[int, ...] | None = None
    channels: int = 0
    dtypes: tuple[str, str] = ("", "")  # of image and mask
    digests: tuple[bytes, bytes] = (b"", b"")  # likewise
    sketch: UInt64[np.ndarray, " 4"] | None = None
    constant: tuple[bool, bool] = (False, False)  # likewise
    axes: str | None = None  # where they point to, of a volume whose file tells
    turned: bool = False  # by viewers
    values: tuple[np.ndarray, np.ndarray] | None = None  # of the mask, and their pixels
    intensity: list[tuple[int, int, int, int]] | None = None  # of each channel: see `_intensity`
    pixels: Float[np.ndarray, " classes"] | None = None
    ignored: int = 0


class Split(NamedTuple):
    """All that was seen of a split."""

    name: str
    source: Source | None
    facts: list[Facts]


class Inspection(NamedTuple):
    """What was found: plain data, the lines of all findings, and the splits that they are of."""

    summary: dict[str, Any]
    findings: list[Finding]
    splits: dict[str, Split]

    @property
    def stops(self) -> bool:
        """Whether training would stop."""
        return bool(self.stopping)

    @property
    def stopping(self) -> list[str]:
        """What it would stop at."""
        return [finding.line for finding in self.findings if KINDS[finding.kind][0]]


def inspect(config: Data, *, most: int | None = None, show: bool = False) -> Inspection:
    """Looks at both splits of a config, or at so many examples at `most`, spread over each.

    A file that can't be used is listed, and never raised.
    """
    example_spec(config, training=True)  # a config that no data fit
    found, findings = {}, []
    for key, name in (("train", config.train_split), ("eval", config.eval_split)):
        try:
            source = open_source(config, name)
        except DataError as error:
            findings.append(Finding("split", key, str(error)))
            found[key] = Split(name, None, [])
            continue
        count = min(len(source), most or len(source))
        indices = np.linspace(0, len(source) - 1, count).astype(int).tolist()
        found[key] = Split(name, source, list(_look(source, indices, config, key, show=show)))
    for split in found.values():
        findings += [facts.finding for facts in split.facts if facts.finding is not None]
    findings += [*_constants(found), *_absent(found, config), *_duplicates(found)]
    findings += [*_groups(found), *_unpaired(found), *_orientations(found), *_turned(found)]
    if config.unreadable == "skip":  # then a run goes on without, if any is left
        left = {key for key, split in found.items() if any(not x.finding for x in split.facts)}
        findings = [
            x._replace(kind="skipped") if x.kind in _OF_FILES and x.split in left else x
            for x in findings
        ]
    order = list(KINDS)
    findings.sort(key=lambda finding: order.index(finding.kind))
    summary = {
        "config": dataclasses.asdict(config),
        "splits": {key: _summary(split, config) for key, split in found.items()},
        "findings": [finding._asdict() for finding in findings],
    }
    return Inspection(summary, findings, found)


def median_frequency_weights(
    pixels: Float[np.ndarray, " classes"], present: Float[np.ndarray, " classes"]
) -> Float[np.ndarray, " classes"]:
    """The median of the classes' frequencies, divided by each class's own.

    The frequency of a class is the number of its `pixels`, divided by all those of the images that
    it is `present` in. The weight of a class that does not occur is NaN (Eigen and Fergus 2015,
    arXiv:1411.4734).

    >>> median_frequency_weights(np.array([60.0, 30.0, 10.0]), np.array([100.0, 100.0, 50.0]))
    array([0.5, 1. , 1.5])
    """
    there = pixels > 0
    frequency = np.divide(pixels, present, out=np.full(pixels.shape, np.nan), where=there)
    return np.median(frequency[there]) / frequency if there.any() else frequency


def inverse_frequency_weights(
    pixels: Float[np.ndarray, " classes"],
) -> Float[np.ndarray, " classes"]:
    """All pixels, divided by those of a class and the number of classes that occur.

    So that the mean weight of the pixels is 1. The weight of a class that does not occur is NaN.

    >>> inverse_frequency_weights(np.array([75.0, 25.0]))
    array([0.66666667, 2.        ])
    """
    there = pixels > 0
    share = np.full(pixels.shape, np.nan)
    return np.divide(pixels.sum(), pixels * there.sum(), out=share, where=there)


def _look(
    source: Source, indices: Sequence[int], config: Data, split: str, *, show: bool
) -> Iterator[Facts]:
    with concurrent.futures.ThreadPoolExecutor(config.threads) as pool:
        found = pool.map(lambda index: facts(source, index, config, split), indices)
        yield from report.progress(found, len(indices), f"{split} images") if show else found


def facts(source: Source, index: int, config: Data, split: str = "train") -> Facts:
    """What is known of an example; its finding says why there is no more."""
    name = report.printable(source.name(index))
    try:
        example = source[index]
    except Exception as error:  # a decoder may raise anything
        return Facts(index, name, Finding("unreadable", split, _line(error, name)))
    image, mask = np.asarray(example.image), np.asarray(example.mask)
    seen = Facts(
        index,
        name,
        shape=image.shape[:-1],
        channels=image.shape[-1],
        dtypes=(str(image.dtype), str(mask.dtype)),
        digests=(_digest(image), _digest(mask)),
        sketch=_sketch(image),
        constant=tuple(bool(x.size and (x == x.flat[0]).all()) for x in (image, mask)),
        axes=source.axes(index) if isinstance(source, FolderSource) else None,
        turned=isinstance(source, FolderSource) and source.is_turned(index),
        values=_values(mask),
    )
    try:
        batch = load_whole(example, name, config, training=split == "train")
    except Exception as error:
        kind = "image"
        if image.shape[:-1] != targets.pixels_of(mask, config):
            kind = "size"
        elif (line := _wrong_labels(mask, name, config)) is not None:
            return seen._replace(finding=Finding("labels", split, line))
        return seen._replace(finding=Finding(kind, split, _line(error, name)))
    return seen._replace(
        intensity=[_intensity(batch.images[..., i]) for i in range(config.channels)],
        pixels=_pixels(batch, config),
        ignored=int(batch.where.size - batch.where.sum()),
    )


class _Alone:
    """One example as a source."""

    def __init__(self, example: Example, name: str):
        self._example, self._name = example, name

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self._example

    def name(self, index):
        return self._name

    def version(self, index):
        return self._name

    def unit(self, index):
        return ""


def load_whole(example: Example, name: str, config: Data, *, training: bool = True) -> Batch:
    """The example as the device gets it, but in its own size; raises as training would."""
    alone = _Alone(example, name)
    config = dataclasses.replace(config, cache="", unreadable="stop")
    if config.patch_size or config.spacing:  # which are not of the same size
        make_loader(alone, config)(0, *((0,) if training else ()))
    whole = {"image_size": example.image.shape[:-1], "patch_size": (), "spacing": ()}
    return make_loader(alone, dataclasses.replace(config, **whole))(0)


def _line(error: Exception, name: str) -> str:
    if isinstance(error, DataError):
        return report.printable(str(error))
    return report.printable(f"{name}: {type(error).__name__}: {' '.join(str(error).split())}")


def _wrong_labels(mask: np.ndarray, name: str, config: Data) -> str | None:
    """Why a mask can't be labels: of class indices, all values that are none."""
    try:
        targets.make_target(config)(mask, name)
    except DataError as error:
        if config.colours or config.masks not in ("classes", "votes", "staple"):
            return str(error)
    else:
        return None
    known = dict(config.label_map) or range(len(config.classes))
    values, counts = np.unique(mask, return_counts=True)
    wrong = [
        f"{value} ({count} pixels)"
        for value, count in zip(values.tolist(), counts.tolist(), strict=True)
        if value not in known and value != config.ignore_label
    ]
    more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    return f"{name}: mask values that are no class: {', '.join(wrong[:_SHOWN])}{more}"


def _digest(array: np.ndarray) -> bytes:
    head = f"{array.dtype} {array.shape}".encode()
    return hashlib.blake2b(np.ascontiguousarray(array), digest_size=16, key=head[:64]).digest()


def _sketch(image: Num[np.ndarray, "*pixels channels"]) -> UInt64[np.ndarray, " 4"] | None:
    """A perceptual hash: where a 16x17 copy of the image gets brighter from left to right.

    Images that look alike have sketches that differ in few of their 256 bits. Of a volume that of
    its middle slice; None of an even image.
    """
    while image.ndim > 3:
        image = image[len(image) // 2]
    grey = np.nan_to_num(image[..., :3].astype(np.float32)).mean(-1)
    small = cv2.resize(grey, (17, 16), interpolation=cv2.INTER_AREA)
    if np.ptp(small) == 0:
        return None
    return np.packbits(small[:, 1:] > small[:, :-1]).view(np.uint64)


def _values(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    if mask.dtype.kind not in "biu":
        return None
    if mask.dtype == np.uint8:
        counts = np.bincount(mask.ravel(), minlength=256)
        values = np.flatnonzero(counts)
        return values, counts[values]
    values, counts = np.unique(mask, return_counts=True)
    return values[:_VALUES], counts[:_VALUES]


def _intensity(values: Num[np.ndarray, "*pixels"]) -> tuple[int, int, int, int]:
    """The sum of the values and of their squares, exact, and the least and the greatest."""
    counts = np.bincount(values.ravel())
    there = np.flatnonzero(counts)
    weighted = counts[there] * there
    return int(weighted.sum()), int((weighted * there).sum()), int(there[0]), int(there[-1])


def _pixels(batch: Batch, config: Data) -> Float[np.ndarray, " classes"]:
    """The pixels of each class; of amounts, their shares."""
    if not targets.is_soft(config):
        labels = batch.labels[batch.where]
        return np.bincount(labels, minlength=len(config.classes)).astype(np.float64)
    amounts = batch.labels[batch.where].astype(np.float64)
    return (amounts / np.maximum(amounts.sum(-1, keepdims=True), 1e-30)).sum(0)


def _summary(split: Split, config: Data) -> dict[str, Any]:
    read = [x for x in split.facts if x.shape is not None]
    good = [x for x in read if x.pixels is not None]
    sizes = collections.Counter(x.shape for x in read)
    least, most = (None, None)
    if read:
        least, most = ([int(f(side)) for side in zip(*sizes, strict=True)] for f in (min, max))
    frequent = sizes.most_common(_SHOWN)
    values = collections.Counter()
    for each in read:
        if each.values is not None and len(values) < _VALUES:
            values.update(dict(zip(*(x.tolist() for x in each.values), strict=True)))
    pixels = np.sum([x.pixels for x in good], 0) if good else np.zeros(len(config.classes))
    images = sum(((x.pixels > 0).astype(int) for x in good), np.zeros(len(config.classes), int))
    present = sum(((x.pixels > 0) * x.pixels.sum() for x in good), np.zeros(len(config.classes)))
    weights = (median_frequency_weights(pixels, present), inverse_frequency_weights(pixels))
    return {
        "split": split.name,
        "images": len(split.facts),
        "usable": len(good),
        "sizes": {
            "different": len(sizes),
            "smallest": least,
            "largest": most,
            "most_frequent": [{"size": list(x), "images": n} for x, n in frequent],
        },
        "orientations": _counted(x.axes for x in read if x.axes),
        "channels": _counted(x.channels for x in read),
        "image_types": _counted(x.dtypes[0] for x in read),
        "mask_types": _counted(x.dtypes[1] for x in read),
        "mask_values": {str(x): values[x] for x in sorted(values)},
        "intensity": _moments(good, config),
        "pixels": float(pixels.sum()),
        "ignored_pixels": sum(x.ignored for x in good),
        "classes": {
            name: {
                "pixels": float(pixels[i]),
                "share": float(pixels[i] / max(pixels.sum(), 1)),
                "images": int(images[i]),
                "median_frequency_weight": _plain(weights[0][i]),
                "inverse_frequency_weight": _plain(weights[1][i]),
            }
            for i, name in enumerate(config.classes)
        },
    }


def _counted(values: Iterator) -> dict[str, int]:
    return {str(x): count for x, count in collections.Counter(values).most_common()}


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _moments(good: Sequence[Facts], config: Data) -> dict[str, list[float]] | None:
    """The mean and standard deviation of each channel over all pixels of all images, in 0..1."""
    if not good:
        return None
    count = sum(math.prod(x.shape) for x in good)
    found = {"mean": [], "std": [], "least": [], "greatest": []}
    scale = 65535 if config.bits == 16 else 255
    for channel in zip(*(x.intensity for x in good), strict=True):
        total, squares, least, greatest = zip(*channel, strict=True)
        # In whole numbers until the end, so that nothing cancels.
        total, squares = sum(total), sum(squares)
        found["mean"].append(total / count / scale)
        found["std"].append(math.sqrt(count * squares - total**2) / count / scale)
        found["least"].append(min(least) / scale)
        found["greatest"].append(max(greatest) / scale)
    return found


def _constants(found: Mapping[str, Split]) -> Iterator[Finding]:
    for key, split in found.items():
        for seen in split.facts:
            for what, constant in zip(("image", "mask"), seen.constant, strict=True):
                if constant:
                    yield Finding(f"constant {what}", key, f"{seen.name}: the {what} has one value")


def _absent(found: Mapping[str, Split], config: Data) -> Iterator[Finding]:
    for key, split in found.items():
        good = [x.pixels for x in split.facts if x.pixels is not None]
        if good:
            for name, pixels in zip(config.classes, np.sum(good, 0), strict=True):
                if not pixels:
                    yield Finding("absent class", key, f"{key} has no pixel of class {name!r}")


def _duplicates(found: Mapping[str, Split]) -> Iterator[Finding]:
    """Images of the same pixels, and across splits those that look the same."""
    everything = [(key, x) for key, split in found.items() for x in split.facts]
    same = collections.defaultdict(list)
    for key, seen in everything:
        if seen.digests[0]:
            same[seen.digests[0]].append((key, seen))
    for group in same.values():
        if len(group) > 1:
            keys = sorted({key for key, _ in group})
            where = "in both splits" if len(keys) > 1 else f"in {keys[0]}"
            differ = len({seen.digests[1] for _, seen in group}) > 1
            names = " = ".join(f"{seen.name} ({key})" for key, seen in group)
            line = f"{where}{', with different masks' if differ else ''}: {names}"
            yield Finding("duplicate", "+".join(keys), line)
    sides = [[x for x in split.facts if x.sketch is not None] for split in found.values()]
    if not all(sides) or sum(map(len, sides)) > _MOST_COMPARED:
        return
    train, evaluation = (np.stack([x.sketch for x in side]) for side in sides)
    for index, sketch in enumerate(evaluation):
        distances = np.bitwise_count(train ^ sketch[None]).sum(-1)
        nearest = int(distances.argmin())
        one, other = sides[0][nearest], sides[1][index]
        if distances[nearest] <= _NEAR and one.digests[0] != other.digests[0]:
            line = f"{other.name} (eval) looks like {one.name} (train)"
            yield Finding("near duplicate", "eval+train", line)


def _groups(found: Mapping[str, Split]) -> Iterator[Finding]:
    train, evaluation = (
        collections.Counter(split.source.unit(seen.index) for seen in split.facts)
        for split in found.values()
    )
    for unit in sorted((train.keys() & evaluation.keys()) - {""}):
        line = f"{unit!r} has {train[unit]} images in train and {evaluation[unit]} in eval"
        yield Finding("group", "eval+train", line)


def _orientations(found: Mapping[str, Split]) -> Iterator[Finding]:
    names = collections.defaultdict(list)
    for split in found.values():
        for seen in split.facts:
            if seen.axes:
                names[seen.axes].append(seen.name.partition(" with mask ")[0])
    if len(names) > 1:
        ways = sorted(names.items(), key=lambda way: -len(way[1]))
        told = ", ".join(f"{axes} in {len(those)}, as {those[0]}" for axes, those in ways)
        yield Finding("orientation", "eval+train", f"the axes of volumes point to {told}")


def _turned(found: Mapping[str, Split]) -> Iterator[Finding]:
    for key, split in found.items():
        for seen in split.facts:
            if seen.turned:
                image = seen.name.partition(" with mask ")[0]
                line = f"{image} has an orientation tag, which is ignored"
                yield Finding("orientation tag", key, line)


def _unpaired(found: Mapping[str, Split]) -> Iterator[Finding]:
    places = collections.defaultdict(dict)  # of files, which both splits may have
    for key, split in found.items():
        if isinstance(split.source, FolderSource):
            for path in sorted(split.source.unpaired):
                places[path.parent].setdefault(path.name, []).append(key)
    for directory, names in places.items():
        keys = sorted({key for each in names.values() for key in each})
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        line = f"files in {directory} without a partner of their name: {len(names)}, "
        line = report.printable(f"{line}{', '.join([*names][:_SHOWN])}{more}")
        yield Finding("unpaired", "+".join(keys), line)


def contact_sheet(found: Inspection, config: Data) -> np.ndarray | None:
    """Images spread over the splits with their labels, or None if none can be used."""
    examples = []
    for key, split in found.splits.items():
        good = [seen for seen in split.facts if seen.pixels is not None]
        for place in np.linspace(0, len(good) - 1, min(_PICTURES[key], len(good))).astype(int):
            seen = good[place]
            batch = load_whole(split.source[seen.index], seen.name, config)
            image = pathlib.Path(seen.name.partition(" with mask ")[0]).name
            examples.append((f"{key}: {image}", *_flat(batch, config)))
    return pictures.contact_sheet(examples, config.classes) if examples else None


def _flat(batch: Batch, config: Data) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The image, labels and `where`; of a volume the slice with most of what is not class 0."""
    image, labels, where = batch.images, batch.labels, batch.where
    if where.ndim == 3:
        classes = labels.argmax(-1) if targets.is_soft(config) else labels
        most = int(np.argmax(np.sum(where & (classes > 0), (1, 2))))
        image, labels, where = image[most], labels[most], where[most]
    return image, labels, where


_NAMES = {"train": "training", "eval": "evaluation"}


def tables(summary: Mapping[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """The title, head and rows of each table: of the splits, and of the classes."""
    parts = summary["splits"]
    rows = [
        [text, *(describe(part) for part in parts.values())] for text, describe in _ROWS.items()
    ]
    rows = [row for row in rows if set(row[1:]) != {"-"}]  # of what only other data have
    head = ["", *(f"{_NAMES[key]}: {part['split'] or 'all'}" for key, part in parts.items())]
    classes = []
    for name in summary["config"]["classes"]:
        cells = [part["classes"][name] for part in parts.values()]
        shares = [x for cell in cells for x in (f"{cell['share']:.2%}", f"{cell['images']}")]
        weights = ("median_frequency_weight", "inverse_frequency_weight")
        classes.append([name, *shares, *(_number(cells[0][weight]) for weight in weights)])
    columns = [f"{key} {what}" for key in parts for what in ("pixels", "images")]
    both = ["class", *columns, "median freq. weight", "inverse freq. weight"]
    return [("Splits", head, rows), ("Classes", both, classes)]


def _sizes(part: Mapping[str, Any]) -> str:
    sizes = part["sizes"]
    if not sizes["different"]:
        return "-"
    first = sizes["most_frequent"][0]
    if sizes["different"] == 1:
        return _size(first["size"])
    return (
        f"{_size(sizes['smallest'])} to {_size(sizes['largest'])}, {sizes['different']} sizes, "
        f"{_size(first['size'])} most often ({first['images']})"
    )


def _size(sides: Sequence[int]) -> str:
    return "x".join(map(str, sides))


def _joined(counts: Mapping[str, int]) -> str:
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{x} ({count})" for x, count in counts.items()) or "-"


def _mask_values(part: Mapping[str, Any]) -> str:
    values = list(part["mask_values"])
    if len(values) > 16:
        return f"{values[0]} to {values[-1]}, {len(values)} different"
    return ", ".join(values) or "-"


def _of_channels(part: Mapping[str, Any], name: str) -> str:
    values = part["intensity"]
    return "-" if values is None else ", ".join(f"{x:.4f}" for x in values[name])


_ROWS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "images": lambda part: f"{part['images']}",
    "that can be used": lambda part: f"{part['usable']}",
    "sizes": _sizes,
    "orientations": lambda part: _joined(part["orientations"]),
    "channels": lambda part: _joined(part["channels"]),
    "types of images": lambda part: _joined(part["image_types"]),
    "types of masks": lambda part: _joined(part["mask_types"]),
    "mask values": _mask_values,
    "mean of channels": lambda part: _of_channels(part, "mean"),
    "standard deviation": lambda part: _of_channels(part, "std"),
    "least value": lambda part: _of_channels(part, "least"),
    "greatest value": lambda part: _of_channels(part, "greatest"),
    "ignored pixels": lambda part: (
        f"{part['ignored_pixels'] / max(part['pixels'] + part['ignored_pixels'], 1):.2%}"
    ),
}


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def advice(found: Inspection, config: Data) -> list[str]:
    """What to do now, most pressing first."""
    lines = [KINDS[kind][1] for kind in dict.fromkeys(x.kind for x in found.findings)]
    train = found.summary["splits"]["train"]
    moments = train["intensity"]
    if moments is not None:
        said, seen = (*config.mean, *config.std), (*moments["mean"], *moments["std"])
        near = len(said) == len(seen) and np.allclose(said, seen, atol=0.01)
        if not near and not config.value_percentiles:
            mean, std = (",".join(f"{x:.4f}" for x in moments[name]) for name in ("mean", "std"))
            lines.append(
                (
                    "data.mean and data.std are others than"
                    if said
                    else "Each image is standardised by its own mean and deviation; by"
                )
                + f" those of the training split: --config.data.mean={mean} --config.data.std={std}"
            )
    weights = [x["median_frequency_weight"] for x in train["classes"].values()]
    if None not in weights and max(weights, default=1) >= 4 * min(weights, default=1):
        told = ", ".join(_number(x) for x in weights)
        lines.append(
            "Classes differ in frequency. If rare ones are missed, a loss can weigh them, as in "
            f'("cross_entropy", 1.0, {{"class_weights": ({told})}}).'
        )
    return lines


def write(directory: pathlib.Path, found: Inspection, config: Data, lines: Sequence[str]) -> None:
    """Writes all `FILES`, without a contact sheet if no image can be used."""
    directory.mkdir(parents=True, exist_ok=True)
    with writing.whole(directory / FILES[0]) as fresh:
        fresh.write_text(json.dumps(found.summary, indent=2) + "\n")
    sheet = contact_sheet(found, config)
    address = None
    if sheet is not None:
        file = io.BytesIO()
        Image.fromarray(sheet).save(file, "PNG")
        with writing.whole(directory / FILES[1]) as fresh:
            fresh.write_bytes(file.getvalue())
        address = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    colours = pictures.palette(len(config.classes)).tolist()
    template = resources.files("jaxseg.data").joinpath("inspection.html").read_text()
    page = jinja2.Environment(autoescape=True).from_string(template)
    grouped = collections.defaultdict(list)
    for finding in found.findings:
        grouped[finding.kind].append(finding)
    splits_table, classes_table = tables(found.summary)
    text = page.render(
        title=f"Inspection of {config.root or config.name}",
        stops=found.stops,
        splits=splits_table,
        classes=classes_table,
        colours=["#{:02x}{:02x}{:02x}".format(*rgb) for rgb in colours],
        grouped={kind: (KINDS[kind][0], entries) for kind, entries in grouped.items()},
        advice=lines,
        sheet=address,
    )
    with writing.whole(directory / FILES[2]) as fresh:
        fresh.write_text(text)


def _print(console: Console, found: Inspection, lines: Sequence[str]) -> None:
    for title, head, rows in tables(found.summary):
        drawn = rich.table.Table(title=title, title_justify="left")
        for index, name in enumerate(head):
            side = "right" if index and title == "Classes" else "left"
            drawn.add_column(Text(name), justify=side, overflow="fold", no_wrap=not index)
        for row in rows:
            drawn.add_row(*map(Text, row))
        console.print(drawn)
    for kind, count in collections.Counter(x.kind for x in found.findings).items():
        stops = ", which stop training" if KINDS[kind][0] else ""
        console.print(Text(f"{kind}: {count}{stops}", "bold"))
        for finding in [x for x in found.findings if x.kind == kind][:_SHOWN]:
            console.print(Text(f"  {finding.line}"), soft_wrap=True)
        if count > _SHOWN:
            console.print(f"  and {count - _SHOWN} more")
    for line in lines:
        console.print(Text(f"- {line}"), soft_wrap=True)


def define_flags() -> None:
    config_flags.DEFINE_config_file(
        "config",
        jaxseg.config.__file__,
        "A file whose get_config() returns a jaxseg.config.Config. [the embedded demo]",
    )
    flags.DEFINE_string("output", None, "Where the report goes. [a new directory in runs/]")


def main(folder: str | None = None) -> None:
    args = flags.FLAGS
    given = [name for name in args if name.startswith("config") and args[name].present]
    if folder is not None and given:
        cli.fail(
            f"a folder and --{given[0]} are given; a folder is inspected as `python -m jaxseg.data "
            "new` understands it, so write a config with that, and inspect by it"
        )
    with cli.work():
        if folder is None:
            config = jaxseg.config.from_dict(dataclasses.asdict(args.config)).data
        else:
            from jaxseg.data import page

            config = page.understand(folder, show=True).config.data
        found = inspect(config, show=True)
        lines = advice(found, config)
        output = pathlib.Path(args.output or time.strftime("runs/%Y%m%d-%H%M%S-inspection"))
        write(output, found, config, lines)
    # Into a file or a pipe, nothing has to be folded.
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    _print(console, found, lines)
    for name in FILES:
        if (output / name).exists():
            console.print(Text(str(output / name)), soft_wrap=True)
    if found.stops:
        sys.exit(1)
    options = [x for x in sys.argv[1:] if x.startswith("--config")]
    if folder is None:
        console.print(Text(shlex.join(["python", "-m", "jaxseg.train", *options])), soft_wrap=True)
    else:
        console.print(Text(shlex.join(["python", "-m", "jaxseg.data", "new", folder])))
