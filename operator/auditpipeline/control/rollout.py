"""How a change of the operator's own reaches the receivers: a few pipelines at a time. Pure, but for `turn`.

    a StatefulSet's annotations    release: what the operator brings into a StatefulSet, whatever the pipeline
                                   shape:   what the pipeline's user brings into it

    none there, or `shape` differs     applied at once: it is new, or its user changed it
    the same `release`                 applied at once: nothing of ours is new
    another `release`                  applied when it is its turn; until then it stays as it is, image and all

A release that wrote no annotations has made what the status of the pipeline says that it has observed; `turns` notes
the shape of that.

At most a tenth of the pipelines, and at least one, are restarted at a time. One holds its place until all of its Pods
are new and Ready, or for STUCK seconds: a broken one must not keep the others back for ever. Where Pods are missing
already, a restart would take away the last one: such pipelines come after all others.

Which pipelines are being restarted is seen by their StatefulSets when a process begins, so that it goes on where one
ended; its STUCK seconds begin anew. After that only those count that were given a turn: Pods that are missing for any
other reason, as their users may see to again and again, keep nobody from an upgrade. One Pod at a time is the
StatefulSet controller's promise (RollingUpdate), which begins with the highest ordinal and waits for each to be Ready.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import msgspec

from auditpipeline.control import desired, desired_pod, names
from auditpipeline.control.facts import Workload
from auditpipeline.control.resources import Features
from auditpipeline.control.settings import Settings
from auditpipeline.core.spec import Pipeline, parse_pipeline

SHARE = 10
"""One of so many pipelines is restarted at a time."""
STUCK = 600.0
PATIENCE = 15.0
"""Seconds that a pipeline with missing Pods lets others ask for their turn before it."""

_OUTPUTS: tuple[dict[str, Any], ...] = (
    {"name": "file", "file": {"path": "/var/log/audit/events.jsonl"}},
    {
        "name": "http",
        "http": {"url": "https://siem.example/", "bearerTokenSecretRef": {"name": "siem", "key": "token"}},
    },
)


def _reference(*, ephemeral: bool) -> Pipeline:
    spec = {
        "policy": {"rules": [{"level": "Metadata"}]},
        "outputs": list(_OUTPUTS),
        "webhook": {"storage": {"ephemeral": ephemeral}},
    }
    return parse_pipeline({"metadata": {"name": "reference", "uid": "0"}, "spec": spec})


_REFERENCES = (_reference(ephemeral=False), _reference(ephemeral=True))


@lru_cache(maxsize=4)
def release(settings: Settings, features: Features) -> str:
    """The name of all that this operator brings into a StatefulSet: its image, and what its code makes of one."""
    made = [desired_pod.statefulset(each, "reference", settings, features)["spec"] for each in _REFERENCES]
    return desired.digest({"made": made})


def shape(pipeline: Pipeline) -> str:
    """The name of all that a user says and that reaches the StatefulSet. What is not said does not count, so that a
    release with more fields gives the same name to a pipeline without them."""
    webhook = msgspec.to_builtins(pipeline.spec.webhook)
    webhook.pop("spool", None)  # the configuration's
    secrets = [f"{reference.name}/{reference.key}" for reference in desired_pod.secret_keys(pipeline)]
    return desired.digest({"webhook": webhook, "secrets": secrets, "folders": desired_pod.file_folders(pipeline)})


def marked(manifest: desired.Manifest, pipeline: Pipeline, own: str) -> desired.Manifest:
    """The manifest of a pipeline's StatefulSet with its annotations; `own` is the operator's `release`."""
    meta = manifest["metadata"]
    notes = meta.get("annotations", {}) | {names.RELEASE: own, names.SHAPE: shape(pipeline)}
    return manifest | {"metadata": meta | {"annotations": notes}}


def is_due(there: Workload, pipeline: Pipeline, own: str) -> bool:
    """Whether a StatefulSet differs from what is wanted by the operator's own part alone."""
    scaled = there.wanted != pipeline.spec.webhook.replicas
    return there.release != own and not scaled and there.shape == shape(pipeline)


def is_whole(there: Workload) -> bool:
    """Whether all of its Pods are there, new and Ready."""
    return there.observed and there.updated >= there.wanted and there.ready >= there.wanted


@dataclass
class Rollout:
    """Whose receivers are being restarted, and who waits. Times are seconds since the epoch.

    `rolling` says since when; `stuck` had their time, and may come again after all others; `waiting` have asked.
    `clean` are fingerprints of StatefulSets that wait and are as we left them; `begun`: what a former process had begun
    is known."""

    rolling: dict[str, float] = field(default_factory=dict)
    stuck: set[str] = field(default_factory=set)
    waiting: dict[str, float] = field(default_factory=dict)
    clean: dict[str, str] = field(default_factory=dict)
    begun: bool = False

    def admits(self, name: str, fleet: Mapping[str, Workload], own: str, now: float) -> bool:
        """Whether the StatefulSet of `name`, which is due, may be applied now. `fleet` are the StatefulSets of all
        pipelines."""
        self.settle(fleet, own, now)
        if name in self.rolling:
            return True
        self.waiting.setdefault(name, now)
        if not self._may(name, fleet, now):
            return False
        del self.waiting[name]
        self.rolling[name] = now
        return True

    def settle(self, fleet: Mapping[str, Workload], own: str, now: float) -> None:
        """Take in how the restarts go."""
        for name, there in () if self.begun else fleet.items():
            if there.release == own and not is_whole(there):
                self.rolling.setdefault(name, now)
        self.begun = True
        for name, since in list(self.rolling.items()):
            found = fleet.get(name)
            if found is None or (found.release == own and is_whole(found)):
                del self.rolling[name]
            elif now - since >= STUCK:
                del self.rolling[name]
                self.stuck.add(name)
        self.stuck = {name for name in self.stuck if name in fleet and not _is_done(fleet[name], own)}
        self.waiting = {name: at for name, at in self.waiting.items() if name in fleet and fleet[name].release != own}

    def upcoming(self, fleet: Mapping[str, Workload], now: float) -> list[str]:
        """The pipelines that wait and would be admitted if they asked now."""
        found = [name for name in self.waiting if self._may(name, fleet, now)]
        return found[: self._free(fleet)]

    def _may(self, name: str, fleet: Mapping[str, Workload], now: float) -> bool:
        if self._free(fleet) <= 0:
            return False
        if not self._is_last(name, fleet):
            return True
        others = any(not self._is_last(other, fleet) for other in self.waiting)
        return not others and now - self.waiting[name] >= PATIENCE

    def _free(self, fleet: Mapping[str, Workload]) -> int:
        return max(1, len(fleet) // SHARE) - len(self.rolling)

    def _is_last(self, name: str, fleet: Mapping[str, Workload]) -> bool:
        return name in self.stuck or name not in fleet or not is_whole(fleet[name])


def _is_done(there: Workload, own: str) -> bool:
    return there.release == own and is_whole(there)
