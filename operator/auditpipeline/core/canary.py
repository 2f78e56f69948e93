"""The canary: a request that means nothing, made so that its audit event can be looked for at the other end.

    GET /auditpipeline-canary/SOURCE/ID     SOURCE: which API server was asked, ID: which of the requests it was

There is nothing at that path, so that it is answered with 404 (403 where RBAC does not know it), and audited as any
other request. CANARY is the rule that the static policy has for it.
"""

from __future__ import annotations

from auditpipeline.core.policy import Attributes, Level, Policy, Rule, decide

PATH = "/auditpipeline-canary/"
CANARY = Rule(level="Metadata", verbs=("get",), non_resource_urls=(f"{PATH}*",))
CANARY_POLICY = Policy((CANARY,), omit_stages=("RequestReceived", "ResponseStarted"))
"""What the canary asks of the static policy: one event a request, when it is done."""


def path_of(source: str, number: str) -> str:
    """The path of one canary."""
    return f"{PATH}{source}/{number}"


def emitted(static: Policy) -> bool:
    """Whether an API server with this static policy emits the canary's events, whoever asks."""
    decision = decide(static, Attributes("operator", ("system:authenticated",), "get", path_of("x", "0")))
    return decision.level >= Level.METADATA and "ResponseComplete" not in decision.omit_stages
