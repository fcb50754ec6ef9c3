"""Folders of masks: every format to the same values, groups of one shape, errors in one line."""

import contextlib
import gzip
import re

import nibabel
import numpy as np
import pytest
from PIL import Image

from jaxseg.data import DataError, MaskFolders, files

ROUND = 64  # what sides are padded to multiples of


def classes(*shape, number=3, seed=0):
    return np.random.default_rng(seed).integers(0, number, shape, np.uint8)


def picture(values, mode):
    """A picture of a mode that has these values."""
    if mode == "P":
        found = Image.fromarray(values.astype(np.uint8))
        found.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
        return found
    if mode == "1":
        return Image.fromarray(values.astype(np.uint8) * 255).convert("1")
    if mode == "I;16B":
        size = values.shape[::-1]
        return Image.frombytes(mode, size, values.astype(">u2").tobytes())
    dtypes = {"L": np.uint8, "I;16": np.uint16, "I": np.int32, "F": np.float32, "RGB": np.uint8}
    found = Image.fromarray(values.astype(dtypes[mode]))
    assert found.mode == mode
    return found


def save(path, values, *, mode="L", spacing=None):
    """Writes a mask in the format that the name of the file says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.name.endswith((".nii", ".nii.gz")):
        volume = nibabel.Nifti1Image(values, np.eye(4), dtype=values.dtype)
        volume.header.set_zooms(spacing or (1.0,) * values.ndim)
        nibabel.save(volume, path)
    elif values.ndim == 3 and mode != "RGB":
        first, *pages = (picture(page, mode) for page in values)
        first.save(path, save_all=True, append_images=pages)
    else:
        picture(values, mode).save(path)


FLAT, VOLUME = classes(5, 7), classes(3, 5, 7)
MANY = np.random.default_rng(1).integers(0, 2**16, (5, 7))
FORMATS = {
    "png": (".png", FLAT, {}),
    "png of a palette": (".png", FLAT, {"mode": "P"}),
    "png of 16 bits": (".png", MANY, {"mode": "I;16"}),
    "png of 1 bit": (".png", FLAT > 0, {"mode": "1"}),
    "bmp": (".bmp", FLAT, {}),
    "tiff": (".tif", FLAT, {}),
    "tiff of a palette": (".tiff", FLAT, {"mode": "P"}),
    "tiff of 16 bits": (".tiff", MANY, {"mode": "I;16"}),
    "tiff of 16 bits, big-endian": (".tiff", MANY, {"mode": "I;16B"}),
    "tiff of 32 bits": (".tiff", MANY * 2**10, {"mode": "I"}),
    "tiff of 1 bit": (".tiff", FLAT > 0, {"mode": "1"}),
    "tiff of pages": (".tif", VOLUME, {}),
    "tiff of pages of 16 bits": (".tif", VOLUME * np.uint16(1000), {"mode": "I;16"}),
    "tiff of pages of 16 bits, big-endian": (".tif", VOLUME * np.uint16(999), {"mode": "I;16B"}),
    "tiff of pages of 1 bit": (".tif", VOLUME > 0, {"mode": "1"}),
    "npy": (".npy", FLAT, {}),
    "npy of bool": (".npy", FLAT > 0, {}),
    "npy of 64 bits": (".npy", MANY * -(2**40), {}),
    "npy of unsigned 64 bits": (".npy", MANY.astype(np.uint64) + np.uint64(2**63), {}),
    "npy of a volume": (".npy", VOLUME, {}),
    "npy in the order of Fortran": (".npy", np.asfortranarray(VOLUME), {}),
    "nifti": (".nii", VOLUME, {"spacing": (2.5, 1.0, 0.5)}),
    "nifti of two axes": (".nii.gz", FLAT, {"spacing": (0.5, 3.0)}),
    "compressed nifti": (".nii.gz", VOLUME.astype(np.int16), {"spacing": (0.25, 0.5, 4.0)}),
    "nifti of whole floats": (".nii.gz", VOLUME.astype(np.float32), {"spacing": (1.0, 1.0, 2.0)}),
    "nifti of whole doubles": (".nii", VOLUME.astype(np.float64), {"spacing": (1.0, 1.0, 2.0)}),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_formats(kind, tmp_path):
    """The values are what was written, as integers; the header tells shape and spacing."""
    suffix, values, options = FORMATS[kind]
    path = tmp_path / f"a{suffix}"
    save(path, values, **options)
    found = files.read_mask(path)
    assert found.dtype.kind in "iu"
    np.testing.assert_array_equal(found, values.astype(found.dtype))
    np.testing.assert_array_equal(values, found.astype(values.dtype))
    shape, spacing, _ = files.read_header(path)
    assert shape == values.shape
    assert spacing == options.get("spacing")


def test_scaled_nifti(tmp_path):
    """Slope and intercept of the header are applied, and whole numbers found behind them."""
    save(tmp_path / "a.nii", VOLUME)
    content = (tmp_path / "a.nii").read_bytes()
    header = nibabel.Nifti1Header(content[:348])
    header["scl_slope"], header["scl_inter"] = 2.0, 1.0
    (tmp_path / "a.nii").write_bytes(header.binaryblock + content[348:])
    found = files.read_mask(tmp_path / "a.nii")
    assert found.dtype.kind == "i"
    np.testing.assert_array_equal(found, 2 * VOLUME.astype(int) + 1)


def masks_of(root, preds, labels, *, suffixes=(".png", ".png"), num_classes=3, **options):
    """The folders of some masks {name: values}."""
    sides = zip(("preds", "labels"), (preds, labels), suffixes, strict=True)
    for side, masks, suffix in sides:
        for name, values in masks.items():
            save(root / side / f"{name}{suffix}", values)
    return MaskFolders(root / "preds", root / "labels", num_classes=num_classes, **options)


def read_all(masks, batch_size=2, hosts=1):
    """The rows {index: row} of all hosts, by their groups."""
    found = []
    for group in masks.groups():
        rows = {}
        for host in range(hosts):
            local = batch_size // hosts
            batches = masks.batches(group, batch_size=batch_size, host=host, hosts=hosts)
            for number, batch in enumerate(batches):
                assert len(batch.preds) == local
                for row, example in enumerate(zip(*batch, strict=True)):
                    place = number * batch_size + host * local + row
                    assert place not in rows
                    rows[place] = example
        found.append((group, [rows[place] for place in sorted(rows)]))
        assert sorted(rows) == list(range(len(rows)))
        assert len(rows) == -(-len(group.indices) // batch_size) * batch_size
    return found


def test_pairs_are_found_by_their_stems(tmp_path):
    """Whatever the formats; other files, hidden ones and folders are passed over."""
    values = {"b.1": classes(4, 6, seed=1), "a": classes(4, 6, seed=2), "C": classes(4, 6, seed=3)}
    for name, mask in values.items():
        save(tmp_path / "labels" / f"{name}.nii.gz", mask)
        save(tmp_path / "preds" / f"{name}.npy", (mask + 1) % 3)
    for name in ("._a.png", "notes.txt", ".DS_Store"):
        (tmp_path / "preds" / name).write_text("no mask")
    (tmp_path / "labels" / "folder.png").mkdir()
    masks = MaskFolders(tmp_path / "preds", tmp_path / "labels", num_classes=3)
    assert masks.names == ("C", "a", "b.1")
    for index, name in enumerate(masks.names):
        preds, labels, where = masks.load(index)
        np.testing.assert_array_equal(labels, values[name])
        np.testing.assert_array_equal(preds, (values[name] + 1) % 3)
        assert where.all()


def test_suffixes_may_be_upper_case(tmp_path):
    save(tmp_path / "preds" / "a.png", FLAT)
    save(tmp_path / "labels" / "a.png", FLAT)
    (tmp_path / "labels" / "a.png").rename(tmp_path / "labels" / "a.PNG")
    (masks,) = MaskFolders(tmp_path / "preds", tmp_path / "labels", num_classes=3).names
    assert masks == "a"


@pytest.mark.parametrize("ignore_label", [255, 2, -1])
def test_ignored_labels_do_not_count(ignore_label, tmp_path):
    """They become class 0 outside `where`, whatever is predicted there; elsewhere it is checked."""
    labels = FLAT.astype(np.int64)
    labels[FLAT == 2] = ignore_label
    options = {"suffixes": (".npy",) * 2, "num_classes": 2, "ignore_label": ignore_label}
    for there in (0, 1, ignore_label):
        preds = np.where(FLAT == 2, there, (FLAT == 0).astype(np.int64))
        masks = masks_of(tmp_path, {"a": preds}, {"a": labels}, **options)
        preds, found, where = masks.load(0)
        np.testing.assert_array_equal(preds, FLAT == 0)
        np.testing.assert_array_equal(where, FLAT != 2)
        np.testing.assert_array_equal(found, np.where(FLAT == 2, 0, FLAT))
    masks = masks_of(tmp_path, {"a": labels}, {"a": np.zeros_like(labels)}, **options)
    with pytest.raises(DataError, match=rf"preds/a.npy: mask value {ignore_label} .* 2 classes; "):
        masks.load(0)


@pytest.mark.parametrize("hosts", [1, 2, 4])
@pytest.mark.parametrize("batch_size", [4, 8, 16])
def test_rows(hosts, batch_size, tmp_path):
    """Every mask once, in its corner of the padded shape; the rest does not count."""
    shapes = [(5, 7), (64, 64), (65, 64), (5, 7), (1, 1), (63, 130), (5, 7), (5, 7), (5, 7)]
    labels = {str(i): classes(*shape, seed=i) for i, shape in enumerate(shapes)}
    preds = {name: (mask + 1) % 3 for name, mask in labels.items()}
    masks = masks_of(tmp_path, preds, labels)
    found = read_all(masks, batch_size, hosts)
    assert sorted(i for group, _ in found for i in group.indices) == list(range(len(shapes)))
    assert {group.shape: group.indices for group, _ in found} == {
        (64, 64): (0, 1, 3, 4, 6, 7, 8),
        (128, 64): (2,),
        (64, 192): (5,),
    }
    for group, rows in found:
        assert group.spacing is None
        assert group.num_segments is None
        for place, (pred, label, where, size) in enumerate(rows):
            assert pred.shape == label.shape == where.shape == group.shape
            if place >= len(group.indices):
                assert not where.any()
                assert size.tolist() == [0, 0]
                continue
            name = masks.names[group.indices[place]]
            shape = labels[name].shape
            assert size.tolist() == list(shape)
            inside = np.s_[: shape[0], : shape[1]]
            np.testing.assert_array_equal(label[inside], labels[name])
            np.testing.assert_array_equal(pred[inside], preds[name])
            assert where[inside].all()
            assert where.sum() == labels[name].size
            assert label.sum() == labels[name].sum()


def test_hosts_read_disjoint_rows(tmp_path):
    """Together those of one host, and none reads a file of the other's rows."""
    labels = {str(i): np.full((3, 3), i, np.uint8) for i in range(7)}
    masks = masks_of(tmp_path, labels, labels, num_classes=7)
    (group,) = masks.groups()
    alone = list(masks.batches(group, batch_size=4))
    parts = [list(masks.batches(group, batch_size=4, host=i, hosts=2)) for i in range(2)]
    for whole, *halves in zip(alone, *parts, strict=True):
        for wanted, *rows in zip(whole, *halves, strict=True):
            np.testing.assert_array_equal(wanted, np.concatenate(rows))
    (tmp_path / "labels" / "2.png").write_bytes(b"")  # the second host's, in the first batch
    list(masks.batches(group, batch_size=4, host=0, hosts=2))
    with pytest.raises(DataError, match=r"labels/2\.png"):
        list(masks.batches(group, batch_size=4, host=1, hosts=2))


def test_groups_tell_spacings_apart(tmp_path):
    """Those of the labels' headers, since distances have their units."""
    spacings = {"a": (1.0, 1.0, 2.0), "b": (0.5, 1.0, 1.0), "c": (1.0, 1.0, 2.0)}
    for name, spacing in spacings.items():
        save(tmp_path / "labels" / f"{name}.nii.gz", classes(3, 4, 5), spacing=spacing)
        save(tmp_path / "preds" / f"{name}.npy", classes(3, 4, 5, seed=1))
    masks = MaskFolders(tmp_path / "preds", tmp_path / "labels", num_classes=3)
    found = {group.spacing: (group.indices, group.shape) for group in masks.groups()}
    shape = (ROUND, ROUND, ROUND)
    assert found == {(1.0, 1.0, 2.0): ((0, 2), shape), (0.5, 1.0, 1.0): ((1,), shape)}


def test_flat_masks_and_volumes_may_be_in_one_folder(tmp_path):
    both = {"a": classes(3, 4, 5), "b": classes(4, 5)}
    masks = masks_of(tmp_path, both, both, suffixes=(".npy",) * 2)
    assert [group.shape for group, _ in read_all(masks)] == [(ROUND,) * 3, (ROUND,) * 2]


def test_ids_of_segments_become_consecutive(tmp_path):
    """In their order, with 0 for the background and for what does not count."""
    labels = np.array([[0, 7, 7], [300, 9, 0], [255, 255, 9]])
    preds = np.array([[2, 2, 2], [2, 60000, 5], [5, 5, 5]])
    options = {"num_classes": None, "suffixes": (".npy",) * 2}
    masks = masks_of(tmp_path, {"a": preds}, {"a": labels}, ignore_label=255, **options)
    found = masks.load(0)
    assert found[0].tolist() == [[1, 1, 1], [1, 3, 2], [2, 2, 2]]
    assert found[1].tolist() == [[0, 1, 1], [3, 2, 0], [0, 0, 2]]
    np.testing.assert_array_equal(found[2], labels != 255)


def test_every_id_is_a_segment_unless_one_is_said_to_be_ignored(tmp_path):
    """Also 255, the usual ignored class, which is the name of a segment like others."""
    ids = np.arange(300).reshape(15, 20)
    options = {"num_classes": None, "suffixes": (".npy",) * 2}
    masks = masks_of(tmp_path, {"a": ids}, {"a": ids}, **options)
    preds, labels, where = masks.load(0)
    np.testing.assert_array_equal(labels, ids)
    np.testing.assert_array_equal(preds, ids)
    assert where.all()


@pytest.mark.parametrize("dtype", [np.uint16, np.int64, np.uint64])
def test_large_ids_stay_apart(dtype, tmp_path):
    """Also where neighbours are the same float64."""
    top = int(np.iinfo(dtype).max)
    ids = np.array([[top, top - 1, top - 2], [1, 1, 1]], dtype)
    options = {"num_classes": None, "suffixes": (".npy",) * 2}
    preds, _, _ = masks_of(tmp_path, {"a": ids}, {"a": ids}, **options).load(0)
    assert preds.tolist() == [[4, 3, 2], [1, 1, 1]]


@pytest.mark.parametrize("number", [0, 1, 2, 3, 4, 7, 8, 255, 256])
@pytest.mark.parametrize("background", [False, True])
def test_there_is_room_for_all_segments(number, background, tmp_path):
    """`num_segments` is above every id of both masks, and no more than twice what is needed."""
    ids = np.arange(1 - background, number + 1)
    wide = np.resize(ids, 300)[None] if len(ids) else np.zeros((1, 300), int)
    options = {"num_classes": None, "suffixes": (".npy",) * 2}
    for name, (preds, labels) in {"p": (wide, 0 * wide), "l": (0 * wide, wide)}.items():
        masks = masks_of(tmp_path / name, {"a": 10 * preds}, {"a": 10 * labels}, **options)
        ((group, [(preds, labels, _, _), *_]),) = read_all(masks)
        largest = max(preds.max(), labels.max())
        assert largest == number
        assert largest < group.num_segments <= 4 * max(number, 1)


def test_examples_are_what_is_loaded(tmp_path):
    labels = {"a": classes(4, 5), "b": classes(4, 5, seed=1)}
    masks = masks_of(tmp_path, dict(zip("ab", list(labels.values())[::-1], strict=True)), labels)
    ((found, where, preds),) = masks.examples([1])
    np.testing.assert_array_equal(found, labels["b"])
    np.testing.assert_array_equal(preds, labels["a"])
    assert where.all()
    (compared,) = masks.compared([1])
    assert compared[0] is None
    assert compared[4] is None
    np.testing.assert_array_equal(compared[3], labels["a"])


GOOD = classes(8, 9)


def refused(root, bad, *, num_classes=3, **options):
    """The lines that are said of a bad mask among the predictions and among the labels."""
    lines = []
    for side, other in (("preds", "labels"), ("labels", "preds")):
        folder = root / f"bad {side}"
        (folder / side).mkdir(parents=True)
        bad(folder / side)
        (path,) = (folder / side).iterdir()
        save(folder / other / "x.npy", GOOD)
        with pytest.raises(DataError) as error:
            read_all(
                MaskFolders(folder / "preds", folder / "labels", num_classes=num_classes, **options)
            )
        lines.append(str(error.value))
        assert "\n" not in lines[-1]
        assert str(path) in lines[-1], lines[-1]
    return lines


def write(name, values, **options):
    return lambda folder: save(folder / name, values, **options)


def write_bytes(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def pages_of_two_sizes(folder):
    first, second = (picture(classes(*shape), "L") for shape in ((8, 9), (4, 9)))
    first.save(folder / "x.tif", save_all=True, append_images=[second])


def archive(folder):
    with (folder / "x.npy").open("wb") as file:
        np.savez(file, GOOD)


HALVES = GOOD + np.float32(0.5)
COLOURS = np.zeros((8, 9, 3))
BAD = {
    "floats in npy": (write("x.npy", GOOD.astype(np.float32)), r"float32\[8, 9\].*integer type"),
    "fractions in nifti": (write("x.nii", HALVES), "float32.*integer type"),
    "nan in nifti": (write("x.nii.gz", np.where(GOOD, np.nan, 1.0)), "float64.*integer type"),
    "infinity in nifti": (write("x.nii.gz", np.where(GOOD, np.inf, 1.0)), "float64.*integer type"),
    "no integers in nifti": (write("x.nii.gz", np.where(GOOD, 1e25, 1.0)), "float64.*integer type"),
    "floats in tiff": (write("x.tif", GOOD, mode="F"), "mode F.*one channel"),
    "colours": (write("x.png", COLOURS, mode="RGB"), "mode RGB.*convert its colours"),
    "colours in jpeg": (write("x.jpg", COLOURS, mode="RGB"), "mode RGB.*convert its colours"),
    "one axis": (write("x.npy", GOOD[0]), "is 9, but .* is 8x9; |is 8x9, but .* is 9; "),
    "objects": (lambda x: np.save(x / "x.npy", np.array([[{}]])), "can't be read as a mask"),
    "archive": (archive, "can't be read as a mask"),
    "no picture": (write_bytes("x.png", b"no picture"), "can't be read as a mask"),
    "no array": (write_bytes("x.npy", b"no array"), "can't be read as a mask"),
    "no nifti": (write_bytes("x.nii", b"no volume"), "can't be read as a mask"),
    "no gzip": (write_bytes("x.nii.gz", b"no volume"), "can't be read as a mask"),
    "gzip of nothing": (write_bytes("x.nii.gz", gzip.compress(b"")), "can't be read as a mask"),
    "pages of two sizes": (pages_of_two_sizes, "must be of one size"),
    "another size": (write("x.png", classes(9, 8)), "is (9x8|8x9), but .* is (8x9|9x8); "),
    "another rank": (write("x.npy", classes(2, 8, 9)), "is (2x)?8x9, but .* is (2x)?8x9; "),
    "a value too large": (write("x.png", GOOD + 5), r"mask value 5 \(\d+ pixels\).* 3 classes"),
    "a negative value": (write("x.npy", GOOD.astype(int) - 1), "mask value -1 .* 3 classes"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_masks(kind, tmp_path):
    """One line that names the file and says what is wrong with it, on either side."""
    bad, match = BAD[kind]
    for line in refused(tmp_path, bad):
        assert re.search(match, line), line


def test_both_masks_of_another_form(tmp_path):
    """That the sizes agree does not help them."""
    for shape in [(7,), (2, 3, 4, 5), (2, 2, 3, 4, 5)]:
        name = str(len(shape))
        masks = masks_of(
            tmp_path / name, *[{"a": np.zeros(shape, int)}] * 2, suffixes=(".npy",) * 2
        )
        with pytest.raises(DataError, match=r"preds/a\.npy is a mask of int64.*two or three axes"):
            masks.groups()


def test_first_wrong_value_and_its_pixels(tmp_path):
    """The least of them; the ignored label is named where there is one."""
    labels = GOOD.copy()
    labels[0, :4] = 9
    labels[1, :2] = 7
    masks = masks_of(tmp_path / "a", {"a": GOOD}, {"a": labels})
    with pytest.raises(DataError, match=r"value 7 \(2 pixels\) is none of the 3 classes; correct"):
        masks.load(0)
    masks = masks_of(tmp_path / "b", {"a": GOOD}, {"a": labels}, ignore_label=7)
    with pytest.raises(
        DataError, match=r"value 9 \(4 pixels\) .*classes and not the ignored .* 7;"
    ):
        masks.load(0)


@pytest.mark.parametrize("side", ["preds", "labels"])
def test_negative_ids(side, tmp_path):
    ids = {"preds": GOOD.astype(int), "labels": GOOD.astype(int)}
    ids[side] = ids[side] - 3
    options = {"num_classes": None, "suffixes": (".npy",) * 2}
    masks = masks_of(tmp_path, *({"a": x} for x in ids.values()), **options)
    with pytest.raises(DataError, match=rf"{side}/a\.npy has the id -3, but .* 0 or positive"):
        read_all(masks)


@pytest.mark.parametrize("side", ["preds", "labels"])
def test_missing_counterparts(side, tmp_path):
    """The first of those that have none, and how many there are."""
    masks = dict.fromkeys("abcd", GOOD)
    both = {"preds": masks, "labels": masks}
    both[side] = dict.fromkeys("bd", GOOD)
    other = "labels" if side == "preds" else "preds"
    with pytest.raises(DataError, match=rf"{other}/a\.png has no .* in .*/{side} \(2 of 4 have"):
        masks_of(tmp_path, **both)


@pytest.mark.parametrize("side", ["preds", "labels"])
def test_bad_folders(side, tmp_path):
    """None, a file, an empty one, one of other files, and one with a name twice."""
    for name in ("preds", "labels"):
        save(tmp_path / name / "a.png", GOOD)
    folders = {"preds": tmp_path / "preds", "labels": tmp_path / "labels"}

    def check(directory, match):
        with pytest.raises(DataError, match=match) as error:
            MaskFolders(**{**folders, side: directory}, num_classes=3)
        assert "\n" not in str(error.value)

    check(tmp_path / "absent", f"^{side} is .*absent, which is not a directory of masks$")
    check(tmp_path / side / "a.png", f"^{side} is .*a.png, which is not a directory of masks$")
    (tmp_path / "empty").mkdir()
    check(tmp_path / "empty", r"empty has no masks; their names end in \.png, .*\.nii\.gz$")
    (tmp_path / "empty" / "a.txt").write_text("no mask")
    check(tmp_path / "empty", "empty has no masks; their names end in")
    save(tmp_path / side / "a.npy", GOOD)
    check(tmp_path / side, r"a\.npy and .*a\.png have the same name; remove one")


def test_the_ignored_label_is_no_class(tmp_path):
    """But may be any value of segments."""
    for name in ("preds", "labels"):
        save(tmp_path / name / "a.png", GOOD)
    folders = tmp_path / "preds", tmp_path / "labels"
    for ignore_label in (0, 2):
        with pytest.raises(DataError, match=f"ignore_label is {ignore_label}, .* of the 3 classes"):
            MaskFolders(*folders, num_classes=3, ignore_label=ignore_label)
    masks = MaskFolders(*folders, num_classes=None, ignore_label=2)
    np.testing.assert_array_equal(masks.load(0)[2], GOOD != 2)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize(
    ("suffix", "values", "options"),
    [
        *(x for kind, x in FORMATS.items() if kind in ("png", "bmp", "npy", "nifti")),
        *(x for kind, x in FORMATS.items() if kind in ("compressed nifti", "tiff of pages")),
        (".tif", MANY, {"mode": "I;16"}),
    ],
)
def test_files_that_are_cut_short(suffix, values, options, tmp_path):
    """Wherever the cut is: an error that names the file, or what is missing was no value."""
    path = tmp_path / f"a{suffix}"
    save(path, values, **options)
    content = path.read_bytes()
    said = []
    for length in range(0, len(content), max(1, len(content) // 150)):
        path.write_bytes(content[:length])
        with contextlib.suppress(DataError):
            files.read_header(path)
        try:
            np.testing.assert_array_equal(files.read_mask(path), values)
        except DataError as error:
            said.append(str(error))
    assert len(said) > 30
    assert all(str(path) in line and "\n" not in line for line in said)
