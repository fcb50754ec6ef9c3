"""What SIGTERM and Ctrl-C mean to a training."""

from __future__ import annotations

import os
import signal
import threading
import time

_NUMBERS = (signal.SIGTERM, signal.SIGINT)
_AT_ONCE = 2.0  # seconds
NOTHING = "Stopped before training began; there was nothing to save."


class Interruption:
    """Turns the first SIGTERM or SIGINT into a wish to stop; one that comes later acts as ever.

    Not one that comes at once: what ends a job may signal a supervisor and what it started, which
    then gets the signal from both.

    Until `has_begun` there is nothing to save, and the first one ends the process with exit code 0.
    """

    def __init__(self):
        self.asked = False
        self._begun = False
        self._before = {}
        self._wakes = None

    def __enter__(self) -> Interruption:
        # Only the main thread may set handlers; elsewhere signals act as ever.
        if threading.current_thread() is threading.main_thread():
            # A handler would have to wait for code that isn't Python's, such as that by which
            # processes join; a thread does not.
            hears, self._wakes = os.pipe()
            os.set_blocking(self._wakes, False)
            self._woken = signal.set_wakeup_fd(self._wakes)
            threading.Thread(target=self._leave, args=(hears,), daemon=True).start()
            for number in _NUMBERS:
                self._before[number] = signal.signal(number, self._ask)
        return self

    def has_begun(self) -> None:
        """From here on the wish is to be heeded: it can't be lost while things are set up."""
        self._begun = True
        for number in self._before:
            signal.signal(number, self._ask)  # again, as JAX takes SIGTERM when processes join
        if self._wakes is not None:
            signal.set_wakeup_fd(self._woken)
            os.close(self._wakes)
            self._wakes = None

    def _leave(self, hears: int) -> None:
        with open(hears, "rb", buffering=0) as wakes:
            while number := wakes.read(1):
                if number[0] in _NUMBERS and not self._begun:
                    print(NOTHING, flush=True)
                    os._exit(0)

    def _ask(self, number, frame):
        now = time.monotonic()
        if not self.asked:
            self.asked, self._since = True, now
        elif now - self._since > _AT_ONCE:
            self.__exit__()
            signal.raise_signal(number)

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
        self.has_begun()
