"""`auditpipeline redact`, as a process of its own; and one that is killed at every call to the system."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from auditpipeline.cli import main as command_line
from auditpipeline.cli import redact, redact_inplace

CALLS = ("open", "write", "fsync", "fchmod", "utime", "link", "rename", "unlink", "close", "fstat", "stat", "ftruncate")


def main() -> None:
    """Runs the command with the arguments, or `kill_everywhere`."""
    if sys.argv[1] == "--kill-everywhere":
        print(kill_everywhere(Path(sys.argv[2])))
    else:
        command_line.main(["redact", *sys.argv[1:]])


def kill_everywhere(path: Path) -> int:
    """Starts with the old file each time, and is killed one call later each time; how often that was."""
    old = path.read_bytes()
    new = b""
    for number in range(10_000):
        path.unlink()
        path.write_bytes(old)
        done = not killed(path, number)
        now = path.read_bytes()
        assert now != b""
        new = new or (now if now != old else b"")
        assert now in (old, new), f"neither the old nor the new file after {number} calls"
        assert not killed(path, -1), "the next run does not end"
        assert path.read_bytes() == new or not new
        new = path.read_bytes()
        assert [each.name for each in path.parent.iterdir()] == [path.name], f"left after {number} calls"
        if done:
            return number
    raise AssertionError("it never ends")


def killed(path: Path, number: int) -> bool:
    """Whether a run was killed before its call of that number; -1: before none."""
    child = os.fork()
    if child == 0:
        left = number

        def counted(name: str) -> Any:
            real = getattr(os, name)

            def call(*arguments: Any, **more: Any) -> Any:
                nonlocal left
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
                return real(*arguments, **more)

            return call

        counting = SimpleNamespace(**vars(os) | {name: counted(name) for name in CALLS})
        setattr(redact_inplace, "os", counting)  # noqa: B010
        assert redact  # imported once, and not by each child
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            command_line.main(["redact", "--in-place", str(path)])
        except SystemExit as error:
            os._exit(int(error.code or 0))
        os._exit(99)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


if __name__ == "__main__":
    main()
