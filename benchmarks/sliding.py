"""A U-Net in sliding windows over a large image, beside MONAI's SlidingWindowInferer.

    python benchmarks/sliding.py --sides 1024 --repeats 5

Both have one model with the same weights, ours in Flax and compiled, theirs in eager PyTorch, and
the same windows of 512 pixels, a quarter of which overlap, with Gaussian weights. They take turns
in one run, and must agree in what they say. README.md says what the columns mean.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import os
import pathlib
import statistics
import time
from collections.abc import Callable

# jax needs cores on which torch's idle threads would spin.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import jax
import machine
import numpy as np
import torch
from contestants import resident
from monai.inferers import SlidingWindowInferer
from torch_unet import UNet, tensor

from jaxseg import models, ops

PACKAGES = ("jaxseg", "jax", "torch", "monai")
OURS, CLASSES, WINDOW = "jaxseg", 3, (512, 512)
DEVICES = {"cpu": "cpu", "gpu": "cuda"}  # as PyTorch calls that of JAX


def contestants(widths: tuple[int, ...], side: int, at_once: int) -> dict[str, Callable]:
    """Who computes the logits `[side, side, classes]` of an image that all have."""
    init, apply = models.to_functional(
        lambda rngs: models.UNet(3, CLASSES, widths=widths, rngs=rngs)
    )
    params, stats = jax.device_get(jax.jit(init)(jax.random.key(0)))
    image = np.random.default_rng(0).normal(size=(1, side, side, 3)).astype(np.float32)

    @jax.jit
    def slide(params, stats, image):
        def logits(windows):
            return apply(params, stats, windows, train=False)[0]

        return ops.sliding_windows(logits, image, WINDOW, windows_at_once=at_once)

    variables = jax.device_put((params, stats, image))
    compiled = slide.lower(*variables).compile()

    def ours():
        return np.asarray(jax.block_until_ready(compiled(*variables)))[0]

    def theirs(model, image):
        with torch.inference_mode():
            return np.moveaxis(inferer(image, model).cpu().numpy()[0], 0, -1)

    def laid_out(memory_format):
        x = tensor(np.moveaxis(image, -1, 1)), UNet(widths, params, stats).eval()
        placed, model = (
            y.to(DEVICES[jax.default_backend()], memory_format=memory_format) for y in x
        )
        return functools.partial(theirs, model, placed)

    inferer = SlidingWindowInferer(WINDOW, at_once, 0.25, "gaussian")
    return {
        OURS: ours,
        "MONAI": laid_out(torch.contiguous_format),
        "MONAI, channels last": laid_out(torch.channels_last),
    }


def timed(call: Callable) -> tuple[np.ndarray, float, float]:
    """What a call gives, its seconds, and the MB of host memory that the process took more."""
    gc.collect()
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak, from here on
    before, begun = resident("VmRSS"), time.perf_counter()
    found = call()
    return found, time.perf_counter() - begun, resident("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    results = pathlib.Path(__file__).parent / "results" / f"sliding-{jax.default_backend()}.json"

    def numbers(text):
        return tuple(map(int, text.split(",")))

    parser.add_argument("--sides", type=numbers, default=(1024, 4096))
    parser.add_argument("--repeats", type=numbers, default=(5, 2), help="turns for each side")
    parser.add_argument("--widths", type=numbers, default=(32, 64, 128, 256, 512))
    parser.add_argument("--windows_at_once", type=int, default=1)
    parser.add_argument("--output", type=pathlib.Path, default=results)
    args = parser.parse_args()
    report = {
        **machine.facts(PACKAGES),
        "widths": args.widths,
        "windows_at_once": args.windows_at_once,
        "rows": [],
    }
    print(f"{report['machine']}, load {report['load'][0]:.1f}")
    for side, repeats in zip(args.sides, args.repeats, strict=True):
        calls = contestants(args.widths, side, args.windows_at_once)
        turns = {who: [] for who in calls}
        for _ in range(repeats):
            expected = None
            for who, call in calls.items():
                found, *measured = timed(call)
                turns[who].append(measured)
                expected = found if expected is None else expected
                bound = 1e-3 if jax.default_backend() == "cpu" else 5e-2  # GPUs round to TF32
                np.testing.assert_allclose(found, expected, rtol=bound, atol=bound)
                del found
        for who, measured in turns.items():
            seconds, megabytes = zip(*measured, strict=True)
            ours = [seconds for seconds, _ in turns[OURS]]
            row = {
                "side": side,
                "repeats": repeats,
                "contestant": who,
                "seconds": statistics.median(seconds),
                "to_ours": statistics.median(x / y for x, y in zip(seconds, ours, strict=True)),
                "megabytes": max(megabytes),
            }
            report["rows"].append(row)
            print(
                f"{side:5} {who:21} {row['seconds']:7.2f} s  {row['to_ours']:5.2f}  "
                f"{row['megabytes']:6.0f} MB",
                flush=True,
            )
        args.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
