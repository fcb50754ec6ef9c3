"""A trace of what the host and its devices do in some steps."""

from __future__ import annotations

import pathlib
from typing import Any

import jax

DIRECTORY = "profile"


class Profile:
    """Traces `steps` steps after the first that is trained, which is compiled.

    The trace lies in `profile/` of the workdir. Nothing waits for the devices but its end. Where no
    step is left to be `traced`, there is none.
    """

    def __init__(self, workdir: pathlib.Path, *, steps: int):
        self.directory, self.traced = workdir / DIRECTORY, 0
        self._steps, self._result = steps, None
        self._running = False

    def before_step(self) -> None:
        """Begins the trace, once a step has been trained."""
        if self._result is not None and self.traced == 0 < self._steps:
            jax.profiler.start_trace(self.directory, create_perfetto_trace=True)
            self._running = True

    def after_step(self, result: Any) -> None:
        """Ends the trace after the last of its steps; these are results of the one that was."""
        self._result = result
        if self._running:
            self.traced += 1
            if self.traced == self._steps:
                self.close()

    def close(self) -> None:
        """Ends a trace that goes on, when the devices have finished."""
        if self._running:
            jax.block_until_ready(self._result)
            self._running = False
            jax.profiler.stop_trace()
