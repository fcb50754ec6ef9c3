"""Teachers, images without masks, and runs that begin from another."""

import dataclasses
import functools
import io
import json
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from test_steps import (
    ADAM,
    TERMS,
    all_runners,
    make_batch,
    make_model,
    on_one_device,
    run_steps,
)
from test_train import Run, arguments, assert_same_run, final_state, make_config, of_two, records
from test_train import root as root
from test_train import straight as straight

from jaxseg import data, losses, optim, parallel, steps
from jaxseg import evaluate as evaluation
from jaxseg.batch import Prepared
from jaxseg.checkpoints import Checkpoints
from jaxseg.config import Augment, Config, Data, Teacher
from jaxseg.data import Example, augment, make_loader, train_positions
from jaxseg.data.unlabelled import Joined, open_unlabelled
from jaxseg.pretrained import open_pretrained
from jaxseg.teachers import make_teaching
from jaxseg.train import train

FOLLOWED = (("knowledge_distillation", 1.0, {"temperature": 2.0}), ("brier", 0.5))


# What a teacher is asked for.


@pytest.mark.usefixtures("x64")
def test_sum_of_losses_between_two_predictions():
    """Each as it is when called; no gradient reaches the teacher."""
    rng = np.random.default_rng(0)
    z, t = rng.normal(size=(2, 2, 5, 4, 3))
    where = rng.random((2, 5, 4)) < 0.7
    terms = [(name, 1.0) for name in ("channel_distillation", "mutual_information", "hellinger")]
    loss = losses.weighted_sum([*terms, ("entropy", 2.0)], teacher=True)
    slope = jax.value_and_grad(lambda *x: loss(*x, where=where), argnums=(0, 1), has_aux=True)
    (total, found), slopes = jax.jit(slope)(z, t)
    wanted = {
        "channel_distillation": losses.channel_distillation(z, t, where=where),
        "mutual_information": losses.mutual_information(z, t, where=where),
        "hellinger": losses.hellinger(z, jax.nn.softmax(t), where=where),
        "entropy": losses.entropy(z, where=where),
    }
    chex.assert_trees_all_close(found, wanted, rtol=1e-10)
    np.testing.assert_allclose(total, sum(wanted.values()) + wanted["entropy"], rtol=1e-10)
    assert np.abs(slopes[0]).max() > 0
    assert not slopes[1].any()
    with pytest.raises(ValueError, match="'channel_distillation' needs a teacher; put it into"):
        losses.weighted_sum(terms)


def test_another_look_is_of_the_same_places():
    keys = jax.random.split(jax.random.key(3), 4)
    batch = make_batch(0, images=4)
    config = Augment(rotate=20.0, elastic=1.0, cutmix=1.0, noise=0.5, cutout=0.5)
    looks = [jax.jit(functools.partial(augment, config=config, look=x)) for x in (0, 1)]
    first, second = (look(batch, keys) for look in looks)
    assert np.mean(np.abs(first.images - second.images) > 0.01) > 0.5
    chex.assert_trees_all_equal(*(x._replace(images=0) for x in (first, second)))
    assert np.all(first.inside | ~first.where)


# What a step makes of it.


def exactly(batch, keys, look=0):
    """Without rounding; another look is a little brighter."""
    images = batch.images.astype(jnp.float64) / 128 - 1 + 0.125 * look
    return Prepared(images, batch.labels, batch.where, jnp.ones(batch.where.shape, bool))


def augmented(batch, keys, look=0):
    return augment(batch, keys, Augment(rotate=15.0, noise=0.1), look=look)


def taught(runner, prepare, *, other, count=3, confidence=0.0, place=lambda x: x):
    """The state and scalars of some steps, by another model or the moving average as teacher."""

    def spread(batch, keys, **look):
        return runner.spread(prepare(batch, keys, **look))

    model = make_model(runner.axis_name, jnp.float64)
    optimizer = optim.make_optimizer(ADAM, 10)
    config = Config(optim=ADAM, teacher=Teacher(loss=FOLLOWED, confidence=confidence))
    step = steps.make_train_step(
        model.apply,
        losses.weighted_sum(TERMS),
        optimizer,
        prepare=spread,
        seed=5,
        ema_decay=ADAM.ema_decay,
        axis_name=runner.axis_name,
        teaching=make_teaching(config, model, spread),
    )
    state = parallel.on_host(steps.init_state(model, optimizer, 5, ema=True))
    constants = (place(others(model)),) if other else ()
    compiled = runner.compile(step, donate_state=True, constants=len(constants))
    bound = runner._replace(
        compile=lambda *_, **__: lambda state, batch: compiled(state, batch, *constants)
    )
    return run_steps(bound, step, place(state), count, functools.partial(make_batch, size=16))


def others(model):
    """The variables of a teacher."""
    return parallel.on_host(jax.jit(model.init)(jax.random.key(77)))


@pytest.mark.parametrize(
    ("other", "names"),
    [
        (True, ("shard_map",)),
        pytest.param(True, ("pmap", "fsdp", "spatial"), marks=pytest.mark.long),
        (False, ("spatial",)),
        pytest.param(False, ("pmap", "shard_map", "fsdp"), marks=pytest.mark.long),
    ],
)
@pytest.mark.usefixtures("x64")
def test_one_device_equals_eight(other, names):
    """In float64: the state and all scalars of some steps with a teacher.

    Its look at split images, or at other ones than the model's, would be in float32 and round.
    """
    for name in names:
        partitioned = name in ("fsdp", "spatial")
        runner = parallel.make_runner(name) if partitioned else all_runners()[name]
        prepare = augmented if other and name != "spatial" else exactly
        place = runner.place if partitioned else lambda x: x
        found = taught(runner, prepare, other=other, place=place)
        wanted = taught(on_one_device(), prepare, other=other)
        chex.assert_trees_all_close(found, wanted, rtol=1e-11, atol=1e-12)
        assert all(x["loss/teacher/brier"] > 0 for x in found[1])


@pytest.mark.parametrize("other", [True, False])
@pytest.mark.usefixtures("x64")
def test_the_loss_is_that_of_both(other):
    """Against the losses written out; the teacher is followed where no label counts, too."""
    model = make_model(None, jnp.float64)
    batch = make_batch(0, size=16)
    variables = parallel.on_host(jax.jit(model.init)(jax.random.key(5)))
    look = int(not other)
    seen, shown = (exactly(batch, None, look=x).images for x in (0, look))
    apply = jax.jit(model.apply, static_argnames="train")
    logits, _ = apply(*variables, seen, train=True)
    teacher, _ = apply(*(others(model) if other else variables), shown, train=False)
    p = np.asarray(jax.nn.softmax(teacher))
    confidence = float(np.median(p.max(-1)[-1]))  # of the image of which no label counts
    sure = p.max(-1) >= confidence
    _, (scalars,) = taught(on_one_device(), exactly, other=other, count=1, confidence=confidence)
    q = np.asarray(jax.nn.softmax(logits))
    brier = np.sum((p - q) ** 2, -1)[sure].mean()
    np.testing.assert_allclose(scalars["loss/teacher/brier"], brier, rtol=1e-9)
    p, q = (np.asarray(jax.nn.softmax(x / 2)) for x in (teacher, logits))
    kl = 4 * np.sum(p * np.log(p / q), -1)[sure].mean()
    np.testing.assert_allclose(scalars["loss/teacher/knowledge_distillation"], kl, rtol=1e-9)
    total = sum(weight * scalars[f"loss/{name}"] for name, weight in TERMS) + kl + 0.5 * brier
    np.testing.assert_allclose(scalars["loss"], total, rtol=1e-9)


# Images without masks.


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_labelled_and_unlabelled_rows(hosts):
    """Each kind in its own epochs, as if it were alone; the draws are those of the whole batch."""
    shares = [
        train_positions(5, batch_size=8, seed=3, host=h, hosts=hosts, unlabelled=(7, 3))
        for h in range(hosts)
    ]
    whole = [np.concatenate([share[step] for share in shares]) for step in range(21)]
    alone = train_positions(5, batch_size=5, seed=3)
    plain = train_positions(12, batch_size=8, seed=3)
    for step, rows in enumerate(whole):
        np.testing.assert_array_equal(rows[:5, 0], alone[step][:, 0])
        np.testing.assert_array_equal(rows[:, 1], plain[step][:, 1])
    rest = np.concatenate([rows[5:, 0] for rows in whole]).reshape(9, 7)
    assert all(sorted(epoch.tolist()) == [5, 6, 7, 8, 9, 10, 11] for epoch in rest)
    assert len({tuple(epoch) for epoch in rest.tolist()}) == 9


@pytest.mark.parametrize("masks", ["classes", "votes"])
@pytest.mark.parametrize("image_size", [(6, 8), (3, 4)])
def test_an_image_without_a_mask(masks, image_size):
    """It is as with one, but that no pixel counts."""
    image = np.random.default_rng(0).integers(0, 256, (6, 7, 1), np.uint8)
    mask = np.ones((6, 7) if masks == "classes" else (2, 6, 7), np.uint8)

    class Source(list):
        def name(self, index):
            return f"example {index}"

    config = Data(image_size=image_size, masks=masks)
    load = make_loader(Source([Example(image, mask), Example(image, None)]), config)
    labelled, unlabelled = load(0), load(1)
    np.testing.assert_array_equal(unlabelled.images, labelled.images)
    np.testing.assert_array_equal(unlabelled.sizes, labelled.sizes)
    assert labelled.where.any()
    assert not unlabelled.where.any()
    assert not unlabelled.labels.any()
    assert unlabelled.labels.dtype == labelled.labels.dtype
    assert unlabelled.labels.shape == labelled.labels.shape


def test_a_folder_without_masks(tmp_path):
    for number in range(5):
        (tmp_path / "more").mkdir(exist_ok=True)
        np.save(tmp_path / "more" / f"{number}.npy", np.full((4, 5, 1), number, np.uint8))
    config = Data(name="folder", root=str(tmp_path), unlabelled="more[60%:]")
    source = open_unlabelled(config)
    assert [source.name(i) for i in range(len(source))] == [
        str(tmp_path / "more" / f"{number}.npy") for number in (3, 4)
    ]
    assert source[1].mask is None
    np.testing.assert_array_equal(source[1].image, np.full((4, 5, 1), 4))
    joined = Joined(source, source)
    assert len(joined) == 4
    assert [joined[i].image[0, 0, 0] for i in range(4)] == [3, 4, 3, 4]
    assert joined.name(2) == source.name(0)
    assert joined.version(3) == source.version(1) != source.version(0)
    for name, why in (("less", "less is not a directory"), ("more[5:]", "holds no images")):
        with pytest.raises(data.DataError, match=why):
            open_unlabelled(dataclasses.replace(config, unlabelled=name))


def test_the_same_image_with_and_without_its_mask(root):
    """Their versions differ, by which the cache knows them."""
    config = Data(root=str(root), unlabelled="train")
    source, without = data.open_source(config, "train"), open_unlabelled(config)
    np.testing.assert_array_equal(source[3].image, without[3].image)
    assert without[3].mask is None
    assert source.version(3) != without.version(3)


@pytest.mark.parametrize(("share", "rows"), [(0.5, 4), (0.1, 1), (0.9, 7), (0.0, None), (1, None)])
def test_share_of_a_batch(share, rows):
    config = Data(unlabelled="more", unlabelled_share=share)
    if rows is None:
        with pytest.raises(data.DataError, match="some must have labels and some not"):
            data.unlabelled_rows(config, 8)
    else:
        assert data.unlabelled_rows(config, 8) == rows
    assert data.unlabelled_rows(Data(), 8) == 0


# Whole runs.

TAUGHT = {
    "steps": 6,
    "eval_every": 3,
    "data.train_split": "train[:4]",
    "data.unlabelled": "train[4:]",
    "teacher.loss": FOLLOWED,
}


def test_taught_by_a_run_and_begun_from_it(straight, root, tmp_path, monkeypatch):
    """Its frozen encoder keeps every bit, and it goes on where it was, to the last bit.

    Then it needs no longer what it began from, and follows the checkpoint that it followed before.
    """
    teacher, start = tmp_path / "teacher", tmp_path / "start"
    for copy in (teacher, start):
        shutil.copytree(straight[0], copy)
    monkeypatch.chdir(tmp_path)
    options = {"init_from": "start", "teacher.workdir": "teacher", "optim.rates": (("down*", 0.0),)}
    config = make_config(root, **TAUGHT, **options)
    screen = io.StringIO()
    train(config, "straight", console=Console(file=screen, width=200))
    best = evaluation.open_run(teacher)
    assert f"all are taken from step {best.step} of {start}, " in screen.getvalue()
    assert "4 images of jaxseg_nuclei and 8 without labels" in screen.getvalue()
    kept = json.loads((tmp_path / "straight" / "config.json").read_text())
    assert (kept["init_from"], kept["teacher"]["workdir"]) == (str(start), str(teacher))
    for line in records(tmp_path / "straight"):
        if "loss" in line:
            assert {"loss/teacher/knowledge_distillation", "loss/teacher/brier"} <= line.keys()

    (_, state), _ = final_state(tmp_path / "straight")
    taken, _ = best.state.eval_variables
    assert set(taken) >= {"down0", "down1", "head"}
    for name in taken:
        same = [
            np.array_equal(*x)
            for x in zip(*map(jax.tree.leaves, (taken[name], state.params[name])), strict=True)
        ]
        assert all(same) if name.startswith("down") else not any(same)

    shutil.rmtree(start)
    shutil.copytree(tmp_path / "straight", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "6")
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "restore_best", None)
        train(config, "run")
    assert_same_run(tmp_path / "run", tmp_path / "straight")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "6")
    shutil.rmtree(teacher / "checkpoints" / str(best.step))
    with pytest.raises(ValueError, match=f"not hold checkpoint {best.step} any more, which has ta"):
        train(config, "run")
    (tmp_path / "run" / "teacher.json").write_text("{}")
    with pytest.raises(ValueError, match=r"teacher.json is damaged \('workdir'\); delete it to go"):
        train(config, "run")


def test_taught_by_the_moving_average(root, tmp_path):
    """It goes on where it was, to the last bit."""
    config = make_config(root, **TAUGHT)
    train(config, tmp_path / "straight")
    shutil.copytree(tmp_path / "straight", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "6")
    train(config, tmp_path / "run")
    assert_same_run(tmp_path / "run", tmp_path / "straight")
    lines = [x for x in records(tmp_path / "run") if "loss" in x]
    assert all(x["loss/teacher/brier"] > 0 for x in lines)


@pytest.mark.long
def test_two_processes_agree_with_one(straight, root, tmp_path):
    """With a teacher, images without labels and parameters of another run."""
    options = {**TAUGHT, "init_from": straight[0], "teacher.workdir": straight[0]}
    args = arguments(root, **options)
    with Run(tmp_path / "out", *args, f"--workdir={tmp_path / 'alone'}", devices=2) as run:
        assert run.wait()[0] == 0, run.text()
    for _, errors, code in of_two(*args, f"--workdir={tmp_path / 'run'}"):
        assert code == 0, errors
    for x, y in zip(records(tmp_path / "run"), records(tmp_path / "alone"), strict=True):
        assert x == pytest.approx(y, rel=2e-3)


def begun(straight, **changes):
    """What a run of another config takes of a run, and the state that it begins with."""
    config = make_config("", **changes)
    model = evaluation.make_model(config)
    init = evaluation.make_init(config, model)
    found = open_pretrained(straight[0], jax.eval_shape(init))
    return found, jax.jit(init)(found.variables), jax.jit(init)()


def test_a_new_head_for_other_classes(straight):
    """All else is taken, parameters and statistics; the head is that of a fresh run."""
    found, state, fresh = begun(straight, **{"data.classes": ("a", "b", "c")})
    assert ": all but head.bias, head.kernel are taken from step" in found.line
    assert found.line.endswith("the new ones are of 2 classes there")
    params, batch_stats = evaluation.open_run(straight[0]).state.eval_variables
    chex.assert_trees_all_equal(state.batch_stats, batch_stats)
    chex.assert_trees_all_equal(state.params["head"], fresh.params["head"])
    for name in params.keys() - {"head"}:
        chex.assert_trees_all_equal(state.params[name], params[name])
    chex.assert_trees_all_equal(state.ema, (state.params, state.batch_stats))


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"model.widths": (4, 16)}, r"down1\.conv0\.kernel as \[3, 3, 4, 8\], .* \[3, 3, 4, 16\]"),
        ({"model.widths": (4, 8, 16)}, "lacks .*, which this model has"),
        ({"data.channels": 3}, r"down0\.conv0\.kernel"),
        ({"model.norm": "group"}, r"norm0\.mean, which this model lacks"),
    ],
)
def test_other_models_are_refused(straight, changes, wrong):
    with pytest.raises(ValueError, match=wrong) as caught:
        begun(straight, **changes)
    assert "only the head may differ" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"teacher.workdir": "runs/a", "teacher.loss": ()}, "teacher.loss has no terms"),
        ({"data.unlabelled": "more", "teacher.loss": ()}, "teacher.loss has no terms"),
        ({"optim.ema_decay": 0.0}, "there is no teacher"),
        ({"teacher.confidence": 1.0}, r"teacher.confidence is 1.0, but must lie in \[0, 1\)"),
        ({"teacher.loss": (("kl", 1.0),)}, "loss 'kl' does not exist"),
        ({"teacher.workdir": "STRAIGHT", "data.mean": (0.5,), "data.std": (0.5,)}, "data.mean is"),
        ({"teacher.workdir": "STRAIGHT", "data.classes": ("a", "b")}, "data.classes is"),
        ({"teacher.workdir": "absent"}, "absent is not the directory of a run"),
        ({"init_from": "absent"}, "absent is not the directory of a run"),
    ],
)
def test_what_can_not_be(straight, root, tmp_path, changes, wrong):
    changes = {name: straight[0] if x == "STRAIGHT" else x for name, x in changes.items()}
    config = make_config(root, **{**TAUGHT, **changes})
    with pytest.raises((ValueError, OSError), match=wrong):
        train(config, tmp_path / "run")


def test_batches_have_what_a_step_takes():
    """Pixels of an image count for a teacher whether they count for the labels or not."""
    batch = make_batch(0, images=3)
    found = augment(batch, jax.random.split(jax.random.key(0), 3), Augment(rotate90=False))
    areas = np.prod(batch.sizes, -1)
    np.testing.assert_array_equal(np.sum(found.inside, (1, 2)), areas)
    assert not found.where[-1].any()
