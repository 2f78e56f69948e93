"""`auditpipeline` as processes of their own, for the tests of `run`, `replay` and `spool`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from auditpipeline.core.event import decode_event
from auditpipeline.core.policy import Policy
from auditpipeline.dataplane.filter import narrow_line
from tests.dataplane.setting import DATA, until

EVENTS = DATA / "audit-events.jsonl"
COMMAND = (sys.executable, "-m", "auditpipeline.cli.main")


def wanted(policy: Policy) -> set[str]:
    """The auditID and stage of each recorded event that the policy wants."""
    lines = EVENTS.read_bytes().splitlines()
    return {identity(decode_event(line)) for line in lines if narrow_line(line, (policy,), None) is not None}


def identity(event: Any) -> str:
    """Which event it is."""
    found = {
        key: bytes(event[key]).decode() if not isinstance(event[key], str) else json.dumps(event[key])
        for key in ("auditID", "stage")
    }
    return f"{found['auditID']}/{found['stage']}"


def pipeline(*outputs: dict[str, Any], **spec: Any) -> dict[str, Any]:
    """An AuditPipeline that records everything at Metadata."""
    return {
        "apiVersion": "auditpipeline.dev/v1alpha1",
        "kind": "AuditPipeline",
        "metadata": {"name": "test"},
        "spec": {"policy": {"rules": [{"level": "Metadata"}]}, "outputs": list(outputs), **spec},
    }


def archive(name: str = "archive") -> dict[str, Any]:
    """A file output."""
    return {"name": name, "file": {"path": f"/var/log/audit/{name}.jsonl"}}


class Bench:
    """A folder with a pipeline's file, and where everything of it lies."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "pipeline.yaml"
        self.data = folder / "data"
        self.root = folder / "root"
        self.kubeconfig = self.data / "webhook.kubeconfig"
        self.spool = self.data / "spool.sqlite"
        self.log = folder / "run.log"

    def write(self, document: Any) -> None:
        """Puts the pipeline in place at once."""
        fresh = self.file.with_suffix(".new")
        fresh.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
        fresh.rename(self.file)

    def output(self, name: str = "archive") -> Path:
        """The file of a file output."""
        return self.root / "var" / "log" / "audit" / f"{name}.jsonl"

    def delivered(self, name: str = "archive") -> list[str]:
        """The events in it; a line that is being written is none yet."""
        path = self.output(name)
        whole = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        return [identity(json.loads(line)) for line in whole]

    def lines(self, event: str) -> list[dict[str, Any]]:
        """The log lines of that event; each line is JSON."""
        found = [json.loads(line) for line in self.log.read_text().splitlines() if line.endswith("}")]
        return [line for line in found if line["event"] == event]

    def arguments(self, *more: str) -> list[str]:
        """Those of `run`."""
        return ["run", str(self.file), "--data-dir", str(self.data), "--root", str(self.root), *more]

    @asynccontextmanager
    async def running(
        self,
        *more: str,
        until_event: str = "ready",
        prefix: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        """A process that has logged `until_event`; killed at the end if it did not end before. `prefix` is a command
        that runs it, `environment` is added to this process's."""
        self.log.write_bytes(b"")
        command = [*prefix, *COMMAND, *self.arguments(*more)]
        with self.log.open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                *command, stderr=errors, env={**os.environ, **(environment or {})}
            )
        try:
            await until(lambda: self.lines(until_event) or process.returncode is not None)
            assert process.returncode is None, self.log.read_text()
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def replay(self, *more: str, log: Path = EVENTS) -> tuple[int, str, str]:
        """`auditpipeline replay`, as a process."""
        return await call("replay", str(log), "--kubeconfig", str(self.kubeconfig), *more)


async def call(*arguments: str) -> tuple[int, str, str]:
    """Runs a command to its end: exit code, standard output, standard error."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def end(process: asyncio.subprocess.Process, number: int = signal.SIGTERM) -> int:
    """Sends a signal; the exit code."""
    process.send_signal(number)
    return await asyncio.wait_for(process.wait(), 30)


def identities(lines: Sequence[bytes]) -> set[str]:
    """Which events these lines are."""
    return {identity(decode_event(line)) for line in lines}
