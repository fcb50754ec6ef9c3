"""What befalls a run, and what is left of it: full disks, crashes, batches that can't be used."""

import errno
import io
import json
import math
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import chex
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from rich.console import Console
from test_train import (
    Run,
    arguments,
    assert_board_shows,
    assert_curves,
    assert_same_run,
    by_hand,
    count_records,
    ends,
    final_state,
    free_port,
    make_config,
    one_error_line,
    records,
    start,
)
from test_train import root as root

from jaxseg import interruption, lock, skips, supervise
from jaxseg.checkpoints import Checkpoints
from jaxseg.evaluate import make_init, make_model
from jaxseg.train import NotFiniteError, train


@pytest.fixture
def mounted(tmp_path):
    """Mounts a file system, by the arguments of `mount`, for one test."""
    folders = []

    def mount(*options):
        folder = tmp_path / f"disk{len(folders)}"
        folder.mkdir()
        done = subprocess.run(["mount", *options, str(folder)], capture_output=True, check=False)
        if done.returncode:
            pytest.skip("this needs the right to mount a file system")
        folders.append(folder)
        return folder

    yield mount
    for folder in folders:
        subprocess.run(["umount", str(folder)], check=True)


SMALL = {
    "steps": 9,
    "eval_every": 9,
    "checkpoint_every": 2,
    "pictures": 0,
    "model.widths": (4,),
    "data.image_size": (16, 16),
}


def test_disk_fills_up(root, mounted, tmp_path):
    """One line and exit code 1; with room again the run goes on to what it would have been."""
    disk = mounted("-t", "tmpfs", "-o", "size=2m", "tmpfs")
    options = {**SMALL, "steps": 40, "eval_every": 20}
    workdir = disk / "run"
    args = [*arguments(root, **options), f"--workdir={workdir}"]
    with Run(tmp_path / "full", *args) as run:
        run.wait_until((workdir / "checkpoints" / "4").exists)
        (disk / "filler").write_bytes(b"x" * (shutil.disk_usage(disk).free - 2**14))
        code, _, stderr = run.wait()
    assert code == 1, stderr
    line = one_error_line(stderr)
    assert "full" in line or "No space left" in line
    assert "start again to go on" in line
    (disk / "filler").unlink()
    with Run(tmp_path / "again", *args) as run:
        code, stdout, stderr = run.wait()
    assert code == 0, stderr
    assert "Resuming after step" in stdout
    with Run(tmp_path / "out", *arguments(root, **options), f"--workdir={tmp_path / 'x'}") as run:
        assert run.wait()[0] == 0
    assert_same_run(workdir, tmp_path / "x")
    assert_board_shows(workdir)


def test_a_supervisor_restarts(tmp_path, capfd):
    """After a crash and a kill, while there is a newer checkpoint each time; then it gives up."""
    script = """
import os, pathlib, signal, sys
folder = pathlib.Path(sys.argv[1])
tries = len(list(folder.parent.glob("try*")))
(folder.parent / f"try{tries}").touch()
if tries < 3:
    (folder / str(tries + 1)).mkdir(parents=True)
if tries == 1:
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(1)
"""
    folder = tmp_path / "checkpoints"
    command = [sys.executable, "-c", script, str(folder)]
    assert supervise.supervise(command, folder, retries=2, final=(2, 3)) == 1
    lines = capfd.readouterr().err.splitlines()
    assert lines == [
        "training ended with exit code 1; starting again (try 1 of 2) from checkpoint 1",
        "training was killed by SIGKILL (perhaps for want of memory); starting again (try 1 of 2) "
        "from checkpoint 2",
        "training ended with exit code 1; starting again (try 1 of 2) from checkpoint 3",
        "training ended with exit code 1; starting again (try 2 of 2) from checkpoint 3",
        "training ended with exit code 1; giving up, as 2 restarts brought no newer checkpoint",
    ]


@pytest.mark.parametrize("code", [0, 2, 3])
def test_a_supervisor_lets_be(tmp_path, capfd, code):
    """What ended well, and what would come to the same again."""
    command = [sys.executable, "-c", f"raise SystemExit({code})"]
    assert supervise.supervise(command, tmp_path, retries=3, final=(2, 3)) == code
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_supervisor_passes_signals_on(tmp_path, number):
    """And starts nothing again after them."""
    script = """
import sys, signal, time, pathlib
def stop(*_):
    sys.exit(0 if sys.argv[2] == "well" else 1)
signal.signal(int(sys.argv[3]), stop)
pathlib.Path(sys.argv[1]).touch()
time.sleep(60)
"""
    for how in ("well", "badly"):
        ready = tmp_path / how
        inner = [sys.executable, "-c", script, str(ready), how, str(int(number))]
        outer = (
            "import pathlib, signal, sys\nfrom jaxseg.supervise import supervise\n"
            # Of what a shell runs in the background, SIGINT is ignored.
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            f"sys.exit(supervise({inner!r}, pathlib.Path({str(tmp_path)!r}), retries=3, "
            "final=(2, 3)))"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        run = subprocess.Popen([sys.executable, "-c", outer], env=environment)
        while not ready.exists():
            time.sleep(0.01)
        run.send_signal(number)
        assert run.wait(20) == (how == "badly")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_before_training_begins(tmp_path, number):
    """While it waits for a process that never comes, in code that isn't Python's."""
    args = ["--num_processes=2", "--process_id=1", f"--workdir={tmp_path / 'run'}"]
    with socket.socket() as silent:
        silent.bind(("localhost", 0))
        silent.listen()  # and answers nothing
        silent.settimeout(60)
        port = silent.getsockname()[1]
        with Run(tmp_path / "out", f"--coordinator=localhost:{port}", *args) as run:
            connection, _ = silent.accept()  # now it waits
            begun = time.monotonic()
            with connection:
                run.signal(number)
                code, stdout, stderr = run.wait(30)
    assert time.monotonic() - begun < 10
    assert (code, stdout, stderr) == (0, f"{interruption.NOTHING}\n", "")
    assert not (tmp_path / "run").exists()


def test_a_stop_before_a_supervised_command_can_heed_it(tmp_path):
    """Ends well, as the first signal that kills the child found nothing to save."""
    ready = tmp_path / "ready"
    script = f"import pathlib, time; pathlib.Path({str(ready)!r}).touch(); time.sleep(60)"
    outer = (
        "import pathlib, sys\nfrom jaxseg.supervise import supervise\n"
        f"sys.exit(supervise({[sys.executable, '-c', script]!r}, pathlib.Path('x'), retries=3, "
        "final=(2, 3)))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    run = subprocess.Popen(
        [sys.executable, "-c", outer], env=environment, stderr=subprocess.PIPE, text=True
    )
    while not ready.exists():
        time.sleep(0.01)
    run.send_signal(signal.SIGTERM)
    assert run.communicate(timeout=20)[1] == f"{interruption.NOTHING}\n"
    assert run.returncode == 0


# The weight of step 5, counted from 1, is so large that the norm of the gradient overflows.
OVERFLOW = {"loss": (("cross_entropy", ((3, 1.0), (4, 3e38), (5, 1.0))),), "not_finite": "skip"}


@pytest.mark.parametrize("kind", ["another run", "moving average"])
def test_a_batch_is_skipped_of_a_run_that_is_taught(kind, root, tmp_path):
    """The teacher stays who it was, and loggers have what they have of a run that knew the step."""
    options = {**SMALL, **OVERFLOW, "checkpoint_every": 3, "log_every": 2, "augment.noise": 0.1}
    options |= {"teacher.loss": (("kl_divergence", 1.0),), "loggers": ("tensorboard", "csv")}
    if kind == "another run":
        taught = make_config(root, **{**SMALL, "steps": 3, "eval_every": 3})
        train(taught, tmp_path / "teacher", console=Console(file=io.StringIO()))
        options["teacher.workdir"] = str(tmp_path / "teacher")
    config = make_config(root, **options)
    found, foreknown = tmp_path / "found", tmp_path / "foreknown"
    train(config, found, console=Console(file=io.StringIO()))
    assert list(skips.read(found)) == [5]
    foreknown.mkdir()
    shutil.copy(found / skips.FILE, foreknown)
    train(config, foreknown, console=Console(file=io.StringIO()))
    assert_same_run(found, foreknown)
    lines = [line for line in records(found) if "skipped" not in line]
    assert [x["step"] for x in lines if "loss/teacher/kl_divergence" in x] == [2, 4, 6, 8, 9]
    for workdir in (found, foreknown):
        assert_curves(workdir, lines)
        assert (workdir / "teacher.json").exists() == (kind == "another run")
    if kind == "another run":
        told = [json.loads((x / "teacher.json").read_text()) for x in (found, foreknown)]
        assert told[0] == told[1] == {"workdir": str(tmp_path / "teacher"), "step": 3}


@pytest.mark.parametrize("devices", [1, 8])
def test_a_batch_is_skipped(root, tmp_path, devices):
    """The step counts but changes nothing; and a kill, and older checkpoints, end in the same."""
    options = {**SMALL, **OVERFLOW, "checkpoint_every": 3, "log_every": 2, "keep_latest": 9}
    workdir = tmp_path / "run"
    args = arguments(root, **options)
    with Run(tmp_path / "out", *args, f"--workdir={workdir}", devices=devices) as run:
        code, stdout, stderr = run.wait()
    assert code == 0, stderr
    said = r"^step 5/9  skipped: .* is (inf|nan); its batch was jaxseg_nuclei train example \d"
    assert re.search(said, stdout, re.MULTILINE)
    lines = records(workdir)
    assert [x["step"] for x in lines] == [2, 4, 5, 6, 8, 9, 9]
    assert lines[2]["skipped"] in stdout
    assert all(np.isfinite(x.get("loss", 0)) for x in lines)
    (step, state), _ = final_state(workdir)
    counts = {int(x) for x in jax.tree.leaves(state.opt_state) if x.shape == ()}
    assert (step, int(state.step), counts) == (9, 9, {8})
    assert list(skips.read(workdir)) == [5]

    older = tmp_path / "older"
    shutil.copytree(workdir, older)
    for at in (6, 9):
        shutil.rmtree(older / "checkpoints" / str(at))
    with Run(tmp_path / "killed", *args, f"--workdir={older}", devices=devices) as run:
        run.wait_until((older / "checkpoints" / "6").exists)
        run.process.kill()
    with Run(tmp_path / "again", *args, f"--workdir={older}", devices=devices) as run:
        assert run.wait()[0] == 0, run.text()
    assert_same_run(older, workdir)


def test_hosts_skip_what_the_primary_reads(tmp_path):
    """Though another sees the file as it was before, as on a file system that is not yet alike."""
    script = """
import pathlib, sys
import jax
coordinator, index, folder = sys.argv[1:]
jax.distributed.initialize(coordinator, 2, int(index))
from jaxseg import parallel, skips
folder = pathlib.Path(folder, index)
folder.mkdir()
print(skips.read(folder))
if parallel.is_primary():
    skips.add(folder, 5, "the loss is ∞")
print(skips.read(folder))
"""
    address = f"localhost:{free_port()}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", script, address, str(index), str(tmp_path)],
            env={**environment, "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    for said, errors, code in ends(runs):
        assert code == 0, errors
        assert said.splitlines()[-2:] == ["{}", "{5: 'the loss is ∞'}"]


@pytest.mark.long
def test_two_processes_skip_as_one(root, tmp_path):
    """With the skips of one process, and its numbers to rounding; from an older checkpoint, too."""
    args = arguments(root, **SMALL, **OVERFLOW, log_every=1, keep_latest=9)
    alone = tmp_path / "alone"
    with Run(tmp_path / "out", *args, f"--workdir={alone}", devices=2) as run:
        assert run.wait()[0] == 0, run.text()
    workdir = tmp_path / "run"
    for _, errors, code in ends(start(by_hand(2), *args, f"--workdir={workdir}")):
        assert code == 0, errors
    assert list(skips.read(workdir)) == list(skips.read(alone)) == [5]
    numbers = [
        [{name: x for name, x in line.items() if name != "skipped"} for line in records(each)]
        for each in (workdir, alone)
    ]
    for found, wanted in zip(*numbers, strict=True):
        assert found == pytest.approx(wanted, rel=2e-3)
    again = tmp_path / "again"
    shutil.copytree(workdir, again)
    for at in (6, 8, 9):
        shutil.rmtree(again / "checkpoints" / str(at), ignore_errors=True)
    for _, errors, code in ends(start(by_hand(2), *args, f"--workdir={again}")):
        assert code == 0, errors
    assert_same_run(again, workdir)


def test_a_skipped_step_leaves_the_state(root, tmp_path):
    """But for its number."""
    options = {**SMALL, **OVERFLOW, "steps": 6, "checkpoint_every": 1, "keep_latest": 9}
    config = make_config(root, **options)
    train(config, tmp_path, console=Console(file=io.StringIO()))
    states = {}
    for step in (4, 5, 6):
        alone = tmp_path / f"only{step}"
        shutil.copytree(tmp_path / "checkpoints" / str(step), alone / str(step))
        template = jax.eval_shape(make_init(config, make_model(config)))
        saved = Checkpoints(alone)
        _, states[step] = saved.restore_latest(template)
        saved.close()
    assert int(states[5].step) == 5
    chex.assert_trees_all_equal(states[5][1:], states[4][1:])
    with pytest.raises(AssertionError):
        chex.assert_trees_all_equal(states[6][1:], states[5][1:])


@pytest.mark.parametrize("text", ["", "[5]", '{"five": "loss is nan"}'])
def test_damaged_skips_are_named(text, tmp_path):
    (tmp_path / skips.FILE).write_text(text)
    with pytest.raises(ValueError, match=rf"^{tmp_path / skips.FILE} is damaged .*; delete it, "):
        skips.read(tmp_path)


def test_too_many_skips_stop(root, tmp_path):
    """A loss that is never finite is no matter of a batch."""
    (tmp_path / skips.FILE).write_text(json.dumps(dict.fromkeys(range(1, 11), "loss is nan")))
    options = {**SMALL, "steps": 12, "loss": (("cross_entropy", math.inf),), "not_finite": "skip"}
    with pytest.raises(NotFiniteError, match="stopped at step 11"):
        train(make_config(root, **options), tmp_path, console=Console(file=io.StringIO()))


def test_two_do_not_train_in_one_workdir(root, tmp_path, monkeypatch):
    """The second waits for the first to be gone, and says whose workdir it is if it stays."""
    config = make_config(root, **{**SMALL, "steps": 1, "optim.warmup_steps": 0})
    console = Console(file=io.StringIO())
    monkeypatch.setattr(lock, "_DYING", 1.0)
    with lock.Lock(tmp_path / "lock"):
        begun = time.monotonic()
        with pytest.raises(BlockingIOError, match=f"another process trains in {tmp_path}; "):
            train(config, tmp_path, console=console)
        assert time.monotonic() - begun > 1.0
    assert not (tmp_path / "metrics.jsonl").exists()
    monkeypatch.setattr(lock, "_DYING", 60.0)
    dying = lock.Lock(tmp_path / "lock")
    dying.acquire()
    threading.Timer(0.5, dying.release).start()
    train(config, tmp_path, console=console)
    assert (tmp_path / "done").exists()
    with lock.Lock(tmp_path / "lock") as free:  # after it
        assert free.held


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_file_systems_without_locks(tmp_path, monkeypatch, number):
    """Are trained on all the same; another error is one."""

    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    lock.claim(lock.Lock(tmp_path / "lock"), "")
    number = errno.EIO
    with pytest.raises(OSError, match="Input/output error"):
        lock.claim(lock.Lock(tmp_path / "lock"), "")


def test_a_lock_goes_with_its_process(tmp_path):
    """Killed, it leaves the file, but nobody holds it."""
    script = "import sys, time; from pathlib import Path; from jaxseg.lock import Lock\n"
    script += "lock = Lock(Path(sys.argv[1])); lock.acquire(); print(1, flush=True); time.sleep(60)"
    path = tmp_path / "lock"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        later = lock.Lock(path)
        assert not later.acquire(blocking=False)
        process.kill()
    assert later.acquire(blocking=False)
    later.release()


def test_a_workdir_that_can_only_be_read(root, mounted, tmp_path):
    """One line that names it, and exit code 2."""
    disk = mounted("-t", "tmpfs", "-o", "ro", "tmpfs")
    with Run(tmp_path / "out", *arguments(root, **SMALL), f"--workdir={disk / 'run'}") as run:
        code, _, stderr = run.wait()
    assert code == 2, stderr
    assert "Read-only file system" in one_error_line(stderr)
    assert str(disk) in one_error_line(stderr)


def test_a_full_disk_is_let_be(mounted):
    """By `on_full_disk`, a checkpoint that has no room is left out, and the next one is tried."""
    disk = mounted("-t", "tmpfs", "-o", "size=1m", "tmpfs")
    said = []
    saved = Checkpoints(disk, keep_latest=1, on_full_disk=said.append)
    rng = np.random.default_rng(0)

    def state(count):
        return {"weights": rng.normal(size=count).astype(np.float32)}

    saved.save(1, state(2**16))
    saved.save(2, state(2**18))
    last = state(2**8)
    saved.save(3, last)
    saved.close()
    message = "the disk is full, so that a checkpoint can't be saved; the last good one is"
    assert said == [f"{message} {disk / '1'}"]
    saved = Checkpoints(disk)
    step, found = saved.restore_latest(jax.eval_shape(lambda: last))
    saved.close()
    assert step == 3
    np.testing.assert_array_equal(found["weights"], last["weights"])
    assert [path.name for path in disk.iterdir()] == ["3"]


def test_a_full_disk_before_a_skip(root, tmp_path, monkeypatch):
    """With "go_on", the checkpoint that was being written is done without, and the skip goes on."""
    full = iter([False, True])  # the first is that of the save itself
    wait = ocp.CheckpointManager.wait_until_finished

    def no_room_once(manager):
        wait(manager)
        if next(full, False):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(ocp.CheckpointManager, "wait_until_finished", no_room_once)
    options = {**SMALL, **OVERFLOW, "steps": 6, "eval_every": 6, "checkpoint_every": 3}
    screen = io.StringIO()
    config = make_config(root, **options, log_every=6, disk_full="go_on")
    train(config, tmp_path, console=Console(file=screen, width=500))
    assert "the disk is full, so that a checkpoint can't be saved" in screen.getvalue()
    assert list(skips.read(tmp_path)) == [5]
    assert final_state(tmp_path)[0][0] == 6


TWO = {**SMALL, "steps": 200, "eval_every": 100, "checkpoint_every": 4, "log_every": 4}


@pytest.mark.long
@pytest.mark.parametrize("to", [(0,), (1,), (0, 1)])
def test_either_process_may_be_asked_to_stop(root, tmp_path, to):
    """Both save the same step and leave with 0."""
    workdir = tmp_path / "run"
    runs = start(by_hand(2), *arguments(root, **TWO), f"--workdir={workdir}")
    while count_records(workdir) < 2 and runs[0].poll() is None:
        time.sleep(0.01)
    begun = time.monotonic()
    for index in to:
        runs[index].send_signal(signal.SIGTERM)
    (stdout, errors, code), (_, errors2, code2) = ends(runs)
    assert (code, code2) == (0, 0), errors + errors2
    assert time.monotonic() - begun < 30
    assert f"Stopped after step {final_state(workdir)[0][0]} of 200" in stdout


@pytest.mark.long
@pytest.mark.parametrize("to", [0, 1])
def test_two_processes_stop_in_an_evaluation(root, tmp_path, to):
    """Both break it off, whoever was asked, and make it first when they go on."""
    options = {**SMALL, "steps": 8, "eval_every": 4, "log_every": 1, "eval_batch_size": 2}
    args = arguments(root, **options, **{"data.eval_split": "train"})
    straight, workdir = tmp_path / "straight", tmp_path / "run"
    for _, errors, code in ends(start(by_hand(2), *args, f"--workdir={straight}")):
        assert code == 0, errors
    runs = start(by_hand(2), *args, f"--workdir={workdir}")
    while count_records(workdir) < 4 and runs[0].poll() is None:
        time.sleep(0.001)
    runs[to].send_signal(signal.SIGTERM)
    (stdout, errors, code), (_, errors2, code2) = ends(runs)
    assert (code, code2) == (0, 0), errors + errors2
    assert "Stopped after step 4 of 8, which is saved; it is scored first" in stdout
    assert [x["step"] for x in records(workdir)] == [1, 2, 3, 4]
    for _, errors, code in ends(start(by_hand(2), *args, f"--workdir={workdir}")):
        assert code == 0, errors
    assert_same_run(workdir, straight)
    assert_board_shows(workdir)


@pytest.mark.long
@pytest.mark.parametrize("victims", [(0,), (1,), (0, 1)])
def test_of_two_some_are_killed(root, tmp_path, victims):
    """Another ends, too; supervised, both start again, and the end is the straight run's."""
    options = {**TWO, "steps": 60, "eval_every": 20}
    args = arguments(root, **options)
    for _, errors, code in ends(start(by_hand(2), *args, f"--workdir={tmp_path / 'straight'}")):
        assert code == 0, errors
    workdir = tmp_path / "run"
    runs = start(by_hand(2), *args, f"--workdir={workdir}", "--retries=5")
    while count_records(workdir) < 3 and runs[0].poll() is None:
        time.sleep(0.01)
    for victim in victims:
        (child,) = children(runs[victim].pid)
        os.kill(child, signal.SIGKILL)
    for _, errors, code in ends(runs):
        assert code == 0, errors
        assert "starting again (try 1 of 5)" in errors
    assert_same_run(workdir, tmp_path / "straight")
    assert_board_shows(workdir)


@pytest.mark.long
def test_supervised_processes_are_asked_to_stop(root, tmp_path):
    """All of them, as a cluster does: both save the same step, end well, and go on to the end."""
    options = {**TWO, "steps": 60, "eval_every": 20}
    args = [*arguments(root, **options), "--retries=5"]
    for _, errors, code in ends(start(by_hand(2), *args, f"--workdir={tmp_path / 'straight'}")):
        assert code == 0, errors
    workdir = tmp_path / "run"
    runs = start(by_hand(2), *args, f"--workdir={workdir}")
    while count_records(workdir) < 3 and runs[0].poll() is None:
        time.sleep(0.01)
    for run in runs:
        run.send_signal(signal.SIGTERM)
    (stdout, errors, code), (_, errors2, code2) = ends(runs)
    assert (code, code2) == (0, 0), errors + errors2
    assert "starting again" not in errors + errors2
    assert re.search(r"Stopped after step \d+ of 60, which is saved", stdout)
    assert not (workdir / "done").exists()
    for _, errors, code in ends(start(by_hand(2), *args, f"--workdir={workdir}")):
        assert code == 0, errors
    assert_same_run(workdir, tmp_path / "straight")


def children(pid):
    return list(map(int, pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


@pytest.mark.long
def test_fewer_devices_go_on(root, tmp_path):
    """From two processes to one, and from 8 devices to 4: to rounding the same run."""
    options = {**SMALL, "steps": 8, "eval_every": 8, "checkpoint_every": 4, "log_every": 1}
    straight, cut, both = tmp_path / "straight", tmp_path / "cut", tmp_path / "both"
    args = arguments(root, **options)
    with Run(tmp_path / "out", *args, f"--workdir={straight}") as run:
        assert run.wait()[0] == 0, run.text()
    shutil.copytree(straight, cut)
    for _, errors, code in ends(start(by_hand(2), *args, f"--workdir={both}")):
        assert code == 0, errors
    for workdir in (cut, both):
        shutil.rmtree(workdir / "checkpoints" / "8")
    rest = {"cut": 4, "both": 1}
    for name, devices in rest.items():
        more = [*args, f"--workdir={tmp_path / name}"]
        with Run(tmp_path / "out", *more, devices=devices) as run:
            code, stdout, stderr = run.wait()
        assert code == 0, stderr
        assert "Resuming after step 4" in stdout
        found = [x for x in records(tmp_path / name) if "loss" in x]
        wanted = [x for x in records(straight) if "loss" in x]
        for x, y in zip(found, wanted, strict=True):
            assert x == pytest.approx(y, rel=2e-3)
