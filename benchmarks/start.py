"""How long the demo takes from its command to its first step, and `import jaxseg` beside jax's.

    python benchmarks/start.py --repeats 5

Each is a process of its own: `cold` with an empty cache of compiled programs, `warm` with what that
has left in it; imports by turns. README.md has the goals.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import machine

RESULTS = pathlib.Path(__file__).parent / "results" / "start-cpu.json"
IMPORTS = ("import jax, flax.nnx", "import jax, flax.nnx, jaxseg")


def first_step(cache: str) -> float:
    """Seconds from the start of the command until metrics.jsonl has the first step."""
    with tempfile.TemporaryDirectory() as workdir:
        options = {"steps": 2, "log_every": 1, "eval_every": 2, "pictures": 0}
        options["optim.warmup_steps"] = 1
        command = [sys.executable, "-m", "jaxseg.train", f"--workdir={workdir}"]
        command += [f"--config.{name}={value}" for name, value in options.items()]
        log, begun = pathlib.Path(workdir, "metrics.jsonl"), time.perf_counter()
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": cache}
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as run:
            while not (log.exists() and log.stat().st_size):
                if run.poll():
                    raise RuntimeError(f"the command has ended with code {run.returncode}")
                time.sleep(0.01)
            return time.perf_counter() - begun


def imported(statement: str) -> float:
    """Seconds that a new interpreter takes for a statement."""
    code = (
        f"import time; begun = time.perf_counter(); {statement}; print(time.perf_counter() - begun)"
    )
    return float(
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS)
    args = parser.parse_args()
    report = machine.facts(("jaxseg", "jax", "jaxlib", "flax")) | {"repeats": args.repeats}
    print(f"{report['machine']}, load {report['load'][0]:.1f}")
    starts = {"cold": [], "warm": []}
    for _ in range(args.repeats):
        with tempfile.TemporaryDirectory() as cache:
            for seconds in starts.values():
                seconds.append(first_step(cache))
    imports = {statement: [] for statement in IMPORTS}
    for number in range(1 + args.repeats):
        for statement, seconds in imports.items():
            found = imported(statement)
            if number:  # the first reads files that the system has not in memory
                seconds.append(found)
    for name, seconds in (starts | imports).items():
        report[name] = {"median": statistics.median(seconds), "all": seconds}
        print(f"{name}: {report[name]['median']:.2f} s ({', '.join(f'{x:.2f}' for x in seconds)})")
    args.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
