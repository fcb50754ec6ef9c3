"""Every page in configs/ builds: its data fields, model, loss, optimizer and one training step."""

import dataclasses
import functools
import importlib.util
import itertools
import json
import pathlib

import jax
import nibabel
import numpy as np
import pytest
from PIL import Image

from jaxseg import Batch, config, data, losses, optim, parallel, steps
from jaxseg.data.pipeline import make_loader
from jaxseg.evaluate import make_model
from jaxseg.teachers import make_teaching
from jaxseg.train import train

PAGES = sorted((pathlib.Path(__file__).parents[1] / "configs").glob("*.py"))


def load(page):
    spec = importlib.util.spec_from_file_location(page.stem, page)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def test_the_pages_are_there():
    names = {page.stem for page in PAGES}
    assert {"nuclei", "oxford_iiit_pet", "cityscapes", "pascal_voc", "folder"} <= names


def test_nuclei_is_the_default():
    """Without --config, the run is that of configs/nuclei.py."""
    assert load(next(p for p in PAGES if p.stem == "nuclei")) == config.get_config()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_config_survives_json(page):
    run = load(page)
    assert config.from_dict(json.loads(json.dumps(dataclasses.asdict(run)))) == run


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_config_builds_and_traces(page):
    """A training step of the page's shapes traces, and gives a state of the same shapes."""
    run = load(page)
    model = make_model(run)
    optimizer = optim.make_optimizer(run.optim, run.steps)
    prepare = functools.partial(
        data.augment,
        config=run.augment,
        mean=run.data.mean,
        std=run.data.std,
        axis_name=parallel.AXIS,
    )
    step = steps.make_train_step(
        model.apply,
        losses.weighted_sum(run.loss),
        optimizer,
        prepare=prepare,
        seed=run.seed,
        ema_decay=run.optim.ema_decay,
        axis_name=parallel.AXIS,
        teaching=make_teaching(run, model, prepare),
    )
    average = run.optim.ema_decay > 0
    state = jax.eval_shape(lambda: steps.init_state(model, optimizer, 0, ema=average))
    shape = (jax.local_device_count(), 1, *run.data.image_size)
    batch = Batch(
        jax.ShapeDtypeStruct((*shape, run.data.channels), np.uint8),
        jax.ShapeDtypeStruct(shape, np.uint8),
        jax.ShapeDtypeStruct(shape, bool),
    )
    mapped = parallel.make_runner("pmap").compile(step, donate_state=False)
    after, scalars = jax.eval_shape(mapped, state, batch)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )
    names = [name for name, *_ in run.loss] + [f"teacher/{name}" for name, *_ in run.teacher.loss]
    assert set(scalars) == {"loss", "grad_norm", "param_norm"} | {f"loss/{x}" for x in names}
    assert run.batch_size % 8 == 0, "must run on the 8 cores of a TPU host"


REAL = {  # what makes the pages of real data small
    "camvid": {
        "data": {"image_size": (90, 120), "train_split": "train[:16]", "eval_split": "val[:2]"},
        "augment": {"crop_size": (48, 64)},
    },
    "dsb2018": {
        "data": {"split_by": "order", "train_split": "[:16]", "eval_split": "[16:18]"},
        "augment": {"crop_size": (32, 32)},
    },
    "bsds500": {
        "data": {"image_size": (121, 121), "split_by": "order", "train_split": "[:16]"},
        "augment": {"crop_size": (64, 64)},
    },
    "msd_hippocampus": {"data": {"split_by": "order", "train_split": "[:16]"}},
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", REAL)
def test_pages_of_real_data_train(name, shared_data, tmp_path):
    """Two steps, an evaluation and a picture, of the page as it is but for sizes."""
    if not (shared_data / name).is_dir():
        pytest.skip(f"{shared_data / name} is absent")
    run = load(next(p for p in PAGES if p.stem == name))
    small = {"root": str(shared_data / name), "cache": "", "eval_split": "[16:18]"}
    replaced = {
        "data": dataclasses.replace(run.data, **{**small, **REAL[name]["data"]}),
        "augment": dataclasses.replace(run.augment, **REAL[name].get("augment", {})),
        "model": dataclasses.replace(run.model, widths=(4, 8)),
        "optim": dataclasses.replace(run.optim, warmup_steps=1),
    }
    run = dataclasses.replace(
        run, **replaced, steps=2, batch_size=8, eval_batch_size=2, log_every=1, pictures=1
    )
    scores = train(run, tmp_path / "run")
    assert 0 < scores["val/loss"] < 10
    assert 0 <= scores["val/mean_iou"] <= 1
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [x["step"] for x in lines if "loss" in x] == [1, 2]
    assert (tmp_path / "run" / "pictures" / "step_0000002.png").is_file()


def test_ct_has_a_window_and_parts_patients(tmp_path):
    """Volumes of a patient are on one side, and values mean what they do in all of them."""
    run = load(next(p for p in PAGES if p.stem == "ct"))
    values = np.array([-1000, -160, 40, 240, 3000], np.int16).reshape(1, 1, 5)
    for patient, scan in itertools.product(range(12), (1, 2)):
        for directory, array in (("images", values), ("labels", np.zeros_like(values))):
            path = tmp_path / directory / f"patient{patient:02}_scan{scan}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, np.diag((1.5, 1.5, 2.0, 1.0))), path)
    sides = {"root": str(tmp_path), "cache": "", "image_size": (1, 1, 5)}
    small = dataclasses.replace(run.data, **sides)
    parts = [data.open_source(small, split) for split in (small.train_split, small.eval_split)]
    units = [{part.unit(i) for i in range(len(part))} for part in parts]
    assert units[0] | units[1] == {f"patient{i:02}" for i in range(12)}
    assert not units[0] & units[1]
    assert [len(part) for part in parts] == [2 * len(each) for each in units]
    assert make_loader(parts[0], small)(0).images.ravel().tolist() == [0, 0, 128, 255, 255]


def test_vaihingen_reads_colours(tmp_path):
    """Each of its six is the class of its name, as the benchmark lists them."""
    listed = {
        "impervious surface": "ffffff",
        "building": "0000ff",
        "low vegetation": "00ffff",
        "tree": "00ff00",
        "car": "ffff00",
        "clutter": "ff0000",
    }
    run = load(next(p for p in PAGES if p.stem == "vaihingen"))
    order = np.random.default_rng(0).permutation(6)
    mask = np.array([list(bytes.fromhex(x)) for x in listed.values()], np.uint8)[order][None]
    for directory, array in (("images", np.zeros_like(mask)), ("masks", mask)):
        (tmp_path / directory).mkdir()
        Image.fromarray(array).save(tmp_path / directory / "top_mosaic_09cm_area1.tif")
    small = dataclasses.replace(run.data, root=str(tmp_path), image_size=(1, 6), cache="")
    example = make_loader(data.open_source(small, "[:]"), small)(0)
    assert [run.data.classes[i] for i in example.labels[0]] == np.array(list(listed))[
        order
    ].tolist()
    assert example.where.all()


def test_cityscapes_maps_label_ids_to_train_ids():
    """All 34 label ids become the benchmark's 19 classes, in its order, or 255."""
    run = load(next(p for p in PAGES if p.stem == "cityscapes"))
    ids = {"road": 7, "car": 26, "train": 31, "bicycle": 33}
    for name, label_id in ids.items():
        assert run.data.classes[dict(run.data.label_map)[label_id]] == name
    assert len(run.data.classes) == 19
    assert [value for value, _ in run.data.label_map] == list(range(34))
    assert sorted(c for _, c in run.data.label_map if c != 255) == list(range(19))

    small = dataclasses.replace(run.data, image_size=(1, 34))
    mask = np.arange(34, dtype=np.uint8)[None]
    example = data.Example(np.zeros((1, 34, 3), np.uint8), mask)

    class Source(list):
        def name(self, index):
            return f"example {index}"

    batch = make_loader(Source([example]), small)(0)
    expected = np.array([c for _, c in run.data.label_map])
    np.testing.assert_array_equal(batch.where[0], expected != 255)
    np.testing.assert_array_equal(batch.labels[0][batch.where[0]], expected[expected != 255])
