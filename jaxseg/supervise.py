"""Starts a command again when it has crashed."""

from __future__ import annotations

import pathlib
import signal
import subprocess
import sys
from collections.abc import Collection, Sequence

from jaxseg.interruption import NOTHING


def supervise(
    command: Sequence[str], checkpoints: pathlib.Path, *, retries: int, final: Collection[int]
) -> int:
    """Runs a command until it ends well, and returns its exit code.

    After a crash (a signal, or an exit code that is neither 0 nor one of `final`) it is started
    again, and goes on from its newest checkpoint: at most so many `retries` in a row without a
    checkpoint newer than before. SIGTERM, SIGINT and SIGHUP are passed on, and no restart follows.
    A command that the first of them kills could not heed it yet, and has nothing to save.
    """
    child, asked = None, 0

    def forward(number, frame):
        nonlocal asked
        asked += 1
        if child is not None and child.poll() is None:
            # A run saves at SIGTERM, but ends at once when its terminal is closed.
            child.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)

    before = {
        number: signal.signal(number, forward)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN  # as nohup has it
    }
    try:
        newest, tries = _newest(checkpoints), 0
        while True:
            # In an own session, or Ctrl-C would reach it twice: from the terminal, and from here.
            child = subprocess.Popen(command, start_new_session=True)
            if asked:  # before there was a child to pass it on to
                child.terminate()
            code = child.wait()
            if asked == 1 and code in (-signal.SIGTERM, -signal.SIGINT):
                _say(NOTHING)
                return 0
            if code in (0, *final) or asked:
                return code if code >= 0 else 128 - code
            reached = _newest(checkpoints)
            tries = 1 if reached > newest else tries + 1
            newest = max(newest, reached)
            what = f"training {_ending(code)}"
            if tries > retries:
                _say(f"{what}; giving up, as {retries} restarts brought no newer checkpoint")
                return code if code >= 0 else 128 - code
            _say(
                f"{what}; starting again (try {tries} of {retries}) "
                f"{f'from checkpoint {reached}' if reached else 'from the first step'}"
            )
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _newest(checkpoints: pathlib.Path) -> int:
    """The step of the newest checkpoint, or 0."""
    if not checkpoints.is_dir():
        return 0
    return max((int(path.name) for path in checkpoints.iterdir() if path.name.isdigit()), default=0)


def _ending(code: int) -> str:
    if code == -signal.SIGKILL:
        return "was killed by SIGKILL (perhaps for want of memory)"
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
