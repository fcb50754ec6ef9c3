import platform
import subprocess
import sys

import jax
import pytest

# Runs what has a temporary of 160 MB some times, and prints the pages that it was given meanwhile.
PROGRAM = """
import resource, sys
import jax, jax.numpy as jnp
from jaxseg import memory

if sys.argv[1] == "kept":
    memory.keep()
squares = jax.jit(lambda x: (x @ x.T).sum())
x = jnp.ones((6400, 8))
for repeat in range(6):
    if repeat == 3:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    squares(x).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(
    jax.__version_info__ < (0, 9), reason="the runtime of jax 0.7 gets most pages anew all the same"
)
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is not that of glibc")
def test_kept_memory_is_not_cleared_anew():
    def pages(how):
        args = [sys.executable, "-c", PROGRAM, how]
        return int(subprocess.run(args, check=True, capture_output=True, text=True).stdout)

    kept, given_back = pages("kept"), pages("given back")
    assert given_back > 1000
    assert kept < 0.1 * given_back
