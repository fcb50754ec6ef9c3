"""Flipped and turned images: exact, all of them, and averaged as probabilities."""

import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import parallel
from jaxseg.config import Config, Data, Model
from jaxseg.data import views
from jaxseg.evaluate import Evaluator, make_init, make_model
from jaxseg.steps import make_logits, make_predict


def transforms(kind, rank):
    """Of arrays `[batch, *pixels, channels]`, by numpy."""
    axes = range(1, rank + 1)
    for k in range(4 if kind == "dihedral" else 1):
        for flipped in itertools.product((False, True), repeat=rank):
            chosen = [axis for axis, flip in zip(axes, flipped, strict=True) if flip]
            yield lambda x, k=k, chosen=chosen: np.rot90(np.flip(x, chosen), k, (-3, -2))


@pytest.mark.parametrize("size", [(3, 5), (4, 4), (2, 3, 5), (2, 3, 3)])
@pytest.mark.parametrize("kind", ["none", "flips", "dihedral"])
def test_views_are_all_flips_and_turns(kind, size):
    """Each once, the image itself first, and its inverse undoes it, bit for bit."""
    images = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    found = [view(images) for view in views(kind, len(size))]
    np.testing.assert_array_equal(found[0], images)
    expected = {transform(images).tobytes() for transform in transforms(kind, len(size))}
    if kind == "none":
        expected = {images.tobytes()}
    assert {np.asarray(x).tobytes() for x in found} == expected
    assert len(found) == len(expected)
    for view, image in zip(views(kind, len(size)), found, strict=True):
        np.testing.assert_array_equal(view.inverse(image), images)


def test_views_of_another_kind():
    with pytest.raises(ValueError, match="views is 'flip', but must be one of none, flips, dihe"):
        views("flip", 2)


def lopsided(params, batch_stats, images, *, train):
    """Logits that depend on what lies below and to the right."""
    assert not train
    right, below = (jnp.roll(images, -1, axis) for axis in (2, 1))
    return jnp.concatenate([params * images, images - right, below * right], -1), batch_stats


STATE = SimpleNamespace(eval_variables=(2.0, {}))


@pytest.mark.parametrize("kind", ["none", "flips", "dihedral"])
def test_probabilities_are_averaged(kind):
    """Each pixel's, over the views; and the logits are their logarithm."""
    images = np.random.default_rng(0).normal(size=(2, 4, 6, 1)).astype(np.float32)
    chosen = views(kind, 2)

    def probs(images):
        logits, _ = lopsided(2.0, {}, images, train=False)
        return np.asarray(jax.nn.softmax(logits), np.float64)

    # The temperature is that of the mean.
    expected = np.mean([view.inverse(probs(view(images))) for view in chosen], 0) ** (1 / 1.5)
    total = expected.sum(-1, keepdims=True)
    predict = make_predict(
        lopsided,
        prepare=lambda x: SimpleNamespace(images=x),
        temperature=1.5,
        views=chosen,
    )
    found = jax.jit(lambda x: predict(STATE, x))(images)
    np.testing.assert_allclose(found, expected / total, rtol=1e-5)
    logits = make_logits(lopsided, temperature=1.5, views=chosen)(STATE, images)
    np.testing.assert_allclose(jax.nn.softmax(logits), expected / total, rtol=1e-5)
    if kind != "none":
        np.testing.assert_allclose(logits, np.log(expected), rtol=1e-4, atol=1e-5)


def test_certain_predictions_stay_finite():
    """Where every view gives a class no probability that float32 can hold."""
    images = np.full((1, 2, 2, 1), 1e4, np.float32)
    logits = make_logits(lopsided, views=views("flips", 2))(STATE, images)
    assert np.isfinite(logits).all()


def test_evaluation_of_views():
    """What is scored, and drawn, is the mean of what the model says of each view."""
    run = Config(data=Data(image_size=(32, 32)), model=Model(widths=(2, 4)), eval_batch_size=8)
    model = make_model(run)
    runner = parallel.make_runner("shard_map")
    state = runner.place(make_init(run, model)())
    plain, flipped = (
        Evaluator(run, model, runner, names=("accuracy",), views=kind) for kind in ("none", "flips")
    )
    confusions = flipped.evaluation(state).statistics["confusion"]
    examples = flipped.examples(state, range(len(confusions)))
    for confusion, (_, labels, where, probs) in zip(confusions, examples, strict=True):
        right = (probs.argmax(-1) == labels) & where
        assert np.trace(confusion) == right.sum() > 0
    ((*_, alone),) = plain.examples(state, [len(confusions) - 1])
    assert np.abs(alone - probs).max() > 1e-4
