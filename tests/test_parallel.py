"""What is split over the devices changes no result, and lowers the memory of each."""

import dataclasses
import functools
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from test_steps import (
    ADAM,
    DEVICES,
    SGD,
    exactly,
    make_batch,
    make_step,
    on_one_device,
    prepare_train,
    run_steps,
)
from test_train import (
    Run,
    arguments,
    assert_same_run,
    by_hand,
    count_records,
    ends,
    final_state,
    make_config,
    of_two,
    records,
    start,
)
from test_train import root as root

from jaxseg import Batch, data, losses, models, optim, parallel, steps, training_step
from jaxseg.config import Config, Data, Model, Optim
from jaxseg.evaluate import Evaluator, make_init
from jaxseg.evaluate import make_model as model_of
from jaxseg.train import train

PARTITIONED = ("fsdp", "spatial")


def sixteen(step):
    """Batches whose height eight devices can share."""
    return make_batch(step, size=16)


@pytest.fixture
def all_split(monkeypatch):
    """Small arrays are split, too."""
    monkeypatch.setattr(parallel, "_SMALL", 0)


@pytest.mark.parametrize(
    "config", [pytest.param(SGD, marks=pytest.mark.exhaustive), ADAM], ids=["sgd", "adamw"]
)
@pytest.mark.parametrize("name", PARTITIONED)
@pytest.mark.usefixtures("x64", "all_split")
def test_one_device_equals_eight(config, name):
    """In float64, over several steps: normalisation over the batch, all losses, augmentation.

    Not that of split images, whose statistics are float32 and round as they are summed.
    """
    runner = parallel.make_runner(name)
    prepare = prepare_train if name == "fsdp" else lambda batch, keys: exactly(batch)
    options = {"dtype": jnp.float64, "prepare": prepare}
    wanted = run_steps(on_one_device(), *make_step(config, parallel.AXIS, **options), batch=sixteen)
    options["prepare"] = lambda batch, keys: runner.spread(prepare(batch, keys))
    step, state = make_step(config, None, **options)
    found = run_steps(runner, step, runner.place(state), batch=sixteen)
    chex.assert_trees_all_close(found, wanted, rtol=1e-11, atol=1e-12)


def wide_step(axis_name, prepare, widths):
    """A step whose parameters are worth to be split, and the maker of its state."""
    model = models.to_functional(
        lambda rngs: models.UNet(1, 3, widths=widths, axis_name=axis_name, rngs=rngs)
    )
    optimizer = optim.make_optimizer(ADAM, 10)
    step = steps.make_train_step(
        model.apply,
        losses.weighted_sum((("cross_entropy", 1.0),)),
        optimizer,
        prepare=prepare,
        seed=5,
        ema_decay=0.9,
        axis_name=axis_name,
    )
    return step, lambda: steps.init_state(model, optimizer, 5, ema=True)


def lowered(name, batch, widths=(16, 32)):
    """The program of a step of all devices."""
    runner = parallel.make_runner(name)
    step, init = wide_step(
        runner.axis_name, lambda batch, keys: runner.spread(data.normalise(batch)), widths
    )
    shapes = jax.eval_shape(init)
    state = jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
        shapes,
        runner.layout(shapes),
    )
    return runner.compile(step, donate_state=True).lower(state, runner.shard(batch))


def planned(name, batch):
    """The bytes that XLA plans for on each device: of the arguments, and besides."""
    memory = lowered(name, batch).compile().memory_analysis()
    return memory.argument_size_in_bytes, memory.temp_size_in_bytes


def test_fully_sharded_state_takes_less_memory():
    """Parameters, their two moments and their average: of all large arrays an eighth."""
    batch = make_batch(0, size=32)
    whole, split = (planned(name, batch)[0] for name in ("shard_map", "fsdp"))
    rows = sum(x.nbytes for x in batch) // DEVICES
    assert split - rows < (whole - rows) / 6


def test_split_images_take_less_memory():
    """A step of one image needs on each of eight devices less than a third of it on one alone."""
    batch = make_batch(0, images=1, size=128)
    step, init = wide_step(None, lambda batch, keys: data.normalise(batch), (16, 32))
    alone = jax.jit(step).lower(jax.eval_shape(init), batch).compile().memory_analysis()
    assert planned("spatial", batch)[1] < alone.temp_size_in_bytes / 3


@pytest.mark.parametrize("name", ["pmap", "shard_map", *PARTITIONED])
def test_replicas_alone_convolve_in_tiles(name):
    """Those of lax are in six layers forwards and for kernels, and in five for their images."""
    program = lowered(name, make_batch(0, size=32), widths=(64, 64)).as_text()
    in_tiles = 0 if name in PARTITIONED else 5 + 5 + 5
    assert program.count("stablehlo.convolution") == 6 + 6 + 5 - in_tiles


def test_layout_of_a_state():
    """The longest axis that splits evenly; all of an array that is small or has none."""
    layout = parallel.make_runner("fsdp").layout
    shapes = [(3, 3, 16, 32), (3, 3, 64, 32), (1022, 4), (1032,), (24, 40, 7), (1016,), ()]
    found = layout([jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes])
    axis = parallel.AXIS
    wanted = [(None, None, None, axis), (None, None, axis), (), (axis,), (None, axis), (), ()]
    assert [x.spec for x in found] == [PartitionSpec(*x) for x in wanted]


@pytest.mark.parametrize("name", PARTITIONED)
def test_states_come_back_whole(name):
    """What checkpoints keep is the state, however it lies."""
    runner = parallel.make_runner(name)
    state = {"w": np.arange(4096.0).reshape(64, 64), "step": np.int32(3)}
    placed = runner.place(state)
    chex.assert_trees_all_equal(parallel.on_host(placed), state)
    assert len(placed["w"].addressable_shards) == DEVICES
    share = placed["w"].addressable_data(0).size
    assert share == (512 if name == "fsdp" else 4096)
    made = parallel.run_once(lambda: jax.tree.map(jnp.asarray, state), runner)
    assert jax.tree.map(lambda x: x.sharding, made) == runner.layout(made)


@pytest.mark.parametrize("sides", [(12, 16), (4, 16, 16)])
def test_sides_that_do_not_split(sides):
    where = np.ones((1, *sides), bool)
    batch = Batch(where[..., None].astype(np.uint8), where.astype(np.uint8), where)
    with pytest.raises(ValueError, match=r"splits their first side over 8 devices; make data"):
        parallel.make_runner("spatial").shard(batch)


@pytest.mark.parametrize("name", PARTITIONED)
def test_evaluation(name):
    """Counts are those of replicas, and pictures but for a shade where the logits round."""
    config = Config(data=Data(image_size=(32, 32)), model=Model(widths=(8, 16)), eval_batch_size=8)
    config = dataclasses.replace(config, pictures=2)
    model = model_of(config)
    state = jax.jit(make_init(config, model))()
    found = []
    for kind in ("shard_map", name):
        runner = parallel.make_runner(kind)
        evaluator = Evaluator(config, model, runner, names=("accuracy",))
        placed = runner.place(state)
        confusion = evaluator.evaluation(placed).statistics["confusion"]
        found.append((confusion, evaluator.picture(placed)))
    (confusion, picture), (wanted, drawn) = found
    np.testing.assert_array_equal(confusion, wanted)
    np.testing.assert_allclose(picture.astype(int), drawn, atol=3)
    assert np.mean(picture != drawn) < 1e-3


@pytest.mark.parametrize("name", ["pmap", "fsdp"])
def test_pictures_are_of_what_is_evaluated(name, monkeypatch):
    """Of the average that schedule_free keeps in the optimizer's state, not of what is trained.

    What is split is not joined for them, and other hosts than the first draw none.
    """
    free = Optim(name="schedule_free", schedule="constant")
    config = Config(data=Data(image_size=(32, 32)), model=Model(widths=(8, 16)), optim=free)
    model, runner = model_of(config), parallel.make_runner(name)
    state = jax.jit(make_init(config, model))()
    far = jax.tree.map(lambda x: x + 1, state.opt_state.z)
    state = state._replace(opt_state=state.opt_state._replace(z=far))
    evaluator, seen = Evaluator(config, model, runner, names=("accuracy",)), []
    predict, placed = evaluator._predict, runner.place(state)
    monkeypatch.setattr(evaluator, "_predict", lambda *x: seen.append(x) or predict(*x))
    ((image, labels, where, probs),) = evaluator.examples(placed, [0])
    arrays = jax.tree.leaves(seen[0][0].params)
    held = sum(x.addressable_data(0).nbytes for x in arrays) / sum(x.nbytes for x in arrays)
    assert held == 1 if name == "pmap" else held < 0.5  # biases and small kernels are whole
    with monkeypatch.context() as patch:
        patch.setattr(parallel, "is_primary", lambda: False)
        assert evaluator.picture(placed) is None
    assert len(seen) == 1
    images = data.normalise(Batch(image[None], labels[None], where[None])).images
    params, batch_stats = state.eval_variables
    assert not np.allclose(jax.tree.leaves(params)[0], jax.tree.leaves(state.params)[0])
    wanted, _ = jax.jit(functools.partial(model.apply, train=False))(params, batch_stats, images)
    np.testing.assert_allclose(probs, jax.nn.softmax(wanted[0]), atol=1e-5)


@pytest.mark.parametrize("name", PARTITIONED)
def test_a_run_goes_on_where_it_was(name, root, tmp_path):
    """To the last bit, as if it had been killed before its last checkpoint."""
    options = {"steps": 4, "eval_every": 4, "checkpoint_every": 2, "model.widths": (8, 32)}
    config = make_config(root, parallel=name, **options)
    train(config, tmp_path / "straight")
    shutil.copytree(tmp_path / "straight", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "4")
    train(config, tmp_path / "run")
    assert_same_run(tmp_path / "run", tmp_path / "straight")


NEW_PMAP = jax.__version_info__ >= (0, 8)  # a jit of a shard_map
CALLED = {"pmap": "_fun", "shard_map": "noted", "fsdp": "run", "spatial": "run"}  # by JAX's logs


def compiled(caplog):
    """What was compiled, by its name in JAX's logs."""
    found = (
        re.match(r"Finished XLA compilation of jit\((\w+)\)", x.getMessage())
        for x in caplog.records
    )
    return [x[1] for x in found if x]


@pytest.mark.parametrize(
    "name",
    ["pmap", *(pytest.param(x, marks=pytest.mark.exhaustive) for x in ("shard_map", *PARTITIONED))],
)
@pytest.mark.usefixtures("all_split")
def test_a_run_traces_and_compiles_its_step_once(name, root, tmp_path, monkeypatch, caplog):
    """Traced before any data is read, and compiled while the state is made.

    So does one that is resumed, and one that has a teacher.
    """
    traced, opened, make, open_training = [], [], steps.make_train_step, data.open_training
    begun, compile_ahead, run_once = [], parallel.compile_ahead, parallel.run_once

    def make_train_step(*args, **options):
        step = make(*args, **options)

        def noted(*args):
            traced.append(len(opened))
            return step(*args)

        return noted

    monkeypatch.setattr(steps, "make_train_step", make_train_step)
    monkeypatch.setattr(
        data, "open_training", lambda *args: opened.append(True) or open_training(*args)
    )
    monkeypatch.setattr(
        parallel, "compile_ahead", lambda x: begun.append("compiles") or compile_ahead(x)
    )
    monkeypatch.setattr(parallel, "run_once", lambda *x: begun.append("makes") or run_once(*x))
    caplog.set_level(logging.DEBUG, "jax._src.dispatch")
    evaluations = int(CALLED[name] != "noted")  # whose step is called the same
    taught = {"teacher.workdir": str(tmp_path / "run"), "teacher.loss": (("brier", 1.0),)}
    for count, (workdir, changes) in enumerate(
        [("run", {"steps": 3}), ("run", {"steps": 6}), ("taught", {"steps": 3, **taught})]
    ):
        options = {"parallel": name, "eval_every": 3, "pictures": 0, **changes}
        caplog.clear()
        train(make_config(root, **options), tmp_path / workdir, allow_config_change=True)
        assert traced == ([count] if NEW_PMAP or name != "pmap" else [count, count + 1])
        traced.clear()
        assert begun == (["compiles"] if count == 1 else ["compiles", "makes"])  # 1 is resumed
        begun.clear()
        if NEW_PMAP:
            assert compiled(caplog).count(CALLED[name]) == 1 + evaluations


@pytest.mark.skipif(not NEW_PMAP, reason="jax before 0.8 does not compile ahead")
@pytest.mark.parametrize("name", ["pmap", "shard_map", *PARTITIONED])
def test_a_call_finds_what_was_compiled_ahead(name, caplog):
    def mean(state, batch):
        total = jnp.mean(batch.images)
        total = total if runner.axis_name is None else jax.lax.pmean(total, runner.axis_name)
        return state + total, {"mean": total}

    runner = parallel.make_runner(name)
    batch = Batch(*(np.ones((16, 8, 8), np.float32) for _ in range(3)))
    step, state = runner.compile(mean, donate_state=True), np.float32(1)
    lowered = training_step.lower(step, runner, jax.eval_shape(lambda: state), batch)
    laid = runner.place(state), runner.shard(batch)
    caplog.set_level(logging.DEBUG, "jax._src.dispatch")
    parallel.compile_ahead(lowered).result()
    assert len(compiled(caplog)) == 1
    state, _ = step(*laid)
    assert len(compiled(caplog)) == 1
    assert float(parallel.on_host(state)) == 2


@pytest.mark.parametrize("name", PARTITIONED)
def test_losses_that_sort_the_batch(name, root, tmp_path):
    """There is one batch, wherever its pixels lie, and no replicas, which refuse them."""
    loss = {"loss": (("lovasz_softmax", 1.0),), "model.widths": (4,)}
    config = make_config(root, parallel=name, steps=4, eval_every=4, pictures=0, **loss)
    train(config, tmp_path)
    assert all(0 < line["loss/lovasz_softmax"] < 1 for line in records(tmp_path)[:2])


@pytest.mark.exhaustive
def test_two_processes_plan_as_one(root, tmp_path):
    """From shapes alone, which jax.pmap itself does not lower where there are several hosts."""
    small = {"batch_size": 4, "model.widths": (2,), "data.image_size": (8, 8)}
    args = [*arguments(root, **small), "--dry_run"]
    with Run(tmp_path / "out", *args, f"--workdir={tmp_path / 'alone'}", devices=2) as run:
        code, wanted, errors = run.wait()
        assert code == 0, errors
    found = of_two(*args, f"--workdir={tmp_path / 'run'}")
    for _, errors, code in found:
        assert code == 0, errors
    assert "of 2 processes" in found[0][0]
    for name in ("a step", "memory"):
        (line,), (other,) = (
            re.findall(f"^{name} .* on each device(?:.* besides)?", text, re.M)
            for text in (found[0][0], wanted)
        )
        assert line == other


@pytest.mark.long
@pytest.mark.parametrize("name", PARTITIONED)
def test_two_processes_agree_with_one(name, root, tmp_path):
    """Also where neither has the whole state, or the whole image."""
    options = {"steps": 3, "eval_every": 3, "model.widths": (8, 32), "parallel": name}
    args = arguments(root, **options)
    with Run(tmp_path / "out", *args, f"--workdir={tmp_path / 'alone'}", devices=2) as run:
        assert run.wait()[0] == 0, run.text()
    for _, errors, code in of_two(*args, f"--workdir={tmp_path / 'run'}"):
        assert code == 0, errors
    for x, y in zip(records(tmp_path / "run"), records(tmp_path / "alone"), strict=True):
        assert x == pytest.approx(y, rel=2e-3)


def agree(found, wanted):
    """Records that differ by rounding alone at first, which then grows as it trains."""
    assert [x.keys() for x in found] == [x.keys() for x in wanted]
    for count, (x, y) in enumerate(zip(found, wanted, strict=True)):
        assert x == pytest.approx(y, rel=1e-5 if count < 3 else 5e-3)


@pytest.mark.long
@pytest.mark.parametrize("name", ["pmap", "shard_map", *PARTITIONED])
def test_four_processes_agree_with_one(name, root, tmp_path):
    """And go on under two and one, where one of the four was told to stop."""
    options = {"steps": 12, "eval_every": 6, "checkpoint_every": 4, "pictures": 0}
    args = arguments(root, **options, **{"model.widths": (8, 32), "parallel": name})
    with Run(tmp_path / "out", *args, f"--workdir={tmp_path / 'alone'}", devices=4) as run:
        assert run.wait()[0] == 0, run.text()
    wanted = records(tmp_path / "alone")

    stopped = tmp_path / "stopped"

    def stop_the_last(runs):
        end = time.monotonic() + 180
        while count_records(stopped) < 2 and time.monotonic() < end:
            assert all(run.poll() is None for run in runs)
            time.sleep(0.01)
        runs[-1].send_signal(signal.SIGTERM)

    found = ends(start(by_hand(4), *args, f"--workdir={stopped}"), meanwhile=stop_the_last)
    for _, errors, code in found:
        assert code == 0, errors
    assert "4 device(s) (cpu) of 4 processes" in found[0][0]
    at = final_state(stopped)[0][0]
    assert f"Stopped after step {at} of 12" in found[0][0]
    assert 2 <= at < 12
    agree(records(stopped), wanted[: count_records(stopped)])

    for count in (4, 2, 1):
        workdir = tmp_path / f"of-{count}"
        shutil.copytree(stopped, workdir)
        again = ends(start(by_hand(count), *args, f"--workdir={workdir}", devices=4 // count))
        for _, errors, code in again:
            assert code == 0, errors
        assert f"Resuming after step {at}" in again[0][0]
        agree(records(workdir), wanted)
        (step, state), _ = final_state(workdir)
        (_, other), _ = final_state(tmp_path / "alone")
        assert step == 12
        chex.assert_trees_all_close(state.batch_stats, other.batch_stats, rtol=1e-2, atol=1e-3)


CORES = """
import dataclasses, os, sys
import jax
from jaxseg import parallel
from jaxseg.config import Config

def taken(cores, version=(0, 10, 2), **fields):
    jax.__version_info__ = version
    os.sched_getaffinity = lambda process: set(range(cores))
    jax.config.update("jax_num_cpu_devices", -1)
    parallel.split_cores(Config(**fields))
    return jax.config.jax_num_cpu_devices

print(
    taken(6, batch_size=8), taken(6, batch_size=6), taken(6, batch_size=12, parts=3),
    taken(64, batch_size=64), taken(5, batch_size="auto"), taken(4, batch_size=7),
    taken(4, batch_size=8, parallel="shard_map"), taken(4, batch_size=8, parallel="spatial"),
    taken(4, batch_size=0), taken(4, (0, 7, 2)), taken(4, (0, 11, 0)), taken(4, (1, 10, 0)),
    taken(2, batch_size=8),
)
print(jax.device_count())
parallel.split_cores(Config(batch_size=1))  # too late, and told besides
print(jax.device_count())
"""


def test_cores_become_devices_that_the_batch_splits_over():
    def printed(**environment):
        environment = os.environ | {"JAX_PLATFORMS": "cpu"} | environment
        found = subprocess.run(
            [sys.executable, "-c", CORES], env=environment, check=True, capture_output=True
        )
        return found.stdout.decode().split("\n")

    counts, now, later, _ = printed()
    assert counts == "4 6 4 8 5 1 4 -1 4 -1 -1 -1 2"
    assert now == later == "2"
    told, now, *_ = printed(XLA_FLAGS="--xla_force_host_platform_device_count=3")
    assert set(told.split()) == {"-1"}
    assert now == "3"
