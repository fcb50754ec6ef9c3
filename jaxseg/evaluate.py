"""Scores the best checkpoint of a run again: python -m jaxseg.evaluate --workdir=DIR

Reads the config that the run was trained with from its workdir and prints the scores that
training printed for this checkpoint.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from rich.console import Console

from jaxseg import (
    checkpoints,
    cli,
    config,
    data,
    losses,
    metrics,
    models,
    optim,
    parallel,
    pictures,
    report,
)
from jaxseg.config import Config
from jaxseg.steps import TrainState, init_state, make_eval_step, make_predict

CONFIG_FILE = "config.json"


def make_model(config: Config) -> models.Functional:
    """The model of a config, with batch statistics over all replicas."""
    dtypes = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
    if config.model.dtype not in dtypes:
        raise ValueError(
            f"model.dtype is {config.model.dtype!r}, but must be one of {', '.join(dtypes)}"
        )
    return models.to_functional(
        lambda rngs: models.UNet(
            config.data.channels,
            len(config.data.classes),
            widths=config.model.widths,
            norm=config.model.norm,
            resolutions=config.model.resolutions,
            dropout=config.model.dropout,
            dtype=dtypes[config.model.dtype],
            axis_name=parallel.AXIS,
            rngs=rngs,
        )
    )


class Evaluator:
    """Scores states on the evaluation split, every image once."""

    def __init__(self, config: Config, model: models.Functional, runner: parallel.Runner):
        self._config, self._runner = config, runner
        self._batch_size = parallel.round_up(config.eval_batch_size)
        self._source = data.open_source(config.data, config.data.eval_split)
        prepare = functools.partial(data.normalise, mean=config.data.mean, std=config.data.std)
        self._step = runner.compile(
            make_eval_step(
                model.apply,
                losses.weighted_sum(config.loss),
                len(config.data.classes),
                prepare=prepare,
                axis_name=parallel.AXIS,
            ),
            donate_state=False,
        )
        self._predict = jax.jit(make_predict(model.apply, prepare=prepare))

    def scores(self, state: TrainState) -> dict[str, float | None]:
        """The scores under the names of metrics.jsonl; None for a class that does not occur.

        The loss is the mean of the images' losses, weighted by their pixels that count.
        """
        host, hosts = parallel.host()
        positions = data.eval_positions(
            len(self._source),
            batch_size=self._batch_size,
            host=host,
            hosts=hosts,
        )
        confusion, sums = 0, {}
        for batch in data.batches(self._source, positions, self._config.data):
            found = parallel.on_host(self._step(state, self._runner.shard(batch)))
            confusion = confusion + found["confusion"].astype(np.int64)
            for name, value in found["loss"].items():
                sums[name] = sums.get(name, 0.0) + float(value)
        scores = {
            "mean_iou": metrics.mean_iou(confusion),
            "pixel_accuracy": metrics.accuracy(confusion),
            **{name: value / max(confusion.sum(), 1) for name, value in sums.items()},
        }
        for name, value in zip(self._config.data.classes, metrics.iou(confusion), strict=True):
            scores[f"iou/{name}"] = float(value)
        return {f"val/{k}": None if np.isnan(v) else v for k, v in scores.items()}

    def picture(self, state: TrainState) -> np.ndarray:
        """Images spread over the split, with their labels, predictions and entropies."""
        classes = self._config.data.classes
        count = min(self._config.pictures, len(self._source))
        load = data.make_loader(self._source, self._config.data)
        indices = np.linspace(0, len(self._source) - 1, count).astype(int)
        batch = data.collate(map(load, indices))
        probs = np.asarray(self._predict(parallel.local(state), batch))
        examples = zip(batch.images, batch.labels, batch.where, probs, strict=True)
        return pictures.sheet([pictures.panels(*x, classes) for x in examples], classes)


def evaluate(workdir: str | pathlib.Path) -> tuple[int, Config, dict[str, float | None]]:
    """The step, config and scores of a run's best checkpoint."""
    workdir = pathlib.Path(workdir)
    path = workdir / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist, so {workdir} is not the directory of a run; give the "
            "--workdir that training printed"
        )
    run = config.read(path)
    model = make_model(run)
    runner = parallel.make_runner(run.parallel)
    evaluator = Evaluator(run, model, runner)
    template = jax.eval_shape(make_init(run, model))
    saved = checkpoints.Checkpoints(workdir / "checkpoints")
    step, state = saved.restore_best(template)
    saved.close()
    return step, run, evaluator.scores(state)


def make_init(config: Config, model: models.Functional) -> Callable[[], TrainState]:
    """Makes the function that builds the state before the first step."""
    optimizer = optim.make_optimizer(config.optim, config.steps)
    return functools.partial(
        init_state, model, optimizer, config.seed, ema=config.optim.ema_decay > 0
    )


def define_flags() -> None:
    flags.DEFINE_string("workdir", None, "The directory of the run to score.")


def main() -> None:
    workdir = flags.FLAGS.workdir
    if not workdir:
        cli.fail("--workdir is missing; give the directory of a run, as training printed it")
    try:
        step, _, scores = evaluate(workdir)
    except (ValueError, OSError) as error:
        cli.fail(cli.explain(error))
    Console().print(report.score_table(scores, f"Best checkpoint: step {step}"))


if __name__ == "__main__":
    cli.run(main, define_flags)
