"""Schedules and optax chains."""

from __future__ import annotations

import fnmatch
import math
from typing import Any

import jax
import optax
from optax import contrib

from jaxseg import names
from jaxseg.config import Optim


def make_schedule(config: Optim, steps: int) -> optax.Schedule:
    """The learning rate of each step: a rise over `warmup_steps`, then until the last step a fall.

    The rise is linear from 0, and then "cosine" falls as half a cosine does (Loshchilov and Hutter
    2017, arXiv:1608.03983), "polynomial" as the share of steps to go, to the `power` (Chen et al.
    2018, arXiv:1606.00915), and "constant" does not. "one_cycle" rises from a 25th as half a cosine
    does, too, and falls as "cosine" (after Smith and Topin 2017, arXiv:1708.07120). Falls end at
    `final_share` of the learning rate.

    >>> config = Optim(learning_rate=1.0, schedule="polynomial", power=2.0, warmup_steps=2)
    >>> schedule = make_schedule(config, 6)
    >>> [float(schedule(step)) for step in range(7)]
    [0.0, 0.5, 1.0, 0.5625, 0.25, 0.0625, 0.0]
    """
    if not 0 <= config.warmup_steps < steps:
        raise ValueError(
            f"optim.warmup_steps is {config.warmup_steps}, but must be at least 0 and less than "
            f"the {steps} steps of the run"
        )
    _check(
        config,
        ("final_share", "in [0, 1]", 0 <= config.final_share <= 1),
        ("power", "positive", 0 < config.power < math.inf),
    )
    peak, rise, fall = config.learning_rate, config.warmup_steps, steps - config.warmup_steps
    line = optax.linear_schedule(0.0, peak, rise)
    cosine = optax.cosine_decay_schedule(peak, fall, config.final_share)
    polynomial = optax.polynomial_schedule(peak, config.final_share * peak, config.power, fall)
    schedules = {
        "cosine": (line, cosine),
        "polynomial": (line, polynomial),
        "one_cycle": (optax.cosine_decay_schedule(peak / 25, max(rise, 1), 25.0), cosine),
        "constant": (line, optax.constant_schedule(peak)),
    }
    return optax.join_schedules(_choice(config, "schedule", schedules), [rise])


def make_optimizer(
    config: Optim, steps: int, schedule: optax.Schedule | None = None
) -> optax.GradientTransformation:
    """Gradient clipping, the optimizer, decoupled weight decay, schedule and rates, in this order.

    Weight decay is decoupled from the gradient for every optimizer (Loshchilov and Hutter 2019,
    arXiv:1711.05101), so that "adam" with weight decay is "adamw". It applies to kernels alone:
    biases and normalisation are free.

    "muon" takes a kernel as the matrix from all that an output sees to the outputs, scales its
    updates to the size of Adam's (Liu et al. 2025, arXiv:2502.16982), and leaves all else to Adam,
    with Nesterov's momentum, so that one learning rate serves both. That of "adafactor" is relative
    to the size of each array. "schedule_free" is Adam whose first moment is replaced by an average,
    which is what `eval_params` finds (Defazio et al. 2024, arXiv:2405.15682).

    Each pair of `rates` is a glob pattern of parameter names, as checkpoints have them, and a
    factor of their learning rate; the first that matches counts. What has the factor 0 is frozen:
    it keeps its value, has no state, and its gradient has no part in clipping; see
    `without_frozen`.

    A `schedule` takes the place of the config's.
    """
    _check(
        config,
        ("learning_rate", "positive", 0 < config.learning_rate < math.inf),
        ("rates", "of factors at least 0", all(0 <= x < math.inf for _, x in config.rates)),
        ("weight_decay", "at least 0", config.weight_decay >= 0),
        ("momentum", "in [0, 1)", 0 <= config.momentum < 1),
        ("clip_norm", "at least 0", config.clip_norm >= 0),
        ("ema_decay", "in [0, 1)", 0 <= config.ema_decay < 1),
    )
    scales = {
        "adam": optax.scale_by_adam,
        "adamw": optax.scale_by_adam,
        "rmsprop": lambda: optax.chain(optax.scale_by_rms(0.9), optax.trace(config.momentum)),
        "sgd": lambda: optax.trace(config.momentum),
        "lion": optax.scale_by_lion,
        # Its own rate of -1 keeps the sign, as the others do.
        "muon": lambda: contrib.muon(
            -1.0, consistent_rms=0.2, muon_weight_dimension_numbers=_matrices
        ),
        "adafactor": lambda: optax.chain(
            optax.scale_by_factored_rms(),
            optax.clip_by_block_rms(1.0),
            optax.scale_by_param_block_rms(),
        ),
        "schedule_free": lambda: optax.scale_by_rms(
            0.999, 1e-8, eps_in_sqrt=False, bias_correction=True
        ),
    }
    chain = [_choice(config, "name", scales)()]
    if config.clip_norm > 0:
        chain.insert(0, optax.clip_by_global_norm(config.clip_norm))
    if config.weight_decay > 0:
        chain.append(optax.add_decayed_weights(config.weight_decay, mask=_kernels))
    schedule = schedule or make_schedule(config, steps)
    chain.append(optax.scale_by_learning_rate(schedule))
    if config.rates:
        chain.append(_scale_by_rates(config.rates))
    optimizer = optax.chain(*chain)
    if config.name == "schedule_free":
        needed = 'where optim.name is "schedule_free", which averages instead'
        _check(
            config,
            ("schedule", f'"constant" {needed}', config.schedule == "constant"),
            ("ema_decay", f"0 {needed}", config.ema_decay == 0),
            ("momentum", f"positive {needed}", config.momentum > 0),
        )
        optimizer = contrib.schedule_free(optimizer, schedule, b1=config.momentum)
    if config.rates:
        # Outside of all, since even an update of nothing but rounding moves a parameter.
        optimizer = optax.partition(
            {"trained": optimizer, "frozen": optax.set_to_zero()},
            lambda params: _groups(config.rates, params),
        )
    return optimizer


def without_frozen(config: Optim, params: dict) -> dict:
    """The same values, but for XLA to leave out the gradients of what `rates` freeze."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: (
            x if _rate(config.rates, names.dotted(path))[1] else jax.lax.stop_gradient(x)
        ),
        params,
    )


def eval_params(params: dict, opt_state: optax.OptState) -> dict:
    """The parameters to evaluate: the average that "schedule_free" keeps, or else those trained."""

    def averages(x):
        return isinstance(x, contrib.ScheduleFreeState)

    def frozen(z):
        return isinstance(z, optax.MaskedNode)

    state = next(filter(averages, jax.tree.leaves(opt_state, is_leaf=averages)), None)
    if state is None:
        return params
    # The average is x, and what is trained is y = b1 x + (1 - b1) z.
    return jax.tree.map(
        lambda z, y: y if frozen(z) else z + (y - z) / state.b1, state.z, params, is_leaf=frozen
    )


def _check(config: Optim, *rules: tuple[str, str, bool]) -> None:
    for name, allowed, ok in rules:
        if not ok:
            raise ValueError(f"optim.{name} is {getattr(config, name)!r}, but must be {allowed}")


def _choice(config: Optim, name: str, choices: dict) -> Any:
    value = getattr(config, name)
    if value not in choices:
        raise ValueError(
            f"optim.{name} is {value!r}, but must be one of {', '.join(map(repr, choices))}"
        )
    return choices[value]


def _kernels(params: dict) -> dict:
    return jax.tree.map(lambda x: x.ndim > 1, params)


def _matrices(params: dict) -> dict:
    """Of kernels, which axes make the rows and the columns of a matrix; None of what is no kernel.

    The last axis of a kernel is that of its outputs.
    """

    def axes(x):
        return contrib.MuonDimensionNumbers(tuple(range(x.ndim - 1)), -1) if x.ndim > 1 else None

    return jax.tree.map(axes, params)


def _scale_by_rates(rates: tuple[tuple[str, float], ...]) -> optax.GradientTransformation:
    def scale(updates, params):
        return jax.tree_util.tree_map_with_path(
            lambda path, x: x * _rate(rates, names.dotted(path))[1], updates
        )

    return optax.stateless(scale)


def _groups(rates: tuple[tuple[str, float], ...], params: dict) -> dict:
    """Which parameters are "trained" and which are "frozen"."""
    found = [names.dotted(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    used = {_rate(rates, name)[0] for name in found}
    for pattern, _ in rates:
        if pattern not in used:
            raise ValueError(
                f"optim.rates has {pattern!r}, which matches no parameter that an earlier pattern "
                f"does not; the {len(found)} parameters are {', '.join(found[:5])}"
                f"{', ...' * (len(found) > 5)}"
            )
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "trained" if _rate(rates, names.dotted(path))[1] else "frozen", params
    )


def _rate(rates: tuple[tuple[str, float], ...], name: str) -> tuple[str, float]:
    """The pair that counts for the parameter of this name."""
    return next((pair for pair in rates if fnmatch.fnmatchcase(name, pair[0])), ("", 1.0))
