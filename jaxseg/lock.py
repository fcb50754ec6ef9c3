"""A lock that goes with the process that holds it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import pathlib
import time
from collections.abc import Iterator

_DYING = 10.0  # seconds that a process which was killed may take to be gone
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}  # of a file system


class Lock:
    """A file that one process at a time holds; of one that dies, the system takes it back.

    A child process that inherits the `fileno` holds it, too.
    """

    def __init__(self, path: pathlib.Path):
        self._path = path
        self._file = None

    @property
    def held(self) -> bool:
        return self._file is not None

    def acquire(self, *, blocking: bool = True) -> bool:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as undo:
            file = undo.enter_context(self._path.open("a"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if blocking else fcntl.LOCK_NB))
            except BlockingIOError:
                return False
            undo.pop_all()
        self._file = file
        return True

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def fileno(self) -> int:
        return self._file.fileno()

    @contextlib.contextmanager
    def later(self) -> Iterator[Lock]:
        """A block in which it may be acquired, and after which it is not held."""
        try:
            yield self
        finally:
            self.release()

    def __enter__(self) -> Lock:
        self.acquire()
        return self

    def __exit__(self, *_) -> None:
        self.release()


def claim(lock: Lock, what: str) -> None:
    """Acquires a lock unless it is held already; one that stays another's is a BlockingIOError.

    Where the file system has no locks, it goes without.
    """
    end = time.monotonic() + _DYING
    try:
        while not (lock.held or lock.acquire(blocking=False)):
            if time.monotonic() > end:
                raise BlockingIOError(errno.EAGAIN, what)
            time.sleep(0.1)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
