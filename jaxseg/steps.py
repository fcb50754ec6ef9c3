"""The pure training and evaluation steps: the work of one replica, with an axis name or without."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxseg import ops, optim
from jaxseg.batch import Batch, Prepared
from jaxseg.models import Functional

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int


class TrainState(NamedTuple):
    """All that a run has to remember. The step number is its only random state."""

    step: Int[Array, ""]  # steps done
    params: dict
    batch_stats: dict
    opt_state: optax.OptState
    ema: tuple[dict, dict] | None  # moving averages of params and batch_stats, if wanted

    @property
    def eval_variables(self) -> tuple[dict, dict]:
        """The parameters and statistics to evaluate: averages where there are some."""
        if self.ema is not None:
            return self.ema
        return optim.eval_params(self.params, self.opt_state), self.batch_stats


def init_state(
    model: Functional,
    optimizer: optax.GradientTransformation,
    seed: int,
    variables: tuple[dict, dict] | None = None,
    *,
    ema: bool,
) -> TrainState:
    """The state before the first step.

    Parameters and statistics are the `variables` where these are given, and not None.
    """
    fresh = model.init(jax.random.key(seed))
    if variables is not None:
        fresh = jax.tree.map(
            lambda given, x: x if given is None else given,
            variables,
            fresh,
            is_leaf=lambda x: x is None,
        )
    params, batch_stats = fresh
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer.init(params),
        ema=jax.tree.map(jnp.copy, (params, batch_stats)) if ema else None,
    )


class Lesson(NamedTuple):
    """What a teacher says of the images of a batch, and the pixels in which it is followed."""

    logits: Float[Array, "batch *pixels classes"]
    where: Bool[Array, " batch *pixels"]


class Teaching(NamedTuple):
    """What a training step needs of a teacher.

    `lesson(state, batch, prepared, keys, *constants)` is that of a batch, given as it came and as
    it was prepared with the keys. `loss(logits, lesson, axis_name=..., step=...)` is the total and
    the terms of how far the model's logits are from it. The step is given so many `constants`.
    """

    lesson: Callable[..., Lesson]
    loss: Callable[..., tuple[Array, dict]]
    constants: int


def make_train_step(
    apply: Callable,
    loss_fn: Callable,
    optimizer: optax.GradientTransformation,
    *,
    prepare: Callable[[Batch, Array], Prepared],
    seed: int,
    ema_decay: float = 0.0,
    parts: int = 1,
    axis_name: str | None = None,
    teaching: Teaching | None = None,
) -> Callable[..., tuple[TrainState, dict]]:
    """Makes `train_step(state, batch) -> (state, scalars)` for one replica of `axis_name`.

    `loss_fn(logits, labels, where=..., axis_name=..., step=...)` returns the total and its terms,
    both of the global batch. `prepare(batch, keys)` normalises and augments the images, with a key
    for each that depends on the seed, the step and the image's row in the global batch alone:
    however many devices share the batch, it sees the same pictures. Dropout draws afresh on each
    device. With `teaching` the loss is that of the labels and that of the teacher, whose constants
    the step takes after the batch. The model takes the batch in so many `parts`, see `in_parts`.
    """
    apply = in_parts(apply, parts)

    def train_step(state, batch, *constants):
        replica = 0 if axis_name is None else lax.axis_index(axis_name)
        rows = replica * len(batch.images) + jnp.arange(len(batch.images))
        image_keys, dropout_key = step_keys(seed, state.step, rows)
        dropout_key = jax.random.fold_in(dropout_key, replica)
        raw, batch = batch, prepare(batch, image_keys)
        lesson = teaching and teaching.lesson(state, raw, batch, image_keys, *constants)

        def objective(params):
            logits, batch_stats = apply(
                params, state.batch_stats, batch.images, train=True, key=dropout_key
            )
            loss, terms = loss_fn(
                logits, batch.labels, where=batch.where, axis_name=axis_name, step=state.step
            )
            if teaching is not None:
                more, others = teaching.loss(logits, lesson, axis_name=axis_name, step=state.step)
                loss, terms = loss + more, terms | others
            return _vary(loss, axis_name), (loss, terms, batch_stats)

        grads, (loss, terms, batch_stats) = jax.grad(objective, has_aux=True)(
            _vary(state.params, axis_name)
        )
        if axis_name is not None:
            grads = lax.pmean(grads, axis_name)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema is not None:
            # Short at first, as in tf.train.ExponentialMovingAverage, or a short run would average
            # the initial parameters in.
            decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
            ema = optax.incremental_update((params, batch_stats), ema, 1.0 - decay)
        scalars = {
            "loss": loss,
            **{f"loss/{name}": value for name, value in terms.items()},
            "grad_norm": optax.tree.norm(grads),
            "param_norm": optax.tree.norm(params),  # not finite if any parameter is not
        }
        return TrainState(state.step + 1, params, batch_stats, opt_state, ema), scalars

    return train_step


def step_keys(
    seed: int, step: Int[Array, ""] | int, rows: Int[Array, " rows"]
) -> tuple[Array, Array]:
    """The keys of a step: of the images in these rows of the global batch, and of dropout."""
    image_key, dropout_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), step))
    return jax.vmap(lambda row: jax.random.fold_in(image_key, row))(rows), dropout_key


def in_parts(apply: Callable, parts: int) -> Callable:
    """The same model, which in training takes a batch in equal parts, one after another.

    Gradients are accumulated over the parts, and the memory for activations is that of one: each is
    computed once more in the backward pass (Chen et al. 2016, arXiv:1604.06174), when the loss of
    all logits is known. So any loss stays that of the whole batch, also one that is no mean over
    pixels, which the usual mean of the gradients of the parts' losses does not give. Batch
    normalisation takes its statistics from each part.
    """
    if parts == 1:
        return apply

    def split(x):  # part i has the rows i, i + parts, ..., so that devices share each part
        return jnp.swapaxes(x.reshape(len(x) // parts, parts, *x.shape[1:]), 0, 1)

    def joined(x):
        return jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])

    def apply_in_parts(params, batch_stats, images, *, train, key=None):
        if not train:
            return apply(params, batch_stats, images, train=train, key=key)

        @jax.checkpoint
        def one(batch_stats, part):
            images, key = part
            logits, batch_stats = apply(params, batch_stats, images, train=True, key=key)
            return batch_stats, logits

        inputs = split(images), None if key is None else jax.random.split(key, parts)
        batch_stats, logits = lax.scan(one, batch_stats, inputs)
        return jax.tree.map(joined, logits), batch_stats

    return apply_in_parts


def in_windows(apply: Callable, size: Sequence[int]) -> Callable:
    """The same model, which but for training takes larger images in windows of this size.

    It then needs memory for the logits of the image and for a few windows. They are those of
    `ops.sliding_windows`, with Gaussian weights; along an axis where the image is smaller, windows
    are as large as it is. An image that is nowhere larger is taken whole.
    """

    def apply_in_windows(params, batch_stats, images, *, train, key=None):
        window = tuple(map(min, size, images.shape[1:-1]))
        if train or window == images.shape[1:-1]:
            return apply(params, batch_stats, images, train=train, key=key)

        def logits(images):
            return apply(params, batch_stats, images, train=False)[0]

        return ops.sliding_windows(logits, images, window), batch_stats

    return apply_in_windows


def make_eval_step(
    answer: Callable[[NamedTuple, NamedTuple], Array],
    measure: Callable[[NamedTuple, Array, NamedTuple], dict],
    *,
    axis_name: str | None = None,
) -> Callable[[NamedTuple, NamedTuple], dict]:
    """Makes `eval_step(state, batch)` for one replica of `axis_name`.

    It returns what `measure(state, answer, image)` finds of each image of the global batch, an
    array `[images, ...]` each, with the image's row of the `answer(state, batch)` and of the batch.
    Images are measured one by one, by a program that does not depend on how many there are, so that
    to the last bit what is found of an image depends on its answer alone. That of a model may
    differ in the last digits between sizes of batches, as its convolutions round.
    """

    def eval_step(state, batch):
        answers = answer(state, batch)
        found = lax.map(lambda row: measure(state, *row), (answers, batch))
        if axis_name is None:
            return found
        replica, replicas = lax.axis_index(axis_name), lax.axis_size(axis_name)

        def gather(rows):
            everywhere = jnp.zeros((replicas * len(rows), *rows.shape[1:]), rows.dtype)
            own = lax.dynamic_update_slice_in_dim(everywhere, rows, replica * len(rows), 0)
            return lax.psum(own, axis_name)

        return jax.tree.map(gather, found)

    return eval_step


def make_logits(
    apply: Callable, *, temperature: float = 1.0, views: Sequence[Callable] = ()
) -> Callable[[TrainState, Array], Array]:
    """Makes `logits(state, images)`: the model's for normalised images, by the `temperature`.

    Of several `views`, as `data.views` has them, it is the logarithm of the mean of the
    probabilities, test-time augmentation, that the temperature divides: means are less sure than
    what they are of, so that it has to be that of the mean (Rahaman and Thiery 2021,
    arXiv:2007.08792).
    """

    def logits(state, images):
        def one(images):
            found, _ = apply(*state.eval_variables, images, train=False)
            return found

        if len(views) < 2:
            return one(images) / temperature
        alike = {}  # of one shape, which the model is compiled for once
        for view in views:
            seen = view(images)
            alike.setdefault(seen.shape, []).append((view, seen))
        total = -jnp.inf
        for group in alike.values():
            answers = lax.map(one, jnp.stack([seen for _, seen in group]))
            for (view, _), answer in zip(group, answers, strict=True):
                total = jnp.logaddexp(total, view.inverse(jax.nn.log_softmax(answer)))
        return (total - math.log(len(views))) / temperature

    return logits


def make_predict(
    apply: Callable,
    *,
    prepare: Callable[[Batch], Batch],
    temperature: float = 1.0,
    views: Sequence[Callable] = (),
) -> Callable[[TrainState, Batch], Array]:
    """Makes `predict(state, batch) -> probs`, the class probabilities of each pixel.

    They are those of `make_logits`, whose temperature is as `temperature.fit` finds it.
    """
    logits = make_logits(apply, temperature=temperature, views=views)

    def predict(state, batch):
        return jax.nn.softmax(logits(state, prepare(batch).images))

    return predict


def _vary(tree, axis_name: str | None):
    """Marks values as differing between replicas, where shard_map tracks which do.

    Applied to the parameters, it keeps their gradients local. Applied to the loss, its transpose
    sums the replicas' seeds, which is what a psum transposes to where nothing is tracked (pmap,
    check_vma=False). Both ways the gradient is then the local one times the number of replicas,
    and its mean over them is the gradient of the global loss.
    """
    if axis_name is None:
        return tree
    if hasattr(lax, "pcast"):
        return jax.tree.map(lambda x: lax.pcast(x, axis_name, to="varying"), tree)
    # jax 0.7, where pvary is a psum in the backward pass even if nothing is tracked.
    if axis_name not in jax.typeof(lax.axis_index(axis_name)).vma:
        return tree
    return jax.tree.map(lambda x: lax.pvary(x, axis_name), tree)
