"""A kubelet and a kube-proxy for the control plane alone: our Pods run as local processes.

    Pod (made by the real StatefulSet and DaemonSet controllers)
      -> bound to the Node `local` -> volumes written below a folder -> `auditpipeline serve --root FOLDER`
      -> an address of its own in 127.0.0.0/8 as podIP -> Ready when its readiness probe answers
    Service -> a forwarder on its ClusterIP (a loopback address) to the Ready Pods

Everything else is real: controllers, garbage collection, Secrets, TLS. Only Pods of auditpipeline are run, and of their
specification only what those use: arguments, Secret and other volumes, the readiness probe. Secrets are looked at in
every round, so that a change is in the Pod's folder within a fraction of a second.
"""

from __future__ import annotations

import base64
import hashlib
import os
import random
import shutil
import signal
import ssl
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from .controlplane import ControlPlane
from .processes import Process
from .proxy import Proxy
from .rest import MERGE, Refused, Rest

NODE = "local"
ROUND = 0.2
"""Seconds between two looks at the cluster."""
PODS = "/api/v1/pods?labelSelector=app.kubernetes.io%2Fname%20in%20(auditpipeline-receiver,auditpipeline-gateway)"
SERVICES = "/api/v1/services?labelSelector=app.kubernetes.io%2Fmanaged-by%3Dauditpipeline"
GATEWAY = "auditpipeline-gateway"


class LocalPod:
    """One Pod as a process: its folder, its address and what kubelet would know of it."""

    def __init__(self, pod: dict[str, Any], folder: Path, address: str, audit: str | None) -> None:
        self.name, self.namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        self.path = f"/api/v1/namespaces/{self.namespace}/pods/{self.name}"
        self.address = address
        self.folder = folder
        self.ready: bool | None = None
        self.restarts = 0
        self.app = pod["metadata"]["labels"]["app.kubernetes.io/name"]
        self._spec = pod["spec"]
        self._audit = audit
        self._container = pod["spec"]["containers"][0]
        self.process = Process(self.name, self._command(), folder / "log", cwd=folder)

    def _command(self) -> list[str]:
        arguments = [self._inside(argument) for argument in self._container["args"]]
        ports = {port["name"]: port["containerPort"] for port in self._container["ports"]}
        audit = self._audit or f"{self.address}:{ports['audit']}"
        listen = ["--listen-audit", audit, "--listen-ops", f"{self.address}:{ports['ops']}"]
        return [sys.executable, "-m", "auditpipeline.cli.main", *arguments, "--root", str(self.folder), *listen]

    def _inside(self, argument: str) -> str:
        return f"{self.folder}{argument}" if argument.startswith("/") else argument

    def mounts(self) -> Iterator[tuple[Path, dict[str, Any], str]]:
        """Each mount as (folder, volume, subPath)."""
        volumes = {volume["name"]: volume for volume in self._spec.get("volumes", [])}
        for mount in self._container.get("volumeMounts", []):
            target = self.folder / mount["mountPath"].lstrip("/")
            yield target, volumes[mount["name"]], mount.get("subPath", "")

    def probe(self) -> bool:
        """Whether the readiness probe answers; kubelet does not verify certificates either."""
        check = self._container["readinessProbe"]["httpGet"]
        ports = {port["name"]: port["containerPort"] for port in self._container["ports"]}
        port = ports.get(check["port"], check["port"])
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            with urlopen(f"https://{self.address}:{port}{check['path']}", timeout=2, context=context) as answer:
                return bool(answer.status == 200)
        except (URLError, OSError):
            return False


class LocalKubelet:
    """Runs our Pods of `cluster` in a thread, between `start()` and `stop()`.

    `audit` is the address at which the gateway takes audit; `bootstrap` the folder mounted as its bootstrap files.
    """

    def __init__(self, cluster: ControlPlane, audit: str, bootstrap: Path) -> None:
        self._cluster, self._audit, self._bootstrap = cluster, audit, bootstrap
        self._rest = Rest(
            cluster.url, cluster.authority, cluster.authority.client("local-kubelet", "kubelet", ["system:masters"])
        )
        self._folder = cluster.data / "kubelet"
        self._prefix = f"127.{random.randint(100, 250)}.{random.randint(1, 250)}"
        self._pods: dict[str, LocalPod] = {}
        self._taken = 0
        self._proxy = Proxy()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="local-kubelet", daemon=True)
        self._beat = 0.0
        self._held: set[str] = set()
        self.errors: list[str] = []
        self.pretend: str | None = None
        """Where receivers are said to run, instead of running them: for many Pods on a small machine."""

    def start(self) -> None:
        """Register the node and start to look."""
        self._rest("POST", "/api/v1/nodes", _node())
        self._proxy.start()
        self._thread.start()

    def stop(self) -> None:
        """Kill every Pod."""
        self._stop.set()
        self._thread.join()
        for pod in self._pods.values():
            pod.process.stop()
        self._proxy.stop()
        self._rest.close()

    def pod(self, name: str) -> LocalPod:
        """The running Pod of that name; KeyError where there is none."""
        return next(pod for pod in self._pods.values() if pod.name == name)

    def kill(self, name: str) -> None:
        """`kill -9` on the Pod's process; it is started again in the next round."""
        os.kill(self.pod(name).process.pid, signal.SIGKILL)

    def hold(self, name: str) -> None:
        """Stop the Pod's process and leave it down until `release`."""
        self._held.add(name)
        self.kill(name)

    def release(self, name: str) -> None:
        """Let a held Pod start again."""
        self._held.discard(name)

    def _run(self) -> None:
        while not self._stop.wait(ROUND):
            try:
                self._round()
            except (OSError, Refused) as error:
                self.errors.append(str(error))  # the API server is gone, or changed its mind: look again

    def _round(self) -> None:
        self._heartbeat()
        found = {pod["metadata"]["uid"]: pod for pod in self._rest("GET", PODS)["items"]}
        for uid in self._pods.keys() - found.keys():
            self._pods.pop(uid).process.stop(signal.SIGTERM, timeout=10)
        for uid, pod in found.items():
            self._tend(uid, pod)
        ready = {(pod.namespace, pod.name): pod.address for pod in self._pods.values() if pod.ready}
        self._proxy.update(self._rest("GET", SERVICES)["items"], found.values(), ready)

    def _tend(self, uid: str, pod: dict[str, Any]) -> None:
        if pod["metadata"].get("deletionTimestamp"):
            self._end(uid, pod)
        elif pod["spec"].get("nodeName", NODE) == NODE:
            local = self._pods.get(uid) or self._adopt(uid, pod)
            if not _says(pod, local.ready):  # what was told is gone: etcd was restored
                local.ready = None
            if self.pretend and pod["metadata"]["labels"]["app.kubernetes.io/name"] != GATEWAY:
                local.address = self.pretend
                self._say(local, ready=True)
                return
            if self._mounted(local):
                self._keep_running(local)
            self._tell(local)

    def _adopt(self, uid: str, pod: dict[str, Any]) -> LocalPod:
        self._taken += 1
        folder = self._folder / uid
        folder.mkdir(parents=True)
        gateway = pod["metadata"]["labels"]["app.kubernetes.io/name"] == GATEWAY
        local = LocalPod(pod, folder, f"{self._prefix}.{self._taken}", self._audit if gateway else None)
        if "nodeName" not in pod["spec"]:
            target = {"apiVersion": "v1", "kind": "Node", "name": NODE}
            binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": local.name}, "target": target}
            self._rest("POST", f"{local.path}/binding", binding)
        self._pods[uid] = local
        return local

    def _end(self, uid: str, pod: dict[str, Any]) -> None:
        local = self._pods.pop(uid, None)
        if local:
            local.process.stop(signal.SIGTERM, timeout=10)
        path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"
        self._rest("DELETE", path, {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}})

    def _mounted(self, pod: LocalPod) -> bool:
        """Bring every volume up to date; False while a Secret that must be there is missing."""
        complete = True
        for target, volume, sub in pod.mounts():
            if "secret" in volume:
                complete &= self._write_secret(pod, target, volume["secret"])
            elif "projected" in volume:
                self._write_projected(pod, target, volume["projected"]["sources"])
            elif not target.exists():
                self._link(pod, target, volume, sub)
        return complete

    def _write_secret(self, pod: LocalPod, target: Path, source: dict[str, Any]) -> bool:
        try:
            secret = self._rest("GET", f"/api/v1/namespaces/{pod.namespace}/secrets/{source['secretName']}")
        except Refused as error:
            if error.code != 404:
                raise
            target.mkdir(parents=True, exist_ok=True)
            return bool(source.get("optional"))
        _publish(target, _files(secret, source), secret["metadata"]["resourceVersion"])
        return True

    def _write_projected(self, pod: LocalPod, target: Path, sources: list[dict[str, Any]]) -> None:
        """Optional Secrets, in one folder. They carry the label of the Pods that mount them: one request finds them."""
        label = f"app.kubernetes.io/name%3D{pod.app}"
        found = self._rest("GET", f"/api/v1/namespaces/{pod.namespace}/secrets?labelSelector={label}")["items"]
        stored = {secret["metadata"]["name"]: secret for secret in found}
        files: dict[str, bytes] = {}
        versions = []
        for source in (source["secret"] for source in sources):
            assert source["optional"]
            if secret := stored.get(source["name"]):
                files |= _files(secret, source)
                versions.append(secret["metadata"]["resourceVersion"])
        target.mkdir(parents=True, exist_ok=True)
        if versions:
            _publish(target, files, hashlib.sha256("-".join(versions).encode()).hexdigest()[:16])

    def _link(self, pod: LocalPod, target: Path, volume: dict[str, Any], sub: str) -> None:
        if "hostPath" in volume and "bootstrap" in target.name:
            shutil.copytree(self._bootstrap, target)
            return
        if "hostPath" in volume and volume["name"] == "static":
            target.symlink_to(self._bootstrap.parent)
            return
        claim = volume.get("persistentVolumeClaim", {}).get("claimName")
        if claim or "hostPath" in volume:
            kept = self._folder / "kept" / (claim or volume["name"])
        else:
            kept = pod.folder / "volumes" / volume["name"]
        (kept / sub).mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(kept / sub)

    def _keep_running(self, pod: LocalPod) -> None:
        if pod.process.running or pod.name in self._held:
            return
        if pod.process.pid:
            pod.process.stop()
            pod.restarts += 1
        pod.process.start()

    def _tell(self, pod: LocalPod) -> None:
        self._say(pod, ready=pod.process.running and pod.probe())

    def _say(self, pod: LocalPod, *, ready: bool) -> None:
        if ready != pod.ready:
            self._rest("PATCH", f"{pod.path}/status", _pod_status(pod, ready), MERGE)
            pod.ready = ready

    def _heartbeat(self) -> None:
        now = datetime.now(UTC)
        if now.timestamp() - self._beat > 5:
            self._rest("PATCH", f"/api/v1/nodes/{NODE}/status", {"status": _node_status(now)}, MERGE)
            self._beat = now.timestamp()


def _says(pod: dict[str, Any], ready: bool | None) -> bool:
    """Whether the API server has the Pod as Ready, or as not."""
    conditions = pod.get("status", {}).get("conditions", ())
    return ("Ready", str(ready)) in [(entry["type"], entry["status"]) for entry in conditions]


def _files(secret: dict[str, Any], source: dict[str, Any]) -> dict[str, bytes]:
    """The files that a Secret becomes."""
    keys = {item["key"]: item["path"] for item in source.get("items", [])}
    data = {keys.get(key, key): value for key, value in secret.get("data", {}).items() if not keys or key in keys}
    return {name: base64.b64decode(value) for name, value in data.items()}


def _publish(target: Path, files: dict[str, bytes], version: str) -> None:
    """Write a Secret's volume as kubelet does: a folder a version, and one link that is switched."""
    current = target / f"..{version}"
    if current.exists():
        return
    current.mkdir(parents=True)
    for name, content in files.items():
        (current / name).write_bytes(content)
        link = target / name
        if not link.is_symlink():
            link.symlink_to(Path("..data") / name)
    fresh = target / "..data_tmp"
    fresh.symlink_to(current.name)
    fresh.rename(target / "..data")


def _node() -> dict[str, Any]:
    labels = {"kubernetes.io/hostname": NODE, "kubernetes.io/os": "linux", "node-role.kubernetes.io/control-plane": ""}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE, "labels": labels}}


def _node_status(now: datetime) -> dict[str, Any]:
    stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    ready = {"type": "Ready", "status": "True", "reason": "LocalKubelet", "message": "processes of this machine",
             "lastHeartbeatTime": stamp, "lastTransitionTime": stamp}  # fmt: skip
    capacity = {"cpu": "64", "memory": "256Gi", "pods": "1000"}
    return {"conditions": [ready], "capacity": capacity, "allocatable": capacity}


def _pod_status(pod: LocalPod, ready: bool) -> dict[str, Any]:
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    state = "True" if ready else "False"
    kinds = ("PodScheduled", "Initialized", "ContainersReady", "Ready")
    conditions = [
        {"type": kind, "status": "True" if kind in kinds[:2] else state, "lastTransitionTime": stamp} for kind in kinds
    ]
    container = {"name": "main", "ready": ready, "restartCount": pod.restarts, "image": "local", "imageID": "",
                 "state": {"running": {"startedAt": stamp}}}  # fmt: skip
    return {
        "status": {
            "phase": "Running",
            "podIP": pod.address,
            "podIPs": [{"ip": pod.address}],
            "hostIP": pod.address,
            "startTime": stamp,
            "conditions": conditions,
            "containerStatuses": [container],
        }
    }
