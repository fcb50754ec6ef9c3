"""Images without masks, beside those that have some."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable
from typing import NamedTuple

from jaxseg.config import Data
from jaxseg.data import files, splits
from jaxseg.data.datasets import Example, Source, TfdsSource, open_source
from jaxseg.data.files import DataError
from jaxseg.data.pipeline import Positions, train_positions


class Training(NamedTuple):
    """What a run trains on: the images with masks, and after them those without.

    `positions(host=..., hosts=...)` are those of the examples of each step that a host reads.
    """

    source: Source
    labelled: int
    unlabelled: int
    positions: Callable[..., Positions]


def open_training(config: Data, batch_size: int, seed: int) -> Training:
    """Opens `data.train_split`, and `data.unlabelled` where there is some."""
    rows = unlabelled_rows(config, batch_size)
    source = open_source(config, config.train_split)
    labelled, unlabelled = len(source), 0
    if rows:
        source = Joined(source, open_unlabelled(config))
        unlabelled = len(source) - labelled
    positions = functools.partial(
        train_positions,
        labelled,
        batch_size=batch_size,
        seed=seed,
        unlabelled=(unlabelled, rows),
    )
    return Training(source, labelled, unlabelled, positions)


def open_unlabelled(config: Data) -> Source:
    """The images of `data.unlabelled`, whose masks are not read and need not exist.

    Of tensorflow-datasets it is a split, of a folder a directory below data.root; a part of either
    is given as of other splits.
    """
    if config.name == "folder":
        source = _Folder(config)
    else:
        source = _WithoutMasks(TfdsSource(config, config.unlabelled))
    if not len(source):
        raise DataError(f"data.unlabelled is {config.unlabelled!r}, which holds no images")
    return source


def unlabelled_rows(config: Data, batch_size: int) -> int:
    """How many rows of each batch are of unlabelled images."""
    if not config.unlabelled:
        return 0
    rows = round(config.unlabelled_share * batch_size)
    if not 0 < rows < batch_size:
        raise DataError(
            f"data.unlabelled_share is {config.unlabelled_share}, which is {rows} of the "
            f"{batch_size} images of a batch, but some must have labels and some not; make it a "
            "share between 0 and 1"
        )
    return rows


class Joined:
    """Two sources as one, which holds the first one's examples and then the second one's."""

    def __init__(self, first: Source, second: Source):
        self._first, self._second = first, second

    def __len__(self):
        return len(self._first) + len(self._second)

    def __getitem__(self, index):
        source, index = self._at(index)
        return source[index]

    def name(self, index):
        source, index = self._at(index)
        return source.name(index)

    def version(self, index):
        source, index = self._at(index)
        return source.version(index)

    def unit(self, index):
        source, index = self._at(index)
        return source.unit(index)

    def _at(self, index: int) -> tuple[Source, int]:
        count = len(self._first)
        return (self._first, index) if index < count else (self._second, index - count)


class _WithoutMasks:
    def __init__(self, source: Source):
        self._source = source

    def __len__(self):
        return len(self._source)

    def __getitem__(self, index):
        return self._source[index]._replace(mask=None)

    def name(self, index):
        return self._source.name(index)

    def version(self, index):
        return f"without mask {self._source.version(index)}"

    def unit(self, index):
        return self._source.unit(index)


class _Folder:
    def __init__(self, config: Data):
        split = splits.parse(config.unlabelled)
        directory = pathlib.Path(config.root) / split.name
        if not directory.is_dir():
            raise DataError(
                f"{directory} is not a directory, but data.root and data.unlabelled name it as the "
                "place of images without masks; correct them"
            )
        images = files.by_stem(directory.iterdir(), files.IMAGES)
        names = sorted(images)
        units = [splits.unit_of(name, config.group) for name in names]
        chosen = splits.select(units, split, config.split_by)
        self._paths = [images[names[i]] for i in chosen]
        self._units = [units[i] if config.group else "" for i in chosen]
        self._rank = len(config.image_size)

    def __len__(self):
        return len(self._paths)

    def __getitem__(self, index):
        path = self._paths[index]
        image = files.read_image(path, self._rank)
        spacing = None
        if files.stem(path, files.NIFTI) != path.name:
            spacing = files.read_header(path).spacing[: self._rank]
        return Example(image, None, spacing)

    def name(self, index):
        return str(self._paths[index])

    def version(self, index):
        return f"without mask {files.version(self._paths[index])}"

    def unit(self, index):
        return self._units[index]
