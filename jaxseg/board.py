"""TensorBoard's events, on disk as soon as they are written."""

from __future__ import annotations

import pathlib
import time

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog


class Board:
    """The events of a run that begins before `purge_step`, whose later ones TensorBoard forgets.

    tensorboardX's own SummaryWriter writes in a thread that `flush` does not wait for: a kill loses
    what was thought safe, and a full disk ends the thread without the run knowing.
    """

    def __init__(self, folder: pathlib.Path, *, purge_step: int):
        folder.mkdir(parents=True, exist_ok=True)
        # Files are read in the order of their names, and two may begin in one second.
        self._events = EventsWriter(str(folder / "events"), f".{time.time_ns()}")
        self._write(purge_step, session_log=SessionLog(status=SessionLog.START))
        self.flush()

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self._write(step, summary=summary.scalar(name, value))

    def add_image(self, name: str, image: np.ndarray, step: int) -> None:
        """Adds an image `[height, width, channels]` of bytes."""
        self._write(step, summary=summary.image(name, image, dataformats="HWC"))

    def flush(self) -> None:
        self._events.flush()

    def close(self) -> None:
        self._events.close()

    def _write(self, step: int, **what) -> None:
        self._events.write_event(Event(wall_time=time.time(), step=step, **what))
