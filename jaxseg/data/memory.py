"""The memory that batches and decoded files leave, for those that follow."""

import ctypes
import functools
import platform


@functools.cache
def keep() -> None:
    """Keeps what is freed with this process, where its allocator is that of glibc.

    Which otherwise gives large arrays back to the system. That clears each page that it gives out
    again, and takes as long for it as OpenCV for a JPEG file.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-1, 2**30)  # M_TRIM_THRESHOLD
        mallopt(-3, 2**25)  # M_MMAP_THRESHOLD, the most that it takes
