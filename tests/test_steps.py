"""One step, many runners: the same numbers by pmap, by shard_map, on one device and on eight."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from jaxseg import Batch, losses, metrics, models, optim, parallel, steps
from jaxseg.config import Augment, Optim
from jaxseg.data import augment, normalise

DEVICES = 8
CLASSES = 3
TERMS = (("cross_entropy", 1.0), ("relative_entropy", 0.5), ("dice", 0.25))
AUGMENT = Augment(rotate=15.0, scale=(0.8, 1.25))
SGD = Optim(name="sgd", learning_rate=0.5, warmup_steps=0, momentum=0.0, clip_norm=0.0)


@pytest.fixture(autouse=True)
def eight_devices():
    assert jax.device_count() == DEVICES


def make_batch(step: int, *, images: int = DEVICES, size: int = 12) -> Batch:
    """Images whose pixels count very unevenly: all of one, some of others, none of the last."""
    rng = np.random.default_rng(step)
    share = np.linspace(1, 0, images)[:, None, None]
    return Batch(
        rng.integers(0, 256, (images, size, size, 1), np.uint8),
        rng.integers(0, CLASSES, (images, size, size), np.uint8),
        rng.random((images, size, size)) < share,
        np.stack([np.full(images, size), np.arange(images) % 3 + size - 2], -1),
    )


def make_model(axis_name, dtype=jnp.float32, **options) -> models.Functional:
    return models.to_functional(
        lambda rngs: models.UNet(
            1,
            CLASSES,
            widths=(4, 8),
            dtype=dtype,
            param_dtype=dtype,
            axis_name=axis_name,
            rngs=rngs,
            **options,
        )
    )


def prepare_train(batch, keys):
    return augment(batch, keys, AUGMENT)


def make_step(
    config: Optim, axis_name, *, dtype=jnp.float32, prepare=prepare_train, parts=1, **options
):
    """A train step and the state it begins with, on the host."""
    model = make_model(axis_name, dtype, **options)
    optimizer = optim.make_optimizer(config, 10)
    step = steps.make_train_step(
        model.apply,
        losses.weighted_sum(TERMS),
        optimizer,
        prepare=prepare,
        seed=5,
        ema_decay=config.ema_decay,
        parts=parts,
        axis_name=axis_name,
    )
    return step, parallel.on_host(steps.init_state(model, optimizer, 5, ema=config.ema_decay > 0))


def run_steps(runner, step, state, count: int = 4, batch=make_batch):
    """The state and the scalars of each step, on the host."""
    step = runner.compile(step, donate_state=True)
    history = []
    for number in range(count):
        state, scalars = step(state, runner.shard(batch(number)))
        history.append(parallel.on_host(scalars))
    return parallel.on_host(state), history


def on_one_device() -> parallel.Runner:
    """pmap over an axis of length one, which holds the whole batch."""
    runner = parallel.make_runner("pmap")
    return runner._replace(shard=lambda batch: jax.tree.map(lambda x: x[None], batch))


ADAM = Optim(name="adamw", learning_rate=1e-2, warmup_steps=1, weight_decay=0.1, ema_decay=0.9)


def test_pmap_equals_shard_map():
    """Bit for bit where shard_map tracks nothing: the state, every scalar, dropout and all."""
    found = [
        run_steps(runner, *make_step(ADAM, parallel.AXIS, dropout=0.5))
        for runner in (
            parallel.make_runner("pmap"),
            parallel.make_runner("shard_map", check_vma=False),
        )
    ]
    chex.assert_trees_all_equal(*found)
    chex.assert_tree_all_finite(found[0])
    state, history = found[0]
    assert int(state.step) == 4
    norm = np.sqrt(sum(np.sum(np.square(x)) for x in jax.tree.leaves(state.params)))
    np.testing.assert_allclose(history[-1]["param_norm"], norm, rtol=1e-6)
    names = {"loss", "grad_norm", "param_norm", *(f"loss/{name}" for name, _ in TERMS)}
    for scalars in history:
        assert scalars.keys() == names
        total = sum(weight * scalars[f"loss/{name}"] for name, weight in TERMS)
        np.testing.assert_allclose(scalars["loss"], total, rtol=1e-6)


def all_runners():
    return {
        "one_device": on_one_device(),
        "pmap": parallel.make_runner("pmap"),
        "shard_map": parallel.make_runner("shard_map"),
        "shard_map_unchecked": parallel.make_runner("shard_map", check_vma=False),
    }


@pytest.mark.parametrize(
    ("config", "names"),
    [
        pytest.param(
            SGD, ("pmap", "shard_map", "shard_map_unchecked"), marks=pytest.mark.exhaustive
        ),
        (ADAM, ("shard_map",)),
    ],
    ids=["sgd", "adamw"],
)
@pytest.mark.usefixtures("x64")
def test_one_device_equals_eight(config, names):
    """In float64 the state and scalars of several steps agree to rounding, augmentation and all.

    Plain SGD shows a gradient that is too large by a factor, which Adam and clipping would hide.
    """
    found = {
        name: run_steps(all_runners()[name], *make_step(config, parallel.AXIS, dtype=jnp.float64))
        for name in ("one_device", *names)
    }
    wanted = found.pop("one_device")
    assert all(x.dtype == np.float64 for x in jax.tree.leaves((wanted[0].params, wanted[1])))
    for result in found.values():
        chex.assert_trees_all_close(result, wanted, rtol=1e-11, atol=1e-12)


def exactly(batch):
    """A normalisation without rounding, so that compiled and not it gives the same images."""
    return batch._replace(images=batch.images.astype(jnp.float64) / 128 - 1)


@pytest.mark.usefixtures("x64")
def test_update_is_the_gradient_of_the_global_loss():
    """Against jax.grad of the loss of the whole batch, written out without replicas."""
    step, state = make_step(
        SGD, parallel.AXIS, dtype=jnp.float64, prepare=lambda batch, keys: exactly(batch)
    )
    found = {
        name: run_steps(all_runners()[name], step, state, count=1)
        for name in ("one_device", "shard_map")
    }
    apply = make_model(None, jnp.float64).apply
    batch = exactly(jax.tree.map(jnp.asarray, make_batch(0)))

    def objective(params, stats):
        logits, stats = apply(params, stats, batch.images, train=True)
        terms = [
            weight * getattr(losses, name)(logits, batch.labels, where=batch.where)
            for name, weight in TERMS
        ]
        return sum(terms), stats

    gradient = jax.jit(jax.value_and_grad(objective, has_aux=True))
    (loss, stats), grads = gradient(state.params, state.batch_stats)
    norm = np.sqrt(sum(np.sum(np.square(x)) for x in jax.tree.leaves(grads)))
    rate = SGD.learning_rate
    wanted = jax.tree.map(lambda x, g: x - rate * np.asarray(g), state.params, grads)
    for after, (scalars,) in found.values():
        np.testing.assert_allclose(scalars["loss"], loss, rtol=1e-12)
        np.testing.assert_allclose(scalars["grad_norm"], norm, rtol=1e-12)
        chex.assert_trees_all_close(after.params, wanted, rtol=1e-11, atol=1e-13)
        chex.assert_trees_all_close(after.batch_stats, stats, rtol=1e-6)


@pytest.mark.parametrize("name", ["shard_map", "fsdp"])
@pytest.mark.usefixtures("x64")
def test_parts_change_no_result(name):
    """In float64, with losses that are no means of those of the parts."""
    runner = parallel.make_runner(name)
    options = {"dtype": jnp.float64, "norm": "group", "prepare": lambda batch, _: exactly(batch)}
    batches = functools.partial(make_batch, images=2 * DEVICES, size=8)
    wanted, found = (
        run_steps(runner, step, runner.place(state), count=2, batch=batches)
        for step, state in (
            make_step(ADAM, runner.axis_name, parts=parts, **options) for parts in (1, 2)
        )
    )
    chex.assert_trees_all_close(found, wanted, rtol=1e-11, atol=1e-12)


def test_parts_have_statistics_and_draws_of_their_own():
    """Statistics move once for each part, by the rows i, i + parts, ..."""
    seen = []

    def apply(params, batch_stats, images, *, train, key):
        seen.append(train)
        draw = jax.random.uniform(key)
        stats = {"mean": 0.5 * batch_stats["mean"] + 0.5 * jnp.mean(images)}
        return [images + params, jnp.full_like(images[:, :1], draw)], stats

    images = jnp.asarray([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])[:, None]
    run = steps.in_parts(apply, 2)
    (first, draws), stats = run(
        10.0, {"mean": jnp.zeros(())}, images, train=True, key=jax.random.key(0)
    )
    np.testing.assert_array_equal(first, images + 10)
    assert float(stats["mean"]) == 0.5 * (0.5 * 3.0) + 0.5 * 4.0
    assert len(set(draws.ravel().tolist())) == 2
    np.testing.assert_array_equal(draws[::2], np.broadcast_to(draws[0], (3, 1)))
    run(10.0, {"mean": jnp.zeros(())}, images, train=False, key=jax.random.key(0))
    assert seen[-1] is False


def test_random_draws():
    """Each image and step has draws of its own; dropout also differs between devices."""

    def prepare(batch, keys):
        return batch._replace(images=jax.vmap(jax.random.uniform)(keys)[:, None, None, None])

    def apply(params, batch_stats, images, *, train, key):
        seen = {
            "images": lax.all_gather(images.ravel(), parallel.AXIS, tiled=True),
            "dropout": lax.all_gather(jax.random.uniform(key), parallel.AXIS),
        }
        return params["w"] * jnp.ones((*images.shape[:3], 2)), seen

    def loss_fn(logits, labels, *, where, axis_name, step):
        return lax.pmean(jnp.mean(logits), axis_name), {}

    step = steps.make_train_step(
        apply, loss_fn, optax.sgd(0.1), prepare=prepare, seed=0, axis_name=parallel.AXIS
    )

    def draws(number, devices=DEVICES):
        runner = parallel.make_runner("pmap") if devices == DEVICES else on_one_device()
        params = {"w": np.float32(1)}
        state = steps.TrainState(np.int32(number), params, {}, optax.sgd(0.1).init(params), None)
        batch = make_batch(0, images=2 * DEVICES)
        state, _ = runner.compile(step, donate_state=False)(state, runner.shard(batch))
        return parallel.on_host(state).batch_stats

    first, second = draws(0), draws(1)
    assert len({*first["images"], *second["images"]}) == 4 * DEVICES
    assert len({*first["dropout"], *second["dropout"]}) == 2 * DEVICES
    chex.assert_trees_all_equal(draws(1), second)
    np.testing.assert_array_equal(draws(0, devices=1)["images"], first["images"])


@pytest.mark.parametrize(("start", "decay"), [(0, 0.1), (2, 0.25), (100, 0.75)])
def test_moving_average(start, decay):
    """ema <- d ema + (1 - d) new, of parameters and statistics after the update; d grows to 0.75.

    And it is what is evaluated.
    """
    config = Optim(name="sgd", learning_rate=0.5, warmup_steps=0, ema_decay=0.75)
    step, state = make_step(config, None, prepare=lambda batch, keys: normalise(batch))
    chex.assert_trees_all_equal(state.ema, (state.params, state.batch_stats))
    state = state._replace(step=jnp.asarray(start))
    after, _ = jax.jit(step)(state, make_batch(0))
    new = (after.params, after.batch_stats)
    wanted = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, state.ema, new)
    chex.assert_trees_all_close(after.ema, wanted, rtol=1e-6, atol=1e-7)
    assert after.eval_variables is after.ema
    without = after._replace(ema=None)
    assert without.eval_variables == (without.params, without.batch_stats)
    for kind in (0, 1):
        moved = jax.tree.map(
            lambda a, b: float(np.max(np.abs(a - b))), after.ema[kind], state.ema[kind]
        )
        assert max(jax.tree.leaves(moved)) > 1e-3


def test_eval_step_measures_each_image():
    """By the average where there is one, each image by itself, in the order of the global batch."""
    config = Optim(warmup_steps=0, ema_decay=0.5)
    _, state = make_step(config, parallel.AXIS)
    unused = jax.tree.map(np.zeros_like, (state.params, state.batch_stats))  # not evaluated
    state = state._replace(params=unused[0], batch_stats=unused[1])
    batch = make_batch(3, images=2 * DEVICES)
    model = make_model(parallel.AXIS)

    def answer(state, batch):
        return model.apply(*state.eval_variables, normalise(batch).images, train=False)[0]

    def measure(state, logits, image):
        confusion = metrics.confusion_matrix(
            jnp.argmax(logits, -1), image.labels, CLASSES, where=image.where
        )
        loss = losses.cross_entropy(logits, image.labels, where=image.where)
        return {"confusion": confusion, "loss": loss, "step": state.step}

    step = steps.make_eval_step(answer, measure, axis_name=parallel.AXIS)
    prepared = normalise(jax.tree.map(jnp.asarray, batch))
    forward = jax.jit(functools.partial(make_model(None).apply, train=False))
    logits, _ = forward(*state.ema, prepared.images)
    alone = jax.jit(steps.make_eval_step(lambda *_: logits, measure))(state, batch)
    for runner in all_runners().values():
        compiled = runner.compile(step, donate_state=False)
        found = parallel.on_host(compiled(state, runner.shard(batch)))
        np.testing.assert_array_equal(found["step"], np.full(2 * DEVICES, state.step))
        wanted = [
            losses.cross_entropy(*image[:2], where=image[2])
            for image in zip(logits, batch.labels, batch.where, strict=True)
        ]
        np.testing.assert_allclose(found["loss"], wanted, rtol=1e-5)
        assert len(set(found["loss"].tolist())) > DEVICES
        # Rows are labels; an argmax between equals may differ by rounding.
        np.testing.assert_array_equal(found["confusion"].sum(-1), alone["confusion"].sum(-1))
        assert np.abs(found["confusion"] - alone["confusion"]).sum() <= 4
        assert found["confusion"].sum() == batch.where.sum()


@pytest.mark.parametrize("name", ["pmap", "shard_map"])
@pytest.mark.parametrize("donate", [True, False])
def test_state_is_donated(name, donate):
    """A training step reuses the memory of the state; an evaluation leaves it alone."""
    runner = parallel.make_runner(name)

    def step(state, batch):
        total = lax.psum(jnp.sum(batch.where), parallel.AXIS)
        return jax.tree.map(lambda x: x + total, state), total

    step = runner.compile(step, donate_state=donate)
    batch = runner.shard(make_batch(0))
    first, _ = step({"w": np.ones((4, 4), np.float32)}, batch)
    second, total = step(first, batch)
    assert first["w"].is_deleted() == donate
    np.testing.assert_array_equal(parallel.on_host(second)["w"], np.ones((4, 4)) + 2 * int(total))
    assert int(total) == make_batch(0).where.sum()


def test_make_runner_errors():
    with pytest.raises(
        ValueError, match=r"parallel is 'pmpa', but must be one of 'pmap', .*'spatial'$"
    ):
        parallel.make_runner("pmpa")


@pytest.mark.parametrize("size", [0, -8, 1, 12])
def test_batch_size_must_split(size):
    right, runner = max(1, -(-size // DEVICES)) * DEVICES, parallel.make_runner("fsdp")
    with pytest.raises(ValueError, match=rf"batch_size is {size}, .* --config.batch_size={right}$"):
        parallel.check_batch_size(size, runner)
    parallel.check_batch_size(right, runner)
    assert parallel.round_up(size, runner) == right
    parallel.check_batch_size(1, parallel.make_runner("spatial"))  # whose batch is not split


def test_batch_size_must_split_into_parts():
    runner = parallel.make_runner("fsdp")
    parallel.check_batch_size(16, runner, 2)
    with pytest.raises(ValueError, match=r"multiple of 16, .* into 2 parts; set .*_size=16$"):
        parallel.check_batch_size(8, runner, 2)
    with pytest.raises(ValueError, match=r"^parts is 0, but must be at least 1$"):
        parallel.check_batch_size(8, runner, 0)
