"""The parameters that a run begins from, where another run has trained them."""

from __future__ import annotations

import os
import re
from typing import Any, NamedTuple

import jax

from jaxseg import names
from jaxseg.evaluate import open_run
from jaxseg.steps import TrainState

_HEAD = re.compile(r"head\d*\.")  # of a parameter's name


class Pretrained(NamedTuple):
    """What is taken of another run, as `steps.init_state` takes it, and a line that says so."""

    variables: tuple[dict, dict]  # params and batch_stats, None where they are new
    line: str


def open_pretrained(workdir: str | os.PathLike, template: TrainState) -> Pretrained:
    """The variables that are evaluated of a run's best checkpoint, as far as they fit the template.

    All must fit but those of the heads, which are new where the numbers of classes differ.
    """
    run = open_run(workdir)
    ours = _named((template.params, template.batch_stats))
    theirs = _named(run.state.eval_variables)
    new = []
    for name in dict.fromkeys([*ours, *theirs]):
        need, has = (x[name].shape if name in x else None for x in (ours, theirs))
        if need == has:
            continue
        if not _HEAD.match(name) or (need and has and need[:-1] != has[:-1]):
            if need and has:
                what = f"has {name} as {list(has)}, but this model needs {list(need)}"
            elif need:
                what = f"lacks {name}, which this model has"
            else:
                what = f"has {name}, which this model lacks"
            raise ValueError(
                f"init_from={workdir} {what}; only the head may differ, by its classes: make the "
                "fields of model, data.channels and the axes of data.image_size those of that run"
            )
        if need:
            new.append(name)
    taken = {name: theirs[name] for name in ours if name not in new}
    count = sum(x.size for x in taken.values())
    kept = f"{'all but ' + ', '.join(new) + ' are' if new else 'all are'} taken from"
    line = f"Parameters: {kept} step {run.step} of {workdir}, {count:,} numbers with the statistics"
    if new:
        line += f"; the new ones are of {len(run.config.data.classes)} classes there"
    variables = jax.tree_util.tree_map_with_path(
        lambda path, _: taken.get(_name(path)), (template.params, template.batch_stats)
    )
    return Pretrained(variables, line)


def _named(variables: tuple[dict, dict]) -> dict[str, Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(variables)
    return {_name(path): x for path, x in leaves}


def _name(path: tuple) -> str:
    """Such as `down0.conv0.kernel`, be it a parameter or a statistic, whose names differ."""
    return names.dotted(path[1:])
