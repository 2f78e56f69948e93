"""`auditpipeline run` in front of a real kube-apiserver: its kubeconfig and its audit log, as they are."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.running import COMMAND, Bench, archive, pipeline
from tests.cluster.controlplane import ControlPlane
from tests.cluster.processes import wait_for

pytestmark = pytest.mark.controlplane

POLICY = """
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, users: ["system:apiserver"]}
- {level: Request, users: ["alice"], resources: [{resources: ["configmaps"]}]}
- {level: None}
"""


@contextmanager
def running(bench: Bench, *arguments: str) -> Iterator[None]:
    """A process that is ready."""
    bench.log.write_bytes(b"")
    with (
        bench.log.open("ab") as errors,
        subprocess.Popen([*COMMAND, *bench.arguments(*arguments)], stderr=errors) as run,
    ):
        try:
            wait_for("auditpipeline run", lambda: bool(bench.lines("ready")) or run.poll() is not None, 30)
            yield
        finally:
            run.terminate()
            assert run.wait(30) == 0


def made_by_alice(bench: Bench) -> list[str]:
    """What alice made, by the events that were delivered."""
    path = bench.output()
    events = [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []
    return [event["objectRef"]["name"] for event in events if event["user"]["username"] == "alice"]


def test_a_real_kube_apiserver_posts_with_the_kubeconfig_and_its_log_is_read(tmp_path: Path) -> None:
    """One run behind --audit-webhook-config-file, another one behind --audit-log-path: both get the same event."""
    shutil.rmtree(tmp_path, ignore_errors=True)
    policy = tmp_path / "policy.yaml"
    webhook, log = Bench(tmp_path / "webhook"), Bench(tmp_path / "log")
    for bench in (webhook, log):
        bench.folder.mkdir(parents=True)
        bench.write(pipeline(archive(), policy={"rules": [{"level": "Request"}]}))
    policy.write_text(POLICY)
    kubeconfig, audit_log = tmp_path / "audit.kubeconfig", tmp_path / "audit.log"
    with (
        running(webhook, "--write-kubeconfig", str(kubeconfig)),
        running(log, "--audit-log", str(audit_log)),
        ControlPlane(
            audit_policy=policy,
            audit_webhook_kubeconfig=kubeconfig,
            audit_log=audit_log,
            extra_apiserver_args=["--audit-webhook-batch-max-wait=1s"],
        ) as cluster,
    ):
        alice = cluster.user_kubeconfig("alice", ["system:masters"])
        cluster.kubectl("create", "configmap", "seen", kubeconfig=alice)
        wait_for("the event, by webhook", lambda: "seen" in made_by_alice(webhook), 30)
        wait_for("the event, by log", lambda: "seen" in made_by_alice(log), 30)
