"""What the controller has seen of the objects that it makes: a fingerprint and a few facts of each, never a body.

    watch events, pages of a resync, answers to our own writes  -->  Entry  -->  Seen

A *fingerprint* names everything of an object that a user or we can write: the body without status, managedFields and
what changes with every write; of what we make, also without annotations and labels of others, which are left to them.
The annotation that says what is redacted counts, as it decides what an AuditSink gets. If the fingerprint is the one
that our last apply left, nothing has drifted. Secrets are fingerprinted too; their content is not kept.

Lists, watches and answers tell of the same object out of order. Between two of them that are on their way at the same
time the resource version decides, which grows with every write of a kind, also over an object that is deleted and made
again. What was deleted is remembered for a while, or a page of a list that was begun before would bring it back.

A list knows all that was answered before it was asked for. It replaces that, whatever the versions: they order one
*history*, and etcd restored from a snapshot begins another one, with lower versions. A list that is older than what
was heard before it proves that. Then nothing that is known has an order any more (`rewind`), and what a watch of the
former history still tells is left aside by whoever watches.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from auditpipeline.control import names
from auditpipeline.control.facts import PodFacts, Problem, Workload
from auditpipeline.control.ownership import controller, managed, owner
from auditpipeline.control.resources import PIPELINES

Key = tuple[str, str, str]
"""Plural, namespace ("" for cluster-scoped kinds) and name."""
_BURIED = 4096
"""Deletions that are remembered: some 1 MB at most."""
_NOISE = ("managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink")


class Entry(NamedTuple):
    """One object as last seen. `owner` is the UID of the AuditPipeline that owns it; `managed` says whether it is an
    object of the operator's own. `facts` is a Workload, a PodFacts, or a Service's ClusterIP."""

    uid: str
    version: str
    fingerprint: str
    pipeline: str
    owner: str
    deleting: bool
    facts: Workload | PodFacts | str | None = None
    app: str = ""
    managed: bool = False

    @property
    def identity(self) -> tuple[str, str]:
        """Which object it is, and what it holds."""
        return self.uid, self.fingerprint

    def same(self, other: Entry | None) -> bool:
        """Whether nothing changed that anybody here looks at."""
        return other is not None and self._replace(version="") == other._replace(version="")


@dataclass
class Seen:
    """Entries by key, and keys by pipeline. `clock` counts changes, so that a list that was begun before one does not
    undo it. `buried` are the last deletions: the version of each, and its stamp. `heard` has the highest version that
    was heard of each kind in this history, which `history` counts."""

    entries: dict[Key, Entry] = field(default_factory=dict)
    stamps: dict[Key, int] = field(default_factory=dict)
    members: dict[str, set[Key]] = field(default_factory=dict)
    buried: dict[Key, tuple[str, int]] = field(default_factory=dict)
    heard: dict[str, str] = field(default_factory=dict)
    clock: int = 0
    history: int = 0

    def put(self, key: Key, entry: Entry) -> bool:
        """Keep `entry` unless a newer one of its name, or its deletion, is known; True where anything changed by it."""
        old, (deleted, _) = self.entries.get(key), self.buried.get(key, ("", 0))
        self.hear(key[0], entry.version)
        if (old and older(entry.version, old.version)) or older(entry.version, deleted, or_same=True):
            return False
        return self._keep(key, entry)

    def replace(self, key: Key, entry: Entry, since: int) -> bool:
        """Keep `entry` of a list begun at clock `since`, instead of all that was known then; True as for `put`."""
        if self.dropped(key, since):
            return False
        return self.put(key, entry) if self.stamps.get(key, 0) > since else self._keep(key, entry)

    def hear(self, plural: str, version: str) -> None:
        """Take in that the API server has spoken of this version of a kind."""
        if older(self.heard.get(plural, "0"), version):
            self.heard[plural] = version

    def rewind(self, version: str) -> None:
        """Another history has begun, which has come to `version`. What is known stays until anybody says otherwise;
        versions that lie in its future are of the former one, and order nothing."""
        self.history += 1
        self.heard.clear()
        for key, entry in self.entries.items():
            if older(version, entry.version):
                self.entries[key] = entry._replace(version="")
        self.buried = {key: ("" if older(version, at) else at, stamp) for key, (at, stamp) in self.buried.items()}

    def _keep(self, key: Key, entry: Entry) -> bool:
        old = self.entries.get(key)
        self.hear(key[0], entry.version)
        self.buried.pop(key, None)
        self.clock += 1
        self.entries[key] = entry
        self.stamps[key] = self.clock
        if old and old.pipeline != entry.pipeline:
            self._leave(key, old)
        self.members.setdefault(entry.pipeline, set()).add(key)
        return not entry.same(old)

    def drop(self, key: Key, uid: str = "", version: str = "") -> Entry | None:
        """Forget a deleted object, unless a newer one of its name is known already; what was known of it. `version` is
        that of the deletion; where it is not known, the UID tells."""
        old = self.entries.get(key)
        self.hear(key[0], version)
        if old and (older(version, old.version) if _comparable(version, old.version) else uid not in ("", old.uid)):
            return None
        self._bury(key, version or (old.version if old else ""))
        if old is None:
            return None
        self.stamps.pop(key, None)
        self._leave(key, old)
        return self.entries.pop(key)

    def dropped(self, key: Key, since: int) -> bool:
        """Whether it was deleted after clock `since`: what a list that was begun then says of it is over."""
        return self.buried.get(key, ("", 0))[1] > since

    def keep_only(
        self, plural: str, namespace: str, listed: Iterable[Key], since: int, version: str = ""
    ) -> list[tuple[Key, Entry]]:
        """Forget what a list begun at clock `since`, of that version, did not hold; what was known of it."""
        kept = set(listed)
        gone = [
            key
            for key in self.entries
            if key[:2] == (plural, namespace) and key not in kept and self.stamps[key] <= since
        ]
        return [(key, entry) for key in gone if (entry := self.drop(key, version=version))]

    def of(self, pipeline: str) -> dict[Key, Entry]:
        """Everything that carries the label of a pipeline."""
        return {key: self.entries[key] for key in self.members.get(pipeline, ())}

    def pods(self, pipeline: str) -> list[PodFacts]:
        """The Pods of a pipeline, by name."""
        return sorted(entry.facts for entry in self.of(pipeline).values() if isinstance(entry.facts, PodFacts))

    def _bury(self, key: Key, version: str) -> None:
        self.clock += 1
        self.buried.pop(key, None)
        self.buried[key] = (version, self.clock)
        if len(self.buried) > _BURIED:
            del self.buried[next(iter(self.buried))]

    def _leave(self, key: Key, entry: Entry) -> None:
        members = self.members.get(entry.pipeline, set())
        members.discard(key)
        if not members:
            self.members.pop(entry.pipeline, None)


def key_of(plural: str, body: Mapping[str, Any]) -> Key:
    """The key of an object."""
    meta = body["metadata"]
    return plural, sys.intern(meta.get("namespace", "")), sys.intern(meta["name"])


def entry_of(plural: str, body: Mapping[str, Any]) -> Entry:
    """What is kept of an object."""
    meta = body["metadata"]
    reference = owner(meta)
    return Entry(
        uid=meta.get("uid", ""),
        version=meta.get("resourceVersion", ""),
        # A Pod's body changes all the time and is never applied.
        fingerprint="" if plural == "pods" else fingerprint(body, whole=plural == PIPELINES.plural),
        # Interned: the same few strings for every child of a pipeline.
        pipeline=sys.intern(meta.get("labels", {}).get(names.PIPELINE, "")),
        owner=sys.intern(reference["uid"]) if reference else "",
        deleting="deletionTimestamp" in meta,
        facts=_facts(plural, body),
        app=sys.intern(meta.get("labels", {}).get(names.APP, "")),
        managed=managed(meta),
    )


def fingerprint(body: Mapping[str, Any], *, whole: bool = True) -> str:
    """The name of all that can be written of an object, but its status; unless it is to be `whole`, without annotations
    and labels of others, who may write them as they like."""
    meta = {key: value for key, value in body["metadata"].items() if key not in _NOISE}
    if not whole:
        labels = meta.get("labels") or {}
        meta["labels"] = {key: value for key, value in labels.items() if key in names.LABELS}
        redaction = (meta.pop("annotations", None) or {}).get(names.REDACTION)
        if redaction is not None:
            meta["annotations"] = {names.REDACTION: redaction}
    rest = {key: value for key, value in body.items() if key not in ("metadata", "status", "apiVersion", "kind")}
    encoded = msgspec.json.encode([meta, rest], order="deterministic")
    return hashlib.blake2b(encoded, digest_size=12).hexdigest()


def older(version: str, than: str, *, or_same: bool = False) -> bool:
    """Resource versions are numbers that grow (guaranteed from 1.35 on); where they are none, nothing is older."""
    return _comparable(version, than) and int(version) < int(than) + or_same


def _comparable(one: str, other: str) -> bool:
    return one.isdecimal() and other.isdecimal()


def _facts(plural: str, body: Mapping[str, Any]) -> Workload | PodFacts | str | None:
    if plural == "statefulsets":
        return _workload(body)
    if plural == "pods":
        return pod_facts(body)
    if plural == "services":
        return str(body.get("spec", {}).get("clusterIP", ""))
    return None


def _workload(body: Mapping[str, Any]) -> Workload:
    status, notes = body.get("status", {}), body["metadata"].get("annotations") or {}
    return Workload(
        wanted=body["spec"].get("replicas", 1),
        ready=status.get("readyReplicas", 0),
        updated=status.get("updatedReplicas", 0),
        observed=status.get("observedGeneration", 0) >= body["metadata"].get("generation", 0),
        release=notes.get(names.RELEASE, ""),
        shape=notes.get(names.SHAPE, ""),
    )


def pod_facts(body: Mapping[str, Any]) -> PodFacts:
    """What the controller looks at of a Pod."""
    meta, status = body["metadata"], body.get("status", {})
    states = {entry["type"]: entry for entry in status.get("conditions", ())}
    return PodFacts(
        name=meta["name"],
        namespace=meta.get("namespace", ""),
        uid=meta.get("uid", ""),
        ip=status.get("podIP", ""),
        running=status.get("phase") == "Running",
        ready=states.get("Ready", {}).get("status") == "True",
        deleting="deletionTimestamp" in meta,
        mounted=meta.get("annotations", {}).get(names.CONFIG, ""),
        problem=_pod_problem(meta["name"], status, states),
        node=(body.get("spec") or {}).get("nodeName") or "",
        controller=sys.intern(controller(meta)),
        room=_room((body.get("spec") or {}).get("volumes") or ()),
        created=_seconds(meta.get("creationTimestamp")),
        leaving=_seconds(meta.get("deletionTimestamp")) - (meta.get("deletionGracePeriodSeconds") or 0),
    )


def _seconds(stamp: str | None) -> float:
    """Seconds since the epoch; 0.0 if there is none."""
    return datetime.fromisoformat(stamp).timestamp() if stamp else 0.0


def _room(volumes: Iterable[Mapping[str, Any]]) -> str:
    found = [volume.get("emptyDir") or {} for volume in volumes if volume.get("name") == "data"]
    return sys.intern(str(found[0].get("sizeLimit", ""))) if found else ""


def _pod_problem(name: str, status: Mapping[str, Any], states: Mapping[str, Any]) -> Problem | None:
    scheduled = states.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        reason, message = scheduled.get("reason", "Unschedulable"), scheduled.get("message", "")
        return Problem(reason, f"Pod {name} has no node: {message}"[:512])
    for container in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
        waiting = container.get("state", {}).get("waiting") or {}
        if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            said = waiting.get("message", "see its log")
            return Problem(waiting["reason"], f"Pod {name} does not start: {said}"[:512])
    return None
