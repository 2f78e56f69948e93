"""AuditSinks that no AuditPipeline made, at the gateway of a real control plane: isolated, complete, changed in use.

Events come from kube-apiserver itself and, for the load, in batches like its own, posted with its certificate. Nothing
here is asserted of times: how long it took is printed.
"""

from __future__ import annotations

import base64
import http.client
import itertools
import json
import re
import ssl
import statistics
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
import yaml

from auditpipeline.control.desired_gateway import read
from auditpipeline.control.names import gateway_config_secret
from auditpipeline.core import packing
from tests.cluster.deployment import NAMESPACE, ROOT
from tests.cluster.local import LocalDeployment
from tests.cluster.processes import resident
from tests.cluster.rest import Rest
from tests.control.test_reconcile_shards import certificates
from tests.e2e.webhooks import Key, Webhook, Webhooks, background, sink

pytestmark = [pytest.mark.controlplane, pytest.mark.timeout(600)]

BATCHES = sorted((ROOT / "tests" / "data" / "batches").glob("*.json"))
LOAD_SECONDS, RATE = 20.0, 1000
LAG = re.compile(r'^auditpipeline_output_lag_seconds\{output="([^"]+)"\} (\S+)$', re.MULTILINE)
MAY_GROW = 24.0
"""MB that the gateway may grow while it is loaded: much less than what waits for the bad sinks meanwhile."""
numbers = itertools.count()


@pytest.fixture(scope="module")
def webhooks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Webhooks]:
    """Webhooks on loopback."""
    with Webhooks(tmp_path_factory.mktemp("webhooks")) as made:
        yield made


@pytest.fixture
def names(local: LocalDeployment) -> Iterator[list[str]]:
    """Sinks to delete afterwards."""
    made: list[str] = []
    yield made
    local.kubectl("delete", "auditsinks", "--ignore-not-found", *made)


def register(local: LocalDeployment, names: list[str], *sinks: dict[str, Any]) -> None:
    """Apply the sinks; returns when each gateway posts to them."""
    names += [body["metadata"]["name"] for body in sinks]
    local.apply(*sinks)
    for body in sinks:
        wait_in_force(local, body["metadata"]["name"])


def ready(local: LocalDeployment, name: str) -> tuple[bool, str, str]:
    """Whether the status speaks of the newest spec, and status and reason of Ready."""
    body = local.get("auditsink", name)
    status = body.get("status", {})
    found = [entry for entry in status.get("conditions", ()) if entry["type"] == "Ready"]
    newest = status.get("observedGeneration") == body["metadata"]["generation"]
    return newest, *((found[0]["status"], found[0]["reason"]) if found else ("", ""))


def wait_in_force(local: LocalDeployment, name: str) -> None:
    """Wait until every gateway posts to the sink as it is now, whether it takes events or not."""
    local.wait_for(
        f"{name} in force", lambda: ready(local, name) in ((True, "True", "Registered"), (True, "False", "Failing"))
    )


class Poster:
    """Posts batches to the gateway as kube-apiserver does: until they are answered with 200."""

    def __init__(self, local: LocalDeployment, folder: Path) -> None:
        user = yaml.safe_load((local.bootstrap / "webhook.kubeconfig").read_text())["users"][0]["user"]
        (folder / "crt").write_bytes(base64.b64decode(user["client-certificate-data"]))
        (folder / "key").write_bytes(base64.b64decode(user["client-key-data"]))
        context = ssl.create_default_context(cafile=str(local.bootstrap / "ca.crt"))
        context.load_cert_chain(folder / "crt", folder / "key")
        address = urlsplit(f"//{local.address}")
        self._connection = http.client.HTTPSConnection(address.hostname or "", address.port, context=context)
        self._batches = [json.loads(path.read_bytes()) for path in BATCHES]
        self.posted: set[Key] = set()

    def post(self, size: int) -> None:
        """One batch of real events under new names."""
        source = self._batches[next(numbers) % len(self._batches)]
        events = itertools.islice(itertools.cycle(source["items"]), size)
        items = [dict(event, auditID=str(uuid.uuid4())) for event in events]
        body = json.dumps(source | {"items": items})
        while True:
            self._connection.request("POST", "/audit", body, {"Content-Type": "application/json"})
            answer = self._connection.getresponse()
            answer.read()
            if answer.status == 200:
                break
            time.sleep(0.2)
        self.posted |= {(event["auditID"], event["stage"]) for event in items}

    def load(self, seconds: float, rate: int) -> int:
        """So many events a second, as far as the gateway takes them; how many there were."""
        size, began, count = 100, time.monotonic(), 0
        while (passed := time.monotonic() - began) < seconds:
            if count > passed * rate:
                time.sleep(0.01)
                continue
            self.post(size)
            count += size
        return count

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class Requests:
    """Requests to kube-apiserver that sinks are to hear of: ConfigMaps, one after the other, until told to stop."""

    def __init__(self, local: LocalDeployment, pause: float) -> None:
        self.made: list[str] = []
        self._local, self._pause = local, pause

    def __call__(self, stop: threading.Event) -> None:
        authority = self._local.cluster.authority
        rest = Rest(self._local.cluster.url, authority, authority.client("sinks", "sinks", ["system:masters"]))
        while not stop.wait(self._pause):
            name = f"sink-marker-{next(numbers)}"
            rest("POST", "/api/v1/namespaces/default/configmaps", {"metadata": {"name": name}})
            self.made.append(name)
        rest.close()


class Watch:
    """Memory of the gateway and the lag of each sink, twice a second."""

    def __init__(self, local: LocalDeployment) -> None:
        pod = local.kubectl(
            *["get", "pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/name=auditpipeline-gateway"],
            *["-o", "jsonpath={.items[0].metadata.name}"],
        )
        self._pod = local.kubelet.pod(pod)
        self.memory: list[float] = []
        self.lags: dict[str, float] = {}

    def __call__(self, stop: threading.Event) -> None:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        while not stop.wait(0.5):
            self.memory.append(resident(self._pod.process.pid) / 1e6)
            with urlopen(f"https://{self._pod.address}:9444/metrics", timeout=20, context=context) as answer:
                for name, value in LAG.findall(answer.read().decode()):
                    self.lags[name] = max(self.lags.get(name, 0.0), float(value))

    def growth(self) -> float:
        """MB between the second quarter of the run and the last; the first one fills caches."""
        quarter = len(self.memory) // 4
        return statistics.median(self.memory[-quarter:]) - statistics.median(self.memory[quarter : 2 * quarter])


def test_bad_sinks_cost_the_others_nothing_and_get_everything_in_the_end(
    local: LocalDeployment, webhooks: Webhooks, names: list[str], tmp_path: Path
) -> None:
    """Ten sinks: one hangs, one answers 500, one is ten times slower. The other seven have every event meanwhile, the
    gateway does not grow, and the three have every event once they are well again."""
    bad = {f"s-{mood}": webhooks.serve(mood) for mood in ("hanging", "refusing", "slow")}
    good = {f"s-good-{number}": webhooks.serve() for number in range(7)}
    register(local, names, *(sink(name, webhooks.client(webhook)) for name, webhook in (good | bad).items()))
    poster, requests, watch = Poster(local, tmp_path), Requests(local, 0.05), Watch(local)
    poster.post(100)
    with background(watch):
        began = time.monotonic()
        with background(requests):
            count = poster.load(LOAD_SECONDS, RATE)
        took = time.monotonic() - began
        for name, webhook in good.items():
            local.wait_for(f"every event at {name}", lambda it=webhook: complete(it, poster, requests))  # type: ignore[misc]
        behind = time.monotonic() - began - took
    assert [name for name in ("s-hanging", "s-refusing") if bad[name].taken] == []
    assert bad["s-refusing"].requests > 1
    local.wait_for("Failing", lambda: ready(local, "s-refusing") == (True, "False", "Failing"))
    lags = {name: max(watch.lags.get(each, 0.0) for each in found) for name, found in (("good", good), ("bad", bad))}
    print(
        f"\n{count} events at {count / took:.0f}/s to {len(good)} good and {len(bad)} bad sinks; the good ones were "
        f"done {behind:.1f} s after the last; largest lag {lags['good']:.1f} s of the good, {lags['bad']:.1f} s of the "
        f"bad; gateway {watch.memory[0]:.0f} -> {watch.memory[-1]:.0f} MB, grew {watch.growth():.1f} MB"
    )
    assert watch.growth() < MAY_GROW
    began = time.monotonic()
    for webhook in bad.values():
        webhooks.behave(webhook, "good")
    for name, webhook in bad.items():
        local.wait_for(f"every event at {name}", lambda it=webhook: complete(it, poster, requests), 180)  # type: ignore[misc]
    print(f"the bad ones had everything {time.monotonic() - began:.1f} s after they were well again")
    for name in bad:
        local.wait_for(f"{name} is Ready", lambda name=name: ready(local, name) == (True, "True", "Registered"))  # type: ignore[misc]
    local.wait_for(
        "the counters", lambda: local.get("auditsink", "s-slow")["status"]["delivered"] >= len(poster.posted)
    )
    assert local.get("auditsink", "s-slow")["status"]["dropped"] == 0
    poster.close()


def complete(webhook: Webhook, poster: Poster, requests: Requests) -> bool:
    """Whether the webhook has taken every event that was posted, and every one of kube-apiserver's own."""
    return poster.posted <= webhook.taken and set(requests.made) <= webhook.names


def test_a_sink_that_is_changed_while_it_is_used_loses_nothing(
    local: LocalDeployment, webhooks: Webhooks, names: list[str]
) -> None:
    """To another webhook and back, with another throttle each time, and away from one that hangs: what was made since
    it was first in force is at one of them."""
    places = [webhooks.serve(), webhooks.serve(), webhooks.serve("hanging")]
    register(local, names, sink("moving", webhooks.client(places[0])))
    requests = Requests(local, 0.02)
    with background(requests):
        for number, place in enumerate((1, 0, 2, 1)):
            changed = sink("moving", webhooks.client(places[place]), throttle={"qps": 50 + number, "burst": 50})
            heard = len(requests.made)
            local.apply(changed)
            began = time.monotonic()
            wait_in_force(local, "moving")
            took, during = time.monotonic() - began, len(requests.made) - heard
            print(f"change {number + 1} in force after {took:.1f} s, with {during} requests meanwhile")
            if places[place].mood == "good":
                after = requests.made[-1]
                local.wait_for("a later one at the new webhook", lambda p=place, a=after: a in places[p].names)  # type: ignore[misc]
    made = set(requests.made)
    local.wait_for("all of them", lambda: made <= places[0].names | places[1].names)
    assert places[0].names & made
    assert places[1].names & made
    assert not places[2].names


def test_a_sink_that_is_new_or_gone_costs_the_others_nothing(
    local: LocalDeployment, webhooks: Webhooks, names: list[str]
) -> None:
    """One that stays hears of everything while others come and go."""
    stays, comes = webhooks.serve(), webhooks.serve()
    register(local, names, sink("stays", webhooks.client(stays)))
    requests = Requests(local, 0.02)
    with background(requests):
        for level in ("Metadata", "Request"):
            register(local, names, sink("comes", webhooks.client(comes), level))
            latest = requests.made[-1]
            local.wait_for("one of them at the newcomer", lambda: bool(comes.names & set(requests.made)))
            local.kubectl("delete", "auditsink", "comes")
            local.wait_for("a later one", lambda a=latest: a in stays.names)  # type: ignore[misc]
    local.wait_for("all of them", lambda: set(requests.made) <= stays.names)


def places(local: LocalDeployment) -> dict[str, set[str]]:
    """The Secrets of the gateway's configuration that each route is in."""
    label = "app.kubernetes.io/name=auditpipeline-gateway"
    listed = json.loads(local.kubectl("get", "secrets", "-n", NAMESPACE, "-l", label, "-o", "json"))["items"]
    stored = {secret["metadata"]["name"]: secret for secret in listed}
    found: dict[str, set[str]] = {}
    for number in range(packing.SHARDS):
        shard = read(number, stored.get(gateway_config_secret(number), {}))
        for name in shard.held.routes if shard else ():
            found.setdefault(name, set()).add(gateway_config_secret(number))
    return found


def apply(local: LocalDeployment, body: dict[str, Any]) -> None:
    """Apply a sink that is too large for kubectl's annotation."""
    local.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(body))


def test_sinks_that_outgrow_a_secret_lose_nothing_and_one_that_is_deleted_hears_no_more(
    local: LocalDeployment, webhooks: Webhooks, names: list[str]
) -> None:
    """The one that grows moves to another Secret while it is used; a small one comes although the first is full."""
    fills, grows, comes = webhooks.serve(), webhooks.serve(), webhooks.serve()
    trusted = webhooks.authority.ca.read_bytes()

    def large(name: str, webhook: Webhook) -> dict[str, Any]:
        bundle = base64.b64encode(trusted + certificates(700)).decode()
        return sink(name, {**webhooks.client(webhook), "caBundle": bundle})

    names.append("s-fills")
    apply(local, large("s-fills", fills))
    wait_in_force(local, "s-fills")
    register(local, names, sink("s-grows", webhooks.client(grows)))
    first = gateway_config_secret(0)
    assert {name: at for name, at in places(local).items() if name in names} == {"s-fills": {first}, "s-grows": {first}}
    requests = Requests(local, 0.02)
    with background(requests):
        apply(local, large("s-grows", grows))
        wait_in_force(local, "s-grows")
        local.wait_for("moved", lambda: places(local)["s-grows"] == {gateway_config_secret(1)})
        register(local, names, sink("s-comes", webhooks.client(comes)))
        local.kubectl("delete", "auditsink", "s-fills")

        def over() -> bool:
            """One that is made now reaches the others alone."""
            last, before = requests.made[-1], set(fills.names)
            local.wait_for("it at the others", lambda: {last} <= grows.names & comes.names)
            return "s-fills" not in places(local) and fills.names == before

        local.wait_for("no more for the one that is deleted", over)
    local.wait_for("all of them", lambda: set(requests.made) <= grows.names)
    assert local.get("auditsink", "s-grows")["status"]["dropped"] == 0
