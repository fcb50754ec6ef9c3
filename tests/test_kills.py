"""Twenty kills at random moments change nothing. As a script it also keeps what happened:

PYTHONPATH=. python tests/test_kills.py results/kills.json
"""

import contextlib
import json
import pathlib
import random
import signal
import sys
import tempfile
import time

import jax
import pytest
from test_train import (
    OPTIONS,
    STEPS,
    Run,
    arguments,
    assert_board_shows,
    assert_same_run,
    board,
)
from test_train import root as root

import jaxseg.config
from jaxseg.data import open_source

KILLS = 20
KINDS = ("start", "step", "save", "evaluation")


def unfinished(workdir):
    """The checkpoints that are being written, or were when a run was killed."""
    parts = (workdir / "checkpoints").glob("*tmp*")
    with contextlib.suppress(FileNotFoundError):  # one that is finished meanwhile
        return {(part.name, part.stat().st_ino) for part in parts}
    return set()


def evaluating(workdir):
    """Whether the last line is of training, at a step that is evaluated."""
    found = records_so_far(workdir)
    return bool(found) and "loss" in found[-1] and found[-1]["step"] % OPTIONS["eval_every"] == 0


def kill_in(kind, run, workdir, dice):
    """Kills a run some steps on, in a moment of the kind; what the kill came into, or None."""
    left = unfinished(workdir)

    def shown():
        return run.text()[0].count("\nstep ")

    def saving():
        return unfinished(workdir) - left

    wanted = 0 if kind == "start" else dice.randint(1, 4)
    inside = {
        "start": lambda: True,
        "step": lambda: not saving() and not evaluating(workdir),
        "save": saving,
        "evaluation": lambda: evaluating(workdir),
    }[kind]
    if not run.wait_until(lambda: shown() >= wanted and inside()):
        return None
    time.sleep(dice.random() * (2 if kind == "start" else 0.02))
    run.process.kill()
    if run.wait()[0] == 0:
        return None
    if not shown():  # while it set up, restored or compiled
        return "start"
    if saving():
        return "save"
    return "evaluation" if evaluating(workdir) else "step"


def assert_equal_runs(found, wanted):
    assert_same_run(found, wanted)
    assert_board_shows(found)
    scalars, images = board(found)
    assert images == board(wanted)[1]
    assert {step for name, step in scalars if name == "loss"} == set(range(1, STEPS + 1))


def kill_often(root, folder, seed):
    """Kills runs until there were so many, each in one of the kinds of moments; what happened."""
    dice = random.Random(seed)
    straight = folder / "straight"
    with Run(folder / "out", *arguments(root), f"--workdir={straight}") as run:
        assert run.wait()[0] == 0, run.text()
    assert_board_shows(straight)
    killed, runs = [], 0
    while len(killed) < KILLS:
        runs += 1
        workdir = folder / f"run{runs}"
        code = None
        while code != 0:
            meant = KINDS[len(killed) % len(KINDS)]
            with Run(folder / "out", *arguments(root), f"--workdir={workdir}") as run:
                hit = kill_in(meant, run, workdir, dice) if len(killed) < KILLS else None
                code, _, stderr = run.wait()
            assert code in (0, -signal.SIGKILL), stderr
            assert "Traceback" not in stderr
            if hit is not None:
                line = max((x["step"] for x in records_so_far(workdir)), default=0)
                killed.append({"run": runs, "meant": meant, "hit": hit, "after_step": line})
        assert_equal_runs(workdir, straight)
    return killed, runs


def records_so_far(workdir):
    """The lines of metrics.jsonl, of which a kill may have cut off the last."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


@pytest.mark.long
def test_twenty_kills(root, tmp_path):
    killed, _ = kill_often(root, tmp_path, seed=random.randrange(10**6))
    assert {x["hit"] for x in killed} == set(KINDS), killed


def main(output):
    seed = random.randrange(10**6)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        open_source(jaxseg.config.Data(root=str(folder / "tfds")), "train")
        killed, runs = kill_often(folder / "tfds", folder, seed)
    hits = {kind: sum(x["hit"] == kind for x in killed) for kind in KINDS}
    summary = {
        "what": f"{KILLS} SIGKILLs over {runs} runs of {STEPS} steps, each run ended equal to the "
        "straight one: state, metrics.jsonl, TensorBoard and pictures",
        "seed": seed,
        "jax": jax.__version__,
        "hits": hits,
        "kills": killed,
    }
    pathlib.Path(output).write_text(json.dumps(summary, indent=1) + "\n")
    print(summary["what"], hits)


if __name__ == "__main__":
    main(*sys.argv[1:])
