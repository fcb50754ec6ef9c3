"""The steps that a run leaves out because their batches made something not finite."""

from __future__ import annotations

import json
import pathlib

from jaxseg import parallel, writing

FILE = "skipped_steps.json"
_MOST, _WITHIN = 10, 100  # skips among so many steps; more of them are no matter of a batch


def read(workdir: pathlib.Path) -> dict[int, str]:
    """The steps that a run skips, and why; all hosts must ask together.

    The primary reads, and tells the others, who may not see yet what it wrote.
    """
    text = ""
    with parallel.together():
        if parallel.is_primary():
            text = json.dumps(_kept(workdir))
    return {int(step): why for step, why in json.loads(parallel.from_primary(text)).items()}


def _kept(workdir: pathlib.Path) -> dict[str, str]:
    path = workdir / FILE
    if not path.exists():
        return {}
    try:
        return {str(int(step)): why for step, why in json.loads(path.read_text()).items()}
    except (ValueError, AttributeError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); delete it, and the steps that have to be skipped are "
            "found again"
        ) from error


def add(workdir: pathlib.Path, step: int, why: str) -> None:
    """Keeps one more, for this start and all later ones; the primary alone must do so."""
    found = {**_kept(workdir), str(step): why}
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
