"""A dry run says what a run is made of, and a profile traces the steps that were asked for."""

import gzip
import io
import json
import math
import re

import jax
import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from test_train import Run, arguments, make_config, one_error_line, records

import jaxseg.config
from jaxseg import dry_run, range_test, skips
from jaxseg.evaluate import make_init, make_model
from jaxseg.train import train

TINY = {
    "steps": 5,
    "eval_every": 5,
    "batch_size": 8,
    "pictures": 0,
    "data.image_size": (16, 16),
    "model.widths": (2, 4),
    "augment.crop_size": (8, 16),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("tfds")


@pytest.mark.parametrize("kind", ["pmap", "fsdp"])
def test_dry_run(kind, root):
    """Sizes are those of the state and the batch."""
    config = make_config(root, **TINY, parallel=kind)
    found = dry_run.run(config)
    state = jax.eval_shape(make_init(config, make_model(config)))
    sizes = [math.prod(x.shape) for x in jax.tree.leaves(state.params)]
    assert sum(arrays for arrays, _ in found.parameters.values()) == len(sizes)
    assert sum(numbers for _, numbers in found.parameters.values()) == sum(sizes)
    assert found.examples == 12
    assert found.batch.images.shape == (8, 16, 16, 1)
    assert found.prepared.images.shape == (8, 8, 16, 1)
    assert found.logits == ((8, 8, 16, 2),)
    # One byte for each pixel, its label and whether it counts, and the sizes of images.
    batch = (8 * 16 * 16 * 3 + found.batch.sizes.size * 4) // jax.device_count()
    bytes_of_state = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    assert found.plan.arguments == bytes_of_state + batch
    # The last convolutions alone multiply and add 9 x 4 x 2 and 9 x 2 x 2 numbers for each pixel,
    # three times: forward, and for both gradients but those of the images.
    pixels = 8 * 8 * 16 // jax.device_count()
    assert found.plan.flops > 2 * 3 * pixels * 9 * (4 * 2 + 2 * 2)
    assert found.plan.temporaries > 0
    assert found.evaluation.arguments == bytes_of_state + batch  # of as many images
    assert found.evaluation.temporaries > 0
    pictures = dry_run.sheet(found, config)
    assert pictures.dtype == np.uint8
    assert len(np.unique(pictures.reshape(-1, 3), axis=0)) > 50


def test_no_backward_pass_of_what_is_frozen(root):
    """All but the head: the work is then that forward, of three times as much, and the head's."""
    rates = (("head*", 1.0), ("*", 0.0))
    whole, head = (
        dry_run.run(make_config(root, **TINY, **changes)).plan.flops
        for changes in ({}, {"optim.rates": rates})
    )
    assert head < 0.6 * whole


def test_first_batch_is_what_the_step_sees(root, monkeypatch):
    """The mean of its images is that in the first step of a training."""
    # One level, since what notes the batch is compiled anew each time.
    small = {"steps": 1, "optim.warmup_steps": 0, "model.widths": (2,), "augment.noise": 0.3}
    config = make_config(root, **TINY | small)
    found = dry_run.run(config)
    seen = []
    unchanged = dry_run.training_step.preparation

    def preparation(config, *, axis_name=None):
        prepare = unchanged(config, axis_name=axis_name)

        def told(batch, keys):
            batch = prepare(batch, keys)
            jax.debug.callback(lambda *x: seen.append(x), *batch[:2])
            return batch

        return told

    monkeypatch.setattr(dry_run.training_step, "preparation", preparation)
    train(config, root / "run", console=Console(file=io.StringIO()))
    jax.effects_barrier()
    rows = [row for images, _ in seen[: jax.device_count()] for row in np.asarray(images)]
    wanted = sorted(found.prepared.images, key=lambda x: float(x.sum()))
    for row, want in zip(sorted(rows, key=lambda x: float(x.sum())), wanted, strict=True):
        np.testing.assert_allclose(row, want, atol=2e-5)


REFUSED = {
    "best": ("val/miou", "best is 'val/miou'"),
    "metrics": (("hausdorf_95",), "hausdorf_95"),
    "init_from": ("no_run", "no_run is not the directory of a run"),
    "loggers": (("board",), "loggers has 'board'"),
    "patience": (-1, "patience is -1"),
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("command", ["dry_run", "range_test", "train"])
def test_all_commands_refuse_the_same(command, root, tmp_path):
    """What is wrong is said of any field before anything is kept."""
    work = {
        "dry_run": lambda config: dry_run.show(config, tmp_path / "run", Console()),
        "range_test": range_test.run,
        "train": lambda config: train(config, tmp_path / "run"),
    }
    for name, (value, message) in REFUSED.items():
        config = make_config(root, **TINY | {name: value})
        with pytest.raises((ValueError, OSError), match=message):
            work[command](config)
        assert not (tmp_path / "run" / "config.json").exists()
        assert not (tmp_path / "run" / "dry_run.png").exists()


def test_command(root, tmp_path):
    """With a dash, too; of a run that is there nothing is changed but the picture."""
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "metrics.jsonl").write_text("kept\n")
    with Run(
        tmp_path / "out", *arguments(root, **TINY), "--dry-run", f"--workdir={workdir}"
    ) as run:
        code, stdout, stderr = run.wait()
    assert code == 0, stderr
    assert {path.name for path in workdir.iterdir()} == {"metrics.jsonl", "dry_run.png"}
    assert (workdir / "metrics.jsonl").read_text() == "kept\n"
    with Image.open(workdir / "dry_run.png") as picture:
        assert picture.format == "PNG"
    assert "images 8x16x16x1 uint8" in stdout
    assert str(workdir / "dry_run.png") in stdout
    assert re.search(r"memory .* besides, of [\d.]+ [MGT]iB that a step may take\n", stdout)


def test_command_in_the_workdir_of_another_run(root, tmp_path):
    """It is refused as by training, and with --allow_config_change says what is changed."""
    workdir = tmp_path / "run"
    (workdir / "checkpoints" / "3").mkdir(parents=True)
    jaxseg.config.write(workdir / "config.json", make_config(root, **TINY | {"seed": 7}))
    args = [*arguments(root, **TINY, seed=3), "--dry-run", f"--workdir={workdir}"]
    with Run(tmp_path / "out", *args) as run:
        code, _, stderr = run.wait()
    assert code == 2
    assert f"{workdir} holds a run with another config (seed: 7 -> 3); " in one_error_line(stderr)
    assert not (workdir / "dry_run.png").exists()
    with Run(tmp_path / "out", *args, "--allow_config_change") as run:
        code, stdout, stderr = run.wait()
    assert code == 0, stderr
    assert "config changed: seed: 7 -> 3\n" in stdout


def test_profile(root, tmp_path):
    """Of two steps after the first, and nothing else is changed."""
    config = make_config(root, **TINY)
    printed = {
        name: profiled(config, tmp_path / name, steps)
        for name, steps in (("traced", 2), ("plain", 0))
    }
    assert "perfetto" in printed["traced"]
    assert "profile   " not in printed["plain"]
    assert records(tmp_path / "traced") == records(tmp_path / "plain")
    assert not (tmp_path / "plain" / "profile").exists()
    assert traced_steps(tmp_path / "traced") == {2, 3}
    printed = profiled(config, tmp_path / "plain", 2)  # of a run that is done
    assert "profile          none, as no step came after the first" in printed
    assert not (tmp_path / "plain" / "profile").exists()


def test_profile_after_a_step_that_is_skipped(root, tmp_path):
    """The first that is trained is compiled, whichever that is."""
    skips.add(tmp_path, 1, "loss is nan")
    profiled(make_config(root, **TINY, parallel="shard_map"), tmp_path, 2)
    assert traced_steps(tmp_path) == {3, 4}


def profiled(config, workdir, steps):
    screen = io.StringIO()
    train(config, workdir, profile=steps, console=Console(file=screen, width=200))
    return screen.getvalue()


def traced_steps(workdir):
    (trace,) = workdir.glob("profile/plugins/profile/*/perfetto_trace.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    (_,) = trace.parent.glob("*.xplane.pb")
    return {int(x["args"]["step_num"]) for x in events if "step_num" in x.get("args", {})}
