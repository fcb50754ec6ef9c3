"""Schedules and optax chains."""

from __future__ import annotations

import math

import jax
import optax

from jaxseg.config import Optim


def make_schedule(config: Optim, steps: int) -> optax.Schedule:
    """Linear warm-up from 0 to the learning rate, then cosine decay to 0 at the last step."""
    if not 0 <= config.warmup_steps < steps:
        raise ValueError(
            f"optim.warmup_steps is {config.warmup_steps}, but must be at least 0 and less than "
            f"the {steps} steps of the run"
        )
    return optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, config.warmup_steps, decay_steps=steps
    )


def make_optimizer(config: Optim, steps: int) -> optax.GradientTransformation:
    """Gradient clipping, the optimizer, decoupled weight decay and the schedule, in this order.

    Weight decay is decoupled from the gradient for every optimizer (Loshchilov and Hutter 2019,
    arXiv:1711.05101), so that "adam" with weight decay is "adamw". It applies to kernels alone:
    biases and normalisation are free.
    """
    for name, allowed, ok in (
        ("learning_rate", "positive", 0 < config.learning_rate < math.inf),
        ("weight_decay", "at least 0", config.weight_decay >= 0),
        ("momentum", "in [0, 1)", 0 <= config.momentum < 1),
        ("clip_norm", "at least 0", config.clip_norm >= 0),
        ("ema_decay", "in [0, 1)", 0 <= config.ema_decay < 1),
    ):
        if not ok:
            raise ValueError(f"optim.{name} is {getattr(config, name)}, but must be {allowed}")
    scale = {
        "adam": optax.scale_by_adam,
        "adamw": optax.scale_by_adam,
        "rmsprop": lambda: optax.chain(optax.scale_by_rms(0.9), optax.trace(config.momentum)),
        "sgd": lambda: optax.trace(config.momentum),
    }
    if config.name not in scale:
        raise ValueError(
            f"optim.name is {config.name!r}, but must be one of {', '.join(map(repr, scale))}"
        )
    chain = [scale[config.name]()]
    if config.clip_norm > 0:
        chain.insert(0, optax.clip_by_global_norm(config.clip_norm))
    if config.weight_decay > 0:
        chain.append(optax.add_decayed_weights(config.weight_decay, mask=_kernels))
    return optax.chain(*chain, optax.scale_by_learning_rate(make_schedule(config, steps)))


def _kernels(params: dict) -> dict:
    return jax.tree.map(lambda x: x.ndim > 1, params)
