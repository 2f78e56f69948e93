"""The layout of a spool's file: its tables, a connection to it, and whether it is what it says.

`store` explains the tables. A file is believed when it was closed cleanly, or has passed SQLite's check.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from auditpipeline.core.errors import AuditPipelineError

LAYOUT = 1
Span = tuple[int, int]
"""Numbers of events: the first one, and the one behind the last."""
_SCHEMA = """
CREATE TABLE events (first INTEGER PRIMARY KEY, count INTEGER NOT NULL, received REAL NOT NULL, filter TEXT NOT NULL,
                     size INTEGER NOT NULL, data BLOB NOT NULL);
CREATE TABLE cursors (output TEXT PRIMARY KEY, next INTEGER NOT NULL, delivered INTEGER NOT NULL, at REAL NOT NULL);
CREATE TABLE dead (id INTEGER PRIMARY KEY, at REAL NOT NULL, output TEXT NOT NULL, reason TEXT NOT NULL,
                   key TEXT NOT NULL, size INTEGER NOT NULL, data BLOB NOT NULL);
CREATE TABLE lost (output TEXT, reason TEXT, events INTEGER NOT NULL, PRIMARY KEY (output, reason));
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
INSERT INTO counters VALUES ('received', 0), ('delivered', 0), ('dead_removed', 0), ('clean', 0);
PRAGMA user_version = 1;
"""
_SIDE = (
    "CREATE TABLE IF NOT EXISTS dead_removed (output TEXT PRIMARY KEY, letters INTEGER NOT NULL)",
    "CREATE INDEX IF NOT EXISTS dead_output ON dead (output)",
)
_ADDED = ("dead_removed", "gaps")
"""What this release has added; `numbers` makes `gaps`. The release before neither needs nor reads it: an upgrade can be
rolled back."""
_WAL_HEADER = 32


def connect(path: Path, scratch: bool = False) -> sqlite3.Connection:
    """A connection in WAL mode that syncs each commit; the file is made with mode 0600 where it is not there. A
    `scratch` file is one that is thrown away unless it is finished: no journal on disk, nothing synced."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    # Of no effect on a file that is there. A row of 400 events is some 200 kB, so that larger pages are fewer.
    connection.execute("PRAGMA page_size = 8192")
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute(f"PRAGMA journal_mode = {'MEMORY' if scratch else 'WAL'}")
    connection.execute(f"PRAGMA synchronous = {'OFF' if scratch else 'FULL'}")
    # Some builds overwrite with zeros whatever is deleted: every event would be written twice.
    connection.execute("PRAGMA secure_delete = OFF")
    connection.execute(f"PRAGMA journal_size_limit = {64 * 2**20}")
    return connection


def make(path: Path) -> sqlite3.Connection:
    """A connection to an empty spool in a new `scratch` file."""
    connection = connect(path, scratch=True)
    connection.executescript(_SCHEMA)
    return connection


def open_checked(path: Path) -> sqlite3.Connection:
    """A connection to a spool that is whole, made if there is none; sqlite3.DatabaseError if it is damaged. Its numbers
    are for `numbers.settle` to look at."""
    if is_beheaded(path):
        raise sqlite3.DatabaseError("the file is gone or empty, and its journal is not")
    connection = connect(path)
    try:
        if not _is_laid_out(connection, path):
            connection.executescript(f"BEGIN;{_SCHEMA}COMMIT;")
        elif not counters(connection).get("clean"):
            # As quick as `quick_check`, since there is next to no index: 1 s for 0.5 GiB, that the disk bounds.
            found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if found != "ok":
                raise sqlite3.DatabaseError(str(found))
        # After a clean stop nothing is checked, but the disk may have changed since: what `Store` reads at its start.
        connection.execute("SELECT sum(size) FROM events").fetchone()
        connection.execute("SELECT * FROM cursors").fetchall()
        connection.execute("SELECT sum(size) FROM dead").fetchone()
        connection.execute("UPDATE counters SET value = 0 WHERE name = 'clean'")
        for addition in _SIDE:
            connection.execute(addition)
    except BaseException:
        connection.close()
        raise
    return connection


def is_beheaded(path: Path) -> bool:
    """Whether there is a journal and no file: SQLite would delete it, with all that was committed last."""
    return _size(path) == 0 and _size(Path(f"{path}-wal")) > _WAL_HEADER


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _is_laid_out(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether the file has our tables; False where it is new. sqlite3.DatabaseError where a version is said that the
    tables belie: a bit of it may have flipped, and no other release would help. AuditPipelineError where one would."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    tables = _tables(connection)
    if version == 0 and not tables:
        return False
    with closing(sqlite3.connect(":memory:")) as blank:
        blank.executescript(_SCHEMA)
        ours = _tables(blank)
    if version == LAYOUT and ours.keys() <= tables.keys():
        return True
    if version not in (0, LAYOUT) and {name: sql for name, sql in tables.items() if name not in _ADDED} != ours:
        damage = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if damage == "ok":
            raise AuditPipelineError(f"{path} has layout {version}, this release reads {LAYOUT}: run the other release")
    raise sqlite3.DatabaseError(f"layout {version} with the tables {', '.join(sorted(tables)) or 'of none'}")


def _tables(connection: sqlite3.Connection) -> dict[str, str]:
    return dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'"))


def counters(connection: sqlite3.Connection) -> dict[str, int]:
    """The counters by name."""
    return dict(connection.execute("SELECT name, value FROM counters"))


def known_gaps(connection: sqlite3.Connection) -> list[Span]:
    """The numbers that no row has, and that are counted as lost (`numbers`)."""
    if "gaps" not in _tables(connection):
        return []
    return connection.execute("SELECT first, next FROM gaps ORDER BY first").fetchall()


def beyond(position: int, spans: Iterable[Span]) -> int:
    """How many of the numbers are not before the position."""
    return sum(max(0, behind - max(first, position)) for first, behind in spans)
