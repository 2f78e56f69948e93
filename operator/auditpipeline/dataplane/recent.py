"""The newest rows of the spool, in memory: an output that has caught up needs neither the disk nor zstd.

    spool   0 ......................... 800 | 1200 | 1600 | 1617        end=2017
    recent                                  | 1200 | 1600 | 1617        at most so many bytes of lines
                                                  ^ archive=1400        read from here
             ^ siem=312                                                 read from the disk

Rows come in when they are committed, joined up and in order; they go when every output has passed them, or from the
oldest on when there are too many bytes. Whoever asks for an event that is not here reads the disk.
"""

from __future__ import annotations

from collections import deque

from auditpipeline.dataplane.lines import as_lines
from auditpipeline.dataplane.store import Chunk


class Recent:
    """The newest rows, of at most `most` bytes of lines. Belongs to one event loop."""

    def __init__(self, most: int) -> None:
        self.size = 0
        self._most = most
        self._chunks: deque[tuple[Chunk, int]] = deque()

    def add(self, chunk: Chunk) -> None:
        """Keeps a row that was just committed; one that does not join up with the last one replaces them all."""
        if self._chunks and _end(self._chunks[-1][0]) != chunk.first:
            self.forget(chunk.first)
        size = as_lines(chunk.lines or ()).size
        self._chunks.append((chunk, size))
        self.size += size
        while self.size > self._most:
            self._drop()

    def forget(self, floor: int) -> None:
        """Lets go of what every output has passed."""
        while self._chunks and _end(self._chunks[0][0]) <= floor:
            self._drop()

    def read(self, position: int, max_bytes: int) -> list[Chunk] | None:
        """The rows from that event on, as `rows.read`; None where the first of them is not here."""
        start = len(self._chunks)
        for chunk, _ in reversed(self._chunks):
            start -= 1
            if chunk.first <= position:
                break
        else:
            return None
        found, total = list[Chunk](), 0
        for number in range(start, len(self._chunks)):
            chunk, size = self._chunks[number]
            if position < _end(chunk):
                found.append(chunk)
                total += size
            if total >= max_bytes:
                break
        return found

    def _drop(self) -> None:
        _, size = self._chunks.popleft()
        self.size -= size


def _end(chunk: Chunk) -> int:
    return chunk.first + chunk.events
