"""Files as they come: cut short, empty, of odd kinds and names. One clear line, or it works."""

import io
import os
import pathlib
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from jaxseg.config import Data
from jaxseg.data import DataError, make_loader, open_source

# What versions change shows in the examples of the docstrings.
pytestmark = pytest.mark.exhaustive

SIZE = (24, 32)
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (*SIZE, 3), np.uint8)
MASK = RNG.integers(0, 2, SIZE, np.uint8)


def encoded(array, kind, **options):
    stream = io.BytesIO()
    picture = array if isinstance(array, Image.Image) else Image.fromarray(array)
    picture.save(stream, kind, **options)
    return stream.getvalue()


def arrays(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


IMAGES = {
    ".png": encoded(IMAGE, "PNG"),
    ".jpg": encoded(IMAGE, "JPEG"),
    ".tif": encoded(IMAGE, "TIFF"),
    ".bmp": encoded(IMAGE, "BMP"),
    ".npy": arrays(IMAGE),
}
MASKS = {".png": encoded(MASK, "PNG"), ".tif": encoded(MASK, "TIFF"), ".npy": arrays(MASK)}
# Pillow warns of the tags of a TIFF file that it then can't read; commands show no such warnings.
ODD_TAGS = pytest.mark.filterwarnings("ignore::UserWarning")


def folder(root, image=IMAGES[".png"], mask=MASKS[".png"], suffixes=(".png", ".png"), name="a"):
    """A config of a folder with one image and its mask, as bytes."""
    for place, content, suffix in zip(("images", "masks"), (image, mask), suffixes, strict=True):
        (root / place).mkdir(parents=True, exist_ok=True)
        (root / place / f"{name}{suffix}").write_bytes(content)
    return Data(
        name="folder",
        root=str(root),
        image="images",
        label="masks",
        channels=3,
        image_size=SIZE,
    )


def load(config):
    source = open_source(config, "[:]")
    return [make_loader(source, config)(index) for index in range(len(source))]


def complaint(config, capfd):
    with pytest.raises(DataError) as caught:
        load(config)
    message = str(caught.value)
    assert "\n" not in message
    assert "object at" not in message
    assert capfd.readouterr() == ("", ""), "nothing else is said"
    return message


@ODD_TAGS
@pytest.mark.parametrize("suffix", IMAGES)
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.7, 0.95])
def test_images_cut_short(tmp_path, capfd, suffix, share):
    content = IMAGES[suffix]
    cut = content[: int(share * len(content))]
    config = folder(tmp_path, image=cut, suffixes=(suffix, ".png"))
    assert f"images/a{suffix}" in complaint(config, capfd)


@ODD_TAGS
@pytest.mark.parametrize("suffix", MASKS)
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.7, 0.85])
def test_masks_cut_short(tmp_path, capfd, suffix, share):
    content = MASKS[suffix]
    cut = content[: int(share * len(content))]
    config = folder(tmp_path, mask=cut, suffixes=(".png", suffix))
    assert f"masks/a{suffix}" in complaint(config, capfd)


@pytest.mark.parametrize("suffix", [*IMAGES, ".nii", ".nii.gz"])
@pytest.mark.parametrize("content", [b"\0" * 500, b"<html></html>", RNG.bytes(2000)])
def test_files_of_something_else(tmp_path, capfd, suffix, content):
    """Zeros, a page instead of a picture, noise."""
    config = folder(tmp_path, image=content, suffixes=(suffix, ".png"))
    assert f"images/a{suffix}" in complaint(config, capfd)


@ODD_TAGS
@pytest.mark.parametrize("suffix", IMAGES)
def test_any_byte_may_be_wrong(tmp_path, suffix):
    """An error of one line, or an image of the right size: never anything else."""
    rng = np.random.default_rng(1)
    for place in rng.integers(0, len(IMAGES[suffix]), 60):
        content = bytearray(IMAGES[suffix])
        content[place] ^= int(rng.integers(1, 256))
        try:
            (found,) = load(folder(tmp_path, image=bytes(content), suffixes=(suffix, ".png")))
        except DataError as error:
            lines = str(error).splitlines()
        else:
            lines = ["fine"]
            assert found.images.shape == (*SIZE, 3)
        assert len(lines) == 1


def png(width, height, rows=b""):
    """A PNG file whose header says a size, with the rows given."""

    def chunk(kind, data):
        end = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + end

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


@pytest.mark.parametrize("place", ["image", "mask"])
def test_decompression_bomb(tmp_path, capfd, place):
    """Ten gigapixels in some kilobytes are not decoded."""
    bomb = png(100_000, 100_000, b"\0" * 10_000)
    message = complaint(folder(tmp_path, **{place: bomb}), capfd)
    assert f"{place}s/a.png" in message
    assert "bomb" in message


def test_sizes_that_a_tiff_file_lies_about(tmp_path, capfd):
    """Of a stack of pages that would take terabytes, none is taken."""
    import tifffile

    path = tmp_path / "x.tif"
    tifffile.imwrite(path, np.zeros((5, *SIZE), np.uint8), photometric="minisblack")
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        for page in file.pages:
            for tag in ("ImageWidth", "ImageLength"):
                place = page.tags[tag].valueoffset
                content[place : place + 4] = struct.pack("<I", 2_000_000_000)
    config = folder(tmp_path, image=bytes(content), suffixes=(".tif", ".png"))
    assert "images/a.tif" in complaint(config, capfd)


def test_inks_become_colours(tmp_path):
    """CMYK as Pillow converts it."""
    inks = Image.fromarray(IMAGE).convert("CMYK")
    content = encoded(inks, "JPEG", quality=95)
    (found,) = load(folder(tmp_path, image=content, suffixes=(".jpg", ".png")))
    with Image.open(io.BytesIO(content)) as picture:
        np.testing.assert_array_equal(found.images, np.asarray(picture.convert("RGB")))


def test_16_bits_say_what_to_set(tmp_path, capfd):
    wide = RNG.integers(0, 2**16, SIZE, np.uint16)
    message = complaint(folder(tmp_path, image=encoded(wide, "PNG")), capfd)
    assert "uint16" in message
    assert "data.bits=16" in message


@pytest.mark.parametrize("size", [(24, 31), (1, 1), (32, 24)])
def test_masks_of_another_size(tmp_path, capfd, size):
    config = folder(tmp_path, mask=encoded(np.zeros(size, np.uint8), "PNG"))
    message = complaint(config, capfd)
    assert f"the image is 24x32, but its mask {size[0]}x{size[1]}" in message


@pytest.mark.parametrize(
    "name",
    ["with space", "größe", "画像", "a.b.c", "100%", "[1]", "it's", "-x", " lead", "\U0001f9a0"],
)
def test_names_of_any_letters(tmp_path, name):
    (found,) = load(folder(tmp_path, name=name))
    np.testing.assert_array_equal(found.images, IMAGE)
    np.testing.assert_array_equal(found.labels, MASK)


def test_names_that_are_no_text(tmp_path):
    """A name in another encoding than the file system's is still a name."""
    config = folder(tmp_path)
    for place in ("images", "masks"):
        os.rename(
            os.fsencode(tmp_path / place / "a.png"), os.fsencode(tmp_path / place) + b"/\xe4.png"
        )
    (found,) = load(config)
    np.testing.assert_array_equal(found.labels, MASK)


def test_links_are_what_they_point_to(tmp_path):
    """Also out of the folder, as people link data sets together."""
    config = folder(tmp_path / "far")
    near = tmp_path / "near"
    for place in ("images", "masks"):
        (near / place).mkdir(parents=True)
        (near / place / "b.png").symlink_to(tmp_path / "far" / place / "a.png")
    (found,) = load(folder_of(config, near))
    np.testing.assert_array_equal(found.images, IMAGE)


def folder_of(config, root):
    return Data(
        name="folder",
        root=str(root),
        image=config.image,
        label=config.label,
        channels=config.channels,
        image_size=config.image_size,
    )


@pytest.mark.parametrize("target", ["nowhere.png", "b.png"])
def test_links_to_nothing(tmp_path, capfd, target):
    """To a file that is gone, or to itself; they are not left out in silence."""
    config = folder(tmp_path)
    (tmp_path / "images" / "b.png").symlink_to(target)
    message = complaint(config, capfd)
    assert "images/b.png is a link" in message


def test_pipes_are_not_waited_for(tmp_path):
    """What is no file is no image."""
    config = folder(tmp_path)
    os.mkfifo(tmp_path / "images" / "b.png")
    (tmp_path / "images" / "c.png").mkdir()
    assert len(load(config)) == 1


def test_files_that_may_not_be_read(tmp_path, capfd):
    if os.geteuid() == 0:
        # Nothing is forbidden to root, but a file may vanish, which is read with the same error.
        config = folder(tmp_path)
        source = open_source(config, "[:]")
        pathlib.Path(tmp_path / "images" / "a.png").unlink()
        with pytest.raises(DataError, match=r"images/a\.png can't be read"):
            make_loader(source, config)(0)
        return
    config = folder(tmp_path)
    (tmp_path / "images" / "a.png").chmod(0)
    assert "images/a.png" in complaint(config, capfd)
