"""Looks at a folder of images and masks, and writes a config for it:

    python -m jaxseg.data new DIR [--output=configs/mine.py]

What can be seen is filled in: where images and masks are, the split, classes, channels, statistics,
and sizes that fit the memory of this machine. What is a guess is said, here and on the page. Read
it, name the classes, and train.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import json
import math
import os
import pathlib
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
import scipy.ndimage
from absl import flags
from rich.console import Console

from jaxseg import cli, report, writing
from jaxseg.config import Augment, Config, Data, Model, Optim
from jaxseg.data import datasets, files, inspection, splits
from jaxseg.data.files import DataError

if TYPE_CHECKING:
    from jaxtyping import Integer

ARGUMENTS = 1
_SAMPLE = 1000  # images and masks that are read, spread over the folder
_STOPS = 3  # lines of what training would stop at
_IMAGES = ("image", "img", "jpeg", "jpg", "photo", "picture", "input", "scan", "raw")
_MASKS = ("mask", "label", "annot", "gt", "seg", "class", "truth", "target")
_TRAIN = ("train", "training", "Train", "Training")
_RATERS = ("rater", "annotator", "reader", "expert", "observer", "grader")
_EVAL = ("val", "valid", "validation", "dev", "test", "testing", "Val", "Validation", "Test")
_PARTS = ("[:80%]", "[80%:]")  # where the folder says no splits
_WHOLE = {2: 512**2, 3: 64**3}  # pixels of images that are trained on whole
_PATCH = {2: (256, 256), 3: (48, 48, 48)}  # and the parts that others are cut into
_MOST_CLASSES = 256
_LOSSY = (".jpg", ".jpeg")
_FLAT = (".png", ".bmp", *_LOSSY)  # pictures of one page


class Understanding(NamedTuple):
    """A config for a folder, what there is to say of its fields, and what was seen."""

    config: Config
    comments: dict[str, str]  # of fields of Data
    lines: list[str]  # each of something that was seen or guessed


class Layout(NamedTuple):
    """Where images and masks are, as the fields of Data say it."""

    image: str
    label: str
    train_split: str
    eval_split: str
    listing: str
    split_by: str
    pairs: list[tuple[pathlib.Path, pathlib.Path]]  # of the training split, and each annotator
    beside: list[str]  # directories beside that of the masks, with masks of the same names


class Seen(NamedTuple):
    """What is to know of an image and its mask."""

    shape: tuple[int, ...]
    channels: int
    image_type: str
    greatest: float
    is_grey: bool  # whatever its channels
    has_alpha: bool  # whether a fourth channel is no more than that
    spacing: tuple[float, ...] | None
    masks: str  # as data.masks: "classes", also of what may be ids, "votes" or "shares"
    values: tuple[int, ...]  # of the mask; of shares the indices of their axis
    colours: tuple[tuple[int, int, int], ...]  # of a mask in colours
    whole: float  # the share of the mask's values, but 0, whose pixels are connected
    counted: bool  # whether the values but 0 are 1, 2, ... without a gap


def understand(folder: str | os.PathLike, *, show: bool = False) -> Understanding:
    """What a config of this folder has to be, as far as it can be seen."""
    root = pathlib.Path(folder)
    if not root.is_dir():
        raise DataError(f"{root} is not a directory of images and masks")
    layout = find(root)
    seen = _read(layout.pairs, show=show)
    comments: dict[str, str] = {}
    if layout.split_by == "hash":
        comments["split_by"] = "of each name; data.group keeps together what a patient has"
    fields = {
        **layout._asdict(),
        **_of_masks(seen, comments, several="{rater}" in layout.label),
        **_of_images(seen, comments),
    }
    del fields["pairs"], fields["beside"]
    data = Data(name="folder", root=str(folder), **fields)
    config = _sized(data, seen, len(layout.pairs), comments)
    found = inspection.inspect(config.data, most=_SAMPLE, show=show)
    # By percentiles each image is standardised anyway, but not each of its patches.
    if config.data.patch_size or not config.data.value_percentiles:
        moments = found.summary["splits"]["train"]["intensity"]
        if moments is not None and min(moments["std"]) > 0:
            config.data.mean, config.data.std = (
                tuple(round(x, 4) for x in moments[name]) for name in ("mean", "std")
            )
            comments["mean"] = "of the training images"
    lines = _lines(config, layout, seen, comments)
    lines += [x.line for x in found.findings if x.kind in ("unpaired", "orientation")]
    lines += [f"training would stop: {line}" for line in found.stopping[:_STOPS]]
    return Understanding(config, comments, lines)


def find(root: pathlib.Path) -> Layout:
    """The directories of images and masks below a folder: those with most names in common.

    Which of two is that of masks is seen by its name, and where there are directories for training
    and evaluation beside each other, they become the splits. Directories of annotators beside that
    of the masks are taken with it. A table that names the files, and may say their splits, comes
    before all that.
    """
    wrong = None
    try:
        table = _table(root)
        if table is not None:
            return table
    except DataError as error:  # which may be of other things
        wrong = error
    found: dict[str, dict[str, pathlib.Path]] = {}
    labels: dict[str, dict[str, pathlib.Path]] = {}
    crowded = None
    for directory in sorted([root, *(path for path in root.rglob("*") if path.is_dir())]):
        relative = directory.relative_to(root)
        if len(relative.parts) <= 4 and not any(x.startswith(".") for x in relative.parts):
            listed = list(directory.iterdir())
            for places, suffixes in ((found, files.IMAGES), (labels, files.SOFT_MASKS)):
                try:
                    stems = files.by_stem(listed, suffixes)
                except DataError as error:  # of several files of the same name
                    crowded = error
                    continue
                if stems:
                    places[str(relative)] = stems
    pairs = []
    for image, images in found.items():
        for label, masks in labels.items():
            common = len(images.keys() & masks.keys())
            likeness = (
                _likeness(label, _MASKS) - _likeness(image, _MASKS),
                _likeness(image, _IMAGES) - _likeness(label, _IMAGES),
            )
            if common and max(likeness) > 0 and _part(image) == _part(label):
                order = (
                    *likeness,
                    *(any(word in x for word in _TRAIN) for x in (image, label)),
                    common,
                    image,
                )
                pairs.append((order, image, label))
    if not pairs and wrong is not None:
        raise wrong
    if not pairs:
        names = ", ".join(f"{name} ({len(stems)} files)" for name, stems in labels.items())
        also = f"; {crowded}" if crowded else ""
        raise DataError(
            f"{root} has no two directories of images and masks with the same file names "
            f"(it has {names or 'no images'}){also}; put them into images/ and masks/, each mask "
            "named as its image, or name each pair in an index.csv with the columns image and "
            "mask; of masks in COCO's JSON copy configs/folder.py and name it in data.label"
        )
    _, image, label = max(pairs)
    images, pattern, raters = found[image], *_of_raters(image, label, labels)
    nested = "/" in label and pattern == label
    beside = [x for x in _beside(label, labels) if nested and x != image]
    for before in _TRAIN:
        for after in _EVAL:
            others = image.replace(before, after), label.replace(before, after)
            known = others[0] in found and others[1] in labels
            if others[0] != image and others[1] != label and known:
                places = (x.replace(before, "{split}") for x in (image, pattern))
                return Layout(*places, before, after, "", "order", _common(images, raters), beside)
    listing = _listing(root, images)
    if listing is not None:
        path, train, evaluation = listing
        names = files.read_text(root / path.replace("{split}", train)).split()
        wanted = {files.key(name, files.IMAGES) for name in names}
        inside = {x: path for x, path in images.items() if x in wanted}
        pairs = _common(inside, raters)
        return Layout(image, pattern, train, evaluation, path, "order", pairs, beside)
    units = [x for x in images if any(x in masks for masks in raters)]
    pairs = _common(images, raters)
    return Layout(image, pattern, *_PARTS, "", _split_by(units), pairs, beside)


def _split_by(units: Sequence[str]) -> str:
    """By hash, so that no order of names decides, unless so few are far from 80 and 20 %."""
    kept = len(splits.select(units, splits.parse(_PARTS[1]), "hash"))
    return "hash" if 0.1 <= kept / len(units) <= 0.3 else "order"


def _of_raters(
    image: str, label: str, labels: Mapping[str, Mapping[str, pathlib.Path]]
) -> tuple[str, list[Mapping[str, pathlib.Path]]]:
    """What data.label is where annotators have a directory each, or else `label`, and their masks.

    They are beside each other, and their names begin alike, with a word for annotators.
    """
    place = pathlib.PurePath(label)
    word = next((x for x in _RATERS if place.name.lower().startswith(x)), None)
    begin = str(place.with_name(place.name[: len(word)])) if word else label
    others = [x for x in _beside(label, labels) if x.startswith(begin)]
    if word is None or not others or image in others:
        return label, [labels[label]]
    return f"{begin}{{rater}}", [labels[x] for x in sorted([label, *others])]


def _beside(label: str, labels: Mapping[str, Mapping[str, pathlib.Path]]) -> list[str]:
    """The other directories of the same one, with masks of the same names."""
    place = pathlib.PurePath(label)
    return [
        x
        for x, masks in labels.items()
        if x != label
        and pathlib.PurePath(x).parent == place.parent
        and masks.keys() & labels[label].keys()
    ]


def _table(root: pathlib.Path) -> Layout | None:
    """A CSV file of pairs, of which a column may say the splits."""
    for path in sorted(root.glob("*.csv")):
        columns, rows = files.read_table(path)
        if {"image", "mask"} <= set(columns):
            named = {row.get("split") or "" for row in rows}
            train = next((x for x in _TRAIN if x in named), "")
            evaluation = next((x for x in _EVAL if x in named), "")
            if not (train and evaluation):
                train, evaluation = _PARTS
            config = Data(listing=path.name)
            items = datasets.tabled(config, root, train, splits.parse(train).name)
            pairs = [(item.image, *item.masks) for item in items]
            split_by = "order"
            if (train, evaluation) == _PARTS:
                split_by = _split_by([item.group or item.name for item in items])
            return Layout("", "", train, evaluation, path.name, split_by, pairs, [])
    return None


def _likeness(name: str, words: Iterable[str]) -> int:
    return int(any(word in name.lower() for word in words))


def _part(name: str) -> tuple[bool, bool]:
    """Whether a directory's name has that of training, and that of evaluation."""
    return tuple(any(word in name for word in words) for words in (_TRAIN, _EVAL))


def _common(
    images: Mapping[str, pathlib.Path], raters: Sequence[Mapping[str, pathlib.Path]]
) -> list[tuple[pathlib.Path, pathlib.Path]]:
    return [(images[x], masks[x]) for x in images for masks in raters if x in masks]


def _listing(root: pathlib.Path, images: Mapping[str, pathlib.Path]) -> tuple[str, str, str] | None:
    """Lists of the names of images for training and evaluation, as Pascal VOC has them."""
    for path in sorted(root.rglob("train.txt")):
        for other in _EVAL:
            if (path.parent / f"{other}.txt").is_file():
                names = files.read_text(path).split()
                if names and files.key(names[0], files.IMAGES) in images:
                    pattern = path.relative_to(root).with_name("{split}.txt")
                    return str(pattern), "train", other
    return None


def _read(pairs: Sequence[tuple[pathlib.Path, pathlib.Path]], *, show: bool) -> list[Seen]:
    count = min(_SAMPLE, len(pairs))
    chosen = [pairs[i] for i in np.linspace(0, len(pairs) - 1, count).astype(int)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        looked = pool.map(_try, chosen)
        found = list(report.progress(looked, count, "images and masks") if show else looked)
    good = [x for x in found if isinstance(x, Seen)]
    if not good:
        raise found[0]
    return good


def _try(pair: tuple[pathlib.Path, pathlib.Path]) -> Seen | DataError:
    try:
        return look(*pair)
    except DataError as error:  # inspect lists them all
        return error


def look(image_path: pathlib.Path, mask_path: pathlib.Path) -> Seen:
    """What is to know of an image and its mask, whose axes say whether they are volumes."""
    colours, masks = (), "classes"
    if _is_soft(image_path, mask_path):
        image = files.read_image(image_path)
        mask, masks = _soft(image, mask_path)
    else:
        try:
            mask = files.read_mask(mask_path)
        except DataError:
            if files.stem(mask_path, files.PICTURES) == mask_path.name:
                raise
            mask = files.read_colours(mask_path)
            different = np.unique(mask.reshape(-1, 3), axis=0)[: _MOST_CLASSES + 1]
            colours = tuple(map(tuple, different.tolist()))
        if mask.ndim == 3 and image_path.suffix.lower() in _FLAT and not colours:
            masks = "votes"  # a page of each annotator
        image = files.read_image(image_path, 2 if colours or masks == "votes" else mask.ndim)
    rank = image.ndim - 1
    spacing = None
    if files.stem(image_path, files.NIFTI) != image_path.name:
        spacing = files.read_header(image_path).spacing[:rank]
    if masks == "shares":
        values = tuple(range(mask.shape[-1]))
    else:
        values = () if colours else tuple(np.unique(mask).tolist())
    if len(values) > 2 and mask_path.suffix.lower() in _LOSSY:
        raise DataError(
            f"{mask_path} is JPEG, which changes the values of a mask near edges, and has "
            f"{len(values)} of them; store masks without loss, as PNG"
        )
    ids = np.array([x for x in values if x > 0 and masks == "classes"])
    return Seen(
        shape=image.shape[:-1],
        channels=image.shape[-1],
        image_type=str(image.dtype),
        greatest=float(np.nanmax(image)),
        is_grey=bool((image[..., :3] == image[..., :1]).all()),
        has_alpha=image_path.suffix.lower() == ".png" or bool(np.ptp(image[..., -1]) == 0),
        spacing=spacing,
        masks=masks,
        values=values,
        colours=colours,
        whole=_share_of_whole(mask, ids),
        counted=bool(ids.size and ids[-1] == ids.size),
    )


def _is_soft(image_path: pathlib.Path, mask_path: pathlib.Path) -> bool:
    """Whether a mask has more axes than its image, which is no class index at each pixel."""
    suffix = mask_path.suffix.lower()
    if suffix == ".npy" and image_path.suffix.lower() in _FLAT:
        return len(files.read_header(mask_path).shape) == 3
    return suffix in (".npz", ".mat")


def _soft(image: np.ndarray, path: pathlib.Path) -> tuple[np.ndarray, str]:
    """A mask of several annotators, or of amounts of classes, and what data.masks is of it."""
    read = files.read_raters if path.suffix.lower() == ".mat" else files.read_shares
    mask, sides = read(path), image.shape[:-1]
    if mask.shape[1:] == sides and mask.dtype.kind in "iu":
        return mask, "votes"
    if mask.shape[:-1] == sides:
        return mask, "shares"
    raise DataError(
        f"{path} holds {mask.dtype}{list(mask.shape)}, which is neither [annotators, height, "
        f"width] nor [height, width, classes] for an image of {_size(sides)}; store class indices "
        "as PNG or .npy"
    )


def _share_of_whole(mask: Integer[np.ndarray, "*pixels"], ids: np.ndarray) -> float:
    """The share of some ids whose pixels are all connected, as those of an object mostly are."""
    some = ids[np.linspace(0, ids.size - 1, min(16, ids.size)).astype(int)] if ids.size else ids
    around = np.ones((3,) * mask.ndim)
    return float(np.mean([scipy.ndimage.label(mask == x, around)[1] == 1 for x in some] or [0]))


def _of_masks(
    seen: Sequence[Seen], comments: dict[str, str], *, several: bool = False
) -> dict[str, Any]:
    """The fields of Data that masks decide; `several` have a file of each annotator."""
    (masks, _), *others = collections.Counter(x.masks for x in seen).most_common()
    if others:
        raise DataError(
            f'some masks are such as data.masks="{masks}" takes, and others "{others[0][0]}"; '
            "store them in one form"
        )
    if masks == "shares":
        comments["classes"] = "name them, in the order of the last axis of the masks"
        number = max(len(x.values) for x in seen)
        return {"masks": masks, "classes": tuple(f"class_{i}" for i in range(number))}
    colours = collections.Counter(colour for x in seen for colour in x.colours)
    if colours:
        if len(colours) > _MOST_CLASSES:
            raise DataError(
                f"the masks are colour images of more than {_MOST_CLASSES} colours, which can't be "
                "those of classes; store them without loss, as PNG, with a colour for each class"
            )
        listed = sorted(colours)
        comments["colours"] = "all that were found, black first; those of the classes, in order"
        comments["classes"] = "name them, in the order of the colours"
        return {
            "classes": tuple(f"class_{i}" for i in range(len(listed))),
            "colours": tuple(listed),
        }
    values = sorted({value for x in seen for value in x.values})
    if (several or masks == "votes") and len(values) <= _MOST_CLASSES:
        comments["masks"] = 'of several annotators; "staple" weighs them'
        return {"masks": "votes", **_of_values(values, comments)}
    objects = [x for x in seen if x.counted and len(x.values) > 2]
    numbers = {len(x.values) for x in objects}
    if (
        max(values) >= 16
        and len(numbers) > 1
        and len(objects) >= 0.8 * sum(len(x.values) > 2 for x in seen)
        and np.mean([x.whole for x in objects]) >= 0.8
    ):
        comments["masks"] = 'ids of objects? "instances" does not part those that touch'
        return {
            "masks": "borders",
            "classes": ("background", "inside", "border"),
        }
    if len(values) > _MOST_CLASSES:
        raise DataError(
            f"the masks have {len(values)} different values, from {values[0]} to {values[-1]}, "
            "which are neither classes nor ids that count the objects of each image; copy "
            "configs/folder.py and say in data.masks what they are"
        )
    return _of_values(values, comments)


def _of_values(values: list[int], comments: dict[str, str]) -> dict[str, Any]:
    """The fields of masks whose values are those of classes."""
    void = -1 if values[0] == -1 else 255
    others = [x for x in values if x != void]
    comments["classes"] = "name them, in the order of their indices"
    if [x for x in values if x != -1] == [0, 255]:
        comments["label_map"] = "255 is the object"
        pairs = ((0, 0), (255, 1))
        return {"classes": ("background", "object"), "label_map": pairs, "ignore_label": -1}
    ignored = {"ignore_label": -1}
    likely = others and others[0] >= 0 and (void == -1 or others[-1] < 2 * len(others))
    if others != values and likely:
        comments["ignore_label"] = "found in the masks: pixels that don't count?"
        values, ignored = others, {"ignore_label": void}
    if values == [0, 1]:
        return {"classes": ("background", "object"), **ignored}
    # Where no mask has a 0, classes are numbered from 1.
    if (values[0] == 0 or values == [1]) and values[-1] < max(2 * len(values), 3):
        names = tuple(f"class_{x}" for x in range(values[-1] + 1))
        if not others[-1] == values[-1] == 255:
            comments.setdefault(
                "ignore_label", "none was found; the value of pixels that don't count, if any"
            )
        return {"classes": names, **ignored}
    comments["label_map"] = "(mask value, class) of all values that were found"
    return {
        "classes": tuple(f"value_{x}" for x in values),
        "label_map": tuple((x, i) for i, x in enumerate(values)),
        **ignored,
    }


def _of_images(seen: Sequence[Seen], comments: dict[str, str]) -> dict[str, Any]:
    """The fields of Data that images decide, but for sizes."""
    channels = {x.channels for x in seen}
    fields: dict[str, Any] = {"channels": max(channels)}
    if channels == {4} and not all(x.has_alpha for x in seen):
        comments["channels"] = "the fourth is no alpha; with 3 it is dropped"
    elif channels <= {1, 3, 4}:
        grey = all(x.is_grey for x in seen)
        fields["channels"] = 1 if grey else 3
        if grey and channels != {1}:
            comments["channels"] = "all are grey, also those that are stored as RGB"
        elif len(channels) > 1 or channels == {4}:
            comments["channels"] = "grey becomes RGB, and alpha is dropped"
    types = {x.image_type for x in seen}
    greatest = max(x.greatest for x in seen)
    if not types <= {"uint8", "uint16"}:
        comments["value_percentiles"] = "of each image; or data.value_range, if values have a unit"
        fields |= {"bits": 16, "value_percentiles": (0.5, 99.5)}
    elif types == {"uint16"}:
        fields["bits"] = 16
        top = 2 ** math.ceil(math.log2(greatest + 1)) - 1
        if top < 65535:
            comments["value_range"] = f"the greatest value is {greatest:.0f}"
            fields["value_range"] = (0.0, float(top))
    elif "uint16" in types:
        fields["bits"] = 16
    known = [x.spacing for x in seen if x.spacing is not None]
    if len(known) == len(seen) and not np.allclose(known, known[:1], rtol=0.01):
        comments["spacing"] = "the median; volumes have different ones"
        fields["spacing"] = tuple(round(float(x), 4) for x in np.median(known, 0))
    return fields


def _sized(data: Data, seen: Sequence[Seen], count: int, comments: dict[str, str]) -> Config:
    """The config with sizes of images, batches and the model that fit the memory."""
    rank = len(seen[0].shape)
    shapes = [x.shape for x in seen]
    if data.spacing:
        shapes = [
            [math.ceil(n * a / b) for n, a, b in zip(x.shape, x.spacing, data.spacing, strict=True)]
            for x in seen
        ]
    largest = [max(sides) for sides in zip(*shapes, strict=True)]
    several = len(set(map(tuple, shapes))) > 1
    cell = {2: 16, 3: 8}[rank] if several else 1
    data.image_size = size = tuple(-(-side // cell) * cell for side in largest)
    comments["image_size"] = f"{'the largest' if several else 'each'} is {_size(largest)}"
    device = jax.local_devices()[0]
    small = device.platform == "cpu"
    widths = {2: (32, 64, 128, 256), 3: (32, 64, 128)}[rank]
    if small:
        widths = tuple(width // 2 for width in widths)
    memory = available_memory(device)
    classes = len(data.classes)
    if math.prod(size) > _WHOLE[rank]:
        # Evaluation takes whole images, of which it needs a third of the memory of a step.
        if step_memory(size, widths, classes) / 3 < memory / 2:
            size = tuple(min(a, b) for a, b in zip(_PATCH[rank], size, strict=True))
            data.patch_size, data.foreground = size, 0.5
            comments["patch_size"] = "or without, and image_size smaller: images are scaled down"
        else:
            scale = (_WHOLE[rank] / math.prod(size)) ** (1 / rank)
            data.image_size = size = tuple(math.ceil(side * scale) for side in size)
            comments["image_size"] = f"the largest is {_size(largest)}, too large for the memory"
    model = Model(widths=widths, norm="batch" if rank == 2 else "group")
    per_image = step_memory(size, widths, classes)
    devices = jax.device_count()
    most = min(8 if small or rank == 3 else 16, memory / 2 / per_image, count / devices)
    batch_size = devices * 2 ** max(0, math.floor(math.log2(max(most, 1))))
    comments["batch_size"] = (
        f"a step takes about {batch_size / devices * per_image / 1e9:.1f} GB, of {memory / 1e9:.0f}"
    )
    volumes = rank == 3
    return Config(
        steps=2_000,
        batch_size=batch_size,
        eval_batch_size=devices if data.patch_size else batch_size,
        eval_every=200,
        checkpoint_every=200,
        log_every=20,
        loss=(("cross_entropy", 1.0), ("dice", 1.0)),
        data=data,
        augment=Augment(
            flip_horizontal=not volumes,
            flip_vertical=False,
            rotate90=False,
            rotate=10.0,
            scale=(0.8, 1.25),
            brightness=0.1,
            contrast=0.1,
        ),
        model=model,
        optim=Optim(name="adamw", learning_rate=1e-3, warmup_steps=0, weight_decay=1e-4),
    )


def step_memory(size: Sequence[int], widths: Sequence[int], num_classes: int) -> float:
    """The bytes that a training step takes for each image, about, as measured with XLA.

    In float32, a pixel of an image takes 16 numbers for each channel of the finest level, of a
    volume 24; those of the others as much for each of their pixels; and 4 for each class.

    >>> step_memory((128, 128), (16, 32, 64), 2) / 1e6
    29.884416
    """
    numbers = {2: 16, 3: 24}[len(size)]
    levels = sum(width / 2 ** (len(size) * level) for level, width in enumerate(widths))
    return 4 * math.prod(size) * (numbers * levels + 4 * num_classes)


def available_memory(device: jax.Device) -> float:
    """The bytes of a device, or of the machine if it is the device; 8 GB where nothing says it."""
    stats = device.memory_stats() or {}
    if device.platform != "cpu" and "bytes_limit" in stats:
        return float(stats["bytes_limit"])
    try:
        text = pathlib.Path("/proc/meminfo").read_text()
        return 1024.0 * int(re.search(r"MemAvailable:\s+(\d+) kB", text)[1])
    except (OSError, TypeError):
        return 8e9


def _size(sides: Sequence[int]) -> str:
    return "x".join(map(str, sides))


def _lines(
    config: Config, layout: Layout, seen: Sequence[Seen], comments: Mapping[str, str]
) -> list[str]:
    data = config.data
    paths = [path for pair in layout.pairs[:100] for path in pair]
    suffixes = dict.fromkeys(x.name.removeprefix(files.stem(x, files.SOFT_MASKS)) for x in paths)
    table = data.listing.endswith(".csv")
    where = "files" if table else f"images in {data.image}, masks in {data.label}"
    lines = [
        f"{where}: {len(layout.pairs)} pairs in {layout.pairs[0][0].parent}, of "
        f"{', '.join(suffixes)}; {len(seen)} of them were read",
        f"trains on {data.train_split}, evaluates {data.eval_split}"
        + (f", as listed in {data.listing}" if data.listing else ""),
        f"{len(data.classes)} classes: {', '.join(data.classes[:8])}"
        + (", ..." if len(data.classes) > 8 else ""),
    ]
    if layout.beside:
        place = pathlib.PurePath(data.label).with_name("{rater}")
        lines.append(
            f"{', '.join(layout.beside[:3])} have masks of the same names; if they are of other "
            f'annotators, write data.label="{place}" and data.masks="votes"'
        )
    lines += [f"{name}: {comment}" for name, comment in comments.items() if name != "classes"]
    return lines


_PAGE = '''"""{title}

Written by `python -m jaxseg.data new`. What comments say was seen in the folder, or guessed; read
it, and name the classes.

    {command}
"""

from jaxseg.config import Augment, Config, Data, Model, Optim


def get_config() -> Config:
    return Config(
{fields}    )
'''


def render(found: Understanding, path: pathlib.Path) -> str:
    """The page, as ruff formats it."""
    names = (
        *("steps", "batch_size", "eval_batch_size", "eval_every", "checkpoint_every"),
        *("log_every", "loss", "data", "augment", "model", "optim"),
    )
    config = found.config
    fields = "".join(_field(name, getattr(config, name), found.comments, 8) for name in names)
    root = pathlib.Path(config.data.root).resolve().name
    commands = [_command("train", place) for place in (path, path.name)]
    return _PAGE.format(
        title=_quoted(f"The images of {root[:60]}: {len(config.data.classes)} classes."),
        command=_quoted(next((x for x in commands if len(x) <= 96), commands[-1])),
        fields=fields,
    )


def _quoted(text: str) -> str:
    """A text as it stands in a docstring."""
    return text.replace("\\", r"\\").replace('"""', r"\"\"\"")


def _command(name: str, path: str | os.PathLike) -> str:
    return shlex.join(["python", "-m", *f"jaxseg.{name}".split(), f"--config={path}"])


def _field(name: str, value: Any, comments: Mapping[str, str], indent: int) -> str:
    """A line of a config, or several if it is too long for one; fields of nested ones follow."""
    margin = " " * indent
    comment = comments.get(name, "")
    above = ""
    if dataclasses.is_dataclass(value):
        default = type(value)()
        kept = [
            (field.name, getattr(value, field.name))
            for field in dataclasses.fields(value)
            if field.name in (*_ALWAYS, *comments)
            or getattr(value, field.name) != getattr(default, field.name)
        ]
        text = ", ".join(f"{each}={_literal(x)}" for each, x in kept)
        text = f"{margin}{name}={type(value).__name__}({text}),"
        if len(text) > 100 or name == "data":
            inner = "".join(_field(*each, comments, indent + 4) for each in kept)
            text = f"{margin}{name}={type(value).__name__}(\n{inner}{margin}),"
        return f"{text}\n"
    text = f"{margin}{name}={_literal(value)},"
    if comment and len(text) + len(comment) + 4 <= 100:
        text += f"  # {comment}"
    elif comment:
        above = f"{margin}# {comment[0].upper()}{comment[1:]}.\n"
    if len(text) > 100 and isinstance(value, str):  # a long path, which has no place to break
        text += "  # noqa: E501"
    elif len(text) > 100:
        items = "".join(f"{margin}    {_literal(x)},\n" for x in value)
        text = f"{margin}{name}=(\n{items}{margin}),"
    return f"{above}{text}\n"


# Also where they are as by default.
_ALWAYS = (
    *("root", "train_split", "eval_split", "image", "label", "classes", "channels", "image_size"),
    *("flip_horizontal", "brightness", "contrast", "widths", "norm", "warmup_steps"),
)


def _literal(value: Any) -> str:
    if isinstance(value, str):
        return repr(value) if '"' in value else json.dumps(value, ensure_ascii=False)
    if isinstance(value, tuple):
        inner = ", ".join(map(_literal, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    return repr(value)


def define_flags() -> None:
    flags.DEFINE_string("output", None, "The page to write. [configs/, named as the folder]")
    flags.DEFINE_bool("overwrite", False, "Replace the page if it is there.")


def main(folder: str | None = None) -> None:
    args = flags.FLAGS
    if folder is None:
        cli.fail("the folder is missing; write python -m jaxseg.data new DIR")
    stem = re.sub(r"\W+", "_", pathlib.Path(folder).resolve().name.lower())
    path = pathlib.Path(args.output or f"configs/{stem}.py")
    if path.exists() and not args.overwrite:
        cli.fail(f"{path} is there already; give another --output, or --overwrite")
    with cli.work():
        found = understand(folder, show=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        with writing.whole(path) as fresh:
            fresh.write_text(render(found, path))
    console = Console(soft_wrap=True, highlight=False)
    for line in found.lines:
        console.print(f"- {line}", markup=False)
    console.print(f"{path} is written; read it, name the classes, and then:", markup=False)
    for name in ("data inspect", "train"):
        console.print(_command(name, path), markup=False)
