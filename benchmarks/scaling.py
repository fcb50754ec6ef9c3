"""What a step of the training loop costs beside the compiled step, on devices and processes.

    python benchmarks/scaling.py --repeats 3

Each row is a run of `jaxseg.train.train` in processes of its own, whose devices are virtual: they
share the cores of this machine. `command` is the demo as `python -m jaxseg.train` runs it, between
its evaluations; `demo` a smaller one, whose batches are in memory; `trivial` has its state, of more
than 120 arrays, and a step that adds nothing but 1 to it, so that all that is left is overhead.
README.md says what the columns mean.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from unittest import mock

import jax
import machine
import numpy as np

import jaxseg.train
from jaxseg import data, memory, parallel
from jaxseg.config import Config

PACKAGES = ("jaxseg", "jax", "jaxlib")
WHAT, KINDS = ("command", "demo", "trivial"), ("pmap", "shard_map", "fsdp")
LAYOUTS = ((1, 1), (2, 1), (4, 1), (8, 1), (1, 2))  # devices of a process, and processes
COMMAND = ("command", "pmap", (None, 1))  # with the devices that it takes by itself
BATCH, WARM = 8, 20
TIMES = ("bare", "loop", "own", "own p90", "own cpu", "log", "log cpu")  # in milliseconds


class Stopwatch:
    """A runner's training step, with the time of each call of it in the loop."""

    def __init__(self, kind: str, trivial: bool):
        self.begun, self.ended = [], []  # pairs of the wall clock and the thread's own time
        self._real, self._trivial = parallel.make_runner(kind), trivial
        self.runner = self._real._replace(compile=self._compile)

    def _compile(self, step, *, donate_state, constants=0):
        if not donate_state:  # that of evaluation
            return self._real.compile(step, donate_state=False, constants=constants)

        def add_one(state, batch):
            _, shapes = jax.eval_shape(step, state, batch)
            return (
                jax.tree.map(lambda x: x + 1, state),
                jax.tree.map(lambda x: jax.numpy.zeros(x.shape, x.dtype), shapes),
            )

        compiled = self._real.compile(add_one if self._trivial else step, donate_state=True)

        def timed(state, batch):
            self.begun.append((time.perf_counter(), time.thread_time()))
            self.state, scalars = compiled(state, batch)
            self.ended.append((time.perf_counter(), time.thread_time()))
            self._batch, self._compiled = batch, compiled
            return self.state, scalars

        timed.lower = compiled.lower
        return timed

    def bare(self, steps: int) -> float:
        """Seconds for each of so many steps in a row with one batch, waited for at the end."""
        state = self._real.place(parallel.on_host(self.state))
        parallel.wait_for_all("bare")
        begun = time.perf_counter()
        for _ in range(steps):
            state, scalars = self._compiled(state, self._batch)
        jax.block_until_ready((state, scalars))
        return (time.perf_counter() - begun) / steps


def first_again(real, *args, start: int, stop: int, **options):
    """The first batch of training for every step, so that none waits for decoding."""
    batch = next(iter(real(*args, start=start, stop=stop, **options)))
    return itertools.repeat(batch, stop - start)


def measure(kind: str, what: str, steps: int, root: str, workdir: str) -> dict:
    """A run of the loop, and its step called bare."""
    config = Config(steps=steps, pictures=0, parallel=kind)
    config.eval_every = config.checkpoint_every = steps
    config.data.root = root
    if what == "command":
        memory.keep()
        parallel.split_cores(config)
    else:
        config.batch_size, config.data.image_size = BATCH, (64, 64)
        config.augment.crop_size = ()
        config.model.widths = (8, 16, 32)
    watch, real = Stopwatch(kind, what == "trivial"), data.batches

    def batches(*args, **options):
        in_memory = what != "command" and "stop" in options
        return first_again(real, *args, **options) if in_memory else real(*args, **options)

    with (
        mock.patch.object(parallel, "make_runner", return_value=watch.runner),
        mock.patch.object(data, "batches", batches),
    ):
        jaxseg.train.train(config, workdir)
    every, begun, ended = config.log_every, np.array(watch.begun), np.array(watch.ended)
    between = 1e3 * (begun[1:] - ended[:-1])  # from the end of a call to the start of the next
    logs = (np.arange(len(between)) + 1) % every == 0
    between, logs = between[WARM:], logs[WARM:]
    # From the first logging step that counts to the last, which wait for the device.
    whole = begun[every * (WARM // every) :: every, 0]
    bare = statistics.mean(watch.bare(every * 2) for _ in range(5))
    own, own_cpu = between[~logs].T
    return {
        "devices": jax.local_device_count(),
        "leaves": len(jax.tree.leaves(watch.state)),
        "bare_ms": 1e3 * bare,
        "loop_ms": 1e3 * float(whole[-1] - whole[0]) / (len(whole) - 1) / every,
        "own_ms": float(np.median(own)),
        "own_p90_ms": float(np.quantile(own, 0.9)),
        "own_cpu_ms": float(np.median(own_cpu)),
        "log_ms": float(np.median(between[logs, 0])),
        "log_cpu_ms": float(np.median(between[logs, 1])),
    }


def start(arguments: list[str], devices: int | None, processes: int) -> dict:
    """What process 0 of those that measure a row says."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = {"JAX_PLATFORMS": "cpu", **os.environ}
    if devices is not None:
        environment["JAX_NUM_CPU_DEVICES"] = str(devices)
    command = [sys.executable, __file__, *arguments]
    if processes > 1:
        command += ["--coordinator", f"localhost:{port}", "--processes", str(processes)]
    runs = [
        subprocess.Popen(
            [*command, "--process", str(index)], env=environment, stdout=subprocess.PIPE, text=True
        )
        for index in range(processes)
    ]
    try:
        outputs = [run.communicate(timeout=900)[0] for run in runs]
    finally:
        for run in runs:
            run.kill()
    return json.loads(outputs[0].splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    results = pathlib.Path(__file__).parent / "results" / "scaling-cpu.json"
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=220)

    def listed(text):
        return text.split(",")

    parser.add_argument("--steps_of", type=listed, default=list(WHAT), help=",".join(WHAT))
    parser.add_argument("--kinds", type=listed, default=list(KINDS), help=",".join(KINDS))
    parser.add_argument("--output", type=pathlib.Path, default=results)
    # For the processes that this one starts.
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--root", help=argparse.SUPPRESS)
    parser.add_argument("--workdir", help=argparse.SUPPRESS)
    parser.add_argument("--coordinator", help=argparse.SUPPRESS)
    parser.add_argument("--processes", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--process", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        join = contextlib.nullcontext()
        if args.coordinator:
            join = parallel.joined(args.coordinator, args.processes, args.process)
        with join:
            found = measure(*args.measure.split(","), args.steps, args.root, args.workdir)
        if parallel.is_primary():
            print(json.dumps(found))
        return
    report = {
        **machine.facts(PACKAGES),
        "repeats": args.repeats,
        "rows": [],
    }
    print(f"{report['machine']}, load {report['load'][0]:.1f}")
    columns = ("step", "parallel", "processes x devices", "arrays", *TIMES, "kept")
    print(f"| {' | '.join(columns)} |\n" + "|---" * len(columns) + "|")
    cases = [COMMAND, *itertools.product(WHAT[1:], args.kinds, LAYOUTS)]
    cases = [case for case in cases if case[0] in args.steps_of]
    with tempfile.TemporaryDirectory() as root:
        for what, kind, (devices, processes) in cases:
            turns = []
            for _ in range(args.repeats):
                arguments = ["--measure", f"{kind},{what}", "--steps", str(args.steps)]
                arguments += ["--root", root, "--workdir", tempfile.mkdtemp(dir=root)]
                turns.append(start(arguments, devices, processes))
            row = {"what": what, "parallel": kind, "processes": processes}
            row |= {key: statistics.median(turn[key] for turn in turns) for key in turns[0]}
            row["kept"] = statistics.median(turn["bare_ms"] / turn["loop_ms"] for turn in turns)
            report["rows"].append(row)
            times = [row[column.replace(" ", "_") + "_ms"] for column in TIMES]
            print(
                f"| {what} | `{kind}` | {processes} x {row['devices']:.0f} | {row['leaves']:.0f} | "
                f"{' | '.join(f'{x:.3g}' for x in times)} | {row['kept']:.3f} |",
                flush=True,
            )
            args.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
