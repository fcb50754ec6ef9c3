"""What XLA plans for an NVIDIA H100, which need not be there: kernels, and the bytes they move.

    python benchmarks/planned.py

It needs `pip install "jax[cuda12]"`, and compiles on a CPU for a description of the GPU, without
the measurements by which XLA there chooses algorithms. README.md says what the columns mean.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pathlib
import re
from typing import NamedTuple

import contestants
import machine

# NVIDIA H100 SXM: its data sheet (dense products of bfloat16), and what XLA asks of a device.
FLOPS, BANDWIDTH = 989e12, 3.35e12
H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  memory_bandwidth: 3350000000000
  device_memory_size: 85899345920
  l2_cache_size: 52428800
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 12 minor: 9 }
"""
RESULTS = pathlib.Path(__file__).parent / "results" / "planned-h100.json"
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_LINE = re.compile(r"  (?:ROOT )?%(\S+) = (\(.*?\)|\S+) ([\w-]+)\((.*?)\)(.*)")
_NO_WORK = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast")


class Kernel(NamedTuple):
    name: str
    bytes: int  # of its arguments, each of them whole, and of what it makes
    flops: int  # of a convolution


def device():
    """An H100 for which programs can be compiled, and nothing else."""
    from jax.experimental import topologies

    return topologies.get_topology_desc(
        platform="cuda", topology="1x1x1", target_config=H100
    ).devices[0]


def compiled(problem: contestants.Problem, on):
    import jax

    from jaxseg import Batch

    ours = contestants.programs(problem)
    size = problem.images, problem.side, problem.side
    images = jax.ShapeDtypeStruct((*size, 3), "float32")
    batch = Batch(images, jax.ShapeDtypeStruct(size, "int32"), jax.ShapeDtypeStruct(size, "bool"))
    training = problem.what == "training"
    program = jax.jit(ours.train, donate_argnums=0) if training else jax.jit(ours.logits)
    there = jax.sharding.SingleDeviceSharding(on)
    args = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=there),
        (jax.eval_shape(ours.init), batch if training else images),
    )
    return program.trace(*args).lower(lowering_platforms=("cuda",)).compile()


def kernels(text: str) -> list[Kernel]:
    """Those of a compiled program, from the text of its entry computation."""
    types, found = {}, []
    for line in text[text.index("\nENTRY ") :].splitlines():
        if not (match := _LINE.match(re.sub(r"/\*.*?\*/", "", line))):
            continue
        name, types[name], op, args, rest = match.groups()
        if op in _NO_WORK:
            continue
        if op in ("while", "call", "conditional"):
            raise NotImplementedError(f"{name} is a {op}, whose kernels are not counted")
        taken = re.findall(r"%([\w.-]+)", args)
        arrays = [x for y in (*taken, name) for x in _arrays(types[y])]
        flops = _flops(arrays) if "__cudnn$conv" in rest else 0
        found.append(Kernel(name, sum(map(_bytes, arrays)), flops))
    return found


def _arrays(text: str) -> list[tuple[str, tuple[int, ...]]]:
    """The type and the sides of each array in it."""
    return [
        (x, tuple(map(int, filter(None, sides.split(","))))) for x, sides in _ARRAY.findall(text)
    ]


def _bytes(array: tuple[str, tuple[int, ...]]) -> int:
    dtype, shape = array
    return math.prod(shape) * (8 if dtype == "pred" else int(re.search(r"\d+", dtype)[0])) // 8


def _flops(arrays: list[tuple[str, tuple[int, ...]]]) -> int:
    """Of images, a kernel and images, in any order: products and their sums."""
    shapes = [shape for _, shape in arrays if len(shape) == 4]
    kernel = min(
        shapes, key=lambda shape: math.prod(shape[:3])
    )  # cuDNN's order: after, 3, 3, before
    return 2 * math.prod(kernel) * max(math.prod(shape[:3]) for shape in shapes)


def row(problem: contestants.Problem, on) -> dict:
    program = compiled(problem, on)
    memory, found = program.memory_analysis(), kernels(program.as_text())
    return {
        "what": problem.what,
        "kernels": len(found),
        "GB of convolutions": sum(x.bytes for x in found if x.flops) / 1e9,
        "GB of others": sum(x.bytes for x in found if not x.flops) / 1e9,
        "TFLOP": sum(x.flops for x in found) / 1e12,
        "GB planned": (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 1e9,
        "least ms": 1e3 * sum(max(x.bytes / BANDWIDTH, x.flops / FLOPS) for x in found),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    # By measurements, for which there is no GPU; and JAX itself takes the CPU.
    os.environ["XLA_FLAGS"] = "--xla_gpu_autotune_level=0"
    os.environ["JAX_PLATFORMS"] = "cpu"
    widths = [32, 64, 128, 256, 512]
    problem = contestants.Problem("training", 16, 512, 21, widths, "bfloat16", "cuda")
    rows = [row(problem._replace(what=what), device()) for what in ("training", "inference")]
    facts = machine.facts(["jax", "flax"])
    RESULTS.write_text(json.dumps({**facts, "problem": problem._asdict(), "rows": rows}, indent=2))
    for line in rows:
        print(
            ", ".join(
                f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in line.items()
            )
        )


if __name__ == "__main__":
    main()
