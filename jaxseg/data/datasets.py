"""Random access to images with their masks: tensorflow-datasets and folders, in one form."""

from __future__ import annotations

import difflib
import json
import pathlib
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from jaxseg.config import Data
from jaxseg.data import coco, files, splits, targets
from jaxseg.data.files import DataError

if TYPE_CHECKING:
    import tensorflow_datasets as tfds
    from jaxtyping import Num


class Example(NamedTuple):
    """An image and its mask as they were stored, and the distances of pixels if the files tell."""

    image: Num[np.ndarray, "*pixels channels"]
    mask: Num[np.ndarray, "*mask"] | None  # as data.masks says; None of an unlabelled image
    spacing: tuple[float, ...] | None = None


# Of a data set that holds the examples of another source: the bytes of arrays, with their types.
FEATURES = ("image", "mask", "image_type", "mask_type", "spacing", "name")
# And beside its shards, the names of what is in each, which need no example to be read.
NAMES = "names.json"


class Source(Protocol):
    """A split: examples by index, each with a name that a person can find it by.

    The version of an example changes when what is stored does. Its unit is the group that splits
    keep together, or "" where there are none.
    """

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Example: ...
    def name(self, index: int) -> str: ...
    def version(self, index: int) -> str: ...
    def unit(self, index: int) -> str: ...


def open_source(config: Data, split: str) -> Source:
    """Opens a split of a tfds data set, preparing it first if need be, or of a folder."""
    source = FolderSource(config, split) if config.name == "folder" else TfdsSource(config, split)
    if not len(source):
        raise DataError(f"split {split!r} of {config.name!r} holds no images; name another split")
    return source


class TfdsSource:
    """A split of a tensorflow-datasets data set, read without TensorFlow."""

    def __init__(self, config: Data, split: str):
        for field in ("listing", "split_by", "group"):
            default = getattr(Data(), field)
            if getattr(config, field) != default:
                raise DataError(
                    f"data.{field} is {getattr(config, field)!r}, but parts folders only, and "
                    f"{config.name} has splits of its own; set it to {default!r}, and name splits "
                    "such as 'train[:80%]'"
                )
        # Slow to import, and not needed for folders.
        import tensorflow_datasets as tfds

        # Imported to register the builder under its name.
        from jaxseg.data.jaxseg_nuclei import jaxseg_nuclei_dataset_builder  # noqa: F401

        self._config, self._split = config, split
        where = {"data_dir": config.root or None, "file_format": "array_record"}
        try:
            builder = tfds.builder(config.name, **where)
        except ImportError as error:
            # The code that prepares it needs what is not installed; what it prepared does not.
            try:
                builder = tfds.core.read_only_builder.builder_from_files(config.name, **where)
            except tfds.core.registered.DatasetNotFoundError:
                raise _needs_packages(config.name, error) from error
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
        if config.masks == "panoptic":
            objects = config.label.removesuffix("_image") + "_objects"
            if objects not in builder.info.features:
                raise DataError(
                    f'data.masks="panoptic" needs the feature {objects!r} beside data.label, but '
                    f"{config.name} has the features {', '.join(builder.info.features)}"
                )
        try:
            builder.download_and_prepare()
        except ImportError as error:
            raise _needs_packages(config.name, error) from error
        except Exception as error:  # of the network, the disk or manual downloads
            text = " ".join(str(error).split())
            raise DataError(f"tensorflow-datasets can't prepare {config.name}: {text}") from error
        self._full_name = builder.info.full_name
        self._record = pathlib.Path(builder.data_path / "dataset_info.json")
        self._prepared = set(builder.info.features) == set(FEATURES)
        try:
            self._source = builder.as_data_source(split=split)
        except (KeyError, ValueError) as error:
            splits = ", ".join(builder.info.splits) or "unknown"
            raise DataError(
                f"split {split!r} is not in {config.name}, whose splits are {splits}"
            ) from error
        self._names = _names(builder, split) if self._prepared else []

    def __len__(self):
        return len(self._source)

    def __getitem__(self, index):
        example = self._source[int(index)]
        if self._prepared:
            image, mask = (
                example[x].view(example[f"{x}_type"].decode()) for x in ("image", "mask")
            )
            return Example(image, mask, tuple(example["spacing"].tolist()) or None)
        mask = np.asarray(example[self._config.label])
        colours = self._config.colours
        indices = self._config.masks in ("classes", *targets.OF_OBJECTS) and not colours
        if self._config.masks == "panoptic":
            objects = self._config.label.removesuffix("_image") + "_objects"
            mask = _panoptic(mask, example[objects], self.name(index))
        elif indices and mask.ndim == 3 and (mask == mask[..., :1]).all():
            mask = mask[..., 0]  # the only channel, or grey that tfds decodes as RGB
        if colours and (mask.ndim != 3 or mask.shape[-1] != 3 or mask.dtype != np.uint8):
            raise DataError(
                f"{self.name(index)}: {self._config.label} is {mask.dtype}{list(mask.shape)}, but "
                "data.colours need masks of red, green and blue, of 8 bits; leave them out, or "
                "name another feature in data.label"
            )
        if indices and (mask.ndim != 2 or mask.dtype.kind not in "biu"):
            raise DataError(
                f"{self.name(index)}: {self._config.label} is {mask.dtype}{list(mask.shape)}, but "
                "a mask needs one channel of class indices; name another feature in data.label, or "
                "give the colours of the classes in data.colours"
            )
        return Example(np.atleast_3d(example[self._config.image]), mask)

    def name(self, index):
        if self._names:
            return self._names[index]
        return f"{self._config.name} {self._split} example {index}"

    def version(self, index):
        return f"{self._full_name} of {files.version(self._record)} {self._split} {index}"

    def unit(self, index):
        return ""  # tensorflow-datasets has its own splits


def _names(builder: tfds.core.DatasetBuilder, split: str) -> list[str]:
    """What the examples of a split were called where they came from, if it is known."""
    path = pathlib.Path(builder.data_path / NAMES)
    if not path.is_file():
        return []
    known, parts = json.loads(path.read_text()), builder.info.splits[split].file_instructions
    return [x for part in parts for x in known[part.basename()][part.skip :][: part.take]]


def _needs_packages(name: str, error: ImportError) -> DataError:
    cause = error
    while isinstance(cause.__cause__, ImportError):
        cause = cause.__cause__
    return DataError(
        f"tensorflow-datasets prepares {name} with a package that is missing ({cause}); prepare "
        f"the data once in an environment that has it, by `pip install tensorflow` and `tfds build "
        f"{name} --file_format=array_record`; training then needs it no more"
    )


def _panoptic(mask: np.ndarray, objects: dict, name: str) -> np.ndarray:
    """The class of each pixel of a panoptic mask, and -1 where there is none or a crowd."""
    ids = mask[..., 0] + 256 * (mask[..., 1] + 256 * mask[..., 2].astype(np.int64))
    known = np.asarray(objects["id"], np.int64)
    classes = np.where(np.asarray(objects["is_crowd"], bool), -1, np.asarray(objects["label"]))
    order = np.argsort(known)
    known, classes = np.append(known[order], -1), np.append(classes[order], -1)
    found = np.searchsorted(known[:-1], ids)
    listed = known[found] == ids
    if (~listed & (ids > 0)).any():
        raise DataError(
            f"{name}: the id {ids[~listed & (ids > 0)][0]} of a segment is not among its objects"
        )
    return np.where(listed, classes[found], -1)


class Item(NamedTuple):
    """An image of a folder with what its mask is read from."""

    name: str
    group: str
    image: pathlib.Path
    masks: tuple[pathlib.Path, ...]  # of several annotators there may be several


class FolderSource:
    """Images and masks of a folder, paired by their file names without suffix or by a CSV file."""

    def __init__(self, config: Data, split: str):
        if config.masks == "panoptic":
            raise DataError(
                'data.masks="panoptic" is for tensorflow-datasets, which have the classes of the '
                'ids, but data.name is "folder"; choose another data.masks'
            )
        parsed = splits.parse(split)
        fields = (config.image, config.label, config.listing)
        table = config.listing.lower().endswith(".csv")
        if parsed.name and not table and not any("{split}" in field for field in fields):
            raise DataError(
                f"split {split!r} has the name {parsed.name!r}, but {{split}} stands in none of "
                "data.image, data.label and data.listing, so that every name would mean the same "
                "files; put it there, or split by slices such as '[:80%]' and '[80%:]'"
            )
        self._config, self._rank = config, len(config.image_size)
        self._annotations = None
        root = pathlib.Path(config.root)
        if config.label.lower().endswith(".json"):
            path = root / config.label.replace("{split}", parsed.name)
            self._annotations = coco.Annotations(path, config)
        self.unpaired: list[pathlib.Path] = []  # files that nothing is paired with, and not read
        if table:
            items = tabled(config, root, split, parsed.name)
        else:
            items, self.unpaired = _paired(config, root, split, parsed.name, self._annotations)
        units = [item.group or splits.unit_of(item.name, config.group) for item in items]
        chosen = splits.select(units, parsed, config.split_by)
        self._items, self._units = ([x[i] for i in chosen] for x in (items, units))

    def __len__(self):
        return len(self._items)

    def __getitem__(self, index):
        item = self._items[index]
        image = files.read_image(item.image, self._rank)
        if self._annotations is not None:
            return Example(image, self._annotations.mask(item.name, image.shape[:2]))
        masks = [self._read_mask(path) for path in item.masks]
        if len({mask.shape for mask in masks}) > 1:
            sizes = ", ".join(
                f"{path} {list(x.shape)}" for path, x in zip(item.masks, masks, strict=True)
            )
            raise DataError(f"the masks of annotators differ in size: {sizes}")
        several = "{rater}" in self._config.label
        mask = np.stack(masks) if several else masks[0]
        paths = [x for x in (item.image, *item.masks) if files.stem(x, files.NIFTI) != x.name]
        headers = {path: files.read_header(path) for path in paths}
        files.one_geometry(headers)
        known = [header.spacing[: self._rank] for header in headers.values()]
        return Example(image, mask, known[0] if known else None)

    def name(self, index):
        item = self._items[index]
        masks = " and ".join(map(str, item.masks))
        return f"{item.image} with mask {masks}" if masks else str(item.image)

    def version(self, index):
        item = self._items[index]
        paths = [item.image, *item.masks]
        versions = [files.version(path) for path in paths]
        if self._annotations is not None:
            versions.append(self._annotations.version)
        return " ".join(versions)

    def axes(self, index: int) -> str | None:
        """Where the axes of a volume point to in the body, as in "RAS", where its file tells."""
        path = self._items[index].image
        return files.read_header(path).axes if files.stem(path, files.NIFTI) != path.name else None

    def is_turned(self, index: int) -> bool:
        """Whether viewers show the picture turned, and its mask perhaps as it is stored."""
        return files.is_turned(self._items[index].image)

    def unit(self, index):
        return self._units[index] if self._config.group or self._items[index].group else ""

    @property
    def _read_mask(self) -> Callable[[pathlib.Path], np.ndarray]:
        if self._config.colours:
            return files.read_colours
        if self._config.masks == "shares":
            return files.read_shares
        if self._config.masks in targets.OF_RATERS and "{rater}" not in self._config.label:
            return files.read_raters
        return files.read_mask


def _paired(
    config: Data, root: pathlib.Path, split: str, name: str, annotations: coco.Annotations | None
) -> tuple[list[Item], list[pathlib.Path]]:
    """The images of a directory, each with the masks of the same name, and files without another.

    These are masks, or images that no annotation names, if no listing chooses among the files.
    """
    directory = _directory(root, config, "image", split, name)
    images = files.by_stem(directory.iterdir(), files.IMAGES)
    if config.listing:
        listing = root / config.listing.replace("{split}", name)
        if not listing.is_file():
            raise DataError(f"{listing} is not a file, but data.listing names it")
        lines = files.read_text(listing).split("\n")  # as names may have the other ends of lines
        stems = [_listed(line, images) for line in lines if line.strip()]
    elif annotations is not None:
        stems = [files.key(x, files.IMAGES) for x in annotations.names]
    else:
        stems = sorted(images)
    found = [("image", images)]
    masks = []
    if annotations is None:
        masks = [
            files.by_stem(x.iterdir(), files.SOFT_MASKS)
            for x in _label_directories(root, config, split, name)
        ]
        found += [("mask", each) for each in masks]
    else:
        known = {files.key(x, files.IMAGES) for x in annotations.names}
        found.append(("annotation", known))
    for kind, each in found:
        missing = [x for x in stems if x not in each]
        if missing:
            raise DataError(
                f"{len(missing)} of the {len(stems)} images of split {split!r} have no {kind} "
                f"file, {missing[0]!r} first; add the files, or list in data.listing the "
                "names of those that have both"
            )
    unpaired = []
    if not config.listing:
        _none_unread(directory, images, masks)
        unpaired = [each[x] for each in masks for x in each if x not in images]
        unpaired += [images[x] for x in images.keys() - set(stems)]
    return [Item(x, "", images[x], tuple(each[x] for each in masks)) for x in stems], unpaired


def _none_unread(
    directory: pathlib.Path,
    images: dict[str, pathlib.Path],
    masks: list[dict[str, pathlib.Path]],
) -> None:
    """Raises DataError for masks whose image is there, but in a format that is not read."""
    others = {
        path.stem: path
        for path in sorted(directory.iterdir())
        if files.stem(path, files.IMAGES) == path.name and path.is_file()
    }
    for each in masks:
        unread = [x for x in each if x not in images and x in others]
        if unread:
            raise DataError(
                f"{len(unread)} of the {len(each)} masks have no image that is read, "
                f"{unread[0]!r} first, whose is {others[unread[0]]}; images end in "
                f"{', '.join(files.IMAGES)}: convert them, or list in data.listing the names of "
                "those that have both"
            )


def _listed(line: str, images: dict[str, pathlib.Path]) -> str:
    """The name of an image that a line has whole, or begins with, as in Pascal VOC's lists."""
    whole, word = files.key(line.strip(), files.IMAGES), pathlib.Path(line.split()[0])
    # A path that ends where a word does is one of several.
    alone = files.stem(word, files.IMAGES) == word.name
    return whole if whole in images and alone else files.key(word.name, files.IMAGES)


def tabled(config: Data, root: pathlib.Path, split: str, name: str) -> list[Item]:
    """The rows of a CSV file: columns image, mask, and if there are any, split and group."""
    path = root / config.listing.replace("{split}", name)
    if not path.is_file():
        raise DataError(f"{path} is not a file, but data.listing names it")
    columns, rows = files.read_table(path)
    if not {"image", "mask"} <= set(columns):
        raise DataError(
            f"{path} has the columns {', '.join(columns) or 'of nothing'}, but needs image and "
            "mask, paths below data.root, and may have split and group"
        )
    if name and "{split}" not in config.listing:
        if "split" not in columns:
            raise DataError(
                f"split {split!r} has the name {name!r}, but {path} has no column named split; add "
                "it, or split by slices such as '[:80%]' and '[80%:]'"
            )
        known = dict.fromkeys(row["split"] for row in rows)
        if name not in known:
            raise DataError(f"{path} has the splits {', '.join(known)}, but not {name!r}")
        rows = [row for row in rows if row["split"] == name]
    items = []
    for row in rows:
        paths = [root / (row[kind] or "") for kind in ("image", "mask")]
        for kind, each in zip(("image", "mask"), paths, strict=True):
            if not each.is_file():
                raise DataError(
                    f"{path} names the {kind} {row[kind]!r}, which is not a file in {root}"
                )
        items.append(Item(row["image"], row.get("group") or "", paths[0], (paths[1],)))
    return items


def _directory(root: pathlib.Path, config: Data, field: str, split: str, name: str) -> pathlib.Path:
    directory = root / getattr(config, field).replace("{split}", name)
    if not directory.is_dir():
        raise DataError(
            f"{directory} is not a directory, but data.root and data.{field} name it as "
            f"the place of split {split!r}; correct them, or the split"
        )
    return directory


def _label_directories(
    root: pathlib.Path, config: Data, split: str, name: str
) -> list[pathlib.Path]:
    """The directory of the masks, or of each annotator's where {rater} stands for the names."""
    if "{rater}" not in config.label:
        return [_directory(root, config, "label", split, name)]
    if config.masks not in targets.OF_RATERS:
        raise DataError(
            f"data.label is {config.label!r}, of several annotators, but data.masks is "
            f'"{config.masks}"; set it to "votes" or "staple"'
        )
    pattern = config.label.replace("{split}", name).replace("{rater}", "*")
    found = sorted(path for path in root.glob(pattern) if path.is_dir())
    if not found:
        raise DataError(
            f"{root / pattern} matches no directory, but data.root and data.label name it as the "
            f"place of the masks of split {split!r}; correct them, or the split"
        )
    return found
