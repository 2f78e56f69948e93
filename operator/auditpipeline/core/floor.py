"""The floor: changes to auditing itself are always audited, whatever a policy says.

    AuditPipeline: the policy, and that of each output  --with_floor-->  what decides
    static policy of kube-apiserver                     --union------->  the floor and what the pipelines want

Every AuditPipeline has the floor before its first rule, and so has the policy of each of its outputs: a policy that
records nothing, or an output that narrows to nothing, still gets who created, changed or deleted an AuditPipeline or an
AuditSink, with the bodies, when it is done (or panics). Only the stages before that can be left out, by the policy's
own `omitStages`. AuditSinks that somebody wrote by hand are taken at their word.
"""

from __future__ import annotations

import msgspec

from auditpipeline.core.policy import GroupResources, Level, Policy, Rule, widest

FLOOR = Rule(
    level="RequestResponse",
    verbs=("create", "update", "patch", "delete", "deletecollection"),
    resources=(
        GroupResources("auditpipeline.dev", ("auditpipelines",)),
        GroupResources("auditregistration.k8s.io", ("auditsinks",)),
    ),
)
FINAL_STAGES = ("ResponseComplete", "Panic")
"""The stages that end a request; the floor is heard in them."""


def with_floor(policy: Policy) -> Policy:
    """The policy with the floor as its first rule, which may stand there already. The rest decides as before."""
    return with_first(FLOOR, policy)


def with_first(rule: Rule, policy: Policy) -> Policy:
    """The policy with `rule` as its first rule, which may stand there already, heard when a request ends.

    Where the policy leaves a final stage out of every rule, that is written into each rule but the first: the rest
    decides as before.
    """
    rest = policy.rules[1:] if policy.rules[:1] == (rule,) else policy.rules
    pushed = tuple(stage for stage in policy.omit_stages if stage in FINAL_STAGES)
    if pushed:
        rest = tuple(
            msgspec.structs.replace(own, omit_stages=tuple(dict.fromkeys((*own.omit_stages, *pushed)))) for own in rest
        )
    kept = tuple(stage for stage in policy.omit_stages if stage not in FINAL_STAGES)
    return msgspec.structs.replace(policy, rules=(rule, *rest), omit_stages=kept)


def has_floor(policy: Policy) -> bool:
    """Whether the policy's first rule is the floor, as in the presets."""
    return policy.rules[:1] == (FLOOR,)


def level_without_rules(policy: Policy) -> Level:
    """The level to ask for where no rules can be sent along (kube-apiserver up to 1.18).

    Not that of the floor, which would be the bodies of all events; but never None, with which the floor would get
    nothing.
    """
    rest = msgspec.structs.replace(policy, rules=tuple(rule for rule in policy.rules if rule != FLOOR))
    return max(widest(rest), Level.METADATA)
