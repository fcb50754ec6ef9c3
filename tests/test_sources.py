"""Folders of every form: CSV tables, colours, annotators, many channels, volumes."""

import csv
import os
import pathlib
import struct
import zlib

import cv2
import nibabel
import numpy as np
import pytest
import scipy.io
import tensorflow_datasets as tfds
import tifffile
from PIL import Image

from jaxseg.config import Data
from jaxseg.data import DataError, files, make_loader, open_source, preparation

RNG = np.random.default_rng(0)
SIZE = (10, 14)
INTEGERS = (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32)


def config(root, **fields):
    usual = {"image": "images", "label": "masks", "channels": 3, "image_size": SIZE}
    return Data(**{"name": "folder", "root": str(root), **usual, **fields})


def save(path, array, **options):
    """By the kind that the name ends in; returns the array."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez_compressed(path, masks=array)
    elif path.name.endswith((".nii", ".nii.gz")):
        affine = np.diag([*options.pop("spacing", (1, 1, 1)), 1])
        nibabel.save(nibabel.Nifti1Image(array, affine), path)
    elif path.suffix == ".tif" and options:
        tifffile.imwrite(path, array, **options)
    else:
        Image.fromarray(array).save(path)
    return array


def image(*size, channels=3, dtype=np.uint8):
    high = np.iinfo(dtype).max + 1
    return RNG.integers(0, high, (*(size or SIZE), channels), dtype)


def mask(*size, high=2):
    return RNG.integers(0, high, size or SIZE, np.uint8)


def loaded(config, split="[:]"):
    """All examples of a split, as they reach the device."""
    source = open_source(config, split)
    load = make_loader(source, config)
    return [load(index) for index in range(len(source))]


def complaint(config, split="[:]"):
    """The one line that reading a split ends with."""
    with pytest.raises(DataError) as caught:
        loaded(config, split)
    message = str(caught.value)
    assert "\n" not in message
    return message


# CSV tables.


def table(root, rows, name="index.csv", **options):
    with (root / name).open("w", newline="", **options) as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def tabled(root):
    """Six images of three patients, in files of any names and places."""
    rows, pairs = [], []
    for i in range(6):
        row = {"image": f"scan {i}/Bild ä.png", "mask": f"truth/{i}.png"}
        row |= {"split": "test" if i > 3 else "train", "group": f"patient {i // 2}"}
        pairs.append((save(root / row["image"], image()), save(root / row["mask"], mask())))
        rows.append(row)
    return rows, pairs


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_csv_pairs_splits_and_groups(tmp_path, encoding):
    rows, pairs = tabled(tmp_path)
    table(tmp_path, rows, encoding=encoding)
    page = config(tmp_path, listing="index.csv")
    for split, wanted in (
        ("train", (0, 1, 2, 3)),
        ("test", (4, 5)),
        ("[:34%]", (0, 1)),
        ("[-2/3]", (0, 1, 4, 5)),
        ("train[1/2]", (0, 1)),
    ):
        found = loaded(page, split)
        assert len(found) == len(wanted), split
        for example, i in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(example.images, pairs[i][0])
            np.testing.assert_array_equal(example.labels, pairs[i][1])


@pytest.mark.parametrize(
    ("change", "split", "part"),
    [
        (lambda row: {"image": row["image"]}, "train", "needs image and mask"),
        (lambda row: row | {"mask": "nowhere.png"}, "train", "names the mask 'nowhere.png'"),
        (lambda row: {k: row[k] for k in ("image", "mask")}, "train", "no column named split"),
        (lambda row: row, "validation", "has the splits train, test, but not 'validation'"),
    ],
)
def test_csv_that_can_not_be_used(tmp_path, change, split, part):
    rows, _ = tabled(tmp_path)
    table(tmp_path, [change(row) for row in rows])
    message = complaint(config(tmp_path, listing="index.csv"), split)
    assert part in message
    assert "index.csv" in message


def test_csv_that_is_no_text(tmp_path):
    tabled(tmp_path)
    (tmp_path / "index.csv").write_bytes(b"\xff\xfe\x00image")
    assert "is not text in UTF-8" in complaint(config(tmp_path, listing="index.csv"))


def test_hash_and_group_of_names(tmp_path):
    """Slices of one patient are never on both sides."""
    for i in range(24):
        name = f"p{i // 4}_slice{i}.png"
        save(tmp_path / "images" / name, image())
        save(tmp_path / "masks" / name, mask())
    page = config(tmp_path, split_by="hash", group=r"p\d+")
    sides = [open_source(page, split) for split in ("[-1/2]", "[1/2]")]
    names = [[pathlib.Path(x.name(i)).name for i in range(len(x))] for x in sides]
    assert len(names[0]) + len(names[1]) == 24
    assert not {x.split("_")[0] for x in names[0]} & {x.split("_")[0] for x in names[1]}


# Colours, annotators, shares.


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours(tmp_path, mode):
    colours = np.array([(0, 0, 0), (250, 10, 20), (30, 40, 200)], np.uint8)
    indices = mask(high=3)
    save(tmp_path / "images" / "a.png", image())
    (tmp_path / "masks").mkdir()
    picture = Image.fromarray(indices if mode == "P" else colours[indices])
    if mode == "P":
        picture.putpalette(colours.tobytes())
    picture.convert(mode).save(tmp_path / "masks" / "a.png")
    page = config(tmp_path, classes=("a", "b", "c"), colours=tuple(map(tuple, colours.tolist())))
    (found,) = loaded(page)
    np.testing.assert_array_equal(found.labels, indices)


def votes(masks, classes=2):
    return np.stack([(masks == label).sum(0) for label in range(classes)], -1)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".tif"])
def test_annotators_in_one_file(tmp_path, suffix):
    save(tmp_path / "images" / "a.png", image())
    masks = mask(3, *SIZE)
    options = {"photometric": "minisblack"} if suffix == ".tif" else {}
    save(tmp_path / "masks" / f"a{suffix}", masks, **options)
    (found,) = loaded(config(tmp_path, masks="votes"))
    np.testing.assert_array_equal(found.labels, votes(masks))
    assert found.labels.dtype == np.uint8


def test_annotators_in_folders(tmp_path):
    save(tmp_path / "images" / "a.png", image())
    masks = mask(3, *SIZE)
    for name, each in zip("xyz", masks, strict=True):
        save(tmp_path / "raters" / name / "a.png", each)
    (found,) = loaded(config(tmp_path, masks="votes", label="raters/{rater}"))
    np.testing.assert_array_equal(found.labels, votes(masks))
    message = complaint(config(tmp_path, label="raters/{rater}"))
    assert 'data.masks is "classes"; set it to "votes"' in message
    assert "matches no directory" in complaint(
        config(tmp_path, masks="votes", label="nobody/{rater}")
    )
    save(tmp_path / "raters" / "y" / "a.png", mask(4, 4))
    assert "annotators differ in size" in complaint(
        config(tmp_path, masks="votes", label="raters/{rater}")
    )


def test_annotators_of_berkeley(tmp_path):
    save(tmp_path / "images" / "a.png", image())
    masks = mask(2, *SIZE)
    each = np.empty((1, 2), object)
    for i in range(2):
        each[0, i] = {"Segmentation": masks[i] + np.uint16(1), "Boundaries": masks[i]}
    (tmp_path / "masks").mkdir()
    scipy.io.savemat(tmp_path / "masks" / "a.mat", {"groundTruth": each})
    (found,) = loaded(config(tmp_path, masks="votes"))
    np.testing.assert_array_equal(found.labels, votes(masks))


def test_annotators_scaled_down(tmp_path):
    """The mean of their shares, in 255ths: a thin line of few gets fainter, not lost."""
    save(tmp_path / "images" / "a.png", image(20, 28))
    masks = mask(5, 20, 28)
    masks[:, :4] = 255
    masks[:3, 4:6] = 255
    save(tmp_path / "masks" / "a.npy", masks)
    (found,) = loaded(config(tmp_path, masks="votes"))
    counts = votes(masks)
    shares = counts / np.maximum(counts.sum(-1, keepdims=True), 1)
    expected = shares.reshape(10, 2, 14, 2, 2).mean((1, 3))
    np.testing.assert_allclose(found.labels / 255, expected, atol=0.5 / 255 + 1e-6)
    np.testing.assert_array_equal(found.where.any(1), np.arange(10) >= 2)


def test_shares_scaled_down(tmp_path):
    """Averages of shares; every pixel weighs the same, whatever its amounts."""
    save(tmp_path / "images" / "a.png", image(20, 28))
    amounts = RNG.integers(1, 100, (20, 28, 2)).astype(np.uint8)
    save(tmp_path / "masks" / "a.npy", amounts)
    (found,) = loaded(config(tmp_path, masks="shares"))
    shares = amounts / amounts.sum(-1, keepdims=True)
    expected = shares.reshape(10, 2, 14, 2, 2).mean((1, 3))
    np.testing.assert_allclose(found.labels, expected, atol=1e-3)


@pytest.mark.parametrize(
    ("masks", "name", "array", "part"),
    [
        ("votes", "a.npy", np.zeros(SIZE, np.uint8), "[annotators, height, width]"),
        ("votes", "a.npy", np.zeros((2, *SIZE)), "integer type"),
        ("votes", "a.npy", np.zeros((2, 9, 9), np.uint8), "its mask 9x9"),
        ("shares", "a.png", np.zeros(SIZE, np.uint8), ".npy or .npz"),
        ("shares", "a.npy", np.zeros((*SIZE, 3)), "last axis of 2"),
    ],
)
def test_soft_masks_that_can_not_be_used(tmp_path, masks, name, array, part):
    save(tmp_path / "images" / "a.png", image())
    save(tmp_path / "masks" / name, array)
    message = complaint(config(tmp_path, masks=masks))
    assert part in message
    assert f"masks/{name}" in message


# Images of other kinds.


@pytest.mark.parametrize("compression", ["zlib", None])
@pytest.mark.parametrize("planar", [True, False])
def test_tiff_of_many_channels(tmp_path, planar, compression):
    pixels = image(channels=7)
    stored = pixels.transpose(2, 0, 1) if planar else pixels
    options = {"planarconfig": "separate" if planar else "contig", "photometric": "minisblack"}
    save(tmp_path / "images" / "a.tif", stored, compression=compression, **options)
    save(tmp_path / "masks" / "a.png", mask())
    (found,) = loaded(config(tmp_path, channels=7))
    np.testing.assert_array_equal(found.images, pixels)
    assert "set --config.data.channels=7" in complaint(config(tmp_path))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits(tmp_path, suffix, channels):
    """All of them reach the device, and 8 bits are stretched to the same range."""
    pixels = image(channels=channels, dtype=np.uint16)
    (tmp_path / "images").mkdir()
    if suffix == ".npy":
        save(tmp_path / "images" / "a.npy", pixels)
    else:
        assert cv2.imwrite(str(tmp_path / "images" / f"a{suffix}"), pixels[..., ::-1])
    small = save(tmp_path / "images" / "b.png", image()[..., 0])
    for name in "ab":
        save(tmp_path / "masks" / f"{name}.png", mask())
    found = loaded(config(tmp_path, channels=channels, bits=16))
    np.testing.assert_array_equal(found[0].images, pixels)
    wide = np.repeat(small[..., None], channels, -1).astype(int)
    np.testing.assert_array_equal(found[1].images, wide * 257)


def test_values_of_any_range(tmp_path):
    """Floats are cut at the range and stretched to 0..1; what is no number is the least."""
    pixels = RNG.normal(100, 50, (*SIZE, 2)).astype(np.float32)
    pixels[0, 0] = np.nan
    save(tmp_path / "images" / "a.npy", pixels)
    save(tmp_path / "masks" / "a.png", mask())
    page = {"channels": 2, "bits": 16}
    (found,) = loaded(config(tmp_path, **page, value_range=(50.0, 150.0)))
    expected = np.nan_to_num(np.clip((pixels - 50) / 100, 0, 1))
    np.testing.assert_allclose(found.images / 65535, expected, atol=1e-5)
    (found,) = loaded(config(tmp_path, **page, value_percentiles=(1.0, 99.0)))
    low, high = np.nanpercentile(pixels, (1, 99))
    expected = np.nan_to_num(np.clip((pixels - low) / (high - low), 0, 1))
    np.testing.assert_allclose(found.images / 65535, expected, atol=1e-5)
    message = complaint(config(tmp_path, **page))
    assert "float32, but must be uint16" in message
    assert "data.value_percentiles" in message


@pytest.mark.parametrize(
    ("low", "dtype"), [(2.0**31, np.uint32), (1e9, np.float64), (1e9, np.int64)]
)
def test_values_far_from_0(tmp_path, low, dtype):
    """Where float32 tells none of them apart, float64 does."""
    pixels = (low + RNG.integers(0, 101, SIZE)).astype(dtype)
    save(tmp_path / "images" / "a.npy", pixels)
    save(tmp_path / "masks" / "a.png", mask())
    (found,) = loaded(config(tmp_path, channels=1, bits=16, value_range=(low, low + 100)))
    expected = (pixels.astype(np.float64) - low) / 100
    np.testing.assert_allclose(found.images[..., 0] / 65535, expected, atol=1e-5)


def test_percentiles_of_finite_values(tmp_path):
    pixels = RNG.random((*SIZE, 1)).astype(np.float32)
    pixels[0, 0], pixels[0, 1], pixels[0, 2] = np.inf, -np.inf, np.nan
    save(tmp_path / "images" / "a.npy", pixels)
    save(tmp_path / "masks" / "a.png", mask())
    page = {"channels": 1, "bits": 16, "value_percentiles": (0.0, 100.0)}
    (found,) = loaded(config(tmp_path, **page))
    assert found.images[0, :3, 0].tolist() == [65535, 0, 0]
    finite = np.isfinite(pixels)
    low, high = pixels[finite].min(), pixels[finite].max()
    expected = (pixels[finite] - low) / (high - low)
    np.testing.assert_allclose(found.images[finite] / 65535, expected, atol=1e-5)


# Volumes.

VOLUME = (6, 8, 5)


def volumes(root, suffix, shape=VOLUME, **options):
    """A volume and its mask; a TIFF file's pages are the first axis."""
    if suffix == ".tif":
        options = {"photometric": "minisblack"}
    pixels = save(root / "images" / f"a{suffix}", image(*shape, channels=1)[..., 0], **options)
    return pixels, save(root / "masks" / f"a{suffix}", mask(*shape, high=3), **options)


def of_volumes(root, **fields):
    usual = {"channels": 1, "classes": ("a", "b", "c"), "image_size": (8, 8, 8)}
    return config(root, **{**usual, **fields})


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".npy", ".tif"])
def test_volumes(tmp_path, suffix):
    """They are padded behind, and their sizes are told."""
    pixels, labels = volumes(tmp_path, suffix)
    (found,) = loaded(of_volumes(tmp_path))
    inside = tuple(map(slice, VOLUME))
    assert found.images.shape == (8, 8, 8, 1)
    np.testing.assert_array_equal(found.images[inside][..., 0], pixels)
    np.testing.assert_array_equal(found.labels[inside], labels)
    assert found.where.sum() == found.where[inside].sum() == pixels.size
    assert found.sizes.tolist() == list(VOLUME)


def test_volumes_of_other_spacing(tmp_path):
    """Resampled so that a place in millimetres stays where it is."""
    shape = (10, 12, 8)
    ramp = np.broadcast_to(np.arange(10)[:, None, None] * 20.0, shape).astype(np.uint8)
    save(tmp_path / "images" / "a.nii.gz", ramp, spacing=(2, 1, 1))
    labels = save(
        tmp_path / "masks" / "a.nii.gz", (ramp >= 100).astype(np.uint8), spacing=(2, 1, 1)
    )
    (found,) = loaded(of_volumes(tmp_path, spacing=(1.0, 1.0, 2.0), image_size=(20, 12, 4)))
    assert found.sizes.tolist() == [20, 12, 4]
    # The centre of pixel i of the result lies at (i + 1/2) mm, pixel (i + 1/2) / 2 - 1/2 of old.
    place = np.clip((np.arange(20) + 0.5) / 2 - 0.5, 0, 9)
    np.testing.assert_allclose(found.images[:, 3, 2, 0], place * 20, atol=0.51)
    np.testing.assert_array_equal(found.labels[:, 3, 2], labels[:, 0, 0].repeat(2))
    nothing = of_volumes(tmp_path, spacing=(1.0, 1.0, 1.0), image_size=(8, 8, 8))
    for place in ("images", "masks"):
        os.remove(tmp_path / place / "a.nii.gz")
    volumes(tmp_path, ".npy")
    assert "don't say the spacing" in complaint(nothing)


def test_spacing_of_image_and_mask_must_agree(tmp_path):
    save(tmp_path / "images" / "a.nii", image(*VOLUME, channels=1)[..., 0], spacing=(1, 1, 2))
    save(tmp_path / "masks" / "a.nii", mask(*VOLUME), spacing=(1, 1, 1))
    message = complaint(of_volumes(tmp_path))
    assert "has pixels of (1.0, 1.0, 2.0)" in message
    assert "they must agree" in message


def test_large_volumes_are_scaled_down(tmp_path):
    volumes(tmp_path, ".npy", (16, 12, 8))
    (found,) = loaded(of_volumes(tmp_path))
    assert found.sizes.tolist() == [8, 6, 4]
    assert found.where.sum() == 8 * 6 * 4


@pytest.mark.parametrize(
    ("size", "suffix", "part"),
    [
        (VOLUME, ".png", "is one picture, but data.image_size has 3 numbers"),
        ((2, *VOLUME, 1), ".npy", "an image needs numbers and 3 axes"),
    ],
)
def test_what_is_no_volume(tmp_path, size, suffix, part):
    array = image(*size, channels=1)
    save(tmp_path / "images" / f"a{suffix}", array[0, ..., 0] if suffix == ".png" else array)
    save(tmp_path / "masks" / "a.npy", mask(*VOLUME))
    assert part in complaint(of_volumes(tmp_path))


# tensorflow-datasets.


class TinyPanoptic(tfds.core.GeneratorBasedBuilder):
    """The features of coco/2017_panoptic that are read, and two images."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        objects = {"id": np.int64, "label": tfds.features.ClassLabel(num_classes=3)}
        features = {
            "image": tfds.features.Image(),
            "panoptic_image": tfds.features.Image(),
            "panoptic_objects": tfds.features.Sequence({**objects, "is_crowd": np.bool_}),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), description=""
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for key, which in enumerate(WHICH):
            ids = np.append(IDS, 9 if key else 0)[which]
            colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
            crowds = [False, False, True]
            objects = zip(IDS.tolist(), [2, 0, 1], crowds, strict=True)
            names = ("id", "label", "is_crowd")
            yield (
                key,
                {
                    "image": Image.fromarray(image()),
                    "panoptic_image": Image.fromarray(colours),
                    "panoptic_objects": [dict(zip(names, x, strict=True)) for x in objects],
                },
            )


IDS = np.array([70_000, 300, 5])
WHICH = RNG.integers(0, 4, (2, *SIZE))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The page of the data set, prepared under the name of one whose code needs TensorFlow."""
    root = tmp_path_factory.mktemp("tiny")
    TinyPanoptic(data_dir=root, file_format="array_record").download_and_prepare()
    theirs = root / "coco" / "2017_panoptic" / "1.1.0"
    theirs.mkdir(parents=True)
    for path in (root / "tiny_panoptic" / "1.0.0").iterdir():
        content = path.read_bytes()
        if path.suffix == ".json":
            content = content.replace(b"tiny_panoptic", b"coco").replace(b"1.0.0", b"1.1.0")
        (theirs / path.name.replace("tiny_panoptic", "coco")).write_bytes(content)
    return Data(
        name="coco/2017_panoptic",
        root=str(root),
        label="panoptic_image",
        masks="panoptic",
        classes=("a", "b", "c"),
        ignore_label=-1,
        channels=3,
        image_size=SIZE,
    )


def test_tfds_panoptic(tiny):
    """The class of each segment; what is none, and crowds, do not count."""
    found = make_loader(open_source(tiny, "train"), tiny)(0)
    np.testing.assert_array_equal(found.where, WHICH[0] < 2)
    np.testing.assert_array_equal(found.labels, np.array([2, 0, 0, 0])[WHICH[0]])


def test_tfds_panoptic_of_unknown_segments(tiny):
    with pytest.raises(DataError, match="example 1: the id 9 of a segment"):
        loaded(tiny, "train")


def test_tfds_that_needs_tensorflow(tmp_path):
    """How to prepare it elsewhere, once, is said in one line."""
    page = Data(name="coco/2017_panoptic", root=str(tmp_path))
    with pytest.raises(DataError) as caught:
        open_source(page, "train")
    message = str(caught.value)
    assert "\n" not in message
    for part in ("No module named 'tensorflow'", "tfds build coco/2017_panoptic", "pip install"):
        assert part in message


def test_volumes_must_point_one_way(tmp_path):
    """A mask that was saved mirrored is no mask of the image as it lies in the file."""
    volumes(tmp_path, ".nii")
    labels = nibabel.load(tmp_path / "masks" / "a.nii")
    mirrored = nibabel.Nifti1Image(np.asarray(labels.dataobj)[::-1], np.diag([-1, 1, 1, 1]))
    nibabel.save(mirrored, tmp_path / "masks" / "a.nii")
    message = complaint(of_volumes(tmp_path))
    assert "has axes that point to RAS" in message
    assert "LAS" in message


def test_volumes_with_an_axis_of_one(tmp_path):
    """As some programs write them: four axes, of which the last has one entry."""
    pixels, labels = (x[..., None] for x in volumes(tmp_path, ".npy"))
    for place, array in (("images", pixels), ("masks", labels)):
        os.remove(tmp_path / place / "a.npy")
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / place / "a.nii.gz")
    (found,) = loaded(of_volumes(tmp_path))
    inside = tuple(map(slice, VOLUME))
    np.testing.assert_array_equal(found.images[inside], pixels)
    np.testing.assert_array_equal(found.labels[inside], labels[..., 0])


def test_volumes_of_no_spacing(tmp_path):
    volumes(tmp_path, ".nii")
    volume = nibabel.load(tmp_path / "images" / "a.nii")
    content = bytearray((tmp_path / "images" / "a.nii").read_bytes())
    assert volume.header["pixdim"][3] == 1
    content[76 + 4 * 3 : 76 + 4 * 4] = np.float32(np.nan).tobytes()  # pixdim[3]
    (tmp_path / "images" / "a.nii").write_bytes(content)
    assert "images/a.nii has pixels of (1.0, 1.0, nan)" in complaint(of_volumes(tmp_path))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_masks_of_few_bits(tmp_path, bits):
    """The values of a PNG file as they are stored, not stretched to 8 bits."""
    values = np.arange(16, dtype=np.uint8).reshape(2, 8) % 2**bits
    rows = np.packbits(
        np.unpackbits(values[..., None], axis=-1)[..., 8 - bits :].reshape(2, -1), -1
    )

    def chunk(kind, content):
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", 8, 2, bits, 0, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    parts = chunk(b"IHDR", header), chunk(b"IDAT", pixels), chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    np.testing.assert_array_equal(files.read_mask(tmp_path / "a.png"), values)


@pytest.mark.parametrize(
    ("dtype", "photometric"),
    [
        (dtype, photometric)
        for photometric in ("miniswhite", "minisblack")
        for dtype in (bool, *INTEGERS)
    ],
)
def test_tiff_masks_as_stored(tmp_path, photometric, dtype):
    """Whatever colour 0 is shown as, and whatever the integer."""
    values = RNG.integers(0, 2, SIZE).astype(dtype)
    values[0, 0] = np.iinfo(dtype).max - 3 if dtype is not bool else True
    if np.dtype(dtype).kind == "i":
        values[0, 1] = -1
    save(tmp_path / "a.tif", values, photometric=photometric)
    np.testing.assert_array_equal(files.read_mask(tmp_path / "a.tif"), values)


@pytest.mark.parametrize("photometric", ["miniswhite", "minisblack"])
@pytest.mark.parametrize("dtype", INTEGERS)
def test_tiff_images_of_any_integer(tmp_path, dtype, photometric):
    """None wraps around; bytes of which 0 is white are turned, as they are seen."""
    values = RNG.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, SIZE, dtype)
    save(tmp_path / "a.tif", values, photometric=photometric)
    turned = dtype is np.uint8 and photometric == "miniswhite"
    found = files.read_image(tmp_path / "a.tif")[..., 0]
    np.testing.assert_array_equal(found, ~values if turned else values)


def test_pages_of_a_tiff_mask_of_any_integer(tmp_path):
    pages = RNG.integers(-9, 9, (3, *SIZE), np.int16)
    save(tmp_path / "a.tif", pages, photometric="miniswhite")
    np.testing.assert_array_equal(files.read_mask(tmp_path / "a.tif"), pages)


@pytest.mark.parametrize("suffix", [".tif", ".npy", ".nii"])
def test_images_of_the_other_order_of_bytes(tmp_path, suffix):
    values = image(channels=1, dtype=np.uint16)[..., 0]
    if suffix == ".tif":
        tifffile.imwrite(tmp_path / "a.tif", values, byteorder=">")
    else:
        save(tmp_path / f"a{suffix}", values.astype(">u2"))
    found = files.read_image(tmp_path / f"a{suffix}")
    assert found.dtype == np.uint16
    assert found.dtype.isnative
    np.testing.assert_array_equal(found[..., 0], values)


def test_many_channels_are_scaled_down(tmp_path):
    """By a factor that is no whole number, each channel as it would be alone."""
    values = save(tmp_path / "images" / "a.npy", image(50, 60, channels=9))
    save(tmp_path / "masks" / "a.png", mask(50, 60))
    (found,) = loaded(config(tmp_path, channels=9, image_size=(32, 32)))
    for channel in range(9):
        wanted = cv2.resize(values[..., channel], (32, 27), interpolation=cv2.INTER_AREA)
        np.testing.assert_array_equal(found.images[:27, :, channel], wanted)


def test_large_ids_stay_apart_when_scaled_down(tmp_path):
    """In float32 these two would be one object, with no border between them."""
    ids = np.full((64, 64), 2**24, np.int64)
    ids[:, 32:] += 1
    save(tmp_path / "images" / "a.png", image(64, 64))
    save(tmp_path / "masks" / "a.npy", ids)
    borders = config(tmp_path, masks="borders", classes=("out", "in", "edge"), image_size=(32, 32))
    (found,) = loaded(borders)
    assert (found.labels == 2).any(1).all()


def test_prepared_sets_have_two_splits_and_a_name(tmp_path):
    for fields, options, part in (
        ({"eval_split": "train"}, {}, "are both 'train'"),
        ({}, {"name": "folder"}, "the name 'folder'"),
    ):
        with pytest.raises(DataError, match=part):
            preparation.prepare(config(tmp_path, **fields), tmp_path / "out", **options)
