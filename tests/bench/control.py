"""`make bench-control`: how fast and how heavy the controller is, in one run, as a table.

    apply -> Ready, apply -> first event     20 pipelines one after the other, real receivers (local processes)
    changed AuditSink -> gateway             a sink of somebody else, changed twenty times; aim: 2 s
    API requests a reconcile                 by verb: create, change, no-op resync
    memory and idle CPU                      with 1, 100 and 500 AuditPipelines; one process plays all receivers

Aims: Ready under 5 s, first event under 10 s, no write in a no-op resync, under 120 MB with 500 pipelines.
"""

from __future__ import annotations

import argparse
import itertools
import re
import ssl
import statistics
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.bench.crowd import Crowd
from tests.cluster.kubelet import LocalPod
from tests.cluster.local import LocalDeployment
from tests.cluster.processes import resident
from tests.cluster.rest import Rest

UNVERIFIED = ssl.create_default_context()
UNVERIFIED.check_hostname, UNVERIFIED.verify_mode = False, ssl.CERT_NONE
REQUESTS = re.compile(r"^auditpipeline_api_requests_total\{(.*)\} (\S+)$", re.MULTILINE)
RESYNC = 20.0
PARTS = ("latencies", "sinks", "requests", "crowd")
CHOSEN = {"level": "Metadata", "verbs": ["create"], "resources": [{"group": "", "resources": ["configmaps"]}]}
numbers = itertools.count()


def pipeline(name: str, verb: str = "create") -> dict[str, Any]:
    """A pipeline with one file output, which asks for what the default static policy emits."""
    return {
        "apiVersion": "auditpipeline.dev/v1alpha1",
        "kind": "AuditPipeline",
        "metadata": {"name": name},
        "spec": {
            "policy": {"rules": [{**CHOSEN, "verbs": [verb]}]},
            "outputs": [{"name": "archive", "file": {"path": "/var/log/audit/events.jsonl"}}],
            "webhook": {"replicas": 1, "storage": {"ephemeral": True, "size": "2Gi"}},
        },
    }


def requests(deployment: LocalDeployment) -> Counter[str]:
    """The operator's API requests so far, by verb."""
    with urllib.request.urlopen(f"https://{deployment.health}/metrics", context=UNVERIFIED) as answer:
        text = answer.read().decode()
    found: Counter[str] = Counter()
    for labels, value in REQUESTS.findall(text):
        verb = re.search(r'verb="(\w+)"', labels)
        found[verb[1] if verb else "?"] += int(float(value))
    return found


def latencies(deployment: LocalDeployment, count: int) -> tuple[list[float], list[float]]:
    """Seconds from apply to Ready, and to the first event in the file, of `count` new pipelines."""
    ready, first = [], []
    for _ in range(count):
        name = f"b{next(numbers)}"
        stop = threading.Event()
        maker = threading.Thread(target=_make_events, args=(deployment, stop))
        maker.start()
        began = time.monotonic()
        deployment.apply(pipeline(name))
        deployment.wait_ready(name)
        ready.append(time.monotonic() - began)
        deployment.wait_for("an event", lambda name=name: bool(deployment.events(name)))  # type: ignore[misc]
        first.append(time.monotonic() - began)
        stop.set()
        maker.join()
        deployment.kubectl("delete", "auditpipeline", name)
    return ready, first


def sink_changes(deployment: LocalDeployment, count: int) -> list[float]:
    """Seconds from the change of an AuditSink to the gateway's own report that the change is in force."""
    name, took = f"s{next(numbers)}", []
    pods = deployment.kubectl("get", "pods", "-A", "-l", "app.kubernetes.io/name=auditpipeline-gateway", "-o", "name")
    gateway = deployment.kubelet.pod(pods.split()[0].removeprefix("pod/"))
    settled(deployment)
    for number in range(count + 1):
        before, began = gateway_config(gateway), time.monotonic()
        deployment.apply(sink(name, number))
        while gateway_config(gateway) == before:
            time.sleep(0.02)
        took.append(time.monotonic() - began)
    deployment.kubectl("delete", "auditsink", name)
    return took[1:]  # the first one made it


def sink(name: str, number: int) -> dict[str, Any]:
    """An AuditSink at which nobody is; each number gives another one."""
    client = {"url": "https://127.0.0.1:1/"}
    return {
        "apiVersion": "auditregistration.k8s.io/v1alpha1",
        "kind": "AuditSink",
        "metadata": {"name": name},
        "spec": {
            "policy": {"level": "Metadata", "stages": ["Panic"]},
            "webhook": {"clientConfig": client, "throttle": {"qps": 1 + number}},
        },
    }


def gateway_config(gateway: LocalPod) -> int:
    """How many configurations the gateway has put in force, by its own log."""
    return (gateway.folder / "log").read_bytes().count(b"the configuration is in force")


def _make_events(deployment: LocalDeployment, stop: threading.Event) -> None:
    authority = deployment.cluster.authority
    rest = Rest(deployment.cluster.url, authority, authority.client("bench", "bench", ["system:masters"]))
    while not stop.wait(0.1):
        body = {"metadata": {"generateName": "bench-"}, "data": {}}
        rest("POST", "/api/v1/namespaces/default/configmaps", body)
    rest.close()


def request_counts(deployment: LocalDeployment) -> dict[str, Counter[str]]:
    """API requests for a new pipeline, a changed one, and a resync of an unchanged one."""
    name = f"b{next(numbers)}"

    def during(act: Callable[[], None]) -> Counter[str]:
        before = settled(deployment)
        act()
        return settled(deployment) - before

    def change() -> None:
        deployment.apply(pipeline(name, "delete"))
        deployment.wait_ready(name)

    def create() -> None:
        deployment.apply(pipeline(name))
        deployment.wait_ready(name)

    counts = {"create": during(create), "change": during(change)}
    deployment.wait_for("a first canary", lambda: "canary" in deployment.get("auditpipeline", name)["status"])
    before = settled(deployment)
    time.sleep(2.5 * RESYNC)
    counts["two resyncs, unchanged"] = requests(deployment) - before
    deployment.kubectl("delete", "auditpipeline", name)
    return counts


def settled(deployment: LocalDeployment) -> Counter[str]:
    """The counts when nothing but reading and the Lease went on for three seconds."""
    last, since = requests(deployment), time.monotonic()
    while time.monotonic() - since < 3:
        time.sleep(0.2)
        now = requests(deployment)
        if now["patch"] != last["patch"] or now["create"] != last["create"]:
            last, since = now, time.monotonic()
    return requests(deployment)


def crowd(deployment: LocalDeployment, sizes: list[int]) -> Iterator[tuple[int, float, float, float]]:
    """For each number of pipelines: seconds until all are Ready, RSS in MB, idle CPU in percent of one core."""
    made = 0
    for size in sizes:
        began = time.monotonic()
        deployment.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(pipeline(f"c{i}") for i in range(made, size)))
        made = size
        deployment.wait_for(f"{size} Ready", lambda size=size: _ready_count(deployment) >= size, 900)  # type: ignore[misc]
        took = time.monotonic() - began
        settled(deployment)
        before, at = _cpu(deployment.operator.pid), time.monotonic()
        time.sleep(2 * RESYNC)
        busy = (_cpu(deployment.operator.pid) - before) / (time.monotonic() - at)
        yield size, took, resident(deployment.operator.pid) / 1e6, 100 * busy


def _ready_count(deployment: LocalDeployment) -> int:
    path = "{.items[*].status.conditions[?(@.type=='Ready')].status}"
    return deployment.kubectl("get", "auditpipelines", "-o", f"jsonpath={path}").split().count("True")


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def spread(title: str, values: list[float]) -> str:
    """Median and 95th percentile as a line."""
    p95 = statistics.quantiles(values, n=20)[-1] if len(values) > 1 else values[0]
    return f"{title:<24} p50 {statistics.median(values):6.2f} s   p95 {p95:6.2f} s   of {len(values)}"


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=20, help="pipelines for the latencies")
    parser.add_argument("--sizes", type=int, nargs="*", default=[1, 100, 500], help="numbers of pipelines for memory")
    parser.add_argument("--only", choices=PARTS, help="measure this part alone")
    options = parser.parse_args()
    parts = (options.only,) if options.only else PARTS
    with tempfile.TemporaryDirectory() as folder:
        if parts != ("crowd",):
            with LocalDeployment(Path(folder) / "a", operator_args=("--resync", str(RESYNC))) as deployment:
                _small(deployment, parts, options.count)
        if "crowd" in parts:
            with LocalDeployment(Path(folder) / "b", operator_args=("--resync", str(RESYNC))) as deployment:
                _large(deployment, options.sizes)


def _small(deployment: LocalDeployment, parts: Sequence[str], count: int) -> None:
    if "latencies" in parts:
        titles = ("apply -> Ready", "apply -> first event")
        for title, values in zip(titles, latencies(deployment, count), strict=True):
            print(spread(title, values), flush=True)
    if "sinks" in parts:
        print(spread("AuditSink -> gateway", sink_changes(deployment, count)), flush=True)
    if "requests" in parts:
        for title, counts in request_counts(deployment).items():
            print(f"requests: {title:<22} {dict(sorted(counts.items()))}", flush=True)


def _large(deployment: LocalDeployment, sizes: list[int]) -> None:
    authority = deployment.cluster.authority
    rest = Rest(deployment.cluster.url, authority, authority.client("crowd", "crowd", ["system:masters"]))
    everybody = Crowd(rest, "127.99.0.1")
    everybody.start()
    deployment.kubelet.pretend = everybody.address
    print(f"{'pipelines':>10} {'all Ready':>12} {'RSS':>10} {'idle CPU':>10}", flush=True)
    for size, took, memory, busy in crowd(deployment, sizes):
        print(f"{size:>10} {took:>10.1f} s {memory:>7.0f} MB {busy:>8.1f} %", flush=True)
    everybody.stop()


if __name__ == "__main__":
    main()
