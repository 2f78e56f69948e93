"""Secrets on a real control plane: none can be read below the cluster's folders, and no event is missing for that.

The API server records everything that one user and one namespace do, bodies included, into a log of its own and to the
gateway. Its log shows that each secret was there to be found; the gateway's and the receiver's spools, their files and
logs, and what outputs were sent must have none of them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from auditpipeline.core.redaction.model import ANNOTATION, MASK, MASK_BASE64
from tests.cluster.local import LocalDeployment
from tests.cluster.processes import wait_for
from tests.e2e.mutating import webhook
from tests.e2e.needles import Needles, stored_lines
from tests.e2e.secret_traffic import KEPT_FILE, KEPT_URL, POLICY, SHOP, USER, Traffic, patches
from tests.e2e.traffic import pipeline
from tests.e2e.webhooks import Webhook, Webhooks, sink

pytestmark = [pytest.mark.controlplane, pytest.mark.timeout(600)]

NAME, OTHERS = "whole", "others"
RULES = [{"level": "RequestResponse", "users": [USER]}, {"level": "RequestResponse", "namespaces": [SHOP]}]
LAST = "kubectl.kubernetes.io/last-applied-configuration"
Event = dict[str, Any]
Key = tuple[str, str]


class Scene:
    """What was planted, and what came of it: `written` are the API server's own events, `delivered` the pipeline's,
    `stored` those that were in each spool while outputs stood still."""

    def __init__(self, on: LocalDeployment, folder: Path, outputs: dict[str, Webhook]) -> None:
        self.on, self.outputs = on, outputs
        self.folders = (on.cluster.data / "kubelet", folder / "local")
        self.needles = Needles()
        self.written: dict[Key, Event] = {}
        self.delivered: dict[Key, Event] = {}
        self.stored: dict[Path, set[Key]] = {}
        self.readable: list[str] = []
        self.log = folder / "audit.log"

    def logged(self) -> dict[Key, Event]:
        """What the API server has recorded of the user and the namespace so far."""
        events = map(json.loads, self.log.read_bytes().split(b"\n")[:-1])
        return {key(event): event for event in events if _ours(event)}

    def collect(self) -> None:
        """Wait for all events, while they are still in the spools; then look."""
        self.on.wait_for("the last event", lambda: any(_is_last(event) for event in self.logged().values()))
        self.written = self.logged()
        self.on.wait_for("all events", lambda: self.written.keys() <= {key(event) for event in self.on.events(NAME)})
        self.delivered = {key(event): event for event in self.on.events(NAME)}
        for path, line in stored_lines(self.folders):
            self.stored.setdefault(path, set()).add(key(json.loads(line)))
        self.readable = self.needles.readable(self.folders)


def key(event: Event) -> Key:
    """What identifies an event."""
    return event["auditID"], event["stage"]


def is_about(event: Event, verb: str, resource: str, name: str) -> bool:
    """Whether the event is of that request."""
    reference = event.get("objectRef", {})
    return (event["verb"], reference.get("resource"), reference.get("name")) == (verb, resource, name)


def _ours(event: Event) -> bool:
    by: str = event["user"]["username"]
    return by == USER or event.get("objectRef", {}).get("namespace", "") == SHOP


def _is_last(event: Event) -> bool:
    return is_about(event, "create", "configmaps", "last")


def policy(path: Path) -> None:
    """Have the API server record all that this module plants, in full."""
    static = yaml.safe_load(path.read_text())
    kept = [rule for rule in static["rules"] if "auditpipeline" in json.dumps(rule)]
    path.write_text(yaml.safe_dump(static | {"rules": [*RULES, *kept, {"level": "Metadata"}]}))
    # kube-apiserver's start is known to the second alone.
    written = path.stat().st_ctime
    wait_for("a second", lambda: time.time() > written + 1, 5)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Everything planted, recorded, delivered and looked at; outputs beside the file stand still meanwhile."""
    folder = tmp_path_factory.mktemp("redaction")
    arguments = ("--resync", "5", "--status-interval", "1")
    (folder / "local").mkdir()
    on = LocalDeployment(folder / "local", operator_args=arguments, audit_log=folder / "audit.log")
    policy(on.bootstrap / "policy.yaml")
    with Webhooks(folder / "webhooks") as webhooks, on:
        outputs = {name: webhooks.serve() for name in (NAME, OTHERS)}
        for each in outputs.values():
            each.kept = []
        it = Scene(on, folder, outputs)
        http = webhooks.client(outputs[NAME]) | {"format": "event-list"}
        file = {"name": "archive", "file": {"path": "/var/log/audit/events.jsonl"}}
        on.apply(*POLICY, sink(OTHERS, webhooks.client(outputs[OTHERS])))
        on.apply(pipeline(NAME, *RULES, outputs=[file, {"name": "siem", "http": http}]))
        on.wait_ready(NAME)
        for each in outputs.values():
            webhooks.behave(each, "hanging")
        plant(it, folder)
        it.collect()
        for each in outputs.values():
            webhooks.behave(each, "good")
        yield it


def plant(it: Scene, folder: Path) -> None:
    """All of the requests."""
    on, traffic = it.on, Traffic(it.on, it.needles)
    with webhook(folder / "mutating", patches(it.needles)) as configuration:
        on.apply(configuration)
        traffic.kubectl("create", "namespace", SHOP)
        on.wait_for("a ServiceAccount", lambda: "default" in traffic.kubectl("get", "serviceaccounts", "-o", "name"))
        traffic.workloads()
        traffic.secrets()
        traffic.reads()
        traffic.tokens()
        traffic.urls()
        traffic.injected()
        on.kubectl("delete", "mutatingwebhookconfiguration", "inject")
    traffic.last("last")
    traffic.close()


def test_each_secret_was_there_to_be_found(scene: Scene) -> None:
    """The API server's own log has every one of them."""
    assert scene.needles.found_in(scene.log.read_bytes()) == scene.needles.values.keys()


def test_nothing_can_be_read_below_the_folders(scene: Scene) -> None:
    """Neither in files nor in spools, which hold the events of all that stands still."""
    assert len(scene.stored) == 2
    assert all(scene.written.keys() <= stored for stored in scene.stored.values())
    assert scene.readable == []


@pytest.mark.parametrize("name", [NAME, OTHERS])
def test_nothing_is_sent_to_outputs(scene: Scene, name: str) -> None:
    """They get every event all the same: the pipeline's output, and the AuditSink of somebody else."""
    output = scene.outputs[name]
    scene.on.wait_for("all events", lambda: scene.written.keys() <= output.taken)
    assert scene.needles.found_in(b"\n".join(output.kept or ())) == set()


def test_nothing_is_told(scene: Scene) -> None:
    """In no status, Event or ConfigMap."""
    kinds = "auditpipelines,auditsinks,events,configmaps"
    assert scene.needles.found_in(scene.on.kubectl("get", kinds, "-A", "-o", "json").encode()) == set()


def test_events_keep_their_shape(scene: Scene) -> None:
    """Keys, and the types of values; and an event that lost nothing is as the API server wrote it."""
    for found, event in scene.delivered.items():
        if found not in scene.written:
            continue
        annotations = dict(event.get("annotations", {}))
        taken = annotations.pop(ANNOTATION, None)
        bare = event | ({"annotations": annotations} if annotations else {})
        assert shape(bare) == shape(scene.written[found])
        assert taken is not None or event == scene.written[found]
        assert taken is None or (int(taken) > 0 and bare != scene.written[found])


def shape(value: Any) -> Any:
    """A value with its strings taken out."""
    if isinstance(value, dict):
        return {name: shape(each) for name, each in value.items()}
    return [shape(each) for each in value] if isinstance(value, list) else type(value)


def event_of(scene: Scene, verb: str, resource: str, name: str) -> Event:
    """The first delivered event of that request."""
    return next(event for event in scene.delivered.values() if is_about(event, verb, resource, name))


def test_what_is_no_secret_stays(scene: Scene) -> None:
    """Names, keys, types, values that only look alike, and the number of values that were taken."""
    made = event_of(scene, "create", "secrets", "one")
    for stored in (made["requestObject"], made["responseObject"]):  # kube-apiserver has made data of stringData
        assert stored["data"] == dict.fromkeys(("password", "other", "api"), MASK_BASE64)
        assert stored["type"] == "Opaque"
    assert made["annotations"][ANNOTATION] == "6"
    container = event_of(scene, "create", "pods", "shell")["requestObject"]["spec"]["containers"][0]
    variables = {each["name"]: each["value"] for each in container["env"]}
    assert variables == {"DB_PASSWORD": MASK, "KEYCLOAK_URL": KEPT_URL}
    assert container["args"] == ["--listen=:8080", KEPT_FILE, f"--password={MASK}"]
    applied = json.loads(event_of(scene, "create", "secrets", "two")["requestObject"]["metadata"]["annotations"][LAST])
    assert applied["stringData"] == {"password": MASK, "key": MASK}
    assert applied["metadata"]["name"] == "two"
    run = next(event for event in scene.delivered.values() if "command=mysql" in event["requestURI"])
    assert "command=--user%3Droot&" in run["requestURI"]
    assert f"command={KEPT_FILE.replace('=', '%3D').replace('/', '%2F')}" in run["requestURI"]
