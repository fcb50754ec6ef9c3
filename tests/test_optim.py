"""Schedules by arithmetic, optimizers by formulas of the papers, decay and rates by name."""

import functools
import io
import pathlib
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from rich.console import Console

import jaxseg.config
from jaxseg import optim, parallel, steps
from jaxseg.batch import Batch
from jaxseg.checkpoints import Checkpoints
from jaxseg.config import Optim
from jaxseg.evaluate import open_run
from jaxseg.train import train

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "training.md"
NAMES = ("adam", "adamw", "rmsprop", "sgd", "lion", "muon", "adafactor", "schedule_free")
SCHEDULES = ("cosine", "polynomial", "one_cycle", "constant")
QUICK = {"compiler_options": {"xla_backend_optimization_level": 0}}


def make_config(name: str, **options) -> Optim:
    """With a rate that stays, unless it is told otherwise: "schedule_free" takes no other."""
    options = {"schedule": "constant", "warmup_steps": 0, "learning_rate": 0.1, **options}
    return Optim(name=name, **options)


def make_params(rows: int = 2):
    """Kernels of two and of four axes, a bias and a scale; of many bits, and a negative zero."""
    rng = np.random.default_rng(rows)
    draw = functools.partial(rng.normal, 0.0, 1.0)
    return {
        "down0": {"conv0": {"kernel": draw((3, 3, rows, 8))}, "norm0": {"scale": draw(8)}},
        "head": {"kernel": draw((8, 8)), "bias": np.array([*draw(7), -0.0])},
    }


def names_of(tree) -> list[str]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]


def walk(config: Optim, params, grads, count: int = 3):
    """The parameters and the state after each of `count` steps of gradients `grads(step)`."""
    optimizer = optim.make_optimizer(config, 10)

    @functools.partial(jax.jit, **QUICK)
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for number in range(count):
        params, state = step(params, state, grads(number))
        yield params, state


def run_steps(*arguments):
    """The last of them."""
    *_, last = walk(*arguments)
    return last


def grads_like(params, step: int):
    rng = np.random.default_rng(step)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), params)


# Schedules.

RISE = [0.8 * step / 4 for step in range(4)]
REST = np.arange(9) / 8  # of 12 steps, of which 4 are warm-up
HALF_COSINE = (1 + np.cos(np.pi * REST)) / 2


SHAPES = {
    "cosine": ({}, [*RISE, *(0.8 * HALF_COSINE)]),
    "cosine_to_a_share": ({"final_share": 0.25}, [*RISE, *(0.2 + 0.6 * HALF_COSINE)]),
    "polynomial": (
        {"schedule": "polynomial", "power": 2.0, "final_share": 0.25},
        [*RISE, *(0.2 + 0.6 * (1 - REST) ** 2)],
    ),
    "poly_of_deeplab": ({"schedule": "polynomial"}, [*RISE, *(0.8 * (1 - REST) ** 0.9)]),
    "one_cycle": (
        {"schedule": "one_cycle"},
        # Half a cosine up from 0.8 / 25.
        [*(0.8 - 0.768 * (1 + np.cos(np.pi * np.arange(4) / 4)) / 2), *(0.8 * HALF_COSINE)],
    ),
    "constant": ({"schedule": "constant", "final_share": 0.5}, [*RISE, *[0.8] * 9]),
}


@pytest.mark.parametrize("name", SHAPES)
def test_schedule(name):
    """At each of 12 steps, of which 4 are warm-up, and after the last one."""
    options, wanted = SHAPES[name]
    schedule = optim.make_schedule(Optim(learning_rate=0.8, warmup_steps=4, **options), 12)
    np.testing.assert_allclose([schedule(step) for step in range(13)], wanted, atol=1e-7)
    np.testing.assert_array_equal(schedule(13), schedule(12))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedule_without_warmup(schedule):
    """It begins with the learning rate itself."""
    config = Optim(learning_rate=0.8, warmup_steps=0, schedule=schedule)
    assert float(optim.make_schedule(config, 5)(0)) == np.float32(0.8)


@pytest.mark.parametrize("warmup", [0, 20])
def test_default_schedule_bit_for_bit(warmup):
    """Runs that were begun before there were others go on as they began."""
    config, count = Optim(warmup_steps=warmup), np.arange(121, dtype=np.int32)
    before = optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, warmup, decay_steps=120)
    np.testing.assert_array_equal(
        jax.jit(optim.make_schedule(config, 120))(count), jax.jit(before)(count)
    )


@pytest.mark.parametrize("warmup", [-1, 12, 13])
def test_warmup_must_fit(warmup):
    with pytest.raises(ValueError, match=rf"optim.warmup_steps is {warmup}, .* 12 steps"):
        optim.make_schedule(Optim(warmup_steps=warmup), 12)


WRONG = {
    "name": (
        {"name": "adamm"},
        f"optim.name is 'adamm', but must be one of {', '.join(map(repr, NAMES))}$",
    ),
    "schedule": (
        {"schedule": "cos"},
        f"optim.schedule is 'cos', but must be one of {', '.join(map(repr, SCHEDULES))}$",
    ),
    "share": ({"final_share": 1.5}, r"optim.final_share is 1.5, but must be in \[0, 1\]"),
    "power": ({"power": 0.0}, r"optim.power is 0.0, but must be positive"),
    "rates": ({"rates": (("*", -1.0),)}, r"optim.rates is .*, but must be of factors at least"),
    "free_schedule": (
        {"name": "schedule_free"},
        r"optim.schedule is 'cosine', but must be \"constant\" where optim.name is",
    ),
    "free_average": (
        {"name": "schedule_free", "schedule": "constant", "ema_decay": 0.9},
        r"optim.ema_decay is 0.9, but must be 0 where",
    ),
    "free_momentum": (
        {"name": "schedule_free", "schedule": "constant", "momentum": 0.0},
        r"optim.momentum is 0.0, but must be positive where",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_options_that_make_no_optimizer(kind):
    options, message = WRONG[kind]
    with pytest.raises(ValueError, match=message):
        optim.make_optimizer(Optim(**options), 100)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("field", "choices"),
    [
        ("optim.name", NAMES),
        ("optim.schedule", SCHEDULES),
        ("parallel", ("pmap", "shard_map", "fsdp", "spatial")),
    ],
)
def test_page_has_a_row_for_every_choice(field, choices):
    """In the table whose first column is the field."""
    _, _, rest = PAGE.read_text().partition(f"\n| `{field}` |")
    table, *_ = rest.partition("\n\n")
    cells = re.findall(r"^\| (`.+?) \|", table, re.M)
    assert sorted(name for cell in cells for name in re.findall(r"`(\w+)`", cell)) == sorted(
        choices
    )


# Optimizers.


def orthogonalized(matrix):
    """Its singular values after 5 steps of Muon's polynomial, the largest of them at first 1."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    values = values / np.sqrt(np.sum(values**2))
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return left @ np.diag(values) @ right


def by_hand(name, grads, rate, decay, params, momentum):
    """The parameters after each gradient, and those to evaluate, from the papers' formulas."""
    first = second = trace = np.zeros_like(params)
    average, weights, point = params, 0.0, params
    for count, grad in enumerate(grads, 1):
        if name in ("adam", "adamw") or (name == "muon" and params.ndim == 1):
            first = 0.9 * first + 0.1 * grad
            second = 0.999 * second + 0.001 * grad**2
            update = first / (1 - 0.9**count)
            if name == "muon":  # with Nesterov's momentum
                ahead = 0.9 * first / (1 - 0.9 ** (count + 1))
                update = ahead + 0.1 * grad / (1 - 0.9**count)
            update = update / (np.sqrt(second / (1 - 0.999**count)) + 1e-8)
        elif name == "muon":
            first = 0.95 * first + 0.05 * grad
            ahead = 0.95 * first / (1 - 0.95 ** (count + 1)) + 0.05 * grad / (1 - 0.95**count)
            matrix = ahead.reshape(-1, ahead.shape[-1])
            update = 0.2 * np.sqrt(max(matrix.shape)) * orthogonalized(matrix)
            update = update.reshape(params.shape)
        elif name == "lion":
            update = np.sign(0.9 * first + 0.1 * grad)
            first = 0.99 * first + 0.01 * grad
        elif name == "adafactor":  # of arrays that are too small to be factored
            keep = 1 - count**-0.8
            second = keep * second + (1 - keep) * (grad**2 + 1e-30)
            update = grad / np.sqrt(second)
            update = update / max(1.0, np.sqrt(np.mean(update**2)))
            update = update * max(1e-3, np.sqrt(np.mean(params**2)))
        elif name == "schedule_free":
            second = 0.999 * second + 0.001 * grad**2
            update = grad / (np.sqrt(second / (1 - 0.999**count)) + 1e-8)
        else:
            if name == "rmsprop":
                second = 0.9 * second + 0.1 * grad**2
                grad = grad / np.sqrt(second + 1e-8)
            trace = grad + momentum * trace
            update = trace
        move = rate(count - 1) * (update + decay * params)
        if name == "schedule_free":  # weights of the average are squares of the highest rate so far
            point = point - move
            weight = max(rate(step) for step in range(1, count + 1)) ** 2
            weights += weight
            average = average + weight / weights * (point - average)
            params = momentum * average + (1 - momentum) * point
            yield params, average
        else:
            params = params - move
            yield params, params


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("clip", [0.0, 1.5])
@pytest.mark.usefixtures("x64")
def test_optimizers_by_hand(name, clip):
    """Three steps of each, clipped by the global norm, with decay that only kernels feel."""
    schedule = "constant" if name == "schedule_free" else "cosine"
    config = make_config(
        name, schedule=schedule, warmup_steps=1, weight_decay=0.2, momentum=0.8, clip_norm=clip
    )
    rate = optim.make_schedule(config, 10)
    params = {"kernel": np.array([[[1.0, -2.0]], [[0.5, 3.0]]]), "bias": np.array([3.0])}
    # Of norms 3, 0.5 and 6: the second is not clipped.
    grads = [
        {"kernel": np.array([[[2.0, 0.0]], [[0.0, 2.0]]]), "bias": np.array([-1.0])},
        {"kernel": np.array([[[0.3, 0.4]], [[0.0, 0.0]]]), "bias": np.array([0.0])},
        {"kernel": np.array([[[4.0, 0.0]], [[-2.0, 0.0]]]), "bias": np.array([4.0])},
    ]
    scales = [min(1.0, clip / norm) if clip else 1.0 for norm in (3.0, 0.5, 6.0)]
    expected = {
        leaf: list(
            by_hand(
                name,
                [scale * grad[leaf] for grad, scale in zip(grads, scales, strict=True)],
                lambda step: float(rate(step)),
                0.2 if leaf == "kernel" else 0.0,
                params[leaf],
                0.8,
            )
        )
        for leaf in params
    }
    for number, (found, state) in enumerate(walk(config, params, grads.__getitem__)):
        for kind, tree in enumerate((found, optim.eval_params(found, state))):
            wanted = {leaf: values[number][kind] for leaf, values in expected.items()}
            # Adafactor's decay and optax's schedules are in float32.
            chex.assert_trees_all_close(tree, wanted, rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_adafactor_is_factored():
    """The squares of a large kernel are kept as means of its rows and columns alone."""
    rng = np.random.default_rng(0)
    params, grad = {"kernel": rng.normal(size=(128, 130))}, rng.normal(size=(128, 130))
    config = make_config("adafactor", learning_rate=1.0, clip_norm=0.0)
    found, state = run_steps(config, params, lambda _: {"kernel": grad}, 1)
    rows, columns = np.mean(grad**2, 1, keepdims=True), np.mean(grad**2, 0, keepdims=True)
    update = grad / np.sqrt(rows * columns / np.mean(rows))
    update = update / max(1.0, np.sqrt(np.mean(update**2)))
    wanted = params["kernel"] - update * np.sqrt(np.mean(params["kernel"] ** 2))
    np.testing.assert_allclose(found["kernel"], wanted, rtol=1e-6)
    assert sum(x.size for x in jax.tree.leaves(state)) < 300


RATES = {"muon": 0.3, "adafactor": 0.3}


@pytest.mark.parametrize("name", NAMES)
def test_optimizers_find_the_minimum(name):
    """Each brings |x - 1|^2 down a thousandfold with its schedule."""
    schedule = "constant" if name == "schedule_free" else "cosine"
    config = make_config(
        name, learning_rate=RATES.get(name, 0.05), warmup_steps=5, schedule=schedule
    )
    optimizer = optim.make_optimizer(config, 200)

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(
            jax.tree.map(lambda x: 2 * (x - 1), params), state, params
        )
        return (optax.apply_updates(params, updates), state), None

    def distance(params):
        return sum(jnp.sum((x - 1) ** 2) for x in jax.tree.leaves(params))

    start = {"kernel": jnp.array([[3.0, -1.0], [0.0, 2.0]]), "bias": jnp.array([3.0, -1.0])}
    (found, state), _ = lax.scan(step, (start, optimizer.init(start)), length=200)
    assert distance(optim.eval_params(found, state)) < 1e-3 * distance(start)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("x64")
def test_decay_is_of_kernels_alone(name):
    """Where gradients are 0, a step takes rate x decay of kernels and nothing of all else."""
    config, params = make_config(name, weight_decay=0.25), make_params()
    found, _ = run_steps(config, params, lambda _: jax.tree.map(np.zeros_like, params), 1)
    wanted = jax.tree.map(lambda x: x * (1 - 0.1 * 0.25) if x.ndim > 1 else x, params)
    chex.assert_trees_all_close(found, wanted, rtol=1e-6)
    if name != "schedule_free":  # whose updates are differences of averages
        np.testing.assert_array_equal(found["head"]["bias"], params["head"]["bias"])


# Rates by name.


def test_rates():
    """Factors of rate and decay; the first pattern that matches counts, what none does has 1."""
    rates = (("down0.norm*", 2.0), ("down0.*", 0.5))
    config = make_config(
        "sgd", rates=rates, momentum=0.0, weight_decay=0.25, clip_norm=0.0, learning_rate=0.125
    )
    params = jax.tree.map(lambda x: np.float32(np.round(x * 8)), make_params())
    found, _ = run_steps(config, params, lambda _: jax.tree.map(np.ones_like, params), 1)

    def moved(x, factor):
        return x - 0.125 * factor * (1 + (0.25 * x if x.ndim > 1 else 0))

    wanted = {
        "down0": {
            "conv0": {"kernel": moved(params["down0"]["conv0"]["kernel"], 0.5)},
            "norm0": {"scale": moved(params["down0"]["norm0"]["scale"], 2.0)},
        },
        "head": {key: moved(x, 1.0) for key, x in params["head"].items()},
    }
    chex.assert_trees_all_close(found, wanted, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_frozen_parameters(name):
    """They keep every bit, have no state, and the others do as if they did not exist."""
    params = jax.tree.map(np.float32, make_params())
    options = {"weight_decay": 0.25, "clip_norm": 0.5}
    config = make_config(name, rates=(("down0.*", 0.0), ("*bias", 0.5)), **options)

    def grads(step):
        grads = grads_like(params, step)
        return grads | {"down0": jax.tree.map(lambda x: x * np.nan, grads["down0"])}

    found, state = run_steps(config, params, grads)
    evaluated = optim.eval_params(found, state)
    for tree in (found, evaluated):
        for x, y in zip(*map(jax.tree.leaves, (tree["down0"], params["down0"])), strict=True):
            assert np.asarray(x).tobytes() == y.tobytes()
    assert "head.bias" in ".".join(names_of(state)) or name == "sgd"
    assert "down0" not in ".".join(names_of(state))

    alone = make_config(name, rates=(("*bias", 0.5),), **options)
    head = {"head": params["head"]}
    wanted, state = run_steps(alone, head, lambda step: {"head": grads(step)["head"]})
    chex.assert_trees_all_close(found["head"], wanted["head"], rtol=1e-6)
    wanted = optim.eval_params(wanted, state)
    chex.assert_trees_all_close(evaluated["head"], wanted["head"], rtol=1e-6)
    moved = jax.tree.map(lambda x, y: float(np.max(np.abs(x - y))), wanted["head"], params["head"])
    assert min(jax.tree.leaves(moved)) > 1e-4


@pytest.mark.parametrize(
    "rates",
    [(("encoder.*", 0.1),), (("down0", 0.1),), (("*", 0.1), ("head.bias", 0.0))],
    ids=["unknown", "no_glob", "hidden_by_an_earlier_one"],
)
def test_pattern_that_counts_for_nothing(rates):
    message = (
        rf"optim.rates has '{rates[-1][0]}', which matches no .* the 4 parameters are "
        r"down0.conv0.kernel, down0.norm0.scale, head.bias, head.kernel$"
    )
    with pytest.raises(ValueError, match=message.replace("*", r"\*").replace(r".\*", ".*", 2)):
        optim.make_optimizer(make_config("adam", rates=rates), 10).init(make_params())


# As part of a run.


def test_default_state_has_the_names_it_always_had():
    """Or checkpoints of runs that were begun before could not be restored."""
    state = optim.make_optimizer(Optim(), 100).init({"head": {"bias": np.zeros(2, np.float32)}})
    assert names_of(state) == ["1.count", "1.mu.head.bias", "1.nu.head.bias", "2.count"]


def test_states_come_back_from_a_checkpoint(tmp_path):
    """Of every optimizer all leaves are arrays, with names of their own, that come back."""
    params = jax.tree.map(np.float32, make_params())
    states = {}
    for name in NAMES:
        config = make_config(name, rates=(("down0.norm0.*", 0.0), ("head.*", 0.5)))
        _, states[name] = run_steps(config, params, functools.partial(grads_like, params), 1)
    for leaf in jax.tree.leaves(states):
        assert isinstance(leaf, jax.Array)
    assert len(set(names_of(states))) == len(jax.tree.leaves(states))
    (tmp_path / "checkpoints").mkdir()
    saved = Checkpoints(tmp_path / "checkpoints")
    saved.save(1, states)
    saved.wait()
    _, found = saved.restore_latest(jax.eval_shape(lambda: states))
    saved.close()
    assert jax.tree.structure(found) == jax.tree.structure(states)
    chex.assert_trees_all_equal(found, states)


@pytest.mark.parametrize("name", NAMES[1:])  # "adam" is "adamw"
@pytest.mark.usefixtures("x64")
def test_runs_on_eight_devices(name):
    """Replicated or split, as on one device, and the state is donated."""
    rates = (("down0.norm0.*", 0.0), ("head.*", 0.5))
    config = make_config(name, rates=rates, weight_decay=0.25)
    optimizer = optim.make_optimizer(config, 10)
    params = make_params(16)

    def step(state, batch, axis_name=None):
        params, opt_state = state
        grads = jax.tree.map(lambda x: jnp.cos(3 * x) * jnp.mean(batch.images), params)
        if axis_name:
            grads = lax.pmean(grads, axis_name)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        return (params, opt_state), optim.eval_params(params, opt_state)

    def run(step, state, batch):
        for _ in range(2):
            state, found = step(state, batch)
        return jax.tree.map(np.asarray, (state, found))

    batch = Batch(np.arange(8.0)[:, None], np.zeros(8), np.ones(8, bool), None)
    start = jax.tree.map(np.array, (params, optimizer.init(params)))
    wanted = run(jax.jit(step, **QUICK), start, batch)

    for parallelism in ("pmap", "shard_map", "fsdp"):
        runner = parallel.make_runner(parallelism)
        replica = functools.partial(step, axis_name=runner.axis_name)
        placed = runner.place(start)
        found = run(runner.compile(replica, donate_state=True), placed, runner.shard(batch))
        chex.assert_trees_all_close(found, wanted, rtol=1e-9, atol=1e-12)
        # But for what stands for a state that Adafactor does not keep.
        assert all(x.is_deleted() for x in jax.tree.leaves(placed) if x.shape != (1,))
    split = [x for x in jax.tree.leaves(placed) if not x.is_fully_replicated]
    assert {x.shape for x in split} == {(3, 3, 16, 8)}


def test_averages_are_evaluated():
    """Those of the optimizer where it keeps some, and the moving averages before all."""
    params = jax.tree.map(np.float32, make_params())
    grads = functools.partial(grads_like, params)
    trained, opt_state = run_steps(make_config("schedule_free"), params, grads)
    stats = {"norm0": {"mean": np.ones(8, np.float32)}}
    state = steps.TrainState(jnp.zeros((), jnp.int32), trained, stats, opt_state, None)
    average = optax.contrib.schedule_free_eval_params(opt_state, trained)
    chex.assert_trees_all_close(state.eval_variables, (average, stats), rtol=1e-5, atol=1e-6)
    distance = jax.tree.map(lambda x, y: float(np.max(np.abs(x - y))), average, trained)
    assert min(jax.tree.leaves(distance)) > 1e-3
    other = (params, stats)
    assert state._replace(ema=other).eval_variables is other


def test_training(tmp_path):
    """A run that is saved and evaluated, by an average, where some parameters are frozen."""
    rates = (("head.*", 0.5), ("*.norm0.*", 0.0))
    config = jaxseg.config.Config(
        steps=2,
        eval_every=2,
        batch_size=8,
        eval_batch_size=8,
        pictures=0,
        data=jaxseg.config.Data(root=str(tmp_path / "data"), image_size=(16, 16)),
        model=jaxseg.config.Model(widths=(2,)),
        optim=make_config("schedule_free", rates=rates, weight_decay=0.1),
    )
    scores = train(config, tmp_path / "run", console=Console(file=io.StringIO()))
    assert 0 <= scores["val/mean_iou"] <= 1
    state = open_run(tmp_path / "run").state
    assert int(state.step) == 2
    norms = state.params["down0"]["norm0"], state.params["down0"]["norm1"]
    np.testing.assert_array_equal(norms[0]["scale"], 1)
    assert not np.any(np.asarray(norms[1]["scale"]) == 1)
