"""Parts of a folder: which of its files are for training, and which are kept for evaluation."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from jaxseg.data.files import DataError


class Split(NamedTuple):
    """What a split such as "train[:80%]" says: a name, and a slice or a fold of its files."""

    name: str
    start: str = ""
    stop: str = ""
    fold: tuple[int, int] | None = None  # (k, n): the k-th of n, and for -k all others


_PLACES = 2**32  # that names are hashed to
_SPLIT = re.compile(r"(?P<name>[^\[\]]*)(?:\[(?P<part>[^\[\]]*)\])?")


def parse(split: str) -> Split:
    """Reads a split: a name, a part in brackets, or both.

    A part is a slice by numbers or per cent, or `[k/n]`, the k-th of n folds; `[-k/n]` is what that
    one leaves.

    >>> parse("train[:80%]")
    Split(name='train', start='', stop='80%', fold=None)
    >>> parse("[-1/5]").fold
    (-1, 5)
    """
    match = _SPLIT.fullmatch(split)
    part = match and match["part"]
    if match and part is None:
        return Split(match["name"])
    if match and (sliced := re.fullmatch(r"(\d*%?):(\d*%?)", part)):
        return Split(match["name"], *sliced.groups())
    if match and (folded := re.fullmatch(r"(-?\d+)/(\d+)", part)):
        k, n = map(int, folded.groups())
        if not 1 <= abs(k) <= n:
            raise DataError(f"split {split!r} asks for fold {k} of {n}; folds are 1 to {n}")
        return Split(match["name"], fold=(k, n))
    raise DataError(
        f"split {split!r} is not understood; write a name, a slice such as '[:80%]' or '[10:]', or "
        "a fold such as '[1/5]', and '[-1/5]' for the others"
    )


def select(units: Sequence[str], split: Split, by: str) -> list[int]:
    """The indices of what is in a split, in their order.

    `units[i]` is what the i-th file can't be parted from: its own name, or that of its group. Units
    are counted in the order in which they come (`by="order"`), or each has its place in 0..1 from a
    hash of its name (`by="hash"`): parts are then of about the size asked for, and no unit changes
    its part when others come or go.

    >>> patients = ["ann", "ann", "bob", "eve", "eve", "joe"]
    >>> select(patients, parse("[:50%]"), "order")
    [0, 1, 2]
    >>> select(patients, parse("[-2/2]"), "order")
    [0, 1, 2]
    """
    if by not in ("order", "hash"):
        raise DataError(f'data.split_by is {by!r}, but must be "order" or "hash"')
    order = list(dict.fromkeys(units))
    if by == "hash":
        exact = [x for x in (split.start, split.stop) if x and not x.endswith("%")]
        if exact:
            raise DataError(
                f'data.split_by="hash" parts by per cent or folds, not by the number {exact[0]}; '
                'write per cent, or set data.split_by="order"'
            )
        total, places = _PLACES, {unit: _place(unit) for unit in order}
    else:
        total, places = len(order), {unit: index for index, unit in enumerate(order)}
    if split.fold is None:
        wanted, low, high = True, _bound(split.start, total, 0), _bound(split.stop, total, total)
    else:
        k, n = split.fold
        wanted, low, high = k > 0, *(round(total * x / n) for x in (abs(k) - 1, abs(k)))
    return [i for i, unit in enumerate(units) if (low <= places[unit] < high) == wanted]


def unit_of(name: str, group: str) -> str:
    """What the file of this name can't be parted from: what the pattern matches in it.

    The pattern's own group if it has one, and the whole match otherwise; without a pattern, all.

    >>> unit_of("patient07_slice112", r"patient\\d+")
    'patient07'
    """
    if not group:
        return name
    try:
        match = re.search(group, name)
    except re.error as error:
        raise DataError(f"data.group is {group!r}, which is no pattern: {error}") from error
    if match is None:
        raise DataError(f"data.group is {group!r}, which the name {name!r} does not match")
    return match[0] if not match.re.groups or match[1] is None else match[1]


def _place(unit: str) -> int:
    """A number that depends on the unit's name alone."""
    name = unit.encode(errors="surrogateescape")
    return int.from_bytes(hashlib.sha256(name).digest()[:8]) % _PLACES


def _bound(number: str, count: int, default: int) -> int:
    if number in ("", "%"):
        return default
    return round(count * int(number[:-1]) / 100) if number.endswith("%") else int(number)
