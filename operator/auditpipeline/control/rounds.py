"""One round of one pipeline: what its steps share, and how one of them ends it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from auditpipeline.control import names
from auditpipeline.control.facts import Facts, PodFacts, Problem
from auditpipeline.control.names import number_of
from auditpipeline.control.placing import namespace_of
from auditpipeline.control.published import PipelineStatus, conditions
from auditpipeline.control.seen import Key
from auditpipeline.control.world import World
from auditpipeline.core.redaction.model import DEFAULT
from auditpipeline.core.spec import MAX_REPLICAS, Pipeline
from auditpipeline.core.unknown import paths

if TYPE_CHECKING:
    from auditpipeline.control.generation import Accepted
    from auditpipeline.control.rendering import Rendered

PLACE_RETRY, SETTLING = 10.0, 0.5
"""Seconds until the next look: where a namespace or a permission is missing, and while something settles."""


class Halt(Exception):
    """The round ends here; `again` is the number of seconds until the next look."""

    def __init__(self, reason: str, message: str, *, stalled: bool, again: float | None = None) -> None:
        super().__init__(message)
        self.problem = Problem(reason, message)
        self.stalled = stalled
        self.again = again


@dataclass
class Round:
    """One round for one pipeline. `pipeline` is set by the first step; `again` is the earliest next look wanted;
    `previous` is the status that was stored before; `is_placed`: the target namespace is one that this operator
    serves. `accepted` is the generation in force, `pipeline` its value; the keys in `held` were refused, and are left
    as they are."""

    world: World
    body: dict[str, Any]
    facts: Facts
    previous: PipelineStatus = field(default_factory=PipelineStatus)
    again: float | None = None
    parsed: Pipeline | None = None
    is_placed: bool = False
    versions: list[str] = field(default_factory=list)
    kept: set[Key] = field(default_factory=set)
    accepted: Accepted | None = None
    held: frozenset[Key] = frozenset()
    rendered: Rendered | None = None
    placed: str | None = None

    @property
    def pipeline(self) -> Pipeline:
        """The parsed pipeline."""
        if self.parsed is None:
            raise RuntimeError("parse has to be the first step")
        return self.parsed

    @property
    def name(self) -> str:
        """The pipeline's name."""
        return str(self.body["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """The namespace of the children: the same one for the whole round."""
        if self.placed is None:
            self.placed = namespace_of(self.pipeline, self.world.settings, self.world.seen)
        return self.placed

    @property
    def is_known(self) -> bool:
        """Whether the stored status says of this generation whether it is Ready."""
        ready = conditions(self.previous).get("Ready")
        return ready is not None and ready.observed_generation == self.facts.generation

    def was_true(self, kind: str) -> bool:
        """Whether the stored status says of this generation that a condition is True."""
        found = conditions(self.previous).get(kind)
        return found is not None and (found.status, found.observed_generation) == ("True", self.facts.generation)

    @property
    def is_former(self) -> bool:
        """Whether a former generation is in force."""
        return self.accepted is not None and self.accepted.generation != self.facts.generation

    def take(self, pipeline: Pipeline) -> None:
        """Work with this value of the pipeline."""
        self.parsed, self.placed = pipeline, None
        self.facts.outputs = tuple(output.name for output in pipeline.spec.outputs)
        self.facts.suspended = pipeline.spec.suspend
        self.facts.redaction = pipeline.spec.redaction or DEFAULT
        self.facts.conditional = pipeline.spec.is_conditional
        note = f"this release does not know {paths(pipeline.ignored)} and leaves it aside: upgrade the operator"
        if pipeline.ignored and note not in self.facts.notes:
            self.facts.notes.append(note)

    def look_again(self, seconds: float) -> None:
        """Ask for another look in `seconds`, or sooner."""
        self.again = seconds if self.again is None else min(self.again, seconds)

    def pods(self) -> list[PodFacts]:
        """The receivers in the target namespace, by their names: anybody there may put our label on any number."""
        prefix = f"{names.child(self.name)}-"
        found = [pod for pod in self.world.seen.pods(self.name) if pod.namespace == self.namespace]
        return [pod for pod in found if 0 <= number_of(pod.name, prefix) < MAX_REPLICAS]
