"""Sweeps try each point once, go on after a kill, share their work, and tabulate what they find."""

import csv
import io
import itertools
import json
import math
import signal
import sys
import threading
import time

import numpy as np
import pytest
import scipy.stats
from rich.console import Console
from test_train import FORKS, Run, arguments, count_records, one_error_line, records

import jaxseg.config
from jaxseg.study import Plan, Range, Study, axis, replaced, settle
from jaxseg.sweep import StoppedError, interval, sweep

optuna = pytest.importorskip("optuna", reason="needs jaxseg[sweep]")

RATE, NAME = "config.optim.learning_rate=1e-4,3e-4,1e-3", "config.optim.name=adam,lion"
RANGES = ("config.optim.learning_rate=1e-5..1e-2", "config.steps=10..1000", NAME)


def make_plan(*over, seeds=1, trials=None, **fields):
    return Plan(jaxseg.config.Config(steps=4, **fields), over, seeds, trials)


def score(config):
    """What a training that takes no time scores: best at a rate of 3e-4, and at high seeds."""
    distance = abs(math.log10(config.optim.learning_rate / 3e-4))
    return 0.9 - 0.2 * distance - 0.1 * (config.optim.name == "lion") + 0.01 * config.seed


class Trainings:
    """Stands for trainings; remembers which there were, and can be told what to do in one."""

    def __init__(self, **during):
        self.configs, self._during = [], during

    def __call__(self, folder, lock):
        config = jaxseg.config.read(folder / "config.json")
        self.configs.append(config)
        action = self._during.get(f"at{len(self.configs)}")
        code = action(folder) if action else None
        if code is None:
            lines = [{"step": 2, "val/mean_iou": 0.0}, {"step": 4, "loss": 1.0}]
            lines += [{"step": config.steps, "val/mean_iou": score(config)}]
            (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
        return code or 0

    @property
    def points(self):
        return [(x.optim.learning_rate, x.optim.name, x.seed) for x in self.configs]


GRID = list(itertools.product((1e-4, 3e-4, 1e-3), ("adam", "lion")))


def read_csv(workdir):
    with (workdir / "sweep.csv").open() as file:
        return list(csv.DictReader(file))


def test_grid(tmp_path):
    """All combinations with all seeds, in order; the table has means and Student's intervals."""
    train = Trainings()
    results = sweep(tmp_path, make_plan(RATE, NAME, seeds=3, seed=5), train=train)
    assert train.points == [(*point, seed) for point in GRID for seed in (5, 6, 7)]
    assert results[0].trial.fields == {"optim.learning_rate": "3e-4", "optim.name": "adam"}
    means = [np.mean(x.values) for x in results]
    assert means == sorted(means, reverse=True)
    rows = read_csv(tmp_path)
    assert len(rows) == 18
    for row in rows:
        config = jaxseg.config.read(tmp_path / row["workdir"] / "config.json")
        assert row["optim.name"] == config.optim.name
        assert float(row["optim.learning_rate"]) == config.optim.learning_rate
        assert int(row["seed"]) == config.seed
        assert (float(row["val/mean_iou"]), row["error"]) == (score(config), "")
    head, _, first, *_ = (tmp_path / "sweep.md").read_text().splitlines()[2:]
    names = ("trial", "optim.learning_rate", "optim.name", "val/mean_iou", "95 % low", "95 % high")
    assert head == f"| {' | '.join(names)} | seeds |"
    values = [0.9 + 0.05, 0.9 + 0.06, 0.9 + 0.07]
    low, high = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert first == f"| 2 | 3e-4 | adam | {0.96:.4f} | {low:.4f} | {high:.4f} | 3 |"


def test_interval():
    """That of scipy's one-sample t-test; of one value there is none."""
    values = np.random.default_rng(0).normal(size=7)
    wanted = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    np.testing.assert_allclose(interval(values), (values.mean(), *wanted), rtol=1e-12)
    mean, low, high = interval([0.25])
    assert mean == 0.25
    assert math.isnan(low)
    assert math.isnan(high)


def test_lower_can_be_better(tmp_path):
    plan = make_plan("config.optim.learning_rate=1e-4,3e-4", best="val/loss")

    def train(folder, lock):
        rate = jaxseg.config.read(folder / "config.json").optim.learning_rate
        lines = [{"step": step, "val/loss": rate * factor} for step, factor in ((2, 1), (4, 2))]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
        return 0

    assert [x.values for x in sweep(tmp_path, plan, train=train)] == [[1e-4], [3e-4]]


def test_a_failure_does_not_end_it(tmp_path):
    """The last line that says why is kept; the points that failed stand last."""

    def fails(folder):
        (folder / "train.log").write_text("step 1\nerror: the loss is nan\n")
        return 1

    def crashes(folder):
        (folder / "train.log").write_text("Traceback\n")
        return 1

    train = Trainings(at1=fails, at4=crashes)
    log = f"see {tmp_path / 'trials' / '001' / 'seed1' / 'train.log'}"
    screen = io.StringIO()
    plan = make_plan("config.optim.learning_rate=3e-4,1e-4", seeds=2)
    results = sweep(tmp_path, plan, train=train, console=Console(file=screen, width=200))
    assert [x.scores for x in results] == [
        ("failed: the loss is nan", 0.9 + 0.01),
        (pytest.approx(0.9 - 0.2 * math.log10(3), rel=1e-12), f"failed: exit code 1, {log}"),
    ]
    assert "trial 0, seed 0: failed: the loss is nan" in screen.getvalue()
    assert [row["error"] for row in read_csv(tmp_path)] == [
        *("failed: the loss is nan", "", "", f"failed: exit code 1, {log}")
    ]
    assert "1 of 2 |" in (tmp_path / "sweep.md").read_text()
    # Neither a failure nor what came to its end is trained again.
    again = Trainings()
    assert sweep(tmp_path, plan, train=again) == results
    assert again.configs == []


@pytest.mark.parametrize("code", [-9, 137])
def test_what_was_killed_is_tried_again(code, tmp_path):
    """Once at each start: the other points go on, and no seed of its own that has a score."""
    plan = make_plan(RATE, seeds=2)
    points = [(rate, "adam", seed) for rate in (1e-4, 3e-4, 1e-3) for seed in (0, 1)]
    screen = io.StringIO()
    first = Trainings(at3=lambda folder: code)
    results = sweep(tmp_path, plan, train=first, console=Console(file=screen, width=200))
    log = tmp_path / "trials" / "001" / "seed0" / "train.log"
    assert f"trial 1, seed 0: killed by signal 9, see {log}\n" in screen.getvalue()
    assert first.points == points
    assert [x.trial.number for x in results] == [0, 2]
    assert [row["trial"] for row in read_csv(tmp_path)] == ["0", "0", "2", "2"]
    second = Trainings(at1=lambda folder: code)
    assert sweep(tmp_path, None, train=second) == results
    third = Trainings()
    straight = sweep(tmp_path / "straight", plan, train=Trainings())
    assert [x.scores for x in sweep(tmp_path, None, train=third)] == [x.scores for x in straight]
    assert second.points == third.points == points[2:3]


def test_paths_hold_from_any_directory(tmp_path, monkeypatch):
    """Those of the config and those that are tried."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    over = "config.data.root=one,../two,gs://three"
    plan = make_plan(over, init_from="before")
    monkeypatch.chdir(tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        sweep("sweep", plan, train=Trainings(at1=interrupt))
    monkeypatch.chdir(tmp_path / "b")
    train = Trainings()
    sweep("../a/sweep", None, train=train)
    wanted = [str(tmp_path / "a" / "one"), str(tmp_path / "two"), "gs://three"]
    assert [x.data.root for x in train.configs] == wanted
    assert {x.init_from for x in train.configs} == {str(tmp_path / "a" / "before")}
    monkeypatch.chdir(tmp_path / "a")
    assert len(sweep("sweep", plan, train=train)) == 3
    assert len(train.configs) == 3


def interrupt(folder):
    raise KeyboardInterrupt


def test_goes_on_where_it_was(tmp_path):
    """In the trial that was interrupted, and there with the seed that was."""
    plan = make_plan(RATE, NAME, seeds=2)
    wanted = [(*point, seed) for point in GRID for seed in (0, 1)]
    first = Trainings(at4=interrupt)
    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path, plan, train=first)
    second = Trainings()
    results = sweep(tmp_path, None, train=second)
    assert first.points == wanted[:4]
    assert second.points == wanted[3:]
    assert [x.trial.number for x in results] == [2, 0, 3, 4, 1, 5]


def test_a_training_that_was_stopped_is_no_failure(tmp_path):
    """As when a cluster stops all processes: it has no end yet, and is gone on with."""

    def stopped(folder):
        (folder / "metrics.jsonl").write_text('{"step": 2, "val/mean_iou": 0.5}\n{"step": 4, "va')
        return 0

    train = Trainings(at2=stopped)
    plan = make_plan("config.optim.learning_rate=3e-4,1e-3")
    with pytest.raises(StoppedError, match="trials/001/seed0"):
        sweep(tmp_path, plan, train=train)
    assert len(sweep(tmp_path, None, train=train)) == 2
    assert [rate for rate, *_ in train.points] == [3e-4, 1e-3, 1e-3]


def test_ranges(tmp_path):
    """Within their ends, of their types, in the logarithm; and the same if it was interrupted."""
    straight, first, second = Trainings(), Trainings(at8=interrupt), Trainings()
    sweep(tmp_path / "straight", make_plan(*RANGES, trials=16), train=straight)
    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path / "killed", make_plan(*RANGES, trials=16), train=first)
    sweep(tmp_path / "killed", None, train=second)
    assert straight.configs == first.configs[:7] + second.configs
    assert first.configs[7] == second.configs[0]
    rates = [x.optim.learning_rate for x in straight.configs]
    assert len(set(rates)) == 16
    assert all(1e-5 <= x <= 1e-2 for x in rates)
    assert sum(x < 3e-4 for x in rates) >= 4  # of equal shares of the range itself, 3 %
    assert all(type(x.steps) is int and 10 <= x.steps <= 1000 for x in straight.configs)
    assert {x.optim.name for x in straight.configs} == {"adam", "lion"}
    more = Trainings()
    assert len(sweep(tmp_path / "killed", make_plan(*RANGES, trials=17), train=more)) == 17
    assert len(more.configs) == 1


def test_two_processes_share_it(tmp_path):
    """Each point is one's alone, and both have all results at the end."""
    barrier, results = threading.Barrier(2, timeout=60), []

    def meet(folder):
        barrier.wait()

    trainings = [Trainings(at1=meet), Trainings(at1=meet)]

    def work(train):
        results.append(sweep(tmp_path, make_plan(RATE, NAME, seeds=2), train=train))

    threads = [threading.Thread(target=work, args=(train,)) for train in trainings]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    points = [train.points for train in trainings]
    assert all(points)
    assert sorted(points[0] + points[1]) == sorted((*p, seed) for p in GRID for seed in (0, 1))
    assert results[0] == results[1]
    assert len(results[0]) == 6


def hang(folder):
    (folder / "hangs").touch()
    time.sleep(300)


def hang_at_third(workdir):
    sweep(workdir, make_plan(RATE, NAME), train=Trainings(at3=hang))


def test_kill(tmp_path):
    """A process that is killed gives its trial to the next one."""
    process = FORKS.Process(target=hang_at_third, args=(tmp_path,), daemon=True)
    process.start()
    end = time.monotonic() + 120
    while not (tmp_path / "trials" / "002" / "seed0" / "hangs").exists():
        assert process.is_alive()
        assert time.monotonic() < end
        time.sleep(0.02)
    process.kill()
    process.join()
    train = Trainings()
    assert len(sweep(tmp_path, None, train=train)) == 6
    assert train.points == [(*point, 0) for point in GRID[2:]]


def test_killed_before_it_had_a_point(tmp_path):
    """A trial that Optuna had only begun counts for nothing."""
    plan = settle(tmp_path, make_plan(*RANGES, trials=2))
    Study(tmp_path, plan, maximize=True)._study.ask()
    train = Trainings()
    assert [x.trial.number for x in sweep(tmp_path, None, train=train)] in ([1, 2], [2, 1])
    assert len(train.configs) == 2


def test_fields_of_every_kind():
    values = {
        "optim.learning_rate": "1e-4",
        "model.widths": "(4, 8)",
        "augment.rotate90": "False",
        "optim.name": "sgd",
        "loss": "(('dice', 1.0),)",
        "steps": 7,
    }
    config = replaced(jaxseg.config.Config(), values)
    assert config.optim.learning_rate == 1e-4
    assert config.model.widths == (4, 8)
    assert config.augment.rotate90 is False
    assert config.optim.name == "sgd"
    assert config.loss == (("dice", 1.0),)
    assert config.steps == 7
    assert axis("config.loss=(('dice',1),),(('mcc',1),)")[1] == ("(('dice',1),)", "(('mcc',1),)")
    assert axis("config.data.root=../a,../b")[1] == ("../a", "../b")
    assert axis("config.steps=10..20")[1] == Range(10, 20)


BAD = {
    "no field": (["config.optim.nme=a"], {}, "did you mean config.optim.name="),
    "no prefix": (["optim.name=adam"], {}, "did you mean config.optim.name="),
    "group": (["config.optim=1"], {}, "names no field"),
    "seed": (["config.seed=1,2"], {}, "--seeds repeats each point"),
    "score": (["config.best=val/loss"], {}, "is the same for all points"),
    "type": (["config.optim.learning_rate=1e-3,fast"], {}, "optim.learning_rate is 'fast'"),
    "missing": (["config.optim.name=adam,"], {}, "a value is missing"),
    "range falls": (["config.optim.learning_rate=1..0.5"], {"trials": 2}, "a higher one"),
    "range of text": (["config.steps=a..b"], {"trials": 2}, "a higher one"),
    "twice": ([NAME, NAME], {}, "a field twice"),
    "trials missing": (["config.optim.learning_rate=0.1..0.5"], {}, "--trials is missing"),
    "trials of lists": ([NAME], {"trials": 3}, "--trials goes with ranges"),
    "seeds": ([NAME], {"seeds": 0}, "--seeds is 0"),
    "best": ([NAME], {"best": "val/miou"}, "best is 'val/miou'"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_plans(kind, tmp_path):
    """One line says what is wrong, and nothing is left that the next try would be held against."""
    over, options, message = BAD[kind]
    with pytest.raises(ValueError, match=message):
        sweep(tmp_path / "sweep", make_plan(*over, **options), train=Trainings())
    assert not (tmp_path / "sweep").exists()


def test_without_optuna(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ValueError, match=r"pip install 'jaxseg\[sweep\]'"):
        sweep(tmp_path, make_plan(NAME), train=Trainings())


def test_another_plan_is_refused(tmp_path):
    sweep(tmp_path, make_plan(NAME), train=Trainings())
    for plan, what in (
        (make_plan(RATE), "over"),
        (make_plan(NAME, seeds=2), "seeds"),
        (make_plan(NAME, batch_size=16), "config"),
    ):
        with pytest.raises(ValueError, match=f"holds a sweep of another {what}"):
            sweep(tmp_path, plan, train=Trainings())
    with pytest.raises(ValueError, match="holds no sweep"):
        sweep(tmp_path / "empty", None, train=Trainings())


@pytest.mark.exhaustive
def test_command(tmp_path):
    """Trainings in processes: one is stopped by SIGTERM and goes on, one has no finite loss."""
    workdir, root = tmp_path / "sweep", tmp_path / "data"
    fields = {"batch_size": 2, "eval_batch_size": 2, "pictures": 0, "data.image_size": (16, 16)}
    args = arguments(root, **fields, **{"optim.clip_norm": 0.0}, steps=60, eval_every=60)
    args += ["--over", "config.optim.learning_rate=1e-3,1e30", f"--workdir={workdir}"]
    metrics = workdir / "trials" / "000" / "seed0"
    with Run(tmp_path / "first", *args, command="sweep", devices=1) as run:
        assert run.wait_until(lambda: count_records(metrics) >= 2), run.text()
        run.signal(signal.SIGTERM)
        code, stdout, stderr = run.wait()
    assert code == 0, stderr
    assert stdout.splitlines()[-1].endswith(f"jaxseg.sweep --workdir={workdir}")
    stopped = count_records(metrics)
    assert not (metrics / "result.json").exists()
    args = [f"--workdir={workdir}"]
    with Run(tmp_path / "second", *args, command="sweep", devices=1) as run:
        code, stdout, stderr = run.wait()
    assert code == 0, stderr
    assert stdout.splitlines()[-1] == "--config.optim.learning_rate=1e-3"
    assert f"Resuming after step {stopped}, 60 steps" in (metrics / "train.log").read_text()
    found, failed = read_csv(workdir)
    assert float(found["val/mean_iou"]) == records(metrics)[-1]["val/mean_iou"]
    assert failed["optim.learning_rate"] == "1e30"
    assert failed["error"].startswith("failed: training stopped at step")
    with Run(tmp_path / "third", "--seeds=2", *args, command="sweep") as run:
        code, _, stderr = run.wait()
    assert code == 2
    assert "--seeds is given without --over" in one_error_line(stderr)
