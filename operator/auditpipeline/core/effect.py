"""What a rule makes of the requests that it decides, and when one effect records at least what another does."""

from __future__ import annotations

from typing import NamedTuple

from auditpipeline.core.policy import STAGES, Level, Policy, decision_of


class Effect(NamedTuple):
    """A level, the stages that are left out, whether bodies lose managedFields, and the response codes left out.

    A level of None and a rule that leaves out every stage record the same: NOTHING.
    """

    level: Level
    omit_stages: frozenset[str]
    omit_managed_fields: bool
    omit_codes: frozenset[int]


NOTHING = Effect(Level.NONE, frozenset(), False, frozenset())


def effect_of(policy: Policy, rule: int | None) -> Effect:
    """What the policy's rule of that index does; None: where no rule matches."""
    decision = decision_of(policy, rule)
    stages = decision.omit_stages & frozenset(STAGES)
    if decision.level is Level.NONE or len(stages) == len(STAGES):
        return NOTHING
    managed = decision.omit_managed_fields and decision.level >= Level.REQUEST
    codes = policy.rules[rule].omit_response_codes if rule is not None else ()
    return Effect(decision.level, stages, managed, frozenset(codes))


def join(one: Effect, other: Effect) -> Effect:
    """The least effect that records at least what each of the two does."""
    if one.level is Level.NONE or other.level is Level.NONE:
        return max(one, other, key=lambda effect: effect.level)
    with_bodies = [effect for effect in (one, other) if effect.level >= Level.REQUEST]
    return Effect(
        max(one.level, other.level),
        one.omit_stages & other.omit_stages,
        bool(with_bodies) and all(effect.omit_managed_fields for effect in with_bodies),
        one.omit_codes & other.omit_codes,
    )


def shortfall(have: Effect, want: Effect) -> str:
    """Why the one does not record what the other wants; empty where it does."""
    if have.level < want.level:
        return f"recorded at {have.level.title}, wanted at {want.level.title}"
    if want.level is Level.NONE:
        return ""
    if missing := sorted(have.omit_stages - want.omit_stages, key=STAGES.index):
        return f"without {', '.join(missing)}"
    if want.level >= Level.REQUEST and have.omit_managed_fields and not want.omit_managed_fields:
        return "recorded without managedFields"
    if codes := sorted(have.omit_codes - want.omit_codes):
        return f"without responses {', '.join(map(str, codes))}"
    return ""
