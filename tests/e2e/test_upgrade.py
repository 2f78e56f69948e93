"""The release before is upgraded to this one and back, by helm, on a real node and under load: no event is lost.

kube-apiserver's own log backend has every event that it emitted. What it gave up, it counts; all others were
acknowledged (200). Each of those is in the file of each pipeline in the end.

A recorder watches statuses meanwhile, and the table says what moved but for the planned restart of receivers, which may
show for a minute."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import previous
from tests.cluster import image
from tests.cluster.node import Node
from tests.cluster.onnode import NodeDeployment, Release
from tests.cluster.processes import Process
from tests.e2e import load
from tests.e2e.judging import Key, Row, Window, judge
from tests.e2e.recorder import Recorder
from tests.e2e.traffic import MINE, pipeline

pytestmark = [pytest.mark.upgrade, pytest.mark.long]

BEFORE, NOW = Release(previous.folder(), image.PREVIOUS), Release()
NEXT = Release(image=f"{image.NAME.rpartition(':')[0]}:next")
"""This release under another tag: both operators of such an upgrade are of this release."""
PIPELINES = ("one", "two", "three")
WATCHED = [*(("AuditPipeline", name) for name in PIPELINES), *(("AuditSink", f"audit-{name}") for name in PIPELINES)]
PLANNED = 60.0
"""Seconds for which the restart of a receiver may show: the promise itself."""
USER = "load"
PAUSE = "0.02"
GIVEN_UP = re.compile(r'^apiserver_audit_error_total\{plugin="(?:webhook|buffered|truncate)"\} (\S+)$', re.MULTILINE)
RULE = MINE | {"users": [USER]}


class UnderLoad(NodeDeployment):
    """kube-apiserver tries again for as long as it does by default."""

    def _node(self, audit_log: Path | None) -> Node:
        backoff = "--audit-webhook-initial-backoff=10s"
        return Node(bootstrap_dir=self.bootstrap, audit_log=audit_log, extra_apiserver_args=[backoff])

    def begin(self, log: Path) -> Process:
        """Begin to make ConfigMaps as USER."""
        pair = self.cluster.authority.client(f"client-{USER}", USER, ["system:masters"])
        files = [str(self.cluster.authority.certificate), str(pair.certificate), str(pair.key)]
        command = self.entered([sys.executable, str(load.__file__), self.cluster.url, *files, PAUSE])
        process = Process("load", command, log)
        process.start()
        return process

    def images(self) -> list[str]:
        """The images of the receivers that are Ready, and of the StatefulSets."""
        pods = json.loads(self.kubectl("get", "pods", "-A", "-l", "auditpipeline.dev/pipeline", "-o", "json"))
        sets = json.loads(self.kubectl("get", "statefulsets", "-A", "-l", "auditpipeline.dev/pipeline", "-o", "json"))
        ready = [
            pod
            for pod in pods["items"]
            if all(each["ready"] for each in pod["status"].get("containerStatuses", [{"ready": False}]))
        ]
        specs = [pod["spec"] for pod in ready] + [each["spec"]["template"]["spec"] for each in sets["items"]]
        return [spec["containers"][0]["image"] for spec in specs]

    def run(self, release: Release) -> None:
        """Wait until every receiver runs a release, and every pipeline is Ready."""
        self.wait_for(
            f"receivers of {release.image}", lambda: self.images() == [release.image] * 2 * len(PIPELINES), 240
        )
        for name in PIPELINES:
            self.wait_ready(name, 180)

    def given_up(self) -> int:
        """Events that kube-apiserver gave up."""
        metrics = self.kubectl("get", "--raw", "/metrics")
        return sum(int(float(count)) for count in GIVEN_UP.findall(metrics))

    def found(self, name: str) -> set[str]:
        """The events of the load that a pipeline has delivered."""
        return {event["auditID"] for event in self.events(name) if event["user"]["username"] == USER}


@pytest.fixture
def under_load(tmp_path: Path) -> Iterator[UnderLoad]:
    """The release before, installed by its own chart."""
    values = ("operator.statusInterval=1",)
    with UnderLoad(tmp_path, values=values, audit_log=tmp_path / "audit.log", release=BEFORE) as it:
        yield it


def delivers(recorder: Recorder, key: Key) -> bool:
    """Whether a pipeline says that events come, or a sink says anything."""
    state = recorder.latest(key)
    return state is not None and (key[0] == "AuditSink" or "Delivering" in {each.reason for each in state.conditions})


def emitted(log: Path) -> set[str]:
    """The events of the load that kube-apiserver emitted and that RULE wants."""
    events = [json.loads(line) for line in log.read_text().splitlines() if f'"username":"{USER}"' in line]
    return {event["auditID"] for event in events if event["stage"] == "ResponseComplete" and event["verb"] == "create"}


@pytest.mark.timeout(1200)
def is_ready(it: UnderLoad, key: Key) -> bool:
    """Whether an object says that it is Ready."""
    kind, name = key
    conditions = it.get(kind.lower(), name).get("status", {}).get("conditions", [])
    return any((entry["type"], entry["status"]) == ("Ready", "True") for entry in conditions)


def test_what_was_acknowledged_is_found(
    under_load: UnderLoad, tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: list[Row]
) -> None:
    """Acknowledged is what was emitted and not given up."""
    it = under_load
    for name in PIPELINES:
        it.apply(pipeline(name, RULE))
    it.run(BEFORE)
    log = tmp_path / "load.log"
    process = it.begin(log)
    counts, judged = [], []
    with Recorder(it.cluster) as recorder:
        it.wait_for("events in each status", lambda: all(delivers(recorder, key) for key in WATCHED))
        for what, release in (("upgrade", NOW), ("another image", NEXT), ("back", BEFORE)):
            begins, before = recorder.now(), len(emitted(tmp_path / "audit.log"))
            it.upgrade(release)
            it.run(release)
            it.wait_for("everything Ready again", lambda: all(is_ready(it, key) for key in WATCHED), 120)
            counts.append((what, len(emitted(tmp_path / "audit.log")) - before))
            window = Window(begins, recorder.now())
            judged.append(judge(f"helm upgrade: {what}", recorder.record(), window, unchanged=WATCHED, planned=PLANNED))
    rows += judged
    process.stop(signal.SIGTERM)
    made = int(log.read_text().split()[-1])
    it.wait_for("every event in the log", lambda: len(emitted(tmp_path / "audit.log")) >= made)
    wanted, given_up = emitted(tmp_path / "audit.log"), it.given_up()
    for name in PIPELINES:
        it.wait_for(f"the events in {name}", lambda name=name: len(wanted - it.found(name)) <= given_up, 120)  # type: ignore[misc]
    found = {name: len(wanted & it.found(name)) for name in PIPELINES}
    with capsys.disabled():
        print(f"\nrequests {made}, " + ", ".join(f"{count} during {what}" for what, count in counts))
        print("\n".join(fault for row in judged for fault in row.faults))
        print(f"emitted {len(wanted)}, given up {given_up}, acknowledged {len(wanted) - given_up}, found {found}")
    assert judged[1].moved + judged[1].events == ()  # in the others the release before leads for a while
    assert len(wanted) >= made > 0
    assert all(count >= len(wanted) - given_up for count in found.values())
