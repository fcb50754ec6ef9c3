"""The best checkpoint by any score, and runs that end when their score is no longer better."""

import io
import json
import shutil

import chex
import jax
import pytest
from rich.console import Console
from test_train import (
    Run,
    arguments,
    assert_curves,
    final_state,
    make_config,
    of_two,
    one_error_line,
    records,
)

from jaxseg import history
from jaxseg.checkpoints import Checkpoints
from jaxseg.evaluate import Evaluator, higher_is_better, make_init, make_model, open_run
from jaxseg.history import History
from jaxseg.parallel import make_runner
from jaxseg.train import train

TINY = {"batch_size": 8, "pictures": 0, "data.image_size": (16, 16), "model.widths": (2, 4)}
# A run whose evaluations are all alike: without batch statistics, at a rate too low to move any
# parameter.
STILL = TINY | {
    "steps": 12,
    "eval_every": 2,
    "checkpoint_every": 3,
    "model.norm": "group",
    "optim.learning_rate": 1e-30,
    "optim.ema_decay": 0.0,
    "patience": 3,
    "loggers": ("tensorboard", "csv"),
}


def start(workdir, root, **changes):
    """Trains, and returns the scores and what was printed."""
    screen = io.StringIO()
    config = make_config(root, **changes)
    return train(config, workdir, console=Console(file=screen, width=300)), screen.getvalue()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("tfds")


@pytest.fixture(scope="module")
def still(root, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("still") / "run"
    return workdir, *start(workdir, root, **STILL)


@pytest.mark.parametrize(
    ("values", "higher", "best", "without"),
    [
        ((), True, None, 0),
        ((0.5,), True, 0.5, 0),
        ((0.5, 0.4, 0.6, 0.6, 0.5), True, 0.6, 2),
        ((0.5, 0.4, 0.6, 0.6, 0.5), False, 0.4, 3),
        ((None, None), True, None, 2),
        ((0.1, None, None), False, 0.1, 2),
    ],
)
def test_without_gain(values, higher, best, without):
    found = History(tuple(range(len(values))), values, higher)
    assert found.best() == best
    assert found.without_gain() == without


def test_ends():
    found = History((2, 4, 6), (0.5, 0.4, 0.4), higher_is_better=True)
    assert [found.ends(6, 0), found.ends(7, 0), found.ends(7, 2), found.ends(7, 3)] == [
        *(True, False, True, False)
    ]
    assert not History((), (), higher_is_better=True).ends(1, 1)


def test_read(tmp_path):
    """Lines of training, of other scores, cut short by a kill or damaged do not count."""
    assert history.read(tmp_path, "val/x", higher_is_better=True) == History((), (), True)
    lines = [{"step": 1, "loss": 2.0}, {"step": 1, "val/x": None}, {"step": 2, "val/xy": 0.5}]
    lines += [{"step": 3, "val/x": 0.1 + 0.2}]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 4, "val/x": 0.3}'
    (tmp_path / "metrics.jsonl").write_text(text)
    found = history.read(tmp_path, "val/x", higher_is_better=True)
    assert found == History((1, 3), (None, 0.1 + 0.2), True)
    until = history.read(tmp_path, "val/x", higher_is_better=True, until=2)
    assert until == History((1,), (None,), True)
    damaged = text.encode().replace(b'"step": 3', b'"st\xff 3')
    (tmp_path / "metrics.jsonl").write_bytes(damaged)
    found = history.read(tmp_path, "val/x", higher_is_better=True)
    assert found == History((1,), (None,), True)


def test_which_way_is_better():
    higher = ("val/mean_iou", "val/pixel_accuracy", "val/iou/a/b", "val/boundary_iou", "val/mcc")
    lower = ("val/loss", "val/loss/dice", "val/brier", "val/hausdorff_95", "val/bits_per_pixel")
    assert all(map(higher_is_better, higher))
    assert not any(map(higher_is_better, lower))


def test_best_by_another_score(root, tmp_path):
    """One that is computed for it, of which less is better."""
    changes = TINY | {
        "steps": 8,
        "eval_every": 1,
        "checkpoint_every": 8,
        "keep_latest": 1,
        "log_every": 8,
        # It learns fast, and then diverges.
        "optim.learning_rate": 0.3,
        "optim.schedule": "constant",
        "metrics": ("brier", "accuracy", "normalized_surface_dice"),
        "best": "val/brier",
    }
    scores, printed = start(tmp_path / "run", root, **changes)
    lines = {x["step"]: x for x in records(tmp_path / "run") if "val/brier" in x}
    assert list(lines) == list(range(1, 9))
    step = min(lines, key=lambda x: lines[x]["val/brier"])
    assert step not in (8, max(lines, key=lambda x: lines[x]["val/mean_iou"]))
    assert scores == {name: x for name, x in lines[step].items() if name != "step"}
    assert f"Best checkpoint: step {step}" in printed
    assert "chosen by        val/brier" in printed
    assert f"brier {scores['val/brier']:.4f}" in printed
    kept = {int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert kept == {step, 8}
    run = open_run(tmp_path / "run")
    assert run.step == step
    # The score is that which the evaluation finds.
    names = ("brier", "normalized_surface_dice")
    evaluator = Evaluator(run.config, run.model, make_runner("pmap"), names=names)
    found = evaluator.evaluation(run.state).scores()
    assert found == {name: scores[f"val/{name}"] for name in names}


def test_ends_early(still):
    """The first score is the best, and the third after it the last."""
    workdir, scores, printed = still
    evaluations = [x for x in records(workdir) if "val/loss" in x]
    assert [x["step"] for x in evaluations] == [2, 4, 6, 8]
    assert len({x["val/mean_iou"] for x in evaluations}) == 1
    assert scores["val/mean_iou"] == evaluations[0]["val/mean_iou"]
    *_, why, command = printed.splitlines()
    assert why == (
        "Ended early, after step 8 of 12: val/mean_iou has not become better for 3 evaluations or "
        "more. To go on all the same:"
    )
    assert command.endswith(f"--workdir={workdir} --config.patience=0 --allow_config_change")
    assert final_state(workdir)[0][0] == 8
    assert_curves(workdir, records(workdir))


def test_has_ended(still, root, tmp_path):
    """Started again, it says so and trains nothing."""
    workdir = shutil.copytree(still[0], tmp_path / "run")
    before = {x: x.read_bytes() for x in workdir.rglob("checkpoints/**/*") if x.is_file()}
    scores, printed = start(workdir, root, **STILL)
    assert "Ended early, after step 8 of 12" in printed
    assert "step 9" not in printed
    assert scores == still[1]
    assert {x: x.read_bytes() for x in workdir.rglob("checkpoints/**/*") if x.is_file()} == before
    assert records(workdir) == records(still[0])
    assert_curves(workdir, records(still[0]))


def test_ends_where_it_would_have(still, root, tmp_path):
    """Though it was killed: before its last checkpoint was there, with lines of later steps."""
    workdir = shutil.copytree(still[0], tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints" / "8")
    assert final_state(workdir)[0][0] == 6
    scores, printed = start(workdir, root, **STILL)
    assert "Resuming after step 6" in printed
    assert "Ended early, after step 8 of 12" in printed
    assert scores == still[1]
    assert records(workdir) == records(still[0])
    chex.assert_trees_all_equal(final_state(workdir)[0], final_state(still[0])[0])
    assert_curves(workdir, records(still[0]))


@pytest.mark.long
def test_two_processes_end_together(still, root, tmp_path):
    """Though one alone has read how long the run has waited; also when started again."""
    workdir = tmp_path / "run"
    for number in range(2):
        args = arguments(root, **STILL)
        (first, errors, code), (second, errors2, code2) = of_two(*args, f"--workdir={workdir}")
        assert (code, code2) == (0, 0), (errors, errors2)
        assert "Ended early, after step 8 of 12" in first
        assert ("step 2/12" in first) == (number == 0)
        assert [line for line in second.splitlines() if not line.startswith("[Gloo]")] == []
    assert [x["step"] for x in records(workdir)] == [x["step"] for x in records(still[0])]


def test_more_patience(still, root, tmp_path):
    """Goes on to the end, whose checkpoint says nothing of an early one."""
    workdir = shutil.copytree(still[0], tmp_path / "run")
    screen = io.StringIO()
    config = make_config(root, **STILL | {"patience": 0})
    train(config, workdir, allow_config_change=True, console=Console(file=screen, width=300))
    assert "Ended early" not in screen.getvalue()
    assert [x["step"] for x in records(workdir) if "val/loss" in x] == [2, 4, 6, 8, 10, 12]


def test_checkpoints_with_lower_scores(tmp_path):
    """What has no score is never the best, whichever way is better."""
    config = make_config(tmp_path, **TINY)
    state = jax.tree.map(
        lambda x: jax.numpy.zeros(x.shape, x.dtype),
        jax.eval_shape(make_init(config, make_model(config))),
    )
    options = {"keep_latest": 1, "best": "val/loss", "higher_is_better": False}
    (tmp_path / "checkpoints").mkdir()
    saved = Checkpoints(tmp_path / "checkpoints", **options)
    for step, loss in enumerate((0.5, -0.25, 0.75, None), 1):
        saved.save(step, state, None if loss is None else {"val/loss": loss, "val/mean_iou": loss})
    saved.wait()
    assert sorted(int(x.name) for x in (tmp_path / "checkpoints").iterdir()) == [2, 4]
    assert saved.best_step() == 2
    saved.close()


BAD = {
    "metric": (["--config.metrics=('brir',)"], ["metrics has 'brir'", "did you mean brier?"]),
    "of segments": (["--config.metrics=('object_f1',)"], ["a run can't be scored by"]),
    "best": (
        ["--config.best=val/hausdorff_95"],
        ["best is 'val/hausdorff_95'", "val/iou/nucleus", "--config.metrics="],
    ),
    "patience": (["--config.patience=-1"], ["patience is -1", "at least 0"]),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input(kind, root, tmp_path):
    given, wanted = BAD[kind]
    workdir = tmp_path / "run"
    args = [*arguments(root), *given, f"--workdir={workdir}"]
    with Run(tmp_path / "out", *args) as run:
        code, _, stderr = run.wait()
    line = one_error_line(stderr)
    assert code == 2, line
    for text in wanted:
        assert text in line
    assert not workdir.exists()
