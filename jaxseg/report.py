"""What a run leaves in its workdir, and what the user sees while it goes."""

from __future__ import annotations

import contextlib
import json
import math
import pathlib
import sys
import threading
from collections.abc import Iterable, Iterator

import numpy as np
import rich.progress
import rich.table
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from jaxseg import loggers, writing
from jaxseg.config import Config

METRICS = "metrics.jsonl"
SKIPPED = "skipped.txt"
_NOTICED = 0.05  # of the time spent waiting for batches, from which on it is said


class Report:
    """Writes `metrics.jsonl` and `pictures/`, tells the loggers, and shows the progress.

    In a terminal as a bar, elsewhere as lines. A run that resumes at step `start` first drops
    what was written after that step, so that nothing is there twice. With no workdir (all hosts but
    one) nothing is written or shown.
    """

    def __init__(self, workdir: pathlib.Path | None, console: Console, config: Config, start: int):
        self._console, self._steps = console, config.steps
        self._score = None
        self._skipped, self._lock = {}, threading.Lock()  # since threads read
        self._workdir = workdir
        self._progress, self._open = None, contextlib.ExitStack()
        if workdir is None:
            return
        (workdir / "pictures").mkdir(exist_ok=True)
        if (workdir / SKIPPED).is_file():
            self._skipped = dict.fromkeys((workdir / SKIPPED).read_text().splitlines())
        kept = _drop_after(workdir / METRICS, start)
        with contextlib.ExitStack() as begun:  # which is closed if what follows fails
            self._metrics = begun.enter_context((workdir / METRICS).open("a"))
            self._loggers = []
            for logger in loggers.make(config, workdir, start):
                begun.callback(logger.close)
                self._loggers.append(logger)
            for values in kept:
                step = values.pop("step")
                if "skipped" not in values:  # of a step that was left out
                    for logger in self._loggers:
                        logger.again(step, values)
            self._open = begun.pop_all()
        if console.is_terminal and not console.is_jupyter:
            self._progress = Progress(
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(),
                TextColumn("{task.fields[text]}"),
                console=console,
                transient=True,
            )
            self._task = self._progress.add_task(
                "", total=self._steps, completed=start, text="compiling"
            )
            self._progress.start()
            self._open.callback(self._progress.stop)

    def skipped(self, why: str):
        """Keeps what could not be read, which `SKIPPED` lists, and says it once.

        Other hosts than the first say it on their own, and keep no list.
        """
        why = printable(why)
        with self._lock:
            if why in self._skipped:
                return
            self._skipped[why] = None
            if self._workdir is None:
                print(f"skipped: {why}", file=sys.stderr, flush=True)
                return
            with (self._workdir / SKIPPED).open("a") as file:
                print(why, file=file)
            self._say(f"skipped ({len(self._skipped)} so far): {why}")

    def training(
        self,
        step: int,
        scalars: dict[str, float],
        images_per_second: float | None,
        input_wait: float | None,
        eta: float,
    ):
        """Records a training step's loss, its terms and the speed; `eta` is in seconds.

        `input_wait` is the share of the time that the devices waited for batches, at most.
        """
        speeds = {"images_per_second": images_per_second, "input_wait": input_wait}
        self._write(step, {**scalars, **speeds})
        losses = {name.removeprefix("loss/"): x for name, x in scalars.items() if "loss" in name}
        terms = [f"{name} {value:.4f}" for name, value in losses.items()]
        score = [] if self._score is None else [f"mean IoU {self._score:.4f}"]
        speed = []
        if images_per_second is not None:
            speed = [f"{images_per_second:.1f} images/s", f"ETA {_clock(eta)}"]
            if input_wait > _NOTICED:
                speed.insert(1, f"input wait {input_wait:.0%}")
        text = "  ".join([*terms, *score, *speed])
        if self._progress:
            self._progress.update(self._task, completed=step, text=text)
        elif self._workdir:
            self._say(f"step {step}/{self._steps}  {text}")

    def evaluation(self, step: int, scores: dict[str, float | None]):
        """Records the scores of an evaluation."""
        self._score = scores["val/mean_iou"]
        self._write(step, scores)
        text = "  ".join(f"{name} {_number(value)}" for name, value in _overall(scores).items())
        self._say(f"step {step}/{self._steps}  validation: {text}")

    def picture(self, step: int, sheet: np.ndarray):
        """Keeps a picture as PNG and in the loggers."""
        Image.fromarray(sheet).save(self._workdir / "pictures" / f"step_{step:07d}.png")
        for logger in self._loggers:
            logger.picture(step, sheet)

    def left_out(self, step: int, why: str):
        """Records that a step's batch was skipped."""
        if self._workdir is not None:
            print(json.dumps({"step": step, "skipped": why}), file=self._metrics, flush=True)
        self._say(f"step {step}/{self._steps}  skipped: {why}")

    def close(self):
        """Closes all loggers, also where one of them fails."""
        self._open.close()

    def _write(self, step: int, values: dict[str, float | None]):
        if self._workdir is None:
            return
        print(json.dumps({"step": step, **values}), file=self._metrics, flush=True)
        self._log(step, **values)

    def _log(self, step: int, **values: float | None):
        for logger in self._loggers:
            logger.scalars(step, values)

    def _say(self, text: str):
        if self._workdir is not None:
            self._console.print(text, soft_wrap=True, highlight=False, markup=False)


def printable(line: str) -> str:
    """A line as it can be written, with the bytes of a file's name that are no text escaped."""
    return line.encode(errors="backslashreplace").decode()


def progress(steps: Iterable, total: int, text: str) -> Iterator:
    """Goes through the steps of some work, and shows in a terminal how far it is."""
    console = Console(stderr=True)
    return rich.progress.track(
        steps, text, total=total, console=console, transient=True, disable=not console.is_terminal
    )


def score_table(scores: dict[str, float | None], title: str):
    """A table of the IoU of each class and the scores over all."""
    prefix = "val/iou/"
    table = rich.table.Table(title=title, title_justify="left")
    table.add_column("class")
    table.add_column("IoU", justify="right")
    for name, value in scores.items():
        if name.startswith(prefix):
            table.add_row(name.removeprefix(prefix), _number(value))
    table.add_section()
    for name, value in _overall(scores).items():
        table.add_row(name, _number(value))
    return table


def _overall(scores: dict[str, float | None]) -> dict[str, float | None]:
    """The scores that are not of a class or a term of the loss, under names for a person."""
    names = (name.removeprefix("val/") for name in scores)
    return {
        name.replace("_", " ").replace("iou", "IoU"): scores[f"val/{name}"]
        for name in names
        if "/" not in name
    }


def _drop_after(path: pathlib.Path, step: int) -> list[dict]:
    """Drops the lines of later steps, and what is none; returns what the others hold."""
    if not path.exists():
        return []
    lines, kept = [], []
    for line in path.read_text(errors="replace").splitlines():
        try:
            values = json.loads(line)
            is_kept = values["step"] <= step
        except (ValueError, LookupError, TypeError):  # cut short by a kill, or damaged
            continue
        if is_kept:
            lines.append(line + "\n")
            kept.append(values)
    with writing.whole(path) as fresh:
        fresh.write_text("".join(lines))
    return kept


def _number(value: float | None) -> str:
    return "absent" if value is None else f"{value:.4f}"


def _clock(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "?"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{seconds:02}"
