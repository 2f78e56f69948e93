"""The gateway behind a Service, with real Pods: kube-apiserver posts to a ClusterIP, and no node is touched."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.cluster import tier
from tests.cluster.deployment import NAMESPACE, RECEIVERS
from tests.cluster.onnode import RESTRICTED, NodeDeployment
from tests.e2e.traffic import pipeline, touch, wait_recorded

pytestmark = pytest.mark.node

SPOOL = "/var/lib/auditpipeline/spool.sqlite"
NAME = "behind"
KNOCK = """
import socket, ssl
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
try:
    with context.wrap_socket(socket.create_connection(("{address}", 443), 20)) as gateway:
        gateway.sendall(b"POST /audit HTTP/1.1\\r\\nHost: gateway\\r\\nContent-Length: 2\\r\\n\\r\\n{{}}")
        print("answered" if gateway.recv(100) else "refused")
except (ssl.SSLError, ConnectionResetError):
    print("refused")
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeDeployment]:
    """auditpipeline with two gateway Pods behind a Service, in a namespace where Pod Security is restricted."""
    values = ("operator.statusInterval=1", "operator.canaryInterval=1")
    with tier.deployment(tmp_path_factory.mktemp("served"), values=values, behind_service=True) as it:
        yield it


def test_who_shows_no_client_certificate_gets_nothing(served: NodeDeployment) -> None:
    """Everybody in the cluster reaches the Service: the handshake turns away whoever is not kube-apiserver."""
    program = KNOCK.format(address=served.service_address)
    said = served.kubectl("exec", "-n", NAMESPACE, "deploy/auditpipeline-operator", "--", "python3", "-c", program)
    assert said.strip() == "refused"


def test_events_come_through_the_service_and_survive_the_replacement_of_a_gateway_pod(served: NodeDeployment) -> None:
    """Ready; an event arrives. Then no receiver is there, and the gateway's Pods keep what comes in their claims: the
    one that has most of it is deleted, events come meanwhile, and in the end every one of them arrives."""
    labels = served.get("namespace", NAMESPACE)["metadata"]["labels"]
    assert labels.items() >= RESTRICTED.items()
    served.apply(pipeline(NAME))
    served.wait_ready(NAME)
    wait_recorded(served, NAME, {touch(served)})
    upstream = served.condition(NAME, "UpstreamCovers")
    assert (upstream["status"], upstream["reason"]) == ("Unknown", "StaticPolicyUnknown")

    stop(served, "deployment/auditpipeline-operator", "app.kubernetes.io/name=auditpipeline-operator")
    stop(served, f"statefulset/audit-{NAME}", f"auditpipeline.dev/pipeline={NAME}", RECEIVERS)
    made = {touch(served), touch(served)}
    served.wait_for("events in the spools", lambda: made <= set().union(*spooled(served).values()))
    waiting = spooled(served)
    holder = max(waiting, key=lambda pod: len(waiting[pod] & made))
    before = uid(served, holder)
    served.kubectl("delete", "pod", holder, "-n", NAMESPACE, "--wait=false")
    made.add(touch(served))
    served.wait_for(f"another {holder}", lambda: uid(served, holder) not in ("", before), 120)
    made.add(touch(served))
    served.kubectl("wait", "--for=condition=Ready", f"pod/{holder}", "-n", NAMESPACE, "--timeout=120s")
    served.kubectl("scale", f"statefulset/audit-{NAME}", "-n", RECEIVERS, "--replicas=1")
    wait_recorded(served, NAME, made, 120)


def stop(served: NodeDeployment, workload: str, selector: str, namespace: str = NAMESPACE) -> None:
    """Scale to nothing, and wait until no Pod is left."""
    served.kubectl("scale", workload, "-n", namespace, "--replicas=0")
    served.kubectl("wait", "--for=delete", "pod", "-n", namespace, "-l", selector, "--timeout=120s")


def spooled(served: NodeDeployment) -> dict[str, set[str]]:
    """By gateway Pod, the names of the objects in the events that wait in its spool for the pipeline's receivers."""
    command = ["auditpipeline", "spool", "show", SPOOL, "--of", f"audit-{NAME}", "--limit", "1000"]
    found = {}
    for pod in ("auditpipeline-gateway-0", "auditpipeline-gateway-1"):
        text = served.kubectl("exec", "-n", NAMESPACE, pod, "-c", "gateway", "--", *command)
        events = (json.loads(line) for line in text.splitlines())
        found[pod] = {event.get("objectRef", {}).get("name", "") for event in events}
    return found


def uid(served: NodeDeployment, pod: str) -> str:
    """Which Pod of that name there is now; empty where there is none."""
    return served.kubectl("get", "pod", pod, "-n", NAMESPACE, "--ignore-not-found", "-o", "jsonpath={.metadata.uid}")
