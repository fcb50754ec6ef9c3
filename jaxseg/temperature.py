"""Fits the temperature of a run's probabilities: python -m jaxseg.temperature --workdir=DIR

Divides the logits of the best checkpoint by the one number that makes the labels of the validation
split likeliest, and keeps it as temperature.json in the workdir, where prediction and evaluation
find it. Which class is the likeliest does not change, only how sure the model is of it.
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from rich.console import Console

from jaxseg import checks, cli, data, evaluate, parallel, writing
from jaxseg.data.views import KINDS
from jaxseg.steps import make_eval_step, make_logits

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int

_LEAST, _MOST = 1e-2, 1e2  # the temperatures that are searched
_POINTS = 32  # that are tried at once
_PASSES = 4  # over the split; each divides the interval by the points
_JUDGED = ("negative_log_likelihood", "expected_calibration_error")


def slopes(
    logits: Float[Array, "*pixels classes"],
    labels: Int[Array, "*pixels"] | Float[Array, "*pixels classes"],
    sharpness: Float[Array, " points"],
    *,
    where: Bool[Array, "*pixels"] | None = None,
) -> Float[Array, " points"]:
    """How the negative log-likelihood of all pixels changes with the sharpness of the logits.

    The derivative of the sum over pixels of -log softmax(s logits)[label] by s, one over the
    temperature, at each of some s: the mean logit less the label's. It rises with s. Labels may be
    distributions, of which the mean over labels is taken.

    >>> import jax.numpy as jnp
    >>> logits, labels = jnp.log(jnp.array([[4.0, 1.0]] * 4)), jnp.array([0, 0, 1, 0])
    >>> found = slopes(logits, labels, jnp.array([0.1, 1.0]))  # the least is where 4^s is 3
    >>> [f"{x:.2f}" for x in found.tolist()]
    ['-1.19', '0.28']
    """
    logits = jnp.asarray(logits).astype(jnp.float32)
    labels = jnp.asarray(labels)
    if labels.ndim == logits.ndim:
        own = jnp.sum(jnp.where(labels == 0, 0.0, labels * logits), -1)
    else:
        own = jnp.take_along_axis(logits, labels[..., None], -1, mode="clip")[..., 0]
    where = checks.where(where, own.shape)

    def slope(s):
        q = jax.nn.softmax(s * logits)
        # A class that is ruled out, at -inf, changes nothing.
        excess = jnp.sum(jnp.where(q == 0, 0.0, q * (logits - own[..., None])), -1)
        return jnp.sum(excess if where is None else jnp.where(where, excess, 0.0))

    return jax.lax.map(slope, sharpness)


def fit(slopes: Callable[[Float[np.ndarray, " points"]], Float[np.ndarray, " points"]]) -> float:
    """The temperature at which the negative log-likelihood is least.

    `slopes` are those of a whole data set, as the function of that name gives them for a part of
    it. It is called a few times. The likelihood has one extremum, since its logarithm is concave in
    one over the temperature (Guo et al. 2017, arXiv:1706.04599).

    Raises ValueError if it lies outside 0.01..100, as that of a model without an error does.

    >>> logits, labels = np.log([[4.0, 1.0]] * 4), np.array([0, 0, 1, 0])
    >>> from jaxseg import temperature
    >>> found = fit(lambda s: temperature.slopes(logits, labels, s))
    >>> print(f"{found:.4f}")  # log 4 / log 3
    1.2619
    """
    low, high = np.log(1 / _MOST), np.log(1 / _LEAST)
    for _ in range(_PASSES):
        points = np.linspace(low, high, _POINTS)
        found = np.asarray(slopes(np.exp(points).astype(np.float32)), np.float64)
        if not np.isfinite(found).all():
            raise ValueError("the logits are not finite, so that no temperature fits them")
        if not found.any():
            raise ValueError("no pixel counts, so that there is nothing to fit a temperature to")
        if found[0] >= 0:
            raise ValueError(
                f"the labels are likeliest at a temperature above {_MOST:g}: the model knows less "
                "of this split than that all classes are equally likely; train it first"
            )
        if found[-1] <= 0:
            raise ValueError(
                f"the labels are likeliest at a temperature below {_LEAST:g}: the model has next "
                "to no error on this split, so that no temperature can be fitted to it; use others"
            )
        after = int(np.argmax(found > 0))
        low, high = points[after - 1], points[after]
    below, above = found[after - 1], found[after]
    return float(np.exp(-(low + (high - low) * below / (below - above))))


class Fitted(NamedTuple):
    """A temperature with what it changes: scores on the split before and after."""

    temperature: float
    step: int
    split: str
    images: int
    before: dict[str, float]
    after: dict[str, float]
    views: str


class _State(NamedTuple):
    """What the logits are made of, and the sharpness that they are judged at."""

    eval_variables: Any
    sharpness: Array


def fit_run(workdir: str | os.PathLike, *, split: str | None = None, views: str = "none") -> Fitted:
    """Fits the temperature of a run's best checkpoint and keeps it in the workdir.

    It is that of the means over the `views`, which only evaluations with the same ones take.
    """
    run = evaluate.open_run(workdir)
    split = split or run.config.data.eval_split
    runner = parallel.make_runner(run.config.parallel)
    placed = runner.place(run.state)
    host, hosts = runner.share
    source = data.open_source(run.config.data, split)
    batch_size = parallel.round_up(run.config.eval_batch_size, runner)
    prepare = functools.partial(data.normalise, mean=run.config.data.mean, std=run.config.data.std)

    rank = len(run.config.data.image_size)
    logits = make_logits(run.model.apply, views=data.views(views, rank))

    def measure(state, logits, image):
        return {"slopes": slopes(logits, image.labels, state.sharpness, where=image.where)}

    measured = make_eval_step(
        lambda state, batch: logits(state, batch.images), measure, axis_name=runner.axis_name
    )
    step = runner.compile(
        lambda state, batch: measured(state, runner.spread(prepare(batch))), donate_state=False
    )

    def of_split(sharpness):
        positions = data.eval_positions(len(source), batch_size=batch_size, host=host, hosts=hosts)
        state, total = _State(placed.eval_variables, runner.place(sharpness)), 0.0
        for batch in data.batches(source, positions, run.config.data):
            found = parallel.on_host(step(state, runner.shard(batch)))["slopes"]
            total = total + found.sum(0, dtype=np.float64)
        return total

    temperature = fit(of_split)

    def scores(temperature):
        evaluator = evaluate.Evaluator(
            run.config,
            run.model,
            runner,
            split=split,
            names=_JUDGED,
            temperature=temperature,
            views=views,
        )
        return evaluator.evaluation(placed).scores()

    judged = scores(1.0), scores(temperature)
    found = Fitted(temperature, run.step, split, len(source), *judged, views)
    if parallel.is_primary():
        path = pathlib.Path(workdir) / evaluate.TEMPERATURE_FILE
        with writing.whole(path) as fresh:
            fresh.write_text(json.dumps(found._asdict(), indent=2) + "\n")
    return found


def define_flags() -> None:
    flags.DEFINE_string("workdir", None, "The directory of the run.")
    flags.DEFINE_string("split", None, "What to fit it on. [its data.eval_split]")
    flags.DEFINE_enum("views", "none", KINDS, "Of means over these views of each image.")
    cli.define_process_flags()


def main() -> None:
    args = flags.FLAGS
    if not args.workdir:
        cli.fail("--workdir is missing; give the directory of a run, as training printed it")
    with cli.work():
        parallel.split_cores(evaluate.read_config(args.workdir))
        found = fit_run(args.workdir, split=args.split, views=args.views)
        console = Console(quiet=not parallel.is_primary(), soft_wrap=True, highlight=False)
        console.print(
            f"temperature {found.temperature:.4f}, fitted to step {found.step} on "
            f"{found.images} images of {found.split}"
        )
        for name in _JUDGED:
            words = name.replace("_", " ")
            console.print(f"{words}: {found.before[name]:.4f} -> {found.after[name]:.4f}")
        console.print(str(pathlib.Path(args.workdir) / evaluate.TEMPERATURE_FILE), markup=False)


if __name__ == "__main__":
    cli.run(main, define_flags)
