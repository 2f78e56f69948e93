"""Claims that are smaller than `spec.webhook.storage.size` asks for: a StatefulSet gives a new size to new claims only.

    claims of the Pods that are wanted --> smaller ones are expanded, if their StorageClass allows it
                                       --> the smallest volume there is, which the spool's limit follows

A claim's volume has the size in `status.capacity`, and before it is bound the size that it asks for. Claims are looked
at once in a process, after each change of the size or of the number of Pods, and while one of them is too small. An
emptyDir has the size of its Pod, which is replaced for a new one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from auditpipeline.control import names
from auditpipeline.control.kube import Forbidden
from auditpipeline.control.names import number_of
from auditpipeline.control.resources import CLAIMS, STORAGE_CLASSES
from auditpipeline.core.errors import Invalid
from auditpipeline.core.quantity import parse_bytes

if TYPE_CHECKING:
    from auditpipeline.control.rounds import Round

log = structlog.get_logger()

CLAIM_RETRY = 10.0
"""Seconds between two looks at claims that are too small."""


@dataclass
class ClaimState:
    """The state of one pipeline: its claims, which StorageClasses of those that are too small allow expansion, for
    which sizes and numbers of Pods they were looked at (a generation that is refused, and the last good one), and
    when."""

    claims: list[Claim] = field(default_factory=list)
    growing: frozenset[str] = frozenset()
    looked: deque[tuple[str, int]] = field(default_factory=lambda: deque(maxlen=2))
    at: float = 0.0

    def of(self, replicas: int) -> list[Claim]:
        """The claims of the Pods that are wanted."""
        return [claim for claim in self.claims if 0 <= claim.number < replicas]


class Claim(NamedTuple):
    """One claim, of the Pod of that number; sizes in bytes."""

    name: str
    number: int
    storage_class: str
    asked: int
    size: int
    bound: bool


async def smallest_volume(this: Round) -> int | None:
    """Bytes of the smallest volume that the receivers have; None if they have none yet."""
    webhook = this.pipeline.spec.webhook
    if webhook.storage.ephemeral:
        # A Pod that is yet to be replaced has the size of before: kubelet evicts it if it takes more.
        return min((parse_bytes(pod.room, pod.name) for pod in this.pods() if pod.room), default=None)
    state = await _known(this)
    return min((claim.size for claim in state.of(webhook.replicas)), default=None)


async def expand_claims(this: Round) -> None:
    """Claims that are too small ask for more, if their StorageClass allows it; the facts note what becomes of them."""
    storage = this.pipeline.spec.webhook.storage
    if storage.ephemeral:
        return
    state = await _known(this)
    small = _small(this, state)
    for claim in small:
        if claim.storage_class in state.growing and claim.bound and claim.asked < _wanted(this):
            await _expand(this, claim, storage.size)
            asking = claim._replace(asked=_wanted(this))
            state.claims = [asking if known is claim else known for known in state.claims]
    if small:
        this.facts.notes.append(_note(small, storage.size, state.growing))
        this.look_again(CLAIM_RETRY)


async def _known(this: Round) -> ClaimState:
    """The known claims, looked at again if they may have changed."""
    webhook, now = this.pipeline.spec.webhook, this.facts.now.timestamp()
    state, wanted = this.world.claims.setdefault(this.name, ClaimState()), (webhook.storage.size, webhook.replicas)
    if wanted not in state.looked or (_small(this, state) and now - state.at >= CLAIM_RETRY):
        state.claims, state.at = await _claims(this), now
        kinds = {claim.storage_class for claim in _small(this, state)}
        state.growing = frozenset([kind for kind in kinds if await _allows_expansion(this, kind)])
        if wanted not in state.looked:
            state.looked.append(wanted)
    return state


def _wanted(this: Round) -> int:
    return parse_bytes(this.pipeline.spec.webhook.storage.size, "spec.webhook.storage.size")


def _small(this: Round, state: ClaimState) -> list[Claim]:
    return [claim for claim in state.of(this.pipeline.spec.webhook.replicas) if claim.size < _wanted(this)]


async def _claims(this: Round) -> list[Claim]:
    prefix = f"data-{names.child(this.name)}-"
    return [
        _parsed(body, prefix)
        async for body in this.world.kube.list(CLAIMS, this.namespace, f"{names.PIPELINE}={this.name}")
        if "deletionTimestamp" not in body["metadata"]
    ]


def _parsed(body: dict[str, Any], prefix: str) -> Claim:
    name, spec, status = body["metadata"]["name"], body["spec"], body.get("status", {})
    asked = parse_bytes(str(spec["resources"]["requests"]["storage"]), f"claim {name}")
    capacity = status.get("capacity", {}).get("storage")
    size = parse_bytes(str(capacity), f"claim {name}") if capacity else asked
    bound = status.get("phase") == "Bound"
    return Claim(name, number_of(name, prefix), spec.get("storageClassName") or "", asked, size, bound)


async def _allows_expansion(this: Round, kind: str) -> bool:
    try:
        found = await this.world.kube.get(STORAGE_CLASSES, kind) if kind else None
    except Forbidden:
        return False
    return bool(found and found.get("allowVolumeExpansion"))


async def _expand(this: Round, claim: Claim, size: str) -> None:
    change = {"spec": {"resources": {"requests": {"storage": size}}}}
    try:
        await this.world.kube.patch(CLAIMS, claim.name, change, this.namespace)
    except (Forbidden, Invalid) as error:
        log.warning("claim not expanded", pipeline=this.name, claim=claim.name, error=str(error))
    else:
        log.info("claim expanded", pipeline=this.name, claim=claim.name, size=size)


def _note(small: Iterable[Claim], size: str, growing: Collection[str]) -> str:
    """A sentence about claims that are too small, with what to do."""
    some = list(small)
    fixed = [claim for claim in some if claim.storage_class not in growing]
    if not some:
        return ""
    claims = ", ".join(sorted(claim.name for claim in fixed or some))
    said = f"claim {claims} is smaller than spec.webhook.storage.size ({size}), which limits the spool to what is there"
    if not fixed:
        return f"{said} until it is expanded: `kubectl describe pvc` says how far that is"
    kinds = ", ".join(sorted({claim.storage_class for claim in fixed} - {""}))
    what = f"StorageClass {kinds} does not allow expansion" if kinds else "without a StorageClass it cannot grow"
    return (
        f"{said}: {what}. Set allowVolumeExpansion: true on the StorageClass if its driver can expand volumes, or "
        "delete the claim and then its Pod once nothing waits there"
    )
