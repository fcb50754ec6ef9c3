"""python -m jaxseg.data: what is seen of data, what is written of them, and configs for folders."""

import dataclasses
import hashlib
import json
import os
import pathlib
import runpy
import shutil
import subprocess
import sys

import jax
import nibabel
import numpy as np
import pytest
import scipy.io
from PIL import Image

from jaxseg.config import Config, Data
from jaxseg.data import DataError, inspection, make_loader, open_source, page, preparation
from jaxseg.data.__main__ import main

SHAPE = (24, 32)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.name.endswith(".nii.gz"):
        nibabel.save(nibabel.Nifti1Image(array, np.diag((1.0, 1.0, 2.0, 1.0))), path)
    else:
        Image.fromarray(array).save(path)


def noise(seed, shape=(*SHAPE, 3), top=256, dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, top, shape).astype(dtype)


def make(root, count=5, *, classes=3, suffix=".png", shape=SHAPE, channels=3, **directories):
    """A folder of random images and masks, and what it holds."""
    image, mask = (directories.get(name, f"{name}s") for name in ("image", "mask"))
    pairs = []
    for i in range(count):
        pixels = (*shape, channels) if channels > 1 else shape
        pairs.append((noise(i, pixels), noise(100 + i, shape, classes)))
        for directory, array in zip((image, mask), pairs[-1], strict=True):
            save(root / directory / f"{i}{suffix}", array)
    return pairs


def folder(root, **fields):
    usual = {"train_split": "[:3]", "eval_split": "[3:]", "image": "images", "label": "masks"}
    sizes = {"channels": 3, "image_size": SHAPE, "threads": 2}
    return Data(
        name="folder",
        root=str(root),
        classes=("a", "b", "c"),
        **{**usual, **sizes, **fields},
    )


def kinds(found):
    """The names of the images of each kind of finding."""
    listed = {}
    for finding in found.findings:
        listed.setdefault(finding.kind, []).append(finding.line)
    return listed


def run(*args, code=0):
    done = subprocess.run(
        [sys.executable, "-m", "jaxseg.data", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=pathlib.Path(__file__).parents[1],
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code in (0, 1) and done.stdout else done.stderr


def test_statistics_are_those_of_numpy(tmp_path):
    """Of images of several sizes, with pixels that don't count, all in float64."""
    pairs = make(tmp_path)
    image, mask = noise(7, (40, 20, 3)), noise(8, (40, 20), 2)
    mask[:4] = 255
    for directory, array in (("images", image), ("masks", mask)):
        save(tmp_path / directory / "1.png", array)
    pairs[1] = image, mask
    found = inspection.inspect(folder(tmp_path))
    assert found.findings == []
    assert not found.stops
    train = found.summary["splits"]["train"]
    values = np.concatenate([x.reshape(-1, 3) for x, _ in pairs[:3]]) / 255
    np.testing.assert_allclose(train["intensity"]["mean"], values.mean(0), rtol=1e-12)
    np.testing.assert_allclose(train["intensity"]["std"], values.std(0), rtol=1e-12)
    assert train["intensity"]["least"] == values.min(0).tolist()
    assert train["sizes"]["largest"] == [40, 32]
    assert train["sizes"]["most_frequent"][0] == {"size": [24, 32], "images": 2}
    assert train["ignored_pixels"] == 80
    counts = np.array([[(m == c).sum() for c in range(3)] for _, m in pairs[:3]])
    classes = list(train["classes"].values())
    assert [x["pixels"] for x in classes] == counts.sum(0).tolist()
    assert [x["images"] for x in classes] == [3, 3, 2]
    # The frequency of a class is its share of the images that it is in: c is not in the second.
    frequency = counts.sum(0) / [counts.sum(), counts.sum(), counts[::2].sum()]
    weights = [x["median_frequency_weight"] for x in classes]
    np.testing.assert_allclose(weights, np.median(frequency) / frequency, rtol=1e-12)
    weights = [x["inverse_frequency_weight"] for x in classes]
    np.testing.assert_allclose(weights, counts.sum() / 3 / counts.sum(0), rtol=1e-12)
    np.testing.assert_allclose(np.average(weights, weights=counts.sum(0)), 1, rtol=1e-12)


def test_everything_that_is_wrong_is_listed(tmp_path):
    """Each by its name, and none ends the work."""
    pairs = make(tmp_path, 12)
    images, masks = tmp_path / "images", tmp_path / "masks"
    whole = (images / "0.png").read_bytes()
    (images / "0.png").write_bytes(whole[: len(whole) // 2])
    (masks / "1.png").write_bytes(b"")
    save(masks / "2.png", noise(0, (24, 31), 3))
    wrong = np.zeros(SHAPE, np.uint8)
    wrong[0, :5], wrong[1, :3] = 7, 9
    save(masks / "3.png", wrong)
    save(images / "4.png", noise(0, SHAPE, 65536, np.uint16))
    save(images / "5.png", np.full((*SHAPE, 3), 9, np.uint8))
    save(masks / "6.png", np.ones(SHAPE, np.uint8))
    save(images / "8.png", pairs[7][0])  # in order: 0, 1, 10, 11, 2, ...
    near = pairs[11][0].copy()
    near[0, 0] ^= 1
    save(images / "9.png", near)
    config = folder(tmp_path, train_split="[:10]", eval_split="[10:]")
    found = inspection.inspect(config)
    listed = kinds(found)
    assert {kind: len(lines) for kind, lines in listed.items()} == {
        "unreadable": 2,
        "size": 1,
        "image": 1,
        "labels": 1,
        "duplicate": 1,
        "near duplicate": 1,
        "constant image": 1,
        "constant mask": 1,
    }
    assert "0.png" in listed["unreadable"][0]
    assert "masks/1.png" in listed["unreadable"][1]
    assert "24x32" in listed["size"][0]
    assert "24x31" in listed["size"][0]
    assert "uint16" in listed["image"][0]
    assert listed["labels"][0].endswith(
        "3.png: mask values that are no class: 7 (5 pixels), 9 (3 pixels)"
    )
    assert listed["duplicate"][0].startswith("in both splits, with different masks: ")
    assert all(f"images/{i}.png" in listed["duplicate"][0] for i in (7, 8))
    assert "9.png" in listed["near duplicate"][0]
    assert "11.png" in listed["near duplicate"][0]
    assert "5.png" in listed["constant image"][0]
    assert "6.png" in listed["constant mask"][0]
    assert found.stops
    assert found.summary["splits"]["train"]["usable"] == 5
    skipping = inspection.inspect(dataclasses.replace(config, unreadable="skip"))
    assert not skipping.stops
    assert "duplicate" in kinds(skipping)
    lost = [line for kind in ("unreadable", "size", "image", "labels") for line in listed[kind]]
    assert sorted(kinds(skipping)["skipped"]) == sorted(lost)


def test_files_without_a_partner_are_counted(tmp_path):
    """Once, though both splits are of one directory; not those that a listing leaves out."""
    make(tmp_path, 4)
    for i in range(10):
        save(tmp_path / "masks" / f"x{i}.png", noise(i, SHAPE, 3))
    found = inspection.inspect(folder(tmp_path))
    (finding,) = found.findings
    names = ", ".join(f"x{i}.png" for i in range(8))
    line = f"files in {tmp_path}/masks without a partner of their name: 10, {names} and 2 more"
    assert finding == ("unpaired", "eval+train", line)
    assert not found.stops
    assert line in page.understand(tmp_path).lines
    (tmp_path / "names.txt").write_text("0\n1\n2\n3\n")
    assert inspection.inspect(folder(tmp_path, listing="names.txt")).findings == []


def test_images_that_no_annotation_names_are_counted(tmp_path):
    make(tmp_path, 4)
    images = [{"id": i, "file_name": f"{i}.png", "height": 24, "width": 32} for i in range(3)]
    objects = [
        {"id": i, "image_id": i, "category_id": i % 2 + 1, "segmentation": [[0, 0, 9, 0, 9, 9]]}
        for i in range(3)
    ]
    categories = [{"id": 1, "name": "b"}, {"id": 2, "name": "c"}]
    content = {"images": images, "annotations": objects, "categories": categories}
    (tmp_path / "all.json").write_text(json.dumps(content))
    config = folder(tmp_path, label="all.json", train_split="[:2]", eval_split="[2:]")
    line = f"files in {tmp_path}/images without a partner of their name: 1, 3.png"
    assert kinds(inspection.inspect(config))["unpaired"] == [line]


def test_findings_are_what_stops_the_loader(tmp_path):
    """An image is listed if and only if the loader raises, also where it is cut into patches."""
    make(tmp_path, 4)
    save(tmp_path / "images" / "3.png", noise(3, (48, 32, 3)))
    save(tmp_path / "masks" / "3.png", noise(4, (48, 32), 3))
    for patch in ((), (8, 8)):
        config = folder(tmp_path, patch_size=patch)
        found = inspection.inspect(config)
        load = make_loader(open_source(config, "[3:]"), config)
        if patch:
            with pytest.raises(DataError, match=r"larger than data\.image_size") as error:
                load(0)
            assert kinds(found)["image"] == [str(error.value)]
        else:
            load(0)
            assert found.findings == []


def test_a_split_that_cannot_be_opened(tmp_path):
    make(tmp_path)
    found = inspection.inspect(folder(tmp_path, eval_split="[9:]"))
    assert found.stops
    assert len(kinds(found)["split"]) == 1
    assert found.summary["splits"]["train"]["usable"] == 3
    assert found.summary["splits"]["eval"]["images"] == 0


def test_groups_and_classes_of_both_splits(tmp_path):
    for split, patients in (("train", "aab"), ("val", "bc")):
        for i, patient in enumerate(patients):
            seed = 10 * ord(patient) + i + 5 * (split == "val")
            save(tmp_path / split / "x" / f"{patient}{i}.png", noise(seed))
            save(
                tmp_path / split / "y" / f"{patient}{i}.png",
                noise(seed, SHAPE, 2 + (split == "train")),
            )
    config = folder(
        tmp_path,
        train_split="train",
        eval_split="val",
        image="{split}/x",
        label="{split}/y",
        group="^[a-z]",
    )
    listed = kinds(inspection.inspect(config))
    assert listed == {
        "group": ["'b' has 1 images in train and 1 in eval"],
        "absent class": ["eval has no pixel of class 'c'"],
    }


def test_groups_of_a_table(tmp_path):
    """A leak of what the table, or its paths, say of patients."""
    rows = ["image,mask,split,group"]
    for i, split in enumerate(("train", "train", "val")):
        save(tmp_path / f"p{i % 2}" / "x" / f"{i}.png", noise(i))
        save(tmp_path / f"p{i % 2}" / "y" / f"{i}.png", noise(i, SHAPE, 3))
        rows.append(f"p{i % 2}/x/{i}.png,p{i % 2}/y/{i}.png,{split},{'ab'[i % 2]}")
    (tmp_path / "index.csv").write_text("\n".join(rows))
    config = folder(tmp_path, train_split="train", eval_split="val", listing="index.csv")
    listed = kinds(inspection.inspect(config))["group"]
    assert listed == ["'a' has 1 images in train and 1 in eval"]
    rows = [row.rpartition(",")[0] for row in rows]
    (tmp_path / "index.csv").write_text("\n".join(rows))
    by_path = dataclasses.replace(config, group=r"p\d+")
    listed = kinds(inspection.inspect(by_path))["group"]
    assert listed == ["'p0' has 1 images in train and 1 in eval"]


def test_all_of_a_split_unreadable_stops(tmp_path):
    """Skipping leaves nothing to train on."""
    make(tmp_path, 4)
    for path in (tmp_path / "images").iterdir():
        path.write_bytes(b"")
    found = inspection.inspect(folder(tmp_path, unreadable="skip"))
    assert found.stops
    assert set(kinds(found)) == {"unreadable"}


def test_votes_and_volumes(tmp_path):
    """Shares of annotators are counted, and a volume is drawn by its fullest slice."""
    raters = [noise(i, (4, *SHAPE), 3) for i in range(5)]
    for i, votes in enumerate(raters):
        save(tmp_path / "images" / f"{i}.png", noise(50 + i))
        save(tmp_path / "masks" / f"{i}.npy", votes)
    found = inspection.inspect(folder(tmp_path, masks="votes"))
    pixels = [x["pixels"] for x in found.summary["splits"]["train"]["classes"].values()]
    expected = [sum((x == c).mean(0).sum() for x in raters[:3]) for c in range(3)]
    np.testing.assert_allclose(pixels, expected, rtol=1e-12)
    volumes = tmp_path / "volumes"
    make(volumes, suffix=".npy", shape=(4, *SHAPE), channels=1)
    config = folder(volumes, channels=1, image_size=(4, *SHAPE))
    found = inspection.inspect(config)
    assert found.findings == []
    assert found.summary["splits"]["train"]["sizes"]["largest"] == [4, *SHAPE]
    assert inspection.contact_sheet(found, config).shape[-1] == 3


def test_volumes_that_point_different_ways_are_counted(tmp_path):
    """Whatever the split that they are in; training goes on."""
    for i, signs in enumerate(((1, 1), (-1, -1), (1, 1), (1, 1))):
        for directory, array in (
            ("images", noise(i, (6, 8, 8))),
            ("masks", noise(i, (6, 8, 8), 3)),
        ):
            (tmp_path / directory).mkdir(exist_ok=True)
            volume = nibabel.Nifti1Image(array, np.diag((*signs, 1.0, 1.0)))
            nibabel.save(volume, tmp_path / directory / f"{i}.nii.gz")
    config = folder(tmp_path, channels=1, image_size=(6, 8, 8))
    found = inspection.inspect(config)
    assert not found.stops
    assert kinds(found)["orientation"] == [
        f"the axes of volumes point to RAS in 3, as {tmp_path}/images/0.nii.gz, LPS in 1, as "
        f"{tmp_path}/images/1.nii.gz"
    ]
    train, evaluation = found.summary["splits"].values()
    assert train["orientations"] == {"RAS": 2, "LPS": 1}
    assert evaluation["orientations"] == {"RAS": 1}
    (_, _, rows), _ = inspection.tables(found.summary)
    assert ["orientations", "RAS (2), LPS (1)", "RAS"] in rows
    same = inspection.inspect(dataclasses.replace(config, train_split="[2:3]"))
    assert "orientation" not in kinds(same)


def test_sketches_tell_images_apart():
    """The same image with noise, lighter or in half the size is near, others are far."""
    smooth = np.linspace(0, 3, 64)
    image = (
        100
        + 40 * np.sin(smooth[:, None] * 2 + 3 * np.cos(smooth[None]))
        + 30 * np.sin(9 * smooth[None])
    )
    image = image[..., None].repeat(3, -1)
    sketch = inspection._sketch(image.astype(np.uint8))

    def distance(other):
        return int(np.bitwise_count(sketch ^ inspection._sketch(other)).sum())

    assert (
        distance((image + np.random.default_rng(0).normal(0, 2, image.shape)).astype(np.uint8))
        <= 10
    )
    assert distance((image * 1.2).astype(np.uint8)) <= 10
    assert distance(image[:, ::-1].astype(np.uint8)) > 40
    assert distance(noise(0, (64, 64, 3))) > 40
    assert inspection._sketch(np.zeros((8, 8, 1), np.uint8)) is None


def test_inspect_tells_of_orientation_tags(tmp_path):
    """Of a square picture, or one upside down, no size tells that a viewer shows it otherwise."""
    make(tmp_path)
    for i, orientation in enumerate((1, 3, None)):
        path = tmp_path / "images" / f"{i}.png"
        with Image.open(path) as image:
            exif = Image.Exif()
            if orientation:
                exif[0x0112] = orientation
            image.save(path.with_suffix(".jpg"), exif=exif)
        path.unlink()
    found = inspection.inspect(folder(tmp_path))
    lines = [f"{tmp_path / 'images' / '1.jpg'} has an orientation tag, which is ignored"]
    assert kinds(found)["orientation tag"] == lines
    assert not found.stops


def test_inspect_as_a_command(tmp_path):
    """Of a good folder, a bad one and none; what it leaves needs nothing else."""
    make(tmp_path / "good")
    printed = run("inspect", tmp_path / "good", f"--output={tmp_path / 'out'}")
    assert "24x32" in printed
    assert "jaxseg.data new" in printed
    assert {x.name for x in (tmp_path / "out").iterdir()} == set(inspection.FILES)
    html = (tmp_path / "out" / "inspection.html").read_text()
    assert html.count("data:image/png;base64,") == 1
    assert "http" not in html.replace("https://", "")
    assert "Training can read all of it." in html
    summary = json.loads((tmp_path / "out" / "inspection.json").read_text())
    assert summary["splits"]["train"]["images"] == 4
    with Image.open(tmp_path / "out" / "contact_sheet.png") as sheet:
        assert sheet.size[0] > 2 * 176
    (tmp_path / "good" / "masks" / "2.png").write_bytes(b"no image")
    printed = run("inspect", tmp_path / "good", f"--output={tmp_path / 'bad'}", code=1)
    assert "unreadable: 1, which stop training" in printed
    assert "2.png" in printed
    assert "Training would stop" in (tmp_path / "bad" / "inspection.html").read_text()


def test_bad_commands_are_said_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["jaxseg.data", "inpsect"])
    with pytest.raises(SystemExit, match="2"):
        main()
    said = "error: 'inpsect' is no command of jaxseg.data; did you mean inspect?\n"
    assert capsys.readouterr().err == said
    assert run("inspect", "a", "b", code=2).startswith("error: unexpected argument 'b'; ")


def names(config, split):
    source = open_source(config, split)
    return [source.name(index) for index in range(len(source))]


def equal(config, found):
    """That both configs make the same examples, bit for bit, in both splits."""
    for one, other in ((config.train_split, "train"), (config.eval_split, "validation")):
        sources = open_source(config, one), open_source(found, other)
        assert len(sources[0]) == len(sources[1])
        loads = [make_loader(x, y) for x, y in zip(sources, (config, found), strict=True)]
        for index in range(len(sources[0])):
            for draw in (-1, 3):
                examples = [load(index, draw) for load in loads]
                jax.tree.map(np.testing.assert_array_equal, *examples)
                assert [x.dtype for x in examples[0][:3]] == [x.dtype for x in examples[1][:3]]


def written(root):
    """The digests of all files of a data set."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


def test_prepared_examples_are_the_same(tmp_path):
    """Of images of several sizes and modes, with ids of 16 bits; and by two processes as by one."""
    make(tmp_path / "in", channels=1)
    save(tmp_path / "in" / "images" / "1.png", noise(1, (30, 20, 4)))
    save(tmp_path / "in" / "masks" / "1.png", noise(2, (30, 20), 900, np.uint16))
    config = folder(
        tmp_path / "in", masks="borders", patch_size=(8, 8), foreground=0.5, image_size=(32, 32)
    )
    found = preparation.prepare(config, tmp_path / "one", name="mine")
    equal(config, found)
    source, stored = open_source(found, "train"), open_source(config, "[:3]")
    assert source[1].mask.dtype == np.uint16
    np.testing.assert_array_equal(source[1].image, stored[1].image)
    preparation.prepare(config, tmp_path / "two", name="mine", workers=2)
    assert written(tmp_path / "one") == written(tmp_path / "two")


def test_prepared_votes_colours_and_volumes(tmp_path):
    for i in range(4):
        save(tmp_path / "votes" / "images" / f"{i}.png", noise(i))
        save(tmp_path / "votes" / "masks" / f"{i}.npy", noise(i, (3, *SHAPE), 3))
        save(tmp_path / "colours" / "images" / f"{i}.png", noise(i))
        indices = noise(i, SHAPE, 3)
        save(tmp_path / "colours" / "masks" / f"{i}.png", np.eye(3, dtype=np.uint8)[indices] * 255)
        size = (6, 5, 4 + i)
        dtype = (np.float32, np.int16)[i % 2]  # as NIfTI files of one data set may have
        save(tmp_path / "nifti" / "images" / f"{i}.nii.gz", noise(i, size, 99, dtype))
        save(tmp_path / "nifti" / "masks" / f"{i}.nii.gz", noise(i, size, 3))
    red, green, blue = (tuple(x) for x in (np.eye(3, dtype=int) * 255).tolist())
    configs = {
        "votes": {"masks": "votes"},
        "colours": {"colours": (red, green, blue)},
        "nifti": {
            "channels": 1,
            "bits": 16,
            "value_percentiles": (1.0, 99.0),
            "spacing": (1.0, 1.0, 1.0),
            "image_size": (8, 8, 16),
        },
    }
    for name, fields in configs.items():
        config = folder(tmp_path / name, **fields)
        found = preparation.prepare(config, tmp_path / "out")
        assert found.name == name
        equal(config, found)


def test_prepared_examples_keep_their_names(tmp_path, monkeypatch):
    """In parts of splits and over shards, too; by them evaluations and errors call examples."""
    monkeypatch.setattr(preparation, "_SHARD_BYTES", 2 * 24 * 32 * 4)
    make(tmp_path / "some", 9)
    config = folder(tmp_path / "some", train_split="[:7]", eval_split="[7:]")
    found = preparation.prepare(config, tmp_path / "out")
    assert len(list((tmp_path / "out").rglob("*train*array_record*"))) == 4
    stored = names(config, "[:]")
    assert stored[0] == f"{tmp_path}/some/images/0.png with mask {tmp_path}/some/masks/0.png"
    assert names(found, "train") == stored[:7]
    assert names(found, "validation") == stored[7:]
    assert names(found, "train[3:6]") == stored[3:6]
    assert names(found, "validation[:1]+train[5:]") == [stored[7], *stored[5:7]]
    wrong = dataclasses.replace(found, classes=("a",))
    with pytest.raises(DataError, match=r"some/images/0.png with mask .*: mask value"):
        make_loader(open_source(wrong, "train"), wrong)(0)
    (tmp_path / "out" / "some" / "1.0.0" / "names.json").unlink()  # as those made before
    assert names(found, "train")[3] == "some train example 3"


def test_preparing_goes_on_where_it_was_killed(tmp_path, monkeypatch):
    """Shards that are there are kept, and the bytes are those of a straight run."""
    make(tmp_path / "in", 7)
    config = folder(tmp_path / "in", train_split="[:5]", eval_split="[5:]")
    monkeypatch.setattr(preparation, "_SHARD_BYTES", 2 * 24 * 32 * 4)  # of two examples
    preparation.prepare(config, tmp_path / "straight", name="mine")
    real, calls = os.replace, []

    def killed(source, target):
        calls.append(target)
        if len(calls) == 4:  # the plan and two shards were
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        preparation.prepare(config, tmp_path / "out", name="mine")
    monkeypatch.setattr(os, "replace", real)
    begun = tmp_path / "out" / "mine.begun"
    shards = sorted(x for x in begun.iterdir() if "-of-" in x.name)
    assert [x.name[-14:] for x in shards[:2]] == ["00000-of-00003", "00001-of-00003"]
    assert len(shards) == 2
    # What a process leaves that had no time to clean up.
    begun.joinpath("mine-train.array_record-00002-of-00003.12345678.tmp").write_bytes(b"half")
    before = [x.stat().st_mtime_ns for x in shards[:2]]
    found = preparation.prepare(config, tmp_path / "out", name="mine")
    root = tmp_path / "out" / "mine" / "1.0.0"
    assert [(root / x.name).stat().st_mtime_ns for x in shards[:2]] == before
    assert written(tmp_path / "out") == written(tmp_path / "straight")
    assert [x.name for x in (tmp_path / "out").iterdir()] == ["mine"]
    equal(config, found)
    again = preparation.prepare(config, tmp_path / "out", name="mine")  # nothing is left to do
    assert again == found
    assert written(tmp_path / "out") == written(tmp_path / "straight")


def test_other_data_are_not_mixed_in(tmp_path, monkeypatch):
    make(tmp_path / "in")
    config = folder(tmp_path / "in")
    preparation.prepare(config, tmp_path / "out", name="mine")
    with pytest.raises(DataError, match="holds other data"):
        preparation.prepare(
            folder(tmp_path / "in", eval_split="[4:]"), tmp_path / "out", name="mine"
        )
    shutil.rmtree(tmp_path / "out")

    def broken(*_, **__):
        raise DataError("broken")

    with monkeypatch.context() as patched:
        patched.setattr(preparation, "write", broken)
        with pytest.raises(DataError, match="broken"):
            preparation.prepare(config, tmp_path / "out", name="mine")
    save(tmp_path / "in" / "images" / "0.png", noise(99))
    with pytest.raises(DataError, match="files that have changed since"):
        preparation.prepare(config, tmp_path / "out", name="mine")


@pytest.mark.parametrize(
    ("name", "said"),
    [("cityscapes", "of tensorflow-datasets"), ("Mine!", "can't be that of a data set")],
)
def test_names_that_cannot_be_used(tmp_path, name, said):
    make(tmp_path)
    with pytest.raises(DataError, match=said):
        preparation.prepare(folder(tmp_path), tmp_path / "out", name=name)


def test_under_beam(tmp_path):
    """With Beam's local runner, the same bytes; without the package, a line that names it."""
    make(tmp_path / "in")
    config = folder(tmp_path / "in")
    options = ("--runner=FnApiRunner",)
    try:
        import apache_beam  # noqa: F401
    except ImportError:
        with pytest.raises(DataError, match=r"pip install 'jaxseg\[beam\]'"):
            preparation.prepare(config, tmp_path / "beam", beam_options=options)
        return
    preparation.prepare(config, tmp_path / "beam", name="mine", beam_options=options)
    preparation.prepare(config, tmp_path / "plain", name="mine")
    assert written(tmp_path / "beam") == written(tmp_path / "plain")
    (tmp_path / "in" / "masks" / "2.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"^\S*masks/2.png can't be read as a mask .*remove it$"):
        preparation.prepare(config, tmp_path / "bad", name="mine", beam_options=options)


def test_prepare_as_a_command(tmp_path):
    """Training takes the fields that it prints."""
    printed = run("prepare", f"--output={tmp_path}", "--name=demo", "--workers=1")
    *_, fields = printed.strip().splitlines()
    changes = dict(x.removeprefix("--config.data.").split("=") for x in fields.split())
    assert changes == {"name": "demo", "root": str(tmp_path), "label": "mask"}
    assert len(open_source(Data(**changes), "train")) == 12


def test_prepare_says_that_it_skips_nothing(tmp_path):
    make(tmp_path / "some", 5, channels=1)
    (tmp_path / "some" / "masks" / "2.png").write_bytes(b"")
    fields = {"name": "folder", "root": tmp_path / "some", "image": "images", "label": "masks"}
    fields |= {"train_split": "[:3]", "eval_split": "[3:]", "unreadable": "skip"}
    options = [f"--config.data.{key}={value}" for key, value in fields.items()]
    said = run("prepare", f"--output={tmp_path}", "--workers=1", *options, code=2)
    assert "prepare stops at what can't be read, also with data.unreadable" in said
    assert "masks/2.png can't be read as a mask" in said


def test_prepare_has_no_room(tmp_path, monkeypatch):
    """What array_record raises is said in a line, and the same command goes on."""
    make(tmp_path)
    config = folder(tmp_path)
    written, adapter = [], preparation.tfds.core.file_adapters.ArrayRecordFileAdapter

    def write_examples(path, records):
        written.append(path)
        raise RuntimeError("write() failed: No space left on device; writing x; at byte 9")

    with monkeypatch.context() as patched:
        patched.setattr(adapter, "write_examples", write_examples)
        with pytest.raises(
            DataError, match=r"mine-train\S* can't be written \(write\(\) failed: No space left "
        ):
            preparation.prepare(config, tmp_path / "out", name="mine")
    assert len(written) == 1
    equal(config, preparation.prepare(config, tmp_path / "out", name="mine"))


LAYOUTS = {
    "plain": (("images", "masks"), ("images", "masks", "[:80%]", "[80%:]")),
    "camvid": (
        ("train", "trainannot", "val", "valannot"),
        ("{split}", "{split}annot", "train", "val"),
    ),
    "by split": (
        ("train/images", "train/labels", "test/images", "test/labels"),
        ("{split}/images", "{split}/labels", "train", "test"),
    ),
    "by kind": (
        ("img/training", "gt/training", "img/validation", "gt/validation"),
        ("img/{split}", "gt/{split}", "training", "validation"),
    ),
    "voc": (
        ("JPEGImages", "SegmentationClass"),
        ("JPEGImages", "SegmentationClass", "[:80%]", "[80%:]"),
    ),
    "no masks to train on": (
        ("train/images", "val/images", "val/masks"),
        ("val/images", "val/masks", "[:80%]", "[80%:]"),
    ),
    "two kinds of masks": (
        ("images", "masks", "depth"),
        ("images", "masks", "[:80%]", "[80%:]"),
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_are_found(tmp_path, layout):
    directories, expected = LAYOUTS[layout]
    for directory in directories:
        save(tmp_path / directory / "a.png", noise(0))
    assert page.find(tmp_path)[:4] == expected


def test_new_splits_by_no_order(tmp_path):
    """What the first names have in common is in both parts, unless they would be too uneven."""
    make(tmp_path / "many", 100)
    found = page.understand(tmp_path / "many")
    data = found.config.data
    assert data.split_by == "hash"
    assert "data.group" in found.comments["split_by"]
    source = open_source(data, data.eval_split)
    numbers = [
        int(pathlib.Path(source.name(i).split(" with ")[0]).stem) for i in range(len(source))
    ]
    assert 10 <= len(numbers) <= 30
    assert min(numbers) < 20
    make(tmp_path / "few", 5)  # of which three have hashes above 80 %
    assert page.find(tmp_path / "few").split_by == "order"


def test_new_prefers_a_table_to_directories(tmp_path):
    """Since a table may say splits and groups, which a directory can't."""
    make(tmp_path, 5)
    rows = [f"images/{i}.png,masks/{i}.png,{('train', 'val')[i % 2]}" for i in range(5)]
    (tmp_path / "index.csv").write_text("\n".join(["image,mask,split", *rows]))
    found = page.find(tmp_path)
    assert (found.listing, found.train_split, found.eval_split) == ("index.csv", "train", "val")
    assert len(found.pairs) == 3
    for other in ("image,mask\nnumber one,number two", "image,mask\na," + "1 " * 70_000):
        (tmp_path / "index.csv").write_text(other)
        assert page.find(tmp_path)[:2] == ("images", "masks")
    with pytest.raises(DataError, match=r"index\.csv can't be read as CSV \(field larger than"):
        open_source(folder(tmp_path, listing="index.csv"), "[:]")


@pytest.mark.parametrize("suffix", [".npz", ".mat", ".npy", ".tif"])
def test_masks_of_annotators_in_one_file(tmp_path, suffix):
    raters = [noise(i, (2 + i % 2, *SHAPE), 2) for i in range(5)]
    make(tmp_path, 5, mask="drawn masks")
    for i, masks in enumerate(raters):
        (tmp_path / "drawn masks" / f"{i}.png").unlink()
        path = tmp_path / "drawn masks" / f"{i}{suffix}"
        if suffix == ".mat":
            of_each = np.empty((1, len(masks)), object)
            for k, mask in enumerate(masks):
                of_each[0, k] = {"Boundaries": mask}
            scipy.io.savemat(path, {"groundTruth": of_each})
        elif suffix == ".tif":
            first, *others = map(Image.fromarray, masks)
            first.save(path, save_all=True, append_images=others)
        else:
            (np.savez if suffix == ".npz" else np.save)(path, masks)
    found = page.understand(tmp_path)
    data = found.config.data
    assert (data.label, data.masks, data.classes) == (
        "drawn masks",
        "votes",
        ("background", "object"),
    )
    assert f"of .png, {suffix}; 5 of them" in found.lines[0]
    example = make_loader(open_source(data, "[:1]"), data)(0)
    np.testing.assert_array_equal(example.labels.sum(-1), np.full(SHAPE, 2))
    np.testing.assert_array_equal(example.labels[..., 1], raters[0].sum(0))


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_amounts_of_classes_in_one_file(tmp_path, suffix):
    make(tmp_path, 5)
    for i in range(5):
        (tmp_path / "masks" / f"{i}.png").unlink()
        shares = np.random.default_rng(i).dirichlet(np.ones(4), SHAPE).astype(np.float32)
        (np.savez if suffix == ".npz" else np.save)(tmp_path / "masks" / f"{i}{suffix}", shares)
    data = page.understand(tmp_path).config.data
    assert (data.masks, data.classes) == ("shares", ("class_0", "class_1", "class_2", "class_3"))
    assert not inspection.inspect(data).stops
    (tmp_path / "masks" / f"0{suffix}").unlink()
    save(tmp_path / "masks" / "0.png", noise(0, SHAPE, 2))
    with pytest.raises(DataError, match=r'data\.masks="shares" takes, and others "classes"'):
        page.understand(tmp_path)


def test_masks_in_jpeg_are_refused(tmp_path):
    """Its artefacts would become classes."""
    for i in range(5):
        save(tmp_path / "images" / f"{i}.png", noise(i))
        save(tmp_path / "masks" / f"{i}.jpg", 255 * noise(i, SHAPE, 2))
    with pytest.raises(DataError, match=r"masks/0\.jpg is JPEG, which changes .* as PNG"):
        page.understand(tmp_path)


def test_archives_of_class_indices_are_refused(tmp_path):
    make(tmp_path, 1)
    (tmp_path / "masks" / "0.png").unlink()
    np.savez(tmp_path / "masks" / "0.npz", noise(0, SHAPE, 2))
    with pytest.raises(DataError, match=r"0\.npz holds uint8\[24, 32\].* as PNG or \.npy"):
        page.understand(tmp_path)


@pytest.mark.parametrize(
    ("places", "label"),
    [
        (("masks/rater1", "masks/rater2"), "masks/rater{rater}"),
        (("masks/Expert_a", "masks/Expert_b", "masks/Expert_c"), "masks/Expert{rater}"),
        (("annotator1", "annotator2"), "annotator{rater}"),
        (("masks/1", "masks/2"), None),
    ],
)
def test_directories_of_annotators(tmp_path, places, label):
    for place in places:
        make(tmp_path, 4, mask=place)
    found = page.understand(tmp_path)
    data = found.config.data
    hint = "masks/1 have masks of the same names; if they are of other annotators, write data.label"
    if label is None:
        assert (data.label, data.masks) == ("masks/2", "classes")
        assert f'{hint}="masks/{{rater}}" and data.masks="votes"' in found.lines
        data = dataclasses.replace(data, label="masks/{rater}", masks="votes")
    else:
        assert (data.label, data.masks) == (label, "votes")
        assert not any("of the same names" in line for line in found.lines)
    example = make_loader(open_source(data, "[:1]"), data)(0)
    np.testing.assert_array_equal(example.labels.sum(-1), np.full(SHAPE, len(places)))


def test_directories_of_annotators_in_splits(tmp_path):
    for split in ("train", "val"):
        for rater in "ab":
            make(tmp_path, 3, image=f"{split}/img", mask=f"{split}/gt/reader_{rater}")
    found = page.find(tmp_path)
    assert found[:4] == ("{split}/img", "{split}/gt/reader{rater}", "train", "val")
    assert len(found.pairs) == 6


@pytest.mark.parametrize("named", [True, False])
def test_tables_of_pairs_are_found(tmp_path, named):
    """Where names say nothing, and with the splits that it has."""
    rows = ["image,mask,split"]
    for i in range(5):
        save(tmp_path / "x" / f"{i} in.png", noise(i))
        save(tmp_path / "y" / f"{i} out.png", noise(i, SHAPE, 3))
        rows.append(f"x/{i} in.png,y/{i} out.png,{('train', 'test')[i > 2] if named else ''}")
    (tmp_path / "a.csv").write_text("id,n\n0,1\n")
    (tmp_path / "index.csv").write_text("\n".join(rows))
    found = page.understand(tmp_path)
    data = found.config.data
    wanted = ("train", "test") if named else ("[:80%]", "[80%:]")
    assert (data.listing, data.train_split, data.eval_split) == ("index.csv", *wanted)
    assert found.lines[0].startswith(f"files: {3 if named else 5} pairs in {tmp_path}/x")
    assert f"trains on {wanted[0]}, evaluates {wanted[1]}, as listed in index.csv" in found.lines
    assert len(open_source(data, data.train_split)) == (3 if named else 4)
    written = {}
    exec(page.render(found, tmp_path / "page.py"), written)
    assert written["get_config"]().data == data


def test_lists_of_names_are_found(tmp_path):
    make(tmp_path, image="JPEGImages", mask="SegmentationClass")
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("0\n1\n2\n")
    (lists / "val.txt").write_text("3\n4\n")
    found = page.find(tmp_path)
    assert found.listing == "ImageSets/Segmentation/{split}.txt"
    assert (found.train_split, found.eval_split, len(found.pairs)) == ("train", "val", 3)


def test_folders_that_are_not_understood(tmp_path):
    make(tmp_path, mask="images2", image="other")
    shutil.rmtree(tmp_path / "images2")
    with pytest.raises(DataError, match=r"it has other \(5 files\)"):
        page.find(tmp_path)
    save(tmp_path / "other" / "0.tif", noise(0))
    with pytest.raises(DataError, match="have the same name"):
        page.find(tmp_path)


def test_new_says_what_would_stop(tmp_path):
    """A page is written, but an image without a mask is not kept quiet."""
    make(tmp_path, 5)
    (tmp_path / "masks" / "2.png").unlink()
    *_, line = page.understand(tmp_path).lines
    assert line.startswith("training would stop: ")
    assert "'2'" in line


def test_pages_of_folders_with_odd_names(tmp_path):
    """What ends a docstring, or escapes in one, may be in a name."""
    root = tmp_path / 'a"""b\\n'
    make(root, 4)
    found = page.understand(root)
    written = {}
    exec(page.render(found, root / "page.py"), written)
    assert written["get_config"]().data.root == str(root)
    assert 'a"""b\\n' in written["__doc__"]


def test_configs_that_no_data_fit(tmp_path):
    make(tmp_path, 2)
    with pytest.raises(DataError, match=r"data.threads is 0, but must be at least 1"):
        inspection.inspect(folder(tmp_path, threads=0))
    cached = folder(tmp_path, cache=str(tmp_path / "images" / "0.png"))
    with pytest.raises(DataError, match=r"data.cache is .*0.png, which can't be a directory"):
        make_loader(open_source(cached, "[:]"), cached)


def test_directories_of_cases_are_no_pair(tmp_path):
    """An image of one case is no mask of another's, though their files are called alike."""
    for case in ("case0", "case1"):
        save(tmp_path / case / "image.png", noise(0))
        save(tmp_path / case / "mask.png", noise(1, SHAPE, 2))
    with pytest.raises(DataError, match="has no two directories of images and masks"):
        page.find(tmp_path)


def understood(root, masks, image=noise):
    """The data and comments of a folder with these masks."""
    for i, mask in enumerate(masks):
        save(root / "images" / f"{i}.png", image(i))
        save(root / "masks" / f"{i}.png", mask)
    found = page.understand(root)
    assert not inspection.inspect(found.config.data).stops
    return found.config.data, found.comments


def values(*listed):
    """Masks that hold these values."""
    return [np.array(listed, np.uint8)[noise(i, SHAPE, len(listed))] for i in range(5)]


def test_classes_of_masks(tmp_path):
    found, _ = understood(tmp_path / "a", values(0, 255))
    assert found.classes == ("background", "object")
    assert found.label_map == ((0, 0), (255, 1))
    assert found.ignore_label == -1
    found, _ = understood(tmp_path / "b", values(0, 1))
    assert found.classes == ("background", "object")
    assert found.label_map == ()
    found, comments = understood(tmp_path / "c", values(0, 1, 3, 255))
    assert found.classes == ("class_0", "class_1", "class_2", "class_3")
    assert found.ignore_label == 255
    assert "?" in comments["ignore_label"]
    found, _ = understood(tmp_path / "e", values(1, 2, 3, 255))
    assert found.classes == ("value_1", "value_2", "value_3")
    assert found.label_map == ((1, 0), (2, 1), (3, 2))
    assert found.ignore_label == 255
    found, _ = understood(tmp_path / "d", values(0, 80, 160, 240))
    assert found.classes == ("value_0", "value_80", "value_160", "value_240")
    assert found.label_map == ((0, 0), (80, 1), (160, 2), (240, 3))


@pytest.mark.parametrize(
    ("listed", "classes", "label_map"),
    [
        ((-1, 0, 1), ("background", "object"), ()),
        ((-1, 0, 1, 2), ("class_0", "class_1", "class_2"), ()),
        ((-1, 0, 255), ("background", "object"), ((0, 0), (255, 1))),
        ((-1, 10, 99), ("value_10", "value_99"), ((10, 0), (99, 1))),
    ],
)
def test_minus_one_does_not_count(tmp_path, listed, classes, label_map):
    make(tmp_path, 5)
    for i in range(5):
        (tmp_path / "masks" / f"{i}.png").unlink()
        mask = np.array(listed, np.int16)[noise(i, SHAPE, len(listed))]
        save(tmp_path / "masks" / f"{i}.npy", mask)
    found = page.understand(tmp_path)
    data = found.config.data
    assert (data.classes, data.label_map, data.ignore_label) == (classes, label_map, -1)
    summary = inspection.inspect(data).summary["splits"]["train"]
    assert summary["ignored_pixels"] == summary["mask_values"]["-1"] > 0


def test_colours_of_masks(tmp_path):
    colours = np.array([(255, 0, 0), (0, 0, 0), (0, 128, 0)], np.uint8)
    found, comments = understood(tmp_path, [colours[noise(i, SHAPE, 3)] for i in range(5)])
    assert found.colours == ((0, 0, 0), (0, 128, 0), (255, 0, 0))
    assert found.classes == ("class_0", "class_1", "class_2")
    assert "colours" in comments
    for i in range(5):
        save(tmp_path / "masks" / f"{i}.png", noise(i))
    with pytest.raises(DataError, match="more than 256 colours"):
        page.understand(tmp_path)


def test_ids_of_objects(tmp_path):
    """Each id is one square, and how many there are differs; labels of classes don't."""
    masks = []
    for i in range(5):
        mask = np.zeros(SHAPE, np.uint16)
        for number in range(14 + i):
            row, column = divmod(number, 8)
            mask[8 * row : 8 * row + 6, 4 * column : 4 * column + 3] = 1 + number
        masks.append(mask)
    found, comments = understood(tmp_path / "ids", masks)
    assert found.masks == "borders"
    assert len(found.classes) == 3
    assert "instances" in comments["masks"]
    assert "?" in comments["masks"]
    found, _ = understood(tmp_path / "classes", [noise(i, SHAPE, 18) for i in range(5)])
    assert found.masks == "classes"
    assert len(found.classes) == 18


def test_images_decide_channels_bits_and_statistics(tmp_path):
    grey = [noise(i, (*SHAPE, 1)).repeat(3, -1) for i in range(5)]
    found, comments = understood(tmp_path / "grey", values(0, 1), grey.__getitem__)
    assert found.channels == 1
    assert "RGB" in comments["channels"]
    np.testing.assert_allclose(found.mean[0], np.mean(grey[:4]) / 255, atol=1e-4)
    np.testing.assert_allclose(found.std[0], np.std(grey[:4]) / 255, atol=1e-4)
    found, _ = understood(
        tmp_path / "wide", values(0, 1), lambda i: noise(i, SHAPE, 4096, np.uint16)
    )
    assert (found.channels, found.bits, found.value_range) == (1, 16, (0.0, 4095.0))
    found, comments = understood(tmp_path / "alpha", values(0, 1), lambda i: noise(i, (*SHAPE, 4)))
    assert found.channels == 3
    assert "alpha" in comments["channels"]


def test_sizes_and_memory(tmp_path, monkeypatch):
    """Large images are cut into patches, or scaled down where even one does not fit."""
    for i in range(4):
        shape = (600, 500 + 4 * i)
        save(tmp_path / "images" / f"{i}.png", noise(i, (*shape, 3)))
        save(tmp_path / "masks" / f"{i}.png", noise(i, shape, 2))
    monkeypatch.setattr(page, "available_memory", lambda device: 64e9)
    config = page.understand(tmp_path).config
    assert config.data.image_size == (608, 512)
    assert config.data.patch_size == (256, 256)
    assert config.batch_size == jax.device_count()
    assert config.eval_batch_size == jax.device_count()
    monkeypatch.setattr(page, "available_memory", lambda device: 1e8)
    config = page.understand(tmp_path).config
    assert config.data.patch_size == ()
    assert config.data.image_size == (558, 470)  # of 512^2 pixels
    assert page.available_memory(None) == 1e8
    monkeypatch.undo()
    assert page.available_memory(jax.local_devices()[0]) > 1e8


@pytest.mark.parametrize(
    ("suffix", "fourth", "channels"),
    [(".tif", None, 4), (".npy", None, 4), (".tif", 255, 3), (".npy", 255, 3), (".png", None, 3)],
)
def test_a_fourth_channel_is_alpha_or_not(tmp_path, suffix, fourth, channels):
    """That of a PNG file always is; of others, where it says that all is opaque."""
    make(tmp_path, 5)
    for i in range(5):
        (tmp_path / "images" / f"{i}.png").unlink()
        image = noise(i, (*SHAPE, 4))
        if fourth is not None:
            image[..., 3] = fourth
        save(tmp_path / "images" / f"{i}{suffix}", image)
    found = page.understand(tmp_path)
    assert found.config.data.channels == channels
    assert not inspection.inspect(found.config.data).stops
    told = "alpha is dropped" if channels == 3 else "the fourth is no alpha"
    assert told in found.comments["channels"]


def test_volumes_are_understood(tmp_path):
    make(tmp_path, suffix=".nii.gz", shape=(10, 12, 14), channels=1)
    found = page.understand(tmp_path).config
    assert found.data.image_size == (10, 12, 14)
    assert found.data.channels == 1
    assert found.model.norm == "group"
    assert not found.augment.flip_horizontal


@pytest.mark.exhaustive
def test_new_writes_a_page_that_trains(tmp_path):
    """As ruff formats it, with many classes and a folder of an odd, long name."""
    root = tmp_path / ("deep" * 20) / ('the "best" data ' + "x" * 60)
    make(root, classes=30, image="train", mask="trainannot")
    for directory in ("train", "trainannot"):
        shutil.copytree(root / directory, root / directory.replace("train", "val"))
    path = tmp_path / "pages" / "mine.py"
    printed = run("new", root, f"--output={path}")
    assert "30 classes" in printed
    assert "trains on train, evaluates val" in printed
    for command in (("check",), ("format", "--check")):
        settings = pathlib.Path(__file__).parents[1] / "pyproject.toml"
        ruff = [sys.executable, "-m", "ruff", *command, "--config", settings, "--no-cache", path]
        done = subprocess.run(ruff, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
    config = runpy.run_path(str(path))["get_config"]()
    assert type(config) is Config
    assert config.data.root == str(root)
    assert config.data == page.understand(root).config.data
    assert "there already" in run("new", root, f"--output={path}", code=2)
    run("new", root, f"--output={path}", "--overwrite")
    args = (f"--config={path}", "--config.steps=2", "--config.model.widths=4,8")
    done = subprocess.run(
        [sys.executable, "-m", "jaxseg.train", *args, f"--workdir={tmp_path}/run"],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "best checkpoint" in done.stdout.replace("Best checkpoint", "best checkpoint")


def test_real_folders_are_understood(shared_data):
    """CamVid's split and statistics, and the ids of nuclei."""
    found = page.find(shared_data / "camvid")
    assert found[:4] == ("{split}", "{split}annot", "train", "val")
    assert len(found.pairs) == 367
    found = page.find(shared_data / "dsb2018")
    seen = [page.look(*pair) for pair in found.pairs[::40]]
    comments = {}
    assert page._of_masks(seen, comments)["masks"] == "borders"
