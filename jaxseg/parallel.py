"""The only file that knows devices and hosts."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import math
import os
import re
import sys
import threading
import time
import traceback
import typing
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jax import lax
from jax._src import distributed  # whose store of keys has no public name
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxseg.batch import Batch
from jaxseg.config import Config

AXIS = "replicas"
# How XLA and tensorstore begin to say what befell them, rather than what was wrongly asked for.
BEFALLEN = re.compile("(UNKNOWN|INTERNAL|UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED): ")
LAID_OUT = 4  # batches that a device has at once, of steps that were started and the next one
_COUNT = "xla_force_host_platform_device_count"
_FAILED = "jaxseg/failed"  # the key under which a host that fails tells its exit code
_EVERY, _HEARD = 0.5, 2.0  # seconds: how often hosts look for it, and until all have
_SMALL = 2**10  # numbers of an array up to which it is not worth to be split


class Runner(NamedTuple):
    """How one pure step becomes a step of all devices of all hosts.

    `compile(step, donate_state=...)` takes `step(state, batch)`, written for one replica of
    `axis_name`, or for the global batch where that is None. With `donate_state` the step returns a
    new state first, which takes the memory of the old one. The compiled step takes the rows that
    this host reads as `shard` lays them out, and the state as `place` does; so many `constants` may
    follow, which lie as the state. What is no state is the same on every device, un-stacked. The
    `lower` of a compiled step takes the state and constants as shapes, too, as that of `jax.jit`.
    """

    axis_name: str | None
    replicas: int  # that the rows of the global batch are split over
    share: tuple[int, int]  # the part of these rows that this host reads, and of how many
    compile: Callable
    shard: Callable[[Batch], Batch]
    layout: Callable  # the sharding of each array of a state
    spread: Callable[[Batch], Batch]  # within a step: a batch that was changed, laid out again
    alone: Callable  # the state, and what lays out a batch of one, for a step that is jitted alone

    def place(self, state):
        """Puts a state that is the same on every host onto the devices."""
        return _placed(state, self.layout(state))


def make_runner(parallel: str, *, check_vma: bool = True) -> Runner:
    """A runner, by what is split over the devices.

    - "pmap" and "shard_map": the batch. Each device has the whole state, and runs the step of one
      replica, by `jax.pmap` or `jit(jax.shard_map)`.
    - "fsdp": the batch and the state: parameters, optimizer state and moving averages (Zhao et al.
      2023, arXiv:2304.11277; Rajbhandari et al. 2020, arXiv:1910.02054), each array along its
      longest axis that splits evenly. XLA's partitioner gathers what a layer needs.
    - "spatial": the first side of the images, their height or the depth of volumes, so that an
      image may be larger than a device has memory for. The partitioner exchanges the rows that
      convolutions need of their neighbours.
    """
    makers = {
        "pmap": _by_pmap,
        "shard_map": partial(_by_shard_map, check_vma=check_vma),
        "fsdp": _fully_sharded,
        "spatial": _spatial,
    }
    if parallel not in makers:
        raise ValueError(
            f"parallel is {parallel!r}, but must be one of {', '.join(map(repr, makers))}"
        )
    return makers[parallel](Mesh(np.array(jax.devices()), (AXIS,)))


def split_cores(config: Config) -> None:
    """Takes the cores of a CPU for devices, where there are no others and JAX was told of none.

    XLA of jax 0.10 runs many a layer on one core alone, so replicas of the model keep more of them
    busy: as many as the batch splits over, and at most 8, since each has the whole state. Other
    versions are left alone: 0.7.2, 0.11.0 and 0.12.0 were slower by it, on two cores. To be called
    before JAX is used: later nothing changes, nor does it with several processes.
    """
    if jax.__version_info__[:2] != (0, 10):
        return
    told = jax.config.jax_num_cpu_devices > 0 or _COUNT in os.environ.get("XLA_FLAGS", "")
    replicated = config.parallel in ("pmap", "shard_map")
    if told or not replicated or jax.distributed.is_initialized():
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    count = min(8, cores or 1)
    if type(config.batch_size) is int and config.parts > 0:
        numbers = range(count, 0, -1)
        count = next((n for n in numbers if config.batch_size % (n * config.parts) == 0), 1)
    with contextlib.suppress(RuntimeError):  # JAX is in use
        jax.config.update("jax_num_cpu_devices", count)


def _by_pmap(mesh: Mesh) -> Runner:
    def compile_(step, *, donate_state, constants=0):
        donated = 0 if donate_state else ()
        axes = (None, 0, *(None,) * constants)
        mapped = jax.pmap(step, AXIS, in_axes=axes, out_axes=None, donate_argnums=donated)
        if jax.process_count() > 1:  # where it lowers no shapes, but arrays alone
            compile_same = _by_shard_map(mesh, check_vma=False).compile
            same = compile_same(step, donate_state=donate_state, constants=constants)
            mapped.lower = lambda state, batch, *rest: same.lower(state, of_all(batch), *rest)
        return mapped

    devices = jax.local_device_count()
    own = NamedSharding(Mesh(np.array(jax.local_devices()), (AXIS,)), PartitionSpec(AXIS))

    def shard(batch):
        rows = jax.tree.map(lambda x: x.reshape(devices, len(x) // devices, *x.shape[1:]), batch)
        return jax.device_put(rows, own)

    def of_all(batch):
        """The shapes of the global batch."""
        rows = NamedSharding(mesh, PartitionSpec(AXIS))

        def shape(x):
            sides = mesh.size * x.shape[1], *x.shape[2:]
            return jax.ShapeDtypeStruct(sides, x.dtype, sharding=rows)

        return jax.tree.map(shape, batch)

    return _of_replicas(mesh, compile_, shard)


def _by_shard_map(mesh: Mesh, check_vma: bool) -> Runner:
    def compile_(step, *, donate_state, constants=0):
        mapped = jax.shard_map(
            step,
            mesh=mesh,
            in_specs=(PartitionSpec(), PartitionSpec(AXIS), *(PartitionSpec(),) * constants),
            out_specs=PartitionSpec(),
            check_vma=check_vma,
        )
        return jax.jit(mapped, donate_argnums=0 if donate_state else ())

    return _of_replicas(mesh, compile_, partial(_own_rows, mesh))


def _of_replicas(mesh: Mesh, compile_: Callable, shard: Callable) -> Runner:
    return Runner(
        axis_name=AXIS,
        replicas=mesh.size,
        share=host(),
        compile=compile_,
        shard=shard,
        layout=partial(_same, mesh),
        spread=_as_is,
        alone=_on_one_device,
    )


def _fully_sharded(mesh: Mesh) -> Runner:
    def along_longest(x):
        sides = [(side, axis) for axis, side in enumerate(x.shape) if side % mesh.size == 0]
        if math.prod(x.shape) < _SMALL or not sides:
            return NamedSharding(mesh, PartitionSpec())
        _, axis = max(sides)
        return NamedSharding(mesh, PartitionSpec(*(None,) * axis, AXIS))

    def layout(state):
        return jax.tree.map(along_longest, state)

    return Runner(
        axis_name=None,
        replicas=mesh.size,
        share=host(),
        compile=partial(_partitioned, mesh, layout),
        shard=partial(_own_rows, mesh),
        layout=layout,
        spread=partial(
            lax.with_sharding_constraint, shardings=NamedSharding(mesh, PartitionSpec(AXIS))
        ),
        alone=_by_one_host(lambda batch: _placed(batch, _same(mesh, batch))),
    )


def _spatial(mesh: Mesh) -> Runner:
    whole = NamedSharding(mesh, PartitionSpec())

    def by_height(x):
        if x.shape[1] % mesh.size:
            raise ValueError(
                f'images are {"x".join(map(str, x.shape[1:]))}, but parallel="spatial" splits '
                f"their first side over {mesh.size} devices; make data.image_size, data.patch_size "
                f"and augment.crop_size multiples of {mesh.size} there"
            )
        return NamedSharding(mesh, PartitionSpec(None, AXIS))

    def shardings(batch):
        # All but `sizes`, which alone have no pixels.
        return jax.tree.map(lambda x: by_height(x) if x.ndim > 2 else whole, batch)

    def shard(batch):
        return _placed(batch, shardings(batch))

    layout = partial(_same, mesh)
    return Runner(
        axis_name=None,
        replicas=1,
        share=(0, 1),
        compile=partial(_partitioned, mesh, layout),
        shard=shard,
        layout=layout,
        spread=lambda batch: lax.with_sharding_constraint(batch, shardings(batch)),
        alone=_by_one_host(shard),
    )


def _partitioned(
    mesh: Mesh, layout: Callable, step: Callable, *, donate_state: bool, constants: int = 0
) -> Callable:
    """A step of the global batch, whose work XLA splits as its arguments lie."""
    del constants  # which are split as they lie, too

    def run(state, batch, *constants):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # by which `ops` know of it
            found = step(state, batch, *constants)
        if not donate_state:
            return lax.with_sharding_constraint(found, _same(mesh, found))
        state, found = found
        return (
            lax.with_sharding_constraint(state, layout(state)),
            lax.with_sharding_constraint(found, _same(mesh, found)),
        )

    return jax.jit(run, donate_argnums=0 if donate_state else ())


def compile_ahead(lowered: jax.stages.Lowered) -> concurrent.futures.Future | None:
    """Compiles a step in a thread, for its first call; a process that ends before waits for it.

    JAX does not promise that a call finds what was lowered and compiled before it: tests watch.
    None, and nothing is compiled, before jax 0.8, whose jax.pmap is no jit, and where there are
    several hosts, of which jax.pmap lowers something else, and which might wait for each other.
    """
    if jax.process_count() > 1 or jax.__version_info__ < (0, 8):
        return None
    thread = concurrent.futures.ThreadPoolExecutor(1)
    compiling = thread.submit(lowered.compile)
    thread.shutdown(wait=False)
    return compiling


def _own_rows(mesh: Mesh, batch: Batch) -> Batch:
    rows = NamedSharding(mesh, PartitionSpec(AXIS))
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(rows, x), batch)


def _same(mesh: Mesh, tree):
    return jax.tree.map(lambda _: NamedSharding(mesh, PartitionSpec()), tree)


def _placed(tree, shardings):
    """Puts values that every host has in full onto the devices."""

    def put(x, sharding):
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(put, tree, shardings)


def _as_is(batch: Batch) -> Batch:
    return batch


def _by_one_host(shard: Callable) -> Callable:
    """By all devices, as the state lies; but one of several hosts has not all of them."""
    return (lambda state: (state, shard)) if jax.process_count() == 1 else _on_one_device


def _on_one_device(state) -> tuple:
    return local(state), _as_is


class Feed:
    """Batches as `shard` lays them out on the devices, and the seconds that these waited for them.

    The next one is laid out while the devices compute, of which `started` is told the results; but
    not before the devices are through with all but `LAID_OUT` - 1 others, which take memory, too.
    They wait for a batch if they have finished when it is there; the whole time that the host
    waited for it then counts, of which it may have been a part.
    """

    def __init__(self, batches: Iterable[Batch], shard: Callable[[Batch], Batch]):
        self._batches, self._shard = iter(batches), shard
        self._running, self.waited = collections.deque(), 0.0

    def __iter__(self) -> Iterator[Batch]:
        batch = self._next()
        while batch is not None:
            yield batch
            batch = self._next()

    def started(self, results) -> None:
        """Takes what a step gives of the last batch, which may not be computed yet."""
        self._running.append(results)

    def _next(self) -> Batch | None:
        begun = time.perf_counter()
        batch = next(self._batches, None)
        seconds = time.perf_counter() - begun
        if all(x.is_ready() for results in self._running for x in jax.tree.leaves(results)):
            self.waited += seconds
        while len(self._running) >= LAID_OUT:
            jax.block_until_ready(self._running.popleft())
        return None if batch is None else self._shard(batch)


def check_batch_size(batch_size: int, runner: Runner, parts: int = 1) -> None:
    """Raises unless the global batch splits evenly over the replicas, and on each into parts."""
    if type(batch_size) is not int:
        raise ValueError(f'batch_size is {batch_size!r}, but must be an integer, or "auto"')
    if parts < 1:
        raise ValueError(f"parts is {parts}, but must be at least 1")
    right = round_up(batch_size, runner, parts)
    if batch_size != right:
        each = f", and on each into {parts} parts" if parts > 1 else ""
        raise ValueError(
            f"batch_size is {batch_size}, but must be a positive multiple of "
            f"{runner.replicas * parts}, as it is split over {runner.replicas} devices{each}; set "
            f"--config.batch_size={right}"
        )


def round_up(batch_size: int, runner: Runner, parts: int = 1) -> int:
    """The next batch size that splits evenly over the replicas, and on each into parts."""
    unit = runner.replicas * parts
    return max(1, -(-batch_size // unit)) * unit


def memory() -> int:
    """The bytes that the programs of a device may take: nine tenths of what it has.

    Of a CPU, which others use, half of the machine's, shared by what is taken for devices.
    """
    device, *others = jax.local_devices()
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] * 9 // 10
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return machine // 2 // (1 + len(others))


def smallest(number: int) -> int:
    """The smallest of the numbers that the hosts have; all must ask together."""
    if jax.process_count() == 1:
        return number
    return int(np.min(multihost_utils.process_allgather(np.asarray(number))))


@contextlib.contextmanager
def joined(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> Iterator[None]:
    """A block of the processes of a distributed run; what is None, a known cluster says itself.

    If another one fails in its own, as `leaving_at_once` tells, this one ends with its exit code.
    """
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    except ValueError as error:
        raise ValueError(
            f"the processes can't be joined: {str(error).rstrip('.')}; where no cluster says them, "
            "give --coordinator, --num_processes and --process_id"
        ) from error
    left = threading.Event()
    ears = threading.Thread(target=_hear, args=(left,), daemon=True)
    ears.start()
    try:
        yield
    finally:
        left.set()
        ears.join(_HEARD)


def _hear(left: threading.Event) -> None:
    while not left.wait(_EVERY):
        code = _told()
        if code is not None:
            print(f"error: {OtherHostError.LINE}", file=sys.stderr, flush=True)
            _leave(code)


def _told() -> int | None:
    """The exit code that a failed host has told, if one has."""
    client = distributed.global_state.client
    try:
        return None if client is None else int(client.key_value_try_get(_FAILED))
    except jax.errors.JaxRuntimeError:  # there is none, or nobody to ask
        return None


def _leave(code: int) -> typing.NoReturn:
    """Ends this host, and tells the others."""
    client = distributed.global_state.client
    if client is not None:  # as it is on all, unless their processes were joined in another way
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # if another has told before
            client.key_value_set(_FAILED, str(code))
    sys.stdout.flush()
    sys.stderr.flush()
    if is_primary():  # whose process has what is told, and takes the others down with it
        time.sleep(_HEARD)
    # JAX would wait for all hosts to leave.
    os._exit(code)


def exit_code_of_others(default: int) -> int:
    """That of the host that failed first, if it could tell; for one that has seen it fail."""
    end = time.monotonic() + _HEARD
    while (code := _told()) is None and time.monotonic() < end:
        time.sleep(_EVERY)
    return default if code is None else code


def describe() -> str:
    """The number and kind of all devices, and of how many processes, for a person."""
    count = jax.process_count()
    of = f" of {count} processes" if count > 1 else ""
    return f"{jax.device_count()} device(s) ({jax.devices()[0].device_kind}){of}"


def run_once(function: Callable, runner: Runner, *args):
    """The state that a function makes of the arguments, placed; it is compiled to run this once.

    On a CPU without optimisation: for random bits it takes longer than all the rest.
    """
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    shardings = runner.layout(jax.eval_shape(function, *args))
    return jax.jit(function, out_shardings=shardings, compiler_options=options)(*args)


def is_primary() -> bool:
    """Whether this is the host that writes and speaks for all."""
    return jax.process_index() == 0


def host() -> tuple[int, int]:
    """The index of this host, and the number of hosts."""
    return jax.process_index(), jax.process_count()


def from_primary(text: str) -> str:
    """What the primary says, on all hosts, which must ask together."""
    if jax.process_count() == 1:
        return text
    said = np.frombuffer(text.encode(), np.uint8)
    # First how long it is, since all hosts have to bring an array of the same shape.
    size = int(multihost_utils.broadcast_one_to_all(np.int32(said.size)))
    own = said if is_primary() else np.zeros(size, np.uint8)
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(own))).decode()


def any_host(flag: bool) -> bool:
    """Whether the flag is set on any host; all hosts must ask together."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


class OtherHostError(ValueError):
    """What a host raises when another one has failed."""

    LINE = "another host failed, and says why"


def lost_another(error: Exception) -> bool:
    """Whether an error is what a host sees of another one that has gone.

    XLA raises it as JaxRuntimeError or as ValueError, by where it waits; orbax makes it a
    TimeoutError.
    """
    if jax.process_count() == 1:
        return False
    of_xla = isinstance(error, ValueError) and BEFALLEN.match(str(error)) is not None
    return of_xla or isinstance(error, jax.errors.JaxRuntimeError | TimeoutError)


@contextlib.contextmanager
def together():
    """A block that all hosts run, and that fails on all if it fails on one."""
    error = None
    try:
        yield
    except (ValueError, OSError) as caught:
        error = caught
    if any_host(error is not None):
        raise error or OtherHostError(OtherHostError.LINE)


@contextlib.contextmanager
def leaving_at_once():
    """A block whose exceptions end this host, and soon those that are `joined` with it, too."""
    try:
        yield
    except BaseException as error:
        if jax.process_count() == 1:
            raise
        if not isinstance(error, SystemExit):
            traceback.print_exc()
        _leave(error.code if isinstance(error, SystemExit) else 1)


def wait_for_all(what: str) -> None:
    """Waits until every host has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def on_host(tree):
    """A copy on the host of values that are the same on every host, or of a state.

    All hosts must ask together where a state is split over them.
    """

    return jax.tree.map(lambda x: np.array(_whole(x)), tree)


def local(tree):
    """The same on one of this host's devices; without a copy where that has it in full."""
    return jax.tree.map(lambda x: jax.device_put(_whole(x)), tree)


def _whole(x):
    if not isinstance(x, jax.Array):
        return x
    if x.is_fully_replicated:
        return x.addressable_data(0)
    if x.is_fully_addressable:
        return np.asarray(x)
    return multihost_utils.process_allgather(x, tiled=True)
