"""Contestants that take turns, so that what else the machine does meets each alike."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import pathlib
import statistics
import subprocess
import sys

import contestants
import machine
import numpy as np
from contestants import EAGER, KEPT, NAMES, ONE, PYTORCH, SAME, Problem

PACKAGES = ("jaxseg", "jax", "jaxlib", "flax", "torch", "segmentation-models-pytorch", "monai")
COLUMNS = (
    *("images", "contestant", "ms", "to eager", "to best", "images/s", "MB", "first call, s"),
    *("found", "parameters", "GFLOP", "of peak"),
)
MEASURED = ("seconds", "megabytes")  # by a turn
WARM = 3  # turns that do not count: the first are slow, as memory is still being found
RESULTS = pathlib.Path(__file__).parent / "results"
# What some have that others have not, on a CPU. The second is as `jaxseg.memory.keep`, which ours
# calls.
ENVIRONMENTS = {
    ONE: {"JAX_NUM_CPU_DEVICES": "1"},
    KEPT: {
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(2**64 - 1),
    },
}


class Contestant:
    """The process of one, which is idle but when it is its turn."""

    def __init__(self, who: str, problem: Problem):
        self._who = who
        environment = {
            "JAX_PLATFORMS": problem.device,
            **ENVIRONMENTS.get(who, {}),
            "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0],
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # all share the memory of one GPU
            # The first call compiles.
            "JAX_ENABLE_COMPILATION_CACHE": "false",
            "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, contestants.__file__, who, json.dumps(problem._asdict())],
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.first = self._answer()

    def turn(self) -> dict:
        print(file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._who} has ended with code {self._process.wait()}")
        return json.loads(line)

    def end(self) -> None:
        self._process.communicate()  # ends with its input


def measure(problem: Problem, names: list[str], repeats: int, peak: float | None) -> list[dict]:
    """A row for each contestant."""
    with contextlib.ExitStack() as stack:
        rows, running = [], []
        for who in names:
            contestant = Contestant(who, problem)
            stack.callback(contestant.end)
            rows.append({"contestant": who, **contestant.first})
            if "skipped" not in contestant.first:
                running.append((rows[-1], contestant))
        turns = {row["contestant"]: [] for row, _ in running}
        for number in range(WARM + repeats):
            for row, contestant in running:
                turn = contestant.turn()
                if number >= WARM:
                    turns[row["contestant"]].append(turn)
    ran = [row for row, _ in running]
    for row in ran:
        seconds, megabytes = ([turn[x] for turn in turns[row["contestant"]]] for x in MEASURED)
        row |= {
            "milliseconds": 1e3 * statistics.median(seconds),
            "images_per_second": problem.images / statistics.median(seconds),
            "megabytes": max(megabytes),
            "turns_milliseconds": [round(1e3 * x, 3) for x in seconds],
        }
    times = {row["contestant"]: row["milliseconds"] for row in ran}
    eager = times.get(EAGER)
    best = min((times[who] for who in PYTORCH if who in times), default=None)
    flops = next((row["flops"] for row in ran if row["contestant"] in SAME and row["flops"]), None)
    for row in ran:
        row["to_eager"] = eager and eager / row["milliseconds"]
        row["to_best"] = best and best / row["milliseconds"]
        row["flops"] = row["flops"] or flops
        share = peak and row["flops"] and row["flops"] * 1e3 / row["milliseconds"] / (peak * 1e12)
        row["share_of_peak"] = share
    return rows


def agree(rows: list[dict], problem: Problem) -> None:
    """Raises where one of the same model and weights finds other losses, or other logits."""
    exact = problem.dtype == "float32" and problem.device == "cpu"  # GPUs round to TF32
    found = {
        row["contestant"]: row["found"]
        for row in rows
        if row["contestant"] in SAME and "skipped" not in row
    }
    for who, numbers in found.items():
        expected = np.array(next(iter(found.values())))
        if problem.what == "training":
            # The first steps of Adam go by the sign of gradients, also of those that are almost 0.
            bounds = np.array([1e-5, 1e-3, 1e-3] if exact else [1e-2, 3e-2, 3e-2]) * expected
        else:
            bounds = (1e-4 if exact else 5e-2) * np.max(np.abs(expected))
        if not np.all(np.abs(numbers - expected) <= bounds):
            raise ValueError(f"{who} finds {numbers}, but {next(iter(found))} {expected.tolist()}")


def line(case: str, row: dict) -> str:
    """That of a table."""
    if "skipped" in row:
        return f"| {case} | {row['contestant']} | skipped: {row['skipped']} |" + " |" * 9
    ratios = ("" if row[x] is None else f"{row[x]:.2f}" for x in ("to_eager", "to_best"))
    cells = (
        *(case, row["contestant"], f"{row['milliseconds']:.3g}", *ratios),
        *(f"{row['images_per_second']:.3g}", f"{row['megabytes']:.0f}"),
        *(f"{row['first_seconds']:.1f}", f"{row['found'][-1]:.6g}", f"{row['parameters']}"),
        "" if row["flops"] is None else f"{row['flops'] / 1e9:.4g}",
        "" if row["share_of_peak"] is None else f"{row['share_of_peak']:.1%}",
    )
    return f"| {' | '.join(cells)} |"


def main(what: str, found: str, description: str) -> None:
    """Takes the turns that the command line asks for, and writes a table and JSON."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])

    def listed(of):
        return lambda text: [of(x) for x in text.split(",")]

    parser.add_argument(
        "--cases", type=listed(str), default=["4x128", "2x256"], help="images x side"
    )
    parser.add_argument("--contestants", type=listed(str), help=",".join(NAMES))
    parser.add_argument("--repeats", type=int, default=9, help="turns of each contestant")
    parser.add_argument("--classes", type=int, default=3)
    parser.add_argument("--widths", type=listed(int), default=[32, 64, 128, 256, 512])
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--peak", type=float, help="TFLOP/s of the device, for the share of it")
    parser.add_argument("--output", type=pathlib.Path, help=f"results/{what}-<device>.json")
    args = parser.parse_args()
    names = args.contestants or [x for x in NAMES if args.device == "cpu" or x not in ENVIRONMENTS]
    if unknown := set(names) - set(NAMES):
        parser.error(f"no such contestants: {', '.join(sorted(unknown))}")
    output = args.output or RESULTS / f"{what}-{args.device}.json"
    installed = [x for x in PACKAGES if importlib.util.find_spec(x.replace("-", "_"))]
    options = ("repeats", "classes", "widths", "dtype", "device", "peak")
    report = {
        **machine.facts(installed),
        **{name: getattr(args, name) for name in options},
        "rows": [],
    }
    print(f"{report['machine']}, load {report['load'][0]:.1f}, {args.dtype}")
    columns = [found if x == "found" else x for x in COLUMNS]
    print(f"| {' | '.join(columns)} |\n" + "|---" * len(columns) + "|")
    for case in args.cases:
        images, side = map(int, case.split("x"))
        problem = Problem(what, images, side, args.classes, args.widths, args.dtype, args.device)
        rows = measure(problem, names, args.repeats, args.peak)
        for row in rows:
            report["rows"].append({"images": images, "side": side, **row})
            print(line(case, row), flush=True)
        output.write_text(json.dumps(report, indent=1) + "\n")
        agree(rows, problem)  # what was measured is written before
