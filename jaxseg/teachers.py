"""Who teaches a model besides the masks: another run, or the model's own moving average."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxseg import losses, parallel, writing
from jaxseg.config import Config
from jaxseg.evaluate import make_model, open_run, read_config
from jaxseg.models import Functional
from jaxseg.steps import Lesson, Teaching

TEACHER_FILE = "teacher.json"


def make_teaching(config: Config, model: Functional, prepare: Callable) -> Teaching | None:
    """The teaching that a config asks for, if any.

    Another run sees the images that the model sees (Hinton et al. 2015, arXiv:1503.02531); the
    model's moving average sees them in another look, by `prepare(batch, keys, look=1)` (Tarvainen
    and Valpola 2017, arXiv:1703.01780). Either predicts as in evaluation. It is followed in all
    pixels that show an image, labelled or not, in which it gives its most probable class the
    probability `confidence` at least (Sohn et al. 2020, arXiv:2001.07685); the means of the losses
    are over these. Where the model has logits at several resolutions, the finest follow.
    """
    wanted = config.teacher
    _check(config)
    if not wanted.loss:
        return None
    terms = losses.weighted_sum(wanted.loss, teacher=True)
    apply = model.apply
    if wanted.workdir:
        run = read_config(wanted.workdir)
        _check_alike(config, run)
        apply = make_model(run).apply

    def lesson(state, batch, prepared, keys, *constants):
        images = prepared.images if constants else prepare(batch, keys, look=1).images
        variables = constants[0] if constants else state.ema
        logits, _ = apply(*variables, images, train=False)
        where = prepared.inside
        if wanted.confidence > 0:
            where &= jnp.max(jax.nn.softmax(logits), -1) >= wanted.confidence
        return Lesson(logits, where)

    def loss(logits, lesson, *, axis_name=None, step=None):
        finest = logits[0] if isinstance(logits, list) else logits
        options = {"where": lesson.where, "axis_name": axis_name, "step": step}
        total, found = terms(finest, lesson.logits, **options)
        return total, {f"teacher/{name}": value for name, value in found.items()}

    return Teaching(lesson, loss, constants=1 if wanted.workdir else 0)


def open_teacher(
    config: Config, workdir: pathlib.Path | None = None, *, resumes: bool = False
) -> tuple:
    """The constants of the training step: the variables of a teacher that is another run.

    They are those of its best checkpoint when the run in `workdir`, if it has one, begins. When
    that `resumes` they are those of the same checkpoint, which `TEACHER_FILE` tells, whatever has
    become better since.
    """
    teacher = config.teacher.workdir
    if not (teacher and config.teacher.loss):
        return ()
    if workdir is None:
        return (open_run(teacher).state.eval_variables,)
    path = workdir / TEACHER_FILE
    with parallel.together():
        step = _taught_before(path, teacher) if resumes else None
        try:
            run = open_run(teacher, step=step)
        except ValueError as error:
            if step is None:
                raise
            raise ValueError(
                f"{error}, which has taught this run; put it back, or delete {path} to go on with "
                "the teacher's best one"
            ) from error
    with parallel.together():
        if parallel.is_primary():
            with writing.whole(path) as fresh:
                fresh.write_text(json.dumps({"workdir": teacher, "step": run.step}) + "\n")
    return (run.state.eval_variables,)


def shapes(config: Config) -> tuple:
    """Those of what `open_teacher` finds; nothing is read but the teacher's config."""
    teacher = config.teacher.workdir
    if not (teacher and config.teacher.loss):
        return ()
    init = make_model(read_config(teacher)).init
    return (jax.eval_shape(lambda: init(jax.random.key(0))),)


def _taught_before(path: pathlib.Path, teacher: str) -> int | None:
    """The step of the teacher's checkpoint by which a run was taught, if it was by this teacher."""
    if not path.is_file():
        return None
    try:
        told = json.loads(path.read_text())
        return int(told["step"]) if told["workdir"] == teacher else None
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); delete it to go on with the teacher's best checkpoint"
        ) from error


def _check(config: Config) -> None:
    wanted = config.teacher
    if not 0.0 <= wanted.confidence < 1.0:
        raise ValueError(f"teacher.confidence is {wanted.confidence}, but must lie in [0, 1)")
    if not wanted.loss:
        for name, value in (
            ("teacher.workdir", wanted.workdir),
            ("data.unlabelled", config.data.unlabelled),
        ):
            if value:
                raise ValueError(
                    f"{name} is {value!r}, but teacher.loss has no terms, by which the model would "
                    'follow a teacher; give it some, such as (("kl_divergence", 1.0),)'
                )
    elif not wanted.workdir and config.optim.ema_decay == 0:
        raise ValueError(
            "teacher.loss has terms, but there is no teacher: name a run in teacher.workdir, or "
            "set optim.ema_decay, such as 0.99, to be taught by the model's moving average"
        )


def _check_alike(config: Config, run: Config) -> None:
    """Raises unless the teacher names the same classes of the same images as the model."""
    for name in ("classes", "channels", "mean", "std"):
        ours, theirs = getattr(config.data, name), getattr(run.data, name)
        if ours != theirs:
            raise ValueError(
                f"data.{name} is {ours}, but that of the teacher in {config.teacher.workdir} is "
                f"{theirs}; they must be alike, as both see the same images: change data.{name}, "
                "or choose another teacher"
            )
    if len(config.data.image_size) != len(run.data.image_size):
        raise ValueError(
            f"data.image_size is {config.data.image_size}, but that of the teacher in "
            f"{config.teacher.workdir} is {run.data.image_size}; both must be for images, or both "
            "for volumes"
        )
