"""How a file that others may read is written: whole or not at all."""

from __future__ import annotations

import contextlib
import os
import pathlib
import secrets
from collections.abc import Iterator


@contextlib.contextmanager
def whole(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """A block that writes the file it is given, which becomes `path` when the block ends.

    Until then, or where the block fails or is killed, `path` is what it was before. Threads,
    processes and hosts may write the same file at once: the last one counts.

    >>> import tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "scores.json")
    >>> with whole(path) as fresh:
    ...     written = fresh.write_text("{}")
    >>> path.read_text(), fresh.exists()
    ('{}', False)
    """
    path = pathlib.Path(path)
    # Beside it, as a file moves in one go only within a file system; its own, though others write.
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield fresh
        os.replace(fresh, path)
    except BaseException as error:
        fresh.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            error.filename = os.fspath(path)  # where there is no room, for one
        raise
