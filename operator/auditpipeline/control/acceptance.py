"""A new generation is dry-run whole before anything of it is applied: all children and the AuditSink, or nothing.

    generation and inputs as accepted     nothing to do
    every dry run succeeds                accepted: applied from now on, and kept as the last good one
    one is refused                        the last good one stays in force (`accepted.fall_back`), Stalled beside it

`inputs` is what the operator makes of a generation. If only that is new (another image) and refused, there is no former
one to go back to: what was refused is left as it is, and the rest is applied.
"""

from __future__ import annotations

from typing import NamedTuple

from auditpipeline.control.accepted import fall_back, recall
from auditpipeline.control.desired import Manifest
from auditpipeline.control.facts import Problem
from auditpipeline.control.generation import Accepted, inputs
from auditpipeline.control.kube import Forbidden, NoDryRun, NotFound, Refused
from auditpipeline.control.ownership import NameTaken
from auditpipeline.control.rendering import rendered
from auditpipeline.control.resources import STATEFULSETS
from auditpipeline.control.rounds import Round
from auditpipeline.control.seen import Key
from auditpipeline.control.steps import forbidden, namespace_exists
from auditpipeline.control.world import rehearse, wanted_of
from auditpipeline.core.errors import Invalid

RETRY = 30.0
"""Seconds until a generation that was refused is dry-run again: a quota or a policy of the cluster may have changed."""
_FIXED = ("updates to statefulset spec", "volumeClaimTemplates")
"""How API servers say that a field of a StatefulSet cannot be changed, before 1.37 and from then on."""


class Refusal(NamedTuple):
    """What was refused of a generation, and when, in seconds since the epoch."""

    refused: Accepted
    problems: dict[Key, Problem]
    at: float


async def accept(this: Round) -> None:
    """The generation is one that was accepted: the newest, or the last good one."""
    if this.accepted:  # the newest cannot even be parsed
        return
    try:
        manifests = (await rendered(this)).manifests
    except Forbidden as error:
        await forbidden(this, error)
        raise
    except Invalid as error:
        await fall_back(this, Problem("InvalidSpec", str(error)))
        return
    meta = this.body["metadata"]
    wanted = Accepted(meta["uid"], this.facts.generation, inputs(this.facts.generation, manifests), this.body["spec"])
    known = await recall(this)
    if known and (known.generation, known.inputs) == (wanted.generation, wanted.inputs):
        this.accepted = known
        return
    refusal = await _refusal(this, wanted, manifests)
    if refusal.problems:
        await _refuse(this, refusal, known)
        return
    this.world.refusals.pop(this.name, None)
    this.world.accepted[this.name] = this.accepted = wanted


async def _refuse(this: Round, refusal: Refusal, known: Accepted | None) -> None:
    problem, again = next(iter(refusal.problems.values())), refusal.at + RETRY - this.facts.now.timestamp()
    if known is None or known.generation != refusal.refused.generation:
        await fall_back(this, problem, again=again)
        return
    this.facts.stalled, this.accepted, this.held = problem, known, frozenset(refusal.problems)
    this.look_again(again)


async def _refusal(this: Round, wanted: Accepted, manifests: list[Manifest]) -> Refusal:
    """The refusals of `manifests`; asked once in RETRY seconds."""
    now, former = this.facts.now.timestamp(), this.world.refusals.get(this.name)
    if former and former.refused == wanted and now - former.at < RETRY:
        return former
    found = Refusal(wanted, await _problems(this, manifests), now)
    if found.problems:
        this.world.refusals[this.name] = found
    return found


async def _problems(this: Round, manifests: list[Manifest]) -> dict[Key, Problem]:
    found = {}
    for manifest in manifests:
        try:
            problem = await _problem(this, manifest)
        except NotFound:
            await namespace_exists(this)
            raise
        except Forbidden as error:
            await forbidden(this, error)
            raise
        if problem:
            found[wanted_of(this.world, manifest).key] = problem
    return found


async def _problem(this: Round, manifest: Manifest) -> Problem | None:
    """Why an object is refused, in Kubernetes' words; None if it is not, or if nobody can know."""
    try:
        await rehearse(this.world, manifest)
    except NoDryRun:
        return None
    except NameTaken as error:
        return Problem("NameTaken", str(error))
    except (Invalid, Refused) as error:
        if manifest["kind"] == STATEFULSETS.kind and is_fixed(error):
            return await _anew(this, manifest)
        return Problem("InvalidSpec", str(error))
    return None


async def _anew(this: Round, manifest: Manifest) -> Problem | None:
    """Why a StatefulSet that is to be made again around its Pods would be refused. The old one has the name yet."""
    name, template = f"{manifest['metadata']['name']}-new", manifest["spec"]["template"]
    # The admission policy of the installation asks that both have one name.
    pod = {**template, "spec": {**template["spec"], "serviceAccountName": name}}
    other = {
        **manifest,
        "metadata": {**manifest["metadata"], "name": name},
        "spec": {**manifest["spec"], "template": pod},
    }
    try:
        await rehearse(this.world, other)
    except (NoDryRun, NameTaken):  # somebody else may well have an object of a name that is never applied
        return None
    except (Invalid, Refused) as error:
        return Problem("InvalidSpec", str(error))
    return None


def is_fixed(error: Exception) -> bool:
    """Whether an API server refuses to change a field of a StatefulSet that can only be set when it is made."""
    return any(sign in str(error) for sign in _FIXED)
