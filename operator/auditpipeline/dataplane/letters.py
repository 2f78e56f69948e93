"""The dead letters of a spool: what is kept of each, and how many. Dead letters must neither stop events nor fill the
disk, so that they have a budget, a sixteenth of the spool's limit:

    no output (bodies that cannot be read)      a quarter of it
    each output                                 an equal part of the rest
    outputs that are gone, together             as much as no output

and each at least 1 MiB. The oldest letter goes for a newer one of the same output, never for one of another: whoever
sends what cannot be read must not be able to push out what an output has refused. The newest letter always stays, since
its sender was told that it is kept. What goes is counted by output in the side table `dead_removed`; the events in it
stay counted as lost.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Callable, Collection
from typing import NamedTuple

NO_OUTPUT = ""
"""What has no output (an unreadable body), and what belonged to outputs that are gone, is counted under this name."""
_LEAST = 2**20
_ROW = 100
"""Bytes that a letter takes besides its data, reason and key."""
_REASON, _KEY = 4096, 1024
_SIZE = f"size + length(reason) + length(key) + {_ROW}"
_GONE = "output <> '' AND output NOT IN (SELECT output FROM cursors)"


class Dead(NamedTuple):
    """Something that cannot be delivered: kept as it came, with the reason. `key` as in core.event.delivery_key.
    `events` is how many events it stands for, as far as they could be counted: so many are counted as lost."""

    output: str
    reason: str
    data: bytes
    key: str = ""
    events: int = 1


class Budget(NamedTuple):
    """How many bytes dead letters may take, in a spool with that limit and that number of outputs."""

    max_bytes: int
    outputs: int

    @property
    def none(self) -> int:
        """Those of no output."""
        return max(self.max_bytes // 64, _LEAST)

    @property
    def each(self) -> int:
        """Those of one output."""
        return max(self.max_bytes * 3 // 64 // max(1, self.outputs), _LEAST)


def sizes(db: sqlite3.Connection) -> dict[str, int]:
    """The bytes that letters take, by output."""
    return dict(db.execute(f"SELECT output, sum({_SIZE}) FROM dead GROUP BY output"))  # noqa: S608


def store(db: sqlite3.Connection, letter: Dead, compress: Callable[[bytes], bytes], most: int, whole: bool) -> int:
    """Keeps a letter; the bytes that it takes. One of no output, of which no event can be made any more, is cut if it
    is larger than `most`; without `whole`, only its size and digest are kept."""
    content, reason = letter.data, letter.reason
    if letter.output == NO_OUTPUT and not whole:
        content = b""
        reason += f" ({len(letter.data)} bytes, SHA-256 {hashlib.sha256(letter.data).hexdigest()}; not kept)"
    data = compress(content)
    if letter.output == NO_OUTPUT and len(data) > most:
        data = compress(content[: most // 2])
        reason += f" (of {len(content)} bytes the first {most // 2} are kept)"
    reason, key = _text(reason, _REASON), _text(letter.key, _KEY)
    row = (time.time(), letter.output, reason, key, len(data), data)
    db.execute("INSERT INTO dead (at, output, reason, key, size, data) VALUES (?, ?, ?, ?, ?, ?)", row)
    return len(data) + len(reason) + len(key) + _ROW


def bound(db: sqlite3.Connection, output: str, excess: int) -> tuple[int, int]:
    """Removes the oldest letters of an output, of at least `excess` bytes if there are as many; how many, and the bytes
    that they took."""
    return _bound(db, "output = ?", (output,), excess)


def bound_gone(db: sqlite3.Connection, excess: int) -> tuple[int, int]:
    """As `bound`, for the letters of all outputs that are gone."""
    return _bound(db, _GONE, (), excess)


def _bound(db: sqlite3.Connection, which: str, values: tuple[str, ...], excess: int) -> tuple[int, int]:
    letters, found = 0, 0
    query = (
        f"DELETE FROM dead WHERE id = (SELECT min(id) FROM dead WHERE {which}) "  # noqa: S608
        f"AND id < (SELECT max(id) FROM dead WHERE {which}) RETURNING {_SIZE}"
    )
    while found < excess:
        removed = db.execute(query, values * 2).fetchall()
        if not removed:
            break
        letters, found = letters + 1, found + removed[0][0]
    return letters, found


def note_removed(db: sqlite3.Connection, output: str, letters: int) -> None:
    """Counts letters that went."""
    db.execute("UPDATE counters SET value = value + ? WHERE name = 'dead_removed'", (letters,))
    db.execute(
        "INSERT INTO dead_removed VALUES (?, ?) ON CONFLICT DO UPDATE SET letters = letters + excluded.letters",
        (output, letters),
    )


def forget_removed(db: sqlite3.Connection, outputs: Collection[str]) -> None:
    """Counts what went of outputs that are gone under no output from now on."""
    for name in outputs:
        for (letters,) in db.execute("DELETE FROM dead_removed WHERE output = ? RETURNING letters", (name,)).fetchall():
            db.execute(
                "INSERT INTO dead_removed VALUES (?, ?) ON CONFLICT DO UPDATE SET letters = letters + excluded.letters",
                (NO_OUTPUT, letters),
            )


def _text(text: str, most: int) -> str:
    """Text that SQLite takes, whatever a sender has put into it."""
    return text[:most].replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
