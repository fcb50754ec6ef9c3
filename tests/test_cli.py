"""What all commands share."""

import os
import subprocess
import sys

import pytest

RUN = """
import jax
from absl import app, flags
from jaxseg import cli

def main(_):
    with cli.work():
        print(jax.config.jax_compilation_cache_dir)

app.run(main)
"""


@pytest.mark.parametrize("told", [None, "", "elsewhere"])
def test_compiled_programs_are_kept(tmp_path, told):
    """In the user's cache, unless JAX is told where, or to keep none."""
    env = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    env.pop("JAX_COMPILATION_CACHE_DIR", None)
    if told is not None:
        env["JAX_COMPILATION_CACHE_DIR"] = told
    done = subprocess.run(
        [sys.executable, "-c", RUN], env=env, capture_output=True, text=True, check=True
    )
    kept = tmp_path / "jaxseg" / "compiled"
    assert done.stdout == (f"{kept}\n" if told is None else f"{told}\n")
    assert kept.is_dir() == (told is None)
