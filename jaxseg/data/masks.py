"""Predicted masks and labels in two folders, to be compared."""

from __future__ import annotations

import concurrent.futures
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxseg.data import files
from jaxseg.data.files import DataError

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Int

_ROUND = 64  # sides are padded to multiples of this, so that few shapes have to be compiled

_MOST_SEGMENTS = 2**13  # of a mask: the table of all pairs takes up to a GB of memory


class MaskBatch(NamedTuple):
    """Predicted masks with their labels, the pixels that count, and the sides of each image."""

    preds: Int[Array, " batch *pixels"]
    labels: Int[Array, " batch *pixels"]
    where: Bool[Array, " batch *pixels"]
    sizes: Int[Array, "batch rank"]


class MaskGroup(NamedTuple):
    """Masks that are padded to one shape."""

    indices: tuple[int, ...]
    shape: tuple[int, ...]
    spacing: tuple[float, ...] | None
    num_segments: int | None  # more than the number of segments of each, if masks are of segments


class MaskFolders:
    """The masks of two directories, paired by their file names without suffix.

    With `num_classes`, values are class indices. Without, they are ids of segments of which 0 is
    the background, and the ids of each mask become 1, 2, ... in their order. Pixels labelled
    `ignore_label`, if there is one, don't count.
    """

    def __init__(
        self,
        preds: str | os.PathLike,
        labels: str | os.PathLike,
        *,
        num_classes: int | None,
        ignore_label: int | None = None,
        threads: int = 4,
    ):
        found = []
        for name, directory in (("preds", pathlib.Path(preds)), ("labels", pathlib.Path(labels))):
            if not directory.is_dir():
                raise DataError(f"{name} is {directory}, which is not a directory of masks")
            found.append(files.by_stem(directory.iterdir(), files.MASKS))
            if not found[-1]:
                raise DataError(
                    f"{directory} has no masks; their names end in {', '.join(files.MASKS)}"
                )
        for own, other, place in ((*found, labels), (*found[::-1], preds)):
            alone = [path for name, path in own.items() if name not in other]
            if alone:
                raise DataError(
                    f"{alone[0]} has no file of the same name in {place} ({len(alone)} of "
                    f"{len(own)} have none); add what is missing, or remove what is too many"
                )
        self.names = tuple(found[0])
        self._pairs = [(found[0][name], found[1][name]) for name in self.names]
        self._num_classes, self._ignored = num_classes, ignore_label
        self._threads = threads
        if None not in (num_classes, ignore_label) and 0 <= ignore_label < num_classes:
            raise DataError(
                f"ignore_label is {ignore_label}, which is also the index of one of the "
                f"{num_classes} classes; give a value that no class has, such as -1"
            )

    def groups(self) -> list[MaskGroup]:
        """The masks by the shapes that they are padded to, each mask once."""
        grouped = {}
        with concurrent.futures.ThreadPoolExecutor(self._threads) as pool:
            for index, key in enumerate(pool.map(self._key, self._pairs)):
                grouped.setdefault(key, []).append(index)
        return [MaskGroup(tuple(indices), *key) for key, indices in grouped.items()]

    def batches(
        self, group: MaskGroup, *, batch_size: int, host: int = 0, hosts: int = 1
    ) -> Iterator[MaskBatch]:
        """This host's rows of the group's batches; rows past its end don't count."""
        local = batch_size // hosts
        rows = [
            [start + host * local + row for row in range(local)]
            for start in range(0, len(group.indices), batch_size)
        ]
        with concurrent.futures.ThreadPoolExecutor(self._threads) as pool:
            waiting = [[pool.submit(self._padded, group, row) for row in rows[0]]]
            for following in [*rows[1:], []]:  # read ahead by one batch
                waiting.append([pool.submit(self._padded, group, row) for row in following])
                batch = [future.result() for future in waiting.pop(0)]
                yield MaskBatch(*map(np.stack, zip(*batch, strict=True)))

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A mask, its label, and the pixels that count."""
        paths = self._pairs[index]
        preds, labels = map(files.read_mask, paths)
        where = np.ones(labels.shape, bool)
        if self._ignored is not None:
            where = labels != self._ignored
        if self._num_classes is None:
            labels = np.where(where, labels, 0)
            return _consecutive(paths[0], preds), _consecutive(paths[1], labels), where
        ignored = "" if self._ignored is None else f" and not the ignored label {self._ignored}"
        for path, values, other in ((paths[0], preds, ""), (paths[1], labels, ignored)):
            wrong = where & ((values < 0) | (values >= self._num_classes))
            if wrong.any():
                value, number = (x[0] for x in np.unique(values[wrong], return_counts=True))
                raise DataError(
                    f"{path}: mask value {value} ({number} pixels) is none of the "
                    f"{self._num_classes} classes{other}; correct the mask or the classes"
                )
        return np.where(where, preds, 0), np.where(where, labels, 0), where

    def examples(self, indices: Sequence[int]) -> Iterator[tuple[np.ndarray, ...]]:
        """What `pictures.segments` draws of some images: the labels, `where` and masks."""
        for index in indices:
            preds, labels, where = self.load(index)
            yield labels, where, preds

    def compared(self, indices: Sequence[int]) -> Iterator[tuple]:
        """What `pictures.comparison` draws of some images: without images and probabilities."""
        for labels, where, preds in self.examples(indices):
            yield None, labels, where, preds, None

    def _key(self, paths: Sequence[pathlib.Path]):
        """What masks must have in common to be of one group."""
        headers = [files.read_header(path) for path in paths]
        shape, label_shape, spacing = headers[0].shape, *headers[1][:2]
        if shape != label_shape:
            sizes = ("x".join(map(str, x)) for x in (shape, label_shape))
            raise DataError(
                "{} is {}, but {} is {}; they must be of one size".format(
                    *(x for pair in zip(paths, sizes, strict=True) for x in pair)
                )
            )
        files.one_geometry(dict(zip(paths, headers, strict=True)))
        if len(shape) not in (2, 3):
            files.read_mask(paths[0])  # which says what is wrong with it
        padded = tuple(-(-side // _ROUND) * _ROUND for side in shape)
        if self._num_classes is not None:
            return padded, spacing, None
        numbers = [len(np.unique(files.read_mask(path))) for path in paths]
        for path, number in zip(paths, numbers, strict=True):
            if number >= _MOST_SEGMENTS:
                raise DataError(
                    f"{path} has {number} segments, but less than {_MOST_SEGMENTS} can be "
                    "compared; cut the image into parts"
                )
        return padded, spacing, 1 << max(numbers).bit_length()

    def _padded(self, group: MaskGroup, row: int):
        preds, labels = np.zeros((2, *group.shape), np.int32)
        where = np.zeros(group.shape, bool)
        size = np.zeros(len(group.shape), np.int32)
        if row < len(group.indices):
            found = self.load(group.indices[row])
            size[:] = found[0].shape
            inside = tuple(slice(side) for side in size)
            preds[inside], labels[inside], where[inside] = found
        return preds, labels, where, size


def _consecutive(path: pathlib.Path, ids: np.ndarray) -> np.ndarray:
    """Ids 1, 2, ... in the order of those found; 0 stays 0."""
    if ids.size and ids.min() < 0:
        raise DataError(f"{path} has the id {ids.min()}, but ids of segments are 0 or positive")
    # As an array of their own type: of uint64 and int64, numpy makes float64.
    zero = np.zeros(1, ids.dtype)
    return np.unique(np.append(ids, zero), return_inverse=True)[1][:-1].reshape(ids.shape)
