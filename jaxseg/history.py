"""The evaluations of a run as its metrics.jsonl has them, and how long it has not become better."""

from __future__ import annotations

import contextlib
import json
import math
import pathlib
from typing import NamedTuple

from jaxseg.report import METRICS


class History(NamedTuple):
    """One score of a run's evaluations; None where it was defined for nothing."""

    steps: tuple[int, ...]
    values: tuple[float | None, ...]
    higher_is_better: bool

    def best(self) -> float | None:
        """The best value, or None where there is none."""
        found = [x for x in self.values if x is not None]
        return (max if self.higher_is_better else min)(found, default=None)

    def without_gain(self) -> int:
        """How many evaluations there were since the first of the best.

        An equal score is no better, or a run that no longer learns would never end.

        >>> History((1, 2, 3, 4), (0.5, 0.7, 0.7, None), higher_is_better=True).without_gain()
        2
        """
        best = self.best()
        return len(self.values) - (0 if best is None else self.values.index(best) + 1)

    def ends(self, steps: int, patience: int) -> bool:
        """Whether a run of so many steps, and of this patience unless it is 0, ends with them."""
        done = bool(self.steps) and self.steps[-1] >= steps
        return done or 0 < patience <= self.without_gain()


def read(
    workdir: pathlib.Path, score: str, *, higher_is_better: bool, until: float = math.inf
) -> History:
    """The evaluations of the run in a workdir, of which there may be none yet.

    They are those that had a score of this name, up to and with the step `until`.
    """
    path, key = workdir / METRICS, json.dumps(score)
    text = path.read_text(errors="replace") if path.is_file() else ""
    found = []
    for line in text.splitlines(keepends=True):
        # Most lines are of training, and a kill can have cut the last one short.
        if key in line and line.endswith("\n"):
            with contextlib.suppress(ValueError):  # it is damaged
                found.append(json.loads(line))
    found = [x for x in found if x["step"] <= until]
    steps, values = (tuple(x[name] for x in found) for name in ("step", score))
    return History(steps, values, higher_is_better)
