"""Trains at several points of some fields of a config, and says which is best.

    python -m jaxseg.sweep --workdir=runs/sweep --config=mine.py --seeds=3 \\
        --over config.optim.learning_rate=1e-4,3e-4 --over config.optim.name=adam,lion
    python -m jaxseg.sweep --workdir=runs/search --config=mine.py --trials=30 \\
        --over config.optim.learning_rate=1e-5..1e-2 --over config.optim.name=adam,lion

Lists are tried in all combinations. Where there is a range, Optuna chooses --trials points. A point
is judged by the `best` score of the config, and with several --seeds by the mean. Each training is
a process and has a workdir of its own; one that fails is noted, and the sweep goes on. Started
again with the workdir alone, a sweep goes on where it was, and several processes share one. Leaves
sweep.md, a row a point, and sweep.csv, a row a training. Needs jaxseg[sweep].
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
import pathlib
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats
from absl import flags
from ml_collections import config_flags
from rich.console import Console

import jaxseg.config
from jaxseg import cli, history, scorecard, writing
from jaxseg.evaluate import CONFIG_FILE, higher_is_better
from jaxseg.lock import Lock
from jaxseg.study import Plan, Study, Trial, replaced, settle

LOG, RESULT = "train.log", "result.json"
_SIGNALS = 128  # beyond which an exit code is that of a signal, as shells have it
TITLE = "Points of the sweep, best first"


class StoppedError(Exception):
    """A training ended before its end, though it did not fail: it was asked to, and can go on."""


class KilledError(Exception):
    """A training was killed, which says nothing of its point."""


class Result(NamedTuple):
    """A trial and the score of each seed, or why there is none."""

    trial: Trial
    scores: tuple[float | str, ...]

    @property
    def values(self) -> list[float]:
        return [x for x in self.scores if not isinstance(x, str)]


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean and its 95 % confidence interval, by Student's t; that of one value is NaN.

    As of values that are drawn from one normal distribution (Student 1908, "The probable error of a
    mean").

    >>> [round(x, 3) for x in interval([1.0, 2.0, 3.0])]  # 2 -+ 4.303 / sqrt(3)
    [2.0, -0.484, 4.484]
    """
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, math.nan, math.nan
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    half = float(scipy.stats.t.ppf(0.975, len(values) - 1)) * error
    return mean, mean - half, mean + half


def sweep(
    workdir: str | os.PathLike,
    plan: Plan | None,
    *,
    train: Callable[[pathlib.Path, Lock], int],
    console: Console | None = None,
) -> list[Result]:
    """Tries the points of a plan, or goes on with that of the workdir; all results, best first.

    A point of which a training was killed has none, and is tried again when the sweep goes on.

    `train(folder, lock)` trains the run whose config is in the folder, or goes on with it, and
    returns an exit code. A process that may outlive this one should inherit the lock.

    Raises ValueError or OSError for what can't be tried, and StoppedError.
    """
    console = console or Console(quiet=True)
    workdir = pathlib.Path(workdir).absolute()
    if plan is not None:
        higher_is_better(plan.config.best)  # raises before anything is kept
    plan = settle(workdir, plan)
    study = Study(workdir, plan, maximize=higher_is_better(plan.config.best))
    for trial in study.trials():
        whole = True
        for seed in plan.each_seed():
            _say(console, f"trial {trial.number}, seed {seed}: {_options(trial)}")
            try:
                score = _train(plan, trial, seed, train)
                text = score if isinstance(score, str) else f"{plan.config.best} {score:.4f}"
            except KilledError as error:
                whole, text = False, str(error)
            _say(console, f"trial {trial.number}, seed {seed}: {text}")
        if not whole:
            continue
        values = _result(plan, trial).values
        study.tell(trial, float(np.mean(values)) if len(values) == plan.seeds else None)
        with study.alone():
            write(workdir, plan, _ranked(plan, study))
    with study.alone():
        results = _ranked(plan, study)
        write(workdir, plan, results)  # if a kill kept it from being written
    return results


def train_apart(folder: pathlib.Path, lock: Lock) -> int:
    """Trains in a process of its own, which writes to a log in the folder."""
    with (
        (folder / LOG).open("a") as log,
        subprocess.Popen(
            [sys.executable, "-m", "jaxseg.train", f"--workdir={folder}"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C is for this process, which passes it on once
            pass_fds=[lock.fileno()],
        ) as process,
    ):
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.terminate()
            process.wait()  # until what it has is saved
            raise


def _train(plan: Plan, trial: Trial, seed: int, train: Callable) -> float | str:
    """The score of a training, or why it has none; what this was once is kept."""
    folder = _folder(trial, seed)
    folder.mkdir(parents=True, exist_ok=True)
    # Which a training has for as long as it lives, though the sweep that began it was killed.
    with Lock(folder.with_suffix(".lock")) as lock:
        if (folder / RESULT).is_file():
            return json.loads((folder / RESULT).read_text())
        config = replaced(plan.config, {**trial.fields, "seed": seed})
        if not (folder / CONFIG_FILE).is_file():
            jaxseg.config.write(folder / CONFIG_FILE, config)
        code = train(folder, lock)
        found = history.read(folder, config.best, higher_is_better=higher_is_better(config.best))
        if code < 0 or code > _SIGNALS:
            number = -code if code < 0 else code - _SIGNALS
            raise KilledError(f"killed by signal {number}, see {folder / LOG}")
        if code:
            score = _error(folder, code)
        elif not found.ends(config.steps, config.patience):
            raise StoppedError(f"the training in {folder} was stopped before its end")
        else:
            score = found.best()
            if score is None:
                score = f"failed: {config.best} was defined in none of the evaluations"
        with writing.whole(folder / RESULT) as fresh:
            fresh.write_text(json.dumps(score) + "\n")
    return score


def _error(folder: pathlib.Path, code: int) -> str:
    """Why a training failed, by the last line that it wrote if that says so."""
    lines = (folder / LOG).read_text(errors="replace").split("\n")
    said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return f"failed: {said[-1] if said else f'exit code {code}, see {folder / LOG}'}"


def _folder(trial: Trial, seed: int) -> pathlib.Path:
    return trial.folder / f"seed{seed}"


def _result(plan: Plan, trial: Trial) -> Result:
    paths = (_folder(trial, seed) / RESULT for seed in plan.each_seed())
    return Result(trial, tuple(json.loads(path.read_text()) for path in paths))


def _ranked(plan: Plan, study: Study) -> list[Result]:
    """The results so far: those without a failure, then those with some, each by their means."""
    sign = -1 if higher_is_better(plan.config.best) else 1

    def rank(result):
        values = result.values
        return len(values) < plan.seeds, sign * np.mean(values) if values else math.inf

    return sorted((_result(plan, trial) for trial in study.ended()), key=rank)


def _options(trial: Trial) -> str:
    """The fields of a trial as options of a command."""
    return shlex.join(f"--config.{name}={value}" for name, value in trial.fields.items())


def contents(plan: Plan, results: Sequence[Result]) -> tuple[tuple[str, ...], list[tuple]]:
    """The head and the rows of the table of points."""
    head = ("trial", *plan.axes, plan.config.best, "95 % low", "95 % high", "seeds")
    rows = []
    for result in results:
        number, fields, _ = result.trial
        found = len(result.values)
        numbers = interval(result.values) if found else (math.nan,) * 3
        texts = (f"{x:.4g}" if isinstance(x, float) else str(x) for x in fields.values())
        seeds = str(found) if found == plan.seeds else f"{found} of {plan.seeds}"
        rows.append((str(number), *texts, *map(scorecard.number, numbers), seeds))
    return head, rows


def write(workdir: pathlib.Path, plan: Plan, results: Sequence[Result]) -> None:
    """Writes sweep.md, with a row for each point, and sweep.csv, with one for each training."""
    file = io.StringIO()
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(("trial", "seed", *plan.axes, plan.config.best, "error", "workdir"))
    for trial, scores in results:
        for seed, score in zip(plan.each_seed(), scores, strict=True):
            found = ("", score) if isinstance(score, str) else (score, "")
            folder = _folder(trial, seed).relative_to(workdir)
            rows.writerow((trial.number, seed, *trial.fields.values(), *found, folder))
    table = scorecard.markdown_table(*contents(plan, results))
    for name, text in (("sweep.csv", file.getvalue()), ("sweep.md", f"# {TITLE}\n\n{table}")):
        with writing.whole(workdir / name) as fresh:
            fresh.write_text(text)


def _say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, highlight=False, markup=False)


def define_flags() -> None:
    config_flags.DEFINE_config_file(
        "config",
        jaxseg.config.__file__,
        "A file whose get_config() returns a jaxseg.config.Config. [the embedded demo]",
    )
    flags.DEFINE_string("workdir", None, "Where the sweep is kept, and resumed from.")
    flags.DEFINE_multi_string(
        "over",
        [],
        "What to try, as config.FIELD=A,B,C or config.FIELD=LOW..HIGH; may be repeated.",
    )
    flags.DEFINE_integer("seeds", 1, "Trainings at each point, of the seeds from config.seed on.")
    flags.DEFINE_integer("trials", None, "The number of points, where there is a range.")


def main() -> None:
    args = flags.FLAGS
    if not args.workdir:
        cli.fail("--workdir is missing; name a directory for the sweep, or that of one to go on")
    given = [name for name in args if name.startswith("config") and args[name].present]
    given += [name for name in ("seeds", "trials") if args[name].present]
    if given and not args.over:
        cli.fail(
            f"--{given[0]} is given without --over; say what to try, as in --over "
            "config.optim.learning_rate=1e-4,3e-4, or give --workdir alone to go on with a sweep"
        )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(width=None if sys.stdout.isatty() else 120)
    workdir = pathlib.Path(args.workdir)
    # Without cli.work, which starts the devices that the trainings need.
    try:
        plan = None
        if args.over:
            config = jaxseg.config.from_dict(dataclasses.asdict(args.config))
            plan = Plan(config, tuple(args.over), args.seeds, args.trials)
        results = sweep(workdir, plan, train=train_apart, console=console)
        plan = settle(workdir.absolute(), None)
    except (ValueError, OSError) as error:
        cli.fail(cli.explain(error))
    except (KeyboardInterrupt, StoppedError):
        _say(console, "Stopped; what is trained is saved. To go on:")
        _say(console, shlex.join(["python", "-m", "jaxseg.sweep", f"--workdir={workdir}"]))
        return
    console.print(scorecard.table(TITLE, *contents(plan, results)))
    for name in ("sweep.md", "sweep.csv"):
        _say(console, str(workdir / name))
    if results and results[0].values:
        _say(console, f"The best, in {results[0].trial.folder}:")
        _say(console, _options(results[0].trial))
    left = plan.points - len(results)
    if left > 0:
        cli.fail(
            f"trainings of {left} of the {plan.points} points were killed; start again by "
            f"--workdir={workdir} to try them again",
            code=1,
        )
    if not results[0].values:
        cli.fail("no training came to its end; sweep.csv says why", code=1)


if __name__ == "__main__":
    cli.run(main, define_flags)
