"""Time and memory of losses beside those of optax and torch, all in one run.

    python benchmarks/losses.py --losses cross_entropy,dice --classes 3,21

A contestant is a line of `contestants`. All of one case take turns, so that what else the machine
does meets each alike; the ratio is the median over the turns of its time to ours. README.md says
what the columns mean.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

# torch needs memory that jax would reserve, and jax cores on which torch's idle threads would spin.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import jax
import jax.numpy as jnp
import machine
import numpy as np
import optax
from jax.scipy.special import xlogy

from jaxseg import losses

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    torch = None

OURS = "jaxseg"


def dense(logits, labels):
    """Logits and label distributions in float32, class axis last."""
    p = labels if labels.ndim == logits.ndim else jax.nn.one_hot(labels, logits.shape[-1])
    return logits.astype(jnp.float32), p.astype(jnp.float32)


def plain_relative_entropy(logits, labels):
    z, p = dense(logits, labels)
    log_q = jax.nn.log_softmax(z)
    p = 0.9 * p + 0.1 / p.shape[-1]
    return jnp.sum(jnp.exp(log_q) * (log_q - jnp.log(p)), -1).mean()


def plain_jensen_shannon(logits, labels):
    z, p = dense(logits, labels)
    log_q = jax.nn.log_softmax(z)
    q = jnp.exp(log_q)
    log_m = jnp.log((p + q) / 2)
    return 0.5 * jnp.sum(xlogy(p, p) - p * log_m + q * (log_q - log_m), -1).mean()


def plain_dice(logits, labels, joint=lambda p, q: p + q - jnp.abs(p - q)):
    z, p = dense(logits, labels)
    q = jax.nn.softmax(z)
    joint, areas = (jnp.sum(x, tuple(range(q.ndim - 1))) for x in (joint(p, q), p + q))
    return 1.0 - jnp.mean(joint / areas)


def optax_dice(logits, labels):
    z, p = dense(logits, labels)
    return optax.losses.dice_loss(z, p, smooth=0.0, axis=tuple(range(z.ndim - 1)))


def torch_dense(logits, labels):
    """Logits and label distributions in float32, class axis second."""
    if labels.ndim < logits.ndim:
        labels = F.one_hot(labels, logits.shape[1]).movedim(-1, 1)
    return logits.float(), labels.float()


def torch_kl_divergence(logits, labels):
    z, p = torch_dense(logits, labels)
    return F.kl_div(F.log_softmax(z, 1), p, reduction="none").sum(1).mean()


def torch_relative_entropy(logits, labels):
    z, p = torch_dense(logits, labels)
    log_q = F.log_softmax(z, 1)
    p = 0.9 * p + 0.1 / p.shape[1]
    return (log_q.exp() * (log_q - p.log())).sum(1).mean()


def torch_jensen_shannon(logits, labels):
    z, p = torch_dense(logits, labels)
    log_q = F.log_softmax(z, 1)
    q = log_q.exp()
    log_m = ((p + q) / 2).log()
    return 0.5 * (torch.xlogy(p, p) - p * log_m + q * (log_q - log_m)).sum(1).mean()


def torch_dice(logits, labels):
    """As monai and segmentation-models-pytorch write it, over the batch and without smoothing."""
    z, p = torch_dense(logits, labels)
    q = z.softmax(1)
    over = (0, *range(2, z.ndim))
    return (1.0 - 2.0 * (p * q).sum(over) / (p.sum(over) + q.sum(over))).mean()


def resized(loss: Callable) -> Callable:
    """The loss of logits that are interpolated to the labels' size first."""

    def of_cells(z, y):
        size = (*y.shape[:3], z.shape[-1])
        return loss(jax.image.resize(z.astype(jnp.float32), size, "linear"), y)

    return of_cells


def torch_resized_cross_entropy(logits, labels):
    size = labels.shape[-2:]
    return F.cross_entropy(F.interpolate(logits.float(), size, mode="bilinear"), labels)


def optax_mean(loss: Callable, **options) -> Callable:
    return lambda z, y: loss(*dense(z, y), **options).mean()


def contestants() -> list[tuple[str, str, str, Callable]]:
    """A loss, the labels that it takes, who computes it, and how, of logits and labels."""
    integer = optax.softmax_cross_entropy_with_integer_labels
    product = functools.partial(losses.dice, form="product")
    plain_product = functools.partial(plain_dice, joint=lambda p, q: 2.0 * p * q)
    found = [
        ("cross_entropy", "hard soft", OURS, losses.cross_entropy),
        ("cross_entropy", "hard", "optax", lambda z, y: integer(z.astype(jnp.float32), y).mean()),
        ("cross_entropy", "hard soft", "optax dense", optax_mean(optax.softmax_cross_entropy)),
        ("kl_divergence", "hard soft", OURS, losses.kl_divergence),
        (
            "kl_divergence",
            "hard soft",
            "optax",
            optax_mean(lambda z, p: optax.losses.kl_divergence(jax.nn.log_softmax(z), p)),
        ),
        ("relative_entropy", "hard soft", OURS, losses.relative_entropy),
        ("relative_entropy", "hard soft", "plain jax", plain_relative_entropy),
        ("jensen_shannon", "hard soft", OURS, losses.jensen_shannon),
        ("jensen_shannon", "hard soft", "plain jax", plain_jensen_shannon),
        ("dice", "hard soft", OURS, losses.dice),
        ("dice", "hard soft", "plain jax", plain_dice),
        ("dice", "hard", "optax", optax_dice),
        ("dice_product", "soft", OURS, product),
        ("dice_product", "soft", "plain jax", plain_product),
        ("dice_product", "soft", "optax", optax_dice),
        ("poly1", "hard soft", OURS, losses.poly1),
        (
            "poly1",
            "hard soft",
            "optax",
            optax_mean(optax.losses.poly_loss_cross_entropy, epsilon=1.0),
        ),
    ]
    optax_dense = optax_mean(optax.softmax_cross_entropy)
    found += [
        ("upsample_cross_entropy", "hard soft", OURS, losses.upsample_cross_entropy),
        ("upsample_cross_entropy", "hard soft", "resize, ours", resized(losses.cross_entropy)),
        ("upsample_cross_entropy", "hard soft", "resize, optax", resized(optax_dense)),
    ]
    if torch is not None:
        found += [
            ("upsample_cross_entropy", "hard soft", "torch", torch_resized_cross_entropy),
            ("cross_entropy", "hard soft", "torch", lambda z, y: F.cross_entropy(z, y)),
            ("kl_divergence", "hard soft", "torch", torch_kl_divergence),
            ("relative_entropy", "hard soft", "torch", torch_relative_entropy),
            ("jensen_shannon", "hard soft", "torch", torch_jensen_shannon),
            ("dice", "hard", "torch", torch_dice),
            ("dice_product", "soft", "torch", torch_dice),
        ]
    return found


def jax_call(loss, gradient, logits, labels) -> tuple[Callable, Callable, int]:
    """What computes it, what waits for that, and the bytes that XLA plans beside the arguments."""
    compiled = jax.jit(jax.value_and_grad(loss) if gradient else loss).lower(logits, labels)
    compiled = compiled.compile()
    memory = compiled.memory_analysis()
    planned = memory.temp_size_in_bytes + memory.output_size_in_bytes
    return lambda: compiled(logits, labels), jax.block_until_ready, planned


def torch_call(loss, gradient, logits, labels) -> tuple[Callable, Callable, int]:
    """The same; the bytes are those that torch holds at its peak beside the arguments."""
    logits = logits.detach().requires_grad_(gradient)

    def call():
        with torch.set_grad_enabled(gradient):
            value = loss(logits, labels)
            return (value.detach(), *torch.autograd.grad(value, logits)) if gradient else value

    wait = (lambda _: torch.cuda.synchronize()) if logits.is_cuda else (lambda _: None)
    wait(call())  # compiles
    if logits.is_cuda:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        wait(call())
        return call, wait, torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(profile_memory=True) as profile:
        call()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = np.cumsum([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())])
    return call, wait, int(max(held, default=0))


def take_turns(calls: dict[str, tuple[Callable, Callable]], repeats: int, least: float) -> dict:
    """Seconds of each call at each turn; a turn repeats it until `least` seconds have passed."""
    numbers = {}
    for name, (call, wait) in calls.items():
        wait(call())  # warms up
        start = time.perf_counter()
        wait(call())
        numbers[name] = max(1, math.ceil(least / (time.perf_counter() - start)))
    seconds = {name: [] for name in calls}
    for _ in range(repeats):
        for name, (call, wait) in calls.items():
            start = time.perf_counter()
            for _ in range(numbers[name]):
                result = call()
            wait(result)
            seconds[name].append((time.perf_counter() - start) / numbers[name])
    return seconds


def bandwidth(on_gpu: bool) -> float:
    """Bytes read and written in a second by x + 1 in place, at the best of several sizes."""
    add = jax.jit(lambda x: x + 1, donate_argnums=0)
    best = 0.0
    for size in (2**24, 2**26, 2**28) if on_gpu else (2**24, 2**26):
        x = jax.block_until_ready(add(jnp.zeros(size, jnp.float32)))
        for _ in range(10):
            start = time.perf_counter()
            x = jax.block_until_ready(add(x))
            best = max(best, 2 * x.nbytes / (time.perf_counter() - start))
    return best


def problem(kind: str, size: tuple[int, ...], classes: int, dtype: str, stride: int) -> tuple:
    """Logits and labels, as jax has them and as torch does: class axis second, int64 indices.

    There is one row and column of logits for `stride` of labels.
    """
    rng = np.random.default_rng(0)
    cells = (size[0], *(x // stride for x in size[1:]))
    logits = rng.normal(0, 2, (*cells, classes)).astype(np.float32)
    if kind == "hard":
        labels = rng.integers(0, classes, size, np.int32)
    else:
        labels = rng.standard_exponential((*size, classes), np.float32)
        labels /= labels.sum(-1, keepdims=True)
    exact = jnp.dtype(dtype)
    ours = jnp.asarray(logits, exact), jnp.asarray(labels, exact if kind == "soft" else None)
    if torch is None:
        return ours, None
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"

    def theirs(x):
        x = torch.from_numpy(x).to(device)
        return (x.movedim(-1, 1) if x.ndim > len(size) else x).contiguous()

    z, y = theirs(logits), theirs(labels)
    return ours, (z.to(getattr(torch, dtype)), y.long() if kind == "hard" else y.to(z.dtype))


def measure(loss, kind, classes, dtype, args, speed, on_gpu) -> list[dict]:
    """One row for each contestant, without and with the gradient."""
    stride = 4 if loss.startswith("upsample") else 1
    ours, theirs = problem(kind, args.size, classes, dtype, stride)
    entrants = {}
    for name, kinds, who, function in contestants():
        if name == loss and kind in kinds.split():
            entrants[who] = function
            if who == "torch":
                entrants["torch compiled"] = torch.compile(function, dynamic=False)
    rows = []
    for gradient in (False, True):
        calls, memory = {}, {}
        for who, function in entrants.items():
            if who.startswith("torch"):
                torch._dynamo.reset()  # or, after some shapes, it would silently not compile
            prepare, data = (torch_call, theirs) if who.startswith("torch") else (jax_call, ours)
            try:
                call, wait, memory[who] = prepare(function, gradient, *data)
            except Exception as error:  # torch's compiler may lack one of C++
                if who != "torch compiled":
                    raise
                print(f"torch could not compile {loss}: {str(error).splitlines()[0]}")
                continue
            calls[who] = call, wait
        agree(calls, loss, gradient, dtype)
        seconds = take_turns(calls, args.repeats, 0.02 if on_gpu else 0.0)
        least = sum(x.nbytes for x in ours) + gradient * ours[0].nbytes
        for who, times in seconds.items():
            ratios = [x / y for x, y in zip(times, seconds[OURS], strict=True)]
            rows.append(
                {
                    "loss": loss,
                    "labels": kind,
                    "classes": classes,
                    "dtype": dtype,
                    "gradient": gradient,
                    "contestant": who,
                    "milliseconds": 1e3 * statistics.median(times),
                    "to_ours": statistics.median(ratios),
                    "to_least": statistics.median(times) * speed / least,
                    "memory_bytes": memory[who],
                    "least_bytes": least,
                    "argument_bytes": sum(x.nbytes for x in ours),
                }
            )
    return rows


def agree(calls: dict, loss: str, gradient: bool, dtype: str) -> None:
    """Raises where two contestants compute different numbers, which no one should compare."""
    values = {who: call() for who, (call, _) in calls.items()}
    values = {who: float(x[0] if gradient else x) for who, x in values.items()}
    for who, value in values.items():
        if not math.isclose(value, values[OURS], rel_tol=1e-4 if dtype == "float32" else 2e-2):
            raise ValueError(f"{loss} is {values[OURS]} by {OURS}, but {value} by {who}")


def show(rows: list[dict]) -> None:
    """The rows of one case: a line for each contestant, value left and value + gradient right."""
    case = rows[0]
    print(f"\n{case['loss']}, {case['labels']} labels, {case['classes']} classes, {case['dtype']}")
    header = f"{'ms':>10}{'to ours':>9}{'to least':>10}{'MB':>9}"
    print(f"{'':16}{'value':>38}{'value + gradient':>38}\n{'':16}{header}{header}")
    for who in dict.fromkeys(row["contestant"] for row in rows):
        line = f"{who:16}"
        for gradient in (False, True):
            cells = [r for r in rows if r["contestant"] == who and r["gradient"] == gradient]
            line += (
                "".join(
                    f"{r['milliseconds']:10.3f}{r['to_ours']:9.2f}{r['to_least']:10.2f}"
                    f"{r['memory_bytes'] / 1e6:9.1f}"
                    for r in cells
                )
                or " " * 38
            )
        print(line.rstrip(), flush=True)


def main() -> None:
    device = jax.devices()[0]
    on_gpu = jax.default_backend() == "gpu"
    known = list(dict.fromkeys(name for name, *_ in contestants()))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])

    def listed(of: Callable) -> Callable:
        return lambda text: tuple(of(x) for x in text.split(","))

    slug = device.device_kind.lower().replace(" ", "-")
    results = Path(__file__).parent / "results" / f"losses-{slug}.json"
    size = (8, 512, 512) if on_gpu else (2, 256, 256)
    dtypes = ("float32", "bfloat16") if on_gpu else ("float32",)
    parser.add_argument("--losses", type=listed(str), default=known, help=",".join(known))
    parser.add_argument("--labels", type=listed(str), default=("hard", "soft"))
    parser.add_argument("--classes", type=listed(int), default=(3, 21, 150))
    parser.add_argument("--size", type=listed(int), default=size, help="batch,height,width")
    parser.add_argument("--dtypes", type=listed(str), default=dtypes)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--output", type=Path, default=results)
    args = parser.parse_args()
    if unknown := set(args.losses) - set(known):
        parser.error(f"no such losses: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    if torch is None:
        print("torch is not installed: its contestants are left out")
    elif on_gpu and not torch.cuda.is_available():
        parser.error("this torch has no GPU, but jax has; install one that has, or uninstall it")
    packages = ("jaxseg", "jax", "jaxlib", "optax", *(("torch",) if torch else ()))
    speed = bandwidth(on_gpu)
    report = {
        "device": device.device_kind,
        **machine.facts(packages),
        "size": args.size,
        "repeats": args.repeats,
        "bandwidth_bytes_per_second": speed,
        "rows": [],
    }
    print(f"{device.device_kind}, {report['machine']}, load {report['load'][0]:.1f}")
    print(f"{'x'.join(map(str, args.size))} pixels; memory bandwidth {speed / 1e9:.1f} GB/s")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    for loss in args.losses:
        for kind in args.labels:
            if not any(n == loss and kind in kinds.split() for n, kinds, *_ in contestants()):
                continue
            for classes in args.classes:
                for dtype in args.dtypes:
                    rows = measure(loss, kind, classes, dtype, args, speed, on_gpu)
                    show(rows)
                    report["rows"] += rows
                    args.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
