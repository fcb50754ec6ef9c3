"""What all commands share."""

import errno
import os
import subprocess
import sys

import jax
import pytest
from PIL import UnidentifiedImageError

from jaxseg import cli
from jaxseg.data import DataError

RUN = """
import jax
from absl import app, flags
from jaxseg import cli

def main(_):
    with cli.work():
        print(jax.config.jax_compilation_cache_dir)
        print(jax.config.jax_persistent_cache_min_compile_time_secs)

app.run(main)
"""


@pytest.mark.parametrize("told", [None, "", "elsewhere"])
def test_compiled_programs_are_kept(tmp_path, told):
    """In the user's cache, also short ones, unless JAX is told where, or to keep none."""
    env = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    env.pop("JAX_COMPILATION_CACHE_DIR", None)
    env["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "1.0"
    if told is not None:
        env["JAX_COMPILATION_CACHE_DIR"] = told
    done = subprocess.run(
        [sys.executable, "-c", RUN], env=env, capture_output=True, text=True, check=True
    )
    kept = tmp_path / "jaxseg" / "compiled"
    assert done.stdout == (f"{kept}\n0.1\n" if told is None else f"{told}\n1.0\n")
    assert kept.is_dir() == (told is None)


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError("Timed out while waiting for async_commit_complete barrier."),
        ValueError("UNKNOWN: Gloo AllGather failed: Read error: Connection reset by peer"),
        jax.errors.JaxRuntimeError("INTERNAL: Barrier failed because: task is set to ERROR"),
    ],
)
def test_a_host_that_lost_another_can_be_started_again(error, monkeypatch, capsys):
    """It leaves at once, with one line and not as one whose arguments are wrong."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(os, "_exit", sys.exit)
    with pytest.raises(SystemExit) as left, cli.work():
        raise error
    assert left.value.code == cli.FAILED
    said = capsys.readouterr().err
    assert said == f"error: another host has failed or can't be reached: {error}\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.EIO, "Input/output error", "metrics.jsonl"), 1),
        (OSError(errno.ESTALE, "Stale file handle", "image.png"), 1),
        (TimeoutError("timed out"), 1),
        (ValueError("UNKNOWN: Failed to write: [OS error 5: EIO Input/output error]"), 1),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "data"), 2),
        (OSError(errno.EROFS, "Read-only file system", "runs"), 2),
        (UnidentifiedImageError("cannot identify image file"), 2),
        (ValueError("steps is 0, but must be at least 1"), 2),
    ],
)
def test_only_what_may_pass_is_tried_again(error, code):
    """Of the file system, also where it is the cause of what is said of a file."""
    caused = DataError("image.png can't be read")
    caused.__cause__ = error
    for raised in (error, caused):
        with pytest.raises(SystemExit) as left, cli.work():
            raise raised
        assert left.value.code == code


def test_arguments_of_one_of_several_are_no_matter_of_another(monkeypatch, capsys):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(os, "_exit", sys.exit)
    with pytest.raises(SystemExit) as left, cli.work():
        raise ValueError("steps is 0, but must be at least 1")
    assert left.value.code == cli.USAGE_ERROR
    assert capsys.readouterr().err == "error: steps is 0, but must be at least 1\n"


def test_a_defect_of_one_of_several_ends_it_at_once(monkeypatch, capsys):
    """Where JAX would wait for all to leave, before the traceback is seen."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(os, "_exit", sys.exit)
    with pytest.raises(SystemExit) as left, cli.work():
        raise KeyError("gone")
    assert left.value.code == cli.FAILED
    assert "KeyError: 'gone'" in capsys.readouterr().err
