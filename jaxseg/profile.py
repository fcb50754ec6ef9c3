"""A trace of what the host and its devices do in some steps."""

from __future__ import annotations

import pathlib

import jax

DIRECTORY = "profile"


class Profile:
    """Traces `steps` steps after the first, which is compiled, into `profile/` of the workdir.

    Nothing waits for the devices but the end of the trace. With no step nothing is traced.
    """

    def __init__(self, workdir: pathlib.Path, *, start: int, steps: int):
        self.directory = workdir / DIRECTORY
        self._first, self._last = start + 1, start + 1 + steps
        self._running = None

    def after(self, step: int, result: jax.Array) -> None:
        """Begins or ends the trace after a step, of which this is a result."""
        if self._first == step < self._last:
            jax.profiler.start_trace(self.directory, create_perfetto_trace=True)
            self._running = result
        elif self._running is not None:
            self._running = result
            if step == self._last:
                self.close()

    def close(self) -> None:
        """Ends a trace that goes on, when the devices have finished."""
        if self._running is not None:
            jax.block_until_ready(self._running)
            self._running = None
            jax.profiler.stop_trace()
