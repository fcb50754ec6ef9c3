"""U-Nets that train or infer, ours and others, each in a process of its own that waits its turn.

benchmarks/turns.py starts `contestants.py NAME PROBLEM`, and reads a line of JSON from it: what it
found by its first call, or why there is none. It answers each line that it gets by another.
"""

from __future__ import annotations

import concurrent.futures
import copy
import ctypes
import functools
import gc
import json
import multiprocessing
import pathlib
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

OURS, ONE, EAGER = "jaxseg", "jaxseg-one-device", "torch"
KEPT, CHANNELS_LAST, COMPILED = "torch-keeping-memory", "torch-channels-last", "torch-compile"
SMP, MONAI = "segmentation-models-pytorch", "monai"
PYTORCH = (EAGER, KEPT, CHANNELS_LAST, COMPILED)
SAME = (OURS, ONE, *PYTORCH)  # that have one model with the same weights
NAMES = (*SAME, SMP, MONAI)
RATE = 1e-3
LEAST = 0.3  # seconds of a turn


class Problem(NamedTuple):
    what: str  # "training" or "inference"
    images: int
    side: int
    classes: int
    widths: list[int]
    dtype: str  # of the computation; parameters and loss are in float32
    device: str  # "cpu" or "cuda"


class Work(NamedTuple):
    """What a contestant does, again and again, and what is to be known of it."""

    call: Callable  # gives the loss or the logits, when they are there
    on_host: Callable  # what it gave, as an array of numpy
    megabytes: Callable[[], float]  # at most, since it was last asked
    parameters: int
    flops: int | None
    device: str


def arrays(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Normalised images, and a class for each pixel."""
    draw, size = np.random.default_rng(0), (problem.images, problem.side, problem.side)
    return (
        draw.normal(size=(*size, 3)).astype(np.float32),
        draw.integers(0, problem.classes, size, np.int32),
    )


def functional(problem: Problem, axis_name: str | None = None):
    import jax.numpy as jnp

    from jaxseg import models

    options = {"widths": problem.widths, "dtype": jnp.dtype(problem.dtype), "axis_name": axis_name}
    return models.to_functional(lambda rngs: models.UNet(3, problem.classes, **options, rngs=rngs))


def variables(problem: Problem) -> tuple[dict, dict]:
    """The parameters and statistics that ours begins with, for `SAME` of PyTorch."""
    import jax

    return jax.device_get(jax.jit(functional(problem).init)(jax.random.key(0)))


class Programs(NamedTuple):
    """Ours, to be compiled for whatever device."""

    init: Callable  # () -> state
    train: Callable  # (state, batch) -> the next state, and the loss among other scalars
    logits: Callable  # (state, images) -> logits


def programs(problem: Problem, axis_name: str | None = None) -> Programs:
    import optax

    from jaxseg import losses, steps
    from jaxseg.batch import Prepared

    training = problem.what == "training"
    model = functional(problem, axis_name)
    optimizer = optax.adam(RATE) if training else optax.identity()

    def prepare(batch, keys):
        return Prepared(*batch[:3], inside=batch.where)

    loss = losses.weighted_sum({"cross_entropy": 1.0})
    options = {"prepare": prepare, "seed": 0, "axis_name": axis_name}
    return Programs(
        lambda: steps.init_state(model, optimizer, 0, ema=False),
        steps.make_train_step(model.apply, loss, optimizer, **options),
        lambda state, images: model.apply(state.params, state.batch_stats, images, train=False)[0],
    )


def ours(problem: Problem) -> Work:
    """The step as the training command takes it, of a batch that lies on the devices already."""
    import jax

    from jaxseg import Batch, memory, parallel
    from jaxseg.config import Config

    memory.keep()
    parallel.split_cores(Config(batch_size=problem.images))
    device, runner = jax.devices()[0], parallel.make_runner("pmap")
    images, labels = arrays(problem)
    batch = runner.shard(Batch(images, labels, np.ones(labels.shape, bool)))
    taken = resident("VmRSS")
    found = programs(problem, runner.axis_name)
    state = runner.place(jax.jit(found.init)())
    train_step = runner.compile(found.train, donate_state=True)
    inferred = jax.pmap(found.logits, runner.axis_name, in_axes=(None, 0))

    def train():
        nonlocal state
        state, scalars = jax.block_until_ready(train_step(state, batch))
        return scalars["loss"]

    def infer():
        return jax.block_until_ready(inferred(state, batch.images))

    def megabytes():
        if problem.device == "cpu":
            return peak() - taken
        return device.memory_stats()["peak_bytes_in_use"] / 2**20  # which can't be reset

    return Work(
        train if problem.what == "training" else infer,
        np.asarray,
        megabytes,
        sum(x.size for x in jax.tree.leaves(state.params)),
        None,  # those of EAGER, which has the same layers
        device.device_kind,
    )


def theirs(who: str, problem: Problem) -> Work:
    """The same in PyTorch."""
    import torch

    on_gpu, training = problem.device == "cuda", problem.what == "training"
    torch.backends.cudnn.benchmark = True  # takes the fastest of its algorithms, as XLA does
    layout = torch.channels_last if who in (CHANNELS_LAST, COMPILED) else torch.contiguous_format
    images, labels = map(torch.from_numpy, arrays(problem))
    images = images.movedim(-1, 1).to(problem.device, memory_format=layout)
    labels = labels.long().to(problem.device)
    build = {SMP: of_smp, MONAI: of_monai}.get(who, of_torch)
    taken = resident("VmRSS")
    model = build(problem).train(training).to(problem.device, memory_format=layout)
    kernels = [x for x in model.parameters() if x.ndim == 4]
    assert all(x.is_contiguous(memory_format=layout) for x in kernels)
    flops = counted(model, images)
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    forward = torch.compile(model) if who == COMPILED else model

    def logits():
        with torch.autocast(problem.device, torch.bfloat16, problem.dtype == "bfloat16"):
            return forward(images).float()

    def train():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(logits(), labels)
        loss.backward()
        optimizer.step()
        return waited(loss.detach())

    def infer():
        with torch.inference_mode():
            return waited(logits())

    def waited(x):
        if on_gpu:
            torch.cuda.synchronize()
        return x

    def megabytes():
        if not on_gpu:
            return peak() - taken
        most = torch.cuda.max_memory_allocated() / 2**20
        torch.cuda.reset_peak_memory_stats()
        return most

    return Work(
        train if training else infer,
        lambda found: (found if training else found.movedim(1, -1)).cpu().numpy(),
        megabytes,
        sum(x.numel() for x in model.parameters()),
        flops,
        torch.cuda.get_device_name() if on_gpu else "cpu",
    )


def of_torch(problem: Problem):
    from torch_unet import UNet

    # Elsewhere, as there is to be no JAX in this process.
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, spawn) as pool:
        return UNet(problem.widths, *pool.submit(variables, problem).result())


def of_smp(problem: Problem):
    import segmentation_models_pytorch

    return segmentation_models_pytorch.Unet(
        "resnet18", encoder_weights=None, classes=problem.classes
    )


def of_monai(problem: Problem):
    from monai.networks.nets import UNet

    strides = (2,) * (len(problem.widths) - 1)
    return UNet(2, 3, problem.classes, problem.widths, strides, num_res_units=2)


def counted(model, images) -> int:
    """The FLOPs of convolutions and products; of a model that trains, with those of gradients."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model, images = copy.deepcopy(model).to("meta"), images.to("meta")
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(model.training):
        found = model(images)
        if model.training:
            found.sum().backward()
    return counter.get_total_flops()


def resident(what: str) -> float:
    """A line of /proc/self/status, in MB."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    (line,) = (x for x in lines if x.startswith(what))
    return int(line.split()[1]) / 1024


def peak() -> float:
    """The most MB that this process had since this was last asked."""
    found = resident("VmHWM")
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    return found


def sample(problem: Problem, calls: list[np.ndarray]) -> list[float]:
    """What must be the same for all: the losses of three steps, or logits all over the images."""
    logits = calls[0].ravel()
    spread = np.linspace(0, logits.size - 1, 24).astype(int)
    return [float(x) for x in (calls if problem.what == "training" else logits[spread])]


def say(**values) -> None:
    print(json.dumps(values), flush=True)


def main(who: str, problem: Problem) -> None:
    begin = ours if who in (OURS, ONE) else functools.partial(theirs, who)
    try:
        work = begin(problem)
        begun = time.perf_counter()
        found = work.call()
        first = time.perf_counter() - begun
        found = sample(problem, [work.on_host(x) for x in (found, work.call(), work.call())])
    except Exception as error:
        if begin is ours:
            raise
        say(skipped=f"{type(error).__name__}: {error}".splitlines()[0])
        return
    say(
        found=found,
        first_seconds=first,
        parameters=work.parameters,
        flops=work.flops,
        device=work.device,
    )
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # gives back what compiling has freed
    for _ in sys.stdin:
        calls, begun = 0, time.perf_counter()
        while (seconds := time.perf_counter() - begun) < LEAST:
            work.call()
            calls += 1
        say(seconds=seconds / calls, megabytes=work.megabytes())


if __name__ == "__main__":
    main(sys.argv[1], Problem(**json.loads(sys.argv[2])))
