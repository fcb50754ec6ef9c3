"""The training step that a config describes, as all devices of all hosts run it."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import optax

from jaxseg import batch_size, data, losses, optim, parallel, steps, teachers
from jaxseg.batch import Batch
from jaxseg.config import Config
from jaxseg.evaluate import Evaluator, make_init
from jaxseg.models import Functional


class Plan(NamedTuple):
    """What a device does in a step."""

    flops: float | None  # None where XLA does not say; of several parts those of one
    arguments: int  # bytes of state and batch
    temporaries: int  # bytes besides, at most

    @property
    def memory(self) -> int:
        return self.arguments + self.temporaries


def jitted(
    config: Config,
    model: Functional,
    runner: parallel.Runner,
    optimizer: optax.GradientTransformation,
) -> Callable:
    """The step `(state, batch, *constants) -> (state, scalars)`, which takes the old state.

    The constants are what `teachers.open_teacher` finds. Options that can't be used raise
    ValueError here, or by `lower`.
    """
    loss = losses.weighted_sum(config.loss)
    if config.model.resolutions > 1:
        loss = losses.deep_supervision(loss)
    prepare = preparation(config, axis_name=runner.axis_name)

    def spread(batch, keys, **look):
        return runner.spread(prepare(batch, keys, **look))

    def apply(params, *inputs, **options):
        return model.apply(optim.without_frozen(config.optim, params), *inputs, **options)

    teaching = teachers.make_teaching(config, model, spread)
    return runner.compile(
        steps.make_train_step(
            apply,
            loss,
            optimizer,
            prepare=spread,
            seed=config.seed,
            ema_decay=config.optim.ema_decay,
            parts=config.parts,
            axis_name=runner.axis_name,
            teaching=teaching,
        ),
        donate_state=True,
        constants=teaching.constants if teaching else 0,
    )


def sized(config: Config, model: Functional, runner: parallel.Runner) -> Config:
    """The config with the number for which its batch size stands, which the devices can share."""
    if config.batch_size == "auto":
        config = dataclasses.replace(config, batch_size=largest_batch(config, model, runner))
    parallel.check_batch_size(config.batch_size, runner, config.parts)
    return config


def largest_batch(config: Config, model: Functional, runner: parallel.Runner) -> int:
    """The largest batch that every host's devices have memory for, by what XLA plans for a step.

    Of the batches that are split evenly it takes 1, 2, 4, 8, ... times the smallest, and no more
    than there are images. Besides a step there is room for the batches of those that follow, as
    the loop runs ahead. For evaluation, whose batches are others, see `check_evaluation`.
    """
    optimizer = optim.make_optimizer(config.optim, config.steps)
    train_step = jitted(config, model, runner, optimizer)
    template, teacher = jax.eval_shape(make_init(config, model)), teachers.shapes(config)

    @functools.cache
    def needs(size):
        batch = data.empty_batch(config.data, size // runner.share[1], training=True)
        memory = planned(lower(train_step, runner, template, batch, teacher)).memory
        others = parallel.LAID_OUT - 1
        held = sum(x.nbytes for x in jax.tree.leaves(batch)) // jax.local_device_count()
        return memory + others * held

    unit = parallel.round_up(1, runner, config.parts)
    needs(unit)  # which raises for options that can't be used, before any data is read
    for turn in (parallel.is_primary(), not parallel.is_primary()):  # one prepares the data
        with parallel.together():
            if turn:
                source = data.open_source(config.data, config.data.train_split)
    labelled = 1 - config.data.unlabelled_share if config.data.unlabelled else 1
    most = len(source) if labelled <= 0 else math.floor(len(source) / labelled)
    found = batch_size.largest(needs, parallel.memory(), unit=unit, most=most)
    return parallel.smallest(found)


def planned_evaluation(
    evaluator: Evaluator, runner: parallel.Runner, template: steps.TrainState
) -> Plan:
    """What XLA plans for a step of an evaluation, with all of the state, though it reads a part."""
    step, batch = evaluator.rehearsal()
    state = jax.tree.map(
        lambda x, sharding: math.prod(sharding.shard_shape(x.shape)) * x.dtype.itemsize,
        template,
        runner.layout(template),
    )
    laid = jax.tree.map(lambda x: x.addressable_shards[0].data.nbytes, runner.shard(batch))
    plan = planned(lower(step, runner, template, batch))
    return plan._replace(arguments=sum(jax.tree.leaves((state, laid))))


def check_evaluation(
    evaluator: Evaluator, runner: parallel.Runner, template: steps.TrainState
) -> None:
    """Raises ValueError on all hosts unless those of every host have memory for an evaluation."""
    needs, limit = planned_evaluation(evaluator, runner, template).memory, parallel.memory()
    if parallel.any_host(needs > limit):
        raise ValueError(
            f"an evaluation needs {needs / 2**20:.0f} MiB of a device, but it has "
            f"{limit / 2**20:.0f}; make eval_batch_size or data.image_size smaller, or set "
            "model.window or parallel"
        )


def preparation(config: Config, *, axis_name: str | None = None) -> Callable:
    """What a step makes of a batch before the model sees it: `prepare(batch, keys)`."""
    return functools.partial(
        data.augment,
        config=config.augment,
        mean=config.data.mean,
        std=config.data.std,
        axis_name=axis_name,
    )


def lower(
    step: Callable,
    runner: parallel.Runner,
    template: steps.TrainState,
    batch: Batch,
    constants: tuple = (),
) -> jax.stages.Lowered:
    """A step of a batch as this host reads it, traced; of the state and constants it needs shapes.

    A call of the step then need not trace it again, but for one by `jax.pmap` that is of several
    hosts, or before jax 0.8.
    """

    def laid(tree):
        return jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            tree,
            runner.layout(tree),
        )

    return step.lower(laid(template), runner.shard(batch), *laid(constants))


def planned(lowered: jax.stages.Lowered) -> Plan:
    """What XLA plans for a step."""
    compiled = lowered.compile()
    memory = compiled.memory_analysis()
    return Plan(
        flops=(compiled.cost_analysis() or {}).get("flops"),
        arguments=memory.argument_size_in_bytes,
        # What is no old state in the place of a new one.
        temporaries=memory.temp_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes,
    )
