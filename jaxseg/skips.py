"""The steps that a run leaves out because their batches made something not finite."""

from __future__ import annotations

import json
import pathlib

from jaxseg import writing

FILE = "skipped_steps.json"
_MOST, _WITHIN = 10, 100  # skips among so many steps; more of them are no matter of a batch


def read(workdir: pathlib.Path) -> dict[int, str]:
    """The steps that a run skips, and why."""
    path = workdir / FILE
    if not path.exists():
        return {}
    return {int(step): why for step, why in json.loads(path.read_text()).items()}


def add(workdir: pathlib.Path, step: int, why: str) -> None:
    """Keeps one more, for this start and all later ones."""
    found = {**read(workdir), step: why}
    with writing.whole(workdir / FILE) as fresh:
        fresh.write_text(json.dumps(found, indent=2) + "\n")


def too_many(skips: dict[int, str], step: int) -> bool:
    """Whether one more skip, of this step, would be more than ten among a hundred steps.

    >>> too_many(dict.fromkeys(range(91, 101), "loss is nan"), 101)
    True
    >>> too_many(dict.fromkeys(range(90, 100), "loss is nan"), 190)
    False
    """
    return sum(step - _WITHIN < at < step for at in skips) >= _MOST
