"""Random access to images with their masks: tensorflow-datasets and folders, in one form."""

from __future__ import annotations

import difflib
import pathlib
import re
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from jaxseg.config import Data
from jaxseg.data import files
from jaxseg.data.files import DataError

if TYPE_CHECKING:
    from jaxtyping import Integer, UInt8


class Example(NamedTuple):
    """An image and its mask as they were stored."""

    image: UInt8[np.ndarray, "height width channels"]
    mask: Integer[np.ndarray, "height width"]


class Source(Protocol):
    """A split: examples by index, each with a name that a person can find it by."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Example: ...
    def name(self, index: int) -> str: ...


def open_source(config: Data, split: str) -> Source:
    """Opens a split of a tfds data set, preparing it first if need be, or of a folder."""
    source = FolderSource(config, split) if config.name == "folder" else TfdsSource(config, split)
    if not len(source):
        raise DataError(f"split {split!r} of {config.name!r} holds no images; name another split")
    return source


class TfdsSource:
    """A split of a tensorflow-datasets data set, read without TensorFlow."""

    def __init__(self, config: Data, split: str):
        # Slow to import, and not needed for folders.
        import tensorflow_datasets as tfds

        # Imported to register the builder under its name.
        from jaxseg.data.jaxseg_nuclei import jaxseg_nuclei_dataset_builder  # noqa: F401

        self._config, self._split = config, split
        try:
            builder = tfds.builder(
                config.name, data_dir=config.root or None, file_format="array_record"
            )
        except Exception as error:  # of its name, its version, its config or its arguments
            # Community data sets would be asked for over the network, with TensorFlow.
            known = tfds.list_builders(with_community_datasets=False)
            if re.split("[/:]", config.name)[0] not in known:
                close = difflib.get_close_matches(config.name, [*known, "folder"], n=3, cutoff=0.5)
                hint = f"did you mean {' or '.join(close)}?" if close else "see its catalogue"
                raise DataError(
                    f"data.name is {config.name!r}, which is neither a data set of "
                    f'tensorflow-datasets nor "folder"; {hint}'
                ) from None
            text = " ".join(str(error).split())
            raise DataError(f"data.name is {config.name!r}, but tfds says: {text}") from error
        for field in ("image", "label"):
            key = getattr(config, field)
            if key not in builder.info.features:
                raise DataError(
                    f"data.{field} is {key!r}, but {config.name} has the features "
                    f"{', '.join(builder.info.features)}; choose one of them"
                )
        try:
            builder.download_and_prepare()
        except ImportError as error:
            raise DataError(
                f"tensorflow-datasets prepares {config.name} with a package that is missing "
                f"({error}); install it, prepare the data once with "
                f"`tfds build {config.name} --file_format=array_record`, and uninstall it again"
            ) from error
        except Exception as error:  # of the network, the disk or manual downloads
            text = " ".join(str(error).split())
            raise DataError(f"tensorflow-datasets can't prepare {config.name}: {text}") from error
        try:
            self._source = builder.as_data_source(split=split)
        except (KeyError, ValueError) as error:
            splits = ", ".join(builder.info.splits) or "unknown"
            raise DataError(
                f"split {split!r} is not in {config.name}, whose splits are {splits}"
            ) from error

    def __len__(self):
        return len(self._source)

    def __getitem__(self, index):
        example = self._source[int(index)]
        mask = np.asarray(example[self._config.label])
        if mask.ndim == 3 and mask.shape[-1] == 1:
            mask = mask[..., 0]
        if mask.ndim != 2 or mask.dtype.kind not in "biu":
            raise DataError(
                f"{self.name(index)}: {self._config.label} is {mask.dtype}{list(mask.shape)}, but "
                "a mask needs one channel of class indices; name another feature in data.label"
            )
        return Example(np.atleast_3d(example[self._config.image]), mask)

    def name(self, index):
        return f"{self._config.name} {self._split} example {index}"


class FolderSource:
    """Images and masks in two directories, paired by their file names without suffix."""

    def __init__(self, config: Data, split: str):
        match = re.fullmatch(r"(.*?)(?:\[(\d*)(%?):(\d*)(%?)\])?", split)
        base, start, start_percent, stop, stop_percent = match.groups(default="")
        if "[" in base or "]" in base:
            raise DataError(
                f"split {split!r} is not understood; write a name, a slice such as '[:80%]' or "
                "'[10:]', or both"
            )
        if base and not any("{split}" in x for x in (config.image, config.label, config.listing)):
            raise DataError(
                f"split {split!r} has the name {base!r}, but {{split}} stands in none of "
                "data.image, data.label and data.listing, so that every name would mean the same "
                "files; put it there, or split by slices such as '[:80%]' and '[80%:]'"
            )
        root = pathlib.Path(config.root)
        directories = []
        for field in ("image", "label"):
            directory = root / getattr(config, field).replace("{split}", base)
            if not directory.is_dir():
                raise DataError(
                    f"{directory} is not a directory, but data.root and data.{field} name it as "
                    f"the place of split {split!r}; correct them, or the split"
                )
            directories.append(files.by_stem(directory, files.PICTURES))
        images, masks = directories
        if config.listing:
            listing = root / config.listing.replace("{split}", base)
            if not listing.is_file():
                raise DataError(f"{listing} is not a file, but data.listing names it")
            names = [line.split()[0] for line in listing.read_text().splitlines() if line.strip()]
            stems = [files.stem(pathlib.Path(name), files.PICTURES) for name in names]
        else:
            stems = sorted(images)
        for kind, found in (("image", images), ("mask", masks)):
            missing = [stem for stem in stems if stem not in found]
            if missing:
                raise DataError(
                    f"{len(missing)} of the {len(stems)} images of split {split!r} have no {kind} "
                    f"file, {missing[0]!r} first; add the files, or list in data.listing the "
                    "names of those that have both"
                )
        bounds = [
            _bound(start, start_percent, len(stems), 0),
            _bound(stop, stop_percent, len(stems), len(stems)),
        ]
        self._pairs = [(images[stem], masks[stem]) for stem in stems[slice(*bounds)]]

    def __len__(self):
        return len(self._pairs)

    def __getitem__(self, index):
        image, mask = self._pairs[index]
        return Example(files.read_image(image), files.read_mask(mask))

    def name(self, index):
        image, mask = self._pairs[index]
        return f"{image} with mask {mask}"


def _bound(number: str, percent: str, count: int, default: int) -> int:
    if not number:
        return default
    return round(count * int(number) / 100) if percent else min(int(number), count)
