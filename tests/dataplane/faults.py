"""Faults within a process of its own that no real part can be made to show: a module that Python imports at its start
replaces a function, as long as a file is there."""

from __future__ import annotations

from pathlib import Path

_CUSTOM = """
import pathlib

_FLAG = pathlib.Path({flag!r})

{code}
"""


class Fault:
    """Code that runs at the start of a process which has `environment`; `flag` exists while the fault is on."""

    def __init__(self, folder: Path, code: str) -> None:
        self.flag = folder / "fault.on"
        (folder / "site").mkdir()
        (folder / "site" / "sitecustomize.py").write_text(_CUSTOM.format(flag=str(self.flag), code=code))
        self.environment = {"PYTHONPATH": str(folder / "site")}

    def begin(self) -> None:
        """From now on."""
        self.flag.touch()

    def end(self) -> None:
        """It is over."""
        self.flag.unlink()


HANG_AT_COMMIT = """
import threading, time
from contextlib import contextmanager
from auditpipeline.cli import serve
from auditpipeline.dataplane import run, store

run.END_SECONDS, serve.GRACE_SECONDS = 1.0, 8.0
_transaction = store.Store.transaction

@contextmanager
def transaction(self):
    with _transaction(self):
        yield
        while _FLAG.exists():
            time.sleep(0.05)

store.Store.transaction = transaction
"""
DIE_AT_COMMIT = """
from auditpipeline.dataplane import store

_transaction = store.Store.transaction

def transaction(self):
    if _FLAG.exists():
        raise SystemExit("the thread ends")
    return _transaction(self)

store.Store.transaction = transaction
"""
FAIL_TO_READ_THE_LOG = """
from auditpipeline.dataplane import supervise
from auditpipeline.dataplane.sources import log

_run = log.LogSource.run

async def run(self, stop):
    if _FLAG.exists():
        raise RuntimeError("nobody thought of this")
    await _run(self, stop)

log.LogSource.run = run
supervise.FIRST_SECONDS = 0.05
"""
HASTE = """
from auditpipeline.dataplane import lasting, salvage

lasting.SECONDS, salvage._TRIES = 1.0, 2
"""
