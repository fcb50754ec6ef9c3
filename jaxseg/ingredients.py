"""What a run is made of: all that its config describes, made and checked before the first step."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax

from jaxseg import data, loggers, optim, parallel, pretrained, teachers, training_step
from jaxseg.config import Config
from jaxseg.evaluate import Evaluator, make_evaluator, make_init, make_model
from jaxseg.steps import TrainState


class Ingredients(NamedTuple):
    """All but what depends on the workdir: the state that is resumed from, and the teacher."""

    config: Config  # with the number for which its batch size stands
    runner: parallel.Runner
    train_step: Callable
    lowered: jax.stages.Lowered  # the step, for the config's batches
    training: data.Training
    evaluator: Evaluator
    init: Callable[..., TrainState]
    template: TrainState  # its shapes

    def open_pretrained(self) -> pretrained.Pretrained | None:
        """What the run begins from, if it is another one; all hosts must ask together."""
        if not self.config.init_from:
            return None
        with parallel.together():
            return pretrained.open_pretrained(self.config.init_from, self.template)


def gather(config: Config, optimizer: optax.GradientTransformation | None = None) -> Ingredients:
    """What all commands that train take, so that what one of them refuses, all do.

    An `optimizer` takes the place of the config's. All hosts must ask together.

    Raises ValueError or OSError for a config or data that can't be used.
    """
    _check(config)
    runner = parallel.make_runner(config.parallel)
    model = make_model(config, axis_name=runner.axis_name)
    automatic = config.batch_size == "auto"
    config = training_step.sized(config, model, runner)
    optimizer = optimizer or optim.make_optimizer(config.optim, config.steps)
    train_step = training_step.jitted(config, model, runner, optimizer)
    init = make_init(config, model)
    template = jax.eval_shape(init)
    # Before any data is read: options that can't be used raise here.
    rows = config.batch_size // runner.share[1]
    batch = data.empty_batch(config.data, rows, training=True)
    teacher = teachers.shapes(config)
    lowered = training_step.lower(train_step, runner, template, batch, teacher)
    primary = parallel.is_primary()
    for turn in (primary, not primary):  # one host prepares the data, then the others find it
        with parallel.together():
            if turn:
                training = data.open_training(config.data, config.batch_size, config.seed)
                evaluator = make_evaluator(config, model, runner)
    if automatic:
        training_step.check_evaluation(evaluator, runner, template)
    return Ingredients(config, runner, train_step, lowered, training, evaluator, init, template)


def _check(config: Config) -> None:
    """Raises ValueError for numbers that make no run."""
    loggers.check(config.loggers)
    counts = ("steps", "eval_batch_size", "eval_every", "checkpoint_every", "log_every")
    for least, names in ((1, (*counts, "keep_latest")), (0, ("pictures", "seed", "patience"))):
        for name in names:
            if getattr(config, name) < least:
                raise ValueError(f"{name} is {getattr(config, name)}, but must be at least {least}")
    choices = {"not_finite": ("stop", "skip"), "disk_full": ("stop", "go_on")}
    for name, known in choices.items():
        if getattr(config, name) not in known:
            words = " or ".join(map(repr, known))
            raise ValueError(f"{name} is {getattr(config, name)!r}, but must be {words}")
    if config.disk_full == "go_on" and parallel.host()[1] > 1:
        raise ValueError('disk_full="go_on" is for one process; several must stop, to agree')
    if config.seed >= 2**63:
        raise ValueError(f"seed is {config.seed}, but must be less than 2**63")
    if config.data.patch_size and not config.data.mean:
        raise ValueError(
            "data.patch_size needs data.mean and data.std, since a patch has other statistics than "
            "the image that evaluation sees; `python -m jaxseg.data inspect` measures them"
        )
