"""Volumes for a single node: each pending claim of the node's StorageClass gets a directory of the run.

Promises: a claim is bound within about a second; the volume is a `local` one, so that fsGroup works as it does with a
cloud's disks; a deleted claim's volume and data are deleted. It is what local-path-provisioner is to kind.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .processes import Failed, piped, run

_FIELDS = (
    "type",
    "object.metadata.namespace",
    "object.metadata.name",
    "object.metadata.uid",
    "object.status.phase",
    "object.spec.storageClassName",
    "object.spec.resources.requests.storage",
    "object.spec.accessModes[*]",
)
# Not separated by tabs, because kubectl makes spaces of those.
_WATCH = [
    *["get", "persistentvolumeclaims", "--all-namespaces", "--watch", "--output-watch-events"],
    *["-o", "jsonpath=" + "|".join(f"{{.{field}}}" for field in _FIELDS) + r'{"\n"}'],
]


@dataclass(frozen=True)
class Claim:
    """One change of a PersistentVolumeClaim."""

    change: str
    namespace: str
    name: str
    uid: str
    phase: str
    storage_class: str
    size: str
    access_modes: str

    @property
    def volume(self) -> str:
        """The name of its volume, as provisioners name it."""
        return f"pvc-{self.uid}"


class Volumes:
    """Watches claims in a thread of its own, from `start()` to `stop()`.

    `command` makes the command line of one kubectl call out of its arguments.
    """

    def __init__(self, folder: Path, storage_class: str, node: str, command: Callable[..., list[str]]) -> None:
        self._folder = folder
        self._storage_class = storage_class
        self._node = node
        self._command = command
        self._stopped = threading.Event()
        self._watch: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._serve, name="volumes", daemon=True)

    def start(self) -> None:
        """Begin to bind claims, those that are already there included."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching; volumes stay."""
        self._stopped.set()
        if self._watch:
            self._watch.kill()
        if self._thread.is_alive():
            self._thread.join()

    def _serve(self) -> None:
        # A watch ends when kube-apiserver restarts; the next one begins with every claim there is.
        while not self._stopped.is_set():
            self._watch = piped(self._command(*_WATCH))
            with self._watch as watch:
                for line in watch.stdout or ():
                    self._follow(Claim(*line.rstrip("\n").split("|")))
            self._stopped.wait(0.5)

    def _follow(self, claim: Claim) -> None:
        if claim.storage_class != self._storage_class:
            return
        try:
            if claim.change == "DELETED":
                run(self._command("delete", "persistentvolume", claim.volume, "--ignore-not-found", "--wait=false"))
                shutil.rmtree(self._folder / claim.volume, ignore_errors=True)
            elif claim.phase == "Pending":
                folder = self._folder / claim.volume
                folder.mkdir(parents=True, exist_ok=True)
                folder.chmod(0o777)
                volume = json.dumps(_volume(claim, folder, self._node))
                run(self._command("apply", "--server-side", "-f", "-"), stdin=volume)
        except Failed:
            # kube-apiserver is away: the watch ends too, and the next one shows the claim again.
            if self._watch:
                self._watch.kill()


def _volume(claim: Claim, folder: Path, node: str) -> dict[str, object]:
    hostname = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": claim.volume},
        "spec": {
            "storageClassName": claim.storage_class,
            "capacity": {"storage": claim.size},
            "accessModes": claim.access_modes.split(),
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": claim.namespace,
                "name": claim.name,
                "uid": claim.uid,
            },
            "local": {"path": str(folder)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [hostname]}]}},
        },
    }
