"""Whole runs: killed, stopped, resumed, refused, scored again, and by several processes.

Commands run as `python -m jaxseg.train` does, in children forked from a process that has imported
everything but started nothing, which takes a tenth of the time that a fresh interpreter does.
"""

import contextlib
import csv
import dataclasses
import functools
import io
import itertools
import json
import math
import multiprocessing
import os
import pathlib
import random
import re
import runpy
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from tensorboardX.proto.event_pb2 import Event, SessionLog

import jaxseg.config
import jaxseg.scores
from jaxseg import ingredients, parallel
from jaxseg.checkpoints import Checkpoints
from jaxseg.data import DataError, open_source, train_positions
from jaxseg.evaluate import Evaluator, make_init, make_model, open_run
from jaxseg.parallel import make_runner
from jaxseg.train import NotFiniteError, train

DEVICES = 8
STEPS = 20
OPTIONS = {
    "steps": STEPS,
    "batch_size": 8,
    "eval_batch_size": 8,
    "eval_every": 5,
    "checkpoint_every": 3,
    "log_every": 1,
    "pictures": 1,
    "data.image_size": (32, 32),
    "model.widths": (4, 8),
    "optim.warmup_steps": 2,
    "optim.ema_decay": 0.5,
    "augment.rotate": 15.0,
    "augment.scale": (0.8, 1.25),
}

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "test_train",
        "orbax.checkpoint.checkpoint_managers",
        "jaxseg.data.jaxseg_nuclei.jaxseg_nuclei_dataset_builder",
    ]
)


def make_config(root, **changes):
    config = jaxseg.config.Config()
    for name, value in {**OPTIONS, "data.root": str(root), **changes}.items():
        *parents, name = name.split(".")
        owner = config
        for parent in parents:
            owner = getattr(owner, parent)
        setattr(owner, name, value)
    return config


def arguments(root, **changes):
    """The same as arguments of the command."""
    options = {**OPTIONS, "data.root": str(root), **changes}
    return [f"--config.{name}={value}" for name, value in options.items()]


def enter(command, args, output, devices):
    """What a child does: `python -m jaxseg.<command>` with its output in files."""
    for name, number in (("stdout", 1), ("stderr", 2)):
        os.dup2(os.open(output / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    jax.config.update("jax_num_cpu_devices", devices)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    module = f"jaxseg.{command}"
    sys.modules.pop(module, None)
    sys.argv = [module, *args]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


class Run:
    """A command in a child process."""

    def __init__(self, output, *args, command="train", devices=DEVICES):
        self.output = pathlib.Path(output)
        self.output.mkdir(parents=True, exist_ok=True)
        self.process = FORKS.Process(
            target=enter, args=(command, list(map(str, args)), self.output, devices), daemon=True
        )
        self.process.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.join()

    def signal(self, number):
        os.kill(self.process.pid, number)

    def wait(self, limit=120):
        """The exit code, and what it wrote."""
        self.process.join(limit)
        assert self.process.exitcode is not None, f"not through in {limit} s: {self.text()}"
        return self.process.exitcode, *self.text()

    def text(self):
        return [
            path.read_text() if path.exists() else ""
            for path in (self.output / "stdout", self.output / "stderr")
        ]

    def wait_until(self, condition, limit=120):
        """Returns as soon as the condition holds; whether it did before the end of the run."""
        end = time.monotonic() + limit
        while not condition():
            if not self.process.is_alive():
                return False
            assert time.monotonic() < end, f"waited for {limit} s: {self.text()}"
            time.sleep(0.0005)
        return True


SPEEDS = {"images_per_second", "input_wait"}  # which no two runs have alike


def records(workdir):
    """The lines of metrics.jsonl without the speed."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [{k: v for k, v in x.items() if k not in SPEEDS} for x in found]


def count_records(workdir):
    path = workdir / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def final_state(workdir):
    """The last step and its state, from the disk."""
    config = jaxseg.config.from_dict(json.loads((workdir / "config.json").read_text()))
    saved = Checkpoints(workdir / "checkpoints", keep_latest=config.keep_latest)
    found = saved.restore_latest(jax.eval_shape(make_init(config, make_model(config))))
    scores = {step: saved.scores(step) for step in (saved.best_step(), saved.latest_step())}
    saved.close()
    return found, scores


def assert_same_run(found, wanted):
    """The same parameters and scores bit for bit, and every line once."""
    chex.assert_trees_all_equal(final_state(found), final_state(wanted))
    assert records(found) == records(wanted)
    assert not list(found.glob("checkpoints/*tmp*"))
    pictures = [sorted(path.name for path in x.glob("pictures/*")) for x in (found, wanted)]
    assert pictures[0] == pictures[1]


def events(workdir):
    """TensorBoard's events in the order they were written, up to where a file was cut off."""
    for path in sorted((workdir / "tensorboard").iterdir()):
        content = path.read_bytes()
        while len(content) >= 12:
            (length,) = struct.unpack("<Q", content[:8])
            if len(content) < length + 16:
                break
            yield Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]


def board(workdir):
    """The scalars {(tag, step): value} and images that TensorBoard shows."""
    scalars, images = {}, {}
    for event in events(workdir):
        if event.session_log.status == SessionLog.START:
            scalars = {key: x for key, x in scalars.items() if key[1] < event.step}
            images = {key: x for key, x in images.items() if key[1] < event.step}
        for value in event.summary.value:
            kept = images if value.HasField("image") else scalars
            assert (value.tag, event.step) not in kept
            kept[value.tag, event.step] = (
                value.image.encoded_image_string if kept is images else value.simple_value
            )
    return scalars, images


def assert_board_shows(workdir):
    """TensorBoard's scalars are those of metrics.jsonl, in float32."""
    scalars, _ = board(workdir)
    wanted = {
        (name, record["step"]): np.float32(value)
        for record in records(workdir)
        for name, value in record.items()
        if name != "step" and value is not None
    }
    scalars = {key: x for key, x in scalars.items() if key[0] not in SPEEDS}
    assert scalars == wanted


def assert_curves(workdir, lines):
    """TensorBoard's scalars and the rows of metrics.csv are these lines, and there once."""
    wanted = {
        (name, line["step"]): value
        for line in lines
        for name, value in line.items()
        if name != "step" and value is not None
    }
    scalars = {key: x for key, x in board(workdir)[0].items() if key[0] not in SPEEDS}
    assert scalars == {key: np.float32(x) for key, x in wanted.items()}
    with (workdir / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [line["step"] for line in lines]
    cells = {
        (name, int(row["step"])): float(value)
        for row in rows
        for name, value in row.items()
        if value and name not in {"step", *SPEEDS}
    }
    assert cells == wanted


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    """Where tfds has prepared the embedded data."""
    folder = tmp_path_factory.mktemp("tfds")
    open_source(jaxseg.config.Data(root=str(folder)), "train")
    return folder


@pytest.fixture(scope="session")
def straight(root, tmp_path_factory):
    """The workdir of an undisturbed run, what it printed and what it returned."""
    workdir = tmp_path_factory.mktemp("straight") / "run"
    screen = io.StringIO()
    scores = train(make_config(root), workdir, console=Console(file=screen, width=200))
    return workdir, screen.getvalue(), scores


@pytest.fixture
def finished(straight, tmp_path):
    """A copy of it to go on with."""
    shutil.copytree(straight[0], tmp_path / "run")
    return tmp_path / "run"


def test_metrics(straight):
    """One object a line: training lines and evaluation lines with their fields, each step once."""
    workdir, _, scores = straight
    lines = [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]
    training = [x for x in lines if "loss" in x]
    evaluation = [x for x in lines if "val/loss" in x]
    assert len(training) + len(evaluation) == len(lines)
    assert [x["step"] for x in training] == list(range(1, STEPS + 1))
    assert [x["step"] for x in evaluation] == [5, 10, 15, 20]
    terms = {"cross_entropy": 1.0, "relative_entropy": 0.5}
    for line in training:
        assert {"step", "loss", *SPEEDS, *(f"loss/{x}" for x in terms)} <= line.keys()
        total = sum(weight * line[f"loss/{name}"] for name, weight in terms.items())
        assert line["loss"] == pytest.approx(total, rel=1e-5)
        assert not any(name.startswith("val/") for name in line)
    assert all(line["images_per_second"] > 0 for line in training[1:])
    assert all(0 <= line["input_wait"] < 1 for line in training[1:])
    for line in evaluation:
        classes = [line["val/iou/background"], line["val/iou/nucleus"]]
        assert line["val/mean_iou"] == pytest.approx(sum(classes) / 2, rel=1e-12)
        assert 0 < line["val/pixel_accuracy"] < 1
        assert line["val/loss"] > 0
    best = max(evaluation, key=lambda x: x["val/mean_iou"])
    assert scores == {name: x for name, x in best.items() if name != "step"}
    assert training[-1]["loss"] < training[0]["loss"]


def test_workdir(straight, root):
    """The config, pictures, checkpoints and TensorBoard's events are where they belong."""
    workdir, _, _ = straight
    names = {path.name for path in workdir.iterdir()}
    files = {"config.json", "metrics.jsonl", "done", "lock"}
    assert names == files | {"tensorboard", "pictures", "checkpoints"}
    stored = jaxseg.config.from_dict(json.loads((workdir / "config.json").read_text()))
    assert stored == make_config(root)
    best = max(
        (x for x in records(workdir) if "val/mean_iou" in x), key=lambda x: x["val/mean_iou"]
    )
    kept = sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())
    assert kept == sorted({best["step"], 18, 20})
    assert_board_shows(workdir)


def test_pictures(straight):
    """Four panels, enlarged from 32 to 192 pixels, with caption and legend, at each evaluation."""
    workdir, _, _ = straight
    _, images = board(workdir)
    paths = sorted((workdir / "pictures").iterdir())
    assert [path.name for path in paths] == [f"step_{step:07d}.png" for step in (5, 10, 15, 20)]
    for path, step in zip(paths, (5, 10, 15, 20), strict=True):
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert image.size == (4 * (192 + 4), 18 + 192 + 4 + 20)
            picture = np.asarray(image)
        with Image.open(io.BytesIO(images["validation", step])) as image:
            np.testing.assert_array_equal(np.asarray(image), picture)
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50
    assert paths[0].read_bytes() != paths[-1].read_bytes()


def test_output_is_lines(straight):
    """Not on a terminal: one line a log, no escapes, and at the end where everything is."""
    workdir, printed, scores = straight
    assert "\x1b" not in printed
    assert "\r" not in printed
    lines = printed.splitlines()
    assert f"12 images of jaxseg_nuclei, 1,694 parameters, {DEVICES} device(s)" in lines[0]
    steps = [line for line in lines if line.startswith("step ")]
    assert len(steps) == STEPS + 4
    assert f"mean IoU {scores['val/mean_iou']:.4f}" in printed
    assert re.search(rf"mean IoU +│ +{scores['val/mean_iou']:.4f}", printed)
    assert shlex.split(lines[-1])[-3:] == ["-m", "jaxseg.evaluate", f"--workdir={workdir}"]


def score_again(workdir):
    """The step and the scores, as training names them, of a run's best checkpoint."""
    run = open_run(workdir)
    evaluator = Evaluator(run.config, run.model, make_runner(run.config.parallel))
    return run, evaluator.scores(run.state)


def test_evaluate_again(straight, finished, tmp_path):
    """The scores of the best checkpoint again, equal as numbers and as printed."""
    _, printed, scores = straight
    run, again = score_again(finished)
    assert again == scores
    assert f"Best checkpoint: step {run.step}" in printed
    out = tmp_path / "out"
    with Run(out, f"--workdir={finished}", f"--output={out}/report", command="evaluate") as command:
        code, stdout, _ = command.wait()
    assert code == 0
    assert f"Best checkpoint: step {run.step}" in stdout
    for name in ("mean_iou", "loss"):
        assert re.search(rf"{name} +│ +{scores['val/' + name]:.4f} ", stdout)
    assert re.search(rf"background +│ +{scores['val/iou/background']:.4f} ", stdout)
    summary = json.loads((out / "report" / "summary.json").read_text())
    assert summary["metrics"]["accuracy"]["value"] == scores["val/pixel_accuracy"]


def test_resume_a_finished_run(straight, finished, root):
    """Nothing is trained or lost, and the scores are returned."""
    before = sorted((finished / "checkpoints").rglob("*"))
    assert train(make_config(root), finished, console=Console(file=io.StringIO())) == straight[2]
    assert sorted((finished / "checkpoints").rglob("*")) == before
    assert_same_run(finished, straight[0])
    assert_board_shows(finished)


def test_done_is_what_has_come_to_its_end(root, tmp_path, monkeypatch):
    """By all steps or for want of patience; not what goes on, or was asked to stop."""
    done = tmp_path / "done"
    seen = []

    class Screen(io.StringIO):
        def write(self, text):
            if text.startswith("step ") and "validation" in text:
                seen.append(done.exists())
            return super().write(text)

    def run(**changes):
        seen.clear()
        small = {"data.image_size": (16, 16), "model.widths": (4,), "optim.warmup_steps": 1}
        options = {"steps": 2, "eval_every": 1, "checkpoint_every": 1, "pictures": 0}
        config = make_config(root, **small, **(options | changes))
        train(config, tmp_path, allow_config_change=True, console=Console(file=Screen()))
        return seen

    assert run() == [False, False]
    assert done.exists()
    assert run(steps=3) == [False]
    assert done.exists()
    # With such a learning rate it will no longer become better.
    changes = {"steps": 40, "patience": 1, "optim.learning_rate": 1e-30}
    assert 0 < len(run(**changes)) < 30
    assert not any(seen)
    done.unlink()  # as if it had been killed just before
    monkeypatch.setattr(parallel, "compile_ahead", lambda _: pytest.fail("it compiles"))
    assert run(**changes) == []
    assert done.exists()
    assert run(steps=3) == []


def test_kill_and_resume(straight, root, tmp_path):
    """kill -9 at random moments and during saves: the end is that of the undisturbed run."""
    workdir = tmp_path / "run"
    dice = random.Random()
    seed = dice.randrange(10**6)
    dice.seed(seed)
    print("seed", seed)

    def saving():
        checkpoints = workdir / "checkpoints"
        return checkpoints.is_dir() and any("tmp" in x for x in os.listdir(checkpoints))

    moments = [(lambda: count_records(workdir) >= dice.randint(1, 4), dice.random() / 4)]
    moments += [(saving, 0.0), (saving, dice.random() / 20)]
    moments += [(lambda: count_records(workdir) >= 17, dice.random() / 10)]
    killed = 0
    for number, (condition, delay) in enumerate(moments):
        with Run(tmp_path / f"out{number}", *arguments(root), f"--workdir={workdir}") as run:
            if run.wait_until(condition):
                time.sleep(delay)
            run.process.kill()
            code, _, stderr = run.wait()
        assert code in (-signal.SIGKILL, 0), stderr
        killed += code == -signal.SIGKILL
    assert killed >= 2
    with Run(tmp_path / "last", *arguments(root), f"--workdir={workdir}") as run:
        code, _, stderr = run.wait()
    assert code == 0, stderr
    assert "Traceback" not in stderr
    assert_same_run(workdir, straight[0])
    # A kill can interrupt the deletion of an old checkpoint; what is left of it is set aside.
    for path in workdir.glob("damaged/*"):
        assert not (path / "metrics" / "metrics").exists()


def test_board_after_a_kill(root, tmp_path):
    """TensorBoard's events are on disk by the time that a checkpoint is, like metrics.jsonl."""
    workdir = tmp_path / "run"
    args = [*arguments(root, pictures=0), f"--workdir={workdir}"]
    with Run(tmp_path / "killed", *args) as run:
        run.wait_until((workdir / "checkpoints" / "6").exists)
        run.process.kill()
        assert run.wait()[0] == -signal.SIGKILL
    with Run(tmp_path / "resumed", *args) as run:
        assert run.wait()[0] == 0
    assert_board_shows(workdir)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_and_resume(straight, root, tmp_path, number):
    """SIGTERM and Ctrl-C save, say how to go on and exit with 0; the end is the same."""
    workdir = tmp_path / "a run"  # the space must survive the shell
    with Run(tmp_path / "out", *arguments(root), f"--workdir={workdir}") as run:
        assert run.wait_until(lambda: count_records(workdir) >= 2)
        run.signal(number)
        code, stdout, stderr = run.wait()
    assert code == 0, stderr
    assert "Traceback" not in stderr
    *_, stopped, command = stdout.splitlines()
    at = int(re.match(rf"Stopped after step (\d+) of {STEPS}, which is saved", stopped)[1])
    assert 2 <= at < STEPS
    assert (workdir / "checkpoints" / str(at)).is_dir()
    assert records(workdir)[-1]["step"] == at
    assert not (workdir / "done").exists()
    python, *args = shlex.split(command)
    assert shutil.which(python)
    assert args == ["-m", "jaxseg.train", f"--workdir={workdir}"]
    # With the workdir alone: the config is the stored one.
    with Run(tmp_path / "again", *args[2:]) as run:
        code, stdout, stderr = run.wait()
    assert code == 0, stderr
    assert f"Resuming after step {at}, {STEPS} steps" in stdout
    chex.assert_trees_all_equal(final_state(workdir)[0], final_state(straight[0])[0])
    assert records(workdir) == records(straight[0])


@pytest.mark.parametrize("at", [4, 8])
def test_stop_in_an_evaluation(at, root, tmp_path, monkeypatch):
    """It is broken off, the step is saved at once, and is scored first when the run goes on."""
    options = {"steps": 8, "eval_every": 4, "checkpoint_every": 3, "keep_latest": 1}
    config = make_config(root, **options, **{"data.eval_split": "train"})  # two batches
    straight, workdir = tmp_path / "straight", tmp_path / "run"
    train(config, straight, console=Console(file=io.StringIO()))
    finish, batches = jaxseg.scores.finish, itertools.count(1)

    def finish_and_signal(found):
        if next(batches) == 2 * at // 4 - 1:  # the first of two
            os.kill(os.getpid(), signal.SIGTERM)
        return finish(found)

    screen = io.StringIO()
    with monkeypatch.context() as patched:
        patched.setattr(jaxseg.scores, "finish", finish_and_signal)
        train(config, workdir, console=Console(file=screen, width=500))
    assert f"Stopped after step {at} of 8, which is saved; it is scored first" in screen.getvalue()
    assert [x["step"] for x in records(workdir) if "val/loss" in x] == [4][: at // 4 - 1]
    assert final_state(workdir)[0][0] == at
    assert not (workdir / "done").exists()
    train(config, workdir, console=Console(file=io.StringIO()))
    assert_same_run(workdir, straight)
    assert_board_shows(workdir)
    assert (workdir / "done").exists()


def test_stop_before_the_first_step(root, tmp_path, monkeypatch):
    """While things are set up: no step is trained, nor compiled."""
    made = ingredients.gather

    def gather(config):
        os.kill(os.getpid(), signal.SIGTERM)
        return made(config)

    monkeypatch.setattr(ingredients, "gather", gather)
    monkeypatch.setattr(parallel, "compile_ahead", lambda _: pytest.fail("it compiles"))
    screen = io.StringIO()
    train(make_config(root), tmp_path, console=Console(file=screen, width=500))
    assert "Stopped before the first step. To go on:" in screen.getvalue()
    assert records(tmp_path) == []
    assert not list((tmp_path / "checkpoints").iterdir())
    assert not (tmp_path / "done").exists()


def test_damaged_checkpoint_falls_back(straight, finished, root):
    """A damaged newest checkpoint is set aside, and the steps after the one before run again."""
    (finished / "checkpoints" / "20" / "state" / "_METADATA").unlink()
    screen = io.StringIO()
    train(make_config(root), finished, console=Console(file=screen, width=200))
    assert "Resuming after step 18" in screen.getvalue()
    assert (finished / "damaged" / "20").is_dir()
    assert_same_run(finished, straight[0])


def test_other_config_is_refused(finished, root, tmp_path):
    """Exit code 2, one line with each field and both values; unless asked for."""
    before = (finished / "config.json").read_text()
    args = [
        *arguments(root, **{"optim.learning_rate": 0.25, "augment.scale": (0.5, 1.25)}),
        f"--workdir={finished}",
    ]
    with Run(tmp_path / "refused", *args) as run:
        code, stdout, stderr = run.wait()
    assert code == 2
    assert "optim.learning_rate: 0.003 -> 0.25" in stderr
    assert "augment.scale: [0.8, 1.25] -> [0.5, 1.25]" in stderr
    assert "--allow_config_change" in stderr
    assert one_error_line(stderr)
    assert (finished / "config.json").read_text() == before
    with Run(tmp_path / "allowed", *args, "--allow_config_change") as run:
        code, stdout, stderr = run.wait()
    assert code == 0, stderr
    assert "config changed: optim.learning_rate: 0.003 -> 0.25" in stdout
    stored = json.loads((finished / "config.json").read_text())
    assert stored["optim"]["learning_rate"] == 0.25


def test_other_classes_keep_the_scores(finished, root):
    """A run that goes on with renamed classes shows its old scores under their old names."""
    screen = io.StringIO()
    renamed = make_config(root, **{"data.classes": ("outside", "inside")})
    console = Console(file=screen, width=200)
    scores = train(renamed, finished, allow_config_change=True, console=console)
    assert "val/iou/nucleus" in scores
    assert "nucleus" in screen.getvalue().split("Best checkpoint")[1]


def test_nothing_to_lose_is_no_run(root, tmp_path):
    """Where the first start failed before any checkpoint, the error's cure is not refused."""
    folder = make_folder(tmp_path / "data", wrong=3)
    small = {"steps": 2, "optim.warmup_steps": 1, "data.eval_split": "[:1]", "data.label": "mask"}
    config = make_config(
        folder, **small, **{"data.name": "folder", "data.train_split": "[:]", "batch_size": 16}
    )
    console = Console(file=io.StringIO())
    with pytest.raises(DataError, match="mask value 7"):
        train(config, tmp_path / "run", console=console)
    config.data.label_map = ((0, 0), (1, 1), (7, 1))
    assert train(config, tmp_path / "run", console=console)["val/mean_iou"] is not None
    config.data.label_map = ((0, 0), (1, 1), (7, 0))
    with pytest.raises(ValueError, match=r"another config \(data.label_map"):
        train(config, tmp_path / "run", console=console)


def finite_on_disk(workdir):
    """Whether every array of every checkpoint is finite; and the steps."""
    config = jaxseg.config.from_dict(json.loads((workdir / "config.json").read_text()))
    template = jax.eval_shape(make_init(config, make_model(config)))
    steps = []
    for path in (workdir / "checkpoints").iterdir():
        steps.append(int(path.name))
        alone = workdir / f"only{path.name}"
        alone.mkdir()
        shutil.copytree(path, alone / path.name)
        saved = Checkpoints(alone)
        _, state = saved.restore_latest(template)
        saved.close()
        chex.assert_tree_all_finite(state)
    return sorted(steps)


NOT_FINITE = {
    # The loss is infinite by itself, from the first step on.
    "loss_weight": {"loss": (("cross_entropy", math.inf),)},
    # The parameters overflow in the update of the first step, whose own loss is finite.
    "overflow": {
        "optim.learning_rate": 3e38,
        "optim.weight_decay": 1e3,
        "optim.warmup_steps": 0,
        "checkpoint_every": 1,
    },
    # The loss overflows after some steps that were well.
    "exploding": {
        "optim.name": "sgd",
        "optim.learning_rate": 1e30,
        "optim.warmup_steps": 4,
        "optim.clip_norm": 0.0,
        "checkpoint_every": 1,
    },
}


@pytest.mark.parametrize("kind", NOT_FINITE)
def test_not_finite_stops(root, tmp_path, kind):
    """The step, the batch's images and the last good checkpoint are named; no other is on disk."""
    config = make_config(root, **NOT_FINITE[kind])
    screen = io.StringIO()
    with pytest.raises(NotFiniteError) as caught:
        train(config, tmp_path / "run", console=Console(file=screen, width=200))
    message = str(caught.value)
    assert "\n" not in message
    step = int(re.search(r"at step (\d+): ", message)[1])
    assert re.search(r"(loss|param_norm) is (nan|inf)", message)
    names = re.findall(r"jaxseg_nuclei train example (\d+)", message)
    positions = train_positions(12, batch_size=config.batch_size, seed=config.seed)
    assert list(map(int, names)) == list(dict.fromkeys(positions[step - 1][:, 0].tolist()))
    steps = finite_on_disk(tmp_path / "run")
    if steps:
        assert steps[-1] < step
        last = tmp_path / "run" / "checkpoints" / str(steps[-1])
        assert f"the last good checkpoint is {last}. " in message
    else:
        assert "there is no checkpoint yet" in message
    for line in records(tmp_path / "run"):
        assert all(math.isfinite(x) for x in line.values() if x is not None)


def test_not_finite_exit_code(root, tmp_path):
    """As a command: exit code 3 and one line, and no restart, which would come to the same."""
    args = arguments(root, **{"optim.name": "sgd", "optim.learning_rate": 1e30})
    args += ["--config.optim.clip_norm=0", f"--workdir={tmp_path / 'run'}", "--retries=3"]
    with Run(tmp_path / "out", *args) as run:
        code, _, stderr = run.wait()
    assert code == 3, stderr
    assert "training stopped at step" in one_error_line(stderr)


def one_error_line(stderr):
    """The last line, which must be the only one of its kind, without any traceback."""
    lines = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, stderr
    assert stderr.strip().splitlines()[-1] == lines[0], stderr
    assert "Traceback" not in stderr, stderr
    return lines[0]


BAD = {
    "misspelled": (
        ["--config.optim.learning_rat=1"],
        ["optim.learning_rat", "optim.learning_rate"],
    ),
    "misspelled_group": (["--config.optin.name=sgd"], ["optin.name"]),
    "unknown_flag": (["--stepz=3"], ["stepz"]),
    "wrong_type": (["--config.steps=many"], ["steps", "many"]),
    "wrong_float": (["--config.optim.learning_rate=fast"], ["learning_rate", "fast"]),
    "wrong_tuple": (["--config.model.widths=wide"], ["widths"]),
    "positional": (["steps=3"], ["steps=3"]),
    "no_config_file": (["--config={tmp}/absent.py"], ["{tmp}/absent.py"]),
    "broken_config_file": (["--config={tmp}/broken.py"], ["broken.py"]),
    "misspelled_in_file": (["--config={tmp}/misspelled.py"], ["misspelled.py", "stesp"]),
    "misspelled_in_group": (["--config={tmp}/group.py"], ["group.py", "naem"]),
    "misspelled_keyword": (["--config={tmp}/keyword.py"], ["keyword.py", "'stepz'"]),
    "other_config_file": (["--config={tmp}/other.py"], ["get_config()"]),
    "negative_seed": (["--config.seed=-1"], ["seed is -1", "at least 0"]),
    "eval_batch": (["--config.eval_batch_size=0"], ["eval_batch_size is 0"]),
    "contrast": (["--config.augment.contrast=nan"], ["augment.contrast is nan"]),
    "scale": (["--config.augment.scale=(2.0,1.0)"], ["augment.scale is (2.0, 1.0)"]),
    "rate": (["--config.optim.learning_rate=inf"], ["optim.learning_rate is inf"]),
    "zero_steps": (["--config.steps=0"], ["steps is 0"]),
    "odd_batch": (["--config.batch_size=9"], ["batch_size is 9", "--config.batch_size=16"]),
    "long_warmup": (["--config.optim.warmup_steps=500"], ["optim.warmup_steps is 500"]),
    "optimizer": (["--config.optim.name=adma"], ["'adma'", "'adam'"]),
    "norm": (["--config.model.norm=bathc"], ["bathc"]),
    "dtype": (["--config.model.dtype=float16"], ["model.dtype", "float16", "bfloat16"]),
    "parallel": (["--config.parallel=pmpa"], ["pmpa", "shard_map"]),
    "loss": (["--config.loss=(('cross_entropi', 1.0),)"], ["cross_entropi", "cross_entropy"]),
    "dataset": (["--config.data.name=jaxseg_nuclej"], ["jaxseg_nuclej", "jaxseg_nuclei"]),
    "split": (["--config.data.eval_split=valid"], ["valid", "validation"]),
    "feature": (["--config.data.label=mask"], ["data.label", "mask", "segmentation_mask"]),
    "folder": (
        [
            "--config.data.name=folder",
            "--config.data.root={tmp}/x",
            "--config.data.train_split=[:80%]",
        ],
        ["{tmp}/x/image"],
    ),
    "crop": (["--config.augment.crop_size=(64,64)"], ["crop_size"]),
    "smoothing": (
        ["--config.loss=(('relative_entropy', 1.0, {{'label_smoothing': 0.0}}),)"],
        ["label_smoothing 0"],
    ),
    "replicas": (["--config.loss=(('lovasz_softmax', 1.0),)"], ["lovasz_softmax", 'per="image"']),
    "deviation": (
        ["--config.data.mean=(0.5,)", "--config.data.std=(0.0,)"],
        ["std is (0.0,)", "positive"],
    ),
    "momentum": (["--config.optim.momentum=1.5"], ["optim.momentum is 1.5", "[0, 1)"]),
    "average": (["--config.optim.ema_decay=1.0"], ["optim.ema_decay is 1.0", "[0, 1)"]),
    "clip": (["--config.optim.clip_norm=-1.0"], ["optim.clip_norm is -1.0", "at least 0"]),
    "resolutions": (
        ["--config.model.resolutions=2", "--config.data.image_size=(31,32)"],
        ["images are 31x32", "sides divisible by 2"],
    ),
    "levels": (["--config.model.resolutions=9"], ["resolutions are 9", "1..2, the levels"]),
    "threads": (["--config.data.threads=0"], ["data.threads is 0", "at least 1"]),
    "patches": (["--config.data.patch_size=(64,64)"], ["needs data.mean", "inspect"]),
    "workdir_is_file": (["--workdir={tmp}/other.py"], ["{tmp}/other.py"]),
    "workdir_below_file": (["--workdir={tmp}/other.py/run"], ["{tmp}/other.py"]),
    "config_json": (["--workdir={tmp}/strange"], ["strange/config.json"]),
    "config_list": (["--workdir={tmp}/list"], ["list/config.json", "[]", "object"]),
    "config_bytes": (["--workdir={tmp}/bytes"], ["bytes/config.json"]),
}
PAGES = {
    "broken": "def get_config(:\n",
    "other": "def get_config():\n    return {'steps': 3}\n",
    "misspelled": """
from jaxseg.config import Config
def get_config():
    config = Config()
    config.stesp = 3
    return config
""",
    "group": """
from jaxseg.config import Config
def get_config():
    config = Config()
    config.data.naem = "x"
    return config
""",
    "keyword": """
from jaxseg.config import Config
def get_config():
    return Config(stepz=5)
""",
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", BAD)
def test_bad_input(kind, root, tmp_path):
    """One clear line and exit code 2, no traceback."""
    for name, text in PAGES.items():
        (tmp_path / f"{name}.py").write_text(text)
    for name, content in {"strange": b'{"steps": 3', "list": b"[]", "bytes": b"\xa4"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_bytes(content)
    given, wanted = BAD[kind]
    changed = {x.split("=")[0] for x in given}
    own_file = any(x.startswith("--config=") for x in given) or kind.startswith("config_")
    args = [] if own_file else [x for x in arguments(root) if x.split("=")[0] not in changed]
    if "--workdir" not in changed:
        args.append(f"--workdir={tmp_path / 'run'}")
    args += [x.format(tmp=tmp_path) for x in given]
    with Run(tmp_path / "out", *args) as run:
        code, _, stderr = run.wait()
    line = one_error_line(stderr)
    assert code == 2, line
    for text in wanted:
        assert text.format(tmp=tmp_path) in line
    assert not (tmp_path / "run").exists()  # so that the next try may have another config


@pytest.mark.parametrize("args", [[], ["--workdir={tmp}/absent"], ["--workdir={tmp}"]])
def test_evaluate_bad_input(args, tmp_path):
    """A workdir that is missing, or is not that of a run."""
    with Run(tmp_path / "out", *(x.format(tmp=tmp_path) for x in args), command="evaluate") as run:
        code, _, stderr = run.wait()
    assert code == 2
    assert "--workdir" in one_error_line(stderr)


def test_fresh_interpreters(tmp_path):
    """--help names every field with its default and comment; a misspelling ends with 2."""
    commands = {
        "help": ["jaxseg.train", "--help"],
        "evaluate": ["jaxseg.evaluate", "--help"],
        "bad": ["jaxseg.train", "--config.stepz=3"],
    }
    runs = {
        name: subprocess.Popen(
            [sys.executable, "-m", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        for name, command in commands.items()
    }
    try:
        found = {}
        for name, run in runs.items():
            stdout, stderr = run.communicate(timeout=120)
            # Grain speaks up on import where jaxlib is older than 0.11.
            lines = [x for x in stderr.splitlines(True) if not x.startswith("WARNING:absl:Grain")]
            found[name] = stdout, "".join(lines), run.returncode
    finally:
        for run in runs.values():
            run.kill()
    text, stderr, code = found["help"]
    assert (code, stderr) == (0, "")
    for option in ("--workdir", "--config", "--allow_config_change", "--coordinator"):
        assert f"\n  {option}" in text
    for owner, prefix in [(jaxseg.config.Config, ""), (jaxseg.config.Data, "data.")]:
        for field in dataclasses.fields(owner):
            if field.default is not dataclasses.MISSING:
                assert f"--config.{prefix}{field.name}={field.default!r}" in text
    assert "of the global gradient; 0 does not clip" in text
    assert max(map(len, text.splitlines())) <= 120
    assert "tensorflow" not in text.split("Options:")[0]  # no flags of other packages
    assert "absl" not in text
    text, stderr, code = found["evaluate"]
    assert (code, stderr) == (0, "")
    assert "--workdir" in text
    assert "--config." not in text
    _, stderr, code = found["bad"]
    assert code == 2
    assert stderr.count("\n") == 1
    assert "--config.stepz is not a field of the config; did you mean --config.steps?" in stderr
    assert list(tmp_path.iterdir()) == []


def free_port(least=0):
    """A port that nothing listens at; from `least` on, if given."""
    for port in range(least, 2**16):
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("localhost", port))
            return free.getsockname()[1]


def by_hand(count):
    """Flags and environment of each of so many processes, as one who starts them gives them."""
    port = free_port()
    join = [f"--coordinator=localhost:{port}", f"--num_processes={count}"]
    return [([*join, f"--process_id={index}"], {}) for index in range(count)]


def start(joins, *args, command="train", devices=1):
    """Starts a process for each of `joins`, as `by_hand` has them.

    A tuple as an argument gives each process its own.
    """
    return [
        subprocess.Popen(
            [
                sys.executable,
                *("-m", f"jaxseg.{command}"),
                *(x[index] if isinstance(x, tuple) else x for x in args),
                *flags,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "JAX_NUM_CPU_DEVICES": str(devices),
                "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                **environment,
            },
        )
        for index, (flags, environment) in enumerate(joins)
    ]


def ends(runs, *, meanwhile=None, limit=180):
    """What processes write, and their exit codes: stdout, stderr and code of each.

    `meanwhile(runs)` is called while they run.
    """
    try:
        if meanwhile:
            meanwhile(runs)
        return [(*run.communicate(timeout=limit), run.returncode) for run in runs]
    finally:
        for run in runs:
            run.kill()


def of_two(*args, command="train"):
    """The ends of two processes, started by hand."""
    return ends(start(by_hand(2), *args, command=command))


def test_two_processes_agree_with_one(root, tmp_path):
    """Two processes of one device each train the run of one process with two."""
    workdir, alone = tmp_path / "run", tmp_path / "alone"
    args = arguments(root, steps=6, eval_every=6, checkpoint_every=6, pictures=0)
    with Run(tmp_path / "out", *args, f"--workdir={alone}", devices=2) as run:
        assert run.wait()[0] == 0, run.text()
    (first, errors, code), (second, errors2, code2) = of_two(*args, f"--workdir={workdir}")
    assert code == 0, errors
    assert code2 == 0, errors2
    assert "2 device(s)" in first
    # One process speaks for all; Gloo itself can't be silenced.
    assert [line for line in second.splitlines() if not line.startswith("[Gloo]")] == []
    found, wanted = records(workdir), records(alone)
    assert [x.keys() for x in found] == [x.keys() for x in wanted]
    # The same images in the same order: the first losses differ by rounding alone.
    for x, y in zip(found[:3], wanted[:3], strict=True):
        assert x == pytest.approx(y, rel=1e-5)
    for x, y in zip(found, wanted, strict=True):
        assert x == pytest.approx(y, rel=2e-3)
    (step, state), _ = final_state(workdir)
    (_, other), _ = final_state(alone)
    assert step == 6
    chex.assert_trees_all_close(state.batch_stats, other.batch_stats, rtol=1e-2, atol=1e-3)


def make_folder(root, wrong=None):
    """16 images with masks of two classes, of which one can have a wrong value."""
    for kind in ("image", "mask"):
        (root / kind).mkdir(parents=True)
    for index in range(16):
        mask = np.zeros((32, 32), np.uint8)
        mask[:, index:] = 7 if index == wrong else 1
        Image.fromarray(mask * 20).save(root / "image" / f"{index}.png")
        Image.fromarray(mask).save(root / "mask" / f"{index}.png")
    return root


@pytest.mark.parametrize(
    ("whose", "kind"),
    [
        (1, "at the start"),
        (0, "in a batch"),
        pytest.param(0, "at the start", marks=pytest.mark.long),
        pytest.param(1, "in a batch", marks=pytest.mark.long),
    ],
)
def test_an_error_of_one_process_ends_both(whose, kind, tmp_path):
    """The one says what is wrong, the other leaves with its code, and no supervisor tries again."""
    whole = make_folder(tmp_path / "whole")
    broken = tmp_path / "broken"
    if kind == "in a batch":
        make_folder(broken, wrong=3)
    folder = {"data.name": "folder", "data.train_split": "[:]", "data.eval_split": "[:1]"}
    args = arguments(whole, **folder, **{"data.label": "mask"}, steps=STEPS)
    start = time.monotonic()
    roots = [f"--config.data.root={whole}"] * 2
    roots[whose] = f"--config.data.root={broken}"
    found = of_two(
        *args,
        tuple(roots),
        f"--workdir={tmp_path / 'run'}",
        "--retries=2",
    )
    assert time.monotonic() - start < 90
    (_, errors2, code2), (_, errors, code) = found[whose], found[1 - whose]
    assert (code, code2) == (2, 2), errors + errors2
    assert str(broken) in one_error_line(errors2)
    assert one_error_line(errors) == "error: another host failed, and says why"
    assert "starting again" not in errors + errors2
    if kind == "at the start":
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "loss",
    [
        (("dice", 1.0),),
        (("cross_entropy", 1.0, {"class_weights": (1.0, 9.0)}),),
        (("dice", 1.0, {"per": "image"}), ("boundary", ((0, 0.5), (9, 1.0)))),
    ],
)
def test_scores_do_not_depend_on_the_batch(root, loss):
    """Not even the loss, where it is no mean over pixels."""
    found = []
    for size in (8, 16, 64):
        config = make_config(root, loss=loss, eval_batch_size=size)
        model = make_model(config)
        evaluator = Evaluator(config, model, make_runner("pmap"))
        found.append(evaluator.scores(jax.jit(make_init(config, model))()))
    for scores in found:
        assert scores == pytest.approx(found[0], rel=1e-6)
    if loss[0] == ("dice", 1.0, {"per": "image"}):  # which an image alone can't tell from plain
        plain = make_config(root, loss=(("dice", 1.0),))
        evaluator = Evaluator(plain, model, make_runner("pmap"))
        scores = evaluator.scores(jax.jit(make_init(plain, model))())
        assert scores["val/loss/dice"] == pytest.approx(found[0]["val/loss/dice"], rel=1e-6)


def test_deep_supervision_learns(root, tmp_path):
    """Logits at two resolutions are trained, and the finest are evaluated."""
    config = make_config(root, steps=4, eval_every=4, **{"model.resolutions": 2})
    scores = train(config, tmp_path / "run", console=Console(file=io.StringIO()))
    assert np.isfinite(scores["val/mean_iou"])
    (_, state), _ = final_state(tmp_path / "run")
    before = jax.jit(make_init(config, make_model(config)))()
    for head in ("head", "head1"):
        moved = np.abs(state.params[head]["kernel"] - before.params[head]["kernel"])
        assert moved.max() > 1e-4, head


def test_a_run_is_scored_from_any_directory(root, tmp_path, monkeypatch):
    """Though its data were named relative to where it was started."""
    monkeypatch.chdir(root.parent)
    config = make_config(root.name, steps=4, eval_every=4)
    scores = train(config, "here", console=Console(file=io.StringIO()))
    monkeypatch.chdir(tmp_path)
    run, again = score_again(root.parent / "here")
    assert run.config.data.root == str(root)
    assert (run.step, again) == (4, scores)
    shutil.rmtree(root.parent / "here")


def test_skipped_files_are_listed_once(tmp_path):
    """Over epochs, evaluations and a restart; training and scores leave them out."""
    rng = np.random.default_rng(0)
    for index in range(10):
        for place, high in (("images", 256), ("masks", 2)):
            (tmp_path / "data" / place).mkdir(parents=True, exist_ok=True)
            path = tmp_path / "data" / place / f"{index}.png"
            Image.fromarray(rng.integers(0, high, (16, 16), np.uint8)).save(path)
    for index in (1, 9):  # of training, and of evaluation
        (tmp_path / "data" / "images" / f"{index}.png").write_bytes(b"")
    config = make_config(tmp_path)
    config.data = jaxseg.config.Data(
        name="folder",
        root=str(tmp_path / "data"),
        train_split="[:80%]",
        eval_split="[80%:]",
        image="images",
        label="masks",
        image_size=(16, 16),
        unreadable="skip",
    )
    config.augment.crop_size = ()
    for steps in (5, 10):
        screen = io.StringIO()
        config.steps = steps
        scores = train(
            config,
            tmp_path / "run",
            allow_config_change=True,
            console=Console(file=screen, width=200),
        )
        assert ("skipped (2 so far)" in screen.getvalue()) == (steps == 5)
    listed = (tmp_path / "run" / "skipped.txt").read_text().splitlines()
    assert len(listed) == 2
    assert {line.split(" can't")[0].rsplit("/", 1)[1] for line in listed} == {"1.png", "9.png"}
    assert np.isfinite(scores["val/loss"])


class Watched:
    """A result on the device that notes when the host waits for it."""

    def __init__(self, value, note):
        self.is_ready = value.is_ready
        self._value, self._note = value, note

    def block_until_ready(self):
        self._note()
        return self._value.block_until_ready()

    def __array__(self, *args, **options):
        self._note()
        return np.array(self._value, *args, **options)


@pytest.mark.exhaustive  # on a CPU jax 0.7 waits for a step that takes the old state's memory
@pytest.mark.parametrize("name", ["pmap", "fsdp"])
def test_steps_run_ahead_of_the_host(name, root, tmp_path, monkeypatch):
    """From one logging step to the next the loop starts steps, and waits for none of them.

    Nor are they through when the next one starts, as soon as they take longer than the host.
    """
    every, begun, seen, running = 4, [], {}, []

    def watch(runner):
        def compile_(step, *, donate_state, constants=0):
            if not donate_state:  # that of evaluation
                return runner.compile(step, donate_state=False)

            def slower(state, batch):
                grown = jax.lax.fori_loop(0, 40, lambda _, x: jnp.tanh(x @ x), jnp.ones((200, 200)))
                state, scalars = step(state, batch)
                return state, {**scalars, "loss": scalars["loss"] + 0 * grown[0, 0]}

            compiled = runner.compile(slower, donate_state=True)

            def watched(state, batch):
                running.append(bool(begun) and not all(x.is_ready() for x in begun[-1].values()))
                state, scalars = compiled(state, batch)
                number = len(begun) + 1
                note = functools.partial(lambda at: seen.setdefault(at, len(begun)), number)
                begun.append({key: Watched(x, note) for key, x in scalars.items()})
                return state, begun[-1]

            watched.lower = compiled.lower
            return watched

        return runner._replace(compile=compile_)

    monkeypatch.setattr(parallel, "make_runner", lambda kind: watch(make_runner(kind)))
    options = {"steps": 12, "log_every": every, "eval_every": 12, "checkpoint_every": 12}
    train(make_config(root, parallel=name, pictures=0, **options), tmp_path / "run")
    assert seen == {at: -(-at // every) * every for at in range(1, 13)}
    assert any(running)
