"""What was rotated away from one file: set aside under a name of its own, bounded in number, compressed meanwhile.

`set_aside` and `clean` are called by the thread that writes the file and has claimed it, `compress` by a second one: a
large file takes minutes, and deliveries must not wait for it. What cannot be compressed stays as it is, which the log
tells once, and is tried again after the next rotation and at the next start.
"""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

from auditpipeline.dataplane.outputs import rotated
from auditpipeline.dataplane.outputs.compress import compress, discard
from auditpipeline.dataplane.outputs.rotated import Rotated

_log = logging.getLogger(__name__)


class Archive:
    """The rotated files of `live`, which its writer sets; `keep` of them stay. `form` is `none`, `gzip` or `zstd`."""

    def __init__(self, live: Path, keep: int, form: str) -> None:
        self.live = live
        self._keep = keep
        self._form = form
        self._stopping = threading.Event()
        self._told: set[str] = set()
        self.waiting = False

    def newest(self) -> float:
        """When the newest of them was rotated, in seconds since the epoch; 0 where there is none."""
        return rotated.newest_time(self._files())

    def set_aside(self, now: float) -> None:
        """Renames the live file; `clean` follows. OSError if that cannot be done."""
        stamp = rotated.next_stamp(now, self._files())
        self.live.rename(self._at(Rotated(stamp, "", partial=False).name))

    def clean(self) -> None:
        """Removes what is too many, half-written or there twice; `waiting` then says whether `compress` has work."""
        plan = rotated.plan(self._files(), self._keep, self._form != "none")
        for name in plan.remove:
            if name.endswith(rotated.PARTIAL):
                discard(self._at(name))
            else:
                self._at(name).unlink(missing_ok=True)
        self.waiting = bool(plan.compress)

    def compress(self) -> None:
        """Compresses what waits for it, oldest first, until `stop`. Raises nothing."""
        self.waiting = False
        for name in rotated.plan(self._files(), self._keep, compress=True).compress:
            if self._stopping.is_set():
                return
            try:
                compress(self._at(name), self._form, self._stopping.is_set)
            except OSError as error:
                self._tell(name, error)

    def stop(self) -> None:
        """Ends `compress` soon, from any thread."""
        self._stopping.set()

    def _tell(self, name: str, error: OSError) -> None:
        if name not in self._told:
            _log.warning("%s cannot be compressed and stays as it is: %s", self._at(name), error.strerror)
        self._told.add(name)

    def _files(self) -> list[Rotated]:
        with os.scandir(self.live.parent) as found:
            names = [entry.name for entry in found if entry.is_file(follow_symlinks=False)]
        return rotated.rotated(self.live.name, names)

    def _at(self, name: str) -> Path:
        return self.live.with_name(self.live.name + name)
