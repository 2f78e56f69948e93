"""When a place of a file counts as unreadable for good."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from auditpipeline.dataplane.lasting import SECONDS, Lasting


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def error(code: int) -> sqlite3.OperationalError:
    """As sqlite3 raises it."""
    found = sqlite3.OperationalError("disk I/O error")
    found.sqlite_errorcode = code
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that can be read."""
    path = tmp_path / "spool.sqlite"
    path.write_bytes(b"x" * 8192)
    return path


def test_a_place_fails_for_good_if_nothing_of_it_succeeds(file: Path) -> None:
    """From its first failure on; others do not count."""
    clock = Clock()
    lasting = Lasting(file, clock)
    unread = error(sqlite3.SQLITE_IOERR_READ)
    assert not lasting.failed(1, unread)
    clock.now = SECONDS
    assert not lasting.failed(2, unread)
    assert lasting.failed(1, unread)
    lasting.works(1)
    assert not lasting.failed(1, unread)
    clock.now = 2 * SECONDS
    assert lasting.failed(1, unread)


@pytest.mark.parametrize("code", [sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY])
def test_what_is_no_failed_read_passes(file: Path, code: int) -> None:
    """A disk that cannot be written, or is full, has lost nothing."""
    clock = Clock()
    lasting = Lasting(file, clock)
    assert not lasting.failed(1, error(code))
    clock.now = SECONDS
    assert not lasting.failed(1, error(code))


def test_a_disk_that_reads_nothing_at_all_is_waited_for(file: Path) -> None:
    """A file whose head cannot be read either is not given up."""
    clock = Clock()
    lasting = Lasting(file, clock)
    assert not lasting.failed(1, error(sqlite3.SQLITE_IOERR_READ))
    clock.now = SECONDS
    file.unlink()
    assert not lasting.failed(1, error(sqlite3.SQLITE_IOERR_READ))


def test_the_places_that_are_remembered_are_bounded(file: Path) -> None:
    """An output that loses what waits never comes back to the place where it was."""
    lasting = Lasting(file, Clock())
    for place in range(1000):
        lasting.failed(place, error(sqlite3.SQLITE_IOERR_READ))
    assert len(lasting._since) < 100
