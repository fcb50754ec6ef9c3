"""Files that are whole, or what they were before."""

import errno

import pytest

from jaxseg import writing


def write_part(path):
    before = path.read_text() if path.exists() else None
    with writing.whole(path) as fresh:
        fresh.write_text("ne")
        assert (path.read_text() if path.exists() else None) == before
        raise OSError(errno.ENOSPC, "no room")


def test_a_file_is_whole_or_as_before(tmp_path):
    """Also where there is no room for all of it; nothing is left beside it."""
    path = tmp_path / "kept.json"
    for before in (None, "old"):
        if before:
            path.write_text(before)
        with pytest.raises(OSError, match="no room") as caught:
            write_part(path)
        assert caught.value.filename == str(path)  # which the system does not say
        assert [x.read_text() for x in tmp_path.iterdir()] == [before] * bool(before)
    with writing.whole(str(path)) as fresh:
        fresh.write_text("new")
    assert [(x, x.read_text()) for x in tmp_path.iterdir()] == [(path, "new")]


def test_several_may_write_one_file(tmp_path):
    """Each has a file of its own until it is done."""
    path = tmp_path / "kept.json"
    with writing.whole(path) as first:
        first.write_text("first")
        with writing.whole(path) as second:
            second.write_text("second")
        assert path.read_text() == "second"
    assert [(x, x.read_text()) for x in tmp_path.iterdir()] == [(path, "first")]
