"""JSON lines in a file, rotated by size and by age; how rotated files are called is in `rotated.py`.

1. Arrived means: on disk. With `fsync: batch` a delivery ends with fsync, so that the cursor never moves past what a
   power cut could take. With `rotation` only what was rotated (or closed) is safe from that, with `never` what the
   kernel has written by itself. A process that is killed costs no event with any of them.
2. Every line of every file is whole. A delivery that fails half-way is cut off again; a torn last line that a crash
   left is cut off when the file is opened. Cutting rather than closing it with a line feed: that would leave a line
   which is no JSON, and nothing is lost, since the cursor had not moved and the event comes again, whole.
3. One writer a file. The output before may hang in its last write long after its route has ended; until that write has
   ended and the file is closed, its successor waits (`claim.py`). Nothing is cut off but what this very write has put
   at the end of the file.
4. Rotation renames, so `tail -F` goes on with the new file. Events of one delivery stay in one file.
5. Files have mode 0600, folders that are made 0700. A file that somebody else moved or removed is made anew at the next
   delivery.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from auditpipeline.core.config import FileOutput
from auditpipeline.core.errors import Retryable
from auditpipeline.dataplane.lines import as_lines
from auditpipeline.dataplane.outputs.live import Live
from auditpipeline.dataplane.outputs.writer import Writer
from auditpipeline.dataplane.worker import Worker


class File:
    """One file and its older ones. Works in threads of its own, since disks block. `clock` is in seconds since the
    epoch: ages outlive the process."""

    def __init__(self, config: FileOutput, clock: Callable[[], float] = time.time) -> None:
        self._writer = Writer("output-file")
        self._live = Live(config, clock)
        self._archive = self._live.archive
        self._packer: Worker | None = None
        self._packing: asyncio.Task[None] | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._rotation: asyncio.Task[None] | None = None
        self._closed = False

    async def deliver(self, lines: Sequence[bytes]) -> None:
        """Appends the lines; they are on disk when it returns."""
        await self._writer.write(as_lines(lines).texts, self._live.append)
        self._compress()
        self._set_alarm()

    async def close(self) -> None:
        """Closes the file after what is being written."""
        if self._closed:
            return
        self._closed = True
        self._archive.stop()
        if self._alarm:
            self._alarm.cancel()
        try:
            if self._writer.started:
                await self._writer.run(self._live.close)
            if self._packing:
                await asyncio.wait([self._packing])
        finally:  # a disk that hangs: the threads end when it lets them
            self._writer.stop()
            if self._packer:
                self._packer.stop()

    def _compress(self) -> None:
        """Sees to it that rotated files are compressed, while deliveries go on."""
        if self._archive.waiting and not self._closed and (self._packing is None or self._packing.done()):
            self._packer = self._packer or Worker("output-file-compress")
            self._packing = asyncio.ensure_future(self._packer.run(self._archive.compress))
            self._packing.add_done_callback(lambda _: self._compress())

    def _set_alarm(self) -> None:
        """A file that nothing comes into any more grows old all the same."""
        if self._alarm:
            self._alarm.cancel()
        rest = self._live.rest()
        if rest is not None and not self._closed:
            self._alarm = asyncio.get_running_loop().call_later(rest, self._ring)

    def _ring(self) -> None:
        self._rotation = asyncio.ensure_future(self._rotate())

    async def _rotate(self) -> None:
        try:
            await self._writer.run(self._live.rotate_old)
        except Retryable:
            return  # the next delivery meets the same, and says so
        self._compress()
        self._set_alarm()
