"""The recorder: collects what `watcher` prints and what kube-apiserver's own audit log says of the operator's writes.

with Recorder(local.cluster, audit_log) as recorder:
    begins = recorder.now()
    ...
    row = judge("operator killed", recorder.record(), Window(begins, recorder.now()), ..., writes=recorder.writes())
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.cluster.controlplane import ADMINS, ControlPlane
from tests.cluster.deployment import NAMESPACE
from tests.cluster.processes import Failed, piped
from tests.e2e.judging import Condition, Key, Record, State, Told, Write

OPERATOR = f"system:serviceaccount:{NAMESPACE}:auditpipeline-operator"
WRITING = ("create", "update", "patch", "delete", "deletecollection")
# Leases are heartbeats, reviews are questions, Events are seen by themselves.
NO_WRITES = (
    "leases",
    "tokenreviews",
    "subjectaccessreviews",
    "selfsubjectreviews",
    "selfsubjectaccessreviews",
    "events",
)
READINGS = "auditpipeline-readings"
"""The API servers' counters of audit events, which go on all the time."""


class Recorder:
    """A context manager that records from when it is entered."""

    def __init__(self, cluster: ControlPlane, audit_log: Path | None = None) -> None:
        self._cluster = cluster
        self._audit_log = audit_log
        self._lock = threading.Lock()
        self._states: list[State] = []
        self._events: dict[str, Told] = {}
        self._outages: list[tuple[float, float]] = []
        self._latest: dict[Key, State] = {}
        self._watcher: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._read, name="recorder", daemon=True)

    def __enter__(self) -> Self:
        pair = self._cluster.authority.client("recorder", "recorder", [ADMINS])
        files = (self._cluster.authority.certificate, pair.certificate, pair.key)
        command = [sys.executable, "-m", "tests.e2e.watcher", self._cluster.url, *map(str, files)]
        self._watcher = piped(self._cluster.entered(command))
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._watcher is not None
        self._watcher.kill()
        self._thread.join()
        self._watcher.wait()
        assert self._watcher.stdout is not None
        self._watcher.stdout.close()

    @staticmethod
    def now() -> float:
        """The time by the clock that the watcher uses."""
        return time.time()

    def record(self) -> Record:
        """Everything so far; Failed where nobody watches any more."""
        if not self._thread.is_alive():
            raise Failed("the recorder's watcher ended")
        with self._lock:
            return Record(tuple(self._states), tuple(self._events.values()), tuple(self._outages))

    def latest(self, key: Key) -> State | None:
        """An object as it was last seen."""
        with self._lock:
            return self._latest.get(key)

    def writes(self, since: float) -> list[Write]:
        """What the operator wrote since then, by kube-apiserver's audit log."""
        return [write for write in self._logged() if write.at > since]

    def wait_for(self, what: str, state: Callable[[], bool], timeout: float = 60) -> None:
        """Wait for a state, whether the API server answers meanwhile or not."""
        self._cluster.wait_for(what, state, timeout)

    def _read(self) -> None:
        assert self._watcher is not None
        assert self._watcher.stdout is not None
        for line in self._watcher.stdout:
            said = json.loads(line)
            with self._lock:
                self._take(said["at"], said["what"], said["object"])

    def _take(self, at: float, what: str, body: dict[str, Any]) -> None:
        if what == "away":
            self._outages.append((at, math.inf))
        elif what == "back":
            if self._outages:
                self._outages[-1] = (self._outages[-1][0], at)
        elif body["kind"] == "Event":
            if what == "seen":
                self._told(at, body)
        else:
            self._seen(at, what, body)

    def _told(self, at: float, body: dict[str, Any]) -> None:
        regarding = body.get("regarding", {})
        if regarding.get("kind") in ("AuditPipeline", "AuditSink"):
            key = (regarding["kind"], regarding["name"])
            self._events.setdefault(
                body["metadata"]["uid"], Told(at, key, body.get("reason", ""), body.get("note", ""))
            )

    def _seen(self, at: float, what: str, body: dict[str, Any]) -> None:
        state = state_of(at, body, gone=what == "gone")
        known = self._latest.get(state.key)
        if what == "gone" and known and known.uid not in ("", body["metadata"]["uid"]):
            return  # one of that name has been made again already
        if known is None or known._replace(at=at) != state:
            self._latest[state.key] = state
            self._states.append(state)

    def _logged(self) -> Iterator[Write]:
        assert self._audit_log is not None
        for line in self._audit_log.read_bytes().split(b"\n")[:-1]:
            if OPERATOR.encode() not in line:
                continue
            event = json.loads(line)
            reference = event.get("objectRef", {})
            done = event["stage"] == "ResponseComplete" and event["responseStatus"]["code"] < 400
            ours = event["user"]["username"] == OPERATOR and event["verb"] in WRITING
            counted = reference.get("resource") not in NO_WRITES and reference.get("name") != READINGS
            if done and ours and counted and "dryRun=" not in event["requestURI"]:
                yield write_of(event, reference)


def write_of(event: dict[str, Any], reference: dict[str, Any]) -> Write:
    """An accepted write as kube-apiserver logged it."""
    resource = "/".join(filter(None, (reference["resource"], reference.get("subresource"))))
    version = event.get("responseObject", {}).get("metadata", {}).get("resourceVersion", "")
    at = datetime.fromisoformat(event["stageTimestamp"]).timestamp()
    return Write(at, event["verb"], resource, reference.get("name", ""), version)


def state_of(at: float, body: dict[str, Any], *, gone: bool = False) -> State:
    """An object, boiled down to what is judged."""
    meta, status = body["metadata"], dict(body.get("status", {}))
    key = (body["kind"], meta["name"])
    if gone:
        return State(at, key, "", meta["resourceVersion"])
    conditions = tuple(
        Condition(
            entry["type"], entry["status"], entry.get("reason", ""), entry.get("message", ""),
            entry.get("lastTransitionTime", ""),
        )
        for entry in status.pop("conditions", ())
    )  # fmt: skip
    return State(at, key, meta["uid"], meta["resourceVersion"], conditions, json.dumps(status, sort_keys=True))
