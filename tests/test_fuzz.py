"""Files as they come: cut short, empty, of odd kinds and names. One clear line, or it works."""

import dataclasses
import gzip
import io
import os
import pathlib
import re
import struct
import zipfile
import zlib

import nibabel
import numpy as np
import pytest
import tensorflow_datasets as tfds
import tifffile
from PIL import Image
from rich.console import Console

from jaxseg.config import Config, Data
from jaxseg.data import DataError, files, make_loader, open_source
from jaxseg.data.inspection import inspect
from jaxseg.report import Report
from jaxseg.train import train

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


@ODD_TAGS
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("shape", "photometric", "dtype"),
    [(SIZE, "miniswhite", np.int16), ((3, *SIZE), "minisblack", np.uint8)],
)
def test_any_byte_of_a_tiff_file_may_be_wrong(tmp_path, shape, photometric, dtype):
    """Also of those that Pillow does not know; as an image and as a mask."""
    path, rng = tmp_path / "a.tif", np.random.default_rng(0)
    tifffile.imwrite(path, np.ones(shape, dtype), photometric=photometric)
    content, refused = path.read_bytes(), []
    for _ in range(200):
        changed = bytearray(content)
        changed[rng.integers(300)] = rng.integers(256)
        path.write_bytes(changed)
        for read in (files.read_image, files.read_mask):
            try:
                read(path)
            except DataError as error:
                refused.append(str(error))
    assert len(refused) > 20
    assert all(str(path) in line for line in refused)


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


@pytest.mark.parametrize("place", ["image", "mask"])
def test_pages_of_a_tiff_file_are_counted_first(tmp_path, capfd, place, monkeypatch):
    monkeypatch.setattr(files, "_MOST_VALUES", 5 * SIZE[0] * SIZE[1] - 1)
    pages = [Image.fromarray(MASK)] * 5
    contents = {"image": IMAGES[".tif"], "mask": MASKS[".tif"]}
    contents[place] = encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    config = folder(tmp_path, **contents, suffixes=(".tif", ".tif"))
    assert f"{place}s/a.tif says that it holds [5, 24, 32]" in complaint(config, capfd)


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


def volume(*sides):
    """A NIfTI file of 64 bytes whose header says a size."""
    content = bytearray(nibabel.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.eye(4)).to_bytes())
    struct.pack_into("<4h", content, 40, 3, *sides)
    return bytes(content)


@pytest.mark.parametrize("place", ["image", "mask"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("sides", [(32_000, 32_000, 32_000), (0, 4, 4)])
def test_volumes_that_lie_about_their_size(tmp_path, capfd, place, suffix, sides):
    """Of terabytes, and of nothing at all."""
    contents = {"image": volume(4, 4, 4), "mask": volume(4, 4, 4), place: volume(*sides)}
    if suffix == ".nii.gz":
        contents = {name: gzip.compress(content) for name, content in contents.items()}
    config = folder(tmp_path, **contents, suffixes=(suffix, suffix))
    config = dataclasses.replace(config, channels=1, image_size=(4, 4, 4))
    message = complaint(config, capfd)
    assert f"{place}s/a{suffix}" in message
    wanted = "is empty" if 0 in sides else "says that it holds [32000, 32000, 32000], which is more"
    assert wanted in message


def archive(name, content):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr(name, content)
    return stream.getvalue()


def claim(*shape):
    """A NumPy file that says a shape, and ends there."""
    stream = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue()


@pytest.mark.parametrize("masks", ["shares", "votes"])
@pytest.mark.parametrize(
    ("suffix", "content", "wanted"),
    [
        (".npz", archive("x.npy", claim(*SIZE, 2**23)), "says that it holds [24, 32, 8388608]"),
        (".npz", archive("x.npy", claim(*SIZE, 2**70)), "says that it holds"),
        (".npz", archive("x.npy", claim(*SIZE, 2**22)), "can't be read as a mask"),
        (".npz", archive("x.npy", claim(*SIZE)[:9]), "can't be read as a mask"),
        (".npz", archive("x.txt", b"hello"), "holds the file x.txt"),
        (".npz", archive("x.npy", claim(0, *SIZE)), "is empty, [0, 24, 32]"),
        (".npy", claim(*SIZE, 2**70), "can't be read as a mask"),
        (".npy", claim(*SIZE, 0), "is empty, [24, 32, 0]"),
    ],
)
def test_arrays_that_are_none(tmp_path, capfd, masks, suffix, content, wanted):
    config = folder(tmp_path, mask=content, suffixes=(".png", suffix))
    message = complaint(dataclasses.replace(config, masks=masks), capfd)
    assert f"masks/a{suffix} {wanted}" in message


@pytest.mark.parametrize("place", ["image", "mask"])
def test_arrays_of_no_pixels(tmp_path, capfd, place):
    content = arrays(np.zeros((0, SIZE[1]), np.uint8))
    config = folder(tmp_path, **dict.fromkeys(("image", "mask"), content), suffixes=(".npy",) * 2)
    if place == "mask":
        (tmp_path / "images" / "a.npy").write_bytes(IMAGES[".npy"])
    assert f"{place}s/a.npy is empty, [0, 32]" in complaint(config, capfd)


@pytest.mark.parametrize("place", ["image", "mask"])
def test_arrays_of_more_values_than_are_read(tmp_path, capfd, place, monkeypatch):
    """Of NumPy files, which are mapped into memory and have to be as long as they say."""
    monkeypatch.setattr(files, "_MOST_VALUES", SIZE[0] * SIZE[1])
    contents = {"image": arrays(MASK), "mask": arrays(MASK), place: arrays(IMAGE)}
    config = folder(tmp_path, **contents, suffixes=(".npy",) * 2)
    assert f"{place}s/a.npy says that it holds [24, 32, 3]" in complaint(config, capfd)


def test_images_in_formats_that_are_not_read(tmp_path, capfd):
    """They are not left out in silence, unless the names are listed."""
    config = folder(tmp_path)
    for name in "abc":
        (tmp_path / "masks" / f"{name}.png").write_bytes(MASKS[".png"])
    assert len(load(config)) == 1  # of b and c there is nothing
    (tmp_path / "images" / "b.webp").write_bytes(encoded(IMAGE, "WEBP"))
    message = complaint(config, capfd)
    assert "1 of the 3 masks have no image that is read, 'b' first" in message
    assert f"{tmp_path / 'images' / 'b.webp'}; images end in .png, .jpg" in message
    (tmp_path / "list.txt").write_text("a")
    assert len(load(dataclasses.replace(config, listing="list.txt"))) == 1


@pytest.mark.parametrize(
    ("suffix", "content", "wanted"),
    [
        (".npy", arrays(IMAGE), "no picture"),
        (".nii", volume(4, 4, 4), "no picture"),
        (".png", encoded(MASK.astype(np.uint16), "PNG"), "mode I;16"),
        (".tif", encoded(Image.new("CMYK", SIZE[::-1]), "TIFF"), "mode CMYK"),
    ],
)
def test_masks_that_have_no_colours(tmp_path, capfd, suffix, content, wanted):
    config = folder(tmp_path, mask=content, suffixes=(".png", suffix))
    message = complaint(dataclasses.replace(config, colours=((0, 0, 0), (255, 0, 0))), capfd)
    assert f"masks/a{suffix} is " in message
    assert wanted in message
    assert "data.colours" in message


def example_of_tfds(mask, **fields):
    """What is loaded of a data set of one example."""
    examples = [{"image": IMAGE, "segmentation_mask": mask}]
    config = Data(name="oxford_iiit_pet", channels=3, image_size=SIZE, **fields)
    with tfds.testing.mock_data(as_data_source_fn=lambda self, split: examples):
        return make_loader(open_source(config, "train"), config)(0)


def test_tfds_masks_alike_in_their_last_axis():
    """Black is a colour, and no vote is one of each annotator: neither is grey decoded as RGB."""
    black = np.zeros((*SIZE, 3), np.uint8)
    found = example_of_tfds(black, colours=((255, 0, 0), (0, 0, 0)))
    np.testing.assert_array_equal(found.labels, np.ones(SIZE))
    found = example_of_tfds(np.zeros((5, *SIZE), np.uint8), masks="votes")
    np.testing.assert_array_equal(found.labels, np.broadcast_to([5, 0], (*SIZE, 2)))
    found = example_of_tfds(np.full((*SIZE, 2), 3, np.uint8), masks="shares")
    np.testing.assert_array_equal(found.labels, np.full((*SIZE, 2), 3))
    found = example_of_tfds(np.repeat(MASK[..., None], 3, -1), masks="instances")
    np.testing.assert_array_equal(found.labels, MASK)


@pytest.mark.parametrize("shape", [SIZE, (*SIZE, 1), (*SIZE, 4)])
def test_tfds_masks_that_have_no_colours(shape):
    with pytest.raises(DataError, match=r"example 0: segmentation_mask is uint8.*data\.colours"):
        example_of_tfds(np.zeros(shape, np.uint8), colours=((255, 0, 0), (0, 0, 0)))


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"channels": 0}, "data.channels is 0, but must be at least 1"),
        ({"channels": -1}, "data.channels is -1, but must be at least 1"),
        ({"label_map": ((0, 0), (10**20, 1))}, f"data.label_map has (10{'0' * 19}, 1)"),
        ({"label_map": ((-(2**63) - 1, 0),)}, "data.label_map has (-9223372036854775809, 0)"),
        ({"mean": (NAN,), "std": (1.0,)}, "data.mean is (nan,), but must be finite"),
        ({"mean": (0.5,), "std": (NAN,)}, "data.std is (nan,), but must be finite"),
        ({"mean": (0.5,), "std": (INF,)}, "data.std is (inf,), but must be finite"),
        ({"mean": (0.5,), "std": (-1.0,)}, "std is (-1.0,), but must be positive"),
        ({"value_range": (0.0, INF)}, "data.value_range is (0.0, inf), but must be finite"),
        ({"value_range": (-INF, 0.0)}, "data.value_range is (-inf, 0.0), but must be finite"),
        ({"name": "folder", "masks": "panoptic"}, 'data.masks="panoptic" is for'),
    ],
)
def test_numbers_that_make_no_data(tmp_path, fields, wanted):
    with pytest.raises(ValueError, match=re.escape(wanted)):
        train(Config(data=Data(**fields)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("seed", [-1, 2**63, 2**70])
def test_seeds_that_are_none(tmp_path, seed):
    with pytest.raises(ValueError, match=f"seed is {seed}, but must be"):
        train(Config(seed=seed), tmp_path / "run")


def test_names_that_are_no_text_go_everywhere(tmp_path):
    """Into splits by hash, the cache, an inspection and the list of what was skipped."""
    for i in range(6):
        name = os.fsdecode(b"caf\xe9%d.png" % i)
        for folder in ("images", "masks"):
            (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / "images" / name).write_bytes(IMAGES[".png"] if i else b"")
        Image.fromarray(MASK).save(tmp_path / "masks" / name)
    fields = {"image": "images", "label": "masks", "channels": 3, "image_size": SIZE}
    fields |= {"split_by": "hash", "unreadable": "skip", "cache": str(tmp_path / "cache")}
    config = Data(name="folder", root=str(tmp_path), train_split="[:]", eval_split="[:]", **fields)
    source, skipped = open_source(config, "[:]"), []
    load = make_loader(source, config, on_skip=skipped.append)
    assert sum(bool(load(index).where.any()) for index in range(6)) == 5
    report = Report(tmp_path, Console(file=io.StringIO()), Config(), start=0)
    report.skipped(*skipped)
    report.close()
    assert "caf\\udce90.png" in (tmp_path / "skipped.txt").read_text()
    lines = [x.line for x in inspect(config).findings if x.kind == "skipped"]
    assert len(lines) == 2
    assert all("caf\\udce90.png" in line for line in lines)
