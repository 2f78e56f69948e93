"""The floor: changes to auditing itself are always audited, whatever a policy says.

With the floor first, a change to an AuditPipeline or AuditSink is recorded with its bodies when it is done (or panics);
only the stages before that can be left out by the policy's own `omitStages`.
"""

from __future__ import annotations

import msgspec

from auditpipeline.core.policy import GroupResources, Policy, Rule

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
    """The policy with the floor as its first rule. The rest decides as before."""
    return with_first(FLOOR, policy)


def with_first(rule: Rule, policy: Policy) -> Policy:
    """The policy with `rule` before its own rules, heard when a request ends. The rest decides as before.

    What the policy leaves out of every rule is written into each one where the first must not lose it.
    """
    if policy.rules[:1] == (rule,):
        return policy
    kept = tuple(stage for stage in policy.omit_stages if stage not in FINAL_STAGES)
    pushed = tuple(stage for stage in policy.omit_stages if stage in FINAL_STAGES)
    rules = tuple(
        msgspec.structs.replace(own, omit_stages=tuple(dict.fromkeys((*own.omit_stages, *pushed))))
        for own in policy.rules
    )
    return msgspec.structs.replace(policy, rules=(rule, *rules), omit_stages=kept)
