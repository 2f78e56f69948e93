"""Dynamic auditing, the same on every cluster: built into kube-apiserver up to 1.18, by the gateway from 1.19 on.

Each test runs on both. On 1.18 nothing but kube-apiserver posts the events; there is no gateway, and no file on a
control-plane node.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.local import LocalDeployment
from tests.cluster.onnative import NativeDeployment
from tests.cluster.pki import Authority
from tests.cluster.processes import Process
from tests.e2e.traffic import MINE, asked_for, gone, pipeline, recorded, touch, wait_recorded

SEED = Path(__file__).parents[1] / "data" / "seed"
FAST = ("--resync", "5", "--status-interval", "1")
CLUSTERS: dict[str, type[LocalDeployment]] = {"built in": NativeDeployment, "gateway": LocalDeployment}
numbers = itertools.count()


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("built in", marks=pytest.mark.native),
        pytest.param("gateway", marks=pytest.mark.controlplane),
    ],
)
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalDeployment]:
    """auditpipeline on a cluster of either kind."""
    with CLUSTERS[request.param](tmp_path_factory.mktemp("dynamic"), operator_args=FAST) as it:
        yield it


@pytest.fixture
def name(cluster: LocalDeployment) -> Iterator[str]:
    """A name for a pipeline of this test; what it made is deleted afterwards."""
    chosen = f"d{next(numbers)}"
    yield chosen
    cluster.kubectl("delete", "auditpipeline", chosen, "--ignore-not-found", "--wait=false")


@pytest.fixture
def webhook(cluster: LocalDeployment, tmp_path: Path) -> Iterator[Process]:
    """The Service of the seed with its webhook behind it: whoever listens at a ClusterIP here is that Service."""
    for file in ("pod.yml", "service.yml"):
        cluster.kubectl("apply", "-f", str(SEED / file))
    address = cluster.get("service", "admissionwebhook")["spec"]["clusterIP"]
    authority = Authority(tmp_path / "pki")
    pair = authority.serving("webhook", ["admissionwebhook.default.svc"])
    command = [sys.executable, str(SEED / "webhook.py"), address, "443", str(pair.certificate), str(pair.key)]
    process = Process("webhook", command, tmp_path / "webhook.log")
    process.start()
    sink = (SEED / "auditSink.yml").read_text()
    bundle = base64.b64encode(authority.certificate.read_bytes()).decode()
    cluster.kubectl("apply", "-f", "-", stdin=sink.replace("${CA_BUNDLE}", bundle))
    yield process
    process.stop()
    cluster.kubectl("delete", "auditsink/mysink", "service/admissionwebhook", "pod/webhook", "--wait=false")


def test_an_audit_pipeline_becomes_a_sink_and_its_events_arrive(cluster: LocalDeployment, name: str) -> None:
    """The way that a user goes: apply, wait, look, change, delete."""
    cluster.apply(pipeline(name))
    cluster.wait_ready(name)
    sink = cluster.get("auditsink", f"audit-{name}")["spec"]
    assert sink["policy"]["level"] == "Metadata"
    assert sink["webhook"]["clientConfig"]["service"]["name"] == f"audit-{name}"
    wait_recorded(cluster, name, {touch(cluster, user) for user in ("alice", "bob")})
    assert {event["objectRef"]["resource"] for event in asked_for(cluster, name)} == {"configmaps"}
    cluster.wait_for("Delivering", lambda: cluster.condition(name, "Delivering").get("status") == "True")

    cluster.apply(pipeline(name, {**MINE, "users": ["carol"]}))
    cluster.wait_ready(name)
    unwanted, wanted = touch(cluster, "alice"), touch(cluster, "carol")
    wait_recorded(cluster, name, {wanted})
    assert unwanted not in recorded(cluster, name)

    cluster.kubectl("delete", "auditpipeline", name)
    cluster.wait_for("nothing left", gone(cluster, name))


def test_changes_are_told_as_events(cluster: LocalDeployment, name: str) -> None:
    """In the namespace where this release keeps Events of cluster-scoped objects."""
    cluster.apply(pipeline(name))
    cluster.wait_ready(name)

    def told() -> bool:
        events = json.loads(cluster.kubectl("get", "events", "-A", "-o", "json"))["items"]
        return ("Ready", name) in {(event["reason"], event["involvedObject"].get("name")) for event in events}

    cluster.wait_for("an Event that says Ready", told)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may listen on port 443 of the Service")
def test_a_sink_that_somebody_wrote_for_1_18_works(cluster: LocalDeployment, webhook: Process) -> None:
    """The seed's example: a Pod, a Service and `mysink`, none of it made by auditpipeline."""
    made: list[str] = []

    def arrived() -> bool:
        made.append(touch(cluster, "dave"))
        names = [json.loads(line)["objectRef"].get("name") for line in lines() if '"dave"' in line]
        return bool({*made} & {*names})

    def lines() -> list[str]:
        return [line for line in webhook.log.read_text().splitlines() if '"objectRef"' in line]

    cluster.wait_for("the first event at the webhook", arrived)
    last = touch(cluster, "erin")
    cluster.wait_for("the last event", lambda: any(f'"{last}"' in line for line in lines()))
    levels = {(json.loads(line)["level"], json.loads(line)["stage"]) for line in lines()}
    assert levels == {("Metadata", "ResponseComplete")}
