"""Reads images and masks from files: pictures, NumPy arrays and NIfTI volumes."""

from __future__ import annotations

import csv
import io
import math
import pathlib
import re
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageSequence

if TYPE_CHECKING:
    from jaxtyping import Integer, Num, UInt8

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
NIFTI = (".nii", ".nii.gz")
MASKS = (*PICTURES, ".npy", *NIFTI)
IMAGES = MASKS
_MOST_VALUES = 2**32  # of a file, which may be a few kilobytes that unpack to all of the memory
_BITS_PER_SAMPLE, _SAMPLES_PER_PIXEL, _SAMPLE_FORMAT = 258, 277, 339  # tags of a TIFF file
_UNSIGNED, _SIGNED = 1, 2  # of the last one
SOFT_MASKS = (*MASKS, ".npz", ".mat")  # of several annotators, or amounts of each class


class DataError(ValueError):
    """Data that can't be used, said in one line: what was found, what is needed, what to do."""


class Header(NamedTuple):
    """What a mask's file says before its values are read."""

    shape: tuple[int, ...]
    spacing: tuple[float, ...] | None  # of neighbours along each axis, where the file tells
    axes: str | None = None  # where they point to in the body, as in "RAS", where the file tells


def by_stem(paths: Iterable[pathlib.Path], suffixes: Sequence[str]) -> dict[str, pathlib.Path]:
    """The files with one of the suffixes, by their names without it, in order."""
    found = {}
    for path in sorted(paths):
        # Files that begin with a dot are what macOS leaves beside each real one.
        ours = stem(path, suffixes) != path.name
        if ours and path.is_symlink() and not path.exists():
            raise DataError(f"{path} is a link to a file that does not exist; mend or remove it")
        if ours and path.is_file() and not path.name.startswith("."):
            name = key(path.name, suffixes)
            if name in found:
                raise DataError(f"{found[name]} and {path} have the same name; remove one")
            found[name] = path
    return found


def key(name: str, suffixes: Sequence[str]) -> str:
    """What a file is paired by: its name without one of the suffixes.

    Names that look the same are the same, though systems write accents in two ways.

    >>> key("mu\u0308nster.png", IMAGES) == key("m\u00fcnster.jpg", IMAGES)
    True
    """
    return unicodedata.normalize("NFC", stem(pathlib.Path(name), suffixes))


def stem(path: pathlib.Path, suffixes: Sequence[str]) -> str:
    """The name without one of the suffixes; other dots belong to the name."""
    matching = [suffix for suffix in suffixes if path.name.lower().endswith(suffix)]
    return path.name[: -max(map(len, matching))] if matching else path.name


def read_image(path: pathlib.Path, spatial_rank: int = 2) -> Num[np.ndarray, "*pixels channels"]:
    """The values of an image or a volume; those of a palette as the colours that they mean.

    Channels come last. NumPy arrays and NIfTI files have them as their last axis, if at all; the
    pages of a TIFF file are channels of an image, or the first axis of a volume.
    """
    if path.suffix.lower() == ".npy":
        values = _load_numpy(path, "an image")
    elif stem(path, NIFTI) != path.name:
        values = _load_nifti(path, lambda volume: np.asanyarray(volume.dataobj), "an image")
    elif path.suffix.lower() in (".tif", ".tiff") and _has_more_axes(path):
        return _load_tiff(path, spatial_rank)
    else:
        values = np.atleast_3d(_picture(path))
        if spatial_rank != 2:
            raise DataError(
                f"{path} is one picture, but data.image_size has {spatial_rank} numbers; give "
                "volumes, as NIfTI, NumPy or TIFF files of several pages"
            )
    values = _native(values)
    if values.ndim == spatial_rank:
        values = values[..., None]
    if values.ndim != spatial_rank + 1 or values.dtype.kind not in "biuf":
        raise DataError(
            f"{path} holds {values.dtype}{list(values.shape)}, but an image needs numbers and "
            f"{spatial_rank} axes, or {spatial_rank + 1} with the channels last"
        )
    return values


def read_colours(path: pathlib.Path) -> UInt8[np.ndarray, "height width 3"]:
    """The colours of a mask, red, green and blue."""
    if stem(path, PICTURES) == path.name:
        raise DataError(
            f"{path} is no picture, but with data.colours masks are pictures, such as PNG; convert "
            "it, or leave data.colours out if it holds class indices"
        )
    conversions = dict.fromkeys(("P", "L", "RGBA", "1", "LA"), "RGB")
    mode, values = _decode(path, "a mask", conversions)
    if conversions.get(mode, mode) != "RGB":
        raise DataError(
            f"{path} is a mask of mode {mode}, but with data.colours masks are RGB of 8 bits; "
            "convert it, or leave data.colours out if it holds class indices"
        )
    return values


def read_raters(path: pathlib.Path) -> Integer[np.ndarray, " raters *pixels"]:
    """The masks of several annotators, one after the other, of one file.

    A NumPy array whose first axis are the annotators (`.npy`, or the only one of an `.npz`), a TIFF
    file with a page for each, or the boundaries of a `.mat` file of the Berkeley segmentation data
    set (Arbelaez et al. 2011, doi:10.1109/TPAMI.2010.161).
    """
    if path.suffix.lower() == ".mat":
        return _load_berkeley(path)
    readers = {".npy": _load_numpy, ".npz": _load_npz}
    values = readers.get(path.suffix.lower(), read_mask)(path)
    if values.ndim < 3 or values.dtype.kind not in "biu":
        raise DataError(
            f"{path} holds {values.dtype}{list(values.shape)}, but masks of annotators need an "
            "integer type and the axes [annotators, height, width]"
        )
    return values.astype(np.uint8) if values.dtype == bool else values


def read_shares(path: pathlib.Path) -> Num[np.ndarray, "*pixels classes"]:
    """Amounts of each class, the last axis of the NumPy array of an `.npy` or `.npz` file."""
    if path.suffix.lower() not in (".npy", ".npz"):
        raise DataError(f'{path} must be a NumPy file, .npy or .npz, for data.masks="shares"')
    read = _load_npz if path.suffix.lower() == ".npz" else _load_numpy
    values = read(path)
    if values.dtype.kind not in "biuf":
        raise DataError(f"{path} holds {values.dtype}, but amounts must be numbers")
    return values.astype(np.uint8) if values.dtype == bool else values


def read_mask(path: pathlib.Path, ranks: Sequence[int] = (2, 3)) -> Integer[np.ndarray, "*pixels"]:
    """The class or segment indices of a mask; a palette mask's are its indices, not colours.

    Two axes, or three of a NumPy array, a NIfTI file or a TIFF file of several pages. NIfTI writers
    store whole numbers as floats, too, which are taken.
    """
    if path.suffix.lower() == ".npy":
        values = _load_numpy(path)
    elif stem(path, NIFTI) != path.name:
        values = _load_nifti(path, lambda volume: np.asanyarray(volume.dataobj))
        while values.ndim > 3 and values.shape[-1] == 1:  # as some programs write volumes
            values = values[..., 0]
        # Beyond 2^53 all floats are whole; and NaN is neither below nor equal to anything.
        if values.dtype.kind == "f" and np.all(
            (abs(values) < 2.0**53) & (values == np.rint(values))
        ):
            values = values.astype(np.int64)
    else:
        mode, values = _mask_picture(path)
        if Image.getmodebands(mode) != 1 or values.dtype.kind not in "biu":
            raise DataError(
                f"{path} is a mask of mode {mode}, but masks need one channel of class indices "
                "(grey or palette); convert its colours to indices"
            )
    if values.dtype.kind not in "biu" or values.ndim not in (2, 3):
        raise DataError(
            f"{path} is a mask of {values.dtype}{list(values.shape)}, but masks need class indices "
            "of an integer type and two or three axes; take the argmax over the classes"
        )
    return values.astype(np.uint8) if values.dtype == bool else values


def version(path: pathlib.Path) -> str:
    """What changes with the file, without reading it."""
    state = path.stat()
    return f"{path} {state.st_mtime_ns} {state.st_size}"


def read_text(path: pathlib.Path) -> str:
    """The text of a file, with or without a byte order mark."""
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text in UTF-8 ({error.reason}); save it as such") from error


def read_table(path: pathlib.Path) -> tuple[list[str], list[dict[str, str]]]:
    """The columns and the rows of a CSV file."""
    rows = csv.DictReader(io.StringIO(read_text(path), newline=""))
    try:
        return list(rows.fieldnames or ()), list(rows)
    except csv.Error as error:
        raise DataError(f"{path} can't be read as CSV ({error}); correct it") from error


def one_geometry(headers: dict[pathlib.Path, Header]) -> None:
    """Raises DataError unless the pixels of some files are of one spacing, and point one way."""
    for part, what in (("spacing", "pixels of"), ("axes", "axes that point to")):
        known = {path: getattr(x, part) for path, x in headers.items() if getattr(x, part)}
        for path, value in known.items():
            first = next(iter(known))
            same = value == known[first]
            if part == "spacing":
                rank = min(len(value), len(known[first]))
                same = np.allclose(value[:rank], known[first][:rank], rtol=1e-3)
            if not same:
                raise DataError(
                    f"{first} has {what} {known[first]}, but {path} {value}; they must agree: "
                    "resample or reorient one of them"
                )


def read_header(path: pathlib.Path) -> Header:
    """The shape of a mask, and the spacing of its pixels if the file is one of NIfTI."""
    if path.suffix.lower() == ".npy":
        return Header(_load_numpy(path).shape, None)
    if stem(path, NIFTI) != path.name:
        return _load_nifti(path, lambda volume: _nifti_header(path, volume))
    try:
        with Image.open(path) as picture:
            pages = getattr(picture, "n_frames", 1)
            shape = (picture.height, picture.width)
            return Header(shape if pages == 1 else (pages, *shape), None)
    except _UNREADABLE as error:
        raise _unreadable(path, "a mask", error) from error


def is_turned(path: pathlib.Path) -> bool:
    """Whether a JPEG file has a tag by which viewers turn or flip it, which reading ignores."""
    if path.suffix.lower() not in (".jpg", ".jpeg"):
        return False
    try:
        with Image.open(path) as picture:
            return picture.getexif().get(ExifTags.Base.Orientation, 1) not in (0, 1)
    except _UNREADABLE:  # of a damaged tag; the picture itself is read elsewhere
        return False


# What Pillow, NumPy and zlib raise; TypeError and LookupError are for a TIFF file whose directory
# is lost or wrong, and the errors of memory and of large numbers are for sizes that are false.
_UNREADABLE = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError),
    *(MemoryError, OverflowError, Image.DecompressionBombError, zlib.error),
)


def _unreadable(path: pathlib.Path, what: str, error: Exception) -> DataError:
    said = " ".join(re.sub(r"<_io\.\w+ object at \w+>", "", str(error)).split())
    said = said or type(error).__name__
    return DataError(f"{path} can't be read as {what} ({said}); replace the file or remove it")


def _native(values: np.ndarray) -> np.ndarray:
    """Values in the order of bytes of this machine."""
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _load_numpy(path: pathlib.Path, what: str = "a mask") -> np.ndarray:
    try:
        values = np.lib.format.open_memmap(path, mode="r")
    except _UNREADABLE as error:
        raise _unreadable(path, what, error) from error
    _check_size(path, values.shape)
    return values


def _check_size(path: pathlib.Path, shape: Sequence[int]) -> None:
    """Raises DataError for a shape, as a header says it, that is not to be read."""
    count = math.prod(shape)
    if not count:
        raise DataError(f"{path} is empty, {list(shape)}; replace the file or remove it")
    if count > _MOST_VALUES:
        raise DataError(
            f"{path} says that it holds {list(shape)}, which is more than {_MOST_VALUES} values; "
            "cut it into parts or remove it"
        )


def _load_npz(path: pathlib.Path) -> np.ndarray:
    try:
        with np.load(path) as arrays:
            if len(arrays.files) != 1:
                raise DataError(
                    f"{path} holds the arrays {', '.join(arrays.files)}, but must hold one"
                )
            with arrays.zip.open(arrays.zip.namelist()[0]) as file:
                _check_size(path, _shape(path, file))
            return arrays[arrays.files[0]]
    except DataError:
        raise
    except (*_UNREADABLE, RuntimeError, zipfile.BadZipFile) as error:  # or it is encrypted
        raise _unreadable(path, "a mask", error) from error


def _shape(path: pathlib.Path, file: zipfile.ZipExtFile) -> tuple[int, ...]:
    """What the header of a NumPy file in an archive says."""
    try:
        version = np.lib.format.read_magic(file)
    except ValueError as error:
        raise DataError(
            f"{path} holds the file {file.name}, but must hold one NumPy array"
        ) from error
    # A third version differs from the second in the names of fields.
    first = version == (1, 0)
    formats = np.lib.format
    read = formats.read_array_header_1_0 if first else formats.read_array_header_2_0
    return read(file)[0]


def _load_berkeley(path: pathlib.Path) -> np.ndarray:
    import scipy.io  # slow to import, and seldom needed

    try:
        annotators = scipy.io.loadmat(path)["groundTruth"][0]
        return np.stack([each["Boundaries"][0, 0] for each in annotators])
    except (*_UNREADABLE, NotImplementedError) as error:
        raise _unreadable(path, "a .mat file of the Berkeley data set", error) from error


def _nifti_header(path: pathlib.Path, volume) -> Header:
    import nibabel

    shape, spacing = volume.shape, tuple(map(float, volume.header.get_zooms()))
    if not all(0 < x < np.inf for x in spacing):
        raise DataError(f"{path} has pixels of {spacing}, but they must be positive; correct it")
    while len(shape) > 3 and shape[-1] == 1:  # as some programs write volumes
        shape, spacing = shape[:-1], spacing[:-1]
    return Header(shape, spacing, "".join(map(str, nibabel.aff2axcodes(volume.affine))))


def _load_nifti(path: pathlib.Path, read: Callable, what: str = "a mask"):
    """What `read(volume)` finds, which may be the first to see that the file is cut short."""
    import nibabel  # slow to import, and not needed for pictures

    strange = (nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError)
    try:
        volume = nibabel.load(path)
        _check_size(path, volume.shape)
        return read(volume)
    except DataError:
        raise
    except (*_UNREADABLE, *strange) as error:
        raise _unreadable(path, what, error) from error


def _has_more_axes(path: pathlib.Path) -> bool:
    """Whether a TIFF file has several pages, or channels that Pillow does not know."""
    try:
        with Image.open(path) as picture:
            samples = picture.tag_v2.get(_SAMPLES_PER_PIXEL, 1) if picture.format == "TIFF" else 1
            return getattr(picture, "n_frames", 1) > 1 or samples > len(picture.getbands())
    except Image.UnidentifiedImageError:
        with path.open("rb") as file:
            return file.read(2) in (b"II", b"MM")  # else it is no TIFF file
    except _UNREADABLE as error:
        raise _unreadable(path, "an image", error) from error


def _has_wide_colours(picture: Image.Image) -> bool:
    """Whether colours have 16 bits, of which Pillow keeps 8."""
    return picture.mode.startswith("RGB") and any(";16" in str(tile) for tile in picture.tile)


def _load_tiff(path: pathlib.Path, spatial_rank: int, what: str = "an image") -> np.ndarray:
    """An image of many channels, or a volume, channels last."""
    import tifffile  # slow to import, and seldom needed

    try:
        with tifffile.TiffFile(path) as file:
            series = file.series[0]
            _check_size(path, series.shape)
            values, axes = series.asarray().reshape(series.shape), series.axes
    except DataError:
        raise
    except Exception as error:  # of damaged files tifffile may raise anything
        raise _unreadable(path, what, error) from error
    others = [axis for axis in axes if axis not in "YX"]
    # Channels are named so (C), or samples of a pixel (S); other pages are slices of a volume.
    named = [axis for axis in others if axis in "CS"]
    slices = [axis for axis in others if axis not in "CS"]
    if spatial_rank == 2 and not named:
        named, slices = slices, []
    if len(named) > 1 or len(slices) != spatial_rank - 2 or not {"Y", "X"} <= set(axes):
        raise DataError(
            f"{path} holds {values.dtype}{list(values.shape)} with the axes {axes}, but "
            f"data.image_size has {spatial_rank} numbers, and channels may be one axis more"
        )
    order = [axes.index(axis) for axis in (*slices, "Y", "X", *named)]
    values = _native(values.transpose(order))
    return values if named else values[..., None]


def _picture(path: pathlib.Path) -> np.ndarray:
    """The values of a picture of one page and at most four channels."""
    colours = dict.fromkeys(("P", "CMYK", "YCbCr", "LAB", "HSV"), "RGB")
    conversions = {"1": "L", "LA": "L", **colours}
    data = _read(path, "an image")
    found = _decode_fast(path, data, "an image")
    if found is None:
        found = _decode(path, "an image", conversions, io.BytesIO(data))[1]
    return found


def _mask_picture(path: pathlib.Path) -> tuple[str, np.ndarray]:
    """The mode of a mask's file and its values as stored, also those of several pages."""
    data = _read(path, "a mask")
    if _is_strange(data):
        pages = np.moveaxis(_load_tiff(path, 2, "a mask"), -1, 0)
        return "L", pages[0] if len(pages) == 1 else pages
    found = _decode_fast(path, data, "a mask")
    if found is not None and found.ndim == 2:
        return "L", found
    return _decode(path, "a mask", {}, io.BytesIO(data))


def _is_strange(data: bytes) -> bool:
    """Whether this is a TIFF file of a kind that Pillow does not know."""
    if data[:2] not in (b"II", b"MM"):
        return False
    try:
        Image.open(io.BytesIO(data))
    except Image.UnidentifiedImageError:
        return True
    except _UNREADABLE:  # which is said where it is read
        pass
    return False


def _read(path: pathlib.Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, what, error) from error


# What OpenCV decodes as Pillow does, and colours of 16 bits besides, faster: 1.4 times for JPEG.
_FAST = {
    "L": cv2.IMREAD_GRAYSCALE,
    "RGB": cv2.IMREAD_COLOR_RGB,
    "RGBA": cv2.IMREAD_UNCHANGED,
    "I;16": cv2.IMREAD_UNCHANGED,
}


def _decode_fast(path: pathlib.Path, data: bytes, what: str) -> np.ndarray | None:
    """A whole PNG or JPEG file as OpenCV decodes it, or None where Pillow has to.

    OpenCV takes a JPEG file that is cut short for a whole one, which only its end can tell. Of TIFF
    files it reads those that Pillow does not, of colours of 16 bits.
    """
    try:
        with Image.open(io.BytesIO(data)) as picture:
            kind, mode, wide = picture.format, picture.mode, _has_wide_colours(picture)
            # Colours that are transparent by value, inks and less than 8 bits are Pillow's.
            plain = "transparency" not in picture.info and mode in _FAST
            exact = f"'{mode}(;16)?B?'"
            plain = plain and all(re.search(exact, str(tile)) for tile in picture.tile)
            size = picture.size
    except _UNREADABLE as error:
        raise _unreadable(path, what, error) from error
    ends = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9"}
    whole = data.rstrip(b"\0").endswith(ends.get(kind, b"?"))
    if not ((plain and whole) or (kind == "TIFF" and wide)):
        return None
    flags = cv2.IMREAD_UNCHANGED if wide else _FAST[mode] | cv2.IMREAD_IGNORE_ORIENTATION
    found = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if found is None or found.shape[1::-1] != size:
        return None
    if found.ndim == 3 and flags == cv2.IMREAD_UNCHANGED:
        order = cv2.COLOR_BGRA2RGBA if found.shape[-1] == 4 else cv2.COLOR_BGR2RGB
        found = cv2.cvtColor(found, order)
    return found


def _as_stored(picture: Image.Image) -> np.ndarray:
    """The values of a mask as its file has them.

    Pillow stretches grey of 2 and 4 bits to 8, and inverts that of TIFF files whose 0 is white.
    """
    kind = re.search(r"'(1|L);?([24])?(I?)R?'", str(picture.tile))
    values = _values(picture)
    if kind is not None and kind[3]:
        values = ~values
    if kind is not None and kind[2]:
        values = values // (255 // (2 ** int(kind[2]) - 1))
    return values


def _values(picture: Image.Image) -> np.ndarray:
    """The values of a picture, also of the integers of TIFF files that Pillow has no type for."""
    tags = picture.tag_v2 if picture.format == "TIFF" else {}
    values = np.asarray(picture)
    stored = tags.get(_SAMPLE_FORMAT, (1,))[0], tags.get(_BITS_PER_SAMPLE, (0,))[0]
    types = {(_SIGNED, 8): np.int8, (_UNSIGNED, 32): np.uint32}
    return values.view(types[stored]) if stored in types and picture.mode in "LI" else values


def _decode(
    path: pathlib.Path,
    what: str,
    conversions: dict[str, str],
    content: io.BytesIO | None = None,
) -> tuple[str, np.ndarray]:
    """The mode of a picture file and its values, after a conversion if its mode has one.

    By Pillow, which unlike OpenCV keeps palette indices and refuses files that are cut short.
    Orientation tags are ignored, since masks have none; those of TIFF files, which Pillow obeys,
    are refused. `content` is what the file holds, if it is read already.
    """
    try:
        with Image.open(content or path) as picture:
            mode = picture.mode
            if picture.format == "TIFF" and picture.tag_v2.get(ExifTags.Base.Orientation, 1) != 1:
                raise DataError(
                    f"{path} has an orientation tag, which turns a TIFF file away from its mask; "
                    "save it upright"
                )
            if _has_wide_colours(picture):
                raise DataError(f"{path}: {what} of colours of 16 bits can't be read; convert it")
            if what == "a mask" and getattr(picture, "n_frames", 1) > 1:
                _check_size(path, (picture.n_frames, picture.height, picture.width))
                pages = [_as_stored(page) for page in ImageSequence.Iterator(picture)]
                return mode, np.stack(pages)
            if mode in conversions:
                return mode, np.asarray(picture.convert(conversions[mode]))
            return mode, _as_stored(picture) if what == "a mask" else _values(picture)
    except DataError:
        raise
    except _UNREADABLE as error:
        raise _unreadable(path, what, error) from error
