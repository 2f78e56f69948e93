"""What is lost when the gateway is away for too long: the status against the log file of the same API server."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from typing import Any

import pytest

from tests.cluster.deployment import NAMESPACE
from tests.cluster.local import LocalDeployment
from tests.cluster.processes import wait_for
from tests.cluster.rest import Refused, Rest
from tests.e2e.traffic import pipeline, recorded, restart_apiserver, touch, wait_led, wait_recorded
from tests.e2e.webhooks import background

pytestmark = pytest.mark.controlplane

ALL = {"level": "Metadata"}
NAME = "everything"


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalDeployment]:
    """auditpipeline beside an API server that writes a log of its own; it gives a batch up after some ten seconds."""
    data = tmp_path_factory.mktemp("logged")
    arguments = ("--resync", "5", "--status-interval", "1", "--canary-interval", "1")
    with LocalDeployment(data, operator_args=arguments, audit_log=data / "audit.log") as it:
        yield it


def key(event: dict[str, Any]) -> tuple[str, str]:
    return event["auditID"], event["stage"]


def log_of(it: LocalDeployment) -> list[dict[str, Any]]:
    """The events in the API server's own log, whole lines only."""
    assert it.cluster.audit.log is not None
    return [json.loads(line) for line in it.cluster.audit.log.read_bytes().split(b"\n")[:-1]]


def gaps(it: LocalDeployment, reason: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = it.get("auditpipeline", NAME).get("status", {}).get("gaps", [])
    return [gap for gap in found if gap["reason"] == reason]


def told(it: LocalDeployment) -> int:
    """How many events the operator has found lost so far, whatever the pipeline."""
    written = it.get("configmap", "auditpipeline-readings", "-n", NAMESPACE)["data"]["readings.json"]
    return sum(gap["events"] for gap in json.loads(written)["gaps"] if gap["cause"] == "Dropped")


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def test_a_gateway_that_is_away_for_too_long_is_told_with_numbers(logged: LocalDeployment) -> None:
    """Every event that the log has and the pipeline has not, is counted, and lies in a gap of the status."""
    logged.apply(pipeline(NAME, ALL))
    logged.wait_ready(NAME)
    logged.wait_for("a judgement", lambda: logged.condition(NAME, "AuditLoss").get("status") in ("True", "False"))
    # The gateway came after the API server, which had lost something by then. From this start on everything counts.
    logged.cluster.stop_apiserver()
    begun = len(log_of(logged))
    logged.cluster.start_apiserver()
    wait_led(logged)
    logged.wait_ready(NAME)
    earlier = told(logged)
    pod = gateway_pod(logged)
    logged.kubelet.hold(pod)
    made = {touch(logged) for _ in range(20)}
    logged.wait_for("a loss", lambda: told(logged) > earlier)
    logged.wait_for("EventsLost", lambda: logged.condition(NAME, "AuditLoss").get("reason") == "EventsLost")
    logged.kubelet.release(pod)
    logged.wait_ready(NAME)
    last = touch(logged)
    wait_recorded(logged, NAME, {last})
    assert not made <= recorded(logged, NAME)

    names = [event.get("objectRef", {}).get("name") for event in log_of(logged)]
    between = log_of(logged)[begun : names.index(last)]

    def lost() -> list[dict[str, Any]]:
        came = {key(event) for event in logged.events(NAME)}
        return [event for event in between if key(event) not in came]

    # What was on its way when the gateway came back arrives, or is given up.
    logged.wait_for("the same numbers", lambda: 0 < len(lost()) <= told(logged) - earlier)
    count = told(logged) - earlier
    print(f"\n{len(between)} events in the log, {len(lost())} not delivered, {count} told as lost")
    # A batch that the gateway had stored when it was killed, and had not answered yet, is counted all the same.
    assert count - len(lost()) <= 400
    gap = gaps(logged, "Dropped")[-1]
    for event in lost():
        assert seconds(gap["from"]) <= seconds(event["requestReceivedTimestamp"]) <= seconds(gap["to"])
    condition = logged.condition(NAME, "AuditLoss")
    assert condition["status"] == "True"
    assert gap["from"] in condition["message"]
    assert logged.condition(NAME)["status"] == "True"


def test_a_loss_that_is_acknowledged_is_history(logged: LocalDeployment) -> None:
    """The condition is False again, and the gap stays."""
    gap = gaps(logged, "Dropped")[-1]
    logged.kubectl("annotate", "auditpipeline", NAME, f"auditpipeline.dev/loss-acknowledged={gap['to']}")
    logged.wait_for("NoLoss", lambda: logged.condition(NAME, "AuditLoss").get("reason") == "NoLoss")
    assert gaps(logged, "Dropped")[-1] == gap


def test_a_restart_of_the_operator_forgets_no_gap_and_tells_none_twice(logged: LocalDeployment) -> None:
    """It goes on from what it wrote down."""
    before, lost = gaps(logged, "Dropped"), told(logged)
    logged.operator.stop()
    logged.operator.start()
    other = "after"
    logged.apply(pipeline(other, ALL))
    logged.wait_for("NoLoss", lambda: logged.condition(other, "AuditLoss").get("reason") == "NoLoss")
    assert gaps(logged, "Dropped") == before
    assert told(logged) == lost
    assert "gaps" not in logged.get("auditpipeline", other)["status"]


def test_a_restart_of_the_api_server_is_a_gap(logged: LocalDeployment) -> None:
    """It was killed: what it held is gone, and nobody counted it."""
    before = gaps(logged, "Restarted")
    restart_apiserver(logged)
    logged.wait_for("one more gap", lambda: len(gaps(logged, "Restarted")) > len(before))
    gap = gaps(logged, "Restarted")[-1]
    assert "events" not in gap
    assert seconds(gap["from"]) < seconds(gap["to"])
    assert logged.condition(NAME, "AuditLoss")["status"] == "False"


@pytest.mark.parametrize("victims", [("gateway",), ("kube-apiserver",), ("gateway", "kube-apiserver")], ids="+".join)
def test_what_is_killed_under_load_the_status_agrees_with_the_log(
    logged: LocalDeployment, victims: tuple[str, ...]
) -> None:
    """Emitted by the metrics, delivered by the status, lost by its gaps: each as the API server's own log counts it."""
    begun, earlier, former = len(log_of(logged)), told(logged), gaps(logged, "Restarted")
    with background(partial(load, logged)):
        wait_until_written(logged, begun + 200)
        if "gateway" in victims:
            logged.kill(gateway_pod(logged))
        if "kube-apiserver" in victims:
            logged.cluster.stop_apiserver()
            # Those are whole lines: what was answered is in the file.
            started = len(log_of(logged))
            logged.cluster.start_apiserver()
            wait_led(logged)
        wait_until_written(logged, len(log_of(logged)) + 200)
    logged.wait_ready(NAME)
    last = touch(logged)
    wait_recorded(logged, NAME, {last})
    names = [event.get("objectRef", {}).get("name") for event in log_of(logged)]
    between = log_of(logged)[begun : names.index(last)]

    def unexplained() -> list[dict[str, Any]]:
        """Lost, and in no gap of those seconds. What is retried still arrives, or is given up and told."""
        came = {key(event) for event in logged.events(NAME)}
        found = gaps(logged, "Dropped") + gaps(logged, "Restarted")
        spans = [(seconds(gap["from"]), seconds(gap["to"])) for gap in found]
        times = [(event, seconds(event["requestReceivedTimestamp"])) for event in between if key(event) not in came]
        return [event for event, at in times if not any(begins <= at <= ends for begins, ends in spans)]

    logged.wait_for("every lost event in a gap", lambda: not unexplained())
    if "kube-apiserver" in victims:
        logged.wait_for("a gap", lambda: len(gaps(logged, "Restarted")) > len(former))
        agree("emitted since the start", partial(emitted, logged), lambda: len(log_of(logged)) - started)
    archive = logged.kubelet.pod(f"audit-{NAME}-0").folder / "var/log/audit/events.jsonl"
    agree("delivered", partial(delivered, logged), lambda: archive.read_bytes().count(b"\n"))
    came = {key(event) for event in logged.events(NAME)}
    lost = [event for event in between if key(event) not in came]
    count = told(logged) - earlier
    print(
        f"\n{'+'.join(victims)}: {len(between)} events in the log, {len(lost)} not delivered, {count} told as dropped"
    )
    if "kube-apiserver" not in victims:
        assert len(lost) <= count <= len(lost) + 400
    assert logged.condition(NAME)["status"] == "True"


def load(it: LocalDeployment, stop: threading.Event) -> None:
    """Requests as fast as one client makes them, until `stop`; an API server that is away is waited for."""
    admin = it.cluster.authority.client("load", "load", ["system:masters"])
    rest = Rest(it.cluster.url, it.cluster.authority, admin)
    while not stop.is_set():
        try:
            rest("GET", "/api/v1/namespaces/default/configmaps?limit=1")
        except (OSError, Refused):
            stop.wait(0.2)
    rest.close()


def wait_until_written(it: LocalDeployment, events: int) -> None:
    it.cluster.wait_for(f"{events} events in the log", lambda: len(log_of(it)) >= events)


def gateway_pod(it: LocalDeployment) -> str:
    selector = "app.kubernetes.io/name=auditpipeline-gateway"
    names = it.kubectl("get", "pods", "-n", NAMESPACE, "-l", selector, "-o", "name").split()
    return names[0].removeprefix("pod/")


def emitted(it: LocalDeployment) -> int:
    """What the API server itself counts since its start."""
    found = re.search(r"^apiserver_audit_event_total (\S+)$", it.kubectl("get", "--raw", "/metrics"), re.MULTILINE)
    assert found
    return int(float(found[1]))


def delivered(it: LocalDeployment) -> int:
    """What the status of the pipeline says."""
    return int(it.get("auditpipeline", NAME)["status"]["events"]["delivered"])


def agree(what: str, one: Callable[[], int], other: Callable[[], int]) -> None:
    """Wait for a moment at which they do: both grow all the time, the one in the status some seconds later."""
    wait_for(f"{what}: the same number", lambda: other() <= one() <= other(), 60, ())
