"""How long a real kube-apiserver keeps a batch that is refused, by how it is refused: `python -m tests.bench.refusal`.

One control plane for each refusal, with kube-apiserver's default backoff and a webhook that refuses everything. One
request is audited; printed is when its batch came (seconds after the first time), and when it came last: a receiver
that works again by then loses nothing. The result decides what `dataplane/server.py` answers.

Takes ten minutes: a batch is held for given up when nothing came for 100 s.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.cluster.controlplane import ControlPlane

MARKER = "refused"
POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata", "verbs": ["create"], "resources": [{"group": "", "resources": ["configmaps"]}]}],
}


class Refusal(NamedTuple):
    """An answer; `after` is the value of Retry-After."""

    status: int
    after: int | None = None

    def __str__(self) -> str:
        return f"{self.status}, Retry-After: {self.after}" if self.after is not None else str(self.status)


REFUSALS = (
    Refusal(503),
    Refusal(503, 1),
    Refusal(503, 5),
    Refusal(503, 15),
    Refusal(503, 60),
    Refusal(429),
    Refusal(429, 1),
    Refusal(429, 5),
)


class Seen:
    """When the batch with the marker came, seconds on a clock that only goes forward."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times: list[float] = []

    def note(self, body: bytes) -> None:
        """Looks whether a body is that batch."""
        names = [event.get("objectRef", {}).get("name") for event in json.loads(body)["items"]]
        if MARKER in names:
            with self._lock:
                self._times.append(time.monotonic())

    @property
    def times(self) -> list[float]:
        """All so far."""
        with self._lock:
            return list(self._times)


@contextmanager
def refusing(refusal: Refusal) -> Iterator[tuple[int, Seen]]:
    """A webhook that refuses everything; its port, and what it has seen."""
    seen = Seen()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            seen.note(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(refusal.status)
            self.send_header("Content-Length", "0")
            if refusal.after is not None:
                self.send_header("Retry-After", str(refusal.after))
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port, seen
    finally:
        server.shutdown()
        server.server_close()


def measure(refusal: Refusal, quiet: float) -> list[float]:
    """The times at which the batch came, until nothing came for `quiet` seconds; the first is 0."""
    with tempfile.TemporaryDirectory() as folder, refusing(refusal) as (port, seen):
        policy, webhook = Path(folder, "policy.yaml"), Path(folder, "webhook.yaml")
        policy.write_text(yaml.safe_dump(POLICY))
        webhook.write_text(yaml.safe_dump(kubeconfig(f"http://127.0.0.1:{port}/audit")))
        # The tests' clusters retry sooner: back to kube-apiserver's default.
        default = ["--audit-webhook-initial-backoff=10s"]
        with ControlPlane(
            audit_policy=policy, audit_webhook_kubeconfig=webhook, extra_apiserver_args=default
        ) as cluster:
            cluster.kubectl("create", "configmap", MARKER, "-n", "default")
            cluster.wait_for("the first try", lambda: bool(seen.times))
            cluster.wait_for("the last try", lambda: time.monotonic() - seen.times[-1] > quiet, 3600)
        times = seen.times
    return [at - times[0] for at in times]


def kubeconfig(url: str) -> dict[str, Any]:
    """What --audit-webhook-config-file reads."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "webhook", "cluster": {"server": url}}],
        "contexts": [{"name": "webhook", "context": {"cluster": "webhook", "user": ""}}],
        "current-context": "webhook",
    }


def main() -> None:
    """Measures all of them, a few at once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quiet", type=float, default=100.0, help="seconds without a try after which it is given up")
    parser.add_argument("--at-once", type=int, default=4, help="control planes at once (4)")
    parser.add_argument("refusal", nargs="*", type=parsed, help="STATUS or STATUS:RETRY-AFTER (default: a selection)")
    options = parser.parse_args()
    wanted = options.refusal or REFUSALS
    with ThreadPoolExecutor(options.at_once) as pool:
        for refusal, times in zip(wanted, pool.map(lambda each: measure(each, options.quiet), wanted), strict=True):
            shown = " ".join(f"{at:.0f}" for at in times)
            print(f"{refusal!s:24} {len(times):4} tries, the last after {times[-1]:4.0f} s: {shown}", flush=True)


def parsed(text: str) -> Refusal:
    """`503` or `503:5`."""
    status, _, after = text.partition(":")
    return Refusal(int(status), int(after) if after else None)


if __name__ == "__main__":
    main()
