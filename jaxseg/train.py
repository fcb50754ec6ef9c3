"""Trains a segmentation model: python -m jaxseg.train [--config=FILE] [--workdir=DIR]

Without --config it trains the embedded demo, nuclei in a microscopy image, in about a minute. Any
field of the config can be replaced, as in --config.optim.learning_rate=3e-4. Started again with
the same workdir, it resumes from the newest checkpoint, exactly where it was.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import os
import pathlib
import shlex
import shutil
import sys
import time

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags
from rich.console import Console

import jaxseg.config
from jaxseg import (
    cli,
    data,
    dry_run,
    history,
    ingredients,
    parallel,
    skips,
    teachers,
)
from jaxseg.checkpoints import Checkpoints, disk_is_full
from jaxseg.config import Config
from jaxseg.evaluate import CONFIG_FILE, higher_is_better
from jaxseg.interruption import Interruption
from jaxseg.lock import Lock, claim
from jaxseg.profile import Profile
from jaxseg.report import Report, score_table
from jaxseg.supervise import supervise

DONE = "done"  # the file of a workdir whose run has come to its end
_LOCK = "lock"  # and of one in which a process trains


class NotFiniteError(RuntimeError):
    """The loss or its gradient is not finite."""

    def __init__(self, message: str, *, step: int, why: str):
        super().__init__(message)
        self.step, self.why = step, why


def train(
    config: Config,
    workdir: str | os.PathLike,
    *,
    allow_config_change: bool = False,
    profile: int = 0,
    console: Console | None = None,
) -> dict[str, float | None]:
    """Trains, or goes on training, until `config.steps`; returns the best checkpoint's scores.

    Everything is kept in `workdir`: `config.json`, `metrics.jsonl`, TensorBoard events,
    `pictures/`, `checkpoints/` and, when the run has come to its end, `done`. On SIGTERM or SIGINT
    the step in progress is finished and saved, and the scores are those so far. The first host
    traces `profile` steps, if any.

    Raises ValueError or OSError for a config, data or workdir that can't be used, BlockingIOError
    for one in which another process trains, and NotFiniteError when the loss is no longer finite;
    unless `config.not_finite` is "skip", with which it begins anew at the last checkpoint and
    leaves out the batch, as does any later start.
    """
    with Interruption() as interruption:
        return _go_on(interruption, config, workdir, allow_config_change, profile, console)


def _go_on(interruption, config, workdir, allow_config_change, profile, console=None):
    """`train`, also for one who was interrupted before."""
    interruption.has_begun()
    with Lock(pathlib.Path(workdir, _LOCK)).later() as lock:
        run = functools.partial(_train, config, workdir, allow_config_change, profile, console)
        while True:
            try:
                return run(interruption, lock)
            except NotFiniteError as error:
                known = skips.read(pathlib.Path(workdir))
                if config.not_finite != "skip" or skips.too_many(known, error.step):
                    raise
                if parallel.is_primary():
                    skips.add(pathlib.Path(workdir), error.step, error.why)


def _train(config, workdir, allow_config_change, profile, console, interruption, lock):
    primary, (_, processes) = parallel.is_primary(), parallel.host()
    console = console if console and primary else Console(quiet=not primary)
    workdir = pathlib.Path(workdir).absolute()
    # As the workdir keeps it, so that the run can be scored from any directory.
    config = jaxseg.config.anchored(config)
    automatic = config.batch_size == "auto"
    made = ingredients.gather(_with_batch_size(workdir, config))
    config, runner, train_step, lowered, training, evaluator, init, template = made
    if automatic:
        _say(console, f"batch_size is {config.batch_size}, from now on")
    with parallel.together():
        if primary:
            _claim(workdir, config, allow_config_change, console, lock)
    saved = Checkpoints(
        workdir / "checkpoints",
        keep_latest=config.keep_latest,
        best=config.best,
        higher_is_better=higher_is_better(config.best),
        on_full_disk=functools.partial(_say, console) if config.disk_full == "go_on" else None,
    )
    restored = saved.restore_latest(template)
    if restored is None:
        start, taken = 0, made.open_pretrained()
        if taken:
            _say(console, taken.line)
    else:
        start = restored[0]
    with parallel.together():
        if primary:  # only now, so that a config that does not fit has replaced nothing
            jaxseg.config.write(workdir / CONFIG_FILE, config)
    teacher = teachers.open_teacher(config, workdir, resumes=restored is not None)
    ends_early = _is_out_of_patience(workdir, config, start)
    trains = start < config.steps and not (ends_early or interruption.asked)
    compiling = parallel.compile_ahead(lowered) if trains else None  # while the state is made
    # Placed as the step returns it, or the second step would be compiled anew.
    if restored is None:
        state = parallel.run_once(init, runner, taken and taken.variables)
    else:
        state = runner.place(restored[1])
    teacher = runner.place(teacher)
    count = sum(math.prod(x.shape) for x in jax.tree.leaves(template.params))
    _say(
        console,
        f"{f'Resuming after step {start}' if start else 'Training'}, {config.steps} steps: "
        f"{training.labelled} images of {config.data.name}"
        f"{f' and {training.unlabelled} without labels' if training.unlabelled else ''}, "
        f"{count:,} parameters, {parallel.describe()}, in {workdir}",
    )

    if start >= config.steps:
        _say(console, f"All {config.steps} steps are done; set --config.steps for more.")
    skipped = skips.read(workdir)

    def evaluates(step):
        return step % config.eval_every == 0 or step == config.steps

    def stopping():
        return parallel.any_host(interruption.asked)

    def evaluated(step, state):
        """The scores, which are reported; None if the run is to stop before they are there."""
        scores = evaluator.scores(state, on_skip=report.skipped, stopping=stopping)
        if scores is not None:
            report.evaluation(step, scores)
            sheet = evaluator.picture(state) if config.pictures else None
            if sheet is not None:
                report.picture(step, sheet)
        return scores

    report = Report(workdir if primary else None, console, config, start)
    traced = Profile(workdir, steps=profile if primary else 0)
    with contextlib.closing(saved), contextlib.closing(report), contextlib.closing(traced):
        stops = stopping()
        unscored = start > 0 and evaluates(start) and not saved.scores(start)
        if unscored and not stops:  # the run was to stop while it was scored
            scores = evaluated(start, state)
            stops = unscored = scores is None
            if scores is not None:
                saved.save(start, state, scores)
                ends_early = _is_out_of_patience(workdir, config, start)
        if primary and start < config.steps and not ends_early:
            (workdir / DONE).unlink(missing_ok=True)  # of fewer steps, or of less patience
        host, hosts = runner.share
        batches = data.batches(
            training.source,
            training.positions(host=host, hosts=hosts),
            config.data,
            start=start,
            stop=start if stops or ends_early else config.steps,
            on_skip=report.skipped,
        )
        feed = parallel.Feed(batches, runner.shard)
        clock = _Clock(start, feed)
        pending = []  # steps whose scalars are still on the device, so that it can run ahead
        step, begun = start, False
        for step, batch in enumerate(feed, start + 1):
            if step in skipped:
                state = state._replace(step=runner.place(np.int32(step)))
                report.left_out(step, skipped[step])
            else:
                if not begun and compiling:
                    compiling.result()
                traced.before_step()
                with jax.profiler.StepTraceAnnotation("step", step_num=step):
                    state, scalars = train_step(state, batch, *teacher)
                if not begun:
                    jax.block_until_ready(state.step)
                    clock.restart(step)  # since time is speed from now on
                    begun = True
                feed.started(scalars)
                pending.append((step, scalars))
                traced.after_step(scalars)
            logs = step % config.log_every == 0 or step == config.steps
            meets = logs or evaluates(step) or step % config.checkpoint_every == 0
            stops = (meets or processes == 1) and stopping()
            saves = evaluates(step) or stops or step % config.checkpoint_every == 0
            if not (logs or saves):
                continue

            for at, scalars in pending:
                values = {name: float(x) for name, x in parallel.on_host(scalars).items()}
                if not all(map(math.isfinite, values.values())):
                    saved.settle()
                    rows = training.positions()[at - 1].tolist()
                    names = [training.source.name(index) for index, _ in rows]
                    why = _not_finite(values, names)
                    raise NotFiniteError(_stopped(at, why, saved), step=at, why=why)
            pending.clear()
            if logs and step not in skipped:
                rate, waited = clock.read(step)
                speed = None if rate is None else rate * config.batch_size
                eta = math.inf if rate is None else (config.steps - step) / rate
                report.training(step, values, speed, waited, eta)
            scores = None
            if evaluates(step):
                scores = evaluated(step, state)
                unscored = scores is None
                stops = stops or unscored
                ends_early = _is_out_of_patience(workdir, config, step)
            if saves:
                saved.save(step, state, scores)
            if stops or ends_early:
                break
            clock.restart(step)

        saved.wait()
        best = saved.best_step()
        scores = {} if best is None else saved.scores(best)

    if primary and not unscored and (step >= config.steps or ends_early):
        (workdir / DONE).touch()
    parallel.wait_for_all("said whether it is done")  # before a host leaves, whose script may look

    if profile and not traced.traced:
        _say(console, "profile          none, as no step came after the first, which is compiled")
    elif profile:
        _say(console, f"profile          {traced.directory}; to see it: pip install xprof, then")
        _say(console, f"                 xprof --logdir={shlex.quote(str(traced.directory))}")
        _say(
            console,
            "                 or open its perfetto_trace.json.gz at https://ui.perfetto.dev",
        )
    if best is not None:
        console.print(score_table(scores, f"Best checkpoint: step {best}"))
        _say(console, f"best checkpoint  {saved.path(best)}")
        _say(console, f"chosen by        {config.best}")
        _say(console, f"pictures         {workdir / 'pictures'}")
        _say(console, f"evaluate again   {_command('evaluate', workdir)}")
    if ends_early and step < config.steps:
        _say(
            console,
            f"Ended early, after step {step} of {config.steps}: {config.best} has not become "
            f"better for {config.patience} evaluations or more. To go on all the same:",
        )
        more = "--config.patience=0 --allow_config_change"
        _say(console, f"{_command('train', workdir)} {more}")
    elif step < config.steps or unscored:
        what = "; it is scored first when the run goes on" if unscored else ""
        saves = f"after step {step} of {config.steps}, which is saved{what}"
        _say(console, f"Stopped {saves if step else 'before the first step'}. To go on:")
        if processes > 1:
            _say(console, f"(on each of the {processes} hosts, with the flags that join them)")
        _say(console, _command("train", workdir))
    return scores


def _with_batch_size(workdir: pathlib.Path, config: Config) -> Config:
    """The config; if it says "auto", with what that was found to be when the run began, if ever."""
    path = workdir / CONFIG_FILE
    begun = path.exists() and any((workdir / "checkpoints").glob("[0-9]*"))
    if config.batch_size == "auto" and begun:
        config = dataclasses.replace(config, batch_size=jaxseg.config.read(path).batch_size)
    return config


def _is_out_of_patience(workdir: pathlib.Path, config: Config, step: int) -> bool:
    """Whether the run ends since its score no longer becomes better; the same on all hosts.

    By what is on disk until the step, so that a run that was killed ends where it would have
    without that.
    """
    if config.patience == 0:
        return False
    ends = False
    if parallel.is_primary():  # whose directory it is
        better = higher_is_better(config.best)
        found = history.read(workdir, config.best, higher_is_better=better, until=step)
        ends = found.without_gain() >= config.patience
    return parallel.any_host(ends)


def _claim(
    workdir: pathlib.Path, config: Config, allow_change: bool, console: Console, lock: Lock
) -> None:
    """Makes the workdir this process's; refuses one that is another's, or has another config."""
    (workdir / "checkpoints").mkdir(parents=True, exist_ok=True)
    claim(lock, f"another process trains in {workdir}; wait for it or end it, and start again")
    _compare(workdir, config, allow_change, console)


def _compare(workdir: pathlib.Path, config: Config, allow_change: bool, console: Console) -> None:
    """Says how the config differs from that in the workdir; refuses it if a run would be lost."""
    path = workdir / CONFIG_FILE
    if not path.exists():
        return
    changes = _changes(dataclasses.asdict(jaxseg.config.read(path)), dataclasses.asdict(config))
    begun = any((workdir / "checkpoints").glob("*"))  # else there is nothing to lose
    if changes and begun and not allow_change:
        raise ValueError(
            f"{workdir} holds a run with another config ({'; '.join(changes)}); choose another "
            "--workdir, undo the change, or resume with it by --allow_config_change"
        )
    for change in changes:
        _say(console, f"config changed: {change}")


def _changes(old: dict, new: dict, prefix: str = "") -> list[str]:
    """The fields in which two configs differ, each as `name: old -> new`."""
    found = []
    for name in dict.fromkeys([*old, *new]):
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            found += _changes(before, after, f"{prefix}{name}.")
        elif before != after:
            found.append(f"{prefix}{name}: {json.dumps(before)} -> {json.dumps(after)}")
    return found


def _not_finite(values: dict, names: list[str]) -> str:
    bad = ", ".join(
        f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)
    )
    return f"{bad}; its batch was {', '.join(dict.fromkeys(names))}"


def _stopped(step: int, why: str, saved: Checkpoints) -> str:
    last = saved.latest_step()
    good = (
        "there is no checkpoint yet"
        if last is None
        else f"the last good checkpoint is {saved.path(last)}"
    )
    return (
        f"training stopped at step {step}: {why}; "
        f"{good}. Lower optim.learning_rate, set optim.clip_norm, or look at these images"
    )


def _command(name: str, workdir: pathlib.Path) -> str:
    """A command that can be copied into the shell that this run was started from."""
    python = shutil.which("python")
    if python is None or not os.path.samefile(python, sys.executable):
        python = sys.executable
    else:
        python = "python"
    return shlex.join([python, "-m", f"jaxseg.{name}", f"--workdir={workdir}"])


def _say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, highlight=False, markup=False)


class _Clock:
    """The speed since the last restart, and how much of the time the devices waited for batches."""

    def __init__(self, step: int, feed: parallel.Feed):
        self._feed = feed
        self.restart(step)

    def restart(self, step: int) -> None:
        self._step, self._time, self._waited = step, time.perf_counter(), self._feed.waited

    def read(self, step: int) -> tuple[float | None, float | None]:
        """Steps a second and the share that was waited; None where no step has passed."""
        steps, seconds = step - self._step, time.perf_counter() - self._time
        if not steps:
            return None, None
        return steps / seconds, (self._feed.waited - self._waited) / seconds


def _config(workdir: pathlib.Path) -> Config:
    """The config of the command line; without --config, that of the workdir if it has one."""
    args = flags.FLAGS
    if args["config"].present or not (workdir / CONFIG_FILE).is_file():
        return jaxseg.config.from_dict(dataclasses.asdict(args.config))
    config = jaxseg.config.read(workdir / CONFIG_FILE)
    for name, *_ in cli.fields(Config):
        if f"config.{name}" in args and args[f"config.{name}"].present:
            *groups, field = name.split(".")
            setattr(functools.reduce(getattr, groups, config), field, args[f"config.{name}"].value)
    return jaxseg.config.from_dict(dataclasses.asdict(config))


def define_flags() -> None:
    config_flags.DEFINE_config_file(
        "config",
        jaxseg.config.__file__,
        "A file whose get_config() returns a jaxseg.config.Config. [the embedded demo]",
    )
    flags.DEFINE_string(
        "workdir", None, "Where the run is kept, and resumed from. [a new directory in runs/]"
    )
    flags.DEFINE_bool(
        "allow_config_change", False, "Resume even if the config is not the one it began with."
    )
    flags.DEFINE_integer(
        "retries",
        0,
        "Restart after a crash, at most so often in a row without a newer checkpoint; not after "
        "exit code 2 (options or data that can't be used) or 3 (a loss that is not finite).",
    )
    flags.DEFINE_integer(
        "profile", 0, "Trace so many steps, after compilation, into profile/ of the workdir."
    )
    flags.DEFINE_bool(
        "dry_run", False, "Show what a run would be made of, and its first batch; train nothing."
    )
    cli.define_process_flags()


def main() -> None:
    args = flags.FLAGS
    workdir = pathlib.Path(args.workdir or time.strftime("runs/%Y%m%d-%H%M%S"))
    if args.workdir is None and (args.distributed or args.coordinator):
        cli.fail("several processes need the same --workdir; name it for each of them")
    if args.retries > 0:
        again = ["-m", "jaxseg.train", *sys.argv[1:], f"--workdir={workdir}", "--retries=0"]
        code = supervise(
            [sys.executable, *again],
            workdir / "checkpoints",
            retries=args.retries,
            final=(cli.USAGE_ERROR, cli.NO_WAY_ON),
        )
        sys.exit(code)
    with Interruption() as interruption, cli.work():
        try:
            config = _config(workdir)
            parallel.split_cores(config)
            if args.dry_run:
                console = Console(quiet=not parallel.is_primary())
                config = _with_batch_size(workdir, jaxseg.config.anchored(config))
                _compare(workdir, config, args.allow_config_change, console)
                dry_run.show(config, workdir, console)
                return
            if args.profile < 0:
                raise ValueError(f"--profile is {args.profile}, but must be a number of steps")
            _go_on(interruption, config, workdir, args.allow_config_change, args.profile)
        except NotFiniteError as error:
            cli.fail(str(error), code=cli.NO_WAY_ON)  # it would come to the same again
        except OSError as error:
            if not disk_is_full(error):
                raise
            full = pathlib.Path(error.filename or workdir).absolute()  # or that of data.cache
            room = workdir if full.is_relative_to(workdir.absolute()) else full.parent
            what = f"{cli.explain(error)}. Make room for {room}, and start again to go on"
            cli.fail(what, code=cli.FAILED)


if __name__ == "__main__":
    cli.run(main, define_flags)
