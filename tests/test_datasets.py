"""The embedded image, tensorflow-datasets by their keys, and folders of images and masks."""

import dataclasses
import os
import pathlib
import runpy
import subprocess
import sys

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from hatchling.builders.wheel import WheelBuilder
from PIL import Image

import jaxseg
from jaxseg.config import Data
from jaxseg.data import DataError, batches, eval_positions, open_source
from jaxseg.data.jaxseg_nuclei.jaxseg_nuclei_dataset_builder import Builder
from jaxseg.data.pipeline import make_loader

REPOSITORY = pathlib.Path(jaxseg.__file__).parents[1]
NUCLEI = pathlib.Path(jaxseg.__file__).parent / "data" / "jaxseg_nuclei"
HEIGHT, WIDTH = 16, 24  # of the images in folders: whole 8x8 blocks of a JPEG


# The embedded data set.


@pytest.fixture(scope="module")
def nuclei_root(tmp_path_factory):
    """Where tfds keeps the embedded data set, prepared once."""
    root = tmp_path_factory.mktemp("tfds")
    open_source(Data(root=str(root)), "train")
    return str(root)


def tiles(source):
    """The masks of a source by the bytes of their images."""
    examples = [source[i] for i in range(len(source))]
    return {e.image[..., 0].tobytes(): e.mask for e in examples}


def test_nuclei_tiles_are_the_image(nuclei_root):
    """Columns 0..383 are the training tiles, 384..511 those for validation, each exactly once."""
    with np.load(NUCLEI / "nuclei_512.npz") as arrays:
        image, nuclei = arrays["image"], arrays["instances"] > 0
    assert image.shape == nuclei.shape == (512, 512)
    for split, columns, count in (
        ("train", range(0, 384, 128), 12),
        ("validation", range(384, 512, 128), 4),
    ):
        source = open_source(Data(root=nuclei_root), split)
        assert len(source) == count
        found = tiles(source)
        assert len(found) == count
        for row in range(0, 512, 128):
            for column in columns:
                tile = np.s_[row : row + 128, column : column + 128]
                mask = found.pop(image[tile].tobytes())
                np.testing.assert_array_equal(mask, nuclei[tile])
        assert not found


def test_nuclei_examples_are_raw(nuclei_root):
    """Images are uint8 of one channel, masks are indices without a channel, names tell the tile."""
    source = open_source(Data(root=nuclei_root), "validation")
    example = source[3]
    assert (example.image.shape, example.image.dtype) == ((128, 128, 1), np.uint8)
    assert (example.mask.shape, example.mask.dtype) == ((128, 128), np.uint8)
    assert set(np.unique(example.mask)) == {0, 1}
    names = [source.name(i) for i in range(4)]
    assert all("jaxseg_nuclei" in name and "validation" in name for name in names)
    assert len(set(names)) == 4


def test_nuclei_live_in_the_root(nuclei_root, monkeypatch):
    """The first use prepares array records below data.root; later ones only read them."""
    written = list(pathlib.Path(nuclei_root, "jaxseg_nuclei").rglob("*array_record*"))
    assert {path.name.split(".")[0] for path in written} == {
        "jaxseg_nuclei-train",
        "jaxseg_nuclei-validation",
    }

    monkeypatch.setattr(Builder, "_generate_examples", lambda *_: pytest.fail("prepared again"))
    assert len(open_source(Data(root=nuclei_root), "train")) == 12


@pytest.mark.parametrize(
    ("split", "count"), [("train[:75%]", 9), ("train[-2:]", 2), ("train+validation", 16)]
)
def test_nuclei_splits_are_those_of_tfds(nuclei_root, split, count):
    assert len(tiles(open_source(Data(root=nuclei_root), split))) == count


def test_nuclei_need_no_tensorflow(tmp_path):
    """Reading leaves TensorFlow alone even where there is one; folders do without tfds as well."""
    stub = tmp_path / "stubs" / "tensorflow" / "__init__.py"
    stub.parent.mkdir(parents=True)
    stub.write_text("raise SystemExit('TensorFlow was imported')")
    fill(tmp_path, "a")
    script = """
import sys
from jaxseg.config import Data
from jaxseg.data import open_source
root = sys.argv[1]
folder = Data(name="folder", root=root, image="images", label="masks")
print(open_source(folder, "[:]")[0].mask.shape)
assert "tensorflow_datasets" not in sys.modules
print(open_source(Data(root=root), "train")[0].mask.shape)
assert "tensorflow_datasets" in sys.modules
assert "tensorflow" not in sys.modules
"""
    paths = [str(stub.parents[1]), str(REPOSITORY), *os.environ.get("PYTHONPATH", "").split(":")]
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": ":".join(filter(None, paths))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shapes = [line for line in done.stdout.splitlines() if line.startswith("(")]
    assert shapes == ["(4, 4)", "(128, 128)"]


def test_nuclei_are_in_the_wheel():
    """The image, what it is, its licence and its citation ship with the package."""
    shipped = {f.distribution_path for f in WheelBuilder(str(REPOSITORY)).recurse_included_files()}
    for name in ("nuclei_512.npz", "README.md", "LICENSE", "CITATIONS.bib"):
        assert f"jaxseg/data/jaxseg_nuclei/{name}" in shipped
        assert (NUCLEI / name).stat().st_size > 0


def test_nuclei_are_described(nuclei_root):
    """tfds knows the description and the citation that lie beside the builder."""
    info = tfds.builder("jaxseg_nuclei", data_dir=nuclei_root).info
    assert "no tiles overlap" in info.description
    assert "caicedo2019nucleus" in info.citation


def test_nuclei_are_the_published_sample(shared_data):
    """The embedded image and instances are those of the stardist package."""
    sample = shared_data / "pypi_samples" / "stardist_dsb_512.npz"
    if not sample.is_file():
        pytest.skip(f"{sample} is absent")
    with np.load(sample) as theirs, np.load(NUCLEI / "nuclei_512.npz") as ours:
        for name in ("image", "instances"):
            np.testing.assert_array_equal(ours[name], theirs[name])


# Other tfds data sets, mocked where they can't be downloaded.

PAGES = {  # the feature keys of data sets with masks
    "oxford_iiit_pet": {"channels": 3},
    "cityscapes": {"image": "image_left", "label": "segmentation_label", "channels": 3},
    "lost_and_found": {"image": "image_left", "label": "segmentation_label", "channels": 3},
    "caltech_birds2011": {"channels": 3},
}


@pytest.mark.parametrize("name", PAGES)
def test_tfds_serves_by_the_keys(name):
    """The keys of a config page are features of the real builder, of the kinds that are needed."""
    with tfds.testing.mock_data(num_examples=3):
        source = open_source(Data(name=name, **PAGES[name]), "train")
        assert len(source) == 3
        example = source[2]
    assert example.image.dtype == np.uint8
    assert example.image.ndim == 3
    assert example.image.shape[-1] == 3
    assert example.mask.dtype == np.uint8
    assert example.mask.ndim == 2


@pytest.mark.parametrize("name", PAGES)
def test_tfds_examples_become_batches(name):
    """Images of any size with masks `[height, width, 1]` load; the keys decide what is what."""
    page = PAGES[name]
    config = Data(
        name=name, **page, classes=("a", "b"), label_map=((7, 0), (3, 1)), image_size=(6, 8)
    )
    image = np.random.default_rng(0).integers(0, 256, (5, 8, 3), dtype=np.uint8)
    mask = np.resize(np.array([7, 3, 255], np.uint8), (5, 8))
    examples = [
        {config.image: image, config.label: mask[..., None], "file_name": b"x"},
        {config.image: image[:, :4], config.label: mask[:, :4, None], "file_name": b"y"},
    ]
    asked = []

    def as_data_source(self, split):
        asked.append(split)
        return examples

    with tfds.testing.mock_data(as_data_source_fn=as_data_source):
        source = open_source(config, "train[:90%]")
    assert asked == ["train[:90%]"]
    load = make_loader(source, config)
    for index, width in enumerate((8, 4)):
        batch = load(index)
        np.testing.assert_array_equal(batch.images[:5, :width], image[:, :width])
        np.testing.assert_array_equal(batch.labels[:5, :width], (mask == 3)[:, :width])
        np.testing.assert_array_equal(batch.where[:5, :width], (mask != 255)[:, :width])
        assert batch.where.sum() == (mask != 255)[:, :width].sum()


def test_tfds_masks_that_are_decoded_as_colours():
    """Grey masks whose feature has three channels, as those of ADE20K, are the one they repeat."""
    mask = np.random.default_rng(0).integers(0, 151, (6, 8), np.uint8)
    image = np.zeros((6, 8, 3), np.uint8)
    examples = [{"image": image, "annotation": np.repeat(mask[..., None], 3, -1)}]
    page = runpy.run_path(str(REPOSITORY / "configs" / "scene_parse150.py"))["get_config"]().data
    page = dataclasses.replace(page, image_size=(6, 8))
    with tfds.testing.mock_data(as_data_source_fn=lambda self, split: examples):
        found = make_loader(open_source(page, "train"), page)(0)
    np.testing.assert_array_equal(found.where, mask > 0)
    np.testing.assert_array_equal(found.labels[mask > 0], mask[mask > 0] - 1)


def mocked(image, mask, **page):
    """A source of one tfds example."""
    examples = [{"image": image, "segmentation_mask": mask}]
    config = Data(name="oxford_iiit_pet", image_size=(4, 6), **page)
    with tfds.testing.mock_data(as_data_source_fn=lambda self, split: examples):
        return make_loader(open_source(config, "train"), config)


@pytest.mark.parametrize("channels", [1, 3])
def test_tfds_takes_images_without_a_channel(channels):
    """A feature `[height, width]` is a grey image."""
    image = np.arange(24, dtype=np.uint8).reshape(4, 6)
    images = mocked(image, np.zeros((4, 6), np.uint8), channels=channels)(0).images
    np.testing.assert_array_equal(images, np.repeat(image[..., None], channels, -1))


def test_tfds_says_that_a_mask_has_colours():
    """A mask of three channels is an error of its channels, not of its size."""
    colours = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    with pytest.raises(DataError, match=r"oxford_iiit_pet.*channel"):
        mocked(np.zeros((4, 6, 3), np.uint8), colours, channels=3)(0)


@pytest.mark.parametrize("kind", [np.uint8, np.int32, bool])
def test_tfds_takes_masks_of_integers(kind):
    mask = np.arange(24).reshape(4, 6, 1) % 2
    labels = mocked(np.zeros((4, 6, 1), np.uint8), mask.astype(kind), channels=1)(0).labels
    np.testing.assert_array_equal(labels, mask[..., 0])


def test_tfds_refuses_masks_of_fractions():
    """Fractions are not cut off to class 0."""
    with pytest.raises(DataError, match=r"oxford_iiit_pet.*float32"):
        mocked(np.zeros((4, 6, 1), np.uint8), np.full((4, 6), 0.5, np.float32), channels=1)(0)


def test_tfds_serves_what_was_prepared_elsewhere(nuclei_root, tmp_path):
    """Prepared files are enough, without the code of their builder, as `tfds build` leaves them."""
    theirs = tmp_path / "own_cells" / "1.0.0"
    theirs.mkdir(parents=True)
    for path in pathlib.Path(nuclei_root, "jaxseg_nuclei", "1.0.0").iterdir():
        content = path.read_bytes()
        if path.suffix == ".json":
            content = content.replace(b"jaxseg_nuclei", b"own_cells")
        (theirs / path.name.replace("jaxseg_nuclei", "own_cells")).write_bytes(content)
    ours = tiles(open_source(Data(root=nuclei_root), "validation"))
    found = tiles(open_source(Data(name="own_cells", root=str(tmp_path)), "validation"))
    assert found.keys() == ours.keys()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("oxford_iiit_pets", "oxford_iiit_pet"),
        ("oxford-iiit-pet", "oxford_iiit_pet"),
        ("citiscapes", "cityscapes"),
        ("jaxseg_nucleus", "jaxseg_nuclei"),
        ("foldr", "folder"),
    ],
)
def test_unknown_name_has_a_suggestion(name, meant, tmp_path):
    """A misspelt name is one line that asks whether the right one was meant."""
    with pytest.raises(DataError, match=rf"did you mean .*\b{meant}\b") as error:
        open_source(Data(name=name, root=str(tmp_path)), "train")
    assert repr(name) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "part"), [("cityscapes:9.9.9", "1.0.0"), ("cityscapes/coarse", "coarse")]
)
def test_unknown_version_or_config(name, part, tmp_path):
    """What tfds says of a version or config that a data set lacks, in one line."""
    with pytest.raises(DataError) as error:
        open_source(Data(name=name, root=str(tmp_path)), "train")
    assert repr(name) in str(error.value)
    assert part in str(error.value).replace(name, "")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("field", "key"), [("image", "picture"), ("label", "mask")])
def test_unknown_feature_lists_the_features(nuclei_root, field, key):
    with pytest.raises(DataError, match=rf"data\.{field} is '{key}'.*image, segmentation_mask"):
        open_source(Data(root=nuclei_root, **{field: key}), "train")


def test_tfds_prepared_again_has_another_version(nuclei_root):
    """Also within the same second, in which whole data sets are written."""
    source = open_source(Data(root=str(nuclei_root)), "train")
    (record,) = pathlib.Path(nuclei_root).rglob("dataset_info.json")
    before, state = source.version(0), record.stat()
    second = state.st_mtime_ns // 10**9 * 10**9
    try:
        os.utime(record, ns=(second, second + 1))
        first = source.version(0)
        os.utime(record, ns=(second, second + 10**6))
        assert len({first, source.version(0), source.version(1)}) == 3
    finally:
        os.utime(record, ns=(state.st_mtime_ns, state.st_mtime_ns))
    assert source.version(0) == before


@pytest.mark.parametrize(
    ("field", "value"), [("group", r"patient\d+"), ("split_by", "hash"), ("listing", "a.txt")]
)
def test_tfds_says_what_parts_folders_only(tmp_path, field, value):
    page = Data(root=str(tmp_path), **{field: value})
    with pytest.raises(DataError) as caught:
        open_source(page, "train")
    default = {"split_by": "'order'"}.get(field, "''")
    assert str(caught.value) == (
        f"data.{field} is {value!r}, but parts folders only, and jaxseg_nuclei has splits of its "
        f"own; set it to {default}, and name splits such as 'train[:80%]'"
    )


@pytest.mark.parametrize("split", ["test", "trian[:80%]", "train[", "train[0:0]"])
def test_unusable_split_lists_the_splits(nuclei_root, split):
    with pytest.raises(DataError, match="train, validation") as error:
        open_source(Data(root=nuclei_root), split)
    assert repr(split) in str(error.value)


@pytest.mark.parametrize(
    ("failure", "parts"),
    [
        (ImportError("No module named 'scipy'"), ["scipy", "tfds build oxford_iiit_pet", "once"]),
        (OSError("no space\n  left on device"), ["no space left on device"]),
    ],
)
def test_failed_preparation_is_one_line(monkeypatch, failure, parts):
    """What tfds says of a failed download, and what a missing package costs, in one line."""

    def fail(self):
        raise failure

    with tfds.testing.mock_data(), monkeypatch.context() as patch:
        patch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
        with pytest.raises(DataError) as error:
            open_source(Data(name="oxford_iiit_pet"), "train")
    message = str(error.value)
    assert "oxford_iiit_pet" in message
    assert "\n" not in message
    assert all(part in message for part in parts), message


# Folders.


def ramp():
    """An image without two like pixels in a row, an edge, or a symmetry."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([40 + 8 * columns, 200 - 9 * rows, 60 + 3 * rows + 2 * columns], -1).astype(
        np.uint8
    )


def indices(high=2, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, high, (HEIGHT, WIDTH)).astype(dtype)


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(path, **options)
    return path


def palette(mask):
    """A palette image with these indices, in colours that say nothing of them."""
    image = Image.frombytes("P", mask.shape[::-1], mask.tobytes())
    colours = np.random.default_rng(1).permutation(256).astype(np.uint8)
    image.putpalette(np.stack([colours, 255 - colours, colours[::-1]], -1).tobytes())
    return image


def bits(mask):
    return Image.fromarray(mask * 255).convert("1")


def folder(root, **fields):
    defaults = {"image": "images", "label": "masks", "channels": 3, "image_size": (HEIGHT, WIDTH)}
    return Data(**{"name": "folder", "root": str(root), **defaults, **fields})


def only_example(config):
    source = open_source(config, "[:]")
    assert len(source) == 1
    return source[0]


@pytest.mark.parametrize("suffix", ["png", "PNG", "jpg", "jpeg", "JPG", "tif", "tiff", "bmp"])
@pytest.mark.parametrize("mask_suffix", ["png", "tif"])
def test_folder_pairs_any_suffixes(tmp_path, suffix, mask_suffix):
    """Names without suffix make the pair; colours come as RGB; JPEG alone loses a little."""
    lossy = {"quality": 95, "subsampling": 0} if "j" in suffix.lower() else {}
    save(tmp_path / "images" / f"a.{suffix}", ramp(), **lossy)
    save(tmp_path / "masks" / f"a.{mask_suffix}", indices())
    (tmp_path / "images" / "notes.txt").write_text("not an image")
    example = only_example(folder(tmp_path))
    assert example.image.dtype == np.uint8
    np.testing.assert_array_equal(example.mask, indices())
    np.testing.assert_allclose(example.image.astype(int), ramp(), atol=6 if lossy else 0)


@pytest.mark.parametrize(
    ("suffix", "stored", "mask"),
    [
        ("png", Image.fromarray, indices(256)),
        ("png", palette, indices(256)),
        ("tif", palette, indices(256)),
        ("png", bits, indices(2)),
        ("tif", bits, indices(2)),
        ("png", Image.fromarray, indices(60_000, np.uint16)),
        ("tif", Image.fromarray, indices(60_000, np.uint16)),
        ("tif", Image.fromarray, indices(70_000, np.int32) - 5),
    ],
    ids=["grey", "palette", "palette-tif", "bit", "bit-tif", "16bit", "16bit-tif", "32bit-tif"],
)
def test_folder_masks_are_indices(tmp_path, suffix, stored, mask):
    """Grey, palette, 1-bit, 16-bit and 32-bit masks give the numbers they were made of."""
    save(tmp_path / "images" / "a.png", ramp())
    save(tmp_path / "masks" / f"a.{suffix}", stored(mask))
    found = only_example(folder(tmp_path)).mask
    assert found.dtype.kind in "iu"
    np.testing.assert_array_equal(found, mask)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1"])
@pytest.mark.parametrize("channels", [1, 3])
def test_folder_images_have_the_channels_asked_for(tmp_path, mode, channels):
    """Grey becomes RGB and RGB grey, by the weights of ITU-R 601; alpha is dropped."""
    rgb = ramp() if mode in ("RGB", "RGBA", "P") else np.repeat(ramp()[..., :1], 3, -1)
    image = Image.fromarray(rgb)
    if mode == "P":
        image = image.quantize(32)
        rgb = np.asarray(image.convert("RGB"))
    elif mode == "1":
        rgb = rgb // 128 * 255
        image = bits(rgb[..., 0] // 255)
    elif mode.endswith("A"):
        image = image.convert(mode)
        alpha = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
        image.putalpha(Image.fromarray(alpha))
    else:
        image = image.convert(mode)
    save(tmp_path / "images" / "a.png", image)
    save(tmp_path / "masks" / "a.png", indices())
    config = folder(tmp_path, channels=channels)
    found = make_loader(open_source(config, "[:]"), config)(0).images
    assert found.shape == (HEIGHT, WIDTH, channels)
    grey = (rgb @ np.array([0.299, 0.587, 0.114]))[..., None]
    np.testing.assert_allclose(found.astype(float), rgb if channels == 3 else grey, atol=1.01)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB"])
def test_folder_images_are_made_rgb(tmp_path, mode):
    """Other ways to store three colours, or four inks, aren't taken for red, green and blue."""
    image = Image.fromarray(ramp())
    image = image.convert(mode) if mode != "LAB" else Image.merge("LAB", image.split())
    save(tmp_path / "images" / "a.tif", image)
    save(tmp_path / "masks" / "a.png", indices())
    try:
        found = only_example(folder(tmp_path)).image
    except DataError as error:
        message = str(error)
        assert "a.tif" in message
        return
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(found, expected)


def test_folder_keeps_the_order_of_four_channels(tmp_path):
    """Red is the first of four channels, too, as it is in a tfds example."""
    rgba = np.concatenate([ramp(), indices(256)[..., None]], -1)
    save(tmp_path / "images" / "a.png", rgba)
    save(tmp_path / "masks" / "a.png", indices())
    np.testing.assert_array_equal(only_example(folder(tmp_path, channels=4)).image, rgba)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_folder_orientation_tags_keep_image_and_mask_together(tmp_path, suffix, orientation):
    """A photograph with a tag "turn me" stays on the mask drawn over its pixels."""
    image = np.full((HEIGHT, WIDTH, 3), 20, np.uint8)
    image[:, :8] = image[:8] = 220
    mask = (image[..., 0] > 100).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(tmp_path / "images" / f"a.{suffix}", image, exif=exif)
    save(tmp_path / "masks" / "a.png", mask)
    for channels in (1, 3):
        example = only_example(folder(tmp_path, channels=channels))
        np.testing.assert_array_equal(example.image[..., 0] > 100, example.mask)


def test_tiff_with_an_orientation_tag_is_refused(tmp_path):
    """Pillow would turn it, and its mask not."""
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "images" / "a.tif", ramp(), exif=exif)
    save(tmp_path / "masks" / "a.png", indices())
    assert "a.tif has an orientation tag" in complaint(folder(tmp_path))


def fill(root, names, suffixes=(".png", ".png"), places=("images", "masks")):
    """Images and masks whose first pixel is the number of their name in the list."""
    for number, name in enumerate(names):
        for place, suffix in zip(places, suffixes, strict=True):
            save(root / place / f"{name}{suffix}", np.full((4, 4), number, np.uint8))


def stored(path):
    with Image.open(path) as image:
        return np.asarray(image)


def names_of(source):
    return [pathlib.Path(source.name(i)).stem for i in range(len(source))]


def test_folder_in_the_layout_of_pascal_voc(tmp_path):
    """A listing names the images of a split, in its order; others need no mask."""
    fill(tmp_path, "abcde", (".jpg", ".png"), ("JPEGImages", "SegmentationClass"))
    (tmp_path / "SegmentationClass" / "e.png").unlink()
    sets = tmp_path / "ImageSets" / "Segmentation"
    sets.mkdir(parents=True)
    (sets / "train.txt").write_text("d\nb\n\n")
    (sets / "val.txt").write_text("c.jpg\r\na.jpg 1\n")
    config = folder(
        tmp_path,
        image="JPEGImages",
        label="SegmentationClass",
        listing="ImageSets/Segmentation/{split}.txt",
    )
    train, val = open_source(config, "train"), open_source(config, "val")
    assert names_of(train) == ["d", "b"]
    assert names_of(val) == ["c", "a"]
    assert [train[i].mask[0, 0] for i in range(2)] == [3, 1]
    assert [train[i].image[0, 0, 0] for i in range(2)] == [3, 1]
    assert names_of(open_source(config, "train[1:]")) == ["b"]


def test_folder_listing_of_pairs_and_strange_names(tmp_path):
    """The first of two paths, also where the other's name is that of an image, and any name."""
    names = ["a", "b", "my image", "line\u2028end"]
    fill(tmp_path, names)
    lines = ["images/a.png masks/b.png", "my image.png", "images/line\u2028end.png"]
    (tmp_path / "train.txt").write_text("\n".join(lines), encoding="utf-8")
    source = open_source(folder(tmp_path, listing="{split}.txt"), "train")
    assert names_of(source) == ["a", "my image", "line\u2028end"]


def test_folder_listing_takes_names_with_dots(tmp_path):
    """A dot in a listed name need not begin a suffix."""
    names = ["scan.001", "scan.002"]
    fill(tmp_path, names)
    for text in ("scan.002\nscan.001\n", "scan.002.png\nscan.001.png\n"):
        (tmp_path / "train.txt").write_text(text)
        source = open_source(folder(tmp_path, listing="{split}.txt"), "train")
        assert names_of(source) == names[::-1]


def test_names_that_look_the_same_are_the_same(tmp_path):
    """Systems write accents in two ways: macOS in two characters, others in one."""
    one, two = "m\u00fcnster", "mu\u0308nster"
    fill(tmp_path, ["a", two])
    (tmp_path / "masks" / f"{two}.png").rename(tmp_path / "masks" / f"{one}.png")
    source = open_source(folder(tmp_path), "[:]")
    assert names_of(source) == ["a", one]  # of the masks
    assert f"images/{two}.png with" in source.name(1)
    for listed in (one, f"images/{two}.png masks/{one}.png"):
        (tmp_path / "train.txt").write_text(listed, encoding="utf-8")
        source = open_source(folder(tmp_path, listing="{split}.txt"), "train")
        assert names_of(source) == [one]


def test_folder_in_the_layout_of_camvid(tmp_path):
    """Directories named after the split: {split} stands in the fields."""
    fill(tmp_path, "ab", places=("train", "trainannot"))
    fill(tmp_path, "xyz", places=("val", "valannot"))
    config = folder(tmp_path, image="{split}", label="{split}annot")
    assert names_of(open_source(config, "train")) == ["a", "b"]
    assert names_of(open_source(config, "val")) == ["x", "y", "z"]
    assert names_of(open_source(config, "val[:2]")) == ["x", "y"]


def test_folder_pairs_stay_pairs(tmp_path):
    """Examples come in the order of their names, each with its own mask."""
    names = ["b2", "a10", "c", "a9"]
    fill(tmp_path, names)
    source = open_source(folder(tmp_path), "[:]")
    assert names_of(source) == sorted(names)
    for i, name in enumerate(sorted(names)):
        assert source[i].image[0, 0, 0] == source[i].mask[0, 0] == names.index(name)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 10, 11])
def test_folder_slices_part_the_files(tmp_path, count):
    """Two slices that meet have every file once, whatever the rounding."""
    names = [f"{i:02}" for i in range(count)]
    fill(tmp_path, names)

    def part(split):
        try:
            return names_of(open_source(folder(tmp_path), split))
        except DataError:  # of a slice without files
            return []

    for bound in ("80%", "50%", "33%", "99%", "3"):
        assert part(f"[:{bound}]") + part(f"[{bound}:]") == names
    assert abs(len(part("[:80%]")) - 0.8 * count) <= 0.5
    assert part("[20%:60%]") + part("[60%:]") == names[len(part("[:20%]")) :]
    assert part("[1:3]") == names[1:3]
    assert part("[:]") == part("") == names


@pytest.mark.parametrize("split", ["[-20%:]", "[:80%", "[80%]", "[::2]", "[:20%]+[80%:]"])
def test_folder_never_takes_a_slice_for_a_name(tmp_path, split):
    """A slice that isn't understood is an error or is obeyed, never the whole folder."""
    fill(tmp_path, "abcdefghij")
    try:
        count = len(open_source(folder(tmp_path), split))
    except DataError:
        count = 0
    assert count < 10


def test_folder_names_a_slice_that_it_does_not_understand(tmp_path):
    """It isn't looked for as a directory either."""
    fill(tmp_path, "abcd", places=("train", "trainannot"))
    message = complaint(folder(tmp_path, image="{split}", label="{split}annot"), "train[-20%:]")
    assert "'train[-20%:]'" in message
    assert "a slice such as" in message


def test_folder_without_splits_has_no_names_for_them(tmp_path):
    """Where {split} stands nowhere, "train" and "validation" would be the same files: an error."""
    fill(tmp_path, "abcd")
    message = complaint(folder(tmp_path), "validation")
    assert "'validation'" in message
    assert "{split}" in message


# What folders complain of.


def complaint(config, split="[:]"):
    """The one line that reading a whole split ends with."""

    def read():
        source = open_source(config, split)
        load = make_loader(source, config)
        return [load(index) for index in range(len(source))]

    with pytest.raises(DataError) as error:
        read()
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(("place", "field"), [("images", "image"), ("masks", "label")])
def test_missing_directory(tmp_path, place, field):
    fill(tmp_path, "ab")
    (tmp_path / place).rename(tmp_path / "elsewhere")
    message = complaint(folder(tmp_path))
    assert str(tmp_path / place) in message
    assert "data.root" in message
    assert f"data.{field}" in message


def test_missing_directory_of_a_split(tmp_path):
    fill(tmp_path, "ab", places=("train", "trainannot"))
    message = complaint(folder(tmp_path, image="{split}", label="{split}annot"), "val[:50%]")
    assert str(tmp_path / "val") in message
    assert "val[:50%]" in message


def test_missing_masks_are_counted(tmp_path):
    fill(tmp_path, "abcd")
    (tmp_path / "masks" / "b.png").unlink()
    (tmp_path / "masks" / "d.png").unlink()
    message = complaint(folder(tmp_path))
    assert "2 of the 4" in message
    assert "no mask" in message
    assert "'b'" in message


def test_listed_image_is_missing(tmp_path):
    fill(tmp_path, "ab")
    (tmp_path / "train.txt").write_text("a\nz\n")
    message = complaint(folder(tmp_path, listing="{split}.txt"), "train")
    assert "1 of the 2" in message
    assert "no image" in message
    assert "'z'" in message


def test_missing_listing(tmp_path):
    fill(tmp_path, "ab")
    message = complaint(folder(tmp_path, listing="{split}.txt"), "val")
    assert str(tmp_path / "val.txt") in message
    assert "data.listing" in message


def test_masks_without_images_are_ignored(tmp_path):
    fill(tmp_path, "abc")
    (tmp_path / "images" / "b.png").unlink()
    assert names_of(open_source(folder(tmp_path), "[:]")) == ["a", "c"]


@pytest.mark.parametrize("place", ["images", "masks"])
def test_same_name_twice(tmp_path, place):
    fill(tmp_path, "ab")
    save(tmp_path / place / "b.tif", indices())
    message = complaint(folder(tmp_path))
    assert str(tmp_path / place / "b.png") in message
    assert str(tmp_path / place / "b.tif") in message


@pytest.mark.parametrize("split", ["", "[3:]"])
def test_empty_split(tmp_path, split):
    """No image at all, or none in the slice."""
    fill(tmp_path, "ab" if "[" in split else "")
    (tmp_path / "images").mkdir(exist_ok=True)
    (tmp_path / "masks").mkdir(exist_ok=True)
    message = complaint(folder(tmp_path), split)
    assert repr(split) in message
    assert "no images" in message


@pytest.mark.parametrize("kept", [0, 0.5, 0.95])
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp"])
def test_truncated_image(tmp_path, suffix, kept):
    """A file that ends too early is named, never read as far as it goes."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save(tmp_path / "images" / f"a.{suffix}", noise)
    save(tmp_path / "masks" / "a.png", noise[..., 0] % 2)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    message = complaint(folder(tmp_path))
    assert str(path) in message
    assert "can't be read" in message


@pytest.mark.parametrize("kept", [0, 0.5, 0.95])
@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_truncated_mask(tmp_path, suffix, kept):
    save(tmp_path / "images" / "a.png", ramp())
    path = save(tmp_path / "masks" / f"a.{suffix}", indices(256))
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    message = complaint(folder(tmp_path))
    assert str(path) in message
    assert "can't be read" in message


def test_huge_image(tmp_path, monkeypatch):
    """What Pillow thinks too large to be true is read all the same, or named in one line."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    path = save(tmp_path / "images" / "a.png", ramp())
    save(tmp_path / "masks" / "a.png", indices())
    try:
        example = only_example(folder(tmp_path))
    except DataError as error:
        message = str(error)
        assert str(path) in message
        return
    np.testing.assert_array_equal(example.image, ramp())


@pytest.mark.parametrize("place", ["images", "masks"])
def test_text_in_a_picture_file(tmp_path, place):
    fill(tmp_path, "a")
    path = tmp_path / place / "a.png"
    path.write_text("<html>404</html>" * 20)
    message = complaint(folder(tmp_path))
    assert str(path) in message
    assert "can't be read" in message


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "F"])
def test_mask_of_colours(tmp_path, mode):
    """Colours and fractions aren't indices; the message tells the mode that it found."""
    save(tmp_path / "images" / "a.png", ramp())
    path = save(tmp_path / "masks" / "a.tif", Image.fromarray(indices()).convert(mode))
    message = complaint(folder(tmp_path))
    assert str(path) in message
    assert f"mode {mode}" in message
    assert "indices" in message


def test_sizes_that_differ(tmp_path):
    save(tmp_path / "images" / "a.png", ramp())
    save(tmp_path / "masks" / "a.png", indices().T)
    message = complaint(folder(tmp_path))
    assert str(tmp_path / "masks" / "a.png") in message
    assert f"image is {HEIGHT}x{WIDTH}" in message
    assert f"mask {WIDTH}x{HEIGHT}" in message


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_label_outside_the_classes(tmp_path, dtype):
    """The file, the value, how many pixels have it, and the cure."""
    fill(tmp_path, "abc")
    mask = np.ones((4, 4), dtype)
    mask[1, 1:] = 77
    path = tmp_path / "masks" / "b.tif"
    path.with_suffix(".png").unlink()
    save(path, mask)
    message = complaint(folder(tmp_path, classes=("x", "y", "z"), ignore_label=9))
    for part in (str(path), "value 77", "3 pixels", "3 classes", "ignore_label=9", "label_map"):
        assert part in message


@pytest.mark.parametrize("value", [3, 70_000, -1])
def test_label_outside_the_map(tmp_path, value):
    """With a label_map, a value that it leaves out is an error, even the index of a class."""
    save(tmp_path / "images" / "a.png", ramp())
    mask = np.zeros((HEIGHT, WIDTH), np.int32)
    mask[2, 5] = value
    path = save(tmp_path / "masks" / "a.tif", mask)
    config = folder(tmp_path, classes=tuple("wxyz"), label_map=((0, 1), (5, 2)))
    message = complaint(config)
    for part in (str(path), f"value {value} ", "1 pixel", "data.label_map"):
        assert part in message


@pytest.mark.parametrize(
    ("label_map", "parts"),
    [
        (((0, 0), (1, 2)), ["class 2", "data.label_map", "data.ignore_label is 255"]),
        (((0, -1),), ["class -1", "data.label_map"]),
    ],
)
def test_impossible_label_map(tmp_path, label_map, parts):
    fill(tmp_path, "a")
    message = complaint(folder(tmp_path, label_map=label_map))
    assert all(part in message for part in parts), message


@pytest.mark.parametrize("channels", [2, 4])
def test_channels_that_differ(tmp_path, channels):
    save(tmp_path / "images" / "abc.png", ramp())
    save(tmp_path / "masks" / "abc.png", indices())
    message = complaint(folder(tmp_path, channels=channels))
    for part in ("abc", "3 channels", f"data.channels is {channels}", "data.channels=3"):
        assert part in message


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("stored", [1, 3])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_image_of_16_bits(tmp_path, suffix, stored, channels):
    (tmp_path / "images").mkdir()
    image = np.repeat(indices(60_000, np.uint16)[..., None], stored, -1)
    assert cv2.imwrite(str(tmp_path / "images" / f"abc.{suffix}"), image)
    save(tmp_path / "masks" / "abc.png", indices())
    message = complaint(folder(tmp_path, channels=channels))
    for part in ("abc", "uint16", "uint8"):
        assert part in message


# Real folders.


def of_shared(shared_data, name):
    if not (shared_data / name).is_dir():
        pytest.skip(f"{shared_data / name} is absent")
    return shared_data / name


def test_camvid(shared_data):
    """Eleven classes and void: what doesn't count is exactly the void."""
    root = of_shared(shared_data, "camvid")
    config = folder(
        root,
        image="{split}",
        label="{split}annot",
        classes=tuple("abcdefghijk"),
        ignore_label=11,
        image_size=(360, 480),
    )
    assert len(open_source(config, "train")) == 367
    source = open_source(config, "val")
    assert len(source) == 101
    (batch,) = batches(source, eval_positions(len(source), batch_size=4), config, stop=1)
    assert [x.shape for x in batch[:3]] == [(4, 360, 480, 3), (4, 360, 480), (4, 360, 480)]
    masks = [stored(source.name(i).partition(" with mask ")[2]) for i in range(4)]
    void = np.mean(np.equal(masks, 11))
    assert 0 < void < 0.3
    assert batch.where.mean() == pytest.approx(1 - void, rel=1e-12)
    load = make_loader(source, config)
    seen = set()
    for index in range(0, 101, 25):
        stem = pathlib.Path(source.name(index)).stem
        mask = stored(root / "valannot" / f"{stem}.png")
        image = stored(root / "val" / f"{stem}.jpg")
        batch = load(index)
        assert 0 < (mask == 11).mean() < 0.3
        np.testing.assert_array_equal(batch.where, mask != 11)
        np.testing.assert_array_equal(batch.labels[batch.where], mask[mask != 11])
        # Two JPEG decoders need not round alike.
        np.testing.assert_allclose(batch.images.astype(int), image, atol=3)
        seen |= set(np.unique(batch.labels))
    assert seen == set(range(11))


def test_dsb2018_instances_are_no_classes(shared_data):
    """An id per nucleus is named as what it is, a value beyond the classes, with the cure."""
    root = of_shared(shared_data, "dsb2018")
    config = folder(root, label="labels", channels=1, image_size=(256, 256))
    source = open_source(config, "[:]")
    assert len(source) == 531
    with pytest.raises(DataError, match=r"value 2 .*data\.label_map") as error:
        make_loader(source, config)(0)
    assert source.name(0) in str(error.value)
    listed = ((0, 0), (1, 1), (2, 1))
    with pytest.raises(DataError, match=r"value 3 .*data\.label_map"):
        make_loader(source, folder(root, label="labels", channels=1, label_map=listed))(0)


@pytest.mark.parametrize("channels", [1, 3])
def test_dsb2018_with_all_ids_mapped(shared_data, channels):
    """Images of several sizes and modes, 16-bit masks, and every id a nucleus."""
    root = of_shared(shared_data, "dsb2018")
    config = folder(
        root,
        label="labels",
        channels=channels,
        image_size=(256, 256),
        label_map=((0, 0), *((i, 1) for i in range(1, 1000))),
    )
    source = open_source(config, "[:]")
    load = make_loader(source, config)
    modes = set()
    for index in range(0, 531, 53):
        stem = pathlib.Path(source.name(index)).stem
        with Image.open(root / "images" / f"{stem}.png") as image:
            expected = np.asarray(image.convert("L" if channels == 1 else "RGB"))
            modes.add(image.mode)
        nuclei = stored(root / "labels" / f"{stem}.png") > 0
        batch = load(index)
        assert batch.images.shape == (256, 256, channels)
        if nuclei.shape == (256, 256):
            np.testing.assert_array_equal(batch.labels, nuclei)
            assert batch.where.all()
            np.testing.assert_allclose(
                batch.images.astype(int), expected.reshape(256, 256, channels), atol=1
            )
        else:
            share = batch.labels[batch.where].mean()
            assert share == pytest.approx(nuclei.mean(), rel=0.05)
    assert len(modes) > 1
