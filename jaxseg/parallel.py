"""The only file that knows devices and hosts."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxseg.batch import Batch

AXIS = "replicas"


class Runner(NamedTuple):
    """How one replica's step becomes a step of all devices of all hosts.

    `compile(step, donate_state=...)` takes `step(state, batch)` written for one replica of the axis
    `AXIS`. The compiled step takes this host's rows of the global batch as `shard` lays them out.
    State and results are the same on every device, un-stacked.
    """

    compile: Callable
    shard: Callable[[Batch], Batch]


def make_runner(parallel: str, *, check_vma: bool = True) -> Runner:
    """A runner by `jax.pmap` ("pmap") or `jit(jax.shard_map)` ("shard_map")."""
    if parallel == "pmap":
        return Runner(_compile_pmap, _shard_pmap)
    if parallel == "shard_map":
        mesh = Mesh(np.array(jax.devices()), (AXIS,))
        split = PartitionSpec(AXIS)

        def compile_(step, *, donate_state):
            mapped = jax.shard_map(
                step,
                mesh=mesh,
                in_specs=(PartitionSpec(), split),
                out_specs=PartitionSpec(),
                check_vma=check_vma,
            )
            return jax.jit(mapped, donate_argnums=0 if donate_state else ())

        def shard(batch):
            sharding = NamedSharding(mesh, split)
            return jax.tree.map(
                lambda x: jax.make_array_from_process_local_data(sharding, x), batch
            )

        return Runner(compile_, shard)
    raise ValueError(f'parallel is {parallel!r}, but must be "pmap" or "shard_map"')


def _compile_pmap(step, *, donate_state):
    return jax.pmap(
        step,
        AXIS,
        in_axes=(None, 0),
        out_axes=None,
        donate_argnums=0 if donate_state else (),
    )


def _shard_pmap(batch):
    devices = jax.local_device_count()
    sharding = NamedSharding(Mesh(np.array(jax.local_devices()), (AXIS,)), PartitionSpec(AXIS))
    rows = jax.tree.map(lambda x: x.reshape(devices, len(x) // devices, *x.shape[1:]), batch)
    return jax.device_put(rows, sharding)


class Feed:
    """Batches as `shard` lays them out on the devices, and the seconds that these waited for them.

    The next one is laid out while the devices compute, of which `feed.running` is told the results.
    They wait for a batch if they have finished when it is there; the whole time that the host
    waited for it then counts, of which it may have been a part.
    """

    def __init__(self, batches: Iterable[Batch], shard: Callable[[Batch], Batch]):
        self._batches, self._shard = iter(batches), shard
        self.running, self.waited = None, 0.0

    def __iter__(self) -> Iterator[Batch]:
        batch = self._next()
        while batch is not None:
            yield batch
            batch = self._next()

    def _next(self) -> Batch | None:
        begun = time.perf_counter()
        batch = next(self._batches, None)
        seconds = time.perf_counter() - begun
        if all(x.is_ready() for x in jax.tree.leaves(self.running)):
            self.waited += seconds
        return None if batch is None else self._shard(batch)


def check_batch_size(batch_size: int) -> None:
    """Raises unless the global batch splits evenly over all devices."""
    devices = jax.device_count()
    if batch_size < 1 or batch_size % devices:
        raise ValueError(
            f"batch_size is {batch_size}, but must be a positive multiple of the {devices} "
            f"devices; set --config.batch_size={round_up(batch_size)}"
        )


def round_up(batch_size: int) -> int:
    """The next batch size that splits evenly over all devices."""
    devices = jax.device_count()
    return max(1, -(-batch_size // devices)) * devices


def initialize(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Joins the processes of a distributed run; what is None, a known cluster says itself."""
    jax.distributed.initialize(coordinator, num_processes, process_id)


def describe() -> str:
    """The number and kind of all devices, for a person."""
    return f"{jax.device_count()} device(s) ({jax.devices()[0].device_kind})"


def run_once(function: Callable):
    """The result of a function that is compiled to run this once.

    On a CPU without optimisation: for random bits it takes longer than all the rest.
    """
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(function, compiler_options=options)()


def is_primary() -> bool:
    """Whether this is the host that writes and speaks for all."""
    return jax.process_index() == 0


def host() -> tuple[int, int]:
    """The index of this host, and the number of hosts."""
    return jax.process_index(), jax.process_count()


def any_host(flag: bool) -> bool:
    """Whether the flag is set on any host; all hosts must ask together."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


class OtherHostError(ValueError):
    """What a host raises when another one has failed."""


@contextlib.contextmanager
def together():
    """A block that all hosts run, and that fails on all if it fails on one."""
    error = None
    try:
        yield
    except (ValueError, OSError) as caught:
        error = caught
    if any_host(error is not None):
        raise error or OtherHostError("another host failed, and says why")


@contextlib.contextmanager
def leaving_at_once():
    """A block whose SystemExit ends this host without waiting for others, which then fail, too."""
    try:
        yield
    except SystemExit as stop:
        if jax.process_count() == 1:
            raise
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(stop.code)  # JAX would wait for all hosts to leave


def wait_for_all(what: str) -> None:
    """Waits until every host has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def replicate(tree):
    """Puts values that are the same on every host onto every device, as a runner returns them."""
    mesh = Mesh(np.array(jax.devices()), (AXIS,))
    sharding = NamedSharding(mesh, PartitionSpec())

    def place(x):
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(place, tree)


def on_host(tree):
    """A copy on the host of values that are the same on every device."""
    return jax.tree.map(np.array, local(tree))


def local(tree):
    """This host's own copy, on one of its devices, of values that are the same on every device."""
    return jax.tree.map(lambda x: x.addressable_data(0) if isinstance(x, jax.Array) else x, tree)
