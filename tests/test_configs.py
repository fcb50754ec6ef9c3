"""Every page in configs/ builds: its data fields, model, loss, optimizer and one training step."""

import dataclasses
import functools
import importlib.util
import json
import pathlib

import jax
import numpy as np
import pytest

from jaxseg import Batch, config, data, losses, optim, parallel, steps
from jaxseg.data.pipeline import make_loader
from jaxseg.evaluate import make_model

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
    step = steps.make_train_step(
        model.apply,
        losses.weighted_sum(run.loss),
        optimizer,
        prepare=functools.partial(
            data.augment,
            config=run.augment,
            mean=run.data.mean,
            std=run.data.std,
            axis_name=parallel.AXIS,
        ),
        seed=run.seed,
        axis_name=parallel.AXIS,
    )
    state = jax.eval_shape(lambda: steps.init_state(model, optimizer, 0, ema=False))
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
    assert set(scalars) == {"loss", "grad_norm", "param_norm"} | {
        f"loss/{name}" for name, *_ in run.loss
    }
    assert run.batch_size % 8 == 0, "must run on the 8 cores of a TPU host"


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
