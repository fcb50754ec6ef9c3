"""Parts of a folder: slices, folds, hashes and groups that never meet."""

import numpy as np
import pytest

from jaxseg.data import DataError
from jaxseg.data.splits import parse, select, unit_of

# What versions change shows in the examples of the docstrings.
pytestmark = pytest.mark.exhaustive

NAMES = [f"image{i:03}" for i in range(200)]


def part(split, units=NAMES, by="order"):
    return select(units, parse(split), by)


@pytest.mark.parametrize("by", ["order", "hash"])
@pytest.mark.parametrize("n", [1, 2, 3, 5, 10])
def test_folds_part_everything(by, n):
    """Each unit is in one fold, and a fold's complement is what it leaves."""
    folds = [part(f"[{k}/{n}]", by=by) for k in range(1, n + 1)]
    assert sorted(i for fold in folds for i in fold) == list(range(200))
    for k, fold in enumerate(folds, 1):
        assert sorted(fold + part(f"[-{k}/{n}]", by=by)) == list(range(200))
        assert fold == sorted(fold)
        if by == "order":
            assert abs(len(fold) - 200 / n) < 1


def test_slices_by_hash_part_everything():
    """In about the shares asked for: 5 standard deviations of 200 draws are 0.14."""
    low, high = part("[:80%]", by="hash"), part("[80%:]", by="hash")
    assert sorted(low + high) == list(range(200))
    assert abs(len(low) / 200 - 0.8) < 0.14
    middle = part("[20%:60%]", by="hash")
    assert sorted(part("[:20%]", by="hash") + middle + part("[60%:]", by="hash")) == [*range(200)]


def test_by_hash_nothing_moves():
    """When files come, go or change places, all others stay in their part."""
    before = {NAMES[i] for i in part("[:80%]", by="hash")}
    fewer = [name for name in NAMES[::-1] if not name.endswith("7")] + ["new1", "new2"]
    after = {fewer[i] for i in part("[:80%]", fewer, by="hash")}
    assert before - after == {name for name in before if name.endswith("7")}
    assert after - before <= {"new1", "new2"}


@pytest.mark.parametrize("by", ["order", "hash"])
@pytest.mark.parametrize("pair", [("[:70%]", "[70%:]"), ("[-2/4]", "[2/4]")])
def test_groups_stay_together(by, pair):
    """No patient is in both parts, wherever its files stand."""
    patients = [f"p{i}" for i in np.random.default_rng(0).integers(0, 30, 200)]
    train, test = (part(split, patients, by) for split in pair)
    assert sorted(train + test) == list(range(200))
    assert not {patients[i] for i in train} & {patients[i] for i in test}
    assert train
    assert test


@pytest.mark.parametrize(
    ("name", "group", "unit"),
    [
        ("p07_slice1", "", "p07_slice1"),
        ("p07_slice1", r"p\d+", "p07"),
        ("p07_slice1", r"p(\d+)_", "07"),
        ("a/p07/slice1", r"^[^/]+", "a"),
        ("im3", r"im(9)?", "im"),
    ],
)
def test_units(name, group, unit):
    assert unit_of(name, group) == unit


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: parse("[6/5]"), r"fold 6 of 5"),
        (lambda: parse("[0/5]"), r"fold 0 of 5"),
        (lambda: parse("[::2]"), r"'\[::2\]' is not understood"),
        (lambda: parse("train[80%"), r"'train\[80%' is not understood"),
        (lambda: part("[:10]", by="hash"), r"not by the number 10"),
        (lambda: part("[:10]", by="size"), r"data.split_by is 'size'"),
        (lambda: unit_of("x", r"p\d+"), r"which the name 'x' does not match"),
        (lambda: unit_of("x", r"p("), r"which is no pattern"),
    ],
)
def test_what_is_not_understood(call, message):
    with pytest.raises(DataError, match=message):
        call()
