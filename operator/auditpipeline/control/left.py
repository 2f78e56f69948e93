"""Claims of Pods that are gone because spec.webhook.replicas was lowered: what waited in their spools is stored, was
answered with 200, and is delivered by nobody until there are as many Pods again.

They are looked for once in a process, after each change of the number, and while there are any. How much waited, only
the last report of the Pod tells.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from auditpipeline.control import names
from auditpipeline.control.facts import Left
from auditpipeline.control.names import number_of
from auditpipeline.control.resources import CLAIMS

if TYPE_CHECKING:
    from auditpipeline.control.rounds import Round
    from auditpipeline.core.report import Report


@dataclass
class LeftState:
    """What is known of one pipeline: the claims that were found `at` a time, for so many replicas, and how many events
    of Guaranteed outputs waited in each Pod that went."""

    replicas: int = 0
    at: float = 0.0
    claims: tuple[str, ...] = ()
    waited: dict[str, int] = field(default_factory=dict)

    def gone(self, pod: str, report: Report, guaranteed: frozenset[str]) -> None:
        """A Pod is no longer wanted; what it said last."""
        self.waited[pod] = sum(output.pending for output in report.outputs if output.name in guaranteed)


async def find_left(this: Round, state: LeftState) -> None:
    """Note the claims that are left in the facts."""
    webhook, now, resync = this.pipeline.spec.webhook, this.facts.now.timestamp(), this.world.settings.resync
    if webhook.storage.ephemeral:
        return
    if state.replicas != webhook.replicas or (state.claims and now - state.at >= resync):
        prefix = f"data-{names.child(this.name)}-"
        state.claims = tuple(
            sorted(
                [
                    str(claim["metadata"]["name"])
                    async for claim in this.world.kube.list(CLAIMS, this.namespace, f"{names.PIPELINE}={this.name}")
                    if "deletionTimestamp" not in claim["metadata"]
                    and number_of(claim["metadata"]["name"], prefix) >= webhook.replicas
                ]
            )
        )
        state.replicas, state.at = webhook.replicas, now
    if state.claims:
        this.look_again(resync)
    this.facts.left = [Left(claim, state.waited.get(claim.removeprefix("data-"), 0)) for claim in state.claims]
