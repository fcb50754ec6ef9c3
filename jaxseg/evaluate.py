"""Scores a run's best checkpoint, or predicted masks against labels, and compares two of either.

    python -m jaxseg.evaluate --workdir=runs/mine [--views=flips]
    python -m jaxseg.evaluate --preds=masks --labels=truth --classes=background,nucleus
    python -m jaxseg.evaluate --compare runs/a runs/b

Prints the scores with 95 % intervals over images, and leaves them as summary.json, summary.md,
images.csv (a row an image) and report.html (with curves and the best and worst images).
"""

from __future__ import annotations

import difflib
import functools
import json
import math
import os
import pathlib
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from rich.console import Console

from jaxseg import (
    checkpoints,
    cli,
    config,
    data,
    losses,
    models,
    optim,
    parallel,
    pictures,
    report,
    scorecard,
    scores,
)
from jaxseg.batch import Batch
from jaxseg.config import Config
from jaxseg.data.views import KINDS
from jaxseg.scores import Evaluation
from jaxseg.steps import (
    TrainState,
    in_windows,
    init_state,
    make_eval_step,
    make_logits,
    make_predict,
)

CONFIG_FILE = "config.json"
TEMPERATURE_FILE = "temperature.json"
# The fields of the data that say which pixels are scored, and as what.
_OF_WHAT_IS_SCORED = ("masks", "label_map", "ignore_label", "border", "spacing", "image_size")
_PAIRS = 2**24  # of segments, in the tables of the masks that are measured at once
TRAINING = ("mean_iou", "accuracy", "loss")  # what is scored while training
_CALLED = {"accuracy": "pixel_accuracy"}  # in metrics.jsonl, where that is not the metric's name
_OF_MASKS = ("mean_iou", "mean_dice", "accuracy")
_OF_RUNS = (
    *(*_OF_MASKS, "loss", "negative_log_likelihood", "brier"),
    *("expected_calibration_error", "area_under_risk_coverage"),
)
_KNOWN_OF_RUNS = (*scores.CLASSES, *scores.PROBABILITIES)
_OF_SEGMENTS = (
    *("object_f1", "mean_object_jaccard", "panoptic_quality", "segmentation_quality"),
    *("variation_of_information", "adapted_rand_error"),
)


def make_model(config: Config, *, axis_name: str | None = None) -> models.Functional:
    """The model of a config, trained with batch statistics over all replicas of `axis_name`."""
    data.example_spec(config.data, training=False)  # which refuses what makes no images
    dtypes = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
    if config.model.dtype not in dtypes:
        raise ValueError(
            f"model.dtype is {config.model.dtype!r}, but must be one of {', '.join(dtypes)}"
        )
    window, sides = config.model.window, config.data.image_size
    if window and (len(window) != len(sides) or min(window) < 1):
        raise ValueError(
            f"model.window is {window}, but must have {len(sides)} positive numbers, as many as "
            "data.image_size"
        )
    model = models.to_functional(
        lambda rngs: models.UNet(
            config.data.channels,
            len(config.data.classes),
            widths=config.model.widths,
            norm=config.model.norm,
            resolutions=config.model.resolutions,
            dropout=config.model.dropout,
            dtype=dtypes[config.model.dtype],
            spatial_rank=len(config.data.image_size),
            remat=config.model.remat,
            axis_name=axis_name,
            rngs=rngs,
        )
    )
    return model._replace(apply=in_windows(model.apply, window)) if window else model


class Evaluator:
    """Scores states on a split, every image once.

    Distances between surfaces are in the units of `data.spacing`, which volumes are then resampled
    to, and else in pixels. Predictions are the means over the `views` of each image.
    """

    def __init__(
        self,
        config: Config,
        model: models.Functional,
        runner: parallel.Runner,
        *,
        split: str | None = None,
        names: Sequence[str] = TRAINING,
        tolerance: float = 2.0,
        temperature: float = 1.0,
        views: str = "none",
    ):
        self.config, self._runner, self._names = config, runner, tuple(dict.fromkeys(names))
        self._batch_size = parallel.round_up(config.eval_batch_size, runner)
        self.source = data.open_source(config.data, split or config.data.eval_split)
        prepare = functools.partial(data.normalise, mean=config.data.mean, std=config.data.std)
        self._prepare, self._loss = prepare, losses.weighted_sum(config.loss)

        options = {
            "temperature": temperature,
            "views": data.views(views, len(config.data.image_size)),
        }
        logits = make_logits(model.apply, **options)

        def measure(state, logits, image):
            task = scores.Task(
                len(config.data.classes),
                spacing=config.data.spacing or None,
                tolerance=tolerance,
                loss=self._loss,
                step=state.step,
            )
            preds = jnp.argmax(logits, -1)
            example = scores.Example(task, preds, image.labels, image.where, image.sizes, logits)
            return scores.measure(self._names, example)

        measured = make_eval_step(
            lambda state, batch: logits(state, batch.images), measure, axis_name=runner.axis_name
        )
        self._step = runner.compile(
            lambda state, batch: measured(state, runner.spread(prepare(batch))), donate_state=False
        )
        self._predict = jax.jit(make_predict(model.apply, prepare=prepare, **options))

    def rehearsal(self) -> tuple[Callable, Batch]:
        """Its step, and a batch as this host reads it, with nothing in it."""
        rows = self._batch_size // self._runner.share[1]
        return self._step, data.empty_batch(self.config.data, rows, training=False)

    def evaluation(
        self,
        state: TrainState,
        *,
        show: bool = False,
        on_skip: Callable[[str], None] | None = None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> Evaluation | None:
        """What the metrics measure of each image; with `show`, a terminal shows the progress.

        `on_skip` is told what could not be read, where data.unreadable is "skip": an image of which
        no pixel counts. None if it was `stopping`, which is asked before each batch, on all hosts.
        """
        host, hosts = self._runner.share
        positions = data.eval_positions(
            len(self.source), batch_size=self._batch_size, host=host, hosts=hosts
        )
        rows = []
        batches = data.batches(self.source, positions, self.config.data, on_skip=on_skip)
        if show:
            batches = report.progress(batches, len(positions), "images")
        for batch in batches:
            if stopping():
                return None
            rows.append(
                scores.finish(parallel.on_host(self._step(state, self._runner.shard(batch))))
            )
        count = len(self.source)
        return Evaluation(
            images=tuple(self.source.name(index) for index in range(count)),
            classes=self.config.data.classes,
            metrics=self._names,
            statistics={key: np.concatenate([row[key] for row in rows])[:count] for key in rows[0]},
        )

    def scores(
        self,
        state: TrainState,
        *,
        on_skip: Callable[[str], None] | None = None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> dict[str, float | None] | None:
        """The scores under the names of metrics.jsonl; None for a class that does not occur.

        The loss is the mean of the images' losses, weighted by their pixels that count. There are
        none if it was `stopping`.
        """
        found = self.evaluation(state, on_skip=on_skip, stopping=stopping)
        if found is None:
            return None
        sums = np.sum(found.statistics["loss"], 0, dtype=np.float64)
        terms = sums[:, 0] / np.maximum(sums[:, 1], 1)
        whole = {**found.scores(), "loss": terms[0]}
        values = (*whole.values(), *terms[1:], *found.by_class()["mean_iou"])
        pairs = zip(self.score_names(), values, strict=True)
        return {name: None if np.isnan(x) else float(x) for name, x in pairs}

    def score_names(self) -> list[str]:
        """What `scores` are called: the metrics, the terms of the loss, and the IoU of classes."""
        names = [_CALLED.get(name, name) for name in self._names]
        names += [f"loss/{term}" for term in self._terms()]
        names += [f"iou/{label}" for label in self.config.data.classes]
        return [f"val/{name}" for name in names]

    def _terms(self) -> list[str]:
        """The names of the loss's terms, in the order of their statistics."""
        spec = data.example_spec(self.config.data, training=False)
        spec = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), spec)
        batch = jax.eval_shape(self._prepare, spec)
        shape = (*batch.where.shape, len(self.config.data.classes))
        _, terms = jax.eval_shape(
            self._loss,
            jax.ShapeDtypeStruct(shape, jnp.float32),
            batch.labels,
            where=batch.where,
            step=jax.ShapeDtypeStruct((), jnp.int32),
        )
        return sorted(terms)

    def picture(self, state: TrainState) -> np.ndarray | None:
        """Images spread over the split, with their labels, predictions and entropies.

        All hosts must ask together, and the first alone is given it.
        """
        classes = self.config.data.classes
        count = min(self.config.pictures, len(self.source))
        indices = np.linspace(0, len(self.source) - 1, count).astype(int)
        examples = self.examples(state, indices)  # which may gather the state of all hosts
        if not parallel.is_primary():
            return None
        return pictures.sheet([pictures.panels(*x, classes) for x in examples], classes)

    def examples(self, state: TrainState, indices: Sequence[int]) -> Iterator[tuple]:
        """The image, labels, `where` and probabilities of some images, as `pictures.panels`."""
        load = data.make_loader(self.source, self.config.data)
        params, batch_stats = state.eval_variables  # all that predicts
        state = TrainState(state.step, params, batch_stats, opt_state=(), ema=None)
        state, shard = self._runner.alone(state)

        def example(index):
            batch = data.collate([load(int(index))])
            probs = np.asarray(self._predict(state, shard(batch)))
            return batch.images[0], batch.labels[0], batch.where[0], probs[0]

        return map(example, indices)

    def compared(self, state: TrainState, indices: Sequence[int]) -> Iterator[tuple]:
        """What `pictures.comparison` draws of some images."""
        for image, labels, where, probs in self.examples(state, indices):
            yield image, labels, where, probs.argmax(-1), probs


def make_evaluator(config: Config, model: models.Functional, runner: parallel.Runner) -> Evaluator:
    """What scores the states of a run while it trains, by which the best one is chosen.

    Raises ValueError if `metrics` or `best` of the config are none.
    """
    _check_metrics("metrics", config.metrics, _KNOWN_OF_RUNS, "a run")
    evaluator = Evaluator(config, model, runner, names=(*TRAINING, *config.metrics))
    names = evaluator.score_names()
    if config.best not in names:
        raise ValueError(
            f"best is {config.best!r}, but must be one of the scores of an evaluation, "
            f"{', '.join(names)}; --config.metrics=\"('hausdorff_95',)\" adds val/hausdorff_95"
        )
    return evaluator


def higher_is_better(score: str) -> bool:
    """Whether more is better of a score, by its name in metrics.jsonl.

    >>> higher_is_better("val/iou/nucleus"), higher_is_better("val/loss/dice")
    (True, False)
    """
    name = score.removeprefix("val/").partition("/")[0]
    metrics = {"iou": "mean_iou", **{called: metric for metric, called in _CALLED.items()}}
    metric = scores.METRICS.get(metrics.get(name, name))
    if metric is None:
        raise ValueError(
            f"best is {score!r}, but must be a score of metrics.jsonl, such as val/mean_iou"
        )
    return metric.higher_is_better


class Run(NamedTuple):
    """A run as its workdir has it, at its best checkpoint."""

    workdir: pathlib.Path
    config: Config
    model: models.Functional
    step: int
    state: TrainState  # on the host
    temperature: float  # that its logits are divided by
    fitted_to: str | None  # the split whose images say so
    fitted_with: str  # the views that it is of, and of no others

    def with_views(self, views: str) -> Run:
        """The run with its temperature if it is of these views, and without it otherwise."""
        return self if views == self.fitted_with else self._replace(temperature=1.0, fitted_to=None)


def read_config(workdir: str | os.PathLike) -> Config:
    """The config of a run."""
    path = pathlib.Path(workdir) / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist, so {workdir} is not the directory of a run; give the "
            "--workdir that training printed"
        )
    return config.read(path)


def open_run(workdir: str | os.PathLike, *, step: int | None = None) -> Run:
    """Reads the config and the best checkpoint of a run, or that of a step."""
    workdir = pathlib.Path(workdir)
    run = read_config(workdir)
    model = make_model(run)
    saved = checkpoints.Checkpoints(
        workdir / "checkpoints", best=run.best, higher_is_better=higher_is_better(run.best)
    )
    template = jax.eval_shape(make_init(run, model))
    if step is None:
        step, state = saved.restore_best(template)
    else:
        state = saved.restore(step, template)
    saved.close()
    return Run(workdir, run, model, step, state, *_temperature(workdir, step))


def _temperature(workdir: pathlib.Path, step: int) -> tuple[float, str | None, str]:
    """The temperature fitted to this checkpoint, to which split and of which views; 1 if none."""
    path, none = workdir / TEMPERATURE_FILE, (1.0, None, "none")
    if not path.is_file():
        return none
    try:
        fitted = json.loads(path.read_text())
        value = float(fitted["temperature"])
        if not 0 < value < math.inf:
            raise ValueError(f"a temperature of {value}")
        found = value, str(fitted["split"]), str(fitted.get("views", "none"))
        return found if fitted["step"] == step else none
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); remove it, or fit it again") from error


def evaluate_masks(
    masks: data.MaskFolders,
    classes: Sequence[str] | None,
    names: Sequence[str],
    *,
    batch_size: int,
    tolerance: float = 2.0,
    show: bool = False,
) -> Evaluation:
    """What the metrics measure of each predicted mask; `classes` is None for those of segments.

    With `show`, a terminal shows the progress.
    """
    runner = parallel.make_runner("pmap")
    host, hosts = runner.share
    found, groups = {}, masks.groups()

    def measured():
        """The indices of images, and what was found of them, batch by batch."""
        for group in groups:
            task = scores.Task(
                None if classes is None else len(classes),
                group.num_segments,
                group.spacing,
                tolerance,
            )

            def measure(state, preds, image, task=task):
                example = scores.Example(task, preds, image.labels, image.where, image.sizes)
                return scores.measure(names, example)

            axis_name = runner.axis_name
            step = make_eval_step(lambda _, batch: batch.preds, measure, axis_name=axis_name)
            step = runner.compile(step, donate_state=False)
            size = _batch_size(group, batch_size, runner)
            batches = masks.batches(group, batch_size=size, host=host, hosts=hosts)
            for first, batch in enumerate(batches):
                indices = group.indices[first * size : (first + 1) * size]
                yield indices, scores.finish(parallel.on_host(step((), runner.shard(batch))))

    rows = measured()
    if show:
        total = sum(-(-len(x.indices) // _batch_size(x, batch_size, runner)) for x in groups)
        rows = report.progress(rows, total, "masks")
    for indices, values in rows:
        for key, value in values.items():
            found.setdefault(key, {}).update(zip(indices, value, strict=False))
    count = range(len(masks.names))
    statistics = {key: np.stack([rows[i] for i in count]) for key, rows in found.items()}
    return Evaluation(masks.names, tuple(classes or ()), tuple(names), statistics)


def _batch_size(group: data.MaskGroup, most: int, runner: parallel.Runner) -> int:
    """How many masks are measured at once: no more than there are, or than fit in memory."""
    pairs = (group.num_segments or 1) ** 2
    return parallel.round_up(min(most, len(group.indices), max(1, _PAIRS // pairs)), runner)


def make_init(config: Config, model: models.Functional) -> Callable[..., TrainState]:
    """Makes the function that builds the state before the first step, as `init_state` does."""
    optimizer = optim.make_optimizer(config.optim, config.steps)
    return functools.partial(
        init_state, model, optimizer, config.seed, ema=config.optim.ema_decay > 0
    )


def _of_run(run: Run, names: Sequence[str]) -> tuple[Evaluator, Evaluation]:
    args = flags.FLAGS
    runner = parallel.make_runner(run.config.parallel)
    evaluator = Evaluator(
        run.config,
        run.model,
        runner,
        split=args.split,
        names=names,
        tolerance=args.tolerance,
        temperature=run.temperature,
        views=args.views,
    )

    def on_skip(why):
        print(f"skipped, and not scored: {why}", file=sys.stderr)

    state = runner.place(run.state)
    found = evaluator.evaluation(state, show=parallel.is_primary(), on_skip=on_skip)
    return evaluator, found


def _of_folder(preds: str, names: Sequence[str]) -> tuple[data.MaskFolders, Evaluation]:
    args = flags.FLAGS
    classes = None if args.segments else tuple(args.classes)
    usual = None if args.segments else 255  # which may well be the id of a segment
    masks = data.MaskFolders(
        preds,
        args.labels,
        num_classes=None if classes is None else len(classes),
        ignore_label=usual if args.ignore_label is None else args.ignore_label,
    )
    found = evaluate_masks(
        masks,
        classes,
        names,
        batch_size=args.batch_size,
        tolerance=args.tolerance,
        show=parallel.is_primary(),
    )
    return masks, found


def _names() -> tuple[str, ...]:
    """The metrics asked for, or those that are usual for what is scored."""
    args = flags.FLAGS
    if args.segments:
        known, usual = scores.SEGMENTS, _OF_SEGMENTS
    elif args.labels:
        known, usual = scores.CLASSES, _OF_MASKS
    else:
        known, usual = _KNOWN_OF_RUNS, _OF_RUNS
    what = "segments" if args.segments else "class masks" if args.labels else "a run"
    _check_metrics("--metrics", args.metrics or (), known, what)
    return tuple(dict.fromkeys(args.metrics or usual))


def _check_metrics(option: str, names: Sequence[str], known: Sequence[str], what: str) -> None:
    """Raises ValueError for a metric that does not exist, or that what is scored does not have."""
    for name in names:
        if name not in scores.METRICS:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(known)}"
            raise ValueError(f"{option} has {name!r}, which is no metric; {hint}")
        if name not in known:
            raise ValueError(
                f"{option} has {name!r}, which {what} can't be scored by; choose from "
                f"{', '.join(known)}"
            )


def _score(console: Console) -> None:
    args = flags.FLAGS
    names = _names()
    if args.workdir:
        fitted = open_run(args.workdir)
        run = fitted.with_views(args.views)
        evaluator, found = _of_run(run, names)
        split = args.split or run.config.data.eval_split
        facts = {
            "run": str(run.workdir.absolute()),
            "step": run.step,
            "split": split,
            "temperature": run.temperature,
            "temperature_fitted_to": run.fitted_to,
            "views": args.views,
        }
        title = f"Best checkpoint: step {run.step}"
        output = run.workdir / "evaluation" / re.sub(r"[^\w.-]+", "_", split)
        examples = functools.partial(evaluator.compared, run.state)
    else:
        masks, found = _of_folder(args.preds, names)
        facts = {"preds": str(pathlib.Path(args.preds).absolute()), "labels": args.labels}
        title = f"{len(found.images)} masks of {args.preds}"
        output = pathlib.Path(time.strftime("runs/%Y%m%d-%H%M%S-evaluation"))
        examples = masks.examples if args.segments else masks.compared
    if not parallel.is_primary():
        return
    summary = scorecard.summary(found, facts, samples=args.bootstrap)
    console.print(*scorecard.tables(summary, title))
    if args.workdir and run.fitted_to == split:
        _say(
            console,
            f"The temperature was fitted to {split}, so that scores of probabilities flatter it "
            "here; --split names others.",
        )
    if args.workdir and run.temperature != fitted.temperature:
        _say(
            console,
            f"The temperature was fitted with --views={fitted.fitted_with} and is not used here; "
            f"python -m jaxseg.temperature --views={args.views} fits that of these.",
        )
    output = pathlib.Path(args.output or output)
    scorecard.write(output, found, summary, title, examples)
    for name in scorecard.FILES:
        _say(console, f"{output / name}")


def _compare(console: Console) -> None:
    args = flags.FLAGS
    names, sides = _names(), args.compare
    if args.labels:
        found = [_of_folder(side, names)[1] for side in sides]
    else:
        runs = [open_run(side).with_views(args.views) for side in sides]
        names = _comparable(names, runs)
        found = [_of_run(run, names)[1] for run in runs]
    if found[0].images != found[1].images or found[0].classes != found[1].classes:
        raise ValueError(
            f"{sides[0]} and {sides[1]} were not scored on the same images and classes "
            f"({len(found[0].images)} and {len(found[1].images)} images), so that they can't be "
            "compared; give both the same --split of the same data"
        )
    if not parallel.is_primary():
        return
    differences = scores.compare(*found, samples=args.bootstrap)
    console.print(scorecard.comparison(differences, sides, len(found[0].images)))
    output = pathlib.Path(args.output or time.strftime("runs/%Y%m%d-%H%M%S-comparison"))
    path = scorecard.write_comparison(output, differences, sides)
    _say(console, f"{path}")


def _say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, highlight=False, markup=False)


def _comparable(names: Sequence[str], runs: Sequence[Run]) -> tuple[str, ...]:
    """The metrics that two runs can be compared by; an error unless both score the same pixels."""
    for field in _OF_WHAT_IS_SCORED:
        values = [getattr(run.config.data, field) for run in runs]
        if values[0] != values[1]:
            raise ValueError(
                f"{runs[0].workdir} has data.{field} {values[0]!r} and {runs[1].workdir} "
                f"{values[1]!r}, so that their scores are not of the same pixels; train both with "
                "one, or compare folders of their masks"
            )
    if runs[0].config.loss == runs[1].config.loss:
        return tuple(names)
    if flags.FLAGS.metrics and "loss" in names:
        raise ValueError(
            "--metrics has loss, but the two runs were trained with different losses, which can't "
            "be compared; choose one that means the same for both, such as negative_log_likelihood"
        )
    return tuple(name for name in names if name != "loss")


def define_flags() -> None:
    flags.DEFINE_string("workdir", None, "The directory of the run to score.")
    flags.DEFINE_string("split", None, "What to score it on. [its data.eval_split]")
    flags.DEFINE_enum(
        "views", "none", KINDS, "A run's predictions are means over these views of each image."
    )
    flags.DEFINE_string("preds", None, "A folder of predicted masks to score instead of a run.")
    flags.DEFINE_string("labels", None, "The folder of their labels, of the same file names.")
    flags.DEFINE_list("classes", [], "The names of the classes of masks, in order: a,b,c.")
    flags.DEFINE_integer(
        "ignore_label", None, "Pixels of this value do not count. [255; no id of --segments]"
    )
    flags.DEFINE_bool("segments", False, "Masks are ids of objects, 0 the background; no classes.")
    known = (f"{name}: {metric.what}" for name, metric in scores.METRICS.items())
    flags.DEFINE_list(
        "metrics",
        None,
        "\n  ".join(["Some of these. [the usual ones for what is scored]", *known]),
    )
    flags.DEFINE_float(
        "tolerance",
        2.0,
        "Of normalized_surface_dice, in pixels, or in the units of NIfTI files or data.spacing.",
    )
    flags.DEFINE_integer("bootstrap", 1000, "Resamplings of the images, for intervals.")
    flags.DEFINE_multi_string(
        "compare", None, "A B: two runs, or with --labels two folders of masks."
    )
    flags.DEFINE_string(
        "output",
        None,
        "Where the report goes. [evaluation/ in the workdir; else a folder in runs/]",
    )
    flags.DEFINE_integer("batch_size", 8, "Masks measured at a time.")
    cli.define_process_flags()


def main() -> None:
    args = flags.FLAGS
    _check(args)
    with cli.work():
        if not args.labels:
            parallel.split_cores(read_config(args.workdir or args.compare[0]))
        # Into a file or a pipe, nothing has to be folded.
        width = None if sys.stdout.isatty() else 120
        console = Console(quiet=not parallel.is_primary(), width=width)
        _compare(console) if args.compare else _score(console)


def _check(args: flags.FlagValues) -> None:
    """Ends the command unless its flags say what to score."""
    if args.compare and len(args.compare) != 2:
        cli.fail("--compare needs two runs, or with --labels two folders: --compare A B")
    given = [name for name in ("workdir", "preds", "compare") if args[name].value]
    if len(given) != 1:
        also = f", not {' and '.join('--' + name for name in given)}" if given else ""
        cli.fail(
            "--workdir of a run, --preds with --labels, or --compare A B says what to score"
            f"{also}; give one of them, see --help"
        )
    if args.preds and not args.labels:
        cli.fail("--labels is missing: the folder with the labels of the masks in --preds")
    if args.labels and args.workdir:
        cli.fail("--labels goes with --preds; a run has its own labels, of the --split")
    if args.labels and not args.segments and not args.classes:
        cli.fail(
            "--classes is missing; name the classes in the order of their values, as in "
            "--classes=background,nucleus, or give --segments if values are ids of objects"
        )
    if len(set(args.classes)) < len(args.classes):
        cli.fail("--classes has a name twice; give each class a name of its own")
    if args.segments and (args.classes or not args.labels):
        cli.fail("--segments goes with --labels and without --classes: segments have no classes")
    if not args.labels and (args.classes or args.ignore_label is not None):
        cli.fail("--classes and --ignore_label go with --labels; a run's are those of its config")
    if not all(args.classes):
        cli.fail("--classes has an empty name; write them as in --classes=background,nucleus")
    if args.labels and args.views != "none":
        cli.fail("--views goes with runs; masks are as they were predicted")
    if args.labels and args.split:
        cli.fail("--split goes with runs; of folders all masks are scored")
    if args.bootstrap < 0 or args.batch_size < 1 or not args.tolerance >= 0:
        cli.fail("--bootstrap and --tolerance must be at least 0, and --batch_size at least 1")


if __name__ == "__main__":
    cli.run(main, define_flags, pairs=("compare",))
