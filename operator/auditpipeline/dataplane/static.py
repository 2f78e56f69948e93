"""kube-apiserver's static policy file, as it lies beside a gateway: what the controller compares pipelines with.

Read again only when it changed. A file that is too large, or no text, is told as such: nothing here interprets it.
"""

from __future__ import annotations

from pathlib import Path

from auditpipeline.core.report import StaticPolicy

MOST = 2**20


class StaticFile:
    """The last look at the file."""

    def __init__(self) -> None:
        self._stamp: tuple[object, ...] = ()
        self._found: StaticPolicy | None = None

    def look(self, path: str | None) -> StaticPolicy | None:
        """What the file holds now; None where the configuration names none."""
        if path is None:
            return None
        try:
            found = Path(path).stat()
            # Moving an older file into place leaves its mtime alone, and renews its ctime.
            changed = max(found.st_mtime, found.st_ctime)
            stamp = (path, found.st_ino, found.st_size, changed)
            if stamp != self._stamp:
                self._found, self._stamp = StaticPolicy(_text(Path(path), found.st_size), changed), stamp
        except (OSError, ValueError) as error:
            said = (error.strerror if isinstance(error, OSError) else str(error)) or type(error).__name__
            self._found, self._stamp = StaticPolicy(error=said), ()
        return self._found


def _text(path: Path, size: int) -> str:
    if size > MOST:
        raise ValueError(f"the file is larger than {MOST} bytes")
    return path.read_bytes().decode()
