"""Batches are laid out ahead of their use, and waiting for them is told from computing."""

import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg import parallel


class Running:
    """What a device is computing until some time."""

    def __init__(self, seconds):
        self._end = time.perf_counter() + seconds

    def is_ready(self):
        return time.perf_counter() >= self._end


def slow(number, seconds):
    for index in range(number):
        time.sleep(seconds)
        yield index


def fed(step, read, number=8):
    """The feed after steps of so many seconds, on batches that take so many to read."""
    feed = parallel.Feed(slow(number, read), lambda batch: batch)
    found = []
    for batch in feed:
        feed.started(Running(step))
        found.append(batch)
    assert found == list(range(number))
    return feed


def test_a_busy_device_waits_for_nothing():
    """The host waits for batches, but they are there before the device is through."""
    feed = fed(step=0.08, read=0.02)
    assert feed.waited < 2 * 0.02 + 0.01  # for the first


def test_an_idle_device_waits():
    feed = fed(step=0.0, read=0.02)
    assert feed.waited >= 8 * 0.02


class Unfinished:
    """What a device is through with when someone waits for it."""

    done = False

    def is_ready(self):
        return self.done

    def block_until_ready(self):
        self.done = True


def test_few_batches_are_on_the_devices():
    """Those of the last steps and the next one, without a wait for the steps before these."""
    running, laid_out = [], []

    def shard(batch):
        laid_out.append(1 + sum(not x.done for x in running))
        return batch

    feed = parallel.Feed(range(8), shard)
    for _ in feed:
        running.append(Unfinished())
        feed.started(running[-1])
    assert laid_out == [1, 2, 3, 4, 4, 4, 4, 4]
    assert parallel.LAID_OUT == 4


def test_batches_are_laid_out_for_each_runner():
    """Every row is on a device, in order, before the step asks for it."""
    batch = {"rows": np.arange(16).reshape(16, 1)}
    for kind in ("pmap", "shard_map"):
        runner = parallel.make_runner(kind)
        (found,) = parallel.Feed([batch], runner.shard)
        assert isinstance(found["rows"], jax.Array)
        assert len(found["rows"].sharding.device_set) == 8
        np.testing.assert_array_equal(found["rows"].reshape(16, 1), batch["rows"])
        step = runner.compile(
            lambda state, x: jax.lax.psum(state + jnp.sum(x["rows"]), parallel.AXIS),
            donate_state=False,
        )
        assert int(parallel.on_host(step(runner.place(0), found))) == 120
