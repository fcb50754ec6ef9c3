"""Eight virtual CPU devices, strict shapes, and a compilation cache that later runs reuse."""

import os
import pathlib

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    cache = pathlib.Path.home() / ".cache" / "jaxseg-tests"
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache)  # for the processes that tests start
    jax.config.update("jax_compilation_cache_dir", str(cache))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)

SHARED = pathlib.Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(autouse=True, scope="module")
def few_programs():
    """Drops the compiled programs of a module after it.

    Each takes mappings of memory, of which Linux allows a process 65530; past that it crashes.
    """
    yield
    jax.clear_caches()


@pytest.fixture
def shared_data():
    """The folder of real data beside the repository; skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("the folder of real data, ../shared/data, is absent")
    return SHARED


@pytest.fixture
def x64():
    """A test in float64; jax 0.7 keeps the context manager elsewhere."""
    enabled = jax.enable_x64(True) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64()
    with enabled:
        yield
