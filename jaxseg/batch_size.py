"""The largest batch that a device has memory for."""

from __future__ import annotations

from collections.abc import Callable


def largest(needs: Callable[[int], int], limit: int, *, unit: int, most: int) -> int:
    """The largest `unit * 2**k` up to `most`, but `unit` at least, that needs at most `limit`.

    `needs(size)` is slow, so it is asked of two sizes, from which the answer is guessed as if it
    grew by the same for each image, and then of the guess, which is halved until it fits.

    >>> largest(lambda size: 100 + 10 * size, 500, unit=4, most=1000)
    32
    """
    sizes = {unit: needs(unit)}
    if sizes[unit] > limit:
        raise ValueError(
            f"a batch of {unit} needs {sizes[unit] / 2**20:.0f} MiB of a device, but it has "
            f"{limit / 2**20:.0f}; make data.patch_size, data.image_size or model.widths smaller, "
            "or set parts, model.remat or parallel"
        )
    size = unit
    if 2 * unit <= most:
        sizes[2 * unit] = needs(2 * unit)
        growth = max(1, sizes[2 * unit] - sizes[unit])
        while 2 * size <= most and sizes[unit] + growth * (2 * size // unit - 1) <= limit:
            size *= 2
    while size > unit:
        if size not in sizes:
            sizes[size] = needs(size)
        if sizes[size] <= limit:
            break
        size //= 2
    return size
