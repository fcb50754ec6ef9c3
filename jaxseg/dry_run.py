"""What a run would be made of, found without training: sizes, work, memory and its first batch."""

from __future__ import annotations

import math
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import rich.table
from PIL import Image
from rich.console import Console

from jaxseg import data, ingredients, parallel, pictures, teachers, training_step
from jaxseg.batch import Batch
from jaxseg.config import Config
from jaxseg.evaluate import make_model
from jaxseg.steps import step_keys

PICTURE = "dry_run.png"
_SHOWN = 16  # images of the batch
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


class DryRun(NamedTuple):
    """What is known before the first step."""

    examples: int
    unlabelled: int  # besides these
    batch: Batch  # shapes of the global batch, as it is read
    prepared: Batch  # the first batch, as the model sees it
    logits: tuple  # their shape, at each resolution
    parameters: dict[str, tuple[int, int]]  # of each block: arrays, and numbers in them
    plan: training_step.Plan
    evaluation: training_step.Plan  # of one of its batches
    limit: int  # bytes of a device that a step may take


def run(config: Config) -> DryRun:
    """Reads the first batch and compiles the step, and trains nothing.

    Of the state there are shapes alone, so it need not fit the device. Work and memory are what XLA
    says of the compiled step.
    """
    made = ingredients.gather(config)
    config, runner, _, lowered, training, evaluator, _, template = made
    made.open_pretrained()  # which raises, as training would
    whole = next(data.batches(training.source, training.positions(), config.data))
    teachers.open_teacher(config)  # which raises, too
    plan = training_step.planned(lowered)
    keys, _ = step_keys(config.seed, 0, jnp.arange(config.batch_size))
    prepared = jax.jit(training_step.preparation(config))(whole, keys)
    alone = make_model(config)
    logits, _ = jax.eval_shape(
        lambda params, stats, images: alone.apply(
            params, stats, images, train=True, key=jax.random.key(0)
        ),
        template.params,
        template.batch_stats,
        prepared.images,
    )
    return DryRun(
        examples=training.labelled,
        unlabelled=training.unlabelled,
        batch=jax.eval_shape(lambda: whole),
        prepared=parallel.on_host(prepared),
        logits=tuple(x.shape for x in jax.tree.leaves(logits)),
        parameters={
            name: (len(jax.tree.leaves(block)), _size(block))
            for name, block in template.params.items()
        },
        plan=plan,
        evaluation=training_step.planned_evaluation(evaluator, runner, template),
        limit=parallel.memory(),
    )


def sheet(found: DryRun, config: Config) -> np.ndarray:
    """The first images as the model sees them, with their labels; of volumes the middle slice."""
    images, labels, where, *_ = found.prepared
    examples = []
    for row in range(min(_SHOWN, len(images))):
        example = images[row], labels[row], where[row]
        if where.ndim > 3:
            example = tuple(x[len(x) // 2] for x in example)
        image, *label = example
        low, high = image.min(), image.max()
        levels = np.uint16(65535 * (image - low) / max(high - low, 1e-6))
        examples.append((f"row {row}", levels, *label))
    return pictures.contact_sheet(examples, config.data.classes)


def show(config: Config, workdir: pathlib.Path, console: Console) -> None:
    """Says what a dry run finds, and leaves the picture of the batch in the workdir."""
    found = run(config)
    if not parallel.is_primary():
        return
    workdir.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet(found, config)).save(workdir / PICTURE)
    table = rich.table.Table(title="Parameters", title_justify="left")
    for name, justify in (("block", "left"), ("arrays", "right"), ("parameters", "right")):
        table.add_column(name, justify=justify)
    for name, (arrays, numbers) in found.parameters.items():
        table.add_row(name, str(arrays), f"{numbers:,}")
    table.add_section()
    arrays, numbers = map(sum, zip(*found.parameters.values(), strict=True))
    table.add_row("all", str(arrays), f"{numbers:,}")
    console.print(table)
    plan, batch_size = found.plan, found.batch.images.shape[0]
    rows = batch_size - data.unlabelled_rows(config.data, batch_size)
    unlabelled = f"; {found.unlabelled} without labels" if found.unlabelled else ""
    work = "unknown" if plan.flops is None else f"{plan.flops:.3g} floating-point operations"
    part = f", for one of {config.parts} parts" if config.parts > 1 else ""
    lines = {
        "examples": f"{found.examples}, {found.examples / rows:.1f} steps an epoch, "
        f"{config.steps * rows / found.examples:.1f} epochs{unlabelled}",
        "devices": f"{parallel.describe()}, parallel={config.parallel}",
        "read": _shapes(found.batch),
        "augmented": _shapes(found.prepared),
        "logits": ", ".join(map(str, found.logits)),
        "a step": f"{work} on each device{part}",
        "memory": f"{_bytes(plan.memory)} on each device: {_bytes(plan.arguments)} of state and "
        f"batch, {_bytes(plan.temporaries)} besides, of {_bytes(found.limit)} that a step may take",
        "evaluation": f"{_bytes(found.evaluation.memory)} on each device",
        "first batch": f"{workdir / PICTURE}",
    }
    for name, text in lines.items():
        console.print(f"{name:<12} {text}", soft_wrap=True, highlight=False, markup=False)


def _size(tree) -> int:
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


def _shapes(batch: Batch) -> str:
    return ", ".join(
        f"{name} {'x'.join(map(str, x.shape))} {x.dtype}"
        for name, x in zip(("images", "labels", "where"), batch, strict=False)
    )


def _bytes(number: int) -> str:
    """A number of bytes for a person.

    >>> _bytes(3 * 2**19), _bytes(12)
    ('1.5 MiB', '12.0 B')
    """
    power = min(len(_UNITS) - 1, max(0, (number.bit_length() - 1) // 10))
    return f"{number / 2 ** (10 * power):.1f} {_UNITS[power]}"
