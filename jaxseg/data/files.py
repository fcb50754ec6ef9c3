"""Reads images and masks from files: pictures, NumPy arrays and NIfTI volumes."""

from __future__ import annotations

import pathlib
import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageSequence

if TYPE_CHECKING:
    from jaxtyping import Integer, UInt8

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
NIFTI = (".nii", ".nii.gz")
MASKS = (*PICTURES, ".npy", *NIFTI)


class DataError(ValueError):
    """Data that can't be used, said in one line: what was found, what is needed, what to do."""


class Header(NamedTuple):
    """What a mask's file says before its values are read."""

    shape: tuple[int, ...]
    spacing: tuple[float, ...] | None  # of neighbours along each axis, where the file tells


def by_stem(directory: pathlib.Path, suffixes: Sequence[str]) -> dict[str, pathlib.Path]:
    """The files of a directory with one of the suffixes, by their names without it, in order."""
    found = {}
    for path in sorted(directory.iterdir()):
        # Files that begin with a dot are what macOS leaves beside each real one.
        name = stem(path, suffixes)
        if name != path.name and path.is_file() and not path.name.startswith("."):
            if name in found:
                raise DataError(f"{found[name]} and {path} have the same name; remove one")
            found[name] = path
    return found


def stem(path: pathlib.Path, suffixes: Sequence[str]) -> str:
    """The name without one of the suffixes; other dots belong to the name."""
    matching = [suffix for suffix in suffixes if path.name.lower().endswith(suffix)]
    return path.name[: -max(map(len, matching))] if matching else path.name


def read_image(path: pathlib.Path) -> UInt8[np.ndarray, "height width channels"]:
    """The values of a picture; those of a palette as the colours that they mean."""
    colours = dict.fromkeys(("P", "CMYK", "YCbCr", "LAB", "HSV"), "RGB")
    return np.atleast_3d(_decode(path, "an image", {"1": "L", "LA": "L", **colours})[1])


def read_mask(path: pathlib.Path) -> Integer[np.ndarray, "*pixels"]:
    """The class or segment indices of a mask; a palette mask's are its indices, not colours.

    Two axes, or three of a NumPy array, a NIfTI file or a TIFF file of several pages. NIfTI writers
    store whole numbers as floats, too, which are taken.
    """
    if path.suffix.lower() == ".npy":
        values = _load_numpy(path)
    elif stem(path, NIFTI) != path.name:
        values = _load_nifti(path, lambda volume: np.asanyarray(volume.dataobj))
        # Beyond 2^53 all floats are whole; and NaN is neither below nor equal to anything.
        if values.dtype.kind == "f" and np.all(
            (abs(values) < 2.0**53) & (values == np.rint(values))
        ):
            values = values.astype(np.int64)
    else:
        mode, values = _decode(path, "a mask", {})
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


def read_header(path: pathlib.Path) -> Header:
    """The shape of a mask, and the spacing of its pixels if the file is one of NIfTI."""
    if path.suffix.lower() == ".npy":
        return Header(_load_numpy(path).shape, None)
    if stem(path, NIFTI) != path.name:
        return _load_nifti(
            path, lambda volume: Header(volume.shape, tuple(map(float, volume.header.get_zooms())))
        )
    try:
        with Image.open(path) as picture:
            pages = getattr(picture, "n_frames", 1)
            shape = (picture.height, picture.width)
            return Header(shape if pages == 1 else (pages, *shape), None)
    except _UNREADABLE as error:
        raise _unreadable(path, "a mask", error) from error


# What Pillow and NumPy raise; TypeError is for a TIFF file that lost its directory.
_UNREADABLE = (
    *(OSError, SyntaxError, ValueError, TypeError, EOFError),
    Image.DecompressionBombError,
)


def _unreadable(path: pathlib.Path, what: str, error: Exception) -> DataError:
    said = " ".join(str(error).split())
    return DataError(f"{path} can't be read as {what} ({said}); replace the file or remove it")


def _load_numpy(path: pathlib.Path) -> np.ndarray:
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except _UNREADABLE as error:
        raise _unreadable(path, "a mask", error) from error


def _load_nifti(path: pathlib.Path, read: Callable):
    """What `read(volume)` finds, which may be the first to see that the file is cut short."""
    import nibabel  # slow to import, and not needed for pictures

    try:
        return read(nibabel.load(path))
    except (*_UNREADABLE, zlib.error, nibabel.filebasedimages.ImageFileError) as error:
        raise _unreadable(path, "a mask", error) from error


def _decode(path: pathlib.Path, what: str, conversions: dict[str, str]) -> tuple[str, np.ndarray]:
    """The mode of a picture file and its values, after a conversion if its mode has one.

    By Pillow, which unlike OpenCV keeps palette indices and refuses files that are cut short.
    Orientation tags are ignored, since masks have none; those of TIFF files, which Pillow obeys,
    are refused.
    """
    try:
        with Image.open(path) as picture:
            mode = picture.mode
            if picture.format == "TIFF" and picture.tag_v2.get(ExifTags.Base.Orientation, 1) != 1:
                raise DataError(
                    f"{path} has an orientation tag, which turns a TIFF file away from its mask; "
                    "save it upright"
                )
            if mode.startswith("RGB") and any(";16" in str(tile) for tile in picture.tile):
                raise DataError(f"{path}: the image is uint16, but must be uint8; convert it")
            if what == "a mask" and getattr(picture, "n_frames", 1) > 1:
                pages = [np.asarray(page) for page in ImageSequence.Iterator(picture)]
                return mode, np.stack(pages)
            if mode in conversions:
                return mode, np.asarray(picture.convert(conversions[mode]))
            return mode, np.asarray(picture)
    except DataError:
        raise
    except _UNREADABLE as error:
        raise _unreadable(path, what, error) from error
