"""The points that a sweep tries, in a journal of Optuna that several processes write."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import difflib
import functools
import itertools
import json
import math
import operator
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jaxseg.config
from jaxseg import cli, writing
from jaxseg.config import Config
from jaxseg.lock import Lock

JOURNAL, LOCKS, PLAN = "journal", "locks", "sweep.json"
_KINDS = {name: kind for name, kind, *_ in cli.fields(Config)}


class Range(NamedTuple):
    """Numbers from low to high, both included; of integers where the field has these."""

    low: float
    high: float


def axis(text: str) -> tuple[str, tuple[str, ...] | Range]:
    """The field of the config that `config.FIELD=VALUES` names, and its values, texts or a range.

    >>> axis("config.optim.name=adam,lion")
    ('optim.name', ('adam', 'lion'))
    >>> axis("config.model.widths=(4,8),(8,16)")
    ('model.widths', ('(4,8)', '(8,16)'))
    >>> axis("config.optim.learning_rate=1e-5..1e-2")
    ('optim.learning_rate', Range(low=1e-05, high=0.01))
    """
    option, _, values = text.partition("=")
    name = option.removeprefix("config.")
    if name == option or name not in _KINDS:
        close = difflib.get_close_matches(name, _KINDS, n=1, cutoff=0.5)
        hint = f"did you mean config.{close[0]}=?" if close else "train --help lists the fields"
        raise ValueError(f"--over has {text!r}, which names no field of the config; {hint}")
    if name in ("seed", "best"):
        why = "--seeds repeats each point" if name == "seed" else "one score has to judge all"
        raise ValueError(f"--over has config.{name}, which is the same for all points: {why}")
    kind = int if name == "batch_size" else _KINDS[name]  # which may also be "auto"
    if kind in (int, float) and ".." in values:
        low, _, high = values.partition("..")
        try:
            found = Range(kind(low), kind(high))
        except (TypeError, ValueError):
            found = Range(math.nan, math.nan)
        if not -math.inf < found.low < found.high < math.inf:
            raise ValueError(
                f"--over has {text!r}, but a range is from a number that the field can have to a "
                "higher one, as in config.optim.learning_rate=1e-5..1e-2"
            )
        return name, found
    found = _split(values)
    if not all(found):
        raise ValueError(f"--over has {text!r}, where a value is missing; write =A,B or =LOW..HIGH")
    return name, tuple(dict.fromkeys(found))


def _split(values: str) -> list[str]:
    """What is between the commas that are in no bracket."""
    parts, depth = [""], 0
    for sign in values:
        depth += (sign in "([{") - (sign in ")]}")
        if sign == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += sign
    return [part.strip() for part in parts]


def replaced(config: Config, fields: Mapping[str, Any]) -> Config:
    """The config with other values of some fields; texts are read as on a command line.

    Raises ValueError for what is no value of its field.

    >>> replaced(Config(), {"model.widths": "(4, 8)", "optim.name": "sgd"}).model.widths
    (4, 8)
    """
    values = dataclasses.asdict(config)
    for name, value in fields.items():
        if isinstance(value, str) and _KINDS[name] is not str:
            # What is no literal, the config itself refuses.
            with contextlib.suppress(ValueError, SyntaxError):
                value = ast.literal_eval(value)
        *groups, field = name.split(".")
        functools.reduce(operator.getitem, groups, values)[field] = value
    return jaxseg.config.from_dict(values)


def _anchored(text: str) -> str:
    """What `axis` takes, with absolute paths where the field is one."""
    name, values = axis(text)
    if _KINDS[name] is not str:
        return text
    *groups, field = name.split(".")
    configs = (jaxseg.config.anchored(replaced(Config(), {name: value})) for value in values)
    found = (getattr(functools.reduce(getattr, groups, config), field) for config in configs)
    return f"config.{name}={','.join(found)}"


class Plan(NamedTuple):
    """What a sweep tries: points of the fields `over`, each with some seeds.

    Lists are tried in all combinations; where there is a range, Optuna's tree-structured Parzen
    estimator chooses `trials` points (Bergstra et al. 2011, "Algorithms for hyper-parameter
    optimization"), in the logarithm of a range of positive numbers.
    """

    config: Config
    over: tuple[str, ...]  # as `axis` takes them
    seeds: int = 1
    trials: int | None = None

    @property
    def axes(self) -> dict[str, tuple[str, ...] | Range]:
        return dict(map(axis, self.over))

    @property
    def grid(self) -> list[dict[str, str]] | None:
        """The points in order, unless there is a range."""
        axes = self.axes
        if any(isinstance(values, Range) for values in axes.values()):
            return None
        return [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]

    @property
    def points(self) -> int:
        """How many there are to try."""
        return len(self.grid) if self.grid else self.trials

    def anchored(self) -> Plan:
        """The plan with absolute paths, also those that it tries."""
        return self._replace(
            config=jaxseg.config.anchored(self.config), over=tuple(map(_anchored, self.over))
        )

    def each_seed(self) -> range:
        return range(self.config.seed, self.config.seed + self.seeds)

    def check(self) -> None:
        """Raises ValueError unless it can be tried."""
        axes = self.axes
        if len(axes) < len(self.over):
            raise ValueError("--over has a field twice; give all its values at once, as in =A,B,C")
        for name, values in axes.items():
            for value in values:  # of a range its ends
                replaced(self.config, {name: value})
        if self.seeds < 1:
            raise ValueError(f"--seeds is {self.seeds}, but must be at least 1")
        if self.grid and self.trials is not None:
            raise ValueError("--trials goes with ranges; of lists all combinations are tried")
        if not self.grid and (self.trials is None or self.trials < 1):
            raise ValueError("--trials is missing: how many points of the ranges to try, 1 or more")


def settle(workdir: pathlib.Path, plan: Plan | None) -> Plan:
    """The plan of the workdir, which is the given one if it had none; `trials` may be changed.

    Raises ValueError if it has another one, or there is none.
    """
    path = workdir / PLAN
    if plan is not None:
        plan.check()
        plan = plan.anchored()
    elif not path.is_file():
        raise ValueError(
            f"{workdir} holds no sweep; say what to try, as in --over "
            "config.optim.learning_rate=1e-4,3e-4"
        )
    with Lock(workdir / LOCKS / "plan"):
        kept = _read(path).anchored() if path.is_file() else plan
        for name in ("config", "over", "seeds"):
            if plan is not None and getattr(plan, name) != getattr(kept, name):
                raise ValueError(
                    f"{workdir} holds a sweep of another {name}; choose another --workdir, or go "
                    "on with that sweep by --workdir alone"
                )
        if plan is not None:
            values = {**plan._asdict(), "config": dataclasses.asdict(plan.config)}
            with writing.whole(path) as fresh:
                fresh.write_text(json.dumps(values, indent=2) + "\n")
    return plan or kept


def _read(path: pathlib.Path) -> Plan:
    try:
        fields = json.loads(path.read_text())
        config = jaxseg.config.from_dict(fields.pop("config"))
        return Plan(config, tuple(fields.pop("over")), **fields)
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); choose another --workdir") from error


class Trial(NamedTuple):
    """A point that is tried, in a folder of its own."""

    number: int
    fields: dict[str, Any]
    folder: pathlib.Path


class Study:
    """The trials of a plan in a workdir, which several processes may have open.

    A trial is begun by one of them, under a lock; that of a process that died, another takes over.
    """

    def __init__(self, workdir: pathlib.Path, plan: Plan, *, maximize: bool):
        self._optuna = _import_optuna()
        self._workdir, self._axes, self._grid = workdir, plan.axes, plan.grid
        self._points, self._left = plan.points, set()
        backend = self._optuna.storages.journal.JournalFileBackend(
            str(workdir / JOURNAL), lock_obj=self._lock("journal")
        )
        self._study = self._optuna.create_study(
            storage=self._optuna.storages.JournalStorage(backend),
            study_name="sweep",
            direction="maximize" if maximize else "minimize",
            load_if_exists=True,
        )

    def trials(self) -> Iterator[Trial]:
        """Yields each trial that has no end until `tell` is told one, and holds its lock.

        Waits for those that other processes have. What is yielded and not told is left to another
        process, or to the next one that has the workdir open.
        """
        while True:
            with self.alone():
                held = self._claim()
            if held is not None:
                trial, lock = held
                try:
                    yield trial
                finally:
                    self._left.add(trial.number)
                    lock.release()
            elif running := self._running():
                with self._lock(running[0].number):
                    pass  # the process that had it is through with it, or dead
            else:
                return

    def tell(self, trial: Trial, value: float | None) -> None:
        """Ends a trial with its value, or without one if it failed."""
        state = self._optuna.trial.TrialState
        self._study.tell(trial.number, value, state=state.FAIL if value is None else state.COMPLETE)

    def alone(self) -> Lock:
        """A block that one process at a time is in."""
        return self._lock("alone")

    def ended(self) -> list[Trial]:
        """The trials that were told, in the order they were begun in."""
        return [self._trial(x) for x in self._begun() if x.state.is_finished()]

    def _claim(self) -> tuple[Trial, Lock] | None:
        """A trial that no living process has, begun before or now, and its lock."""
        for found in self._running():
            lock = self._lock(found.number)
            if lock.acquire(blocking=False):
                found = self._study.get_trials()[found.number]  # which may have ended just now
                if not found.state.is_finished() and found.params.keys() == self._axes.keys():
                    return self._trial(found), lock
                if not found.state.is_finished():  # its process died before it had chosen a point
                    self._study.tell(found.number, state=self._optuna.trial.TrialState.FAIL)
                lock.release()
        index = len(self._begun())
        if index >= self._points:
            return None
        self._begin(index)
        found = self._study.get_trials()[-1]
        lock = self._lock(found.number)
        lock.acquire()
        return self._trial(found), lock

    def _begin(self, index: int) -> None:
        """Adds a trial, by the number of those before it and their values alone.

        So a sweep that was killed goes on with the points that it would have had.
        """
        distributions = self._optuna.distributions
        space = {}
        for name, values in self._axes.items():
            if not isinstance(values, Range):
                space[name] = distributions.CategoricalDistribution(values)
                continue
            kind = {int: distributions.IntDistribution, float: distributions.FloatDistribution}
            space[name] = kind[_KINDS[name]](*values, log=values.low > 0)
        if self._grid:
            # GridSampler shuffles, and raises when it is told of its last point.
            running = self._optuna.trial.TrialState.RUNNING
            create = self._optuna.trial.create_trial
            self._study.add_trial(
                create(state=running, params=self._grid[index], distributions=space)
            )
        else:
            self._study.sampler = self._optuna.samplers.TPESampler(seed=index)
            self._study.ask(space)

    def _begun(self) -> list:
        return [x for x in self._study.get_trials() if x.params.keys() == self._axes.keys()]

    def _running(self) -> list:
        """The trials without an end, but those that this process leaves to others."""
        running = self._study.get_trials(states=[self._optuna.trial.TrialState.RUNNING])
        return [x for x in running if x.number not in self._left]

    def _trial(self, found) -> Trial:
        fields = {name: found.params[name] for name in self._axes}
        return Trial(found.number, fields, self._workdir / "trials" / f"{found.number:03}")

    def _lock(self, name: str | int) -> Lock:
        return Lock(self._workdir / LOCKS / str(name))


def _import_optuna():
    try:
        import optuna
    except ImportError as error:
        raise ValueError("a sweep needs Optuna: pip install 'jaxseg[sweep]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
