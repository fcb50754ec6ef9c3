"""Finds a learning rate: python -m jaxseg.range_test [--config=FILE] [--output=DIR]

Trains for some steps, as the config says, while the rate rises from one that is too low to one that
is too high, and draws the loss over the rate (Smith 2017, arXiv:1506.01186). Ends when the loss has
diverged. Suggests the rate at which the loss falls fastest. Leaves range_test.png and
range_test.csv.
"""

from __future__ import annotations

import csv
import dataclasses
import math
import pathlib
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from absl import flags
from matplotlib.figure import Figure
from ml_collections import config_flags
from rich.console import Console

import jaxseg.config
from jaxseg import cli, data, ingredients, optim, parallel, report, teachers
from jaxseg.config import Config

_REACH = 20  # the smoothed loss is of this part of the steps


class RangeTest(NamedTuple):
    """The loss before the first step, and after a step at each rate."""

    start: float
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    diverged: bool
    reach: int  # steps that the smoothed loss is a mean over, more or less

    def least(self) -> float:
        """The rate with the least smoothed loss."""
        return self.rates[int(np.argmin(self.smoothed))]

    def steepest(self) -> float | None:
        """The rate at which the smoothed loss falls fastest before it is least; None if nowhere.

        Falls are taken over some steps, in which noise has less part the more steps there are.

        >>> losses = (1.0, 1.0, 0.9, 0.3, 0.2, 2.0)
        >>> rates = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
        >>> RangeTest(1.0, rates, losses, losses, diverged=True, reach=1).steepest()
        0.01
        """
        curve = np.array((self.start, *self.smoothed))[: int(np.argmin(self.smoothed)) + 2]
        falls = curve[: -self.reach] - curve[self.reach :]
        if not falls.size or falls.max() <= 0:
            return None
        return self.rates[int(np.argmax(falls)) + self.reach // 2]


def smooth(losses: Sequence[float], reach: int) -> list[float]:
    """The mean of all losses so far, in which each weighs 1 - 1 / reach of the one after it.

    >>> smooth([4.0, 1.0], 2)  # (4 / 2 + 1) / (1 / 2 + 1)
    [4.0, 2.0]
    """
    found, total, weight = [], 0.0, 0.0
    for loss in losses:
        total, weight = (1 - 1 / reach) * total + loss, (1 - 1 / reach) * weight + 1
        found.append(total / weight)
    return found


def run(
    config: Config, *, lowest: float = 1e-7, highest: float = 10.0, steps: int = 100
) -> RangeTest:
    """Trains while the learning rate rises by the same factor at each step.

    It has diverged, and ends, when the smoothed loss is twice what it began with, or when the loss
    or its gradient is not finite. The config's schedule, warm-up and rate have no part in it.

    Raises ValueError or OSError for a config or data that can't be used.
    """
    if not 0 < lowest < highest < math.inf:
        raise ValueError(
            f"the rates are {lowest:g} to {highest:g}, but must be positive and rising; see "
            "--lowest and --highest"
        )
    if steps < 2:
        raise ValueError(f"--steps is {steps}, but must be at least 2")
    rates = np.geomspace(lowest, highest, steps)
    growth = (highest / lowest) ** (1 / (steps - 1))
    optimizer = optim.make_optimizer(config.optim, steps, lambda step: lowest * growth**step)
    made = ingredients.gather(config, optimizer)
    config, runner, train_step, _, training, _, init, _ = made
    taken = made.open_pretrained()
    state = parallel.run_once(init, runner, taken and taken.variables)
    teacher = runner.place(teachers.open_teacher(config))
    host, hosts = runner.share
    positions = training.positions(host=host, hosts=hosts)
    # One more, as the loss of a step is that before its update.
    batches = data.batches(training.source, positions, config.data, stop=steps + 1)
    losses, reach, diverged = [], max(1, steps // _REACH), False
    feed = parallel.Feed(batches, runner.shard)
    for batch in report.progress(feed, steps + 1, "steps") if parallel.is_primary() else feed:
        state, scalars = train_step(state, batch, *teacher)
        values = {name: float(x) for name, x in parallel.on_host(scalars).items()}
        diverged = not all(map(math.isfinite, values.values()))
        if math.isfinite(values["loss"]):
            losses.append(values["loss"])
        if losses and not diverged:
            diverged = smooth(losses, reach)[-1] > losses[0] + abs(losses[0])
        if diverged:
            break
    if len(losses) < 2:
        raise ValueError(
            f"the loss is not finite after a step at a rate of {lowest:g}; lower --lowest, or look "
            "at the data by `python -m jaxseg.data inspect`"
        )
    start, *losses = losses
    smoothed = smooth(losses, reach)
    rates = tuple(rates[: len(losses)].tolist())
    return RangeTest(start, rates, tuple(losses), tuple(smoothed), diverged, reach)


def write(directory: pathlib.Path, found: RangeTest) -> None:
    """Leaves the curve as range_test.csv and range_test.png."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "range_test.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("learning_rate", "loss", "smoothed"))
        rows.writerows(zip(found.rates, found.losses, found.smoothed, strict=True))
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(found.rates, found.losses, color="#c9d7e8", label="loss after a step")
    axes.plot(found.rates, found.smoothed, color="#4472a8", label="smoothed")
    for rate, text, colour in (
        (found.steepest(), "steepest fall", "#c0392b"),
        (found.least(), "least", "grey"),
    ):
        if rate is not None:
            axes.axvline(rate, color=colour, linestyle=":", label=f"{text}, at {rate:.1e}")
    # Of a loss that diverges, what is beyond twice the start says no more.
    low, high = min(found.smoothed), found.start + abs(found.start)
    axes.set(
        xscale="log",
        xlabel="learning rate",
        ylabel="loss",
        ylim=(low - 0.05 * (high - low), min(high, max(found.losses)) + 0.05 * (high - low)),
    )
    axes.legend()
    figure.savefig(directory / "range_test.png", dpi=120)


def define_flags() -> None:
    config_flags.DEFINE_config_file(
        "config",
        jaxseg.config.__file__,
        "A file whose get_config() returns a jaxseg.config.Config. [the embedded demo]",
    )
    flags.DEFINE_float("lowest", 1e-7, "The learning rate of the first step.")
    flags.DEFINE_float(
        "highest", 10.0, "The learning rate of the last step, unless it ends before."
    )
    flags.DEFINE_integer("steps", 100, "The number of steps; more take noise out of the curve.")
    flags.DEFINE_string("output", None, "Where the curve goes. [a new directory in runs/]")
    cli.define_process_flags()


def main() -> None:
    args = flags.FLAGS
    with cli.work():
        config = jaxseg.config.from_dict(dataclasses.asdict(args.config))
        parallel.split_cores(config)
        found = run(config, lowest=args.lowest, highest=args.highest, steps=args.steps)
        if not parallel.is_primary():
            return
        output = pathlib.Path(args.output or time.strftime("runs/%Y%m%d-%H%M%S-range_test"))
        write(output, found)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    end = "where it diverged" if found.diverged else "the last"
    console.print(
        f"loss {found.start:.4f} at first, {min(found.smoothed):.4f} at {found.least():.1e}, "
        f"{found.smoothed[-1]:.4f} at {found.rates[-1]:.1e}, {end}"
    )
    console.print(str(output / "range_test.png"))
    console.print(str(output / "range_test.csv"))
    rate = found.steepest()
    if rate is None:
        cli.fail("the loss falls at none of these rates; give others, or more --steps", code=1)
    console.print("The loss falls fastest at this rate:")
    console.print(f"--config.optim.learning_rate={rate:.1e}")


if __name__ == "__main__":
    cli.run(main, define_flags)
